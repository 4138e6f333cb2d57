"""The extended domain: the pixels outside the frame that the blur has read are unknowns too."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ircdeblur.operators import MotionBlur, UniformBlur


class ExtendedDomain:
    """Data term on the frame, x on the frame and its margin.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image.
    blur : UniformBlur or MotionBlur
        With the boundary "extended": maps (H + 2 my, W + 2 mx) to (H, W).
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observed pixel counts, 0 where it does not.
    """

    def __init__(self, y: torch.Tensor, blur: UniformBlur | MotionBlur, mask: torch.Tensor | None = None):
        if blur.boundary != "extended":
            raise ValueError(f"the blur must have the boundary 'extended', got {blur.boundary!r}")
        self.y, self.blur, self.mask = y, blur, mask
        self.margin: tuple[int, int] = blur.margin

    def masked(self, residual: torch.Tensor) -> torch.Tensor:
        """Return the residual with zeros where the observation does not count."""
        return residual if self.mask is None else residual * self.mask

    def start(self) -> torch.Tensor:
        """Return y, continued outward by its rim."""
        my, mx = self.margin
        return F.pad(self.y, (mx, mx, my, my), mode="replicate")

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """Return A x - y."""
        return self.masked(self.blur.A(x) - self.y)

    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """Return the frame of x."""
        my, mx = self.margin
        return x[..., my : x.shape[-2] - my, mx : x.shape[-1] - mx]
