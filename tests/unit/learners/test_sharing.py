"""nastool.learners.sharing: signs that a search with shared weights has collapsed."""

from __future__ import annotations

import pytest

from nastool.core.space import SearchSpace
from nastool.core.values import Arch
from nastool.learners.sharing import collapse, has_weights, weightless_share
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.macro_cnn import MacroCNN
from nastool.spaces.nasbench201 import NasBench201

SPACE = NasBench201()
ALL_SKIP = SPACE.from_string(
    "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"
)
GOOD = SPACE.from_string(
    "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
)


def with_ops(space: SearchSpace, op: str, switches: str = "0") -> Arch:
    """Every operation is this one; every other decision has this option, or its first."""
    choices = []
    for decision in space.decisions:
        wanted = op if op in decision.options else switches if switches in decision.options else decision.options[0]
        choices.append(decision.options.index(wanted))
    return space.arch(choices)


class TestWeightless:
    @pytest.mark.parametrize(
        ("option", "expected"),
        [
            ("nor_conv_1x1", True),
            ("sep_conv_5x5", True),
            ("mbconv3_e3", True),
            ("skip_connect", False),
            ("avg_pool_3x3", False),
            ("max_pool_3x3", False),
            ("none", False),
            ("identity", False),
        ],
    )
    def test_operations(self, option: str, expected: bool) -> None:
        assert has_weights(option) is expected

    def test_nasbench201(self) -> None:
        assert weightless_share(SPACE, ALL_SKIP) == 1
        assert weightless_share(SPACE, GOOD) == pytest.approx(1 / 6)

    @pytest.mark.parametrize("switches", ["0", "1"])
    def test_macro_counts_operations_not_connections(self, switches: str) -> None:
        space = MacroCNN(layers=4)
        assert weightless_share(space, with_ops(space, "max_pool_3x3", switches)) == 1
        assert weightless_share(space, with_ops(space, "conv_3x3", switches)) == 0
        half = list(with_ops(space, "conv_3x3", switches).choices)
        for i in [i for i, decision in enumerate(space.decisions) if decision.name.endswith(".op")][:2]:
            half[i] = space.decisions[i].options.index("avg_pool_3x3")
        assert weightless_share(space, space.arch(half)) == 0.5

    def test_cell_counts_operations_not_inputs(self) -> None:
        space = CellCNN(blocks=2)
        assert weightless_share(space, with_ops(space, "skip_connect")) == 1
        assert weightless_share(space, with_ops(space, "sep_conv_3x3")) == 0

    def test_nothing_to_say_of_other_spaces(self) -> None:
        from nastool.testing.strategies import TinySpace

        tiny = TinySpace()
        assert weightless_share(tiny, tiny.arch([0, 0])) is None
        assert not collapse(tiny, [tiny.arch([0, 0])], None, None)


class TestCollapse:
    """Most entropy in NAS-Bench-201: 6 ln 5 = 9.66 nats."""

    def test_the_all_skip_cell(self) -> None:
        (sign,) = collapse(SPACE, [ALL_SKIP, GOOD], None, None)
        assert sign.startswith("100% of the operations")

    def test_a_good_cell(self) -> None:
        assert not collapse(SPACE, [GOOD, ALL_SKIP], 9.0, (100, 100))

    def test_half_of_the_operations_are_no_sign(self) -> None:
        half = SPACE.from_string("|none~0|+|skip_connect~0|nor_conv_3x3~1|+|nor_conv_3x3~0|none~1|nor_conv_1x1~2|")
        assert not collapse(SPACE, [half], None, None)

    def test_what_the_policy_prefers(self) -> None:
        """Though what was derived is a good cell, since its candidates have few skip connections."""
        (sign,) = collapse(SPACE, [GOOD], 9.0, (100, 100), ALL_SKIP)
        assert sign.startswith("100% of the operations that the policy prefers")
        assert not collapse(SPACE, [GOOD], 9.0, (100, 100), GOOD)
        assert len(collapse(SPACE, [ALL_SKIP], 9.0, (100, 100), ALL_SKIP)) == 1, "said once"

    @pytest.mark.parametrize(("entropy", "signs"), [(0.0, 1), (0.96, 1), (0.97, 0), (9.6, 0), (None, 0)])
    def test_entropy(self, entropy: float | None, signs: int) -> None:
        found = collapse(SPACE, [GOOD], entropy, None)
        assert len(found) == signs
        assert all(f"{entropy:.2f} nats, of 9.7 at most" in sign for sign in found)

    @pytest.mark.parametrize(("candidates", "signs"), [((49, 100), 1), ((50, 100), 0), ((100, 100), 0)])
    def test_few_candidates(self, candidates: tuple[int, int], signs: int) -> None:
        found = collapse(SPACE, [GOOD], None, candidates)
        assert found == [f"the policy gave only {candidates[0]} different candidates of {candidates[1]}"] * signs

    def test_a_small_space_has_no_more_candidates_to_give(self) -> None:
        from nastool.testing.strategies import TinySpace

        tiny = TinySpace()
        assert not collapse(tiny, [tiny.arch([0, 0])], None, (4, 10))

    @pytest.mark.parametrize("space", [MacroCNN(layers=4), CellCNN(blocks=2)], ids=lambda space: space.name)
    def test_other_spaces(self, space: SearchSpace) -> None:
        assert len(collapse(space, [with_ops(space, "avg_pool_3x3")], None, None)) == 1
        assert not collapse(space, [with_ops(space, "sep_conv_3x3")], None, None)

    def test_all_signs_at_once(self) -> None:
        assert len(collapse(SPACE, [ALL_SKIP], 0.1, (1, 100))) == 3

    def test_nothing_was_found(self) -> None:
        assert not collapse(SPACE, [], None, None)
