"""Picture files: nothing lost from file to file, nothing harmed by a failure. Oracles: Pillow, tifffile."""

import errno
import functools
import io
import os
import pickle
import re
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, IptcImagePlugin, PngImagePlugin
from PIL.TiffImagePlugin import IFDRational

from ircdeblur.app import imagefile
from ircdeblur.app.exif import Exif, ExifError, Tag
from ircdeblur.app.imagefile import (
    ImageFileError,
    atomic_write,
    check_output,
    expand_inputs,
    make_folder,
    plan_outputs,
    read_photo,
    write_photo,
)

HEIGHT, WIDTH = 40, 60
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    rng = np.random.default_rng(1)
    if dtype == "float32":
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def smooth(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """An RGB gradient that differs along both sides; JPEG hardly changes it."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, (x + y) * 255 / (width + height)], -1).astype(np.uint8)


@functools.cache  # a profile states the second it was made
def icc() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif_tags(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112] = "Maker", "Model X", orientation
    exif[0x0132], exif[0x8298] = "2024:05:06 07:08:09", "(c) me"
    photo = exif.get_ifd(0x8769)
    photo[0x829A], photo[0x8827], photo[0x9003] = IFDRational(1, 125), 400, "2024:05:06 07:08:09"
    photo[0x927C], photo[0xA434] = bytes(range(256)) * 4, "Lens 50mm"
    photo[0xA002], photo[0xA003] = WIDTH, HEIGHT
    photo[0x9204] = IFDRational(-7, 3)
    gps = exif.get_ifd(0x8825)
    gps[1], gps[2] = "N", (IFDRational(48), IFDRational(8), IFDRational(1234, 100))
    return exif


# Tags that the encoder sets anew, or that describe the layout of the file.
_OWN = {
    0x011A,
    0x011B,
    0x0128,
    0x0213,
    0x9000,
    0x9101,
    0xA000,
    0xA001,
    0xA002,
    0xA003,
    0xA005,
    0x8769,
    0x8825,
}


def tags_of(path: Path) -> dict[tuple[str, int], str]:
    """EXIF tags as Pillow reads them; of a TIFF's first directory only those that `exif_tags` sets."""
    exif = Image.open(path).getexif()
    main = {k: v for k, v in exif.items() if path.suffix != ".tif" or k in exif_tags()}
    groups = {"main": main, "photo": exif.get_ifd(0x8769), "gps": exif.get_ifd(0x8825)}
    return {(g, k): str(v) for g, tags in groups.items() for k, v in tags.items() if k not in _OWN}


def save_full(path: Path, orientation: int = 1) -> Path:
    """A photograph with EXIF, ICC profile, XMP and resolution, written by Pillow."""
    image = Image.fromarray(smooth())
    extra: dict = {"exif": exif_tags(orientation), "icc_profile": icc(), "dpi": (300, 300)}
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        info.add_text("Title", "a gradient")
        extra["pnginfo"] = info
    elif path.suffix in (".jpg", ".webp"):
        extra["xmp"] = XMP
    image.save(path, **extra, **({"lossless": True} if path.suffix == ".webp" else {"quality": 95}))
    return path


def temps(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name.startswith(".")]


def round_trip(source: Path, suffix: str) -> tuple[imagefile.Photo, Path, list[str]]:
    photo = read_photo(source)
    out = source.with_name(f"out_{source.stem}.{suffix}")
    return photo, out, write_photo(out, photo.pixels, photo)


# ------------------------------------------------------------------------------------- values and bit depth


@pytest.mark.parametrize(
    ("suffix", "dtype", "channels"),
    [("tif", d, c) for d in ("uint8", "uint16", "float32") for c in (1, 2, 3, 4)]
    + [("png", d, c) for d in ("uint8", "uint16") for c in (1, 2, 3, 4)]
    + [("webp", "uint8", 3), ("webp", "uint8", 4)],
)
def test_round_trip_is_exact(tmp_path, dtype, channels, suffix):
    values = noise(HEIGHT, WIDTH, channels, dtype=dtype).squeeze()
    names = {1: "b-w", 2: "b-w", 3: "srgb", 4: "srgb"}
    if dtype == "uint16":
        names = {1: "grey16", 2: "grey16", 3: "rgb16", 4: "rgb16"}
    vips = pyvips.Image.new_from_array(values, interpretation=names[channels])
    source = tmp_path / f"in.{suffix}"
    vips.write_to_file(str(source), **({"lossless": True, "exact": True} if suffix == "webp" else {}))

    photo, out, notes = round_trip(source, suffix)
    top = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    colours = 1 if channels < 3 else 3
    expected = values.reshape(HEIGHT, WIDTH, channels)[..., :colours].squeeze() / top
    assert photo.pixels.dtype == np.float32
    assert photo.pixels.flags.c_contiguous
    np.testing.assert_allclose(photo.pixels, expected, rtol=2e-7)
    assert (photo.alpha is None) == (channels in (1, 3))
    if photo.alpha is not None:
        np.testing.assert_array_equal(photo.alpha, values[..., -1])
    assert photo.dtype == dtype
    assert not photo.notes
    assert not notes
    again = pyvips.Image.new_from_file(str(out))
    np.testing.assert_array_equal(again.numpy(), values)
    assert again.interpretation == pyvips.Image.new_from_file(str(source)).interpretation


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH), (HEIGHT, WIDTH, 3)])
def test_16_bit_tiff_agrees_with_tifffile_both_ways(tmp_path, shape):
    values = noise(*shape, dtype="uint16")
    tifffile.imwrite(tmp_path / "in.tif", values)
    photo, out, _ = round_trip(tmp_path / "in.tif", "tif")
    np.testing.assert_array_equal(np.rint(photo.pixels * 65535), values)
    with tifffile.TiffFile(out) as file:
        page = file.pages[0]
        assert page.dtype == np.uint16
        assert page.photometric.name == ("RGB" if len(shape) == 3 else "MINISBLACK")
        np.testing.assert_array_equal(page.asarray(), values)


def test_16_bit_grey_png_agrees_with_pillow(tmp_path):
    values = noise(HEIGHT, WIDTH, dtype="uint16")
    Image.fromarray(values).save(tmp_path / "in.png")
    _, out, _ = round_trip(tmp_path / "in.png", "png")
    np.testing.assert_array_equal(np.asarray(Image.open(out)), values)


def test_float_tiff_keeps_its_scale(tmp_path):
    values = noise(HEIGHT, WIDTH, 3, dtype="float32") * 1000 - 300
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="rgb")
    photo, out, _ = round_trip(tmp_path / "in.tif", "tif")
    assert photo.scale == 1024
    assert np.abs(photo.pixels).max() <= 1
    np.testing.assert_array_equal(photo.pixels * photo.scale, values)
    assert "values reach" in photo.notes[0]
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].predictor == 1  # few programs read any other one for floats
        np.testing.assert_array_equal(file.asarray(), values)


def test_float_tiff_within_one_is_not_scaled(tmp_path):
    values = noise(HEIGHT, WIDTH, dtype="float32")
    values[0, :2] = 1, -0.25
    tifffile.imwrite(tmp_path / "in.tif", values)
    photo, out, _ = round_trip(tmp_path / "in.tif", "tif")
    assert photo.scale == 1
    assert not photo.notes
    np.testing.assert_array_equal(tifffile.imread(out), values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_a_number_is_refused(tmp_path, bad):
    values = noise(HEIGHT, WIDTH, dtype="float32")
    values[3, 4] = bad
    tifffile.imwrite(tmp_path / "in.tif", values)
    with pytest.raises(ImageFileError, match="NaN or infinity"):
        read_photo(tmp_path / "in.tif")
    tifffile.imwrite(tmp_path / "good.tif", np.zeros_like(values))
    photo = read_photo(tmp_path / "good.tif")
    with pytest.raises(ValueError, match="NaN or infinity"):
        write_photo(tmp_path / "out.tif", values, photo)
    assert not (tmp_path / "out.tif").exists()
    assert not temps(tmp_path)


def test_values_outside_are_clipped_and_rounded(tmp_path):
    Image.fromarray(noise(2, 3)).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    pixels = np.array([[-0.5, 0.0, 1.7], [100.4 / 255, 100.6 / 255, 1.0]])
    write_photo(tmp_path / "out.png", pixels, photo)
    written = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(written, [[0, 0, 255], [100, 101, 255]])


def test_taller_than_one_block_of_rows(tmp_path):
    values = noise(600, 5, 4, dtype="uint16")
    pyvips.Image.new_from_array(values, interpretation="rgb16").write_to_file(str(tmp_path / "in.png"))
    _, out, _ = round_trip(tmp_path / "in.png", "tif")
    np.testing.assert_array_equal(tifffile.imread(out), values)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_one_pixel(tmp_path, suffix):
    Image.new("RGB", (1, 1), (10, 200, 30)).save(tmp_path / f"in.{suffix}")
    photo, out, _ = round_trip(tmp_path / f"in.{suffix}", suffix)
    assert photo.pixels.shape == (1, 1, 3)
    assert Image.open(out).size == (1, 1)


def test_shape_must_match(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    with pytest.raises(ValueError, match="shape"):
        write_photo(tmp_path / "out.png", photo.pixels[:-1], photo)


# ----------------------------------------------------------------------------------------- kinds of picture


def test_grey_jpeg_stays_grey(tmp_path):
    Image.fromarray(smooth()[..., 0]).save(tmp_path / "in.jpg")
    photo, out, _ = round_trip(tmp_path / "in.jpg", "jpg")
    assert photo.pixels.shape == (HEIGHT, WIDTH)
    assert Image.open(out).mode == "L"


def test_jpeg_keeps_colour_at_full_resolution(tmp_path):
    # Red and blue stripes one pixel wide: subsampled colour turns both to purple.
    values = np.zeros((32, 32, 3), np.uint8)
    values[:, ::2, 0] = values[:, 1::2, 2] = 255
    Image.fromarray(values).save(tmp_path / "in.png")
    _, out, _ = round_trip(tmp_path / "in.png", "jpg")
    assert np.abs(np.asarray(Image.open(out)).astype(int) - values).mean() < 10


@pytest.mark.parametrize("mode", ["P", "1", "LA", "RGBA", "PA"])
def test_other_png_modes_agree_with_pillow(tmp_path, mode):
    rgba = Image.fromarray(np.dstack([smooth(), noise(HEIGHT, WIDTH)]))
    image = rgba.quantize(16) if mode == "PA" else (rgba.convert("RGB") if mode == "P" else rgba).convert(mode)
    image.save(tmp_path / "in.png")
    expected = np.asarray(Image.open(tmp_path / "in.png").convert("LA" if mode in ("1", "LA") else "RGBA"))
    photo, out, _ = round_trip(tmp_path / "in.png", "png")
    assert photo.pixels.ndim == (2 if mode in ("1", "LA") else 3)
    assert (photo.alpha is not None) == (mode in ("LA", "RGBA", "PA"))
    np.testing.assert_array_equal(
        np.asarray(Image.open(out).convert("RGBA")), np.asarray(Image.fromarray(expected).convert("RGBA"))
    )


def test_grey_in_webp_is_three_channels_without_the_grey_profile(tmp_path):
    grey = smooth()[..., 0]
    Image.fromarray(grey).save(tmp_path / "in.jpg")
    photo = read_photo(tmp_path / "in.jpg")
    photo.metadata["icc-profile-data"] = icc()
    out = tmp_path / "out.webp"
    assert "grey" in write_photo(out, photo.pixels, photo)[0]
    written = Image.open(out)
    assert "icc_profile" not in written.info
    np.testing.assert_array_equal(
        np.asarray(written.convert("RGB")), np.rint(photo.pixels * 255)[..., None].repeat(3, 2)
    )


def test_alpha_follows_the_bit_depth_and_jpeg_says_it_has_none(tmp_path):
    values = noise(HEIGHT, WIDTH, 4, dtype="uint16")
    pyvips.Image.new_from_array(values, interpretation="rgb16").write_to_file(str(tmp_path / "in.png"))
    _, webp, notes = round_trip(tmp_path / "in.png", "webp")
    assert any("8 bits" in note for note in notes)
    np.testing.assert_array_equal(np.asarray(Image.open(webp)), np.rint(values / 257))
    _, jpeg, notes = round_trip(tmp_path / "in.png", "jpg")
    assert any("alpha" in note for note in notes)
    assert Image.open(jpeg).mode == "RGB"


def test_float_to_png_has_16_bits(tmp_path):
    values = noise(HEIGHT, WIDTH, dtype="float32")
    tifffile.imwrite(tmp_path / "in.tif", values)
    _, out, notes = round_trip(tmp_path / "in.tif", "png")
    assert "16 bits" in notes[0]
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.rint(values * np.float32(65535)))


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_srgb_and_says_so(tmp_path, suffix):
    cmyk = np.zeros((16, 16, 4), np.uint8)
    cmyk[:8, :, 0] = cmyk[8:, :, 2] = 255  # cyan above yellow
    Image.fromarray(cmyk, "CMYK").save(tmp_path / f"in.{suffix}")
    photo, out, _ = round_trip(tmp_path / f"in.{suffix}", suffix)
    assert photo.pixels.shape == (16, 16, 3)
    assert "CMYK" in photo.notes[0]
    cyan, yellow = photo.pixels[2, 8], photo.pixels[13, 8]
    assert cyan[0] < 0.3 < 0.6 < cyan[2]
    assert yellow[2] < 0.3 < 0.8 < yellow[0]
    written = Image.open(out)
    assert written.mode == "RGB"
    name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(written.info["icc_profile"])))
    assert "sRGB" in name


def test_cmyk_uses_the_profile_of_the_file(tmp_path):
    # A changed copy of libvips' own CMYK profile, against Pillow's conversion by the same profile.
    changed = bytearray(pyvips.Operation.call("profile_load", "cmyk"))
    for entry in range(struct.unpack_from(">I", changed, 128)[0]):
        name, at, size = struct.unpack_from(">4sII", changed, 132 + 12 * entry)
        if name == b"A2B1":
            middle = slice(at + size // 3, at + size // 2)
            changed[middle] = bytes(value // 2 for value in changed[middle])
    profile = bytes(changed)
    cmyk = noise(8, 8, 4)
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "in.tif", icc_profile=profile)
    photo = read_photo(tmp_path / "in.tif")
    assert "its colour profile" in photo.notes[0]
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        "CMYK",
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    expected = np.asarray(ImageCms.applyTransform(Image.fromarray(cmyk, "CMYK"), transform))
    assert np.abs(photo.pixels * 255 - expected).max() < 4


def test_first_of_several_pages(tmp_path):
    pages = noise(3, HEIGHT, WIDTH)
    tifffile.imwrite(tmp_path / "in.tif", pages, photometric="minisblack")
    photo, out, _ = round_trip(tmp_path / "in.tif", "tif")
    assert "3 pages" in photo.notes[0]
    np.testing.assert_array_equal(np.rint(photo.pixels * 255), pages[0])
    # tifffile believes the shape in the description, so an old one must not be passed on.
    with tifffile.TiffFile(out) as file:
        assert "shape" not in file.pages[0].description
        np.testing.assert_array_equal(file.asarray(), pages[0])


@pytest.mark.parametrize("kind", ["uint32", "int16", "float64"])
def test_other_samples_are_refused(tmp_path, kind):
    tifffile.imwrite(tmp_path / "in.tif", noise(HEIGHT, WIDTH).astype(kind))
    with pytest.raises(ImageFileError, match="samples"):
        read_photo(tmp_path / "in.tif")


def test_five_channels_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", noise(HEIGHT, WIDTH, 5), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ImageFileError, match="5 channels"):
        read_photo(tmp_path / "in.tif")


# ------------------------------------------------------------------------------------------------- metadata


@pytest.mark.parametrize("target", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("source", ["jpg", "png", "tif", "webp"])
def test_metadata_are_kept(tmp_path, source, target):
    path = save_full(tmp_path / f"in.{source}")
    if source == "tif":
        # Pillow writes no EXIF directory into a TIFF; tifffile's reading of ours is tested below.
        Exif.from_block(exif_tags().tobytes()).add_to_tiff(path)
    _, out, _ = round_trip(path, target)
    before, after = tags_of(path), tags_of(out)
    assert ("photo", 0x927C) in before
    assert ("gps", 2) in before
    assert {k: v for k, v in before.items() if after.get(k) != v} == {}
    written = Image.open(out)
    written.load()
    assert written.info["icc_profile"] == icc()
    if target != "webp" and source != "webp":
        assert written.info["dpi"] == pytest.approx((300, 300), abs=0.5)
    if source != "tif":
        assert read_photo(out).metadata["xmp-data"] == XMP.replace(b'"6"', b'"1"')
    if source == target == "png":
        assert written.info["Title"] == "a gradient"


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_no_resolution_does_not_become_25_dots_per_inch(tmp_path, suffix):
    Image.fromarray(smooth()).save(tmp_path / "in.webp")
    _, out, _ = round_trip(tmp_path / "in.webp", suffix)
    assert Image.open(out).info["dpi"] == pytest.approx((72, 72), abs=0.5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_orientation_is_applied_once(tmp_path, suffix, orientation):
    path = save_full(tmp_path / f"in.{suffix}", orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path))).astype(int)
    photo, out, _ = round_trip(path, suffix)
    assert np.abs(photo.pixels * 255 - upright).max() <= 1
    written = Image.open(out)
    assert written.getexif().get(0x0112, 1) == 1
    assert np.abs(np.asarray(ImageOps.exif_transpose(written)).astype(int) - upright).mean() < 2
    assert b'Orientation="6"' not in out.read_bytes()
    if suffix != "tif":
        photo_tags = written.getexif().get_ifd(0x8769)
        assert (photo_tags[0xA002], photo_tags[0xA003]) == written.size


def test_thumbnail_of_the_old_picture_is_dropped(tmp_path):
    exif = exif_tags()
    thumbnail = io.BytesIO()
    Image.fromarray(smooth()).resize((16, 12)).save(thumbnail, "JPEG")
    block = bytearray(exif.tobytes())
    first = len(b"Exif\0\0") + struct.unpack_from(">I", block, 10)[0]
    entries = struct.unpack_from(">H", block, first)[0]
    at = len(block) - 6
    struct.pack_into(">I", block, first + 2 + 12 * entries, at)
    block += struct.pack(">HHHIIHHIII", 2, 0x0201, 4, 1, at + 30, 0x0202, 4, 1, thumbnail.tell(), 0)
    block += thumbnail.getvalue()
    Image.fromarray(smooth()).save(tmp_path / "in.jpg", exif=bytes(block))
    assert (tmp_path / "in.jpg").read_bytes().count(b"\xff\xd8\xff") == 2
    _, out, _ = round_trip(tmp_path / "in.jpg", "jpg")
    assert out.read_bytes().count(b"\xff\xd8\xff") == 1
    assert Image.open(out).getexif()[0x010F] == "Maker"


@pytest.mark.parametrize("big", [False, True])
def test_tiff_exif_agrees_with_tifffile(tmp_path, big):
    values = noise(HEIGHT, WIDTH, 3)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, bigtiff=big, photometric="rgb", metadata=None)
    Exif.from_block(exif_tags().tobytes()).add_to_tiff(path)
    with tifffile.TiffFile(path) as file:
        assert file.is_bigtiff == big
        tags = file.pages[0].tags
        assert tags["Make"].value == "Maker"
        assert tags["ExifTag"].value["ISOSpeedRatings"] == 400
        assert tags["ExifTag"].value["ExposureTime"] == (1, 125)
        assert tags["ExifTag"].value["MakerNote"] == bytes(range(256)) * 4
        assert tags["GPSTag"].value["GPSLatitude"] == (48, 1, 8, 1, 617, 50)
        np.testing.assert_array_equal(file.asarray(), values)
    np.testing.assert_array_equal(np.rint(read_photo(path).pixels * 255), values)


def test_big_endian_tags_are_understood(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(4, 6), byteorder=">", metadata=None, description="a picture")
    exif = Exif.from_tiff(tmp_path / "a.tif")
    assert exif.main[0x010E].data.rstrip(b"\0") == b"a picture"
    exif.photo[0x8827] = Tag(3, 1, struct.pack("<H", 400))
    exif.gps[2] = Tag(5, 1, struct.pack("<II", 48, 7))
    exif.add_to_tiff(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.byteorder == ">"
        assert file.pages[0].tags["ExifTag"].value["ISOSpeedRatings"] == 400
        assert file.pages[0].tags["GPSTag"].value["GPSLatitude"] == (48, 7)
        np.testing.assert_array_equal(file.asarray(), noise(4, 6))


@given(st.binary(max_size=40), st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_exif_is_an_error_of_its_own(data, seed, hits):
    block = bytearray(exif_tags().tobytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(6, min(len(block), 300), hits):
        block[at] = rng.integers(256)
    for candidate in (bytes(block), bytes(block[: rng.integers(len(block))]), b"II*\0" + data, data):
        try:
            exif = Exif.from_block(candidate)
        except ExifError:
            continue
        assert Exif.from_block(exif.to_block()).photo.keys() == exif.photo.keys()


def test_exif_offset_beyond_all_files():
    with pytest.raises(ExifError):
        Exif.from_block(b"II+\0\x08\0\0\0" + b"\xff" * 8)


def test_exif_of_a_changed_picture():
    exif = Exif.from_block(exif_tags(6).tobytes())
    changed = exif.for_picture(70_000, 5)
    assert changed.main.pop(0x0112).data == b"\1\0"
    assert changed.photo.pop(0xA002).data == struct.pack("<I", 70_000)
    assert changed.photo.pop(0xA003).data == struct.pack("<I", 5)
    assert exif.main.pop(0x0112).data == b"\6\0"
    assert changed.main == exif.main
    assert changed.gps == exif.gps


def test_pages_after_the_first_stay(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(3, 8, 9), photometric="minisblack")
    Exif.from_block(exif_tags().tobytes()).add_to_tiff(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 3
        np.testing.assert_array_equal(file.pages[2].asarray(), noise(3, 8, 9)[2])


def test_photo_with_damaged_exif_is_read(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "in.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    photo = read_photo(tmp_path / "in.jpg")
    assert photo.exif is None
    assert "EXIF" in photo.notes[0]


def test_iptc_of_a_tiff_is_kept(tmp_path):
    iptc = b"\x1c\x02\x50\x00\x04Anna" + bytes(3)
    tifffile.imwrite(
        tmp_path / "in.tif",
        smooth(),
        metadata=None,
        extratags=[(0x83BB, 4, 3, struct.unpack("<3I", iptc), True)],
    )
    _, out, _ = round_trip(tmp_path / "in.tif", "tif")
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].tags[0x83BB].value == iptc


def test_iptc_of_a_jpeg_is_kept_or_missed_aloud(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "plain.jpg")
    data = (tmp_path / "plain.jpg").read_bytes()
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x09\x1c\x02\x50\x00\x04Anna\0"
    segment = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    (tmp_path / "in.jpg").write_bytes(data[:2] + segment + data[2:])
    assert IptcImagePlugin.getiptcinfo(Image.open(tmp_path / "in.jpg")) == {(2, 80): b"Anna"}
    _, out, notes = round_trip(tmp_path / "in.jpg", "jpg")
    assert IptcImagePlugin.getiptcinfo(Image.open(out)) == {(2, 80): b"Anna"}
    assert not notes
    _, _, notes = round_trip(tmp_path / "in.jpg", "tif")
    assert any("IPTC" in note for note in notes)


def test_too_long_xmp_is_noted(tmp_path):
    save_full(tmp_path / "in.png")
    photo = read_photo(tmp_path / "in.png")
    photo.metadata["xmp-data"] = XMP.replace(b'"6"', b'"1"') + b" " * 70_000
    assert any("XMP" in note for note in write_photo(tmp_path / "out.jpg", photo.pixels, photo))
    assert write_photo(tmp_path / "out.webp", photo.pixels, photo) == []
    assert read_photo(tmp_path / "out.webp").metadata["xmp-data"] == photo.metadata["xmp-data"]


# -------------------------------------------------------------------------------------------------- bad input


def one_line(error: pytest.ExceptionInfo[ImageFileError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert re.fullmatch(r"[^:]+.*: .*; .+", text)
    assert path.name in text
    return text


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.98])
def test_cut_off_files_are_refused(tmp_path, suffix, part):
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise(120, 100, 3)).save(whole, **({"lossless": True} if suffix == "webp" else {}))
    data = whole.read_bytes()
    path = tmp_path / f"in.{suffix}"
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(ImageFileError, match="damaged or cut-off") as error:
        read_photo(path)
    one_line(error, path)


def test_cut_off_compressed_tiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "whole.tif", noise(200, 100, 3), compression="zlib", rowsperstrip=16)
    data = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "in.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageFileError, match="damaged or cut-off"):
        read_photo(tmp_path / "in.tif")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jpg", b"just some text, long enough to be a file\n" * 20, "not a PNG"),
        ("b.png", b"", "empty"),
        ("c.png", b"\x89PNG\r\n\x1a\n", "damaged"),
        ("d.tif", b"II*\0\xff\xff\xff\xff", "damaged"),
        ("e.nef", b"II*\0" + bytes(100), "raw file"),
        ("f.gif", b"GIF89a" + bytes(100), "not a PNG"),
        ("g\nh.jpg", b"text", "not a PNG"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=message) as error:
        read_photo(path)
    assert "\n" not in str(error.value)


def test_missing_file_folder_pipe(tmp_path):
    with pytest.raises(ImageFileError, match="no such file"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(ImageFileError, match="a folder"):
        read_photo(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    with pytest.raises(ImageFileError, match="not a regular file"):
        read_photo(tmp_path / "pipe.png")
    with pytest.raises(ImageFileError, match="cannot read"):
        read_photo(tmp_path / ("x" * 400 + ".png"))


def test_error_names_the_fault_of_this_file(tmp_path):
    # libvips keeps the text of a fault that it was told to overlook, and adds it to the next one.
    Image.fromarray(noise(50, 50, 3)).save(tmp_path / "a.tif")
    pyvips.Image.new_from_buffer((tmp_path / "a.tif").read_bytes()[:4000], "", fail_on="none").numpy()
    (tmp_path / "b.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 ")
    with pytest.raises(ImageFileError, match="WebP") as error:
        read_photo(tmp_path / "b.webp")
    assert "scanline" not in str(error.value)


def test_too_many_pixels_are_refused_before_unpacking(tmp_path, monkeypatch):
    # A file of 69 bytes that claims to be 30000 x 30000.
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
    ]
    (tmp_path / "in.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d))
            for n, d in [*chunks, (b"IEND", b"")]
        )
    )
    monkeypatch.setattr(pyvips.Image, "numpy", lambda self: pytest.fail("unpacked"))
    with pytest.raises(ImageFileError, match="30000 x 30000 pixels"):
        read_photo(tmp_path / "in.png")


def test_out_of_memory_is_one_line(tmp_path, monkeypatch):
    Image.fromarray(smooth()).save(tmp_path / "in.png")

    def fail(self):
        raise MemoryError

    monkeypatch.setattr(pyvips.Image, "numpy", fail)
    with pytest.raises(ImageFileError, match="memory"):
        read_photo(tmp_path / "in.png")


def test_names_that_libvips_would_misread(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "x.png")
    for name in ("a[1].png", "b.png[page=1]", "ü é.png", os.fsdecode(b"\xff.png")):
        path = tmp_path / name
        path.write_bytes((tmp_path / "x.png").read_bytes())
        np.testing.assert_array_equal(np.rint(read_photo(path).pixels * 255), smooth())
        if path.suffix == ".png":
            write_photo(path, read_photo(path).pixels, read_photo(path), overwrite=True)
            np.testing.assert_array_equal(np.asarray(Image.open(path)), smooth())


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.png"
    for value in (10, 20, 30):
        Image.new("L", (5, 4), value).save(path)
        assert read_photo(path).pixels[0, 0] == np.float32(value / 255)


def test_wrong_suffix_is_read_by_content(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "in.jpg", "PNG")
    photo, out, _ = round_trip(tmp_path / "in.jpg", "jpg")
    assert photo.format == "png"
    assert Image.open(out).format == "JPEG"


def test_photo_and_error_can_travel_between_processes(tmp_path):
    photo = read_photo(save_full(tmp_path / "in.jpg"))
    again = pickle.loads(pickle.dumps(photo))
    write_photo(tmp_path / "out.jpg", again.pixels, again)
    assert tags_of(tmp_path / "out.jpg").items() >= tags_of(tmp_path / "in.jpg").items()
    error = pickle.loads(pickle.dumps(ImageFileError("what", tmp_path, "do")))
    assert str(error) == f"what: {tmp_path}; do"


# ---------------------------------------------------------------------------------------------------- writing


@pytest.fixture
def photo(tmp_path) -> imagefile.Photo:
    (tmp_path / "in").mkdir()
    Image.fromarray(noise(300, 200, 3)).save(tmp_path / "in" / "photo.png")
    return read_photo(tmp_path / "in" / "photo.png")


def test_existing_file_is_kept_unless_told_otherwise(tmp_path, photo):
    out = tmp_path / "out.png"
    out.write_bytes(b"old")
    with pytest.raises(ImageFileError, match="exists already"):
        write_photo(out, photo.pixels, photo)
    assert out.read_bytes() == b"old"
    out.chmod(0o640)
    write_photo(out, photo.pixels, photo, overwrite=True)
    assert Image.open(out).size == (200, 300)
    assert stat.S_IMODE(out.stat().st_mode) == 0o640
    assert not temps(tmp_path)


def test_new_file_has_the_usual_rights(tmp_path, photo):
    write_photo(tmp_path / "out.png", photo.pixels, photo)
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_file_made_meanwhile_is_not_replaced(tmp_path):
    out = tmp_path / "out.npz"
    writing = atomic_write(out)
    writing.__enter__().write_bytes(b"mine")
    out.write_bytes(b"theirs")
    with pytest.raises(ImageFileError, match="exists already"):
        writing.__exit__(None, None, None)
    assert out.read_bytes() == b"theirs"
    assert not temps(tmp_path)


def test_of_many_writers_one_wins(tmp_path):
    out, won, lost = tmp_path / "out.bin", [], []

    def write(number):
        try:
            with atomic_write(out) as temp:
                temp.write_bytes(bytes([number]) * 1000)
            won.append(number)
        except ImageFileError:
            lost.append(number)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 11
    assert out.read_bytes() == bytes(won) * 1000


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def no_link(*args, **kwargs):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_link)
    out = tmp_path / "out.bin"
    with atomic_write(out) as temp:
        temp.write_bytes(b"new")
    assert out.read_bytes() == b"new"
    out.unlink()
    with pytest.raises(ImageFileError, match="exists already"), atomic_write(out) as temp:
        out.write_bytes(b"theirs")
    assert out.read_bytes() == b"theirs"
    assert not temps(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_no_rest(tmp_path, error):
    out = tmp_path / "out.npz"
    out.write_bytes(b"old")

    def write_half():
        with atomic_write(out, overwrite=True) as temp:
            assert temp.suffix == ".npz"
            assert temp.parent == tmp_path
            temp.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert out.read_bytes() == b"old"
    assert not temps(tmp_path)


def test_errors_about_other_files_pass(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out.txt"):
        (tmp_path / "other").read_bytes()
    assert not temps(tmp_path)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "a.txt", tmp_path / "link.txt"
    real.write_text("old")
    link.symlink_to(real)
    with atomic_write(link, overwrite=True) as temp:
        temp.write_text("new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_a_device_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    for attempt in (
        lambda: check_output(pipe, overwrite=True),
        lambda: atomic_write(pipe, overwrite=True).__enter__(),
    ):
        with pytest.raises(ImageFileError, match="not a regular file"):
            attempt()
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["out.png", "out.jpg", "out.tif", "out.webp"])
def test_full_disk(tmp_path, photo, name):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        out = disk / name
        out.write_bytes(b"old")
        with pytest.raises(ImageFileError, match="disk is full"):
            write_photo(out, photo.pixels, photo, overwrite=True)
        assert out.read_bytes() == b"old"
        with pytest.raises(ImageFileError, match="disk is full"), atomic_write(disk / "m.npz") as temp:
            np.savez(temp, motion=np.ones((200, 200, 2)))
        assert [p.name for p in disk.iterdir()] == [name]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_at_the_end(tmp_path, photo, monkeypatch, step):
    out = tmp_path / "out.png"
    out.write_bytes(b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(ImageFileError, match="disk is full") as error:
        write_photo(out, photo.pixels, photo, overwrite=True)
    one_line(error, out)
    assert out.read_bytes() == b"old"
    assert not temps(tmp_path)


def test_data_are_flushed_before_the_name_is_given(tmp_path, monkeypatch):
    steps = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda fd: (steps.append(os.fstat(fd).st_mode), fsync(fd))[1])
    monkeypatch.setattr(os, "link", lambda *a: (steps.append("name"), link(*a))[1])
    with atomic_write(tmp_path / "a.bin") as temp:
        temp.write_bytes(b"x")
    assert stat.S_ISREG(steps[0])
    assert steps[1] == "name"
    assert stat.S_ISDIR(steps[2])


KILLED = """
import sys
from pathlib import Path
import numpy as np
from ircdeblur.app import imagefile
source, out = sys.argv[1:]
photo = imagefile.read_photo(source)
pixels = np.random.default_rng(0).random((4000, 1000, 3), dtype=np.float32)
photo.pixels = pixels
print("go", flush=True)
imagefile.write_photo(out, pixels, photo, overwrite=True)
print("done", flush=True)
"""


@pytest.mark.parametrize("when", ["first bytes", "at the end"])
def test_kill_in_the_middle_leaves_the_old_file(tmp_path, photo, when):
    out = tmp_path / "out.png"
    out.write_bytes(b"old")
    script = (
        KILLED
        if when == "first bytes"
        else KILLED.replace(
            "photo = ",
            "import os, signal\nos.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\nphoto = ",
            1,
        )
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(photo.path), str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "go\n"
    if when == "first bytes":
        deadline = time.monotonic() + 20
        while not any(p.stat().st_size for p in temps(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    assert "done" not in rest
    assert out.read_bytes() == b"old"
    # What stays is hidden, recognisable and not taken for an input.
    (left,) = temps(tmp_path)
    assert left.name.startswith(".ircdeblur-tmp-")
    assert left.stat().st_size > 0
    assert expand_inputs([tmp_path]).paths == [out]
    assert expand_inputs([tmp_path / "*"]).paths == [out]


def test_unwritable_folder(tmp_path, photo, monkeypatch):
    # The superuser may write anywhere, except where the kernel itself makes the files.
    if Path("/proc/self").exists():
        with pytest.raises(ImageFileError, match="cannot write"):
            check_output("/proc/out.png")
        with pytest.raises(ImageFileError, match="cannot write"):
            write_photo("/proc/out.png", photo.pixels, photo)
        with pytest.raises(ImageFileError, match="cannot make the folder"):
            make_folder("/proc/out")
    opener = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opener(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ImageFileError, match=r"cannot write \(Permission denied\).*choose another folder") as error:
        check_output(tmp_path / "out.png")
    one_line(error, tmp_path)


def test_read_only_disk(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=100k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("cannot mount a read-only disk here")
    try:
        with pytest.raises(ImageFileError, match=r"cannot write .*; choose another folder"):
            check_output(tmp_path / "out.png")
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def test_too_large_for_the_format(tmp_path):
    pyvips.Image.black(16_400, 1).write_to_file(str(tmp_path / "in.png"))
    photo = read_photo(tmp_path / "in.png")
    with pytest.raises(ImageFileError, match="16383"):
        check_output(tmp_path / "out.webp", photo=photo)
    with pytest.raises(ImageFileError, match="16383"):
        write_photo(tmp_path / "out.webp", photo.pixels, photo)
    check_output(tmp_path / "out.tif", photo=photo)


# ------------------------------------------------------------------------------------------ the command line


def test_check_output(tmp_path, photo):
    check_output(tmp_path / "new.PNG")
    assert not (tmp_path / "new.PNG").exists()
    assert not temps(tmp_path)
    check_output(tmp_path / "m.npz", suffixes=(".npz", ".flo"))
    with pytest.raises(ImageFileError, match=r"unknown suffix '.gif'.*\.png"):
        check_output(tmp_path / "a.gif")
    with pytest.raises(ImageFileError, match="no suffix"):
        check_output(tmp_path / "a")
    with pytest.raises(ImageFileError, match=r"use \.npz, \.flo"):
        check_output(tmp_path / "m.png", suffixes=(".npz", ".flo"))
    with pytest.raises(ImageFileError, match=r"no such folder: \S*none;"):
        check_output(tmp_path / "none" / "a.png")
    with pytest.raises(ImageFileError, match=r"exists already.*--overwrite"):
        check_output(photo.path)
    check_output(photo.path, overwrite=True)
    (tmp_path / "link.png").symlink_to(photo.path)
    with pytest.raises(ImageFileError, match="replace an input"):
        check_output(tmp_path / "link.png", overwrite=True, inputs=[photo.path])
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(ImageFileError, match="a folder"):
        check_output(tmp_path / "dir.png", overwrite=True)
    with pytest.raises(ImageFileError, match="cannot write"):
        check_output(tmp_path / ("x" * 300 + ".png"))
    with pytest.raises(ImageFileError, match=r"cannot write|no such folder"):
        check_output(photo.path / "a.png")


def test_make_folder(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ImageFileError, match="a file, where a folder"):
        make_folder(tmp_path / "file")


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("b.jpg", "a.PNG", "c.txt", ".hidden.png", "sub/d.tif", "e[1].webp", ".ircdeblur-tmp-12.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    return tmp_path


def test_expand_inputs(tree):
    def names(*inputs):
        found = expand_inputs(inputs)
        return [p.name for p in found.paths], [str(p) for p in found.problems], found.several

    assert names(tree) == (["a.PNG", "b.jpg", "e[1].webp"], [], True)
    assert names(tree / "b.jpg") == (["b.jpg"], [], False)
    assert names(str(tree / "*.jpg")) == (["b.jpg"], [], False)
    assert names(str(tree / "*")) == (["a.PNG", "b.jpg", "e[1].webp"], [], True)
    assert names(str(tree / "**" / "*.tif")) == (["d.tif"], [], False)
    assert names(str(tree / "e[1].webp")) == (["e[1].webp"], [], False)
    assert names(tree / "c.txt")[0] == ["c.txt"]  # named, so reading it says what is wrong
    assert names(tree / "b.jpg", tree, str(tree / "*.jpg"))[0] == ["b.jpg", "a.PNG", "e[1].webp"]

    paths, problems, several = names(tree / "none.jpg", tree / "b.jpg", str(tree / "*.gif"), tree / "folder.png", "")
    assert paths == ["b.jpg"]
    assert several
    assert [p.partition(":")[0] for p in problems] == [
        "no such file or folder",
        "no picture file matches",
        "no PNG, JPEG, TIFF or WebP file in the folder",
        "no such file or folder",
    ]


def plan(inputs, out, suffix="_sharp"):
    return plan_outputs(expand_inputs(inputs), out, suffix)


def test_plan_outputs(tree):
    a, b, c = tree / "a.PNG", tree / "b.jpg", tree / "c.txt"
    assert plan([b], tree / "x.png") == ([(b, tree / "x.png")], None)
    assert plan([b], tree) == ([(b, tree / "b_sharp.jpg")], tree)
    new = tree / "new"
    assert plan([b], f"{new}/") == ([(b, new / "b_sharp.jpg")], new)
    assert plan([a, b], new, "") == ([(a, new / "a.PNG"), (b, new / "b.jpg")], new)
    assert plan([c], f"{new}/").pairs == [(c, new / "c_sharp.png")]
    assert plan([tree / "sub"], new).pairs == [(tree / "sub" / "d.tif", new / "d_sharp.tif")]
    # One of two arguments is missing: OUT is a folder all the same.
    assert plan([b, tree / "none.jpg"], new).pairs == [(b, new / "b_sharp.jpg")]
    assert not new.exists()


def test_plan_outputs_refuses(tree):
    a, b = tree / "a.PNG", tree / "b.jpg"
    with pytest.raises(ImageFileError, match="need a folder"):
        plan([a, b], tree / "c.txt")
    with pytest.raises(ImageFileError, match="name of a picture"):
        plan([a, b], tree / "new.png")
    with pytest.raises(ImageFileError, match="replace an input"):
        plan([a, b], tree, "")
    with pytest.raises(ImageFileError, match="replace an input"):
        plan([b], b)
    (tree / "b_sharp.jpg").touch()
    with pytest.raises(ImageFileError, match="replace an input"):
        plan([tree], tree)  # b.jpg would go to b_sharp.jpg, an input too
    (tree / "sub" / "b.jpg").touch()
    with pytest.raises(ImageFileError, match=r"output of both .*b\.jpg and .*sub/b\.jpg") as error:
        plan([b, tree / "sub" / "b.jpg"], tree / "new")
    one_line(error, Path("b_sharp.jpg"))
    with pytest.raises(ImageFileError, match="suffix"):
        plan([b], tree, "/../x")


def test_import_is_light():
    code = (
        "import sys, ircdeblur.app.imagefile; "
        "print([m for m in ('torch', 'scipy', 'pyvips', 'skimage') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_as_stored_are_written_as_converted_ones_are(tmp_path, dtype, channels):
    """Large pictures stay in the type of their file; nobody can tell from the result."""
    values = noise(HEIGHT, WIDTH, channels, dtype=dtype).squeeze()
    deep = dtype == "uint16"
    grey, colour = ("grey16", "rgb16") if deep else ("b-w", "srgb")
    vips = pyvips.Image.new_from_array(values, interpretation=grey if channels < 3 else colour)
    vips.write_to_file(str(tmp_path / "in.png"))
    stored, converted = (read_photo(tmp_path / "in.png", stored=flag) for flag in (True, False))
    assert stored.pixels.dtype == dtype
    assert stored.pixels.flags.c_contiguous
    colours = 1 if channels < 3 else 3
    np.testing.assert_array_equal(stored.pixels, values.reshape(HEIGHT, WIDTH, channels)[..., :colours].squeeze())
    for suffix in ("png", "tif", "jpg"):
        for name, photo in (("stored", stored), ("converted", converted)):
            write_photo(tmp_path / f"{name}.{suffix}", photo.pixels, photo)
        assert (tmp_path / f"stored.{suffix}").read_bytes() == (tmp_path / f"converted.{suffix}").read_bytes()
    with pytest.raises(ValueError, match=f"floats or {dtype}"):
        write_photo(tmp_path / "out.png", stored.pixels.astype(np.int32), stored)
