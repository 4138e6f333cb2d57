"""The extended domain: the pixels outside the frame that the blur has read are unknowns too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ircdeblur.operators import MotionBlur, UniformBlur

MIN_NOISE = 0.002
"""Settings are those of at least this noise: 8-bit rounding alone is 0.0011, and models are never exact."""


@dataclass(frozen=True)
class Observation:
    """A blurred image and what its pixels say.

    Attributes
    ----------
    y : (B, C, H, W) tensor
        Blurred image.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the pixel counts, 0 where it does not: where the sensor was saturated, it says little of the light.
    """

    y: torch.Tensor
    mask: torch.Tensor | None = None

    def misfit(self, blurred: torch.Tensor) -> torch.Tensor:
        """Return what a blurred estimate has too much, zero where the pixel does not count.

        Parameters
        ----------
        blurred : (B, C, H, W) tensor
            The blur of an estimate.
        """
        return self.masked(blurred - self.y)

    def masked(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image (B, C, H, W) with zeros where the observation does not count."""
        return image if self.mask is None else image * self.mask


class ExtendedDomain:
    """Data term on the frame, x on the frame and its margin.

    Parameters
    ----------
    observed : Observation
        The blurred image.
    blur : UniformBlur or MotionBlur
        With the boundary "extended": maps (H + 2 my, W + 2 mx) to (H, W).

    Attributes
    ----------
    shape : (int, int)
        Size of x.
    """

    def __init__(self, observed: Observation, blur: UniformBlur | MotionBlur):
        if blur.boundary != "extended":
            raise ValueError(f"the blur must have the boundary 'extended', got {blur.boundary!r}")
        self.observed, self.blur = observed, blur
        self.margin: tuple[int, int] = blur.margin
        frame = observed.y.shape[-2:]
        self.shape = (frame[0] + 2 * self.margin[0], frame[1] + 2 * self.margin[1])

    def start(self) -> torch.Tensor:
        """Return y, continued outward by its rim."""
        my, mx = self.margin
        return F.pad(self.observed.y, (mx, mx, my, my), mode="replicate")

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """Return A x - y, where it counts."""
        return self.observed.misfit(self.blur.A(x))

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """Return the frame of x."""
        my, mx = self.margin
        return x[..., my : x.shape[-2] - my, mx : x.shape[-1] - mx]
