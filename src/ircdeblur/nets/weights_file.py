"""One network in one safetensors file: its weights, what it takes to build it, and a summary of its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

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
    _write(net.state_dict(), kind, config, path, summary, half)


def _write(
    tensors: Mapping[str, torch.Tensor],
    kind: str,
    config: dict[str, Any],
    path: str | Path,
    summary: dict[str, Any] | None,
    half: bool,
) -> None:
    state = {name: (t.half() if half else t).detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"network": kind, "config": json.dumps(config), "summary": json.dumps(summary or {})}
    # Not `save_file`, which leaves a file that its owner alone can read.
    Path(path).write_bytes(save(state, metadata))


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


def average_weights(
    paths: Sequence[Path], out: Path, shares: Sequence[float] | None = None, half: bool = False
) -> None:
    """Write the mean of several files of weights of one network.

    Networks that were trained further from the same weights mostly lie in one valley: the mean keeps what each has
    gained, and loses part of the noise of each. It is worth nothing for networks of different initial weights.

    Parameters
    ----------
    paths : sequence of path
        Files of one kind of network and one configuration; a single one is copied.
    out : path
        The file to write; it may be one of them. Its summary holds those of all.
    shares : sequence of float, optional
        Share of each file; they must sum to 1. Equal ones if not given.
    half : bool
        Store float16; see `save_weights`.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the files are no weights, are of different networks, or the shares do not fit.

    References
    ----------
    M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time", ICML 2022.
    """
    shares = [1 / len(paths)] * len(paths) if shares is None else shares
    if len(shares) != len(paths) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"the shares must be as many as the files, {len(paths)}, and sum to 1, got {list(shares)}")
    kinds, states = [], []
    for path in paths:
        metadata, state = read_weights(path)
        if "network" not in metadata or "config" not in metadata:
            raise ValueError(f"no weights of a network: {path}")
        kinds.append((metadata["network"], json.loads(metadata["config"]), {k: t.shape for k, t in state.items()}))
        states.append(state)
        if kinds[-1] != kinds[0]:
            raise ValueError(f"another network than that of {paths[0]}: {path}")
    mean = {
        name: torch.stack([share * state[name] for share, state in zip(shares, states, strict=True)]).sum(0)
        for name in states[0]
    }
    trained = [{"share": share, **training_summary(path)} for share, path in zip(shares, paths, strict=True)]
    summary = {"mean of": trained} if len(paths) > 1 else training_summary(paths[0])
    kind, config, _ = kinds[0]
    _write(mean, kind, config, out, summary, half)


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
