"""Arguments and options that are refused: one clear line on stderr, exit code 2, nothing on stdout, nothing lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from nastool import cli
from nastool.core import archfile
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.running import Outcome, Run

SPACE = NasBench201()
LINE = json.dumps(archfile.to_json(SPACE, SPACE.arch([0, 1, 2, 3, 4, 0])))
TINY = ["--data", "digits", "--epochs", "1", "-E", "train_size=50", "--device", "cpu"]


STRING = SPACE.to_string(SPACE.arch([0, 1, 2, 3, 4, 0]))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["show"], "Missing argument"),
        (["show", "a", "b"], "unexpected extra argument"),
        (["shwo"], "no command 'shwo'; did you mean 'show'?"),
        (["--foo"], "No such option"),
        (["show", "none.json"], "cannot read none.json"),
        (["show", "."], "best.json"),
        (["show", "/proc/self/mem"], "cannot read"),
        (["show", "x" * 5000], "cannot read"),
        (["show", "a/" * 3000], "cannot read"),
        (["show", "{"], "no valid JSON"),
        (["show", "{}x"], "no valid JSON"),
        (["show", STRING], "--space"),
        (["show", STRING, "--space", "nasbench-macro"], "8 digits"),
        (["show", STRING, "--space", "nope"], "no space 'nope'"),
        (["show", "|foo~0|", "--space", "nasbench201"], "|foo~0|"),
        (["show", "01201203", "--space", "nasbench-macro"], "01201203"),
        (["show", "x" * 5000, "--space", "nasbench-macro"], "8 digits"),
        (["show", LINE, "--space", "nasbench-macro"], "expected nasbench-macro"),
        (["show", LINE, "--input", "3x8"], "3x32x32"),
        (["show", LINE, "--input", "0x8x8"], "from 1"),
        (["show", LINE, "--input", f"{10**20}x8x8"], "--input"),
        (["show", LINE, "--input", f"3x{10**10}x{10**10}"], "--input"),
        (["show", LINE, "--input", "1x8x8", "--scale", "channels"], "KEY=N"),
        (["show", LINE, "--input", "1x8x8", "--scale", "channels=0"], "1 <= channels"),
        (["show", LINE, "--input", "1x8x8", "--scale", f"channels={10**20}"], "channels"),
        (["show", LINE, "--input", "1x8x8", "--classes", "1"], "--classes"),
        (["show", LINE, "--input", "1x8x8", "--classes", str(10**20)], "classes"),
        (["show", "recipe:nope"], "no recipe 'nope'"),
        (["show", "recipe:../__init__"], "no recipe"),
        (["top", "none"], "cannot read none"),
        (["top", LINE], "cannot read"),
        (["top", "-", "-k", "0"], "-k"),
        (["top", "-", "--objective", "nope"], "objective 'nope'"),
        (["status", "none"], "none is no run folder"),
        (["status"], "Missing argument"),
        (["list", "cakes"], "cakes"),
        (["sample", "-n", "0"], "-n"),
        (["sample", "--seed", "-1"], "--seed"),
        (["sample", "-P", "x"], "write -P KEY=VALUE"),
        (["eval", LINE, "--seeds", ""], "--seeds"),
        (["eval", LINE, "--seeds", "0,0"], "different"),
        (["eval", LINE, "--seeds", "-1"], "--seeds"),
        (["eval", LINE, "--seeds", "9" * 5000], "--seeds"),
        (["eval", LINE, "--workers", "0"], "--workers"),
        (["eval", LINE, "--trial-timeout", "0"], "--trial-timeout"),
        (["eval", LINE, "--trial-timeout", "nan", *TINY], "--trial-timeout"),
        (["eval", LINE, "--data", "digits", "-E", "data=digits"], "keep one"),
        (["eval", LINE, "--data", "digit"], "digits"),
        (["eval", LINE, "--epochs", "0"], "epochs"),
        (["eval", LINE, "--recipe", "nope"], "no recipe 'nope'"),
        (["eval", LINE, "--device", "gpu"], "device"),
        (["eval", LINE, "--scale", "channels=8,channels=4", *TINY], "channels"),
        (["eval", LINE, "--evaluator", "table"], "file="),
        (["eval", LINE, "--evaluator", "table", "--data", "digits", "-E", "file=x"], "no option 'data'"),
        (["eval", LINE, "-E", "seed=1"], "no option 'seed'"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_arguments(run: Run, arguments: list[str], fragment: str) -> None:
    run(*arguments).refused(fragment)


def test_eval_refuses_before_training_where_it_could_not_save(run: Run) -> None:
    Path("file").write_text("mine")
    run("eval", LINE, *TINY, "--save", "file").refused("file")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--trials", "0"], "--trials"),
        (["--trials", "abc"], "abc"),
        (["--workers", "0"], "--workers"),
        (["--seed", "-1"], "--seed"),
        (["--keep", "0"], "--keep"),
        (["--trial-timeout", "nan"], "--trial-timeout"),
        (["--objective", "nope"], "METRIC:max"),
        (["--objective", "val_acc:up"], "METRIC:max"),
        (["--objective", ":max"], "METRIC:max"),
        (["--objective", "latency_ms"], "latency_ms"),
        (["--strategy", "evolutoin"], "did you mean 'evolution'"),
        (["--space", "nope"], "no space 'nope'"),
        (["--space", "nasbench-macro"], "no table of space nasbench-macro"),
        (["--evaluator", "nope"], "no evaluator 'nope'"),
        (["-S", "population"], "write -S KEY=VALUE"),
        (["-S", "=1"], "write -S KEY=VALUE"),
        (["-S", "popluation=3"], "did you mean 'population'"),
        (["-S", "population=3", "-S", "population=4"], "given twice"),
        (["-S", "mutation-rate=0", "-S", "mutation_rate=1"], "given twice"),
        (["-S", "population=3", "-S", "tournament=4"], "1 <= tournament <= population"),
        (["-S", "population=0"], "1 <= tournament <= population"),
        (["-S", "population=-5", "-S", "tournament=-6"], "1 <= tournament <= population"),
        (["-S", "population=1.5"], "must be int"),
        (["-S", "population=" + "9" * 30], "population"),
        (["-S", "population=" + "9" * 5000], "population"),
        (["-S", "mutation_rate=nan"], "must be float"),
        (["-S", "mutation_rate=inf"], "must be float"),
        (["-S", "mutation_rate=1.1"], "mutation_rate <= 1"),
        (["-S", "dedup=maybe"], "must be bool"),
        (["-S", "seed=1"], "no option 'seed'"),
        (["-s", "bananas", "-S", "truncate=0"], "need truncate >= 1, got 0"),
        (["-s", "bananas", "-S", "networks=1000000"], "1 <= networks <= 100"),
        (["-s", "bananas", "-S", "width=1000000"], "1 <= width <= 1,000"),
        (["-s", "bananas", "-S", "width=1000"], "networks x layers x width^2 <= 2,000,000"),
        (["-s", "bananas", "-S", "epochs=0"], "1 <= epochs <= 10,000"),
        (["-s", "bananas", "-S", "epochs=" + "9" * 30], "1 <= epochs <= 10,000"),
        (["-s", "bananas", "-S", "candidates=1000000000"], "need batch <= candidates <= 10,000"),
        (["-s", "bananas", "-S", "batch=500"], "need batch <= candidates <= 10,000, got 500, 100"),
        (["-s", "bananas", "-S", "encoding="], "has no encoding ''; it has"),
        (["-s", "bananas", "-S", "learning_rate=0"], "0 < learning_rate <= 1"),
        (["-s", "bo", "-S", "encodings=onehot+onehot"], "need encodings that differ, got onehot+onehot"),
        (["-s", "bo", "-S", "encodings=onehot+"], "has no encoding ''; it has"),
        (["-s", "bo", "-S", "candidates=1000000000"], "candidates <= 100,000"),
        (["-s", "bo", "-S", "acquisition=best"], "its | ei | ucb | pi"),
        (["-s", "local-search", "-S", "init=0"], "need init >= 1, got 0"),
        (["-P", "a=1"], "no option 'a'"),
        (["-E", "x=1"], "no option 'x'"),
        (["-E", "label=x"], "label"),
        (["-E", "label=5"], "no training seed 5"),
        (["-E", "label=" + "9" * 5000], "label must be mean, random or a training seed's number"),
        (["-E", "noise=-1"], "need 0 <= noise <= 1"),
        (["-E", "noise=nan"], "must be float"),
        (["-E", "noise_seed=-1"], "need noise_seed >= 0"),
        (["-E", "label=random"], "label=mean"),
        (["-E", "metric=nope"], "no metric 'nope'"),
        (["-E", "dataset=nope"], "no data set 'nope'"),
        (["-E", "dataset="], "data set ''"),
        (["--epochs", "3"], "no option 'epochs'"),
        (["--config", "none.yaml"], "cannot read none.yaml"),
        (["extra"], "unexpected extra argument"),
        (["--out", "x" * 5000], "--out"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_search(search: Run, arguments: list[str], fragment: str) -> None:
    """And the corrected command does not stumble over what the wrong one left behind."""
    search(*arguments).refused(fragment)
    assert len(search().accepted()) == 1


NARROW = "growing starts with layers of min_width = 2, which max_width = 1 does not allow: raise max_width or lower"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["-S", "neighbors=0"], "need 1 <= neighbors <= 100,000, got 0"),
        (["-S", "neighbors=" + "9" * 30], "1 <= neighbors <= 100,000"),
        (["-S", "steps=-1"], "need 0 <= steps <= 100,000, got -1"),
        (["-S", "morphisms=0"], "1 <= morphisms"),
        (["-S", "start_epochs=0"], "1 <= start_epochs"),
        (["-S", "epochs=0"], "1 <= epochs"),
        (["-S", "epochs=1.5"], "must be int"),
        (["-S", "final_epochs=-1"], "0 <= final_epochs"),
        (["-S", "inherit=perhaps"], "must be bool"),
        (["-S", "kinds=wieder"], "no morphism 'wieder'; there are deeper, wider, concat, add, kernel"),
        (["-S", "kinds="], "no morphism ''"),
        (["-S", "neighbours=3"], "did you mean 'neighbors'"),
        (["-P", "max_width=1", "-P", "min_width=2"], NARROW),
        (["-P", "max_width=3"], "max_width: need a power of two from 1 to 1,024, got 3"),
        (["-P", "layers=0"], "1 <= layers <= 30"),
        (["-P", "stages=9"], "1 <= stages <= 8"),
        (["--scale", "channels=0"], "1 <= channels"),
        (["--epochs", "3"], "strategy network-morphism says itself how long to train: give -S epochs=N, not --epochs"),
        (["-E", "epochs=3"], "give -S epochs=N, not --epochs"),
        (["--space", "nasbench201"], "needs 'inherit', which space nasbench201 and evaluator train lack"),
        (["--evaluator", "supernet"], "evaluator supernet needs 'supernet', which space morph-cnn lacks"),
        (["--evaluator", "table", "-E", "file=x"], "needs 'table', which space morph-cnn lacks"),
        (["--recipe", "morphism-digit"], "did you mean 'morphism-digits'"),
        (["-E", "from_checkpoint=none.safetensors"], "from_checkpoint: cannot read none.safetensors: No such file"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_network_morphism(run: Run, arguments: list[str], fragment: str) -> None:
    run("search", "-s", "network-morphism", *arguments, "--out", "out").refused(fragment)
    assert not Path("out").exists()


@pytest.mark.parametrize("evaluator", ["table", "supernet"])
def test_no_weights_to_hand_down(run: Run, nasbench201_table: str, evaluator: str) -> None:
    source = ["-E", f"file={nasbench201_table}"] if evaluator == "table" else ["--data", "digits"]
    run("search", "-s", "evolution", "-S", "inherit=true", "--evaluator", evaluator, *source, "--out", "out").refused(
        f"strategy evolution needs 'warm-start', which space nasbench201 and evaluator {evaluator} lack"
    )
    assert not Path("out").exists()


def test_no_weights_to_hand_down_in_a_comparison(run: Run, nasbench201_table: str) -> None:
    for strategy in ("evolution:inherit=true", "network-morphism"):
        run("bench", "-s", strategy, "--table", f"nasbench201:file={nasbench201_table}", "--out", "out").refused(
            "needs 'warm-start', which space nasbench201 and evaluator table lack"
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of morph-cnn, hardly trained, beside its arch.json; and smaller.json."""
    from nastool.core.values import Proposal
    from nastool.evaluators.train import Train
    from nastool.spaces.morph_cnn import MorphCNN

    space = MorphCNN()
    smaller = space.start()
    arch = space.arch([1, *smaller.choices[1:]])
    folder = tmp_path_factory.mktemp("trained")
    evaluator = Train(space, train_size=50, epochs=1, scale={"channels": 2}, device="cpu")
    evaluator.workdir = folder
    found = evaluator.evaluate(0, Proposal(arch), seed=0, report=lambda *_: None)
    (folder / str(found.checkpoint)).rename(folder / "a.safetensors")
    (folder / "arch.json").write_text(json.dumps(archfile.to_json(space, arch)))
    (folder / "smaller.json").write_text(json.dumps(archfile.to_json(space, smaller)))
    return folder


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last bit of a number
    path.write_bytes(data)


NO_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "missing": (lambda path: path.unlink(), [], "from_checkpoint: cannot read a.safetensors: No such file"),
    "a folder": (_folder, [], "cannot read a.safetensors: Is a directory"),
    "text": (lambda path: path.write_text("my diary"), [], "a.safetensors is damaged"),
    "empty": (lambda path: path.write_bytes(b""), [], "a.safetensors is damaged"),
    "truncated": (lambda path: os.truncate(path, 2000), [], "a.safetensors is damaged"),
    "one bit": (_damaged, [], "a.safetensors is damaged: its tensors were changed"),
    "another scale": (lambda path: None, ["--scale", "channels=3"], "is of scale {'channels': 2}, not {'channels': 3}"),
    "another space": (lambda path: path.with_name("arch.json").write_text(LINE), [], "is of space morph-cnn("),
    "given twice": (lambda path: None, ["-E", "from_checkpoint=b"], "both --from-checkpoint and -E from_checkpoint="),
    "another evaluator": (lambda path: None, ["--evaluator", "supernet"], "has no option 'from_checkpoint'"),
    "another architecture": (
        lambda path: path.with_name("smaller.json").rename(path.with_name("arch.json")),
        [],
        "without a change of its function: give a checkpoint of that architecture",
    ),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_bad_checkpoint_to_begin_with(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from nastool.evaluators.train import Train

    monkeypatch.setattr(Train, "inline", True)
    for file in trained.glob("*.*"):
        shutil.copy(file, file.name)
    damage, arguments, fragment = NO_CHECKPOINTS[name]
    damage(Path("a.safetensors"))
    scale = [] if "--scale" in arguments else ["--scale", "channels=2"]
    command = ["eval", "arch.json", "--data", "digits", *scale, "--epochs", "1", "--device", "cpu"]
    command += ["-E", "train_size=200", "-E", "batch_size=4", "--from-checkpoint", "a.safetensors"]
    run(*command, *arguments).refused(fragment)


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("NASTOOL_SEARCH_TRIALS", "abc", "abc"),
        ("NASTOOL_SEARCH_WORKERS", "0", "--workers"),
        ("NASTOOL_SEARCH_FORCE", "perhaps", "perhaps"),
        ("NASTOOL_SEARCH_STRATEGY_OPTIONS", "population=3 tournament=9", "1 <= tournament <= population"),
        ("NASTOOL_SEARCH_STRATEGY_OPTIONS", "x", "KEY=VALUE"),
        ("NASTOOL_SEARCH_CONFIG", "none.yaml", "none.yaml"),
    ],
)
def test_bad_environment(
    run: Run, nasbench201_table: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, fragment: str
) -> None:
    monkeypatch.setenv(name, value)
    run("search", "--evaluator", "table", "-E", f"file={nasbench201_table}").refused(fragment)
    assert not Path("runs").exists()


def test_long_paths_keep_their_end(run: Run, tmp_path: Path) -> None:
    """The name of the file is what a person looks for."""
    folder = tmp_path / ("folder" * 20) / "there"
    folder.mkdir(parents=True)
    run("eval", str(folder / "absent.json")).refused("there/absent.json: ")
    run("status", str(folder)).refused("there is no run folder")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_option_with_one_value_takes_the_last_of_two(run: Run, name: str) -> None:
    """Whatever the value: nothing else is looked at."""
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    options = [
        each
        for each in command.get_params(click.Context(command, **cli.cli.context_settings))
        if isinstance(each, click.Option)
    ]
    switches = [each for each in options if each.is_flag and each.secondary_opts]
    single = [each for each in options if not each.is_flag and not each.multiple]
    assert single or switches or name in ("status", "completion", "new")
    for option in single:
        said = f"nastool: {option.opts[-1]}: given twice; keep one\n"
        for again in option.opts:
            assert run(name, option.opts[-1], "1", again, "2") == Outcome(2, "", said)
    for switch in switches:
        both = [*switch.opts, *switch.secondary_opts]
        assert run(name, *both).err == f"nastool: {'/'.join(both)}: given twice; keep one\n"


def test_a_flag_may_be_repeated(run: Run) -> None:
    assert "--help" in run("search", "--force", "--dry-run", "--force", "--help").out
    run("search", "-s", "random", "--download", "--download", "--epochs", "0").refused("epochs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("search -s random --scale channels=8,channels=16", "evaluator train: option scale: channels= is given twice"),
        ("search -s random --retrain 1 --retrain-scale channels=8,channels=8", "--retrain-scale: channels= is given"),
        ("search -s random --check-ranking 3 --ranking-table file=a,file=b", "--ranking-table: file= is given twice"),
        ("show zoo:darts-v2 --input 3x8x8 --scale cells=1,cells=2", "--scale: cells= is given twice"),
        ("search -s random -E epochs=1 -E epochs=2", "-E epochs: given twice"),
        ("search -s random -P a=1 -P a=2", "-P a: given twice"),
        ("search -s random --epochs 1 -E epochs=2", "both --epochs and -E epochs= are given: keep one"),
        ("search -s random --device cpu --device cpu", "--device: given twice"),
    ],
    ids=str,
)
def test_no_key_takes_the_last_of_two(run: Run, arguments: str, said: str) -> None:
    outcome = run(*arguments.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"nastool: {said}") and outcome.err.count("\n") == 1


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_said_in_a_line(name: str) -> None:
    """`nastool --help` has no more room."""
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None and len(command.get_short_help_str(60)) <= 60
    assert not command.get_short_help_str(60).endswith("...")
