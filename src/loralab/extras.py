"""The packages that are not always installed: which extra brings each, and what is said where one is missing.

Nothing of them is imported at the top of a file. `lazy` stands for a module there and loads it when something of it is
first used, so that every file of loralab can be imported without any of them; `require` refuses before the work
starts what would fail at its end. `deferred` stands for a module that is there but slow to load, in the files that
verbs without a model read too (`transformers` is the one that most of these need). It knows nothing of what the
packages are for.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from loralab.errors import MissingDependencyError

EXTRAS: Mapping[str, Mapping[str, str]] = {
    "board": {"tensorboard": "tensorboard"},
    "cluster": {"ray": "ray"},
    "data": {"datasets": "datasets", "pyarrow": "pyarrow"},
    "gguf": {"accelerate": "accelerate", "gguf": "gguf"},
    "images": {"PIL": "pillow"},
    "liger": {"accelerate": "accelerate", "liger_kernel": "liger-kernel"},
    "metrics": {
        "pycocoevalcap": "pycocoevalcap",
        "rouge_score": "rouge-score",
        "sacrebleu": "sacrebleu",
        "scipy": "scipy",
        "sklearn": "scikit-learn",
    },
    "mlflow": {"mlflow": "mlflow"},
    "plots": {"matplotlib": "matplotlib"},
    "serve": {"fastapi": "fastapi", "uvicorn": "uvicorn"},
    "trackio": {"trackio": "trackio"},
    "wandb": {"wandb": "wandb"},
}
"""Extra -> what Python imports -> what pip installs, as in pyproject.toml."""

APART = ("cluster", "liger", "mlflow", "trackio", "wandb")
"""Extras that are not part of `all`: each is a service of its own, of which one has at most one, or needs a GPU."""


def lacking(extra: str) -> list[str]:
    """The packages of an extra that are not installed, as pip calls them."""
    return [package for module, package in EXTRAS[extra].items() if find_spec(module) is None]


def require(extra: str, asked: str) -> None:
    """Raises `MissingDependencyError` where a package of the extra is missing; `asked` is what needs it."""
    if missing := lacking(extra):
        raise MissingDependencyError(
            f"{asked} needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            f"run: {install(extra)}"
        )


def install(*extras: str) -> str:
    """The command that installs extras."""
    return f"pip install 'loralab[{','.join(extras)}]'"


def deferred(name: str) -> Any:
    """The module `name`, which is always installed and takes seconds to load: it is loaded where it is first used."""
    return _Deferred(name)


def lazy(name: str, extra: str) -> Any:
    """The module `name`, which belongs to an extra. `MissingDependencyError` where it is used and is not installed."""
    return _Lazy(name, extra)


class _Deferred(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)

    def __dir__(self) -> list[str]:
        return dir(import_module(self.__name__))


class _Lazy(ModuleType):
    """The same for a module that may be missing."""

    def __init__(self, name: str, extra: str) -> None:
        super().__init__(name)
        self._extra = extra

    def __getattr__(self, name: str) -> Any:
        return getattr(_load(self.__name__, self._extra), name)


def _load(name: str, extra: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"{name} cannot be imported ({error}); run: {install(extra)}") from error


if TYPE_CHECKING:
    import transformers as transformers
else:
    transformers = deferred("transformers")
