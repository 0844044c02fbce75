"""An ensemble of small neural networks as one computation: the predictor of BANANAS.

White, Neiswanger, Savani: BANANAS: Bayesian Optimization with Neural Architectures for Neural Architecture Search,
AAAI 2021 (arXiv 1910.11858). Hyper-parameters and details are those of the authors' code (naszilla, Keras), but for
the targets, which are standardised here.

Training takes hundreds of steps on tiny matrices, so calls cost more than arithmetic. Therefore all networks advance
together by stacked products, large results are written to memory allocated once, a constant unit in each layer stands
for the biases, all layers' weight gradients are one product, and all parameters are one vector for the optimiser.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nastool.learners.predictors.threads import one_thread

Array = NDArray[np.float32]


class Weights:
    """The parameters of all networks, or their gradients, in one vector. The last column of a matrix is the bias.

    first: (networks, width, d + 1), hidden: (layers - 1, networks, width, width + 1), last: (networks, 1, width + 1);
    views of flat.
    """

    def __init__(self, networks: int, layers: int, width: int, d: int) -> None:
        shapes = ((networks, width, d + 1), (layers - 1, networks, width, width + 1), (networks, 1, width + 1))
        sizes = [math.prod(shape) for shape in shapes]
        self.flat: Array = np.zeros(sum(sizes), np.float32)
        parts = np.split(self.flat, np.cumsum(sizes)[:-1])
        self.first, self.hidden, self.last = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))

    def draw(self, rng: np.random.Generator) -> None:
        """Keras's default: biases 0, weights uniform within +-sqrt(6 / (inputs + outputs)) (Glorot & Bengio 2010)."""
        for part in (self.first, self.hidden, self.last):
            outputs, inputs = part.shape[-2], part.shape[-1] - 1
            bound = math.sqrt(6 / (inputs + outputs))
            part[..., :-1] = rng.uniform(-bound, bound, (*part.shape[:-1], inputs))


class Ensemble(NamedTuple):
    """What `fit` returns."""

    weights: Weights
    center: float
    scale: float

    def predict(self, inputs: Array) -> NDArray[np.float64]:
        """(m, d) -> (networks, m): each network's predictions, in the targets' units."""
        weights = self.weights
        d = weights.first.shape[-1] - 1
        if inputs.ndim != 2 or inputs.shape[1] != d:
            raise ValueError(f"inputs: need (m, {d}), got {inputs.shape}")
        if not np.isfinite(inputs).all():
            raise ValueError("inputs: not finite")
        with one_thread():
            units = weights.first[..., :-1] @ inputs.T + weights.first[..., -1:]
            for layer in (*weights.hidden, weights.last):
                units = layer[..., :-1] @ np.maximum(units, 0) + layer[..., -1:]
        return self.center + self.scale * units[:, 0].astype(np.float64)


def fit(
    inputs: Array,
    targets: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    networks: int = 5,
    layers: int = 10,
    width: int = 20,
    epochs: int = 150,
    batch: int = 32,
    learning_rate: float = 0.01,
    loss: Literal["mae", "mse"] = "mae",
) -> Ensemble:
    """Train `networks` networks of `layers` hidden layers of `width` rectified linear units on the same points.

    They differ in their initial weights and in the order of the points, both drawn from rng. Adam with beta 0.9 and
    0.99 and Keras's epsilon of 1e-7; loss: mean of the absolute or squared errors of the standardised targets.
    If all targets are equal, that value is predicted everywhere.

    inputs: (n, d) float32, finite, of order 1; targets: (n,), finite; n, d >= 1. Errors: ValueError.
    """
    if inputs.ndim != 2 or not inputs.size or targets.shape != inputs.shape[:1]:
        raise ValueError(f"need inputs (n, d) and targets (n,), got {inputs.shape} and {targets.shape}")
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        raise ValueError("inputs or targets: not finite")
    if min(networks, layers, width, batch) < 1 or epochs < 0:
        raise ValueError("need networks, layers, width, batch >= 1 and epochs >= 0")
    if loss not in ("mae", "mse"):
        raise ValueError(f'loss: need "mae" or "mse", got {loss!r}')
    n, d = inputs.shape
    weights = Weights(networks, layers, width, d)
    weights.draw(rng)
    if targets.min() == targets.max():
        return Ensemble(weights, float(targets[0]), 0.0)
    center, scale = float(targets.mean()), float(targets.std())
    orders = rng.permuted(np.tile(np.arange(n), (epochs * networks, 1)), axis=1).reshape(epochs, networks, n)

    # The weights of inputs that are always 0 keep their initial values: leave them out.
    used = np.append(inputs.any(axis=0), True)
    trained = Weights(networks, layers, width, int(used.sum()) - 1)
    trained.first[:], trained.hidden[:], trained.last[:] = weights.first[..., used], weights.hidden, weights.last
    with one_thread():
        train(
            trained,
            inputs[:, used[:-1]],
            ((targets - center) / scale).astype(np.float32),
            orders,
            batch=batch,
            learning_rate=learning_rate,
            loss=loss,
        )
    weights.first[..., used], weights.hidden[:], weights.last[:] = trained.first, trained.hidden, trained.last
    return Ensemble(weights, center, scale)


def train(
    weights: Weights,
    inputs: Array,
    targets: Array,
    orders: NDArray[np.int64],
    *,
    batch: int,
    learning_rate: float,
    loss: str,
) -> None:
    """Change weights in place. orders: (epochs, networks, n): the order in which each network sees the n points.

    inputs: (n, d), targets: (n,). The last batch of an epoch may be smaller; each batch's loss is a mean.
    """
    n, d = inputs.shape
    with_one = np.ones((n, d + 1), np.float32)
    with_one[:, :d] = inputs
    gradients = Weights(len(weights.first), len(weights.hidden) + 1, weights.first.shape[1], d)
    optimizer = Adam(weights.flat, gradients.flat, learning_rate)
    passes = {size: Backpropagation(weights, gradients, size, loss) for size in {min(batch, n), n % batch} if size}
    for order in orders:
        for start in range(0, n, batch):
            rows = order[:, start : start + batch]
            passes[rows.shape[1]].run(with_one.take(rows, axis=0), targets.take(rows))
            optimizer.step()


class Backpropagation:
    """Forward and backward pass of all networks, each on its own batch of the same size.

    Units and their gradients are (layers, width, networks, batch), so that elementwise operations see contiguous
    memory; `_stack` shows them to the products as (..., networks, width, batch). Unit number `width` is constant.
    """

    def __init__(self, weights: Weights, gradients: Weights, batch: int, loss: str) -> None:
        networks, width, _ = weights.first.shape
        layers = len(weights.hidden) + 1
        self.weights, self.gradients, self.loss = weights, gradients, loss
        self.units = np.ones((layers, width + 1, networks, batch), np.float32)
        self.slopes = np.empty((layers, width, networks, batch), np.float32)
        self.positive = np.empty(self.units.shape, bool)
        self.outputs = np.empty((networks, 1, batch), np.float32)
        self.zeros = np.zeros((width, networks, batch), np.float32)  # an array, since `maximum` is slow with a number
        # The views each layer needs, made once.
        stacked_units, stacked_slopes = _stack(self.units), _stack(self.slopes)
        self.forward = [
            (weights.hidden[i], stacked_units[i], stacked_units[i + 1, :, :width], self.units[i + 1, :width])
            for i in range(layers - 1)
        ]
        self.backward = [
            (
                weights.hidden[i, :, :, :width].swapaxes(1, 2),
                stacked_slopes[i + 1],
                stacked_slopes[i],
                self.slopes[i],
                self.positive[i, :width],
            )
            for i in reversed(range(layers - 1))
        ]

    def run(self, inputs: Array, targets: Array) -> None:
        """inputs: (networks, batch, d + 1), the last column 1; targets: (networks, batch). Sets the gradients."""
        weights, gradients, units, slopes = self.weights, self.gradients, self.units, self.slopes
        width = slopes.shape[1]
        np.matmul(weights.first, inputs.swapaxes(1, 2), out=_stack(units[0, :width]))
        np.maximum(units[0, :width], self.zeros, out=units[0, :width])
        for weight, below, above, rectified in self.forward:
            np.matmul(weight, below, out=above)
            np.maximum(rectified, self.zeros, out=rectified)
        np.matmul(weights.last, _stack(units[-1]), out=self.outputs)

        errors = self.outputs[:, 0] - targets
        errors = (np.sign(errors) if self.loss == "mae" else 2 * errors) / np.float32(errors.shape[1])
        np.greater(units, 0, out=self.positive)
        np.multiply(weights.last[:, 0, :width].T[:, :, None], errors, out=slopes[-1])
        np.multiply(slopes[-1], self.positive[-1, :width], out=slopes[-1])
        for weight, above, below, slope, positive in self.backward:
            np.matmul(weight, above, out=below)
            np.multiply(slope, positive, out=slope)
        np.matmul(errors[:, None], _stack(units[-1]).swapaxes(1, 2), out=gradients.last)
        np.matmul(_stack(slopes[1:]), _stack(units[:-1]).swapaxes(-1, -2), out=gradients.hidden)
        np.matmul(_stack(slopes[0]), inputs, out=gradients.first)


def _stack(units: Array) -> Array:
    """(..., width, networks, batch) -> (..., networks, width, batch), a view."""
    return units.swapaxes(-3, -2)


class Adam:
    """Kingma & Ba 2015, with Keras's place for epsilon. Changes flat parameters in place."""

    def __init__(self, parameters: Array, gradients: Array, rate: float) -> None:
        self.parameters, self.gradients, self.rate = parameters, gradients, rate
        self.mean, self.square = np.zeros_like(parameters), np.zeros_like(parameters)  # without factors 1 - beta
        self.change = np.empty_like(parameters)
        self.steps = 0

    def step(self, beta1: float = 0.9, beta2: float = 0.99, epsilon: float = 1e-7) -> None:
        self.steps += 1
        rate = self.rate * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        gradients, change, mean, square = self.gradients, self.change, self.mean, self.square
        np.multiply(mean, np.float32(beta1), out=mean)
        np.add(mean, gradients, out=mean)
        np.multiply(square, np.float32(beta2), out=square)
        np.multiply(gradients, gradients, out=change)
        np.add(square, change, out=square)
        # rate (1 - beta1) mean / (sqrt((1 - beta2) square) + epsilon)
        np.sqrt(square, out=change)
        np.add(change, np.float32(epsilon / math.sqrt(1 - beta2)), out=change)
        np.divide(mean, change, out=change)
        np.multiply(change, np.float32(rate * (1 - beta1) / math.sqrt(1 - beta2)), out=change)
        np.subtract(self.parameters, change, out=self.parameters)
        if self.steps % 128 == 0:
            # Moments of parameters whose gradient has become 0 would decay to subnormal numbers, which are slow.
            for moment in (mean, square):
                moment[np.abs(moment) < 1e-30] = 0
