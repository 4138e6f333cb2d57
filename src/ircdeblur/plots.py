"""Drawings of what the package computes, as arrays; matplotlib's global state is not touched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ircdeblur.metrics import motion_mse
from ircdeblur.motion import CERTAIN, DOUBTFUL, STILL, check_motion, confidence, kernel_at, to_polar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LONGEST_SIDE, _SHORTEST_LONG_SIDE = 2000, 800
_LEGEND = 200
_ARROWS = 14
# Where nothing moved, the colours stay pale instead of showing the errors of the estimate in full.
_SMALLEST_RIM = 8.0
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


class _Sheet:
    """A white sheet on which pictures and text are placed by pixels from the top left corner."""

    def __init__(self, width: int, height: int):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.size = (width, height)
        self._figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
        self._canvas = FigureCanvasAgg(self._figure)

    def axes(self, left: float, top: float, wide: float, high: float) -> Axes:
        """Return axes without frame over a rectangle."""
        width, height = self.size
        axes = self._figure.add_axes((left / width, 1 - (top + high) / height, wide / width, high / height))
        axes.set_axis_off()
        return axes

    def text(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write centred text whose upper edge is at `y`."""
        place = (x / self.size[0], 1 - y / self.size[1])
        self._figure.text(*place, text, **{"ha": "center", "va": "top", "fontsize": 10, **options})

    def pixels(self) -> np.ndarray:
        """Return the sheet as a uint8 array (h, w, 3)."""
        self._canvas.draw()
        return np.ascontiguousarray(np.asarray(self._canvas.buffer_rgba())[..., :3])


def _grey(image: np.ndarray) -> np.ndarray:
    """Return the luma (H, W) of a photograph (H, W), (H, W, 1) or (H, W, 3), or refuse it."""
    shape = np.shape(image)
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        raise ValueError(f"image must have shape (H, W), (H, W, 1) or (H, W, 3), got {shape}")
    image = np.asarray(image)
    grey = image.astype(np.float32)
    if image.dtype.kind == "u":
        grey /= np.iinfo(image.dtype).max
    if grey.ndim == 3:
        grey = grey @ _LUMA if grey.shape[2] == 3 else grey[..., 0]
    return np.clip(grey, 0, 1)


def _rim(longest: float) -> float:
    """Return the length of the full colour: an even number of pixels, so that half of it is a whole one."""
    return max(2.0 * math.ceil(longest / 2 - 1e-3), _SMALLEST_RIM)


def draw_motion(image: np.ndarray, motion: np.ndarray, error: np.ndarray | None = None) -> np.ndarray:
    """Draw a motion field over its photograph: colours, double-headed arrows, and a legend at the right.

    The arrows' lengths are proportional to those of the motions; the longest 2 % have the full colour and length. Where
    the motion is uncertain, colours and arrows are faded; up to a length of `ircdeblur.motion.STILL` there is no arrow.

    Parameters
    ----------
    image : (H, W), (H, W, 1) or (H, W, 3) array
        Photograph in [0, 1]; it is shown in grey.
    motion : (H, W, 2) array
        Pixels; u right, v down.
    error : (H, W) array, optional
        Expected error of each vector in pixels; nothing is faded without it.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
        The photograph, enlarged or reduced to between 800 and 2000 pixels on its longer side, and the legend.
    """
    grey = _grey(image)
    field = check_motion(motion, grey.shape)
    length = to_polar(field)[0]
    belief = np.ones_like(length) if error is None else confidence(field, error)
    believed = length[belief >= 0.5]
    # A few long vectors must not make all others pale.
    rim = _rim(float(np.percentile(believed if believed.size else length, 98)))
    step = -(-max(grey.shape) // _LONGEST_SIDE)
    grey, field, belief = (a[::step, ::step] for a in (grey, field, belief))

    zoom = max(1.0, _SHORTEST_LONG_SIDE / max(grey.shape))
    width, height = (max(1, round(n * zoom)) for n in grey.shape[::-1])
    lines = [f"longer arrow: longer motion\nnone: at most {STILL:g} px"]
    if error is not None:
        lines.append("faded: uncertain")
    sheet = _Sheet(width + _LEGEND, max(height, _LEGEND + 80))
    picture = sheet.axes(0, 0, width, height)
    # The photograph darkens the colours, both stay visible; what is faded is the photograph itself.
    shade = grey[..., None]
    colours = shade + belief[..., None] * (motion_colors(field, rim) * (0.3 + 0.7 * shade) - shade)
    picture.imshow(colours, interpolation="bilinear", aspect="auto")
    _draw_arrows(picture, field, max(grey.shape) / _ARROWS, rim, max(grey.shape) / _SHORTEST_LONG_SIDE, belief)
    _draw_wheel(sheet, width + 30, 25, _LEGEND - 60, rim)
    sheet.text(width + _LEGEND / 2, _LEGEND + 20, "\n".join(lines), fontsize=9)
    return sheet.pixels()


def _draw_wheel(sheet: _Sheet, left: float, top: float, side: float, rim: float) -> None:
    """Draw the colours and arrows of all motions up to a length, the ring of half of it, and write both lengths."""
    wheel = sheet.axes(left, top, side, side)
    y, x = np.mgrid[-1:1:121j, -1:1:121j]
    vectors = rim * np.stack((x, y), axis=-1)
    inside = np.clip((1 - np.hypot(x, y)) * 60, 0, 1)
    wheel.imshow(np.dstack((motion_colors(vectors, rim), inside)), interpolation="bilinear", extent=(-1, 1, 1, -1))
    turn = np.linspace(0, 2 * np.pi, 181)
    for radius in (0.5, 1.0):
        wheel.plot(radius * np.cos(turn), radius * np.sin(turn), color="black", linewidth=0.7, clip_on=False)
    around = np.deg2rad(np.arange(0, 360, 45))
    places = 0.75 * np.stack((np.cos(around), np.sin(around)), axis=-1)
    _add_arrows(wheel, places, places * 0.22 / 0.75, 2 / side, np.ones(len(places)))
    sheet.text(left + side / 2, top + side + 5, f"ring {rim / 2:.0f} px\nrim {rim:.0f} px or more")


def _draw_arrows(axes: Axes, motion: np.ndarray, spacing: float, rim: float, pixel: float, belief: np.ndarray) -> None:
    """Draw double-headed arrows on a grid; a motion as long as the rim fills its cell."""
    rows, columns = (
        np.unique((np.arange(spacing / 2, n, spacing) if n > spacing else np.array([n / 2])).astype(int))
        for n in motion.shape[:2]
    )
    x, y = (a.ravel() for a in np.meshgrid(columns, rows))
    length = to_polar(motion)[0][y, x]
    shown = (length > STILL) & (belief[y, x] > 0.05)
    x, y, length = x[shown], y[shown], length[shown]
    half = motion[y, x] * (0.47 * spacing / np.maximum(length, rim))[:, None]
    _add_arrows(axes, np.stack((x, y), axis=-1), half, pixel, belief[y, x])


def _add_arrows(axes: Axes, centres: np.ndarray, half: np.ndarray, pixel: float, alpha: np.ndarray) -> None:
    """Add double-headed arrows from ``centres - half`` to ``centres + half``.

    All (N, 2) in data units, `pixel` of which are one pixel of the sheet; `alpha` (N,) is their opacity.
    """
    from matplotlib.collections import PolyCollection

    if not len(centres):
        return
    reach = np.hypot(half[:, 0], half[:, 1])[:, None]
    along = half / reach
    across = np.stack((-along[:, 1], along[:, 0]), axis=-1)
    # Short arrows have no room for heads: they become needles, which still show the angle.
    head = np.minimum(11 * pixel, 0.7 * reach)
    shaft = np.full_like(reach, 1.5 * pixel)
    wide = np.maximum(0.55 * head, shaft)
    outline = [(reach, 0 * reach), (reach - head, wide), (reach - head, shaft), (head - reach, shaft)]
    outline += [(head - reach, wide)]
    outline += [(-a, -b) for a, b in outline]
    corners = np.stack([centres + a * along + b * across for a, b in outline], axis=1)
    black, white = np.zeros((len(centres), 4)), np.ones((len(centres), 4))
    black[:, 3] = white[:, 3] = alpha
    arrows = PolyCollection(list(corners), facecolors=white, edgecolors=black, linewidths=0.9, zorder=3)
    axes.add_collection(arrows, autolim=False)


_KERNEL_PANEL = 150
_KERNEL_CELL = (190, 225)
_MOST_ZOOM = 24


def draw_kernels(image: np.ndarray, motion: np.ndarray, error: np.ndarray | None = None) -> np.ndarray:
    """Draw the blur kernels of a grid of places over the photograph, each where it applies.

    All kernels are enlarged alike, so that their pixels show and their sizes compare. The brightness is the square root
    of the weight, 1 for the largest weight of each, so that faint pixels show too. Below stand the place (x, y from the
    top left corner), length and angle. Uncertain ones are marked.

    Parameters
    ----------
    image : (H, W), (H, W, 1) or (H, W, 3) array
        Photograph in [0, 1]; it is shown in grey.
    motion : (H, W, 2) array
        Pixels; u right, v down.
    error : (H, W) array, optional
        Expected error of each vector in pixels.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
        1200 pixels on the photograph's longer side.
    """
    grey = _grey(image)
    field = check_motion(motion, grey.shape)
    belief = np.ones(grey.shape) if error is None else confidence(field, error)
    rows, columns = grey.shape
    zoom = 1200 / max(grey.shape)
    width, height = max(1, round(columns * zoom)), max(1, round(rows * zoom))
    cell_wide, cell_high = _KERNEL_CELL
    xs, ys = (
        np.unique(((np.arange(max(1, drawn // cell)) + 0.5) * n / max(1, drawn // cell)).astype(int))
        for drawn, cell, n in ((width, cell_wide, columns), (height, cell_high, rows))
    )
    kernels = {(int(x), int(y)): kernel_at(field, int(x), int(y)) for y in ys for x in xs}
    side = max(max(kernel.shape) for kernel in kernels.values())
    times = min(_MOST_ZOOM, _KERNEL_PANEL // side)

    sheet = _Sheet(max(width, cell_wide), max(height, cell_high))
    step = -(-max(grey.shape) // _LONGEST_SIDE)
    sheet.axes(0, 0, width, height).imshow(
        0.35 + 0.65 * grey[::step, ::step], cmap="gray", vmin=0, vmax=1, interpolation="bilinear", aspect="auto"
    )
    high = _KERNEL_PANEL + 46
    for (x, y), kernel in kernels.items():
        left = int(np.clip(round((x + 0.5) * zoom - _KERNEL_PANEL / 2), 0, sheet.size[0] - _KERNEL_PANEL))
        top = int(np.clip(round((y + 0.5) * zoom - _KERNEL_PANEL / 2), 0, sheet.size[1] - high))
        panel = np.full((high, _KERNEL_PANEL, 3), 0.12, dtype=np.float32)
        cells = _enlarged(kernel, times)[:_KERNEL_PANEL, :_KERNEL_PANEL]
        corner = [(_KERNEL_PANEL - n) // 2 for n in cells.shape[:2]]
        panel[corner[0] : corner[0] + cells.shape[0], corner[1] : corner[1] + cells.shape[1]] = cells
        sheet.axes(left, top, _KERNEL_PANEL, high).imshow(panel, interpolation="nearest", aspect="auto")
        length, angle = (float(a) for a in to_polar(field[y, x]))
        what = f"{length:.1f} px, {round(angle) % 180}°" if length > 1 else "no blur"
        sure = belief[y, x] >= 0.5
        sheet.text(
            left + _KERNEL_PANEL / 2,
            top + _KERNEL_PANEL + 2,
            f"x {x}, y {y}\n{what}" + ("" if sure else "\nuncertain"),
            color="white" if sure else "orange",
            fontsize=9,
        )
    return sheet.pixels()


def _enlarged(kernel: np.ndarray, times: int) -> np.ndarray:
    """Return a kernel as RGB, each element a square of `times` pixels with a seam; kernels beyond the panel shrink."""
    if times < 1:
        step = -(-max(kernel.shape) // _KERNEL_PANEL)
        kernel, times = kernel[::step, ::step], 1
    cells = np.kron(np.sqrt(kernel / kernel.max()), np.ones((times, times)))
    if times >= 4:
        cells[times - 1 :: times] = cells[:, times - 1 :: times] = 0.3
    return np.repeat(cells[..., None], 3, axis=2)


def draw_kernel(kernel: np.ndarray) -> np.ndarray:
    """Draw one blur kernel, enlarged until its pixels show.

    Parameters
    ----------
    kernel : (h, w) array
        Non-negative, with a positive value. The brightness is the square root of the weight, 1 for the largest one.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
        Its longer side has some 500 pixels.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 2 or kernel.size == 0 or not (kernel.min() >= 0 and kernel.max() > 0):
        raise ValueError("kernel must be two-dimensional, non-negative and not all zero")
    cells = _enlarged(kernel, max(500 // max(kernel.shape), 1))
    return np.rint(255 * cells).astype(np.uint8)


def draw_confidence(image: np.ndarray, motion: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Draw how far an estimated motion is to be believed over its photograph, with a legend at the right.

    Parameters
    ----------
    image : (H, W), (H, W, 1) or (H, W, 3) array
        Photograph in [0, 1]; it is shown in grey.
    motion : (H, W, 2) array
        Pixels; u right, v down.
    error : (H, W) array
        Expected error of each vector in pixels; see `ircdeblur.motion.confidence`.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
        The photograph, enlarged or reduced to between 800 and 2000 pixels on its longer side, and the legend.
    """
    from matplotlib import colormaps

    grey = _grey(image)
    field = check_motion(motion, grey.shape)
    belief = confidence(field, error)
    still = to_polar(field)[0] <= STILL
    step = -(-max(grey.shape) // _LONGEST_SIDE)
    grey, belief, still = (a[::step, ::step] for a in (grey, belief, still))
    zoom = max(1.0, _SHORTEST_LONG_SIDE / max(grey.shape))
    width, height = (max(1, round(n * zoom)) for n in grey.shape[::-1])
    sheet = _Sheet(width + _LEGEND, max(height, _LEGEND + 150))
    # Brightness tells the steps apart, too, for those who do not see the colours.
    scale = colormaps["YlGnBu"].reversed()
    shade = 0.35 + 0.65 * grey[..., None]
    colours = np.where(still[..., None], shade, 0.45 * scale(0.9 - 0.7 * belief)[..., :3] + 0.55 * shade)
    sheet.axes(0, 0, width, height).imshow(colours, interpolation="bilinear", aspect="auto")
    bar = sheet.axes(width + 30, 40, 28, _LEGEND - 20)
    bar.imshow(0.45 * scale(np.linspace(0.2, 0.9, 128))[:, None, :3] + 0.45, interpolation="bilinear", aspect="auto")
    sheet.text(width + 66, 40, f"believed: error\nup to {CERTAIN:.0%} of\nthe length", ha="left", fontsize=9)
    sheet.text(width + 66, _LEGEND - 18, f"not believed:\n{DOUBTFUL:.0%} or more", ha="left", fontsize=9)
    sheet.text(width + 30, _LEGEND + 40, f"grey: moved at\nmost {STILL:g} px", ha="left", fontsize=9)
    return sheet.pixels()


_PANELS = 6


def compare_motions(
    image: np.ndarray, truth: np.ndarray, estimates: Mapping[str, np.ndarray], height: int = 220
) -> np.ndarray:
    """Put a blurred photograph, its true motion and estimates of it next to each other, as the paper's Figure 5.

    The colours have one scale, that of the truth; longer vectors have the full colour too. At the right is its wheel.
    After six pictures a new row begins.

    Parameters
    ----------
    image : (H, W), (H, W, 1) or (H, W, 3) array
        In [0, 1].
    truth : (H, W, 2) array
        Pixels; u right, v down.
    estimates : mapping of str to (H, W, 2) array
        By name; the motion MSE is written below, `ircdeblur.metrics.motion_mse`.
    height : int
        Of each picture in pixels, at least 200 to hold the wheel.

    Returns
    -------
    strip : (h, w, 3) uint8 array
    """
    from matplotlib.patches import Rectangle

    if height < 200:
        raise ValueError(f"height must be at least 200 pixels, got {height}")
    grey = _grey(image)
    true = check_motion(truth, grey.shape)
    rim = _rim(float(to_polar(true)[0].max()))
    photo = np.clip(np.asarray(image, dtype=np.float32), 0, 1) if np.shape(image)[2:] == (3,) else grey
    panels = {"blurred": photo, "truth": motion_colors(true, rim)}
    for name, estimate in estimates.items():
        field = check_motion(estimate, grey.shape)
        panels[f"{name}\nMSE {motion_mse(field, true):.2f} px²"] = motion_colors(field, rim)

    gap, text = 6, 40
    # A caption needs some width, however narrow the picture is.
    width = max(1, round(grey.shape[1] * height / grey.shape[0]))
    cell = max(170, width)
    # A letter is about 0.76 pixels wide for each point of the font's size.
    size = min(10.0, cell / (0.76 * max(len(line) for caption in panels for line in caption.splitlines())))
    rows, columns = -(-len(panels) // _PANELS), min(len(panels), _PANELS)
    sheet = _Sheet(columns * (cell + gap) + _LEGEND, rows * (height + text))
    for number, (caption, picture) in enumerate(panels.items()):
        top, left = number // _PANELS * (height + text), number % _PANELS * (cell + gap)
        axes = sheet.axes(left + (cell - width) // 2, top, width, height)
        axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="bilinear", aspect="auto")
        # A field of no motion is as white as the sheet.
        axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, edgecolor="0.6"))
        sheet.text(left + cell / 2, top + height + 4, caption, fontsize=size)
    _draw_wheel(sheet, sheet.size[0] - _LEGEND + 30, 20, _LEGEND - 60, rim)
    return sheet.pixels()


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


def plot_groups(groups: Mapping[str, tuple[Sequence[str], Mapping[str, np.ndarray]]], label: str) -> np.ndarray:
    """Draw a figure of several estimates for groups of things, a panel for each way to group them.

    Parameters
    ----------
    groups : mapping of str to (names, values)
        By what is grouped: the names of its k groups, and by estimate their values (k,), positive.
    label : str
        What the values are; their axis is logarithmic.

    Returns
    -------
    drawing : (h, w, 3) uint8 array
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2 if len(groups) > 1 else 1
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(6 * columns, 3.4 * rows), dpi=100, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in panels.flat[len(groups) :]:
        panel.set_axis_off()
    for panel, (title, (names, estimates)) in zip(panels.flat, groups.items(), strict=False):
        for number, (estimate, values) in enumerate(estimates.items()):
            panel.plot(range(len(names)), values, marker="osD^v"[number % 5], label=estimate)
        panel.set(xlabel=title, yscale="log")
        panel.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
        panel.grid(which="both", alpha=0.3)
    for row in panels:
        row[0].set_ylabel(label)
    panels.flat[0].legend(fontsize=8)
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
