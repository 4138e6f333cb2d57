"""Residual compensation with memory: a majorise-minimise iteration for least squares with sparse gradients.

The objective of Eq. 1, its corner rounded off by a small eps,

    F(x) = 1/2 ||A x - y||^2 + lambda sum_p phi(|grad x|_p),     phi(t) = (t^2 + eps^2)^(l/2) / l,

lies below a quadratic that touches it at the current x: the weight of each gradient is then
w_p = lambda (|grad x|_p^2 + eps^2)^(l/2 - 1). Its downhill direction is an iterated residual compensation,

    z = sum_i d_i * r_i,     r_0 = y - A x,  r_i = -w k_i * x,

with the local inverse filters d_i of `ircdeblur.solvers.compensation`. Where Algorithm 2.1 adds z, and forgets it,
this iteration minimises the quadratic over the plane of z and of its own last step (memory gradient): F never rises,
whatever the blur, the noise and the filters, and the borders, where the filters fit worst, converge as by conjugate
gradients.

One iteration applies A, A' and C^-1 once each.

References
----------
E. Chouzenoux, J. Idier, S. Moussaoui, "A majorize-minimize strategy for subspace optimization applied to image
restoration", IEEE Trans. Image Processing 20, 2011 (memory gradient with one past direction).
M. Nikolova, M. Ng, "Analysis of half-quadratic minimization methods for signal and image recovery", SIAM J. Sci.
Comput. 27, 2005 (the quadratic).
"""

from __future__ import annotations

import time

import torch

from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import Callback, Iteration, Result, add_difference_adjoint, difference, inner
from ircdeblur.solvers.compensation import local_inverse
from ircdeblur.solvers.domain import ExtendedDomain, Observation

SMOOTHING = 0.005
"""eps, on the [0, 1] scale: about one grey level of 8 bits. Smaller values change the result little and converge more
slowly."""

RENEWED = (0, 4)
"""Iterations that adapt the local inverse filters to the weights of the gradients: at the start these are the blurred
image's, later the sharp one's."""


def _gradient(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return difference(x, -1), difference(x, -2)


@torch.no_grad()
def majorise_minimise(
    observed: Observation,
    blur: UniformBlur | MotionBlur,
    lam: torch.Tensor,
    iterations: int,
    norm: float = 1.0,
    isotropic: bool = True,
    smoothing: float = SMOOTHING,
    statistics: bool = False,
    callback: Callback | None = None,
) -> Result:
    """Minimise F over the sharp image.

    Parameters
    ----------
    observed : Observation
        Blurred image (B, C, H, W).
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    lam : (B or 1, C or 1, 1, 1) tensor
        Weight lambda of the prior in each channel, not negative, for images in [0, 1].
    iterations : int
        Number of iterations, >= 1.
    norm : float
        Exponent l of the prior in (0, 1]; below 1 the objective has more than one minimum.
    isotropic : bool
        Whether |grad x| is the length of the gradient; otherwise the two differences count on their own (Eq. 16).
    smoothing : float
        eps, positive.
    statistics : bool
        Return the objective after each iteration.
    callback : callable, optional
        Called after each iteration with its number, from 1 on, and the frame of x.

    Returns
    -------
    result : Result
        x is not clipped.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}")
    if not 0.0 < norm <= 1.0:
        raise ValueError(f"norm must be in (0, 1] for this method, got {norm}")
    if smoothing <= 0.0 or bool((lam < 0).any()):
        raise ValueError(f"smoothing must be positive and lam not negative, got {smoothing} and {lam.tolist()}")
    began = time.perf_counter()
    domain = ExtendedDomain(observed, blur)
    inverse = local_inverse(blur, domain.shape, observed.mask)
    figures: list[Iteration] = []

    def square(gradient: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """|grad x|^2 + eps^2, as the prior of each of the two differences sees it."""
        first, second = (g.square().add_(smoothing**2) for g in gradient)
        if isotropic:
            first = second = first.add_(second).sub_(smoothing**2)
        return first, second

    x = domain.start()
    blurred, gradient = blur.A(x), _gradient(x)
    step: tuple[torch.Tensor, ...] = ()
    for k in range(iterations):
        squares = square(gradient)
        weights = [lam * s.pow(norm / 2 - 1) if norm < 1 else lam * s.rsqrt() for s in squares[: 1 if isotropic else 2]]
        along, down = weights[0], weights[-1]
        if k in RENEWED:
            rho = torch.stack([inverse.local_mean(w) for w in weights]).mean(0)
            inverse.set_penalty(rho.clamp(min=1e-6))
        slope = blur.A_adjoint(observed.misfit(blurred))
        add_difference_adjoint(slope, along * gradient[0], -1)
        add_difference_adjoint(slope, down * gradient[1], -2)

        z = inverse(slope).neg_()
        az, gz = observed.masked(blur.A(z)), _gradient(z)
        wz = along * gz[0], down * gz[1]
        # The quadratic on the plane of the two directions: H s = -c, for each channel on its own.
        c0 = inner(slope, z)
        h00 = inner(az, az) + inner(wz[0], gz[0]) + inner(wz[1], gz[1])
        if step:
            d, ad, gd0, gd1 = step
            c1 = inner(slope, d)
            h01 = inner(az, ad) + inner(wz[0], gd0) + inner(wz[1], gd1)
            h11 = inner(ad, ad) + inner(along * gd0, gd0) + inner(down * gd1, gd1)
            s0, s1 = _minimum_on_plane(h00, h01, h11, c0, c1)
            step = (
                torch.addcmul(s0 * z, d, s1),
                torch.addcmul(s0 * az, ad, s1),
                torch.addcmul(s0 * gz[0], gd0, s1),
                torch.addcmul(s0 * gz[1], gd1, s1),
            )
        else:
            s0 = (-c0 / h00.clamp(min=1e-30))[..., None, None]
            step = (s0 * z, s0 * az, s0 * gz[0], s0 * gz[1])
        x = x + step[0]
        blurred = blurred + step[1]
        gradient = gradient[0] + step[2], gradient[1] + step[3]

        if statistics:
            data = 0.5 * observed.misfit(blurred).double().square().sum()
            terms = square(gradient)[: 1 if isotropic else 2]
            prior = sum((lam * t.double().pow(norm / 2)).sum() / norm for t in terms)
            figures.append(Iteration(float(data + prior), None, None, time.perf_counter() - began))
        if callback is not None:
            callback(k + 1, domain.crop(x))
    return Result(domain.crop(x), figures, x)


def _minimum_on_plane(
    h00: torch.Tensor, h01: torch.Tensor, h11: torch.Tensor, c0: torch.Tensor, c1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return s with H s = -c for each (B, C), as (B, C, 1, 1); along the first direction alone where both are one."""
    dtype = h00.dtype
    h00, h01, h11, c0, c1 = (t.double() for t in (h00, h01, h11, c0, c1))
    determinant = h00 * h11 - h01 * h01
    plane = determinant > 1e-9 * h00 * h11
    safe = torch.where(plane, determinant, 1.0)
    alone = -c0 / h00.clamp(min=1e-30)
    s0 = torch.where(plane, (h01 * c1 - h11 * c0) / safe, alone)
    s1 = torch.where(plane, (h01 * c0 - h00 * c1) / safe, 0.0)
    return s0.to(dtype)[..., None, None], s1.to(dtype)[..., None, None]
