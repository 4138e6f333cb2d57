"""IRC-Net: a few stages of ADMM with iterated residual compensation, unrolled into a network (section 3.2, Fig. 3).

A stage finds auxiliary images for the prior filters, z_i, and then compensates what is left to explain,

    x  <-  x + a C^-1 (A'(y - A x) + sum_i rho_i k_i' (z_i - k_i * x)),        C ~ A'A + sum_i rho_i k_i' k_i,

T times, with the local inverse filters of `ircdeblur.solvers.compensation`: d_0 = C^-1 A' for the observation and
d_i = C^-1 rho_i k_i' for the prior filters (`ircdeblur.nets.x_layer`). In the paper's network, which is
`ircdeblur.nets.shrinkage_net`, the z_i are shrunk. In `IRCNet` a small convolutional network, whose features go on from
stage to stage as the multipliers do, proposes an image v, and z_i = k_i * v; it sees x, what was compensated, the
noise, the motion and how certain that is. Learned are its weights, penalties, and the merging of the three deblurred
residuals.

References
----------
Eboli, Sun & Ponce, sections 3.2 and 5.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.motion import to_double_angle
from ircdeblur.nets.hub import HubMixin
from ircdeblur.nets.layers import Residual, has_fast_bfloat16
from ircdeblur.nets.unrolled import UNIT_NOISE, UnrolledNet, first_estimate, noise_of_images
from ircdeblur.nets.x_layer import Blur, Differences, InverseGain, XLayer
from ircdeblur.operators import MotionBlur
from ircdeblur.solvers.domain import Observation

LENGTH_UNIT = 16.0
"""Pixels to which the lengths that a network sees are relative."""


@dataclass(frozen=True)
class IRCNetConfig:
    """Size of the network with the convolutional prior.

    Attributes
    ----------
    start : int
        Iterations of the solver ``irc-mm`` that the first stage starts from.
    stages, steps : int
        N and T.
    width : int
        Channels at half resolution; at a quarter there are twice as many.
    blocks : (int, int, int)
        Residual blocks at half resolution, at a quarter, and at half resolution again.
    rho : float
        Penalty of the first deblurred residual, before any training: small, to show what the solver's prior holds back.
    rho_later : float
        Penalty of the x-updates, before any training: large, they stay near what the prior proposes.
    gain : bool
        Whether the inverse filters of motions are trained too: as many values as a fifth of the convolutions have.
    """

    start: int = 20
    stages: int = 2
    steps: int = 1
    width: int = 32
    blocks: tuple[int, int, int] = (2, 3, 2)
    rho: float = 0.03
    rho_later: float = 0.5
    gain: bool = False


class PriorStage(nn.Module):
    """The convolutional prior of one stage: from estimate and features to a change of the estimate, and features.

    Two levels of a U-Net, on blocks of 2 x 2 and of 4 x 4 pixels.
    """

    def __init__(self, inputs: int, config: IRCNetConfig):
        super().__init__()
        c, (before, deep, after) = config.width, config.blocks
        self.entry = nn.Conv2d(inputs, c, 3, padding=1)
        self.before = nn.Sequential(*(Residual(c) for _ in range(before)))
        self.down = nn.Conv2d(c, 2 * c, 2, stride=2)
        self.deep = nn.Sequential(*(Residual(2 * c) for _ in range(deep)))
        self.up = nn.Conv2d(2 * c, 4 * c, 1)
        self.after = nn.Sequential(*(Residual(c) for _ in range(after)))
        self.exit = nn.Conv2d(c, 12, 3, padding=1)
        with torch.no_grad():
            self.exit.weight.mul_(0.01)
            assert self.exit.bias is not None
            self.exit.bias.zero_()

    def forward(self, inputs: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the change (B, 12, h, w) and the next features (B, width, h, w)."""
        x = self.before(self.entry(inputs) + features)
        x = x + F.pixel_shuffle(self.up(self.deep(self.down(x))), 2)
        x = self.after(x)
        return self.exit(x), x


class Seen(NamedTuple):
    """What the prior of a stage is shown of a picture, all of it (B or 1, ., H', W').

    Attributes
    ----------
    x : tensor
        The estimate.
    residuals : three tensors
        The deblurred residuals of the observation, and of the differences along rows and columns.
    maps : tensor
        See `IRCNet.maps`.
    unit : (B or 1, 1, 1, 1) tensor
        Size of the changes that are to be expected of a prior.
    """

    x: torch.Tensor
    residuals: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    maps: torch.Tensor
    unit: torch.Tensor

    def cropped(self, rows: int, columns: int) -> Seen:
        """Return it without so many rows above and below, and columns to the left and right."""
        return self.mapped(lambda t: crop_rim(t, rows, columns))

    def copied(self) -> Seen:
        """Return a copy in memory of its own."""
        return self.mapped(torch.clone)

    def mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Seen:
        """Return it with all images changed in the same way."""
        data, rows, columns = (change(t) for t in self.residuals)
        return Seen(change(self.x), (data, rows, columns), change(self.maps), self.unit)

    def oriented(self, transpose: bool, upside_down: bool, mirror: bool) -> Seen:
        """Return what the prior would be shown of the picture transposed, then turned upside down, then mirrored."""
        x, maps = (orient(t, transpose, upside_down, mirror) for t in (self.x, self.maps))
        data, rows, columns = (orient(t, transpose, upside_down, mirror) for t in self.residuals)
        double = maps[:, 1:3]
        # A motion of angle t has angle 90 - t in the transposed picture, and -t in a mirrored one.
        signs = double.new_tensor([-1.0 if transpose else 1.0, -1.0 if upside_down != mirror else 1.0])
        maps = torch.cat((maps[:, :1], double * signs[:, None, None], maps[:, 3:]), 1)
        return Seen(x, (data, columns, rows) if transpose else (data, rows, columns), maps, self.unit)


def crop_rim(t: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Return images (..., H, W) without so many rows above and below, and columns to the left and right."""
    return t[..., rows : t.shape[-2] - rows, columns : t.shape[-1] - columns]


ORIENTATIONS = tuple(itertools.product((False, True), repeat=3))
"""Arguments of `orient` that give the eight orientations of a picture, its own first."""


def orient(t: torch.Tensor, transpose: bool, upside_down: bool, mirror: bool) -> torch.Tensor:
    """Return images (..., H, W) transposed, then turned upside down, then mirrored."""
    t = t.transpose(-1, -2) if transpose else t
    return _flipped(t, upside_down, mirror)


def orient_back(t: torch.Tensor, transpose: bool, upside_down: bool, mirror: bool) -> torch.Tensor:
    """Return what `orient` has made such images of."""
    t = _flipped(t, upside_down, mirror)
    return t.transpose(-1, -2) if transpose else t


def _flipped(t: torch.Tensor, upside_down: bool, mirror: bool) -> torch.Tensor:
    dims = [dim for dim, turned in ((-2, upside_down), (-1, mirror)) if turned]
    return t.flip(dims) if dims else t


@dataclass
class State:
    """What stands between two stages.

    Attributes
    ----------
    layer : XLayer
        Of the x-updates.
    sigma : (B or 1, 1, 1, 1) tensor
        Noise relative to 1 %.
    doubt : (B or 1, 1, H', W') tensor or None
        1 px plus the expected error of the motion.
    seen : Seen
        What the next prior is shown, the estimate x among it.
    data : (B, C, H, W) tensor
        What x leaves of the observation.
    v : (B, C, H', W') tensor
        What the last prior has proposed; before the first one it is x.
    features : list of tensors
        Of the last prior, in each orientation that it has seen.
    """

    layer: XLayer
    sigma: torch.Tensor
    doubt: torch.Tensor | None
    seen: Seen
    data: torch.Tensor
    v: torch.Tensor
    features: list[torch.Tensor] = field(default_factory=list)


class IRCNet(UnrolledNet, HubMixin):
    """IRC-Net with a convolutional network as prior.

    A stage's prior sees x and the deblurred residuals of the observation and of the two differences, each on its own,
    and proposes the image v of the next x-update's z_i = k_i * v. There the three are merged by learned weights. The
    first prior sees an estimate of the solver, the last one's proposal is the result.

    Parameters
    ----------
    config : IRCNetConfig, optional
        Size.

    Attributes
    ----------
    fast : bool
        Convolve in bfloat16 where the device is made for it (see `has_fast_bfloat16`).
    orientations : tuple of arguments of `orient`
        How the priors see the picture; what they propose is averaged. With all eight `ORIENTATIONS` it is better than
        with the picture as it is, and their part of the work eight times as long.

    References
    ----------
    R. Timofte, R. Rothe, L. Van Gool, "Seven ways to improve example-based single image super resolution", CVPR 2016:
    the ensemble of orientations.
    """

    network = "irc-net"
    about = "IRC-Net: deconvolution of known motion blur in a few unrolled stages with a convolutional prior."
    config_class = IRCNetConfig

    MAPS = 6
    """Planes that tell of the noise and the blur: see `maps`."""

    def __init__(self, config: IRCNetConfig | None = None):
        super().__init__()
        self.config = c = config or IRCNetConfig()
        self.fast, self.orientations = True, ORIENTATIONS[:1]
        self.log_rho = nn.Parameter(torch.full((c.stages, 2), c.rho_later).log())
        with torch.no_grad():
            self.log_rho[0] = math.log(c.rho)
        # How the penalty follows the noise, and the expected error of the motion.
        self.noise_exponent = nn.Parameter(torch.ones(c.stages))
        self.error_exponent = nn.Parameter(torch.ones(c.stages))
        self.merge = nn.Parameter(torch.ones(c.stages - 1, 3))
        self.gain = InverseGain() if c.gain else None
        self.observe = nn.Conv2d(12 + self.MAPS, c.width, 3, padding=1)
        self.priors = nn.ModuleList(PriorStage(4 * 12 + self.MAPS, c) for _ in range(c.stages))
        self.priors.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def stages(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> Iterator[torch.Tensor]:
        """Yield the frame of the image that each stage's prior proposes; see `UnrolledNet.forward`."""
        state = self.start(y, blur, noise, error, mask)
        for j in range(self.config.stages):
            if j > 0:
                self.update(state, j)
            yield state.layer.domain.crop(self.propose(state, j))

    def start(
        self,
        y: torch.Tensor,
        blur: Blur,
        noise: float | torch.Tensor,
        error: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> State:
        """Return what there is before the first prior; arguments as for `forward`."""
        observed = Observation(y, mask)
        layer = XLayer(observed, blur, Differences(y), self.gain)
        sigma = noise_of_images(noise, y) / UNIT_NOISE
        doubt = None if error is None else 1 + layer.extend(error[:, None])
        shared = layer.inverse if self.gain is None else None
        x = first_estimate(observed, blur, sigma * UNIT_NOISE, error, self.config.start, shared)
        maps = self.maps(x, blur, sigma, doubt, layer)
        data, none = layer.misfit(x), torch.zeros_like(x)
        state = State(layer, sigma, doubt, Seen(x, (none, none, none), maps, UNIT_CHANGE * sigma**0.5), data, x)
        self._set_penalties(state, 0)
        left = layer.inverse(layer.blur.A_adjoint(data))
        state.seen = state.seen._replace(residuals=(left, none, none))
        return state

    def update(self, state: State, j: int) -> None:
        """Do the x-update before the prior of a stage j >= 1."""
        layer, x = state.layer, state.seen.x
        self._set_penalties(state, j)
        for _ in range(self.config.steps):
            prior = layer.prior(state.v - x)
            parts = self._deblurred(layer, state.data, prior)
            direction = sum(weight * part for weight, part in zip(self.merge[j - 1], parts, strict=True))
            assert isinstance(direction, torch.Tensor)
            a, state.data, _ = layer.step(direction, state.data, layer.pull(prior))
            x = x + a * direction
        state.seen = state.seen._replace(x=x, residuals=parts)

    def propose(self, state: State, j: int) -> torch.Tensor:
        """Return the image (B, C, H', W') that the prior of a stage proposes."""
        if not state.features:
            blurred = state.layer.extend(state.layer.observed.y)
            state.features = [self.observed(orient(blurred, *o), state.seen.oriented(*o)) for o in self.orientations]
        total = torch.zeros(())
        for i, o in enumerate(self.orientations):
            proposal, state.features[i] = self.proposal(state.seen.oriented(*o), state.features[i], j)
            total = total.to(proposal) + orient_back(proposal, *o)
        state.v = total / len(self.orientations)
        return state.v

    def observed(self, blurred: torch.Tensor, seen: Seen) -> torch.Tensor:
        """Return the features that go to the first prior.

        Parameters
        ----------
        blurred : (B, C, H', W') tensor
            The blurred images, continued to the size of the estimates.
        seen : Seen
            What the first prior is shown.
        """
        with self._precision(blurred):
            features: torch.Tensor = self.observe(self._blocks(seen, blurred, ()))
        return features

    def proposal(self, seen: Seen, features: torch.Tensor, j: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the image (B, C, H', W') that the prior of a stage proposes, and its features."""
        x = seen.x
        with self._precision(x):
            change, features = self.priors[j](self._blocks(seen, x, seen.residuals), features)
        change = from_bands(change.to(x))[..., : x.shape[-2], : x.shape[-1]] * seen.unit
        return x + (change if x.shape[1] == 3 else change.mean(1, keepdim=True)), features

    def copy_first_prior(self) -> None:
        """Let all priors start from the first one's weights, and change next to nothing."""
        first = self.priors[0]
        with torch.no_grad():
            for other in list(self.priors)[1:]:
                other.load_state_dict(first.state_dict())
                assert isinstance(other, PriorStage)
                other.exit.weight.mul_(0.1)
                assert other.exit.bias is not None
                other.exit.bias.zero_()

    @staticmethod
    def _deblurred(
        layer: XLayer, data: torch.Tensor, prior: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return d_0 * r_0, d_1 * r_1 and d_2 * r_2, each (B, C, H', W'); see `XLayer.compensation`."""
        assert isinstance(layer.prior, Differences)
        weighted = layer.rho * prior
        rows, columns = (layer.inverse(layer.prior.adjoint_of(weighted, i)) for i in (0, 1))
        return layer.inverse(layer.blur.A_adjoint(data)), rows, columns

    def _set_penalties(self, state: State, j: int) -> None:
        local = None if state.doubt is None else state.doubt ** self.error_exponent[j]
        state.layer.set_penalties(self.log_rho[j].exp()[None], state.sigma ** self.noise_exponent[j], local)

    def maps(
        self, v: torch.Tensor, blur: Blur, sigma: torch.Tensor, doubt: torch.Tensor | None, layer: XLayer
    ) -> torch.Tensor:
        """Return what the prior is told of noise and blur, (B, 6, H', W').

        The logarithm of the noise, relative to 1 %; the double-angle vector of the motion, and how far the kernel
        reaches across it, in units of 16 px; the logarithm of 1 px plus the expected error of the motion; whether a
        pixel was observed.
        """
        shape = (v.shape[0], 1, *v.shape[-2:])
        if isinstance(blur, MotionBlur):
            fields = blur.motion if blur.motion.ndim == 4 else blur.motion[None]
            double = layer.extend(to_double_angle(fields).permute(0, 3, 1, 2)) / LENGTH_UNIT
            across = v.new_zeros(1, 1, 1, 1)
        else:
            double, across = (t / LENGTH_UNIT for t in extent_of_kernel(blur.psf))
        seen = layer.observed.masked(v.new_ones(1, 1, *layer.observed.y.shape[-2:]))
        my, mx = layer.domain.margin
        planes = (
            sigma.log().expand(shape),
            double.expand(shape[0], 2, *shape[2:]),
            across.expand(shape),
            v.new_zeros(shape) if doubt is None else doubt.log().expand(shape),
            F.pad(seen, (mx, mx, my, my)).expand(shape),
        )
        return torch.cat(planes, 1)

    @staticmethod
    def _blocks(seen: Seen, x: torch.Tensor, residuals: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return what a prior sees, in blocks of 2 x 2 pixels; the sides are even numbers of blocks.

        Of the image the mean of each block as it is, and its details, like the deblurred residuals, in the units of the
        changes that are to be expected: noise and what was lost are small against the image.
        """
        after = [-n % 4 for n in x.shape[-2:]]

        def whole(planes: torch.Tensor) -> torch.Tensor:
            return F.pad(planes, (0, after[1], 0, after[0]), mode="replicate")

        image = to_bands(whole(x.expand(-1, 3, -1, -1)))
        parts = [image[:, :3] - 1, image[:, 3:] / seen.unit]
        parts += [to_bands(whole(r.expand(-1, 3, -1, -1))) / seen.unit for r in residuals]
        parts.append(F.avg_pool2d(whole(seen.maps), 2))
        return torch.cat(parts, 1).contiguous(memory_format=torch.channels_last)

    def _precision(self, y: torch.Tensor) -> torch.autocast:
        """Return the context in which the convolutions are computed."""
        return torch.autocast(y.device.type, torch.bfloat16, enabled=self.fast and has_fast_bfloat16(y.device))


UNIT_CHANGE = 0.02
"""Size of the changes that a prior makes at a noise of 1 %."""


def to_bands(x: torch.Tensor) -> torch.Tensor:
    """Return the Haar wavelets of blocks of 2 x 2 pixels: (B, 3, H, W) to (B, 12, H / 2, W / 2), the means first."""
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return 0.5 * torch.cat((a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d), 1)


def from_bands(bands: torch.Tensor) -> torch.Tensor:
    """Return the images of `to_bands`, its inverse and transpose."""
    m, h, v, d = bands.chunk(4, 1)
    corners = torch.stack((m + h + v + d, m - h + v - d, m + h - v - d, m - h - v + d), 2)
    return 0.5 * F.pixel_shuffle(corners.flatten(1, 2), 2)


def extent_of_kernel(psf: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the motion that spreads light as a kernel does, and how far the kernel reaches across it.

    Parameters
    ----------
    psf : (..., kh, kw) tensor
        Kernels, (C, kh, kw) or (B, C, kh, kw); of several channels the mean counts.

    Returns
    -------
    double : (B or 1, 2, 1, 1) tensor
        Double-angle vector in pixels: the variance of a line of length l is l^2 / 12.
    across : (B or 1, 1, 1, 1) tensor
        Length in pixels of the line with the variance across that.
    """
    kernel = psf.reshape(-1, psf.shape[-3] if psf.ndim > 2 else 1, *psf.shape[-2:]).mean(1)
    kernel = kernel.clamp(min=0)
    kernel = kernel / kernel.sum((-2, -1), keepdim=True)
    rows, columns = (torch.arange(n, dtype=psf.dtype, device=psf.device) for n in kernel.shape[-2:])
    down, right = kernel.sum(-1), kernel.sum(-2)
    y, x = rows - (down @ rows)[:, None], columns - (right @ columns)[:, None]
    yy, xx = (down * y**2).sum(-1), (right * x**2).sum(-1)
    xy = (kernel * y[:, :, None] * x[:, None]).sum((-2, -1))
    # Up is minus y.
    major = torch.stack((xx - yy, -2 * xy), -1)
    size = major.norm(dim=-1)
    double = major * (12 / size.clamp(min=1e-6)).sqrt()[:, None]
    across = (6 * (xx + yy - size)).clamp(min=0).sqrt()
    return double[:, :, None, None], across[:, None, None, None]
