"""From a photograph to its motion field: Motion-Net, then the consolidation of what it saw.

The network answers for each place on its own, vaguely as to lengths. A camera that shook has only a few degrees of
freedom, so its motion is fitted to all answers at once, each with the weight of its confidence. Where something moved
on its own, a locally smooth field takes over. Both are then refined on the picture itself, whose spectra tell lengths
and angles to a few per cent once one is near (`ircdeblur.nets.evidence`), and the picture chooses between them. If no
camera explains it, a cubic polynomial is tried in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from scipy.ndimage import label, sum_labels
from torch.nn import functional as F

from ircdeblur.motion import from_double_angle, to_double_angle
from ircdeblur.nets.camera_fit import camera_model, fit_camera
from ircdeblur.nets.evidence import FLOORS, SMALLEST, Luma, SpectralEvidence, Windows, one_thread
from ircdeblur.nets.light import LinearLuma, evidence_for_linear_light, seems_linear
from ircdeblur.nets.motion_net import STRIDE, luminance
from ircdeblur.nets.noise import middle
from ircdeblur.nets.refine import (
    LOG_SCALES,
    OUTLIER,
    TOLERANT,
    Refined,
    improve_camera,
    improve_local,
    likeliest_floor,
    likeliest_noise,
    misfit,
    refine_camera,
    refine_local,
    refine_smooth,
    standing_still,
)
from ircdeblur.nets.smooth_fit import smooth_model, smooth_starts
from ircdeblur.solvers.settings import estimate_noise

Net = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""What answers as `MotionNet.forward` does."""


@dataclass(frozen=True)
class MotionEstimate:
    """Motion of one photograph.

    Attributes
    ----------
    motion : (H, W, 2) float32 tensor
        Canonical vectors, pixels; u right, v down.
    error : (H, W) float32 tensor
        Expected size of the error of each vector, in pixels.
    camera_share : float
        Share of the confident places at which the camera model, or the polynomial in its place, holds, in [0, 1].
    unevenness : float
        How far the motion is from an even, straight one that puts out what it should: root of the share of the power
        that is left there beyond the usual.
    linear_light : bool or None
        Whether the photograph seems to have been blurred in linear light; None if that was not looked at: a motion
        that its spectra have not decided on can't tell.
    """

    motion: torch.Tensor
    error: torch.Tensor
    camera_share: float
    unevenness: float = 0.0
    linear_light: bool | None = None

    @property
    def longest(self) -> float:
        """Length of the longest vector in pixels."""
        return float(self.motion.norm(dim=-1).max())

    def window(self, rows: slice, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return motion (h, w, 2) and error (h, w) of some rows and columns, which may have a step."""
        return self.motion[rows, columns], self.error[rows, columns]


@dataclass(frozen=True)
class MotionGrid:
    """Motion of a large photograph, on a grid that covers it.

    Attributes
    ----------
    planes : (3, h, w) float32 tensor
        Double-angle vectors in pixels of the photograph, and the expected size of the error of the vectors.
    shape : (int, int)
        H and W of the photograph.
    camera_share, unevenness, linear_light
        As of `MotionEstimate`.
    """

    planes: torch.Tensor
    shape: tuple[int, int]
    camera_share: float
    unevenness: float = 0.0
    linear_light: bool | None = None

    @property
    def longest(self) -> float:
        """Length of the longest vector in pixels."""
        # Means of double-angle vectors are no longer than these.
        return float(self.planes[:2].norm(dim=0).max())

    def window(self, rows: slice, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return motion (h, w, 2) and error (h, w) of some rows and columns, which may have a step: bilinear."""
        planes = self.planes
        for dim, (places, length) in enumerate(zip((rows, columns), self.shape, strict=True), start=1):
            count = planes.shape[dim]
            at = torch.arange(*places.indices(length), dtype=torch.float64)
            at = ((at + 0.5) * count / length - 0.5).clamp(0, count - 1)
            low = at.long().clamp(max=max(0, count - 2))
            high = (low + 1).clamp(max=count - 1)
            share = (at - low).to(planes).view(-1, *(1,) * (2 - dim))
            low, high = low.to(planes.device), high.to(planes.device)
            planes = torch.lerp(planes.index_select(dim, low), planes.index_select(dim, high), share)
        return from_double_angle(planes[:2].permute(1, 2, 0)), planes[2]


def smooth_field(double: torch.Tensor, error: torch.Tensor, sigma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Average double-angle vectors with a Gaussian window and the weight of their confidence.

    Parameters
    ----------
    double : (h, w, 2) tensor
        Double-angle vectors.
    error : (h, w) tensor
        Their expected errors.
    sigma : float
        Of the window, in grid points.

    Returns
    -------
    double : (h, w, 2) tensor
        The averages.
    error : (h, w) tensor
        Weighted average of the errors.
    """
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=double.dtype, device=double.device) / sigma) ** 2)
    weight = 1.0 / error.clamp(min=0.25) ** 2
    stack = torch.cat((double * weight[..., None], (error * weight)[..., None], weight[..., None]), -1)
    planes = stack.permute(2, 0, 1)[:, None]
    planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), mode="replicate"), line.view(1, 1, -1, 1))
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), mode="replicate"), line.view(1, 1, 1, -1))[:, 0]
    return (planes[:2] / planes[3]).permute(1, 2, 0), planes[2] / planes[3]


CAMERAS = 4
"""Fits of a camera to the network's answers, and to the refined ones, that are tried on the picture."""

IN_FOCUS, OUT_OF_FOCUS = 0.1, -0.1
"""Below one of these (see `standing_still`) a picture did not move, unless the network sees far motions (`SHORT`). On
validation pictures the first is 0.06 and less for sharp ones and 0.2 and more for most moved ones; the second -0.3 and
less for those out of focus, 0.05 and more for others."""

SHORT = 6.0
"""Typical length of the network's answers in pixels from which on a picture is believed to have moved: a smooth one
that moved far may have nothing left by which its spectra could tell, and a motion that was uneven or bent leaves
spectra that look out of focus. Of a hundred sharp photographs, two fifths of them validation's, the network answers
with up to 4.2 px; of the same out of focus with up to 4.8 px in 98 cases, 5.4 and 8.5 in the others."""

SEEN, SEEN_NOISE = 0.35, 0.025
"""Share of a motion's typical length that the network must see, too, if it is short (up to `SHORT`), and the largest
standard deviation of the noise with which that is asked: in sharp pictures a short motion often explains the spectra
better than none. Of 150 sharp photographs of validation and training, with their rims and without, 9 pictures of 300
would be restored in more than 3 % of the frame; in six of these the network sees 0.18 to 0.34 of the length. Of 200
validation photographs with shakes of 2.5 to 18 px, noise 0.4 and 1 %, two are given up, whose motions were found twice
and three times as long as they were; else it sees 0.35 and more. With noise of 2 % none of twenty is given up, with 4 %
three would be, whose motions are right."""

COMPLEXITY = 60.0
"""By how much more likely, logarithmically, a window must be that moves alone than one that moves with the camera: a
field of many parameters always fits a little better."""

COMPLEXITY_IF_STILL = 220.0
"""The same if nothing else moved: texture with a direction may look blurred. In a hundred sharp photographs of the
training set, of which 19 seemed to move somewhere, the gain there was up to 207; of ten things that did move before
sharp ones it was 190 to 690. With it 5 of the hundred seem to move in more than 2 % of their frame, of 20 before."""

UNSURE = 0.65
"""Expected error of the network's answer, relative to its length, from which on nothing moves there if nothing else
did. Where parts of eight sharp photographs, of validation and training, seemed to move it was 0.7 to 2.4; on twelve
things that did move before sharp photographs it was below 0.4, and 0.6 on one of them."""

SMOOTH_WINDOWS, SMOOTH_STARTS = 40, 128
"""Windows from which on a cubic polynomial is tried, twice its parameters, and how many fits it starts from."""

UNEXPLAINED, MUCH_LIKELIER, FAR_LIKELIER = 11.0, 3.6, 8.0
"""Mean cost of a window (see `misfit`, up to `TOLERANT`) from which on a camera may not be what happened, and how much
a cubic polynomial must save to take its place; and how much if by the camera the picture did not move. On validation
pictures it saves 4 to 19 where the field is no camera's (9 and more where that seemed to be none), up to 1.4 where a
camera shook (6 once, where it found the same), up to 3.4 where things moved by themselves, and up to 1.7 in frames
averaged from a film; up to 6 in sharp pictures and, but for one in twenty, nothing to count in those out of focus."""

SHORTENED = 1.02
"""Factor of the refined lengths: into a dark stripe a window's taper lets more of the light from below, where there is
more, so stripes seem to be farther apart than they are. On 47 validation pictures the best factor of all lengths was
1.023 in the mean, and much the same from 6 to 30 px; with this one their mean motion MSE fell from 0.19 to 0.13."""

KNOWS = 100.0
"""By how much more likely, logarithmically, a window alone must be than a polynomial to keep what it was refined to."""

CAMERA_FAILS = 0.45
"""Share of the frame where the local field may be farther from the camera than its own expected error, before the
camera is given up. On validation pictures it is up to 0.2 with camera shake, up to 0.4 where something large moved by
itself, and 0.6 and more in fields that no camera makes."""

CAMERA_TOLERANCE = 2.5
"""Where the local answer is farther from the camera model than this many times its own error, it is believed."""

AGREES = 0.8
"""The same of the network's own answer, below which nothing moves by itself: texture with a direction may look moved in
another way to the spectra, but seldom to the network as well. With `without_specks`, 40 validation photographs gained
0.03 dB more if they shook moderately and 0.11 severely, and 20 before which a thing moved by itself lost 0.04; with 1.0
it was 0.03, 0.12, and 0.16 (moderate) and 0.06."""


@dataclass(frozen=True)
class _Alternatives:
    """What may have happened, on the network's grid of (h, w) cells.

    Attributes
    ----------
    model, local : (h, w, 2) tensors
        Double-angle vectors of a camera that shook, or of a polynomial in its place, and of a field that is neither.
    tolerance : (h, w) tensor or float
        How far the two may differ, in units of the local field's expected error, before the local one is believed.
    still : bool
        Whether the picture as a whole did not move, as far as its spectra tell.
    unfocused : bool
        Whether a lens out of focus explains the spectra better than the model does.
    unevenness : float
        Root of the share of the power that the motion has left where it should put it out.
    """

    model: torch.Tensor
    local: torch.Tensor
    tolerance: torch.Tensor | float
    still: bool = False
    unfocused: bool = False
    unevenness: float = 0.0


def _alternatives(
    raw: torch.Tensor,
    spread: torch.Tensor,
    shape: tuple[int, int],
    evidence: SpectralEvidence | None,
    seed: int,
) -> _Alternatives:
    """Fit a camera and a local field to the network's answers (h, w, 2), and refine them on the picture of a shape."""
    grid = (raw.shape[0], raw.shape[1])
    height, width = shape
    half = max(shape) / 2
    rows = (np.arange(grid[0]) + 0.5) * height / grid[0] - height / 2
    columns = (np.arange(grid[1]) + 0.5) * width / grid[1] - width / 2
    y, x = (t.ravel() / half for t in np.meshgrid(rows, columns, indexing="ij"))

    def on_grid(model: Callable[[np.ndarray, np.ndarray], np.ndarray], parameters: np.ndarray) -> torch.Tensor:
        return to_double_angle(torch.from_numpy(model(x, y) @ parameters).to(raw)).view(*grid, 2)

    local, local_error = smooth_field(raw, spread, sigma=1.0)
    vectors = from_double_angle(raw).reshape(-1, 2).cpu().double().numpy()
    cameras = fit_camera(vectors, spread.flatten().cpu().double().numpy(), x, y, CAMERAS, seed)
    if evidence is None:
        return _Alternatives(on_grid(camera_model, cameras[0]), local, CAMERA_TOLERANCE)

    wide, _ = smooth_field(raw, spread, sigma=3.0)
    seen = evidence.sample(wide.permute(2, 0, 1), shape).T
    # The network's lengths are vague: each window takes the likeliest of some.
    tried = torch.exp(torch.from_numpy(LOG_SCALES[::2]).to(seen)).view(-1, 1, 1) * from_double_angle(seen)
    evidence = evidence.with_noise(likeliest_noise(evidence, lambda e, a: e.log_likelihood(tried, a).amax(0)))
    alone = refine_local(evidence, seen)

    # The refined windows are a second set of answers to fit a camera to.
    at_x, at_y = (evidence.x + 0.5 - width / 2) / half, (evidence.y + 0.5 - height / 2) / half
    more = fit_camera(from_double_angle(alone.parameters), _doubted(alone), at_x, at_y, CAMERAS, seed)
    design = camera_model(at_x, at_y)
    camera = refine_camera(evidence, design, np.concatenate((cameras, more)), alone.exponent, alone.best)

    def vectors_of(model: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack((model, from_double_angle(alone.parameters)))).to(raw)

    floor = likeliest_floor(evidence, vectors_of(design @ camera.parameters), camera.exponent)
    usual = EVEN * max(SMALL_FLOOR, evidence.usual_floor(alone.parameters))
    evidence = evidence.with_floor(floor if floor > usual else FLOORS[0])
    alone = improve_local(evidence, alone)
    model = improve_camera(evidence, design, camera, alone.best)
    moved = design @ model.parameters
    in_focus, out_of_focus = standing_still(evidence, vectors_of(moved), model.exponent)
    typical = float(wide.norm(dim=-1).median())

    def unseen(motion: np.ndarray) -> bool:
        """Return whether the network saw next to nothing of a motion of the windows (n, 2)."""
        clear = evidence.noise <= SEEN_NOISE
        return clear and typical < min(SHORT, SEEN * float(np.median(np.hypot(*motion.T))))

    still = unseen(moved) or (typical < SHORT and (out_of_focus < OUT_OF_FOCUS or in_focus < IN_FOCUS))
    field = on_grid(camera_model, model.parameters) * (not still)

    answered = evidence.sample(torch.cat((raw.permute(2, 0, 1), spread[None])), shape).T.cpu().double().numpy()
    answers = [
        (from_double_angle(alone.parameters), _doubted(alone)),
        (from_double_angle(answered[:, :2]), answered[:, 2]),
    ]
    smooth = _smoother(evidence, model, alone.best, moved, answers, np.stack((at_x, at_y), -1), seed)
    if smooth is not None:
        saved, moved = _saved(smooth, model), smooth_model(at_x, at_y) @ smooth.parameters
        least, standing = MUCH_LIKELIER, standing_still(evidence, vectors_of(moved), smooth.exponent)
        if still:
            least = FAR_LIKELIER if standing[1] > 0 and standing[0] > IN_FOCUS else math.inf
        if saved > least and not unseen(moved):
            out_of_focus = standing[1]
            model, field, still = smooth, on_grid(smooth_model, smooth.parameters), False
            # The windows were led by the same wrong answers: they start from it, unless they know better.
            knows = (alone.likelihood - smooth.likelihood > KNOWS).cpu().numpy()[:, None]
            start = np.where(knows, alone.parameters, to_double_angle(torch.from_numpy(moved)).numpy())
            alone = improve_local(evidence, replace(alone, parameters=start, exponent=smooth.exponent))
    refined = torch.from_numpy(alone.parameters).to(raw)
    unsure = local_error > UNSURE * local.norm(dim=-1)
    local = local + evidence.spread((SHORTENED * refined - seen).T, grid, shape).permute(1, 2, 0)

    own = evidence.log_likelihood(from_double_angle(refined), model.exponent)
    gain = evidence.spread((own - model.likelihood)[None], grid, shape)[0]
    if still:
        gain = gain.masked_fill(unsure, -math.inf)
    needed = COMPLEXITY_IF_STILL if still else COMPLEXITY
    tolerance = CAMERA_TOLERANCE + ((needed - gain) / OUTLIER).clamp(-2, 4)
    unevenness = math.sqrt(max(0.0, floor - usual))
    return _Alternatives(SHORTENED * field, local, tolerance, still, out_of_focus < OUT_OF_FOCUS, unevenness)


def _doubted(alone: Refined) -> np.ndarray:
    """Return the expected errors (n,) of refined windows; those that their own spectra contradict count less."""
    doubt = (alone.best - alone.likelihood).clamp(min=0).cpu().numpy() / OUTLIER
    error: np.ndarray = (CAMERA_ERROR[0] + CAMERA_ERROR[1] * np.hypot(*alone.parameters.T)) * (1 + doubt)
    return error


def _smoother(
    evidence: SpectralEvidence,
    camera: Refined,
    best: torch.Tensor,
    moved: np.ndarray,
    answers: list[tuple[np.ndarray, np.ndarray]],
    places: np.ndarray,
    seed: int,
) -> Refined | None:
    """Return a cubic polynomial, unless there is no need of one or none is promising.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture, with n windows.
    camera : Refined
        The camera.
    best : (n,) tensor
        Likelihoods that every window can reach.
    moved : (n, 2) array
        The camera's motion.
    answers : list of (motion, error)
        Vectors (n, 2) and their expected errors (n,), from one or more sources.
    places : (n, 2) array
        Coordinates of the windows, as for `smooth_model`.
    seed : int
        Of the starts.
    """
    best = torch.maximum(best, camera.best)
    if len(best) < SMOOTH_WINDOWS or float(misfit(best - camera.likelihood, TOLERANT).mean()) < UNEXPLAINED:
        return None
    design = smooth_model(*places.T)
    starts = smooth_starts(answers, design, places, evidence.shape, SMOOTH_STARTS, seed)
    # A camera's motion is a polynomial, too.
    same = np.linalg.lstsq(design.reshape(-1, design.shape[-1]), moved.ravel(), rcond=None)[0]
    return refine_smooth(evidence, design, np.concatenate((same[None], starts)), camera.exponent, best)


def _saved(smooth: Refined, camera: Refined) -> float:
    """Return by how much a polynomial's mean cost of a window is smaller than a camera's."""
    costs = (misfit(smooth.best - model.likelihood, TOLERANT) for model in (camera, smooth))
    return float((next(costs) - next(costs)).mean())


def consolidate(
    double: torch.Tensor, error: torch.Tensor, evidence: SpectralEvidence | None = None, seed: int = 0
) -> MotionEstimate:
    """Turn Motion-Net's raw answer into a motion field.

    Parameters
    ----------
    double : (H, W, 2) tensor
        Double-angle vectors in pixels.
    error : (H, W) tensor
        Expected error of each double-angle vector, in pixels; that of the vector itself is between half of it
        (across) and all of it (along).
    evidence : SpectralEvidence, optional
        Of the picture; without it nothing is refined.
    seed : int
        Of the camera fit.
    """
    height, width = error.shape
    grid = (max(1, height // STRIDE), max(1, width // STRIDE))

    def to_grid(planes: torch.Tensor) -> torch.Tensor:
        return F.interpolate(planes[None], size=grid, mode="area")[0]

    def to_full(planes: torch.Tensor) -> torch.Tensor:
        return F.interpolate(planes[None], size=(height, width), mode="bilinear", align_corners=False)[0]

    raw = to_grid(double.permute(2, 0, 1)).permute(1, 2, 0)
    spread = to_grid(error[None])[0]
    mixed, mixed_error, share, unevenness = consolidate_grid(raw, spread, (height, width), evidence, seed)
    full = to_full(mixed.permute(2, 0, 1)).permute(1, 2, 0)
    return MotionEstimate(from_double_angle(full), to_full(mixed_error[None])[0], share, unevenness)


def consolidate_grid(
    raw: torch.Tensor, spread: torch.Tensor, shape: tuple[int, int], evidence: SpectralEvidence | None, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Turn Motion-Net's answers on a grid into a motion field on it.

    Parameters
    ----------
    raw : (h, w, 2) tensor
        Double-angle vectors in pixels.
    spread : (h, w) tensor
        Expected error of each.
    shape : (int, int)
        H and W of the picture that the grid covers.
    evidence, seed
        As for `consolidate`.

    Returns
    -------
    mixed : (h, w, 2) tensor
        Double-angle vectors.
    error : (h, w) tensor
        Expected size of the error of the vectors.
    camera_share, unevenness : float
        See `MotionEstimate`.
    """
    found = _alternatives(raw, spread, shape, evidence, seed)
    answered, local_error = smooth_field(raw, spread, sigma=1.0)

    def away_from_model(local: torch.Tensor) -> torch.Tensor:
        """Return how far a local answer is from the model, in units of what it may be off by itself."""
        return (local - found.model).norm(dim=-1) / (local_error + 1.0)

    away = away_from_model(found.local)
    trust = torch.sigmoid(4.0 * (found.tolerance - away))
    # Where the next two rules overrule the spectra, the motion stays as doubtful as it would have been.
    spectra = trust
    if evidence is not None:
        trust = trust.masked_fill(away_from_model(answered) < AGREES, 1.0)
        trust = without_specks(trust, _window_step(shape) ** 2 / math.prod(shape))
    if evidence is not None and not found.still and float((away > 1).float().mean()) > CAMERA_FAILS:
        trust = torch.zeros_like(trust)
    mixed = torch.lerp(found.local, found.model, trust[..., None])
    camera_error = 0.5 * local_error
    if evidence is not None:
        camera_error = CAMERA_ERROR[0] + CAMERA_ERROR[1] * found.model.norm(dim=-1)
        # A blur that is no motion fits one or another, too; the network knows it by its looks.
        wide, wide_error = smooth_field(raw, spread, sigma=3.0)
        unlike = torch.sigmoid(10 * (wide_error / (wide.norm(dim=-1) + 3.0) - UNLIKE_MOTION))
        camera_error = torch.lerp(camera_error, wide_error, unlike)
        if found.unfocused and not found.still:
            # The network sees motion, the spectra none that is straight: a curved shake looks so, too.
            camera_error = torch.maximum(camera_error, 0.75 * local_error)
    mixed_error = torch.lerp(0.75 * local_error, camera_error, torch.minimum(trust, spectra))
    mixed_error = mixed_error + UNEVEN_ERROR * found.unevenness
    return mixed, mixed_error, float(trust[spread <= spread.median()].mean()), found.unevenness


def without_specks(trust: torch.Tensor, least: float) -> torch.Tensor:
    """Return the trust (h, w) in the camera, 1 where areas without it are smaller than a share of the picture.

    What moves by itself on less than the square of a step of the windows, few of which show it at all, was mostly an
    error: without such specks 40 validation photographs gained 0.02 dB more if they shook moderately and 0.04 severely,
    and 20 before which a thing of a tenth of the frame moved as much as before.
    """
    number, count = label((trust < TRUSTED).cpu().numpy())
    area = sum_labels(1 - trust.cpu().numpy(), number, np.arange(count + 1))
    small = torch.from_numpy((area < least * trust.numel())[number] & (number > 0))
    return trust.masked_fill(small.to(trust.device), 1.0)


TRUSTED = 0.9
"""Trust in the camera from which on a place is none of an area that moves by itself."""

CAMERA_ERROR = (0.3, 0.05)
"""Error of a camera's motion that was fitted to the spectra: pixels, and pixels per pixel of length."""

EVEN, SMALL_FLOOR = 1.5, 3e-3
"""Floor of the spectra (see `likeliest_floor`) that an even straight motion may have: so many times the usual one
(`SpectralEvidence.usual_floor`), or the second number if that is more. On shaken validation photographs the usual one
is 0.002 to 0.02, and about what is found; on frames averaged from a film what is found is 3 to 10 times larger."""

UNEVEN_ERROR = 22.0
"""Pixels of error that are stated more for a motion that leaves power where it should put it out, per root of the floor
beyond that: what is wrong is not the vectors alone but their being straight and even, and the restoration must know.
With it none of ten averages of frames of a film lost more than 0.03 dB, and they gained 0.2 on average; without it one
lost 2.6."""

UNLIKE_MOTION = 1.15
"""Expected error of the network's answer, relative to its length and 3 px, at which the blur seems to be no motion."""


@torch.no_grad()
def estimate(net: Net, image: torch.Tensor, consolidation: str = "picture") -> MotionEstimate:
    """Estimate the motion of one photograph.

    Parameters
    ----------
    net : MotionNet or callable
        What answers as `MotionNet.forward` does.
    image : (1, 1 or 3, H, W) tensor
        In [0, 1].
    consolidation : {"picture", "answers", "none"}
        Fit the camera, smooth, and refine on the picture; go by the network's answers alone; or return them as they
        are.
    """
    double, error = net(image)
    if consolidation == "none":
        return MotionEstimate(from_double_angle(double[0]), error[0], 0.0)
    luma = luminance(image)
    height, width = luma.shape[-2:]
    with one_thread():
        if consolidation == "picture" and min(height, width) >= SMALLEST:
            found = _in_the_right_light(
                Luma(luma), estimate_noise(luma), lambda evidence: consolidate(double[0], error[0], evidence)
            )
        else:
            found = consolidate(double[0], error[0])
    seen = from_double_angle(double[0])
    if min(height, width) < 2 * SMALLEST or not _may_be_long(found, typical_length(found.motion), typical_length(seen)):
        return found
    # Motions that are longer than the network knows are shorter in a smaller picture.
    half = F.interpolate(image, scale_factor=0.5, mode="area")
    smaller = estimate(net, half, consolidation)
    if not _longer(smaller, typical_length(smaller.motion), found):
        return found
    planes = torch.cat((to_double_angle(smaller.motion).permute(2, 0, 1), smaller.error[None]))[None] * 2
    planes = F.interpolate(planes, size=(height, width), mode="bilinear", align_corners=False)[0]
    return MotionEstimate(
        from_double_angle(planes[:2].permute(1, 2, 0)),
        planes[2],
        smaller.camera_share,
        smaller.unevenness,
        smaller.linear_light,
    )


Found = TypeVar("Found", MotionEstimate, MotionGrid)


def _in_the_right_light(luma: Windows, noise: float, consolidated: Callable[[SpectralEvidence], Found]) -> Found:
    """Consolidate by the spectra of the values, and once more by those of linear light if they explain more.

    Parameters
    ----------
    luma : Windows
        Luminance of the photograph.
    noise : float
        Standard deviation of its noise.
    consolidated : callable
        Makes the motion from the evidence.
    """
    step = _window_step(luma.shape)
    values, linear = SpectralEvidence(luma, noise, step), SpectralEvidence(LinearLuma(luma), noise, step)
    found = consolidated(values)
    certainty = evidence_for_linear_light(values, linear, _of_windows(found, values, luma.shape))
    rows, columns = middle(luma.shape)
    if not seems_linear(certainty, luma(rows, columns), found.window(rows, columns)[0], noise):
        return replace(found, linear_light=False)
    # Shaken validation photographs blurred in linear light, those 19 of 24 that are found, gained 0.92 dB by this.
    again = consolidated(linear)
    better = evidence_for_linear_light(values, linear, _of_windows(again, values, luma.shape)) > certainty
    return replace(again if better else found, linear_light=True)


def _of_windows(found: MotionEstimate | MotionGrid, evidence: SpectralEvidence, shape: tuple[int, int]) -> torch.Tensor:
    """Return the motion of each window, (n, 2)."""
    double = found.planes[:2] if isinstance(found, MotionGrid) else to_double_angle(found.motion).permute(2, 0, 1)
    return from_double_angle(evidence.sample(double, shape).T)


def _may_be_long(found: MotionEstimate | MotionGrid, length: float, answered: float) -> bool:
    """Return whether to look at the picture in half its size.

    Parameters
    ----------
    found : MotionEstimate or MotionGrid
        The motion.
    length, answered : float
        Its typical length, and that of the network's own answers, in pixels.
    """
    return length >= LONG or (found.unevenness > 0 and answered >= NEARLY_LONG)


def _longer(smaller: MotionEstimate | MotionGrid, length: float, found: MotionEstimate | MotionGrid) -> bool:
    """Return whether to believe the motion of the picture in half its size, of a typical length there."""
    return 2 * length >= LONG and (found.unevenness <= 0 or smaller.unevenness < found.unevenness / 2)


def _window_step(shape: tuple[int, int]) -> int:
    """Return the distance in pixels of the windows whose spectra are looked at."""
    return max(48, round((shape[0] * shape[1] / MOST_WINDOWS) ** 0.5))


WHOLE_PIXELS = 1_500_000
"""The network looks at pictures of at most this many pixels at once, at larger ones part by part."""

PART, CONTEXT = 768, 96
"""Side of the parts in pixels, and what the network sees around them, some of which it needs."""

MOST_CELLS = 100_000
"""About as many cells has the grid of a large picture; in smaller ones they are of 8 x 8 pixels, as the network's."""


@torch.no_grad()
def estimate_in_parts(
    net: Net,
    luma: Windows,
    noise: float,
    consolidation: str = "picture",
    progress: Callable[[int, int], None] | None = None,
) -> MotionGrid:
    """Estimate the motion of one large photograph, of which only parts are in memory at once.

    The answers of the network, part by part, are averaged on a grid that is coarser the larger the picture is; on this
    they are consolidated once, for the whole picture. Motions that are longer than the network knows are looked for in
    smaller copies, as `estimate` does.

    Parameters
    ----------
    net : MotionNet or callable
        What answers as `MotionNet.forward` does.
    luma : Windows
        Luminance of the photograph, of at least 64 x 64 pixels.
    noise : float
        Standard deviation of its noise.
    consolidation : {"picture", "answers", "none"}
        As for `estimate`.
    progress : callable, optional
        Called with the number of finished parts and of all; copies of smaller size are not counted.
    """
    height, width = luma.shape
    cell = STRIDE * math.ceil((height * width / MOST_CELLS) ** 0.5 / STRIDE)
    grid = (max(1, height // cell), max(1, width // cell))
    bounds = [[n * size // count for n in range(count + 1)] for size, count in zip(luma.shape, grid, strict=True)]
    planes: torch.Tensor | None = None
    per_part = max(1, PART // cell)
    parts = [(i, j) for i in range(0, grid[0], per_part) for j in range(0, grid[1], per_part)]
    for number, part in enumerate(parts, start=1):
        cells = [(first, min(first + per_part, count)) for first, count in zip(part, grid, strict=True)]
        inner = [(edges[a], edges[b]) for edges, (a, b) in zip(bounds, cells, strict=True)]
        # The network's own grid begins at multiples of its stride.
        outer = [
            (max(0, a - CONTEXT) // STRIDE * STRIDE, min(size, b + CONTEXT))
            for (a, b), size in zip(inner, luma.shape, strict=True)
        ]
        double, error = net(luma(*(slice(a, b) for a, b in outer)))
        rows, columns = (slice(a - first, b - first) for (a, b), (first, _) in zip(inner, outer, strict=True))
        seen = torch.cat((double[0, rows, columns].permute(2, 0, 1), error[:, rows, columns]))
        size = (cells[0][1] - cells[0][0], cells[1][1] - cells[1][0])
        if planes is None:
            planes = seen.new_empty(3, *grid)
        planes[:, slice(*cells[0]), slice(*cells[1])] = F.interpolate(seen[None], size=size, mode="area")[0]
        if progress is not None:
            progress(number, len(parts))
    assert planes is not None
    if consolidation == "none":
        return MotionGrid(planes, luma.shape, 0.0)
    answers = planes

    def consolidated(evidence: SpectralEvidence | None) -> MotionGrid:
        raw = answers[:2].permute(1, 2, 0)
        double, error, share, unevenness = consolidate_grid(raw, answers[2], luma.shape, evidence)
        return MotionGrid(torch.cat((double.permute(2, 0, 1), error[None])), luma.shape, share, unevenness)

    with one_thread():
        found = _in_the_right_light(luma, noise, consolidated) if consolidation == "picture" else consolidated(None)
    lengths = found.planes[:2].norm(dim=0).flatten()
    if not _may_be_long(found, _exceeded(lengths), _exceeded(planes[:2].norm(dim=0).flatten())):
        return found
    half = _half_size(luma)
    smaller: MotionGrid | MotionEstimate
    if half.numel() > WHOLE_PIXELS:
        smaller = estimate_in_parts(net, Luma(half), estimate_noise(half), consolidation)
        longer = smaller.planes
    else:
        smaller = estimate(net, half, consolidation)
        longer = torch.cat((to_double_angle(smaller.motion).permute(2, 0, 1), smaller.error[None]))
    if not _longer(smaller, _exceeded(longer[:2].norm(dim=0).flatten()), found):
        return found
    return MotionGrid(2 * longer, luma.shape, smaller.camera_share, smaller.unevenness, smaller.linear_light)


def _half_size(luma: Windows) -> torch.Tensor:
    """Return a copy of half the size, (1, 1, H // 2, W // 2)."""
    height, width = (n // 2 * 2 for n in luma.shape)
    step = 2 * PART
    half: torch.Tensor | None = None
    for top in range(0, height, step):
        for left in range(0, width, step):
            bottom, right = min(top + step, height), min(left + step, width)
            part = F.avg_pool2d(luma(slice(top, bottom), slice(left, right)), 2)
            if half is None:
                half = part.new_empty(1, 1, height // 2, width // 2)
            half[..., top // 2 : bottom // 2, left // 2 : right // 2] = part
    assert half is not None
    return half


CONSOLIDATIONS = ("picture", "answers", "none")
"""What can be made of a network's answers."""

LONG = 32.0
"""Motions in pixels from which on the picture is looked at in half its size, too."""

NEARLY_LONG = 24.0
"""The same for the network's answers, if no even motion explains the picture: it knows no longer ones than 36 px, and
the spectra may then fit a fraction of the true length."""


def typical_length(motion: torch.Tensor) -> float:
    """Return the length in pixels that a fifth of the vectors exceed."""
    # Every eighth pixel is enough: the field is as smooth as that.
    return _exceeded(motion[::STRIDE, ::STRIDE].norm(dim=-1).flatten())


def _exceeded(lengths: torch.Tensor) -> float:
    """Return what a fifth of the values (n,) exceeds."""
    return float(lengths.kthvalue(max(1, round(0.8 * len(lengths)))).values)


MOST_WINDOWS = 400
"""About as many windows are looked at in large pictures."""
