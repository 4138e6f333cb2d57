"""Table 4: blind deblurring.

Table 2's first motion of each photograph and severity, and pairs of a high-speed camera whose motion is real. The sharp
photographs themselves go through too: they should come out as they are. What is run stands in ``configs/table4.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.experiments.blind import LOSS, BlindRows, chosen, strip
from ircdeblur.experiments.compare import same_pictures
from ircdeblur.experiments.config import ShakenTable, default_path, load
from ircdeblur.experiments.report import Column, Report, counted, table
from ircdeblur.experiments.strips import write_png
from ircdeblur.experiments.synthetic import SEVERITIES, camera_case
from ircdeblur.metrics import motion_mse, psnr, ssim

PAPER = {
    "the paper: GMM-Patch": (("24.14", "0.714", "497"), ("20.84", "0.56", "497")),
    "the paper: GMM-FCN": (("24.81", "0.742", "422"), ("22.38", "0.622", "422")),
    "the paper: Reblurring": (("24.87", "0.743"), ("22.39", "0.646")),
    "the paper: DMCNN": (("24.68", "0.760", "3.4"), ("22.28", "0.646", "3.4")),
    "the paper: separate networks": (("24.71", "0.734", "0.9"), ("22.50", "0.630", "0.9")),
    "the paper: fine-tuned": (("24.80", "0.737", "0.9"), ("22.54", "0.632", "0.9")),
}
"""The paper's Table 4, on the test pictures of Bahat and Irani: moderate and severe, PSNR, SSIM and, where it is
stated, seconds."""

BLOCKS = {
    "moderate": "moderate camera shake",
    "severe": "severe camera shake",
    "sharp": "no blur, against themselves",
    "pairs": "real motion",
}
"""Headings of the tables."""

UNCHANGED = 60.0
"""PSNR in dB at which a picture counts as unchanged."""

COLUMNS = (
    "PSNR (dB)",
    "SSIM",
    "gain (dB)",
    Column("smallest gain (dB)", "gain (dB)", take="smallest"),
    Column(f"loses > {LOSS} dB", "worse"),
    "motion MSE",
    "seconds",
    Column("parameters (M)", "parameters (M)", take="first"),
)


@dataclass(frozen=True)
class Picture:
    """One test picture.

    Attributes
    ----------
    kind : str
        Of `BLOCKS`.
    name : str
        Of the photograph.
    number : int
        Of the photograph among those of its kind.
    blurred, truth : (H, W, 3) arrays
        In [0, 1].
    motion : (H, W, 2) array or None
        The true motion if it is known.
    """

    kind: str
    name: str
    number: int
    blurred: np.ndarray
    truth: np.ndarray
    motion: np.ndarray | None = None


def pictures(config: ShakenTable, paths: list[Path], pairs: list[tuple[Path, Path]]) -> Iterator[Picture]:
    """Make the test pictures, all kinds of a photograph after each other."""
    for number, path in enumerate(paths):
        for severity in SEVERITIES:
            case = camera_case(path, severity, 0, config.noise)
            truth, blurred = (t[0].permute(1, 2, 0).numpy().clip(0, 1) for t in (case.sharp, case.blurred))
            yield Picture(severity, case.name, number, blurred, truth, case.motion)
        yield Picture("sharp", case.name, number, truth, truth)
    for number, (blurred_path, sharp_path) in enumerate(pairs):
        blurred, truth = (reduced(load_photo(path), config.side) for path in (blurred_path, sharp_path))
        yield Picture("pairs", f"pair {blurred_path.stem}", number, blurred, truth)


def reduced(photo: np.ndarray, side: int | None) -> np.ndarray:
    """Return an 8-bit photograph in [0, 1], (H, W, 3), its longer side at most `side` pixels."""
    x = torch.from_numpy(photo.astype(np.float32) / 255)
    factor = 1.0 if side is None else side / max(photo.shape[:2])
    if factor < 1:
        size = [max(1, round(n * factor)) for n in photo.shape[:2]]
        x = torch.nn.functional.interpolate(x.permute(2, 0, 1)[None], size, mode="bicubic", antialias=True)
        x = x[0].permute(1, 2, 0).clamp(0, 1)
    return np.ascontiguousarray(x.numpy())


def find_pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Return the blurred and the sharp picture of each pair in a folder with ``blur/`` and ``sharp/``."""
    sharp = {path.stem: path for path in list_photos(folder / "sharp")}
    blurred = list_photos(folder / "blur")
    if missing := [path for path in blurred if path.stem not in sharp]:
        raise FileNotFoundError(f"no sharp picture beside {missing[0]}")
    return [(path, sharp[path.stem]) for path in blurred]


def score(x: np.ndarray, picture: Picture) -> dict[str, float]:
    """Return the figures of a result."""
    before, after = (min(psnr(image, picture.truth), UNCHANGED) for image in (picture.blurred, x))
    gain = after - before
    return {"PSNR (dB)": after, "SSIM": ssim(x, picture.truth), "gain (dB)": gain, "worse": float(gain < -LOSS)}


def run(
    data: Path,
    out: Path,
    quick: bool = False,
    count: int | None = None,
    config_path: Path | None = None,
    baselines: Path | None = None,
) -> Report:
    """Return Table 4, and write its strips.

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
    baselines : path, optional
        Folder of the trained baselines; rows that need it are left out without it.
    """
    config = load(ShakenTable, config_path or default_path("table4"))
    rows = BlindRows(config.rows, baselines)
    number = count or (config.quick.photos if quick else config.photos)
    paths = list_photos(data / config.folder)[:number]
    pairs = find_pairs(data / config.pairs)
    pairs = pairs[: config.quick.photos] if quick else pairs
    size = "as they are" if config.side is None else f"reduced to {config.side} px"
    report = Report(
        "Table 4: blind deblurring",
        f"{counted(len(paths), 'photograph')} with one random camera shake each and severity (lengths up to "
        f"{SEVERITIES['moderate']:g} and {SEVERITIES['severe']:g} px), noise {config.noise:.2%}; the sharp photographs "
        f"as they are, where an unchanged one counts as {UNCHANGED:g} dB; and the pairs of {config.pairs} (blur, "
        f"{size}), whose sharp picture is the middle frame. PSNR and SSIM on the whole frame, RGB, clipped to [0, 1]. "
        f"Seconds: motion and restoration. Loses: the share of the pictures that come out more than {LOSS} dB worse.",
        "row",
        COLUMNS,
        block="block",
        picture=("photo",),
        differences={BLOCKS[kind]: [(a, b) for a, b in config.differences] for kind in (*SEVERITIES, "pairs")},
        quoted={
            BLOCKS[severity]: {
                name: dict(zip(("PSNR (dB)", "SSIM", "seconds"), figures[i], strict=False))
                for name, figures in PAPER.items()
            }
            for i, severity in enumerate(SEVERITIES)
        },
    )
    for picture in pictures(config, paths, pairs):
        if not report.rows:
            rows.warm_up(picture.blurred)
        common = {"block": BLOCKS[picture.kind], "photo": picture.name}
        if picture.kind != "sharp":
            report.rows.append({"row": "blurred", **common, **score(picture.blurred, picture)})
        drawn = {}
        for name, outcome in rows.run(picture.blurred, picture.motion, picture.number):
            row = {"row": name, **common, **score(outcome.x, picture), "seconds": outcome.seconds}
            if picture.motion is not None and outcome.found is not None:
                row["motion MSE"] = motion_mse(outcome.found.motion, picture.motion)
            report.rows.append({**row, "parameters (M)": rows.parameters[name] / 1e6})
            if picture.number < config.pictured:
                drawn[name] = outcome
        if drawn:
            pixels = strip(picture.blurred, chosen(drawn, config.strips), picture.truth)
            write_png(out / f"table4-strip-{picture.kind}-{picture.name.replace(' ', '-')}.png", pixels)
        # Hours of measurements are not lost with the process.
        report.write_csv(out / "table4.csv")
    report.parts.append("\n".join(never_worse(report, config)))
    photos = list(dict.fromkeys(row["photo"] for row in report.rows))
    report.parts += same_pictures(report, ("PSNR (dB)", "SSIM", "gain (dB)", "seconds"), photos)
    report.notes += rows.notes()
    report.notes.append(
        "The networks' parameters are counted, not those of the mixture of epll. Pictures of the first photographs "
        "(`table4-strip-*.png`) lie beside this table where it was made."
    )
    return report


def never_worse(report: Report, config: ShakenTable) -> list[str]:
    """Return a table of how many pictures come out worse, of all kinds; the shares join the summary."""
    names = [name for name in config.rows if any(row["row"] == name for row in report.rows)]
    body = []
    for name in names:
        parts = [report.values("worse", row=name, block=block) for block in BLOCKS.values()]
        together = np.concatenate(parts)
        report.extra.append(
            {
                "block": "never worse",
                "row": name,
                "column": f"share that loses more than {LOSS} dB",
                "mean": f"{together.mean():.5g}",
                "standard error": "",
                "n": len(together),
            }
        )
        cells = [f"{int(part.sum())} of {len(part)}" if len(part) else "" for part in parts]
        body.append([name, *cells, f"{together.mean():.1%}"])
    return [
        f"### Never worse\n\nPictures that lose more than {LOSS} dB, a sharp one against {UNCHANGED:g} dB:",
        "",
        *table(("row", *BLOCKS.values(), "of all"), body),
    ]
