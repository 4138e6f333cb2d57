"""Pictures side by side, as the paper's Figures 1 and 6. They show photographs and are not for the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ircdeblur.experiments.config import Strip
from ircdeblur.metrics import psnr
from ircdeblur.plots import captioned


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a uint8 array (H, W, 3) as a PNG file."""
    import pyvips

    pyvips.Image.new_from_array(image).write_to_file(str(path))


class StripBook:
    """Collects the pictures that the strips show while a table is measured.

    Parameters
    ----------
    strips : dict
        `Strip` by name.
    """

    def __init__(self, strips: dict[str, Strip]):
        self.strips = strips
        self._pictures: dict[tuple[str, str], dict[tuple[str, str], np.ndarray]] = {}
        self._frames: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}

    def open(self, photo: str, kernel: str, blurred: np.ndarray, truth: np.ndarray) -> None:
        """Begin a test picture; arrays are (H, W, 3) in [0, 1]."""
        if any((s.photo, s.kernel) == (photo, kernel) for s in self.strips.values()):
            self._frames[photo, kernel] = blurred, truth
            self._pictures[photo, kernel] = {}

    def add(self, photo: str, kernel: str, block: str, row: str, x: np.ndarray) -> None:
        """Keep a restored picture if a strip shows it."""
        if (photo, kernel) in self._pictures:
            self._pictures[photo, kernel][block, row] = x

    def write(self, prefix: Path) -> list[Path]:
        """Write a PNG file for each strip whose picture was among those measured; their names begin with `prefix`."""
        written = []
        for name, strip in self.strips.items():
            key = (strip.photo, strip.kernel)
            if key not in self._frames:
                continue
            blurred, truth = self._frames[key]
            kept = self._pictures[key]
            panels = {"input": blurred}
            panels |= {row: kept[strip.block, row] for row in strip.rows if (strip.block, row) in kept}
            captions = [f"{row}\n{psnr(x, truth):.2f} dB" for row, x in panels.items()] + ["truth\n"]
            crops = [_crop(x, strip.crop) for x in (*panels.values(), truth)]
            path = prefix.with_name(f"{prefix.name}-{name}.png")
            write_png(path, captioned(crops, captions))
            written.append(path)
        return written


def _crop(x: np.ndarray, crop: tuple[int, ...]) -> np.ndarray:
    """Cut (top, left, height, width), moved inside where it would leave the picture."""
    top, left, height, width = crop
    top, left = max(0, min(top, x.shape[0] - height)), max(0, min(left, x.shape[1] - width))
    return x[top : top + height, left : left + width]
