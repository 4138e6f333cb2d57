"""How close two images, or two motion fields, are.

Every function takes the tested array first and the true one second, computes in float64, and refuses arrays
whose shapes differ and values that are not finite. Ranges are stated by the caller and never read off the
data: a range taken from the picture at hand gives figures that cannot be compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from skimage.metrics import structural_similarity

__all__ = ["angle_error", "end_point_error", "motion_mse", "psnr", "ssim"]

SSIM_WINDOW = 11
"""Side in pixels of the Gaussian window of `ssim`: 2 * round(3.5 * sigma) + 1 with sigma 1.5."""

Float64Array = NDArray[np.float64]


def psnr(a: ArrayLike, b: ArrayLike, data_range: float = 1.0, border: int = 0) -> float:
    """Peak signal-to-noise ratio, 10 log10(data_range² / mean squared difference).

    Parameters
    ----------
    a, b : array_like
        Images of one shape, (H, W) or (H, W, C). Values are compared as they are: clip to [0, data_range]
        first where the comparison asks for it, as the tables of the paper do.
    data_range : float
        Distance between the smallest and the largest possible value: 1 for floats in [0, 1], 255 for uint8.
    border : int
        Pixels left out on each side, for instance half the side of a blur kernel.

    Returns
    -------
    float
        Decibels; infinity if the images are equal.

    Raises
    ------
    ValueError
        If the shapes differ or are no image's, a value is not finite, nothing is left within the border,
        `data_range` is not positive, or integers exceed it (uint8 images compared on the scale of floats).
    TypeError
        If the arrays do not hold real numbers.

    Examples
    --------
    >>> round(psnr([[0.5, 0.5]], [[0.4, 0.6]]), 6)
    20.0
    """
    x, y = _images(a, b, data_range)
    if border < 0 or min(x.shape[:2]) <= 2 * border:
        raise ValueError(
            f"psnr: border={border} leaves no pixel of an image of {x.shape[0]} x {x.shape[1]}; "
            "expected 0 <= border < half of the shorter side"
        )
    inside = np.s_[border : x.shape[0] - border, border : x.shape[1] - border]
    mse = float(np.mean((x[inside] - y[inside]) ** 2))
    return float(10 * np.log10(data_range**2 / mse)) if mse > 0 else float("inf")


def ssim(a: ArrayLike, b: ArrayLike, data_range: float = 1.0) -> float:
    """Structural similarity with a Gaussian window of 11 x 11 pixels, sigma 1.5, and population covariances.

    Parameters
    ----------
    a, b : array_like
        Images of one shape, (H, W) or (H, W, C), both sides at least 11. With channels, the mean over them.
    data_range : float
        Distance between the smallest and the largest possible value: 1 for floats in [0, 1], 255 for uint8.

    Returns
    -------
    float
        In [-1, 1]; 1 if the images are equal.

    Raises
    ------
    ValueError
        If the shapes differ or are no image's, a side is shorter than 11, a value is not finite, `data_range`
        is not positive, or integers exceed it.
    TypeError
        If the arrays do not hold real numbers.

    References
    ----------
    Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli, "Image quality assessment: from error visibility
    to structural similarity", IEEE Transactions on Image Processing 13(4), 2004. K1 = 0.01 and K2 = 0.03 as
    there.
    """
    x, y = _images(a, b, data_range)
    if min(x.shape[:2]) < SSIM_WINDOW:
        raise ValueError(
            f"ssim: got an image of {x.shape[0]} x {x.shape[1]}; "
            f"expected sides of at least {SSIM_WINDOW} pixels, the size of the window"
        )
    return float(
        structural_similarity(
            x,
            y,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=-1 if x.ndim == 3 else None,
        )
    )


def motion_mse(pred: ArrayLike, true: ArrayLike) -> float:
    """Mean over the pixels of ((u - u')² + (v - v')²) / 2, the sign of each vector chosen for the better.

    m and -m smear a pixel alike, so each pixel counts with the smaller of its two errors. That the sum over u
    and v is halved is assumed: the paper names its source, whose script is not public.

    Parameters
    ----------
    pred, true : array_like
        Motion fields (H, W, 2) in pixels: u to the right, v down.

    Returns
    -------
    float
        Square pixels, >= 0.

    Raises
    ------
    ValueError
        If the shapes differ or are not (H, W, 2), or a value is not finite.
    TypeError
        If the arrays do not hold real numbers.

    Examples
    --------
    >>> motion_mse([[[3.0, 4.0]]], [[[-3.0, -2.0]]])
    2.0
    """
    return float(np.mean(_squared_error(*_motions(pred, true)))) / 2


def end_point_error(pred: ArrayLike, true: ArrayLike) -> tuple[float, Float64Array]:
    """Distance between the ends of predicted and true motion vectors, the sign of each chosen for the better.

    Parameters
    ----------
    pred, true : array_like
        Motion fields (H, W, 2) in pixels: u to the right, v down.

    Returns
    -------
    mean : float
        Mean over the pixels, in pixels.
    per_pixel : ndarray
        (H, W) float64, in pixels, >= 0.

    Raises
    ------
    ValueError
        If the shapes differ or are not (H, W, 2), or a value is not finite.
    TypeError
        If the arrays do not hold real numbers.
    """
    per_pixel = np.sqrt(_squared_error(*_motions(pred, true)))
    return float(np.mean(per_pixel)), per_pixel


def angle_error(pred: ArrayLike, true: ArrayLike) -> tuple[float, Float64Array]:
    """Angle between the predicted and the true line of motion, modulo 180 degrees.

    A motion of length <= 1 is no blur and has no direction. Pixels where either field holds such a motion are
    left out of the mean; how much they are wrong is what `end_point_error` says.

    Parameters
    ----------
    pred, true : array_like
        Motion fields (H, W, 2) in pixels: u to the right, v down.

    Returns
    -------
    mean : float
        Mean in degrees over the pixels that have an angle in both fields; NaN if there is none.
    per_pixel : ndarray
        (H, W) float64 in [0, 90] degrees, NaN where either field has no angle.

    Raises
    ------
    ValueError
        If the shapes differ or are not (H, W, 2), or a value is not finite.
    TypeError
        If the arrays do not hold real numbers.
    """
    p, t = _motions(pred, true)
    cross = np.abs(p[..., 0] * t[..., 1] - p[..., 1] * t[..., 0])
    dot = np.abs(np.sum(p * t, axis=-1))
    # atan2 of |sin| and |cos| folds m onto -m, and unlike arccos keeps its precision at small angles.
    per_pixel = np.degrees(np.arctan2(cross, dot))
    defined = (np.hypot(p[..., 0], p[..., 1]) > 1) & (np.hypot(t[..., 0], t[..., 1]) > 1)
    mean = float(np.mean(per_pixel[defined])) if defined.any() else float("nan")
    return mean, np.where(defined, per_pixel, np.nan)


def _squared_error(pred: Float64Array, true: Float64Array) -> Float64Array:
    """Squared distance per pixel, (H, W), to the nearer of `true` and `-true`, both (H, W, 2)."""
    return np.minimum(np.sum((pred - true) ** 2, axis=-1), np.sum((pred + true) ** 2, axis=-1))


def _images(a: ArrayLike, b: ArrayLike, data_range: float) -> tuple[Float64Array, Float64Array]:
    if not (np.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range={data_range}; expected a positive number")
    for image in (np.asarray(a), np.asarray(b)):
        if image.dtype.kind in "iu" and image.size and np.max(image) > data_range:
            raise ValueError(
                f"got {image.dtype} values up to {np.max(image)} with data_range={data_range:g}; "
                "expected data_range=255 for 8-bit images, 65535 for 16-bit ones, or floats in [0, 1]"
            )
    x, y = _pair(a, b)
    if x.ndim not in (2, 3):
        raise ValueError(f"got images of shape {x.shape}; expected (H, W) or (H, W, C)")
    return x, y


def _motions(pred: ArrayLike, true: ArrayLike) -> tuple[Float64Array, Float64Array]:
    p, t = _pair(pred, true)
    if p.ndim != 3 or p.shape[2] != 2:
        raise ValueError(f"got motion fields of shape {p.shape}; expected (H, W, 2), the last axis (u, v)")
    return p, t


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Float64Array, Float64Array]:
    """Both as float64, of one shape, not empty, finite."""
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape:
        raise ValueError(f"got shapes {first.shape} and {second.shape}; expected one shape for both")
    if first.size == 0:
        raise ValueError(f"got arrays of shape {first.shape}; expected at least one pixel")
    for which, array in (("first", first), ("second", second)):
        if array.dtype.kind not in "biuf":
            raise TypeError(f"the {which} array holds {array.dtype}; expected real numbers")
        bad = int(np.count_nonzero(~np.isfinite(array)))
        if bad:
            raise ValueError(f"the {which} array holds {bad} NaN or infinite values; expected finite ones")
    return first.astype(np.float64), second.astype(np.float64)
