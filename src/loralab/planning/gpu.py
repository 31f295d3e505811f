"""What a GPU holds beside the tensors: estimates from what others measured and published, none of them measured here.

context    426 MiB on an RTX 6000 Ada before the first kernel (torch 2.10, CUDA 13.0: unslothai/unsloth-zoo, pull
           request 1053); some 300 to 400 MB on other cards (pytorch/pytorch, issues 107667 and 109888). Kernels are
           loaded as they are used and come to it; here 550 MB.
cuBLAS     8.5 MB for every handle and stream (4 MiB twice and 16 KiB eight times; discuss.pytorch.org, topic 178671),
           32 MiB on Hopper (pytorch/pytorch, pull request 120925). The forward and the backward pass have a thread, and
           so a handle, each; here Hopper's twice.
allocator  What torch's caching allocator reserves and nothing uses. GMLake (arXiv 2401.08156) found 15% on average, up
           to 33%, in fine-tuning eight language models; weights are allocated once, so here 15% of the activations,
           and a segment that is only begun.
buckets    Distributed data parallel copies gradients into buckets, which together are as large as they are (torch's
           documentation of `gradient_as_bucket_view`).
"""

import re

from loralab.errors import SpecError

CONTEXT_BYTES = 550_000_000
CUBLAS_BYTES = 2 * 32 * 2**20
IDLE_SHARE = 0.15
"""Of the activations."""
SEGMENT_BYTES = 20 * 2**20
"""What the allocator asks for at once for a tensor of 1 to 10 MiB."""
NOTE = (
    "memory of a GPU: estimated from figures that others published (CUDA's context, cuBLAS, the allocator), never "
    "measured here; leave a tenth free"
)

_UNITS = {
    "": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def bytes_of(text: str) -> int:
    """`24GB` (10⁹), `24GiB` (2³⁰), `800 MB`, or a number of bytes. Raises SpecError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    size = 0 if match is None or unit is None else int(float(match[1]) * unit)
    if size < 1:
        raise SpecError(f"gpu_memory {text!r} is no size: give it as 24GB (10⁹ bytes) or 24GiB (2³⁰)")
    return size


def process_bytes() -> int:
    """Of a process that has used the GPU."""
    return CONTEXT_BYTES + CUBLAS_BYTES


def idle_bytes(activations: int) -> int:
    """Reserved and not in use."""
    return int(IDLE_SHARE * activations) + SEGMENT_BYTES
