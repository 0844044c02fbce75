"""Jobs in worker processes, one a slot, each with devices and threads of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from nastool import worker
from nastool.core.errors import CannotGoOn, InputError, OutOfMemory
from nastool.core.evaluator import Evaluator, imports_of, most_workers
from nastool.core.processes import LOOK_SECONDS, AwakeClock, WorkerProcess
from nastool.core.values import Scalar, Silence
from nastool.engine.executors.base import Executor, Setting
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job, JobEvent, again
from nastool.engine.executors.occupancy import Occupancy
from nastool.engine.executors.slot import SILENT_SECONDS, Device, DeviceError, Process, Slot
from nastool.nets import devices

START_SECONDS = 600.0
"""Seconds that a worker may take to start and prepare its evaluator."""
MAX_FAULTS = 2
"""Number of faults of a GPU in a row after which no job is given to it any more."""


class Processes(Executor):
    """Carries out jobs in worker processes: a dying one costs one try of one job.

    A subclass that runs them elsewhere overrides `start`.
    """

    name = "processes"

    def __init__(
        self,
        spec: EvaluatorSpec,
        slots: Sequence[Mapping[str, str]],
        setting: Setting = Setting(),  # noqa: B008  # it is frozen
    ) -> None:
        """Args:
        spec: How to build the evaluator.
        slots: The environment variables of each worker, which count only when set before it imports torch.
        setting: Its timeout is without what a worker was stopped or its machine asleep.
        """
        self._modules: tuple[str, ...] = ("nastool.worker", "numpy.random")
        """What each worker needs: one process imports them, and forks the workers."""
        self._clock = AwakeClock()
        self._slots = [
            Slot(self.start, spec, i, environment, setting.logs, self._clock, self._there)
            for i, environment in enumerate(slots)
        ]
        by_name: dict[str, Device] = {}
        for slot in self._slots:
            name = self._device(slot)
            slot.device = by_name.setdefault(name, Device(name))
            slot.device.slots.append(slot)
        self._devices = list(by_name.values())
        self._occupancy = Occupancy(self._slots)
        self._line: list[Job] = []
        """Jobs that wait for a place."""
        self._timeout = setting.timeout
        self._hung = setting.hung
        self._say = setting.say
        self._looked = 0.0
        self._first: Mapping[str, Scalar] = {}
        """The facts of the first worker."""
        self.silent: Mapping[int, Silence] = {}
        self.devices = devices.models([dict(slot) for slot in slots])

    @classmethod
    def make(cls, spec: EvaluatorSpec, evaluator: Evaluator, setting: Setting) -> Self:
        # With shared weights one process trains them; others have their turn when the best are trained from scratch.
        most = most_workers(evaluator)
        workers = min(setting.workers, most or setting.workers)
        device = str(spec.options.get("device") or "auto")
        slots = devices.slots(workers, device, setting.threads, setting.say, most)
        return cls(spec, slots, setting)._for(evaluator)

    def _for(self, evaluator: Evaluator) -> Self:
        """With workers that are forked where what this evaluator imports is there."""
        self._modules += imports_of(evaluator)
        return self

    def start(self, number: int, environment: Mapping[str, str]) -> Process:
        """Start a worker.

        Args:
            number: Of the worker, 0 or more.
            environment: Variables that it finds changed, such as the devices it may use.
        """
        name = f"nastool-worker-{number}"
        return WorkerProcess(worker.serve, (), name=name, environment=environment, modules=self._modules)

    def _there(self, number: int) -> bool:
        """Whether a worker can be started now."""
        return True

    def _device(self, slot: Slot) -> str:
        """Name of what a worker runs on."""
        chosen = str(slot.spec.options.get("device") or "auto")
        given = slot.environment.get("CUDA_VISIBLE_DEVICES")
        return f"GPU {given}" if given else f"GPU {chosen}" if chosen.startswith("cuda") else "this machine"

    def _others(self, slot: Slot) -> Sequence[Slot]:
        """Those that a search can go on with where a worker finds no memory, itself included."""
        return slot.device.slots

    def _first_slot(self) -> Slot:
        """The one whose facts hold for all."""
        return next(slot for slot in self._slots if not slot.device.given_up)

    def open(self) -> Mapping[str, Scalar]:
        while True:
            first = self._first_slot()
            try:
                facts = self._first = first.open(self._say)
                break
            except DeviceError as error:
                self._count(first.device, str(error))
                if all(device.given_up for device in self._devices):
                    raise CannotGoOn(self._nothing_left(first.device, str(error))) from None
        for slot in self._slots:  # what the first chose holds for all, also where one is started again
            if slot.environment.pop(devices.MOST_THREADS, None) is not None and "threads" in facts:
                slot.environment["OMP_NUM_THREADS"] = str(facts["threads"])
        given = first.environment.get("OMP_NUM_THREADS")
        return facts if given is None else {**facts, "threads": int(given)}

    @property
    def free(self) -> int:
        return len(self._free())

    @property
    def busy(self) -> Sequence[Job]:
        return [*(slot.job for slot in self._occupancy.working if slot.job is not None), *self._line]

    @property
    def idle(self) -> bool:
        return not self._line and not self._occupancy.working

    def abandon(self, job: Job) -> None:
        for slot in self._occupancy.working:
            if slot.job is not None and slot.job.trial_id == job.trial_id:
                slot.abandon()

    def submit(self, job: Job) -> None:
        self._line.append(job)
        self._place()

    def _free(self) -> list[Slot]:
        """The slots that a job may be given to that need not be alone."""
        waiting = next((job for job in self._line if job.alone), None)
        if waiting is None and not self._occupancy.alone:
            return self._occupancy.vacant
        kept = [slot.device for slot in self._occupancy.working if slot.job is not None and slot.job.alone]
        if waiting is not None and (quietest := self._quietest(waiting)) is not None:
            kept.append(quietest)
        return [slot for slot in self._occupancy.vacant if slot.device not in kept]

    def _elsewhere(self, job: Job) -> list[Device]:
        """The devices that a job may go to: not to the one that failed under it, if there are others."""
        there = [device for device in self._devices if not device.given_up]
        return [device for device in there if device.name != job.shunned] or there

    def _quietest(self, job: Job) -> Device | None:
        """Where a job that must be alone waits until nothing else runs; None: there is no device left."""
        return min(self._elsewhere(job), key=lambda device: len(device.busy), default=None)

    def _place(self) -> None:
        """Give the jobs in line to those slots that they may go to."""
        for job in list(self._line):
            if job.alone:
                device = self._quietest(job)
                if device is None or device.busy:
                    continue
                slot, *others = (slot for slot in device.slots if not slot.crowded_out)
                for each in (slot, *others):  # a fresh process, and no memory held by idle ones
                    each.kill()
                    self._occupancy.update(each)
                if not slot.there:
                    continue
            else:
                devices = None if job.shunned is None else self._elsewhere(job)
                fit = (slot for slot in self._free() if devices is None or slot.device in devices)
                free = next((slot for slot in fit if slot.there), None)
                if free is None:
                    continue
                slot = free
            self._line.remove(job)
            slot.start(job)
            self._occupancy.update(slot)

    def wait(self, seconds: float) -> list[JobEvent]:
        """What happened, at the latest after so many seconds."""
        events: list[JobEvent] = []
        for slot in self._occupancy.ready(seconds):
            try:
                events += [self._judged(slot, event) for event in slot.receive()]
                self._check(slot)
            except OutOfMemory as error:
                self._crowd_out(slot, error)
            self._occupancy.update(slot)
        for slot in list(self._occupancy.working) if self._look() else ():
            if (given_up := self._overdue(slot)) is not None:
                events.append(self._judged(slot, given_up))
                self._occupancy.update(slot)
        self._place()
        return events

    def _overdue(self, slot: Slot) -> Finished | None:
        """What becomes of a job that takes too long; None: it does not."""
        if not slot.ready:
            waited = f"gave up after {START_SECONDS:g} s of waiting for its worker to start"
            return slot.give_up(waited, "hung") if slot.seconds > START_SECONDS else None
        if self._timeout is not None and slot.seconds > self._timeout:
            return slot.give_up(f"gave up after {self._timeout:g} s (--trial-timeout)", "timeout")
        if self._hung is not None and not slot.stopped and slot.quiet > self._hung:
            return slot.give_up(f"{slot.how} for {self._hung:g} s (--hung-timeout)", "hung")
        return None

    def _judged(self, slot: Slot, event: JobEvent) -> JobEvent:
        """The event with what it means for the slot's device; says why a job is tried again."""
        if not isinstance(event, Finished):
            return event
        device = slot.device
        if event.fault == "device":
            what = event.error or ""
            given_up = self._count(device, what)
            if all(device.given_up for device in self._devices):
                return replace(event, error=self._nothing_left(device, what), fatal=True)
            event = replace(event, error=f"{what} ({device.name})", gpu=device.name, given_up=given_up)
        elif not event.retry and event.fault != "timeout":
            device.faults = 0
        next_try = again(event)
        if next_try is not None and event.fault in ("device", "memory", "machine", "hung"):
            if event.fault == "machine":
                how = "on another machine"
            elif event.fault == "device":
                how = "on another, if there is one"
            elif event.fault == "hung":
                how = "in a fresh process"
            elif next_try.micro_batches == 1:
                how = "with nothing else on its device"
            else:
                how = f"each batch in {next_try.micro_batches} parts"
            self._say(f"{event.job}: {event.error}; next try: {how}")
        return event

    def _count(self, device: Device, error: str) -> bool:
        """Count a fault of a device; whether it is given up, which is said once."""
        device.faults += 1
        if device.faults >= MAX_FAULTS and not device.given_up:
            device.given_up = True
            for slot in device.slots:
                if slot.job is None:
                    slot.kill()
                self._occupancy.update(slot)
            if not all(other.given_up for other in self._devices):
                self._say(f"{device.name} failed {MAX_FAULTS} times in a row and is not used any more: {error}")
        return device.given_up

    def _nothing_left(self, device: Device, error: str) -> str:
        others = "" if len(self._devices) == 1 else ", the last that was left,"
        return (
            f"{device.name}{others} failed {MAX_FAULTS} times in a row: {error}; see what nvidia-smi says of it, or "
            "choose another with CUDA_VISIBLE_DEVICES or -E device=, then give the same command again"
        )

    def _crowd_out(self, slot: Slot, error: OutOfMemory) -> None:
        """Go on without a worker that finds no room beside the others. OutOfMemory: it is the last one there."""
        job = slot.job
        left = [other for other in self._others(slot) if not other.crowded_out and other is not slot]
        slot.kill()
        if not left or job is None or job.alone:
            raise error
        slot.crowded_out = True
        self._say(f"worker {slot.number}: {error}; {len(left)} {'go' if len(left) > 1 else 'goes'} on without it")
        self._line.insert(0, job)

    def _check(self, slot: Slot) -> None:
        """InputError: a worker that has prepared its evaluator computes otherwise than the first: on the CPU, say."""

        def kind(facts: Mapping[str, Scalar]) -> tuple[bool, Scalar]:
            return str(facts.get("device", "")).startswith("cpu"), facts.get("precision")

        if not slot.facts or kind(slot.facts) == kind(self._first):
            return

        def how(facts: Mapping[str, Scalar]) -> str:
            return " in ".join(str(facts[key]) for key in ("device", "precision") if key in facts)

        dealt = slot.environment.get(devices.VARIABLE, os.environ.get(devices.VARIABLE))
        given = "not set" if dealt is None else f"{devices.VARIABLE}={dealt}"
        raise InputError(
            f"worker {slot.number} ({given}) computes on {how(slot.facts)}, and the first on {how(self._first)}: give "
            f"fewer --workers, only devices that are alike in {devices.VARIABLE}, or a precision that all have"
        )

    def _look(self) -> bool:
        """See which workers are stopped, and which trials make no progress; False: that was seen just now."""
        now = self._clock.now()
        passed, before = now - self._looked, self.silent
        if passed < LOOK_SECONDS / 2:
            return False
        self._looked = now
        self.silent = {}
        for slot in self._occupancy.working:
            how = slot.look(passed)
            if how is None or slot.job is None:
                continue
            key = slot.job.trial_id
            since = before[key].since if key in before else time.time() - SILENT_SECONDS
            self.silent |= {key: Silence(since, how)}
            if key not in before or before[key].how != how:
                rest = "--hung-timeout SECONDS ends such trials" if self._hung is None and self._timeout is None else ""
                pid = 0 if slot.process is None else slot.process.pid
                rest = f"kill -CONT {pid} lets it go on" if slot.stopped else rest
                self._say(f"{slot.job} {how} for {time.time() - since:.0f} s (process {pid})" + (rest and f"; {rest}"))
        return True

    def close(self) -> None:
        self._line.clear()
        for slot in self._slots:
            slot.kill()
            self._occupancy.update(slot)
