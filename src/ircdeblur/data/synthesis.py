"""Training pairs: crops of photographs blurred as cameras blur them, and the motion of every pixel, made in batches.

Everything runs on the device of the generator, so a GPU makes its own pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from ircdeblur.data.camera import FIELD_OF_VIEW_FOCALS
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear


def line_blur(
    image: torch.Tensor,
    motion: torch.Tensor,
    samples: int,
    acceleration: torch.Tensor | None = None,
    curvature: torch.Tensor | None = None,
) -> torch.Tensor:
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
    acceleration : (B,) tensor, optional
        The place at time t, from -1/2 to 1/2, is t + a (t^2 - 1/12) of the motion: the same ends' distance and the same
        mean place, passed at a speed of 1 + 2 a t. Within [-1/2, 1/2] the motion does not turn back.
    curvature : (B,) tensor, optional
        The path bends sideways by c (t^2 - 1/12) of its length; its sagitta is c / 4 of its length.

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
    t = (torch.arange(samples, device=image.device, dtype=image.dtype) + 0.5) / samples - 0.5
    bend = t**2 - 1 / 12
    along = t.expand(batch, -1) if acceleration is None else t + acceleration[:, None] * bend
    sideways = torch.zeros_like(along) if curvature is None else curvature[:, None] * bend
    across = torch.stack((-reach[..., 1], reach[..., 0]), dim=-1)
    directions = torch.stack((reach * scale, across * scale), dim=1).flatten(2)
    base = ((centre + 0.5) * scale - 1).view(1, 1, -1)
    grid = torch.baddbmm(base, torch.stack((along, sideways), dim=-1), directions)
    taken = F.grid_sample(
        image, grid.view(batch, samples * height, width, 2), padding_mode="border", align_corners=False
    )
    return taken.view(batch, image.shape[1], samples, height, width).mean(2)


def disc_blur(image: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """Blur by a lens that is out of focus.

    Parameters
    ----------
    image : (B, C, H + 2 m, W + 2 m) tensor
        Sharp pictures; m, the same for all, is the largest radius plus one, rounded down.
    radius : (B,) tensor
        Of the disc in pixels.

    Returns
    -------
    blurred : (B, C, H, W) tensor
    """
    batch, channels, height, width = image.shape
    reach = math.floor(float(radius.max()) + 1)
    n = torch.arange(-reach, reach + 1, device=image.device, dtype=image.dtype)
    # The disc's edge is as soft as a pixel is wide.
    kernels = (radius.view(-1, 1, 1) + 0.5 - torch.hypot(n[:, None], n)).clamp(0, 1)
    kernels = (kernels / kernels.sum((1, 2), keepdim=True)).repeat_interleave(channels, 0)
    blurred = F.conv2d(image.reshape(1, -1, height, width), kernels[:, None], groups=batch * channels)
    return blurred.view(batch, channels, *blurred.shape[-2:])


# The tables of JPEG (ITU-T T.81, Annex K), luminance and chrominance, which cameras scale.
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
_JPEG_CHROMINANCE = torch.full((8, 8), 99.0)
_JPEG_CHROMINANCE[:4, :4] = torch.tensor([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]])

# RGB to luminance and the two colour differences of a JPEG file (JFIF).
_JPEG_COLORS = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)


def jpeg(image: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Quantise pictures as a JPEG file of the given quality does, without subsampling of colours.

    Parameters
    ----------
    image : (B, 1 or 3, H, W) tensor
        Luminance or RGB in [0, 1]; H and W are multiples of 8.
    quality : (B,) tensor
        50 to 100, as libjpeg counts it.
    """
    batch, channels, height, width = image.shape
    n = torch.arange(8, dtype=image.dtype, device=image.device)
    dct = torch.cos(math.pi * (2 * n[None] + 1) * n[:, None] / 16) / 2
    dct[0] /= math.sqrt(2)
    colors = _JPEG_COLORS.to(image)
    planes = image if channels == 1 else torch.einsum("ij,bjhw->bihw", colors, image)
    blocks = planes.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4) * 255
    blocks[:, 0] -= 128
    tables = torch.stack((_JPEG_LUMINANCE, _JPEG_CHROMINANCE, _JPEG_CHROMINANCE))[:channels].to(image)
    step = (tables * (2 - quality.view(-1, 1, 1, 1) / 50)).round().clamp(min=1)[:, :, None, None]
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / step).round() * step) @ dct
    blocks[:, 0] += 128
    planes = (blocks / 255).transpose(3, 4).reshape(batch, channels, height, width)
    decoded = planes if channels == 1 else torch.einsum("ij,bjhw->bihw", torch.linalg.inv(colors), planes)
    return decoded.clamp(0, 1)


class Photos(Protocol):
    """A source of sharp crops."""

    def crop(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        """Return a random crop, (size, size) or (C, size, size), uint8."""
        ...


class Pairs(NamedTuple):
    """A batch of training pairs.

    Attributes
    ----------
    blurred : (B, C, H, W) float32 tensor
        In [0, 1], noisy and rounded to 8 bits.
    motion : (B, H, W, 2) float32 tensor
        Pixels; u right, v down.
    known : (B, H, W) float32 tensor
        1 where the blur is that motion, 0 where it is something else (out of focus), NaN where nobody knows.
    sharp : (B, C, H, W) float32 tensor
        What the blurred crop shows, with the same exposure.
    """

    blurred: torch.Tensor
    motion: torch.Tensor
    known: torch.Tensor
    sharp: torch.Tensor


KINDS = ("camera", "uniform", "turning", "object", "still", "defocus")


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
    camera, uniform, turning, object, still, defocus : float
        Relative frequency of: camera shakes; one motion for the crop; lengths and angles that change fast; something
        with an edge that moves by itself before a background that moves or does not; no motion; a lens out of focus.
    max_acceleration, max_curvature : float
        Of `line_blur`, uniform from none to this in half of the crops: what the straight, even motion of the label
        does not tell.
    max_defocus : float
        Largest radius of the disc of an out-of-focus lens in pixels; the smallest is 1.5.
    max_softness : float
        A third of the photographs are softened by a Gaussian of up to this standard deviation, in pixels, before they
        move.
    max_noise : float
        Largest standard deviation of the Gaussian noise, on the [0, 1] scale.
    """

    crop: int = 144
    batch: int = 24
    max_length: float = 36.0
    camera: float = 0.45
    uniform: float = 0.12
    turning: float = 0.16
    object: float = 0.15
    still: float = 0.07
    defocus: float = 0.05
    max_acceleration: float = 0.4
    max_curvature: float = 0.3
    max_defocus: float = 6.0
    max_softness: float = 0.9
    max_noise: float = 0.02


@dataclass(frozen=True)
class Drawn:
    """What was drawn for a batch: everything but the photographs.

    Attributes
    ----------
    kind : list of str
        Of `KINDS`.
    linear : (B,) bool array
        Blurred in linear light.
    exposure, softness, acceleration, curvature, radius, shot, noise : (B,) float arrays
        Factor of the light; Gaussian before the motion, pixels; see `line_blur`; radius of the disc, 0 if in focus;
        variance of the shot noise at white; standard deviation of the Gaussian noise.
    quality : (B,) float array
        Of JPEG; 0 for none.
    """

    kind: list[str]
    linear: np.ndarray
    exposure: np.ndarray
    softness: np.ndarray
    acceleration: np.ndarray
    curvature: np.ndarray
    radius: np.ndarray
    shot: np.ndarray
    noise: np.ndarray
    quality: np.ndarray


def draw_field(kind: str, n: int, max_length: float, rng: np.random.Generator) -> np.ndarray:
    """Draw the motion of a crop.

    Parameters
    ----------
    kind : {"camera", "uniform", "turning", "still"}
        See `PairSettings`.
    n : int
        Side of the crop in pixels.
    max_length : float
        Longest motion in pixels.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    motion : (n, n, 2) array
    """
    # Short and long motions are equally frequent; a few reach the very end of the range.
    length = rng.uniform(0.0, max_length)
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
        lengths = np.clip(lengths, 0, max_length)
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


class SyntheticPairs(IterableDataset):
    """Endless batches of training pairs, the same for the same seed.

    Parameters
    ----------
    photos : Photos
        Where the crops come from.
    settings : PairSettings
        Sizes and frequencies.
    seed : int
        Seed of everything random here.
    device : torch.device or str
        Where the pairs are made.

    Yields
    ------
    pairs : Pairs
    """

    def __init__(self, photos: Photos, settings: PairSettings, seed: int, device: torch.device | str = "cpu"):
        super().__init__()
        self.photos, self.settings, self.seed, self.device = photos, settings, seed, torch.device(device)
        self.margin = math.ceil(settings.max_length * (0.5 + settings.max_acceleration / 6)) + 4

    def __iter__(self) -> Iterator[Pairs]:
        rng = np.random.default_rng(self.seed)
        noise = torch.Generator(self.device).manual_seed(self.seed)
        while True:
            yield self.batch(rng, noise)

    def batch(self, rng: np.random.Generator, noise: torch.Generator) -> Pairs:
        """Make one batch."""
        return self.render(self.draw(rng), rng, noise)

    def draw(self, rng: np.random.Generator) -> Drawn:
        """Draw how the crops of one batch are degraded."""
        s = self.settings
        n = s.batch
        frequency = np.array([getattr(s, kind) for kind in KINDS])
        kind = [str(k) for k in rng.choice(KINDS, size=n, p=frequency / frequency.sum())]
        uneven, bent = (rng.random(n) < 0.5 for _ in range(2))
        return Drawn(
            kind=kind,
            linear=rng.random(n) < 0.5,
            # Some highlights are brighter than the sensor can count; some pictures are dark.
            exposure=np.where(rng.random(n) < 0.3, rng.uniform(1.0, 1.4, n), rng.uniform(0.6, 1.0, n)),
            softness=rng.uniform(0.2, max(s.max_softness, 0.2), n) * (rng.random(n) < 0.33),
            acceleration=rng.uniform(-s.max_acceleration, s.max_acceleration, n) * uneven,
            curvature=rng.uniform(-s.max_curvature, s.max_curvature, n) * bent,
            radius=rng.uniform(1.5, max(s.max_defocus, 1.5), n) * (np.array(kind) == "defocus"),
            # 1 / photons at white, between none and a dim room's.
            shot=(rng.uniform(0, 0.01, n) * (rng.random(n) < 0.5)) ** 2,
            noise=s.max_noise * rng.random(n) ** 2,
            quality=rng.uniform(70, 98, n) * (rng.random(n) < 0.3),
        )

    def render(self, drawn: Drawn, rng: np.random.Generator, noise: torch.Generator) -> Pairs:
        """Take photographs and degrade them as a camera does: blurred, clipped, noisy, 8 bits, sometimes JPEG."""
        s, margin = self.settings, self.margin

        def per_crop(values: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=self.device).view(-1, 1, 1, 1)

        def photos(count: int) -> torch.Tensor:
            crops = [self.photos.crop(s.crop + 2 * margin, rng) for _ in range(count)]
            stack = torch.stack([crop[None] if crop.ndim == 2 else crop for crop in crops])
            return stack.to(self.device).float() / 255

        linear, exposure = per_crop(drawn.linear) > 0, per_crop(drawn.exposure)

        def light(sharp: torch.Tensor, of: Sequence[int] | slice) -> torch.Tensor:
            return torch.where(linear[of], srgb_to_linear(sharp), sharp) * exposure[of]

        def photographed(light: torch.Tensor) -> torch.Tensor:
            clipped = light.clamp(0, 1)
            return torch.where(linear, linear_to_srgb(clipped), clipped)

        scene = self._soften(light(photos(s.batch), slice(None)), drawn.softness)
        motion = torch.from_numpy(np.stack([self._field(kind, rng) for kind in drawn.kind])).float().to(self.device)
        sharp = scene[..., margin:-margin, margin:-margin]
        blurred = self._blur(scene, motion, drawn)

        objects = [i for i, kind in enumerate(drawn.kind) if kind == "object"]
        if objects:
            # What stands in front covers as much of the background as it spends time there.
            mask = np.stack([self._segment(rng) for _ in objects])
            cover = torch.from_numpy(mask).float().to(self.device)[:, None]
            front = light(photos(len(objects)), objects)
            own = torch.from_numpy(np.stack([self._own_motion(rng) for _ in objects])).float().to(self.device)
            moved = self._blur(torch.cat((front * cover, cover), 1), own, drawn, objects)
            inner = cover[..., margin:-margin, margin:-margin]
            blurred[objects] = moved[:, :-1] + (1 - moved[:, -1:]) * blurred[objects]
            sharp = sharp.clone()
            sharp[objects] = torch.lerp(sharp[objects], front[..., margin:-margin, margin:-margin], inner)
            motion[objects] = torch.where(moved[:, -1, ..., None] > 0.5, own, motion[objects])

        focus = [i for i, kind in enumerate(drawn.kind) if kind == "defocus"]
        if focus:
            radius = torch.as_tensor(drawn.radius[focus], dtype=torch.float32, device=self.device)
            reach = math.floor(float(radius.max()) + 1)
            seen = slice(margin - reach, scene.shape[-1] - margin + reach)
            blurred[focus] = disc_blur(scene[focus][..., seen, seen], radius)
        known = per_crop(np.array([kind != "defocus" for kind in drawn.kind]))[:, 0].expand(motion.shape[:-1])

        blurred = blurred.clamp(0, 1)
        grain = (per_crop(drawn.shot) * blurred).sqrt()
        blurred = blurred + grain * torch.randn(blurred.shape, generator=noise, device=self.device)
        blurred = photographed(blurred)
        sigma = per_crop(drawn.noise)
        blurred = blurred + sigma * torch.randn(blurred.shape, generator=noise, device=self.device)
        blurred = (blurred.clamp(0, 1) * 255).round() / 255
        compressed = per_crop(drawn.quality) > 0
        quality = per_crop(np.where(drawn.quality > 0, drawn.quality, 100.0)).view(-1)
        blurred = torch.where(compressed, jpeg(blurred, quality), blurred)
        return Pairs(blurred, motion, known.contiguous(), photographed(sharp))

    def _soften(self, scene: torch.Tensor, softness: np.ndarray) -> torch.Tensor:
        """Blur the crops that are to be soft by a Gaussian."""
        n = torch.arange(-3, 4, device=scene.device, dtype=scene.dtype)
        for i in np.flatnonzero(softness > 0):
            line = torch.exp(-0.5 * (n / float(softness[i])) ** 2)
            line = (line / line.sum()).view(1, 1, 1, -1)
            for kernel in (line, line.transpose(2, 3)):
                reach = (kernel.shape[-1] // 2,) * 2 + (kernel.shape[-2] // 2,) * 2
                scene[i] = F.conv2d(F.pad(scene[i][:, None], reach, mode="replicate"), kernel)[:, 0]
        return scene

    def _blur(
        self,
        scene: torch.Tensor,
        motion: torch.Tensor,
        drawn: Drawn,
        of: Sequence[int] | slice = slice(None),
        group: int = 4,
    ) -> torch.Tensor:
        """Blur crops of similar motion together: the longest of a group sets the number of samples of all."""
        acceleration, curvature = (
            torch.as_tensor(values[of], dtype=torch.float32, device=self.device)
            for values in (drawn.acceleration, drawn.curvature)
        )
        longest = motion.norm(dim=-1).amax(dim=(1, 2))
        order = longest.argsort()
        blurred = []
        for part in order.split(group):
            samples = math.ceil(1.2 * float(longest[part].max())) + 1
            blurred.append(line_blur(scene[part], motion[part], samples, acceleration[part], curvature[part]))
        return torch.cat(blurred)[order.argsort()]

    def _field(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        """Draw the motion of one crop; for an object, that of its background."""
        if kind == "object":
            kind = str(rng.choice(("camera", "uniform", "still"), p=(0.4, 0.2, 0.4)))
        return self._smooth("still" if kind == "defocus" else kind, rng)

    def _own_motion(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the motion of an object."""
        return self._smooth(str(rng.choice(("camera", "uniform", "turning", "still"), p=(0.2, 0.5, 0.2, 0.1))), rng)

    def _smooth(self, kind: str, rng: np.random.Generator) -> np.ndarray:
        return draw_field(kind, self.settings.crop, self.settings.max_length, rng)

    def _segment(self, rng: np.random.Generator) -> np.ndarray:
        """Return the outline of an object, (crop + 2 margin, crop + 2 margin) in [0, 1].

        A half plane or an ellipse with waves in its edge, which is one to three pixels soft.
        """
        n = self.settings.crop
        ahead = np.arange(n + 2 * self.margin) - (n + 2 * self.margin - 1) / 2
        y, x = np.meshgrid(ahead, ahead, indexing="ij")
        x, y = x - rng.uniform(-n / 3, n / 3), y - rng.uniform(-n / 3, n / 3)
        turn = rng.uniform(0, 2 * np.pi)
        x, y = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
        waves, phase = rng.uniform(0, 0.12), rng.uniform(0, 2 * np.pi)
        if rng.random() < 0.4:
            distance = x + waves * n / 3 * np.sin(y / n * 2 * np.pi * rng.uniform(1, 4) + phase)
        else:
            a, b = rng.uniform(n / 7, n / 2.2, size=2)
            lobes = 1 + waves * np.sin(int(rng.integers(2, 7)) * np.arctan2(y, x) + phase)
            distance = (lobes - np.hypot(x / a, y / b)) * min(a, b)
        return np.clip(distance / rng.uniform(1.0, 3.0) + 0.5, 0, 1)
