"""`loralab plan`: parameters, bytes on disk and memory of a training, before a weight is loaded."""

from loralab.cli.flags import ESSENTIALS
from loralab.cli.showing import readable_bytes, show_lines
from loralab.cli.verb import Answer, Verb
from loralab.planning.config import PlanConfig

MEMORY = {
    "weights": "base, and what trains",
    "gradients": "float32",
    "optimizer": "AdamW, two moments",
    "activations": "kept for the backward pass",
    "process": "Python and libraries",
    "data": "encoded training set",
    "allocator": "held by the heap, not in use",
    "total": "",
}
ON_GPU = {
    "process": "CUDA's context and cuBLAS",
    "data": "stays on the host",
    "allocator": "reserved and not in use",
}


def run(config: PlanConfig) -> Answer:
    """Plan; the answer is the plan."""
    from loralab.planning.plan import plan

    return plan(config).to_json()


def show(answer: Answer) -> None:
    """What trains, what is stored, the memory part by part, and whether it fits."""
    share = answer["trainable_params"] / answer["total_params"]
    head = f", and {answer['head_params']:,} of a head" if answer["head_params"] else ""
    gpus = f" on {answer['gpus']} GPUs, of each" if answer["gpus"] > 1 else ""
    several = f" of each of {answer['adapters']} adapters" if answer["adapters"] > 1 else ""
    show_lines(
        f"{answer['model']}, {answer['method']}",
        f"trains {answer['trainable_params']:,} of {answer['total_params']:,} parameters ({share:.4%}){head}",
        f"stores {readable_bytes(answer['adapter_bytes'])} of adapter",
        _storage(answer["tasks"]),
        f"memory at batch {answer['batch_size']}{several}{gpus}, "
        f"{answer['sequence_length']} tokens, {answer['dtype']}:",
        indent="  ",
    )
    meanings = MEMORY | (ON_GPU if answer["device"] == "cuda" else {})
    for name, meaning in meanings.items():
        print(f"  {name.ljust(12)}{readable_bytes(answer['memory'][name]).rjust(10)}  {meaning}".rstrip())
    if answer["gpus"] > 1:
        show_lines(_sent(answer["wire"]), indent="  ")
    if answer["fit"] is not None:
        show_lines(*_verdict(answer["fit"]), indent="     ")
    show_lines(*answer["notes"], indent="  ")


def _verdict(fit: Answer) -> list[str]:
    """Whether it fits, the largest batch, and what to change."""
    room, most = readable_bytes(fit["gpu_bytes"]), fit["largest_batch"]
    largest = f"largest batch that fits as it is: {most:,}" if most else "not one example fits as it is"
    if fit["fits"]:
        return [f"fits {room}, with {readable_bytes(fit['spare'])} to spare; {largest}"]
    lines = [f"does NOT fit {room}: {readable_bytes(-fit['spare'])} too much; {largest}"]
    for number, each in enumerate(fit["changes"], start=1):
        after = f"{readable_bytes(each['total'])}{', fits' if each['fits'] else ''}"
        lines.append(f"  {number}. {each['change']} ({each['flags']}): saves {readable_bytes(each['saves'])} → {after}")
    if fit["flags"] is None:
        return [*lines, "nothing here makes it fit: a larger GPU, or a smaller model"]
    return [*lines, f"train with: {fit['flags']}"]


def _sent(wire: Answer) -> str:
    base = f", and {readable_bytes(wire['base_per_batch'])} of the base a batch" if wire["base_per_batch"] else ""
    return f"each GPU sends {readable_bytes(wire['adapter_per_step'])} of gradients a step{base}"


def _storage(tasks: Answer) -> str:
    together, copies = readable_bytes(tasks["with_adapters"]), readable_bytes(tasks["with_copies"])
    return f"{tasks['count']:,} tasks in 16 bits: {together} with adapters, {copies} as whole models"


VERB = Verb(
    PlanConfig,
    run,
    show,
    essentials=(*ESSENTIALS, "gpu_memory", "gpus", "shard", "gradient_checkpointing", "quantize"),
    example=(
        "loralab plan --model gpt3-175b --method lora --rank 4 --targets q,v \\\n  --dtype float16 --batch-size 1\n"
        "loralab plan --model llama-3-8b --targets all-linear --gpu-memory 24GB"
    ),
)
