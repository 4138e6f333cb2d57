"""The paper's experiments: one module per table, and their report.

Each module has ``run(data, quick, photos) -> Report``; `run` finds it by name, writes ``NAME.csv`` and ``NAME.md``
into a folder and returns the Markdown.
"""

from __future__ import annotations

import importlib
from pathlib import Path

EXPERIMENTS = ("table1", "table2", "table3", "table4")


def run(name: str, data: Path, out: Path, quick: bool = False, photos: int | None = None) -> str:
    """Run one experiment, or "all", and return its report as Markdown.

    Parameters
    ----------
    name : str
        One of `EXPERIMENTS`, or "all".
    data : path
        Folder of the data sets.
    out : path
        Folder for the tables; it is made if need be.
    quick : bool
        A version on a few pictures, of about a minute.
    photos : int, optional
        Take the first so many photographs only.

    Raises
    ------
    ValueError
        If there is no such experiment.
    FileNotFoundError
        If the data are not there.
    """
    if name != "all" and name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join((*EXPERIMENTS, 'all'))}, got {name!r}")
    texts = []
    for one in EXPERIMENTS if name == "all" else (name,):
        report = importlib.import_module(f"ircdeblur.experiments.{one}").run(Path(data), quick, photos)
        # What the heading says of the protocol is the full one; this run may have taken fewer.
        report.notes.insert(0, f"This run: {len({row['photo'] for row in report.rows})} photographs.")
        out.mkdir(parents=True, exist_ok=True)
        report.write_csv(out / f"{one}.csv")
        text = report.markdown()
        (out / f"{one}.md").write_text(text)
        texts.append(text)
    return "\n".join(texts)
