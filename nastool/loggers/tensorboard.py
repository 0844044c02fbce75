"""Event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from nastool.core.logger import FinishedTrial, LoggedRun, Logger, missing
from nastool.core.values import Decision


class TensorBoard(Logger):
    """Scalars of each trial over their number, learning curves, and choices as hyper-parameters, in RUN/tensorboard.

    `tensorboard --logdir RUN` shows them. Whoever continues the search writes the event files anew from run.db.
    """

    name = "tensorboard"

    def __init__(self, *, trials: int = 200, decisions: int = 40) -> None:
        """Makes a logger that has written nothing yet.

        Args:
            trials: Number of trials, the first ones, whose learning curve and choices are kept, a folder each; >= 0.
            decisions: Number of decisions, the first ones, whose choices are kept; >= 0.
        """
        super().__init__()
        if trials < 0 or decisions < 0:
            raise ValueError(f"need trials >= 0 and decisions >= 0, got {trials} and {decisions}")
        self.trials, self.decisions = trials, decisions

    def require(self) -> None:
        try:
            import_module("torch.utils.tensorboard")
        except ImportError:
            raise missing(self.name, "tensorboard", "'nastool[tensorboard]'") from None

    def open(self, run: LoggedRun) -> int:
        self._folder = run.folder / self.name
        for old in self._folder.glob("**/events.out.tfevents.*"):
            old.unlink()
        self._objective = run.objective.metric
        self._decisions: tuple[Decision, ...] = run.decisions
        self._curves: dict[int, Any] = {}
        self._steps: dict[int, int] = {}
        self._writer = self._write_to(self._folder)
        lines = "\n".join(f"    {key}: {value}" for key, value in run.options.items())
        self._writer.add_text("configuration", lines, 0)
        return 0

    def _write_to(self, folder: Path) -> Any:
        # Readers that have seen earlier event files forget what they held.
        return import_module("torch.utils.tensorboard").SummaryWriter(str(folder), purge_step=0)

    def _of(self, trial_id: int) -> Any:
        if trial_id not in self._curves:
            self._curves[trial_id] = self._write_to(self._folder / f"trial-{trial_id:05}")
        return self._curves[trial_id]

    def report(self, trial_id: int, step: int, metrics: Mapping[str, float], when: float) -> None:
        if trial_id >= self.trials or step <= self._steps.get(trial_id, 0):  # it was tried before
            return
        self._steps[trial_id] = step
        for name, value in metrics.items():
            self._add(self._of(trial_id), f"curve/{name}", value, step, when)

    def trial(self, finished: FinishedTrial) -> None:
        number, when = finished.number, finished.when
        for name, value in finished.metrics.items():
            self._add(self._writer, f"trial/{name}", value, number, when)
        if finished.best is not None:
            self._add(self._writer, f"best/{self._objective}", finished.best, number, when)
        self._add(self._writer, "trial/failed", float(finished.value is None), number, when)
        trial_id = finished.trial.id
        if trial_id < self.trials:
            if finished.value is not None:
                self._choices(finished)
            if trial_id in self._curves:
                self._curves.pop(trial_id).close()
            self._steps.pop(trial_id, None)

    def _choices(self, finished: FinishedTrial) -> None:
        hparams = import_module("torch.utils.tensorboard.summary").hparams
        chosen = {
            decision.name: decision.options[choice]
            for decision, choice in zip(self._decisions, finished.trial.proposal.arch.choices, strict=True)
        }
        kept = dict(list(chosen.items())[: self.decisions])
        if not kept or finished.value is None:
            return
        writer = self._of(finished.trial.id)
        for summary in hparams(kept, {f"final/{self._objective}": finished.value}):
            writer.file_writer.add_summary(summary)
        self._add(writer, f"final/{self._objective}", finished.value, finished.number, finished.when)

    @staticmethod
    def _add(writer: Any, name: str, value: float, step: int, when: float) -> None:
        writer.add_scalar(name, value, step, when)

    def close(self, document: Mapping[str, object] | None) -> None:
        for writer in (*self._curves.values(), self._writer):
            writer.close()
        self._curves = {}
