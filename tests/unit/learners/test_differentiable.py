"""nastool.learners.differentiable: the likeliest architectures, early stopping, and options."""

from __future__ import annotations

import itertools
import math
from itertools import islice
from typing import Any

import numpy as np
import pytest

from nastool.core.limits import Limits, limited
from nastool.learners.differentiable import Differentiable, likely, turned
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.darts import DARTS
from nastool.strategies.drnas import DrNAS
from nastool.strategies.fairdarts import FairDARTS
from nastool.strategies.gdas import GDAS
from nastool.strategies.snas import SNAS

SPACE = NasBench201()


class TestLikely:
    def test_the_order_is_that_of_all_products(self) -> None:
        rng = np.random.default_rng(0)
        shares = [rng.dirichlet(np.ones(k)).tolist() for k in (2, 3, 1, 4)]
        found = list(likely(shares))
        probability = {
            choices: math.prod(row[i] for row, i in zip(shares, choices, strict=True))
            for choices in itertools.product(*(range(len(row)) for row in shares))
        }
        assert set(found) == set(probability) and len(found) == 24
        assert found == sorted(found, key=lambda choices: -probability[choices])

    def test_what_is_impossible_never_comes(self) -> None:
        assert set(likely([[0.0, 1.0], [0.5, 0.5, 0.0]])) == {(1, 0), (1, 1)}

    def test_ties_come_once_each(self) -> None:
        found = list(likely([[0.25] * 4] * 3))
        assert len(found) == len(set(found)) == 64

    def test_the_first_of_many(self) -> None:
        """5^60 combinations, of which the first ones are had at once."""
        rng = np.random.default_rng(0)
        shares = rng.dirichlet(np.ones(5), size=60)
        found = list(islice(likely(shares.tolist()), 100))
        assert found[0] == tuple(shares.argmax(1)) and len(set(found)) == 100


class TestTurned:
    """Early stopping of Zela et al.: means of 5, 4 rounds apart, by 1.3, after round 10."""

    SERIES = [1.0] * 5 + [1 + 0.1 * k for k in range(1, 12)]

    def test_the_synthetic_series(self) -> None:
        """By hand: of rounds 6 .. 10 the mean is 1.4, of 2 .. 6 it is 1.06; one round earlier 1.3 and 1.02."""
        stops = [turned(self.SERIES[: t + 1], begin=10) for t in range(12)]
        assert stops[:10] == [None] * 10 and stops[10] == 6

    def test_it_may_stop_later(self) -> None:
        slow = [1 + 0.01 * t for t in range(50)]
        assert all(turned(slow[: t + 1], begin=10) is None for t in range(50))
        assert turned([*slow, 9.0, 9.0], begin=10) == len(slow) + 1 - 4

    def test_not_before_it_may(self) -> None:
        steep = [2.0**t for t in range(12)]
        assert turned(steep[:8], begin=8) is None and turned(steep[:9], begin=8) == 4
        assert turned(steep[:4], begin=0) is None, "there is nothing to compare with"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"candidates": 0}, "need 1 <= candidates <= 10,000, got 0"),
        ({"lr": 0.0}, "need 0 < lr <= 1, got 0.0"),
        ({"warmup": 1.0}, "need 0 <= warmup < 1, got 1.0"),
        ({"perturbation": -0.1}, "need 0 <= perturbation < 1"),
        ({"single": 1.0}, "need 0 <= single < 1, got 1.0"),
        ({"single": 0.5, "perturbation": 0.5}, "leave no rounds for the architecture"),
        ({"levels": 3}, "need 1 <= levels <= 2, got 3"),
        ({"order": 3}, "need 1 <= order <= 2, got 3"),
        ({"order": 2, "levels": 1}, "it needs levels=2"),
        ({"skip_cap": -1}, "need 0 <= skip_cap <= 1,000, got -1"),
        ({"smoothing": 1.5}, "need 0 <= smoothing <= 1, got 1.5"),
    ],
)
def test_bad_values(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DARTS(SPACE, **given)


@pytest.mark.parametrize(
    ("cls", "given", "message"),
    [
        (GDAS, {"temperature": 0.0}, "need 0.001 <= temperature <= 1000, got 0.0"),
        (SNAS, {"last_temperature": 0.0}, "need 0.001 <= last_temperature <= 1000, got 0.0"),
        (SNAS, {"resource": -1.0}, "need 0 <= resource <= 1000, got -1.0"),
        (DrNAS, {"anchor": -1.0}, "need 0 <= anchor <= 1000"),
        (FairDARTS, {"separation": -1.0}, "need 0 <= separation <= 1000"),
        (GDAS, {"perturbation": 0.5}, "gdas runs one option alone: leave it out"),
        (GDAS, {"smoothing": 0.03}, "smoothing changes mixtures"),
    ],
)
def test_bad_values_of_one(cls: type[Differentiable], given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(SPACE, **given)


def test_what_is_published() -> None:
    assert (SNAS(SPACE).settings.levels, SNAS(SPACE).settings.none) == (1, True)
    for cls in (DARTS, GDAS, DrNAS, FairDARTS):
        settings = cls(SPACE).settings
        assert (settings.levels, settings.none, settings.lr, settings.weight_decay) == (2, False, 0.0003, 0.001)
        assert settings.updates is not None and settings.skip_cap == 2
        published = cls(SPACE, preset="published").settings
        assert published.updates is None and published.skip_cap is None and published.single == 0
        assert settings.single == (0 if cls is GDAS else 0.3)
    assert DARTS(SPACE, lr=0.01).settings.updates is None, "one that is given is what it is"


def test_mixtures_know_no_limits_and_say_so() -> None:
    assert not DARTS(SPACE).notes
    (note,) = DARTS(limited(SPACE, Limits.parse(["params<=1M"]))).notes
    assert "only its candidates are within" in note
