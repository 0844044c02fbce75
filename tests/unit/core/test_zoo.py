"""Published architectures: they are members, and their networks have the published size."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from nastool.core import archfile, zoo
from nastool.core.errors import InputError
from nastool.core.space import make_scale
from nastool.nets import networks
from nastool.tasks.images.task import ImageTask
from tests.helpers.running import Run

PUBLISHED = {
    "enas-micro": 4.6e6,  # Pham et al. 2018, table 1
    "enas-macro": 21.3e6,  # the same; by the choice of its scale, see nastool.core.zoo
    "nasnet-a": 3.3e6,  # Zoph et al. 2018, table 1
    "amoebanet-a": 3.2e6,  # Real et al. 2019, table 2: N = 6, F = 36
    "darts-v2": 3.349e6,  # quark0/darts, README.md: 3.349MB params
}
"""Parameters of the networks for CIFAR-10, without auxiliary head."""
COUNTED = {"darts-v1": 3_169_414, "darts-v2": 3_349_342, "enas-micro": 4_587_382}
"""What they have here; no source gives it so exactly."""


def params(name: str) -> int:
    document = archfile.from_json(zoo.document(name))
    scale = make_scale(document.space, document.extra["scale"])
    with torch.device("meta"):
        network = networks.build(document.space, document.arch, ImageTask(3, 32, 32, 10), scale)
    return networks.count_params(network)


@pytest.mark.parametrize("name", zoo.PUBLISHED)
def test_is_a_member(name: str) -> None:
    document = archfile.from_json(zoo.document(name))
    document.space.validate(document.arch)
    entry = zoo.PUBLISHED[name]
    assert set(entry.choices) == {decision.name for decision in document.space.decisions}
    assert entry.source


@pytest.mark.parametrize("name", PUBLISHED)
def test_has_the_published_size(name: str) -> None:
    assert params(name) == pytest.approx(PUBLISHED[name], rel=0.02)


@pytest.mark.parametrize("name", COUNTED)
def test_size_stays(name: str) -> None:
    assert params(name) == COUNTED[name]


def test_enas_micro_is_the_authors_arc() -> None:
    """scripts/cifar10_micro_final.sh: input, operation, input, operation for each block, normal cell first."""
    arc = "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
    document = archfile.from_json(zoo.document("enas-micro"))
    assert list(document.arch.choices) == [int(token) for token in arc.split()]


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="did you mean 'zoo:darts-v2'"):
        zoo.document("darts-v3")


def test_command_line(run: Run) -> None:
    (document,) = run("show", "zoo:darts-v2", "--input", "3x32x32", "--json").accepted()
    assert document["params"] == COUNTED["darts-v2"]
    assert document["name"] == "zoo:darts-v2"
    listed = run("list", "zoo", "--json").accepted()
    assert [entry["name"] for entry in listed] == [f"zoo:{name}" for name in zoo.PUBLISHED]
    run("show", "zoo:nothing").refused("zoo:nothing")


def test_imports_no_torch() -> None:
    code = "import sys, nastool.core.zoo, nastool.spaces.cell_cnn, nastool.spaces.macro_cnn;"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
