"""Sharp photographs as a source of training pairs and of test pictures."""

from __future__ import annotations

from pathlib import Path

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


class LumaPhotos:
    """Luminance of a set of photographs in memory, each at several sizes.

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
    """

    def __init__(self, paths: list[Path], scales: tuple[float, ...] = (1.0, 0.75, 0.56), min_side: int = 160):
        weights = torch.tensor(LUMA).view(3, 1, 1)
        self.images: list[torch.Tensor] = []
        for path in paths:
            rgb = torch.from_numpy(load_photo(path)).permute(2, 0, 1)
            luma = (rgb.float() * weights).sum(0)[None, None]
            for scale in scales:
                size = [round(n * scale) for n in luma.shape[-2:]]
                if min(size) < min_side:
                    continue
                image = (
                    luma
                    if scale == 1
                    else torch.nn.functional.interpolate(
                        luma, size=size, mode="bicubic", antialias=True, align_corners=False
                    )
                )
                self.images.append(image[0, 0].round().clamp(0, 255).to(torch.uint8))
        if not self.images:
            raise ValueError(f"no photograph has a shorter side of {min_side} pixels or more")

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        """Cut a random square, flipped and turned at random.

        Where the photograph is smaller than the square it is continued by reflection.

        Returns
        -------
        crop : (size, size) uint8 tensor
        """
        image = self.images[rng.integers(len(self.images))]
        height, width = image.shape
        top, left = (int(rng.integers(max(n - size, 0) + 1)) for n in (height, width))
        crop = image[top : top + size, left : left + size]
        missing = (size - crop.shape[0], size - crop.shape[1])
        if max(missing) > 0:
            crop = torch.nn.functional.pad(crop[None, None].float(), (0, missing[1], 0, missing[0]), mode="reflect")
            crop = crop[0, 0].to(torch.uint8)
        if rng.random() < 0.5:
            crop = crop.flip(1)
        return torch.rot90(crop, int(rng.integers(4)))
