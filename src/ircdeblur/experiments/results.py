"""The page of results, from the files that `ircdeblur.experiments.run` and the benchmarks have written.

``python -m ircdeblur.experiments.results docs/results -o docs/results.md`` makes it. Only what stands in the folder
goes into the page, so whoever has the folder has the page: no photographs, no measuring.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ircdeblur.experiments import CONFIGURED, EXPERIMENTS
from ircdeblur.experiments.report import table

EXTRAS = ("motion-representations.md", "benchmarks.md")
"""What else goes into the page: the comparison of `motion_representations`, and what ``make bench`` wrote."""

PAGES = ("motion-errors.md", "motion-errors.png")
"""What has a page of its own, and is collected with the rest: see `motion_errors`."""

_KEPT = ("{name}.md", "{name}-summary.csv", "{name}-curves-*.csv", "{name}-curves-*.png")


@dataclass(frozen=True)
class Claim:
    """What a table is to show.

    Attributes
    ----------
    text : str
        In words.
    name, block, row, column : str
        The figure's table and its place in the summary of it.
    bound : float
        What it must not fall below, or not exceed.
    most : bool
        The bound is an upper one.
    unit : str
        Of the figure.
    """

    text: str
    name: str
    block: str
    row: str
    column: str
    bound: float
    most: bool = False
    unit: str = "dB"


_PAPERS, _OWN = "the paper's prior", "the package's prior"
_REFINED = "Motion-Net small, refined on the picture"
CLAIMS = (
    Claim("uniform blur: irc beside cg (the paper: +0.06)", "table1", _PAPERS, "irc - cg", "PSNR (dB)", 0.0),
    Claim("uniform blur: irc above fft (the paper: +0.49)", "table1", _PAPERS, "irc - fft", "PSNR (dB)", 0.49),
    *(
        Claim(
            f"uniform blur: {row}'s seconds to within 0.05 dB of converged cg, as a share of cg's",
            "table1", f"time to quality, {_OWN}", row, "share of plain cg's seconds", 0.2, True, "",
        )
        for row in ("irc", "irc-mm")
    ),
    Claim("motion field: irc-mm above NU-FFT", "table3", _OWN, "irc-mm - NU-FFT (fft)", "PSNR (dB)", 3.0),
    Claim(
        "motion field: irc-mm beside NU-CG, converged",
        "table3", _OWN, "irc-mm - NU-CG, converged", "PSNR (dB)", -0.1,
    ),
    Claim("motion field: irc beside NU-CG, converged", "table3", _OWN, "irc - NU-CG, converged", "PSNR (dB)", -1.0),
    *(
        Claim(
            f"motion field: {row}'s interior above its outermost 20 px",
            "table3", _OWN, row, "interior - rim (dB)", 2.0, True,
        )
        for row in ("irc", "irc-mm")
    ),
    Claim(
        "motion field: irc-net-shrinkage above NU-CG (the paper: +0.14)",
        "table3", _OWN, "irc-net-shrinkage - NU-CG (cg)", "PSNR (dB)", 0.14,
    ),
    *(
        Claim(f"motion field: {row} above NU-CG", "table3", _OWN, f"{row} - NU-CG (cg)", "PSNR (dB)", 1.2)
        for row in ("irc-net", "irc-net-plus")
    ),
    Claim("motion, to 21 px (the paper: 5.91)", "table2", "", _REFINED, "MSE moderate", 1.5, True, "px²"),
    Claim("motion, to 35 px (the paper: 8.36)", "table2", "", _REFINED, "MSE severe", 4.0, True, "px²"),
    *(
        Claim(f"blind, {kind}: gain", "table4", f"{kind} camera shake", "ours", "gain (dB)", least)
        for kind, least in (("moderate", 2.0), ("severe", 1.5))
    ),
    *(
        Claim(
            f"blind, {kind}: trained end to end above the separate networks (the paper: {papers})",
            "table4", f"{kind} camera shake",
            "the paper's networks, end to end - the paper's networks, separate", "PSNR (dB)", 0.0,
        )
        for kind, papers in (("moderate", "+0.09"), ("severe", "+0.04"))
    ),
    Claim(
        "blind, all pictures: share that loses more than 0.3 dB",
        "table4", "never worse", "ours", "share that loses more than 0.3 dB", 0.02, True, "",
    ),
    Claim("motion, angles within 10 degrees where confident", "table2", "", _REFINED, "aligned", 0.9, unit=""),
)  # fmt: skip
"""What was asked; the page says which of it holds, whichever way it came out."""


def read_summary(path: Path) -> dict[tuple[str, str, str], tuple[float, str, str]]:
    """Return mean, standard error and number by block, row and column; nothing if there is no such file."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {
            (r["block"], r["row"], r["column"]): (float(r["mean"]), r["standard error"], r["n"])
            for r in csv.DictReader(file)
        }


def page(folder: Path, place: str) -> str:
    """Return the page.

    Parameters
    ----------
    folder : path
        With the Markdown and CSV files.
    place : str
        The folder as seen from the page, for its links.
    """
    names = [name for name in EXPERIMENTS if (folder / f"{name}.md").is_file()]
    lines = [
        "# Results",
        "",
        f"This page is made from the files in `{place}/` by "
        "`python -m ircdeblur.experiments.results FOLDER -o PAGE`; it is not edited by hand. The files are written by "
        "`ircdeblur reproduce TABLE --data DIR -o OUT`, from the configurations in `configs/`, and by `make bench`. "
        "Each figure is a mean ± its standard error. The paper's own figures stand beside ours in italics; they were "
        "measured on other photographs and machines.",
        "",
    ]
    claims = _claims(folder)
    if claims:
        lines += [
            "## What was asked, and what came out",
            "",
            *table(("asked", "bound", "measured", "n", "holds"), claims),
        ]
        lines.append("")
    for name in names:
        lines += [_moved((folder / f"{name}.md").read_text(encoding="utf-8"), place).rstrip(), ""]
        if name in CONFIGURED:
            lines += [
                f"Made by `ircdeblur reproduce {name}`; summary: [{name}-summary.csv]({place}/{name}-summary.csv).",
                "",
            ]
    for extra in EXTRAS:
        if (folder / extra).is_file():
            lines += [_moved((folder / extra).read_text(encoding="utf-8"), place).rstrip(), ""]
    return "\n".join(lines)


def _claims(folder: Path) -> list[list[str]]:
    """Return the rows of the first table: those claims whose figure has been measured."""
    summaries = {name: read_summary(folder / f"{name}-summary.csv") for name in EXPERIMENTS}
    rows = []
    for claim in CLAIMS:
        found = summaries[claim.name].get((claim.block, claim.row, claim.column))
        if found is None:
            continue
        mean, error, count = found
        holds = mean <= claim.bound if claim.most else mean >= claim.bound
        figure = f"{mean:.2f}" + (f" ± {float(error):.2f}" if error else "") + f" {claim.unit}"
        bound = f"{'at most' if claim.most else 'at least'} {claim.bound:g} {claim.unit}"
        shown = "not reached" if mean == float("inf") else figure.strip()
        rows.append([claim.text, bound.strip(), shown, count, "yes" if holds else "**no**"])
    return rows


def _moved(text: str, place: str) -> str:
    """Return Markdown whose links to files beside it lead to the folder."""
    return re.sub(r"\]\((?![a-z]+:|#|/)", f"]({place}/", text)


def collect(source: Path, folder: Path) -> None:
    """Copy what the page is made from, and nothing that shows a photograph, from where tables were made."""
    folder.mkdir(parents=True, exist_ok=True)
    patterns = [kept.format(name=name) for name in EXPERIMENTS for kept in _KEPT] + [*EXTRAS, *PAGES]
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, folder / path.name)


def main(arguments: list[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="with the tables' files")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PAGE", help="Markdown file to write")
    parser.add_argument(
        "--collect", type=Path, metavar="OUT", help="first copy the small files from OUT, where `reproduce` wrote"
    )
    options = parser.parse_args(arguments)
    if options.collect is not None:
        collect(options.collect, options.folder)
    if not options.folder.is_dir():
        parser.error(f"no such folder: {options.folder}")
    place = Path(os.path.relpath(options.folder, options.output.parent)).as_posix()
    options.output.write_text(page(options.folder, place), encoding="utf-8")


if __name__ == "__main__":
    main()
