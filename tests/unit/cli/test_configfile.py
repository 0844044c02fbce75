"""Configuration files that are refused."""

from __future__ import annotations

import resource
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from tests.helpers.fuzz import FUZZ, SCALARS
from tests.helpers.running import Run, process

BOMB = "provenance:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


MERGE_BOMB = "provenance:\n  a: &a {x: 1}\n" + "".join(
    f"  {name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


BAD_CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "unknown section": ("serach: {}", "'serach'"),
    "unknown key": ("search: {trails: 3}", "did you mean 'trials'"),
    "underscores": ("search: {strategy_options: {}}", "did you mean 'strategy-options'"),
    "text for int": ("search: {trials: abc}", "trials must be an integer"),
    "bool for int": ("search: {trials: true}", "trials must be an integer"),
    "float for int": ("search: {trials: 2.0}", "trials must be an integer"),
    "mapping for int": ("search: {trials: {a: 1}}", "trials"),
    "int for text": ("search: {space: 3}", "space must be text"),
    "list for text": ("search: {space: [a]}", "space must be text"),
    "date for text": ("search: {space: 2020-01-01}", "space must be text"),
    "mapping for text": ("search: {strategy: {a: 1}}", "strategy"),
    "int for bool": ("search: {force: 1}", "force must be true or false"),
    "out of range": ("search: {workers: 0}", "--workers"),
    "not a number": ("search: {trial-timeout: .nan}", "trial-timeout"),
    "infinite option": ("search: {strategy-options: {mutation_rate: .inf}}", "must be float"),
    "bool for int option": ("search: {strategy-options: {population: true}}", "must be int"),
    "options are a list": ("search: {strategy-options: [population=3]}", "mapping"),
    "option is a number": ("search: {strategy-options: {3: 3}}", "mapping"),
    "unknown option": ("search: {strategy-options: {popluation: 3}}", "did you mean 'population'"),
    "section is a list": ("search: [1]", "mapping"),
    "top level is a list": ("- a", "mapping"),
    "top level is text": ("hello", "mapping"),
    "key is a number": ("1: 2", "mapping"),
    "key is null in a section": ("search: {null: 2}", "None"),
    "key is a list": ("search: {[1]: 2}", "YAML"),
    "section twice": ("search: {trials: 3}\nsearch: {seed: 3}", "search"),
    "key twice": ("search: {trials: 3, trials: 4}", "trials"),
    "option twice": ("search: {strategy-options: {mutation-rate: 0, mutation_rate: 1}}", "mutation_rate"),
    "another format": ("format: nastool.run/2", "nastool.run/2"),
    "itself": ("search: &a {strategy-options: *a}", ""),
    "tabs": ("search:\n\ttrials: 3", "line 2"),
    "open quote": ("search: 'abc", "YAML"),
    "two documents": ("search: {}\n---\nsearch: {}", "line 2"),
    "python tag": ("search: !!python/object/apply:os.mkdir [pwned]", "python/object"),
    "unknown tag": ("search: !foo {}", "!foo"),
    "wrong bool tag": ("search: {force: !!bool x}", "YAML"),
    "wrong time tag": ("search: {space: !!timestamp x}", "YAML"),
    "wrong int tag": ("search: {trials: !!int x}", "YAML"),
    "wrong merge": ("search: {<<: 3}", "line 1"),
    "bad date": ("search: {space: 2020-13-45}", "YAML"),
    "integer of 5,000 digits": ("search: {trials: " + "9" * 5000 + "}", "YAML"),
    "hexadecimal of 5,000 digits": ("search: {seed: 0x" + "f" * 5000 + "}", "seed"),
    "deep list": ("[" * 100_000, "nested too deeply"),
    "deep mapping": ("search: " + "{a: " * 3000, "nested too deeply"),
    "NUL": ("search: \0", "YAML"),
    "NUL in a path": ('search: {out: "a\\0b"}', "--out"),
    "NUL in a file name": ('search: {evaluator-options: {file: "a\\0b"}}', "a"),
    "half a character": ('search: {space: "\\ud800"}', "no space"),
    "half a character in a path": ('search: {out: "\\ud800"}', "out"),
    "bomb as a number": (BOMB + "search: {trials: *j}", ""),
    "bomb as a format": (BOMB + "format: *j", ""),
    "bomb as an option": (BOMB + "search: {strategy-options: {population: *j}}", ""),
    "bomb of merges": (MERGE_BOMB, "YAML"),
    "too large": ("#" * 1_000_001, "larger than"),
    "binary": (np.random.default_rng(0).bytes(1000), "YAML"),
    "UTF-16": ("search: {}".encode("utf-16"), "YAML"),
}


@pytest.mark.parametrize("name", [name for name in BAD_CONFIGS if not name.startswith("bomb")])
def test_bad_config(run: Run, nasbench201_table: str, name: str) -> None:
    text, fragment = BAD_CONFIGS[name]
    Path("c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    source = [] if "file name" in name else ["-E", f"file={nasbench201_table}"]
    run("search", "--evaluator", "table", *source, "--config", "c.yaml").refused(fragment)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", [name for name in BAD_CONFIGS if name.startswith("bomb")])
def test_config_that_explodes(tmp_path: Path, nasbench201_table: str, name: str) -> None:
    """In a process of its own, with 2 GB and 10 s of processor time."""
    text, fragment = BAD_CONFIGS[name]
    (tmp_path / "c.yaml").write_text(str(text))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))

    script = (
        f"exec $nastool search --evaluator table -E file={shlex.quote(nasbench201_table)} --config c.yaml --out out"
    )
    process(script, tmp_path, limit).refused(fragment)


_words = st.sampled_from(
    ["search", "format", "eval", "trials", "strategy-options", "population", "scale", "evaluator", "dry-run", "seed"]
)


_yaml = st.recursive(
    SCALARS | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words | SCALARS, inner, max_size=3),
)


_text = st.lists(
    _words
    | st.sampled_from([*": {}[],&*!|>-#'\"%@`\n\t\0", "&a ", "*a", "!!int ", "!!bool ", "<<: "])
    | st.text(max_size=3)
).map("".join)


@FUZZ
@given(
    st.one_of(_yaml.map(yaml.safe_dump), st.dictionaries(_words, _yaml).map(yaml.safe_dump), _text).map(str.encode)
    | st.binary(max_size=60)
)
@example(b"search: {force: !!bool x}")
def test_fuzz_config(run: Run, nasbench201_table: str, data: bytes) -> None:
    Path("fuzz.yaml").write_bytes(data)
    outcome = run(
        "search", "--dry-run", "--evaluator", "table", "-E", f"file={nasbench201_table}", "--config", "fuzz.yaml"
    )
    if outcome.code:
        assert outcome.code == 2, outcome
        assert "internal error" not in outcome.err, outcome
