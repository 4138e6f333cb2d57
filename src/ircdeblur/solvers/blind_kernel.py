"""The kernel of a photograph that was blurred by one kernel all over, whatever path the camera took.

Edges tell a kernel. In turns the sharp picture is estimated with few edges, the strong ones, and the kernel that makes
the blurred picture's gradients of its gradients; from a small copy, in which the kernel is some pixels, to the whole.
Both are divisions in the Fourier domain. Gains in dB beside the constants are those of `deblur`, the PSNR at the best
shift by whole pixels if it does not say otherwise.

References
----------
L. Xu, S. Zheng, J. Jia, "Unnatural L0 sparse representation for natural image deblurring", CVPR 2013. J. Pan, Z. Hu,
Z. Su, M.-H. Yang, "Deblurring text images via L0-regularized intensity and gradient prior", CVPR 2014: the splitting.
S. Cho, S. Lee, "Fast motion deblurring", SIGGRAPH Asia 2009: the kernel from gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from scipy import ndimage
from scipy.optimize import minimize
from torch.nn import functional as F

SHRINK = 0.5**0.5
"""From each size of the picture to the next smaller one."""

COARSEST = 5
"""About the side in pixels of the kernel in the smallest copy."""

ROUNDS, ON_THE_WHOLE = 10, 5
"""In each size: the picture, then the kernel; and in the last one, which takes the longest, and after which the kernel
is polished. With ten there, twenty shaken validation photographs gained 6.91 dB in place of 7.00, and in linear light
4.75 in place of 4.97: differences of chance."""

STEEPER, STEEPEST = 2.8, 10.0
"""Factor by which the penalty of the splitting grows, and what it grows to. With a factor of 2 up to 1e5, as published,
it takes more than twice as long; on eight shaken validation photographs the kernels were worth 0.1 dB more, with 4 up
to 1e5 0.3 dB less."""

RIDGE, LAST_EDGE = 20.0, 3e-4
"""Usual weight of a kernel's squares in its least squares, and cost of an edge in the last round; see `Search`."""

ROUGH = 0.5
"""Weight of the squares of a kernel's differences, in units of that of its squares. Without it, kernels of noisy
pictures become chequered. On twelve shaken validation photographs this weight, ten rounds in place of five, and more
than one way to look (`ircdeblur.nets.curved`) brought the gain from 2.5 to 5.6 dB, of 8.7 with the true kernel."""

WEAK, SPECKLE = 0.05, 0.05
"""What is below this share of a kernel's largest value is set to 0, and so are islands with less than a share of its
sum."""

AROUND, FAINT, SUPPORTED, CRUMB = 3, 0.01, 0.1, 0.02
"""At the end (see `polished`): pixels around a kernel in which it may grow; shares of its largest value below which a
pixel is set to 0, and below which everywhere an island is; share of its sum below which an island is, too. On 40 shaken
validation photographs the gain, at the best shift by fractions of a pixel, rose from 5.81 to 5.89 dB, most where there
was little noise; with a FAINT of 0.003, or two pixels around, it was the same."""


@dataclass(frozen=True)
class Search:
    """How a kernel is looked for.

    Attributes
    ----------
    side : int
        Of the kernel in pixels, odd.
    edges : (float, float)
        Cost of an edge, in units of squared differences of values in [0, 1], in the first round and in the last one; in
        equal ratios between. The larger, the fewer edges there are: weaker ones enter as the kernel becomes better.
    ridge : float
        Weight of the kernel's squares in the least squares that find it.

    Raises
    ------
    ValueError
        For a side that is even or below 3.
    """

    side: int
    edges: tuple[float, float] = (1e-2, LAST_EDGE)
    ridge: float = RIDGE

    def __post_init__(self) -> None:
        if self.side < 3 or self.side % 2 == 0:
            raise ValueError(f"the side of a kernel must be odd and at least 3, got {self.side}")

    @property
    def sizes(self) -> int:
        """Number of copies of the picture that are looked at."""
        return max(0, math.ceil(math.log(COARSEST / self.side) / math.log(SHRINK))) + 1


class KernelSearch:
    """One search, which goes from the smallest copy of a photograph to the whole.

    Parameters
    ----------
    luma : (H, W) float tensor
        In [0, 1].
    search : Search
        How to look.

    Attributes
    ----------
    level : int
        How many times the copy that was looked at last was shrunk by `SHRINK`: `Search.sizes` before the first look, 0
        at the end.
    """

    def __init__(self, luma: torch.Tensor, search: Search) -> None:
        self.search = search
        self.level = search.sizes
        self._luma = luma
        self._edges = np.geomspace(*search.edges, search.sizes * ROUNDS)
        self._psf: torch.Tensor | None = None

    def go_on(self) -> None:
        """Look at the next larger copy; there is none after the whole."""
        if self.level == 0:
            raise RuntimeError("the search is at its end")
        self.level -= 1
        scale = SHRINK**self.level
        side = max(3, round(self.search.side * scale) // 2 * 2 + 1) if self.level else self.search.side
        seen = self._luma
        if self.level:
            seen = resized(seen, [max(side, round(n * scale)) for n in seen.shape])
        image = PeriodicImage.of(seen, side)
        psf = self._in(side)
        done = (self.search.sizes - 1 - self.level) * ROUNDS
        edges = self._edges[done : done + ROUNDS]
        # Fewer rounds lead to the same last edge.
        step = 1 if self.level else ROUNDS // ON_THE_WHOLE
        for edge in edges[step - 1 :: step]:
            psf = _cleaned(image.kernel(image.strong_edges(psf, float(edge)), side, self.search.ridge))
        self._psf = psf

    def psf(self) -> torch.Tensor:
        """Return the kernel so far, (side, side): not negative, of sum 1, centred on its mean."""
        return self._in(self.search.side)

    def _in(self, side: int) -> torch.Tensor:
        if self._psf is None:
            return _at_first(side).to(self._luma)
        return self._psf if len(self._psf) == side else _cleaned(resized(self._psf, [side, side]))


def search_kernel(luma: torch.Tensor, search: Search) -> torch.Tensor:
    """Return the kernel that blurred a photograph.

    Parameters
    ----------
    luma : (H, W) float tensor
        In [0, 1].
    search : Search
        How to look for it.

    Returns
    -------
    psf : (side, side) tensor
        Not negative, of sum 1, centred on its mean.
    """
    found = KernelSearch(luma, search)
    while found.level:
        found.go_on()
    return found.psf()


def polished(luma: torch.Tensor, psf: np.ndarray) -> np.ndarray:
    """Return a kernel that was found once more: non-negative least squares in its neighbourhood.

    A search divides in the Fourier domain, then sets to 0 what is negative or weak, and with it the faint ends of a
    path. Where next to nothing but the path is left to be found, they need not be lost.

    Parameters
    ----------
    luma : (H, W) float tensor
        The photograph, in the light that it was blurred in.
    psf : (side, side) array
        The kernel, of an odd side.

    Returns
    -------
    psf : (side, side) array
        Not negative, of sum 1, centred on its mean to a pixel; the one that was found if nothing else is left.

    References
    ----------
    R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound constrained optimization", SIAM Journal
    on Scientific Computing 16, 1995.
    """
    side = len(psf)
    image = PeriodicImage.of(luma, side)
    sharp = image.strong_edges(torch.from_numpy(psf).to(luma), LAST_EDGE)
    products, powers = (
        torch.fft.irfft2(t, s=image.size).cpu().double().numpy() for t in image.normal_equations(sharp, RIDGE)
    )
    # Few unknowns, so the equations are those of a small image. Its correlations at negative shifts come last.
    half, size = side // 2, scipy.fft.next_fast_len(2 * side, real=True)
    wanted = np.roll(products, (half, half), (0, 1))[:side, :side]
    shifts = np.arange(size) - size * (np.arange(size) >= side)
    reached = np.abs(shifts) < side
    response = scipy.fft.rfft2(powers[np.ix_(shifts, shifts)] * np.outer(reached, reached))
    free = ndimage.binary_dilation(psf > 0, np.ones((3, 3)), iterations=AROUND)
    scale, whole = powers[0, 0], np.zeros((side, side))

    def cost(weights: np.ndarray) -> tuple[float, np.ndarray]:
        whole[free] = weights
        pulled = scipy.fft.irfft2(response * scipy.fft.rfft2(whole, [size] * 2), [size] * 2)[:side, :side]
        return float((0.5 * pulled - wanted)[free] @ weights) / scale, (pulled - wanted)[free] / scale

    start = np.full(int(free.sum()), 1 / free.sum())
    bounds = [(0, None)] * len(start)
    whole[free] = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 150}).x
    whole = _without_crumbs(whole, FAINT, CRUMB, SUPPORTED)
    return centred(whole) if whole.any() else psf


def edge_maps(luma: torch.Tensor, psf: np.ndarray, ridges: tuple[float, ...]) -> np.ndarray:
    """Return what the edges of a photograph say of its kernel by least squares: neither cleaned nor made positive.

    Parameters
    ----------
    luma : (H, W) float tensor
        The photograph, in the light that it was blurred in.
    psf : (side, side) array
        A kernel that was found, of an odd side: the edges are those of the sharp picture that follows from it.
    ridges : tuple of float
        Weights of the kernel's squares; see `Search`.

    Returns
    -------
    maps : (len(ridges), side, side) array
    """
    image = PeriodicImage.of(luma, len(psf))
    sharp = image.strong_edges(torch.from_numpy(psf).to(luma), LAST_EDGE)
    return torch.stack([image.kernel(sharp, len(psf), ridge) for ridge in ridges]).cpu().double().numpy()


def mean_kernel(kernels: list[np.ndarray]) -> np.ndarray:
    """Return the mean of kernels, each moved by whole pixels to where it is most like the first.

    Parameters
    ----------
    kernels : list of (side, side) arrays
        Of any odd sides.

    Returns
    -------
    psf : (side, side) array
        Of the largest side, of sum 1, its mean in the middle. What is moved over a border is lost.
    """
    side = max(map(len, kernels))
    whole = [np.pad(kernel, (side - len(kernel)) // 2) for kernel in kernels]
    size = [scipy.fft.next_fast_len(2 * side, real=True)] * 2
    first = np.fft.rfft2(whole[0], s=size)
    total = np.zeros((side, side))
    for kernel in whole:
        product = np.fft.irfft2(first * np.fft.rfft2(kernel, s=size).conj(), s=size)
        move = np.unravel_index(product.argmax(), product.shape)
        total += _moved(kernel, [int(m) if m <= side else int(m) - n for m, n in zip(move, size, strict=True)])
    return centred(total)


class PeriodicImage:
    """A blurred image that repeats, and its spectrum, by which edges and kernel are found in turns.

    Parameters
    ----------
    image : (H, W) tensor
        Blurred, and periodic.

    Attributes
    ----------
    size : torch.Size
        (H, W).
    """

    def __init__(self, image: torch.Tensor) -> None:
        self.size = image.shape
        self._image, self._spectrum = image, torch.fft.rfft2(image)
        self._roughness = _roughness(image)
        self._rough = _in_pairs(self._roughness)
        self._across, self._down, self._spread = (torch.empty_like(image) for _ in range(3))
        self._below = torch.empty_like(self._rough)

    @classmethod
    def of(cls, photograph: torch.Tensor, side: int) -> PeriodicImage:
        """Return a photograph, continued for kernels of a side."""
        return cls(continued(photograph, [scipy.fft.next_fast_len(n + side, real=True) for n in photograph.shape]))

    def strong_edges(self, psf: torch.Tensor, edge: float) -> torch.Tensor:
        """Return the minimiser x of |psf * x - image|^2 + edge |grad x|_0, roughly, by half-quadratic splitting.

        Parameters
        ----------
        psf : (h, w) tensor
            The kernel.
        edge : float
            Cost of each pixel whose gradient is not 0, below `STEEPEST` / 2.

        Returns
        -------
        spectrum : (H, W // 2 + 1) complex tensor
            Of x.
        """
        response = _response(psf, self.size)
        seen = torch.view_as_real(response.conj().resolve_conj() * self._spectrum)
        power = _in_pairs(response.real**2 + response.imag**2)
        x, penalty = self._image, 2 * edge
        while True:
            # Real numbers throughout, in place: a complex number over a real one costs as much as half a transform.
            spectrum = torch.fft.rfft2(self._strong_differences(x, edge / penalty))
            values = torch.view_as_real(spectrum)
            torch.add(seen, values, alpha=penalty, out=values)
            values.div_(torch.add(power, self._rough, alpha=penalty, out=self._below))
            penalty *= STEEPER
            if penalty >= STEEPEST:
                return spectrum
            x = torch.fft.irfft2(spectrum, s=self.size)

    def _strong_differences(self, x: torch.Tensor, least: float) -> torch.Tensor:
        """Return the divergence, with its sign turned, of an image's gradients whose square is not below the least."""
        across, down, spread = self._across, self._down, self._spread
        torch.sub(x[:, 1:], x[:, :-1], out=across[:, :-1])
        torch.sub(x[:, 0], x[:, -1], out=across[:, -1])
        torch.sub(x[1:], x[:-1], out=down[:-1])
        torch.sub(x[0], x[-1], out=down[-1])
        torch.mul(across, across, out=spread)
        spread.addcmul_(down, down).ge_(least)
        across.mul_(spread)
        down.mul_(spread)
        torch.sub(across[:, :-1], across[:, 1:], out=spread[:, 1:])
        torch.sub(across[:, -1], across[:, 0], out=spread[:, 0])
        spread.sub_(down)
        spread[1:].add_(down[:-1])
        spread[0].add_(down[-1])
        return spread

    def normal_equations(self, sharp: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the equations of the kernel that makes the image's gradients of a sharp one's, by least squares.

        Parameters
        ----------
        sharp : (H, W // 2 + 1) complex tensor
            Spectrum of the sharp image.
        ridge : float
            Weight of the kernel's squares; see `Search`.

        Returns
        -------
        products, powers : (H, W // 2 + 1) tensors
            Spectra of the products of the gradients, and of what they are to be divided by.
        """
        # The sum of the products of both differences: the power of the differences times the product of the images.
        products = sharp.conj() * self._spectrum * self._roughness
        return products, self._roughness * (sharp.real**2 + sharp.imag**2 + ridge * ROUGH) + ridge

    def kernel(self, sharp: torch.Tensor, side: int, ridge: float) -> torch.Tensor:
        """Return the kernel that makes the image's gradients of a sharp one's, neither cleaned nor made positive.

        Parameters
        ----------
        sharp, ridge
            As for `normal_equations`.
        side : int
            Of the kernel in pixels, odd.

        Returns
        -------
        kernel : (side, side) tensor
            Shift 0 is in the middle.
        """
        products, powers = self.normal_equations(sharp, ridge)
        whole = torch.fft.irfft2(products / powers, s=self.size)
        return torch.roll(whole, (side // 2, side // 2), (0, 1))[:side, :side]


def continued(image: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Return an image (H, W), continued below and to the right such that it is smooth when repeated."""
    for _ in range(2):
        height, more = image.shape[0], size[0] - image.shape[0]
        steps = torch.arange(1, more + 1, device=image.device)
        end, start = image[(height - 1 - steps).clamp(min=0)], image[(more + 1 - steps).clamp(max=height - 1)]
        share = (0.5 - 0.5 * torch.cos(math.pi * steps / (more + 1))).to(image)[:, None]
        image = torch.cat((image, torch.lerp(end, start, share))).T.contiguous()
        size = size[::-1]
    return image


def _cleaned(psf: torch.Tensor) -> torch.Tensor:
    """Return a kernel without what is negative, weak or an island, of sum 1, centred."""
    values = _without_crumbs(psf.clamp(min=0).cpu().double().numpy(), WEAK, SPECKLE)
    return torch.from_numpy(centred(values)).to(psf) if values.any() else _at_first(len(psf)).to(psf)


def _without_crumbs(values: np.ndarray, weak: float, small: float, low: float = 0.0) -> np.ndarray:
    """Return a kernel without pixels below a share of its largest value, and then without islands.

    These are what has less than a share of its sum, or is nowhere as high as a share of its largest value.
    """
    values = np.where(values < weak * values.max(), 0, values)
    island, count = ndimage.label(values, structure=np.ones((3, 3)))
    each = np.arange(count + 1)
    lost = ndimage.sum_labels(values, island, each) < small * values.sum()
    lost |= ndimage.maximum(values, island, each) < low * values.max()
    return np.where(lost[island], 0, values)


def centred(values: np.ndarray) -> np.ndarray:
    """Return a kernel of sum 1, moved until its mean lies in the middle, to a pixel; what leaves the square is lost."""
    centre = np.round(ndimage.center_of_mass(values)).astype(int)
    values = _moved(values, [n // 2 - int(c) for n, c in zip(values.shape, centre, strict=True)])
    return values / values.sum()


def _moved(values: np.ndarray, by: list[int]) -> np.ndarray:
    """Return an array (h, w) moved by whole pixels down and to the right; 0 comes in."""
    return ndimage.shift(values, by, order=0)


def _at_first(side: int) -> torch.Tensor:
    """Return the kernel to begin with: two pixels side by side."""
    psf = torch.zeros(side, side)
    psf[side // 2, side // 2 : side // 2 + 2] = 0.5
    return psf


def _roughness(image: torch.Tensor) -> torch.Tensor:
    """Return the power of both differences at the frequencies of an image."""
    down = torch.fft.fftfreq(image.shape[0], dtype=image.dtype, device=image.device)[:, None]
    across = torch.fft.rfftfreq(image.shape[1], dtype=image.dtype, device=image.device)
    return 4 * torch.sin(math.pi * down) ** 2 + 4 * torch.sin(math.pi * across) ** 2


def _in_pairs(values: torch.Tensor) -> torch.Tensor:
    """Return real values (h, w) twice each, (h, w, 2): as complex ones lie in memory."""
    return values[..., None].expand(*values.shape, 2).contiguous()


def _response(psf: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Return the frequency response of a kernel on a periodic image."""
    whole = F.pad(psf, (0, size[1] - psf.shape[1], 0, size[0] - psf.shape[0]))
    return torch.fft.rfft2(torch.roll(whole, [-(n // 2) for n in psf.shape], (0, 1)))


def resized(image: torch.Tensor, size: list[int]) -> torch.Tensor:
    """Return an image (h, w) in another size, without aliasing."""
    return F.interpolate(image[None, None], size=size, mode="bicubic", antialias=True, align_corners=False)[0, 0]
