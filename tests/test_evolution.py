"""Evolution where there is little to mutate."""

from __future__ import annotations

import pytest

from nastool.core import Decision, Evaluation, Trial
from nastool.interfaces import SearchSpace
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.evolution import RegularizedEvolution
from nastool.testing.strategies import TinySpace


class OneMember(TinySpace):
    """A space without neighbors."""

    def __init__(self) -> None:
        SearchSpace.__init__(self, [Decision("a", ("x",))])


@pytest.mark.parametrize("rate", [0.0, 1e-15, 0.5, 1.0])
def test_every_mutation_rate_ends_and_changes_something(rate: float) -> None:
    space = NasBenchMacro()
    strategy = RegularizedEvolution(space, seed=0, population=2, mutation_rate=rate, dedup=False)
    archs = []
    for i in range(10):
        proposal = strategy.ask()
        assert proposal is not None
        archs.append(proposal.arch)
        if proposal.parent is not None:
            assert proposal.arch != archs[proposal.parent]
        strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("dedup", [True, False])
def test_a_space_of_one_is_no_trap(rate: float, dedup: bool) -> None:
    strategy = RegularizedEvolution(OneMember(), seed=0, population=1, mutation_rate=rate, dedup=dedup)
    for i in range(3):
        proposal = strategy.ask()
        if proposal is None:
            assert dedup and i == 1, "with dedup it ends when it has seen everything"
            return
        strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))
    assert not dedup
