"""Shrinkage: the proximal operators of |z|^l for 0 <= l <= 1."""

from __future__ import annotations

import torch


def shrink(z: torch.Tensor, weight: float, norm: float = 1.0, iterations: int = 5) -> torch.Tensor:
    """Return the minimiser of ``weight |t|^norm + (t - z)^2 / 2`` for every element (Eq. 4).

    Soft thresholding for norm 1, hard thresholding for norm 0, both in closed form; between them the generalised
    iterated shrinkage, a fixed-point iteration that starts at z and contracts beyond the threshold.

    Parameters
    ----------
    z : tensor
        Any shape.
    weight : float
        ``lambda / rho``, >= 0.
    norm : float
        The exponent l in [0, 1].
    iterations : int
        Fixed-point steps for 0 < l < 1.

    References
    ----------
    D. Donoho and I. Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994.
    W. Zuo et al., "A generalized iterated shrinkage algorithm for non-convex sparse coding", ICCV 2013.
    """
    if not 0.0 <= norm <= 1.0:
        raise ValueError(f"norm must be in [0, 1], got {norm}")
    if weight < 0.0:
        raise ValueError(f"weight must be >= 0, got {weight}")
    if weight == 0.0:
        return z
    if norm == 1.0:
        return z - z.clamp(-weight, weight)
    size = z.abs()
    if norm == 0.0:
        return torch.where(size > (2.0 * weight) ** 0.5, z, torch.zeros_like(z))
    turning = (2.0 * weight * (1.0 - norm)) ** (1.0 / (2.0 - norm))
    threshold = turning + weight * norm * turning ** (norm - 1.0)
    start = size.clamp(min=threshold)
    t = start
    for _ in range(iterations):
        t = start - weight * norm * t ** (norm - 1.0)
    return torch.where(size > threshold, torch.sign(z) * t, torch.zeros_like(z))
