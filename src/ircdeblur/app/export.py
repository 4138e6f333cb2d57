"""Writing the networks for other programs and other machines: the work of ``ircdeblur export``."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from ircdeblur.app.imagefile import ImageFileError, atomic_write, check_output, make_folder
from ircdeblur.nets.checkpoints import irc_net_path, load_irc_net, load_motion_net, motion_net_path
from ircdeblur.nets.irc_net import IRCNet
from ircdeblur.nets.onnx import (
    MOTION_NET,
    X_UPDATES,
    export_irc_net,
    export_motion_net,
    irc_net_graphs,
    require,
)
from ircdeblur.nets.weights_file import average_weights


class Written(NamedTuple):
    """A network that was written.

    Attributes
    ----------
    paths : list of paths
        Its files.
    difference : float
        Between the graphs and torch, on a random picture: pixels of motion, or parts of the range of a picture.
    """

    paths: list[Path]
    difference: float


def write_onnx(
    out: Path, motion_net: str | Path | None, irc_net: str | Path | None, overwrite: bool
) -> dict[str, Written]:
    """Write networks as ONNX graphs; nothing is written before all are made and checked.

    Parameters
    ----------
    out : path
        A folder; or a file, for a Motion-Net alone.
    motion_net, irc_net : str, path or None
        Names or files of the weights; None for not this network.
    overwrite : bool
        Replace files that exist.

    Returns
    -------
    written : dict
        By the names of the networks.

    Raises
    ------
    ImageFileError
        If a file exists, cannot be written, or is not made of usable weights.
    ImportError
        If a library of the extra ``onnx`` is missing.
    """
    require("onnx", "onnxruntime")
    jobs: dict[str, tuple[Callable[[Path], float], list[str]]] = {}
    if motion_net is not None:
        path = motion_net_path(motion_net)
        net, digest = _read(load_motion_net, path)
        jobs["motion-net"] = (partial(export_motion_net, net, sha256=digest), [MOTION_NET])
    if irc_net is not None:
        path = irc_net_path(irc_net)
        (unrolled, _), digest = _read(load_irc_net, path)
        if not isinstance(unrolled, IRCNet):
            raise ImageFileError("the network of irc-net-shrinkage has no ONNX graph", path, "give one of irc-net")
        names = [*irc_net_graphs(unrolled.config.stages), X_UPDATES]
        jobs["irc-net"] = (partial(export_irc_net, unrolled, sha256=digest), names)

    single = out.suffix.lower() == ".onnx"
    targets = {network: [out if single else out / name for name in names] for network, (_, names) in jobs.items()}
    if not single:
        make_folder(out)
    for path in itertools.chain(*targets.values()):
        check_output(path, overwrite=overwrite, suffixes=(path.suffix.lower(),))
    with tempfile.TemporaryDirectory() as folder:
        written = {network: Written(targets[network], export(Path(folder))) for network, (export, _) in jobs.items()}
        for network, (_, names) in jobs.items():
            for name, path in zip(names, targets[network], strict=True):
                with atomic_write(path, overwrite=overwrite) as temp:
                    shutil.copyfile(Path(folder, name), temp)
    return written


def write_weights(
    paths: Sequence[Path], out: Path, shares: Sequence[float] | None, half: bool, overwrite: bool
) -> None:
    """Write the mean of files of weights; see `ircdeblur.nets.weights_file.average_weights`.

    Raises
    ------
    ImageFileError
        If a file is missing, the output exists or cannot be written, or the files are not weights of one network.
    """
    for path in paths:
        if not path.is_file():
            raise ImageFileError("the weights are missing", path, "check the name")
    check_output(out, overwrite=overwrite, inputs=paths, suffixes=(".safetensors",))
    with atomic_write(out, overwrite=overwrite) as temporary:
        try:
            average_weights(paths, temporary, shares, half)
        except ValueError as error:
            what, _, where = str(error).partition(": ")
            raise ImageFileError(f"not usable weights ({what})", where, "give files of one network") from error


Loaded = TypeVar("Loaded")


def _read(load: Callable[[Path], Loaded], path: Path) -> tuple[Loaded, str]:
    """Return the network of a file of weights, and the file's SHA-256."""
    if not path.is_file():
        raise ImageFileError("the weights are missing", path, "check the name")
    try:
        return load(path), hashlib.sha256(path.read_bytes()).hexdigest()
    except ValueError as error:
        what = f"not usable weights ({str(error).partition(':')[0]})"
        raise ImageFileError(what, path, "ircdeblur train writes usable ones") from error
