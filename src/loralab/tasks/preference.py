"""How to learn from pairs of answers, one of them preferred: what is minimised, and its settings. Loads no torch."""

from dataclasses import dataclass
from typing import Literal

PreferenceName = Literal["dpo", "orpo"]

METRICS = ("reward_accuracy", "reward_margin")
"""What is measured of pairs, beside the loss."""


@dataclass(frozen=True)
class PreferenceObjective:
    """One way to learn from pairs."""

    name: PreferenceName = "dpo"
    beta: float = 0.1
    """DPO's β: how strongly the model is held to its reference; ORPO's λ: the weight of the odds ratio."""
    label_smoothing: float = 0.0
    """DPO: the share of pairs that are taken to be labelled the wrong way round (cDPO)."""

    @property
    def has_reference(self) -> bool:
        """Whether answers are compared with what the base makes of them."""
        return self.name == "dpo"


DPO = PreferenceObjective()
"""What pairs are measured by where nothing else is said."""
