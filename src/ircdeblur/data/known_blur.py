"""Training pairs for the deconvolution: the blur is known, exactly or nearly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import IterableDataset

from ircdeblur.data.synthesis import Photos, draw_field
from ircdeblur.kernels import MAX_LENGTH, MotionBank, linear_motion_kernel
from ircdeblur.motion import from_polar, to_polar
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.settings import unsaturated
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear

UNIFORM = ("bank", "line", "shake", "round")
VARYING = ("camera", "turning")


class KnownBlur(NamedTuple):
    """A batch of blurred crops and what is known of their blur.

    Attributes
    ----------
    blurred, sharp : (B, 3, H, W) float32 tensors
        In [0, 1], but for the noise.
    noise : (B,) tensor
        Standard deviation of the noise.
    psf : (B, 1, h, h) tensor or None
        The kernel of each crop, or what is believed to be it.
    motion : (B, H, W, 2) tensor or None
        In its place: the motion of each crop, or what is believed to be it.
    error : (B, H, W) tensor or None
        How far the motion may be off, in pixels; None where the blur is known exactly.
    mask : (B, 1, H, W) tensor or None
        1 where no channel is saturated.
    """

    blurred: torch.Tensor
    sharp: torch.Tensor
    noise: torch.Tensor
    psf: torch.Tensor | None
    motion: torch.Tensor | None
    error: torch.Tensor | None
    mask: torch.Tensor | None

    def blur(self) -> UniformBlur | MotionBlur:
        """Return the operator of the blur that is believed in."""
        if self.psf is not None:
            return UniformBlur(self.psf)
        assert self.motion is not None
        return MotionBlur(self.motion)

    def only(self, i: int) -> KnownBlur:
        """Return one crop of the batch, as a batch."""
        return KnownBlur._make(None if t is None else t[i : i + 1] for t in self)

    def copied(self, device: torch.device) -> KnownBlur:
        """Return a copy on a device."""
        return KnownBlur._make(None if t is None else t.to(device, copy=True) for t in self)


@dataclass(frozen=True)
class KnownBlurSettings:
    """What the pairs look like.

    Attributes
    ----------
    crop : int
        Side of the crops in pixels.
    batch : int
        Crops per batch.
    max_length : float
        Longest motion in pixels, at most 35.
    bank, line, shake, round, camera, turning : float
        Relative frequency of crops with: one of the bank's motions; any straight motion; the curved path of a shaking
        hand; a disc or a Gaussian; the motions of a shaken camera; motions that change fast. A batch is of the first
        four or of the last two.
    min_noise, max_noise : float
        Standard deviation of Gaussian noise; its logarithm is uniform between them.
    wrong : float
        Share of the batches whose motion is not quite what it is believed to be.
    max_error : float
        Largest error of such motions in pixels, root mean square; the smallest is 0.1.
    understated : float
        Share of the batches with wrong motions that are said to be far more exact than they are.
    saturated : float
        Share of the batches with highlights beyond the sensor's range.
    linear : float
        Share of the batches with wrong motions that were blurred in linear light.
    """

    crop: int = 128
    batch: int = 8
    max_length: float = float(MAX_LENGTH)
    bank: float = 0.0
    line: float = 0.45
    shake: float = 0.15
    round: float = 0.05
    camera: float = 0.25
    turning: float = 0.1
    min_noise: float = 0.002
    max_noise: float = 0.04
    wrong: float = 0.0
    max_error: float = 6.0
    understated: float = 0.0
    saturated: float = 0.1
    linear: float = 0.3


class KnownBlurPairs(IterableDataset):
    """Endless batches of crops with a known blur, the same for the same seed.

    Parameters
    ----------
    photos : Photos
        Where the crops come from, RGB.
    settings : KnownBlurSettings
        Sizes and frequencies.
    seed : int
        Seed of everything random here.
    device : torch.device or str
        Where the pairs are made.

    Yields
    ------
    pairs : KnownBlur
    """

    MARGIN = 20

    def __init__(self, photos: Photos, settings: KnownBlurSettings, seed: int, device: torch.device | str = "cpu"):
        super().__init__()
        if not 0 < settings.max_length <= MAX_LENGTH:
            raise ValueError(f"max_length must be in (0, {MAX_LENGTH}], got {settings.max_length}")
        self.photos, self.settings, self.seed, self.device = photos, settings, seed, torch.device(device)

    def __iter__(self) -> Iterator[KnownBlur]:
        rng = np.random.default_rng(self.seed)
        while True:
            yield self.batch(rng)

    def batch(self, rng: np.random.Generator) -> KnownBlur:
        """Make one batch."""
        s = self.settings
        shares = np.array([getattr(s, kind) for kind in UNIFORM + VARYING])
        shares = shares / shares.sum()
        uniform = rng.random() < shares[: len(UNIFORM)].sum()
        wrong = rng.random() < s.wrong
        scale = np.exp(rng.uniform(np.log(0.1), np.log(s.max_error), s.batch)) if wrong else np.zeros(s.batch)
        true: UniformBlur | MotionBlur
        if uniform:
            # What is round has no motion that could be wrong.
            kinds = ("bank", "line", "shake") if wrong else UNIFORM
            part = np.array([getattr(s, kind) for kind in kinds])
            chosen = [str(k) for k in rng.choice(kinds, s.batch, p=part / part.sum())]
            drawn = [self._kernel(kind, e, rng) for kind, e in zip(chosen, scale, strict=True)]
            psf, believed = self._stack([k[0] for k in drawn]), self._stack([k[1] for k in drawn])
            scale = np.array([k[2] for k in drawn])
            motion, true = None, UniformBlur(psf)
        else:
            part = shares[len(UNIFORM) :]
            chosen = [str(k) for k in rng.choice(VARYING, s.batch, p=part / part.sum())]
            fields = np.stack([self._clipped(draw_field(kind, s.crop, s.max_length, rng)) for kind in chosen])
            moved = torch.from_numpy(fields).float().to(self.device)
            true, believed = MotionBlur(moved), None
            motion = moved
            if wrong:
                motion = torch.stack([self._disturbed(m, e, rng) for m, e in zip(moved, scale, strict=True)])

        m = self.MARGIN
        scene = torch.stack([self.photos.crop(s.crop + 2 * m, rng) for _ in range(s.batch)])
        scene = scene.to(self.device).float() / 255
        linear = wrong and rng.random() < s.linear
        scene = srgb_to_linear(scene) if linear else scene
        if rng.random() < s.saturated:
            scene = scene * float(rng.uniform(1.0, 1.5))
        my, mx = true.margin
        blurred = true.A(scene[..., m - my : scene.shape[-2] - m + my, m - mx : scene.shape[-1] - m + mx].contiguous())
        sharp = scene[..., m:-m, m:-m]
        blurred, sharp = (linear_to_srgb(t.clamp(0, 1)) if linear else t for t in (blurred, sharp))
        noise = np.exp(rng.uniform(np.log(s.min_noise), np.log(s.max_noise), s.batch))
        sigma = torch.from_numpy(noise).float().to(self.device)
        grain = torch.from_numpy(rng.standard_normal(blurred.shape, np.float32)).to(self.device)
        blurred = blurred + sigma[:, None, None, None] * grain
        mask = None
        if float(sharp.max()) > 1:
            blurred, sharp = blurred.clamp(max=1), sharp.clamp(max=1)
            mask = unsaturated(blurred)
        error = None
        if wrong:
            # How certain a motion is, is not exactly known either.
            stated = scale * np.exp(rng.normal(0, 0.3, s.batch))
            if s.understated and rng.random() < s.understated:
                stated = stated * rng.uniform(0, 0.5, s.batch)
            error = torch.from_numpy(stated).float().to(self.device)[:, None, None].expand(-1, s.crop, s.crop)
        return KnownBlur(blurred, sharp, sigma, believed, None if uniform else motion, error, mask)

    def _kernel(self, kind: str, error: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
        """Return a kernel, what it is believed to be, and the error of that in pixels.

        A curved path that is not known exactly is believed to be a straight one, and its width counts as error.
        """
        s = self.settings
        if kind == "round":
            kernel = round_kernel(float(rng.uniform(0.5, 4.0)), rng.random() < 0.5)
            return kernel, kernel, 0.0
        wide = 0.0
        if kind == "shake":
            kernel = shake_kernel(float(rng.uniform(4, s.max_length)), rng)
            length, angle, wide = straight_motion(kernel)
        else:
            length, angle = rng.uniform(1, s.max_length), rng.uniform(0, 180)
            if kind == "bank":
                motions = MotionBank().motions
                length, angle = motions[int(rng.integers(len(motions)))]
            kernel = linear_motion_kernel(float(length), float(angle))
        if error == 0:
            return kernel, kernel, 0.0
        moved = from_polar(torch.tensor(float(length)), torch.tensor(float(angle))).numpy()
        guess = to_polar(torch.from_numpy(self._clipped(moved + error * rng.standard_normal(2))))
        return kernel, linear_motion_kernel(float(guess[0]), float(guess[1])), float(np.hypot(error, wide / 2))

    def _clipped(self, motion: np.ndarray) -> np.ndarray:
        """Return motions (..., 2), those that are too long shortened."""
        length = np.hypot(motion[..., :1], motion[..., 1:])
        return motion * np.minimum(1, self.settings.max_length / np.maximum(length, 1e-6))

    def _disturbed(self, motion: torch.Tensor, error: float, rng: np.random.Generator) -> torch.Tensor:
        """Return a motion (H, W, 2) that is off by a smooth field."""
        coarse = torch.from_numpy(rng.standard_normal((1, 2, 3, 3))).float()
        off = F.interpolate(coarse, size=motion.shape[:2], mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
        off = off * (error / off.square().mean().sqrt())
        return torch.from_numpy(self._clipped((motion.cpu() + off).numpy())).to(motion)

    def _stack(self, kernels: list[np.ndarray]) -> torch.Tensor:
        """Return kernels as (B, 1, h, h), padded to the same size."""
        side = max(max(k.shape) for k in kernels)
        padded = [np.pad(k, [((side - n) // 2,) * 2 for n in k.shape]) for k in kernels]
        return torch.from_numpy(np.stack(padded)[:, None].astype(np.float32)).to(self.device)


def shake_kernel(extent: float, rng: np.random.Generator, points: int = 400) -> np.ndarray:
    """Return the kernel of a shaking hand: a curved path at uneven speed.

    Parameters
    ----------
    extent : float
        Of the path, in pixels, at most 35.
    rng : numpy.random.Generator
        Source of randomness.
    points : int
        Of the path.

    Returns
    -------
    kernel : (h, h) array
        Odd side, sum 1, its centre of gravity in the middle.

    References
    ----------
    G. Boracchi, A. Foi, "Modeling the performance of image restoration from motion blur", IEEE TIP 21, 2012: a random
    walk with inertia.
    """
    inertia = rng.uniform(0.9, 0.995)
    velocity, path = rng.standard_normal(2), np.zeros((points, 2))
    for i in range(1, points):
        velocity = inertia * velocity + rng.standard_normal(2) * (1 - inertia) * rng.uniform(1, 6)
        path[i] = path[i - 1] + velocity
    path *= extent / max(np.ptp(path, axis=0).max(), 1e-6)
    path -= path.mean(0)
    half = int(np.ceil(np.abs(path).max())) + 1
    half = min(half, KnownBlurPairs.MARGIN - 1)
    path = path.clip(-half + 1, half - 1)
    kernel = np.zeros((2 * half + 1,) * 2)
    low = np.floor(path).astype(int)
    rest = path - low
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - rest[:, 0]) * np.abs(1 - dx - rest[:, 1])
            np.add.at(kernel, (low[:, 0] + half + dy, low[:, 1] + half + dx), weight)
    return kernel / kernel.sum()


def straight_motion(kernel: np.ndarray) -> tuple[float, float, float]:
    """Return the straight motion that spreads light as a kernel does along its main axis.

    Parameters
    ----------
    kernel : (h, w) array
        Sum 1, its centre of gravity in the middle.

    Returns
    -------
    length, angle : float
        In pixels, and in degrees.
    wide : float
        The length across: 0 for a straight path, about the length for a round one.
    """
    y, x = (axis - n // 2 for axis, n in zip(np.indices(kernel.shape), kernel.shape, strict=True))
    # The variance of a line of length l is l^2 / 12; v is counted downwards, angles are not.
    covariance = [[(kernel * a * b).sum() for a in (x, -y)] for b in (x, -y)]
    variances, axes = np.linalg.eigh(covariance)
    wide, length = np.sqrt(12 * variances.clip(min=0))
    return float(length), float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])) % 180), float(wide)


def round_kernel(radius: float, disc: bool) -> np.ndarray:
    """Return a disc of that radius in pixels, its edge a pixel wide, or a Gaussian of half of it."""
    half = int(np.ceil(2 * radius)) + 1
    distance = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    kernel = np.clip(radius + 0.5 - distance, 0, 1) if disc else np.exp(-2 * (distance / radius) ** 2)
    return kernel / kernel.sum()
