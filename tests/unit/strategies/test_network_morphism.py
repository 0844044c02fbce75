"""Strategy network-morphism: the order of its trials with made-up losses, and whole searches on tiny data."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import nll_loss

from nastool import cli
from nastool.core.values import Arch, Evaluation, Proposal, Trial
from nastool.engine import ensembling
from nastool.engine.command_options import SearchOptions
from nastool.engine.search_run import SearchRun
from nastool.engine.store import Store
from nastool.ensembles import metrics, selection, stored
from nastool.evaluators.train import Train
from nastool.nets import checkpoints
from nastool.nets.networks import build
from nastool.spaces.morph_cnn import KINDS, MorphCNN
from nastool.strategies.network_morphism import NetworkMorphism
from nastool.tasks.images.task import ImageTask
from tests.helpers.running import Outcome
from tests.unit.evaluators.test_train import npz, separable

SPACE = MorphCNN(stages=2, layers=4)
QUICK: Mapping[str, Any] = {
    "steps": 3,
    "neighbors": 4,
    "morphisms": 2,
    "start_epochs": 3,
    "epochs": 2,
    "final_epochs": 5,
}
Loss = Callable[[int], float | None]
"""Of the trial with this id; None: it fails."""


def quick(**options: Any) -> NetworkMorphism:
    return NetworkMorphism(SPACE, **{**QUICK, **options})


def made_up(trial_id: int) -> float:
    return random.Random(trial_id).random()


def ask_all(strategy: NetworkMorphism) -> list[Proposal]:
    """What it asks for without being told anything."""
    return list(iter(strategy.ask, None))


def told(strategy: NetworkMorphism, trial_id: int, proposal: Proposal, loss: float | None) -> Trial:
    if loss is None:
        trial = Trial(trial_id, proposal, "failed", error="made up")
    else:
        trial = Trial(trial_id, proposal, "done", Evaluation({"val_acc": -loss}, 1.0), (loss,))
    strategy.tell(trial)
    return trial


def climb(strategy: NetworkMorphism, loss: Loss = made_up, order: int = 0) -> list[list[Trial]]:
    """The trials of a whole search by step. order: seed of the order in which those of a step are told."""
    steps: list[list[Trial]] = []
    asked = 0
    while proposals := ask_all(strategy):
        trials = list(enumerate(proposals, asked))
        asked += len(proposals)
        random.Random(order).shuffle(trials)
        steps.append(sorted((told(strategy, i, p, loss(i)) for i, p in trials), key=lambda trial: trial.id))
        assert len(steps) < 100, "it goes on for ever"
    return steps


def within(arch: Arch, steps: int, kinds: tuple[str, ...] = KINDS) -> set[Arch]:
    """All that so many morphisms lead to, or fewer."""
    found = edge = {arch}
    for _ in range(steps):
        edge = {child for parent in edge for kind in kinds for child in SPACE.morphisms(parent)[kind]} - found
        found = found | edge
    return found


class TestOrder:
    def test_start_steps_and_the_last_training(self) -> None:
        strategy = quick()
        assert strategy.planned_trials(None) == 1 + 3 * 4 + 1
        steps = climb(strategy)
        assert [len(step) for step in steps] == [1, 4, 4, 4, 1]
        assert [{trial.proposal.budget for trial in step} for step in steps] == [{3}, {2}, {2}, {2}, {5}]
        assert steps[0][0].proposal.arch == SPACE.start()
        assert steps[0][0].proposal.parent is None
        for before, step in pairwise(steps):
            center = min(before, key=lambda trial: trial.loss)
            assert {trial.proposal.parent for trial in step} == {center.id}
            assert step[0].proposal.arch == center.proposal.arch, "the first candidate is the network as it is"
            for trial in step:
                SPACE.validate(trial.proposal.arch)
        assert all(trial.proposal.inherit for step in steps for trial in step)
        assert strategy.ask() is None

    @pytest.mark.parametrize("morphisms", [1, 2])
    def test_children_are_so_many_morphisms_away(self, morphisms: int) -> None:
        for _, *step, _ in [climb(quick(morphisms=morphisms, seed=seed)) for seed in range(5)]:
            for trials in step:
                near = within(trials[0].proposal.arch, morphisms, ("deeper", "wider", "concat", "add"))
                assert {trial.proposal.arch for trial in trials} <= near

    def test_several_morphisms_grow_more_than_one(self) -> None:
        start = SPACE.start()
        children = climb(quick(morphisms=5, neighbors=30, steps=1))[1][1:]
        assert not {trial.proposal.arch for trial in children} <= within(start, 2)

    @pytest.mark.parametrize("order", range(5))
    def test_the_best_goes_on_whatever_the_order(self, order: int) -> None:
        """Of equal ones the first asked."""
        losses = [0.9, 0.5, 0.2, 0.2, 0.4]
        steps = climb(quick(), lambda i: losses[i] if i < 5 else 1.0, order)
        assert {trial.proposal.parent for trial in steps[2]} == {2}
        assert {trial.proposal.parent for trial in steps[3]} == {5}, "even where it is worse than before"

    def test_what_is_asked_does_not_depend_on_the_order(self) -> None:
        first, second = ([t.proposal for step in climb(quick(), order=order) for t in step] for order in (1, 2))
        assert first == second

    def test_failed_ones_are_no_candidates(self) -> None:
        steps = climb(quick(), lambda i: None if i in (1, 2, 4) else 0.5)
        assert {trial.proposal.parent for trial in steps[2]} == {3}

    def test_where_all_failed_it_stays(self) -> None:
        strategy = quick()
        steps = climb(strategy, lambda i: None if 1 <= i <= 8 else 0.5)
        assert [{trial.proposal.parent for trial in step} for step in steps[1:]] == [{0}, {0}, {0}, {9}]
        assert strategy.pool() == [0, 9, 13]

    def test_a_failed_start_is_repeated(self) -> None:
        strategy = quick()
        steps = climb(strategy, lambda i: None if i < 2 else 0.5)
        assert [len(step) for step in steps] == [1, 1, 1, 4, 4, 4, 1]
        assert steps[0][0].proposal == steps[1][0].proposal == steps[2][0].proposal
        assert {trial.proposal.parent for trial in steps[3]} == {2}

    def test_a_failed_last_training_is_not(self) -> None:
        strategy = quick()
        steps = climb(strategy, lambda i: None if i == 13 else 0.5)
        assert [len(step) for step in steps] == [1, 4, 4, 4, 1]
        assert strategy.pool() == [0, 1, 5, 9]

    def test_a_step_is_asked_at_once_and_the_next_when_it_is_over(self) -> None:
        strategy = quick()
        (start,) = ask_all(strategy)
        told(strategy, 0, start, 0.5)
        asked = ask_all(strategy)
        assert len(asked) == 4
        for i, proposal in enumerate(asked[1:], 2):
            told(strategy, i, proposal, 0.5)
            assert ask_all(strategy) == []
        told(strategy, 1, asked[0], 0.5)
        assert len(ask_all(strategy)) == 4

    @pytest.mark.parametrize(
        ("options", "sizes"),
        [({"steps": 0}, [1, 1]), ({"final_epochs": 0}, [1, 4, 4, 4]), ({"steps": 0, "final_epochs": 0}, [1])],
        ids=str,
    )
    def test_parts_may_be_left_out(self, options: Mapping[str, int], sizes: list[int]) -> None:
        strategy = quick(**options)
        assert [len(step) for step in climb(strategy)] == sizes
        assert strategy.planned_trials(None) == sum(sizes)

    def test_only_the_unchanged_network(self) -> None:
        steps = climb(quick(neighbors=1))
        assert {trial.proposal.arch for step in steps for trial in step} == {SPACE.start()}

    @pytest.mark.parametrize("cut", range(1, 14))
    def test_it_goes_on_with_trials_running(self, cut: int) -> None:
        """Killed after so many told trials, in any order within a step, while all others of the step run."""
        whole = [trial.proposal for step in climb(quick(seed=4)) for trial in step]
        strategy = quick(seed=4)
        asked: list[Proposal] = []
        done: list[Trial] = []
        waiting: list[int] = []
        while len(done) < cut:
            new = ask_all(strategy)
            waiting += range(len(asked), len(asked) + len(new))
            asked += new
            i = waiting.pop(random.Random(cut).randrange(len(waiting)))
            done.append(told(strategy, i, asked[i], made_up(i)))
        new = ask_all(strategy)
        waiting += range(len(asked), len(asked) + len(new))
        asked += new
        again = quick(seed=4)
        state = json.loads(json.dumps(strategy.state_dict()))
        again.load_state_dict(state, [*done, *(Trial(i, asked[i]) for i in sorted(waiting))])
        assert (again.wanted(), again.pool()) == (strategy.wanted(), strategy.pool())
        while waiting:
            i = waiting.pop()
            told(again, i, asked[i], made_up(i))
            if not waiting:
                new = ask_all(again)
                waiting += range(len(asked), len(asked) + len(new))
                asked += new
        assert asked == whole


class TestChildren:
    def test_siblings_differ(self) -> None:
        """Also by what they compute: the slot that a layer is in does not count."""
        for seed in range(5):
            for step in climb(quick(neighbors=8, morphisms=1, seed=seed)):
                assert len({SPACE.canonical(trial.proposal.arch) for trial in step}) == len(step)

    def test_there_may_be_no_others(self) -> None:
        """One morphism leads from 3x3 to 5x5 and none any further."""
        space = MorphCNN(stages=1, layers=1, max_width=1)
        steps = climb(NetworkMorphism(space, **{**QUICK, "kinds": "kernel,wider"}))
        assert [len(step) for step in steps] == [1, 4, 4, 4, 1]
        assert len({trial.proposal.arch for trial in steps[1]}) == 2

    @pytest.mark.parametrize("kind", KINDS)
    def test_one_kind_alone(self, kind: str) -> None:
        children = climb(quick(kinds=kind, morphisms=1, neighbors=20, steps=1))[1][1:]
        expected = set(SPACE.morphisms(SPACE.start())[kind])
        found = {trial.proposal.arch for trial in children}
        assert found <= expected | {SPACE.start()}
        assert {SPACE.canonical(arch) for arch in expected} <= {SPACE.canonical(arch) for arch in found}

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({}, {"deeper": 1 / 3, "wider": 1 / 3, "concat": 1 / 6, "add": 1 / 6}),
            ({"kinds": "deeper,wider,concat,add"}, {"deeper": 1 / 4, "wider": 1 / 4, "concat": 1 / 4, "add": 1 / 4}),
            ({"kinds": "kernel,deeper+wider+concat"}, {"kernel": 1 / 2, **dict.fromkeys(KINDS[:3], 1 / 6)}),
        ],
        ids=["as published", "one by one", "grouped"],
    )
    def test_how_often_each_kind_is_drawn(self, options: Mapping[str, Any], expected: Mapping[str, float]) -> None:
        """However many members it has; the paper: deeper, wider and skips alike, a skip then of either join."""
        strategy = quick(morphisms=1, neighbors=1, seed=1, **options)
        arch = SPACE.morphisms(SPACE.start())["deeper"][0]
        known = SPACE.morphisms(arch)
        drawn = [strategy._child(arch) for _ in range(2000)]
        shares = {kind: sum(child in known[kind] for child in drawn) / 2000 for kind in KINDS}
        assert shares == {kind: pytest.approx(expected.get(kind, 0), abs=0.03) for kind in KINDS}

    def test_a_kind_without_members_leaves_its_share_to_the_others(self) -> None:
        """The start has no layer to join within a stage, but the next stages' inputs; one stage has not even those."""
        space = MorphCNN(stages=1, layers=2)
        strategy = NetworkMorphism(space, morphisms=1, neighbors=1)
        known = space.morphisms(space.start())
        assert not known["concat"] and not known["add"]
        drawn = [strategy._child(space.start()) for _ in range(1000)]
        assert sum(child in known["deeper"] for child in drawn) == pytest.approx(500, abs=60)

    def test_seeds_differ(self) -> None:
        first, again, other = (
            [t.proposal.arch for step in climb(quick(seed=seed)) for t in step] for seed in (0, 0, 1)
        )
        assert first == again != other


class TestOptions:
    def test_defaults_are_the_papers(self) -> None:
        strategy = NetworkMorphism(MorphCNN())
        assert (strategy.steps, strategy.neighbors, strategy.morphisms, strategy.budgets) == (5, 8, 5, (20, 17, 100))
        assert strategy.inherit and strategy.restarts
        assert strategy.kinds == (("deeper",), ("wider",), ("concat", "add"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"neighbors": 0}, "need 1 <= neighbors <= 100,000, got 0"),
            ({"neighbors": 10**6}, "neighbors <= 100,000"),
            ({"steps": -1}, "need 0 <= steps <= 100,000, got -1"),
            ({"morphisms": 0}, "need 1 <= morphisms"),
            ({"start_epochs": 0}, "need 1 <= start_epochs"),
            ({"epochs": 0}, "need 1 <= epochs"),
            ({"final_epochs": -1}, "need 0 <= final_epochs"),
            ({"kinds": "deeper,wieder"}, "space morph-cnn has no morphism 'wieder'; there are deeper, wider"),
            ({"kinds": ""}, "no morphism ''"),
            ({"kinds": "deeper,"}, "no morphism ''"),
            ({"kinds": "concat+"}, "no morphism ''"),
            ({"kinds": "add,concat+add"}, "'add' stands there twice"),
        ],
        ids=str,
    )
    def test_bad_values(self, options: Mapping[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            quick(**options)

    def test_kinds_may_be_said_twice(self) -> None:
        assert quick(kinds="add,deeper,add").kinds == (("add",), ("deeper",))

    def test_without_inheritance(self) -> None:
        """The same climb, each network from scratch."""
        strategy = quick(inherit=False)
        steps = climb(strategy)
        assert [[t.proposal.arch for t in step] for step in steps] == [
            [t.proposal.arch for t in step] for step in climb(quick())
        ]
        assert not any(trial.proposal.inherit for step in steps for trial in step)
        assert strategy.wanted() == ()

    def test_without_restarts_the_intervals_join_up(self) -> None:
        steps = climb(quick(restarts=False))
        parts = [{trial.proposal.annealing for trial in step} for step in steps]
        assert all(len(part) == 1 for part in parts)
        ends = [next(iter(part)) for part in parts]
        assert ends[0][0] == 0 and ends[-1][1] == 1
        assert all(before[1] == after[0] for before, after in pairwise(ends))
        epochs = 3 + 3 * 2 + 5
        assert [end - begin for begin, end in ends] == pytest.approx([n / epochs for n in (3, 2, 2, 2, 5)])
        assert ends == [(0, 3 / 14), (3 / 14, 5 / 14), (5 / 14, 7 / 14), (7 / 14, 9 / 14), (9 / 14, 1)]

    def test_with_them_each_training_has_a_whole_one(self) -> None:
        assert {t.proposal.annealing for step in climb(quick()) for t in step} == {(0.0, 1.0)}


class TestWhatIsKept:
    def test_the_current_network_and_the_best_candidate(self) -> None:
        strategy = quick()
        assert list(strategy.wanted()) == []
        (start,) = ask_all(strategy)
        assert list(strategy.wanted()) == []
        told(strategy, 0, start, 0.5)
        assert list(strategy.wanted()) == [0]
        asked = ask_all(strategy)
        for i, loss, wanted in ((3, 0.4, [0, 3]), (1, 0.6, [0, 3]), (4, None, [0, 3]), (2, 0.3, [2])):
            told(strategy, i, asked[i - 1], loss)
            assert list(strategy.wanted()) == wanted
        assert strategy.pool() == [0, 2]

    def test_nothing_once_the_last_training_is_over(self) -> None:
        for options in ({}, {"final_epochs": 0}, {"steps": 0}, {"steps": 0, "final_epochs": 0}):
            strategy = quick(**options)
            climb(strategy)
            assert list(strategy.wanted()) == []
        strategy = quick()
        climb(strategy, lambda i: None if i == 13 else 0.5)
        assert list(strategy.wanted()) == [], "also where it failed"

    def test_its_parent_while_it_runs(self) -> None:
        strategy = quick(steps=0)
        told(strategy, 0, ask_all(strategy)[0], 0.5)
        (last,) = ask_all(strategy)
        assert list(strategy.wanted()) == [0]
        told(strategy, 1, last, 0.4)
        assert list(strategy.wanted()) == []

    def test_the_pool_is_the_path(self) -> None:
        strategy = quick()
        path = [min(step, key=lambda trial: trial.loss).id for step in climb(strategy)]
        assert list(strategy.pool()) == path

    @pytest.mark.parametrize("inherit", [True, False])
    def test_the_pool_holds_what_may_become_part_of_the_path(self, inherit: bool) -> None:
        """Or its weights are gone when the step is over."""
        strategy = quick(inherit=inherit)
        told(strategy, 0, ask_all(strategy)[0], 0.1)
        asked = ask_all(strategy)
        told(strategy, 2, asked[1], 0.8)
        told(strategy, 3, asked[2], 0.7)
        assert list(strategy.pool()) == [0, 3]


# --- whole searches


SEARCH = ["search", "-s", "network-morphism", "--device", "cpu", "-P", "stages=2", "-P", "layers=3"]
SEARCH += ["--data", "npz:tiny.npz", "-E", "batch_size=16"]
STEPS = {"steps": 2, "neighbors": 3, "morphisms": 2, "start_epochs": 2, "epochs": 1, "final_epochs": 2}
TRIALS = 8


def steps(**options: Any) -> list[str]:
    """STEPS with changes, on the command line."""
    return [f"-S{name}={value}" for name, value in {**STEPS, **options}.items()]


TINY = [*SEARCH, "--scale", "channels=2", *steps()]
Command = Callable[..., Outcome]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, one_thread: None
) -> Command:
    """Run a command in this process, which also trains, and a folder with tiny.npz."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    npz(Path("tiny.npz"))

    def command(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nastool", *arguments])
        capsys.readouterr()
        code = cli.run()
        return Outcome(code, *capsys.readouterr())

    return command


def trials_of(folder: str) -> list[Trial]:
    with Store.read(Path(folder) / "run.db") as store:
        return list(store.trials())


def results(folder: str) -> list[tuple[Proposal, str, Mapping[str, float]]]:
    return [
        (trial.proposal, trial.state, trial.evaluation.metrics if trial.evaluation else {})
        for trial in trials_of(folder)
    ]


def weights_of(run: str, trial: int) -> Path:
    return Path(run) / checkpoints.name_of(trial)


class TestSearch:
    def test_from_start_to_end(self, command: Command) -> None:
        (document,) = command(*TINY, "--out", "a").accepted()
        found = trials_of("a")
        assert len(found) == TRIALS
        params = [trial.evaluation.metrics["params"] for trial in found if trial.evaluation]
        for trial in found[1:]:
            assert trial.proposal.parent is not None
            grown = params[trial.id] - params[trial.proposal.parent]
            assert grown == 0 if trial.id in (1, 4, 7) else grown > 0
        best = min(found, key=lambda trial: trial.rank)
        assert document["trial"] == best.id and document["space"]["name"] == "morph-cnn"
        assert document["evaluator"]["options"]["recipe"] == "morphism-default"
        assert {file.name for file in Path("a/checkpoints").iterdir()} == {
            f"trial-{i:06d}.{kind}" for i in range(TRIALS) for kind in ("safetensors", "predictions.safetensors")
        }
        command(*TINY, "--out", "b").accepted()
        assert results("a") == results("b")

    def test_what_a_recipe_is_by_default(self, command: Command) -> None:
        given: tuple[tuple[dict[str, str], str], ...] = (
            ({"data": "digits"}, "morphism-digits"),
            ({"data": "npz:tiny.npz"}, "morphism-default"),
            ({"data": "digits", "recipe": "digits"}, "digits"),
        )
        for arguments, name in given:
            run = SearchRun.of(SearchOptions("network-morphism", **arguments))  # type: ignore[arg-type]
            said = {**run.config.as_options(), **run.recorded}
            assert said["evaluator-options"]["recipe"] == name
            assert (said["space"], said["trials"]) == ("morph-cnn", 42)

    def test_ablations(self, command: Command) -> None:
        """From scratch, and with one long cosine: the same first training, and others after it."""
        command(*TINY, "--out", "a").accepted()
        command(*TINY, "-S", "inherit=false", "--out", "b").accepted()
        command(*TINY, "-S", "restarts=false", "--out", "c").accepted()
        whole, scratch, once = results("a"), results("b"), results("c")
        assert [p.arch for p, *_ in whole[:4]] == [p.arch for p, *_ in scratch[:4]] == [p.arch for p, *_ in once[:4]]
        assert whole[0][2] == scratch[0][2] != once[0][2]
        assert all(whole[i][2] != scratch[i][2] for i in range(1, TRIALS))

    def test_it_may_begin_with_trained_weights(self, command: Command) -> None:
        """Which are part of what the search is, wherever the file is."""
        command(*TINY, "-n", "1", "--out", "a").accepted()
        shutil.copy("a/best.safetensors", "x.safetensors")
        shutil.copy("a/best.safetensors", "y.safetensors")
        command(*TINY, "-n", "2", "-E", "from_checkpoint=x.safetensors", "--out", "b").accepted()
        (first, *_), (again, *_) = results("a"), results("b")
        assert first[0] == again[0] and first[2] != again[2]
        command(*TINY, "-E", "from_checkpoint=y.safetensors", "--out", "b").accepted()
        assert len(results("b")) == TRIALS and results("b")[0] == again
        command(*TINY, "-n", "2", "--out", "a").accepted()
        shutil.copy("a/checkpoints/trial-000001.safetensors", "y.safetensors")
        command(*TINY, "-E", "from_checkpoint=y.safetensors", "--out", "b").refused("b holds another search")
        Path("y.safetensors").unlink()
        command(*TINY, "-E", "from_checkpoint=y.safetensors", "--out", "b").refused("cannot read y.safetensors")
        assert len(results("b")) == TRIALS

    def test_it_goes_on_when_what_was_lost_is_back(self, command: Command) -> None:
        command(*TINY, "--out", "whole").accepted()
        command(*TINY, "--keep", "1", "-n", "3", "--out", "a").accepted()
        path = Path("a/checkpoints/trial-000000.safetensors")
        optimizer = checkpoints.optimizer_of(path)
        good = {file: file.read_bytes() for file in (path, optimizer)}
        path.unlink()
        command(*TINY, "--out", "a").refused("a lacks the checkpoint of trial 0, from which the search goes on")
        assert len(trials_of("a")) == 3, "nothing was asked"
        path.write_bytes(good[path][:1000])
        for _ in range(2):
            outcome = command(*TINY, "--out", "a")
            assert outcome.code == 2 and outcome.out == ""
            last = outcome.err.splitlines()[-1]
            assert last.startswith(f"nastool: {path} is damaged (")
            assert last.endswith(": put the checkpoint of trial 0 back, or begin anew with --force")
            assert [trial.state for trial in trials_of("a")] == ["done"] * 3
        path.write_bytes(good[path])
        optimizer.unlink()
        assert f"nastool: there is no {optimizer}: put the checkpoint of trial 0" in command(*TINY, "--out", "a").err
        optimizer.write_bytes(good[optimizer])
        command(*TINY, "--out", "a").accepted()
        assert results("a") == results("whole")

    def test_a_disk_that_fills(self, command: Command, tmp_path: Path) -> None:
        """In a process of its own, which may not write files of more than 150 kB."""
        grows = [*SEARCH, "--scale", "channels=16", *steps(kinds="wider", steps=1, final_epochs=0)]
        nastool = [sys.executable, "-m", "nastool", *grows, "--out", "killed"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

        full = subprocess.run(nastool, env=environment, capture_output=True, text=True, preexec_fn=limit)
        assert full.returncode == 2 and full.stdout == ""
        last = full.stderr.splitlines()[-1]
        assert re.fullmatch(
            r"nastool: cannot write checkpoint killed/checkpoints/trial-00000\d\.safetensors: File too large; "
            r"free some space, then give the same command again",
            last,
        )
        assert "Traceback" not in full.stderr
        states = [trial.state for trial in trials_of("killed")]
        assert states[0] == "done" and states[-1] == "running" and "failed" not in states
        names = {file.name for file in Path("killed/checkpoints").iterdir()}
        whole = {f"trial-{i:06d}.{kind}" for i in range(len(states) - 1) for kind in KEPT}
        assert names <= whole, "nothing half written is left"
        for name in ("killed", "whole"):
            command(*grows, "--out", name).accepted()
        assert results("killed") == results("whole")


KEPT = ("safetensors", "optimizer.safetensors", "predictions.safetensors")


class TestEnsemble:
    """Of the networks along the path: snapshot ensembles."""

    MEMBERS = ("-S", "members=3", "--keep", "1")

    def by_hand(self, folder: str, members: Sequence[int]) -> dict[str, float]:
        """Accuracy and loss of the mean of the members' softmax, without nastool's data and evaluator."""
        space = MorphCNN(stages=2, layers=3)
        x_train, _ = separable(80, 0)
        x, y = separable(30, 2)
        images = torch.from_numpy((x - x_train.mean()) / x_train.std()).float()
        total = torch.zeros(30, 2, dtype=torch.float64)
        for trial_id in members:
            arch = trials_of(folder)[trial_id].proposal.arch
            network = build(space, arch, ImageTask(1, 8, 8, 2), MorphCNN.Scale(2)).eval()
            network.load_state_dict(load_file(Path(folder) / checkpoints.name_of(trial_id)))
            with torch.no_grad():
                total += network(images).softmax(1)
        mean, labels = total / len(members), torch.from_numpy(y)
        right = (mean.argmax(1) == labels).double().mean().item()
        return {"test_acc": right, "test_loss": nll_loss(mean.log(), labels).item()}

    def test_some_of_the_path_predict_together(self, command: Command) -> None:
        outcome = command(*TINY, *self.MEMBERS, "--out", "a")
        (document,) = outcome.accepted()
        ensemble = document["ensemble"]
        found = trials_of("a")
        path, center = [0], 0
        for step in (found[1:4], found[4:7], found[7:]):
            assert {trial.proposal.parent for trial in step} == {center}
            center = min(step, key=lambda trial: (trial.loss, trial.id)).id
            path.append(center)
        choosing, judging = ensembling.divided(40, 0.5, 0)
        kept = [stored.read(weights_of("a", trial)) for trial in path]
        said, labels = np.stack([each.probabilities for each in kept]), kept[0].labels
        taken = selection.forward(said[:, choosing], labels[choosing], 3).members
        assert ensemble["trials"] == [path[i] for i in taken]
        mean = said[taken].mean(0)[judging]
        assert ensemble["metrics"]["val_loss"] == pytest.approx(metrics.nll(mean, labels[judging]), rel=1e-4)
        assert {**ensemble["metrics"], **self.by_hand("a", ensemble["trials"])} == pytest.approx(
            ensemble["metrics"], rel=1e-4
        )
        assert f"ensemble of trials {', '.join(map(str, ensemble['trials']))}: val_acc" in outcome.err
        assert json.loads(Path("a/best.json").read_text())["ensemble"] == ensemble
        whole = json.loads(Path("a/ensemble/best.json").read_text())
        assert [member["trial"] for member in whole["members"]] == ensemble["trials"]
        names = {checkpoints.name_of(i).removeprefix("checkpoints/") for i in {*path, document["trial"]}}
        names |= {checkpoints.predictions_of(Path(name)).name for name in names}
        assert {file.name for file in Path("a/checkpoints").iterdir()} == names
        assert command(*TINY, *self.MEMBERS, "--out", "a").accepted() == [document]
        (alone,) = command(*TINY, "--keep", "1", "--out", "one").accepted()
        assert "ensemble" not in alone and not Path("one/ensemble").exists()
        assert alone["trial"] == document["trial"] and results("a") == results("one")

    @pytest.mark.parametrize(
        ("options", "trials"),
        [({"inherit": "false"}, TRIALS), ({"final_epochs": 0}, TRIALS - 1), ({}, 3)],
        ids=["from scratch", "without a last training", "not at its end"],
    )
    def test_of_other_searches(self, command: Command, options: Mapping[str, Any], trials: int) -> None:
        arguments = [*SEARCH, "--scale", "channels=2", *steps(**options), "-n", str(trials)]
        (document,) = command(*arguments, *self.MEMBERS, "--out", "a").accepted()
        ensemble = document["ensemble"]
        expected = {**ensemble["metrics"], **self.by_hand("a", ensemble["trials"])}
        assert ensemble["metrics"] == pytest.approx(expected, rel=1e-4)

    def test_a_member_is_lost(self, command: Command) -> None:
        command(*TINY, *self.MEMBERS, "-n", "5", "--out", "a").accepted()
        path = weights_of("a", 0)
        path.rename("away")
        outcome = command(*TINY, *self.MEMBERS, "--out", "a")
        assert outcome.code == 2 and outcome.err.splitlines()[-1].endswith(f"there is no {path}: put it back")
        assert len(trials_of("a")) == 5
        Path("away").rename(path)
        command(*TINY, *self.MEMBERS, "--out", "a").accepted()
        command(*TINY, *self.MEMBERS, "--out", "b").accepted()
        assert results("a") == results("b")
        own = [json.loads(Path(folder, "best.json").read_text())["ensemble"] for folder in ("a", "b")]
        assert own[0] == own[1]
