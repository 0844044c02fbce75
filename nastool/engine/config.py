"""From options to a run: what a search is, where it lives, and whether a folder holds that very search."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nastool import __version__
from nastool.core import folders, invocation, machine, plugin_files, registry
from nastool.core.errors import InputError, short
from nastool.core.evaluator import Resolving
from nastool.core.files import is_unfinished, write_atomic
from nastool.core.limits import Limits, limited
from nastool.core.registry import misfits
from nastool.core.space import SearchSpace, by_choices
from nastool.core.strategy import Strategy, learns_from_earlier, takes_several
from nastool.core.values import Objective, spelt
from nastool.core.yaml_files import dump_yaml
from nastool.engine import earlier, own_ensembles
from nastool.engine.executors.jobs import EvaluatorSpec
from nastool.engine.store import Store
from nastool.engine.written import RESULTS, Written
from nastool.learners import fidelities, multi_fidelity
from nastool.nets import checkpoints

FORMAT = "nastool.run/1"
RETRAINED = "retrained"
"""The folder below a run's with what `retrain` made of it."""
BASELINE = "baseline"
"""The folder below a run's with the random search that `search --with-baseline` runs beside it."""


@dataclass(frozen=True)
class Plugged:
    """A registered name and all its options, defaults included."""

    name: str
    options: Mapping[str, object]

    def to_json(self) -> dict[str, object]:
        return {"name": self.name, "options": dict(self.options)}


@dataclass(frozen=True)
class RunConfig:
    """What makes a search this search. Two calls with equal `identity` are the same run."""

    strategy: Plugged
    space: Plugged
    evaluator: Plugged
    seed: int
    objective: str | list[str] | None
    """As the user gave it, or them; None: the evaluator's own."""
    limits: tuple[str, ...] = ()
    """Conditions on what architectures cost, as of `core.limits`."""
    latency_threads: int = 1
    """CPU threads with which a latency is measured."""
    fidelity: str | None = None
    """Which trainings end early, as of `learners.fidelities`, with all options; None: none does."""
    warm_start: tuple[str, ...] = ()
    """Folders of the earlier runs that the strategy learns from, as of `engine.earlier`."""
    prior: str | None = None
    """The proxy that it begins with, as of `engine.prior`."""

    @classmethod
    def resolve(
        cls,
        strategy: tuple[str, Mapping[str, object]],
        space: tuple[str, Mapping[str, object]],
        evaluator: tuple[str, Mapping[str, object]],
        seed: int,
        objective: str | Sequence[str] | None,
        limits: Sequence[str] = (),
        latency_threads: int = 1,
        fidelity: str | None = None,
        warm_start: str | Path | Sequence[str | Path] = (),
        prior: str | None = None,
    ) -> RunConfig:
        """Check names, options and whether the three go together; nothing is built or read yet. InputError."""

        def plug(kind: registry.Kind, given: tuple[str, Mapping[str, object]]) -> Plugged:
            return Plugged(*registry.resolve(kind, *given))

        try:
            wanted = None if objective is None else spelt(Objective.parse_all(objective))
        except ValueError as error:
            raise InputError(str(error)) from None
        conditions = tuple(map(str, Limits.parse(limits).conditions))
        plugged = plug("strategy", strategy), plug("space", space), plug("evaluator", evaluator)
        rule = None if fidelity is None else fidelities.spelt(fidelity)
        config = cls(*plugged, seed, wanted, conditions, latency_threads, rule, earlier.named(warm_start), prior)
        if rule is not None and isinstance(wanted, list):
            raise InputError(f"--fidelity compares by one objective, and {len(wanted)} are given: keep one")
        searches = registry.load("strategy", config.strategy.name)
        if isinstance(wanted, list) and not takes_several(searches):
            raise InputError(
                f"strategy {config.strategy.name} looks at one objective alone, and {len(wanted)} are given "
                f"({', '.join(wanted)}): keep one, or take a strategy that weighs several: {_those(takes_several)}"
            )
        for flag, given, what in (("--warm-start", warm_start, "earlier runs"), ("--prior", prior, "a proxy")):
            if given and not learns_from_earlier(searches):
                raise InputError(
                    f"{flag}: strategy {config.strategy.name} learns nothing from {what}: leave it out, or take one "
                    f"that does: {_those(learns_from_earlier)}"
                )
        if prior is not None:
            earlier.check_proxy(prior, registry.load("space", config.space.name), wanted)
        reasons = misfits(
            searches,
            registry.load("space", config.space.name),
            registry.load("evaluator", config.evaluator.name),
        )
        if reasons:
            raise InputError("; ".join(reasons) + ": `nastool list` shows what goes together")
        return config

    def make_space(self) -> SearchSpace:
        """The space, as the search sees it."""
        space: SearchSpace = registry.make("space", self.space.name, given=self.space.options)
        if isinstance(self.objective, list):
            space = by_choices(space)
        return limited(space, Limits.parse(self.limits)) if self.limits else space

    def make_strategy(self, space: SearchSpace, facts: Mapping[str, object] | None = None) -> Strategy:
        """The strategy, untouched. facts: what the evaluator says of itself; where that is not known, it cannot begin.

        Raises:
            InputError: Its options, the space and the evaluator do not go together.
        """
        given = {**self.strategy.options, "seed": self.seed}
        strategy: Strategy = registry.make("strategy", self.strategy.name, space, given=given)
        evaluator = registry.load("evaluator", self.evaluator.name)
        if reasons := misfits(strategy, type(space), evaluator):  # with these options it may need more than its class
            raise InputError("; ".join(reasons))
        if self.fidelity is not None:
            strategy = multi_fidelity.around(strategy, self.fidelity, evaluator)
            multi_fidelity.begin(strategy, facts)
        return strategy

    def evaluator_spec(self, space: SearchSpace, workdir: Path | None) -> EvaluatorSpec:
        searches = self.strategy.name if registry.is_known("strategy", self.strategy.name) else None
        of = self.evaluator.name, self.evaluator.options
        return EvaluatorSpec(space.ref, *of, workdir, self.seed, searches, self.limits, self.latency_threads)

    @property
    def identity(self) -> dict[str, Any]:
        evaluator = self.evaluator.name, self.evaluator.options
        cls = registry.load("evaluator", self.evaluator.name)
        identity = {
            "strategy": self.strategy.to_json(),
            "space": self.space.to_json(),
            "evaluator": portable(*evaluator),
            "resolved": dict(cls.resolved(self.evaluator.options)) if issubclass(cls, Resolving) else {},
            "seed": self.seed,
            "objective": self.objective,
            **self._more,
        }
        plain: dict[str, Any] = json.loads(json.dumps(identity))
        return plain

    @property
    def _more(self) -> dict[str, object]:
        """What it says of costs, fidelities and earlier runs, where that is anything."""
        found = {
            "limits": list(self.limits),
            "latency_threads": self.latency_threads,
            "fidelity": self.fidelity,
            "warm_start": list(self.warm_start),
            "prior": self.prior,
        }
        return {name: value for name, value in found.items() if value not in ([], 1, None)}

    @property
    def digest(self) -> str:
        """8 hexadecimal digits that name the identity."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.blake2s(text.encode(), digest_size=4).hexdigest()

    @property
    def default_folder(self) -> Path:
        """The same command always means the same folder, so that it continues what it began."""
        strategy, space = (plugin_files.plain(each.name) for each in (self.strategy, self.space))
        return Path("runs") / f"{strategy}-{space}-{self.digest}"

    def as_options(self) -> dict[str, object]:
        """As a configuration file's `search` section."""
        found = {
            "strategy": self.strategy.name,
            "strategy-options": dict(self.strategy.options),
            "space": self.space.name,
            "space-options": dict(self.space.options),
            "evaluator": self.evaluator.name,
            "evaluator-options": dict(self.evaluator.options),
            "seed": self.seed,
            "objective": self.objective,
            **{name.replace("_", "-"): value for name, value in self._more.items()},
        }
        return {key: value for key, value in found.items() if value not in (None, {})}


def _those(can: Callable[[type[Strategy]], bool]) -> str:
    """The names of the strategies that can do something."""
    return ", ".join(name for name in registry.plugins("strategy") if can(registry.load("strategy", name)))


class RunFolder:
    """runs/a: run.db, run.yaml, checkpoints, and at the end best.json. One coordinator at a time."""

    DATABASE = ("run.db", "run.db-wal", "run.db-shm", "run.db-journal")
    BEFORE = frozenset({*DATABASE, "run.yaml", "run.lock", "logs"})
    """What a search may leave before its first trial is asked."""

    patience: float = 0.1
    """Seconds to wait for another coordinator's end."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def database(self) -> Path:
        return self.path / "run.db"

    def check(self, config: RunConfig, force: bool) -> bool:
        """Whether the folder holds this very search, to be continued. False: there is none yet.

        InputError: it holds another search (and force is not given), or something that is no run.
        """
        names = folders.names(self.path)
        if names is None:
            return False
        names = {name for name in names if not is_unfinished(name)}
        blank = Store.is_blank(self.database)
        if "run.db" not in names and (not names <= self.BEFORE or ("run.yaml" in names and not self._is_ours())):
            raise InputError(f"{self.path} is not empty and no nastool run; give another --out")
        lost = names - self.BEFORE
        if blank and lost and not force:
            raise InputError(
                f"{self.path} has lost its database: run.db is empty, and {', '.join(map(short, sorted(lost)[:4]))} "
                f"{'is' if len(lost) == 1 else 'are'} there; put run.db back, give another --out, or --force to begin "
                "anew"
            )
        if blank and not lost:
            return False
        if force:
            if not self._is_ours():
                raise InputError(
                    f"{self.path} is no nastool run, which is all that --force replaces; give another --out"
                )
            if foreign := Written(self.path).foreign(RESULTS):
                raise InputError(
                    f"{self.path}: {', '.join(foreign)} {'was' if len(foreign) == 1 else 'were'} not written by this "
                    "run, or changed since, and --force replaces nothing else: move what you want to keep, or give "
                    "another --out"
                )
            for run in self._below():
                if run.busy():
                    raise InputError(f"{run.path} is at work: wait for it, or stop it, before --force replaces it")
            return False
        with Store.read(self.database) as store:
            found, counts = store.get("config"), store.count()
        if not differences(found, config.identity):  # an option that a later version added is None at its default
            return True
        if sum(counts.values()) == counts["running"]:
            return False  # nothing was measured yet, so nothing is lost (nobody is at it once we hold the lock)
        raise InputError(
            f"{self.path} holds another search ({_differing(found, config.identity)}): give its options, "
            "another --out, or --force to replace it"
        )

    def _is_ours(self) -> bool:
        """Whether nastool wrote it, even if its database is damaged now."""
        try:
            return (self.path / "run.yaml").read_text(encoding="utf-8").startswith("format: nastool.run/")
        except (OSError, ValueError):
            return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Meanwhile this process is the folder's coordinator; creates the folder. InputError: another is at work."""
        taken = f"{self.path} is being searched by process {{holder}}: see `nastool status {self.path}`"
        with folders.locked(self.path, "run.lock", taken, self.patience):
            yield

    def busy(self) -> bool:
        """Whether a coordinator is at work on it."""
        try:
            with open(self.path / "run.lock", encoding="utf-8") as file:
                folders.lock(file, shared=True)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def discard(self) -> None:
        """Take back what `locked` and workers left of a run without a database; nothing if there is one."""
        if not self.database.exists():
            self.clear()
            for file in (*self._logs(), self.path / "run.lock"):
                file.unlink(missing_ok=True)
            for folder in (self.path / "checkpoints", self.path / "logs", self.path):
                with suppress(OSError):
                    folder.rmdir()  # not if somebody else's files are in it

    def clear(self) -> None:
        """Remove an earlier run's files; nothing that nastool did not write."""
        written = Written(self.path)
        for name in RESULTS:
            written.remove(name)
        unfinished = (name for name in folders.names(self.path) or () if is_unfinished(name))
        for name in (*self.DATABASE, "run.yaml", *unfinished):
            (self.path / name).unlink(missing_ok=True)
        for file in (*checkpoints.files_of(self.path), *self.path.glob("tensorboard/**/events.out.tfevents.*")):
            file.unlink()
        own_ensembles.discard(self.path)
        for run in self._below():
            with run.locked():
                run.clear()
                run.discard()

    def _below(self) -> list[RunFolder]:
        """The runs in the folder that belong to its own."""
        inside = (*self.path.glob("retrain-????????"), self.path / BASELINE, self.path / RETRAINED)
        return [run for run in map(RunFolder, inside) if run._is_ours()]

    def _logs(self) -> list[Path]:
        found = (self.path / "logs").glob("*worker-*.log")
        return [file for file in found if re.fullmatch(r"\.?worker-\d+", file.stem)]

    @contextmanager
    def new_logs(self) -> Iterator[None]:
        """Meanwhile workers begin theirs; those of an earlier run go, or come back where nothing can begin."""
        aside = [(log, log.with_name(f".{log.name.lstrip('.')}")) for log in self._logs()]
        for log, hidden in aside:
            log.replace(hidden)
        try:
            yield
        except BaseException:
            for log, hidden in aside:
                if hidden.exists():
                    hidden.replace(log)
            raise
        for _, hidden in aside:
            hidden.unlink(missing_ok=True)

    def describe(
        self, config: RunConfig, objective: str | list[str], facts: Mapping[str, object], more: Mapping[str, object]
    ) -> None:
        """Write run.yaml: the resolved configuration, and where and with what it ran. more: other options."""
        document = {
            "format": FORMAT,
            "search": {**config.as_options(), **more},
            "provenance": {
                "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": ["nastool", *invocation.words()],
                "objective": objective,
                "nastool": __version__,
                "revision": _revision(),
                "python": platform.python_version(),
                "platform": platform.platform(),
                "cores": os.cpu_count(),
                "packages": machine.versions(("torch", "torchvision", "numpy", "scikit-learn")),
                "evaluator": dict(facts),
                "resolved": config.identity["resolved"],
            },
        }
        write_atomic(self.path / "run.yaml", dump_yaml(document))


def portable(evaluator: str, options: Mapping[str, object]) -> dict[str, object]:
    """An evaluator with its resolved options, less those that say where things are on this machine."""
    local = registry.load("evaluator", evaluator).local_options
    return {"name": evaluator, "options": {key: value for key, value in options.items() if key not in local}}


def said(evaluator: str, options: Mapping[str, object]) -> dict[str, Any]:
    """What an architecture's line says of the evaluator that measured it: `portable`, as JSON, without what is None."""
    plain: dict[str, Any] = json.loads(json.dumps(portable(evaluator, options)))
    return {**plain, "options": {key: value for key, value in plain["options"].items() if value is not None}}


MOST_DIFFERENCES = 4


def _differing(found: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """What a person would have to change to come from one identity to the other, in a few words."""
    lines = []
    for key in ("strategy", "space", "evaluator", "seed", "objective", "fidelity", "warm_start", "prior"):
        was, now = found.get(key), wanted.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping) and was.get("name") != now.get("name"):
            was, now = was.get("name"), now.get("name")  # options of another plugin tell nothing
            if plugin_files.is_other_version(now, was):
                lines.append(f"{now.partition('@')[0]} has changed since, `nastool resume` goes on with it as it was")
                continue
        lines += differences(was, now, key)
    lines = lines or differences(found, wanted)  # the recipe's file says something else, say
    more = [f"and {len(lines) - MOST_DIFFERENCES} more"] if len(lines) > MOST_DIFFERENCES else []
    return "; ".join([*lines[:MOST_DIFFERENCES], *more])


def differences(found: object, wanted: object, where: str = "configuration") -> list[str]:
    """Where two configurations differ: "seed is 0, not 1"."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted(found.keys() | wanted.keys()):
            path = key if where == "configuration" else f"{where}.{key}".replace(".options.", " ").removesuffix(".name")
            lines += differences(found.get(key), wanted.get(key), path)
        return lines
    return [] if found == wanted else [f"{where} is {short(found)}, not {short(wanted)}"]


def _revision() -> str | None:
    """The git revision this nastool runs from; None outside its repository."""
    here = Path(__file__).resolve().parent.parent
    if not (here.parent / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None
