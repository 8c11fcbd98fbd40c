"""Check the promises of an engine inside two ranks; test_engine.py starts ``zero_child.py STAGE FOLDER``."""

import copy
import faulthandler
import math
import sys
from pathlib import Path

import torch
from medground_deepspeed import deepspeed
from torch import nn

from medground.training.launcher import exit_process
from medground.training.local_engine import LocalEngine
from medground.training.memory import state_bytes
from medground.training.ranks import pad_to_longest


def network():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8), nn.Linear(8, 4))
    made[2].requires_grad_(False)
    return made


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.01)


def assert_near(found, expected):
    """Assert that weights differ by at most 1e-4 of their change, in norm: AdamW scales rounding up to its step."""
    assert found.keys() == expected.keys()
    start = network().state_dict()
    apart, moved = (
        torch.cat([(each[name] - value).flatten() for name, value in expected.items()]).norm()
        for each in (found, start)
    )
    assert apart <= 1e-4 * moved, (apart, moved)


def losses(module, step, shares):
    """Return one loss per share of the batch; their sum is the mean of the batch."""
    torch.manual_seed(step)
    batch = torch.randn(6, 8)
    return [module(batch[rows]).square().sum() / 24 for rows in shares]


def main(stage, folder):
    config = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    engine = deepspeed(stage=stage, processes=2, shared_memory=False, config=config)
    rank = engine.rank
    # DeepSpeed sums and averages over ranks; uneven shares: 4 passes here, 1 there, padded with passes of no weight.
    mine = [[slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)], [slice(4, 6)]][rank]
    alone, policy = network(), network()
    local = LocalEngine()
    local.prepare(alone, optimizer, max_grad_norm=0.05)
    module = engine.prepare(policy, optimizer, max_grad_norm=0.05)

    def both(step, rate=1e-2, poison=1.0):
        for loss in losses(alone, step, [slice(0, 6)]):
            local.backward(loss * poison)
        expected = local.step(rate)
        passes = 0
        for rows in pad_to_longest(engine, mine):
            (loss,) = losses(module, step, [slice(0, 1) if rows is None else rows])
            scale = 0.0 if rows is None else (poison if rank == 1 else 1.0)
            engine.backward(loss * scale)
            passes += 1
        assert passes == 4
        return engine.step(rate), expected

    def same():
        with engine.full_parameters():
            assert_near(policy.state_dict(), alone.state_dict())

    for step in range(3):
        found, expected = both(step)
        assert abs(found - expected) <= 1e-6, (found, expected)
        assert expected > 0.05, "clipping is on"
    same()

    # What this rank holds of the optimiser is the arithmetic of `medground train --dry-run`, but for alignment.
    shards = engine.zero.fp32_partitioned_groups_flat if stage == 3 else engine.zero.single_partition_of_fp32_groups
    states = [value for state in engine.optimizer.state.values() for value in state.values() if value.dim()]
    taken = sum(each.nbytes for each in (*shards, *states))
    trained = sum(each.numel() for each in alone.parameters() if each.requires_grad)
    total = sum(each.numel() for each in alone.parameters())
    expected = state_bytes(total, trained, width=4, ranks=2, zero_stage=stage).optimizer
    assert expected <= taken <= 1.15 * expected, (expected, taken)
    if stage == 3:
        assert not any(each.numel() for each in policy.parameters()), "no rank holds whole weights"

    # A gradient that is not a number on one rank alone: nobody's parameters move.
    found, expected = both(3, poison=math.nan)
    assert not math.isfinite(found)
    assert not math.isfinite(expected)
    same()

    # Given up half way: what was added up is gone, the optimiser knows nothing of it.
    for loss in losses(module, 4, [slice(0, 1)]):
        engine.backward(loss)
    engine.discard()
    engine.discard()
    both(5)
    same()

    assert engine.all_reduce({"a": rank + 0.25, "b": 2.0**60 + rank * 2.0**10}) == {"a": 1.5, "b": 2.0**61 + 2.0**10}
    assert engine.gather({"rank": rank, "text": "x" * rank}) == [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
    weights = {name: value.clone() for name, value in engine.named_weights()}
    assert list(weights) == list(policy.state_dict())
    assert_near(weights, alone.state_dict())
    with engine.full_parameters():  # each may call it as often as it likes, without the other
        for _ in range(3 if rank else 1):
            with torch.no_grad():
                out = policy(torch.ones(1, 8))
        expected = alone(torch.ones(1, 8))
        assert (out - expected).norm() <= 1e-4 * expected.norm()

    # Saved by two ranks, continued by one; saved by one, continued by two.
    if rank == 0:
        (folder / "two").mkdir()
        (folder / "one").mkdir()
        local.save(folder / "one")
    engine.gather(None)
    engine.save(folder / "two")
    engine.gather(None)
    other, fresh = network(), LocalEngine()
    fresh.prepare(other, optimizer, max_grad_norm=0.05)
    fresh.load(folder / "two")
    assert_near(other.state_dict(), alone.state_dict())
    kept = copy.deepcopy(alone.state_dict())
    both(6)
    with engine.full_parameters():
        assert any((value - kept[name]).abs().max() > 1e-4 for name, value in policy.state_dict().items())
    engine.load(folder / "one")
    local.load(folder / "one")
    with engine.full_parameters():
        for name, value in policy.state_dict().items():
            torch.testing.assert_close(value, kept[name], atol=0, rtol=0)
    both(7)
    same()
    engine.shutdown()
    print(f"rank {rank} is well", file=sys.stderr)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100, exit=True)  # a hang tells where
    main(int(sys.argv[1]), Path(sys.argv[2]))
    exit_process(0)
