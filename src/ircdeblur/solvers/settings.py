"""Solver settings: which method, how strong a prior, how many iterations - and the noise that decides the prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import Callback, Result, XUpdate, admm
from ircdeblur.solvers.cg import ConjugateGradients
from ircdeblur.solvers.classical import laplacian, richardson_lucy, wiener
from ircdeblur.solvers.color import from_opponent, to_opponent
from ircdeblur.solvers.domain import MIN_NOISE, Observation
from ircdeblur.solvers.epll import epll
from ircdeblur.solvers.fourier import FourierDivision, TiledFourierDivision
from ircdeblur.solvers.irc import Filters, IteratedResidualCompensation
from ircdeblur.solvers.mm import majorise_minimise

Method = Literal["irc-mm", "irc", "cg", "fft", "fft-nopad", "wiener", "richardson-lucy", "laplacian", "epll"]
METHODS: tuple[str, ...] = get_args(Method)

ITERATED = ("irc", "cg", "fft", "fft-nopad")
"""Methods of ADMM: they differ in their x-update."""

OTHERS: dict[str, Callable[..., torch.Tensor]] = {
    "wiener": wiener,
    "richardson-lucy": richardson_lucy,
    "laplacian": laplacian,
    "epll": epll,
}
"""Methods with a prior of their own, whose settings follow from the noise alone."""


@dataclass(frozen=True)
class Settings:
    """Settings of a deconvolution with sparse gradients.

    Attributes
    ----------
    prior : float
        Strength of the prior; see `prior_weight`.
    rho : float
        Penalty of ADMM; of no account for irc-mm. On validation photographs 0.01 was best for irc, cg and fft, with
        kernels and motion fields, among 0.005 to 0.08.
    iterations : int
        Of ADMM, or of irc-mm.
    steps : int, optional
        Most steps of each x-update. By default 15 for cg and 2 for irc.
    norm : float
        Exponent l of the prior.
    color : float, optional
        Colour pictures are restored as luma and two opponent colours, whose gradients are sparser: lambda is so many
        times larger for them. None treats red, green and blue each on its own, as the paper does.
    isotropic : bool
        Penalise the length of the gradient; otherwise its two parts on their own, as the paper does (Eq. 16).
    filters : {"local", "tiles", "bank"}
        Inverse filters of irc.
    color_iterations : int
        Most iterations of the two opponent colours in irc-mm. Their squared errors are some 5 % of the whole; from 8
        on more iterations changed it by 0.03 dB at most (``benchmarks/tune_settings.py --block colors``).
    """

    prior: float = 6.4
    rho: float = 0.01
    iterations: int = 10
    steps: int | None = None
    norm: float = 1.0
    color: float | None = 4.0
    isotropic: bool = True
    filters: Filters = "local"
    color_iterations: int = 8


DEFAULTS = {
    **dict.fromkeys(METHODS, Settings()),
    "irc-mm": Settings(iterations=40),
    "irc": Settings(iterations=15, steps=2),
    "fft": Settings(iterations=20),
}
"""Settings of each method; a comparison of solvers asks for the same model in all. `OTHERS` take no notice of them."""


NOISE_EXPONENT = 0.38
"""How lambda / noise^2 falls with the noise. On validation photographs (``benchmarks/tune_settings.py``) it was best at
about 9, 6.5 and 4.2 for noise 0.4, 1 and 3 %, for kernels and motion fields alike, and at 11, 7.5 and 5 with Eq. 16."""


def prior_weight(prior: float, noise: float) -> float:
    """Return lambda = prior noise^2 (0.01 / noise)^0.38.

    Parameters
    ----------
    prior : float
        lambda / noise^2 at a noise of 1 %.
    noise : float
        Standard deviation on the [0, 1] scale; taken as at least `MIN_NOISE`.
    """
    noise = max(noise, MIN_NOISE)
    return prior * noise**2 * (0.01 / noise) ** NOISE_EXPONENT


def estimate_noise(image: torch.Tensor) -> float:
    """Estimate the standard deviation of white noise from the finest diagonal Haar wavelets.

    Clipped pixels have no noise and are left out. The channels are estimated on their own; the result is their root
    mean square.

    Parameters
    ----------
    image : (B, C, H, W) tensor
        In [0, 1].

    Returns
    -------
    noise : float
        On the [0, 1] scale; 0 for images without a 2 x 2 block of unclipped pixels.

    References
    ----------
    D. Donoho and I. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994: the median of the
    absolute values over 0.6745.
    """
    height, width = image.shape[-2] // 2 * 2, image.shape[-1] // 2 * 2
    even, odd = image[..., 0:height:2, :width], image[..., 1:height:2, :width]
    blocks = torch.stack((even[..., 0::2], even[..., 1::2], odd[..., 0::2], odd[..., 1::2]), dim=-1)
    diagonal = (blocks[..., 0] - blocks[..., 1] - blocks[..., 2] + blocks[..., 3]) / 2
    inside = ((blocks > 0.5 / 255) & (blocks < 1 - 0.5 / 255)).all(-1)
    sigmas = [
        float(values[kept].abs().median()) / 0.6745
        for values, kept in zip(diagonal.flatten(0, 1), inside.flatten(0, 1), strict=True)
        if kept.any()
    ]
    return (sum(s * s for s in sigmas) / len(sigmas)) ** 0.5 if sigmas else 0.0


SATURATED = 1 - 0.5 / 255
"""Value from which on a pixel stands at the sensor's limit, on the [0, 1] scale."""


def unsaturated(image: torch.Tensor) -> torch.Tensor | None:
    """Return the mask of the pixels that no channel of which is saturated.

    Parameters
    ----------
    image : (B, C, H, W) tensor
        In [0, 1]; one with values above 1 was never cut off.

    Returns
    -------
    mask : (B, 1, H, W) tensor or None
        1 where the observation counts, 0 where the sensor was saturated; None if it counts everywhere.
    """
    saturated = (image >= SATURATED).any(1, keepdim=True)
    if not saturated.any() or float(image.max()) > 1.0:
        return None
    return (~saturated).to(image)


def make_update(method: str, observed: Observation, blur: UniformBlur | MotionBlur, settings: Settings) -> XUpdate:
    """Return the x-update of a method of ADMM for an observed image and its blur.

    Parameters
    ----------
    method : {"irc", "cg", "fft", "fft-nopad"}
        Which one.
    observed : Observation
        Blurred image (B, C, H, W). The Fourier methods cannot leave out pixels: they use all.
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    settings : Settings
        Penalty, number of steps, filters.
    """
    if method == "irc":
        return IteratedResidualCompensation(observed, blur, settings.rho, settings.steps or 2, filters=settings.filters)
    if method == "cg":
        return ConjugateGradients(observed, blur, settings.rho, settings.steps or 15)
    if method in ("fft", "fft-nopad"):
        pad = method == "fft"
        if isinstance(blur, UniformBlur):
            return FourierDivision(observed.y, blur, settings.rho, pad)
        return TiledFourierDivision(observed.y, blur, settings.rho, pad)
    raise ValueError(f"method must be one of {', '.join(ITERATED)}, got {method!r}")


def deconvolve(
    y: torch.Tensor,
    blur: UniformBlur | MotionBlur,
    noise: float,
    method: str = "irc-mm",
    settings: Settings | None = None,
    mask: torch.Tensor | None = None,
    statistics: bool = False,
    callback: Callback | None = None,
) -> Result:
    """Deconvolve.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image in [0, 1].
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    noise : float
        Standard deviation of the noise in y.
    method : {"irc-mm", "irc", "cg", "fft", "fft-nopad", "wiener", "richardson-lucy", "laplacian", "epll"}
        The first five solve the same problem, least squares with sparse gradients.
    settings : Settings, optional
        Of these five; by default the method's own.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observation counts, 0 where it does not (see `unsaturated`). The Fourier methods use all pixels.
    statistics : bool
        Return the figures of each iteration.
    callback : callable, optional
        Called by these five after each iteration with its number, from 1 on, and the frame of x, (B, C, H, W).

    Raises
    ------
    ValueError
        If the method is unknown or a setting does not fit it.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method in OTHERS:
        # Filters see all pixels at once and cannot leave any out.
        return Result(OTHERS[method](y, blur, noise, **({} if method == "wiener" else {"mask": mask})))
    settings = settings or DEFAULTS[method]
    # A kernel for each channel belongs to red, green and blue, not to their mixtures.
    opponent = (
        settings.color is not None and y.shape[1] == 3 and not (isinstance(blur, UniformBlur) and blur.psf.ndim == 3)
    )
    lam = y.new_full((1, y.shape[1], 1, 1), prior_weight(settings.prior, noise))
    observe = callback
    if opponent:
        assert settings.color is not None
        y, lam[:, 1:] = to_opponent(y), lam[:, 1:] * settings.color
        if callback is not None:
            observe = lambda number, x: callback(number, from_opponent(x))  # noqa: E731
    observed = Observation(y, mask)
    if method == "irc-mm":
        result = majorise_minimise(
            observed,
            blur,
            lam,
            settings.iterations,
            settings.norm,
            settings.isotropic,
            statistics=statistics,
            callback=observe,
            others=settings.color_iterations if opponent else None,
        )
    else:
        result = admm(
            make_update(method, observed, blur, settings),
            lam,
            settings.rho,
            settings.iterations,
            settings.norm,
            isotropic=settings.isotropic,
            statistics=statistics,
            callback=observe,
        )
    return Result(from_opponent(result.x), result.iterations) if opponent else result
