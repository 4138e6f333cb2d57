"""Motion-Net and IRC-Net joined (section 3.3 of the paper, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ircdeblur.motion import from_double_angle
from ircdeblur.nets.belief import reckon
from ircdeblur.nets.motion_net import MotionNet
from ircdeblur.nets.unrolled import UnrolledNet
from ircdeblur.operators import MotionBlur


class JointNet(nn.Module):
    """From the blurred photograph to the sharp one, differentiable in the weights of both networks (Eq. 18).

    The motion that Motion-Net answers decides the blur of the residuals, the shares in which the bank's inverse filters
    are mixed, and what IRC-Net's prior is told: through all three the loss of the sharp picture reaches Motion-Net, and
    through its expected error too, which also decides how much of the result is believed (`ircdeblur.nets.belief`), as
    when a photograph is restored. The answers are taken as they are; the refinement on the picture's spectra that
    `ircdeblur.nets.blind` adds has no gradient.

    Parameters
    ----------
    motion_net : MotionNet
        Finds the motion.
    irc_net : IRCNet or ShrinkageIRCNet
        Undoes it.
    motion_pace : float
        Factor of Motion-Net's learning rate.
    """

    def __init__(self, motion_net: MotionNet, irc_net: UnrolledNet, motion_pace: float = 1.0):
        super().__init__()
        self.motion_net, self.irc_net, self.motion_pace = motion_net, irc_net, motion_pace

    def pace(self, name: str) -> float:
        """Return the factor of a parameter's learning rate; see `ircdeblur.training.loop.TrainingModule`."""
        part, _, name = name.partition(".")
        own: Callable[[str], float] = getattr(self.irc_net, "pace", lambda name: 1.0)
        return self.motion_pace if part == "motion_net" else own(name)

    def motion(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the motion (B, H, W, 2) of images (B, 1 or 3, H, W), and its expected error (B, H, W), in pixels."""
        double, error = self.motion_net(y)
        # No motion has no direction, and no gradient.
        moved = double.square().sum(-1, keepdim=True) > 1e-6
        return from_double_angle(torch.where(moved, double, 1e-3)), error

    def estimates(self, y: torch.Tensor, noise: float | torch.Tensor) -> list[torch.Tensor]:
        """Return each stage's estimate of the sharp images.

        Parameters
        ----------
        y : (B, 1 or 3, H, W) tensor
            Blurred images in [0, 1].
        noise : float or (B,) tensor
            Standard deviation of their noise.
        """
        motion, error = self.motion(y)
        known = reckon(motion, error, noise)
        frames = self.irc_net.estimates(y, MotionBlur(motion), known.noise, known.doubt)
        return [torch.lerp(y, x, known.mixed[:, None]) for x in frames]

    def forward(self, y: torch.Tensor, noise: float | torch.Tensor) -> torch.Tensor:
        """Return the sharp images (B, C, H, W), not clipped; see `estimates`."""
        return self.estimates(y, noise)[-1]
