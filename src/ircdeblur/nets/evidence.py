"""What the power spectrum of a photograph says about its motion.

A straight motion m multiplies the spectrum of what is seen by sinc(f . m): it leaves dark stripes across the motion,
whose distance is one over its length. A network sees them vaguely; a likelihood measures them to a few per cent, and
adds up over the whole picture. So it refines what the network found, and judges between what may be.

The power of a picture's gradients in a window is modelled as independent exponential variables (Whittle's likelihood)
of mean

    E(f) = c_s |f|^-a g(f) (sinc^2(f . m) + floor) + noise^2 g(f),

where g is the gain of the gradient filter, a is one exponent for the whole picture, and c_s are amplitudes of their own
for each window and each sector s of directions: edges make the spectrum of a window anything but isotropic. So nothing
is assumed of the scene but that its spectrum falls smoothly along each direction.

References
----------
P. Whittle, "The analysis of multiple stationary time series", J. Royal Statistical Society B 15(1), 1953.
A. Chakrabarti, T. Zickler, W. T. Freeman, "Analyzing spatially-varying blur", CVPR 2010.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

WINDOW = 96
"""Side of the windows in pixels: some three times the longest motion."""

SECTORS = 16
"""Directions with amplitudes of their own, in the half plane of frequencies."""

HIGHEST = 0.25
"""Highest frequency that is looked at, in cycles per pixel; above it a moved picture holds little but noise."""

FLOOR = 2e-3
"""What is left of the power where the motion puts it out: the motion varies within a window."""

UPDATES = 3
"""Multiplicative updates of the amplitudes."""


class SpectralEvidence:
    """Power spectra of windows of one photograph, and how likely motions make them.

    Parameters
    ----------
    luma : (1, 1, H, W) tensor
        Luminance in [0, 1].
    noise : float
        Standard deviation of its noise.
    step : int
        Largest distance of neighbouring windows, in pixels.
    window : int
        Side of the windows; smaller pictures have smaller ones.

    Attributes
    ----------
    x, y : (n,) float64 arrays
        Centres of the windows, in pixels.
    shape : (int, int)
        Rows and columns of windows, n in all.
    """

    def __init__(self, luma: torch.Tensor, noise: float, step: int = 48, window: int = WINDOW):
        image = luma[0, 0]
        height, width = image.shape
        side = min(window, height - 1, width - 1) // 2 * 2
        if side < 16:
            raise ValueError(f"the picture must have at least 17 x 17 pixels, got {height} x {width}")
        rows, columns = (
            np.unique(np.linspace(0, n - 1 - side, -(-(n - 1 - side) // step) + 1).round().astype(int))
            for n in (height, width)
        )
        self.shape = (len(rows), len(columns))
        self.device = image.device
        self._rows, self._columns = rows + side / 2, columns + side / 2
        y, x = np.meshgrid(rows + side / 2, columns + side / 2, indexing="ij")
        self.x, self.y = x.ravel(), y.ravel()

        hann = torch.hann_window(side, periodic=False, dtype=image.dtype, device=image.device)
        taper = hann[:, None] * hann
        taper = taper / taper.square().sum().sqrt()

        def power(gradient: torch.Tensor) -> torch.Tensor:
            cut = torch.stack([gradient[r : r + side, c : c + side] for r in rows for c in columns])
            mean = (cut * taper).sum((-2, -1), keepdim=True) / taper.sum()
            return torch.view_as_real(torch.fft.rfft2((cut - mean) * taper)).square().sum(-1)

        dx, dy = image[:-1, 1:] - image[:-1, :-1], image[1:, :-1] - image[:-1, :-1]
        total = power(dx) + power(dy)

        fy, fx = torch.meshgrid(
            torch.fft.fftfreq(side, device=image.device), torch.fft.rfftfreq(side, device=image.device), indexing="ij"
        )
        radius = torch.hypot(fy, fx)
        # The lowest belong to the window rather than to the picture; those of fx = 0 come twice.
        used = (radius > 2.5 / side) & (radius < HIGHEST) & ~((fx == 0) & (fy < 0))
        sector = ((torch.atan2(fy, fx) % math.pi) / math.pi * SECTORS).long().clamp(max=SECTORS - 1)
        self._fx, self._fy = fx[used], fy[used]
        self._log_radius = radius[used].log()
        gain = 4 * torch.sin(math.pi * self._fx) ** 2 + 4 * torch.sin(math.pi * self._fy) ** 2
        self._gain, self._noise = gain, max(noise, 1e-3) ** 2 * gain
        self._power = total[:, used]
        self._in_sector = F.one_hot(sector[used], SECTORS).to(image)

    def sample(self, planes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Return the values (C, n) at the windows' centres of planes (C, h, w) that cover the picture of a shape."""
        place = np.stack(((self.x + 0.5) * 2 / shape[1] - 1, (self.y + 0.5) * 2 / shape[0] - 1), -1)
        at = torch.from_numpy(place).to(planes)[None, None]
        return F.grid_sample(planes[None], at, padding_mode="border", align_corners=False)[0, :, 0]

    def spread(self, values: torch.Tensor, size: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
        """Return planes (C, *size) that cover the picture of a shape, bilinear between the windows' values (C, n)."""
        axes = []
        for centres, count, length in zip((self._rows, self._columns), size, shape, strict=True):
            place = (np.arange(count) + 0.5) * length / count - 0.5
            axes.append(np.interp(place, centres, np.linspace(-1, 1, len(centres))) if len(centres) > 1 else 0 * place)
        y, x = np.meshgrid(*axes, indexing="ij")
        at = torch.from_numpy(np.stack((x, y), -1)).to(values)[None]
        return F.grid_sample(values.view(1, -1, *self.shape), at, padding_mode="border", align_corners=True)[0]

    def log_likelihood(self, motion: torch.Tensor, exponent: torch.Tensor | float) -> torch.Tensor:
        """Return the log-likelihood of every window, up to a constant of its own.

        Parameters
        ----------
        motion : (..., n, 2) tensor
            The motion of each window, in pixels.
        exponent : float or tensor
            By which the power of the scene falls; broadcast against ``motion[..., 0]``.

        Returns
        -------
        values : (..., n) tensor
        """
        stripes = torch.sinc(motion[..., :1] * self._fx + motion[..., 1:] * self._fy).square()
        return self._log_likelihood(stripes, torch.as_tensor(exponent, device=motion.device))

    def log_likelihood_of_discs(self, radius: torch.Tensor, exponent: float) -> torch.Tensor:
        """Return the log-likelihood of every window if nothing moved but a lens was out of focus.

        Parameters
        ----------
        radius : (k,) tensor
            Of the discs that points become, in pixels; 0 is in focus.
        exponent : float
            By which the power of the scene falls.

        Returns
        -------
        values : (k, n) tensor
        """
        argument = (2 * math.pi * radius[:, None, None] * self._log_radius.exp()).clamp(min=1e-3)
        rings = (2 * torch.special.bessel_j1(argument) / argument).square()
        return self._log_likelihood(rings, torch.as_tensor(exponent, device=radius.device))

    def _log_likelihood(self, blur: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
        """Return the log-likelihood for the power (..., n or 1, frequencies) that a blur leaves."""
        shape = self._gain * torch.exp(-self._log_radius * exponent[..., None]) * (blur + FLOOR)
        expected = self._amplitude(shape) * shape + self._noise
        return -(expected.log() + self._power / expected).sum(-1)

    def slopes(self, motion: torch.Tensor, exponent: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the log-likelihood of every window and its derivatives.

        Written out, as automatic differentiation would compute on threads of its own, against those of everything else.

        Parameters
        ----------
        motion : (n, 2) tensor
            The motion of each window, in pixels.
        exponent : float
            By which the power of the scene falls.

        Returns
        -------
        values, by_motion, by_exponent : (n,), (n, 2), (n,) tensors
        """
        turns = motion[:, :1] * self._fx + motion[:, 1:] * self._fy
        sinc = torch.sinc(turns)
        # The derivative of sinc; at 0 it is 0.
        slope = (torch.cos(math.pi * turns) - sinc) / torch.where(turns == 0, torch.ones_like(turns), turns)
        scene = self._gain * torch.exp(-self._log_radius * exponent)
        shape = scene * (sinc.square() + FLOOR)
        # At the best amplitudes the derivative by them vanishes, so they count as constants.
        amplitude = self._amplitude(shape)
        expected = amplitude * shape + self._noise
        ratio = self._power / expected
        by_shape = amplitude * (ratio - 1) / expected
        by_turns = by_shape * scene * 2 * sinc * slope
        by_motion = torch.stack((by_turns @ self._fx, by_turns @ self._fy), dim=-1)
        return -(expected.log() + ratio).sum(-1), by_motion, -(by_shape * shape) @ self._log_radius

    def _amplitude(self, shape: torch.Tensor) -> torch.Tensor:
        """Return the most likely amplitudes, (..., n, frequencies)."""
        inside, spread = self._in_sector, self._in_sector.T
        amplitude = ((self._power @ inside) / (shape @ inside).clamp(min=1e-20)).clamp(min=1e-12)
        for _ in range(UPDATES):
            expected = (amplitude @ spread) * shape + self._noise
            ratio = shape / expected
            factor = ((self._power / expected * ratio) @ inside) / (ratio @ inside).clamp(min=1e-20)
            amplitude = (amplitude * factor).clamp(min=1e-12)
        return amplitude @ spread
