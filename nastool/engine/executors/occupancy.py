"""Which slots of an executor are vacant, which work, and which of these have something to say."""

from __future__ import annotations

import selectors
from bisect import bisect_left
from collections.abc import Collection, Sequence
from multiprocessing.connection import Connection

from nastool.engine.executors.slot import Slot


class Occupancy:
    """Slots by what they do. No step looks at all of them, so that it takes as long with thousands as with one."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        """slots: in the order of their numbers; none has a job."""
        self.vacant = [slot for slot in slots if slot.vacant]
        """Those that can be given a job, the lowest number first."""
        self.alone = 0
        """How many have a job that is to be alone on its device."""
        self._working: dict[Slot, tuple[Connection, int, bool]] = {}
        self._selector = selectors.DefaultSelector()

    @property
    def working(self) -> Collection[Slot]:
        """Those that have a job, the first begun first."""
        return self._working.keys()

    def update(self, slot: Slot) -> None:
        """Take in what has become of a slot: it was given a job, say, its job has ended, or its machine is gone."""
        before = self._working.get(slot)
        if slot.job is None or before is None or before[0] is not slot.connection:
            if before is not None:
                _, handle, alone = self._working.pop(slot)
                self._selector.unregister(handle)  # by its number, since it may be closed
                self.alone -= alone
            if slot.job is not None:
                handle = slot.connection.fileno()
                self._selector.register(handle, selectors.EVENT_READ, slot)
                self._working[slot] = slot.connection, handle, slot.job.alone
                self.alone += slot.job.alone
        place = bisect_left(self.vacant, slot.number, key=lambda other: other.number)
        there = self.vacant[place : place + 1] == [slot]
        if slot.vacant and not there:
            self.vacant.insert(place, slot)
        elif there and not slot.vacant:
            del self.vacant[place]

    def ready(self, seconds: float) -> list[Slot]:
        """Those that work and have said something, or died; waits so long for one at most."""
        return [key.data for key, _ in self._selector.select(seconds)]
