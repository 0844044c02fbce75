"""`nastool ensemble`: which of many trained networks to average, how good that is, and what it leaves behind.

The validation data are divided at random: one part chooses the members (and temperatures), the other judges. So no
figure is of examples that chose anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core import archfile, files, options, registry
from nastool.core.errors import InputError, hint, one_line, short, why
from nastool.core.task import Attackable
from nastool.core.values import loads
from nastool.engine.pools import Candidate, data_of, said_of
from nastool.ensembles import metrics, selection, stored
from nastool.nets import checkpoints

if TYPE_CHECKING:
    from nastool.core.task import Data
    from nastool.deploy.ensembles import Ensemble
    from nastool.deploy.models import Model

Floats = NDArray[np.float64]
MOST_MEMORY = 8_000_000_000
"""Bytes that the predictions of all networks may take."""
FEW = 100
"""Of fewer examples a part says little."""
OWN = ("best.json", "best.safetensors", "best.predictions.safetensors", "model.py", "report.html")
"""What the folder of an ensemble holds."""


# --- choosing and judging

Temperature = Literal["none", "before", "after"]


@dataclass(frozen=True)
class Chosen:
    """An ensemble, and how good it is: figures are of the part of the validation data that chose nothing.

    Attributes:
        members: In the order in which they were taken.
        weights, temperatures: One for each.
        temperature: Of the mean.
        selector: Who chose, as it is written.
        parts: How many examples chose, and how many judge.
        seed: Of their division.
        pool: How many networks there were to choose from.
        best: The one that is best alone, by the examples that chose.
        judged: Metrics of the ensemble, as of `metrics.measured`.
        single: Those of `best`, calibrated where the ensemble is.
        each: Accuracy and NLL of each member.
        sizes: The same of the first member, the first two, ...
        disagreements: How often two of them differ, (members, members).
        bins: Of ensemble and best single network: (count, confidence, accuracy) of each bin.
        tested: Metrics of the ensemble and of the best single network on test data, where they were wanted.
        said: What the ensemble says of all validation examples, (samples, classes).
        shifts: By which the examples that chose counted once more, shifted; None: by none.
    """

    members: list[Candidate]
    weights: list[float]
    temperatures: list[float]
    temperature: float
    selector: str
    parts: tuple[int, int]
    seed: int
    pool: int
    best: Candidate
    judged: dict[str, float]
    single: dict[str, float]
    each: list[dict[str, float]]
    sizes: list[dict[str, float]]
    disagreements: list[list[float]]
    bins: dict[str, list[list[float]]]
    tested: dict[str, dict[str, float]]
    said: Floats
    shifts: str | None = None


def divided(samples: int, share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of the examples that choose, and of those that judge: a share of them, drawn at random."""
    if not 0 < share < 1:
        raise InputError(f"--judge: need a share in (0, 1), got {share:g}")
    judging = round(samples * share)
    if not 0 < judging < samples:
        raise InputError(f"--judge {share:g}: {samples} validation examples cannot be divided so")
    order = np.random.default_rng(seed).permutation(samples)
    return np.sort(order[judging:]), np.sort(order[:judging])


def selector_of(text: str, seed: int) -> Callable[[metrics.Probabilities, metrics.Labels, int], selection.Selection]:
    """The selector that NAME:KEY=VALUE,... says. InputError: there is none, or it has no such option."""
    name, given = options.split(text, "--selector")
    if name not in selection.SELECTORS:
        raise InputError(f"--selector: no selector {short(name)!r}; {hint(name, selection.SELECTORS)}")
    chooses = selection.SELECTORS[name]
    more = options.check(f"selector {name}", chooses, given)
    if options.accepts(chooses, "seed"):
        more["seed"] = seed

    def choose(probabilities: metrics.Probabilities, labels: metrics.Labels, size: int) -> selection.Selection:
        return chooses(probabilities, labels, size, **more)

    return choose


def choose(
    pool: Sequence[Candidate],
    size: int,
    selector: str = "forward",
    *,
    temperature: Temperature = "none",
    judge: float = 0.5,
    seed: int = 0,
    test: bool = False,
    attack: str | None = None,
    shift: str | None = None,
    choose_shift: str | None = None,
) -> Chosen:
    """Chooses members of a pool and judges them.

    Args:
        pool: At least one network.
        size: Most members, >= 1.
        selector: NAME:KEY=VALUE,...
        temperature: Before the mean each network is calibrated, or after it the mean, on the part that chooses.
        judge: Share of the validation examples that judge.
        seed: Of the division, >= 0, and of a selector that draws.
        test: Measure test data, too.
        attack, shift: How these are attacked, with the gradients of the mean, and shifted, as of evaluator train.
        choose_shift: The examples that choose count twice, as they are and shifted (`Attackable.shifted`): members are
            chosen to do well on both, as Zaidi et al. (2021) choose them for shifted data. Networks are asked anew.

    Raises:
        InputError: Something is wrong with the arguments, the predictions take too much memory, or there are no test
            data.
    """
    if size < 1:
        raise InputError(f"size: need 1 or more members, got {size}")
    chooses = selector_of(selector, seed)
    changes = _changes(pool[0], attack, shift)
    _changes(pool[0], None, choose_shift)
    labels = pool[0].stored.labels
    choosing, judging = divided(len(labels), judge, seed)
    numbers = len(pool) * pool[0].stored.logs.size
    if 2 * numbers > MOST_MEMORY:
        raise InputError(f"the predictions of {len(pool):,} networks take {files.amount(2 * numbers)}: name fewer runs")
    said = np.empty((len(pool), *pool[0].stored.logs.shape), np.float16 if 4 * numbers > MOST_MEMORY else np.float32)
    own = np.ones(len(pool))
    for i, each in enumerate(pool):
        found = each.stored.probabilities
        if temperature == "before":
            own[i] = metrics.temperature_of(found[choosing], labels[choosing])
            found = metrics.at_temperature(found, own[i]).astype(np.float32)
        said[i] = found
    shown, truth = said[:, choosing], labels[choosing]
    if choose_shift is not None:
        shown = np.concatenate([shown, _shifted(pool, choosing, own, choose_shift)], 1)
        truth = np.tile(truth, 2)
    picked = chooses(shown, truth, size)
    cold = own[picked.members]
    taken = said[picked.members].astype(np.float64)
    hot = 1.0
    if temperature == "after":
        hot = metrics.temperature_of(metrics.mixture_of(taken[:, choosing], picked.weights), labels[choosing])
    best = int(np.argmin(metrics.member_nlls(shown, truth)))
    ours, right = taken[:, judging], labels[judging]
    whole = _mixed(taken, picked.weights, hot)
    mixed = whole[judging]
    alone = said[best].astype(np.float64)
    if temperature == "after":  # what is compared is calibrated alike
        own[best] = metrics.temperature_of(alone[choosing], labels[choosing])
        alone = metrics.at_temperature(alone, own[best])
    alone = alone[judging]
    members = [pool[i] for i in picked.members]
    prefixes = (picked.weights[:k] / picked.weights[:k].sum() for k in range(1, len(members) + 1))
    return Chosen(
        members=members,
        weights=picked.weights.tolist(),
        temperatures=cold.tolist(),
        temperature=hot,
        selector=selector,
        parts=(len(choosing), len(judging)),
        seed=seed,
        pool=len(pool),
        best=pool[best],
        judged=metrics.measured(ours, right, picked.weights, mixed),
        single=metrics.measured(alone[None], right),
        each=[_quality(each, right) for each in ours],
        sizes=[_quality(_mixed(ours[: len(part)], part, hot), right) for part in prefixes],
        disagreements=metrics.disagreements(ours).tolist(),
        bins={"ensemble": _bins(mixed, right), "best single network": _bins(alone, right)},
        tested=_tested(members, picked.weights, cold, hot, pool[best], float(own[best]), changes)
        if test or changes != (None, None)
        else {},
        said=whole,
        shifts=choose_shift,
    )


def _shifted(pool: Sequence[Candidate], choosing: NDArray[np.intp], temperatures: Floats, shift: str) -> Floats:
    """What all networks say of the examples that choose, shifted, (networks, examples, classes)."""
    data = _data_of(pool[0], "--choose-shift")
    found = []
    for each, temperature in zip(pool, temperatures, strict=True):
        said = said_of(each.stored.checkpoint, data, "val", shift)[0][choosing]
        found.append(metrics.at_temperature(said, temperature).astype(np.float32))
    return np.stack(found)


def _data_of(network: Candidate, option: str) -> Data:
    """The data that a network was trained on. InputError: they are others now. option: What needs them."""
    about = network.stored.about
    data = data_of(about.get("data", ""), stored.options(about))
    if data.fingerprint != about["fingerprint"]:
        raise InputError(f"{option}: data {short(data.name)} are not those that the networks were trained on")
    return data


def _mixed(probabilities: Floats, weights: Floats, temperature: float) -> Floats:
    mixture = metrics.mixture_of(probabilities, weights)
    return mixture if temperature == 1 else metrics.at_temperature(mixture, temperature)


def _quality(mixture: Floats, labels: metrics.Labels) -> dict[str, float]:
    return {"accuracy": metrics.accuracy(mixture, labels), "nll": metrics.nll(mixture, labels)}


def _bins(mixture: Floats, labels: metrics.Labels) -> list[list[float]]:
    found = metrics.binned(mixture, labels, 10)
    columns = (each.tolist() for each in (found.counts, found.confidences, found.accuracies))
    return [list(row) for row in zip(*columns, strict=True)]


def _changes(network: Candidate, attack: str | None, shift: str | None) -> tuple[str | None, str | None]:
    """How test examples are changed. InputError: there is no such attack or shift, or none of these data."""
    if (attack or shift) is not None:
        family = registry.task_for(network.stored.about.get("data", ""))
        if not issubclass(family, Attackable):
            options = "--attack, --shift, --choose-shift"
            raise InputError(f"{options}: only images are attacked and shifted, and these are {family.kind()}")
        family.check_robustness(attack, shift)
    return attack, shift


def _tested(
    members: Sequence[Candidate],
    weights: Floats,
    temperatures: Floats,
    hot: float,
    best: Candidate,
    own: float,
    changes: tuple[str | None, str | None],
) -> dict[str, dict[str, float]]:
    """Metrics on the test data, which the networks are asked about now."""
    data = _data_of(members[0], "--test")
    found = [said_of(each.stored.checkpoint, data, "test") for each in (*members, best)]
    labels = found[0][1]
    said = [metrics.at_temperature(each, t) for (each, _), t in zip(found, (*temperatures, own), strict=True)]
    ours = np.stack(said[:-1])
    tested = {
        "ensemble": metrics.measured(ours, labels, weights, _mixed(ours, weights, hot)),
        "best single network": metrics.measured(said[-1][None], labels),
    }
    if changes != (None, None):
        import torch

        from nastool.deploy import ensembles

        batches = data.batches("test", torch.device("cpu"))
        assert isinstance(data.task, Attackable) and batches is not None
        several = ensembles.of([_model(each) for each in members], weights.tolist(), temperatures.tolist(), hot)
        alone = ensembles.of([_model(best)], [1.0], [own])
        for name, model in zip(tested, (several, alone), strict=True):
            tested[name] |= data.task.robustness(model.network, batches, *changes)
    return tested


# --- what is left


def document(chosen: Chosen, model: Ensemble) -> dict[str, Any]:
    """What best.json says of an ensemble, but for its weights."""
    from nastool.nets.networks import count_params

    about = chosen.members[0].stored.about
    rows = zip(chosen.members, model.members, chosen.weights, chosen.temperatures, chosen.each, strict=True)
    members = [
        {
            **archfile.to_json(network.space, network.arch),
            "weight": weight,
            **({"temperature": temperature} if temperature != 1 else {}),
            "run": str(each.run),
            "trial": each.trial,
            **({"seed": int(seed)} if (seed := each.stored.about.get("seed", "")).isdecimal() else {}),
            "metrics": quality,
            **checkpoints.named(each.stored.checkpoint),
        }
        for each, network, weight, temperature, quality in rows
    ]
    values = {"val_acc": chosen.judged["accuracy"], "val_loss": chosen.judged["nll"]}
    if chosen.tested:
        tested = chosen.tested["ensemble"]
        values |= {"test_acc": tested["accuracy"], "test_loss": tested["nll"]}
    return {
        "format": archfile.ENSEMBLE,
        "members": members,
        "metrics": {**values, "params": sum(count_params(each.network) for each in model.members)},
        "temperature": chosen.temperature,
        "selector": chosen.selector,
        **({"choose_shift": chosen.shifts} if chosen.shifts else {}),
        "pool": chosen.pool,
        "examples": {"chose": chosen.parts[0], "judged": chosen.parts[1], "seed": chosen.seed},
        "fingerprint": about["fingerprint"],
        "judged": chosen.judged,
        "best_single": {"run": str(chosen.best.run), "trial": chosen.best.trial, "metrics": chosen.single},
        "sizes": chosen.sizes,
        "disagreements": chosen.disagreements,
        "bins": chosen.bins,
        **({"tested": chosen.tested} if chosen.tested else {}),
        "evaluator": {"options": {"data": about.get("data", ""), **stored.options(about)}},
    }


def check_folder(folder: Path, force: bool) -> None:
    """InputError: what is there is no ensemble, or one and `force` is not given."""
    try:
        names = {each.name for each in folder.iterdir() if not files.is_unfinished(each.name)}
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {short(folder)}: {why(error)}; give another --out") from None
    if names - {*OWN, "examples"}:
        raise InputError(f"{short(folder)} holds something else than an ensemble: give another --out")
    if "best.json" in names and not force:
        raise InputError(f"{short(folder)} holds an ensemble already: give --force to replace it, or another --out")


def write(
    chosen: Chosen, folder: Path, page: Callable[[Mapping[str, Any]], str] | None
) -> tuple[dict[str, Any], list[str]]:
    """Writes an ensemble into a folder: weights, predictions, code, report, and last best.json, with which it counts.

    Args:
        chosen: The ensemble.
        folder: As of `check_folder`.
        page: Makes the report of best.json's object; None: there is none.

    Returns:
        best.json's object, and what could not be written, a line each.

    Raises:
        InputError: The weights of a member are gone or others, or the disk is full.
    """
    from nastool.deploy import ensembles, exports

    model = ensembles.of(
        [_model(each) for each in chosen.members], chosen.weights, chosen.temperatures, chosen.temperature
    )
    problems = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (each.name for each in folder.iterdir() if files.is_unfinished(each.name)):
            (folder / name).unlink(missing_ok=True)
        (folder / "best.json").unlink(missing_ok=True)
        digest = ensembles.write(model, folder / "best.safetensors")
        first = chosen.members[0].stored
        about = {key: first.about[key] for key in ("fingerprint", "data", "options") if key in first.about}
        stored.write(folder / "best.safetensors", chosen.said, first.labels, about)
    except OSError as error:
        raise InputError(f"cannot write {short(folder)}: {why(error)}; give another --out") from None
    weights = {"weights": str(folder / "best.safetensors"), "weights_digest": digest}
    found = loads(archfile.dumps({**document(chosen, model), **weights}))
    makes: dict[str, Callable[[], str]] = {
        "model.py": lambda: exports.python(ensembles.read(folder / "best.safetensors", found))
    }
    if page is None:
        (folder / "report.html").unlink(missing_ok=True)
    else:
        makes["report.html"] = lambda: page(found)
    for name, make in makes.items():
        try:
            files.write_atomic(folder / name, make())
        except Exception as error:
            problems.append(f"{name} could not be written: {one_line(error)}")
            (folder / name).unlink(missing_ok=True)
    files.write_atomic(folder / "best.json", archfile.dumps(found) + "\n")
    return found, problems


def losses(folder: Path, said: Mapping[str, Any]) -> Floats:
    """The NLL of each example that judged an ensemble, (n,). InputError: its predictions are gone.

    Args:
        folder: Of the ensemble.
        said: best.json's object.
    """
    kept, parts = stored.read(folder / "best.safetensors"), said["examples"]
    _, judging = divided(len(kept.labels), parts["judged"] / len(kept.labels), parts["seed"])
    of_label = metrics.of_labels(kept.probabilities[None], kept.labels)[0, judging]
    return np.asarray(-np.log(np.maximum(of_label, metrics.FLOOR)), np.float64)


def _model(member: Candidate) -> Model:
    """A member's network. InputError: its weights are gone, or others."""
    from nastool.deploy import models

    path = member.stored.checkpoint
    if not path.is_file():
        raise InputError(f"the weights of {member.name} are gone since ({short(path)}): give the command again")
    found = models.load(str(path))
    if files.check_tensors(path).get("digest", "") != member.stored.about.get("weights"):
        raise InputError(f"the weights of {member.name} have changed since: give the command again")
    return found
