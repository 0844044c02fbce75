"""nastool.learners.relaxation: what the policies of all differentiable strategies do in a round, and how they go on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from nastool.core import registry
from nastool.core.space import SearchSpace
from nastool.core.values import Arch
from nastool.evaluators.supernet import Supernet
from nastool.learners.differentiable import Differentiable
from nastool.learners.draws import straight_through
from nastool.learners.relaxation import Relaxation, dominant
from nastool.learners.sharing import most_skips
from nastool.nets.networks import OneOf, Selection, build, chosen_options
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.macro_cnn import MacroCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.training.counting import Counting
from nastool.training.policies import Part
from nastool.training.shared import SharedWeights

STRATEGIES = ("darts", "drnas", "fairdarts", "gdas", "snas")
SPACE = NasBench201()
SPACES: Mapping[str, SearchSpace] = {
    "nasbench201": SPACE,
    "cell-cnn": CellCNN(blocks=2, ops="darts"),
    "macro-cnn": MacroCNN(layers=4),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def policy_of(name: str, space: SearchSpace = SPACE, seed: int = 0, **given: Any) -> Relaxation:
    """Of the options that its proposals carry, through JSON, as it reaches an evaluator."""
    strategy: Differentiable = registry.make("strategy", name, space, given=given)
    proposal = strategy.ask()
    assert proposal is not None and proposal.policy is not None
    options: Any = json.loads(json.dumps(proposal.policy))["options"]
    return strategy.make_policy(space, options, seed)


def shared_weights(space: SearchSpace = SPACE, epochs: int = 2, val_fraction: float | None = None) -> SharedWeights:
    scale = {"channels": 4} if space.name == "macro-cnn" else {"channels": 4, "cells": 1}
    options: dict[str, Any] = {"train_size": 48, "val_fraction": val_fraction, "epochs": epochs, "batch_size": 16}
    evaluator = Supernet(space, data="digits", scale=scale, device="cpu", **options)
    evaluator.prepare()
    return evaluator._load()


class MadeUp(Counting):
    """A trainer whose loss is a function of the weights of options, with no networks behind it."""

    def __init__(
        self, loss: Callable[[Mapping[str, Mapping[str, Tensor]]], Tensor], steps: int = 50, **more: Any
    ) -> None:
        super().__init__(steps, generator(1), **more)
        self.of = loss
        self.seen: list[Mapping[str, Mapping[str, Tensor]]] = []

    def _loss(self, selection: Selection) -> Tensor:
        if isinstance(selection, Arch):
            selection = chosen_options(SPACE, selection)
        one = torch.tensor(1.0)
        weights = {name: {w: one} if isinstance(w, str) else w for name, w in selection.items()}
        self.seen.append(weights)
        return self.of(weights)

    def loss(self, selection: Selection, part: Part) -> Tensor:
        assert part == "val", "the architecture does not learn from what the weights learn from"
        return self._loss(selection)

    def weights_step(self, selections: Sequence[Selection], gradient: bool = False) -> Tensor:
        (selection,) = selections
        loss = self._loss(selection)
        if gradient:
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        return loss.detach()

    def unrolled(self, selection: Selection, architecture: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        loss = self._loss(selection)
        return loss.detach(), list(torch.autograd.grad(loss, list(architecture)))

    def losses(self, selections: Sequence[Selection], part: Part) -> list[float]:
        return [self._loss(selection).item() for selection in selections]


def worth(good: str) -> Callable[[Mapping[str, Mapping[str, Tensor]]], Tensor]:
    """A loss that falls with the weight of one option in every decision, and grows with all others."""

    def loss(weights: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
        terms = [
            weight if option == good else -0.2 * weight for row in weights.values() for option, weight in row.items()
        ]
        return 3 - torch.stack(terms).sum() / 2

    return loss


class TestLearning:
    @pytest.mark.parametrize("name", STRATEGIES)
    def test_what_lowers_the_loss_becomes_likely(self, name: str) -> None:
        policy = policy_of(name, lr=0.05, candidates=5)
        found = policy.round(MadeUp(worth("nor_conv_3x3"), steps=150, progress=0.5, rounds=4))
        best = SPACE.decisions[0].options.index("nor_conv_3x3")
        learnt = policy.conclude(0, generator())
        assert learnt.best == (best,) * 6 and learnt.candidates is not None and len(learnt.candidates) == 5
        assert learnt.candidates[0] == learnt.best
        assert found["learning"] == 1 and found["entropy"] < 6 * np.log(5) * 0.95

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_warm_up_leaves_the_architecture_alone(self, name: str) -> None:
        policy = policy_of(name, warmup=0.5)
        before = policy.state_dict()
        found = policy.round(MadeUp(worth("nor_conv_3x3"), steps=3, progress=0.4, rounds=10))
        assert found["learning"] == 0
        assert all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())
        assert policy.round(MadeUp(worth("nor_conv_3x3"), steps=3, progress=0.5, rounds=10))["learning"] == 1

    def test_few_steps_are_larger(self) -> None:
        """Fewer by n are n times as large, within bounds; one that is given is what it is."""
        for steps, rounds, lr in ((100, 100, 0.0003 * 1.955), (391, 50, 0.0003), (10_000, 50, 0.0003), (1, 1, 0.05)):
            trainer = Counting(steps, generator(), rounds=rounds)
            assert policy_of("darts", single=0).learning_rate(trainer) == pytest.approx(lr)
            assert policy_of("darts", lr=0.01).learning_rate(trainer) == 0.01
            assert policy_of("darts", preset="published").learning_rate(trainer) == 0.0003

    def test_single_architectures_train_the_weights_at_the_end(self) -> None:
        """Members drawn by the shares; the architecture is left as it is."""
        policy, drawn = policy_of("darts", single=0.5), list[Arch]()

        class Noting(MadeUp):
            def weights_step(self, selections: Sequence[Selection], gradient: bool = False) -> Tensor:
                drawn.extend(arch for arch in selections if isinstance(arch, Arch))
                return super().weights_step(selections, gradient)

        for progress, learns in ((0.25, True), (0.5, False), (0.75, False)):
            before = policy.state_dict()
            drawn.clear()
            found = policy.round(Noting(worth("nor_conv_3x3"), steps=5, progress=progress, rounds=4))
            same = all(torch.equal(value, before[key]) for key, value in policy.state_dict().items())
            assert (found["learning"], same, len(drawn)) == (float(learns), not learns, 0 if learns else 5)
        assert all(SPACE.is_member(arch) and 0 not in arch.choices for arch in drawn) and len(set(drawn)) > 1

    @pytest.mark.parametrize("seed", range(3))
    def test_seeds_differ_at_first(self, seed: int) -> None:
        one, other = policy_of("darts", seed=seed), policy_of("darts", seed=seed + 1)
        assert not torch.equal(one.alpha["options.5"], other.alpha["options.5"])
        assert float(one._copy()["options.5"].std()) == pytest.approx(0.001, rel=0.5)


class TestOneOption:
    """Straight-through draws, and what runs."""

    @pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
    def test_draws_are_one_hot_with_the_softmax_as_mean(self, temperature: float) -> None:
        alpha = torch.tensor([0.0, 1.0, -1.0, 0.5])
        drawn = straight_through(alpha.expand(4000, 4), temperature, generator())
        assert set(drawn.flatten().tolist()) == {0.0, 1.0} and bool((drawn.sum(1) == 1).all())
        expected = 4000 * alpha.softmax(0).numpy().astype(float)
        assert stats.chisquare(drawn.sum(0).numpy(), expected / expected.sum() * 4000).pvalue > 0.01

    @pytest.mark.parametrize("temperature", [0.1, 10.0])
    def test_gradients_are_there_and_finite(self, temperature: float) -> None:
        alpha = torch.randn(500, 5, generator=generator()).requires_grad_()
        straight_through(alpha, temperature, generator()).square().cumsum(1).sum().backward()  # type: ignore[no-untyped-call]
        assert alpha.grad is not None and bool(alpha.grad.isfinite().all()) and alpha.grad.abs().sum() > 0

    @pytest.mark.parametrize("space", SPACES)
    def test_gdas_runs_one_operation_of_each_decision(self, space: str) -> None:
        """In both kinds of steps: as many as in one architecture, which it is."""
        shared, policy = shared_weights(SPACES[space]), policy_of("gdas", SPACES[space])
        ran: list[tuple[str, str]] = []
        for module_name, module in shared.network.named_modules():
            if isinstance(module, OneOf) and not any(
                d.refers for d in shared.network.space.decisions if d.name == module.decision
            ):
                for option, part in module.options.items():
                    part.register_forward_hook(lambda *_, key=(module_name, option): ran.append(key))

        def steps(trainer: Any) -> Mapping[str, float]:
            for step in (lambda: policy._look_ahead(trainer), lambda: policy._train(trainer, False)):
                ran.clear()
                step()
                places = [place for place, _ in ran]
                assert ran and len(set(places)) == len(places), "of each place one option ran, once"
            for _ in trainer.steps[1:]:
                policy._train(trainer, False)
            return {}

        shared.epoch(0, generator(), steps)

    def test_gdas_computes_what_the_discrete_network_does(self) -> None:
        shared, policy = shared_weights(), policy_of("gdas")
        drawn = policy.draw(0.5, generator())
        arch = SPACE.arch([int(row.argmax()) for row in drawn["options.5"]])
        x, _ = next(shared.parts["val"].minibatches(8, generator()))
        network = shared.network.eval()
        network.select(policy.selection(drawn, 0.5))
        soft = network(x)
        network.select(arch)
        assert torch.equal(soft, network(x)) and policy.selection(drawn, 0.5, counted=False) == arch

    @pytest.mark.parametrize("space", SPACES)
    def test_gdas_takes_the_memory_of_one_path(self, space: str) -> None:
        """Most bytes that are kept for a backward pass, of many draws: of the steps of weights and architecture."""
        shared, policy = shared_weights(SPACES[space]), policy_of("gdas", SPACES[space])
        own = {parameter.untyped_storage().data_ptr() for parameter in shared.network.parameters()}

        def kept(loss: Callable[[], Tensor]) -> int:
            """Of all that is no parameter; what is kept several times counts once."""
            sizes: dict[int, int] = {}
            alive: list[Tensor] = []

            def pack(tensor: Tensor) -> Tensor:
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in own:
                    sizes[storage.data_ptr()] = storage.nbytes()
                    alive.append(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                alive.append(loss())
            return sum(sizes.values())

        def drive(trainer: Any) -> Mapping[str, float]:
            paths, looks, mixtures = [], [], []
            dense = policy_of("darts", SPACES[space])
            for seed in range(20):
                drawn = policy.draw(0.5, generator(seed))
                path = policy.selection(drawn, 0.5, counted=False)
                assert isinstance(path, Arch), "the weights take a step with one architecture, as with any strategy"
                shared.network.select(path)
                paths.append(kept(lambda: shared.training.loss(shared._minibatch("train"))))
                looks.append(kept(lambda drawn=drawn: trainer.loss(policy.selection(drawn, 0.5), "val")))  # type: ignore[misc]
                mixed = dense.selection(dense.draw(0.5, generator(seed)), 0.5)
                mixtures.append(kept(lambda mixed=mixed: trainer.loss(mixed, "val")))  # type: ignore[misc]
            assert max(looks) <= 1.2 * max(paths)
            assert min(mixtures) > 1.2 * max(paths), "a mixture takes more"
            for _ in trainer.steps:
                trainer.weights_step([path])
            return {}

        shared.epoch(0, generator(), drive)

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_inputs_and_switches_learn(self, name: str) -> None:
        """They are drawn, and have gradients; so are spaces searched in which mixtures of inputs would be too many."""
        for space in ("cell-cnn", "macro-cnn"):
            policy, shared = policy_of(name, SPACES[space], lr=0.01), shared_weights(SPACES[space])
            before = policy._copy()
            shared.epoch(0, generator(), policy.round)
            moved = {key: (value - before[key]).abs().max() for key, value in policy.alpha.items()}
            assert all(by > 0.005 for by in moved.values()), moved


class TestGoingOn:
    @pytest.mark.parametrize("name", STRATEGIES)
    @pytest.mark.parametrize("guards", [False, True])
    def test_killed_after_a_round_it_goes_on_bit_for_bit(
        self, name: str, guards: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nastool.learners.relaxation.POWERS", 2)
        given: dict[str, Any] = {"candidates": 4, "single": 0.5}
        if guards:
            given["single"] = 0
            given |= {"eigenvalue_stop": True, "beta_decay": 1.0, "skip_stop": 6}
            given |= {} if name == "gdas" else {"smoothing": 0.1, "auxiliary_skip": 1.0, "perturbation": 0.5}
        shared, policy = shared_weights(val_fraction=0.05), policy_of(name, **given)
        shared.with_policy(policy)
        shared.epoch(0, generator(0), policy.round)
        tensors, state = shared.capture()
        saved = {key: value.clone() for key, value in tensors.items()}, json.loads(json.dumps(state))
        found = []
        for killed in (False, True):
            if killed:
                shared, policy = shared_weights(val_fraction=0.05), policy_of(name, seed=9, **given)
                shared.restore(*saved)
                shared.with_policy(policy)
            reported = shared.epoch(1, generator(1), policy.round)
            tensors, _ = shared.capture()
            found.append((reported, tensors, policy.conclude(0, generator(2))))
        (one, first, learnt), (other, second, again) = found
        assert one == other and learnt == again and first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items())
        assert any(key.startswith("policy.alpha") for key in first)


class TestDeriving:
    def test_the_likeliest_are_candidates(self) -> None:
        """Sharp logits: the first is the largest of each, the others differ from it in what costs least."""
        policy = policy_of("darts", candidates=7, skip_cap=1000)
        with torch.no_grad():
            policy.alpha["options.5"].copy_(3 * torch.randn(6, 5, generator=generator(4)))
        shares = np.array(policy.shares())
        found = policy.candidates(7, generator())
        product = [np.prod(shares[np.arange(6), list(choices)]) for choices in found]
        assert found[0] == tuple(shares.argmax(1)) and product == sorted(product, reverse=True)
        assert len({SPACE.canonical(SPACE.arch(choices)) for choices in found}) == 7

    @pytest.mark.parametrize(("name", "derives"), [("darts", False), ("gdas", False), ("snas", True)])
    def test_none_is_derived_by_snas_alone(self, name: str, derives: bool) -> None:
        policy = policy_of(name)
        with torch.no_grad():
            policy.alpha["options.5"][:, SPACE.decisions[0].options.index("none")] += 5
        assert (policy.candidates(1, generator())[0] == (0,) * 6) == derives
        assert (0 in policy.sample(50, generator())) == derives
        assert policy_of(name, none=True).settings.none

    def test_no_more_skip_connections_than_the_cap(self) -> None:
        skip = SPACE.decisions[0].options.index("skip_connect")
        for cap, most in ((2, 2), (0, 0), (1000, 6)):
            policy = policy_of("darts", skip_cap=cap)
            with torch.no_grad():
                policy.alpha["options.5"][:, skip] += 5
            found = policy.candidates(20, generator())
            assert len(found) == 20 and max(most_skips(SPACE, choices) for choices in found) == most
            assert most_skips(SPACE, found[0]) == most, "the likeliest has as many as it may have"

    def test_frequencies_are_the_shares(self) -> None:
        learnt = policy_of("fairdarts").conclude(3, generator())
        assert learnt.rounds_left == 3 and learnt.candidates is None and learnt.frequencies is not None
        assert all(sum(row) == pytest.approx(1) for row in learnt.frequencies)

    def test_what_is_scored_is_what_is_built(self) -> None:
        """A candidate's cell reaches its own network whole: with the shared weights both compute the same."""
        space = CellCNN(blocks=2, normal_output="2,3")
        shared, policy = shared_weights(space), policy_of("darts", space)
        shared.epoch(0, generator(), policy.round)
        x, _ = next(shared.parts["val"].minibatches(8, generator()))
        for choices in policy.candidates(3, generator()):
            arch = space.arch(choices)
            network = build(space, arch, shared.training.task, space.Scale(channels=4, cells=1))
            network.load_state_dict({k: v.clone() for k, v in shared.network.child_state(arch).items()}, strict=False)
            for module in network.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.track_running_stats, module.running_mean, module.running_var = False, None, None
            shared.network.select(arch)
            torch.testing.assert_close(network.eval()(x), shared.network.eval()(x))


def test_each_step_has_other_examples() -> None:
    """Not the first minibatch of the validation data again and again."""
    shared, policy = shared_weights(), policy_of("darts")
    seen: list[Tensor] = []
    own = shared.training.loss

    def loss(batch: Any) -> Tensor:
        seen.append(batch[0].clone())
        return own(batch)

    shared.training.loss = loss  # type: ignore[method-assign]
    shared.epoch(0, generator(), policy.round)
    assert len(seen) == len(shared.steps) > 1
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


class TestGuards:
    def test_a_useless_option_is_never_kept(self) -> None:
        """Without it the loss is the same; without any other one it is higher, and most without the 1x1 convolution."""
        worths = {"none": 0.0, "skip_connect": 0.1, "nor_conv_1x1": 1.0, "nor_conv_3x3": 0.0, "avg_pool_3x3": 0.2}

        def loss(weights: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
            return 10 - torch.stack([worths[o] * w for row in weights.values() for o, w in row.items()]).sum()

        useless = SPACE.decisions[0].options.index("nor_conv_3x3")
        for seed in range(5):
            policy = policy_of("darts", perturbation=0.5, seed=seed, none=True)
            with torch.no_grad():
                policy.alpha["options.5"][:, useless] += 0.5  # by its weight it would be kept
            for left in (2, 1):
                trainer = MadeUp(loss, steps=2, progress=1 - left / 4, rounds=4)
                trainer.generator = generator(seed)
                assert policy.round(trainer)["learning"] == 0
                assert sum(option >= 0 for option in policy.decided) == (3 if left == 2 else 6)
            assert policy.decided == [2] * 6 == list(policy.conclude(0, generator()).best)

    def test_options_that_are_taken_out_leave_the_others_as_they_are(self) -> None:
        policy = policy_of("darts", perturbation=0.5)
        trainer = MadeUp(worth("nor_conv_3x3"), steps=1, progress=0.75, rounds=4)
        policy._kept(0, trainer)
        first = SPACE.decisions[0].name
        full = policy._still()["options.5"][0]
        for trial, left_out in zip(trainer.seen, (1, 2, 3, 4), strict=True):
            row = torch.stack(list(trial[first].values()))
            expected = full.detach().clone()
            expected[left_out] = 0
            torch.testing.assert_close(row, expected)

    def test_a_skip_stop_goes_back(self) -> None:
        policy = policy_of("darts", lr=0.05, skip_stop=2)
        early = MadeUp(worth("skip_connect"), steps=30, progress=0.1, rounds=10)
        before = policy._copy()
        policy.round(early)
        assert not policy.stopped, "it is not looked at yet"
        policy.load_state_dict(policy_of("darts", lr=0.05, skip_stop=2).state_dict())
        with torch.no_grad():
            policy.alpha["options.5"].copy_(before["options.5"])
        assert most_skips(SPACE, policy._preferred(before)) <= 2
        policy.round(MadeUp(worth("skip_connect"), steps=30, progress=0.6, rounds=10))
        assert policy.stopped and torch.equal(policy.alpha["options.5"], before["options.5"])
        assert policy.round(MadeUp(worth("skip_connect"), steps=5, progress=0.7, rounds=10))["learning"] == 0

    def test_an_eigenvalue_stop_goes_back_four_rounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        series = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 9.0])
        monkeypatch.setattr(Relaxation, "eigenvalue", lambda self, trainer: next(series))
        policy = policy_of("darts", lr=0.01, eigenvalue_stop=True, single=0)
        after = []
        for number in range(8):
            policy.round(MadeUp(worth("nor_conv_3x3"), steps=2, progress=number / 8, rounds=8))
            after.append(policy._copy()["options.5"])
            if policy.stopped:
                break
        assert number == 6 and torch.equal(after[6], after[2]), "1, 1, 1, 1, 3 after 1, 1, 1"

    def test_the_dominant_eigenvalue(self) -> None:
        found = dominant(lambda vector: torch.diag(torch.tensor([1.0, -7.0, 3.0])) @ vector, 3, generator())
        assert found == pytest.approx(7, rel=1e-4)
        assert dominant(torch.zeros_like, 3, generator()) == 0

    def test_the_eigenvalue_is_that_of_the_second_derivative(self) -> None:
        """Against the whole matrix, of a loss of softmaxes."""
        policy = policy_of("darts", eigenvalue_stop=True)
        with torch.no_grad():
            policy.alpha["options.5"].copy_(torch.randn(6, 5, generator=generator(3)))

        def loss(weights: Mapping[str, Mapping[str, Tensor]]) -> Tensor:
            table = torch.stack([torch.stack(list(row.values())) for row in weights.values()])
            return (table.sum(0) * torch.tensor([1.0, 5.0, -2.0, 0.5, 3.0])).square().sum() + (table**3).sum()

        def of(alpha: Tensor) -> Tensor:
            return loss(
                {str(i): dict(zip("abcde", row, strict=True)) for i, row in enumerate(alpha.view(6, 5).softmax(1))}
            )

        hessian = torch.autograd.functional.hessian(of, policy.alpha["options.5"].detach().flatten())  # type: ignore[no-untyped-call]
        exact = float(torch.linalg.eigvalsh(hessian).abs().max())
        assert policy.eigenvalue(MadeUp(loss)) == pytest.approx(exact, rel=0.02)

    def test_beta_decay_keeps_options_alike(self) -> None:
        spread = []
        for decay in (0.0, 50.0):
            policy = policy_of("darts", lr=0.01, beta_decay=decay)
            policy.round(MadeUp(worth("nor_conv_3x3"), steps=50, progress=1.0, rounds=1))
            spread.append(float(policy._copy()["options.5"].std(1).mean()))
        assert spread[1] < 0.7 * spread[0]

    def test_an_auxiliary_skip_falls_to_nothing(self) -> None:
        policy = policy_of("darts", auxiliary_skip=1.0)
        weights = {key: value.detach() for key, value in policy._still().items()}
        for progress, more in ((0.0, 1.0), (0.75, 0.25), (1.0, 0.0)):
            chosen: Any = policy.selection(weights, progress)
            for row, plain in zip(chosen.values(), weights["options.5"], strict=True):
                added = torch.stack(list(row.values())) - plain
                torch.testing.assert_close(added, torch.tensor([0.0, more, 0.0, 0.0, 0.0]))

    def test_smoothing_disturbs_the_weights_step_alone(self) -> None:
        policy, trainer = policy_of("darts", smoothing=0.1), MadeUp(worth("nor_conv_3x3"), steps=1, progress=0.0)
        policy.round(trainer)
        clean, noisy = (
            torch.stack([torch.stack(list(row.values())) for row in seen.values()]) for seen in trainer.seen
        )
        torch.testing.assert_close(clean, torch.full((6, 5), 0.2), atol=2e-3, rtol=0)
        assert 0.02 < float((noisy - 0.2).abs().max()) < 0.15
        torch.testing.assert_close(noisy.sum(1), torch.ones(6))


def test_options_reach_the_policy() -> None:
    given: dict[str, Any] = {
        "candidates": 3,
        "warmup": 0.25,
        "beta_decay": 2.0,
        "none": True,
        "skip_stop": 1,
        "resource": 0.5,
    }
    policy = policy_of("snas", **given, estimator="policy")
    found = dataclasses.asdict(policy.settings)
    assert all(found[name] == value for name, value in given.items() if name != "resource")
    assert policy.sampler.counts_costs and vars(policy.sampler)["estimator"] == "policy"
