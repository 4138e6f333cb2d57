"""Table 3: non-uniform blur, the motion known.

Photographs with one random camera shake each; PSNR and SSIM on the whole frame, RGB, clipped to [0, 1]. What is run
stands in ``configs/table3.yaml``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.compare import make_blur, restore, same_pictures, settings_part, to_array, warm_up
from ircdeblur.experiments.config import MotionTable, default_path, load
from ircdeblur.experiments.curves import measure, report_curves
from ircdeblur.experiments.report import Report, counted
from ircdeblur.experiments.strips import StripBook
from ircdeblur.experiments.synthetic import SEVERITIES, camera_case
from ircdeblur.metrics import psnr, ssim

PAPER = {
    "the paper: NU-FFT": ("22.97", "0.776", "47"),
    "the paper: NU-CG": ("26.77", "0.864", "335"),
    "the paper: GMM-Patch": ("26.10", "0.843", "415"),
    "the paper: IRC": ("26.54", "0.855", "0.8"),
    "the paper: IRC-Net, fine-tuned": ("26.91", "0.861", "0.8"),
}
"""PSNR, SSIM and seconds of the paper's Table 3; IRC on a GPU."""


def rim_and_interior(x: np.ndarray, truth: np.ndarray, rim: int) -> dict[str, float]:
    """Return the PSNR of the outermost pixels, of those inside, and how much better the inside is.

    Parameters
    ----------
    x, truth : (H, W, 3) arrays
        In [0, 1].
    rim : int
        Width of the outermost part in pixels.
    """
    error = np.square(x.astype(np.float64) - truth)
    inside = np.zeros(error.shape[:2], dtype=bool)
    inside[rim:-rim, rim:-rim] = True
    outer, inner = (float(-10 * np.log10(error[part].mean())) for part in (~inside, inside))
    return {"rim (dB)": outer, "interior (dB)": inner, "interior - rim (dB)": inner - outer}


def run(
    data: Path, out: Path, quick: bool = False, count: int | None = None, config_path: Path | None = None
) -> Report:
    """Return Table 3, and write its curves and strips.

    Parameters
    ----------
    data : path
        Folder of the data sets.
    out : path
        Folder for what is written; it is there.
    quick : bool
        The configuration's short version.
    count : int, optional
        Number of photographs, in place of the configuration's.
    config_path : path, optional
        Configuration; by default the package's own.
    """
    config = load(MotionTable, config_path or default_path("table3"))
    paths = list_photos(data / config.folder)[: count or (config.quick.photos if quick else config.photos)]
    report = Report(
        "Table 3: non-uniform blur, known motion",
        f"{counted(len(paths), 'photograph')} with one random camera shake each (lengths up to "
        f"{SEVERITIES[config.severity]:g} px), noise {config.noise:.2%}; PSNR and SSIM on the whole frame, RGB, "
        f"clipped to [0, 1]; rim: the outermost {config.rim} pixels. Set-up: operator, filters "
        "and what else comes before the iterations.",
        "method",
        (
            "PSNR (dB)",
            "SSIM",
            "rim (dB)",
            "interior (dB)",
            "interior - rim (dB)",
            "set-up (s)",
            "iterations (s)",
            "seconds",
        ),
        block="block",
        picture=("photo",),
        differences={name: [(a, b) for a, b in block.differences] for name, block in config.blocks.items()},
    )
    report.quoted = {
        next(iter(config.blocks)): {
            row: dict(zip(("PSNR (dB)", "SSIM", "seconds"), figures, strict=True)) for row, figures in PAPER.items()
        }
    }
    strips = StripBook(config.strips)
    warm_up(
        camera_case(paths[0], config.severity, config.seed, config.noise),
        None,
        list(config.blocks.values()),
        config.noise,
    )
    for number, path in enumerate(paths):
        case = camera_case(path, config.severity, config.seed, config.noise)
        make, truth, blurred = make_blur(case, None), to_array(case.sharp), to_array(case.blurred)
        strips.open(case.name, "", blurred, truth)

        def score(x: np.ndarray, truth: np.ndarray = truth) -> dict[str, float]:
            return {"PSNR (dB)": psnr(x, truth), "SSIM": ssim(x, truth), **rim_and_interior(x, truth, config.rim)}

        for label, block in config.blocks.items():
            common = {"block": label, "photo": case.name}
            report.rows.append({"method": "blurred", **common, **score(blurred)})
            for name, row in block.rows.items():
                if row.photos is not None and number >= row.photos:
                    continue
                timed = restore(case, make, row.method, block.resolved(name), config.noise)
                strips.add(case.name, "", label, name, timed.x)
                report.rows.append({"method": name, **common, **score(timed.x), **timed.times()})
        # Hours of measurements are not lost with the process.
        report.write_csv(out / "table3.csv")

    report.parts += same_pictures(report, ("PSNR (dB)", "SSIM", "seconds"), [p.stem for p in paths])
    for label, curves in config.curves.items():
        if quick and label not in config.quick.curves:
            continue
        cases = [
            (camera_case(path, config.severity, config.seed, config.noise), None)
            for path in paths[: 1 if quick else curves.photos]
        ]
        measured = measure(curves, cases, config.noise)
        part, summary = report_curves(f"table3-curves-{label}", curves, measured, out)
        report.parts.append(part)
        report.extra += summary
    written = strips.write(out / "table3-strip")
    if written:
        report.notes.append(
            "Picture strips, with the PSNR of the whole frame, lie beside this table where it was made: "
            + ", ".join(f"`{path.name}`" for path in written)
            + "."
        )
    report.parts.append(settings_part(config.blocks, config.noise))
    return report
