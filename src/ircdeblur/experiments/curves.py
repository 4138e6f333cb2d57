"""Time to quality: PSNR against seconds, for methods that solve one and the same problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ircdeblur.experiments.compare import Timed, make_blur, restore, to_array, warm_up
from ircdeblur.experiments.config import Curves
from ircdeblur.experiments.report import cell, counted, standard_error, table, write_rows
from ircdeblur.experiments.strips import write_png
from ircdeblur.experiments.synthetic import Case
from ircdeblur.plots import plot_quality


@dataclass(frozen=True)
class Curve:
    """What a method has reached after each iteration; one line for each test picture.

    Attributes
    ----------
    seconds : (pictures, iterations) array
        Since the start, set-up included.
    quality : (pictures, iterations) array
        PSNR in dB.
    setup : (pictures,) array
        Seconds before the iterations.
    """

    seconds: np.ndarray
    quality: np.ndarray
    setup: np.ndarray

    @classmethod
    def of(cls, runs: Sequence[Timed]) -> Curve:
        """Join the runs on all pictures; one that stopped early stays where it stopped."""
        longest = max(len(run.points) for run in runs)
        points = [run.points + [run.points[-1]] * (longest - len(run.points)) for run in runs]
        return cls(
            np.array([[p.seconds for p in line] for line in points]),
            np.array([[p.quality for p in line] for line in points]),
            np.array([run.setup or 0.0 for run in runs]),
        )

    def reaches(self, goal: float) -> int | None:
        """Return the first iteration, from 0 on, after which the mean PSNR is the goal or above; None if none is."""
        reached = np.flatnonzero(self.quality.mean(0) >= goal)
        return int(reached[0]) if len(reached) else None

    def without_setup(self) -> np.ndarray:
        """Return the seconds of the iterations alone."""
        return self.seconds - self.setup[:, None]


def measure(curves: Curves, cases: Sequence[tuple[Case, np.ndarray | None]], noise: float) -> dict[str, Curve]:
    """Run every row on every test picture, and return its curve by its name.

    Parameters
    ----------
    curves : Curves
        The rows.
    cases : sequence of (Case, psf or None)
        The pictures.
    noise : float
        Standard deviation.
    """
    warm_up(*cases[0], [curves], noise)
    runs: dict[str, list[Timed]] = {name: [] for name in curves.rows}
    for case, psf in cases:
        make, truth = make_blur(case, psf), to_array(case.sharp)
        for name, row in curves.rows.items():
            runs[name].append(restore(case, make, row.method, curves.resolved(name), noise, truth))
    return {name: Curve.of(timed) for name, timed in runs.items()}


SHARE = "share of plain cg's seconds"
"""Column of the summary: seconds to the goal, set-up included, over the plain row's; infinite if never reached."""


def report_curves(name: str, curves: Curves, measured: dict[str, Curve], out: Path) -> tuple[str, list[dict[str, Any]]]:
    """Write curves as CSV and as a drawing, and return what is to be said about them.

    Parameters
    ----------
    name : str
        Of the files, without ending.
    curves : Curves
        Which row is the reference, and which the plain one.
    measured : dict
        From `measure`.
    out : path
        Folder.

    Returns
    -------
    part : str
        Markdown.
    summary : list of dict
        Rows for the table's summary.
    """
    goal = float(measured[curves.reference].quality[:, -1].mean()) - curves.gap
    write_rows(out / f"{name}.csv", _points(measured))
    both = {row: (c.seconds.mean(0), c.without_setup().mean(0), c.quality.mean(0)) for row, c in measured.items()}
    write_png(out / f"{name}.png", plot_quality(both, goal, f"goal: {curves.reference} - {curves.gap:g} dB"))

    plain = measured[curves.plain]
    plain_iteration = plain.reaches(goal)
    body, summary = [], []
    for row, curve in measured.items():
        iteration = curve.reaches(goal)
        best = curve.quality.mean(0).argmax()
        cells = [cell(curve.quality[:, -1]), cell(curve.quality[:, best]), "not reached", "", "", "", ""]
        if iteration is None:
            never = np.full(len(curve.setup), np.inf)
            summary += [_summary(curves.title, row, column, never) for column in ("seconds to the goal", SHARE)]
        else:
            times = (curve.seconds[:, iteration], curve.without_setup()[:, iteration])
            cells[2:5] = [str(iteration + 1), cell(times[0]), cell(times[1])]
            summary += [
                _summary(curves.title, row, "seconds to the goal", times[0]),
                _summary(curves.title, row, "seconds to the goal, without set-up", times[1]),
            ]
            if plain_iteration is not None:
                slow = (plain.seconds[:, plain_iteration], plain.without_setup()[:, plain_iteration])
                ratios = [float(own.mean() / other.mean()) for own, other in zip(times, slow, strict=True)]
                cells[5:] = [f"{ratio:.2f}" for ratio in ratios]
                summary.append(_summary(curves.title, row, SHARE, np.array(ratios[:1])))
        body.append([row, *cells])
    heads = (
        "method", "last PSNR (dB)", "best PSNR (dB)", "iterations to the goal", "seconds", "without set-up",
        f"share of {curves.plain}'s seconds", "without set-up",
    )  # fmt: skip
    count = len(plain.setup)
    part = "\n".join(
        [
            f"### Time to quality, {curves.title}",
            "",
            f"Mean over {counted(count, 'test picture')}, each method with the same model, precision and "
            f"threads; the clock stands while the PSNR is computed. The goal, {goal:.2f} dB, is {curves.gap:g} dB "
            f"below {curves.reference}.",
            "",
            *table(heads, body),
            "",
            f"![PSNR against seconds, {curves.title}]({name}.png)",
        ]
    )
    return part, summary


def _summary(title: str, row: str, column: str, values: np.ndarray) -> dict[str, Any]:
    error = standard_error(values) if np.isfinite(values).all() else None
    return {
        "block": f"time to quality, {title}",
        "row": row,
        "column": column,
        "mean": f"{values.mean():.5g}",
        "standard error": "" if error is None else f"{error:.3g}",
        "n": len(values),
    }


def _points(measured: dict[str, Curve]) -> list[dict[str, Any]]:
    """Return the means of all curves, a row for each iteration."""
    rows = []
    for name, curve in measured.items():
        alone = curve.without_setup()
        for i in range(curve.quality.shape[1]):
            error = standard_error(curve.quality[:, i])
            rows.append(
                {
                    "method": name,
                    "iteration": i + 1,
                    "seconds": f"{curve.seconds[:, i].mean():.4g}",
                    "without set-up (s)": f"{alone[:, i].mean():.4g}",
                    "PSNR (dB)": f"{curve.quality[:, i].mean():.4f}",
                    "standard error": "" if error is None else f"{error:.4f}",
                    "n": len(curve.setup),
                }
            )
    return rows
