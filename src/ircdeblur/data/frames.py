"""Real motion from a high-speed film: the mean of consecutive frames, and how each pixel moved meanwhile.

A film of n frames at equal intervals, averaged, is a photograph with an exposure of n intervals (section 4.1 of the
paper). Its motion is read from the optical flow between neighbouring frames, followed along the path of every pixel of
the **middle** frame, which is the sharp reference: forward to the last frame and backward to the first.

**Length.** The n frames stand at n times that span n - 1 intervals, the chord of the path. An exposure that fills its
interval smears over one interval more, half of one at either end: the label is the chord times n / (n - 1). For a step
of d pixels that is n d. If the shutter is open for a share s of the interval, the mean has the variance of a line of
sqrt(n^2 - 1 + s^2) d, which differs from n d by less than 0.5 % for n >= 11. So the label holds for any shutter.

**Own blur.** Each frame, the reference too, was smeared by s d pixels itself, 0.5 to 2 pixels in a typical film of 240
frames per second. The average is that same frame, blurred by n impulses d apart: where d is above a few pixels and the
shutter is short they show as ghosts, so longer steps are not trusted.

**Even n.** No frame is in the middle of an even number: the reference is the later of the two, and the blur lies half
an interval before it. With an odd number the two are registered.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ircdeblur.data.photos import LUMA, list_photos, load_photo
from ircdeblur.data.synthesis import line_blur
from ircdeblur.motion import canonical
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError as error:
        raise ImportError('OpenCV is not installed; pip install "ircdeblur[train]"') from error
    return cv2  # type: ignore[no-any-return]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Sort frame9 before frame10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


class Film:
    """Consecutive frames of one scene: a folder of pictures or a video file.

    Parameters
    ----------
    path : path
        A folder, its pictures in the order of the numbers in their names, or a video that OpenCV reads.

    Attributes
    ----------
    shape : (H, W)
        Size of the frames in pixels.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no picture in the folder.
    ImportError
        If a video is given and OpenCV is not installed.
    ValueError
        If the file is not a video that OpenCV reads.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.is_dir():
            self._files = sorted(list_photos(self.path), key=_natural)
            self._count = len(self._files)
        else:
            if not self.path.exists():
                raise FileNotFoundError(f"no such folder or video: {self.path}")
            if self.path.suffix.lower() not in VIDEO_SUFFIXES:
                raise ValueError(f"not a video: {self.path}; give a folder of frames or {', '.join(VIDEO_SUFFIXES)}")
            cv2 = _opencv()
            self._files = []
            self._video = cv2.VideoCapture(str(self.path))
            self._count = int(self._video.get(cv2.CAP_PROP_FRAME_COUNT))
            if not self._video.isOpened() or self._count < 1:
                raise ValueError(f"not a video that OpenCV can read: {self.path}; give a folder of its frames")
        self.shape: tuple[int, int] = self.read(0, 1).shape[1:3]

    def __len__(self) -> int:
        return self._count

    def source(self, index: int) -> str:
        """Return the name of a frame: its file's, or its number in the video."""
        return self._files[index].name if self._files else f"{self.path.name}#{index}"

    def read(self, first: int, count: int) -> np.ndarray:
        """Return consecutive frames as a uint8 array (count, H, W, 3), RGB.

        Raises
        ------
        ValueError
            If there are not as many frames, or their sizes differ.
        """
        if first < 0 or count < 1 or first + count > len(self):
            raise ValueError(f"frames {first} to {first + count - 1} asked of {len(self)}: {self.path}")
        if self._files:
            frames = [load_photo(path) for path in self._files[first : first + count]]
            if len({frame.shape for frame in frames}) > 1:
                raise ValueError(f"frames of different sizes near {self._files[first]}; give frames of one film")
            return np.stack(frames)
        cv2 = _opencv()
        # Where a file's index is not exact the run begins a few frames off; it is consecutive all the same.
        self._video.set(cv2.CAP_PROP_POS_FRAMES, first)
        frames = []
        for _ in range(count):
            there, frame = self._video.read()
            if not there:
                raise ValueError(f"the video ends before frame {first + count}: {self.path}")
            frames.append(frame[..., ::-1])
        return np.stack(frames)


@dataclass(frozen=True)
class Trust:
    """Limits that a label must keep to be trusted.

    Attributes
    ----------
    round_trip : float
        Largest sum, over the steps, of the distance between a point and itself after the step forth and back: pixels,
        and a tenth of the length more.
    residual : float
        Largest difference of brightness along the path between the middle frame and any other: mean of 5 x 5 pixels
        on the [0, 1] scale, and a third of the standard deviation there more, as sharp detail is interpolated.
    reblur : float
        Largest difference between the average and the middle frame blurred by the label, mean of 5 x 5 pixels. This
        sees what crossed a pixel that was itself followed without a fault.
    bend, drift : float
        Largest distance between the path and its uniform motion along the chord, across it (a curve) and along it (a
        speed that changes), as a share of the chord; 1 px always passes.
    texture : float
        Least root of the structure tensor's smaller eigenvalue, mean of 21 x 21 pixels, on the [0, 1] scale per pixel:
        below, the flow is a guess from elsewhere. Sensor noise of 8 bits has 0.001.
    isotropy : float
        Least ratio of that to the root of the larger eigenvalue: below there are edges of one direction only, and the
        motion along them cannot be seen.
    step : float
        Longest step between neighbouring frames in pixels.
    """

    round_trip: float = 1.0
    residual: float = 0.03
    reblur: float = 0.015
    bend: float = 0.1
    drift: float = 0.15
    texture: float = 0.002
    isotropy: float = 0.12
    step: float = 5.0

    def __call__(self, measured: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return where every limit is kept, all but those of texture two pixels around too: (H, W) bool.

        Parameters
        ----------
        measured : dict
            From `measure`.
        """
        passed = measured["inside"]
        for name in ("round_trip", "residual", "reblur", "bend", "drift", "step"):
            passed = passed & (measured[name] <= getattr(self, name))
        failed = F.max_pool2d((~passed).float()[None, None], 5, stride=1, padding=2)
        seen = (measured["texture"] >= self.texture) & (measured["isotropy"] >= self.isotropy)
        return (failed[0, 0] == 0) & seen


class FramePair(NamedTuple):
    """A blurred picture, its sharp reference and its motion.

    Attributes
    ----------
    blurred : (H, W, 3) uint8 array
        Mean of the frames, sRGB.
    sharp : (H, W, 3) uint8 array
        The middle frame.
    motion : (H, W, 2) float32 array
        Pixels, u right and v down, canonical half plane; the blur at an output pixel is along the path of what that
        pixel shows in the middle frame.
    trust : (H, W) bool array
        Where the label is to be trusted.
    """

    blurred: np.ndarray
    sharp: np.ndarray
    motion: np.ndarray
    trust: np.ndarray


def middle(count: int) -> int:
    """Return the index of the reference among `count` frames."""
    return count // 2


def average_frames(frames: np.ndarray, linear_light: bool = False) -> torch.Tensor:
    """Return the mean of uint8 frames (n, H, W, 3) as (H, W, 3) float32 sRGB values in [0, 1].

    Parameters
    ----------
    frames : (n, H, W, 3) uint8 array
        sRGB.
    linear_light : bool
        Decode before and encode after averaging, as a sensor adds light. What the frames clipped stays clipped.
    """
    levels = torch.arange(256, dtype=torch.float32) / 255
    levels = srgb_to_linear(levels) if linear_light else levels
    mean = torch.zeros(frames.shape[1:])
    for frame in frames:
        mean += levels[torch.from_numpy(np.ascontiguousarray(frame)).int()]
    mean /= len(frames)
    return linear_to_srgb(mean) if linear_light else mean


def neighbour_flows(frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the optical flow between neighbouring frames, both ways.

    Parameters
    ----------
    frames : (n, H, W) uint8 array
        Luminance; at least 16 pixels a side.

    Returns
    -------
    forward : (n - 1, H, W, 2) float32 tensor
        ``forward[k]`` leads from frame k to k + 1: pixels, u right, v down.
    backward : (n - 1, H, W, 2) float32 tensor
        ``backward[k]`` leads from frame k + 1 to k.

    References
    ----------
    T. Kroeger, R. Timofte, D. Dai and L. Van Gool, "Fast optical flow using dense inverse search", ECCV 2016 (OpenCV's
    DIS, medium preset), and its variational refinement.
    """
    cv2 = _opencv()
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # The preset ends at half the size and falls short by 1 to 2 %. Its patches at the full size lose themselves in the
    # weak texture of real films; a smooth refinement there does not.
    refinement = cv2.VariationalRefinement_create()
    refinement.setAlpha(60.0)
    refinement.setFixedPointIterations(8)

    def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(refinement.calc(a, b, dis.calc(a, b, None)))

    pairs = list(itertools.pairwise(frames))
    forward = np.stack([flow(a, b) for a, b in pairs])
    backward = np.stack([flow(b, a) for a, b in pairs])
    return torch.from_numpy(forward), torch.from_numpy(backward)


def _grid(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack((x, y), dim=-1)


def _sample(image: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Interpolate (H, W, C) at positions (H, W, 2), linearly; beyond the border its value goes on."""
    height, width = image.shape[:2]
    grid = (position + 0.5) * torch.tensor([2.0 / width, 2.0 / height]) - 1
    taken = F.grid_sample(image.permute(2, 0, 1)[None], grid[None], padding_mode="border", align_corners=False)
    return taken[0].permute(1, 2, 0)


def glance(frames: np.ndarray, trust: Trust | None = None) -> tuple[float, bool]:
    """Look at a film for a fiftieth of the time that `frame_pair` takes.

    The median of a coarse flow stands for each step of the whole picture.

    Parameters
    ----------
    frames : (n, H, W, 3) uint8 array
        sRGB; at least 16 pixels a side.
    trust : Trust, optional
        Limits for the labels.

    Returns
    -------
    length : float
        Of the dominant motion in pixels, about.
    even : bool
        Whether it keeps the limits of bend, drift and step, with a half added: where not, most pixels would not.
    """
    cv2 = _opencv()
    limits = trust or Trust()
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    luma = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames]
    flows = [dis.calc(a, b, None)[::2, ::2].reshape(-1, 2) for a, b in itertools.pairwise(luma)]
    steps = torch.from_numpy(np.stack([np.median(flow, axis=0) for flow in flows]))
    path = torch.cat((torch.zeros(1, 2), steps.cumsum(0)))
    bend, drift = _unevenness(path)
    even = bool(
        bend <= 1.5 * limits.bend and drift <= 1.5 * limits.drift and steps.norm(dim=1).max() <= 1.5 * limits.step
    )
    return float(linear_motion(path).norm()), even


def follow(forward: torch.Tensor, backward: torch.Tensor, reference: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Chain flows into the path of every pixel of the reference frame.

    Each flow is read where the path has come to, between the pixels, so that a path stays with its scene point.

    Parameters
    ----------
    forward, backward : (n - 1, H, W, 2) tensors
        As from `neighbour_flows`.
    reference : int
        The frame whose pixels are followed, to either end.

    Returns
    -------
    path : (n, H, W, 2) tensor
        Position (x, y) in each frame.
    round_trip : (H, W) tensor
        Sum over the steps of the distance between a point and itself after the step forth and back, in pixels.
    """
    height, width = forward.shape[1:3]
    start = _grid(height, width)
    path = [start] * (len(forward) + 1)
    round_trip = torch.zeros(height, width)
    ahead = [(k, k + 1, forward[k], backward[k]) for k in range(reference, len(forward))]
    back = [(k, k - 1, backward[k - 1], forward[k - 1]) for k in range(reference, 0, -1)]
    for here, there, out, home in ahead + back:
        step = _sample(out, path[here])
        path[there] = path[here] + step
        round_trip += (step + _sample(home, path[there])).norm(dim=-1)
    return torch.stack(path), round_trip


def linear_motion(path: torch.Tensor) -> torch.Tensor:
    """Return the straight motion (H, W, 2) of paths (n, H, W, 2): the chord times n / (n - 1), canonical."""
    n = len(path)
    return canonical((path[-1] - path[0]) * (n / (n - 1)))


def _unevenness(path: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bend and drift of paths (n, ..., 2), as `Trust` counts them, each (...)."""
    chord = path[-1] - path[0]
    length = chord.norm(dim=-1).clamp(min=1e-6)
    time = torch.arange(len(path), dtype=path.dtype).view(-1, *(1,) * (path.ndim - 1)) / (len(path) - 1)
    off = path - path[0] - chord * time
    along = (off * (chord / length[..., None])).sum(-1)
    across = (off.square().sum(-1) - along**2).clamp(min=0).sqrt()
    bend, drift = across.amax(0), along.abs().amax(0)
    return torch.where(bend <= 1, 0.0, bend / length), torch.where(drift <= 1, 0.0, drift / length)


def _box(image: torch.Tensor, side: int) -> torch.Tensor:
    """Mean over side x side pixels, of what there is of them at the border; (..., H, W)."""
    flat = image.reshape(-1, 1, *image.shape[-2:])
    mean = F.avg_pool2d(flat, side, stride=1, padding=side // 2, count_include_pad=False)
    return mean.view(image.shape)


def _texture(luma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the root of the structure tensor's smaller eigenvalue, and its ratio to the larger's, each (H, W)."""
    dy, dx = torch.gradient(luma)
    a, b, c = _box(torch.stack((dx * dx, dx * dy, dy * dy)), 21)
    mean, half = (a + c) / 2, torch.sqrt(((a - c) / 2) ** 2 + b**2)
    small, large = (mean - half).clamp(min=0).sqrt(), (mean + half).sqrt()
    return small, small / large.clamp(min=1e-6)


def measure(
    luma: torch.Tensor, path: torch.Tensor, round_trip: torch.Tensor, blurred: torch.Tensor, reference: int
) -> dict[str, torch.Tensor]:
    """Return what `Trust` sets limits to, each (H, W) and named as there, and whether the path stays in the frame.

    Parameters
    ----------
    luma : (n, H, W) tensor
        Frames in [0, 1].
    path, round_trip : tensors
        From `follow`.
    blurred : (H, W) tensor
        Mean of the frames.
    reference : int
        The middle frame.
    """
    n, height, width = luma.shape
    length = (path[-1] - path[0]).norm(dim=-1)
    bend, drift = _unevenness(path)
    residual = torch.zeros(height, width)
    for k in range(n):
        seen = _sample(luma[k][..., None], path[k])[..., 0]
        residual = torch.maximum(residual, _box((seen - luma[reference]).abs(), 5))
    deviation = (_box(luma[reference] ** 2, 5) - _box(luma[reference], 5) ** 2).clamp(min=0).sqrt()
    texture, isotropy = _texture(luma[reference])
    motion = linear_motion(path)
    # Where a broken flow claims more, the few samples are still enough to refute it.
    samples = min(int(motion.norm(dim=-1).max()) + 2, 100)
    again = line_blur(luma[reference][None, None], motion[None], samples)[0, 0]
    # An even number of frames and a changing speed set the blur's middle off the reference; the label is not at fault.
    registered = _sample(blurred[..., None], path.mean(0))[..., 0]
    last = torch.tensor([width - 1.0, height - 1.0])
    return {
        "round_trip": round_trip - 0.1 * length,
        "residual": residual - deviation / 3,
        "reblur": _box((again - registered).abs(), 5),
        "bend": bend,
        "drift": drift,
        "texture": texture,
        "isotropy": isotropy,
        "step": (path[1:] - path[:-1]).norm(dim=-1).amax(0),
        "inside": ((path >= 0) & (path <= last)).all(-1).all(0),
    }


def frame_pair(frames: np.ndarray, linear_light: bool = False, trust: Trust | None = None) -> FramePair:
    """Average consecutive frames and label how each pixel of the middle one moved.

    Parameters
    ----------
    frames : (n, H, W, 3) uint8 array
        sRGB; n >= 2, H and W >= 32.
    linear_light : bool
        Average in linear light.
    trust : Trust, optional
        Limits for the labels.

    Returns
    -------
    FramePair

    Raises
    ------
    ImportError
        If OpenCV is not installed.
    ValueError
        If the frames are not such an array.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 (n, H, W, 3), got {frames.dtype} {frames.shape}")
    if len(frames) < 2 or min(frames.shape[1:3]) < 32:
        raise ValueError(f"at least 2 frames of at least 32 x 32 pixels are needed, got {frames.shape[:3]}")
    weights = torch.tensor(LUMA)
    luma = torch.from_numpy(np.ascontiguousarray(frames)).float() @ weights
    blurred = average_frames(frames, linear_light)
    reference = middle(len(frames))
    path, round_trip = follow(*neighbour_flows(luma.round().byte().numpy()), reference)
    measured = measure(luma / 255, path, round_trip, (luma / 255).mean(0), reference)
    return FramePair(
        (blurred.clamp(0, 1) * 255).round().byte().numpy(),
        frames[reference].copy(),
        linear_motion(path).numpy(),
        (trust or Trust())(measured).numpy(),
    )
