"""What learning curves predict: laws that made them are found again, whatever the noise; what follows none is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nastool.core.values import Arch, Evaluation, Proposal, SpaceRef, Trial
from nastool.learners.curves import FEWEST, Curves, power_law

ARCH = Arch(SpaceRef("made-up"), (0,))


def law(steps: NDArray[np.float64] | float, end: float, fall: float, exponent: float) -> NDArray[np.float64]:
    return np.asarray(end + fall * np.asarray(steps, dtype=float) ** -exponent)


def first(count: int) -> NDArray[np.float64]:
    return np.arange(1.0, count + 1)


@given(
    end=st.floats(-1, 1), fall=st.floats(0.05, 1), exponent=st.floats(0.1, 4), count=st.integers(FEWEST, 30),
    factor=st.floats(1, 20),
)  # fmt: skip
def test_a_law_is_found_again(end: float, fall: float, exponent: float, count: int, factor: float) -> None:
    steps = first(count)
    found = power_law(steps.tolist(), law(steps, end, fall, exponent).tolist(), factor * count)
    assert found == pytest.approx(float(law(factor * count, end, fall, exponent)), abs=1e-5)


def test_golden_values() -> None:
    """1/t has come to 1/27 after 27, 1/sqrt(t) to 1/sqrt(27); steps may be any that ascend."""
    assert power_law(range(1, 10), [1 / t for t in range(1, 10)], 27) == pytest.approx(1 / 27, abs=1e-6)
    steps = [10, 20, 40, 50, 90]
    assert power_law(steps, [t**-0.5 for t in steps], 270) == pytest.approx(270**-0.5, abs=1e-6)


def test_it_is_the_nearest_of_all_power_laws() -> None:
    """As a search over all three parameters has it."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        steps = first(12)
        losses = law(steps, -0.9, 0.6, rng.uniform(0.3, 2)) + rng.normal(0, 0.01, 12)
        exponents = np.geomspace(0.05, 5, 4000)
        fits = [np.polyfit(steps**-c, losses, 1, full=True)[:2] for c in exponents]
        best = min(range(len(exponents)), key=lambda i: float(fits[i][1][0]))
        (slope, start), _ = fits[best]
        found = power_law(steps.tolist(), losses.tolist(), 27)
        assert found == pytest.approx(start + slope * 27 ** -exponents[best], abs=1e-4)


def test_curves_that_will_cross_are_told_apart() -> None:
    """One leads after 9 epochs by .031, and is .038 behind after 27; each value is off by .01."""
    rng = np.random.default_rng(0)
    steps, right, last = first(9), 0, 0
    for _ in range(100):
        slow, quick = (law(steps, *how) + rng.normal(0, 0.01, 9) for how in ((-0.9, 0.6, 0.5), (-0.75, 0.5, 1.5)))
        end = [power_law(steps.tolist(), each.tolist(), 27) for each in (slow, quick)]
        assert end[0] is not None and end[1] is not None
        right += end[0] < end[1]
        last += slow[-1] < quick[-1]
    assert right >= 90 and last <= 10


def test_it_is_nearer_than_a_noisy_last_value() -> None:
    rng = np.random.default_rng(1)
    steps, end = first(18), float(law(27, -0.9, 0.5, 1))
    off = []
    for _ in range(200):
        losses = law(steps, -0.9, 0.5, 1) + rng.normal(0, 0.02, 18)
        found = power_law(steps.tolist(), losses.tolist(), 27)
        assert found is not None
        off.append((abs(found - end), abs(losses[-1] - end)))
    predicted, last = np.mean(off, axis=0)
    assert predicted < 0.8 * last


@pytest.mark.parametrize(
    "losses", [[0.5] * 9, [float(i) for i in range(9)], [0.9, 0.5, 0.4, 0.3], []], ids=["flat", "rising", "few", "none"]
)
def test_what_falls_by_no_law_is_left(losses: list[float]) -> None:
    assert power_law(range(1, len(losses) + 1), losses, 27) is None


def stopped(number: int, last: float, continues: int | None = None) -> Trial:
    proposal = Proposal(ARCH, fidelity=3, continues=continues)
    return Trial(number, proposal, "stopped", Evaluation({}, 1.0), early=(last,))


def test_a_curve_goes_on_where_its_training_does() -> None:
    curves = Curves("power-law")
    curves.whole = 27
    for step in range(1, 4):
        curves.take(0, step, 1 / step)
    few = stopped(0, 1 / 3)
    assert curves.ended(few) == few, "its last value, as long as there are few"
    for step in range(4, 10):
        curves.take(1, step, 1 / step)
    (early,) = curves.ended(stopped(1, 1 / 9, continues=0)).early
    assert early == pytest.approx(1 / 27, abs=1e-6)
    whole = Trial(2, Proposal(ARCH, continues=1), "done", Evaluation({}, 1.0), (0.03,))
    assert curves.ended(whole) is whole


def test_without_a_law_the_last_value_counts() -> None:
    curves = Curves(None)
    curves.whole = 27
    for step in range(1, 10):
        curves.take(0, step, 1 / step)
    assert curves.predicted(0, 1 / 9) == 1 / 9 and curves.ended(stopped(0, 1 / 9)).early == (1 / 9,)
