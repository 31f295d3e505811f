"""Whether an engine writes with a model what the model itself would: found out by trial, not by name."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loralab.errors import SpecError
from loralab.models.context import context_length
from loralab.nn.mode import evaluating
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.request import Request, Token

LENGTHS, NEW = (11, 4), 3
"""Of the prompts that are tried together, and of their answers."""
TOLERANCE = 0.02
"""In nats a token, beside 64 roundings of the model's precision."""


def refuse_unservable(model: PreTrainedModel) -> None:
    """Raise SpecError for a model whose rows an engine would not keep apart, or that writes no text."""
    name = type(model).__name__
    if model.config.is_encoder_decoder or not model.can_generate():
        raise SpecError(f"{name} cannot be served: only models that continue a text can (causal language models)")
    if (context_length(model) or sum(LENGTHS)) < max(LENGTHS) + NEW:
        return
    try:
        off = _largest_difference(model)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        raise SpecError(f"{name} cannot be served: the engine's cache does not fit it ({error})") from error
    allowed = TOLERANCE + 64 * torch.finfo(model.dtype).eps
    if not off <= allowed:
        raise SpecError(
            f"{name} cannot be served: a token's log-probability beside another request differs by {off:.2g} from what "
            f"it is alone (allowed {allowed:.2g}), so that requests would disturb each other"
        )


def _largest_difference(model: PreTrainedModel) -> float:
    """In nats, over the tokens of two requests that are answered together."""
    engine = Engine(model, EngineConfig(rows=2, length=max(LENGTHS) + NEW, chunk=8))
    requests = [Request(prompt=_prompt(model, length), max_new_tokens=NEW, logprobs=0) for length in LENGTHS]
    for request in requests:
        engine.submit(request)
    tokens = [event for event in engine.run() if isinstance(event, Token)]
    return max(
        _difference(model, request, [each for each in tokens if each.request is request]) for request in requests
    )


def _difference(model: PreTrainedModel, request: Request, tokens: list[Token]) -> float:
    """Between what the engine and what one plain pass over the whole text say of the answer's tokens."""
    ids = [*request.prompt, *(token.id for token in tokens)]
    with torch.inference_mode(), evaluating(model):
        logits_TV: Tensor = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0]
    logprobs_TV = logits_TV[len(request.prompt) - 1 : -1].float().log_softmax(-1)
    plain_T = logprobs_TV.gather(1, torch.tensor([[token.id] for token in tokens], device=model.device))[:, 0]
    told_T = torch.tensor([token.logprob or 0.0 for token in tokens], device=model.device)
    return float((plain_T - told_T).abs().max())


def _prompt(model: PreTrainedModel, length: int) -> tuple[int, ...]:
    """Any tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    return tuple((7 * place + 5) % min(vocabulary, 1000) for place in range(length))
