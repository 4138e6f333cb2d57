"""Whether a photograph was blurred in linear light, as cameras do, or in pixel values: its spectrum tells.

Where the values are what was averaged, a straight motion puts out stripes of the spectrum; values on another curve
fill them. So what a motion explains of the spectrum, above what no motion explains, is more in the right light. Where
that leaves doubts the photograph is restored in either light and blurred again. A restoration in the wrong light loses
some decibels, most where there is little noise.
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
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.solvers.settings import Settings, deconvolve, estimate_noise, unsaturated
from ircdeblur.srgb import linear_to_srgb, noise_in_linear_light, srgb_to_linear, steepness

EXPONENTS = (1.5, 2.0, 2.5, 3.0)
"""By which the power of the scene may fall."""

FLOORS = (0.004, 0.015, 0.06)
"""What the motion may leave where it puts the power out."""

DOUBTFUL = (0.0, 30.0)
"""Evidence of the spectra, as the mean over the windows of the logarithm, between which one more look is taken: in ten
of the 280 photographs below that were blurred in pixel values, and half of those in linear light."""

REBLURRED = 60.0
"""Weight of the logarithm of the ratio of both lights' `reblurring_misfit` beside the difference of their
`gain_of_blur`."""

REBLURRING = Settings(iterations=12)
"""Of the restorations that are blurred again; forty tell no more."""

DECISIVE = 5.0
"""What both must exceed for linear light. Of 280 training photographs blurred by a camera's straight shake, with noise
of 0.2 to 2 %, 256 of those in linear light have more, and none of those in pixel values, the next ones 3.6 and 2.2. By
the spectra alone, with a bar of 8, it was 242 and one, which had 15. Who is taken for linear light loses some 5 dB, who
is missed some 2, less the more noise there is: 20 of the 24 have 2 %. Of forty validation photographs, each with four
amounts of noise (``benchmarks/light.py``), 145 of 160 are told, by the spectra alone 135; three of one photograph,
whose motion is found wrong, are taken for linear light, before four."""

SAME = 1e-6
"""Misfits below are the same: what rounding leaves of pixel values."""


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


def reblurring_misfit(luma: torch.Tensor, blur: UniformBlur | MotionBlur, noise: float, linear: bool) -> float:
    """Return how far a photograph's restoration in some light, blurred again, is from it.

    In the wrong light there is no sharp picture from which the blur would make this one.

    Parameters
    ----------
    luma : (1, 1, H, W) tensor
        Its luminance in [0, 1], sRGB.
    blur : UniformBlur or MotionBlur
        With the boundary "extended".
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
    luma = luma.clamp(0, 1)
    y = srgb_to_linear(luma) if linear else luma
    sigma = noise * noise_in_linear_light(luma) if linear else noise
    mask = unsaturated(y)
    x = deconvolve(y, blur, sigma, "irc-mm", REBLURRING, mask).whole
    assert x is not None
    again = blur.A(x.clamp(0, 1))
    off = (linear_to_srgb(again.clamp(0, 1)) if linear else again) - luma
    counts = steepness(luma)
    if mask is not None:
        counts = counts * mask
    # What lies beyond the frame is free to make the rim what it is.
    rows, columns = (slice(m, n - m) for m, n in zip(blur.margin, luma.shape[-2:], strict=True))
    squares, counts = (off.square() * counts)[..., rows, columns], counts[..., rows, columns]
    return math.sqrt(float(squares.sum() / counts.sum().clamp(min=1)))


def evidence_of_misfits(values: float, linear: float) -> float:
    """Return by how much likelier linear light is than pixel values, from the `reblurring_misfit` in either light.

    To be added to what the spectra say.
    """
    return REBLURRED * math.log(max(values, SAME) / max(linear, SAME))


def seems_linear(spectra: float, luma: torch.Tensor, blur: np.ndarray | torch.Tensor, noise: float) -> bool:
    """Return whether a photograph seems to have been blurred in linear light.

    Parameters
    ----------
    spectra : float
        What its spectra say (see `evidence_for_linear_light`). If that leaves doubts, it is restored as well.
    luma : (1, 1, H, W) tensor
        Its luminance in [0, 1], sRGB.
    blur : (h, w) array or (H, W, 2) tensor
        Its kernel, or its motion in pixels.
    noise : float
        Standard deviation of its noise.
    """
    if not DOUBTFUL[0] < spectra < DOUBTFUL[1]:
        return spectra > DECISIVE
    operator = (
        UniformBlur(torch.from_numpy(blur).to(luma)) if isinstance(blur, np.ndarray) else MotionBlur(blur.to(luma))
    )
    misfits = [reblurring_misfit(luma, operator, noise, linear) for linear in (False, True)]
    return spectra + evidence_of_misfits(*misfits) > DECISIVE


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
    if isinstance(blur, torch.Tensor):
        blur = blur[rows, columns].to(luma)
    of_windows = blur
    with one_thread():
        noise = estimate_noise(luma)
        values, linear = SpectralEvidence(luma, noise), SpectralEvidence(LinearLuma(Luma(luma)), noise)
        if isinstance(blur, torch.Tensor):
            double = to_double_angle(blur).permute(2, 0, 1)
            of_windows = from_double_angle(values.sample(double, (luma.shape[-2], luma.shape[-1])).T)
        spectra = evidence_for_linear_light(values, linear, of_windows)
    return seems_linear(spectra, luma, blur, noise)
