"""Other ways to find the motion, to compare Motion-Net with.

- ``patch``: a classification of small patches and a Markov random field, in the manner of Sun et al. (CVPR 2015);
- ``fcn``: two classifications of every pixel, in the manner of Gong et al. (CVPR 2017);
- `spectral`: no learning, the likelihood of each window's power spectrum, and the same Markov random field.

They are re-implementations of the formulations, not of the papers' programs. The networks see the normalised gradients
and the autocorrelation that Motion-Net sees, have its blocks and about as many parameters, and are trained on the same
synthetic pairs, for as long as their configuration says::

    python -m ircdeblur.experiments.motion_baselines train fcn --config YAML --data DIR --out DIR
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ircdeblur.data.photos import LUMA
from ircdeblur.experiments.motion_baselines.fcn import FcnNet
from ircdeblur.experiments.motion_baselines.patch import PatchNet, PatchNetConfig
from ircdeblur.experiments.motion_baselines.spectral import spectral_motion
from ircdeblur.motion import from_double_angle
from ircdeblur.nets.motion_net import MotionNetConfig
from ircdeblur.nets.weights_file import load_weights, save_weights

NETWORKS: dict[str, tuple[str, Callable[[dict[str, Any]], PatchNet | FcnNet]]] = {
    "patch": ("CNN-Patch-like", lambda config: PatchNet(PatchNetConfig(**config))),
    "fcn": ("FCN-like", lambda config: FcnNet(MotionNetConfig(**config))),
}
"""The learned ones by name: what tables call them, and how they are built from their configuration."""

SPECTRAL = "window spectra, not learned"
"""What tables call the one that is not learned."""


@dataclass(frozen=True)
class Baseline:
    """One way to find the motion.

    Attributes
    ----------
    estimate : callable
        Of the luminance (1, 1, H, W) in [0, 1]; returns double-angle vectors (1, H, W, 2) in pixels.
    summary : dict
        Of the training; empty if there was none.
    """

    estimate: Callable[[torch.Tensor], torch.Tensor]
    summary: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the motion (H, W, 2), canonical, in pixels, of an RGB photograph (H, W, 3) in [0, 1]."""
        luma = torch.from_numpy(np.asarray(image, np.float32) @ np.array(LUMA, np.float32)).clamp(0, 1)
        return from_double_angle(self.estimate(luma[None, None])[0]).numpy()


def weights_path(folder: Path, name: str) -> Path:
    """Return where the weights of a learned baseline lie in the folder of all."""
    return folder / name / f"{name}.safetensors"


def save(name: str, net: PatchNet | FcnNet, path: Path, summary: dict[str, Any]) -> None:
    """Write the weights of a learned baseline."""
    save_weights(net, f"motion-{name}", asdict(net.config), path, summary)


def load_baselines(folder: Path | None = None) -> dict[str, Baseline]:
    """Return all that there are, by what tables call them.

    Parameters
    ----------
    folder : path, optional
        Where ``motion_baselines train`` has written; without it there is only the one that is not learned.

    Raises
    ------
    FileNotFoundError
        If the folder has no weights of any.
    ValueError
        If weights are not what they should be.
    """
    found: dict[str, Baseline] = {}
    for name, (title, build) in NETWORKS.items():
        if folder is None or not weights_path(folder, name).is_file():
            continue
        net, summary = load_weights(weights_path(folder, name), f"motion-{name}", f"{title} network", build)
        estimate = net.smoothed if isinstance(net, PatchNet) else _first(net)
        found[title] = Baseline(estimate, summary)
    if folder is not None and not found:
        raise FileNotFoundError(f"no weights: {' or '.join(str(weights_path(folder, name)) for name in NETWORKS)}")
    return {SPECTRAL: Baseline(lambda luma: spectral_motion(luma[0, 0])[None]), **found}


def _first(net: FcnNet) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that drops the network's second answer, the spread."""
    return lambda luma: net(luma)[0]
