"""One network in one safetensors file: its weights, what it takes to build it, and a summary of its training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

Net = TypeVar("Net", bound=torch.nn.Module)


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
    if hasattr(net, "training_summary"):
        net.training_summary = summary  # type: ignore[assignment]
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
    return net.eval()


def network_of(path: Path) -> str:
    """Return which network a file of weights is of."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights: {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            return str((file.metadata() or {}).get("network", ""))
    except SafetensorError as error:
        raise ValueError(f"not a readable safetensors file: {path} ({error})") from error


def training_summary(path: str | Path) -> dict[str, Any]:
    """Return what a file of weights says of its training."""
    with safe_open(str(path), framework="pt") as file:
        summary: dict[str, Any] = json.loads((file.metadata() or {}).get("summary", "{}"))
    return summary


def parameter_count(module: torch.nn.Module) -> int:
    """Return the number of trainable values."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
