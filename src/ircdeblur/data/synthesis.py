"""Training pairs for Motion-Net: blurred luminance crops and the motion of every pixel, made in batches.

Everything runs on the device of the generator, so a GPU makes its own pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from ircdeblur.data.camera import FIELD_OF_VIEW_FOCALS
from ircdeblur.data.light import linear_to_srgb, srgb_to_linear
from ircdeblur.data.photos import LumaPhotos


def line_blur(image: torch.Tensor, motion: torch.Tensor, samples: int) -> torch.Tensor:
    """Blur by averaging samples along each pixel's motion (gather form).

    The samples' spread is chosen so that, with the bilinear interpolation between pixels, the line has the variance of
    the linear motion kernel of that length, (l^2 - 1) / 12; motions shorter than sqrt(3) leave the picture as it is.

    Parameters
    ----------
    image : (B, C, H + 2 m, W + 2 m) tensor
        Sharp pictures with a margin of m pixels.
    motion : (B, H, W, 2) tensor
        Pixels; u right, v down.
    samples : int
        Number of samples; at least the longest length for a line without gaps.

    Returns
    -------
    blurred : (B, C, H, W) tensor
    """
    batch, height, width, _ = motion.shape
    rows, columns = image.shape[-2:]
    squared = (motion**2).sum(-1, keepdim=True)
    reach = motion * torch.sqrt(((squared - 3).clamp(min=0)) / squared.clamp(min=1e-12))
    y = torch.arange(height, device=image.device, dtype=image.dtype) + (rows - height) / 2
    x = torch.arange(width, device=image.device, dtype=image.dtype) + (columns - width) / 2
    centre = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)
    scale = torch.tensor([2.0 / columns, 2.0 / rows], device=image.device, dtype=image.dtype)
    centre, reach = (centre + 0.5) * scale - 1, reach * scale
    t = (torch.arange(samples, device=image.device, dtype=image.dtype) + 0.5) / samples - 0.5
    grid = centre + t.view(1, samples, 1, 1, 1) * reach[:, None]
    taken = F.grid_sample(
        image, grid.view(batch, samples * height, width, 2), padding_mode="border", align_corners=False
    )
    return taken.view(batch, image.shape[1], samples, height, width).mean(2)


# The luminance table of JPEG (ITU-T T.81, Annex K), the one that cameras scale.
_JPEG_LUMINANCE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=torch.float32,
)


def jpeg_luminance(image: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Quantise luminance as a JPEG file of the given quality does.

    Parameters
    ----------
    image : (B, 1, H, W) tensor
        Values in [0, 1]; H and W are multiples of 8.
    quality : (B,) tensor
        50 to 100, as libjpeg counts it.
    """
    batch, _, height, width = image.shape
    n = torch.arange(8, dtype=image.dtype, device=image.device)
    dct = torch.cos(math.pi * (2 * n[None] + 1) * n[:, None] / 16) / 2
    dct[0] /= math.sqrt(2)
    blocks = image.view(batch, height // 8, 8, width // 8, 8).transpose(2, 3) * 255 - 128
    step = (_JPEG_LUMINANCE.to(image) * (2 - quality.view(-1, 1, 1) / 50)).round().clamp(min=1)[:, None, None]
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / step).round() * step) @ dct
    return ((blocks + 128) / 255).transpose(2, 3).reshape(batch, 1, height, width).clamp(0, 1)


@dataclass(frozen=True)
class PairSettings:
    """What the synthetic pairs look like.

    Attributes
    ----------
    crop : int
        Side of the crops in pixels, a multiple of 8.
    batch : int
        Crops per batch.
    max_length : float
        Longest motion in pixels.
    camera, uniform, turning, piecewise, still : float
        Relative frequency of: camera shakes; one motion for the crop; lengths and angles that change fast; two
        motions with a soft edge between them; no motion.
    max_noise : float
        Largest standard deviation of the Gaussian noise, on the [0, 1] scale.
    """

    crop: int = 144
    batch: int = 24
    max_length: float = 36.0
    camera: float = 0.45
    uniform: float = 0.15
    turning: float = 0.2
    piecewise: float = 0.12
    still: float = 0.08
    max_noise: float = 0.02


class SyntheticPairs(IterableDataset):
    """Endless batches of (blurred luminance, motion), the same for the same seed.

    Parameters
    ----------
    photos : LumaPhotos
        Where the crops come from.
    settings : PairSettings
        Sizes and frequencies.
    seed : int
        Seed of everything random here.
    device : torch.device or str
        Where the pairs are made.

    Yields
    ------
    blurred : (B, 1, crop, crop) float32 tensor
        In [0, 1], noisy and rounded to 8 bits.
    motion : (B, crop, crop, 2) float32 tensor
        Pixels; u right, v down.
    """

    def __init__(self, photos: LumaPhotos, settings: PairSettings, seed: int, device: torch.device | str = "cpu"):
        super().__init__()
        self.photos, self.settings, self.seed, self.device = photos, settings, seed, torch.device(device)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(self.seed)
        noise = torch.Generator(self.device).manual_seed(self.seed)
        while True:
            yield self.batch(rng, noise)

    def batch(self, rng: np.random.Generator, noise: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Make one batch."""
        s = self.settings
        margin = math.ceil(s.max_length / 2) + 1
        sharp = torch.stack([self.photos.crop(s.crop + 2 * margin, rng) for _ in range(s.batch)])
        sharp = sharp.to(self.device)[:, None].float() / 255
        motion = self.motions(rng)
        return self.degrade(sharp, motion, rng, noise), motion

    def degrade(
        self,
        sharp: torch.Tensor,
        motion: torch.Tensor,
        rng: np.random.Generator,
        noise: torch.Generator,
    ) -> torch.Tensor:
        """Blur as a camera does: in linear light or not, clipped, noisy, 8 bits, sometimes JPEG."""
        batch = len(sharp)

        def per_crop(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)

        linear = per_crop(rng.random(batch) < 0.5) > 0
        # Some highlights are brighter than the sensor can count; some pictures are dark.
        exposure = per_crop(
            np.where(rng.random(batch) < 0.3, rng.uniform(1.0, 1.4, batch), rng.uniform(0.6, 1.0, batch))
        )
        light = torch.where(linear, srgb_to_linear(sharp), sharp) * exposure
        blurred = self._blur(light, motion).clamp(0, 1)
        # Shot noise of 1 / photons at white, between none and a dim room's.
        shot = per_crop(rng.uniform(0, 0.01, batch) * (rng.random(batch) < 0.5))
        blurred = blurred + shot * blurred.sqrt() * torch.randn(blurred.shape, generator=noise, device=self.device)
        blurred = torch.where(linear, linear_to_srgb(blurred.clamp(0, 1)), blurred)
        sigma = per_crop(self.settings.max_noise * rng.random(batch) ** 2)
        blurred = blurred + sigma * torch.randn(blurred.shape, generator=noise, device=self.device)
        blurred = (blurred.clamp(0, 1) * 255).round() / 255
        compressed = jpeg_luminance(
            blurred, torch.as_tensor(rng.uniform(70, 98, batch), dtype=torch.float32).to(blurred)
        )
        return torch.where(per_crop(rng.random(batch) < 0.3) > 0, compressed, blurred)

    @staticmethod
    def _blur(light: torch.Tensor, motion: torch.Tensor, group: int = 4) -> torch.Tensor:
        """Blur crops of similar motion together: the longest of a group sets the number of samples of all."""
        longest = motion.norm(dim=-1).amax(dim=(1, 2))
        order = longest.argsort()
        blurred = [
            line_blur(light[part], motion[part], math.ceil(float(longest[part].max())) + 1)
            for part in order.split(group)
        ]
        return torch.cat(blurred)[order.argsort()]

    def motions(self, rng: np.random.Generator) -> torch.Tensor:
        """Draw the motion fields of one batch, (B, crop, crop, 2)."""
        s = self.settings
        kinds = ("camera", "uniform", "turning", "piecewise", "still")
        frequency = np.array([getattr(s, kind) for kind in kinds])
        fields = []
        for kind in rng.choice(kinds, size=s.batch, p=frequency / frequency.sum()):
            if kind == "piecewise":
                first, second = (
                    self._smooth(str(rng.choice(("camera", "uniform", "still"), p=(0.4, 0.4, 0.2))), rng)
                    for _ in range(2)
                )
                inside = self._segment(rng)[..., None]
                # Vectors of opposite sign are one blur: mix them as neighbours, not through zero.
                if (first * second).sum() < 0:
                    second = -second
                fields.append(first * (1 - inside) + second * inside)
            else:
                fields.append(self._smooth(str(kind), rng))
        return torch.from_numpy(np.stack(fields)).float().to(self.device)

    def _smooth(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        s = self.settings
        n = s.crop
        # Short and long motions are equally frequent; a few reach the very end of the range.
        length = rng.uniform(0.0, s.max_length)
        if kind == "still":
            return np.zeros((n, n, 2))
        if kind == "uniform":
            angle = rng.uniform(0, np.pi)
            return np.broadcast_to(length * np.array([np.cos(angle), -np.sin(angle)]), (n, n, 2)).copy()
        ahead = np.linspace(-0.5, 0.5, n)
        y, x = np.meshgrid(ahead, ahead, indexing="ij")
        if kind == "turning":
            along = rng.uniform(0, 2 * np.pi)
            ramp = np.cos(along) * x + np.sin(along) * y
            angle = rng.uniform(0, np.pi) + rng.normal() * np.deg2rad(50) * ramp
            along = rng.uniform(0, 2 * np.pi)
            lengths = length + rng.normal() * 12 * (np.cos(along) * x + np.sin(along) * y)
            lengths = np.clip(lengths, 0, s.max_length)
            return np.stack((lengths * np.cos(angle), -lengths * np.sin(angle)), axis=-1)
        # The crop is a window of a larger picture that a camera shook.
        longer = rng.uniform(320, 640)
        focal = rng.uniform(*FIELD_OF_VIEW_FOCALS) * longer
        reach = max(longer / 2 - n / 2, 0.0)
        x = x * n + rng.uniform(-reach, reach)
        y = y * n + rng.uniform(-0.75 * reach, 0.75 * reach)
        shift, pan = rng.normal(size=2) * rng.random(), rng.normal(size=2) * rng.random()
        roll, approach = rng.normal() * rng.random(), rng.normal() * rng.random() * 0.5
        roll, approach = (2 * focal / longer * c for c in (roll, approach))
        u = -focal * shift[0] + x * approach + pan[0] * x * y / focal - pan[1] * (focal + x**2 / focal) + roll * y
        v = -focal * shift[1] + y * approach + pan[0] * (focal + y**2 / focal) - pan[1] * x * y / focal - roll * x
        field = np.stack((u, v), axis=-1)
        return field * (length / np.hypot(u, v).max())

    def _segment(self, rng: np.random.Generator) -> np.ndarray:
        """Return a soft-edged segment, (crop, crop) in [0, 1]: a half plane or an ellipse."""
        n = self.settings.crop
        ahead = np.arange(n) - (n - 1) / 2
        y, x = np.meshgrid(ahead, ahead, indexing="ij")
        x, y = x - rng.uniform(-n / 3, n / 3), y - rng.uniform(-n / 3, n / 3)
        turn = rng.uniform(0, 2 * np.pi)
        x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        if rng.random() < 0.5:
            distance = x
        else:
            a, b = rng.uniform(n / 8, n / 2.5, size=2)
            distance = (1 - np.hypot(x / a, y / b)) * min(a, b)
        return 1 / (1 + np.exp(-np.clip(distance / rng.uniform(1.0, 6.0), -30, 30)))
