"""Take pictures of every state of the web page, ``ircdeblur serve``, in a real browser, on a wide and a narrow window.

Needs the extra ``web``, Playwright for Python, and Chromium (the one of the system, or the one that the environment
variable CHROMIUM names). The photographs are scikit-image's.

    python examples/web_screenshots.py -o screenshots
    python examples/web_screenshots.py -o docs/web --documentation
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyvips
from playwright.sync_api import Page, sync_playwright
from skimage import data

import ircdeblur
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.psf import write_psf

WINDOWS = {"wide": (1400, 900), "narrow": (400, 860)}
DOCUMENTED = ("wide-blind", "wide-motion", "narrow-draw")
LENGTH, ANGLE = 15, 20


@contextmanager
def server() -> Iterator[str]:
    """Run the page on a free port; yields its address."""
    command = [sys.executable, "-m", "ircdeblur", "serve", "--port", "0", "--max-megapixels", "4"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not line.startswith("ready: "):
            raise SystemExit("the page did not start")
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def write_inputs(folder: Path) -> None:
    """Write a blurred and a sharp photograph, one out of focus, a kernel, and a file that is no photograph."""
    sharp = (data.coffee()[:400, :600] / 255).astype(np.float32)
    kernel = linear_motion_kernel(LENGTH, ANGLE)
    y, x = np.mgrid[-5:6, -5:6]
    disc = (np.hypot(x, y) <= 4).astype(float)
    pictures = {
        "blurred": ircdeblur.blur(sharp, psf=kernel, noise=0.004, seed=0),
        "sharp": sharp,
        "defocus": ircdeblur.blur(sharp, psf=disc, noise=0.004, seed=0),
    }
    for name, picture in pictures.items():
        samples = np.rint(255 * picture).astype(np.uint8)
        pyvips.Image.new_from_array(samples).copy(interpretation="srgb").write_to_file(str(folder / f"{name}.png"))
    write_psf(folder / "kernel.png", kernel)
    (folder / "notes.png").write_bytes(b"This is a text, whatever its name says.\n" * 20)


def drag(page: Page, length: float, angle: float) -> None:
    """Drag a line of pixels of the photograph and degrees over its middle."""
    box = page.locator("#picture .sheet").bounding_box()
    scale = box["width"] / 600
    dx, dy = length * scale * np.cos(np.deg2rad(angle)), -length * scale * np.sin(np.deg2rad(angle))
    x, y = box["x"] + box["width"] * 0.62, box["y"] + box["height"] * 0.6
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2, steps=3)
    page.mouse.move(x + dx, y + dy, steps=3)
    page.mouse.up()


def choose(page: Page, path: Path) -> None:
    """Upload a photograph in place of the one that is there."""
    if page.get_by_label("Remove this file").count():
        page.get_by_label("Remove this file").first.click()
    elif page.locator("#photo button[aria-label='Clear']").count():
        page.locator("#photo button[aria-label='Clear']").click()
    page.set_input_files("#photo input[type=file]", path)
    page.locator("#status", has_text="Press Deblur").or_(page.locator("#status .error")).wait_for()


def run(page: Page) -> None:
    """Press the button and wait until the result stands there."""
    before = page.locator("#status").inner_text()
    page.click("#run")
    page.wait_for_function(
        "before => { const s = document.querySelector('#status');"
        " return s.querySelector('.box') && s.innerText !== before && !s.querySelector('.progress-text, .eta-bar'); }",
        arg=before,
        timeout=180_000,
    )
    page.wait_for_timeout(800)


def take(page: Page, folder: Path, inputs: Path, window: str) -> None:
    """Go through the states of the page."""

    def shot(name: str, whole: bool = True) -> None:
        page.wait_for_timeout(400)
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=folder / f"{window}-{name}.png", full_page=whole)

    shot("empty")
    choose(page, inputs / "blurred.png")
    shot("chosen")
    run(page)
    shot("blind")
    for tab in ("Motion", "Kernels", "Confidence"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(500)
        shot(tab.lower())
    page.get_by_label("Draw", exact=True).check()
    drag(page, LENGTH, ANGLE)
    page.get_by_label("Around the line").check()
    run(page)
    shot("draw")
    page.get_by_label("Known kernel").check()
    page.set_input_files("#kernel input[type=file]", inputs / "kernel.png")
    page.wait_for_timeout(1000)
    run(page)
    shot("known-kernel")
    page.get_by_label("Blind").check()
    for name in ("sharp", "defocus"):
        choose(page, inputs / f"{name}.png")
        run(page)
        shot(name)
    choose(page, inputs / "notes.png")
    shot("error")


def main() -> None:
    """Read the arguments, serve, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("screenshots"), help="folder of the pictures")
    parser.add_argument("--documentation", action="store_true", help="keep three of them, reduced to small files")
    parser.add_argument("--window", choices=[*WINDOWS, "both"], default="both", help="which window")
    arguments = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("error: no chromium; install it or name it by CHROMIUM")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, server() as address, sync_playwright() as playwright:
        inputs = Path(place)
        write_inputs(inputs)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for window, (width, height) in WINDOWS.items():
            if arguments.window in (window, "both"):
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(address)
                page.locator("#run").wait_for()
                take(page, arguments.output, inputs, window)
                page.close()
        browser.close()
    if arguments.documentation:
        for path in [p for name in WINDOWS for p in arguments.output.glob(f"{name}-*.png")]:
            if path.stem in DOCUMENTED:
                reduced = pyvips.Image.new_from_buffer(path.read_bytes(), "")[:3].resize(0.7)
                reduced.pngsave(str(path), palette=True, Q=80, strip=True)
            else:
                path.unlink()


if __name__ == "__main__":
    main()
