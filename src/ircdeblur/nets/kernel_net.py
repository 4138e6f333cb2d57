"""Kernel-Net: a kernel that was found in a photograph, corrected by what its edges and its spectra say of it.

Least squares over the edges know the kernel but for their noise and for wrong edges; the spectra know its power. What a
path looks like, neither knows: a thin line at uneven speed. The network has seen many paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.nets.evidence import SpectralEvidence
from ircdeblur.nets.hub import HubMixin
from ircdeblur.nets.layers import Residual
from ircdeblur.nets.light import FLOORS
from ircdeblur.nets.refine import NATURAL_EXPONENTS
from ircdeblur.solvers.blind_kernel import RIDGE, centred, edge_maps

RIDGES = (RIDGE, 0.1 * RIDGE)
"""Weights of the kernel's squares in the least squares that the network is shown."""

CHANNELS = 7
"""Of what the network is shown: the kernel as it was found, and polished; least squares with each of `RIDGES`; the two
slopes of the spectra's likelihood; the noise."""

FINEST = 0.05
"""Standard deviation of the noise that the network is shown as 0, the largest one."""


@dataclass(frozen=True)
class KernelNetConfig:
    """Size of a Kernel-Net.

    Attributes
    ----------
    widths : tuple of int
        Channels at strides 1, 2, 4 ...
    blocks : int
        Residual blocks at each stride, on the way down; one on the way up.
    """

    widths: tuple[int, ...] = (24, 48, 72)
    blocks: int = 2

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.blocks < 1:
            raise ValueError(f"widths and blocks must be at least 1, got {self.widths} and {self.blocks}")


class KernelNet(nn.Module, HubMixin):
    """U-Net over the square that a kernel lies in.

    Parameters
    ----------
    config : KernelNetConfig, optional
        Its size.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.
    """

    network = "kernel-net"
    about = "Kernel-Net: corrects the blur kernel that was found in a photograph."
    config_class = KernelNetConfig

    def __init__(self, config: KernelNetConfig | None = None):
        super().__init__()
        self.config = config or KernelNetConfig()
        widths = self.config.widths

        def blocks(channels: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(Residual(channels) for _ in range(count)))

        self.first = nn.Conv2d(CHANNELS, widths[0], 3, padding=1)
        self.down = nn.ModuleList(blocks(width, self.config.blocks) for width in widths)
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.widen = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairwise(widths))
        self.up = nn.ModuleList(blocks(width, 1) for width in widths[:-1])
        self.last = nn.Conv2d(widths[0], 1, 3, padding=1)
        with torch.no_grad():
            self.last.weight.mul_(0.01)
            assert self.last.bias is not None
            self.last.bias.zero_()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return kernels.

        Parameters
        ----------
        maps : (B, CHANNELS, h, w) tensor
            What `maps_of` returns.

        Returns
        -------
        kernels : (B, h, w) tensor
            Not negative, of sum 1.
        """
        height, width = maps.shape[-2:]
        coarsest = 2 ** (len(self.config.widths) - 1)
        square = F.pad(maps, (0, -width % coarsest, 0, -height % coarsest))
        x = self.first(square.contiguous(memory_format=torch.channels_last))
        kept = []
        for blocks, narrow in zip(self.down, self.narrow, strict=False):
            x = blocks(x)
            kept.append(x)
            x = narrow(x)
        x = self.down[-1](x)
        for blocks, widen, beside in zip(self.up[::-1], self.widen[::-1], kept[::-1], strict=True):
            x = blocks(beside + F.interpolate(widen(x), size=beside.shape[-2:], mode="bilinear", align_corners=False))
        kernels = F.relu(maps[:, POLISHED] + self.last(x)[:, 0, :height, :width])
        return kernels / kernels.sum((-2, -1), keepdim=True).clamp(min=1e-6)


POLISHED = 1
"""Channel of the kernel that is corrected."""


def maps_of(luma: torch.Tensor, evidence: SpectralEvidence, found: np.ndarray, polished: np.ndarray) -> torch.Tensor:
    """Return what the network is shown of a photograph and its kernel.

    Parameters
    ----------
    luma : (H, W) tensor
        The photograph, in the light that it was blurred in.
    evidence : SpectralEvidence
        Of it, in the same light.
    found, polished : (side, side) arrays
        The kernel, before and after `ircdeblur.solvers.blind_kernel.polished`.

    Returns
    -------
    maps : (CHANNELS, side, side) float32 tensor
        Kernels and least squares in units of the polished kernel's largest value.
    """
    peak = polished.max()
    edges = edge_maps(luma, polished, RIDGES)
    slope, deviations = _slopes(evidence, polished)
    noise = np.full_like(polished, np.log10(evidence.noise / FINEST))
    spectra = slope / max(float(slope.std()), 1e-12), deviations / len(polished)
    maps = np.stack((found / peak, polished / peak, *(edges / peak).clip(-2, 2), *spectra, noise))
    return torch.from_numpy(maps).float()


def _slopes(evidence: SpectralEvidence, psf: np.ndarray) -> np.ndarray:
    """Return `SpectralEvidence.kernel_slopes` with the floor and the exponent that suit the kernel best."""
    power = evidence.coarse.kernel_power(psf)
    tried = [(evidence.coarse.with_floor(floor), float(a)) for floor in FLOORS for a in NATURAL_EXPONENTS]
    looked, exponent = max(tried, key=lambda t: float(t[0].log_likelihood_of_power(power, t[1]).mean()))
    return looked.kernel_slopes(psf, exponent)


def corrected(net: KernelNet, maps: torch.Tensor) -> np.ndarray:
    """Return the network's kernel, (side, side), centred on its mean to a pixel; the polished one if none is left."""
    return centred(corrected_in_place(net, maps))


@torch.no_grad()
def corrected_in_place(net: KernelNet, maps: torch.Tensor) -> np.ndarray:
    """Return the network's kernel, (side, side), of sum 1, not moved; the polished one if none is left."""
    kernel = net(maps[None])[0]
    kernel = (kernel if kernel.any() else maps[POLISHED]).double().numpy()
    return kernel / kernel.sum()
