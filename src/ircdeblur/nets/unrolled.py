"""What the two unrolled networks share: what they are given, what they return, and what they start from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import nn

from ircdeblur.nets.x_layer import Blur
from ircdeblur.operators import UniformBlur
from ircdeblur.solvers.admm import Callback
from ircdeblur.solvers.color import from_opponent, to_opponent
from ircdeblur.solvers.compensation import Compensation
from ircdeblur.solvers.domain import MIN_NOISE, Observation
from ircdeblur.solvers.mm import majorise_minimise
from ircdeblur.solvers.settings import DEFAULTS, NOISE_EXPONENT

UNIT_NOISE = 0.01
"""Noise at which the initial penalties and thresholds hold."""

COLOR_SHARE = 0.3
"""Share of the steps of the networks' first estimate that the opponent colours take: 5 of 16, for a kernel too, where
the luma has twice as many. With 8, as ``irc-mm`` has of its 40, severe camera shakes on nine and twelve validation
pictures gained 0.01 dB more, moderate ones and kernels as much; astronaut and coffee, noise 0.4 %, 0.04 dB more with a
kernel and 0.07 with a field that changes fast."""


class UnrolledNet(nn.Module, ABC):
    """What both networks share: what they are given, and how."""

    def forward(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        callback: Callback | None = None,
    ) -> torch.Tensor:
        """Deconvolve.

        Parameters
        ----------
        y : (B, C, H, W) tensor
            Blurred images in [0, 1]: RGB, grey, or other channels, each of which is then a grey image.
        blur : UniformBlur or MotionBlur
            Their blur, with the boundary "extended".
        noise : float or (B,) tensor
            Standard deviation of the noise in y.
        error : (B or 1, H, W) tensor, optional
            Expected error of the motion in pixels; 0 if not given.
        mask : (B or 1, 1, H, W) tensor, optional
            1 where the observation counts.
        callback : callable, optional
            Called after each stage with its number, from 1 on, and its estimate of the frame.

        Returns
        -------
        x : (B, C, H, W) tensor
            Not clipped.
        """
        if y.shape[1] not in (1, 3):
            channels = range(y.shape[1])
            return torch.cat([self(y[:, c : c + 1], channel_blur(blur, c), noise, error, mask) for c in channels], 1)
        for number, x in enumerate(self.stages(y, blur, noise, error, mask), start=1):
            if callback is not None:
                callback(number, x)
        return x

    def estimates(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Return the frame of each stage's estimate, of images with one or three channels; see `forward`."""
        return list(self.stages(y, blur, noise, error, mask))

    @abstractmethod
    def stages(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the frame of each stage's estimate, of images with one or three channels; see `forward`."""


def has_channel_kernels(blur: Blur) -> bool:
    """Return whether each channel has a kernel of its own."""
    return isinstance(blur, UniformBlur) and blur.psf.ndim > 2 and blur.psf.shape[-3] > 1


def channel_blur(blur: Blur, channel: int) -> Blur:
    """Return the blur of one channel."""
    if has_channel_kernels(blur):
        assert isinstance(blur, UniformBlur)
        return UniformBlur(blur.psf[..., channel : channel + 1, :, :], blur.boundary, blur.margin)
    return blur


def noise_of_images(noise: float | torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the noise of each image, (B or 1, 1, 1, 1), not below `MIN_NOISE`."""
    return torch.as_tensor(noise, dtype=y.dtype, device=y.device).reshape(-1, 1, 1, 1).clamp(min=MIN_NOISE)


@torch.no_grad()
def first_estimate(
    observed: Observation,
    blur: Blur,
    noise: torch.Tensor,
    error: torch.Tensor | None,
    iterations: int,
    inverse: Compensation | None = None,
) -> torch.Tensor:
    """Return what the first stage starts from, (B, C, H', W'): some iterations of the solver ``irc-mm``.

    Borders take several steps of a method with memory, and teach a network nothing.

    Parameters
    ----------
    observed : Observation
        The blurred images (B, C, H, W).
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    noise : (B or 1, 1, 1, 1) tensor
        Standard deviation.
    error : (B or 1, H, W) tensor or None
        Expected error of the motion in pixels, which asks for a stronger prior.
    iterations : int
        Their number; twice as many for a kernel, whose inverse filters carry what is wrong at the borders across the
        whole picture.
    inverse : Compensation, optional
        Local inverse filters, as for `majorise_minimise`.
    """
    settings = DEFAULTS["irc-mm"]
    assert settings.color is not None
    lam = settings.prior * noise**2 * (noise / UNIT_NOISE) ** -NOISE_EXPONENT
    if error is not None:
        lam = lam * (1 + error.flatten(1).mean(1)[:, None, None, None]) ** 0.5
    opponent = observed.y.shape[1] == 3 and not has_channel_kernels(blur)
    if opponent:
        lam = lam * lam.new_tensor([1, settings.color, settings.color])[:, None, None]
        observed = Observation(to_opponent(observed.y), observed.mask)
    others = max(1, round(COLOR_SHARE * iterations)) if opponent else None
    iterations = iterations * 2 if isinstance(blur, UniformBlur) else iterations
    x = majorise_minimise(observed, blur, lam, iterations, others=others, inverse=inverse).whole
    assert x is not None
    return from_opponent(x) if opponent else x
