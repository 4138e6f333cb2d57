"""Seconds of `ircdeblur.deblur` for RGB of 375 x 500, everything loaded: eight pictures, two threads.

Astronaut and coffee of scikit-image, noise 1 %: shaken by a camera along straight paths, the longest vector 18 and 30
px; along a curved one of 24 px; and sharp. Each is deblurred once to warm up; then the median of several runs counts.
The machine must be quiet: two busy cores make it ten times slower.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import skimage.data
import torch

import ircdeblur
from ircdeblur.data.camera import camera_shake
from ircdeblur.data.known_blur import shake_kernel
from ircdeblur.experiments.report import machine

SHAPE = (375, 500)


def seconds(work: Callable[[], object], runs: int) -> float:
    """Return the median time of some runs, after one that does not count."""
    work()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def blurred(sharp: np.ndarray) -> dict[str, np.ndarray]:
    """Return what is deblurred, by how it was blurred."""
    images = {}
    for longest in (18.0, 30.0):
        motion = camera_shake(SHAPE, longest, np.random.default_rng(3)).astype(np.float32)
        images[f"straight, {longest:.0f} px"] = ircdeblur.blur(sharp, motion=motion, noise=0.01, seed=0)
    psf = shake_kernel(24.0, np.random.default_rng(3))
    images["curved, 24 px"] = ircdeblur.blur(sharp, psf=psf, noise=0.01, seed=0)
    images["sharp"] = sharp
    return images


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"Machine: {machine()}\n\n| picture | blur | deblur (s) | of it the motion (s) |\n|---|---|---|---|")
    totals: dict[str, list[float]] = {}
    for name, rows, columns in (("astronaut", 60, 6), ("coffee", 0, 0)):
        sharp = getattr(skimage.data, name)()[rows : rows + SHAPE[0], columns : columns + SHAPE[1]] / np.float32(255)
        for blur, image in blurred(sharp).items():
            whole = seconds(lambda image=image: ircdeblur.deblur(image), arguments.runs)  # type: ignore[misc]
            part = seconds(lambda image=image: ircdeblur.estimate_motion(image), arguments.runs)  # type: ignore[misc]
            totals.setdefault(blur.split(",")[0], []).append(whole)
            print(f"| {name} | {blur} | {whole:.2f} | {part:.2f} |", flush=True)
    print()
    for kind, taken in totals.items():
        print(f"{kind}: mean {statistics.mean(taken):.2f} s, largest {max(taken):.2f} s")


if __name__ == "__main__":
    main()
