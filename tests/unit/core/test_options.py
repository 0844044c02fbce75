"""Options: conversion, checks, messages."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nastool.core import options
from nastool.core.errors import InputError
from nastool.core.recipe import Recipe
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.evolution import RegularizedEvolution
from tests.helpers.fuzz import FUZZ, JSON


def _options() -> Iterator[Any]:
    for target in (RegularizedEvolution, NasBench201.Scale, Recipe):
        yield from options.of(target).values()


@FUZZ
@given(JSON, st.sampled_from([*_options()]))
def test_fuzz_convert(value: object, option: options.Option) -> None:
    try:
        converted = options.convert(value, option.type)
    except ValueError:
        return
    assert options.convert(converted, option.type) == converted


@FUZZ
@given(st.dictionaries(st.sampled_from([o.name for o in _options()]) | st.text(max_size=8), JSON, max_size=4))
def test_fuzz_options(values: dict[str, object]) -> None:
    for target in (RegularizedEvolution, NasBench201.Scale, Recipe):
        try:
            checked = options.check("fuzz", target, values)
        except InputError:
            continue
        assert set(checked) == set(values)


class TestOptions:
    def test_conversion(self) -> None:
        cases: list[tuple[object, object, object]] = [
            ("3", int, 3), (3, int, 3), ("1e-3", float, 0.001), (2, float, 2.0), ("yes", bool, True),
            (False, bool, False), ("off", bool, False), ("none", int | None, None), (None, str | None, None),
            ("7", int | None, 7), ("x", str, "x"), ("a", Literal["a", "b"], "a"),
            ("c=1,d=2", Mapping[str, int], {"c": 1, "d": 2}), ({"c": 1}, Mapping[str, int], {"c": 1}),
        ]  # fmt: skip
        for value, kind, expected in cases:
            found = options.convert(value, kind)
            assert found == expected and type(found) is type(expected), (value, kind)

    @pytest.mark.parametrize(
        "value, kind",
        [("x", int), (True, int), (1.5, int), ("nan", float), ("inf", float), (True, float), ("maybe", bool),
         (1, bool), (1, str), ("c", Literal["a", "b"]), ("c", Mapping[str, int]), ({1: 2}, Mapping[str, int]),
         ({"a": "x"}, Mapping[str, int]), ([], int), (None, int)],
    )  # fmt: skip
    def test_refused(self, value: object, kind: object) -> None:
        with pytest.raises(ValueError):
            options.convert(value, kind)

    def test_messages_name_the_option_and_the_remedy(self) -> None:
        def target(*, population: int = 10, file: str) -> None: ...

        with pytest.raises(InputError, match="strategy s has no option 'popluation'; did you mean 'population'"):
            options.check("strategy s", target, {"popluation": "3"})
        with pytest.raises(InputError, match="option population must be int, got 'many'"):
            options.check("strategy s", target, {"population": "many", "file": "f"})
        with pytest.raises(InputError, match="needs file="):
            options.check("strategy s", target, {})
        assert options.resolve("s", target, {"file": "f"}) == {"population": 10, "file": "f"}
        with pytest.raises(InputError, match="KEY=VALUE"):
            options.parse(["a"], "-S")
        with pytest.raises(InputError, match="twice"):
            options.parse(["a=1", "a=2"], "-S")

    @given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.text()))
    def test_text_and_typed_values_agree(self, value: object) -> None:
        """What a YAML file says typed, the command line says as text."""
        kind = type(value)
        assert options.convert(str(value), kind) == options.convert(value, kind) == value


def test_python_is_parsed_in_several_threads() -> None:
    """With collections of garbage in between, Python 3.11's parser loses count of its depth."""
    source, problems = "\n".join("f(a, [b, (c, {d: e})])" for _ in range(1500)), []

    def work() -> None:
        try:
            for _ in range(3):
                options.parsed(source)
        except SystemError as error:
            problems.append(error)

    def collected(phase: str, facts: Mapping[str, int]) -> None:
        sum(range(200))  # long enough for another thread to have its turn

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    threads = [threading.Thread(target=work) for _ in range(3)]
    gc.callbacks.append(collected)
    gc.set_threshold(50, 2, 2)
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert not problems
