"""Runs with several objectives: their figures, their page, and compared with others."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from nastool.analysis import report
from nastool.analysis.comparison import gather as gathering
from nastool.analysis.comparison.compare import compare
from nastool.analysis.figures import kinds, output
from nastool.core import pareto
from nastool.core.errors import InputError
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.config import RunConfig
from nastool.engine.store import Store
from nastool.engine.study import Study
from tests.helpers import made_runs

VALUES: list[float | str | None] = [0.5, 0.9, 0.8, "failed", 0.6, 0.95, 0.3, None]
LATENCIES = [9.0, 9.0, 4.0, 0.0, 2.0, 20.0, 3.0, 0.0]
FRONT = [5, 1, 2, 4]


@pytest.fixture
def study() -> Study:
    return made_runs.with_latency(made_runs.study(VALUES), LATENCIES)


def test_the_front_and_its_knee(study: Study) -> None:
    assert [trial.id for trial in study.front()] == FRONT
    knee = study.knee()
    assert knee is not None and knee.id == 1
    assert study.best is not None and study.best.id == 5 == study.pick("latency_ms<=20").id
    assert study.pick("latency_ms<=4", "val_acc>=70%").id == 2 and study.pick("knee").id == 1
    alone = made_runs.study([0.1, 0.3])
    assert [trial.id for trial in alone.front()] == [1] and alone.knee() is None
    assert made_runs.study([None]).front() == []
    for wanted, said in (
        (("latency_ms<=1",), "no trial meets it: latency_ms is from 2 to 20"),
        (("latency_ms<=2", "val_acc>=0.9"), "no trial meets all of these"),
        (("latency<=2",), "no metric 'latency'; did you mean 'latency_ms'?"),
        (("fast",), "write 'METRIC<=VALUE'"),
        (("knee", "val_acc>=0.9"), "stands alone"),
    ):
        with pytest.raises(InputError, match=re.escape(said)):
            study.pick(*wanted)


def test_the_picture_leads_to_the_trials(study: Study) -> None:
    ((_, drawn),) = kinds.draw(kinds.KINDS["front"], [study])
    assert drawn.caption.startswith("4 of 6 trials are not beaten by another in both")
    assert "Its knee, trial 1," in drawn.caption
    text = output.inline(drawn, "run2-front-")
    assert {f'href="#run2-trial-{number}"' for number in FRONT} == set(re.findall(r'href="#run2-trial-\d+"', text))
    assert "<title>trial 5</title>" in text and "_blank" not in text
    assert list(kinds.draw(kinds.KINDS["front"], [made_runs.study([0.1, 0.2])])) == []


def test_hypervolume_over_trials(study: Study) -> None:
    box = pareto.Box.around([trial.trial.losses for trial in study.trials if trial.trial.losses])
    assert box.reference == (-0.3, 20.0) and box.ideal == (-0.95, 2.0)
    found = box.so_far([trial.trial.losses for trial in study.finished])
    assert len(found) == 7 and found == sorted(found) and found[2] == found[3], "the failed one adds nothing"
    front = [(-0.95, 20.0), (-0.9, 9.0), (-0.8, 4.0), (-0.6, 2.0)]
    assert found[-1] == pytest.approx(pareto.hypervolume(front, box.reference) / (0.65 * 18))
    ((_, drawn),) = kinds.draw(kinds.KINDS["hypervolume"], [study])
    assert drawn.caption.endswith("Reference point: val_acc 0.3000, latency_ms 20.")
    assert pareto.Box((1.0, 2.0), (1.0, 3.0)).share([(1.0, 2.0)]) == 0, "all are equal in one"


def test_the_page_lists_the_front(study: Study) -> None:
    page = report.html([study])
    assert "optimising val_acc (max), latency_ms (min)" in page
    assert "4 trials that no other beats in all of" in page
    for number in FRONT:
        assert f'<a href="#drawing-{number}">trial {number}</a>' in page and f'id="drawing-{number}"' in page
    assert page.count(">the knee<") == 1 and "best by val_acc" in page and "Architectures of the front" in page
    assert "The front" not in report.html([made_runs.study([0.1, 0.2])])


def test_three_objectives_say_what_is_missing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> float:
        raise InputError("moocore is missing")

    monkeypatch.setattr(pareto, "_of_many", missing)
    third = study.objectives + made_runs.study([0.1], objective="params:min").objectives
    trials = tuple(
        replace(
            trial,
            objectives=third,
            trial=replace(trial.trial, losses=trial.trial.losses and (*trial.trial.losses, trial.id - 9.0)),
        )
        for trial in study.trials
    )
    ranked = tuple(trials[trial.id] for trial in study.ranked)
    page = report.html([replace(study, objectives=third, trials=trials, ranked=ranked)])
    assert "No hypervolume: moocore is missing." in page and "not beaten by another in all objectives" in page


# --- compared


def made(folder: Path, strategy: str, seed: int, losses: list[tuple[float, ...]], objectives: list[str]) -> Path:
    config = RunConfig.resolve((strategy, {}), ("nasbench201", {}), ("table", {"file": "t.npz"}), seed, objectives)
    arch = config.make_space().arch([0] * 6)
    folder.mkdir(parents=True)
    facts = {"config": config.identity, "objective": objectives, "fingerprint": "f", "origin": {}}
    with Store.create(folder / "run.db", facts) as store:
        store.begin()
        store.put("trials", len(losses))
        for i, each in enumerate(losses):
            store.add(Trial(i, Proposal(arch)))
            done = Trial(i, Proposal(arch), "done", Evaluation({"val_acc": -each[0]}, 1.0), each)
            store.finish(done if each[0] < 9 else Trial(i, Proposal(arch), "failed", error="no"), i)
        store.put("final", {"trials": len(losses), "exhausted": False, "document": {"metrics": {}, "key": "k"}})
        store.commit()
    return folder


def test_compared_by_hypervolume(tmp_path: Path) -> None:
    """In one box around all runs, which is said."""
    both = ["val_acc:max", "latency_ms:min"]
    good = [made(tmp_path / f"a{s}", "nsga2", s, [(-0.5, 5.0), (99.0, 0.0), (-0.8, 2.0)], both) for s in range(2)]
    bad = [made(tmp_path / f"b{s}", "random", s, [(-0.2, 9.0), (-0.3, 8.0), (-0.8, 7.0)], both) for s in range(2)]
    gathered = gathering.gather([*good, *bad])
    first, *_ = gathered.methods
    assert first.name == "nsga2" and str(gathered.runs[0].objective) == "hypervolume:max"
    shares = [(0.3 * 4) / (0.6 * 7), math.inf, (0.6 * 7) / (0.6 * 7)]
    assert -first.runs[0].losses == pytest.approx([shares[0], -math.inf, shares[2]])
    assert first.runs[0].failed == 1
    assert any("reference point val_acc 0.2000, latency_ms 9" in note for note in gathered.notes)
    pair = compare(gathered, ["trials"]).sections[0].pairs[-1][0]
    assert (pair.first, pair.second) == ("nsga2", "random") and pair.difference is not None


def test_different_objectives_are_not_compared(tmp_path: Path) -> None:
    first = made(tmp_path / "a", "nsga2", 0, [(-0.5, 5.0)], ["val_acc:max", "latency_ms:min"])
    other = made(tmp_path / "b", "nsga2", 0, [(-0.5, 5.0)], ["val_acc:max", "params:min"])
    for anyway in (False, True):
        with pytest.raises(InputError, match="objective is val_acc:max, latency_ms:min, not val_acc:max, params:min"):
            gathering.gather([first, other], anyway=anyway)
