"""Large pictures in tiles: how large they may be, where they lie, and how they are blended.

Tiles overlap. In the middle of what two neighbours share, where the borders of both are far, one fades into the other;
the weights of all tiles add up to 1 everywhere. Finished rows are handed on at once, so of the whole picture nothing is
held here but one row of tiles.

Tiles start at multiples of `ALIGNMENT`: there the windows of the local inverse filters and the blocks of the networks
lie as they do in the whole picture, without which the two would differ by far more than a border does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

Tile = int | Literal["auto"] | None
Progress = Callable[[int, int], None]

WHOLE_PIXELS = 1_500_000
"""Pictures of at most this many pixels are restored in one piece, if there is memory for it."""

TILE = 768
"""Side in pixels of the tiles of larger ones, if there is memory for it."""

OVERLAP = 64
"""Pixels that a tile has beyond the middle of what it shares with a neighbour, at least."""

FADE = 64
"""Pixels over which one tile fades into the next."""

MIN_TILE = 4 * OVERLAP
"""Smallest side of a tile in pixels."""

ALIGNMENT = 48
"""Tiles start at multiples of so many pixels: half the side of the windows of the local inverse filters, and a multiple
of the networks' blocks."""

MEMORY_SHARE = 0.6
"""Share of the memory which is available that tiles may need."""


@dataclass(frozen=True)
class Strip:
    """A tile along one axis.

    Attributes
    ----------
    window : slice
        The pixels that it is made from.
    core : slice
        The pixels that it counts for, a part of these.
    weight : (n,) tensor
        How much it counts, at each pixel of the core.
    """

    window: slice
    core: slice
    weight: torch.Tensor


def strips(length: int, tile: int, overlap: int = OVERLAP) -> list[Strip]:
    """Divide a length into tiles.

    Parameters
    ----------
    length : int
        Pixels.
    tile : int
        Longest tile, at least ``2 * overlap + ALIGNMENT``, if it is shorter than the length.
    overlap : int
        Half of what neighbouring tiles share, at least.
    """
    if length <= tile:
        return [Strip(slice(0, length), slice(0, length), torch.ones(length))]
    count = -(-(length - 2 * overlap) // (tile - 2 * overlap))
    while (spacing := _aligned(-(-(length - tile) // (count - 1)))) > tile - 2 * overlap:
        count += 1
    starts = range(0, (count - 1) * spacing + 1, spacing)
    stops = [start + tile for start in starts[:-1]] + [length]
    # How far the later of two neighbours has come to count.
    position = torch.arange(length, dtype=torch.float64) + 0.5
    middles = [(start + stop) / 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    rises = [((position - middle) / FADE + 0.5).clamp(0, 1) for middle in middles]
    rises = [torch.ones_like(position), *rises, torch.zeros_like(position)]
    found = []
    for start, stop, rise, fall in zip(starts, stops, rises[:-1], rises[1:], strict=True):
        weight = (rise - fall).float()
        inside = weight.nonzero()[:, 0]
        core = slice(int(inside[0]), int(inside[-1]) + 1)
        found.append(Strip(slice(start, stop), core, weight[core]))
    return found


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def blend(
    make: Callable[[slice, slice], torch.Tensor],
    put: Callable[[slice, torch.Tensor], None],
    shape: tuple[int, int],
    tile: int | None,
    overlap: int = OVERLAP,
    progress: Progress | None = None,
) -> None:
    """Make a picture tile by tile.

    Parameters
    ----------
    make : callable
        Gives (1, C, h, w) for the window of given rows and columns.
    put : callable
        Takes finished rows of the picture, and what they are, (1, C, n, W). It is called from the top down.
    shape : (int, int)
        H and W of the picture.
    tile : int or None
        Longest side of a tile; None makes the picture in one piece.
    overlap : int
        See `strips`.
    progress : callable, optional
        Called with the number of finished tiles and of all.
    """
    if tile is None or tile >= max(shape):
        put(slice(0, shape[0]), make(slice(0, shape[0]), slice(0, shape[1])))
        if progress is not None:
            progress(1, 1)
        return
    rows, columns = (strips(n, tile, overlap) for n in shape)
    carried: torch.Tensor | None = None
    for number, row in enumerate(rows):
        height, band = row.core.stop - row.core.start, None
        for place, column in enumerate(columns, start=1):
            part = make(row.window, column.window)
            inner = part[
                ...,
                row.core.start - row.window.start : row.core.stop - row.window.start,
                column.core.start - column.window.start : column.core.stop - column.window.start,
            ]
            if band is None:
                band = part.new_zeros(*part.shape[:2], height, shape[1])
            band[..., column.core] += inner * (row.weight[:, None] * column.weight).to(part)
            if progress is not None:
                progress(number * len(columns) + place, len(rows) * len(columns))
        assert band is not None
        if carried is not None:
            band[..., : carried.shape[-2], :] += carried
        stop = rows[number + 1].core.start if number + 1 < len(rows) else row.core.stop
        finished = stop - row.core.start
        put(slice(row.core.start, stop), band[..., :finished, :])
        carried = band[..., finished:, :].clone()


def count_tiles(shape: tuple[int, int], tile: int | None, overlap: int = OVERLAP) -> int:
    """Return the number of tiles that `blend` makes."""
    return 1 if tile is None else math.prod(len(strips(n, tile, overlap)) for n in shape)


def middle_of_core(window: slice, length: int, overlap: int) -> float:
    """Return the middle of what a tile counts for, along one axis: at the picture's borders it has no neighbours."""
    first = window.start + (overlap if window.start > 0 else 0)
    stop = min(window.stop, length) - (overlap if window.stop < length else 0)
    return (first + stop - 1) / 2


def overlap_for(reach: int) -> int:
    """Return the overlap for a blur that reads so many pixels to each side: longer blurs are felt farther from borders.

    `OVERLAP` up to 18 px, which is a motion of 35 px.
    """
    return OVERLAP + 2 * max(0, reach - 18)


def check_tile(tile: Any) -> Tile:
    """Return a valid `tile`, 0 as None, or raise `ValueError`."""
    if tile is None or tile == "auto":
        return tile
    if isinstance(tile, int) and not isinstance(tile, bool):
        if tile == 0:
            return None
        if tile >= MIN_TILE:
            return tile
    raise ValueError(f"tile must be 'auto', None or 0 (no tiles), or at least {MIN_TILE} pixels, got {tile!r}")


def tile_side(
    tile: Tile, shape: tuple[int, int], need: float, free: float | None, overlap: int = OVERLAP
) -> int | None:
    """Return the side of the tiles, or None for the whole picture.

    Parameters
    ----------
    tile : int, "auto" or None
        What the user asked for.
    shape : (int, int)
        H and W of the picture.
    need : float
        Bytes that are needed for each pixel that is restored at once.
    free : float or None
        Bytes that are available; None if that is not known.
    overlap : int
        See `strips`. Tiles that would hold little else are made larger.
    """
    if tile is None:
        return None
    least = max(MIN_TILE, 4 * overlap)
    if tile != "auto":
        side = max(tile, least)
        return None if side >= max(shape) else side
    budget = math.inf if free is None else MEMORY_SHARE * free
    pixels = shape[0] * shape[1]
    if pixels <= WHOLE_PIXELS and pixels * need <= budget:
        return None
    budget = min(budget, TILE**2 * USUAL_NEED)
    side = max(least, min(TILE, int((budget / need) ** 0.5)))
    return None if side >= max(shape) else side


def available_memory(device: torch.device | None = None) -> float | None:
    """Return how many bytes of memory can still be used, or None if the system does not say.

    On Linux the least of what the machine has available and of what the control groups of this process, such as those
    of a container, leave it; on a CUDA device its free memory.

    Parameters
    ----------
    device : torch.device, optional
        The processor if not given.
    """
    if device is not None and device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device is not None and device.type != "cpu":
        return None
    found = [n for n in (_machine_memory(), _group_memory()) if n is not None]
    return min(found) if found else None


_PROC, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def _machine_memory() -> float | None:
    """Return the memory of the machine that can be used without swapping."""
    try:
        lines = (_PROC / "meminfo").read_text().splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _group_memory() -> float | None:
    """Return what the control groups (version 1 or 2) of this process leave it; None if they set no limit."""
    try:
        groups = [line.split(":", 2) for line in (_PROC / "self/cgroup").read_text().splitlines()]
    except OSError:
        return None
    least: float | None = None
    for number, controllers, path in (group for group in groups if len(group) == 3):
        if number == "0" and not controllers:
            root, limit, usage, file_pages = _GROUPS, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            root, limit = _GROUPS / "memory", "memory.limit_in_bytes"
            usage, file_pages = "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        here = root / path.lstrip("/")
        # In a container the path is that of the machine outside: then its own group is the root.
        for folder in [here, *(parent for parent in here.parents if parent.is_relative_to(root))]:
            left = _left_in(folder, limit, usage, file_pages)
            if left is not None:
                least = left if least is None else min(least, left)
    return least


def _left_in(folder: Path, limit: str, usage: str, file_pages: str) -> float | None:
    """Return what is left in one group; pages of files are given up when memory is short."""
    try:
        most, used = float((folder / limit).read_text()), float((folder / usage).read_text())
        fields = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        given_up = next((float(field[1]) for field in fields if field[0] == file_pages), 0.0)
    except (OSError, ValueError, IndexError):
        # No such group, or "max".
        return None
    # Version 1 says "no limit" by a huge number.
    return None if most >= 2**60 else max(0.0, most - used + given_up)


TAP = 8
"""Bytes of a tap of a blur's matrix."""

USUAL_NEED = 1500.0
"""Bytes that are usual for each pixel, by which the memory for tiles of side `TILE` is bounded: 0.9 GB."""

_NEEDS = {
    "wiener": 1700.0,
    "fft": 4100.0,
    "fft-nopad": 4100.0,
    "irc-net": 1600.0,  # in float32; half of it where bfloat16 is in hardware
    "irc-net-plus": 2350.0,
    "irc-net-shrinkage": 2100.0,
    "epll": 1800.0,
}
_OTHER_NEED = 800.0


def working_bytes(method: str, longest: float) -> float:
    """Return how many bytes a method needs for each pixel of an RGB picture that it restores at once.

    As measured on tiles of 512 px, less what the blur's matrix takes.

    Parameters
    ----------
    method : str
        Of `ircdeblur.nets.methods.METHODS`.
    longest : float
        Longest motion in pixels, 0 for a kernel. The blur's matrix has 2.1 taps for each pixel of it: it and its
        transpose are kept, and while that is made there is a third.
    """
    matrix = 2.1 * TAP * longest
    return max(_NEEDS.get(method, _OTHER_NEED) + 2 * matrix, 3 * matrix)
