"""The Hugging Face Hub, as far as more than one module asks for it. It knows nothing of models and adapters."""

from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

HUB_ERRORS: tuple[type[Exception], ...] = HfHubHTTPError.__bases__
"""What a call of the Hub raises: the errors of the HTTP library that huggingface_hub uses, whichever it is, and
OSError."""
PATIENCE_SECONDS = 10.0


def is_available(name: str) -> bool:
    """Whether the model of this id has been downloaded, or can be."""
    if isinstance(try_to_load_from_cache(name, "model.safetensors"), str):
        return True
    if is_offline_mode():
        return False
    try:
        HfApi().model_info(name, timeout=PATIENCE_SECONDS)
    except HUB_ERRORS:
        return False
    return True
