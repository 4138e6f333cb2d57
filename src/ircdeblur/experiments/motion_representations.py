"""What a network is best asked for when it is asked for a motion: five answers, trained alike and compared.

Length and angle, the vector in the half plane, and the double-angle vector are regressed by the same network; the
classifications are those of `ircdeblur.experiments.motion_baselines`. All are trained on the pairs of one seed for the
same short time::

    python -m ircdeblur.experiments.motion_representations --config YAML --data DIR --out DIR --minutes 10

runs them one after the other, goes on with what was stopped, leaves alone what is done, and prints the table; without
``--minutes`` it prints the table of what is there.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from ircdeblur.experiments.report import table, write_rows
from ircdeblur.nets.checkpoints import MOTION_NET
from ircdeblur.nets.weights_file import training_summary

REGRESSED = {
    "polar": "regression of length and angle (the paper)",
    "vector": "regression of (u, v) in the half plane",
    "double": "regression of the double-angle vector",
}
CLASSIFIED = {
    "patch": "classification of patches (CNN-Patch-like), no smoothing",
    "fcn": "classification of u and v (FCN-like)",
}
RUNS = {**REGRESSED, **CLASSIFIED}
"""What tables call the runs."""

COLUMNS = {
    "MSE moderate": "val_moderate",
    "MSE severe": "val_severe",
    "median MSE": "val_median",
    "end-point error (px)": "val_epe",
    "angle, 10 to 20 px (°)": "val_angle_medium",
    "angle, longer (°)": "val_angle_long",
    "length if sharp (px)": "val_sharp",
}
"""Headings, and what the summary of the weights calls the figure."""

NAME = "motion-representations"


def weights(out: Path, name: str) -> Path:
    """Return where a run writes its weights."""
    return out / name / (MOTION_NET if name in REGRESSED else f"{name}.safetensors")


def run(name: str, config_path: Path, data: Path, out: Path, minutes: float, progress: bool = False) -> None:
    """Train one, unless it is done; go on where it was stopped.

    Parameters
    ----------
    name : str
        Of `RUNS`.
    config_path : path
        YAML of a Motion-Net's training; its time is replaced.
    data, out : path
        Folder of the data sets; folder of all runs.
    minutes : float
        Of training.
    progress : bool
        Show a progress bar.
    """
    # Heavy, and not needed for the table.
    from ircdeblur.experiments.motion_baselines.__main__ import train
    from ircdeblur.training.motion_net import load_config, train_motion_net

    seconds = round(60 * minutes)
    checkpoint = out / name / "last.ckpt"
    if weights(out, name).is_file():
        before = training_summary(weights(out, name))
        if before["seconds"] >= seconds - 1:
            return
    config = replace(
        load_config(config_path), train_time=f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    )
    resume = checkpoint if checkpoint.is_file() else None
    command = (
        f"python -m ircdeblur.experiments.motion_representations --config {config_path.name} --minutes {minutes:g}"
    )
    if name in REGRESSED:
        config = replace(config, network=replace(config.network, output=name))  # type: ignore[arg-type]
        train_motion_net(config, data, out / name, None, resume, command, progress)
    else:
        train(name, config, data, out, None, resume, command, progress)


def collect(out: Path) -> list[dict[str, Any]]:
    """Return the figures of the runs that are there, in the order of `RUNS`.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    found = []
    for name, title in RUNS.items():
        if weights(out, name).is_file():
            summary = training_summary(weights(out, name))
            figures = {head: summary.get(key) for head, key in COLUMNS.items()}
            kept = {key: summary[key] for key in ("parameters", "crops", "seconds", "machine", "data")}
            found.append({"answer": title, **figures, **kept, "config": summary["config"]})
    if not found:
        raise FileNotFoundError(f"no weights below {out}: {', '.join(RUNS)} are looked for")
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table of `collect`'s rows."""
    heads = ["answer", *COLUMNS, "parameters", "crops", "minutes"]
    body = []
    for row in rows:
        figures = ["" if row[head] is None else f"{row[head]:.2f}" for head in COLUMNS]
        body.append([row["answer"], *figures, str(row["parameters"]), str(row["crops"]), f"{row['seconds'] / 60:.1f}"])
    config = rows[0]["config"]
    lines = [
        "## What a network is asked for",
        "",
        "The same network, asked for its motion in different forms, trained on the pairs of one seed for the same "
        f"time; raw answers on {config['validation_pictures']} whole validation pictures with camera shake, noise 1 %. "
        "Motion MSE as in Table 2; the angle's error is the median over the pixels of these lengths.",
        "",
        *table(heads, body),
        "",
        f"- Data: {rows[0]['data']}; seed {config['seed']}, crops of {config['pairs']['crop']} px, "
        f"{config['pairs']['batch']} a step.",
        f"- Machine: {'; '.join(dict.fromkeys(row['machine'] for row in rows))}.",
    ]
    if any(row["config"] != config for row in rows):
        lines.append("- **Not comparable**: the runs' settings differ.")
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for and print the table of what is there."""
    parser = argparse.ArgumentParser(prog="python -m ircdeblur.experiments.motion_representations", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML of a Motion-Net's training")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and the table")
    parser.add_argument("--minutes", type=float, help="time of training of each; without it nothing is trained")
    parser.add_argument("--only", nargs="+", choices=tuple(RUNS), default=tuple(RUNS), help="train these only")
    given = parser.parse_args(arguments)
    if given.minutes is not None and (given.config is None or given.data is None):
        parser.error("--minutes needs --config and --data")
    try:
        if given.minutes is not None and not 0 < given.minutes <= timedelta(days=4).total_seconds() / 60:
            raise ValueError(f"minutes must be more than 0 and at most four days, got {given.minutes:g}")
        for name in given.only if given.minutes is not None else ():
            print(f"{name}: {RUNS[name]}", flush=True)
            run(name, given.config, given.data, given.out, given.minutes, progress=sys.stderr.isatty())
        rows = collect(given.out)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = markdown(rows)
    write_rows(given.out / f"{NAME}.csv", [{k: v for k, v in row.items() if k != "config"} for row in rows])
    (given.out / f"{NAME}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
