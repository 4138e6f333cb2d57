"""Table 1: solvers of the regularised least-squares problem, uniform blur.

Photographs blurred by the kernels of Levin et al. (CVPR 2009); PSNR on the frame, which is the photograph without the
margin that the kernel has read; RGB, clipped to [0, 1]. What is run stands in ``configs/table1.yaml``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.compare import make_blur, restore, same_pictures, settings_part, to_array, warm_up
from ircdeblur.experiments.config import UniformTable, default_path, load
from ircdeblur.experiments.curves import measure, report_curves
from ircdeblur.experiments.report import Column, Report, counted
from ircdeblur.experiments.strips import StripBook
from ircdeblur.experiments.synthetic import uniform_case
from ircdeblur.metrics import psnr
from ircdeblur.psf import check_psf

_HEADS = (*(f"ker {i}" for i in range(1, 9)), "PSNR (dB)", "set-up (s)", "iterations (s)", "seconds")
PAPER = {
    "the paper: FFT nopad": "20.81 20.18 22.44 17.68 23.34 21.06 19.68 18.29 20.54 - - 1.2",
    "the paper: FFT": "25.95 24.99 26.01 22.44 27.24 26.80 24.58 23.20 25.16 - - 1.3",
    "the paper: CG": "25.93 25.52 25.99 24.02 27.11 26.61 24.96 24.56 25.59 - - 60",
    "the paper: IRC": "25.91 25.33 25.99 23.74 27.23 26.84 25.37 24.73 25.65 6 2.6 8.6",
}
"""All of the paper's Table 1, column by column; its noise is not stated."""


def run(
    data: Path, out: Path, quick: bool = False, count: int | None = None, config_path: Path | None = None
) -> Report:
    """Return Table 1, and write its curves and strips.

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
    config = load(UniformTable, config_path or default_path("table1"))
    paths = list_photos(data / config.folder)[: count or (config.quick.photos if quick else config.photos)]
    names = config.quick.kernels if quick and config.quick.kernels else config.kernels
    with np.load(data / config.kernel_file) as archive:
        psfs = {name: check_psf(archive[name]) for name in config.kernels}
    seeds = {name: seed for seed, name in enumerate(config.kernels)}
    report = Report(
        "Table 1: uniform blur, known kernel",
        f"{counted(len(paths), 'photograph')}, {len(names)} of the kernels of Levin et al. (CVPR 2009), noise "
        f"{config.noise:.2%}; PSNR on the frame, which is the photograph without the margin that the kernel has read; "
        "RGB, clipped to [0, 1]. Set-up: the filters and what else comes before the iterations.",
        "method",
        (
            *(Column(name.replace("kernel", "ker "), "PSNR (dB)", {"kernel": name}) for name in names),
            *_HEADS[8:],
        ),
        block="block",
        picture=("photo", "kernel"),
        differences={name: [(a, b) for a, b in block.differences] for name, block in config.blocks.items()},
    )
    # The first table is the one on the paper's model.
    quoted = {row: dict(zip(_HEADS, text.split(), strict=True)) for row, text in PAPER.items()}
    report.quoted = {
        next(iter(config.blocks)): {r: {k: v for k, v in f.items() if v != "-"} for r, f in quoted.items()}
    }
    strips = StripBook(config.strips)
    warm_up(
        uniform_case(paths[0], psfs[names[0]], seeds[names[0]], config.noise),
        psfs[names[0]],
        list(config.blocks.values()),
        config.noise,
    )
    for kernel in names:
        for number, path in enumerate(paths):
            case = uniform_case(path, psfs[kernel], seeds[kernel], config.noise)
            make, truth, blurred = make_blur(case, psfs[kernel]), to_array(case.sharp), to_array(case.blurred)
            strips.open(case.name, kernel, blurred, truth)
            for label, block in config.blocks.items():
                common = {"block": label, "photo": case.name, "kernel": kernel}
                report.rows.append({"method": "blurred", **common, "PSNR (dB)": psnr(blurred, truth)})
                for name, row in block.rows.items():
                    if row.photos is not None and number >= row.photos:
                        continue
                    timed = restore(case, make, row.method, block.resolved(name), config.noise)
                    strips.add(case.name, kernel, label, name, timed.x)
                    figures = {"PSNR (dB)": psnr(timed.x, truth), **timed.times()}
                    report.rows.append({"method": name, **common, **figures})
            # Hours of measurements are not lost with the process.
            report.write_csv(out / "table1.csv")

    report.parts += same_pictures(report, ("PSNR (dB)", "seconds"), [p.stem for p in paths])
    for label, curves in config.curves.items():
        if quick and label not in config.quick.curves:
            continue
        # Few pictures suffice: the order of the curves is the same on each.
        few = paths[: 1 if quick else curves.photos]
        some = names[:1] if quick else curves.kernels or names[:1]
        cases = [(uniform_case(p, psfs[k], seeds[k], config.noise), psfs[k]) for k in some for p in few]
        measured = measure(curves, cases, config.noise)
        part, summary = report_curves(f"table1-curves-{label}", curves, measured, out)
        report.parts.append(part)
        report.extra += summary
    written = strips.write(out / "table1-strip")
    if written:
        report.notes.append(
            "Picture strips, with the PSNR of the whole frame, lie beside this table where it was made: "
            + ", ".join(f"`{path.name}`" for path in written)
            + "."
        )
    report.parts.append(settings_part(config.blocks, config.noise))
    return report
