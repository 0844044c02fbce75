"""Architecture files: what is read, kept and refused; lines of text and of bytes are never an internal error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nastool.core import archfile
from nastool.core.errors import InputError, InvalidArchError
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.fuzz import FUZZ, JSON
from tests.helpers.running import Run

SPACE = NasBench201()
GOOD: dict[str, Any] = archfile.to_json(SPACE, SPACE.arch([0, 1, 2, 3, 4, 0]))


LINE = json.dumps(GOOD)


DEEP = 100_000


def doc(**changes: Any) -> str:
    """The good document with keys replaced."""
    return json.dumps({**GOOD, **changes})


def choice(**changes: Any) -> str:
    """The good document with choices added or replaced; the first decision is called `first`."""
    named = {"1<-0" if key == "first" else key: value for key, value in changes.items()}
    return doc(choices={**GOOD["choices"], **named})


def raw(text: str) -> str:
    """The good document with raw JSON text as the value of an extra key."""
    return doc(extra=0).replace('"extra": 0', f'"extra": {text}')


def without(key: str) -> str:
    return json.dumps({k: v for k, v in GOOD.items() if k != key})


BAD_DOCUMENTS: dict[str, tuple[str | bytes, str]] = {
    "truncated": (LINE[:100], "line 1"),
    "one brace short": (LINE[:-1], "line 1"),
    "unknown op": (choice(first="nor_conv3x3"), "did you mean 'nor_conv_3x3'"),
    "unknown decision": (choice(foo="none"), "no decision 'foo'"),
    "missing decision": (doc(choices={"1<-0": "none"}), "'2<-0' is missing"),
    "op is a number": (choice(first=3), "'1<-0' has no option 3"),
    "op is null": (choice(first=None), "'1<-0'"),
    "op is a list": (choice(first=["none"]), "'1<-0'"),
    "op is an object": (choice(first={"none": 1}), "'1<-0'"),
    "op is true": (choice(first=True), "'1<-0'"),
    "op is very long": (choice(first="x" * 100_000), "'1<-0'"),
    "op is half a character": (choice(first="\ud800"), "'1<-0'"),
    "decision is very long": (choice(**{"y" * 100_000: "none"}), "no decision"),
    "choices are a list": (doc(choices=[0, 1]), "'choices'"),
    "choices are null": (doc(choices=None), "'choices'"),
    "choices are a number": (doc(choices=3), "'choices'"),
    "choices are nested": (doc(choices={"choices": GOOD["choices"]}), "no decision 'choices'"),
    "no choices": (without("choices"), "'choices'"),
    "no space": (without("space"), "'space'"),
    "unknown space": (doc(space={"name": "nasbench999"}), "did you mean 'nasbench201'"),
    "another space": (doc(space={"name": "nasbench-macro"}), "no decision"),
    "space is a number": (doc(space=5), "'space'"),
    "space without a name": (doc(space={}), "'space'"),
    "unknown space option": (doc(space={"name": "nasbench201", "options": {"x": 1}}), "no option 'x'"),
    "space options are a list": (doc(space={"name": "nasbench201", "options": [1]}), "'options'"),
    "space option is nested": (doc(space={"name": "nasbench201", "options": {"x": {}}}), "'options'"),
    "another format": (doc(format="nastool.arch/2"), "nastool.arch/2"),
    "format is a list": (doc(format=[1]), "format"),
    "NaN": (raw("NaN"), "NaN"),
    "Infinity": (raw("-Infinity"), "Infinity"),
    "number out of range": (raw("1e999"), "line 1"),
    "integer of 5,000 digits": (raw("9" * 5000), "line 1"),
    "choices twice": (LINE[:-1] + ', "choices": {"1<-0": "none"}}', "line 1"),
    "decision twice": (LINE.replace('"1<-0":', '"1<-0": "skip_connect", "1<-0":', 1), "1<-0"),
    "deep list": ("[" * DEEP, "deep"),
    "deep object": ('{"a":' * DEEP, "deep"),
    "deep extra": (raw("[" * DEEP + "]" * DEEP), "deep"),
    "array": (f"[{LINE}]", "object"),
    "string": ('"abc"', "object"),
    "number": ("5", "object"),
    "text": ("hello", "object"),
    "two on one line": (LINE + LINE, "line 1"),
    "two over several lines": (json.dumps(GOOD, indent=1) * 2, "line"),
    "text after the object": (json.dumps(GOOD, indent=1) + "\nfoo", "line"),
    "long text": ("x y z " * 1_700_000, "line 1"),
    "long JSON": ('{"a": "' + "b" * 10_000_000 + '"}', "longer than"),
    "binary": (np.random.default_rng(0).bytes(1_000_000), "text"),
    "UTF-16": (LINE.encode("utf-16"), "text"),
    "Latin-1": (b'{"a": "\xff"}', "text"),
}


@pytest.mark.parametrize("stdin", [False, True], ids=["file", "stdin"])
@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_bad_architecture(run: Run, name: str, stdin: bool) -> None:
    document, fragment = BAD_DOCUMENTS[name]
    data = document if isinstance(document, bytes) else document.encode(errors="surrogatepass")
    if stdin:
        run("show", "-", stdin=data).refused("stdin", fragment)
    else:
        Path("a.json").write_bytes(data)
        run("show", "a.json").refused("a.json", fragment)


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        LINE + "\r\n",
        "\ufeff" + LINE,
        json.dumps(GOOD, indent=2),
        "\n\n" + json.dumps(GOOD, indent=2) + "\n\n",
        "{\n" + LINE[1:],
        raw('"\\u0000"'),
        raw("[" * 500 + "]" * 500),
        doc(metrics="none", scale=5, seeds="x", runs=0, std=[], error=None),
    ],
    ids=["no newline", "CRLF", "BOM", "pretty", "blank lines", "brace alone", "NUL", "nested", "odd extras"],
)
def test_unusual_but_good_architecture(run: Run, text: str) -> None:
    for outcome in (run("show", "-", stdin=text), run("show", text.lstrip("\n\ufeff"))):
        (shown,) = outcome.accepted()
        assert shown["choices"] == GOOD["choices"]


def test_numbers_beyond_all_use(run: Run) -> None:
    for command in ("show", "top"):
        run(command, "-", stdin=doc(metrics={"val_acc": 10**400})).refused("line 1", "401 digits")


def test_what_came_before_a_bad_line_is_evaluated(run: Run, nasbench201_table: str) -> None:
    outcome = run("eval", "-", "--evaluator", "table", "-E", f"file={nasbench201_table}", stdin=f"{LINE}\n{{}}\n")
    assert outcome.code == 2
    assert "stdin line 2" in outcome.err
    assert json.loads(outcome.out)["metrics"]["val_acc"] > 0


def test_stale_results_do_not_survive_an_evaluation(run: Run, nasbench201_table: str) -> None:
    stale = doc(error="seed 0: it failed", std={"val_acc": 9}, runs=[], metrics={"val_acc": 9})
    (line,) = run("eval", "-", "--evaluator", "table", "-E", f"file={nasbench201_table}", stdin=stale).accepted()
    assert "error" not in line
    assert "std" not in line
    assert line["metrics"]["val_acc"] < 1


@pytest.mark.parametrize("metrics", ["x", [1], {"val_acc": {}}, {"val_acc": None}, {"val_acc": "0.5"}])
def test_top_of_odd_metrics(run: Run, metrics: object) -> None:
    run("top", "-", stdin=doc(metrics=metrics)).refused("val_acc")
    good = doc(metrics={"val_acc": 0.5})
    assert len(run("top", "-", "-k", "9", stdin=f"{doc(metrics=metrics)}\n{good}").accepted()) == 1


@pytest.mark.parametrize(
    "scale",
    [5, "x", [1], {"foo": 1}, {"channels": -1}, {"channels": 1.5}, {"channels": None}, {"channels": 10**30}],
    ids=str,
)
def test_bad_scale_in_a_line(run: Run, scale: object) -> None:
    """Where no network is built from it, it is one more extra key."""
    assert run("show", "-", stdin=doc(scale=scale)).accepted()[0]["scale"] == scale
    run("show", "-", "--input", "1x8x8", stdin=doc(scale=scale)).refused("scale" if scale in (5, "x", [1]) else "")
    if scale != {"channels": 10**30}:  # found only when a network is built
        run("eval", "-", "--data", "digits", stdin=doc(scale=scale)).refused("scale")


@st.composite
def _mutated(draw: st.DrawFn) -> Any:
    """A good document with a few things in it replaced, removed or added."""
    document: Any = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from([document, *(v for v in document.values() if isinstance(v, dict))]))
        key = draw(st.sampled_from([*holder, "options", "name", "scale", "metrics"]) | st.text(max_size=5))
        if draw(st.booleans()):
            holder[key] = draw(JSON | st.sampled_from(["nasbench201", "nasbench-macro", "none", {}]))
        else:
            holder.pop(key, None)
    return document


def _read(lines: list[str]) -> None:
    """Whatever is accepted can be written again, and is the same when read."""
    try:
        documents = list(archfile.read_lines(iter(lines), "fuzz"))
    except InputError:
        return
    for document in documents:
        text = archfile.dumps(document.to_json())
        text.encode()
        assert archfile.read_text(text).arch == document.arch


@FUZZ
@given(st.lists(st.text(max_size=60), max_size=4))
@example(["{", "}"])
@example(["\ufeff" + LINE])
def test_fuzz_lines(lines: list[str]) -> None:
    _read(lines)


@FUZZ
@given(st.binary(max_size=200))
def test_fuzz_bytes(data: bytes) -> None:
    _read(data.decode(errors="surrogateescape").splitlines(keepends=True))


@FUZZ
@given(JSON | _mutated(), st.sampled_from([None, 1]))
def test_fuzz_documents(value: Any, indent: int | None) -> None:
    _read(json.dumps(value, indent=indent).splitlines(keepends=True))
    try:
        archfile.from_json(value)
    except InvalidArchError:
        pass
    except InputError as error:  # of the space's options
        assert "space" in str(error)


@FUZZ
@given(st.integers(0, len(LINE)), st.integers(0, len(LINE)), st.text(max_size=3))
def test_fuzz_edited_text(start: int, end: int, inserted: str) -> None:
    _read([LINE[: min(start, end)] + inserted + LINE[max(start, end) :]])


class TestArchFile:
    space = NasBench201()

    def document(self) -> dict[str, object]:
        return archfile.to_json(self.space, self.space.arch([0, 1, 2, 3, 4, 0]))

    def test_extra_keys_are_kept_and_the_key_is_recomputed(self) -> None:
        document = self.document() | {"key": "stale", "mine": [1, {"a": None}], "metrics": {"val_acc": 0.5}}
        again = archfile.from_json(document).to_json()
        assert again["mine"] == [1, {"a": None}] and again["metrics"] == {"val_acc": 0.5}
        assert again["key"] == self.space.arch([0, 1, 2, 3, 4, 0]).key

    def test_one_document_over_several_lines(self) -> None:
        text = json.dumps(self.document(), indent=2)
        (found,) = archfile.read_lines(text.splitlines(keepends=True), "stdin")
        assert found.arch.choices == (0, 1, 2, 3, 4, 0)

    def test_lines_with_crlf_and_blanks(self) -> None:
        line = json.dumps(self.document())
        found = list(archfile.read_lines([line + "\r\n", "\r\n", line], "stdin"))
        assert len(found) == 2

    def test_lines_arrive_one_by_one(self) -> None:
        """What came before a bad line is not lost."""
        reader = archfile.read_lines([json.dumps(self.document()), '{"space": '], "stdin")
        assert next(reader).arch.choices == (0, 1, 2, 3, 4, 0)
        with pytest.raises(InputError, match="stdin line 2: no valid JSON"):
            next(reader)

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"space": {"name": "nasbench2O1"}}, "did you mean 'nasbench201'"),
            ({"space": 3}, "'space' must be"),
            ({"choices": []}, "'choices' must be"),
            ({"format": "nastool.arch/9"}, "format"),
            ({"choices": {"1<-0": "none"}}, "'2<-0' is missing"),
        ],
    )
    def test_messages(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=message):
            archfile.from_json(self.document() | change)

    def test_wrong_option_is_named_with_its_decision(self) -> None:
        document = self.document()
        choices = dict(archfile.from_json(document).to_json()["choices"])
        with pytest.raises(InvalidArchError, match="'3<-2' has no option 'nor_conv3x3'; did you mean 'nor_conv_3x3'"):
            archfile.from_json(document | {"choices": choices | {"3<-2": "nor_conv3x3"}})
        with pytest.raises(InvalidArchError, match="no decision '4<-0'"):
            archfile.from_json(document | {"choices": choices | {"4<-0": "none"}})
