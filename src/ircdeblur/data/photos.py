"""Sharp photographs as a source of training pairs and of test pictures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp")
LUMA = (0.299, 0.587, 0.114)


def list_photos(folders: str | Path | list[str | Path]) -> list[Path]:
    """Return the picture files of one or several folders (not of folders within them), sorted by folder and name.

    Raises
    ------
    FileNotFoundError
        If a folder does not exist or has no picture.
    """
    paths: list[Path] = []
    for folder in [folders] if isinstance(folders, (str, Path)) else folders:
        found = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file())
        if not found:
            raise FileNotFoundError(f"no photographs in {folder}")
        paths += found
    return paths


def load_photo(path: str | Path) -> np.ndarray:
    """Return an 8-bit RGB photograph as a uint8 array (H, W, 3)."""
    import pyvips

    image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="truncated").autorot()
    image = image.colourspace("srgb")
    return np.asarray(image[:3].numpy()) if image.bands >= 3 else np.repeat(image[0].numpy()[..., None], 3, axis=2)


class PhotosInMemory:
    """A set of photographs in memory, each at several sizes.

    Smaller copies are made with an antialiasing filter, so they are as sharp as the originals or sharper; training
    crops cut from them see the same scenes at several scales without any resampling at run time.

    Parameters
    ----------
    paths : list of paths
        Picture files.
    scales : tuple of float
        Sizes relative to the file's.
    min_side : int
        Copies whose shorter side would be less than this many pixels are left out.

    Attributes
    ----------
    images : list of uint8 tensors
        What `channels` makes of each copy.
    """

    def __init__(self, paths: list[Path], scales: tuple[float, ...] = (1.0, 0.75, 0.56), min_side: int = 160):
        self.images: list[torch.Tensor] = []
        for path in paths:
            photo = self.channels(torch.from_numpy(load_photo(path)).permute(2, 0, 1).float())[None]
            for scale in scales:
                size = [round(n * scale) for n in photo.shape[-2:]]
                if min(size) < min_side:
                    continue
                image = (
                    photo
                    if scale == 1
                    else torch.nn.functional.interpolate(
                        photo, size=size, mode="bicubic", antialias=True, align_corners=False
                    )
                )
                self.images.append(image[0].round().clamp(0, 255).to(torch.uint8))
        if not self.images:
            raise ValueError(f"no photograph has a shorter side of {min_side} pixels or more")

    def channels(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return what is kept of an RGB photograph (3, H, W): all of it."""
        return rgb

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        """Cut a random square, flipped and turned at random.

        Where the photograph is smaller than the square it is continued by reflection.

        Returns
        -------
        crop : (C, size, size) uint8 tensor
        """
        return cut(self.images[rng.integers(len(self.images))], size, rng)[0]


class LumaPhotos(PhotosInMemory):
    """The luminance of photographs, (1, H, W) each."""

    def channels(self, rgb: torch.Tensor) -> torch.Tensor:
        """Return the luminance (1, H, W) of an RGB photograph (3, H, W)."""
        return (rgb * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)


class Crop(NamedTuple):
    """A crop and where it is from.

    Attributes
    ----------
    pixels : (3, size, size) uint8 tensor
        RGB.
    path : Path
        The photograph.
    longer_side : int
        Of the copy that was cut, in pixels.
    top, left : int
        Corner of the crop there, before it was flipped and turned.
    """

    pixels: torch.Tensor
    path: Path
    longer_side: int
    top: int
    left: int


class ColorPhotos:
    """Colour crops of photographs that are read from disk when they are needed.

    Each crop is cut from a copy reduced to a size drawn at random: the photograph's own, or what the largest side
    allows, or three quarters or 0.56 of that, but not smaller than the crop if the photograph is not.

    Parameters
    ----------
    paths : list of paths
        Picture files.
    largest_side : int
        Larger photographs are reduced until their longer side is this, in pixels.
    scales : tuple of float
        Sizes relative to that.
    """

    TRIES = 50

    def __init__(self, paths: list[Path], largest_side: int = 1000, scales: tuple[float, ...] = (1.0, 0.75, 0.56)):
        self.paths, self.largest_side, self.scales = paths, largest_side, scales
        self._unreadable: set[Path] = set()

    def take(self, size: int, rng: np.random.Generator) -> Crop:
        """Cut a random square, flipped and turned at random; an unreadable photograph is passed over with a warning.

        Raises
        ------
        ValueError
            If many photographs in a row cannot be read.
        """
        import pyvips

        for _ in range(self.TRIES):
            path = self.paths[int(rng.integers(len(self.paths)))]
            scale = float(rng.choice(self.scales))
            try:
                pixels = self._reduced(path, scale, size)
            except pyvips.Error:
                if path not in self._unreadable:
                    self._unreadable.add(path)
                    warnings.warn(f"not a readable photograph, left out: {path.name}", stacklevel=2)
                continue
            crop, top, left = cut(pixels, size, rng)
            return Crop(crop, path, max(pixels.shape[1:]), top, left)
        raise ValueError(f"{self.TRIES} photographs in a row cannot be read, the last is {path}; check the folder")

    def crop(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        """Cut a random square, (3, size, size) uint8; see `take`."""
        return self.take(size, rng).pixels

    def _reduced(self, path: Path, scale: float, size: int) -> torch.Tensor:
        import pyvips

        whole = pyvips.Image.new_from_file(str(path))
        longer, shorter = max(whole.width, whole.height), min(whole.width, whole.height)
        full = min(self.largest_side, longer)
        # Not below the crop: what is missing would be continued by reflection.
        target = min(max(round(full * scale), -(-size * longer // shorter)), longer)
        image = pyvips.Image.thumbnail(str(path), target, height=target, size="down", fail_on="truncated")
        image = image.colourspace("srgb").cast("uchar")
        pixels = image[:3].numpy() if image.bands >= 3 else np.repeat(image[0].numpy()[..., None], 3, axis=2)
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def _reflected(n: int, size: int) -> torch.Tensor:
    """Return which of n pixels stands at each of `size` places, from the first one on, to and fro."""
    period = max(2 * (n - 1), 1)
    place = torch.arange(size) % period
    return torch.minimum(place, period - place)


def cut(image: torch.Tensor, size: int, rng: np.random.Generator) -> tuple[torch.Tensor, int, int]:
    """Cut a random square out of a picture (..., H, W), uint8, flipped and turned at random.

    Where the picture is smaller than the square it is continued by reflection.

    Returns
    -------
    crop : (..., size, size) uint8 tensor
    top, left : int
        Its corner in the picture.
    """
    height, width = image.shape[-2:]
    top, left = (int(rng.integers(max(n - size, 0) + 1)) for n in (height, width))
    crop = image[..., top : top + size, left : left + size]
    if min(crop.shape[-2:]) < size:
        rows, columns = (_reflected(n, size) for n in crop.shape[-2:])
        crop = crop[..., rows[:, None], columns]
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    return torch.rot90(crop, int(rng.integers(4)), (-2, -1)), top, left
