"""Inverse filters of finite support (Eqs. 10 to 14 of the paper), their bank, and how fast they contract.

The x-update of ADMM is ``min_x sum_i ||k_i * x - z_i||^2`` with ``k_0 = k / sqrt(rho)`` and prior filters
``k_1, ..., k_n``. Inverse filters ``d_i`` with ``sum_i d_i * k_i = delta`` solve it by iterated residual
compensation (Algorithm 2.1), ``x <- x + sum_i d_i * (z_i - k_i * x)``, which converges where the contraction
number, the largest ``|1 - sum_i D_i K_i|`` over the frequencies, is below 1. ``*`` is convolution; filters
have odd sides and are centred on their middle element.

References
----------
T. Eboli, J. Sun, J. Ponce, "Neural Embedding of an Iterative Deconvolution Algorithm for Motion Blur
Estimation and Removal", section 2.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor

from ircdeblur.kernels import ANGLES, LENGTHS, MAX_LENGTH, MotionBank, linear_motion_kernel
from ircdeblur.motion import NO_BLUR_LENGTH, Weights, bank_interpolation

__all__ = [
    "BANK_SUPPORT",
    "InverseBank",
    "contraction",
    "default_support",
    "gradient_filters",
    "inverse_filters",
]

Filter: TypeAlias = "NDArray[Any] | Tensor"
Against = Literal["continuous", "interpolated"]

RIDGE = 1e-4
"""eps of (Q Q' + eps I)^-1. The border rows of Q Q' are nearly dependent; without a ridge rounding wins once
the iteration has converged (horizontal motions of 35 px diverge after some 600 steps), and a smaller one gives
diverging filters on supports that are too small for exact ones (contraction number 1.7 for 35 px on 21 x 21 with
1e-6, 0.47 with this; 1.7 between the motions of a bank on 31 x 31 with 1e-5, 0.81 with this). It costs
|1 - sum_i D_i K_i| up to 7e-3 at 35 px, as much as stopping early does."""

SHORT_MOTION_PENALTY = 0.03
"""Least rho for which the bank's filters of the 3 px motions are made. At the highest frequencies the kernel
of 3 px is negative and that of 1 px positive, and for a small rho the average of their inverses diverges
between them (contraction number 1.01 at rho 0.01, 1.26 at 0.005). Made for this rho and rescaled, the filters
are as exact and the numbers are 0.77 and 0.95."""

BANK_SUPPORT = 47
"""Default support of the bank's filters: the least that is exact for 35 px."""

_CACHE_FORMAT = "1"
"""Part of a cached bank's name. To be raised whenever the filters or their file change."""

_bank = MotionBank()


def gradient_filters() -> list[NDArray[np.float64]]:
    """Return the default prior filters, the differences x(i, j) - x(i, j-1) and x(i, j) - x(i-1, j).

    Returns
    -------
    list of ndarray
        Two float64 convolution filters of shapes (1, 3) and (3, 1), whose middle element is the origin.
    """
    horizontal = np.array([[0.0, 1.0, -1.0]])
    return [horizontal, horizontal.T.copy()]


def default_support(psf: Filter) -> int:
    """Return the side of the inverse filters that `inverse_filters` takes for a psf, in pixels.

    Twice the kernel's side (without its rim of zeros) plus one, and at least 31. With two gradient filters the
    equations can be solved exactly from 1.37 times the kernel's side on; the noise amplification sum_i ||d_i||^2
    still falls by up to a third from there to twice the side, and by about a tenth beyond.

    Parameters
    ----------
    psf : (kh, kw) or (N, kh, kw) array or tensor
        One or several blur kernels with odd sides; the side of the largest counts.

    Returns
    -------
    int
        Odd.
    """
    return max(2 * _side(_check_psf(psf)) + 1, 31)


def inverse_filters(
    psf: Filter,
    rho: float,
    support: int | None = None,
    prior: Sequence[Filter] | None = None,
    *,
    ridge: float = RIDGE,
    tolerance: float = 5e-4,
    max_iterations: int = 1000,
) -> Tensor:
    """Compute the inverse filters of smallest norm, d = Q' (Q Q' + eps I)^-1 delta (Eqs. 12 to 14).

    Parameters
    ----------
    psf : (kh, kw) or (N, kh, kw) array or tensor
        One or several blur kernels: finite, odd sides, positive sum (without it nothing restores the mean).
    rho : float
        Penalty of ADMM, positive; k_0 = psf / sqrt(rho).
    support : int, optional
        Side wf of the filters in pixels, odd. By default `default_support`.
    prior : sequence of n (h, w) arrays or tensors, optional
        The filters k_1, ..., k_n with odd sides; at least one. By default `gradient_filters`.
    ridge : float
        eps, not negative.
    tolerance : float
        Stop when the 2-norm of delta - (Q Q' + eps I) lambda is below this; it is the root mean square of
        1 - sum_i D_i K_i over the frequencies, whose maximum is some 10 times as large.
    max_iterations : int
        Stop after so many iterations at the latest.

    Returns
    -------
    filters : (n + 1, wf, wf) or (N, n + 1, wf, wf) tensor
        Float32, d_0 (for the residual z_0 - k_0 * x) first. Computed in float64 on the CPU, returned on the
        device of `psf`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    Notes
    -----
    Q is a sum of convolutions, so no matrix is formed: (Q Q' + eps I) lambda = delta is solved by conjugate
    gradients, preconditioned with the solution for infinite support, 1 / (sum_i |K_i|^2 + eps) in the Fourier
    domain. They start from 0 and so tend to the smallest norm.

    The support of a prior filter's d_i is symmetric about the point opposite to the middle of k_i's taps: for
    the one-sided differences one line of the wf x wf array is zero. A mirrored or transposed psf then has
    mirrored or transposed filters.
    """
    psfs = _check_psf(psf)
    priors = _check_prior(prior)
    _check_positive("rho", rho)
    support = default_support(psfs) if support is None else _check_odd("support", support)
    if not (math.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge must be a finite number, at least 0, got {ridge}")
    _check_positive("tolerance", tolerance)
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")

    solved = [
        _least_norm([kernel / math.sqrt(rho), *priors], support, ridge, tolerance, max_iterations) for kernel in psfs
    ]
    filters = torch.from_numpy(np.stack(solved)).float()
    if isinstance(psf, Tensor):
        filters = filters.to(psf.device)
    return filters if psf.ndim == 3 else filters[0]


def contraction(
    psf: Filter,
    filters: Filter,
    rho: float,
    prior: Sequence[Filter] | None = None,
    n_fft: int | None = None,
) -> float:
    """Return the contraction number, the largest |1 - sum_i D_i K_i| over the frequencies.

    The error of the residual iteration shrinks by this factor in each step, away from borders (the paper's
    proposition); at 1 and above it diverges.

    Parameters
    ----------
    psf : (kh, kw) array or tensor
        Blur kernel, odd sides.
    filters : (n + 1, wf, wf) array or tensor
        Inverse filters, made for this or another psf.
    rho : float
        Penalty of ADMM; k_0 = psf / sqrt(rho).
    prior : sequence of n (h, w) arrays or tensors, optional
        By default `gradient_filters`.
    n_fft : int, optional
        Frequencies per axis, at least the side of sum_i d_i * k_i. By default twice that: the true maximum is
        then at most twice the sampled one (a factor 1 / cos(pi / 4) per axis [1]_), and closer in practice.

    Returns
    -------
    float

    Raises
    ------
    TypeError, ValueError
        If an argument is not as described.

    References
    ----------
    .. [1] H. Ehlich, K. Zeller, "Schwankung von Polynomen zwischen Gitterpunkten", Mathematische Zeitschrift
       86, 1964.
    """
    kernels = _check_psf(psf)
    if psf.ndim != 2:
        raise ValueError(f"psf must have shape (kh, kw), got {tuple(psf.shape)}")
    kernel = kernels[0]
    priors = _check_prior(prior)
    _check_positive("rho", rho)
    d = _check_numbers("filters", filters)
    if d.ndim != 3 or d.shape[0] != len(priors) + 1 or d.shape[1] % 2 == 0 or d.shape[2] % 2 == 0:
        raise ValueError(f"filters must have shape ({len(priors) + 1}, wf, wf) with odd wf, got {d.shape}")
    k = [kernel / math.sqrt(rho), *priors]
    side = max(d.shape[-2:]) + max(max(f.shape) for f in k) - 1
    if n_fft is None:
        n_fft = 2 * side
    elif n_fft < side:
        raise ValueError(f"n_fft must be at least {side}, the side of sum_i d_i * k_i, got {n_fft}")
    size = (n_fft, n_fft)
    product = sum(
        scipy.fft.rfft2(_wrapped(a, size)) * scipy.fft.rfft2(_wrapped(b, size)) for a, b in zip(d, k, strict=True)
    )
    return float(np.abs(1 - product).max())


class InverseBank:
    """Inverse filters of the 511 motions of `ircdeblur.kernels.MotionBank`; the prior is the two gradients.

    Parameters
    ----------
    filters : (511, 3, wf, wf) tensor
        In the order of the bank's motions.
    rho : float
        Penalty of ADMM that they belong to.

    Notes
    -----
    With support 47 and bilinear interpolation the contraction number is below 0.01 at the bank's motions for
    rho from 0.005 on. Between them, against the continuous kernels, the largest is 0.97 at rho 0.005, 0.80 at
    0.01, 0.75 at 0.02, 0.64 at 0.05; at 0.002 it is 1.24 and the iteration diverges for some motions.

    All motions are turned and mirrored copies of the 137 at 0 to 42 degrees, and so are their filters; only
    those are computed and stored.
    """

    def __init__(self, filters: Tensor, rho: float) -> None:
        if filters.ndim != 4 or filters.shape[:2] != (len(_bank), 3) or filters.shape[2] != filters.shape[3]:
            raise ValueError(f"filters must have shape ({len(_bank)}, 3, wf, wf), got {tuple(filters.shape)}")
        _check_positive("rho", rho)
        self.filters, self.rho = filters, rho

    @property
    def support(self) -> int:
        """Side of the filters in pixels."""
        return int(self.filters.shape[-1])

    @classmethod
    def compute(cls, rho: float, support: int = BANK_SUPPORT) -> InverseBank:
        """Compute the bank; some five seconds on one core for the default support.

        Parameters
        ----------
        rho : float
            Penalty of ADMM, positive.
        support : int
            Side of the filters in pixels, odd, at least 3.

        Returns
        -------
        InverseBank
            Float32, on the CPU.
        """
        _check_bank(rho, support)
        return cls(_unfold(_compute_folded(rho, support)), rho)

    @classmethod
    def load(cls, rho: float = 0.01, support: int = BANK_SUPPORT, cache_dir: str | Path | None = None) -> InverseBank:
        """Return the bank from memory or from the disk cache, or compute it and put it there.

        Parameters
        ----------
        rho : float
            Penalty of ADMM, positive.
        support : int
            Side of the filters in pixels, odd, at least 3.
        cache_dir : path, optional
            Folder of the cache. By default the user's cache folder of ircdeblur.

        Returns
        -------
        InverseBank
            Float32, on the CPU. It is shared by all callers: not to be changed in place.

        Warns
        -----
        RuntimeWarning
            If a cached file is damaged (it is computed and written anew) or the folder cannot be written to.
        """
        _check_bank(rho, support)
        if cache_dir is None:
            import platformdirs

            cache_dir = platformdirs.user_cache_dir("ircdeblur")
        return _load(float(rho), int(support), Path(cache_dir).absolute())

    def to(self, *args: Any, **kwargs: Any) -> InverseBank:
        """Return the bank on another device or in another precision; arguments as for `torch.Tensor.to`."""
        return InverseBank(self.filters.to(*args, **kwargs), self.rho)

    def filters_at(self, length: Tensor, angle: Tensor, weights: Weights = "bilinear") -> Tensor:
        """Return the averaged inverse filters of the four motions of the bank next to each motion (Eq. 17).

        Filtering is linear, so filtering with the average is the average of the four filtered images.

        Parameters
        ----------
        length, angle : (N,) tensors
            Pixels and degrees. Lengths up to 1 have the filters of no blur, those above 35 are taken as 35.
        weights : {"bilinear", "softmax"}
            See `ircdeblur.motion.bank_interpolation`. Only "bilinear" is exact on the bank's motions.

        Returns
        -------
        filters : (N, 3, wf, wf) tensor
            On the bank's device, differentiable in length and angle.
        """
        if length.ndim != 1 or length.shape != angle.shape:
            raise ValueError(
                f"length and angle must have shape (N,), got {tuple(length.shape)} and {tuple(angle.shape)}"
            )
        indices, share = _neighbours(length, angle, weights)
        indices, share = indices.to(self.filters.device), share.to(self.filters)
        result = torch.zeros((len(length), *self.filters.shape[1:]), dtype=share.dtype, device=share.device)
        for k in range(4):
            result = result + share[:, k, None, None, None] * self.filters[indices[:, k]]
        return result

    def contraction(
        self,
        length: Tensor,
        angle: Tensor,
        weights: Weights = "bilinear",
        against: Against = "continuous",
        n_fft: int | None = None,
    ) -> Tensor:
        """Return the contraction number of the averaged filters of `filters_at` for each motion.

        Parameters
        ----------
        length, angle : (N,) tensors
            Pixels and degrees.
        weights : {"bilinear", "softmax"}
            Of the interpolation.
        against : {"continuous", "interpolated"}
            The blur: the linear motion's own kernel, or the average of the kernels of the same four motions.
        n_fft : int, optional
            Frequencies per axis, at least wf + 34; by default twice that, as for the function `contraction`.

        Returns
        -------
        numbers : (N,) tensor
            Float32 on the CPU; see `contraction`.
        """
        if against not in get_args(Against):
            raise ValueError(f"against must be 'continuous' or 'interpolated', got {against!r}")
        least = self.support + MAX_LENGTH - 1
        n = scipy.fft.next_fast_len(2 * least, real=True) if n_fft is None else n_fft
        if n < least:
            raise ValueError(f"n_fft must be at least {least}, the side of sum_i d_i * k_i, got {n}")
        length, angle = length.detach().cpu(), angle.detach().cpu()
        prior = [scipy.fft.rfft2(_wrapped(g, (n, n))) for g in gradient_filters()]
        numbers = []
        for some_lengths, some_angles in zip(length.split(64), angle.split(64), strict=True):
            filters = self.filters_at(some_lengths, some_angles, weights).detach().cpu().double().numpy()
            indices, share = (t.numpy() for t in _neighbours(some_lengths, some_angles, weights))
            for i, d in enumerate(filters):
                if against == "continuous":
                    kernel = linear_motion_kernel(min(float(some_lengths[i]), MAX_LENGTH), float(some_angles[i]))
                else:
                    kernel = np.einsum("k,kij->ij", share[i], _bank.kernels[indices[i]])
                k = [scipy.fft.rfft2(_wrapped(kernel, (n, n))) / math.sqrt(self.rho), *prior]
                product = sum(scipy.fft.rfft2(_wrapped(f, (n, n))) * s for f, s in zip(d, k, strict=True))
                numbers.append(np.abs(1 - product).max())
        return torch.tensor(numbers, dtype=torch.float32)


def _neighbours(length: Tensor, angle: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """Return (N, 4) indices into the bank and their weights; motions without blur have motion 0 only."""
    indices, share = bank_interpolation(length, angle, weights)
    still = (length <= NO_BLUR_LENGTH)[..., None]
    return torch.where(still, 0, indices), torch.where(still, 0.25, share)


def _least_norm(
    kernels: Sequence[NDArray[np.float64]], support: int, ridge: float, tolerance: float, max_iterations: int
) -> NDArray[np.float64]:
    """Return d = Q' (Q Q' + ridge I)^-1 delta, (n + 1, wf, wf), for kernels k_0, ..., k_n."""
    half = support // 2
    taps = [(_extent(k, 0), _extent(k, 1)) for k in kernels]
    # As large as the sum of the convolutions d_i * k_i, so that nothing wraps around.
    reach = [max(0, *(t[a][1] for t in taps)) - min(0, *(t[a][0] for t in taps)) for a in (0, 1)]
    size = (
        scipy.fft.next_fast_len(support + reach[0], True),
        scipy.fft.next_fast_len(support + reach[1], True),
    )

    # SciPy's transforms: torch's share these small ones among threads, which costs more than it saves.
    k = scipy.fft.rfft2(np.stack([_wrapped(kernel, size) for kernel in kernels]))
    k_conj = k.conj()
    inside = np.zeros((len(kernels), *size))
    for i, extent in enumerate(taps):
        # The psf's own filter uses the whole square.
        middle = (0, 0) if i == 0 else (sum(extent[0]), sum(extent[1]))
        rows, columns = (
            np.arange(-half + max(0, -m), half - max(0, m) + 1) % n for m, n in zip(middle, size, strict=True)
        )
        inside[i, rows[:, None], columns] = 1

    # Sums over the half spectrum count its inner columns twice.
    count = np.full(size[1] // 2 + 1, 2.0)
    count[0] = 1
    if size[1] % 2 == 0:
        count[-1] = 1
    count /= size[0] * size[1]

    def dot(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> float:
        return float(np.einsum("ij,ij,j->", a.real, b.real, count) + np.einsum("ij,ij,j->", a.imag, b.imag, count))

    def adjoint(spectrum: NDArray[np.complex128]) -> NDArray[np.float64]:
        filters = scipy.fft.irfft2(k_conj * spectrum, s=size, overwrite_x=True)
        filters *= inside
        return np.asarray(filters)

    precondition = 1 / np.maximum((k.real**2 + k.imag**2).sum(0) + ridge, np.finfo(np.float64).tiny)
    residual = np.ones_like(k[0])
    multiplier = np.zeros_like(residual)
    preconditioned = precondition * residual
    direction, energy = preconditioned, dot(residual, preconditioned)
    for _ in range(max_iterations):
        image = (k * scipy.fft.rfft2(adjoint(direction), overwrite_x=True)).sum(0) + ridge * direction
        curvature = dot(direction, image)
        if not curvature > 0:  # Converged to rounding.
            break
        step = energy / curvature
        multiplier += step * direction
        residual -= step * image
        if dot(residual, residual) <= tolerance**2:
            break
        preconditioned = precondition * residual
        previous, energy = energy, dot(residual, preconditioned)
        direction = preconditioned + (energy / previous) * direction
    return np.roll(adjoint(multiplier), (half, half), (1, 2))[:, :support, :support]


def _extent(kernel: NDArray[np.float64], axis: int) -> tuple[int, int]:
    """Return the first and last offset from the middle of the lines that are not zero."""
    lines = np.flatnonzero(kernel.any(1 - axis)) - kernel.shape[axis] // 2
    return int(lines[0]), int(lines[-1])


def _side(psfs: NDArray[np.float64]) -> int:
    """Return the side of the least square about the middle element with all non-zeros of (N, kh, kw) psfs."""
    union = np.abs(psfs).sum(0)
    return 1 + 2 * max(abs(offset) for axis in (0, 1) for offset in _extent(union, axis))


def _wrapped(kernel: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the kernel on a periodic grid, its middle element at index (0, 0)."""
    rows, columns = ((np.arange(n) - n // 2) % m for n, m in zip(kernel.shape, size, strict=True))
    grid = np.zeros(size)
    np.add.at(grid, (rows[:, None], columns), kernel)
    return grid


# The bank: 0 to 42 degrees are computed, the other angles are copies.

_FOLDED = [0] + [_bank.index(i, j) for i in range(1, len(LENGTHS)) for j in range(8)]
"""The motions whose filters are computed."""


def _compute_folded(rho: float, support: int) -> Tensor:
    """Return the (137, 3, wf, wf) filters of the motions `_FOLDED`."""

    def filters(motion: int) -> Tensor:
        length, angle = _bank.motions[motion]
        design = max(rho, SHORT_MOTION_PENALTY) if length == LENGTHS[1] else rho
        solved = inverse_filters(linear_motion_kernel(length, angle), design, support)
        # sum_i d_i * k_i = delta does not depend on rho when d_0 is taken per unit of z_0.
        solved[0] *= math.sqrt(rho / design)
        return solved

    return torch.stack([filters(motion) for motion in _FOLDED])


def _unfold(folded: Tensor) -> Tensor:
    """Return the (511, 3, wf, wf) filters of all motions from those of `_FOLDED`."""
    steps = len(ANGLES)
    filters = folded.new_empty(len(_bank), *folded.shape[1:])
    for base, motion in zip(folded, _FOLDED, strict=True):
        if motion == 0:
            filters[0] = base
            continue
        i_length, j = 1 + (motion - 1) // steps, (motion - 1) % steps
        turned = _transpose(base)
        # The mirror images come first: those of 0 and 90 degrees are these motions themselves.
        filters[_bank.index(i_length, steps - j)] = _mirror(base)
        filters[_bank.index(i_length, steps // 2 + j)] = _mirror(turned)
        filters[_bank.index(i_length, j)] = base
        filters[_bank.index(i_length, steps // 2 - j)] = turned
    return filters


def _transpose(filters: Tensor) -> Tensor:
    """Return the filters of the transposed psf: angle 90 - a."""
    return filters.transpose(1, 2)[[0, 2, 1]]


def _mirror(filters: Tensor) -> Tensor:
    """Return the filters of the psf mirrored left to right: angle 180 - a.

    The mirrored horizontal difference is minus the difference, one pixel further left.
    """
    mirrored = filters.flip(2)
    mirrored[1] = -mirrored[1].roll(-1, 1)
    return mirrored


# The disk cache.


@functools.lru_cache(maxsize=4)
def _load(rho: float, support: int, folder: Path) -> InverseBank:
    path = folder / f"inverse-bank-{_CACHE_FORMAT}-rho{rho!r}-support{support}.safetensors"
    folded = _read_cache(path, support)
    if folded is None:
        folded = _compute_folded(rho, support)
        try:
            _write_cache(path, folded)
        except OSError as error:
            warnings.warn(
                f"inverse filters cannot be cached in {folder} ({error.strerror or error}); "
                "they are computed anew in each process",
                RuntimeWarning,
                stacklevel=3,
            )
    return InverseBank(_unfold(folded), rho)


def _digest(filters: Tensor) -> str:
    return hashlib.sha256(filters.numpy().tobytes()).hexdigest()


def _read_cache(path: Path, support: int) -> Tensor | None:
    """Return the filters in a file, or None (with a warning) where it is damaged."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            filters, digest = file.get_tensor("filters"), file.metadata()["sha256"]
        if filters.shape == (len(_FOLDED), 3, support, support) and _digest(filters) == digest:
            return filters
        reason = "its checksum or shape is wrong"
    except Exception as error:  # Errors of safetensors share no base class with those of missing entries.
        reason = str(error)
    warnings.warn(f"damaged cache file {path} ({reason}); it is computed anew", RuntimeWarning, stacklevel=4)
    return None


def _write_cache(path: Path, filters: Tensor) -> None:
    """Write a file in one step: other processes see all of it or nothing."""
    from safetensors.torch import save

    data = save({"filters": filters}, {"sha256": _digest(filters)})
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# Checks of arguments.


def _check_psf(psf: Filter) -> NDArray[np.float64]:
    """Return the psf as an array (N, kh, kw)."""
    psfs = _check_numbers("psf", psf)
    if psfs.ndim not in (2, 3) or psfs.shape[-1] % 2 == 0 or psfs.shape[-2] % 2 == 0 or psfs.size == 0:
        raise ValueError(f"psf must have shape (kh, kw) or (N, kh, kw) with odd sides, got {psfs.shape}")
    if not (psfs.sum((-2, -1)) > 0).all():
        raise ValueError("psf must have a positive sum")
    return psfs.reshape(-1, *psfs.shape[-2:])


def _check_prior(prior: Sequence[Filter] | None) -> list[NDArray[np.float64]]:
    """Return the prior filters as arrays."""
    filters = [_check_numbers("prior", f) for f in (gradient_filters() if prior is None else prior)]
    if not filters:
        raise ValueError("prior must have at least one filter")
    for f in filters:
        if f.ndim != 2 or f.shape[0] % 2 == 0 or f.shape[1] % 2 == 0:
            raise ValueError(f"a prior filter must have shape (h, w) with odd sides, got {f.shape}")
        if not f.any():
            raise ValueError("a prior filter must not be zero everywhere")
    return filters


def _check_numbers(name: str, values: Filter) -> NDArray[np.float64]:
    if not isinstance(values, (np.ndarray, Tensor)):
        raise TypeError(f"{name} must be an array or a tensor, got {type(values).__name__}")
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return array


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a positive number, got {value}")


def _check_odd(name: str, value: int) -> int:
    if value < 1 or value % 2 == 0:
        raise ValueError(f"{name} must be a positive odd number, got {value}")
    return int(value)


def _check_bank(rho: float, support: int) -> None:
    _check_positive("rho", rho)
    if _check_odd("support", support) < 3:
        raise ValueError(f"support must be at least 3, got {support}")
