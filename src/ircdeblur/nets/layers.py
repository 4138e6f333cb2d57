"""Layers that the networks share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    """Normalise the channels of every pixel on its own to mean 0 and variance 1, then scale and shift.

    Statistics over the picture (batch, instance or group normalisation) tie a pixel to places that moved otherwise:
    trained on crops, such a network answers with a constant on a photograph whose motion varies. These stay local.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        last = x.permute(0, 2, 3, 1)
        return F.layer_norm(last, (self.channels,), self.weight, self.bias, eps=1e-5).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """Two 3 x 3 convolutions with a rectifier between them, added to their input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with normalisation before each, added to their input."""

    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to the same."""
        y = self.conv1(F.relu(self.norm1(x)))
        return x + self.conv2(F.relu(self.norm2(y)))


class AtrousPyramid(nn.Module):
    """DeepLab's atrous spatial pyramid: parallel 3 x 3 convolutions of several rates, summed.

    References
    ----------
    L.-C. Chen et al., "DeepLab: semantic image segmentation with deep convolutional nets, atrous convolution, and fully
    connected CRFs", IEEE TPAMI 40(4), 2018.
    """

    def __init__(self, channels: int, out_channels: int, rates: tuple[int, ...]):
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.branches = nn.ModuleList(
            nn.Conv2d(channels, out_channels, 3, padding=rate, dilation=rate) for rate in rates
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, out_channels, H, W)."""
        x = F.relu(self.norm(x))
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 matrices in hardware, at least twice as fast as float32.

    Of processors these are the ones with tiles (AMX) or with dot products of bfloat16 (AVX512-BF16).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Both questions are private to torch, and older releases do not know the second one.
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return device.type == "cpu" and any(supported is not None and supported() for supported in asked)
