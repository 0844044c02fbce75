"""`nastool ensemble`: which of many trained networks to average, how good that is, and what it leaves behind.

The validation data are divided at random: one part chooses the members (and temperatures), the other judges. So no
figure is of examples that chose anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core import archfile, files, options, registry
from nastool.core.errors import InputError, hint, one_line, short, why
from nastool.core.values import loads
from nastool.engine.command_options import nobody
from nastool.engine.events import Listener, Note
from nastool.engine.store import Store
from nastool.ensembles import metrics, selection, stored
from nastool.ensembles.stored import Stored
from nastool.nets import checkpoints

if TYPE_CHECKING:
    from nastool.core.task import Data
    from nastool.deploy.ensembles import Ensemble
    from nastool.deploy.models import Model

Floats = NDArray[np.float64]
_CHECKPOINT = re.compile(r"trial-(\d{6,})\.safetensors")
MOST_MEMORY = 8_000_000_000
"""Bytes that the predictions of all networks may take."""
FEW = 100
"""Of fewer examples a part says little."""
OWN = ("best.json", "best.safetensors", "model.py", "report.html")
"""What the folder of an ensemble holds."""


@dataclass(frozen=True)
class Candidate:
    """A trained network that may become a member."""

    stored: Stored
    run: Path
    """Folder that its weights are below."""
    trial: int

    @property
    def name(self) -> str:
        """For people."""
        return f"trial {self.trial} of {short(self.run, 80)}"


# --- the pool


def candidates(runs: Sequence[str | Path], on_event: Listener = nobody) -> list[Candidate]:
    """The networks of runs that have weights, with their predictions, which are made where they are missing.

    Args:
        runs: Folders of runs or of `nastool eval --save`, and what lies directly below them, or single checkpoints.
        on_event: Told of what is left out or made.

    Raises:
        InputError: There are none, they predict other data, or predictions are missing and cannot be made.
    """
    found: dict[str, Candidate] = {}
    for run in runs:
        own = list(_of(Path(run), on_event))
        if not own:
            raise InputError(
                f"{short(run)} has no trained networks with weights: give a run folder whose evaluator trains, or one "
                "that `nastool eval --save` has written"
            )
        for each in own:  # the same network may have been copied
            found.setdefault(each.stored.about.get("weights") or str(each.stored.checkpoint), each)
    pool = list(found.values())
    stored.check_same([each.stored for each in pool])
    return pool


def _of(path: Path, on_event: Listener) -> Iterator[Candidate]:
    if path.name == "run.db":
        path = path.parent
    try:
        below = sorted(each for each in path.iterdir() if (each / "checkpoints").is_dir()) if path.is_dir() else []
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {short(path)}: {why(error)}; give a run folder") from None
    if not path.is_dir():
        yield from _stored([path], path.parent.parent, on_event)
        return
    for folder in (path, *below):
        there = folder / "checkpoints"
        names = sorted(each.name for each in there.iterdir()) if there.is_dir() else []
        yield from _stored([there / name for name in names if _CHECKPOINT.fullmatch(name)], folder, on_event)
        lost = [name for name in names if ".predictions." in name and name.replace(".predictions", "") not in names]
        if lost:
            trials = ", ".join(str(int(name[6:].partition(".")[0])) for name in lost[:10])
            on_event(Note(f"note: the weights of trials {trials} of {short(folder)} are gone: they are left out"))


def _stored(paths: Sequence[Path], folder: Path, on_event: Listener) -> Iterator[Candidate]:
    """The networks of some checkpoints of a folder."""
    missing: list[Path] = []
    found: dict[Path, Stored] = {}
    for path in paths:
        try:
            found[path] = stored.read(path)
        except InputError:
            missing.append(path)
    if missing:
        found |= _predicted(missing, folder, on_event)
    for path in paths:
        if path in found:
            match = _CHECKPOINT.fullmatch(path.name)
            yield Candidate(found[path], folder, int(match[1]) if match else 0)


def _predicted(paths: Sequence[Path], folder: Path, on_event: Listener) -> dict[Path, Stored]:
    """What networks say whose predictions were not kept: they are asked again, and it is kept.

    InputError: it is not known what they were trained with, or that is not there any more.
    """
    what = f"{len(paths)} network{'s' * (len(paths) > 1)} of {short(folder)}"
    if not (folder / "run.db").is_file():
        raise InputError(
            f"{what} have no predictions, and it is not known what they were trained with: train them again with "
            "`nastool eval --save`"
        )
    with Store.read(folder / "run.db") as store:
        given = store.get("config")["evaluator"]["options"]
        digest = store.origin.get("data_digest")
    if given.get("all_data"):
        on_event(Note(f"note: {what} are left out: they were trained on the validation data, too"))
        return {}
    data = _data(given.get("data", ""), given)
    if not getattr(data.task, "classes", 0):
        raise InputError(f"{what} do not say which class an example is of: their mean is of another kind")
    on_event(Note(f"asking {what} for the predictions that were not kept"))
    if digest is not None and data.describe().get("data_digest", digest) != digest:
        raise InputError(f"{what} have no predictions, and data {short(data.name)} are not those they were trained on")
    about = {"fingerprint": data.fingerprint, "data": data.name, "options": archfile.dumps(_of_data(data, given))}
    found = {}
    for path in paths:
        said, labels = _said(path, data, "val")
        stored.write(path, said, labels, about)
        found[path] = stored.read(path)
    return found


def _of_data(data: Data, given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key in data.task.data_options and value is not None}


def _data(name: str, given: Mapping[str, Any]) -> Data:
    """The data that some options name. InputError: they cannot be read."""
    family = registry.task_for(name)
    return family.load(name, **{k: v for k, v in given.items() if k in family.data_options and v is not None})


def _said(path: Path, data: Data, part: Literal["val", "test"]) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """What the network of a checkpoint says of a part of the data, and the labels. InputError: it is for others."""
    import torch

    from nastool.deploy import models

    model = models.load(str(path))
    if model.task != data.task:
        raise InputError(f"{short(path)} is for {short(model.task)}, and data {short(data.name)} are for {data.task}")
    batches = data.batches(part, torch.device("cpu"))
    if batches is None or not len(batches):
        raise InputError(f"data {short(data.name)} have no {part} examples")
    with torch.inference_mode():
        said = data.task.predict(model.network, batches.in_order())
        labels = torch.cat([batch[-1] for batch in batches.in_order()])
    return said.numpy(), labels.numpy()


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

    Raises:
        InputError: Something is wrong with the arguments, the predictions take too much memory, or there are no test
            data.
    """
    if size < 1:
        raise InputError(f"size: need 1 or more members, got {size}")
    chooses = selector_of(selector, seed)
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
    picked = chooses(said[:, choosing], labels[choosing], size)
    cold = own[picked.members]
    taken = said[picked.members].astype(np.float64)
    hot = 1.0
    if temperature == "after":
        hot = metrics.temperature_of(metrics.mixture_of(taken[:, choosing], picked.weights), labels[choosing])
    best = int(np.argmin(metrics.member_nlls(said[:, choosing], labels[choosing])))
    ours, right = taken[:, judging], labels[judging]
    mixed = _mixed(ours, picked.weights, hot)
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
        tested=_tested(members, picked.weights, cold, hot, pool[best], own[best]) if test else {},
    )


def _mixed(probabilities: Floats, weights: Floats, temperature: float) -> Floats:
    mixture = metrics.mixture_of(probabilities, weights)
    return mixture if temperature == 1 else metrics.at_temperature(mixture, temperature)


def _quality(mixture: Floats, labels: metrics.Labels) -> dict[str, float]:
    return {"accuracy": metrics.accuracy(mixture, labels), "nll": metrics.nll(mixture, labels)}


def _bins(mixture: Floats, labels: metrics.Labels) -> list[list[float]]:
    found = metrics.binned(mixture, labels, 10)
    columns = (each.tolist() for each in (found.counts, found.confidences, found.accuracies))
    return [list(row) for row in zip(*columns, strict=True)]


def _tested(
    members: Sequence[Candidate], weights: Floats, temperatures: Floats, hot: float, best: Candidate, own: float
) -> dict[str, dict[str, float]]:
    """Metrics on the test data, which the networks are asked about now."""
    about = members[0].stored.about
    data = _data(about.get("data", ""), stored.options(about))
    if data.fingerprint != about["fingerprint"]:
        raise InputError(f"--test: data {short(data.name)} are not those that the networks were trained on")
    found = [_said(each.stored.checkpoint, data, "test") for each in (*members, best)]
    labels = found[0][1]
    said = [metrics.at_temperature(each, t) for (each, _), t in zip(found, (*temperatures, own), strict=True)]
    ours = np.stack(said[:-1])
    return {
        "ensemble": metrics.measured(ours, labels, weights, _mixed(ours, weights, hot)),
        "best single network": metrics.measured(said[-1][None], labels),
    }


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
    """Writes an ensemble into a folder: weights, code, report, and last best.json, with which it counts.

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
