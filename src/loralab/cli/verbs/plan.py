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


def run(config: PlanConfig) -> Answer:
    """Plan; the answer is the plan."""
    from loralab.planning.plan import plan

    return plan(config).to_json()


def show(answer: Answer) -> None:
    """What trains, what is stored, and the memory part by part."""
    share = answer["trainable_params"] / answer["total_params"]
    head = f", and {answer['head_params']:,} of a head" if answer["head_params"] else ""
    show_lines(
        f"{answer['model']}, {answer['method']}",
        f"trains {answer['trainable_params']:,} of {answer['total_params']:,} parameters ({share:.4%}){head}",
        f"stores {readable_bytes(answer['adapter_bytes'])} of adapter",
        _storage(answer["tasks"]),
        f"memory at batch {answer['batch_size']}, {answer['sequence_length']} tokens, {answer['dtype']}:",
        indent="  ",
    )
    for name, meaning in MEMORY.items():
        print(f"  {name.ljust(12)}{readable_bytes(answer['memory'][name]).rjust(10)}  {meaning}".rstrip())
    show_lines(*answer["notes"], indent="  ")


def _storage(tasks: Answer) -> str:
    together, copies = readable_bytes(tasks["with_adapters"]), readable_bytes(tasks["with_copies"])
    return f"{tasks['count']:,} tasks in 16 bits: {together} with adapters, {copies} as whole models"


VERB = Verb(
    PlanConfig,
    run,
    show,
    essentials=ESSENTIALS,
    example="loralab plan --model gpt3-175b --method lora --rank 4 --targets q,v \\\n  --dtype float16 --batch-size 1",
)
