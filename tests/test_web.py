"""The web page: what it computes, what it refuses, and the page itself in a real browser."""

import asyncio
import io
import json
import os
import pickle
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from skimage import data, transform

from ircdeblur import plots, restore
from ircdeblur.app import cli
from ircdeblur.app.webjobs import (
    Limits,
    Line,
    Order,
    Refused,
    clean_name,
    open_kernel,
    open_photo,
    preview,
    remove_old,
    restore_photo,
    save_outcome,
)
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.metrics import psnr
from ircdeblur.nets.focus import explain_blur

LENGTH, ANGLE = 9, 30
LIMITS = Limits(pixels=200_000, bytes=2_000_000)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sharp():
    return transform.resize(data.astronaut(), (192, 192), anti_aliasing=True).astype(np.float32)


@pytest.fixture(scope="module")
def photos(sharp, tmp_path_factory) -> Path:
    """Folder with ``blurred.jpg``, which has EXIF tags, ``sharp.png`` and ``kernel.npy``."""
    folder = tmp_path_factory.mktemp("photos")
    blurred = restore.blur(sharp, psf=linear_motion_kernel(LENGTH, ANGLE), noise=0.004, seed=0)
    exif = Image.Exif()
    exif[0x010F] = "Testcam"
    Image.fromarray(np.rint(255 * blurred).astype(np.uint8)).save(folder / "blurred.jpg", quality=95, exif=exif)
    Image.fromarray(data.rocket()[200:392, 200:392]).save(folder / "sharp.png")
    np.save(folder / "kernel.npy", linear_motion_kernel(LENGTH, ANGLE))
    return folder


def png_header(width: int, height: int) -> bytes:
    """A PNG of that size whose data would unpack to black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(min((width + 1) * height, 1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="90" height="90"><script>alert(1)</script></svg>'


# --------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("huge.png", png_header(30_000, 30_000), "30000 x 30000 pixels, more than the limit"),
        ("picture.svg", SVG, "not a PNG, JPEG, TIFF or WebP file"),
        ("svg.png", SVG, "not a PNG, JPEG, TIFF or WebP file"),
        ("weights.pt", pickle.dumps({"a": [1, 2]}), "not a PNG, JPEG, TIFF or WebP file"),
        ("rubbish.jpg", b"\xff\xd8\xff" + bytes(200), "damaged or cut-off JPEG"),
        ("empty.png", b"", "the file is empty"),
        ("large.png", bytes(2_000_001), "more than the limit of 2 MB"),
        ("thin.png", png_header(100, 3), "too few"),
    ],
)
def test_a_bad_photograph_is_refused_in_words(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message) as caught:
        open_photo(tmp_path / name, LIMITS)
    assert str(tmp_path) not in str(caught.value)
    assert name in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(20_001)) for _ in range(20_000)) + packer.flush()
    whole = png_header(20_000, 20_000)
    start = whole.index(b"IDAT") - 4
    data_chunk = struct.pack(">I", len(rows)) + b"IDAT" + rows + struct.pack(">I", zlib.crc32(b"IDAT" + rows))
    (tmp_path / "bomb.png").write_bytes(whole[:start] + data_chunk + whole[-12:])
    assert (tmp_path / "bomb.png").stat().st_size < LIMITS.bytes < 20_000**2
    begun = time.process_time()
    with pytest.raises(Refused, match="20000 x 20000"):
        open_photo(tmp_path / "bomb.png", LIMITS)
    # Unpacking takes seconds; a tenth of them leaves room for slow machines.
    assert time.process_time() - begun < 0.5


class Trap:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_kernels_are_read_and_pickles_are_not(tmp_path, photos):
    kernel = open_kernel(photos / "kernel.npy")
    np.testing.assert_allclose(kernel, linear_motion_kernel(LENGTH, ANGLE), atol=1e-6)
    caught = tmp_path / "unpickled"
    np.save(tmp_path / "trap.npy", np.array([Trap(caught)], dtype=object), allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Trap(caught)))
    caught.unlink(missing_ok=True)
    for name in ("trap.npy", "raw.npy"):
        with pytest.raises(Refused, match="not a kernel"):
            open_kernel(tmp_path / name)
    assert not caught.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("kernel.mat", b"MATLAB", "give a .png, .tif or .npy"),
        ("huge.png", png_header(30_000, 30_000), "more than the limit"),
        ("svg.png", SVG, "not a PNG"),
        ("black.png", png_header(9, 9), "sums to 0"),
    ],
)
def test_a_bad_kernel_is_refused_in_words(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=message):
        open_kernel(tmp_path / name)


def test_a_kernel_file_that_promises_more_than_it_has_is_refused(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "<f8", "fortran_order": False, "shape": (100_000, 1_000_000)}
    )
    (tmp_path / "k.npy").write_bytes(stream.getvalue() + bytes(800))
    with pytest.raises(Refused, match="not a kernel"):
        open_kernel(tmp_path / "k.npy")
    np.save(tmp_path / "wide.npy", np.ones((3, 600), dtype=np.uint8))
    with pytest.raises(Refused, match="at most 511"):
        open_kernel(tmp_path / "wide.npy")


@pytest.mark.parametrize(
    ("name", "clean"),
    [("../../etc/passwd", "passwd"), ("C:\\boot.jpg", "boot.jpg"), ("a<b>.png", "a_b_.png"), ("..", "photo")],
)
def test_names_lose_their_folders_and_their_signs(name, clean):
    assert clean_name(name) == clean


def test_old_files_are_removed_and_new_ones_stay(tmp_path):
    (tmp_path / "a").mkdir()
    old, new = tmp_path / "a" / "old.png", tmp_path / "new.png"
    for path in (old, new):
        path.write_bytes(b"x")
    for path in (old, tmp_path / "a"):
        os.utime(path, (1, 1))
    assert remove_old(tmp_path, 60) == 1
    assert not old.exists()
    assert new.exists()


def test_no_file_is_read_that_is_gone(tmp_path):
    with pytest.raises(Refused, match="no longer here"):
        open_photo(tmp_path / "gone.png", LIMITS)


# ----------------------------------------------------------------------------------------- what is computed


def test_blind_is_what_the_package_computes_and_keeps_the_metadata(photos, sharp, tmp_path):
    photo = open_photo(photos / "blurred.jpg", LIMITS)
    steps = []
    outcome = restore_photo(photo, Order(), lambda share, text: steps.append(share))
    np.testing.assert_array_equal(outcome.pixels, restore.deblur(photo.pixels))
    assert outcome.changed
    assert outcome.headline == "Restored"
    assert steps == sorted(steps)
    assert psnr(outcome.pixels, sharp) > psnr(photo.pixels, sharp) + 3
    saved = save_outcome(outcome, photo, tmp_path)
    assert saved.download.name == "blurred_sharp.jpg"
    with Image.open(saved.download) as result:
        assert result.getexif()[0x010F] == "Testcam"
        assert psnr(np.asarray(result) / 255, outcome.pixels) > 38  # what JPEG of quality 95 loses
    for path in (saved.before, saved.after, saved.motion, saved.kernels, saved.confidence):
        with Image.open(path) as drawing:
            assert min(drawing.size) >= 192


def test_a_sharp_photograph_is_said_to_be_and_left_alone(photos, tmp_path):
    photo = open_photo(photos / "sharp.png", LIMITS)
    outcome = restore_photo(photo, Order())
    assert outcome.headline == "No motion found"
    assert "looks sharp" in outcome.text
    np.testing.assert_array_equal(outcome.pixels, photo.pixels)
    assert save_outcome(outcome, photo, tmp_path).download is None


def test_out_of_focus_sharp_and_moved_are_told_apart(sharp):
    y, x = np.mgrid[-4:5, -4:5]
    disc = restore.blur(sharp, psf=(np.hypot(x, y) <= 3.5).astype(float), noise=0.004, seed=0)
    moved = restore.blur(sharp, psf=linear_motion_kernel(LENGTH, ANGLE), noise=0.004, seed=0)
    still = np.zeros((*sharp.shape[:2], 2), np.float32)
    u, v = LENGTH * np.cos(np.deg2rad(ANGLE)), -LENGTH * np.sin(np.deg2rad(ANGLE))
    assert explain_blur(sharp, still) == "sharp"
    assert explain_blur(disc, still) == "defocus"
    assert explain_blur(moved, still + np.array((u, v), np.float32)) == "motion"
    assert explain_blur(sharp[:40], still[:40]) is None


def test_a_drawn_motion_is_undone_and_only_around_the_line_if_wanted(photos, sharp):
    photo = open_photo(photos / "blurred.jpg", LIMITS)
    order = Order(mode="draw", method="irc", length=LENGTH, angle=ANGLE)
    whole = restore_photo(photo, order)
    expected = restore.deconvolve(photo.pixels, psf=linear_motion_kernel(LENGTH, ANGLE), method="irc")
    np.testing.assert_allclose(whole.pixels, expected, atol=1e-6)
    line = Line(0.5, 0.5, 0.54, 0.48)
    part = restore_photo(photo, Order("draw", "irc", length=LENGTH, angle=ANGLE, line=line, reach=0.2))
    away = np.abs(part.pixels - photo.pixels).max(-1)
    rows, columns = np.nonzero(away > 0)
    # The reach is 0.2 of 192 pixels around a line near the middle.
    assert 40 < rows.min() <= rows.max() < 150
    assert 40 < columns.min() <= columns.max() < 150
    middle = (slice(90, 102), slice(92, 104))
    assert psnr(part.pixels[middle], whole.pixels[middle]) > 35
    # No step at the rim of what was restored.
    assert away[rows.min()].max() < 0.02
    u, v = part.motion[95, 98]
    assert (u, v) == pytest.approx((LENGTH * np.cos(np.pi / 6), -LENGTH * np.sin(np.pi / 6)), rel=0.01)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Order(mode="draw"), "Drag along a streak"),
        (Order(mode="draw", length=150.0), "longer than half"),
        (Order(mode="draw", length=9.0, reach=0.1), "around a line"),
        (Order(mode="known kernel"), "Give the kernel"),
        (Order(mode="known kernel", kernel=np.ones((3, 301))), "larger than the photograph"),
    ],
)
def test_incomplete_orders_are_refused_in_words(order, message, photos):
    with pytest.raises(Refused, match=message):
        restore_photo(open_photo(photos / "blurred.jpg", LIMITS), order)


def test_half_strength_is_half_way(photos):
    photo = open_photo(photos / "blurred.jpg", LIMITS)
    kernel = open_kernel(photos / "kernel.npy")
    full, half, none = (
        restore_photo(photo, Order("known kernel", "wiener", strength=s, kernel=kernel)).pixels for s in (1.0, 0.5, 0.0)
    )
    np.testing.assert_allclose(half, (full + photo.pixels) / 2, atol=1e-6)
    np.testing.assert_allclose(none, photo.pixels, atol=1e-6)


def test_the_shown_picture_is_small_and_has_the_colour_profile(photos):
    photo = open_photo(photos / "blurred.jpg", LIMITS)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo.metadata["icc-profile-data"] = profile
    with Image.open(io.BytesIO(preview(photo.pixels, photo, longest=96))) as shown:
        assert shown.size == (96, 96)
        assert shown.info["icc_profile"] == profile


def test_confidence_is_drawn_in_two_colours_and_grey():
    motion = np.zeros((90, 120, 2), np.float32)
    motion[:, 40:, 0] = 10
    error = np.full((90, 120), 1.0, np.float32)
    error[:, 80:] = 9
    drawing = plots.draw_confidence(np.full((90, 120), 0.5), motion, error).astype(int)
    still, sure, doubtful = (drawing[300, x] for x in (130, 400, 670))
    assert np.ptp(still) == 0
    assert sure[2] > sure[0] + 20
    assert doubtful[0] > doubtful[2] + 20


# ---------------------------------------------------------------------------------------------- the guard


def ask(path, folder, body=b"", headers=(), method="POST"):
    """Status and text of what the guard says; 299 is what it lets through."""
    from ircdeblur.app.web import Guard

    answers = []

    async def page(scope, receive, send):
        received = (await receive())["body"] if method == "POST" else b""
        await send({"type": "http.response.start", "status": 299, "headers": []})
        await send({"type": "http.response.body", "body": received})

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        answers.append(message)

    fields = [(b"content-length", str(len(body)).encode()), *headers] if headers is not None else []
    scope = {"type": "http", "path": path, "method": method, "headers": fields}
    asyncio.run(Guard(page, LIMITS, folder)(scope, receive, send))
    assert any(name == b"content-security-policy" for name, _ in answers[0]["headers"])
    return answers[0]["status"], answers[1]["body"].decode()


def form(name: str) -> bytes:
    return f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\nabc\r\n--x--\r\n'.encode()


def test_the_guard_passes_what_is_right_unchanged(tmp_path):
    assert ask("/gradio_api/upload", tmp_path, form("my photo.jpg")) == (299, form("my photo.jpg").decode())
    call = json.dumps({"data": [{"path": "/tmp/x.png", "url": "http://127.0.0.1/file=x"}]})
    assert ask("/gradio_api/queue/join", tmp_path, call.encode()) == (299, call)
    assert ask("/gradio_api/file=/tmp/x.png", tmp_path, method="GET")[0] == 299


@pytest.mark.parametrize("name", ["../../evil.png", "..\\evil.png", "/etc/passwd", "%2e%2e%2fevil.png", ".."])
def test_the_guard_refuses_names_that_lead_away(name, tmp_path):
    status, text = ask("/gradio_api/upload", tmp_path, form(name))
    assert status == 400
    assert "leads to another folder" in text


def test_the_guard_refuses_what_is_too_long_or_elsewhere(tmp_path, monkeypatch):
    assert ask("/gradio_api/upload", tmp_path, headers=[(b"content-length", b"9999999")])[0] == 413
    assert ask("/gradio_api/upload", tmp_path, headers=None)[0] == 411
    assert ask("/gradio_api/queue/join", tmp_path, bytes(300_000))[0] == 413
    call = json.dumps({"data": [[{"path": "http://example.org/x.png"}]]}).encode()
    assert ask("/gradio_api/queue/join", tmp_path, call)[0] == 403
    assert ask("/gradio_api/file=http://example.org/x.png", tmp_path, method="GET")[0] == 403
    assert ask("/gradio_api/proxy=http://example.org", tmp_path, method="GET")[0] == 403
    (tmp_path / "full").write_bytes(b"")
    os.truncate(tmp_path / "full", 50_000_000)
    assert ask("/gradio_api/upload", tmp_path, form("a.jpg"))[0] == 507


def test_what_the_page_sends_is_checked():
    from ircdeblur.app.web import parse_drawing

    assert parse_drawing("") is None
    assert parse_drawing('{"line": [0, 0.1, 0.2, 1]}') == (0, 0.1, 0.2, 1)
    for text in ("{", '{"line": [1, 2]}', '{"line": [0, 0, 9, 0]}', "[1]", '{"line": [NaN, 0, 0, 0]}'):
        with pytest.raises(Refused, match="draw it again"):
            parse_drawing(text)


# --------------------------------------------------------------------------------------------- the command


def test_serve_says_in_one_line_what_is_wrong(capsys):
    pytest.importorskip("gradio", reason="gradio (extra web) is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert (
        error == f"error: cannot listen (Address already in use): 127.0.0.1:{port}; choose another --port or --host\n"
    )
    assert cli.main(["serve", "--max-megapixels", "0"]) == 2


def test_serve_without_gradio_names_the_extra(capsys, monkeypatch):
    from ircdeblur.app import web

    monkeypatch.setattr(web, "find_spec", lambda name: None)
    assert cli.main(["serve"]) == 1
    assert 'pip install "ircdeblur[web]"' in capsys.readouterr().err


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Run the command on a free port; it must end cleanly by Ctrl-C and leave nothing behind."""
    pytest.importorskip("gradio", reason="gradio (extra web) is not installed")
    temp = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "ircdeblur", "serve", "--port", "0", "--max-megapixels", "0.2"]
    environment = {**os.environ, "TMPDIR": str(temp), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--max-megabytes", "2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    line = process.stdout.readline()
    try:
        assert line.startswith("ready: http://127.0.0.1:"), line + process.stderr.read()
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            rest, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, rest, errors) == (0, "", "")
    assert not list(temp.glob("ircdeblur-web-*"))


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: install it, or name it by the environment variable CHROMIUM")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The page in a browser; nothing may be asked of another host."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("#run").wait_for()
    yield page
    page.close()
    assert asked
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def status(page, text: str) -> str:
    page.locator("#status .box", has_text=text).wait_for(timeout=120_000)
    return page.locator("#status .box").inner_text()


@pytest.mark.slow
def test_browser_uploads_restores_and_downloads(page, photos, tmp_path):
    page.set_input_files("#photo input[type=file]", photos / "blurred.jpg")
    status(page, "192 x 192 pixels")
    page.click("#run")
    assert "Motion found" in status(page, "Restored")
    with page.expect_download() as waiting:
        page.click("#download")
    assert waiting.value.suggested_filename == "blurred_sharp.jpg"
    waiting.value.save_as(tmp_path / "result.jpg")
    with Image.open(tmp_path / "result.jpg") as result:
        assert result.size == (192, 192)
        assert result.getexif()[0x010F] == "Testcam"
    page.get_by_role("tab", name="Motion").click()
    page.locator("#motion img").wait_for()


@pytest.mark.slow
def test_browser_draws_a_motion(page, photos):
    page.set_input_files("#photo input[type=file]", photos / "blurred.jpg")
    status(page, "192 x 192 pixels")
    page.get_by_label("Draw", exact=True).check()
    page.get_by_label("Larger").click()
    box = page.locator("#picture .sheet").bounding_box()
    scale = box["width"] / 192
    x, y = box["x"] + 40 * scale, box["y"] + 60 * scale
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 4 * scale, y - 2 * scale)
    page.mouse.move(x + 7.8 * scale, y - 4.5 * scale)
    page.mouse.up()
    page.wait_for_function(
        "() => [...document.querySelectorAll('input[type=number]')].some(i => Math.abs(i.value - 9) < 0.3)"
    )
    page.get_by_label("Around the line").check()
    page.click("#run")
    assert "around the line" in status(page, "Restored")
    assert "9.0 px at 30°" in page.locator("#status").inner_text()


@pytest.mark.slow
def test_browser_says_what_is_wrong_and_goes_on(page, photos, tmp_path):
    bad = {"rubbish.jpg": b"no picture" * 50, "huge.png": png_header(30_000, 30_000), "drawing.svg": SVG}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        page.set_input_files("#photo input[type=file]", tmp_path / name)
        status(page, name)
        assert page.locator("#status .error").count() == 1
        page.locator("#photo button[aria-label='Clear'], #photo button[aria-label='Remove this file']").first.click()
        status(page, "No photograph yet")
    for name, content, message in (
        ("../../evil.png", b"x", "leads to another folder"),
        ("large.png", bytes(2_500_000), "maximum allowed size"),
    ):
        page.set_input_files("#photo input[type=file]", {"name": name, "mimeType": "image/png", "buffer": content})
        page.get_by_text(message).wait_for()
        page.reload()
        page.locator("#run").wait_for()
    page.set_input_files("#photo input[type=file]", photos / "sharp.png")
    status(page, "192 x 192 pixels")
    page.click("#run")
    assert "looks sharp" in status(page, "No motion found")
    assert page.locator("#download").count() == 0
    # Nothing is wider than a phone.
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
