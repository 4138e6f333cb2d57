"""A sheet of photographs, one on each line: as it came, its motion, and what rows of Table 4 have made of it.

For photographs whose truth nobody knows, to be looked at::

    python -m ircdeblur.experiments.contact_sheet PHOTO_OR_FOLDER... -o PNG

A sheet shows photographs and is not for the repository.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.experiments.blind import BlindRows, strip
from ircdeblur.experiments.config import ShakenTable, default_path, load
from ircdeblur.experiments.strips import write_png
from ircdeblur.experiments.table4 import reduced

GAP = 10
"""White pixels between the lines."""


def find(places: Sequence[Path]) -> list[Path]:
    """Return the photographs that are named, and those of the folders that are.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or a folder has no photographs.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"no such file or folder: {place}")
        found += list_photos(place) if place.is_dir() else [place]
    return found


def stacked(lines: Sequence[np.ndarray]) -> np.ndarray:
    """Put pictures (h, w, 3), uint8, below each other on white, flush left."""
    width = max(line.shape[1] for line in lines)
    height = sum(line.shape[0] + GAP for line in lines) - GAP
    sheet = np.full((height, width, 3), 255, np.uint8)
    top = 0
    for line in lines:
        sheet[top : top + line.shape[0], : line.shape[1]] = line
        top += line.shape[0] + GAP
    return sheet


def draw(paths: Sequence[Path], rows: BlindRows, side: int | None = None, height: int = 320) -> np.ndarray:
    """Return the sheet, (h, w, 3) uint8.

    Parameters
    ----------
    paths : sequence of paths
        Photographs.
    rows : BlindRows
        What is done with each.
    side : int, optional
        Longer side to which they are reduced first, in pixels.
    height : int
        Of the panels in pixels.
    """
    lines = []
    for path in paths:
        image = reduced(load_photo(path), side)
        lines.append(strip(image, dict(rows.run(image)), title=path.stem, height=height))
        print(path.name, file=sys.stderr)
    return stacked(lines)


def main(arguments: list[str] | None = None) -> int:
    """Write a sheet."""
    parser = argparse.ArgumentParser(prog="python -m ircdeblur.experiments.contact_sheet", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="PHOTO_OR_FOLDER")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PNG", help="file to write")
    parser.add_argument("--row", action="append", metavar="NAME", help="row of the configuration; may be repeated")
    parser.add_argument("--config", type=Path, metavar="YAML", help="configuration with the rows, as table4.yaml")
    parser.add_argument("--baselines", type=Path, metavar="DIR", help="folder of trained baselines")
    parser.add_argument("--side", type=int, metavar="PX", help="reduce the longer side to this first")
    parser.add_argument("--height", type=int, default=320, metavar="PX", help="of each panel (default 320)")
    given = parser.parse_args(arguments)
    try:
        for name, least in (("side", 64), ("height", 64)):
            if (value := getattr(given, name)) is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, got {value}")
        if not given.output.parent.is_dir():
            raise FileNotFoundError(f"no such folder: {given.output.parent}")
        config = load(ShakenTable, given.config or default_path("table4"))
        names = given.row or list(config.strips)
        if unknown := [name for name in names if name not in config.rows]:
            raise ValueError(f"no row {unknown[0]!r}; known are {', '.join(config.rows)}")
        rows = BlindRows({name: config.rows[name] for name in names}, given.baselines)
        for note in rows.notes():
            print(note, file=sys.stderr)
        write_png(given.output, draw(find(given.places), rows, given.side, given.height))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(given.output)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
