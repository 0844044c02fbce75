"""Real trainings that end early and whole ones: the best so far against the processor's seconds of the trainings.

usage: early_trainings.py run DATA STRATEGY... > runs.jsonl; early_trainings.py look DATA < runs.jsonl

run: searches of what CASES says of DATA, with asha and without, one thread. Random search makes so many whole
trainings; every other search of that seed has as many seconds.
look: when the mean over seeds is what random search's is in the end, with a 95% interval of 2,000 bootstrap samples of
the seeds.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nastool
from nastool.engine.events import Event, TrialFinished
from nastool.evaluators.train import Train

SAMPLES = 2000


@dataclass(frozen=True)
class Case:
    """Searches by real trainings. trials: of random search; blind: the value of what knows nothing."""

    seeds: int
    trials: int
    rule: str
    blind: float
    options: dict[str, Any]


CASES = {
    "digits": Case(
        10, 24, "asha", 0.1,
        {"space": "nasbench201", "scale": "channels=4,cells=1", "evaluator_options": {"epochs": 9, "train_size": 300}},
    ),
    "sentences": Case(
        5, 16, "asha:minimum=3", -219.0,
        {"space": "recurrent-cell", "evaluator_options": {"epochs": 27, "train_size": 12_000}},
    ),
}  # fmt: skip
Floats = NDArray[np.float64]


class Clock:
    """Seconds of the processor that trainings take, and the best that was trained to the end by then."""

    def __init__(self) -> None:
        self.spent = 0.0
        self.curve: list[tuple[float, float]] = []
        whole = Train.evaluate

        def evaluate(train: Train, *arguments: Any, **named: Any) -> Any:
            begin = time.process_time()
            try:
                return whole(train, *arguments, **named)
            finally:
                self.spent += time.process_time() - begin

        Train.evaluate = evaluate  # type: ignore[method-assign]  # to time it

    def tell(self, event: Event) -> None:
        if isinstance(event, TrialFinished) and event.trial.losses:
            value = -event.trial.loss
            if not self.curve or value > self.curve[-1][1]:
                self.curve.append((self.spent, value))


def run(data: str, strategies: Sequence[str]) -> None:
    case, clock, budget = CASES[data], Clock(), dict[int, float]()
    searches = [(name, seed, rule) for name in strategies for seed in range(case.seeds) for rule in (None, case.rule)]
    for name, seed, rule in searches:
        reference = name == "random" and rule is None
        clock.spent, clock.curve = 0.0, []
        limit = math.inf if reference else budget[seed]
        with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):  # as a search is stopped
            nastool.search(
                strategy=name, fidelity=rule, seed=seed, trials=case.trials if reference else 1000, data=data,
                device="cpu", executor="inline", out=f"{folder}/run", report=False, on_event=clock.tell,
                stop=lambda limit=limit: clock.spent >= limit, **case.options,
            )  # fmt: skip
        if reference:
            budget[seed] = clock.spent
        facts = {"strategy": name, "fidelity": rule, "seed": seed, "spent": clock.spent, "curve": clock.curve}
        print(json.dumps(facts), flush=True)


def values(found: Mapping[str, Any], grid: Floats, blind: float) -> Floats:
    """The best at each moment; until there is one, what knows nothing."""
    times = [0.0, *(at for at, _ in found["curve"])]
    best = np.array([blind, *(value for _, value in found["curve"])])
    return np.asarray(best[np.searchsorted(times, grid, side="right") - 1])


def look(data: str) -> None:
    case = CASES[data]
    runs = {(each["strategy"], each["fidelity"], each["seed"]): each for each in map(json.loads, sys.stdin)}
    rng = np.random.default_rng(0)
    for name, rule in dict.fromkeys(key[:2] for key in runs):
        seeds = [seed for seed in range(case.seeds) if {(name, rule, seed), ("random", None, seed)} <= runs.keys()]
        whole = float(np.mean([runs["random", None, seed]["spent"] for seed in seeds]))
        grid = np.linspace(0, whole, 4001)
        own, reference = (
            np.array([values(runs[*of, seed], grid, case.blind) for seed in seeds])
            for of in ((name, rule), ("random", None))
        )
        even = np.full(len(seeds), 1 / len(seeds))
        weights = np.concatenate([even[None], rng.multinomial(len(seeds), even, SAMPLES) / len(seeds)])
        there = weights @ own >= (weights @ reference)[:, -1:] - 1e-9
        when = np.where(there.any(axis=1), grid[there.argmax(axis=1)], np.inf)
        low, high = whole / np.quantile(when[1:], [0.975, 0.025], method="nearest")
        means = " ".join(f"{value:.4f}" for value in own[:, 1000::1000].mean(axis=0))
        print(f"{name} {rule or ''}: {len(seeds)} seeds, means at quarters of {whole:.1f} s {means}; there after")
        print(f"  {when[0]:.1f} s, {whole / when[0]:.1f} times sooner [{low:.1f}, {high:.1f}]")


if __name__ == "__main__":
    run(sys.argv[2], sys.argv[3:]) if sys.argv[1] == "run" else look(sys.argv[2])
