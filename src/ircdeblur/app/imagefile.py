"""Picture files to arrays and back, with nothing lost: bit depth, alpha, colour profile, EXIF, XMP.

`read_photo` gives a `Photo`: float32 pixels for the computation and beside them all that `write_photo` needs
to store a changed picture the way the first one was stored. `atomic_write` is how every file of this program
is written. The remaining functions turn the INPUT and OUT of a command line into pairs of paths and refuse
early what cannot work.

Formats: PNG (8, 16 bit), JPEG, TIFF (8, 16 bit, float) and WebP, told apart by their content, not by their
name. What goes wrong is raised as `ImageFileError`, one line that says what happened, where, and what to do.
"""

from __future__ import annotations

import errno
import glob
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ircdeblur.app.exif import Exif, ExifError

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "TEMP_PREFIX",
    "ImageFileError",
    "Inputs",
    "OutputPlan",
    "Photo",
    "atomic_write",
    "check_output",
    "expand_inputs",
    "make_folder",
    "output_name",
    "pictures",
    "plan_outputs",
    "read_photo",
    "write_photo",
]

Format = Literal["png", "jpeg", "tiff", "webp"]
StrPath = str | os.PathLike[str]

SUFFIXES: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jfif": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "webp",
}
"""Suffixes (lower case) of the picture files that are read and written, and their format."""

MAX_PIXELS = 500_000_000
"""Largest picture that `read_photo` unpacks unless told otherwise; as RGB it fills some 8 GB of memory."""

# TIFF inside, but the first page is a thumbnail of some hundred pixels.
_RAW_SUFFIXES = frozenset(
    {
        ".3fr",
        ".arw",
        ".cr2",
        ".dng",
        ".erf",
        ".iiq",
        ".kdc",
        ".mef",
        ".mos",
        ".nef",
        ".nrw",
        ".orf",
        ".pef",
        ".srw",
    }
)
_FORMAT_NAMES = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "webp": "WebP"}
_ALL_FORMATS = "PNG, JPEG, TIFF or WebP"
_MAX_SIDE = {"jpeg": 65_500, "webp": 16_383}
_DTYPES = {"uchar": np.uint8, "ushort": np.uint16, "float": np.float32}
_VIPS_FORMATS = {"uint8": "uchar", "uint16": "ushort", "float32": "float"}
_GREY = ("b-w", "grey16")

# A JPEG segment holds less than 64 KB; libvips leaves longer XMP out, libexif longer EXIF tags.
_SEGMENT = 65_500

# What libvips says if the file says nothing, and what is written instead: 25 dots per inch would print metres
# wide.
_NO_RESOLUTION = (1.0, 1.0)
_DEFAULT_RESOLUTION = (72 / 25.4, 72 / 25.4)

TEMP_PREFIX = ".ircdeblur-tmp-"
"""How the names of unfinished files begin; a killed process leaves them."""

_ROWS = 256


class ImageFileError(Exception):
    """A file cannot be read or written; the message is one line: what, where, what to do.

    Parameters
    ----------
    what : str
        What went wrong.
    path : path-like
        The file or folder it happened to.
    advice : str
        What the user can do.
    """

    def __init__(self, what: str, path: StrPath, advice: str) -> None:
        super().__init__(what, os.fspath(path), advice)

    def __str__(self) -> str:
        what, path, advice = self.args
        # A line break or an undecodable byte in a file name must not break the line or the terminal.
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in f"{what}: {path}; {advice}")


@dataclass(eq=False)
class Photo:
    """A picture in memory, and what is needed to write it back as it was.

    Attributes
    ----------
    pixels : (H, W) or (H, W, 3) float32 array
        Grey or RGB. Whole numbers are divided by 255 or 65535, which gives [0, 1] and is undone exactly on
        writing; or they are as stored, of type `dtype`, if `read_photo` was asked for that. Floating-point values
        are kept on their own scale as long as none exceeds 1 in magnitude; otherwise they are divided by `scale`.
        Negative values stay negative.
    alpha : (H, W) array of `dtype`, or None
        Opacity, as stored.
    dtype : numpy dtype
        How the samples are stored: uint8, uint16 or float32.
    scale : float
        1, or for a floating-point file the smallest power of two that no magnitude exceeds: dividing and
        multiplying by it loses nothing. ``pixels * scale`` has the file's own units; two files are to be
        compared in these.
    format : {"png", "jpeg", "tiff", "webp"}
        Format of the file.
    exif : Exif or None
        EXIF tags, with the orientation reset and without the thumbnail.
    metadata : dict
        ICC profile, XMP, IPTC, resolution unit and PNG comments, under libvips' names.
    resolution : (float, float)
        Pixels per millimetre, horizontally and vertically; 72 per inch if the file does not say.
    path : Path
        Where it was read.
    notes : list of str
        What the user should know about the reading, one line each (for example: CMYK was converted to sRGB).
    """

    pixels: npt.NDArray[Any]
    alpha: npt.NDArray[Any] | None
    dtype: np.dtype[Any]
    scale: float
    format: Format
    exif: Exif | None
    metadata: dict[str, bytes | str]
    resolution: tuple[float, float]
    path: Path
    notes: list[str] = field(default_factory=list)


class Inputs(NamedTuple):
    """What the INPUT arguments stand for.

    Attributes
    ----------
    paths : list of Path
        The files, in order, each once.
    problems : list of ImageFileError
        One error per argument that stands for no file. The other files can still be processed.
    several : bool
        Whether OUT has to be a folder: several arguments, several files, or a folder among the arguments.
    """

    paths: list[Path]
    problems: list[ImageFileError]
    several: bool


class OutputPlan(NamedTuple):
    """Which file becomes which.

    Attributes
    ----------
    pairs : list of (Path, Path)
        Input and output.
    folder : Path or None
        The folder that holds the outputs, to be made with `make_folder` before work begins if it is missing;
        None if OUT names a file.
    """

    pairs: list[tuple[Path, Path]]
    folder: Path | None


# ---------------------------------------------------------------------------------------------------- reading


def read_photo(path: StrPath, *, max_pixels: int = MAX_PIXELS, stored: bool = False) -> Photo:
    """Read a photograph.

    The orientation that EXIF gives is applied and reset, so no viewer turns the picture a second time. CMYK
    and Lab are converted to sRGB, palettes and 1-bit pictures to 8 bit; colour profiles of RGB and grey
    pictures are kept, not applied. Of several pages the first is read. `Photo.notes` says what was changed.

    Parameters
    ----------
    path : path-like
        PNG, JPEG, TIFF or WebP file.
    max_pixels : int, optional
        Refuse pictures of more pixels, before they are unpacked.
    stored : bool, optional
        Leave whole numbers as they are stored: a quarter or half of the memory of float32 pixels.

    Returns
    -------
    Photo

    Raises
    ------
    ImageFileError
        If there is no such file, it is empty, damaged, cut off, in another format, too large, of an
        unsupported kind of sample, or has NaN or infinity among its values.
    """
    path = Path(path)
    file_format = _identify(path)
    try:
        return _load(path, file_format, max_pixels, stored)
    except MemoryError:
        raise ImageFileError("not enough memory for the picture", path, "make it smaller or cut it") from None


def _identify(path: Path) -> Format:
    """Return the format by the first bytes of a file; refuse what is not a picture file."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageFileError("a folder, not a picture file", path, "name a file in it")
        if not stat.S_ISREG(mode):
            raise ImageFileError("not a regular file", path, f"give a {_ALL_FORMATS} file")
        with path.open("rb") as stream:
            head = stream.read(16)
    except FileNotFoundError:
        raise ImageFileError("no such file", path, "check the name") from None
    except OSError as error:
        raise ImageFileError(f"cannot read ({error.strerror})", path, "check the file and its rights") from error

    found = _format_of(head)
    if not head:
        raise ImageFileError("the file is empty", path, "get a new copy of it")
    if found is None:
        raise ImageFileError(f"not a {_ALL_FORMATS} file", path, "convert it to one of these")
    if found == "tiff" and path.suffix.lower() in _RAW_SUFFIXES:
        raise ImageFileError("a camera's raw file", path, "develop it to a 16-bit TIFF first")
    return found


def _format_of(head: bytes) -> Format | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


def _load(path: Path, file_format: Format, max_pixels: int, stored: bool) -> Photo:
    import pyvips

    notes: list[str] = []
    # libvips adds to its error text; without this it may report the fault of an earlier file.
    pyvips.vips_lib.vips_error_clear()
    try:
        # A source, since a file name may end in what libvips takes for options, and since libvips remembers
        # files by their names. The loader by name, since a JPEG with a gain map would otherwise come as
        # linear floats.
        source = pyvips.Source.new_from_file(os.fsencode(path))
        loader = getattr(pyvips.Image, f"{file_format}load_source")
        image = loader(source, access="sequential", fail_on="error")
        if image.width * image.height > max_pixels:
            raise ImageFileError(
                f"{image.width} x {image.height} pixels, more than the limit of {max_pixels}",
                path,
                "cut the picture into parts",
            )
        pages = image.get("n-pages") if image.get_typeof("n-pages") else 1
        if pages > 1:
            notes.append(f"the file has {pages} pages; only the first was used")

        image = _to_rgb_or_grey(image, path, notes)
        exif = _read_exif(image, path, file_format, notes)
        turned = image.get("orientation") if image.get_typeof("orientation") else 1
        if turned != 1:
            # Turning reads rows out of order, which a sequential image cannot.
            image = image.copy_memory().autorot()
        metadata = _metadata_of(image, file_format)
        samples = image.numpy().reshape(image.height, image.width, image.bands)
    except pyvips.Error as error:
        raise ImageFileError(
            f"damaged or cut-off {_FORMAT_NAMES[file_format]} file ({_reason(error)})",
            path,
            "get a new copy, or open it in an image program and save it again",
        ) from error

    resolution = (image.xres, image.yres)
    colours = 1 if image.interpretation in _GREY else 3
    alpha = np.ascontiguousarray(samples[..., colours]) if image.bands > colours else None
    values = samples[..., 0] if colours == 1 else samples[..., :colours]
    if stored and samples.dtype.kind == "u":
        pixels, scale = np.ascontiguousarray(values), 1.0
    else:
        pixels, scale = _to_pixels(values, path, notes)
    return Photo(
        pixels=pixels,
        alpha=alpha,
        dtype=samples.dtype,
        scale=scale,
        format=file_format,
        exif=exif.for_picture(image.width, image.height) if exif else None,
        metadata=metadata,
        resolution=_DEFAULT_RESOLUTION if resolution == _NO_RESOLUTION else resolution,
        path=path,
        notes=notes,
    )


def _to_rgb_or_grey(image: Any, path: Path, notes: list[str]) -> Any:
    """Return the vips image as grey or RGB, with or without alpha, in uint8, uint16 or float32."""
    if image.interpretation == "cmyk":
        own = image.get_typeof("icc-profile-data") != 0
        image = image.icc_transform(
            "srgb",
            embedded=True,
            input_profile="cmyk",
            intent="relative",
            black_point_compensation=True,
            depth=16 if image.format == "ushort" else 8,
        )
        profile = "its colour profile" if own else "a general profile, as it has none of its own"
        notes.append(f"CMYK was converted to sRGB by {profile}")
    elif image.interpretation in ("lab", "labq", "labs"):
        image = image.colourspace("srgb" if image.interpretation == "labq" else "rgb16")
        notes.append("Lab colour was converted to sRGB")

    if image.interpretation == "multiband" and image.bands <= 2:
        image = image.copy(interpretation="b-w")
    colours = 1 if image.interpretation in _GREY else 3
    if image.bands - colours not in (0, 1):
        raise ImageFileError(
            f"{image.bands} channels that are neither grey nor RGB", path, "save the picture as grey or RGB"
        )
    if image.format not in _DTYPES:
        raise ImageFileError(
            f"samples of the kind '{image.format}'",
            path,
            "save the picture with 8 or 16 bits or as 32-bit float",
        )
    return image


def _read_exif(image: Any, path: Path, file_format: Format, notes: list[str]) -> Exif | None:
    try:
        if file_format == "tiff":
            return Exif.from_tiff(path)
        return Exif.from_block(image.get("exif-data")) if image.get_typeof("exif-data") else None
    except (ExifError, OSError) as error:
        # A photograph is worth more than its label.
        notes.append(f"the EXIF data are damaged and were left out ({error})")
        return None


def _metadata_of(image: Any, file_format: Format) -> dict[str, bytes | str]:
    kept: dict[str, bytes | str] = {}
    for name in image.get_fields():
        own = name in ("icc-profile-data", "xmp-data", "resolution-unit") or name.startswith("png-comment-")
        # IPTC of a TIFF comes with its EXIF tags; libvips cuts it to a quarter if stored as 32-bit numbers.
        if own or (name == "iptc-data" and file_format == "jpeg"):
            kept[name] = image.get(name)
    if isinstance(xmp := kept.get("xmp-data"), bytes):
        # Some viewers take the orientation from here.
        kept["xmp-data"] = re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[1-8]", rb"\g<1>1", xmp)
    return kept


def _to_pixels(samples: npt.NDArray[Any], path: Path, notes: list[str]) -> tuple[npt.NDArray[np.float32], float]:
    """Return samples as contiguous float32 pixels, and the scale they were divided by if they are floats."""
    if samples.dtype.kind == "u":
        top = np.float32(np.iinfo(samples.dtype).max)
        return np.divide(samples, top, dtype=np.float32, order="C"), 1.0

    low, high = float(samples.min()), float(samples.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageFileError("NaN or infinity among the values", path, "replace these values by numbers")
    peak = max(abs(low), abs(high))
    # 2 ** 128 is no float32.
    scale = 2.0 ** min(math.ceil(math.log2(peak)), 127) if peak > 1 else 1.0
    if scale != 1:
        notes.append(f"values reach {peak:g}; they are divided by {scale:g} here and multiplied by it on writing")
    return np.divide(samples, np.float32(scale), dtype=np.float32, order="C"), scale


def _reason(error: Exception) -> str:
    """Return the first telling line of a libvips error, without what libvips puts in front."""
    detail = getattr(error, "detail", None) or str(error)
    lines = [line.strip() for line in detail.splitlines() if line.strip()]
    return lines[0].rpartition(": ")[2][:120] if lines else "unknown reason"


# ---------------------------------------------------------------------------------------------------- writing


def write_photo(path: StrPath, pixels: npt.NDArray[Any], like: Photo, *, overwrite: bool = False) -> list[str]:
    """Write pixels in the format of the path's suffix, with all else as in the photo they were made from.

    PNG has 8 or 16 bits (16 for floats), TIFF any depth, JPEG and WebP 8 bits. JPEG has quality 95 and colour
    at full resolution, since the quality of an input cannot be known and a second loss should not be seen.
    PNG, TIFF and WebP are written without loss. EXIF, ICC profile, XMP, resolution and alpha are kept where
    the format has them; the thumbnail inside the EXIF data is not, as it shows the old picture.

    Parameters
    ----------
    path : path-like
        The file to write; its folder must exist.
    pixels : (H, W) or (H, W, 3) array
        The picture, of the shape and on the scale of ``like.pixels``: floats, or whole numbers of type
        ``like.dtype`` as they are stored. Outside of [0, 1] floats are clipped unless the file holds floats.
    like : Photo
        The photo that was read.
    overwrite : bool, optional
        Replace an existing file.

    Returns
    -------
    list of str
        What the format could not hold, one line each.

    Raises
    ------
    ImageFileError
        If the suffix is unknown, the picture is too large for the format, the file exists and is not to be
        overwritten, or it cannot be written. An existing file is then as it was.
    ValueError
        If the shape is not that of ``like.pixels``, whole numbers are not of its type, or a value is NaN or
        infinite.
    """
    path = Path(path)
    pixels = np.asarray(pixels)
    if pixels.dtype.kind != "f" and pixels.dtype != like.dtype:
        raise ValueError(f"pixels must be floats or {like.dtype}, as the photo, got {pixels.dtype}")
    if pixels.shape != like.pixels.shape:
        raise ValueError(f"pixels have shape {pixels.shape}, the photo has {like.pixels.shape}")
    file_format = _writable_format(path)
    _check_size(path, file_format, like)

    notes: list[str] = []
    dtype = _stored_dtype(file_format, like, notes)
    alpha = like.alpha
    if alpha is not None and file_format == "jpeg":
        notes.append("JPEG has no alpha channel: it was left out")
        alpha = None
    with atomic_write(path, overwrite=overwrite) as temp:
        samples = _to_samples(pixels, alpha, dtype, like.scale if dtype == np.float32 else 1.0)
        _encode(temp, samples, file_format, like, notes)
        if file_format == "tiff" and like.exif:
            like.exif.add_to_tiff(temp)
    return notes


def _stored_dtype(file_format: Format, like: Photo, notes: list[str]) -> np.dtype[Any]:
    """Return the sample type closest to that of the photo which the format has."""
    name = _FORMAT_NAMES[file_format]
    if file_format in ("jpeg", "webp") and like.dtype != np.uint8:
        notes.append(f"{name} has 8 bits per channel, the input has {8 * like.dtype.itemsize}")
        return np.dtype(np.uint8)
    if file_format == "png" and like.dtype == np.float32:
        notes.append("PNG has no floating-point values: 16 bits per channel were written, clipped to [0, 1]")
        return np.dtype(np.uint16)
    return like.dtype


def _to_samples(
    pixels: npt.NDArray[Any], alpha: npt.NDArray[Any] | None, dtype: np.dtype[Any], scale: float
) -> npt.NDArray[Any]:
    """Return an (H, W, bands) array to be stored; row blocks keep the memory at one such array."""
    height, width = pixels.shape[:2]
    colours = pixels.reshape(height, width, -1)
    bands = colours.shape[2]
    if alpha is None and pixels.dtype == dtype and dtype.kind == "u":
        return np.ascontiguousarray(colours)
    samples = np.empty((height, width, bands + (alpha is not None)), dtype)
    for top in range(0, height, _ROWS):
        rows = slice(top, top + _ROWS)
        if not np.isfinite(colours[rows]).all():
            raise ValueError("pixels to be written contain NaN or infinity")
        same = dtype.kind == "u" and colours.dtype == dtype
        samples[rows, :, :bands] = colours[rows] if same else _convert(to_unit(colours[rows]), dtype, scale)
        if alpha is not None:
            # An integer alpha of the same depth passes unchanged.
            unit = alpha[rows] if alpha.dtype == dtype else to_unit(alpha[rows])
            samples[rows, :, bands] = unit if alpha.dtype == dtype else _convert(unit, dtype, 1.0)
    return samples


def to_unit(values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Return stored values on the scale [0, 1]: whole numbers divided by their largest, as float32."""
    if values.dtype.kind == "f":
        return values
    return np.divide(values, np.float32(np.iinfo(values.dtype).max), dtype=np.float32)


def _convert(values: npt.NDArray[Any], dtype: np.dtype[Any], scale: float) -> npt.NDArray[Any]:
    """Return values in [0, 1] as they are stored: times the scale, or as clipped and rounded integers."""
    if dtype.kind == "f":
        return values.astype(dtype, copy=False) * dtype.type(scale)
    return np.rint(np.clip(values, 0, 1) * np.iinfo(dtype).max)


def _encode(temp: Path, samples: npt.NDArray[Any], file_format: Format, like: Photo, notes: list[str]) -> None:
    import pyvips

    height, width, bands = samples.shape
    grey = bands <= 2
    deep = {"uint8": ("b-w", "srgb"), "uint16": ("grey16", "rgb16"), "float32": ("b-w", "scrgb")}
    name = samples.dtype.name
    pyvips.vips_lib.vips_error_clear()
    try:
        image = pyvips.Image.new_from_memory(samples.data, width, height, bands, _VIPS_FORMATS[name])
        image = image.copy(
            interpretation=deep[name][0 if grey else 1], xres=like.resolution[0], yres=like.resolution[1]
        )
        for key, value in _metadata_for(file_format, grey, like, notes).items():
            kind = pyvips.GValue.blob_type if isinstance(value, bytes) else pyvips.GValue.gstr_type
            image.set_type(kind, key, value)
        getattr(image, f"{file_format}save")(os.fsencode(temp), **_save_options(file_format, samples))
    except pyvips.Error as error:
        text = str(error)
        for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            if os.strerror(code) in text:
                raise OSError(code, os.strerror(code)) from error
        raise OSError(errno.EIO, _reason(error)) from error


def _metadata_for(file_format: Format, grey: bool, like: Photo, notes: list[str]) -> dict[str, bytes | str]:
    """Return the metadata that the format can hold, and note what it cannot."""
    kept = dict(like.metadata)
    if like.exif and file_format != "tiff":
        block = like.exif.to_block()
        if len(block) > _SEGMENT:
            notes.append("more than 64 KB of EXIF data: its largest tags were left out")
        kept["exif-data"] = block
    name = _FORMAT_NAMES[file_format]
    if file_format == "jpeg" and len(kept.get("xmp-data", b"")) > _SEGMENT:
        notes.append("JPEG holds no more than 64 KB of XMP data: they were left out")
        del kept["xmp-data"]
    if "iptc-data" in kept and file_format != "jpeg":
        notes.append(f"IPTC data of a JPEG cannot be kept in {name}: they were left out")
        del kept["iptc-data"]
    if grey and file_format == "webp":
        notes.append("WebP has no grey: three equal channels were written")
        # A grey profile would not fit them.
        kept.pop("icc-profile-data", None)
    if file_format != "png":
        kept = {key: value for key, value in kept.items() if not key.startswith("png-comment-")}
    return kept


def _save_options(file_format: Format, samples: npt.NDArray[Any]) -> dict[str, Any]:
    if file_format == "jpeg":
        return {"Q": 95, "subsample_mode": "off"}
    if file_format == "webp":
        # "exact" keeps the colour of transparent pixels. More effort takes ten times as long and much memory.
        return {"lossless": True, "exact": True, "effort": 0}
    if file_format == "png":
        return {"filter": "paeth"}
    return {
        "compression": "deflate",
        # Few programs read TIFF's predictor for floats.
        "predictor": "none" if samples.dtype.kind == "f" else "horizontal",
        # Classic TIFF ends at 4 GB; deflate can add a little to noise.
        "bigtiff": samples.nbytes > 3_900_000_000,
    }


@contextmanager
def atomic_write(path: StrPath, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file so that it is there whole or not at all, even if the program is killed or the disk full.

    Yields a new empty file in the same folder, hidden and with the suffix of `path`. When the block ends
    without an error, the data are flushed to the disk and the file gets its name; otherwise it is removed. A
    link is followed, and a replaced file keeps its permission bits.

    Parameters
    ----------
    path : path-like
        The file to write; its folder must exist.
    overwrite : bool, optional
        Replace an existing file. If not, a file that another program made meanwhile is not replaced either.

    Yields
    ------
    Path
        The file to write into, by name.

    Raises
    ------
    ImageFileError
        If the file exists and is not to be overwritten, or cannot be written.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    _refuse_existing(path, overwrite)
    temp = _new_temp(path, target)
    try:
        yield temp
        _finish(temp, target, overwrite)
    except OSError as error:
        # An error about another file is the caller's.
        if error.filename not in (None, temp, str(temp), str(target)):
            raise
        if isinstance(error, FileExistsError):
            raise _exists(path) from None
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temp.unlink()


def _new_temp(path: Path, target: Path) -> Path:
    # The name does not grow with that of the target, which may be as long as the file system allows.
    temp = target.with_name(f"{TEMP_PREFIX}{secrets.token_hex(6)}{target.suffix}")
    try:
        os.close(os.open(temp, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        if not target.parent.is_dir():
            raise _no_folder(path.parent) from None
        raise _cannot_write(path, error) from error
    return temp


def _finish(temp: Path, target: Path, overwrite: bool) -> None:
    """Flush the temporary file to the disk and give it its name."""
    with temp.open("rb+") as stream:
        os.fsync(stream.fileno())
    if overwrite:
        with suppress(OSError):
            shutil.copymode(target, temp)
        os.replace(temp, target)
    else:
        try:
            # Unlike a renaming, a link fails if the name is taken.
            os.link(temp, target)
        except FileExistsError:
            raise
        except OSError:
            # A file system without links.
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
            os.rename(temp, target)
    # The name is on the disk only when the folder is; not every system can flush one.
    with suppress(OSError):
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        # For example a name that is too long.
        raise _cannot_write(path, error) from error
    if stat.S_ISDIR(mode):
        raise ImageFileError("a folder, where a file is to be written", path, "name a file in it")
    # Renaming onto a device would put a file in its place.
    if not stat.S_ISREG(mode):
        raise ImageFileError("not a regular file", path, "choose another name")
    if not overwrite:
        raise _exists(path)


def _exists(path: Path) -> ImageFileError:
    return ImageFileError("the file exists already", path, "choose another name or add --overwrite")


def _no_folder(folder: Path) -> ImageFileError:
    return ImageFileError("no such folder", folder, "make it first or choose another one")


def _cannot_write(path: Path, error: OSError) -> ImageFileError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ImageFileError("cannot write, the disk is full", path, "free some space or choose another folder")
    what = f"cannot write ({error.strerror or error})"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ImageFileError(what, path, "choose another folder")
    return ImageFileError(what, path, "check the folder or choose another one")


# ------------------------------------------------------------------------------------------- the command line


def check_output(
    path: StrPath,
    *,
    overwrite: bool = False,
    inputs: Iterable[Path] = (),
    suffixes: Collection[str] | None = None,
    photo: Photo | None = None,
) -> None:
    """Refuse, before the long work, an output that could not be written after it.

    Parameters
    ----------
    path : path-like
        The file to be written.
    overwrite : bool, optional
        Whether an existing file may be replaced.
    inputs : iterable of Path, optional
        Files that must not be replaced, not even with `overwrite`; `plan_outputs` has seen to that already.
    suffixes : collection of str, optional
        Allowed suffixes in lower case with their dot; those of picture files if not given.
    photo : Photo, optional
        The picture, if its size is known already: WebP and JPEG have a largest one.

    Raises
    ------
    ImageFileError
        If the suffix is not allowed, the folder does not exist (for a file it is not made, a folder for
        several files is: `make_folder`) or cannot be written to, the file exists, or it is one of the inputs.
    """
    path = Path(path)
    allowed = SUFFIXES if suffixes is None else suffixes
    if path.suffix.lower() not in allowed:
        raise _wrong_suffix(path, allowed)
    if (identity := _identity(path)) is not None and any(_identity(other) == identity for other in inputs):
        raise ImageFileError("the output would replace an input", path, "choose another name or folder")
    _refuse_existing(path, overwrite)
    if photo is not None:
        _check_size(path, _writable_format(path), photo)
    _probe_folder(Path(os.path.realpath(path)).parent)


def make_folder(path: StrPath) -> None:
    """Make a folder for outputs, with those above it, unless it exists, and see that it can be written to.

    Raises
    ------
    ImageFileError
        If that fails.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if path.exists() and not path.is_dir():
            raise ImageFileError("a file, where a folder is needed", path, "choose another name") from None
        raise ImageFileError(
            f"cannot make the folder ({error.strerror or error})", path, "choose another one"
        ) from error
    _probe_folder(path)


def _probe_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise _no_folder(folder)
    # Permission bits do not tell of read-only file systems, quotas and access lists.
    _new_temp(folder, folder / "probe").unlink(missing_ok=True)


def _writable_format(path: Path) -> Format:
    try:
        return SUFFIXES[path.suffix.lower()]
    except KeyError:
        raise _wrong_suffix(path, SUFFIXES) from None


def _wrong_suffix(path: Path, allowed: Collection[str]) -> ImageFileError:
    what = f"unknown suffix '{path.suffix}'" if path.suffix else "no suffix"
    return ImageFileError(what, path, f"use {', '.join(allowed)}")


def _check_size(path: Path, file_format: Format, photo: Photo) -> None:
    height, width = photo.pixels.shape[:2]
    limit = _MAX_SIDE.get(file_format)
    if limit is not None and max(height, width) > limit:
        raise ImageFileError(
            f"{width} x {height} pixels; {_FORMAT_NAMES[file_format]} has at most {limit} a side",
            path,
            "write a .png or .tif file",
        )


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells an existing file from all others, whatever its name; None if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def expand_inputs(inputs: Sequence[StrPath]) -> Inputs:
    """Return the picture files that the INPUT arguments of a command stand for.

    An argument is a file, a folder (the picture files in it by their suffix, not those of folders within,
    sorted) or a pattern such as ``photos/*.jpg`` (``**`` goes through folders). Hidden files are skipped
    unless named themselves. A name that exists is not taken for a pattern.

    Parameters
    ----------
    inputs : sequence of path-like
        The arguments.

    Returns
    -------
    Inputs
        A file comes once, at its first place. An argument without a file is among the problems.
    """
    found: dict[str, Path] = {}
    problems: list[ImageFileError] = []
    several = len(inputs) > 1
    for argument in inputs:
        path = Path(argument)
        files: list[Path] = []
        if os.path.isdir(argument):
            several = True
            try:
                files = pictures(path.iterdir())
            except OSError as error:
                problems.append(ImageFileError(f"cannot read the folder ({error.strerror})", path, "check its rights"))
                continue
            if not files:
                problems.append(ImageFileError(f"no {_ALL_FORMATS} file in the folder", path, "check the name"))
        elif os.path.lexists(argument):
            files = [path]
        elif glob.has_magic(os.fspath(argument)):
            pattern = os.path.expanduser(os.fspath(argument))
            files = pictures(Path(name) for name in glob.glob(pattern, recursive=True))
            if not files:
                problems.append(ImageFileError("no picture file matches", path, "check the pattern"))
        else:
            problems.append(ImageFileError("no such file or folder", argument, "check the name"))
        for file in files:
            found.setdefault(os.path.abspath(file), file)
    return Inputs(list(found.values()), problems, several or len(found) > 1)


def pictures(files: Iterable[Path]) -> list[Path]:
    """Return those of the files that are pictures by their suffix and not hidden, sorted."""
    return sorted(
        file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def plan_outputs(inputs: Inputs, out: StrPath, suffix: str = "_sharp") -> OutputPlan:
    """Say where the result of every input goes.

    `out` is a folder if it exists as one, if it ends with a slash, or if there are several inputs or a folder
    among them; each result then has the input's name with `suffix` before the extension (.png for an input
    whose own extension cannot be written). Otherwise it is the file to write. Nothing is made or changed.

    Parameters
    ----------
    inputs : Inputs
        What `expand_inputs` returned.
    out : path-like
        The OUT argument, as the user typed it: a `Path` has lost a final slash.
    suffix : str, optional
        Put between name and extension.

    Returns
    -------
    OutputPlan

    Raises
    ------
    ImageFileError
        If several inputs meet a file as OUT, two inputs would have the same output, an output would replace
        an input, or `suffix` would lead to another folder.
    """
    text, target = os.fspath(out), Path(out)
    output_name("x", suffix)
    slash = text.endswith(tuple(filter(None, (os.sep, os.altsep))))
    if inputs.several and not target.is_dir() and not slash:
        if target.exists():
            raise ImageFileError("a file, but several inputs need a folder", target, "give a folder")
        if target.suffix.lower() in SUFFIXES:
            raise ImageFileError("the name of a picture, but several inputs need a folder", target, "give a folder")
    folder = target if inputs.several or slash or target.is_dir() else None

    pairs: list[tuple[Path, Path]] = []
    taken: dict[str, Path] = {}
    originals = {_identity(path) for path in inputs.paths} - {None}
    for path in inputs.paths:
        output = target if folder is None else folder / output_name(path, suffix)
        if _identity(output) in originals:
            raise ImageFileError("the output would replace an input", output, "choose another name, folder or --suffix")
        place = os.path.realpath(output)
        if place in taken:
            raise ImageFileError(
                f"the output of both {taken[place]} and {path}",
                output,
                "rename one or process them one by one",
            )
        taken[place] = path
        pairs.append((path, output))
    return OutputPlan(pairs, folder)


def output_name(path: StrPath, suffix: str) -> str:
    """Return the name that the result of an input gets in a folder; see `plan_outputs`.

    Raises
    ------
    ImageFileError
        If `suffix` would lead to another folder.
    """
    if Path(f"x{suffix}").name != f"x{suffix}":
        raise ImageFileError("the suffix must not contain a slash", suffix, "name the folder of the outputs instead")
    path = Path(path)
    return f"{path.stem}{suffix}{path.suffix if path.suffix.lower() in SUFFIXES else '.png'}"
