"""Draw the pictures of docs/motion.md: true and estimated motions in colours, arrows and kernels over the photograph.

Astronaut and coffee of scikit-image are blurred by a field that changes fast: lengths from 5 px at the top to 25 px at
the bottom, angles from 20 degrees at the left to 160 degrees at the right; noise of 0.4 % is added and the values are
rounded to 8 bits. The network knows nothing of it. The lines that ``ircdeblur motion`` says of them are printed.

    python examples/motion_figure.py -o docs/motion
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data

import ircdeblur
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import describe, from_polar
from ircdeblur.plots import compare_motions, draw_kernels, draw_motion
from ircdeblur.restore import estimate_motion

NOISE = 0.004


def fast_field(height: int, width: int) -> np.ndarray:
    """Return the motion field (H, W, 2)."""
    rows, columns = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return from_polar(5 + 20 * rows, 20 + 140 * columns).astype(np.float32)


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("demo"), help="folder for the pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    strips = []
    for name in ("astronaut", "coffee"):
        photo = getattr(skimage.data, name)()[:, :512]
        truth = fast_field(*photo.shape[:2])
        blurred = ircdeblur.blur(photo, motion=truth, noise=NOISE, seed=0) / np.float32(255)
        motion, error = estimate_motion(blurred, return_error=True)
        estimates = {"the network alone": estimate_motion(blurred, consolidation="none"), "consolidated": motion}
        print(f"{name}: {describe(motion, error)}; motion MSE {motion_mse(motion, truth):.1f} px^2")
        strips.append(compare_motions(blurred, truth, estimates))
        if name == "coffee":
            write_png(arguments.out / "arrows.png", draw_motion(blurred, motion, error))
            write_png(arguments.out / "kernels.png", draw_kernels(blurred, motion, error))
    width = max(strip.shape[1] for strip in strips)
    write_png(
        arguments.out / "truth-and-estimates.png",
        np.concatenate([np.pad(s, ((0, 12), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips]),
    )
    print(f"pictures: {arguments.out}")


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a uint8 array (H, W, 3) with 256 colours, which is small enough for a repository."""
    import pyvips

    pyvips.Image.new_from_array(picture).write_to_file(str(path), palette=True, Q=90, effort=8)


if __name__ == "__main__":
    main()
