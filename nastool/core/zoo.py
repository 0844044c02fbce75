"""Published architectures by name, usable wherever an arch.json is: `nastool show zoo:darts-v2 --input 3x32x32`.

Each comes with its space's options and the scale it was published with. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nastool.core.errors import InputError, hint, short


@dataclass(frozen=True)
class Published:
    """An architecture of a space, the scale of the published network, and where both are from."""

    summary: str
    source: str
    space: str
    options: Mapping[str, Any]
    choices: Mapping[str, str]
    scale: Mapping[str, int]


def _cells(normal: str, reduce: str) -> dict[str, str]:
    """Choices of space cell-cnn. A cell: for each block "operation input, operation input", separated by ";"."""
    choices = {}
    for kind, cell in (("normal", normal), ("reduce", reduce)):
        for number, block in enumerate(cell.split(";"), 1):
            for slot, pair in enumerate(block.split(","), 1):
                operation, state = pair.split()
                choices[f"{kind}{number}.input{slot}"] = state
                choices[f"{kind}{number}.op{slot}"] = operation
    return choices


def _layers(*layers: str) -> dict[str, str]:
    """Choices of space macro-cnn. A layer: "operation switches", a digit for each earlier layer."""
    choices = {}
    for number, layer in enumerate(layers, 1):
        operation, *switches = layer.split()
        choices[f"layer{number}.op"] = operation
        choices.update({f"layer{number}.skip{j}": switch for j, switch in enumerate("".join(switches), 1)})
    return choices


def _graph(nodes: str) -> dict[str, str]:
    """Choices of space recurrent-cell, whose node 0 has tanh. Of the others: "activation input", with "," between."""
    choices = {"node0.act": "tanh"}
    for number, node in enumerate(nodes.split(","), 1):
        activation, source = node.split()
        choices |= {f"node{number}.input": source} if number > 1 else {}
        choices[f"node{number}.act"] = activation
    return choices


def _tree(nodes: str, inject: str, index: str) -> dict[str, str]:
    """Choices of space recurrent-tree. Nodes from the leaves: "activation combination". index: cell and inject."""
    named = [(f"node{number}", node) for number, node in enumerate(nodes.split(","))]
    choices = {}
    for name, node in (*named, ("inject", inject)):
        choices[f"{name}.act"], choices[f"{name}.combine"] = node.split()
    choices["index.cell"], choices["index.inject"] = index.split()
    return choices


def _stack(layers: str) -> dict[str, str]:
    """Choices of space stacked-rnn for LSTM layers, as wide as the scale says."""
    return {"kind": "lstm", "layers": layers, "width": "100", "residual": "no"}


_ZAREMBA = "Zaremba et al. 2014, arXiv 1409.2329"

PUBLISHED: Mapping[str, Published] = {
    "enas-micro": Published(
        "ENAS, micro search space",
        "Pham et al., ICML 2018; melodyguan/enas, scripts/cifar10_micro_final.sh",
        "cell-cnn",
        {},
        _cells(
            "avg_pool_3x3 0, sep_conv_3x3 0; skip_connect 0, sep_conv_5x5 0; skip_connect 0, sep_conv_5x5 1;"
            "sep_conv_3x3 1, sep_conv_5x5 0; avg_pool_3x3 0, sep_conv_5x5 1",
            "sep_conv_3x3 1, sep_conv_3x3 1; max_pool_3x3 0, avg_pool_3x3 0; sep_conv_5x5 1, sep_conv_5x5 3;"
            "sep_conv_3x3 1, skip_connect 0; max_pool_3x3 0, sep_conv_5x5 1",
        ),
        {
            "channels": 36,
            "cells": 6,
            "twice": 1,
        },  # as the paper's 4.6 M parameters imply; the script has 5 cells: 3.9 M
    ),
    "enas-macro": Published(
        "ENAS, macro search space, 24 layers",
        "Pham et al., ICML 2018; melodyguan/enas, scripts/cifar10_macro_final.sh",
        "macro-cnn",
        {"layers": 24},
        _layers(
            "conv_3x3",
            "sep_conv_5x5 0",
            "conv_3x3 10",
            "conv_5x5 001",
            "conv_5x5 0000",
            "sep_conv_5x5 11010",
            "conv_5x5 000001",
            "conv_5x5 0110111",
            "sep_conv_3x3 01110101",
            "conv_3x3 000000000",
            "conv_5x5 0000010000",
            "conv_3x3 10011000011",
            "conv_5x5 010000010110",
            "sep_conv_3x3 0010001110101",
            "conv_3x3 11010100000100",
            "conv_5x5 001000000010101",
            "conv_5x5 0100010011110010",
            "conv_5x5 00010101001010010",
            "sep_conv_5x5 011010000010101000",
            "sep_conv_5x5 0110000000001100001",
            "conv_3x3 10010110001000001100",
            "sep_conv_5x5 010110010110110100100",
            "conv_3x3 1010100000000101001000",
            "conv_3x3 11000111010001010011000",
        ),
        # As large as the paper's network of 21.3 M parameters, of which the layers are not published. The script's 96
        # channels give 30.9 M, or 42.5 M with its dense convolutions for separable ones.
        {"channels": 80, "widen": 1, "concat": 1},
    ),
    "nasnet-a": Published(
        "NASNet-A (6 @ 768)",
        "Zoph et al., CVPR 2018; tensorflow/models, slim/nets/nasnet, inputs numbered as in quark0/darts, genotypes.py",
        "cell-cnn",
        {"ops": "nasnet", "normal_output": "0,2,3,4,5,6", "reduce_output": "3,4,5,6"},
        _cells(
            "sep_conv_5x5 1, sep_conv_3x3 0; sep_conv_5x5 0, sep_conv_3x3 0; avg_pool_3x3 1, skip_connect 0;"
            "avg_pool_3x3 0, avg_pool_3x3 0; sep_conv_3x3 1, skip_connect 1",
            "sep_conv_5x5 1, sep_conv_7x7 0; max_pool_3x3 1, sep_conv_7x7 0; avg_pool_3x3 1, sep_conv_5x5 0;"
            "skip_connect 3, avg_pool_3x3 2; sep_conv_3x3 2, max_pool_3x3 1",
        ),
        {"channels": 32, "cells": 6},
    ),
    "amoebanet-a": Published(
        "AmoebaNet-A, 6 cells a stage, 36 channels",
        "Real et al., AAAI 2019, as in quark0/darts, genotypes.py",
        "cell-cnn",
        {"ops": "nasnet", "normal_output": "4,5,6", "reduce_output": "3,4,6"},
        _cells(
            "avg_pool_3x3 0, max_pool_3x3 1; sep_conv_3x3 0, sep_conv_5x5 2; sep_conv_3x3 0, avg_pool_3x3 3;"
            "sep_conv_3x3 1, skip_connect 1; skip_connect 0, avg_pool_3x3 1",
            "avg_pool_3x3 0, sep_conv_3x3 1; max_pool_3x3 0, sep_conv_7x7 2; sep_conv_7x7 0, avg_pool_3x3 1;"
            "max_pool_3x3 0, max_pool_3x3 1; conv_1x7_7x1 0, sep_conv_3x3 5",
        ),
        {"channels": 36, "cells": 6},
    ),
    "darts-v1": Published(
        "DARTS, first order",
        "Liu et al., ICLR 2019; quark0/darts, genotypes.py",
        "cell-cnn",
        {"blocks": 4, "ops": "darts", "normal_output": "all", "reduce_output": "all"},
        _cells(
            "sep_conv_3x3 1, sep_conv_3x3 0; skip_connect 0, sep_conv_3x3 1; skip_connect 0, sep_conv_3x3 1;"
            "sep_conv_3x3 0, skip_connect 2",
            "max_pool_3x3 0, max_pool_3x3 1; skip_connect 2, max_pool_3x3 0; max_pool_3x3 0, skip_connect 2;"
            "skip_connect 2, avg_pool_3x3 0",
        ),
        {"channels": 36, "cells": 6},
    ),
    "darts-v2": Published(
        "DARTS, second order",
        "Liu et al., ICLR 2019; quark0/darts, genotypes.py",
        "cell-cnn",
        {"blocks": 4, "ops": "darts", "normal_output": "all", "reduce_output": "all"},
        _cells(
            "sep_conv_3x3 0, sep_conv_3x3 1; sep_conv_3x3 0, sep_conv_3x3 1; sep_conv_3x3 1, skip_connect 0;"
            "skip_connect 0, dil_conv_3x3 2",
            "max_pool_3x3 0, max_pool_3x3 1; skip_connect 2, max_pool_3x3 1; max_pool_3x3 0, skip_connect 2;"
            "skip_connect 2, max_pool_3x3 1",
        ),
        {"channels": 36, "cells": 6},
    ),
    "enas-rnn": Published(
        "ENAS, recurrent cell of the paper",
        "Pham et al., ICML 2018, as in quark0/darts, rnn/genotypes.py, where the nodes that none reads are listed",
        "recurrent-cell",
        {},
        _graph("tanh 0,tanh 1,relu 1,tanh 3,tanh 3,relu 3,relu 4,relu 7,relu 8,relu 8,relu 8"),
        {"hidden": 850, "bias": 1},
    ),
    "enas-lm": Published(
        "ENAS, recurrent cell of the code that its authors maintain",
        "google-research/google-research, enas_lm",
        "recurrent-cell",
        {"nodes": 9, "output": "all"},
        _graph("sigmoid 0,tanh 1,relu 2,sigmoid 2,tanh 4,tanh 5,sigmoid 3,sigmoid 6"),
        {"hidden": 800},
    ),
    "darts-rnn": Published(
        "DARTS, recurrent cell",
        "Liu et al., ICLR 2019; quark0/darts, rnn/genotypes.py",
        "recurrent-cell",
        {"nodes": 9, "output": "all"},
        _graph("sigmoid 0,relu 1,relu 1,identity 1,tanh 2,sigmoid 5,tanh 3,relu 5"),
        {"hidden": 850, "bias": 1},
    ),
    "nas-cell": Published(
        "NAS-RL, recurrent cell of base 8",
        "Zoph & Le, ICLR 2017; tensorflow/addons, rnn/nas_cell.py; the published width is not known",
        "recurrent-tree",
        {},
        _tree(
            "sigmoid add,relu add,sigmoid add,relu elem_mult,tanh add,sigmoid add,tanh add,sigmoid add,"
            "tanh elem_mult,tanh add,tanh elem_mult,sigmoid add,identity elem_mult,tanh add,tanh elem_mult",
            "tanh add",
            "12 8",
        ),
        {},
    ),
    "lstm-small": Published(
        "LSTM of 2 layers of 200, the usual baseline on Penn Treebank",
        _ZAREMBA,
        "stacked-rnn",
        {},
        _stack("2"),
        {"hidden": 200, "tied": 0, "biases": 1},
    ),
    "lstm-medium": Published(
        "LSTM of 2 layers of 650",
        _ZAREMBA,
        "stacked-rnn",
        {},
        _stack("2"),
        {"hidden": 650, "tied": 0, "biases": 1},
    ),
    "lstm-large": Published(
        "LSTM of 2 layers of 1500",
        _ZAREMBA,
        "stacked-rnn",
        {},
        _stack("2"),
        {"hidden": 1500, "tied": 0, "biases": 1},
    ),
    "awd-lstm": Published(
        "AWD-LSTM, 3 layers",
        "Merity et al., ICLR 2018; salesforce/awd-lstm-lm",
        "stacked-rnn",
        {},
        _stack("3"),
        {"hidden": 1150, "embedding": 400},
    ),
}
"""By name; `zoo:NAME` on the command line."""


def document(name: str) -> dict[str, Any]:
    """The arch.json object of a published architecture.

    Raises:
        InputError: There is none of this name.
    """
    if name not in PUBLISHED:
        known = [f"zoo:{known}" for known in PUBLISHED]
        raise InputError(f"no published architecture zoo:{short(name)}; {hint(f'zoo:{name}', known)}")
    entry = PUBLISHED[name]
    return {
        "space": {"name": entry.space, "options": dict(entry.options)},
        "choices": dict(entry.choices),
        "name": f"zoo:{name}",
        "source": entry.source,
        "scale": dict(entry.scale),
    }
