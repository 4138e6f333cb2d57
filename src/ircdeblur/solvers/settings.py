"""Solver settings: which method, how strong a prior, how many iterations - and the noise that decides the prior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import Result, XUpdate, admm
from ircdeblur.solvers.cg import ConjugateGradients
from ircdeblur.solvers.fourier import FourierDivision, TiledFourierDivision
from ircdeblur.solvers.irc import IteratedResidualCompensation

Method = Literal["irc", "cg", "fft", "fft-nopad"]
METHODS: tuple[str, ...] = get_args(Method)

MIN_NOISE = 0.002
"""8-bit rounding alone has a standard deviation of 0.0011; models are never exact."""


@dataclass(frozen=True)
class Settings:
    """Settings of a deconvolution.

    The defaults were chosen on validation photographs with noise 1 %: of prior 2.5 to 30 and rho 0.005 to 0.04, uniform
    kernels like 10 best and motion fields 5; larger rho is better or equal throughout, as ten iterations reach further.

    Attributes
    ----------
    prior : float
        lambda = prior * noise^2.
    rho : float
        Penalty of ADMM.
    iterations : int
        Of ADMM.
    steps : int, optional
        Most steps of each x-update. By default 15 for cg; for irc 8 with a uniform blur, whose filters cost little and
        whose pixels around the frame converge slowly, and 1 with a motion field.
    norm : float
        Exponent l of the prior.
    """

    prior: float = 6.0
    rho: float = 0.04
    iterations: int = 10
    steps: int | None = None
    norm: float = 1.0


DEFAULTS = dict.fromkeys(METHODS, Settings())
"""Settings of each method; the paper's comparison asks for the same model in all."""


def estimate_noise(image: torch.Tensor) -> float:
    """Estimate the standard deviation of white noise from the finest diagonal Haar wavelets.

    Clipped pixels have no noise and are left out. The channels are estimated on their own; the result is their root
    mean square.

    Parameters
    ----------
    image : (B, C, H, W) tensor
        In [0, 1].

    Returns
    -------
    noise : float
        On the [0, 1] scale; 0 for images without a 2 x 2 block of unclipped pixels.

    References
    ----------
    D. Donoho and I. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994: the median of the
    absolute values over 0.6745.
    """
    height, width = image.shape[-2] // 2 * 2, image.shape[-1] // 2 * 2
    even, odd = image[..., 0:height:2, :width], image[..., 1:height:2, :width]
    blocks = torch.stack((even[..., 0::2], even[..., 1::2], odd[..., 0::2], odd[..., 1::2]), dim=-1)
    diagonal = (blocks[..., 0] - blocks[..., 1] - blocks[..., 2] + blocks[..., 3]) / 2
    inside = ((blocks > 0.5 / 255) & (blocks < 1 - 0.5 / 255)).all(-1)
    sigmas = [
        float(values[kept].abs().median()) / 0.6745
        for values, kept in zip(diagonal.flatten(0, 1), inside.flatten(0, 1), strict=True)
        if kept.any()
    ]
    return (sum(s * s for s in sigmas) / len(sigmas)) ** 0.5 if sigmas else 0.0


def make_update(
    method: str,
    y: torch.Tensor,
    blur: UniformBlur | MotionBlur,
    settings: Settings,
    mask: torch.Tensor | None = None,
) -> XUpdate:
    """Return the x-update of a method for an observed image and its blur.

    Parameters
    ----------
    method : {"irc", "cg", "fft", "fft-nopad"}
        Which one.
    y : (B, C, H, W) tensor
        Blurred image.
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    settings : Settings
        Penalty and number of steps.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observation counts; the Fourier methods cannot use it.
    """
    if method == "irc":
        steps = settings.steps or (8 if isinstance(blur, UniformBlur) else 1)
        return IteratedResidualCompensation(y, blur, settings.rho, steps, mask=mask)
    if method == "cg":
        return ConjugateGradients(y, blur, settings.rho, settings.steps or 15, mask=mask)
    if method in ("fft", "fft-nopad"):
        pad = method == "fft"
        if isinstance(blur, UniformBlur):
            return FourierDivision(y, blur, settings.rho, pad)
        return TiledFourierDivision(y, blur, settings.rho, pad)
    raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")


def deconvolve(
    y: torch.Tensor,
    blur: UniformBlur | MotionBlur,
    noise: float,
    method: str = "irc",
    settings: Settings | None = None,
    mask: torch.Tensor | None = None,
    statistics: bool = False,
) -> Result:
    """Deconvolve with ADMM.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image in [0, 1].
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    noise : float
        Standard deviation of the noise in y.
    method : {"irc", "cg", "fft", "fft-nopad"}
        The x-update.
    settings : Settings, optional
        By default the method's own.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observation counts.
    statistics : bool
        Return the figures of each iteration.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    settings = settings or DEFAULTS[method]
    lam = settings.prior * max(noise, MIN_NOISE) ** 2
    update = make_update(method, y, blur, settings, mask)
    return admm(update, lam, settings.rho, settings.iterations, settings.norm, statistics=statistics)
