"""The x-update by conjugate gradients on the exact operator."""

from __future__ import annotations

import torch

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import XUpdate, difference_adjoint
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
        Stop when the residual of the normal equations is this small, relative to their right-hand side at the first
        call.
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
        self._enough = tolerance**2 * _square(blur.A_adjoint(observed.masked(observed.y)) / rho)

    def _normal(self, x: torch.Tensor) -> torch.Tensor:
        total = self.blur.A_adjoint(self.observed.masked(self.blur.A(x))).div_(self.rho)
        horizontal, vertical = self.differences(x)
        return total.add_(difference_adjoint(horizontal, -1)).add_(difference_adjoint(vertical, -2))

    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return x after at most `steps` steps of conjugate gradients."""
        gaps = [t - g for t, g in zip(targets, self.differences(x), strict=True)]
        residual = self.blur.A_adjoint(self.residual(x)).div_(-self.rho)
        residual += difference_adjoint(gaps[0], -1)
        residual += difference_adjoint(gaps[1], -2)
        direction = residual
        squared = _square(residual)
        for _ in range(self.steps):
            if squared <= self._enough:
                break
            image = self._normal(direction)
            step = squared / torch.dot(direction.flatten(), image.flatten())
            x = x + step * direction
            residual = residual - step * image
            before, squared = squared, _square(residual)
            direction = residual + (squared / before) * direction
        return x


def _square(image: torch.Tensor) -> torch.Tensor:
    return torch.dot(image.flatten(), image.flatten())
