"""Put the figures of docs/results into the tables of the README, so that none of them is copied by hand.

python benchmarks/readme_tables.py docs/results README.md
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

BEGIN, END = "<!-- begin of the figures -->", "<!-- end of the figures -->"
PRIOR = "the package's prior"

Summary = dict[tuple[str, str, str], tuple[float, int]]
"""Mean and number of measurements by block, row and column."""


def main() -> None:
    """Rewrite the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the summaries")
    parser.add_argument("readme", type=Path)
    arguments = parser.parse_args()
    text = arguments.readme.read_text(encoding="utf-8")
    arguments.readme.write_text(replaced(text, tables(arguments.results)), encoding="utf-8")


def replaced(text: str, figures: str) -> str:
    """Return the README with other figures between its marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"error: the README has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def tables(folder: Path) -> str:
    """Return the tables in Markdown."""
    return "\n\n".join((blind(read(folder, 4)), known(read(folder, 3)), motion(read(folder, 2))))


def read(folder: Path, table: int) -> Summary:
    """Return the summary of a table."""
    with (folder / f"table{table}-summary.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["block"], row["row"], row["column"]): (float(row["mean"]), int(row["n"] or 0))
            for row in csv.DictReader(file)
        }


def blind(summary: Summary) -> str:
    """Return what `deblur` reaches: Table 4."""
    lines = [
        "| `deblur`, nothing known | before | after | mean gain | smallest gain | photographs |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "moderate camera shake": "camera shake to 21 px",
        "severe camera shake": "camera shake to 35 px",
        "real motion": "real motion, high-speed camera, 640 px",
    }
    for block, name in names.items():
        before, (after, count) = summary[block, "blurred", "PSNR (dB)"][0], summary[block, "ours", "PSNR (dB)"]
        gain, least = (summary[block, "ours", column][0] for column in ("gain (dB)", "smallest gain (dB)"))
        lines.append(f"| {name} | {before:.2f} dB | {after:.2f} dB | {gain:+.2f} dB | {least:+.2f} dB | {count} |")
    sharp, count = summary["no blur, against themselves", "ours", "PSNR (dB)"]
    least = 60 + summary["no blur, against themselves", "ours", "smallest gain (dB)"][0]
    sentence = (
        f"{count} sharp photographs come back at {sharp:.1f} dB of themselves on average, the worst one at "
        f"{least:.1f} dB (60 dB stands for unchanged)."
    )
    return "\n".join([*lines, "", sentence])


def known(summary: Summary) -> str:
    """Return what the methods reach where the motion is known: Table 3."""
    lines = ["| `deconvolve`, motion field known, to 21 px | PSNR | seconds |", "|---|---|---|"]
    names = {
        "blurred": "blurred",
        "richardson-lucy": "Richardson-Lucy",
        "wiener": "Wiener",
        "NU-FFT (fft)": "Fourier domain in tiles, `fft`",
        "NU-CG (cg)": "conjugate gradients, `cg`",
        "irc-mm": "`irc-mm`",
        "irc-net-shrinkage": "`irc-net-shrinkage`",
        "irc-net": "**`irc-net`**",
        "irc-net-plus": "`irc-net-plus`",
    }
    for row, name in names.items():
        psnr, count = summary[PRIOR, row, "PSNR (dB)"]
        seconds = summary.get((PRIOR, row, "seconds"))
        lines.append(f"| {name} | {psnr:.2f} dB | {f'{seconds[0]:.1f}' if seconds else ''} |")
    count = summary[PRIOR, "irc-net", "PSNR (dB)"][1]
    slow = []
    for row, name in (("GMM-Patch (epll)", "`epll`, a patch prior"), ("NU-CG, converged", "`cg` until it converges")):
        ahead, some = summary[PRIOR, f"irc-net - {row}", "PSNR (dB)"]
        seconds, _ = summary[PRIOR, row, "seconds"]
        slow.append(f"{name}: {abs(ahead):.2f} dB {'below' if ahead > 0 else 'above'} `irc-net` in {seconds:.1f} s")
    sentence = f"{count} photographs, one CPU thread. On the first {some} of them, " + "; ".join(slow) + "."
    return "\n".join([*lines, "", sentence])


def motion(summary: Summary) -> str:
    """Return how exact the motion is: Table 2."""
    lines = ["| `estimate_motion`, motion MSE | to 21 px | to 35 px | pictures of each |", "|---|---|---|---|"]
    names = {
        "no motion": "always none",
        "CNN-Patch-like": "patches classified, Markov random field",
        "FCN-like": "every pixel classified",
        "window spectra, not learned": "window spectra, not learned",
        "Motion-Net small, raw": "Motion-Net alone",
        "Motion-Net small, refined on the picture": "**Motion-Net, refined on the picture**",
    }
    for row, name in names.items():
        (moderate, count), (severe, _) = (summary["", row, f"MSE {column}"] for column in ("moderate", "severe"))
        lines.append(f"| {name} | {moderate:.2f} px² | {severe:.2f} px² | {count} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
