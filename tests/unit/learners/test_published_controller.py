"""The log-probabilities of ENAS' published controllers, by a plain port of them to numpy, and those of ours.

The port follows the structure of melodyguan/enas (micro_controller.py, general_controller.py): one architecture at a
time, one step of the LSTM after another, float64. The steps of `nastool.learners.controller` are not used.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nastool.core.errors import InputError
from nastool.core.files import read_tensors, write_tensors
from nastool.core.space import SearchSpace
from nastool.learners.controller import Controller
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.macro_cnn import MacroCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.enas import ENAS, ENASPolicy

Vector = NDArray[np.float64]
GOLDEN = 20
"""Architectures each."""


def log_softmax(logits: Vector) -> Vector:
    return np.asarray(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))


class Port:
    """The weights of a controller of ours, under the authors' names and in their layout."""

    def __init__(self, ours: Controller, tanh_constant: float, op_tanh_reduce: float = 1.0) -> None:
        state = {name: value.detach().double().numpy() for name, value in ours.state_dict().items()}
        self.g_emb = state["start"][0]
        gates = np.concatenate([state["from_input"], state["from_state"]], 1).T  # of (input, state) to i, f, g, o
        i, f, g, o = np.split(gates, 4, axis=1)
        self.w_lstm = np.concatenate([i, f, o, g], 1)  # theirs: i, f, o, g
        self.w_soft, self.w_emb = state["heads.0"].T, state["embeddings.0"]
        self.b_soft = state.get("learnt_biases.0", np.zeros(self.w_soft.shape[1]))
        self.w_1, self.w_2 = state["attend_anchor"], state["attend_state"]
        self.v = state["attend_vector"][0]
        self.constant, self.reduce = tanh_constant, op_tanh_reduce
        self.c = self.h = np.zeros(len(self.g_emb))

    def lstm(self, x: Vector) -> None:
        i, f, o, g = np.split(np.concatenate([x, self.h]) @ self.w_lstm, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        self.c = i * np.tanh(g) + f * self.c
        self.h = o * np.tanh(self.c)

    def attention(self, keys: Sequence[Vector]) -> Vector:
        return np.asarray(np.tanh(np.stack(keys) + self.h @ self.w_2) @ self.v)

    def cell(self, nodes: Sequence[Sequence[int]], fixed_bias: Vector) -> float:
        """log p of one cell's nodes: (index 1, op 1, index 2, op 2) each; goes on from the state of the one before."""
        anchors, keys, total = [], [], 0.0
        for _ in range(2):
            self.lstm(self.g_emb)
            anchors.append(np.zeros_like(self.h))
            keys.append(self.h @ self.w_1)
        x = self.g_emb
        for index_1, op_1, index_2, op_2 in nodes:
            for index in (index_1, index_2):
                self.lstm(x)
                total += log_softmax(self.constant * np.tanh(self.attention(keys)))[index]
                x = anchors[index]
            for op in (op_1, op_2):
                self.lstm(x)
                logits = self.constant / self.reduce * np.tanh(self.h @ self.w_soft + self.b_soft)
                total += log_softmax(logits + fixed_bias)[op]
                x = self.w_emb[op]
            self.lstm(x)
            anchors.append(self.h)
            keys.append(self.h @ self.w_1)
            x = self.g_emb
        return float(total)

    def macro(self, layers: Sequence[tuple[int, Sequence[int]]]) -> float:
        """log p of layers: an operation and a bit for each earlier layer."""
        anchors: list[Vector] = []
        keys: list[Vector] = []
        x, total = self.g_emb, 0.0
        for op, skips in layers:
            self.lstm(x)
            total += log_softmax(self.constant * np.tanh(self.h @ self.w_soft))[op]
            self.lstm(self.w_emb[op])
            x = self.g_emb
            if anchors:
                q = self.attention(keys)
                both = self.constant * np.tanh(np.stack([-q, q], 1))
                total += sum(log_softmax(row)[bit] for row, bit in zip(both, skips, strict=True))
                x = np.asarray(skips) @ np.stack(anchors) / (1 + sum(skips))
            anchors.append(self.h)
            keys.append(self.h @ self.w_1)
        return float(total)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ours(controller: Controller, choices: torch.Tensor) -> list[float]:
    with torch.no_grad():
        return [float(value) for value in controller.score(choices).log_prob]


FIXED = np.array([0.25, 0.25, -0.25, -0.25, -0.25])


@pytest.mark.parametrize("init", [0.1, 0.5])
@pytest.mark.parametrize("biases", [False, True], ids=["", "biases"])
def test_micro(init: float, biases: bool) -> None:
    """biases: the learnt one of 10 and the fixed one of the normal cell."""
    space = CellCNN()
    given: dict[str, float] = (
        {"op_bias": 0.25, "op_bias_later": 0.0, "op_bias_learnt": 10.0} if biases else {"op_bias": 0}
    )
    policy = ENASPolicy(space, ENAS(space, **given).settings, 0)  # type: ignore[arg-type]
    controller = policy.learner.controller
    with torch.no_grad():
        for name, parameter in controller.named_parameters():
            if not name.startswith("learnt_biases"):
                parameter.uniform_(-init, init, generator=rng(1))
    choices = controller.sample(GOLDEN, rng(2), flatten=3.0)
    expected = []
    for row in choices.tolist():
        port = Port(controller, 1.1, 2.5)
        nodes = [row[i : i + 4] for i in range(0, 40, 4)]
        expected.append(port.cell(nodes[:5], FIXED * biases) + port.cell(nodes[5:], FIXED * 0))
    assert ours(controller, choices) == pytest.approx(expected, abs=1e-5)
    assert np.std(expected) > 0.005, "else this shows nothing"


@pytest.mark.parametrize("init", [0.1, 0.5])
def test_macro(init: float) -> None:
    space = MacroCNN(layers=12)
    controller = Controller(space, tanh_constant=1.5, init=init, generator=rng())
    choices = controller.sample(GOLDEN, rng(2))
    expected = []
    for row in choices.tolist():
        layers, rest = [], row
        for layer in range(12):
            layers.append((rest[0], rest[1 : 1 + layer]))
            rest = rest[1 + layer :]
        expected.append(Port(controller, 1.5).macro(layers))
    assert ours(controller, choices) == pytest.approx(expected, rel=1e-6)
    assert np.std(expected) > 0.005, "else this shows nothing"


# --- the order is part of a stored policy


def test_a_policy_of_another_order_is_not_taken_on() -> None:
    """Known bug: weights trained in one order would be read in another, and nothing would say so."""
    space = CellCNN(blocks=1)
    policy = ENASPolicy(space, ENAS(space).settings, 0)
    state = policy.state_dict()
    policy.load_state_dict(state)
    for other in ({**state, "plan": state["plan"] + 1}, {name: v for name, v in state.items() if name != "plan"}):
        with pytest.raises(InputError, match=r"in another order: go on with that version, or begin anew \(--force\)"):
            policy.load_state_dict(other)


@pytest.mark.parametrize("space", [MacroCNN(layers=4), NasBench201()], ids=lambda space: space.name)
def test_older_policies_of_other_spaces_are(space: SearchSpace) -> None:
    """Their steps are what they were."""
    policy = ENASPolicy(space, ENAS(space).settings, 0)
    state = policy.state_dict()
    policy.load_state_dict({name: value for name, value in state.items() if name != "plan"})


@pytest.mark.usefixtures("inline", "one_thread")
def test_a_run_of_another_order_ends_with_a_line(tmp_path: Path, run: Any) -> None:
    """As an earlier version left it: no option that came later, no plan in its policy. Nothing of it is lost."""
    folder = tmp_path / "run"
    sizes = "-E train_size=120 -E epochs=3 --scale channels=4,cells=1 -S steps=1 -S children=2 -S candidates=2"
    words = f"search -s enas --space cell-cnn -P blocks=1 {sizes} --retrain 0 --no-report --out {folder}".split()
    assert run(*words, "--trials", "1").code == 0
    checkpoint = folder / "checkpoints" / "supernet.safetensors"
    tensors, facts = read_tensors(checkpoint)
    tensors = {name: value.contiguous() for name, value in tensors.items() if name != "policy.plan"}
    write_tensors(checkpoint, tensors, facts)
    with closing(sqlite3.connect(folder / "run.db")) as database, database:
        (text,) = database.execute("SELECT value FROM run WHERE key = 'config'").fetchone()
        config = json.loads(text)
        for name in ("eps_outside", "op_bias_later", "op_bias_learnt"):
            del config["strategy"]["options"][name]
        database.execute("UPDATE run SET value = ? WHERE key = 'config'", (json.dumps(config),))
    again = run(*words)
    assert again.code == 2
    assert "makes a cell's decisions in another order: go on with that version, or begin anew (--force)" in again.err
    with closing(sqlite3.connect(folder / "run.db")) as database:
        found = database.execute("SELECT state FROM trials WHERE state IN ('done', 'failed')").fetchall()
    assert found == [("done",)]
