"""Print what the settings of the baselines do on validation photographs: a table for each setting, one of the methods.

Photographs of DIR/val, each blurred by one of Levin's kernels (DIR/levin) and by one camera shake of up to 21 px, with
noise 0.4 %, 1 % and 3 %; mean PSNR in dB, RGB clipped to [0, 1], of the frame. The defaults of `wiener`,
`richardson_lucy`, `laplacian` and `epll` come from here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.synthetic import Case, camera_case, uniform_case
from ircdeblur.metrics import psnr
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.psf import check_psf
from ircdeblur.solvers.classical import (
    SEARCH_STEPS,
    laplacian,
    laplacian_weight,
    richardson_lucy,
    richardson_lucy_residual,
    search_weight,
    wiener,
)
from ircdeblur.solvers.domain import ExtendedDomain, Observation
from ircdeblur.solvers.epll import betas, epll
from ircdeblur.solvers.settings import deconvolve

NOISES = (0.004, 0.01, 0.03)
Blur = UniformBlur | MotionBlur
Solver = Callable[[torch.Tensor, Blur, float], torch.Tensor]


def to_residual(y: torch.Tensor, blur: Blur, noise: float, share: float) -> torch.Tensor:
    """`laplacian`, converged, with the weight that leaves this share of the noise; 1 is the discrepancy principle."""
    weight, _ = search_weight(
        ExtendedDomain(Observation(y), blur), laplacian_weight(noise), share * noise, SEARCH_STEPS
    )
    return laplacian(y, blur, noise, weight=float(weight), steps=150)


def candidates(method: str) -> dict[str, Solver]:
    """Label and solver of every setting that is tried."""
    if method == "wiener":
        return {
            f"weight {w}, decay {d}": lambda y, b, n, w=w, d=d: wiener(y, b, n, weight=w, decay=d)
            for d in (2.0, 2.5, 3.0)
            for w in (50, 80, 130)
        }
    if method == "richardson-lucy":
        numbers: dict[str, Solver] = {
            f"{i} iterations": lambda y, b, n, i=i: richardson_lucy(y, b, n, iterations=i, residual=0)
            for i in (3, 4, 6, 8, 11, 15, 20, 27)
        }
        return numbers | {
            f"residual = default x {f}": lambda y, b, n, f=f: richardson_lucy(
                y, b, n, residual=f * richardson_lucy_residual(n)
            )
            for f in (0.85, 0.9, 0.95, 1, 1.05, 1.1)
        }
    if method == "laplacian":
        weights: dict[str, Solver] = {
            f"one weight, fitted x {f}": lambda y, b, n, f=f: laplacian(
                y, b, n, weight=f * laplacian_weight(n), steps=150
            )
            for f in (0.5, 1, 2, 4)
        }
        return (
            weights
            | {f"residual = {f} x noise": lambda y, b, n, f=f: to_residual(y, b, n, f) for f in (0.75, 0.85, 0.95, 1)}
            | {"default": laplacian}
        )
    if method == "epll":
        scaled: dict[str, Solver] = {
            f"weights = default x {f}": lambda y, b, n, f=f: epll(y, b, n, weights=tuple(f * w for w in betas(n)))
            for f in (0.3, 1, 3)
        }
        strides: dict[str, Solver] = {f"stride {i}": lambda y, b, n, i=i: epll(y, b, n, stride=i) for i in (2, 4, 8)}
        others: dict[str, Solver] = {
            "weights of Zoran and Weiss": lambda y, b, n: epll(
                y, b, n, weights=tuple(0.005 * 2**i / n**2 for i in range(7))
            ),
            "each channel on its own": lambda y, b, n: epll(y.transpose(0, 1), b, n).transpose(0, 1),
        }
        return scaled | strides | others
    raise ValueError(f"unknown method {method!r}")


METHODS = ("wiener", "richardson-lucy", "laplacian", "epll")
SOLVERS: dict[str, Solver] = {
    "blurred": lambda y, b, n: y,
    "cg": lambda y, b, n: deconvolve(y, b, n, "cg").x,
    "wiener": wiener,
    "richardson-lucy": richardson_lucy,
    "laplacian": laplacian,
    "epll": epll,
}


def window(case: Case, blur: Blur, side: int | None) -> tuple[Case, Blur]:
    """The middle of a case, `side` pixels square; all of it if None."""
    height, width = case.sharp.shape[-2:]
    if side is None or side >= min(height, width):
        return case, blur
    top, left = (height - side) // 2, (width - side) // 2
    inside = (..., slice(top, top + side), slice(left, left + side))
    case = replace(case, sharp=case.sharp[inside].contiguous(), blurred=case.blurred[inside].contiguous())
    if isinstance(blur, MotionBlur):
        blur = MotionBlur(blur.motion[top : top + side, left : left + side].contiguous())
    return case, blur


def cases(data: Path, count: int, noise: float, side: int | None) -> list[tuple[str, Case, Blur]]:
    """Photographs spread over the folder, kernels and motions in turn."""
    photos = list_photos(data / "val")
    photos = photos[:: max(len(photos) // count, 1)][:count]
    found: list[tuple[str, Case, Blur]] = []
    with np.load(data / "levin" / "kernels.npz") as archive:
        kernels = [check_psf(archive[f"kernel{i}"]) for i in range(1, 9)]
    for i, path in enumerate(photos):
        psf = kernels[3 * i % 8]  # 3 and 8 have no common divisor: few photographs see kernels of all kinds
        uniform = uniform_case(path, psf, 0, noise)
        found.append(("uniform", *window(uniform, UniformBlur(torch.from_numpy(psf)), side)))
        shaken = camera_case(path, "moderate", 0, noise)
        assert shaken.motion is not None
        found.append(("motion", *window(shaken, MotionBlur(torch.from_numpy(shaken.motion)), side)))
    return found


def table(
    title: str, solvers: dict[str, Solver], data: Path, count: int, noises: list[float], side: int | None
) -> None:
    """Print the mean PSNR and seconds of solvers."""
    columns = [(kind, noise) for kind in ("uniform", "motion") for noise in noises]
    found = {(label, c): [] for label in solvers for c in columns}
    seconds = {(label, kind): [] for label in solvers for kind in ("uniform", "motion")}
    for noise in noises:
        for kind, case, blur in cases(data, count, noise, side):
            truth = case.sharp[0].permute(1, 2, 0).numpy()
            blur.A_adjoint(case.blurred)  # the first one builds the transpose, which no method is charged with
            for label, solver in solvers.items():
                began = time.perf_counter()
                x = solver(case.blurred, blur, noise)
                seconds[label, kind].append(time.perf_counter() - began)
                found[label, (kind, noise)].append(psnr(x[0].clamp(0, 1).permute(1, 2, 0).numpy(), truth))
    heads = [f"{kind} {100 * noise:g} %" for kind, noise in columns] + ["uniform s", "motion s"]
    print(f"\n### {title}\n\n| setting | {' | '.join(heads)} |\n|---|{'---:|' * len(heads)}")
    for label in solvers:
        figures = [f"{np.mean(found[label, c]):.2f}" for c in columns]
        figures += [f"{np.mean(seconds[label, kind]):.2f}" for kind in ("uniform", "motion")]
        print(f"| {label} | {' | '.join(figures)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the folders val and levin")
    parser.add_argument("--photos", type=int, default=4)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISES))
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, "all"), default=[*METHODS, "all"])
    parser.add_argument("--side", type=int, help="only so many pixels square of the middle of each")
    given = parser.parse_args()
    size = f"{given.side} px square" if given.side else "whole"
    print(f"{given.photos} photographs, {size}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for method in given.methods:
        if method == "all":
            table("All methods with their defaults", SOLVERS, given.data, given.photos, given.noise, given.side)
        else:
            table(method, candidates(method), given.data, given.photos, given.noise, given.side)


if __name__ == "__main__":
    main()
