"""The paper's experiments: one module per table, and their report.

Each module has a ``run`` that returns a `Report`; `run` here finds it by name and writes, into one folder,

- ``NAME.csv``: every measurement,
- ``NAME-summary.csv``: mean, standard error and number of each cell,
- ``NAME.md``: the table,

and, for the tables of known blur, curves of PSNR against seconds (CSV and PNG) and strips of pictures (PNG); for the
table of motions ``table2-motions-*.png``, true and estimated motions of the first photographs in colours; for those of
blind deblurring strips with the motion beside the results.
"""

from __future__ import annotations

import importlib
from pathlib import Path

EXPERIMENTS = ("table1", "table2", "table3", "table4", "table5")

CONFIGURED = ("table1", "table3", "table4", "table5")
"""Those that a YAML file in ``configs/`` describes."""

WITH_BASELINES = ("table2", "table4", "table5")
"""Those that have more rows when trained baselines are at hand."""


def run(
    name: str,
    data: Path,
    out: Path,
    quick: bool = False,
    photos: int | None = None,
    config: Path | None = None,
    baselines: Path | None = None,
) -> str:
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
    config : path, optional
        Configuration of one of `CONFIGURED`, in place of its own in ``configs/``.
    baselines : path, optional
        Folder in which `ircdeblur.experiments.motion_baselines` and `ircdeblur.experiments.direct_cnn` have trained,
        for more rows of `WITH_BASELINES`.

    Raises
    ------
    ValueError
        If there is no such experiment, or it takes no configuration, or the configuration is wrong.
    FileNotFoundError
        If the data are not there.
    """
    if name != "all" and name not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join((*EXPERIMENTS, 'all'))}, got {name!r}")
    if config is not None and name not in CONFIGURED:
        raise ValueError(f"a configuration is for one of {', '.join(CONFIGURED)}, got {name!r}")
    from ircdeblur.experiments.strips import write_png

    texts = []
    for one in EXPERIMENTS if name == "all" else (name,):
        module = importlib.import_module(f"ircdeblur.experiments.{one}")
        out.mkdir(parents=True, exist_ok=True)
        more = {"baselines": baselines} if one in WITH_BASELINES else {}
        if one in CONFIGURED:
            report = module.run(Path(data), out, quick, photos, config, **more)
        else:
            report = module.run(Path(data), quick, photos, **more)
        # What the heading says of the protocol is the full one; this run may have taken fewer.
        number = len({row["photo"] for row in report.rows})
        report.notes.insert(0, f"This run: {number} photograph{'' if number == 1 else 's'}.")
        written = [out / f"{one}-{picture}.png" for picture in report.pictures]
        for path, pixels in zip(written, report.pictures.values(), strict=True):
            write_png(path, pixels)
        if written:
            shown = ", ".join(f"`{path.name}`" for path in written)
            report.notes.append(f"Pictures lie beside this table where it was made: {shown}.")
        report.write_csv(out / f"{one}.csv")
        report.write_summary(out / f"{one}-summary.csv")
        text = report.markdown()
        (out / f"{one}.md").write_text(text, encoding="utf-8")
        texts.append(text)
    return "\n".join(texts)


def outputs(name: str, out: Path) -> list[Path]:
    """Return what a run of an experiment, or of all, would write and is there already."""
    names = EXPERIMENTS if name == "all" else (name,)
    return [path for one in names for path in sorted(out.glob(f"{one}[.-]*"))]
