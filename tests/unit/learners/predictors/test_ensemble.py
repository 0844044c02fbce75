"""nastool.learners.predictors.ensemble: against an independent implementation with autograd, and its properties."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from threadpoolctl import threadpool_info
from torch import Tensor

from nastool.learners.predictors.ensemble import Adam, Array, Backpropagation, Weights, fit, train
from nastool.learners.predictors.threads import one_thread

ROUNDING = 2e-4
"""A fiftieth of one step: of a gradient that is 0 but for rounding, each processor's own, Adam makes as much."""


def points(n: int, d: int = 30, seed: int = 0) -> tuple[Array, NDArray[np.float64]]:
    """d / 5 decisions of 5 options as bits; a target in which decisions add up and neighbours interact."""
    chosen = np.random.default_rng(seed).integers(0, 5, (n, d // 5))
    value = np.random.default_rng(99).normal(size=(d // 5, 5))
    total = np.take_along_axis(value.T, chosen, axis=0).sum(1) + (chosen[:, 1:] == chosen[:, :-1]).sum(1)
    return np.eye(5, dtype=np.float32)[chosen].reshape(n, -1), 70 + 10 * total


def drawn(networks: int, layers: int, width: int, d: int, seed: int = 0) -> Weights:
    """Weights in which the biases are drawn, too."""
    weights = Weights(networks, layers, width, d)
    weights.draw(np.random.default_rng(seed))
    weights.flat += np.random.default_rng(seed + 1).normal(0, 0.05, weights.flat.shape).astype(np.float32)
    return weights


def copied(weights: Weights, networks: slice = slice(None)) -> Weights:
    """A copy of some of the networks."""
    first = weights.first[networks]
    copy = Weights(len(first), len(weights.hidden) + 1, first.shape[1], first.shape[2] - 1)
    copy.first[:], copy.hidden[:], copy.last[:] = first, weights.hidden[:, networks], weights.last[networks]
    return copy


def orders(epochs: int, networks: int, n: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permuted(np.tile(np.arange(n), (epochs, networks, 1)), axis=2)


def layer_tensors(weights: Weights, network: int) -> list[Tensor]:
    """(outputs, inputs + 1) of each layer, float64."""
    parts = [weights.first[network], *weights.hidden[:, network], weights.last[network]]
    return [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in parts]


def loss_of(layers: list[Tensor], x: Tensor, y: Tensor, loss: str) -> Tensor:
    for weight in layers[:-1]:
        x = torch.relu(x @ weight[:, :-1].T + weight[:, -1])
    error = (x @ layers[-1][:, :-1].T + layers[-1][:, -1])[:, 0] - y
    return error.abs().mean() if loss == "mae" else error.square().mean()


@pytest.mark.parametrize("loss", ["mae", "mse"])
@pytest.mark.parametrize(("layers", "width", "batch"), [(10, 20, 32), (3, 7, 5), (1, 4, 1)])
def test_gradients_equal_those_of_autograd(layers: int, width: int, batch: int, loss: str) -> None:
    rng = np.random.default_rng(3)
    weights = drawn(5, layers, width, d=11)
    gradients = copied(weights)
    x, y = rng.random((5, batch, 12), np.float32), rng.normal(size=(5, batch)).astype(np.float32)
    x[..., -1] = 1
    Backpropagation(weights, gradients, batch, loss).run(x, y)
    for k in range(5):
        tensors = layer_tensors(weights, k)
        value = loss_of(tensors, torch.tensor(x[k, :, :-1]).double(), torch.tensor(y[k]).double(), loss)
        for own, found in zip(layer_tensors(gradients, k), torch.autograd.grad(value, tensors), strict=True):
            torch.testing.assert_close(own.detach(), found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [4, 5, 32])
def test_training_equals_each_network_trained_alone_with_autograd(batch: int) -> None:
    """10 points: the last batch holds 2 of 4, 5 of 5, 10 of 32."""
    inputs, targets = points(10)
    targets = (targets - targets.mean()) / targets.std()
    weights, order = drawn(3, 4, 8, 30), orders(3, 3, 10)
    expected = [layer_tensors(weights, k) for k in range(3)]
    x, y = torch.tensor(inputs).double(), torch.tensor(targets)
    for k, layers in enumerate(expected):
        means, squares = ([torch.zeros_like(layer) for layer in layers] for _ in range(2))
        t = 0
        for epoch in range(3):
            for start in range(0, 10, batch):
                rows = order[epoch, k, start : start + batch]
                t += 1
                gradients = torch.autograd.grad(loss_of(layers, x[rows], y[rows], "mae"), layers)
                rate = 0.01 * math.sqrt(1 - 0.99**t) / (1 - 0.9**t)
                for layer, gradient, mean, square in zip(layers, gradients, means, squares, strict=True):
                    mean.mul_(0.9).add_(0.1 * gradient)
                    square.mul_(0.99).add_(0.01 * gradient**2)
                    layer.data -= rate * mean / (square.sqrt() + 1e-7)
    train(weights, inputs, targets.astype(np.float32), order, batch=batch, learning_rate=0.01, loss="mae")
    for k, layers in enumerate(expected):
        for own, layer in zip(layer_tensors(weights, k), layers, strict=True):
            torch.testing.assert_close(own, layer, rtol=0, atol=ROUNDING)


def test_networks_do_not_influence_each_other() -> None:
    inputs, targets = points(50)
    together, order, y = drawn(5, 10, 20, 30), orders(4, 5, 50), (targets / 100).astype(np.float32)
    alone = [copied(together, slice(k, k + 1)) for k in range(5)]
    train(together, inputs, y, order, batch=32, learning_rate=0.01, loss="mae")
    for k, weights in enumerate(alone):
        train(weights, inputs, y, order[:, k : k + 1], batch=32, learning_rate=0.01, loss="mae")
        np.testing.assert_allclose(weights.flat, copied(together, slice(k, k + 1)).flat, rtol=0, atol=ROUNDING)


def test_leaving_out_unused_inputs_changes_nothing() -> None:
    """The same as training with all of them; their weights stay as drawn."""
    inputs, targets = points(20)
    inputs = np.insert(inputs, [0, 3, 30], 0, axis=1)
    assert not inputs[:, [0, 4, 32]].any()
    found = fit(inputs, targets, np.random.default_rng(5), epochs=3)
    rng = np.random.default_rng(5)
    weights = Weights(5, 10, 20, 33)
    weights.draw(rng)
    initial = copied(weights)
    order = rng.permuted(np.tile(np.arange(20), (15, 1)), axis=1).reshape(3, 5, 20)
    y = ((targets - targets.mean()) / targets.std()).astype(np.float32)
    train(weights, inputs, y, order, batch=32, learning_rate=0.01, loss="mae")
    np.testing.assert_allclose(found.weights.flat, weights.flat, rtol=0, atol=ROUNDING)
    assert (found.weights.first[:, :, [0, 4, 32]] == initial.first[:, :, [0, 4, 32]]).all()
    assert (found.weights.first[:, :, 1] != initial.first[:, :, 1]).any()


@pytest.mark.parametrize("loss", ["mae", "mse"])
def test_learns_a_function_with_interactions(loss: Any) -> None:
    inputs, targets = points(500)
    found = fit(inputs[:300], targets[:300], np.random.default_rng(0), loss=loss).predict(inputs[300:])
    assert found.shape == (5, 200) and found.dtype == np.float64
    assert spearmanr(found.mean(0), targets[300:]).statistic > 0.9
    assert abs(np.median(found.mean(0) - targets[300:])) < 0.3 * targets.std()  # in the targets' units
    assert (found.std(0) > 0).all()  # five different networks


def test_shifted_and_scaled_targets_give_shifted_and_scaled_predictions() -> None:
    inputs, targets = points(20)
    plain = fit(inputs, targets, np.random.default_rng(0), epochs=2).predict(inputs)
    other = fit(inputs, targets / 64 - 8, np.random.default_rng(0), epochs=2).predict(inputs)
    np.testing.assert_allclose(other, plain / 64 - 8, rtol=1e-4)


def test_same_generator_same_predictions() -> None:
    inputs, targets = points(40)
    first, second, third = (
        fit(inputs, targets, np.random.default_rng(seed), epochs=3).predict(inputs) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


def test_changes_neither_arguments_nor_global_random_state() -> None:
    inputs, targets = points(12)
    before = inputs.copy(), targets.copy(), str(np.random.get_state())  # noqa: NPY002  # that it is left alone
    fit(inputs, targets, np.random.default_rng(0), epochs=2).predict(inputs)
    assert str(np.random.get_state()) == before[2]  # noqa: NPY002
    np.testing.assert_array_equal(inputs, before[0])
    np.testing.assert_array_equal(targets, before[1])


@pytest.mark.parametrize("n", [1, 3])
def test_equal_targets_are_predicted_everywhere(n: int) -> None:
    inputs, _ = points(n)
    found = fit(inputs, np.full(n, 0.1), np.random.default_rng(0)).predict(points(7, seed=1)[0])
    np.testing.assert_array_equal(found, np.full((5, 7), 0.1))


def test_other_sizes() -> None:
    inputs, targets = points(9)
    found = fit(
        inputs, targets, np.random.default_rng(0), networks=2, layers=1, width=3, epochs=4, batch=2, learning_rate=0.1
    )
    assert found.predict(inputs).shape == (2, 9) and np.isfinite(found.predict(inputs)).all()
    assert found.predict(inputs[:0]).shape == (2, 0)


def spoil_input(x: Array, y: NDArray[np.float64]) -> None:
    x[1, 2] = np.nan


def spoil_target(x: Array, y: NDArray[np.float64]) -> None:
    y[3] = np.inf


@pytest.mark.parametrize("spoil", [spoil_input, spoil_target])
def test_points_must_be_finite(spoil: Callable[[Array, NDArray[np.float64]], None]) -> None:
    inputs, targets = points(6)
    spoil(inputs, targets)
    with pytest.raises(ValueError, match="not finite"):
        fit(inputs, targets, np.random.default_rng(0))


def test_arguments_that_do_not_fit() -> None:
    inputs, targets = points(6)
    rng = np.random.default_rng(0)
    for x, y in ((inputs, targets[:5]), (inputs[0], targets), (inputs[:0], targets[:0]), (inputs[:, :0], targets)):
        with pytest.raises(ValueError, match=r"need inputs \(n, d\)"):
            fit(x, y, rng)
    for given in ({"networks": 0}, {"layers": 0}, {"width": 0}, {"batch": 0}, {"epochs": -1}):
        with pytest.raises(ValueError, match="need networks"):
            fit(inputs, targets, rng, **given)  # type: ignore[arg-type]  # one of the numbers
    with pytest.raises(ValueError, match="loss"):
        fit(inputs, targets, rng, loss="mape")  # type: ignore[arg-type]  # on purpose
    found = fit(inputs, targets, rng, epochs=0)
    with pytest.raises(ValueError, match=r"need \(m, 30\)"):
        found.predict(inputs[:, :7])
    inputs[0, 0] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        found.predict(inputs)


def test_weights_are_drawn_like_keras_draws_them() -> None:
    weights = Weights(5, 10, 20, 155)
    weights.draw(np.random.default_rng(0))
    for part, bound in ((weights.first, 6 / 175), (weights.hidden, 6 / 40), (weights.last, 6 / 21)):
        assert (part[..., -1] == 0).all()
        assert 0.95 * math.sqrt(bound) < np.abs(part).max() <= math.sqrt(bound) * (1 + 1e-6)
        assert np.mean(part[..., :-1] ** 2) == pytest.approx(bound / 3, rel=0.3)


def test_vanished_gradients_leave_no_subnormal_numbers() -> None:
    """They would make arithmetic slow: gradients of 0 after one of 1."""
    parameters, gradients = np.zeros(4, np.float32), np.ones(4, np.float32)
    optimizer = Adam(parameters, gradients, 0.01)
    optimizer.step()
    gradients[:] = 0
    for _ in range(12_800):
        optimizer.step()
        assert (optimizer.mean >= np.finfo(np.float32).tiny).all() or not optimizer.mean.any()
    assert not optimizer.mean.any() and not optimizer.square.any()


def test_one_thread_is_a_limit_for_a_while() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with one_thread():
        assert set(threads()) == {1}
    assert threads() == before


def test_does_not_import_torch() -> None:
    """It takes a second and hundreds of megabytes."""
    code = "import sys, nastool.learners.predictors.ensemble; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
