"""What the search machinery costs per trial, beside Optuna's on the same disk in the same run.

usage: overhead.py [--trials 100000] [--optuna-trials 1000] [--strategy random|evolution] [--dir DIR]

The objective is free, so everything measured is ask + evaluate + tell + persist. Windows of trials are timed on their
own: the first 100, and the 1,000 up to number 1,000, 10,000 and 100,000; of each the median and the mean. Strategies
run without deduplication, because the space has fewer members than there are trials. Optuna runs
RandomSampler over six categorical parameters (the same decisions) on its journal file and on SQLite. Needs
`pip install nastool[benchmark]`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from nastool.core import registry
from nastool.core.evaluator import Evaluator, Report
from nastool.core.values import Evaluation, Objective, Proposal, Trial
from nastool.engine.executors.inline import Inline
from nastool.engine.executors.jobs import Reported
from nastool.engine.search import Search
from nastool.engine.store import Store


class Free(Evaluator):
    """Costs nothing, so that only the machinery is left."""

    name = "free"
    inline = True

    def prepare(self) -> None:
        pass

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        return Evaluation({"val_acc": (hash(proposal.arch.choices) % 9973) / 9973}, 0.0)


def nastool_times(strategy_name: str, options: Mapping[str, object], trials: int, folder: Path) -> list[float]:
    """Seconds of each trial, from one tell to the next."""
    space = registry.make("space", "nasbench201", given={})
    strategy = registry.make("strategy", strategy_name, space, given={"seed": 0, **options})
    stamps = [time.perf_counter()]

    def watch(search: Search, event: Reported | Trial | None) -> None:
        stamps.append(time.perf_counter())

    config = {"space": {"name": "nasbench201", "options": {}}}
    with Store.create(folder / "run.db", {"config": config}, durable=False) as store:
        stamps[0] = time.perf_counter()
        search = Search(
            store,
            strategy,
            Inline(Free(space)),
            Objective("val_acc", "max"),
            0,
            trials,
            folder,
            one_commit=True,
            watch=watch,
        )
        search.restore()
        search.run()
    return [b - a for a, b in itertools.pairwise(stamps)]


def optuna_times(storage: object, trials: int) -> list[float]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))  # type: ignore[arg-type]  # a URL or a storage
    options = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    times = []
    for _ in range(trials):
        start = time.perf_counter()
        trial = study.ask()
        for i in range(6):
            trial.suggest_categorical(f"edge{i}", options)
        study.tell(trial, 0.5)
        times.append(time.perf_counter() - start)
    return times


def window(times: list[float], end: int, length: int = 100) -> tuple[float, float]:
    """Median and mean of the `length` trials up to number `end`, in microseconds."""
    part = times[max(0, end - length) : end]
    return 1e6 * statistics.median(part), 1e6 * statistics.fmean(part)


def report(name: str, times: list[float], marks: tuple[int, ...]) -> dict[int, float]:
    print(f"{name}:")
    found = {}
    for end in marks:
        if end <= len(times):
            length = 100 if end < 1000 else 1000
            median, mean = window(times, end, length)
            found[end] = mean
            first = end - min(end, length) + 1
            print(f"  trials {first:>6} to {end:>6}: median {median:9.1f}  mean {mean:9.1f} us per trial")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--optuna-trials", type=int, default=1000)
    parser.add_argument("--strategy", choices=("random", "evolution"), default="random")
    parser.add_argument("--dir", default=None, help="where the files go; a temporary folder by default")
    args = parser.parse_args()
    options: dict[str, object] = {"dedup": False}
    marks = (100, 1000, 10_000, 100_000)
    results: dict[str, dict[int, float]] = {}
    runs: list[tuple[str, Callable[[Path], list[float]]]] = [
        (f"nastool {args.strategy}, run.db", lambda d: nastool_times(args.strategy, options, args.trials, d)),
    ]
    if args.optuna_trials:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        runs += [
            (
                f"optuna {optuna.__version__} random, journal file",
                lambda d: optuna_times(
                    optuna.storages.JournalStorage(JournalFileBackend(str(d / "journal"))), args.optuna_trials
                ),
            ),
            (
                f"optuna {optuna.__version__} random, SQLite",
                lambda d: optuna_times(f"sqlite:///{d}/optuna.db", min(args.optuna_trials, 1000)),
            ),
        ]
    for name, run in runs:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            results[name] = report(name, run(Path(folder)), marks)
    own = results[runs[0][0]]
    first, last = own[min(own)], own[max(own)]
    print(f"ratio of {max(own):,} to {min(own):,} trials: {last / first:.2f}")
    for name, _ in runs[1:]:
        common = max(set(own) & set(results[name]))
        print(f"{name} / nastool at {common:,} trials: {results[name][common] / own[common]:.0f}x")
    print(
        json.dumps(
            {
                "python": platform.python_version(),
                "sqlite": sqlite3.sqlite_version,
                "machine": platform.platform(),
            }
        )
    )


if __name__ == "__main__":
    main()
