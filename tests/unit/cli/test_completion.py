"""What Tab offers: in Python, and in the shells that are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nastool.cli import cli, complete
from nastool.core import registry
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.store import Store
from nastool.spaces.nasbench201 import NasBench201


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, one of them with a trial, and some files."""
    for name in ("runs/one", "runs/two words", "other"):
        (tmp_path / name).mkdir(parents=True)
    about = {"config": {"space": {"name": "nasbench201", "options": {}}}, "objective": "energy:min"}
    for name in ("runs/one", "runs/two words"):
        with Store.create(tmp_path / name / "run.db", about, durable=False) as store:
            proposal = Proposal(NasBench201().arch([0] * 6))
            store.begin()
            store.add(Trial(0, proposal))
            store.finish(Trial(0, proposal, "done", Evaluation({"energy": 3.0, "val_acc": 0.5}, 1.0), (3.0,)), 0)
            store.commit()
    (tmp_path / "table.npz").touch()
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offered(line: str) -> list[str]:
    """The values at the end of the line."""
    return [item.value for item in items(line)]


def items(line: str) -> list[complete.Item]:
    *args, incomplete = line.split(" ")
    return complete.Zsh(cli, {}, "nastool", complete.VARIABLE).get_completions(args[1:], incomplete)


def test_commands_and_options() -> None:
    assert {"search", "status", "completion"} <= set(offered("nastool "))
    assert offered("nastool compl") == ["completion"]
    assert offered("nastool completion ") == ["bash", "zsh", "fish"]
    assert {"--strategy", "--trials"} <= set(offered("nastool search --"))
    assert offered("nastool status --fol") == ["--follow"]


@pytest.mark.parametrize(
    "line, some",
    [
        ("nastool search -s ", registry.plugins("strategy").keys()),
        ("nastool search --space ", registry.plugins("space").keys()),
        ("nastool search --evaluator ", registry.plugins("evaluator").keys()),
        ("nastool search --executor ", registry.plugins("executor").keys()),
        ("nastool resume runs/o", {"runs/one"}),
        ("nastool search --strategy=ev", {"--strategy=evolution"}),
        ("nastool search --recipe enas-mi", {"enas-micro-cifar10", "enas-micro-cifar10-final"}),
        ("nastool search --data ", {"digits", "cifar10", "npz:", "folder:"}),
        ("nastool eval --data npz:", {"npz:table.npz", "npz:runs/"}),
        ("nastool eval --data folder:o", {"folder:other"}),
        ("nastool show zoo:darts", {"zoo:darts-v1", "zoo:darts-v2"}),
        ("nastool show recipe:def", {"recipe:default"}),
        ("nastool show z", {"zoo:"}),
        ("nastool top ", {"runs/one", "runs/two words"}),
        ("nastool status runs/o", {"runs/one"}),
        ("nastool search --warm-start runs/o", {"runs/one"}),
        ("nastool predict ru", {"runs/one", "runs/two words"}),
        ("nastool status runs/one runs/t", {"runs/two words"}),
        ("nastool eval ru", {"runs/one", "runs/two words"}),
        ("nastool search -s evolution -S ", {"population=", "tournament=", "dedup="}),
        ("nastool search -S dedup=", {"dedup=true", "dedup=false"}),
        ("nastool search -s enas -S cand", {"candidates="}),
        ("nastool search --space morph-cnn -P max_", {"max_width="}),
        ("nastool search -s enas -E ", {"precision=", "recipe=", "data="}),
        ("nastool search -s enas -E precision=", {"precision=auto", "precision=bf16"}),
        ("nastool search -E data=dig", {"data=digits"}),
        ("nastool search -E recipe=def", {"recipe=default"}),
        ("nastool search --evaluator table -E file=t", {"file=table.npz"}),
        ("nastool search --scale ", {"channels=", "cells="}),
        ("nastool search --scale cells=1,ch", {"cells=1,channels="}),
        ("nastool search --objective ", {"val_acc", "flops", "seconds"}),
        ("nastool top runs/one --objective ", {"val_acc", "energy:", "seconds"}),
        ("nastool top --objective energy:", {"energy:max", "energy:min"}),
        ("nastool bench -s evolution:population=3,t", {"evolution:population=3,tournament="}),
        ("nastool bench --table nasbench201:file=", {"nasbench201:file=table.npz"}),
        ("nastool search --device c", {"cpu", "cuda"}),
    ],
)  # fmt: skip
def test_values(folder: Path, line: str, some: set[str]) -> None:
    found = offered(line)
    assert set(some) <= set(found)
    typed = line.rpartition(" ")[2]
    assert all(value.startswith(typed) for value in found)


def test_what_was_given_is_not_offered_again() -> None:
    assert "population=" not in offered("nastool search -S population=4 -S ")
    assert offered("nastool search --scale cells=1,c") == ["cells=1,channels="]


def test_keys_come_with_help() -> None:
    (item,) = items("nastool search -s evolution -S popul")
    assert item.help is not None and item.help.startswith("int = 20; ") and len(item.help) > 15
    helped = {i.value: i.help for i in items("nastool search -s enas -S ")}
    lr = helped["lr="]
    assert lr is not None and lr.startswith(
        "float | none = none; Learning rate of Adam, in (0, 1]; by default, for as many steps"
    )
    helped = {i.value: i.help for i in items("nastool search -s bananas -S ")}
    assert helped["networks="] == "int = 5; Size of the ensemble"


def test_list_offers_kinds_and_names() -> None:
    assert "strategies" in offered("nastool list ") and "evolution" not in offered("nastool list ")
    assert "evolution" in offered("nastool list strategies ") and offered("nastool list spaces macro") == ["macro-cnn"]


def test_files_and_folders_are_the_shells_own(folder: Path) -> None:
    assert [(i.value, i.type) for i in items("nastool search --config m")] == [("m", "file")]
    assert [(i.value, i.type) for i in items("nastool search -o r")] == [("r", "dir")]
    assert [(i.value, i.type) for i in items("nastool search --recipe ./m")] == [("./m", "file")]
    assert [(i.value, i.type) for i in items("nastool eval table")] == [("table", "file")]


@pytest.mark.parametrize(
    "line",
    [
        "nastool search -s nonsense -S ",
        "nastool search --trials ",
        "nastool search -S nonsense=",
        "nastool search --space none --scale ",
        "nastool eval --data npz:/nowhere/",
        "nastool top runs/one/run.db --objective=\x00",
    ],
)
def test_nothing_where_there_is_nothing(folder: Path, line: str) -> None:
    assert offered(line) == []


def test_a_damaged_run_is_quiet(folder: Path) -> None:
    (folder / "runs" / "one" / "run.db").write_bytes(b"no database at all" * 99)
    assert offered("nastool top runs/one --objective ") == []
    assert "runs/one" in offered("nastool top ")


def test_it_needs_no_torch_and_prints_no_errors(folder: Path) -> None:
    code = (
        "import os, sys\n"
        "from nastool.cli import run\n"
        "for line in sys.argv[1:]:\n"
        "    os.environ.update(_NASTOOL_COMPLETE='bash_complete', COMP_WORDS=line, COMP_BREAKS='=:')\n"
        "    assert run() == 0\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'scipy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    lines = ["nastool ", "nastool search -s ", "nastool search -s bo -S ", "nastool top runs/one --objective ",
             "nastool search -s enas -E ", "nastool eval zoo:", "nastool 'open", "nastool search -s x -S "]  # fmt: skip
    result = subprocess.run([sys.executable, "-c", code, *lines], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
    assert "plain,zoo:" not in result.stdout and "plain,darts-v1" in result.stdout  # cut at bash's colon


def test_names_come_without_numpy() -> None:
    code = "import sys\nfrom nastool.cli import run\nrun()\nsys.exit('numpy' in sys.modules)"
    environment = {**os.environ, "_NASTOOL_COMPLETE": "fish_complete", "COMP_WORDS": "nastool list ", "COMP_CWORD": ""}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0 and "plain,strategies" in result.stdout


def test_unknown_shells_are_refused() -> None:
    environment = {**os.environ, "_NASTOOL_COMPLETE": "tcsh_complete"}
    result = subprocess.run([sys.executable, "-m", "nastool"], env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")
    asked = subprocess.run([sys.executable, "-m", "nastool", "completion", "tcsh"], capture_output=True, text=True)
    assert asked.returncode == 2 and "'bash', 'zsh', 'fish'" in asked.stderr


# --- the shells themselves


def in_shell(shell: str, script: str, folder: Path) -> str:
    """What a shell prints that runs a script; `nastool` is on its path."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"needs {shell}")
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "nastool").write_text(f'#!/bin/sh\nexec {sys.executable} -m nastool "$@"\n')
    (bin_folder / "nastool").chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "HOME": str(folder)}
    flags = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    result = subprocess.run(
        [program, *flags, "-c", script], env=environment, cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert result.stderr == "", result.stderr
    return result.stdout


def test_bash(folder: Path) -> None:
    script = """
        eval "$(nastool completion bash)"
        complete -p nastool
        tab() {  # what replaces the last word, which bash breaks at = and :
            COMP_LINE="$1" COMP_POINT=${#1} COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
            _nastool_completion nastool
            echo "> ${COMPREPLY[*]}"
        }
        tab "nastool sea"
        tab "nastool search -s ba"
        tab "nastool search -S dedup="
        tab "nastool search --strategy=ban"
        tab "nastool show zoo:darts-v"
        tab "nastool top runs/tw"
        tab "nastool top 'runs/tw"
        tab "nastool search --config mi"
        tab "nastool search -o oth"
        tab "nastool search -s nonsense -S "
    """
    complete_line, *found = in_shell("bash", script, folder).splitlines()
    assert "-F _nastool_completion nastool" in complete_line
    assert found == [
        "> search", "> bananas", "> true false", "> bananas", "> darts-v1 darts-v2", "> runs/two\\ words",
        "> runs/two\\ words", "> mine.yaml", "> other", "> ",
    ]  # fmt: skip


def test_zsh(folder: Path) -> None:
    script = """
        compdef() { print -r "compdef $*" }
        compadd() { print -r "compadd ${(P)@[-1]} ${@[1,-2]}" }
        _describe() { print -r "describe ${(P)3} ${@[4,-1]}" }
        _path_files() { print -r "files $*" }
        eval "$(nastool completion zsh)"
        tab() { words=("$@") CURRENT=$#words; _nastool_completion }
        tab nastool sea
        tab nastool search -s ba
        tab nastool search -S popul
        tab nastool show zoo:darts-v1
        tab nastool show z
        tab nastool search --config mi
        tab nastool search -s nonsense -S ''
    """
    lines = in_shell("zsh", script, folder).splitlines()
    assert lines[0] == "compdef _nastool_completion nastool"
    assert lines[1].startswith("describe search:Search for an architecture.")
    assert lines[2] == "compadd bananas -U -V unsorted -a"
    assert lines[3].startswith("describe population=:int = 20; ") and lines[3].endswith("-U -S ")
    assert lines[4].startswith(r"describe zoo\:darts-v1:")
    assert lines[5].startswith(r"describe zoo\::published architectures") and lines[6:] == ["files -f"]


def test_fish(folder: Path) -> None:
    script = """
        nastool completion fish | source
        for line in "nastool sea" "nastool search -s ba" "nastool search -S popul" "nastool search --strategy=ban" \\
                "nastool show zoo:darts-v1" "nastool top runs/tw" "nastool search -s nonsense -S "
            echo "> "(complete -C "$line" | string replace -a \\t " = ")
        end
    """
    found = in_shell("fish", script, folder).splitlines()
    assert found[0].startswith("> search = Search for an architecture.")
    assert found[1] == "> bananas"
    assert found[2].startswith("> population= = int = 20; ")
    assert found[3] == "> --strategy=bananas"
    assert found[4].startswith("> zoo:darts-v1 = ")
    assert found[5] in ("> runs/two\\ words", "> 'runs/two words'", "> runs/two words")
