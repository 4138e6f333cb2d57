"""The command line: ``ircdeblur deblur photo.jpg -o sharp.jpg`` and its companions.

Only what ``--help`` needs is imported on top. numpy, torch and the rest are imported by the command that uses
them, after its options and its outputs have been checked. Every message is one line: results on stdout,
``note:`` and ``error:`` on stderr.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TextIO

import typer
import typer.main

from ircdeblur.app.job import (
    MIN_TILE,
    MOTION_SUFFIXES,
    Deblurring,
    Job,
    Progress,
    Result,
    Task,
    describe_kernel,
    error_text,
    one_line,
    own_warnings,
    process_file,
    write_drawing,
    write_motion_file,
)

if TYPE_CHECKING:
    import numpy as np

    from ircdeblur.app.imagefile import Inputs, Photo
    from ircdeblur.app.report import ReportPage

__all__ = ["app", "main"]

KERNEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy")
"""What a kernel can be written as."""

TRAIN_LIBRARIES = ("lightning",)


class Method(str, Enum):
    """Methods on offer: `ircdeblur.nets.methods.METHODS`, named here so that help needs no torch."""

    irc_net = "irc-net"
    irc_net_plus = "irc-net-plus"
    irc_net_shrinkage = "irc-net-shrinkage"
    irc_mm = "irc-mm"
    irc = "irc"
    cg = "cg"
    fft = "fft"
    fft_nopad = "fft-nopad"
    wiener = "wiener"
    richardson_lucy = "richardson-lucy"
    laplacian = "laplacian"
    epll = "epll"


class Consolidation(str, Enum):
    """What can be made of a network's answers: `ircdeblur.nets.blind.CONSOLIDATIONS`."""

    picture = "picture"
    answers = "answers"
    none = "none"


class Engine(str, Enum):
    """Where a batch is computed."""

    local = "local"
    ray = "ray"


class Network(str, Enum):
    """Networks that can be trained."""

    motion_net = "motion-net"
    irc_net = "irc-net"
    kernel_net = "kernel-net"
    end_to_end = "end-to-end"


class Severity(str, Enum):
    """Camera shakes of the paper's two test sets: `ircdeblur.experiments.synthetic.SEVERITIES`."""

    moderate = "moderate"
    severe = "severe"


class Paths(str, Enum):
    """Paths that a camera may have taken."""

    any = "any"
    straight = "straight"


class Exported(str, Enum):
    """Networks that can be exported."""

    all = "all"
    motion_net = "motion-net"
    irc_net = "irc-net"


class Experiment(str, Enum):
    """Experiments that can be reproduced: those of `ircdeblur.experiments`."""

    table1 = "table1"
    table2 = "table2"
    table3 = "table3"
    table4 = "table4"
    table5 = "table5"
    all = "all"


class UsageError(Exception):
    """The command line itself is wrong; the exit code is 2."""


Follow = Callable[[int, Path], Progress]


class Page(NamedTuple):
    """The page of ``--report``: where it goes, and what makes it for a number of photographs."""

    path: Path
    make: Callable[[int], ReportPage]


# ---------------------------------------------------------------------------------------------------- options

INPUTS = Annotated[list[str], typer.Argument(metavar="INPUT", help="Photographs: files, a folder or a quoted pattern.")]
INPUT = Annotated[Path, typer.Argument(metavar="INPUT", help="Photograph.")]
OUT = Annotated[
    str,
    typer.Option("--output", "-o", metavar="OUT", help="File to write; for several photographs a folder."),
]
MOTION_NET = Annotated[
    str,
    typer.Option("--motion-net", metavar="small|base|FILE", help="Network that finds the motion, or its weights."),
]
CONSOLIDATION = Annotated[
    Consolidation,
    typer.Option("--consolidation", help="Refine its answers on the picture; fit a camera to them; or take them raw."),
]
PATHS = Annotated[
    Paths,
    typer.Option(
        "--path", help="Look for curved paths, too, where straight ones do not explain a photograph; or do not."
    ),
]
KERNEL_NET = Annotated[
    Path | None,
    typer.Option(
        "--kernel-net", metavar="FILE", help="Weights of what corrects kernels, in place of those that came with it."
    ),
]
METHOD = Annotated[Method, typer.Option("--method", help="Network or solver.")]
IRC_NET = Annotated[
    Path | None,
    typer.Option("--irc-net", metavar="FILE", help="Weights of the network, in place of those that came with it."),
]
NOISE = Annotated[
    str,
    typer.Option("--noise", metavar="auto|NUMBER", help="Standard deviation of the noise: 0.01 is 1 % of the range."),
]
STRENGTH = Annotated[
    float,
    typer.Option("--strength", metavar="0..1", help="From 0, nothing is changed, to 1, all is restored."),
]
TILE = Annotated[
    str,
    typer.Option("--tile", metavar="auto|0|N", help="Side of the tiles in pixels; small ones save memory, 0 is none."),
]
RUNTIME = Annotated[
    str,
    typer.Option("--runtime", metavar="torch|onnx|DIR", help="What computes the networks; DIR is of export onnx."),
]
DEVICE = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, ...")]
LINEAR = Annotated[
    bool,
    typer.Option("--linear-light", help="Decode sRGB values before and encode them after the computation."),
]
LIGHT = Annotated[
    bool | None,
    typer.Option(
        "--linear-light/--pixel-values",
        help="Whether light was blurred or pixel values; the photograph's spectrum tells if neither is given.",
    ),
]
SUFFIX = Annotated[
    str, typer.Option("--suffix", metavar="TEXT", help="Added to the names of files that go to a folder.")
]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
DRY_RUN = Annotated[bool, typer.Option("--dry-run", help="List what would be written, and write nothing.")]
MOTION_OUT = Annotated[
    str | None,
    typer.Option(
        "--motion-out",
        metavar="M",
        help="Write the motion too: .npz, .flo, or .png for a drawing; a folder for several photographs.",
    ),
]
REPORT = Annotated[
    Path | None,
    typer.Option("--report", metavar="R.html", help="Write a page: before and after, motion, kernels, figures."),
]
PSF = Annotated[Path | None, typer.Option("--psf", metavar="P", help="Kernel: .png, .tif, .npy or .mat.")]
MOTION = Annotated[Path | None, typer.Option("--motion", metavar="M", help="Motion field: .npz or .flo.")]
LENGTH = Annotated[
    float | None,
    typer.Option("--length", metavar="L", help="Length of a straight motion in pixels."),
]
ANGLE = Annotated[
    float | None,
    typer.Option("--angle", metavar="A", help="Its angle in degrees: 0 is horizontal, 45 rises to the right."),
]
DATA = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", envvar="IRCDEBLUR_DATA", help="Folder of the data sets."),
]

app = typer.Typer(
    name="ircdeblur",
    help="Motion deblurring: how each pixel of a photograph moved, and the photograph without it.",
    # Plain help: square brackets are text, and rich need not be imported.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


dataset = typer.Typer(
    help="Make a data set of blurred pictures with known motion.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dataset, name="dataset")

export = typer.Typer(
    help="Write the networks for other programs.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(export, name="export")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    args : sequence of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    code : int
        0, or 1 if something failed, 2 for wrong usage, 130 after Ctrl-C.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    state = {"debug": os.environ.get("IRCDEBLUR_DEBUG", "0") not in ("", "0"), "command": "ircdeblur"}
    try:
        code = typer.main.get_command(app).main(
            args=arguments or ["--help"], prog_name="ircdeblur", standalone_mode=False, obj=state
        )
        # Typer turns Ctrl-C into this code.
        if code == 130:
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        _print(sys.stderr, "error: interrupted; files that were finished are complete, no other was touched")
        return 130
    except Exception as error:
        if state["debug"]:
            traceback.print_exc()
        # Typer's own errors have no public base class in common, but this method.
        if isinstance(error, UsageError) or hasattr(error, "format_message"):
            _print(sys.stderr, f"error: {_usage_text(error, str(state['command']))}")
            return int(getattr(error, "exit_code", 2))
        _print(sys.stderr, f"error: {error_text(error)}")
        return 1
    return 2 if not arguments else int(code or 0)


@app.callback(invoke_without_command=True)
def _group(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    state = context.ensure_object(dict)
    state["debug"] = debug or state.get("debug", False)
    state["command"] = " ".join(filter(None, ("ircdeblur", context.invoked_subcommand)))
    if version:
        import ircdeblur

        _print(sys.stdout, f"ircdeblur {ircdeblur.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        raise UsageError("no command given")


# --------------------------------------------------------------------------------------------------- commands


@app.command()
def deblur(
    context: typer.Context,
    inputs: INPUTS,
    out: OUT,
    motion_out: MOTION_OUT = None,
    method: METHOD = Method.irc_net,
    irc_net: IRC_NET = None,
    noise: NOISE = "auto",
    strength: STRENGTH = 1.0,
    motion_net: MOTION_NET = "small",
    consolidation: CONSOLIDATION = Consolidation.picture,
    path: PATHS = Paths.any,
    kernel_net: KERNEL_NET = None,
    tile: TILE = "auto",
    runtime: RUNTIME = "torch",
    device: DEVICE = "auto",
    linear_light: LIGHT = None,
    suffix: SUFFIX = "_sharp",
    report_out: REPORT = None,
    overwrite: OVERWRITE = False,
    quiet: QUIET = False,
    dry_run: DRY_RUN = False,
) -> int:
    """Undo motion blur, whatever it is.

    How each pixel moved is estimated first. Where no straight motions explain a photograph, a curved path is looked
    for that is the same all over, or of a camera that turned. Where it did not move, or where that is uncertain, it
    stays as it is.
    """
    _check_number("--strength", strength, 0.0, 1.0)
    sigma, side, light = _noise(noise), _tile(tile), _light(linear_light)

    job = Deblurring(method.value, irc_net, sigma, strength, motion_net, consolidation.value, side, device, light)

    def prepare() -> Job:
        _device(device)
        _require_motion_net(motion_net)
        _require_kernel_net(kernel_net)
        _require_method(method, irc_net)
        return dataclasses.replace(
            job,
            runtime=_runtime(runtime, method, motion_net, irc_net),
            path=path.value,
            kernel_net=kernel_net,
            whole_motion=motion_out is not None or report_out is not None,
        )

    report = Report(quiet, _debug(context))
    settings = {
        "method": method.value,
        "noise": noise,
        "strength": strength,
        "motion net": Path(motion_net).name,
        "consolidation": consolidation.value,
        "path": path.value,
        "tile": tile,
        "device": device,
        "linear light": light,
    }
    # Only a motion that the picture has decided on tells the light.
    shown = False if light == "auto" and consolidation is not Consolidation.picture else light
    page = _page(report_out, "deblur", settings, method, irc_net, motion_net, sigma, shown, kernel_net)
    return _process(prepare, report, inputs, out, suffix, motion_out, overwrite, dry_run, page)


@app.command()
def batch(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="Folder, with those in it; or a list: a path or JSON object per line."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Folder of the results and their manifest.jsonl.")],
    engine: Annotated[
        Engine, typer.Option("--engine", help="In this process, or on a Ray cluster that sees the same files.")
    ] = Engine.local,
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="ADDR", help="Of the Ray cluster: auto, or host:port; else one is started."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Ray workers; one per GPU, else per machine, if not given."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after a kill, with what failed or is new; or begin.")
    ] = False,
    motion_out: Annotated[
        Path | None, typer.Option("--motion-out", metavar="DIR", help="Folder for the motion of each, as .npz.")
    ] = None,
    method: METHOD = Method.irc_net,
    irc_net: IRC_NET = None,
    noise: NOISE = "auto",
    strength: STRENGTH = 1.0,
    motion_net: MOTION_NET = "small",
    consolidation: CONSOLIDATION = Consolidation.picture,
    path: PATHS = Paths.any,
    kernel_net: KERNEL_NET = None,
    tile: TILE = "auto",
    device: DEVICE = "auto",
    linear_light: LIGHT = None,
    runtime: RUNTIME = "torch",
    suffix: SUFFIX = "_sharp",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew and replace the results.")] = False,
    quiet: QUIET = False,
    dry_run: DRY_RUN = False,
) -> int:
    """Undo the motion blur of a folder of photographs.

    Sub-folders are kept. A line of OUTPUT_DIR/manifest.jsonl tells of every file: input, output, seconds, motion,
    error. A run that was killed goes on with --resume, and loses nothing.
    """
    _check_number("--strength", strength, 0.0, 1.0)
    if engine is Engine.local and (address is not None or workers is not None):
        raise UsageError(f"{'--workers' if address is None else '--address'} is for --engine ray")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    job = Deblurring(
        method.value,
        irc_net,
        _noise(noise),
        strength,
        motion_net,
        consolidation.value,
        _tile(tile),
        device,
        _light(linear_light),
    )
    from ircdeblur.app import batch as folders

    report = Report(quiet, _debug(context))
    plan = folders.plan_batch(source, out, suffix)
    for problem in plan.problems:
        report.error(problem)
    if dry_run:
        for work in folders.left_of(plan, out) if resume else plan.works:
            _print(sys.stdout, one_line(f"{work.source} -> {out / work.output}"))
        return int(report.failed)

    run: Callable[..., Any] | None = None
    if engine is Engine.ray:
        from ircdeblur.app.cluster import RayEngine

        run = RayEngine(address, workers)
    else:
        _device(device)
    _require_motion_net(motion_net)
    _require_kernel_net(kernel_net)
    _require_method(method, irc_net)
    job = dataclasses.replace(
        job,
        runtime=_runtime(runtime, method, motion_net, irc_net),
        path=path.value,
        kernel_net=kernel_net,
        whole_motion=motion_out is not None,
    )
    file_job, settings = folders.file_job(job, out, motion_out, suffix)
    with (
        folders.Batch(plan, out, file_job, settings, resume, overwrite) as begun,
        _progress(len(begun.left), quiet) as follow,
    ):
        folders.run_batch(begun, run, report, follow)
    return int(report.failed)


@app.command()
def motion(
    context: typer.Context,
    source: INPUT,
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="M", help="Write the motion: .npz, .flo, or .png for a drawing."),
    ] = None,
    kernels: Annotated[
        Path | None,
        typer.Option("--kernels", metavar="K.png", help="Draw the blur kernels of a grid of places."),
    ] = None,
    place: Annotated[
        str | None,
        typer.Option("--kernel-at", metavar="X,Y", help="Pixel whose blur kernel is wanted; 0,0 is at the top left."),
    ] = None,
    kernel_out: Annotated[
        Path | None,
        typer.Option("--kernel-out", metavar="K", help="Write that kernel, for deconvolve --psf: .png, .tif or .npy."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as a line of JSON.")] = False,
    motion_net: MOTION_NET = "small",
    consolidation: CONSOLIDATION = Consolidation.picture,
    tile: TILE = "auto",
    runtime: RUNTIME = "torch",
    device: DEVICE = "auto",
    overwrite: OVERWRITE = False,
    quiet: QUIET = False,
) -> int:
    """Estimate how each pixel moved.

    That is, the straight line that it drew while the shutter was open; forth and back are the same. Prints a
    summary with the confidence, and writes the motion field, drawings of it, or the blur kernel of a pixel.
    """
    from ircdeblur.app.imagefile import check_output, read_photo

    side = _tile(tile)
    pixel = None if place is None else _pixel(place)
    if kernel_out is not None and pixel is None:
        raise UsageError("--kernel-out needs --kernel-at X,Y")
    outputs = {"--output": (out, MOTION_SUFFIXES), "--kernels": (kernels, (".png",))}
    outputs["--kernel-out"] = (kernel_out, KERNEL_SUFFIXES)
    taken: dict[str, str] = {}
    for option, (path, suffixes) in outputs.items():
        if path is not None:
            check_output(path, overwrite=overwrite, inputs=[source], suffixes=suffixes)
            if (other := taken.setdefault(os.path.realpath(path), option)) != option:
                raise UsageError(f"{other} and {option} are the same file")
    report = Report(quiet, _debug(context))
    photo = read_photo(source, stored=True)
    report.notes(photo.notes, source)
    if pixel is not None:
        _check_pixel(pixel, photo)

    from ircdeblur import restore
    from ircdeblur.motion import describe, kernel_at, summarize, to_polar

    target = _device(device)
    _require_motion_net(motion_net)
    computed = _runtime(runtime, None, motion_net, None)
    with report.noting(source), _progress(1, quiet) as follow:
        steps = follow(0, source)
        field, error = restore.estimate_motion(
            photo.pixels,
            consolidation=consolidation.value,
            motion_net=motion_net,
            tile=side,
            device=target,
            return_error=True,
            runtime=computed,
            progress=steps,
        )
    if out is not None:
        write_motion_file(out, field, photo.pixels, overwrite, error)
    if kernels is not None:
        from ircdeblur.plots import draw_kernels

        write_drawing(kernels, draw_kernels(photo.pixels, field, error), overwrite)
    text, values = describe(field, error), _rounded(summarize(field, error)._asdict())
    if pixel is not None:
        kernel = kernel_at(field, *pixel)
        length, angle = (float(a) for a in to_polar(field[pixel[1], pixel[0]]))
        text += (
            f"; kernel at {pixel[0]},{pixel[1]}: length {length:.2f} px, angle {angle:.1f} degrees, "
            f"expected error {error[pixel[1], pixel[0]]:.1f} px"
        )
        at = {"x": pixel[0], "y": pixel[1], "length": length, "angle": angle, "error": error[pixel[1], pixel[0]]}
        values["kernel"] = {**_rounded(at), "weights": kernel.tolist()}
        if kernel_out is not None:
            _write_kernel(kernel_out, kernel, overwrite)
    if not as_json:
        report.say(text)
    elif not quiet:
        height, width = field.shape[:2]
        _print_json({"width": width, "height": height, **values})
    return 0


@app.command()
def psf(
    context: typer.Context,
    source: INPUT,
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="K", help="Write it, for deconvolve --psf: .png, .tif or .npy.")
    ],
    motion_net: MOTION_NET = "small",
    kernel_net: KERNEL_NET = None,
    runtime: RUNTIME = "torch",
    device: DEVICE = "auto",
    overwrite: OVERWRITE = False,
    quiet: QUIET = False,
) -> int:
    """Estimate the kernel of a photograph that was blurred by the same one all over.

    The camera's path may be curved. If a motion field, no blur, or a lens out of focus explains the photograph as
    well, or the kernel seems not to be the same everywhere, none is written, and
    the exit code is 1.
    """
    from ircdeblur.app.imagefile import ImageFileError, check_output, read_photo

    check_output(out, overwrite=overwrite, inputs=[source], suffixes=KERNEL_SUFFIXES)
    report = Report(quiet, _debug(context))
    photo = read_photo(source, stored=True)
    report.notes(photo.notes, source)

    from ircdeblur import restore

    target = _device(device)
    _require_motion_net(motion_net)
    _require_kernel_net(kernel_net)
    computed = _runtime(runtime, None, motion_net, None)
    with report.noting(source):
        kernel = restore.estimate_psf(
            photo.pixels, motion_net=motion_net, kernel_net=kernel_net, device=target, runtime=computed
        )
    if kernel is None:
        raise ImageFileError(
            "no kernel that explains all of it, and better than a motion field", source, "try ircdeblur motion"
        )
    _write_kernel(out, kernel, overwrite)
    report.say(describe_kernel(kernel))
    return 0


@app.command()
def deconvolve(
    context: typer.Context,
    inputs: INPUTS,
    out: OUT,
    psf: PSF = None,
    motion: MOTION = None,
    length: LENGTH = None,
    angle: ANGLE = None,
    method: METHOD = Method.irc_net,
    irc_net: IRC_NET = None,
    noise: NOISE = "auto",
    tile: TILE = "auto",
    runtime: RUNTIME = "torch",
    device: DEVICE = "auto",
    linear_light: LINEAR = False,
    suffix: SUFFIX = "_sharp",
    report_out: REPORT = None,
    overwrite: OVERWRITE = False,
    quiet: QUIET = False,
    dry_run: DRY_RUN = False,
) -> int:
    """Undo a known blur.

    The blur is a kernel, a motion field, or a straight motion of one length and angle.
    """
    _check_source(psf, motion, length, angle)
    sigma, side = _noise(noise), _tile(tile)
    report = Report(quiet, _debug(context))

    def prepare() -> Job:
        from ircdeblur import restore

        target = _device(device)
        _require_method(method, irc_net)
        computed = _runtime(runtime, method, None, irc_net)
        kernel, field = _read_blur(report, psf, motion, length, angle)
        longest = _longest(field, length)

        def job(photo: Photo, index: int, progress: Progress) -> Result:
            _check_fit(photo, field, motion, longest)
            sharp = restore.deconvolve(
                photo.pixels,
                psf=kernel,
                motion=field,
                method=method.value,
                irc_net=irc_net,
                noise=sigma,
                tile=side,
                device=target,
                linear_light=linear_light,
                progress=progress,
                runtime=computed,
            )
            return Result(sharp, field, kernel=kernel)

        return job

    known = psf or motion
    settings = {
        "blur": f"length {length:g} px, angle {angle:g} degrees" if known is None else known.name,
        "method": method.value,
        "noise": noise,
        "tile": tile,
        "device": device,
        "linear light": linear_light,
    }
    page = _page(report_out, "deconvolve", settings, method, irc_net, None, sigma, linear_light)
    return _process(prepare, report, inputs, out, suffix, None, overwrite, dry_run, page)


@app.command()
def blur(
    context: typer.Context,
    inputs: INPUTS,
    out: OUT,
    psf: PSF = None,
    motion: MOTION = None,
    length: LENGTH = None,
    angle: ANGLE = None,
    camera_shake: Annotated[bool, typer.Option("--camera-shake", help="A random camera movement.")] = False,
    max_length: Annotated[
        float | None,
        typer.Option("--max-length", metavar="L", help="Its longest motion in pixels; 15 if not given."),
    ] = None,
    severity: Annotated[
        Severity | None,
        typer.Option("--severity", help="Its longest motion by the paper's words: 21 pixels or 35."),
    ] = None,
    noise: Annotated[
        float, typer.Option("--noise", metavar="S", help="Standard deviation of added Gaussian noise.")
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="N", min=0, help="Of noise and camera shake; it makes them repeatable."),
    ] = None,
    motion_out: MOTION_OUT = None,
    device: DEVICE = "auto",
    linear_light: LINEAR = False,
    suffix: SUFFIX = "_blurred",
    overwrite: OVERWRITE = False,
    quiet: QUIET = False,
    dry_run: DRY_RUN = False,
) -> int:
    """Blur photographs.

    By a kernel, a motion field, a straight motion of one length and angle, or a random camera shake.
    """
    _check_source(psf, motion, length, angle, camera_shake)
    _check_number("--noise", noise, 0.0)
    if max_length is not None:
        _check_number("--max-length", max_length, 0.0)
        if severity is not None:
            raise UsageError("give --max-length or --severity, not both")
    if not camera_shake and (max_length is not None or severity is not None):
        raise UsageError("--max-length and --severity go with --camera-shake")
    if motion_out is not None and psf is not None:
        raise UsageError("--motion-out needs a motion: --motion, --length with --angle, or --camera-shake")
    report = Report(quiet, _debug(context))

    def prepare() -> Job:
        import numpy as np

        from ircdeblur import restore
        from ircdeblur.data.camera import camera_shake as draw
        from ircdeblur.experiments.synthetic import SEVERITIES
        from ircdeblur.motion import describe, from_polar

        target = _device(device)
        kernel, field = _read_blur(report, psf, motion, length, angle)
        shake = 15.0 if max_length is None else max_length
        shake = shake if severity is None else SEVERITIES[severity.value]
        longest = shake if camera_shake else _longest(field, length)

        def job(photo: Photo, index: int, progress: Progress) -> Result:
            _check_fit(photo, field, motion, longest)
            shape = photo.pixels.shape[:2]
            own = None if seed is None else seed + index
            moved = draw(shape, shake, own) if camera_shake else field
            blurred = restore.blur(photo.pixels, kernel, moved, noise, own, device=target, linear_light=linear_light)
            if length is not None and angle is not None:
                vector = from_polar(np.asarray(length), np.asarray(angle % 180.0))
                moved = np.broadcast_to(vector.astype(np.float32), (*shape, 2))
            progress(1, 1)
            return Result(blurred, moved, describe(moved) if camera_shake and moved is not None else "")

        return job

    return _process(prepare, report, inputs, out, suffix, motion_out, overwrite, dry_run)


@app.command()
def compare(
    context: typer.Context,
    first: Annotated[Path, typer.Argument(metavar="A", help="Picture, or motion field, to judge.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The true one.")],
    motion: Annotated[
        bool,
        typer.Option("--motion", help="Compare motion fields (.npz, .flo): mean squared error, end-point error."),
    ] = False,
    quiet: QUIET = False,
) -> int:
    """Print how close two pictures are.

    PSNR in dB and SSIM, or the errors of a motion field, as one line of JSON. Equal pictures have no finite
    PSNR, and pictures of less than 11 pixels a side no SSIM: null is printed.
    """
    from ircdeblur.app.imagefile import ImageFileError

    report = Report(quiet, _debug(context))
    if motion:
        from ircdeblur.metrics import end_point_error, motion_mse

        a, b = _read_motion(first), _read_motion(second)
    else:
        from ircdeblur.app.imagefile import read_photo
        from ircdeblur.metrics import SSIM_WINDOW, psnr, ssim

        photos = []
        for path in (first, second):
            photos.append(read_photo(path))
            report.notes(photos[-1].notes, path)
        a, b = (photo.pixels * photo.scale for photo in photos)
    if a.shape != b.shape:
        sizes = " and ".join(_size(array) for array in (a, b))
        raise ImageFileError(
            f"the two differ in size or channels ({sizes})", f"{first}, {second}", "compare like with like"
        )
    if motion:
        figures = {"motion_mse": motion_mse(a, b), "end_point_error": end_point_error(a, b)[0]}
    else:
        figures = {"psnr": psnr(a, b), "ssim": ssim(a, b) if min(a.shape[:2]) >= SSIM_WINDOW else math.nan}
    _print_json({name: round(value, 4) if math.isfinite(value) else None for name, value in figures.items()})
    return 0


@app.command()
def train(
    network: Annotated[
        Network, typer.Argument(metavar="NETWORK", help="motion-net, irc-net, kernel-net or end-to-end")
    ],
    config: Annotated[Path, typer.Option("--config", metavar="YAML", help="Settings of the run.")],
    data: DATA = None,
    start: Annotated[
        list[Path] | None,
        typer.Option("--weights", metavar="FILE", help="Weights to start from; end-to-end takes one or two files."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the run; runs/NETWORK if not given."),
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option("--max-time", metavar="HH:MM:SS", help="End then; go on later with --resume."),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="CKPT", help="Checkpoint of the run to go on with.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", metavar="N", min=0, help="In place of the configuration's: for runs whose mean is taken."
        ),
    ] = None,
    devices: Annotated[
        int, typer.Option("--devices", metavar="N", min=1, help="GPUs of this machine, or processes if it has none.")
    ] = 1,
    nodes: Annotated[
        int, typer.Option("--nodes", metavar="N", min=1, help="Machines; start the same command on each.")
    ] = 1,
    quiet: QUIET = False,
) -> int:
    """Train a network.

    On pairs that are made from folders of sharp photographs. irc-net is trained with known blurs, by the prior that the
    configuration names; kernel-net on kernels that are found in photographs; end-to-end fine-tunes motion-net and
    irc-net together, by default those of the package.
    """
    from importlib.util import find_spec

    from ircdeblur.app.imagefile import ImageFileError, make_folder

    folder = Path("runs", network.value) if out is None else out
    data = _data(data)
    missing = [name for name in TRAIN_LIBRARIES if find_spec(name) is None]
    if missing:
        raise ImageFileError(
            "the libraries for training are not installed",
            ", ".join(missing),
            'pip install "ircdeblur[train]"',
        )
    for path in filter(None, (config, resume, *(start or ()))):
        if not path.is_file():
            raise ImageFileError("no such file", path, "check the name")
    if start and len(start) > 1 and network is not Network.end_to_end:
        raise UsageError(f"{network.value} starts from one file of --weights")

    import yaml

    from ircdeblur.training.config import parse_time

    if max_time is not None:
        try:
            parse_time(max_time)
        except ValueError:
            raise UsageError(f"--max-time must be HH:MM:SS, got {max_time!r}") from None
    try:
        fit = _trainer(network, config, start or [], {} if seed is None else {"seed": seed})
    except (ValueError, TypeError, yaml.YAMLError) as error:
        what = f"not a usable configuration ({str(error).removeprefix(f'{config}: ')})"
        raise ImageFileError(one_line(what), config, "correct it") from error
    last = folder / "last.ckpt"
    if resume is None and (last.exists() or any(folder.glob("*.safetensors"))):
        raise ImageFileError("the folder holds a run already", folder, f"add --resume {last} or choose another --out")
    make_folder(folder)

    # What the weights remember of their making: without the places of files on this machine.
    command = ["ircdeblur", "train", network.value, "--config", str(config)]
    for path in start or ():
        command += ["--weights", path.name]
    command += ["--max-time", max_time] if max_time is not None else []
    command += ["--seed", str(seed)] if seed is not None else []
    for option, count in (("--devices", devices), ("--nodes", nodes)):
        command += [option, str(count)] if count > 1 else []
    try:
        weights = fit(
            data=data,
            out=folder,
            max_time=max_time,
            resume=resume,
            command=shlex.join(command),
            progress=sys.stderr.isatty() and not quiet,
            devices=devices,
            nodes=nodes,
        )
    except SystemExit as error:
        # Lightning answers Ctrl-C by leaving the program.
        raise KeyboardInterrupt from error
    # Lightning starts this command again for the other processes, with these variables.
    first = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK"))
    if first and not quiet:
        _print(sys.stdout, str(weights))
    return 0


def _trainer(network: Network, config: Path, weights: list[Path], settings: dict[str, Any]) -> Callable[..., Path]:
    """Return what trains a network by a configuration, of which some settings are others, started from weights."""
    from functools import partial

    first = weights[0] if weights else None

    def with_settings(loaded: Any) -> Any:
        return dataclasses.replace(loaded, **settings) if settings else loaded

    if network is Network.motion_net:
        from ircdeblur.training.motion_net import load_config, train_motion_net

        return partial(train_motion_net, with_settings(load_config(config)), weights=first)
    if network is Network.irc_net:
        from ircdeblur.training.irc_net import load_config as load_irc_config
        from ircdeblur.training.irc_net import train_irc_net

        return partial(train_irc_net, with_settings(load_irc_config(config)), weights=first)
    if network is Network.kernel_net:
        from ircdeblur.training.kernel_net import load_config as load_kernel_config
        from ircdeblur.training.kernel_net import train_kernel_net

        return partial(train_kernel_net, with_settings(load_kernel_config(config)), weights=first)
    from ircdeblur.training.end_to_end import load_config as load_joint_config
    from ircdeblur.training.end_to_end import train_end_to_end

    return partial(train_end_to_end, with_settings(load_joint_config(config)), weights=tuple(weights))


@app.command()
def reproduce(
    context: typer.Context,
    experiment: Annotated[Experiment, typer.Argument(metavar="TABLE", help="table1 to table5, or all")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT_DIR", help="Folder for the tables.")],
    data: DATA = None,
    quick: Annotated[bool, typer.Option("--quick", help="On a few pictures: minutes instead of hours.")] = False,
    photos: Annotated[
        int | None, typer.Option("--photos", metavar="N", min=1, help="On the first N photographs only.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Another configuration than the table's own (not table2)."),
    ] = None,
    baselines: Annotated[
        Path | None,
        typer.Option("--baselines", metavar="DIR", help="Folder of trained baselines (table2, 4, 5)."),
    ] = None,
    overwrite: OVERWRITE = False,
) -> int:
    """Repeat an experiment of the paper.

    Prints its table, and writes it as Markdown and every measurement as CSV; table1 and table3 also write curves of
    PSNR against seconds and strips of pictures, table2 pictures of motions, table4 and table5 strips with motions.
    """
    from ircdeblur import experiments
    from ircdeblur.app.imagefile import ImageFileError, check_output, make_folder

    if config is not None and experiment.value not in experiments.CONFIGURED:
        raise UsageError(f"--config is for {', '.join(experiments.CONFIGURED)}, not for {experiment.value}")
    if config is not None and not config.is_file():
        raise ImageFileError("no such file", config, "check the name")
    if baselines is not None and experiment.value not in (*experiments.WITH_BASELINES, "all"):
        raise UsageError(f"--baselines is for {', '.join(experiments.WITH_BASELINES)}, not for {experiment.value}")
    if baselines is not None and not baselines.is_dir():
        raise ImageFileError("no such folder", baselines, "check the name")
    data = _data(data)
    make_folder(out)
    for path in experiments.outputs(experiment.value, out):
        check_output(path, overwrite=overwrite, suffixes=(path.suffix,))

    from ircdeblur.experiments.config import ConfigError

    try:
        text = experiments.run(experiment.value, data, out, quick, photos, config, baselines)
    except ConfigError as error:
        if config is None:
            raise
        what = f"not a usable configuration ({str(error).removeprefix(f'{config}: ')})"
        raise ImageFileError(one_line(what), config, "correct it") from error
    _print(sys.stdout, text)
    return 0


DATASET_OUT = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder of the data set.")]
COUNT = Annotated[int, typer.Option("--count", metavar="N", min=1, help="Number of pairs.")]
SIZE = Annotated[int, typer.Option("--size", metavar="PX", min=32, help="Side of the pictures in pixels.")]
DATASET_LENGTH = Annotated[float, typer.Option("--max-length", metavar="L", help="Longest motion in pixels.")]
SEED = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="The same seed gives the same data set.")]
RESUME = Annotated[bool, typer.Option("--resume", help="Go on with a data set that is unfinished or has grown.")]
REPLACE = Annotated[bool, typer.Option("--overwrite", help="Remove the data set that is there.")]


@dataset.callback(invoke_without_command=True)
def _dataset(context: typer.Context) -> None:
    state = context.ensure_object(dict)
    state["command"] = " ".join(filter(None, ("ircdeblur dataset", context.invoked_subcommand)))
    if context.invoked_subcommand is None:
        raise UsageError("no kind of data set given, synthetic or frames")


@dataset.command()
def synthetic(
    context: typer.Context,
    photos: Annotated[Path, typer.Argument(metavar="PHOTOS_DIR", help="Folder of sharp photographs.")],
    out: DATASET_OUT,
    count: COUNT = 1000,
    size: SIZE = 256,
    max_length: DATASET_LENGTH = 35.0,
    max_noise: Annotated[
        float, typer.Option("--max-noise", metavar="S", help="Largest standard deviation of the Gaussian noise.")
    ] = 0.02,
    kinds: Annotated[
        str | None,
        typer.Option(
            "--kinds", metavar="K,...", help="Of camera, uniform, turning, object, still, defocus; all if not given."
        ),
    ] = None,
    largest_side: Annotated[
        int,
        typer.Option("--largest-side", metavar="PX", min=64, help="Larger photographs are reduced to that."),
    ] = 1000,
    seed: SEED = 0,
    resume: RESUME = False,
    overwrite: REPLACE = False,
    quiet: QUIET = False,
) -> int:
    """Blur sharp photographs.

    By camera shakes, straight and turning motions and moving objects, as cameras do: in linear light or not, noisy,
    some as JPEG, some out of focus.
    """
    _check_number("--max-length", max_length, 1.0, 200.0)
    _check_number("--max-noise", max_noise, 0.0, 1.0)
    if size % 8:
        raise UsageError(f"--size must be a multiple of 8, got {size}")

    def prepare() -> Any:
        from ircdeblur.app.dataset import SyntheticSource
        from ircdeblur.data.photos import list_photos
        from ircdeblur.data.synthesis import KINDS

        wanted = KINDS if kinds is None else tuple(kind.strip() for kind in kinds.split(","))
        if unknown := [kind for kind in wanted if kind not in KINDS]:
            raise UsageError(f"--kinds must be of {', '.join(KINDS)}, got {unknown[0]!r}")
        return SyntheticSource(list_photos(photos), size, max_length, max_noise, wanted, largest_side, seed)

    return _write_dataset(context, prepare, out, count, seed, resume, overwrite, quiet)


@dataset.command()
def frames(
    context: typer.Context,
    film: Annotated[
        Path, typer.Argument(metavar="FRAMES_DIR", help="Folder of consecutive frames, of such folders, or a video.")
    ],
    out: DATASET_OUT,
    frames: Annotated[
        str, typer.Option("--frames", metavar="N|A-B", help="Frames in an average, best odd; a range is drawn from.")
    ] = "11",
    count: COUNT = 100,
    size: SIZE = 256,
    max_length: DATASET_LENGTH = 35.0,
    min_length: Annotated[
        float, typer.Option("--min-length", metavar="L", help="Least median length in pixels.")
    ] = 2.0,
    min_trusted: Annotated[
        float, typer.Option("--min-trusted", metavar="0..1", help="Least share of pixels whose motion is trusted.")
    ] = 0.4,
    noise: Annotated[
        float, typer.Option("--noise", metavar="S", help="Standard deviation of added Gaussian noise.")
    ] = 0.0,
    linear_light: Annotated[bool, typer.Option("--linear-light", help="Average in linear light.")] = False,
    seed: SEED = 0,
    resume: RESUME = False,
    overwrite: REPLACE = False,
    quiet: QUIET = False,
) -> int:
    """Average frames of a high-speed film.

    The motion is that of the optical flow along each pixel's path, with a mask of where it is to be trusted. For 240
    frames per second or so.
    """
    from importlib.util import find_spec

    from ircdeblur.app.imagefile import ImageFileError

    match = re.fullmatch(r"(\d+)(?:-(\d+))?", frames.strip())
    low, high = (int(n) for n in (match[1], match[2] or match[1])) if match else (0, 0)
    if not 3 <= low <= high <= 200:
        raise UsageError(f"--frames must be a number from 3 to 200 or a range such as 7-21, got {frames!r}")
    _check_number("--max-length", max_length, 1.0, 200.0)
    _check_number("--min-length", min_length, 0.0, max_length)
    _check_number("--min-trusted", min_trusted, 0.0, 1.0)
    _check_number("--noise", noise, 0.0, 1.0)
    if find_spec("cv2") is None:
        raise ImageFileError("the library for optical flow is not installed", "cv2", 'pip install "ircdeblur[train]"')

    def prepare() -> Any:
        from ircdeblur.app.dataset import FilmSource, find_films
        from ircdeblur.data.frames import Film, Trust

        films = [Film(path) for path in find_films(film)]
        return FilmSource(
            films, (low, high), size, max_length, min_length, min_trusted, noise, linear_light, seed, Trust()
        )

    return _write_dataset(context, prepare, out, count, seed, resume, overwrite, quiet)


def _write_dataset(
    context: typer.Context,
    prepare: Callable[[], Any],
    out: Path,
    count: int,
    seed: int,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> int:
    """Write a data set of the pairs that the prepared source makes."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    from ircdeblur.app.dataset import summary, write_dataset

    report = Report(quiet, _debug(context))
    begun = False
    with report.noting(out), _progress(count, quiet) as follow:

        def done(number: int, path: Path) -> None:
            nonlocal begun
            begun = True
            follow(number, path)

        try:
            records = write_dataset(out, prepare(), count, seed, resume, overwrite, done)
        except BaseException:
            if begun:
                report.notes(["what is finished stays; go on with --resume"], out)
            raise
    report.say(f"{out}: {summary(records)}")
    return 0


@export.callback(invoke_without_command=True)
def _export(context: typer.Context) -> None:
    state = context.ensure_object(dict)
    state["command"] = " ".join(filter(None, ("ircdeblur export", context.invoked_subcommand)))
    if context.invoked_subcommand is None:
        raise UsageError("no format given, onnx or weights")


@export.command()
def onnx(
    out: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="OUT", help="Folder; or a file NAME.onnx, for motion-net alone."),
    ],
    network: Annotated[Exported, typer.Option("--network", help="What to write.")] = Exported.all,
    motion_net: MOTION_NET = "small",
    irc_net: IRC_NET = None,
    overwrite: OVERWRITE = False,
    quiet: QUIET = False,
) -> int:
    """Write the networks as ONNX graphs.

    For pictures of any size. IRC-Net is several graphs: between them stand updates of the picture that are no network.
    Each is checked in onnxruntime against torch. deblur --runtime OUT uses them.
    """
    alone = network is Exported.motion_net
    if out.suffix.lower() == ".onnx" and not alone:
        raise UsageError("irc-net is several graphs: give a folder, or add --network motion-net")
    if alone and irc_net is not None:
        raise UsageError("--irc-net is not for --network motion-net")
    _require_libraries("onnx", "onnx", "onnxruntime")

    from ircdeblur.app.export import write_onnx

    written = write_onnx(
        out,
        None if network is Exported.irc_net else motion_net,
        None if alone else irc_net or "irc-net",
        overwrite,
    )
    if not quiet:
        for name, (paths, difference) in written.items():
            unit = " px" if name == "motion-net" else ""
            files = ", ".join(path.name for path in paths)
            text = (
                f"{paths[0].parent}: {files}; differs from torch by at most {difference:.1e}{unit} on a random picture"
            )
            _print(sys.stdout, one_line(text))
    return 0


@export.command()
def weights(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of weights of one network.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="File to write, NAME.safetensors.")],
    share: Annotated[
        list[float] | None,
        typer.Option("--share", metavar="S", help="Share of each file, in their order; equal ones if not given."),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Keep float32; float16 is half the size.")] = False,
    overwrite: OVERWRITE = False,
    quiet: QUIET = False,
) -> int:
    """Write weights as they are shipped: in float16, and the mean of several files.

    Networks that were trained further from the same weights are often better together: their mean keeps what each has
    gained. The file holds the summaries of all their trainings.
    """
    if share and (len(share) != len(files) or abs(sum(share) - 1) > 1e-6):
        raise UsageError(f"--share must be given for each of the {len(files)} files, and they must sum to 1")

    from ircdeblur.app.export import write_weights

    write_weights(files, out, share or None, not full, overwrite)
    if not quiet:
        _print(sys.stdout, str(out))
    return 0


@app.command()
def serve(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen at; 0.0.0.0 is open to the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port; 0 takes a free one.")
    ] = 7860,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", metavar="N", help="Largest photograph that is accepted.")
    ] = 25.0,
    max_megabytes: Annotated[
        float, typer.Option("--max-megabytes", metavar="N", help="Largest file that is accepted.")
    ] = 100.0,
) -> int:
    """Serve a web page: drop a photograph, see what moved, take the sharp one.

    On this machine only, unless --host says otherwise; there is no password.
    """
    _check_number("--max-megapixels", max_megapixels, 0.01, 500.0)
    _check_number("--max-megabytes", max_megabytes, 0.01, 10_000.0)
    from ircdeblur.app.web import serve as run
    from ircdeblur.app.webjobs import Limits

    run(host, port, Limits(round(max_megapixels * 1e6), round(max_megabytes * 1e6)))
    return 0


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> int:
    """Print versions, devices and weights.

    The weights with their checksums and how they were trained.
    """
    import json
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import pyvips
    import torch

    import ircdeblur
    from ircdeblur.nets.checkpoints import describe_weights

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    libraries = ("torch", "numpy", "scipy", "scikit-image", "pyvips", "safetensors", "matplotlib", "typer")
    extras = ("lightning", "opencv-python-headless", "gradio", "ray", "onnx", "onnxruntime")
    cuda = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    facts: dict[str, Any] = {
        "versions": {
            "ircdeblur": ircdeblur.__version__,
            "python": platform.python_version(),
            **{name: installed(name) for name in libraries},
            "libvips": ".".join(str(pyvips.version(i)) for i in range(3)),
            **{name: found for name in extras if (found := installed(name)) is not None},
        },
        "system": platform.platform(),
        "devices": [
            {"name": "cpu", "description": platform.machine()},
            *(
                {"name": f"cuda:{i}", "description": f"{device.name}, {device.total_memory / 2**30:.0f} GiB"}
                for i, device in enumerate(cuda)
            ),
        ],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "weights": describe_weights(),
    }
    if as_json:
        _print_json(facts)
        return 0
    for name, found in facts["versions"].items():
        _print(sys.stdout, f"{name:<24} {found or 'not installed'}")
    _print(sys.stdout, f"{'system':<24} {facts['system']}")
    for device in facts["devices"]:
        _print(sys.stdout, f"{'device ' + device['name']:<24} {device['description']}")
    _print(sys.stdout, f"{'threads':<24} {facts['threads']} on {facts['cores']} cores")
    for weights in facts["weights"]:
        _print(
            sys.stdout,
            f"{'weights':<24} {weights['file']}, {weights['bytes']} bytes, sha256 {weights['sha256']}",
        )
        for key, value in weights["summary"].items():
            _print(sys.stdout, f"  {key:<22} {value if isinstance(value, str) else json.dumps(value)}")
    if not facts["weights"]:
        _print(sys.stdout, f"{'weights':<24} none")
    return 0


# ------------------------------------------------------------------------------------------- many photographs


def _process(
    prepare: Callable[[], Job],
    report: Report,
    inputs: Sequence[str],
    out: str,
    suffix: str,
    motion_out: str | None,
    overwrite: bool,
    dry_run: bool,
    page: Page | None = None,
) -> int:
    """Do a job on every input and return the exit code; what fails is reported and the others are done.

    `prepare` makes the job. It imports torch, so it is called when it is known that there is something to do
    and a place to write to.
    """
    from ircdeblur.app.imagefile import (
        check_output,
        expand_inputs,
        make_folder,
        plan_outputs,
    )

    found = expand_inputs(inputs)
    for problem in found.problems:
        report.error(problem)
    if not found.paths:
        return 1
    plan = plan_outputs(found, out, suffix)
    motions, motion_folder = _plan_motions(found, motion_out)
    folders = [folder for folder in (plan.folder, motion_folder) if folder is not None]
    if not dry_run:
        for folder in folders:
            make_folder(folder)

    tasks = []
    for (source, output), field in zip(plan.pairs, motions, strict=True):
        task = Task(source, output, field)
        try:
            for path, allowed in ((output, None), (field, MOTION_SUFFIXES)):
                # A dry run does not make a missing folder, and there is nothing in it to check.
                if path is not None and (path.parent not in folders or path.parent.is_dir()):
                    check_output(path, overwrite=overwrite, inputs=found.paths, suffixes=allowed)
        except Exception as error:
            report.error(error, source)
            continue
        if field is not None and os.path.realpath(field) == os.path.realpath(output):
            raise UsageError("--output and --motion-out are the same file")
        tasks.append(task)
    if page is not None:
        from ircdeblur.app.report import SUFFIXES

        check_output(page.path, overwrite=overwrite, inputs=found.paths, suffixes=SUFFIXES)
    if dry_run:
        for task in tasks:
            _print(sys.stdout, " -> ".join(one_line(str(path)) for path in task if path is not None))
        if page is not None:
            _print(sys.stdout, f"report -> {one_line(str(page.path))}")
        return int(report.failed)
    if not tasks:
        return 1

    job = prepare()
    sections = None if page is None else page.make(len(tasks))
    with _progress(len(tasks), report.quiet) as follow:
        for index, task in enumerate(tasks):
            step = follow(index, task.source)
            try:
                add = None if sections is None else functools.partial(_add_section, sections, task)
                result = process_file(
                    task, job, report.notes, index=index, progress=step, overwrite=overwrite, finished=add
                )
            except Exception as error:
                report.error(error, task.source)
                if sections is not None:
                    sections.fail(task.source, error_text(error).replace(str(task.source), task.source.name))
                continue
            report.say(f"{task.source} -> {task.output}" + (f": {result.text}" if result.text else ""))
    if page is not None and sections is not None:
        sections.write(page.path, overwrite=overwrite)
        report.say(f"report: {page.path}")
    return int(report.failed)


def _light(linear_light: bool | None) -> bool | Literal["auto"]:
    """Return what the job of ``deblur`` is told of the light."""
    return "auto" if linear_light is None else linear_light


def _page(
    path: Path | None,
    command: str,
    settings: Mapping[str, object],
    method: Method,
    irc_net: Path | None,
    motion_net: str | None,
    noise: float | None,
    linear_light: bool | Literal["auto"],
    kernel_net: Path | None = None,
) -> Page | None:
    """Return how the page that ``--report`` names is made, None if it names none."""
    if path is None:
        return None

    def make(count: int) -> ReportPage:
        from ircdeblur.app.report import ReportPage, weights_used

        weights = weights_used(method.value, irc_net, motion_net, kernel_net)
        return ReportPage(command, settings, weights, count, noise, linear_light)

    return Page(path, make)


def _add_section(page: ReportPage, task: Task, photo: Photo, result: Result, seconds: float) -> None:
    from ircdeblur.app.imagefile import to_unit
    from ircdeblur.app.report import Entry

    # The page is drawn from values in [0, 1], whatever the file holds.
    photo = dataclasses.replace(photo, pixels=to_unit(photo.pixels))
    page.add(Entry(photo, task.output, to_unit(result.pixels), seconds, result.motion, result.error, result.kernel))


def _plan_motions(inputs: Inputs, out: str | None) -> tuple[list[Path | None], Path | None]:
    """Return where the motion field of every input goes, and the folder that holds them if it is one."""
    from ircdeblur.app.imagefile import ImageFileError

    if out is None:
        return [None] * len(inputs.paths), None
    target = Path(out)
    if not (inputs.several or target.is_dir() or out.endswith(tuple(filter(None, (os.sep, os.altsep))))):
        return [target], None
    if target.suffix.lower() in MOTION_SUFFIXES and not target.is_dir():
        raise ImageFileError("the name of a motion file, but several inputs need a folder", target, "give a folder")
    planned: dict[Path, Path] = {}
    for source in inputs.paths:
        path = target / f"{source.stem}.npz"
        if path in planned:
            raise ImageFileError(
                f"the motion of both {planned[path]} and {source}",
                path,
                "rename one or process them one by one",
            )
        planned[path] = source
    return list(planned), target


def _write_kernel(path: Path, kernel: np.ndarray, overwrite: bool) -> None:
    from ircdeblur.app.imagefile import atomic_write
    from ircdeblur.psf import write_psf

    with atomic_write(path, overwrite=overwrite) as temp:
        write_psf(temp, kernel, path.suffix)


@contextmanager
def _progress(count: int, quiet: bool) -> Iterator[Follow]:
    """Show a bar over `count` photographs while the block runs, on a terminal only.

    Yields a function of a photograph's number and path, which returns the function to call with the steps of
    that photograph that are done and those in all.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda index, path: lambda done, total: None
        return

    from rich import progress as rich_progress
    from rich.console import Console

    bar = rich_progress.Progress(
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        # Lines for stdout must not go to the bar's stream if only one of the two is the terminal.
        redirect_stdout=sys.stdout.isatty(),
    )
    with bar:
        task = bar.add_task("", total=count)

        def follow(index: int, path: Path) -> Progress:
            name = one_line(path.name)
            text = name if count == 1 else f"{index + 1}/{count} {name}"
            bar.update(task, completed=index, description=text)
            return lambda done, total: bar.update(task, completed=index + done / total)

        yield follow


# --------------------------------------------------------------------------------------------- the known blur


def _check_source(
    psf: Path | None,
    motion: Path | None,
    length: float | None,
    angle: float | None,
    shake: bool | None = None,
) -> None:
    """Refuse any number of blur sources but one; `shake` is None where there is no such option."""
    if (length is None) != (angle is None):
        raise UsageError("--length and --angle go together")
    if length is not None and angle is not None:
        _check_number("--length", length, 0.0)
        _check_number("--angle", angle)
    given = sum((psf is not None, motion is not None, length is not None, bool(shake)))
    if given != 1:
        options = "--psf, --motion, --length with --angle" + (", --camera-shake" if shake is not None else "")
        raise UsageError(f"give one of {options}, got {given or 'none'} of them")


def _read_blur(
    report: Report, psf: Path | None, motion: Path | None, length: float | None, angle: float | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the kernel or the motion field that the options name; neither for a camera shake."""
    if motion is not None:
        return None, _read_motion(motion)
    if psf is not None:
        from ircdeblur.psf import read_psf

        with report.noting(psf), _reading(psf, "give a non-negative kernel as .png, .tif, .npy or .mat"):
            return read_psf(psf), None
    if length is not None and angle is not None:
        from ircdeblur.kernels import linear_motion_kernel

        return linear_motion_kernel(length, angle), None
    return None, None


def _read_motion(path: Path) -> np.ndarray:
    from ircdeblur.motion import read_motion

    with _reading(path, "give a .npz file with an array named 'motion', or a .flo file"):
        return read_motion(path)


def _check_fit(photo: Photo, field: np.ndarray | None, motion: Path | None, longest: float) -> None:
    """Refuse a motion field of another size than the photograph, and motions longer than the photograph."""
    from ircdeblur.app.imagefile import ImageFileError

    height, width = photo.pixels.shape[:2]
    if field is not None and field.shape[:2] != (height, width):
        raise ImageFileError(
            f"the motion is {_size(field)} pixels, the photograph {width} x {height}",
            f"{motion}, {photo.path}",
            "give the motion of this photograph",
        )
    if longest > max(height, width):
        raise ImageFileError(
            f"a motion of {longest:g} pixels is longer than the photograph ({width} x {height})",
            photo.path,
            "give lengths in pixels of this photograph",
        )


def _longest(field: np.ndarray | None, length: float | None) -> float:
    """Return the length of the longest motion in pixels, 0 for a kernel."""
    if field is None:
        return length or 0.0
    import numpy as np

    # Some rows at a time: the field of a large photograph is larger than that itself.
    return max(float(np.hypot(rows[..., 0], rows[..., 1]).max()) for rows in np.split(field, range(64, len(field), 64)))


@contextmanager
def _reading(path: Path, advice: str) -> Iterator[None]:
    """Give the errors of reading a file the form that all errors have."""
    from ircdeblur.app.imagefile import ImageFileError

    try:
        yield
    except FileNotFoundError as error:
        raise ImageFileError("no such file", path, "check the name") from error
    except OSError as error:
        raise ImageFileError(
            f"cannot read ({error.strerror or error})", path, "check the file and its rights"
        ) from error
    except (ValueError, TypeError) as error:
        raise ImageFileError(str(error).replace(f": {path}", ""), path, advice) from error


# ------------------------------------------------------------------------------------------ values of options


def _noise(text: str) -> float | None:
    """Return the value of ``--noise``, None for "auto"."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"--noise must be auto or a number, got {text!r}") from None
    _check_number("--noise", value, 0.0)
    return value


def _tile(text: str) -> int | Literal["auto"]:
    """Return the value of ``--tile``."""
    if text == "auto":
        return "auto"
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value != 0 and value < MIN_TILE:
        raise UsageError(f"--tile must be auto, 0 or a whole number of at least {MIN_TILE} pixels, got {text!r}")
    return value


def _pixel(text: str) -> tuple[int, int]:
    """Return the value of ``--kernel-at``, column and row."""
    match = re.fullmatch(r"\s*(\d+)\s*,\s*(\d+)\s*", text)
    if match is None:
        raise UsageError(f"--kernel-at must be two whole numbers X,Y of at least 0, got {text!r}")
    return int(match[1]), int(match[2])


def _check_pixel(pixel: tuple[int, int], photo: Photo) -> None:
    from ircdeblur.app.imagefile import ImageFileError

    height, width = photo.pixels.shape[:2]
    if not (pixel[0] < width and pixel[1] < height):
        raise ImageFileError(
            f"--kernel-at {pixel[0]},{pixel[1]} is outside the photograph ({width} x {height})",
            photo.path,
            f"give X from 0 to {width - 1} and Y from 0 to {height - 1}",
        )


def _device(name: str) -> Any:
    """Return the torch device for the value of ``--device``."""
    from ircdeblur.restore import resolve_device

    try:
        return resolve_device(name)
    except (ValueError, ImportError) as error:
        raise UsageError(f"--device: {error}") from error


def _data(folder: Path | None) -> Path:
    from ircdeblur.app.imagefile import ImageFileError

    if folder is None:
        raise UsageError("--data is missing: name the folder of the data sets, or set IRCDEBLUR_DATA")
    if not folder.is_dir():
        raise ImageFileError("no such folder", folder, "check --data")
    return folder


def _check_number(option: str, value: float, low: float = -math.inf, high: float = math.inf) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        span = (
            "finite" if low == -math.inf else f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        )
        raise UsageError(f"{option} must be a number, {span}, got {value:g}")


def _require_motion_net(name: str) -> None:
    """Refuse early, and once for all photographs, to look for motion without weights."""
    from ircdeblur.nets.checkpoints import MOTION_NET, load_motion_net, motion_net_path

    path = motion_net_path(name)
    advice = "install ircdeblur again" if path.name == MOTION_NET else "check --motion-net; small is always there"
    _require_weights(path, load_motion_net, advice, "motion-net")


def _require_kernel_net(weights: Path | None) -> None:
    """Likewise, to correct kernels without weights."""
    from ircdeblur.nets.checkpoints import kernel_net_path, load_kernel_net

    advice = "install ircdeblur again" if weights is None else "check --kernel-net"
    _require_weights(kernel_net_path(weights), load_kernel_net, advice, "kernel-net")


def _require_method(method: Method, weights: Path | None) -> None:
    """Likewise, to deconvolve by a network without weights."""
    from ircdeblur.nets.checkpoints import IRC_NETS, irc_net_path, load_irc_net

    if method.value not in IRC_NETS:
        if weights is not None:
            raise UsageError(f"--irc-net is for the methods {' and '.join(IRC_NETS)}, not for {method.value}")
        return
    advice = "install ircdeblur again" if weights is None else "check --irc-net"
    _require_weights(irc_net_path(weights or method.value), load_irc_net, advice, "irc-net")


def _require_libraries(extra: str, *names: str) -> None:
    """Refuse early to do what needs libraries of an extra that are not installed."""
    from importlib.util import find_spec

    from ircdeblur.app.imagefile import ImageFileError

    if missing := [name for name in names if find_spec(name) is None]:
        raise ImageFileError(
            f"the libraries for {extra} are not installed", ", ".join(missing), f'pip install "ircdeblur[{extra}]"'
        )


def _runtime(text: str, method: Method | None, motion_net: str | None, irc_net: Path | None) -> str | Path:
    """Return the value of ``--runtime``, if it fits to what is to be done."""
    if text == "torch":
        return text
    _require_libraries("onnx", "onnxruntime", *(["onnx"] if text == "onnx" else []))

    from ircdeblur.nets.onnx import check_runtime

    try:
        check_runtime(text, None if method is None else method.value, motion_net, irc_net)
    except ValueError as error:
        raise UsageError(f"--runtime {text}: {error}") from error
    return text if text == "onnx" else Path(text)


def _require_weights(path: Path, load: Callable[[Path], object], advice: str, network: str) -> None:
    from ircdeblur.app.imagefile import ImageFileError

    if not path.is_file():
        raise ImageFileError("the weights are missing", path, advice)
    try:
        load(path)
    except ValueError as error:
        what = f"not usable weights ({str(error).partition(':')[0]})"
        raise ImageFileError(what, path, f"ircdeblur train {network} writes usable ones") from error


# --------------------------------------------------------------------------------------------------- messages


@dataclass
class Report:
    """Messages of one command.

    Attributes
    ----------
    quiet : bool
        Errors only.
    debug : bool
        Print tracebacks with the errors.
    failed : bool
        Whether there was an error.
    """

    quiet: bool
    debug: bool
    failed: bool = False

    def say(self, text: str) -> None:
        """Print a result."""
        if not self.quiet:
            _print(sys.stdout, one_line(text))

    def notes(self, texts: Sequence[str], path: Path) -> None:
        """Print what the user should know about a file."""
        if not self.quiet:
            for text in texts:
                _print(sys.stderr, f"note: {one_line(f'{path}: {text}')}")

    def error(self, error: Exception, path: Path | None = None) -> None:
        """Print an error about a file."""
        self.failed = True
        if self.debug:
            traceback.print_exception(error)
        _print(sys.stderr, f"error: {error_text(error, path)}")

    def fail(self, text: str) -> None:
        """Print an error that has been put into words already."""
        self.failed = True
        _print(sys.stderr, f"error: {one_line(text)}")

    @contextmanager
    def noting(self, path: Path) -> Iterator[None]:
        """Turn the warnings that this package gives in the block into notes about a file; drop all others."""
        with own_warnings() as texts:
            yield
        self.notes(texts, path)


def _debug(context: typer.Context) -> bool:
    return bool(context.ensure_object(dict).get("debug", False))


def _usage_text(error: Exception, command: str) -> str:
    """Say in one line what is wrong with the command line."""
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    text = one_line(text).rstrip(".")
    # The first word of an option or a value is no beginning of a sentence.
    return f"{text[:1].lower()}{text[1:]}; see '{command} --help'"


def _size(array: np.ndarray) -> str:
    """Return the size of an array as the user knows it: width, height and, for a picture, its channels."""
    height, width, *rest = array.shape
    colours = {(): ", grey", (3,): ", RGB"}.get(tuple(rest), "")
    return f"{width} x {height}{colours}"


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Return numbers as plain floats with four decimals, and the rest as it is."""
    return {k: v if v is None or isinstance(v, (str, int)) else round(float(v), 4) for k, v in values.items()}


def _print_json(values: dict[str, Any]) -> None:
    import json

    _print(sys.stdout, json.dumps(values))


def _print(stream: TextIO, text: str) -> None:
    """Print to a stream that may be unable to show a character, or have no reader any more."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
    except BrokenPipeError:
        # The work goes on without a reader. Python would complain at exit if the rest could not be flushed.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
