"""Where the error of the estimated motion sits: by length, angle, texture, place, noise, light, motion and picture.

Validation photographs are blurred by random camera shakes, and again with one thing changed at a time::

    python -m ircdeblur.experiments.motion_errors --data DIR --out OUT

writes ``motion-errors.md`` with its drawings, and every picture's figures as CSV.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt, uniform_filter

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.data.synthesis import draw_field, line_blur
from ircdeblur.experiments.report import cell, machine, table, write_rows
from ircdeblur.experiments.strips import write_png
from ircdeblur.experiments.synthetic import SEVERITIES
from ircdeblur.experiments.table2 import STAGES, fast_field
from ircdeblur.motion import SURE, align_sign, relative_error, to_polar
from ircdeblur.operators import MotionBlur
from ircdeblur.plots import plot_groups
from ircdeblur.restore import estimate_motion
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear

NAME = "motion-errors"

MARGIN = 40
"""Pixels around the frame that the blur may read: those of 36 px along a bent path."""


@dataclass(frozen=True)
class Change:
    """What a photograph's blur is like.

    Attributes
    ----------
    noise : float
        Standard deviation of Gaussian noise.
    linear : bool
        Light adds up, and is then compressed as sRGB says; else the stored values do.
    quality : int
        Of a JPEG file; 0 for none.
    acceleration, curvature : float
        See `ircdeblur.data.synthesis.line_blur`.
    field : {"camera", "object", "turning", "fast"}
        A shaken camera; an ellipse of a tenth of the frame that moves on its own before what a camera saw; a motion
        that turns and grows across the frame, gently or from 5 to 25 px and by 140 degrees.
    """

    noise: float = 0.01
    linear: bool = False
    quality: int = 0
    acceleration: float = 0.0
    curvature: float = 0.0
    field: str = "camera"


CHANGES = {
    "as they are": Change(),
    "noise 0.4 %": Change(noise=0.004),
    "noise 2 %": Change(noise=0.02),
    "noise 4 %": Change(noise=0.04),
    "linear light": Change(linear=True),
    "JPEG, quality 75": Change(quality=75),
    "uneven speed": Change(acceleration=0.4),
    "bent path": Change(curvature=0.4),
    "something moves by itself": Change(field="object"),
    "turning motion": Change(field="turning"),
    "fast turning motion": Change(field="fast"),
}
"""What the table calls them."""


def blurred(path: Path, other: Path, severity: str, change: Change) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blur a photograph; the same motion for every change but one of the field.

    Parameters
    ----------
    path, other : path
        The photograph, and what an object before it looks like.
    severity : {"moderate", "severe"}
        The longest vector is uniform between half of 21 or 35 pixels and all of it.
    change : Change
        What it is like.

    Returns
    -------
    image : (H, W, 3) float32 array
        In [0, 1].
    motion : (H, W, 2) float32 array
        Its motion in pixels.
    texture : (H, W) array
        Root mean square of the sharp luminance's gradient in a square of 49 px.
    """
    rng = np.random.default_rng([7, list(SEVERITIES).index(severity), *path.stem.encode()])
    photo = torch.from_numpy(load_photo(path)).permute(2, 0, 1)[None].float() / 255
    photo = torch.nn.functional.pad(photo, (MARGIN,) * 4, mode="reflect")
    shape = (photo.shape[-2] - 2 * MARGIN, photo.shape[-1] - 2 * MARGIN)
    length = SEVERITIES[severity] * rng.uniform(0.5, 1.0)
    motion = camera_shake(shape, length, rng)
    if change.field == "turning":
        motion = draw_field("turning", max(shape), SEVERITIES[severity], rng)[: shape[0], : shape[1]]
    elif change.field == "fast":
        motion = fast_field(shape, "down" if severity == "severe" else "across")
    light = srgb_to_linear(photo) if change.linear else photo

    def moved(scene: torch.Tensor, field: np.ndarray) -> torch.Tensor:
        vectors = torch.from_numpy(np.ascontiguousarray(field, dtype=np.float32))
        if change.acceleration or change.curvature:
            samples = int(1.5 * vectors.norm(dim=-1).max()) + 2
            bent = (torch.tensor([change.acceleration]), torch.tensor([change.curvature]))
            return line_blur(scene, vectors[None], samples, *bent)
        return MotionBlur(vectors, boundary="extended", margin=(MARGIN, MARGIN)).A(scene)

    seen = moved(light, motion)
    if change.field == "object":
        front = torch.from_numpy(load_photo(other)).permute(2, 0, 1)[None].float() / 255
        front = torch.nn.functional.interpolate(front, size=photo.shape[-2:], mode="bilinear")
        rows, columns = np.indices(photo.shape[-2:])
        middle = (np.array(photo.shape[-2:]) / 2 + rng.uniform(-0.15, 0.15, 2) * shape)[:, None, None]
        away = np.hypot((rows - middle[0]) / shape[0], (columns - middle[1]) / shape[1])
        cover = torch.from_numpy(np.clip((0.18 - away) * min(shape) / 2 + 0.5, 0, 1))[None, None].float()
        turn = rng.uniform(0, np.pi)
        own = np.broadcast_to(length * np.array([np.cos(turn), -np.sin(turn)]), motion.shape)
        passed = moved(torch.cat((front * cover, cover), 1), own)
        seen = passed[:, :3] + (1 - passed[:, 3:]) * seen
        motion = np.where(passed[0, 3, ..., None].numpy() > 0.5, own, motion)
    seen = linear_to_srgb(seen.clamp(0, 1)) if change.linear else seen
    image = seen[0].permute(1, 2, 0).numpy()
    image = (image + rng.normal(0, change.noise, image.shape)).clip(0, 1).astype(np.float32)
    if change.quality:
        file = io.BytesIO()
        Image.fromarray((image * 255).round().astype(np.uint8)).save(file, "JPEG", quality=change.quality)
        image = np.asarray(Image.open(file), np.float32) / 255
    grey = photo[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN].mean(0).numpy()
    # A running sum of squares can end a little below zero.
    texture = np.sqrt(uniform_filter(sum(g**2 for g in np.gradient(grey)), 49).clip(0))
    return image, np.asarray(motion, np.float32), texture


def shares(motion: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return the motion MSE, and what is left of it if one number of the picture is put right.

    Parameters
    ----------
    motion, truth : (H, W, 2) arrays
        Pixels.

    Returns
    -------
    figures : dict
        ``MSE``; ``scaled``, with the best factor of all lengths; ``turned``, with the best turn of all vectors; and
        ``scale``, that factor.
    """
    found = align_sign(torch.from_numpy(motion).double(), torch.from_numpy(truth).double()).numpy()
    off = np.square(found - truth).sum(-1).mean() / 2
    power = np.square(found).sum(-1).mean()
    dot = (found * truth).sum(-1).mean()
    cross = (found[..., 0] * truth[..., 1] - found[..., 1] * truth[..., 0]).mean()
    scale = dot / power if power > 0 else 1.0
    left = np.square(truth).sum(-1).mean()
    return {
        "MSE": float(off),
        "scaled": float((left - scale * dot) / 2) if power > 0 else float(off),
        "turned": float((left + power) / 2 - np.hypot(dot, cross)),
        "scale": float(scale),
    }


@dataclass
class Places:
    """Squared errors of single pixels and what is known of these.

    Attributes
    ----------
    known : dict of str to (n,) array
        Length, angle, texture, distance to the border.
    squared : dict of str to (n,) array
        Squared end-point error of each estimate.
    """

    known: dict[str, np.ndarray]
    squared: dict[str, np.ndarray]


GROUPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "length": ("true length (px)", (0, 3, 6, 9, 12, 16, 20, 25, 36)),
    "angle": ("true angle (degrees)", (0, 22.5, 45, 67.5, 90, 112.5, 135, 157.5, 180)),
    "texture": ("RMS gradient of the sharp picture (%)", (0, 1, 2, 3, 4, 6, 9, 100)),
    "border": ("distance to the border (px)", (0, 8, 24, 48, 96, 250)),
}
"""Bounds of the groups of pixels, and what they are called."""

STEP = 5
"""Of the pixels that are looked at, along rows and columns."""


def measure(
    paths: Sequence[Path], changes: dict[str, Change], progress: Callable[[str], None] = lambda _: None
) -> tuple[list[dict[str, Any]], Places]:
    """Estimate the motion of all pictures.

    Parameters
    ----------
    paths : sequence of path
        Photographs; of each, both severities are looked at as they are, and one with each change.
    changes : dict of str to Change
        The first is what they are.
    progress : callable
        Told what is done.

    Returns
    -------
    rows : list of dict
        Figures of each picture and estimate.
    places : Places
        Of the pictures as they are.
    """
    rows: list[dict[str, Any]] = []
    known: dict[str, list[np.ndarray]] = {name: [] for name in GROUPS}
    squared: dict[str, list[np.ndarray]] = {title: [] for title in STAGES.values()}
    for number, (title, change) in enumerate(changes.items()):
        for i, path in enumerate(paths):
            for severity in list(SEVERITIES) if number == 0 else [list(SEVERITIES)[i % 2]]:
                image, truth, texture = blurred(path, paths[i - 1], severity, change)
                some = (slice(STEP // 2, None, STEP),) * 2
                length, angle = to_polar(truth)
                if number == 0:
                    frame = np.pad(np.ones(texture.shape), 1)
                    near = distance_transform_edt(frame, return_distances=True)[1:-1, 1:-1] - 1
                    here = {"length": length, "angle": angle, "texture": 100 * texture, "border": near}
                    for name, values in here.items():
                        known[name].append(values[some].ravel())
                for stage, estimate in STAGES.items():
                    began = time.perf_counter()
                    motion, error = estimate_motion(image, consolidation=stage, return_error=True)
                    seconds = time.perf_counter() - began
                    row: dict[str, Any] = {"change": title, "photo": path.stem, "severity": severity}
                    moved = np.hypot(*np.moveaxis(motion, -1, 0)) > 2
                    sure = (relative_error(motion, error) <= SURE)[moved].mean() if moved.any() else np.nan
                    row |= {
                        "estimate": estimate,
                        "typical length": float(np.median(length)),
                        "texture": float(100 * np.median(texture)),
                    }
                    row |= {**shares(motion, truth), "sure": float(sure), "seconds": seconds}
                    rows.append(row)
                    if number == 0:
                        found = align_sign(torch.from_numpy(motion), torch.from_numpy(truth)).numpy()
                        squared[estimate].append(np.square(found - truth).sum(-1)[some].ravel())
        progress(title)
    return rows, Places(
        {name: np.concatenate(values) for name, values in known.items()},
        {name: np.concatenate(values) for name, values in squared.items()},
    )


def grouped(places: Places, name: str) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """Return the groups of pixels that are not empty: what they are, their shares, and by estimate the RMS errors."""
    bounds = GROUPS[name][1]
    values = places.known[name]
    index = np.digitize(values, bounds[1:-1])
    counts = np.bincount(index, minlength=len(bounds) - 1)
    kept = np.flatnonzero(counts)
    labels = [f"{bounds[i]:g} to {bounds[i + 1]:g}" for i in kept]
    errors = {
        estimate: np.sqrt(np.bincount(index, squared, len(bounds) - 1)[kept] / counts[kept])
        for estimate, squared in places.squared.items()
    }
    return labels, counts[kept] / counts.sum(), errors


def _values(rows: list[dict[str, Any]], column: str, **where: Any) -> np.ndarray:
    return np.array([r[column] for r in rows if all(r[k] == v for k, v in where.items())])


def markdown(rows: list[dict[str, Any]], places: Places, changes: dict[str, Change]) -> str:
    """Return the tables."""
    first = next(iter(changes))
    refined = STAGES["picture"]
    photos = len({r["photo"] for r in rows})
    lines = [
        "## Where the error of the motion sits",
        "",
        f"{photos} validation photographs, a random camera shake of either severity each, noise 1 %; {refined}: what "
        "`estimate_motion` gives. Motion MSE as in Table 2, in px²; mean ± standard error.",
        "",
    ]
    body = []
    for estimate in STAGES.values():
        for severity in SEVERITIES:
            own = {"change": first, "estimate": estimate, "severity": severity}
            mse = np.sort(_values(rows, "MSE", **own))
            worst = mse[-max(1, round(0.1 * len(mse))) :].sum() / max(mse.sum(), 1e-12)
            parts = [_values(rows, column, **own).mean() for column in ("scaled", "turned")]
            scale = _values(rows, "scale", **own)
            body.append(
                [
                    estimate, severity, cell(mse), f"{np.median(mse):.2f}", f"{100 * worst:.0f} %",
                    *(f"{100 * (1 - part / max(mse.mean(), 1e-12)):.0f} %" for part in parts),
                    f"{np.median(1 / np.maximum(scale, 1e-3)):.3f}",
                ]
            )  # fmt: skip
    heads = (
        "estimate", "severity", "motion MSE", "median", "share of the worst tenth of the pictures",
        "explained by one factor of all lengths", "by one turn of all vectors", "median factor",
    )  # fmt: skip
    lines += [*table(heads, body), ""]
    lines += [
        "The last columns part bias from scatter: what would be gained if one number of each picture were put right; a "
        "factor above 1 says that lengths are found too long.",
        "",
        f"![error by length, angle, texture and place]({NAME}.png)",
        "",
    ]
    for name, (title, _) in GROUPS.items():
        labels, share, errors = grouped(places, name)
        body = [
            [label, f"{100 * part:.0f} %", *(f"{errors[e][i]:.2f}" for e in errors)]
            for i, (label, part) in enumerate(zip(labels, share, strict=True))
        ]
        lines += [*table((title, "pixels", *(f"{e}, RMS error (px)" for e in errors)), body), ""]
    lines += [
        "One thing changed at a time, half of the pictures moderate and half severe; the median tells of most "
        "pictures, the mean of the few that fail. Sure: share of the pixels found to move whose stated error is at "
        "most half of their length.",
        "",
    ]
    body = []
    half = {(r["photo"], r["severity"]) for r in rows if r["change"] != first}
    for title in changes:
        chosen = [r for r in rows if r["change"] == title and (title != first or not half or _key(r) in half)]
        raw, mse = (_values(chosen, "MSE", estimate=e) for e in (STAGES["none"], refined))
        sure = _values(chosen, "sure", estimate=refined)
        body.append([title, cell(raw), cell(mse), f"{np.median(mse):.2f}", f"{100 * np.nanmean(sure):.0f} %"])
    lines += [*table(("pictures", "raw", refined, "median", "sure"), body), ""]
    lines += ["The ten pictures with the largest error, as they are:", ""]
    chosen = sorted((r for r in rows if r["change"] == first and r["estimate"] == refined), key=lambda r: -r["MSE"])
    body = []
    for r in chosen[:10]:
        raw = _values(rows, "MSE", change=first, estimate=STAGES["none"], photo=r["photo"], severity=r["severity"])[0]
        body.append(
            [
                r["photo"], r["severity"], f"{r['typical length']:.1f}", f"{r['texture']:.1f}", f"{raw:.1f}",
                f"{r['MSE']:.2f}", f"{r['scaled']:.2f}", f"{100 * r['sure']:.0f} %",
            ]
        )  # fmt: skip
    heads = (
        "photograph", "severity", "median length (px)", "RMS gradient (%)", "raw", refined, "with the best factor",
        "sure",
    )  # fmt: skip
    lines += [*table(heads, body), "", f"- Machine: {machine()}", ""]
    return "\n".join(lines)


def _key(row: dict[str, Any]) -> tuple[str, str]:
    return row["photo"], row["severity"]


def main(arguments: list[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m ircdeblur.experiments.motion_errors", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=int, default=20, help="number of photographs")
    given = parser.parse_args(arguments)
    try:
        paths = list_photos(given.data / "val")[: given.count]
        rows, places = measure(paths, CHANGES, lambda title: print(f"{title}: done", file=sys.stderr, flush=True))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    given.out.mkdir(parents=True, exist_ok=True)
    text = markdown(rows, places, CHANGES)
    write_rows(given.out / f"{NAME}.csv", rows)
    (given.out / f"{NAME}.md").write_text(text, encoding="utf-8")
    groups = {title: grouped(places, name)[::2] for name, (title, _) in GROUPS.items()}
    write_png(given.out / f"{NAME}.png", plot_groups(groups, "RMS end-point error (px)"))
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
