"""run.db: the only memory of a search.

One SQLite file in WAL mode with a single writer, the coordinator. A finished trial and the strategy's state
are one step, of which a transaction holds one or several, so whatever moment the process dies at, what is in the file
is a state the search really went through. Readers (`status`, `top`) open it read-only and never block the writer.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nastool.core.errors import FAULTS, InputError, one_line, short, why
from nastool.core.folders import file_at, is_remote
from nastool.core.typed import is_number
from nastool.core.values import Objective, Silence, SpaceRef, Trial, loads
from nastool.engine import rows
from nastool.engine.migrations import MIGRATIONS, SCHEMA, TABLES, migrate
from nastool.engine.store_faults import Errors, saved

_TRIAL = "id, state, proposal, evaluation, losses, error, fault"


class Store:
    """A run's database. Use as a context manager; `create` or `open` makes one.

    Trials and the strategy's state are written between `begin` and `commit`: a step. It is a transaction of its own;
    within `together`, those up to the next `sync` are one.
    sqlite3 errors of a full or broken disk leave as InputError and the transaction rolled back.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self.path = path
        self._errors = Errors(path, self.rollback)
        self._together = self._in_step = False
        self._file: tuple[int, int] | None = None
        """Which file it is, if this is the connection that writes."""
        self._read: dict[int, Trial] = {}
        """Finished trials that the connection that writes has read, and not changed since."""
        self.guard: Callable[[], None] | None = None
        """Called in each transaction as it begins; an InputError of it ends that."""

    # --- opening

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, object], *, durable: bool = True) -> Store:
        """A new run. facts: JSON values to `get` later ("config", "space", ...)."""
        store = cls._connect(path, durable)
        with store._errors:
            store._db.execute("BEGIN IMMEDIATE")
            for statement in TABLES:
                store._db.execute(statement)
            for key, value in {**facts, "schema": SCHEMA}.items():
                store.put(key, value)
            store.commit()
        return store

    @staticmethod
    def is_blank(path: Path) -> bool:
        """Whether nothing was ever committed to it: it is missing, or its creation was interrupted."""
        if not path.exists():
            return True
        try:
            with closing(sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?mode=ro", uri=True)) as db:
                return bool(db.execute("SELECT COUNT(*) = 0 FROM sqlite_master").fetchone()[0])
        except (sqlite3.Error, UnicodeError):
            return False  # damaged or foreign: whoever opens it will say so

    @classmethod
    def open(cls, path: Path, *, durable: bool = True) -> Store:
        """Continue an existing run; one of an earlier version becomes one of this. durable: see `_connect`."""
        store = cls._connect(path, durable)
        store._migrate()
        store._check()
        return store

    @classmethod
    def read(cls, path: Path) -> Store:
        """Look at a run, also while it is being searched. InputError where there is none.

        One of an earlier version is read into memory, and stays as it is.
        """
        try:
            there = path.is_file()
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {short(path)}: {why(error)}") from None
        if not there:
            inside = sorted(file.parent for file in path.parent.glob(f"*/{path.name}"))[:3]
            those = f"; {', '.join(map(short, inside))} {'are' if len(inside) > 1 else 'is one'}" if inside else ""
            raise InputError(f"{short(path.parent)} is no run folder: it has no {path.name}{those}")
        uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
        # Without write permission in the folder WAL cannot be used, nor can anybody be writing: then immutable.
        for last, mode in ((False, uri), (True, uri + "&immutable=1")):
            try:
                store = cls(sqlite3.connect(mode, uri=True, isolation_level=None), path)
            except sqlite3.Error as error:
                raise InputError(f"cannot read {short(path)}: {error}") from None
            try:
                if store._is_earlier():
                    store._into_memory()
                    store._migrate()
                store._check()
                return store
            except InputError:
                store.close()
                if last:
                    raise
        raise AssertionError("unreachable")

    @classmethod
    def _connect(cls, path: Path, durable: bool) -> Store:
        """durable: every commit survives a power cut. Otherwise the last few may not; a crash loses none."""
        try:
            db = sqlite3.connect(path, isolation_level=None, timeout=10)
        except sqlite3.Error as error:
            raise InputError(f"cannot write {path}: {error}") from None
        store = cls(db, path)
        with store._errors:
            try:  # WAL maps memory, as some network file systems cannot, and of which other machines see nothing
                db.execute(f"PRAGMA journal_mode = {'DELETE' if is_remote(path) else 'WAL'}")
            except sqlite3.OperationalError:
                db.execute("PRAGMA journal_mode = DELETE")
            db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        store._file = file_at(path)
        return store

    def _into_memory(self) -> None:
        """Go on with a copy in memory."""
        copy = sqlite3.connect(":memory:", isolation_level=None)
        with self._errors:
            self._db.backup(copy)
        self._db.close()
        self._db = copy

    def _is_earlier(self) -> bool:
        """Whether it is of an earlier version that can be migrated."""
        found = self.get("schema")
        return isinstance(found, int) and found in MIGRATIONS

    def _migrate(self) -> None:
        if not self._is_earlier():
            return
        try:
            with self._errors:
                migrate(self._db, self.get("schema"))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"{self.path} is damaged: its trials are none ({one_line(error)})") from None

    def _check(self) -> None:
        version = self.get("schema")
        if version != SCHEMA:
            raise InputError(
                f"{self.path} has schema {version}, this nastool reads {SCHEMA}: use the version that wrote it"
            )
        what = rows.damaged_fact(*map(self.get, ("config", "objective", "final", "origin", "trials")))
        if what is not None:
            raise InputError(f"{self.path} is damaged: {what} is incomplete")

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # --- transactions

    def begin(self) -> None:
        """Start a step; nothing happens inside one. InputError: also of `guard`."""
        if not self._db.in_transaction:
            with self._errors:
                self._db.execute("BEGIN IMMEDIATE")
            if self.guard is not None:
                self.guard()
        if self._together and not self._in_step:
            with self._errors:
                self._db.execute("SAVEPOINT step")
            self._in_step = True

    def commit(self) -> None:
        """End a step. InputError: as of `sync`."""
        if not self._together:
            self._commit()
            return
        with self._errors:
            self._db.execute("RELEASE step")
        self._in_step = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Steps within are written to the disk together, by `sync` or at the end; one that does not end is left out."""
        self._together = True
        try:
            yield
        finally:
            if self._in_step:
                self.rollback()
            self.sync()
            self._together = False

    def sync(self) -> None:
        """Write what `together` left for later to the disk, unless a step is open.

        Raises:
            InputError: Also where somebody has deleted or replaced the file; then it is put back, or saved beside.
        """
        if self._together and self._db.in_transaction and not self._in_step:
            self._commit()

    def _commit(self) -> None:
        with self._errors:
            self._db.execute("COMMIT")
        if self._file is not None and file_at(self.path) != self._file:
            raise saved(self._db, self.path)

    def rollback(self) -> None:
        """Take back what the open step has written."""
        self._read.clear()
        step, self._in_step = self._in_step, False
        if step and self._db.in_transaction:  # SQLite itself has ended it where the disk is full, say
            self._db.execute("ROLLBACK TO step")
            self._db.execute("RELEASE step")
        elif self._db.in_transaction:
            self._db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read meanwhile is of one moment, also while a search is writing."""
        list(self._query("BEGIN"))
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._db.execute("END")

    # --- facts about the run

    def get(self, key: str) -> Any:
        """The JSON value stored under key; None where there is none."""
        rows = list(self._query("SELECT value FROM run WHERE key = ?", key))
        strategy = key == "strategy"  # which may hold what it likes
        return self._json(rows[0][0], json.loads if strategy else loads) if rows else None

    def _json(self, text: Any, read: Callable[[Any], Any] = json.loads) -> Any:
        try:
            return read(text)
        except (ValueError, TypeError, RecursionError):
            raise InputError(f"{self.path} is damaged: {short(text)!r} is no JSON") from None

    def put(self, key: str, value: object) -> None:
        with self._errors:
            self._db.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", (key, json.dumps(value)))

    def write(self, values: Mapping[str, object]) -> None:
        """Put several values in one transaction of their own."""
        self.begin()
        for key, value in values.items():
            self.put(key, value)
        self.commit()

    def put_silent(self, silent: Mapping[int, Silence]) -> None:
        """The running trials that make no progress."""
        self.put("silent", {str(trial): asdict(silence) for trial, silence in silent.items()})

    def silent(self) -> dict[int, Silence]:
        """As of the last `put_silent`; it means something while somebody is at work on the run, and for what runs."""
        try:
            found = {int(trial): Silence(**value) for trial, value in (self.get("silent") or {}).items()}
            if all(is_number(silence.since) and isinstance(silence.how, str) for silence in found.values()):
                return found
        except (AttributeError, TypeError, ValueError):
            pass
        raise InputError(f"{self.path} is damaged: what it says of silent trials is none of it")

    # --- trials

    def add(self, trial: Trial) -> None:
        """A trial that was just asked. TypeError or ValueError: its proposal is none, or none that can be written."""
        values = trial.id, trial.state, rows.to_text(trial.proposal), time.time()
        with self._errors:
            self._db.execute("INSERT INTO trials (id, state, proposal, started) VALUES (?,?,?,?)", values)

    def finish(self, trial: Trial, told: int, log: str = "") -> None:
        """A trial that was just told, as number `told`. log: what its worker printed last, of one that failed."""
        evaluation = trial.evaluation
        values = (
            trial.state,
            told,
            None if evaluation is None else rows.to_text(evaluation),
            rows.encode(trial.losses or trial.early),
            trial.losses[0] if trial.losses else None,
            trial.error,
            trial.fault,
            time.time(),
            trial.id,
        )
        with self._errors:
            self._db.execute(
                "UPDATE trials SET state=?, told=?, evaluation=?, losses=?, loss=?, error=?, fault=?, finished=? "
                "WHERE id=?",
                values,
            )
            if log:
                self._db.execute("INSERT OR REPLACE INTO logs VALUES (?, ?)", (trial.id, log))

    def retry(self, trial_id: int) -> None:
        """The trial is evaluated once more after its worker died."""
        with self._errors:
            self._db.execute("UPDATE trials SET attempts = attempts + 1 WHERE id = ?", (trial_id,))

    def drop_checkpoint(self, trial_id: int) -> None:
        """Forget the files that the trial left."""
        rest = "json_remove(evaluation, '$.checkpoint', '$.artifacts')"
        self._read.pop(trial_id, None)
        with self._errors:
            self._db.execute(f"UPDATE trials SET evaluation = {rest} WHERE id = ?", (trial_id,))

    def report(self, trial_id: int, step: int, metrics: Mapping[str, float]) -> None:
        """An intermediate measurement; a repetition of the trial replaces it and what came after it."""
        with self._errors:
            self._db.execute("DELETE FROM reports WHERE trial = ? AND step > ?", (trial_id, step))
            self._db.execute(
                "INSERT OR REPLACE INTO reports VALUES (?, ?, ?)", (trial_id, step, json.dumps(dict(metrics)))
            )

    def reports(self, trial_id: int) -> list[tuple[int, dict[str, float]]]:
        """(step, metrics) in the order of steps."""
        rows = self._query("SELECT step, metrics FROM reports WHERE trial = ? ORDER BY step", trial_id)
        return [(step, self._reported(trial_id, metrics)) for step, metrics in rows]

    def all_reports(self) -> Iterator[tuple[int, int, dict[str, float]]]:
        """(trial, step, metrics) in the order of trials and steps."""
        for trial_id, step, metrics in self._query("SELECT trial, step, metrics FROM reports ORDER BY trial, step"):
            yield trial_id, step, self._reported(trial_id, metrics)

    def _reported(self, trial_id: int, text: Any) -> dict[str, float]:
        """Those values that are finite numbers: what is reported on the way is not checked when it comes."""
        found = self._json(text)
        if not isinstance(found, dict):
            raise InputError(f"{self.path} is damaged: what trial {short(trial_id)} reported is no object")
        return {name: value for name, value in found.items() if is_number(value)}

    def times(self) -> dict[int, tuple[int | None, float, float | None, int]]:
        """Of each trial: as which it was told, when it was started and finished (since 1970), how often tried."""
        number = "typeof({0}) IN ('integer', 'real') AND abs({0}) < 9e999".format
        right = f"""typeof(told) IN ('integer', 'null') AND typeof(attempts) = 'integer'
            AND {number("started")} AND (finished IS NULL OR {number("finished")})"""
        for (trial_id,) in self._query(f"SELECT id FROM trials WHERE NOT ({right})"):
            raise self._damaged(trial_id)
        found = self._query("SELECT id, told, started, finished, attempts FROM trials")
        return {trial_id: (told, started, finished, attempts) for trial_id, told, started, finished, attempts in found}

    # --- reading

    @property
    def origin(self) -> Mapping[str, object]:
        """How its trials are measured, as lines of architectures say it; {}: it does not say."""
        found: Mapping[str, object] = self.get("origin") or {}
        return found

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the run optimises, the first before the others."""
        return Objective.parse_all(self.get("objective"))

    @property
    def space(self) -> SpaceRef:
        """The search space of the run."""
        config = self.get("config")
        return SpaceRef.of(config["space"]["name"], config["space"]["options"])

    def count(self) -> dict[str, int]:
        """How many trials are in each state."""
        counts = {"running": 0, "done": 0, "failed": 0, "stopped": 0}
        found = dict(self._query("SELECT state, COUNT(*) FROM trials GROUP BY state"))
        if not found.keys() <= counts.keys():
            raise InputError(f"{self.path} is damaged: a trial is neither running nor done, failed or stopped")
        return {**counts, **found}

    def history(self) -> Iterator[Trial]:
        """All trials: the finished ones in the order finished, then the running ones by id."""
        return self._select("ORDER BY told IS NULL, told, id")

    def whole_history(self) -> list[Trial]:
        """`history`, of which nothing may be missing for the search to go on. InputError: something is."""
        trials = list(self.history())
        told = [number for (number,) in self._query("SELECT told FROM trials WHERE told IS NOT NULL ORDER BY told")]
        finished = sum(trial.state != "running" for trial in trials)
        if sorted(trial.id for trial in trials) != list(range(len(trials))) or told != list(range(finished)):
            raise InputError(f"{self.path} is damaged: of its trials some are missing, or told twice")
        if (orphan := rows.orphan(trials)) is not None:
            raise InputError(f"{self.path} is damaged: trial {orphan} has a parent that is none")
        return trials

    def trials(self) -> Iterator[Trial]:
        """All trials by id."""
        return self._select("ORDER BY id")

    def numbered(self, trial_id: int) -> list[Trial]:
        """The trial of this number, alone; []: there is none."""
        return list(self._select("WHERE id = ?", trial_id))

    def best(self, k: int) -> list[Trial]:
        """The k best finished trials, by `Trial.rank`."""
        least = "SELECT loss FROM trials WHERE loss IS NOT NULL ORDER BY loss LIMIT 1 OFFSET ?"
        found = self._select(f"WHERE loss IS NOT NULL AND loss <= COALESCE(({least}), 9e999)", k - 1)
        return sorted(found, key=lambda trial: trial.rank)[:k]

    def failures(self, k: int) -> list[Trial]:
        """The last k failed trials, the latest first."""
        return list(self._select("WHERE state = 'failed' ORDER BY told DESC LIMIT ?", k))

    def faults(self) -> dict[str, int]:
        """How many trials failed by each kind of fault that is known, the most frequent first."""
        found = self._query(
            "SELECT fault, COUNT(*) FROM trials WHERE state = 'failed' GROUP BY fault ORDER BY 2 DESC, 1"
        )
        return {fault: count for fault, count in found if fault in FAULTS}

    def log(self, trial_id: int) -> str:
        """What the worker of a failed trial printed last; "": nothing that is known."""
        return next((str(text) for (text,) in self._query("SELECT text FROM logs WHERE trial = ?", trial_id)), "")

    def logs(self, k: int) -> dict[int, str]:
        """As of `log`, of the last k trials that have one, the latest first."""
        return {trial: str(text) for trial, text in self._query("SELECT * FROM logs ORDER BY trial DESC LIMIT ?", k)}

    def spent(self) -> tuple[float, float, float]:
        """Seconds of all evaluations, failed ones too; time of the first start, of the last finish (since 1970)."""
        cost = (
            "COALESCE(json_extract(evaluation, '$.seconds'), CASE WHEN finished > started THEN finished - started END)"
        )
        (row,) = self._query(f"SELECT TOTAL({cost}), COALESCE(MIN(started), 0), COALESCE(MAX(finished), 0) FROM trials")
        if not all(map(is_number, row)):
            raise InputError(f"{self.path} is damaged: the times of its trials are no numbers")
        return float(row[0]), float(row[1]), float(row[2])

    def _select(self, tail: str, *values: object) -> Iterator[Trial]:
        space = self.space
        for row in self._query(f"SELECT {_TRIAL} FROM trials {tail}", *values):
            trial = self._read.get(row[0])
            if trial is None:
                try:
                    trial = rows.trial_of(space, row)
                except (AttributeError, LookupError, TypeError, ValueError, RecursionError):
                    raise self._damaged(row[0]) from None
                if self._file is not None and trial.state != "running":
                    self._read[trial.id] = trial
            yield trial

    def _damaged(self, trial_id: object) -> InputError:
        return InputError(f"{self.path} is damaged: what it says of trial {short(trial_id)} is no trial")

    def _query(self, statement: str, *values: object) -> Iterator[Any]:
        with self._errors:
            yield from self._db.execute(statement, values)
