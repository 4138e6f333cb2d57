"""ADMM for least squares with sparse gradients (Eqs 1-5 and 15 of the paper).

    minimise over x   1/2 ||A x - y||^2 + lambda sum_i ||k_i * x||_l^l

with the blur A and the prior filters k_i, the first differences in x and y. In the isotropic form the length of the
gradient, sqrt(sum_i (k_i * x)^2), stands in place of its two parts. With z_i = k_i * x and scaled multipliers b_i, one
iteration is

    z_i  <-  argmin  lambda ||z_i||_l^l + rho/2 ||k_i * x + b_i - z_i||^2          (Eq. 4: shrinkage)
    x    <-  argmin  1/rho ||A x - y||^2 + sum_i ||k_i * x + b_i - z_i||^2         (Eq. 5: an `XUpdate`)
    b_i  <-  b_i + eta (k_i * x - z_i)                                             (Eq. 15)

The x-update is a strategy: iterated residual compensation, conjugate gradients, or a division of Fourier transforms.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from ircdeblur.solvers.shrinkage import shrink, shrink_length

Callback = Callable[[int, torch.Tensor], None]


def difference(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return x(i) - x(i - 1) along a dimension; 0 at the first place."""
    return torch.diff(x, dim=dim, prepend=x.narrow(dim, 0, 1))


def difference_adjoint(z: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the transpose of `difference`, applied to z."""
    return add_difference_adjoint(torch.zeros_like(z), z, dim)


def add_difference_adjoint(total: torch.Tensor, z: torch.Tensor, dim: int) -> torch.Tensor:
    """Add the transpose of `difference`, applied to z, to a tensor in place, and return it."""
    n = z.shape[dim]
    tail = z.narrow(dim, 1, n - 1)
    total.narrow(dim, 1, n - 1).add_(tail)
    total.narrow(dim, 0, n - 1).sub_(tail)
    return total


def circular_difference(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Return x(i) - x(i - 1) along a dimension of a periodic image."""
    return x - x.roll(1, dims=dim)


def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner products (B, C) of the channels of two images (B, C, H, W)."""
    a, b = a.flatten(2), b.flatten(2)
    if a.device.type != "cpu":
        return (a * b).sum(-1)  # two operations for a GPU to start, however many images
    # One call of the vector library for each: sums over two axes and batched products take 10 times as long.
    return torch.stack(
        [torch.stack([torch.dot(*rows) for rows in zip(*pair, strict=True)]) for pair in zip(a, b, strict=True)]
    )


class XUpdate(ABC):
    """How the x of ADMM is updated, and on which domain it lives.

    The unknown x may be larger than the observed frame: a blur reads pixels outside it.
    """

    @abstractmethod
    def start(self) -> torch.Tensor:
        """Return the first estimate of x, (B, C, H', W')."""

    def differences(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return k_1 * x and k_2 * x: horizontal and vertical first differences, as large as x."""
        return difference(x, -1), difference(x, -2)

    @abstractmethod
    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the minimiser of 1/rho ||A x - y||^2 + sum_i ||k_i * x - targets_i||^2, starting from x."""

    @abstractmethod
    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """Return A x - y."""

    @abstractmethod
    def crop(self, x: torch.Tensor) -> torch.Tensor:
        """Return the frame of x, (B, C, H, W)."""


@dataclass(frozen=True)
class Iteration:
    """Figures of one ADMM iteration.

    Attributes
    ----------
    objective : float
        1/2 ||A x - y||^2 + lambda sum ||k_i * x||_l^l.
    primal : float or None
        sqrt(sum ||k_i * x - z_i||^2); None for a method that does not split the problem.
    dual : float or None
        rho sqrt(sum ||z_i - previous z_i||^2), likewise.
    seconds : float
        Since the start.
    """

    objective: float
    primal: float | None
    dual: float | None
    seconds: float


@dataclass
class Result:
    """What solvers return.

    Attributes
    ----------
    x : (B, C, H, W) tensor
        The frame of the sharp image.
    iterations : list of Iteration
        The figures of each iteration, if they were asked for.
    whole : (B, C, H', W') tensor or None
        The sharp image with what the blur has seen beyond the frame, where a method knows that.
    """

    x: torch.Tensor
    iterations: list[Iteration] = field(default_factory=list)
    whole: torch.Tensor | None = None


@torch.no_grad()
def admm(
    update: XUpdate,
    lam: float | torch.Tensor,
    rho: float,
    iterations: int = 10,
    norm: float = 1.0,
    rate: float = 1.0,
    isotropic: bool = False,
    statistics: bool = False,
    callback: Callback | None = None,
) -> Result:
    """Run ADMM.

    Parameters
    ----------
    update : XUpdate
        The x-update, which knows the blur, the observed image and rho.
    lam : float or (1, C, 1, 1) tensor
        Weight lambda of the prior, >= 0, for images in [0, 1]; one for all channels or one for each.
    rho : float
        Penalty; the same as the update's.
    iterations : int
        Number of iterations, >= 1.
    norm : float
        Exponent l of the prior in [0, 1].
    rate : float
        Rate eta of the multipliers.
    isotropic : bool
        Penalise the length of the gradient instead of its two parts (Eq. 1).
    statistics : bool
        Compute the figures of each iteration, which takes another blur of x.
    callback : callable, optional
        Called after each iteration with its number, from 1 on, and the frame of x.

    Returns
    -------
    result : Result
        x is not clipped.

    References
    ----------
    S. Boyd et al., "Distributed optimization and statistical learning via the alternating direction method of
    multipliers", Foundations and Trends in Machine Learning 3(1), 2011.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}")
    if float(torch.as_tensor(lam).min()) < 0 or rho <= 0:
        raise ValueError(f"lam must be >= 0 and rho > 0, got {lam} and {rho}")
    began = time.perf_counter()
    x = update.start()
    weight = torch.as_tensor(lam).to(x) / rho
    figures: list[Iteration] = []
    gradients = update.differences(x)
    multipliers = tuple(torch.zeros_like(g) for g in gradients)
    previous: tuple[torch.Tensor, ...] | None = None
    for k in range(iterations):
        shifted = tuple(g + b for g, b in zip(gradients, multipliers, strict=True))
        z = shrink_length(shifted, weight, norm) if isotropic else tuple(shrink(s, weight, norm) for s in shifted)
        x = update.solve(x, tuple(zi - b for zi, b in zip(z, multipliers, strict=True)))
        gradients = update.differences(x)
        multipliers = tuple(b + rate * (g - zi) for b, g, zi in zip(multipliers, gradients, z, strict=True))
        if statistics:
            data = 0.5 * update.residual(x).double().square().sum()
            terms = (torch.stack(gradients).norm(dim=0),) if isotropic else gradients
            sparse = sum((weight * rho * ((t != 0) if norm == 0 else t.double().abs().pow(norm))).sum() for t in terms)
            gap = sum((g - zi).double().square().sum() for g, zi in zip(gradients, z, strict=True))
            moved = sum(
                (zi - old).double().square().sum()
                for zi, old in zip(z, previous or [torch.zeros_like(zi) for zi in z], strict=True)
            )
            figures.append(
                Iteration(
                    float(data + sparse), float(gap) ** 0.5, rho * float(moved) ** 0.5, time.perf_counter() - began
                )
            )
            previous = z
        if callback is not None:
            callback(k + 1, update.crop(x))
    return Result(update.crop(x), figures)
