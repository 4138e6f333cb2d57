"""One HTML page about a run: before and after, motion, kernels, figures, settings, versions.

The page needs nothing but itself: its style, its few lines of script and its pictures are inside. It goes to a mail or
an archive as it is, shows the pictures side by side where scripts are switched off, and names files without their
folders. The pictures are previews; the results themselves are the files that the command has written.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ircdeblur.app.imagefile import Photo, StrPath, atomic_write

if TYPE_CHECKING:
    import pyvips
    import torch

__all__ = ["SUFFIXES", "Entry", "ReportPage", "weights_used"]

SUFFIXES = (".html", ".htm")
"""What a report can be called."""

LONGEST_SIDE = 1200
"""Of a preview, in pixels, on a page of few photographs."""

SHORTEST_SIDE = 320
"""Of a preview on a page of very many."""

FULL_SIZED = 24
"""Photographs up to which previews are of `LONGEST_SIDE`; with more of them they shrink, and the page does not grow."""

DETAIL = (540, 360)
"""Width and height of the detail that is shown pixel by pixel of photographs that the preview reduces."""

_QUALITY = 88

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --soft: #5b626d; --line: #d7dbe0; --back: #fff; --panel: #f5f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a0a7b2; --line: #3a3f47; --back: #15171a; --panel: #1e2126 }
}
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .25rem } h2 { font-size: 1.25rem; overflow-wrap: anywhere; margin: 0 0 .5rem }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem } p { margin: .4rem 0 } .soft { color: var(--soft) }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.25rem }
img { display: block; width: 100%; height: auto; background: var(--panel) }
.pair { display: flex; gap: .5rem; margin: .75rem 0 } .pair > div { flex: 1; min-width: 0; position: relative }
.pair span { position: absolute; top: .5rem; left: .5rem; padding: .05rem .5rem; border-radius: .25rem; color: #fff;
  background: rgba(0, 0, 0, .6); font-size: .85rem; pointer-events: none }
.pair.slider { display: block; position: relative; max-width: 900px; --cut: 50% }
.pair.slider > .after { position: absolute; inset: 0; clip-path: inset(0 0 0 var(--cut)) }
.pair.slider > .after span { left: auto; right: .5rem }
.pair.slider::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px;
  margin-left: -1px; background: #fff; box-shadow: 0 0 3px #000; pointer-events: none }
.pair input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0; cursor: ew-resize;
  touch-action: pan-y; z-index: 1 }
.pair input:focus-visible { opacity: .35 }
.pair.small { max-width: 1088px } .pair.small.slider { max-width: 540px }
.drawings { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)) }
.drawings > div { min-width: 0 }
table { border-collapse: collapse; max-width: 100% }
th, td { text-align: left; vertical-align: top; padding: .2rem 1.25rem .2rem 0; overflow-wrap: anywhere }
th { font-weight: 500; color: var(--soft); white-space: nowrap } code { font-size: .85em }
.bad { border-left: 4px solid #c0392b; padding-left: .75rem }
""".strip()

_SCRIPT = """
for (const pair of document.querySelectorAll(".pair")) {
  const bar = document.createElement("input");
  bar.type = "range"; bar.min = 0; bar.max = 100; bar.step = 0.1; bar.value = 50;
  bar.setAttribute("aria-label", "share of the picture that is shown before deblurring, in percent");
  bar.addEventListener("input", () => pair.style.setProperty("--cut", bar.value + "%"));
  pair.append(bar); pair.classList.add("slider");
}
""".strip()


class Entry(NamedTuple):
    """One photograph of a report.

    Attributes
    ----------
    photo : Photo
        What was read.
    output : Path
        File of the result.
    sharp : (H, W) or (H, W, 3) array
        The result, on the scale of ``photo.pixels``.
    seconds : float
        That it took, reading and writing left out.
    motion : (H, W, 2) array or None
        Estimated or given motion in pixels.
    error : (H, W) array or None
        Expected error of each vector in pixels; None where the motion was given.
    kernel : (h, w) or (n, m, h, w) array, or None
        The kernel, where one was given or found in place of a motion; those of a grid of places if the camera turned.
    """

    photo: Photo
    output: Path
    sharp: np.ndarray
    seconds: float
    motion: np.ndarray | None = None
    error: np.ndarray | None = None
    kernel: np.ndarray | None = None


class ReportPage:
    """A page that grows by a section for each photograph and is written at the end.

    Parameters
    ----------
    command : str
        What was run: "deblur" or "deconvolve".
    settings : mapping of str to object
        Its options, as they are to be shown.
    weights : sequence of Path
        Files of the networks that were used; their sha256 is shown.
    count : int
        How many photographs there will be: of many, smaller previews are kept.
    noise : float, optional
        Standard deviation of the noise on the [0, 1] scale, if it was given; else it is estimated, as the run does.
    linear_light : bool or "auto"
        Whether the run works on linear values; the estimate is of these, then. "auto": as the run finds it.
    """

    def __init__(
        self,
        command: str,
        settings: Mapping[str, object],
        weights: Sequence[Path],
        count: int,
        noise: float | None = None,
        linear_light: bool | Literal["auto"] = False,
    ) -> None:
        self._command = command
        self._settings = dict(settings)
        self._weights = list(weights)
        self._noise = noise
        self._linear_light = linear_light
        self._side = _preview_side(count)
        self._titles: list[str] = []
        self._sections: list[str] = []

    def add(self, entry: Entry) -> None:
        """Add the section of a photograph that was done; only its previews are kept."""
        photo = entry.photo
        pictures = [_uint8(photo.pixels), _uint8(entry.sharp)]
        profile = photo.metadata.get("icc-profile-data")
        icc = profile if isinstance(profile, bytes) else None
        light = _is_linear(entry) if self._linear_light == "auto" else self._linear_light
        noise = _noise(entry) if self._noise is None else self._noise
        origin = "estimated" if self._noise is None else "given"
        figures = {**_figures(entry), "noise": f"{100 * noise:.2f} % of the range, {origin}"}
        if self._linear_light == "auto":
            figures["blurred in"] = "linear light" if light else "pixel values"
        parts = [_table(figures)]
        if entry.motion is not None and not _moved(entry.motion):
            parts.append("<p><strong>No motion was found: the photograph was left as it is.</strong></p>")
        parts.append(_pair([_picture(p, self._side, icc) for p in pictures], ""))
        if max(pictures[0].shape[:2]) > self._side:
            window = _detail_window(pictures[0])
            parts.append("<h3>A detail, pixel by pixel</h3>")
            parts.append(_pair([_picture(p[window], max(DETAIL), icc) for p in pictures], " small"))
        parts += _drawings(entry, self._side)
        self._section(photo.path, "".join(parts))

    def fail(self, source: Path, message: str) -> None:
        """Add the section of a photograph that could not be done."""
        self._section(source, f'<p class="bad">{_escaped(message)}</p>')

    def html(self) -> str:
        """Return the page."""
        import ircdeblur

        contents = ""
        if len(self._titles) > 1:
            items = (f'<li><a href="#p{number}">{title}</a></li>' for number, title in enumerate(self._titles, 1))
            contents = f"<nav><ol>{''.join(items)}</ol></nav>"
        made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        policy = (
            f"default-src 'none'; img-src data:; style-src '{_source_hash(_STYLE)}'; "
            f"script-src '{_source_hash(_SCRIPT)}'; base-uri 'none'; form-action 'none'"
        )
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>ircdeblur report</title>\n<style>{_STYLE}</style></head>\n<body>\n"
            f"<h1>ircdeblur {_escaped(self._command)}</h1>\n"
            f'<p class="soft">Made by ircdeblur {_escaped(ircdeblur.__version__)} on {made}. '
            "The pictures of this page are previews.</p>\n"
            f"{contents}\n{''.join(self._sections)}"
            f"<section><h2>Settings</h2>{_table(self._settings)}</section>\n"
            f"<section><h2>Weights</h2>{_table(_checksums(self._weights)) or '<p>No network was used.</p>'}</section>\n"
            f"<section><h2>Versions</h2>{_table(_versions())}</section>\n"
            f"<script>{_SCRIPT}</script>\n</body></html>\n"
        )

    def write(self, path: StrPath, *, overwrite: bool = False) -> None:
        """Write the page, whole or not at all.

        Raises
        ------
        ImageFileError
            If the file exists and is not to be overwritten, or cannot be written.
        """
        text = self.html()
        with atomic_write(path, overwrite=overwrite) as temp:
            temp.write_text(text, encoding="utf-8", newline="\n")

    def _section(self, source: Path, body: str) -> None:
        title = _escaped(source.name)
        self._titles.append(title)
        self._sections.append(f'<section id="p{len(self._titles)}"><h2>{title}</h2>{body}</section>\n')


def weights_used(
    method: str, irc_net: Path | None = None, motion_net: str | None = None, kernel_net: Path | None = None
) -> list[Path]:
    """Return the files of weights that a run reads.

    Parameters
    ----------
    method : str
        Of deconvolution.
    irc_net : Path, optional
        Its own weights, in place of the package's.
    motion_net : str, optional
        Network that finds the motion, or its weights; none if the blur is known.
    kernel_net : Path, optional
        What corrects kernels where the blur is not known, in place of the package's weights.
    """
    from ircdeblur.nets.checkpoints import IRC_NETS, irc_net_path, kernel_net_path, motion_net_path, weights_folder

    files = [] if motion_net is None else [motion_net_path(motion_net), kernel_net_path(kernel_net)]
    if method in IRC_NETS:
        files.append(irc_net_path(irc_net or method))
    elif method == "epll":
        files.append(weights_folder() / "patch-prior.safetensors")
    return files


# --------------------------------------------------------------------------------------------------- what it says


def _figures(entry: Entry) -> dict[str, object]:
    """Return what is said of a photograph, by name."""
    from ircdeblur.motion import summarize

    photo = entry.photo
    height, width = photo.pixels.shape[:2]
    colour = "RGB" if photo.pixels.ndim == 3 else "grey"
    bits = f"{photo.dtype.itemsize * 8} bit" + (" float" if photo.dtype.kind == "f" else "")
    figures: dict[str, object] = {"result": entry.output.name, "picture": f"{width} x {height}, {colour}, {bits}"}
    if entry.kernel is not None:
        # A motion that was estimated beside it was not undone.
        source = "given" if entry.motion is None else "found, of a curved path"
        figures["kernel"] = f"{entry.kernel.shape[-1]} x {entry.kernel.shape[-2]}, {source}"
        if entry.kernel.ndim == 4:
            figures["kernel"] = f"{figures['kernel']} of a camera that turned"
    elif entry.motion is not None:
        found = summarize(entry.motion, entry.error)
        if found.length is None:
            figures["motion"] = "none"
        else:
            figures["motion length"] = (
                f"{found.length:.1f} px in the median, {found.shortest:.1f} to {found.longest:.1f} px "
                "(5th to 95th percentile)"
            )
            figures["motion angle"] = (
                f"{round(found.angle or 0.0) % 180} degrees counter-clockwise from horizontal, "
                f"spread {found.spread:.0f}"
            )
            figures["moved"] = f"{100 * found.moved:.0f} % of the frame"
        if found.sure is not None:
            figures["confidence"] = f"{found.confidence}: {100 * found.sure:.0f} % of what moved is sure"
        if found.error is not None:
            figures["expected error"] = f"{found.error:.1f} px in the median"
        elif entry.error is None:
            figures["motion from"] = "given"
    figures["time"] = f"{entry.seconds:.2f} s"
    return figures


def _noise(entry: Entry) -> float:
    """Return the standard deviation of the noise as a run without ``--noise`` finds it."""
    from ircdeblur.nets.noise import noise_of

    return noise_of(*_blurred(entry))


def _is_linear(entry: Entry) -> bool:
    """Return whether a run takes a photograph as blurred in linear light."""
    from ircdeblur.nets.light import is_linear_light

    image, blur = _blurred(entry)
    return float(image.max()) <= 1.0 and is_linear_light(image, blur)


def _blurred(entry: Entry) -> tuple[torch.Tensor, np.ndarray | torch.Tensor]:
    """Return a photograph (1, C, H, W), and its motion or kernel, that of the middle if there are several."""
    import torch

    from ircdeblur.psf import middle_kernel

    x = torch.from_numpy(entry.photo.pixels)
    x = (x[..., None] if x.ndim == 2 else x).permute(2, 0, 1)[None]
    if entry.kernel is not None:
        return x, middle_kernel(entry.kernel)
    assert entry.motion is not None
    return x, torch.from_numpy(entry.motion)


def _checksums(files: Sequence[Path]) -> dict[str, object]:
    """Return the sha256 of files, by name."""
    return {file.name: f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files}


def _versions() -> dict[str, object]:
    """Return the versions of what decides about the result."""
    import pyvips
    import torch

    import ircdeblur

    return {
        "ircdeblur": ircdeblur.__version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "NumPy": np.__version__,
        "libvips": ".".join(str(pyvips.version(i)) for i in range(3)),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _moved(motion: np.ndarray) -> bool:
    from ircdeblur.motion import summarize

    return summarize(motion).moved > 0


# --------------------------------------------------------------------------------------------------- pictures


def _preview_side(count: int) -> int:
    """Return the longest side of the previews, so that their area in all stays bounded."""
    side = LONGEST_SIDE * math.sqrt(FULL_SIZED / max(count, FULL_SIZED))
    return max(SHORTEST_SIDE, round(side))


def _uint8(pixels: np.ndarray) -> np.ndarray:
    """Return an image in [0, 1] as 8 bit, what is beyond cut off."""
    # Row by row: no second copy of a large photograph in floating point.
    out = np.empty(pixels.shape, dtype=np.uint8)
    for top in range(0, len(pixels), 256):
        rows = slice(top, top + 256)
        out[rows] = (np.clip(pixels[rows], 0, 1) * 255).round()
    return out


def _picture(pixels: np.ndarray, side: int, profile: bytes | None = None) -> str:
    """Return a uint8 array (H, W) or (H, W, 3) as an ``img`` element of at most `side` pixels, in sRGB."""
    import pyvips

    pixels = np.ascontiguousarray(pixels)
    height, width = pixels.shape[:2]
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    image = pyvips.Image.new_from_memory(pixels.data, width, height, bands, "uchar")
    image = image.copy(interpretation="b-w" if bands == 1 else "srgb")
    if max(width, height) > side:
        image = image.resize(side / max(width, height), kernel="lanczos3")
    if profile is not None:
        image = _to_srgb(image, profile)
    data = image.write_to_buffer(".webp", Q=_QUALITY, keep="none")
    text = base64.b64encode(data).decode("ascii")
    return f'<img src="data:image/webp;base64,{text}" width="{image.width}" height="{image.height}"'


def _to_srgb(image: pyvips.Image, profile: bytes) -> pyvips.Image:
    """Return a picture by its colour profile; as it is if the profile is unusable."""
    import pyvips

    tagged = image.copy()
    tagged.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    try:
        # Lazily nothing fails: the profile is read when the pixels are.
        return tagged.icc_transform("srgb", embedded=True).copy_memory()
    except pyvips.Error:
        return image


def _pair(pictures: Sequence[str], kind: str) -> str:
    """Return before and after: side by side, and with the script one over the other with a slider."""
    before, after = (f'{p} alt="{name}">' for p, name in zip(pictures, ("before", "after"), strict=True))
    return (
        f'<div class="pair{kind}"><div class="before">{before}<span>before</span></div>'
        f'<div class="after">{after}<span>after</span></div></div>'
    )


def _drawings(entry: Entry, side: int) -> list[str]:
    """Return the drawings of the motion and of the kernels."""
    shown: list[tuple[str, np.ndarray]] = []
    pixels = np.clip(entry.photo.pixels, 0, 1)
    if entry.kernel is None and entry.motion is not None and _moved(entry.motion):
        from ircdeblur.plots import draw_kernels, draw_motion

        shown = [
            ("Motion", draw_motion(pixels, entry.motion, entry.error)),
            ("Blur kernels", draw_kernels(pixels, entry.motion, entry.error)),
        ]
    if entry.kernel is not None:
        from ircdeblur.psf import kernel_sheet

        title = "Blur kernel, enlarged" if entry.kernel.ndim == 2 else "Blur kernels over the picture, enlarged"
        shown.append((title, _enlarged_kernel(kernel_sheet(entry.kernel))))
    if not shown:
        return []
    items = (f'<div><h3>{title}</h3>{_picture(drawing, side)} alt="{title}"></div>' for title, drawing in shown)
    return [f'<div class="drawings">{"".join(items)}</div>']


def _enlarged_kernel(kernel: np.ndarray) -> np.ndarray:
    """Return a kernel as 8-bit grey, enlarged to some 400 pixels; the brightness is the root of the weight."""
    times = max(1, 400 // max(kernel.shape))
    root = np.sqrt(np.clip(kernel / kernel.max(), 0, 1))
    return np.kron((255 * root).round().astype(np.uint8), np.ones((times, times), dtype=np.uint8))


def _detail_window(pixels: np.ndarray) -> tuple[slice, slice]:
    """Return the window of the photograph, of `DETAIL` pixels or less, with the most detail in it."""
    grey = pixels[..., 1] if pixels.ndim == 3 else pixels
    width, height = (min(n, side) for n, side in zip(DETAIL, grey.shape[::-1], strict=True))
    best, place = -1.0, (0, 0)
    for top in range(0, grey.shape[0] - height + 1, max(1, height // 2)):
        for left in range(0, grey.shape[1] - width + 1, max(1, width // 2)):
            part = grey[top : top + height : 3, left : left + width].astype(np.int16)
            # The root lets many moderate edges weigh more than a single hard one.
            energy = float(np.sqrt(np.abs(np.diff(part, axis=1))).mean())
            if energy > best:
                best, place = energy, (top, left)
    return slice(place[0], place[0] + height), slice(place[1], place[1] + width)


# ------------------------------------------------------------------------------------------------------- HTML


def _table(rows: Mapping[str, object]) -> str:
    """Return names and values as a table; nothing for none."""
    if not rows:
        return ""
    lines = (f"<tr><th scope='row'>{_escaped(k)}</th><td>{_escaped(_shown(v))}</td></tr>" for k, v in rows.items())
    return f"<table>{''.join(lines)}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    """Return text for HTML; what cannot be printed, such as bytes of a file name that are no text, by its code."""
    return html.escape("".join(c if c.isprintable() else repr(c)[1:-1] for c in text), quote=True)


def _source_hash(text: str) -> str:
    """Return the hash by which the page's policy lets exactly this script or style through."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
