"""What the web page computes: an uploaded file in, files and drawings out. Nothing here knows of a browser.

`open_photo` and `open_kernel` refuse what should not be unpacked, `restore_photo` does the work, `save_outcome` writes
what the page shows and offers. What a user did wrong is raised as `Refused`, a sentence to show to them.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ircdeblur.app.imagefile import SUFFIXES, ImageFileError, Photo, read_photo, write_photo

__all__ = [
    "MODES",
    "Limits",
    "Line",
    "Order",
    "Outcome",
    "Refused",
    "Saved",
    "clean_name",
    "folder_size",
    "open_kernel",
    "open_photo",
    "preview",
    "remove_old",
    "restore_photo",
    "save_outcome",
]

Mode = Literal["blind", "draw", "known kernel"]
Progress = Callable[[float, str], None]

MODES: tuple[Mode, ...] = ("blind", "draw", "known kernel")
"""Where the motion comes from: it is estimated, drawn by hand, or a kernel is given."""

SHOWN = 2000
"""Longer side, in pixels, of the pictures that the page shows; what it offers for download has all pixels."""

MAX_KERNEL_SIDE = 511
"""Largest side of a kernel, in pixels."""

MAX_KERNEL_BYTES = 8 << 20
KERNEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy")

SHORTEST = 2.0
"""Shortest drawn motion in pixels; what is shorter is a slip of the hand."""


class Refused(Exception):
    """The request cannot be met; the message is a sentence for the user, without places on this machine."""


@dataclass(frozen=True)
class Limits:
    """What is accepted.

    Attributes
    ----------
    pixels : int
        Largest picture.
    bytes : int
        Largest file.
    """

    pixels: int = 25_000_000
    bytes: int = 100_000_000


class Line(NamedTuple):
    """A line drawn on the picture, in shares of its width and height: (0, 0) is the top left corner."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Order:
    """What is to be done with a photograph.

    Attributes
    ----------
    mode : {"blind", "draw", "known kernel"}
        Where the motion comes from.
    method : str
        Of `ircdeblur.nets.methods.METHODS`.
    noise : float or None
        Standard deviation on the scale [0, 1]; estimated if None.
    strength : float
        From 0, nothing is changed, to 1.
    length, angle : float
        Drawn motion: pixels of the photograph, and degrees counter-clockwise from the horizontal.
    line : Line or None
        Where it was drawn; needed for `reach`.
    reach : float or None
        Restore only around the line, up to this distance as a share of the longer side, and less and less towards it;
        the whole frame if None.
    kernel : (h, w) array or None
        The known kernel, of sum 1.
    """

    mode: Mode = "blind"
    method: str = "irc-net"
    noise: float | None = None
    strength: float = 1.0
    length: float = 0.0
    angle: float = 0.0
    line: Line | None = None
    reach: float | None = None
    kernel: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was made of a photograph.

    Attributes
    ----------
    pixels : (H, W) or (H, W, 3) float32 array
        The restored picture, on the photograph's scale.
    changed : bool
        Whether anything was restored; if not, `pixels` are those of the photograph.
    motion : (H, W, 2) array or None
        Its motion field in pixels; None for a known kernel.
    error : (H, W) array or None
        Expected error of an estimated motion in pixels.
    kernel : (h, w) or (n, m, h, w) array, or None
        The kernel that was known or found; those of a grid of places if the camera turned.
    headline, text : str
        What happened: in a few words, and in one or two sentences.
    """

    pixels: np.ndarray
    changed: bool
    motion: np.ndarray | None
    error: np.ndarray | None
    kernel: np.ndarray | None
    headline: str
    text: str


class Saved(NamedTuple):
    """Files that were written; None for what there is not."""

    before: Path
    after: Path
    motion: Path | None
    kernels: Path | None
    confidence: Path | None
    download: Path | None
    notes: list[str]


# ---------------------------------------------------------------------------------------------------- uploads


def clean_name(name: str) -> str:
    """Return a file's name without any folder, and with nothing in it but letters, digits, and ``._-`` and blanks."""
    last = re.split(r"[/\\]", name)[-1]
    kept = re.sub(r"[^\w. -]", "_", last).strip(" .")
    stem, suffix = os.path.splitext(kept)
    return (stem[:80] or "photo") + suffix[:8]


def _check_bytes(path: Path, limit: int) -> None:
    try:
        size = path.stat().st_size
    except OSError:
        raise Refused(
            "This file is no longer here: uploads are deleted after a while. Please choose it again."
        ) from None
    if size > limit:
        raise Refused(f"{clean_name(path.name)} has {size / 1e6:.0f} MB, more than the limit of {limit / 1e6:.0f} MB.")


def _say(error: ImageFileError, name: str) -> str:
    what, _, advice = error.args
    return f"{name}: {what}. To do: {advice}."


def open_photo(path: str | Path, limits: Limits) -> Photo:
    """Read an uploaded photograph.

    Parameters
    ----------
    path : path
        The file, whatever it holds.
    limits : Limits
        Both are checked before anything is unpacked.

    Returns
    -------
    Photo

    Raises
    ------
    Refused
        If the file is too large, or no photograph that can be read.
    """
    path = Path(path)
    _check_bytes(path, limits.bytes)
    name = clean_name(path.name)
    try:
        photo = read_photo(path, max_pixels=limits.pixels)
    except ImageFileError as error:
        raise Refused(_say(error, name)) from error
    height, width = photo.pixels.shape[:2]
    if min(height, width) < 8:
        raise Refused(f"{name}: {width} x {height} pixels are too few; a side must have at least 8.")
    return photo


def open_kernel(path: str | Path) -> np.ndarray:
    """Read an uploaded kernel: a picture (.png, .tif) or an array of numbers (.npy). Pickles are never loaded.

    Returns
    -------
    kernel : (h, w) float32 array
        With odd sides, of sum 1.

    Raises
    ------
    Refused
        If it is none, or larger than `MAX_KERNEL_SIDE`.
    """
    from ircdeblur.psf import read_psf

    path = Path(path)
    _check_bytes(path, MAX_KERNEL_BYTES)
    name, suffix = clean_name(path.name), path.suffix.lower()
    if suffix not in KERNEL_SUFFIXES:
        raise Refused(f"{name}: not a kernel. To do: give a .png, .tif or .npy file.")
    try:
        if suffix == ".npy":
            # Mapping the file reads its header only, and checks it against the file's size.
            shape: tuple[int, ...] = np.load(path, mmap_mode="r", allow_pickle=False).shape
        else:
            # The loader of kernels takes whatever libvips knows; this one goes by the first bytes.
            shape = read_photo(path, max_pixels=MAX_KERNEL_SIDE**2).pixels.shape
        if max(shape) > MAX_KERNEL_SIDE:
            raise Refused(f"{name}: a kernel of {' x '.join(map(str, shape))}; at most {MAX_KERNEL_SIDE} a side.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Even sides are padded.
            return read_psf(path)
    except ImageFileError as error:
        raise Refused(_say(error, name)) from error
    except (ValueError, TypeError, OSError, EOFError) as error:
        reason = str(error).replace(str(path), name).strip().splitlines() or ["unreadable"]
        raise Refused(f"{name}: not a kernel that can be read ({reason[0][:160]}).") from error


def remove_old(folder: Path, seconds: float) -> int:
    """Delete the files below a folder that have not been written for so long, and folders that become empty.

    Returns
    -------
    removed : int
        Number of files.
    """
    removed, limit = 0, time.time() - seconds
    for root, folders, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(root, name)
            try:
                if path.lstat().st_mtime < limit:
                    path.unlink()
                    removed += 1
            except OSError:  # Somebody else was faster.
                continue
        for name in folders:
            path = Path(root, name)
            try:
                # A new folder may be about to be written to.
                if path.stat().st_mtime < limit:
                    path.rmdir()
            except OSError:  # Not empty.
                continue
    return removed


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += Path(root, name).lstat().st_size
            except OSError:
                continue
    return total


# --------------------------------------------------------------------------------------------------- the work


def restore_photo(photo: Photo, order: Order, progress: Progress | None = None) -> Outcome:
    """Do what was ordered with a photograph.

    Parameters
    ----------
    photo : Photo
        As `open_photo` returns it.
    order : Order
        What to do.
    progress : callable, optional
        Called with the share that is done, in [0, 1], and a few words; what it raises ends the work.

    Returns
    -------
    Outcome

    Raises
    ------
    Refused
        If the order is incomplete or makes no sense for this photograph.
    """
    follow: Progress = progress if progress is not None else lambda share, text: None
    if order.mode == "blind":
        return _blind(photo, order, follow)
    if order.mode == "draw":
        return _drawn(photo, order, follow)
    if order.kernel is None:
        raise Refused("Give the kernel first: a small picture of it (.png, .tif) or its numbers (.npy).")
    if max(order.kernel.shape) > max(photo.pixels.shape[:2]):
        raise Refused("The kernel is larger than the photograph.")
    sharp = _deconvolve(photo.pixels, order.kernel, order, follow)
    height, width = order.kernel.shape
    return Outcome(sharp, True, None, None, order.kernel, "Restored", f"By your kernel of {width} x {height} pixels.")


def _tiles(follow: Progress) -> Callable[[int, int], None]:
    """Return what follows the tiles of a restoration."""
    return lambda done, total: follow(
        0.1 + 0.8 * done / total, f"Restoring: part {done} of {total} done" if total > 1 else "Restoring"
    )


def _deconvolve(
    pixels: np.ndarray, kernel: np.ndarray, order: Order, follow: Progress, noise: float | None = None
) -> np.ndarray:
    from ircdeblur import restore

    follow(0.1, "Restoring")
    sharp = restore.deconvolve(
        pixels,
        psf=kernel,
        method=order.method,
        noise=order.noise if noise is None else noise,
        progress=_tiles(follow),
    )
    return pixels + np.float32(order.strength) * (sharp - pixels)


def _blind(photo: Photo, order: Order, follow: Progress) -> Outcome:
    from ircdeblur import restore
    from ircdeblur.app.job import describe_kernel
    from ircdeblur.motion import summarize
    from ircdeblur.nets.focus import explain_blur

    follow(0.05, "Estimating the motion, then restoring")
    sharp, motion, error, psf = restore.deblur(
        photo.pixels,
        return_motion=True,
        return_error=True,
        return_psf=True,
        method=order.method,
        noise=order.noise,
        strength=order.strength,
        progress=_tiles(follow),
    )
    if psf is not None:
        what = "one kernel does" if psf.ndim == 2 else "a turning camera does"
        text = f"No straight motions explain the picture, but {what}: {describe_kernel(psf)}. It was undone."
        return Outcome(sharp, True, None, None, psf, "A curved shake", text)
    found, kind = summarize(motion, error), explain_blur(photo.pixels, motion)
    changed = not np.array_equal(sharp, photo.pixels)
    headline, text = _what_was_found(found, changed, order.strength, kind)
    return Outcome(sharp, changed, motion, error, None, headline, text)


def _what_was_found(found: Any, changed: bool, strength: float, kind: str | None) -> tuple[str, str]:
    """Return headline and text for a blind restoration."""
    if found.length is None:
        unchanged = "The picture was left as it is."
        if kind == "defocus":
            return "Out of focus, not moved", (
                f"No motion was found; its spectrum is that of a lens out of focus, which this program does not undo. "
                f"{unchanged}"
            )
        if kind == "sharp":
            return "No motion found", f"The picture looks sharp. {unchanged} If a streak shows, draw it."
        return "No motion found", (
            f"The picture is sharp, or blurred by something other than motion: it cannot be told which. {unchanged} "
            f"If a streak shows, draw it."
        )
    where = (
        f"{found.length:.1f} px at {round(found.angle) % 180}°, on {max(1, round(100 * found.moved))} % of the frame"
    )
    doubt = f"confidence {found.confidence}"
    if kind == "sharp" and not changed and found.confidence == "low":
        return "No motion found", (
            f"The picture looks sharp: what might be motion ({where}) is not to be believed. It was left as it is. If "
            f"a streak shows, draw it."
        )
    if not changed and strength > 0:
        return "Too uncertain to restore", (
            f"A motion was found ({where}), but it may be wrong. The picture was left as it is; draw a streak instead."
        )
    if kind == "defocus":
        return "Probably out of focus", (
            f"The blur looks more like a lens out of focus than like motion, and this program undoes motion only. What "
            f"it took for motion ({where}; {doubt}) was undone: do not trust it."
        )
    if kind == "sharp":
        return "Perhaps sharp already", (
            f"A motion was found and undone: {where}; {doubt}. As a whole the picture looks sharp, so compare the two "
            f"before you keep the result."
        )
    advice = " If the result looks wrong, draw a streak, or lower the strength." if found.confidence == "low" else ""
    return "Restored", f"Motion found: {where}; {doubt}, expected error {found.error:.1f} px.{advice}"


def _drawn(photo: Photo, order: Order, follow: Progress) -> Outcome:
    import torch

    from ircdeblur.kernels import linear_motion_kernel
    from ircdeblur.motion import canonical, from_polar
    from ircdeblur.nets.noise import noise_of

    pixels = photo.pixels
    height, width = pixels.shape[:2]
    length, angle = float(order.length), float(order.angle)
    if not (np.isfinite(length) and np.isfinite(angle)) or length < SHORTEST:
        raise Refused(f"Drag along a streak first: from one end of it to the other, at least {SHORTEST:g} pixels.")
    if length > min(height, width) / 2:
        raise Refused(
            f"A motion of {length:.0f} pixels is longer than half of the picture's shorter side. "
            f"Drag along one streak only: the trace of a single point."
        )
    vector = canonical(from_polar(np.asarray(length), np.asarray(angle % 180.0))).astype(np.float32)
    kernel = linear_motion_kernel(length, angle % 180.0)
    text = f"By the motion that you drew: {length:.1f} px at {round(angle) % 180}°"
    if order.reach is None:
        sharp = _deconvolve(pixels, kernel, order, follow)
        motion = np.broadcast_to(vector, (height, width, 2)).copy()
        return Outcome(sharp, True, motion, None, None, "Restored", f"{text}, on the whole frame.")

    if order.line is None:
        raise Refused("To restore around a line, drag it on the picture.")
    weight = _around(order.line, (height, width), max(order.reach * max(height, width), length))
    # Only what is seen is computed, and what is needed for it.
    margin = int(np.ceil(2 * length)) + 32
    rows, columns = (
        slice(max(0, int(inside[0]) - margin), int(inside[-1]) + margin + 1)
        for inside in (np.flatnonzero(weight.any(1 - axis)) for axis in (0, 1))
    )
    noise = order.noise
    if noise is None:
        planes = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        noise = noise_of(torch.from_numpy(np.ascontiguousarray(planes))[None], kernel)
    part = _deconvolve(pixels[rows, columns], kernel, order, follow, noise)
    sharp = pixels.copy()
    share = weight[rows, columns] if pixels.ndim == 2 else weight[rows, columns, None]
    sharp[rows, columns] += share * (part - pixels[rows, columns])
    return Outcome(sharp, True, weight[..., None] * vector, None, None, "Restored", f"{text}, around the line.")


def _around(line: Line, shape: tuple[int, int], reach: float) -> np.ndarray:
    """Return weights (H, W) float32: 1 near a line, falling smoothly to 0 at a distance in pixels."""
    height, width = shape
    start = np.array((line.x0 * width, line.y0 * height))
    along = np.array((line.x1 * width, line.y1 * height)) - start
    x = np.arange(width)[None] + 0.5 - start[0]
    y = np.arange(height)[:, None] + 0.5 - start[1]
    place = np.clip((x * along[0] + y * along[1]) / max(float(along @ along), 1e-9), 0, 1)
    distance = np.hypot(x - place * along[0], y - place * along[1])
    fall = np.clip((distance - reach / 2) / (reach / 2), 0, 1)
    return (0.5 + 0.5 * np.cos(np.pi * fall)).astype(np.float32)


# ------------------------------------------------------------------------------------------------ what is shown


def preview(pixels: np.ndarray, photo: Photo, longest: int = SHOWN) -> bytes:
    """Return pixels as a JPEG for the screen, with the photograph's colour profile.

    Parameters
    ----------
    pixels : (H, W) or (H, W, 3) float array
        On the photograph's scale; clipped to [0, 1].
    photo : Photo
        Whose profile is attached.
    longest : int
        Longer side at most, in pixels.
    """
    import pyvips

    height, width = pixels.shape[:2]
    bands = pixels.shape[2] if pixels.ndim == 3 else 1
    samples = np.ascontiguousarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    image = pyvips.Image.new_from_memory(samples.data, width, height, bands, "uchar")
    image = image.copy(interpretation="srgb" if bands == 3 else "b-w")
    if max(height, width) > longest:
        image = image.resize(longest / max(height, width))
    if isinstance(profile := photo.metadata.get("icc-profile-data"), bytes):
        image = image.copy()
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    return bytes(image.write_to_buffer(".jpg", Q=92, subsample_mode="off", optimize_coding=True))


def _png(drawing: np.ndarray) -> bytes:
    import pyvips

    height, width, bands = drawing.shape
    image = pyvips.Image.new_from_memory(np.ascontiguousarray(drawing).data, width, height, bands, "uchar")
    return bytes(image.copy(interpretation="srgb").write_to_buffer(".png"))


def save_outcome(outcome: Outcome, photo: Photo, folder: Path) -> Saved:
    """Write what the page shows, and the restored photograph, to a new folder of a name that cannot be guessed.

    Parameters
    ----------
    outcome : Outcome
        What was made of the photograph.
    photo : Photo
        The photograph; the download has its format, bit depth and metadata.
    folder : Path
        Where the new folder is made; it must exist.

    Returns
    -------
    Saved

    Raises
    ------
    Refused
        If the files cannot be written.
    """
    from ircdeblur.plots import draw_confidence, draw_kernel, draw_kernels, draw_motion
    from ircdeblur.psf import kernel_sheet

    place = Path(folder, secrets.token_hex(16))
    try:
        place.mkdir(mode=0o700)

        def write(name: str, data: bytes) -> Path:
            (place / name).write_bytes(data)
            return place / name

        pixels, motion, error = photo.pixels, outcome.motion, outcome.error
        files: dict[str, Path | None] = {"motion": None, "kernels": None, "confidence": None, "download": None}
        if motion is not None:
            files["motion"] = write("motion.png", _png(draw_motion(pixels, motion, error)))
            files["kernels"] = write("kernels.png", _png(draw_kernels(pixels, motion, error)))
        if motion is not None and error is not None:
            files["confidence"] = write("confidence.png", _png(draw_confidence(pixels, motion, error)))
        if outcome.kernel is not None:
            files["kernels"] = write("kernel.png", _png(draw_kernel(kernel_sheet(outcome.kernel))))
        before = write("before.jpg", preview(pixels, photo))
        after = write("after.jpg", preview(outcome.pixels, photo)) if outcome.changed else before
        notes = list(photo.notes)
        if outcome.changed:
            name = Path(clean_name(photo.path.name))
            fitting = SUFFIXES.get(name.suffix.lower()) == photo.format
            suffix = name.suffix if fitting else {"jpeg": ".jpg", "tiff": ".tif"}.get(photo.format, f".{photo.format}")
            download = place / f"{name.stem}_sharp{suffix}"
            notes += write_photo(download, outcome.pixels, photo)
            files["download"] = download
    except (ImageFileError, OSError) as error:
        shutil.rmtree(place, ignore_errors=True)
        raise Refused("The result cannot be written on the server; perhaps its disk is full.") from error
    return Saved(before, after, files["motion"], files["kernels"], files["confidence"], files["download"], notes)
