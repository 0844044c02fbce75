"""The folder of a comparison: runs.jsonl holds everything that cannot be computed again in a moment.

One JSON object a line, appended when it is known: a `format` line first; a `table` and a `strategy` before their first
run; a `run` when it has finished; a `sitting` for each call. A line that is torn at the end, by a kill, is ignored.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from nastool.bench.benchmark import Facts
from nastool.bench.loop import Best, Budget, Run
from nastool.bench.specs import StrategySpec
from nastool.errors import InputError, short

FORMAT = "nastool.bench/1"


@dataclass(frozen=True)
class Key:
    """Which run it is: ids of its strategy and table, and its seed."""

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
    options: Mapping[str, Any]

    @classmethod
    def of(cls, spec: StrategySpec) -> Strategy:
        return cls(spec.id, spec.label, spec.name, dict(spec.options))


@dataclass
class Content:
    """What a journal holds. Of two runs with the same key the later counts. Everything in the order first written."""

    tables: dict[str, Facts] = field(default_factory=dict)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    runs: dict[Key, Record] = field(default_factory=dict)
    sittings: list[dict[str, Any]] = field(default_factory=list)


class Journal:
    """A comparison's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "runs.jsonl"
        self._append: IO[bytes] | None = None

    def exists(self) -> bool:
        """Whether there is one. InputError: the folder holds something else, or cannot be used."""
        try:
            names = set(os.listdir(self.path))
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise InputError(f"{short(self.path)} is a file, or under one; give another --out") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot use folder {short(self.path)}: {reason}; give another --out") from None
        if "runs.jsonl" not in names and names - {"bench.lock"}:
            raise InputError(f"{short(self.path)} is not empty and no comparison of nastool bench; give another --out")
        return "runs.jsonl" in names

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Meanwhile this process alone writes to the folder, which is created. InputError: another one does."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = open(self.path / "bench.lock", "a+", encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"cannot write {short(self.path)}: {reason}; give another --out") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                holder = lock.read().strip() or "?"
                raise InputError(
                    f"{self.path} is being written by process {holder}: wait for it, or give another --out"
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
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
            raise InputError(f"cannot read {self.file}: {error.strerror or error}") from None
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    # --- reading

    def read(self) -> Content:
        """What it holds; empty where there is none. InputError: damaged elsewhere than in its last line."""
        content = Content()
        try:
            with open(self.file, "rb") as file:
                for number, line in enumerate(file, 1):
                    if not line.endswith(b"\n"):
                        break  # torn
                    try:
                        self._take(json.loads(line), content, number)
                    except InputError:
                        raise
                    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                        if number == 1:
                            raise InputError(f"{self.file} is none of nastool bench; give another --out") from None
                        raise InputError(
                            f"{self.file} is damaged in line {number}: delete that line, and its runs are made again"
                        ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(f"cannot read {self.file}: {error.strerror or error}") from None
        return content

    def _take(self, document: Any, content: Content, number: int) -> None:
        if number == 1:
            if document["format"] != FORMAT:
                raise ValueError(document["format"])
            return
        kind = document.pop("kind")
        if kind == "table":
            facts = Facts(**document)
            content.tables[facts.id] = facts
        elif kind == "strategy":
            strategy = Strategy(**document)
            content.strategies[strategy.id] = strategy
        elif kind == "sitting":
            if not isinstance(document["view"], dict):
                raise ValueError
            content.sittings.append(document)
        elif kind == "run":
            key, record = _record(document)
            if key.strategy not in content.strategies or key.table not in content.tables:
                raise ValueError
            content.runs[key] = record
        else:
            raise ValueError(kind)

    # --- writing

    def open(self) -> None:
        """Begin to append, behind the last whole line. Under `locked`."""
        try:
            self._append = open(self.file, "ab", buffering=0)
            with open(self.file, "rb+") as file:
                file.truncate(_whole(file))
                empty = not file.seek(0, os.SEEK_END)
        except OSError as error:
            raise InputError(f"cannot write {self.file}: {error.strerror or error}") from None
        if empty:
            self._write({"format": FORMAT})

    def add_table(self, facts: Facts) -> None:
        self._write({"kind": "table", **asdict(facts)})

    def add_strategy(self, strategy: Strategy) -> None:
        self._write({"kind": "strategy", **asdict(strategy)})

    def add_sitting(self, document: Mapping[str, Any]) -> None:
        self._write({"kind": "sitting", **document})

    def add_run(self, key: Key, record: Record) -> None:
        run = record.run
        document = {
            "kind": "run",
            **asdict(key),
            "budget": asdict(run.budget),
            "ended": run.ended,
            "queries": run.queries,
            "best": [[best.query, best.label, best.value, best.rank] for best in run.best],
            "failed": list(run.failed),
            "spent": None if run.spent is None else run.spent.tolist(),
            "cpu_seconds": record.cpu_seconds,
            "nastool": record.nastool,
            "source": record.source,
        }
        self._write(document)

    def _write(self, document: Mapping[str, Any]) -> None:
        """One line, in one go. InputError: the disk is full, say."""
        assert self._append is not None
        data = json.dumps(document, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        try:
            while data:
                data = data[self._append.write(data) :]
        except OSError as error:
            raise InputError(f"cannot write {self.file}: {error.strerror or error}; what was there is kept") from None


def _whole(file: IO[bytes]) -> int:
    """The size of the file without a torn last line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _record(document: Mapping[str, Any]) -> tuple[Key, Record]:
    """ValueError, KeyError or TypeError: it is no run."""
    if document["ended"] not in ("trials", "seconds", "exhausted"):
        raise ValueError(document["ended"])
    spent = document["spent"]
    run = Run(
        Budget(**document["budget"]),
        document["ended"],
        document["queries"],
        tuple(Best(*best) for best in document["best"]),
        None if spent is None else array("d", spent),
        tuple(document["failed"]),
    )
    if not all(math.isfinite(best.value) for best in run.best) or len(spent or ()) not in (0, run.queries):
        raise ValueError
    key = Key(document["strategy"], document["table"], document["seed"])
    return key, Record(run, document["cpu_seconds"], document["nastool"], document["source"])
