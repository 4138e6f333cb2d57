"""Run methods on test pictures with a clock beside them; what Tables 1 and 3 share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch

from ircdeblur.experiments.config import Block
from ircdeblur.experiments.report import Report, cell, counted, table
from ircdeblur.experiments.synthetic import Case
from ircdeblur.metrics import psnr
from ircdeblur.nets.checkpoints import IRC_NETS
from ircdeblur.nets.methods import deconvolve
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.settings import Settings

WARM_UP = 128
"""Side in pixels of the crop on which each method runs once before any clock is started."""

MakeBlur = Callable[[], UniformBlur | MotionBlur]


@dataclass(frozen=True)
class Point:
    """What one iteration has reached.

    Attributes
    ----------
    seconds : float
        Since the start, set-up included.
    quality : float
        PSNR of the frame in dB.
    """

    seconds: float
    quality: float


@dataclass(frozen=True)
class Timed:
    """A restored picture and its seconds.

    Attributes
    ----------
    x : (H, W, 3) array
        The frame, clipped to [0, 1].
    seconds : float
        From the blurred picture and its kernel or motion to x.
    setup : float or None
        Of these, those before the iterations: operator and filters. None for a method that does not report iterations.
    points : list of Point
        One for each iteration, if they were asked for.
    """

    x: np.ndarray
    seconds: float
    setup: float | None
    points: list[Point]

    def times(self) -> dict[str, float]:
        """Return the seconds as the tables name them."""
        if self.setup is None:
            return {"seconds": self.seconds}
        return {
            "set-up (s)": self.setup,
            "iterations (s)": self.seconds - self.setup,
            "seconds": self.seconds,
        }


def to_array(x: torch.Tensor) -> np.ndarray:
    """Return (1, 3, H, W) as (H, W, 3), clipped to [0, 1]."""
    return x[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()


def make_blur(case: Case, psf: np.ndarray | None) -> MakeBlur:
    """Return what makes the operator of a test picture."""
    if psf is not None:
        return lambda: UniformBlur(torch.from_numpy(psf), boundary="extended")
    assert case.motion is not None
    motion = torch.from_numpy(np.ascontiguousarray(case.motion))
    return lambda: MotionBlur(motion, boundary="extended")


def restore(
    case: Case, make: MakeBlur, method: str, settings: Settings, noise: float, truth: np.ndarray | None = None
) -> Timed:
    """Deconvolve a test picture.

    Parameters
    ----------
    case : Case
        The picture.
    make : callable
        Makes the operator; its time is part of the set-up.
    method, settings, noise
        As for `ircdeblur.solvers.settings.deconvolve`.
    truth : (H, W, 3) array, optional
        If given, the PSNR after every iteration is computed, while the clock stands still.
    """
    ends: list[float] = []
    points: list[Point] = []
    paused = 0.0

    def follow(_: int, x: torch.Tensor) -> None:
        nonlocal paused
        _wait(x)
        now = time.perf_counter()
        ends.append(now - began - paused)
        if truth is not None:
            points.append(Point(ends[-1], psnr(to_array(x), truth)))
            paused += time.perf_counter() - now

    began = time.perf_counter()
    result = deconvolve(case.blurred, make(), noise, method, None if method in IRC_NETS else settings, callback=follow)
    _wait(result.x)
    seconds = time.perf_counter() - began - paused
    setup = None
    if len(ends) > 1:
        # The first iteration ends one usual iteration after the set-up: this needs no knowledge of what a method does.
        setup = max(0.0, ends[0] - median(b - a for a, b in pairwise(ends)))
    return Timed(to_array(result.x), seconds, setup, points)


def _wait(x: torch.Tensor) -> None:
    """Wait until the device has computed x: a GPU answers before it has."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def warm_up(case: Case, psf: np.ndarray | None, blocks: Sequence[Block], noise: float) -> None:
    """Run each method once on a small crop, so that what a process loads once is in no measurement."""
    crop = (..., slice(WARM_UP), slice(WARM_UP))
    motion = None if case.motion is None else case.motion[crop[1:]]
    small = replace(case, sharp=case.sharp[crop], blurred=case.blurred[crop], motion=motion)
    for block in blocks:
        for name, row in block.rows.items():
            settings = replace(block.resolved(name), iterations=1)
            restore(small, make_blur(small, psf), row.method, settings, noise)


def same_pictures(report: Report, columns: Sequence[str], photos: list[str]) -> list[str]:
    """Compare all rows on the pictures of those rows that took fewer of them.

    Parameters
    ----------
    report : Report
        With the measurement "photo".
    columns : sequence of str
        What is averaged.
    photos : list of str
        All photographs, in their order; a block need not have all.

    Returns
    -------
    parts : list of str
        Markdown, one part for each smaller number of photographs in a block.
    """
    parts = []
    for block in report.blocks():
        here = [row for row in report.rows if report.block is None or row[report.block] == block]
        taken = {
            name: len({row["photo"] for row in here if row[report.group] == name})
            for name in dict.fromkeys(row[report.group] for row in here)
        }
        measured = {row["photo"] for row in here}
        order = [photo for photo in photos if photo in measured]
        for fewer in sorted({n for n in taken.values() if n < len(order)}):
            first = set(order[:fewer])
            body = [
                [
                    name,
                    *(
                        cell([r[c] for r in here if r[report.group] == name and r["photo"] in first and c in r])
                        for c in columns
                    ),
                ]
                for name, number in taken.items()
                if number >= fewer
            ]
            short = ", ".join(name for name, number in taken.items() if number == fewer)
            lines = [
                f"{short}: on the first {counted(fewer, 'photograph')} only. All rows with {block} on the same:",
                "",
            ]
            parts.append("\n".join(lines + table((report.group, *columns), body)))
    return parts


def settings_part(blocks: dict[str, Block], noise: float) -> str:
    """Return the settings of all rows as a part of a report in Markdown."""
    names = [f.name for f in fields(Settings)]
    body = [
        [
            name,
            row.method,
            *("" if row.method in IRC_NETS else _short(getattr(block.resolved(name), key)) for key in names),
            label,
        ]
        for label, block in blocks.items()
        for name, row in block.rows.items()
    ]
    heads = ("row", "method", *names, "with")
    return "\n".join(
        [
            "### Settings",
            "",
            f"prior is lambda / noise^2 at noise 1 %; the noise, {noise:g}, is given. What is not set is the "
            "method's own choice, and networks have learned theirs. "
            "Defaults were chosen on validation photographs, which are none of these.",
            "",
            *table(heads, body),
        ]
    )


def _short(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
