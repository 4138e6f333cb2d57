"""How visible tiles are: PSNR of a picture restored in tiles against the same restored whole, in dB.

Two photographs of scikit-image side by side, blurred by a camera shake or by one straight motion, noise 1 %.
"""

from __future__ import annotations

import argparse
import functools

import numpy as np
import skimage.data

from ircdeblur import blur, deblur, deconvolve
from ircdeblur.data.camera import camera_shake
from ircdeblur.experiments.report import machine
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import psnr


def main() -> None:
    """Print a line for each method and blur."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["irc-net", "irc-mm"])
    parser.add_argument("--blurs", nargs="+", default=["motion", "psf", "blind"], choices=["motion", "psf", "blind"])
    parser.add_argument("--tiles", nargs="+", type=int, default=[512])
    parser.add_argument("--longest", type=float, default=21.0, help="longest motion in pixels")
    arguments = parser.parse_args()
    left, right = skimage.data.astronaut()[:400], skimage.data.coffee()[:, :400]
    photo = (np.concatenate((left, right), 1) / 255.0).astype(np.float32)
    shake = camera_shake(photo.shape[:2], arguments.longest, seed=4)
    kernel = linear_motion_kernel(arguments.longest, 30)
    print(machine())
    for how in arguments.blurs:
        known = {"psf": kernel} if how == "psf" else {"motion": shake}
        blurred = blur(photo, **known, noise=0.01, seed=0)
        for method in arguments.methods:
            restore = deblur if how == "blind" else functools.partial(deconvolve, **known)
            whole = restore(blurred, method=method, tile=0)
            tiled = {tile: restore(blurred, method=method, tile=tile) for tile in arguments.tiles}
            found = [f"{tile} px {psnr(image, whole):.1f} dB" for tile, image in tiled.items()]
            print(how, method, *found, flush=True)


if __name__ == "__main__":
    main()
