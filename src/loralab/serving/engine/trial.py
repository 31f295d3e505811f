"""Whether an engine writes with a model what the model itself would, and which of its modules see the rows apart: found
out by trial, not by name."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from loralab.errors import SpecError
from loralab.models.context import context_length
from loralab.nn.mode import evaluating
from loralab.nn.rounding import same_but_for_rounding
from loralab.serving.engine.beams import BeamSearch
from loralab.serving.engine.engine import Engine, EngineConfig
from loralab.serving.engine.hypotheses import BeamSettings
from loralab.serving.engine.request import Request, Token

LENGTHS, NEW = (11, 4), 3
"""Of the prompts that are tried together, and of their answers."""
TOLERANCE = 0.02
"""In nats a token, beside 64 roundings of the model's precision."""
SEARCH_TOLERANCE = 0.001
"""The same, of a hypothesis."""
UNFIT = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)
"""What a model raises that does not take the engine's cache, or its masks."""


def refuse_unservable(model: PreTrainedModel) -> None:
    """Raise SpecError for a model whose rows an engine would not keep apart, or that writes no text."""
    name = type(model).__name__
    if model.config.is_encoder_decoder or not model.can_generate():
        raise SpecError(f"{name} cannot be served: only models that continue a text can (causal language models)")
    if (context_length(model) or sum(LENGTHS)) < max(LENGTHS) + NEW:
        return
    try:
        off = _largest_difference(model)
    except UNFIT as error:
        raise SpecError(f"{name} cannot be served: the engine's cache does not fit it ({error})") from error
    allowed = TOLERANCE + 64 * torch.finfo(model.dtype).eps
    if not off <= allowed:
        raise SpecError(
            f"{name} cannot be served: a token's log-probability beside another request differs by {off:.2g} from what "
            f"it is alone (allowed {allowed:.2g}), so that requests would disturb each other"
        )


def refuse_unsearchable(model: PreTrainedModel) -> None:
    """Raise SpecError for a model whose beams would not be kept apart by the mask of a beam search."""
    name, prompts = type(model).__name__, [_prompt(model, length) for length in LENGTHS]
    settings = BeamSettings(beams=3, max_new_tokens=2 * NEW, length_penalty=0)
    try:
        found = list(BeamSearch(model, settings, len(prompts)).run(prompts))
        off = max(abs(each.score - _plain_score(model, prompts[each.number], each.ids)) for each in found)
    except UNFIT as error:
        raise SpecError(f"{name}: a beam search of our own does not fit it ({error})") from error
    allowed = (SEARCH_TOLERANCE + 64 * torch.finfo(model.dtype).eps) * 2 * NEW
    if not off <= allowed:
        raise SpecError(
            f"{name}: the score of a hypothesis differs by {off:.2g} from what it is alone (allowed {allowed:.2g}), so "
            "that beams would disturb each other"
        )


def modules_with_rows(model: PreTrainedModel) -> frozenset[str]:
    """Paths of the modules that have one input for every row of the batch, in its order: the ones that adapters of
    different rows can be on. An expert that is given some tokens is none of them.
    """
    without_cache = {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}
    marked, ids = _Marked(), [_prompt(model, 4), _prompt(model, 5)[1:]]
    handles = [each.register_forward_hook(marked.hook(path)) for path, each in model.named_modules()]
    try:
        with torch.inference_mode(), evaluating(model):
            for rows in (ids, ids[::-1]):
                model(input_ids=torch.tensor(rows, device=model.device), **without_cache)
                marked.turn()
    finally:
        for handle in handles:
            handle.remove()
    return frozenset(marked.apart)


class _Marked:
    """What every module was given, in two passes between which the rows changed places."""

    def __init__(self) -> None:
        self.apart: set[str] = set()
        self._now: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] | None = None

    def hook(self, path: str) -> Any:
        """Notes the input of a module."""

        def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor) and args[0].is_floating_point():
                self._now[path] = args[0]

        return note

    def turn(self) -> None:
        """After a pass; after the second, whose inputs are the first's in the other order?"""
        if self._before is not None:
            self.apart = {path for path, x in self._now.items() if _is_swapped(x, self._before.get(path))}
        self._before, self._now = self._now, {}


def _is_swapped(x: Tensor, before: Tensor | None) -> bool:
    if before is None or x.shape != before.shape or x.dim() < 2 or x.numel() % 2:
        return False
    return same_but_for_rounding(x.reshape(2, -1), before.reshape(2, -1).flip(0), x.dtype)


def _largest_difference(model: PreTrainedModel) -> float:
    """In nats, over the tokens of two requests that are answered together."""
    engine = Engine(model, EngineConfig(rows=2, length=max(LENGTHS) + NEW, chunk=8, fused=False))
    requests = [Request(prompt=_prompt(model, length), max_new_tokens=NEW, logprobs=0) for length in LENGTHS]
    for request in requests:
        engine.submit(request)
    tokens = [event for event in engine.run() if isinstance(event, Token)]
    return max(
        _difference(model, request, [each for each in tokens if each.request is request]) for request in requests
    )


def _difference(model: PreTrainedModel, request: Request, tokens: list[Token]) -> float:
    """Between what the engine and what one plain pass over the whole text say of the answer's tokens."""
    plain_T = _plain_logprobs(model, request.prompt, [token.id for token in tokens])
    told_T = torch.tensor([token.logprob or 0.0 for token in tokens], device=model.device)
    return float((plain_T - told_T).abs().max())


def _plain_score(model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int]) -> float:
    """Σ log p of new tokens."""
    return float(_plain_logprobs(model, prompt, ids).sum())


def _plain_logprobs(model: PreTrainedModel, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """[T] in nats, of new tokens, by one plain pass over the whole text."""
    text = torch.tensor([[*prompt, *ids]], device=model.device)
    with torch.inference_mode(), evaluating(model):
        logits_TV: Tensor = model(input_ids=text, use_cache=False).logits[0]
    logprobs_TV = logits_TV[len(prompt) - 1 : -1].float().log_softmax(-1)
    return logprobs_TV.gather(1, text[0, len(prompt) :, None])[:, 0]


def _prompt(model: PreTrainedModel, length: int) -> tuple[int, ...]:
    """Any tokens."""
    vocabulary = model.config.get_text_config().vocab_size
    return tuple((7 * place + 5) % min(vocabulary, 1000) for place in range(length))
