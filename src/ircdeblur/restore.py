"""The four public functions: arrays in, arrays of the same kind out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ircdeblur.data.light import linear_to_srgb, srgb_to_linear
from ircdeblur.motion import CERTAIN, DOUBTFUL, STILL, check_motion, to_polar
from ircdeblur.nets.blind import CONSOLIDATIONS, MotionEstimate, Net, estimate
from ircdeblur.nets.checkpoints import MOTION_NETS, load_motion_net, motion_net_path
from ircdeblur.nets.methods import DEFAULT_METHOD, check_method
from ircdeblur.nets.methods import deconvolve as run_method
from ircdeblur.nets.onnx import Runtime, check_runtime, motion_net_of
from ircdeblur.operators import MotionBlur, UniformBlur
from ircdeblur.psf import check_psf
from ircdeblur.solvers.settings import DEFAULTS, Settings, estimate_noise, unsaturated

Image = Any
Tile = int | Literal["auto"] | None
Progress = Callable[[int, int], None]

WHOLE_PIXELS = 1_500_000
"""Photographs of at most this many pixels are restored in one piece."""

TILE = 768
"""Side of the tiles of larger photographs."""

OVERLAP = 64
"""Pixels that neighbouring tiles share on each side, blended into each other."""

BLIND_PRIOR = 1.6
"""How many times stronger the prior is when the motion is estimated, as it is never exact. On twelve validation
photographs 1.0, 1.5 and 2.5 gained 4.5, 4.4 and 4.0 dB (moderate) and 5.9, 5.7 and 5.3 dB (severe); real motions, which
are neither straight nor even, ring less with more."""

DOUBT = 0.1
"""Share of the expected error of the motion that the networks are told of. The stated errors are some three times too
large, and the networks, told of an error, expect other faults of the model with it. On eight validation photographs
and the motions found, 0, 0.1, 0.25, 0.5 and 1 gained 3.5, 3.4, 3.2, 3.0 and 2.6 dB; a little is kept for motions that
are found wrongly."""


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How an image came: to give the result back the same way."""

    is_torch: bool
    ndim: int
    dtype: Any
    device: torch.device
    low: float
    high: float
    channel_axis: int = -1

    def back(self, x: torch.Tensor) -> Any:
        """Return (B, C, H, W) in the form, scale and type of the input."""
        if self.is_torch:
            image: Any = x if self.ndim == 4 else x[0] if self.ndim == 3 else x[0, 0]
        else:
            image = (x[0, 0] if self.ndim == 2 else x[0].permute(1, 2, 0)).cpu().numpy()
            image = image if self.ndim == 2 else np.moveaxis(image, -1, self.channel_axis)
        if self.dtype in _SCALES:
            image = (image * _SCALES[self.dtype]).round()
            image = image.clip(0, _SCALES[self.dtype])
        else:
            image = image.clip(self.low, self.high)
        return image.to(self.device, self.dtype) if self.is_torch else np.ascontiguousarray(image.astype(self.dtype))

    def fields(self, parts: list[torch.Tensor]) -> Any:
        """Return what belongs to each image of a batch, (H, W, ...), as one array or tensor, or one for the batch."""
        field = torch.stack(parts) if self.is_torch and self.ndim == 4 else parts[0]
        return field.to(self.device) if self.is_torch else field.cpu().numpy()


_SCALES: dict[Any, float] = {
    np.dtype(np.uint8): 255.0,
    np.dtype(np.uint16): 65535.0,
    torch.uint8: 255.0,
    torch.uint16: 65535.0,
}


def _read(image: Any, device: torch.device, channel_axis: int = -1) -> tuple[torch.Tensor, _Kind]:
    """Return an image as a (B, C, H, W) float32 tensor in [0, 1], and how to give the result back."""
    if isinstance(image, torch.Tensor):
        if image.ndim not in (2, 3, 4):
            raise ValueError(f"a torch image must be (H, W), (C, H, W) or (B, C, H, W), got {tuple(image.shape)}")
        dtype: Any = image.dtype
        if not (image.is_floating_point() or dtype in _SCALES):
            raise TypeError(f"image must be float, uint8 or uint16, got {dtype}")
        x = image.detach().to(device, torch.float32)
        x = x.reshape((1,) * (4 - x.ndim) + tuple(x.shape))
        is_torch, source = True, image.device
    else:
        array = np.asarray(image)
        if array.ndim not in (2, 3):
            raise ValueError(f"image must have shape (H, W) or (H, W, C), got {array.shape}")
        if channel_axis not in range(-3, 3):
            raise ValueError(f"channel_axis must be one of the three axes of an image, got {channel_axis!r}")
        array = array if array.ndim == 2 else np.moveaxis(array, channel_axis, -1)
        dtype = array.dtype
        if not (array.dtype.kind == "f" or dtype in _SCALES):
            raise TypeError(f"image must be float, uint8 or uint16, got {dtype}")
        x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(device)
        x = x[None, None] if array.ndim == 2 else x.permute(2, 0, 1)[None]
        is_torch, source = False, torch.device("cpu")
    if x.numel() == 0:
        raise ValueError(f"image is empty: shape {tuple(image.shape)}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("image contains NaN or infinity")
    x = x / _SCALES[dtype] if dtype in _SCALES else x
    low, high = min(0.0, float(x.min())), max(1.0, float(x.max()))
    return x.contiguous(), _Kind(is_torch, image.ndim, dtype, source, low, high, channel_axis)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device for a name; "auto" is the first GPU if there is one, else the CPU."""
    if isinstance(device, torch.device):
        return device
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        if chosen.type not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError("not a device to compute on")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ValueError(f"device {device!r} is not available here; use 'auto' or 'cpu'") from error
    return chosen


@functools.lru_cache(maxsize=2)
def _motion_net(device: torch.device, name: str, runtime: Runtime = "torch") -> Net:
    if runtime != "torch":
        return motion_net_of(runtime, name, device)
    return load_motion_net(motion_net_path(name)).to(device)


def _tile_side(tile: Tile, shape: tuple[int, int]) -> int | None:
    """Return the side of the tiles, or None for the whole picture."""
    if tile is None:
        return None
    if tile == "auto":
        return None if shape[0] * shape[1] <= WHOLE_PIXELS else TILE
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 4 * OVERLAP:
        raise ValueError(f"tile must be 'auto', None or at least {4 * OVERLAP} pixels, got {tile!r}")
    return None if tile >= max(shape) else tile


def _spans(length: int, tile: int) -> list[tuple[int, int]]:
    """Return starts and stops of tiles that cover a length and share 2 * OVERLAP pixels or more."""
    if length <= tile:
        return [(0, length)]
    count = -(-(length - 2 * OVERLAP) // (tile - 2 * OVERLAP))
    starts = np.linspace(0, length - tile, count).round().astype(int)
    return [(int(s), int(s) + tile) for s in starts]


def _ramp(start: int, stop: int, length: int) -> torch.Tensor:
    """Return the weight of a tile along one axis: rising over the pixels that it shares with its neighbours."""
    # The outermost OVERLAP / 2 pixels are not used at all: there the tile's border is felt most.
    n = stop - start
    position = torch.arange(n, dtype=torch.float32)
    rise = ((position - OVERLAP / 2 + 0.5) / OVERLAP).clamp(1e-6, 1.0)
    fall = ((n - 1 - position - OVERLAP / 2 + 0.5) / OVERLAP).clamp(1e-6, 1.0)
    weight = torch.ones(n)
    if start > 0:
        weight = weight * rise
    if stop < length:
        weight = weight * fall
    return weight


def _in_tiles(
    restore: Callable[[slice, slice], torch.Tensor],
    shape: tuple[int, int],
    tile: int | None,
    progress: Progress | None,
) -> torch.Tensor:
    """Run `restore` on windows of the picture and blend what it returns, (B, C, h, w), into (B, C, H, W)."""
    if tile is None:
        whole = restore(slice(0, shape[0]), slice(0, shape[1]))
        if progress is not None:
            progress(1, 1)
        return whole
    windows = [(r, c) for r in _spans(shape[0], tile) for c in _spans(shape[1], tile)]
    total: torch.Tensor | None = None
    weights = torch.zeros(shape)
    for done, ((top, bottom), (left, right)) in enumerate(windows, start=1):
        part = restore(slice(top, bottom), slice(left, right))
        weight = _ramp(top, bottom, shape[0])[:, None] * _ramp(left, right, shape[1])
        if total is None:
            total = part.new_zeros((*part.shape[:2], *shape))
        total[..., top:bottom, left:right] += part * weight.to(part)
        weights[top:bottom, left:right] += weight
        if progress is not None:
            progress(done, len(windows))
    assert total is not None
    return total.div_(weights.to(total))


def _estimate(
    x: torch.Tensor, tile: int | None, size: str, consolidation: str = "picture", runtime: Runtime = "torch"
) -> MotionEstimate:
    """Estimate the motion of (1, C, H, W)."""
    net = _motion_net(x.device, size, runtime)
    luma = (x if x.shape[1] in (1, 3) else x.mean(1, keepdim=True)).clamp(0, 1)

    def forward(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        def window(rows: slice, columns: slice) -> torch.Tensor:
            double, error = net(image[..., rows, columns])
            return torch.cat((double.permute(0, 3, 1, 2), error[:, None]), 1)

        planes = _in_tiles(window, (image.shape[-2], image.shape[-1]), tile, None)
        return planes[:, :2].permute(0, 2, 3, 1), planes[:, 2]

    return estimate(forward, luma, consolidation)


def _check_noise(noise: float | None) -> None:
    if noise is not None and (not np.isfinite(noise) or noise < 0):
        raise ValueError(
            f"noise must be None (estimated) or a standard deviation >= 0 on the [0, 1] scale, got {noise}"
        )


def _check_estimation(motion_net: str | Path, consolidation: str) -> None:
    if not isinstance(motion_net, (str, Path)):
        raise TypeError(f"motion_net must be the name of a size or a path, got {type(motion_net).__name__}")
    path = motion_net_path(motion_net)
    if not path.is_file():
        where = f"; the package has no {path.name}" if motion_net in MOTION_NETS else ""
        raise ValueError(f"motion_net must be {' or '.join(MOTION_NETS)} or a file of weights, got {motion_net}{where}")
    if consolidation not in CONSOLIDATIONS:
        raise ValueError(f"consolidation must be one of {', '.join(CONSOLIDATIONS)}, got {consolidation!r}")


@dataclasses.dataclass(frozen=True)
class _How:
    """How pictures are deconvolved."""

    method: str
    irc_net: str | Path | None
    noise: float | None
    tile: int | None
    linear_light: bool
    progress: Progress | None
    runtime: Runtime = "torch"


def _restore(
    x: torch.Tensor,
    psf: np.ndarray | None,
    motion: torch.Tensor | None,
    how: _How,
    settings: Settings | None = None,
    error: torch.Tensor | None = None,
) -> torch.Tensor:
    """Deconvolve (1, C, H, W) by a psf or a motion field (H, W, 2), which may be off by an error (H, W)."""
    if how.linear_light:
        x = srgb_to_linear(x.clamp(0, 1))
    sigma = estimate_noise(x) if how.noise is None else how.noise
    shape = (x.shape[-2], x.shape[-1])
    mask = unsaturated(x)
    uniform = None if psf is None else UniformBlur(torch.from_numpy(psf).to(x), boundary="extended")

    def window(rows: slice, columns: slice) -> torch.Tensor:
        blur: UniformBlur | MotionBlur
        if uniform is not None:
            blur = uniform
        else:
            assert motion is not None
            part = motion[rows, columns]
            if float(to_polar(part)[0].max()) <= 1.0:
                return x[..., rows, columns]
            blur = MotionBlur(part.contiguous(), boundary="extended")
        y = x[..., rows, columns]
        counts = None if mask is None else mask[..., rows, columns]
        if counts is not None and not counts.any():
            return y  # white all over: there is nothing to go by
        doubt = None if error is None else error[rows, columns][None]
        return run_method(y, blur, sigma, how.method, settings, counts, doubt, how.irc_net, runtime=how.runtime).x

    restored = _in_tiles(window, shape, how.tile, how.progress)
    return linear_to_srgb(restored.clamp(0, 1)) if how.linear_light else restored


def _each(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Apply a function of (1, C, H, W) to each image of a batch."""
    return torch.cat([function(item[None]) for item in x])


@torch.no_grad()
def deconvolve(
    image: Image,
    psf: Any = None,
    motion: Any = None,
    method: str = DEFAULT_METHOD,
    noise: float | None = None,
    *,
    irc_net: str | Path | None = None,
    settings: Settings | None = None,
    tile: Tile = "auto",
    device: str | torch.device = "auto",
    linear_light: bool = False,
    progress: Progress | None = None,
    runtime: Runtime = "torch",
    channel_axis: int = -1,
) -> Image:
    """Undo a known blur.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array, or (H, W), (C, H, W) or (B, C, H, W) tensor
        Blurred image: float in [0, 1], uint8 or uint16.
    psf : (h, w) array_like, optional
        Uniform blur kernel; even sides are padded, it is divided by its sum.
    motion : (H, W, 2) array_like, optional
        Motion field in pixels, u right, v down. Give exactly one of `psf` and `motion`.
    method : str
        ``"irc-net"``: a few stages of iterated residual compensation with a convolutional network as prior;
        ``"irc-net-shrinkage"``: the paper's network. ``"irc-mm"``, ``"irc"``, ``"cg"``, ``"fft"`` and ``"fft-nopad"``
        solve the same problem, least squares with sparse gradients: by residual compensation with memory, or by ADMM
        with iterated residual compensation, conjugate gradients, or a division in the Fourier domain with and without
        care for the borders. ``"wiener"``, ``"richardson-lucy"``, ``"laplacian"`` and ``"epll"`` are baselines; epll
        has a learned prior and takes longest.
    noise : float, optional
        Standard deviation on the [0, 1] scale; by default estimated from the image.
    irc_net : path, optional
        Weights that ``ircdeblur train irc-net`` has written, in place of the package's.
    settings : Settings, optional
        Of a solver: weight of the prior, penalty, iterations; by default the method's own.
    tile : int, "auto" or None
        Side of the tiles in pixels; "auto" restores up to 1.5 megapixels at once.
    device : str or torch.device
        "auto" is the first GPU if there is one.
    linear_light : bool
        Decode sRGB values before and encode them after.
    progress : callable, optional
        Called with the number of finished tiles and of all.
    runtime : str or path
        What computes the networks: "torch"; "onnx", by onnxruntime, where the graphs of the weights are made on the
        first use and kept in the user's cache folder; or a folder of graphs that ``ircdeblur export onnx`` has written.
    channel_axis : int
        Axis of the channels of an array (H, W, C), as scikit-image has it. Tensors have theirs before the rows.

    Returns
    -------
    sharp : array or tensor
        As the image: kind, shape, type and scale. Float images are clipped to [0, 1], or to their own range where that
        is wider.

    Raises
    ------
    ValueError, TypeError
        For bad arguments, NaN or infinity.
    """
    if (psf is None) == (motion is None):
        raise ValueError("give either psf or motion" + (", not both" if psf is not None else ""))
    check_method(method, irc_net, settings)
    check_runtime(runtime, method, irc_net=irc_net)
    _check_noise(noise)
    x, kind = _read(image, resolve_device(device), channel_axis)
    shape = (x.shape[-2], x.shape[-1])
    kernel = None if psf is None else check_psf(psf)
    field = None if motion is None else torch.from_numpy(check_motion(motion, shape)).to(x.device)
    how = _How(method, irc_net, noise, _tile_side(tile, shape), linear_light, progress, runtime)
    return kind.back(_each(lambda y: _restore(y, kernel, field, how, settings), x))


@torch.no_grad()
def estimate_motion(
    image: Image,
    *,
    consolidation: str = "picture",
    motion_net: str | Path = "small",
    tile: Tile = "auto",
    device: str | torch.device = "auto",
    return_error: bool = False,
    runtime: Runtime = "torch",
    channel_axis: int = -1,
) -> Any:
    """Estimate how each pixel of a photograph moved while the shutter was open.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array, or (H, W), (C, H, W) or (B, C, H, W) tensor
        Photograph: float in [0, 1], uint8 or uint16.
    consolidation : {"picture", "answers", "none"}
        What is made of the network's answers: a camera is fitted to them, or where there is none they are smoothed,
        and both are refined on the picture itself; the same without the picture; or nothing.
    motion_net : str or path
        The network: "small", the one that comes with the package, "base", the larger one where its weights have been
        put into the package, or a file of weights that ``ircdeblur train motion-net`` has written.
    tile, device
        As for `deconvolve`.
    return_error : bool
        Return the expected size of the error of each vector too.
    runtime, channel_axis
        As for `deconvolve`.

    Returns
    -------
    motion : (H, W, 2) or, for a batch of tensors, (B, H, W, 2) float32
        Canonical vectors in pixels, u right, v down; m and -m are the same blur.
    error : (H, W) or (B, H, W) float32
        Only with `return_error`: pixels.
    """
    _check_estimation(motion_net, consolidation)
    check_runtime(runtime, motion_net=motion_net)
    x, kind = _read(image, resolve_device(device), channel_axis)
    side = _tile_side(tile, (x.shape[-2], x.shape[-1]))
    estimates = [_estimate(item[None], side, str(motion_net), consolidation, runtime) for item in x]

    motion = kind.fields([e.motion for e in estimates])
    return (motion, kind.fields([e.error for e in estimates])) if return_error else motion


def restoration_weight(length: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Return how much of a blind restoration to believe, in [0, 1].

    Nothing where the picture did not move, and less the larger the expected error is relative to the motion: a wrong
    motion costs more than a right one gains.

    Parameters
    ----------
    length, error : (H, W) tensors
        Length of the motion and its expected error, in pixels.
    """
    moved = ((length - STILL) / STILL).clamp(0, 1)
    sure = ((DOUBTFUL - error / length.clamp(min=1.0)) / (DOUBTFUL - CERTAIN)).clamp(0, 1)
    return moved * sure


def _deblur(
    x: torch.Tensor, how: _How, strength: float, motion_net: str, consolidation: str
) -> tuple[torch.Tensor, MotionEstimate]:
    """Return the restored (1, C, H, W) and its motion."""
    found = _estimate(x, how.tile, motion_net, consolidation, how.runtime)
    weight = strength * restoration_weight(to_polar(found.motion)[0], found.error)
    if float(weight.max()) <= 0.0:
        return x, found
    settings = DEFAULTS.get(how.method)
    if settings is not None:
        settings = dataclasses.replace(settings, prior=settings.prior * BLIND_PRIOR)
    sharp = _restore(x, None, found.motion, how, settings, DOUBT * found.error)
    return x + weight * (sharp - x), found


@torch.no_grad()
def deblur(
    image: Image,
    *,
    return_motion: bool = False,
    return_error: bool = False,
    method: str = DEFAULT_METHOD,
    noise: float | None = None,
    strength: float = 1.0,
    irc_net: str | Path | None = None,
    motion_net: str | Path = "small",
    consolidation: str = "picture",
    tile: Tile = "auto",
    device: str | torch.device = "auto",
    linear_light: bool = False,
    progress: Progress | None = None,
    runtime: Runtime = "torch",
    channel_axis: int = -1,
) -> Any:
    """Undo the motion blur of a photograph, whatever it is.

    The motion is estimated (`estimate_motion`), then undone; the networks know how uncertain it is, the solvers take a
    stronger prior than a known motion would need. Where the picture did not move, or where its motion is too uncertain,
    it stays as it is.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array, or (H, W), (C, H, W) or (B, C, H, W) tensor
        Photograph: float in [0, 1], uint8 or uint16.
    return_motion : bool
        Return the motion field too.
    return_error : bool
        Return the expected size of the error of each of its vectors too, last.
    strength : float
        In [0, 1]: 0 returns the photograph, 1 the full restoration.
    motion_net, consolidation
        As for `estimate_motion`.
    method, noise, irc_net, tile, device, linear_light, progress, runtime, channel_axis
        As for `deconvolve`.

    Returns
    -------
    sharp : array or tensor
        As the image: kind, shape, type and scale.
    motion : (H, W, 2) or (B, H, W, 2) float32
        Only with `return_motion`: see `estimate_motion`.
    error : (H, W) or (B, H, W) float32
        Only with `return_error`: pixels.
    """
    check_method(method, irc_net)
    _check_noise(noise)
    _check_estimation(motion_net, consolidation)
    check_runtime(runtime, method, motion_net, irc_net)
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must be in [0, 1], got {strength}")
    x, kind = _read(image, resolve_device(device), channel_axis)
    side = _tile_side(tile, (x.shape[-2], x.shape[-1]))
    how = _How(method, irc_net, noise, side, linear_light, progress, runtime)
    found = [_deblur(item[None], how, strength, str(motion_net), consolidation) for item in x]
    result = [kind.back(torch.cat([sharp for sharp, _ in found]))]
    result += [kind.fields([estimate.motion for _, estimate in found])] if return_motion else []
    result += [kind.fields([estimate.error for _, estimate in found])] if return_error else []
    return tuple(result) if len(result) > 1 else result[0]


@torch.no_grad()
def blur(
    image: Image,
    psf: Any = None,
    motion: Any = None,
    noise: float = 0.0,
    seed: int | None = None,
    *,
    device: str | torch.device = "auto",
    linear_light: bool = False,
    channel_axis: int = -1,
) -> Image:
    """Blur an image by a kernel or a motion field.

    What lies beyond the image is taken as its reflection.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array, or (H, W), (C, H, W) or (B, C, H, W) tensor
        Sharp image: float in [0, 1], uint8 or uint16.
    psf : (h, w) array_like, optional
        Uniform blur kernel.
    motion : (H, W, 2) array_like, optional
        Motion field in pixels, u right, v down; gather form. Give exactly one of `psf` and `motion`.
    noise : float
        Standard deviation of Gaussian noise, on the [0, 1] scale.
    seed : int, optional
        Of the noise.
    device, linear_light, channel_axis
        As for `deconvolve`.

    Returns
    -------
    blurred : array or tensor
        As the image: kind, shape, type and scale.
    """
    if (psf is None) == (motion is None):
        raise ValueError("give either psf or motion" + (", not both" if psf is not None else ""))
    _check_noise(noise)
    if noise is None:
        raise ValueError("noise must be a number")
    x, kind = _read(image, resolve_device(device), channel_axis)
    if linear_light:
        x = srgb_to_linear(x.clamp(0, 1))
    operator: UniformBlur | MotionBlur
    if psf is not None:
        operator = UniformBlur(torch.from_numpy(check_psf(psf)).to(x), boundary="reflect")
    else:
        field = check_motion(motion, (x.shape[-2], x.shape[-1]))
        operator = MotionBlur(torch.from_numpy(field).to(x), boundary="reflect")
    y = operator.A(x)
    if linear_light:
        y = linear_to_srgb(y.clamp(0, 1))
    if noise > 0:
        rng = np.random.default_rng(seed)
        y = y + torch.from_numpy(rng.normal(0.0, noise, tuple(y.shape)).astype(np.float32)).to(y)
    return kind.back(y)
