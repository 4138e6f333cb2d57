"""How far an estimated motion is to be believed, from its expected error: what a blind restoration makes of it.

The same functions decide when a photograph is restored and when both networks are trained together, where the gradient
passes through them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ircdeblur.motion import CERTAIN, DOUBTFUL, STILL

EXACT = 1.3
"""Expected error in pixels up to which a motion is taken as right. On shaken validation photographs the stated errors
were 0.9 to 1.3 px where the motion was found to a few tenths; on frames averaged from a film of high speed, whose
motions are neither straight nor even, 4 to 9 px."""

DOUBT = 0.5
"""Share of the error beyond `EXACT` that the networks are told of. Between 0.3 and 0.5 nothing changed by more than
0.1 dB; with 0 the film lost 0.5 dB, and with all errors told, the small ones too, the shakes lost 0.3 dB."""

MISFIT = 0.008
"""Noise that each pixel of error beyond `EXACT` stands for: what a wrong motion does not explain of a photograph must
not be sharpened. The averaged frames of the film, which have no noise, lost 2.1 dB without it and gained 0.3 to 0.7 dB
with it; shaken validation photographs changed by less than 0.05 dB."""

MAX_MISFIT = 0.05
"""Largest of such noise."""

LEAST_MISFIT = 0.005
"""Noise that stands for what an exact motion does not explain either: speeds that are not even, tone curves that are
not sRGB's. Twelve shaken validation photographs of each kind lost 0.63 dB by it when they were blurred in pixel values,
and 0.30 dB in linear light, with noise of 0.2 %; with 1 % they lost 0.04 and gained 0.01 dB; averaged frames of a film
did not change. A real pair with little noise, whose motion is stated to be exact and is not, gains 2.9 dB with it (1.4
dB with 0.003, 1.2 dB with 0.0015)."""

UNEVEN, RESIDUAL = 0.2, 5.0
"""Noise that a unit of a found kernel's unevenness stands for, and of its residual (see
`ircdeblur.nets.curved.KernelEstimate`): the restoration hides most of what a wrong kernel does. Of 40 validation and 22
training photographs, shaken along a curve in pixel values, in linear light, and by a camera that turned as well, those
in which a kernel was found gained 6.86, 5.42 and 3.56 dB; with 0.01 in place of `LEAST_MISFIT` and without the second
number 6.65, 5.29 and 3.53; with `LEAST_MISFIT` and neither 6.92, 5.40, 2.94. Of 40 more that turned by 4 px at most,
with less noise, 33 gained 5.73, in place of 5.70 and 5.48."""


def restoration_weight(length: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return how much of a blind restoration to believe, in [0, 1].

    Nothing where the picture did not move, and less the larger the expected error is relative to the motion: a wrong
    motion costs more than a right one gains.

    Parameters
    ----------
    length, error : (H, W) tensors
        Length of the motion and its expected error, in pixels.
    """
    moved = ((length - STILL) / STILL).clamp(0, 1)
    sure = ((DOUBTFUL - error / length.clamp(min=1.0)) / (DOUBTFUL - CERTAIN)).clamp(0, 1)
    return moved * sure


CAUTIOUS, CAUTION = (EXACT, 4.0), 0.6
"""Expected errors in pixels from which on less of a restoration is mixed in, and from which on no more than the second
number, on a line between; those of averaged frames (see `EXACT`) are beyond. Of 51 pictures whose motion is neither
straight nor even, most of them such averages, the mean gain was 0.07 dB and the smallest -1.9 with all of it, 0.19 and
-0.7 with 0.6; with 0.5 in place of 0.6 the mean would be as large and the smallest 0.2 better."""


def mixing_weight(length: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return how much of a blind restoration to mix with the photograph as it is, in [0, 1].

    Where it is wrong, half of it does a quarter of the harm, and where it is right, three quarters of the good.

    Parameters
    ----------
    length, error : (H, W) tensors
        Length of the motion and its expected error, in pixels.
    """
    low, high = CAUTIOUS
    most = 1 - (1 - CAUTION) * ((error - low) / (high - low)).clamp(0, 1)
    return torch.minimum(restoration_weight(length, error), most)


def beyond(error: torch.Tensor) -> torch.Tensor:
    """Return what an expected error exceeds that of a right motion by, in pixels."""
    return (error - EXACT).clamp(min=0)


def doubt_of(error: torch.Tensor) -> torch.Tensor:
    """Return the error in pixels that an IRC-Net is told of, for expected errors of any shape."""
    return DOUBT * beyond(error)


def unexplained(weight: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum over the pixels (..., H, W) of the errors beyond that of a right motion."""
    return (weight * beyond(error)).sum((-2, -1))


def misfit_noise(total: torch.Tensor, weights: torch.Tensor, least: float | None = None) -> torch.Tensor:
    """Return the standard deviation of what a motion will not explain of a photograph, on the [0, 1] scale.

    Parameters
    ----------
    total, weights : (...) tensors
        Sums over the photograph of `unexplained` and of the weights.
    least : float, optional
        Where the motion is right, `LEAST_MISFIT` if not given.

    Returns
    -------
    noise : (...) tensor
        From the least to a little more than `MAX_MISFIT`.
    """
    wrong = (MISFIT * total / weights.clamp(min=1e-9)).clamp(max=MAX_MISFIT)
    return (wrong**2 + (LEAST_MISFIT if least is None else least) ** 2).sqrt()


def misfit_of_kernel(unevenness: float, residual: float) -> float:
    """Return the standard deviation of what a kernel that was found will not explain, on the [0, 1] scale.

    Parameters
    ----------
    unevenness, residual : float
        See `ircdeblur.nets.curved.KernelEstimate`.
    """
    return min(MAX_MISFIT, math.hypot(LEAST_MISFIT, UNEVEN * unevenness, RESIDUAL * residual))


class Reckoned(NamedTuple):
    """What a blind restoration of whole pictures reckons with.

    Attributes
    ----------
    weight : (B, H, W) tensor
        See `restoration_weight`.
    mixed : (B, H, W) tensor
        See `mixing_weight`.
    noise : (B,) tensor
        Standard deviation of the noise and of what the motion will not explain, together.
    doubt : (B, H, W) tensor
        See `doubt_of`.
    """

    weight: torch.Tensor
    mixed: torch.Tensor
    noise: torch.Tensor
    doubt: torch.Tensor


def reckon(
    motion: torch.Tensor, error: torch.Tensor, noise: float | torch.Tensor, least: float | None = None
) -> Reckoned:
    """Return what follows from motions (B, H, W, 2), their expected errors (B, H, W), and the noise, one or (B,).

    The gradient passes through the weights and the doubt. `least` is that of `misfit_noise`.
    """
    length = motion.norm(dim=-1)
    weight = restoration_weight(length, error)
    misfit = misfit_noise(unexplained(weight, error), weight.sum((-2, -1)), least).detach()
    total = torch.hypot(torch.as_tensor(noise).to(misfit), misfit)
    return Reckoned(weight, mixing_weight(length, error), total, doubt_of(error))
