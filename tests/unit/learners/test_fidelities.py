"""Ladders of levels and the median rule, by results alone."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nastool.core.errors import InputError
from nastool.learners import fidelities
from nastool.learners.fidelities import Asha, Hyperband, Ladder, Median, levels


def climb(ladder: Ladder, whole: int, minimum: int = 1) -> Ladder:
    ladder.climb(levels(whole, None, minimum, ladder.eta))
    return ladder


def play(ladder: Ladder, losses: Mapping[int, float] | list[float], trials: int | None = None) -> dict[int, list[int]]:
    """Which architectures each level had, one trial at a time; losses: of the architectures, whatever the level."""
    source: dict[int, int] = {}
    had: dict[int, list[int]] = {rung: [] for rung in range(len(ladder.levels))}
    number = new = 0
    while trials is None or number < trials:
        step = ladder.next(new < len(losses))
        if step is None:
            break
        if step.source is None:
            source[number], new = new, new + 1
        else:
            source[number] = source[step.source]
        ladder.begun(number, step.source)
        assert ladder.rungs[number] == step.rung
        had[step.rung].append(source[number])
        ladder.ended(number, losses[source[number]])
        number += 1
    return had


def shuffled(count: int, seed: int) -> list[float]:
    return random.Random(seed).sample([float(i) for i in range(count)], count)


# --- levels


@pytest.mark.parametrize(
    ("whole", "known", "minimum", "eta", "expected"),
    [
        (27, None, 1, 3, (1, 3, 9, 27)),
        (81, None, 1, 3, (1, 3, 9, 27, 81)),
        (20, None, 1, 3, (2, 6, 20)),
        (20, None, 3, 3, (6, 20)),
        (16, None, 1, 4, (1, 4, 16)),
        (2, None, 1, 3, (2,)),
        (200, [12], 1, 3, (12, 200)),
        (200, [12], 13, 3, (200,)),
        (108, [4, 12, 36], 1, 4, (12, 108)),
    ],
)
def test_levels_are_apart_by_the_factor(
    whole: float, known: list[float] | None, minimum: float, eta: int, expected: tuple[float, ...]
) -> None:
    assert levels(whole, known, minimum, eta) == expected


# --- Hyperband


@pytest.mark.parametrize(
    ("whole", "ladders", "budgets"),
    [
        (27, [[27, 9, 3, 1], [12, 4, 1], [6, 2], [4]], [108, 99, 108, 108]),
        (81, [[81, 27, 9, 3, 1], [34, 11, 3, 1], [15, 5, 1], [8, 2], [5]], [405, 363, 351, 378, 405]),
    ],
)
def test_hyperband_has_the_published_brackets(whole: int, ladders: list[list[int]], budgets: list[int]) -> None:
    ladder = climb(Hyperband(), whole)
    assert isinstance(ladder, Hyperband)
    assert [ladder.sizes(s) for s in reversed(range(len(ladder.levels)))] == ladders
    trials = sum(map(sum, ladders))
    had = play(ladder, shuffled(3 * sum(sizes[0] for sizes in ladders), 0), 2 * trials)
    planned = [sum(sizes[-1 - i] for sizes in ladders if i < len(sizes)) for i in range(len(ladders))]  # the last first
    assert [len(had[rung]) for rung in reversed(had)] == [2 * count for count in planned], "all of it, twice"
    spent = [
        sum(count * level for count, level in zip(sizes, ladder.levels[-len(sizes) :], strict=True))
        for sizes in ladders
    ]
    assert spent == budgets
    assert max(spent) <= len(ladder.levels) * whole


def test_hyperband_keeps_the_best_of_each_bracket() -> None:
    losses = shuffled(49, 1)
    had = play(climb(Hyperband(), 27), losses, 40 + 17 + 8 + 4)
    first, second = list(range(27)), list(range(27, 39))
    best = sorted(first, key=losses.__getitem__)
    of_second = sorted(second, key=losses.__getitem__)
    assert had[0] == first
    assert sorted(had[1][:9]) == sorted(best[:9])
    assert had[1][9:] == second
    assert sorted(had[2][:3]) == sorted(best[:3])
    assert sorted(had[2][3:7]) == sorted(of_second[:4])
    assert had[3][0] == best[0]
    assert had[3][1] == of_second[0]


def test_workers_that_wait_for_a_level_begin_the_next_bracket() -> None:
    ladder = climb(Hyperband(), 9)
    for number in range(9):
        ladder.begun(number, None)
    step = ladder.next()
    assert step is not None
    assert (step.rung, step.source) == (1, None), "the first bracket has all of its nine, of which none has ended"
    ladder.begun(9, None)
    for number in range(9):
        ladder.ended(number, number)
    step = ladder.next()
    assert step is not None
    assert (step.rung, step.source) == (1, 0)


def test_hyperband_ends_where_architectures_run_out() -> None:
    losses = shuffled(10, 2)  # of the 27 of its first bracket
    had = play(climb(Hyperband(), 27), losses)
    best = sorted(range(10), key=losses.__getitem__)
    assert had == {0: list(range(10)), 1: best[:3], 2: best[:1], 3: []}


def test_failed_trials_leave_gaps() -> None:
    losses = [math.inf] * 25 + [2.0, 1.0]
    had = play(climb(Hyperband(), 27), losses, 27 + 2 + 2 + 1)
    assert had == {0: list(range(27)), 1: [26, 25], 2: [26, 25], 3: [26]}


# --- ASHA


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_asha_with_full_levels_is_successive_halving(eta: int, seed: int) -> None:
    """With all of a level's results there, and the same ranking at each level, the survivors are the same."""
    ladder = climb(Asha(eta=eta), eta**3)
    losses = shuffled(eta**3, seed)
    for number in range(len(losses)):
        ladder.begun(number, None)
    for number, loss in enumerate(losses):
        ladder.ended(number, loss)
    source = list(range(len(losses)))
    had: dict[int, list[int]] = {1: [], 2: [], 3: []}
    while (step := ladder.next(new=False)) is not None:
        assert step.source is not None
        number = len(source)
        source.append(source[step.source])
        had[step.rung].append(source[number])
        ladder.begun(number, step.source)
        ladder.ended(number, losses[source[number]])
    best = sorted(range(len(losses)), key=losses.__getitem__)
    assert {rung: sorted(found) for rung, found in had.items()} == {
        rung: sorted(best[: eta ** (3 - rung)]) for rung in (1, 2, 3)
    }


@pytest.mark.parametrize("seed", range(20))
def test_nothing_goes_on_twice_nor_without_being_among_the_best(seed: int) -> None:
    """Several at a time, that end in any order and rank otherwise at each level, some failing."""
    moments = random.Random(seed)
    ladder: Ladder = climb(Asha(eta=moments.choice([2, 3, 4])) if seed % 2 else Hyperband(), 81)
    running: list[int] = []
    ended: dict[int, list[tuple[float, int]]] = {rung: [] for rung in range(len(ladder.levels))}
    gone: set[int] = set()
    for number in range(600):
        while running and (len(running) == 4 or moments.random() < 0.5):
            other = running.pop(moments.randrange(len(running)))
            loss = math.inf if moments.random() < 0.1 else moments.random()
            ended[ladder.rungs[other]].append((loss, other))
            ladder.ended(other, loss)
        step = ladder.next()
        assert step is not None, "there is always something to begin"
        if step.source is not None:
            assert step.source not in gone
            gone.add(step.source)
            below = sorted(ended[step.rung - 1])
            loss = next(loss for loss, other in below if other == step.source)
            assert math.isfinite(loss)
            if isinstance(ladder, Asha):
                place = [other for _, other in below].index(step.source)
                assert place < len(below) // ladder.eta
        ladder.begun(number, step.source)
        running.append(number)
    assert len(ended[len(ladder.levels) - 1]) > 3
    assert gone.isdisjoint(ladder.waiting())


@pytest.mark.parametrize("rule", ["asha", "hyperband"])
def test_a_ladder_goes_on_from_what_began_and_ended(rule: str) -> None:
    """Told of all that began, then of all that ended, it decides as the one that saw it happen."""
    moments = random.Random(0)
    one = fidelities.made(rule)
    assert isinstance(one, Ladder)
    climb(one, 27)
    began: list[int | None] = []
    ended: list[tuple[int, float]] = []
    running: list[int] = []
    for number in range(250):
        other = fidelities.made(rule)
        assert isinstance(other, Ladder)
        climb(other, 27)
        for earlier, source in enumerate(began):
            other.begun(earlier, source)
        for earlier, loss in ended:
            other.ended(earlier, loss)
        assert other.next() == one.next()
        assert sorted(other.waiting()) == sorted(one.waiting())
        step = one.next()
        assert step is not None
        one.begun(number, step.source)
        began.append(step.source)
        running.append(number)
        if len(running) == 3:
            ended.append((running.pop(moments.randrange(3)), moments.random()))
            one.ended(*ended[-1])


def test_where_levels_are_further_apart_fewer_go_on() -> None:
    """A table's: as much time is spent at each level as at any other."""
    asha, hyperband = Asha(), Hyperband()
    for ladder in (asha, hyperband):
        ladder.climb((12, 200))
    assert asha.etas == hyperband.etas == [16]
    assert [hyperband.sizes(s) for s in (1, 0)] == [[16, 1], [2]]
    assert (asha.least, hyperband.least) == (17, 17)
    assert (climb(Asha(), 27).least, climb(Hyperband(), 27).least) == (40, 40)


# --- who waits


def test_by_asha_all_wait_that_have_not_gone_on() -> None:
    """Also the last of a hundred: by Algorithm 2 it goes on once enough that end later are worse."""
    ladder = Asha(eta=4)
    ladder.climb((1, 4))
    for number in range(100):
        ladder.begun(number, None)
        ladder.ended(number, number)
    assert ladder.waiting() == list(range(100))
    for number in range(100, 400):
        ladder.begun(number, None)
        ladder.ended(number, number)
    sources = []
    while (step := ladder.next(new=False)) is not None:
        sources.append(step.source)
        ladder.begun(400 + len(sources), step.source)
    assert sources == list(range(100))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=150), st.sampled_from([2, 3, 4]))
def test_asha_keeps_what_is_near_to_going_on(losses: list[int], eta: int) -> None:
    """Of each level the best that wait, all that would go on if a quarter more did, and not many others."""
    ladder = Asha(eta=eta)
    ladder.climb((1, eta, eta**2))
    for number, loss in enumerate(losses):
        step = ladder.next()
        assert step is not None
        assert step.source is None or step.source in ladder.kept()
        ladder.begun(number, step.source)
        ladder.ended(number, loss)
    kept, left = set(ladder.kept()), ladder.waiting()
    for rung in (0, 1):
        on_rung = [number for number in left if ladder.rungs[number] == rung]
        ended = sorted((losses[number], number) for number, own in ladder.rungs.items() if own == rung)
        near = {number for _, number in ended[: len(ended) // eta * 5 // 4 + 20]}
        assert kept & set(on_rung) == near & set(on_rung)


def test_hyperband_waits_for_the_best_of_each_level_alone() -> None:
    ladder = climb(Hyperband(), 9)
    for number in range(9):
        ladder.begun(number, None)
    for number in range(8):
        ladder.ended(number, 8 - number)
        assert ladder.waiting() == [*reversed(range(max(0, number - 2), number + 1))], "three of nine go on"


# --- the median rule


def test_the_median_rule_ends_what_is_worse_than_the_others_were() -> None:
    rule = Median(others=3)
    for number, curve in enumerate([[0.9, 0.5], [0.8, 0.4], [0.7, 0.3]]):
        assert not any([rule.observe(number, step, loss) for step, loss in enumerate(curve, 1)])
    assert not rule.observe(3, 1, 0.8), "as good as the median"
    assert not rule.observe(3, 2, 0.6), "its best is as good as the median of the means .7, .6 and .5"
    assert rule.observe(4, 1, 0.81)
    assert not rule.observe(5, 1, 0.75)
    assert rule.observe(5, 2, 0.9), "its best, .75, is worse than .7, the median of .7, .6, .5 and .7"


def test_the_median_rule_needs_others_and_grace() -> None:
    rule = Median(grace=2, others=2)
    for number in (0, 1):
        rule.observe(number, 1, 0.0)
    assert not rule.observe(2, 1, 1.0), "its grace"
    rule.observe(0, 2, 0.0)
    assert not rule.observe(2, 2, 1.0), "one other alone has come as far"
    rule.observe(1, 2, 0.0)
    rule.observe(3, 1, 1.0)
    assert rule.observe(3, 2, 1.0)


# --- as text


def test_rules_are_read_and_written() -> None:
    assert fidelities.spelt("asha") == fidelities.spelt("asha:minimum=1,eta=3") == "asha:eta=3,minimum=1"
    assert fidelities.shown("asha:eta=4,minimum=1") == "asha(eta=4)"
    assert fidelities.shown("hyperband:eta=3,minimum=1") == "hyperband"
    assert fidelities.spelt("asha:predict=none") == "asha:eta=3,minimum=1", "as runs of earlier versions have it"
    assert fidelities.shown("asha:predict=power-law") == "asha(predict=power-law)"
    rule = fidelities.made("hyperband:eta=4,minimum=2")
    assert isinstance(rule, Hyperband)
    assert (rule.eta, rule.minimum) == (4, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sha", "there is no such rule; did you mean"),
        ("asha:eta=1", "need 2 <= eta <= 1,000, got 1"),
        ("asha:minimum=0", "need minimum >= 1"),
        ("asha:rungs=3", "no option 'rungs'"),
        ("asha:predict=line", "option predict must be power-law [|] none, got 'line'"),
        ("median:others=0", "need grace >= 1 and others >= 1"),
        ("asha:eta", "write --fidelity NAME"),
    ],
)
def test_a_rule_that_is_none(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fidelities.made(text)
