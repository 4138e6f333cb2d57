"""Table 2: motion estimation.

100 photographs with 3 random camera shakes each and severity, noise 1 %: 300 moderate (lengths up to 21 px), 300 severe
(up to 35 px). Motion MSE: mean over the pixels of ((du)^2 + (dv)^2) / 2, the sign of each vector chosen in its favour.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.report import Report
from ircdeblur.experiments.synthetic import SEVERITIES, camera_case
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import from_double_angle, to_double_angle
from ircdeblur.plots import compare_motions
from ircdeblur.restore import estimate_motion

PICTURED = 3
"""The first motions of so many photographs are drawn."""

OURS = {"Motion-Net, raw": False, "Motion-Net, consolidated": True}


def run(data: Path, quick: bool = False, count: int | None = None) -> Report:
    """Return Table 2; ``quick`` takes ten photographs and one motion; ``count`` sets their number."""
    photos = list_photos(data / "voc-test")[: count or (10 if quick else 100)]
    motions = 1 if quick else 3
    report = Report(
        "Table 2: motion estimation",
        __doc__.split("\n", 2)[2].strip().replace("\n", " "),
        "estimate",
        ("MSE moderate", "MSE severe", "seconds"),
    )
    for severity in SEVERITIES:
        for path in photos:
            for seed in range(motions):
                case = camera_case(path, severity, seed)
                assert case.motion is not None
                mean = to_double_angle(case.motion).mean((0, 1), keepdims=True)
                constant = np.broadcast_to(from_double_angle(mean), case.motion.shape)
                estimates = {"no motion": np.zeros_like(case.motion), "best constant (knows the truth)": constant}
                seconds = {}
                image = case.blurred[0].permute(1, 2, 0).numpy()
                for name, consolidated in OURS.items():
                    began = time.perf_counter()
                    estimates[name] = estimate_motion(image, consolidated=consolidated)
                    seconds[name] = time.perf_counter() - began
                if seed == 0 and path in photos[:PICTURED]:
                    report.pictures[f"motions-{severity}-{case.name}"] = compare_motions(image, case.motion, estimates)
                for name, motion in estimates.items():
                    row = {"estimate": name, "photo": case.name, "seed": seed, "severity": severity}
                    row[f"MSE {severity}"] = motion_mse(motion, case.motion)
                    report.rows.append({**row, "seconds": seconds[name]} if name in seconds else row)
    for name in OURS:
        medians = ", ".join(f"{np.median(report.values(f'MSE {s}', estimate=name)):.2f} {s}" for s in SEVERITIES)
        report.notes.append(f"{name}: median over the pictures {medians}.")
    report.notes.append("The paper, on its own test pictures: 5.91 moderate, 8.36 severe.")
    return report
