"""The x-update as a division of Fourier transforms, for periodic images.

Photographs are not periodic. ``fft`` continues the picture by its rim and tapers it so that it fits together
(edgetaper); ``fft-nopad`` does not and shows what that costs. A non-uniform blur is divided tile by tile (efficient
filter flow).

References
----------
M. Hirsch, S. Sra, B. Schoelkopf, S. Harmeling, "Efficient filter flow for space-variant multiframe blind
deconvolution", CVPR 2010.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import torch
from torch.nn import functional as F

from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.motion import to_polar
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import XUpdate, circular_difference
from ircdeblur.solvers.domain import ExtendedDomain, Observation
from ircdeblur.solvers.filtering import TiledFilter, centred_response
from ircdeblur.solvers.irc import GRID_STEP, at_grid


def inverse_responses(psf: torch.Tensor, size: tuple[int, int], rho: float) -> tuple[torch.Tensor, ...]:
    """Return conj(K_i) / sum_j |K_j|^2 for k_0 = psf / sqrt(rho) and the two first differences.

    Parameters
    ----------
    psf : (..., h, w) tensor
        Odd sides.
    size : (H, W)
        Of the periodic image.
    rho : float
        Penalty of ADMM.

    Returns
    -------
    responses : tuple of three (..., H, W // 2 + 1) complex tensors
    """
    blur = centred_response(psf, size) * rho**-0.5
    zero = torch.zeros(size, dtype=psf.dtype, device=psf.device)
    horizontal, vertical = zero.clone(), zero
    horizontal[0, 0], horizontal[0, 1 % size[1]] = 1.0, -1.0
    vertical[0, 0], vertical[1 % size[0], 0] = 1.0, -1.0
    prior = [torch.fft.rfft2(g) for g in (horizontal, vertical)]
    power = blur.abs().square() + sum(g.abs().square() for g in prior)
    return (blur.conj() / power, *(g.conj() / power for g in prior))


def edgetaper(image: torch.Tensor, psf: torch.Tensor, passes: int = 3) -> torch.Tensor:
    """Blend the rim of an image with its circular blur, so that it looks periodic to a deconvolution.

    The weight of the image is prod_i (1 - z_i / max z_i), with z_i the periodic autocorrelation of the kernel's
    projection on axis i, as MATLAB's ``edgetaper``.

    Parameters
    ----------
    image : (..., H, W) tensor
        Images.
    psf : (h, w) or (..., h, w) tensor
        Odd sides; one for all images, or with leading dimensions that fit the images'.
    passes : int
        Number of blends.
    """
    size = (image.shape[-2], image.shape[-1])

    def weight(projection: torch.Tensor, n: int) -> torch.Tensor:
        padded = F.pad(projection, (0, n - 1 - projection.shape[-1]))
        z = torch.fft.irfft(torch.fft.rfft(padded).abs().square(), n=n - 1)
        z = torch.cat((z, z[..., :1]), dim=-1)
        return 1 - z / z.amax(-1, keepdim=True)

    alpha = weight(psf.sum(-1), size[0])[..., :, None] * weight(psf.sum(-2), size[1])[..., None, :]
    response = centred_response(psf, size)
    for _ in range(passes):
        blurred = torch.fft.irfft2(torch.fft.rfft2(image) * response, s=size)
        image = alpha * image + (1 - alpha) * blurred
    return image


class FourierDivision(XUpdate):
    """Exact x-update for a uniform blur of a periodic image.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image.
    blur : UniformBlur
        Only its psf is used.
    rho : float
        Penalty of ADMM.
    pad : bool
        Continue the image by its rim and taper it; without, it is taken as periodic.
    """

    def __init__(self, y: torch.Tensor, blur: UniformBlur, rho: float, pad: bool = True):
        self.frame = (y.shape[-2], y.shape[-1])
        self.psf = psf = blur.psf.to(y)
        self.before = (0, 0)
        if pad:
            sizes = [scipy.fft.next_fast_len(n + 2 * k, real=True) for n, k in zip(self.frame, psf.shape, strict=True)]
            extra = [s - n for s, n in zip(sizes, self.frame, strict=True)]
            self.before = (extra[0] // 2, extra[1] // 2)
            top, left = self.before
            y = F.pad(y, (left, extra[1] - left, top, extra[0] - top), mode="replicate")
            y = edgetaper(y, psf)
        elif psf.shape[0] > self.frame[0] or psf.shape[1] > self.frame[1]:
            raise ValueError(f"psf {tuple(psf.shape)} is larger than the image {self.frame}")
        self.y, self.size = y, (y.shape[-2], y.shape[-1])
        self.responses = inverse_responses(psf, self.size, rho)
        self._data = torch.fft.rfft2(y) * (self.responses[0] * rho**-0.5)

    def start(self) -> torch.Tensor:
        """Return y."""
        return self.y

    def differences(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return periodic first differences."""
        return circular_difference(x, -1), circular_difference(x, -2)

    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the minimiser, whatever x was."""
        total = self._data
        for target, response in zip(targets, self.responses[1:], strict=True):
            total = total + torch.fft.rfft2(target) * response
        return torch.fft.irfft2(total, s=self.size)

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """Return A x - y for the periodic blur."""
        blurred = torch.fft.irfft2(torch.fft.rfft2(x) * centred_response(self.psf, self.size), s=self.size)
        return blurred - self.y

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """Return the frame of x."""
        top, left = self.before
        return x[..., top : top + self.frame[0], left : left + self.frame[1]]


class TiledFourierDivision(ExtendedDomain, XUpdate):
    """Approximate x-update for a non-uniform blur: each tile divided as if its blur were uniform and it periodic.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image.
    blur : MotionBlur
        With the boundary "extended".
    rho : float
        Penalty of ADMM.
    pad : bool
        Continue the image by its rim and taper the tiles; without, it and they are taken as periodic.
    """

    CONTEXT = 48
    """Pixels around each tile's window that it is divided with."""

    def __init__(self, y: torch.Tensor, blur: MotionBlur, rho: float, pad: bool = True):
        super().__init__(Observation(y), blur)
        my, mx = self.margin
        self._start = F.pad(y, (mx, mx, my, my), mode="replicate" if pad else "circular")
        shape = (self._start.shape[-2], self._start.shape[-1])
        tile = TiledFilter.tile_for(self.CONTEXT, GRID_STEP)
        psf = tile_kernels(blur, shape, tile).to(y)
        data, *prior = inverse_responses(psf, (tile, tile), rho)
        self._prior = TiledFilter(torch.stack(prior, dim=1), shape, tile, GRID_STEP, padding="replicate")
        # The data's part of x is the same in every iteration.
        tiles = self._prior.tiles(self._start)
        if pad:
            tiles = edgetaper(tiles, psf)
        self._data = self._prior.blend(torch.fft.rfft2(tiles).mul_(data * rho**-0.5))

    def start(self) -> torch.Tensor:
        """Return y, continued outward."""
        return self._start

    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the minimiser of each tile, blended."""
        return self._data + self._prior(targets)


def tile_kernels(blur: MotionBlur, shape: tuple[int, int], tile: int) -> torch.Tensor:
    """Return the kernels at the points of `TiledFilter.grid` of the extended domain.

    Parameters
    ----------
    blur : MotionBlur
        With the boundary "extended".
    shape : (H', W')
        Size of the domain.
    tile : int
        Size of the tiles, in which the kernels must fit.

    Returns
    -------
    psf : (rows * columns, s, s) float64 tensor
        s is the largest odd number up to `tile`.
    """
    motion = blur.motion if blur.motion.ndim == 3 else blur.motion[0]
    points = at_grid(motion.detach(), shape, blur.margin, GRID_STEP)
    return torch.stack(
        [_centred(linear_motion_kernel(float(n), float(a)), tile) for n, a in zip(*to_polar(points), strict=True)]
    )


def _centred(kernel: np.ndarray, size: int) -> torch.Tensor:
    """Return a kernel with zeros around it, of the largest odd size that fits a tile."""
    side = size - 1 + size % 2
    if max(kernel.shape) > side:
        raise ValueError(f"motions of {max(kernel.shape)} px are too long for the tiles of {size} px of this method")
    rows, columns = ((side - n) // 2 for n in kernel.shape)
    return F.pad(torch.from_numpy(kernel), (columns, columns, rows, rows))
