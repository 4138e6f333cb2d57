"""The noise that a restoration has to reckon with, where it is not white.

Compression removes the noise of the highest frequencies, by which it is estimated, and leaves that of the lower ones,
to which it adds its own. A restoration that believes the estimate sharpens all of it.
"""

from __future__ import annotations

import numpy as np
import torch

from ircdeblur.nets.evidence import SMALLEST, SpectralEvidence, one_thread
from ircdeblur.nets.motion_net import luminance
from ircdeblur.nets.refine import likeliest_noise
from ircdeblur.solvers.settings import estimate_noise

RECKONED = 2.0
"""Factor of the noise that the spectra show, where it is more than estimated: quantisation is no noise that averages
out. On eleven shaken validation photographs with noise 0.2 to 1 %, saved as JPEG of quality 50 to 95, 1.5 to 4 were
best and gained 1 to 7 dB; with the estimate they lost up to 5 dB."""


SIDE = 768
"""Side in pixels of the part of a photograph in whose spectra noise is looked for."""


def middle(shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of that part; it tells what compression has done to all of it."""
    first = [max(0, n - SIDE) // 2 for n in shape]
    return slice(first[0], first[0] + SIDE), slice(first[1], first[1] + SIDE)


def hidden_noise(image: torch.Tensor, blur: np.ndarray | torch.Tensor) -> float:
    """Return the standard deviation of noise that a restoration must reckon with and the estimate does not see.

    Parameters
    ----------
    image : (1, C, H, W) tensor
        Blurred photograph in [0, 1]; of a large one the `middle` is looked at.
    blur : (h, w) array or (H, W, 2) tensor
        Its kernel, or its motion in pixels.

    Returns
    -------
    noise : float
        On the [0, 1] scale; 0 if the spectra show no more than the estimate, or the picture is too small to tell.
    """
    rows, columns = middle((image.shape[-2], image.shape[-1]))
    image = image[..., rows, columns]
    height, width = image.shape[-2:]
    if min(height, width) < SMALLEST:
        return 0.0
    luma = luminance(image if image.shape[1] in (1, 3) else image.mean(1, keepdim=True))
    with one_thread():
        evidence = SpectralEvidence(luma, estimate_noise(luma))
        if isinstance(blur, torch.Tensor):
            motion = evidence.sample(blur[rows, columns].permute(2, 0, 1).to(luma), (height, width)).T
            found = likeliest_noise(evidence, lambda e, a: e.log_likelihood(motion, a))
        else:
            found = likeliest_noise(evidence, lambda e, a: e.log_likelihood_of_kernel(blur, a))
    return RECKONED * found if found > evidence.noise else 0.0


def noise_of(image: torch.Tensor, blur: np.ndarray | torch.Tensor, sample: torch.Tensor | None = None) -> float:
    """Return the standard deviation of the noise that a restoration must reckon with, estimated or hidden.

    Parameters
    ----------
    image, blur
        As for `hidden_noise`; of a photograph that is not in memory, its `middle`.
    sample : (1, C, h, w) tensor, optional
        Pixels from all over the photograph, for the estimate.
    """
    return max(estimate_noise(image if sample is None else sample), hidden_noise(image.clamp(0, 1), blur))
