"""Making data sets of blurred pictures with known motion: the work of ``ircdeblur dataset``.

`SyntheticSource` and `FilmSource` make one pair after the other, each from the seed and its number alone, so a run that
was cut off goes on as if it had not been; `write_dataset` writes them. The layout is that of `ircdeblur.data.dataset`.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

import ircdeblur
from ircdeblur.app.imagefile import ImageFileError, atomic_write, make_folder
from ircdeblur.data.dataset import INFO, MANIFEST, pair_files, read_info, read_manifest
from ircdeblur.data.frames import VIDEO_SUFFIXES, Film, Trust, frame_pair, glance, middle
from ircdeblur.data.photos import PHOTO_SUFFIXES, ColorPhotos, Crop
from ircdeblur.data.synthesis import KINDS, PairSettings, SyntheticPairs
from ircdeblur.motion import canonical, to_polar

MARGIN = 32
"""Pixels of the film around a crop that the optical flow sees."""

TRIES = 200
"""Windows of a film that are tried for one pair."""


class Pair(NamedTuple):
    """One pair to write.

    Attributes
    ----------
    blurred, sharp : (H, W, 3) uint8 arrays
        sRGB.
    motion : (H, W, 2) array
        Pixels; u right, v down; canonical.
    trust : (H, W) bool array
        Where the motion is known.
    record : dict
        Its line of the manifest, without the files and what follows from the arrays.
    """

    blurred: np.ndarray
    sharp: np.ndarray
    motion: np.ndarray
    trust: np.ndarray
    record: dict[str, Any]


class Source(Protocol):
    """What makes pairs; `settings` is all that they follow from but the seed, of values that JSON has."""

    settings: dict[str, Any]

    def make(self, number: int) -> Pair:
        """Make the pair of a number, the same each time."""
        ...


class _Recorded:
    """Photographs that remember where the last crops are from."""

    def __init__(self, photos: ColorPhotos):
        self.photos = photos
        self.taken: list[Crop] = []

    def crop(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        self.taken.append(self.photos.take(size, rng))
        return self.taken[-1].pixels


def _bytes(image: torch.Tensor) -> np.ndarray:
    """Return a picture (C, H, W) in [0, 1] as a uint8 array (H, W, C)."""
    return (image.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().cpu().numpy()


class SyntheticSource:
    """Pairs of `ircdeblur.data.synthesis` in colour.

    Parameters
    ----------
    photos : list of paths
        Sharp photographs.
    size : int
        Side of the pictures in pixels, a multiple of 8.
    max_length : float
        Longest motion in pixels.
    max_noise : float
        Largest standard deviation of the Gaussian noise, on the [0, 1] scale.
    kinds : tuple of str
        Those of `ircdeblur.data.synthesis.KINDS` that are wanted.
    largest_side : int
        Larger photographs are reduced to that before they are cut.
    seed : int
        Of everything random.
    """

    def __init__(
        self,
        photos: list[Path],
        size: int,
        max_length: float,
        max_noise: float,
        kinds: tuple[str, ...],
        largest_side: int,
        seed: int,
    ):
        self.seed = seed
        self.photos = _Recorded(ColorPhotos(photos, largest_side))
        others = dict.fromkeys((kind for kind in KINDS if kind not in kinds), 0.0)
        pairs = PairSettings(crop=size, batch=1, max_length=max_length, max_noise=max_noise, **others)
        self.generator = SyntheticPairs(self.photos, pairs, seed)
        values = {name: value for name, value in asdict(pairs).items() if name not in ("crop", "batch")}
        self.settings = {
            "kind": "synthetic",
            "photos": len(photos),
            "size": size,
            "largest_side": largest_side,
            **values,
        }

    def make(self, number: int) -> Pair:
        """Make the pair of a number, the same each time."""
        rng = np.random.default_rng([self.seed, number])
        noise = torch.Generator().manual_seed(int(rng.integers(2**63)))
        self.photos.taken.clear()
        drawn = self.generator.draw(rng)
        pairs = self.generator.render(drawn, rng, noise)
        places = [
            {"source": crop.path.name, "position": [crop.top, crop.left], "longer_side": crop.longer_side}
            for crop in self.photos.taken
        ]
        record = {
            **places[0],
            "kind": drawn.kind[0],
            "noise": float(drawn.noise[0]),
            "shot_noise": float(drawn.shot[0]) ** 0.5,
            "linear_light": bool(drawn.linear[0]),
            "jpeg": round(float(drawn.quality[0]), 1) or None,
            "exposure": float(drawn.exposure[0]),
            "softness": float(drawn.softness[0]),
            "acceleration": float(drawn.acceleration[0]),
            "curvature": float(drawn.curvature[0]),
            "defocus_radius": float(drawn.radius[0]),
        }
        if len(places) > 1:
            record["object"] = places[1]
        motion = canonical(pairs.motion[0].numpy())
        trust = pairs.known[0].numpy() > 0.5
        return Pair(_bytes(pairs.blurred[0]), _bytes(pairs.sharp[0]), motion, trust, record)


def find_films(path: Path) -> list[Path]:
    """Return the films that a path stands for: itself, or those in the folder if it holds folders and videos only.

    Raises
    ------
    ImageFileError
        If there is none.
    """

    def has_frames(folder: Path) -> bool:
        return any(p.suffix.lower() in PHOTO_SUFFIXES for p in folder.iterdir())

    if not path.exists():
        raise ImageFileError("no such folder or video", path, "check the name")
    if not path.is_dir() or has_frames(path):
        return [path]
    found = [
        inner
        for inner in sorted(path.iterdir())
        if (inner.is_dir() and has_frames(inner)) or (inner.is_file() and inner.suffix.lower() in VIDEO_SUFFIXES)
    ]
    if not found:
        raise ImageFileError("no frames and no videos", path, "name a folder of frames, of such folders, or a video")
    return found


@dataclass
class FilmSource:
    """Pairs of `ircdeblur.data.frames`: random windows of films, those of too little trust left out.

    Attributes
    ----------
    films : list of Film
        Where the windows are from; each as often as it has frames.
    frames : (int, int)
        Smallest and largest number of frames of a window; of several odd ones in between one is drawn.
    size : int
        Side of the pictures in pixels.
    max_length : float
        Longer motions are not trusted; pixels.
    min_length : float
        Least median length of the trusted pixels.
    min_trusted : float
        Least share of trusted pixels; a window with less is left out.
    noise : float
        Standard deviation of the Gaussian noise that is added, on the [0, 1] scale.
    linear_light : bool
        Average in linear light.
    seed : int
        Of everything random.
    trust : Trust
        Limits for the labels.
    """

    films: list[Film]
    frames: tuple[int, int]
    size: int
    max_length: float
    min_length: float
    min_trusted: float
    noise: float
    linear_light: bool
    seed: int
    trust: Trust

    def __post_init__(self) -> None:
        low, high = self.frames
        self.counts = [n for n in range(low, high + 1) if n % 2] or [low] if low < high else [low]
        for film in self.films:
            if min(film.shape) < self.size:
                height, width = film.shape
                raise ImageFileError(f"frames of {width} x {height} pixels", film.path, "choose a smaller --size")
            if len(film) < high:
                raise ImageFileError(f"a film of {len(film)} frames", film.path, "choose fewer --frames")
        self.settings = {
            "kind": "frames",
            "films": [f"{film.path.name}, {len(film)} frames" for film in self.films],
            "frames": list(self.frames),
            **{
                name: getattr(self, name)
                for name in ("size", "max_length", "min_length", "min_trusted", "noise", "linear_light")
            },
            "trust": asdict(self.trust),
        }

    def make(self, number: int) -> Pair:
        """Make the pair of a number, the same each time.

        Raises
        ------
        ImageFileError
            If no window can be trusted.
        """
        rng = np.random.default_rng([self.seed, number])
        weights = np.array([len(film) for film in self.films], float)
        reasons = dict.fromkeys(("too little trusted", "too uneven", "too short", "too long"), 0)
        for _ in range(TRIES):
            film = self.films[int(rng.choice(len(self.films), p=weights / weights.sum()))]
            count = int(rng.choice(self.counts))
            first = int(rng.integers(len(film) - count + 1))
            top, left = (int(rng.integers(side - self.size + 1)) for side in film.shape)
            # The flow sees some of what is around, as far as the frame goes.
            above, before = min(top, MARGIN), min(left, MARGIN)
            window = (
                slice(None),
                slice(top - above, top + self.size + MARGIN),
                slice(left - before, left + self.size + MARGIN),
            )
            frames = film.read(first, count)[window]
            reason = self._at_a_glance(frames)
            if reason is None:
                whole = frame_pair(frames, self.linear_light, self.trust)
                blurred, sharp, motion, trust = (
                    array[above : above + self.size, before : before + self.size] for array in whole
                )
                trust = trust & (to_polar(motion)[0] <= self.max_length)
                reason = self._rejection(motion, trust)
            if reason is None:
                break
            reasons[reason] += 1
        else:
            counted = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
            raise ImageFileError(
                f"no usable window in {TRIES} ({counted})",
                self.films[0].path if len(self.films) == 1 else self.films[0].path.parent,
                "lower --min-trusted or --min-length, or change --frames",
            )
        if self.noise > 0:
            noisy = blurred / 255 + rng.normal(0, self.noise, blurred.shape)
            blurred = (noisy.clip(0, 1) * 255).round().astype(np.uint8)
        record = {
            "source": film.path.name,
            "position": [top, left],
            "kind": "frames",
            "frames": [film.source(first), film.source(first + count - 1)],
            "count": count,
            "middle": film.source(first + middle(count)),
            "noise": self.noise,
            "linear_light": self.linear_light,
            "jpeg": None,
            "rejected": sum(reasons.values()),
        }
        return Pair(blurred, sharp, motion, trust, record)

    def _at_a_glance(self, frames: np.ndarray) -> str | None:
        """Say why a window is sure to be left out, None if it is not."""
        length, even = glance(frames, self.trust)
        if not even:
            return "too uneven"
        if length < 0.7 * self.min_length:
            return "too short"
        return "too long" if length > 1.2 * self.max_length else None

    def _rejection(self, motion: np.ndarray, trust: np.ndarray) -> str | None:
        """Say why a window is left out, None if it is not."""
        if trust.mean() < self.min_trusted or not trust.any():
            return "too little trusted"
        return "too short" if np.median(to_polar(motion[trust])[0]) < self.min_length else None


def write_dataset(
    folder: Path,
    source: Source,
    count: int,
    seed: int,
    resume: bool = False,
    overwrite: bool = False,
    done: Callable[[int, Path], None] = lambda number, path: None,
) -> list[dict[str, Any]]:
    """Write the pairs 0 to `count` - 1 and return their lines of the manifest.

    A pair's line is appended when its files are on the disk, so a run that is killed leaves whole pairs; what it was
    writing is written again by the run that goes on.

    Parameters
    ----------
    folder : Path
        The data set. It must not exist or be empty, unless `resume` or `overwrite`.
    source : Source
        Where the pairs are from.
    count : int
        Number of pairs.
    seed : int
        As `source` has it.
    resume : bool
        Go on with what is there; it must have been made with the same settings. `count` may have grown.
    overwrite : bool
        Remove the data set that is there, and nothing else.
    done : callable
        Called with the number and the file of every pair before it is made.

    Raises
    ------
    ImageFileError
        If the folder is not as above, or cannot be written.
    """
    settings = {"seed": seed, **source.settings}
    records = _enter(folder, settings, count, resume, overwrite)
    count = max(count, len(records))
    info = {"settings": settings, "versions": _versions(), "count": count}
    _write_json(folder / INFO, {**info, "complete": False})
    for number in range(len(records), count):
        files = pair_files(number)
        done(number, folder / files["blurred"])
        record = _write_pair(folder, files, source.make(number))
        with (folder / MANIFEST).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        records.append(record)
    _write_json(folder / INFO, {**info, "complete": True})
    return records


def _enter(folder: Path, settings: dict[str, Any], count: int, resume: bool, overwrite: bool) -> list[dict[str, Any]]:
    """Make the folder ready and return the lines of the pairs that are there already."""
    if not (folder / INFO).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ImageFileError("the folder is not empty and no data set", folder, "choose another one")
        make_folder(folder)
        _clear(folder, pairs=True)
        return []
    make_folder(folder)
    if overwrite:
        (folder / MANIFEST).unlink(missing_ok=True)
        _clear(folder, pairs=True)
        return []
    info, records = read_info(folder), read_manifest(folder)
    wanted = info.get("count", count)
    if not resume:
        if info.get("complete"):
            what = f"the folder holds a data set already ({len(records)} pairs)"
            raise ImageFileError(what, folder, "choose another one or add --overwrite")
        what = f"the folder holds an unfinished data set ({len(records)} of {wanted} pairs)"
        raise ImageFileError(what, folder, "add --resume to go on, or --overwrite to begin anew")
    other = [name for name, value in settings.items() if info.get("settings", {}).get(name) != value]
    if other:
        what = f"the data set was begun with another {' and '.join(other)}"
        raise ImageFileError(what, folder, f"give the settings in its {INFO}, or choose another folder")
    # A line that a killed run left unfinished must not have another one appended to it.
    lines = "".join(json.dumps(record) + "\n" for record in records)
    with atomic_write(folder / MANIFEST, overwrite=True) as temp:
        temp.write_text(lines, encoding="utf-8")
    _clear(folder, pairs=False)
    return records


def _clear(folder: Path, pairs: bool) -> None:
    """Make the folders of the pairs, and remove what killed runs left in them; and the pairs themselves."""
    for kind, path in pair_files(0).items():
        inner = folder / kind
        make_folder(inner)
        suffix = re.escape(Path(path).suffix)
        ours = re.compile(r"\.ircdeblur-tmp-.*" + (rf"|\d{{6,}}{suffix}" if pairs else ""))
        for file in inner.iterdir():
            if ours.fullmatch(file.name):
                file.unlink()


def _write_pair(folder: Path, files: dict[str, str], pair: Pair) -> dict[str, Any]:
    """Write the files of a pair and return its line of the manifest."""
    for kind, pixels in (("blurred", pair.blurred), ("sharp", pair.sharp)):
        with atomic_write(folder / files[kind], overwrite=True) as temp:
            temp.write_bytes(_png(pixels))
    with atomic_write(folder / files["motion"], overwrite=True) as temp, temp.open("wb") as stream:
        np.savez_compressed(stream, motion=pair.motion.astype(np.float16), trust=pair.trust)
    length = to_polar(pair.motion[pair.trust] if pair.trust.any() else pair.motion.reshape(-1, 2))[0]
    return {
        **files,
        **{name: round(value, 6) if isinstance(value, float) else value for name, value in pair.record.items()},
        "median_length": round(float(np.median(length)), 3),
        "max_length": round(float(length.max()), 3),
        "trusted": round(float(pair.trust.mean()), 4),
    }


def _png(pixels: np.ndarray) -> bytes:
    import pyvips

    height, width, bands = pixels.shape
    data = np.ascontiguousarray(pixels)
    image = pyvips.Image.new_from_memory(data.data, width, height, bands, "uchar").copy(interpretation="srgb")
    return bytes(image.write_to_buffer(".png"))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with atomic_write(path, overwrite=True) as temp:
        temp.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    return {
        "ircdeblur": ircdeblur.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "torch", "pyvips")},
    }


def summary(records: list[dict[str, Any]]) -> str:
    """Say in one line what a data set is."""
    if not records:
        return "0 pairs"
    median, longest, trusted = (
        [record[name] for record in records] for name in ("median_length", "max_length", "trusted")
    )
    rejected = sum(record.get("rejected", 0) for record in records)
    return (
        f"{len(records)} pairs, median length {np.median(median):.1f} px (to {max(longest):.1f}), "
        f"{100 * np.mean(trusted):.0f} % trusted" + (f", {rejected} windows left out" if rejected else "")
    )
