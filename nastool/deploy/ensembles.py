"""Several trained networks that are used as one: their file, and reading it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool import __version__
from nastool.core import archfile, files
from nastool.core.errors import InputError, short
from nastool.core.space import make_scale
from nastool.core.typed import is_number
from nastool.deploy.models import Model, trained_for
from nastool.nets import checkpoints

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, repr=False)
class Ensemble(Model):
    """The weighted mean of the probabilities of networks; its space, arch and scale are the first member's.

    Attributes:
        members: The networks alone.
        weights: One for each, > 0; they sum to 1.
        temperatures: What each one's logits are divided by first.
        temperature: What the logarithm of the mean is divided by last.
    """

    members: tuple[Model, ...] = ()
    weights: tuple[float, ...] = ()
    temperatures: tuple[float, ...] = ()
    temperature: float = 1.0

    def build(self) -> nn.Module:
        return _averaged([each.build() for each in self.members], self.weights, self.temperatures, self.temperature)

    @property
    def origin(self) -> dict[str, str]:
        return {
            "arch": " ".join(each.arch.key for each in self.members),
            "space": " ".join(dict.fromkeys(str(each.space.ref) for each in self.members)),
        }

    @property
    def title(self) -> str:
        return f"The mean of what {len(self.members)} networks of nastool's say."

    def _built_of(self) -> dict[str, str]:
        rows = zip(self.members, self.weights, strict=True)
        return {
            f"member {i}": f"{each.arch.key} of {each.space.ref}, weight {weight:.4g}"
            for i, (each, weight) in enumerate(rows)
        }

    def __repr__(self) -> str:
        return f"<model {self.path}: the mean of {len(self.members)} networks, for {self.task}>"


def _averaged(
    networks: Sequence[nn.Module], weights: Sequence[float], temperatures: Sequence[float], temperature: float
) -> nn.Module:
    from nastool.nets.averaging import Averaged

    return Averaged(networks, weights, temperatures, temperature).eval()


def of(
    members: Sequence[Model],
    weights: Sequence[float],
    temperatures: Sequence[float],
    temperature: float = 1.0,
    path: Path = Path(),
    said: Mapping[str, Any] | None = None,
) -> Ensemble:
    """The ensemble of at least one network. path: its file. said: best.json's object. InputError: no mean of these."""
    first = members[0]
    for other in members[1:]:
        same = (other.task, other.classes, other.mean, other.std) == (first.task, first.classes, first.mean, first.std)
        if not same:
            raise InputError(f"{short(other.path)} is for other data than {short(first.path)}: they have no mean")
    return Ensemble(
        _averaged([each.network for each in members], weights, temperatures, temperature),
        first.space,
        first.arch,
        first.scale,
        first.task,
        first.classes,
        first.mean,
        first.std,
        path,
        said or {},
        about=first.about,
        members=tuple(members),
        weights=tuple(weights),
        temperatures=tuple(temperatures),
        temperature=temperature,
    )


def write(model: Ensemble, path: Path) -> str:
    """Writes all weights, and what they belong to, whole or not at all; returns the digest of the tensors. OSError."""
    metadata = dict(files.check_tensors(model.members[0].path))
    shared = {key: value for key, value in metadata.items() if key not in ("arch", "scale", "trial", "digest")}
    rows = zip(model.members, model.weights, model.temperatures, strict=True)
    members = [
        {
            "arch": archfile.to_json(each.space, each.arch),
            "scale": asdict(each.scale),
            "weight": weight,
            "temperature": temperature,
        }
        for each, weight, temperature in rows
    ]
    weights = model.network.state_dict()
    digest = checkpoints.digest(weights)
    said = {"members": members, "temperature": model.temperature}
    files.write_tensors(
        path, weights, {**shared, "nastool": __version__, "ensemble": json.dumps(said), "digest": digest}
    )
    return digest


def read(path: Path, said: Mapping[str, Any] | None = None) -> Ensemble:
    """The ensemble in a file. On the CPU. said: best.json's object. InputError: missing, damaged, or none."""
    import torch

    weights, metadata = files.read_tensors(path)
    own = checkpoints.check_digest(path, weights, metadata)
    if said is None and path.name == "best.safetensors":
        said = archfile.ensemble_in(path.parent / "best.json")
    if said is not None and said.get("weights_digest", own) != own:
        raise InputError(f"{path} is of another ensemble than best.json beside it: give `nastool ensemble` again")
    try:
        found = archfile.loads(metadata["ensemble"])
        task, about = trained_for(metadata)
        classes, mean, std = (tuple(about.pop(key, ())) for key in ("classes", "mean", "std"))
        members, numbers = [], []
        for i, row in enumerate(found["members"]):
            document = archfile.from_json(row["arch"])
            scale = make_scale(document.space, dict(row["scale"]))
            bare = Model(torch.nn.Identity(), document.space, document.arch, scale, task, classes, mean, std, path, {})
            with torch.random.fork_rng(devices=[]):
                network = bare.build().eval()
            start = f"members.{i}."
            mine = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
            network.load_state_dict(mine)
            members.append(replace(bare, network=network, about=about))
            numbers.append((float(row["weight"]), float(row["temperature"])))
        temperature = float(found["temperature"])
        if not members or not all(is_number(x) and x > 0 for pair in numbers for x in (*pair, temperature)):
            raise ValueError("its members' weights are none")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{short(path)} holds no ensemble of nastool's ({short(error, 120)})") from error
    shares, temperatures = zip(*numbers, strict=True)
    return of(members, shares, temperatures, temperature, path, said)
