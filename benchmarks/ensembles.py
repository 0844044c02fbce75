"""Ensembles that searches find, at equal numbers of trainings: test figures by strategy, and paired tests.

usage: ensembles.py [--data digits] [--recipe digits] [--space nasbench201] [--scale channels=4,cells=1]
                    [--trials 40] [--members 3] [--seeds 5] [--rounds N] [--population 20] [--only NAME,...]
                    [--long digits-long] [--attack pgd:eps=8/255,steps=5] [--against deep-ensemble] [--out DIR]
                    [-- FURTHER OPTIONS OF nastool search]

For each seed a search by nes-re, nes-rs, deep-ensemble and saep (two ways of pruning), each `trials` trainings, its
pool's included; by nesbs, with both samplers, whose members alone are trained; by random search with shared weights and
by enas (30 scores after the last round) in the space multi-headed, whose network with `members` heads, or with one
("one head"), is trained once, by the recipe `long`; and the best single network of nes-re's trials, trained with so
many channels that it has as many parameters as nes-re's ensemble. Prints for each the mean and standard deviation over
seeds of the test NLL (nats), error (%), ECE (15 bins), disagreement, accuracy under attack (%), the ensemble's members
and parameters, processor seconds of the whole search, NLL and error of the best single network of its pool, NLLs and
ECE at the temperature that suits the examples that chose, and exact sign-flip tests of both NLLs against those of
--against.
Of saep also which share of its networks was removed (%), and at that temperature the NLL of as many members of all that
were trained ("unpruned"), of the mean of all that are alive ("alive") and of all that were trained ("all"); and in a
second table what each way of pruning would have made of the networks that "saep pap" trained.
Finished runs are taken up again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nastool.deploy import models
from nastool.engine import ensembling, pools
from nastool.engine.store import Store
from nastool.ensembles import metrics, stored
from nastool.ensembles.selection import forward
from nastool.nets import networks
from nastool.strategies.saep import SAEP

LARGER = "one larger"
HEADED = ("multi-headed", "multi-headed enas", "one head")
SCORES = 30
"""Number of architectures that shared weights score after the last round."""

SEARCHES = {
    "nes-re": ["-s", "nes-re"],
    "nes-rs": ["-s", "nes-rs"],
    "deep-ensemble": ["-s", "deep-ensemble"],
    "saep pap": ["-s", "saep"],
    "saep pie": ["-s", "saep", "-S", "pruning=pie"],
    "nesbs mc": ["-s", "nesbs", "-S", "sampler=mc"],
    "nesbs svgd-rd": ["-s", "nesbs", "-S", "delta=1"],
    "multi-headed": ["-s", "random", "--evaluator", "supernet"],
    "multi-headed enas": ["-s", "enas", "-S", f"candidates={SCORES}"],
    "one head": ["-s", "random", "--evaluator", "supernet"],
    LARGER: [],
}
COLUMNS = (
    *("nll", "nll_calibrated", "error", "ece_15", "ece_15_calibrated", "disagreement", "robust", "members", "params"),
    *("cpu", "alone", "alone_calibrated", "alone_error", "removed", "unpruned", "alive", "all"),
)


def seconds_of(*arguments: str) -> float:
    """Processor seconds of a nastool command. CalledProcessError: it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "nastool", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def folder_of(name: str, seed: int, given: argparse.Namespace) -> Path:
    return Path(given.out) / f"{name.replace(' ', '-')}-{seed}"


def measured(name: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """The columns of one search's ensemble, kept beside it."""
    run = folder_of(name, seed, given)
    kept = run / "measured.json"
    if not kept.is_file():
        row = larger(run, seed, given) if name == LARGER else searched(name, run, seed, given)
        kept.write_text(json.dumps(row))
    return dict(json.loads(kept.read_text()))


def searched(name: str, run: Path, seed: int, given: argparse.Namespace) -> dict[str, float]:
    members = ["--space", given.space, "-S", f"members={given.members}"]
    if name in HEADED:
        members = ["--space", "multi-headed", "-P", f"heads={1 if name == 'one head' else given.members}"]
    flags = [*given.further, "--scale", given.scale, *SEARCHES[name], *members]
    flags += ["--seed", str(seed), "--no-report", "--out", str(run)]
    if name.startswith("nesbs") or name in HEADED:
        last = given.long if name in HEADED else given.recipe
        flags += ["--no-baseline", "--retrain-recipe", last, "--retrain-scale", given.scale]
        flags += ["--retrain", "1"] if name in HEADED else []
        flags += ["--trials", str(SCORES)] if "supernet" in SEARCHES[name] else []
        flags += ["--epochs", str(given.rounds)] if given.rounds else []
    else:
        flags += ["--trials", str(given.trials)]
    if name == "deep-ensemble":
        flags += ["-S", f"pool={given.trials - given.members + 1}"]
    if name == "nes-re":
        flags += ["-S", f"population={given.population}"]
    if name.startswith("saep"):
        flags += ["--keep", str(given.trials)]
    cpu = seconds_of("search", "--data", given.data, *flags)
    if name in HEADED:
        (path,) = run.glob("retrain-*/checkpoints/trial-000000.safetensors")
        return of_networks(pools.candidates([path]), seed, given) | of_heads(path) | {"cpu": cpu}
    found = json.loads((run / "ensemble" / "best.json").read_text())
    row = of_networks(pools.candidates([Path(each["weights"]) for each in found["members"]]), seed, given)
    alone = columns(found["tested"]["best single network"])
    row |= {"alone": alone["nll"], "alone_error": alone["error"], "cpu": cpu}
    if name.startswith("saep"):
        trained = Trained(run, seed, given.members)
        row |= trained.figures(trained.alive)
    return row


def of_networks(chosen: list[pools.Candidate], seed: int, given: argparse.Namespace) -> dict[str, float]:
    """Of the mean of these networks, chosen already, as it is and at its temperature."""
    plain, after = (
        ensembling.choose(chosen, len(chosen), "top", temperature=t, seed=seed, test=True, attack=given.attack)
        for t in ("none", "after")
    )
    row = columns(plain.tested["ensemble"])
    row |= {f"{name}_calibrated": after.tested["ensemble"][name] for name in ("nll", "ece_15")}
    row["robust"] = 100 * plain.tested["ensemble"]["robust_acc"]
    row["alone_calibrated"] = after.tested["best single network"]["nll"]
    sizes = (networks.count_params(models.load(str(each.stored.checkpoint)).network) for each in chosen)
    return {**row, "members": len(chosen), "params": sum(sizes)}


def of_heads(path: Path) -> dict[str, float]:
    """How often the heads of a network differ on the test images."""
    network: Any = models.load(str(path)).network
    about = stored.read(path).about
    if len(network.heads) == 1:
        return {}
    data = pools.data_of(about["data"], stored.options(about))
    batches = data.batches("test", torch.device("cpu"))
    with torch.inference_mode():
        said = [
            data.task.predict(torch.nn.Sequential(network.backbone, head), batches.in_order()) for head in network.heads
        ]
    return {"disagreement": metrics.mean_of_pairs(metrics.disagreements(torch.stack(said).numpy()))}


class Trained:
    """The networks of a search, with what they say of validation and test images, by trial."""

    def __init__(self, run: Path, seed: int, members: int) -> None:
        everybody = pools.candidates([run])
        first = everybody[0].stored
        data = pools.data_of(first.about["data"], stored.options(first.about))
        self.run, self.seed, self.members = run, seed, members
        self.val = {each.trial: each.stored.probabilities for each in everybody}
        self.labels = first.labels
        self.choosing, _ = ensembling.divided(len(self.labels), 0.5, seed)
        found = {each.trial: pools.said_of(each.stored.checkpoint, data, "test") for each in everybody}
        self.test = {trial: said for trial, (said, _) in found.items()}
        self.truth = found[everybody[0].trial][1]
        with Store.read(run / "run.db") as store:
            self.trials = [trial for trial in store.trials() if trial.id in self.val]
            gone = {each for trial in store.trials() for each in trial.proposal.notes.get("removed", ())}
            self.alive = set(self.val) - gone - set(store.get("strategy").get("removed", ()))

    def nll(self, pool: set[int], size: int) -> float:
        """Test NLL of so many of a pool at their temperature, chosen as a search chooses them."""
        said, right = np.stack([self.val[each] for each in sorted(pool)])[:, self.choosing], self.labels[self.choosing]
        chosen = forward(said, right, size).members
        temperature = metrics.temperature_of(said[chosen].mean(0), right)
        test = np.stack([self.test[each] for each in sorted(pool)])[chosen].mean(0)
        return metrics.nll(metrics.at_temperature(test, temperature), self.truth)

    def figures(self, alive: set[int]) -> dict[str, float]:
        """What it changes that only these are alive."""
        return {
            "removed": 100 - 100 * len(alive) / len(self.val),
            "pruned": self.nll(alive, self.members),
            "unpruned": self.nll(set(self.val), self.members),
            "alive": self.nll(alive, len(alive)),
            "all": self.nll(set(self.val), len(self.val)),
        }

    def replayed(self) -> Iterator[tuple[str, dict[str, float]]]:
        """The same of each way of pruning, had these networks come in this order."""
        space = models.load(str(self.run)).space
        for pruning, weighted, least in product(("prs", "pap", "pie"), (False, True), (20, 10, self.members)):
            more = {"members": self.members, "least": least, "pruning": pruning, "weighted": weighted}
            strategy = SAEP(space, seed=self.seed, **more)
            strategy.predictions = lambda trial: (self.val[trial.id], self.labels)
            for trial in self.trials:
                strategy.tell(trial)
            yield f"{pruning}.{'W' if weighted else 'O'} least={least}", self.figures(set(strategy.pool()))


def larger(run: Path, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """The best network of nes-re's trials, trained anew with about as many parameters as nes-re's ensemble has."""
    before = folder_of("nes-re", seed, given)
    wanted = measured("nes-re", seed, given)["params"]
    model = models.load(str(before))

    def params(channels: int) -> int:
        with torch.device("meta"):
            scale = replace(model.scale, channels=channels)
            return networks.count_params(networks.build(model.space, model.arch, model.task, scale))

    channels = min(range(model.scale.channels, 8 * model.scale.channels), key=lambda c: abs(params(c) - wanted))
    run.mkdir(parents=True, exist_ok=True)
    scale = ",".join(f"{k}={v}" for k, v in asdict(replace(model.scale, channels=channels)).items())
    cpu = seconds_of(
        *("eval", str(before / "best.json"), "--data", given.data, "--recipe", given.recipe, "--scale", scale),
        *("--seeds", str(seed), "--save", str(run / "trained")),
    )
    (path,) = (run / "trained").rglob("trial-*[0-9].safetensors")
    row = of_networks(pools.candidates([path]), seed, given)
    return {**row, "cpu": cpu + measured("nes-re", seed, given)["cpu"]}


def columns(tested: dict[str, float]) -> dict[str, float]:
    kept = {name: tested[name] for name in ("nll", "ece_15", "disagreement")}
    return {**kept, "error": 100 * (1 - tested["accuracy"])}


def sign_flip(differences: np.ndarray[Any, Any]) -> float:
    """Exact two-sided p of the mean under random signs."""
    signs = np.array(list(product((-1, 1), repeat=len(differences))))
    return float((np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", default="nasbench201", help="of all but multi-headed, whose networks are alike")
    parser.add_argument("--recipe", default="digits", help="that trainings have by default, for those at an end")
    parser.add_argument("--long", default="digits-long", help="recipe of the networks with heads")
    parser.add_argument("--scale", default="channels=4,cells=1", help="of all networks but the larger one")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, help="epochs of shared weights")
    parser.add_argument("--population", type=int, default=20, help="of nes-re")
    parser.add_argument("--attack", default="pgd:eps=8/255,steps=5")
    parser.add_argument("--only", help="names of rows")
    parser.add_argument("--against", default="deep-ensemble")
    parser.add_argument("--out", default="runs/ensembles")
    parser.add_argument("further", nargs="*")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(SEARCHES)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for seed in range(given.seeds):
        for name in names:
            rows[name].append(measured(name, seed, given))
            print(name, seed, json.dumps(rows[name][-1]), file=sys.stderr, flush=True)
    table(rows, COLUMNS, given.against)
    if "saep pap" in names:
        ways: dict[str, list[dict[str, float]]] = {}
        for seed in range(given.seeds):
            for name, row in Trained(folder_of("saep pap", seed, given), seed, given.members).replayed():
                ways.setdefault(name, []).append(row)
        table(ways, tuple(next(iter(ways.values()))[0]), None)


def table(rows: Mapping[str, list[dict[str, float]]], names: Sequence[str], against: str | None) -> None:
    """Means and standard deviations; p of NLLs against those of a row."""
    tested = ("nll", "nll_calibrated") if against else ()
    print("| | " + " | ".join([*names, *(f"p of {name}" for name in tested)]) + " |")
    for name, own in rows.items():
        cells = []
        for column in names:
            values = np.array([row[column] for row in own if column in row])
            spread = f" ({values.std(ddof=1):.2g})" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4g}{spread}" if len(values) else "")
        for column in tested:
            pairs = zip(own, rows[against or name], strict=True)
            p = sign_flip(np.array([row[column] - other[column] for row, other in pairs]))
            cells.append("" if name == against else f"{p:.3g}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
