"""Blur operators: `UniformBlur` by one kernel, `MotionBlur` by the linear motion of each pixel.

Each has ``A``, from the sharp image to the blurred one, and ``A_adjoint``, its exact transpose. Images are
tensors of size (B, C, H, W), where B is the batch size and C the number of channels; the blurred image is the
frame. Blur is convolution, differentiable in the image and in its kernel or motion.

A blur reads pixels outside the frame. With the boundary ``"extended"`` these pixels exist: ``A`` maps a
larger sharp image, with a margin of (my, mx) pixels around the frame, to the frame. With ``"replicate"``,
``"reflect"`` (the edge pixel is not repeated) and ``"circular"`` they repeat pixels of the frame, and ``A``
maps frames to frames.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import scipy.fft
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ircdeblur.kernels import MAX_LENGTH, MotionBank, half_sizes, half_taps, steps_needed
from ircdeblur.motion import bank_interpolation

__all__ = ["Boundary", "Interpolation", "MotionBlur", "UniformBlur", "motion_reach", "pad", "pad_adjoint"]

Boundary = Literal["extended", "replicate", "reflect", "circular"]
Interpolation = Literal["continuous", "softmax", "bilinear"]

_BANK = MotionBank()


def motion_reach(motion: Tensor) -> tuple[int, int]:
    """Return how many rows above and below, and columns beside a pixel `MotionBlur` reads, at the boundary "extended".

    Parameters
    ----------
    motion : Tensor
        Motion vectors (..., 2) in pixels.
    """
    rows, columns = half_sizes(*_direction(motion.reshape(-1, 2)))
    return int(rows.max()), int(columns.max())


def pad(x: Tensor, margin: tuple[int, int], boundary: Boundary) -> Tensor:
    """Extend images by pixels repeated from inside them.

    Parameters
    ----------
    x : Tensor
        Images (B, C, H, W).
    margin : (int, int)
        Rows above and below, columns left and right; any size, also beyond that of the image.
    boundary : {"replicate", "reflect", "circular"}
        Which pixels are repeated.

    Returns
    -------
    Tensor
        Size (B, C, H + 2 my, W + 2 mx).
    """
    for dim, m in zip((-2, -1), margin, strict=True):
        if m:
            x = x.index_select(dim, _source(x.shape[dim], m, boundary).to(x.device))
    return x


def pad_adjoint(x: Tensor, margin: tuple[int, int], boundary: Boundary) -> Tensor:
    """Fold a margin back onto the pixels that it repeats: the transpose of `pad`.

    Parameters
    ----------
    x : Tensor
        Images (B, C, H + 2 my, W + 2 mx).
    margin : (int, int)
        The margin (my, mx).
    boundary : {"replicate", "reflect", "circular"}
        Which pixels are repeated.

    Returns
    -------
    Tensor
        Size (B, C, H, W).
    """
    for dim, m in zip((-2, -1), margin, strict=True):
        if m:
            size = x.shape[dim] - 2 * m
            source = _source(size, m, boundary).to(x.device)
            x, outside = x.narrow(dim, m, size), [x.narrow(dim, 0, m), x.narrow(dim, m + size, m)]
            x = x.index_add(dim, torch.cat([source[:m], source[m + size :]]), torch.cat(outside, dim))
    return x


def _source(size: int, margin: int, boundary: Boundary) -> Tensor:
    """Which of `size` pixels in a line stands at each of the positions -margin, ..., size + margin - 1."""
    position = torch.arange(-margin, size + margin)
    if boundary == "replicate":
        return position.clamp(0, size - 1)
    if boundary == "circular":
        return position % size
    if boundary == "reflect":
        period = max(2 * (size - 1), 1)
        position = position % period
        return torch.minimum(position, period - position) if size > 1 else position
    raise ValueError(f"boundary must be 'replicate', 'reflect' or 'circular' to pad an image, got {boundary!r}")


class _Blur(ABC):
    """What the operators share: the boundary and the sizes.

    Attributes
    ----------
    boundary : str
        As given.
    margin : (int, int)
        Rows above and below, and columns beside the frame that the sharp image has more; (0, 0) unless the
        boundary is ``"extended"``.
    dtype, device
        Of the kernel or motion, and so of the images.
    """

    boundary: Boundary
    margin: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Blur."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of the blur."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.A(x)

    def _set_boundary(self, boundary: Boundary, margin: tuple[int, int] | None, reach: tuple[int, int]) -> None:
        """Set boundary and margin of a blur that reads `reach` pixels around a pixel."""
        if boundary not in get_args(Boundary):
            raise ValueError(f"boundary must be one of {', '.join(get_args(Boundary))}, got {boundary!r}")
        self.boundary = boundary
        self._reach = reach
        if boundary != "extended":
            if margin is not None:
                raise ValueError(f"a margin needs the boundary 'extended', got {boundary!r}")
            self.margin = (0, 0)
            return
        self.margin = reach if margin is None else (int(margin[0]), int(margin[1]))
        if self.margin[0] < reach[0] or self.margin[1] < reach[1]:
            raise ValueError(f"margin must be at least {reach}, what the blur reads, got {self.margin}")

    def _check(self, image: Tensor) -> None:
        if image.ndim != 4:
            raise ValueError(f"images must have size (B, C, H, W), got {tuple(image.shape)}")
        if image.dtype != self.dtype:
            raise TypeError(f"the image must be {self.dtype} as the blur is, got {image.dtype}")


class UniformBlur(_Blur):
    """Convolution of images by one kernel.

    Parameters
    ----------
    psf : Tensor
        Kernel (kh, kw), or (C, kh, kw) with one for each channel, or (B, C or 1, kh, kw) with one for each image:
        odd sides, finite, of positive sum (it is not normalised here); its middle element is its centre.
    boundary : {"extended", "replicate", "reflect", "circular"}
        What the blur reads outside the frame, see the module.
    margin : (int, int), optional
        The margin (my, mx) of the boundary ``"extended"``, at least the half sizes of the kernel; these by
        default.

    Attributes
    ----------
    psf : Tensor
        As given.
    boundary, margin
        As given; the margin is (0, 0) unless the boundary is ``"extended"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above.

    Notes
    -----
    Kernels of all sizes are applied in the Fourier domain, at the size of the sharp image. On a processor
    this was never slower than a direct convolution of the channels, by 3 x 3 kernels too.
    """

    def __init__(self, psf: Tensor, boundary: Boundary = "extended", margin: tuple[int, int] | None = None) -> None:
        if not isinstance(psf, Tensor) or psf.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"psf must be a tensor of float32 or float64, got {_kind(psf)}")
        if psf.ndim not in (2, 3, 4) or psf.shape[-2] % 2 == 0 or psf.shape[-1] % 2 == 0:
            raise ValueError(
                "psf must have size (kh, kw), (C, kh, kw) or (B, C or 1, kh, kw) with odd sides, "
                f"got {tuple(psf.shape)}"
            )
        if not psf.isfinite().all():
            raise ValueError("psf contains NaN or infinity")
        if not (psf.sum((-2, -1)) > 0).all():
            raise ValueError("psf must have a positive sum")
        self.psf = psf if psf.requires_grad else psf.clone()  # its spectrum is kept
        self._kept: tuple[list[int], Tensor] | None = None
        self.dtype, self.device = psf.dtype, psf.device
        self._set_boundary(boundary, margin, (psf.shape[-2] // 2, psf.shape[-1] // 2))

    def A(self, x: Tensor) -> Tensor:
        """Blur.

        Parameters
        ----------
        x : Tensor
            Sharp images (B, C, H + 2 my, W + 2 mx), in the precision of the kernel.

        Returns
        -------
        Tensor
            Blurred images (B, C, H, W).
        """
        self._check(x)
        my, mx = self.margin
        if x.shape[-2] <= 2 * my or x.shape[-1] <= 2 * mx:
            raise ValueError(f"the image must be larger than the margin {self.margin}, got {tuple(x.shape)}")
        extended = self.boundary == "extended"
        x = F.pad(x, self._surplus(-1)) if extended else pad(x, self._reach, self.boundary)
        (h, w), (kh, kw) = x.shape[-2:], self.psf.shape[-2:]
        # Circular at the size of the sharp image: the frame is what has not wrapped round.
        size, response = self._response(h, w)
        return torch.fft.irfft2(torch.fft.rfft2(x, s=size) * response, s=size)[..., kh - 1 : h, kw - 1 : w]

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of the blur.

        Parameters
        ----------
        y : Tensor
            Images (B, C, H, W), in the precision of the kernel.

        Returns
        -------
        Tensor
            Images (B, C, H + 2 my, W + 2 mx).
        """
        self._check(y)
        my, mx = self._reach
        y = F.pad(y, (2 * mx, 0, 2 * my, 0))  # what wraps round is 0
        h, w = y.shape[-2:]
        size, response = self._response(h, w)
        x = torch.fft.irfft2(torch.fft.rfft2(y, s=size) * response.conj(), s=size)[..., :h, :w]
        if self.boundary == "extended":
            return F.pad(x, self._surplus(1))
        return pad_adjoint(x, self._reach, self.boundary)

    def _check(self, image: Tensor) -> None:
        super()._check(image)
        shared = self.psf.ndim == 2 or (self.psf.ndim == 4 and self.psf.shape[1] == 1)
        if not shared and self.psf.shape[-3] != image.shape[1]:
            raise ValueError(f"psf has {self.psf.shape[-3]} channels, the image has {image.shape[1]}")
        if self.psf.ndim == 4 and self.psf.shape[0] not in (1, image.shape[0]):
            raise ValueError(f"{self.psf.shape[0]} kernels cannot blur {image.shape[0]} images")

    def _surplus(self, sign: int) -> list[int]:
        (my, mx), (ry, rx) = self.margin, self._reach
        return [sign * (mx - rx)] * 2 + [sign * (my - ry)] * 2

    def _response(self, h: int, w: int) -> tuple[list[int], Tensor]:
        """Size of the transforms for sharp images of h by w pixels, and the kernel's; the latest is kept."""
        size = [scipy.fft.next_fast_len(n, real=True) for n in (h, w)]
        if self.psf.requires_grad:
            return size, torch.fft.rfft2(self.psf, s=size)
        if self._kept is None or self._kept[0] != size:
            self._kept = size, torch.fft.rfft2(self.psf, s=size)
        return self._kept


class MotionBlur(_Blur):
    """Non-uniform blur by a linear motion at each pixel.

    Output pixel p is the sum over the taps of the kernel **at p** of the sharp image (the gather form), which
    is ``y = sum_i w_i * (k_i conv x)`` with the weights applied after the convolution.

    Parameters
    ----------
    motion : Tensor
        Motion field (H, W, 2) of the frame, or (B, H, W, 2) with one for each image: u to the right and v
        **down** in pixels, floating point. The length of a motion is ``hypot(u, v)``, its angle ``atan2(-v,
        u)``; up to a length of 1 there is no blur.
    boundary : {"extended", "replicate", "reflect", "circular"}
        What the blur reads outside the frame, see the module.
    interpolation : {"continuous", "softmax", "bilinear"}
        The kernel of a pixel: ``"continuous"`` is the linear motion kernel of its very length and angle;
        ``"softmax"`` and ``"bilinear"`` are averages of four kernels of the motion bank, see
        `ircdeblur.motion.bank_interpolation`. The bank ends at 35 px: longer motions are taken as 35 px, with
        a warning.
    margin : (int, int), optional
        The margin (my, mx) of the boundary ``"extended"``, at least the half sizes of the largest kernel;
        these by default.

    Attributes
    ----------
    motion : Tensor
        As given.
    boundary, interpolation, margin
        As given; the margin is (0, 0) unless the boundary is ``"extended"``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not as above, or the taps exceed 2^31: then the frame must be divided.

    Notes
    -----
    The operator keeps a sparse matrix with one row for each pixel of the frame: 8 bytes for each tap in
    single precision, and 2.1 taps for each pixel of a motion's length on average, some 0.34 kB for each pixel
    of the frame at lengths around 20. The first `A_adjoint` adds its transpose, of the same size. The matrix
    is of the motion's values at construction.

    Gradients with respect to the motion are computed from the taps anew and add no memory to speak of; there
    are none of second order. A gradient is 0 where the length is below 1.

    References
    ----------
    Eboli, Sun and Ponce, section 2.2; Eq. 17 for ``"softmax"``, with the sign that makes the nearest motion
    win.
    """

    def __init__(
        self,
        motion: Tensor,
        boundary: Boundary = "extended",
        interpolation: Interpolation = "continuous",
        margin: tuple[int, int] | None = None,
    ) -> None:
        if not isinstance(motion, Tensor) or motion.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"motion must be a tensor of float32 or float64, got {_kind(motion)}")
        if motion.ndim not in (3, 4) or motion.shape[-1] != 2 or motion.numel() == 0:
            raise ValueError(f"motion must have size (H, W, 2) or (B, H, W, 2), got {tuple(motion.shape)}")
        if not motion.isfinite().all():
            raise ValueError("motion contains NaN or infinity")
        if interpolation not in get_args(Interpolation):
            choices = ", ".join(get_args(Interpolation))
            raise ValueError(f"interpolation must be one of {choices}, got {interpolation!r}")
        self.motion = motion
        self.interpolation = interpolation
        self.dtype, self.device = motion.dtype, motion.device

        fields = motion.detach().clone().reshape(-1, *motion.shape[-3:])
        taps: list[_LineTaps | _BankTaps]
        if interpolation == "continuous":
            taps = [_LineTaps(field.reshape(-1, 2)) for field in fields]
        else:
            # A length of 35 px may round to a little more.
            too_long = int((motion.detach().norm(dim=-1) > MAX_LENGTH * (1 + 1e-6)).sum())
            if too_long:
                warnings.warn(
                    f"{too_long} motions are longer than the bank's {MAX_LENGTH} px and are taken as that",
                    stacklevel=2,
                )
            taps = [_BankTaps(field.reshape(-1, 2), interpolation) for field in fields]
        reach = (max(t.reach[0] for t in taps), max(t.reach[1] for t in taps))
        self._set_boundary(boundary, margin, reach)
        inner = self.margin if boundary == "extended" else reach
        self._matrices = [_BlurMatrix(t, (motion.shape[-3], motion.shape[-2]), inner, boundary) for t in taps]

    @property
    def taps(self) -> int:
        """Number of weights that are not zero, over all pixels of the frame."""
        return sum(matrix.taps_in_all for matrix in self._matrices)

    def A(self, x: Tensor) -> Tensor:
        """Blur.

        Parameters
        ----------
        x : Tensor
            Sharp images (B, C, H + 2 my, W + 2 mx), in the precision of the motion.

        Returns
        -------
        Tensor
            Blurred images (B, C, H, W).
        """
        (my, mx), (h, w) = self.margin, self.motion.shape[-3:-1]
        return self._apply(x, (h + 2 * my, w + 2 * mx), adjoint=False)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Apply the transpose of the blur.

        Parameters
        ----------
        y : Tensor
            Images (B, C, H, W), in the precision of the motion.

        Returns
        -------
        Tensor
            Images (B, C, H + 2 my, W + 2 mx).
        """
        return self._apply(y, (self.motion.shape[-3], self.motion.shape[-2]), adjoint=True)

    def _apply(self, image: Tensor, size: tuple[int, int], adjoint: bool) -> Tensor:
        self._check(image)
        if tuple(image.shape[-2:]) != size:
            raise ValueError(
                f"the image must have size (B, C, {size[0]}, {size[1]}) for this motion and margin, "
                f"got {tuple(image.shape)}"
            )
        if len(self._matrices) not in (1, image.shape[0]):
            raise ValueError(f"{len(self._matrices)} motion fields cannot blur {image.shape[0]} images")

        def product(images: Tensor, motion: Tensor, matrix: _BlurMatrix) -> Tensor:
            if motion.requires_grad and torch.is_grad_enabled():
                return _ProductOfMotion.apply(images, motion, matrix, adjoint)
            return _Product.apply(images, matrix, adjoint)

        if len(self._matrices) == 1:
            return product(image, self.motion.reshape(self.motion.shape[-3:]), self._matrices[0])
        items = zip(image.split(1), self.motion, self._matrices, strict=True)
        return torch.cat([product(*item) for item in items])


class _LineTaps:
    """Taps of the linear motion kernel of each pixel's length and angle.

    Attributes
    ----------
    motion : Tensor
        The motions (N, 2).
    extent : Tensor
        Shape (N,), int64: pixels with similar values have similarly many taps.
    most : Tensor
        Shape (N,), int64: no pixel has more taps in one half of its kernel.
    reach : (int, int)
        Largest half size of the kernels, rows and columns.
    chunk : int
        Number of motions worked on at once on a CPU, so few that their taps stay in its cache.
    """

    chunk = 8192

    def __init__(self, motion: Tensor) -> None:
        self.motion = motion
        length, cos, sin = _direction(motion)
        self.extent = steps_needed(length, cos, sin)
        self.most = 3 * self.extent + 2
        rows, columns = half_sizes(length, cos, sin)
        self.reach = (int(rows.max()), int(columns.max()))

    def __call__(self, motion: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Taps dy, dx, weight, each (T, n), as `half_taps`, of the n motions (n, 2) of these pixels."""
        return half_taps(*_direction(motion))


class _BankTaps:
    """Taps of the weighted average of four kernels of the motion bank at each pixel; as `_LineTaps`."""

    chunk = 2048

    def __init__(self, motion: Tensor, weights: Literal["softmax", "bilinear"]) -> None:
        self.motion, self.weights = motion, weights
        indices, _ = self._interpolate(motion)
        # Pixels between the same four motions share a list of taps.
        place = len(_BANK) ** torch.arange(4, device=motion.device)
        cells, self.cell = torch.unique((indices * place).sum(1), return_inverse=True)
        fours = (cells[:, None] // place % len(_BANK)).cpu().numpy()
        centre = MAX_LENGTH**2 // 2
        kernels = _BANK.kernels[fours].reshape(len(fours), 4, -1)[:, :, centre:]  # (cells, 4, a half kernel)
        used = kernels.any(1)
        count = used.sum(1)
        taps = np.argsort(~used, axis=1, kind="stable")[:, : count.max()]  # used ones first, the centre foremost
        kernels = np.take_along_axis(kernels, taps[:, None], 2)
        taps[~kernels.any(1)] = 0  # the shorter lists end in taps of no weight, which must not reach far
        dy, dx = np.divmod(taps + centre, MAX_LENGTH)

        def on_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(motion.device)

        self.dy = on_device(dy.astype(np.int32) - MAX_LENGTH // 2)  # (cells, T)
        self.dx = on_device(dx.astype(np.int32) - MAX_LENGTH // 2)
        self.kernels = on_device(kernels.transpose(0, 2, 1)).to(motion.dtype)  # (cells, T, 4)
        self.extent = self.most = on_device(count)[self.cell]
        self.reach = (int(self.dy.abs().max()), int(self.dx.abs().max()))

    def _interpolate(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        length, cos, sin = _direction(motion)
        indices, weights = bank_interpolation(length, torch.rad2deg(torch.atan2(sin, cos)), self.weights)
        # No blur stays that: the softmax gives some weight to the next length.
        return indices * (length > 1)[:, None], weights

    def __call__(self, motion: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Taps dy, dx, weight, each (T, n), as `half_taps`, of the n motions (n, 2) of these pixels."""
        _, weights = self._interpolate(motion)
        cell, count = self.cell[pixels], int(self.extent[pixels].max())
        weight = (self.kernels[cell, :count] @ weights[:, :, None])[:, :, 0]
        return self.dy[cell, :count].T, self.dx[cell, :count].T, weight.T


def _direction(motion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Length of each motion (N, 2), and its direction to the right and up; (1, 1, 0) for no blur."""
    u, v = motion.unbind(-1)
    blurred = u * u + v * v > 1
    u, v = torch.where(blurred, u, 1.0), torch.where(blurred, v, 0.0)  # the length 0 has no gradient
    length = torch.hypot(u, v)
    return length, u / length, -v / length


GPU_CHUNKS = 16
"""So many chunks a GPU takes at once: it has no cache to stay within, and starting an operation is what takes time."""


class _BlurMatrix:
    """Matrix of a non-uniform blur: from the pixels of the sharp image to those of the frame, row by row.

    Parameters
    ----------
    taps : _LineTaps or _BankTaps
        Of the H W pixels of the frame.
    size : (int, int)
        The frame (H, W).
    margin : (int, int)
        At least `taps.reach`. With the boundary ``"extended"`` the sharp image is larger by this; with others
        it is padded by this before it is read.
    boundary : str
        As `MotionBlur`.
    """

    def __init__(
        self, taps: _LineTaps | _BankTaps, size: tuple[int, int], margin: tuple[int, int], boundary: Boundary
    ) -> None:
        self.taps, self.size, self.margin, self.boundary = taps, size, margin, boundary
        self.padded = (size[0] + 2 * margin[0], size[1] + 2 * margin[1])
        self.sharp = self.padded if boundary == "extended" else size
        self._matrix = self._assemble()
        self._transposed: Tensor | None = None

    @property
    def taps_in_all(self) -> int:
        """Number of weights that are not zero; the centre's is one, though it is stored in halves."""
        return self._matrix.values().numel() - self._matrix.shape[0]

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pixels with similarly many taps, and their places in the padded image (int32); each pixel once."""
        width = self.size[1]
        chunk = self.taps.chunk if self.taps.extent.device.type == "cpu" else GPU_CHUNKS * self.taps.chunk
        for pixels in torch.argsort(self.taps.extent, stable=True).split(chunk):
            row, column = pixels // width + self.margin[0], pixels % width + self.margin[1]
            yield pixels, (row * self.padded[1] + column).to(torch.int32)

    def _assemble(self) -> Tensor:
        """Compute the taps of all pixels, without those of no weight."""
        most, done = 2 * int(self.taps.most.sum()), 0
        device = self.taps.motion.device
        value, column = _empty(most, self.taps.motion.dtype, device), _empty(most, torch.int32, device)
        counts, rows = [], []
        for pixels, place in self._chunks():
            dy, dx, weight = (taps.T for taps in self.taps(self.taps.motion[pixels], pixels))
            # The centre is a pair of taps, too, of half its weight each.
            half = torch.tensor([0.5] + [1.0] * (weight.shape[1] - 1), dtype=weight.dtype, device=device)
            weight = (weight * half).contiguous()
            offset, place = (dy * self.padded[1] + dx).contiguous(), place[:, None]
            used = weight > 0
            weight, one, other = _where(used, weight, place + offset, place - offset)
            part, done = slice(done, done + 2 * len(weight)), done + 2 * len(weight)
            if done >= 2**31:
                raise ValueError("the motion field has too many taps for one operator; divide the frame")
            value[part].view(-1, 2).copy_(weight[:, None])
            torch.stack((one, other), 1, out=column[part].view(-1, 2))
            counts.append(2 * used.sum(1))
            rows.append(pixels)
        value, column, count, row = value[:done], column[:done], torch.cat(counts), torch.cat(rows)
        if self.boundary != "extended":
            column = self._fold()[column]
        return _matrix_of_rows(value, column, count, row, (self.size[0] * self.size[1], self.sharp[0] * self.sharp[1]))

    def _fold(self) -> Tensor:
        """Pixel of the frame that each pixel of the padded image repeats, int32."""
        row, column = (_source(n, m, self.boundary) for n, m in zip(self.size, self.margin, strict=True))
        return (row[:, None] * self.size[1] + column).flatten().to(self.taps.motion.device, torch.int32)

    def product(self, images: Tensor, adjoint: bool) -> Tensor:
        """Multiply images (B, C, h, w) by the matrix or its transpose."""
        b, c = images.shape[:2]
        if adjoint and self._transposed is None:
            self._transposed = _transpose(self._matrix)
        matrix = self._transposed if adjoint else self._matrix
        assert matrix is not None
        columns = images.reshape(b * c, -1)
        size = self.sharp if adjoint else self.size
        if b * c == 1:
            # A product with a vector is faster than with a matrix of one column.
            return (matrix @ columns[0]).view(1, 1, *size)
        # Rows of four numbers are one vector register: four columns take half the time of three.
        rows = F.pad(columns.T, (0, -(b * c) % 4))
        product = rows.new_empty(matrix.shape[0], rows.shape[1])
        torch.addmm(product, matrix, rows, beta=0, out=product)
        return torch.stack(product.unbind(1)[: b * c]).view(b, c, *size)

    def motion_gradient(self, sharp: Tensor, frame: Tensor) -> Tensor:
        """Gradient of ``(frame * A(sharp)).sum()`` with respect to the motion, (H, W, 2).

        The derivative by the weight that joins two pixels is the product of their values.
        """
        if self.boundary != "extended":
            sharp = pad(sharp, self.margin, self.boundary)
        sharp, frame = sharp.flatten(0, 1).flatten(1).T.contiguous(), frame.flatten(0, 1).flatten(1).T
        gradient = torch.zeros_like(self.taps.motion)
        for pixels, place in self._chunks():
            with torch.enable_grad():
                motion = self.taps.motion[pixels].requires_grad_()
                dy, dx, weight = self.taps(motion, pixels)
            offset = torch.where(weight > 0, dy * self.padded[1] + dx, 0)  # others may lie outside
            read = sharp[place + offset]  # (T, n, B C)
            read[1:] += sharp[place - offset[1:]]
            (gradient[pixels],) = torch.autograd.grad(weight, motion, (read * frame[pixels]).sum(-1))
        return gradient.reshape(*self.size, 2)


class _Product(torch.autograd.Function):
    """Product of images with a blur matrix or its transpose."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, matrix: _BlurMatrix, adjoint: bool) -> Tensor:
        ctx.matrix, ctx.adjoint = matrix, adjoint
        return matrix.product(images, adjoint)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _Product.apply(gradient, ctx.matrix, not ctx.adjoint), None, None


class _ProductOfMotion(torch.autograd.Function):
    """`_Product`, differentiable in the motion (H, W, 2) too."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, motion: Tensor, matrix: _BlurMatrix, adjoint: bool) -> Tensor:
        ctx.save_for_backward(images)
        ctx.matrix, ctx.adjoint = matrix, adjoint
        return matrix.product(images, adjoint)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        (images,) = ctx.saved_tensors
        by_images = ctx.matrix.product(gradient, not ctx.adjoint) if ctx.needs_input_grad[0] else None
        sharp, frame = (gradient, images) if ctx.adjoint else (images, gradient)
        return by_images, ctx.matrix.motion_gradient(sharp, frame), None, None


def _empty(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for so many numbers, of which a CPU's system gives only what is written to."""
    if device.type != "cpu":
        return torch.empty(count, dtype=dtype, device=device)
    # NumPy asks for large pages: a hundred megabytes of small ones take as long as all of the assembly.
    return torch.from_numpy(np.empty(count, torch.empty(0, dtype=dtype).numpy().dtype))


def _where(used: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Elements of tensors where `used`, all contiguous and of the same shape."""
    if used.device.type != "cpu":
        return [tensor[used] for tensor in tensors]
    # By NumPy, which is several times as fast, most of all with the same places for all.
    places = np.flatnonzero(used.numpy())
    return [torch.from_numpy(np.take(tensor.numpy(), places)) for tensor in tensors]


def _matrix_of_rows(value: Tensor, column: Tensor, count: Tensor, row: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sparse CSR matrix, given its rows (their numbers of elements and their indices) in any order."""
    if value.device.type != "cpu":
        return _matrix_of_elements(torch.repeat_interleave(row, count), column, value, shape)
    start = F.pad(count.cumsum(0), (1, 0)).to(torch.int32)
    rows = scipy.sparse.csr_array((value.numpy(), column.numpy(), start.numpy()), shape=shape)
    return _from_scipy(rows[torch.argsort(row).numpy()])


def _transpose(matrix: Tensor) -> Tensor:
    """Transpose of a sparse CSR matrix, as CSR."""
    start, column, value = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    if value.device.type != "cpu":
        row = torch.repeat_interleave(torch.arange(len(start) - 1, device=start.device), start.diff())
        return _matrix_of_elements(column, row, value, (matrix.shape[1], matrix.shape[0]))
    rows = scipy.sparse.csr_array((value.numpy(), column.numpy(), start.numpy()), shape=matrix.shape)
    return _from_scipy(rows.tocsc().T)


def _matrix_of_elements(row: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Sparse CSR matrix, given its elements in any order."""
    order = torch.argsort(row, stable=True)
    start = F.pad(torch.bincount(row, minlength=shape[0]).cumsum(0), (1, 0))
    return _csr(start, column[order], value[order], shape)


def _from_scipy(matrix: Any) -> Tensor:
    start, column, value = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    return _csr(start, column, value, matrix.shape)


def _csr(start: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        return torch.sparse_csr_tensor(
            start.to(torch.int32), column.to(torch.int32), value, shape, check_invariants=False
        )


def _kind(value: Any) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
