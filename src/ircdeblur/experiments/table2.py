"""Table 2: motion estimation.

100 photographs with 3 random camera shakes each and severity, noise 1 %: 300 moderate (lengths up to 21 px), 300 severe
(up to 35 px). Motion MSE: mean over the pixels of ((du)^2 + (dv)^2) / 2, the sign of each vector chosen in its favour.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.motion_baselines import load_baselines
from ircdeblur.experiments.report import Report, table
from ircdeblur.experiments.synthetic import SEVERITIES, Case, camera_case
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import from_double_angle, to_double_angle
from ircdeblur.nets.checkpoints import training_summary
from ircdeblur.plots import compare_motions
from ircdeblur.restore import estimate_motion

PICTURED = 3
"""The first motions of so many photographs are drawn."""

OURS = {"Motion-Net, raw": False, "Motion-Net, consolidated": True}


def run(data: Path, quick: bool = False, count: int | None = None, baselines: Path | None = None) -> Report:
    """Return Table 2.

    Parameters
    ----------
    data : path
        Folder of the data sets.
    quick : bool
        Ten photographs and one motion.
    count : int, optional
        Number of photographs.
    baselines : path, optional
        Folder of the trained baselines.
    """
    photos = list_photos(data / "voc-test")[: count or (10 if quick else 100)]
    motions = 1 if quick else 3
    others = load_baselines(baselines)
    methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        **{name: partial(estimate_motion, consolidated=consolidated) for name, consolidated in OURS.items()},
        **others,
    }
    report = Report(
        "Table 2: motion estimation",
        __doc__.split("\n", 2)[2].strip().replace("\n", " "),
        "estimate",
        ("MSE moderate", "MSE severe", "seconds"),
    )
    # What is read or made once is not a picture's time.
    first = _image(camera_case(photos[0], "moderate", 0))
    for method in methods.values():
        method(first)
    for severity in SEVERITIES:
        for path in photos:
            for seed in range(motions):
                case = camera_case(path, severity, seed)
                assert case.motion is not None
                mean = to_double_angle(case.motion).mean((0, 1), keepdims=True)
                constant = np.broadcast_to(from_double_angle(mean), case.motion.shape)
                estimates = {"no motion": np.zeros_like(case.motion), "best constant (knows the truth)": constant}
                seconds = {}
                image = _image(case)
                for name, method in methods.items():
                    began = time.perf_counter()
                    estimates[name] = method(image)
                    seconds[name] = time.perf_counter() - began
                if seed == 0 and path in photos[:PICTURED]:
                    report.pictures[f"motions-{severity}-{case.name}"] = compare_motions(image, case.motion, estimates)
                for name, motion in estimates.items():
                    row = {"estimate": name, "photo": case.name, "seed": seed, "severity": severity}
                    row[f"MSE {severity}"] = motion_mse(motion, case.motion)
                    report.rows.append({**row, "seconds": seconds[name]} if name in seconds else row)
    summaries = {**dict.fromkeys(OURS, training_summary()), **{name: b.summary for name, b in others.items()}}
    report.parts.append("\n".join(_details(report, summaries)))
    report.notes.append(
        "The baselines are re-implementations of the formulations: their networks have Motion-Net's input and about "
        "as many parameters, and are trained on the same kind of pairs. All were timed on the same threads."
    )
    report.notes.append("The paper, on its own test pictures: 5.91 moderate, 8.36 severe.")
    return report


def _image(case: Case) -> np.ndarray:
    """Return the blurred picture as (H, W, 3)."""
    return case.blurred[0].permute(1, 2, 0).numpy()


def _details(report: Report, summaries: dict[str, dict[str, Any]]) -> list[str]:
    """Return a table of medians, sizes and training; the medians join the summary."""
    body = []
    for name, summary in summaries.items():
        medians = {s: float(np.median(report.values(f"MSE {s}", estimate=name))) for s in SEVERITIES}
        for severity, median in medians.items():
            report.extra.append({"block": "", "row": name, "column": f"median MSE {severity}", "mean": f"{median:.5g}"})
        trained = f"{summary['seconds'] / 60:.0f} min, {summary['crops']} crops" if "crops" in summary else ""
        body.append([name, *(f"{m:.2f}" for m in medians.values()), str(summary.get("parameters", "")), trained])
    heads = ("estimate", *(f"median MSE {s}" for s in SEVERITIES), "parameters", "training")
    return table(heads, body)
