"""How curved shakes are found and undone: on validation photographs, beside those that have none.

    python benchmarks/curved.py --data DIR [--photos N]

Each photograph is blurred by the curved path of a shaking hand of 8 to 36 px, in pixel values and in linear light; by
one of 10 to 30 px that turns the camera too, which moves the corners by 2 to 10 px more; by a camera's straight shake
of 6 to 32 px; by a lens out of focus of 1 to 5 px radius; or not at all; with noise of 0.4, 1 and 2 % in turns, 8 bits.
Printed for each kind are: how often a kernel was believed, and PSNR gains (dB) of `deblur` over the blurred picture,
with it and with ``path="straight"``, the best over shifts of up to 5 px and to a tenth of one, as a kernel that was
found is centred on its mean.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import ircdeblur
from ircdeblur.data.camera import camera_shake
from ircdeblur.data.known_blur import round_kernel, shake_kernel
from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.metrics import psnr
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear

KINDS = ("curved", "curved, linear light", "curved and turned", "straight", "out of focus", "sharp")
MARGIN, SHIFTS, RIM = 24, 5, 8
FRACTIONS = (0.3, 0.1)


def blurred_photo(path: Path, kind: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a photograph, sharp and blurred, both (H, W, 3) in [0, 1]."""
    rng = np.random.default_rng([13, number])
    scene = torch.from_numpy(load_photo(path)).permute(2, 0, 1)[None].float() / 255
    sharp = scene[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    light = srgb_to_linear(scene) if "linear" in kind else scene
    if kind == "curved and turned":
        blurred = _along_a_path(scene, float(rng.uniform(10, 30)), float(rng.uniform(2, 10)), rng)
    elif "curved" in kind:
        blurred = _by_kernel(shake_kernel(float(rng.uniform(8, 36)), rng), light)
    elif kind == "straight":
        motion = camera_shake((sharp.shape[-2], sharp.shape[-1]), float(rng.uniform(6, 32)), rng)
        blurred = MotionBlur(torch.from_numpy(motion).float(), margin=(MARGIN, MARGIN)).A(light)
    elif kind == "out of focus":
        blurred = _by_kernel(round_kernel(float(rng.uniform(1, 5)), number % 2 == 0), light)
    else:
        blurred = sharp
    blurred = linear_to_srgb(blurred) if "linear" in kind else blurred
    noise = (0.01, 0.004, 0.02)[number % 3]
    blurred = blurred + noise * torch.from_numpy(rng.standard_normal(blurred.shape)).float()
    x, y = (t[0].permute(1, 2, 0).clamp(0, 1).numpy() for t in (sharp, blurred))
    return x, (y * 255).round() / 255


def _by_kernel(psf: np.ndarray, scene: torch.Tensor) -> torch.Tensor:
    return UniformBlur(torch.from_numpy(psf).float()[None, None], margin=(MARGIN, MARGIN)).A(scene)


def _along_a_path(scene: torch.Tensor, extent: float, corners: float, rng: np.random.Generator) -> torch.Tensor:
    """Return the mean of a scene (1, C, H, W) that moves and turns along smooth curves, without its margin."""
    time = np.linspace(0, 1, 64)
    waves = [[(rng.normal() / k, k, rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3)] for _ in range(3)]
    x, y, turn = (sum(a * np.sin(np.pi * k * time + phase) for a, k, phase in wave) for wave in waves)
    scale = extent / max(np.ptp(x), np.ptp(y))
    height, width = scene.shape[-2:]
    turn = (turn - turn.mean()) / np.ptp(turn) * corners / (np.hypot(height, width) / 2)
    total = torch.zeros_like(scene)
    for a, b, angle in zip((x - x.mean()) * scale, (y - y.mean()) * scale, turn, strict=True):
        cos, sin = np.cos(angle), np.sin(angle)
        rows = [[cos, -sin * height / width, 2 * a / width], [sin * width / height, cos, 2 * b / height]]
        grid = F.affine_grid(torch.tensor([rows], dtype=torch.float32), list(scene.shape), align_corners=False)
        total += F.grid_sample(scene, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return (total / len(time))[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def best_psnr(image: np.ndarray, sharp: np.ndarray) -> float:
    """Return the largest PSNR over shifts, without a rim: whole pixels first, then fractions of one.

    A kernel that was found is centred on its mean to a pixel, and half of one costs up to 4 dB.
    """
    height, width = sharp.shape[:2]
    inner = sharp[RIM:-RIM, RIM:-RIM]

    def whole(shift: tuple[int, int]) -> float:
        i, j = shift
        return psnr(image[RIM + i : height - RIM + i, RIM + j : width - RIM + j], inner)

    down, right = np.fft.fftfreq(height)[:, None, None], np.fft.rfftfreq(width)[:, None]
    spectrum = np.fft.rfft2(image, axes=(0, 1))

    def moved(shift: tuple[float, float]) -> float:
        turned = spectrum * np.exp(2j * np.pi * (down * shift[0] + right * shift[1]))
        back = np.fft.irfft2(turned, (height, width), (0, 1)).clip(0, 1)
        return psnr(back[RIM:-RIM, RIM:-RIM].astype(np.float32), inner)

    place: tuple[float, float] = max(itertools.product(range(-SHIFTS, SHIFTS + 1), repeat=2), key=whole)
    for step in FRACTIONS:
        tried = [(place[0] + i, place[1] + j) for i, j in itertools.product((-step, 0.0, step), repeat=2)]
        place = max(tried, key=moved)
    return moved(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--photos", type=int, default=8, help="for each kind")
    chosen = parser.parse_args()
    print("| blur | kernel believed | gain (dB) | smallest | gain, straight paths alone |")
    print("| --- | --- | --- | --- | --- |")
    for kind in KINDS:
        gains, straight, believed = [], [], 0
        for number, path in enumerate(list_photos(chosen.data / "val")[: chosen.photos]):
            sharp, blurred = blurred_photo(path, kind, number)
            before = best_psnr(blurred, sharp)
            result, psf = ircdeblur.deblur(blurred, return_psf=True)
            gains.append(best_psnr(result, sharp) - before)
            believed += psf is not None
            if psf is not None:
                result = ircdeblur.deblur(blurred, path="straight")
            straight.append(best_psnr(result, sharp) - before)
        print(
            f"| {kind} | {believed} of {len(gains)} | {np.mean(gains):+.2f} | {min(gains):+.2f} "
            f"| {np.mean(straight):+.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
