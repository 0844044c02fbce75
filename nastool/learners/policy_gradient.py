"""REINFORCE: how a controller learns from rewards."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from nastool.core.errors import InputError
from nastool.learners.controller import Controller, Scored, one_thread

MOMENTS = ("step", "exp_avg", "exp_avg_sq")

MOST_LIKELIER = 1.5
"""Bound of the importance weights: how much likelier a policy may be taken to draw something than an earlier one."""


class PolicyGradient:
    """REINFORCE with a moving average as baseline, or its clipped variant, for a controller.

    The loss of m architectures with rewards R is, averaged over them,

        -log_prob (R - b) - entropy_weight entropy + switch_weight switch_kl

    - The entropy is a term of the loss, whose gradient is that of the entropies met along the samples. In the
      published code it is added to the reward, where it shifts the baseline.
    - b is taken before these rewards enter it, so that the advantage is no rescaled R - b. It is a bias-corrected
      moving average: the earliest rewards count alike. Where there is none yet, b is the mean of the *other* rewards:
      unbiased, no larger than their spread, and zero advantage for a single one.
    - A reward is whatever the caller passes: its scale matters, a constant added to all of them does not.
    - With `relative`, for rewards on one minibatch, b is the mean of the other rewards of the same step, and R - b is
      divided by the usual spread within a step (the root of a moving average of variances). Then scale does not matter:
      small rewards are not outweighed by the entropy, by the switches' rate and by Adam's eps.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-3,
        eps_outside: bool = False,
        entropy_weight: float = 1e-4,
        baseline_decay: float = 0.99,
        switch_target: float | None = None,
        switch_weight: float = 0.8,
        ppo_clip: float | None = None,
        ppo_epochs: int = 1,
        grad_clip: float | None = None,
        relative: bool = False,
    ) -> None:
        """lr, betas, eps: of Adam. eps_outside: eps is added to the second moment's root before that is corrected for
        its bias (TensorFlow's Adam), so that the first steps are shorter. entropy_weight: per nat, >= 0.
        baseline_decay: per reward, in [0, 1).

        The defaults are those of ENAS, but for eps_outside. switch_target, switch_weight: the rate of connections that
        is aimed at, in (0, 1), and how much that counts, >= 0. ppo_clip: the probability ratio is clipped to within
        1 +- this, in (0, 1) (PPO, Schulman et al. 2017); then every update takes ppo_epochs steps, >= 1. grad_clip:
        largest gradient norm, > 0. relative: see above. ValueError on a bad value.
        """
        if not lr > 0 or not eps > 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"need lr > 0, eps > 0, betas in [0, 1), got {lr}, {eps}, {betas}")
        if not entropy_weight >= 0 or not switch_weight >= 0:
            raise ValueError(f"need entropy_weight, switch_weight >= 0, got {entropy_weight}, {switch_weight}")
        if not 0 <= baseline_decay < 1:
            raise ValueError(f"need 0 <= baseline_decay < 1, got {baseline_decay}")
        if switch_target is not None and not 0 < switch_target < 1:
            raise ValueError(f"need 0 < switch_target < 1, got {switch_target}")
        if ppo_clip is not None and not 0 < ppo_clip < 1:
            raise ValueError(f"need 0 < ppo_clip < 1, got {ppo_clip}")
        if ppo_epochs < 1 or (ppo_epochs > 1 and ppo_clip is None):
            raise ValueError(f"need ppo_epochs >= 1, and 1 without ppo_clip, got {ppo_epochs}")
        if grad_clip is not None and not grad_clip > 0:
            raise ValueError(f"need grad_clip > 0, got {grad_clip}")
        self.controller = controller
        self.entropy_weight = entropy_weight
        self.baseline_decay = baseline_decay
        self.switch_target = switch_target
        self.switch_weight = switch_weight
        self.ppo_clip = ppo_clip
        self.ppo_epochs = ppo_epochs
        self.grad_clip = grad_clip
        self.relative = relative
        self.eps = eps
        self.eps_outside = eps_outside
        self.adam = {"lr": lr, "beta1": betas[0], "beta2": betas[1], "eps": eps}
        """Adam's values for the last step; its class imports torch's compiler, which takes as long as torch."""
        self._moments: dict[str, dict[str, Tensor]] = {}
        self._average = torch.zeros((), dtype=torch.float64)  # of the rewards, from 0
        self._weight = torch.zeros((), dtype=torch.float64)  # of all rewards in it: 1 - decay^(their number)
        self._spread = torch.zeros((), dtype=torch.float64)  # of the variances within a step, as `_average`

    @property
    def baseline(self) -> float | None:
        """The moving average; None before the first update."""
        return float(self._average / self._weight) if self._weight else None

    def advantages(self, rewards: Tensor) -> Tensor:
        """R - b for rewards (m,) that are not yet part of the baseline, float64. Of their spread they are at once."""
        rewards = rewards.double()
        of_others = (rewards - rewards.mean()) * (len(rewards) / max(len(rewards) - 1, 1))
        if self.relative and len(rewards) > 1:
            keep = self.baseline_decay ** len(rewards)
            self._spread = keep * self._spread + (1 - keep) * rewards.var()
            spread = self._spread / (keep * self._weight + (1 - keep))
            return of_others / spread.sqrt() if spread else of_others
        return rewards - self._average / self._weight if self._weight else of_others

    def update(
        self,
        choices: Tensor,
        rewards: Tensor,
        forced: Collection[int] = (),
        drawn_by: Mapping[str, Tensor] | None = None,
        factor: float | None = None,
    ) -> dict[str, float]:
        """Learn from m architectures that the policy drew.

        choices: (m, decisions), int64. rewards: (m,), finite, higher is better. forced: decisions not drawn. drawn_by:
        `parameters` of the earlier policy that drew them; None: they are the present one's. factor: the gradient is
        that policy's, times this; None: the present one's, where each architecture's R - b is multiplied with how much
        likelier it is by now, at most MOST_LIKELIER (importance weights, truncated as in V-trace: Espeholt et al.,
        IMPALA, ICML 2018, section 4.1); not with ppo_clip. Returns the means of entropy, log_prob, switch_kl,
        switch_rate before the update, advantage (the mean of its absolute value), reward, and baseline, that after the
        update. ValueError where shapes or rewards are unfit.
        """
        if rewards.shape != (len(choices),) or not len(choices) or not bool(rewards.isfinite().all()):
            raise ValueError(f"need a finite reward for each of {len(choices)} architectures, got {rewards}")
        advantages = self.advantages(rewards).float()
        first: Scored | None = None
        with one_thread():
            for _ in range(self.ppo_epochs):
                with self.policy(drawn_by if factor is not None else None):
                    scored = self.controller.score(choices, forced=forced, switch_target=self.switch_target)
                    first = first or Scored(*(value.detach() for value in scored))
                    if drawn_by is not None and factor is None:
                        advantages = advantages * self._likelier(first.log_prob, choices, forced, drawn_by)
                    loss = self._loss(scored, first.log_prob, advantages)
                    self.controller.zero_grad()
                    (loss if factor is None else factor * loss).backward()  # type: ignore[no-untyped-call]
                if self.grad_clip is not None:
                    nn.utils.clip_grad_norm_(self.controller.parameters(), self.grad_clip)
                if self.eps_outside:
                    steps = 1 + max((int(state["step"]) for state in self._moments.values()), default=0)
                    self.adam["eps"] = self.eps / math.sqrt(1 - self.adam["beta2"] ** steps)
                self._step()
        assert first is not None
        keep = self.baseline_decay ** len(rewards)
        self._average = keep * self._average + (1 - keep) * rewards.double().mean()
        self._weight = keep * self._weight + (1 - keep)
        means = dict(zip(first._fields, torch.stack(list(first)).mean(1).tolist(), strict=True))
        reward, advantage = float(rewards.double().mean()), float(advantages.abs().mean())
        return {**means, "reward": reward, "advantage": advantage, "baseline": float(self._average / self._weight)}

    def _loss(self, scored: Scored, old_log_prob: Tensor, advantages: Tensor) -> Tensor:
        if self.ppo_clip is None:
            gain = scored.log_prob * advantages
        else:
            ratio = (scored.log_prob - old_log_prob).exp()
            clipped = ratio.clamp(1 - self.ppo_clip, 1 + self.ppo_clip)
            gain = torch.minimum(ratio * advantages, clipped * advantages)
        loss = -gain - self.entropy_weight * scored.entropy
        if self.switch_target is not None:
            loss = loss + self.switch_weight * scored.switch_kl
        return loss.mean()

    def _likelier(
        self, log_prob: Tensor, choices: Tensor, forced: Collection[int], before: Mapping[str, Tensor]
    ) -> Tensor:
        """Importance weights (m,): how much likelier the policy of log_prob draws them than the one before."""
        with torch.no_grad(), self.policy(before):
            old = self.controller.score(choices, forced=forced).log_prob
        return (log_prob - old).exp().clamp(max=MOST_LIKELIER)

    def _step(self) -> None:
        moved = {name: p for name, p in self.controller.named_parameters() if p.grad is not None}
        for name, p in moved.items():
            if name not in self._moments:
                begin = torch.zeros((), device=p.device), torch.zeros_like(p), torch.zeros_like(p)
                self._moments[name] = dict(zip(MOMENTS, begin, strict=True))
        steps, means, squares = ([self._moments[name][key] for name in moved] for key in MOMENTS)
        grads = [p.grad for p in moved.values()]
        fixed: dict[str, Any] = {"fused": True, "amsgrad": False, "maximize": False, "weight_decay": 0.0}
        with torch.no_grad():
            adam(list(moved.values()), grads, means, squares, [], steps, **fixed, **self.adam)  # type: ignore[arg-type]

    # --- earlier policies

    def parameters(self) -> dict[str, Tensor]:
        """The policy's parameters as they are, as copies."""
        return {name: parameter.detach().clone() for name, parameter in self.controller.named_parameters()}

    @contextmanager
    def policy(self, parameters: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Inside, the controller has these `parameters`; None: those that it has."""
        now = {name: parameter.data for name, parameter in self.controller.named_parameters()}
        try:
            for name, value in (parameters or now).items():
                self.controller.get_parameter(name).data = value
            yield
        finally:
            for name, value in now.items():
                self.controller.get_parameter(name).data = value

    # --- going on later

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that changes, as copies: the controller's parameters, Adam's moments, the baseline."""
        state = {f"controller.{name}": value.clone() for name, value in self.controller.state_dict().items()}
        for name, moments in self._moments.items():
            state |= {f"adam.{key}.{name}": value.clone() for key, value in moments.items()}
        state["plan"] = torch.tensor(self.controller.fingerprint)
        if self.relative:
            state["baseline.spread"] = self._spread.clone()
        return {**state, "baseline.average": self._average.clone(), "baseline.weight": self._weight.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue exactly where `state_dict` was taken. KeyError, RuntimeError: it is of another controller.

        InputError: it is of a controller that makes these decisions by other steps, as an earlier version did.
        """
        old = not any(step.kind == "point" for step in self.controller.steps)  # where steps are what they always were
        if state["plan"].tolist() != self.controller.fingerprint if "plan" in state else not old:
            raise InputError(
                "the policy of this run was trained by a version of nastool that makes a cell's decisions in another "
                "order: go on with that version, or begin anew (--force)"
            )
        prefix = "controller."
        self.controller.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self._moments = {
            name: {key: state[f"adam.{key}.{name}"].clone() for key in MOMENTS}
            for name, _ in self.controller.named_parameters()
            if f"adam.step.{name}" in state
        }
        self._average, self._weight = state["baseline.average"].clone(), state["baseline.weight"].clone()
        if (spread := state.get("baseline.spread")) is not None:
            self._spread = spread.clone()
        elif self.relative:  # as an earlier version left it
            self._average, self._weight = torch.zeros_like(self._average), torch.zeros_like(self._weight)
