"""Check and time ``ircdeblur batch``: kills, bad files, the cost over a plain loop, Ray with two workers against one.

A folder of 200 small photographs, crops of those that scikit-image ships, five of them bad, is deblurred by a run that
is killed twice, at random times, by SIGKILL, and resumed. Then the same photographs go through a plain loop over
`ircdeblur.deblur`, through the batch in one go, and through Ray. On a machine that is shared, the processor time tells
more of the batch's own cost than the time on the wall does. Prints a table in Markdown and writes it to the file
that is given::

    python benchmarks/batch.py [--count 200] [--method irc-net] [--parts kills cost ray] [-o batch.md]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

HEIGHT, WIDTH = 160, 200
BAD = 5
PARTS = ("kills", "cost", "ray")

LOOP = """
import sys, time
from pathlib import Path
import ircdeblur
from ircdeblur.app.imagefile import read_photo, write_photo
source, out, method, consolidation = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]
files = sorted(p for p in source.rglob("*") if p.is_file() and not p.name.startswith("bad"))
start = time.perf_counter()
for file in files:
    photo = read_photo(file)
    sharp = ircdeblur.deblur(photo.pixels, method=method, consolidation=consolidation)
    write_photo(out / f"{file.stem}.png", sharp, photo)
print(time.perf_counter() - start)
"""
"""The plain loop: it reads, deblurs and writes, and knows nothing of kills, bad files and manifests."""


def make_folder(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` photographs, `BAD` of them bad, to a folder with sub-folders."""
    rng = np.random.default_rng(seed)
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    for number in range(count - BAD):
        photo = sources[number % len(sources)]
        top, left = (int(rng.integers(side - size)) for side, size in zip(photo.shape, (HEIGHT, WIDTH), strict=False))
        crop = photo[top : top + HEIGHT, left : left + WIDTH]
        path = folder / f"day{number % 3}" / f"photo{number:03d}{('.png', '.jpg')[number % 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(crop).save(path, quality=95)
    good = (folder / "day0" / "photo000.png").read_bytes()
    (folder / "bad-empty.jpg").touch()
    (folder / "bad-text.jpg").write_text("this is no picture\n")
    (folder / "day1" / "bad-cut.png").write_bytes(good[: len(good) // 2])
    Image.fromarray(sources[0][:HEIGHT, :WIDTH]).save(folder / "day2" / "bad-format.png", format="BMP")
    # Two channels of signed 16-bit numbers are no photograph, though TIFF can hold them.
    odd = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH))
    odd.save(folder / "day2" / "bad-samples.tif")


def command(source: Path, out: Path, *options: str) -> list[str]:
    """Return the command line of a batch."""
    return [sys.executable, "-m", "ircdeblur", "batch", str(source), str(out), *options]


def records(out: Path) -> list[dict[str, object]]:
    """Return the whole lines of a manifest that may be growing."""
    path = out / "manifest.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def killed(source: Path, out: Path, job: list[str], count: int, seed: int) -> tuple[list[int], int]:
    """Run a batch that is killed twice; return the lines at each kill, and the exit code of the last run."""
    rng = random.Random(seed)
    at = []
    for kill in range(2):
        options = ["--resume"] if kill else []
        process = subprocess.Popen(command(source, out, *job, *options), stdout=subprocess.DEVNULL)
        wanted = int(count * (kill + rng.uniform(0.2, 0.9)) / 3)
        while process.poll() is None and len(records(out)) < wanted:
            time.sleep(0.05)
        # Anywhere within a photograph, its writing included.
        time.sleep(rng.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        at.append(len(records(out)))
    last = subprocess.run(command(source, out, *job, "--resume"), capture_output=True, text=True)
    return at, last.returncode


def check(source: Path, out: Path) -> dict[str, int]:
    """Count what a batch has made of a folder; raise if it is not what it should be."""
    lines = records(out)
    outputs = Counter(line["output"] for line in lines)
    done = {str(line["output"]) for line in lines if line["error"] is None}
    written = {path.relative_to(out).as_posix() for path in out.rglob("*_sharp.*")}
    hidden = list(out.rglob(".ircdeblur-tmp-*"))
    marks = list((out / ".ircdeblur-batch").glob("begun-*"))
    inputs = [path for path in source.rglob("*") if path.is_file()]
    for name in written:
        with Image.open(out / name) as picture:
            picture.load()
            assert picture.size == (WIDTH, HEIGHT), name
    found = {
        "inputs": len(inputs),
        "good ones done": len(done),
        "bad ones reported": len(lines) - len(done),
        "files with more than one line": sum(n > 1 for n in outputs.values()),
        "outputs without a line": len(written - done),
        "lines without an output": len(done - written),
        "partial files and marks left": len(hidden) + len(marks),
    }
    assert list(found.values())[1:] == [len(inputs) - BAD, BAD, 0, 0, 0, 0], found
    return found


def steady(out: Path, count: int) -> float:
    """Return the photographs per second between the first output and the last."""
    times = sorted(path.stat().st_mtime for path in out.rglob("*_sharp.*"))
    assert len(times) == count
    return (len(times) - 1) / (times[-1] - times[0])


def processor_time() -> float:
    """Return the seconds of processor time that the processes which have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> int:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="photographs, the bad ones included")
    parser.add_argument("--method", default="irc-net")
    parser.add_argument("--seed", type=int, default=0, help="of the crops and of the times of the kills")
    parser.add_argument("--consolidation", default="picture", help="none takes a fifth of the time")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to do of: %(choices)s")
    parser.add_argument("-o", "--output", type=Path, help="file for the table")
    given = parser.parse_args()
    good = given.count - BAD
    job = ["--method", given.method, "--consolidation", given.consolidation]
    rows: list[tuple[str, str]] = []

    def row(name: str, value: str) -> None:
        rows.append((name, value))
        print(f"{name}: {value}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = root / "in"
        make_folder(source, given.count, given.seed)
        load = os.getloadavg()[0]

        if "kills" in given.parts:
            at, code = killed(source, root / "killed", job, given.count, given.seed)
            row("killed by SIGKILL after", f"{at[0]} and {at[1]} of {given.count} files; last exit code {code}")
            for name, number in check(source, root / "killed").items():
                row(name, str(number))

        if "cost" in given.parts:
            (root / "loop").mkdir()
            loop = [sys.executable, "-c", LOOP, str(source), str(root / "loop"), given.method, given.consolidation]
            before = processor_time()
            plain = float(subprocess.run(loop, capture_output=True, text=True, check=True).stdout)
            plain_used = processor_time() - before
            row("plain loop", f"{good / plain:.2f} photographs/s; {plain_used:.1f} s of processor time")
            start, before = time.perf_counter(), processor_time()
            subprocess.run(command(source, root / "batch", *job, "-q"), capture_output=True)
            whole, used = time.perf_counter() - start, processor_time() - before
            check(source, root / "batch")
            rate = steady(root / "batch", good)
            row("batch", f"{rate:.2f} photographs/s ({whole:.0f} s in all); {used:.1f} s of processor time")
            row("batch against the plain loop", f"{used / plain_used - 1:+.1%} processor time")

        if "ray" in given.parts:
            rates = {}
            for workers in (1, 2):
                out = root / f"ray{workers}"
                options = ["-q", "--engine", "ray", "--workers", str(workers), "--device", "cpu"]
                start = time.perf_counter()
                subprocess.run(command(source, out, *job, *options), capture_output=True)
                whole = time.perf_counter() - start
                check(source, out)
                rates[workers] = steady(out, good)
                row(f"Ray, {workers} workers", f"{rates[workers]:.2f} photographs/s ({whole:.0f} s in all)")
            row("Ray, two workers against one", f"{rates[2] / rates[1]:.2f} times the throughput")

        threads = os.environ.get("OMP_NUM_THREADS", "all")
        row("load before and after", f"{load:.1f} and {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        row("machine", f"{platform.machine()}, {threads} threads, Python {platform.python_version()}")
    what = f"{given.count} photographs of {WIDTH} x {HEIGHT}, {' '.join(job)}"
    text = f"`ircdeblur batch`, {what}\n\n| | |\n|---|---|\n"
    text += "".join(f"| {name} | {value} |\n" for name, value in rows)
    print(text)
    if given.output is not None:
        given.output.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
