"""nastool.tasks.supervised: losses and metrics, beside scikit-learn's; nastool.tasks.arrays: what arrays say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from nastool.core.errors import InputError, TrialFailed
from nastool.core.recipe import Recipe
from nastool.tasks.arrays import Arrays, statistics_of, target_of
from nastool.tasks.batches import TensorBatches
from nastool.tasks.supervised import Statistics
from nastool.tasks.tabular.task import TabularTask

RNG = np.random.default_rng
PLAIN = Recipe()


class Same(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def batches(x: Any, y: Any) -> TensorBatches:
    found = TensorBatches(torch.tensor(x), torch.tensor(y))
    found.at_once = 7
    return found


def test_numbers_are_measured_as_scikit_learn_does_in_units_of_the_target() -> None:
    rng = RNG(0)
    y, said = rng.normal(50, 20, (40, 1)), rng.normal(50, 20, (40, 1))
    statistics = statistics_of(y, 0, None)
    scaled = ((each - statistics.mean) / statistics.std for each in (said, y))
    outputs, targets = (each.astype(np.float32) for each in scaled)
    task = TabularTask(1, 0, 1, statistics)
    found = task.measure(Same(), batches(outputs, targets).in_order())
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(y, said), rel=1e-5)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(y, said), rel=1e-5)
    assert found["r2"] == pytest.approx(metrics.r2_score(y, said), rel=1e-4)
    step = task.step(Same(), (torch.tensor(outputs), torch.tensor(targets)), None, PLAIN)
    assert step.loss.item() == pytest.approx(found["loss"], rel=1e-5)
    assert set(found) == set(task.of_numbers)
    mean = task.measure_mean([torch.tensor(outputs), torch.tensor(targets)], batches(outputs, targets))
    assert mean["rmse"] == pytest.approx(found["rmse"] / 2, rel=1e-5)
    rewards = task.rewards([torch.tensor(outputs), torch.tensor(targets)], (torch.tensor(targets),))
    assert 0 < rewards[0] < rewards[1] == 1


def test_of_a_constant_nothing_is_explained() -> None:
    y = np.ones((9, 1), np.float32)
    assert TabularTask(1, 0, 1).measure(Same(), batches(y, y).in_order())["r2"] == 0


def test_balanced_accuracy_and_the_confusion_matrix_are_scikit_learn_s() -> None:
    rng = RNG(1)
    y, logits = rng.choice(3, 60, p=[0.8, 0.15, 0.05]), rng.normal(size=(60, 3)).astype(np.float32)
    task = TabularTask(3, 3, statistics=Statistics(balanced=True))
    data = batches(logits, y)
    found = task.measure(Same(), data.in_order())
    assert found["balanced_acc"] == pytest.approx(metrics.balanced_accuracy_score(y, logits.argmax(1)))
    assert found["acc"] == pytest.approx(metrics.accuracy_score(y, logits.argmax(1)))
    assert task.notes(Same(), data.in_order()) == {"confusion": metrics.confusion_matrix(y, logits.argmax(1)).tolist()}
    probabilities = task.predict(Same(), data.in_order())
    assert task.measure_mean([probabilities] * 2, data) == pytest.approx(found, rel=1e-5)
    rewards = task.rewards([torch.tensor(logits)] * 2, (torch.tensor(y),))
    assert rewards.tolist() == pytest.approx([found["balanced_acc"]] * 2)
    assert "balanced_acc" not in TabularTask(3, 3).measure(Same(), data.in_order())
    assert TabularTask(31, 31).notes(Same(), []) == {}, "too large to be read"


def test_weights_count_each_class_alike() -> None:
    """A tenth of the examples is of one class: right only in the other, a network that says the first loses as much."""
    y = np.repeat([0, 1], [90, 10])
    statistics = statistics_of(y, 2, "weigh")
    assert statistics.weights == pytest.approx((100 / 180, 5)) and statistics.balanced
    logits = torch.tensor([[2.0, 0.0]]).repeat(100, 1)
    loss = TabularTask(2, 2, statistics=statistics).step(Same(), (logits, torch.tensor(y)), None, PLAIN).loss
    each = -logits[0].log_softmax(0)
    assert loss.item() == pytest.approx(each.mean().item(), rel=1e-5)


@pytest.mark.parametrize("task", [TabularTask(2, 3), TabularTask(2, 0, 1)])
def test_an_output_of_another_shape_is_named(task: TabularTask) -> None:
    """Numbers (N,) beside (N, 1) would be broadcast, and a wrong loss would go unnoticed."""
    y = torch.zeros(4, dtype=torch.long) if task.classes else torch.zeros(4, 1)
    for width in (2, 4):
        with pytest.raises(TrialFailed, match=rf"returned shape \(4, {width}\), need \(4, {task.outputs}\)"):
            task.step(Same(), (torch.zeros(4, width), y), None, PLAIN)
    with pytest.raises(TrialFailed, match=r"returned shape \(4,\), need"):
        task.measure(Same(), [(torch.zeros(4), y)])


def test_what_a_task_is_has_no_statistics_in_it() -> None:
    task = TabularTask(4, 0, 1, Statistics(mean=(5.0,), std=(2.0,)))
    assert (
        task.to_json() == {"features": 4, "classes": 0, "targets": 1} and TabularTask.from_json(task.to_json()) == task
    )
    assert TabularTask(4, 3).to_json() == {"features": 4, "classes": 3}, "as files of earlier versions have it"
    for classes, targets in ((0, 0), (2, 1), (1, 0)):
        with pytest.raises(ValueError, match="classes"):
            TabularTask(4, classes, targets)


def said(y: Any, predict: Any = None, **others: Any) -> Any:
    x = np.zeros((len(y), 2))
    return target_of(Arrays.of("f.npz", {"x_train": x, "y_train": np.asarray(y)}, {"y_train": "y_train"}), predict)


def test_what_arrays_say() -> None:
    assert said([0, 1, 2, 1]).classes == ("0", "1", "2")
    assert said(["b", "a", "b"]).classes == ("a", "b") and said(["b", "a", "b"]).y["train"].tolist() == [1, 0, 1]
    assert said([0.5, 1, 2]).names == ("target",) and said([0.5, 1, 2]).said == "numbers from 0.5 to 2"
    assert said([3, 1, 2], "numbers").y["train"].tolist() == [[3], [1], [2]]
    assert said([[0.5, 1], [2, 3]]).names == ("target0", "target1")
    with pytest.raises(InputError, match=r"f\.npz: y_train: 1 values are not finite, the first nan at \[1, 0\]: leave"):
        said([0.5, np.nan, 2])
    with pytest.raises(InputError, match=r"need numbers of shape \(N,\) or \(N, targets\), got <U1"):
        said(["a", "b"], "numbers")
