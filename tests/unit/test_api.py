"""nastool from Python."""

from __future__ import annotations

import inspect
import math
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest

import nastool
from nastool import api, cli
from nastool.core.errors import InputError, NastoolError
from nastool.core.values import Trial
from nastool.engine import arguments
from nastool.engine import search as runner
from nastool.engine.command_options import SearchOptions
from nastool.engine.events import Ended, Event, RunBegun, TrialFinished, TrialsBegun, TrialsEnded
from nastool.engine.study import Study
from tests.helpers.running import Run

TINY: dict[str, Any] = {
    "space": "nasbench201",
    "data": "digits",
    "epochs": 1,
    "scale": {"channels": 4, "cells": 1},
    "evaluator_options": {"train_size": 60},
    "device": "cpu",
}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (api.search, "search"),
        (api.resume, "resume"),
        (api.finish, "finish"),
        (api.evaluate, "eval"),
        (api.retrain, "retrain"),
        (api.predict, "predict"),
        (api.ensemble, "ensemble"),
    ],
)
def test_every_option_of_the_command(function: Callable[..., object], name: str) -> None:
    """And nothing else but what only a program can say."""
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    flags = {p.name for p in command.params if isinstance(p, click.Option)} - {"dry_run", "json_flag", "config"}
    parameters = inspect.signature(function).parameters.values()
    arguments = {p.name for p in parameters} - {"architectures", "architecture", "run", "runs", "model", "images"}
    assert arguments - flags == {"on_event", "stop"} & arguments and flags <= arguments
    documented = inspect.getdoc(function) or ""
    for argument in arguments:
        assert f"    {argument}: " in documented or f" {argument}, " in documented or f", {argument}: " in documented


def test_light_to_import() -> None:
    """The command line begins with it."""
    script = "import sys, nastool; print(any(name in sys.modules for name in ('numpy', 'torch', 'click')))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
    assert {"search", "evaluate", "retrain", "load", "Study"} <= set(dir(nastool))
    with pytest.raises(AttributeError, match="nonsense"):
        nastool.nonsense  # noqa: B018


def test_search_as_on_the_command_line(here: Path, run: Run, macro_table: str) -> None:
    options: dict[str, Any] = {
        "strategy": "evolution",
        "strategy_options": {"population": 5, "dedup": False},
        "space": "nasbench-macro",
        "evaluator": "table",
        "evaluator_options": {"file": macro_table},
        "trials": 30,
        "seed": 3,
        "report": False,
    }
    study = nastool.search(**options, out="python")
    recorded = study.provenance["command"]
    assert recorded[:2] == ["nastool", "search"]
    again = run(*recorded[1:])
    assert "already has its 30 trials" in again.err  # what is recorded means the same run
    (line,) = run(*[word.replace("python", "shell") for word in recorded[1:]]).accepted()
    shell = nastool.Study.read("shell")
    assert [trial.arch for trial in shell.trials] == [trial.arch for trial in study.trials]
    assert study.document is not None and line["metrics"] == study.document["metrics"]
    longer = nastool.search(**{**options, "trials": 40}, out="python")
    assert [trial.arch for trial in longer.trials[:30]] == [trial.arch for trial in study.trials]
    assert len(longer.trials) == 40


def test_trials_as_a_list_and_as_columns(here: Path, macro_table: str) -> None:
    study = nastool.search(
        strategy="bo", space="nasbench-macro", evaluator="table", evaluator_options={"file": macro_table}, trials=25,
        out="a", report=False,
    )  # fmt: skip
    columns = study.columns()
    assert {len(column) for column in columns.values()} == {25}
    assert columns["trial"] == list(range(25))
    assert columns["val_acc"] == [trial.value for trial in study.trials] == [t.metrics["val_acc"] for t in study.trials]
    assert [key for key in columns if key.startswith("choice.")] == [f"choice.{d.name}" for d in study.space.decisions]
    assert columns["expected"][:20].count(None) >= 1 and columns["expected"][-1] is not None
    best = max(trial.value for trial in study.trials if trial.value is not None)
    assert study.best is not None and study.best.value == best == study.best_so_far()[-1]
    assert np.all(np.diff(study.best_so_far()) >= 0)
    assert "val_acc" in repr(study.best) and "finished" in repr(study)


def test_script_without_main_guard(here: Path) -> None:
    """Workers do not run the caller's script again."""
    options = {**TINY, "strategy": "random", "trials": 2, "workers": 2, "out": "a", "report": False}
    Path("script.py").write_text(
        f"print('begun')\nimport nastool\nstudy = nastool.search(**{options!r})\n"
        "print(study.state, len(study.trials), nastool.load(study).predict is not None)\n"
    )
    result = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert result.stdout.splitlines() == ["begun", "finished 2 True"], result.stderr


@pytest.mark.usefixtures("inline", "one_thread")
def test_train_evaluate_retrain(here: Path) -> None:
    study = nastool.search(**TINY, strategy="random", trials=1, out="a", report=False)
    study = nastool.resume("a", trials=2, report=False)  # with the data and scale that were arguments
    assert study.document is not None and len(study.trials) == 2
    first, second = nastool.evaluate([study.path, study.line(study.trials[0])], evaluator_options={"train_size": 60})
    assert first["metrics"]["test_acc"] == second["metrics"]["test_acc"]
    assert nastool.evaluate(study.document)[0]["key"] == first["key"]
    final = nastool.retrain("a", seeds=[4, 5], epochs=1, device="cpu", report=False)
    assert final.document is not None and final.document["seeds"] == [4, 5]
    by_line = nastool.retrain(study.document, seeds=4, epochs=1, device="cpu", report=False)
    assert by_line.path.parent == Path("runs") and by_line.document is not None
    assert by_line.document["metrics"]["test_acc"] == final.document["metrics"]["test_acc"]
    model = nastool.load(final)
    assert model.predict(np.zeros((3, 1, 8, 8), np.uint8)).shape == (3, 10)
    assert repr(model) == f"<model a/retrained/best.safetensors: {model.arch.key} of nasbench201, for {model.task}>"


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"strategy": "rendom"}, "did you mean 'random'"),
        ({"trials": 0}, "trials"),
        ({"download": "yes"}, "download"),
        ({"strategy_options": {"populaton": 3}}, "population"),
        ({"log": "nowhere"}, "nowhere"),
    ],
    ids=str,
)
def test_bad_options(here: Path, options: dict[str, Any], fragment: str) -> None:
    with pytest.raises(InputError) as caught:
        nastool.search(**options)
    assert fragment in str(caught.value)
    assert not list(here.iterdir())


def test_a_failing_search(here: Path) -> None:
    with pytest.raises(NastoolError, match="failed"):
        nastool.search(**TINY, trials=2, out="a", max_failures=1, trial_timeout=0.01)


def test_interrupted(here: Path, macro_table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during a trial ends the call, and the same call goes on."""
    import signal

    finish = runner.Search._finish

    def interrupted(self: runner.Search, trial: Trial, *more: Any) -> None:
        if trial.id == 7:
            signal.raise_signal(signal.SIGINT)
        finish(self, trial, *more)

    options: dict[str, Any] = {
        "evaluator": "table",
        "evaluator_options": {"file": macro_table},
        "space": "nasbench-macro",
    }
    monkeypatch.setattr(runner.Search, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        nastool.search(**options, trials=20, out="a", report=False)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert len(nastool.Study.read("a").trials) == 8
    assert len(Path("a/trials.jsonl").read_text().splitlines()) == 8
    study = nastool.search(**options, trials=20, out="a", report=False)
    assert len(study.trials) == 20


def test_in_another_thread(here: Path, macro_table: str) -> None:
    found: list[nastool.Study] = []
    options: dict[str, Any] = {
        "evaluator": "table",
        "evaluator_options": {"file": macro_table},
        "space": "nasbench-macro",
    }
    thread = threading.Thread(target=lambda: found.append(nastool.search(**options, trials=5, out="a", report=False)))
    thread.start()
    thread.join()
    assert len(found[0].trials) == 5


def test_equal_calls_mean_the_same_folder(here: Path, macro_table: str) -> None:
    options: dict[str, Any] = {
        "evaluator": "table",
        "evaluator_options": {"file": macro_table},
        "space": "nasbench-macro",
    }
    first, second = (nastool.search(**options, trials=5, report=False) for _ in range(2))
    assert first.path == second.path and first.path.parent == Path("runs")


def test_words() -> None:
    """What is recorded as a run's command."""
    given: dict[str, Any] = {"scale": {"channels": 8, "cells": 2}, "objective": None, "seed": 4, "report": False}
    more: dict[str, Any] = {"strategy_options": {"dedup": True, "lr": 1e-3}, "log": "csv", "force": False}
    words = arguments.words("search", SearchOptions(**given, **more, download=True))
    assert shlex.join(words) == (
        "search --no-report --strategy-options dedup=true --strategy-options lr=0.001 --download "
        "--scale=channels=8,cells=2 --seed=4 --log csv"
    )


def test_events_drive_a_script(here: Path, macro_table: str) -> None:
    """A second thread reads the run meanwhile; and a callback ends it, to be continued."""
    seen: list[Event] = []
    read: list[int] = []
    begun, ended = threading.Event(), threading.Event()

    def look() -> None:
        begun.wait(60)
        while not ended.is_set():
            read.append(len(nastool.Study.read("a").trials))

    def listen(event: Event) -> None:
        seen.append(event)
        if isinstance(event, TrialFinished):
            begun.set()

    reader = threading.Thread(target=look)
    reader.start()
    options: dict[str, Any] = {
        "evaluator": "table",
        "evaluator_options": {"file": macro_table},
        "space": "nasbench-macro",
    }

    def enough() -> bool:
        return sum(isinstance(event, TrialFinished) for event in seen) >= 100

    try:
        part = nastool.search(**options, trials=300, out="a", report=False, on_event=listen, stop=enough)
    finally:
        ended.set()
        begun.set()
        reader.join()
    assert 100 <= len(part.trials) <= 101 and part.document is None
    assert read == sorted(read) and read[-1] > 0
    study = nastool.search(**options, trials=300, out="a", report=False, on_event=listen)
    assert [event.number for event in seen if isinstance(event, TrialFinished)] == list(range(300))
    kinds = [type(event) for event in seen]
    assert kinds.count(RunBegun) == 1 and kinds.count(TrialsBegun) == kinds.count(TrialsEnded) == 2
    assert isinstance(seen[-1], Ended) and seen[-1].document == study.document


def test_export_show_compare(here: Path, run: Run, macro_table: str) -> None:
    """What the commands write, as values."""
    study = nastool.search(**TINY, strategy="random", trials=1, out="a", report=False)
    notes: list[Event] = []
    assert nastool.export(study, "python", on_event=notes.append) == Path("model.py") and not notes
    run("export", "a", "--to", "python", "-o", "shell.py").accepted()
    assert Path("model.py").read_text() == Path("shell.py").read_text()
    with pytest.raises(InputError, match="exists"):
        nastool.export(study, "python")
    with pytest.raises(InputError, match="no form 'pyton'"):
        nastool.export(study, "pyton")
    untrained = nastool.export("zoo:enas-macro", "python", "zoo.py", input=(3, 32, 32))
    assert "class" in untrained.read_text()
    assert run("show", "a", "--to", "svg").out == nastool.show(study, "svg")
    assert isinstance(nastool.show(study, "png"), bytes)
    for number, strategy in enumerate(("random", "evolution")):
        options: dict[str, Any] = {
            "evaluator": "table",
            "evaluator_options": {"file": macro_table},
            "space": "nasbench-macro",
        }
        nastool.search(strategy, **options, trials=25, seed=number, out=strategy, report=False)
    found = nastool.compare(["random", Path("evolution")], over=["trials"], at=[10, 20])
    (line,) = run("compare", "random", "evolution", "--over", "trials", "--at", "10,20", "--to", "json").accepted()
    assert found == line


def _search(macro_table: str, **options: Any) -> Study:
    given: dict[str, Any] = {"strategy": "random", "space": "nasbench-macro", "evaluator": "table", "report": False}
    return nastool.search(**{**given, "evaluator_options": {"file": macro_table}, "trials": 3, **options})


def test_values_of_other_kinds(here: Path, macro_table: str) -> None:
    study = _search(macro_table, trials=np.int64(3), seed=np.int32(1), out=b"a\xff", force=np.bool_(False))
    assert len(study.trials) == 3
    assert len(_search(macro_table, evaluator_options={"file": Path(macro_table)}, out=Path("b")).trials) == 3
    for name, value in {
        "out": object(),
        "trials": lambda: 3,
        "force": 1,
        "strategy_options": 5,
        "space_options": ["layers=4"],
        "seed": [1, 2],
    }.items():
        with pytest.raises(InputError):
            _search(macro_table, **{name: value})
    with pytest.raises(InputError, match="different integers"):
        nastool.retrain(study, seeds=np.array([-1, 2]), data="digits")


def test_architectures_of_all_kinds(here: Path, macro_table: str) -> None:
    study = _search(macro_table, out="a")
    assert study.best is not None
    options: dict[str, Any] = {"evaluator": "table", "evaluator_options": {"file": macro_table}}
    line = study.line(study.best)
    (wanted,) = nastool.evaluate(line, **options)
    for same in (study, Path("a"), {**line, "mine": np.float32(0.5)}, iter([line])):
        given: Any = same
        (found,) = nastool.evaluate(given, **options)
        assert found["metrics"] == wanted["metrics"]
    assert nastool.evaluate([], **options) == []  # and does not wait for stdin
    bad: list[Any] = [study.best, None, 5, [[line]], {"a": object()}, {"a": math.nan}, ""]
    for each in bad:
        with pytest.raises(InputError):
            nastool.evaluate(each, **options)
    with pytest.raises(TypeError, match="trials"):
        nastool.evaluate([], trials=3)  # type: ignore[call-arg]


def test_searches_in_two_threads(here: Path, macro_table: str) -> None:
    """stdout belongs to all threads, so no call may borrow it."""
    before, found, problems = sys.stdout, {}, []

    def work(number: int) -> None:
        try:
            for i in range(4):
                name = f"t{number}-{i}"
                found[name] = _search(macro_table, out=name, seed=number * 10 + i, trials=40).path.name
                nastool.evaluate(name, evaluator="table", evaluator_options={"file": macro_table})
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sys.stdout is before
    assert found == {name: name for name in found}
    assert len(found) == 12


def test_a_call_prints_nothing(here: Path, macro_table: str, capsys: pytest.CaptureFixture[str]) -> None:
    _search(macro_table, out="a")
    assert capsys.readouterr().out == ""


def test_without_streams(here: Path, macro_table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pythonw."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        patched.setattr(sys, "stderr", None)
        study = _search(macro_table, out="a")
    assert study.state == "finished"
