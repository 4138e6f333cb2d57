"""Mathematics as MathML, written when the site is built.

Browsers draw MathML themselves, so the pages need no script, no font and no internet; the converter is the one that
comes with docutils. A formula that it cannot convert is an error of the build.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


def convert(text: str, block: bool) -> str:
    """Return a LaTeX formula as a ``math`` element."""
    try:
        # One starred or aligned environment stands for itself; rows without one need one.
        rows = "\\\\" in text and "\\begin" not in text
        return tex2mathml(rf"\begin{{aligned}}{text}\end{{aligned}}" if rows else text, as_block=block)
    except MathError as error:
        raise ExtensionError(f"not a formula that docutils can write as MathML ({error}): {text}") from error


def visit_inline(self: Any, node: nodes.math) -> None:
    """Write a formula in a line."""
    self.body.append(convert(node.astext(), block=False))
    raise nodes.SkipNode


def visit_display(self: Any, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    self.body.append(f'<div class="formula">{convert(node.astext(), block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer, `html_math_renderer = "mathml"`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
