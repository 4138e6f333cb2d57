"""Motion without learning: the likelihood of a window's power spectrum under each motion of the bank.

The gradients of a sharp picture have nearly a white spectrum. A linear motion multiplies it by the squared transfer
function of its kernel, whose dark stripes lie across the motion, at distances of one over its length: what the cepstrum
and the first negative peak of the derivative's autocorrelation also look at, one frequency or one shift at a time. Here
all frequencies of a window speak (Whittle's likelihood of a stationary process: each |Y(f)|^2 is exponential about its
expectation, the taper's smear included), with the strength of the texture and of the noise set free for each window. A
window in which one edge dominates is no such process; gradients are divided by their local energy and limited, and
neighbours decide together.

References
----------
A. Chakrabarti, T. Zickler and W. T. Freeman, "Analyzing spatially-varying blur", CVPR 2010, which is the idea for
horizontal and vertical motion. P. Whittle, "Estimation and information in stationary time series", Ark. Mat. 2, 1953.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from ircdeblur.experiments.motion_baselines.smoothing import smooth
from ircdeblur.kernels import MotionBank, linear_motion_kernel


@dataclass(frozen=True)
class SpectralSettings:
    """Chosen on the 24 validation pictures of `ircdeblur.training.motion_net.ValidationPictures`.

    There the motion MSE is 5.9 moderate (median 4.4) and 8.7 severe (median 3.3).

    Attributes
    ----------
    window : int
        Side of the windows in pixels.
    step : int
        Pixels between them.
    slopes : tuple of float
        The power spectrum of sharp pictures, after the division by the local energy, falls as the frequency to minus
        one of these, which are tried for each window.
    noise : tuple of float
        Power of the noise relative to that of the sharp gradients; tried likewise.
    band : (float, float)
        Lowest and highest frequency that count, cycles per pixel.
    trust : float
        Factor of the log-likelihood: neighbouring frequencies and overlapping windows do not speak independently, and
        no picture is just such a process.
    strength, limit, radius : float
        See `smoothing.smooth`.
    """

    window: int = 128
    step: int = 32
    slopes: tuple[float, ...] = (1.8,)
    noise: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    band: tuple[float, float] = (0.008, 0.45)
    trust: float = 0.006
    strength: float = 0.16
    limit: float = 25.0
    radius: float = 3.0


@lru_cache(maxsize=2)
def _templates(settings: SpectralSettings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the expected spectra, (slopes x levels of noise, 511, F), the taper, and the mask of the F frequencies."""
    n = settings.window
    fy, fx = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]
    frequency = np.hypot(fy, fx)
    # The column fx = 0 holds every frequency twice.
    inside = (frequency >= settings.band[0]) & (frequency <= settings.band[1]) & ((fx > 0) | (fy > 0))
    gradient = 4 * (np.sin(np.pi * fx) ** 2 + np.sin(np.pi * fy) ** 2)
    taper = np.hanning(n + 2)[1:-1]
    taper = np.outer(taper, taper).astype(np.float32)
    # A window sees the spectrum smeared by the taper's: its autocorrelation times the taper's.
    fading = np.fft.irfft2(np.abs(np.fft.rfft2(taper)) ** 2, s=(n, n))
    fading /= fading[0, 0]

    def seen(spectrum: np.ndarray) -> np.ndarray:
        return np.maximum(np.fft.rfft2(np.fft.irfft2(spectrum, s=(n, n)) * fading).real[inside], 0)

    transfers = np.stack([_transfer(length, angle, n) for length, angle in MotionBank().motions]).astype(np.float32)
    flat = seen(gradient)
    expected = []
    for slope in settings.slopes:
        sharp = gradient * np.maximum(frequency, 1 / n) ** -slope
        smeared = np.stack([seen(transfer * sharp) for transfer in transfers])
        # The sharp picture, which is the bank's first motion, has the power 1.
        smeared /= smeared[0].mean()
        expected += [smeared + level * flat / flat.mean() for level in settings.noise]
    return torch.from_numpy(np.stack(expected).astype(np.float32)), torch.from_numpy(taper), torch.from_numpy(inside)


def _transfer(length: float, angle: float, n: int) -> np.ndarray:
    """Return the squared transfer function, (n, n / 2 + 1), as the mean over the motions that a bank's one stands for.

    That of the one alone has dark stripes at frequencies where a motion a degree or a pixel off has none.
    """
    if length <= 1:
        return np.ones((n, n // 2 + 1))
    kernels = np.zeros((12, n, n), np.float32)
    offsets = itertools.product((-0.8, 0, 0.8), (-3, -1, 1, 3))
    for padded, (more, turn) in zip(kernels, offsets, strict=True):
        kernel = linear_motion_kernel(length + more, angle + turn)
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
    return (np.abs(np.fft.rfft2(kernels)) ** 2).mean(0)


def gradients(luma: torch.Tensor, window: int = 31, floor: float = 0.03, limit: float = 3.0) -> torch.Tensor:
    """Return the first differences of (H, W), over the root of their local energy and limited, as (2, H, W)."""
    padded = F.pad(luma[None, None], (0, 1, 0, 1), mode="replicate")[0, 0]
    pair = torch.stack((padded[:-1, 1:] - luma, padded[1:, :-1] - luma))
    energy = F.pad((pair**2).sum(0)[None, None], (window // 2,) * 4, mode="replicate")
    energy = F.avg_pool2d(F.avg_pool2d(energy, (window, 1), 1), (1, window), 1)[0]
    return (pair / torch.sqrt(energy + floor**2)).clamp(-limit, limit)


def spectral_evidence(luma: torch.Tensor, settings: SpectralSettings) -> torch.Tensor:
    """Return the log-likelihood of each motion of the bank in windows.

    Parameters
    ----------
    luma : (H, W) float32 tensor
        Luminance in [0, 1].

    Returns
    -------
    evidence : (ceil(H / step), ceil(W / step), 511) tensor
        Of cells of step pixels; a cell's window is centred on it, or near the border as far as it goes.
    """
    expected, taper, inside = _templates(settings)
    n, step = settings.window, settings.step
    height, width = luma.shape
    rows, columns = -(-height // step), -(-width // step)
    # Nothing is made up beyond the border: a reflection would show the motion reflected.
    pair = F.pad(gradients(luma), (0, max(n - width, 0), 0, max(n - height, 0)))
    starts = [
        [min(max(i * step + step // 2 - n // 2, 0), max(length - n, 0)) for i in range(count)]
        for length, count in ((height, rows), (width, columns))
    ]
    patches = torch.stack([pair[:, y : y + n, x : x + n] for y in starts[0] for x in starts[1]], 1) * taper
    power = torch.stack([p.abs().square()[:, inside] for p in torch.fft.rfft2(patches)]).sum(0)
    power = power / power.mean(1, keepdim=True).clamp(min=1e-12)
    best = torch.full((len(power), expected.shape[1]), -torch.inf)
    for level in expected:
        # The strength of the texture is the one that fits best.
        scale = torch.log((power @ (1 / level).T / level.shape[1]).clamp(min=1e-12))
        best = torch.maximum(best, -(scale + torch.log(level).mean(1)))
    return (best * level.shape[1] * settings.trust).view(rows, columns, -1)


def spectral_motion(luma: torch.Tensor, settings: SpectralSettings | None = None) -> torch.Tensor:
    """Return the motion of a picture, double-angle (H, W, 2) in pixels.

    Parameters
    ----------
    luma : (H, W) float32 tensor
        Luminance in [0, 1].
    settings : SpectralSettings, optional
        By default those that are best on the validation photographs.
    """
    settings = settings or SpectralSettings()
    double = smooth(spectral_evidence(luma, settings), settings.strength, settings.limit, settings.radius)
    full = F.interpolate(
        double.permute(2, 0, 1)[None], scale_factor=settings.step, mode="bilinear", align_corners=False
    )
    return full[0, :, : luma.shape[0], : luma.shape[1]].permute(1, 2, 0)
