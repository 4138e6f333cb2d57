"""A network that goes from the blurred picture to the sharp one and knows no motion, to compare ours with.

Coarse to fine on three scales in the manner of Nah et al. (CVPR 2017): each scale sees the blurred picture of its size
and the enlarged result of the scale before. A re-implementation of the formulation, not of the paper's program: about
as many parameters and operations as `ircdeblur.nets.irc_net.IRCNet` has, pairs of the kind that Motion-Net is trained
on, and a robust distance as the loss in place of squares and an adversary::

    python -m ircdeblur.experiments.direct_cnn train --config YAML --data DIR --out DIR
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.nets.layers import Residual, has_fast_bfloat16
from ircdeblur.nets.weights_file import load_weights, save_weights

SCALES = 3
"""Sizes that are looked at: 1/4, 1/2 and 1."""

TITLE = "DMCNN-like, direct"
"""What tables call it."""

KIND = "direct-cnn"


@dataclass(frozen=True)
class DirectConfig:
    """Size of the network.

    Attributes
    ----------
    width : int
        Channels of each scale's convolutions, which see blocks of 2 x 2 pixels.
    blocks : int
        Residual blocks of each scale.
    """

    width: int = 64
    blocks: int = 16


class DirectNet(nn.Module):
    """The network.

    Parameters
    ----------
    config : DirectConfig, optional
        Size.

    References
    ----------
    S. Nah, T. H. Kim, K. M. Lee, "Deep multi-scale convolutional neural network for dynamic scene deblurring", CVPR
    2017.
    """

    def __init__(self, config: DirectConfig | None = None):
        super().__init__()
        self.config = c = config or DirectConfig()

        def scale() -> nn.Sequential:
            entry, leave = nn.Conv2d(24, c.width, 3, padding=1), nn.Conv2d(c.width, 12, 3, padding=1)
            with torch.no_grad():
                leave.weight.mul_(0.01)
                assert leave.bias is not None
                leave.bias.zero_()
            return nn.Sequential(entry, *(Residual(c.width) for _ in range(c.blocks)), nn.ReLU(), leave)

        self.scales = nn.ModuleList(scale() for _ in range(SCALES))

    def estimates(self, blurred: torch.Tensor) -> list[torch.Tensor]:
        """Return the result of each scale, (B, 3, H / 4, W / 4) first, of pictures whose sides are multiples of 8."""
        sizes = [blurred]
        for _ in self.scales[1:]:
            sizes.append(F.avg_pool2d(sizes[-1], 2))
        results: list[torch.Tensor] = []
        for scale, picture in zip(self.scales, reversed(sizes), strict=True):
            coarser = (
                F.interpolate(results[-1], scale_factor=2.0, mode="bilinear", align_corners=False)
                if results
                else picture
            )
            seen = F.pixel_unshuffle(torch.cat((picture, coarser), 1), 2)
            fast = has_fast_bfloat16(blurred.device)
            with torch.autocast(blurred.device.type, torch.bfloat16, enabled=fast):
                correction = scale(seen.contiguous(memory_format=torch.channels_last))
            results.append(picture + F.pixel_shuffle(correction.float(), 2))
        return results

    def forward(self, blurred: torch.Tensor) -> torch.Tensor:
        """Restore pictures of any size.

        Parameters
        ----------
        blurred : (B, 1 or 3, H, W) tensor
            In [0, 1]; a grey picture goes through as three equal channels, whose mean comes back.

        Returns
        -------
        sharp : tensor of the same shape
            Not clipped.
        """
        if blurred.ndim != 4 or blurred.shape[1] not in (1, 3):
            raise ValueError(f"blurred must be (B, 1 or 3, H, W), got {tuple(blurred.shape)}")
        height, width = blurred.shape[-2:]
        step = 2**SCALES
        padded = F.pad(blurred.expand(-1, 3, -1, -1), (0, -width % step, 0, -height % step), mode="replicate")
        sharp = self.estimates(padded)[-1][..., :height, :width]
        return sharp if blurred.shape[1] == 3 else sharp.mean(1, keepdim=True)

    @torch.no_grad()
    def restore(self, image: np.ndarray) -> np.ndarray:
        """Return the restored photograph (H, W, 3), clipped to [0, 1], of a blurred one."""
        x = torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)[None]
        x = self(x.to(next(self.parameters()).device))
        return x[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy()


ROBUST = 1e-3
"""Errors above this count by their size, smaller ones by their square; on the [0, 1] scale."""

COARSER = 0.5
"""Weight in the loss of each scale but the last."""


def direct_loss(results: Sequence[torch.Tensor], sharp: torch.Tensor) -> torch.Tensor:
    """Return the mean robust size of the errors, over all scales.

    The logarithm of each crop's squared error, which a mean PSNR asks for, held the network at its input: crops that
    hardly moved have the most to lose.

    Parameters
    ----------
    results : sequence of tensors
        Of `DirectNet.estimates`.
    sharp : (B, 3, H, W) tensor
        The truth.
    """
    total = sharp.new_zeros(())
    weight = 1.0
    for result in reversed(results):
        total = total + weight * ((result - sharp).square() + ROBUST**2).sqrt().mean()
        sharp, weight = F.avg_pool2d(sharp, 2), COARSER
    return total


def weights_path(folder: Path) -> Path:
    """Return where the weights lie in the folder of all baselines."""
    return folder / "direct" / f"{KIND}.safetensors"


def save(net: DirectNet, path: str | Path, summary: dict[str, Any] | None = None) -> None:
    """Write the network; see `ircdeblur.nets.weights_file.save_weights`."""
    save_weights(net, KIND, asdict(net.config), path, summary)


def load(path: str | Path) -> tuple[DirectNet, dict[str, Any]]:
    """Return the network and the summary of its training; see `ircdeblur.nets.weights_file.load_weights`."""
    net, summary = load_weights(path, KIND, f"{TITLE} network", lambda config: DirectNet(DirectConfig(**config)))
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net, summary
