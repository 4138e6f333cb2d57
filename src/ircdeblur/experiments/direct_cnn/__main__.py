"""Train the direct network on coloured pairs of the kind that Motion-Net is trained on."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from ircdeblur.data.photos import PhotosInMemory, list_photos
from ircdeblur.data.synthesis import Pairs, PairSettings, SyntheticPairs
from ircdeblur.experiments.direct_cnn import DirectConfig, DirectNet, direct_loss, save, weights_path
from ircdeblur.experiments.synthetic import SEVERITIES, camera_case
from ircdeblur.metrics import psnr
from ircdeblur.training.config import RunConfig, check_schedule, parse_time, read_config
from ircdeblur.training.loop import run, steps_of


@dataclass(frozen=True)
class DirectTrainingConfig(RunConfig):
    """One training run; what a YAML file under ``configs/`` holds beside what `RunConfig` says.

    Attributes
    ----------
    validation_pictures : int
        Pictures that they look at.
    pairs : PairSettings
        The pairs; their crops are a multiple of 8.
    network : DirectConfig
        The network.
    """

    validation_pictures: int = 12
    pairs: PairSettings = field(default_factory=PairSettings)
    network: DirectConfig = field(default_factory=DirectConfig)


def load_config(path: str | Path) -> DirectTrainingConfig:
    """Read a `DirectTrainingConfig` from YAML; a key that it does not know raises `ValueError`."""
    config = read_config(path, DirectTrainingConfig, {"pairs": PairSettings, "network": DirectConfig})
    check_schedule(config, path)
    return config


def pair_loss(net: DirectNet, pairs: Pairs) -> torch.Tensor:
    """Return the loss of the network on a batch."""
    return direct_loss(net.estimates(pairs.blurred), pairs.sharp)


class ShakenPictures:
    """Whole pictures with camera shake, moderate and severe by turns, noise 1 %."""

    def __init__(self, folder: Path, count: int):
        paths = list_photos(folder)
        self.items: list[tuple[str, np.ndarray, np.ndarray]] = []
        for i in range(count):
            severity = list(SEVERITIES)[i % len(SEVERITIES)]
            case = camera_case(paths[i % len(paths)], severity, i)
            blurred, sharp = (t[0].permute(1, 2, 0).numpy().clip(0, 1) for t in (case.blurred, case.sharp))
            self.items.append((severity, blurred, sharp))

    @torch.no_grad()
    def evaluate(self, net: DirectNet, device: torch.device) -> dict[str, float]:
        """Return by how many dB the network's results are better than the blurred pictures."""
        gains: dict[str, list[float]] = {}
        for severity, blurred, sharp in self.items:
            x = net(torch.from_numpy(blurred).permute(2, 0, 1)[None].to(device))
            restored = x[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()
            gains.setdefault(f"{severity}_gain", []).append(psnr(restored, sharp) - psnr(blurred, sharp))
        return {name: float(np.mean(values)) for name, values in gains.items()}


def train(
    config: DirectTrainingConfig,
    data: Path,
    out: Path,
    max_time: str | None = None,
    resume: Path | None = None,
    command: str = "",
    progress: bool = True,
) -> Path:
    """Train the network.

    Parameters
    ----------
    config : DirectTrainingConfig
        The run.
    data : path
        Folder that holds the folders of photographs.
    out : path
        Folder of all baselines; weights, checkpoint and log are written to a folder in it.
    max_time, resume, command, progress
        See `ircdeblur.training.loop.run`.

    Returns
    -------
    weights : path
        The safetensors file.
    """
    torch.manual_seed(config.seed)
    net = DirectNet(config.network)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pictures = ShakenPictures(data / config.validation, config.validation_pictures)
    photos = PhotosInMemory(list_photos([data / folder for folder in config.folders]))
    seed = config.seed + steps_of(resume)

    def source(apart: int, device: torch.device) -> SyntheticPairs:
        return SyntheticPairs(photos, config.pairs, seed + apart, device)

    summary = {
        "data": f"{len(photos)} pictures of {', '.join(config.folders)}",
        "command": command,
        "config": {k: v for k, v in asdict(config).items() if k != "network"},
    }
    weights = weights_path(out)
    return run(net, pair_loss, save, config, source, pictures, weights, summary, max_time, resume, progress)


def main(arguments: list[str] | None = None) -> int:
    """Train the network and say where its weights are."""
    parser = argparse.ArgumentParser(prog="python -m ircdeblur.experiments.direct_cnn", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train")
    one = commands.add_parser("train", help="train the network")
    one.add_argument("--config", type=Path, required=True, help="YAML of the training")
    one.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    one.add_argument("--out", type=Path, required=True, help="folder of all baselines; this one has its own in it")
    one.add_argument("--max-time", metavar="HH:MM:SS", help="stop after this time, though the run may not be over")
    one.add_argument("--resume", type=Path, metavar="CKPT", help="checkpoint to go on from")
    one.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    try:
        if given.max_time is not None:
            parse_time(given.max_time)
        if given.resume is not None and not given.resume.is_file():
            raise FileNotFoundError(f"no such file: {given.resume}")
        weights = train(
            load_config(given.config),
            given.data,
            given.out,
            given.max_time,
            given.resume,
            f"{parser.prog} train --config {given.config.name} --data DIR --out DIR",
            progress=not given.quiet and sys.stderr.isatty(),
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(weights)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
