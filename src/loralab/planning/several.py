"""The memory of adapters that train side by side on one base: the base, the data and the largest pass once, all that
trains as often as there are adapters.

    weights      the base, and what all train         gradients, optimizer    of all
    activations  of the largest pass                  process, data           as of one

Runs whose batches are small and that draw no random numbers go through in one pass, as many as `MOST_TOKENS` admits:
that is tried on the first steps, whatever is chosen after them, and so is the peak.
"""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from loralab.core.adapter import Adapter
from loralab.methods.counts import parameter_counts
from loralab.planning.memory import Memory, estimate
from loralab.planning.shape import FLOAT32, Workload, shape_of

MOST_TOKENS = 2048
"""In one pass, were all rows as long as the longest: on a CPU larger products are hardly faster, and every token takes
memory."""


def estimate_several(model: PreTrainedModel, adapters: Sequence[Adapter], work: Workload) -> Memory:
    """The memory of training `adapters`, all attached on `model`, where one run's largest batch is `work`."""
    passed = joint_workload(model, adapters, work)
    each = [estimate(model, adapter, passed) for adapter in adapters]
    largest = max(each, key=lambda memory: memory.activations)
    trained = [parameter_counts(adapter, model).trained * FLOAT32 for adapter in adapters]
    gradients = sum(memory.gradients for memory in each)
    return replace(
        largest,
        weights=min(memory.weights - own for memory, own in zip(each, trained, strict=True)) + sum(trained),
        gradients=gradients,
        optimizer=sum(memory.optimizer for memory in each),
        allocator=max(0, largest.allocator - (gradients - largest.gradients)),
    )


def joint_workload(model: PreTrainedModel, adapters: Sequence[Adapter], work: Workload) -> Workload:
    """The largest pass: one run's batch, or those of as many runs as may be one."""
    shape = shape_of(model, work)
    alone = shape.hidden_dropout or shape.attention_dropout or not all(map(mixes, adapters))
    runs = 1 if alone else runs_in_a_pass(len(adapters), work.batch * work.tokens)
    return replace(work, batch=runs * work.batch, targets=runs * work.targets)


def runs_in_a_pass(runs: int, tokens: int) -> int:
    """How many of `runs` may be one pass, where a batch of each has so many tokens."""
    return min(runs, max(1, MOST_TOKENS // tokens))


def mixes(adapter: Adapter) -> bool:
    """Whether rows under this adapter and rows under others can be one batch: it is low-rank updates and a head."""
    return all(update.can_mix() or adapter.in_head(path) for path, update in adapter.updates.items())
