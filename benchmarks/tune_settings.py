"""Choose the settings of the methods with sparse gradients on validation photographs.

For each noise: mean PSNR over the photographs, each blurred by one of Levin's kernels and by one camera shake, with the
weight of the prior (lambda / noise^2 at noise 1 %), the weight of the colours, and the exponent varied one at a time by
``irc-mm``; then the penalty and the number of iterations and steps of the ADMM methods with the package's prior; the
iterations of the opponent colours; and, if asked for, how fast it converges with the windows' power across the border.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.report import machine
from ircdeblur.experiments.synthetic import SEVERITIES, Case, camera_case, uniform_case
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.psf import check_psf
from ircdeblur.solvers import compensation
from ircdeblur.solvers.settings import DEFAULTS, Settings, deconvolve

NOISES = (0.004, 0.01, 0.03)


def cases(data: Path, count: int, noise: float) -> Iterator[tuple[str, Case, UniformBlur | MotionBlur]]:
    """Return test pictures of both kinds from evenly spread photographs."""
    photos = list_photos(data / "val")
    with np.load(data / "levin" / "kernels.npz") as archive:
        kernels = [check_psf(archive[f"kernel{i}"]) for i in range(1, 9)]
    for number, path in enumerate(photos[:: max(1, len(photos) // count)][:count]):
        psf = kernels[(3 * number) % 8]
        case = uniform_case(path, psf, seed=number, noise=noise)
        yield "uniform", case, UniformBlur(torch.from_numpy(psf), boundary="extended")
        case = camera_case(path, list(SEVERITIES)[number % 2], number, noise)
        assert case.motion is not None
        yield "motion", case, MotionBlur(torch.from_numpy(case.motion), boundary="extended")


POWERS = (1.0, 0.5, 0.4, 0.25)
"""Values of `compensation.PARTLY_OBSERVED` in the block "border"; the first is the average power of a window."""


def rows(block: str) -> dict[str, tuple[str, Settings]]:
    """Return the settings to compare."""
    mm = DEFAULTS["irc-mm"]
    result: dict[str, tuple[str, Settings]] = {}
    if block == "border":
        for iterations in (8, 12, 16, 20):
            result[f"irc-mm, {iterations}"] = "irc-mm", replace(mm, iterations=iterations)
        return result
    if block in ("prior", "all"):
        for prior in (3.5, 4.5, 5.5, 7.5, 9.0):
            result[f"irc-mm, prior {prior:g}"] = "irc-mm", replace(mm, prior=prior)
        for color in (2.0, 3.0, 6.0):
            result[f"irc-mm, color {color:g}"] = "irc-mm", replace(mm, color=color)
        result["irc-mm, norm 0.8"] = "irc-mm", replace(mm, norm=0.8)
        result["irc-mm, anisotropic"] = "irc-mm", replace(mm, isotropic=False)
        for prior in (5.0, 6.5, 7.5, 9.0):
            result[f"irc-mm, Eq. 16, prior {prior:g}"] = (
                "irc-mm",
                replace(mm, prior=prior, color=None, isotropic=False),
            )
    if block in ("penalty", "all"):
        for method in ("irc", "cg", "fft"):
            for rho in (0.005, 0.01, 0.02, 0.04, 0.08):
                result[f"{method}, rho {rho:g}"] = method, replace(DEFAULTS[method], rho=rho)
        for iterations, steps in ((5, 2), (10, 1), (10, 4), (20, 1), (20, 2)):
            changed = replace(DEFAULTS["irc"], iterations=iterations, steps=steps)
            result[f"irc, {iterations} x {steps}"] = "irc", changed
        for iterations in (15, 20, 30, 80):
            result[f"irc-mm, {iterations}"] = "irc-mm", replace(mm, iterations=iterations)
        result["cg, 40 x 30"] = "cg", replace(DEFAULTS["cg"], iterations=40, steps=30)
    if block in ("colors", "all"):
        for iterations in (4, 6, 12, 16, 40):
            result[f"irc-mm, colours {iterations}"] = "irc-mm", replace(mm, color_iterations=iterations)
        result["irc-mm"] = "irc-mm", mm
    return result


def compare(chosen: dict[str, tuple[str, Settings]], data: Path, count: int, noises: list[float]) -> None:
    """Print the table of some settings, on so many photographs."""
    print(f"{count} photographs, PSNR (dB) of the frame, uniform / motion. Machine: {machine()}\n")
    columns: list[list[str]] = []
    for noise in noises:
        scores: dict[str, dict[str, list[float]]] = {name: {} for name in ("blurred", *chosen)}
        for kind, case, blur in cases(data, count, noise):

            def score(x: torch.Tensor, truth: torch.Tensor = case.sharp) -> float:
                return float(-10 * (x.clamp(0, 1) - truth).square().mean().log10())

            scores["blurred"].setdefault(kind, []).append(score(case.blurred))
            for name, (method, settings) in chosen.items():
                x = deconvolve(case.blurred, blur, noise, method, settings).x
                scores[name].setdefault(kind, []).append(score(x))
        columns.append([" / ".join(f"{np.mean(v):.2f}" for v in kinds.values()) for kinds in scores.values()])
    print(f"| settings | {' | '.join(f'noise {n:g}' for n in noises)} |\n|{'---|' * (len(noises) + 1)}")
    for name, *cells in zip(("blurred", *chosen), *columns, strict=True):
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Print the table as Markdown, in the block "border" one for each of `POWERS`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--noise", type=float, nargs="+", default=list(NOISES))
    parser.add_argument("--block", choices=("prior", "penalty", "colors", "border", "all"), default="all")
    arguments = parser.parse_args()
    for power in POWERS if arguments.block == "border" else (compensation.PARTLY_OBSERVED,):
        compensation.PARTLY_OBSERVED = power
        print(f"\nA window of which the share s was observed has s^{power:g} of the power of a whole one.")
        compare(rows(arguments.block), arguments.data, arguments.photos, arguments.noise)


if __name__ == "__main__":
    main()
