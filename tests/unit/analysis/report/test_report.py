"""Reports: one file, everything escaped, and a checklist that says what the runs show."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nastool.analysis import pages
from nastool.analysis.blocks import Table
from nastool.analysis.figures import style
from nastool.analysis.report import checklist, data, html, sections, write
from nastool.core.errors import InputError
from nastool.core.space import SearchSpace
from nastool.core.values import Decision
from nastool.engine.study import Study
from tests.helpers import made_runs
from tests.helpers.running import Run

VOID = {"meta", "img", "input", "br", "link", "wbr"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'`&amp;<!-- \u2028\x00\x1b\ud800"


class Page(HTMLParser):
    """A page as a browser reads it: elements, text, scripts; fails on tags that do not balance."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), attrs
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack, f"</{tag}> closes nothing"
        assert self.stack.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self.stack and self.stack[-1] != "style":
            self.text += data

    def rows(self, identifier: str = "rows") -> dict[str, Any]:
        """The embedded table."""
        (text,) = [text for attributes, text in self.scripts if attributes.get("id") == identifier]
        if not text.startswith("{"):
            text = gzip.decompress(base64.b64decode(text)).decode()
        found: dict[str, Any] = json.loads(text)
        return found


class Toy(SearchSpace):
    """Three decisions with names from anywhere."""

    name = "toy"

    def __init__(self, decision: str = "op", options: tuple[str, ...] = ("a", "b", "c")) -> None:
        super().__init__([Decision(f"{decision}{i}", options) for i in range(3)])

    def network(self, choose: Any, task: Any, scale: Any) -> Any:
        raise NotImplementedError


def rich(**more: Any) -> Study:
    """A run with something for nearly every section."""
    curve = [(step, {"val_acc": 0.1 * step, "train_loss": 2.0 / step}) for step in (1, 2, 3)]
    values: list[float | str | None] = [
        0.5,
        0.6,
        "out of memory: 12 MiB",
        0.7,
        0.65,
        "out of memory: 99 MiB",
        0.8,
        0.75,
        0.81,
        0.79,
        None,
    ]
    parents = {3: 1, 6: 3, 8: 6, 9: 6}
    expected = {i: -0.1 * i for i in range(3, 10)}
    metrics = {"params": 12345.0, "odd": 1e-5}
    inner = made_runs.study([0.9, 0.85], strategy="listed")
    given: dict[str, Any] = {
        "parents": parents,
        "expected": expected,
        "metrics": metrics,
        "curve": curve,
        "retrained": inner,
        "document": {
            "key": "k",
            "metrics": {"val_acc": 0.81, "test_acc": 0.8, "params": 12345},
            "comparison": {
                "random": {"architectures": 2, "key": "r", "metrics": {"test_acc": 0.7}},
                "ranking": {"architectures": 9, "spearman": 0.5, "kendall": None, "with": "accuracy"},
                "warnings": ["it collapsed"],
            },
            "ensemble": {"trials": [1, 2], "metrics": {"test_acc": 0.82}},
        },
    }
    return made_runs.study(values, **{**given, **more})


def check(text: str) -> Page:
    """What holds for every page."""
    found = Page(text)
    policy = next(a["content"] or "" for t, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    executable = [text for attributes, text in found.scripts if attributes.get("type") != "application/json"]
    assert len(executable) == 1
    digest = base64.b64encode(hashlib.sha256(executable[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    identifiers = Counter(a["id"] for _, a in found.elements if a.get("id"))
    assert max(identifiers.values()) == 1, identifiers.most_common(3)
    for tag, attributes in found.elements:
        assert tag not in ("link", "iframe", "object", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "action", "srcset"):
                assert value is not None
                assert value.startswith(("#", "data:image/")), (tag, name, value[:80])
                if value.startswith("#"):
                    assert value[1:] in identifiers, value
            if name in ("style", "clip-path", "fill", "filter"):
                for target in re.findall(r"url\(([^)]*)\)", value or ""):
                    assert target.startswith("#") and target[1:] in identifiers, target
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert "url(" not in style and "@import" not in style
    return found


# --- the page


def test_every_section_is_there() -> None:
    found = check(html([rich()]))
    for title in (
        "Progress",
        "Best architectures",
        "After the search",
        "What was chosen",
        "What the strategy believes",
        "Genealogy",
        "Failures",
        "All trials",
        "Configuration and setup",
        "Best practices",
    ):
        assert title in found.text, title
    for fact in ("it collapsed", "0.8000", "Spearman 0.50", "trials 1, 2", "2 of 10 trials failed", "abc1234"):
        assert fact in found.text, fact
    assert "nastool search --out 'runs/a b'" in found.text
    assert sum(tag == "svg" for tag, _ in found.elements) >= 9


def test_the_table_has_every_trial() -> None:
    rows = check(html([rich()])).rows()
    names = [column["name"] for column in rows["columns"]]
    values = dict(zip(names, rows["values"], strict=True))
    assert values["trial"] == list(range(11))
    assert values["state"][2] == "failed" and values["state"][10] == "running"
    assert values["val_acc"][:4] == [0.5, 0.6, None, 0.7]
    assert values["parent"][3] == 1 and values["expected"][4] == 0.4
    assert values["error"][5] == "out of memory: 99 MiB"
    assert values["params"][0] == 12345 and values["odd"][0] == 1e-5
    assert values["architecture"][0].startswith("|")
    assert "budget" not in names and "attempts" not in names  # nothing to show
    assert rows["curves"]["0"]["step"] == [1, 2, 3]
    assert [len(choices) for choices in rows["choices"]] == [11] * 6  # of each decision


def test_the_verdict_against_random_is_at_the_top() -> None:
    said = {"comparison": {"verdict": {"says": "test_acc 0.9 against 0.8: better than random"}}, "metrics": {}}
    beside = {"trials": 5, "objective": "val_acc:max", "search": 0.9, "random": 0.8, "difference": 0.1}
    of: dict[str, dict[str, Any]] = {
        "better than random.": said,
        "beside random search (5 trials): val_acc 0.9000 against 0.8000": {"baseline": beside, "metrics": {}},
        "test_acc, which neither was chosen by, 0.7000 against 0.6000; n=1 seed: no verdict": {
            "baseline": {**beside, "metrics": {"test_acc": 0.6}},
            "metrics": {"test_acc": 0.7},
        },
        "not compared": {"metrics": {}},
    }
    for words, document in of.items():
        text = check(html([made_runs.study([0.5, 0.6], document=document)])).text
        assert text.count(words) == 1
        assert text.index("Against random search:") < text.index(words) < text.index("What next")
    for study in (made_runs.study([0.5]), made_runs.study([0.5], document={"metrics": {}}, strategy="random")):
        assert "Against random search" not in html([study])


def test_verdicts_stand_first() -> None:
    """Each once, in their order; the ranking is not said again."""
    said: list[dict[str, Any]] = [
        {"about": "policy", "shown": True, "says": "the policy learned"},
        {"about": "collapse", "shown": False, "says": "the search may have collapsed"},
        {"about": "ranking", "shown": None, "says": "not checked"},
        {"about": "random", "shown": False, "says": "not shown to be better"},
    ]
    ranking = {"architectures": 9, "spearman": 0.5, "kendall": 0.4, "with": "accuracy"}
    document = {"comparison": {"verdicts": said, "ranking": ranking}, "metrics": {}}
    text = check(html([made_runs.study([0.5, 0.6], document=document)])).text
    places = [text.index(f"{each['says']}.") for each in said]
    assert places == sorted(places) and places[-1] < text.index("What next")
    assert all(text.count(f"{each['says']}.") == 1 for each in said) and "Spearman" not in text


def test_the_result_is_marked() -> None:
    def marked(study: Study, *says: str) -> tuple[list[str | None], Any]:
        text = html([study])
        assert all(each in text for each in says)
        found = check(text)
        cards = [a["id"] for _, a in found.elements if "result" in (a.get("class") or "").split()]
        return cards, found.rows()["delivered"]

    values = [0.1 * i for i in range(9)]
    plain = made_runs.study(values)
    assert marked(plain) == ([], None)

    def document(i: int, **more: Any) -> dict[str, Any]:
        return {"key": plain.trials[i].arch.key, "trial": i, "metrics": {}, **more}

    assert marked(made_runs.study(values, document=document(8))) == (["drawing-8"], 8)
    assert marked(made_runs.study(values, document=document(0))) == (["drawing-0"], 0), "also where others are better"
    inner = made_runs.study([0.3, 0.2, 0.4], strategy="listed", archs=[plain.trials[i].arch for i in (8, 7, 1)])
    page = made_runs.study(values, document=document(7, trial=1), retrained=inner)
    assert marked(page, "the result, trained from scratch", "found, the result") == (["drawing-7"], 7)


def test_no_picture_comes_twice() -> None:
    """Where every trial takes as long, what is over time and cost looks as what is over trials."""

    def titles(study: Study) -> list[str]:
        return re.findall(r"<strong>(Best so far[^<]*)</strong>", html([study]))

    study = made_runs.study([0.1, 0.3, 0.2, 0.5])
    assert titles(study) == [f"Best so far, over {name}" for name in ("trials", "time", "cost")]
    alike = []
    for own in study.trials:
        assert own.trial.evaluation is not None
        trial = replace(own.trial, evaluation=replace(own.trial.evaluation, seconds=5.0))
        alike.append(replace(own, trial=trial, started=10.0 * own.id, finished=10.0 * own.id + 10))
    study = replace(study, trials=tuple(alike))
    assert titles(study) == ["Best so far, over trials"]
    assert "Over time and cost the picture is the same as over trials." in html([study])


def test_a_long_path_to_the_best_shows_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "STEPS", 3)
    study = made_runs.study([0.1 * i for i in range(8)], parents={i: i - 1 for i in range(1, 8)})
    assert "The last 3 of 8 networks." in html([study])
    (table,) = [block for block in sections._lineage(study, "") if isinstance(block, Table)]
    assert [row[0] for row in table.rows] == ["trial 5", "trial 6", "trial 7"]


def test_the_checklist_of_a_single_run_is_folded() -> None:
    for runs, attributes in (([rich()], {}), ([rich(seed=i) for i in range(2)], {"open": None})):
        assert [a for tag, a in check(html(runs)).elements if tag == "details"] == [attributes]


def test_options_and_names_are_whole() -> None:
    text = html([made_runs.study([0.5], about={"provenance": {"command": ["nastool", "search", "--data-dir", "x"]}})])
    assert '<span class="token">--data-dir</span> x' in text
    assert "overflow-wrap: anywhere" not in text
    assert re.search(r'<code><span class="token">\|<wbr>[a-z0-9_]+~0\|<wbr>\+\|<wbr>[a-z0-9_]+~0\|<wbr>', text)


def test_many_trials_are_compressed_and_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PLAIN", 1000)
    monkeypatch.setattr(style, "MOST", 10)
    found = check(html([made_runs.study([0.1 + 0.001 * i for i in range(100)] + ["no"], parents={5: 3})]))
    assert found.rows()["values"][0] == list(range(101))
    assert found.text.count("Drawn are 10 of 100 trials, one in 10.") == 1


@pytest.mark.parametrize(
    ("values", "state", "says"),
    [
        ([], "running", "none yet"),
        ([None, None], "running", "none yet"),
        (["no", "no"], "interrupted", "none"),
        ([0.5], "interrupted", "best so far"),
    ],
)
def test_runs_that_found_little(values: list[Any], state: str, says: str) -> None:
    found = check(html([made_runs.study(values, state=state, about={})]))
    assert says in found.text
    assert "There is no run.yaml" in found.text


def test_several_runs() -> None:
    runs = [rich(seed=seed, path=Path(f"runs/seed{seed}")) for seed in range(2)]
    found = check(html(runs))
    assert "2 runs" in found.text
    assert found.rows("run1-rows")["choices"] != found.rows("run2-rows")["choices"]
    with pytest.raises(InputError, match="at least one"):
        html([])


def test_equal_runs_give_equal_pages(tmp_path: Path) -> None:
    """Also in another process, where strings hash to something else."""
    folder = made_runs.folder(tmp_path / "a", [0.5 + 0.01 * i for i in range(12)])
    script = "import sys; from nastool.analysis import report; from nastool.engine.study import Study;"
    script += "sys.stdout.write(report.html([Study.read(sys.argv[1])]))"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONIOENCODING": "utf-8"}
    other = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, env=environment, check=True, timeout=120
    )
    assert other.stdout.decode() == html([Study.read(folder)])


# --- strings from anywhere


def test_hostile_strings_are_text() -> None:
    space = Toy(HOSTILE, (HOSTILE, HOSTILE + "2", "c"))
    values = [0.5 + 0.01 * i for i in range(12)] + [HOSTILE]
    options = {HOSTILE: HOSTILE}
    about = {"search": {}, "provenance": {"command": ["nastool", HOSTILE], "revision": HOSTILE, "evaluator": options}}
    study = made_runs.study(
        values,
        space=space,
        strategy=HOSTILE,
        options=options,
        metrics={HOSTILE: 0.5},
        curve=[(1, {HOSTILE: 1.0}), (2, {HOSTILE: 2.0})],
        about=about,
        path=Path("runs") / HOSTILE.replace("\x00", "").replace("/", "-"),
        parents={5: 3},
        document={"key": HOSTILE, "metrics": {HOSTILE: 1.0}, "comparison": {"warnings": [HOSTILE]}},
    )
    benign = made_runs.study(
        [0.5 + 0.01 * i for i in range(12)] + ["no"],
        space=Toy(),
        metrics={"x": 0.5},
        curve=[(1, {"x": 1.0}), (2, {"x": 2.0})],
        parents={5: 3},
        document={"key": "k", "metrics": {"x": 1.0}, "comparison": {"warnings": ["w"]}},
    )
    text = html([study, study])
    found = check(text)
    clean = check(html([benign, benign]))

    def elements(page: Page) -> Counter[str]:
        return Counter(tag for tag, _ in page.elements if tag in ("script", "img", "section", "style", "iframe"))

    assert elements(found) == elements(clean)
    assert "<script>alert" not in text and "onerror=alert(2)>" not in text.replace("onerror=alert(2)&gt;", "")
    assert "</script><script>alert(1)</script>" in found.text
    rows = found.rows("run1-rows")
    cells = dict(zip([column["name"] for column in rows["columns"]], rows["values"], strict=True))
    assert cells["error"][12] == pages.printable(HOSTILE)
    assert cells[pages.printable(HOSTILE)][0] == 0.5
    text.encode()  # no halves of surrogates


NAMES = st.text(min_size=1, max_size=30)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES, option=NAMES, metric=NAMES, error=st.text(max_size=60), folder=NAMES)
def test_any_strings_make_a_page(name: str, option: str, metric: str, error: str, folder: str) -> None:
    space = Toy(name, (option, option + "-", "c"))
    path = Path("runs") / (folder.replace("\x00", "") or "x")
    made = made_runs.study([0.5, 0.6, error], space=space, metrics={metric: 0.5}, path=path, options={name: option})
    found = check(html([made]))
    rows = found.rows()
    assert rows["decisions"][0] == [
        pages.printable(f"{name}0"),
        [pages.printable(option), pages.printable(option + "-"), "c"],
    ]
    errors = [v for c, v in zip(rows["columns"], rows["values"], strict=True) if c["name"] == "error"]
    assert errors[-1] == [None, None, pages.printable(error)]


# --- what it says


def test_failures_are_grouped_by_reason() -> None:
    found = data.failures(rich())
    assert [(failure.reason, failure.trials) for failure in found] == [("out of memory: 12 MiB", [2, 5])]


def test_failures_are_told_by_kind_with_the_end_of_a_log() -> None:
    study = rich()
    trials = [replace(t, trial=replace(t.trial, fault="memory")) if t.state == "failed" else t for t in study.trials]
    page = html([replace(study, trials=tuple(trials), logs={5: "epoch 1\n<killed>"})])
    assert "2 of 10 trials failed (2 out of memory), 20%, for 1 different reasons." in page
    assert "The end of the log of trial 5:" in page and "epoch 1\n&lt;killed&gt;" in page


def test_long_curves_are_thinned_out_and_keep_their_end() -> None:
    curve = [(step, {"val_acc": step / 1000}) for step in range(1, 1001)]
    kept = data.curves(made_runs.study([0.5], curve=curve))["0"]
    assert len(kept["step"]) <= data.CURVE_POINTS
    assert kept["step"][-1] == 1000
    assert kept["series"] == [["val_acc", [step / 1000 for step in kept["step"]]]]


def test_too_many_curves_are_those_of_the_best_and_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "CURVES", 20)
    curve = [(step, {"val_acc": 0.1}) for step in range(1, 6)]
    study = made_runs.study([0.9, *[0.1 + 0.001 * i for i in range(40)]], curve=curve)
    found = set(data.curves(study))
    assert {"0", "40"} <= found
    assert len(found) < 8
    assert f"Only the best and the latest, {len(found)} trials, bring their learning curves." in html([study])
    monkeypatch.undo()
    assert "learning curves." not in html([study])


def test_a_table_of_very_many_trials_has_the_best_and_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "ROWS", 4)
    monkeypatch.setattr(data, "STRINGS", 3)
    found = check(html([made_runs.study([0.9, 0.1, 0.8, 0.2, 0.3, 0.4])]))
    assert found.rows()["values"][0] == [0, 2, 4, 5]
    assert "Of 6 trials the best and the latest are here, 4; trials.csv has all." in found.text
    assert "architecture" not in [column["name"] for column in found.rows()["columns"]]


def test_what_next(tmp_path: Path) -> None:
    path = tmp_path / "a run"
    path.mkdir()
    quoted = f"'{path}'"

    def commands(**more: Any) -> str:
        return "\n".join(text for text, _ in data.next_commands(made_runs.study([0.5], path=path, **more)))

    assert "export" not in commands()  # there are no weights
    (path / "best.safetensors").touch()
    (path / "best.json").touch()
    assert f"nastool export {quoted} --to python" in commands()
    assert f"nastool predict {quoted}" in commands()
    assert f"nastool retrain {quoted}" in commands()
    assert "nastool search --out 'runs/a b'" in commands(state="interrupted")
    assert commands(state="running") == f"nastool report {quoted} --live"
    assert "retrain" not in commands(strategy="listed")
    (path / "best.safetensors").unlink()
    table = commands(evaluator="table")
    assert f"nastool top {quoted} | nastool export - --to python --input 3x32x32\n" in table
    assert f"nastool top {quoted} | nastool eval - --data cifar10\n" in table
    assert "retrain" not in table
    (path / "best.safetensors").touch()
    (path / "best.json").unlink()
    assert "export" not in commands()


def test_the_search_command_says_all_that_matters() -> None:
    study = made_runs.study([0.5, 0.6], options={"population": 4, "inherit": True, "none": None}, path=Path("r s"))
    text = data.search_command(study, seed=3)
    assert text == (
        "nastool search --strategy evolution -S population=4 -S inherit=true --space nasbench201 --evaluator train "
        "-E data=digits --trials 2 --seed 3 --out 'r s-seed3'"
    )
    text = data.search_command(study, strategy="random")
    assert "--strategy random --space" in text and "-S" not in text.split()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "\N{EN DASH}"), (0.97214, "0.9721"), (1073466.0, "1,073,466"), (3.0, "3"), (1.2345e-5, "1.234e-05")],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert data.number(value) == shown


# --- the checklist


def answers(*studies: Study) -> dict[str, bool]:
    return {item.name: item.done for item in checklist.items(studies)}


def compared(**more: Any) -> list[Study]:
    """Evolution and random search with three seeds each."""
    tested = {"metrics": {"val_acc": 0.7, "test_acc": 0.6}}
    return [
        made_runs.study([0.5, 0.6, 0.7], strategy=strategy, seed=seed, document=tested, **more)
        for strategy in ("evolution", "random")
        for seed in range(3)
    ]


def test_checklist_of_a_single_run() -> None:
    found = answers(made_runs.study([0.5, 0.6, 0.7], document={"metrics": {"test_acc": 0.6}}))
    assert found == {
        "code": True,
        "configuration": True,
        "seeds-recorded": True,
        "same-benchmark": False,
        "confounders": False,
        "ablations": False,
        "protocol": False,
        "over-time": True,
        "random": False,
        "seeds": False,
        "tabular": False,
        "tuning": False,
        "whole-cost": True,
        "setup": True,
        "test-set": True,
    }


def test_checklist_of_a_comparison() -> None:
    found = answers(*compared())
    assert [name for name, done in found.items() if not done] == ["ablations", "tabular", "tuning"]


def changed(study: Study, **provenance: Any) -> Study:
    return replace(study, about={"search": {}, "provenance": {**made_runs.PROVENANCE, **provenance}})


@pytest.mark.parametrize(
    ("item", "more"),
    [
        ("confounders", lambda s: [changed(s[0], python="3.11.0"), *s[1:]]),
        ("confounders", lambda s: [changed(s[0], packages={"torch": "2.9.0"}), *s[1:]]),
        ("confounders", lambda s: [changed(s[0], evaluator={"device": "cuda", "fingerprint": "12345678"}), *s[1:]]),
        ("same-benchmark", lambda s: [changed(s[0], evaluator={"device": "cpu", "fingerprint": "0"}), *s[1:]]),
        ("random", lambda s: s[:3]),
        ("random", lambda s: [*s[:3], made_runs.study([0.5], strategy="random")]),  # a smaller budget
        ("random", lambda s: [*s[:3], *(made_runs.study([0.5] * 3, strategy="random", evaluator="table"),)]),
        ("seeds", lambda s: s[:5]),
        ("protocol", lambda s: [*s, made_runs.study([0.5] * 4, seed=7)]),
        ("configuration", lambda s: [replace(s[0], about={}), *s[1:]]),
        ("setup", lambda s: [replace(s[0], about={}), *s[1:]]),
        ("code", lambda s: [changed(s[0], revision="abc-dirty"), *s[1:]]),
        ("code", lambda s: [made_runs.study([0.5] * 3, strategy="somebody-elses"), *s[1:]]),
        ("whole-cost", lambda s: [replace(s[0], state="interrupted"), *s[1:]]),
        ("whole-cost", lambda s: [made_runs.study([0.5] * 3, policies={0: {}}), *s[1:]]),
        ("over-time", lambda s: [made_runs.study([0.5])]),
        ("test-set", lambda s: [made_runs.study([0.5] * 3, objective="test_acc")]),
        ("test-set", lambda s: [made_runs.study([0.5] * 3, metrics={"test_acc": 0.5})]),
        ("test-set", lambda s: [made_runs.study([0.5] * 3)]),  # nothing was tested yet
    ],
)
def test_checklist_sees_what_is_missing(item: str, more: Any) -> None:
    before = compared()
    assert answers(*before)[item]
    studies = more(before)
    found = {entry.name: entry for entry in checklist.items(studies)}[item]
    assert not found.done
    assert found.why.endswith(".") and found.how


def test_checklist_sees_ablations_and_tables() -> None:
    with_inheritance = made_runs.study([0.5] * 3, options={"inherit": True})
    without = made_runs.study([0.5] * 3, options={"inherit": False})
    assert answers(with_inheritance, without)["ablations"]
    assert not answers(with_inheritance, replace(without, space=Toy(), config={**without.config, "seed": 1, "space": {
        "name": "toy", "options": {}}}))["ablations"]  # fmt: skip
    assert answers(made_runs.study([0.5] * 3, evaluator="table"))["tabular"]
    studies = {name: made_runs.study([0.5], strategy=name) for name in ("evolution", "enas", "of-others")}
    items = {name: {item.name: item for item in checklist.items([study])} for name, study in studies.items()}
    commands = {name: found["tabular"].command for name, found in items.items()}
    assert "nastool bench -s random -s evolution" in commands["evolution"] and "-s of-others" in commands["of-others"]
    assert commands["enas"] == "", "no table has shared weights"


def test_checklist_sees_random_architectures_trained_beside() -> None:
    """They make the protocol fair, but are no random search of the same budget."""
    found = answers(rich())
    assert found["protocol"] and not found["random"]


def test_trainings_have_no_checklist() -> None:
    assert checklist.items([made_runs.study([0.5], strategy="listed")]) == []
    assert "Best practices" not in check(html([made_runs.study([0.5], strategy="listed")])).text


# --- the command


def test_report_command(run: Run, tmp_path: Path) -> None:
    folder = made_runs.folder(tmp_path / "a", [0.5, "made to fail", 0.7])
    result = run("report", str(folder))
    assert result.code == 0
    assert result.out.strip() == str(folder / "report.html")
    check((folder / "report.html").read_text())
    assert run("report", "a", "a/run.db", "-o", "both.html").code == 0
    assert "2 runs" in check((tmp_path / "both.html").read_text()).text
    assert not list(tmp_path.glob("*.new"))


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["nowhere"], ["nowhere", "no run folder"]),
        (["a", "-o", "no/such.html"], ["--out", "there is no no"]),
        (["a", "-o", "."], ["it is a folder"]),
        (["a", "--port", "80"], ["--port goes with --live"]),
        (["a", "--live", "-o", "x.html"], ["keep one"]),
        (["a", "--live", "--port", "99999"], ["99999"]),
        ([], ["RUN"]),
    ],
)
def test_report_refuses(run: Run, tmp_path: Path, arguments: list[str], fragments: list[str]) -> None:
    made_runs.folder(tmp_path / "a", [0.5])
    run("report", *arguments).refused(*fragments)


def test_write_says_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write([made_runs.study([0.5])], tmp_path / "no" / "such.html")


def test_moved_and_damaged_runs(tmp_path: Path) -> None:
    """A run that was moved, and lost everything but its database, still has a report."""
    folder = made_runs.folder(tmp_path / "a", [0.5, 0.6])
    shutil.move(folder, tmp_path / "b")
    assert "trial 1" in check(html([Study.read(tmp_path / "b")])).text


# --- cost, and a browser


def test_a_report_imports_little(tmp_path: Path) -> None:
    """It is written at the end of every search."""
    folder = made_runs.folder(tmp_path / "a", [0.5, 0.6])
    script = "import sys; from nastool.analysis import report; from nastool.engine.study import Study;"
    script += "import nastool.cli.plot_command;"
    script += "assert 'matplotlib' not in sys.modules;"
    script += "report.html([Study.read(sys.argv[1])]);"
    script += "print([m for m in ('torch', 'scipy', 'sklearn', 'matplotlib.pyplot') if m in sys.modules])"
    command = [sys.executable, "-c", script, str(folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout == "[]\n"
    light = "import sys, nastool.cli.report_command, nastool.cli.plot_command;"
    light += "print([m for m in ('numpy', 'matplotlib', 'nastool.engine.study') if m in sys.modules])"
    command = [sys.executable, "-c", light]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout == "[]\n"


def test_a_browser_runs_the_page(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium")
    write([rich(path=Path(HOSTILE.replace("\x00", "").replace("/", "-")))], tmp_path / "page.html")
    command = [browser, "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--disable-background-networking", "--dump-dom", (tmp_path / "page.html").as_uri()]
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{browser} does not answer")
    if result.returncode or "<body" not in result.stdout:
        pytest.skip(f"{browser} does not start here")
    assert '<html lang="en" class="scripted">' in result.stdout
    assert 'aria-sort="descending"' in result.stdout  # by the result
    assert result.stdout.index('aria-label="Details of trial 8"') < result.stdout.index('"Details of trial 6"')
    assert result.stdout.count('aria-label="Details of trial ') == 11  # a row for each trial, by the script
    assert "11 trials" in result.stdout


def test_the_script_is_free_of_traps() -> None:
    """It sets text, never markup, and its own text cannot end its element."""
    script = pages._asset("page.js")
    for trap in ("innerHTML =", "insertAdjacentHTML", "document.write", "eval(", "</script", "<!--", "http:", "https:"):
        assert trap not in script.replace('"http://www.w3.org/2000/svg"', ""), trap
    assert "</style" not in pages._asset("page.css")
