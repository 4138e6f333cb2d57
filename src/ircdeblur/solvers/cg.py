"""The x-update by conjugate gradients on the exact operator."""

from __future__ import annotations

import torch

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import XUpdate, difference_adjoint
from ircdeblur.solvers.domain import ExtendedDomain


class ConjugateGradients(ExtendedDomain, XUpdate):
    """Solve the normal equations (A' A / rho + sum K_i' K_i) x = A' y / rho + sum K_i' t_i.

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image.
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    rho : float
        Penalty of ADMM.
    steps : int
        Most steps per update, from the previous x.
    tolerance : float
        Stop when the residual of the normal equations is this small, relative to their right-hand side.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observed pixel counts, 0 where it is saturated.
    """

    def __init__(
        self,
        y: torch.Tensor,
        blur: UniformBlur | MotionBlur,
        rho: float,
        steps: int = 15,
        tolerance: float = 1e-6,
        mask: torch.Tensor | None = None,
    ):
        super().__init__(y, blur, mask)
        self.rho, self.steps, self.tolerance = rho, steps, tolerance
        self._data = blur.A_adjoint(self.masked(y)) / rho

    def _normal(self, x: torch.Tensor) -> torch.Tensor:
        data = self.blur.A_adjoint(self.masked(self.blur.A(x))) / self.rho
        horizontal, vertical = self.differences(x)
        return data + difference_adjoint(horizontal, -1) + difference_adjoint(vertical, -2)

    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return x after at most `steps` steps of conjugate gradients."""
        right = self._data + difference_adjoint(targets[0], -1) + difference_adjoint(targets[1], -2)
        residual = right - self._normal(x)
        direction = residual
        squared = residual.square().sum()
        enough = self.tolerance**2 * right.square().sum()
        for _ in range(self.steps):
            if squared <= enough:
                break
            image = self._normal(direction)
            step = squared / (direction * image).sum()
            x = x + step * direction
            residual = residual - step * image
            before, squared = squared, residual.square().sum()
            direction = residual + (squared / before) * direction
        return x
