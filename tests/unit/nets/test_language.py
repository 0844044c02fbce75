"""Networks for texts: dropouts by place, the state, torch's own layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nastool.core.errors import InputError
from nastool.core.recipe import PLACES, Text
from nastool.nets.blocks import Variational
from nastool.nets.definitions.language import LanguageModel, Layer, Stack
from nastool.nets.regularization import random_for, regularize

KINDS = ("lstm", "gru", "tanh")


def made(kind: str = "lstm", tied: bool = True, bias: bool = True) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(50, 12, Stack(kind, [12, 16, 12]), tied=tied, bias=bias)


def drop(network: LanguageModel, **rates: float) -> LanguageModel:
    regularize(network, dropout=0, drop_path=0, by_depth=False, places=rates)
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_torch_s_own(kind: str) -> None:
    layer = Layer(kind, 6, 5)
    own = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN}[kind](6, 5, batch_first=True)
    weights = layer.from_input.weight, layer.from_state.weight, layer.from_input.bias, layer.from_state.bias
    own.load_state_dict(dict(zip(own.state_dict(), weights, strict=True)))
    x = torch.randn(3, 7, 6)
    y, state = layer(x, None)
    expected, found = own(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(state[0], (found[0] if kind == "lstm" else found)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_carried_state_is_one_long_text(kind: str) -> None:
    network, tokens = made(kind).eval(), torch.randint(50, (3, 10))
    whole, end = network(tokens)
    first, state = network(tokens[:, :4])
    second, last = network(tokens[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, end)
    assert {len(part) for part in state} == {3}


def test_residual_connections_go_around_later_layers_of_equal_width() -> None:
    stack = Stack("tanh", [6, 6, 6, 4], residual=True)
    for parameter in stack.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(stack.get_parameter("layers.0.from_input.bias"))
    seen: list[Tensor] = []
    stack.layers[2].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    y, _ = stack(torch.randn(2, 3, 6))
    torch.testing.assert_close(seen[0], torch.full((2, 3, 6), 1.0).tanh())
    assert not y.any()


def test_the_decoder_has_the_embedding_s_weights_or_its_own() -> None:
    def params(tied: bool = True, bias: bool = True) -> int:
        return sum(p.numel() for p in made("lstm", tied, bias).parameters())

    assert params(tied=False) - params() == 50 * 12
    assert params() - params(bias=False) == 50
    network = made()
    assert network.decoder.weight is network.embedding.weight
    with pytest.raises(ValueError, match="tied"):
        LanguageModel(50, 12, Stack("lstm", [12, 16]), outputs=16)


def test_at_rate_0_and_in_evaluation_nothing_is_done() -> None:
    dropout, x = Variational("input"), torch.randn(2, 3, 4)
    assert dropout(x) is x
    dropout.probability = 0.5
    assert dropout.eval()(x) is x
    assert dropout.train()(x) is not x
    state = torch.get_rng_state()
    network, tokens = made().train(), torch.randint(50, (2, 5), generator=torch.Generator().manual_seed(1))
    torch.set_rng_state(state)
    plain = network(tokens)[0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(drop(network, **dict.fromkeys(PLACES, 0.5)).eval()(tokens)[0], plain)


def test_one_mask_for_all_time_steps_of_a_text() -> None:
    dropout = Variational("input")
    dropout.probability = 0.4
    torch.manual_seed(0)
    y = dropout(torch.ones(50, 9, 20))
    assert torch.equal(y, y[:, :1].expand(-1, 9, -1))
    assert y.unique().tolist() == [0.0, pytest.approx(1 / 0.6)]
    assert 0.5 < (y > 0).float().mean() < 0.7
    assert not torch.equal(y[0], y[1])
    assert dropout(torch.ones(3, 4)).unique().numel() == 2  # without time steps


def test_each_place_is_dropped_where_it_stands() -> None:
    tokens = torch.tensor([[3, 7, 3, 7, 3]] * 2)
    for place in PLACES:
        network = made().train()
        plain, again = network(tokens)[0], drop(network, **{place: 0.5})(tokens)[0]
        assert not torch.equal(plain, again), place

    network = drop(made(), words=0.5).train()
    seen: list[Tensor] = []
    network.recurrent.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for _ in range(8):
        network(tokens)
    for x in seen:
        assert torch.equal(x[:, 0], x[:, 2]) and torch.equal(x[0], x[1])  # one mask for a word, wherever it is
    assert any((x[0, 0] == 0).all() for x in seen) and any((x[0, 0] != 0).all() for x in seen)


def test_in_training_the_outputs_are_there_before_and_after_their_dropout() -> None:
    network = drop(made(), output=0.5).train()
    logits, _, (raw, dropped) = network(torch.randint(50, (2, 5)))
    assert raw.shape == dropped.shape == (2, 5, 12)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * raw[kept])
    torch.testing.assert_close(network.decoder(dropped), logits)


def test_a_batch_in_parts_is_dropped_as_a_whole() -> None:
    network, tokens = drop(made(), **dict.fromkeys(PLACES, 0.3)).train(), torch.randint(50, (4, 5))
    state = torch.get_rng_state()
    whole = network(tokens)[0]
    torch.set_rng_state(state)
    with random_for(network, 4, torch.device("cpu")) as of_examples:
        parts = []
        for start in (0, 2):
            of_examples(start, start + 2)
            parts.append(network(tokens[start : start + 2])[0])
    torch.testing.assert_close(torch.cat(parts), whole)


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        small = LanguageModel(10_000, 200, Stack("lstm", [200] * 3, biases=1), tied=False)
        awd = LanguageModel(10_000, 400, Stack("lstm", [400, 1150, 1150, 400]))
    assert sum(p.numel() for p in small.parameters()) == 4_651_600
    assert sum(p.numel() for p in awd.parameters()) == 24_221_600


def test_the_lengths_of_steps() -> None:
    assert Text(bptt=20).lengths(50, 0) == [20, 20, 10]
    varying = Text(bptt=70, varying=True)
    lengths = varying.lengths(46_479, 1)
    assert sum(lengths) == 46_479 and len(lengths) == varying.steps(46_479) == 682
    assert min(lengths) >= 5 and max(lengths) < 140
    assert 60 < sorted(lengths)[341] < 80 and 10 < sum(length < 50 for length in lengths) < 60
    assert lengths == varying.lengths(46_479, 1) != varying.lengths(46_479, 2)
    assert sum(varying.lengths(3, 0)) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bptt": 0}, "text bptt"),
        ({"dropout": {"cell": 0.1}}, "no place 'cell'; there are words, embedding"),
        ({"dropout": {"nodes": 1}}, "text dropout nodes"),
        ({"varying": True, "bptt": 4}, "at least 10"),
    ],
)
def test_bad_values_are_named(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Text(**given)  # type: ignore[arg-type]
