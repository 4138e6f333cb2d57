"""Every block of code in the README and the documentation runs, and the site builds from nothing but itself.

Python blocks of a page run one after the other in one namespace, commands in between, all in a folder with the files
that the page speaks of. Commands in `RUN` are run; the others are too long, need a server, a cluster or data that
nobody has here, and are held against the parser of the command, the Makefile, the extras in pyproject.toml or the
script that they name.
"""

import importlib.util
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage.data
import torch
import typer.main
from PIL import Image

import ircdeblur
from ircdeblur.app import cli
from ircdeblur.kernels import linear_motion_kernel
from ircdeblur.psf import write_psf

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"python", "bash", "text", "{toctree}", "{include}", "{eval-rst}"}

RUN = {"deblur", "motion", "deconvolve", "blur", "compare", "export onnx", "info", "dataset synthetic"}
"""Commands that the tests run; of all others they check options and arguments."""

SMALLER = {"dataset synthetic": ["--count", "2", "--size", "144"]}
"""What makes a command cheap; of an option that is given twice the last counts."""

FOREIGN = {"ffmpeg", ".", "PYTHON=python3.12"}
"""Programs that are not ours: what they do with their options is not checked."""


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page."""
    language, begin, lines = None, 0, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and language is None:
            language, begin, lines = fence[1].split(" ")[0], number, []
        elif fence and not fence[1]:
            assert language is not None
            yield Block(language, "\n".join(lines), begin)
            language = None
        elif language is not None:
            lines.append(line)
    assert language is None, f"{page}: a block is not closed"


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


WITH_CODE = [page for page in PAGES if any(block.language in ("python", "bash") for block in blocks(page))]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """The files that pages speak of, small ones."""
    folder = tmp_path_factory.mktemp("prepared")
    sharp = np.ascontiguousarray(skimage.data.astronaut()[40:136, 160:288])
    blurred = ircdeblur.blur(sharp, psf=linear_motion_kernel(9, 30), noise=0.005, seed=0)
    Image.fromarray(sharp).save(folder / "sharp-photo.png")
    Image.fromarray(blurred).save(folder / "blurred.png")
    Image.fromarray(blurred).save(folder / "photo.jpg", quality=95)
    Image.fromarray(blurred[..., 1].astype(np.uint16) * 257).save(folder / "grey16.tif")
    for name in ("kernel.png", "kernel.tif"):
        write_psf(folder / name, linear_motion_kernel(9, 30), Path(name).suffix)
    photo = Image.fromarray(skimage.data.astronaut()).resize((160, 160))
    for name in ("photos", "photos/train", "photos/train-more", "photos/val", "frames"):
        (folder / name).mkdir()
    for number in range(2):
        photo.crop((number, 0, 150 + number, 150)).save(folder / "photos" / f"{number}.png")
        shutil.copy(folder / "blurred.png", folder / "frames" / f"{number}.png")
    shutil.copy(folder / "blurred.png", folder / "sharp.png")  # the README blurs it
    for name in ("pairs", "real-pairs"):
        arguments = ["dataset", "synthetic", str(folder / "photos"), "-o", str(folder / name), "--count", "2"]
        assert cli.main([*arguments, "--size", "144", "--quiet"]) == 0
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.mark.parametrize("page", WITH_CODE, ids=named)
def test_code_runs(page, prepared, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "work"
    shutil.copytree(prepared, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("IRCDEBLUR_DATA", raising=False)
    namespace: dict[str, Any] = {"__name__": "__main__", "image": np.asarray(Image.open("blurred.png")) / 255.0}
    for block in blocks(page):
        if block.language == "python":
            # A warning's file is not ours, so none of a library is an error here; ours are, in the package.
            code = "\n" * block.line + block.text
            exec(compile(code, str(page), "exec"), namespace)
        elif block.language == "bash":
            for command in commands(block.text):
                try:
                    check_command(command)
                except (AssertionError, Exception) as error:
                    raise AssertionError(f"{named(page)}:{block.line}: {shlex.join(command)}: {error}") from error
    capsys.readouterr()


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a block as words; comments are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def check_command(words: list[str]) -> None:
    """Run a command or, where that is too much, check what can be checked."""
    checks: dict[str, Callable[[list[str]], None]] = {
        "ircdeblur": check_ircdeblur,
        "make": check_make,
        "pip": check_pip,
        "python": check_python,
    }
    program = words[0]
    if program in checks:
        checks[program](words[1:])
    elif program.startswith(".venv/bin/"):
        checks[program.removeprefix(".venv/bin/")](words[1:])
    elif "/" in program:
        assert (ROOT / program).is_file(), f"there is no {program}"
    else:
        assert program in FOREIGN, f"{program} is a program that these tests do not know"


def check_ircdeblur(words: list[str]) -> None:
    """Run one of our commands, or parse it."""
    parse(words)
    name = " ".join(words[:2]) if words[0] in ("dataset", "export") else words[0]
    own_weights = any(option in words for option in ("--motion-net", "--irc-net", "--kernel-net"))
    if name not in RUN or own_weights:
        return
    words = words + SMALLER.get(name, [])
    if name not in ("compare", "info"):
        # Pages use a name more than once.
        words.append("--overwrite")
    if name == "compare" and not all(Path(word).is_file() for word in words[1:] if not word.startswith("-")):
        return  # of what only a training would have made
    assert cli.main(words) == 0, "it failed; its error is in the captured output"


def known_commands() -> dict[str, Any]:
    commands: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    return commands


def parse(words: list[str]) -> None:
    """Hold a command line against the parser of its command; wrong ones raise."""
    group = typer.main.get_command(cli.app)
    if words[0].startswith("-"):
        assert words[0] in {name for parameter in group.params for name in parameter.opts}
        return
    command, rest = known_commands()[words[0]], words[1:]
    while hasattr(command, "commands"):
        command, rest = command.commands[rest[0]], rest[1:]
    if "--help" in rest:
        return
    try:
        command.make_context("ircdeblur", list(rest))
    except Exception as error:
        raise AssertionError(error.format_message() if hasattr(error, "format_message") else str(error)) from error
    if "--config" in rest:
        check_configuration(words)


def check_configuration(words: list[str]) -> None:
    from ircdeblur.training import end_to_end, irc_net, kernel_net, motion_net

    loaders = {"motion-net": motion_net, "irc-net": irc_net, "kernel-net": kernel_net, "end-to-end": end_to_end}
    path = Path(words[words.index("--config") + 1])
    if words[0] == "train" and path.name != "FILE":
        loaders[words[1]].load_config(path)


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for word in words:
        assert "=" in word or word in targets, f"the Makefile has no target {word}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    table = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^(\w+) = \[", table.partition("\n[")[0], re.MULTILINE))
    for word in words[1:]:
        match = re.fullmatch(r"(?:ircdeblur|\.)(?:\[(\w+)\])?", word)
        assert match, f"{word} is not this package"
        assert match[1] is None or match[1] in extras, f"there is no extra {match[1]}"


def check_python(words: list[str]) -> None:
    """The script or module exists and has the options; it is not run."""
    if words[0] == "-m":
        if words[1] in ("pytest", "ircdeblur"):
            return
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, f"there is no module {words[1]}"
        assert spec.origin is not None
        path, rest = Path(spec.origin), words[2:]
        # A package is run by its main module.
        sources = [*path.parent.glob("*.py")] if path.name == "__init__.py" else [path]
    else:
        sources, rest = [ROOT / words[0]], words[1:]
        assert sources[0].is_file(), f"there is no {words[0]}"
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    for word in rest:
        if word.startswith("-"):
            assert f'"{word}"' in text, f"{words[0]} has no option {word}"


def test_every_block_says_what_it_is():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in LANGUAGES, f"{named(page)}:{block.line}: language {block.language!r}"
            if block.language == "text":
                assert not re.match(r"(ircdeblur|make|pip|python) ", block.text), f"{named(page)}:{block.line}: bash?"


@pytest.mark.parametrize(
    "line",
    [
        "ircdeblur deblurr photo.jpg",
        "ircdeblur deblur photo.jpg",
        "ircdeblur deblur photo.jpg -o s.png --mode fast",
        "ircdeblur train motion-net --config configs/none.yaml --data DIR",
        "ircdeblur train irc-not --config configs/irc-net.yaml --data DIR",
        "ircdeblur dataset frame films -o out",
        "ircdeblur deconvolve none.png -o out.png --length 3 --angle 0",
        "make nothing",
        'pip install "ircdeblur[everything]"',
        "pip install other",
        "python examples/none.py",
        "python examples/demo.py --fast",
        "python -m ircdeblur.nothing",
        "rm -rf /",
    ],
)
def test_the_checks_see_a_wrong_command(line, prepared, monkeypatch, capsys):
    monkeypatch.chdir(prepared)
    with pytest.raises((AssertionError, KeyError, OSError, ModuleNotFoundError)):
        check_command(next(commands(line)))
    capsys.readouterr()


def test_the_figures_of_the_readme_are_those_of_the_results():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / "benchmarks" / "readme_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert module.replaced(text, module.tables(ROOT / "docs" / "results")) == text, "make results"


def test_links_between_pages_lead_somewhere():
    """Also those of the README, which Sphinx does not see; it checks the others once more, with their anchors."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
                assert (page.parent / target.partition("#")[0]).exists(), f"{named(page)}: {target}"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_needs_nothing_else(tmp_path, monkeypatch):
    for library in ("sphinx", "myst_parser", "numpydoc", "pydata_sphinx_theme"):
        pytest.importorskip(library, reason="the extra docs is not installed")
    from sphinx.cmd.build import build_main

    # Generated pages go beside their sources; a copy keeps the repository as it is.
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("api"))
    (tmp_path / "src").symlink_to(ROOT / "src")
    out = tmp_path / "site"
    assert build_main(["-W", "--keep-going", "-q", "-b", "html", str(tmp_path / "docs"), str(out)]) == 0
    pages = [page for page in out.rglob("*.html") if "_static" not in page.parts]
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)=\"([^\"]+)\"", text)
        assert not [target for target in loaded if re.match(r"(https?:)?//", target)], page.name
    mathematics = (out / "how-it-works.html").read_text(encoding="utf-8")
    assert mathematics.count("<math ") > 20
    assert "\\lambda" not in mathematics
