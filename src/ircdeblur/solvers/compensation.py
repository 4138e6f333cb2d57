"""Compensation of what is left to explain: sum_i d_i * r_i with the local inverse filters of the least-squares problem.

For the x-update of Eq. 5 the inverse filters of unlimited support are d_i = C^-1 k_i' with C = sum_i k_i' k_i, so that

    sum_i d_i * r_i  =  C^-1 (k_0' r_0 + k_1' r_1 + ... + k_n' r_n).

The sum in the brackets is applied exactly, with the transpose of the very blur. What remains is one filter for all
residuals, C^-1, which is symmetric and positive and may be approximate: the iteration x <- x + sum_i d_i * r_i then
ends at the least-squares solution itself, while filters that fit the blur only nearly end beside it.

For one kernel C^-1 is a division in the Fourier domain. For a motion field it is divided locally, in overlapping
windows: C is there the average of the power spectra of the bank's kernels, each with the share of the window's pixels
that move like it (the circulant matrix nearest to A'A, after T. Chan), but for windows across the border, see
`PARTLY_OBSERVED`. With windows of P x P pixels, P/2 apart, one
compensation takes two real transforms of four times the picture, whatever the motion.

References
----------
T. Chan, "An optimal circulant preconditioner for Toeplitz systems", SIAM J. Sci. Stat. Comput. 9, 1988.
J. Nagy, D. O'Leary, "Restoring images degraded by spatially variant blur", SIAM J. Sci. Comput. 19, 1998.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import scipy.fft
import torch
from torch.nn import functional as F

from ircdeblur.kernels import MotionBank
from ircdeblur.motion import bank_interpolation, to_polar
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.filtering import centred_response

WINDOW = 96
"""Side P of the windows in pixels: long against the motions (35 px), short against the changes of the field."""

PARTLY_OBSERVED = 0.4
"""A window of which the share s was observed has the power of a whole one times s to this. By the average, 1, the
inverse is too strong for the part that was observed, and the step, which is one for all windows, becomes short:
``benchmarks/tune_settings.py --block border``."""

SAMPLING = 4
"""Every so many pixels, along both axes, a motion is read for the windows' average power."""


def gradient_power(size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
    """Return |K_1|^2 + |K_2|^2 of the two first differences, (H, W // 2 + 1).

    Parameters
    ----------
    size : (H, W)
        Of the transform.
    like : tensor
        Precision and device of the result.
    """
    rows = 2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(size[0], dtype=torch.float64))
    columns = 2 - 2 * torch.cos(2 * math.pi * torch.fft.rfftfreq(size[1], dtype=torch.float64))
    return (rows[:, None] + columns).to(like)


Gain = Callable[[torch.Tensor], torch.Tensor]


class Compensation(ABC):
    """The local inverse C^-1 of ``A'A + sum_i rho K_i'K_i``, on the domain of x.

    Differentiable in the image, in the penalty, and in the motion if that asks for it.

    Attributes
    ----------
    size : (int, int)
        Of the Fourier transforms.
    floor : float
        What is added to |K_i|^2 of each prior filter, so that a place where nothing was observed is not divided by 0.
    """

    size: tuple[int, int]
    floor: float
    _inverse: torch.Tensor
    _factor: torch.Tensor | None = None

    def _set_inverse(self, inverse: torch.Tensor) -> None:
        self._inverse, self._factor = inverse, None

    def _complex(self) -> torch.Tensor:
        """Return the inverse as complex numbers, without derivatives."""
        if self._factor is None:
            inverse = self._inverse.detach()
            self._factor = torch.complex(inverse, torch.zeros_like(inverse))
        return self._factor

    def keep_first_channel(self) -> None:
        """Forget the penalties of all channels but the first: images have but that one from now on."""
        self._set_inverse(self._inverse[:, :1])

    @abstractmethod
    def set_penalty(self, rho: torch.Tensor, prior: torch.Tensor | None = None) -> None:
        """Set the weight of the prior.

        Parameters
        ----------
        rho : (B or 1, C or 1, n, m) tensor
            Positive; one for each place, as `local_mean` returns them, or n = m = 1.
        prior : (C or 1, h, w // 2 + 1) tensor, optional
            sum_i (|K_i|^2 + floor) of other prior filters than the two first differences, at the size of the
            transforms, (h, w).
        """

    @abstractmethod
    def local_mean(self, image: torch.Tensor) -> torch.Tensor:
        """Return the mean of an image (B, C, H', W') around each place, (B, C, n, m)."""

    @abstractmethod
    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return C^-1 of an image (B, C, H', W')."""


class UniformCompensation(Compensation):
    """One kernel: a division in the Fourier domain.

    Parameters
    ----------
    blur : UniformBlur
        With the boundary "extended".
    shape : (H', W')
        Of the domain of x.
    """

    def __init__(self, blur: UniformBlur, shape: tuple[int, int]):
        self.shape = shape
        height, width = (int(scipy.fft.next_fast_len(n, real=True)) for n in shape)
        self.size, self.floor = (height, width), 0.0
        self._power = centred_response(blur.psf.detach(), self.size).abs().square()
        self._gradients = gradient_power(self.size, self._power)
        self._set_inverse(torch.ones_like(self._power))

    def set_penalty(self, rho: torch.Tensor, prior: torch.Tensor | None = None) -> None:
        """Set the weight of the prior, (B or 1, C or 1, 1, 1)."""
        self._set_inverse(1 / (self._power + rho * (self._gradients if prior is None else prior)))

    def local_mean(self, image: torch.Tensor) -> torch.Tensor:
        """Return the mean of the image, (B, C, 1, 1)."""
        return image.mean((-2, -1), keepdim=True)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return C^-1 of an image (B, C, H', W')."""
        spectrum = torch.fft.rfft2(image, s=self.size)
        # In place, and by complex numbers: mixed products are not vectorised, and take as long as a transform.
        spectrum = spectrum * self._inverse if _tracked(image, self._inverse) else spectrum.mul_(self._complex())
        return torch.fft.irfft2(spectrum, s=self.size)[..., : self.shape[0], : self.shape[1]]


class MotionCompensation(Compensation):
    """A motion field: a division in the Fourier domain of overlapping windows.

    Windows are applied before and after the division, so C^-1 is symmetric; their squares add up to 1.

    Parameters
    ----------
    blur : MotionBlur
        With the boundary "extended".
    shape : (H', W')
        Of the domain of x.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observation counts.
    window : int
        P, even.
    gain : callable, optional
        Gives the factors of the inverse filters at every frequency, (N, P, P // 2 + 1), from the shares (N, 511) of the
        bank's motions in the windows, which add up to 1.
    """

    def __init__(
        self,
        blur: MotionBlur,
        shape: tuple[int, int],
        mask: torch.Tensor | None = None,
        window: int = WINDOW,
        gain: Gain | None = None,
    ):
        self.shape, self.window, self.step = shape, window, window // 2
        self.size, self.floor = (window, window), (math.pi / window) ** 2
        self.counts = tuple(-(-n // self.step) + 1 for n in shape)
        after = [(count + 1) * self.step - self.step - n for count, n in zip(self.counts, shape, strict=True)]
        self._pad = (self.step, after[1], self.step, after[0])
        motion = blur.motion
        sine = torch.sin(math.pi / window * (torch.arange(window, dtype=motion.dtype, device=motion.device) + 0.5))
        self._taper = sine[:, None] * sine
        fields = motion if motion.ndim == 4 else motion[None]
        masks = [None] * len(fields) if mask is None else list(mask.expand(len(fields), -1, -1, -1)[:, 0])
        shares = torch.stack([self._shares(f, blur.margin, m) for f, m in zip(fields, masks, strict=True)])
        power = _bank_power(window, motion.dtype, motion.device)
        windows = (len(fields), 1, *self.counts, *power.shape[1:])
        observed = shares.sum(-1, keepdim=True)
        share = shares / observed.clamp(min=1e-6)
        self._power = (share * observed**PARTLY_OBSERVED @ power.flatten(1)).view(windows)
        share = share.flatten(0, 1)
        self._gain = None if gain is None else gain(share).view(windows)
        # The floor is the window's own slope.
        self._gradients = gradient_power((window, window), motion.detach()) + 2 * self.floor
        self._set_inverse(torch.ones_like(self._power))

    def _shares(self, motion: torch.Tensor, margin: tuple[int, int], mask: torch.Tensor | None) -> torch.Tensor:
        """Return the share of each of the bank's motions in each window, (n m, 511): 1 in all where all is observed."""
        places, weights = [], []
        for size, before in zip(motion.shape[:2], margin, strict=True):
            samples = torch.arange((min(size, SAMPLING) - 1) // 2, size, SAMPLING, device=motion.device)
            places.append(samples + before + self.step)
            cells = samples.new_full((len(samples),), SAMPLING)
            cells[-1] = size - SAMPLING * (len(samples) - 1)
            weights.append(cells.to(motion.dtype))
        rows, columns = (p - before - self.step for p, before in zip(places, margin, strict=True))
        sampled = motion[rows][:, columns]
        # No motion has no derivative: there the gradient is 0.
        length, angle = to_polar(torch.where(sampled.square().sum(-1, keepdim=True) > 1e-8, sampled, 1e-5))
        indices, share = bank_interpolation(length.flatten(), angle.flatten(), "bilinear")
        area = weights[0][:, None] * weights[1]
        if mask is not None:
            area = area * mask[rows][:, columns]
        total = motion.new_zeros(self.counts[0] * self.counts[1], len(MotionBank()))
        for down in (0, 1):
            for right in (0, 1):
                windows = [p // self.step - shift for p, shift in zip(places, (down, right), strict=True)]
                taper = [
                    torch.sin(math.pi / self.window * (p - w * self.step + 0.5)).square()
                    for p, w in zip(places, windows, strict=True)
                ]
                weight = (area * taper[0].to(area)[:, None] * taper[1].to(area)).flatten()
                place = (windows[0][:, None] * self.counts[1] + windows[1]).flatten()
                for k in range(indices.shape[-1]):
                    total.index_put_((place, indices[:, k]), weight * share[:, k], accumulate=True)
        return total / (self.window / 2) ** 2

    def set_penalty(self, rho: torch.Tensor, prior: torch.Tensor | None = None) -> None:
        """Set the weight of the prior, (B or 1, C or 1, n, m) or with n = m = 1."""
        power = self._gradients if prior is None else prior[:, None, None]
        inverse = 1 / torch.addcmul(self._power, rho[..., None, None], power)
        self._set_inverse(inverse if self._gain is None else inverse * self._gain)

    def local_mean(self, image: torch.Tensor) -> torch.Tensor:
        """Return the mean of the image in each window, (B, C, n, m)."""
        return F.avg_pool2d(F.pad(image, self._pad, mode="replicate"), self.window, self.step)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return C^-1 of an image (B, C, H', W')."""
        if _tracked(image, self._inverse) or image.device.type != "cpu":
            return self._divide_all(image)  # a GPU waits for its next operation more than for memory
        inverse = self._complex()
        inverse = inverse.expand(*image.shape[:2], *inverse.shape[2:])
        result = torch.empty_like(image)
        # One channel at a time: its windows are four times the picture, and stay in the processor's cache.
        for b in range(image.shape[0]):
            for c in range(image.shape[1]):
                self._divide(image[b, c], inverse[b, c], result[b, c])
        return result

    def _divide_all(self, image: torch.Tensor) -> torch.Tensor:
        """Return C^-1 of an image (B, C, H', W'), differentiable, all windows at once."""
        (n, m), step = self.counts, self.step
        tiles = F.pad(image, self._pad).unfold(2, self.window, step).unfold(3, self.window, step) * self._taper
        spectra = torch.fft.rfft2(tiles) * self._inverse
        tiles = torch.fft.irfft2(spectra, s=(self.window, self.window)) * self._taper
        quarters = tiles.view(*image.shape[:2], n, m, 2, step, 2, step)
        whole = sum(
            F.pad(quarters[:, :, :, :, down, :, right].transpose(3, 4), (0, 0, right, 1 - right, 0, 0, down, 1 - down))
            for down in (0, 1)
            for right in (0, 1)
        )
        assert isinstance(whole, torch.Tensor)
        whole = whole.reshape(*image.shape[:2], (n + 1) * step, (m + 1) * step)
        return whole[..., step : step + self.shape[0], step : step + self.shape[1]]

    def _divide(self, image: torch.Tensor, inverse: torch.Tensor, result: torch.Tensor) -> None:
        """Write C^-1 of one channel (H', W') into the result."""
        (n, m), step = self.counts, self.step
        padded = F.pad(image, self._pad)
        tiles = padded.unfold(0, self.window, step).unfold(1, self.window, step) * self._taper
        spectra = torch.fft.rfft2(tiles).mul_(inverse)
        tiles = torch.fft.irfft2(spectra, s=(self.window, self.window)).mul_(self._taper)
        quarters = tiles.view(n, m, 2, step, 2, step)
        whole = padded.zero_().view(n + 1, step, m + 1, step)
        for down in (0, 1):
            for right in (0, 1):
                whole[down : down + n, :, right : right + m] += quarters[:, :, down, :, right].transpose(1, 2)
        result.copy_(padded[step : step + self.shape[0], step : step + self.shape[1]])


def _tracked(*tensors: torch.Tensor) -> bool:
    """Return whether gradients are to flow through any of the tensors, so that nothing may be done in place."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


@functools.lru_cache(maxsize=4)
def _bank_power(window: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return |K|^2 of the bank's kernels on a window, (511, P, P // 2 + 1)."""
    kernels = torch.from_numpy(np.array(MotionBank().kernels)).to(device, dtype)
    return centred_response(kernels, (window, window)).abs().square()


def local_inverse(
    blur: UniformBlur | MotionBlur,
    shape: tuple[int, int],
    mask: torch.Tensor | None = None,
    gain: Gain | None = None,
) -> Compensation:
    """Return the compensation of a blur.

    Parameters
    ----------
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    shape : (H', W')
        Of the domain of x.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observation counts.
    gain : callable, optional
        Of the inverse filters of motions, see `MotionCompensation`.
    """
    if isinstance(blur, UniformBlur):
        return UniformCompensation(blur, shape)
    return MotionCompensation(blur, shape, mask, gain=gain)
