"""Motion-Net: the motion of every pixel, seen in one blurred photograph (section 3.1 of the paper)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.nets.layers import AtrousPyramid, ChannelNorm, ResidualBlock

STRIDE = 8
"""Output stride of the network, as DeepLab's."""


def half_circle(lags: dict[int, int]) -> list[tuple[int, int]]:
    """Return the distinct integer shifts (dx, dy) of the given lags, each in so many directions of the half circle."""
    shifts: dict[tuple[int, int], None] = {}
    for lag, directions in lags.items():
        for k in range(directions):
            angle = math.pi * k / directions
            shifts[round(lag * math.cos(angle)), -round(lag * math.sin(angle))] = None
    return list(shifts)


FULL_SHIFTS = half_circle({1: 4, 2: 8, 4: 8, 7: 12, 11: 16})
"""Shifts in pixels at which the picture is compared with itself."""

HALF_SHIFTS = half_circle({8: 18, 10: 18, 13: 18, 17: 18})
"""Shifts in pixels of the half-size picture."""


def autocorrelation(dx: torch.Tensor, dy: torch.Tensor, shifts: list[tuple[int, int]], cell: int) -> torch.Tensor:
    """Return the mean product of gradients a shift apart, in cells.

    A picture's own gradients decorrelate within a pixel or two; the motion draws them out into a ridge along its
    direction that falls to zero at its length.

    Parameters
    ----------
    dx, dy : (B, 1, H, W) tensors
        Gradients.
    shifts : list of (dx, dy)
        The first factor lies half the shift behind the cell's pixel, the second half of it ahead.
    cell : int
        Side of the square cells in pixels; H and W are multiples of it.

    Returns
    -------
    means : (B, len(shifts), H / cell, W / cell) tensor
    """
    height, width = dx.shape[-2:]
    reach = (max(max(abs(x), abs(y)) for x, y in shifts) + 1) // 2
    gradients = [F.pad(g, (reach,) * 4) for g in (dx, dy)]

    def moved(g: torch.Tensor, x: int, y: int) -> torch.Tensor:
        return g[..., reach + y : reach + y + height, reach + x : reach + x + width]

    means = []
    for x, y in shifts:
        behind, ahead = (-(x // 2), -(y // 2)), (x - x // 2, y - y // 2)
        along_x, along_y = (moved(g, *behind) * moved(g, *ahead) for g in gradients)
        means.append(F.avg_pool2d(along_x + along_y, cell))
    return torch.cat(means, dim=1)


@dataclass(frozen=True)
class MotionNetConfig:
    """Size of a Motion-Net.

    Attributes
    ----------
    stem : int
        Filters of the full-resolution layer.
    widths : (int, int, int)
        Channels at strides 2, 4 and 8.
    blocks : (int, int, int)
        Residual blocks at strides 2, 4 and 8.
    pyramid : int
        Channels of the atrous pyramid.
    rates : tuple of int
        Its dilation rates.
    """

    stem: int = 12
    widths: tuple[int, int, int] = (24, 48, 96)
    blocks: tuple[int, int, int] = (1, 1, 4)
    pyramid: int = 80
    rates: tuple[int, ...] = (1, 3, 6, 9)


class MotionNet(nn.Module):
    """DeepLab-style regression of the motion, with the scale of its error.

    What blur leaves in a picture is the anisotropy of its fine gradients. So the network sees the first differences of
    the luminance, divided by their local energy, and filters them at full resolution with a rectifier of both signs
    before the first pooling. A network that has only these stands still for tens of thousands of crops before it finds
    that anisotropy; so it is also shown the local autocorrelation of the gradients, in which a motion is a ridge of its
    direction and length, and joins both at the output stride.

    Parameters
    ----------
    config : MotionNetConfig, optional
        The size of the network.

    References
    ----------
    Eboli, Sun & Ponce, section 3.1, with the double-angle vector in place of (length, angle), which has no jump at
    180 degrees, and a Laplace likelihood that learns where the motion cannot be seen.
    """

    ENERGY_WINDOW = 31
    ENERGY_FLOOR = 0.004
    LENGTH_UNIT = 16.0
    WINDOWS = (5, 11)
    """Sides, in cells of 8 pixels, of the windows in which the autocorrelation is averaged."""

    def __init__(self, config: MotionNetConfig | None = None):
        super().__init__()
        self.config = c = config or MotionNetConfig()
        self.stem = nn.Conv2d(3, c.stem, 7, padding=3)
        entries, stages = [], []
        channels = 2 * c.stem
        for width, count in zip(c.widths, c.blocks, strict=True):
            dilations = [1 if i < count // 2 or width != c.widths[-1] else 2 for i in range(count)]
            entries.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
            stages.append(nn.Sequential(*(ResidualBlock(width, d) for d in dilations)))
            channels = width
        self.entries, self.stages = nn.ModuleList(entries), nn.ModuleList(stages)
        features = len(self.WINDOWS) * (len(FULL_SHIFTS) + len(HALF_SHIFTS))
        self.correlations = nn.Conv2d(features, channels, 1)
        self.shortcut = nn.Conv2d(features, 3, 1)
        self.pyramid = AtrousPyramid(channels, c.pyramid, c.rates)
        self.norm = ChannelNorm(c.pyramid)
        self.head = nn.Conv2d(c.pyramid, c.pyramid, 1)
        self.out = nn.Conv2d(c.pyramid, 3, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            for parameter in (self.out.bias, *self.shortcut.parameters()):
                assert parameter is not None
                parameter.zero_()

    def normalised_gradients(self, luma: torch.Tensor, window: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the first differences in x and y divided by the root of their local energy, and that root."""
        padded = F.pad(luma, (0, 1, 0, 1), mode="replicate")
        dx, dy = padded[..., :-1, 1:] - luma, padded[..., 1:, :-1] - luma
        squared = F.pad(dx**2 + dy**2, (window // 2,) * 4, mode="replicate")
        # A box filter as two one-dimensional means: 62 additions a pixel, not 961.
        energy = F.avg_pool2d(F.avg_pool2d(squared, (window, 1), 1), (1, window), 1)
        scale = torch.sqrt(energy + self.ENERGY_FLOOR**2)
        return dx / scale, dy / scale, scale

    def correlation_features(self, luma: torch.Tensor, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """Return the local autocorrelation of the gradients in windows of two sizes, (B, K, H / 8, W / 8).

        Long shifts are looked at in the picture of half the size. Gradients are limited, so that a single edge does
        not speak for its whole surroundings.
        """
        half = self.normalised_gradients(F.avg_pool2d(luma, 2), self.ENERGY_WINDOW // 4 * 2 + 1)[:2]
        features = []
        for gradients, shifts, cell in (((dx, dy), FULL_SHIFTS, STRIDE), (half, HALF_SHIFTS, STRIDE // 2)):
            gx, gy = (g.clamp(-3, 3) for g in gradients)
            raw = autocorrelation(gx, gy, [(0, 0), *shifts], cell)
            for window in self.WINDOWS:
                mean = F.avg_pool2d(raw, window, 1, window // 2, count_include_pad=False)
                # Scaled to about unit variance.
                features.append(mean[:, 1:] * 5 / (mean[:, :1] + 0.02))
        return torch.cat(features, dim=1)

    def forward_grid(self, image: torch.Tensor) -> torch.Tensor:
        """Return the raw output on the network's own grid.

        Parameters
        ----------
        image : (B, 1 or 3, H, W) tensor
            Luminance or RGB in [0, 1]; H and W are multiples of 8.

        Returns
        -------
        grid : (B, 3, H / 8, W / 8) float32 tensor
            Double-angle vector in units of 16 pixels, and the logarithm of the Laplace scale of its error.
        """
        if image.shape[1] == 3:
            luma = (image * image.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)
        elif image.shape[1] == 1:
            luma = image
        else:
            raise ValueError(f"image must have 1 or 3 channels, got {image.shape[1]}")
        dx, dy, scale = self.normalised_gradients(luma, self.ENERGY_WINDOW)
        features = self.correlation_features(luma, dx, dy)
        correlations = self.correlations(features)
        x = self.stem(torch.cat((dx, dy, 0.5 * torch.log(scale) + 2.0), dim=1))
        x = torch.cat((F.relu(x), F.relu(-x)), dim=1)
        for i, (entry, stage) in enumerate(zip(self.entries, self.stages, strict=True)):
            x = entry(x)
            x = stage(x + correlations if i == len(self.stages) - 1 else x)
        x = F.relu(self.norm(self.pyramid(x)))
        x = F.relu(self.head(x))
        # What is linear in the autocorrelation takes the short way and is learned within a few hundred steps.
        return (self.out(x) + self.shortcut(features)).float()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the double-angle motion of every pixel and the scale of its error.

        Parameters
        ----------
        image : (B, 1 or 3, H, W) tensor
            Luminance or RGB in [0, 1], any size.

        Returns
        -------
        double : (B, H, W, 2) tensor
            (l cos 2a, l sin 2a) in pixels.
        scale : (B, H, W) tensor
            Expected size of the error of `double`, in pixels.
        """
        height, width = image.shape[-2:]
        bottom, right = -height % STRIDE, -width % STRIDE
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom), mode="replicate")
        grid = self.forward_grid(image)
        full = F.interpolate(grid, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        full = full[..., :height, :width]
        double = (full[:, :2] * self.LENGTH_UNIT).permute(0, 2, 3, 1)
        # A two-dimensional Laplace density of scale b has the mean error 2 b.
        return double, 2 * self.LENGTH_UNIT * torch.exp(full[:, 2])
