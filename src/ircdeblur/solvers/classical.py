"""Classical deconvolution: the Wiener filter, Richardson-Lucy, and least squares with a smooth Laplacian.

Baselines, each with settings that depend on the noise and were chosen on validation photographs by
``benchmarks/tune_baselines.py``. Results are not clipped to [0, 1].
"""

from __future__ import annotations

import math

import torch

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import difference, difference_adjoint
from ircdeblur.solvers.cg import conjugate_gradients
from ircdeblur.solvers.domain import MIN_NOISE, ExtendedDomain, Observation
from ircdeblur.solvers.filtering import TiledFilter, centred_response
from ircdeblur.solvers.fourier import FourierDivision, TiledFourierDivision, edgetaper, tile_kernels
from ircdeblur.solvers.irc import GRID_STEP

TINY = 1e-6
"""Least value of what Richardson-Lucy divides by."""

SEARCH_STEPS = 12
"""Steps of conjugate gradients for each weight that `laplacian` tries: 200 find the same weights."""

UNSEEN = 1e-4
"""Pixels around the frame that the observed ones depend on by less than this in all keep their first value."""


def check_arguments(
    y: torch.Tensor, blur: UniformBlur | MotionBlur, noise: float, mask: torch.Tensor | None = None
) -> None:
    """Refuse arguments that no solver can work with.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image.
    blur : UniformBlur or MotionBlur
        Must have the boundary "extended".
    noise : float
        Must be finite and >= 0.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observation counts, 0 where it does not.

    Raises
    ------
    ValueError
        If an argument is not as above, y has NaN or infinity, or the mask hides all of it.
    """
    if y.ndim != 4:
        raise ValueError(f"y must have size (B, C, H, W), got {tuple(y.shape)}")
    if not y.isfinite().all():
        raise ValueError("y contains NaN or infinity")
    if blur.boundary != "extended":
        raise ValueError(f"the blur must have the boundary 'extended', got {blur.boundary!r}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise must be finite and >= 0, got {noise}")
    if mask is None:
        return
    sizes = {(b, 1, *y.shape[-2:]) for b in (1, y.shape[0])}
    if tuple(mask.shape) not in sizes:
        raise ValueError(f"mask must have size (B or 1, 1, H, W) = {min(sizes)}, got {tuple(mask.shape)}")
    if not ((mask >= 0) & (mask <= 1)).all() or not mask.any():
        raise ValueError("mask must be in [0, 1], and not 0 everywhere")


@torch.no_grad()
def wiener(
    y: torch.Tensor,
    blur: UniformBlur | MotionBlur,
    noise: float,
    *,
    weight: float = 100.0,
    decay: float = 2.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Deconvolve with the Wiener filter conj(K) / (|K|^2 + weight noise^2 |w|^decay), w the angular frequency.

    Photographs have a power spectrum near |w|^-decay, so the last term is the noise-to-signal ratio. The image is
    continued by its rim and tapered; under a non-uniform blur it is divided into overlapping tiles, in each of which
    the blur is taken as uniform.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image in [0, 1].
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    noise : float
        Standard deviation of the noise in y.
    weight : float
        > 0. On validation photographs 80 to 130 are within 0.4 dB of the best at noise 0.4 %, 0.1 dB at 1 % and 3 %.
    decay : float
        Exponent of the power spectrum, >= 0; 0 is the filter with a constant ratio. 2, 2.5 and 3 come within 0.3 dB
        of one another, each with its best weight.
    mask : None
        A division of Fourier transforms uses all pixels: a mask is refused.

    Returns
    -------
    x : (B, C, H, W) tensor
        Sharp image.

    Raises
    ------
    ValueError
        If a mask is given or an argument is not as above.

    References
    ----------
    N. Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series", 1949.
    D. L. Ruderman and W. Bialek, "Statistics of natural images: scaling in the woods", Physical Review Letters 73,
    1994.
    """
    check_arguments(y, blur, noise)
    if mask is not None:
        raise ValueError("the Wiener filter cannot use a mask; use richardson_lucy or laplacian")
    if weight <= 0 or decay < 0:
        raise ValueError(f"weight must be > 0 and decay >= 0, got {weight} and {decay}")
    ratio = weight * max(noise, MIN_NOISE) ** 2

    def response(psf: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        blurred = centred_response(psf, size)
        across = torch.fft.rfftfreq(size[1], dtype=psf.dtype, device=psf.device) * (2 * torch.pi)
        down = torch.fft.fftfreq(size[0], dtype=psf.dtype, device=psf.device) * (2 * torch.pi)
        power = (down[:, None].square() + across.square()) ** (decay / 2)
        return blurred.conj() / (blurred.abs().square() + ratio * power)

    if isinstance(blur, UniformBlur):
        periodic = FourierDivision(y, blur, 1.0)
        spectrum = torch.fft.rfft2(periodic.start()) * response(periodic.psf, periodic.size)
        return periodic.crop(torch.fft.irfft2(spectrum, s=periodic.size))
    domain = ExtendedDomain(Observation(y), blur)
    start = domain.start()
    shape = (start.shape[-2], start.shape[-1])
    tile = TiledFilter.tile_for(TiledFourierDivision.CONTEXT, GRID_STEP)
    psf = tile_kernels(blur, shape, tile).to(y)
    responses = response(psf, (tile, tile))
    tiled = TiledFilter(responses[:, None], shape, tile, GRID_STEP, padding="replicate")
    # One channel of one image at a time: the tiles of all of them would be some 12 times the picture each.
    planes = [
        tiled.blend(torch.fft.rfft2(edgetaper(tiled.tiles(plane), psf)).mul_(responses))
        for plane in start.flatten(0, 1)[:, None, None]
    ]
    return domain.crop(torch.stack(planes).view_as(start))


def richardson_lucy_residual(noise: float) -> float:
    """Return the residual, root mean square, at which to end.

    It is below the noise: validation photographs were best at 0.7, 0.8 and 0.9 of it at 0.4 %, 1 % and 3 %.
    """
    sigma = max(noise, MIN_NOISE)
    return sigma * (1 - 0.018 / sigma**0.5)


def richardson_lucy_iterations(noise: float) -> int:
    """Return the most accelerated iterations for a noise: twice the number that is best for all pictures alike."""
    return max(2, round(0.4 * max(noise, MIN_NOISE) ** -0.83))


@torch.no_grad()
def richardson_lucy(
    y: torch.Tensor,
    blur: UniformBlur | MotionBlur,
    noise: float,
    *,
    residual: float | None = None,
    iterations: int | None = None,
    accelerate: bool = True,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Deconvolve by Richardson-Lucy: x <- x A'(m y / A x) / A' m, with the mask m.

    Expectation-maximisation for Poisson noise. The pixels around the frame that the blur has read are unknowns: A' m
    says how much of each unknown has been seen. Regularised by its early end alone, which is where the residual meets
    a rule fitted to the noise: up to 0.2 dB better than the best single number of iterations for all pictures.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image in [0, 1]; negative values count as 0.
    blur : UniformBlur or MotionBlur
        With the boundary "extended"; of non-negative kernels.
    noise : float
        Standard deviation of the noise in y; decides when to end.
    residual : float, optional
        End when the root mean square of A x - y is not above this, >= 0; by default `richardson_lucy_residual`. With
        0 all iterations are made.
    iterations : int, optional
        Most iterations, >= 1; by default `richardson_lucy_iterations`.
    accelerate : bool
        Extrapolate each step: two to five times fewer iterations for the same picture.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observed pixel counts, 0 where it is saturated.

    Returns
    -------
    x : (B, C, H, W) tensor
        Sharp image, not negative.

    Raises
    ------
    ValueError
        If an argument is not as above.

    References
    ----------
    W. H. Richardson, "Bayesian-based iterative method of image restoration", JOSA 62(1), 1972.
    D. S. C. Biggs and M. Andrews, "Acceleration of iterative image restoration algorithms", Applied Optics 36(8), 1997.
    """
    check_arguments(y, blur, noise, mask)
    enough = richardson_lucy_residual(noise) if residual is None else residual
    iterations = richardson_lucy_iterations(noise) if iterations is None else iterations
    if iterations < 1 or not enough >= 0:
        raise ValueError(f"iterations must be >= 1 and residual >= 0, got {iterations} and {enough}")
    domain = ExtendedDomain(Observation(y, mask), blur)
    positive = y.clamp(min=0)
    observed = domain.observed.masked(positive)
    counted = domain.observed.masked(torch.ones_like(y))
    seen = blur.A_adjoint(counted)
    # Where a pixel is hardly seen, the quotient is one of two rounding errors.
    share = torch.where(seen > UNSEEN, 1 / seen.clamp(min=UNSEEN), 0.0)
    power = enough**2 * _total(counted)
    x = torch.ones_like(seen) * (_total(observed) / _total(counted)).clamp(min=TINY)
    previous, change, alpha = x, torch.zeros_like(x), torch.zeros_like(power)
    done = torch.zeros_like(power, dtype=torch.bool)
    for i in range(iterations + 1):
        start = (x + alpha * (x - previous)).clamp(min=TINY)
        again = blur.A(start)
        done = done | (_total(domain.observed.masked(again - y).square()) <= power)
        if i == iterations or done.all():
            break
        ratio = blur.A_adjoint(observed / again.clamp(min=TINY)) * share
        step = start * torch.where(share > 0, ratio.clamp(min=0), 1.0)
        previous, x = x, torch.where(done, x, step)
        if accelerate:
            before, change = change, x - start
            alpha = (_total(change * before) / _total(before.square()).clamp(min=TINY**2)).clamp(0, 1)
            # An image that is done stays as it is while others of the batch go on.
            alpha = torch.where(done, 0.0, alpha)
    return domain.crop(x)


def _total(image: torch.Tensor) -> torch.Tensor:
    """Return the sum over each image of a batch, (B, 1, 1, 1)."""
    return image.sum((1, 2, 3), keepdim=True)


def laplacian_weight(noise: float) -> float:
    """Return the weight of the squared Laplacian that is best for all pictures alike: the middle of the search.

    A power law through the best weights at noise 0.4 %, 1 % and 3 % on validation photographs.
    """
    return 85.0 * max(noise, MIN_NOISE) ** 2.1


def laplacian_residual(noise: float) -> float:
    """Return the residual, root mean square, that a picture's weight is chosen for.

    Validation photographs were best at 0.77, 0.85 and 0.95 of the noise at 0.4 %, 1 % and 3 %.
    """
    sigma = max(noise, MIN_NOISE)
    return sigma * min(1.0, 0.85 + 0.09 * math.log(sigma / 0.01))


@torch.no_grad()
def laplacian(
    y: torch.Tensor,
    blur: UniformBlur | MotionBlur,
    noise: float,
    *,
    weight: float | None = None,
    steps: int = 60,
    tolerance: float = 1e-5,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Deconvolve by least squares, ||A x - y||^2 + weight ||L x||^2, with the five-point Laplacian L.

    The model of MATLAB's ``deconvreg``, on the exact operator, with the pixels around the frame as unknowns; L x takes
    the picture as mirrored at the rim of these. The weight is chosen for each picture such that the residual has a
    share of the noise's power that was fitted on validation photographs. There (six of 160 px, noise 0.4 %, 1 % and
    3 %, both kinds of blur) that is 0.1 to 0.3 dB better than the best single weight for all pictures, while the
    discrepancy principle itself, which asks for all of the noise's power, is 0.2 to 0.5 dB worse.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image in [0, 1].
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    noise : float
        Standard deviation of the noise in y; decides the weight.
    weight : float, optional
        > 0, for all images; by default each image's own, by `laplacian_residual`.
    steps : int
        Most steps of conjugate gradients; for a uniform blur the periodic problem's solution preconditions them. What
        takes so many are the pixels around the frame: with 15 steps, pictures of 160 px lost up to 1 dB.
    tolerance : float
        Relative residual of the normal equations at which they end.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observed pixel counts, 0 where it is saturated.

    Returns
    -------
    x : (B, C, H, W) tensor
        Sharp image.

    Raises
    ------
    ValueError
        If an argument is not as above.

    References
    ----------
    B. R. Hunt, "The application of constrained least squares estimation to image restoration by digital computer",
    IEEE Transactions on Computers C-22(9), 1973.
    """
    check_arguments(y, blur, noise, mask)
    if steps < 1 or not (weight is None or weight > 0):
        raise ValueError(f"weight must be > 0 and steps >= 1, got {weight} and {steps}")
    domain = ExtendedDomain(Observation(y, mask), blur)
    if weight is None:
        factor, start = search_weight(domain, laplacian_weight(noise), laplacian_residual(noise), SEARCH_STEPS)
    else:
        factor, start = torch.full_like(y[:, :1, :1, :1], weight), domain.start()
    return domain.crop(laplacian_minimiser(domain, factor, start, steps, tolerance))


def search_weight(
    domain: ExtendedDomain, middle: float, residual: float, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the weights at which `laplacian_minimiser` leaves a residual, which grows with the weight.

    Parameters
    ----------
    domain : ExtendedDomain
        Images, blur and mask.
    middle : float
        The weights are sought from 1/8 to 128 times this, to a third of an octave: smooth pictures need far more than
        others, and few need less.
    residual : float
        Root mean square of A x - y over the pixels that count.
    steps : int
        Of conjugate gradients for each weight that is tried, each from the result of the one before.

    Returns
    -------
    weight : (B, 1, 1, 1) tensor
    x : (B, C, H + 2 my, W + 2 mx) tensor
        The last result.
    """
    x = domain.start()
    enough = residual**2 * _total(domain.observed.masked(torch.ones_like(domain.observed.y)))
    octave = torch.full_like(enough, 2.0)
    for halving in (2.5, 1.25, 0.625, 0.3125, 0.15625):
        x = laplacian_minimiser(domain, middle * 2**octave, x, steps, 1e-4)
        octave = octave + torch.where(_total(domain.residual(x).square()) > enough, -halving, halving)
    return middle * 2**octave, x


def laplacian_minimiser(
    domain: ExtendedDomain, weight: torch.Tensor, start: torch.Tensor, steps: int, tolerance: float
) -> torch.Tensor:
    """Return the x of `laplacian` on the extended domain, for weights (B, 1, 1, 1) and a start as large as x."""
    blur = domain.blur

    def smooth(x: torch.Tensor) -> torch.Tensor:
        return difference_adjoint(difference(x, -1), -1) + difference_adjoint(difference(x, -2), -2)

    def normal(x: torch.Tensor) -> torch.Tensor:
        return blur.A_adjoint(domain.observed.masked(blur.A(x))) + weight * smooth(smooth(x))

    precondition = None
    if isinstance(blur, UniformBlur):
        size = (start.shape[-2], start.shape[-1])
        across = torch.fft.rfftfreq(size[1], dtype=blur.dtype, device=blur.device) * (2 * torch.pi)
        down = torch.fft.fftfreq(size[0], dtype=blur.dtype, device=blur.device) * (2 * torch.pi)
        power = centred_response(blur.psf, size).abs().square()
        power = power + weight * (4 - 2 * down.cos()[:, None] - 2 * across.cos()).square()

        def precondition(x: torch.Tensor) -> torch.Tensor:
            return torch.fft.irfft2(torch.fft.rfft2(x) / power, s=size)

    right = blur.A_adjoint(domain.observed.masked(domain.observed.y))
    return conjugate_gradients(normal, right, start, steps, tolerance, precondition)
