"""Table 1: solvers of the regularised least-squares problem, uniform blur.

20 photographs, the 8 kernels of Levin et al. (CVPR 2009), noise 1 %; PSNR on the frame, which is the photograph without
the margin that the kernel has read; RGB, clipped to [0, 1].
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.report import Report
from ircdeblur.experiments.synthetic import uniform_case
from ircdeblur.metrics import psnr
from ircdeblur.operators import UniformBlur
from ircdeblur.psf import check_psf
from ircdeblur.solvers.admm import admm
from ircdeblur.solvers.settings import DEFAULTS, METHODS, make_update

NOISE = 0.01
PAPER = {"irc": 25.65, "cg": 25.59, "fft": 25.16, "fft-nopad": 20.54}


def run(data: Path, quick: bool = False, count: int | None = None) -> Report:
    """Return Table 1; ``quick`` takes two photographs and two kernels; ``count`` sets their number."""
    photos = list_photos(data / "voc-test")[: count or (2 if quick else 20)]
    with np.load(data / "levin" / "kernels.npz") as archive:
        kernels = [check_psf(archive[f"kernel{i}"]) for i in ((5, 3) if quick else range(1, 9))]
    report = Report(
        "Table 1: uniform blur",
        __doc__.split("\n", 2)[2].strip().replace("\n", " "),
        "method",
        ("PSNR (dB)", "filters (s)", "iterations (s)"),
    )
    for number, psf in enumerate(kernels):
        for path in photos:
            case = uniform_case(path, psf, seed=number)
            truth = case.sharp[0].permute(1, 2, 0).numpy()

            def score(x: torch.Tensor, truth: np.ndarray = truth) -> float:
                return psnr(x[0].clamp(0, 1).permute(1, 2, 0).numpy(), truth)

            common = {"photo": case.name, "kernel": number}
            report.rows.append({"method": "blurred", **common, "PSNR (dB)": score(case.blurred)})
            for method in METHODS:
                settings = DEFAULTS[method]
                began = time.perf_counter()
                blur = UniformBlur(torch.from_numpy(psf), boundary="extended")
                update = make_update(method, case.blurred, blur, settings)
                ready = time.perf_counter()
                x = admm(update, settings.prior * NOISE**2, settings.rho, settings.iterations, settings.norm).x
                done = time.perf_counter()
                report.rows.append(
                    {
                        "method": method,
                        **common,
                        "PSNR (dB)": score(x),
                        "filters (s)": ready - began,
                        "iterations (s)": done - ready,
                    }
                )
    for other in ("cg", "fft"):
        gap = report.values("PSNR (dB)", method="irc") - report.values("PSNR (dB)", method=other)
        report.notes.append(f"irc minus {other}: {gap.mean():+.2f} ± {gap.std(ddof=1) / len(gap) ** 0.5:.2f} dB.")
    report.notes.append(
        "Settings (chosen on the validation photographs): "
        + "; ".join(
            f"{name}: lambda {s.prior * NOISE**2:g}, rho {s.rho:g}, {s.iterations} iterations"
            for name, s in DEFAULTS.items()
        )
        + "."
    )
    report.notes.append(
        "The paper, on other photographs of the same collection and without saying its noise: "
        + ", ".join(f"{m} {v}" for m, v in PAPER.items())
        + " dB."
    )
    return report
