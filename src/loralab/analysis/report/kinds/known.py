"""The kinds of results, by the name of the file that each leaves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.analysis.report.kinds.analysis import analysis_section
from loralab.analysis.report.kinds.comparison import comparison_section
from loralab.analysis.report.kinds.latency import latency_section
from loralab.analysis.report.kinds.run import run_section
from loralab.analysis.report.section import Section

Read = Callable[[str, Path, dict[str, Any]], Section]
"""The file's name without its ending, its folder, its content."""


@dataclass(frozen=True)
class Kind:
    """One kind."""

    read: Read
    keys: Sequence[str]
    """What its JSON always has; a file without them is another program's."""


_ANALYSES: Mapping[str, Sequence[str]] = {
    "subspace": ("compared", "modules"),
    "amplification": ("kinds", "modules"),
    "spectrum": ("modules",),
    "rank": ("curve", "metric"),
    "resize": ("modules", "error"),
    "matrices": ("parts", "metric"),
    "angular": ("D", "best"),
    "prune": ("before", "removed"),
    "linearity": ("scores",),
    "linearize": ("before", "runs"),
    "forgetting": ("texts",),
    "doctor": ("findings",),
}
KINDS: dict[str, Kind] = {
    "run": Kind(run_section, ("config",)),
    "results": Kind(comparison_section, ("rows", "metric")),
    "latency": Kind(latency_section, ("rows", "model")),
    "loralab_merge": Kind(analysis_section, ("max_abs_logit_error",)),
    **{name: Kind(analysis_section, keys) for name, keys in _ANALYSES.items()},
}
