"""Table 4: blind deblurring.

Table 2's first motion of each photograph and severity, noise 1 %; PSNR and SSIM on the whole frame, RGB, clipped to
[0, 1]. The sharp photographs themselves go through too: they should come out as they are.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.report import Report
from ircdeblur.experiments.synthetic import SEVERITIES, camera_case
from ircdeblur.metrics import motion_mse, psnr, ssim
from ircdeblur.restore import deblur


def run(data: Path, quick: bool = False, count: int | None = None) -> Report:
    """Return Table 4; ``quick`` takes four photographs, else 100; ``count`` sets their number."""
    photos = list_photos(data / "voc-test")[: count or (4 if quick else 100)]
    report = Report(
        "Table 4: blind deblurring",
        __doc__.split("\n", 2)[2].strip().replace("\n", " "),
        "pictures",
        ("PSNR before (dB)", "PSNR (dB)", "gain (dB)", "SSIM before", "SSIM", "motion MSE", "seconds"),
    )
    for severity in SEVERITIES:
        for path in photos:
            case = camera_case(path, severity, 0)
            assert case.motion is not None
            truth, blurred = (t[0].permute(1, 2, 0).numpy().clip(0, 1) for t in (case.sharp, case.blurred))
            began = time.perf_counter()
            x, motion = deblur(blurred, return_motion=True)
            seconds = time.perf_counter() - began
            before, after = psnr(blurred, truth), psnr(x, truth)
            report.rows.append(
                {
                    "pictures": severity,
                    "photo": case.name,
                    "PSNR before (dB)": before,
                    "PSNR (dB)": after,
                    "gain (dB)": after - before,
                    "SSIM before": ssim(blurred, truth),
                    "SSIM": ssim(x, truth),
                    "motion MSE": motion_mse(motion, case.motion),
                    "seconds": seconds,
                }
            )
    for path in photos:
        truth = camera_case(path, "moderate", 0).sharp[0].permute(1, 2, 0).numpy()
        began = time.perf_counter()
        x, motion = deblur(truth, return_motion=True)
        report.rows.append(
            {
                "pictures": "sharp",
                "photo": path.stem,
                "PSNR (dB)": min(psnr(x, truth), 60.0),
                "SSIM": ssim(x, truth),
                "motion MSE": motion_mse(motion, np.zeros_like(motion)),
                "seconds": time.perf_counter() - began,
            }
        )
    first = {p.stem for p in photos[:20]}
    for severity in SEVERITIES:
        gains = [r["gain (dB)"] for r in report.rows if r["pictures"] == severity and r["photo"] in first]
        report.notes.append(
            f"{severity}, the first {len(gains)} photographs: mean gain {np.mean(gains):+.2f} dB, "
            f"smallest {min(gains):+.2f}, largest {max(gains):+.2f}."
        )
    kept = [r["PSNR (dB)"] for r in report.rows if r["pictures"] == "sharp" and r["photo"] in first]
    report.notes.append(
        f"Sharp, the first {len(kept)} photographs, against themselves (unchanged ones count as 60 dB): "
        f"mean {np.mean(kept):.1f} dB, smallest {min(kept):.1f}."
    )
    report.notes.append("The paper, on the pictures of Bahat et al.: 24.80 moderate, 22.54 severe.")
    return report
