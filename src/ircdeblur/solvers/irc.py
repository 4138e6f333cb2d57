"""The x-update by iterated residual compensation (Algorithm 2.1 of the paper)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ircdeblur.inverse import InverseBank, inverse_filters
from ircdeblur.kernels import MAX_LENGTH
from ircdeblur.motion import to_polar
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.admm import XUpdate
from ircdeblur.solvers.domain import ExtendedDomain
from ircdeblur.solvers.filtering import TiledFilter, UniformFilter, centred_response

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
    """Add the inverse-filtered residuals to x, again and again: x <- x + sum_i d_i * (z_i - k_i * x).

    Parameters
    ----------
    y : (B, C, H, W) tensor
        Blurred image.
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
    rho : float
        Penalty of ADMM: k_0 = k / sqrt(rho), z_0 = y / sqrt(rho).
    steps : int
        Tmax of Algorithm 2.1.
    epsilon : float
        Stop when the sum of the squared residuals, per pixel, is not above this.
    mask : (B or 1, 1, H, W) tensor, optional
        1 where the observed pixel counts, 0 where it is saturated.

    Notes
    -----
    The pixels around the frame, which the blur has read, are unknowns; their data residual counts as zero. For filters
    of unlimited support, d_i = C^-1 k_i' with C = sum_i k_i' k_i, the iteration is Richardson's for the least-squares
    problem of the frame alone, preconditioned by C; C exceeds that problem's matrix, so it converges to its solution.
    """

    def __init__(
        self,
        y: torch.Tensor,
        blur: UniformBlur | MotionBlur,
        rho: float,
        steps: int = 2,
        epsilon: float = 0.0,
        mask: torch.Tensor | None = None,
    ):
        super().__init__(y, blur, mask)
        self.rho, self.steps, self.epsilon = rho, steps, epsilon
        shape = (y.shape[-2] + 2 * self.margin[0], y.shape[-1] + 2 * self.margin[1])
        self.inverse: UniformFilter | TiledFilter
        if isinstance(blur, UniformBlur):
            filters = inverse_filters(blur.psf, rho, uniform_support(blur.psf)).to(y)
            self.inverse = UniformFilter(filters, shape)
        else:
            bank = InverseBank.load(rho, MOTION_SUPPORT)
            motion = blur.motion if blur.motion.ndim == 3 else blur.motion[0]
            longest = float(to_polar(motion.detach())[0].max())
            # The filters of a shorter motion compensate a longer one too strongly: the iteration would diverge.
            if longest > MAX_LENGTH + 0.5:
                raise ValueError(
                    f"the motion is up to {longest:.1f} px long and irc has inverse filters up to {MAX_LENGTH} px; "
                    "use the method cg"
                )
            length, angle = to_polar(at_grid(motion.detach(), shape, self.margin, GRID_STEP))
            filters = bank.filters_at(length, angle).to(y)
            tile = TiledFilter.tile_for(filters.shape[-1] // 2, GRID_STEP)
            self.inverse = TiledFilter(centred_response(filters, (tile, tile)), shape, tile, GRID_STEP)

    def solve(self, x: torch.Tensor, targets: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return x after at most `steps` compensations."""
        my, mx = self.margin
        enough = self.epsilon * x.numel()
        for _ in range(self.steps):
            data = F.pad(self.residual(x), (mx, mx, my, my)) * (-(self.rho**-0.5))
            gaps = tuple(t - g for t, g in zip(targets, self.differences(x), strict=True))
            if enough > 0 and sum(float(r.square().sum()) for r in (data, *gaps)) <= enough:
                break
            x = x + self.inverse((data, *gaps))
        return x
