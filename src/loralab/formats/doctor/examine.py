"""All that is wrong with an adapter, at once: what `analyse doctor` says, and `inspect` too."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from loralab.formats.doctor.config import config_findings
from loralab.formats.doctor.model import base_findings, loading_findings, weight_findings
from loralab.formats.doctor.peers import peer_findings
from loralab.formats.doctor.tensors import tensor_findings
from loralab.formats.read import read_adapter
from loralab.formats.stored import Finding, StoredAdapter, worst_first


@dataclass(frozen=True)
class Diagnosis:
    """The findings, the worst first."""

    adapter: str
    modules: int
    """With whole low-rank updates."""
    tensors: int
    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether there is no error among the findings."""
        return all(each.severity != "error" for each in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "healthy": self.healthy}


def examine(
    path: str | Path, model: nn.Module | None = None, *, alpha: float | None = None, allow_other_base: bool = False
) -> Diagnosis:
    """Examine an adapter folder or a loralib checkpoint, and with the model whether and how it acts on it.

    Damage is a finding, never an error; only NotFoundError is raised, where there is no adapter, and SpecError for
    an `alpha` that a folder itself says. The model is afterwards as it was.
    """
    stored = read_adapter(path, alpha)
    loading = []
    if model is not None:
        loading = [*base_findings(stored, model, allow_other_base), *loading_findings(stored, model)]
    findings = worst_first([*stored.findings, *loading, *_findings(stored, model)])
    return Diagnosis(str(path), len(stored.entries), len(stored.named), findings)


def findings_beside_loading(stored: StoredAdapter, model: nn.Module | None) -> list[Finding]:
    """What `examine` finds without loading the adapter onto the model, for who has done that already."""
    return worst_first([*stored.findings, *_findings(stored, model)])


def _findings(stored: StoredAdapter, model: nn.Module | None) -> list[Finding]:
    on_model = [] if model is None else weight_findings(stored, model)
    return [*tensor_findings(stored), *config_findings(stored), *on_model, *peer_findings(stored, model)]
