"""What run.db looks like, and how one of an earlier version becomes one of this."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

SCHEMA = 7
TABLES = (
    "CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE trials (
        id INTEGER PRIMARY KEY,  -- 0, 1, 2, ... in the order asked
        state TEXT NOT NULL,     -- running, done, failed, stopped
        told INTEGER,            -- 0, 1, 2, ... in the order the strategy was told
        proposal TEXT NOT NULL,  -- JSON: the fields of a Proposal that are not as by default
        evaluation TEXT,         -- JSON: those of an Evaluation
        losses TEXT,             -- JSON: a list of numbers
        loss REAL,               -- the first of them, of trials that are done
        error TEXT, fault TEXT,  -- of a trial that failed; fault: one of core.errors.FAULTS
        attempts INTEGER NOT NULL DEFAULT 1,
        started REAL NOT NULL, finished REAL  -- seconds since 1970
    )""",
    """CREATE TABLE reports (
        trial INTEGER, step INTEGER, metrics TEXT NOT NULL, PRIMARY KEY (trial, step)
    ) WITHOUT ROWID""",
    "CREATE TABLE logs (trial INTEGER PRIMARY KEY, text TEXT NOT NULL)",  # of trials that failed: the last lines
)


def migrate(db: sqlite3.Connection, found: int) -> None:
    """Make a database of this schema out of one of schema `found`: step by step, each one transaction.

    Args:
        db: a connection without transactions of its own (`isolation_level` None).
        found: a key of `MIGRATIONS`.

    Raises:
        TypeError, ValueError, sqlite3.Error: the database is damaged, or cannot be written; it is as before the step.
    """
    for number in range(found, SCHEMA):
        db.execute("BEGIN IMMEDIATE")
        try:
            MIGRATIONS[number](db)
            db.execute("UPDATE run SET value = ? WHERE key = 'schema'", (str(number + 1),))
            db.execute("COMMIT")
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")


def _from_4(db: sqlite3.Connection) -> None:
    """A column for each field becomes JSON; what only reports read is noted."""
    kept = "state, told, losses, loss, error, attempts, started, finished"
    db.execute("ALTER TABLE trials RENAME TO trials_4")
    db.execute(TABLES[1])
    found = db.execute("SELECT * FROM trials_4")
    columns = [name for name, *_ in found.description]
    for values in found.fetchall():
        old = dict(zip(columns, values, strict=True))
        for name in ("choices", "policy", "annealing", "frequencies", "metrics", "new_policy"):
            old[name] = None if old[name] is None else json.loads(old[name])
        proposal = {name: old[name] for name in ("choices", "parent", "budget", "policy", "annealing")}
        notes = _without_none({name: old[name] for name in ("expected", "frequencies")})
        proposal |= {"inherit": bool(old["inherit"]) or None, "notes": notes or None}
        evaluation = None
        if old["metrics"] is not None:
            evaluation = {name: old[name] for name in ("metrics", "seconds", "checkpoint")}
            evaluation |= _learnt(old["new_policy"])
        texts = [None if each is None else json.dumps(_without_none(each)) for each in (proposal, evaluation)]
        db.execute(
            f"INSERT INTO trials (id, proposal, evaluation, {kept}) SELECT id, ?, ?, {kept} FROM trials_4 WHERE id = ?",
            (*texts, old["id"]),
        )
    db.execute("DROP TABLE trials_4")


def _learnt(policy: Any) -> dict[str, Any]:
    """What a policy said of itself after its round, of which reports alone read the frequencies."""
    if isinstance(policy, dict) and "frequencies" in policy:
        rest = {name: value for name, value in policy.items() if name != "frequencies"}
        return {"policy": rest, "notes": {"frequencies": policy["frequencies"]}}
    return {"policy": policy}


def _without_none(values: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _from_5(db: sqlite3.Connection) -> None:
    """No trial is stopped yet."""


def _from_6(db: sqlite3.Connection) -> None:
    """Of which kind the faults were is not known, nor what was printed."""
    if "fault" not in [name for _, name, *_ in db.execute("PRAGMA table_info(trials)")]:  # as of schema 4 it is there
        db.execute("ALTER TABLE trials ADD COLUMN fault TEXT")
    db.execute(TABLES[3].replace("TABLE", "TABLE IF NOT EXISTS", 1))


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {4: _from_4, 5: _from_5, 6: _from_6}
"""What leads from each earlier schema that can still be read to the next."""
