"""Weights: safetensors files with their configuration, shipped with the package or the user's own."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ircdeblur.nets.motion_net import MotionNet, MotionNetConfig

MOTION_NET = "motion-net.safetensors"


def weights_folder() -> Path:
    """Return the folder of the weights that came with the package."""
    return Path(str(resources.files("ircdeblur") / "weights"))


def save_motion_net(
    net: MotionNet, path: str | Path, summary: dict[str, Any] | None = None, half: bool = False
) -> None:
    """Write a Motion-Net with its configuration and a summary of its training into one safetensors file.

    Parameters
    ----------
    net : MotionNet
        The network.
    path : path
        The file; it is overwritten.
    summary : dict, optional
        What should be known of the training: anything that JSON can hold.
    half : bool
        Store float16: half the size, errors of 0.05 % of each weight.
    """
    state = {name: (t.half() if half else t).detach().cpu().contiguous() for name, t in net.state_dict().items()}
    metadata = {
        "network": "motion-net",
        "config": json.dumps(asdict(net.config)),
        "summary": json.dumps(summary or {}),
    }
    save_file(state, str(path), metadata=metadata)


def load_motion_net(path: str | Path | None = None) -> MotionNet:
    """Read a Motion-Net, in float32, ready for use (``eval`` mode).

    Parameters
    ----------
    path : path, optional
        The file; by default the weights that came with the package.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a Motion-Net or its tensors do not fit the configuration that it states.
    """
    path = Path(path) if path is not None else weights_folder() / MOTION_NET
    if not path.is_file():
        raise FileNotFoundError(f"no weights: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict.
    except SafetensorError as error:
        raise ValueError(f"not a readable safetensors file: {path} ({error})") from error
    if metadata.get("network") != "motion-net":
        raise ValueError(f"not the weights of a Motion-Net: {path}")
    config: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(metadata["config"]).items()
    }
    net = MotionNet(MotionNetConfig(**config))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit their configuration: {path}") from error
    return net.eval()


def describe_weights() -> list[dict[str, Any]]:
    """Return file name, sha256, size in bytes and training summary of each file of weights in the package."""
    found = []
    for path in sorted(weights_folder().glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
        found.append(
            {
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
                "summary": json.loads(metadata.get("summary", "{}")),
            }
        )
    return found


def parameter_count(module: torch.nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
