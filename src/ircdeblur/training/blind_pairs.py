"""Pairs whose blur is not known: their motion is found as it is when a photograph is restored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset

from ircdeblur.data.known_blur import KnownBlur
from ircdeblur.nets.belief import reckon
from ircdeblur.nets.blind import Net, estimate
from ircdeblur.nets.evidence import one_thread
from ircdeblur.nets.noise import noise_of
from ircdeblur.solvers.settings import unsaturated
from ircdeblur.srgb import noise_in_linear_light, srgb_to_linear

BELIEVED = 0.5
"""Crops of whose restoration less is believed, see `ircdeblur.nets.belief.restoration_weight`, teach nothing."""

PATIENCE = 50
"""Batches in a row of which no crop is believed, after which there is no use in going on."""

LEAST_MISFITS = (0.001, 0.006)
"""Between these is drawn what an exact motion is said not to explain; see `ircdeblur.nets.belief.LEAST_MISFIT`."""


class BlindPairs(IterableDataset):
    """Batches of crops with the motion, its error, the noise and the light that `ircdeblur.deblur` finds in them.

    So a network learns to live with the errors that there are, which are neither as large nor as smooth as one would
    draw them.

    Parameters
    ----------
    pairs : iterable of KnownBlur or Pairs
        Endless; of each batch the blurred and the sharp crops count.
    net : MotionNet or callable
        What answers as `MotionNet.forward` does.
    batch : int
        Crops per batch.
    seed : int
        Of everything random here.

    Yields
    ------
    pairs : KnownBlur
        In the light that they seem to be blurred in.

    Raises
    ------
    ValueError
        On iteration, if next to no motion is believed.
    """

    def __init__(self, pairs: Iterable[Any], net: Net, batch: int, seed: int):
        super().__init__()
        self.pairs, self.net, self.batch, self.seed = pairs, net, batch, seed

    def __iter__(self) -> Iterator[KnownBlur]:
        rng = np.random.default_rng(self.seed)
        crops: list[KnownBlur] = []
        in_vain = 0
        for pair in self.pairs:
            believed = [crop for crop in self.found(pair, rng) if crop is not None]
            in_vain = 0 if believed else in_vain + 1
            if in_vain == PATIENCE:
                raise ValueError(f"no motion is believed in {PATIENCE} batches of crops; larger crops, more motion?")
            crops += believed
            while len(crops) >= self.batch:
                together, crops = crops[: self.batch], crops[self.batch :]
                columns = zip(*together, strict=True)
                yield KnownBlur._make(None if parts[0] is None else torch.cat(parts) for parts in columns)

    def found(self, pair: Any, rng: np.random.Generator) -> list[KnownBlur | None]:
        """Return each crop of a batch with what was found, None where that is not believed."""
        low, high = np.log(LEAST_MISFITS)
        least = np.exp(rng.uniform(low, high, len(pair.blurred)))
        threads = torch.get_num_threads()
        # Hundreds of operations on small tensors: crops side by side, each on one thread.
        with one_thread(), ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self._found, pair.blurred.split(1), pair.sharp.split(1), least.tolist()))

    @torch.no_grad()
    def _found(self, blurred: torch.Tensor, sharp: torch.Tensor, least: float) -> KnownBlur | None:
        given = blurred.clamp(0, 1)
        found = estimate(self.net, given)
        known = reckon(found.motion[None], found.error[None], noise_of(given, found.motion), least)
        if float(known.weight.mean()) < BELIEVED:
            return None
        noise = known.noise
        if found.linear_light:
            noise = noise * noise_in_linear_light(given)
            given, sharp = srgb_to_linear(given), srgb_to_linear(sharp.clamp(0, 1))
        mask = unsaturated(given)
        mask = torch.ones_like(given[:, :1]) if mask is None else mask
        return KnownBlur(given, sharp, noise, None, found.motion[None], known.doubt, mask)
