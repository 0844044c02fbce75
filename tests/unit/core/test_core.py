"""Core types, options, registry, architecture files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nastool.core import archfile, options, registry
from nastool.core.errors import InputError, InvalidArchError, one_line
from nastool.core.evaluator import Evaluator
from nastool.core.registry import misfits
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import METRICS, Arch, Decision, Evaluation, Objective, Proposal, SpaceRef, Trial
from nastool.spaces.nasbench201 import NasBench201
from nastool.testing.strategies import TinySpace
from tests.helpers.plugins import install


class TestValues:
    def test_key_depends_on_space_and_choices_alone(self) -> None:
        a = Arch(SpaceRef.of("s", {"b": 1, "a": 2}), (0, 1))
        assert a.key == Arch(SpaceRef.of("s", {"a": 2, "b": 1}), (0, 1)).key
        others = [
            Arch(SpaceRef.of("s", {"a": 2}), (0, 1)),
            Arch(a.space, (1, 0)),
            Arch(SpaceRef("t"), (0, 1)),
        ]
        assert len({a.key, *(other.key for other in others)}) == 4
        assert len(a.key) == 12 and int(a.key, 16) >= 0

    def test_key_is_pinned(self) -> None:
        """Keys stand in people's files: they must not change between versions."""
        assert Arch(SpaceRef("nasbench201"), (1, 1, 1, 1, 1, 1)).key == "5c5c2ca40d3c"

    def test_keys_of_a_whole_space_differ(self) -> None:
        assert len({arch.key for arch in NasBench201().members()}) == 15625

    @pytest.mark.parametrize("choices", [(), ("a", "a")])
    def test_decisions_need_different_options(self, choices: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="options"):
            Decision("d", choices)

    def test_equal_trials_are_told_apart_by_validation_loss_then_parameters(self) -> None:
        def rank(number: int, loss: float = -0.9, **metrics: Any) -> tuple[float, ...]:
            proposal = Proposal(Arch(SpaceRef("s"), (0,)))
            return Trial(number, proposal, "done", Evaluation(metrics, 1.0), (loss,)).rank

        ordered = [
            rank(9, -0.91, val_loss=9.0, params=9),
            rank(8, val_loss=0.1, params=9),
            rank(7, val_loss=0.2, params=3),
            rank(5, val_loss=0.2, params=4, test_loss=0.0),
            rank(6, val_loss=0.2, params=4, test_loss=0.0),
            rank(4, shared_loss=0.3),
            rank(1, test_loss=0.0, params=2),
            rank(0),
            rank(2, val_loss="0.0", params=True),
            rank(3, val_loss=10**400, params=float("nan")),
        ]
        assert sorted(reversed(ordered)) == ordered
        assert Trial(0, Proposal(Arch(SpaceRef("s"), (0,)))).rank == (math.inf, math.inf, math.inf, 0)

    def test_objective(self) -> None:
        assert Objective.parse("val_acc") == Objective("val_acc", "max")
        assert Objective.parse("energy:min").loss({"energy": 3.0}) == 3.0
        assert Objective.parse("val_acc").loss({"val_acc": 0.9}) == -0.9
        assert Objective.parse("val_acc").value(-0.9) == 0.9
        for wrong in ("", "energy", "val_acc:up", ":min"):
            with pytest.raises(ValueError, match="write METRIC"):
                Objective.parse(wrong)
        for metrics in ({"val_loss": 1.0}, {"val_acc": float("nan")}, {"val_acc": float("inf")}):
            with pytest.raises(ValueError, match="val_acc"):
                Objective.parse("val_acc").loss(metrics)
        assert all(str(Objective.parse(name)) == f"{name}:{goal}" for name, goal in METRICS.items())

    def test_one_line(self) -> None:
        assert one_line(InputError("a\n  b")) == "a b"
        assert one_line(KeyError("x")) == "KeyError: 'x'"
        assert len(one_line(RuntimeError("x" * 1000))) == 300


class TestSpaceDefaults:
    """SearchSpace's own methods on a space that overrides none of them."""

    def test_members_and_neighbors(self) -> None:
        space = TinySpace()
        assert [arch.choices for arch in space.members()] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        assert [n.choices for n in space.neighbors(space.arch((0, 1)))] == [(1, 1), (0, 0), (0, 2)]

    def test_a_mutation_without_a_member_in_one_kind_takes_the_other(self) -> None:
        """And only what no decision leads to a member from has no mutant."""

        class Rules(TinySpace):
            def __init__(self) -> None:
                SearchSpace.__init__(
                    self, [Decision("in", ("0", "1"), "b", ("", "a")), Decision("op", ("p", "q", "r"))]
                )

            def validate(self, arch: Arch) -> None:
                super().validate(arch)
                if arch.choices in ((1, 0), (0, 1), (0, 2)):
                    raise InvalidArchError("no member")

        space, rng = Rules(), np.random.default_rng(0)
        assert {space.mutate(space.arch((1, 1)), rng).choices for _ in range(20)} == {(1, 2)}
        with pytest.raises(ValueError, match="one decision away"):
            space.mutate(space.arch((0, 0)), rng)

    def test_sample_new_finds_the_last_one(self) -> None:
        space = TinySpace()
        seen = {arch.choices for arch in space.members()} - {(1, 0)}
        rng = np.random.default_rng(0)
        found = space.sample_new(rng, seen, lambda arch: arch.choices)
        assert found is not None and found.choices == (1, 0)
        assert space.sample_new(rng, seen | {(1, 0)}, lambda arch: arch.choices) is None

    def test_sample_new_ends_where_few_of_many_differ(self) -> None:
        """2^40 combinations are not gone through."""

        class Alike(TinySpace):
            def __init__(self) -> None:
                SearchSpace.__init__(self, [Decision(f"d{i}", ("x", "y")) for i in range(40)])

            def canonical(self, arch: Arch) -> str:
                return str(arch.choices[0])

        space, rng = Alike(), np.random.default_rng(0)
        assert space.sample_new(rng, {"0"}, space.canonical).choices[0] == 1  # type: ignore[union-attr]  # it is there
        assert space.sample_new(rng, {"0", "1"}, space.canonical) is None


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


class TestArchFile:
    space = NasBench201()

    def document(self) -> dict[str, object]:
        return archfile.to_json(self.space, self.space.arch([0, 1, 2, 3, 4, 0]))

    def test_extra_keys_are_kept_and_the_key_is_recomputed(self) -> None:
        document = self.document() | {"key": "stale", "mine": [1, {"a": None}], "metrics": {"val_acc": 0.5}}
        again = archfile.from_json(document).to_json()
        assert again["mine"] == [1, {"a": None}] and again["metrics"] == {"val_acc": 0.5}
        assert again["key"] == self.space.arch([0, 1, 2, 3, 4, 0]).key

    def test_one_document_over_several_lines(self) -> None:
        text = json.dumps(self.document(), indent=2)
        (found,) = archfile.read_lines(text.splitlines(keepends=True), "stdin")
        assert found.arch.choices == (0, 1, 2, 3, 4, 0)

    def test_lines_with_crlf_and_blanks(self) -> None:
        line = json.dumps(self.document())
        found = list(archfile.read_lines([line + "\r\n", "\r\n", line], "stdin"))
        assert len(found) == 2

    def test_lines_arrive_one_by_one(self) -> None:
        """What came before a bad line is not lost."""
        reader = archfile.read_lines([json.dumps(self.document()), '{"space": '], "stdin")
        assert next(reader).arch.choices == (0, 1, 2, 3, 4, 0)
        with pytest.raises(InputError, match="stdin line 2: no valid JSON"):
            next(reader)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"space": {"name": "nasbench2O1"}}, "did you mean 'nasbench201'"),
            ({"space": 3}, "'space' must be"),
            ({"choices": []}, "'choices' must be"),
            ({"format": "nastool.arch/9"}, "format"),
            ({"choices": {"1<-0": "none"}}, "'2<-0' is missing"),
        ],
    )
    def test_messages(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            archfile.from_json(self.document() | change)

    def test_wrong_option_is_named_with_its_decision(self) -> None:
        document = self.document()
        choices = dict(archfile.from_json(document).to_json()["choices"])
        with pytest.raises(InvalidArchError, match="'3<-2' has no option 'nor_conv3x3'; did you mean 'nor_conv_3x3'"):
            archfile.from_json(document | {"choices": choices | {"3<-2": "nor_conv3x3"}})
        with pytest.raises(InvalidArchError, match="no decision '4<-0'"):
            archfile.from_json(document | {"choices": choices | {"4<-0": "none"}})


class TestRegistry:
    def test_unknown_names_suggest(self) -> None:
        with pytest.raises(InputError, match="no strategy 'evolutoin'; did you mean 'evolution'"):
            registry.load("strategy", "evolutoin")

    def run(self, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nastool", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def test_two_owners_of_a_name(self, tmp_path: Path) -> None:
        environment = install(tmp_path, "rival", "", {"nastool.strategies": "evolution = rival:Evolution"})
        result = self.run(environment, "list", "strategies")
        assert result.returncode == 2
        assert "two packages register strategy 'evolution'" in result.stderr
        assert "nastool" in result.stderr and "rival" in result.stderr

    def test_a_broken_plugin_breaks_only_itself(self, tmp_path: Path) -> None:
        environment = install(
            tmp_path,
            "broken",
            "import no_such_module",
            {"nastool.strategies": "broken = broken:Broken", "nastool.spaces": "odd = json:dumps"},
        )
        listed = self.run(environment, "list", "strategies")
        assert listed.returncode == 0
        entries = {entry["name"]: entry for entry in map(json.loads, listed.stdout.splitlines())}
        assert "no_such_module" in entries["broken"]["error"]
        assert "error" not in entries["evolution"]
        assert self.run(environment, "sample").returncode == 0
        chosen = self.run(environment, "search", "-s", "broken")
        assert chosen.returncode == 2 and "package broken cannot be imported" in chosen.stderr
        assert len(chosen.stderr.splitlines()) == 1
        odd = self.run(environment, "sample", "--space", "odd")
        assert odd.returncode == 2 and "no subclass of SearchSpace" in odd.stderr


def test_misfits_are_explained() -> None:
    class Needy(Strategy):
        name = "needy"
        needs = frozenset({"policy"})

    class Picky(Evaluator):
        name = "picky"
        needs = frozenset({"inherit"})

    def reasons(strategy: type[Strategy] | None, evaluator: type[Evaluator] | None) -> list[str]:
        space: type[SearchSpace] = NasBench201
        return misfits(strategy, space, evaluator)

    assert reasons(None, None) == []
    assert reasons(Needy, None) == ["strategy needy needs 'policy', which space nasbench201 lacks"]
    assert reasons(None, Picky) == ["evaluator picky needs 'inherit', which space nasbench201 lacks"]
