"""Steps are those of torch's classes, without what these import."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastool.core.recipe import Recipe, Rule
from nastool.training.optimizers import Optimizer

Params = Iterable[nn.Parameter]
RULES: dict[str, tuple[dict[str, Any], Callable[[Params], torch.optim.Optimizer]]] = {
    "sgd": ({"nesterov": True}, lambda p: torch.optim.SGD(p, 1, 0.9, nesterov=True, weight_decay=0.1, fused=False)),
    "plain sgd": ({"momentum": 0.0, "nesterov": False}, lambda p: torch.optim.SGD(p, 1, weight_decay=0.1, fused=True)),
    "adamw": ({}, lambda p: torch.optim.AdamW(p, 1, weight_decay=0.1, fused=True)),
    "asgd": ({}, lambda p: torch.optim.ASGD(p, 1, t0=math.inf, weight_decay=0.1)),
    "rmsprop": ({"momentum": 0.9}, lambda p: torch.optim.RMSprop(p, 1, momentum=0.9, weight_decay=0.1)),
}


@pytest.mark.parametrize("name", RULES)
def test_steps_are_those_of_torchs_classes(name: str) -> None:
    """Also where a parameter has no gradient at first, as in a supernet."""
    networks = [nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    given, make = RULES[name]
    rule = Rule(name.split()[-1])  # type: ignore[arg-type]
    recipe = Recipe(lr=1.0, weight_decay=0.1, optimizer=rule, **given)
    ours, theirs = Optimizer(networks[0], list(networks[0].parameters()), recipe, 5), make(networks[1].parameters())
    for step in range(5):
        x = torch.randn(4, 3)
        for network in networks:
            network.zero_grad()
            (network(x) if step else network[0](x)).square().mean().backward()
        ours.step([p for p in networks[0].parameters() if p.grad is not None], 0.1 / (step + 1), step)
        theirs.param_groups[0]["lr"] = 0.1 / (step + 1)
        theirs.step()
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_memory_is_begun_once(monkeypatch: pytest.MonkeyPatch, momentum: float) -> None:
    """Also where nothing is remembered."""
    network = nn.Linear(3, 2)
    own = Optimizer(network, list(network.parameters()), Recipe(momentum=momentum, nesterov=False), 5)
    begun: list[str] = []
    plain = own._begin

    def begin(name: str) -> dict[str, Tensor]:
        begun.append(name)
        return plain(name)

    monkeypatch.setattr(own, "_begin", begin)
    for step in range(3):
        network(torch.ones(1, 3)).sum().backward()
        own.step(network.parameters(), 0.1, step)
    assert len(begun) == len(set(begun))


def test_a_training_imports_no_compiler() -> None:
    """Nor scikit-learn for its digits: each takes as long as torch itself."""
    code = (
        "import sys\n"
        "from nastool.core.values import Proposal\n"
        "from nastool.evaluators.train import Train\n"
        "from nastool.spaces.nasbench201 import NasBench201\n"
        "space = NasBench201()\n"
        "evaluator = Train(space, epochs=1, train_size=32, scale={'channels': 2, 'cells': 1}, device='cpu')\n"
        "evaluator.prepare()\n"
        "proposal = Proposal(space.from_string('|nor_conv_1x1~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|'))\n"
        "evaluation = evaluator.evaluate(0, proposal, seed=0, report=lambda step, metrics: None)\n"
        "assert evaluation.metrics['params']\n"
        "from nastool.core.values import Trial\n"
        "from nastool.strategies.reinforce import Reinforce\n"
        "strategy = Reinforce(space, hidden=4)\n"
        "for i in range(3):\n"
        "    strategy.tell(Trial(i, strategy.ask(), 'done', evaluation, (0.5,)))\n"
        "print(*{'torch._dynamo', 'sympy', 'sklearn', 'scipy', 'torchvision'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
