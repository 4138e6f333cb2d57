"""The x-update by iterated residual compensation (Algorithm 2.1 of the paper)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.nn import functional as F

from ircdeblur.inverse import InverseBank, inverse_filters
from ircdeblur.kernels import MAX_LENGTH
from ircdeblur.motion import bank_interpolation, to_polar
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import XUpdate, add_difference_adjoint, inner
from ircdeblur.solvers.compensation import local_inverse
from ircdeblur.solvers.domain import ExtendedDomain, Observation
from ircdeblur.solvers.filtering import BankFilter, TiledFilter, UniformFilter, centred_response

Filters = Literal["local", "tiles", "bank"]

GRID_STEP = 32
"""Distance in pixels of the points between which the inverse filters of a non-uniform blur are interpolated."""

MOTION_SUPPORT = 71
"""Support of the filters of a motion. They are exact from 47 px on, but among the exact filters those of smallest norm
tend to the least-squares solution only as the support grows: 47 px cost up to 0.6 dB (rho 0.01), 71 px 0.1."""


def uniform_support(psf: torch.Tensor) -> int:
    """Return the support of the inverse filters of a uniform blur: large, for the reason given at `MOTION_SUPPORT`.

    Applied in the Fourier domain, large filters cost no more than small ones.
    """
    return max(101, 4 * max(psf.shape) + 1)


def at_grid(motion: torch.Tensor, shape: tuple[int, int], margin: tuple[int, int], step: int) -> torch.Tensor:
    """Return the motion at the points of `TiledFilter.grid` of a domain that surrounds the frame.

    Parameters
    ----------
    motion : (H, W, 2) tensor
        Motion of the frame; it is continued outward by its rim.
    shape : (H', W')
        Size of the domain.
    margin : (my, mx)
        Place of the frame in it.
    step : int
        Distance of the points.

    Returns
    -------
    points : (rows * columns, 2) tensor
    """
    rows, columns = TiledFilter.grid(shape, step)
    rows = (rows - margin[0]).clamp(0, motion.shape[0] - 1).to(motion.device)
    columns = (columns - margin[1]).clamp(0, motion.shape[1] - 1).to(motion.device)
    return motion[rows][:, columns].reshape(-1, 2)


class IteratedResidualCompensation(ExtendedDomain, XUpdate):
    """Add the inverse-filtered residuals to x, again and again: x <- x + a sum_i d_i * (z_i - k_i * x).

    Parameters
    ----------
    observed : Observation
        Blurred image (B, C, H, W).
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    rho : float
        Penalty of ADMM: k_0 = k / sqrt(rho), z_0 = y / sqrt(rho).
    steps : int
        Tmax of Algorithm 2.1.
    epsilon : float
        Stop when the sum of the squared residuals, per pixel, is not above this.
    filters : {"local", "tiles", "bank"}
        The inverse filters d_i. ``"local"``: those of the least-squares problem, see `ircdeblur.solvers.compensation`.
        The others are the paper's, of finite support and smallest norm (Eq. 14): ``"bank"`` interpolates those of the
        bank's motions at every pixel (Eq. 17, slow); ``"tiles"`` interpolates them at grid points and blends between.

    Notes
    -----
    The pixels around the frame, which the blur has read, are unknowns; their data residual counts as zero.

    Where the filters fit the blur, a = 1 as in the paper. Filters that are interpolated between motions, or averaged
    over a window, can compensate too strongly, and the paper's iteration then diverges; here a is the step that leaves
    the smallest sum of squared residuals, which can never grow. It takes inner products, but no further blur, as the
    residuals are linear in x.

    The fixed point of the local filters is the least-squares solution. That of the paper's filters is
    sum_i d_i * r_i = 0, which differs from it where they do not fit.
    """

    def __init__(
        self,
        observed: Observation,
        blur: UniformBlur | MotionBlur,
        rho: float,
        steps: int = 2,
        epsilon: float = 0.0,
        filters: Filters = "local",
    ):
        super().__init__(observed, blur)
        if filters not in get_args(Filters):
            raise ValueError(f"filters must be one of {', '.join(get_args(Filters))}, got {filters!r}")
        self.rho, self.steps, self.epsilon = rho, steps, epsilon
        if filters == "local":
            self._local = local_inverse(blur, self.shape, observed.mask)
            self._local.set_penalty(observed.y.new_full((1, 1, 1, 1), rho))
            self._compensate = self._local_filters
        else:
            self._finite = finite_filters(blur, self.shape, rho, filters, observed.y)
            self._compensate = self._finite_filters
        self._blurred: tuple[torch.Tensor, torch.Tensor] | None = None

    def _local_filters(self, data: torch.Tensor, gaps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        total = self.blur.A_adjoint(data * self.rho**-0.5)
        add_difference_adjoint(total, gaps[0], -1)
        add_difference_adjoint(total, gaps[1], -2)
        return self._local(total.mul_(self.rho))

    def _finite_filters(self, data: torch.Tensor, gaps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        my, mx = self.margin
        return self._finite((F.pad(data, (mx, mx, my, my)), *gaps))

    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return x after at most `steps` compensations."""
        enough = self.epsilon * x.numel()
        scale = self.rho**-0.5
        # The blur of x is known from the last call, unless somebody else has changed x since.
        blurred = self._blurred[1] if self._blurred is not None and self._blurred[0] is x else self.blur.A(x)
        gaps = tuple(t - g for t, g in zip(targets, self.differences(x), strict=True))
        for _ in range(self.steps):
            data = self.observed.misfit(blurred) * -scale
            if enough > 0 and sum(float(r.square().sum()) for r in (data, *gaps)) <= enough:
                break
            z = self._compensate(data, gaps)
            az = self.blur.A(z)
            seen, dz = self.observed.masked(az) * scale, self.differences(z)
            gain = sum((inner(r, k) for r, k in zip(gaps, dz, strict=True)), start=inner(data, seen))
            power = sum((inner(k, k) for k in dz), start=inner(seen, seen))
            a = (gain / power.clamp(min=torch.finfo(power.dtype).tiny))[..., None, None]
            x = torch.addcmul(x, a, z)
            blurred = torch.addcmul(blurred, a, az)
            gaps = tuple(torch.addcmul(r, a, k, value=-1.0) for r, k in zip(gaps, dz, strict=True))
        self._blurred = x, blurred
        return x


def finite_filters(
    blur: UniformBlur | MotionBlur, shape: tuple[int, int], rho: float, filters: Filters, like: torch.Tensor
) -> UniformFilter | TiledFilter | BankFilter:
    """Return the paper's inverse filters of a blur, ready to be applied.

    Parameters
    ----------
    blur : UniformBlur or MotionBlur
        With the boundary "extended"; of a batch of motion fields the first one counts.
    shape : (H', W')
        Of the domain of x.
    rho : float
        Penalty of ADMM.
    filters : {"tiles", "bank"}
        How a motion field's are interpolated.
    like : tensor
        Precision and device.

    Raises
    ------
    ValueError
        If a motion is longer than the bank's longest.
    """
    if isinstance(blur, UniformBlur):
        return UniformFilter(inverse_filters(blur.psf, rho, uniform_support(blur.psf)).to(like), shape)
    bank = InverseBank.load(rho, MOTION_SUPPORT)
    motion = (blur.motion if blur.motion.ndim == 3 else blur.motion[0]).detach()
    longest = float(to_polar(motion)[0].max())
    # The filters of a shorter motion compensate a longer one too strongly.
    if longest > MAX_LENGTH + 0.5:
        raise ValueError(
            f"the motion is up to {longest:.1f} px long and the bank has inverse filters up to {MAX_LENGTH} px; "
            "use the local filters"
        )
    if filters == "bank":
        length, angle = to_polar(at_grid(motion, shape, blur.margin, 1))
        indices, weights = bank_interpolation(length.view(shape), angle.view(shape), "bilinear")
        return BankFilter(bank.filters.to(like), indices, weights.to(like))
    length, angle = to_polar(at_grid(motion, shape, blur.margin, GRID_STEP))
    chosen = bank.filters_at(length, angle).to(like)
    tile = TiledFilter.tile_for(chosen.shape[-1] // 2, GRID_STEP)
    return TiledFilter(centred_response(chosen, (tile, tile)), shape, tile, GRID_STEP)
