"""Data sets of blurred pictures with known motion, on disk: their layout, and a reader for training.

A data set is a folder with ``blurred/NNNNNN.png``, ``sharp/NNNNNN.png``, ``motion/NNNNNN.npz`` (array ``motion``,
(H, W, 2) float16, and ``trust``, (H, W) bool), ``manifest.jsonl`` with one line for each pair, and ``dataset.json``
with the settings. ``ircdeblur dataset`` makes them; `DatasetPairs` trains on them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ircdeblur.data.photos import LUMA, load_photo
from ircdeblur.data.synthesis import Pairs
from ircdeblur.motion import canonical, read_motion

INFO = "dataset.json"
MANIFEST = "manifest.jsonl"


def pair_files(number: int) -> dict[str, str]:
    """Return the files of a pair, relative to the data set's folder: blurred, sharp, motion."""
    name = f"{number:06d}"
    return {"blurred": f"blurred/{name}.png", "sharp": f"sharp/{name}.png", "motion": f"motion/{name}.npz"}


def read_info(folder: str | Path) -> dict[str, Any]:
    """Return what ``dataset.json`` says.

    Raises
    ------
    FileNotFoundError
        If the folder is no data set.
    ValueError
        If the file is damaged.
    """
    path = Path(folder) / INFO
    if not path.is_file():
        raise FileNotFoundError(f"not a data set, it has no {INFO}: {folder}")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(info, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise ValueError(f"damaged: {path}; make the data set again") from error
    return info


def read_manifest(folder: str | Path) -> list[dict[str, Any]]:
    """Return one dictionary for each finished pair; the last line, if a killed run left it unfinished, is left out.

    Raises
    ------
    ValueError
        If another line is damaged.
    """
    path = Path(folder) / MANIFEST
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    records = []
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        if not line.endswith("\n"):
            break
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"damaged, line {number}: {path}; make the data set again") from error
    return records


def read_trust(path: str | Path) -> np.ndarray:
    """Return the trust mask (H, W), bool, of a motion file; all True where the file has none."""
    with np.load(path) as archive:
        return archive["trust"] if "trust" in archive else np.ones(archive["motion"].shape[:2], bool)


def turn_pair(
    pictures: torch.Tensor, motion: torch.Tensor, flip: bool, quarters: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip pictures left to right, then turn them by quarters counter-clockwise, and the motion with them.

    Parameters
    ----------
    pictures : (C, H, W) tensor
        Anything that has one value per pixel.
    motion : (H, W, 2) tensor
        Pixels; u right, v down.

    Returns
    -------
    pictures : (C, H', W') tensor
    motion : (H', W', 2) tensor
        Canonical half plane.
    """
    if flip:
        pictures, motion = pictures.flip(-1), motion.flip(1) * motion.new_tensor([-1, 1])
    pictures, motion = torch.rot90(pictures, quarters, (-2, -1)), torch.rot90(motion, quarters, (0, 1))
    for _ in range(quarters % 4):
        # What points right points up, and what points down points right.
        motion = torch.stack((motion[..., 1], -motion[..., 0]), -1)
    return pictures, canonical(motion)


class DatasetPairs(IterableDataset):
    """Endless batches of random crops from data sets, flipped and turned, the same for the same seed.

    Everything is kept in memory: 7 bytes for each pixel.

    Parameters
    ----------
    folders : list of paths
        Data sets.
    crop : int
        Side of the crops in pixels.
    batch : int
        Crops per batch.
    seed : int
        Seed of everything random here.
    max_noise : float
        Gaussian noise is added with a standard deviation of up to this, on the [0, 1] scale, and rounded to 8 bits.
    device : torch.device or str
        Where the batches go.

    Raises
    ------
    FileNotFoundError
        If a folder is no data set.
    ValueError
        If a data set has no pair, or a picture is smaller than the crop.

    Yields
    ------
    pairs : Pairs
        Luminance, (B, 1, crop, crop); `known` is 1 where the motion is to be trusted, NaN elsewhere.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        crop: int,
        batch: int,
        seed: int,
        max_noise: float = 0.0,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.crop, self.batch, self.seed, self.max_noise = crop, batch, seed, max_noise
        self.device = torch.device(device)
        self._items: list[tuple[torch.Tensor, torch.Tensor]] = []
        for folder in map(Path, folders):
            read_info(folder)
            records = read_manifest(folder)
            if not records:
                raise ValueError(f"no finished pair: {folder}; make the data set with ircdeblur dataset")
            self._items += [self._load(folder, record) for record in records]

    def __len__(self) -> int:
        """Return the number of pairs in memory."""
        return len(self._items)

    def _load(self, folder: Path, record: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return blurred luminance, sharp luminance and trust as (3, H, W) uint8, and the motion as float16."""
        motion = read_motion(folder / record["motion"]).astype(np.float16)
        if min(motion.shape[:2]) < self.crop:
            raise ValueError(f"smaller than the crop of {self.crop} px: {folder / record['blurred']}; choose less")
        planes = [(load_photo(folder / record[kind]) @ np.array(LUMA)).round() for kind in ("blurred", "sharp")]
        planes.append(read_trust(folder / record["motion"]))
        return torch.from_numpy(np.stack([p.astype(np.uint8) for p in planes])), torch.from_numpy(motion)

    def __iter__(self) -> Iterator[Pairs]:
        rng = np.random.default_rng(self.seed)
        noise = torch.Generator().manual_seed(self.seed)
        while True:
            yield self._draw(rng, noise)

    def _draw(self, rng: np.random.Generator, noise: torch.Generator) -> Pairs:
        n = self.crop
        pictures, motions = [], []
        for _ in range(self.batch):
            planes, motion = self._items[rng.integers(len(self._items))]
            top, left = (int(rng.integers(side - n + 1)) for side in motion.shape[:2])
            here = (slice(top, top + n), slice(left, left + n))
            turned = turn_pair(
                planes[(slice(None), *here)], motion[here].float(), bool(rng.random() < 0.5), int(rng.integers(4))
            )
            pictures.append(turned[0])
            motions.append(turned[1])
        stack = torch.stack(pictures).float()
        blurred, sharp, trust = stack[:, :1] / 255, stack[:, 1:2] / 255, stack[:, 2]
        known = torch.where(trust > 0, 1.0, math.nan)
        if self.max_noise > 0:
            sigma = torch.as_tensor(self.max_noise * rng.random(self.batch), dtype=torch.float32).view(-1, 1, 1, 1)
            blurred = blurred + sigma * torch.randn(blurred.shape, generator=noise)
            blurred = (blurred.clamp(0, 1) * 255).round() / 255
        return Pairs(*(t.to(self.device) for t in (blurred, torch.stack(motions), known, sharp)))
