"""Train the learned baselines on the pairs and by the schedule of Motion-Net."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from ircdeblur.experiments.motion_baselines import NETWORKS, save, weights_path
from ircdeblur.experiments.motion_baselines.fcn import FcnNet, fcn_loss
from ircdeblur.experiments.motion_baselines.patch import PatchNet, PatchNetConfig, patch_loss
from ircdeblur.training.config import parse_time
from ircdeblur.training.loop import Loss
from ircdeblur.training.motion_net import TrainingConfig, fit, load_config


def train(
    name: str,
    config: TrainingConfig,
    data: Path,
    out: Path,
    max_time: str | None = None,
    resume: Path | None = None,
    command: str = "",
    progress: bool = True,
) -> Path:
    """Train a baseline.

    Parameters
    ----------
    name : {"patch", "fcn"}
        Which.
    config : TrainingConfig
        The run; its `network` is the Motion-Net whose number of parameters is matched.
    out : path
        Folder of all baselines; weights, checkpoint and log are written to a folder in it.
    data, max_time, resume, command, progress
        See `ircdeblur.training.motion_net.fit`.

    Returns
    -------
    weights : path
        The safetensors file.
    """
    torch.manual_seed(config.seed)
    net: PatchNet | FcnNet
    loss: Loss
    if name == "patch":
        net, loss = PatchNet(PatchNetConfig.like(config.network)), patch_loss
    elif name == "fcn":
        net, loss = FcnNet(config.network), fcn_loss
    else:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = weights_path(out, name)
    return fit(net, loss, partial(save, name), config, data, weights, max_time, resume, command, progress)


def main(arguments: list[str] | None = None) -> int:
    """Train one and say where its weights are."""
    parser = argparse.ArgumentParser(prog="python -m ircdeblur.experiments.motion_baselines", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="train")
    one = commands.add_parser("train", help="train a baseline")
    one.add_argument("name", choices=tuple(NETWORKS))
    one.add_argument("--config", type=Path, required=True, help="YAML of a Motion-Net's training")
    one.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    one.add_argument("--out", type=Path, required=True, help="folder of all baselines; each has its own in it")
    one.add_argument("--max-time", metavar="HH:MM:SS", help="stop after this time, though the run may not be over")
    one.add_argument("--resume", type=Path, metavar="CKPT", help="checkpoint to go on from")
    one.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args(arguments)
    try:
        if given.max_time is not None:
            parse_time(given.max_time)
        if given.resume is not None and not given.resume.is_file():
            raise FileNotFoundError(f"no such file: {given.resume}")
        command = f"{parser.prog} train {given.name} --config {given.config.name} --data DIR --out DIR"
        weights = train(
            given.name,
            load_config(given.config),
            given.data,
            given.out,
            given.max_time,
            given.resume,
            command,
            progress=not given.quiet and sys.stderr.isatty(),
        )
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(weights)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
