"""AdamW over what trains, in groups, its learning rate over a run, and its state as tensors by name.

B has the learning rate lr·ratio (LoRA+, arXiv 2402.12354), everything else lr; weight decay is decoupled
(arXiv 1711.05101) and leaves biases, lengths and gates alone. Over a run the rate is a pure function of the step
(counted from 1):

    warmup:    step / (warmup + 1)                for the first `warmup` steps
    linear:    1 − t,  cosine: (1 + cos πt)/2,  constant: 1,   with t from 0 towards 1 over the rest
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from loralab.training.config import TrainConfig

NOT_DECAYED = ("bias", "lora_magnitude_vector", "lora_scaling", "token_rows")
"""Biases, DoRA's lengths and single tokens' rows (decay would shrink the weights themselves; rows also in steps without
their tokens), and MultiLoRA's gates (it would close them)."""

SHAPES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "constant": lambda t: 1.0,
}
"""name -> the factor at the share t of the steps after the warmup."""

Named = Iterable[tuple[str, nn.Parameter]]


class NamedAdamW(AdamW):
    """AdamW whose groups know their `peak_lr` and the `names` of their parameters.

    It is one pass over each tensor: a fifth of the time of torch's default on a CPU.
    """

    def __init__(self, groups: list[dict[str, Any]], config: TrainConfig) -> None:
        super().__init__(groups, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)

    def gather(self) -> None:
        """Bring the gradients of a whole step to where clipping and `step` look for them. Here they are there."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, parameter) of all that bears a gradient: of a projected weight, what stands in for it."""
        for group in self.param_groups:
            yield from zip(group["names"], group["params"], strict=True)

    def tensors(self) -> dict[str, Tensor]:
        """The state by `<parameter name>/<exp_avg, exp_avg_sq or step>`."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.named_parameters()
            for key, value in self.state.get(parameter, {}).items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put a state from `tensors` back; the steps of single rows (Grass) stay on the CPU."""
        for name, parameter in self.named_parameters():
            own = {
                key.removeprefix(name + "/"): tensor for key, tensor in tensors.items() if key.startswith(name + "/")
            }
            if own:
                self.state[parameter] = {
                    key: value if key == "step" and value.dim() else value.to(parameter.device)
                    for key, value in own.items()
                }

    def closing_notes(self) -> list[str]:
        """What is to be said of it at the end of a run."""
        return []


def make_optimizer(parameters: Named, config: TrainConfig) -> NamedAdamW:
    """AdamW over the `parameter_groups`."""
    return NamedAdamW(parameter_groups(parameters, config), config)


def parameter_groups(parameters: Named, config: TrainConfig) -> list[dict[str, Any]]:
    """A group for each pair of learning rate and decay."""
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in parameters:
        local = name.rpartition(".")[2]
        rate = config.lr * (config.lora_plus_ratio if local.startswith("lora_B") else 1.0)
        decay = 0.0 if local in NOT_DECAYED else config.weight_decay
        groups.setdefault((rate, decay), []).append((name, parameter))
    return [parameter_group(named, rate, decay) for (rate, decay), named in groups.items()]


def parameter_group(named: Named, rate: float, decay: float) -> dict[str, Any]:
    """One group, as `NamedAdamW` takes it."""
    names, parameters = zip(*named, strict=True)
    return {
        "params": list(parameters), "names": list(names), "lr": rate, "peak_lr": rate, "weight_decay": decay
    }  # fmt: skip


def set_rate(optimizer: AdamW, factor: float) -> float:
    """Put every group's learning rate at `factor` times its peak; returns that of the first."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    rate: float = optimizer.param_groups[0]["lr"]
    return rate


def warmup_steps(warmup: float, total: int) -> int:
    """`warmup` as a number of steps: a share of `total` (rounded up) if below 1, else a count; never all of them."""
    steps = math.ceil(warmup * total) if warmup < 1 else int(warmup)
    return min(steps, total - 1)


def rate_factor(step: int, total: int, warmup: int, shape: str) -> float:
    """What to multiply the learning rate with at `step` (from 1) of `total`; above 0 at every step."""
    if step <= warmup:
        return step / (warmup + 1)
    return SHAPES[shape]((step - 1 - warmup) / (total - warmup))
