"""The blur of a camera that shook and turned: one density over its places, kernels that differ all over the picture.

While the shutter is open the camera moves sideways and turns about its axis. How long it stood where is a density over
shifts and turns; at each place of the picture it makes a kernel, and all of them come from one. So the whole picture
tells it, where each part alone would tell too little. As with one kernel (`ircdeblur.solvers.blind_kernel`), in turns
the sharp picture is estimated with few edges, and the density that makes the blurred picture's gradients of its
gradients; from a small copy, in which the corners move little more than the middle, to the whole.

References
----------
A. Gupta, N. Joshi, L. Zitnick, M. Cohen, B. Curless, "Single image deblurring using motion density functions", ECCV
2010. M. Hirsch, C. J. Schuler, S. Harmeling, B. Schoelkopf, "Fast removal of non-uniform camera shake", ICCV 2011:
kernels that are constant in windows which fade into each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.fft
import torch
from scipy import ndimage, sparse
from scipy.optimize import minimize

from ircdeblur.solvers.blind_kernel import SHRINK, PeriodicImage, resized

ROUNDS = {3: 12, 2: 6, 1: 4, 0: 2}
"""Copies of the picture that are looked at, each `SHRINK` as large as the one before, and how often. Begun two copies
later, eight training photographs had kernels whose correlation with the true ones was 0.925 on average, so 0.935."""

EDGES = ((2e-3, 3e-4), (6e-3, 6e-4))
"""Costs of an edge in the first round and in the last one (see `ircdeblur.solvers.blind_kernel.Search`) that are tried:
which are better differs from picture to picture. By the likelier ones 19 training photographs, each density refined by
Kernel-Net, gained 6.5 dB, by the first alone 5.8; three more ways added nothing; by the best for each it is 6.6."""

REACH, STEP = 10.0, 1.5
"""How far the corners move by a turn at most, to each side, and from one turn to the next, in pixels."""

AROUND = 2
"""Pixels around the kernel that was found in which the density may lie at first, and one more from copy to copy; and
places around those found, when its kernels are corrected."""

FAINT = 0.01
"""Share of its largest value below which a density does not grow any more."""

WEAK, SPECKLE, LOW = 0.02, 0.02, 0.1
"""What is below the first share of a density's largest value is set to 0, and so are islands with less than a share of
its sum, or nowhere as high as a share of its largest value: without the last two, six training photographs gained
4.5 dB in place of 4.7, with 0.05 for the first two 3.7."""

RIDGE, NOISY = (2.0, 20.0), 0.012
"""Weight of the density's squares in its least squares, the least and the largest one, which is that for this standard
deviation of the noise; it grows with its square."""

SEARCHES = 10
"""Steps towards the non-negative least squares of a round; with twice as many 19 training photographs gained 6.46 dB in
place of 6.36, in 9.4 s of a core in place of 6.5."""

WINDOW = 0.29
"""From window to window, in units of half the picture's diagonal."""


@dataclass(frozen=True)
class MotionDensity:
    """How long a camera stood in each of its places while the shutter was open.

    Light that belongs at a place comes to lie beside it, by the shift and by what the turn about the middle adds.

    Attributes
    ----------
    weights : (n,) float64 array
        Of each place of the camera, of sum 1.
    shifts : (n, 2) float64 array
        By which it moves light down and to the right, in pixels.
    turns : (n,) float64 array
        By which it turns the picture counterclockwise, in radians; small ones.
    middle : (float, float)
        Row and column, in pixels, that the picture is turned about.
    """

    weights: np.ndarray
    shifts: np.ndarray
    turns: np.ndarray
    middle: tuple[float, float]

    def centred(self) -> MotionDensity:
        """Return it with mean shift and turn 0: then the kernels' means lie where they belong, all over the picture."""
        share = self.weights / self.weights.sum()
        return replace(
            self, weights=share, shifts=self.shifts - share @ self.shifts, turns=self.turns - share @ self.turns
        )

    def moved(self, down: int, right: int) -> MotionDensity:
        """Return that of a picture in which the one looked at begins so many rows further down and to the right."""
        return replace(self, middle=(self.middle[0] + down, self.middle[1] + right))

    @property
    def turn(self) -> float:
        """Standard deviation of the turns, in radians."""
        return math.sqrt(float(self.weights @ (self.turns - self.weights @ self.turns) ** 2))

    def offsets(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return where each place of the camera moves the light of some places (m,) to, from there: (m, n, 2)."""
        down, right = rows[:, None] - self.middle[0], columns[:, None] - self.middle[1]
        return np.stack((self.shifts[:, 0] - self.turns * right, self.shifts[:, 1] + self.turns * down), -1)

    def like(self, rows: np.ndarray, columns: np.ndarray, kernels: np.ndarray) -> MotionDensity:
        """Return the one of the same places whose kernels are most like some others, by non-negative least squares.

        Parameters
        ----------
        rows, columns : (m,) arrays
            In pixels.
        kernels : (m, side, side) array
            What is wanted there, of an odd side.

        Returns
        -------
        density : MotionDensity
            Without the places whose weight is weak; this one if nothing else is left.
        """
        side = kernels.shape[-1]
        shares = sparse.vstack([_shares(o + side // 2, side).T for o in self.offsets(rows, columns)], format="csr")
        wanted = kernels.ravel()
        scale = float(wanted @ wanted)

        def cost(weights: np.ndarray) -> tuple[float, np.ndarray]:
            off = shares @ weights - wanted
            return 0.5 * float(off @ off) / scale, shares.T @ off / scale

        bounds = [(0, None)] * len(self.weights)
        weights = minimize(cost, self.weights, jac=True, method="L-BFGS-B", bounds=bounds).x
        kept = weights > FAINT * weights.max()
        return MotionDensity(weights[kept], self.shifts[kept], self.turns[kept], self.middle) if kept.any() else self

    def reach(self, shape: tuple[int, int]) -> int:
        """Return how many pixels to each side a kernel reaches at most in a picture (H, W)."""
        rows, columns = np.meshgrid(*([0, n - 1] for n in shape))
        return math.ceil(float(np.abs(self.offsets(rows.ravel(), columns.ravel())).max()))

    def kernels(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the kernels at some places.

        Parameters
        ----------
        rows, columns : (m,) arrays
            In pixels.

        Returns
        -------
        kernels : (m, side, side) float64 array
            Not negative, of sum 1, of the side that holds the largest of them. What falls between pixels is shared
            among the four around.
        """
        offsets = self.offsets(rows, columns)
        half = math.ceil(float(np.abs(offsets).max())) + 1
        side = 2 * half + 1
        return np.stack([_shares(o + half, side).T @ self.weights for o in offsets]).reshape(-1, side, side)

    def kernel(self, row: float, column: float) -> np.ndarray:
        """Return the kernel at one place; see `kernels`."""
        found: np.ndarray = self.kernels(np.array([row]), np.array([column]))[0]
        return found


def _shares(places: np.ndarray, side: int) -> sparse.csr_array:
    """Return the matrix (n, side^2) that shares places (n, 2) among pixels; those outside have none."""
    first = np.floor(places).astype(int)
    share = places - first
    n = np.arange(len(places))
    rows, pixels, values = [], [], []
    for i, j in np.ndindex(2, 2):
        y, x = first[:, 0] + i, first[:, 1] + j
        value = np.abs(1 - i - share[:, 0]) * np.abs(1 - j - share[:, 1])
        inside = (y >= 0) & (y < side) & (x >= 0) & (x < side)
        rows.append(n[inside])
        pixels.append((y * side + x)[inside])
        values.append(value[inside])
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(pixels))
    return sparse.csr_array(entries, shape=(len(places), side**2))


class DensitySearch:
    """A search for the density of one photograph, which goes from a small copy to the whole.

    Parameters
    ----------
    luma : (H, W) float tensor
        In [0, 1].
    start : (side, side) array or MotionDensity
        A kernel that was found for the whole photograph, of a camera that does not turn to begin with, or a density.
    noise : float
        Standard deviation of the photograph's noise.
    edges : (float, float)
        Costs of an edge, as one of `EDGES`.
    level : int
        Of the copy that is looked at first.

    Attributes
    ----------
    level : int
        How many times the copy that was looked at last was shrunk by `SHRINK`: one more than in the first look before
        that, 0 at the end.

    Raises
    ------
    RuntimeError
        By `go_on` at the end, by `density` before the first look.
    """

    def __init__(
        self,
        luma: torch.Tensor,
        start: np.ndarray | MotionDensity,
        noise: float,
        edges: tuple[float, float] = EDGES[0],
        level: int = max(ROUNDS),
    ) -> None:
        self.level = level + 1
        self._luma, self._start = luma.cpu(), start
        self._diagonal = math.hypot(*luma.shape) / 2
        self._ridge = float(np.clip(RIDGE[1] * (noise / NOISY) ** 2, *RIDGE))
        self._edges = np.geomspace(*edges, sum(ROUNDS.values()))
        self._grid: _Grid | None = None

    def go_on(self) -> None:
        """Look at the next larger copy; there is none after the whole."""
        if self.level == 0:
            raise RuntimeError("the search is at its end")
        self.level -= 1
        scale = SHRINK**self.level
        luma = resized(self._luma, [round(n * scale) for n in self._luma.shape]) if self.level else self._luma
        if self._grid is not None:
            grid = self._grid.enlarged(scale)
        elif isinstance(self._start, MotionDensity):
            grid = _Grid.of_density(self._start, scale, self._diagonal)
        else:
            grid = _Grid.of_kernel(self._start, scale)
        picture = _WindowedPicture(luma, grid)
        before = sum(n for level, n in ROUNDS.items() if level > self.level)
        weights = grid.weights[grid.free]
        for edge in self._edges[before : before + ROUNDS[self.level]]:
            weights = picture.fitted(picture.strong_edges(weights, float(edge)), weights, self._ridge)
            grid = grid.cleaned(weights)
            weights = grid.weights[grid.free]
        self._grid = grid

    def density(self, around: int = 0) -> MotionDensity:
        """Return the density so far, centred, and so many places around each of its own, of weight 0."""
        grid = self._grid
        if grid is None:
            raise RuntimeError("nothing was looked at so far")
        grid = grid.padded(around)
        turn, down, right = np.nonzero(ndimage.binary_dilation(grid.weights > 0, np.ones([2 * around + 1] * 3)))
        half = grid.weights.shape[-1] // 2
        height, width = self._luma.shape
        return MotionDensity(
            grid.weights[turn, down, right],
            np.stack((down - half, right - half), -1) / grid.scale,
            grid.turns[turn] / grid.scale / self._diagonal,
            ((height - 1) / 2, (width - 1) / 2),
        ).centred()


@dataclass(frozen=True)
class _Grid:
    """A density on a grid.

    Attributes
    ----------
    weights : (turns, side, side) array
        Not negative; no shift is in the middle.
    free : (turns, side, side) bool array
        Where there may be any.
    turns : (turns,) array
        By how many pixels of the copy the corners move.
    scale : float
        Of the copy.
    """

    weights: np.ndarray
    free: np.ndarray
    turns: np.ndarray
    scale: float

    @staticmethod
    def _turns(scale: float) -> np.ndarray:
        count = math.ceil(REACH * scale / STEP)
        return np.linspace(-1, 1, 2 * count + 1) * REACH * scale

    @classmethod
    def of_kernel(cls, psf: np.ndarray, scale: float) -> _Grid:
        """Return a camera that does not turn, but may."""
        side = 2 * math.ceil(len(psf) // 2 * scale) + 1
        small = np.pad(resized(torch.from_numpy(psf), [side, side]).clamp(min=0).numpy(), AROUND)
        turns = cls._turns(scale)
        weights = np.zeros((len(turns), *small.shape))
        weights[len(turns) // 2] = small
        around = ndimage.binary_dilation(small > WEAK * small.max(), np.ones((3, 3)), AROUND)
        return cls._trimmed(weights, np.broadcast_to(around, weights.shape), turns, scale)

    @classmethod
    def of_density(cls, density: MotionDensity, scale: float, diagonal: float) -> _Grid:
        """Return a density, each of its places shared among the eight around, for half a diagonal in pixels."""
        turns, shifts = cls._turns(scale), density.shifts * scale
        half = math.ceil(float(np.abs(shifts).max())) + 1
        turn = (density.turns * diagonal * scale - turns[0]) / (turns[1] - turns[0])
        place = np.column_stack((turn.clip(0, len(turns) - 1), shifts + half))
        first = np.floor(place).astype(int)
        weights = np.zeros((len(turns) + 1, 2 * half + 1, 2 * half + 1))
        for corner in np.ndindex(2, 2, 2):
            share = np.abs(1 - np.array(corner) - (place - first)).prod(1)
            np.add.at(weights, tuple((first + corner).T), density.weights * share)
        weights = weights[:-1]  # where a turn of the last place would have had its share
        free = ndimage.binary_dilation(weights > FAINT * weights.max(), np.ones((3, 3, 3)))
        return cls._trimmed(weights, free, turns, scale)

    def enlarged(self, scale: float) -> _Grid:
        """Return it for a larger copy."""
        turns, ratio = self._turns(scale), scale / self.scale
        old = self.weights.shape[-1] // 2
        half = math.ceil((old + 1) * ratio) + 1
        along = (turns / ratio - self.turns[0]) / (self.turns[1] - self.turns[0])
        across = np.arange(-half, half + 1) / ratio + old
        places = np.meshgrid(along.clip(0, len(self.turns) - 1), across, across, indexing="ij")
        weights = ndimage.map_coordinates(self.weights, places, order=1)
        free = ndimage.binary_dilation(weights > FAINT * weights.max(), np.ones((3, 3, 3)))
        return self._trimmed(weights, free, turns, scale)

    @classmethod
    def _trimmed(cls, weights: np.ndarray, free: np.ndarray, turns: np.ndarray, scale: float) -> _Grid:
        """Return a grid that is no larger than what is free, with weights of sum 1 there."""
        middle = free.shape[-1] // 2
        half = int(np.abs(np.argwhere(free)[:, 1:] - middle).max())
        inside = slice(middle - half, middle + half + 1)
        free = free[:, inside, inside]
        weights = np.where(free, weights[:, inside, inside], 0)
        return cls(weights / weights.sum(), free, turns, scale)

    def padded(self, rim: int) -> _Grid:
        """Return it with so many more shifts on each side, of weight 0."""
        sides = ((0, 0), (rim, rim), (rim, rim))
        return replace(self, weights=np.pad(self.weights, sides), free=np.pad(self.free, sides))

    def cleaned(self, values: np.ndarray) -> _Grid:
        """Return it with other weights, without what is weak or an island; as it is if nothing is left."""
        weights = np.zeros_like(self.weights)
        weights[self.free] = values
        weights[weights < WEAK * weights.max()] = 0
        island, count = ndimage.label(weights, np.ones((3, 3, 3)))
        each = np.arange(count + 1)
        lost = ndimage.sum_labels(weights, island, each) < SPECKLE * weights.sum()
        lost |= ndimage.maximum(weights, island, each) < LOW * weights.max()
        weights[lost[island]] = 0
        return replace(self, weights=weights) if weights.any() else self

    @property
    def half(self) -> int:
        """By how many pixels kernels reach to each side, wherever they are."""
        return self.weights.shape[-1] // 2 + math.ceil(self.turns[-1])

    def shares(self, down: float, right: float) -> sparse.csr_array:
        """Return the matrix (side^2, n) of the kernel at a place, in units of half the diagonal from the middle."""
        turn, i, j = np.nonzero(self.free)
        more = self.half - self.weights.shape[-1] // 2
        moved = np.stack((i - self.turns[turn] * right, j + self.turns[turn] * down), -1) + more
        return _shares(moved, 2 * self.half + 1).T.tocsr()


class _Window(NamedTuple):
    """A window of a picture, which fades into its neighbours.

    Attributes
    ----------
    rows, columns : slice
        Its pixels.
    taper : (h, w) float32 array
        Those of all windows add up to 1.
    image : PeriodicImage
        The picture there, and around.
    inside : (slice, slice)
        Its pixels in that.
    """

    rows: slice
    columns: slice
    taper: np.ndarray
    image: PeriodicImage
    inside: tuple[slice, slice]


class _WindowedPicture:
    """A blurred picture in windows, in each of which one kernel is taken for all pixels.

    Parameters
    ----------
    luma : (H, W) tensor
        The picture.
    grid : _Grid
        Of the density.
    """

    def __init__(self, luma: torch.Tensor, grid: _Grid) -> None:
        self._luma = luma.numpy().astype(np.float32)
        self._half = half = grid.half
        height, width = luma.shape
        diagonal = math.hypot(height, width) / 2
        self._windows, shares = [], []
        for rows, row, vertical in _tapers(height, WINDOW * diagonal):
            for columns, column, horizontal in _tapers(width, WINDOW * diagonal):
                outer = [slice(max(0, s.start - half), s.stop + half) for s in (rows, columns)]
                up, left = rows.start - outer[0].start, columns.start - outer[1].start
                taper = np.outer(vertical, horizontal).astype(np.float32)
                inside = slice(up, up + taper.shape[0]), slice(left, left + taper.shape[1])
                image = PeriodicImage.of(luma[outer[0], outer[1]].contiguous(), 2 * half + 1)
                self._windows.append(_Window(rows, columns, taper, image, inside))
                shares.append(grid.shares((row - (height - 1) / 2) / diagonal, (column - (width - 1) / 2) / diagonal))
        self._shares = sparse.vstack(shares, format="csr")
        largest = np.max([window.taper.shape for window in self._windows], axis=0)
        self._size = [scipy.fft.next_fast_len(int(n) + 2 * half, real=True) for n in largest]

    def _kernels(self, weights: np.ndarray) -> torch.Tensor:
        """Return the kernels (n, side, side) of all windows, for a density."""
        side = 2 * self._half + 1
        return torch.from_numpy((self._shares @ weights).astype(np.float32)).view(-1, side, side)

    def strong_edges(self, weights: np.ndarray, edge: float) -> np.ndarray:
        """Return the sharp picture (H, W) with few edges, for a density; see `PeriodicImage.strong_edges`."""
        sharp = np.zeros_like(self._luma)
        for window, kernel in zip(self._windows, self._kernels(weights), strict=True):
            spectrum = window.image.strong_edges(kernel, edge)
            part = torch.fft.irfft2(spectrum, s=window.image.size).numpy()[window.inside]
            sharp[window.rows, window.columns] += window.taper * part
        return sharp

    def fitted(self, sharp: np.ndarray, start: np.ndarray, ridge: float) -> np.ndarray:
        """Return the density that makes the picture's gradients of those of a sharp one, by least squares.

        Parameters
        ----------
        sharp : (H, W) array
            The sharp picture.
        start : (n,) array
            Weights where the density is free.
        ridge : float
            Weight of their squares.

        Returns
        -------
        weights : (n,) array
            Not negative.

        References
        ----------
        R. H. Byrd, P. Lu, J. Nocedal, C. Zhu, "A limited memory algorithm for bound constrained optimization", SIAM
        Journal on Scientific Computing 16, 1995.
        """
        cost, bounds = self.cost(sharp, ridge), [(0, None)] * len(start)
        found = minimize(cost, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": SEARCHES})
        return np.asarray(found.x)

    def cost(self, sharp: np.ndarray, ridge: float) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
        """Return the function whose minimum `fitted` looks for, with its gradient.

        The windows of the sharp picture are blurred, each by its kernel, and added. Near the border light comes from
        where nothing is known; what lies there does not count.
        """
        half, side, size = self._half, 2 * self._half + 1, self._size
        height, width = self._luma.shape
        # Where windows lie, with what blurs out of them, in a picture with a rim.
        places = [
            (slice(w.rows.start, w.rows.stop + 2 * half), slice(w.columns.start, w.columns.stop + 2 * half))
            for w in self._windows
        ]
        counts = slice(2 * half, height), slice(2 * half, width)
        seen = self._luma[half : height - half, half : width - half]

        def spectra_of(parts: Iterable[np.ndarray]) -> torch.Tensor:
            whole = torch.zeros(len(self._windows), *size)
            for to, part in zip(whole, parts, strict=True):
                to[: part.shape[0], : part.shape[1]] = torch.from_numpy(part)
            return torch.fft.rfft2(whole)

        spectra = spectra_of(w.taper * sharp[w.rows, w.columns] for w in self._windows)
        scale = float(np.vdot(_roughened(sharp), sharp))

        def cost(weights: np.ndarray) -> tuple[float, np.ndarray]:
            blurred = np.zeros((height + 2 * half, width + 2 * half), np.float32)
            parts = torch.fft.irfft2(spectra * torch.fft.rfft2(self._kernels(weights), s=size), s=size).numpy()
            for place, part in zip(places, parts, strict=True):
                target = blurred[place]
                target += part[: target.shape[0], : target.shape[1]]
            off = blurred[counts] - seen
            rough = np.zeros_like(blurred)
            rough[counts] = _roughened(off)
            pulled = torch.fft.irfft2(spectra_of(rough[place] for place in places) * spectra.conj(), s=size)
            slopes = self._shares.T @ pulled[:, :side, :side].flatten().double().numpy() + ridge * weights
            value = 0.5 * float(np.vdot(rough[counts], off)) + 0.5 * ridge * float(weights @ weights)
            return value / scale, slopes / scale

        return cost


def _tapers(length: int, step: float) -> list[tuple[slice, float, np.ndarray]]:
    """Divide a length into windows that fade into each other: pixels, centre and weights of each."""
    count = max(1, round(length / step))
    place = (np.arange(length) + 0.5) * count / length - 0.5
    found = []
    for number in range(count):
        off = place - number
        # Before the first window's centre, and after the last one's, there is no neighbour.
        off = off.clip(min=0) if number == 0 else off
        off = off.clip(max=0) if number == count - 1 else off
        taper = np.cos(0.5 * math.pi * off.clip(-1, 1)) ** 2
        inside = np.flatnonzero(np.abs(off) < 1)
        pixels = slice(int(inside[0]), int(inside[-1]) + 1)
        found.append((pixels, (number + 0.5) * length / count - 0.5, taper[pixels]))
    return found


def _roughened(image: np.ndarray) -> np.ndarray:
    """Return the product of an image with the matrix whose square form is the sum of its squared differences."""
    rough = np.zeros_like(image)
    for axis in (0, 1):
        difference = np.diff(image, axis=axis)
        before, after = ((slice(None),) * axis + (s,) for s in (slice(None, -1), slice(1, None)))
        rough[before] -= difference
        rough[after] += difference
    return rough
