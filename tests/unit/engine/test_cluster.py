"""Workers that Slurm starts, pre-empts, cancels and ends, on a stand-in for it."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from nastool.core.errors import CannotGoOn, InputError
from nastool.core.values import Proposal
from nastool.engine.executors import cluster, places
from nastool.engine.executors.base import Drive, Setting, carry_out
from nastool.engine.executors.jobs import MAX_MOVES, EvaluatorSpec, Finished, Job, again
from nastool.engine.executors.slot import Slot
from nastool.engine.executors.slurm import Slurm
from nastool.engine.run import make_executor
from nastool.spaces.nasbench_macro import NasBenchMacro
from tests.helpers.slow import OfSlow
from tests.helpers.slurm import FakeSlurm, fake_slurm

SPACE = NasBenchMacro()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSlurm]:
    monkeypatch.setattr(cluster.Cluster, "look_seconds", 0.2)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    with fake_slurm(tmp_path / "slurm", monkeypatch) as found:
        yield found


def spec(folder: Path, **given: object) -> EvaluatorSpec:
    return OfSlow(SPACE.ref, "slow", {"log": str(folder / "evaluated"), **given}, workdir=folder / "run")


def jobs(count: int) -> Iterator[Job]:
    return (Job(i, Proposal(SPACE.sample(np.random.default_rng(i))), seed=i) for i in range(count))


def made(folder: Path, workers: int = 2, say: Callable[[str], None] = print, more: str = "", **given: object) -> Slurm:
    """Options of the evaluator are given, those of the executor are `more`."""
    setting = Setting(workers, logs=folder / "run" / "logs", say=say)
    found = spec(folder, **given)
    executor = make_executor(f"slurm{more}", found, found.build(), setting)
    assert isinstance(executor, Slurm)
    return executor


def carried_out(executor: Slurm, enough: Callable[[list[Finished]], bool]) -> list[Finished]:
    """Carry out jobs until there are enough results; asked after each."""
    left, found, done = jobs(1000), list[Finished](), threading.Event()
    for event in Drive(executor, lambda: next(left), stop=done.is_set):
        if isinstance(event, Finished):
            found.append(event)
            if not done.is_set() and enough(found):
                done.set()
    return found


def check(found: list[Finished]) -> None:
    """None is lost, none came twice, and each is what it would be here."""
    assert sorted(event.job.trial_id for event in found) == list(range(len(found)))
    for event in found:
        assert event.error is None and event.evaluation is not None
        assert event.evaluation.metrics["val_acc"] == sum(event.job.proposal.arch.choices)
        assert event.job.deaths == 0


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def starts(job: Mapping[str, object]) -> int:
    return int(str(job.get("starts", 1)))


@pytest.mark.parametrize("more", ["", ":flags=--requeue"])
def test_what_is_taken_away_is_carried_out_elsewhere(tmp_path: Path, slurm: FakeSlurm, more: str) -> None:
    """Pre-empted, at its time limit, or since a node failed."""
    said: list[str] = []
    orders, since = ["preempt", "timeout", "fail"], 0

    def enough(found: list[Finished]) -> bool:
        """Whether all has happened; one thing after another, each while both workers are at work."""
        nonlocal since
        lost = sum(state not in ("RUNNING", "PENDING") for state in slurm.states())
        lost += sum(starts(job) - 1 for job in slurm.jobs().values())
        if lost == 3 - len(orders) and executor.busy and len(slurm.running()) == 2 and len(found) > since + 2:
            if not orders:
                return True
            slurm.order(slurm.running()[0], orders.pop(0))
            since = len(found)
        return False

    with closing(made(tmp_path, say=said.append, more=more, seconds=0.1)) as executor:
        executor.open()
        check(carried_out(executor, enough))
    assert all("is gone, or was taken away; see " in line for line in said)
    slurm.settle()
    states = slurm.states()
    if more:
        assert states.count("TIMEOUT") == 1 and len(states) == 3 and sum(map(starts, slurm.jobs().values())) == 5
    else:
        assert {"TIMEOUT", "PREEMPTED", "NODE_FAIL"} < set(states) and len(states) == 5


def test_workers_join_whenever_there_is_room(tmp_path: Path, slurm: FakeSlurm) -> None:
    slurm.nodes = 1
    beside: list[int] = []

    def enough(found: list[Finished]) -> bool:
        beside.append(len(executor.busy))
        if len(found) == 4:
            slurm.nodes = 2
        return beside[-1] > 0

    with closing(made(tmp_path, workers=3, seconds=0.1)) as executor:
        executor.open()
        assert slurm.states() == ["RUNNING", "PENDING", "PENDING"]
        check(carried_out(executor, enough))
        assert beside[:4] == [0, 0, 0, 0]
    slurm.settle()


def test_a_queue_is_waited_for_and_said(tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the middle, when none is left: nothing is given up for that."""
    monkeypatch.setattr(cluster, "SAY_SECONDS", 0.3)
    said: list[str] = []

    def enough(found: list[Finished]) -> bool:
        if len(found) == 3:
            slurm.nodes = 0
            for job in slurm.running():
                slurm.order(job, "preempt")
            threading.Timer(3, lambda: setattr(slurm, "nodes", 2)).start()
        return len(found) > 5

    with closing(made(tmp_path, say=said.append, seconds=0.1)) as executor:
        executor._timeout = 2.0
        executor.open()
        said.clear()
        check(carried_out(executor, enough))
    assert said.count("waiting for executor slurm to start one of 2 workers") == 1


def test_a_place_is_known_by_either_of_its_connections(
    tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may take longer to be greeted than the second."""
    waits, greeted = iter([0.5]), places._wait_long

    def slow(connection: Connection) -> None:
        time.sleep(next(waits, 0))
        greeted(connection)

    monkeypatch.setattr(places, "_wait_long", slow)
    end = time.monotonic() + 60
    with closing(made(tmp_path, workers=1)) as executor:
        monkeypatch.setattr(executor, "_say_if_alone", lambda: end < time.monotonic() and pytest.fail("no worker"))
        executor.open()
        assert carry_out(executor, next(jobs(1))).error is None


def test_a_process_that_dies_by_itself_is_followed_by_another_in_the_same_place(
    tmp_path: Path, slurm: FakeSlurm
) -> None:
    with closing(made(tmp_path, workers=1, dies=2)) as executor:
        executor.open()
        left = jobs(3)
        assert [carry_out(executor, next(left)).error for _ in range(2)] == [None, None]
        found = carry_out(executor, next(left))
    assert found.job.deaths == 1 and found.job.moves == 0
    assert found.error is None
    slurm.settle()
    assert len(slurm.jobs()) == 1
    pids = [line.split()[1:] for line in (tmp_path / "evaluated").read_text().splitlines()]
    assert len({pid for pid, _ in pids}) == 2 and len({parent for _, parent in pids}) == 1


def test_a_machine_without_room_is_done_without(tmp_path: Path, slurm: FakeSlurm) -> None:
    said: list[str] = []
    with closing(made(tmp_path, say=said.append, room=False, seconds=0.1)) as executor:
        executor.open()
        wait_until(lambda: executor.free == 2 or executor.wait(0.1))
        check(carried_out(executor, lambda found: bool(said) and len(found) > 3))
        wait_until(lambda: len(slurm.running()) == 1 or executor.wait(0.1))
        assert carry_out(executor, next(jobs(1))).error is None
        assert len(slurm.jobs()) == 2, "what is given back is not asked for again"
    assert "MemoryError" in said[0] and said[0].endswith("1 goes on without it")


def test_one_job_alone_is_cancelled(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Also one that does not end by itself."""
    with closing(made(tmp_path)) as executor:
        executor.open()
        wait_until(lambda: len(slurm.running()) == 2)
        executor.give_back(1)
        executor.give_back(1)
        wait_until(lambda: slurm.states() == ["RUNNING", "CANCELLED"])


def test_a_step_looks_at_those_places_alone_where_something_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 100 that are there and have nothing to say, none is looked at; of one that is gone, only that."""
    executor = Slurm(spec(tmp_path), 100, Setting(100, logs=tmp_path))
    executor._look_at = float("inf")
    looked: list[int] = []
    listen = executor._listen
    with closing(executor):
        executor._meeting = places.Meeting(executor.file, "localhost")
        ends = []
        for number in range(100):
            for works in (False, True):
                ours, theirs = Pipe()
                ends.append(theirs)
                executor._meeting.arrivals.put((places.Hello(number, "a", "here", 1, works), ours))
        assert executor.free == 1, "one may wait for the first"
        executor._tend()
        assert executor.free == 100 and not executor._missing

        def note(place: cluster.Place, slot: Slot) -> None:
            looked.append(place.number)
            listen(place, slot)

        monkeypatch.setattr(executor, "_listen", note)
        executor._tend()
        assert looked == []
        ends[2 * 7].close()
        executor._tend()
        assert looked == [7] and executor._missing == {7} and executor.free == 99


def test_what_takes_too_long_is_ended_there(tmp_path: Path, slurm: FakeSlurm) -> None:
    with closing(made(tmp_path, workers=1, seconds=60)) as executor:
        executor._timeout = 0.5
        executor.open()
        found = carry_out(executor, next(jobs(1)))
        assert found.error == "gave up after 0.5 s (--trial-timeout)"
        _, pid, _ = (tmp_path / "evaluated").read_text().split()
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        wait_until(lambda: executor.free or executor.wait(0.1))
    slurm.settle()
    assert len(slurm.jobs()) == 1


def test_a_job_that_a_person_cancels_is_not_asked_for_again(tmp_path: Path, slurm: FakeSlurm) -> None:
    said: list[str] = []

    def enough(found: list[Finished]) -> bool:
        if len(found) == 2:
            slurm.order(1, "cancel")
        return any("not asked for" in line for line in said)

    with closing(made(tmp_path, say=said.append, seconds=0.1)) as executor:
        executor.open()
        wait_until(lambda: executor.free == 2 or executor.wait(0.1))
        check(carried_out(executor, enough))
        assert said[-1].endswith("is not asked for any more: cancelled by somebody: Slurm job 1: CANCELLED")
        slurm.order(2, "cancel")
        with pytest.raises(CannotGoOn, match="no worker is left, nor will any come: cancelled by somebody"):
            carried_out(executor, lambda found: False)
    assert len(slurm.jobs()) == 2


def test_who_cannot_be_asked(tmp_path: Path, slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(made(tmp_path, more=":partition=nowhere")) as executor:
        with pytest.raises(InputError, match="sbatch: invalid partition specified: nowhere Batch"):
            executor.open()
    monkeypatch.setenv("PATH", "/nowhere")
    with closing(made(tmp_path)) as executor:
        with pytest.raises(InputError, match="sbatch is not there"):
            executor.open()
    with pytest.raises(InputError, match=r"executor slurm has no option 'gpu'; did you mean 'gpus'\?"):
        made(tmp_path, more=":gpu=1")
    with pytest.raises(InputError, match="executor slurm: option cpus must be int"):
        made(tmp_path, more=":cpus=many")
    with pytest.raises(InputError, match="need cpus >= 1"):
        made(tmp_path, more=":cpus=0")
    with pytest.raises(InputError, match="option flags: No closing quotation"):
        made(tmp_path, more=":flags='--qos")
    with pytest.raises(InputError, match="executor processes has no option 'cpus'"):
        make_executor("processes:cpus=2", spec(tmp_path), spec(tmp_path).build(), Setting())


def test_workers_that_never_join_are_given_up(tmp_path: Path, slurm: FakeSlurm) -> None:
    """With what their jobs printed last."""
    said: list[str] = []
    with closing(made(tmp_path, say=said.append)) as executor:
        executor._host = "nowhere.invalid"
        with pytest.raises(CannotGoOn, match=r"does not reach the coordinator on nowhere.invalid, port .* host="):
            executor.open()
    assert len(said) == 2 and all("ended before its worker joined (FAILED)" in line for line in said)
    assert len(slurm.jobs()) == 2 * cluster.MOST_VAIN


def test_what_slurm_is_asked_for(tmp_path: Path, slurm: FakeSlurm) -> None:
    more = ":partition=gpu,gpus=a100:1,cpus=3,memory=16G,time=4:00:00,account=me,flags=--qos=low"
    with closing(made(tmp_path, workers=1, more=more)) as executor:
        facts = executor.open()
        (job,) = slurm.jobs().values()
    flags = job["flags"]
    assert isinstance(flags, dict)
    asked = {
        "partition": "gpu",
        "gpus": "a100:1",
        "cpus-per-task": "3",
        "mem": "16G",
        "time": "4:00:00",
        "account": "me",
        "qos": "low",
    }
    assert flags.items() >= asked.items()
    assert flags["output"] == str(tmp_path / "run" / "logs" / "worker-0.log")
    assert facts["threads"] == int(os.environ.get("OMP_NUM_THREADS", 3))


def test_all_end_with_the_executor(tmp_path: Path, slurm: FakeSlurm) -> None:
    """Jobs that wait are cancelled, and so is what an earlier coordinator left."""
    slurm.nodes = 1
    executor = made(tmp_path, workers=2)
    file = tmp_path / "run" / ".workers.nastool-new"
    executor.open()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = made(tmp_path, workers=2)
    before.prepare()
    slurm.settle()
    assert slurm.states()[1] == "CANCELLED"
    executor.close()
    assert not file.exists()
    with closing(made(tmp_path, workers=2)) as executor:
        executor.open()
    slurm.settle()
    assert slurm.states()[3] == "CANCELLED" and "PENDING" not in slurm.states()


# --- how they meet


def test_strangers_are_not_let_in(tmp_path: Path) -> None:
    meeting = places.Meeting(tmp_path / "file", "localhost")
    with closing(meeting):
        contact = json.loads((tmp_path / "file").read_text())
        silent = socket.create_connection(("localhost", contact["port"]))
        hello = places.Hello(0, "a", "here", 1, False)
        with pytest.raises(InputError, match="does not reach the coordinator"):
            places._connected({**contact, "key": "00"}, hello)
        known = places._connected(contact, hello)
        found, connection = meeting.arrivals.get(timeout=10)
        assert found == hello and meeting.arrivals.empty()
        known.close()
        with pytest.raises(EOFError):
            connection.recv()
        silent.close()


def test_who_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not see .*/run/.workers \(No such file.*all machines share"):
        places.join(str(tmp_path / "run" / ".workers"), 0)
    (tmp_path / "file").write_text(json.dumps({"folder": str(tmp_path / "elsewhere"), "host": "", "port": 1}))
    with pytest.raises(InputError, match=r"does not see .*/elsewhere"):
        places.join(str(tmp_path / "file"), 0)


def test_machines_that_go_away_say_nothing_of_a_job_but_not_for_ever() -> None:
    job, tries = next(jobs(1)), 0
    while (following := again(Finished(job, error="gone", retry=True, fault="machine"))) is not None:
        job, tries = following, tries + 1
    assert tries == MAX_MOVES - 1 and job.deaths == 0
