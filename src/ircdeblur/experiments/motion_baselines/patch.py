"""Motion by a classification of small patches, in the manner of Sun et al.

A network sees 34 x 34 pixels and states a distribution over no motion and 17 lengths (3, 5, ..., 35 px) in 6 directions
(every 30 degrees); the finer directions come from the picture turned by 6, 12, 18 and 24 degrees. Patches are 6 px
apart; a Markov random field (`smoothing`) makes one field of what they say. The lengths end at 35 px in place of their
25, so that the answer can be right.

The form sets the limits: what lies beyond 34 pixels is not seen, a motion as long as the patch leaves little in it, and
what the wider picture would tell enters only when the patch has answered. Within the patch the network has what
`MotionNet` has: the same normalised gradients (the local energy by which they are divided is taken over 31 px about
each pixel, a little beyond the patch), the same blocks, the autocorrelation of the gradients as far as both factors lie
in the patch, and as many parameters. All convolutions are without padding, so the patches of a picture are computed at
once, with the same result as one by one.

References
----------
J. Sun, W. Cao, Z. Xu and J. Ponce, "Learning a convolutional neural network for non-uniform motion blur removal", CVPR
2015. Theirs sees the colours, is trained on patches of the candidate motions alone, and takes no features.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.data.photos import LUMA
from ircdeblur.data.synthesis import Pairs
from ircdeblur.experiments.motion_baselines.smoothing import answer, smooth, spread
from ircdeblur.kernels import LENGTHS, MAX_LENGTH, MotionBank
from ircdeblur.motion import to_polar
from ircdeblur.nets.layers import ChannelNorm, ResidualBlock
from ircdeblur.nets.motion_net import FULL_SHIFTS, HALF_SHIFTS, MotionNet, MotionNetConfig, autocorrelation
from ircdeblur.nets.weights_file import parameter_count

PATCH, STRIDE = 34, 6
"""Side of the patches and pixels between them."""

DIRECTIONS = 6
"""Directions of the classes, every 30 degrees."""

TURNS = (0, 6, 12, 18, 24)
"""Degrees by which the picture is turned, counter-clockwise on the screen."""

CLASSES = 1 + (len(LENGTHS) - 1) * DIRECTIONS

_RIM = (PATCH - STRIDE) // 2
# In half-size pixels a patch is 17 wide and a cell 3: three cells leave room for shifts of 8, one cell for 14.
_NEAR = [s for s in HALF_SHIFTS if max(map(abs, s)) <= 8]
_FAR = [s for s in HALF_SHIFTS if 8 < max(map(abs, s)) <= 14]


@dataclass(frozen=True)
class PatchNetConfig:
    """Size of a `PatchNet`.

    Attributes
    ----------
    stem : int
        Filters of the full-resolution layer.
    widths : (int, int)
        Channels at strides 2 and 6.
    hidden : int
        Channels of the fully connected layers.
    """

    stem: int = 12
    widths: tuple[int, int] = (48, 96)
    hidden: int = 256

    @classmethod
    def like(cls, network: MotionNetConfig) -> PatchNetConfig:
        """Return the size that has as many parameters as a Motion-Net, to within 2 %."""
        wanted = parameter_count(MotionNet(network))

        def count(hidden: int) -> int:
            with torch.device("meta"):
                return parameter_count(PatchNet(cls(network.stem, network.widths[1:], hidden)))

        sizes = range(32, 2049, 8)
        return cls(network.stem, network.widths[1:], sizes[bisect.bisect(sizes, wanted, key=count) - 1])


@dataclass(frozen=True)
class PatchSettings:
    """How the patches' answers become a field; chosen on ten validation pictures with a network trained for 9 minutes.

    Attributes
    ----------
    trust : float
        Factor of the log-likelihoods: neighbouring patches share most of their pixels.
    strength, limit, radius : float
        See `smoothing.smooth`.
    """

    trust: float = 1.0
    strength: float = 0.3
    limit: float = 25.0
    radius: float = 8.0


class PatchNet(nn.Module):
    """Distribution over 103 motions for every patch of 34 pixels.

    Parameters
    ----------
    config : PatchNetConfig, optional
        The size of the network.
    """

    ENERGY_WINDOW, ENERGY_FLOOR = MotionNet.ENERGY_WINDOW, MotionNet.ENERGY_FLOOR

    def __init__(self, config: PatchNetConfig | None = None):
        super().__init__()
        self.config = c = config or PatchNetConfig()
        self.settings = PatchSettings()
        self.stem = nn.Conv2d(3, c.stem, 7)
        self.entry = nn.Conv2d(2 * c.stem, c.widths[0], 4, stride=2)
        self.block = ResidualBlock(c.widths[0])
        self.narrow = nn.Conv2d(c.widths[0], c.widths[1], 3, stride=3)
        self.norm1 = ChannelNorm(c.widths[1])
        self.whole = nn.Conv2d(c.widths[1], c.hidden, 3)
        features = len(FULL_SHIFTS) + len(_NEAR) + len(_FAR)
        self.correlations = nn.Conv2d(features, c.hidden, 1)
        self.norm2 = ChannelNorm(c.hidden)
        self.head = nn.Conv2d(c.hidden, c.hidden, 1)
        self.out = nn.Conv2d(c.hidden, CLASSES, 1)
        self.shortcut = nn.Conv2d(features, CLASSES, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            for parameter in (self.out.bias, *self.shortcut.parameters()):
                assert parameter is not None
                parameter.zero_()

    def features(self, dx: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        """Return the autocorrelation of the gradients within each patch, (B, K, h, w)."""
        full = tuple(g.clamp(-3, 3) for g in (dx, dy))
        # The mean over 2 x 2 pixels of first differences is the difference of pixels two apart, smoothed.
        half = tuple(2 * F.avg_pool2d(g, 2) for g in full)
        found = []
        for (gx, gy), shifts, cell, cells, step in (
            (full, FULL_SHIFTS, STRIDE, 3, 2),
            (half, _NEAR, STRIDE // 2, 3, 1),
            (half, _FAR, STRIDE // 2, 1, 1),
        ):
            # Three cells before the patches' middle ones; the pixels that this adds are in none of the windows.
            pad = 3 * cell - _RIM * cell // STRIDE
            gx, gy = (F.pad(g, (pad,) * 4) for g in (gx, gy))
            raw = autocorrelation(gx, gy, [(0, 0), *shifts], cell, step)
            mean = F.avg_pool2d(raw, cells, 1, cells // 2)[..., 3:-3, 3:-3]
            found.append(mean[:, 1:] * 5 / (mean[:, :1] + 0.02))
        return torch.cat(found, 1)

    def classify(self, dx: torch.Tensor, dy: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 103, h, w) of all patches of (B, 1, 6 h + 28, 6 w + 28) normalised gradients."""
        features = self.features(dx, dy)
        x = self.stem(torch.cat((dx, dy, 0.5 * torch.log(scale) + 2.0), dim=1))
        x = self.entry(torch.cat((F.relu(x), F.relu(-x)), dim=1))
        # What the block's own padding reaches is cut off.
        x = self.block(x)[..., 2:-2, 2:-2]
        x = self.whole(F.relu(self.norm1(self.narrow(x)))) + self.correlations(features)
        x = F.relu(self.head(F.relu(self.norm2(x))))
        return (self.out(x) + self.shortcut(features)).float()

    def forward_grid(self, luma: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 103, h, w) of all patches of (B, 1, 6 h + 28, 6 w + 28) luminance."""
        return self.classify(*MotionNet.normalised_gradients(cast(MotionNet, self), luma, self.ENERGY_WINDOW))

    def evidence(self, image: torch.Tensor) -> torch.Tensor:
        """Return what all turned pictures say together.

        Parameters
        ----------
        image : (B, 1 or 3, H, W) tensor
            Luminance or RGB in [0, 1].

        Returns
        -------
        evidence : (B, ceil(H / 6), ceil(W / 6), 511) tensor
            Logarithms of the probabilities of the motions of the bank.
        """
        luma = image if image.shape[1] == 1 else (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        height, width = luma.shape[-2:]
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        shares = []
        for turn in TURNS:
            cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
            size = (rows, columns) if turn == 0 else (rows * cos + columns * sin + 1, columns * cos + rows * sin + 1)
            h, w = (math.ceil(n) for n in size)
            # The turned picture's middle is the picture's; the grid of patches is square to it.
            turned = rotate(
                luma, turn, (h * STRIDE + 2 * _RIM, w * STRIDE + 2 * _RIM), (rows * STRIDE, columns * STRIDE)
            )
            share = torch.softmax(self.forward_grid(turned), 1)
            shares.append(rotate(share, -turn, (rows, columns), (h, w), mode="bilinear"))
        together = torch.stack(shares, 1)
        still = together[:, :, :1].mean(1)
        order = _class_of_motion().to(image.device)
        moved = together.flatten(1, 2)[:, order]
        share = torch.cat((still, moved), 1)
        return torch.log((share / share.sum(1, keepdim=True)).clamp(min=1e-8)).permute(0, 2, 3, 1)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the double-angle motion (B, H, W, 2) and its spread (B, H, W), each patch for itself, in pixels."""
        share = self.evidence(image).exp()
        double = answer(share, self.settings.radius)
        grid = torch.cat((double, spread(share, double)[..., None]), -1)
        full = _to_pixels(grid, image.shape[-2:])
        return full[..., :2], full[..., 2]

    @torch.no_grad()
    def smoothed(self, image: torch.Tensor, settings: PatchSettings | None = None) -> torch.Tensor:
        """Return the double-angle motion (B, H, W, 2) of the Markov random field, in pixels."""
        s = settings or self.settings
        fields = [smooth(s.trust * e, s.strength, s.limit, s.radius) for e in self.evidence(image)]
        return _to_pixels(torch.stack(fields), image.shape[-2:])


def _to_pixels(grid: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a grid of patches (B, h, w, K) at every pixel."""
    full = F.interpolate(grid.permute(0, 3, 1, 2), scale_factor=STRIDE, mode="bilinear", align_corners=False)
    return full[..., : shape[0], : shape[1]].permute(0, 2, 3, 1)


def rotate(
    image: torch.Tensor, degrees: float, size: tuple[int, int], box: tuple[int, int], mode: str = "bicubic"
) -> torch.Tensor:
    """Turn a picture about the middle of a box in its upper left corner.

    Parameters
    ----------
    image : (B, C, H, W) tensor
        What lies beyond it is taken as its border.
    degrees : float
        Counter-clockwise on the screen.
    size : (int, int)
        Rows and columns of the result, in whose middle the middle of the box comes to lie.
    box : (int, int)
        Rows and columns of the box.
    mode : {"bicubic", "bilinear"}
        Interpolation.

    Returns
    -------
    turned : (B, C, rows, columns) tensor
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    y, x = (torch.arange(n, device=image.device, dtype=torch.float32) - (n - 1) / 2 for n in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    rows, columns = x * sin + y * cos + box[0] / 2, x * cos - y * sin + box[1] / 2
    grid = torch.stack((columns * 2 / image.shape[-1] - 1, rows * 2 / image.shape[-2] - 1), -1)
    return F.grid_sample(
        image, grid.expand(len(image), -1, -1, -1), mode=mode, padding_mode="border", align_corners=False
    )


@cache
def _class_of_motion() -> torch.Tensor:
    """Return for the motions 1 to 510 of the bank the place of (turn, class) that stands for each, counted together."""
    found = torch.zeros(len(MotionBank()) - 1, dtype=torch.int64)
    angles = 180 // 6
    for i_length in range(1, len(LENGTHS)):
        for turn, degrees in enumerate(TURNS):
            for direction in range(DIRECTIONS):
                # Turning the picture turns its motions with it.
                i_angle = (direction * 30 - degrees) // 6 % angles
                motion = MotionBank.index(i_length, i_angle)
                found[motion - 1] = turn * CLASSES + 1 + (i_length - 1) * DIRECTIONS + direction
    return found


def encode(motion: torch.Tensor, turn: float = 0.0) -> torch.Tensor:
    """Return the shares of the classes (..., 103) for motion vectors (..., 2) in pixels, in a picture that was turned.

    A motion between classes is shared out among its neighbours, linearly in length and direction: so a patch's shares
    rise and fall with the turn of the picture and are highest where the direction is that of a class.
    """
    length, angle = to_polar(motion)
    step = float(LENGTHS[1] - LENGTHS[0])
    place = (length.clamp(float(LENGTHS[0]), float(MAX_LENGTH)) - LENGTHS[0]) / step
    low = place.floor().clamp(max=len(LENGTHS) - 2)
    turned = (angle + turn) % 180.0 / (180.0 / DIRECTIONS)
    before = turned.floor()
    shares = motion.new_zeros((*motion.shape[:-1], CLASSES))
    for i, length_share in ((low, 1 - (place - low)), (low + 1, place - low)):
        for j, share in ((before, 1 - (turned - before)), (before + 1, turned - before)):
            number = torch.where(i == 0, torch.zeros_like(i), 1 + (i - 1) * DIRECTIONS + j % DIRECTIONS).long()
            shares.scatter_add_(-1, number[..., None], (length_share * share)[..., None])
    return shares


def patch_loss(net: PatchNet, pairs: Pairs) -> torch.Tensor:
    """Mean cross-entropy over the patches of the crops, which are all turned by one of `TURNS`, drawn at random.

    The label of a patch is the motion at its middle; where the blur is no motion it is none.
    """
    turn = TURNS[int(torch.randint(len(TURNS), ()))]
    side = pairs.blurred.shape[-1]
    if side < 2 * PATCH:
        raise ValueError(f"crops for patches of {PATCH} pixels must be at least {2 * PATCH} pixels wide, got {side}")
    radians = math.radians(turn)
    inner = side / (math.cos(radians) + math.sin(radians))
    n = int((inner - 2 * _RIM) // STRIDE)
    luma, motion = pairs.blurred, pairs.motion.permute(0, 3, 1, 2)
    size, box = (n * STRIDE + 2 * _RIM,) * 2, (side, side)
    if turn:
        luma = rotate(luma, turn, size, box)
    else:
        start = (side - size[0]) // 2
        luma = luma[..., start : start + size[0], start : start + size[0]]
    logits = net.forward_grid(luma)
    # Vectors of opposite sign side by side must not be mixed, so each patch takes that of one pixel.
    y = (torch.arange(n, device=luma.device) - (n - 1) / 2) * STRIDE
    y, x = torch.meshgrid(y, y, indexing="ij")
    cos, sin = math.cos(radians), math.sin(radians)
    rows, columns = ((t + (side - 1) / 2).round().long() for t in (x * sin + y * cos, x * cos - y * sin))
    wanted = encode(motion[..., rows, columns].permute(0, 2, 3, 1), turn).permute(0, 3, 1, 2)
    return -(wanted * torch.log_softmax(logits, 1)).sum(1).mean()
