"""What every space has by default."""

from __future__ import annotations

import numpy as np
import pytest

from nastool.core.errors import InvalidArchError
from nastool.core.space import SearchSpace, fair_set
from nastool.core.values import Arch, Decision
from nastool.testing.strategies import TinySpace


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


class TestFairSets:
    def test_each_option_occurs_equally_often(self) -> None:
        space, rng = TinySpace(), np.random.default_rng(0)
        counts = np.zeros(2)
        for _ in range(200):
            choices = np.array([arch.choices for arch in fair_set(space, rng)])
            assert sorted(choices[:, 1]) == [0, 1, 2] and sorted(choices[:, 0]) in ([0, 0, 1], [0, 1, 1])
            counts += np.bincount(choices[:, 0], minlength=2)
        assert abs(counts[0] - 300) < 4 * np.sqrt(200 / 4), "the odd one is either option, both alike"

    def test_what_a_space_forbids_is_drawn_anew(self) -> None:
        class Apart(TinySpace):
            def validate(self, arch: Arch) -> None:
                super().validate(arch)
                if arch.choices == (0, 0):
                    raise InvalidArchError("no member")

        space, rng = Apart(), np.random.default_rng(0)
        for _ in range(50):
            found = fair_set(space, rng)
            assert all(map(space.is_member, found)) and sorted(arch.choices[1] for arch in found) == [0, 1, 2]
