"""Motions that are fitted to the spectra of a picture: a smooth field, and a camera's.

Both start from what a network found and maximise the likelihood of `ircdeblur.nets.evidence`, robustly: a window where
something else happens must not bend the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import minimize

from ircdeblur.motion import from_double_angle
from ircdeblur.nets.evidence import SpectralEvidence

LOG_SCALES = np.linspace(-0.56, 0.56, 9)
TURNS = np.linspace(-24.0, 24.0, 5)
EXPONENTS, EXPONENT_RANGE = (2.4, 3.2, 4.0), (1.6, 6.0)
"""Factors of the length (their logarithms), turns in degrees, and exponents of the scene's spectrum that are tried."""

LENGTH_SPREAD, TURN_SPREAD = 0.3, 12.0
"""How far the network's lengths may be off, relatively, and its angles, in degrees."""

LENGTH_STEP, TURN_STEP, STEP_LIMIT = 0.08, 4.0, 8.0
"""How far its errors may differ between neighbouring windows, and the largest cost of a greater difference."""

SHAPE_SPREAD = 0.1
"""How far, relative to the length, a camera's motion may be off in anything but all lengths together."""

TRIED, EXPLAINED = 6, 0.5
"""Starts of a camera's motion that are improved, and the mean cost of the windows, relative to that of an outlier, at
which one of them is good enough."""

OUTLIER = 10.0
"""Logarithm of a likelihood ratio at which a window stops counting: something is in it that the model does not know."""

GRADUATION = (60.0, OUTLIER)
"""The same while a motion is being improved: at first it may be so far off that all windows would be outliers."""


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
    # Messages into each cell from above, below, left and right.
    messages = torch.zeros(4, *unary.shape, dtype=unary.dtype, device=unary.device)
    into = ((1, 0), (-1, 0), (0, 1), (0, -1))
    for _ in range(sweeps):
        total = unary + messages.sum(0)
        fresh = torch.zeros_like(messages)
        for i, (down, right) in enumerate(into):
            # What a cell tells a neighbour leaves out what that neighbour has told it.
            told = total - messages[i ^ 1]
            told = (told[..., None, :] + pairwise).amin(-1)
            told = told - told.amin(-1, keepdim=True)
            h, w = unary.shape[:2]
            target = (slice(max(down, 0), h + min(down, 0)), slice(max(right, 0), w + min(right, 0)))
            source = (slice(max(-down, 0), h + min(-down, 0)), slice(max(-right, 0), w + min(-right, 0)))
            fresh[i][target] = told[source]
        messages = 0.5 * (messages + fresh)
    return (unary + messages.sum(0)).argmin(-1)


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
    cost : float
        What was minimised.
    best : (n,) tensor
        The largest likelihood of each window that was met.
    """

    parameters: np.ndarray
    exponent: float
    likelihood: torch.Tensor
    cost: float
    best: torch.Tensor


def descend(
    evidence: SpectralEvidence,
    motion: Callable[[torch.Tensor], torch.Tensor],
    start: np.ndarray,
    penalty: Callable[[torch.Tensor], torch.Tensor],
    exponent: float,
    best: torch.Tensor,
    steps: int = 12,
) -> Refined:
    """Improve a motion on the spectra of a picture by a quasi-Newton method.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    motion : callable
        From parameters to the motions (n, 2) of the windows, in pixels; differentiable.
    start : array
        Parameters to start from.
    penalty : callable
        Of a deviation of the parameters from there; differentiable.
    exponent : float
        Of the scene's spectrum, to start from.
    best : (n,) tensor
        Likelihoods that every window can reach.
    steps : int
        Of the method, for each value of `GRADUATION`.
    """
    origin = torch.from_numpy(start).to(best)

    def cost(values: np.ndarray, limit: float) -> tuple[float, np.ndarray]:
        deviation = torch.from_numpy(values[:-1]).to(best).view(origin.shape).requires_grad_()
        with torch.enable_grad():
            field, extra = motion(origin + deviation), penalty(deviation)
        found, by_motion, by_exponent = evidence.slopes(field.detach(), float(values[-1]))
        shortfall = best - found
        weight = torch.exp(-shortfall.clamp(min=0) / limit)
        (slope,) = torch.autograd.grad(
            (field, extra), deviation, (-weight[:, None] * by_motion, torch.ones_like(extra))
        )
        gradient = np.append(slope.flatten().cpu().numpy(), float(-(weight * by_exponent).sum()))
        return float(misfit(shortfall, limit).sum() + extra.detach()), gradient.astype(np.float64)

    values = np.append(np.zeros(start.size), exponent)
    bounds = [(None, None)] * start.size + [EXPONENT_RANGE]
    for limit in GRADUATION:
        # A change of the cost by a thousandth moves nothing by more than a hundredth of a pixel.
        options = {"maxiter": steps, "maxcor": 8, "ftol": 1e-3, "maxls": 5}
        result = minimize(cost, values, limit, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        values = result.x
    parameters = start + result.x[:-1].reshape(start.shape)
    with torch.no_grad():
        found = evidence.log_likelihood(motion(torch.from_numpy(parameters).to(best)), float(result.x[-1]))
    return Refined(parameters, float(result.x[-1]), found, float(result.fun), torch.maximum(best, found))


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
    with torch.no_grad():
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
        table = torch.stack([evidence.log_likelihood(from_double_angle(row), exponent) for row in tried])
        best = torch.maximum(table.amax((0, 1)), tables.amax((0, 1)))
        log_scale, turn = (t.ravel() for t in np.meshgrid(LOG_SCALES, TURNS, indexing="ij"))
        own = torch.from_numpy((log_scale / LENGTH_SPREAD) ** 2 + (turn / TURN_SPREAD) ** 2).to(double) / 2
        apart = np.square(np.subtract.outer(log_scale, log_scale) / LENGTH_STEP)
        apart += np.square(np.subtract.outer(turn, turn) / TURN_STEP)
        unary = misfit(best - table).flatten(0, 1).T + own
        pairwise = torch.from_numpy(np.minimum(apart / 2, STEP_LIMIT)).to(double)
        labels = smoothest_labels(unary.view(*evidence.shape, -1), pairwise).flatten()
        start = tried.flatten(0, 1)[labels, torch.arange(len(double), device=double.device)]

    spread = 1 + (0.1 * start.norm(dim=-1)) ** 2
    rows, columns = evidence.shape
    stiff = (1 + (LENGTH_STEP * start.norm(dim=-1)) ** 2).view(rows, columns)

    def penalty(deviation: torch.Tensor) -> torch.Tensor:
        grid = deviation.view(rows, columns, 2)
        down = (grid[1:] - grid[:-1]).square().sum(-1) / stiff[1:]
        right = (grid[:, 1:] - grid[:, :-1]).square().sum(-1) / stiff[:, 1:]
        return 0.5 * ((deviation.square().sum(-1) / spread).sum() + down.sum() + right.sum())

    return descend(evidence, from_double_angle, start.double().cpu().numpy(), penalty, exponent, best)


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
    rows = torch.from_numpy(design).to(best)
    scales = torch.from_numpy(np.exp(LOG_SCALES)).to(best)
    prior = len(best) * (LOG_SCALES / LENGTH_SPREAD) ** 2 / 2
    with torch.no_grad():
        fields = [scales.view(-1, 1, 1) * (rows @ torch.from_numpy(start).to(best)) for start in starts]
        tables = torch.stack([evidence.log_likelihood(field, exponent) for field in fields])
    best = torch.maximum(best, tables.amax((0, 1)))
    costs = misfit(best - tables).sum(-1).cpu().numpy() + prior
    answers = []
    tried: list[tuple[int, int]] = []
    for flat in costs.argsort(axis=None):
        i, j = (int(index) for index in np.unravel_index(flat, costs.shape))
        # Neighbouring factors of one start end at the same place.
        if any(i == a and abs(j - b) <= 1 for a, b in tried):
            continue
        tried.append((i, j))
        start = starts[i] * np.exp(LOG_SCALES[j])
        variance = 1 + SHAPE_SPREAD**2 * float(np.square(design @ start).sum(-1).mean())

        def penalty(deviation: torch.Tensor, variance: float = variance) -> torch.Tensor:
            return (rows @ deviation).square().sum() / (2 * variance)

        found = descend(evidence, lambda parameters: rows @ parameters, start, penalty, exponent, best)
        answers.append(replace(found, cost=found.cost + float(prior[j])))
        good = float(misfit(found.best - found.likelihood).mean()) < EXPLAINED * OUTLIER
        if good or len(tried) == TRIED:
            break
    return min(answers, key=lambda answer: answer.cost)


DISCS = (0.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0)
"""Radii in pixels of lenses out of focus; 0 is in focus."""


NATURAL_EXPONENTS = np.linspace(1.6, 3.8, 7)
"""Exponents of photographs that did not move; an uneven motion leaves a spectrum that falls faster, but evenly."""


def standing_still(evidence: SpectralEvidence, moved: Refined) -> tuple[float, float]:
    """Return how much worse than a fitted motion no motion explains a picture.

    Parameters
    ----------
    evidence : SpectralEvidence
        Of the picture.
    moved : Refined
        The motion.

    Returns
    -------
    in_focus, out_of_focus : float
        Mean cost of a window, as a share of that of an outlier, more than the motion's: of no blur at all, and of a
        lens out of focus. The first is about 0 for sharp pictures, the second well below 0 for those out of focus.
    """
    radii = torch.tensor(DISCS, device=evidence.device)
    with torch.no_grad():
        table = torch.stack([evidence.log_likelihood_of_discs(radii, float(a)) for a in NATURAL_EXPONENTS])
    best = torch.maximum(moved.best, table.amax((0, 1)))
    costs = misfit(best - table).mean(-1).amin(0) - misfit(best - moved.likelihood).mean()
    return float(costs[0]) / OUTLIER, float(costs[1:].min()) / OUTLIER
