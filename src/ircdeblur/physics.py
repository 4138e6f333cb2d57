"""The blurs as linear forward models in the convention of deepinv, which need not be installed.

Plug-and-play and unrolled algorithms written for ``deepinv.physics.LinearPhysics`` can use `BlurPhysics`: it has its
``A``, ``A_adjoint``, ``A_dagger``, ``prox_l2``, ``A_adjoint_A``, ``A_A_adjoint`` and ``A_vjp``, and can be called.

Examples
--------
Plug-and-play by half-quadratic splitting, with a denoiser of images ``denoise``::

    physics = BlurPhysics(UniformBlur(psf, boundary="circular"))
    x = physics.A_adjoint(y)
    for _ in range(10):
        x = physics.prox_l2(denoise(x), y, gamma=100.0)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.cg import conjugate_gradients


class BlurPhysics(nn.Module):
    """A blur as a linear forward model: y = A x, without noise.

    Parameters
    ----------
    blur : UniformBlur or MotionBlur
        With the boundary ``"extended"`` the sharp images are larger than the blurred ones by the margin of the blur.
    max_iter : int
        Most iterations of conjugate gradients in `prox_l2` and `A_dagger`.
    tol : float
        They end when the residual of the normal equations is this small, relative to their right-hand side.

    Notes
    -----
    Keyword arguments that deepinv passes through to every method of a physics, such as new parameters of it, are
    accepted and have no effect: the blur is fixed.

    References
    ----------
    J. Tachella et al., "DeepInverse: a Python package for solving imaging inverse problems with deep learning", 2025.
    """

    def __init__(self, blur: UniformBlur | MotionBlur, max_iter: int = 100, tol: float = 1e-5):
        super().__init__()
        if not isinstance(blur, (UniformBlur, MotionBlur)):
            raise TypeError(f"blur must be a UniformBlur or a MotionBlur, got {type(blur).__name__}")
        self.blur, self.max_iter, self.tol = blur, max_iter, tol

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Return the blurred images, as `A`."""
        return self.A(x)

    def A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Blur.

        Parameters
        ----------
        x : (B, C, H', W') tensor
            Sharp images.

        Returns
        -------
        y : (B, C, H, W) tensor
        """
        return self.blur.A(x)

    def A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Apply the transpose of `A`: (B, C, H, W) to (B, C, H', W')."""
        return self.blur.A_adjoint(y)

    def A_adjoint_A(self, x: Tensor, **kwargs: Any) -> Tensor:
        """Return A'A x, of the size of x."""
        return self.A_adjoint(self.A(x))

    def A_A_adjoint(self, y: Tensor, **kwargs: Any) -> Tensor:
        """Return A A'y, of the size of y."""
        return self.A(self.A_adjoint(y))

    def A_vjp(self, x: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        """Return the product of v (B, C, H, W) with the Jacobian of `A` at x: A'v, as A is linear."""
        return self.A_adjoint(v)

    def A_dagger(self, y: Tensor, *, max_iter: int | None = None, tol: float | None = None, **kwargs: Any) -> Tensor:
        """Return the least-squares solution of A x = y of the smallest norm, by conjugate gradients from 0.

        Blurs are ill-conditioned: noise in y is amplified the more, the more iterations there are.

        Parameters
        ----------
        y : (B, C, H, W) tensor
            Blurred images.
        max_iter : int, optional
            Most iterations.
        tol : float, optional
            As for the class.

        Returns
        -------
        x : (B, C, H', W') tensor
        """
        right = self.A_adjoint(y)
        return self._solve(self.A_adjoint_A, right, torch.zeros_like(right), max_iter, tol)

    def prox_l2(
        self,
        z: Tensor,
        y: Tensor,
        gamma: float | Tensor,
        *,
        max_iter: int | None = None,
        tol: float | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Return the proximal operator of the data term: argmin over x of gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2.

        Parameters
        ----------
        z : (B, C, H', W') tensor
            Where the operator is evaluated.
        y : (B, C, H, W) tensor
            Blurred images.
        gamma : float or tensor
            Positive; a tensor has one value, or one for each image, (B,) or (B, 1, 1, 1).
        max_iter : int, optional
            Most iterations of conjugate gradients, which start from z.
        tol : float, optional
            As for the class.

        Returns
        -------
        x : (B, C, H', W') tensor
        """
        weight = torch.as_tensor(gamma, dtype=z.dtype, device=z.device)
        if not bool((weight > 0).all()):
            raise ValueError(f"gamma must be positive, got {gamma}")
        weight = weight.reshape(-1, 1, 1, 1)
        right = weight * self.A_adjoint(y) + z
        return self._solve(lambda x: weight * self.A_adjoint_A(x) + x, right, z, max_iter, tol)

    def _solve(self, normal: Any, right: Tensor, x: Tensor, max_iter: int | None, tol: float | None) -> Tensor:
        return conjugate_gradients(
            normal,
            right,
            x,
            self.max_iter if max_iter is None else max_iter,
            self.tol if tol is None else tol,
        )
