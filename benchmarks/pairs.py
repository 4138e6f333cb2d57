"""How many training pairs a machine makes per second: synthetic ones by kind of blur, and averaged frames.

On the first GPU if there is one, else on the CPU with as many threads as ``OMP_NUM_THREADS`` says.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from ircdeblur.data.frames import Film, frame_pair
from ircdeblur.data.photos import LumaPhotos, list_photos
from ircdeblur.data.synthesis import KINDS, PairSettings, SyntheticPairs
from ircdeblur.experiments.report import machine, table


def synthetic(photos: LumaPhotos, settings: PairSettings, device: torch.device, seconds: float) -> float:
    """Return pairs per second."""
    pairs = iter(SyntheticPairs(photos, settings, 0, device))
    next(pairs)
    began, made = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        made += len(next(pairs).blurred)
        if device.type == "cuda":
            torch.cuda.synchronize()
    return made / (time.perf_counter() - began)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    photos = LumaPhotos(list_photos(options.data / "val"))
    rows = [["synthetic, all kinds", f"{synthetic(photos, PairSettings(), device, options.seconds):.0f}"]]
    for kind in KINDS:
        only = PairSettings(**{**dict.fromkeys(KINDS, 0.0), kind: 1.0})  # type: ignore[arg-type]
        rows.append([f"synthetic, {kind}", f"{synthetic(photos, only, device, options.seconds):.0f}"])
    crop = PairSettings().crop
    film = options.data / "gopro-frames"
    if film.is_dir():
        frames, began, made = Film(film), time.perf_counter(), 0
        rng = np.random.default_rng(0)
        while time.perf_counter() - began < options.seconds:
            start = int(rng.integers(len(frames) - 11))
            frame_pair(frames.read(start, 11))
            made += 1
        rows.append(["eleven averaged frames, 640 x 360", f"{made / (time.perf_counter() - began):.1f}"])
    print("\n".join(table(("pairs", "per second"), rows)))
    print(f"\nSynthetic crops of {crop} px. {machine()}")


if __name__ == "__main__":
    main()
