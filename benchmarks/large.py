"""Memory and time of a large photograph through the command line.

Makes a photograph of so many megapixels from a picture of scikit-image, mirrored over and over, blurs it by the motion
of a camera that shook, adds noise, and writes it as JPEG. Then runs ``ircdeblur deblur`` or ``ircdeblur deconvolve`` on
it in a process of its own and prints, as a line of JSON, the most memory that this had (resident set) and how much of
that is above the image itself (its 8-bit pixels), the seconds, and the gain in PSNR in the middle of the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips
import skimage.data
import torch

from ircdeblur.data.camera import camera_shake
from ircdeblur.experiments.report import machine
from ircdeblur.metrics import psnr
from ircdeblur.motion import to_double_angle
from ircdeblur.nets.blind import MotionGrid
from ircdeblur.operators import MotionBlur, motion_reach

SIDE = 768
CELL = 64
"""Pixels between the points at which the camera's motion is computed; it is interpolated between them."""


def sharp(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the sharp picture at any rows and columns, (h, w, 3) float32 in [0, 1]."""
    picture = skimage.data.astronaut()

    def mirrored(at: np.ndarray, size: int) -> np.ndarray:
        return np.minimum(at % (2 * size), 2 * size - 1 - at % (2 * size))

    part = picture[mirrored(rows, picture.shape[0])][:, mirrored(columns, picture.shape[1])]
    return (part / 255.0).astype(np.float32)


def shake(shape: tuple[int, int], longest: float, seed: int) -> MotionGrid:
    """Return a camera's motion over a picture of some shape."""
    coarse = camera_shake((shape[0] // CELL, shape[1] // CELL), longest, seed)
    double = to_double_angle(torch.from_numpy(coarse).float()).permute(2, 0, 1)
    return MotionGrid(torch.cat((double, torch.zeros_like(double[:1]))), shape, 1.0)


def photograph(shape: tuple[int, int], field: MotionGrid, noise: float, seed: int) -> np.ndarray:
    """Return the blurred picture (H, W, 3) in 8 bits."""
    rng = np.random.default_rng(seed)
    blurred = np.empty((*shape, 3), np.uint8)
    for top in range(0, shape[0], SIDE):
        for left in range(0, shape[1], SIDE):
            rows, columns = slice(top, min(top + SIDE, shape[0])), slice(left, min(left + SIDE, shape[1]))
            motion, _ = field.window(rows, columns)
            my, mx = motion_reach(motion)
            wide = sharp(np.arange(rows.start - my, rows.stop + my), np.arange(columns.start - mx, columns.stop + mx))
            seen = MotionBlur(motion).A(torch.from_numpy(wide).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
            seen = seen + rng.normal(0, noise, seen.shape)
            blurred[rows, columns] = np.rint(255 * seen.clip(0, 1))
    return blurred


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    """Write an 8-bit picture."""
    image = pyvips.Image.new_from_memory(pixels.data, pixels.shape[1], pixels.shape[0], 3, "uchar")
    image.copy(interpretation="srgb").jpegsave(str(path), Q=97, subsample_mode="off")


def middle(path: Path, shape: tuple[int, int], size: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle of a picture file, and the same of the sharp picture."""
    top, left = (max(0, (n - size) // 2) for n in shape)
    high, wide = min(size, shape[0]), min(size, shape[1])
    part = pyvips.Image.new_from_file(str(path)).crop(left, top, wide, high).numpy() / 255.0
    return part.astype(np.float32), sharp(np.arange(top, top + high), np.arange(left, left + wide))


def run(command: list[str], limit: float) -> tuple[int | None, float, float]:
    """Run a command and return its exit code (None if it was stopped at the limit), peak memory in bytes, seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command)
    peak = 0.0
    while process.poll() is None and time.perf_counter() - began < limit:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max(peak, next((float(x.split()[1]) * 1024 for x in status.splitlines() if x[:6] == "VmHWM:"), 0.0))
        except OSError:
            pass
        time.sleep(0.2)
    code = process.poll()
    if code is None:
        process.kill()
        process.wait()
    return code, peak, time.perf_counter() - began


def main() -> int:
    """Print what one photograph takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, default=100.0)
    parser.add_argument(
        "--known", choices=("psf", "motion"), help="deconvolve by a known kernel or field; blind if not given"
    )
    parser.add_argument("--method", default="irc-net")
    parser.add_argument("--tile", default="auto")
    parser.add_argument("--longest", type=float, default=20.0, help="longest motion in pixels")
    parser.add_argument("--noise", type=float, default=0.01, help="standard deviation of the noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--limit", type=float, default=np.inf, help="stop after so many seconds, and print the memory so far"
    )
    parser.add_argument("--folder", type=Path, help="folder for the files; a temporary one if not given")
    arguments = parser.parse_args()
    height = round((arguments.megapixels * 1e6 / 1.5) ** 0.5)
    shape = (height, round(1.5 * height))
    field = shake(shape, arguments.longest, arguments.seed)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        given, result = folder / "blurred.jpg", folder / "sharp.jpg"
        command = [sys.executable, "-m", "ircdeblur"]
        if arguments.known == "psf":
            # One motion all over.
            field = MotionGrid(field.planes * 0 + field.planes.amax((1, 2), keepdim=True), shape, 1.0)
            (u, v), _ = (t[0, 0] for t in field.window(slice(0, 1), slice(0, 1)))
            length, angle = float(torch.hypot(u, v)), float(torch.rad2deg(torch.atan2(-v, u)) % 180)
            command += ["deconvolve", "--length", f"{length}", "--angle", f"{angle}"]
        elif arguments.known == "motion":
            whole = np.empty((*shape, 2), np.float32)
            for top in range(0, shape[0], SIDE):
                rows = slice(top, top + SIDE)
                whole[rows] = field.window(rows, slice(None))[0].numpy()
            np.savez(folder / "motion.npz", motion=whole)
            del whole
            command += ["deconvolve", "--motion", str(folder / "motion.npz")]
        else:
            command += ["deblur"]
        write_jpeg(given, photograph(shape, field, arguments.noise, arguments.seed))
        command += [str(given), "-o", str(result), "--method", arguments.method, "--tile", arguments.tile]
        code, peak, seconds = run(command, arguments.limit)
        size = 3 * shape[0] * shape[1]
        figures = {
            "megapixels": round(shape[0] * shape[1] / 1e6, 2),
            "blur": arguments.known or "blind",
            "method": arguments.method,
            "tile": arguments.tile,
            "longest": arguments.longest,
            "image_gb": round(size / 1e9, 3),
            "peak_gb": round(peak / 1e9, 3),
            "above_image_gb": round((peak - size) / 1e9, 3),
            "seconds": round(seconds, 1),
            "finished": code == 0,
        }
        if code == 0:
            figures["gain_db"] = round(psnr(*middle(result, shape)) - psnr(*middle(given, shape)), 2)
    print(json.dumps(figures), flush=True)
    print(f"{machine()}, {os.environ.get('OMP_NUM_THREADS', 'all')} threads", file=sys.stderr)
    return 0 if code in (0, None) else 1


if __name__ == "__main__":
    sys.exit(main())
