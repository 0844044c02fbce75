"""What a search believes before its first trial: a zero-cost proxy of random architectures, untrained."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from nastool.core import defaults, options, registry
from nastool.core.errors import InputError, NastoolError
from nastool.core.evaluator import Evaluator, Scaled
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal
from nastool.engine.config import RunConfig
from nastool.engine.executors.base import Drive, Executor, Setting
from nastool.engine.executors.jobs import OUTSIDE, EvaluatorSpec, Finished, Job
from nastool.engine.run import make_executor

SAMPLE = 500
"""Number of architectures whose proxy is found."""
BATCH = 64
"""Examples of the minibatch, as published."""
_TRAINING = frozenset({"recipe", "epochs", "batch_size", "lr"})
"""Options that say how networks are trained, or follow from that."""
_DRAWS = 0x7072696F72
"""Keeps the draws apart from the strategy's, which have the same seed."""


def sample(space: SearchSpace, count: int, seed: int) -> list[Arch]:
    """So many architectures drawn at random, no two equivalent; fewer where there are no more."""
    rng, found = np.random.default_rng([seed, _DRAWS]), dict[str, Arch]()
    while len(found) < count and (arch := space.sample_new(rng, found, space.canonical)) is not None:
        found[space.canonical(arch)] = arch
    return list(found.values())


def spec_of(name: str, config: RunConfig, evaluator: Evaluator) -> EvaluatorSpec:
    """Who finds a proxy of the networks that an evaluator would train, on its data; of one without data on shapes.

    Raises:
        InputError: The space has no networks for such data.
    """
    scorer: type[Evaluator] = registry.load("evaluator", defaults.SCORER)
    theirs, given = config.evaluator.options, dict[str, object]()
    if "data" in theirs:
        same = theirs.keys() & options.of(scorer).keys() - _TRAINING
        given = {key: theirs[key] for key in same if theirs[key] is not None}
    if isinstance(evaluator, Scaled):
        given["scale"] = dataclasses.asdict(evaluator.scale)
    given = {"data": defaults.DATA, **given, "proxy": name, "all_proxies": False, "batch_size": BATCH}
    spec = EvaluatorSpec(evaluator.space.ref, *registry.resolve("evaluator", defaults.SCORER, given))
    try:
        spec.build()
    except InputError as error:
        raise InputError(f"--prior {name}: {error}") from None
    return spec


def find(
    name: str,
    config: RunConfig,
    space: SearchSpace,
    evaluator: Evaluator,
    setting: Setting,
    executor: str | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Find a proxy of SAMPLE random architectures, each with the same seed of weights.

    Args:
        name: Of the proxy; more of it is better.
        config: Of the search.
        space: As the search sees it.
        evaluator: Of the search.
        setting, executor: How it carries out trials.
        note: Called with a line for people.

    Returns:
        "prior", its name, "choices" and "losses" as of `engine.earlier`, and "seconds" that it took. Where it is no
        number, as no signal goes through, the loss is the worst of the others.

    Raises:
        InputError: It cannot be found of these data.
        NastoolError: It could not.
    """
    spec, began = spec_of(name, config, evaluator), time.monotonic()
    archs = sample(space, SAMPLE, config.seed)
    with closing(make_executor(executor, spec, spec.build(), setting)) as at_work:
        try:
            at_work.open()
        except InputError as error:
            raise InputError(f"--prior {name}: {error}") from None
        note(f"prior: {name} of {len(archs)} random architectures, before any is trained")
        values = _values(name, at_work, archs)
    losses = [-value for value in values if value is not None]
    if len(set(losses)) < 2:
        raise InputError(f"--prior {name}: it is the same for all of {len(archs)} architectures: leave it out")
    worst = max(losses)
    return {
        "prior": name,
        "choices": [arch.choices for arch in archs],
        "losses": [[worst if value is None else -value] for value in values],
        "seconds": round(time.monotonic() - began, 3),
    }


def _values(name: str, executor: Executor, archs: list[Arch]) -> list[float | None]:
    waiting, found = enumerate(archs), dict[int, float]()

    def next_job() -> Job | None:
        number, arch = next(waiting, (0, None))
        return None if arch is None else Job(OUTSIDE + number, Proposal(arch), 0)

    for event in Drive(executor, next_job):
        if not isinstance(event, Finished):
            continue
        if event.evaluation is not None:
            found[event.job.trial_id - OUTSIDE] = event.evaluation.metrics[name]
        elif event.fault != "nan":
            raise NastoolError(f"--prior {name}: {event.job}: {event.error}")
    return [found.get(number) for number in range(len(archs))]
