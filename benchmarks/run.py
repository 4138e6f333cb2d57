"""Time the solvers, the networks and the whole pipeline: ``make bench``.

Every case runs in a process of its own, which tells its peak memory; a case that fails or takes too long is a row that
says so. Pictures are made from one that scikit-image ships. Seconds are medians with the fastest and the slowest run;
a first run on a small crop, which loads what a process loads once, is not among them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GROWTH = (0.2, 1.0, 4.0, 16.0)
GROWTH_METHODS = ("irc-net", "irc-mm", "irc", "cg", "fft")
QUICK_METHODS = ("irc-net", "irc-mm", "irc", "cg", "fft")
KINDS = {"uniform": "15 px at 30 degrees", "motion": "camera shake to 21 px"}
NOISE = 0.01


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes
    ----------
    what : {"solver", "growth", "blur", "bank", "motion-net", "irc-net", "estimate_motion", "deblur"}
        "solver" times a method on the whole picture, "growth" the public `deconvolve`, which cuts large ones in tiles.
    method, kind : str
        Of the solver, and of the blur.
    channels, height, width : int
        Of the picture.
    threads, runs : int
        Of the process.
    device : str
        "cpu" or "cuda".
    folder : str
        Cache of the bank's filters.
    runtime : {"torch", "onnx"}
        What computes the networks.
    """

    what: str
    method: str = ""
    kind: str = ""
    channels: int = 3
    height: int = 375
    width: int = 500
    threads: int = 1
    runs: int = 3
    device: str = "cpu"
    folder: str = ""
    runtime: str = "torch"

    @property
    def megapixels(self) -> float:
        """Size of the picture."""
        return self.height * self.width / 1e6


# ------------------------------------------------------------------------------------- in the process of one case


def peak_mb() -> float:
    """Return the most memory that the process has held so far."""
    # Kilobytes on Linux, bytes on macOS.
    unit = 1024**2 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def photograph(case: Case) -> Any:
    """Return the picture, (1, C, H, W) on the device: a shipped one, repeated as a mosaic of reflections."""
    import numpy as np
    import skimage.data
    import torch

    photo = skimage.data.coffee()[:375, :500].astype(np.float32) / 255
    more = [max(0, n - m) for n, m in zip((case.height, case.width), photo.shape, strict=False)]
    photo = np.pad(photo, ((0, more[0]), (0, more[1]), (0, 0)), mode="symmetric")[: case.height, : case.width]
    if case.channels == 1:
        photo = photo.mean(2, keepdims=True)
    return torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1)))[None].to(case.device)


def timed(function: Callable[[], object], case: Case) -> list[float]:
    """Return the seconds of each run."""
    import torch

    seconds = []
    for _ in range(case.runs):
        began = time.perf_counter()
        function()
        if case.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


def measure(case: Case) -> dict[str, Any]:
    """Run a case in this process, and return its figures."""
    import torch

    # What is imported before the start counts to it.
    import ircdeblur.experiments.compare
    import ircdeblur.restore  # noqa: F401

    torch.set_num_threads(case.threads)
    photo = photograph(case)
    start = peak_mb()
    figures = {
        "solver": measure_solver,
        "blur": measure_blur,
        "growth": measure_growth,
        "bank": measure_bank,
    }.get(case.what, measure_network)(case, photo)
    peak = torch.cuda.max_memory_allocated() / 1024**2 if case.device == "cuda" else peak_mb()
    above = peak if case.device == "cuda" else peak - start
    return {**figures, "peak": peak, "above": above}


def make_blur(case: Case, shape: tuple[int, int]) -> Callable[[], Any]:
    """Return what makes the operator."""
    import torch

    from ircdeblur.data.camera import camera_shake
    from ircdeblur.kernels import linear_motion_kernel
    from ircdeblur.operators import MotionBlur, UniformBlur

    if case.kind == "uniform":
        psf = torch.from_numpy(linear_motion_kernel(15, 30)).float().to(case.device)
        return lambda: UniformBlur(psf, boundary="extended")
    motion = torch.from_numpy(camera_shake(shape, 21.0, seed=0)).to(case.device)
    return lambda: MotionBlur(motion, boundary="extended")


def blurred(make: Callable[[], Any], photo: Any) -> Any:
    """Return the picture blurred, with noise."""
    import torch

    operator = make()
    my, mx = operator.margin
    wide = torch.nn.functional.pad(photo, (mx, mx, my, my), mode="replicate")
    torch.manual_seed(0)
    return operator.A(wide) + NOISE * torch.randn_like(photo)


def measure_solver(case: Case, photo: Any) -> dict[str, Any]:
    """Time a method's set-up and its iterations, on the whole picture."""
    from ircdeblur.experiments.compare import restore
    from ircdeblur.experiments.synthetic import Case as Picture
    from ircdeblur.solvers.settings import DEFAULTS, Settings

    settings = DEFAULTS.get(case.method, Settings())
    small = photo[..., :128, :128]
    for image, runs, few in ((small, 1, replace(settings, iterations=1)), (photo, case.runs, settings)):
        make = make_blur(case, (image.shape[-2], image.shape[-1]))
        picture = Picture("", image, blurred(make, image), None)
        done = [restore(picture, make, case.method, few, NOISE) for _ in range(runs)]
    return {
        "seconds": [d.seconds for d in done],
        "setup": None if done[0].setup is None else statistics.median(d.setup or 0.0 for d in done),
    }


def measure_blur(case: Case, photo: Any) -> dict[str, Any]:
    """Time one blur of the picture; the set-up makes the operator."""
    import torch

    make = make_blur(case, (photo.shape[-2], photo.shape[-1]))
    operator = make()
    my, mx = operator.margin
    wide = torch.nn.functional.pad(photo, (mx, mx, my, my), mode="replicate")
    operator.A(wide)
    return {"seconds": timed(lambda: operator.A(wide), case), "setup": statistics.median(timed(make, case))}


def measure_growth(case: Case, photo: Any) -> dict[str, Any]:
    """Time the public `deconvolve`."""
    from ircdeblur.data.camera import camera_shake
    from ircdeblur.kernels import linear_motion_kernel
    from ircdeblur.restore import deconvolve

    def arguments(shape: tuple[int, int]) -> dict[str, Any]:
        if case.kind == "uniform":
            return {"psf": linear_motion_kernel(15, 30)}
        return {"motion": camera_shake(shape, 21.0, seed=0)}

    # A sharp picture takes as long as a blurred one, and blurring it here would be part of the peak.
    small = photo[..., :128, :128]
    deconvolve(small, **arguments((128, 128)), method=case.method, noise=NOISE)
    known = arguments((case.height, case.width))
    return {
        "seconds": timed(lambda: deconvolve(photo, **known, method=case.method, noise=NOISE), case),
        "setup": None,
    }


def measure_bank(case: Case, photo: Any) -> dict[str, Any]:
    """Time the bank of inverse filters: what it takes to have it, and to have it again in the same process."""
    from ircdeblur.inverse import InverseBank
    from ircdeblur.solvers.irc import MOTION_SUPPORT
    from ircdeblur.solvers.settings import DEFAULTS

    def load() -> object:
        return InverseBank.load(DEFAULTS["irc"].rho, MOTION_SUPPORT, case.folder)

    first = timed(load, replace(case, runs=1))
    return {"seconds": first, "setup": None, "again": timed(load, replace(case, runs=1))[0]}


def measure_network(case: Case, photo: Any) -> dict[str, Any]:
    """Time Motion-Net, IRC-Net, the estimate of the motion, or the whole blind restoration, of a shaken photograph."""
    import torch

    import ircdeblur
    from ircdeblur.data.camera import camera_shake
    from ircdeblur.nets import methods
    from ircdeblur.operators import MotionBlur
    from ircdeblur.restore import _motion_net

    device = torch.device(case.device)
    field = camera_shake((case.height, case.width), 21.0, seed=0)
    photo = ircdeblur.blur(photo, motion=field, noise=NOISE, seed=0)
    options: dict[str, Any] = {"device": case.device, "runtime": case.runtime}

    def forward() -> object:
        with torch.no_grad():
            return _motion_net(device, "small", case.runtime)(photo)

    def deconvolve() -> object:
        blur = MotionBlur(torch.from_numpy(field).to(device), boundary="extended")
        return methods.deconvolve(photo, blur, NOISE, "irc-net", runtime=case.runtime)

    function: Callable[[], object] = {
        "motion-net": forward,
        "irc-net": deconvolve,
        "estimate_motion": lambda: ircdeblur.estimate_motion(photo, **options),
        "deblur": lambda: ircdeblur.deblur(photo, **options),
    }[case.what]
    function()
    return {"seconds": timed(function, case), "setup": None}


# ----------------------------------------------------------------------------------------- the process of them all


def run(case: Case, limit: float) -> dict[str, Any]:
    """Run a case in a new process, and return its figures, or why there are none."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(case.threads)}
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {limit:g} s"}
    if done.returncode != 0:
        # A negative code is a signal: the kernel kills what takes too much memory with number 9.
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failed": "out of memory" if done.returncode == -9 else last[:240].replace("|", "/")}
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def places(quick: bool) -> list[tuple[str, int]]:
    """Return devices with their numbers of threads."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = [("cpu", n) for n in dict.fromkeys((cores,) if quick else (1, cores))]
    return found + ([("cuda", cores)] if torch.cuda.is_available() else [])


def cases(quick: bool, runs: int, megapixels: float, folder: str) -> Iterator[tuple[str, Case]]:
    """Yield headings and cases."""
    from ircdeblur.nets.methods import METHODS

    methods = QUICK_METHODS if quick else METHODS
    for device, threads in places(quick):
        common = Case("solver", threads=threads, runs=runs, device=device)
        where = f"{threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else "GPU"
        for kind, words in KINDS.items():
            for channels in (3,) if quick else (1, 3):
                colour = "RGB" if channels == 3 else "grey"
                heading = f"375 x 500 {colour}, {kind} ({words}), {where}"
                yield heading, replace(common, what="blur", kind=kind, channels=channels)
                for method in methods:
                    # What takes minutes is timed once.
                    few = 1 if method == "epll" else runs
                    yield heading, replace(common, method=method, kind=kind, channels=channels, runs=few)
        for what in ("motion-net", "irc-net", "estimate_motion", "deblur"):
            for runtime in ("torch", "onnx") if find_spec("onnxruntime") and find_spec("onnx") else ("torch",):
                yield f"Networks, 375 x 500 RGB, {where}", replace(common, what=what, runtime=runtime)
    device, threads = places(quick)[-1]
    if not quick:
        for _ in ("computed", "read from the disk"):
            yield "The bank of inverse filters", Case("bank", threads=threads, runs=1, folder=folder)
    for kind, words in KINDS.items():
        for size in (s for s in GROWTH if s <= megapixels):
            height = round((size * 0.75e6) ** 0.5)
            case = Case("growth", "", kind, 3, height, round(height / 0.75), threads, 1 if size > 1 else runs, device)
            for method in GROWTH_METHODS:
                yield f"Growth, RGB, {kind} ({words})", replace(case, method=method)


def spread(seconds: Sequence[float]) -> str:
    """Return median, fastest and slowest as text."""
    middle = f"{statistics.median(seconds):.3f}"
    return middle if len(seconds) == 1 else f"{middle} ({min(seconds):.3f} to {max(seconds):.3f})"


def markdown(results: Sequence[tuple[str, Case, dict[str, Any]]], about: str) -> str:
    """Return all tables.

    Parameters
    ----------
    results : sequence of (heading, case, figures)
        What `run` returned.
    about : str
        The machine.
    """
    lines = [
        "## Benchmarks",
        "",
        "Written by `make bench`. Seconds: median (fastest to slowest run), each case in a process of its own; set-up: "
        "operator and filters, part of the seconds; peak: memory of the whole process, and how much of it came after "
        "the libraries and the picture. Factors above 1 are slower than cg in the same table.",
        "",
    ]
    for heading in dict.fromkeys(h for h, _, _ in results):
        here = [(case, figures) for h, case, figures in results if h == heading]
        write = {"bank": bank_rows, "growth": growth_rows}.get(here[0][0].what, solver_rows)
        lines += [f"### {heading}", "", *write(here), ""]
    return "\n".join([*lines, f"- Machine: {about}", ""])


def solver_rows(here: Sequence[tuple[Case, dict[str, Any]]]) -> Iterator[str]:
    """Yield the lines of a table of methods."""
    yield "| what | seconds | of these set-up | times cg | peak (MB) | above start (MB) |"
    yield "|---|---|---|---|---|---|"
    cg = [statistics.median(f["seconds"]) for case, f in here if case.method == "cg" and "failed" not in f]
    for case, f in here:
        name = case.method or {"blur": "one blur (set-up apart)"}.get(case.what, case.what)
        name += "" if case.runtime == "torch" else f", {case.runtime}"
        if "failed" in f:
            yield f"| {name} | failed: {f['failed']} | | | | |"
            continue
        setup = "" if f["setup"] is None else f"{f['setup']:.3f}"
        factor = f"{statistics.median(f['seconds']) / cg[0]:.2f}" if cg and case.method else ""
        yield f"| {name} | {spread(f['seconds'])} | {setup} | {factor} | {f['peak']:.0f} | {f['above']:.0f} |"


def growth_rows(here: Sequence[tuple[Case, dict[str, Any]]]) -> Iterator[str]:
    """Yield the lines of a table of sizes."""
    yield "| method | megapixels | seconds | s per megapixel | times the smallest's | peak (MB) | above start (MB) |"
    yield "|---|---|---|---|---|---|---|"
    smallest: dict[str, float] = {}
    for case, f in sorted(here, key=lambda pair: GROWTH_METHODS.index(pair[0].method)):
        if "failed" in f:
            yield f"| {case.method} | {case.megapixels:.1f} | failed: {f['failed']} | | | | |"
            continue
        each = statistics.median(f["seconds"]) / case.megapixels
        factor = each / smallest.setdefault(case.method, each)
        yield (
            f"| {case.method} | {case.megapixels:.1f} | {spread(f['seconds'])} | {each:.2f} | {factor:.2f} "
            f"| {f['peak']:.0f} | {f['above']:.0f} |"
        )


def bank_rows(here: Sequence[tuple[Case, dict[str, Any]]]) -> Iterator[str]:
    """Yield the lines of the table of the filters' computation."""
    yield "| bank of a new process | seconds | again in that process | peak (MB) |"
    yield "|---|---|---|---|"
    for (_, f), name in zip(here, ("computed", "read from the disk"), strict=True):
        if "failed" in f:
            yield f"| {name} | failed: {f['failed']} | | |"
        else:
            yield f"| {name} | {f['seconds'][0]:.3f} | {f['again']:.4f} | {f['peak']:.0f} |"


def main() -> None:
    """Time all cases and write the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("results/benchmarks.md"), help="Markdown file")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each case")
    parser.add_argument("--quick", action="store_true", help="one run of few methods, RGB, all threads, 1 megapixel")
    parser.add_argument("--max-megapixels", type=float, metavar="N", help="largest picture (16; with --quick 1)")
    parser.add_argument("--limit", type=float, default=900.0, metavar="SECONDS", help="for one case")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(measure(Case(**json.loads(options.case)))))
        return
    from ircdeblur.experiments.report import machine

    largest = options.max_megapixels or (1.0 if options.quick else 16.0)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        planned = list(cases(options.quick, 1 if options.quick else options.runs, largest, folder))
        for number, (heading, case) in enumerate(planned, start=1):
            print(f"{number}/{len(planned)} {heading}: {case.method or case.what}", file=sys.stderr, flush=True)
            results.append((heading, case, run(case, options.limit)))
            # Whoever stops it has what was measured so far.
            options.output.write_text(markdown(results, machine(threads=False)), encoding="utf-8")
    print(options.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
