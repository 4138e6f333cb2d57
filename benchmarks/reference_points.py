"""Reference points: astronaut and coffee of scikit-image, one uniform and one fast-changing motion, noise 0.4 %.

The uniform motion is 15 px long at 30 degrees. The other one is a smooth field: lengths from 5 px at the top to 25 px
at the bottom, angles from 20 degrees at the left to 160 degrees at the right. With ``--filters`` also a camera shake of
up to 21 px, on which the inverse filters are compared with the plain path (the bank's, interpolated at every pixel by
Eq. 17); with ``--blind`` the motion field is estimated too. PSNR without the outer 24 px. Seconds are those of
`ircdeblur.deconvolve`, the operator's construction included, after one run to warm up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import skimage.data
import torch

import ircdeblur
from ircdeblur.data.camera import camera_shake
from ircdeblur.experiments.report import machine
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import from_polar
from ircdeblur.solvers.settings import Settings

NOISE = 0.004
RIM = 24
ROWS: dict[str, tuple[str, Settings | None]] = {
    "irc-net": ("irc-net", None),
    "irc-net-plus": ("irc-net-plus", None),
    "irc-net-shrinkage": ("irc-net-shrinkage", None),
    "fft": ("fft", None),
    "irc": ("irc", None),
    "irc-mm": ("irc-mm", None),
    "irc-mm, 20 iterations": ("irc-mm", Settings(iterations=20)),
    "irc-mm, 80 iterations": ("irc-mm", Settings(iterations=80)),
    "cg": ("cg", None),
    "cg, 30 x 30": ("cg", Settings(iterations=30, steps=30)),
    "irc-mm, Eq. 16": ("irc-mm", Settings(prior=7.5, iterations=40, color=None, isotropic=False)),
}


FILTERS: dict[str, tuple[str, Settings | None]] = {
    "irc, local filters": ("irc", Settings()),
    "irc, the bank's, interpolated at grid points": ("irc", Settings(filters="tiles")),
    "irc, the bank's, interpolated at every pixel": ("irc", Settings(filters="bank")),
    "cg, 30 x 30": ("cg", Settings(iterations=30, steps=30)),
}


def field(shape: tuple[int, int]) -> np.ndarray:
    """Return the motion field (H, W, 2) that changes fast."""
    rows, columns = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in shape), indexing="ij")
    return from_polar(torch.from_numpy(5 + 20 * rows), torch.from_numpy(20 + 140 * columns)).numpy()


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", choices=tuple(ROWS), default=tuple(ROWS))
    parser.add_argument("--filters", action="store_true", help="compare the inverse filters of irc too; some minutes")
    parser.add_argument("--blind", action="store_true", help="estimate the motion field too")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    arguments = parser.parse_args()
    pictures = {name: getattr(skimage.data, name)()[..., :3] / 255.0 for name in ("astronaut", "coffee")}
    blurs: dict[str, Callable[[np.ndarray], dict[str, np.ndarray]]] = {
        "uniform": lambda _: {"psf": linear_motion_kernel(15, 30)},
        "non-uniform": lambda image: {"motion": field(image.shape[:2])},
    }
    compared = {name: [(row, *ROWS[row]) for row in arguments.rows] for name in blurs}
    if arguments.filters:
        blurs["camera shake"] = lambda image: {"motion": camera_shake(image.shape[:2], 21.0, seed=1)}
        compared["camera shake"] = [(row, *what) for row, what in FILTERS.items()]
    print(f"Noise {NOISE:g}, PSNR (dB) / seconds. Machine: {machine()}\n")
    for kind, blur in blurs.items():
        table: dict[str, list[str]] = {}
        for sharp in pictures.values():
            known = blur(sharp)
            y = ircdeblur.blur(sharp, **known)
            # Beyond [0, 1] nothing is cut off: what a sensor cuts off is another experiment.
            y = y + np.random.default_rng(arguments.seed).normal(0, NOISE, y.shape)
            inner = (slice(RIM, -RIM), slice(RIM, -RIM))

            def score(x: np.ndarray, truth: np.ndarray = sharp, inner: tuple[slice, slice] = inner) -> float:
                return float(-10 * np.log10(np.square(x.clip(0, 1) - truth)[inner].mean()))

            table.setdefault("blurred", []).append(f"{score(y):.2f}")
            for name, method, settings in compared[kind]:

                def run(
                    method: str = method,
                    settings: Settings | None = settings,
                    y: np.ndarray = y,
                    known: dict[str, np.ndarray] = known,
                ) -> np.ndarray:
                    return ircdeblur.deconvolve(y, method=method, noise=NOISE, settings=settings, **known)

                run()
                began = time.perf_counter()
                x = run()
                seconds = time.perf_counter() - began
                table.setdefault(name, []).append(f"{score(x):.2f} / {seconds:.2f}")
            if arguments.blind and "motion" in known:
                for method in ("irc-net", "irc-mm"):
                    ircdeblur.deblur(y, method=method)
                    began = time.perf_counter()
                    x, found = ircdeblur.deblur(y, method=method, return_motion=True)
                    seconds = time.perf_counter() - began
                    error = motion_mse(found, known["motion"])
                    cell = f"{score(x):.2f} / {seconds:.2f} (motion MSE {error:.1f})"
                    table.setdefault(f"{method}, blind", []).append(cell)
        print(f"| {kind} | {' | '.join(pictures)} |\n|{'---|' * (len(pictures) + 1)}")
        for name, cells in table.items():
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        print()


if __name__ == "__main__":
    main()
