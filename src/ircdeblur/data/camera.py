"""Camera shake: the motion field of a camera that turns and moves while the shutter is open."""

from __future__ import annotations

import numpy as np
import torch

FIELD_OF_VIEW_FOCALS = (0.7, 2.0)
"""Range of focal lengths, in units of the picture's longer side (71 to 28 degrees of view)."""


def camera_basis(
    shape: tuple[int, int],
    focal: float,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Return the motion fields of the six movements of a pinhole camera before a plane at depth 1.

    Parameters
    ----------
    shape : (H, W)
        Size of the picture in pixels; the principal point is its middle.
    focal : float
        Focal length in pixels.

    Returns
    -------
    basis : (6, H, W, 2) tensor
        Fields in pixels per unit of: translation along x, y, z (in units of the depth), rotation about x, y, z
        (radians); x right, y down, z forward.

    References
    ----------
    H. C. Longuet-Higgins and K. Prazdny, "The interpretation of a moving retinal image", Proc. R. Soc. B 208, 1980.
    """
    height, width = shape
    y, x = torch.meshgrid(
        torch.arange(height, dtype=dtype, device=device) - (height - 1) / 2,
        torch.arange(width, dtype=dtype, device=device) - (width - 1) / 2,
        indexing="ij",
    )
    zero, f = torch.zeros_like(x), torch.full_like(x, focal)
    fields = (
        (-f, zero),
        (zero, -f),
        (x, y),
        (x * y / focal, focal + y**2 / focal),
        (-(focal + x**2 / focal), -x * y / focal),
        (y, -x),
    )
    return torch.stack([torch.stack(field, dim=-1) for field in fields])


def random_camera_coefficients(rng: np.random.Generator, focal: float, longer_side: float) -> np.ndarray:
    """Draw (6,) random coefficients of `camera_basis`: direction and mixture of a camera shake, not its size.

    Hand shake mostly turns the camera; roll and approach are drawn so that each moves the picture's rim about as much
    as the rest moves its middle.
    """
    pan = rng.normal(size=2) * rng.uniform(0.0, 1.0)
    shift = rng.normal(size=2) * rng.uniform(0.0, 1.0)
    roll = rng.normal() * rng.uniform(0.0, 1.0) * 2.0 * focal / longer_side
    approach = rng.normal() * rng.uniform(0.0, 0.5) * 2.0 * focal / longer_side
    return np.array([shift[0], shift[1], approach, pan[0], pan[1], roll])


def camera_shake(
    shape: tuple[int, int], max_length: float, seed: int | np.random.Generator | None = None
) -> np.ndarray:
    """Return the motion field of a random camera shake whose longest vector has a chosen length.

    Rotations about three axes and a translation, seen through a pinhole of random focal length (28 to 71 degrees of
    view) before a scene of constant depth; the field is smooth, quadratic in the pixel coordinates.

    Parameters
    ----------
    shape : (H, W)
        Size in pixels.
    max_length : float
        Length of the longest vector in pixels, >= 0.
    seed : int or numpy.random.Generator, optional
        The same seed gives the same field.

    Returns
    -------
    motion : (H, W, 2) float32 array
        Pixels; u right, v down.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shape must be two positive sizes (H, W), got {shape}")
    if not np.isfinite(max_length) or max_length < 0:
        raise ValueError(f"max_length must be finite and >= 0, got {max_length}")
    rng = np.random.default_rng(seed)
    longer_side = float(max(shape))
    focal = rng.uniform(*FIELD_OF_VIEW_FOCALS) * longer_side
    coefficients = random_camera_coefficients(rng, focal, longer_side)
    basis = camera_basis(shape, focal, dtype=torch.float64).numpy()
    motion = np.tensordot(coefficients, basis, axes=1)
    longest = np.hypot(motion[..., 0], motion[..., 1]).max()
    return (motion * (max_length / longest)).astype(np.float32)
