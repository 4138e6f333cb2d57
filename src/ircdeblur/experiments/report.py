"""Tables of figures: every single measurement as CSV, means with standard errors as Markdown."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ircdeblur


def machine() -> str:
    """Return the machine and the versions that figures depend on, in one line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{device}; "
        f"ircdeblur {ircdeblur.__version__}, torch {torch.__version__}"
    )


@dataclass
class Report:
    """One table.

    Attributes
    ----------
    title : str
        Heading.
    text : str
        What was measured, on which data.
    group : str
        Column of the measurements whose values become the rows of the table.
    columns : tuple of str
        Columns of the measurements that are averaged.
    rows : list of dict
        The measurements.
    notes : list of str
        Sentences below the table.
    """

    title: str
    text: str
    group: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def values(self, column: str, **where: Any) -> np.ndarray:
        """Return the measurements of a column, those that match only."""
        return np.array([r[column] for r in self.rows if column in r and all(r.get(k) == v for k, v in where.items())])

    def mean(self, column: str, **where: Any) -> float:
        """Return the mean of `values`."""
        return float(self.values(column, **where).mean())

    def write_csv(self, path: Path) -> None:
        """Write all measurements."""
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def markdown(self) -> str:
        """Return the table: mean, standard error and number of measurements."""
        lines = [f"## {self.title}", "", self.text, "", f"| {self.group} | {' | '.join(self.columns)} | n |"]
        lines.append("|---" * (len(self.columns) + 2) + "|")
        for name in dict.fromkeys(row[self.group] for row in self.rows):
            cells = [_cell(self.values(column, **{self.group: name})) for column in self.columns]
            count = sum(row[self.group] == name for row in self.rows)
            lines.append(f"| {name} | {' | '.join(cells)} | {count} |")
        lines += ["", *(f"- {note}" for note in self.notes), f"- Machine: {machine()}", ""]
        return "\n".join(lines)


def _cell(values: Sequence[float] | np.ndarray) -> str:
    if len(values) == 0:
        return ""
    mean = float(np.mean(values))
    digits = 3 if abs(mean) < 1 else 2
    if len(values) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {float(np.std(values, ddof=1)) / len(values) ** 0.5:.{digits}f}"
