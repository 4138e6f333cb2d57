"""EXIF data, so that it also survives TIFF, where libvips neither reads nor writes it.

EXIF is laid out as a small TIFF file: a chain of directories, each a list of numbered tags. This module reads
such directories from an EXIF block (JPEG, PNG, WebP) or from a TIFF photograph, sets the few tags that a
changed picture needs, and writes them as a block or behind the pixels of a TIFF file. All other tags are
passed on byte for byte. The second directory of a block, which holds the camera's thumbnail, is left out: it
shows the picture before the change.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

_PREFIX = b"Exif\0\0"

# Bytes per number and numbers per element, by TIFF's type code; 129 is EXIF 3's UTF-8 text.
_TYPES = {
    1: (1, 1), 2: (1, 1), 3: (2, 1), 4: (4, 1), 5: (4, 2), 6: (1, 1), 7: (1, 1), 8: (2, 1), 9: (4, 1),
    10: (4, 2), 11: (4, 1), 12: (8, 1), 13: (4, 1), 16: (8, 1), 17: (8, 1), 18: (8, 1), 129: (1, 1),
}  # fmt: skip
_SHORT, _LONG, _LONG8 = 3, 4, 16

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0xA002, 0xA003
_IMAGE_DESCRIPTION = 0x010E
_EXIF_POINTER, _GPS_POINTER, _INTEROP_POINTER = 0x8769, 0x8825, 0xA005

# What a TIFF's first directory says about the photograph rather than about the layout of the file:
# description, make, model, software, date, artist, host, copyright, rating, IPTC and the titles that Windows
# writes.
_DESCRIPTIVE = frozenset(
    {_IMAGE_DESCRIPTION, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298, 0x4746, 0x4749, 0x83BB}
    | set(range(0x9C9B, 0x9CA0))
)
_IPTC = 0x83BB

# Programs store the shape of the array in the description; it no longer holds for what is written.
_LAYOUT_NOTES = (b'{"shape"', b"ImageJ=", b"<?xml", b"<OME")

_MAX_TAG_BYTES = 1 << 26


class ExifError(ValueError):
    """The data is not a readable chain of TIFF directories."""


class Tag(NamedTuple):
    """One tag: TIFF type code, number of elements, and the elements' bytes in little-endian order."""

    kind: int
    elements: int
    data: bytes


Directory = dict[int, Tag]


@dataclass
class Exif:
    """The directories of an EXIF block, each a mapping of tag numbers to `Tag`.

    Attributes
    ----------
    main, photo, gps, interop : dict of int to Tag
        The first directory, the EXIF directory proper, position and interoperability. Pointers between them
        are not kept; they are made anew on writing.
    """

    main: Directory = field(default_factory=dict)
    photo: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)
    interop: Directory = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.main or self.photo or self.gps or self.interop)

    def for_picture(self, width: int, height: int) -> Exif:
        """Return a copy for an upright picture of the given size; only tags that are present are changed."""
        copy = Exif(dict(self.main), dict(self.photo), dict(self.gps), dict(self.interop))
        if _ORIENTATION in copy.main:
            copy.main[_ORIENTATION] = Tag(_SHORT, 1, struct.pack("<H", 1))
        for number, value in ((_WIDTH, width), (_HEIGHT, height)):
            if number in copy.photo:
                copy.photo[number] = Tag(_LONG, 1, struct.pack("<I", value))
        return copy

    def to_block(self) -> bytes:
        """Return the EXIF block, with its prefix, as JPEG, PNG and WebP hold it."""
        main = {number: tag for number, tag in self.main.items() if number != _IPTC}
        stream = io.BytesIO(b"II*\0" + bytes(4))
        stream.seek(0, io.SEEK_END)
        first = _write_directories(stream, Exif(main, self.photo, self.gps, self.interop), order="<", big=False)
        stream.seek(4)
        stream.write(struct.pack("<I", first))
        return _PREFIX + stream.getvalue()

    @classmethod
    def from_block(cls, block: bytes) -> Exif:
        """Read an EXIF block, with or without its prefix.

        Raises
        ------
        ExifError
            If the block is damaged.
        """
        return _read(io.BytesIO(block.removeprefix(_PREFIX)))

    @classmethod
    def from_tiff(cls, path: Path) -> Exif:
        """Read what a TIFF file (classic or BigTIFF) says about the photograph in its first page.

        Raises
        ------
        ExifError
            If the directories are damaged.
        OSError
            If the file cannot be read.
        """
        with path.open("rb") as stream:
            exif = _read(stream)
        exif.main = {number: tag for number, tag in exif.main.items() if number in _DESCRIPTIVE}
        if exif.main.get(_IMAGE_DESCRIPTION, Tag(2, 0, b"")).data.startswith(_LAYOUT_NOTES):
            del exif.main[_IMAGE_DESCRIPTION]
        return exif

    def add_to_tiff(self, path: Path) -> None:
        """Add the tags to a finished TIFF file (classic or BigTIFF), in place; tags that it has already stay.

        Raises
        ------
        ExifError
            If the file is not a TIFF file.
        OSError
            If the file cannot be written.
        """
        with path.open("r+b") as stream:
            order, big, first = _read_header(stream)
            layout, following = _read_directory(stream, order, big, first)
            extra = {n: tag for n, tag in self.main.items() if n in _DESCRIPTIVE and n not in layout}
            stream.seek(0, io.SEEK_END)
            merged = Exif({**layout, **extra}, self.photo, self.gps, self.interop)
            moved = _write_directories(stream, merged, order, big, following)
            # The header comes last: until then the file is what it was.
            stream.seek(8 if big else 4)
            stream.write(struct.pack(order + ("Q" if big else "I"), moved))


def _unpack(stream: BinaryIO, form: str) -> tuple[int, ...]:
    data = stream.read(struct.calcsize(form))
    try:
        return struct.unpack(form, data)
    except struct.error:
        raise ExifError("the data ends inside a directory") from None


def _read_header(stream: BinaryIO) -> tuple[str, bool, int]:
    """Return byte order (``<`` or ``>``), whether it is BigTIFF, and the offset of the first directory."""
    order = {b"II": "<", b"MM": ">"}.get(stream.read(2))
    if order is None:
        raise ExifError("no TIFF header")
    (magic,) = _unpack(stream, order + "H")
    if magic == 42:
        return order, False, _unpack(stream, order + "I")[0]
    if magic == 43:
        return order, True, _unpack(stream, order + "HHQ")[2]
    raise ExifError("no TIFF header")


def _swap(tag: Tag, order: str) -> Tag:
    """Turn the bytes of a tag from the given order to little-endian, or back."""
    size = _TYPES[tag.kind][0]
    if order == "<" or size == 1:
        return tag
    data = b"".join(tag.data[i : i + size][::-1] for i in range(0, len(tag.data), size))
    return Tag(tag.kind, tag.elements, data)


def _read_directory(stream: BinaryIO, order: str, big: bool, offset: int) -> tuple[Directory, int]:
    """Return the tags of the directory at `offset`, and the offset of the directory that follows (0: none).

    Tags of unknown type or with data beyond the end of the stream are left out: cameras do write such tags.
    """
    inline = 8 if big else 4
    width = 4 + 2 * inline
    end = stream.seek(0, io.SEEK_END)
    # Offsets and counts of damaged data may be anything.
    stream.seek(min(offset, end))
    (entries,) = _unpack(stream, order + ("Q" if big else "H"))
    table = stream.read(min(entries * width, end))
    if len(table) < entries * width:
        raise ExifError("the data ends inside a directory")
    (following,) = _unpack(stream, order + ("Q" if big else "I"))

    tags: Directory = {}
    for start in range(0, entries * width, width):
        number, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), table, start)
        if kind not in _TYPES:
            continue
        size = _TYPES[kind][0] * _TYPES[kind][1] * count
        if size <= inline:
            data = table[start + width - inline : start + width - inline + size]
        elif size <= min(end, _MAX_TAG_BYTES):
            (at,) = struct.unpack_from(order + ("Q" if big else "I"), table, start + width - inline)
            stream.seek(min(at, end))
            data = stream.read(size)
        else:
            continue
        if len(data) == size:
            tags[number] = _swap(Tag(kind, count, data), order)
    return tags, following


def _read(stream: BinaryIO) -> Exif:
    order, big, first = _read_header(stream)
    exif = Exif(main=_read_directory(stream, order, big, first)[0])

    def follow(directory: Directory, pointer: int) -> Directory:
        tag = directory.pop(pointer, None)
        if tag is None or len(tag.data) not in (4, 8):
            return {}
        return _read_directory(stream, order, big, int.from_bytes(tag.data, "little"))[0]

    exif.photo = follow(exif.main, _EXIF_POINTER)
    exif.gps = follow(exif.main, _GPS_POINTER)
    exif.interop = follow(exif.photo, _INTEROP_POINTER)
    return exif


def _write_directory(stream: BinaryIO, tags: Mapping[int, Tag], order: str, big: bool, following: int = 0) -> int:
    """Write a directory with its data at the stream's position and return the directory's offset."""
    inline = 8 if big else 4
    pointer = order + ("Q" if big else "I")
    table = struct.pack(order + ("Q" if big else "H"), len(tags))
    for number in sorted(tags):
        tag = _swap(tags[number], order)
        table += struct.pack(order + ("HHQ" if big else "HHI"), number, tag.kind, tag.elements)
        if len(tag.data) <= inline:
            table += tag.data.ljust(inline, b"\0")
        else:
            _align(stream)
            table += struct.pack(pointer, stream.tell())
            stream.write(tag.data)
    _align(stream)
    offset = stream.tell()
    stream.write(table + struct.pack(pointer, following))
    return offset


def _align(stream: BinaryIO) -> None:
    """Pad to an even offset, as TIFF asks for."""
    if stream.tell() % 2:
        stream.write(b"\0")


def _write_directories(stream: BinaryIO, exif: Exif, order: str, big: bool, following: int = 0) -> int:
    """Write all directories, linked, at the stream's position; return the offset of the first one."""

    def pointer_to(tags: Mapping[int, Tag]) -> Tag:
        offset = _write_directory(stream, tags, order, big)
        return Tag(_LONG8 if big else _LONG, 1, offset.to_bytes(8 if big else 4, "little"))

    main, photo = dict(exif.main), dict(exif.photo)
    if exif.interop:
        photo[_INTEROP_POINTER] = pointer_to(exif.interop)
    if photo:
        main[_EXIF_POINTER] = pointer_to(photo)
    if exif.gps:
        main[_GPS_POINTER] = pointer_to(exif.gps)
    return _write_directory(stream, main, order, big, following)
