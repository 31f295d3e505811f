"""loralab: the workbench for low-rank adaptation.

This page is the public API. Nothing happens at import: each name is loaded from its module when it is first used,
so that `import loralab` (and the command line's `--help`) does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loralab.core.adapter import Adapter as Adapter
    from loralab.core.adapter import AdapterSet as AdapterSet
    from loralab.core.adapter import adapters_of as adapters_of
    from loralab.core.attach import activate as activate
    from loralab.core.attach import attach as attach
    from loralab.core.attach import detach as detach
    from loralab.core.attach import disabled as disabled
    from loralab.core.attach import rows as rows
    from loralab.core.combine import combine as combine
    from loralab.core.merge import MergeReport as MergeReport
    from loralab.core.merge import merge as merge
    from loralab.core.merge import unmerge as unmerge
    from loralab.core.rows.invocation import invocation_starts as invocation_starts
    from loralab.errors import AdapterFileError as AdapterFileError
    from loralab.errors import AdapterStateError as AdapterStateError
    from loralab.errors import DataError as DataError
    from loralab.errors import FingerprintError as FingerprintError
    from loralab.errors import LoralabError as LoralabError
    from loralab.errors import MissingDependencyError as MissingDependencyError
    from loralab.errors import ModelLoadError as ModelLoadError
    from loralab.errors import NotFoundError as NotFoundError
    from loralab.errors import NumericsError as NumericsError
    from loralab.errors import OutputError as OutputError
    from loralab.errors import SpecError as SpecError
    from loralab.errors import TargetError as TargetError
    from loralab.errors import TrainingError as TrainingError
    from loralab.errors import UnknownAdapterError as UnknownAdapterError
    from loralab.evaluation.evaluate import evaluate as evaluate
    from loralab.formats.folder import load as load
    from loralab.formats.folder import save as save
    from loralab.methods.adamix import AdaMix as AdaMix
    from loralab.methods.adamix_adapter import AdaMixAdapter as AdaMixAdapter
    from loralab.methods.bitfit import BitFit as BitFit
    from loralab.methods.bottleneck import BottleneckAdapter as BottleneckAdapter
    from loralab.methods.eva.method import attach_eva as attach_eva
    from loralab.methods.full import FullFineTune as FullFineTune
    from loralab.methods.lora import LoRA as LoRA
    from loralab.methods.lora_xs import LoRAXS as LoRAXS
    from loralab.methods.multilora import MultiLoRA as MultiLoRA
    from loralab.methods.prefix.method import PrefixEmbedding as PrefixEmbedding
    from loralab.methods.prefix.method import PrefixLayer as PrefixLayer
    from loralab.methods.projected import GaLore as GaLore
    from loralab.methods.projected import Grass as Grass
    from loralab.methods.tied import TiedLoRA as TiedLoRA
    from loralab.methods.vera import VeRA as VeRA
    from loralab.planning.config import PlanConfig as PlanConfig
    from loralab.planning.plan import plan as plan
    from loralab.training.config import TrainConfig as TrainConfig
    from loralab.training.run import train as train

_HOME = {
    "AdaMix": "methods.adamix",
    "AdaMixAdapter": "methods.adamix_adapter",
    "Adapter": "core.adapter",
    "AdapterSet": "core.adapter",
    "adapters_of": "core.adapter",
    "BitFit": "methods.bitfit",
    "BottleneckAdapter": "methods.bottleneck",
    "FullFineTune": "methods.full",
    "GaLore": "methods.projected",
    "Grass": "methods.projected",
    "LoRA": "methods.lora",
    "LoRAXS": "methods.lora_xs",
    "MergeReport": "core.merge",
    "MultiLoRA": "methods.multilora",
    "PlanConfig": "planning.config",
    "PrefixEmbedding": "methods.prefix.method",
    "PrefixLayer": "methods.prefix.method",
    "TiedLoRA": "methods.tied",
    "TrainConfig": "training.config",
    "VeRA": "methods.vera",
    "activate": "core.attach",
    "attach": "core.attach",
    "attach_eva": "methods.eva.method",
    "combine": "core.combine",
    "detach": "core.attach",
    "disabled": "core.attach",
    "evaluate": "evaluation.evaluate",
    "invocation_starts": "core.rows.invocation",
    "load": "formats.folder",
    "merge": "core.merge",
    "plan": "planning.plan",
    "rows": "core.attach",
    "save": "formats.folder",
    "train": "training.run",
    "unmerge": "core.merge",
} | dict.fromkeys(
    (
        "AdapterFileError",
        "AdapterStateError",
        "DataError",
        "FingerprintError",
        "LoralabError",
        "MissingDependencyError",
        "ModelLoadError",
        "NotFoundError",
        "NumericsError",
        "OutputError",
        "SpecError",
        "TargetError",
        "TrainingError",
        "UnknownAdapterError",
    ),
    "errors",
)

__version__ = "0.1.0"
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'loralab' has no attribute {name!r}")
    value = getattr(import_module(f"loralab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
