"""A small language model on disk with an adapter that learned its task: for the analyses that measure one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import loralab as ll
from loralab.models.load import load_model
from loralab.tasks.encoding.batches import collate
from loralab.tasks.encoding.encode import encode_examples, padding_id
from loralab.tasks.table import open_task
from tiny import write_llama, write_pairs

TARGETS = ("q_proj", "v_proj", "o_proj", "down_proj")


@dataclass(frozen=True)
class Trained:
    """Where everything is."""

    model: Path
    data: Path
    adapter: Path

    @property
    def flags(self) -> list[str]:
        """What names them on the command line."""
        named = {"--model": self.model, "--adapter": self.adapter, "--task": "jsonl", "--data": self.data}
        return [str(word) for pair in named.items() for word in pair] + ["--dtype", "float32"]


def train_adapter(folder: Path, rank: int = 4, targets: Sequence[str] = TARGETS, steps: int = 40) -> Trained:
    """A rank-4 adapter after some steps on the letters of `write_pairs`, with plain torch."""
    found = Trained(write_llama(folder / "model"), write_pairs(folder / "data"), folder / "adapter")
    loaded = load_model(str(found.model), kind="generation", dtype="float32")
    task = open_task("jsonl", str(found.data))
    encoded = encode_examples(task, task.examples("train"), loaded.processor, 64).encoded
    batch = collate(encoded, padding_id(loaded.processor))
    adapter = ll.attach(loaded.model, ll.LoRA(rank=rank, alpha=2 * rank, targets=list(targets)))
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loaded.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
        ).loss
        loss.backward()
        optimizer.step()
    ll.save(adapter, found.adapter, model=loaded.model)
    return found
