"""What the light and the noise that a blind restoration reckons with are worth.

Validation photographs with camera shakes of 5 to 35 px, blurred in pixel values and in linear light, with noise of
0.2 % and 1 %, as 8-bit pictures; and pairs of a blurred and a sharp picture. Prints what `deblur` gains on the blurred
picture, in dB: in pixel values, in linear light, and in that which it finds, with several values of
`ircdeblur.nets.belief.LEAST_MISFIT` besides.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyvips
import skimage.data
import torch

import ircdeblur
from ircdeblur.data.camera import camera_shake
from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.metrics import psnr
from ircdeblur.nets import belief
from ircdeblur.operators import MotionBlur
from ircdeblur.plots import captioned
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear

NOISES = (0.0, 0.003)
"""Other values of `LEAST_MISFIT`."""

MARGIN = 18
"""Pixels that the blur reads around the frame."""

Case = tuple[str, np.ndarray, np.ndarray]
"""Kind, blurred and sharp picture in [0, 1]."""


def shaken(photos: list[Path], seed: int) -> Iterator[Case]:
    """Yield photographs blurred in both ways, with both amounts of noise."""
    for i, path in enumerate(photos):
        rng = np.random.default_rng([seed, i])
        photo = torch.from_numpy(load_photo(path)).permute(2, 0, 1)[None].float() / 255
        shape = (photo.shape[-2] - 2 * MARGIN, photo.shape[-1] - 2 * MARGIN)
        motion = torch.from_numpy(camera_shake(shape, rng.uniform(5, 35), rng)).float()
        blur = MotionBlur(motion, margin=(MARGIN, MARGIN))
        sharp = photo[0, :, MARGIN:-MARGIN, MARGIN:-MARGIN].permute(1, 2, 0).numpy()
        for light in ("pixel values", "linear light"):
            linear = light == "linear light"
            blurred = blur.A(srgb_to_linear(photo) if linear else photo).clamp(0, 1)
            blurred = (linear_to_srgb(blurred) if linear else blurred)[0].permute(1, 2, 0)
            for noise in (0.002, 0.01):
                seen = blurred.numpy() + rng.normal(0, noise, blurred.shape)
                yield f"{light}, noise {noise:.1%}", (seen.clip(0, 1) * 255).round() / 255, sharp


def pairs(folder: Path, count: int) -> Iterator[Case]:
    """Yield pairs from the subfolders blurred and sharp, spread evenly over them."""
    blurred, sharp = (list_photos(folder / name) for name in ("blurred", "sharp"))
    for i in np.linspace(0, len(blurred) - 1, min(count, len(blurred))).round().astype(int):
        yield "pairs", load_photo(blurred[i]) / 255, load_photo(sharp[i]) / 255


def write_picture(path: Path) -> None:
    """Write what `deblur` makes of a shaken coffee, blurred in linear light, in either light."""
    photo = skimage.data.coffee() / 255
    motion = camera_shake(photo.shape[:2], 20.0, seed=3)
    blurred = ircdeblur.blur(photo, motion=motion, noise=0.002, seed=3, linear_light=True).clip(0, 1)
    panels = {"blurred in linear light": blurred}
    for light in (False, True):
        panels[f"restored in {'linear light' if light else 'pixel values'}"] = ircdeblur.deblur(
            blurred, linear_light=light
        )
    inside = (slice(100, 300), slice(200, 420))
    captions = [f"{name}\n{psnr(x, photo):.1f} dB" for name, x in panels.items()]
    shown = captioned([np.kron(x[inside], np.ones((2, 2, 1))) for x in panels.values()], captions)
    pyvips.Image.new_from_array(shown).write_to_file(str(path), Q=88)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the data sets, with the folder val")
    parser.add_argument("--pairs", type=Path, help="folder with the subfolders blurred and sharp")
    parser.add_argument("--count", type=int, default=12, help="number of photographs, and of pairs")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--picture", type=Path, help="write docs/light.jpg there, and do nothing else")
    arguments = parser.parse_args()
    if arguments.picture is not None:
        write_picture(arguments.picture)
        return
    if arguments.data is None:
        parser.error("--data is needed")
    cases = list(shaken(list_photos(arguments.data / "val")[: arguments.count], arguments.seed))
    if arguments.pairs is not None:
        cases += pairs(arguments.pairs, arguments.count)
    usual = belief.LEAST_MISFIT
    gains: dict[str, list[list[float]]] = {}
    for kind, blurred, sharp in cases:
        before, row = psnr(blurred, sharp), []
        ways: list[tuple[float, bool | Literal["auto"]]] = [(usual, False), (usual, True), (usual, "auto")]
        for belief.LEAST_MISFIT, light in ways + [(noise, "auto") for noise in NOISES]:
            row.append(psnr(ircdeblur.deblur(blurred.astype(np.float32), linear_light=light), sharp) - before)
        gains.setdefault(kind, []).append(row)
    others = " | ".join(f"noise of {noise:.1%} instead" for noise in NOISES)
    print(f"| pictures | n | pixel values | linear light | as found | {others} |")
    print("|---|---|---|---|---" + "|---" * len(NOISES) + "|")
    for kind, rows in gains.items():
        print(f"| {kind} | {len(rows)} | {' | '.join(f'{mean:+.2f}' for mean in np.mean(rows, 0))} |")


if __name__ == "__main__":
    main()
