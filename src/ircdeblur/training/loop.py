"""The training loop that the networks share.

The schedule is one of time, not of epochs: the learning rate warms up, stays, and falls to zero as the training time of
the configuration runs out, whatever the machine. A run that was stopped goes on where it was.

Several processes, one for each device, train together by Lightning's DDP: each draws pairs of its own, their gradients
are averaged, and the first one's clock is that of all.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import pickle
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from safetensors import SafetensorError
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, IterableDataset

from ircdeblur.nets.layers import has_fast_bfloat16
from ircdeblur.nets.weights_file import parameter_count
from ircdeblur.training.config import parse_time
from ircdeblur.training.optimizers import OPTIMIZERS


class Batch(Protocol):
    """A batch of training pairs."""

    @property
    def blurred(self) -> torch.Tensor:
        """The blurred crops (B, C, H, W)."""
        ...


Loss = Callable[[Any, Any], torch.Tensor]
"""Loss of a network on a batch."""

Save = Callable[[Any, Path, dict[str, Any]], None]
"""Writes a network with a summary of its training."""

Source = Callable[[int, torch.device], Iterable[Any]]
"""Makes the endless batches of a process from what is added to the seed, 0 for the first one, and its device."""

SEEDS_APART = 10**9
"""Between the seeds of two processes; a resumed run adds its steps to the seed."""


class Evaluation(Protocol):
    """What a network is validated on."""

    def evaluate(self, net: Any, device: torch.device) -> dict[str, float]:
        """Return figures by their names."""
        ...


class Schedule(Protocol):
    """What the loop must know of a run; see `ircdeblur.training.motion_net.TrainingConfig`."""

    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def train_time(self) -> str: ...  # noqa: D102
    @property
    def optimizer(self) -> str: ...  # noqa: D102
    @property
    def learning_rate(self) -> float: ...  # noqa: D102
    @property
    def weight_decay(self) -> float: ...  # noqa: D102
    @property
    def average(self) -> float: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def validate_every(self) -> int: ...  # noqa: D102


def steps_of(resume: Path | None) -> int:
    """Return the steps that a run has behind it: after a resumption its pairs must not start with the first ones.

    Parameters
    ----------
    resume : path or None
        Checkpoint of the run, if it goes on.

    Raises
    ------
    ValueError
        If the file is no checkpoint of tensors and plain values alone; nothing else that is pickled is loaded.
    """
    if resume is None:
        return 0
    try:
        return int(torch.load(resume, map_location="cpu", weights_only=True)["global_step"])
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        LookupError,
        TypeError,
        ValueError,
        EOFError,
    ) as error:
        raise ValueError(f"not a checkpoint of a training run: {resume}; give the last.ckpt of one") from error


class _Endless(IterableDataset):
    """What yields batches, as a data set."""

    def __init__(self, batches: Iterable[Any]):
        super().__init__()
        self.batches = batches

    def __iter__(self) -> Any:
        return iter(self.batches)


class TrainingModule(lightning.LightningModule):
    """A network, its loss, its schedule, and what it is validated on."""

    def __init__(self, net: nn.Module, loss: Loss, schedule: Schedule, pictures: Evaluation):
        super().__init__()
        self.schedule = schedule
        # A function: the running average of the weights copies the module, and there is no need for more pictures.
        self._evaluate = lambda device: pictures.evaluate(net, device)
        self.net, self.loss = net, loss
        self.seconds = 0.0
        self.crops = 0
        self._tick: float | None = None

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        """Return the loss of one batch."""
        loss = self.loss(self.net, batch)
        self.crops += len(batch.blurred) * self.trainer.world_size
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer; normalisation and biases are not decayed. A network may set its parameters' `pace`."""
        pace: Callable[[str], float] = getattr(self.net, "pace", lambda name: 1.0)
        groups: dict[tuple[bool, float], dict[str, Any]] = {}
        for name, p in self.net.named_parameters():
            if p.requires_grad:
                key = p.ndim > 1, pace(name)
                decay = self.schedule.weight_decay if p.ndim > 1 else 0.0
                groups.setdefault(key, {"params": [], "weight_decay": decay, "pace": key[1]})["params"].append(p)
        return OPTIMIZERS[self.schedule.optimizer](groups.values(), self.schedule.learning_rate)

    @property
    def progress(self) -> float:
        """Share of the training time that has passed, over all commands of this run."""
        return min(1.0, self.seconds / parse_time(self.schedule.train_time))

    def on_train_batch_start(self, batch: Any, index: int) -> int | None:
        """Set the learning rate for the time that has passed; end the run when it is over."""
        now = time.monotonic()
        # Validation and start-up are not counted: a step is at most a few seconds.
        self.seconds += min(now - self._tick, 30.0) if self._tick is not None else 0.0
        self._tick = now
        if self.trainer.world_size > 1:
            # Learning rate and end follow from it; processes that disagree would wait for each other for ever.
            clock = torch.tensor([self.seconds], dtype=torch.float64, device=self.device)
            torch.distributed.broadcast(clock, 0)
            self.seconds = float(clock)
        warm = min(1.0, (self.global_step + 1) / 100)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, (self.progress - 0.3) / 0.7)))
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = self.schedule.learning_rate * group["pace"] * warm * max(fall, 1e-3)
        if self.progress >= 1.0:
            self.trainer.should_stop = True
        return None

    def on_validation_start(self) -> None:
        """Stop the clock of the schedule."""
        self._tick = None

    def validation_step(self, batch: Any, index: int) -> None:
        """Evaluate on the validation pictures (the loader's batch only starts this); the first process does it."""
        if not self.trainer.is_global_zero:
            return
        for name, value in self._evaluate(self.device).items():
            self.log(f"val_{name}", value, prog_bar=True, batch_size=1, rank_zero_only=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the clock."""
        checkpoint["clock"] = {"seconds": self.seconds, "crops": self.crops}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set the clock."""
        self.seconds, self.crops = checkpoint["clock"]["seconds"], checkpoint["clock"]["crops"]


def usable_precision(precision: str, device: torch.device) -> str:
    """Return the precision to train with: not "bf16-mixed" where it is emulated, at a tenth of the speed of float32."""
    return "32-true" if precision == "bf16-mixed" and not has_fast_bfloat16(device) else precision


class ExportAndLog(Callback):
    """After each validation: the weights that were validated as safetensors, and a line in ``log.csv``.

    It must come before the callback that averages the weights: that one puts the others back when it is its turn.
    """

    def __init__(self, weights: Path, save: Save, summary: dict[str, Any]):
        self.weights, self.save, self.summary = weights, save, summary
        self.validated: nn.Module | None = None

    def on_validation_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keep the weights; their figures are not known yet."""
        if not trainer.sanity_checking and trainer.is_global_zero and isinstance(module, TrainingModule):
            self.validated = copy.deepcopy(module.net)

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Write both, in the first process."""
        if trainer.sanity_checking or not trainer.is_global_zero or not isinstance(module, TrainingModule):
            return
        figures = {k: round(float(v), 4) for k, v in trainer.callback_metrics.items()}
        row = {
            "step": trainer.global_step,
            "crops": module.crops,
            "seconds": round(module.seconds),
            **figures,
        }
        log = self.weights.with_name("log.csv")
        new = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.DictWriter(
                file, ["step", "crops", "seconds", "loss", *(k for k in row if k.startswith("val"))]
            )
            if new:
                writer.writeheader()
            writer.writerow({k: row.get(k, "") for k in writer.fieldnames})
        print(" ".join(f"{k}={v}" for k, v in row.items()), flush=True)
        temporary = self.weights.with_suffix(".part")
        self.save(self.validated, temporary, {**self.summary, **row})
        os.replace(temporary, self.weights)


def run(
    net: nn.Module,
    loss: Loss,
    save: Save,
    schedule: Schedule,
    source: Source,
    pictures: Evaluation,
    weights: Path,
    summary: dict[str, Any],
    max_time: str | None = None,
    resume: Path | None = None,
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
) -> Path:
    """Train a network.

    Parameters
    ----------
    net : module
        The network.
    loss : callable
        Of the network and a batch.
    save : callable
        Writes the network to a path, with a summary.
    schedule : Schedule
        The run.
    source : Source
        Makes the batches; each has `blurred`.
    pictures : Evaluation
        What is validated on.
    weights : path
        The safetensors file to write; ``last.ckpt`` and ``log.csv`` are written beside it.
    summary : dict
        Of data and settings; what the machine is and how far the run has got is added.
    max_time : str, optional
        HH:MM:SS after which this command ends, though the run may not be over: go on with `resume`.
    resume : path, optional
        Checkpoint to go on from.
    progress : bool
        Show a progress bar.
    devices, nodes : int
        Number of processes on each machine, and of machines. With several processes Lightning starts this program
        again for each but the first on its machine; across machines it takes MASTER_ADDR, MASTER_PORT and NODE_RANK
        from the environment, or what Slurm and torchrun set. A step then sees `devices` times `nodes` batches.

    Returns
    -------
    weights : path
        The safetensors file; only the first process writes it.
    """
    torch.backends.cudnn.benchmark = True
    gpu = torch.cuda.is_available()
    precision = usable_precision(schedule.precision, torch.device("cuda" if gpu else "cpu"))
    if precision != schedule.precision:
        print(f"This processor has no fast bfloat16: the training is in {precision}.", file=sys.stderr)
    module = TrainingModule(net, loss, schedule, pictures)
    out = weights.parent
    out.mkdir(parents=True, exist_ok=True)
    machine = torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    summary = {
        **summary,
        "seed": schedule.seed,
        "machine": f"{machine}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "precision": precision,
        "parameters": parameter_count(net),
    }
    several = devices * nodes > 1
    if several:
        summary["processes"] = devices * nodes
        # The first process alone has figures to log.
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    trainer = lightning.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=devices,
        num_nodes=nodes,
        # A network may be trained in parts: a stage's prior alone, for instance.
        strategy="ddp_find_unused_parameters_true" if several else "auto",
        # The one validation batch is for the first process.
        use_distributed_sampler=False,
        max_epochs=-1,
        max_time=None if max_time is None else timedelta(seconds=parse_time(max_time)),
        precision=precision,  # type: ignore[arg-type]
        gradient_clip_val=1.0,
        val_check_interval=schedule.validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        callbacks=[
            ExportAndLog(weights, save, summary),
            # Of all weights at once: EMAWeightAveraging takes them one by one, some milliseconds a step on a GPU.
            WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(schedule.average)),
            ModelCheckpoint(
                out,
                save_last=True,
                save_top_k=0,
                every_n_train_steps=schedule.validate_every,
                # A run that goes on writes over the checkpoint that it came from.
                enable_version_counter=False,
            ),
        ],
    )
    once: DataLoader[int] = DataLoader([0], batch_size=None)  # type: ignore[arg-type]
    batches = source(SEEDS_APART * trainer.global_rank, trainer.strategy.root_device)
    trainer.fit(module, DataLoader(_Endless(batches), batch_size=None), once, ckpt_path=resume, weights_only=True)
    trainer.validate(module, once, verbose=False)
    return weights
