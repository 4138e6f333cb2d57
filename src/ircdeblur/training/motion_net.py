"""Training of Motion-Net on synthetic pairs.

The schedule is one of time, not of epochs: the learning rate warms up, stays, and falls to zero as the training time of
the configuration runs out, whatever the machine. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
import math
import os
import platform
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from torch.nn import functional as F
from torch.utils.data import DataLoader

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.photos import LUMA, LumaPhotos, list_photos, load_photo
from ircdeblur.data.synthesis import PairSettings, SyntheticPairs, line_blur
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import from_double_angle, to_double_angle
from ircdeblur.nets.checkpoints import parameter_count, save_motion_net
from ircdeblur.nets.motion_net import STRIDE, MotionNet, MotionNetConfig

SEVERITIES = {"moderate": 21.0, "severe": 35.0}
"""Longest motion in pixels of the two kinds of test pictures."""


@dataclass(frozen=True)
class TrainingConfig:
    """One training run; what a YAML file under ``configs/`` holds.

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
    learning_rate, weight_decay : float
        Of AdamW.
    average : float
        Decay per step of the running average of the weights that is validated and shipped.
    precision : str
        Lightning's: "bf16-mixed" or "32-true".
    validate_every : int
        Steps between validations.
    pairs : PairSettings
        The synthetic pairs.
    network : MotionNetConfig
        The network.
    """

    seed: int = 0
    train_time: str = "01:30:00"
    folders: tuple[str, ...] = ("train", "train-more")
    validation: str = "val"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.998
    precision: str = "bf16-mixed"
    validate_every: int = 500
    pairs: PairSettings = field(default_factory=PairSettings)
    network: MotionNetConfig = field(default_factory=MotionNetConfig)


def load_config(path: str | Path) -> TrainingConfig:
    """Read a `TrainingConfig` from YAML; a key that it does not know raises `ValueError`."""
    data = yaml.safe_load(Path(path).read_text()) or {}

    def build(cls: type, values: Any, where: str) -> Any:
        if not isinstance(values, dict):
            raise ValueError(f"{path}: {where or 'the file'} must hold settings, got {values!r}")
        known = {f.name: f for f in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"{path}: unknown setting {where}{unknown[0]}; known are {', '.join(known)}")
        nested = {"pairs": PairSettings, "network": MotionNetConfig}
        return cls(
            **{
                key: build(nested[key], value, f"{key}.")
                if key in nested
                else tuple(value)
                if isinstance(value, list)
                else value
                for key, value in values.items()
            }
        )

    config: TrainingConfig = build(TrainingConfig, data, "")
    parse_time(config.train_time)
    return config


def parse_time(text: str) -> float:
    """Return the seconds of HH:MM:SS."""
    parts = text.split(":")
    if len(parts) != 3 or not all(p.isdigit() for p in parts):
        raise ValueError(f"a time must be HH:MM:SS, got {text!r}")
    hours, minutes, seconds = (int(p) for p in parts)
    return float(timedelta(hours=hours, minutes=minutes, seconds=seconds).total_seconds())


def motion_loss(grid: torch.Tensor, motion: torch.Tensor) -> torch.Tensor:
    """Robust size of the double-angle error, plus the Laplace likelihood of its scale.

    The likelihood is not asked to move the vectors: it would weigh them by the inverse of their scale, and the first
    thing that a network learns, which pictures are still, would then hold all vectors at zero.

    Parameters
    ----------
    grid : (B, 3, h, w) tensor
        Raw output of `MotionNet.forward_grid`.
    motion : (B, 8 h, 8 w, 2) tensor
        True motion in pixels.
    """
    target = to_double_angle(motion).permute(0, 3, 1, 2) / MotionNet.LENGTH_UNIT
    target = F.avg_pool2d(target, STRIDE)
    squared = ((grid[:, :2] - target) ** 2).sum(1)
    robust = torch.sqrt(squared + ROBUST**2) - ROBUST
    log_scale = grid[:, 2].clamp(-5.0, 3.0)
    likelihood = torch.sqrt(squared.detach() + 1e-6) * torch.exp(-log_scale) + 2 * log_scale
    return (robust + 0.1 * likelihood).mean()


ROBUST = 0.25
"""Errors above this (in units of 16 px) count by their size, smaller ones by their square."""


class ValidationPictures:
    """Whole pictures with camera shake, moderate and severe, noise 1 %; the same for everyone."""

    def __init__(self, folder: Path, count: int = 24, seed: int = 1234):
        self.items: list[tuple[str, torch.Tensor, np.ndarray]] = []
        paths = list_photos(folder)[:count]
        for i, path in enumerate(paths):
            luma = torch.from_numpy((load_photo(path) @ np.array(LUMA) / 255).astype(np.float32))[None, None]
            margin = 18
            shape = (luma.shape[-2] - 2 * margin, luma.shape[-1] - 2 * margin)
            severity = list(SEVERITIES)[i % 2]
            rng = np.random.default_rng([seed, i])
            motion = camera_shake(shape, SEVERITIES[severity] * rng.uniform(0.5, 1.0), rng)
            blurred = line_blur(luma, torch.from_numpy(motion)[None], 36)
            noise = torch.from_numpy(rng.normal(0, 0.01, blurred.shape).astype(np.float32))
            self.items.append((severity, ((blurred + noise).clamp(0, 1) * 255).round() / 255, motion))

    @torch.no_grad()
    def evaluate(self, net: MotionNet, device: torch.device) -> dict[str, float]:
        """Return the mean motion MSE of each severity and the median over all pictures."""
        errors: dict[str, list[float]] = {severity: [] for severity in SEVERITIES}
        for severity, blurred, motion in self.items:
            double, _ = net(blurred.to(device))
            errors[severity].append(motion_mse(from_double_angle(double[0]).float().cpu().numpy(), motion))
        result = {severity: float(np.mean(values)) for severity, values in errors.items()}
        return {**result, "median": float(np.median([e for values in errors.values() for e in values]))}


class MotionNetModule(lightning.LightningModule):
    """Motion-Net, its loss, and its schedule."""

    def __init__(self, config: TrainingConfig, pictures: ValidationPictures):
        super().__init__()
        self.config, self.pictures = config, pictures
        self.net = MotionNet(config.network)
        self.seconds = 0.0
        self.crops = 0
        self._tick: float | None = None

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        """Return the loss of one batch."""
        blurred, motion = batch
        loss = motion_loss(self.net.forward_grid(blurred), motion)
        self.crops += len(blurred)
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return AdamW; normalisation and biases are not decayed."""
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        others = [p for p in self.net.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.config.learning_rate, weight_decay=self.config.weight_decay)

    @property
    def progress(self) -> float:
        """Share of the training time that has passed, over all commands of this run."""
        return min(1.0, self.seconds / parse_time(self.config.train_time))

    def on_train_batch_start(self, batch: Any, index: int) -> int | None:
        """Set the learning rate for the time that has passed; end the run when it is over."""
        now = time.monotonic()
        # Validation and start-up are not counted: a step is at most a few seconds.
        self.seconds += min(now - self._tick, 30.0) if self._tick is not None else 0.0
        self._tick = now
        warm = min(1.0, (self.global_step + 1) / 100)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, (self.progress - 0.3) / 0.7)))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.config.learning_rate * warm * max(fall, 1e-3)
        if self.progress >= 1.0:
            self.trainer.should_stop = True
        return None

    def on_validation_start(self) -> None:
        """Stop the clock of the schedule."""
        self._tick = None

    def validation_step(self, batch: Any, index: int) -> None:
        """Evaluate on the validation pictures (the loader's batch only starts this)."""
        for name, value in self.pictures.evaluate(self.net, self.device).items():
            self.log(f"val_{name}", value, prog_bar=True, batch_size=1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the clock."""
        checkpoint["clock"] = {"seconds": self.seconds, "crops": self.crops}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set the clock."""
        self.seconds, self.crops = checkpoint["clock"]["seconds"], checkpoint["clock"]["crops"]


class ExportAndLog(Callback):
    """After each validation: the weights as safetensors, and a line in ``log.csv``."""

    def __init__(self, folder: Path, summary: dict[str, Any]):
        self.folder, self.summary = folder, summary

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write both."""
        if trainer.sanity_checking or not isinstance(module, MotionNetModule):
            return
        figures = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
        row = {
            "step": trainer.global_step,
            "crops": module.crops,
            "seconds": round(module.seconds),
            **figures,
        }
        log = self.folder / "log.csv"
        new = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(
                file, ["step", "crops", "seconds", "loss", *(k for k in row if k.startswith("val"))]
            )
            if new:
                writer.writeheader()
            writer.writerow({k: row.get(k, "") for k in writer.fieldnames})
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
        temporary = self.folder / "motion-net.safetensors.part"
        save_motion_net(module.net, temporary, {**self.summary, **row})
        os.replace(temporary, self.folder / "motion-net.safetensors")


def train_motion_net(
    config: TrainingConfig,
    data: Path,
    out: Path,
    max_time: str | None = None,
    resume: Path | None = None,
    command: str = "",
    progress: bool = True,
) -> Path:
    """Train a Motion-Net.

    Parameters
    ----------
    config : TrainingConfig
        The run.
    data : path
        Folder that holds the folders of photographs.
    out : path
        Folder for ``last.ckpt``, ``motion-net.safetensors`` and ``log.csv``.
    max_time : str, optional
        HH:MM:SS after which this command ends, though the run may not be over: go on with `resume`.
    resume : path, optional
        Checkpoint to go on from.
    command : str
        Kept in the summary of the weights.
    progress : bool
        Show a progress bar.

    Returns
    -------
    weights : path
        The safetensors file.
    """
    lightning.seed_everything(config.seed, verbose=False)
    torch.backends.cudnn.benchmark = True
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    photos = LumaPhotos(list_photos([data / folder for folder in config.folders]))
    module = MotionNetModule(config, ValidationPictures(data / config.validation))
    module.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # After a resumption the pairs must not start again with the first ones.
    started = 0
    if resume is not None:
        started = int(torch.load(resume, map_location="cpu", weights_only=True)["global_step"])
    pairs = SyntheticPairs(photos, config.pairs, seed=config.seed + started, device=device)
    out.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    summary = {
        "data": f"{len(photos)} luminance pictures of {', '.join(config.folders)}",
        "command": command,
        "seed": config.seed,
        "machine": machine,
        "torch": torch.__version__,
        "parameters": parameter_count(module.net),
        "config": {k: v for k, v in asdict(config).items() if k != "network"},
    }
    trainer = lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        max_epochs=-1,
        max_time=None if max_time is None else timedelta(seconds=parse_time(max_time)),
        precision=config.precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        val_check_interval=config.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        callbacks=[
            EMAWeightAveraging(decay=config.average),
            ExportAndLog(out, summary),
            ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=config.validate_every),
        ],
    )
    once: DataLoader[int] = DataLoader([0], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, DataLoader(pairs, batch_size=None), once, ckpt_path=resume, weights_only=True)
    trainer.validate(module, once, verbose=False)
    return out / "motion-net.safetensors"
