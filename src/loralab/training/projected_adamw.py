"""AdamW whose gradients and moments of dense layers' weights are projected to r dimensions (Grass, GaLore).

    every K steps   the full gradient G of one weight at a time → P, g = Pᵀ·G
    in between      g comes from the layer's own backward pass (core/projection.py); G is never formed
    every step      W ← W + P·(−lr·α·Adam(g))

The [r, n] gradients are those of stand-ins: parameters without memory, one for each projected weight, which are what
`param_groups` holds under the weights' names. So clipping, accumulation and checkpoints treat them as any other. All
other parameters have plain AdamW.

A step whose gradients are accumulated over several batches holds the full gradients of all weights if it is one of
those that choose anew: `at_once` says that a step is one batch, whose gradients need not wait for `gather`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from loralab.core.adapter import Adapter
from loralab.core.names import unwrapped
from loralab.core.projection import ChosenRows, Projection, projection_of
from loralab.core.updates.update import WHOLE
from loralab.methods.projected import ProjectedFineTune, ProjectedUpdate, ProjectedWeight
from loralab.processes.group import ALONE, Processes
from loralab.training.config import TrainConfig
from loralab.training.optimizer import NamedAdamW, make_optimizer, parameter_group, parameter_groups


@dataclass(frozen=True, eq=False)
class Projected:
    """One projected weight: its update, the frozen one, and the stand-in that bears its gradient."""

    update: ProjectedUpdate
    base: Tensor
    stand_in: nn.Parameter

    @property
    def site(self) -> ProjectedWeight:
        """Where it is."""
        return self.update.site

    @property
    def weight(self) -> nn.Parameter:
        """The trained copy."""
        return self.update.weight

    @property
    def matrix_MN(self) -> Tensor:
        """The trained copy as [m, n], in its own memory."""
        return self.site.canonical(self.weight.detach())


def optimizer_for(adapter: Adapter, config: TrainConfig, processes: Processes = ALONE) -> NamedAdamW:
    """The optimizer that the adapter's method asks for."""
    if isinstance(adapter.spec, ProjectedFineTune):
        return ProjectedAdamW(adapter, adapter.spec, config, processes)
    return make_optimizer(adapter.named_parameters(), config)


class ProjectedAdamW(NamedAdamW):
    """See above. It tells the adapter's projected weights in which form it wants their gradients next."""

    def __init__(
        self, adapter: Adapter, spec: ProjectedFineTune, config: TrainConfig, processes: Processes = ALONE
    ) -> None:
        self.spec, self.seed = spec, config.seed
        self.at_once = config.accumulate == 1 and not processes.are_several
        self.projected = [
            _projected(update, unwrapped(adapter.layers[path]))
            for path, update in adapter.updates.items()
            if isinstance(update, ProjectedUpdate)
        ]
        taken = {id(each.weight) for each in self.projected}
        others = [(name, p) for name, p in adapter.named_parameters() if id(p) not in taken]
        stand_ins = [(each.site.name, each.stand_in) for each in self.projected]
        groups = [*parameter_groups(others, config), parameter_group(stand_ins, config.lr, config.weight_decay)]
        super().__init__(groups, config)
        for each in self.projected:
            each.weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._on_full_gradient, each)
            )

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        super().restore(tensors)
        self._ask_for_gradients()

    def closing_notes(self) -> list[str]:
        """How much of the weights was reached by what was chosen so far."""
        moved = self.moved()
        if not moved:
            return []
        least = min(moved, key=moved.__getitem__)
        mean = sum(moved.values()) / len(moved)
        return [f"{mean:.0%} of the rows of {len(moved)} weights were moved, {moved[least]:.0%} in {least}, the fewest"]

    # -- gradients ------------------------------------------------------------------------------------------------

    def projection(self, each: Projected) -> Projection | None:
        """What this weight is projected by at present; None before the first step."""
        state = self.state.get(each.stand_in)
        return projection_of(state) if state else None

    def is_due(self, each: Projected) -> bool:
        """Whether this step chooses the projection anew, and so needs the full gradient."""
        state = self.state.get(each.stand_in)
        return not state or int(state["taken"]) % self.spec.refresh_every == 0

    def gather(self) -> None:
        """Project what full gradients there are: before clipping and the step, after the last batch."""
        for each in self.projected:
            if each.weight.grad is not None:
                self._take(each)

    def _ask_for_gradients(self) -> None:
        """In full by steps that choose anew, projected by all others."""
        for each in self.projected:
            each.update.project(None if self.is_due(each) else self.projection(each), each.stand_in)

    def _on_full_gradient(self, each: Projected, weight: Tensor) -> None:
        """Right after a backward pass has formed a weight's full gradient. On other steps than those that choose anew
        that is for layers which no product of ours computes; projecting is linear, so those need not wait."""
        if self.at_once or not self.is_due(each):
            self._take(each)

    @torch.no_grad()
    def _take(self, each: Projected) -> None:
        assert each.weight.grad is not None
        G_MN = each.site.canonical(each.weight.grad)
        each.weight.grad = None
        if self.is_due(each) and each.stand_in.grad is None:  # by the first backward pass, should a step have several
            self._refresh(each, G_MN)
        projection = self.projection(each)
        assert projection is not None
        g_RN, before = projection.reduce(G_MN), each.stand_in.grad
        each.stand_in.grad = g_RN if before is None else before + g_RN

    def _refresh(self, each: Projected, G_MN: Tensor) -> None:
        state = self.state[each.stand_in]
        before = projection_of(state) if state else None
        taken = state["taken"] if state else torch.zeros(())
        chosen = self.spec.choose(G_MN, each.site.rank, self._generator(each, int(taken)))
        kept = _kept_state(self.spec.state_on_refresh, state, before, chosen) if state else None
        self.state[each.stand_in] = chosen.tensors() | {"taken": taken} | (kept or _fresh_state(each.stand_in))

    def _generator(self, each: Projected, taken: int) -> torch.Generator:
        """Random numbers of this weight and this refresh alone: the same in a resumed run and on every machine."""
        said = f"{self.seed}/{each.site.name}/{taken}".encode()
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(said).digest()[:7]))

    def moved(self) -> dict[str, float]:
        """Path → the share of the weight's rows, of its smaller side, in which it differs from the base by now."""
        return {
            each.site.path: float(each.site.canonical(each.weight != each.base).any(1).float().mean())
            for each in self.projected
        }

    # -- the step -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient. Of projected weights the gradients are gone afterwards."""
        assert closure is None
        self.gather()
        group = self.param_groups[-1]
        for each in self.projected:
            if each.stand_in.grad is not None:
                self._move(each, each.stand_in.grad, group)
            if each.stand_in in self.state:
                self.state[each.stand_in]["taken"] += 1
            each.stand_in.grad = None
        self._ask_for_gradients()
        return super().step()

    def _move(self, each: Projected, g_RN: Tensor, group: Mapping[str, Any]) -> None:
        """One step of AdamW (arXiv 1711.05101) on A = 0, the moved A merged into W."""
        state, projection = self.state[each.stand_in], self.projection(each)
        assert projection is not None
        (beta1, beta2), scale = group["betas"], self._scale(int(state["taken"]))
        mean, square = state["exp_avg"].lerp_(g_RN, 1 - beta1), state["exp_avg_sq"]
        square.mul_(beta2).addcmul_(g_RN, g_RN, value=1 - beta2)
        state["step"] += 1
        steps_R1 = state["step"].double()[:, None]
        root_R1 = (1 - beta2**steps_R1).sqrt().to(square)
        by_R1 = (-scale * group["lr"] / (1 - beta1**steps_R1)).to(square)
        change_RN = (mean / (square.sqrt() / root_R1).add_(group["eps"])).mul_(by_R1)
        if group["weight_decay"]:
            projection.decay_(each.matrix_MN, 1 - group["lr"] * group["weight_decay"])
        projection.expand_(each.matrix_MN, change_RN)

    def _scale(self, taken: int) -> float:
        """α, smaller in the first steps after a refresh but the first, where they are to warm up."""
        since = taken % self.spec.refresh_every
        rising = taken >= self.spec.refresh_every and since < self.spec.refresh_warmup
        return self.spec.projection_scale * ((since + 1) / (self.spec.refresh_warmup + 1) if rising else 1.0)


def _projected(update: ProjectedUpdate, module: nn.Module) -> Projected:
    nothing = torch.zeros((), dtype=update.weight.dtype, device=update.weight.device)
    stand_in = nn.Parameter(nothing.expand(update.site.rank, update.site.shape[1]))
    return Projected(update, module.get_parameter(WHOLE), stand_in)


def _fresh_state(stand_in: Tensor) -> dict[str, Tensor]:
    """Adam's moments [r, n], and the steps of each of the r rows, on the CPU: of rows just chosen, none."""
    zeros = {name: torch.zeros_like(stand_in, memory_format=torch.contiguous_format) for name in _MOMENTS}
    return {**zeros, "step": torch.zeros(len(stand_in))}


def _kept_state(
    rule: str, state: Mapping[str, Tensor], before: Projection | None, chosen: Projection
) -> dict[str, Tensor] | None:
    """What is left of the moments under a new projection; None for nothing."""
    if rule == "reset":
        return None
    if rule == "keep":
        return {name: state[name] for name in (*_MOMENTS, "step")}
    assert isinstance(before, ChosenRows)
    assert isinstance(chosen, ChosenRows)
    place_R, ratio_R = chosen.places_in(before)
    moments = {
        name: state[name].index_select(0, place_R).mul_(ratio_R[:, None] ** power)
        for name, power in zip(_MOMENTS, (1, 2), strict=True)
    }
    return {**moments, "step": state["step"][place_R.cpu()] * (ratio_R > 0).cpu()}


_MOMENTS = ("exp_avg", "exp_avg_sq")
