"""The order of samples, as a function of only seed, epoch and rank."""

from collections.abc import Iterator

import torch
from torch.utils.data import DistributedSampler

from fmnist.seeds import mix_seeds


class EpochSampler(DistributedSampler[int]):
    """Yields this process's share of the samples, in an order fixed by ``(seed, epoch)``.

    All processes cut their shares from one permutation, so that N processes with a batch of B/N
    see the same global batches as one process with a batch of B. With ``shuffle`` every process
    gets equally many samples (up to N - 1 are left out of an epoch); without it every sample is
    yielded exactly once, none repeated.

    It is a ``DistributedSampler`` so that Lightning uses it as it is instead of wrapping it.

    Args:
        size: Number of samples.
        shuffle: A new permutation in each epoch; otherwise the order of the data.
        seed: Seed of the permutations.
        rank: Index of this process.
        world_size: Number of processes.
    """

    def __init__(self, size: int, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(range(size), world_size, rank, shuffle, seed)  # type: ignore[arg-type]
        self.kept = size - size % world_size if shuffle else size

    def __iter__(self) -> Iterator[int]:
        order = torch.arange(self.kept)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
            order = torch.randperm(len(self.dataset), generator=generator)[: self.kept]  # type: ignore[arg-type]
        return iter(order[self.rank :: self.num_replicas].tolist())

    def __len__(self) -> int:
        return len(range(self.rank, self.kept, self.num_replicas))
