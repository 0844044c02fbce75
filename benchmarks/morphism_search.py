"""Hill climbing by network morphism beside what it has to beat, all trained by the same recipe on the same data.

usage: morphism_search.py --data npz:FILE --recipe NAME --out DIR [--seeds 0,1,2] [--scale channels=8] [-P layers=4 ...]
       [--start-epochs N] [--steps N] [--neighbors N] [--epochs N] [--morphisms N] [--final-epochs N] [--without cd]

For each seed: `nastool search --strategy network-morphism`, and
  (a) the same with random weights for every network (inherit=false): equal epochs in all,
  (b) the final architecture from scratch, for the epochs of one neighbor and for those of the whole path to it,
  (c) random search in the same space, every network trained for --final-epochs, in the same time,
  (d) torchvision's resnet18, in the same time.
Every run has one thread, and time is processor time (on a shared machine the clock says little); that of the first is
taken from an epoch of each network that it trained. --without leaves out (c), (d) or both. Prints test and
validation accuracy, mean +- standard deviation over the seeds. An interrupted benchmark continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nastool.core import archfile, registry
from nastool.core.space import SearchSpace
from nastool.core.values import Evaluation, Proposal
from nastool.engine.store import Store
from nastool.evaluators.train import Train
from nastool.strategies.random_search import RandomSearch

sys.path.insert(0, str(Path(__file__).parent))
from reference_network import ResNet18

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def nastool(*arguments: str) -> dict[str, Any]:
    """The last JSON line that the command prints."""
    command = [sys.executable, "-m", "nastool", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is in the file, or else what make returns, which then is."""
    if not path.exists():
        path.write_text(json.dumps(make()))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def cpu_seconds(train: Train, trial_id: int, proposal: Proposal, seed: int) -> tuple[Evaluation, float]:
    """One training in this process, and the processor time that it took."""
    train.prepare()
    start = time.process_time()
    evaluation = train.evaluate(trial_id, proposal, seed=seed, report=lambda step, metrics: None)
    return evaluation, time.process_time() - start


def timed(folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Processor time of a run's trainings, from one epoch of each of its networks."""
    total = 0.0
    with closing(Store.read(folder / "run.db")) as store:
        trials = list(store.trials())
    for trial in trials:
        arch = trial.proposal.arch
        train = Train(registry.make_space(arch.space), **options)
        total += cpu_seconds(train, 0, Proposal(arch, budget=1), 0)[1] * (trial.proposal.budget or 0)
    return {"seconds": total}


def random_search(
    folder: Path, space: SearchSpace, seconds: float, options: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Random architectures until that much processor time is spent, then the best of them is tested."""
    train = Train(space, **options)
    train.workdir = folder
    strategy = RandomSearch(space, seed=seed)
    best: tuple[float, Proposal, Evaluation] | None = None
    spent, count = 0.0, 0
    while spent < seconds:
        proposal = strategy.ask()
        assert proposal is not None
        evaluation, took = cpu_seconds(train, count, proposal, seed)
        spent, count = spent + took, count + 1
        if best is None or evaluation.metrics["val_acc"] > best[0]:
            best = evaluation.metrics["val_acc"], proposal, evaluation
    assert best is not None
    return {"metrics": {**best[2].metrics, **train.test(*best[1:]), "trials": count, "cpu_seconds": spent}}


def resnet18(folder: Path, seconds: float, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """As many whole epochs as fit, at least one."""
    train = Train(ResNet18(), **options, epochs=1)
    train.workdir = folder
    proposal = Proposal(train.space.arch([0]))
    budget = max(1, int(seconds / cpu_seconds(train, 0, proposal, seed)[1]))
    proposal = replace(proposal, budget=budget)
    evaluation, took = cpu_seconds(train, 0, proposal, seed)
    metrics = {**evaluation.metrics, **train.test(proposal, evaluation)}
    return {"metrics": {**metrics, "epochs": budget, "cpu_seconds": took}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--scale", default="channels=16")
    parser.add_argument("-P", action="append", default=[], help="option of the space")
    for name, value in (("start", 20), ("", 17), ("final", 100)):
        parser.add_argument(f"--{name}{'-' if name else ''}epochs", type=int, default=value)
    for name, value in (("steps", 5), ("neighbors", 8), ("morphisms", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--without", choices=["c", "d", "cd"], default="")
    given = parser.parse_args()
    torch.set_num_threads(1)

    data = ["--data", given.data, "--recipe", given.recipe, "--scale", given.scale]
    space = ["--space", "morph-cnn", *(word for option in given.P for word in ("-P", option))]
    names = ("steps", "neighbors", "morphisms", "start_epochs", "epochs", "final_epochs")
    settings = [word for name in names for word in ("-S", f"{name}={getattr(given, name)}")]
    path = given.start_epochs + given.steps * given.epochs + given.final_epochs
    total = path + given.steps * (given.neighbors - 1) * given.epochs
    print(f"{platform.platform()}, torch {torch.__version__}, 1 thread")
    print(f"{' '.join(sys.argv)}: {total} epochs in all, {path} along a path", flush=True)
    rows: dict[str, list[dict[str, float]]] = {}

    def add(name: str, document: dict[str, Any], seed: str) -> dict[str, float]:
        metrics: dict[str, float] = document["metrics"]
        rows.setdefault(name, []).append(metrics)
        print(f"  seed {seed}: {name}: {json.dumps(metrics)}", flush=True)
        return metrics

    for seed in given.seeds.split(","):
        folder = given.out / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        climb = ["search", "--strategy", "network-morphism", "--seed", seed, *data, *space, *settings]
        best = nastool(*climb, "--ensemble", "--out", str(folder / "morphism"))
        add("network morphism", best, seed)
        add("  ensemble of its path", best["ensemble"], seed)
        again = nastool(*climb, "-S", "inherit=false", "--out", str(folder / "scratch"))
        add("(a) same climb, random weights", again, seed)
        arch = str(folder / "morphism" / "best.json")
        for what, epochs in (("one neighbor's", given.epochs), ("its path's", path)):
            command = ["eval", arch, "--epochs", str(epochs), "--seeds", seed]
            found = kept(folder / f"alone-{epochs}.json", partial(nastool, *command))
            add(f"(b) final architecture from scratch, {what} {epochs} epochs", found, seed)
        if given.without == "cd":
            continue
        options = {"data": given.data, "recipe": given.recipe, "device": "cpu"}
        scaled = {**options, "scale": best["scale"]}
        seconds = kept(folder / "seconds.json", partial(timed, folder / "morphism", scaled))["seconds"]
        print(f"  seed {seed}: {seconds:.0f} s of processor time", flush=True)
        own = registry.make_space(archfile.from_json(best).arch.space)
        longer = {**scaled, "epochs": given.final_epochs}
        if "c" not in given.without:
            drawing = partial(random_search, folder / "random", own, seconds, longer, int(seed))
            drawn = kept(folder / "random.json", drawing)
            add(f"(c) random search, equal time, {given.final_epochs} epochs each", drawn, seed)
        if "d" not in given.without:
            other = kept(folder / "resnet18.json", partial(resnet18, folder / "resnet18", seconds, options, int(seed)))
            add("(d) resnet18, equal time", other, seed)

    width = max(map(len, rows))
    for name, measured in rows.items():
        cells = []
        for metric in ("test_acc", "val_acc"):
            values = [100 * metrics[metric] for metrics in measured]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{metric} {statistics.mean(values):6.2f} +- {spread:.2f}")
        params = statistics.mean(metrics.get("params", 0) for metrics in measured)
        print(f"{name:<{width}}  {'  '.join(cells)}  n = {len(measured)}  params {params:,.0f}")


if __name__ == "__main__":
    main()
