"""Tables of figures: every single measurement as CSV, means with standard errors as Markdown."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import ircdeblur


def machine(threads: bool = True) -> str:
    """Return the machine and the versions that figures depend on, in one line; with its number of threads if asked."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    count = f", {counted(torch.get_num_threads(), 'thread')}" if threads else ""
    return (
        f"{model}, {os.cpu_count()} cores{count}{device}; ircdeblur {ircdeblur.__version__}, torch {torch.__version__}"
    )


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name : str
        Heading.
    of : str
        The measurement that is averaged.
    where : dict
        Only over the measurements that match.
    take : {"mean", "smallest", "first"}
        What stands in the table: their mean, the smallest of them, or, where all are the same, the first.
    """

    name: str
    of: str
    where: dict[str, Any] = field(default_factory=dict)
    take: Literal["mean", "smallest", "first"] = "mean"

    def chosen(self, values: np.ndarray) -> np.ndarray:
        """Return the measurements that the mean is taken of."""
        if self.take == "mean" or len(values) == 0:
            return values
        return values.min(keepdims=True) if self.take == "smallest" else values[:1]


@dataclass
class Report:
    """One table, or several of the same form.

    Attributes
    ----------
    title : str
        Heading.
    text : str
        What was measured, on which data.
    group : str
        Column of the measurements whose values become the rows of the table.
    columns : tuple of str or Column
        What is averaged; a name alone is both heading and measurement.
    rows : list of dict
        The measurements.
    notes : list of str
        Sentences below the table.
    block : str, optional
        Column of the measurements whose values become tables of their own.
    picture : tuple of str
        Columns of the measurements that say which picture it was, for differences picture by picture.
    differences : dict
        By block, the pairs of rows whose difference is stated.
    compared : str
        The measurement whose difference that is.
    quoted : dict
        By block, figures of others: text by column by row.
    parts : list of str
        Markdown that follows the tables.
    extra : list of dict
        Figures that join the summary though no table has them.
    pictures : dict of str to (h, w, 3) uint8 array
        To be written beside the table, by name. They show photographs and are not for the repository.
    """

    title: str
    text: str
    group: str
    columns: tuple[str | Column, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    block: str | None = None
    picture: tuple[str, ...] = ()
    differences: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    compared: str = "PSNR (dB)"
    quoted: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    extra: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def heads(self) -> tuple[Column, ...]:
        """The columns, each with what it averages."""
        return tuple(c if isinstance(c, Column) else Column(c, c) for c in self.columns)

    def blocks(self) -> list[str]:
        """Return the names of the tables, in the order of the measurements."""
        return list(dict.fromkeys(row[self.block] for row in self.rows)) if self.block else [""]

    def _within(self, block: str) -> dict[str, str]:
        return {self.block: block} if self.block else {}

    def values(self, column: str, **where: Any) -> np.ndarray:
        """Return the measurements of a column, those that match only."""
        return np.array([r[column] for r in self.rows if column in r and all(r.get(k) == v for k, v in where.items())])

    def mean(self, column: str, **where: Any) -> float:
        """Return the mean of `values`."""
        return float(self.values(column, **where).mean())

    def paired(self, column: str, a: str, b: str, block: str = "") -> np.ndarray:
        """Return a - b for every picture that both rows have measured."""

        def of(name: str) -> dict[tuple[Any, ...], float]:
            match = {self.group: name, **self._within(block)}
            return {
                tuple(r.get(k) for k in self.picture): r[column]
                for r in self.rows
                if column in r and all(r.get(k) == v for k, v in match.items())
            }

        first, second = of(a), of(b)
        return np.array([first[key] - second[key] for key in first if key in second])

    def write_csv(self, path: Path) -> None:
        """Write all measurements."""
        write_rows(path, self.rows)

    def write_summary(self, path: Path) -> None:
        """Write `summary`."""
        write_rows(path, self.summary())

    def summary(self) -> list[dict[str, Any]]:
        """Return mean, standard error and number of every cell, and of every difference."""
        cells = []
        for block in self.blocks():
            for name in self._names(block):
                for head in self.heads:
                    values = self._cell(block, name, head)
                    if len(values):
                        cell = _aggregate(head.chosen(values), block=block, row=name, column=head.name)
                        cells.append({**cell, "n": len(values)})
            for a, b in self.differences.get(block, []):
                values = self.paired(self.compared, a, b, block)
                if len(values):
                    cells.append(_aggregate(values, block=block, row=f"{a} - {b}", column=self.compared))
        return cells + self.extra

    def _names(self, block: str) -> list[str]:
        match = self._within(block)
        return list(
            dict.fromkeys(row[self.group] for row in self.rows if all(row.get(k) == v for k, v in match.items()))
        )

    def _cell(self, block: str, name: str, head: Column) -> np.ndarray:
        return self.values(head.of, **{self.group: name, **self._within(block), **head.where})

    def markdown(self) -> str:
        """Return the tables: mean, standard error and number of measurements."""
        lines = [f"## {self.title}", "", self.text, ""]
        for block in self.blocks():
            lines += [f"### With {block}", ""] if self.block else []
            lines += table((self.group, *(h.name for h in self.heads), "n"), self._body(block))
            lines.append("")
            if self.quoted.get(block):
                lines += ["In italics: the paper's own figures, measured **on other data** and another machine.", ""]
            pairs = [
                (f"{a} − {b}", self.paired(self.compared, a, b, block)) for a, b in self.differences.get(block, [])
            ]
            body = [[name, cell(values, sign=True), str(len(values))] for name, values in pairs if len(values)]
            if body:
                lines += [*table(("picture by picture", self.compared, "n"), body), ""]
        lines += [*(f"{part}\n" for part in self.parts)]
        lines += [*(f"- {note}" for note in self.notes), f"- Machine: {machine()}", ""]
        return "\n".join(lines)

    def _body(self, block: str) -> list[list[str]]:
        body = []
        for name in self._names(block):
            cells = [cell(head.chosen(self._cell(block, name, head))) for head in self.heads]
            count = sum(r[self.group] == name and self._in(r, block) for r in self.rows)
            body.append([name, *cells, str(count)])
        for name, figures in self.quoted.get(block, {}).items():
            cells = [f"*{figures[h.name]}*" if h.name in figures else "" for h in self.heads]
            body.append([f"*{name}*", *cells, ""])
        return body

    def _in(self, row: dict[str, Any], block: str) -> bool:
        return self.block is None or row[self.block] == block


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV; the columns are all keys that occur, in their order."""
    names = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        # The line ending that version control keeps.
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *body)]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, "1 photograph" or "20 photographs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def cell(values: Sequence[float] | np.ndarray, sign: bool = False) -> str:
    """Return mean and standard error as text; nothing for no values."""
    if len(values) == 0:
        return ""
    mean, error = float(np.mean(values)), standard_error(values)
    digits = 3 if abs(mean) < 1 else 2
    return f"{mean:{'+' if sign else ''}.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def standard_error(values: Sequence[float] | np.ndarray) -> float | None:
    """Return the standard error of the mean; None for a single value."""
    return float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None


def _aggregate(values: np.ndarray, **names: str) -> dict[str, Any]:
    error = standard_error(values)
    return {
        **names,
        "mean": f"{np.mean(values):.5g}",
        "standard error": "" if error is None else f"{error:.3g}",
        "n": len(values),
    }
