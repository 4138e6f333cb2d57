"""Whether one kernel, of a path that need not be straight, explains a photograph that no motion field explains.

Hands do not move along straight lines. A long curved shake looks to Motion-Net like a short motion, or none. Edges tell
its kernel (`ircdeblur.solvers.blind_kernel`), best in the light that was blurred, so pixel values and linear light are
both tried; and the spectra (`ircdeblur.nets.evidence`), which no single search looks at, tell which searches go on and
whether to believe the outcome. The likeliest of many is chosen by what then judges it: the bar allows for that. Before
that Kernel-Net corrects it, in the light that explains the photograph better; and where it is not the same all over the
camera may have turned, too (`ircdeblur.solvers.motion_density`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch

from ircdeblur.motion import from_double_angle
from ircdeblur.nets.belief import misfit_of_kernel
from ircdeblur.nets.evidence import FLOORS as ALL_FLOORS
from ircdeblur.nets.evidence import SMALLEST, Luma, SpectralEvidence, one_thread
from ircdeblur.nets.kernel_net import KernelNet, corrected, corrected_in_place, maps_of
from ircdeblur.nets.light import FLOORS, LinearLuma, evidence_of_misfits, gain_of_blur, reblurring_misfit
from ircdeblur.nets.refine import DISCS, NATURAL_EXPONENTS
from ircdeblur.operators import UniformBlur
from ircdeblur.solvers.blind_kernel import KernelSearch, Search, mean_kernel, polished
from ircdeblur.solvers.motion_density import AROUND, EDGES, DensitySearch, MotionDensity
from ircdeblur.solvers.settings import estimate_noise

SIDES = (25, 45, 81)
"""Sides of kernels that are tried, in pixels: so large that each search has the levels of `KEPT`."""

WAYS = (((1e-2, 3e-4), 20.0), ((3e-2, 5e-4), 20.0), ((6e-3, 8e-4), 20.0), ((1e-1, 5e-4), 2.0))
"""Costs of edges and weights of squares (see `Search`) that are tried: which are best differs from picture to picture.
With the last ones besides, eighteen validation photographs shaken in linear light gained 4.0 dB in place of 3.7."""

KEPT = {3: 4, 2: 3, 1: 2}
"""How many searches in each light go on, the likeliest ones, from a copy of the picture (see `KernelSearch.level`) to
the next larger one; the levels fall. With 5, 4 and 3 twenty shaken validation photographs gained 7.00 dB, and 5.23 in
linear light if it was told, with these 7.03 and 5.27, with 3, 2 and 1 6.97 and 5.11; in 7.7, 6.8, 6.5 s of a core."""

HOPEFUL, SCOUTING = {3: -0.25, 2: 0.1, 1: 0.2, 0: 0.0}, -0.4
"""Share of the bar (see `least_gain`) that the likeliest kernel on a level must have by which it exceeds no blur, or
nothing is looked for any more; and the same for the first way alone, which goes before the others to the first level.
Of 52 curved shakes of training photographs that were believed in the end (the bar is 15) the likeliest kernel had 2.3,
4.5 and 9.5 on levels 3, 2 and 1 (the next 7.3, 15 and 20), by the first way alone -0.1 on level 3 (the next 1.7). Less
is asked for, as the one kernel of a camera that turned explains less; with 0, 0.2 and 0.4 thirty sharp photographs took
2.7 s of a core each, with these 2.9."""

ALIKE = 5.0
"""The mean is taken of the kernels of one light that are less likely than the best one by no more. They have their
errors each on its own: on the same photographs it gained 0.2 dB."""

LIKELIER = 15.0
"""By which a kernel must be likelier than the motion that was found, no blur, and a lens out of focus, as the mean over
the windows of the logarithm. Of 55 sharp pictures (validation photographs, and some that scikit-image ships) one had
most, 6; of 30 that straight shakes blurred none had more than 0; of 30 out of focus three had more than 11 (12, 23 and
45), whose kernels were right and gained 2 to 5 dB. Of 36 curved shakes six had less than 15."""

CORRECTIONS = 2
"""How often Kernel-Net corrects a kernel, each time by what the photograph says of the one before. The mean is taken of
all, the one that was found among them. On twenty shaken validation photographs in which a kernel was found the gain, at
the best shift by fractions of a pixel, was 6.68 dB without it, 7.50 by the first correction, 7.52 by the second, and
7.50 by the mean, which lost 0.7 dB at most where the others lost 1.1 and 1.9."""

LINEAR = 3.0
"""What the evidence of the spectra and `evidence_of_misfits` must exceed for linear light, each light with the kernel
refined in it. Of 59 training photographs shaken along curves in either light, with noise of 0.3 to 1.5 %, 45 of those
in linear light have more, of 15 of validation 13; of those in pixel values none, the next one 1.8, of 22 others one had
2.6. By the kernel that was found, the same in both lights, it was 43 and one, and 10 and none. A photograph that is
taken for such loses 4.9 dB, one that is missed 1.7."""

FEW_WINDOWS, LEAST_WINDOWS = 45, 16
"""Fewer windows than the first number tell less: the bar grows as the scatter of a mean does. With fewer than the
second nothing is said. Of 40 sharp crops of 16 windows two had 16 and 19 (the bar is 25 there), of 24 of nine windows
five had 19 to 32."""

EVEN, TOO_UNEVEN = 0.008, 0.06
"""Share of the power (see `ircdeblur.nets.evidence.FLOORS`) that a kernel may leave where it should put it out, as
those do that are found of a true one, the same all over, and the largest with which one is believed. Of validation
photographs that shook and turned three had the second; undone with care they gained 1.0 dB where the corners moved by 8
px more than the middle, -0.4 and -1.2 by 16. Two averages of frames of a film, before which people moved by themselves,
had 0.2 (0.1 without highlights) and lost 0.7."""

BRIGHT, LEAST_DARK = 0.99, 4
"""Windows with a luminance from here on are left out of that, unless so few others remain: what is cut off fills the
gaps of the spectra as an uneven kernel does. True kernels of eight validation photographs with 20 and 60 small lamps
left up to 0.2, and in the 4 to 48 of 88 windows without lamps 0.015 at most."""


WORTH, UNTURNED = 0.2, 0.004
"""Share of the bar from which on a kernel is worth being refined, and the floor (see `floor_of_kernel`) up to which the
camera did not turn, as its kernel is the same all over. Of 31 sharp training photographs one had as much as the first;
of 36 curved shakes 16 had no more than the second, and none of these was likelier by turns."""

CLEARLY, CLEARER = 5.0, 0.06
"""By which a camera that turned must be likelier than the same kernel all over, and by which share of what that is
likelier than no blur: it has more freedom. Of these 36 two passed, which gained 3 and 4 dB more by it."""

AGAIN = 1
"""Level of the copy from which on a density is looked for once more, after it was refined. Sixteen training photographs
gained 5.4 dB by that, 5.25 if it was refined at the end alone."""

TURNED_MISFIT = 0.02
"""Noise that a restoration reckons with beside what is there, for a camera that turned, on the [0, 1] scale. Five
training photographs gained 5.6, 5.7, 5.8 and 5.9 dB with 0.005, 0.01, 0.02 and 0.03."""


@dataclass(frozen=True)
class KernelEstimate:
    """Kernel of one photograph.

    Attributes
    ----------
    psf : (h, h) float64 array
        The kernel, h odd; of a camera that turned that in the middle of what was looked at.
    linear_light : bool
        Whether the photograph seems to have been blurred in linear light.
    evidence : float
        By which the kernel is likelier than what else was compared; see `LIKELIER`.
    unevenness : float
        Root of the share of the power that the kernel has left where it should put it out, beyond `EVEN`: it was not
        quite the same one everywhere, or not quite this one.
    residual : float
        Standard deviation of what lies between the photograph and its restoration, blurred again, beyond the noise, on
        the [0, 1] scale (see `ircdeblur.nets.light.reblurring_misfit`).
    density : MotionDensity or None
        Of a camera that turned: kernels that differ from place to place.
    """

    psf: np.ndarray
    linear_light: bool
    evidence: float
    unevenness: float
    residual: float
    density: MotionDensity | None = None

    @property
    def misfit(self) -> float:
        """Noise that a restoration must reckon with for what the kernel will not explain, on the [0, 1] scale."""
        misfit = misfit_of_kernel(self.unevenness, self.residual)
        return misfit if self.density is None else max(misfit, TURNED_MISFIT)


@torch.no_grad()
def estimate_kernel(
    luma: torch.Tensor, motion: torch.Tensor | None = None, net: KernelNet | None = None
) -> KernelEstimate | None:
    """Estimate the kernel of a photograph that was blurred by the same one all over, or those of a camera that turned.

    Parameters
    ----------
    luma : (1, 1, H, W) tensor
        Luminance in [0, 1], of at most a megapixel.
    motion : (2, h, w) tensor, optional
        Double-angle vectors, in pixels, of the motion field that was found in it, which covers it: the kernel must be
        the better explanation.
    net : KernelNet, optional
        What corrects the kernel at the end; if not given nothing does.

    Returns
    -------
    estimate : KernelEstimate or None
        None if something else explains the photograph as well, if what was found leaves too much of the spectra, or if
        the photograph is too small to tell.
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
            still, without = likelihood_without_kernel(evidence, motion, shape)
            lights.append(Light(whole, evidence, still))
            rival = max(rival, without - still)
    sides = [side for side in SIDES if side <= min(shape) // 2]
    bar = least_gain(len(lights[0].evidence.x))  # both lights have the same windows
    best = likeliest_kernel(lights, [[Search(side, *way) for side in sides] for way in WAYS], KEPT, bar)
    if best is None or best.gain < WORTH * bar:
        return None
    picture = _Picture(luma, noise, lights)
    found = even = _same_all_over(picture, best, net)
    if even.floor > UNTURNED:
        turned = _turned(picture, best, even.linear_light, net)
        if turned.likelihood >= even.likelihood + max(CLEARLY, CLEARER * even.likelihood):
            found = turned
    if found.likelihood < rival + bar or found.floor > TOO_UNEVEN:
        return None
    residual = math.sqrt(max(0.0, found.misfit**2 - noise**2))
    unevenness = math.sqrt(max(0.0, found.floor - EVEN))
    return KernelEstimate(found.psf, found.linear_light, found.likelihood - rival, unevenness, residual, found.density)


def refined_kernel(light: Light, psf: np.ndarray, net: KernelNet | None) -> np.ndarray:
    """Return a kernel that was found, polished in some light, and corrected there if there is a network."""
    kernels = [polished(light.luma, psf)]
    if net is None:
        return kernels[0]
    for _ in range(CORRECTIONS):
        kernels.append(corrected(net, maps_of(light.luma, light.evidence, psf, kernels[-1])))
    return mean_kernel(kernels)


def refined_density(light: Light, density: MotionDensity, net: KernelNet) -> MotionDensity:
    """Return a density whose kernels are those of another one, corrected each by what its part of the photograph says.

    Parameters
    ----------
    light : Light
        The photograph.
    density : MotionDensity
        What was found, and the places around where there may be more.
    net : KernelNet
        What corrects kernels; it has seen none of a camera that turned.
    """
    tops, lefts = ([slice(n * k // 4, n * k // 4 + n // 2) for k in range(3)] for n in light.luma.shape)
    parts = [(rows, columns) for rows in tops for columns in lefts]
    down, right = np.array([[(pixels.start + pixels.stop - 1) / 2 for pixels in part] for part in parts]).T
    wanted = []
    for part, kernel in zip(parts, density.kernels(down, right), strict=True):
        luma, evidence, kernels = light.luma[part], light.evidence.within(*part), [kernel]
        for _ in range(CORRECTIONS):
            kernels.append(corrected_in_place(net, maps_of(luma, evidence, kernel, kernels[-1])))
        wanted.append(np.mean(kernels, 0))
    return density.like(down, right, np.stack(wanted)).centred()


class _Picture(NamedTuple):
    """A photograph (1, 1, H, W), its noise, and what it is in pixel values and in linear light."""

    luma: torch.Tensor
    noise: float
    lights: list[Light]


@dataclass(frozen=True)
class _Explanation:
    """How a photograph may have been blurred, and how well that explains it.

    Attributes
    ----------
    psf, linear_light, density
        See `KernelEstimate`.
    likelihood : float
        By how much likelier that is than no blur.
    floor : float
        See `floor_of_kernel`.
    misfit : float
        See `ircdeblur.nets.light.reblurring_misfit`.
    """

    psf: np.ndarray
    linear_light: bool
    likelihood: float
    floor: float
    misfit: float
    density: MotionDensity | None = None


def _same_all_over(picture: _Picture, best: FoundKernel, net: KernelNet | None) -> _Explanation:
    """Explain a photograph by the kernel that was found, refined, in the light that does so better."""
    with one_thread():
        kernels = [refined_kernel(light, best.psf, net) for light in picture.lights]
        gains = [gain_of_blur(light.evidence, psf) for light, psf in zip(picture.lights, kernels, strict=True)]
    misfits = [_misfit(picture, psf, light, picture.luma) for psf, light in zip(kernels, (False, True), strict=True)]
    linear_light = gains[1] - gains[0] + evidence_of_misfits(*misfits) > LINEAR
    psf = kernels[linear_light]
    likelihood = max(best.gain, _gain(picture.lights[linear_light], psf))
    return _Explanation(psf, linear_light, likelihood, _floor(picture, psf, linear_light), misfits[linear_light])


def _turned(picture: _Picture, best: FoundKernel, linear_light: bool, net: KernelNet | None) -> _Explanation:
    """Explain a photograph by a camera that turned while it moved, from the kernel that was found, in some light."""
    light, around = picture.lights[linear_light], 0 if net is None else AROUND

    def judged(density: MotionDensity) -> tuple[float, MotionDensity, np.ndarray]:
        kernels = density.kernels(light.evidence.y, light.evidence.x)
        return _gain(light, kernels), density, kernels

    def refined(density: MotionDensity) -> MotionDensity:
        return density if net is None else refined_density(light, density, net)

    def found(edges: tuple[float, float]) -> tuple[float, MotionDensity, np.ndarray]:
        """Search in one way, refine what is found before the last copies, look at those once more, and refine again."""
        search = DensitySearch(light.luma, best.psf, picture.noise, edges)
        while search.level > AGAIN:
            search.go_on()
        early = refined(search.density(around))
        search, later = DensitySearch(light.luma, early, picture.noise, edges, AGAIN), []
        while search.level:
            search.go_on()
            later.append(judged(search.density(around)))
        late = refined(max(later, key=lambda d: d[0])[1])
        return max(judged(early), judged(late), key=lambda d: d[0])

    workers = max(1, torch.get_num_threads())
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        likelihood, density, kernels = max(pool.map(found, EDGES), key=lambda d: d[0])
    # Restored and blurred again is the middle, where the kernel is nearly the same.
    rows, columns = (slice(n // 4, n - n // 4) for n in picture.luma.shape[-2:])
    psf = density.kernel(*density.middle)
    misfit = _misfit(picture, psf, linear_light, picture.luma[..., rows, columns])
    return _Explanation(psf, linear_light, likelihood, _floor(picture, kernels, linear_light), misfit, density)


def _misfit(picture: _Picture, psf: np.ndarray, linear_light: bool, part: torch.Tensor) -> float:
    """Return the `reblurring_misfit` of a part of a photograph."""
    return reblurring_misfit(part, UniformBlur(torch.from_numpy(psf).to(part)), picture.noise, linear_light)


def _floor(picture: _Picture, kernels: np.ndarray, linear_light: bool) -> float:
    """Return the `floor_of_kernel` of a photograph, for one kernel or those in its windows."""
    with one_thread():
        dark = picture.lights[0].evidence.brightest < BRIGHT
        return floor_of_kernel(picture.lights[linear_light].evidence, kernels, dark)


def least_gain(windows: int) -> float:
    """Return by how much likelier than anything else a kernel must be by the mean over so many windows."""
    return LIKELIER * max(1.0, math.sqrt(FEW_WINDOWS / windows))


class Light(NamedTuple):
    """A photograph in some light (H, W), its spectra, and how likely these are if nothing was blurred."""

    luma: torch.Tensor
    evidence: SpectralEvidence
    still: float


class FoundKernel(NamedTuple):
    """A kernel, and by how much likelier it is than no blur."""

    gain: float
    psf: np.ndarray


class _Runner:
    """A search in one of the lights, and what it has found so far."""

    found: FoundKernel

    def __init__(self, light: Light, search: Search) -> None:
        self.light = light
        self._search = KernelSearch(light.luma, search)

    def go_to(self, level: int, lights: list[Light]) -> None:
        """Look at the copy of a level, after those that are smaller, unless that is done."""
        if self._search.level == level:
            return
        while self._search.level > level:
            self._search.go_on()
        self.found = _judged(self._search.psf().cpu().double().numpy(), lights)


def _judged(psf: np.ndarray, lights: list[Light]) -> FoundKernel:
    """Judge a kernel in the better light for it."""
    return FoundKernel(max(_gain(light, psf) for light in lights), psf)


def _gain(light: Light, kernels: np.ndarray) -> float:
    """Return by how much likelier a kernel (h, h), or those in the windows (n, h, h), is than no blur."""
    power = light.evidence.coarse.kernel_power(kernels)
    return _most(light.evidence, lambda e, a: e.log_likelihood_of_power(power, a)) - light.still


def likeliest_kernel(
    lights: list[Light], ways: list[list[Search]], kept: dict[int, int], bar: float
) -> FoundKernel | None:
    """Return the likeliest kernel of searches in all lights, or the mean of those alike if that is likelier.

    The searches run beside each other, those of the first way before the others, and fewer go on from copy to copy.

    Parameters
    ----------
    lights : list of Light
        The photograph.
    ways : list of lists of Search
        How to look in each light.
    kept : dict
        See `KEPT`.
    bar : float
        By which a kernel must be likelier than no blur to be of any use.

    Returns
    -------
    found : FoundKernel or None
        None as soon as there is little hope; see `HOPEFUL`.
    """
    first, *others = ([_Runner(light, search) for light in lights for search in way] for way in ways)
    rest = [runner for way in others for runner in way]
    workers = max(1, torch.get_num_threads())
    with one_thread(), ThreadPoolExecutor(workers) as pool:

        def likeliest(runners: list[_Runner], level: int) -> float:
            """Run searches to a level, sort them, and return how much likelier the best kernel is than no blur."""
            list(pool.map(_Runner.go_to, runners, repeat(level), repeat(lights)))
            runners.sort(key=lambda runner: -runner.found.gain)
            return runners[0].found.gain if runners else -math.inf

        if likeliest(first, max(kept)) < SCOUTING * bar:
            return None
        running = first + rest
        for level in (*kept, 0):
            if likeliest(running, level) <= HOPEFUL[level] * bar:
                return None
            if level:
                ranked = [[runner for runner in running if runner.light is light] for light in lights]
                running = [runner for same in ranked for runner in same[: kept[level]]]
    best = running[0].found
    alike = [r.found.psf for r in running if r.light is running[0].light and r.found.gain > best.gain - ALIKE]
    return max(best, _judged(mean_kernel(alike), lights), key=lambda found: found.gain)


def likelihood_without_kernel(
    evidence: SpectralEvidence, motion: torch.Tensor | None, shape: tuple[int, int]
) -> tuple[float, float]:
    """Return how likely a photograph is if it was not blurred, and at best without a kernel that was found."""
    coarse = evidence.coarse
    radii = torch.tensor(DISCS, device=evidence.device)  # the first is 0
    tried = [
        raised.log_likelihood_of_discs(radii, float(a)).mean(-1)
        for raised in map(coarse.with_floor, FLOORS)
        for a in NATURAL_EXPONENTS
    ]
    discs = torch.stack(tried).amax(0)
    values = [float(discs.max())]
    if motion is not None:
        moved = from_double_angle(evidence.sample(motion, shape).T)
        values.append(_most(evidence, lambda e, a: e.log_likelihood(moved, a)))
    return float(discs[0]), max(values)


def floor_of_kernel(evidence: SpectralEvidence, psf: np.ndarray, counts: torch.Tensor) -> float:
    """Return the one of `ircdeblur.nets.evidence.FLOORS` with which a kernel explains a photograph best.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the photograph.
    psf : (h, h) or (n, h, h) array
        The kernel, or that in each window.
    counts : (n,) bool tensor
        Which windows are looked at; all if these are fewer than `LEAST_DARK`.
    """
    coarse = evidence.coarse
    power = coarse.kernel_power(psf)
    counts = counts | (int(counts.sum()) < LEAST_DARK)

    def likelihood(floor: float) -> float:
        other = coarse.with_floor(floor)
        return max(float(other.log_likelihood_of_power(power, a)[counts].mean()) for a in NATURAL_EXPONENTS)

    return max(ALL_FLOORS, key=likelihood)


def _most(evidence: SpectralEvidence, likelihood: Callable[[SpectralEvidence, float], torch.Tensor]) -> float:
    """Return the largest mean over the windows of a likelihood, over floors and exponents."""
    raised = map(evidence.coarse.with_floor, FLOORS)
    return max(float(likelihood(e, float(a)).mean()) for e in raised for a in NATURAL_EXPONENTS)
