"""What one residual compensation must cost on this machine, and what it does cost.

RGB 375 x 500, a camera shake of up to 21 px. The floor is counted: the bytes of the sparse matrix and of the pictures
that one step x <- x + a sum_i d_i * r_i has to move, at the bandwidth that this machine copies memory with, and the
transforms of the windows, at the rate of the same transforms alone. Everything is the median of several runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import skimage.data
import torch

from ircdeblur.data.camera import camera_shake
from ircdeblur.experiments.report import machine
from ircdeblur.operators import MotionBlur
from ircdeblur.solvers.compensation import WINDOW
from ircdeblur.solvers.domain import Observation
from ircdeblur.solvers.irc import IteratedResidualCompensation
from ircdeblur.solvers.mm import majorise_minimise
from ircdeblur.solvers.settings import Settings, deconvolve

PASSES = {"irc": 28, "irc-mm": 52}
"""Times that a step reads or writes an array as large as the three channels, as the code has them: the residuals, the
transposes, the windows' fold, the inner products, the updates."""


def median(function: Callable[[], object], runs: int) -> float:
    """Return the median time in seconds after two runs to warm up."""
    function()
    function()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = arguments.runs

    photo = torch.from_numpy(skimage.data.coffee()[:375, :500] / 255.0).permute(2, 0, 1)[None].float()
    blur = MotionBlur(torch.from_numpy(camera_shake((375, 500), 21.0, seed=0)), boundary="extended")
    observed = Observation(photo)
    update = IteratedResidualCompensation(observed, blur, 0.04, steps=1)
    x = update.start()
    targets = update.differences(x)

    block = torch.rand(64 * 2**20)
    other = torch.empty_like(block)
    bandwidth = 2 * 4 * block.numel() / median(lambda: other.copy_(block), runs)
    pictures = 4 * x.numel()
    taps = blur.taps
    matrix = 2 * (8 * taps + 4 * pictures)
    counts = update._local.counts  # type: ignore[attr-defined]
    windows = torch.rand(counts[0] * counts[1], WINDOW, WINDOW)
    spectra = torch.fft.rfft2(windows)
    forward = median(lambda: torch.fft.rfft2(windows), runs)
    backward = median(lambda: torch.fft.irfft2(spectra, s=(WINDOW, WINDOW)), runs)
    transforms = 3 * (forward + backward)

    print(f"{taps:,} taps, {counts[0] * counts[1]} windows; copies at {bandwidth / 1e9:.1f} GB/s. {machine()}\n")
    print("| part | counted | floor (ms) | measured (ms) |\n|---|---|---|---|")
    y = photo
    once = median(lambda: blur.A(x), runs) + median(lambda: blur.A_adjoint(y), runs)
    print(f"| A and A' | {matrix / 1e6:.0f} MB | {1e3 * matrix / bandwidth:.1f} | {1e3 * once:.1f} |")
    local = median(lambda: update._local(x), runs)
    samples = 6 * windows.numel()
    print(f"| C^-1 | {samples / 1e6:.1f} M samples transformed | {1e3 * transforms:.1f} | {1e3 * local:.1f} |")
    lam = photo.new_full((1, 1, 1, 1), 5e-4)

    def step(channels: int, many: int = 20) -> float:
        part = Observation(photo[:, :channels].contiguous())
        first, all_of_them = (
            median(lambda n=n: majorise_minimise(part, blur, lam, n), 3)  # type: ignore[misc]
            for n in (1, many + 1)
        )
        return (all_of_them - first) / many

    luma = 1 / 3
    whole = {
        "irc": (PASSES["irc"], 1.0, median(lambda: update.solve(x, targets), runs)),
        "irc-mm": (PASSES["irc-mm"], 1.0, step(3)),
        "irc-mm, luma alone": (PASSES["irc-mm"], luma, step(1)),
    }
    for name, (count, share, seconds) in whole.items():
        passes = count * pictures * share
        floor = (2 * 8 * taps + share * (matrix - 2 * 8 * taps) + passes) / bandwidth + share * transforms
        counted = f"{'the above' if share == 1 else 'taps, a third of the rest,'} and {passes / 1e6:.0f} MB"
        print(f"| a step of {name} | {counted} | {1e3 * floor:.1f} | {1e3 * seconds:.1f} |")
    stages = Settings(iterations=5, steps=2)
    ready = median(lambda: deconvolve(photo, blur, 0.01, "irc", stages), 5)
    build = median(lambda: MotionBlur(blur.motion, boundary="extended"), 5)
    print(f"\nFive stages of two compensations each: {ready:.2f} s, and {build:.2f} s for the operator.")


if __name__ == "__main__":
    main()
