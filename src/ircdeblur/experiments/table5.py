"""Table 5, as a proxy: blind deblurring of the pictures of Köhler et al.

The benchmark compares with some two hundred sharp frames along each camera's path; here there is one sharp frame of
each scene. What is run stands in ``configs/table5.yaml``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve

from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.experiments.blind import LOSS, BlindRows, chosen, strip
from ircdeblur.experiments.compare import same_pictures
from ircdeblur.experiments.config import BlindTable, default_path, load
from ircdeblur.experiments.report import Column, Report, counted
from ircdeblur.experiments.strips import write_png
from ircdeblur.metrics import psnr, ssim

PAPER = {
    "the paper: GMM-Patch": ("25.22", "0.774", "1200"),
    "the paper: GMM-FCN": ("24.92", "0.784", "1200"),
    "the paper: Reblurring": ("26.33", "", ""),
    "the paper: DMCNN": ("26.48", "0.808", "4.7"),
    "the paper: separate networks": ("25.01", "0.779", "2.1"),
    "the paper: fine-tuned": ("25.42", "0.795", "2.1"),
}
"""PSNR, SSIM and seconds of the paper's Table 5, which are no proxies: on all 48 pictures, against all frames."""

BORDER = 60
"""Pixels that are cut off on each side of the sharp frame, and how far a result may be shifted."""

COLUMNS = (
    "proxy PSNR (dB)",
    "proxy SSIM",
    "proxy gain (dB)",
    Column("smallest proxy gain (dB)", "proxy gain (dB)", take="smallest"),
    Column(f"proxy loses > {LOSS} dB", "worse"),
    "seconds",
    Column("parameters (M)", "parameters (M)", take="first"),
)

BLOCK = "the proxy"


@dataclass(frozen=True)
class Aligned:
    """A result as it is compared.

    Attributes
    ----------
    x, truth : (h, w, 3) arrays
        The part of the result that fits best, times the factor that fits best, and the sharp frame without its border.
    shift : (int, int)
        Rows and columns by which that part lies below and right of the frame's.
    """

    x: np.ndarray
    truth: np.ndarray
    shift: tuple[int, int]


def align(x: np.ndarray, truth: np.ndarray, border: int = BORDER) -> Aligned:
    """Find the integer shift and the factor at which a result is nearest to the sharp frame.

    The factor of a shift is <t, x> / <x, x>, so the squared error is <t, t> - <t, x>^2 / <x, x>; it is computed for
    every shift up to the border, not only for the one at the peak of a phase correlation.

    Parameters
    ----------
    x, truth : (H, W, C) arrays
        Of one shape.
    border : int
        Of the frame, and the largest shift, in pixels.

    Raises
    ------
    ValueError
        If the shapes differ or nothing is left within the border.
    """
    if x.shape != truth.shape or min(x.shape[:2]) <= 2 * border:
        raise ValueError(f"a result of {x.shape} cannot be compared with a frame of {truth.shape}, border {border} px")
    x, inner = x.astype(np.float64), truth.astype(np.float64)
    inner = inner[border : x.shape[0] - border, border : x.shape[1] - border]
    product = sum(fftconvolve(x[..., c], inner[::-1, ::-1, c], mode="valid") for c in range(x.shape[2]))
    energy = _window_sums(np.square(x).sum(-1), (inner.shape[0], inner.shape[1]))
    explained = np.where(energy > 0, np.square(product) / np.maximum(energy, 1e-12), 0.0)
    row, column = np.unravel_index(int(explained.argmax()), explained.shape)
    part = x[row : row + inner.shape[0], column : column + inner.shape[1]]
    factor = float((part * inner).sum()) / max(float((part * part).sum()), 1e-12)
    return Aligned(factor * part, inner, (int(row) - border, int(column) - border))


def _window_sums(values: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Return the sum over each window that lies within."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    h, w = window
    return np.asarray(sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w])


def score(x: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the figures of a result, rounded to 8 bits; both are (H, W, 3) in [0, 1]."""
    found = align((x * 255).round() / 255, truth)
    return {"proxy PSNR (dB)": psnr(found.x, found.truth), "proxy SSIM": ssim(found.x, found.truth)}


def find_pictures(folder: Path) -> list[tuple[Path, Path]]:
    """Return each blurred picture, ``blurry_SCENE_TRAJECTORY``, and the scene's sharp frame, ``sharp_SCENE``.

    Raises
    ------
    FileNotFoundError
        If there is none, or a scene has no sharp frame.
    """
    paths = list_photos(folder)
    sharp = {path.stem.removeprefix("sharp_"): path for path in paths if path.stem.startswith("sharp_")}
    found = []
    for path in paths:
        if match := re.fullmatch(r"blurry_(\w+)_\w+", path.stem):
            if match[1] not in sharp:
                raise FileNotFoundError(f"no sharp_{match[1]} beside {path}")
            found.append((path, sharp[match[1]]))
    if not found:
        raise FileNotFoundError(f"no pictures called blurry_SCENE_TRAJECTORY in {folder}")
    return found


def run(
    data: Path,
    out: Path,
    quick: bool = False,
    count: int | None = None,
    config_path: Path | None = None,
    baselines: Path | None = None,
) -> Report:
    """Return the proxy of Table 5, and write its strips; see `ircdeblur.experiments.table4.run`."""
    config = load(BlindTable, config_path or default_path("table5"))
    rows = BlindRows(config.rows, baselines)
    files = find_pictures(data / config.folder)[: count or (config.quick.photos if quick else config.photos)]
    report = Report(
        "Table 5, proxy: blind deblurring of real camera paths",
        f"{counted(len(files), 'picture')} of Köhler et al.; motions far beyond 35 px and curved. **A proxy**: the "
        "benchmark takes the best of some 200 sharp frames along the path, this table the scene's one. PSNR of 8-bit "
        f"RGB against that frame without {BORDER} px on each side, the largest over the factor of the result and over "
        f"all its integer shifts up to {BORDER} px; SSIM of the same. Seconds: motion and restoration.",
        "row",
        COLUMNS,
        block="block",
        picture=("photo",),
        differences={BLOCK: [(a, b) for a, b in config.differences]},
        compared="proxy PSNR (dB)",
        quoted={
            BLOCK: {
                name: {h: f for h, f in zip(("proxy PSNR (dB)", "proxy SSIM", "seconds"), figures, strict=True) if f}
                for name, figures in PAPER.items()
            }
        },
    )
    for number, (path, sharp_path) in enumerate(files):
        blurred, truth = (load_photo(p).astype(np.float32) / 255 for p in (path, sharp_path))
        if number == 0:
            rows.warm_up(blurred)
        common = {"block": BLOCK, "photo": path.stem.removeprefix("blurry_")}
        before = score(blurred, truth)
        report.rows.append({"row": "blurred", **common, **before})
        drawn = {}
        for name, outcome in rows.run(blurred, None, number):
            after = score(outcome.x, truth)
            gain = after["proxy PSNR (dB)"] - before["proxy PSNR (dB)"]
            row = {"row": name, **common, **after, "proxy gain (dB)": gain, "worse": float(gain < -LOSS)}
            report.rows.append({**row, "seconds": outcome.seconds, "parameters (M)": rows.parameters[name] / 1e6})
            if number < config.pictured:
                drawn[name] = outcome
        if drawn:
            # The captions' PSNR would be another one: nothing is aligned in these.
            pixels = strip(blurred, chosen(drawn, config.strips), height=480)
            write_png(out / f"table5-strip-{common['photo']}.png", pixels)
        # Hours of measurements are not lost with the process.
        report.write_csv(out / "table5.csv")
    photos = list(dict.fromkeys(row["photo"] for row in report.rows))
    report.parts += same_pictures(report, ("proxy PSNR (dB)", "proxy SSIM", "proxy gain (dB)", "seconds"), photos)
    report.notes += rows.notes()
    report.notes.append(
        "The paper's own figures are no proxies: they are of all 48 pictures, against all frames. Pictures of the "
        "first ones (`table5-strip-*.png`) lie beside this table where it was made."
    )
    return report
