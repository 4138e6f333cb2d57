"""What the commands do with one photograph: read it, compute, write the result; and how they say what went wrong.

`deblur`, `deconvolve` and `blur` of the command line, and the folders and clusters of `ircdeblur.app.batch`, share it.
Only what ``--help`` needs is imported on top.
"""

from __future__ import annotations

import errno
import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from ircdeblur.app.imagefile import Photo

__all__ = [
    "MIN_TILE",
    "MOTION_SUFFIXES",
    "Deblurring",
    "Job",
    "Progress",
    "Result",
    "Task",
    "describe_kernel",
    "error_text",
    "one_line",
    "own_warnings",
    "process_file",
    "write_drawing",
    "write_motion_file",
]

MIN_TILE = 256
"""Smallest side of a tile: `ircdeblur.tiles.MIN_TILE`."""

MOTION_SUFFIXES = (".npz", ".flo", ".png")
"""What a motion field can be written as; ``.png`` is a drawing of it."""

Progress = Callable[[int, int], None]
"""Called with the steps that are done and those in all."""


class Result(NamedTuple):
    """What a job makes of one photograph.

    Attributes
    ----------
    pixels : (H, W) or (H, W, 3) array
        The picture to write.
    motion : (H, W, 2) array or None
        Its motion field, if there is one to write.
    text : str
        What to say about it.
    error : (H, W) array or None
        Expected error of the motion, if it was estimated.
    kernel : (h, w) or (n, m, h, w) array, or None
        The kernel of a uniform blur, known or found, or kernels of a grid of places where the camera turned.
    """

    pixels: np.ndarray
    motion: np.ndarray | None = None
    text: str = ""
    error: np.ndarray | None = None
    kernel: np.ndarray | None = None


Job = Callable[["Photo", int, Progress], Result]
"""Makes the result of a photograph; it is given its number too."""


class Task(NamedTuple):
    """One photograph: where it is, and where its result and its motion field go."""

    source: Path
    output: Path
    motion: Path | None


@dataclass(frozen=True)
class Deblurring:
    """The job of ``deblur``: undo a blur that is not known.

    Attributes
    ----------
    method, irc_net, noise, strength, motion_net, consolidation, tile, device, linear_light, runtime, path, kernel_net
        As for `ircdeblur.deblur`.
    whole_motion : bool
        Whether the motion is wanted for every pixel of a large photograph, or just to describe it.
    """

    method: str = "irc-net"
    irc_net: Path | None = None
    noise: float | None = None
    strength: float = 1.0
    motion_net: str = "small"
    consolidation: str = "picture"
    tile: int | Literal["auto"] = "auto"
    device: str = "auto"
    linear_light: bool | Literal["auto"] = "auto"
    runtime: str | Path = "torch"
    path: Literal["any", "straight"] = "any"
    kernel_net: Path | None = None
    whole_motion: bool = True

    def __call__(self, photo: Photo, index: int, progress: Progress) -> Result:
        """Deblur a photograph."""
        from ircdeblur import restore
        from ircdeblur.motion import describe

        sharp, motion, error, psf = restore.deblur(
            photo.pixels,
            return_motion=True,
            return_error=True,
            return_psf=True,
            path=self.path,
            kernel_net=self.kernel_net,
            motion_step=1 if self.whole_motion else motion_step(photo),
            method=self.method,
            irc_net=self.irc_net,
            noise=self.noise,
            strength=self.strength,
            motion_net=self.motion_net,
            consolidation=self.consolidation,
            tile=self.tile,
            device=self.device,
            linear_light=self.linear_light,
            progress=progress,
            runtime=self.runtime,
        )
        text = describe(motion) if psf is None else describe_kernel(psf)
        return Result(sharp, motion, text, error, psf)


def describe_kernel(psf: np.ndarray) -> str:
    """Say in one line what a kernel is that was found, or kernels (n, m, h, w) are: how far the path reaches.

    What has less than a hundredth of its largest value is no part of a path.
    """
    import numpy as np

    from ircdeblur.psf import middle_kernel

    kernel = middle_kernel(psf)
    height, width = (int(np.ptp(places)) + 1 for places in np.nonzero(kernel > 0.01 * kernel.max()))
    if psf.ndim == 4:
        return f"a curved path of a camera that turned, of {width} x {height} px in the middle"
    return f"a curved path, the same all over, of {width} x {height} px"


def motion_step(photo: Photo) -> int:
    """Return at every how many rows and columns to look at the motion, for some million places at most."""
    height, width = photo.pixels.shape[:2]
    return max(1, math.isqrt(height * width // 1_500_000))


def process_file(
    task: Task,
    job: Job,
    note: Callable[[Sequence[str], Path], None],
    *,
    index: int = 0,
    progress: Progress = lambda done, total: None,
    overwrite: bool = False,
    finished: Callable[[Photo, Result, float], None] | None = None,
) -> Result:
    """Read a photograph, do a job on it, and write what it makes.

    Parameters
    ----------
    task : Task
        The files; the folders of the outputs must exist.
    job : Job
        What to do.
    note : callable
        Called with what the user should know, one line each, and the file that it is about.
    index : int
        Number of the photograph, for the job.
    progress : Progress
        Called by the job.
    overwrite : bool
        Replace files that exist.
    finished : callable, optional
        Called with the photograph, the result, and the seconds that the job took, when all is written.

    Raises
    ------
    ImageFileError
        If a file cannot be read or written.
    Exception
        What the job raises.
    """
    from ircdeblur.app.imagefile import check_output, read_photo, write_photo

    photo = read_photo(task.source, stored=True)
    note(photo.notes, task.source)
    check_output(task.output, overwrite=overwrite, inputs=[task.source], photo=photo)
    with own_warnings() as texts:
        began = time.perf_counter()
        result = job(photo, index, progress)
        seconds = time.perf_counter() - began
    note(texts, task.source)
    note(write_photo(task.output, result.pixels, photo, overwrite=overwrite), task.output)
    if task.motion is not None and result.motion is not None:
        write_motion_file(task.motion, result.motion, photo.pixels, overwrite)
    if finished is not None:
        finished(photo, result, seconds)
    return result


@contextmanager
def own_warnings() -> Iterator[list[str]]:
    """Collect the warnings that this package gives in the block, each once, and drop all others.

    Yields
    ------
    texts : list of str
        Filled when the block has ended.
    """
    package = str(Path(__file__).parents[1])
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
    found = [
        str(warning.message)
        for warning in caught
        if warning.category in (UserWarning, RuntimeWarning) and warning.filename.startswith(package)
    ]
    texts.extend(dict.fromkeys(found))


def write_motion_file(
    path: Path, motion: np.ndarray, pixels: np.ndarray, overwrite: bool, error: np.ndarray | None = None
) -> None:
    """Write a motion field, or a drawing of it over the picture; that shows the expected errors if they are given."""
    from ircdeblur.app.imagefile import atomic_write

    kind = path.suffix.lower()
    if kind != ".png":
        from ircdeblur.motion import write_motion

        with atomic_write(path, overwrite=overwrite) as temp:
            write_motion(temp, motion, kind)
        return

    from ircdeblur.plots import draw_motion

    write_drawing(path, draw_motion(pixels, motion, error), overwrite)


def write_drawing(path: Path, drawing: np.ndarray, overwrite: bool) -> None:
    """Write a uint8 array (H, W, 3) as a PNG file."""
    import pyvips

    from ircdeblur.app.imagefile import atomic_write

    height, width, bands = drawing.shape
    image = pyvips.Image.new_from_memory(drawing.data, width, height, bands, "uchar").copy(interpretation="srgb")
    data = image.write_to_buffer(".png")
    with atomic_write(path, overwrite=overwrite) as temp:
        temp.write_bytes(data)


def error_text(error: Exception, path: Path | None = None) -> str:
    """Say in one line what went wrong, where, and what to do."""
    from ircdeblur.app.imagefile import ImageFileError

    text = str(error)
    where = f": {path}" if path is not None and str(path) not in text else ""
    if isinstance(error, ImageFileError):
        return text
    if isinstance(error, MemoryError) or _is_out_of_memory(text):
        return one_line(f"not enough memory{where}; add --tile {MIN_TILE}, or make the picture smaller")
    if isinstance(error, OSError) and error.errno is not None:
        place = path if error.filename is None else error.filename
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "check the name and your rights to it"
        return one_line(f"{error.strerror}{f': {place}' if place is not None else ''}; {advice}")
    if isinstance(error, (ValueError, FileNotFoundError)):
        return one_line(f"{text}{where}" + ("" if ";" in text else "; check the input and the options"))
    return one_line(f"internal fault, {type(error).__name__} ({text}){where}; set IRCDEBLUR_DEBUG=1 and report it")


def _is_out_of_memory(text: str) -> bool:
    # The CPU's allocator raises a plain RuntimeError, the GPU's a subclass that says the first.
    return any(phrase in text.lower() for phrase in ("out of memory", "can't allocate memory", "not enough memory"))


def one_line(text: str) -> str:
    """Join lines; show what cannot be printed, such as bytes of a file name that are no text, by its code."""
    joined = re.sub(r"\s*[\n\t]\s*", " ", text.strip())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in joined)
