"""Test pictures: photographs blurred by a known motion that has seen beyond the frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.photos import load_photo
from ircdeblur.operators import MotionBlur, UniformBlur

SEVERITIES = {"moderate": 21.0, "severe": 35.0}
"""Longest motion in pixels of the two kinds of test pictures (section 4.1 of the paper)."""


@dataclass(frozen=True)
class Case:
    """One test picture.

    Attributes
    ----------
    name : str
        Of the photograph.
    sharp, blurred : (1, 3, H, W) float32 tensors
        The frame: the photograph without the margin that the blur has read.
    motion : (H, W, 2) float32 array or None
        The true motion, if it is not a uniform kernel.
    """

    name: str
    sharp: torch.Tensor
    blurred: torch.Tensor
    motion: np.ndarray | None


def _photo(path: Path) -> torch.Tensor:
    return torch.from_numpy(load_photo(path)).permute(2, 0, 1)[None].float() / 255


def _add_noise(image: torch.Tensor, noise: float, rng: np.random.Generator) -> torch.Tensor:
    return image + torch.from_numpy(rng.normal(0.0, noise, tuple(image.shape)).astype(np.float32))


def camera_case(path: Path, severity: str, seed: int, noise: float = 0.01) -> Case:
    """Blur a photograph by a random camera shake.

    Parameters
    ----------
    path : path
        The photograph.
    severity : {"moderate", "severe"}
        The longest vector is uniform between half of 21 or 35 pixels and all of it.
    seed : int
        Number of the motion.
    noise : float
        Standard deviation of Gaussian noise.
    """
    photo = _photo(path)
    limit = SEVERITIES[severity]
    # The name keeps a photograph's motions the same whatever others are tested with it.
    rng = np.random.default_rng([seed, list(SEVERITIES).index(severity), *path.stem.encode()])
    # One margin for both severities, so that both show the same frame.
    margin = 18
    shape = (photo.shape[-2] - 2 * margin, photo.shape[-1] - 2 * margin)
    motion = camera_shake(shape, limit * rng.uniform(0.5, 1.0), rng)
    blur = MotionBlur(torch.from_numpy(motion), boundary="extended")
    my, mx = (margin - m for m in blur.margin)
    inner = photo[..., my : photo.shape[-2] - my, mx : photo.shape[-1] - mx]
    sharp = photo[..., margin:-margin, margin:-margin]
    return Case(path.stem, sharp, _add_noise(blur.A(inner), noise, rng), motion)


def uniform_case(path: Path, psf: np.ndarray, seed: int, noise: float = 0.01) -> Case:
    """Blur a photograph by one kernel.

    Parameters
    ----------
    path : path
        The photograph.
    psf : (h, w) float32 array
        The kernel.
    seed : int
        Of the noise.
    noise : float
        Standard deviation of Gaussian noise.
    """
    photo = _photo(path)
    blur = UniformBlur(torch.from_numpy(psf), boundary="extended")
    my, mx = blur.margin
    rng = np.random.default_rng([seed, *path.stem.encode()])
    sharp = photo[..., my : photo.shape[-2] - my, mx : photo.shape[-1] - mx]
    return Case(path.stem, sharp, _add_noise(blur.A(photo), noise, rng), None)
