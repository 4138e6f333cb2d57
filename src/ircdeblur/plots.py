"""Drawings of what the package computes, as arrays; matplotlib's global state is not touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ircdeblur.motion import NO_BLUR_LENGTH, check_motion, to_polar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_SIDE, _SHORTEST_LONG_SIDE = 2000, 800
_LEGEND = 200
_ARROWS = 20
# Where nothing moved, the colours stay pale instead of showing the errors of the estimate in full.
_SMALLEST_RIM = 4.0
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def motion_colors(motion: np.ndarray, max_length: float | None = None) -> np.ndarray:
    """Colour a motion field: the hue is the angle, the saturation the length.

    The hue goes round once in 180 degrees, so that m and -m, which are the same blur, have the same colour:
    red is horizontal, turquoise vertical.

    Parameters
    ----------
    motion : (H, W, 2) array
        Pixels; u right, v down.
    max_length : float, optional
        Length in pixels of the full colour; that of the longest vector if not given. White is no motion.

    Returns
    -------
    rgb : (H, W, 3) float32 array
        In [0, 1].
    """
    from matplotlib.colors import hsv_to_rgb

    length, angle = to_polar(check_motion(motion))
    if max_length is None:
        max_length = float(length.max())
    if not (np.isfinite(max_length) and max_length >= 0):
        raise ValueError(f"max_length must be finite and >= 0, got {max_length}")
    saturation = np.clip(length / max_length, 0, 1) if max_length > 0 else np.zeros_like(length)
    hsv = np.stack((angle / 180, saturation, np.ones_like(length)), axis=-1)
    return np.asarray(hsv_to_rgb(hsv), dtype=np.float32)


def draw_motion(image: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Draw a motion field over its photograph: colours, double-headed arrows, and a legend at the right.

    Parameters
    ----------
    image : (H, W), (H, W, 1) or (H, W, 3) array
        Photograph in [0, 1]; it is shown in grey.
    motion : (H, W, 2) array
        Pixels; u right, v down.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
        The photograph, enlarged or reduced to between 800 and 2000 pixels on its longer side, and the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shape = np.shape(image)
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        raise ValueError(f"image must have shape (H, W), (H, W, 1) or (H, W, 3), got {shape}")
    field = check_motion(motion, shape[:2])
    rim = max(float(to_polar(field)[0].max()), _SMALLEST_RIM)
    step = -(-max(shape[:2]) // _LONGEST_SIDE)
    grey, field = np.asarray(image)[::step, ::step].astype(np.float32), field[::step, ::step]
    if grey.ndim == 3:
        grey = grey @ _LUMA if grey.shape[2] == 3 else grey[..., 0]
    grey = np.clip(grey, 0, 1)

    zoom = max(1.0, _SHORTEST_LONG_SIDE / max(grey.shape))
    width, height = (max(1, round(n * zoom)) for n in grey.shape[::-1])
    total = (width + _LEGEND, max(height, _LEGEND))
    dpi = 100
    figure = Figure(figsize=(total[0] / dpi, total[1] / dpi), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)

    def place(left: float, bottom: float, wide: float, high: float) -> Axes:
        axes = figure.add_axes((left / total[0], bottom / total[1], wide / total[0], high / total[1]))
        axes.set_axis_off()
        return axes

    picture = place(0, total[1] - height, width, height)
    # The photograph darkens the colours: both stay visible.
    colours = motion_colors(field, rim) * (0.3 + 0.7 * grey[..., None])
    picture.imshow(colours, interpolation="bilinear", aspect="auto")
    _draw_arrows(picture, field, max(grey.shape) / _ARROWS, rim)

    side = _LEGEND - 60
    wheel = place(width + 30, total[1] - side - 30, side, side)
    y, x = np.mgrid[-1:1:121j, -1:1:121j]
    vectors = rim * np.stack((x, y), axis=-1)
    inside = np.clip((1 - np.hypot(x, y)) * 60, 0, 1)
    wheel.imshow(np.dstack((motion_colors(vectors, rim), inside)), interpolation="bilinear")
    _draw_arrows(wheel, vectors * inside[..., None], 40, rim)
    wheel.text(60, 128, f"rim: {rim:.1f} px", ha="center", va="top", fontsize=11)

    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _draw_arrows(axes: Axes, motion: np.ndarray, spacing: float, rim: float) -> None:
    """Draw double-headed arrows on a grid; a motion as long as the rim fills its cell."""
    rows, columns = (
        np.unique((np.arange(spacing / 2, n, spacing) if n > spacing else np.array([n / 2])).astype(int))
        for n in motion.shape[:2]
    )
    x, y = np.meshgrid(columns, rows)
    vectors = motion[y, x]
    moved = to_polar(vectors)[0] > NO_BLUR_LENGTH
    half = vectors[moved] * (0.45 * spacing / rim)
    for sign in (1, -1):
        axes.quiver(
            x[moved],
            y[moved],
            sign * half[:, 0],
            sign * half[:, 1],
            angles="xy",
            scale_units="xy",
            scale=1,
            units="dots",
            width=2.2,
            headwidth=4,
            headlength=4,
            headaxislength=4,
            minlength=0,
            color="white",
            edgecolor="black",
            linewidth=0.6,
        )


def side_by_side(images: Sequence[np.ndarray], gap: int = 8) -> np.ndarray:
    """Put pictures next to each other, scaled to the height of the highest.

    Parameters
    ----------
    images : sequence of (H, W), (H, W, 1) or (H, W, 3) arrays
        In [0, 1].
    gap : int
        White pixels between them.

    Returns
    -------
    strip : (h, w, 3) float32 array
        In [0, 1].
    """
    from skimage.transform import resize

    height = max(image.shape[0] for image in images)
    parts: list[np.ndarray] = []
    for image in images:
        rgb = np.broadcast_to(image[..., None] if image.ndim == 2 else image, (*image.shape[:2], 3))
        if rgb.shape[0] != height:
            rgb = resize(rgb, (height, max(1, round(rgb.shape[1] * height / rgb.shape[0]))), order=1)
        parts += [rgb, np.ones((height, gap, 3))]
    return np.clip(np.concatenate(parts[:-1], axis=1), 0, 1).astype(np.float32)


def plot_contraction(lengths: np.ndarray, angles: np.ndarray, numbers: np.ndarray, title: str = "") -> np.ndarray:
    """Draw the contraction numbers of a bank of inverse filters over the motions, and their largest per length.

    Parameters
    ----------
    lengths : (m,) array
        Increasing, in pixels.
    angles : (n,) array
        Increasing, in degrees.
    numbers : (m, n) array
        Largest |1 - sum_i D_i K_i| for each length and angle; see `ircdeblur.inverse.InverseBank.contraction`.
    title : str
        Written above.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths, angles, numbers = (np.asarray(a) for a in (lengths, angles, numbers))
    if lengths.ndim != 1 or angles.ndim != 1 or numbers.shape != (lengths.size, angles.size):
        raise ValueError(
            f"numbers must have one row per length and one column per angle, got {numbers.shape} for "
            f"{lengths.shape} lengths and {angles.shape} angles"
        )
    figure = Figure(figsize=(11, 4.5), dpi=100, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(title)
    plane, curve = figure.subplots(1, 2)
    # The colours end at 1: what diverges stands out in red.
    scale = colormaps["viridis"].with_extremes(over="red")
    colours = plane.pcolormesh(lengths, angles, numbers.T, vmin=0, vmax=1, cmap=scale, shading="nearest")
    figure.colorbar(colours, ax=plane, extend="max", label="contraction number")
    plane.set(xlabel="length (px)", ylabel="angle (degrees)")
    curve.plot(lengths, numbers.max(1), label="largest over the angles")
    curve.plot(lengths, numbers.mean(1), label="mean over the angles")
    curve.axhline(1, color="red", linestyle="--", label="diverges from here on")
    curve.set(xlabel="length (px)", ylabel="contraction number", ylim=(0, None))
    curve.legend()
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def plot_quality(
    curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], goal: float, title: str = ""
) -> np.ndarray:
    """Draw PSNR against seconds, with and without the set-up of each method.

    Parameters
    ----------
    curves : dict
        By name: seconds with set-up, seconds without, and PSNR in dB, each (n,).
    goal : float
        PSNR that is marked by a line.
    title : str
        Of that line.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), dpi=100, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    best = max(float(np.max(quality)) for _, _, quality in curves.values())
    for panel, which, label in zip(panels, (0, 1), ("with set-up", "without set-up"), strict=True):
        for number, (name, curve) in enumerate(curves.items()):
            # Markers tell the curves apart where colours do not, and show the iterations.
            panel.plot(curve[which], curve[2], marker="osD^vP*X<>"[number % 10], markersize=4, label=name)
        panel.axhline(goal, color="black", linestyle=":", label=title)
        # The first iterations lie far below; what is compared is the way to the end.
        panel.set(xscale="log", xlabel=f"seconds, {label}", ylim=(goal - 2.5, best + 0.2))
        panel.grid(which="both", alpha=0.3)
    panels[0].set_ylabel("PSNR (dB)")
    panels[1].legend(loc="lower right")
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def captioned(images: Sequence[np.ndarray], captions: Sequence[str], height: int = 320) -> np.ndarray:
    """Put pictures of one size next to each other, each with two lines of text below.

    Parameters
    ----------
    images : sequence of (H, W, 3) arrays
        In [0, 1].
    captions : sequence of str
        One for each.
    height : int
        Of the enlarged pictures in pixels.

    Returns
    -------
    strip : (h, w, 3) uint8 array
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dpi, text, gap = 100, 48, 6
    rows, columns = images[0].shape[:2]
    # A caption needs some width, however narrow the picture is.
    width = max(160, round(columns * height / rows))
    total = (len(images) * (width + gap) - gap, height + text)
    figure = Figure(figsize=(total[0] / dpi, total[1] / dpi), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left = number * (width + gap)
        axes = figure.add_axes((left / total[0], text / total[1], width / total[0], height / total[1]))
        axes.set_axis_off()
        axes.imshow(np.clip(image, 0, 1), interpolation="nearest")
        figure.text(
            (left + width / 2) / total[0], 0.5 * text / total[1], caption, ha="center", va="center", fontsize=10
        )
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
