"""How far the expected errors of estimated motions can be trusted.

Validation photographs, each with one random camera shake of either severity, noise 1 %. Printed by expected error as a
share of the estimated length: the share of the pixels, the median true error as a share of that length, and the part of
the pixels whose true error is below half of it. Every eighth row and column counts.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from ircdeblur.data.photos import list_photos
from ircdeblur.experiments.report import machine
from ircdeblur.experiments.synthetic import SEVERITIES, camera_case
from ircdeblur.motion import SURE, align_sign, relative_error
from ircdeblur.restore import estimate_motion

EDGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, np.inf)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--photos", type=int, default=12, help="number of photographs")
    arguments = parser.parse_args()
    expected, true = [], []
    for path in list_photos(arguments.data / "val")[: arguments.photos]:
        for severity in SEVERITIES:
            case = camera_case(path, severity, 0)
            assert case.motion is not None
            motion, error = estimate_motion(case.blurred[0].permute(1, 2, 0).numpy(), return_error=True)
            wrong = np.linalg.norm(align_sign(motion, case.motion) - case.motion, axis=-1)
            for kept, errors in ((expected, error), (true, wrong)):
                kept.append(relative_error(motion, errors)[::8, ::8].ravel())
    shares, found = np.concatenate(expected), np.concatenate(true)
    print("| expected error / length | pixels | median true error / length | true error below half |")
    print("| --- | --- | --- | --- |")
    for low, high in itertools.pairwise(EDGES):
        inside = (shares >= low) & (shares < high)
        if inside.any():
            name = f"{low:g} to {high:g}" if np.isfinite(high) else f"above {low:g}"
            cells = f"{inside.mean():.0%} | {np.median(found[inside]):.2f} | {(found[inside] < 0.5).mean():.0%}"
            print(f"| {name} | {cells} |")
    sure = shares <= SURE
    print(f"\nOf the sure pixels ({sure.mean():.0%}), {(found[sure] < 0.5).mean():.0%} are off by less than half.")
    print(machine())


if __name__ == "__main__":
    main()
