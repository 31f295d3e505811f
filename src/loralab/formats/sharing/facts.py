"""What an adapter's folder says of itself, put together for its card: its files and its run's record, nothing else."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.files.names import CONFIG_NAME, OWN_TYPE, PLAIN_NAME, RUN_NAME, SIDECAR_NAME
from loralab.files.whole import read_json
from loralab.methods.table import method_name
from loralab.models.embedded import EMBEDDED, published_name
from loralab.models.locate import is_local
from loralab.tasks import dart, e2e, samsum, webnlg, wikisql
from loralab.tasks.glue.table import HUB as GLUE

DATA_SETS = {each.HUB.task: each.HUB.repository for each in (dart, e2e, samsum, webnlg, wikisql)}
"""Task -> the data set's id on the Hub; GLUE's tasks are one repository."""


@dataclass(frozen=True)
class Facts:
    """The content of the files."""

    folder: Path
    name: str
    """What the adapter is called."""
    config: Mapping[str, Any]
    """adapter_config.json."""
    sidecar: Mapping[str, Any]
    """loralab.json; empty where there is none."""
    run: Mapping[str, Any]
    """run.json; empty where there is none."""

    @classmethod
    def of(cls, folder: Path, name: str | None = None) -> "Facts":
        """Read them. Raises what reading an adapter's configuration raises."""
        beside = {name: read_json(folder / name) for name in (SIDECAR_NAME, RUN_NAME) if (folder / name).is_file()}
        called = name or folder.resolve().name
        return cls(
            folder, called, read_json(folder / CONFIG_NAME), beside.get(SIDECAR_NAME, {}), beside.get(RUN_NAME, {})
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run's configuration; empty where it is not recorded."""
        return _mapping(self.run.get("config"))

    @property
    def result(self) -> Mapping[str, Any]:
        """What came of the run."""
        return _mapping(self.run.get("result"))

    # -- the base ---------------------------------------------------------------------------------------------

    @property
    def recorded_base(self) -> str | None:
        """The base as the files name it."""
        recorded = self.config.get("base_model_name_or_path") or self.settings.get("model")
        return str(recorded) if recorded else None

    @property
    def base(self) -> str | None:
        """The base's id on the Hub; None for a folder of somebody's machine, or where nothing is recorded."""
        recorded = self.recorded_base
        return None if recorded is None or is_local(recorded) else published_name(recorded)

    @property
    def embedded(self) -> str | None:
        """The embedded model that it was trained on; None where another or none is recorded."""
        asked = str(self.settings.get("model", self.recorded_base))
        return asked if asked in EMBEDDED else None

    # -- the adapter ------------------------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        """Whether loralab wrote it."""
        return bool(self.sidecar)

    @property
    def is_peft(self) -> bool:
        """Whether PEFT reads it."""
        return self.config.get("peft_type") != OWN_TYPE

    @property
    def has_plain(self) -> bool:
        """Whether the plain LoRA that it comes to lies beside it."""
        return (self.folder / PLAIN_NAME / CONFIG_NAME).is_file()

    @property
    def method(self) -> str:
        """As the command line calls it."""
        spec = _mapping(self.sidecar.get("method"))
        return method_name(spec) if spec else str(self.config.get("peft_type", "lora")).lower()

    @property
    def sizes(self) -> str:
        """`rank 4, alpha 16`, where it has these."""
        spec = _mapping(self.sidecar.get("method")) or {"rank": self.config.get("r"), **self.config}
        alpha = spec.get("alpha", spec.get("lora_alpha"))
        named = {"rank": spec.get("rank"), "alpha": alpha if spec.get("rank") else None}
        return ", ".join(f"{name} {value:g}" for name, value in named.items() if isinstance(value, (int, float)))

    @property
    def modules(self) -> str:
        """`60 modules: q_proj (30), v_proj (30)`."""
        paths = list(_mapping(self.sidecar.get("modules")))
        if not paths:
            targets = self.config.get("target_modules") or []
            return f"`{targets}`" if isinstance(targets, str) else ", ".join(f"`{each}`" for each in sorted(targets))
        leaves = Counter(path.rpartition(".")[2] for path in paths)
        shown = ", ".join(f"`{leaf}` ({count})" for leaf, count in leaves.most_common(8))
        return f"{len(paths)} module{'' if len(paths) == 1 else 's'}: {shown}{', …' if len(leaves) > 8 else ''}"

    # -- data and scores --------------------------------------------------------------------------------------

    @property
    def data_set(self) -> str | None:
        """The id on the Hub of the task's data set, where it has one."""
        task = str(self.settings.get("task", ""))
        return GLUE if task.startswith("glue/") else DATA_SETS.get(task)

    @property
    def scores(self) -> dict[str, tuple[float | None, float]]:
        """Metric -> before and after, on the held-out split."""
        before = _mapping(self.result.get("before"))
        after = _mapping(self.result.get("metrics"))
        return {name: (before.get(name), value) for name, value in after.items() if isinstance(value, (int, float))}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
