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

One iteration applies A, A' and C^-1 once each. Of a colour picture in opponent colours the first channel can go on
alone: the others, smoother and with a stronger prior, have converged long before it.

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
from ircdeblur.solvers.compensation import Compensation, local_inverse
from ircdeblur.solvers.domain import ExtendedDomain, Observation

SMOOTHING = 0.005
"""eps, on the [0, 1] scale: about one grey level of 8 bits. Smaller values change the result little and converge more
slowly."""

RENEWED = (0, 4)
"""Iterations that adapt the local inverse filters to the weights of the gradients: at the start these are the blurred
image's, later the sharp one's."""


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
    others: int | None = None,
    inverse: Compensation | None = None,
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
    others : int, optional
        Iterations of all channels but the first, >= 1, where these are to be fewer.
    inverse : Compensation, optional
        The local inverse filters of this very blur, frame and mask, where they are at hand. Their penalty is another
        one afterwards, in one channel if `others` are fewer.

    Returns
    -------
    result : Result
        x is not clipped.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """
    others = iterations if others is None else others
    if min(iterations, others) < 1:
        raise ValueError(f"iterations must be >= 1, got {iterations}, and {others} of the other channels")
    if not 0.0 < norm <= 1.0:
        raise ValueError(f"norm must be in (0, 1] for this method, got {norm}")
    if smoothing <= 0.0 or bool((lam < 0).any()):
        raise ValueError(f"smoothing must be positive and lam not negative, got {smoothing} and {lam.tolist()}")
    began = time.perf_counter()
    descent = _Descent(observed, blur, lam, norm, isotropic, smoothing, inverse)
    figures: list[Iteration] = []
    finished: tuple[torch.Tensor, ...] = ()
    settled = 0.0
    for k in range(iterations):
        if k == others and observed.y.shape[1] > 1:
            finished, whole = (descent.x[:, 1:],), descent.objective() if statistics else 0.0
            descent.keep_first_channel()
            settled = whole - descent.objective() if statistics else 0.0
        descent.advance(renew=k in RENEWED)
        if statistics:
            figures.append(Iteration(settled + descent.objective(), None, None, time.perf_counter() - began))
        if callback is not None:
            callback(k + 1, descent.domain.crop(torch.cat((descent.x, *finished), 1)))
    x = torch.cat((descent.x, *finished), 1)
    return Result(descent.domain.crop(x), figures, x)


def _gradient(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return difference(x, -1), difference(x, -2)


class _Descent:
    """Where the iteration stands; arguments as for `majorise_minimise`.

    Attributes
    ----------
    x : (B, C, H', W') tensor
        The estimate.
    blurred, gradient
        Its blur, and its two differences.
    step : tuple of tensors
        What the last iteration has added to x, to `blurred` and to both of `gradient`; at first there is none.
    """

    def __init__(
        self,
        observed: Observation,
        blur: UniformBlur | MotionBlur,
        lam: torch.Tensor,
        norm: float,
        isotropic: bool,
        smoothing: float,
        inverse: Compensation | None,
    ):
        self.observed, self.blur, self.lam = observed, blur, lam
        self.norm, self.isotropic, self.smoothing = norm, isotropic, smoothing
        self.domain = ExtendedDomain(observed, blur)
        self.inverse = local_inverse(blur, self.domain.shape, observed.mask) if inverse is None else inverse
        self.x = self.domain.start()
        self.blurred, self.gradient = blur.A(self.x), _gradient(self.x)
        self.step: tuple[torch.Tensor, ...] = ()

    def keep_first_channel(self) -> None:
        """Go on with the first channel alone."""
        self.observed = Observation(self.observed.y[:, :1], self.observed.mask)
        self.lam = self.lam[:, :1]
        self.x, self.blurred, along, down = (t[:, :1].clone() for t in (self.x, self.blurred, *self.gradient))
        self.gradient = along, down
        self.step = tuple(t[:, :1].clone() for t in self.step)
        self.inverse.keep_first_channel()

    def _squares(self) -> tuple[torch.Tensor, ...]:
        """|grad x|^2 + eps^2 as the prior sees it: of both differences together, or of each on its own."""
        first, second = (g.square().add_(self.smoothing**2) for g in self.gradient)
        return (first.add_(second).sub_(self.smoothing**2),) if self.isotropic else (first, second)

    def objective(self) -> float:
        """Return F, of all images."""
        data = 0.5 * self.observed.misfit(self.blurred).double().square().sum()
        prior = sum((self.lam * t.double().pow(self.norm / 2)).sum() / self.norm for t in self._squares())
        return float(data + prior)

    def advance(self, renew: bool) -> None:
        """Do one iteration; adapt the local inverse filters to the weights of the gradients before, if asked to."""
        lam, norm, gradient = self.lam, self.norm, self.gradient
        weights = [lam * s.pow(norm / 2 - 1) if norm < 1 else lam * s.rsqrt_() for s in self._squares()]
        along, down = weights[0], weights[-1]
        if renew:
            rho = torch.stack([self.inverse.local_mean(w) for w in weights]).mean(0)
            self.inverse.set_penalty(rho.clamp(min=1e-6))
        slope = self.blur.A_adjoint(self.observed.misfit(self.blurred))
        add_difference_adjoint(slope, along * gradient[0], -1)
        add_difference_adjoint(slope, down * gradient[1], -2)

        z = self.inverse(slope).neg_()
        az, gz = self.observed.masked(self.blur.A(z)), _gradient(z)
        wz = along * gz[0], down * gz[1]
        # The quadratic on the plane of the two directions: H s = -c, for each channel on its own.
        c0 = inner(slope, z)
        h00 = inner(az, az) + inner(wz[0], gz[0]) + inner(wz[1], gz[1])
        if self.step:
            d, ad, gd0, gd1 = self.step
            c1 = inner(slope, d)
            h01 = inner(az, ad) + inner(wz[0], gd0) + inner(wz[1], gd1)
            h11 = inner(ad, ad) + inner(along * gd0, gd0) + inner(down * gd1, gd1)
            s0, s1 = _minimum_on_plane(h00, h01, h11, c0, c1)
            for old, new in zip(self.step, (z, az, *gz), strict=True):
                old.mul_(s1).addcmul_(new, s0)
        else:
            s0 = (-c0 / h00.clamp(min=1e-30))[..., None, None]
            self.step = (s0 * z, s0 * az, s0 * gz[0], s0 * gz[1])
        for whole, part in zip((self.x, self.blurred, *gradient), self.step, strict=True):
            whole.add_(part)


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
