"""Print and draw the contraction numbers of the inverse filters that the solver uses.

The largest |1 - sum_i d_i k_i| over the frequencies, at the bank's motions and between them, against the continuous
kernels: below 1 the residual iteration converges there (the paper's proposition).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from ircdeblur.inverse import InverseBank
from ircdeblur.kernels import ANGLES, LENGTHS
from ircdeblur.plots import plot_contraction
from ircdeblur.solvers.irc import MOTION_SUPPORT
from ircdeblur.solvers.settings import DEFAULTS


def main() -> None:
    """Print the largest and mean numbers and write ``contraction.png``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("results"), help="folder for the drawing")
    parser.add_argument("--rho", type=float, default=DEFAULTS["irc"].rho)
    parser.add_argument("--support", type=int, default=MOTION_SUPPORT)
    arguments = parser.parse_args()
    bank = InverseBank.load(arguments.rho, arguments.support)
    # Twice as fine as the bank: every other length and angle is the bank's.
    lengths = np.arange(LENGTHS[0], LENGTHS[-1] + 0.5)
    angles = np.arange(0.0, 180.0, (ANGLES[1] - ANGLES[0]) / 2)
    grid = torch.cartesian_prod(torch.from_numpy(lengths), torch.from_numpy(angles))
    size = arguments.support + int(LENGTHS[-1]) + 10
    numbers = bank.contraction(grid[:, 0], grid[:, 1], n_fft=size + size % 2).reshape(len(lengths), len(angles)).numpy()
    on_bank = numbers[::2, ::2]
    between = np.ones(numbers.shape, dtype=bool)
    between[::2, ::2] = False
    print(f"rho {arguments.rho:g}, support {arguments.support}: largest / mean contraction number")
    print(f"at the bank's motions {on_bank.max():.4f} / {on_bank.mean():.4f}")
    print(f"between them          {numbers[between].max():.4f} / {numbers[between].mean():.4f}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    drawing = plot_contraction(lengths, angles, numbers, f"rho {arguments.rho:g}, support {arguments.support}")
    import pyvips

    pyvips.Image.new_from_array(drawing).write_to_file(str(arguments.out / "contraction.png"))
    print(f"drawing: {arguments.out / 'contraction.png'}")


if __name__ == "__main__":
    main()
