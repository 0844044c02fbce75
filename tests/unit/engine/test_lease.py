"""One coordinator owns a run.db, also where machines do not see each other's locks, and whatever their clocks say."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nastool.core import folders
from nastool.core.errors import InputError
from nastool.engine import lease as module
from nastool.engine import results
from nastool.engine import store as stores
from nastool.engine.lease import Holder, Lease
from nastool.engine.store import Store
from nastool.engine.written import Written
from tests.helpers.running import Run

ELSEWHERE = Holder("far.away", 77, "another boot", "0123456789abcdef", 5)
FACTS = {"config": {"space": {"name": "nasbench201", "options": {}}}, "objective": "val_acc:max"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "run.db"


class Clock:
    """Stands for `time` in the module: what happens while somebody waits. hour: nobody looks at that."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.waited = 0.0
        self.meanwhile = meanwhile
        monkeypatch.setattr(module, "time", self)

    def monotonic(self) -> float:
        return 1000 + self.waited

    def sleep(self, seconds: float) -> None:
        self.waited += seconds
        self.meanwhile()


def put(path: Path, holder: Holder | None) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT OR REPLACE INTO run VALUES ('lease', ?)", (json.dumps(holder and asdict(holder)),))


def counted(path: Path) -> None:
    found = Holder.of(path)
    assert found is not None
    put(path, replace(found, count=found.count + 1))


def test_it_is_held_counts_and_is_given_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    lease = Lease(path, pytest.fail)
    lease.watch()
    with Store.create(path, FACTS) as store:
        with lease.held(store):
            first = Holder.of(path)
            assert first is not None and first.machine == module.machine()
            end = time.monotonic() + 60
            while (found := Holder.of(path)) is None or found.count < first.count + 2:  # while nobody writes
                assert time.monotonic() < end
            assert replace(found, count=first.count) == first
        assert Holder.of(path) is None
        store.write({"other": 2})


def test_who_writes_all_the_time_counts_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since its thread may find no room between the transactions; and no more often than that."""
    monkeypatch.setattr(module, "BEAT_SECONDS", 3600)
    lease = Lease(path, pytest.fail)
    counts = []
    with Store.create(path, FACTS) as store, lease.held(store):
        for number in range(5):
            lease._counted -= 7200 * (number == 2)
            store.write({"other": number})
            holder = Holder.of(path)
            assert holder is not None
            counts.append(holder.count)
    assert counts == [1, 1, 2, 2, 2]


def test_who_is_at_work_elsewhere_is_not_disturbed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.create(path, FACTS).close()
    put(path, ELSEWHERE)
    said: list[str] = []
    clock = Clock(monkeypatch, lambda: None if clock.waited < 5 else counted(path))
    with pytest.raises(InputError, match=r"run is being searched by process 77 on far\.away: see `nastool status"):
        Lease(path, said.append).watch()
    assert 5 <= clock.waited < 7
    (line,) = said
    assert "was searched by process 77 on far.away last: 30 s to see" in line


def test_who_does_not_move_is_dead(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is watched once."""
    Store.create(path, FACTS).close()
    put(path, ELSEWHERE)
    clock = Clock(monkeypatch)
    lease = Lease(path, lambda line: None)
    lease.watch()
    assert clock.waited == module.WATCH_SECONDS
    lease.watch()
    assert clock.waited == module.WATCH_SECONDS
    with Store.open(path) as store, lease.held(store):
        found = Holder.of(path)
        assert found is not None and found.host != ELSEWHERE.host


def test_a_dead_process_of_this_machine_is_not_watched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's lock says that it is dead."""
    Store.create(path, FACTS).close()
    put(path, replace(ELSEWHERE, machine=module.machine()))
    Clock(monkeypatch, lambda: pytest.fail("waited"))
    Lease(path, pytest.fail).watch()


@pytest.mark.parametrize("text", ["null", "5", "{}", "[1]", '{"host": 1}', "nonsense", '"x"'])
def test_what_is_none_is_nobody(path: Path, text: str) -> None:
    assert Holder.of(path) is None
    Store.create(path, FACTS).close()
    assert Holder.of(path) is None
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO run VALUES ('lease', ?)", (text,))
    assert Holder.of(path) is None


def test_who_lost_it_writes_nothing_any_more(path: Path) -> None:
    lease = Lease(path, pytest.fail)
    with Store.create(path, FACTS) as store, lease.held(store):
        store.write({"mine": 1})
        put(path, ELSEWHERE)
        with pytest.raises(InputError, match=r"taken over by process 77 on far\.away while this process stood still"):
            store.write({"mine": 2})
        put(path, None)
        with pytest.raises(InputError, match="taken over by another process"):
            store.begin()
        put(path, ELSEWHERE)
    assert Holder.of(path) == ELSEWHERE
    with Store.read(path) as store:
        assert store.get("mine") == 1


def test_a_search_of_another_machine_is_refused(search: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line, before anything is begun; and goes on once that is dead, with nothing lost."""
    assert search("-n", "3").code == 0
    path = here / "out" / "run.db"
    put(path, ELSEWHERE)
    clock = Clock(monkeypatch, lambda: counted(path))
    outcome = search("-n", "6")
    assert outcome.code == 2 and outcome.err.count("far.away: see `nastool status out`, and end it there") == 1
    clock.meanwhile = lambda: None
    outcome = search("-n", "6")
    assert outcome.code == 0, outcome.err
    with Store.read(path) as store:
        assert store.count()["done"] == 6 and store.get("lease") is None


def test_results_of_a_run_that_another_machine_goes_on_with_are_left(
    search: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of a search that has ended are written again where they are lost, by one process at a time."""
    assert search("-n", "3").code == 0
    path, lost = here / "out" / "run.db", here / "out" / "trials.csv"
    lost.unlink()
    put(path, ELSEWHERE)
    Clock(monkeypatch, lambda: counted(path))
    outcome = search("-n", "3")
    assert outcome.code == 2 and "out is being searched by process 77 on far.away" in outcome.err
    assert not lost.exists()
    put(path, None)
    assert search("-n", "3").code == 0 and lost.exists()


def test_who_lost_a_run_writes_no_result_there(path: Path) -> None:
    with Store.create(path, FACTS) as store:
        written = Written(path.parent)
        written.write("best.json", b"{}")
        put(path, ELSEWHERE)
        for write in (lambda: written.write("trials.csv", b"1"), lambda: results.write(path.parent, store)):
            with pytest.raises(InputError, match=r"taken over by process 77 on far\.away"):
                write()
        assert not (path.parent / "trials.csv").exists()
        put(path, replace(ELSEWHERE, machine=module.machine(), pid=os.getpid()))
        written.write("trials.csv", b"1")


@pytest.mark.parametrize("remote", [False, True])
def test_what_other_machines_see_is_no_mapped_memory(path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool) -> None:
    with Store.create(path, FACTS) as store:
        store.write({"a": 1})
    monkeypatch.setattr(stores, "is_remote", lambda path: remote)
    with Store.open(path) as store:
        store.write({"a": 2})
        assert (path.parent / "run.db-wal").exists() is not remote
        with Store.read(path) as reader:
            assert reader.get("a") == 2


def test_kinds_of_file_systems(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\ntmpfs /home/here tmpfs rw 0 0\n"
        "x /with\\040blank lustre rw 0 0\n"
    )

    def remote(name: str) -> bool:
        return folders.is_remote(Path(name), mounts)

    assert remote("/home/me/run.db") and remote("/with blank/run.db")
    assert not remote("/run.db") and not remote("/home/here/run.db") and not remote("/homes/run.db")
    assert not folders.is_remote(Path("/home/me"), tmp_path / "none")
