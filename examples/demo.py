"""Deblur a photograph: before, motion and after as one picture, and the PSNR of both.

The photograph comes with scikit-image. A camera shake of moderate length blurs it, noise of 0.4 % is added, and the
result is saved as an 8-bit PNG file, as a camera would. Everything else is done by the command line's own functions on
that file; the true motion is only used to say how far the estimate is off.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import skimage.data

import ircdeblur
from ircdeblur.app.imagefile import read_photo, write_photo
from ircdeblur.data.camera import camera_shake
from ircdeblur.metrics import motion_mse, psnr
from ircdeblur.motion import describe
from ircdeblur.plots import draw_motion, side_by_side

MARGIN = 20
NOISE = 0.004


def main() -> None:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("demo"), help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=1, help="of the camera shake and the noise")
    parser.add_argument("--length", type=float, default=13.0, help="longest motion in pixels")
    parser.add_argument("--photo", choices=("astronaut", "coffee", "chelsea"), default="astronaut")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    photo = getattr(skimage.data, arguments.photo)()
    shake = camera_shake(photo.shape[:2], arguments.length, arguments.seed)
    blurred = ircdeblur.blur(photo / 255.0, motion=shake, noise=NOISE, seed=arguments.seed)
    # The blur has read pixels that the frame of the "camera" does not show.
    frame = (slice(MARGIN, -MARGIN),) * 2
    sharp, truth = photo[frame] / 255.0, shake[frame]
    source = arguments.out / "blurred.png"
    from_array(source, blurred[frame])

    picture = read_photo(source)
    began = time.perf_counter()
    restored, motion = ircdeblur.deblur(picture.pixels, return_motion=True)
    seconds = time.perf_counter() - began
    write_photo(arguments.out / "sharp.png", restored, picture, overwrite=True)
    strip = side_by_side([picture.pixels, draw_motion(picture.pixels, motion) / 255.0, restored])
    from_array(arguments.out / "before-motion-after.png", strip)

    before, after = psnr(picture.pixels, sharp), psnr(restored, sharp)
    print(f"motion: {describe(motion)}; motion MSE {motion_mse(motion, truth):.2f} px^2")
    print(f"PSNR before {before:.2f} dB, after {after:.2f} dB ({after - before:+.2f} dB) in {seconds:.1f} s")
    print(f"pictures: {arguments.out / 'before-motion-after.png'}")


def from_array(path: Path, image: np.ndarray) -> None:
    """Write an image in [0, 1] as an 8-bit PNG file."""
    import pyvips

    pyvips.Image.new_from_array((np.clip(image, 0, 1) * 255).round().astype(np.uint8)).write_to_file(str(path))


if __name__ == "__main__":
    main()
