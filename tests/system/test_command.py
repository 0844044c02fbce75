"""The installed command, end to end."""

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
import yaml

from nastool.engine.store import Store
from tests.helpers import served
from tests.helpers.running import NASTOOL, counts, in_this_process

BIN = Path(sys.executable).parent
TINY = [
    "--data",
    "digits",
    "-E",
    "train_size=100",
    "--epochs",
    "1",
    "--scale",
    "channels=4,cells=1",
    "--device",
    "cpu",
]


def run(*arguments: str, cwd: Path | None = None, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in this process, trainings included."""
    found = in_this_process(
        cwd or Path(), *arguments, stdin=stdin, trains="digits" in arguments or "eval" in arguments, **env
    )
    return subprocess.CompletedProcess(arguments, found.code, found.out, found.err)


def installed(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command."""
    return subprocess.run(
        [NASTOOL, *arguments], capture_output=True, text=True, cwd=cwd, env={**os.environ, **env}, timeout=300
    )


def lines(result: subprocess.CompletedProcess[str], code: int = 0) -> list[dict[str, Any]]:
    assert result.returncode == code, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def bash(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=300,
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of nasbench201 with made-up accuracies of two data sets."""
    from nastool.spaces.nasbench201 import NasBench201

    folder = tmp_path_factory.mktemp("table")
    archs = np.array([arch.choices for arch in NasBench201().members()], dtype=np.uint8)
    rng = np.random.default_rng(0)
    columns = {f"{d}_{part}200": rng.uniform(10, 90, len(archs)) for d in ("aa", "bb") for part in ("val", "test")}
    np.savez(folder / "t.npz", arch=archs, aa_train_time200=rng.uniform(1, 9, len(archs)), **columns)  # type: ignore[arg-type]  # numpy's stub
    return folder / "t.npz"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A small search with real training."""
    folder = tmp_path_factory.mktemp("trained")
    return folder, installed("search", *TINY, "-n", "4", "--workers", "2", "--out", "a", cwd=folder)


# --- start-up


@pytest.mark.parametrize("arguments", [["--help"], ["sample", "-n", "5"], ["list"], ["devices"], ["search", "--help"]])
def test_starts_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from nastool.cli import run\n"
        f"sys.argv = ['nastool', *{arguments!r}]\n"
        "code = run()\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'scipy'}\n"
        "heavy |= {'numpy', 'yaml', 'multiprocessing', 'email'} if '--help' in sys.argv else set()\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_table_commands_start_without_torch(table: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from nastool.cli import run\n"
        "table = ['--evaluator', 'table', '-E', f'file={sys.argv[1]}', '-E', 'dataset=aa']\n"
        "for argv in (['search', *table, '--out', 'a'],\n"
        "             ['top', 'a'], ['status', 'a'], ['show', 'a']):\n"
        "    sys.argv[1:] = argv\n"
        "    assert run() == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(table)], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_help_of_every_command(tmp_path: Path) -> None:
    listed = installed("--help", cwd=tmp_path).stdout
    for name in ("search", "eval", "sample", "show", "top", "status", "list"):
        assert f"\n  {name} " in listed
        result = run(name, "--help")
        assert result.returncode == 0 and f"nastool {name} [OPTIONS]" in result.stdout.splitlines()[0]


# --- sample, show, list


def test_sample_follows_the_seed() -> None:
    first, again, other = (lines(run("sample", "-n", "20", "--seed", seed)) for seed in ("0", "0", "1"))
    assert first == again != other
    assert len(first) == 20 and first[0]["format"] == "nastool.arch/1"


def test_string_forms_round_trip() -> None:
    strings = run("sample", "-n", "5", "--to", "string").stdout
    assert strings.startswith("|")
    documents = lines(run("show", "-", "--space", "nasbench201", "--json", stdin=strings))
    assert documents == lines(run("sample", "-n", "5"))


def test_show_counts_the_published_network() -> None:
    best = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    (document,) = lines(run("show", best, "--space", "nasbench201", "--input", "3x32x32", "--json"))
    assert document["params"] == 1_073_466 and document["flops"] == 2 * 153_272_960
    text = run("show", best, "--space", "nasbench201", "--input", "3x32x32", "--text").stdout
    assert "1,073,466 parameters" in text and best in text


def test_show_prints_recipes_to_copy(tmp_path: Path) -> None:
    text = run("show", "recipe:nasbench201").stdout
    assert yaml.safe_load(text)["epochs"] == 200
    (tmp_path / "mine.yaml").write_text(text.replace("200", "1", 1))


def test_list_says_what_fits() -> None:
    entries = {(e["kind"], e["name"]): e for e in lines(run("list", "--json"))}
    assert "nasbench201 + train" in entries["strategy", "evolution"]["works_with"]
    assert "population: int = 20" in entries["strategy", "evolution"]["options"]
    assert ("recipe", "digits") in entries and ("data", "cifar10") in entries
    assert all("summary" in entry for entry in entries.values())
    assert "evolution" in run("list", "strategies", "--text").stdout


# --- search with a table


def test_table_search_is_a_product(table: Path, tmp_path: Path) -> None:
    result = run(
        "search",
        "--evaluator",
        "table",
        "-E",
        f"file={table}",
        "-E",
        "dataset=bb",
        "-n",
        "60",
        "--out",
        "r",
        cwd=tmp_path,
    )
    (best,) = lines(result)
    assert best == json.loads((tmp_path / "r" / "best.json").read_text())
    with np.load(table) as columns:
        row = next(
            i for i, c in enumerate(columns["arch"].tolist()) if best["trial"] is not None and _choices(best) == c
        )
        assert best["metrics"]["val_acc"] == columns["bb_val200"][row] / 100
        assert best["metrics"]["test_acc"] == columns["bb_test200"][row] / 100
    with Store.read(tmp_path / "r" / "run.db") as store:
        values = [trial.evaluation.metrics["val_acc"] for trial in store.trials() if trial.evaluation]
        assert len(values) == 60 and best["metrics"]["val_acc"] == max(values)
        assert all("test_acc" not in trial.evaluation.metrics for trial in store.trials() if trial.evaluation)
    recorded = yaml.safe_load((tmp_path / "r" / "run.yaml").read_text())
    assert recorded["search"]["evaluator-options"]["dataset"] == "bb" and recorded["search"]["seed"] == 0
    assert recorded["provenance"]["packages"]["numpy"] == np.__version__


def _choices(document: dict[str, Any]) -> list[int]:
    from nastool.core import archfile

    return list(archfile.from_json(document).arch.choices)


def test_a_finished_run_answers_again_and_can_be_extended(table: Path, tmp_path: Path) -> None:
    command = ["search", "--evaluator", "table", "-E", f"file={table}", "-E", "dataset=aa"]
    first = run(*command, "-n", "30", cwd=tmp_path)
    again = run(*command, "-n", "30", cwd=tmp_path)
    assert lines(first) == lines(again) and "already has its 30 trials" in again.stderr
    assert lines(run(*command, "-n", "20", cwd=tmp_path)), "fewer trials than it has: the same answer"
    more = run(*command, "-n", "50", cwd=tmp_path)
    assert lines(more) and "continuing" in more.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("evolution-nasbench201-")


def test_another_search_is_not_overwritten(table: Path, tmp_path: Path) -> None:
    command = ["search", "--evaluator", "table", "-E", f"file={table}", "-E", "dataset=aa", "--out", "r"]
    run(*command, cwd=tmp_path)
    before = (tmp_path / "r" / "best.json").read_text()
    refused = run(*command, "-S", "population=5", "-S", "tournament=2", "--seed", "9", cwd=tmp_path)
    assert refused.returncode == 2 and refused.stdout == ""
    assert (
        "seed is 0, not 9" in refused.stderr
        and "population is 20, not 5" in refused.stderr
        and "--force" in refused.stderr
    )
    assert (tmp_path / "r" / "best.json").read_text() == before
    (tmp_path / "r" / "notes.txt").write_text("mine")
    assert lines(run(*command, "--seed", "9", "--force", cwd=tmp_path))[0] != json.loads(before)
    assert (tmp_path / "r" / "notes.txt").read_text() == "mine"


def test_config_file_environment_and_flags(table: Path, tmp_path: Path) -> None:
    command = [
        "search",
        "--evaluator",
        "table",
        "-E",
        f"file={table}",
        "-E",
        "dataset=aa",
        "-S",
        "population=7",
    ]
    run(*command, "-S", "tournament=3", "-n", "25", "--seed", "4", "--out", "r", cwd=tmp_path)
    copied = run("search", "--config", "r/run.yaml", "--out", "copy", cwd=tmp_path)
    (a,), (b,) = lines(copied), [json.loads((tmp_path / "r" / "best.json").read_text())]
    assert (a["key"], a["trial"]) == (b["key"], b["trial"])

    def resolved(*arguments: str, **env: str) -> dict[str, Any]:
        result = run("search", "--config", "r/run.yaml", "--dry-run", *arguments, cwd=tmp_path, **env)
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = yaml.safe_load(result.stderr)["search"]
        return found

    assert resolved()["trials"] == 25
    assert resolved(NASTOOL_SEARCH_TRIALS="26")["trials"] == 26
    assert resolved("-n", "27", NASTOOL_SEARCH_TRIALS="26")["trials"] == 27
    options = resolved("-S", "tournament=2")["strategy-options"]
    assert (options["population"], options["tournament"]) == (7, 2), "one key changed, the others kept"


def test_dry_run_writes_nothing(table: Path, tmp_path: Path) -> None:
    result = run("search", "--evaluator", "table", "-E", f"file={table}", "-E", "dataset=aa", "--dry-run", cwd=tmp_path)
    assert result.stdout == ""
    assert "15,625 combinations" in result.stderr
    assert "a trial (simulated), 5 min for 60 on one worker" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_seconds_shown_are_simulated(table: Path, tmp_path: Path) -> None:
    run(
        "search",
        "--evaluator",
        "table",
        "-E",
        f"file={table}",
        "-E",
        "dataset=aa",
        "--out",
        "r",
        cwd=tmp_path,
    )
    (status,) = lines(run("status", "r", cwd=tmp_path))
    assert status["state"] == "finished"
    assert status["trials"] == counts(done=60), "three times what evolution begins with"
    assert status["evaluation_seconds"] > 60
    text = run("status", "r", "--text", cwd=tmp_path).stdout
    assert "60 done, 0 failed, 0 running" in text


# --- search and eval with real training


def test_trained_search_leaves_usable_weights(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, result = trained
    (best,) = lines(result)
    assert {"val_acc", "val_loss", "test_acc", "params", "flops", "seconds"} <= set(best["metrics"])
    assert best["scale"] == {"channels": 4, "cells": 1}
    for name in ("best.json", "best.safetensors"):
        assert f"a/{name}" in result.stderr and (folder / "a" / name).is_file()
    from safetensors.torch import load_file

    from nastool.core import archfile
    from nastool.nets import networks
    from nastool.spaces.nasbench201 import NasBench201
    from nastool.tasks.images.task import ImageTask

    weights = load_file(folder / "a" / "best.safetensors")
    document = archfile.from_json(best)
    assert isinstance(document.space, NasBench201)
    network = networks.build(
        document.space, document.arch, ImageTask(1, 8, 8, 10), document.space.Scale(channels=4, cells=1)
    )
    network.load_state_dict(weights)
    assert networks.count_params(network) == best["metrics"]["params"]


def test_trained_search_repeats_itself(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Another sitting, one worker instead of two: the same trials, with the same threads the same metrics."""
    folder, _ = trained
    other = run("search", *TINY, "-n", "4", "--out", "b", cwd=folder, OMP_NUM_THREADS="1")
    assert other.returncode == 0
    with Store.read(folder / "a" / "run.db") as a, Store.read(folder / "b" / "run.db") as b:
        first = [(t.id, t.proposal, t.evaluation and t.evaluation.metrics) for t in a.trials()]
        second = [(t.id, t.proposal, t.evaluation and t.evaluation.metrics) for t in b.trials()]
    assert first == second


def test_top_and_eval_pipeline(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, _ = trained
    options = " ".join(TINY).replace("--scale channels=4,cells=1", "")
    result = served.bash(
        f"nastool top a -k 2 | nastool eval - {options} --seeds 0,1 | tee e.jsonl | nastool top - -k 1",
        folder,
    )
    assert result.returncode == 0, result.stderr
    (best,) = map(json.loads, result.stdout.splitlines())
    evaluated = [json.loads(line) for line in (folder / "e.jsonl").read_text().splitlines()]
    assert len(evaluated) == 2
    for line in evaluated:
        assert [run["seed"] for run in line["runs"]] == [0, 1]
        assert line["scale"] == {"channels": 4, "cells": 1}, "the line's own scale is kept"
        assert line["metrics"] == line["runs"][0]["metrics"] != line["mean"]
        assert line["mean"]["test_acc"] == sum(r["metrics"]["test_acc"] for r in line["runs"]) / 2
        assert line["std"]["val_loss"] > 0 and line["std"]["params"] == 0
    assert best["mean"]["val_acc"] == max(line["mean"]["val_acc"] for line in evaluated)


def test_eval_keeps_weights_where_asked(tmp_path: Path) -> None:
    sampled = run("sample", "-n", "2").stdout
    found = lines(run("eval", *TINY, "--save", "w", cwd=tmp_path, stdin=sampled))
    assert all((tmp_path / line["runs"][0]["weights"]).is_file() for line in found) and len(found) == 2
    refused = run("eval", *TINY, "--save", "w", cwd=tmp_path, stdin=sampled)
    assert refused.returncode == 2 and "w/checkpoints is not empty" in refused.stderr


def test_eval_reports_failures_and_goes_on(table: Path, tmp_path: Path) -> None:
    """An architecture the table lacks is a line with an error; the others are evaluated; exit code 1."""
    with np.load(table) as columns:
        np.savez(tmp_path / "part.npz", arch=columns["arch"][:1], val200=columns["aa_val200"][:1])
    from nastool.core import archfile
    from nastool.spaces.nasbench201 import NasBench201

    space = NasBench201()
    archs = [space.arch(c) for c in (np.load(table)["arch"][1], np.load(table)["arch"][0])]
    stdin = "".join(archfile.dumps(archfile.to_json(space, arch)) + "\n" for arch in archs)
    failed, done = lines(run("eval", "--evaluator", "table", "-E", "file=part.npz", cwd=tmp_path, stdin=stdin), code=1)
    assert "the table has no architecture" in failed["error"] and failed["metrics"] == {}
    assert "error" not in done and "val_acc" in done["metrics"]


def test_eval_repeats_what_the_search_did(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Without flags, a line of a run is trained on the run's data, by its recipe and at its scale."""
    folder, _ = trained
    with Store.read(folder / "a" / "run.db") as store:
        best = store.best(1)[0]
    assert best.evaluation is not None
    from nastool.engine.proposals import trial_seed

    seed = str(trial_seed(0, best.id))
    (line,) = lines(run("eval", "a", "--device", "cpu", "--seeds", seed, cwd=folder, OMP_NUM_THREADS="1"))
    assert {name: line["metrics"][name] for name in best.evaluation.metrics} == best.evaluation.metrics
    other = lines(run("eval", "a", "--device", "cpu", "--epochs", "2", cwd=folder))[0]
    assert other["metrics"]["val_loss"] != line["metrics"]["val_loss"]


def test_a_changed_recipe_is_another_search(tmp_path: Path) -> None:
    command = ["search", *TINY, "--recipe", "mine.yaml", "-n", "1", "--out", "r"]
    text = run("show", "recipe:digits").stdout
    (tmp_path / "mine.yaml").write_text(text)
    assert run(*command, cwd=tmp_path).returncode == 0
    (tmp_path / "mine.yaml").write_text(text.replace("lr: 0.1", "lr: 0.2"))
    changed = run(*command, cwd=tmp_path)
    assert changed.returncode == 2 and "lr is 0.1, not 0.2" in changed.stderr
    assert yaml.safe_load((tmp_path / "r" / "run.yaml").read_text())["provenance"]["resolved"]["recipe"]["lr"] == 0.1


def test_a_line_says_how_it_was_measured(tmp_path: Path) -> None:
    """The last time, and so it is measured again."""
    run("search", *TINY, "-n", "1", "--out", "r", cwd=tmp_path)
    (other,) = lines(run("eval", "r", "--epochs", "2", cwd=tmp_path))
    assert other["evaluator"]["name"] == "train" and other["evaluator"]["options"]["epochs"] == 2
    assert other["trial"] == 0 and other["run"] == "r" and isinstance(other["metrics"]["params"], int)
    (again,) = lines(run("eval", stdin=json.dumps({**other, "baseline": 1, "mean": 2}), cwd=tmp_path))
    assert {k: v for k, v in again["metrics"].items() if k != "seconds"} == {
        k: v for k, v in other["metrics"].items() if k != "seconds"
    }
    assert again["evaluator"] == other["evaluator"] and "baseline" not in again
    assert again["mean"] == again["metrics"], "of one seed"
    sampled = run("sample", "--space", "nasbench201", cwd=tmp_path).stdout
    options = ["--data", "digits", "--epochs", "1", "--scale", "channels=4,cells=1"]
    (first,) = lines(run("eval", *options, stdin=sampled, cwd=tmp_path))
    assert first["evaluator"]["options"]["data"] == "digits" and first["scale"] == {"channels": 4, "cells": 1}


def test_another_search_is_told_apart_in_few_words(table: Path, tmp_path: Path) -> None:
    command = ["search", "--evaluator", "table", "-E", f"file={table}", "-n", "2", "--out", "r"]
    run(*command, "-E", "dataset=aa", "-s", "random", cwd=tmp_path)
    other = run(*command, "-E", "dataset=bb", cwd=tmp_path)
    shown = (
        "r holds another search (strategy is random, not evolution; evaluator dataset is aa, not bb): give its options"
    )
    assert other.returncode == 2 and shown in other.stderr
    some = run(*command, "-E", "dataset=bb", "-E", "noise=0.1", "-E", "label=0", "-E", "noise_seed=3", "--seed", "4",
               "-s", "random", cwd=tmp_path)  # fmt: skip
    assert "and 1 more)" in some.stderr


def test_folders_that_hold_runs_are_named(table: Path, tmp_path: Path) -> None:
    run("search", "--evaluator", "table", "-E", f"file={table}", "-E", "dataset=aa", "-n", "2", "--out", "runs/a",
        cwd=tmp_path)  # fmt: skip
    assert "runs is no run folder: it has no run.db; runs/a is one" in run("status", "runs", cwd=tmp_path).stderr


def test_random_search_beside_itself_is_called_so(table: Path, tmp_path: Path) -> None:
    command = ["search", "--evaluator", "table", "-E", f"file={table}", "-E", "dataset=aa", "--with-baseline"]
    told = run(*command, "-n", "20", "--out", "a", cwd=tmp_path)
    assert "so this is random search, which --with-baseline compares with itself: give more than 20" in told.stderr
    assert "random search" not in run(*command, "-n", "21", "--out", "b", cwd=tmp_path).stderr.partition("note:")[2]


def test_a_changed_table_is_not_continued(table: Path, tmp_path: Path) -> None:
    command = ["search", "--evaluator", "table", "-E", "file=t.npz", "-E", "dataset=aa", "--out", "r"]
    shutil.copy(table, tmp_path / "t.npz")
    assert run(*command, cwd=tmp_path).returncode == 0
    with np.load(table) as columns:
        changed_columns = {**columns, "aa_val200": columns["aa_val200"][::-1]}
    np.savez(tmp_path / "t.npz", **changed_columns)
    changed = run(*command, "-n", "100", cwd=tmp_path)
    assert changed.returncode == 2 and "the data of r changed" in changed.stderr


def test_status_of_an_extended_run(table: Path, tmp_path: Path) -> None:
    command = ["search", "--evaluator", "table", "-E", f"file={table}", "-E", "dataset=aa", "--out", "r", "-n"]
    run(*command, "20", cwd=tmp_path)
    with Store.open(tmp_path / "r" / "run.db") as store:
        store.begin()
        store.put("trials", 40)  # as a longer search that was stopped before its first trial leaves it
        store.put("ended", None)
        store.commit()
    (status,) = lines(run("status", "r", cwd=tmp_path))
    assert (status["state"], status["trials_wanted"]) == ("interrupted", 40)


def test_too_short_for_the_strategy_is_said(table: Path, tmp_path: Path) -> None:
    command = ["search", "--evaluator", "table", "-E", f"file={table}", "-E", "dataset=aa"]
    assert "20 random trials" in run(*command, "-n", "20", cwd=tmp_path).stderr
    assert "random trials" not in run(*command, "-n", "21", cwd=tmp_path).stderr


# --- pipes


def test_closed_pipe_is_quiet(tmp_path: Path) -> None:
    result = bash("nastool sample -n 100000 | head -1", tmp_path)
    assert result.returncode == 0
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 1


def test_stdin_with_crlf_and_a_partial_last_line(table: Path, tmp_path: Path) -> None:
    good = run("sample", "-n", "2").stdout.replace("\n", "\r\n")
    result = run(
        "eval",
        "-",
        "--evaluator",
        "table",
        "-E",
        f"file={table}",
        "-E",
        "dataset=aa",
        stdin=good + '{"format": "nastool.ar',
    )
    assert result.returncode == 2
    assert len(result.stdout.splitlines()) == 2, "what came before is not lost"
    assert result.stderr.startswith("nastool: stdin line 3: no valid JSON") and len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_readme_pipeline_with_jq(tmp_path: Path) -> None:
    options = " ".join(TINY)
    result = served.bash(
        f"nastool sample --space nasbench201 -n 2 --seed 0 | nastool eval - {options} | jq .metrics.val_acc",
        tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert all(0 <= float(line) <= 1 for line in result.stdout.splitlines())
    assert len(result.stdout.splitlines()) == 2


def test_debug_shows_the_traceback() -> None:
    plain, debug = run("show", "absent.json"), run("show", "absent.json", "--debug")
    assert plain.returncode == debug.returncode == 2
    assert plain.stderr == "nastool: cannot read absent.json: No such file or directory\n"
    assert "Traceback" in debug.stderr
