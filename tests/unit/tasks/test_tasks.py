"""nastool.core.task, by tasks that are no images: trained, searched, resumed; and optimisers other than SGD."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

import nastool
from nastool.core import files
from nastool.core.errors import InputError
from nastool.core.recipe import Recipe, Rule, Text
from nastool.core.values import Evaluation, Proposal
from nastool.evaluators.supernet import Supernet
from nastool.evaluators.train import Train
from nastool.nets import checkpoints
from nastool.spaces.morph_cnn import MorphCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.language import sentences
from nastool.training.loop import Training
from tests.helpers import plugins
from tests.helpers.running import Run
from tests.helpers.toys import POINTS, Cells, Layers

pytestmark = pytest.mark.usefixtures("one_thread", "toys")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The made-up tasks and spaces, installed as a package of somebody else's."""
    folder = tmp_path_factory.mktemp("toys")
    plugins.install(folder, "toys_of_tests", "", POINTS)
    with pytest.MonkeyPatch.context() as patch, plugins.here(folder):
        patch.setattr(Train, "inline", True)
        yield


def texts(**options: Any) -> Train:
    few: dict[str, Any] = {"data": "sentences", "epochs": 3, "batch_size": 4, "train_size": 2000}
    return Train(Cells(), device="cpu", **(few | options))


def curves(**options: Any) -> Train:
    return Train(Layers(), data="toy-curves", device="cpu", **({"epochs": 10, "batch_size": 20} | options))


def trained(evaluator: Train, *choices: int, trial: int = 0, **proposal: Any) -> Evaluation:
    arch = evaluator.space.arch(choices)
    return evaluator.evaluate(trial, Proposal(arch, **proposal), seed=1, report=lambda *_: None)


# --- a text


def test_a_network_with_a_memory_knows_more_of_a_text_than_pairs_of_words() -> None:
    evaluator = texts(epochs=4, batch_size=20, train_size=None, scale={"units": 32})
    assert evaluator.objective == "val_ppl" and evaluator.metrics == {"val_loss", "val_ppl", "params", "flops"}
    found = trained(evaluator, 0).metrics
    pairs = evaluator.describe()["bigram_ppl"]
    assert isinstance(pairs, float) and found["val_ppl"] < 0.95 * pairs
    assert found["params"] == 219 * 32 + (3 * 2 * 32 * 32 + 6 * 32) + 33 * 219


def test_a_short_text_is_cut_into_fewer_pieces_or_refused() -> None:
    """By the recipe; where batch_size is given, that is taken."""
    evaluator = Train(Cells(), data="sentences", device="cpu", train_size=2000)
    evaluator.prepare()
    assert (evaluator.recipe.batch_size, evaluator.recipe.epochs) == (16, 75)
    with pytest.raises(
        InputError, match="500 training tokens are 31 in each of 16 streams, fewer than the recipe's bptt"
    ):
        Train(Cells(), data="sentences", device="cpu", train_size=500).prepare()
    given = Train(Cells(), data="sentences", device="cpu", train_size=2000, batch_size=64)
    given.prepare()
    with pytest.raises(InputError, match="2,000 training tokens are 31 in each of 64 streams"):
        given.describe()


def test_training_goes_on_from_the_state_of_the_batch_before() -> None:
    """So the loss of many pieces is that of the whole text at once, as long as the weights stay."""
    evaluator = texts()
    evaluator.prepare()
    network = evaluator.build(evaluator.space.arch([0]), 0)
    torch.nn.init.normal_(
        next(network.parameters()), std=5, generator=torch.Generator().manual_seed(0)
    )  # so that the state matters
    still = Recipe(epochs=1, batch_size=4, lr=1e-9, momentum=0, nesterov=False, weight_decay=0, warmup_epochs=0)

    def losses(bptt: int) -> torch.Tensor:
        return torch.stack(list(evaluator.training(network, still.replace(text=Text(bptt=bptt)), 0).epoch()))

    whole, pieces = losses(500), losses(5)
    assert (len(whole), len(pieces)) == (1, 100)
    assert float(pieces.mean()) == pytest.approx(float(whole), rel=1e-5)
    batches = evaluator.train_batches.train(still.replace(text=Text(bptt=5)), torch.Generator())
    forgetful = torch.stack([evaluator.task.step(network, batch, None, still).loss.detach() for batch in batches])
    assert float((forgetful - pieces).abs().max()) > 1e-2 * float(whole)


def test_micro_batches_each_carry_their_own_state() -> None:
    evaluator = texts()
    evaluator.prepare()
    found = []
    for parts in (1, 2):
        network = evaluator.build(evaluator.space.arch([1]), 0)
        evaluator.micro_batches = parts
        training = evaluator.training(network, evaluator.recipe, 0)
        found.append(torch.stack(list(training.epoch())))
    assert torch.allclose(found[0], found[1], rtol=1e-4)


def test_a_search_over_texts_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after some trials it goes on, and finds what a search in one go finds."""
    monkeypatch.chdir(tmp_path)
    given: dict[str, Any] = {
        "strategy": "random",
        "space": "toy-cells",
        "evaluator": "train",
        "data": "sentences",
        "evaluator_options": {"batch_size": 4, "train_size": 2000},
        "epochs": 1,
        "device": "cpu",
        "seed": 3,
        "report": False,
        "baseline": False,
        "strategy_options": {"dedup": False},
    }
    whole = nastool.search(**given, trials=3, out="whole")
    nastool.search(**given, trials=1, out="parts")
    parts = nastool.search(**given, trials=3, out="parts")
    for one, other in zip(whole.trials, parts.trials, strict=True):
        assert (one.arch, one.metrics["val_ppl"]) == (other.arch, other.metrics["val_ppl"])
    best = json.loads((tmp_path / "whole" / "best.json").read_text())
    assert best["metrics"]["val_ppl"] == min(trial.metrics["val_ppl"] for trial in whole.trials)


def test_a_checkpoint_says_what_it_is_for(tmp_path: Path) -> None:
    evaluator = texts(epochs=1)
    evaluator.workdir = tmp_path
    name = trained(evaluator, 1).checkpoint
    assert name is not None
    with safe_open(tmp_path / name, "pt") as file:
        metadata = file.metadata()
    assert metadata["family"] == "language-model"
    assert json.loads(metadata["task"]) == {"vocabulary": 219, "unit": "word"}
    assert {"<eos>", "the", "cook", "do"} <= set(json.loads(metadata["words"]))
    found = checkpoints.read(tmp_path / name, evaluator.space, evaluator.scale, evaluator.task)
    assert found.arch == evaluator.space.arch([1])
    model = nastool.load(tmp_path / name)
    assert model.task == evaluator.task
    with pytest.raises(InputError, match="holds a network for language-model, which is given tensors"):
        model.predict(np.zeros((1, 1, 8, 8), np.uint8))


@pytest.mark.parametrize(("data", "unit", "metric"), [("sentences", "word", "ppl"), ("sentences-chars", "char", "bpc")])
def test_a_network_for_texts_says_how_likely_a_text_is_and_what_comes_next(
    data: str, unit: str, metric: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """The test text's perplexity is the search's; the next word is that before the end of the last line."""
    evaluator = texts(data=data, epochs=2, lr=0.5)
    evaluator.workdir = Path.cwd()
    name = trained(evaluator, 0).checkpoint
    assert name is not None
    for part, lines in (("test", sentences.lines(500, 2)), ("begun", ["the cook that the cooks @@@ serve"])):
        Path(f"{part}.txt").write_text("\n".join(lines) + "\n")
    found = run("predict", name, "test.txt", "begun.txt", "-k", "3", "--json").accepted()
    test = evaluator.data.batches("test", torch.device("cpu"))
    assert test is not None
    network = evaluator.load(evaluator.space.arch([0]), name)
    assert found[0][metric] == pytest.approx(evaluator.measure(network, test, "test")[f"test_{metric}"], rel=1e-5)
    assert (found[0]["file"], found[0]["tokens"], found[0]["unknown"]) == ("test.txt", len(test), 0)
    assert found[1]["unknown"] == {"word": 1, "char": 3}[unit]
    likely = [each["probability"] for each in found[1]["next"]]
    assert likely == sorted(likely, reverse=True) and len(likely) == 3 and sum(likely) < 1
    words = json.loads(files.check_tensors(Path(name))["words"])
    known = {"word": "the cook that the cooks serve".split(), "char": "the cook that the cooks  serve"}[unit]
    tokens = torch.tensor([[words.index({"word": "<eos>", "char": "\n"}[unit]), *map(words.index, known)]])
    with torch.inference_mode():
        best = network(tokens)[0][0, -1].softmax(0).max(0)
    assert found[1]["next"][0] == {unit: words[best.indices], "probability": pytest.approx(float(best.values))}
    shown = run("predict", name, "begun.txt", "nothing.txt", "--text", "-k", "5")
    assert shown.code == 2 and "cannot read nothing.txt: No such file" in shown.err
    assert shown.out.startswith(f"begun.txt  {metric} ") and "unknown  next: " in shown.out
    assert run("export", name, "--to", "python", "-o", "model.py").code == 0
    code: dict[str, Any] = {"__name__": "model", "__file__": "model.py"}
    exec(compile(Path("model.py").read_text(), "model.py", "exec", dont_inherit=True), code)
    capsys.readouterr()
    assert code["main"]([name, "begun.txt", "nothing.txt", "test.txt"]) == 2
    alone = capsys.readouterr()
    assert "nothing.txt: cannot be read as a text" in alone.err
    begun, test_line = alone.out.splitlines()
    assert begun.replace("'", "") == shown.out.strip().replace("'", "")
    assert f"{metric} {found[0][metric]:.4g}  {len(test):,} tokens" in test_line
    assert code["main"](["test.txt"]) == 2


def test_shared_weights_of_a_text(tmp_path: Path) -> None:
    """Uniformly trained children; the scores of a run that was killed after a round are those of one that was not."""

    def shared(folder: Path) -> Supernet:
        found = Supernet(Cells(), data="sentences", device="cpu", epochs=2, batch_size=4, train_size=2000, seed=0)
        found.workdir = folder
        return found

    def score(evaluator: Supernet) -> dict[str, float]:
        return dict(evaluator.evaluate(0, Proposal(evaluator.space.arch([0])), seed=0, report=report).metrics)

    class Killed(Exception):
        pass

    def report(step: int, metrics: Any) -> None:
        if kill and step == 1:
            raise Killed

    kill = False
    whole = score(shared(tmp_path / "a"))
    kill = True
    with pytest.raises(Killed):
        score(shared(tmp_path / "b"))
    kill = False
    assert score(shared(tmp_path / "b")) == whole and whole["shared_ppl"] < 219


def test_a_policy_is_rewarded_for_texts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supernet, "inline", True)
    command = "search --strategy enas --space toy-cells --data sentences --device cpu --epochs 2 --retrain 0 --out a"
    given = ["-S", "steps=3", "-S", "candidates=2", "-E", "batch_size=4", "-E", "train_size=2000", "--no-baseline"]
    assert run(*command.split(), *given).code == 0
    best = json.loads(Path("a/best.json").read_text())
    assert best["metrics"]["shared_ppl"] < 219


# --- a regression


def test_a_regression_is_learned() -> None:
    evaluator = curves(epochs=60, lr=0.05)
    assert evaluator.objective == "val_loss" and evaluator.metrics == {"val_loss", "params", "flops"}
    assert trained(evaluator, 1, 0).metrics["val_loss"] < 0.03 < 0.4, "the variance is 4/9"


def test_all_data_and_options_are_a_tasks_to_know() -> None:
    assert curves(train_size=40).family.name == "toy-curves"
    with pytest.raises(InputError, match="image_size: data for toy-curves has no such option"):
        curves(image_size=8)
    with pytest.raises(InputError, match="all_data: data for toy-curves has no such option"):
        curves(all_data=True)


def test_a_space_is_for_its_tasks() -> None:
    with pytest.raises(InputError, match="has networks for images, and sentences is for language-model"):
        Train(NasBench201(), data="sentences")
    with pytest.raises(InputError, match="space toy-cells has networks for language-model, and digits is for images"):
        Train(Cells())


def test_every_task_s_data_are_listed(run: Run) -> None:
    assert {"digits", "text:DIR", "toy-curves"} <= {line["name"] for line in run("list", "data", "--json").accepted()}
    run("search", "--data", "nothing").refused("no data set 'nothing'")


# --- optimisers

RULES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "nesterov off": {"nesterov": False, "momentum": 0.0},
    "adamw": {"optimizer": Rule("adamw"), "lr": 0.01},
    "asgd": {"optimizer": Rule("asgd", lambd=0.01)},
    "averaged sgd": {"optimizer": Rule("asgd"), "average": 2.5, "warmup_epochs": 0},
    "averaged adamw": {"optimizer": Rule("adamw"), "lr": 0.01, "average": 3},
    "rmsprop": {"optimizer": Rule("rmsprop"), "lr": 0.01},
}


@pytest.mark.parametrize("make", [texts, curves])
@pytest.mark.parametrize("name", RULES)
def test_a_training_that_was_killed_goes_on_bit_for_bit(name: str, make: Any, tmp_path: Path) -> None:
    """Weights and the optimiser's memory, written and read as files are, are all that an undisturbed one has."""
    evaluator = make()
    evaluator.prepare()
    recipe = Recipe(**({"epochs": 4, "batch_size": 20, "lr": 0.05} | RULES[name]))
    arch = evaluator.space.arch([0] * len(evaluator.space.decisions))

    def begun() -> Training:
        training: Training = evaluator.training(evaluator.build(arch, 0), recipe, 0)
        return training

    def epochs(training: Training, numbers: range) -> None:
        for number in numbers:
            training.generator.manual_seed(number)
            list(training.epoch())

    whole, killed = begun(), begun()
    epochs(whole, range(4))
    epochs(killed, range(2))
    path = tmp_path / "a.safetensors"
    checkpoints.write(path, killed.network.state_dict(), killed.memory(), {})
    again = begun()
    again.network.load_state_dict(files.read_tensors(path)[0])
    again.resume(files.read_tensors(checkpoints.optimizer_of(path))[0], killed.done)
    epochs(again, range(2, 4))
    for training in (whole, again):
        training.optimizer.take_average()
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key
    memory = again.memory()
    assert memory.keys() == whole.memory().keys()
    assert all(torch.equal(value, memory[key]) for key, value in whole.memory().items())


@pytest.mark.parametrize(("name", "lr"), [("sgd", 0.05), ("adamw", 0.01), ("rmsprop", 0.01), ("asgd", 0.5)])
def test_another_rule_learns_too(name: str, lr: float) -> None:
    evaluator = curves(epochs=40)
    evaluator.recipe = evaluator.recipe.replace(optimizer=Rule(name), lr=lr)  # type: ignore[arg-type]
    assert trained(evaluator, 1, 0).metrics["val_loss"] < 0.1


def test_the_average_is_the_mean_of_the_last_weights() -> None:
    evaluator = curves()
    evaluator.prepare()
    recipe = Recipe(epochs=3, batch_size=20, lr=0.05, average=1)
    training = evaluator.training(evaluator.build(evaluator.space.arch([0, 0]), 0), recipe, 0)
    weight = next(training.network.parameters())
    seen = [weight.detach().clone() for _ in range(3) for _ in training.epoch()]
    last = weight.detach().clone()
    assert torch.equal(seen[-1], last)
    mean = torch.stack(seen[-training.steps :]).mean(0)
    with training.optimizer.averaged():
        assert torch.allclose(weight, mean, rtol=1e-5, atol=1e-7)
    assert torch.equal(weight, last)
    training.optimizer.take_average()
    assert torch.allclose(weight, mean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rule", ["sgd", "adamw", "asgd", "rmsprop"])
def test_a_child_takes_over_what_the_optimiser_remembers(rule: Any, tmp_path: Path) -> None:
    """Of the same architecture: all of it, so that the two halves of a training are the whole one."""
    evaluator = curves(epochs=2)
    evaluator.workdir = tmp_path
    evaluator.recipe = evaluator.recipe.replace(optimizer=Rule(rule), lr=0.01)
    evaluator.prepare()
    trained(evaluator, 0, 1, trial=0, inherit=True)
    before = checkpoints.read(
        tmp_path / checkpoints.name_of(0), evaluator.space, evaluator.scale, evaluator.task, trial=0
    ).memory
    training = evaluator._begin(Proposal(evaluator.space.arch([0, 1]), parent=0, inherit=True), evaluator.recipe, 1)
    memory = training.memory()
    assert memory.keys() == before.keys() and len(memory) >= 4
    assert all(torch.equal(value, memory[key]) for key, value in before.items())
    wider = evaluator._begin(Proposal(evaluator.space.arch([1, 1]), parent=0, inherit=True), evaluator.recipe, 1)
    list(wider.epoch())  # what is new begins without a memory, and steps


def test_of_another_rule_nothing_is_taken() -> None:
    evaluator = curves()
    evaluator.prepare()
    network = evaluator.build(evaluator.space.arch([0, 0]), 0)
    sgd = evaluator.training(network, Recipe(batch_size=20), 0)
    list(sgd.epoch())
    adamw = evaluator.training(network, Recipe(batch_size=20, optimizer=Rule("adamw")), 0)
    adamw.optimizer.remember(sgd.memory())
    assert adamw.memory() == {}
    list(adamw.epoch())


@pytest.mark.parametrize("rule", ["adamw", "asgd", "rmsprop"])
def test_a_network_that_grows_keeps_what_the_optimiser_remembers(rule: Any, tmp_path: Path) -> None:
    """Where the parent's weights went; the count of its steps goes with each tensor, and zeros are what is new."""
    evaluator = Train(MorphCNN(), data="digits", device="cpu", epochs=1, train_size=64, scale={"channels": 4})
    evaluator.workdir = tmp_path
    evaluator.recipe = evaluator.recipe.replace(optimizer=Rule(rule), lr=0.01)
    evaluator.prepare()
    space: Any = evaluator.space
    start = space.start()
    evaluator.evaluate(0, Proposal(start, inherit=True), seed=1, report=lambda *_: None)
    wider = space.morphisms(start)["wider"][0]
    training = evaluator._begin(Proposal(wider, parent=0, inherit=True), evaluator.recipe, 1)
    memory = training.memory()
    own = {"adamw": "exp_avg_sq", "asgd": "ax", "rmsprop": "square_avg"}[rule]
    grown = [memory[key] for key in memory if key.endswith(f":{own}") and memory[key].dim() == 4]
    assert any((each == 0).any() and (each != 0).any() for each in grown)
    steps = {int(value) for key, value in memory.items() if key.endswith(":step")}
    assert steps == {1}
    list(training.epoch())
    assert {int(value) for key, value in training.memory().items() if key.endswith(":step")} == {2}
