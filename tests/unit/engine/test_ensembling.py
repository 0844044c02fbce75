"""`nastool ensemble`: what is chosen, what judges, what is left, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from nastool import api
from nastool.core import registry
from nastool.core.errors import InputError
from nastool.deploy import ensembles, models
from nastool.engine import ensembling, pools
from nastool.ensembles import metrics, stored
from nastool.ensembles.selection import forward
from nastool.nets import checkpoints
from nastool.tasks.images.task import ImageTask
from tests.helpers.running import Run

OWN = {"best.json", "best.safetensors", "best.predictions.safetensors", "model.py"}
SEARCH: dict[str, Any] = {
    "strategy": "random",
    "space": "nasbench201",
    "data": "digits",
    "epochs": 1,
    "scale": {"channels": 4, "cells": 1},
    "evaluator_options": {"train_size": 200},
    "device": "cpu",
    "trials": 5,
    "report": False,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two searches of the same data, a and b."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(registry.load("evaluator", "train"), "inline", True)
        for name, seed in (("a", 1), ("b", 2)):
            api.search(**SEARCH, seed=seed, out=name)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry.load("evaluator", "train"), "inline", True)
    monkeypatch.setenv("NASTOOL_ENSEMBLE_REPORT", "0")
    return tmp_path


def test_a_set_from_two_searches(runs: Path) -> None:
    found = api.ensemble(["a", "b"], size=3, test=True, out="e", report=False)
    assert found == json.loads((runs / "e" / "best.json").read_text())
    assert found["pool"] == 10 and len(found["members"]) == 3
    assert sum(each["weight"] for each in found["members"]) == pytest.approx(1)
    assert found["examples"] == {"chose": 180, "judged": 180, "seed": 0}
    assert {path.name for path in (runs / "e").iterdir()} == OWN
    for member in found["members"]:
        network = models.load(member["weights"])
        assert network.arch.key == member["key"] and member["weights_digest"] and member["seed"] >= 0
    assert found["metrics"]["val_acc"] == found["judged"]["accuracy"]
    assert found["metrics"]["params"] == sum(
        sum(p.numel() for p in models.load(each["weights"]).network.parameters()) for each in found["members"]
    )


def test_figures_are_of_what_chose_nothing(runs: Path) -> None:
    found = api.ensemble(["a", "b"], size=3, judge=0.25, seed=7, out="e", report=False)
    said = np.stack([stored.read(Path(each["weights"])).probabilities for each in found["members"]]).astype(float)
    labels = stored.read(Path(found["members"][0]["weights"])).labels
    choosing, judging = ensembling.divided(360, 0.25, 7)
    assert (len(choosing), len(judging)) == (270, 90) and not set(choosing) & set(judging)
    assert found["judged"] == pytest.approx(metrics.measured(said[:, judging], labels[judging]))
    pool = pools.candidates(["a", "b"])
    everyone = np.stack([each.stored.probabilities for each in pool])[:, choosing]
    best = pool[int(metrics.member_nlls(everyone, labels[choosing]).argmin())]
    assert found["best_single"]["trial"] == best.trial
    assert found["sizes"][0] == pytest.approx(found["members"][0]["metrics"])
    assert found["sizes"][-1]["nll"] == pytest.approx(found["judged"]["nll"])


def test_one_member_is_the_network_itself(runs: Path) -> None:
    found = api.ensemble("a", size=1, out="e", report=False)
    (member,) = found["members"]
    alone, together = models.load(member["weights"]), models.load("e")
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8), dtype=np.uint8)
    assert np.allclose(alone.predict(images), together.predict(images), atol=1e-6)
    for name, tensor in alone.network.state_dict().items():
        assert torch.equal(together.network.state_dict()[f"members.0.{name}"], tensor)
    assert {name: found["best_single"]["metrics"][name] for name in ("nll", "accuracy")} == pytest.approx(
        {name: found["judged"][name] for name in ("nll", "accuracy")}
    )


@pytest.mark.parametrize("temperature", ["none", "before", "after"])
def test_the_network_says_what_was_judged(runs: Path, temperature: Any) -> None:
    found = api.ensemble(
        ["a", "b"], size=3, selector="stacking", temperature=temperature, test=True, out="e", report=False
    )
    model = models.load("e")
    assert isinstance(model, ensembles.Ensemble) and len(model.members) == len(found["members"])
    data = registry.task_for("digits").load("digits", train_size=200)
    batches = data.batches("test", torch.device("cpu"))
    assert batches is not None
    with torch.inference_mode():
        said = data.task.predict(model.network, batches.in_order()).numpy()
    labels = torch.cat([batch[-1] for batch in batches.in_order()]).numpy()
    assert metrics.nll(said, labels) == pytest.approx(found["tested"]["ensemble"]["nll"], rel=1e-4)
    assert metrics.accuracy(said, labels) == found["tested"]["ensemble"]["accuracy"] == found["metrics"]["test_acc"]
    assert (found["temperature"] != 1) is (temperature == "after")
    assert ("temperature" in found["members"][0]) is (temperature == "before")
    if temperature != "none":
        bare = api.ensemble(["a", "b"], size=3, selector="stacking", test=True, out="bare", report=False)
        assert found["tested"]["best single network"]["nll"] != bare["tested"]["best single network"]["nll"]


def test_what_other_commands_make_of_it(runs: Path, run: Run) -> None:
    (found,) = run("ensemble", "a", "b", "-m", "3", "--report").accepted()
    assert (runs / "a" / "ensemble").is_dir()
    lines = run("predict", "a/ensemble", "--examples", "4").accepted()
    model = models.load("a/ensemble")
    assert [line["class"] in model.classes for line in lines] == [True] * 4
    code = subprocess.run(
        [sys.executable, "a/ensemble/model.py", *(line["image"] for line in lines)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert [row.split()[1] for row in code.stdout.splitlines()] == [line["class"] for line in lines], code.stderr
    assert "outputs differ by at most" in run("export", "a/ensemble", "--to", "pt2").err
    for source in ("a/ensemble/best.json", "a/ensemble/best.safetensors"):
        run("export", source, "--to", "python", "--force").accepted()
        assert Path("model.py").read_text() == Path("a/ensemble/model.py").read_text()
    assert run("report", "a/ensemble").out == "a/ensemble/report.html\n"
    page = (runs / "a" / "ensemble" / "report.html").read_text()
    assert "Reliability" in page and "Diversity" in page and "Error against size" in page
    run("ensemble", "b", "-m", "2", "--seed", "1")
    shown = run("compare", "a/ensemble", "b/ensemble", "--to", "text").out
    assert "WARNING: they are judged by different examples" in shown and "b/ensemble: best single" in shown
    assert "Differences in NLL" not in shown
    run("compare", "a/ensemble", "b").refused("b is no ensemble")
    run("compare", "a/ensemble", "--over", "trials").refused("--over and --at are for runs")
    architectures = run("show", "a/ensemble").accepted()
    assert [each["key"] for each in architectures] == [each["key"] for each in found["members"]]
    run("retrain", "a/ensemble").refused("holds 3 architectures")


@pytest.mark.parametrize("temperature", ["before", "after"])
def test_two_ensembles_are_tested_by_the_examples_that_judged_both(runs: Path, run: Run, temperature: Any) -> None:
    found = {
        name: api.ensemble(name, size=size, judge=0.3, seed=3, temperature=temperature, report=False)
        for name, size in (("a", 3), ("b", 1))
    }
    losses = [ensembling.losses(Path(name) / "ensemble", said) for name, said in found.items()]
    for own, said in zip(losses, found.values(), strict=True):
        assert own.shape == (108,) and own.mean() == pytest.approx(said["judged"]["nll"], rel=1e-3)
    shown = run("compare", "a/ensemble", "b/ensemble", "--to", "text").out
    row = shown.partition("Differences in NLL")[2].partition("Paired by example")[0]
    assert f"{(losses[0] - losses[1]).mean():+.4f}" in row
    p = stats.wilcoxon(losses[0] - losses[1]).pvalue
    assert ("< 0.001" if p < 0.0005 else f"{p:.3f}") in row
    (pair,) = json.loads(run("compare", "a/ensemble", "b/ensemble", "--to", "json").out)["differences"]
    assert (pair["first"], pair["second"], pair["p_holm"]) == ("a/ensemble", "b/ensemble", pytest.approx(p))
    (runs / "a" / "ensemble" / "best.predictions.safetensors").unlink()
    shown = run("compare", "a/ensemble", "b/ensemble", "--to", "text").out
    assert "differences are not tested: a/ensemble/best.safetensors has no predictions beside it" in " ".join(
        shown.split()
    )


def test_what_a_search_of_an_earlier_version_left(runs: Path) -> None:
    """Its networks are asked again, and once is enough."""
    wanted = {path: stored.read(path) for path in sorted(Path("a/checkpoints").glob("trial-??????.safetensors"))}
    for path in wanted:
        checkpoints.predictions_of(path).unlink()
    said: list[object] = []
    pool = pools.candidates(["a"], said.append)
    assert [str(getattr(each, "text", each)) for each in said] == [
        "asking 5 networks of a for the predictions that were not kept"
    ]
    for each in pool:
        before = wanted[each.stored.checkpoint]
        assert np.allclose(each.stored.probabilities, before.probabilities, atol=2e-3)
        assert each.stored.about["fingerprint"] == before.about["fingerprint"]
    pools.candidates(["a"], lambda event: pytest.fail(f"asked again: {event}"))


def test_weights_that_are_gone(runs: Path, run: Run) -> None:
    (runs / "a" / checkpoints.name_of(2)).unlink()
    outcome = run("ensemble", "a", "-m", "5", "--out", "e")
    assert "the weights of trials 2 of a are gone: they are left out" in " ".join(outcome.err.split())
    (found,) = outcome.accepted()
    assert found["pool"] == 4 and 2 not in [each["trial"] for each in found["members"]]
    shutil.rmtree(runs / "a")  # an ensemble has all that it needs
    assert models.load("e").network is not None
    pool = pools.candidates(["b"])
    chosen = ensembling.choose(pool, 2)
    (runs / "b" / checkpoints.name_of(chosen.members[0].trial)).unlink()
    with pytest.raises(InputError, match="are gone since"):
        ensembling.write(chosen, runs / "f", None)
    assert not (runs / "f" / "best.json").exists()


def test_evaluations_that_were_saved_are_a_pool(runs: Path, run: Run) -> None:
    lines = [json.dumps(each) for each in run("show", "a").accepted()]
    Path("archs.jsonl").write_text("\n".join(lines) + "\n")
    command = ("eval", "archs.jsonl", "--seeds", "0,1,2", "--epochs", "1", "--device", "cpu", "--save", "kept")
    run(*command).accepted()
    (found,) = run("ensemble", "kept", "-m", "2", "--out", "e").accepted()
    assert found["pool"] == 3 and {each["seed"] for each in found["members"]} <= {0, 1, 2}
    for path in Path("kept/checkpoints").glob("*.predictions.*"):
        path.unlink()
    run("ensemble", "kept", "--out", "f").refused("nastool eval --save")


class TestRefused:
    def test_other_data(self, runs: Path, run: Run) -> None:
        api.search(**{**SEARCH, "trials": 2, "evaluator_options": {"train_size": 200, "split_seed": 1}}, out="other")
        run("ensemble", "a", "other").refused("predicts other data", "digits")
        assert not (runs / "a" / "ensemble").exists()

    def test_arguments(self, runs: Path, run: Run) -> None:
        run("ensemble", "none").refused("cannot read none")
        run("ensemble").refused("Missing argument")
        Path("empty").mkdir()
        run("ensemble", "empty").refused("no trained networks with weights")
        run("ensemble", "a", "--selector", "forwards").refused("no selector 'forwards'; did you mean 'forward'?")
        run("ensemble", "a", "--selector", "beam:widht=3").refused("has no option 'widht'")
        run("ensemble", "a", "--selector", "beam:width=0").refused("width: need 1 or more sets")
        run("ensemble", "a", "-m", "0").refused("--size")
        for judge in ("0", "1", "nan", "0.0001"):
            run("ensemble", "a", "--judge", judge).refused("--judge")
        run("ensemble", "a", "--out", "b").refused("holds something else than an ensemble")
        assert not (runs / "a" / "ensemble").exists()

    def test_what_is_there_already(self, runs: Path, run: Run) -> None:
        run("ensemble", "a", "-m", "2").accepted()
        before = {path.name: path.read_bytes() for path in (runs / "a" / "ensemble").iterdir()}
        run("ensemble", "a", "-m", "3").refused("--force to replace it")
        assert before == {path.name: path.read_bytes() for path in (runs / "a" / "ensemble").iterdir()}
        (found,) = run("ensemble", "a", "-m", "3", "--force").accepted()
        assert len(found["members"]) == 3

    def test_a_damaged_ensemble(self, runs: Path, run: Run) -> None:
        run("ensemble", "a", "-m", "2").accepted()
        best = runs / "a" / "ensemble" / "best.safetensors"
        whole = best.read_bytes()
        best.write_bytes(whole[: len(whole) // 2])
        run("predict", "a/ensemble", "x.png").refused("damaged")
        best.unlink()
        run("predict", "a/ensemble", "x.png").refused("there is no a/ensemble/best.safetensors")
        run("ensemble", "b", "-m", "2", "--out", "e").accepted()
        shutil.copy("e/best.safetensors", best)
        run("predict", "a/ensemble", "x.png").refused("is of another ensemble than best.json beside it")
        document = json.loads(Path("e/best.json").read_text())
        del document["judged"]["nll"]
        Path("e/best.json").write_text(json.dumps(document))
        run("report", "e").refused("best.json is no ensemble of this version, or was changed")

    def test_networks_that_say_numbers(self, runs: Path, run: Run) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 255, (80, 1, 8, 8), dtype=np.uint8), rng.random(80)
        np.savez("numbers.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
        api.search(**{**SEARCH, "data": "npz:numbers.npz", "trials": 1, "evaluator_options": {}}, out="numbers")
        run("ensemble", "numbers").refused("1 network of numbers do not say which class")


@pytest.mark.parametrize("step", ["best.safetensors", "model.py", "best.json"])
def test_killed_in_any_step(runs: Path, step: str) -> None:
    """The searches are as they were, nothing that is half written counts, and the same command makes it."""
    script = f"""
import os
from nastool.core import files
from nastool import api
from pathlib import Path

before = files.replacing
def replacing(path):
    if path.name == {step!r}:
        Path(path.with_name(".0123abcd" + files.UNFINISHED)).write_bytes(b"half")
        os.kill(os.getpid(), 9)
    return before(path)
files.replacing = replacing
api.ensemble("a", size=2, report=False)
"""
    searches = {
        path: path.read_bytes() for path in (runs / "a").rglob("*") if path.is_file() and "db-" not in path.name
    }
    code = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert code.returncode == -9, code.stderr
    assert searches == {path: path.read_bytes() for path in searches}
    with pytest.raises(InputError, match=r"no model|has no best\.json"):
        models.load("a/ensemble")
    found = api.ensemble("a", size=2, report=False)
    assert {path.name for path in (runs / "a" / "ensemble").iterdir()} == OWN
    assert len(found["members"]) == 2 and len(models.load("a/ensemble").predict(np.zeros((1, 1, 8, 8), np.uint8))) == 1


def test_the_mean_is_attacked_as_a_whole_and_shifted(runs: Path) -> None:
    """By the gradient of the mean: the same attack on the module that is left behind gives the same."""
    found = api.ensemble(["a", "b"], size=3, attack="fgsm:eps=16/255", shift="noise,contrast", out="e", report=False)
    tested = found["tested"]["ensemble"]
    model = ensembles.read(runs / "e" / "best.safetensors")
    data = ImageTask.load("digits", train_size=200)
    batches = data.batches("test", torch.device("cpu"))
    assert batches is not None
    again = data.task.robustness(model.network, batches, "fgsm:eps=16/255", "noise,contrast")
    assert {name: tested[name] for name in again} == pytest.approx(again)
    assert tested["robust_loss"] > tested["nll"] and "shifted_acc" in found["tested"]["best single network"]
    nothing = api.ensemble(["a", "b"], size=3, attack="pgd:eps=0,steps=1", out="f", report=False)["tested"]
    for who in ("ensemble", "best single network"):
        assert nothing[who]["robust_acc"] == nothing[who]["accuracy"]
    with pytest.raises(InputError, match="no shift 'nose'; did you mean 'noise'"):
        api.ensemble(["a"], choose_shift="nose", out="g", report=False)
    with pytest.raises(InputError, match="no attack pdg; did you mean 'pgd'"):
        api.ensemble(["a"], attack="pdg", out="g", report=False)


def test_members_may_be_chosen_by_shifted_images_too(runs: Path, run: Run) -> None:
    """By the NLL over both: as forward selection finds it by hand. What judges is as it is."""
    plain = api.ensemble(["a", "b"], size=2, out="c", report=False)
    outcome = run("ensemble", "a", "b", "-m", "2", "--choose-shift", "noise,blur", "--out", "d", "--no-report")
    assert "as they are and shifted (noise,blur)" in " ".join(outcome.err.split())
    found = json.loads(Path("d/best.json").read_text())
    assert found["choose_shift"] == "noise,blur" and "choose_shift" not in plain
    assert found["examples"] == plain["examples"]

    pool = pools.candidates(["a", "b"])
    data = pools.data_of("digits", {"train_size": 200})
    choosing, _ = ensembling.divided(len(pool[0].stored.labels), 0.5, 0)
    clean, changed = (
        np.stack([pools.said_of(each.stored.checkpoint, data, "val", shift)[0] for each in pool])[:, choosing]
        for shift in (None, "noise,blur")
    )
    assert np.abs(clean - changed).max() > 0.01
    labels = pool[0].stored.labels[choosing]
    best = forward(np.concatenate([clean, changed], 1), np.tile(labels, 2), 2).members
    assert [(m["run"], m["trial"]) for m in found["members"]] == [(str(pool[i].run), pool[i].trial) for i in best]
