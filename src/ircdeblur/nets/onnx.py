"""The networks as ONNX graphs, and onnxruntime in place of torch's modules (extra ``onnx``).

A folder that `export_motion_net` and `export_irc_net` write holds

- ``motion-net.onnx``: from ``image`` (B, 3, H, W) to ``double_angle`` (B, H, W, 2) and ``error`` (B, H, W), all of
  `MotionNet.forward`;
- ``irc-net-observe.onnx`` and ``irc-net-stage-1.onnx``, ``irc-net-stage-2.onnx``, ...: the convolutions of `IRCNet`,
  `IRCNet.observed` and `IRCNet.proposal` of each stage, with the Haar wavelets and the padding to whole blocks. What
  lies between two stages, an x-update by Fourier transforms and the exact blur, is no part of any graph, so there is
  one for each stage;
- ``irc-net-x-updates.safetensors``: the rest of what was learned, which the x-updates need, and the configuration.

Batch, height and width of each graph are free; numbers are float32. Every file says in its metadata which network it
is and the SHA-256 of the weights that it was made from.

Of `ShrinkageIRCNet` nothing is exported: its learned parts are filters, piecewise linear functions and gains in the
Fourier domain, each of which stands between two Fourier transforms and takes a small part of the time.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import ircdeblur
from ircdeblur.nets.checkpoints import IRC_NETS, irc_net_path, load_irc_net, load_motion_net, motion_net_path
from ircdeblur.nets.irc_net import IRCNet, IRCNetConfig, Seen
from ircdeblur.nets.motion_net import STRIDE, MotionNet
from ircdeblur.nets.weights_file import load_weights
from ircdeblur.operators import MotionBlur

RUNTIMES = ("torch", "onnx")
"""What can compute the networks; a folder of graphs that were exported is the third."""

Runtime = str | Path

TOLERANCE = 1e-3
"""Largest difference between a graph and its network: pixels of motion, or parts of the range of a picture."""

OPSET = 17
"""Version of the ONNX operators, the first with LayerNormalization."""

MOTION_NET = "motion-net.onnx"
X_UPDATES = "irc-net-x-updates.safetensors"


def irc_net_graphs(stages: int) -> list[str]:
    """Return the names of an IRC-Net's graphs: that of the observation, then those of the stages."""
    return ["irc-net-observe.onnx", *(f"irc-net-stage-{j}.onnx" for j in range(1, stages + 1))]


def require(*names: str) -> list[ModuleType]:
    """Import libraries of the extra ``onnx``; `ImportError` says how to install them."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        raise ImportError(f"ONNX needs {' and '.join(names)}: pip install 'ircdeblur[onnx]'") from error


def check_runtime(
    runtime: Runtime,
    method: str | None = None,
    motion_net: str | Path | None = None,
    irc_net: str | Path | None = None,
) -> None:
    """Check what computes the networks.

    Parameters
    ----------
    runtime : str or path
        One of `RUNTIMES`, or a folder of graphs.
    method : str, optional
        What deconvolves, if anything does.
    motion_net : str or path, optional
        The network that finds the motion, if one does.
    irc_net : str or path, optional
        Weights in place of the package's.

    Raises
    ------
    ValueError
        If something does not fit: there is no such runtime, nothing for it to compute, or no such graph.
    ImportError
        If a library is missing.
    """
    if runtime == "torch":
        return
    if method == "irc-net-shrinkage":
        raise ValueError("irc-net-shrinkage has no ONNX graph; use runtime 'torch', or method irc-net")
    graphs = method is not None and IRC_NETS.get(method) == IRC_NETS["irc-net"]
    if method is not None and not graphs and motion_net is None:
        raise ValueError(f"runtime is for irc-net: {method} has no network to compute")
    if runtime == "onnx":
        require("onnxruntime", "onnx")
        return
    folder = Path(runtime)
    if not folder.is_dir():
        raise ValueError(f"runtime must be {' or '.join(RUNTIMES)} or a folder of exported networks, got {runtime}")
    if irc_net is not None or motion_net not in (None, "small"):
        raise ValueError("weights cannot be given with a folder of exported networks, which holds its own")
    needed = ([MOTION_NET] if motion_net is not None else []) + ([X_UPDATES] if graphs else [])
    for name in needed:
        if not (folder / name).is_file():
            raise ValueError(f"no {name} in {folder}; 'ircdeblur export onnx -o {folder}' writes it")
    require("onnxruntime")


# ------------------------------------------------------------------------------------------------------- writing


class _MotionGraph(nn.Module):
    """`MotionNet.forward`, padded whatever the size is: a graph has no branches."""

    def __init__(self, net: MotionNet):
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        return self.net.answer(self.net.forward_grid(padded), height, width)


class _ObserveGraph(nn.Module):
    """`IRCNet.observed`."""

    def __init__(self, net: IRCNet):
        super().__init__()
        self.net = net

    def forward(self, blurred: torch.Tensor, maps: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
        return self.net.observed(blurred, Seen(blurred, (blurred, blurred, blurred), maps, unit))


class _StageGraph(nn.Module):
    """`IRCNet.proposal` of one stage."""

    def __init__(self, net: IRCNet, stage: int):
        super().__init__()
        self.net, self.stage = net, stage

    def forward(
        self,
        x: torch.Tensor,
        data: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        maps: torch.Tensor,
        unit: torch.Tensor,
        features: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.net.proposal(Seen(x, (data, rows, columns), maps, unit), features, self.stage)


def _write(
    graph: nn.Module,
    path: Path,
    inputs: dict[str, torch.Tensor],
    outputs: Mapping[str, Sequence[str]],
    facts: dict[str, str],
) -> None:
    """Write a graph.

    Parameters
    ----------
    graph : module
        What is exported.
    path : path
        The file.
    inputs : dict
        Names and examples of the inputs.
    outputs : dict
        Names of the outputs, each with those of its axes; a fixed one has none.
    facts : dict
        Metadata of the file.
    """
    (onnx,) = require("onnx")
    axes = {name: {i: axis for i, axis in enumerate(names) if axis} for name, names in outputs.items()}
    for name, example in inputs.items():
        coarse = "half_" if name == "features" else ""
        sides = {2: f"{coarse}height", 3: f"{coarse}width"} if example.shape[-1] > 1 else {}
        axes[name] = {0: "batch", **sides}
    with warnings.catch_warnings(), torch.no_grad():
        # Its warnings are about itself, and about branches by the number of channels, which is fixed here. The newer
        # exporter takes minutes for the hundreds of shifts of a Motion-Net and their symbolic sizes, this one seconds.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
        )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, {"ircdeblur": ircdeblur.__version__, **facts})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


Net = TypeVar("Net", bound=nn.Module)


def _plain(net: Net) -> Net:
    """Return a copy of a network on the CPU, in float32, and without changing it."""
    return copy.deepcopy(net).cpu().float().eval()


def export_motion_net(net: MotionNet, folder: Path, sha256: str = "") -> float:
    """Write the graph of a Motion-Net, and check it in onnxruntime.

    Parameters
    ----------
    net : MotionNet
        Of any size.
    folder : path
        Where ``motion-net.onnx`` goes.
    sha256 : str
        Of the file of its weights, for the metadata.

    Returns
    -------
    difference : float
        Largest difference between the graph and the network on a random picture, in pixels of motion.

    Raises
    ------
    ValueError
        If they differ by more than `TOLERANCE`.
    ImportError
        If onnx or onnxruntime is missing.
    """
    require("onnx", "onnxruntime")
    net = _plain(net)
    net.fast = False
    facts = {"network": "motion-net", "config": json.dumps(asdict(net.config)), "sha256": sha256}
    axes = ("batch", "height", "width")
    inputs = {"image": _random(2, 3, 75, 101)}
    _write(_MotionGraph(net), folder / MOTION_NET, inputs, {"double_angle": (*axes, ""), "error": axes}, facts)
    picture = _random(1, 3, 91, 122)
    with torch.no_grad():
        expected = net(picture)
    return _checked(expected, OnnxMotionNet(folder / MOTION_NET)(picture), "the graph of Motion-Net")


def export_irc_net(net: nn.Module, folder: Path, sha256: str = "") -> float:
    """Write the graphs of an IRC-Net with the convolutional prior, and check them in onnxruntime.

    Parameters
    ----------
    net : IRCNet
        Of any size.
    folder : path
        Where ``irc-net-*.onnx`` and ``irc-net-x-updates.safetensors`` go.
    sha256 : str
        Of the file of its weights, for the metadata.

    Returns
    -------
    difference : float
        Largest difference between the deconvolutions of a random picture by the graphs and by the network.

    Raises
    ------
    ValueError
        If they differ by more than `TOLERANCE`, or if the network is of another kind.
    ImportError
        If onnx or onnxruntime is missing.
    """
    if not isinstance(net, IRCNet):
        raise ValueError(f"only the IRC-Net with a convolutional prior has ONNX graphs, not {type(net).__name__}")
    require("onnx", "onnxruntime")
    net = _plain(net)
    net.fast = False
    config = json.dumps(asdict(net.config))
    x, shape = _random(2, 3, 50, 62), (2, net.config.width, 26, 32)
    known = {"maps": _random(2, net.MAPS, 50, 62), "unit": torch.full((2, 1, 1, 1), 0.02)}
    axes, coarse = ("batch", "", "height", "width"), ("batch", "", "half_height", "half_width")
    observe, *stages = (folder / name for name in irc_net_graphs(net.config.stages))
    facts = {"network": "irc-net", "config": config, "sha256": sha256}
    _write(_ObserveGraph(net), observe, {"blurred": x, **known}, {"features": coarse}, {**facts, "part": "observe"})
    for j, path in enumerate(stages):
        inputs = {"x": x, "data": x, "rows": x, "columns": x, **known, "features": _random(*shape)}
        outputs = {"proposal": axes, "next_features": coarse}
        _write(_StageGraph(net, j), path, inputs, outputs, {**facts, "part": f"stage {j + 1}"})
    rest = {k: t.contiguous() for k, t in net.state_dict().items() if not k.startswith(("observe.", "priors."))}
    save_file(rest, str(folder / X_UPDATES), metadata={**facts, "network": "irc-net-x-updates"})

    blur = MotionBlur(torch.tensor([7.0, 3.0]).expand(45, 59, 2).contiguous())
    picture, noise, error = _random(1, 3, 45, 59), 0.01, torch.full((1, 45, 59), 0.3)
    with torch.no_grad():
        pair = [each(picture, blur, noise, error) for each in (net, OnnxIRCNet.load(folder))]
    return _checked(pair[:1], pair[1:], "the graphs of IRC-Net")


def _random(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _checked(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], what: str) -> float:
    """Return the largest difference, if that can be allowed."""
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    if not difference <= TOLERANCE:
        raise ValueError(f"{what} and torch differ by {difference:.1e}, more than {TOLERANCE:g}")
    return difference


# ------------------------------------------------------------------------------------------------------- running


class Graph:
    """One graph in onnxruntime, which computes on as many threads as torch does.

    Parameters
    ----------
    path : path
        The file.
    device : torch.device
        With a GPU the graph is computed there if the onnxruntime that is installed can do so, else on the CPU.

    Raises
    ------
    ValueError
        If the file is no graph of this package.
    ImportError
        If onnxruntime is missing.
    """

    def __init__(self, path: Path, device: torch.device | None = None):
        (onnxruntime,) = require("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        wanted = ["CUDAExecutionProvider"] if device is not None and device.type == "cuda" else []
        providers = [p for p in wanted if p in onnxruntime.get_available_providers()] + ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            # Its errors have no base class of their own.
            raise ValueError(f"not a readable ONNX graph: {path}") from error
        self.facts: dict[str, str] = self.session.get_modelmeta().custom_metadata_map
        if "ircdeblur" not in self.facts:
            raise ValueError(f"not a graph that 'ircdeblur export onnx' wrote: {path}")
        self.names = [value.name for value in self.session.get_inputs()]

    def __call__(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs, in the precision and on the device of the first input."""
        arrays = [t.detach().to("cpu", torch.float32).contiguous().numpy() for t in inputs]
        outputs = self.session.run(None, dict(zip(self.names, arrays, strict=True)))
        return [torch.from_numpy(array).to(inputs[0]) for array in outputs]


class OnnxMotionNet:
    """What answers as `MotionNet.forward` does, without its module.

    Parameters
    ----------
    path : path
        A graph that `export_motion_net` wrote.
    device : torch.device, optional
        See `Graph`.

    Raises
    ------
    ValueError
        If it is no such graph.
    """

    def __init__(self, path: Path, device: torch.device | None = None):
        self.graph = Graph(path, device)
        if self.graph.facts.get("network") != "motion-net":
            raise ValueError(f"not the graph of a Motion-Net: {path}")

    def __call__(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return double-angle motion (B, H, W, 2) and error (B, H, W) of images (B, 1 or 3, H, W)."""
        if image.shape[1] not in (1, 3):
            raise ValueError(f"image must have 1 or 3 channels, got {image.shape[1]}")
        double, error = self.graph(image.expand(-1, 3, -1, -1))
        return double, error


class OnnxIRCNet(IRCNet):
    """An `IRCNet` whose convolutions are graphs; the x-updates between them are torch's.

    Parameters
    ----------
    config : IRCNetConfig
        The size of the network.
    folder : path
        Of the graphs, see `export_irc_net`.
    device : torch.device, optional
        See `Graph`.
    """

    def __init__(self, config: IRCNetConfig, folder: Path, device: torch.device | None = None):
        super().__init__(config)
        del self.observe, self.priors  # the graphs are in their place
        self.graphs = [Graph(folder / name, device) for name in irc_net_graphs(config.stages)]

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> OnnxIRCNet:
        """Read it from a folder; see `export_irc_net` and, for errors, `load_weights`."""

        def build(config: dict[str, Any]) -> OnnxIRCNet:
            return cls(IRCNetConfig(**config), folder, device)

        net, _ = load_weights(folder / X_UPDATES, "irc-net-x-updates", "exported IRC-Net", build)
        return net

    def observed(self, blurred: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Return the features that go to the first prior; see `IRCNet.observed`."""
        (features,) = self.graphs[0](*self._inputs([blurred], seen))
        return features

    def proposal(self, seen: Seen, features: torch.Tensor, j: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image that the prior of a stage proposes, and its features; see `IRCNet.proposal`."""
        proposal, features = self.graphs[1 + j](*self._inputs([seen.x, *seen.residuals], seen), features)
        return proposal if seen.x.shape[1] == 3 else proposal.mean(1, keepdim=True), features

    @staticmethod
    def _inputs(images: list[torch.Tensor], seen: Seen) -> list[torch.Tensor]:
        """Return the inputs of a graph: the images in RGB, the maps, and the unit, one for each image."""
        batch = images[0].shape[0]
        return [
            *(image.expand(-1, 3, -1, -1) for image in images),
            seen.maps.expand(batch, -1, -1, -1),
            seen.unit.expand(batch, -1, -1, -1),
        ]


@contextmanager
def _graphs_of(weights: Path, network: str) -> Iterator[Path]:
    """Yield the folder of the graphs of a file of weights; they are made on the first use and kept in the cache."""
    import platformdirs

    digest = hashlib.sha256(weights.read_bytes()).hexdigest()

    def export(folder: Path) -> None:
        if network == "motion-net":
            export_motion_net(load_motion_net(weights), folder, digest)
        else:
            export_irc_net(load_irc_net(weights)[0], folder, digest)

    cache = Path(platformdirs.user_cache_dir("ircdeblur"), "onnx")
    folder = cache / f"{network}-{digest[:16]}-{ircdeblur.__version__}"
    if folder.is_dir():
        yield folder
        return
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=cache))
    except OSError as error:
        warnings.warn(f"the ONNX graphs cannot be kept in {cache} ({error.strerror})", RuntimeWarning, stacklevel=2)
        with tempfile.TemporaryDirectory() as once:
            export(Path(once))
            yield Path(once)
        return
    try:
        export(made)
        try:
            os.replace(made, folder)
        except OSError:
            # Another process was faster; its graphs are the same.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    yield folder


def motion_net_of(runtime: Runtime, weights: str | Path = "small", device: torch.device | None = None) -> OnnxMotionNet:
    """Return a Motion-Net that onnxruntime computes.

    Parameters
    ----------
    runtime : "onnx" or path
        "onnx" makes the graph of the weights on the first use; a folder holds it.
    weights : str or path
        As for `ircdeblur.nets.checkpoints.motion_net_path`.
    device : torch.device, optional
        See `Graph`.
    """
    if runtime != "onnx":
        return OnnxMotionNet(Path(runtime) / MOTION_NET, device)
    with _graphs_of(motion_net_path(weights), "motion-net") as folder:
        return OnnxMotionNet(folder / MOTION_NET, device)


def irc_net_of(runtime: Runtime, weights: str | Path = "irc-net", device: torch.device | None = None) -> OnnxIRCNet:
    """Return an IRC-Net whose convolutions onnxruntime computes; arguments as for `motion_net_of`."""
    if runtime != "onnx":
        return OnnxIRCNet.load(Path(runtime), device)
    with _graphs_of(irc_net_path(weights), "irc-net") as folder:
        return OnnxIRCNet.load(folder, device)
