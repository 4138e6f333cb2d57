"""All ways to deconvolve by their names: the networks and the solvers."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import torch

from ircdeblur.nets.checkpoints import IRC_NETS, load_irc_net
from ircdeblur.nets.irc_net import ORIENTATIONS, IRCNet
from ircdeblur.nets.onnx import Runtime, irc_net_of
from ircdeblur.nets.unrolled import UnrolledNet
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers import settings as solvers
from ircdeblur.solvers.admm import Callback, Result
from ircdeblur.solvers.settings import Settings

METHODS: tuple[str, ...] = (*IRC_NETS, *solvers.METHODS)
"""What `deconvolve` knows, the networks first."""

DEFAULT_METHOD = METHODS[0]


ENSEMBLE = "irc-net-plus"
"""The method that is irc-net with all of `ircdeblur.nets.irc_net.ORIENTATIONS`, and `ENSEMBLE_START`."""

ENSEMBLE_START = 30
"""Steps of the solver before the network, of which it has as many at least: they are little beside eight orientations.
From 16 to 30 nine and twelve validation pictures gained 0.01 and 0.02 dB with moderate camera shake, 0.03 and 0.13 with
severe, 0.06 and 0.02 with single kernels; with 40 it was 0.03 more at most."""


@functools.lru_cache(maxsize=4)
def irc_net(
    device: torch.device, method: str, weights: str | Path | None = None, runtime: Runtime = "torch"
) -> UnrolledNet:
    """Return the network that a method is, on a device.

    Parameters
    ----------
    device : torch.device
        Where it is to compute.
    method : str
        One of `ircdeblur.nets.checkpoints.IRC_NETS`.
    weights : str or path, optional
        A file, in place of the package's.
    runtime : str or path
        What computes the convolutions.

    Raises
    ------
    ValueError
        If the weights are not of a network that the method can be.
    """
    source = weights or method
    net = load_irc_net(source)[0] if runtime == "torch" else irc_net_of(runtime, source, device)
    if method == ENSEMBLE:
        if not isinstance(net, IRCNet):
            raise ValueError(f"{method} takes the weights of an irc-net, those are of the paper's network: {weights}")
        net.orientations = ORIENTATIONS
        net.config = replace(net.config, start=max(net.config.start, ENSEMBLE_START))
    return net.to(device)


def check_method(method: str, irc_net: str | Path | None = None, settings: Settings | None = None) -> None:
    """Check the name of a method and what is given with it.

    Parameters
    ----------
    method : str
        One of `METHODS`.
    irc_net : str or path, optional
        Weights in place of the package's, for the networks only.
    settings : Settings, optional
        For the solvers only.

    Raises
    ------
    ValueError
        If something does not fit.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method in IRC_NETS:
        if settings is not None:
            raise ValueError(f"settings are for the solvers, {method} has learned its own")
        if irc_net is not None and not Path(irc_net).is_file():
            raise ValueError(f"irc_net must be a file of weights, got {irc_net}")
    elif irc_net is not None:
        raise ValueError(f"irc_net is for {' and '.join(IRC_NETS)}, not for {method}")


@torch.no_grad()
def deconvolve(
    y: torch.Tensor,
    blur: UniformBlur | MotionBlur,
    noise: float,
    method: str = DEFAULT_METHOD,
    settings: Settings | None = None,
    mask: torch.Tensor | None = None,
    error: torch.Tensor | None = None,
    irc_net_weights: str | Path | None = None,
    callback: Callback | None = None,
    runtime: Runtime = "torch",
) -> Result:
    """Deconvolve.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image in [0, 1].
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    noise : float
        Standard deviation of the noise in y.
    method : str
        One of `METHODS`.
    settings : Settings, optional
        Of a solver.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observation counts.
    error : (B or 1, H, W) tensor, optional
        Expected error of the motion in pixels, which the networks take into account.
    irc_net_weights : path, optional
        Weights of a network, in place of the package's.
    callback : callable, optional
        Called by the iterative methods after each iteration, by the networks after each stage; see
        `ircdeblur.solvers.settings.deconvolve`.
    runtime : str or path
        What computes a network; see `ircdeblur.nets.onnx.check_runtime`.
    """
    if method not in IRC_NETS:
        return solvers.deconvolve(y, blur, noise, method, settings, mask, callback=callback)
    net = irc_net(y.device, method, irc_net_weights, runtime)
    return Result(net(y, blur, noise, error, mask, callback))
