"""AdamW over what trains, in groups, and its state as tensors by name. It knows nothing of models.

B has the learning rate lr·ratio (LoRA+, arXiv 2402.12354), everything else lr; weight decay is decoupled
(arXiv 1711.05101) and leaves biases alone.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from loralab.training.config import TrainConfig

Named = list[tuple[str, nn.Parameter]]


def make_optimizer(parameters: Iterable[tuple[str, nn.Parameter]], config: TrainConfig) -> AdamW:
    """AdamW with a group for each pair of learning rate and decay; every group knows its `peak_lr` and its `names`."""
    groups: dict[tuple[float, float], Named] = {}
    for name, parameter in parameters:
        rate = config.lr * (config.lora_plus_ratio if name.endswith("lora_B") else 1.0)
        decay = 0.0 if name.rpartition(".")[2] == "bias" else config.weight_decay
        groups.setdefault((rate, decay), []).append((name, parameter))
    betas = (config.beta1, config.beta2)
    return AdamW([_group(rate, decay, named) for (rate, decay), named in groups.items()], betas=betas, eps=config.eps)


def set_rate(optimizer: AdamW, factor: float) -> float:
    """Put every group's learning rate at `factor` times its peak; returns that of the first."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    rate: float = optimizer.param_groups[0]["lr"]
    return rate


def optimizer_tensors(optimizer: AdamW) -> dict[str, Tensor]:
    """The state by `<parameter name>/<exp_avg, exp_avg_sq or step>`."""
    return {
        f"{name}/{key}": value
        for name, parameter in _named_parameters(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(optimizer: AdamW, tensors: dict[str, Tensor]) -> None:
    """Put a state from `optimizer_tensors` back."""
    for name, parameter in _named_parameters(optimizer):
        own = {key.removeprefix(name + "/"): tensor for key, tensor in tensors.items() if key.startswith(name + "/")}
        if own:
            optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in own.items()
            }


def _group(rate: float, decay: float, named: Named) -> dict[str, Any]:
    return {
        "params": [parameter for _, parameter in named],
        "names": [name for name, _ in named],
        "lr": rate,
        "peak_lr": rate,
        "weight_decay": decay,
    }


def _named_parameters(optimizer: AdamW) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)
