"""Plugins in files: `my.py:Net` wherever a name stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nastool
from nastool.core import plugin_files, registry
from nastool.core.errors import InputError
from nastool.engine.study import Study
from tests.helpers.running import Run

SOURCE = '''
from dataclasses import dataclass

from torch import nn

from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Decision, Evaluation, Proposal


class Net(nn.Module):
    def __init__(self, channels: int, classes: int, body: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(channels, 4, 3), body, nn.Linear(4, classes)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class Tiny(SearchSpace):
    """Two layers."""

    provides = frozenset({"network", "supernet"})

    @dataclass(frozen=True)
    class Scale:
        """Nothing."""

    def __init__(self) -> None:
        super().__init__([Decision("op", ("conv", "skip", "none")), Decision("other", ("a", "b", "c", "d"))])

    def network(self, choose, task, scale):
        ops = {"conv": lambda: nn.Conv2d(4, 4, 1), "skip": nn.Identity, "none": nn.ReLU}
        return Net(task.channels, task.classes, choose.layer("op", ops))


class Mine(Strategy):
    """Random."""

    def __init__(self, space, *, seed: int = 0, speed: int = 3) -> None:
        super().__init__(space, seed=seed)

    def propose(self):
        return Proposal(self.space.sample(self.rng))

    def tell(self, trial):
        assert trial.evaluation is None or trial.evaluation.metrics


class Sum(Evaluator):
    """Adds the choices up."""

    metrics = frozenset({"sum"})
    objective = "sum:max"

    def prepare(self):
        pass

    def evaluate(self, trial_id, proposal, *, seed, report):
        return Evaluation({"sum": sum(proposal.arch.choices)}, 0.1)


class Broken(Sum):
    def evaluate(self, trial_id, proposal, *, seed, report):
        return 1 / 0


def double(x):
    return 2 * x
'''


@pytest.fixture
def my(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of plugins in the current folder, that nobody has named yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.py"
    path.write_text(SOURCE)
    return path


def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Be another user, who has named nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(plugin_files, "_origins", {})


def test_a_search_with_a_strategy_a_space_and_an_evaluator_in_a_file(my: Path, run: Run) -> None:
    words = [
        "-s",
        "my.py:Mine",
        "-S",
        "speed=5",
        "--space",
        "my.py:Tiny",
        "--evaluator",
        "my.py:Sum",
        "--executor",
        "inline",
        "-n",
        "6",
    ]
    found = run("search", *words)
    assert found.code == 0, found.err
    (folder,) = Path("runs").iterdir()
    assert folder.name.startswith("Mine-Tiny-"), "a name that needs no quotes"
    study = Study.read(folder)
    digest = plugin_files.digest_of(my.read_bytes())
    assert study.config["strategy"] == {"name": f"my.py:Mine@{digest}", "options": {"speed": 5}}
    assert found.accepted()[0]["space"]["name"] == f"my.py:Tiny@{digest}"
    assert run("resume", str(folder), "-n", "8").code == 0
    assert run("search", *words[:-1], "9").code == 0, "the same command goes on"
    assert len(Study.read(folder).trials) == 9


def test_what_a_run_names_is_used_after_its_file_has_changed(my: Path, run: Run, tmp_path: Path) -> None:
    words = ["-s", "random", "--space", "my.py:Tiny", "--epochs", "1", "--executor", "inline", "--out", "a", "-n"]
    assert run("search", *words, "1").code == 0
    my.write_text(SOURCE.replace("(2, 3)", "(3, 2)"))
    again = run("search", *words, "2")
    assert again.code == 2
    assert "my.py:Tiny has changed since, `nastool resume` goes on with it as it was" in again.err
    resumed = run("resume", "a", "-n", "2")
    assert resumed.code == 0 and f"{my} has changed since this search began" in resumed.err
    written = Path("a/model.py").read_text()
    assert "class Net" in written and "mean((2, 3))" in written
    my.unlink()
    for command in (["show", "a"], ["top", "a"], ["status", "a"], ["export", "a", "--to", "pt2", "--out", "m.pt2"]):
        assert run(*command).code == 0, command


@pytest.mark.parametrize("name", ["my.py:Tiny", "digest"])
def test_a_line_does_not_execute_a_file_that_its_user_never_named(
    my: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    marker = tmp_path / "executed"
    my.write_text(f"open({str(marker)!r}, 'w').close()\n{SOURCE}")
    if name == "digest":
        name = f"my.py:Tiny@{plugin_files.digest_of(my.read_bytes())}"
    line = json.dumps({"space": name, "choices": {"op": "conv", "other": "a"}})
    refused = run("show", "-", stdin=line)
    assert refused.code == 2 and "NASTOOL_PLUGINS=" in refused.err and refused.err.count("\n") == 1
    assert not marker.exists()
    monkeypatch.setenv("NASTOOL_PLUGINS", f"elsewhere.py{os.pathsep}{my}")
    assert run("show", "-", stdin=line).code == 0
    assert marker.exists()
    stranger(monkeypatch, tmp_path)
    monkeypatch.delenv("NASTOOL_PLUGINS")
    assert run("show", "-", stdin=line).code == 2
    assert run("sample", "--space", "my.py:Tiny").code == 0  # now the user has named it
    assert run("show", "-", stdin=line).code == 0


def test_the_same_content_elsewhere_is_no_other_file(
    my: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Digests are short: of a file that nobody named the content counts, whatever its digest."""
    monkeypatch.setattr(plugin_files, "digest_of", lambda content: "01234567")
    (tmp_path / "evil.py").write_text("open('executed', 'w')\n")
    line = json.dumps({"space": "evil.py:Net", "choices": {}})
    assert run("sample", "--space", "my.py:Tiny").code == 0
    run("show", "-", stdin=line).refused("evil.py:Net: a file that you have not named yet is not executed")
    assert not (tmp_path / "executed").exists()


def test_words_with_a_colon_change_nothing(my: Path, run: Run) -> None:
    before = list(sys.path)
    run("show", "zoo:nothing")
    run("sample", "--space", "my:Tiny")
    assert sys.path[: len(before)] == before
    plugin_files.trust("folder:photos", "npz:a.npz", "zoo:enas")
    assert len(sys.path) <= len(before) + 1


def test_a_module_by_its_name(my: Path, run: Run, tmp_path: Path) -> None:
    package = tmp_path / "own_plugins"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("OPTIONS = ('a', 'b')\n")
    text = SOURCE.replace("class Net", "from .parts import OPTIONS\n\n\nclass Net").replace(
        '("a", "b", "c", "d")', "OPTIONS"
    )
    (package / "spaces.py").write_text(text)
    found = run(
        "search", "-s", "random", "--space", "own_plugins.spaces:Tiny", "--epochs", "1", "-n", "2", "--out", "a"
    )
    assert found.code == 0, found.err  # in a worker process, too
    assert found.accepted()[0]["space"]["name"].startswith("own_plugins.spaces:Tiny@")
    code = "import nastool; print(nastool.resume('a', trials=3).trials[2].state)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path != str(tmp_path))}
    other = tmp_path / "elsewhere"
    other.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", code.replace("'a'", "'../a'")],
        cwd=other, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout == "done\n", ended.stderr


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("my.py:Tinny", SOURCE, "my.py has no 'Tinny'; did you mean 'Tiny'?"),
        ("my.py", SOURCE, "of a file give the object, too: my.py:NAME"),
        ("my.py:Mine", SOURCE, "my.py, line 38: Mine is of kind strategy, no space: give it as the strategy"),
        ("my.py:double", SOURCE, "double is a function, no space: derive one from nastool.core.space.SearchSpace"),
        ("my.py:Net", SOURCE, "my.py, line 12: Net is a class of its own, no space"),
        ("nono.py:Net", SOURCE, "nono.py: No such file or directory"),
        ("no_such_module:Net", SOURCE, "no module 'no_such_module'"),
        ("my.py:Net", "\n\ndef f(:\n", "my.py, line 3: SyntaxError: invalid syntax; correct the file"),
        ("my.py:Net", "import os\nimport notthere\n", "my.py, line 2: ModuleNotFoundError: No module named 'notthere'"),
        ("my.py:Net", "import sys\n\nsys.exit(3)\n", "my.py, line 3: SystemExit: 3; correct the file"),
        ("my.py:Net", "x = 1\n\ny = x / 0\n", "my.py, line 3: ZeroDivisionError: division by zero; correct the file"),
    ],
)
def test_mistakes_are_a_line_with_file_line_and_remedy(my: Path, run: Run, name: str, text: str, message: str) -> None:
    my.write_text(text)
    found = run("sample", "--space", name)
    assert found.code == 2
    assert message in found.err and found.err.count("\n") == 1


def test_an_error_at_work_is_blamed_on_its_file(my: Path, run: Run) -> None:
    found = run(
        "search",
        "-s",
        "random",
        "--space",
        "my.py:Tiny",
        "--evaluator",
        "my.py:Broken",
        "-n",
        "2",
        "--executor",
        "inline",
    )
    assert "ZeroDivisionError: division by zero; see evaluator my.py:Broken@" in found.err
    assert f"(my.py, line {SOURCE[: SOURCE.index('1 / 0')].count(chr(10)) + 1})" in found.err


def test_a_file_that_changed_is_loaded_anew_in_the_same_process(my: Path) -> None:
    plugin_files.trust("my.py:Tiny")
    first = registry.load("space", "my.py:Tiny")
    assert registry.load("space", "my.py:Tiny") is first
    my.write_text(SOURCE.replace('("a", "b", "c", "d")', '("a", "b")'))
    plugin_files.trust("my.py:Tiny")
    assert registry.load("space", "my.py:Tiny")().size == 6
    assert registry.load("space", first.name)().size == 12


def test_no_folder_for_state_is_no_hindrance(my: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    monkeypatch.setenv("NASTOOL_PLUGINS", "")
    study = nastool.search("random", space="my.py:Tiny", epochs=1, trials=1, out="a", report=False)  # in a worker
    assert study.trials[0].state == "done"


def test_data_of_a_task_in_a_file(my: Path, run: Run) -> None:
    examples = Path(__file__).resolve().parents[3] / "docs" / "examples"
    words = ["--space", f"{examples}/series_space.py:SeriesCNN", "--epochs", "1", "-n", "1", "--executor", "inline"]
    found = run("search", "-s", "random", *words, "--data", f"{examples}/series.py:Series", "--out", "a")
    assert found.code == 0, found.err
    digest = plugin_files.digest_of((examples / "series.py").read_bytes())
    assert Study.read("a").config["evaluator"]["options"]["data"] == f"series.py:Series@{digest}"
    assert "test_acc" not in found.accepted()[0]["metrics"] and found.accepted()[0]["metrics"]["val_acc"] > 0
    exported = run("export", "a", "--to", "pt2", "--out", "m.pt2")
    assert exported.code == 0, exported.err
    named = f"{examples}/series.py:Series:waves"
    assert registry._recorded(named) == f"series.py:Series@{digest}:waves"


def test_a_name_with_a_file_can_have_options() -> None:
    from nastool.core.options import split

    assert split("my.py:Greedy:explore=0.2,x=1", "-s") == ("my.py:Greedy", {"explore": "0.2", "x": "1"})
    assert split("a.b:Greedy", "-s") == ("a.b:Greedy", {})
    assert split("wandb:project=a.b:c", "--log") == ("wandb", {"project": "a.b:c"})
    with pytest.raises(InputError, match="write -s NAME"):
        split("random:explore", "-s")
