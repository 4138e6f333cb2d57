"""Training of Kernel-Net: photographs are shaken along curved paths, their kernels found as `ircdeblur.deblur` does.

That takes a second or two each, so the kernels are found by processes beside the one that learns, and each is seen
several times, turned and mirrored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch.nn import functional as F

from ircdeblur.data.known_blur import KnownBlurPairs, shake_kernel
from ircdeblur.data.photos import LumaPhotos, list_photos
from ircdeblur.data.synthesis import jpeg
from ircdeblur.nets.checkpoints import load_kernel_net, save_kernel_net
from ircdeblur.nets.curved import SIDES, WAYS, Light, least_gain, likeliest_kernel, likelihood_without_kernel
from ircdeblur.nets.evidence import Luma, SpectralEvidence, Windows, one_thread
from ircdeblur.nets.kernel_net import POLISHED, KernelNet, KernelNetConfig, maps_of
from ircdeblur.nets.light import LinearLuma
from ircdeblur.nets.weights_file import training_summary
from ircdeblur.solvers.blind_kernel import Search, polished
from ircdeblur.solvers.settings import estimate_noise
from ircdeblur.srgb import linear_to_srgb, srgb_to_linear
from ircdeblur.training.config import RunConfig, check_schedule, read_config
from ircdeblur.training.loop import run, steps_of
from ircdeblur.training.replay import replayed
from ircdeblur.training.workers import made_beside

VIEW = 57
"""Side in pixels of the squares that are learned from: kernels of up to 35 px, wherever their mean lies, and a rim."""

GRID = 128
"""Frequencies along each axis at which kernels are compared."""

VARIANCE, CORNER = 0.03, 1 / 64
"""Of a photograph's luminance, and frequency in cycles per pixel below which its power is even; above, it falls with
the square."""

LEAST_NOISE = 0.005
"""Standard deviation of the noise, at least, against which a kernel's errors are weighed: less would let single
frequencies decide."""

FRACTIONS = (0.5, 0.25, 0.125)
"""Steps in pixels by which the true kernel is moved to where it is most like the one that was found."""


@dataclass(frozen=True)
class KernelTrainingConfig(RunConfig):
    """One training run; what a YAML file under ``configs/`` holds beside what `RunConfig` says.

    Attributes
    ----------
    precision : str
        Lightning's: "bf16-mixed" or "32-true".
    validation_pictures : int
        Photographs that they look at.
    batch : int
        Kernels in a step.
    replay, kept : int
        How often a kernel is seen, on average, and how many are in memory.
    workers : int
        Processes that find kernels, beside the one that learns; see `ircdeblur.training.workers` for what they need.
    shakes : (float, float)
        Least and largest extent of the paths, in pixels.
    noise : (float, float)
        Least and largest standard deviation of the noise, on the [0, 1] scale.
    linear, compressed : float
        Share of photographs that are blurred in linear light, and of those that are written as JPEG.
    network : KernelNetConfig
        The network.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.998
    precision: str = "bf16-mixed"
    validation_pictures: int = 40
    batch: int = 16
    replay: int = 24
    kept: int = 1024
    workers: int = 2
    shakes: tuple[float, float] = (6.0, 35.0)
    noise: tuple[float, float] = (0.001, 0.02)
    linear: float = 0.5
    compressed: float = 0.3
    network: KernelNetConfig = field(default_factory=KernelNetConfig)


def load_config(path: str | Path) -> KernelTrainingConfig:
    """Read a `KernelTrainingConfig` from YAML; a key that it does not know raises `ValueError`."""
    config = read_config(path, KernelTrainingConfig, {"network": KernelNetConfig})
    check_schedule(config, path)
    if not 2 <= config.shakes[0] <= config.shakes[1] <= 35:
        raise ValueError(f"{path}: shakes must be from 2 to 35 px, the smaller one first, got {config.shakes}")
    if not 0 < config.noise[0] <= config.noise[1]:
        raise ValueError(f"{path}: noise must be above 0, the smaller one first, got {config.noise}")
    if min(config.batch, config.replay, config.workers) < 1 or config.kept < 4:
        raise ValueError(f"{path}: batch, replay and workers must be at least 1, kept at least 4")
    return config


class Kernels(NamedTuple):
    """Kernels that were found, and the true ones.

    Attributes
    ----------
    maps : (B, CHANNELS, VIEW, VIEW) tensor
        What the network is shown; see `maps_of`.
    truth : (B, VIEW, VIEW) tensor
        Each moved, by fractions of a pixel too, to where it is most like the kernel that was found.
    noise : (B,) tensor
        Standard deviation of the photograph's noise.
    """

    maps: torch.Tensor
    truth: torch.Tensor
    noise: torch.Tensor

    @property
    def blurred(self) -> torch.Tensor:
        """What the training loop counts."""
        return self.maps

    def oriented(self, transpose: bool, upside_down: bool, mirror: bool) -> Kernels:
        """Return all transposed, then turned upside down, then mirrored."""
        maps, truth = (t.transpose(-2, -1) if transpose else t for t in (self.maps, self.truth))
        axes = [axis for axis, turned in ((-2, upside_down), (-1, mirror)) if turned]
        return Kernels(maps.flip(axes), truth.flip(axes), self.noise)


def expected_errors(kernels: torch.Tensor, truth: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error that Wiener's filter for a kernel is to leave in photographs blurred by another.

    Parameters
    ----------
    kernels, truth : (B, h, w) tensors
        The kernels that are believed in, and the true ones.
    noise : (B,) tensor
        Standard deviation of the noise; `LEAST_NOISE` if it is less.

    Returns
    -------
    errors : (B,) tensor
    """
    return _errors(torch.fft.rfft2(kernels, s=(GRID, GRID)), torch.fft.rfft2(truth, s=(GRID, GRID)), noise)


def _errors(believed: torch.Tensor, true: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    fy = torch.fft.fftfreq(GRID, device=believed.device)[:, None]
    fx = torch.fft.rfftfreq(GRID, device=believed.device)
    scene = 1 / (fx**2 + fy**2 + CORNER**2)
    # Half of the plane: all columns but the first and the last stand for two.
    twice = torch.where((fx > 0) & (fx < 0.5), 2.0, 1.0) / GRID**2
    scene = scene * VARIANCE / (scene * twice).sum()
    variance = noise.clamp(min=LEAST_NOISE).square().view(-1, 1, 1)
    power = believed.real**2 + believed.imag**2
    inverse = believed.conj() * (scene / (power * scene + variance))
    left = 1 - inverse * true
    lost = scene * (left.real**2 + left.imag**2) + variance * (inverse.real**2 + inverse.imag**2)
    return (lost * twice).sum((-2, -1))


def decibels(kernels: torch.Tensor, truth: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return by how much the errors of `expected_errors` are larger than with the true kernels, in dB, (B,)."""
    ratio = expected_errors(kernels, truth, noise) / expected_errors(truth, truth, noise)
    return 10 * torch.log10(ratio)


def kernel_loss(net: KernelNet, batch: Kernels) -> torch.Tensor:
    """Return the mean of `decibels` over the batch."""
    return decibels(net(batch.maps).float(), batch.truth, batch.noise).mean()


def aligned(truth: np.ndarray, found: np.ndarray, noise: float) -> np.ndarray:
    """Return the true kernel, moved to where a found one is worth most.

    A photograph that is moved as well is as good a one; the place of a kernel is not to be learned.

    Parameters
    ----------
    truth : (h, h) array
        The kernel, of an odd side up to `VIEW`.
    found : (VIEW, VIEW) array
        The kernel that was found.
    noise : float
        Standard deviation of the photograph's noise.

    Returns
    -------
    moved : (VIEW, VIEW) array
    """
    true, believed = (
        torch.fft.rfft2(torch.from_numpy(k).float(), s=(GRID, GRID))
        for k in (np.pad(truth, (VIEW - len(truth)) // 2), found)
    )
    fy, fx = torch.fft.fftfreq(GRID)[:, None], torch.fft.rfftfreq(GRID)
    like = torch.fft.irfft2(believed * true.conj() / (fx**2 + fy**2 + CORNER**2), s=(GRID, GRID))
    place = np.array(np.unravel_index(int(like.argmax()), like.shape), float)
    level = torch.tensor([noise])

    def moved(shifts: np.ndarray) -> torch.Tensor:
        turns = fy * torch.from_numpy(shifts[:, :1, None]).float() + fx * torch.from_numpy(shifts[:, 1:, None]).float()
        return true * torch.exp(-2j * math.pi * turns)

    around = np.stack(np.meshgrid((-1, 0, 1), (-1, 0, 1), indexing="ij"), -1).reshape(-1, 2)
    for step in FRACTIONS:
        tried = place + step * around
        place = tried[int(_errors(believed, moved(tried), level).argmin())]
    return torch.fft.irfft2(moved(place[None])[0], s=(GRID, GRID))[:VIEW, :VIEW].double().numpy()


class FoundKernels:
    """Endless kernels found in photographs that were shaken, one at a time.

    Parameters
    ----------
    photos : list of (1, H, W) uint8 tensors
        Luminances, larger than 72 px.
    config : KernelTrainingConfig
        The shakes, and the noise.
    seed : int
        Of all that is random.
    """

    SEARCHES, KEPT = 3, {1: 2}
    """So many of the ways of `ircdeblur.nets.curved` are gone, at random, and so many of them to the end."""

    def __init__(self, photos: list[torch.Tensor], config: KernelTrainingConfig, seed: int):
        self.photos, self.config, self.seed = photos, config, seed

    def __iter__(self) -> Iterator[Kernels]:
        for number in count():
            rng = np.random.default_rng([self.seed, number])
            found = self.found_in(self.photos[int(rng.integers(len(self.photos)))], rng)
            if found is not None:
                yield found

    def found_in(self, photo: torch.Tensor, rng: np.random.Generator) -> Kernels | None:
        """Shake a photograph (1, H, W), uint8, and find its kernel; None if none would be believed."""
        truth = shake_kernel(float(rng.uniform(*self.config.shakes)), rng)
        linear = bool(rng.random() < self.config.linear)
        blurred = self._shaken(photo, truth, linear, rng)
        with one_thread():
            noise = estimate_noise(blurred)
            seen: Windows = LinearLuma(Luma(blurred)) if linear else Luma(blurred)
            evidence = SpectralEvidence(seen, noise)
            still, without = likelihood_without_kernel(evidence, None, seen.shape)
            light = Light(seen(slice(None), slice(None))[0, 0], evidence, still)
            sides = [side for side in SIDES if len(truth) <= side <= min(seen.shape) // 2]
            side = sides[int(rng.random() < 0.3 and len(sides) > 1)]
            ways = [WAYS[i] for i in rng.permutation(len(WAYS))[: self.SEARCHES]]
            bar = least_gain(len(evidence.x))
            best = likeliest_kernel([light], [[Search(side, *way)] for way in ways], self.KEPT, bar)
            if best is None or best.gain < bar + without - still:
                return None
            psf = polished(light.luma, best.psf)
            maps = _in_view(maps_of(light.luma, evidence, best.psf, psf))
            kernel = maps[POLISHED].double().numpy()
            moved = aligned(truth, kernel / kernel.sum(), evidence.noise)
        return Kernels(maps[None], torch.from_numpy(moved).float()[None], torch.tensor([evidence.noise]))

    def _shaken(self, photo: torch.Tensor, psf: np.ndarray, linear: bool, rng: np.random.Generator) -> torch.Tensor:
        """Return a photograph (1, 1, H', W') as a shaken camera writes it, without its rim."""
        scene = photo[None].float() / 255
        scene = srgb_to_linear(scene) if linear else scene
        rim = KnownBlurPairs.MARGIN - len(psf) // 2
        scene = scene[..., rim : scene.shape[-2] - rim, rim : scene.shape[-1] - rim]
        size = [a + b - 1 for a, b in zip(scene.shape[-2:], psf.shape, strict=True)]
        response = torch.fft.rfft2(torch.from_numpy(psf).float(), s=size)
        whole = torch.fft.irfft2(torch.fft.rfft2(scene, s=size) * response, s=size)
        inner = whole[..., len(psf) - 1 : scene.shape[-2], len(psf) - 1 : scene.shape[-1]]
        values = linear_to_srgb(inner.clamp(0, 1)) if linear else inner
        noise = math.exp(rng.uniform(*np.log(self.config.noise)))
        values = values + noise * torch.from_numpy(rng.standard_normal(values.shape).astype(np.float32))
        if rng.random() < self.config.compressed:
            height, width = (n // 8 * 8 for n in values.shape[-2:])
            quality = torch.tensor([float(rng.uniform(85, 98))])
            values = jpeg(values[..., :height, :width].clamp(0, 1), quality)
        return (values.clamp(0, 1) * 255).round() / 255


def _in_view(maps: torch.Tensor) -> torch.Tensor:
    """Return the middle of maps (C, side, side), as large as `VIEW`; what is added is 0, and the noise goes on."""
    rim = (VIEW - maps.shape[-1]) // 2
    level = float(maps[-1, 0, 0])
    maps = F.pad(maps, (rim,) * 4)
    maps[-1] = level
    return maps


class Replay:
    """Batches of kernels, each seen several times, in random order and orientation.

    Parameters
    ----------
    found : iterable of Kernels
        Endless.
    config : KernelTrainingConfig
        How many in a batch, how often, and how many in memory.
    seed : int
        Of order and orientation.
    """

    def __init__(self, found: Iterable[Kernels], config: KernelTrainingConfig, seed: int):
        self.found, self.config, self.seed = found, config, seed

    def __iter__(self) -> Iterator[Kernels]:
        rng = np.random.default_rng(self.seed)
        one = replayed(self.found, self.config.replay, rng, self.config.kept)
        while True:
            parts = [k.oriented(*(bool(t) for t in rng.integers(2, size=3))) for k in islice(one, self.config.batch)]
            yield Kernels(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


class ValidationKernels:
    """Kernels found in validation photographs; the same for everyone."""

    def __init__(self, folder: Path, config: KernelTrainingConfig, seed: int = 4321):
        photos = LumaPhotos(list_photos(folder), scales=(1.0,)).images
        found = FoundKernels(photos, config, seed)
        self.items: list[Kernels] = []
        for number in range(config.validation_pictures):
            kernels = found.found_in(photos[number % len(photos)], np.random.default_rng([seed, number]))
            self.items += [] if kernels is None else [kernels]
        if not self.items:
            raise ValueError(f"no kernel is found in the photographs of {folder}")

    @torch.no_grad()
    def evaluate(self, net: KernelNet, device: torch.device) -> dict[str, float]:
        """Return means of `decibels`.

        Returns
        -------
        figures : dict
            ``found``: of the kernels as they were found and polished; ``decibels``: of the network's; ``mean``: of the
            mean of both.
        """
        batch = Kernels(*(torch.cat(tensors).to(device) for tensors in zip(*self.items, strict=True)))
        own = net(batch.maps)
        before = batch.maps[:, POLISHED] / batch.maps[:, POLISHED].sum((-2, -1), keepdim=True)
        kernels = {"found": before, "decibels": own, "mean": (own + before) / 2}
        return {name: float(decibels(k, batch.truth, batch.noise).mean()) for name, k in kernels.items()}


def train_kernel_net(
    config: KernelTrainingConfig,
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
    """Train a Kernel-Net; see `ircdeblur.training.motion_net.fit` for the parameters and what is returned.

    Parameters
    ----------
    weights : path, optional
        What the run starts from, in place of initial weights; the network is then that of the file.
    """
    lightning.seed_everything(config.seed, verbose=False)
    net = KernelNet(config.network) if weights is None else load_kernel_net(weights)
    net.requires_grad_(True).train()
    photos = LumaPhotos(list_photos([data / folder for folder in config.folders]), scales=(1.0, 0.75)).images
    pictures = ValidationKernels(data / config.validation, config)
    seed = config.seed + steps_of(resume)

    def source(apart: int, device: torch.device) -> Iterable[Kernels]:
        def part(number: int) -> Iterable[Kernels]:
            return FoundKernels(photos, config, seed + apart + number * WORKERS_APART)

        return Replay(made_beside(part, config.workers), config, seed + apart)

    summary: dict[str, Any] = {} if weights is None else {"started from": training_summary(weights)}
    summary |= {
        "data": f"{len(photos)} luminance pictures of {', '.join(config.folders)}",
        "command": command,
        "config": {k: v for k, v in asdict(config).items() if k != "network"},
    }
    path = out / "kernel-net.safetensors"
    return run(
        net,
        kernel_loss,
        save_kernel_net,
        config,
        source,
        pictures,
        path,
        summary,
        max_time,
        resume,
        progress,
        devices,
        nodes,
    )


WORKERS_APART = 10**6
"""Between the seeds of two processes that find kernels; see `ircdeblur.training.loop.SEEDS_APART`."""
