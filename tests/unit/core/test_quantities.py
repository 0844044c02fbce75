"""Durations and conditions as people write them."""

from __future__ import annotations

import math

import pytest

from nastool.core.errors import InputError
from nastool.core.quantities import Condition, duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("2m", 120),
        ("2min", 120),
        ("8h", 28_800),
        ("1h30m", 5400),
        ("1.5 h", 5400),
        ("2d", 172_800),
        ("500ms", 0.5),
        ("60", 60),
        (60, 60),
        (0.5, 0.5),
        (" 1h 5s ", 3605),
    ],
)
def test_a_duration(text: object, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "h", "2 weeks", "0", "-5m", "1h30", "inf", "nan", True, "2M", "1e999s", "07:30", None]
)
def test_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="length of time"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("params<=50k", "params<=50000"),
        ("params <= 3e5", "params<=300000"),
        ("flops<=1.5G", "flops<=1500000000"),
        ("latency_ms<=5", "latency_ms<=5"),
        ("latency_ms<=5ms", "latency_ms<=5"),
        ("latency_ms<=0.005s", "latency_ms<=5"),
        ("memory_mb<=1GB", "memory_mb<=1000"),
        ("seconds<=2m", "seconds<=120"),
        ("val_acc>=95%", "val_acc>=0.95"),
        ("val_loss>=-0.5", "val_loss>=-0.5"),
        ("my/metric>=2k", "my/metric>=2000"),
    ],
)
def test_a_condition(text: str, plain: str) -> None:
    found = Condition.parse(text, "--limit")
    assert str(found) == plain
    assert Condition.parse(plain, "--limit") == found, "what is recorded means the same"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("val_acc", "in quotes"),  # what a shell leaves of val_acc>=0.95
        ("", "METRIC<=VALUE"),
        ("params<50k", "METRIC<=VALUE"),
        ("params==50k", "METRIC<=VALUE"),
        ("1<=params<=2", "METRIC<=VALUE"),
        (50, "METRIC<=VALUE"),
        ("params<=50m", "'50m' is no value of params: write a number, or one with k, M, G, T"),
        ("latency_ms<=5MB", "'5MB' is no value of latency_ms: write a number, or one with ms, s"),
        ("params<=many", "'many' is no value"),
        ("params<=1e400", "not finite"),
        ("params<=nan", "no value"),
        ("val_acc>=95", "from 0 to 1, or from 0% to 100%"),
    ],
)
def test_no_condition(text: object, says: str) -> None:
    with pytest.raises(InputError, match="--stop-when") as error:
        Condition.parse(text, "--stop-when")
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_a_condition_says_of_metrics() -> None:
    most, least = Condition("params", "<=", 10), Condition("val_acc", ">=", 0.9)
    assert most.holds({"params": 10}) and not most.holds({"params": 11}) and not most.holds({})
    assert (
        least.holds({"val_acc": 0.9}) and not least.holds({"val_acc": 0.8}) and not least.holds({"val_acc": math.nan})
    )
    assert (most.violation({"params": 7}), most.violation({"params": 13}), most.violation({})) == (0, 3, math.inf)
    assert least.violation({"val_acc": 0.5}) == pytest.approx(0.4)
