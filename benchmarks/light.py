"""How often linear light is told from pixel values, by the spectra alone and with a look at what is blurred again.

    python benchmarks/light.py --data DIR [--folder val] [--photos N]

Photographs with straight camera shakes of 5 to 35 px, blurred in either light, with noise of 0.2, 0.4, 1 and 2 %, 8
bits. Their motion is found as `deblur` finds it, in pixel values at first. Printed for each noise: how many of those in
linear light are told, and how many of those in pixel values are taken for such, by a bar of 8 for the spectra's
evidence alone, as it was once, and as `ircdeblur.nets.light.seems_linear` decides.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import ircdeblur.nets.blind
from ircdeblur.data.camera import camera_shake
from ircdeblur.data.photos import list_photos, load_photo
from ircdeblur.nets.blind import estimate
from ircdeblur.nets.checkpoints import load_motion_net, motion_net_path
from ircdeblur.nets.light import seems_linear
from ircdeblur.operators import MotionBlur
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear

NOISES = (0.002, 0.004, 0.01, 0.02)
MARGIN = 18
SPECTRA_ALONE = 8.0


def shaken(path: Path, linear: bool, noise: float, seed: tuple[int, int]) -> torch.Tensor:
    """Return a blurred photograph, (1, 3, H, W) in [0, 1]; the same motion and noise in both lights."""
    rng = np.random.default_rng(seed)
    scene = torch.from_numpy(load_photo(path)).permute(2, 0, 1)[None].float() / 255
    shape = (scene.shape[-2] - 2 * MARGIN, scene.shape[-1] - 2 * MARGIN)
    motion = torch.from_numpy(camera_shake(shape, rng.uniform(5, 35), rng)).float()
    blurred = MotionBlur(motion, margin=(MARGIN, MARGIN)).A(srgb_to_linear(scene) if linear else scene).clamp(0, 1)
    blurred = linear_to_srgb(blurred) if linear else blurred
    blurred = blurred + noise * torch.from_numpy(rng.standard_normal(blurred.shape)).float()
    return (blurred.clamp(0, 1) * 255).round() / 255


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--folder", default="val", help="which of them")
    parser.add_argument("--photos", type=int, default=40, help="number of photographs")
    arguments = parser.parse_args()
    net = load_motion_net(motion_net_path("small"))
    spectra: list[float] = []

    def noted(evidence: float, luma: torch.Tensor, blur: np.ndarray | torch.Tensor, noise: float) -> bool:
        spectra.append(evidence)
        return seems_linear(evidence, luma, blur, noise)

    ircdeblur.nets.blind.seems_linear = noted
    photos = list_photos(arguments.data / arguments.folder)[: arguments.photos]
    print("| noise | told, spectra alone | told | taken for it, spectra alone | taken for it | of |")
    print("|---" * 6 + "|")
    for noise in NOISES:
        counts = np.zeros((2, 2), int)
        for number, path in enumerate(photos):
            for linear in (False, True):
                spectra.clear()
                found = estimate(net, shaken(path, linear, noise, (19, number)))
                counts[int(linear)] += spectra[0] > SPECTRA_ALONE, bool(found.linear_light)
        (false_before, false), (told_before, told) = counts
        print(f"| {noise:.1%} | {told_before} | {told} | {false_before} | {false} | {len(photos)} |", flush=True)


if __name__ == "__main__":
    main()
