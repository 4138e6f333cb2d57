"""The x-update of an unrolled network as a layer: residuals, local inverse filters, a step (sections 3.2 and 3.3)."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.kernels import ANGLES, MotionBank
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import difference
from ircdeblur.solvers.compensation import WINDOW, Compensation, local_inverse
from ircdeblur.solvers.domain import ExtendedDomain, Observation
from ircdeblur.solvers.filtering import centred_response

Blur = UniformBlur | MotionBlur


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
