"""What the configurations of all trainings have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ircdeblur.training.optimizers import OPTIMIZERS

Config = TypeVar("Config")


@dataclass(frozen=True)
class RunConfig:
    """What every training run must know; see `ircdeblur.training.loop.Schedule`.

    Attributes
    ----------
    seed : int
        Seed of weights and pairs.
    train_time : str
        HH:MM:SS of training in all, over which the learning rate is scheduled.
    folders : tuple of str
        Folders of sharp photographs below the data folder.
    validation : str
        Folder of validation photographs below the data folder.
    optimizer : {"adamw", "muon"}
        See `ircdeblur.training.optimizers`.
    learning_rate, weight_decay : float
        Of it.
    average : float
        Decay per step of the running average of the weights that is validated and shipped.
    validate_every : int
        Steps between validations.
    validation_pictures : int
        Number of pictures that they look at.
    """

    seed: int = 0
    train_time: str = "01:00:00"
    folders: tuple[str, ...] = ("train", "train-more")
    validation: str = "val"
    optimizer: str = "adamw"
    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    average: float = 0.99
    validate_every: int = 250
    validation_pictures: int = 24

    @property
    def precision(self) -> str:
        """Lightning's. What solvers do is computed in float32; a network may decide otherwise for its convolutions."""
        return "32-true"


def read_config(path: str | Path, kind: type[Config], parts: dict[str, type]) -> Config:
    """Read a data class from YAML.

    Parameters
    ----------
    path : path
        The file.
    kind : type
        The data class.
    parts : dict
        Its fields that are data classes themselves, and their types.

    Raises
    ------
    ValueError
        If the file holds a setting that is not known.
    """
    data = yaml.safe_load(Path(path).read_text()) or {}

    def build(cls: Any, values: Any, where: str) -> Any:
        if not isinstance(values, dict):
            raise ValueError(f"{path}: {where or 'the file'} must hold settings, got {values!r}")
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"{path}: unknown setting {where}{unknown[0]}; known are {', '.join(known)}")
        return cls(
            **{
                key: build(parts[key], value, f"{key}.")
                if key in parts
                else tuple(value)
                if isinstance(value, list)
                else value
                for key, value in values.items()
            }
        )

    config: Config = build(kind, data, "")
    return config


def check_schedule(config: Any, path: str | Path) -> None:
    """Raise `ValueError` unless the training time and the optimizer of a run are usable.

    Parameters
    ----------
    config : data class
        With `train_time` and `optimizer`.
    path : path
        Of its file, for messages.
    """
    parse_time(config.train_time)
    if config.optimizer not in OPTIMIZERS:
        raise ValueError(f"{path}: optimizer must be one of {', '.join(OPTIMIZERS)}, got {config.optimizer!r}")


def parse_time(text: str) -> float:
    """Return the seconds of HH:MM:SS."""
    parts = text.split(":")
    if len(parts) != 3 or not all(p.isdigit() for p in parts):
        raise ValueError(f"a time must be HH:MM:SS, got {text!r}")
    hours, minutes, seconds = (int(p) for p in parts)
    return float(timedelta(hours=hours, minutes=minutes, seconds=seconds).total_seconds())
