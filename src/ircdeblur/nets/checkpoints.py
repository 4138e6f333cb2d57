"""Weights: safetensors files with their configuration, shipped with the package or the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ircdeblur.nets.hub import HubMixin
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig
from ircdeblur.nets.motion_net import MotionNet, MotionNetConfig
from ircdeblur.nets.shrinkage_net import ShrinkageConfig, ShrinkageIRCNet
from ircdeblur.nets.unrolled import UnrolledNet

MOTION_NETS = {"small": "motion-net.safetensors", "base": "motion-net-base.safetensors"}
"""Files of the Motion-Nets in the package, by size; not every size need be there."""

MOTION_NET = MOTION_NETS["small"]

Net = TypeVar("Net", bound=torch.nn.Module)


def weights_folder() -> Path:
    """Return the folder of the weights that came with the package."""
    return Path(str(resources.files("ircdeblur") / "weights"))


def save_weights(
    net: torch.nn.Module,
    kind: str,
    config: dict[str, Any],
    path: str | Path,
    summary: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a network with its configuration and a summary of its training into one safetensors file.

    Parameters
    ----------
    net : module
        The network.
    kind : str
        Says on reading which network it is.
    config : dict
        What it takes to build the network.
    path : path
        The file; it is overwritten.
    summary : dict, optional
        What should be known of the training: anything that JSON can hold.
    half : bool
        Store float16: half the size, errors of 0.05 % of each weight.
    """
    state = {name: (t.half() if half else t).detach().cpu().contiguous() for name, t in net.state_dict().items()}
    metadata = {"network": kind, "config": json.dumps(config), "summary": json.dumps(summary or {})}
    save_file(state, str(path), metadata=metadata)


def load_weights(
    path: str | Path, kind: str, name: str, build: Callable[[dict[str, Any]], Net]
) -> tuple[Net, dict[str, Any]]:
    """Read a network that `save_weights` wrote, in float32, ready for use (``eval`` mode).

    Parameters
    ----------
    path : path
        The file.
    kind : str
        Which network it has to be.
    name : str
        What messages call it.
    build : callable
        Makes the network from its configuration.

    Returns
    -------
    net : module
        The network.
    summary : dict
        Of its training.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not such a network or its tensors do not fit the configuration that it states.
    """
    path = Path(path)
    metadata, state = read_weights(path)
    if metadata.get("network") != kind:
        raise ValueError(f"not the weights of a {name}: {path}")
    net = build_net(build, metadata.get("config", ""), state, path)
    summary: dict[str, Any] = json.loads(metadata.get("summary", "{}"))
    if isinstance(net, HubMixin):
        net.training_summary = summary
    return net, summary


def read_weights(path: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Return the metadata of a safetensors file and its tensors in float32; nothing else is ever read.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is another kind of file, pickled weights among them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"not a readable safetensors file: {path} ({error})") from error


def build_net(build: Callable[[dict[str, Any]], Net], config: str, state: dict[str, torch.Tensor], path: Path) -> Net:
    """Return a network, ready for use.

    Parameters
    ----------
    build : callable
        Makes it from its configuration.
    config : str
        The configuration as JSON.
    state : dict
        Its tensors.
    path : path
        Where they are from, for messages.

    Raises
    ------
    ValueError
        If the configuration is none, or the tensors do not fit it.
    """
    try:
        net = build({k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(config).items()})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"no usable configuration with the weights: {path}") from error
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit their configuration: {path}") from error
    if isinstance(net, IRCNet) and hasattr(net, "priors"):
        net.priors.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval()


def save_motion_net(
    net: MotionNet, path: str | Path, summary: dict[str, Any] | None = None, half: bool = False
) -> None:
    """Write a Motion-Net; see `save_weights`."""
    save_weights(net, net.network, asdict(net.config), path, summary, half)


def motion_net_path(name: str | Path = "small") -> Path:
    """Return the file of a Motion-Net: of one of `MOTION_NETS` in the package, or the path that is given."""
    return weights_folder() / MOTION_NETS[name] if name in MOTION_NETS else Path(name)  # type: ignore[index]


def load_motion_net(path: str | Path | None = None) -> MotionNet:
    """Read a Motion-Net, by default the one that came with the package; see `load_weights`."""
    path = path if path is not None else motion_net_path()
    return load_weights(path, "motion-net", "Motion-Net", lambda config: MotionNet(MotionNetConfig(**config)))[0]


IRC_NETS = {
    "irc-net": "irc-net.safetensors",
    "irc-net-plus": "irc-net.safetensors",
    "irc-net-shrinkage": "irc-net-shrinkage.safetensors",
}
"""Files of the IRC-Nets in the package, by the methods that they are."""

_IRC_KINDS: dict[str, Callable[[dict[str, Any]], UnrolledNet]] = {
    "irc-net": lambda config: IRCNet(IRCNetConfig(**config)),
    "irc-net-shrinkage": lambda config: ShrinkageIRCNet(ShrinkageConfig(**config)),
}


def save_irc_net(net: UnrolledNet, path: str | Path, summary: dict[str, Any] | None = None, half: bool = False) -> None:
    """Write an IRC-Net of either kind; see `save_weights`."""
    assert isinstance(net, (IRCNet, ShrinkageIRCNet))
    save_weights(net, net.network, asdict(net.config), path, summary, half)


def irc_net_path(name: str | Path) -> Path:
    """Return the file of an IRC-Net: of one of `IRC_NETS` in the package, or the path that is given."""
    return weights_folder() / IRC_NETS[str(name)] if str(name) in IRC_NETS else Path(name)


def load_irc_net(path: str | Path) -> tuple[UnrolledNet, dict[str, Any]]:
    """Read an IRC-Net of either kind, and the summary of its training; see `load_weights`.

    Parameters
    ----------
    path : str or path
        One of `IRC_NETS`, or a file.
    """
    path = irc_net_path(path)
    kind = network_of(path)
    if kind not in _IRC_KINDS:
        raise ValueError(f"not the weights of an IRC-Net: {path}")
    return load_weights(path, kind, "IRC-Net", _IRC_KINDS[kind])


def network_of(path: Path) -> str:
    """Return which network a file of weights is of."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            return str((file.metadata() or {}).get("network", ""))
    except SafetensorError as error:
        raise ValueError(f"not a readable safetensors file: {path} ({error})") from error


def describe_weights() -> list[dict[str, Any]]:
    """Return file name, sha256, size in bytes and training summary of each file of weights in the package."""
    found = []
    for path in sorted(weights_folder().glob("*.safetensors")):
        found.append(
            {
                "file": path.name,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "bytes": path.stat().st_size,
                "summary": training_summary(path),
            }
        )
    return found


def training_summary(path: str | Path | None = None) -> dict[str, Any]:
    """Return what a file of weights, by default the package's Motion-Net, says of its training."""
    path = path if path is not None else weights_folder() / MOTION_NET
    with safe_open(str(path), framework="pt") as file:
        summary: dict[str, Any] = json.loads((file.metadata() or {}).get("summary", "{}"))
    return summary


def parameter_count(module: torch.nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
