"""The networks from their files of weights, those that came with the package or the user's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig
from ircdeblur.nets.kernel_net import KernelNet, KernelNetConfig
from ircdeblur.nets.motion_net import MotionNet, MotionNetConfig
from ircdeblur.nets.shrinkage_net import ShrinkageConfig, ShrinkageIRCNet
from ircdeblur.nets.unrolled import UnrolledNet
from ircdeblur.nets.weights_file import load_weights, network_of, save_weights, training_summary

MOTION_NETS = {"small": "motion-net.safetensors", "base": "motion-net-base.safetensors"}
"""Files of the Motion-Nets in the package, by size; not every size need be there."""

MOTION_NET = MOTION_NETS["small"]


def weights_folder() -> Path:
    """Return the folder of the weights that came with the package."""
    return Path(str(resources.files("ircdeblur") / "weights"))


def save_motion_net(
    net: MotionNet, path: str | Path, summary: dict[str, Any] | None = None, half: bool = False
) -> None:
    """Write a Motion-Net; see `ircdeblur.nets.weights_file.save_weights`."""
    save_weights(net, net.network, asdict(net.config), path, summary, half)


def motion_net_path(name: str | Path = "small") -> Path:
    """Return the file of a Motion-Net: of one of `MOTION_NETS` in the package, or the path that is given."""
    return weights_folder() / MOTION_NETS[name] if name in MOTION_NETS else Path(name)  # type: ignore[index]


def load_motion_net(path: str | Path | None = None) -> MotionNet:
    """Read a Motion-Net, by default the package's; see `ircdeblur.nets.weights_file.load_weights`."""
    path = path if path is not None else motion_net_path()
    return load_weights(path, "motion-net", "Motion-Net", lambda config: MotionNet(MotionNetConfig(**config)))[0]


KERNEL_NET = "kernel-net.safetensors"
"""File of the Kernel-Net in the package."""


def save_kernel_net(
    net: KernelNet, path: str | Path, summary: dict[str, Any] | None = None, half: bool = False
) -> None:
    """Write a Kernel-Net; see `ircdeblur.nets.weights_file.save_weights`."""
    save_weights(net, net.network, asdict(net.config), path, summary, half)


def kernel_net_path(path: str | Path | None = None) -> Path:
    """Return the file of a Kernel-Net: the package's, or the path that is given."""
    return weights_folder() / KERNEL_NET if path is None else Path(path)


def load_kernel_net(path: str | Path | None = None) -> KernelNet:
    """Read a Kernel-Net, by default the package's; see `ircdeblur.nets.weights_file.load_weights`."""
    path = kernel_net_path(path)
    return load_weights(path, "kernel-net", "Kernel-Net", lambda config: KernelNet(KernelNetConfig(**config)))[0]


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
    """Write an IRC-Net of either kind; see `ircdeblur.nets.weights_file.save_weights`."""
    assert isinstance(net, (IRCNet, ShrinkageIRCNet))
    save_weights(net, net.network, asdict(net.config), path, summary, half)


def irc_net_path(name: str | Path) -> Path:
    """Return the file of an IRC-Net: of one of `IRC_NETS` in the package, or the path that is given."""
    return weights_folder() / IRC_NETS[str(name)] if str(name) in IRC_NETS else Path(name)


def load_irc_net(path: str | Path) -> tuple[UnrolledNet, dict[str, Any]]:
    """Read an IRC-Net of either kind, and the summary of its training; see `ircdeblur.nets.weights_file.load_weights`.

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
