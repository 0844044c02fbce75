"""A space within limits on what its members cost, and strategies that search it without knowing of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from nastool.core import registry
from nastool.core.costs import Costs
from nastool.core.errors import InputError, NastoolError
from nastool.core.limits import Limits, enumerable, limited, limits_of, repaired, whole
from nastool.core.space import SearchSpace, mutate_each
from nastool.core.strategy import Strategy
from nastool.core.tables import Tabular
from nastool.core.values import Arch, Evaluation, Proposal, Trial
from nastool.nets.inheritance import Growing
from nastool.spaces.morph_cnn import MorphCNN
from nastool.spaces.nasbench101 import NasBench101
from nastool.spaces.nasbench201 import NasBench201

PRICES = (0, 1, 10, 90, 2)
"""Of the operations of NAS-Bench-201, in a made-up currency."""


def price(arch: Arch, names: Sequence[str] = ("params",)) -> dict[str, float]:
    total = float(sum(PRICES[choice] for choice in arch.choices))
    return dict.fromkeys(names, total)


def within(*texts: str, space: SearchSpace | None = None, at_hand: bool = True, find: Any = price) -> SearchSpace:
    limits = Limits.parse(texts)
    limits.costs = Costs(find, at_hand=at_hand)
    return limited(space or NasBench201(), limits)


class TestLimits:
    def test_are_read_once_each_in_one_order(self) -> None:
        limits = Limits.parse(["params<=50k", "flops<=1M", "params<=50000", "params>=2"])
        assert str(limits) == "flops<=1000000, params<=50000, params>=2"
        assert limits.names == ("flops", "params")

    def test_excess_is_relative_to_the_bounds(self) -> None:
        limits = Limits.parse(["params<=100", "flops<=50"])
        assert limits.excess(Arch(NasBench201().ref, (3,) * 6)) == 0, "nothing is known of costs yet"
        limits.costs = Costs(price)
        assert limits.excess(Arch(NasBench201().ref, (3, 3, 0, 0, 0, 0))) == pytest.approx(0.8 + 2.6)
        assert limits.allow(Arch(NasBench201().ref, (0, 0, 0, 0, 0, 2)))

    def test_an_unknown_cost_is_beyond(self) -> None:
        limits = Limits.parse(["params<=100"])
        limits.costs = Costs(lambda arch, names: {})
        assert limits.excess(Arch(NasBench201().ref, (0,) * 6)) == np.inf

    def test_what_is_measured_is_looked_at_last(self) -> None:
        asked: list[str] = []

        def find(arch: Arch, names: Sequence[str]) -> dict[str, float]:
            asked.extend(names)
            return price(arch, names)

        limits = Limits.parse(["latency_ms<=5", "params<=50"])
        limits.costs = Costs(find)
        small, slow, large = (Arch(NasBench201().ref, (*op, 0, 0, 0, 0)) for op in ((1, 1), (2, 2), (3, 3)))
        assert limits.excess(large) > limits.excess(slow) > limits.excess(small) == 0
        assert asked.count("params") == 3 and asked.count("latency_ms") == 2


class TestSpace:
    def test_is_the_same_space_but_for_its_members(self) -> None:
        space, own = within("params<=30"), NasBench201()
        assert space.ref == own.ref and isinstance(space, NasBench201 | Tabular) and whole(space).ref == own.ref
        members = list(space.members())
        assert members == [arch for arch in own.members() if price(arch)["params"] <= 30]
        rng = np.random.default_rng(0)
        for _ in range(200):
            arch = space.sample(rng)
            assert space.is_member(arch) and price(arch)["params"] <= 30
            assert set(space.neighbors(arch)) == set(own.neighbors(arch)) & set(members)
            assert {space.mutate(arch, rng), mutate_each(space, arch, rng, 0.3)} <= set(members)
        assert limits_of(own) is None and whole(own) is own

    def test_is_sampled_uniformly_where_it_is_not_tiny(self) -> None:
        space, rng = within("params<=30"), np.random.default_rng(0)
        members = list(space.members())
        counts = dict.fromkeys(members, 0)
        for _ in range(4 * len(members)):
            counts[space.sample(rng)] += 1
        assert np.var(list(counts.values())) == pytest.approx(4, rel=0.2), "as of a Poisson distribution"

    def test_of_rare_members_is_found_by_repair(self) -> None:
        space, rng = within("params<=2", at_hand=False), np.random.default_rng(0)  # 28 of 15,625
        drawn = [space.sample(rng) for _ in range(100)]
        assert all(price(arch)["params"] <= 2 for arch in drawn) and len(set(drawn)) > 5
        narrow = within("params<=12", "params>=12")
        assert price(narrow.sample(rng))["params"] == 12

    def test_a_mutation_that_is_beyond_is_paid_for_by_another_decision(self) -> None:
        space, rng = within("params<=12", "params>=12"), np.random.default_rng(0)
        arch = space.arch([2, 4, 0, 0, 0, 0])
        assert not list(space.neighbors(arch))
        found = {space.mutate(arch, rng).choices for _ in range(100)}
        assert found == {each for each in permutations(arch.choices) if np.sum(np.not_equal(each, arch.choices)) == 2}

    def test_is_gone_through_to_the_last_member(self) -> None:
        space, rng, seen = within("params<=2"), np.random.default_rng(0), set[str]()
        while (arch := space.sample_new(rng, seen, lambda arch: str(arch.choices))) is not None:
            assert str(arch.choices) not in seen
            seen.add(str(arch.choices))
        assert len(seen) == len(list(space.members())) == 28

    def test_without_a_member_says_so(self) -> None:
        space = within("params<=-1")
        with pytest.raises(NastoolError, match="no architecture of space nasbench201 was found within"):
            space.sample(np.random.default_rng(0))
        with pytest.raises(ValueError, match="is one decision away"):
            space.mutate(space.arch([0] * 6), np.random.default_rng(0))
        limits = limits_of(space)
        assert limits is not None
        with pytest.raises(InputError, match=r"--limit params<=-1: .* the nearest has params 0.0000: give more room"):
            limits.check(whole(space))

    def test_goes_beyond_what_a_space_overrides(self) -> None:
        """NAS-Bench-101 draws and mutates in its own way."""

        def edges(arch: Arch, names: Sequence[str]) -> dict[str, float]:
            return {name: float(sum(arch.choices[:21])) for name in names}

        space, rng = within("params<=7", space=NasBench101(), find=edges), np.random.default_rng(0)
        arch = space.sample(rng)
        for _ in range(50):
            arch = space.mutate(arch, rng)
            assert sum(arch.choices[:21]) <= 7 and whole(space).is_member(arch)

    def test_grows_no_further_than_it_may(self) -> None:
        def layers(arch: Arch, names: Sequence[str]) -> dict[str, float]:
            return {name: float(len(MorphCNN().read(arch))) for name in names}

        space = within("params<=4", space=MorphCNN(), find=layers)
        assert isinstance(space, Growing)
        start = space.start()
        (deeper, *_) = space.morphisms(start)["deeper"]
        assert not space.morphisms(deeper)["deeper"] and space.morphisms(deeper)["wider"]

    def test_with_a_limit_that_takes_long_judges_only_what_it_gives(self) -> None:
        judged: list[Arch] = []

        def find(arch: Arch, names: Sequence[str]) -> dict[str, float]:
            judged.append(arch)
            return price(arch, names)

        space, rng = within("latency_ms<=30", at_hand=False, find=find), np.random.default_rng(0)
        assert space.is_member(space.arch([3] * 6)) and len(list(space.neighbors(space.arch([0] * 6)))) == 24
        assert not judged and not enumerable(space)
        arch = space.sample(rng)
        assert price(space.mutate(arch, rng))["params"] <= 30 and judged

    def test_repairs_what_somebody_else_drew(self) -> None:
        space = within("params<=30")
        archs = [space.arch([3] * 6), space.arch([0] * 6), space.arch([9] * 6)]
        found = repaired(space, archs, seed=0)
        assert len(found) == 2 and found[1] == archs[1] and price(found[0])["params"] <= 30
        assert repaired(NasBench201(), archs, seed=0) == archs


class Stubborn(Strategy):
    """Proposes what it is given, in order, whatever the space says; the last for ever."""

    name = "stubborn"

    def __init__(self, space: SearchSpace, archs: Sequence[Sequence[int]]) -> None:
        super().__init__(space)
        self.archs = [space.arch(choices) for choices in archs]
        self.remembered: list[Arch] = []
        self.proposed = 0

    def propose(self) -> Proposal | None:
        self.proposed += 1
        return Proposal(self.archs[min(self.proposed, len(self.archs)) - 1], 3, notes={"expected": 1.0, "kept": 2})

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self.remembered.append(proposal.arch)

    def tell(self, trial: Trial) -> None:
        pass


class TestStrategies:
    def test_what_is_beyond_is_asked_for_again(self) -> None:
        strategy = Stubborn(within("params<=30"), [[3] * 6, [3] * 5 + [0], [1] * 6])
        proposal = strategy.ask()
        assert proposal is not None and proposal.arch.choices == (1,) * 6
        assert strategy.remembered == [proposal.arch] and proposal.notes == {"expected": 1.0, "kept": 2}

    def test_what_comes_again_is_repaired_and_remembered_as_such(self) -> None:
        strategy = Stubborn(within("params<=30"), [[3] * 6])
        proposal = strategy.ask()
        assert proposal is not None and price(proposal.arch)["params"] <= 30 and proposal.parent == 3
        assert strategy.remembered == [proposal.arch]
        assert proposal.notes == {"kept": 2, "instead_of": [3] * 6}
        again = Stubborn(within("params<=30"), [[3] * 6]).ask()
        assert again == proposal, "the same seed gives the same"

    def test_what_cannot_be_repaired_ends_the_search(self) -> None:
        with pytest.raises(NastoolError, match="strategy stubborn proposes nothing within --limit params<=-1"):
            Stubborn(within("params<=-1"), [[3] * 6]).ask()

    @pytest.mark.parametrize("text", ["params<=30", "latency_ms<=30"])
    @pytest.mark.parametrize(
        "name",
        [
            *("random", "evolution", "local-search", "bo", "bananas", "pnas", "q-learning", "reinforce", "nsga2"),
            "evolution-by-rate",
        ],
    )
    def test_propose_nothing_beyond_and_go_on_exactly(self, name: str, text: str) -> None:
        """Also from JSON after any trial; a strategy's own code knows of no limit."""
        given = {"population": 8, "mutation_rate": 0.3} if name == "evolution-by-rate" else {}
        space = within(text, at_hand=text.startswith("params"))
        plugin = "evolution" if given else name

        def made() -> Strategy:
            strategy: Strategy = registry.make("strategy", plugin, space, given={"seed": 1, **given})
            return strategy

        strategy, trials = made(), list[Trial]()
        for number in range(24):
            if number == 15:
                state = json.loads(json.dumps(strategy.state_dict()))
                strategy = made()
                strategy.load_state_dict(state, trials)
            proposal = strategy.ask()
            assert proposal is not None and price(proposal.arch)["params"] <= 30
            loss = -sum(np.sin(i + choice) for i, choice in enumerate(proposal.arch.choices))
            trials.append(Trial(number, proposal, "done", Evaluation({"x": loss}, 1.0), (loss,)))
            strategy.tell(trials[-1])
        straight = made()
        for trial in trials:
            assert straight.ask() == trial.proposal
            straight.tell(trial)
