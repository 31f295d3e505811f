"""The paper's Table 1: one forward pass of GPT-2 medium on a Quadro RTX8000, milliseconds, the mean of 100."""

from collections.abc import Iterable

from loralab.experiments.latency.config import Setting
from loralab.experiments.latency.contenders import BASE, BASE_AGAIN, HOULSBY, LIN, LORA_DEPLOYED, LORA_MERGED

WHERE = "GPT-2 medium, Quadro RTX8000"
MILLISECONDS = {
    Setting(32, 512): {BASE: 1449.4, LIN: 1482.0, HOULSBY: 1492.2},
    Setting(16, 256): {BASE: 338.0, LIN: 354.8, HOULSBY: 366.3},
    Setting(1, 128): {BASE: 19.8, LIN: 23.9, HOULSBY: 25.8},
}
"""Its base is the fine-tuned model and merged LoRA, which are one row there. LoRA kept apart it did not time."""
PARAMETERS = {Setting(32, 512): 500_000, Setting(16, 256): 11_000_000, Setting(1, 128): 11_000_000}
"""What its adapters train in each setting (|Θ|)."""
COMPARABLE = 2.0
"""An adapter with up to so many times more or fewer parameters is beside the paper's."""


def paper_ratio(setting: Setting, contender: str, parameters: int, others: Iterable[int]) -> float | None:
    """Time over the base's in Table 1, or None where it has no such row.

    Of the sizes of an adapter (`others`: what each trains) only the one nearest to the paper's has a row there.
    """
    times = MILLISECONDS.get(setting)
    if times is None:
        return None
    if contender in (BASE, BASE_AGAIN, LORA_MERGED, LORA_DEPLOYED):
        return 1.0
    if contender not in times or not _is_nearest(parameters, others, PARAMETERS[setting]):
        return None
    return times[contender] / times[BASE]


def _is_nearest(parameters: int, others: Iterable[int], wanted: int) -> bool:
    miss = _miss(parameters, wanted)
    return miss <= COMPARABLE and all(miss <= _miss(other, wanted) for other in others)


def _miss(parameters: int, wanted: int) -> float:
    """The larger over the smaller."""
    return max(parameters, wanted) / max(1, min(parameters, wanted))
