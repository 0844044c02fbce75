"""The base classes of plugins stay small: they have what everybody needs, and the rest are protocols."""

from __future__ import annotations

import inspect

import pytest

from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy


@pytest.mark.parametrize(
    ("base", "most"),
    [(SearchSpace, 16), (Strategy, 10), (Evaluator, 12)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_base_class_has_few_public_members(base: type, most: int) -> None:
    members = {name for name in {*vars(base), *inspect.get_annotations(base)} if not name.startswith("_")}
    assert len(members) <= most, sorted(members)
