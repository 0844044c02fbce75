"""Figures: what they count, and that as SVG they fit into a page."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nastool.analysis.figures import beliefs, families, kinds, lineage, operations, output, progress, results, style
from nastool.analysis.figures.base import Drawn
from nastool.analysis.figures.kinds import KINDS, draw
from nastool.analysis.figures.output import save
from nastool.core.errors import InputError
from nastool.core.space import SearchSpace
from nastool.core.values import Decision
from nastool.engine.study import Study
from nastool.spaces.macro_cnn import MacroCNN
from nastool.spaces.morph_cnn import MorphCNN
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers import made_runs
from tests.helpers.running import Run
from tests.unit.analysis.report.test_report import Toy, rich

HOSTILE = "<b>$x_1$]]>&\x1b\x00\ud800\u2028 " + "long " * 20


def drawn(name: str, *studies: Study) -> list[Drawn]:
    return [found for _, found in kinds.draw(kinds.KINDS[name], studies)]


def policy(study_space: SearchSpace, favourite: float) -> dict[str, Any]:
    frequencies = []
    for decision in study_space.decisions:
        rest = (1 - favourite) / max(1, len(decision.options) - 1)
        frequencies.append([favourite, *[rest] * (len(decision.options) - 1)])
    return {"frequencies": frequencies}


def rounds() -> Study:
    """A run of a policy: three rounds, then candidates."""
    space = NasBench201()
    policies = {i: policy(space, 0.2 + 0.2 * i) for i in range(3)}
    values = [0.1, 0.3, 0.4, *[0.5 + 0.01 * i for i in range(9)]]
    return made_runs.study(values, policies=policies, metrics={"reward": 0.3, "entropy": 5.0}, strategy="enas")


def weighed() -> Study:
    """Two objectives."""
    study = rich()
    return made_runs.with_latency(study, [float(40 - trial.id) for trial in study.trials])


def late(**staleness: Any) -> Study:
    """With replicas: by how many updates gradients came late so far."""
    study = made_runs.study([0.1, 0.2])
    first = study.trials[0]
    proposal = replace(first.trial.proposal, notes={"staleness": staleness})
    return replace(study, trials=(replace(first, trial=replace(first.trial, proposal=proposal)), study.trials[1]))


SUITABLE = {name: rich for name in kinds.KINDS} | {name: rounds for name in kinds.KINDS if "policy" in name}
SUITABLE |= {"front": weighed, "hypervolume": weighed, "staleness": lambda: late(**{"0": 3, "2": 1})}


def suitable(name: str) -> Study:
    study = SUITABLE[name]()
    return varied(study) if name == "size" else study


def varied(study: Study) -> Study:
    """With sizes that differ."""

    def resized(trial: Any) -> Any:
        evaluation = trial.trial.evaluation
        if evaluation is None:
            return trial
        metrics = {**evaluation.metrics, "params": 1000.0 * (1 + trial.id)}
        return replace(trial, trial=replace(trial.trial, evaluation=replace(evaluation, metrics=metrics)))

    return replace(study, trials=tuple(map(resized, study.trials)))


# --- all of them


@pytest.mark.parametrize("name", list(kinds.KINDS))
def test_every_figure(name: str) -> None:
    """Something is drawn of a run that has something, and nothing of one that has not."""
    found = drawn(name, suitable(name))
    assert found
    names = [figure.name for figure in found]
    assert len(set(names)) == len(names)
    for figure in found:
        assert re.fullmatch(rf"{name}(-\d+)?", figure.name)
        assert figure.title and figure.caption.endswith(".")
        text = output.inline(figure, "p-")
        root = ElementTree.fromstring(text)
        assert root.tag == "svg"
        assert set(root.attrib) == {"viewBox", "class", "role", "aria-label"}  # as wide as its place
        assert "var(--" in text and "DejaVu" not in text and "<style" not in text
        colors = "|".join([*style.COLORS, style.TEXT, style.MUTED, style.GRID])
        assert not re.search(colors, text, re.IGNORECASE)
        identifiers = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(set(identifiers)) == len(identifiers)
        assert all((identifier or "").startswith("p-") for identifier in identifiers)
        targets = re.findall(r'(?:href="#(?!p-trial-|trial-)|url\(#)([^")]+)', text)
        assert set(targets) <= set(identifiers)
        (again,) = [other for other in drawn(name, suitable(name)) if other.name == figure.name]
        assert output.inline(again, "p-") == text
    for nothing in (made_runs.study([]), made_runs.study([None]), made_runs.study([0.5])):
        if not name.startswith("best-over"):
            assert drawn(name, nothing) == []


@pytest.mark.parametrize("name", ["best-over-trials", "best-over-time", "best-over-cost"])
def test_progress_of_failures_alone(name: str) -> None:
    (found,) = drawn(name, made_runs.study(["no", "no"]))
    assert "2 failed" in found.caption
    output.inline(found, "")
    assert drawn(name, made_runs.study([]), made_runs.study([])) == []


def test_many_marks_are_pixels() -> None:
    """So a page with 10,000 trials stays small; all marks are there."""
    rng = np.random.default_rng(0)
    few, many = made_runs.study(rng.random(100).tolist()), made_runs.study(rng.random(style.MANY + 1).tolist())
    small, large = (output.inline(drawn("best-over-trials", study)[0], "") for study in (few, many))
    assert "<image" not in small and small.count("<use") >= 100
    assert large.count("<image") == 1 and 'href="data:image/png;base64,' in large
    assert len(large) < 400_000


@settings(max_examples=10, deadline=None)
@given(st.text(min_size=1, max_size=40), st.text(max_size=40))
def test_any_name_can_be_a_label(name: str, option: str) -> None:
    space = Toy(name, (option, option + "x", HOSTILE))
    study = made_runs.study([0.1 * i for i in range(9)], space=space)
    for figure in (*drawn("operations", study), *drawn("best-decisions", study)):
        ElementTree.fromstring(output.inline(figure, "x"))


def test_labels_are_taken_literally() -> None:
    study = made_runs.study([0.1, 0.2, 0.3], objective="<b>$x_1$</b>:max")
    text = output.inline(drawn("best-over-trials", study)[0], "")
    assert "&lt;b&gt;$x_1$&lt;/b&gt;" in text
    assert style.clean(HOSTILE).startswith("<b>$x_1$]]>&\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}")
    assert len(style.clean(HOSTILE)) == 40


# --- files


@pytest.mark.parametrize("suffix", output.FORMATS)
def test_files(tmp_path: Path, suffix: str) -> None:
    """At print quality, with title and caption; the same twice."""
    paths = [tmp_path / f"{i}.{suffix}" for i in range(2)]
    for path in paths:
        output.save(drawn("genealogy", rich())[0], path)
    first = paths[0].read_bytes()
    assert first == paths[1].read_bytes()
    if suffix == "png":
        width = int.from_bytes(first[16:20], "big")
        assert width == round(style.WIDTH * 300)
    elif suffix == "svg":
        assert b"DejaVu" in first or b"<path" in first
    else:
        assert first.startswith(b"%PDF")
    with pytest.raises(InputError, match="cannot write"):
        output.save(drawn("genealogy", rich())[0], tmp_path / "no" / f"such.{suffix}")


def test_plot_command(run: Run, tmp_path: Path) -> None:
    made_runs.folder(tmp_path / "a", [0.1 * i for i in range(9)])
    made_runs.folder(tmp_path / "b", [0.1 * i for i in range(9)], seed=1)
    listed = run("plot", "--list").accepted()
    assert [line["figure"] for line in listed] == list(kinds.KINDS)
    found = run("plot", "a").accepted()
    names = {line["figure"] for line in found}
    assert {"best-over-trials", "operations", "best-decisions", "size"} <= names
    assert all((tmp_path / line["file"]).stat().st_size > 1000 for line in found)
    assert {Path(line["file"]).parent for line in found} == {Path("a/figures")}
    found = run("plot", "a", "b", "-f", "best-over-trials", "-f", "operations", "--to", "pdf").accepted()
    assert [line["file"] for line in found] == [
        "figures/best-over-trials.pdf",
        "figures/operations-1-a.pdf",
        "figures/operations-2-b.pdf",
    ]
    assert run("plot", "a", "-f", "operations", "-o", "x.svg").accepted()[0]["file"] == "x.svg"
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    assert "genealogy" in run("plot", "a", "-f", "operations", "-f", "genealogy").err


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        ([], ["needs a run"]),
        (["a", "-f", "operation"], ["'operation'", "did you mean 'operations'"]),
        (["a", "-f", "genealogy"], ["nothing to draw for genealogy"]),
        (["a", "-o", "x.gif"], ["must end with .png or .svg or .pdf"]),
        (["a", "-o", "x.png", "--to", "svg"], ["must end with"]),
        (["a", "-o", "x.png"], ["one file", "give a folder"]),
        (["a", "-f", "operations", "-o", "no/x.png"], ["there is no no"]),
        (["a", "-f", "operations", "-o", "a/run.db/x/"], ["--out"]),
        (["nowhere"], ["no run folder"]),
    ],
)
def test_plot_refuses(run: Run, tmp_path: Path, arguments: list[str], fragments: list[str]) -> None:
    made_runs.folder(tmp_path / "a", [0.1 * i for i in range(9)])
    run("plot", *arguments).refused(*fragments)


# --- progress


def test_costs_and_times() -> None:
    study = made_runs.study([0.5, "no", 0.7])
    assert progress.over_trials(study) == [1, 2, 3]
    assert progress.over_time(study) == [5, 15, 25]  # from the first start to each finish
    assert progress.over_cost(study) == [2, 7, 11]  # a failed one costs what it took: 5 seconds


def test_runs_that_differ_in_their_seed_are_averaged() -> None:
    same = [made_runs.study([0.1, value], seed=seed) for seed, value in enumerate((0.2, 0.4))]
    other = made_runs.study([0.3, 0.3], options={"population": 3})
    assert [len(group) for group in progress.groups([*same, other])] == [2, 1]
    at, mean = progress._mean(
        [(np.array([1.0, 2.0]), np.array([0.1, 0.2])), (np.array([1.0, 2.0]), np.array([0.1, 0.4]))]
    )
    assert mean[0] == pytest.approx(0.1) and mean[-1] == pytest.approx(0.3)
    assert at[0] == 1 and at[-1] == 2
    (found,) = drawn("best-over-trials", *same, other)
    labels = found.figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["evolution, 2 seeds", "evolution (population=3)"]


def test_a_curve_keeps_its_steps() -> None:
    x, y = progress._steps([1, 2, 3, 4, 5], [math.nan, 0.1, 0.1, 0.2, 0.2])
    assert (x, y) == ([2, 4, 5], [0.1, 0.2, 0.2])


@pytest.mark.parametrize(("goal", "sign"), [("max", 1), ("min", -1)])
def test_the_frame_leaves_out_the_worst_few(goal: str, sign: int) -> None:
    values = [sign * (0.9 + 0.001 * i) for i in range(100)]
    low, high = style.frame([*values, sign * 0.1], goal)
    assert low < min(values) and max(values) < high
    assert high - low < 0.2
    assert style.frame([], goal) == (0.0, 1.0)
    low, high = style.frame([0.5], goal)
    assert low < 0.5 < high


@pytest.mark.parametrize(("seconds", "unit"), [(5, "seconds"), (600, "minutes"), (8000, "hours"), (1e6, "days")])
def test_units_of_time(seconds: float, unit: str) -> None:
    assert style.duration(seconds)[1] == unit


# --- options


def test_families_of_decisions() -> None:
    (edges,) = families.families(NasBench201())
    assert edges.rows == ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")
    assert len(edges.columns) == 5
    operations_, skips = families.families(MacroCNN(layers=4))
    assert operations_.title == "op" and len(operations_.rows) == 4
    assert skips.switches and skips.rows == ("layer2", "layer3", "layer4") and len(skips.decisions) == 6
    titles = [family.title for family in families.families(MorphCNN())]
    assert titles == list(dict.fromkeys(titles))  # each kind of decision once, also where some offer less
    space = MorphCNN()
    known = [i for family in families.families(space) for i in family.decisions]
    assert sorted(known) == [i for i, d in enumerate(space.decisions) if len(d.options) > 1]


class Skips(SearchSpace):
    """A switch that only matters where the operation before it is b."""

    name = "skips"

    def __init__(self) -> None:
        super().__init__([Decision("op", ("a", "b")), Decision("skip", ("0", "1"), "layer2", ("", "layer1"))])

    def active_many(self, choices: Any) -> Any:
        return np.stack([np.ones(len(choices), bool), choices[:, 0] == 1], axis=1)

    def network(self, choose: Any, task: Any, scale: Any) -> Any:
        raise NotImplementedError


def test_shares_count_what_matters() -> None:
    space = Skips()
    choices = np.array([[0, 1], [1, 1], [1, 0], [1, 0]])
    active = space.active_many(choices)
    op, skip = families.families(space)
    assert families.shares(op, choices, active).tolist() == [[0.25, 0.75]]
    assert families.totals(op, choices, active).tolist() == [0.25, 0.75]
    assert families.shares(skip, choices, active) == pytest.approx(1 / 3)
    assert families.totals(skip, choices, active) == pytest.approx(1 / 3)
    assert np.isnan(families.totals(skip, choices[:1], active[:1])).all()
    assert families.of_frequencies(skip, [[0.5, 0.5], [0.1, 0.9]]).tolist() == [[0.9]]


def test_the_best_tenth_is_what_is_counted() -> None:
    space = NasBench201()
    good, bad = space.arch([3] * 6), space.arch([0] * 6)
    study = made_runs.study([0.9] * 10 + [0.1] * 90, archs=[good] * 10 + [bad] * 90)
    (found,) = drawn("best-decisions", study)
    assert found.caption.startswith("Of the best 10 architectures (of 100)")
    shown = [text.get_text() for text in found.figure.axes[0].texts]
    assert shown == ["0", "0", "0", "100", "0"] * 6


def test_rounds_are_no_choices() -> None:
    study = rounds()
    assert [trial.id for trial in families.scored(study)] == list(range(3, 12))
    assert len(families.scored(made_runs.study([0.1] * 3, policies={i: {} for i in range(3)}))) == 3


def test_few_trials_show_no_shares() -> None:
    assert drawn("operations", made_runs.study([0.1] * (operations.FEWEST - 1))) == []


# --- beliefs


def test_expectations_are_compared_overall_and_late() -> None:
    """Losses of a maximised objective are its negative; the last third agrees, the beginning does not."""
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    expected = {i: -(1 - value if i < 6 else value) for i, value in enumerate(values)}
    study = made_runs.study(values, expected=expected)
    assert beliefs.expectations(study)[8] == (0.9, 0.9)
    assert "1.00 over the last third" in beliefs.agreement(study)
    assert "1.00 over all" not in beliefs.agreement(study)
    assert "9 architectures" in drawn("expected", study)[0].caption


def test_frequencies_of_another_space_are_left_out() -> None:
    good = policy(NasBench201(), 0.5)
    study = made_runs.study([0.1, 0.2, 0.3], policies={0: {"frequencies": [[1.0]]}, 1: good, 2: {}})
    assert [number for number, _ in beliefs.frequencies(study)] == [2]


def test_a_strategy_with_a_policy_of_its_own_says_what_it_draws() -> None:
    """NAS-RL: no rounds, and not with every trial."""
    even = ((0.2,) * 5,) * 6
    study = made_runs.study([0.1] * 30, frequencies={0: even, 10: even, 20: ((0.0, 0.0, 0.0, 1.0, 0.0),) * 6})
    (curves,) = drawn("policy-options", study)
    assert "trial by trial" in curves.caption
    lines = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in curves.figure.axes[0].lines}
    assert lines["nor_conv_3x3"] == [[0, 20], [10, 20], [20, 100]]
    (table,) = drawn("policy-decisions", study)
    assert table.caption.startswith("Probability of each option in %, estimated from draws before trial 20.")
    assert drawn("policy", study) == []


def test_how_late_gradients_came() -> None:
    (found,) = drawn("staleness", late(**{"0": 3, "2": 1}))
    assert found.caption.endswith("each of 4 gradients came late: 0.50 on average.")
    heights = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in found.figure.axes[0].patches}  # type: ignore[attr-defined]
    assert heights == {0: 3, 2: 1}
    for damaged in ({"-1": 3}, {"1": "many"}, {"x": 2}, {"1": -2}):
        assert drawn("staleness", late(**damaged)) == []


# --- lineage and results


def test_the_path_to_the_best() -> None:
    study = made_runs.study([0.1, 0.5, 0.2, 0.9], parents={2: 0, 3: 2})
    path = lineage.path_to(study, study.best)
    assert [trial.id for trial in path] == [0, 2, 3]
    changes = lineage.changes(study, path[0], path[1])
    assert changes
    for name, before, after in changes:
        decision = next(d for d in study.space.decisions if d.name == name)
        assert before != after and {before, after} <= set(decision.options)
    assert lineage.path_to(study, None) == []


@pytest.mark.parametrize("parents", [{1: 1}, {0: 1, 1: 0}, {1: 7}])
def test_damaged_parents_are_no_circles(parents: dict[int, int]) -> None:
    study = made_runs.study([0.1, 0.5], parents=parents)
    assert lineage.path_to(study, study.trials[1])[-1].id == 1


def test_what_was_found_stands_before_what_was_random() -> None:
    study = made_runs.study([0.5, 0.9, 0.7], seed=1)
    best = [trial.arch for trial in study.ranked[:2]]
    other = made_runs.study([0.1], seed=5).trials[0].arch
    inner = made_runs.study([0.8, 0.9, 0.7], archs=[*best, other], strategy="listed")
    assert results.found_among(replace(study, retrained=inner)) == 2
    assert results.found_among(study) == 0


def test_curves_are_of_the_objective_if_it_was_reported() -> None:
    assert results.curve_metric(made_runs.study([0.5], curve=[(1, {"train_loss": 1, "val_acc": 0.1})])) == "val_acc"
    assert results.curve_metric(made_runs.study([0.5], curve=[(1, {"train_loss": 1, "z": 0.1})])) == "train_loss"
    assert results.curve_metric(made_runs.study([0.5])) is None


def test_the_front_is_what_nothing_beats(tmp_path: Path) -> None:
    made_runs.folder(tmp_path / "a", [0.5, 0.4, 0.6, 0.55])  # parameters grow with the trial
    (found,) = drawn("size", Study.read(tmp_path / "a"))
    assert found.caption.startswith("2 of 4 trials")


def test_figures_are_whole_or_not_there(tmp_path: Path) -> None:
    ((_, drawn),) = draw(KINDS["best-over-trials"], [made_runs.study([0.5, 0.6])])
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        save(drawn, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
