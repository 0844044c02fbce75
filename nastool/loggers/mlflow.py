"""MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from nastool.core.logger import FinishedTrial, LoggedRun, Logger, missing

TAG = "nastool.run"
"""By this tag, the run's id, a later run of the command finds its log."""
LONGEST = 500
"""Characters of a parameter."""
COUNTED = "trial/number"


class MLflow(Logger):
    """Metrics of each trial over their number, the best so far, configuration and result. No learning curves."""

    name = "mlflow"

    def __init__(self, *, experiment: str = "nastool", uri: str | None = None) -> None:
        """Makes a logger that has sent nothing yet.

        Args:
            experiment: Name of the experiment in MLflow.
            uri: The server or store; by default MLFLOW_TRACKING_URI or MLflow's own.
        """
        super().__init__()
        self.experiment, self.uri = experiment, uri

    def require(self) -> None:
        try:
            import_module("mlflow")
        except ImportError:
            raise missing(self.name, "mlflow", "mlflow (or mlflow-skinny)") from None

    def open(self, run: LoggedRun) -> int:
        self._client: Any = import_module("mlflow.tracking").MlflowClient(tracking_uri=self.uri)
        self._entities: Any = import_module("mlflow.entities")
        self._objective = run.objective.metric
        known = self._client.get_experiment_by_name(self.experiment)
        experiment = self._client.create_experiment(self.experiment) if known is None else known.experiment_id
        found = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'")
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return int(found[0].data.metrics.get(COUNTED, -1)) + 1
        new = self._client.create_run(
            experiment, tags={TAG: run.id, "nastool.folder": str(run.folder)}, run_name=run.name
        )
        self._id = new.info.run_id
        parameters = [self._entities.Param(key, str(value)[:LONGEST]) for key, value in run.options.items()]
        self._client.log_batch(self._id, params=parameters)
        return 0

    def trial(self, finished: FinishedTrial) -> None:
        found = {f"trial/{name}": value for name, value in finished.metrics.items()}
        found["trial/failed"] = float(finished.value is None)
        if finished.best is not None:
            found[f"best/{self._objective}"] = finished.best
        found[COUNTED] = float(finished.number)  # last: what a kill interrupts is not counted
        self._log(found, finished.number, finished.when)

    def _log(self, values: Mapping[str, float], step: int, when: float) -> None:
        moment = int(1000 * when)
        metrics = [self._entities.Metric(name, float(value), moment, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self, document: Mapping[str, Any] | None) -> None:
        if document is None:
            self._client.set_terminated(self._id, "KILLED")
            return
        self._client.set_tag(self._id, "nastool.result", str(document["key"]))
        for name, value in document["metrics"].items():
            self._client.set_tag(self._id, f"nastool.result.{name}", str(value))
        self._client.set_terminated(self._id, "FINISHED")
