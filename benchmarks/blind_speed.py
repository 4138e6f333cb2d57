"""Seconds of `ircdeblur.deblur` for RGB of 375 x 500, everything loaded: four pictures, two threads.

Astronaut and coffee of scikit-image, shaken by a camera, the longest vector 18 and 30 px, noise 1 %. Each is deblurred
once to warm up; then the median of several runs counts. The machine must be quiet: two busy cores make it ten times
slower.
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


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"Machine: {machine()}\n\n| picture | longest (px) | deblur (s) | of it the motion (s) |\n|---|---|---|---|")
    totals = []
    for name, rows, columns in (("astronaut", 60, 6), ("coffee", 0, 0)):
        sharp = getattr(skimage.data, name)()[rows : rows + SHAPE[0], columns : columns + SHAPE[1]] / np.float32(255)
        for longest in (18.0, 30.0):
            motion = camera_shake(SHAPE, longest, np.random.default_rng(3)).astype(np.float32)
            image = ircdeblur.blur(sharp, motion=motion, noise=0.01, seed=0)
            whole = seconds(lambda image=image: ircdeblur.deblur(image), arguments.runs)  # type: ignore[misc]
            part = seconds(lambda image=image: ircdeblur.estimate_motion(image), arguments.runs)  # type: ignore[misc]
            totals.append(whole)
            print(f"| {name} | {longest:.0f} | {whole:.2f} | {part:.2f} |", flush=True)
    print(f"\nMean {statistics.mean(totals):.2f} s, largest {max(totals):.2f} s")


if __name__ == "__main__":
    main()
