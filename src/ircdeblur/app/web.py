"""The web page, ``ircdeblur serve``: its layout, and the server that keeps bad requests away from it.

What is computed stands in `ircdeblur.app.webjobs`; the picture on which a person draws is `canvas.js`, `canvas.css` and
`canvas.html` beside this file. Everything comes from this machine: fonts are the system's, and the browser is told to
ask no other host for anything.
"""

from __future__ import annotations

import base64
import html
import json
import math
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ircdeblur.app.imagefile import ImageFileError
from ircdeblur.app.webjobs import (
    KERNEL_SUFFIXES,
    MODES,
    Limits,
    Line,
    Order,
    Refused,
    clean_name,
    folder_size,
    open_kernel,
    open_photo,
    preview,
    remove_old,
    restore_photo,
    save_outcome,
)

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["Guard", "build_page", "parse_drawing", "serve"]

KEEP_SECONDS = 3600.0
"""Uploads and results are deleted after that time."""

QUEUE = 16
"""Requests that may wait; more are turned away."""

FOLDER_LIMIT = 20
"""All uploads and results together take at most so many times the largest upload."""

_BODY_LIMIT = 1 << 18
_METHODS = [
    ("IRC-Net (learned)", "irc-net"),
    ("IRC-Net, eight times as thorough", "irc-net-plus"),
    ("IRC-Net of the paper", "irc-net-shrinkage"),
    ("IRC with memory", "irc-mm"),
    ("IRC, sparse gradients", "irc"),
    ("Conjugate gradients", "cg"),
    ("Fourier", "fft"),
    ("Wiener", "wiener"),
    ("Richardson-Lucy", "richardson-lucy"),
]
_WHOLE, _AROUND = "Whole frame", "Around the line"
_HINTS = {
    "blind": "The motion of every pixel is estimated from the photograph itself.",
    "draw": "Find a streak: a bright point that became a line. Zoom in, then drag from one of its ends to the other.",
    "known kernel": "The kernel says how a single point was smeared: a small picture of it, or its numbers.",
}
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)


# ------------------------------------------------------------------------------------------------- the guard

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware that refuses what the page never sends, and tells the browser to ask no other host.

    Parameters
    ----------
    app : ASGI application
        What is guarded.
    limits : Limits
        Uploads of more bytes are refused before they are read.
    folder : Path
        Of uploads and results; uploads are refused while it is full.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits, folder: Path) -> None:
        self._app, self._limits, self._folder = app, limits, folder

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message.setdefault("headers", [])
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        refusal, receive = await self._judge(scope, receive)
        if refusal is None:
            await self._app(scope, receive, answer)
            return
        status, text = refusal
        body = text.encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
        # What the client still sends is not read.
        headers.append((b"connection", b"close"))
        await answer({"type": "http.response.start", "status": status, "headers": headers})
        await answer({"type": "http.response.body", "body": body})

    async def _judge(self, scope: Message, receive: Receive) -> tuple[tuple[int, str] | None, Receive]:
        """Return status and text of a refusal, or None, and what to read the request from."""
        path: str = scope["path"]
        # Gradio would fetch such an address and pass its content on.
        if re.search(r"/(?:file=|proxy=)\s*\w+:", path) or "/proxy=" in path:
            return (403, "Files of other hosts are not served."), receive
        if scope["method"] != "POST":
            return None, receive
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit():
            return (411, "The request does not say how long it is."), receive
        if path.rstrip("/").endswith("/upload"):
            return await self._judge_upload(int(length), receive)
        if int(length) > _BODY_LIMIT:
            return (413, "The request is too long."), receive
        return await _judge_call(receive)

    async def _judge_upload(self, length: int, receive: Receive) -> tuple[tuple[int, str] | None, Receive]:
        if length > self._limits.bytes + _BODY_LIMIT:
            limit = self._limits.bytes / 1e6
            return (413, f"The file has {length / 1e6:.0f} MB, more than the limit of {limit:.0f} MB."), receive
        if folder_size(self._folder) > FOLDER_LIMIT * self._limits.bytes:
            return (507, "The server has no room for more photographs; please try again in an hour."), receive
        messages, head = [], b""
        # The name of the first file stands at the beginning.
        while b"\r\n\r\n" not in head and len(head) < 1 << 14:
            messages.append(await receive())
            head += messages[-1].get("body", b"")
            if not messages[-1].get("more_body"):
                break
        for found in re.finditer(rb'filename\*?="?([^"\r\n]*)', head[: 1 << 14]):
            if _leads_away(found[1].decode("utf-8", "replace")):
                return (400, "The name of this file leads to another folder; rename it and choose it again."), receive

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        return None, again


def _leads_away(name: str) -> bool:
    return bool(re.search(r"[/\\\0]|%2f|%5c|^\.\.?$", name, re.IGNORECASE))


async def _judge_call(receive: Receive) -> tuple[tuple[int, str] | None, Receive]:
    """Refuse a call that names a file of another host: Gradio would fetch it, whatever its size."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return (400, "The request ended early."), receive
        body += message.get("body", b"")
        more = bool(message.get("more_body"))
        if len(body) > _BODY_LIMIT:
            return (413, "The request is too long."), receive
    with suppress(ValueError, RecursionError):
        if _names_other_host(json.loads(body or b"null")):
            return (403, "Files of other hosts are not read."), receive
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return None, again


def _names_other_host(value: Any) -> bool:
    if isinstance(value, dict):
        path = value.get("path")
        return (isinstance(path, str) and "://" in path) or any(map(_names_other_host, value.values()))
    return isinstance(value, list) and any(map(_names_other_host, value))


# -------------------------------------------------------------------------------------------------- the page


def _box(headline: str, text: str = "", kind: str = "note", notes: list[str] | None = None) -> str:
    """Return HTML that tells the user something; `kind` is "note", "good" or "error"."""
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in filter(None, (text, *(notes or ()))))
    role = "alert" if kind == "error" else "status"
    return f'<div class="box {kind}" role="{role}"><strong>{html.escape(headline)}</strong>{lines}</div>'


def parse_drawing(text: Any) -> Line | None:
    """Return the line in what the page's picture sends, JSON with ``line`` of four shares; None if there is none.

    Raises
    ------
    Refused
        If it is something else.
    """
    if not text:
        return None
    try:
        numbers = json.loads(text)["line"]
        line = Line(*(float(n) for n in numbers))
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused("The drawn line could not be understood; please draw it again.") from None
    if not all(math.isfinite(n) and -0.01 <= n <= 1.01 for n in line):
        raise Refused("The drawn line leaves the picture; please draw it again.")
    return line


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise Refused(f"{name} must be a number from {low:g} to {high:g}.")
    return float(value)


@contextmanager
def _explaining() -> Iterator[None]:
    """Turn whatever goes wrong into a sentence for the user; the server's own faults are logged in one line."""
    try:
        yield
    except Refused:
        raise
    except MemoryError:
        raise Refused("There is not enough memory for this photograph; please make it smaller.") from None
    except Exception as error:
        if "memory" in str(error).lower():
            raise Refused("There is not enough memory for this photograph; please make it smaller.") from error
        reason = " ".join(str(error).split())
        print(f"error: web page: {type(error).__name__}: {reason}", file=sys.stderr, flush=True)
        raise Refused(
            "Something went wrong with this photograph. The page goes on working; try another one."
        ) from error


def _order(
    mode: Any,
    drawing: Any,
    length: Any,
    angle: Any,
    where: Any,
    reach: Any,
    kernel: Any,
    method: Any,
    noise_known: Any,
    noise: Any,
    strength: Any,
) -> Order:
    """Return the order that the controls of the page stand for; whatever a client sends is checked."""
    if mode not in MODES:
        raise Refused("Choose where the motion comes from.")
    if method not in [value for _, value in _METHODS]:
        raise Refused("Choose a method from the list.")
    around = mode == "draw" and where == _AROUND
    drawn = mode == "draw"
    if mode == "known kernel" and not kernel:
        raise Refused("Give the kernel first: a small picture of it (.png, .tif) or its numbers (.npy).")
    return Order(
        mode=mode,
        method=method,
        noise=_number(noise, "The noise", 0.0, 20.0) / 100 if noise_known else None,
        strength=_number(strength, "The strength", 0.0, 100.0) / 100,
        length=_number(length or 0.0, "The length", 0.0, 1e5) if drawn else 0.0,
        angle=_number(angle or 0.0, "The angle", -360.0, 360.0) if drawn else 0.0,
        line=parse_drawing(drawing) if drawn else None,
        reach=_number(reach, "The reach", 1.0, 100.0) / 100 if around else None,
        kernel=open_kernel(kernel) if mode == "known kernel" else None,
    )


def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _source(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


class _Duty:
    """Whether the server is about to end, and whether somebody's photograph is being worked on."""

    def __init__(self) -> None:
        self.closing, self.busy = threading.Event(), threading.Lock()


def build_page(limits: Limits, folder: Path, duty: _Duty | None = None) -> gr.Blocks:
    """Lay out the page.

    Parameters
    ----------
    limits : Limits
        Of uploads.
    folder : Path
        Where results are written.
    duty : _Duty, optional
        Once it is closing, work in progress ends at its next step.

    Returns
    -------
    page : gradio.Blocks
    """
    import gradio as gr

    duty = _Duty() if duty is None else duty

    def look(path: str | None) -> tuple[Any, ...]:
        """Show a photograph that has just been chosen, and forget the last result."""
        cleared = [gr.update(visible=False), gr.update(visible=False, value=None)]
        if path is None:
            return gr.update(value="", src="", visible=False), None, None, _WELCOME, *cleared
        try:
            with _explaining():
                photo = open_photo(path, limits)
                height, width = photo.pixels.shape[:2]
                source = _source(preview(photo.pixels, photo))
        except Refused as error:
            message = _box("This file cannot be used", str(error), "error")
            return gr.update(value="", src="", visible=False), None, None, message, *cleared
        what = f"{width} x {height} pixels, {8 * photo.dtype.itemsize} bits"
        message = _box(clean_name(photo.path.name), f"{what}. Press Deblur.", "note", photo.notes)
        picture = gr.update(value="", src=source, pw=width, ph=height, visible=True)
        return picture, None, None, message, *cleared

    def switch(mode: str) -> tuple[Any, ...]:
        """Show the controls that belong to a mode."""
        drawing, known = mode == "draw", mode == "known kernel"
        return (
            f'<p class="hint">{_HINTS.get(mode, "")}</p>',
            gr.update(elem_classes=["drawable"] if drawing else []),
            gr.update(visible=drawing),
            gr.update(visible=known),
        )

    def work(path: str | None, *controls: Any, progress: gr.Progress = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008
        """Do what the controls say, and show it."""
        nothing = (gr.update(visible=False), *[gr.update()] * 7, gr.update(visible=False, value=None))

        def follow(share: float, text: str) -> None:
            if duty.closing.is_set():
                raise Refused("The server is being stopped.")
            progress(share, desc=text)

        if path is None:
            return (_box("No photograph", "Drop a photograph first.", "error"), *nothing)
        try:
            with duty.busy, _explaining():
                order = _order(*controls)
                follow(0.0, "Reading")
                photo = open_photo(path, limits)
                outcome = restore_photo(photo, order, follow)
                follow(0.93, "Drawing and writing")
                saved = save_outcome(outcome, photo, folder)
        except Refused as error:
            return (_box("Not done", str(error), "error"), *nothing)
        kind = "good" if outcome.headline == "Restored" else "note"
        shown = [None if file is None else str(file) for file in (saved.motion, saved.kernels, saved.confidence)]
        views = [gr.update(value=file, visible=file is not None) for file in shown]
        empty = [gr.update(visible=file is None) for file in shown]
        return (
            _box(outcome.headline, outcome.text, kind, saved.notes),
            gr.update(visible=True, selected="picture"),
            (str(saved.before), str(saved.after)),
            *views,
            *empty,
            gr.update(visible=saved.download is not None, value=saved.download and str(saved.download)),
        )

    with gr.Blocks(title="ircdeblur", analytics_enabled=False, fill_width=False) as page:
        gr.HTML(_HEADER)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                photo = gr.File(
                    label="Photograph",
                    elem_id="photo",
                    height=150,
                )
                picture = gr.HTML(
                    "",
                    html_template=_asset("canvas.html"),
                    css_template=_asset("canvas.css"),
                    js_on_load=_asset("canvas.js"),
                    src="",
                    pw=1,
                    ph=1,
                    visible=False,
                    elem_id="picture",
                )
                mode = gr.Radio(
                    [("Blind", "blind"), ("Draw", "draw"), ("Known kernel", "known kernel")],
                    value="blind",
                    label="Where the motion comes from",
                    elem_id="mode",
                )
                hint = gr.HTML(f'<p class="hint">{_HINTS["blind"]}</p>')
                with gr.Group(visible=False) as drawing:
                    with gr.Row():
                        length = gr.Number(label="Length (pixels)", minimum=0, precision=1, min_width=100)
                        angle = gr.Number(label="Angle (degrees)", precision=1, min_width=100)
                    where = gr.Radio([_WHOLE, _AROUND], value=_WHOLE, label="Restore", elem_id="where")
                    reach = gr.Slider(2, 50, 15, step=1, label="Reach (% of the longer side)", visible=False)
                kernel = gr.File(
                    label=f"Kernel ({', '.join(KERNEL_SUFFIXES)})", visible=False, height=110, elem_id="kernel"
                )
                strength = gr.Slider(0, 100, 100, step=5, label="Strength (%)")
                with gr.Accordion("More settings", open=False):
                    method = gr.Dropdown(_METHODS, value="irc-net", label="Method", filterable=False)
                    noise_known = gr.Checkbox(False, label="I know the noise (otherwise it is estimated)")
                    noise = gr.Slider(
                        0, 10, 1, step=0.1, label="Standard deviation of the noise (% of the range)", visible=False
                    )
                run = gr.Button("Deblur", variant="primary", elem_id="run", size="lg")
            with gr.Column(scale=8, min_width=320):
                status = gr.HTML(_WELCOME, elem_id="status", min_height=90)
                with gr.Tabs(visible=False, elem_id="results") as results:
                    with gr.Tab("Result", id="picture"):
                        slider = gr.ImageSlider(
                            show_label=False,
                            interactive=False,
                            max_height=620,
                            buttons=["fullscreen"],
                            elem_id="slider",
                        )
                    views = {}
                    for name, alternative in (
                        ("Motion", "Colours and arrows of the motion over the photograph"),
                        ("Kernels", "Blur kernels at places of the photograph"),
                        ("Confidence", "Where the motion is to be believed"),
                    ):
                        with gr.Tab(name, elem_id=name.lower()):
                            nothing = gr.HTML(_NOTHING, visible=False)
                            view = gr.Image(
                                show_label=False,
                                interactive=False,
                                buttons=["fullscreen", "download"],
                                format="png",
                                alt_text=alternative,
                            )
                        views[nothing] = view
                download = gr.DownloadButton(
                    "Download in full quality", visible=False, elem_id="download", variant="primary"
                )
        gr.HTML(_footer(limits))

        own: dict[str, Any] = {"api_visibility": "private"}
        outputs = [status, results, slider, *views.values(), *views, download]
        photo.change(
            look,
            photo,
            [picture, length, angle, status, results, download],
            concurrency_id="look",
            concurrency_limit=1,
            show_progress_on=status,
            **own,
        )
        mode.change(switch, mode, [hint, picture, drawing, kernel], queue=False, show_progress="hidden", **own)
        picture.input(None, picture, [length, angle], js=_READ_DRAWING, **own)
        where.change(
            lambda choice: gr.update(visible=choice == _AROUND),
            where,
            reach,
            queue=False,
            show_progress="hidden",
            **own,
        )
        noise_known.change(
            lambda known: gr.update(visible=known), noise_known, noise, queue=False, show_progress="hidden", **own
        )
        controls = [photo, mode, picture, length, angle, where, reach, kernel, method, noise_known, noise, strength]
        run.click(work, controls, outputs, concurrency_id="work", concurrency_limit=1, show_progress_on=status, **own)
        page.load(None, js=_ACCEPT, **own)
    page.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=1)
    return page


_HEADER = """<header class="head"><h1>ircdeblur</h1>
<p>A photograph that was shaken, without the shake.</p></header>"""
_WELCOME = _box(
    "No photograph yet",
    "Drop a PNG, JPEG, TIFF or WebP file on the field, or click it. It stays on the machine that serves this page.",
)
# A phone then offers its gallery, and hands over JPEG.
_ACCEPT = """() => { const i = document.querySelector('#photo input[type=file]');
if (i) i.accept = 'image/png,image/jpeg,image/tiff,image/webp'; }"""
_NOTHING = '<p class="hint">Nothing to show: the motion was given, not estimated.</p>'
_READ_DRAWING = "(text) => { const d = text ? JSON.parse(text) : {}; return [d.length ?? null, d.angle ?? null]; }"
_CSS = """
.gradio-container main { max-width: 1320px !important; width: 100%; margin: 0 auto !important; }
.html-container, .block.html { padding: 0 !important; }
.head h1 { font-size: 1.5rem; font-weight: 650; margin: .4rem 0 0; }
.head p, .foot p, .hint { color: var(--body-text-color-subdued); margin: .1rem 0 .2rem; }
.hint { font-size: .9rem; line-height: 1.4; padding: 0 2px; }
.foot p { font-size: .8rem; line-height: 1.5; }
.box { border-left: 4px solid var(--border-color-primary); background: var(--background-fill-secondary);
  padding: .7rem .9rem; border-radius: 6px; line-height: 1.45; overflow-wrap: anywhere; min-height: 64px; }
.box strong { display: block; }
.box p { margin: .15rem 0 0; }
.box.good { border-left-color: #2f8f6b; }
.box.error { border-left-color: #c0392b; }
@media (max-width: 640px) {
  .tab-container button { padding: 0 .55rem !important; }
  #mode label, #where label { padding: .4rem .5rem; }
}
#picture.drawable .bar { display: flex; }
#picture.drawable .sheet { cursor: crosshair; touch-action: none; }
#picture:not(.drawable) svg { display: none; }
"""


def _footer(limits: Limits) -> str:
    text = (
        f"Photographs are deleted after {KEEP_SECONDS / 60:.0f} minutes, and when the server stops. "
        f"Up to {limits.pixels / 1e6:g} megapixels and {limits.bytes / 1e6:g} MB. "
        f"Straight motions are undone, and curved shakes of a camera, also one that turns; lenses out of focus are not."
    )
    return f'<footer class="foot"><p>{text}</p></footer>'


# ------------------------------------------------------------------------------------------------ the server


def _application(limits: Limits, folder: Path, duty: _Duty) -> Guard:
    """Return the guarded page as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI

    theme = gr.themes.Base(
        primary_hue="teal",
        neutral_hue="gray",
        radius_size="sm",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        # Dark enough to be read on its background.
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_label_text_color="*neutral_600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        slider_color="*primary_700",
        checkbox_background_color_selected="*primary_700",
    )
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        outer,
        build_page(limits, folder, duty),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=_CSS,
    )
    return Guard(outer, limits, folder)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, or refuse in one line."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        what = "cannot listen" if isinstance(error, socket.gaierror) else f"cannot listen ({error.strerror})"
        raise ImageFileError(what, f"{host}:{port}", "choose another --port or --host") from error
    return listener


def _announce(host: str, port: int, stop: threading.Event) -> None:
    """Wait until the page answers, then print where it is."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    while not stop.wait(0.05):
        connection = HTTPConnection(local, port, timeout=5)
        with suppress(OSError, HTTPException):
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                name = f"[{local}]" if ":" in local else local
                print(f"ready: http://{name}:{port}/ (Ctrl-C ends it)", flush=True)
                return
        connection.close()


def serve(host: str = "127.0.0.1", port: int = 7860, limits: Limits | None = None) -> None:
    """Serve the web page until Ctrl-C or a signal to end.

    Parameters
    ----------
    host : str
        Address to listen at. There is no password: whoever reaches the address can use the page.
    port : int
        0 takes a free one.
    limits : Limits, optional
        Of uploads.

    Raises
    ------
    ImageFileError
        If gradio is not installed, or the address cannot be used.
    """
    if find_spec("gradio") is None:
        raise ImageFileError("the library for the web page is not installed", "gradio", 'pip install "ircdeblur[web]"')
    limits = Limits() if limits is None else limits
    listener = _listen(host, port)
    # Read by gradio and its libraries when they are imported.
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
    duty = _Duty()
    with listener, tempfile.TemporaryDirectory(prefix="ircdeblur-web-", ignore_cleanup_errors=True) as place:
        os.environ["GRADIO_TEMP_DIR"] = place
        import uvicorn

        # So that the first photograph need not wait for PyTorch.
        import ircdeblur.restore  # noqa: F401

        folder = Path(place)
        config = uvicorn.Config(
            _application(limits, folder, duty), log_level="critical", timeout_graceful_shutdown=1, ws="none"
        )
        announcer = threading.Thread(
            target=_announce, args=(host, listener.getsockname()[1], duty.closing), name="announcer", daemon=True
        )
        sweeper = threading.Thread(target=_sweep, args=(folder, duty.closing), name="sweeper", daemon=True)
        # The server answers signals by an orderly end and then raises them again.
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            announcer.start()
            sweeper.start()
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            duty.closing.set()
            # What is half written must not be left behind.
            if duty.busy.acquire(timeout=30):
                duty.busy.release()
            signal.signal(signal.SIGTERM, previous)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _sweep(folder: Path, closing: threading.Event) -> None:
    """Delete old uploads and results, once a minute."""
    while not closing.wait(60.0):
        remove_old(folder, KEEP_SECONDS)
