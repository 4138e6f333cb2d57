"""From a photograph to its motion field: Motion-Net, then the consolidation of what it saw.

The network answers for each place on its own. A camera that shook has only a few degrees of freedom, so its motion is
fitted to all answers at once, each with the weight of its confidence; where the picture confidently disagrees with the
camera (something moved on its own), a locally smooth field takes over. Last, the length of all vectors is tried out: a
deconvolution by too short or too long a motion leaves a less sparse picture than the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ircdeblur.kernels import MAX_LENGTH
from ircdeblur.motion import from_double_angle, to_double_angle
from ircdeblur.nets.motion_net import STRIDE
from ircdeblur.operators import MotionBlur
from ircdeblur.solvers.settings import Settings, deconvolve

_STARTS = 400
_REFINED = 6
_STEPS = 25


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
        Share of the confident places at which the camera model holds, in [0, 1].
    """

    motion: torch.Tensor
    error: torch.Tensor
    camera_share: float


def camera_model(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the motion of a camera before a distant or plane scene as linear in six parameters.

    Translation along three axes and rotation about three; the unknown focal length is absorbed, as it only scales the
    parameters.

    Parameters
    ----------
    x, y : (N,) arrays
        Coordinates from the middle of the picture, in units of about half its size.

    Returns
    -------
    design : (N, 2, 6) array
        Rows for u and v.
    """
    one, zero = np.ones_like(x), np.zeros_like(x)
    u = np.stack((one, zero, x, y, x * y, x * x), -1)
    v = np.stack((zero, one, y, -x, y * y, x * y), -1)
    return np.stack((u, v), axis=1)


def fit_camera(
    motion: np.ndarray, error: np.ndarray, x: np.ndarray, y: np.ndarray, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the camera model to vectors of unknown sign.

    Random minimal samples (three vectors, signs at random) give starts; the best are refined by iteratively reweighted
    least squares, where the sign of each vector is chosen anew in each step.

    Parameters
    ----------
    motion : (N, 2) array
        Vectors in pixels; each may as well be its negative.
    error : (N,) array
        Expected error of each, in pixels.
    x, y : (N,) arrays
        As for `camera_model`.
    seed : int
        Of the random samples.

    Returns
    -------
    parameters : (6,) array
        Of `camera_model`.
    distance : (N,) array
        Of each vector from the model, in pixels.
    """
    rng = np.random.default_rng(seed)
    design = camera_model(x, y)
    weight = 1.0 / np.maximum(error, 0.25)
    chance = weight / weight.sum()

    def distances(parameters: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        model = np.einsum("nij,kj->kni", rows, parameters)
        plus = np.square(model - vectors).sum(-1)
        minus = np.square(model + vectors).sum(-1)
        return np.sqrt(np.minimum(plus, minus))

    def ridge(a: np.ndarray, b: np.ndarray, amount: float) -> np.ndarray:
        # Fast changes across the picture are rarer than plain shifts.
        penalty = amount * np.array([0.0, 0.0, 1.0, 1.0, 3.0, 3.0]) + 1e-9
        return np.linalg.solve(a + penalty * np.eye(6), b[..., None])[..., 0]

    picks = rng.choice(len(x), size=(_STARTS, 3), p=chance)
    signs = rng.choice((-1.0, 1.0), size=(_STARTS, 3, 1))
    rows = design[picks].reshape(_STARTS, 6, 6)
    values = (motion[picks] * signs).reshape(_STARTS, 6)
    starts = ridge(rows.transpose(0, 2, 1) @ rows, np.einsum("kij,ki->kj", rows, values), 1e-3)
    # Plain shifts in the directions that the vectors have.
    shifts = np.zeros((16, 6))
    shifts[:, :2] = motion[rng.choice(len(x), size=16, p=chance)]
    starts = np.concatenate((starts, shifts))
    sample = rng.choice(len(x), size=min(len(x), 400), replace=False)
    cost = (weight[sample] * np.minimum(distances(starts, design[sample], motion[sample]), 12.0)).sum(-1)
    best, best_cost = starts[0], np.inf
    for start in starts[np.argsort(cost)[:_REFINED]]:
        parameters = start
        for _ in range(_STEPS):
            model = design @ parameters
            signed = np.where((model * motion).sum(-1, keepdims=True) < 0, -motion, motion)
            away = np.sqrt(np.square(model - signed).sum(-1))
            w = weight / np.maximum(away, np.maximum(0.5, 0.5 * error))
            a = np.einsum("n,nij,nik->jk", w, design, design)
            b = np.einsum("n,nij,ni->j", w, design, signed)
            parameters = ridge(a, b, 1e-3 * w.sum())
        distance = distances(parameters[None], design, motion)[0]
        total = (weight * np.minimum(distance, 12.0)).sum()
        if total < best_cost:
            best, best_cost = parameters, total
    return best, distances(best[None], design, motion)[0]


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


def consolidate(double: torch.Tensor, error: torch.Tensor, seed: int = 0) -> MotionEstimate:
    """Turn Motion-Net's raw answer into a motion field.

    Parameters
    ----------
    double : (H, W, 2) tensor
        Double-angle vectors in pixels.
    error : (H, W) tensor
        Expected error of each double-angle vector, in pixels; that of the vector itself is between half of it
        (across) and all of it (along).
    seed : int
        Of the camera fit.

    Returns
    -------
    estimate : MotionEstimate
    """
    height, width = error.shape
    grid = (max(1, height // STRIDE), max(1, width // STRIDE))

    def to_grid(planes: torch.Tensor) -> torch.Tensor:
        return F.interpolate(planes[None], size=grid, mode="area")[0]

    raw = to_grid(double.permute(2, 0, 1)).permute(1, 2, 0)
    spread = to_grid(error[None])[0]
    local, local_error = smooth_field(raw, spread, sigma=1.0)

    half = max(height, width) / 2
    rows = (torch.arange(grid[0], dtype=torch.float64) + 0.5) * height / grid[0] - height / 2
    columns = (torch.arange(grid[1], dtype=torch.float64) + 0.5) * width / grid[1] - width / 2
    y, x = (t.reshape(-1).numpy() / half for t in torch.meshgrid(rows, columns, indexing="ij"))
    vectors = from_double_angle(raw).reshape(-1, 2).double().cpu().numpy()
    errors = spread.reshape(-1).double().cpu().numpy()
    parameters, _ = fit_camera(vectors, errors, x, y, seed)
    camera_vectors = torch.from_numpy(camera_model(x, y) @ parameters).float().reshape(*grid, 2).to(raw)
    camera = to_double_angle(camera_vectors)

    # How far the smoothed answer is from the camera, in units of what it may be off by itself.
    away = (local - camera).norm(dim=-1) / (local_error + 1.0)
    trust = torch.sigmoid(4.0 * (CAMERA_TOLERANCE - away))
    confident = spread <= spread.median()
    share = float(trust[confident].mean())
    mixed = camera * trust[..., None] + local * (1 - trust[..., None])
    mixed_error = torch.minimum(local_error, spread) * (0.5 * trust + (1 - trust))

    def to_full(planes: torch.Tensor) -> torch.Tensor:
        return F.interpolate(planes[None], size=(height, width), mode="bilinear", align_corners=False)[0]

    full = to_full(mixed.permute(2, 0, 1)).permute(1, 2, 0)
    return MotionEstimate(from_double_angle(full), to_full(mixed_error[None])[0], share)


CAMERA_TOLERANCE = 2.5
"""Where the local answer is farther from the camera model than this many times its own error, it is believed."""


@torch.no_grad()
def estimate(
    net: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    image: torch.Tensor,
    consolidated: bool = True,
) -> MotionEstimate:
    """Estimate the motion of one photograph.

    Parameters
    ----------
    net : MotionNet or callable
        What answers as `MotionNet.forward` does.
    image : (1, 1 or 3, H, W) tensor
        In [0, 1].
    consolidated : bool
        Fit the camera and smooth; without, the network's raw answer is returned.
    """
    double, error = net(image)
    if consolidated:
        return consolidate(double[0], error[0])
    return MotionEstimate(from_double_angle(double[0]), error[0], 0.0)


REFINE_WINDOW = 192
REFINE_SCALES = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
REFINE_CENTRE = 0.9
REFINE_STIFFNESS = 0.4
"""Expected factor of the length (the network's answers are on average too long) and what a deviation from it costs;
chosen on validation photographs, as the scales were."""

REFINE_PRIOR = 10.0
"""Strength of the prior of these deconvolutions. On 12 validation photographs the motion MSE became 3.2 (moderate) and
3.4 (severe) with it, 3.5 and 3.4 with the 5.5 of a known motion, and 5.0 and 5.5 without the refinement."""


def busiest_window(luma: torch.Tensor, side: int) -> tuple[slice, slice]:
    """Return the square window (or as much of it as fits) with the most gradient energy, on a grid of side / 4."""
    dx, dy = luma[..., 1:, 1:] - luma[..., 1:, :-1], luma[..., 1:, 1:] - luma[..., :-1, 1:]
    size = tuple(min(side, n) for n in luma.shape[-2:])
    energy = F.avg_pool2d(dx**2 + dy**2, tuple(max(1, n - 1) for n in size), max(1, side // 4))
    top, left = (int(i) * max(1, side // 4) for i in np.unravel_index(int(energy.argmax()), energy.shape[-2:]))
    return slice(top, top + size[0]), slice(left, left + size[1])


@torch.no_grad()
def length_factor(luma: torch.Tensor, motion: torch.Tensor, noise: float) -> float:
    """Find by how much the length of an estimated motion should be multiplied.

    The window with the most detail is deconvolved by the motion times each of `REFINE_SCALES`; the least normalised
    sparsity of the gradients, their mean absolute value over their root mean square, wins, with a parabola through it
    and its neighbours.

    Parameters
    ----------
    luma : (1, 1, H, W) tensor
        Blurred photograph in [0, 1].
    motion : (H, W, 2) tensor
        Estimated motion in pixels.
    noise : float
        Standard deviation of the noise.

    Returns
    -------
    factor : float
        Between the first and the last of the scales; 1 where nothing moved or the picture is too small to tell.

    References
    ----------
    D. Krishnan, T. Tay, R. Fergus, "Blind deconvolution using a normalized sparsity measure", CVPR 2011.
    """
    if min(luma.shape[-2:]) < REFINE_WINDOW // 3:
        return 1.0
    rows, columns = busiest_window(luma, REFINE_WINDOW)
    y, field = luma[..., rows, columns].contiguous(), motion[rows, columns]
    if float(field.norm(dim=-1).median()) < 2.0:
        return 1.0
    settings = Settings(prior=REFINE_PRIOR, iterations=20)
    rim = 8
    scores = []
    for scale in REFINE_SCALES:
        scaled = limit_length(field * scale)
        x = deconvolve(y, MotionBlur(scaled.contiguous(), boundary="extended"), noise, "irc-mm", settings).x
        x = x[..., rim:-rim, rim:-rim]
        dx, dy = x[..., 1:, 1:] - x[..., 1:, :-1], x[..., 1:, 1:] - x[..., :-1, 1:]
        g = torch.cat((dx, dy)).abs() + 1e-3
        sparsity = float(torch.log(g.mean() / g.square().mean().sqrt()))
        scores.append(sparsity + REFINE_STIFFNESS * float(np.log(scale / REFINE_CENTRE)) ** 2)
    best = int(np.argmin(scores))
    if best in (0, len(scores) - 1):
        return REFINE_SCALES[best]
    before, middle, after = scores[best - 1 : best + 2]
    step = REFINE_SCALES[best + 1] - REFINE_SCALES[best]
    return REFINE_SCALES[best] + 0.5 * step * (before - after) / max(before - 2 * middle + after, 1e-9)


def limit_length(motion: torch.Tensor) -> torch.Tensor:
    """Shorten vectors (..., 2) beyond the longest motion that the inverse filters know."""
    return motion * (MAX_LENGTH / motion.norm(dim=-1, keepdim=True).clamp(min=MAX_LENGTH))
