"""Opponent colours: an orthonormal change of the channels in which natural images are sparser than in RGB."""

from __future__ import annotations

import torch

OPPONENT = (
    (3**-0.5, 3**-0.5, 3**-0.5),
    (2**-0.5, 0.0, -(2**-0.5)),
    (6**-0.5, -2 * 6**-0.5, 6**-0.5),
)
"""Rows: luma, red against blue, green against the two others."""


def to_opponent(image: torch.Tensor) -> torch.Tensor:
    """Turn RGB into luma and two opponent colours.

    A rotation: white noise stays white, with the same standard deviation, and a blur that is the same for the three
    channels stays that.

    Parameters
    ----------
    image : (B, 3, H, W) tensor
        RGB.

    Returns
    -------
    tensor
        Of the same shape; grey images have zeros in the last two channels.

    References
    ----------
    K. Dabov et al., "Color image denoising via sparse 3D collaborative filtering with grouping constraint in
    luminance-chrominance space", ICIP 2007: the same opponent colours, for the same reason.
    """
    return torch.einsum("ij,bjhw->bihw", image.new_tensor(OPPONENT), image)


def from_opponent(image: torch.Tensor) -> torch.Tensor:
    """Turn luma and two opponent colours back into RGB: the inverse, and the transpose, of `to_opponent`.

    Parameters
    ----------
    image : (B, 3, H, W) tensor
        Opponent colours.
    """
    return torch.einsum("ji,bjhw->bihw", image.new_tensor(OPPONENT), image)
