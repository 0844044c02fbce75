"""The folder of a comparison: runs.jsonl holds everything that cannot be computed again in a moment.

One JSON object a line, appended when it is known: a `format` line first; a `table`, a `strategy` and a `scorer` before
their first run; a `run` or a `search` when it has finished; a `call` for each command. A line that is torn at the end,
by a kill, is ignored.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Self

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.loop import Run
from nastool.analysis.bench.provenance import Call
from nastool.analysis.bench.scored import Scored
from nastool.analysis.bench.specs import ScorerSpec, StrategySpec
from nastool.core import folders
from nastool.core.errors import InputError, short, why
from nastool.core.options import told_apart
from nastool.core.typed import fields, fitted, taken

FORMAT = "nastool.bench/4"
FORMATS = ("nastool.bench/1", "nastool.bench/2", "nastool.bench/3", FORMAT)
"""Those that are read."""
FIRST = json.dumps({"format": FORMAT}, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True)
class Key:
    """Identity of a run: ids of its strategy and table, its seed, and the id of who scored; "": the table itself."""

    strategy: str
    table: str
    seed: int
    scorer: str = ""


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
class SearchRecord:
    """A finished search by an evaluator's scores, and what made it, as of `Record`."""

    search: Scored
    nastool: str
    source: str


@dataclass(frozen=True)
class Strategy:
    """A strategy that has runs, as it was called and built then; it may no longer be installed."""

    id: str
    label: str
    name: str
    options: Mapping[str, object]
    fidelity: str = ""

    @classmethod
    def of(cls, spec: StrategySpec | ScorerSpec) -> Self:
        fidelity = spec.fidelity if isinstance(spec, StrategySpec) else ""
        return cls(spec.id, spec.label, spec.name, dict(spec.options), fidelity)


@dataclass(frozen=True)
class Scorer(Strategy):
    """An evaluator whose scores were labels."""


@dataclass
class Content:
    """Content of a journal, in the order first written. Of two runs with the same key the later counts."""

    tables: dict[str, Facts] = field(default_factory=dict)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    runs: dict[Key, Record] = field(default_factory=dict)
    scorers: dict[str, Scorer] = field(default_factory=dict)
    searches: dict[Key, SearchRecord] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    @property
    def labels(self) -> dict[str, str]:
        """Label of each strategy, by id; equal ones, since defaults have changed, with the options that differ."""
        found = {}
        for own in self.strategies.values():
            differ = told_apart(own.options, (s.options for s in self.strategies.values() if s.label == own.label))
            found[own.id] = own.label + (f" [{differ}]" if differ else "")
        return found

    @property
    def told_apart(self) -> list[Facts]:
        """The tables; those with the same label, since the file has changed, with its fingerprint in it."""
        several = Counter(facts.label for facts in self.tables.values())
        return [
            replace(facts, label=f"{facts.label} [{facts.fingerprint}]") if several[facts.label] > 1 else facts
            for facts in self.tables.values()
        ]


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

    def add_call(self, call: Call) -> None:
        self._write({"kind": "call", **asdict(call)})

    def add_run(self, key: Key, record: Record) -> None:
        made = {name: value for name, value in vars(record).items() if name != "run"}
        own = {name: value for name, value in vars(key).items() if value != ""}  # earlier versions know no scorer
        self._write({"kind": "run", **own, **record.run.to_json(), **made})

    def add_scorer(self, scorer: Scorer) -> None:
        self._write({"kind": "scorer", **asdict(scorer)})

    def add_search(self, key: Key, record: SearchRecord) -> None:
        made = {name: value for name, value in vars(record).items() if name != "search"}
        self._write({"kind": "search", **asdict(key), **record.search.to_json(), **made})

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


def _no_number(text: str) -> None:
    raise ValueError(text)


def _check_format(document: Any) -> None:
    """InputError: it is of another version."""
    found = document["format"]
    if found not in FORMATS and found.startswith("nastool.bench/"):
        raise InputError(f"has format {short(found)}, this nastool reads {FORMAT}: use the version that wrote it")
    if found not in FORMATS:
        raise ValueError(found)


def _take(document: Any, content: Content) -> None:
    """Add what a line says. ValueError, KeyError, TypeError or AttributeError: it is not what was written."""
    kind = document.pop("kind")
    if kind == "search":
        key = Key(**taken(document, fields(Key)))
        search = Scored(**taken(document, fields(Scored)))
        known = key.strategy in content.strategies and key.table in content.tables and key.scorer in content.scorers
        if known:  # else their line was deleted
            content.searches[key] = SearchRecord(search, **fitted(document, fields(SearchRecord)))
        return
    if kind == "run":
        key = Key(**taken(document, fields(Key)))
        run = Run(**taken(document, fields(Run)))
        if key.strategy in content.strategies and key.table in content.tables:  # else their line was deleted
            content.runs[key] = Record(run, **fitted(document, fields(Record)))
        return
    found = _LINES[kind](**fitted(document, fields(_LINES[kind])))
    if isinstance(found, Call):
        content.calls.append(found)
    elif isinstance(found, Facts):
        content.tables[found.id] = found
    elif isinstance(found, Scorer):
        content.scorers[found.id] = found
    else:
        content.strategies[found.id] = found


_LINES: Mapping[str, Any] = {
    "table": Facts, "strategy": Strategy, "scorer": Scorer, "call": Call, "sitting": Call  # as format 1 calls it
}  # fmt: skip
