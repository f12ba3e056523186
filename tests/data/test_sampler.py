import pytest

from fmnist.data.sampler import EpochSampler
from fmnist.seeds import mix_seeds


def epoch(size, number, **options):
    sampler = EpochSampler(size, shuffle=True, **options)
    sampler.set_epoch(number)
    return list(sampler)


def test_order_is_a_function_of_seed_and_epoch():
    assert epoch(100, 3, seed=1) == epoch(100, 3, seed=1)
    assert epoch(100, 3, seed=1) != epoch(100, 4, seed=1)
    assert epoch(100, 3, seed=1) != epoch(100, 3, seed=2)
    assert epoch(100, 1, seed=0) != epoch(100, 0, seed=1), "neighbouring seeds must not share orders"
    assert sorted(epoch(100, 3)) == list(range(100))


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_global_batches_of_one_process(world_size):
    single = epoch(120, 5, seed=9)
    shares = [epoch(120, 5, seed=9, rank=rank, world_size=world_size) for rank in range(world_size)]
    local = 24 // world_size
    for batch in range(5):
        union = [index for share in shares for index in share[batch * local : (batch + 1) * local]]
        assert sorted(union) == sorted(single[batch * 24 : (batch + 1) * 24])


def test_training_gives_every_process_equally_many():
    shares = [epoch(100, 0, rank=rank, world_size=3) for rank in range(3)]
    assert [len(share) for share in shares] == [33, 33, 33]
    assert len({index for share in shares for index in share}) == 99


def test_evaluation_yields_every_sample_once():
    samplers = [EpochSampler(100, shuffle=False, rank=rank, world_size=3) for rank in range(3)]
    assert [len(sampler) for sampler in samplers] == [34, 33, 33]
    assert sorted(index for sampler in samplers for index in sampler) == list(range(100))
    assert list(EpochSampler(5, shuffle=False)) == [0, 1, 2, 3, 4]


def test_mixed_seeds_differ():
    seeds = {mix_seeds(seed, epoch, rank) for seed in range(5) for epoch in range(5) for rank in range(5)}
    assert len(seeds) == 125
    assert all(0 <= seed < 2**64 for seed in seeds)
