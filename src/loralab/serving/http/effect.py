"""How much an adapter changes the model: the share of the next token's probability that it moves.

    ½ Σ_v |p_adapter(v) − p_base(v)|        averaged over a few prompts; 0: nothing, 1: all of it

(the total variation distance). The engine itself is asked, so that it is measured as it is served.
"""

import asyncio
from contextlib import aclosing

import torch
from torch import Tensor

from loralab.formats.probe import SENTENCES
from loralab.serving.engine.request import Request
from loralab.serving.http.answering import pieces
from loralab.serving.http.server import Refused, Server
from loralab.serving.registry import Version


async def effect_of(server: Server, version: Version) -> float:
    """Of this content, measured once."""
    known = server.effects.get(version.key)
    if known is not None:
        return known
    distances = [await _distance(server, prompt, version) for prompt in _prompts(server)]
    effect = sum(distances) / len(distances)
    server.effects.put(version.key, effect)
    return effect


def _prompts(server: Server) -> list[tuple[int, ...]]:
    """The probe, as far as it fits."""
    most = server.service.engine.length - 1
    return [ids[:most] for sentence in SENTENCES if (ids := server.codec.prompt_ids(sentence))]


async def _distance(server: Server, prompt: tuple[int, ...], version: Version) -> float:
    with server.admitted(2):
        own_V, base_V = await asyncio.gather(
            _probabilities(server, prompt, version), _probabilities(server, prompt, None)
        )
    return float((own_V - base_V).abs().sum() / 2)


async def _probabilities(server: Server, prompt: tuple[int, ...], version: Version | None) -> Tensor:
    """Of every token [V] behind the prompt."""
    key = None if version is None else version.key
    request = Request(prompt=prompt, max_new_tokens=1, adapter=key, logprobs=server.vocabulary)
    deadline = asyncio.get_running_loop().time() + server.config.seconds
    async with aclosing(pieces(server.service, server.codec.tokenizer, request, version, (), deadline)) as found:
        async for piece in found:
            for token in piece.tokens:
                ids, logprobs = zip(*token.likeliest, strict=True)
                return torch.zeros(server.vocabulary).index_put((torch.tensor(ids),), torch.tensor(logprobs).exp())
    raise Refused(500, "the model's scores are not finite; no effect can be measured")
