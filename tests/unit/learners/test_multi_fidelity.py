"""Strategies whose trainings end early: what is asked, what the strategy within is told, and going on after a stop."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.strategy import Strategy
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.learners.multi_fidelity import ByCurves, ByLevels, Watched, around, notes
from nastool.spaces.nasbench201 import NasBench201
from nastool.testing.strategies import TinySpace

FACTS: Mapping[str, object] = {"epochs": 27}


def by_levels(
    name: str = "random", rule: str = "asha", space: Any = None, facts: Mapping[str, object] = FACTS, **options: Any
) -> ByLevels:
    inner: Strategy = registry.make("strategy", name, space or NasBench201(), given={"seed": 3, **options})
    found = around(inner, rule, registry.load("evaluator", "train"))
    assert isinstance(found, ByLevels)
    found.take(facts)
    return found


def ended(number: int, proposal: Proposal) -> Trial:
    """A made-up objective that is another at each fidelity; every ninth trial fails."""
    if number % 9 == 4:
        return Trial(number, proposal, "failed", error="made up")
    loss = hash((proposal.arch.choices, proposal.fidelity)) % 1009 / 1009
    if proposal.fidelity is None:
        return Trial(number, proposal, "done", Evaluation({}, 1.0), (loss,))
    return Trial(number, proposal, "stopped", Evaluation({}, 1.0), early=(loss,))


def play(strategy: Strategy, trials: int) -> list[Trial]:
    found: list[Trial] = []
    while len(found) < trials and (proposal := strategy.ask()) is not None:
        found.append(ended(len(found), proposal))
        strategy.tell(found[-1])
    return found


@pytest.mark.parametrize("rule", ["asha", "hyperband"])
@pytest.mark.parametrize("name", ["random", "evolution", "bo", "local-search"])
def test_what_goes_on_is_the_same_architecture_at_the_next_level(name: str, rule: str) -> None:
    strategy = by_levels(name, rule)
    trials = play(strategy, 90)
    levels = [1, 3, 9, None]
    gone: list[int] = []
    for trial in trials:
        proposal = trial.proposal
        if proposal.continues is not None:
            source = trials[proposal.continues]
            assert source.state == "stopped"
            assert source.proposal.arch == proposal.arch
            assert levels.index(proposal.fidelity) == levels.index(source.proposal.fidelity) + 1  # type: ignore[arg-type]
            gone.append(proposal.continues)
    assert len(gone) == len(set(gone))
    assert {trial.proposal.fidelity for trial in trials} == {*levels}
    new = [trial.proposal.arch for trial in trials if trial.proposal.continues is None]
    assert len(set(new)) == len(new), "the strategy within proposes no architecture twice"
    paused = {trial.id for trial in trials if trial.state == "stopped" and trial.id not in gone}
    assert {*strategy.wanted()} <= paused


@pytest.mark.parametrize("rule", ["asha", "hyperband", "asha:eta=2,minimum=3"])
@pytest.mark.parametrize("name", ["random", "evolution", "bo", "bananas", "reinforce"])
def test_it_goes_on_bit_for_bit(name: str, rule: str) -> None:
    """From its state and the trials, at any moment, with several at a time: the same proposals as without a stop."""
    options: dict[str, Any] = {"networks": 1, "epochs": 3} if name == "bananas" else {}
    strategy = by_levels(name, rule, **options)
    finished: list[Trial] = []
    running: list[Trial] = []
    for number in range(60):
        if number % 6 == 5:
            state = json.loads(json.dumps(strategy.state_dict()))
            other = by_levels(name, rule, **options)
            other.load_state_dict(state, [*finished, *running])
            assert json.loads(json.dumps(other.state_dict())) == state
            strategy = other if number % 12 == 5 else strategy
        proposal = strategy.ask()
        assert proposal is not None
        running.append(Trial(number, proposal))
        if len(running) == 3:
            trial = running.pop(number % 3)
            finished.append(ended(trial.id, trial.proposal))
            strategy.tell(finished[-1])
            running.sort(key=lambda trial: trial.id)
    whole = by_levels(name, rule, **options)
    again: list[Proposal] = []
    told = iter(finished)
    for number in range(60):
        proposal = whole.ask()
        assert proposal is not None
        again.append(proposal)
        if number >= 2:
            whole.tell(next(told))
    every = {trial.id: trial.proposal for trial in [*finished, *running]}
    assert again == [every[number] for number in range(60)]


@pytest.mark.parametrize("rule", ["asha", "hyperband"])
def test_a_space_that_runs_out_ends_with_what_can_go_on(rule: str) -> None:
    strategy = by_levels(rule=rule, space=TinySpace(), facts={"epochs": 9})
    trials = play(strategy, 1000)
    new = [trial for trial in trials if trial.proposal.continues is None]
    assert len(new) == 6
    assert [trial.proposal.fidelity for trial in trials if trial not in new] == [3, 3], "a third of the six go on"
    led = strategy.lead()
    assert led is not None and led.fidelity is None, "the better of these leads to a result"
    strategy.tell(_told(len(trials), led))
    assert strategy.ask() is None


@pytest.mark.parametrize("rule", ["asha", "hyperband"])
def test_the_best_of_what_was_stopped_leads_to_a_whole_training(rule: str) -> None:
    strategy = by_levels(rule=rule, facts={"epochs": 9})
    first, second = (strategy.ask() for _ in range(2))
    assert first is not None and second is not None
    for number, (proposal, loss) in enumerate([(first, 0.5), (second, 0.4)]):
        assert strategy.lead() is None, "something still runs"
        strategy.tell(Trial(number, proposal, "stopped", Evaluation({}, 1.0), early=(loss,)))
    for number, (source, fidelity) in enumerate([(1, 3), (2, None)], 2):
        assert strategy.wanted() and source in strategy.wanted()
        led = strategy.lead()
        assert led is not None and (led.continues, led.fidelity) == (source, fidelity)
        assert led.arch == second.arch and strategy.asked == number + 1
        strategy.tell(_told(number, led))
    for number in range(4, 40):
        more = strategy.ask()
        assert more is not None, "it goes on as ever"
        strategy.tell(ended(number, more))


def _told(number: int, proposal: Proposal) -> Trial:
    if proposal.fidelity is None:
        return Trial(number, proposal, "done", Evaluation({}, 1.0), (0.1,))
    return Trial(number, proposal, "stopped", Evaluation({}, 1.0), early=(0.1,))


def test_a_model_sees_one_level_the_highest_with_enough() -> None:
    strategy = by_levels("bo", init=4)
    seen: list[set[float | None]] = []
    inner: Any = strategy.inner
    refit = inner.refit

    def note(trials: list[Trial]) -> None:
        seen.append({trial.proposal.fidelity for trial in trials})
        refit(trials)

    inner.refit = note
    trials = play(strategy, 120)
    assert seen[0] == set()
    levels = [each.pop() for each in seen if each]
    assert all(not each for each in seen if each), "one level at a time"
    assert list(dict.fromkeys(levels)) == [1, 3, 9, None], "from the lowest to the highest"
    assert len([t for t in trials if t.proposal.fidelity is None]) >= 4
    assert all("expected" not in trial.proposal.notes for trial in trials)


def test_strategies_within_are_told_of_first_results_as_of_whole_ones() -> None:
    strategy = by_levels("evolution", population=5)
    trials = play(strategy, 40)
    inner: Any = strategy.inner
    first = [trial for trial in trials if trial.proposal.continues is None and trial.state != "failed"]
    assert [trial.id for trial in inner.alive] == [trial.id for trial in first[-5:]]
    assert {trial.state for trial in inner.alive} == {"done"}


def test_median_stops_and_tells_what_a_trial_came_to() -> None:
    inner: Strategy = registry.make("strategy", "evolution", NasBench201(), given={"seed": 0, "population": 3})
    strategy = around(inner, "median:others=2", registry.load("evaluator", "train"))
    assert isinstance(strategy, Watched)
    for number, loss in enumerate([0.1, 0.2]):
        proposal = strategy.ask()
        assert proposal is not None
        assert not strategy.observe(number, 1, loss)
        strategy.tell(Trial(number, proposal, "done", Evaluation({}, 1.0), (loss,)))
    proposal = strategy.ask()
    assert proposal is not None
    assert strategy.observe(2, 1, 0.9)
    strategy.tell(Trial(2, proposal, "stopped", Evaluation({}, 1.0), early=(0.9,)))
    alive: Any = inner.alive  # type: ignore[attr-defined]
    assert [(trial.id, trial.state, trial.loss) for trial in alive] == [
        (0, "done", 0.1),
        (1, "done", 0.2),
        (2, "done", 0.9),
    ]


def test_who_goes_on_is_who_will_be_better() -> None:
    """Of three curves the one that falls on is the worst after 9 epochs, and the best after 27."""
    for rule, goes_on in (("asha:minimum=9", 1), ("asha:minimum=9,predict=power-law", 2)):
        strategy = by_levels(rule=rule)
        for number, (end, fall, exponent) in enumerate([(0.25, 0.5, 1.5), (0.24, 0.5, 1.5), (0.1, 0.6, 0.5)]):
            proposal = strategy.ask()
            assert proposal is not None and proposal.fidelity == 9
            losses = [end + fall * step**-exponent for step in range(1, 10)]
            if isinstance(strategy, ByCurves):
                assert not any(strategy.observe(number, step, loss) for step, loss in enumerate(losses, 1))
            strategy.tell(Trial(number, proposal, "stopped", Evaluation({}, 1.0), early=(losses[-1],)))
        proposal = strategy.ask()
        assert proposal is not None and proposal.continues == goes_on


def test_the_median_rule_takes_what_curves_predict() -> None:
    """Of the last training, which is behind at each step and will be ahead."""
    ends = {}
    for rule in ("median:grace=5,others=2", "median:grace=5,others=2,predict=power-law"):
        inner: Strategy = registry.make("strategy", "random", NasBench201(), given={"seed": 0})
        strategy = around(inner, rule, registry.load("evaluator", "train"))
        assert isinstance(strategy, Watched)
        strategy.take(FACTS)
        for number in range(3):
            strategy.ask()
            law = (0.25, 0.2, 2) if number < 2 else (-0.4, 1.2, 0.3)
            curve = [law[0] + law[1] * step ** -law[2] for step in range(1, 7)]
            ends[rule, number] = [strategy.observe(number, step, loss) for step, loss in enumerate(curve, 1)]
    assert [any(end) for end in ends.values()] == [False, False, True, False, False, False]


def test_the_median_rule_predicts_for_trainings_of_known_length() -> None:
    inner: Strategy = registry.make("strategy", "random", NasBench201(), given={"seed": 0})
    strategy = around(inner, "median:predict=power-law", registry.load("evaluator", "train"))
    with pytest.raises(InputError, match="does not say how many epochs a training has: leave predict out"):
        strategy.take({})


@pytest.mark.parametrize(
    ("strategy", "options", "evaluator", "message"),
    [
        ("enas", {}, "supernet", "strategy enas trains shared weights"),
        ("network-morphism", {}, "train", "says itself how each network is trained"),
        ("evolution", {"inherit": True}, "train", "says itself how each network is trained"),
        ("nes-rs", {}, "train", "says itself how each network is trained"),
        ("random", {}, "supernet", "evaluator supernet measures with one fidelity alone"),
    ],
)
def test_what_does_not_go_together(strategy: str, options: dict[str, Any], evaluator: str, message: str) -> None:
    space = registry.make("space", registry.load("strategy", strategy).goes_with.get("space", "nasbench201"), given={})
    inner = registry.make("strategy", strategy, space, given=options)
    with pytest.raises(InputError, match=message):
        around(inner, "asha", registry.load("evaluator", evaluator))


@pytest.mark.parametrize("rule", ["median", "asha:predict=power-law"])
def test_what_reports_nothing_has_no_curves(rule: str) -> None:
    inner: Strategy = registry.make("strategy", "random", NasBench201(), given={})
    with pytest.raises(InputError, match="evaluator table reports nothing before a training's end"):
        around(inner, rule, registry.load("evaluator", "table"))


@pytest.mark.parametrize(
    ("facts", "levels"),
    [
        ({"epochs": 9}, (1, 3, 9)),
        ({"fidelities": "12, 200"}, (12, 200)),
        ({"fidelities": "4, 12", "epochs": 7}, (4, 12)),
    ],
)
def test_levels_are_what_the_evaluator_says(facts: dict[str, object], levels: tuple[float, ...]) -> None:
    assert by_levels(facts=facts).ladder.levels == levels


@pytest.mark.parametrize("facts", [{"epochs": 2}, {"fidelities": "200"}, {}, {"epochs": "x"}])
def test_one_level_is_none(facts: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"--fidelity: .*leave it out"):
        by_levels(facts=facts)


def test_too_few_trials_are_told() -> None:
    strategy = by_levels()
    assert list(notes(strategy, 39)) == [
        "it takes up to 40 trials until one architecture is trained to its end, by levels of 1, 3, 9, 27 epochs; "
        "where none has been by then, the best goes on to its end"
    ]
    assert not list(notes(strategy, 40)) and not list(notes(strategy, None)) and not list(notes(strategy.inner, 1))
