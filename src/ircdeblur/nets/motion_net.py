"""Motion-Net: the motion of every pixel, seen in one blurred photograph (section 3.1 of the paper)."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.motion import from_double_angle, to_double_angle, to_polar
from ircdeblur.nets.hub import HubMixin
from ircdeblur.nets.layers import AtrousPyramid, ChannelNorm, ResidualBlock, has_fast_bfloat16

STRIDE = 8
"""Output stride of the network, as DeepLab's."""

LENGTH_UNIT = 16.0
"""Pixels to which the network's lengths are relative."""


def half_circle(lags: dict[int, int]) -> list[tuple[int, int]]:
    """Return the distinct integer shifts (dx, dy) of the given lags, each in so many directions of the half circle."""
    shifts: dict[tuple[int, int], None] = {}
    for lag, directions in lags.items():
        for k in range(directions):
            angle = math.pi * k / directions
            shifts[round(lag * math.cos(angle)), -round(lag * math.sin(angle))] = None
    return list(shifts)


FULL_SHIFTS = half_circle({1: 4, 2: 8, 3: 8, 5: 12, 7: 16, 9: 16, 11: 18})
"""Shifts in pixels at which the picture is compared with itself."""

HALF_SHIFTS = half_circle({lag: 16 if lag < 8 else 20 for lag in range(5, 19)})
"""Shifts in pixels of the half-size picture.

Along each direction they are two pixels of the whole one apart, as the length shows in the second difference: the
autocorrelation of a blurred picture's gradients falls in a straight line and has its knee at the length of the motion.
"""


def autocorrelation(
    dx: torch.Tensor, dy: torch.Tensor, shifts: list[tuple[int, int]], cell: int, step: int = 1
) -> torch.Tensor:
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
    step : int
        Average over every so many pixels of every so many rows; it divides the cell.

    Returns
    -------
    means : (B, len(shifts), H / cell, W / cell) tensor
    """
    height, width = (n // step for n in dx.shape[-2:])
    reach = (max(max(abs(x), abs(y)) for x, y in shifts) + 1) // 2
    # Pixels a step apart side by side in memory.
    phases = [
        [[F.pad(g, (reach,) * 4)[..., i::step, j::step].contiguous() for j in range(step)] for i in range(step)]
        for g in (dx, dy)
    ]

    def moved(phase: list[list[torch.Tensor]], x: int, y: int) -> torch.Tensor:
        (y, i), (x, j) = divmod(reach + y, step), divmod(reach + x, step)
        return phase[i][j][..., y : y + height, x : x + width]

    means = []
    for x, y in shifts:
        behind, ahead = (-(x // 2), -(y // 2)), (x - x // 2, y - y // 2)
        along_x, along_y = (moved(g, *behind) * moved(g, *ahead) for g in phases)
        means.append(F.avg_pool2d(along_x.add_(along_y), cell // step))
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
    output : {"double", "polar", "vector"}
        What is regressed: the double-angle vector; length and angle as in the paper, which jumps at 180 degrees; the
        vector in the half plane, which jumps at its border. The last two are there to be compared with.
    """

    stem: int = 12
    widths: tuple[int, int, int] = (24, 48, 96)
    blocks: tuple[int, int, int] = (1, 1, 4)
    pyramid: int = 80
    rates: tuple[int, ...] = (1, 3, 6, 9)
    output: Literal["double", "polar", "vector"] = "double"

    def __post_init__(self) -> None:
        if self.output not in ("double", "polar", "vector"):
            raise ValueError(f"output must be 'double', 'polar' or 'vector', got {self.output!r}")


SIZES = {
    "small": MotionNetConfig(),
    "base": MotionNetConfig(stem=16, widths=(32, 64, 128), blocks=(1, 2, 6), pyramid=112),
}
"""The two sizes that are shipped."""


class MotionNet(nn.Module, HubMixin):
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

    Attributes
    ----------
    fast : bool
        Convolve in bfloat16 where the device is made for it (see `has_fast_bfloat16`), all but the last layers, and not
        while training.

    References
    ----------
    Eboli, Sun & Ponce, section 3.1, with the double-angle vector in place of (length, angle), which has no jump at
    180 degrees, and a Laplace likelihood that learns where the motion cannot be seen.
    """

    network = "motion-net"
    about = "Motion-Net: how each pixel of a photograph moved, seen in the blurred photograph alone."
    config_class = MotionNetConfig

    ENERGY_WINDOW = 31
    ENERGY_FLOOR = 0.004
    WINDOWS = (5, 11)
    """Sides, in cells of 8 pixels, of the windows in which the autocorrelation is averaged."""

    def __init__(self, config: MotionNetConfig | None = None):
        super().__init__()
        self.config = c = config or MotionNetConfig()
        self.fast = True
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
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

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
        for gradients, shifts, cell, step in (
            ((dx, dy), FULL_SHIFTS, STRIDE, 2),
            (half, HALF_SHIFTS, STRIDE // 2, 1),
        ):
            gx, gy = (g.clamp(-3, 3) for g in gradients)
            raw = autocorrelation(gx, gy, [(0, 0), *shifts], cell, step)
            for window in self.WINDOWS:
                # One axis after the other, as above.
                mean = raw
                for side, around in (((window, 1), (window // 2, 0)), ((1, window), (0, window // 2))):
                    mean = F.avg_pool2d(mean, side, 1, around, count_include_pad=False)
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
            Two values of the motion (see `encode`), and the logarithm of the Laplace scale of their error.
        """
        luma = luminance(image)
        dx, dy, scale = self.normalised_gradients(luma, self.ENERGY_WINDOW)
        features = self.correlation_features(luma, dx, dy)
        seen = torch.cat((dx, dy, 0.5 * torch.log(scale) + 2.0), dim=1)
        with self._precision(image.device):
            x = self._deep(seen, features)
        x = F.relu(self.head(x.to(seen)))
        # What is linear in the autocorrelation takes the short way and is learned within a few hundred steps.
        return (self.out(x) + self.shortcut(features)).float()

    def _deep(self, seen: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Return what the head is shown, of gradients and energy (B, 3, H, W) and `correlation_features`."""
        correlations = self.correlations(features)
        x = self.stem(seen)
        x = torch.cat((F.relu(x), F.relu(-x)), dim=1)
        for i, (entry, stage) in enumerate(zip(self.entries, self.stages, strict=True)):
            x = entry(x)
            x = stage(x + correlations if i == len(self.stages) - 1 else x)
        return F.relu(self.norm(self.pyramid(x)))

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which all but the last layers are computed; a training chooses its own."""
        single = self.out.weight.dtype == torch.float32
        if self.fast and single and not self.training and has_fast_bfloat16(device):
            return torch.autocast(device.type, torch.bfloat16)
        return nullcontext()

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
        return self.answer(self.forward_grid(image), height, width)

    def answer(self, grid: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what `forward` does, of the raw output on the network's grid and the size of the image."""
        full = F.interpolate(grid, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        full = full[..., :height, :width]
        double = decode(full[:, :2].permute(0, 2, 3, 1), self.config.output)
        # A two-dimensional Laplace density of scale b has the mean error 2 b.
        return double, 2 * LENGTH_UNIT * torch.exp(full[:, 2])


def luminance(image: torch.Tensor) -> torch.Tensor:
    """Return the luminance (B, 1, H, W) of luminance or RGB (B, 1 or 3, H, W); other channels raise `ValueError`."""
    if image.shape[1] not in (1, 3):
        raise ValueError(f"image must have 1 or 3 channels, got {image.shape[1]}")
    if image.shape[1] == 1:
        return image
    return (image * image.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)


def encode(double: torch.Tensor, output: str) -> torch.Tensor:
    """Return what a network of the given output is to answer for double-angle vectors (..., 2) in pixels.

    For "double" the vector itself, for "vector" the canonical motion vector, both in units of 16 pixels; for "polar"
    the length in these units and the angle from -1 to 1 for 0 to 180 degrees.
    """
    if output == "double":
        return double / LENGTH_UNIT
    vector = from_double_angle(double)
    if output == "vector":
        return vector / LENGTH_UNIT
    length, angle = to_polar(vector)
    return torch.stack((length / LENGTH_UNIT, angle / 90 - 1), -1)


def decode(values: torch.Tensor, output: str) -> torch.Tensor:
    """Return the double-angle vectors in pixels that a network's values (..., 2) mean; the inverse of `encode`."""
    if output == "double":
        return values * LENGTH_UNIT
    if output == "vector":
        return to_double_angle(values * LENGTH_UNIT)
    length, turn = values[..., 0].clamp(min=0) * LENGTH_UNIT, math.pi * (values[..., 1] + 1)
    return torch.stack((length * torch.cos(turn), length * torch.sin(turn)), -1)
