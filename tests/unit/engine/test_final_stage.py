"""The final stage of a search: what is trained again, what comes of it, and that it survives kills and more trials."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.evaluator import Evaluator, Report
from nastool.core.values import Arch, Evaluation, Objective, Proposal, Trial
from nastool.engine import ranking
from nastool.engine.final_stage import ARMS, KEY, FinalStage, describe
from nastool.engine.search import Search
from nastool.engine.stopping import Budget, Rules, Stopping
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.nets import checkpoints
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers import made_runs
from tests.helpers.running import Run
from tests.unit.engine.test_early import Killed, OneByOne, content

SPACE = NasBench201()


def truth(arch: Arch) -> float:
    return hash(arch.choices) % 1009 / 1009


class Noisy(Evaluator):
    """Accuracies with noise that is another with each seed; leaves a file as weights would be."""

    name = "noisy"

    def prepare(self) -> None: ...

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        assert self.workdir is not None
        value = truth(proposal.arch) + (seed % 997) / 997
        file = self.workdir / checkpoints.name_of(trial_id)
        file.parent.mkdir(exist_ok=True)
        file.write_text(str(value))
        return Evaluation({"val_acc": value}, 1.0, checkpoints.name_of(trial_id))


def search(
    folder: Path, name: str = "evolution", trials: int | None = 40, dies: int | None = None, keep: int = 3, **more: Any
) -> Search:
    """Begin or go on. dies: after so many events."""
    evaluator = Noisy(SPACE)
    evaluator.workdir = folder
    rules = Rules(trials=trials, **{"final": 10, **more})
    with Store.open(folder / "run.db") as store:
        strategy = registry.make("strategy", name, SPACE, given={"seed": 1})
        executor = OneByOne(evaluator, dies)
        found = Search(store, strategy, executor, store.objectives, 0, trials, folder, keep=keep)
        found.ends = Stopping(rules, Budget(rules))
        found.finalists = lambda: [trial.id for trial in ranking.finalists(store, SPACE, ARMS)]
        found.restore()
        found.run()
    return found


def read(folder: Path) -> tuple[list[Trial], FinalStage | None]:
    with Store.read(folder / "run.db") as store:
        trials = list(store.trials())
        return trials, FinalStage.read(SPACE, store, trials)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_runs.folder(tmp_path / "run", [])


def test_the_last_trials_train_the_recommended_again_with_other_seeds(folder: Path) -> None:
    search(folder)
    trials, stage = read(folder)
    assert [trial.id for trial in trials if trial.proposal.again is not None] == list(range(30, 40))
    named = [each.trial.id for each in ranking.recommended(SPACE, trials[:30])][:5]
    assert stage is not None and list(stage.arms) == named
    for trial in trials[30:]:
        assert trial.proposal.again in named
        assert trial.proposal.arch == trials[trial.proposal.again].proposal.arch
    values = [trial.loss for trial in trials if trial.proposal.arch == trials[30].proposal.arch]
    assert len(set(values)) == len(values) > 1, "each has a seed of its own"
    means = [each.mean for each in stage.order]
    assert means[0] == min(means[:2]) and [len(each.losses) for each in stage.order[:2]] in ([4, 4], [5, 4], [4, 5])
    assert sum(len(each.losses) for each in stage.order) == 15


def test_the_result_is_the_best_mean_and_its_weights_are_there(folder: Path) -> None:
    search(folder)
    trials, stage = read(folder)
    assert stage is not None
    first = stage.order[0]
    own = [trial for trial in trials if trial.proposal.arch == first.trial.proposal.arch]
    assert first.mean == pytest.approx(sum(trial.loss for trial in own) / len(own))
    assert first.error == pytest.approx(
        math.sqrt(sum((t.loss - first.mean) ** 2 for t in own) / (len(own) - 1) / len(own))
    )
    for each in stage.order[:2]:
        assert each.trial.evaluation is not None and each.trial.evaluation.checkpoint is not None
        assert (folder / each.trial.evaluation.checkpoint).is_file()
    with Store.read(folder / "run.db") as store:
        best = ranking.best_trials(store, SPACE, 60)
        assert ranking.finalists(store, SPACE, 3) == best[:3]
    study = Study.read(folder)
    assert study.best is not None and study.best.id == best[0].id == first.trial.id
    assert [trial.id for trial in study.ranked] == [trial.id for trial in best]
    keys = [trial.proposal.arch.key for trial in best]
    assert keys[:5] == [each.trial.proposal.arch.key for each in stage.order]
    assert len(set(keys)) == len(keys) == 30, "each architecture once"
    said = stage.facts(Objective("val_acc", "max"))
    assert said["trainings"] == 10 and json.loads(json.dumps(said)) == said
    assert describe(said).startswith(f"{-first.mean:.4f}")


def test_files_beyond_the_best_and_the_finalists_go(folder: Path) -> None:
    search(folder, keep=1)
    trials, stage = read(folder)
    assert stage is not None
    there = {trial.id for trial in trials if trial.evaluation is not None and trial.evaluation.checkpoint}
    assert there <= {min(trials, key=lambda trial: trial.rank).id} | stage.trials
    assert {file.name for file in (folder / "checkpoints").iterdir()} == {
        Path(checkpoints.name_of(number)).name for number in there
    }


@pytest.mark.parametrize("name", ["random", "evolution", "bo"])
def test_killed_at_any_moment_it_goes_on_as_if_it_had_not_been(folder: Path, tmp_path: Path, name: str) -> None:
    again = Path(shutil.copytree(folder, tmp_path / "again"))
    search(folder, name)
    kills = 0
    for moment in [27, 0, 2, 1, 0, 3, 1, 2]:
        try:
            search(again, name, dies=moment)
        except Killed:
            kills += 1
    search(again, name)
    assert kills >= 6
    assert content(again) == content(folder)


def test_more_trials_search_on_and_end_with_another_stage(folder: Path, tmp_path: Path) -> None:
    """The strategy knows nothing of the first: what it asks is as in a search without."""
    search(folder, "bo")
    search(folder, "bo", 60)
    trials, stage = read(folder)
    assert [trial.id for trial in trials if trial.proposal.again is not None] == [*range(30, 40), *range(50, 60)]
    assert stage is not None and stage.begins == 50
    other = made_runs.folder(tmp_path / "other", [])
    search(other, "bo", 40, final=0)
    plain, none = read(other)
    assert none is None
    new = [trial for trial in trials if trial.proposal.again is None]
    assert [trial.proposal.arch for trial in new[:30]] == [trial.proposal.arch for trial in plain[:30]]
    assert len({trial.proposal.arch for trial in new}) == 40


def test_it_is_over_once_something_is_found_after_it(folder: Path) -> None:
    search(folder)
    search(folder, trials=45, final=0)
    trials, stage = read(folder)
    assert stage is None and len(trials) == 45
    with Store.read(folder / "run.db") as store:
        assert store.get(KEY) is not None
        assert ranking.best_trials(store, SPACE, 1)[0].loss == min(trial.loss for trial in trials)


def test_another_length_makes_no_result_worse(folder: Path) -> None:
    search(folder)
    before = read(folder)
    search(folder, final=12)
    assert read(folder)[0] == before[0]
    after = read(folder)[1]
    assert after is not None and before[1] is not None and after.order == before[1].order


@pytest.mark.parametrize("rules", [{"patience": 6}, {"patience": 6, "trials": None}])
def test_it_follows_whatever_ended_the_search(folder: Path, rules: dict[str, Any]) -> None:
    found = search(folder, **rules)
    trials, stage = read(folder)
    assert stage is not None and stage.begins == len(trials) - 10 < 30
    assert found.ends.reason == "patience" and "(--patience)" in found.ends.describe(len(trials))


def test_it_follows_a_strategy_that_has_nothing_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nastool.strategies.random_search import RandomSearch

    propose = RandomSearch.propose
    monkeypatch.setattr(RandomSearch, "propose", lambda self: propose(self) if self.asked < 15 else None)
    search(folder, "random")
    trials, stage = read(folder)
    assert stage is not None and (stage.begins, len(trials)) == (15, 25)


def test_what_fails_again_is_not_the_best() -> None:
    archs = [SPACE.arch((3, 3, 3, 3, 3, i)) for i in range(3)]
    trials = [Trial(i, Proposal(arch), "done", Evaluation({}, 1.0), (0.25 * i,)) for i, arch in enumerate(archs)]
    stage = FinalStage(SPACE, 3, 4, [0, 1, 2], {})
    stage.take(trials)
    assert stage.order == []
    number = 3
    while (proposal := stage.ask(number)) is not None:
        trial = Trial(number, proposal, "failed", error="no memory")
        if proposal.again != 0:
            trial = Trial(number, proposal, "done", Evaluation({}, 1.0), trials[proposal.again or 0].losses)
        stage.tell(trial)
        number += 1
    assert number == 7
    assert [each.trial.proposal.arch for each in stage.order] == [archs[1], archs[0], archs[2]]
    said = stage.facts(Objective("val_acc", "max"))
    failed = said["architectures"]
    assert isinstance(failed, list) and (failed[1]["mean"], failed[1]["error"]) == (None, None)
    assert describe(said) == "-0.2500 ± 0.0000 of 4 trainings, the next best -0.5000 of 1 training"


@pytest.mark.parametrize("damage", [{"arms": [99]}, {"arms": "ab"}, {"begins": "x"}, {"rules": None, "more": 1}])
def test_a_damaged_one_is_named(folder: Path, damage: dict[str, object]) -> None:
    search(folder, trials=20)
    with Store.open(folder / "run.db") as store:
        found = {**store.get(KEY), **damage}
        if "more" in damage:
            del found["begins"]
        store.write({KEY: found})
    with pytest.raises(InputError, match=r"damaged: its final stage is none"):
        read(folder)


class TestCommands:
    def args(self, table: str, *more: str) -> Sequence[str]:
        return [
            "search",
            "-s",
            "bo",
            "--space",
            "nasbench201",
            "--evaluator",
            "table",
            "-E",
            f"file={table}",
            "--out",
            "a",
            "--no-report",
            *more,
        ]

    def test_from_search_to_top(self, run: Run, nasbench201_table: str) -> None:
        outcome = run(*self.args(nasbench201_table, "-n", "24", "--final", "8"))
        (line,) = outcome.accepted()
        assert "final stage: the 5 most promising architectures are trained again" in outcome.err
        said = line["final_stage"]
        assert said["trainings"] == 8 and "recommended" not in line
        first = said["architectures"][0]
        assert (first["trial"], first["key"]) == (line["trial"], line["key"])
        top = run("top", "a", "-k", "6").accepted()
        assert [each.get("final_stage") for each in top] == [*said["architectures"], None]
        heading, heads, *_ = run("top", "a", "-k", "6", "--text").out.splitlines()
        assert "those of the final stage by their means, others by val_acc" in heading and "mean" in heads
        assert run("status", "a").accepted()[0]["best"]["trial"] == line["trial"]
        assert "again" in Study.read("a").columns()
        assert "already has its 24 trials" in run(*self.args(nasbench201_table, "-n", "24", "--final", "8")).err
        run("resume", "a", "-n", "30").accepted()
        assert [t.id for t in read(Path("a"))[0] if t.proposal.again is not None] == list(range(16, 30))
        run("finish", "a").accepted()
        assert json.loads(Path("a/best.json").read_text())["final_stage"]["trainings"] == 6

    @pytest.mark.parametrize(
        ("more", "why"),
        [
            (["-n", "8", "--final", "8"], "of 8 trials some have to search"),
            (["--final", "2", "--objective", "val_acc", "--objective", "seconds"], "one objective"),
            (["--final", "2", "--fidelity", "asha"], "some end early"),
        ],
    )
    def test_refused(self, run: Run, nasbench201_table: str, more: list[str], why: str) -> None:
        run(*self.args(nasbench201_table, *more)).refused("--final", why)

    def test_the_baseline_has_as_many_trials(self, run: Run, nasbench201_table: str) -> None:
        (line,) = run(
            *self.args(nasbench201_table, "-n", "90", "--patience", "9", "--final", "4", "--with-baseline")
        ).accepted()
        trials, stage = read(Path("a"))
        assert stage is not None and len(trials) == stage.begins + 4 < 90
        assert line["baseline"]["trials"] == len(trials)

    @pytest.mark.parametrize(
        ("strategy", "why"), [("network-morphism", "says itself how each network is trained"), ("enas", "--retrain K")]
    )
    def test_refused_by_strategies(self, run: Run, strategy: str, why: str) -> None:
        run("search", "-s", strategy, "--final", "2", "--out", "a").refused("--final", why)
