"""The classifying route: from texts and pairs to labels and probabilities, each by the adapter that was asked for."""

import asyncio
import time
from typing import Any
from uuid import uuid4

from torch import Tensor

from loralab.errors import NumericsError, SpecError
from loralab.serving.classifying.service import ClassifyRequest
from loralab.serving.http.bodies import ClassifyBody, PairBody
from loralab.serving.http.completing import TOO_LONG
from loralab.serving.http.server import Refused, Server
from loralab.serving.http.shapes import usage
from loralab.serving.registry import Version
from loralab.tasks.encoding.encoded import Encoded
from loralab.tasks.encoding.tokens import empty_text_id


async def classified(server: Server, body: ClassifyBody) -> dict[str, object]:
    """The answer, as vLLM writes it."""
    service, counts = server.classifier, server.counts
    try:
        async with asyncio.timeout(server.config.seconds):
            version = await server.version(body.model)
            if version is None and server.labels is None:
                raise Refused(400, f"{body.model} has no head that was trained: name one of its adapters")
            asked = [
                ClassifyRequest(each, version) for each in await asyncio.to_thread(_encoded, server, version, body)
            ]
            read = sum(len(each.encoded.input_ids) for each in asked)
            counts.requests[body.model] += len(asked)
            counts.prompt_tokens[body.model] += read
            found = await _outputs(service.ask, asked)
    except TimeoutError:
        raise Refused(504, TOO_LONG) from None
    except NumericsError as problem:
        raise Refused(500, str(problem)) from problem
    return {
        "id": f"classify-{uuid4().hex}",
        "object": "list",
        "created": int(time.time()),
        "model": body.model,
        "data": [{"index": index, **_told(server, version, outputs_C)} for index, outputs_C in enumerate(found)],
        "usage": usage(read, 0),
    }


async def _outputs(ask: Any, asked: list[ClassifyRequest]) -> list[Tensor]:
    """Of all of them; whoever stops waiting for these ends them."""
    try:
        for each in asked:
            ask(each)
        return await asyncio.gather(*(asyncio.wrap_future(each.outputs) for each in asked))
    finally:
        for each in asked:
            each.outputs.cancel()


def _encoded(server: Server, version: Version | None, body: ClassifyBody) -> list[Encoded]:
    """As the tokenizer joins them, in training as well. SpecError for what is longer than the model reads."""
    tokenizer, found = server.codec_of(version).tokenizer, []
    for index, each in enumerate(body.inputs):
        one, other = (each.text, each.text_pair) if isinstance(each, PairBody) else (each, None)
        whole = tokenizer(one, other, verbose=False)
        ids, kinds = whole["input_ids"], whole.get("token_type_ids")
        if not ids:
            ids, kinds = [empty_text_id(tokenizer)], None if kinds is None else [0]
        if len(ids) > server.longest:
            raise SpecError(f"input {index} has {len(ids)} tokens; at most {server.longest} can be read: shorten it")
        found.append(Encoded(ids, None, kinds))
    return found


def _told(server: Server, version: Version | None, outputs_C: Tensor) -> dict[str, Any]:
    """The label and its probabilities; of one output that is no class, the value."""
    head = None if version is None else version.head
    labels = (server.labels or ()) if head is None else head.labels
    if head is not None and head.is_value:
        return {"label": None, "probs": [], "num_classes": 1, "scores": {}, "value": float(outputs_C[0])}
    probabilities_C = (outputs_C.softmax(-1) if len(outputs_C) > 1 else outputs_C.sigmoid()).tolist()
    best = int(outputs_C.argmax())
    return {
        "label": labels[best],
        "probs": probabilities_C,
        "num_classes": len(probabilities_C),
        "scores": dict(zip(labels, probabilities_C, strict=True)),
    }
