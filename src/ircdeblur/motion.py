"""Motion fields: vectors, polar and double-angle form, the half plane, interpolation on the bank, files.

A motion field is ``(..., 2)``: ``[..., 0] = u`` to the right and ``[..., 1] = v`` **down**, in pixels. ``m`` and ``-m``
are the same blur. Length is ``hypot(u, v)``; angle is ``atan2(-v, u)`` modulo 180 in degrees, counter-clockwise on the
screen. The functions take NumPy arrays or torch tensors and return the same kind.
"""

from __future__ import annotations

import operator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, SupportsIndex, TypeVar, cast

import numpy as np
import torch

from ircdeblur.kernels import ANGLES, LENGTHS, MAX_LENGTH, linear_motion_kernel

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Weights = Literal["softmax", "bilinear"]

NO_BLUR_LENGTH = 1.0
"""Motions of at most this length (in pixels) leave the picture as it is."""

STILL = 2.0
"""Estimated motions of at most this length (in pixels) count as none."""

CERTAIN, SURE, DOUBTFUL = 0.3, 0.5, 0.8
"""Expected errors as shares of the length: up to the first the `confidence` is 1, from the last on 0; up to the middle
one a vector counts as sure."""

_FLO_MAGIC = 202021.25


def _backend(array: Any) -> ModuleType:
    return torch if isinstance(array, torch.Tensor) else np


def _stack(a: Array, b: Array) -> Array:
    return torch.stack((a, b), dim=-1) if isinstance(a, torch.Tensor) else np.stack((a, b), axis=-1)


def to_polar(motion: Array) -> tuple[Array, Array]:
    """Return length and angle of motion vectors.

    Parameters
    ----------
    motion : (..., 2) array or tensor
        Motion vectors (u right, v down) in pixels.

    Returns
    -------
    length : (...) array or tensor
        ``hypot(u, v)`` in pixels.
    angle : (...) array or tensor
        Degrees in [0, 180), counter-clockwise on the screen, as MATLAB's ``fspecial('motion', length, angle)``.
    """
    xp = _backend(motion)
    u, v = motion[..., 0], motion[..., 1]
    angle = xp.rad2deg(xp.arctan2(-v, u)) % 180.0
    # A tiny negative angle plus 180 rounds to 180 itself, which is the angle 0.
    return xp.hypot(u, v), cast(Array, xp.where(angle >= 180.0, angle - 180.0, angle))


def from_polar(length: Array, angle: Array) -> Array:
    """Return motion vectors of the given length (pixels) and angle (degrees); the inverse of `to_polar`.

    The result lies in the canonical half plane when the angle is in (-90, 90].
    """
    xp = _backend(length)
    radians = xp.deg2rad(angle)
    return _stack(length * xp.cos(radians), -length * xp.sin(radians))


def canonical(motion: Array) -> Array:
    """Flip every vector into the canonical half plane: u > 0, or u = 0 and v >= 0."""
    xp = _backend(motion)
    u, v = motion[..., 0], motion[..., 1]
    flip = (u < 0) | ((u == 0) & (v < 0))
    return cast(Array, xp.where(flip[..., None], -motion, motion))


def align_sign(motion: Array, reference: Array) -> Array:
    """Choose the sign of every vector so that it points with (not against) the reference's vector there."""
    xp = _backend(motion)
    dot = (motion * reference).sum(-1)
    return cast(Array, xp.where((dot < 0)[..., None], -motion, motion))


def to_double_angle(motion: Array) -> Array:
    """Return (l cos 2a, l sin 2a) for vectors of length l and angle a.

    The double angle is the same for ``m`` and ``-m`` and continuous where the angle passes 180 degrees, so it can be
    averaged, interpolated and regressed.
    """
    xp = _backend(motion)
    length = xp.hypot(motion[..., 0], motion[..., 1])
    radians = 2.0 * xp.arctan2(-motion[..., 1], motion[..., 0])
    return _stack(length * xp.cos(radians), length * xp.sin(radians))


def from_double_angle(double: Array) -> Array:
    """Return canonical motion vectors for double-angle vectors (..., 2); the inverse of `to_double_angle`."""
    xp = _backend(double)
    length = xp.hypot(double[..., 0], double[..., 1])
    radians = 0.5 * xp.arctan2(double[..., 1], double[..., 0])
    return canonical(_stack(length * xp.cos(radians), -length * xp.sin(radians)))


def bank_interpolation(
    length: torch.Tensor, angle: torch.Tensor, weights: Weights = "softmax"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the four motions of the bank next to each motion, and their weights (Eq. 17).

    The four are (l-, a-), (l-, a+), (l+, a-), (l+, a+). The angle wraps at 180 degrees. Length 1 has no angle, so its
    two entries are the same motion of the bank. Lengths outside [1, 35] are clamped.

    Parameters
    ----------
    length, angle : (...) tensors
        Pixels and degrees.
    weights : {"softmax", "bilinear"}
        ``"softmax"`` of minus the squared Euclidean distance in (pixels, degrees), as the paper means Eq. 17 (with its
        sign as printed the farthest motion would win); ``"bilinear"`` in length and angle, exact on the bank's motions.

    Returns
    -------
    indices : (..., 4) int64 tensor
        Into `ircdeblur.kernels.MotionBank`.
    weights : (..., 4) tensor
        Non-negative, summing to 1, differentiable in length and angle.
    """
    if weights not in ("softmax", "bilinear"):
        raise ValueError(f"weights must be 'softmax' or 'bilinear', got {weights!r}")
    n_angles = len(ANGLES)
    length_step = float(LENGTHS[1] - LENGTHS[0])
    angle_step = 180.0 / n_angles
    length = length.clamp(float(LENGTHS[0]), float(MAX_LENGTH))
    angle = angle % 180.0

    i_low = ((length.detach() - LENGTHS[0]) / length_step).floor().long().clamp(0, len(LENGTHS) - 2)
    j_low = (angle.detach() / angle_step).floor().long()
    to_low = length - (LENGTHS[0] + length_step * i_low)
    turn = angle - angle_step * j_low
    j_low, j_high = j_low % n_angles, (j_low + 1) % n_angles

    def index(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return torch.where(i == 0, torch.zeros_like(i), 1 + (i - 1) * n_angles + j)

    i_high = i_low + 1
    indices = torch.stack((index(i_low, j_low), index(i_low, j_high), index(i_high, j_low), index(i_high, j_high)), -1)
    if weights == "bilinear":
        s, t = to_low / length_step, turn / angle_step
        return indices, torch.stack(((1 - s) * (1 - t), (1 - s) * t, s * (1 - t), s * t), -1)

    no_angle = i_low == 0
    low_turn = torch.where(no_angle, torch.zeros_like(turn), turn)
    low_rest = torch.where(no_angle, torch.zeros_like(turn), angle_step - turn)
    to_high = length_step - to_low
    squared = torch.stack(
        (
            to_low**2 + low_turn**2,
            to_low**2 + low_rest**2,
            to_high**2 + turn**2,
            to_high**2 + (angle_step - turn) ** 2,
        ),
        -1,
    )
    return indices, torch.softmax(-squared, dim=-1)


def check_motion(motion: Any, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Return `motion` as a float32 array (H, W, 2), or raise `ValueError` or `TypeError` saying what is wrong.

    Parameters
    ----------
    motion : array_like or tensor
        The field to check.
    shape : (H, W), optional
        The size that the field must have.
    """
    if isinstance(motion, torch.Tensor):
        motion = motion.detach().cpu().numpy()
    field = np.asarray(motion)
    if field.dtype.kind not in "fiu":
        raise TypeError(f"motion must be an array of numbers, got dtype {field.dtype}")
    if field.ndim != 3 or field.shape[-1] != 2:
        raise ValueError(f"motion must have shape (H, W, 2), got {field.shape}")
    if not np.isfinite(field).all():
        raise ValueError("motion contains NaN or infinity")
    if shape is not None and field.shape[:2] != tuple(shape):
        raise ValueError(
            f"motion is {field.shape[0]} x {field.shape[1]} pixels (rows x columns) but the image is "
            f"{shape[0]} x {shape[1]}; both must have the same size"
        )
    return field.astype(np.float32, copy=False)


def read_motion(path: str | Path) -> np.ndarray:
    """Read a motion field: ``.npz`` with one array ``motion``, or Middlebury ``.flo``.

    Returns
    -------
    motion : (H, W, 2) float32 array
        Pixels, u right and v down.

    Raises
    ------
    ValueError
        If the file is not such a file.
    OSError
        If it cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        try:
            with np.load(path) as archive:
                if "motion" not in archive:
                    raise ValueError(f"not a motion file: {path} has no array named 'motion' but {archive.files}")
                return check_motion(archive["motion"])
        except (EOFError, OSError) as error:
            if not path.is_file():
                raise
            raise ValueError(f"not a readable .npz file: {path}") from error
        except ValueError as error:
            if "pickle" in str(error) or "not a zip" in str(error).lower():
                raise ValueError(f"not a readable .npz file: {path}") from error
            raise
        except Exception as error:  # zipfile.BadZipFile and zlib.error share no base class.
            raise ValueError(f"not a readable .npz file: {path}") from error
    if suffix == ".flo":
        data = path.read_bytes()
        if len(data) < 12 or np.frombuffer(data, "<f4", 1)[0] != np.float32(_FLO_MAGIC):
            raise ValueError(f"not a Middlebury .flo file: {path}")
        width, height = (int(n) for n in np.frombuffer(data, "<i4", 2, offset=4))
        if width <= 0 or height <= 0 or len(data) != 12 + 8 * width * height:
            raise ValueError(f"damaged .flo file: {path} says {width} x {height} pixels and has {len(data)} bytes")
        return check_motion(np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32))
    raise ValueError(f"unknown kind of motion file: {path}; use .npz or .flo")


def write_motion(path: str | Path, motion: np.ndarray, kind: str | None = None) -> None:
    """Write a motion field as ``.npz`` (array ``motion``) or Middlebury ``.flo``.

    Parameters
    ----------
    path : path
        The file; it is overwritten.
    motion : (H, W, 2) array
        The field.
    kind : {".npz", ".flo"}, optional
        The format; taken from the path's suffix if not given.
    """
    kind = (kind or Path(path).suffix).lower()
    field = check_motion(motion)
    if kind == ".npz":
        with open(path, "wb") as file:
            np.savez_compressed(file, motion=field)
    elif kind == ".flo":
        height, width = field.shape[:2]
        header = np.float32(_FLO_MAGIC).tobytes() + np.array([width, height], "<i4").tobytes()
        Path(path).write_bytes(header + field.astype("<f4").tobytes())
    else:
        raise ValueError(f"unknown kind of motion file: {kind!r}; use .npz or .flo")


def kernel_at(motion: Any, x: SupportsIndex, y: SupportsIndex) -> np.ndarray:
    """Return the blur kernel of one pixel: the straight line that it drew while the shutter was open.

    Parameters
    ----------
    motion : (H, W, 2) array or tensor
        Pixels; u right, v down.
    x, y : int
        Column from the left and row from the top, from 0.

    Returns
    -------
    kernel : (h, w) float64 array
        Odd sides, sum 1, rows from the top down; see `ircdeblur.kernels.linear_motion_kernel`. What
        ``deconvolve(image, psf=kernel)`` takes.

    Raises
    ------
    TypeError
        If `x` or `y` is no whole number.
    ValueError
        If the pixel is outside, or `motion` is no motion field.

    Examples
    --------
    >>> kernel_at([[[4, 0]]], 0, 0).round(3)
    array([[0.125, 0.25 , 0.25 , 0.25 , 0.125]])
    """
    field = check_motion(motion)
    column, row = operator.index(x), operator.index(y)
    height, width = field.shape[:2]
    if not (0 <= column < width and 0 <= row < height):
        raise ValueError(f"pixel {column}, {row} is outside: x is from 0 to {width - 1}, y from 0 to {height - 1}")
    length, angle = to_polar(field[row, column].astype(np.float64))
    return linear_motion_kernel(float(length), float(angle))


def relative_error(motion: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return expected errors as shares of the lengths, those up to `STILL` taken as `STILL`.

    Parameters
    ----------
    motion : (H, W, 2) array
        Estimated motion in pixels.
    error : (H, W) array
        Expected size of the error of each vector, in pixels; see `ircdeblur.restore.estimate_motion`.

    Returns
    -------
    share : (H, W) float32 array

    Raises
    ------
    ValueError
        If the sizes differ, or an error is negative or not finite.
    """
    field, expected = check_motion(motion), np.asarray(error, dtype=np.float32)
    if expected.shape != field.shape[:2]:
        raise ValueError(f"error must have the motion's size {field.shape[:2]}, got {expected.shape}")
    if not (np.isfinite(expected).all() and (expected >= 0).all()):
        raise ValueError("error must be finite and >= 0")
    return expected / np.maximum(to_polar(field)[0], np.float32(STILL))


def confidence(motion: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return how far each vector is to be believed, in [0, 1]; parameters as `relative_error`.

    1 up to an expected error of `CERTAIN` times the length, 0 from `DOUBTFUL` times the length on, linear between.
    """
    return np.clip((DOUBTFUL - relative_error(motion, error)) / (DOUBTFUL - CERTAIN), 0, 1)


class MotionSummary(NamedTuple):
    """What a motion field is, in a few numbers.

    Attributes
    ----------
    moved : float
        Share of the frame with motions longer than `STILL`, in [0, 1]. The next six are of these pixels, and None if
        there are none.
    length, shortest, longest : float or None
        Median, 5th and 95th percentile of the length, in pixels.
    angle : float or None
        Mean direction in degrees [0, 180), longer motions counting more.
    spread : float or None
        Circular standard deviation of the angle in degrees; at most 52, that of angles without any common direction.
    sure : float or None
        Share whose expected error is at most `SURE` of the length, in [0, 1]; None if no errors were given.
    confidence : {"high", "medium", "low"} or None
        In words: at least 80 %, at least 50 %, or less of them are sure.
    error : float or None
        Median of the expected errors over the whole frame, in pixels; None if none were given.
    """

    moved: float
    length: float | None = None
    shortest: float | None = None
    longest: float | None = None
    angle: float | None = None
    spread: float | None = None
    sure: float | None = None
    confidence: Literal["high", "medium", "low"] | None = None
    error: float | None = None


def summarize(motion: np.ndarray, error: np.ndarray | None = None) -> MotionSummary:
    """Say in numbers what a motion field is.

    Parameters
    ----------
    motion : (H, W, 2) array
        Pixels; u right, v down.
    error : (H, W) array, optional
        Expected error of each vector in pixels, as `ircdeblur.restore.estimate_motion` returns it.
    """
    field = check_motion(motion)
    length = to_polar(field)[0]
    moved = length > STILL
    expected = None if error is None else float(np.median(error))
    if not moved.any():
        return MotionSummary(0.0, error=expected)
    mean = to_double_angle(field[moved].astype(np.float64)).mean(axis=0)
    together = min(float(np.hypot(*mean) / length[moved].mean(dtype=np.float64)), 1.0)
    spread = float(np.rad2deg(np.sqrt(2 * np.log(1 / max(together, 1e-9)))) / 2)
    shortest, median, longest = (float(n) for n in np.percentile(length[moved], (5, 50, 95)))
    found = MotionSummary(
        float(moved.mean()),
        median,
        shortest,
        longest,
        float(np.rad2deg(0.5 * np.arctan2(mean[1], mean[0])) % 180.0 % 180.0),
        min(spread, 180 / 12**0.5),
    )
    if error is None:
        return found
    sure = float((relative_error(field, error)[moved] <= SURE).mean())
    return found._replace(
        sure=sure, confidence="high" if sure >= 0.8 else "medium" if sure >= 0.5 else "low", error=expected
    )


def describe(motion: np.ndarray, error: np.ndarray | None = None) -> str:
    """Say in one line what a motion field is: typical length and angle, share of the frame that moved, confidence.

    Parameters as `summarize`, which gives the numbers; no confidence without `error`.
    """
    found = summarize(motion, error)
    if found.length is None:
        return "no motion found" + ("" if found.error is None else f", expected error {found.error:.1f} px")
    text = (
        f"median length {found.length:.1f} px ({found.shortest:.1f} to {found.longest:.1f}), "
        f"mean angle {round(found.angle or 0.0) % 180} degrees (spread {found.spread:.0f}), "
        f"{_percent(found.moved)} of the frame moved"
    )
    if found.sure is None:
        return text
    return (
        f"{text}, confidence {found.confidence} ({_percent(found.sure)} of that is sure, "
        f"expected error {found.error:.1f} px)"
    )


def _percent(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
