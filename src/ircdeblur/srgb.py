"""The sRGB transfer curve: photographs store encoded values, blur happens in linear light."""

from __future__ import annotations

import torch


def srgb_to_linear(image: torch.Tensor) -> torch.Tensor:
    """Decode sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def steepness(image: torch.Tensor) -> torch.Tensor:
    """Return the slope of linear light over sRGB values in [0, 1]."""
    return torch.where(image <= 0.04045, 1 / 12.92, 2.4 / 1.055 * ((image.clamp(min=0.04045) + 0.055) / 1.055) ** 1.4)


def noise_in_linear_light(image: torch.Tensor) -> float:
    """Return by what factor the noise of sRGB values changes in linear light, root mean square over an image."""
    return float(steepness(image.clamp(0, 1)).square().mean().sqrt())


def linear_to_srgb(image: torch.Tensor) -> torch.Tensor:
    """Encode linear light in [0, 1] as sRGB values (IEC 61966-2-1)."""
    return torch.where(image <= 0.0031308, image * 12.92, 1.055 * image.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
