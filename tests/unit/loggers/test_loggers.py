"""`search --log`: every trial arrives once, whatever happens to the search or to the logger."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool.core.errors import InputError
from nastool.core.logger import FinishedTrial, LoggedRun
from nastool.core.values import Evaluation, Objective, Proposal, Trial
from nastool.engine.logs import given
from nastool.engine.store import Store
from nastool.loggers.tensorboard import TensorBoard
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.plugins import SLEEPY, install
from tests.helpers.running import counts

NASTOOL = [sys.executable, "-m", "nastool"]

DIARY = '''
import json
from nastool.core.logger import Logger

class Diary(Logger):
    """Writes down every call."""
    name = "diary"

    def __init__(self, *, fail: str = "", at: int = 0, file: str = "diary.jsonl"):
        super().__init__()
        self.fail, self.at, self.file = fail, at, file

    def write(self, what, **facts):
        with open(self.path, "a") as file:
            file.write(json.dumps({"what": what, **facts}) + "\\n")
        if self.fail == what and facts.get("number", self.at) == self.at:
            raise RuntimeError("made to fail")

    def require(self):
        if self.fail == "require":
            from nastool.core.errors import InputError
            raise InputError("no such package")

    def open(self, run):
        self.path = run.folder / self.file
        held = 0
        if self.path.exists():
            lines = [json.loads(line) for line in self.path.read_text().splitlines()]
            held = sum(line["what"] == "trial" for line in lines)
        self.write("open", id=run.id, options=run.options, name=run.name, decisions=len(run.decisions))
        return held

    def report(self, trial_id, step, metrics, when):
        self.write("report", trial=trial_id, step=step, **metrics)

    def trial(self, finished):
        self.write("trial", number=finished.number, id=finished.trial.id, value=finished.value, best=finished.best,
                   finished=finished.when, metrics=finished.metrics)

    def close(self, document):
        self.write("close", key=document and document["key"])
'''

WANDB = """
import json, os

class Settings:
    def __init__(self, **given): self.given = given

class Run:
    def __init__(self, given):
        self.given, self.summary = given, Summary(self)
        self.step = 0
        if os.path.exists("wandb.jsonl"):
            self.step = sum("log" in line for line in map(json.loads, open("wandb.jsonl")))
        self.write(init={k: v for k, v in given.items() if k != "settings"})
    def write(self, **event):
        with open("wandb.jsonl", "a") as file: file.write(json.dumps(event) + "\\n")
    def log(self, values, step, commit): self.write(log=values, step=step)
    def finish(self): self.write(finish=True)

class Summary(dict):
    def __init__(self, run): self.run = run
    def update(self, values): self.run.write(summary=values)
    def __setitem__(self, key, value): self.run.write(summary={key: value})

def init(**given): return Run(given)
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    points = {
        "nastool.evaluators": "sleepy = sleepy_plugin:Sleepy\nsleepy-inline = sleepy_plugin:SleepyInline",
        "nastool.loggers": "diary = sleepy_plugin:Diary",
    }
    return {**install(tmp_path / "plugin", "sleepy_plugin", SLEEPY + DIARY, points), "PYTHONHASHSEED": "0"}


def search(environment: dict[str, str], folder: Path, *more: object, code: int = 0, inline: bool = True) -> str:
    """stderr."""
    evaluator = ["--evaluator", "sleepy-inline" if inline else "sleepy", "-E", "seconds=0"]
    command = [*NASTOOL, "search", *evaluator, "--no-report", "--out", str(folder), *map(str, more)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=folder.parent)
    assert result.returncode == code, result.stderr
    assert len(result.stdout.splitlines()) == (code == 0), "stdout is for the result alone"
    return result.stderr


def diary(folder: Path, name: str = "diary.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def of(lines: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["what"] == what]


def test_a_logger_hears_everything(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "a"
    search(environment, folder, "-n", 12, "--seed", 3, "--log", "diary", "-E", "misbehave=raise", inline=False)
    lines = diary(folder)
    (begun,) = of(lines, "open")
    assert begun["name"] == "a" and len(begun["id"]) == 32 and begun["decisions"] == 6
    assert begun["options"]["strategy"] == "evolution" and begun["options"]["strategy.population"] == 20
    assert begun["options"]["seed"] == 3 and "strategy.tournament" not in begun["options"]
    told = of(lines, "trial")
    assert [line["number"] for line in told] == list(range(12))
    with Store.read(folder / "run.db") as store:
        trials, when = list(store.history()), store.times()
    best = None
    for line, trial in zip(told, trials, strict=True):
        assert line["id"] == trial.id and line["finished"] == pytest.approx(when[trial.id][2], abs=1)
        if trial.evaluation is None:
            assert line["value"] is None and line["metrics"] == {}
        else:
            assert (
                line["metrics"] == trial.evaluation.all_metrics and line["value"] == trial.evaluation.metrics["val_acc"]
            )
            best = line["value"] if best is None else max(best, line["value"])
        assert line["best"] == best
    assert sum(line["value"] is None for line in told) == 2, "failed ones are told, too"
    assert {(line["trial"], line["step"]) for line in of(lines, "report")} >= {(i, 1) for i in range(12) if i % 5 != 3}
    assert lines[-1] == {"what": "close", "key": json.loads((folder / "best.json").read_text())["key"]}


def test_sittings_continue_one_log(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "a"
    search(environment, folder, "-n", 5)
    search(environment, folder, "-n", 10, "--log", "diary")
    search(environment, folder, "-n", 15)
    search(environment, folder, "-n", 20, "--log", "diary")
    lines = diary(folder)
    assert [line["number"] for line in of(lines, "trial")] == list(range(20)), "also those of sittings without --log"
    assert [line["best"] for line in of(lines, "trial")] == np.maximum.accumulate(
        [line["value"] for line in of(lines, "trial")]
    ).tolist()
    assert len({line["id"] for line in of(lines, "open")}) == 1
    search(environment, folder, "-n", 3, "--seed", 1, "--force", "--log", "diary:file=other.jsonl")
    assert diary(folder, "other.jsonl")[0]["id"] != lines[0]["id"], "a run in its place is another run"


def test_a_killed_search_continues_its_log(environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "a"
    command = [*NASTOOL, "search", "--evaluator", "sleepy", "-E", "seconds=0.005", "-n", "60", "--out", str(folder)]
    command += ["--no-report", "--log", "diary"]
    for how, enough in ((signal.SIGKILL, 10), (signal.SIGINT, 30)):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while not (folder / "diary.jsonl").exists() or len(of(diary_so_far(folder), "trial")) < enough:
            assert time.monotonic() < end
            time.sleep(0.005)
        process.send_signal(how)
        process.communicate()
    assert diary(folder)[-1] == {"what": "close", "key": None}, "Ctrl-C: it is to be continued"
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert [line["number"] for line in of(diary(folder), "trial")] == list(range(60))


def diary_so_far(folder: Path) -> list[dict[str, Any]]:
    """Without a line that is being written."""
    return [json.loads(line) for line in (folder / "diary.jsonl").read_text().split("\n")[:-1]]


@pytest.mark.parametrize("fail", ["trial", "report", "close"])
def test_a_logger_that_fails_is_switched_off(environment: dict[str, str], tmp_path: Path, fail: str) -> None:
    folder = tmp_path / "a"
    said = search(environment, folder, "-n", 10, "--log", f"diary:fail={fail},at=4")
    (warning,) = (line for line in said.splitlines() if "logger diary failed and is switched off" in line)
    assert "RuntimeError: made to fail" in warning
    with Store.read(folder / "run.db") as store:
        assert store.count() == counts(done=10)
    lines = diary(folder)
    assert Counter(line["what"] for line in lines)[fail] == 1 + 4 * (fail == "trial"), "it is not asked again"
    if fail == "trial":
        search(environment, folder, "-n", 11, "--log", "diary")
        assert [line["number"] for line in of(diary(folder), "trial")] == list(range(11)), "the rest comes later"


@pytest.mark.parametrize(
    "spec, message",
    [
        ("nosuch", "no logger 'nosuch'"),
        ("diary:fial=x", "logger diary has no option 'fial'"),
        ("diary:at=x", "option at must be int"),
        ("diary:", "write --log NAME or"),
        ("diary:fail=require", "no such package"),
        ("tensorboard:trials=-1", "need trials >= 0"),
    ],
)
def test_bad_input_ends_before_the_search(environment: dict[str, str], tmp_path: Path, spec: str, message: str) -> None:
    said = search(environment, tmp_path / "a", "-n", 3, "--log", spec, code=2)
    assert message in said and len(said.splitlines()) == 1 and not (tmp_path / "a").exists()


def test_a_logger_that_cannot_begin_ends_before_the_first_trial(environment: dict[str, str], tmp_path: Path) -> None:
    said = search(environment, tmp_path / "a", "-n", 3, "--log", "diary:fail=open", code=2)
    assert "--log diary cannot begin: RuntimeError: made to fail" in said
    with Store.read(tmp_path / "a" / "run.db") as store:
        assert not any(store.count().values())
    search(environment, tmp_path / "a", "-n", 3)


@pytest.mark.parametrize("name, install_it", [("wandb", "pip install wandb"), ("mlflow", "pip install mlflow")])
def test_a_missing_package(environment: dict[str, str], tmp_path: Path, name: str, install_it: str) -> None:
    (tmp_path / "plugin" / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}')\n")
    said = search(environment, tmp_path / "a", "-n", 3, "--log", name, code=2)
    assert f"--log {name} needs package {name}: {install_it}" in said and not (tmp_path / "a").exists()


def test_options_from_a_file(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("search: {log: {diary: {file: 'a,b.jsonl'}}, trials: 3}\n")
    search(environment, tmp_path / "a", "--config", tmp_path / "c.yaml")
    assert len(of(diary(tmp_path / "a", "a,b.jsonl"), "trial")) == 3
    assert given(["a:x=1"], {"a": {"x": 2}, "b": None, "c": {"y": "1,2"}}) == ["b", "c:y=1\\,2", "a:x=1"]
    with pytest.raises(InputError, match="must be a mapping"):
        given([], {"a": 3})


def test_twice_is_refused(environment: dict[str, str], tmp_path: Path) -> None:
    said = search(environment, tmp_path / "a", "-n", 3, "--log", "diary", "--log", "diary:at=1", code=2)
    assert said == "nastool: --log diary: given twice\n"


def test_list_knows_loggers() -> None:
    result = subprocess.run([*NASTOOL, "list", "loggers", "--json"], capture_output=True, text=True, check=True)
    entries = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["name"] for entry in entries] == ["mlflow", "tensorboard", "wandb"]
    assert all(entry["kind"] == "logger" and entry["summary"] and entry["options"] for entry in entries)


# --- wandb, with a made-up module


def test_wandb(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "plugin" / "wandb.py").write_text(WANDB)
    for trials in (6, 9):
        search(environment, tmp_path / "a", "-n", trials, "--log", "wandb:mode=offline,project=p")
    events = [json.loads(line) for line in (tmp_path / "wandb.jsonl").read_text().splitlines()]
    first, second = (event["init"] for event in events if "init" in event)
    assert first == second and first["project"] == "p" and first["mode"] == "offline" and first["resume"] == "allow"
    assert first["config"]["strategy"] == "evolution" and len(first["id"]) == 32
    logged = [event for event in events if "log" in event]
    assert [event["step"] for event in logged] == list(range(9))
    assert logged[-1]["log"]["best/val_acc"] == max(event["log"]["trial/val_acc"] for event in logged)
    result = json.loads((tmp_path / "a" / "best.json").read_text())
    assert {"summary": {"result/key": result["key"]}} in events and events[-1] == {"finish": True}


# --- the real ones, where they are installed


def needs(module: str) -> pytest.MarkDecorator:
    there = importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not there, reason=f"needs package {module}")


@needs("mlflow")
def test_mlflow_with_files(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**environment, "MLFLOW_ALLOW_FILE_STORE": "true"}
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "ml").as_uri()
    for trials in (6, 9):
        search(environment, tmp_path / "a", "-n", trials, "--log", f"mlflow:uri={uri}")
    search(environment, tmp_path / "b", "-n", 2, "--log", f"mlflow:uri={uri}")
    client = import_module("mlflow.tracking").MlflowClient(uri)
    experiment = client.get_experiment_by_name("nastool")
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert found.keys() == {"a", "b"}
    run = found["a"]
    assert run.info.status == "FINISHED" and run.data.params["strategy.population"] == "20"
    result = json.loads((tmp_path / "a" / "best.json").read_text())
    assert run.data.tags["nastool.result"] == result["key"]
    history = client.get_metric_history(run.info.run_id, "trial/val_acc")
    with Store.read(tmp_path / "a" / "run.db") as store:
        told = [trial.evaluation.metrics["val_acc"] for trial in store.history() if trial.evaluation]
    assert [(metric.step, metric.value) for metric in history] == list(enumerate(told))
    assert client.get_metric_history(run.info.run_id, "best/val_acc")[-1].value == max(told)


def told(number: int, value: float | None, best: float | None, choices: tuple[int, ...] = (0,) * 6) -> FinishedTrial:
    proposal = Proposal(NasBench201().arch(choices))
    trial = Trial(number, proposal, "failed", error="e")
    if value is not None:
        trial = Trial(number, proposal, "done", Evaluation({"val_acc": value}, 2.0), (-value,))
    return FinishedTrial(number, trial, 1000.0 + number, value, best)


def logged_run(folder: Path) -> LoggedRun:
    plugged = {"name": "n", "options": {"x": 1, "y": None}}
    config = {"strategy": plugged, "space": plugged, "evaluator": plugged, "seed": 7}
    return LoggedRun("0" * 32, folder, config, Objective("val_acc", "max"), NasBench201().decisions)


def test_configuration_as_one_level(tmp_path: Path) -> None:
    assert logged_run(tmp_path).options == {
        **{kind: "n" for kind in ("strategy", "space", "evaluator")},
        **{f"{kind}.x": 1 for kind in ("strategy", "space", "evaluator")},
        "seed": 7,
        "objective": "val_acc:max",
    }


def events_in(folder: Path) -> Any:
    """What TensorBoard reads there."""
    found = import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(folder))
    found.Reload()
    return found


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_is_read_back(tmp_path: Path) -> None:
    HParamsPluginData = import_module("tensorboard.plugins.hparams.plugin_data_pb2").HParamsPluginData

    def read(name: str = "") -> Any:
        return events_in(tmp_path / "tensorboard" / name)

    for sitting in range(2):  # the second writes everything anew
        logger = TensorBoard(trials=2, decisions=3)
        logger.require()
        assert logger.open(logged_run(tmp_path)) == 0
        for number, (value, best) in enumerate(((0.5, 0.5), (None, 0.5), (0.75, 0.75), (0.25, 0.75))[: 3 + sitting]):
            for step in (1, 2, 1, 2, 3):  # it was begun anew
                logger.report(number, step, {"val_acc": step / 10}, 5.0)
            logger.trial(told(number, value, best, (number, 1, 2, 3, 4, 0)))
        logger.close(None)
    events = read()
    assert [(e.step, e.value) for e in events.Scalars("trial/val_acc")] == [(0, 0.5), (2, 0.75), (3, 0.25)]
    assert [e.value for e in events.Scalars("best/val_acc")] == [0.5, 0.5, 0.75, 0.75]
    assert [e.value for e in events.Scalars("trial/failed")] == [0, 1, 0, 0]
    assert events.Scalars("trial/seconds")[1].wall_time == 1002
    curve = read("trial-00000")
    assert [(e.step, e.value) for e in curve.Scalars("curve/val_acc")] == [
        (step, pytest.approx(step / 10)) for step in (1, 2, 3)
    ]
    data = HParamsPluginData.FromString(curve.summary_metadata["_hparams_/session_start_info"].plugin_data.content)
    names = [decision.name for decision in NasBench201().decisions]
    chosen = {name: value.string_value for name, value in data.session_start_info.hparams.items()}
    assert list(sorted(chosen)) == sorted(names[:3]) and chosen[names[2]] == NasBench201().decisions[2].options[2]
    assert "final/val_acc" not in read("trial-00001").Tags()["scalars"], "a failed trial has none"
    assert not (tmp_path / "tensorboard" / "trial-00002").exists(), "trials=2"


@needs("tensorboard")
def test_tensorboard_of_a_search(environment: dict[str, str], tmp_path: Path) -> None:
    for trials in (8, 12):
        search(environment, tmp_path / "a", "-n", trials, "--log", "tensorboard:trials=3", "-E", "misbehave=raise")
    events = events_in(tmp_path / "a" / "tensorboard")
    assert [event.step for event in events.Scalars("trial/failed")] == list(range(12))
    search(environment, tmp_path / "a", "-n", 2, "--seed", 1, "--force")
    assert not list((tmp_path / "a" / "tensorboard").glob("**/events*")), "a replaced run leaves no log"
