"""Motion by two classifications of every pixel, in the manner of Gong et al.

u and v are rounded to whole pixels, and a fully convolutional network states two distributions at every pixel, over
u = 0, ..., 38 and over v = -36, ..., 36, each without knowing of the other; the sign is fixed by u >= 0. Two things
come with the form: at a vertical motion the answer jumps between v and -v, and where both are likely the distribution
of v has two peaks.

The network is `MotionNet` itself, gradients, autocorrelation, trunk and all, with another last layer; so what is
compared is classification against regression.

References
----------
D. Gong et al., "From motion blur to motion flow: a deep learning solution for removing heterogeneous motion blur", CVPR
2017: their trunk is FCN-8s on RGB, their loss the same sum of cross-entropies, their answer the most probable classes.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.data.synthesis import Pairs
from ircdeblur.motion import canonical, to_double_angle
from ircdeblur.nets.motion_net import STRIDE, MotionNet, MotionNetConfig

MAX_U, MAX_V = 38, 36
"""Largest classes, pixels."""

REACH = 2
"""Classes on each side of the most probable one over which the answer is averaged: finer than whole pixels."""

SAMPLED = 4
"""Pixels between those that the loss looks at."""


class FcnNet(MotionNet):
    """`MotionNet` with 39 + 73 classes in place of its vector and scale.

    Parameters
    ----------
    config : MotionNetConfig, optional
        The size; its `output` is not looked at.
    """

    def __init__(self, config: MotionNetConfig | None = None):
        super().__init__(config)
        classes = MAX_U + 1 + 2 * MAX_V + 1
        self.out = nn.Conv2d(self.out.in_channels, classes, 1)
        self.shortcut = nn.Conv2d(self.shortcut.in_channels, classes, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            for parameter in (self.out.bias, *self.shortcut.parameters()):
                assert parameter is not None
                parameter.zero_()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the double-angle motion of every pixel and the spread of the two distributions about it.

        Parameters
        ----------
        image : (B, 1 or 3, H, W) tensor
            Luminance or RGB in [0, 1], any size.

        Returns
        -------
        double : (B, H, W, 2) tensor
            (l cos 2a, l sin 2a) in pixels.
        scale : (B, H, W) tensor
            Root of the mean squared distance in pixels.
        """
        height, width = image.shape[-2:]
        image = F.pad(image, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        grid = self.forward_grid(image)
        full = F.interpolate(grid, scale_factor=STRIDE, mode="bilinear", align_corners=False)
        (u, spread_u), (v, spread_v) = (decode(logits, low) for logits, low in split(full[..., :height, :width]))
        return to_double_angle(torch.stack((u, v), -1)), torch.hypot(spread_u, spread_v)


def split(logits: torch.Tensor) -> tuple[tuple[torch.Tensor, int], tuple[torch.Tensor, int]]:
    """Return the classes of u and of v from (B, 112, H, W), each with its smallest."""
    return (logits[:, : MAX_U + 1], 0), (logits[:, MAX_U + 1 :], -MAX_V)


def decode(logits: torch.Tensor, low: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean about the most probable class and the spread of all about that, both (B, H, W), in pixels.

    Parameters
    ----------
    logits : (B, K, H, W) tensor
        Of the classes low, low + 1, ...
    """
    share = torch.softmax(logits, 1)
    classes = share.shape[1]
    around = share.argmax(1, keepdim=True) + torch.arange(-REACH, REACH + 1, device=share.device).view(1, -1, 1, 1)
    weight = share.gather(1, around.clamp(0, classes - 1)) * ((around >= 0) & (around < classes))
    value = (weight * around).sum(1) / weight.sum(1)
    number = torch.arange(classes, device=share.device, dtype=share.dtype)
    first, second = (torch.einsum("bkhw,k->bhw", share, number**n) for n in (1, 2))
    return value + low, (second - 2 * value * first + value**2).clamp(min=0).sqrt()


def encode(motion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes of u and of v, int64 (...), for motion vectors (..., 2) in pixels."""
    u, v = canonical(motion).round().long().unbind(-1)
    return u.clamp(0, MAX_U), v.clamp(-MAX_V, MAX_V) + MAX_V


def fcn_loss(net: FcnNet, pairs: Pairs) -> torch.Tensor:
    """Mean over the pixels of the sum of both cross-entropies.

    Every fourth pixel of every fourth row, against the cell of the output that it lies in. Where the blur is no motion
    the answer is to be none, as for `ircdeblur.training.motion_net.motion_loss`.
    """
    grid = net.forward_grid(pairs.blurred)
    sampled = pairs.motion[:, SAMPLED // 2 :: SAMPLED, SAMPLED // 2 :: SAMPLED]
    total = grid.new_zeros(())
    for (logits, _), classes in zip(split(grid), encode(sampled), strict=True):
        # The mean over the pixels of a cell of what their one distribution loses.
        wanted = F.one_hot(classes, logits.shape[1]).permute(0, 3, 1, 2).to(logits)
        wanted = F.avg_pool2d(wanted, STRIDE // SAMPLED)
        total = total - (wanted * torch.log_softmax(logits, 1)).sum(1).mean()
    return total
