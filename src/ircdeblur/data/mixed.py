"""Training pairs of several sources in one stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

import numpy as np
from torch.utils.data import IterableDataset

Batch = TypeVar("Batch")


class MixedPairs(IterableDataset, Generic[Batch]):
    """Batches of one source, and now and then of another one.

    Parameters
    ----------
    first, second : iterables of batches
        Endless sources.
    share : float
        Of the second, in [0, 1].
    seed : int
        Of their order.
    """

    def __init__(self, first: Iterable[Batch], second: Iterable[Batch], share: float, seed: int):
        super().__init__()
        self.first, self.second, self.share, self.seed = first, second, share, seed

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng(self.seed)
        first, second = iter(self.first), iter(self.second)
        while True:
            yield next(second if rng.random() < self.share else first)
