"""Build the wheel, install it without extras into a fresh environment, run it there, print sizes and times.

    python benchmarks/wheel.py -o dist

What is installed comes from where pip is configured to look, held by constraints.txt. The environment is removed again.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]

PICTURE = """
import sys, skimage.data, skimage.io, ircdeblur
sharp = skimage.data.astronaut()[:200, 120:360]
skimage.io.imsave(sys.argv[1], ircdeblur.blur(sharp, psf=[[1 / 9] * 9], noise=0.005, seed=0))
"""


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("dist"), help="folder for the wheel")
    parser.add_argument("--runs", type=int, default=11, help="of each timed command; the median is printed")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    run([*pip, "wheel", "--no-deps", "-w", arguments.out, ROOT])
    wheel = max(arguments.out.glob("ircdeblur-*.whl"), key=lambda path: path.stat().st_mtime)
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores"
    )
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        environment = folder / "environment"
        venv.create(environment, with_pip=True)
        python = environment / "bin" / "python"
        before = size(environment)
        run([python, *pip[1:], "install", "-c", ROOT / "constraints.txt", wheel])
        print(
            f"environment: {(size(environment) - before) / 1e6:.0f} MB for ircdeblur and what it needs, without extras"
        )
        command = environment / "bin" / "ircdeblur"
        run([python, "-c", PICTURE, folder / "blurred.png"], cwd=folder)
        deblur = [command, "deblur", folder / "blurred.png", "-o", folder / "sharp.png"]
        began = time.perf_counter()
        line = run([*deblur, "--report", folder / "report.html"], cwd=folder)
        print(f"deblur, 240 x 200, from the start of the program: {time.perf_counter() - began:.1f} s")
        print(line.strip().replace(f"{folder}{os.sep}", ""))

        print(
            f"median of {arguments.runs} runs: seconds by the clock, and of the processor, which other work delays less"
        )
        for name, timed in (
            ("python -c pass", [python, "-c", "pass"]),
            ("python -c 'import ircdeblur'", [python, "-c", "import ircdeblur"]),
            ("ircdeblur --help", [command, "--help"]),
            ("ircdeblur deblur --help", [command, "deblur", "--help"]),
        ):
            clock, processor = medians(timed, arguments.runs)
            print(f"{name}: {clock:.3f} s, {processor:.3f} s")


def run(command: list[str | Path], cwd: Path | None = None) -> str:
    """Run a command outside the repository's source tree and return what it printed."""
    names = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    free = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=free, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(str(word) for word in command)} failed\n{done.stdout}{done.stderr}")
    return done.stdout


def medians(command: list[str | Path], runs: int) -> tuple[float, float]:
    """Return the medians of the seconds that a command takes, by the clock and of processor time.

    A first run fills the caches and does not count.
    """
    clock, processor = [], []
    for _ in range(runs + 1):
        began, before = time.perf_counter(), os.times()
        run(command)
        after = os.times()
        clock.append(time.perf_counter() - began)
        user, system = after.children_user - before.children_user, after.children_system - before.children_system
        processor.append(user + system)
    return statistics.median(clock[1:]), statistics.median(processor[1:])


def size(folder: Path) -> int:
    """Return the bytes of the files in a folder, links left out."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
