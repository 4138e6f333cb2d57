"""The x-update by conjugate gradients on the exact operator."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import XUpdate, add_difference_adjoint, inner
from ircdeblur.solvers.domain import ExtendedDomain, Observation


class ConjugateGradients(ExtendedDomain, XUpdate):
    """Solve the normal equations (A' A / rho + sum K_i' K_i) x = A' y / rho + sum K_i' t_i.

    Parameters
    ----------
    observed : Observation
        Blurred image (B, C, H, W).
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    rho : float
        Penalty of ADMM.
    steps : int
        Most steps per update, from the previous x.
    tolerance : float
        Stop when the residual of the normal equations is this small, relative to their right-hand side.
    """

    def __init__(
        self,
        observed: Observation,
        blur: UniformBlur | MotionBlur,
        rho: float,
        steps: int = 15,
        tolerance: float = 1e-6,
    ):
        super().__init__(observed, blur)
        self.rho, self.steps, self.tolerance = rho, steps, tolerance
        self._data = blur.A_adjoint(observed.masked(observed.y)) / rho

    def _normal(self, x: torch.Tensor) -> torch.Tensor:
        total = self.blur.A_adjoint(self.observed.masked(self.blur.A(x))).div_(self.rho)
        horizontal, vertical = self.differences(x)
        return add_difference_adjoint(add_difference_adjoint(total, horizontal, -1), vertical, -2)

    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return x after at most `steps` steps of conjugate gradients."""
        right = add_difference_adjoint(self._data.clone(), targets[0], -1)
        add_difference_adjoint(right, targets[1], -2)
        return conjugate_gradients(self._normal, right, x, self.steps, self.tolerance)


def conjugate_gradients(
    normal: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    x: torch.Tensor,
    steps: int,
    tolerance: float,
    precondition: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Solve normal(x) = right by preconditioned conjugate gradients, each image of the batch on its own.

    Parameters
    ----------
    normal : callable
        Symmetric, positive semi-definite, of images (B, C, H, W).
    right, x : (B, C, H, W) tensors
        Right-hand side and start.
    steps : int
        Most steps.
    tolerance : float
        Stop when the (preconditioned) residual is this small, relative to the right-hand side's.
    precondition : callable, optional
        Near the inverse of `normal`; symmetric, positive definite.

    Returns
    -------
    x : (B, C, H, W) tensor
    """
    residual = right - normal(x)
    scaled = residual if precondition is None else precondition(residual)
    direction = scaled
    squared = _product(residual, scaled)
    enough = tolerance**2 * _product(right, right if precondition is None else precondition(right))
    for _ in range(steps):
        if (squared <= enough).all():
            break
        image = normal(direction)
        # An image that is done has a direction of zero; 0 / 0 would spoil it.
        step = torch.where(squared > enough, squared / _product(direction, image), 0.0)
        x = x + step * direction
        residual = residual - step * image
        scaled = residual if precondition is None else precondition(residual)
        before, squared = squared, _product(residual, scaled)
        direction = scaled + torch.where(before > enough, squared / before, 0.0) * direction
    return x


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner products of the images of two batches, (B, 1, 1, 1)."""
    return inner(a, b).sum(1)[:, None, None, None]
