"""The public functions: arrays in, arrays of the same kind out."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch

from ircdeblur.arrays import Images
from ircdeblur.kernels import MAX_LENGTH
from ircdeblur.motion import check_motion, to_double_angle, to_polar
from ircdeblur.nets.belief import (
    doubt_of,
    misfit_noise,
    mixing_weight,
    restoration_weight,
    unexplained,
)
from ircdeblur.nets.blind import (
    CONSOLIDATIONS,
    WHOLE_PIXELS,
    MotionEstimate,
    MotionGrid,
    Net,
    estimate,
    estimate_in_parts,
)
from ircdeblur.nets.checkpoints import MOTION_NETS, load_kernel_net, load_motion_net, motion_net_path
from ircdeblur.nets.curved import KernelEstimate, estimate_kernel
from ircdeblur.nets.kernel_net import KernelNet
from ircdeblur.nets.light import is_linear_light
from ircdeblur.nets.methods import DEFAULT_METHOD, check_method
from ircdeblur.nets.methods import deconvolve as run_method
from ircdeblur.nets.motion_net import luminance
from ircdeblur.nets.noise import middle, noise_of
from ircdeblur.nets.onnx import Runtime, check_runtime, motion_net_of
from ircdeblur.operators import MotionBlur, UniformBlur, motion_reach
from ircdeblur.psf import check_psf
from ircdeblur.solvers.motion_density import MotionDensity
from ircdeblur.solvers.settings import DEFAULTS, Settings, estimate_noise, unsaturated
from ircdeblur.srgb import linear_to_srgb, noise_in_linear_light, srgb_to_linear
from ircdeblur.tiles import (
    ALIGNMENT,
    FADE,
    Progress,
    Tile,
    available_memory,
    blend,
    check_tile,
    count_tiles,
    middle_of_core,
    overlap_for,
    tile_side,
    working_bytes,
)

Image = Any

Light = bool | Literal["auto"]
"""Whether to work in linear light; "auto" leaves it to `ircdeblur.nets.light`."""

Paths = Literal["any", "straight"]
"""Which paths a camera may have taken: any one, if it was the same all over the photograph, or straight ones."""

BLIND_PRIOR = 1.6
"""How many times stronger the prior is when the motion is estimated, as it is never exact. On twelve validation
photographs 1.0, 1.5 and 2.5 gained 4.5, 4.4 and 4.0 dB (moderate) and 5.9, 5.7 and 5.3 dB (severe); real motions, which
are neither straight nor even, ring less with more."""

SPECK = 0.03
"""Share of a photograph below which motion is left alone. On sharp validation photographs, motion that was not there
covered up to 2.9 %."""

MOSTLY, SURE, SURE_OF_LONG = 0.3, 2.5, 0.12
"""No kernel is looked for where at least this share of a motion is believed, and its median error is at most so many
pixels, or this share of its longest vector. Straight shakes of validation photographs had 0.4 to 1.0 and 0.5 to 1.4 px,
and six straight motions of 40 to 60 px 0.9 to 1.0, and errors of 0.04 to 0.12 of their length. Curved shakes had 0 to
0.4 and 3.7 to 14 px, or no motion at all; of 48 more at least a third of the motion was believed in fourteen: two of
these had errors below 1 px, the others of 0.125 to 0.5 of the longest vector."""


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


@functools.lru_cache(maxsize=2)
def _kernel_net(path: str | Path | None = None) -> KernelNet:
    """Return a Kernel-Net, on the CPU: a kernel is small, and so is the network."""
    return load_kernel_net(path)


class _Field(Protocol):
    """A motion field that is read window by window, with the expected error of each vector if that is known."""

    @property
    def longest(self) -> float: ...

    def window(self, rows: slice, columns: slice) -> tuple[torch.Tensor, torch.Tensor | None]: ...


@dataclasses.dataclass(frozen=True)
class _KnownField:
    """A motion field (H, W, 2) that the user has given."""

    motion: torch.Tensor
    device: torch.device

    @functools.cached_property
    def longest(self) -> float:
        """Length of the longest vector in pixels."""
        return max(float(part.norm(dim=-1).max()) for part in self.motion.split(ROWS))

    def window(self, rows: slice, columns: slice) -> tuple[torch.Tensor, None]:
        """Return a window (h, w, 2) of it."""
        return self.motion[rows, columns].to(self.device), None


ROWS = 64
"""So many rows of a motion field are looked at together."""


def _estimate(
    images: Images,
    index: int,
    net: str,
    consolidation: str = "picture",
    at_once: bool = False,
    progress: Progress | None = None,
    runtime: Runtime = "torch",
) -> MotionEstimate | MotionGrid:
    """Estimate the motion of one image, of a large one in parts unless it is to be looked at at once."""
    network = _motion_net(images.device, net, runtime)

    def luma(part: torch.Tensor) -> torch.Tensor:
        return (part if part.shape[1] in (1, 3) else part.mean(1, keepdim=True)).clamp(0, 1)

    if at_once or images.pixels <= WHOLE_PIXELS:
        found = estimate(network, luma(images.whole(index)), consolidation)
        if progress is not None:
            progress(1, 1)
        return found

    class Luminance:
        shape = images.shape

        def __call__(self, rows: slice, columns: slice) -> torch.Tensor:
            return luminance(luma(images.window(index, rows, columns)))

    noise = estimate_noise(luminance(luma(images.sample(index, WHOLE_PIXELS))))
    return estimate_in_parts(network, Luminance(), noise, consolidation, progress)


def _motion_array(found: MotionEstimate | MotionGrid, images: Images, step: int = 1) -> tuple[Any, Any]:
    """Return motion and error at every so many pixels, as tensors or arrays like the image."""
    if isinstance(found, MotionEstimate):
        motion, error = (t.contiguous() for t in found.window(slice(None, None, step), slice(None, None, step)))
    else:
        height, width = images.shape
        motion = torch.empty(-(-height // step), -(-width // step), 2)
        error = torch.empty(motion.shape[:2])
        for first in range(0, motion.shape[0], ROWS):
            rows = slice(first * step, (first + ROWS) * step, step)
            part = slice(first, first + ROWS)
            motion[part], error[part] = found.window(rows, slice(None, None, step))
    if images.is_torch:
        return motion.to(images.source), error.to(images.source)
    return motion.cpu().numpy(), error.cpu().numpy()


def _stacked(parts: list[Any], images: Images) -> Any:
    """Return what belongs to the images of a batch as one tensor, or that of the one image."""
    return torch.stack(parts) if images.is_batch else parts[0]


def _check_noise(noise: float | None) -> None:
    if noise is not None and (not np.isfinite(noise) or noise < 0):
        raise ValueError(
            f"noise must be None (estimated) or a standard deviation >= 0 on the [0, 1] scale, got {noise}"
        )


def _check_light(linear_light: Light) -> None:
    if not isinstance(linear_light, bool) and linear_light != "auto":
        raise ValueError(f"linear_light must be True, False or 'auto', got {linear_light!r}")


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
    """How pictures are deconvolved.

    `strength` is that of a blind restoration; None for a blur that is known.
    """

    method: str
    irc_net: str | Path | None
    noise: float | None
    tile: Tile
    linear_light: Light
    settings: Settings | None = None
    strength: float | None = None
    runtime: Runtime = "torch"


@dataclasses.dataclass(frozen=True)
class _Layout:
    """In what tiles one picture is restored.

    Attributes
    ----------
    side : int or None
        Of the tiles; None for the whole picture.
    overlap : int
        Of the tiles.
    """

    side: int | None
    overlap: int

    @classmethod
    def choose(cls, images: Images, how: _How, reach: int, longest: float) -> _Layout:
        """Choose the tiles for a blur of so many pixels to each side, and motions up to a length (0 for a kernel)."""
        overlap = overlap_for(reach)
        free = available_memory(images.device) if how.tile == "auto" else None
        return cls(tile_side(how.tile, images.shape, working_bytes(how.method, longest), free, overlap), overlap)

    @classmethod
    def for_field(cls, images: Images, how: _How, longest: float) -> _Layout:
        """Choose the tiles for a motion field."""
        return cls.choose(images, how, round(longest / 2), longest)

    @classmethod
    def for_kernel(cls, images: Images, how: _How, kernel: KernelEstimate) -> _Layout:
        """Choose the tiles for a kernel that was found; those of a camera that turned take tiles in any case."""
        if kernel.density is None:
            return cls.choose(images, how, len(kernel.psf) // 2, 0.0)
        side, overlap = tiles_for(kernel.density, images.shape)
        most = cls.choose(images, how, kernel.density.reach(images.shape), 0.0).side
        return cls(side if most is None or side is None else min(side, most), overlap)


SAME_KERNEL = 0.75
"""By how many pixels kernels may differ across a tile, as the standard deviation over the places of the camera. With
1.2, 0.9 and 0.6 five training photographs gained 5.8, 6.2 and 6.3 dB, in 2.6, 3.4 and 5.1 s of a core."""


def tiles_for(density: MotionDensity, shape: tuple[int, int]) -> tuple[int | None, int]:
    """Return side and overlap of tiles so small that one kernel will do in each; no side for the whole picture."""
    overlap = FADE // 2 + density.reach(shape)
    core = SAME_KERNEL / max(density.turn, 1e-9)
    if core >= max(shape):
        return None, overlap
    side = 2 * overlap + max(ALIGNMENT, math.floor(core / ALIGNMENT) * ALIGNMENT)
    return (None if side >= max(shape) else side), overlap


def kernel_in(density: MotionDensity, window: tuple[slice, slice], shape: tuple[int, int], overlap: int) -> np.ndarray:
    """Return the kernel in the middle of what a tile of a picture counts for."""
    return density.kernel(*(middle_of_core(s, n, overlap) for s, n in zip(window, shape, strict=True)))


def _reach_of(field: _Field, shape: tuple[int, int]) -> tuple[int, int]:
    """Return how many rows and columns the blur of a field reads around a pixel."""
    reach = [motion_reach(field.window(slice(r, r + ROWS), slice(None))[0]) for r in range(0, shape[0], ROWS)]
    return max(r[0] for r in reach), max(r[1] for r in reach)


class Belief(NamedTuple):
    """How far an estimated motion is to be believed.

    Attributes
    ----------
    share : float
        Mean of `restoration_weight` over the photograph, in [0, 1].
    noise : float
        Standard deviation of what the motion will not explain of the photograph, on the [0, 1] scale: from the expected
        errors beyond `EXACT` where the motion is believed.
    """

    share: float
    noise: float


def belief_in(field: _Field, shape: tuple[int, int]) -> Belief:
    """Return how far an estimated motion of a photograph of so many rows and columns is to be believed."""
    total, weights = torch.zeros(()), torch.zeros(())
    for first in range(0, shape[0], ROWS):
        motion, error = field.window(slice(first, first + ROWS), slice(None))
        assert error is not None
        weight = restoration_weight(to_polar(motion)[0], error)
        total += unexplained(weight, error).cpu()
        weights += weight.sum().cpu()
    return Belief(float(weights) / (shape[0] * shape[1]), float(misfit_noise(total, weights)))


def _noise_of(images: Images, index: int, blur: np.ndarray | _Field) -> float:
    """Return the standard deviation of the noise that the restoration of one image must reckon with."""
    rows, columns = middle(images.shape)
    part = blur if isinstance(blur, np.ndarray) else blur.window(rows, columns)[0]
    return noise_of(images.window(index, rows, columns), part, images.sample(index, WHOLE_PIXELS))


def _linear_light_of(images: Images, index: int, blur: np.ndarray | _Field, light: Light) -> bool:
    """Return whether one image is restored in linear light."""
    if light != "auto":
        return light
    if images.high > 1.0:
        return False  # no sRGB values
    if isinstance(blur, MotionEstimate | MotionGrid):
        return bool(blur.linear_light)
    rows, columns = middle(images.shape)
    part = blur if isinstance(blur, np.ndarray) else blur.window(rows, columns)[0]
    return is_linear_light(images.window(index, rows, columns), part)


def _restore(
    images: Images,
    index: int,
    blur: np.ndarray | KernelEstimate | _Field,
    layout: _Layout,
    how: _How,
    put: Callable[[slice, torch.Tensor], None],
    progress: Progress | None,
) -> None:
    """Deconvolve one image by a kernel or a motion field."""
    belief, light, density = None, how.linear_light, None
    if isinstance(blur, KernelEstimate):
        belief = Belief(1.0, blur.misfit)
        light = blur.linear_light if light == "auto" else light
        density, blur = blur.density, blur.psf
    if how.strength is not None and not isinstance(blur, np.ndarray):
        belief = belief_in(blur, images.shape)
        if belief.share < SPECK:
            for first in range(0, images.shape[0], ROWS):
                rows = slice(first, min(first + ROWS, images.shape[0]))
                put(rows, images.window(index, rows, slice(None)))
            if progress is not None:
                progress(1, 1)
            return
    linear_light = _linear_light_of(images, index, blur, light)
    sigma = _noise_of(images, index, blur) if how.noise is None else how.noise
    if belief is not None:
        sigma = math.hypot(sigma, belief.noise)
    sigma *= noise_in_linear_light(images.sample(index, WHOLE_PIXELS)) if linear_light else 1.0
    uniform, field = None, None
    if isinstance(blur, np.ndarray):
        uniform = _uniform(blur, images)
    else:
        field = blur
    # All tiles have the margin of the whole picture: see `ircdeblur.tiles` on where they start.
    margin = None if field is None or layout.side is None else _reach_of(field, images.shape)

    def window(rows: slice, columns: slice) -> torch.Tensor:
        y = given = images.window(index, rows, columns)
        operator: UniformBlur | MotionBlur
        weight: torch.Tensor | float | None = None
        doubt = None
        if field is not None:
            motion, error = field.window(rows, columns)
            length = to_polar(motion)[0]
            if how.strength is not None:
                assert error is not None
                weight = how.strength * mixing_weight(length, error)
                doubt = doubt_of(error)[None]
            if float(length.max()) <= 1.0 or (isinstance(weight, torch.Tensor) and float(weight.max()) <= 0.0):
                return given
            operator = MotionBlur(motion.contiguous(), boundary="extended", margin=margin)
        else:
            assert uniform is not None
            operator = uniform
            if density is not None:
                operator = _uniform(kernel_in(density, (rows, columns), images.shape, layout.overlap), images)
            weight = how.strength
        if linear_light:
            y = srgb_to_linear(y.clamp(0, 1))
        # A picture with values above 1 was never cut off.
        mask = unsaturated(y) if linear_light or images.high <= 1.0 else None
        if mask is not None and not mask.any():
            return given  # white all over: there is nothing to go by
        sharp = run_method(
            y, operator, sigma, how.method, how.settings, mask, doubt, how.irc_net, runtime=how.runtime
        ).x
        if linear_light:
            sharp = linear_to_srgb(sharp.clamp(0, 1))
        return sharp if weight is None else given + weight * (sharp - given)

    blend(window, put, images.shape, layout.side, layout.overlap, progress)


def _uniform(psf: np.ndarray, images: Images) -> UniformBlur:
    return UniformBlur(torch.from_numpy(psf).to(images.device, torch.float32), boundary="extended")


PLACES = 3
"""Along each axis, at which the kernels of a camera that turned are returned."""


def _kernels_of(kernel: KernelEstimate | None, shape: tuple[int, int]) -> np.ndarray | None:
    """Return what `deblur` does of a kernel that was undone: (h, h), or (3, 3, h, h) of a camera that turned."""
    if kernel is None or kernel.density is None:
        return None if kernel is None else kernel.psf
    rows, columns = np.meshgrid(*((np.arange(PLACES) + 0.5) * n / PLACES - 0.5 for n in shape), indexing="ij")
    kernels = kernel.density.kernels(rows.ravel(), columns.ravel())
    return kernels.reshape(PLACES, PLACES, *kernels.shape[1:])


def _of_batch(progress: Progress | None, index: int, images: Images) -> Progress | None:
    """Return what reports the work on one image of a batch."""
    if progress is None:
        return None
    return lambda number, total: progress(index * total + number, len(images) * total)


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
    linear_light: Light = False,
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
        ``"irc-net-plus"``: the same, its prior averaged over the eight orientations of the picture, better and several
        times slower; ``"irc-net-shrinkage"``: the paper's network. ``"irc-mm"``, ``"irc"``, ``"cg"``, ``"fft"`` and
        ``"fft-nopad"`` solve the same problem, least squares with sparse gradients: by residual compensation with
        memory, or by ADMM with iterated residual compensation, conjugate gradients, or a division in the Fourier domain
        with and without care for the borders. ``"wiener"``, ``"richardson-lucy"``, ``"laplacian"`` and ``"epll"`` are
        baselines; epll has a learned prior and takes longest.
    noise : float, optional
        Standard deviation of the image's values on the [0, 1] scale; by default estimated.
    irc_net : path, optional
        Weights that ``ircdeblur train irc-net`` has written, in place of the package's.
    settings : Settings, optional
        Of a solver: weight of the prior, penalty, iterations; by default the method's own.
    tile : int, "auto" or None
        Longest side of the tiles in pixels, from 256 on; None or 0 restores the whole picture at once. "auto" does so
        up to 1.5 megapixels and takes tiles of up to 768 pixels for larger ones, smaller ones where memory is short.
    device : str or torch.device
        "auto" is the first GPU if there is one.
    linear_light : bool or "auto"
        Decode sRGB values before and encode them after. Light is blurred, not what a file makes of it; but it was
        pixel values that were averaged where a blur was made from pictures. "auto" does what the picture's spectrum
        tells, and leaves the values as they are in doubt.
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
    _check_light(linear_light)
    how = _How(method, irc_net, noise, check_tile(tile), linear_light, settings, runtime=runtime)
    images = Images(image, resolve_device(device), channel_axis)
    blur: np.ndarray | _KnownField
    if psf is not None:
        blur = check_psf(psf)
        layout = _Layout.choose(images, how, max(blur.shape) // 2, 0.0)
    else:
        blur = _KnownField(torch.from_numpy(check_motion(motion, images.shape)), images.device)
        layout = _Layout.for_field(images, how, blur.longest)
    result = images.result()
    for index in range(len(images)):
        put = functools.partial(result.put, index)
        _restore(images, index, blur, layout, how, put, _of_batch(progress, index, images))
    return result.image


@torch.no_grad()
def estimate_motion(
    image: Image,
    *,
    consolidation: str = "picture",
    motion_net: str | Path = "small",
    tile: Tile = "auto",
    device: str | torch.device = "auto",
    return_error: bool = False,
    progress: Progress | None = None,
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
    tile : int, "auto" or None
        None or 0 lets the network look at the whole picture at once. Otherwise it looks at one of more than 1.5
        megapixels in parts, whose size is its own.
    device : str or torch.device
        "auto" is the first GPU if there is one.
    return_error : bool
        Return the expected size of the error of each vector too.
    progress : callable, optional
        Called with the number of finished parts and of all.
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
    at_once = check_tile(tile) is None
    images = Images(image, resolve_device(device), channel_axis)
    fields, errors = [], []
    for index in range(len(images)):
        steps = _of_batch(progress, index, images)
        found = _estimate(images, index, str(motion_net), consolidation, at_once, steps, runtime)
        field, error = _motion_array(found, images)
        fields.append(field)
        errors.append(error)
    return (_stacked(fields, images), _stacked(errors, images)) if return_error else _stacked(fields, images)


@torch.no_grad()
def estimate_psf(
    image: Image,
    *,
    motion_net: str | Path = "small",
    kernel_net: str | Path | None = None,
    device: str | torch.device = "auto",
    runtime: Runtime = "torch",
    channel_axis: int = -1,
) -> Any:
    """Estimate the kernel of a photograph that was blurred by the same one all over, by a path that may be curved.

    Edges tell the kernel, and spectra whether to believe it: it must be clearly likelier than the motion field of
    `estimate_motion`, than no blur, and than a lens out of focus. Of a large photograph the middle is looked at.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array, or (H, W), (C, H, W) or (B, C, H, W) tensor
        Photograph: float in [0, 1], uint8 or uint16.
    motion_net, device, runtime, channel_axis
        As for `estimate_motion`.
    kernel_net : path, optional
        Weights that ``ircdeblur train kernel-net`` has written, in place of the package's.

    Returns
    -------
    psf : (h, h) float64 array or None
        Odd, not negative, of sum 1, for `deconvolve`; None if something else explains the photograph, or if the kernel
        seems not to be the same everywhere. Of a batch a list.

    References
    ----------
    L. Xu, S. Zheng, J. Jia, "Unnatural L0 sparse representation for natural image deblurring", CVPR 2013.
    """
    _check_estimation(motion_net, "picture")
    check_runtime(runtime, motion_net=motion_net)
    net = _kernel_net(kernel_net)
    images = Images(image, resolve_device(device), channel_axis)
    kernels = []
    for index in range(len(images)):
        found = _estimate(images, index, str(motion_net), "picture", False, None, runtime)
        kernel = kernel_of(images, index, found, net)
        kernels.append(None if kernel is None or kernel.density is not None else kernel.psf)
    return kernels if images.is_batch else kernels[0]


def _deblur(
    images: Images,
    index: int,
    how: _How,
    motion_net: str,
    consolidation: str,
    path: Paths,
    kernel_net: KernelNet,
    put: Callable[[slice, torch.Tensor], None],
    progress: Progress | None,
) -> tuple[MotionEstimate | MotionGrid, KernelEstimate | None]:
    """Restore one image blindly, and return its motion, and the kernel that it was restored by in its place."""
    expected = _Layout.for_field(images, how, MAX_LENGTH)
    tiles = count_tiles(images.shape, expected.side, expected.overlap)
    parts = 0

    def estimated(done: int, total: int) -> None:
        nonlocal parts
        parts = total
        if progress is not None:
            progress(done, total + tiles)

    def restored(done: int, total: int) -> None:
        if progress is not None:
            progress(parts + done, parts + total)

    found = _estimate(images, index, motion_net, consolidation, False, estimated, how.runtime)
    kernel = None
    if path == "any" and consolidation == "picture" and how.strength and not is_sure(found, images.shape):
        kernel = kernel_of(images, index, found, kernel_net)
    if kernel is None:
        _restore(images, index, found, _Layout.for_field(images, how, found.longest), how, put, restored)
    else:
        _restore(images, index, kernel, _Layout.for_kernel(images, how, kernel), how, put, restored)
    return found, kernel


def is_sure(found: MotionEstimate | MotionGrid, shape: tuple[int, int]) -> bool:
    """Return whether a motion field explains a photograph so well that no kernel is looked for."""
    step = max(1, math.isqrt(shape[0] * shape[1] // 100_000))
    error = found.window(slice(None, None, step), slice(None, None, step))[1]
    return belief_in(found, shape).share >= MOSTLY and float(error.median()) <= max(SURE, SURE_OF_LONG * found.longest)


def kernel_of(
    images: Images, index: int, found: MotionEstimate | MotionGrid, net: KernelNet | None = None
) -> KernelEstimate | None:
    """Return the kernel of one image, if it explains its middle better than its motion does.

    Parameters
    ----------
    images : Images
        A batch.
    index : int
        Which of them.
    found : MotionEstimate or MotionGrid
        Its motion.
    net : KernelNet, optional
        What corrects the kernel, in place of the package's.
    """
    rows, columns = middle(images.shape)
    pixels = images.window(index, rows, columns).clamp(0, 1)
    planes = to_double_angle(found.window(rows, columns)[0]).permute(2, 0, 1).to(pixels)
    luma = luminance(pixels if pixels.shape[1] in (1, 3) else pixels.mean(1, keepdim=True))
    kernel = estimate_kernel(luma, planes, net or _kernel_net())
    if kernel is None or kernel.density is None:
        return kernel
    return dataclasses.replace(kernel, density=kernel.density.moved(rows.start, columns.start))


@torch.no_grad()
def deblur(
    image: Image,
    *,
    return_motion: bool = False,
    return_error: bool = False,
    motion_step: int = 1,
    method: str = DEFAULT_METHOD,
    noise: float | None = None,
    strength: float = 1.0,
    irc_net: str | Path | None = None,
    motion_net: str | Path = "small",
    consolidation: str = "picture",
    path: Paths = "any",
    kernel_net: str | Path | None = None,
    return_psf: bool = False,
    tile: Tile = "auto",
    device: str | torch.device = "auto",
    linear_light: Light = "auto",
    progress: Progress | None = None,
    runtime: Runtime = "torch",
    channel_axis: int = -1,
) -> Any:
    """Undo the motion blur of a photograph, whatever it is.

    The motion is estimated (`estimate_motion`), then undone; the networks know how uncertain it is, the solvers take a
    stronger prior than a known motion would need. Where no straight motions explain the picture, a curved path is
    looked for that is the same all over (`estimate_psf`), or that of a camera that turned as well, and undone in their
    place. Where the picture did not move, or where its motion is too uncertain, it stays as it is.

    Parameters
    ----------
    image : (H, W) or (H, W, C) array, or (H, W), (C, H, W) or (B, C, H, W) tensor
        Photograph: float in [0, 1], uint8 or uint16.
    return_motion : bool
        Return the motion field too.
    return_error : bool
        Return the expected size of the error of each of its vectors too, last.
    motion_step : int
        Return them at every so many rows and columns only: that of a large photograph fills more memory than the
        photograph itself.
    strength : float
        In [0, 1]: 0 returns the photograph, 1 the full restoration.
    motion_net, consolidation
        As for `estimate_motion`.
    path : {"any", "straight"}
        Whether to look for curved paths where straight motions do not explain the picture, with the consolidation
        "picture". It takes some seconds.
    kernel_net : path, optional
        As for `estimate_psf`.
    return_psf : bool
        Return the kernel of a curved path too, last, or those of a camera that turned.
    linear_light : bool or "auto"
        As for `deconvolve`; here the picture decides unless you do.
    method, noise, irc_net, tile, device, runtime, channel_axis
        As for `deconvolve`. The motion is estimated once, as by `estimate_motion`, whatever the tiles are.
    progress : callable, optional
        Called with the number of finished parts of the estimation and tiles, and of all.

    Returns
    -------
    sharp : array or tensor
        As the image: kind, shape, type and scale.
    motion : (H, W, 2) or (B, H, W, 2) float32
        Only with `return_motion`: see `estimate_motion`.
    error : (H, W) or (B, H, W) float32
        Only with `return_error`: pixels.
    psf : (h, h) or (3, 3, h, h) float64 array, or None
        Only with `return_psf`: the kernel that was undone; where the camera turned, and kernels differ from place to
        place, those in the middles of three by three parts of the picture; None where it was the motion field. Of a
        batch a list.
    """
    check_method(method, irc_net)
    _check_noise(noise)
    _check_light(linear_light)
    _check_estimation(motion_net, consolidation)
    if path not in get_args(Paths):
        raise ValueError(f"path must be one of {', '.join(get_args(Paths))}, got {path!r}")
    check_runtime(runtime, method, motion_net, irc_net)
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength must be in [0, 1], got {strength}")
    if isinstance(motion_step, bool) or not isinstance(motion_step, int) or motion_step < 1:
        raise ValueError(f"motion_step must be a whole number of at least 1, got {motion_step!r}")
    corrector = _kernel_net(kernel_net)
    settings = DEFAULTS.get(method)
    if settings is not None:
        settings = dataclasses.replace(settings, prior=settings.prior * BLIND_PRIOR)
    how = _How(method, irc_net, noise, check_tile(tile), linear_light, settings, strength, runtime)
    images = Images(image, resolve_device(device), channel_axis)
    result, motions, errors, kernels = images.result(), [], [], []
    for index in range(len(images)):
        put = functools.partial(result.put, index)
        steps = _of_batch(progress, index, images)
        found, kernel = _deblur(images, index, how, str(motion_net), consolidation, path, corrector, put, steps)
        kernels.append(_kernels_of(kernel, images.shape))
        if return_motion or return_error:
            field, error = _motion_array(found, images, motion_step)
            motions.append(field)
            errors.append(error)
    parts = [result.image]
    parts += [_stacked(motions, images)] if return_motion else []
    parts += [_stacked(errors, images)] if return_error else []
    parts += [kernels if images.is_batch else kernels[0]] if return_psf else []
    return tuple(parts) if len(parts) > 1 else parts[0]


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
    images = Images(image, resolve_device(device), channel_axis)
    x = torch.cat([images.whole(index) for index in range(len(images))])
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
    result = images.result()
    for index in range(len(images)):
        result.put(index, slice(0, images.shape[0]), y[index : index + 1])
    return result.image
