"""From an architecture to a PyTorch module, for a single child and for the supernet alike.

A space defines its networks once, in `SearchSpace.network`. `build` runs that definition bound to an
architecture; `Supernet` runs it unbound, so that every choice becomes a `OneOf` that holds all options and
executes the active one. Both therefore compute the same function from the same weights, which
`Supernet.child_state` carries from one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from nastool.core.errors import InputError
from nastool.core.values import Arch
from nastool.nets.chosen import Added, Chosen, Members, Rule, Take, switches
from nastool.nets.cutting import Cutting, cut

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.core.task import Task

Choice = Mapping[str, str | Mapping[str, Tensor]]
"""Decision name -> option name, or the names of the options that run -> their weights, scalars."""

Selection = Arch | Choice
"""What a supernet runs: one architecture, or, softly, sums of weighted options. Soft choices are independent."""

MOST_CASES = 4096
"""So many combinations of soft choices a rule may depend on."""


class Selected(dict[str, "str | Mapping[str, Tensor]"]):
    """What a supernet runs, by decision, and what follows from it, which modules ask for in every step.

    Attributes:
        active: Of each `Subset` that was asked those members that take part.
        soft: Whether any choice is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.active: dict[nn.Module, dict[str, nn.Module]] = {}
        self.soft = False

    def change(self, to: Choice) -> None:
        self.update(to)
        self.active = {}
        self.soft = _is_soft(self)


def _is_soft(chosen: Choice) -> bool:
    return not all(isinstance(option, str) for option in chosen.values())


class OneOf(nn.Module):
    """All options of one decision at one place of a supernet; executes the active one, or sums weighted ones."""

    def __init__(
        self, decision: str, options: Mapping[str, nn.Module], chosen: Choice, names: Mapping[str, str] | None = None
    ) -> None:
        """chosen: shared by all OneOf of a supernet and changed in place. names: of an option's module, if others."""
        super().__init__()
        self.decision = decision
        self.options = nn.ModuleDict(options)
        self.chosen = chosen
        self.names = names or {}

    def of(self, option: str) -> nn.Module:
        """The module of an option."""
        options = self._modules["options"]
        assert options is not None
        return options._modules[self.names.get(option, option)]  # type: ignore[return-value]  # there is one

    @property
    def soft(self) -> bool:
        """Whether several options are mixed now."""
        return not isinstance(self.chosen[self.decision], str)

    @property
    def active(self) -> nn.Module:
        """The only one that runs."""
        option = self.chosen[self.decision]
        assert isinstance(option, str), "several options are mixed"
        return self.of(option)

    def forward(self, *inputs: Tensor) -> Tensor:
        option = self.chosen[self.decision]
        if isinstance(option, str):
            output: Tensor = self.of(option)(*inputs)
            return output
        terms: list[Tensor] = [weight * self.of(name)(*inputs) for name, weight in option.items()]
        mixed = terms[0]
        for term in terms[1:]:
            mixed = mixed + term
        return mixed


class Subset(Members):
    """Modules of which those take part that a rule names."""

    def __init__(self, rule: Rule, members: Mapping[str, nn.Module], chosen: Selected) -> None:
        """rule: chosen -> names. chosen: as for `OneOf`."""
        super().__init__(members)
        self.rule = rule
        self.chosen = chosen

    def names(self, chosen: Choice) -> list[str]:
        """Those that take part, in the order of the members; with soft choices, those that may."""
        wanted = _shares(self.rule, chosen) if _is_soft(chosen) else self.rule(chosen)  # type: ignore[arg-type]  # all are names
        return [name for name in self.members if name in wanted]

    def weighed(self, tensors: list[Tensor]) -> list[Tensor]:
        """With soft choices, each times the weight of the cases in which its member takes part."""
        if not self.chosen.soft:
            return tensors
        shares = _shares(self.rule, self.chosen)
        return [shares[name] * tensor for name, tensor in zip(self.active, tensors, strict=True)]

    def mean(self, tensors: list[Tensor]) -> Tensor:
        if not self.chosen.soft:
            return super().mean(tensors)
        ones = [torch.ones_like(tensors[0][:1])] * len(tensors)
        return torch.stack(self.weighed(tensors)).sum(0) / torch.stack(self.weighed(ones)).sum(0)

    @property
    def active(self) -> dict[str, nn.Module]:
        known = self.chosen.active
        if self not in known:
            known[self] = {name: self.members[name] for name in self.names(self.chosen)}
        return known[self]


def active(module: nn.Module) -> nn.Module:
    """The module itself; of options in a supernet, the one that runs, if it runs alone."""
    while isinstance(module, OneOf) and not module.soft:
        module = module.active
    return module


class _Undecided(Exception):
    """A rule asks for a soft choice. args: its decision."""


class _Case(dict[str, str]):
    def __missing__(self, decision: str) -> str:
        raise _Undecided(decision)


def _shares(rule: Rule, chosen: Choice) -> dict[str, Tensor | float]:
    """Name -> the sum of the weights of the cases in which a rule names it. It sees each case of what it asks for.

    But for those whose weight has two factors of exactly 0, as where one-hot draws have straight-through gradients:
    they add nothing to a sum, nor to its gradient.
    """
    found: dict[str, Tensor | float] = {}
    hard = {decision: option for decision, option in chosen.items() if isinstance(option, str)}
    left: list[tuple[dict[str, str], Tensor | float, int]] = [({}, 1.0, 0)]
    cases = 0
    while left:
        fixed, share, zeros = left.pop()
        try:
            names = rule(_Case({**hard, **fixed}))
        except _Undecided as asked:
            options: Any = chosen[asked.args[0]]
            for name, weight in reversed(options.items()):
                more = zeros + (float(weight.detach()) == 0)
                if more < 2:
                    left.append(({**fixed, asked.args[0]: name}, share * weight, more))
            continue
        if (cases := cases + 1) > MOST_CASES:
            raise InputError("this space's connections depend on too many soft choices at once: choose inputs hard")
        for name in names:
            found[name] = found[name] + share if name in found else share
    return found


def detached(selection: Selection) -> Selection:
    """The same whose weights have no gradients."""
    if isinstance(selection, Arch):
        return selection
    return {
        decision: option if isinstance(option, str) else {name: weight.detach() for name, weight in option.items()}
        for decision, option in selection.items()
    }


class Repeat(nn.Sequential):
    """Modules one after another in a supernet, of which the first ones run; the others are `OneOf` with an identity."""

    def __init__(self, decision: str, modules: Sequence[nn.Module], chosen: Choice) -> None:
        super().__init__(*modules)
        self.decision = decision
        self.chosen = chosen

    def __len__(self) -> int:
        option = self.chosen.get(self.decision)
        return int(option) if isinstance(option, str) else len(self._modules)

    def __iter__(self) -> Iterator[nn.Module]:
        return islice(super().__iter__(), len(self))


class All:
    """Choose: build every option."""

    def __init__(self, chosen: Selected, values: Mapping[str, str] | None = None) -> None:
        """values: options of decisions for values, of others than the largest."""
        self.chosen = chosen
        self.values = values or {}
        self.asked: dict[str, tuple[str, ...]] = {}
        """Decisions for values, with their options, the largest first."""
        self.repeats = False

    def layer(self, decision: str, options: Mapping[str, Callable[[], nn.Module]], *, tied: bool = False) -> nn.Module:
        return OneOf(decision, {name: make() for name, make in options.items()}, self.chosen)

    def inputs(self, decision: str, sources: Sequence[str], *, several: bool = False, tied: bool = False) -> nn.Module:
        if not several:
            options = {source: Take(number) for number, source in enumerate(sources)}
            return OneOf(decision, options, self.chosen)
        rule = partial(switches, name=decision, sources=sources)
        return Added(self.subset(rule, dict.fromkeys(sources, nn.Identity)), sources)

    def value(self, decision: str, values: Sequence[Any], *, tied: bool = False) -> Any:
        numbers = all(isinstance(value, int | float) for value in values)
        first = max(values) if numbers else values[-1]
        self.asked[decision] = tuple(dict.fromkeys(map(str, (first, *values))))
        return next((value for value in values if str(value) == self.values.get(decision)), first)

    def repeat(
        self, decision: str, low: int, high: int, make: Callable[[int], nn.Module], *, tied: bool = False
    ) -> nn.Sequential:
        self.repeats = True
        modules = []
        for i in range(high):
            module = make(i)
            if i >= low:
                names = {str(n): "on" if n > i else "off" for n in range(low, high + 1)}
                module = OneOf(decision, {"off": nn.Identity(), "on": module}, self.chosen, names)
            modules.append(module)
        return Repeat(decision, modules, self.chosen)

    def subset(self, rule: Rule, options: Mapping[str, Callable[[], nn.Module]]) -> Subset:
        return Subset(rule, {name: make() for name, make in options.items()}, self.chosen)

    def option(self, decision: str) -> str:
        raise InputError(f"this space has no weight-sharing supernet: {decision!r} changes the shape of its networks")


class Supernet(nn.Module):
    """Every architecture of a space in one module; the weights of shared parts are shared."""

    def __init__(self, space: SearchSpace, task: Task, scale: Any) -> None:
        super().__init__()
        self.space = space
        self.chosen = Selected()
        self._build: Callable[[Arch], nn.Module] = lambda arch: build(space, arch, task, scale)
        choose = All(self.chosen)
        self.network = space.network(choose, task, scale)
        self._named_otherwise = choose.repeats or bool(choose.asked)
        self.cutting: Cutting | None = None
        """Where weights depend on values, what fits them to a child."""
        if choose.asked:
            make = lambda values: space.network(All(Selected(), values), task, scale)  # noqa: E731
            self.cutting = Cutting(self.network, make, choose.asked)

    def select(self, selection: Selection) -> None:
        """Make it what `forward` executes."""
        self.chosen.change(chosen_options(self.space, selection) if isinstance(selection, Arch) else selection)
        if self.cutting is not None:
            self.cutting.fit(self.chosen)

    def forward(self, *inputs: Any) -> Any:
        """What the selected network makes of the task's inputs. Call `select` before."""
        return self.network(*inputs)

    def child_state(self, arch: Arch) -> dict[str, Tensor]:
        """The weights of arch under the names that `build(space, arch, ...)` gives them; the tensors are shared."""
        chosen = chosen_options(self.space, arch)
        places = _places_in_child(self.network, chosen)
        split = ((key.rpartition("."), value) for key, value in self.network.state_dict().items())
        found = {places[owner] + name: value for (owner, _, name), value in split if owner in places}
        if self._named_otherwise:
            with torch.device("meta"):
                child: dict[str, Tensor] = self._build(arch).state_dict()
            if len(child) != len(found):
                raise InputError(f"space {self.space.name}: its supernet has other parameters than its networks")
            pairs = zip(child.items(), found.values(), strict=True)  # both as the definition makes them
            found = {key: value[cut(value.shape, own.shape)] for (key, own), value in pairs}
        return found


def _places_in_child(network: nn.Module, chosen: Mapping[str, str]) -> dict[str, str]:
    """Of each module of a supernet that takes part, by its name: what its tensors' names begin with in the child."""
    found: dict[str, str] = {}
    left: list[tuple[str, str, nn.Module]] = [("", "", network)]
    while left:
        own, place, module = left.pop()
        found[own.removesuffix(".")] = place
        if isinstance(module, OneOf):  # a child has neither "options" nor the option's name
            active = module.of(chosen[module.decision])
            left += [(f"{own}options.{name}.", place, each) for name, each in module.options.items() if each is active]
        elif isinstance(module, Subset):
            names = [f"members.{name}." for name in module.names(chosen)]
            left += [(own + name, place + name, module.get_submodule(name[:-1])) for name in names]
        else:
            parts = [(f"{name}.", part) for name, part in module._modules.items() if part is not None]
            left += [(own + name, place + name, part) for name, part in parts]
    return found


def active_modules(network: nn.Module, closed: Container[int] = ()) -> Iterator[nn.Module]:
    """The modules that take part: of a supernet, those of the selected child alone, which are few among many.

    Args:
        network: A network, or a supernet.
        closed: Ids of modules that are not looked into.
    """
    left = [network]
    while left:
        module = left.pop()
        yield module
        parts = module._modules
        if not parts or id(module) in closed:
            continue
        if isinstance(module, OneOf):
            left.append(module.active)
        elif isinstance(module, Subset):
            left += module.active.values()
        else:
            left += [part for part in parts.values() if part is not None]


def active_parameters(network: nn.Module) -> set[nn.Parameter]:
    """The parameters of `active_modules`."""
    found = (module._parameters.values() for module in active_modules(network))
    return {parameter for parameters in found for parameter in parameters if parameter is not None}


class _Options(dict[str, str]):
    def __missing__(self, decision: str) -> str:
        raise InputError(
            f"{decision!r} is no decision of the space: its definition asks for the same ones whatever the task, the "
            "scale and its values are; `repeat` makes a number of layers"
        )


def chosen_options(space: SearchSpace, arch: Arch) -> dict[str, str]:
    """Decision name -> option name."""
    pairs = zip(space.decisions, arch.choices, strict=True)
    return _Options((decision.name, decision.options[choice]) for decision, choice in pairs)


def build(space: SearchSpace, arch: Arch, task: Task, scale: Any) -> nn.Module:
    """The network of one architecture, freshly initialised from torch's global generator."""
    return space.network(Chosen(chosen_options(space, arch)), task, scale)


def count_params(network: nn.Module) -> int:
    """Number of trainable parameters, without modules that are `training_only`, such as an auxiliary head."""
    left_out = {id(parameter) for parameter in training_only(network)}
    return sum(p.numel() for p in network.parameters() if p.requires_grad and id(p) not in left_out)


def training_only(network: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of modules that are there only in training, such as an auxiliary head."""
    for module in network.modules():
        if getattr(module, "training_only", False):
            yield from module.parameters()


def undecayed(network: nn.Module, *, norms: bool) -> Iterator[nn.Parameter]:
    """The parameters that weight decay leaves alone: numbers and vectors that are no weights of a layer.

    A layer calls what it has `weight` or `bias`; anything else, such as the share of a weighted sum, has a meaning
    of its own at 0, to which decay would pull it. norms: also the scales and shifts of normalisations, and biases.
    """
    for name, parameter in network.named_parameters():
        of_layer = name.rpartition(".")[2] in ("weight", "bias")
        if parameter.ndim <= 1 and (norms or not of_layer):
            yield parameter


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, and then each module's own again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def use_batch_statistics(network: nn.Module) -> None:
    """Make normalisation use the statistics of the batch at hand, in evaluation mode too, and keep no others."""
    for module in network.modules():
        if isinstance(module, _NormBase):  # of batches and of instances, whatever their dimensions
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
