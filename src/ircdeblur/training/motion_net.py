"""Training of Motion-Net on synthetic pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import lightning
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ircdeblur.data.camera import camera_shake
from ircdeblur.data.dataset import DatasetPairs
from ircdeblur.data.mixed import MixedPairs
from ircdeblur.data.photos import LUMA, LumaPhotos, list_photos, load_photo
from ircdeblur.data.synthesis import Pairs, PairSettings, Photos, SyntheticPairs, disc_blur, line_blur
from ircdeblur.metrics import motion_mse
from ircdeblur.motion import from_double_angle, to_double_angle, to_polar
from ircdeblur.nets.checkpoints import load_motion_net, save_motion_net
from ircdeblur.nets.motion_net import STRIDE, MotionNet, MotionNetConfig, encode
from ircdeblur.nets.weights_file import training_summary
from ircdeblur.training.config import RunConfig, check_schedule, read_config
from ircdeblur.training.loop import Loss, Save, run, steps_of

SEVERITIES = {"moderate": 21.0, "severe": 35.0}
"""Longest motion in pixels of the two kinds of test pictures."""


@dataclass(frozen=True)
class TrainingConfig(RunConfig):
    """One training run; what a YAML file under ``configs/`` holds beside what `RunConfig` says.

    Attributes
    ----------
    precision : str
        Lightning's: "bf16-mixed" or "32-true".
    validation_pictures : int
        Pictures with camera shake that they look at; a third as many more are still.
    datasets : tuple of str
        Data sets (see `ircdeblur.data.dataset`) below the data folder, of averaged frames for instance.
    dataset_share : float
        Share of the batches that come from them, in [0, 1].
    pairs : PairSettings
        The synthetic pairs.
    network : MotionNetConfig
        The network.
    """

    train_time: str = "01:30:00"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.998
    precision: str = "bf16-mixed"
    validate_every: int = 500
    datasets: tuple[str, ...] = ()
    dataset_share: float = 0.0
    pairs: PairSettings = field(default_factory=PairSettings)
    network: MotionNetConfig = field(default_factory=MotionNetConfig)


def load_config(path: str | Path) -> TrainingConfig:
    """Read a `TrainingConfig` from YAML; a key that it does not know raises `ValueError`."""
    config = read_config(path, TrainingConfig, {"pairs": PairSettings, "network": MotionNetConfig})
    check_schedule(config, path)
    if not 0 <= config.dataset_share <= 1 or (config.dataset_share > 0 and not config.datasets):
        raise ValueError(f"{path}: dataset_share must be in [0, 1] and needs datasets, got {config.dataset_share}")
    return config


def motion_loss(net: MotionNet, pairs: Pairs) -> torch.Tensor:
    """Robust size of the vectors' error, plus the Laplace likelihood of its scale.

    The likelihood is not asked to move the vectors: it would weigh them by the inverse of their scale, and the first
    thing that a network learns, which pictures are still, would then hold all vectors at zero. Where the blur is no
    motion the answer is to be none, with an error of `UNKNOWN`.
    """
    grid = net.forward_grid(pairs.blurred)
    double = F.avg_pool2d(to_double_angle(pairs.motion).permute(0, 3, 1, 2), STRIDE).permute(0, 2, 3, 1)
    target = encode(double, net.config.output)
    known = F.avg_pool2d(pairs.known[:, None], STRIDE)[:, 0]
    squared = ((grid[:, :2].permute(0, 2, 3, 1) - target) ** 2).sum(-1)
    robust = torch.sqrt(squared + ROBUST**2) - ROBUST
    log_scale = grid[:, 2].clamp(-5.0, 3.0)
    likelihood = torch.sqrt(squared.detach() + 1e-6) * torch.exp(-log_scale) + 2 * log_scale
    unsure = (log_scale - math.log(UNKNOWN)).abs()
    counts = known.isfinite()
    loss = robust + 0.1 * torch.lerp(unsure, likelihood, known.nan_to_num())
    return (loss * counts).sum() / counts.sum().clamp(min=1)


ROBUST = 0.25
"""Errors above this (in units of 16 px) count by their size, smaller ones by their square."""


class PairsConfig(Protocol):
    """What the pairs of a training follow from; see `TrainingConfig`."""

    @property
    def datasets(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def dataset_share(self) -> float: ...  # noqa: D102
    @property
    def pairs(self) -> PairSettings: ...  # noqa: D102


def training_pairs(photos: Photos, config: PairsConfig, data: Path, seed: int, device: torch.device) -> Iterable[Pairs]:
    """Return endless batches of synthetic pairs, with the configuration's share of batches from its data sets.

    Parameters
    ----------
    photos : Photos
        Source of the sharp crops.
    config : PairsConfig
        What the pairs are.
    data : path
        Folder that holds the data sets.
    seed : int
        Of all that is random.
    device : torch.device
        Where the batches go.
    """
    pairs = SyntheticPairs(photos, config.pairs, seed, device)
    if config.dataset_share <= 0:
        return pairs
    folders = [data / name for name in config.datasets]
    found = DatasetPairs(folders, config.pairs.crop, config.pairs.batch, seed, config.pairs.max_noise, device)
    return MixedPairs(pairs, found, config.dataset_share, seed)


UNKNOWN = 0.5
"""Laplace scale (in units of 16 px) that a network is to state where the blur is no motion."""

LENGTH_CLASSES = {"short": (3.0, 10.0), "medium": (10.0, 20.0), "long": (20.0, 36.0)}
"""Lengths in pixels by which the errors of the angle are told apart."""


class ValidationPictures:
    """Whole pictures with camera shake, moderate and severe, then sharp and out of focus; the same for everyone.

    Noise is 1 %.
    """

    def __init__(self, folder: Path, count: int = 24, seed: int = 1234):
        self.items: list[tuple[str, torch.Tensor, np.ndarray]] = []
        kinds = [list(SEVERITIES)[i % 2] for i in range(count)]
        kinds += [("sharp", "defocus")[i % 2] for i in range(max(2, count // 3))]
        paths = list_photos(folder)
        for i, kind in enumerate(kinds):
            photo = load_photo(paths[i % len(paths)])
            luma = torch.from_numpy((photo @ np.array(LUMA) / 255).astype(np.float32))[None, None]
            margin = 18
            shape = (luma.shape[-2] - 2 * margin, luma.shape[-1] - 2 * margin)
            rng = np.random.default_rng([seed, i])
            motion = np.zeros((*shape, 2), np.float32)
            if kind in SEVERITIES:
                motion = camera_shake(shape, SEVERITIES[kind] * rng.uniform(0.5, 1.0), rng)
                blurred = line_blur(luma, torch.from_numpy(motion)[None], 36)
            elif kind == "defocus":
                radius = torch.tensor([rng.uniform(1.5, 5.0)])
                cut = margin - math.floor(float(radius) + 1)
                blurred = disc_blur(luma[..., cut:-cut, cut:-cut], radius)
            else:
                blurred = luma[..., margin:-margin, margin:-margin]
            noise = torch.from_numpy(rng.normal(0, 0.01, blurred.shape).astype(np.float32))
            self.items.append((kind, ((blurred + noise).clamp(0, 1) * 255).round() / 255, motion))

    @torch.no_grad()
    def evaluate(self, net: Callable[[torch.Tensor], Any], device: torch.device) -> dict[str, float]:
        """Return figures of the raw answers of a network.

        Returns
        -------
        figures : dict
            ``moderate``, ``severe``: mean motion MSE; ``median``: of the MSE, over both. ``epe``: mean end-point error,
            pixels. ``angle_short``, ``angle_medium``, ``angle_long``: median error of the angle, degrees. ``aligned``:
            share of the pixels with an angle within 10 degrees, among those of 7 px and more in the more confident half
            of each picture. ``calibration``: mean error of the double-angle vector over the mean stated one.
            ``sharp``, ``defocus``: median over the pictures of the median length found; ``doubt``: mean stated error in
            the out-of-focus pictures, pixels.
        """
        mse: dict[str, list[float]] = {severity: [] for severity in SEVERITIES}
        epe, real, stated, doubt = [], [], [], []
        angles: dict[str, list[np.ndarray]] = {name: [] for name in LENGTH_CLASSES}
        aligned: list[np.ndarray] = []
        still: dict[str, list[float]] = {"sharp": [], "defocus": []}
        for kind, blurred, motion in self.items:
            double, scale = (t[0].float().cpu() for t in net(blurred.to(device)))
            found = from_double_angle(double).numpy()
            if kind not in SEVERITIES:
                still[kind].append(float(np.median(to_polar(found)[0])))
                if kind == "defocus":
                    doubt.append(float(scale.mean()))
                continue
            mse[kind].append(motion_mse(found, motion))
            plus, minus = (np.hypot(*np.moveaxis(found - m, -1, 0)) for m in (motion, -motion))
            epe.append(float(np.minimum(plus, minus).mean()))
            real.append(float(np.hypot(*np.moveaxis(double.numpy() - to_double_angle(motion), -1, 0)).mean()))
            stated.append(float(scale.mean()))
            (length, angle), (_, own) = to_polar(motion), to_polar(found)
            turn = np.abs((own - angle + 90) % 180 - 90)
            for name, (low, high) in LENGTH_CLASSES.items():
                angles[name].append(turn[(length >= low) & (length < high)])
            sure = (scale <= scale.median()).numpy() & (length >= 7)
            aligned.append(turn[sure] <= 10)

        def median(parts: list[np.ndarray]) -> float:
            together = np.concatenate(parts)
            return float(np.median(together)) if len(together) else math.nan

        return {
            **{severity: float(np.mean(values)) for severity, values in mse.items()},
            "median": float(np.median([e for values in mse.values() for e in values])),
            "epe": float(np.mean(epe)),
            **{f"angle_{name}": median(parts) for name, parts in angles.items()},
            "aligned": float(np.concatenate(aligned).mean()),
            "calibration": float(np.sum(real) / np.sum(stated)),
            **{kind: float(np.median(values)) for kind, values in still.items()},
            "doubt": float(np.mean(doubt)),
        }


def train_motion_net(
    config: TrainingConfig,
    data: Path,
    out: Path,
    max_time: str | None = None,
    resume: Path | None = None,
    command: str = "",
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
    weights: Path | None = None,
) -> Path:
    """Train a Motion-Net; see `fit` for the parameters and what is returned.

    Parameters
    ----------
    weights : path, optional
        What the run starts from, in place of initial weights; the network is then that of the file.
    """
    lightning.seed_everything(config.seed, verbose=False)
    net = MotionNet(config.network) if weights is None else load_motion_net(weights)
    net.requires_grad_(True).train()
    path = out / "motion-net.safetensors"
    save = save_motion_net
    before = None if weights is None else training_summary(weights)
    return fit(net, motion_loss, save, config, data, path, max_time, resume, command, progress, devices, nodes, before)


def fit(
    net: nn.Module,
    loss: Loss,
    save: Save,
    config: TrainingConfig,
    data: Path,
    weights: Path,
    max_time: str | None = None,
    resume: Path | None = None,
    command: str = "",
    progress: bool = True,
    devices: int = 1,
    nodes: int = 1,
    before: dict[str, Any] | None = None,
) -> Path:
    """Train a network that finds motion.

    Parameters
    ----------
    net : module
        Answers a batch of luminance (B, 1, H, W) with double-angle vectors (B, H, W, 2) and the expected size of their
        error (B, H, W), in pixels.
    loss : callable
        Of the network and a batch of `Pairs`.
    save : callable
        Writes the network to a path, with a summary.
    config : TrainingConfig
        The run; its `network` is not looked at here.
    data : path
        Folder that holds the folders of photographs.
    weights : path
        The safetensors file to write; ``last.ckpt`` and ``log.csv`` are written beside it.
    max_time : str, optional
        HH:MM:SS after which this command ends, though the run may not be over: go on with `resume`.
    resume : path, optional
        Checkpoint to go on from.
    command : str
        Kept in the summary of the weights.
    progress : bool
        Show a progress bar.
    devices, nodes : int
        Processes on each machine, and machines; see `ircdeblur.training.loop.run`.
    before : dict, optional
        What is known of the training of the weights that the network starts from.

    Returns
    -------
    weights : path
        The safetensors file.
    """
    lightning.seed_everything(config.seed, verbose=False)
    photos = LumaPhotos(list_photos([data / folder for folder in config.folders]))
    pictures = ValidationPictures(data / config.validation, config.validation_pictures)
    seed = config.seed + steps_of(resume)

    def source(apart: int, device: torch.device) -> Iterable[Pairs]:
        return training_pairs(photos, config, data, seed + apart, device)

    summary: dict[str, Any] = {} if before is None else {"started from": before}
    summary |= {
        "data": f"{len(photos)} luminance pictures of {', '.join(config.folders)}",
        "command": command,
        "config": {k: v for k, v in asdict(config).items() if k != "network"},
    }
    return run(net, loss, save, config, source, pictures, weights, summary, max_time, resume, progress, devices, nodes)
