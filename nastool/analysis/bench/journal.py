"""The folder of a comparison: runs.jsonl holds everything that cannot be computed again in a moment.

One JSON object a line, appended when it is known: a `format` line first; a `table` and a `strategy` before their first
run; a `run` when it has finished; a `sitting` for each call. A line that is torn at the end, by a kill, is ignored.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.loop import Best, Budget, Run
from nastool.analysis.bench.specs import StrategySpec
from nastool.analysis.bench.view import View
from nastool.core import folders, options
from nastool.core.errors import InputError, short, why

FORMAT = "nastool.bench/1"
FIRST = json.dumps({"format": FORMAT}, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Key:
    """Identity of a run: ids of its strategy and table, and its seed."""

    strategy: str
    table: str
    seed: int


@dataclass(frozen=True)
class Record:
    """A finished run and what made it.

    cpu_seconds: of strategy and loop together. source: names the content of the strategy's source file then.
    """

    run: Run
    cpu_seconds: float
    nastool: str
    source: str


@dataclass(frozen=True)
class Strategy:
    """A strategy that has runs, as it was called and built then; it may no longer be installed."""

    id: str
    label: str
    name: str
    options: Mapping[str, object]

    @classmethod
    def of(cls, spec: StrategySpec) -> Strategy:
        return cls(spec.id, spec.label, spec.name, dict(spec.options))


@dataclass
class Content:
    """Content of a journal, in the order first written. Of two runs with the same key the later counts."""

    tables: dict[str, Facts] = field(default_factory=dict)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    runs: dict[Key, Record] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)


class Journal:
    """A comparison's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "runs.jsonl"
        self._append: IO[bytes] | None = None
        self._whole: int | None = None
        """Size of the file without a torn last line, once read."""

    def exists(self) -> bool:
        """True if there is one. InputError: the folder holds something else, or cannot be used."""
        names = folders.names(self.path)
        if names is None:
            return False
        there = self.file.is_file()
        if not there and names - {"bench.lock"}:
            raise InputError(f"{short(self.path)} is not empty and no comparison of nastool bench; give another --out")
        return there

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Meanwhile this process alone writes to the folder, which is created. InputError: another one does."""
        taken = f"{self.path} is being written by process {{holder}}: wait for it, or give another --out"
        with folders.locked(self.path, "bench.lock", taken):
            try:
                yield
            finally:
                if self._append is not None:
                    self._append.close()
                    self._append = None

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Meanwhile this process alone writes the report; another one may be adding runs. Waits its turn."""
        try:
            file = open(self.file, "rb")
        except OSError as error:
            raise InputError(f"cannot read {self.file}: {why(error)}") from None
        with file:
            with suppress(OSError):  # without locks two may write it at once, each of its files whole
                folders.lock(file, wait=True)
            yield

    # --- reading

    def read(self) -> Content:
        """Content; empty where there is none. InputError: damaged elsewhere than in its last line."""
        content, whole = Content(), 0
        try:
            with open(self.file, "rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n") and (number > 1 or FIRST.startswith(line)):
                        break  # torn
                    whole += len(line)
                    try:
                        document = json.loads(line, parse_constant=_no_number)
                        if number == 1:
                            _check_format(document)
                        else:
                            _take(document, content)
                    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                        if number > 1:
                            reason = f"is damaged in line {number}: delete that line, and its runs are made again"
                        elif isinstance(error, InputError):
                            reason = str(error)
                        else:
                            reason = "is none of nastool bench; give another --out"
                        raise InputError(f"{self.file} {reason}") from None
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(f"cannot read {self.file}: {why(error)}") from None
        self._whole = whole
        return content

    # --- writing

    def open(self) -> None:
        """Begin to append, behind the last whole line. Once read, under `locked`."""
        assert self._whole is not None
        try:
            self._append = open(self.file, "ab", buffering=0)
            self._append.truncate(self._whole)
        except OSError as error:
            raise InputError(f"cannot write {self.file}: {why(error)}") from None
        if not self._whole:
            self._write_line(FIRST)

    def add_table(self, facts: Facts) -> None:
        self._write({"kind": "table", **asdict(facts)})

    def add_strategy(self, strategy: Strategy) -> None:
        self._write({"kind": "strategy", **asdict(strategy)})

    def add_call(self, document: Mapping[str, object]) -> None:
        self._write({"kind": "sitting", **document})

    def add_run(self, key: Key, record: Record) -> None:
        document = {"kind": "run", **asdict(key), **vars(record.run), **vars(record)}
        del document["run"]
        spent = record.run.spent
        document["budget"] = asdict(record.run.budget)
        document["best"] = [list(vars(best).values()) for best in record.run.best]
        document["spent"] = None if spent is None else spent.tolist()
        self._write(document)

    def _write(self, document: Mapping[str, object]) -> None:
        self._write_line(json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def _write_line(self, data: bytes) -> None:
        """Append in one go. InputError: the disk is full, say."""
        assert self._append is not None
        try:
            while data:
                data = data[self._append.write(data) :]
        except OSError as error:
            raise InputError(f"cannot write {self.file}: {why(error)}; what was there is kept") from None


# What follows raises ValueError, KeyError, TypeError, AttributeError or OverflowError where a line is not what was
# written: whoever edits one must not meet an error elsewhere, or a wrong result.


def _no_number(text: str) -> None:
    raise ValueError(text)


def _check_format(document: Any) -> None:
    """InputError: it is of another version."""
    found = _text(document["format"])
    if found != FORMAT and found.startswith("nastool.bench/"):
        raise InputError(f"has format {short(found)}, this nastool reads {FORMAT}: use the version that wrote it")
    if found != FORMAT:
        raise ValueError(found)


def _take(document: Any, content: Content) -> None:
    """Add what a line says."""
    kind = document.pop("kind")
    if kind == "table":
        facts = Facts(**options.check("table", Facts, document))  # type: ignore[arg-type]  # it checks the types
        _text(facts.id + facts.label + facts.fingerprint + facts.metric + facts.truth)
        if not 0 <= facts.worst <= facts.optimum <= 1 or not 1 <= facts.judged <= facts.rows:
            raise ValueError(facts)
        content.tables[facts.id] = facts
    elif kind == "strategy":
        strategy = Strategy(**document)
        _text(strategy.id + strategy.label + strategy.name)
        strategy.options.keys()
        content.strategies[strategy.id] = strategy
    elif kind == "sitting":
        _check_call(document)
        content.calls.append(document)
    elif kind == "run":
        key, record = _record(document)
        if key.strategy in content.strategies and key.table in content.tables:  # else their line was deleted
            content.runs[key] = record
    else:
        raise ValueError(kind)


def _check_call(document: Mapping[str, Any]) -> None:
    View.from_json(document["view"])
    for name in ("date", "nastool", "python", "platform", "cpu"):
        _text(document[name])
    for word in document["command"]:
        _text(word)
    for name, number in document["packages"].items():
        _text(name if number is None else name + number)
    _count(0 if document["cores"] is None else document["cores"])


def _record(document: Mapping[str, Any]) -> tuple[Key, Record]:
    if document["ended"] not in ("trials", "seconds", "exhausted"):
        raise ValueError(document["ended"])
    budget, queries, spent = Budget(**document["budget"]), _count(document["queries"]), document["spent"]
    _count(0 if budget.trials is None else budget.trials)
    _number(0 if budget.seconds is None else budget.seconds)
    best = tuple(Best(_count(q), _number(label), _number(v), _count(rank)) for q, label, v, rank in document["best"])
    failed = tuple(_count(query) for query in document["failed"])
    if not all(0 <= each.value <= 1 for each in best):
        raise ValueError(best)
    for numbers in ([each.query for each in best], failed):
        if not all(a < b for a, b in pairwise((0, *numbers, queries + 1))):
            raise ValueError(numbers)
    if spent is not None:
        spent = array("d", map(_number, spent))
        if len(spent) != queries or not all(a <= b for a, b in pairwise((0.0, *spent))):
            raise ValueError(len(spent))
    run = Run(budget, document["ended"], queries, best, spent, failed)
    key = Key(_text(document["strategy"]), _text(document["table"]), _count(document["seed"]))
    return key, Record(run, _number(document["cpu_seconds"]), _text(document["nastool"]), _text(document["source"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    value.encode()
    return value


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise TypeError(value)
    return value


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise TypeError(value)
    return value
