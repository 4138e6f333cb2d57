"""Draw the picture of the README: a blurred photograph, the motion that was found in it, and the photograph without it.

The astronaut of scikit-image is blurred by a camera shake and gets noise of 0.4 %; `ircdeblur.deblur` is told neither.

    python examples/readme_picture.py -o docs/readme.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import skimage.data

import ircdeblur
from ircdeblur.data.camera import camera_shake
from ircdeblur.metrics import psnr
from ircdeblur.plots import draw_motion, side_by_side

FRAME = (slice(20, 420), slice(70, 470))
HEIGHT = 400


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/readme.jpg"), help="JPEG file to write")
    parser.add_argument("--seed", type=int, default=4, help="of the camera shake and the noise")
    parser.add_argument("--length", type=float, default=20.0, help="longest motion in pixels")
    arguments = parser.parse_args()

    photo = skimage.data.astronaut() / 255.0
    shake = camera_shake(photo.shape[:2], arguments.length, arguments.seed)
    # The blur has read pixels that the frame of the "camera" does not show.
    blurred = ircdeblur.blur(photo, motion=shake, noise=0.004, seed=arguments.seed)[FRAME]
    blurred = (blurred * 255).round() / 255
    sharp, motion, error = ircdeblur.deblur(blurred, return_motion=True, return_error=True)
    write_jpeg(arguments.out, side_by_side([blurred, draw_motion(blurred, motion, error) / 255.0, sharp]))
    print(f"{psnr(blurred, photo[FRAME]):.2f} dB blurred, {psnr(sharp, photo[FRAME]):.2f} dB deblurred")
    print(f"picture: {arguments.out}")


def write_jpeg(path: Path, strip: np.ndarray) -> None:
    """Write pictures side by side, in [0, 1], reduced to `HEIGHT` pixels."""
    import pyvips

    image = pyvips.Image.new_from_array((strip * 255).round().astype(np.uint8))
    image.resize(HEIGHT / image.height, kernel="lanczos3").write_to_file(str(path), Q=88, keep="none")


if __name__ == "__main__":
    main()
