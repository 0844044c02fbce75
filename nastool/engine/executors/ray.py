"""Jobs in workers that Ray starts."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

from nastool.core.errors import InputError, one_line
from nastool.engine.executors import places
from nastool.engine.executors.base import Setting
from nastool.engine.executors.cluster import Cluster
from nastool.engine.executors.jobs import EvaluatorSpec


class Ray(Cluster):
    """Carries out trials in workers that are Ray tasks, each with its share of a node's CPUs and GPUs.

    They join whenever Ray has room for them, also on nodes that come later, and leave with their nodes; the search goes
    on with those that are there. The run's folder has to lie where all nodes see it. Needs nastool[ray].
    """

    name = "ray"
    look_seconds = 1.0

    def __init__(
        self,
        spec: EvaluatorSpec,
        workers: int,
        setting: Setting,
        *,
        address: str | None = None,
        gpus: float = 0.0,
        cpus: int = 1,
        host: str | None = None,
    ) -> None:
        """Makes an executor.

        Args:
            spec, workers, setting: As of `Cluster`.
            address: Of a cluster, HOST:PORT, or auto for the one that this machine belongs to; by default what
                RAY_ADDRESS says, or this machine alone.
            gpus: GPUs of each worker; 0.5: two share one.
            cpus: Cores of each worker.
            host: Name or address under which nodes reach this machine; by default its address in Ray.
        """
        if cpus < 1 or gpus < 0:
            raise ValueError(f"need cpus >= 1 and gpus >= 0, got cpus={cpus} and gpus={gpus:g}")
        super().__init__(spec, workers, setting, cpus=cpus, host=host)
        self._address = address
        self._asks = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}
        self._ray: Any = None
        self._tasks: dict[int, Any] = {}

    def prepare(self) -> None:
        try:
            ray: Any = import_module("ray")
        except ImportError:
            raise InputError("executor ray needs the package ray: pip install 'nastool[ray]'") from None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if ray.is_initialized():
            self._ours = False
        else:
            self._ours = True
            try:
                ray.init(self._address, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:
                raise InputError(f"executor ray: {one_line(error)}") from None
        self._ray = ray
        self._host = self._host or ray.util.get_node_ip_address()

    def ask(self, number: int) -> None:
        task = self._ray.remote(places.join).options(**self._asks, name=f"nastool worker {number}")
        self._tasks[number] = task.remote(str(self.file), number)

    def endings(self) -> Mapping[int, str]:
        found = {}
        for number, task in self._tasks.items():
            if self._ray.wait([task], timeout=0)[0]:
                try:
                    self._ray.get(task)
                    found[number] = "its task has ended"
                except Exception as error:
                    found[number] = one_line(getattr(error, "cause", None) or error)
        return found

    def give_back(self, number: int) -> None:
        if (task := self._tasks.pop(number, None)) is not None:
            with suppress(Exception):  # it has ended, or its cluster has
                self._ray.cancel(task, force=True)

    def dismiss(self) -> None:
        for number in list(self._tasks):
            self.give_back(number)
        if self._ray is not None and self._ours:
            self._ray.shutdown()
        self._ray = None
