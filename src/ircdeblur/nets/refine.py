"""Motions that are fitted to the spectra of a picture: a field of windows, a camera's, and a cubic polynomial.

They start from what a network found and maximise the likelihood of `ircdeblur.nets.evidence`, robustly: a window where
something else happens must not bend the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ircdeblur.motion import from_double_angle
from ircdeblur.nets.evidence import FLOORS, SpectralEvidence
from ircdeblur.nets.smooth_fit import roughness

LOG_SCALES = np.linspace(-0.56, 0.56, 9)
TURNS = np.linspace(-24.0, 24.0, 5)
EXPONENTS, EXPONENT_RANGE = (2.4, 3.2, 4.0), (1.6, 6.0)
"""Factors of the length (their logarithms), turns in degrees, and exponents of the scene's spectrum that are tried."""

LENGTH_SPREAD, TURN_SPREAD = 0.3, 12.0
"""How far the network's lengths may be off, relatively, and its angles, in degrees."""

LENGTH_STEP, TURN_STEP, STEP_LIMIT = 0.08, 4.0, 8.0
"""How far its errors may differ between neighbouring windows, and the largest cost of a greater difference."""

SHAPE_SPREAD, SHAPE_LEAST = 0.1, 0.3
"""How far a camera's motion may be off in anything but all lengths together: relative to the length, and in pixels."""

TRIED, EXPLAINED = 6, 0.5
"""Starts of a camera's motion that are improved, and the mean cost of the windows, relative to that of an outlier, at
which one of them is good enough."""

SMOOTH_TRIED, SAME = 8, 2.0
"""Starts of a cubic polynomial that are improved, and the mean square of their distance in pixels below which two of
them are the same."""

PROMISING = 1.5
"""Mean cost of a window by which the best start of a polynomial must be better than the first one. On 20 validation
photographs whose fields are no camera's it was 3.0 and more; of 25 shaken ones whose camera was not good enough, two
had more than 3 (the camera was wrong), five 2.0 to 2.7, and the others up to 1.4."""

ROUGHNESS = (0.35, 4.0)
"""Twice the cost per window of quadratic and cubic coefficients as large as the motion: beyond what the picture's rim
shows a cubic bends at will. Of 16 fields that no camera makes, six on astronaut and coffee and ten on validation
pictures, the mean motion MSE was 1.5 without, 1.0 with some 0.4 and 4 or 1.2 and 12, and 1.4 with 4 and 40."""

OUTLIER = 10.0
"""Logarithm of a likelihood ratio at which a window stops counting: something is in it that the model does not know."""

USUAL_EXPONENT = (3.0, 5.0)
"""Exponent of most scenes' spectra, and twice the cost, for each window, of one that differs by 1."""

NOISIER, MOST_NOISE = (1, 1.5, 2, 3, 4, 6, 8, 11, 16), 0.03
"""How many times the noise that was estimated may be that of the spectra, and the largest that is believed then."""

TOLERANT = 40.0
"""The same while a motion is being improved: at first it may be so far off that all windows would be outliers."""

WORTH = 0.01
"""What a step must promise to save per window, as a logarithm of a likelihood, to be made."""


def misfit(shortfall: torch.Tensor, limit: float = OUTLIER) -> torch.Tensor:
    """Return the robust cost of log-likelihoods that fall short of the best known ones: bounded by `limit` above."""
    return limit * (1 - torch.exp(-shortfall.clamp(min=0) / limit)) + shortfall.clamp(max=0)


def smoothest_labels(unary: torch.Tensor, pairwise: torch.Tensor, sweeps: int = 12) -> torch.Tensor:
    """Label the cells of a grid at least cost by min-sum belief propagation.

    Parameters
    ----------
    unary : (h, w, k) tensor
        Cost of each label in each cell.
    pairwise : (k, k) tensor
        Cost of two labels in neighbouring cells; symmetric.
    sweeps : int
        Rounds of messages, each half of it new.

    Returns
    -------
    labels : (h, w) int64 tensor
    """
    # Labels first, so that minima over them are taken of long vectors.
    unary = unary.permute(2, 0, 1).contiguous()
    k, h, w = unary.shape
    # Messages into each cell from above, below, left and right.
    messages = torch.zeros(k, 4, h, w, dtype=unary.dtype, device=unary.device)
    into = ((1, 0), (-1, 0), (0, 1), (0, -1))
    for _ in range(sweeps):
        # What a cell tells a neighbour leaves out what that neighbour has told it.
        told = (unary + messages.sum(1))[:, None] - messages[:, [1, 0, 3, 2]]
        told = (told.view(k, 1, -1) + pairwise[..., None]).amin(0).view_as(told)
        told = told - told.amin(0)
        messages = 0.5 * messages
        for i, (down, right) in enumerate(into):
            target = (slice(max(down, 0), h + min(down, 0)), slice(max(right, 0), w + min(right, 0)))
            source = (slice(max(-down, 0), h + min(-down, 0)), slice(max(-right, 0), w + min(-right, 0)))
            messages[(slice(None), i, *target)] += 0.5 * told[(slice(None), i, *source)]
    return (unary + messages.sum(1)).argmin(0)


@dataclass(frozen=True)
class Refined:
    """A motion that was fitted to the spectra of a picture.

    Attributes
    ----------
    parameters : array
        The answer.
    exponent : float
        Of the scene's spectrum.
    likelihood : (n,) tensor
        Logarithm, of each window.
    penalty : float
        Cost of its deviation from the start.
    best : (n,) tensor
        The largest likelihood of each window that was met.
    """

    parameters: np.ndarray
    exponent: float
    likelihood: torch.Tensor
    penalty: float
    best: torch.Tensor


def descend(
    evidence: SpectralEvidence,
    motion: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: np.ndarray,
    stiffness: np.ndarray,
    exponent: float,
    best: torch.Tensor,
    steps: int = 12,
    rest: np.ndarray | None = None,
) -> Refined:
    """Improve a motion on the spectra of a picture by Fisher scoring, damped as Levenberg and Marquardt did.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    motion : callable
        From parameters to the motions (n, 2) of the windows, in pixels, and their derivatives (n, 2, k): by all k
        parameters, or, if there are 2 n, by the two of each window.
    start : array
        Parameters to start from.
    stiffness : (k, k) array
        The cost of a deviation from `rest` is half of this quadratic form.
    exponent : float
        Of the scene's spectrum, to start from.
    best : (n,) tensor
        Likelihoods that every window can reach.
    steps : int
        Of the method, at most.
    rest : array, optional
        Parameters that cost nothing; `start` if not given.
    """
    size = start.size
    rest = start if rest is None else rest

    def look(values: np.ndarray) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Return the likelihoods, and their derivatives and information by what each window depends on."""
        field, jacobian = motion(rest + values[:-1].reshape(start.shape))
        found, *others = evidence.slopes(torch.from_numpy(field).to(best), float(values[-1]))
        slope, information = (t.cpu().double().numpy() for t in others)
        whole = np.zeros((len(field), 3, jacobian.shape[2] + 1))
        whole[:, :2, :-1], whole[:, 2, -1] = jacobian, 1
        turned = whole.transpose(0, 2, 1)
        return found, (turned @ slope[..., None])[..., 0], turned @ information @ whole

    def equations(
        seen: tuple[torch.Tensor, np.ndarray, np.ndarray], values: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return gradient and curvature of the cost."""
        found, slope, information = seen
        weight = torch.exp((found - best).clamp(max=0) / TOLERANT).cpu().double().numpy()
        slope, information = weight[:, None] * slope, weight[:, None, None] * information
        own, cross, square = slope[:, :-1], information[:, :-1, -1], information[:, :-1, :-1]
        if own.shape[1] == size:
            own, cross, square = own.sum(0), cross.sum(0), square.sum(0)
        else:
            blocks, each = np.zeros((len(own), 2, len(own), 2)), np.arange(len(own))
            blocks[each, :, each] = square
            own, cross, square = own.ravel(), cross.ravel(), blocks.reshape(size, size)
        gradient = np.append(stiffness @ values[:-1] - own, -slope[:, -1].sum())
        gradient[-1] += len(best) * USUAL_EXPONENT[1] * (values[-1] - USUAL_EXPONENT[0])
        square = np.concatenate((square + stiffness, cross[None]))
        return gradient, np.concatenate(
            (square, np.append(cross, information[:, -1, -1].sum() + len(best) * USUAL_EXPONENT[1])[:, None]), 1
        )

    def penalty(values: np.ndarray) -> float:
        unusual = len(best) * USUAL_EXPONENT[1] * (values[-1] - USUAL_EXPONENT[0]) ** 2
        return float(values[:-1] @ stiffness @ values[:-1] + unusual) / 2

    values = np.append(start - rest, exponent)
    seen = look(values)
    # What is reached is expected from here on: no window can outweigh the others by what it gains at once.
    best = torch.maximum(best, seen[0])
    cost, damping = float(misfit(best - seen[0], TOLERANT).sum()) + penalty(values), 1e-2
    for _ in range(steps):
        gradient, curvature = equations(seen, values)
        diagonal = curvature.diagonal() * (1 + damping)
        # In a single row of windows a parameter may move nothing: it stays as it is.
        np.fill_diagonal(curvature, np.maximum(diagonal, 1e-9 * diagonal.max()))
        # By torch, whose threads are told how many they are: numpy's wait for each other on a busy machine.
        step = -torch.linalg.solve(torch.from_numpy(curvature), torch.from_numpy(gradient)).numpy()
        if -step @ gradient < 2 * WORTH * len(best):
            break
        ahead = values + step
        ahead[-1] = np.clip(ahead[-1], *EXPONENT_RANGE)
        there = look(ahead)
        reached = float(misfit(best - there[0], TOLERANT).sum()) + penalty(ahead)
        if reached < cost:
            values, seen, cost, damping = ahead, there, reached, 0.1 * damping
        else:
            damping *= 10
    parameters = rest + values[:-1].reshape(start.shape)
    return Refined(parameters, float(values[-1]), seen[0], penalty(values), torch.maximum(best, seen[0]))


def _vectors(double: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors (n, 2) of double-angle vectors (n, 2), and their derivatives (n, 2, 2)."""
    motion = from_double_angle(double)
    length = np.hypot(*double.T)[:, None]
    one = np.array([1.0, 0.0])
    along, across = (np.divide(t, length, out=np.tile(one, (len(t), 1)), where=length > 0) for t in (double, motion))
    # The length grows along the double-angle vector; the angle by half of what that turns.
    turned, quarter = along[:, ::-1] * (-1, 1), across[:, ::-1] * (1, -1)
    return motion, across[:, :, None] * along[:, None] + quarter[:, :, None] * turned[:, None] / 2


def refine_local(evidence: SpectralEvidence, double: torch.Tensor) -> Refined:
    """Correct a field of vectors on the spectra of a picture, smoothly from window to window.

    In each window, factors of the length and turns are tried; those are taken that are likely and much the same as in
    the neighbouring windows, and improved together.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    double : (n, 2) tensor
        Double-angle vectors at the windows.

    Returns
    -------
    refined : Refined
        Its parameters are double-angle vectors (n, 2).
    """
    scales = torch.from_numpy(np.exp(LOG_SCALES)).to(double)
    straight = scales.view(-1, 1, 1) * from_double_angle(double)
    tables = torch.stack([evidence.log_likelihood(straight, a) for a in EXPONENTS])
    prior = 0.5 * (torch.from_numpy(LOG_SCALES).to(double) / LENGTH_SPREAD) ** 2
    costs = misfit(tables.amax((0, 1)) - tables).sum(-1) + len(double) * prior
    exponent = EXPONENTS[int(costs.amin(1).argmin())]
    radians = torch.from_numpy(2 * np.deg2rad(TURNS)).to(double)
    cos, sin = torch.cos(radians), torch.sin(radians)
    turned = torch.stack(
        (
            cos[:, None] * double[:, 0] - sin[:, None] * double[:, 1],
            sin[:, None] * double[:, 0] + cos[:, None] * double[:, 1],
        ),
        -1,
    )
    tried = scales.view(-1, 1, 1, 1) * turned
    table = evidence.log_likelihood(from_double_angle(tried), exponent)
    log_scale, turn = (t.ravel() for t in np.meshgrid(LOG_SCALES, TURNS, indexing="ij"))
    own = torch.from_numpy((log_scale / LENGTH_SPREAD) ** 2 + (turn / TURN_SPREAD) ** 2).to(double) / 2
    apart = np.square(np.subtract.outer(log_scale, log_scale) / LENGTH_STEP)
    apart += np.square(np.subtract.outer(turn, turn) / TURN_STEP)
    table, tried = table.flatten(0, 1), tried.flatten(0, 1)
    best = torch.maximum(table.amax(0), tables.amax((0, 1)))
    unary = misfit(best - table).T + own
    pairwise = torch.from_numpy(np.minimum(apart / 2, STEP_LIMIT)).to(double)
    labels = smoothest_labels(unary.view(*evidence.shape, -1), pairwise).flatten()
    start = tried[labels, torch.arange(len(double), device=double.device)].cpu().double().numpy()

    return descend(evidence, _vectors, start, _local_stiffness(start, evidence.shape), exponent, best)


def _local_stiffness(start: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return what deviations of the windows' double-angle vectors (n, 2) cost, each and from its neighbours'."""
    squared = np.square(start).sum(-1)
    stiffness = np.diag(1 / (1 + 0.01 * squared))
    cell = np.arange(len(start)).reshape(shape)
    for one, other in ((cell[:-1], cell[1:]), (cell[:, :-1], cell[:, 1:])):
        a, b = one.ravel(), other.ravel()
        pull = 1 / (1 + LENGTH_STEP**2 * squared[b])
        for i, j, sign in ((a, a, 1), (b, b, 1), (a, b, -1), (b, a, -1)):
            stiffness[i, j] += sign * pull
    return np.kron(stiffness, np.eye(2))


def improve_local(evidence: SpectralEvidence, found: Refined) -> Refined:
    """Improve what `refine_local` has found, by evidence of another floor."""
    best = evidence.log_likelihood(torch.from_numpy(from_double_angle(found.parameters)).to(found.best), found.exponent)
    start = found.parameters
    return descend(evidence, _vectors, start, _local_stiffness(start, evidence.shape), found.exponent, best)


def refine_camera(
    evidence: SpectralEvidence, design: np.ndarray, starts: np.ndarray, exponent: float, best: torch.Tensor
) -> Refined:
    """Fit the camera model to the spectra of a picture.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    design : (n, 2, 6) array
        `camera_model` at the windows.
    starts : (k, 6) array
        Parameters to start from; factors of each are tried, and the likeliest `TRIED` are improved with theirs.
    exponent, best
        As for `descend`.
    """
    scales = torch.from_numpy(np.exp(LOG_SCALES)).to(best)
    prior = len(best) * (LOG_SCALES / LENGTH_SPREAD) ** 2 / 2
    fields = torch.from_numpy(np.einsum("nij,kj->kni", design, starts)).to(best)
    tables = evidence.coarse.log_likelihood(scales.view(-1, 1, 1) * fields[:, None], exponent)
    costs = misfit(tables.amax((0, 1)) - tables).sum(-1).cpu().numpy() + prior
    answers: list[Refined] = []
    tried: list[tuple[int, int]] = []
    for flat in costs.argsort(axis=None):
        i, j = (int(index) for index in np.unravel_index(flat, costs.shape))
        # Neighbouring factors of one start end at the same place.
        if any(i == a and abs(j - b) <= 1 for a, b in tried):
            continue
        tried.append((i, j))
        start = starts[i] * np.exp(LOG_SCALES[j])
        found = _descend_camera(evidence, design, start, exponent, best)
        answers.append(replace(found, penalty=found.penalty + float(prior[j])))
        best = torch.maximum(best, found.best)
        good = float(misfit(best - found.likelihood).mean()) < EXPLAINED * OUTLIER
        if good or len(tried) == TRIED:
            break
    answer = min(answers, key=lambda a: float(misfit(best - a.likelihood).sum()) + a.penalty)
    return replace(answer, best=best)


def _descend_camera(
    evidence: SpectralEvidence, design: np.ndarray, start: np.ndarray, exponent: float, best: torch.Tensor
) -> Refined:
    """Improve one camera's motion."""
    rows = design.reshape(-1, design.shape[-1])
    stiffness = rows.T @ rows / (SHAPE_LEAST**2 + SHAPE_SPREAD**2 * np.square(design @ start).sum(-1).mean())
    return descend(evidence, lambda p: (design @ p, design), start, stiffness, exponent, best)


def improve_camera(evidence: SpectralEvidence, design: np.ndarray, found: Refined, best: torch.Tensor) -> Refined:
    """Improve what `refine_camera` has found, by evidence of another floor; `best` as for `descend`."""
    return _descend_camera(evidence, design, found.parameters, found.exponent, best)


def refine_smooth(
    evidence: SpectralEvidence, design: np.ndarray, starts: np.ndarray, exponent: float, best: torch.Tensor
) -> Refined | None:
    """Fit a cubic polynomial to the spectra of a picture.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    design : (n, 2, 20) array
        `smooth_model` at the windows.
    starts : (k, 20) array
        Parameters to start from, the first those of what it is to be better than; the likeliest `SMOOTH_TRIED` that
        differ are improved.
    exponent, best
        As for `descend`.

    Returns
    -------
    refined : Refined or None
        None if no start is so much better than the first one that it could lead to anything (`PROMISING`).
    """
    fields = np.einsum("nij,kj->kni", design, starts)
    squared = np.square(fields).sum(-1).mean(-1)
    table = evidence.coarse.log_likelihood(torch.from_numpy(fields).to(best), exponent)
    costs = misfit(torch.maximum(best, table.amax(0)) - table, TOLERANT).mean(-1)
    if float(costs[0] - costs.min()) < PROMISING:
        return None
    order = costs.argsort().tolist()
    answers: list[Refined] = []
    tried: list[int] = []
    for i in order:
        common = [2 * abs((fields[i] * fields[j]).sum(-1).mean()) for j in tried]
        if any(squared[i] + squared[j] - dot < SAME for j, dot in zip(tried, common, strict=True)):
            continue
        tried.append(i)
        stiffness = np.diag(len(best) * roughness(*ROUGHNESS) / max(squared[i], 1.0))
        start, nought = starts[i], np.zeros(starts.shape[1])
        for steps in (20, 20):
            # From the second time on nothing more is expected of a window than what was met.
            found = descend(
                evidence, lambda p: (design @ p, design), start, stiffness, exponent, best, steps, rest=nought
            )
            start, best = found.parameters, found.best
        answers.append(found)
        if len(tried) == SMOOTH_TRIED:
            break
    answer = min(answers, key=lambda a: float(misfit(best - a.likelihood, TOLERANT).sum()) + a.penalty)
    return replace(answer, best=best)


def likeliest_noise(evidence: SpectralEvidence, likelihood: Callable[[SpectralEvidence, float], torch.Tensor]) -> float:
    """Return the noise that explains a picture best: that of the evidence, or more.

    What smooths a picture after its noise was added, and quantises it, as JPEG does, leaves no trace of the noise where
    it is estimated, at the highest frequencies, but much of it where the stripes are.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    likelihood : callable
        From the evidence, with another noise, and the exponent of the scene's spectrum to the log-likelihood (n,) of
        every window.
    """
    coarse = evidence.coarse
    levels = [evidence.noise * times for times in NOISIER if times == 1 or evidence.noise * times <= MOST_NOISE]
    noisy = [coarse.with_noise(noise) for noise in levels]
    table = torch.stack([torch.stack([likelihood(e, a) for a in EXPONENTS]) for e in noisy])
    costs = misfit(table.amax((0, 1)) - table, TOLERANT).sum(-1).amin(1)
    return levels[int(costs.argmin())]


def likeliest_floor(evidence: SpectralEvidence, motion: torch.Tensor, exponent: float) -> float:
    """Return the one of `FLOORS` that explains a picture best.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    motion : (k, n, 2) tensor
        Motions of each window, in pixels; of each the likelier one counts.
    exponent : float
        Of the scene's spectrum; others are tried too, as a floor makes the spectrum fall less.
    """
    coarse = evidence.coarse
    exponents = np.clip(exponent + np.array([-0.5, 0.0, 0.5]), *EXPONENT_RANGE)
    raised = [coarse.with_floor(floor) for floor in FLOORS]
    table = torch.stack([torch.stack([e.log_likelihood(motion, float(a)).amax(0) for a in exponents]) for e in raised])
    costs = misfit(table.amax((0, 1)) - table, TOLERANT).sum(-1).amin(1)
    return FLOORS[int(costs.argmin())]


DISCS = (0.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0)
"""Radii in pixels of lenses out of focus; 0 is in focus."""


NATURAL_EXPONENTS = np.linspace(1.6, 3.8, 7)
"""Exponents of photographs that did not move; an uneven motion leaves a spectrum that falls faster, but evenly."""


def standing_still(evidence: SpectralEvidence, motion: torch.Tensor, exponent: float) -> tuple[float, float]:
    """Return how much worse than a fitted motion no motion explains a picture.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    motion : (..., n, 2) tensor
        The motion of each window, in pixels; the first one is compared, others tell how likely a window can be.
    exponent : float
        Of the scene's spectrum.

    Returns
    -------
    in_focus, out_of_focus : float
        Mean cost of a window, as a share of that of an outlier, more than the motion's: of no blur at all, and of a
        lens out of focus. The first is about 0 for sharp pictures, the second well below 0 for those out of focus.
    """
    coarse = evidence.coarse
    moved = coarse.log_likelihood(motion, exponent).view(-1, motion.shape[-2])
    radii = torch.tensor(DISCS, device=evidence.device)
    table = torch.stack([coarse.log_likelihood_of_discs(radii, float(a)) for a in NATURAL_EXPONENTS])
    best = torch.maximum(moved.amax(0), table.amax((0, 1)))
    costs = misfit(best - table).mean(-1).amin(0) - misfit(best - moved[0]).mean()
    return float(costs[0]) / OUTLIER, float(costs[1:].min()) / OUTLIER
