"""Which device a model goes to. It knows nothing of models."""

import torch

from loralab.errors import SpecError


def choose_device(requested: str = "auto") -> torch.device:
    """The device asked for; "auto" is the first of CUDA and Apple's MPS that is there, else the CPU.

    Raises `SpecError` for a name that is no device, or a device that is not there.
    """
    if requested == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return torch.device("cpu") if accelerator is None else torch.device(accelerator.type)
    try:
        device = torch.device(requested)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError(f"device {requested!r} cannot be used: {reason}; try auto or cpu") from error
    return device
