"""What each stage of irc-net gains on the solver, and what more orientations of the picture add.

On two sets of validation photographs with a known blur: nine, which a training is watched on, and twelve with motions
of another seed. Prints the mean gain in dB above 40 steps of ``irc-mm``: camera shakes, moderate and severe, with noise
1 %, and uniform motions with noise 0.4 %.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from ircdeblur.metrics import psnr
from ircdeblur.nets.checkpoints import load_irc_net
from ircdeblur.nets.irc_net import ORIENTATIONS, IRCNet
from ircdeblur.training.irc_net import KnownPictures

KINDS = ("moderate", "severe", "uniform")

SETS = {"nine": (9, 99), "twelve": (12, 7)}
"""Number of pictures, and seed."""

TURNS = {1: ORIENTATIONS[:1], 2: (ORIENTATIONS[0], (False, True, True)), 8: ORIENTATIONS}
"""The picture as it is; it and it turned by 180 degrees; all."""


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets, with the folder val")
    parser.add_argument("--weights", default="irc-net", help="a file, in place of the package's weights")
    arguments = parser.parse_args()
    net, _ = load_irc_net(arguments.weights)
    if not isinstance(net, IRCNet):
        parser.error(f"not the weights of an irc-net: {arguments.weights}")
    print("| pictures | orientations | stages | moderate | severe | uniform |")
    print("|---|---|---|---|---|---|")
    for name, (count, seed) in SETS.items():
        pictures = KnownPictures(arguments.data / "val", count, seed=seed).items
        for turns, orientations in TURNS.items():
            net.orientations = orientations
            gains: dict[str, list[list[float]]] = {}
            for kind, sharp, blurred, blur, noise, solver in pictures:
                with torch.no_grad():
                    reached = [x.clamp(0, 1) for x in net.estimates(blurred, blur, noise)]
                gains.setdefault(kind, []).append(
                    [psnr(x[0].permute(1, 2, 0), sharp[0].permute(1, 2, 0)) - solver for x in reached]
                )
            for stage, means in enumerate(zip(*(np.mean(gains[kind], 0) for kind in KINDS), strict=True), start=1):
                print(f"| {name} | {turns} | {stage} | {' | '.join(f'{mean:+.3f}' for mean in means)} |", flush=True)


if __name__ == "__main__":
    main()
