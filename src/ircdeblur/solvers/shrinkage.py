"""Shrinkage: the proximal operators of |z|^l for 0 <= l <= 1."""

from __future__ import annotations

import torch


def shrink(z: torch.Tensor, weight: float | torch.Tensor, norm: float = 1.0, iterations: int = 5) -> torch.Tensor:
    """Return the minimiser of ``weight |t|^norm + (t - z)^2 / 2`` for every element (Eq. 4).

    Soft thresholding for norm 1, hard thresholding for norm 0, both in closed form; between them the generalised
    iterated shrinkage, a fixed-point iteration that starts at z and contracts beyond the threshold.

    Parameters
    ----------
    z : tensor
        Any shape.
    weight : float or tensor
        ``lambda / rho``, >= 0; a tensor has a shape that broadcasts to z's.
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
    weight = torch.as_tensor(weight, dtype=z.dtype, device=z.device)
    if bool((weight < 0.0).any()):
        raise ValueError(f"weight must be >= 0, got {weight.min().item()}")
    if norm == 1.0:
        return z - z.clamp(-weight, weight)
    size = z.abs()
    if norm == 0.0:
        return torch.where(size > (2.0 * weight).sqrt(), z, torch.zeros_like(z))
    turning = (2.0 * weight * (1.0 - norm)).clamp(min=torch.finfo(z.dtype).tiny) ** (1.0 / (2.0 - norm))
    threshold = turning + weight * norm * turning ** (norm - 1.0)
    start = torch.maximum(size, threshold)
    t = start
    for _ in range(iterations):
        t = start - weight * norm * t ** (norm - 1.0)
    return torch.where(size > threshold, torch.sign(z) * t, torch.zeros_like(z))


def shrink_length(
    vector: tuple[torch.Tensor, ...], weight: float | torch.Tensor, norm: float = 1.0
) -> tuple[torch.Tensor, ...]:
    """Return the minimiser of ``weight |t|^norm + |t - v|^2 / 2`` for vectors, whose direction it keeps.

    Parameters
    ----------
    vector : tuple of tensors
        The components, of one shape.
    weight, norm
        As for `shrink`.
    """
    square = vector[0].square()
    for component in vector[1:]:
        square.addcmul_(component, component)
    length = square.sqrt_()
    kept = shrink(length, weight, norm) / length.clamp(min=torch.finfo(length.dtype).tiny)
    return tuple(v * kept for v in vector)
