"""The linear motion kernel and the bank of 511 linear motions.

A linear motion of `length` pixels at `angle` degrees smears a point over a straight, antialiased segment
that is one pixel wide. The kernel is that of MATLAB's ``fspecial('motion', length, angle)``: its weights fall
linearly with the distance to the segment, and the angle is counter-clockwise on the screen, 0 being
horizontal.

Kernels are arrays with rows from the top of the picture down and columns from left to right; inside this
module ``x`` points right and ``y`` **up**, as in the formula.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "ANGLES",
    "LENGTHS",
    "MAX_LENGTH",
    "MotionBank",
    "half_sizes",
    "half_taps",
    "linear_motion_kernel",
    "linear_motion_taps",
    "steps_needed",
]

MAX_LENGTH = 35
"""Longest motion of the bank, in pixels."""

LENGTHS: NDArray[np.float64] = np.arange(1.0, MAX_LENGTH + 1, 2.0)
"""The 18 lengths of the bank, in pixels: 1, 3, ..., 35."""

ANGLES: NDArray[np.float64] = np.arange(0.0, 180.0, 6.0)
"""The 30 angles of the bank, in degrees: 0, 6, ..., 174."""

LENGTHS.flags.writeable = False
ANGLES.flags.writeable = False

_EPS = 2.0**-52


def linear_motion_kernel(length: float, angle: float) -> NDArray[np.float64]:
    """Kernel of a linear motion, as MATLAB's ``fspecial('motion', length, angle)``.

    Parameters
    ----------
    length : float
        Length of the motion in pixels, at least 0. Up to 1 there is no blur.
    angle : float
        Angle of the motion in degrees, counter-clockwise on the screen; 0 is horizontal. Any finite number:
        angles 180 degrees apart give the same kernel.

    Returns
    -------
    ndarray
        Float64 array of shape (2 sy + 1, 2 sx + 1), non-negative, of sum 1, symmetric about its middle
        element; rows from the top of the picture down. The 1 x 1 impulse where `length` <= 1.

    Raises
    ------
    ValueError
        If `length` is negative, or either argument is not finite.

    Notes
    -----
    With the half length ``h = (length - 1) / 2``, a pixel at distance ``|d|`` from the line weighs ``1 -
    |d|``. Pixels no nearer to the centre than ``h`` (the end caps) are measured with the distance along the
    line added, ``sqrt(d^2 + (h - |t|)^2)``. The two rules differ where they meet, so the kernel is continuous
    in `length` and `angle` except where a pixel changes from one to the other: a step of at most 0.134 before
    normalisation, when pixels at distance 1 change at length 3, and of about ``|d|^3 / (8 h^2)`` for longer
    motions.

    References
    ----------
    MATLAB Image Processing Toolbox, ``fspecial``, filter type 'motion'. GNU Octave's filter of
    that name differs.

    Examples
    --------
    >>> linear_motion_kernel(4, 0).round(3)
    array([[0.125, 0.25 , 0.25 , 0.25 , 0.125]])
    """
    length, angle = float(length), float(angle)
    if not math.isfinite(length) or length < 0:
        raise ValueError(f"length must be a finite number of pixels, at least 0, got {length}")
    if not math.isfinite(angle):
        raise ValueError(f"angle must be a finite number of degrees, got {angle}")
    if length <= 1:
        return np.ones((1, 1))

    half = (length - 1) / 2
    # The first remainder of a tiny negative angle is 180 itself.
    phi = (angle % 180.0 % 180.0) / 180.0 * math.pi
    cos, sin = math.cos(phi), math.sin(phi)
    # The eps terms keep a line along an axis in a single row or column.
    sx = abs(math.trunc(half * cos + math.copysign(1.0, cos) - length * _EPS))
    sy = math.trunc(half * sin + 1.0 - length * _EPS)
    x = np.arange(-sx, sx + 1.0)[None, :]
    y = np.arange(sy, -sy - 1.0, -1.0)[:, None]

    across = np.abs(y * cos - x * sin)
    along = np.abs(x * cos + y * sin)
    cap = (np.hypot(x, y) >= half) & (across <= 1.0)
    distance = np.where(cap, np.hypot(across, half - along), across)
    weight = np.maximum(0.0, 1.0 + _EPS - distance)
    return weight / (weight.sum() + _EPS * length**2)


def linear_motion_taps(length: Tensor, angle: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Taps of the linear motion kernels of many motions at once.

    Parameters
    ----------
    length : Tensor
        Lengths in pixels, shape (N,), floating point, at least 0.
    angle : Tensor
        Angles in degrees, shape (N,), counter-clockwise on the screen.
    steps : int, optional
        Pixels covered on each side of the centre along the axis that a line is nearer to; as `half_taps`.

    Returns
    -------
    dy, dx : Tensor
        Int32 offsets of the taps from the kernel's centre, down and to the right, shape (N, 3 (2 steps + 1)).
    weight : Tensor
        Weights of the same shape, in the precision of `length`. Every non-zero of `linear_motion_kernel`
        occurs once, other weights are 0, each row sums to 1. Differentiable in `length` and `angle` almost
        everywhere; the gradient is 0 where `length` < 1.

    Raises
    ------
    ValueError
        If `steps` is too small for the longest motion.
    """
    phi = torch.deg2rad(angle)
    dy, dx, weight = (taps.T for taps in half_taps(length, torch.cos(phi), torch.sin(phi), steps))
    return (
        torch.cat([-dy[:, 1:].flip(1), dy], 1),
        torch.cat([-dx[:, 1:].flip(1), dx], 1),
        torch.cat([weight[:, 1:].flip(1), weight], 1),
    )


def half_taps(length: Tensor, cos: Tensor, sin: Tensor, steps: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """One half of the taps of many linear motion kernels, which are symmetric about their centres.

    Parameters
    ----------
    length : Tensor
        Lengths in pixels, shape (N,), floating point, at least 0.
    cos, sin : Tensor
        Unit direction vectors, to the right and **up**, shape (N,); either sign.
    steps : int, optional
        Pixels covered on each side of the centre along a line's major axis (x where ``|cos| >= |sin|``, else
        y); see `steps_needed`. By default as many as the longest motion needs.

    Returns
    -------
    dy, dx : Tensor
        Int32 offsets from the kernel's centre, down and to the right, shape (3 steps + 2, N). The first is
        the centre itself; each other one stands for two taps, at (dy, dx) and at (-dy, -dx).
    weight : Tensor
        Weights of each tap, of the same shape, in the precision of `length`: the first plus twice the others
        is 1. Differentiable in all three parameters almost everywhere.

    Raises
    ------
    ValueError
        If `steps` is too small for the longest motion.

    Notes
    -----
    Three taps for each step along the major axis hold all non-zeros. A pixel with a weight is less than
    1 away from the line, in the end caps too, and so less than ``1 / max(|cos|, |sin|) <= sqrt(2)`` away from
    it along the minor axis; the pixels that are not among the three nearest to the line are at least 1.5
    away. Along the major axis such a pixel is less than 1 away from the segment, which ends at
    ``h max(|cos|, |sin|)``.
    """
    needed = int(steps_needed(length, cos, sin).max()) if length.numel() else 0
    if steps is None:
        steps = needed
    elif steps < needed:
        raise ValueError(f"steps must be at least {needed} for these motions, got {steps}")

    # Motions along the last axis, so that long vectors are worked on: (steps + 1, 3, N), without (0, -1) at
    # the end.
    half = (length.clamp(min=1.0) - 1) / 2
    x_major = cos.abs() >= sin.abs()
    major, minor = torch.where(x_major, cos, sin), torch.where(x_major, sin, cos)
    p = torch.arange(steps + 1, dtype=length.dtype, device=length.device)[:, None, None]
    offsets = torch.arange(-1, 2, dtype=p.dtype, device=p.device)[:, None]
    q = torch.round(p * (minor / major).detach()) + offsets
    across = (q * major - p * minor).abs()
    to_end = half - (q * minor + p * major).abs()
    square = across * across + to_end * to_end
    if square.requires_grad:
        # None where the distance is 0, the tip of its cone: the end pixels of axis-aligned lines of odd length.
        square = torch.where(square > 0, square, square.detach())
    weight = 1 - torch.where(q * q + p * p >= half * half, torch.sqrt(square), across)
    weight = F.threshold(weight, _rounding(steps, weight.dtype), 0.0).flatten(0, 1)[1:]
    weight = weight / (2 * weight.sum(0) - weight[0])

    q = q.to(torch.int32).flatten(0, 1)[1:]
    p = p.to(torch.int32).expand(-1, 3, 1).flatten(0, 1)[1:]
    # Either p or q; `torch.where` takes several times as long as arithmetic.
    down = x_major * (q - p) + p
    return -down, q + p - down, weight


def steps_needed(length: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pixels that linear motion kernels cover on each side of the centre along their major axes.

    Parameters
    ----------
    length : Tensor
        Lengths in pixels, shape (N,), floating point, at least 0.
    cos, sin : Tensor
        Unit direction vectors, shape (N,); either sign.

    Returns
    -------
    Tensor
        Int64, shape (N,).
    """
    return _reach(length, torch.maximum(cos.abs(), sin.abs()))


def half_sizes(length: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rows above and columns beside the centre of linear motion kernels.

    Parameters
    ----------
    length : Tensor
        Lengths in pixels, shape (N,), floating point, at least 0.
    cos, sin : Tensor
        Unit direction vectors, shape (N,); either sign.

    Returns
    -------
    rows, columns : Tensor
        Int64, shape (N,).
    """
    return _reach(length, sin.abs()), _reach(length, cos.abs())


def _reach(length: Tensor, component: Tensor) -> Tensor:
    """Largest integer nearer than 1 to a line's extent along an axis."""
    extent = (length.detach().clamp(min=1.0) - 1) / 2 * component.detach()
    return torch.ceil(extent - _rounding(extent, extent.dtype)).clamp(min=0).long()


def _rounding(distance: Any, dtype: torch.dtype) -> Any:
    """Weight below which a tap so far from the centre may be a rounding error: a pixel at distance 1."""
    return 8 * (distance + 1) * torch.finfo(dtype).eps


class MotionBank:
    """The 511 linear motions of lengths 1, 3, ..., 35 pixels and angles 0, 6, ..., 174 degrees.

    Length 1 is no blur, whatever the angle, and is counted once. Motion 0 is no blur; motion
    ``1 + 30 (i_length - 1) + i_angle`` has length ``LENGTHS[i_length]`` and angle ``ANGLES[i_angle]``, for
    ``i_length`` from 1 to 17 and ``i_angle`` from 0 to 29.

    References
    ----------
    Eboli, Sun and Ponce, section 2.2.
    """

    def __len__(self) -> int:
        return 1 + (len(LENGTHS) - 1) * len(ANGLES)

    @staticmethod
    def index(i_length: int, i_angle: int) -> int:
        """Return the number of the motion of length ``LENGTHS[i_length]`` and angle ``ANGLES[i_angle]``.

        Parameters
        ----------
        i_length : int
            From 0 to 17.
        i_angle : int
            Any integer; angles go round after 30 (180 degrees).

        Returns
        -------
        int
            From 0 to 510; 0 where `i_length` is 0.

        Raises
        ------
        IndexError
            If `i_length` is out of range.
        """
        if not 0 <= i_length < len(LENGTHS):
            raise IndexError(f"i_length must be from 0 to {len(LENGTHS) - 1}, got {i_length}")
        return 0 if i_length == 0 else 1 + (i_length - 1) * len(ANGLES) + i_angle % len(ANGLES)

    @cached_property
    def motions(self) -> NDArray[np.float64]:
        """Lengths (pixels) and angles (degrees), shape (511, 2); (1, 0) for no blur. Read-only."""
        lengths, angles = np.meshgrid(LENGTHS[1:], ANGLES, indexing="ij")
        motions = np.concatenate([[[1.0, 0.0]], np.stack([lengths.ravel(), angles.ravel()], 1)])
        motions.flags.writeable = False
        return motions

    @cached_property
    def kernels(self) -> NDArray[np.float64]:
        """Kernels of the motions, shape (511, 35, 35), each centred on element (17, 17). Read-only."""
        kernels = np.zeros((len(self), MAX_LENGTH, MAX_LENGTH))
        for kernel, (length, angle) in zip(kernels, self.motions, strict=True):
            small = linear_motion_kernel(length, angle)
            top, left = (MAX_LENGTH - small.shape[0]) // 2, (MAX_LENGTH - small.shape[1]) // 2
            kernel[top : top + small.shape[0], left : left + small.shape[1]] = small
        kernels.flags.writeable = False
        return kernels
