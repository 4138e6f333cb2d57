"""Whether a photograph was blurred in linear light, as cameras do, or in pixel values: its spectrum tells.

Where the values are what was averaged, a straight motion puts out stripes of the spectrum; values on another curve
fill them. So what a motion explains of the spectrum, above what no motion explains, is more in the right light. A
restoration in the wrong light loses some decibels, most where there is little noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ircdeblur.motion import from_double_angle, to_double_angle
from ircdeblur.nets.evidence import SMALLEST, Luma, SpectralEvidence, Windows, one_thread
from ircdeblur.nets.motion_net import luminance
from ircdeblur.nets.noise import middle
from ircdeblur.operators import UniformBlur
from ircdeblur.solvers.settings import deconvolve, estimate_noise, unsaturated
from ircdeblur.srgb import linear_to_srgb, noise_in_linear_light, srgb_to_linear, steepness

EXPONENTS = (1.5, 2.0, 2.5, 3.0)
"""By which the power of the scene may fall."""

FLOORS = (0.004, 0.015, 0.06)
"""What the motion may leave where it puts the power out."""

DECISIVE = 8.0
"""By which linear light must be likelier, as the mean over the windows of the logarithm. Of 120 training photographs
blurred by a camera's straight shake, forty each with noise of 0.3, 1 and 2 %, one had more, 10, when that was in pixel
values, the next ones 6 and 1; when it was in linear light 38, 36 and 26 of forty had more. If the noise was taken to be
the same in bright and dark places none had more than -6, and 14 of the last forty more than 8. Fourteen averages in
pixel values of frames of a film had -5 to 4. Who is taken for linear light loses some 5 dB, who is missed some 2."""


@dataclass(frozen=True)
class LinearLuma:
    """A luminance of sRGB values in linear light, as `Windows`.

    Each window is scaled so that small differences are on average as large as in the values, by the mean of the
    logarithm: so the likelihoods of both are those of the same picture. Where it is bright there is more noise than
    where it is dark.
    """

    luma: Windows

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        return self.luma.shape

    def __call__(self, rows: slice, columns: slice) -> torch.Tensor:
        """Return a window, (1, 1, h, w)."""
        values = self.luma(rows, columns).clamp(0, 1)
        return srgb_to_linear(values) / steepness(values).log().mean().exp()

    def noise_gain(self, rows: slice, columns: slice) -> torch.Tensor:
        """Return how many times the noise of the values each pixel of a window has, (1, 1, h, w)."""
        slope = steepness(self.luma(rows, columns).clamp(0, 1))
        return slope / slope.log().mean().exp()


def evidence_for_linear_light(
    values: SpectralEvidence, linear: SpectralEvidence, blur: np.ndarray | torch.Tensor
) -> float:
    """Return by how much likelier it is that a photograph was blurred in linear light than in pixel values.

    Parameters
    ----------
    values, linear : SpectralEvidence
        Of its luminance, and of its `LinearLuma`.
    blur : (h, w) array or (n, 2) tensor
        Its kernel, or the motion of each window in pixels.

    Returns
    -------
    evidence : float
        Logarithm, mean over the windows.
    """
    return gain_of_blur(linear, blur) - gain_of_blur(values, blur)


def gain_of_blur(evidence: SpectralEvidence, blur: np.ndarray | torch.Tensor) -> float:
    """Return by how much likelier a blur makes the spectra than none.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of a photograph with n windows.
    blur : (h, w) array or (n, 2) tensor
        Its kernel, or the motion of each window in pixels.

    Returns
    -------
    gain : float
        Logarithm, mean over the windows.
    """
    coarse = evidence.coarse
    likelihood: Callable[[SpectralEvidence, float], torch.Tensor]
    if isinstance(blur, torch.Tensor):

        def likelihood(e: SpectralEvidence, exponent: float) -> torch.Tensor:
            return e.log_likelihood(blur, exponent)
    else:
        power = coarse.kernel_power(blur)

        def likelihood(e: SpectralEvidence, exponent: float) -> torch.Tensor:
            return e.log_likelihood_of_power(power, exponent)

    still = torch.zeros(len(evidence.x), 2, device=evidence.device)
    blurred = max(float(likelihood(coarse.with_floor(f), a).mean()) for f in FLOORS for a in EXPONENTS)
    return blurred - max(float(coarse.log_likelihood(still, a).mean()) for a in EXPONENTS)


def reblurring_misfit(luma: torch.Tensor, psf: np.ndarray, noise: float, linear: bool) -> float:
    """Return how far a photograph's restoration in some light, blurred again, is from it.

    In the wrong light there is no sharp picture from which the blur would make this one.

    Parameters
    ----------
    luma : (1, 1, H, W) tensor
        Its luminance in [0, 1], sRGB.
    psf : (h, h) array
        Its kernel.
    noise : float
        Standard deviation of its noise.
    linear : bool
        Whether the light is linear.

    Returns
    -------
    misfit : float
        Root mean square of the differences, where the values are not cut off. They are measured half way between both
        lights: those of pixel values weigh the dark most, those of linear light the bright.
    """
    rim = len(psf) // 2 + 4
    inside = (..., slice(rim, -rim), slice(rim, -rim))
    y = srgb_to_linear(luma) if linear else luma
    blur = UniformBlur(torch.from_numpy(psf).to(luma), boundary="extended")
    sigma = noise * noise_in_linear_light(luma) if linear else noise
    mask = unsaturated(y)
    x = deconvolve(y, blur, sigma, "irc-mm", mask=mask).x.clamp(0, 1)
    again = UniformBlur(blur.psf, boundary="reflect").A(x)
    off = (linear_to_srgb(again.clamp(0, 1)) if linear else again) - luma
    counts = steepness(luma.clamp(0, 1))
    if mask is not None:
        counts = counts * mask
    return math.sqrt(float((off.square() * counts)[inside].sum() / counts[inside].sum().clamp(min=1)))


def is_linear_light(image: torch.Tensor, blur: np.ndarray | torch.Tensor) -> bool:
    """Return whether to restore a photograph in linear light.

    Parameters
    ----------
    image : (1, C, H, W) tensor
        Blurred photograph in [0, 1], sRGB; of a large one the middle is looked at. One that is too small to tell is
        taken as it is.
    blur : (h, w) array or (H, W, 2) tensor
        Its kernel, or its motion in pixels.
    """
    rows, columns = middle((image.shape[-2], image.shape[-1]))
    image = image[..., rows, columns].clamp(0, 1)
    if min(image.shape[-2:]) < SMALLEST:
        return False
    luma = luminance(image if image.shape[1] in (1, 3) else image.mean(1, keepdim=True))
    with one_thread():
        noise = estimate_noise(luma)
        values, linear = SpectralEvidence(luma, noise), SpectralEvidence(LinearLuma(Luma(luma)), noise)
        if isinstance(blur, torch.Tensor):
            double = to_double_angle(blur[rows, columns].to(luma)).permute(2, 0, 1)
            blur = from_double_angle(values.sample(double, (luma.shape[-2], luma.shape[-1])).T)
        return evidence_for_linear_light(values, linear, blur) > DECISIVE
