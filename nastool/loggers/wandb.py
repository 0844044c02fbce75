"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from nastool.core.logger import FinishedTrial, LoggedRun, Logger, missing


class WandB(Logger):
    """Metrics of each trial over their number, the best so far, configuration and result. No learning curves.

    With mode=offline it needs no network: `wandb sync RUN/wandb/offline-*` sends it later. An offline log cannot be
    read, so a search that is continued writes all trials into a new one with the same id.
    """

    name = "wandb"

    def __init__(
        self,
        *,
        project: str = "nastool",
        entity: str | None = None,
        group: str | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:
        """Makes a logger that has sent nothing yet.

        Args:
            project: Project it belongs to, as wandb.init has it.
            entity: User or team it belongs to, as wandb.init has it.
            group: Group it belongs to, as wandb.init has it.
            mode: online, or offline, which needs no network.
        """
        super().__init__()
        self.project, self.entity, self.group, self.mode = project, entity, group, mode

    def require(self) -> None:
        try:
            import_module("wandb")
        except ImportError:
            raise missing(self.name, "wandb", "wandb") from None

    def open(self, run: LoggedRun) -> int:
        wandb: Any = import_module("wandb")
        self._run: Any = wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group,
            mode=self.mode,
            id=run.id,
            name=run.name,
            resume="allow",
            dir=str(run.folder),
            config=run.options,
            settings=wandb.Settings(console="off"),  # stdout is ours
        )
        self._objective = run.objective.metric
        return int(self._run.step)

    def trial(self, finished: FinishedTrial) -> None:
        found = {f"trial/{name}": value for name, value in finished.metrics.items()}
        found["trial/failed"] = int(finished.value is None)
        if finished.best is not None:
            found[f"best/{self._objective}"] = finished.best
        # With commit each call is a step of its own, so who continues the search finds it counted.
        self._run.log(found, step=finished.number, commit=True)

    def close(self, document: Mapping[str, Any] | None) -> None:
        if document is not None:
            self._run.summary.update({f"result/{name}": value for name, value in document["metrics"].items()})
            self._run.summary["result/key"] = document["key"]
        self._run.finish()
