"""The controller as PyTorch's autograd would have it, step by step: `nastool.learners.controller` must agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from nastool.core.space import mattering
from nastool.learners.controller import Controller, Scored
from nastool.learners.walk import Step


def score(policy: Controller, choices: Tensor, forced: Collection[int], target: float | None) -> Scored:
    """As `Controller.score`."""
    walked = _walk(policy, choices)
    counted = torch.from_numpy(mattering(policy.space, choices.numpy())).float()
    counted[:, list(forced)] = 0
    log_prob = entropy = kl = rate = steps = switches = torch.zeros(len(choices))
    for step, logs in walked:
        columns = list(step.columns)
        weight, share = counted[:, columns], logs.exp()
        log_prob = log_prob + (logs.gather(-1, choices[:, columns, None])[..., 0] * weight).sum(1)
        entropy = entropy - ((share * logs).sum(-1) * weight).sum(1)
        if step.kind == "select":
            rate, switches = rate + (share[..., 1] * weight).sum(1), switches + weight.sum(1)
            if target is not None:
                aim = torch.tensor([1 - target, target]).log()
                kl = kl + ((share * (logs - aim)).sum(-1) * weight).sum(1)
                steps = steps + weight.any(1)
    return Scored(log_prob, entropy, kl / steps.clamp(min=1), rate / switches.clamp(min=1))


def _walk(policy: Controller, choices: Tensor) -> list[tuple[Step, Tensor]]:
    n = len(choices)
    x = start = policy.start.expand(n, -1)
    zero = torch.zeros(n, policy.hidden)
    matrices = [[policy.get_parameter(name) for name in names] for names in policy.matrices]
    layers = [(zero, zero)] * len(matrices)
    anchors: dict[str | None, Tensor] = {}
    keys: dict[str | None, Tensor] = {}
    matters = torch.from_numpy(mattering(policy.space, choices.numpy()))
    walked = []
    for step in policy.steps:
        after, below = [], start if step.kind == "input" else x
        for state, own in zip(layers, matrices, strict=True):
            after.append(torch.lstm_cell(below, state, *own))
            below = after[-1][0]
        if not step.columns:
            layers = after
            x = start if step.kind == "anchor" else x
        else:
            columns = list(step.columns)
            active = matters[:, columns]
            there = active.any(1, keepdim=True)
            pairs = zip(after, layers, strict=True)
            layers = [(torch.where(there, a[0], b[0]), torch.where(there, a[1], b[1])) for a, b in pairs]
            walked.append((step, torch.log_softmax(_logits(policy, step, layers[-1][0], keys), -1)))
            picked = choices[:, columns]
            if step.kind == "choose":
                after_x: Tensor = policy.embeddings[step.head][picked[:, 0]]
            else:
                states = torch.stack([anchors[place] for place in step.refers], 1)
                on = (picked * active).float()
                after_x = (on[..., None] * states).sum(1) / (1 + on.sum(1, keepdim=True))
                if step.kind == "point":
                    after_x = states[torch.arange(n), picked[:, 0]]
                    if policy.nearness:
                        after_x = after_x / (0.1 + len(step.refers) - picked)
            x = torch.where(there, after_x, x)
        if step.place is not None:
            anchors[step.place] = zero if step.kind == "input" else layers[-1][0]
            keys[step.place] = layers[-1][0] @ policy.attend_anchor
    return walked


def _logits(policy: Controller, step: Step, h: Tensor, keys: Mapping[str | None, Tensor]) -> Tensor:
    """(n, columns, options)."""
    constant = policy.tanh_constant
    if step.kind == "choose":
        logits = h @ policy.heads[step.head].T
        if step.head in policy.learnt_biases:
            logits = logits + policy.learnt_biases[step.head]
        constant = constant and constant / policy.op_tanh_reduce
    else:
        states = torch.stack([keys[place] for place in step.refers], 1)
        logits = torch.tanh(states + (h @ policy.attend_state)[:, None]) @ policy.attend_vector[0]
    if policy.temperature is not None:
        logits = logits / policy.temperature
    if constant is not None:
        logits = constant * torch.tanh(logits)
    if step.kind == "choose":
        logits = logits + policy.biases[step.columns[0]]
    if step.kind == "point" and policy.nearness:
        logits = logits - torch.arange(logits.shape[1], 0, -1.0) ** 2 / 6
    return torch.stack([-logits, logits], -1) if step.kind == "select" else logits[:, None]
