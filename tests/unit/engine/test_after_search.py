"""What a search does at its end: retraining, baseline, ranking; through the command, interruptions included."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nastool import cli
from nastool.core import archfile
from nastool.core.errors import InputError
from nastool.core.values import Evaluation, Objective, Proposal, Trial
from nastool.engine.after_search import AfterSearch, Outcome, Settings
from nastool.engine.command_options import SearchOptions, nobody
from nastool.engine.config import RunConfig, RunFolder
from nastool.engine.proposals import trial_seed
from nastool.engine.retraining import Trained
from nastool.engine.run import Watch
from nastool.engine.store import Store
from nastool.engine.verdict import verdict, verdicts
from nastool.evaluators.supernet import Supernet
from nastool.evaluators.train import Train
from nastool.spaces.nasbench201 import NasBench201
from tests.contract.test_contracts import write_table
from tests.helpers.plugins import sleepy
from tests.helpers.running import changed, counts, in_this_process

NASTOOL = str(Path(sys.executable).parent / "nastool")
SPACE = NasBench201()
RECIPE = "epochs: 2\nbatch_size: 50\nlr: 0.1\ncrop_padding: 0\n"
SMALL = ["-E", "train_size=200", "--scale", "channels=4,cells=1", "--device", "cpu"]
ROUNDS, CANDIDATES = 8, 6
ENAS = ["search", "-s", "enas", "--space", "nasbench201", *SMALL, "--epochs", str(ROUNDS)]
ENAS += ["-S", "steps=2", "-S", "children=3", "-S", f"candidates={CANDIDATES}"]
RETRAIN = ["--retrain", "2", "--retrain-recipe", "tiny.yaml"]
WHOLE = [*ENAS, "-n", "1000", *RETRAIN, "--out", "a"]
"""The search that most tests look at: in its folder, a. It wants more trials than the strategy has."""

Done = subprocess.CompletedProcess[str]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*arguments: str, cwd: Path, stdin: str = "") -> Done:
    """Run a command in this process, trainings included."""
    found = in_this_process(cwd, *arguments, stdin=stdin, trains=True)
    return subprocess.CompletedProcess(arguments, found.code, found.out, found.err)


def elsewhere(*arguments: str, cwd: Path, **env: str) -> Done:
    """Run a command in a process of its own."""
    return subprocess.run([NASTOOL, *arguments], cwd=cwd, env={**environment(), **env}, capture_output=True, text=True)


def document(done: Done) -> dict[str, Any]:
    """The one JSON line on stdout."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def refused(done: Done, *fragments: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("nastool: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr and "internal error" not in done.stderr, done.stderr
    for fragment in fragments:
        assert fragment in lines[0]


def with_recipe(folder: Path) -> Path:
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder that holds a, and what its search said."""
    folder = with_recipe(tmp_path_factory.mktemp("whole"))
    return folder, run(*WHOLE, cwd=folder)


@pytest.fixture
def copied(whole: tuple[Path, Done], tmp_path: Path) -> Path:
    """A copy to go on with."""
    shutil.copytree(whole[0], tmp_path / "copy")
    return tmp_path / "copy"


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """All of the trials that must not depend on interruptions; times do."""
    with sqlite3.connect(folder / "run.db") as db:
        timeless = "json_remove(evaluation, '$.seconds')"
        return db.execute(
            f"SELECT id, told, state, proposal, {timeless}, loss, error FROM trials ORDER BY id"
        ).fetchall()


def retrained(run_folder: Path) -> Path:
    """The folder of the only retraining."""
    (found,) = run_folder.glob("retrain-*")
    return found


def timeless(value: Any) -> Any:
    """A document without what differs each time."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return value


def train(folder: Path, best: dict[str, Any]) -> Train:
    """The evaluator that best.json names."""
    evaluator = Train(SPACE, **{**best["evaluator"]["options"], "recipe": str(folder / "tiny.yaml"), "device": "cpu"})
    evaluator.workdir = folder
    evaluator.prepare()
    return evaluator


class TestWhole:
    def test_the_result_on_stdout(self, whole: tuple[Path, Done]) -> None:
        folder, done = whole
        best = document(done)
        assert best == json.loads((folder / "a" / "best.json").read_text())
        metrics = best["metrics"]
        for name in ("val_acc", "test_acc", "shared_acc"):
            assert 0 <= metrics[name] <= 1
        assert {"val_loss", "test_loss", "shared_loss", "params", "flops", "seconds"} <= set(metrics)
        assert best["run"] == f"a/{retrained(folder / 'a').name}"
        assert best["scale"] == {"channels": 4, "cells": 1}
        rival = best["comparison"]["random"]
        assert rival["architectures"] == 2 and {"val_acc", "test_acc"} <= set(rival["metrics"])
        assert "best of 2 retrained: val_acc" in done.stderr
        assert "best of 2 random ones, trained the same: val_acc" in done.stderr
        said = [each["says"] for each in best["comparison"]["verdicts"]]
        lines = done.stderr.splitlines()
        first = lines.index(said[0])
        assert lines[first : first + len(said)] == said and lines[first + len(said)].startswith("best: "), "said first"
        assert [each["about"] for each in best["comparison"]["verdicts"] if each["about"] != "collapse"] == [
            "policy",
            "ranking",
            "random",
        ]
        assert "what was found is not shown to be better than random: test_acc on average " in said[-1]
        assert "(2 found) against " in said[-1]

    def test_the_verdict_is_by_one_test_of_each_network(self, whole: tuple[Path, Done]) -> None:
        """On held-out images, of all that was trained; the result stays the best by validation."""
        folder, done = whole
        best = document(done)
        found = best["comparison"]["verdict"]
        evaluator = train(folder, best)
        assert evaluator.test_batches is not None
        with Store.read(retrained(folder / "a") / "run.db") as store:
            trained, tested = list(store.trials()), store.get("tested")
        assert set(tested) == {"0", "1", "2", "3"}
        for trial in trained:
            assert trial.evaluation is not None
            evaluator.workdir = retrained(folder / "a")
            network = evaluator.load(trial.proposal.arch, str(trial.evaluation.checkpoint))
            assert (
                evaluator.measure(network, evaluator.test_batches, "test")["test_acc"]
                == tested[str(trial.id)]["test_acc"]
            )
        accuracies = [tested[str(i)]["test_acc"] for i in range(4)]
        assert found["found"] == accuracies[:2] and found["random"] == accuracies[2:]
        assert not found["better"] and "so few cannot show it" in found["says"] and found["says"] in done.stderr
        status = run("status", "a", "--text", cwd=folder).stdout
        assert found["says"] in " ".join(status.split())

    def test_the_best_is_the_best_of_those_retrained_and_its_score_that_of_the_search(
        self, whole: tuple[Path, Done]
    ) -> None:
        folder, done = whole
        best = document(done)
        with Store.read(folder / "a" / "run.db") as store:
            trials = list(store.trials())
        with Store.read(retrained(folder / "a") / "run.db") as store:
            trained = list(store.trials())
        assert len(trials) == ROUNDS + CANDIDATES and len(trained) == 4
        candidates = sorted(trials[ROUNDS:], key=lambda trial: trial.rank)
        assert all(trial.proposal.policy is None for trial in candidates)
        assert [t.proposal.arch for t in trained[:2]] == [t.proposal.arch for t in candidates[:2]]
        winner = min(trained[:2], key=lambda trial: trial.rank)
        assert best["key"] == winner.proposal.arch.key and best["trial"] == winner.id
        assert winner.evaluation is not None
        assert best["metrics"]["val_acc"] == winner.evaluation.metrics["val_acc"]
        (score,) = [t.evaluation for t in candidates if t.proposal.arch == winner.proposal.arch]
        assert score is not None and best["metrics"]["shared_acc"] == score.metrics["shared_acc"]

    def test_the_weights_give_that_accuracy(self, whole: tuple[Path, Done]) -> None:
        folder, done = whole
        best = document(done)
        evaluator = train(folder, best)
        network = evaluator.load(archfile.from_json(best).arch, best["weights"])
        for images, part in ((evaluator.test_batches, "test"), (evaluator.val_batches, "val")):
            assert images is not None
            measured = evaluator.measure(network, images, part)
            assert measured[f"{part}_acc"] == best["metrics"][f"{part}_acc"]
            assert measured[f"{part}_loss"] == pytest.approx(best["metrics"][f"{part}_loss"], rel=1e-9)

    def test_eval_of_the_result_repeats_its_training(self, whole: tuple[Path, Done]) -> None:
        folder, done = whole
        best = document(done)
        assert "device" not in best["evaluator"]["options"], "it is not the result's"
        seed = str(trial_seed(0, best["trial"]))
        again = document(run("eval", "a/best.json", "--device", "cpu", "--seeds", seed, cwd=folder))
        for name in ("val_acc", "val_loss", "test_acc", "test_loss"):
            assert again["metrics"][name] == best["metrics"][name]
        assert "shared_acc" not in again["metrics"] and "comparison" not in again

    def test_eval_with_the_shared_weights_gives_the_score(self, whole: tuple[Path, Done]) -> None:
        folder, done = whole
        weights = "weights=a/checkpoints/supernet.safetensors"
        command = ["eval", "a/best.json", "--evaluator", "supernet", "-E", weights, "--device", "cpu"]
        before = (folder / "a/checkpoints/supernet.safetensors").read_bytes()
        again = document(run(*command, "--workers", "2", cwd=folder))
        assert again["metrics"]["shared_acc"] == document(done)["metrics"]["shared_acc"]
        assert (folder / "a/checkpoints/supernet.safetensors").read_bytes() == before

    def test_top_gives_candidates_and_eval_trains_them_on_the_same_data(self, whole: tuple[Path, Done]) -> None:
        folder, done = whole
        top = run("top", "a", "-k", "3", cwd=folder)
        lines = [json.loads(line) for line in top.stdout.splitlines()]
        assert len(lines) == 3
        assert all(line["trial"] >= ROUNDS for line in lines), "what was scored in a round had other weights"
        assert len({SPACE.canonical(archfile.from_json(line).arch) for line in lines}) == 3
        inner = retrained(folder / "a").relative_to(folder)
        note = f"note: scores with shared weights; trained from scratch: `nastool top {inner} -k 9`\n"
        assert top.stderr == note
        other = run("top", "a", "--objective", "test_acc", cwd=folder)
        assert (other.returncode, other.stdout) == (2, "")
        assert f"`nastool top {inner} -k 9`" in other.stderr and "`nastool show a`" in other.stderr
        assert (
            f"`nastool top {inner} --objective val_acc`" in run("top", "a", "--objective", "val_acc", cwd=folder).stderr
        )
        assert "`nastool show a`" in run("top", str(inner), "--objective", "test_acc", cwd=folder).stderr
        scores = [line["metrics"]["shared_acc"] for line in lines]
        assert scores == sorted(scores, reverse=True)
        first = json.dumps(lines[0])
        found = document(
            run("eval", "-", "--recipe", "tiny.yaml", "--device", "cpu", "--save", "kept", cwd=folder, stdin=first)
        )
        evaluator = train(folder, document(done))
        assert found["metrics"]["val_acc"] >= 0 and "shared_acc" not in found["metrics"]
        network = evaluator.load(archfile.from_json(found).arch, found["runs"][0]["weights"])
        assert evaluator.measure(network, evaluator.val_batches, "val")["val_acc"] == found["metrics"]["val_acc"]

    def test_status_and_show(self, whole: tuple[Path, Done]) -> None:
        folder, done = whole
        status = document(run("status", "a", cwd=folder))
        assert status["state"] == "finished"
        assert status["trials"] == counts(done=ROUNDS + CANDIDATES)
        best = document(done)
        assert status["trained"] == best and "shared_acc" in status["best"]["metrics"]
        text = run("status", "a", "--text", cwd=folder).stdout
        assert f"trained    from scratch: architecture {best['key']}, in {best['run']}\n" in text
        assert f"test_acc {best['metrics']['test_acc']:.4f}" in text and "scored with shared weights" in text
        assert "scale=channels=4,cells=1" in text
        inner = document(run("status", retrained(folder / "a").as_posix(), cwd=folder))
        assert "trained" not in inner
        assert inner["state"] == "finished" and inner["trials"]["done"] == 4
        assert document(run("show", "a", cwd=folder))["key"] == document(done)["key"]


class TestAgain:
    @pytest.mark.parametrize("command", [WHOLE, ["search", "--config", "a/run.yaml", "--out", "a"]], ids=["", "config"])
    def test_the_same_again_says_the_same_at_once(self, whole: tuple[Path, Done], command: list[str]) -> None:
        """Though it wants more trials than there are; and run.yaml holds the flags of the end, too."""
        folder, done = whole
        before = {path for path in folder.rglob("*") if "run.db-" not in path.name}
        again = run(*command, cwd=folder)
        assert document(again) == document(done)
        assert f"already has its {ROUNDS + CANDIDATES} trials; the strategy has nothing left" in again.stderr
        assert {path for path in folder.rglob("*") if "run.db-" not in path.name} == before

    def test_config_holds_all_that_matters(self, whole: tuple[Path, Done]) -> None:
        folder, _ = whole
        search = yaml.safe_load((folder / "a" / "run.yaml").read_text())["search"]
        assert search["retrain"] == 2 and search["baseline"] is True
        assert search["retrain-recipe"] == "tiny.yaml" and search["trials"] == 1000
        assert "check-ranking" not in search

    def test_other_retraining_goes_on_without_searching_again(self, copied: Path) -> None:
        """And a sample of random ones checks the ranking, trained from scratch."""
        before = rows(copied / "a")
        first = retrained(copied / "a")
        (copied / "a" / "best.json").unlink()
        command = changed(WHOLE, "--retrain", "1", "--retrain-scale", "channels=5", "--check-ranking", "3")
        done = run(*command, cwd=copied)
        best = document(done)
        assert rows(copied / "a") == before
        assert best["scale"] == {"channels": 5, "cells": 1}, "the rest of the size is the search's"
        ranking = best["comparison"]["ranking"]
        assert ranking["architectures"] == 3 and "trained from scratch" in ranking["with"]
        assert best["comparison"]["random"]["architectures"] == 1
        (second,) = set((copied / "a").glob("retrain-*")) - {first}
        assert len(rows(second)) == 4, "the random one is the first of the sample"
        assert "over 3 architectures" in done.stderr
        again = run(*command, cwd=copied)
        assert document(again) == best and "already has" in again.stderr

    def test_ranking_by_a_table(self, copied: Path) -> None:
        """Of made-up numbers, which agree with nothing."""
        write_table(copied / "table.npz", SPACE)
        command = [*ENAS, "--out", "a", "--retrain", "0", "--check-ranking", "30"]
        command += ["--ranking-table", "file=table.npz,dataset=made_up"]
        done = run(*command, cwd=copied)
        best = document(done)
        ranking = best["comparison"]["ranking"]
        assert ranking["architectures"] == 30 and abs(ranking["spearman"]) < 0.6
        assert {"val_acc", "test_acc"} <= set(best["comparison"]["table"])
        assert "shared_acc" in best["metrics"] and "weights" not in best
        assert not (copied / "a" / "best.safetensors").exists(), "those of another architecture"
        assert len(list((copied / "a").glob("retrain-*"))) == 1, "nothing new is trained"

    def test_a_changed_recipe_is_another_retraining(self, copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Though the flags are the same, the result is not given again."""
        monkeypatch.chdir(copied)
        found = []
        for text in (RECIPE, RECIPE, RECIPE.replace("0.1", "0.2")):
            (copied / "tiny.yaml").write_text(text)
            found.append(finale(copied / "a", retrain=2, retrain_recipe="tiny.yaml").identity())
        assert found[0] == found[1] != found[2]

    @pytest.mark.parametrize("damage", ["missing", "truncated", "text"])
    def test_lost_weights_are_said_and_nothing_else_is_lost(self, copied: Path, damage: str) -> None:
        path = copied / "a" / "checkpoints" / "supernet.safetensors"
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:1000] if damage == "truncated" else b"my diary")
        before = rows(copied / "a")
        refused(
            run(*changed(WHOLE, "--retrain", "1"), cwd=copied),
            str(Path("a/checkpoints/supernet.safetensors")),
            "--force",
        )
        assert rows(copied / "a") == before
        assert json.loads((copied / "a" / "best.json").read_text())["metrics"]["test_acc"] >= 0

    def test_force_replaces_the_retraining_but_nothing_of_others(self, copied: Path) -> None:
        inner = retrained(copied / "a")
        (inner / "notes.txt").write_text("mine")
        (copied / "a" / "retrain-01234567").mkdir()
        RunFolder(copied / "a").clear()
        assert [path.name for path in inner.iterdir()] == ["notes.txt"]
        assert (copied / "a" / "retrain-01234567").is_dir()
        assert not list((copied / "a" / "checkpoints").iterdir())


def finale(folder: Path, space: Any = SPACE, evaluator: str = "supernet", **given: Any) -> AfterSearch:
    """That of a search in this folder, with these flags."""
    options = {} if evaluator == "table" else {"train_size": 200, "scale": {"channels": 4, "cells": 1}}
    options |= {"file": "table.npz"} if evaluator == "table" else {}
    config = RunConfig.resolve(("random", {}), (space.name, {}), (evaluator, options), 0, None)
    built = config.evaluator_spec(space, folder).build()
    settings = Settings.read(SearchOptions(**given), config.make_strategy(space), built)
    return AfterSearch(config, space, built, RunFolder(folder), settings)


class TestOthers:
    def test_all_members_of_an_ensemble_are_trained(self, tmp_path: Path) -> None:
        with_recipe(tmp_path)
        command = ["search", "-s", "nesbs", "--space", "nasbench201", *SMALL, "--epochs", "1", "--no-baseline"]
        command += ["-S", "members=2", "-S", "steps=2", "-S", "sets=2", "--retrain-recipe", "tiny.yaml", "--out", "a"]
        done = run(*command, cwd=tmp_path)
        with Store.read(tmp_path / "a" / "run.db") as store:
            scored = [trial.proposal.arch for trial in store.trials()][1:]
        with Store.read(retrained(tmp_path / "a") / "run.db") as store:
            trained = list(store.trials())
        assert len(scored) == 2 and {trial.proposal.arch for trial in trained} == set(scored)
        assert all(trial.state == "done" for trial in trained)
        found = document(done)["ensemble"]
        assert found["run"] == retrained(tmp_path / "a").name and sorted(found["trials"]) == [0, 1]
        assert {"val_acc", "val_loss", "test_acc", "test_loss"} == set(found["metrics"])
        assert "ensemble of trials" in done.stderr and "of retrain-" in done.stderr
        ensemble = json.loads((tmp_path / "a" / "ensemble" / "best.json").read_text())
        assert [each["trial"] for each in ensemble["members"]] == found["trials"]
        assert (tmp_path / "a" / "ensemble" / "model.py").is_file()

    def test_random_search_with_shared_weights(self, tmp_path: Path) -> None:
        with_recipe(tmp_path)
        command = ["search", "-s", "random", "--evaluator", "supernet", *SMALL, "--epochs", "2", "-n", "5"]
        command += ["--retrain", "1", "--retrain-recipe", "tiny.yaml", "--no-baseline", "--out", "names with spaces"]
        done = run(*command, "--objective", "shared_loss:min", cwd=tmp_path)
        best = document(done)
        assert {"val_acc", "test_acc", "shared_acc"} <= set(best["metrics"]) and "random" not in best.get(
            "comparison", {}
        )
        assert "nastool top 'names with spaces'" in done.stderr
        with Store.read(tmp_path / "names with spaces" / "run.db") as store:
            trials = list(store.trials())
            (top,) = store.best(1)
            assert [step for step, _ in store.reports(0)] == [1, 2], "all training comes before the first score"
        losses = [trial.evaluation.metrics["shared_loss"] for trial in trials if trial.evaluation]
        assert top.loss == min(losses) and len(set(losses)) == 5
        assert best["key"] == top.proposal.arch.key

    def test_after_short_trainings(self, tmp_path: Path) -> None:
        """And what checks the ranking touches no trial's weights."""
        with_recipe(tmp_path)
        command = ["search", "-s", "random", *SMALL, "--epochs", "1", "-n", "2", "--out", "r"]
        done = run(*command, *RETRAIN, "--check-ranking", "2", cwd=tmp_path)
        best = document(done)
        assert best["evaluator"]["options"]["recipe"] == "tiny.yaml" and best["metrics"]["test_acc"] >= 0
        assert "random" not in best["comparison"], "trials have accuracies of their own to compare with"
        assert best["comparison"]["ranking"]["architectures"] == 2
        from safetensors import safe_open

        with Store.read(tmp_path / "r" / "run.db") as store:
            trials = list(store.trials())
        for trial in trials:
            assert trial.evaluation is not None and trial.evaluation.checkpoint is not None
            with safe_open(tmp_path / "r" / trial.evaluation.checkpoint, framework="np") as file:
                assert json.loads(file.metadata()["arch"])["key"] == trial.proposal.arch.key
        assert len(list((tmp_path / "r" / "checkpoints").glob("trial-??????.safetensors"))) == 2

    def test_an_evaluator_of_others(self, tmp_path: Path) -> None:
        """It has none of the attributes that came later, and no data to train on; a table ranks all the same."""
        env = sleepy(tmp_path / "plugin")
        write_table(tmp_path / "table.npz", SPACE)
        command = ["search", "-s", "random", "--evaluator", "sleepy-inline", "-E", "seconds=0", "-n", "3", "--out", "r"]
        refused(
            elsewhere(*command, "--retrain", "1", cwd=tmp_path, **env), "--retrain: evaluator sleepy-inline has no data"
        )
        assert not (tmp_path / "r").exists()
        table = ["--check-ranking", "5", "--ranking-table", "file=table.npz"]
        best = document(elsewhere(*command, *table, cwd=tmp_path, **env))
        assert best["comparison"]["ranking"]["architectures"] == 5 and "table" in best["comparison"]
        again = elsewhere(*command, *table, cwd=tmp_path, **env)
        assert document(again) == best and "already has its 3 trials" in again.stderr


class TestInterrupted:
    """At any moment, then the same command: exactly the result of the undisturbed run."""

    def test_killed_in_a_round_and_stopped_in_the_retraining(self, whole: tuple[Path, Done], tmp_path: Path) -> None:
        with_recipe(tmp_path)
        interrupt(tmp_path, signal.SIGKILL, 3)
        process, message = interrupt(tmp_path, signal.SIGINT, ROUNDS + CANDIDATES + 1)
        check_stopped(process, message)
        assert "; Ctrl-C again stops at once" in message
        assert document(run("status", "a", cwd=tmp_path))["state"] == "interrupted"
        assert_same(whole, tmp_path)

    @pytest.mark.slow
    def test_at_twenty_moments(self, whole: tuple[Path, Done], tmp_path: Path) -> None:
        """Ctrl-C each fifth time, else kill -9; some of these while it starts."""
        with_recipe(tmp_path)
        moments = random.Random(0)
        most = ROUNDS + CANDIDATES + 4
        for i in range(20):
            if i % 5 == 0:
                interrupt(tmp_path, signal.SIGKILL, 0, moments.uniform(0, 4))
                continue
            enough = most * (i + moments.random()) / 21
            number = signal.SIGINT if i % 5 == 1 else signal.SIGKILL
            process, message = interrupt(tmp_path, number, enough, moments.uniform(0, 0.2))
            if number == signal.SIGINT and message.strip() != "nastool: interrupted":  # that is while it starts
                check_stopped(process, message)
        assert_same(whole, tmp_path)


def test_networks_are_tested_once_however_often_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that cannot be tested is left out of the verdict, not the result."""
    calls: list[int] = []

    def test_once(pool: object, trial: Trial, seed: int) -> tuple[dict[str, float], str | None]:
        calls.append(trial.id)
        return ({}, "broken") if trial.id == 5 else ({"test_acc": 0.9 - trial.id / 10}, None)

    class Facts(dict[str, object]):
        write = dict.update

    class Kept:
        test = Trained.test
        trials: ClassVar = [
            Trial(i, Proposal(SPACE.arch([i] * 6)), "done", Evaluation({"val_acc": 0.5}, 1.0), (-0.5,))
            for i in [0, 1, 2, 3, 4, 0]
        ]
        run: ClassVar[Any] = SimpleNamespace(watch=None, executor=None, store=Facts())

    Kept.trials[5] = replace(Kept.trials[5], id=5)
    monkeypatch.setattr("nastool.engine.retraining.test_best", test_once)
    alone: Any = SimpleNamespace(settings=SimpleNamespace(baseline=True), config=SimpleNamespace(seed=0))
    objective = Objective.parse("val_acc")
    trained: Any = Kept()
    for number in range(6):
        outcome = Outcome()
        checks = iter([False] * number)
        trained.run.watch = Watch(nobody, partial(next, checks, True))
        assert not AfterSearch._conclude(alone, trained, 3, [], objective, outcome)
        assert outcome.best is None and len(calls) == number
    outcome = Outcome()
    trained.run.watch = Watch(nobody)
    assert AfterSearch._conclude(alone, trained, 3, [], objective, outcome)
    assert sorted(calls) == [0, 1, 2, 3, 4, 5] and outcome.best == Kept.trials[0]
    assert outcome.report["verdict"]["found"] == [0.9, 0.8, 0.7] and len(outcome.report["verdict"]["random"]) == 2


def check_stopped(process: subprocess.Popen[str], message: str) -> None:
    assert process.returncode == 130, message
    assert "continue with: nastool resume " in message and "Traceback" not in message


def interrupt(
    folder: Path, number: signal.Signals, enough: float, wait: float = 0.0
) -> tuple[subprocess.Popen[str], str]:
    """Start or continue the whole search and send it a signal so many seconds after so much progress. What it said."""
    process = subprocess.Popen(
        [NASTOOL, *WHOLE], cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while progress(folder / "a") < enough:
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.003)
    time.sleep(wait)
    process.send_signal(number)
    return process, process.communicate(timeout=120)[1]


def progress(folder: Path) -> int:
    """How many trials are done, those of the retraining included."""
    found = 0
    for path in (folder / "run.db", *folder.glob("retrain-*/run.db")):
        try:
            with Store.read(path) as store:
                found += store.count()["done"]
        except InputError:
            continue
    return found


def assert_same(whole: tuple[Path, Done], folder: Path) -> None:
    done = run(*WHOLE, cwd=folder)
    assert timeless(document(done)) == timeless(document(whole[1]))
    assert rows(folder / "a") == rows(whole[0] / "a")
    assert retrained(folder / "a").name == retrained(whole[0] / "a").name
    assert rows(retrained(folder / "a")) == rows(retrained(whole[0] / "a"))
    first, second = (load_file(place / "a" / "best.safetensors") for place in (folder, whole[0]))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


class TestEstimate:
    def options(self) -> dict[str, Any]:
        return {"train_size": 200, "epochs": 3, "scale": {"channels": 4, "cells": 1}, "device": "cpu"}

    def test_rounds_and_scores_differ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from nastool.core.values import Proposal

        evaluator = Supernet(SPACE, **self.options())
        monkeypatch.setattr(evaluator, "_costs", lambda proposal: (10.0, 1.0))
        arch = SPACE.arch([0] * 6)
        round_, score = Proposal(arch, policy={"round": 0}), Proposal(arch)
        assert (evaluator.estimate(round_), evaluator.estimate(score)) == (11, 1)
        assert evaluator.estimate_all([round_] * 3 + [score] * 2) == [11, 11, 11, 1, 1]
        assert evaluator.estimate_all([score] * 3) == [3 * 10 + 1, 1, 1], "all training comes before the first score"
        trained = Supernet(SPACE, weights="some.safetensors", **self.options())
        monkeypatch.setattr(trained, "_costs", lambda proposal: (10.0, 1.0))
        assert trained.estimate_all([score] * 3) == [1, 1, 1]

    def test_it_is_measured(self) -> None:
        """The policy's phase counts by the children that it looks at."""
        from nastool.strategies.enas import ENAS as Strategy

        found = []
        for children in (2, 200):
            evaluator = Supernet(SPACE, **self.options())
            evaluator.make_policy = Strategy.make_policy
            proposal = Strategy(SPACE, steps=2, children=children, candidates=3).ask()
            assert proposal is not None
            training, score = evaluator._costs(proposal)
            assert 0 < score < 5 and 0 < training < 60
            assert evaluator._shared is None, "nothing is kept of it"
            found.append(training)
        assert found[1] > 3 * found[0]


def test_bad_weights_are_found_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no"):
        Supernet(SPACE, weights=str(tmp_path / "none"), device="cpu").prepare()
    (tmp_path / "text").write_text("my diary")
    with pytest.raises(InputError, match="is damaged"):
        Supernet(SPACE, weights=str(tmp_path / "text"), device="cpu").prepare()


class TestFlags:
    """What is wrong with them is said before anything is searched."""

    def test_defaults(self, tmp_path: Path) -> None:
        assert finale(tmp_path).settings.to_json() == {
            "retrain": 4,
            "baseline": True,
            "recipe": None,
            "scale": None,
            "ranking": 0,
            "table": None,
        }
        settings = finale(tmp_path, evaluator="train").settings
        assert (settings.retrain, settings.baseline, settings.any) == (0, False, False)

    def test_recipe_and_size_by_default(self, tmp_path: Path) -> None:
        """The recipe that the search's own names; its size, or else the search's."""
        plugged = finale(tmp_path).training
        assert plugged is not None
        assert plugged.options["recipe"] == "digits-long" and plugged.options["epochs"] is None
        assert plugged.options["scale"] == {"channels": 4, "cells": 1} and plugged.options["train_size"] == 200
        assert plugged.options["data"] == "digits"
        (tmp_path / "sized.yaml").write_text("scale: {channels: 6, cells: 2, other: 3}")
        recipe = str(tmp_path / "sized.yaml")
        plugged = finale(tmp_path, retrain_recipe=recipe).training
        assert plugged is not None and plugged.options["scale"] is None
        plugged = finale(tmp_path, retrain_recipe=recipe, retrain_scale="cells=3").training
        assert plugged is not None and plugged.options["scale"] == {"channels": 6, "cells": 3}

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"retrain_recipe": "nope"}, "--retrain-recipe: no recipe 'nope'"),
            ({"retrain_recipe": ""}, "--retrain-recipe: no recipe ''"),
            ({"retrain_recipe": "none.yaml"}, "--retrain-recipe: no recipe file none.yaml"),
            ({"retrain_scale": ""}, "--retrain-scale '': write KEY=N"),
            ({"retrain_scale": "channels"}, "--retrain-scale 'channels': write KEY=N"),
            ({"retrain_scale": "channels=x"}, "write KEY=N"),
            ({"retrain_scale": "channels=1,channels=2"}, "--retrain-scale: channels= is given twice; keep one"),
            ({"retrain_scale": "channels=" + "9" * 5000}, "write KEY=N"),
            ({"retrain_scale": "channels=0"}, "--retrain-scale: .*1 <= channels"),
            ({"retrain_scale": "chanels=3"}, "--retrain-scale: .*'chanels'"),
            ({"retrain": 0, "retrain_scale": "channels=3"}, "--retrain-scale goes with --retrain"),
            ({"retrain": 0, "retrain_recipe": "digits"}, "--retrain-recipe goes with --retrain"),
            ({"check_ranking": 1}, "--check-ranking 1: a rank correlation needs at least 2"),
            ({"ranking_table": "file=t.npz"}, "--ranking-table goes with --check-ranking"),
            ({"check_ranking": 3, "ranking_table": ""}, "--ranking-table '': write KEY=VALUE"),
            ({"check_ranking": 3, "ranking_table": "x"}, "--ranking-table 'x': write KEY=VALUE"),
            ({"check_ranking": 3, "ranking_table": "a=1"}, "--ranking-table has no option 'a'"),
            ({"check_ranking": 3, "ranking_table": "dataset=x"}, "--ranking-table needs file="),
            (
                {"evaluator": "table", "retrain": 1},
                "--retrain: evaluator table has no data to train on; afterwards give",
            ),
            ({"evaluator": "table", "check_ranking": 5}, "--check-ranking: .* --ranking-table"),
        ],
        ids=str,
    )
    def test_bad_values(self, tmp_path: Path, given: dict[str, Any], message: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            finale(tmp_path, **given)
        assert len(str(caught.value)) < 400

    def test_a_table_is_read_before_the_search(self, tmp_path: Path) -> None:
        found = finale(tmp_path, retrain=0, check_ranking=3, ranking_table="file=none.npz")
        with pytest.raises(InputError, match=r"none\.npz"):
            found.prepare()

    def test_of_a_space_without_tables(self, tmp_path: Path) -> None:
        from nastool.spaces.macro_cnn import MacroCNN

        config = RunConfig.resolve(("random", {}), ("macro-cnn", {}), ("supernet", {}), 0, None)
        built = config.evaluator_spec(MacroCNN(), tmp_path).build()
        settings = Settings(retrain=0, baseline=True, recipe=None, scale=None, ranking=3, table="file=t.npz")
        with pytest.raises(InputError, match="--ranking-table: space macro-cnn has no published tables"):
            AfterSearch(config, MacroCNN(), built, RunFolder(tmp_path), settings)

    @pytest.mark.parametrize(
        ("arguments", "fragments"),
        [
            (["-n", str(ROUNDS), "--check-ranking", "4"], ("--check-ranking", f"more than {ROUNDS} --trials")),
            (["-E", "weights=w.safetensors"], ("strategy enas trains shared weights of its own", "weights=")),
            (["--evaluator", "train"], ("strategy enas needs 'policy'",)),
            (["--space", "nasbench101"], ("needs 'supernet', which space nasbench101 lacks",)),
            (["--objective", "val_acc:up"], ("METRIC:max",)),
            (["--check-ranking", "3", "--ranking-table", "file=none.npz"], ("none.npz",)),
            (["-S", "hidden=5000"], ("1 <= hidden <= 1,000",)),
            (["-S", "lr=none", "-S", "skip_target=1"], ("0 < skip_target < 1",)),
        ],
        ids=str,
    )
    def test_bad_searches(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        fragments: tuple[str, ...],
    ) -> None:
        """In this process: nothing of it needs a worker."""
        code, out, err = inside(tmp_path, monkeypatch, capsys, *changed([*ENAS, "--out", "r"], *arguments))
        refused(subprocess.CompletedProcess([], code, out, err), *fragments)
        assert not list(tmp_path.iterdir())

    def test_eval_with_shared_weights_takes_one_seed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = archfile.dumps(archfile.to_json(SPACE, SPACE.arch([0] * 6)))
        command = ["eval", line, "--evaluator", "supernet", "--seeds", "0,1"]
        code, out, err = inside(tmp_path, monkeypatch, capsys, *command)
        refused(subprocess.CompletedProcess([], code, out, err), "--seeds", "one set of shared weights")

    def test_dry_run_says_what_it_all_costs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "tiny.yaml").write_text(RECIPE)
        command = [*ENAS, *RETRAIN, "-n", str(ROUNDS), "--dry-run"]
        code, out, err = inside(tmp_path, monkeypatch, capsys, *command)
        assert code == 0, err
        assert out == ""
        assert f"for {ROUNDS} on one worker" in err and "for up to 4 on one worker" in err
        assert "retrain-recipe: tiny.yaml" in err and "it will end among them" in err


def inside(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run a command in this process. Exit code, stdout, stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["nastool", *arguments])
    capsys.readouterr()
    code = cli.run()
    return code, *capsys.readouterr()


def trial(number: int, value: float | None) -> Trial:
    proposal = Proposal(NasBench201().arch([0] * 6))
    if value is None:
        return Trial(number, proposal, "failed", error="broke")
    return Trial(number, proposal, "done", Evaluation({"val_acc": value}, 1.0), (-value,))


def metrics(values: Sequence[float | None], name: str = "test_acc") -> list[dict[str, float]]:
    return [{"val_acc": 0.5} if value is None else {"val_acc": 0.5, name: value} for value in values]


@pytest.mark.parametrize(
    ("found", "random", "p", "better", "says"),
    [
        ([0.91, 0.9, 0.92], [0.5, 0.51, 0.52], 1 / 20, False, "so few cannot show it, p is at least 0.05: give"),
        ([0.91, 0.9, 0.92, 0.93], [0.5, 0.51, 0.52, 0.9], 2 / 70, True, "(4 random), one-sided"),
        ([0.9, 0.9, 0.9, 0.9], [0.9, 0.9, 0.9, 0.9], 1, False, "is not shown to be better than random: "),
        ([0.5] * 4, [0.9] * 4, 1, False, "not shown to be better than random: test_acc on average 0.5000 (4 found)"),
        ([0.9, 0.8], [0.7] * 20, 1 / 231, True, "what was found is better than random: "),
        ([0.9, 0.7, None], [0.7, 0.8, 0.6], 0.3, False, "test_acc on average 0.8000 (2 found) against"),
        ([0.9], [0.8], None, False, "1 found against 1 random: too few for a verdict"),
    ],
)  # fmt: skip
def test_verdict(found: list[float], random: list[float], p: float | None, better: bool, says: str) -> None:
    """p by counting: of all ways to choose as many of the values, those whose mean is as high."""
    result = verdict(metrics(found), metrics(random), Objective.parse("val_acc"))
    assert says in result["says"] and result["better"] == better
    assert result["p"] == (None if p is None else pytest.approx(p))
    assert ("so few" in result["says"]) == (len(found) == len(random) == 3)


def a_round(**metrics: float) -> Trial:
    policy = {"round": 0, "options": {"candidates": 10}}
    return Trial(
        0, Proposal(SPACE.arch([3] * 6), policy=policy), "done", Evaluation({"entropy": 9.0, **metrics}, 1.0), (0.0,)
    )


@pytest.mark.parametrize(
    ("trials", "report", "expected"),
    [
        (
            [a_round(gain=0.4, gain_se=0.1), a_round(gain=0.103, gain_se=0.015)],
            {
                "ranking": {"architectures": 20, "spearman": 0.6, "kendall": 0.5, "p": 0.001, "with": "val_acc"},
                "verdict": {"p": 0.01, "better": True, "says": "what was found is better than random: so"},
            },
            [
                (True, "the policy learned: rewards of its children are 0.103 above those of uniform ones, with the"),
                (True, "scores rank: Spearman 0.60, Kendall 0.50 over 20 architectures, against val_acc (p = 0.001)"),
                (True, "what was found is better than random: so"),
            ],
        ),
        (
            [a_round(gain=-0.01, gain_se=0.02)],
            {
                "ranking": {"architectures": 2, "spearman": None, "kendall": None, "p": None, "with": "val_acc"},
                "verdict": {"p": None, "better": False, "says": "too few"},
            },
            [
                (False, "the policy is not shown to have learned: rewards of its children are 0.010 below those of"),
                (False, "scores are not shown to rank: undefined over 2 architectures (all equal), against val_acc"),
                (None, "too few"),
            ],
        ),
        (
            [a_round()],
            {},
            [
                (None, "whether the policy learned was not measured"),
                (None, "whether scores rank was not checked: --check-ranking 20"),
                (None, "whether what was found beats random was not measured: --retrain 4"),
            ],
        ),
    ],
)
def test_what_is_said_first(trials: list[Trial], report: dict[str, Any], expected: list[tuple[bool, str]]) -> None:
    found = verdicts(SPACE, trials, [SPACE.arch([3] * 6)], report)
    assert [each["shown"] for each in found] == [shown for shown, _ in expected]
    assert all(each["says"].startswith(says) for each, (_, says) in zip(found, expected, strict=True))
    assert [each["about"] for each in found] == ["policy", "ranking", "random"]
    without_a_policy = verdicts(SPACE, [], [SPACE.arch([0] * 6)], report)
    assert [each["about"] for each in without_a_policy] == ["collapse", "ranking", "random"]
    assert without_a_policy[0]["says"].startswith("the search may have collapsed: 100% of the operations")


def test_a_policy_that_prefers_skip_connections_is_said() -> None:
    """By the shares of options, though candidates were kept from having as many."""
    skip = [[0.1, 0.6, 0.1, 0.1, 0.1]] * 6
    for shares, about in ((skip, ["policy", "collapse"]), ([row[::-1] for row in skip], ["policy"])):
        last = a_round(gain=0.1, gain_se=0.01)
        assert last.evaluation is not None
        noted = dataclasses.replace(last.evaluation, notes={"frequencies": shares})
        trial = dataclasses.replace(last, evaluation=noted)
        found = verdicts(SPACE, [trial], [SPACE.arch([3] * 6)], {})
        assert [each["about"] for each in found][:-2] == about
        assert ("operations that the policy prefers have no weights" in found[1]["says"]) == (len(about) == 2)


def test_verdict_without_test_data_shows_nothing() -> None:
    found, random = metrics([0.9] * 5, "val_acc"), metrics([0.8] * 5, "val_acc")
    result = verdict(found, random, Objective.parse("val_acc"))
    assert not result["better"] and not result["held_out"] and result["p"] == pytest.approx(1 / 252)
    assert "without test images it is judged by those that the search chose by" in result["says"]


def test_verdict_on_losses() -> None:
    found, random = metrics([0.1] * 4, "test_loss"), metrics([0.2] * 4, "test_loss")
    assert verdict(found, random, Objective.parse("val_loss"))["better"]
    assert not verdict(random, found, Objective.parse("val_loss"))["better"]
