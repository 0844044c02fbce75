"""The one search loop. It knows no strategy, space or evaluator by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nastool.core import registry
from nastool.core.costs import NOTE, Costs
from nastool.core.errors import InputError, InvalidArchError, NastoolError, one_line
from nastool.core.pareto import dominates
from nastool.core.strategy import Fed, Finishing, SeesPredictions, Strategy, pool, wanted
from nastool.core.values import Arch, Evaluation, Objective, Proposal, Silence, Trial
from nastool.engine.executors.base import Drive, Executor
from nastool.engine.executors.jobs import OUTSIDE, Finished, Job, JobEvent, Reported
from nastool.engine.final_stage import KEY, FinalStage
from nastool.engine.kept import Kept, checkpoint_of
from nastool.engine.proposals import Failures, check, trial_seed
from nastool.engine.reports import Reports
from nastool.engine.stopping import Budget, Rules, Stopping
from nastool.engine.store import Store
from nastool.ensembles import stored
from nastool.nets import checkpoints

TOGETHER_SECONDS = 0.05
"""How long trials that are asked for at the same time wait for each other, to be written to the disk together."""


@dataclass
class Search:
    """A search in progress. `run` drives it; everything it learns goes to the store at once.

    trials: the number of trials after which it ends, those of earlier calls included; >= 1; None: any.
    one_commit: ask, evaluation and tell in one transaction, for evaluations that cost next to nothing.
    objectives: what is optimised; with several, no trial of the front loses its checkpoint either.
    keep: how many of the best trials' checkpoints stay on disk, beside those that the strategy builds on and those that
        an ensemble may be made of. Of those that it builds on alone stays what their optimiser remembers.
    evaluator: who it is, for messages.
    max_failures: give up after so many failed trials in a row.
    seeds: of each trial, at least `trials` of them; None: they follow from `seed`.
    stop: asked between events; True ends the search after the running trials.
    costs: what architectures cost; None: nothing is known before they are measured.
    measured: names of costs that become metrics of every trial.
    stopping: what else ends it; None: nothing.
    finalists: at the end of the search proper, which trials' architectures its final stage trains again, the most
        promising first; fewer than two: there is none. `Stopping.final` says how often.
    watch: told of every report and every finished trial, once they are stored, and, at least every WAIT_SECONDS, of
        None; for displays.
    """

    store: Store
    strategy: Strategy
    executor: Executor
    objectives: Sequence[Objective]
    seed: int
    trials: int | None
    workdir: Path
    one_commit: bool = False
    keep: int = 10
    max_failures: int = 10
    evaluator: str = "the evaluator"
    seeds: Sequence[int] | None = None
    costs: Costs | None = None
    measured: Sequence[str] = ()
    stop: Callable[[], bool] = lambda: False
    stopping: Stopping | None = None
    finalists: Callable[[], Sequence[int]] = lambda: ()
    watch: Callable[[Search, Reported | Trial | None], None] = lambda search, event: None

    asked: int = 0
    finished: int = 0
    failed: int = 0
    stopped: int = 0
    told: int = 0
    """How many finished trials `watch` knows of."""
    best: Trial | None = None
    front: list[Trial] = field(default_factory=list)
    """With several objectives, the trials that no other one dominates; their checkpoints are not in the heap below."""
    exhausted: bool = False
    """The strategy has nothing left to propose."""
    _failures_in_row: int = 0
    _known: Failures | None = None
    """What is known to fail; None: what is proposed was given by somebody, who may want it again."""
    _unfinished: list[Job] = field(default_factory=list)
    _left: list[Job] = field(default_factory=list)
    """Those of the search proper for which there was no time before its final stage."""
    _behind: list[Trial] = field(default_factory=list)
    """With several objectives, what the last trial left behind the front: itself, or those of it that it dominates."""
    _untold: list[Reported | Trial | None] = field(default_factory=list)
    """What `watch` is told of once it is stored."""
    _silent: Mapping[int, Silence] = field(default_factory=dict)
    """The trials that are known to make no progress, as stored."""
    _stage: FinalStage | None = None
    """The final stage, once it has begun."""

    def __post_init__(self) -> None:
        self._kept = Kept(self.store, self.workdir, self.keep)
        self._drive = Drive(
            self.executor,
            self._next,
            stop=self.stop,
            retried=self._retried,
            settle=self._settle,
            together=0.0 if isinstance(self.strategy, Fed) else TOGETHER_SECONDS,
        )
        if self.seeds is None and not isinstance(self.strategy, Fed):
            self._known = Failures(self.strategy.space, self.store.numbered)
        self._reports = Reports(self.store, self.strategy, self.objectives[0])
        if isinstance(self.strategy, SeesPredictions):
            self.strategy.predictions = self._predictions
        self.ends = self.stopping or Stopping(Rules(), Budget(Rules()))
        self.ends.rules = replace(self.ends.rules, trials=self.trials)

    def run(self) -> None:
        """Search until something of `ends` ends it, the strategy is exhausted, or `stop`. Call `restore` before.

        Trials that run when its time is up are ended; they stay unfinished, and are repeated when it goes on.
        """
        with nullcontext() if self.one_commit else self.store.together():
            self._run()

    def _run(self) -> None:
        for event in self._drive:
            self.ends.budget.tick()
            self._keep_silent()
            if event is not None and event.job.trial_id in self._drive.abandoned:
                self._leave(event)
            elif isinstance(event, Reported):
                trial = self._reports.take(event, self.ends.taken(event.job.trial_id))
                if trial is not None:
                    self._drive.abandon(event.job)
                    self._finish(trial)
                self._untold += [event] if trial is None else [event, trial]
            elif event is None:
                self._untold.append(event)
            else:
                trial = self._trial(event)
                self._finish(trial, event.log)
                self._untold.append(trial)
            if not self._drive.pending and self.ends.overdue and self.executor.busy:
                self.ends.why, self.ends.cut = "time", [job.trial_id for job in self.executor.busy]
                self._conclude()
                self.executor.close()
                return
        self._conclude()

    def _conclude(self) -> None:
        """Leave nothing undone that was put off; the executor still has the jobs that are repeated another time."""
        self.store.begin()
        self._prune(now=True)
        self._commit()
        self._settle()

    def _settle(self) -> None:
        """Have the disk hold what has happened; tell of it."""
        self.store.sync()
        self._kept.delete()
        while self._untold:
            event = self._untold.pop(0)
            self.told += isinstance(event, Trial)
            self.watch(self, event)

    def _leave(self, event: JobEvent) -> None:
        """Of a trial that was ended, nothing that comes yet counts."""
        if isinstance(event, Finished):
            self._drive.abandoned.remove(event.job.trial_id)
            self._kept.drop(checkpoints.name_of(event.job.trial_id))

    # --- the steps of a trial

    def _next(self) -> Job | None:
        """Return the next job, of the search proper or, once that is over and all its results are there, of its end."""
        job = self._next_job()
        if job is None and self._stage is None and self.ends.final and (self.exhausted or self.ends.why):
            if self.executor.idle and not self._drive.taken and not self._drive.pending and self._begin_stage():
                job = self._next_job()
        return job

    def _next_job(self) -> Job | None:
        """Return the next job: what an earlier run left over, then what the strategy or the final stage asks for."""
        if not self._unfinished:
            over = self.exhausted or self.ends.over(self.asked)
            job = None if over else self._ask(self._proposed)
            if job is None and (self.exhausted or self.ends.why):
                job = self._lead()
            self._unfinished += filter(None, [job])
        if not self._unfinished:
            return None
        if self.ends.hinders(self._unfinished[0].proposal):
            self.store.begin()
            self._commit()  # where it was asked just now
            return None
        job = self._unfinished.pop(0)
        self.ends.begins(job.trial_id)
        return job

    def _begin_stage(self) -> bool:
        """Have the best trained again from now on; False: there are no two to compare, or no trials left for it."""
        rules, why = self.ends.rules, self.ends.why
        trainings = rules.final if rules.trials is None else min(rules.final, rules.trials - self.asked)
        arms = self.finalists() if trainings > 0 else ()
        if len(arms) < 2:
            return False
        stage = FinalStage(self.strategy.space, self.asked, trainings, arms, rules.to_json(), why)
        stage.take(list(self.store.trials()))
        self.store.write({KEY: stage.to_json()})
        self._enter(stage)
        return True

    def _enter(self, stage: FinalStage) -> None:
        """Go on with the final stage; what there was no time for before it is left."""
        self._stage, self.exhausted = stage, False
        self.ends.begin_final(stage.begins, stage.trainings, stage.why)
        self._left = [job for job in self._unfinished if job.proposal.again is None]
        self._unfinished = [job for job in self._unfinished if job.proposal.again is not None]

    def _proposed(self) -> Proposal | None:
        proposal = self.strategy.ask() if self._stage is None else self._stage.ask(self.asked)
        if proposal is None:
            self.exhausted = self.executor.idle and not self._drive.taken
        return proposal

    def _lead(self) -> Job | None:
        """What goes on although the search is over, since otherwise it had no result: all its trials were stopped."""
        lacks = self.stopped > 0 and self.best is None and self.ends.why != "time"
        idle = lacks and self.executor.idle and not self._drive.taken
        return self._ask(self.strategy.lead) if idle and isinstance(self.strategy, Finishing) else None

    def _ask(self, ask: Callable[[], Proposal | None]) -> Job | None:
        """Ask for a trial to evaluate; one that is known to fail has ended at once.

        None: another has to finish first, the strategy is exhausted, or these were enough.
        """
        while (proposal := ask()) is not None:
            trial = self._added(proposal)
            if trial.state == "running":
                return self._job(trial)
            self._finish(trial)
            self._untold.append(trial)
            self._settle()
            if self.ends.over(self.asked) or self.stop():
                break
        return None

    def _added(self, proposal: Proposal) -> Trial:
        """The trial of a proposal, as it is stored; as it fails, if it is known to."""
        trial = Trial(self.asked, proposal)
        self.store.begin()
        try:
            check(proposal, self.strategy.space, self.asked)
            trial = replace(trial, proposal=self._with_costs(proposal))
            self.store.add(trial)
        except (AttributeError, TypeError, ValueError) as error:
            self.store.rollback()
            who = registry.whose(type(self.strategy))
            raise NastoolError(f"{who} proposed what is no proposal: {one_line(error)}") from error
        self.asked += 1
        if self._known is not None and (failed := self._known.answer(trial)) is not None:
            return failed
        if not self.one_commit:
            self._commit()
        return trial

    def _with_costs(self, proposal: Proposal) -> Proposal:
        """The proposal, with what its architecture costs among its notes, where that is wanted."""
        if self.costs is None or not self.measured:
            return proposal
        found = dict(self.costs.of(proposal.arch, self.measured))
        return replace(proposal, notes={**proposal.notes, NOTE: found})

    def cost(self, arch: Arch, names: Sequence[str], threads: int = 1) -> Mapping[str, float]:
        """What the executor's evaluator says of an architecture, as of `engine.costs`; nothing where that failed."""
        job = Job(OUTSIDE, Proposal(arch), 0, "costs", costs=tuple(names), threads=threads)
        return self._drive.aside(job).tested or {}

    def _keep_silent(self) -> None:
        """Store which trials make no progress, where that has changed."""
        if self.executor.silent != self._silent:
            self._silent = self.executor.silent
            self.store.begin()
            self.store.put_silent(self._silent)
            self.store.commit()

    def _retried(self, job: Job) -> None:
        self.store.begin()
        self.store.retry(job.trial_id)
        self._commit()

    def _finish(self, trial: Trial, log: str = "") -> None:
        """log: what its worker printed last."""
        self.store.begin()
        if trial.proposal.again is None:
            self.strategy.tell(trial)
        elif self._stage is not None:
            self._stage.tell(trial)
        self.store.finish(trial, self.finished, log if trial.state == "failed" else "")
        self._count(trial)
        self._keep(trial)
        self._prune()
        self._commit()
        if self._failures_in_row >= self.max_failures:
            self._settle()
            raise NastoolError(f"gave up after {self._failures_in_row} failed trials in a row; the last: {trial.error}")

    # --- details

    def _job(self, trial: Trial) -> Job:
        seed = trial_seed(self.seed, trial.id) if self.seeds is None else self.seeds[trial.id]
        return Job(trial.id, trial.proposal, seed)

    def _commit(self) -> None:
        state = self.strategy.state_dict()
        try:
            self.store.put("strategy", state)
        except (TypeError, ValueError) as error:
            self.store.rollback()
            raise NastoolError(f"{registry.whose(type(self.strategy))}: its state is no JSON: {error}") from error
        self.store.commit()

    def _trial(self, event: Finished) -> Trial:
        """The finished trial: an evaluation without a usable objective is a failure, too."""
        job, evaluation, error, fault = event.job, event.evaluation, event.error, event.fault
        if event.bug and self.failed == self.finished:  # why should the next fare better?
            raise NastoolError(error or "no result")
        if evaluation is not None:
            evaluation = self._with_known(job.proposal, evaluation)
            lacking = [each.metric for each in self.objectives if each.metric not in evaluation.all_metrics]
            if lacking and not self.finished:
                raise InputError(
                    f"{self.evaluator} gives no {lacking[0]!r} to optimise, only "
                    f"{', '.join(evaluation.all_metrics)}: choose with --objective"
                )
            bad = [name for name, value in evaluation.all_metrics.items() if not math.isfinite(value)]
            try:
                losses = tuple(each.loss(evaluation.all_metrics) for each in self.objectives)
                if not bad and job.proposal.fidelity is not None:
                    return Trial(job.trial_id, job.proposal, "stopped", evaluation, early=losses)
                if not bad:
                    return Trial(job.trial_id, job.proposal, "done", evaluation, losses)
                error, fault = f"{bad[0]} is {evaluation.all_metrics[bad[0]]}", "nan"
            except ValueError as problem:
                error, fault = str(problem), "nan" if bad else "exception"
            if evaluation.checkpoint is not None:
                self._kept.drop(evaluation.checkpoint)
        self._kept.drop(checkpoints.name_of(job.trial_id))  # a worker may have died after it wrote one
        return Trial(job.trial_id, job.proposal, "failed", error=error or "no result", fault=fault or "exception")

    def _with_known(self, proposal: Proposal, evaluation: Evaluation) -> Evaluation:
        """The evaluation, with what was known of the architecture before."""
        found: Any = proposal.notes.get(NOTE) or {}
        known = {name: found[name] for name in self.measured if name in found and name not in evaluation.metrics}
        return replace(evaluation, metrics={**evaluation.metrics, **known}) if known else evaluation

    def _count(self, trial: Trial) -> None:
        self.finished += 1
        if trial.state == "failed":
            if self._known is not None:
                self._known.take(trial)
            self.failed += 1
            self._failures_in_row += trial.fault != "device"
            self.ends.told(trial, False)
            return
        self._failures_in_row = 0
        if trial.state == "stopped":
            self.stopped += 1
            self.ends.told(trial, False)
            return
        better = self.best is None or (trial.loss <= self.best.loss and trial.rank < self.best.rank)
        if better:
            self.best = trial
        if len(self.objectives) > 1:
            better = self._advances(trial)
        self.ends.told(trial, better)

    def _advances(self, trial: Trial) -> bool:
        """Take the trial into the front, if it belongs there; whether it brings values that the front did not have."""
        self._behind = [trial]
        if any(dominates(other.losses, trial.losses) for other in self.front):
            return False
        new = all(other.losses != trial.losses for other in self.front)
        self._behind = [other for other in self.front if dominates(trial.losses, other.losses)]
        self.front = [other for other in self.front if other not in self._behind] + [trial]
        return new

    def _prune(self, now: bool = False) -> None:
        """now: also where that can be put off."""
        self._kept.prune(len(self.front), self._parents, self._wanted, now)

    def _keep(self, trial: Trial) -> None:
        self._kept.take(trial, self._behind if len(self.objectives) > 1 else [trial])

    def _wanted(self) -> set[int]:
        """Trials whose weights stay, though nothing goes on from them."""
        return {*pool(self.strategy), *(() if self._stage is None else self._stage.trials)}

    def _parents(self) -> set[int]:
        """Trials whose weights a running trial inherits, or a later one may."""
        drive = self._drive
        jobs = [
            *self.executor.busy,
            *self._unfinished,
            *self._left,
            *drive.taken,
            *(event.job for event in drive.pending),
        ]
        parents = {job.proposal.parent for job in jobs if job.proposal.inherit}
        parents |= {job.proposal.continues for job in jobs}
        return {*wanted(self.strategy), *(trial_id for trial_id in parents if trial_id is not None)}

    def _predictions(self, trial: Trial) -> tuple[NDArray[Any], NDArray[Any]]:
        """As of `SeesPredictions`. InputError: they are not there any more, or damaged."""
        found = stored.read(self.workdir / checkpoint_of(trial))
        return found.probabilities, found.labels

    def restore(self) -> None:
        """Continue from the store: rebuild the strategy, find the jobs that were running. InputError: it is damaged."""
        trials = self.store.whole_history()
        for trial in trials:
            try:
                self.strategy.space.validate(trial.proposal.arch)
            except InvalidArchError as error:
                raise InputError(f"{self.store.path} is damaged: trial {trial.id}: {error}") from None
        self._reports.restore()
        self._restore_strategy([trial for trial in trials if trial.proposal.again is None])
        for trial in trials:
            self.asked += 1
            if self.costs is not None and isinstance(found := trial.proposal.notes.get(NOTE), Mapping):
                self.costs.remember(trial.proposal.arch, found)
            if trial.state == "running":
                self._unfinished.append(self._job(trial))
                continue
            self._count(trial)
            self._keep(trial)
        self.told = self.finished
        self._failures_in_row = 0
        stage = FinalStage.read(self.strategy.space, self.store, trials)
        if stage is not None and stage.rules == self.ends.rules.to_json():
            self._enter(stage)
        self._kept.check(self.front, self._parents(), self.asked)

    def _restore_strategy(self, trials: Sequence[Trial]) -> None:
        """InputError: what the store has of it is not what it said of itself, whatever else may stand there."""
        state = self.store.get("strategy")
        if state is None and not trials:
            return
        problem = "it is another"
        try:
            self.strategy.load_state_dict(state, trials)
            if json.loads(json.dumps(self.strategy.state_dict())) == state:
                return
        except Exception as error:  # whatever a plugin makes of it
            problem = one_line(error)
        raise InputError(
            f"{self.store.path} is damaged: strategy {self.strategy.name} cannot go on from its state ({problem}); "
            "begin anew with --force"
        )
