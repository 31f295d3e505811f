"""Whether a model may begin with what was read of a prompt before: found out by trial, not by its name.

It may where keys and values of every token are all that it keeps. One with a state beside them (a recurrent layer's,
say) answers otherwise the second time, and reads every prompt whole.
"""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from loralab.models.context import context_length
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.request import Request, Token

LENGTH, BLOCK, NEW = 15, 4, 2


def why_not_reused(model: PreTrainedModel) -> str:
    """Why beginnings of prompts are not kept for this model; empty where they can be."""
    if (context_length(model) or LENGTH + NEW) < LENGTH + NEW:
        return f"the model's context is shorter than {LENGTH + NEW} tokens"
    sizes = EngineConfig(rows=2, length=LENGTH + NEW, chunk=8, prefix_bytes=2**30, prefix_block=BLOCK)
    engine = Engine(model, replace(sizes, fused=False))
    vocabulary = model.config.get_text_config().vocab_size
    prompt = tuple((5 * place + 3) % min(vocabulary, 1000) for place in range(LENGTH))
    first, second = (_told(engine, Request(prompt=prompt, max_new_tokens=NEW, logprobs=0)) for _ in range(2))
    engine.bank.close()
    if engine.prefixes.why_off:
        return engine.prefixes.why_off
    if not first or not engine.prefixes.reused:
        return "nothing of a prompt was known when it came again"
    if not torch.equal(torch.tensor(first), torch.tensor(second)):
        return "a prompt that came again was answered otherwise"
    return ""


def _told(engine: Engine, request: Request) -> list[tuple[float, float]]:
    """Tokens and their logprobs."""
    engine.submit(request)
    return [(float(event.id), event.logprob or 0.0) for event in engine.run() if isinstance(event, Token)]
