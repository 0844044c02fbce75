"""nastool.training.recipes: what is shipped, what a user's file may say, and the learning rate."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from nastool.core import options
from nastool.core.errors import InputError
from nastool.core.recipe import RANGES, Recipe, Schedule
from nastool.evaluators.train import Train
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.tensors import notes
from nastool.training.recipes import default_recipe, load_recipe, recipe_names, recipe_text
from tests.helpers import pictures
from tests.helpers.fuzz import FUZZ, JSON

FIELDS = [field.name for field in dataclasses.fields(Recipe)]


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_shipped_names() -> None:
    assert {"default", "digits", "nasbench201", "supernet-default", "enas-macro-cifar10"} < set(recipe_names())
    assert all(
        f"supernet-{default_recipe(data)}" in recipe_names() for data in ("digits", "shapes", "cifar10", "folder:x")
    )


SPECIAL = {"restart_epochs", "restart_factor", "dropout", "drop_path", "drop_path_by_depth", "auxiliary_weight"}
SPECIAL |= {
    "steps",
    "optimizer",
    "average",
    "average_after",
    "best_of",
    "hold_epochs",
    "decay",
    "decay_epochs",
    "text",
    "scale",
    "retrain",
    "decay_norms",
    "decay_off_path",
    "train_auxiliary",
    "reward_dropout",
    "flops_bonus",
}


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_says_what_it_does_and_can_be_copied(name: str, tmp_path: Path) -> None:
    """All that every training of its data has; what few have only where it is not off, but for the recipe `default`."""
    text = recipe_text(name)
    assert text.startswith("#")
    said = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    other = set()
    if any(noun in load_recipe(name).description for noun in ("tables", "signals", "texts")):
        other = {"crop_padding", "flip", "cutout", "label_smoothing", "momentum", "nesterov"}
    assert set(FIELDS) - SPECIAL - other <= said <= set(FIELDS)
    assert name != "default" or said == set(FIELDS)
    recipe = load_recipe(name)
    assert recipe.description
    assert load_recipe(written(tmp_path, text)) == recipe


def test_the_defaults_are_the_recipe_default() -> None:
    assert dataclasses.replace(load_recipe("default"), description="", steps=0) == Recipe()


def test_a_field_that_came_later_changes_no_earlier_search() -> None:
    """A run's identity says nothing of it while it means what was done before."""
    assert "decay_norms" not in Train.resolved({**OPTIONS, "recipe": "default"})["recipe"]
    values = Recipe(decay_norms=False, description="x").values()
    assert values["decay_norms"] is False and values["momentum"] == 0.9 and "description" not in values


OPTIONS = {"recipe": None, "data": "digits", "epochs": None, "batch_size": None, "lr": None, "from_checkpoint": None}


def test_nasbench201_is_as_published() -> None:
    """Dong & Yang, ICLR 2020, table 1."""
    published = Recipe(
        epochs=200,
        batch_size=256,
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.0005,
        schedule="cosine",
        warmup_epochs=0,
        final_lr=0,
        label_smoothing=0,
        grad_clip=0,
        crop_padding=4,
        flip=True,
        cutout=0,
    )
    assert dataclasses.replace(load_recipe("nasbench201"), description="") == published
    assert dataclasses.replace(load_recipe("nasbench201-12"), description="") == published.replace(epochs=12)


@pytest.mark.parametrize(
    ("data", "recipe"),
    [("digits", "digits"), ("cifar10", "cifar10-quick"), ("mnist", "default"), ("npz:a.npz", "default")],
)
def test_default_recipe_of_a_data_set(data: str, recipe: str) -> None:
    assert default_recipe(data) == recipe
    assert recipe in recipe_names()


def test_digits_and_letters_are_not_mirrored() -> None:
    for data in ("digits", "mnist", "svhn", "npz:a.npz", "folder:a"):
        assert not load_recipe(default_recipe(data)).flip


def test_a_file_may_be_short_or_empty(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "epochs: 3\nlr: 1\n")) == Recipe(epochs=3, lr=1)
    assert load_recipe(written(tmp_path, "# nothing\n")) == Recipe()


def test_yaml_text_that_means_a_number(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, "weight_decay: 5e-4\n")).weight_decay == 0.0005


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "recipe {}: no key 'epoch'; did you mean 'epochs'?"),
        ("zzzzzz: 3", "recipe {}: no key 'zzzzzz'; there are steps, epochs, batch_size,"),
        ("epochs: 0", "recipe {}: epochs: need a whole number from 1 to 100000, got 0"),
        ("epochs: 2.5", "recipe {}: epochs: need a whole number from 1 to 100000, got 2.5"),
        ("epochs: 5.0", "recipe {}: epochs: need a whole number from 1 to 100000, got 5.0"),
        ("epochs: true", "recipe {}: epochs: need a whole number from 1 to 100000, got True"),
        ("epochs: many", "recipe {}: epochs: need a whole number from 1 to 100000, got 'many'"),
        ("epochs:", "recipe {}: epochs: need a whole number from 1 to 100000, got None"),
        ("batch_size: 1", "recipe {}: batch_size: need a whole number from 2 to 65536, got 1"),
        ("lr: .nan", "recipe {}: lr: need a number from 1e-09 to 1000, got nan"),
        ("lr: nan", "recipe {}: lr: need a number from 1e-09 to 1000, got nan"),
        ("lr: .inf", "recipe {}: lr: need a number from 1e-09 to 1000, got inf"),
        ("lr: 0", "recipe {}: lr: need a number from 1e-09 to 1000, got 0"),
        ("lr: true", "recipe {}: lr: need a number from 1e-09 to 1000, got True"),
        ("lr: fast", "recipe {}: lr: need a number from 1e-09 to 1000, got 'fast'"),
        ("lr: [0.1]", "recipe {}: lr: need a number from 1e-09 to 1000, got [0.1]"),
        ("label_smoothing: 1", "recipe {}: label_smoothing: need a number from 0 to 0.9999, got 1"),
        ("flip: 1", "recipe {}: flip: need true or false, got 1"),
        ("decay_norms: 0", "recipe {}: decay_norms: need true or false, got 0"),
        ("schedule: step", "recipe {}: schedule: need cosine, constant, decay, got 'step'"),
        ("description: 3", "recipe {}: description: need text, got 3"),
        ("momentum: 0", "recipe {}: nesterov: true needs momentum > 0"),
        ("final_lr: 1", "recipe {}: final_lr: need at most lr = 0.1, got 1"),
        ("text: 35", "recipe {}: text: need its values, got 35"),
        ("text: {bppt: 35}", "recipe {}: text: no key 'bppt'; did you mean 'bptt'?"),
        ("text: {bptt: 0}", "recipe {}: text bptt: need a whole number from 1 to 100000, got 0"),
        ("text: {dropout: 0.5}", "recipe {}: text dropout: need rates by place, got 0.5"),
        ("text: {dropout: {cell: 0.5}}", "recipe {}: text dropout: no place 'cell'; there are words, embedding, input"),
        ("text: {dropout: {nodes: 1}}", "recipe {}: text dropout nodes: need a number from 0 to less than 1, got 1"),
        ("average: 3\naverage_after: 5", "recipe {}: average_after: the recipe says when the average begins"),
        ("- epochs", "{} must be a YAML mapping"),
        ("epochs: [", "{} line 1 is no valid YAML"),
    ],
)
def test_errors_name_file_key_value_and_range(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(message.format(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(RANGES))
def test_both_ends_of_a_range(key: str) -> None:
    low, high = RANGES[key]
    whole = isinstance(getattr(Recipe(), key), int)
    plain = {"nesterov": False, "lr": 1000.0} | ({"final_lr": 0.0} if key != "final_lr" else {})
    for value in (low, high):
        made = Recipe(**(plain | {key: int(value) if whole else value}))  # type: ignore[arg-type]
        assert getattr(made, key) == value
    for value in (low - 1, high + 1):
        with pytest.raises(InputError, match=rf"^{key}: need a.* from .* to .*, got"):
            Recipe(**(plain | {key: int(value) if whole else value}))  # type: ignore[arg-type]


def test_unknown_names_and_missing_files() -> None:
    with pytest.raises(InputError, match=r"no recipe 'digit'; did you mean 'digits'\?"):
        load_recipe("digit")
    with pytest.raises(InputError, match=r"no recipe '\.\.'"):
        recipe_text("..")
    with pytest.raises(InputError, match=r"no recipe file /nowhere/r\.yaml; `nastool list recipes`"):
        load_recipe("/nowhere/r.yaml")


def test_replace_leaves_out_none_and_checks() -> None:
    assert Recipe().replace(epochs=None, lr=0.5) == Recipe(lr=0.5)
    with pytest.raises(InputError, match="epochs: need a whole number from 1 to 100000, got -1"):
        Recipe().replace(epochs=-1)


# --- the learning rate


def test_decay_by_epochs() -> None:
    """Zaremba et al. 2014: halves from the fifth epoch on; Merity et al. 2018 on characters: tenths at 300 and 400."""
    recipe = load_recipe("ptb-small")
    assert [recipe.learning_rate(10 * epoch + 9, 10) for epoch in range(7)] == [20, 20, 20, 20, 10, 5, 2.5]
    assert recipe.learning_rate(40, 10) == 10
    recipe = load_recipe("ptb-char")
    assert [recipe.learning_rate(epoch, 1) for epoch in (0, 299, 300, 399, 400, 499)] == pytest.approx(
        [0.002, 0.002, 0.0002, 0.0002, 0.00002, 0.00002]
    )
    floor = Recipe(schedule="decay", decay=0.5, final_lr=0.03, warmup_epochs=0)
    assert [floor.learning_rate(epoch, 1) for epoch in (0, 1, 2)] == [0.05, 0.03, 0.03]


def test_cosine_without_warmup_by_hand() -> None:
    recipe = Recipe(epochs=2, lr=1.0, final_lr=0.2, warmup_epochs=0)
    rates = [recipe.learning_rate(step, 2) for step in range(4)]
    half = math.sqrt(0.5)
    assert rates == pytest.approx([1.0, 0.6 + 0.4 * half, 0.6, 0.6 - 0.4 * half])


def test_warmup_is_linear_and_reaches_lr() -> None:
    recipe = Recipe(epochs=3, lr=1.0, warmup_epochs=1.5, schedule="constant")
    assert [recipe.learning_rate(step, 2) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 20),
    warmup=st.floats(0, 30),
    lr=st.floats(0.001, 10),
    final=st.floats(0, 1),
    cosine=st.booleans(),
)
def test_learning_rate_stays_in_bounds_rises_then_falls(
    epochs: int, steps: int, warmup: float, lr: float, final: float, cosine: bool
) -> None:
    recipe = Recipe(
        epochs=epochs,
        lr=lr,
        warmup_epochs=warmup,
        final_lr=final * lr,
        schedule="cosine" if cosine else "constant",
    )
    rates = [recipe.learning_rate(step, steps) for step in range(epochs * steps)]
    assert all(0 < rate <= lr * (1 + 1e-9) for rate in rates)
    top = max(range(len(rates)), key=rates.__getitem__)
    assert top <= len(rates) / 2 + 1
    assert rates[:top] == sorted(rates[:top])
    assert all(a >= b - 1e-9 * lr for a, b in zip(rates[top:], rates[top + 1 :], strict=False))


def test_warm_restarts() -> None:
    """SGDR with T_0 = 10 and T_mult = 2, as ENAS has it: restarts after 10, 30 and 70 epochs, 310 end one exactly."""
    recipe = load_recipe("enas-macro-cifar10")
    steps = 7

    def rate(epoch: float) -> float:
        return recipe.learning_rate(round(epoch * steps), steps)

    for epoch in (0, 10, 30, 70, 150):
        assert rate(epoch) == recipe.lr == 0.05
        assert rate(epoch + 1 / steps) < recipe.lr
    for start, end in ((0, 10), (10, 30), (30, 70), (70, 150), (150, 310)):
        assert rate((start + end) / 2) == pytest.approx((recipe.lr + recipe.final_lr) / 2)
        last = recipe.learning_rate(end * steps - 1, steps)
        assert recipe.final_lr < last < recipe.final_lr + 1e-4
    assert sum((10, 20, 40, 80, 160)) == recipe.epochs


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    steps=st.integers(1, 50),
    warmup=st.floats(0, 20),
    restart=st.integers(0, 10),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_parts_of_a_longer_training(
    lengths: list[int], steps: int, warmup: float, restart: int, schedule: Schedule
) -> None:
    """One after another they have the learning rates of one training that is as long as all."""
    recipe = Recipe(lr=0.4, final_lr=0.001, warmup_epochs=warmup, restart_epochs=restart, schedule=schedule)
    whole = recipe.replace(epochs=sum(lengths))
    expected = [whole.learning_rate(step, steps) for step in range(whole.epochs * steps)]
    found, before = [], 0
    for epochs in lengths:
        part = (before / whole.epochs, (before + epochs) / whole.epochs)
        piece = recipe.replace(epochs=epochs)
        found += [piece.learning_rate(step, steps, part) for step in range(epochs * steps)]
        before += epochs
    assert found == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_whole_training_is_a_part_of_itself(epochs: int, steps: int) -> None:
    recipe = Recipe(epochs=epochs)
    assert [recipe.learning_rate(step, steps, (0.0, 1.0)) for step in range(epochs * steps)] == [
        recipe.learning_rate(step, steps) for step in range(epochs * steps)
    ]


def test_network_morphism_recipes_are_as_published() -> None:
    """Elsken et al. 2017: SGDR from 0.05 to 0, batches of 64; a cosine for each training, without warm-up."""
    for data in ("digits", "cifar10", "cifar100", "npz:a.npz", "folder:a"):
        recipe = load_recipe(default_recipe(data, "morphism-"))
        assert (recipe.lr, recipe.final_lr, recipe.batch_size) == (0.05, 0, 64)
        assert (recipe.schedule, recipe.warmup_epochs, recipe.restart_epochs) == ("cosine", 0, 0)


def test_published_enas_settings() -> None:
    """As in the authors' scripts. Their l2 penalty is not halved, so weight decay is twice its factor."""
    macro, micro = load_recipe("enas-macro-cifar10"), load_recipe("enas-micro-cifar10")
    assert (macro.epochs, macro.batch_size, macro.weight_decay, macro.dropout) == (
        310,
        128,
        2 * 2.5e-4,
        0.1,
    )
    assert (micro.epochs, micro.batch_size, micro.weight_decay, micro.drop_path) == (
        150,
        160,
        2 * 1e-4,
        0,
    )
    for recipe in (macro, micro):
        assert (recipe.lr, recipe.final_lr, recipe.restart_epochs, recipe.restart_factor) == (0.05, 0.0005, 10, 2)
        assert recipe.nesterov and recipe.momentum == 0.9 and recipe.decay_off_path
        final = load_recipe(recipe.retrain)
        assert final.epochs == {310: 310, 150: 630}[recipe.epochs]
        assert not recipe.grad_clip and not final.grad_clip, "their option has no effect"
    final = load_recipe(micro.retrain)
    assert (final.drop_path, final.cutout) == (0.4, 0)
    assert micro.auxiliary_weight == final.auxiliary_weight == 0.4
    assert not micro.train_auxiliary and not final.train_auxiliary
    assert micro.reward_dropout and not macro.reward_dropout


def test_every_recipe_leads_to_one_that_is_there() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.retrain:
            assert not load_recipe(recipe.retrain).retrain


@pytest.mark.parametrize("scale", [{"channels": 1.5}, {"channels": True}, ["channels"], "channels=3", {3: 4}])
def test_bad_sizes(scale: object) -> None:
    with pytest.raises(InputError, match="scale: need whole numbers by name"):
        Recipe(scale=scale)  # type: ignore[arg-type]


def test_a_size_is_for_the_spaces_that_have_it() -> None:
    from nastool.spaces.macro_cnn import MacroCNN

    recipe = Recipe(scale={"channels": 8, "cells": 2})
    assert recipe.scale_for(MacroCNN.Scale) == {"channels": 8}
    assert recipe.scale_for(NasBench201.Scale) == {"channels": 8, "cells": 2}


@FUZZ
@given(
    st.dictionaries(st.sampled_from([*options.of(Recipe)]) | st.text(max_size=5), JSON)
    .map(yaml.safe_dump)
    .map(str.encode)
    | st.binary(max_size=60)
)
@example(b"lr: !!timestamp x")
def test_fuzz_recipe(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(data)
    try:
        recipe = load_recipe(str(path))
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert 0 <= recipe.learning_rate(0, 10) <= recipe.lr


def test_few_examples_make_small_batches_and_then_more_epochs() -> None:
    """And many change nothing, nor do few in a recipe that wants no number of steps."""
    recipe = load_recipe("default")

    def fitted(n: int, longer: bool = True) -> tuple[int, int]:
        own = recipe.on_few(lambda own: max(1, n // own.batch_size), longer)
        return own.batch_size, own.epochs

    assert recipe.steps == 150 and fitted(1024) == (128, 20) and fitted(1023) == (64, 20)
    assert fitted(150) == (16, 20) and fitted(64) == (16, 38) and fitted(2) == (16, 150)
    assert fitted(64, longer=False) == (16, 20)
    digits = load_recipe("digits")
    assert digits.on_few(lambda own: 1078 // own.batch_size) == digits
    assert recipe.replace(steps=0).on_few(lambda own: 1) == recipe.replace(steps=0)


@pytest.mark.parametrize(("given", "expected"), [({}, (16, 38, True)), ({"epochs": 1}, (128, 1, False))])
def test_a_training_on_few_images_is_fitted_said_and_kept(
    given: dict[str, int], expected: tuple[int, int, bool], tmp_path: Path
) -> None:
    """What was given stays as it is; what a run began with is given when it goes on."""
    folder = pictures.write(tmp_path / "shapes")
    own = Train(NasBench201(), data=f"folder:{folder}", device="cpu", scale={"channels": 2, "cells": 1}, **given)  # type: ignore[arg-type]
    own.prepare()
    facts = own.describe()
    assert (own.recipe.batch_size, own.recipe.epochs, "fitted" in facts) == expected
    assert {"batch_size", "epochs"} <= own.settled_options and facts["epochs"] == expected[1]
    assert (facts["train_images"], facts["val_images"], facts["images"]) == (64, 22, "3x32x32, 3 classes")
    said = "\n".join(notes(facts))
    assert ("batch_size 16 instead of 128, epochs 38 instead of 20" in said) == expected[2]
    assert ("a training has only 1 step:" in said) == ("epochs" in given)
