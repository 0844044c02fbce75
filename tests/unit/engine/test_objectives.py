"""Searches with several objectives: what is stored, kept, refused and gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool import api
from nastool.cli.live.stored import Followed
from nastool.cli.live.text import line
from nastool.core import pareto
from nastool.core.evaluator import Evaluator, Report
from nastool.core.values import Evaluation, Objective, Proposal, Trial
from nastool.engine import ranking
from nastool.engine.executors.inline import Inline
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.nets import checkpoints
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.nsga2 import NSGA2
from tests.helpers import made_runs
from tests.helpers.running import Run
from tests.unit.cli.test_live import drawn

SPACE = NasBench201()
BOTH = ("--objective", "val_acc", "--objective", "latency_ms")


@pytest.fixture
def table(tmp_path: Path) -> list[str]:
    """A made-up table with a file of latencies beside it, as options."""
    rng = np.random.default_rng(0)
    arch = np.array([arch.choices for arch in SPACE.members()], dtype=np.uint8)
    work = np.array([0, 0.1, 1, 3, 0.5])[arch].sum(axis=1)
    np.savez(tmp_path / "t.npz", arch=arch, val200=90 - 30 * np.exp(-work / 4) + rng.normal(0, 0.5, len(arch)))
    np.savez(tmp_path / "l.npz", gpu=1 + work + rng.random(len(arch)), fpga=2 * work + 1)
    options = {"file": tmp_path / "t.npz", "beside": tmp_path / "l.npz", "columns": "latency_ms=gpu"}
    return ["--evaluator", "table", *(word for pair in options.items() for word in ("-E", f"{pair[0]}={pair[1]}"))]


def test_a_search_with_two(run: Run, table: list[str], tmp_path: Path) -> None:
    """Nothing but the objectives is said: nsga2 is taken; the best is the best by the first."""
    (best,) = run("search", *table, *BOTH, "-n", "40", "--no-report", "-o", "a").accepted()
    study = Study.read(tmp_path / "a")
    assert study.strategy == "nsga2" and study.objectives == (Objective.parse("val_acc"), Objective.parse("latency_ms"))
    for trial in study.trials:
        assert trial.trial.losses == (-trial.metrics["val_acc"], trial.metrics["latency_ms"])
    assert study.best is not None and best["trial"] == study.best.id
    assert best["metrics"]["val_acc"] == max(trial.metrics["val_acc"] for trial in study.trials)
    assert study.best == study.front()[0]
    view = Followed(tmp_path / "a").view()
    shown = f"front of {len(study.front())}"
    assert shown in line(view) and any(shown in row for row in drawn([view], 100))
    again = run("search", *table, *BOTH, "-n", "60", "--no-report", "-o", "a")
    assert again.code == 0 and "continuing" in again.err
    longer = Study.read(tmp_path / "a")
    whole = run("search", *table, *BOTH, "-n", "60", "--no-report", "-o", "b")
    assert whole.code == 0
    assert [t.arch for t in longer.trials] == [t.arch for t in Study.read(tmp_path / "b").trials], "it goes on exactly"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([*BOTH, "-s", "local-search"], "strategy local-search looks at one objective alone, and 2 are given"),
        ([*BOTH, "-s", "reinforce"], "take a strategy that weighs several: bo, evolution, external, nsga2, random"),
        (["--objective", "val_acc", "--objective", "val_acc:min"], "objective 'val_acc' is given twice; keep one"),
        (["--objective", "val_acc", "--objective", "fpga:min"], "no metric 'fpga'"),
        (["--objective", "val_acc", "--objective", "energy"], "write METRIC:max or METRIC:min"),
    ],
    ids=str,
)
def test_mistakes(run: Run, table: list[str], tmp_path: Path, more: list[str], said: str) -> None:
    run("search", *table, *more, "-o", "a").refused(said)
    assert not (tmp_path / "a" / "run.db").exists()


def test_another_order_is_another_search(run: Run, table: list[str], tmp_path: Path) -> None:
    assert run("search", *table, *BOTH, "-n", "12", "--no-report", "-o", "a").code == 0
    turned = ("--objective", "latency_ms", "--objective", "val_acc")
    run("search", *table, *turned, "-n", "12", "-o", "a").refused("objective")


def test_a_configuration_file_names_one_or_several(run: Run, table: list[str], tmp_path: Path) -> None:
    for text, strategy in (("[val_acc, latency_ms]", "nsga2"), ("latency_ms", "evolution")):
        (tmp_path / "c.yaml").write_text(f"search:\n  objective: {text}\n")
        outcome = run("search", *table, "--config", "c.yaml", "--dry-run")
        assert outcome.code == 0 and f"strategy: {strategy}\n" in outcome.err, outcome.err
    (tmp_path / "c.yaml").write_text("search:\n  objective: latency_ms\n  stop-when: latency_ms<=9\n")
    assert run("search", *table, "--config", "c.yaml", "--dry-run").code == 0
    (tmp_path / "c.yaml").write_text("search:\n  objective: [1]\n")
    run("search", *table, "--config", "c.yaml").refused("objective must be text")


def test_from_python(table: list[str], tmp_path: Path) -> None:
    options = dict(word.split("=", 1) for word in table if "=" in word)
    given: dict[str, Any] = {"evaluator": "table", "evaluator_options": options, "report": False}
    study = api.search("random", objective=["val_acc", "latency_ms"], trials=30, out=tmp_path / "a", **given)
    front = study.front()
    assert [trial.id for trial in front] == pareto.front([trial.trial.losses for trial in study.trials])
    one = api.search("random", objective="latency_ms", trials=3, out=tmp_path / "b", **given)
    assert one.best is not None and [trial.id for trial in one.front()] == [one.best.id]
    assert json.loads((tmp_path / "a" / "best.json").read_text())["trial"] == front[0].id


def test_what_is_said_of_the_front(run: Run, table: list[str], tmp_path: Path) -> None:
    search = run("search", *table, *BOTH, "-n", "40", "-o", "a", "--text")
    study = Study.read(tmp_path / "a")
    front = study.front()
    assert search.code == 0 and f"front: {len(front)} trials" in search.err and "(by val_acc)" in search.err
    assert [line["trial"] for line in run("top", "a", "--front").accepted()] == [trial.id for trial in front]
    assert f"the front, {len(front)} trials, by val_acc, highest first" in run("top", "a", "--front", "--text").out
    document = json.loads((tmp_path / "a" / "best.json").read_text())["front"]
    assert [found["trial"] for found in document] == [trial.id for trial in front]
    assert document[-1]["latency_ms"] == min(trial.metrics["latency_ms"] for trial in study.trials)
    (status,) = run("status", "a").accepted()
    assert status["front"] == document and status["objective"] == ["val_acc:max", "latency_ms:min"]
    text = run("status", "a", "--text").out
    assert "objectives val_acc:max  latency_ms:min" in text and f"{len(front)} trials that no other beats" in text
    run("top", "a", "--front", "-k", "3").refused("leave out -k")
    run("top", "-", "--front").refused("is no run folder")


def test_another_network_than_the_best(run: Run, table: list[str], tmp_path: Path) -> None:
    assert run("search", *table, *BOTH, "-n", "40", "-o", "a", "--no-report").code == 0
    study = Study.read(tmp_path / "a")
    bound = f"latency_ms<={sorted(trial.metrics['latency_ms'] for trial in study.front())[1] + 1e-6:.9f}"
    (shown,) = run("show", "a", "--pick", bound).accepted()
    assert shown["trial"] == study.front()[-2].id
    knee = study.knee()
    (shown,) = run("show", "a", "--pick", "knee").accepted()
    assert knee is not None and shown["trial"] == knee.id
    assert run("export", "a", "--pick", "knee", "--to", "python", "--input", "3x32x32").code == 0
    path = api.export(tmp_path / "a", "python", tmp_path / "n.py", pick=bound, input="3x32x32")
    assert path.read_text() != (tmp_path / "model.py").read_text()
    run("show", "a", "--pick", "latency_ms<=0.1").refused("no trial meets it: latency_ms is from")
    run("show", "a", "--pick", "knee", "--trial", "1").refused("both --trial and --pick")
    run("show", "a/best.json", "--pick", "knee").refused("is no run folder")
    run("retrain", "a", "--pick", "latency_ms<=0.1").refused("no trial meets it")


def test_random_search_beside_it_is_compared_by_hypervolume(run: Run, table: list[str], tmp_path: Path) -> None:
    assert run("search", *table, *BOTH, "-n", "40", "-o", "a", "--no-report", "--with-baseline").code == 0
    facts = json.loads((tmp_path / "a" / "best.json").read_text())["baseline"]
    studies = [Study.read(tmp_path / "a"), Study.read(tmp_path / "a" / "baseline")]
    losses = [[trial.trial.losses for trial in study.trials] for study in studies]
    box = pareto.Box.around(losses[0] + losses[1])
    assert facts["objective"] == "hypervolume:max" and facts["search"] == box.share(losses[0]) != facts["random"]
    assert facts["difference"] == pytest.approx(box.share(losses[0]) - box.share(losses[1]))


# --- checkpoints


class Weighed(Evaluator):
    """Leaves a checkpoint; the second metric pulls against the first, but for every fourth trial."""

    name = "weighed"
    inline = True

    def prepare(self) -> None: ...

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        assert self.workdir is not None
        path = self.workdir / checkpoints.name_of(trial_id)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        good = trial_id / 100
        return Evaluation({"val_acc": good, "params": 99 if trial_id % 4 == 3 else good * 50}, 0.0, str(path.name))


def test_the_front_keeps_its_checkpoints(tmp_path: Path) -> None:
    """However few are to be kept, and after it was continued."""
    config = made_runs.config_of("nsga2", SPACE, "weighed", 0)
    facts = {"config": config, "objective": ["val_acc:max", "params:min"]}
    evaluator = Weighed(SPACE)
    evaluator.workdir = tmp_path
    for trials in (5, 9):
        database = tmp_path / "run.db"
        with Store.create(database, facts) if Store.is_blank(database) else Store.open(database) as store:
            strategy = NSGA2(SPACE, population=2)
            search = Search(store, strategy, Inline(evaluator), store.objectives, 0, trials, tmp_path, keep=2)
            search.restore()
            search.run()
            kept = {t.id for t in store.trials() if t.evaluation is not None and t.evaluation.checkpoint is not None}
    assert kept == {0, 1, 2, 4, 5, 6, 8}, "all but those that another dominates"
    assert search.best is not None and search.best.id == 8
    assert {trial.id for trial in search.front} == kept


def test_patience_ends_when_the_front_stands_still(run: Run, table: list[str], tmp_path: Path) -> None:
    """Not when the best by the first objective does."""
    assert run("search", *table, *BOTH, "--patience", "6", "-o", "a", "--no-report", "--seed", "1").code == 0
    losses = [trial.trial.losses for trial in Study.read(tmp_path / "a").trials]
    joined = [i for i in range(len(losses)) if i in pareto.front(losses[: i + 1])]
    gaps = np.diff([*joined, len(losses)])
    assert gaps[-1] - 1 == 6 and gaps[:-1].max(initial=0) <= 6
    best = [min(each[0] for each in losses[: i + 1]) for i in range(len(losses))]
    assert best[-1] == best[-9], "the best has stood still for longer"


def test_along_a_front() -> None:
    """From end to end; what is trained again at the end of a search with shared weights, say."""
    assert ranking.along(range(9), 3) == [0, 4, 8]
    assert ranking.along(range(9), 1) == [0] and ranking.along([], 3) == [] and ranking.along(range(2), 5) == [0, 1]


def test_what_is_trained_again_lies_along_the_front(tmp_path: Path) -> None:
    facts = {"config": made_runs.config_of("nsga2", SPACE, "weighed", 0), "objective": ["val_acc:max", "params:min"]}
    archs = [SPACE.arch([i, 0, 1, 2, 3, 3]) for i in range(5)]
    with Store.create(tmp_path / "run.db", facts) as store:
        store.begin()
        for i, losses in enumerate([(-0.9, 9.0), (-0.8, 8.0), (-0.7, 8.5), (-0.6, 7.0), (-0.5, 3.0)]):
            store.add(Trial(i, Proposal(archs[i])))
            store.finish(Trial(i, Proposal(archs[i]), "done", Evaluation({}, 1.0), losses), i)
        store.commit()
        assert [trial.id for trial in ranking.derive(store, SPACE, 2)] == [0, 4]
        assert [trial.id for trial in ranking.derive(store, SPACE, 9)] == [0, 1, 3, 4, 2]


@pytest.mark.parametrize("strategy", ["random", "evolution"])
def test_equivalents_are_measured_apart_where_one_may_cost_less(
    run: Run, table: list[str], tmp_path: Path, strategy: str
) -> None:
    few = ("--limit", "latency_ms<=2.2", "-n", "40", "--no-report", "-s", strategy)
    forms = []
    for out, objectives in (("one", BOTH[:2]), ("two", BOTH)):
        assert run("search", *table, *objectives, *few, "-o", out).code == 0
        archs = [trial.arch for trial in Study.read(tmp_path / out).trials]
        assert len(set(archs)) == len(archs)
        forms.append(len(archs) - len({SPACE.canonical(arch) for arch in archs}))
    assert forms[0] == 0 < forms[1]
