"""Steps on a GPU that are recorded; what they compute is in tests/contract/test_gpu.py."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastool.core import registry
from nastool.core.task import Batch
from nastool.training import graphs
from nastool.training.graphs import Replayed
from tests.helpers import fake_cuda as fake


@pytest.mark.gpu
@pytest.mark.parametrize("waits", [True, False])
def test_gradients_as_by_hand(waits: bool) -> None:
    """Also where a step waits for the device, so that it cannot be recorded, and where shapes change."""
    network = nn.Linear(3, 1, bias=False).cuda()

    def work(batch: Batch, carry: Any) -> tuple[Tensor, Any, float]:
        (x,) = batch
        state = x.mean(0) if carry is None else carry[0] + x.mean(0)
        loss = network(x).mean() + (float(x.sum()) if waits else x.sum()) + torch.rand((), device="cuda")
        loss.backward()
        return loss.detach(), (state,), 1.0

    def taken(replayed: Any) -> list[Tensor]:
        torch.manual_seed(0)
        found, carry = [], None
        for size in (2, 2, 2, 2, 2, 2, 5, 2, 2):
            network.zero_grad()
            loss, carry, rate = replayed((torch.rand(size, 3, device="cuda"),), carry)
            assert rate == 1 and network.weight.grad is not None
            found += [loss, carry[0], network.weight.grad.clone()]
        return [each.cpu() for each in found]

    replayed = Replayed(work, network)
    recorded, plain = taken(replayed), taken(work)
    assert all(map(torch.equal, recorded, plain))
    assert (replayed._recording is None) == (replayed.refused is not None)
    if waits:
        assert replayed.refused is not None


class Stand:
    """In the place of a recording."""

    def __init__(self, work: Any, network: nn.Module, shape: object, batch: Batch, carry: Any) -> None:
        self.work, self.shape, self.batch = work, shape, batch
        self.network: Any = network
        self.replays = 0

    def replay(self, batch: Batch, carry: Any) -> Any:
        self.replays += 1
        found = self.work(batch, carry)
        self.wrong()
        return found

    def wrong(self) -> None: ...


class Draws(Stand):
    def wrong(self) -> None:
        torch.rand((), device=self.network[0].weight.device)


class Counts(Stand):
    def wrong(self) -> None:
        self.network[1].running_mean += 0.1


class Slips(Stand):
    def wrong(self) -> None:
        self.network[0].weight.grad *= 1.1


class Stale(Stand):
    def replay(self, batch: Batch, carry: Any) -> Any:
        return super().replay(self.batch, carry)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", [Stand, Draws, Counts, Slips, Stale])
def test_a_recording_is_used_if_it_does_what_the_step_does(
    monkeypatch: pytest.MonkeyPatch, kind: type[Stand], device: str
) -> None:
    """And whether or not, all that a training has is as if there were none: gradients, statistics, draws."""
    if fake.active() and kind is Draws:
        pytest.skip("what fake devices draw does not follow their generators")
    monkeypatch.setattr(graphs, "Recording", kind)
    if device == "cpu":
        monkeypatch.setattr(graphs, "_has_room", lambda device: True)
    torch.manual_seed(1)
    dropout = 0.0 if fake.active() else 0.5
    networks: list[Any] = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(dropout))]
    networks.append(copy.deepcopy(networks[0]))
    for network in networks:
        network.to(device)

    def worker(network: nn.Module) -> Any:
        def work(batch: Batch, carry: Any) -> tuple[Tensor, Any, float]:
            loss = (network(batch[0]) ** 3).sum() + (0 if carry is None else carry[0])
            loss.backward()
            return loss.detach(), (loss.detach() / 2,), 1.0

        return work

    replayed = Replayed(worker(networks[0]), networks[0])
    found: list[list[Tensor]] = []
    for network, step in zip(networks, (replayed, worker(networks[1])), strict=True):
        torch.manual_seed(0)
        carry, own = None, []
        for _ in range(8):
            network.zero_grad()
            loss, carry, _ = step((torch.randn(6, 3).to(device),), carry)
            own += [loss, *(p.grad.clone() for p in network.parameters()), *(b.clone() for b in network.buffers())]
        found.append([*own, torch.rand(3, device=device)])
    assert all(map(torch.equal, *found))
    if kind is Stand:
        assert replayed.refused is None and replayed._recording.replays == 3  # type: ignore[union-attr]
    else:
        assert replayed.refused == "a recorded step does not do what the step does" and replayed._recording is None


@pytest.mark.gpu
def test_where_memory_is_short_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Linear(3, 1).cuda()

    def work(batch: Batch, carry: Any) -> tuple[Tensor, Any, float]:
        loss = network(batch[0]).sum()
        loss.backward()
        return loss.detach(), None, 1.0

    replayed, x = Replayed(work, network), torch.ones(2, 3, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    torch.empty(1 << 20, device="cuda")
    needed = torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (graphs.ROOM * needed - kept - (1 << 20), 1 << 40))
    for _ in range(6):
        network.zero_grad()
        assert replayed((x,), None)[0].isfinite()
    assert replayed.refused == "too little memory is free" and network.weight.grad is not None


def test_what_may_be_recorded() -> None:
    """A network of ours that chooses nothing; not one of which we cannot know."""

    class Theirs(nn.Module):
        pass

    space = registry.make("space", "nasbench201", given={})
    evaluator = registry.make(
        "evaluator", "train", space, given={"data": "digits", "device": "cpu", "scale": {"channels": 2}}
    )
    evaluator.prepare()
    network = evaluator.build(space.arch([3] * 6), 0)
    assert graphs.same_every_step(network, evaluator.task)
    assert not graphs.same_every_step(nn.Sequential(network, Theirs()), evaluator.task)
    assert evaluator.training(network, evaluator.recipe, 0)._replayed is None, "there is no GPU"
    supernet = registry.make(
        "evaluator", "supernet", space, given={"data": "digits", "device": "cpu", "scale": {"channels": 2}}
    )
    supernet.prepare()
    assert not graphs.same_every_step(supernet.supernet(), supernet.task)
