"""From evidence for each motion of the bank, place by place, to one smooth field: a Markov random field.

The labels of every place are the 511 motions of `ircdeblur.kernels.MotionBank`. Neighbours are tied by the squared
distance of their vectors, of the nearer of m and -m, up to a limit, so that the field may have edges. Sun et al. (CVPR
2015) tie them by the squared distance and maximise by belief propagation; here it is mean field: each place holds a
distribution over its motions that sees its neighbours' expected distances, which with 511 labels is one matrix product
a pass.
"""

from __future__ import annotations

from functools import cache

import torch

from ircdeblur.kernels import MotionBank
from ircdeblur.motion import from_polar, to_double_angle


@cache
def bank_vectors() -> torch.Tensor:
    """Return the motion vectors of the bank, (511, 2) float32; no blur is the vector 0."""
    length, angle = torch.from_numpy(MotionBank().motions.copy()).float().T
    return from_polar(torch.where(length > 1, length, 0.0), angle)


def squared_distances(vectors: torch.Tensor) -> torch.Tensor:
    """Return the squared distances (K, K) of vectors (K, 2), each to the nearer of the other and its opposite."""
    plus, minus = (((vectors[:, None] - s * vectors) ** 2).sum(-1) for s in (1, -1))
    return torch.minimum(plus, minus)


def mean_field(evidence: torch.Tensor, cost: torch.Tensor, sweeps: int = 10) -> torch.Tensor:
    """Return the mean-field distributions of a Markov random field on a grid of four neighbours.

    The field has the density exp(sum of the evidence - sum of the costs of neighbouring labels), over a constant.
    Places are updated like the squares of a chessboard, the black ones at once and then the white ones, so that the
    free energy never rises.

    Parameters
    ----------
    evidence : (h, w, K) tensor
        Logarithm of the likelihood of each label.
    cost : (K, K) tensor
        Of two labels side by side; symmetric.
    sweeps : int
        Number of updates of all places.

    Returns
    -------
    share : (h, w, K) tensor
        Probabilities.
    """
    height, width = evidence.shape[:2]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    black = ((x + y) % 2 == 0).to(evidence.device)
    share = torch.softmax(evidence, -1)
    for _ in range(sweeps):
        for places in (black, ~black):
            met = torch.zeros_like(evidence)
            met[1:] += share[:-1]
            met[:-1] += share[1:]
            met[:, 1:] += share[:, :-1]
            met[:, :-1] += share[:, 1:]
            share[places] = torch.softmax(evidence[places] - met[places] @ cost, -1)
    return share


def answer(share: torch.Tensor, radius: float) -> torch.Tensor:
    """Return the mean motion about the most probable one, which lies between the motions of the bank.

    Parameters
    ----------
    share : (..., 511) tensor
        Probabilities of the motions of the bank.
    radius : float
        Distance in pixels from the most probable motion within which the mean is taken.

    Returns
    -------
    double : (..., 2) tensor
        Double-angle vectors, pixels.
    """
    vectors = bank_vectors().to(share)
    near = (squared_distances(vectors) <= radius**2).to(share)
    weights = share * near[share.argmax(-1)]
    return weights @ to_double_angle(vectors) / weights.sum(-1, keepdim=True)


def spread(share: torch.Tensor, double: torch.Tensor) -> torch.Tensor:
    """Return the expected distance in pixels of double-angle vectors (..., 2) to what (..., 511) shares say."""
    own = to_double_angle(bank_vectors().to(share))
    squared = share @ (own**2).sum(-1) - 2 * ((share @ own) * double).sum(-1) + (double**2).sum(-1)
    return squared.clamp(min=0).sqrt()


def smooth(evidence: torch.Tensor, strength: float, limit: float, radius: float) -> torch.Tensor:
    """Return the smoothed motion, double-angle (h, w, 2) in pixels.

    Parameters
    ----------
    evidence : (h, w, 511) tensor
        Logarithm of the likelihood of each motion of the bank.
    strength : float
        Cost of a squared pixel between neighbours.
    limit : float
        Distance in pixels beyond which neighbours cost no more.
    radius : float
        See `answer`.
    """
    cost = strength * squared_distances(bank_vectors()).clamp(max=limit**2)
    return answer(mean_field(evidence, cost.to(evidence)), radius)
