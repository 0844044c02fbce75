"""Shared weights driven step by step: what the papers' rounds need, and soft selections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nastool.core.space import SearchSpace
from nastool.core.values import Arch
from nastool.evaluators.supernet import Supernet
from nastool.nets.networks import Choice, chosen_options
from nastool.spaces.macro_cnn import MacroCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.training.policies import Drawn, Trainer
from nastool.training.shared import SharedWeights

SPACE = NasBench201()


def shared_weights(space: SearchSpace = SPACE, **scale: int) -> SharedWeights:
    evaluator = Supernet(
        space, data="digits", train_size=64, epochs=2, batch_size=16, scale={"channels": 4, **scale}, device="cpu"
    )
    evaluator.prepare()
    return evaluator._load()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drive(shared: SharedWeights, policy: Darts | Fair) -> None:
    shared.epoch(0, generator(), policy.round)


def parameters(shared: SharedWeights) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in shared.network.named_parameters()}


class Darts:
    """First order: Liu et al., ICLR 2019, Algorithm 1 with xi = 0."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.alphas = [torch.zeros(len(decision.options), requires_grad=True) for decision in space.decisions]
        self.optimizer = torch.optim.Adam(self.alphas, lr=0.1)

    def mix(self) -> Choice:
        return {
            decision.name: dict(zip(decision.options, alpha.softmax(0), strict=True))
            for decision, alpha in zip(self.space.decisions, self.alphas, strict=True)
        }

    def round(self, trainer: Trainer) -> Mapping[str, float]:
        for _ in trainer.steps:
            self.optimizer.zero_grad()
            trainer.loss(self.mix(), "val").backward()  # type: ignore[no-untyped-call]  # torch's stub
            self.optimizer.step()
            trainer.weights_step([self.mix()])
        return {}


class Fair:
    """Strict fairness (Chu et al., FairNAS, ICCV 2021): in each step each option of each decision is run once."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.rng = np.random.default_rng(0)
        self.drawn: list[list[Arch]] = []

    def round(self, trainer: Trainer) -> Mapping[str, float]:
        for _ in trainer.steps:
            orders = [self.rng.permutation(len(decision.options)) for decision in self.space.decisions]
            self.drawn.append([self.space.arch(choices) for choices in np.array(orders).T.tolist()])
            trainer.weights_step(self.drawn[-1])
        return {}


def test_relaxed_choices_learn_by_gradients() -> None:
    shared = shared_weights()
    policy, before = Darts(SPACE), parameters(shared)
    drive(shared, policy)
    assert all(not torch.equal(value, before[name]) for name, value in shared.network.named_parameters())
    assert all(alpha.grad is not None and alpha.grad.abs().sum() > 0 for alpha in policy.alphas)
    shared.network.double()
    policy.alphas = [torch.zeros(5, dtype=torch.float64, requires_grad=True) for _ in policy.alphas]
    first = policy.alphas[0]

    def loss(by: float) -> Tensor:
        with torch.no_grad():
            first.copy_(torch.tensor([0.0, by, 0.0, 0.0, 0.0], dtype=torch.float64))
        x, y = batch
        shared.network.select(policy.mix())
        return nn.functional.cross_entropy(shared.network(x.double()), y)

    batch = next(shared.parts["val"].minibatches(16, generator()))
    loss(0.0).backward()  # type: ignore[no-untyped-call]  # torch's stub
    assert first.grad is not None
    slope = (loss(1e-5) - loss(-1e-5)).item() / 2e-5
    assert first.grad[1].item() == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("wanted", [False, True])
def test_a_step_of_the_weights_gives_soft_weights_a_gradient_only_if_asked(wanted: bool) -> None:
    shared = shared_weights()
    policy = Darts(SPACE)

    def steps(trainer: Trainer) -> Mapping[str, float]:
        for _ in trainer.steps:
            trainer.weights_step([policy.mix()], gradient=wanted)
        return {}

    shared.epoch(0, generator(), steps)
    assert all((alpha.grad is not None) == wanted for alpha in policy.alphas)


class Preferring:
    """Draws a 3x3 convolution where a uniform number is below a share, else uniformly."""

    def __init__(self, share: float) -> None:
        self.share = share

    def sample(self, count: int, generator: torch.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
        drawn = torch.randint(5, (count, 6), generator=generator)
        drawn[torch.rand(count, 6, generator=generator) < self.share] = SPACE.decisions[0].options.index("nor_conv_3x3")
        return drawn.numpy()


@pytest.fixture(scope="module")
def shared() -> SharedWeights:
    """A child is worth the share of its 3x3 convolutions and what a minibatch gives to all."""
    shared = shared_weights()
    best = SPACE.decisions[0].options.index("nor_conv_3x3")

    def rewards(archs: Sequence[Arch], batch: tuple[Tensor, ...], likelihood: bool) -> list[float]:
        return [arch.choices.count(best) / 6 + float(batch[0].sum()) for arch in archs]

    shared._rewards = rewards
    return shared


class TestGain:
    """How much better children of a policy do than uniform ones."""

    def test_a_uniform_policy_has_none_within_its_error(self, shared: SharedWeights) -> None:
        found = [shared.gain(Preferring(0), 64, seed) for seed in range(20)]
        assert all(abs(each["gain"]) < 4 * each["gain_se"] for each in found)
        spread = np.std([each["gain"] for each in found], ddof=1)
        assert np.mean([each["gain_se"] for each in found]) == pytest.approx(spread, rel=0.4), "the error is one"
        assert spread < 0.05, "what the minibatch gives to all does not count"

    def test_one_that_prefers_what_is_good_has_one(self, shared: SharedWeights) -> None:
        found = shared.gain(Preferring(0.5), 64, 0)
        assert found["gain"] == pytest.approx(0.5 * 0.8, abs=4 * found["gain_se"])
        assert found["gain"] > 3 * found["gain_se"]

    def test_it_is_the_seeds_and_of_the_weights_as_they_are(self, shared: SharedWeights) -> None:
        before = parameters(shared)
        found = shared.gain(Preferring(0.5), 64, 0)
        assert shared.gain(Preferring(0.5), 64, 0) == found != shared.gain(Preferring(0.5), 64, 1)
        assert all(torch.equal(value, before[name]) for name, value in shared.network.named_parameters())


def test_strictly_fair_steps_reach_every_option_once() -> None:
    shared = shared_weights()
    policy, before = Fair(SPACE), parameters(shared)
    drive(shared, policy)
    assert len(policy.drawn) == len(shared.steps)
    for archs in policy.drawn:
        for i, decision in enumerate(SPACE.decisions):
            assert sorted(arch.choices[i] for arch in archs) == list(range(len(decision.options)))
    assert shared.training.done == len(shared.steps), "its gradients are of one step"
    assert all(not torch.equal(value, before[name]) for name, value in shared.network.named_parameters())


def test_gradients_of_several_architectures_are_averaged_over_those_that_have_the_weight() -> None:
    """The gradients that reach the optimiser, of one minibatch."""
    archs = [SPACE.arch([i, i, 3, 3, i, i]) for i in (1, 2, 3)]
    found: list[dict[str, Tensor]] = []
    for selections in ([archs[0]], [archs[1]], [archs[2]], archs):
        shared = shared_weights()
        clipped: list[dict[str, Tensor]] = []

        def steps(
            trainer: Trainer,
            shared: SharedWeights = shared,
            selections: list[Arch] = selections,
            clipped: list[dict[str, Tensor]] = clipped,
        ) -> Mapping[str, float]:
            shared.training.recipe = shared.training.recipe.replace(grad_clip=0.0)
            for _ in trainer.steps:
                trainer.weights_step(selections)
                named = shared.network.named_parameters()
                clipped.append({name: p.grad.clone() for name, p in named if p.grad is not None})
            return {}

        shared.epoch(0, generator(), steps)
        found.append(clipped[0])
    *single, together = found
    numbers = set()
    for name, gradient in together.items():
        having = [each[name] for each in single if name in each]
        numbers.add(len(having))
        torch.testing.assert_close(gradient, torch.stack(having).mean(0), rtol=1e-4, atol=1e-6)
    assert numbers == {1, 3}, "some weights are of one of them alone"


def test_one_path_with_a_straight_through_weight_runs_alone() -> None:
    """As GDAS (Dong & Yang, CVPR 2019) has it: a hard sample forward, a soft gradient backward."""
    shared = shared_weights()
    network, arch = shared.network.eval(), SPACE.arch([2, 3, 4, 1, 2, 3])
    x, _ = next(shared.parts["val"].minibatches(8, generator()))
    network.select(arch)
    hard = network(x)
    logits = torch.zeros(6, 5, requires_grad=True)
    soft = logits.softmax(1)
    choices = torch.tensor(arch.choices)[:, None]
    weights = 1 - soft.gather(1, choices).detach() + soft.gather(1, choices)
    ran: list[str] = []
    for name, module in network.named_modules():
        if ".options." in name and name.rpartition(".options.")[2] in SPACE.decisions[0].options:
            module.register_forward_hook(lambda module, given, out, name=name: ran.append(name))
    options = zip(SPACE.decisions, arch.choices, weights, strict=True)
    network.select({decision.name: {decision.options[i]: weight[0]} for decision, i, weight in options})
    found = network(x)
    torch.testing.assert_close(found, hard)
    wanted = {decision.options[i] for decision, i in zip(SPACE.decisions, arch.choices, strict=True)}
    assert {name.rpartition(".")[2] for name in ran} == wanted and len(set(ran)) == len(ran)
    found.sum().backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0


@pytest.mark.parametrize("concat", [0, 1])
def test_soft_connections_weigh_members(concat: int) -> None:
    """Weights of 1 and 0 are the hard choice; halves are no architecture of their own, and have gradients."""
    space = MacroCNN(layers=4)
    shared = shared_weights(space, concat=concat)
    network = shared.network.eval()
    x, _ = next(shared.parts["val"].minibatches(8, generator()))
    rng = np.random.default_rng(0)
    for _ in range(3):
        arch = space.sample(rng)
        network.select(arch)
        hard = network(x)
        chosen = chosen_options(space, arch)
        network.select(_weighted(space, {name: {option: torch.tensor(1.0)} for name, option in chosen.items()}))
        torch.testing.assert_close(network(x), hard)
    share = torch.tensor(0.5, requires_grad=True)
    switch = next(decision for decision in space.decisions if decision.is_switch)
    off, on = switch.options
    network.select(arch)
    network.select({switch.name: {off: 1 - share, on: share}})
    between = network(x)
    for option in switch.options:
        network.select({switch.name: option})
        assert not torch.allclose(network(x), between)
    between.square().sum().backward()
    assert share.grad is not None and share.grad != 0


def _weighted(space: SearchSpace, options: Mapping[str, Mapping[str, Tensor]]) -> Choice:
    return {decision.name: options[decision.name] for decision in space.decisions}


def test_a_round_takes_all_its_steps() -> None:
    shared = shared_weights()
    with pytest.raises(ValueError, match="and 1 were taken"):
        shared.epoch(0, generator(), Drawn([[SPACE.arch([1] * 6)]]).round)


def test_rewards_between_steps_leave_the_weights_as_they_are() -> None:
    """And the network trains as if there had been none."""
    arch = SPACE.arch([3] * 6)
    found: list[dict[str, Tensor]] = []
    for ask in (False, True):
        shared = shared_weights()

        def steps(trainer: Trainer, ask: bool = ask) -> Mapping[str, float]:
            for _ in trainer.steps:
                if ask:
                    assert all(0 <= reward <= 1 for reward in trainer.rewards([arch, arch], "val"))
                trainer.weights_step([arch])
            return {}

        shared.epoch(0, generator(), steps)
        assert shared.network.training
        found.append(parameters(shared))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


class TestForMixtures:
    """What differentiable policies ask a trainer for."""

    def test_losses_are_those_on_all_examples_and_change_nothing(self) -> None:
        shared = shared_weights()
        archs, before = [SPACE.arch([i] * 6) for i in (1, 2, 3)], parameters(shared)
        found = shared.losses(archs, "val")
        assert found == shared.losses(archs, "val") and len(set(found)) == 3
        (batch,) = [each for each in shared.parts["val"].mixed(len(shared.parts["val"]))]
        shared.network.eval()
        for arch, loss in zip(archs, found, strict=True):
            shared.network.select(arch)
            with torch.no_grad():  # in one batch: other statistics, but not by much
                assert shared.training.loss(batch).item() == pytest.approx(loss, rel=0.1)
        mixture = {d.name: {o: torch.tensor(float(o == "skip_connect")) for o in d.options} for d in SPACE.decisions}
        assert shared.losses([mixture], "val")[0] == pytest.approx(found[0], rel=1e-4)
        assert all(torch.equal(value, before[name]) for name, value in shared.network.named_parameters())

    def test_the_second_order_gradient_is_exact(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Against differentiation through the first step of SGD, whose momentum is still 0, in float64.

        The differences are so small that no ReLU changes between them.
        """
        monkeypatch.setattr("nastool.training.unrolled.LENGTH", 1e-6)
        found = []
        for exact in (False, True):
            shared = shared_weights()
            shared.network.double()
            network = shared.network.train()
            alpha = torch.zeros(6, 5, dtype=torch.float64).requires_grad_()
            weights = dict(zip([d.name for d in SPACE.decisions], alpha.softmax(1), strict=True))
            choice = {d.name: dict(zip(d.options, weights[d.name], strict=True)) for d in SPACE.decisions}
            batches = {part: next(shared.parts[part].minibatches(16, generator())) for part in ("train", "val")}
            double = {part: (x.double(), y) for part, (x, y) in batches.items()}
            lr = shared.training.recipe.learning_rate(0, shared.training.steps, shared.training.annealing)
            if not exact:
                monkeypatch.setattr(shared, "_minibatch", lambda part, double=double: double[part])
                monkeypatch.setattr(  # the task's is in float32
                    shared.training,
                    "loss",
                    lambda batch, network=network: nn.functional.cross_entropy(network(batch[0]), batch[1]),
                )
                leaves = [w.detach().requires_grad_() for w in weights.values()]
                soft = {
                    d.name: dict(zip(d.options, leaf, strict=True))
                    for d, leaf in zip(SPACE.decisions, leaves, strict=True)
                }
                _, gradients = shared.unrolled(soft, leaves)
                (total,) = torch.autograd.grad(
                    sum((w * g).sum() for w, g in zip(weights.values(), gradients, strict=True)), alpha
                )
                found.append(total)
                continue
            network.select(choice)
            named = {name: p for name, p in network.named_parameters()}
            x, y = double["train"]
            loss = nn.functional.cross_entropy(network(x), y)
            slopes = torch.autograd.grad(loss, list(named.values()), create_graph=True, allow_unused=True)
            decay = shared.training.optimizer.decay
            after = {
                name: p if g is None else p - lr * (g + decay[name] * p)
                for (name, p), g in zip(named.items(), slopes, strict=True)
            }
            x, y = double["val"]
            (total,) = torch.autograd.grad(
                nn.functional.cross_entropy(torch.func.functional_call(network, after, (x,)), y), alpha
            )
            found.append(total)
        torch.testing.assert_close(found[0], found[1], rtol=1e-7, atol=1e-10)

    def test_costs_are_those_of_the_operations(self) -> None:
        """By hand: 64 pixels of 4 channels in the first cell, 16 of 8 and 4 of 16 in the others."""
        shared = shared_weights(cells=1)
        costs = shared.costs()
        assert set(costs) == {decision.name for decision in SPACE.decisions}
        for table in costs.values():
            assert table.shape == (3, 5, 3)
            for (pixels, c), place in zip(((64, 4), (16, 8), (4, 16)), table.tolist(), strict=True):
                moved = 2 * pixels * c
                assert place[0] == place[1] == [0, 0, 0], "none and skip_connect"
                sizes = {2: c * c + 2 * c, 3: 9 * c * c + 2 * c, 4: 0}  # with the normalisation's
                adds = {2: c * c * pixels, 3: 9 * c * c * pixels, 4: 9 * c * pixels}
                assert {i: place[i] for i in (2, 3, 4)} == {i: [sizes[i], adds[i], moved + sizes[i]] for i in (2, 3, 4)}

    def test_nothing_is_exactly_nothing(self) -> None:
        """A network whose edges are all none says the same of every image."""
        shared = shared_weights()
        shared.network.eval().select({d.name: {"none": torch.tensor(0.7)} for d in SPACE.decisions})
        x, _ = next(shared.parts["val"].minibatches(8, generator()))
        cell = next(m for m in shared.network.modules() if type(m).__name__ == "Dag")
        seen: list[Tensor] = []
        cell.register_forward_hook(lambda module, given, out: seen.append(out))
        shared.network(x)
        assert torch.equal(seen[0], torch.zeros_like(seen[0]))
