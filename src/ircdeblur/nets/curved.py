"""Whether one kernel, of a path that need not be straight, explains a photograph that no motion field explains.

Hands do not move along straight lines. A long curved shake looks to Motion-Net like a short motion, or none. Edges tell
its kernel (`ircdeblur.solvers.blind_kernel`), best in the light that was blurred, so pixel values and linear light are
both tried; and the spectra (`ircdeblur.nets.evidence`), which had no part in finding it, tell whether to believe it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ircdeblur.motion import from_double_angle
from ircdeblur.nets.evidence import SMALLEST, Luma, SpectralEvidence, one_thread
from ircdeblur.nets.light import DECISIVE, FLOORS, LinearLuma, evidence_for_linear_light
from ircdeblur.nets.refine import DISCS, NATURAL_EXPONENTS
from ircdeblur.solvers.blind_kernel import Search, search_kernel
from ircdeblur.solvers.settings import estimate_noise

SIDES = (25, 45, 81)
"""Sides of kernels that are tried, in pixels."""

FEWER_EDGES = (1e-2, 2.0)
"""Cost of edges and weight of squares (see `Search`) that are tried with the best side and its neighbours, after the
usual ones."""

OTHERWISE = ((4e-3, 2.0), (1e-2, 20.0))
"""Others that are tried with the best side."""

LIKELIER = 25.0
"""By which a kernel must be likelier than the motion that was found, no blur, and a lens out of focus, as the mean over
the windows of the logarithm. Of fourteen sharp pictures that scikit-image ships (`LEAST_WINDOWS` in all but one) a wall
of bricks had most, 10. Five curved shakes of validation photographs had 14, 20, 21, 48 and 55: a cautious bar."""

LEAST_WINDOWS = 16
"""Number of windows below which nothing is said: a sharp picture of nine, mostly sky, had 20."""


@dataclass(frozen=True)
class KernelEstimate:
    """Kernel of one photograph.

    Attributes
    ----------
    psf : (h, h) float64 array
        The kernel, h odd.
    linear_light : bool
        Whether the photograph seems to have been blurred in linear light.
    evidence : float
        By which the kernel is likelier than what else was compared; see `LIKELIER`.
    """

    psf: np.ndarray
    linear_light: bool
    evidence: float


@torch.no_grad()
def estimate_kernel(luma: torch.Tensor, motion: torch.Tensor | None = None) -> KernelEstimate | None:
    """Estimate the kernel of a photograph that was blurred by the same one all over.

    Parameters
    ----------
    luma : (1, 1, H, W) tensor
        Luminance in [0, 1], of at most a megapixel.
    motion : (2, h, w) tensor, optional
        Double-angle vectors, in pixels, of the motion field that was found in it, which covers it: the kernel must be
        the better explanation.

    Returns
    -------
    estimate : KernelEstimate or None
        None if something else explains the photograph as well, or it is too small to tell.
    """
    shape = (luma.shape[-2], luma.shape[-1])
    if min(shape) < SMALLEST:
        return None
    with one_thread():
        noise = estimate_noise(luma)
        lights, rival = [], 0.0
        for seen in (Luma(luma), LinearLuma(Luma(luma))):
            evidence = SpectralEvidence(seen, noise)
            if len(evidence.x) < LEAST_WINDOWS:
                return None
            whole = seen(slice(None), slice(None))[0, 0]
            still, without = _without_kernel(evidence, motion, shape)
            lights.append(_Light(whole, evidence, still))
            rival = max(rival, without - still)
    sides = [side for side in SIDES if side <= min(shape) // 2]
    best = _likeliest(lights, [(light, Search(side)) for light in lights for side in sides])
    if best is None or best.gain < rival:
        return None
    place = sides.index(best.search.side)
    more = [Search(side, *FEWER_EDGES) for side in sides[max(0, place - 1) : place + 2]]
    more += [Search(best.search.side, *others) for others in OTHERWISE]
    again = _likeliest(lights, [(best.light, search) for search in more])
    best = max(filter(None, (best, again)), key=lambda kernel: kernel.gain)
    if best.gain < rival + LIKELIER:
        return None
    with one_thread():
        values, linear = (light.evidence for light in lights)
        linear_light = evidence_for_linear_light(values, linear, best.psf) > DECISIVE
    return KernelEstimate(best.psf, linear_light, best.gain - rival)


class _Light(NamedTuple):
    """A photograph in some light (H, W), its spectra, and how likely these are if nothing was blurred."""

    luma: torch.Tensor
    evidence: SpectralEvidence
    still: float


class _Found(NamedTuple):
    """A kernel, by how much likelier it is than no blur, in what light it was found, and how."""

    gain: float
    light: _Light
    search: Search
    psf: np.ndarray


def _likeliest(lights: list[_Light], searches: list[tuple[_Light, Search]]) -> _Found | None:
    """Return the likeliest kernel of some searches, which run beside each other; it is judged in the better light."""

    def found(task: tuple[_Light, Search]) -> _Found:
        light, search = task
        psf = search_kernel(light.luma, search).double().cpu().numpy()
        gain = max(_likelihood(other.evidence, psf) - other.still for other in lights)
        return _Found(gain, light, search, psf)

    workers = max(1, torch.get_num_threads())
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        return max(pool.map(found, searches), key=lambda kernel: kernel.gain, default=None)


def _without_kernel(
    evidence: SpectralEvidence, motion: torch.Tensor | None, shape: tuple[int, int]
) -> tuple[float, float]:
    """Return how likely a photograph is if it was not blurred, and at best without a kernel that was found."""
    coarse = evidence.coarse
    radii = torch.tensor(DISCS, device=evidence.device)  # the first is 0
    tried = [
        coarse.with_floor(f).log_likelihood_of_discs(radii, float(a)).mean(-1)
        for f in FLOORS
        for a in NATURAL_EXPONENTS
    ]
    discs = torch.stack(tried).amax(0)
    values = [float(discs.max())]
    if motion is not None:
        moved = from_double_angle(evidence.sample(motion, shape).T)
        values.append(_most(evidence, lambda e, a: e.log_likelihood(moved, a)))
    return float(discs[0]), max(values)


def _likelihood(evidence: SpectralEvidence, psf: np.ndarray) -> float:
    return _most(evidence, lambda e, a: e.log_likelihood_of_kernel(psf, a))


def _most(evidence: SpectralEvidence, likelihood: Callable[[SpectralEvidence, float], torch.Tensor]) -> float:
    """Return the largest mean over the windows of a likelihood, over floors and exponents."""
    coarse = evidence.coarse
    return max(float(likelihood(coarse.with_floor(f), float(a)).mean()) for f in FLOORS for a in NATURAL_EXPONENTS)
