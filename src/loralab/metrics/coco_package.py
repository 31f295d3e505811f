"""pycocoevalcap, an optional package: the captioning metrics of MS COCO. It knows nothing of texts."""

from importlib import import_module
from types import ModuleType

from loralab.errors import MissingDependencyError

INSTALL = "pip install 'loralab[metrics]'"


def coco_module(name: str) -> ModuleType:
    """One of the package's modules, such as "cider.cider". Raises `MissingDependencyError` where it is not installed.

    It is imported here and not at the top of a file, as the package (104 MB) is optional.
    """
    try:
        return import_module(f"pycocoevalcap.{name}")
    except ImportError as error:
        raise MissingDependencyError(f"pycocoevalcap cannot be imported ({error}); {INSTALL}") from error
