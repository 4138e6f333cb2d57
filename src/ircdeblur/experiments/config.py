"""What a table's run depends on, read from YAML and checked against the types of these classes."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from ircdeblur.nets.methods import METHODS
from ircdeblur.solvers.settings import DEFAULTS, Settings

Config = TypeVar("Config")


class ConfigError(ValueError):
    """A configuration holds something that it should not; the message says where."""


@dataclass(frozen=True)
class Row:
    """One row of a table, or one curve.

    Attributes
    ----------
    method : str
        One of `ircdeblur.nets.methods.METHODS`; networks have no settings.
    settings : dict
        What differs from the method's own settings.
    photos : int, optional
        Take the first so many photographs only, for a method that is too slow for all.
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    photos: int | None = None


@dataclass(frozen=True)
class Block:
    """Rows that share a model.

    Attributes
    ----------
    rows : dict
        `Row` by the name that the table gives it.
    settings : dict
        Settings of all rows; a row's own come after them.
    differences : tuple
        Pairs (a, b) of row names: the table states a - b, picture by picture.
    """

    rows: dict[str, Row]
    settings: dict[str, Any] = field(default_factory=dict)
    differences: tuple[tuple[str, ...], ...] = ()

    def resolved(self, name: str) -> Settings:
        """Return the settings of a row in full; a network takes no notice of them."""
        row = self.rows[name]
        return replace(DEFAULTS.get(row.method, Settings()), **{**self.settings, **row.settings})


@dataclass(frozen=True)
class Curves(Block):
    """PSNR against seconds.

    Attributes
    ----------
    title : str
        Which curves they are, in headings.
    reference : str
        The row whose last PSNR is the goal.
    plain : str
        The row whose time to the goal the others are compared with.
    gap : float
        Decibels below the reference that count as the goal.
    photos : int
        Number of photographs.
    kernels : tuple of str
        Names of the kernels, for a uniform blur.
    """

    title: str = ""
    reference: str = ""
    plain: str = ""
    gap: float = 0.05
    photos: int = 2
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Strip:
    """Pictures side by side.

    Attributes
    ----------
    photo : str
        Name of the photograph's file without its ending.
    crop : tuple of int
        Top, left, height, width of what is shown of the frame.
    block : str
        Where the rows stand.
    rows : tuple of str
        Their names; the blurred picture comes before them and the truth after.
    kernel : str
        Name of the kernel, for a uniform blur.
    """

    photo: str
    crop: tuple[int, ...]
    block: str
    rows: tuple[str, ...]
    kernel: str = ""


@dataclass(frozen=True)
class Quick:
    """A version of about a minute: what is smaller in it.

    Attributes
    ----------
    photos : int
        Photographs of the table; its curves are on one.
    kernels : tuple of str
        Kernels of the table, for a uniform blur; its curves are on the first.
    curves : tuple of str
        Which of the curves are drawn.
    """

    photos: int
    kernels: tuple[str, ...] = ()
    curves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """What the tables of known blur share.

    Attributes
    ----------
    folder : str
        The photographs, in the folder of the data.
    photos : int
        Number of them, from the first on.
    noise : float
        Standard deviation.
    blocks : dict
        `Block` by its heading.
    quick : Quick
        The short version.
    curves : dict
        `Curves` by name, which is part of a file's name.
    strips : dict
        `Strip` by name.
    """

    folder: str
    photos: int
    noise: float
    blocks: dict[str, Block]
    quick: Quick
    curves: dict[str, Curves] = field(default_factory=dict)
    strips: dict[str, Strip] = field(default_factory=dict)


@dataclass(frozen=True)
class UniformTable(Table):
    """Table 1.

    Attributes
    ----------
    kernel_file : str
        Archive of the kernels, in the folder of the data.
    kernels : tuple of str
        Their names in it. The noise of a picture is drawn from the kernel's place here and the photograph's name.
    """

    kernel_file: str = "levin/kernels.npz"
    kernels: tuple[str, ...] = ()


@dataclass(frozen=True)
class MotionTable(Table):
    """Table 3.

    Attributes
    ----------
    severity : str
        "moderate" or "severe".
    seed : int
        Number of the motion.
    rim : int
        Width in pixels of the outermost part of the frame, whose PSNR is stated beside the interior's.
    """

    severity: str = "moderate"
    seed: int = 0
    rim: int = 20


@dataclass(frozen=True)
class BlindRow:
    """One row of a table of blind deblurring: where the motion comes from, and how it is undone.

    Attributes
    ----------
    method : str
        One of `ircdeblur.nets.methods.METHODS`, or
        "direct", the network of `ircdeblur.experiments.direct_cnn`, which asks for no motion.
    motion : str
        "refined", as `ircdeblur.estimate_motion` finds it; "raw", the answers of Motion-Net as they are; "patch" or
        "fcn", one of `ircdeblur.experiments.motion_baselines`; "true", where it is known.
    motion_net : str
        Motion-Net: a size that comes with the package, or a file below the folder of the baselines.
    irc_net : str, optional
        File of an IRC-Net's weights below the folder of the baselines; by default the package's.
    photos : int, optional
        Take the first so many photographs of each kind only, for a row that is too slow for all.
    """

    method: str
    motion: str = "refined"
    motion_net: str = "small"
    irc_net: str | None = None
    photos: int | None = None


@dataclass(frozen=True)
class BlindTable:
    """Table 4, or Table 5's proxy.

    Attributes
    ----------
    folder : str
        The photographs, in the folder of the data.
    photos : int
        Number of them, from the first on.
    rows : dict
        `BlindRow` by the name that the table gives it.
    quick : Quick
        The short version.
    differences : tuple
        Pairs (a, b) of row names: the table states a - b, picture by picture.
    strips : tuple of str
        Rows whose results are drawn next to each other.
    pictured : int
        Photographs of each kind that are drawn, from the first on.
    """

    folder: str
    photos: int
    rows: dict[str, BlindRow]
    quick: Quick
    differences: tuple[tuple[str, ...], ...] = ()
    strips: tuple[str, ...] = ()
    pictured: int = 4


@dataclass(frozen=True)
class ShakenTable(BlindTable):
    """Table 4.

    Attributes
    ----------
    noise : float
        Standard deviation.
    pairs : str
        Pairs of pictures with real motion, in the folder of the data: ``blur/`` and ``sharp/`` with the same names.
    side : int, optional
        Longer side to which these are reduced, in pixels.
    """

    noise: float = 0.01
    pairs: str = "gopro-pairs"
    side: int | None = None


DIRECT = "direct"
"""The method that asks for no motion."""

MOTIONS = ("refined", "raw", "patch", "fcn", "true")
"""Where the motion of a `BlindRow` can come from."""


def default_path(name: str) -> Path:
    """Return the configuration of a table that is run when none is named.

    A checkout has it in ``configs/`` beside ``src/``; the wheel carries that folder inside the package.
    """
    package = Path(__file__).parents[1]
    places = [folder / "configs" / f"{name}.yaml" for folder in (package, package.parent.parent)]
    for path in places:
        if path.is_file():
            return path
    raise FileNotFoundError(f"no configuration of {name}: neither {places[0]} nor {places[1]}")


def load(cls: type[Config], path: Path) -> Config:
    """Read a configuration.

    Parameters
    ----------
    cls : type
        `UniformTable`, `MotionTable`, `BlindTable` or `ShakenTable`.
    path : path
        YAML file.

    Raises
    ------
    ConfigError
        For unknown or missing keys, values of the wrong type, unknown methods, and names that nothing has.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    try:
        config = _build(cls, values, "")
        if isinstance(config, Table):
            _check(config)
        if isinstance(config, BlindTable):
            _check_blind(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def _build(cls: type[Config], values: Any, where: str) -> Config:
    """Make a dataclass of a mapping."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the file'} must hold settings by name, got {values!r}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key {_join(where, key)}; known are {', '.join(known)}")
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise ConfigError(f"{_join(where, name)} is missing")
    hints = get_type_hints(cls)
    return cls(**{key: _convert(value, hints[key], _join(where, key)) for key, value in values.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Return a value as the type that is asked for, or say that it is none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        _known(value, arguments, where)
        return value
    if origin is dict and isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(f"{where}: {bad[0]!r} must be a name; put it in quotes")
        return {key: _convert(item, arguments[1], _join(where, key)) for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(item, arguments[0], f"{where}[{i}]") for i, item in enumerate(value))
    # In Python True is an integer; in a configuration it is a slip.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = {dict: "settings by name", tuple: "a list"}.get(origin) or getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where} must be {wanted}, got {value!r}")


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)


def _check(table: Table) -> None:
    """Refuse names that nothing has and numbers that make no sense."""
    if table.photos < 1 or table.quick.photos < 1:
        raise ConfigError("photos must be at least 1")
    if table.noise < 0:
        raise ConfigError(f"noise must not be negative, got {table.noise}")
    for kind in ("blocks", "curves"):
        for name, block in getattr(table, kind).items():
            _check_block(block, f"{kind}.{name}")
    for name, strip in table.strips.items():
        where = f"strips.{name}"
        _known(strip.block, table.blocks, f"{where}.block")
        for row in strip.rows:
            _known(row, table.blocks[strip.block].rows, f"{where}.rows")
        if len(strip.crop) != 4 or min(strip.crop) < 0 or min(strip.crop[2:]) < 1:
            raise ConfigError(f"{where}.crop must be top, left, height and width, got {list(strip.crop)}")
    for name in table.quick.curves:
        _known(name, table.curves, "quick.curves")
    if isinstance(table, UniformTable):
        used = [("quick.kernels", k) for k in table.quick.kernels]
        used += [(f"curves.{n}.kernels", k) for n, c in table.curves.items() for k in c.kernels]
        used += [(f"strips.{n}.kernel", s.kernel) for n, s in table.strips.items()]
        for where, kernel in used:
            _known(kernel, table.kernels, where)


def _check_blind(table: BlindTable) -> None:
    if min(table.photos, table.quick.photos) < 1 or table.pictured < 0:
        raise ConfigError("photos must be at least 1 and pictured at least 0")
    for name, row in table.rows.items():
        _known(row.method, (*METHODS, DIRECT), f"rows.{name}.method")
        _known(row.motion, MOTIONS, f"rows.{name}.motion")
    _check_differences(table.differences, table.rows, "differences")
    for name in table.strips:
        _known(name, table.rows, "strips")
    if isinstance(table, ShakenTable):
        if table.noise < 0:
            raise ConfigError(f"noise must not be negative, got {table.noise}")
        if table.side is not None and table.side < 64:
            raise ConfigError(f"side must be at least 64, got {table.side}")


def _check_differences(differences: tuple[tuple[str, ...], ...], rows: Mapping[str, Any], where: str) -> None:
    for pair in differences:
        if len(pair) != 2:
            raise ConfigError(f"{where} must be pairs of rows, got {list(pair)}")
        for name in pair:
            _known(name, rows, where)


def _check_block(block: Block, where: str) -> None:
    hints = get_type_hints(Settings)
    for name, row in block.rows.items():
        _known(row.method, METHODS, f"{where}.rows.{name}.method")
    for settings, place in [(block.settings, where)] + [
        (r.settings, f"{where}.rows.{n}") for n, r in block.rows.items()
    ]:
        for key, value in settings.items():
            _known(key, hints, f"{place}.settings")
            # An integer stands for a float here too, where a setting wants one.
            settings[key] = _convert(value, hints[key], f"{place}.settings.{key}")
    _check_differences(block.differences, block.rows, f"{where}.differences")
    if isinstance(block, Curves):
        _known(block.reference, block.rows, f"{where}.reference")
        _known(block.plain, block.rows, f"{where}.plain")


def _known(name: Any, names: Any, where: str) -> None:
    if name not in tuple(names):
        raise ConfigError(f"{where}: there is no {name!r}; known are {', '.join(map(str, names))}")
