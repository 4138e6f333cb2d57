"""Table 2: motion estimation.

100 photographs with 3 random camera shakes each and severity, noise 1 %: 300 moderate (lengths up to 21 px), 300 severe
(up to 35 px). Motion MSE: mean over the pixels of ((du)^2 + (dv)^2) / 2, the sign of each vector chosen in its favour.
"Aligned": share of the pixels whose angle is right to 10 degrees, among those of 7 px and more in the more confident
half of each picture.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch

from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.data.synthesis import disc_blur
from ircdeblur.experiments.motion_baselines import load_baselines
from ircdeblur.experiments.report import Report, table
from ircdeblur.experiments.synthetic import SEVERITIES, Case, camera_case
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import SURE, from_double_angle, from_polar, relative_error, to_double_angle, to_polar
from ircdeblur.nets import checkpoints
from ircdeblur.nets.checkpoints import MOTION_NETS
from ircdeblur.nets.weights_file import training_summary
from ircdeblur.plots import compare_motions
from ircdeblur.restore import blur, estimate_motion

STILL_PHOTOS = 20
"""So many photographs are also looked at as they are, and out of focus."""

PICTURED = 3
"""The first motions of so many photographs are drawn."""

STAGES = {
    "none": "raw",
    "answers": "camera fitted to the answers",
    "picture": "refined on the picture",
}
"""What is made of a network's answers (see `ircdeblur.restore.estimate_motion`), and what the table calls it."""

Method = Callable[[np.ndarray], Any]
"""Of an RGB picture; returns its motion, or that and its expected error."""


def ours() -> dict[str, tuple[str, Method]]:
    """Return our estimates: by name, the size of the network and what to call."""
    found: dict[str, tuple[str, Method]] = {}
    for size, name in MOTION_NETS.items():
        if not (checkpoints.weights_folder() / name).is_file():
            continue
        for stage, title in STAGES.items():
            method = partial(estimate_motion, consolidation=stage, motion_net=size, return_error=True)
            found[f"Motion-Net {size}, {title}"] = (size, method)
        found[f"Motion-Net {size}, raw, mean over flips and turns"] = (size, partial(turned_average, size=size))
    return found


def turned_average(image: np.ndarray, size: str) -> np.ndarray:
    """Return the mean of a network's answers to a picture and to its flips and quarter turns, eight in all."""
    total = np.zeros((*image.shape[:2], 2))
    for flip in (False, True):
        for quarters in range(4):
            seen = np.ascontiguousarray(np.rot90(image[:, ::-1] if flip else image, quarters))
            double = to_double_angle(estimate_motion(seen, consolidation="none", motion_net=size))
            # A quarter turn adds 90 degrees to each angle, so 180 to its double; a flip negates it.
            double = np.rot90(double, -quarters) * (-1.0) ** quarters
            total += double[:, ::-1] * np.array([1.0, -1.0]) if flip else double
    return from_double_angle(total / 8)


def aligned(motion: np.ndarray, error: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of angles within 10 degrees, among lengths from 7 px in the more confident half; NaN if none."""
    (length, angle), (_, own) = to_polar(truth), to_polar(motion)
    turn = np.abs((own - angle + 90) % 180 - 90)
    chosen = (error <= np.median(error)) & (length >= 7)
    return float((turn[chosen] <= 10).mean()) if chosen.any() else np.nan


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
    own = ours()
    methods: dict[str, Method] = {**{name: method for name, (_, method) in own.items()}, **others}
    report = Report(
        "Table 2: motion estimation",
        __doc__.split("\n", 2)[2].strip().replace("\n", " "),
        "estimate",
        ("MSE moderate", "MSE severe", "aligned", "seconds"),
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
                more: dict[str, dict[str, float]] = {}
                image = _image(case)
                for name, method in methods.items():
                    began = time.perf_counter()
                    found = method(image)
                    more[name] = {"seconds": time.perf_counter() - began}
                    estimates[name] = found[0] if isinstance(found, tuple) else found
                    if isinstance(found, tuple) and np.isfinite(share := aligned(found[0], found[1], case.motion)):
                        more[name]["aligned"] = share
                if seed == 0 and path in photos[:PICTURED]:
                    report.pictures[f"motions-{severity}-{case.name}"] = compare_motions(image, case.motion, estimates)
                for name, motion in estimates.items():
                    row = {"estimate": name, "photo": case.name, "seed": seed, "severity": severity}
                    row[f"MSE {severity}"] = motion_mse(motion, case.motion)
                    report.rows.append({**row, **more.get(name, {})})
    summaries = {
        name: training_summary(checkpoints.weights_folder() / MOTION_NETS[size]) for name, (size, _) in own.items()
    }
    summaries |= {name: b.summary for name, b in others.items()}
    report.parts.append("\n".join(_details(report, summaries)))
    report.notes.append(
        "The baselines are re-implementations of the formulations: their networks have Motion-Net's input and about "
        "as many parameters, and are trained on the same kind of pairs. All were timed on the same threads."
    )
    report.parts.append("\n".join(_other_pictures(photos[:STILL_PHOTOS])))
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
        parameters = str(summary.get("parameters", ""))
        body.append([name, *(f"{m:.2f}" for m in medians.values()), parameters, _training(summary)])
    heads = ("estimate", *(f"median MSE {s}" for s in SEVERITIES), "parameters", "training")
    return table(heads, body)


def _training(summary: dict[str, Any]) -> str:
    """Return how long a network was trained, in the runs that led to its weights one by one, and on how many crops."""
    runs = []
    # Further back may be a mean of several runs, or nothing that is known.
    while "crops" in summary:
        runs.append(summary)
        summary = summary.get("started from", {})
    if not runs:
        return ""
    together = f" in {len(runs)} runs" if len(runs) > 1 else ""
    return f"{sum(r['seconds'] for r in runs) / 60:.0f} min{together}, {sum(r['crops'] for r in runs)} crops"


def _other_pictures(photos: list[Path]) -> list[str]:
    """Return tables of pictures that did not move, or that no camera's motion blurred."""
    body = []
    rng = np.random.default_rng(0)
    for name, radii in (("sharp", (0.0, 0.0)), ("out of focus, radius 2 to 5 px", (2.0, 5.0))):
        lengths, doubts = [], []
        for path in photos:
            picture = torch.from_numpy(load_photo(path)).permute(2, 0, 1)[None].float() / 255
            radius = rng.uniform(*radii)
            picture = disc_blur(picture, torch.tensor([radius])) if radius > 0 else picture
            noisy = picture[0].permute(1, 2, 0).numpy() + rng.normal(0, 0.01, (*picture.shape[2:], 3))
            motion, error = estimate_motion(noisy.clip(0, 1).astype(np.float32), return_error=True)
            lengths.append(float(np.median(to_polar(motion)[0])))
            doubts.append(float(np.median(relative_error(motion, error))))
        harmless = [length < 1.5 or doubt > SURE for length, doubt in zip(lengths, doubts, strict=True)]
        body.append(
            [name, str(len(photos)), f"{np.median(lengths):.2f}", f"{max(lengths):.1f}", f"{np.mean(harmless):.2f}"]
        )
    heads = ("picture", "n", "median length (px)", "longest median (px)", "below 1.5 px or not sure")
    fast = []
    for name in ("astronaut", "coffee"):
        photo = getattr(skimage.data, name)()[:, :512] / 255
        for along in ("across", "down"):
            motion = fast_field(photo.shape[:2], along)
            blurred = blur(photo, motion=motion, noise=0.01, seed=0)
            figures = [motion_mse(estimate_motion(blurred, consolidation=stage), motion) for stage in STAGES]
            fast.append([f"{name}, angle {along}", *(f"{figure:.1f}" for figure in figures)])
    return [
        "Pictures that did not move (the typical length that is found, and how sure):",
        "",
        *table(heads, body),
        "",
        "A field that no camera makes, lengths 5 to 25 px, angles 20 to 160 degrees across the picture; motion MSE:",
        "",
        *table(("picture", *STAGES.values()), fast),
    ]


def fast_field(shape: tuple[int, int], along: str) -> np.ndarray:
    """Return a field (H, W, 2) whose lengths grow from 5 to 25 px from left to right.

    Its angles grow from 20 to 160 degrees ``"across"``, with the lengths, or ``"down"``, from top to bottom.
    """
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    return from_polar(5 + 20 * columns, 20 + 140 * (columns if along == "across" else rows)).astype(np.float32)
