"""SemiNAS: tokens, the autoencoder, and how labels are spent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Decision, Evaluation, Trial
from nastool.learners.controller import one_thread
from nastool.learners.predictors.autoencoder import START, Autoencoder, Tokens
from nastool.spaces.nasbench101 import NasBench101
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.seminas import REPEATS, SemiNAS
from nastool.testing.strategies import TinySpace

SMALL: Mapping[str, Any] = {
    "init": 10,
    "batch": 10,
    "unlabelled": 30,
    "epochs": 5,
    "joint_epochs": 1,
    "hidden": 8,
    "parents": 10,
    "steps": 5,
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(space: SearchSpace, n: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.intp]]:
    rng = np.random.default_rng(seed)
    return np.array([space.sample(rng).choices for _ in range(n)], dtype=np.intp)


def linear(arch: Arch) -> float:
    """A loss of nasbench201 in which every decision counts by itself; its optimum, 0, at all 4."""
    return sum((4 - choice) / (1 + i) for i, choice in enumerate(arch.choices))


def run(strategy: SemiNAS, trials: int) -> list[Trial]:
    done: list[Trial] = []
    for i in range(trials):
        proposal = strategy.ask()
        if proposal is None:
            break
        value = linear(proposal.arch)
        done.append(Trial(i, proposal, "done", Evaluation({"val_loss": value}, 1.0), (value,)))
        strategy.tell(done[-1])
    return done


# --- tokens


def test_tokens_are_choices_for_every_cell() -> None:
    space = NasBench201()
    choices = np.array([arch.choices for arch in space.members()])
    tokens = Tokens(space.decisions)
    assert choices.shape == (15625, 6) and tokens.size == 6  # its six decisions share the five operations
    seen = tokens.of(choices)
    assert seen.min() > START and len(torch.unique(seen, dim=0)) == 15625
    assert (tokens.choices(seen) == choices).all()


def test_decisions_share_tokens_where_they_have_the_same_options() -> None:
    tokens = Tokens([Decision("a", ("x", "y")), Decision("b", ("p", "q", "r")), Decision("c", ("x", "y"))])
    assert tokens.of(np.array([[1, 2, 0]])).tolist() == [[2, 5, 1]]
    inside = [np.flatnonzero(~row).tolist() for row in tokens.outside().numpy()]
    assert inside == [[1, 2], [3, 4, 5], [1, 2]]


# --- the model


@pytest.mark.parametrize("space", [NasBench101(), NasBench201(), TinySpace()], ids=lambda space: space.name)
def test_what_is_decoded_has_options_of_its_own_decision_alone(space: SearchSpace) -> None:
    """Of weights and vectors drawn at random, where the likeliest token is often another decision's."""
    tokens = Tokens(space.decisions)
    counts = np.array([len(decision.options) for decision in space.decisions])
    model = Autoencoder(tokens, generator(), hidden=8, width=4)
    with one_thread():
        encoded = torch.randn(200, len(counts), 8, generator=generator(1))
        decoded = model.decode(encoded)
        free = model.logits(encoded, decoded).argmax(-1)
    choices = tokens.choices(decoded)
    assert (choices >= 0).all() and (choices < counts).all()
    assert not torch.equal(free, decoded)


def test_decoding_is_what_teacher_forcing_finds_likeliest() -> None:
    space = NasBench201()
    tokens = Tokens(space.decisions)
    model = Autoencoder(tokens, generator(), hidden=8, width=4)
    with one_thread(), torch.no_grad():
        encoded = model.encode(tokens.of(draws(space, 50)))
        decoded = model.decode(encoded)
        logits = model.logits(encoded, decoded)
    logits[..., START] = -torch.inf
    assert torch.equal(logits.argmax(-1), decoded)


@pytest.fixture(scope="module")
def trained() -> tuple[Tokens, Autoencoder]:
    """On 100 cells and their standardised values."""
    space = NasBench201()
    choices, tokens = draws(space, 100), Tokens(space.decisions)
    values = -np.array([linear(space.arch(row)) for row in choices])
    model = Autoencoder(tokens, generator(), hidden=32)
    standardised = torch.from_numpy((values - values.mean()) / values.std()).float()
    with one_thread():
        model.fit(tokens.of(choices), standardised, epochs=150, learning_rate=0.01)
    return tokens, model


def test_no_step_returns_the_architecture_and_a_step_a_better_one(trained: tuple[Tokens, Autoencoder]) -> None:
    tokens, model = trained
    space = NasBench201()
    choices = draws(space, 100)
    losses = [linear(space.arch(row)) for row in choices]
    seeds = choices[np.argsort(losses)[40:]]  # all but those that have little to gain
    with one_thread():
        encoded, gradient = model.uphill(tokens.of(seeds))
        same, moved = (tokens.choices(model.moved(encoded, gradient, step)) for step in (0, 1))
    assert (same == seeds).all(1).mean() >= 0.9
    changed = (moved != seeds).any(1)
    gains = np.array([linear(space.arch(a)) - linear(space.arch(b)) for a, b in zip(seeds, moved, strict=True)])
    assert changed.mean() >= 0.8
    assert (gains[changed] > 0).mean() >= 0.9


def test_the_gradient_is_that_of_each_value_alone(trained: tuple[Tokens, Autoencoder]) -> None:
    tokens, model = trained
    seen = tokens.of(draws(NasBench201(), 5, seed=1))
    with one_thread():
        encoded, gradient = model.uphill(seen)
        value, ahead = (model.value(each).detach() for each in (encoded, encoded + 1e-3 * gradient))
    slope = (ahead - value) / 1e-3
    assert torch.allclose(slope, gradient.flatten(1).square().sum(1), rtol=0.1)


# --- the search


def test_every_label_is_charged(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has a label was measured, all of it, the random ones too; labels are standardised by themselves alone."""
    fitted: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(Autoencoder, "fit", lambda model, tokens, values, **given: fitted.append((tokens, values)))
    space = NasBench201()
    strategy = SemiNAS(space, seed=0, **SMALL)
    trials = run(strategy, 31)
    assert len(fitted) == 6
    tokens = Tokens(space.decisions)
    for measured, (first, joint) in zip((10, 20, 30), zip(fitted[::2], fitted[1::2], strict=True), strict=True):
        known = [trial.proposal.arch.choices for trial in trials[:measured]]
        assert list(map(tuple, tokens.choices(first[0]))) == known
        losses = np.array([trial.loss for trial in trials[:measured]])
        assert first[1].numpy() == pytest.approx((losses.mean() - losses) / losses.std(), abs=1e-6)
        labelled = REPEATS * measured
        assert torch.equal(joint[0][:labelled], first[0].repeat(REPEATS, 1)) and len(joint[0]) == labelled + 30
        pool = {space.canonical(space.arch(row)) for row in tokens.choices(joint[0][labelled:])}
        assert len(pool) == 30 and not pool & {space.canonical(trial.proposal.arch) for trial in trials[:measured]}
    assert len({space.canonical(trial.proposal.arch) for trial in trials}) == 31


def test_without_unlabelled_architectures_it_is_nao(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(Autoencoder, "fit", lambda model, tokens, values, **given: fitted.append((tokens, values)))
    strategy = SemiNAS(NasBench201(), seed=0, **{**SMALL, "unlabelled": 0})
    run(strategy, 11)
    (first, joint) = fitted
    assert torch.equal(joint[0], first[0].repeat(REPEATS, 1)) and torch.equal(joint[1], first[1].repeat(REPEATS))


def test_it_is_better_than_what_it_began_with() -> None:
    given = {**SMALL, "init": 40, "batch": 20, "epochs": 100, "joint_epochs": 5, "hidden": 32, "parents": 40}
    trials = run(SemiNAS(NasBench201(), seed=0, learning_rate=0.005, **given), 60)
    losses = [trial.loss for trial in trials]
    assert np.mean(losses[40:]) < np.mean(losses[:40]) - np.std(losses[:40])
    expected = [trial.proposal.notes.get("expected") for trial in trials]
    assert expected[:40] == [None] * 40 and None not in expected[40:]


def test_a_batch_is_made_up_at_random_where_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Autoencoder, "moved", lambda model, encoded, gradient, step: torch.ones(1, 6, dtype=torch.int64)
    )
    strategy = SemiNAS(NasBench201(), seed=0, **SMALL)
    trials = run(strategy, 20)
    assert len({trial.proposal.arch for trial in trials}) == 20 and not strategy._planned


@pytest.mark.parametrize(
    "given",
    [{"unlabelled": -1}, {"hidden": 1}, {"parents": 0}, {"steps": 0}, {"learning_rate": 0.0}, {"max_points": 9}],
)
def test_refuses_what_is_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"need .*{next(iter(given))}"):
        SemiNAS(NasBench201(), **given)
