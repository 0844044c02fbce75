"""What a final stage finds, beside the same search without one, at equal numbers of trainings.

    python benchmarks/final_stage.py --cache FILE --data digits --epochs 2 --trials 40 --final 5x10 --final 3x10
    python benchmarks/final_stage.py --table nasbench201.npz --data cifar100 --trials 100 --final 5x15 --seeds 50

Of each seed a search of so many trials is made once; a final stage of N trainings of K architectures (KxN) takes the
place of its last N trials. With real trainings, what each way recommends is trained with --truth fresh seeds by the
same recipe, and their mean is what it is truly worth. A training is a function of its architecture and seed, and FILE
keeps what it came to, so that nothing is trained twice, and the same command goes on where it was ended. --only SECONDS
ends it sooner: what is there is compared (Wilcoxon's signed-rank test, a bootstrap interval of the mean difference).

On a table of NAS-Bench-201 the label is the validation accuracy of its first training, and what is trained again has
the accuracies of its others: of half of the cells there is one, else two. What is asked for beyond these is one of all
once more: charged, and no news. The truth is the mean test accuracy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from hashlib import blake2s
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.statistics import difference
from nastool.core import registry
from nastool.core.evaluator import Evaluator
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Evaluation, Proposal, Trial
from nastool.engine.config import RunConfig
from nastool.engine.final_stage import FinalStage
from nastool.engine.proposals import trial_seed
from nastool.engine.ranking import different, recommended
from nastool.spaces.nasbench201 import NasBench201


class Trainings:
    """Trainings by a recipe, each of which is made once."""

    columns = "mean validation and test accuracy of fresh trainings"

    def __init__(self, config: RunConfig, cache: Path) -> None:
        self.space = config.make_space()
        self._spec = config.evaluator_spec(self.space, Path(tempfile.mkdtemp()))
        self._evaluator: Evaluator | None = None
        self._name = [config.evaluator.options[name] for name in ("data", "epochs", "scale")]
        self._cache = cache
        self._known: dict[str, list[float]] = {}
        if cache.exists():
            for line in cache.read_text().splitlines():
                self._known.update(json.loads(line))
        self.made, self.seconds = 0, 0.0

    def first(self, run: tuple[str, int], arch: Arch, number: int) -> tuple[float, float]:
        """Validation accuracy and loss of a trial of a search."""
        return self._of(arch, trial_seed(run[1], number))[:2]

    def again(self, run: tuple[str, int], arch: Arch, nth: int) -> tuple[float, float]:
        """The same of its nth training in a final stage."""
        return self._of(arch, fresh(run, arch, "again", nth))[:2]

    def truth(self, run: tuple[str, int], arch: Arch, count: int) -> list[float]:
        """Mean validation and test accuracy of trainings with seeds that nothing else has."""
        found = [self._of(arch, fresh(run, arch, "truth", number)) for number in range(count)]
        return [sum(values) / count for values in list(zip(*found, strict=True))[::2]]

    def _of(self, arch: Arch, seed: int) -> tuple[float, float, float]:
        """Validation accuracy, validation loss and test accuracy."""
        key = json.dumps([*self._name, arch.choices, seed])
        if key not in self._known:
            began = time.process_time()
            found = self._train(arch, seed)
            self.made, self.seconds = self.made + 1, self.seconds + time.process_time() - began
            self._known[key] = found
            with self._cache.open("a") as file:
                file.write(json.dumps({key: found}) + "\n")
        acc, loss, test = self._known[key]
        return acc, loss, test

    def _train(self, arch: Arch, seed: int) -> list[float]:
        if self._evaluator is None:
            self._evaluator = self._spec.build()
            self._evaluator.prepare()
        trained = self._evaluator.evaluate(0, Proposal(arch), seed=seed, report=lambda step, metrics: None)
        tested = self._evaluator.test(Proposal(arch), trained)
        return [trained.metrics["val_acc"], trained.metrics["val_loss"], tested["test_acc"]]


class Looked:
    """Trainings that a table has."""

    columns = "mean test accuracy"
    made, seconds = 0, 0.0

    def __init__(self, file: Path, data: str) -> None:
        with np.load(file) as table:
            self._rows = {tuple(arch): row for row, arch in enumerate(table["arch"].tolist())}
            names = [f"{data}_{name}" for name in ("val200_s0", "val200_s1", "val200_s2", "test200")]
            *self._labels, self._truth = (table[name].astype(np.float64) / 100 for name in names)
        self.space = NasBench201()

    def first(self, run: tuple[str, int], arch: Arch, number: int) -> tuple[float, float]:
        return self.again(run, arch, 0)

    def again(self, run: tuple[str, int], arch: Arch, nth: int) -> tuple[float, float]:
        known = [own[self._rows[arch.choices]] for own in self._labels]
        known = [value for value in known if np.isfinite(value)]
        return float(known[nth % len(known)]), 0.0

    def truth(self, run: tuple[str, int], arch: Arch, count: int) -> list[float]:
        return [float(self._truth[self._rows[arch.choices]])]


def fresh(run: tuple[str, int], arch: Arch, what: str, number: int) -> int:
    """A seed that nothing else has."""
    text = json.dumps([*run, arch.choices, what, number])
    return int.from_bytes(blake2s(text.encode(), digest_size=7).digest(), "big")


def measured(number: int, proposal: Proposal, accuracy: float, loss: float) -> Trial:
    """A finished trial."""
    return Trial(number, proposal, "done", Evaluation({"val_acc": accuracy, "val_loss": loss}, 1.0), (-accuracy,))


class Case:
    """One search, and what is recommended of it in several ways."""

    def __init__(self, name: str, seed: int, trainings: Trainings | Looked, trials: int) -> None:
        """Makes the search."""
        self.trainings, self.space = trainings, trainings.space
        self.name = name, seed
        strategy: Strategy = registry.make("strategy", name, self.space, given={"seed": seed})
        self.told: list[Trial] = []
        while len(self.told) < trials and (proposal := strategy.ask()) is not None:
            accuracy, loss = trainings.first(self.name, proposal.arch, len(self.told))
            self.told.append(measured(len(self.told), proposal, accuracy, loss))
            strategy.tell(self.told[-1])

    def by_label(self) -> Arch:
        return min(self.told, key=lambda trial: trial.rank).proposal.arch

    def by_model(self) -> Arch:
        return recommended(self.space, self.told)[0].trial.proposal.arch

    def by_final(self, arms: int, final: int) -> tuple[Arch, Arch]:
        """What a final stage finds in place of the last trials, and what the model recommends of all results then."""
        before = self.told[: len(self.told) - final]
        found = recommended(self.space, before)
        named = [trial.id for trial in different(self.space, (each.trial for each in found), arms)]
        stage = FinalStage(self.space, len(before), final, named, {})
        stage.take(before)
        told, made = list(before), dict[Arch, int]()
        for number in range(len(before), len(self.told)):
            proposal = stage.ask(number)
            assert proposal is not None
            nth = made[proposal.arch] = made.get(proposal.arch, 0) + 1
            accuracy, loss = self.trainings.again(self.name, proposal.arch, nth)
            told.append(measured(number, proposal, accuracy, loss))
            stage.tell(told[-1])
        return stage.order[0].trial.proposal.arch, recommended(self.space, told)[0].trial.proposal.arch


def said(name: str, values: NDArray[np.float64], reference: NDArray[np.float64] | None) -> str:
    """Mean and standard error in points of both truths, and how it compares with the reference, paired."""
    shown = "  ".join(f"{100 * v.mean():.2f} ± {100 * v.std(ddof=1) / len(v) ** 0.5:.2f}" for v in values.T)
    if reference is None:
        return f"  {name:<20} {shown}"
    differences = []
    for own, other in zip(values.T, reference.T, strict=True):
        found = difference(100 * own, 100 * other, paired=True)
        differences.append(f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] p = {found.p:.3f}")
    return f"  {name:<20} {shown}   {'   '.join(differences)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--scale", default="channels=4,cells=1")
    parser.add_argument("--strategy", action="append", default=None)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--final", action="append", required=True)
    parser.add_argument("--truth", type=int, default=5)
    parser.add_argument("--only", type=float, default=math.inf)
    given = parser.parse_args()
    strategies = given.strategy or ["evolution", "bo"]
    options = {"data": given.data, "epochs": given.epochs, "scale": given.scale, "device": "cpu"}
    trainings: Trainings | Looked
    if given.table is not None:
        trainings = Looked(given.table, given.data)
    else:
        config = RunConfig.resolve(("random", {}), ("nasbench201", {}), ("train", options), 0, None)
        trainings = Trainings(config, given.cache)
    stages = [tuple(map(int, text.split("x"))) for text in given.final]
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in strategies}
    began = time.monotonic()
    for seed, name in itertools.product(range(given.first, given.first + given.seeds), strategies):
        if time.monotonic() - began > given.only:
            break
        case = Case(name, seed, trainings, given.trials)
        chosen = {"best label": case.by_label(), "by the model": case.by_model()}
        for k, n in stages:
            chosen[f"final {k} x {n}"], chosen[f"final {k} x {n}, model"] = case.by_final(k, n)
        for way, arch in chosen.items():
            found[name].setdefault(way, []).append(trainings.truth(case.name, arch, given.truth))
        print(seed, name, {way: round(own[-1][0], 4) for way, own in found[name].items()}, flush=True)
    print(f"{trainings.made} trainings in {trainings.seconds:.0f} s of CPU time")
    for name, ways in found.items():
        print(f"{name}, {len(ways['best label'])} seeds, {given.trials} trials: {trainings.columns}")
        reference = np.array(ways["best label"])
        for way, own in ways.items():
            print(said(way, np.array(own), None if way == "best label" else reference))


if __name__ == "__main__":
    main()
