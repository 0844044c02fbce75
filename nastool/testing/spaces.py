"""What every search space promises."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Mapping
from itertools import islice

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from nastool.core import archfile, encodings, options, registry
from nastool.core.errors import InputError, InvalidArchError
from nastool.core.space import SearchSpace, mutate_each
from nastool.core.task import FAMILY, Task
from nastool.core.values import Arch
from nastool.nets import networks
from nastool.nets.blocks import Heads
from nastool.nets.costs import NetworkCosts, count_flops
from nastool.nets.inheritance import Growing, inherited

SIZES = {"channels": 3, "classes": 5}
"""Sizes of the task that networks are built for here; others are 8."""
ODD = ({"channels": 1}, {"channels": 2, "height": 7, "width": 5, "length": 5, "classes": 3})
"""Other sizes that they have to fit, besides images of 32x32 and of one pixel, and numbers instead of classes."""


def task_of(space: SearchSpace, **sizes: int) -> Task:
    """A task that the space has networks for. sizes: fields of it; what it has not is left out."""
    family: type[Task] = registry.load("task", FAMILY if FAMILY in space.tasks else min(space.tasks))
    parameters = inspect.signature(family).parameters.items()
    fields = {name: SIZES.get(name, 8) for name, each in parameters if each.default is each.empty}
    return family(**fields | {name: size for name, size in sizes.items() if name in dict(parameters)})


def inputs_of(task: Task, n: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Examples whose numbers are drawn at random from [0, 1)."""
    tokens = getattr(task, "vocabulary", 1)
    given = ((x.shape, x.is_floating_point()) for x in task.example(n))
    return tuple(torch.rand(shape, dtype=dtype) if real else torch.randint(tokens, shape) for shape, real in given)


def said(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """What a network says of examples, (n, outputs); of texts, of each token and the same again after it.

    In training mode of all heads, (n, heads * outputs).
    """
    found = network(*inputs)
    if isinstance(found, Heads):
        found = torch.cat(found.heads, 1)
    elif isinstance(found, tuple):
        first, state, *_ = found
        found = torch.cat([first, network(*inputs, state)[0]], 1).flatten(0, 1)
    output: Tensor = found
    return output


class SpaceContract:
    """Subclass it and give the fixture `space`; `small_scale` names the smallest size of its networks."""

    @pytest.fixture
    def space(self) -> SearchSpace:
        raise NotImplementedError("a subclass gives the space")

    @pytest.fixture
    def small_scale(self, space: SearchSpace) -> object:
        """Every field 2 (channels: 4) or its default, whichever is less: quick to build."""
        fields = options.of(space.Scale)
        low = {name: 4 if name == "channels" else 2 for name in fields}
        return space.Scale(**{n: min(low[n], o.default) for n, o in fields.items() if isinstance(o.default, int)})

    @pytest.fixture
    def task(self, space: SearchSpace) -> Task:
        """What networks are built for."""
        return task_of(space)

    @pytest.fixture
    def archs(self, space: SearchSpace) -> list[Arch]:
        rng = np.random.default_rng(1)
        return [space.sample(rng) for _ in range(20)]

    # --- members

    def test_samples_are_members_and_follow_the_seed(self, space: SearchSpace) -> None:
        first, second = ([space.sample(rng) for _ in range(50)] for rng in map(np.random.default_rng, (3, 3)))
        assert first == second
        assert first != [space.sample(np.random.default_rng(4)) for _ in range(50)]
        for arch in first:
            space.validate(arch)

    def test_sampling_is_uniform(self, space: SearchSpace) -> None:
        """Chi-square per decision, at 1e-6 after Bonferroni; only where every combination is a member."""
        rng = np.random.default_rng(5)
        if not all(
            space.is_member(space.arch(rng.integers([len(d.options) for d in space.decisions]))) for _ in range(500)
        ):
            pytest.skip(f"{space.name} has rules beyond its options")
        draws = [space.sample(rng).choices for _ in range(3000)]
        for i, decision in enumerate(space.decisions):
            counts = Counter(choices[i] for choices in draws)
            observed = [counts[option] for option in range(len(decision.options))]
            assert stats.chisquare(observed).pvalue > 1e-6 / len(space.decisions), decision

    def test_invalid_architectures_are_named(self, space: SearchSpace, archs: list[Arch]) -> None:
        choices = archs[0].choices
        with pytest.raises(InvalidArchError, match="decisions"):
            space.validate(space.arch(choices[:-1]))
        for i in (0, len(choices) - 1):
            for wrong in (-1, len(space.decisions[i].options)):
                with pytest.raises(InvalidArchError, match="choice"):
                    space.validate(space.arch([*choices[:i], wrong, *choices[i + 1 :]]))

    def test_members_are_enumerated_once(self, space: SearchSpace) -> None:
        some = list(islice(space.members(), 500))
        assert len(set(some)) == len(some)
        assert all(space.is_member(arch) for arch in some)

    # --- moves

    def test_neighbors_differ_in_one_decision(self, space: SearchSpace, archs: list[Arch]) -> None:
        for arch in archs[:5]:
            neighbors = list(space.neighbors(arch))
            assert neighbors == list(space.neighbors(arch)), "the order is fixed"
            assert len(set(neighbors)) == len(neighbors)
            for other in neighbors:
                space.validate(other)
                assert sum(a != b for a, b in zip(arch.choices, other.choices, strict=True)) == 1
                assert arch in set(space.neighbors(other)), "being a neighbor is mutual"

    def test_mutation_draws_inputs_and_operations_alike(self, space: SearchSpace, archs: list[Arch]) -> None:
        """Half of the mutants differ in a decision that refers to places, where there are both; decisions alike.

        Chi-square at 1e-6, over the decisions that some neighbor differs in.
        """
        if type(space).mutate is not SearchSpace.mutate:
            pytest.skip(f"{space.name} has a mutation of its own")
        rng = np.random.default_rng(7)
        arch = archs[0]
        neighbors = {other: differing(arch, other) for other in space.neighbors(arch)}
        possible = sorted(set(neighbors.values()))
        counts = Counter(neighbors[space.mutate(arch, rng)] for _ in range(100 * len(neighbors)))
        kinds = Counter(bool(space.decisions[i].refers) for i in possible)
        shares = {refers: 1 / len(kinds) / count for refers, count in kinds.items()}
        if all(Counter(neighbors.values())[i] == len(space.decisions[i].options) - 1 for i in possible):
            expected = [shares[bool(space.decisions[i].refers)] * counts.total() for i in possible]
            assert stats.chisquare([counts[i] for i in possible], expected).pvalue > 1e-6
        inputs = sum(counts[i] for i in possible if space.decisions[i].refers)
        if len(kinds) == 2:
            assert stats.binomtest(inputs, counts.total(), 0.5).pvalue > 1e-6

    def test_each_decision_mutates_at_the_given_rate(self, space: SearchSpace, archs: list[Arch]) -> None:
        """Only where every combination is a member: elsewhere some are drawn again."""
        rng = np.random.default_rng(11)
        if not all(
            space.is_member(space.arch(rng.integers([len(d.options) for d in space.decisions]))) for _ in range(500)
        ):
            pytest.skip(f"{space.name} has rules beyond its options")
        several = np.array([len(d.options) > 1 for d in space.decisions])
        mutants = np.array([mutate_each(space, archs[0], rng, 0.5).choices for _ in range(2000)])
        changed = (mutants != archs[0].choices).sum(axis=0)[several]
        rate = 0.5 / (1 - 0.5 ** several.sum())  # given that at least one did
        for count in changed.tolist():
            assert stats.binomtest(count, len(mutants), rate).pvalue > 1e-6 / len(changed)

    def test_mutants_are_other_members_and_follow_the_seed(self, space: SearchSpace, archs: list[Arch]) -> None:
        """A mutation that is not the default one never gives an equivalent architecture either."""
        own = type(space).mutate is not SearchSpace.mutate
        for arch in archs:
            other = mutate_each(space, arch, np.random.default_rng(8), 0.3)
            space.validate(other)
            assert other != arch
        first, second = (
            [space.mutate(arch, rng) for arch in archs for _ in range(20)] for rng in map(np.random.default_rng, (8, 8))
        )
        assert first == second
        assert first != [space.mutate(arch, np.random.default_rng(9)) for arch in archs for _ in range(20)]
        for arch, mutant in zip((arch for arch in archs for _ in range(20)), first, strict=True):
            space.validate(mutant)
            assert mutant != arch
            assert not own or space.canonical(mutant) != space.canonical(arch)

    # --- forms

    def test_json_and_string_forms_come_back(self, space: SearchSpace, archs: list[Arch]) -> None:
        for arch in archs:
            document = json.loads(archfile.dumps(archfile.to_json(space, arch)))
            again = archfile.from_json(document)
            assert again.arch == arch
            assert again.arch.key == document["key"]
            text = archfile.to_string(space, arch)
            if text is not None:
                assert archfile.read_text(text, space).arch == arch

    def test_canonical_is_a_function_of_the_architecture(self, space: SearchSpace, archs: list[Arch]) -> None:
        for arch in archs:
            assert space.canonical(arch) == space.canonical(space.arch(arch.choices))
        choices = np.array([arch.choices for arch in archs])
        assert space.canonical_many(choices) == [space.canonical(arch) for arch in archs]
        assert space.canonical_many(choices.astype(np.uint8)) == space.canonical_many(choices)
        assert len({space.canonical(arch) for arch in archs}) > 1

    def test_encodings(self, space: SearchSpace, archs: list[Arch]) -> None:
        for kind in encodings.kinds(space):
            vectors = np.stack([encodings.encode(space, arch, kind) for arch in archs])
            assert vectors.dtype == np.float32
            assert np.isfinite(vectors).all()
            assert (
                encodings.encode_many(space, np.array([arch.choices for arch in archs], np.uint8), kind) == vectors
            ).all()
        onehot = np.stack([encodings.encode(space, arch, "onehot") for arch in archs])
        assert onehot.shape == (len(archs), sum(len(d.options) for d in space.decisions))
        assert (onehot.sum(axis=1) == len(space.decisions)).all()
        assert len({v.tobytes() for v in onehot}) == len(set(archs)), "one-hot tells architectures apart"
        with pytest.raises(ValueError, match="no encoding"):
            encodings.encode(space, archs[0], "no such encoding")

    # --- networks

    @pytest.mark.parametrize(
        "sizes",
        [*ODD, {"height": 32, "width": 32}, {"height": 1, "width": 1, "length": 1}, {"classes": 0, "targets": 2}],
    )
    def test_networks_fit_any_task(
        self, space: SearchSpace, archs: list[Arch], small_scale: object, sizes: Mapping[str, int]
    ) -> None:
        try:
            task = task_of(space, **sizes)
        except ValueError as error:  # it has no targets
            pytest.skip(str(error))
        wanted = getattr(task, "outputs", getattr(task, "classes", getattr(task, "vocabulary", None)))
        for arch in archs[:3]:
            network = networks.build(space, arch, task, small_scale).eval()
            output = said(network, inputs_of(task, 2))
            assert wanted is None or output.shape[1:] == (wanted,), "task.outputs wide: classes, or numbers"
            assert output.isfinite().all()

    def test_child_equals_supernet_with_its_weights(
        self, space: SearchSpace, archs: list[Arch], small_scale: object, task: Task
    ) -> None:
        """The same weights give the same function, in training mode too; and the shared parts are shared."""
        try:
            supernet = networks.Supernet(space, task, small_scale).double()
        except InputError as error:
            assert "supernet" not in space.provides
            pytest.skip(f"{space.name}: {error}")
        inputs = inputs_of(task, 4, torch.float64)
        for arch in archs[:6]:
            supernet.select(arch)
            state = supernet.child_state(arch)
            child = networks.build(space, arch, task, small_scale).double()
            child.load_state_dict(state)
            for training in (False, True):
                supernet.train(training)
                child.train(training)
                torch.testing.assert_close(said(child, inputs), said(supernet, inputs), rtol=1e-9, atol=1e-9)
            shared = {p.untyped_storage().data_ptr() for p in supernet.parameters()}
            assert all(state[name].untyped_storage().data_ptr() in shared for name, _ in child.named_parameters())

    def test_costs_are_known_without_each_network(
        self, space: SearchSpace, archs: list[Arch], small_scale: object, task: Task
    ) -> None:
        """Counted in the supernet, where there is one, they are those of the network itself."""
        found = NetworkCosts(space, task, small_scale)
        for arch in archs[:8]:
            with torch.device("meta"):
                network = networks.build(space, arch, task, small_scale)
            alone = NetworkCosts(space, task, small_scale).of(arch, ("params", "flops", "memory_mb"))
            assert found.of(arch, ("params", "flops", "memory_mb")) == alone
            assert (alone["params"], alone["flops"]) == (
                networks.count_params(network),
                count_flops(network, task),
            )
        assert (found._supernet is not None) == ("supernet" in space.provides)

    def test_flops_and_params_grow_with_channels(
        self, space: SearchSpace, archs: list[Arch], small_scale: object, task: Task
    ) -> None:
        if not options.of(space.Scale):
            pytest.skip(f"networks of {space.name} have one size")
        with torch.device("meta"):
            small = networks.build(space, archs[0], task, small_scale)
            large = networks.build(space, archs[0], task, space.Scale())
        assert 0 < networks.count_params(small) < networks.count_params(large)
        assert 0 < count_flops(small, task) < count_flops(large, task)

    def test_bad_scale_is_a_value_error(self, space: SearchSpace) -> None:
        for name in options.of(space.Scale):
            with pytest.raises(ValueError, match=name):
                space.Scale(**{name: -1})

    # --- weights that are handed down

    def test_a_network_inherits_everything_from_itself(
        self, space: SearchSpace, archs: list[Arch], small_scale: object, task: Task
    ) -> None:
        for arch in archs[:2]:
            inheritance = inherited(space, arch, arch, task, small_scale)
            assert inheritance.exact
            assert not inheritance.identity and not inheritance.fresh, "nothing is new"
            parent, child = (networks.build(space, arch, task, small_scale).double() for _ in range(2))
            inputs = train_a_little(parent, task)
            inheritance.apply(child, parent.state_dict())
            same(child.state_dict(), parent.state_dict())
            assert torch.equal(said(child.eval(), inputs), said(parent.eval(), inputs))
            momentum = {name: torch.randn_like(value) for name, value in parent.named_parameters()}
            same(inheritance.expand(momentum, child), momentum)

    def test_a_network_inherits_from_any_other(
        self, space: SearchSpace, archs: list[Arch], small_scale: object, task: Task
    ) -> None:
        for before, after in zip(archs[:3], archs[3:6], strict=True):
            parent, child = (networks.build(space, arch, task, small_scale) for arch in (before, after))
            inputs = train_a_little(parent, task)
            inheritance = inherited(space, before, after, task, small_scale)
            inheritance.apply(child, parent.state_dict())
            inheritance.calibrate(child, *inputs)
            assert said(child.train(), inputs).isfinite().all()
            memory = inheritance.expand(dict(parent.named_parameters()), child)
            assert {n: v.shape for n, v in memory.items()} == {n: v.shape for n, v in child.named_parameters()}

    def test_morphisms_are_other_members(self, space: SearchSpace, archs: list[Arch]) -> None:
        grows = growing(space)
        start = grows.start()
        space.validate(start)
        kinds = list(grows.morphisms(start))
        for arch in (start, *archs):
            found = {kind: list(others) for kind, others in grows.morphisms(arch).items()}
            assert list(found) == kinds, "every kind is there"
            assert found == {kind: list(others) for kind, others in grows.morphisms(arch).items()}, "the order is fixed"
            for others in found.values():
                assert len(set(others)) == len(others)
                for other in others:
                    space.validate(other)
                    assert space.canonical(other) != space.canonical(arch)

    def test_morphisms_keep_the_function(
        self, space: SearchSpace, archs: list[Arch], small_scale: object, task: Task
    ) -> None:
        """One of each kind at every step of a chain, before and after calibration, and the chain as a whole."""
        rng, grows = np.random.default_rng(2), growing(space)
        for first in (grows.start(), *archs[:2]):
            beginning = parent = networks.build(space, first, task, small_scale).double()
            inputs = train_a_little(parent, task)
            arch = first
            for _ in range(4):
                steps = [others[int(rng.integers(len(others)))] for others in grows.morphisms(arch).values() if others]
                children = [(step, exact_child(space, arch, step, parent, task, inputs, small_scale)) for step in steps]
                if children:
                    arch, parent = children[int(rng.integers(len(children)))]
                    train_a_little(parent, task)
            exact_child(space, first, arch, beginning, task, inputs, small_scale)


def differing(one: Arch, other: Arch) -> int:
    """The decision in which the two differ; ValueError unless there is exactly one."""
    (decision,) = [i for i, (a, b) in enumerate(zip(one.choices, other.choices, strict=True)) if a != b]
    return decision


def growing(space: SearchSpace) -> Growing:
    if "inherit" not in space.provides:
        pytest.skip(f"{space.name}: networks do not grow")
    assert isinstance(space, Growing)
    return space


def train_a_little(network: nn.Module, task: Task) -> tuple[Tensor, ...]:
    """The inputs on which it was."""
    inputs = inputs_of(task, 4, next(network.parameters()).dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    network.train()
    for _ in range(3):
        optimizer.zero_grad()
        output = said(network, inputs)
        classes = torch.arange(len(output)) % output.shape[1]
        nn.functional.cross_entropy(output, classes).backward()  # type: ignore[no-untyped-call]  # torch's stub
        optimizer.step()
    return inputs


def exact_child(
    space: SearchSpace,
    before: Arch,
    after: Arch,
    parent: nn.Module,
    task: Task,
    inputs: tuple[Tensor, ...],
    scale: object,
) -> nn.Module:
    """The parent's child, once it has turned out to compute the same in evaluation mode, calibrated or not."""
    inheritance = inherited(space, before, after, task, scale)
    assert inheritance.exact
    child = networks.build(space, after, task, scale).double()
    inheritance.apply(child, parent.state_dict())
    with torch.no_grad():
        expected = parent.eval()(*inputs)
        uncalibrated = child.eval()(*inputs)
        inheritance.calibrate(child, *inputs)
        bound = 1e-10 * expected.abs().max().item()
        for found in (uncalibrated, child(*inputs)):
            torch.testing.assert_close(found, expected, rtol=0, atol=bound)
    return child


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
