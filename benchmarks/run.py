"""Time the solvers, Motion-Net and the whole pipeline: ``make bench``.

RGB 375 x 500, cut from a picture that scikit-image ships. Each figure is the median of several runs in one process,
on one thread and on all; filters and operators are timed apart from the iterations that use them.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import skimage.data
import torch

import ircdeblur
from ircdeblur.data.camera import camera_shake
from ircdeblur.experiments.report import machine
from ircdeblur.inverse import InverseBank
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.nets.checkpoints import load_motion_net
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import admm
from ircdeblur.solvers.irc import MOTION_SUPPORT
from ircdeblur.solvers.settings import DEFAULTS, METHODS, make_update

NOISE = 0.01


def median(function: Callable[[], object], runs: int) -> float:
    """Return the median time in seconds after one run to warm up."""
    function()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def rows(runs: int) -> list[tuple[str, float, float | None]]:
    """Return (what, seconds, seconds to prepare) on the current number of threads."""
    photo = torch.from_numpy(skimage.data.coffee()[:375, :500] / 255.0).permute(2, 0, 1)[None].float()
    motion = torch.from_numpy(camera_shake((375, 500), 21.0, seed=0))
    psf = torch.from_numpy(linear_motion_kernel(15, 30)).float()
    InverseBank.load(DEFAULTS["irc"].rho, MOTION_SUPPORT)
    result: list[tuple[str, float, float | None]] = []
    for kind, make in (
        ("uniform, 15 px", lambda: UniformBlur(psf, boundary="extended")),
        ("non-uniform, to 21 px", lambda: MotionBlur(motion, boundary="extended")),
    ):
        blur = make()
        my, mx = blur.margin
        wide = torch.nn.functional.pad(photo, (mx, mx, my, my), mode="replicate")
        blurred = blur.A(wide)
        result.append((f"{kind}: blur", median(lambda b=blur, w=wide: b.A(w), runs), median(make, runs)))
        for method in METHODS:
            settings = DEFAULTS[method]
            lam = settings.prior * NOISE**2
            update = make_update(method, blurred, blur, settings)
            result.append(
                (
                    f"{kind}: {method}, {settings.iterations} iterations",
                    median(lambda u=update, s=settings, v=lam: admm(u, v, s.rho, s.iterations), runs),
                    median(lambda m=method, y=blurred, b=blur, s=settings: make_update(m, y, b, s), runs),
                )
            )
    net = load_motion_net()
    with torch.no_grad():
        result.append(("Motion-Net", median(lambda: net(photo), runs), None))
    result.append(("estimate_motion", median(lambda: ircdeblur.estimate_motion(photo), runs), None))
    result.append(("deblur, blind", median(lambda: ircdeblur.deblur(photo), runs), None))
    return result


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each; the median is printed")
    runs = parser.parse_args().runs
    everything = torch.get_num_threads()
    print(f"RGB 375 x 500, median of {runs} runs. Machine: {machine()}\n")
    for threads in dict.fromkeys((1, everything)):
        torch.set_num_threads(threads)
        print(f"| {threads} thread{'s' if threads > 1 else ''} | seconds | to prepare (s) |\n|---|---|---|")
        for what, seconds, prepare in rows(runs):
            print(f"| {what} | {seconds:.3f} | {'' if prepare is None else f'{prepare:.3f}'} |", flush=True)
        print()
    # ru_maxrss counts kilobytes on Linux.
    print(f"Peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
