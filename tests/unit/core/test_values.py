"""Architectures, decisions, trials and objectives."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nastool.core.errors import InputError, one_line
from nastool.core.values import METRICS, Arch, Decision, Evaluation, Objective, Proposal, SpaceRef, Trial, spelt
from nastool.spaces.nasbench201 import NasBench201


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

    def test_several_objectives(self) -> None:
        one, other = Objective("val_acc", "max"), Objective("energy", "min")
        assert Objective.parse_all("val_acc") == (one,) and spelt((one,)) == "val_acc:max"
        assert Objective.parse_all(["val_acc", "energy:min"]) == (one, other)
        assert Objective.parse_all(spelt((one, other))) == (one, other)
        with pytest.raises(ValueError, match="'energy' is given twice"):
            Objective.parse_all(["energy:min", "val_acc", "energy:max"])
        with pytest.raises(ValueError, match="need an objective"):
            Objective.parse_all([])
        proposal = Proposal(Arch(SpaceRef("s"), (0,)))
        fast = Trial(1, proposal, "done", Evaluation({"params": 9.0}, 0.0), (-0.9, 1.0))
        slow = Trial(0, proposal, "done", Evaluation({"params": 1.0}, 0.0), (-0.9, 2.0))
        assert fast.rank < slow.rank, "the second objective comes before the number of parameters"

    def test_objective(self) -> None:
        assert Objective.parse("val_acc") == Objective("val_acc", "max")
        assert Objective.parse("energy:min").loss({"energy": 3.0}) == 3.0
        assert Objective.parse("val_acc").loss({"val_acc": 0.9}) == -0.9
        assert Objective.parse("val_acc").value(-0.9) == 0.9
        for wrong in ("", "energy", "val_acc:up", ":min"):
            with pytest.raises(ValueError, match="write METRIC"):
                Objective.parse(wrong)
        with pytest.raises(ValueError, match="did you mean 'latency_ms'"):
            Objective.parse("latencyms")
        for metrics in ({"val_loss": 1.0}, {"val_acc": float("nan")}, {"val_acc": float("inf")}):
            with pytest.raises(ValueError, match="val_acc"):
                Objective.parse("val_acc").loss(metrics)
        assert all(str(Objective.parse(name)) == f"{name}:{goal}" for name, goal in METRICS.items())

    def test_one_line(self) -> None:
        assert one_line(InputError("a\n  b")) == "a b"
        assert one_line(KeyError("x")) == "KeyError: 'x'"
        assert len(one_line(RuntimeError("x" * 1000))) == 300
