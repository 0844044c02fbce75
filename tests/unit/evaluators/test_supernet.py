"""nastool.evaluators.supernet: weights that architectures share, and the two phases of a round."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from nastool.core import registry
from nastool.core.errors import CannotGoOn, InputError, TrialFailed
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Proposal
from nastool.evaluators.supernet import Supernet
from nastool.nets.costs import count_flops
from nastool.nets.networks import build, use_batch_statistics
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.enas import ENAS, ENASPolicy
from nastool.training.counting import Counting
from nastool.training.loop import seeds
from nastool.training.policies import Drawn
from nastool.training.shared import SharedWeights

OPTIONS: Mapping[str, Any] = {
    "data": "digits",
    "train_size": 300,
    "epochs": 3,
    "batch_size": 50,
    "scale": {"channels": 4, "cells": 1},
    "device": "cpu",
}
SPACE = NasBench201()
GOOD = "|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
SETTINGS: Mapping[str, Any] = {"steps": 2, "children": 3, "candidates": 5}


def supernet(folder: Path | None = None, **options: Any) -> Supernet:
    evaluator = Supernet(SPACE, **{**OPTIONS, **options})
    evaluator.make_policy = ENAS.make_policy
    evaluator.workdir = folder
    return evaluator


def quiet(step: int, metrics: Mapping[str, float]) -> None:
    pass


def rounds(
    evaluator: Supernet | Callable[[], Supernet], strategy: ENAS, count: int, first: int = 0
) -> list[Evaluation]:
    """The next so many rounds of a search, each told to the strategy. evaluator: one, or how to make one for each."""
    from nastool.core.values import Trial

    found = []
    for i in range(first, first + count):
        proposal = strategy.ask()
        assert proposal is not None
        own = evaluator if isinstance(evaluator, Supernet) else evaluator()
        found.append(own.evaluate(i, proposal, seed=100 + i, report=quiet))
        strategy.tell(Trial(i, proposal, "done", found[-1], (-found[-1].metrics["shared_acc"],)))
    return found


def learnt(evaluation: Evaluation) -> tuple[Any, Any]:
    return evaluation.metrics, evaluation.policy


def arch(seed: int, space: SearchSpace = SPACE) -> Arch:
    return space.sample(np.random.default_rng(seed))


def epoch(shared: SharedWeights, children: Sequence[Arch]) -> None:
    shared.epoch(0, torch.Generator(), Drawn([[child] for child in children]).round)


def copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def prepared() -> Iterator[Supernet]:
    evaluator = supernet()
    evaluator.prepare()
    evaluator._shared = evaluator._load()
    yield evaluator


class TestSharing:
    def test_architectures_that_share_an_edge_share_its_parameters(self, prepared: Supernet) -> None:
        """The very same Parameter objects, not equal copies."""
        network = prepared._shared.network  # type: ignore[union-attr]
        first = SPACE.from_string("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|")
        second = SPACE.from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|nor_conv_3x3~1|none~2|")
        parameters = {p.data_ptr(): p for p in network.parameters()}
        of = [
            {name: parameters.get(t.data_ptr()) for name, t in network.child_state(a).items()} for a in (first, second)
        ]
        edge = [name for name in of[0] if "1<-0" in name]
        assert edge and all(of[0][name] is of[1][name] is not None for name in edge)
        assert any("3<-2" in name for name in of[0]) and not any("3<-2" in name for name in of[1])

    def test_only_the_active_path_has_gradients_and_changes(self, prepared: Supernet) -> None:
        shared = prepared._shared
        assert shared is not None
        before = copy(dict(shared.network.named_parameters()))
        child = SPACE.from_string(GOOD)
        epoch(shared, [child] * shared.training.steps)
        active = {value.data_ptr() for value in shared.network.child_state(child).values()}
        inactive = 0
        for name, parameter in shared.network.named_parameters():
            if parameter.data_ptr() in active:
                assert parameter.grad is not None and not torch.equal(parameter, before[name]), name
            else:
                inactive += 1
                assert parameter.grad is None and torch.equal(parameter, before[name]), name
        assert inactive

    def test_off_the_path_weights_decay_if_the_recipe_says_so(self) -> None:
        """As in ENAS' code: a gradient of zero there is no gradient left out."""
        evaluator = supernet()
        evaluator.recipe = evaluator.recipe.replace(
            decay_off_path=True, warmup_epochs=0.0, schedule="constant", epochs=1
        )
        evaluator.prepare()
        shared = evaluator._load()
        before = copy(dict(shared.network.named_parameters()))
        child = SPACE.from_string(GOOD)
        epoch(shared, [child] * shared.training.steps)
        active = {value.data_ptr() for value in shared.network.child_state(child).values()}
        recipe, steps = evaluator.recipe, shared.training.steps
        weight, momentum = 1.0, 0.0  # of one that begins at 1
        for _ in range(steps):
            gradient = recipe.weight_decay * weight
            momentum = recipe.momentum * momentum + gradient
            weight -= recipe.lr * (gradient + recipe.momentum * momentum)
        inactive = 0
        for name, parameter in shared.network.named_parameters():
            if parameter.data_ptr() not in active:
                inactive += 1
                torch.testing.assert_close(parameter.detach(), before[name] * weight, rtol=1e-4, atol=1e-7)
        assert inactive and weight < 0.9999

    def test_inactive_operations_are_not_executed(self, prepared: Supernet) -> None:
        from torch import nn

        network = prepared._shared.network  # type: ignore[union-attr]
        ran: list[nn.Module] = []
        for module in network.modules():
            module.register_forward_hook(lambda module, inputs, output: ran.append(module))
        child = SPACE.arch([1] * 6)  # all skip_connect
        network.select(child)
        network(torch.rand(2, 1, 8, 8))
        convolutions = [module for module in ran if isinstance(module, nn.Conv2d)]
        assert len(convolutions) == 1 + 2 * 3  # the stem and two residual reductions

    def test_normalisation_uses_the_batch(self, prepared: Supernet) -> None:
        """Also when scoring (bug 6 of the field's list): whatever was trained or scored before leaves no statistics."""
        shared = prepared._shared
        assert shared is not None
        assert not [name for name in shared.network.state_dict() if "running" in name]
        first = prepared._score(shared, arch(1))
        prepared._score(shared, arch(2))
        assert prepared._score(shared, arch(1)) == first
        shared.network.eval()
        shared.network.select(SPACE.from_string("|nor_conv_3x3~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"))
        outputs: list[Tensor] = []
        last = [m for m in shared.network.modules() if isinstance(m, torch.nn.BatchNorm2d)][-1]
        last.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        shared.network(torch.rand(16, 1, 8, 8) * 7)
        assert outputs[0].mean((0, 2, 3)).abs().max() < 1e-4
        assert (outputs[0].var((0, 2, 3), correction=0) - 1).abs().max() < 0.05


class TestPhases:
    def test_the_policy_is_rewarded_on_validation_images(
        self, prepared: Supernet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kind, asked = type(prepared.val_batches), []
        minibatches = kind.minibatches

        def noted(batches: Any, *arguments: Any, **more: Any) -> Any:
            asked.append(batches)
            return minibatches(batches, *arguments, **more)

        monkeypatch.setattr(kind, "minibatches", noted)
        rounds(prepared, ENAS(SPACE, **SETTINGS), 1)
        assert asked and all(batches is prepared.val_batches for batches in asked)

    def test_each_leaves_the_other_alone(self, tmp_path: Path) -> None:
        evaluator = supernet()
        strategy = ENAS(SPACE, **SETTINGS)
        rounds(evaluator, strategy, 1)
        shared = evaluator._shared
        assert shared is not None and shared.policy is not None
        weights, policy = copy(shared.network.state_dict()), copy(shared.policy.state_dict())
        generator = torch.Generator().manual_seed(0)
        policy_of_enas = cast(ENASPolicy, shared.policy)
        epoch(shared, list(map(SPACE.arch, policy_of_enas.sample(shared.training.steps, generator))))
        assert same(policy, shared.policy.state_dict())
        assert not same(weights, shared.network.state_dict())
        weights = copy(shared.network.state_dict())
        shared.network.zero_grad()
        batches = evaluator.val_batches.minibatches(evaluator.recipe.batch_size, generator)
        policy_of_enas.learn(
            Counting(3, generator, lambda archs: evaluator.rewards(shared.network, archs, next(batches)))
        )
        assert same(weights, shared.network.state_dict())
        assert all(parameter.grad is None for parameter in shared.network.parameters())
        assert not same(policy, shared.policy.state_dict())

    def test_the_gain_is_measured_and_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """After the last round with more children."""
        pairs: list[int] = []
        measure = SharedWeights.gain

        def noted(shared: SharedWeights, policy: Any, count: int, seed: int) -> dict[str, float]:
            pairs.append(count)
            return measure(shared, policy, count, seed)

        monkeypatch.setattr(SharedWeights, "gain", noted)
        measured = list(map(learnt, rounds(supernet(epochs=2), ENAS(SPACE, **SETTINGS), 2)))
        assert pairs == [16, 64]
        monkeypatch.setattr(SharedWeights, "gain", lambda *_: {})
        without = list(map(learnt, rounds(supernet(epochs=2), ENAS(SPACE, **SETTINGS), 2)))
        for metrics, _ in measured:
            assert abs(metrics.pop("gain")) < 1 and 0 < metrics.pop("gain_se") < 1
        assert measured == without

    def test_they_see_different_images(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The weights training images alone, the policy validation images alone, neither the test images."""
        evaluator = supernet()
        evaluator.prepare()
        evaluator.test_batches = None
        seen: list[str] = []

        def watched(name: str, original: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
            def look(x: Tensor) -> Tensor:
                seen.append(name)
                return original(x)

            return look

        for name in ("train_batches", "val_batches"):
            part = getattr(evaluator, name)
            monkeypatch.setattr(part, "_normalized", watched(name, part._normalized))
        shared = evaluator._shared = evaluator._load()
        epoch(shared, [arch(0)] * shared.training.steps)
        assert set(seen) == {"train_batches"}
        seen.clear()
        evaluator.rewards(
            shared.network,
            [arch(1)],
            next(evaluator.val_batches.minibatches(evaluator.recipe.batch_size, torch.Generator())),
        )
        assert set(seen) == {"val_batches"}

    def test_one_child_per_minibatch(self, prepared: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
        shared = prepared._shared
        assert shared is not None
        chosen: list[Arch] = []
        select = shared.network.select

        def watched(child: Arch) -> None:
            chosen.append(child)
            select(child)

        monkeypatch.setattr(shared.network, "select", watched)
        prepared.recipe = prepared.recipe.replace(epochs=2)
        prepared._uniform_round(shared, quiet)
        assert len(chosen) == shared.training.steps + 1  # and the last one is scored
        assert len(set(chosen)) > 4

    def test_a_minibatch_of_rewards_is_an_accuracy_on_it(self, prepared: Supernet) -> None:
        shared = prepared._shared
        assert shared is not None
        x, y = next(prepared.val_batches.minibatches(prepared.recipe.batch_size, torch.Generator().manual_seed(1)))
        assert len(y) == 50
        children = [arch(i) for i in range(3)]
        found = prepared.rewards(shared.network, children, (x, y))
        shared.network.eval()
        for child, reward in zip(children, found, strict=True):
            shared.network.select(child)
            with torch.no_grad():
                assert (shared.network(x).argmax(1) == y).double().mean().item() == reward

    def test_a_likelihood_is_that_of_the_right_classes(self, prepared: Supernet) -> None:
        shared = prepared._shared
        assert shared is not None
        x, y = next(shared.parts["val"].minibatches(50, torch.Generator().manual_seed(0)))
        children = [arch(seed) for seed in range(3)]
        found = prepared.rewards(shared.network, children, (x, y), True)
        for child, reward in zip(children, found, strict=True):
            shared.network.select(child)
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(shared.network(x), y)
            assert reward == pytest.approx(float(torch.exp(-loss)), rel=1e-5)

    def test_dropout_in_rewards_if_the_recipe_says_so(self) -> None:
        space = CellCNN(blocks=1)
        evaluator = Supernet(space, **OPTIONS)
        evaluator.prepare()
        network = evaluator.supernet()
        dropout = [module for module in network.modules() if isinstance(module, torch.nn.Dropout)]
        assert dropout
        dropout[0].p = 0.9
        batch = next(evaluator.val_batches.minibatches(evaluator.recipe.batch_size, torch.Generator().manual_seed(1)))
        children = [arch(3, space)] * 20
        for on in (False, True):
            evaluator.recipe = evaluator.recipe.replace(reward_dropout=on)
            assert (len(set(evaluator.rewards(network, children, batch))) > 1) == on
        evaluator._shared = evaluator._load()
        scores = {tuple(evaluator._measured(evaluator._shared, children[0]).items()) for _ in range(3)}
        assert len(scores) == 1, "scores are without"

    def test_minibatches_go_through_the_validation_images_in_random_order(self, prepared: Supernet) -> None:
        prepared.recipe = prepared.recipe.replace(batch_size=100)
        batches = prepared.val_batches.minibatches(prepared.recipe.batch_size, torch.Generator().manual_seed(1))
        first = [next(batches)[0] for _ in range(3)]  # of 360 images
        images = torch.cat(first).flatten(1)
        assert len({tuple(image.tolist()) for image in images}) == 300
        assert not torch.equal(next(batches)[0], first[0])


class TestContinuing:
    def test_rounds_in_other_processes_are_the_same(self, tmp_path: Path) -> None:
        """A new evaluator each round, as after a kill: the same weights, policy and random numbers."""
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        one = rounds(supernet(whole), ENAS(SPACE, **SETTINGS), 3)
        other = rounds(lambda: supernet(cut), ENAS(SPACE, **SETTINGS), 3)
        assert list(map(learnt, one)) == list(map(learnt, other))
        candidate = Proposal(arch(7))
        scores = [supernet(f).evaluate(9, candidate, seed=0, report=quiet).metrics for f in (whole, cut)]
        assert scores[0] == scores[1]

    def test_killed_in_the_middle_of_a_round(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever half of it was done is not there any more: the round is repeated from the checkpoint."""
        undisturbed = rounds(supernet(tmp_path / "a"), ENAS(SPACE, **SETTINGS), 2)
        strategy = ENAS(SPACE, **SETTINGS)
        evaluator = supernet(tmp_path / "b")
        found = rounds(evaluator, strategy, 1)
        proposal = strategy.ask()
        assert proposal is not None

        def killed(*args: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(evaluator, "rewards", killed)
            with pytest.raises(KeyboardInterrupt):
                evaluator.evaluate(1, proposal, seed=101, report=quiet)
        for again in (evaluator, supernet(tmp_path / "b")):
            assert learnt(again.evaluate(1, proposal, seed=101, report=quiet)) == learnt(undisturbed[1])
        assert learnt(found[0]) == learnt(undisturbed[0])

    def test_once_steps_were_split_they_stay_so(self, tmp_path: Path) -> None:
        """Also in another process: the next round would not have more memory."""
        whole = rounds(supernet(tmp_path / "whole"), ENAS(SPACE, **SETTINGS), 1)
        first = supernet(tmp_path / "parts")
        first.prepare()
        first.micro_batches = 4
        (split,) = rounds(first, ENAS(SPACE, **SETTINGS), 1)
        assert split.metrics["micro_batches"] == 4
        assert split.metrics["train_loss"] != whole[0].metrics["train_loss"], "statistics are those of the parts"
        assert split.metrics["train_loss"] == pytest.approx(whole[0].metrics["train_loss"], rel=0.2)
        again = supernet(tmp_path / "parts")
        score = again.evaluate(9, Proposal(arch(3)), seed=0, report=quiet)
        assert score.metrics["micro_batches"] == 4 and again.micro_batches == 1

    def test_killed_between_checkpoint_and_database(self, tmp_path: Path) -> None:
        """The round is in the checkpoint but was never told: its result comes back, nothing is trained twice."""
        strategy = ENAS(SPACE, **SETTINGS)
        rounds(supernet(tmp_path), strategy, 1)
        proposal = strategy.ask()
        assert proposal is not None
        first = supernet(tmp_path).evaluate(1, proposal, seed=101, report=quiet)
        content = (tmp_path / "checkpoints" / "supernet.safetensors").read_bytes()
        again = supernet(tmp_path).evaluate(1, proposal, seed=101, report=quiet)
        assert learnt(first) == learnt(again)
        assert (tmp_path / "checkpoints" / "supernet.safetensors").read_bytes() == content

    def test_a_full_disk_ends_the_search(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The round has not failed: once there is room it is repeated, with the same result."""
        undisturbed = rounds(supernet(tmp_path / "a"), ENAS(SPACE, **SETTINGS), 1)
        proposal = ENAS(SPACE, **SETTINGS).ask()
        assert proposal is not None

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr("nastool.core.files.write_tensors", full)
            with pytest.raises(CannotGoOn, match=r"supernet\.safetensors: No space left on device; free some space"):
                supernet(tmp_path / "b").evaluate(0, proposal, seed=100, report=quiet)
        again = supernet(tmp_path / "b").evaluate(0, proposal, seed=100, report=quiet)
        assert learnt(again) == learnt(undisturbed[0])

    def test_a_lost_checkpoint_is_said(self, tmp_path: Path) -> None:
        strategy = ENAS(SPACE, **SETTINGS)
        rounds(supernet(tmp_path), strategy, 1)
        (tmp_path / "checkpoints" / "supernet.safetensors").unlink()
        proposal = strategy.ask()
        assert proposal is not None
        with pytest.raises(TrialFailed, match=r"after 0 rounds, not 1: begin anew"):
            supernet(tmp_path).evaluate(1, proposal, seed=1, report=quiet)

    def test_uniform_training_goes_on_after_a_kill(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        proposal = Proposal(arch(3))
        whole = supernet(tmp_path / "a").evaluate(0, proposal, seed=0, report=quiet)
        evaluator = supernet(tmp_path / "b")

        def kill(step: int, metrics: Mapping[str, float]) -> None:
            if step == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            evaluator.evaluate(0, proposal, seed=0, report=kill)
        steps: list[int] = []
        again = supernet(tmp_path / "b").evaluate(0, proposal, seed=5, report=lambda step, metrics: steps.append(step))
        assert again.metrics == whole.metrics
        assert steps == [3]

    def test_weights_of_another_run(self, tmp_path: Path) -> None:
        trained = supernet(tmp_path / "a")
        expected = trained.evaluate(0, Proposal(arch(3)), seed=0, report=quiet).metrics
        path = str(tmp_path / "a" / "checkpoints" / "supernet.safetensors")
        steps: list[int] = []
        other = supernet(tmp_path / "b", weights=path, seed=8)
        found = other.evaluate(0, Proposal(arch(3)), seed=0, report=lambda step, metrics: steps.append(step))
        assert found.metrics == expected
        assert not steps
        proposal = ENAS(SPACE, **SETTINGS).ask()
        assert proposal is not None
        with pytest.raises(InputError, match="trains its own"):
            other.evaluate(1, proposal, seed=0, report=quiet)
        with pytest.raises(InputError, match="another scale"):
            supernet(tmp_path / "c", weights=path, scale={"channels": 5, "cells": 1}).evaluate(
                0, Proposal(arch(3)), seed=0, report=quiet
            )
        with pytest.raises(InputError, match="there is no"):
            supernet(weights="/nowhere").evaluate(0, Proposal(arch(3)), seed=0, report=quiet)

    def test_damaged_checkpoints_are_said(self, tmp_path: Path) -> None:
        supernet(tmp_path).evaluate(0, Proposal(arch(3)), seed=0, report=quiet)
        path = tmp_path / "checkpoints" / "supernet.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(InputError, match=r"supernet\.safetensors is damaged"):
            supernet(tmp_path).evaluate(0, Proposal(arch(3)), seed=0, report=quiet)


class TestScores:
    def test_all_validation_images_count(self, prepared: Supernet) -> None:
        """Not a first chunk of them (bug 8 of the field's list)."""
        shared = prepared._shared
        assert shared is not None
        found = prepared._score(shared, arch(4))
        shared.network.eval()
        shared.network.select(arch(4))
        with torch.no_grad():
            right = [(shared.network(x).argmax(1) == y).sum().item() for x, y in prepared.val_batches.mixed(50)]
        assert found["shared_acc"] == sum(right) / 360

    def test_the_order_of_the_images_does_not_matter(self, tmp_path: Path) -> None:
        """Sorted by class, as folders are, and of a size of which few would fit into a batch by pixels."""
        from nastool.tasks.images.data import load

        digits = load("digits")
        scores = []
        for name, chosen in (("sorted", np.argsort(digits.val.y, kind="stable")), ("mixed", np.arange(360))):
            arrays: dict[str, Any] = {"y_train": digits.train.y[::8], "y_val": digits.val.y[chosen]}
            for part, x in (("x_train", digits.train.x[::8]), ("x_val", digits.val.x[chosen])):
                arrays[part] = x[:, 0].repeat(8, axis=1).repeat(8, axis=2)
            np.savez(tmp_path / name, allow_pickle=False, **arrays)
            evaluator = supernet(data=f"npz:{tmp_path / name}.npz", train_size=None, epochs=1, lr=0.01)
            found = [evaluator.evaluate(0, Proposal(arch(i)), seed=0, report=quiet).metrics for i in range(3)]
            scores.append([each["shared_loss"] for each in found])
        assert scores[0] == pytest.approx(scores[1], rel=1e-4)

    def test_one_validation_image_is_refused(self, tmp_path: Path) -> None:
        """Its own statistics would be the batch's: every trial failed, or scored noise."""
        x, y = np.random.default_rng(0).integers(0, 255, (65, 4, 4), np.uint8), np.arange(65) % 2
        np.savez(tmp_path / "one", x_train=x[:64], y_train=y[:64], x_val=x[64:], y_val=y[64:])
        with pytest.raises(InputError, match=r"one\.npz: shared weights .* only one: give more"):
            supernet(data=f"npz:{tmp_path}/one.npz", train_size=None).prepare()

    def test_divergence_fails_the_trial_and_nothing_is_kept_of_it(self, tmp_path: Path) -> None:
        evaluator = supernet(tmp_path, lr=1000.0)
        evaluator.recipe = evaluator.recipe.replace(grad_clip=0.0, warmup_epochs=0.0)
        strategy = ENAS(SPACE, **SETTINGS)
        proposal = strategy.ask()
        assert proposal is not None
        with pytest.raises(TrialFailed, match=r"diverged: .* lower lr"):
            for i in range(10):
                proposal = Proposal(proposal.arch, policy={**(proposal.policy or {}), "round": i})
                evaluator.evaluate(0, proposal, seed=0, report=quiet)
        assert evaluator._shared is None

    def test_training_the_shared_weights_helps(self) -> None:
        """More than chance (0.1) by far, for an architecture drawn at random, and more with more rounds."""
        good = Proposal(SPACE.from_string(GOOD))
        short, long = (
            supernet(train_size=None, epochs=n, scale={"channels": 8, "cells": 1}).evaluate(
                0, good, seed=0, report=quiet
            )
            for n in (1, 8)
        )
        assert long.metrics["shared_acc"] > max(0.6, short.metrics["shared_acc"])

    def test_seeds_differ(self) -> None:
        scores = [supernet(seed=seed).evaluate(0, Proposal(arch(3)), seed=0, report=quiet).metrics for seed in (0, 1)]
        assert scores[0] != scores[1]

    def test_spaces_without_a_supernet_are_refused(self) -> None:
        from nastool.core.registry import misfits

        space = registry.load("space", "nasbench101")
        assert misfits(None, space, Supernet) == ["evaluator supernet needs 'supernet', which space nasbench101 lacks"]
        assert misfits(ENAS, NasBench201, registry.load("evaluator", "train")) == [
            "strategy enas needs 'policy', which space nasbench201 and evaluator train lack"
        ]


@pytest.fixture(scope="module")
def of_texts() -> Supernet:
    space = registry.make("space", "recurrent-cell", given={"nodes": 4})
    given: dict[str, Any] = {"data": "sentences", "train_size": 2000, "recipe": "default", "batch_size": 8}
    evaluator = Supernet(space, **given, scale={"hidden": 8}, epochs=2, device="cpu")
    evaluator.make_policy = ENAS.make_policy
    evaluator.prepare()
    return evaluator


class TestTexts:
    def test_a_round_and_a_score(self, of_texts: Supernet) -> None:
        strategy = ENAS(of_texts.space, steps=2, children=3, candidates=2)
        proposal = strategy.ask()
        assert proposal is not None
        found = of_texts.evaluate(0, proposal, seed=0, report=quiet).metrics
        assert found["shared_ppl"] == pytest.approx(np.exp(found["shared_loss"]))
        assert 0 < found["reward"] < 80 and "switch_rate" not in found

    def test_rewards_in_one_pass_are_those_of_each_child(
        self, of_texts: Supernet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        network = of_texts.supernet()
        batch = next(of_texts.val_batches.minibatches(8, torch.Generator().manual_seed(0)))
        archs = [arch(seed, of_texts.space) for seed in range(5)]
        found = of_texts.rewards(network, archs, batch)
        embedded = []
        embed = torch.nn.functional.embedding

        def counted(*args: Any, **kwargs: Any) -> Tensor:
            embedded.append(1)
            return embed(*args, **kwargs)

        monkeypatch.setattr("torch.nn.functional.embedding", counted)
        assert of_texts.rewards(network, archs, batch) == found
        assert len(embedded) == 1  # for all of them
        network.eval()
        for each, reward in zip(archs, found, strict=True):
            network.select(each)
            with torch.no_grad():
                right = of_texts.task.rewards([network(batch[0])], batch)
            assert reward == pytest.approx(right.item())

    def test_a_child_whose_output_is_no_number_is_worth_nothing(self, of_texts: Supernet) -> None:
        network = of_texts.supernet()
        batch = next(of_texts.val_batches.minibatches(8, torch.Generator().manual_seed(0)))
        with torch.no_grad():
            network.get_parameter("network.recurrent.of_state.weight").fill_(torch.nan)
        assert of_texts.rewards(network, [arch(0, of_texts.space)], batch) == [0.0]

    def test_a_state_that_grows_without_bound_costs_a_step_and_no_weights(self, of_texts: Supernet) -> None:
        network = of_texts.supernet()
        training = of_texts.training(network, of_texts.recipe, 0)
        shared = SharedWeights(network, training, of_texts.val_batches, nullcontext, lambda *_: [])
        losses: list[float] = []

        def drive(trainer: Any) -> dict[str, float]:
            for step in trainer.steps:
                if step == 1:
                    training._carries = {0: (torch.full((8, 8), torch.inf),)}
                before = copy(network.state_dict())
                losses.append(float(trainer.weights_step([arch(step, of_texts.space)])))
                same = [torch.equal(value, before[name]) for name, value in network.state_dict().items()]
                assert all(same) == (step == 1)
                if step > 2:
                    assert isinstance(carry := training._carries[0], tuple)
                    assert float(carry[0].square().mean(1).max()) <= 1.001
                if step == 2:
                    training._carries = {0: (torch.full((8, 8), 1e6),)}
                    training.bound_state()
            return {}

        found = shared.epoch(0, torch.Generator(), drive)
        assert found["skipped_steps"] == 1 and not np.isfinite(losses[1])
        finite = [loss for loss in losses if np.isfinite(loss)]
        assert len(finite) == len(losses) - 1 and found["train_loss"] == pytest.approx(np.mean(finite), rel=1e-5)

    def test_where_most_steps_are_lost_the_round_fails(self, of_texts: Supernet) -> None:
        network = of_texts.supernet()
        with torch.no_grad():
            network.get_parameter("network.embedding.weight").fill_(torch.nan)
        training = of_texts.training(network, of_texts.recipe, 0)
        shared = SharedWeights(network, training, of_texts.val_batches, nullcontext, lambda *_: [])
        with pytest.raises(TrialFailed, match="steps are not finite in epoch 1; lower lr"):
            epoch(shared, [arch(seed, of_texts.space) for seed in shared.steps])

    def test_what_is_no_number_is_a_large_loss(self, of_texts: Supernet) -> None:
        network = of_texts.supernet()
        network.select(arch(0, of_texts.space))
        with torch.no_grad():
            network.get_parameter("network.embedding.weight").fill_(torch.nan)
        assert of_texts.measure(network, of_texts.val_batches, "val")["val_loss"] == 700

    def test_a_minibatch_goes_on_from_the_state_of_another_child(self, of_texts: Supernet) -> None:
        network = of_texts.supernet()
        states: list[Any] = []

        def note(module: object, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
            states.append((inputs[1], output[1]))

        network.get_submodule("network.recurrent").register_forward_hook(note)
        shared = SharedWeights(
            network, of_texts.training(network, of_texts.recipe, 0), of_texts.val_batches, nullcontext, lambda *_: []
        )
        epoch(shared, [arch(seed, of_texts.space) for seed in shared.steps])
        assert states[0][0] is None and len(states) > 2
        for (_, (left,)), ((begun,), _) in pairwise(states):
            assert torch.equal(left, begun) and not begun.requires_grad and bool(begun.any())  # none is beyond 1


class TestTuned:
    """Architectures that are trained alone before they are scored."""

    def scored(self, **options: Any) -> tuple[Supernet, Evaluation]:
        evaluator = supernet(**options)
        return evaluator, evaluator.evaluate(0, Proposal(SPACE.from_string(GOOD)), seed=1, report=quiet)

    def test_the_shared_weights_stay_as_they_are(self) -> None:
        evaluator, first = self.scored(tune=3)
        shared = evaluator._shared
        assert shared is not None
        before = copy(shared.network.state_dict())
        others = [evaluator.evaluate(i, Proposal(arch(i)), seed=i, report=quiet) for i in (2, 3)]
        assert same(before, shared.network.state_dict())
        again = evaluator.evaluate(4, Proposal(SPACE.from_string(GOOD)), seed=9, report=quiet)
        assert again.metrics == first.metrics != others[0].metrics

    def test_is_what_training_the_child_by_hand_gives(self) -> None:
        evaluator, found = self.scored(tune=2, tune_lr=0.03)
        shared = evaluator._shared
        assert shared is not None
        child = evaluator.build(SPACE.from_string(GOOD), 0)
        child.load_state_dict(shared.network.child_state(SPACE.from_string(GOOD)), strict=False)
        generator = torch.Generator().manual_seed(seeds(0)[2])
        optimizer = torch.optim.SGD(
            [
                {"params": [p], "weight_decay": 0.0 if p.ndim <= 1 else evaluator.recipe.weight_decay}
                for p in child.parameters()
            ],
            lr=0.03,
            momentum=evaluator.recipe.momentum,
            nesterov=evaluator.recipe.nesterov,
        )
        child.train()
        for images, labels in list(evaluator.train_batches.train(evaluator.recipe, generator))[:2]:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                child(images), labels, label_smoothing=evaluator.recipe.label_smoothing
            )
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            torch.nn.utils.clip_grad_norm_(child.parameters(), evaluator.recipe.grad_clip or math.inf)
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] = 0.03 / 2
        use_batch_statistics(child)
        by_hand = evaluator.measure(child, evaluator.val_batches, "shared", mixed=evaluator.recipe.batch_size)
        assert found.metrics["shared_loss"] == pytest.approx(by_hand["shared_loss"], rel=1e-4)
        assert self.scored()[1].metrics["shared_loss"] != pytest.approx(by_hand["shared_loss"], rel=1e-2)

    def test_goes_on_over_the_end_of_the_data(self) -> None:
        evaluator, found = self.scored(tune=20, epochs=1)
        assert evaluator._shared is not None and evaluator._shared.training.steps < 20
        assert found.metrics["shared_loss"] < self.scored(epochs=1)[1].metrics["shared_loss"]

    def test_what_diverges_says_what_helps(self) -> None:
        evaluator = supernet(tune=60, tune_lr=10, epochs=1, train_size=100)
        evaluator.recipe = evaluator.recipe.replace(weight_decay=1.0, final_lr=0.0)
        with pytest.raises(TrialFailed, match="after 60 steps alone; lower tune_lr"):
            evaluator.evaluate(0, Proposal(SPACE.from_string(GOOD)), seed=1, report=quiet)

    def test_out_of_range(self) -> None:
        for wrong in ({"tune": 0}, {"tune": 3, "tune_lr": 0.0}, {"tune_lr": 0.1}):
            with pytest.raises(ValueError, match="tune"):
                supernet(**wrong)


class TestScoresWithABonus:
    def test_the_bonus_counts_flops_by_their_logarithm(self) -> None:
        evaluator, plain = supernet(epochs=1, flops_bonus=0.25), supernet(epochs=1)
        arch_, trial = arch(3), 0
        with_bonus = evaluator.evaluate(trial, Proposal(arch_), seed=0, report=quiet).metrics
        without = plain.evaluate(trial, Proposal(arch_), seed=0, report=quiet).metrics
        assert evaluator.objective == "shared_score" and plain.objective == "shared_acc"
        assert with_bonus["shared_loss"] == without["shared_loss"] and "shared_score" not in without
        flops = count_flops(build(SPACE, arch_, evaluator.task, evaluator.scale), evaluator.task)
        assert with_bonus["flops"] == flops > 0
        gain = 0.25 * math.log(flops / 1e6)
        assert with_bonus["shared_score"] == pytest.approx(gain - without["shared_loss"], abs=1e-9)
        batch = next(evaluator.val_batches.minibatches(16, torch.Generator().manual_seed(0)))
        networks = (each._shared.network for each in (evaluator, plain))  # type: ignore[union-attr]
        more, less = (
            each.rewards(network, [arch_], batch, likelihood=True)[0]
            for each, network in zip((evaluator, plain), networks, strict=True)
        )
        assert more == pytest.approx(less * math.exp(gain))
        with pytest.raises(ValueError, match="flops_bonus"):
            supernet(flops_bonus=-0.1)

    def test_the_recipe_has_one_unless_another_is_given(self) -> None:
        of_recipe, without = (Supernet(SPACE, data="shapes", flops_bonus=bonus) for bonus in (None, 0.0))
        assert of_recipe.recipe.flops_bonus == 0.1 and without.recipe.flops_bonus == 0
        assert of_recipe.objective == without.objective == "shared_score"


class TestFairSampling:
    def test_each_option_is_taken_equally_often_and_the_estimate_knows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        taken: list[list[Arch]] = []
        step = SharedWeights.weights_step

        def noted(self: SharedWeights, selections: Any, gradient: bool = False) -> Tensor:
            taken.append(list(selections))
            return step(self, selections, gradient)

        monkeypatch.setattr(SharedWeights, "weights_step", noted)
        evaluator = supernet(epochs=1, sampling="fair")
        fair = evaluator.evaluate(0, Proposal(arch(0)), seed=0, report=quiet).metrics
        assert len(taken) == evaluator._shared.training.steps  # type: ignore[union-attr]
        for children in taken:
            assert (np.sort([child.choices for child in children], axis=0) == np.arange(5)[:, None]).all()
        taken.clear()
        uniform = supernet(epochs=1).evaluate(0, Proposal(arch(0)), seed=0, report=quiet).metrics
        assert all(len(children) == 1 for children in taken) and uniform != fair
        monkeypatch.setattr("nastool.evaluators.supernet.seconds_of_one", lambda steps, wait: 1.0)
        assert evaluator._costs(Proposal(arch(0)))[0] == 5 * evaluator._shared.training.steps  # type: ignore[union-attr]
