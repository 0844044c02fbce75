"""Any strategy, with trainings that end early: those of a ladder of levels, or those that the median rule stops."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nastool.core.errors import InputError
from nastool.core.evaluator import Evaluator
from nastool.core.strategy import Earlier, Fed, Informable, Pooling, Refitting, Strategy, random_trials, reads
from nastool.core.values import Proposal, Trial
from nastool.learners import fidelities
from nastool.learners.curves import Curves
from nastool.learners.fidelities import Ladder, Median

TRIALS = 60
"""Number of trials of a search by levels, unless the strategy says otherwise."""


class Around(Strategy):
    """What is around another strategy, which proposes architectures and knows nothing of fidelities.

    That is told of a stopped trial what its rule takes it for: its last value or, as in Domhan et al., IJCAI 2015, what
    its curve predicts.
    """

    def __init__(self, inner: Strategy, rule: Ladder | Median) -> None:
        """inner: Untouched."""
        super().__init__(inner.space)
        self.inner = inner
        self.curves = Curves(rule.predict)
        self.name = inner.name  # type: ignore[misc]  # it stands for it
        self.needs = inner.needs
        self.notes = inner.notes
        self.reads = reads(inner)

    @abstractmethod
    def take(self, facts: Mapping[str, object]) -> None:
        """Take in what an evaluator says of itself, before anything is asked. InputError: the rule needs more."""

    def inform(self, earlier: Sequence[Earlier]) -> None:
        """As of `Informable`, which the inner strategy is."""
        assert isinstance(self.inner, Informable)
        self.inner.inform(earlier)

    def propose(self) -> Proposal | None:
        return self.inner.ask()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self.inner.state_dict()}


class ByLevels(Around):
    """Trains architectures up to levels, as a ladder says; each trial is a training from one level to the next.

    A new architecture comes from the inner strategy, which is told of it once its first training has ended. Where it is
    `Refitting`, its model then sees the results of one level alone, as in BOHB (Falkner et al., ICML 2018, arXiv
    1807.01774): of the highest that has as many as it wants at random at its beginning.
    """

    def __init__(self, inner: Strategy, ladder: Ladder) -> None:
        super().__init__(inner, ladder)
        self.ladder = ladder
        self.needs = inner.needs | {"fidelity"}
        self._enough = max(2, random_trials(inner))
        self._paused: dict[int, Trial] = {}
        self._results: list[list[Trial]] = []
        """Of each level, what has ended there, in that order, as a strategy is told of it."""
        self._running = 0

    def climb(self, levels: Sequence[float]) -> None:
        """Take these levels, of which the last is a whole training; before anything is asked.

        Raises:
            InputError: There is one alone.
        """
        if len(levels) < 2:
            raise InputError(
                f"--fidelity: there is nothing shorter than a whole training ({levels[0]:g} epochs) by a factor of "
                f"{self.ladder.eta} or more: give more --epochs, a smaller eta or minimum, or leave it out"
            )
        self.ladder.climb(levels)
        self.curves.whole = levels[-1]
        self._paused, self._results, self._running = {}, [[] for _ in levels], 0

    def take(self, facts: Mapping[str, object]) -> None:
        """`climb` to what an evaluator says of itself: its "fidelities", such as "12, 200", or any up to "epochs".

        Raises:
            InputError: It has no such levels.
        """
        known = [int(each) for each in str(facts.get("fidelities") or "").split(",") if each.strip()]
        whole = known.pop() if known else facts.get("epochs")
        if not isinstance(whole, int | float):
            raise InputError("--fidelity: the evaluator has results of one fidelity alone: leave it out")
        ladder = self.ladder
        self.climb(fidelities.levels(whole, known if facts.get("fidelities") else None, ladder.minimum, ladder.eta))

    def planned_trials(self, rounds: int | None) -> int | None:
        return max(TRIALS, 3 * random_trials(self.inner))

    def wanted(self) -> Collection[int]:
        return self.ladder.kept()

    def ask(self) -> Proposal | None:
        step = self.ladder.next()
        proposal: Proposal | None = None
        if step is not None and step.source is None:
            self._inform()
            proposal = self.inner.ask()
            if proposal is None:
                step = None if self._running else self.ladder.next(new=False)
        if step is None:
            return None
        if step.source is not None:
            return self._goes_on(step.source)
        assert proposal is not None
        fidelity = self._fidelity(step.rung)
        notes = {name: note for name, note in proposal.notes.items() if name != "expected"}  # at another level
        proposal = replace(proposal, fidelity=fidelity, notes=notes)
        self._begin(self.asked, proposal)
        return proposal

    def lead(self) -> Proposal | None:
        """As of `Finishing`: the best of the highest level, one level further."""
        waiting = [] if self._running else [self._paused[number] for number in self.ladder.waiting()]
        best = min(waiting, key=lambda trial: (-self.ladder.rungs[trial.id], trial.early, trial.id), default=None)
        return None if best is None else self._goes_on(best.id)

    def _goes_on(self, source: int) -> Proposal:
        """A trial goes on to the next level."""
        before, fidelity = self._paused.pop(source).proposal, self._fidelity(self.ladder.rungs[source] + 1)
        proposal = Proposal(before.arch, before.parent, fidelity=fidelity, continues=source)
        self._begin(self.asked, proposal)
        return proposal

    def _fidelity(self, rung: int) -> float | None:
        return None if rung == self.ladder.top else self.ladder.levels[rung]

    def _begin(self, number: int, proposal: Proposal) -> None:
        self.ladder.begun(number, proposal.continues)
        self._running += 1
        self.asked += 1

    def _inform(self) -> None:
        """Have the inner strategy's model see one level's results."""
        if isinstance(self.inner, Refitting):
            rung = max((i for i, own in enumerate(self._results) if len(own) >= self._enough), default=0)
            self.inner.refit(self._results[rung])

    def tell(self, trial: Trial) -> None:
        trial = self.curves.ended(trial)
        self._end(trial)
        if trial.proposal.continues is None:
            self.inner.tell(_as_done(trial))

    def _end(self, trial: Trial) -> None:
        loss = trial.early[0] if trial.early else trial.loss
        self.ladder.ended(trial.id, loss)
        self._results[self.ladder.rungs[trial.id]].append(_as_done(trial))
        self._running -= 1
        if trial.state == "stopped":
            self._paused[trial.id] = trial

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        for trial in sorted(trials, key=lambda trial: trial.id):
            self._begin(trial.id, trial.proposal)
        trials = [trial if trial.state == "running" else self.curves.ended(trial) for trial in trials]
        for trial in trials:
            if trial.state != "running":
                self._end(trial)
        for number in self.ladder.gone:
            del self._paused[number]
        self.inner.load_state_dict(state["inner"], [_as_done(t) for t in trials if t.proposal.continues is None])


class ByCurves(ByLevels):
    """The same, by what learning curves predict of the last level."""

    def observe(self, number: int, step: int, loss: float) -> bool:
        """As of `Observing`; it ends none."""
        self.curves.take(number, step, loss)
        return False


class Watched(Around):
    """Trials end early where a rule says so after one of their reports."""

    def __init__(self, inner: Strategy, rule: Median) -> None:
        super().__init__(inner, rule)
        self.rule = rule

    def take(self, facts: Mapping[str, object]) -> None:
        whole = facts.get("epochs")
        if self.rule.predict is not None and not isinstance(whole, int | float):
            raise InputError("--fidelity: the evaluator does not say how many epochs a training has: leave predict out")
        self.curves.whole = whole if isinstance(whole, int | float) else None

    def observe(self, number: int, step: int, loss: float) -> bool:
        """As of `Observing`."""
        self.curves.take(number, step, loss)
        return self.rule.observe(number, step, self.curves.predicted(number, loss))

    def ask(self) -> Proposal | None:
        proposal = self.inner.ask()
        self.asked += proposal is not None
        return proposal

    def tell(self, trial: Trial) -> None:
        self.inner.tell(_as_done(self.curves.ended(trial)))

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        self.asked += len(trials)
        ended = (trial if trial.state == "running" else self.curves.ended(trial) for trial in trials)
        self.inner.load_state_dict(state["inner"], list(map(_as_done, ended)))


def _as_done(trial: Trial) -> Trial:
    """As a strategy is told of it that knows nothing of fidelities."""
    if trial.state != "stopped":
        return trial
    return replace(trial, state="done", losses=trial.early, early=())


def begin(strategy: Strategy, facts: Mapping[str, object] | None) -> None:
    """`Around.take`, where the strategy is one and the facts are known."""
    if isinstance(strategy, Around) and facts is not None:
        strategy.take(facts)


def notes(strategy: Strategy, trials: int | None) -> Iterator[str]:
    """What is to be said before so many trials (None: any number), if these may all end early."""
    if isinstance(strategy, ByLevels) and trials is not None and trials < strategy.ladder.least:
        levels = ", ".join(f"{level:g}" for level in strategy.ladder.levels)
        least = f"it takes up to {strategy.ladder.least} trials until one architecture is trained to its end"
        yield f"{least}, by levels of {levels} epochs; where none has been by then, the best goes on to its end"


def around(inner: Strategy, fidelity: str, evaluator: type[Evaluator]) -> ByLevels | Watched:
    """The strategy with a rule around it, written as NAME:KEY=VALUE,...

    Raises:
        InputError: The rule is none, this strategy decides itself how its networks are trained, or this evaluator's
            trainings cannot end early.
    """
    rule = fidelities.made(fidelity)
    own = sorted(inner.needs & {"policy", "warm-start", "budget", "ensemble"})
    if own or isinstance(inner, Fed | Pooling):
        why = "trains shared weights" if "policy" in own else "says itself how each network is trained and kept"
        raise InputError(f"--fidelity: strategy {inner.name} {why}: leave one of the two out")
    if fidelities.by_reports(rule) and "simulated" in evaluator.provides:
        raise InputError(f"--fidelity {fidelity}: evaluator {evaluator.name} reports nothing before a training's end")
    levels = ByLevels if rule.predict is None else ByCurves
    found = levels(inner, rule) if isinstance(rule, Ladder) else Watched(inner, rule)
    if not found.needs <= inner.needs | evaluator.provides:
        raise InputError(f"--fidelity: evaluator {evaluator.name} measures with one fidelity alone: leave it out")
    return found
