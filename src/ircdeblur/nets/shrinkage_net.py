"""The paper's IRC-Net: learned prior filters, shrinkage functions and inverse filters (section 3.2, Fig. 3).

Learned are the prior filters k_i, the penalties rho_i of each stage, the shrinkage functions by which z_i follows from
k_i * x and the multipliers, the multipliers' rates, and a gain of the inverse filters of each motion of the bank at
each frequency, which the windows of a photograph mix as Eq. 17 does. Before any training it is the solver ``irc``. The
stages themselves are explained in `ircdeblur.nets.irc_net`.

References
----------
Eboli, Sun & Ponce, sections 3.2 and 3.3.
Y. Yang, J. Sun, H. Li, Z. Xu, "Deep ADMM-Net for compressive sensing MRI", NeurIPS 2016: piecewise linear shrinkage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ircdeblur.nets.hub import HubMixin
from ircdeblur.nets.unrolled import UNIT_NOISE, UnrolledNet, first_estimate, has_channel_kernels, noise_of_images
from ircdeblur.nets.x_layer import Blur, InverseGain, XLayer, difference_filters
from ircdeblur.operators import pad_adjoint
from ircdeblur.solvers.color import from_opponent, to_opponent
from ircdeblur.solvers.domain import ExtendedDomain, Observation
from ircdeblur.solvers.filtering import centred_response
from ircdeblur.solvers.settings import NOISE_EXPONENT, prior_weight

NEIGHBOURS = 8
"""Pixels of a row that `Filters.adjoint` computes at once."""


class Filters(nn.Module):
    """Trainable filters.

    Parameters
    ----------
    count, size : int
        Number and side; see `difference_filters` for what they are at the start.
    """

    def __init__(self, count: int, size: int):
        super().__init__()
        self.taps = nn.Parameter(difference_filters(count, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, C, n, H, W)."""
        size, reach = self.taps.shape[-1], self.taps.shape[-1] // 2
        padded = F.pad(x.flatten(0, 1)[:, None], (reach,) * 4, mode="replicate")
        # The rows of the filters as channels: a convolution of one channel is not vectorised as well.
        rows = torch.cat([padded[:, :, i : i + x.shape[-2]] for i in range(size)], 1)
        return F.conv2d(rows, self.taps.transpose(1, 2)).unflatten(0, x.shape[:2])

    def adjoint(self, z: torch.Tensor) -> torch.Tensor:
        """(B, C, n, H, W) to (B, C, H, W)."""
        reach = self.taps.shape[-1] // 2
        rows, columns = (n + 2 * reach for n in z.shape[-2:])
        # Neighbours in a row as channels, which fill the vector registers: a convolution to one channel does not.
        row = self.taps.flip(-1, -2)[:, 0]
        taps = torch.stack([F.pad(row, (i, NEIGHBOURS - 1 - i)) for i in range(NEIGHBOURS)])
        padded = F.pad(z.flatten(0, 1), (2 * reach, 2 * reach + -columns % NEIGHBOURS, 2 * reach, 2 * reach))
        whole = F.conv2d(padded, taps, stride=(1, NEIGHBOURS)).permute(0, 2, 3, 1)
        whole = whole.reshape(-1, 1, rows, columns + -columns % NEIGHBOURS)[..., :columns]
        return pad_adjoint(whole, (reach, reach), "replicate")[:, 0].unflatten(0, z.shape[:2])

    def powers(self, size: tuple[int, int]) -> torch.Tensor:
        """Return |K_i|^2, (n, H, W // 2 + 1)."""
        return centred_response(self.taps[:, 0], size).abs().square()


class Shrinkage(nn.Module):
    """Piecewise linear functions with control points at -1, -0.98, ..., 1 and the slope 1 beyond, and learned scales.

    Parameters
    ----------
    thresholds : (G, n) tensor
        Of the soft thresholding that each function is at the start.
    """

    POINTS = 101
    threshold: torch.Tensor

    def __init__(self, thresholds: torch.Tensor):
        super().__init__()
        # Soft thresholding has its corners between the points; they are kept, and what is learned is added.
        self.register_buffer("threshold", thresholds.clone())
        self.change = nn.Parameter(torch.zeros(*thresholds.shape, self.POINTS))
        self.log_scale = nn.Parameter(torch.zeros(thresholds.shape))

    def forward(self, t: torch.Tensor, groups: list[int], scale: torch.Tensor) -> torch.Tensor:
        """Return ``s f(t / s)``, s being `scale` times the function's own scale, which is 1 at the start.

        Parameters
        ----------
        t : (B, C, n, H, W) tensor
            One function for each channel and filter.
        groups : list of C int
            The group of functions of each channel.
        scale : (B or 1, 1, 1, 1, 1) tensor
            Positive.
        """
        scale = scale * self.log_scale.exp()[groups][:, :, None, None]
        t = t / scale
        threshold = self.threshold[groups][:, :, None, None]
        soft = t - torch.maximum(torch.minimum(t, threshold), -threshold)
        change = piecewise_linear(t.flatten(1, 2), self.change[groups].flatten(0, 1)).view_as(t)
        return scale * (soft + change)


class _PiecewiseLinear(torch.autograd.Function):
    """See `piecewise_linear`; the derivative with respect to the values is a histogram, which torch finds slowly."""

    @staticmethod
    def forward(ctx: Any, t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        n, k = values.shape
        place = (t.clamp(-1, 1) + 1) * (0.5 * (k - 1))
        left = place.floor().clamp(max=k - 2)
        index = (left + torch.arange(0, n * k, k, device=t.device, dtype=t.dtype)[:, None, None]).to(torch.int32)
        share = place - left
        # Value and rise of each interval lie side by side.
        pairs = torch.stack((values, F.pad(values.diff(dim=1), (0, 1))), -1).flatten(0, 1)
        found = F.embedding(index, pairs)
        ctx.save_for_backward(index, share, found[..., 1] * (t.abs() < 1))
        ctx.size = n, k
        return torch.addcmul(found[..., 0], found[..., 1], share)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        index, share, rise = ctx.saved_tensors
        n, k = ctx.size
        index, right = index.flatten(), gradient * share
        total = torch.bincount(index, (gradient - right).flatten(), n * k).view(n, k)
        total[:, 1:] += torch.bincount(index, right.flatten(), n * k).view(n, k)[:, :-1]
        return gradient * rise * (0.5 * (k - 1)), total.to(gradient)


def piecewise_linear(t: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly between values at -1, ..., 1, constant beyond.

    Parameters
    ----------
    t : (B, N, H, W) tensor
        Where.
    values : (N, K) tensor
        Of the N functions at their K equidistant points.
    """
    found: torch.Tensor = _PiecewiseLinear.apply(t, values)
    return found


@dataclass(frozen=True)
class ShrinkageConfig:
    """Size of the paper's network.

    Attributes
    ----------
    start : int
        Iterations of the solver ``irc-mm`` that the first stage starts from; 0 for the blurred image, as in the paper.
    stages, steps : int
        N and T.
    filters, size : int
        Number and side of the prior filters.
    prior, rho : float
        Of the solver ``irc`` that the network, without a start, is before any training; see
        `ircdeblur.solvers.settings.Settings`.
    color : float or None
        Likewise.
    """

    start: int = 20
    stages: int = 5
    steps: int = 2
    filters: int = 8
    size: int = 5
    prior: float = 7.5
    rho: float = 0.01
    color: float | None = 4.0


class ShrinkageIRCNet(UnrolledNet, HubMixin):
    """The paper's IRC-Net: prior filters, learned shrinkage, and learned inverse filters.

    Colour pictures are taken as luma and two opponent colours; the two share what is learned.

    Parameters
    ----------
    config : ShrinkageConfig, optional
        Size and start.
    """

    network = "irc-net-shrinkage"
    about = "IRC-Net: deconvolution of known motion blur in a few unrolled stages with learned filters and shrinkage."
    config_class = ShrinkageConfig

    def __init__(self, config: ShrinkageConfig | None = None):
        super().__init__()
        self.config = c = config or ShrinkageConfig()
        self.filters = Filters(c.filters, c.size)
        groups = 1 if c.color is None else 2
        # More filters share what the two differences had.
        rho = c.rho * 2 / c.filters
        self.log_rho = nn.Parameter(torch.full((c.stages, groups, c.filters), math.log(rho)))
        self.rates = nn.Parameter(torch.ones(c.stages - 1, groups, c.filters))
        self.noise_exponent = nn.Parameter(torch.full((c.stages,), 2.0 - NOISE_EXPONENT))
        self.penalty_exponent = nn.Parameter(torch.zeros(c.stages))
        self.error_exponent = nn.Parameter(torch.full((c.stages,), 0.5))
        threshold = torch.full((groups, c.filters), prior_weight(c.prior, UNIT_NOISE) / c.rho)
        threshold[1:] *= c.color or 1.0
        self.shrinkage = nn.ModuleList(Shrinkage(threshold) for _ in range(c.stages))
        self.gain = InverseGain()

    @staticmethod
    def pace(name: str) -> float:
        """Return by how much the learning rate of a parameter is to be larger than that of the functions' values.

        Penalties, rates, exponents and the scales of the functions have far to go: the first stages' prior must be
        several times weaker than the solver's, which starts from the blurred image.
        """
        if name.startswith("gain."):
            return 0.5
        return 1.0 if name.endswith((".change", ".taps")) else 30.0

    def initial(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what the first stage starts from, (B, C, H', W'); arguments as for `forward`."""
        observed = Observation(y, mask)
        if self.config.start == 0:
            return ExtendedDomain(observed, blur).start()
        return first_estimate(observed, blur, noise_of_images(noise, y), error, self.config.start)

    def stages(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        initial: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the frame of each stage's x; see `UnrolledNet.forward`, and `initial` for what is at hand already."""
        c = self.config
        opponent = c.color is not None and y.shape[1] == 3 and not has_channel_kernels(blur)
        groups = [0, 1, 1] if opponent else [0] * y.shape[1]
        observed = Observation(to_opponent(y) if opponent else y, mask)
        layer = XLayer(observed, blur, self.filters, self.gain)
        sigma = noise_of_images(noise, y) / UNIT_NOISE
        doubt = None if error is None else 1 + layer.extend(error[:, None])
        x = self.initial(y, blur, noise, error, mask) if initial is None else initial
        x = to_opponent(x) if opponent else x
        k, data = self.filters(x), layer.misfit(x)
        z, multipliers = k, torch.zeros_like(k)
        for j, shrinkage in enumerate(self.shrinkage):
            # Where the motion is uncertain the prior is stronger.
            local = None if doubt is None else doubt ** self.error_exponent[j]
            layer.set_penalties(self.log_rho[j].exp()[groups], sigma ** self.penalty_exponent[j], local)
            if j > 0:
                k = self.filters(x)
                multipliers = multipliers + self.rates[j - 1][groups][:, :, None, None] * (k - z)
            z = shrinkage(k + multipliers, groups, (sigma ** self.noise_exponent[j])[..., None])
            pull = layer.pull(z - multipliers - k)
            for _ in range(c.steps):
                direction = layer.compensation(data, pull)
                a, data, pull = layer.step(direction, data, pull)
                x = x + a * direction
            yield layer.domain.crop(from_opponent(x) if opponent else x)
