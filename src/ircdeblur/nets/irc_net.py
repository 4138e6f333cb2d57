"""IRC-Net: a few stages of ADMM with iterated residual compensation, unrolled into a network (section 3.2, Fig. 3).

A stage finds auxiliary images for the prior filters, z_i, and then compensates what is left to explain,

    x  <-  x + a C^-1 (A'(y - A x) + sum_i rho_i k_i' (z_i - k_i * x)),        C ~ A'A + sum_i rho_i k_i' k_i,

T times, with the local inverse filters of `ircdeblur.solvers.compensation`: d_0 = C^-1 A' for the observation and
d_i = C^-1 rho_i k_i' for the prior filters. What is learned:

- in `ShrinkageIRCNet`, the paper's: the prior filters k_i, the penalties rho_i of each stage, the shrinkage functions
  by which z_i follows from k_i * x and the multipliers, the multipliers' rates, and a gain of the inverse filters of
  each motion of the bank at each frequency, which the windows of a photograph mix as Eq. 17 does. Before any training
  it is the solver ``irc``;
- in `IRCNet`: penalties, the merging of the three deblurred residuals, and in place of the shrinkage a small
  convolutional network, whose features go on from stage to stage as the multipliers do. It proposes an image v, and
  z_i = k_i * v; it sees x, what was compensated, the noise, the motion and how certain that is.

References
----------
Eboli, Sun & Ponce, sections 3.2, 3.3 and 5.
Y. Yang, J. Sun, H. Li, Z. Xu, "Deep ADMM-Net for compressive sensing MRI", NeurIPS 2016: piecewise linear shrinkage.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ircdeblur.kernels import ANGLES, MotionBank
from ircdeblur.motion import to_double_angle
from ircdeblur.nets.hub import HubMixin
from ircdeblur.operators import MotionBlur, UniformBlur, pad_adjoint
from ircdeblur.solvers.admm import Callback, difference
from ircdeblur.solvers.color import from_opponent, to_opponent
from ircdeblur.solvers.compensation import WINDOW, Compensation, local_inverse
from ircdeblur.solvers.domain import MIN_NOISE, ExtendedDomain, Observation
from ircdeblur.solvers.filtering import centred_response
from ircdeblur.solvers.mm import majorise_minimise
from ircdeblur.solvers.settings import DEFAULTS, NOISE_EXPONENT, prior_weight

Blur = UniformBlur | MotionBlur

UNIT_NOISE = 0.01
"""Noise at which the initial penalties and thresholds hold."""

LENGTH_UNIT = 16.0
"""Pixels to which the lengths that a network sees are relative."""


class InverseGain(nn.Module):
    """Trainable factors of the inverse filters of the bank's motions, one for each frequency; 1 before any training.

    Motions that are mirror images or transposes of each other share theirs, so 137 of the 511 are stored, and the
    inverse filters of a picture that is turned or mirrored are turned or mirrored.

    Parameters
    ----------
    window : int
        P, the size of the transforms.
    """

    def __init__(self, window: int = WINDOW):
        super().__init__()
        steps = len(ANGLES)
        source: list[list[int]] = [[], [], [], []]
        stored: dict[tuple[float, int], int] = {}
        for motion, (length, _) in enumerate(MotionBank().motions):
            turn = (motion - 1) % steps if motion else 0
            mirrored = turn > steps // 2
            turn = steps - turn if mirrored else turn
            transposed = turn > steps // 4
            turn = steps // 2 - turn if transposed else turn
            for kind in range(4):
                # One past the end where this motion is not of the kind.
                here = kind == mirrored + 2 * transposed
                source[kind].append(stored.setdefault((float(length), turn), len(stored)) if here else -1)
        self.kinds = [torch.tensor(indices) for indices in source]
        self.excess = nn.Parameter(torch.zeros(len(stored), window, window // 2 + 1))

    def forward(self, shares: torch.Tensor) -> torch.Tensor:
        """Average the factors of motions.

        Parameters
        ----------
        shares : (N, 511) tensor
            Of the bank's motions in N windows; each row adds up to 1.

        Returns
        -------
        gain : (N, P, P // 2 + 1) tensor
        """
        total = torch.ones((), dtype=shares.dtype, device=shares.device)
        for kind, indices in enumerate(self.kinds):
            motions = (indices >= 0).nonzero()[:, 0].to(shares.device)
            stored = indices.to(shares.device)[motions]
            # What the averages have in common with all that is symmetric is done on them, which are fewer.
            part = torch.einsum("nm,mrc->nrc", shares[:, motions], self.excess[stored])
            total = total + _oriented(part, mirrored=kind % 2 == 1, transposed=kind >= 2)
        return total


def _oriented(half: torch.Tensor, mirrored: bool, transposed: bool) -> torch.Tensor:
    """Return the response of transposed, then mirrored filters: real, point-symmetric, halves (N, P, P // 2 + 1)."""
    if transposed:
        window, columns = half.shape[-2:]
        rest = _opposite(half[..., 1 : window - columns + 1].flip(-1))
        half = torch.cat((half, rest), -1).transpose(-1, -2)[..., :columns]
    return _opposite(half) if mirrored else half


def _opposite(rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of the negative frequencies: F(-r, c)."""
    return rows.flip(-2).roll(1, -2)


def difference_filters(count: int, size: int) -> torch.Tensor:
    """Return the initial prior filters, (count, 1, size, size), correlated with the image.

    The first differences along rows and columns; then, as far as asked for, those along the diagonals, the second
    differences, and first differences two pixels wide.
    """
    one, half, root = 1.0, 0.5, math.sqrt(0.5)
    taps: list[dict[tuple[int, int], float]] = [
        {(0, 0): one, (0, -1): -one},
        {(0, 0): one, (-1, 0): -one},
        {(0, 0): root, (-1, -1): -root},
        {(0, 0): root, (-1, 1): -root},
        {(0, 0): one, (0, -1): -half, (0, 1): -half},
        {(0, 0): one, (-1, 0): -half, (1, 0): -half},
        {(0, 1): half, (0, -1): -half},
        {(1, 0): half, (-1, 0): -half},
    ]
    if not 2 <= count <= len(taps) or size < 3 or size % 2 == 0:
        raise ValueError(f"there are 2 to {len(taps)} prior filters of odd size from 3 on, got {count} of {size}")
    filters = torch.zeros(count, 1, size, size)
    for one_filter, values in zip(filters, taps, strict=False):
        for (row, column), value in values.items():
            one_filter[0, size // 2 + row, size // 2 + column] = value
    return filters


class Prior(Protocol):
    """The prior filters k_i as an operator."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return k_i * x, (B, C, n, H, W), of images (B, C, H, W) that are continued by their rim."""
        ...

    def adjoint(self, z: torch.Tensor) -> torch.Tensor:
        """Return sum_i k_i' z_i, (B, C, H, W): the transpose."""
        ...

    def powers(self, size: tuple[int, int]) -> torch.Tensor:
        """Return |K_i|^2 at the size of a transform, (n, H, W // 2 + 1)."""
        ...


class Differences:
    """The first differences along rows and columns."""

    def __init__(self, like: torch.Tensor):
        self.taps = difference_filters(2, 3).to(like)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C, 2, H, W)."""
        return torch.stack((difference(x, -1), difference(x, -2)), 2)

    def adjoint(self, z: torch.Tensor) -> torch.Tensor:
        """(B, C, 2, H, W) to (B, C, H, W)."""
        return self.adjoint_of(z, 0) + self.adjoint_of(z, 1)

    def adjoint_of(self, z: torch.Tensor, i: int) -> torch.Tensor:
        """Return k_i' z_i, (B, C, H, W)."""
        along, dim = z[:, :, i], -1 - i
        # What lies before the first place is a copy of it: its difference is 0.
        inner = along.narrow(dim, 1, along.shape[dim] - 1)
        before, after = ((1, 0), (0, 1)) if dim == -1 else ((0, 0, 1, 0), (0, 0, 0, 1))
        return F.pad(inner, before) - F.pad(inner, after)

    def powers(self, size: tuple[int, int]) -> torch.Tensor:
        """Return |K_i|^2, (2, H, W // 2 + 1)."""
        return centred_response(self.taps[:, 0], size).abs().square()


NEIGHBOURS = 8
"""Pixels of a row that `Filters.adjoint` computes at once."""


class Filters(nn.Module):
    """Trainable filters.

    Parameters
    ----------
    count, size : int
        Number and side; see `difference_filters` for what they are at the start.
    """

    def __init__(self, count: int, size: int):
        super().__init__()
        self.taps = nn.Parameter(difference_filters(count, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C, n, H, W)."""
        size, reach = self.taps.shape[-1], self.taps.shape[-1] // 2
        padded = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
        # The rows of the filters as channels: a convolution of one channel is not vectorised as well.
        rows = torch.cat([padded[:, :, i : i + x.shape[-2]] for i in range(size)], 1)
        return F.conv2d(rows, self.taps.transpose(1, 2)).unflatten(0, x.shape[:2])

    def adjoint(self, z: torch.Tensor) -> torch.Tensor:
        """(B, C, n, H, W) to (B, C, H, W)."""
        reach = self.taps.shape[-1] // 2
        rows, columns = (n + 2 * reach for n in z.shape[-2:])
        # Neighbours in a row as channels, which fill the vector registers: a convolution to one channel does not.
        row = self.taps.flip(-1, -2)[:, 0]
        taps = torch.stack([F.pad(row, (i, NEIGHBOURS - 1 - i)) for i in range(NEIGHBOURS)])
        padded = F.pad(z.flatten(0, 1), (2 * reach, 2 * reach + -columns % NEIGHBOURS, 2 * reach, 2 * reach))
        whole = F.conv2d(padded, taps, stride=(1, NEIGHBOURS)).permute(0, 2, 3, 1)
        whole = whole.reshape(-1, 1, rows, columns + -columns % NEIGHBOURS)[..., :columns]
        return pad_adjoint(whole, (reach, reach), "replicate")[:, 0].unflatten(0, z.shape[:2])

    def powers(self, size: tuple[int, int]) -> torch.Tensor:
        """Return |K_i|^2, (n, H, W // 2 + 1)."""
        return centred_response(self.taps[:, 0], size).abs().square()


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner product of the channels of two images (B, C, ...), (B, C, 1, 1)."""
    return (a * b).flatten(2).sum(-1)[..., None, None]


class XLayer:
    """The x-update of a photograph: residuals by the exact blur and the prior filters, inverse filters, and a step.

    Parameters
    ----------
    observed : Observation
        The blurred images (B, C, H, W).
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    prior : Prior
        Prior filters k_i.
    gain : InverseGain, optional
        Of the inverse filters of motions.
    """

    def __init__(self, observed: Observation, blur: Blur, prior: Prior, gain: InverseGain | None = None):
        self.domain = ExtendedDomain(observed, blur)
        self.observed, self.blur, self.prior = observed, blur, prior
        self.inverse: Compensation = local_inverse(blur, self.domain.shape, observed.mask, gain)
        self.powers = prior.powers(self.inverse.size) + self.inverse.floor

    def extend(self, plane: torch.Tensor) -> torch.Tensor:
        """Return a plane of the frame (B, C, H, W), continued by its rim to the domain of x."""
        my, mx = self.domain.margin
        return F.pad(plane, (mx, mx, my, my), mode="replicate")

    def set_penalties(self, rho: torch.Tensor, scale: torch.Tensor, local: torch.Tensor | None = None) -> None:
        """Set the penalties.

        Parameters
        ----------
        rho : (C or 1, n) tensor
            Of each channel and prior filter.
        scale : (B or 1, 1, 1, 1) tensor
            A factor of them for each image.
        local : (B or 1, 1, H', W') tensor, optional
            A factor of them at each pixel.
        """
        prior = torch.einsum("cn,nhw->chw", rho, self.powers)
        self.rho = rho[:, :, None, None] * scale[:, None]
        if local is not None:
            self.rho = self.rho * local[:, None]
            scale = scale * self.inverse.local_mean(local)
        self.inverse.set_penalty(scale, prior)

    def misfit(self, x: torch.Tensor) -> torch.Tensor:
        """Return y - A x, where it counts."""
        return -self.observed.misfit(self.blur.A(x))

    def pull(self, prior: torch.Tensor) -> torch.Tensor:
        """Return sum_i rho_i k_i' r_i, (B, C, H', W'), of residuals of the prior filters, (B, C, n, H', W').

        The compensations need no more of them than this.
        """
        return self.prior.adjoint(self.rho * prior)

    def compensation(self, data: torch.Tensor, pull: torch.Tensor) -> torch.Tensor:
        """Return sum_i d_i * r_i, (B, C, H', W').

        Parameters
        ----------
        data : (B, C, H, W) tensor
            r_0, what is left of the observation.
        pull : (B, C, H', W') tensor
            Of r_1, ..., r_n; see `pull`.
        """
        return self.inverse(self.blur.A_adjoint(data) + pull)

    def step(
        self, z: torch.Tensor, data: torch.Tensor, pull: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return how far to go, and the residuals there.

        Parameters
        ----------
        z : (B, C, H', W') tensor
            Direction.
        data, pull : tensors
            Residuals; see `compensation`.

        Returns
        -------
        a : (B, C, 1, 1) tensor
            The step that leaves the least residuals, a constant for gradients: near the best step nothing changes
            with it.
        data, pull : tensors
            Those of x + a z: all is linear, so they take one blur.
        """
        az, normal = self.observed.masked(self.blur.A(z)), self.pull(self.prior(z))
        with torch.no_grad():
            power = _inner(az, az) + _inner(z, normal)
            a = (_inner(az, data) + _inner(z, pull)) / power.clamp(min=torch.finfo(power.dtype).tiny)
        return a, data - a * az, pull - a * normal


@torch.no_grad()
def first_estimate(
    observed: Observation, blur: Blur, noise: torch.Tensor, error: torch.Tensor | None, iterations: int
) -> torch.Tensor:
    """Return what the first stage starts from, (B, C, H', W'): some iterations of the solver ``irc-mm``.

    Borders take several steps of a method with memory, and teach a network nothing.

    Parameters
    ----------
    observed : Observation
        The blurred images (B, C, H, W).
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    noise : (B or 1, 1, 1, 1) tensor
        Standard deviation.
    error : (B or 1, H, W) tensor or None
        Expected error of the motion in pixels, which asks for a stronger prior.
    iterations : int
        Their number; twice as many for a kernel, whose inverse filters carry what is wrong at the borders across the
        whole picture.
    """
    settings = DEFAULTS["irc-mm"]
    assert settings.color is not None
    lam = settings.prior * noise**2 * (noise / UNIT_NOISE) ** -NOISE_EXPONENT
    if error is not None:
        lam = lam * (1 + error.flatten(1).mean(1)[:, None, None, None]) ** 0.5
    opponent = observed.y.shape[1] == 3 and not has_channel_kernels(blur)
    if opponent:
        lam = lam * lam.new_tensor([1, settings.color, settings.color])[:, None, None]
        observed = Observation(to_opponent(observed.y), observed.mask)
    iterations = iterations * 2 if isinstance(blur, UniformBlur) else iterations
    others = settings.color_iterations if opponent else None
    x = majorise_minimise(observed, blur, lam, iterations, others=others).whole
    assert x is not None
    return from_opponent(x) if opponent else x


class UnrolledNet(nn.Module, ABC):
    """What both networks share: what they are given, and how."""

    def forward(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        callback: Callback | None = None,
    ) -> torch.Tensor:
        """Deconvolve.

        Parameters
        ----------
        y : (B, C, H, W) tensor
            Blurred images in [0, 1]: RGB, grey, or other channels, each of which is then a grey image.
        blur : UniformBlur or MotionBlur
            Their blur, with the boundary "extended".
        noise : float or (B,) tensor
            Standard deviation of the noise in y.
        error : (B or 1, H, W) tensor, optional
            Expected error of the motion in pixels; 0 if not given.
        mask : (B or 1, 1, H, W) tensor, optional
            1 where the observation counts.
        callback : callable, optional
            Called after each stage with its number, from 1 on, and its estimate of the frame.

        Returns
        -------
        x : (B, C, H, W) tensor
            Not clipped.
        """
        if y.shape[1] not in (1, 3):
            channels = range(y.shape[1])
            return torch.cat([self(y[:, c : c + 1], channel_blur(blur, c), noise, error, mask) for c in channels], 1)
        for number, x in enumerate(self.stages(y, blur, noise, error, mask), start=1):
            if callback is not None:
                callback(number, x)
        return x

    def estimates(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        """Return the frame of each stage's estimate, of images with one or three channels; see `forward`."""
        return list(self.stages(y, blur, noise, error, mask))

    @abstractmethod
    def stages(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the frame of each stage's estimate, of images with one or three channels; see `forward`."""


def has_channel_kernels(blur: Blur) -> bool:
    """Return whether each channel has a kernel of its own."""
    return isinstance(blur, UniformBlur) and blur.psf.ndim > 2 and blur.psf.shape[-3] > 1


def channel_blur(blur: Blur, channel: int) -> Blur:
    """Return the blur of one channel."""
    if has_channel_kernels(blur):
        assert isinstance(blur, UniformBlur)
        return UniformBlur(blur.psf[..., channel : channel + 1, :, :], blur.boundary, blur.margin)
    return blur


def noise_of_images(noise: float | torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the noise of each image, (B or 1, 1, 1, 1), not below `MIN_NOISE`."""
    return torch.as_tensor(noise, dtype=y.dtype, device=y.device).reshape(-1, 1, 1, 1).clamp(min=MIN_NOISE)


# The paper's network.


class Shrinkage(nn.Module):
    """Piecewise linear functions with control points at -1, -0.98, ..., 1 and the slope 1 beyond, and learned scales.

    Parameters
    ----------
    thresholds : (G, n) tensor
        Of the soft thresholding that each function is at the start.
    """

    POINTS = 101
    threshold: torch.Tensor

    def __init__(self, thresholds: torch.Tensor):
        super().__init__()
        # Soft thresholding has its corners between the points; they are kept, and what is learned is added.
        self.register_buffer("threshold", thresholds.clone())
        self.change = nn.Parameter(torch.zeros(*thresholds.shape, self.POINTS))
        self.log_scale = nn.Parameter(torch.zeros(thresholds.shape))

    def forward(self, t: torch.Tensor, groups: list[int], scale: torch.Tensor) -> torch.Tensor:
        """Return ``s f(t / s)``, s being `scale` times the function's own scale, which is 1 at the start.

        Parameters
        ----------
        t : (B, C, n, H, W) tensor
            One function for each channel and filter.
        groups : list of C int
            The group of functions of each channel.
        scale : (B or 1, 1, 1, 1, 1) tensor
            Positive.
        """
        scale = scale * self.log_scale.exp()[groups][:, :, None, None]
        t = t / scale
        threshold = self.threshold[groups][:, :, None, None]
        soft = t - torch.maximum(torch.minimum(t, threshold), -threshold)
        change = piecewise_linear(t.flatten(1, 2), self.change[groups].flatten(0, 1)).view_as(t)
        return scale * (soft + change)


class _PiecewiseLinear(torch.autograd.Function):
    """See `piecewise_linear`; the derivative with respect to the values is a histogram, which torch finds slowly."""

    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        n, k = values.shape
        place = (t.clamp(-1, 1) + 1) * (0.5 * (k - 1))
        left = place.floor().clamp(max=k - 2)
        index = (left + torch.arange(0, n * k, k, device=t.device, dtype=t.dtype)[:, None, None]).to(torch.int32)
        share = place - left
        # Value and rise of each interval lie side by side.
        pairs = torch.stack((values, F.pad(values.diff(dim=1), (0, 1))), -1).flatten(0, 1)
        found = F.embedding(index, pairs)
        ctx.save_for_backward(index, share, found[..., 1] * (t.abs() < 1))
        ctx.size = n, k
        return torch.addcmul(found[..., 0], found[..., 1], share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        index, share, rise = ctx.saved_tensors
        n, k = ctx.size
        index, right = index.flatten(), gradient * share
        total = torch.bincount(index, (gradient - right).flatten(), n * k).view(n, k)
        total[:, 1:] += torch.bincount(index, right.flatten(), n * k).view(n, k)[:, :-1]
        return gradient * rise * (0.5 * (k - 1)), total.to(gradient)


def piecewise_linear(t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly between values at -1, ..., 1, constant beyond.

    Parameters
    ----------
    t : (B, N, H, W) tensor
        Where.
    values : (N, K) tensor
        Of the N functions at their K equidistant points.
    """
    found: torch.Tensor = _PiecewiseLinear.apply(t, values)
    return found


@dataclass(frozen=True)
class ShrinkageConfig:
    """Size of the paper's network.

    Attributes
    ----------
    start : int
        Iterations of the solver ``irc-mm`` that the first stage starts from; 0 for the blurred image, as in the paper.
    stages, steps : int
        N and T.
    filters, size : int
        Number and side of the prior filters.
    prior, rho : float
        Of the solver ``irc`` that the network, without a start, is before any training; see
        `ircdeblur.solvers.settings.Settings`.
    color : float or None
        Likewise.
    """

    start: int = 20
    stages: int = 5
    steps: int = 2
    filters: int = 8
    size: int = 5
    prior: float = 7.5
    rho: float = 0.01
    color: float | None = 4.0


class ShrinkageIRCNet(UnrolledNet, HubMixin):
    """The paper's IRC-Net: prior filters, learned shrinkage, and learned inverse filters.

    Colour pictures are taken as luma and two opponent colours; the two share what is learned.

    Parameters
    ----------
    config : ShrinkageConfig, optional
        Size and start.
    """

    network = "irc-net-shrinkage"
    about = "IRC-Net: deconvolution of known motion blur in a few unrolled stages with learned filters and shrinkage."
    config_class = ShrinkageConfig

    def __init__(self, config: ShrinkageConfig | None = None):
        super().__init__()
        self.config = c = config or ShrinkageConfig()
        self.filters = Filters(c.filters, c.size)
        groups = 1 if c.color is None else 2
        # More filters share what the two differences had.
        rho = c.rho * 2 / c.filters
        self.log_rho = nn.Parameter(torch.full((c.stages, groups, c.filters), math.log(rho)))
        self.rates = nn.Parameter(torch.ones(c.stages - 1, groups, c.filters))
        self.noise_exponent = nn.Parameter(torch.full((c.stages,), 2.0 - NOISE_EXPONENT))
        self.penalty_exponent = nn.Parameter(torch.zeros(c.stages))
        self.error_exponent = nn.Parameter(torch.full((c.stages,), 0.5))
        threshold = torch.full((groups, c.filters), prior_weight(c.prior, UNIT_NOISE) / c.rho)
        threshold[1:] *= c.color or 1.0
        self.shrinkage = nn.ModuleList(Shrinkage(threshold) for _ in range(c.stages))
        self.gain = InverseGain()

    @staticmethod
    def pace(name: str) -> float:
        """Return by how much the learning rate of a parameter is to be larger than that of the functions' values.

        Penalties, rates, exponents and the scales of the functions have far to go: the first stages' prior must be
        several times weaker than the solver's, which starts from the blurred image.
        """
        if name.startswith("gain."):
            return 0.5
        return 1.0 if name.endswith((".change", ".taps")) else 30.0

    def initial(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what the first stage starts from, (B, C, H', W'); arguments as for `forward`."""
        observed = Observation(y, mask)
        if self.config.start == 0:
            return ExtendedDomain(observed, blur).start()
        return first_estimate(observed, blur, noise_of_images(noise, y), error, self.config.start)

    def stages(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        initial: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the frame of each stage's x; see `UnrolledNet.forward`, and `initial` for what is at hand already."""
        c = self.config
        opponent = c.color is not None and y.shape[1] == 3 and not has_channel_kernels(blur)
        groups = [0, 1, 1] if opponent else [0] * y.shape[1]
        observed = Observation(to_opponent(y) if opponent else y, mask)
        layer = XLayer(observed, blur, self.filters, self.gain)
        sigma = noise_of_images(noise, y) / UNIT_NOISE
        doubt = None if error is None else 1 + layer.extend(error[:, None])
        x = self.initial(y, blur, noise, error, mask) if initial is None else initial
        x = to_opponent(x) if opponent else x
        k, data = self.filters(x), layer.misfit(x)
        z, multipliers = k, torch.zeros_like(k)
        for j, shrinkage in enumerate(self.shrinkage):
            # Where the motion is uncertain the prior is stronger.
            local = None if doubt is None else doubt ** self.error_exponent[j]
            layer.set_penalties(self.log_rho[j].exp()[groups], sigma ** self.penalty_exponent[j], local)
            if j > 0:
                k = self.filters(x)
                multipliers = multipliers + self.rates[j - 1][groups][:, :, None, None] * (k - z)
            z = shrinkage(k + multipliers, groups, (sigma ** self.noise_exponent[j])[..., None])
            pull = layer.pull(z - multipliers - k)
            for _ in range(c.steps):
                direction = layer.compensation(data, pull)
                a, data, pull = layer.step(direction, data, pull)
                x = x + a * direction
            yield layer.domain.crop(from_opponent(x) if opponent else x)


# The network with the richer prior.


@dataclass(frozen=True)
class IRCNetConfig:
    """Size of the network with the convolutional prior.

    Attributes
    ----------
    start : int
        Iterations of the solver ``irc-mm`` that the first stage starts from.
    stages, steps : int
        N and T.
    width : int
        Channels at half resolution; at a quarter there are twice as many.
    blocks : (int, int, int)
        Residual blocks at half resolution, at a quarter, and at half resolution again.
    rho : float
        Penalty of the first deblurred residual, before any training: small, to show what the solver's prior holds back.
    rho_later : float
        Penalty of the x-updates, before any training: large, they stay near what the prior proposes.
    gain : bool
        Whether the inverse filters of motions are trained too: as many values as a fifth of the convolutions have.
    """

    start: int = 20
    stages: int = 2
    steps: int = 1
    width: int = 32
    blocks: tuple[int, int, int] = (2, 3, 2)
    rho: float = 0.03
    rho_later: float = 0.5
    gain: bool = False


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a rectifier between them, added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        return x + self.conv2(F.relu(self.conv1(x)))


class PriorStage(nn.Module):
    """The convolutional prior of one stage: from estimate and features to a change of the estimate, and features.

    Two levels of a U-Net, on blocks of 2 x 2 and of 4 x 4 pixels.
    """

    def __init__(self, inputs: int, config: IRCNetConfig):
        super().__init__()
        c, (before, deep, after) = config.width, config.blocks
        self.entry = nn.Conv2d(inputs, c, 3, padding=1)
        self.before = nn.Sequential(*(Residual(c) for _ in range(before)))
        self.down = nn.Conv2d(c, 2 * c, 2, stride=2)
        self.deep = nn.Sequential(*(Residual(2 * c) for _ in range(deep)))
        self.up = nn.Conv2d(2 * c, 4 * c, 1)
        self.after = nn.Sequential(*(Residual(c) for _ in range(after)))
        self.exit = nn.Conv2d(c, 12, 3, padding=1)
        with torch.no_grad():
            self.exit.weight.mul_(0.01)
            assert self.exit.bias is not None
            self.exit.bias.zero_()

    def forward(self, inputs: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the change (B, 12, h, w) and the next features (B, width, h, w)."""
        x = self.before(self.entry(inputs) + features)
        x = x + F.pixel_shuffle(self.up(self.deep(self.down(x))), 2)
        x = self.after(x)
        return self.exit(x), x


class Seen(NamedTuple):
    """What the prior of a stage is shown of a picture, all of it (B or 1, ., H', W').

    Attributes
    ----------
    x : tensor
        The estimate.
    residuals : three tensors
        The deblurred residuals of the observation, and of the differences along rows and columns.
    maps : tensor
        See `IRCNet.maps`.
    unit : (B or 1, 1, 1, 1) tensor
        Size of the changes that are to be expected of a prior.
    """

    x: torch.Tensor
    residuals: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    maps: torch.Tensor
    unit: torch.Tensor

    def cropped(self, rows: int, columns: int) -> Seen:
        """Return it without so many rows above and below, and columns to the left and right."""
        return self.mapped(lambda t: crop_rim(t, rows, columns))

    def copied(self) -> Seen:
        """Return a copy in memory of its own."""
        return self.mapped(torch.clone)

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Seen:
        """Return it with all images changed in the same way."""
        data, rows, columns = (change(t) for t in self.residuals)
        return Seen(change(self.x), (data, rows, columns), change(self.maps), self.unit)

    def oriented(self, transpose: bool, upside_down: bool, mirror: bool) -> Seen:
        """Return what the prior would be shown of the picture transposed, then turned upside down, then mirrored."""
        x, maps = (orient(t, transpose, upside_down, mirror) for t in (self.x, self.maps))
        data, rows, columns = (orient(t, transpose, upside_down, mirror) for t in self.residuals)
        double = maps[:, 1:3]
        # A motion of angle t has angle 90 - t in the transposed picture, and -t in a mirrored one.
        signs = double.new_tensor([-1.0 if transpose else 1.0, -1.0 if upside_down != mirror else 1.0])
        maps = torch.cat((maps[:, :1], double * signs[:, None, None], maps[:, 3:]), 1)
        return Seen(x, (data, columns, rows) if transpose else (data, rows, columns), maps, self.unit)


def crop_rim(t: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return images (..., H, W) without so many rows above and below, and columns to the left and right."""
    return t[..., rows : t.shape[-2] - rows, columns : t.shape[-1] - columns]


ORIENTATIONS = tuple(itertools.product((False, True), repeat=3))
"""Arguments of `orient` that give the eight orientations of a picture, its own first."""


def orient(t: torch.Tensor, transpose: bool, upside_down: bool, mirror: bool) -> torch.Tensor:
    """Return images (..., H, W) transposed, then turned upside down, then mirrored."""
    t = t.transpose(-1, -2) if transpose else t
    return _flipped(t, upside_down, mirror)


def orient_back(t: torch.Tensor, transpose: bool, upside_down: bool, mirror: bool) -> torch.Tensor:
    """Return what `orient` has made such images of."""
    t = _flipped(t, upside_down, mirror)
    return t.transpose(-1, -2) if transpose else t


def _flipped(t: torch.Tensor, upside_down: bool, mirror: bool) -> torch.Tensor:
    dims = [dim for dim, turned in ((-2, upside_down), (-1, mirror)) if turned]
    return t.flip(dims) if dims else t


@dataclass
class State:
    """What stands between two stages.

    Attributes
    ----------
    layer : XLayer
        Of the x-updates.
    sigma : (B or 1, 1, 1, 1) tensor
        Noise relative to 1 %.
    doubt : (B or 1, 1, H', W') tensor or None
        1 px plus the expected error of the motion.
    seen : Seen
        What the next prior is shown, the estimate x among it.
    data : (B, C, H, W) tensor
        What x leaves of the observation.
    v : (B, C, H', W') tensor
        What the last prior has proposed; before the first one it is x.
    features : list of tensors
        Of the last prior, in each orientation that it has seen.
    """

    layer: XLayer
    sigma: torch.Tensor
    doubt: torch.Tensor | None
    seen: Seen
    data: torch.Tensor
    v: torch.Tensor
    features: list[torch.Tensor] = field(default_factory=list)


class IRCNet(UnrolledNet, HubMixin):
    """IRC-Net with a convolutional network as prior.

    A stage's prior sees x and the deblurred residuals of the observation and of the two differences, each on its own,
    and proposes the image v of the next x-update's z_i = k_i * v. There the three are merged by learned weights. The
    first prior sees an estimate of the solver, the last one's proposal is the result.

    Parameters
    ----------
    config : IRCNetConfig, optional
        Size.

    Attributes
    ----------
    fast : bool
        Convolve in bfloat16 where the device is made for it (see `has_fast_bfloat16`).
    orientations : tuple of arguments of `orient`
        How the priors see the picture; what they propose is averaged. With all eight `ORIENTATIONS` it is better than
        with the picture as it is, and their part of the work eight times as long.

    References
    ----------
    R. Timofte, R. Rothe, L. Van Gool, "Seven ways to improve example-based single image super resolution", CVPR 2016:
    the ensemble of orientations.
    """

    network = "irc-net"
    about = "IRC-Net: deconvolution of known motion blur in a few unrolled stages with a convolutional prior."
    config_class = IRCNetConfig

    MAPS = 6
    """Planes that tell of the noise and the blur: see `maps`."""

    def __init__(self, config: IRCNetConfig | None = None):
        super().__init__()
        self.config = c = config or IRCNetConfig()
        self.fast, self.orientations = True, ORIENTATIONS[:1]
        self.log_rho = nn.Parameter(torch.full((c.stages, 2), c.rho_later).log())
        with torch.no_grad():
            self.log_rho[0] = math.log(c.rho)
        # How the penalty follows the noise, and the expected error of the motion.
        self.noise_exponent = nn.Parameter(torch.ones(c.stages))
        self.error_exponent = nn.Parameter(torch.ones(c.stages))
        self.merge = nn.Parameter(torch.ones(c.stages - 1, 3))
        self.gain = InverseGain() if c.gain else None
        self.observe = nn.Conv2d(12 + self.MAPS, c.width, 3, padding=1)
        self.priors = nn.ModuleList(PriorStage(4 * 12 + self.MAPS, c) for _ in range(c.stages))

    def stages(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the frame of the image that each stage's prior proposes; see `UnrolledNet.forward`."""
        state = self.start(y, blur, noise, error, mask)
        for j in range(self.config.stages):
            if j > 0:
                self.update(state, j)
            yield state.layer.domain.crop(self.propose(state, j))

    def start(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> State:
        """Return what there is before the first prior; arguments as for `forward`."""
        observed = Observation(y, mask)
        layer = XLayer(observed, blur, Differences(y), self.gain)
        sigma = noise_of_images(noise, y) / UNIT_NOISE
        doubt = None if error is None else 1 + layer.extend(error[:, None])
        x = first_estimate(observed, blur, sigma * UNIT_NOISE, error, self.config.start)
        maps = self.maps(x, blur, sigma, doubt, layer)
        data, none = layer.misfit(x), torch.zeros_like(x)
        state = State(layer, sigma, doubt, Seen(x, (none, none, none), maps, UNIT_CHANGE * sigma**0.5), data, x)
        self._set_penalties(state, 0)
        left = layer.inverse(layer.blur.A_adjoint(data))
        state.seen = state.seen._replace(residuals=(left, none, none))
        return state

    def update(self, state: State, j: int) -> None:
        """Do the x-update before the prior of a stage j >= 1."""
        layer, x = state.layer, state.seen.x
        self._set_penalties(state, j)
        for _ in range(self.config.steps):
            prior = layer.prior(state.v - x)
            parts = self._deblurred(layer, state.data, prior)
            direction = sum(weight * part for weight, part in zip(self.merge[j - 1], parts, strict=True))
            assert isinstance(direction, torch.Tensor)
            a, state.data, _ = layer.step(direction, state.data, layer.pull(prior))
            x = x + a * direction
        state.seen = state.seen._replace(x=x, residuals=parts)

    def propose(self, state: State, j: int) -> torch.Tensor:
        """Return the image (B, C, H', W') that the prior of a stage proposes."""
        if not state.features:
            blurred = state.layer.extend(state.layer.observed.y)
            state.features = [self.observed(orient(blurred, *o), state.seen.oriented(*o)) for o in self.orientations]
        total = torch.zeros(())
        for i, o in enumerate(self.orientations):
            proposal, state.features[i] = self.proposal(state.seen.oriented(*o), state.features[i], j)
            total = total.to(proposal) + orient_back(proposal, *o)
        state.v = total / len(self.orientations)
        return state.v

    def observed(self, blurred: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Return the features that go to the first prior.

        Parameters
        ----------
        blurred : (B, C, H', W') tensor
            The blurred images, continued to the size of the estimates.
        seen : Seen
            What the first prior is shown.
        """
        with self._precision(blurred):
            features: torch.Tensor = self.observe(self._blocks(seen, blurred, ()))
        return features

    def proposal(self, seen: Seen, features: torch.Tensor, j: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image (B, C, H', W') that the prior of a stage proposes, and its features."""
        x = seen.x
        with self._precision(x):
            change, features = self.priors[j](self._blocks(seen, x, seen.residuals), features)
        change = from_bands(change.to(x))[..., : x.shape[-2], : x.shape[-1]] * seen.unit
        return x + (change if x.shape[1] == 3 else change.mean(1, keepdim=True)), features

    def copy_first_prior(self) -> None:
        """Let all priors start from the first one's weights, and change next to nothing."""
        first = self.priors[0]
        with torch.no_grad():
            for other in list(self.priors)[1:]:
                other.load_state_dict(first.state_dict())
                assert isinstance(other, PriorStage)
                other.exit.weight.mul_(0.1)
                assert other.exit.bias is not None
                other.exit.bias.zero_()

    @staticmethod
    def _deblurred(
        layer: XLayer, data: torch.Tensor, prior: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return d_0 * r_0, d_1 * r_1 and d_2 * r_2, each (B, C, H', W'); see `XLayer.compensation`."""
        assert isinstance(layer.prior, Differences)
        weighted = layer.rho * prior
        rows, columns = (layer.inverse(layer.prior.adjoint_of(weighted, i)) for i in (0, 1))
        return layer.inverse(layer.blur.A_adjoint(data)), rows, columns

    def _set_penalties(self, state: State, j: int) -> None:
        local = None if state.doubt is None else state.doubt ** self.error_exponent[j]
        state.layer.set_penalties(self.log_rho[j].exp()[None], state.sigma ** self.noise_exponent[j], local)

    def maps(
        self, v: torch.Tensor, blur: Blur, sigma: torch.Tensor, doubt: torch.Tensor | None, layer: XLayer
    ) -> torch.Tensor:
        """Return what the prior is told of noise and blur, (B, 6, H', W').

        The logarithm of the noise, relative to 1 %; the double-angle vector of the motion, and how far the kernel
        reaches across it, in units of 16 px; the logarithm of 1 px plus the expected error of the motion; whether a
        pixel was observed.
        """
        shape = (v.shape[0], 1, *v.shape[-2:])
        if isinstance(blur, MotionBlur):
            fields = blur.motion if blur.motion.ndim == 4 else blur.motion[None]
            double = layer.extend(to_double_angle(fields).permute(0, 3, 1, 2)) / LENGTH_UNIT
            across = v.new_zeros(1, 1, 1, 1)
        else:
            double, across = (t / LENGTH_UNIT for t in extent_of_kernel(blur.psf))
        seen = layer.observed.masked(v.new_ones(1, 1, *layer.observed.y.shape[-2:]))
        my, mx = layer.domain.margin
        planes = (
            sigma.log().expand(shape),
            double.expand(shape[0], 2, *shape[2:]),
            across.expand(shape),
            v.new_zeros(shape) if doubt is None else doubt.log().expand(shape),
            F.pad(seen, (mx, mx, my, my)).expand(shape),
        )
        return torch.cat(planes, 1)

    @staticmethod
    def _blocks(seen: Seen, x: torch.Tensor, residuals: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return what a prior sees, in blocks of 2 x 2 pixels; the sides are even numbers of blocks.

        Of the image the mean of each block as it is, and its details, like the deblurred residuals, in the units of the
        changes that are to be expected: noise and what was lost are small against the image.
        """
        after = [-n % 4 for n in x.shape[-2:]]

        def whole(planes: torch.Tensor) -> torch.Tensor:
            return F.pad(planes, (0, after[1], 0, after[0]), mode="replicate")

        image = to_bands(whole(x.expand(-1, 3, -1, -1)))
        parts = [image[:, :3] - 1, image[:, 3:] / seen.unit]
        parts += [to_bands(whole(r.expand(-1, 3, -1, -1))) / seen.unit for r in residuals]
        parts.append(F.avg_pool2d(whole(seen.maps), 2))
        return torch.cat(parts, 1).contiguous(memory_format=torch.channels_last)

    def _precision(self, y: torch.Tensor) -> torch.autocast:
        """Return the context in which the convolutions are computed."""
        return torch.autocast(y.device.type, torch.bfloat16, enabled=self.fast and has_fast_bfloat16(y.device))


UNIT_CHANGE = 0.02
"""Size of the changes that a prior makes at a noise of 1 %."""


def to_bands(x: torch.Tensor) -> torch.Tensor:
    """Return the Haar wavelets of blocks of 2 x 2 pixels: (B, 3, H, W) to (B, 12, H / 2, W / 2), the means first."""
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return 0.5 * torch.cat((a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d), 1)


def from_bands(bands: torch.Tensor) -> torch.Tensor:
    """Return the images of `to_bands`, its inverse and transpose."""
    m, h, v, d = bands.chunk(4, 1)
    corners = torch.stack((m + h + v + d, m - h + v - d, m + h - v - d, m - h - v + d), 2)
    return 0.5 * F.pixel_shuffle(corners.flatten(1, 2), 2)


def extent_of_kernel(psf: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the motion that spreads light as a kernel does, and how far the kernel reaches across it.

    Parameters
    ----------
    psf : (..., kh, kw) tensor
        Kernels, (C, kh, kw) or (B, C, kh, kw); of several channels the mean counts.

    Returns
    -------
    double : (B or 1, 2, 1, 1) tensor
        Double-angle vector in pixels: the variance of a line of length l is l^2 / 12.
    across : (B or 1, 1, 1, 1) tensor
        Length in pixels of the line with the variance across that.
    """
    kernel = psf.reshape(-1, psf.shape[-3] if psf.ndim > 2 else 1, *psf.shape[-2:]).mean(1)
    kernel = kernel.clamp(min=0)
    kernel = kernel / kernel.sum((-2, -1), keepdim=True)
    rows, columns = (torch.arange(n, dtype=psf.dtype, device=psf.device) for n in kernel.shape[-2:])
    down, right = kernel.sum(-1), kernel.sum(-2)
    y, x = rows - (down @ rows)[:, None], columns - (right @ columns)[:, None]
    yy, xx = (down * y**2).sum(-1), (right * x**2).sum(-1)
    xy = (kernel * y[:, :, None] * x[:, None]).sum((-2, -1))
    # Up is minus y.
    major = torch.stack((xx - yy, -2 * xy), -1)
    size = major.norm(dim=-1)
    double = major * (12 / size.clamp(min=1e-6)).sqrt()[:, None]
    across = (6 * (xx + yy - size)).clamp(min=0).sqrt()
    return double[:, :, None, None], across[:, None, None, None]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware, several times faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device.type == "cpu" and tiles is not None and bool(tiles())
