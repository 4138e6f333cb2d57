"""Motion deblurring: how each pixel of a photograph moved, and the photograph without that motion.

The functions take and give numpy arrays or torch tensors; `ircdeblur.restore` documents them. They
are loaded when first used, so that ``import ircdeblur`` (and ``ircdeblur --help``) never waits for PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ircdeblur.restore import blur, deblur, deconvolve, estimate_motion, estimate_psf

    __version__: str

__all__ = ["__version__", "blur", "deblur", "deconvolve", "estimate_motion", "estimate_psf"]


def __getattr__(name: str) -> object:
    """Load a public name on its first use (PEP 562) and keep it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = _version() if name == "__version__" else _restore_function(name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Names of the module, those not loaded yet included."""
    return sorted({*globals(), *__all__})


def _restore_function(name: str) -> object:
    from ircdeblur import restore

    return getattr(restore, name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ircdeblur")
    except PackageNotFoundError:
        return "0+unknown"  # run from a source folder that was not installed
