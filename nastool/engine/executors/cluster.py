"""Jobs in worker processes on machines that somebody else deals out: a batch system, or Ray."""

from __future__ import annotations

import os
import secrets
import selectors
import shutil
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

from nastool.core.errors import CannotGoOn, Fault, InputError, OutOfMemory
from nastool.core.evaluator import Evaluator, most_workers
from nastool.core.files import UNFINISHED
from nastool.core.processes import LOOK_SECONDS
from nastool.core.values import Scalar
from nastool.engine.executors.base import Setting
from nastool.engine.executors.jobs import EvaluatorSpec, Job, JobEvent
from nastool.engine.executors.places import Begin, Died, End, Hello, Meeting
from nastool.engine.executors.processes import Processes
from nastool.engine.executors.slot import MachineGone, Slot
from nastool.nets import devices

MOST_VAIN = 3
"""Number of times in a row that a place may end before its worker has joined; then it is not asked for any more."""
SAY_SECONDS = 10.0
"""Seconds without any worker after which it is said what is waited for."""
CANNOT = "cannot be asked for"
DIED_SECONDS = 10.0
"""Seconds that a place may take to say how its worker process died."""


@dataclass
class Place:
    """Where a worker's processes run, as far as it is known.

    Attributes:
        number: Of the worker.
        asked: Whether it has been asked for and not ended since.
        joined: Whether it has joined since it was asked for.
        vain: How often in a row it ended without.
        refused: Why it is not asked for any more; "": it is.
        control: Leads there, once it has joined.
        work: Connection of a worker process that can be started.
        early: Such connections that were greeted before the one that leads to their place, by the place's name.
        name, host, pid: What it said of itself.
        serial: Number of the last worker process.
    """

    number: int
    asked: bool = False
    joined: bool = False
    vain: int = 0
    refused: str = ""
    control: Connection | None = None
    work: Connection | None = None
    early: dict[str, Connection] = field(default_factory=dict)
    name: str = ""
    host: str = ""
    pid: int = 0
    serial: int = 0

    def leave(self, *also: Connection) -> None:
        """Let go of where it was, and of further connections."""
        for connection in (self.control, self.work, *also):
            if connection is not None:
                connection.close()
        self.control = self.work = None


class Placed:
    """A worker process at a place; as of `slot.Process`."""

    stopped = False

    def __init__(self, place: Place) -> None:
        """Starts it; a place has to be free for it."""
        assert place.control is not None and place.work is not None
        self.connection, place.work = place.work, None
        self.pid, self.host = place.pid, place.host
        self._control, self._serial = place.control, place.serial
        self._how: str | None = None
        self._fault: Fault = "machine"

    def kill(self) -> None:
        with suppress(OSError):  # the place is gone
            self._control.send(End(self._serial))
        self.connection.close()

    @property
    def fault(self) -> Fault:
        """Of which kind it was that it died by: "killed" where its place is still there."""
        self.how_it_died()
        return self._fault

    def how_it_died(self) -> str:
        if self._how is None:
            self._how = f"{self.host} is gone, or was taken away"
            with suppress(EOFError, OSError):
                while self._control.poll(DIED_SECONDS):
                    message = self._control.recv()
                    if isinstance(message, Died) and message.serial == self._serial:
                        self._how, self._fault = f"{message.how} on {self.host}", "killed"
                        break
            self.kill()
        return self._how


class Cluster(Processes):
    """Carries out jobs in workers that join when their machines are free, and leave when they are taken away.

    A subclass asks for machines (`ask`), says which have ended (`endings`), and sends them away (`dismiss`). These are
    called in one thread of their own, in turn, since they may take seconds.
    """

    computes_here = False
    look_seconds = 10.0
    """Seconds between two looks at what has ended, where workers are missing."""

    def __init__(self, spec: EvaluatorSpec, workers: int, setting: Setting, *, cpus: int, host: str | None) -> None:
        """Args:
        spec: How to build the evaluator.
        workers: Number of machines, or parts of one, that are asked for.
        setting: Its timeout is without what a job waits for a machine.
        cpus: CPU threads of each worker, at most.
        host: Name or address under which they reach this machine; None: its own name.
        """
        given = os.environ.get("OMP_NUM_THREADS")
        environment = {"OMP_NUM_THREADS": given or str(setting.threads or cpus)}
        if given is None and setting.threads is None and cpus > 1:
            environment[devices.MOST_THREADS] = str(cpus)
        self._nobody(workers)
        super().__init__(spec, [environment] * workers, setting)
        self._own = f".nastool-{secrets.token_hex(4)}"
        """Name of a folder for the time being, where there is no run."""
        folder = (spec.workdir or Path(self._own)).absolute()
        self.file = folder / f".workers{UNFINISHED}"
        """Leads workers here; all machines have to see it."""
        self.logs = setting.logs.absolute() if setting.logs else folder
        self._host = host
        self._meeting: Meeting | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nastool-cluster")
        self._looking: Future[dict[int, str]] | None = None
        self._look_at = 0.0
        self._alone_since = 0.0
        """Since when there is no worker at all; 0: there is one, or it has been said."""

    @classmethod
    def make(cls, spec: EvaluatorSpec, evaluator: Evaluator, setting: Setting) -> Self:
        workers = min(setting.workers, most_workers(evaluator) or setting.workers)
        given: dict[str, Any] = dict(setting.options)
        return cls(spec, workers, setting, **given)._for(evaluator)

    def _nobody(self, workers: int) -> None:
        """So many places, of which none has been asked for. No step looks at all of them."""
        self.places = [Place(number) for number in range(workers)]
        self._joined = selectors.DefaultSelector()
        """Connections that lead to places, each with its place."""
        self._missing = set(range(workers))
        """Numbers of the places that have not joined, or are gone, unless they are not wanted any more; `_new`: of
        those of them that are to be asked for."""
        self._new = set(self._missing)

    # --- what a subclass does

    @abstractmethod
    def prepare(self) -> None:
        """Get ready to ask; InputError: there is nobody to ask. Sends away what a dead coordinator left here."""

    @abstractmethod
    def ask(self, number: int) -> None:
        """Have `places.join(self.file, number)` run on another machine as soon as there is one.

        Raises:
            InputError: Nobody can be asked for it now.
        """

    @abstractmethod
    def endings(self) -> Mapping[int, str]:
        """Numbers of the places that were asked for and are not there any more, each with how it ended, in words.

        An ending that begins with "cancelled" is a person's wish: the place is not asked for again.
        """

    @abstractmethod
    def dismiss(self) -> None:
        """Send all away that were asked for, those that wait included."""

    def give_back(self, number: int) -> None:  # what follows from its connection's end is enough
        """Send one away that has joined and is not wanted any more; it also ends by itself, soon."""

    # --- an executor

    def open(self) -> Mapping[str, Scalar]:
        while True:
            while not any(map(self._there, range(len(self.places)))):
                self._tend()
                time.sleep(LOOK_SECONDS)
            with suppress(MachineGone):
                return super().open()

    def _first_slot(self) -> Slot:
        return next((slot for slot in self._slots if self._there(slot.number)), self._slots[0])

    @property
    def free(self) -> int:
        """One job may wait for the first worker that joins."""
        return max(len(self._free()) - sum(not job.alone for job in self._line), int(self.idle))

    def submit(self, job: Job) -> None:
        self._tend()
        super().submit(job)

    def wait(self, seconds: float) -> list[JobEvent]:
        events = super().wait(seconds)
        self._tend()
        return events

    def start(self, number: int, environment: Mapping[str, str]) -> Placed:
        place = self.places[number]
        place.serial += 1
        assert place.control is not None
        with suppress(OSError):  # it is gone: reading from there will say so
            place.control.send(Begin(place.serial, dict(environment), self._modules))
        return Placed(place)

    def close(self) -> None:
        super().close()
        if self._meeting is None:
            return
        looking, self._looking = self._looking, None
        if looking is not None:
            futures.wait([looking])  # so that nothing is asked for afterwards
        self._thread.submit(self.dismiss).result()  # also those that would start now that others end
        for place in self.places:
            place.leave(*place.early.values())
        self._meeting.close()
        self._meeting = None
        shutil.rmtree(self._own, ignore_errors=True)
        self._joined.close()
        self._nobody(len(self.places))
        for slot in self._slots:
            self._occupancy.update(slot)

    # --- machines that come and go

    def _there(self, number: int) -> bool:
        return self.places[number].work is not None

    def _device(self, slot: Slot) -> str:
        return f"the machine of worker {slot.number}"

    def _others(self, slot: Slot) -> Sequence[Slot]:
        return self._slots

    def _tend(self) -> None:
        """See who has joined or left, and ask for who is missing. InputError: nobody will come any more."""
        if self._meeting is None:
            self._thread.submit(self.prepare).result()
            self._meeting = Meeting(self.file, self._host)
            self._alone_since = time.monotonic()
        while not self._meeting.arrivals.empty():
            self._take_in(*self._meeting.arrivals.get())
        for key, _ in self._joined.select(0):
            if self._slots[key.data.number].job is None:  # else how it died is asked for once its job has ended
                self._listen(key.data, self._slots[key.data.number])
        self._look_for_missing()
        self._say_if_alone()

    def _take_in(self, hello: Hello, connection: Connection) -> None:
        """Take a connection from a place. The latest place of a number counts; one before it has been lost."""
        if not 0 <= hello.number < len(self.places) or self._slots[hello.number].crowded_out:
            connection.close()
            return
        place = self.places[hello.number]
        if not hello.works:
            work = place.early.pop(hello.name, None)
            self._leave(place, *place.early.values())
            place.early.clear()
            place.work = work
            self._joined.register(connection, selectors.EVENT_READ, place)
            self._missing.discard(place.number)
            self._new.discard(place.number)
            place.control, place.name, place.host, place.pid = connection, hello.name, hello.host, hello.pid
            place.asked = place.joined = True
            place.vain = 0
        elif place.control is None or place.name != hello.name:
            place.early[hello.name] = connection
        else:
            place.work = connection
        self._occupancy.update(self._slots[place.number])

    def _leave(self, place: Place, *also: Connection) -> None:
        """Let go of where a place was, and of further connections."""
        if place.control is not None:
            self._joined.unregister(place.control)
            if not place.refused:
                self._missing.add(place.number)
        place.leave(*also)
        self._occupancy.update(self._slots[place.number])

    def _crowd_out(self, slot: Slot, error: OutOfMemory) -> None:
        super()._crowd_out(slot, error)
        place = self.places[slot.number]
        place.refused, place.asked = str(error), False
        self._leave(place)
        self._thread.submit(self.give_back, place.number)

    def _listen(self, place: Place, slot: Slot) -> None:
        """Hear what a place says whose worker has nothing to do: that this has died, or by its end that itself has."""
        assert place.control is not None
        try:
            while place.control.poll():
                message = place.control.recv()
                if isinstance(message, Died) and message.serial == place.serial:
                    slot.kill()
                    self._occupancy.update(slot)
        except (EOFError, OSError):
            slot.kill()
            self._leave(place)

    def _look_for_missing(self) -> None:
        """Ask for places, and see which have ended, as long as some are missing."""
        if self._looking is not None and self._looking.done():
            looking, self._looking = self._looking, None
            self._take_ends(looking)
        if self._looking is not None or not self._missing:
            return
        now, new = time.monotonic(), sorted(self._new)
        if now >= self._look_at or (new and not any(self.places[number].vain for number in new)):
            self._look_at = now + self.look_seconds
            self._new.clear()
            for number in new:
                self.places[number].asked, self.places[number].joined = True, False
            self._looking = self._thread.submit(self._ask_and_look, new)

    def _ask_and_look(self, numbers: list[int]) -> dict[int, str]:
        """In the thread: ask for these places, and return how others have ended."""
        found: dict[int, str] = {}
        for number in numbers:
            try:
                self.ask(number)
            except InputError as error:
                found[number] = f"{CANNOT}: {error}"
        return {**self.endings(), **found}

    def _take_ends(self, looking: Future[dict[int, str]]) -> None:
        for number, how in looking.result().items():
            place = self.places[number]
            if place.control is not None or not place.asked:
                continue
            place.asked = False
            place.vain = 0 if place.joined else place.vain + 1
            if place.vain >= MOST_VAIN or how.startswith(("cancelled", CANNOT)):
                place.refused = how
                self._missing.discard(number)
                self._say(f"worker {number} is not asked for any more: {how}")
            else:
                self._new.add(number)
        if all(place.refused for place in self.places):
            last = self.places[-1].refused
            raise CannotGoOn(f"executor {self.name}: no worker is left, nor will any come: {last}")

    def _say_if_alone(self) -> None:
        """Say once that there is no worker, after a while."""
        if len(self._joined.get_map()):
            self._alone_since = 0.0
        elif not self._alone_since:
            self._alone_since = time.monotonic()
        elif 0 < self._alone_since < time.monotonic() - SAY_SECONDS:
            self._alone_since = float("inf")
            self._say(f"waiting for executor {self.name} to start one of {len(self.places)} workers")
