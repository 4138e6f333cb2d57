"""Filtering of several images with one inverse filter each, and their sum: the step sum_i d_i * r_i.

One set of filters for the whole picture, or one that varies from place to place. Filtering is linear, so the residuals
share one inverse transform, and filters that are interpolated between grid points give the interpolated result.
"""

from __future__ import annotations

import scipy.fft
import torch
from torch.nn import functional as F


def centred_response(filters: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return the real FFT of centred filters.

    Parameters
    ----------
    filters : (..., h, w) tensor
        Odd sides; the middle element is the origin.
    size : (H, W)
        At least (h, w).

    Returns
    -------
    response : (..., H, W // 2 + 1) complex tensor
    """
    height, width = filters.shape[-2:]
    padded = F.pad(filters, (0, size[1] - width, 0, size[0] - height))
    return torch.fft.rfft2(padded.roll((-(height // 2), -(width // 2)), dims=(-2, -1)))


class UniformFilter:
    """The same filters everywhere; the images are continued by zeros.

    Parameters
    ----------
    filters : (n, h, w) tensor
        One filter per image, odd sides.
    shape : (H, W)
        Size of the images.
    """

    def __init__(self, filters: torch.Tensor, shape: tuple[int, int]):
        reach = (filters.shape[-2] // 2, filters.shape[-1] // 2)
        self.shape = shape
        self.size = tuple(scipy.fft.next_fast_len(n + r, real=True) for n, r in zip(shape, reach, strict=True))
        self.response = centred_response(filters, (self.size[0], self.size[1]))

    def __call__(self, images: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return sum_i d_i * images_i, each (B, C, H, W)."""
        total = torch.fft.rfft2(images[0], s=self.size).mul_(self.response[0])
        for image, response in zip(images[1:], self.response[1:], strict=True):
            total.addcmul_(torch.fft.rfft2(image, s=self.size), response)
        return torch.fft.irfft2(total, s=self.size)[..., : self.shape[0], : self.shape[1]]


class BankFilter:
    """The filters of a bank, interpolated at every pixel: Eq. 17 to the letter, and the oracle of what is faster.

    Each motion of the bank that some pixel asks for is applied to the whole picture and weighted afterwards, so the
    time grows with the number of these motions.

    Parameters
    ----------
    filters : (M, n, h, w) tensor
        The bank's filters, odd sides.
    indices : (H, W, k) int64 tensor
        The motions of the bank that each pixel takes.
    weights : (H, W, k) tensor
        Their weights.
    """

    def __init__(self, filters: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor):
        self.filters, self.indices, self.weights = filters, indices, weights
        self.shape = (indices.shape[0], indices.shape[1])

    def __call__(self, images: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the sum of the filtered images, each (B, C, H, W)."""
        total = torch.zeros_like(images[0])
        for m in self.indices.unique().tolist():
            share = torch.where(self.indices == m, self.weights, 0.0).sum(-1)
            total += share * UniformFilter(self.filters[m], self.shape)(images)
        return total


class TiledFilter:
    """Filters that are given on a grid of points and interpolated bilinearly between them.

    Around each point the picture is filtered with the point's filters and weighted with a hat window that falls to
    zero at the neighbouring points; the windows add up to one.

    Parameters
    ----------
    responses : (rows * columns, n, P, P // 2 + 1) complex tensor
        Real FFTs of the filters of each grid point (origin at index 0) on a P x P tile.
    shape : (H, W)
        Size of the images.
    tile : int
        P.
    step : int
        Distance of the grid points in pixels; see `grid`.
    padding : {"constant", "replicate"}
        The images are continued by zeros or by their rim.
    """

    def __init__(
        self, responses: torch.Tensor, shape: tuple[int, int], tile: int, step: int, padding: str = "constant"
    ):
        self.shape, self.tile, self.step, self.padding = shape, tile, step, padding
        self.rows, self.columns = (len(points) for points in self.grid(shape, step))
        if responses.shape[0] != self.rows * self.columns:
            raise ValueError(f"expected filters for {self.rows} x {self.columns} points, got {responses.shape[0]}")
        self.responses = responses
        # What of a tile is free of wrapped values: the window, with a reach of the filter on each side.
        self.reach = (tile - (2 * step - 1)) // 2
        hat = 1 - (torch.arange(2 * step - 1, device=responses.device) - (step - 1)).abs() / step
        self.window = (hat[:, None] * hat).to(responses.real.dtype)

    @staticmethod
    def grid(shape: tuple[int, int], step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows and the columns of the grid points: 0, step, ... up to or just beyond the last pixel."""
        rows, columns = (torch.arange(-(-(n - 1) // step) + 1) * step for n in shape)
        return rows, columns

    @staticmethod
    def tile_for(reach: int, step: int) -> int:
        """Return a fast tile size for filters that reach so many pixels from their middle."""
        return int(scipy.fft.next_fast_len(2 * step - 1 + 2 * reach, real=True))

    def tiles(self, image: torch.Tensor) -> torch.Tensor:
        """Return the tiles (B, C, rows * columns, P, P) of images (B, C, H, W)."""
        before = self.step - 1 + self.reach
        after = [
            (count - 1) * self.step + self.tile - before - n
            for count, n in zip((self.rows, self.columns), self.shape, strict=True)
        ]
        padded = F.pad(image, (before, after[1], before, after[0]), mode=self.padding)
        tiles = padded.unfold(-2, self.tile, self.step).unfold(-2, self.tile, self.step)
        return tiles.reshape(*image.shape[:2], -1, self.tile, self.tile)

    def blend(self, spectra: torch.Tensor) -> torch.Tensor:
        """Return the images (B, C, H, W) whose tiles have the real FFTs (B, C, rows * columns, P, P // 2 + 1)."""
        inner = slice(self.reach, self.reach + 2 * self.step - 1)
        size = tuple((count + 1) * self.step - 1 for count in (self.rows, self.columns))
        tiles = torch.fft.irfft2(spectra, s=(self.tile, self.tile))[..., inner, inner] * self.window
        columns = tiles.flatten(0, 1).flatten(2).transpose(1, 2)
        folded = F.fold(columns, size, (2 * self.step - 1,) * 2, stride=self.step)
        start = self.step - 1
        whole = folded.view(*spectra.shape[:2], *size)
        return whole[..., start : start + self.shape[0], start : start + self.shape[1]]

    def __call__(self, images: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the sum of the filtered images, each (B, C, H, W)."""
        batches = []
        # One channel of one image at a time: the tiles of all of them would be some 12 times the picture each.
        for b in range(images[0].shape[0]):
            channels = []
            for c in range(images[0].shape[1]):
                total: torch.Tensor | None = None
                for i, image in enumerate(images):
                    part = torch.fft.rfft2(self.tiles(image[b : b + 1, c : c + 1])).mul_(self.responses[:, i])
                    total = part if total is None else total.add_(part)
                assert total is not None
                channels.append(self.blend(total))
            batches.append(torch.cat(channels, dim=1))
        return torch.cat(batches)
