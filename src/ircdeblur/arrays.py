"""Images as they come: NumPy arrays and torch tensors of several kinds, read in parts and given back in the same kind.

Inside, an image is a float32 tensor (1, C, H, W) in [0, 1]. For a large picture that is four times what an 8-bit file
holds, so it is converted window by window, and a result is put together in the kind that it will have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

SCALES: dict[Any, float] = {
    np.dtype(np.uint8): 255.0,
    np.dtype(np.uint16): 65535.0,
    torch.uint8: 255.0,
    torch.uint16: 65535.0,
}
"""Types of whole numbers, and the value in them that is 1."""

_AT_ONCE = 4_000_000
"""Values that are converted at once when a result is stored."""


class Images:
    """One image, or a batch of them, as it came.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array, or (H, W), (C, H, W) or (B, C, H, W) tensor
        Float in [0, 1], uint8 or uint16. It is not copied.
    device : torch.device
        Where windows are to be.
    channel_axis : int
        Of an array (H, W, C), where its channels are; tensors have them before the rows.

    Attributes
    ----------
    device, source : torch.device
        Where windows are, and where the image came from.
    shape : (int, int)
        H and W.
    low, high : float
        Range of the result: [0, 1], or that of a float image where that is wider.
    is_torch, is_batch : bool
        Whether it came as a tensor, and as (B, C, H, W).

    Raises
    ------
    ValueError, TypeError
        For another shape or type, an empty image, NaN or infinity.
    """

    def __init__(self, image: Any, device: torch.device, channel_axis: int = -1):
        self.device = device
        self._channel_axis = channel_axis
        self.is_torch = isinstance(image, torch.Tensor)
        if self.is_torch:
            if image.ndim not in (2, 3, 4):
                raise ValueError(f"a torch image must be (H, W), (C, H, W) or (B, C, H, W), got {tuple(image.shape)}")
            array = image.detach()
            is_float = array.is_floating_point()
        else:
            array = np.asarray(image)
            if array.ndim not in (2, 3):
                raise ValueError(f"image must have shape (H, W) or (H, W, C), got {array.shape}")
            if channel_axis not in range(-3, 3):
                raise ValueError(f"channel_axis must be one of the three axes of an image, got {channel_axis!r}")
            array = array if array.ndim == 2 else np.moveaxis(array, channel_axis, -1)
            is_float = array.dtype.kind == "f"
        self._array, self._dtype = array, array.dtype
        self.source = array.device if self.is_torch else torch.device("cpu")
        if not (is_float or self._dtype in SCALES):
            raise TypeError(f"image must be float, uint8 or uint16, got {self._dtype}")
        if 0 in array.shape:
            raise ValueError(f"image is empty: shape {tuple(array.shape)}")
        self.is_batch = self.is_torch and array.ndim == 4
        rows, columns = array.shape[-2:] if self.is_torch else array.shape[:2]
        self.shape = (int(rows), int(columns))
        low, high = self._range() if is_float else (0.0, 1.0)
        self.low, self.high = min(0.0, low), max(1.0, high)

    def __len__(self) -> int:
        return int(self._array.shape[0]) if self.is_batch else 1

    @property
    def pixels(self) -> int:
        """H times W."""
        return self.shape[0] * self.shape[1]

    def _range(self) -> tuple[float, float]:
        """Return the least and the greatest value in float32; neither makes a copy of the image."""
        if self.is_torch:
            ends = torch.stack((self._array.amin(), self._array.amax())).float().tolist()
        else:
            with np.errstate(over="ignore"):
                ends = [float(np.float32(self._array.min())), float(np.float32(self._array.max()))]
        if not np.isfinite(ends).all():
            raise ValueError("image contains NaN or infinity")
        return ends[0], ends[1]

    def _planes(self, index: int) -> Any:
        """Return one image as it came, but with its channels: (C, H, W) of a tensor, (H, W, C) of an array."""
        if self.is_torch:
            item = self._array[index] if self.is_batch else self._array
            return item if item.ndim == 3 else item[None]
        return self._array if self._array.ndim == 3 else self._array[..., None]

    def window(self, index: int, rows: slice, columns: slice) -> torch.Tensor:
        """Return a window of one image, (1, C, h, w) float32 in [0, 1].

        Parameters
        ----------
        index : int
            Of the image in the batch.
        rows, columns : slice
            With a step they may leave out rows and columns.
        """
        return self._converted(self._planes(index)[(..., rows, columns) if self.is_torch else (rows, columns)])

    def whole(self, index: int) -> torch.Tensor:
        """Return one image, (1, C, H, W) float32 in [0, 1]."""
        return self.window(index, slice(None), slice(None))

    def sample(self, index: int, most: int) -> torch.Tensor:
        """Return blocks of 2 x 2 pixels from all over one image, side by side.

        Parameters
        ----------
        index : int
            Of the image in the batch.
        most : int
            Pixels that are enough; an image that has no more comes whole.

        Returns
        -------
        blocks : (1, C, h, w) float32 tensor
            In [0, 1].
        """
        if self.pixels <= most:
            return self.whole(index)
        # An odd step, so that blocks lie at all places of the 8 x 8 blocks of JPEG.
        step = int(np.ceil((self.pixels / most) ** 0.5)) // 2 * 2 + 1
        rows, columns = (
            (np.arange(0, n - 1, 2 * step)[:, None] + np.arange(2)).ravel()[: (n // 2) * 2] for n in self.shape
        )
        planes = self._planes(index)
        if self.is_torch:
            at = [torch.from_numpy(places).to(planes.device) for places in (rows, columns)]
            return self._converted(planes.index_select(1, at[0]).index_select(2, at[1]))
        return self._converted(planes[rows][:, columns])

    def _converted(self, part: Any) -> torch.Tensor:
        if self.is_torch:
            x = part.to(self.device, torch.float32)[None]
        else:
            x = torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)).to(self.device).permute(2, 0, 1)[None]
        return (x / SCALES[self._dtype] if self._dtype in SCALES else x).contiguous()

    def result(self) -> Result:
        """Return an empty result of this kind."""
        return Result(self)


class Result:
    """A picture in the making, of the kind, shape, type and scale of the one it is made from.

    Parameters
    ----------
    like : Images
        That one.

    Attributes
    ----------
    image : array or tensor
        The picture, whole when each row of each image has been put.
    """

    # The rows are put into `_planes`, the image with its channels where `Images` has them: a view of it.

    def __init__(self, like: Images):
        self._like = like
        array = like._array
        self.image: Any
        self._planes: Any
        if like.is_torch:
            self.image = self._planes = torch.empty(array.shape, dtype=array.dtype, device=array.device)
        elif array.ndim == 2:
            self.image = self._planes = np.empty(array.shape, array.dtype)
        else:
            self.image = np.empty(np.moveaxis(array, -1, like._channel_axis).shape, array.dtype)
            self._planes = np.moveaxis(self.image, like._channel_axis, -1)

    def put(self, index: int, rows: slice, values: torch.Tensor) -> None:
        """Store some rows of one image.

        Parameters
        ----------
        index : int
            Of the image in the batch.
        rows : slice
            Which rows.
        values : (1, C, h, W) float tensor
            In [0, 1]; what is outside the range of the result is clipped.
        """
        like, dtype = self._like, self._like._dtype
        top, step = rows.start or 0, max(1, _AT_ONCE // max(1, values[0, :, 0].numel()))
        target = self._planes[index] if like.is_batch else self._planes
        for first in range(0, values.shape[-2], step):
            part = values[0, :, first : first + step]
            if dtype in SCALES:
                part = (part * SCALES[dtype]).round().clip(0, SCALES[dtype])
            else:
                part = part.clip(like.low, like.high)
            place = slice(top + first, top + first + part.shape[-2])
            if like.is_torch:
                part = part if target.ndim == 3 else part[0]
                target[..., place, :] = part.to(target.device, dtype)
            else:
                part = part.permute(1, 2, 0) if target.ndim == 3 else part[0]
                target[place] = part.cpu().numpy()
