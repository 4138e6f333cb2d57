"""What the power spectrum of a photograph says about its motion.

A straight motion m multiplies the spectrum of what is seen by sinc(f . m): it leaves dark stripes across the motion,
whose distance is one over its length. A network sees them vaguely; a likelihood measures them to a few per cent, and
adds up over the whole picture. So it refines what the network found, and judges between what may be.

The power of a picture's gradients in a window is modelled as independent exponential variables (Whittle's likelihood)
of mean

    E(f) = c_s |f|^-a g(f) (sinc^2(f . m) + floor) + noise^2 g(f),

where g is the gain of the gradient filter, a is one exponent and floor one number for the whole picture, and c_s are
amplitudes of their own for each window and each sector s of directions: edges make the spectrum of a window anything
but isotropic. So nothing is assumed of the scene but that its spectrum falls smoothly along each direction.

References
----------
P. Whittle, "The analysis of multiple stationary time series", J. Royal Statistical Society B 15(1), 1953.
A. Chakrabarti, T. Zickler, W. T. Freeman, "Analyzing spatially-varying blur", CVPR 2010.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch.nn import functional as F

WINDOW = 96
"""Side of the windows in pixels: some three times the longest motion."""

SECTORS = 16
"""Directions with amplitudes of their own, in the half plane of frequencies."""

HIGHEST = 0.25
"""Highest frequency that is looked at, in cycles per pixel; above it a moved picture holds little but noise."""

FLOORS = (2e-3, 4e-3, 8e-3, 0.015, 0.03, 0.06, 0.1, 0.2)
"""What may be left of the power where the motion puts it out, of that where it does not: little if the motion was
straight, at even speed and nearly the same all over the window; in frames averaged from a film it is 0.06 to 0.2."""

FLOOR = 0.03
"""The floor to begin with. Motions without one are found with it nearly as exactly as with the smallest; others, whose
dark stripes are none, are not mistaken for shorter ones."""

LEAST_NOISE = 1e-3
"""Smallest standard deviation of the noise: 8-bit rounding, and what no model explains."""

UPDATES = 3
"""Updates of the amplitudes: a multiplicative one, which never overshoots, then Fisher scoring, which ends quickly."""

ALL, FINE, COARSE = (1, 1, 1), (1, 1, 2), (1, 2, 4)
"""Lattices of the frequencies that are looked at, as (a, b, c): rows i and columns j of a spectrum where a i + b j is a
multiple of c. The taper spreads each frequency over its neighbours, so every other one, as on a chessboard, tells as
much as all of them (99 %), and every fourth one most of it."""

TOGETHER = 150_000
"""About as many powers, of windows and motions, are compared with what is expected of them together: the operations on
fewer take no less time, and more leave the processor's cache."""

MANY = 32
"""Windows from which on not all frequencies are looked at."""


SMALLEST = 64
"""Shorter side in pixels of a picture whose spectra are looked at."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: hundreds of operations on small tensors take longer on several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Windows(Protocol):
    """A luminance in [0, 1] that is read window by window.

    Attributes
    ----------
    shape : (int, int)
        H and W.
    """

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        ...

    def __call__(self, rows: slice, columns: slice) -> torch.Tensor:
        """Return a window, (1, 1, h, w) float32."""
        ...


@runtime_checkable
class UnevenNoise(Protocol):
    """`Windows` in some places of which there is more noise than in others."""

    def noise_gain(self, rows: slice, columns: slice) -> torch.Tensor:
        """Return how many times the photograph's noise each pixel of a window has, (1, 1, h, w)."""
        ...


@dataclass(frozen=True)
class Luma:
    """A luminance (1, 1, H, W) that is in memory, as `Windows`."""

    image: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def __call__(self, rows: slice, columns: slice) -> torch.Tensor:
        """Return a window, (1, 1, h, w)."""
        return self.image[..., rows, columns]


@dataclass(frozen=True)
class _Frequencies:
    """The frequencies of a window that are looked at, in arrays of (k, sectors, 1).

    So sums over a sector are sums over the first axis, and amplitudes of each sector and window are broadcast over it.
    Sectors of fewer than k frequencies end in places without gain.

    Attributes
    ----------
    index : (f,) array
        Where each frequency lies in a flattened spectrum of half the plane.
    place : two (f,) arrays
        Where it lies in the first and second axis here.
    weight : float
        Number of frequencies, with those that the lattice leaves out, over f.
    gain, log_radius : (k, sectors, 1) tensors
        Power that white noise has in the differences, and logarithm of the frequency in cycles per pixel.
    score, radial, squares, mixed, radial_squares : (., k sectors) tensors
        What `SpectralEvidence.slopes` sums with: products of the derivatives' factors, for each sector and over all.
    """

    index: np.ndarray
    place: tuple[np.ndarray, np.ndarray]
    weight: float
    gain: torch.Tensor
    log_radius: torch.Tensor
    score: torch.Tensor
    radial: torch.Tensor
    squares: torch.Tensor
    mixed: torch.Tensor
    radial_squares: torch.Tensor


@lru_cache(maxsize=16)
def _frequencies(side: int, lattice: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> _Frequencies:
    """Return those of a window of so many pixels on a lattice, as `FINE`."""
    row, column = np.meshgrid(np.arange(side) - side // 2, np.arange(side // 2 + 1), indexing="ij")
    radius = np.hypot(row, column) / side
    # The lowest belong to the window rather than to the picture; those of fx = 0 come twice.
    used = (radius > 2.5 / side) & (radius < HIGHEST) & ~((column == 0) & (row < 0))
    kept = used & ((lattice[0] * row + lattice[1] * column) % lattice[2] == 0)
    row, column = row[kept], column[kept]
    sector = np.arctan2(row, column) % math.pi / math.pi * SECTORS
    sector = np.minimum(sector.astype(int), SECTORS - 1)
    order = np.argsort(sector, kind="stable")
    row, column, sector = row[order], column[order], sector[order]
    count = np.bincount(sector, minlength=SECTORS)
    place = (np.arange(len(sector)) - (np.cumsum(count) - count)[sector], sector)

    def arranged(values: np.ndarray) -> torch.Tensor:
        array = np.zeros((int(count.max()), SECTORS), np.float32)
        array[place] = values
        return torch.from_numpy(array).to(device, dtype)[..., None]

    def moments(*factors: np.ndarray) -> torch.Tensor:
        return torch.stack([arranged(factor).flatten() for factor in factors])

    fx, fy = column / side, row / side
    gain = 4 * np.sin(math.pi * fx) ** 2 + 4 * np.sin(math.pi * fy) ** 2
    log_radius = np.log(np.hypot(fx, fy))
    x, y, r = math.pi * fx, math.pi * fy, -log_radius
    inside = np.eye(SECTORS)[sector].T
    return _Frequencies(
        (row % side) * (side // 2 + 1) + column,
        place,
        float(used.sum()) / len(row),
        arranged(gain),
        arranged(log_radius),
        score=moments(x, y),
        radial=moments(r, *inside),
        squares=moments(x * x, x * y, y * y),
        mixed=moments(x * r, y * r, *(inside * x), *(inside * y)),
        radial_squares=moments(r * r, *(inside * r), *inside),
    )


def _inside(centres: np.ndarray, pixels: slice) -> np.ndarray:
    """Return which centres (n,) lie among some pixels: the nearest one if none does."""
    inside = (centres >= pixels.start) & (centres < pixels.stop)
    if not inside.any():
        inside[np.abs(centres - (pixels.start + pixels.stop - 1) / 2).argmin()] = True
    return inside


class SpectralEvidence:
    """Power spectra of windows of one photograph, and how likely motions make them.

    Parameters
    ----------
    luma : (1, 1, H, W) tensor or Windows
        Luminance in [0, 1].
    noise : float
        Standard deviation of its noise.
    step : int
        Largest distance of neighbouring windows, in pixels.
    window : int
        Side of the windows; smaller pictures have smaller ones.
    lattice : (int, int, int), optional
        Of the frequencies, as `FINE`, which it is for `MANY` windows; likelihoods are scaled up for those left out.
    floor : float
        What motions leave of the power where they put it out; see `FLOORS`.

    Attributes
    ----------
    x, y : (n,) float64 arrays
        Centres of the windows, in pixels.
    shape : (int, int)
        Rows and columns of windows, n in all.
    brightest : (n,) tensor
        Largest luminance of each window.
    """

    def __init__(
        self,
        luma: torch.Tensor | Windows,
        noise: float,
        step: int = 48,
        window: int = WINDOW,
        lattice: tuple[int, int, int] | None = None,
        floor: float = FLOOR,
    ):
        self.floor = floor
        read = Luma(luma) if isinstance(luma, torch.Tensor) else luma
        height, width = read.shape
        side = min(window, height - 1, width - 1) // 2 * 2
        if side < 16:
            raise ValueError(f"the picture must have at least 17 x 17 pixels, got {height} x {width}")
        rows, columns = (
            np.unique(np.linspace(0, n - 1 - side, -(-(n - 1 - side) // step) + 1).round().astype(int))
            for n in (height, width)
        )
        self.shape = (len(rows), len(columns))
        # One pixel more each way, for the differences.
        cut = torch.stack([read(slice(r, r + side + 1), slice(c, c + side + 1))[0, 0] for r in rows for c in columns])
        self.device, self.brightest = cut.device, cut.amax((-2, -1))
        self._rows, self._columns = rows + side / 2, columns + side / 2
        y, x = np.meshgrid(rows + side / 2, columns + side / 2, indexing="ij")
        self.x, self.y = x.ravel(), y.ravel()

        hann = torch.hann_window(side, periodic=False, dtype=cut.dtype, device=cut.device)
        taper = hann[:, None] * hann
        taper = taper / taper.square().sum().sqrt()

        def power(gradient: torch.Tensor) -> torch.Tensor:
            mean = (gradient * taper).sum((-2, -1), keepdim=True) / taper.sum()
            return torch.view_as_real(torch.fft.rfft2((gradient - mean) * taper)).square().sum(-1)

        corner = cut[:, :-1, :-1]
        dx, dy = cut[:, :-1, 1:] - corner, cut[:, 1:, :-1] - corner
        self._side, self._sigma = side, max(noise, LEAST_NOISE)
        # Of its power, in each window.
        self._noisier = cut.new_ones(len(cut))
        if isinstance(read, UnevenNoise):
            places = [(slice(r, r + side + 1), slice(c, c + side + 1)) for r in rows for c in columns]
            gain = torch.stack([read.noise_gain(*place)[0, 0, :-1, :-1] for place in places])
            self._noisier = (gain * taper).square().sum((-2, -1))
        self._spectra = (power(dx) + power(dy)).flatten(1).T
        self._arrange(lattice)

    @cached_property
    def coarse(self) -> SpectralEvidence:
        """The same windows, if they are `MANY` on the lattice `COARSE`: for comparing many motions."""
        if len(self.x) < MANY:
            return self
        other = copy.copy(self)
        other._arrange(COARSE)
        return other

    def with_floor(self, floor: float) -> SpectralEvidence:
        """Return the same spectra, looked at with another floor of the motions' power."""
        other = copy.copy(self)
        other.floor = floor
        other._copies = {}
        if "coarse" in vars(self):
            vars(other)["coarse"] = other if self.coarse is self else self.coarse.with_floor(floor)
        return other

    def within(self, rows: slice, columns: slice) -> SpectralEvidence:
        """Return the spectra of those windows alone whose centres lie in a part of the picture, or nearest to it.

        Parameters
        ----------
        rows, columns : slice
            Pixels of the part, with a start and a stop.
        """
        down, right = _inside(self._rows, rows), _inside(self._columns, columns)
        kept = np.outer(down, right).ravel()
        other = copy.copy(self)
        vars(other).pop("coarse", None)
        other.shape = (int(down.sum()), int(right.sum()))
        other._rows, other._columns = self._rows[down], self._columns[right]
        other.x, other.y, other.brightest = self.x[kept], self.y[kept], self.brightest[kept]
        other._noisier, other._spectra = self._noisier[kept], self._spectra[:, kept]
        other._arrange()
        return other

    def with_noise(self, noise: float) -> SpectralEvidence:
        """Return the same spectra, looked at with another standard deviation of the noise."""
        other = copy.copy(self)
        other._sigma = max(noise, LEAST_NOISE)
        other._set_noise()
        if "coarse" in vars(self):
            vars(other)["coarse"] = other if self.coarse is self else self.coarse.with_noise(noise)
        return other

    @property
    def noise(self) -> float:
        """Standard deviation of the noise, on the [0, 1] scale."""
        return self._sigma

    def usual_floor(self, double: np.ndarray) -> float:
        """Return the floor that even, straight motions leave for reasons of geometry: the median over the windows.

        Near the first stripe the power is the square of the error of f . m. The taper spreads each frequency by a
        variance of 1 / (3 side^2) along each axis (the energy of a Hann window's derivative over its own), and sees
        places whose variance is side^2 / 50, between which the motion differs. What it grows by matters at f = 1 /
        length; what it turns by at the frequencies along the stripe, up to `HIGHEST`.

        Parameters
        ----------
        double : (n, 2) array
            Double-angle vectors of the windows, in pixels.
        """
        field = double.reshape(*self.shape, 2)
        length = np.maximum(np.hypot(*np.moveaxis(field, -1, 0)), 1.0)
        unit = field / length[..., None]
        growth, turn = np.zeros_like(length), np.zeros_like(length)
        for axis, centres in enumerate((self._rows, self._columns)):
            if len(centres) > 1:
                slope = np.gradient(field, centres, axis=axis)
                growth += (slope * unit).sum(-1) ** 2
                turn += ((slope[..., 1] * unit[..., 0] - slope[..., 0] * unit[..., 1]) / 2) ** 2
        apart = self._side**2 / 50
        leaked = length**2 / (3 * self._side**2)
        return float(np.median(leaked + apart * (growth / length**2 + HIGHEST**2 / 3 * turn)))

    def _arrange(self, lattice: tuple[int, int, int] | None = None) -> None:
        """Choose frequencies, and bring their powers into an array (k, sectors, n)."""
        lattice = lattice or (ALL if len(self.x) < MANY else FINE)
        self._at = at = _frequencies(self._side, lattice, self._spectra.dtype, self._spectra.device)
        self._power = self._spectra.new_zeros(*at.gain.shape[:2], self._spectra.shape[1])
        self._power[at.place] = self._spectra[at.index]
        self._set_noise()

    def _set_noise(self) -> None:
        """Set what follows from the standard deviation of the noise."""
        self._copies: dict[int, SpectralEvidence] = {}
        noise = self._sigma**2 * self._at.gain * self._noisier
        # Places that hold no frequency add the logarithm of 1.
        self._noise = torch.where(self._at.gain > 0, noise, 1.0).expand_as(self._power).contiguous()
        # Where to look for the amplitudes first: what is above the noise, or else a little.
        total = self._power.sum(0)
        self._least = torch.maximum(total - noise.sum(0), 0.05 * total).clamp(min=1e-12)

    def sample(self, planes: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        """Return the values (C, n) at the windows' centres of planes (C, h, w) that cover the picture of a shape."""
        place = np.stack(((self.x + 0.5) * 2 / shape[1] - 1, (self.y + 0.5) * 2 / shape[0] - 1), -1)
        at = torch.from_numpy(place).to(planes)[None, None]
        return F.grid_sample(planes[None], at, padding_mode="border", align_corners=False)[0, :, 0]

    def spread(self, values: torch.Tensor, size: tuple[int, int], shape: tuple[int, int]) -> torch.Tensor:
        """Return planes (C, *size) that cover the picture of a shape, bilinear between the windows' values (C, n)."""
        axes = []
        for centres, count, length in zip((self._rows, self._columns), size, shape, strict=True):
            place = (np.arange(count) + 0.5) * length / count - 0.5
            axes.append(np.interp(place, centres, np.linspace(-1, 1, len(centres))) if len(centres) > 1 else 0 * place)
        y, x = np.meshgrid(*axes, indexing="ij")
        at = torch.from_numpy(np.stack((x, y), -1)).to(values)[None]
        return F.grid_sample(values.view(1, -1, *self.shape), at, padding_mode="border", align_corners=True)[0]

    def log_likelihood(self, motion: torch.Tensor, exponent: float) -> torch.Tensor:
        """Return the log-likelihood of every window, up to a constant of its own.

        Parameters
        ----------
        motion : (..., n, 2) tensor
            The motion of each window, in pixels.
        exponent : float
            By which the power of the scene falls.

        Returns
        -------
        values : (..., n) tensor
        """
        fields = motion.reshape(-1, *motion.shape[-2:])
        found = [
            self._repeated(len(some))._log_likelihood(_stripes(self._turns(some.flatten(0, 1))), exponent)
            for some in fields.split(self._together)
        ]
        return torch.cat(found).view(motion.shape[:-1])

    @property
    def _together(self) -> int:
        """So many motions of all windows are looked at together, as if there were more windows."""
        return max(1, TOGETHER // self._power.numel())

    def _repeated(self, count: int) -> SpectralEvidence:
        """Return the evidence of so many copies of all windows, one after the other."""
        if count == 1:
            return self
        if count not in self._copies:
            self._copies[count] = other = copy.copy(self)
            other._copies = {}  # else each would hold the other
            other._power, other._noise = (t.repeat(1, 1, count) for t in (self._power, self._noise))
            other._least = self._least.repeat(1, count)
        return self._copies[count]

    def log_likelihood_of_discs(self, radius: torch.Tensor, exponent: float) -> torch.Tensor:
        """Return the log-likelihood of every window if nothing moved but a lens was out of focus.

        Parameters
        ----------
        radius : (k,) tensor
            Of the discs that points become, in pixels; 0 is in focus.
        exponent : float
            By which the power of the scene falls.

        Returns
        -------
        values : (k, n) tensor
        """
        argument = (2 * math.pi * self._at.log_radius.exp() * radius).clamp(min=1e-3)
        rings = (2 * torch.special.bessel_j1(argument) / argument).square()
        count = len(self.x)
        found = [
            self._repeated(some.shape[-1])._log_likelihood(some.repeat_interleave(count, -1), exponent)
            for some in rings.split(self._together, -1)
        ]
        return torch.cat(found).view(-1, count)

    def kernel_power(self, psf: np.ndarray) -> torch.Tensor:
        """Return the power that a kernel leaves of each frequency.

        Parameters
        ----------
        psf : (h, w) or (n, h, w) array
            The kernel, or that in each window.

        Returns
        -------
        power : (k, sectors, 1 or n) tensor
        """
        down, along = self._waves(psf.shape[-2:])
        response = ((psf.reshape(-1, *psf.shape[-2:]) @ along) * down).sum(-2)
        return torch.from_numpy(np.square(np.abs(response)).T).to(self._power).view(-1, SECTORS, len(response))

    def kernel_slopes(self, psf: np.ndarray, exponent: float) -> np.ndarray:
        """Return where in a kernel there should be more and where less, by the spectra of all windows together.

        Parameters
        ----------
        psf : (h, w) array
            The kernel.
        exponent : float
            By which the power of the scene falls.

        Returns
        -------
        slopes : (2, h, w) array
            First the derivative of the sum of `log_likelihood_of_kernel` by each pixel, when the amplitudes are the
            most likely ones. Then the sum of waves that have the phase of the kernel's at each frequency, and as
            amplitude how much less power it has there than the windows, in standard deviations of that.
        """
        down, along = self._waves(psf.shape)
        response = ((psf @ along) * down).sum(0)
        power = torch.from_numpy(np.square(np.abs(response))).to(self._power).view(-1, SECTORS, 1)
        shape = self._scene(exponent) * (power + self.floor)
        amplitude = self._amplitude(shape)
        expected = torch.addcmul(self._noise, amplitude, shape)
        by_power = amplitude * self._scene(exponent) / expected
        slope = self._at.weight * (by_power * (self._power / expected - 1)).sum(-1).flatten().cpu().double().numpy()
        sharpness = self._at.weight * by_power.square().sum(-1).flatten().cpu().double().numpy()
        phase = response.conj() / np.maximum(np.abs(response), 1e-12)
        deviations = slope / np.sqrt(np.maximum(sharpness, 1e-12))
        waves = np.stack((2 * slope * response.conj(), deviations * phase))
        return ((waves[:, None] * down) @ along.T).real

    def _waves(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return the factors, along both axes, of the waves that a kernel (h, w) is multiplied by, (h, n) and (w, n).

        One axis after the other, as few frequencies are looked at.
        """
        fx, fy = (f.cpu().double().numpy() / math.pi for f in self._at.score)
        down, along = (
            np.exp(-2j * math.pi * np.outer(np.arange(n) - n // 2, f)) for n, f in zip(shape, (fy, fx), strict=True)
        )
        return down, along

    def log_likelihood_of_power(self, power: torch.Tensor, exponent: float) -> torch.Tensor:
        """Return the log-likelihood (n,) of every window if kernels blurred them.

        Parameters
        ----------
        power : (k, sectors, 1 or n) tensor
            What `kernel_power` returns for the same windows and frequencies.
        exponent : float
            By which the power of the scene falls.
        """
        return self._log_likelihood(power, exponent)

    def log_likelihood_of_kernel(self, psf: np.ndarray, exponent: float) -> torch.Tensor:
        """Return the log-likelihood (n,) of every window if all were blurred by one kernel (h, w)."""
        return self._log_likelihood(self.kernel_power(psf), exponent)

    def _turns(self, motion: torch.Tensor) -> torch.Tensor:
        """Return pi times the number of turns of each frequency along motions (n, 2), never 0."""
        turns = self._at.score.T @ motion.T
        return turns.add_(1e-9).view(-1, SECTORS, len(motion))

    def _scene(self, exponent: float) -> torch.Tensor:
        return self._at.gain * torch.exp(-exponent * self._at.log_radius)

    def _log_likelihood(self, blur: torch.Tensor, exponent: float) -> torch.Tensor:
        """Return the log-likelihood (n,) for the power (k, sectors, n or 1) that a blur leaves."""
        shape = self._scene(exponent) * (blur + self.floor)
        expected = torch.addcmul(self._noise, self._amplitude(shape), shape)
        return -self._at.weight * (expected.log() + self._power / expected).sum((0, 1))

    def slopes(self, motion: torch.Tensor, exponent: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the log-likelihood of every window, its derivatives, and how sharp it is on average.

        Written out, as automatic differentiation would compute on threads of its own, against those of everything else.

        Parameters
        ----------
        motion : (n, 2) tensor
            The motion of each window, in pixels.
        exponent : float
            By which the power of the scene falls.

        Returns
        -------
        values : (n,) tensor
        gradient : (n, 3) tensor
            By u, v and the exponent.
        information : (n, 3, 3) tensor
            Fisher's, of these three, when the amplitudes are unknown.
        """
        turns = self._turns(motion)
        sinc = torch.sin(turns) / turns
        slope = (torch.cos(turns) - sinc) / turns
        blur = sinc * sinc + self.floor
        shape = self._scene(exponent) * blur
        amplitude = self._amplitude(shape)
        expected = torch.addcmul(self._noise, amplitude, shape)
        ratio = self._power / expected
        values = -self._at.weight * (expected.log() + ratio).sum((0, 1))
        # The derivatives of the logarithm of the expected power: by those of the amplitudes; and by the turns.
        by_amplitude = amplitude * shape / expected
        by_turns = by_amplitude * (2 * sinc * slope / blur)
        ratio -= 1
        n = len(motion)

        def total(moments: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
            return moments @ values.view(-1, n)

        radial = total(self._at.radial, ratio * by_amplitude)
        gradient = torch.cat((total(self._at.score, ratio * by_turns), radial[:1]))
        squares = total(self._at.squares, by_turns * by_turns)
        mixed = total(self._at.mixed, by_turns * by_amplitude)
        radial_squares = total(self._at.radial_squares, by_amplitude * by_amplitude)
        xx, xy, yy = squares
        xr, yr, rr = mixed[0], mixed[1], radial_squares[0]
        whole = torch.stack((xx, xy, xr, xy, yy, yr, xr, yr, rr)).view(3, 3, n)
        # What the amplitudes could do as well tells nothing.
        shared = torch.stack((*mixed[2:].split(SECTORS), radial_squares[1 : 1 + SECTORS]))
        own = radial_squares[1 + SECTORS :].clamp(min=1e-6)
        relative = shared / own
        information = whole - (relative[:, None] * shared).sum(2)
        # The amplitudes are only nearly the best ones, by which the derivative would vanish.
        gradient = gradient - (relative * radial[1:]).sum(1)
        return values, self._at.weight * gradient.T, self._at.weight * information.permute(2, 0, 1)

    def _amplitude(self, shape: torch.Tensor) -> torch.Tensor:
        """Return the most likely amplitudes, (sectors, n)."""
        amplitude = self._least / shape.sum(0).clamp(min=1e-20)
        for update in range(UPDATES):
            inverse = torch.addcmul(self._noise, amplitude, shape).reciprocal_()
            relative = inverse * shape
            seen = inverse.mul_(self._power).mul_(relative).sum(0)
            expected = relative.sum(0).clamp(min=1e-20)
            if update == 0:
                factor = seen / expected
            else:
                sharp = amplitude * (relative * relative).sum(0)
                factor = (1 + (seen - expected) / sharp.clamp(min=1e-20)).clamp(0.1, 10.0)
            amplitude = (amplitude * factor).clamp(min=1e-12)
        return amplitude


def _stripes(turns: torch.Tensor) -> torch.Tensor:
    return (torch.sin(turns) / turns).square_()
