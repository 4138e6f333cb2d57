"""Point spread functions: checking, files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch


def check_psf(psf: Any) -> np.ndarray:
    """Return a uniform blur kernel as a float32 array with odd sides that sums to 1.

    An even side is padded by one line of zeros at its end, and a warning says so.

    Parameters
    ----------
    psf : (h, w) array_like or tensor
        Non-negative, finite, with a positive sum.

    Raises
    ------
    TypeError, ValueError
        Saying what was given and what is expected.
    """
    if isinstance(psf, torch.Tensor):
        psf = psf.detach().cpu().numpy()
    array = np.asarray(psf)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"psf must be an array of numbers, got dtype {array.dtype}")
    array = array.astype(np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"psf must be two-dimensional, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("psf contains NaN or infinity")
    if array.min() < 0:
        raise ValueError(f"psf must not be negative, its smallest value is {array.min():g}")
    if array.sum() <= 0:
        raise ValueError("psf sums to 0; it must have positive values")
    odd = tuple(n + (n + 1) % 2 for n in array.shape)
    if odd != array.shape:
        warnings.warn(
            f"psf of {array.shape[0]} x {array.shape[1]} padded to odd sides, {odd[0]} x {odd[1]}",
            stacklevel=2,
        )
        array = np.pad(array, [(0, o - n) for o, n in zip(odd, array.shape, strict=True)])
    return (array / array.sum()).astype(np.float32)


def middle_kernel(kernels: np.ndarray) -> np.ndarray:
    """Return a kernel (h, w), or of those of a grid of places (n, m, h, w) the one in the middle."""
    return kernels if kernels.ndim == 2 else kernels[kernels.shape[0] // 2, kernels.shape[1] // 2]


def kernel_sheet(kernels: np.ndarray) -> np.ndarray:
    """Return a kernel (h, w), or those of a grid of places (n, m, h, w) beside each other, an empty line between."""
    if kernels.ndim == 2:
        return kernels
    n, m, h, w = kernels.shape
    apart = np.pad(kernels, ((0, 0), (0, 0), (0, 1), (0, 1)))
    return apart.transpose(0, 2, 1, 3).reshape(n * (h + 1), m * (w + 1))[:-1, :-1]


def read_psf(path: str | Path) -> np.ndarray:
    """Read a blur kernel: a picture (``.png``, ``.tif``), ``.npy``, or ``.mat`` (its first two-dimensional array).

    Returns
    -------
    psf : (h, w) float32 array
        With odd sides, summing to 1; see `check_psf`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it holds no kernel.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no psf file: {path}")
    suffix = path.suffix.lower()
    try:
        if suffix in (".png", ".tif", ".tiff"):
            import pyvips

            image = pyvips.Image.new_from_file(str(path), fail_on="truncated")
            if image.hasalpha():
                image = image.flatten()
            array = np.asarray(image.numpy(), dtype=np.float64)
            array = array.mean(-1) if array.ndim == 3 else array
        elif suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        elif suffix == ".mat":
            import scipy.io

            found = [v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__") and np.ndim(v) == 2]
            found = [v for v in found if v.size > 1 and v.dtype.kind in "fiu"]
            if not found:
                raise ValueError("no two-dimensional array in it")
            array = found[0]
        else:
            raise ValueError("use .png, .tif, .npy or .mat")
    except Exception as error:  # Each reader has errors of its own; for the user they are one.
        raise ValueError(f"not a readable psf file: {path} ({str(error).strip().splitlines()[0]})") from error
    return check_psf(array)


def write_psf(path: str | Path, psf: Any, kind: str | None = None) -> None:
    """Write a blur kernel so that `read_psf` and others can read it.

    Parameters
    ----------
    path : path
        The file; it is overwritten.
    psf : (h, w) array_like or tensor
        As for `check_psf`.
    kind : {".npy", ".tif", ".tiff", ".png"}, optional
        The format; taken from the path's suffix if not given. Float32 of sum 1, but ``.png`` is 16-bit grey with the
        largest weight at 65535: the sum is lost (and restored on reading), and weights are rounded.

    Raises
    ------
    TypeError, ValueError
        Saying what was given and what is expected.
    """
    kind = (kind or Path(path).suffix).lower()
    array = check_psf(psf)
    if kind == ".npy":
        with open(path, "wb") as file:
            np.save(file, array)
    elif kind in (".png", ".tif", ".tiff"):
        import pyvips

        if kind == ".png":
            array = np.round(array / array.max() * 65535).astype(np.uint16)
        image = pyvips.Image.new_from_array(array).copy(interpretation="grey16" if kind == ".png" else "b-w")
        Path(path).write_bytes(image.write_to_buffer(kind))
    else:
        raise ValueError(f"unknown kind of psf file: {kind!r}; use .png, .tif or .npy")
