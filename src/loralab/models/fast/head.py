"""The loss of a language model at its target positions: body, then head, in chunks, logits never whole.

A causal language model of transformers is a body (ids -> hidden states) and an output head. Most compute
`logits = head(body(ids))`, some cap or scale what the head gives; then the loss needs the head at the target positions
alone. Whether a model is like that is found out by running it once on the first batch's first tokens, bit for bit; one
that is not is run whole and its own logits are used. An encoder-decoder is run whole, but for its head. It knows
nothing of LoRA, tasks or optimizers.

Shapes: B sequences, T tokens, N target positions, H hidden width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralab.models.fast.cross_entropy import position_losses, sum_cross_entropy, trains
from loralab.models.padding import padding_lent
from loralab.nn.mode import evaluating
from loralab.nn.targets import IGNORED

PROBE_TOKENS = 8
Transform = Callable[[Tensor], Tensor]
"""What some families make of the head's numbers before they are logits."""
SHIFT = "prepare_decoder_input_ids_from_labels"
"""What transformers calls the function by which an encoder-decoder makes its decoder's input."""
AT_TARGETS = "the output head runs at target positions only, in chunks"


@dataclass(frozen=True)
class Route:
    """How the loss of one model is computed, and why."""

    split: bool
    """The head is applied to the body's output at the target positions only."""
    causal: bool
    """A token's output does not depend on later tokens, so padding on the right needs no mask."""
    reason: str
    """A sentence for the log."""
    transform: Transform | None = None
    """What the model makes of the head's output before it calls it logits."""


_routes: WeakKeyDictionary[nn.Module, Route] = WeakKeyDictionary()


def target_loss_sum(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
    position_ids: Tensor | None = None,
) -> tuple[Tensor, int]:
    """The summed cross-entropy in nats (a float32 scalar, differentiable) and the number of target tokens.

    `input_ids` and `labels` are [B, T]; `labels[b, t]` is the token to predict at t, or `IGNORED`; causal models
    predict it from the tokens before t (transformers' convention: the shift is done here), encoder-decoders
    from the encoder's input. `attention_mask` is [B, T] with ones at real tokens, or None if all are real. With
    smoothing ε a token's loss is (1−ε)·(−log p) + ε·mean over the vocabulary of (−log p). `weights` [B] multiply the
    losses of each row's tokens, [B, T] those of each token. `position_ids` [B, T] are for rows of several examples.
    """
    if weights is not None and weights.ndim == 1:
        weights = weights[:, None].expand_as(labels)
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        return _decoders_loss(model, input_ids, attention_mask, labels, label_smoothing, weights)
    packed = {} if position_ids is None else {"position_ids": position_ids}
    route = loss_route(model, input_ids)
    mask = None if route.causal and _is_right_padded(attention_mask) else attention_mask
    if not route.split:
        logits = model(input_ids=input_ids, attention_mask=mask, use_cache=False, **packed).logits
        shifted = None if weights is None else weights[:, 1:]
        return _from_logits(logits[:, :-1], labels[:, 1:], label_smoothing, shifted)
    hidden_BTH = _body(model)(input_ids=input_ids, attention_mask=mask, use_cache=False, **packed)[0]
    where_N = (F.pad(labels[:, 1:], (0, 1), value=IGNORED) != IGNORED).flatten().nonzero().squeeze(1)
    hidden_NH = hidden_BTH.flatten(0, 1).index_select(0, where_N)
    targets_N = labels.flatten()[where_N + 1]
    weights_N = None if weights is None else weights.flatten()[where_N + 1]
    return sum_cross_entropy(hidden_NH, _head_of(model, route), targets_N, label_smoothing, weights_N), len(where_N)


def _decoders_loss(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    smoothing: float,
    weights: Tensor | None,
) -> tuple[Tensor, int]:
    """As `target_loss_sum`, of an encoder-decoder."""
    route = loss_route(model, input_ids, labels)
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    with padding_lent(model, 0):  # the decoder's input holds one where a target is padded, read by none
        if not route.split:
            return _from_logits(model(**inputs, labels=labels).logits, labels, smoothing, weights)
        hidden_BTH = _entering_head(model, inputs | {"decoder_input_ids": _shifted(model, labels)})
    where_N = (labels != IGNORED).flatten().nonzero().squeeze(1)
    hidden_NH, targets_N = hidden_BTH.flatten(0, 1).index_select(0, where_N), labels.flatten()[where_N]
    weights_N = None if weights is None else weights.flatten()[where_N]
    return sum_cross_entropy(hidden_NH, _head_of(model, route), targets_N, smoothing, weights_N), len(where_N)


def row_losses(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(Σ cross-entropy in nats over each row's targets [B], float32 or wider and differentiable; their number [B]).

    Arguments as of `target_loss_sum`; every row needs a target.
    """
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        with padding_lent(model, 0):
            logits_BTV = model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).logits
        return _row_sums(logits_BTV, labels, label_smoothing)
    route = loss_route(model, input_ids)
    mask = None if route.causal and _is_right_padded(attention_mask) else attention_mask
    if not route.split:
        logits_BTV = model(input_ids=input_ids, attention_mask=mask, use_cache=False).logits
        return _row_sums(logits_BTV[:, :-1], labels[:, 1:], label_smoothing)
    hidden_BTH = _body(model)(input_ids=input_ids, attention_mask=mask, use_cache=False)[0]
    return _row_losses_under(_head_of(model, route), hidden_BTH[:, :-1], labels[:, 1:], label_smoothing)


def _row_losses_under(
    head: nn.Module, hidden_BTH: Tensor, labels_BT: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Of hidden states that stand where their labels do; a head that trains is differentiated row by row."""
    wanted_BT = labels_BT != IGNORED
    if trains(head):
        rows = zip(hidden_BTH, labels_BT, wanted_BT, strict=True)
        losses = [sum_cross_entropy(hidden[wanted], head, right[wanted], smoothing) for hidden, right, wanted in rows]
        return torch.stack(losses), wanted_BT.sum(1)
    losses_N = position_losses(hidden_BTH[wanted_BT], head, labels_BT[wanted_BT], smoothing)
    row_N = wanted_BT.nonzero()[:, 0]
    return losses_N.new_zeros(len(labels_BT)).index_add(0, row_N, losses_N), wanted_BT.sum(1)


def _row_sums(logits_BTV: Tensor, labels_BT: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Σ cross-entropy and number of targets of each row."""
    sums = [_from_logits(*row, smoothing, None)[0] for row in zip(logits_BTV, labels_BT, strict=True)]
    return torch.stack(sums), (labels_BT != IGNORED).sum(1)


def loss_route(model: nn.Module, input_ids: Tensor, labels: Tensor | None = None) -> Route:
    """The route for this model, found out on the first tokens of `input_ids` [B, T] and remembered with the model.

    An encoder-decoder is given `labels` too.
    """
    if model not in _routes:
        first = input_ids[:, :PROBE_TOKENS]
        _routes[model] = _probe(model, first) if labels is None else _probe_decoder(model, first, labels)
    return _routes[model]


def _from_logits(
    logits_BTV: Tensor, labels_BT: Tensor, smoothing: float, weights_BT: Tensor | None
) -> tuple[Tensor, int]:
    wanted = labels_BT != IGNORED
    logits_NV, targets_N = logits_BTV[wanted].float(), labels_BT[wanted]
    if weights_BT is None:
        return F.cross_entropy(logits_NV, targets_N, reduction="sum", label_smoothing=smoothing), len(targets_N)
    losses_N = F.cross_entropy(logits_NV, targets_N, reduction="none", label_smoothing=smoothing)
    return losses_N @ weights_BT[wanted], len(targets_N)


def _body(model: nn.Module) -> nn.Module:
    body: nn.Module = model.base_model if model.base_model is not model else model.get_decoder()  # type: ignore
    return body


def _head(model: nn.Module) -> nn.Module:
    head: nn.Module = model.get_output_embeddings()  # type: ignore
    return head


def _head_of(model: nn.Module, route: Route) -> nn.Module:
    """From hidden states to logits."""
    head = _head(model)
    return head if route.transform is None else TransformedHead(head, route.transform)


def _is_right_padded(mask_BT: Tensor | None) -> bool:
    return mask_BT is None or (mask_BT.ndim == 2 and bool((mask_BT[:, 1:] <= mask_BT[:, :-1]).all()))


@torch.no_grad()
def _probe(model: nn.Module, ids_BT: Tensor) -> Route:
    with evaluating(model):
        causal = _is_causal(model, ids_BT)
        if _head(model) is None or _body(model) is model:
            return Route(False, causal, "the model's own logits are used: it has no separate body and output head")
        watched = _watch_head(model, {"input_ids": ids_BT})
        hidden = _body(model)(input_ids=ids_BT, use_cache=False)[0]
    return _judged(model, causal, hidden, *watched)


@torch.no_grad()
def _probe_decoder(model: nn.Module, ids_BT: Tensor, labels: Tensor) -> Route:
    if _head(model) is None or not hasattr(model, SHIFT):
        return Route(False, False, "the model's own logits are used: what its decoder reads is known to itself alone")
    inputs, labels = {"input_ids": ids_BT}, labels[:, :PROBE_TOKENS].contiguous()
    with evaluating(model), padding_lent(model, 0):
        watched = _watch_head(model, inputs | {"labels": labels})
        hidden = _entering_head(model, inputs | {"decoder_input_ids": _shifted(model, labels)})
    return _judged(model, False, hidden, *watched)


def _judged(
    model: nn.Module, causal: bool, hidden: Tensor, entered: Tensor | None, left: Tensor | None, logits: Tensor
) -> Route:
    """The route of a model whose head is given `hidden` here and `entered` when the model runs on its own, and gives
    `left`, of which the model makes `logits`."""
    if entered is None or left is None or not torch.equal(entered, hidden):
        reason = "the model's own logits are used: its head does not read the body's output as it is"
        return Route(False, causal, reason)
    if torch.equal(left.to(logits.dtype), logits):
        return Route(True, causal, AT_TARGETS)
    for name, transform in known_transforms(model).items():
        if torch.equal(transform(left).to(logits.dtype), logits):
            return Route(True, causal, f"{AT_TARGETS}, its logits {name}", transform)
    return Route(False, causal, "the model's own logits are used: they are transformed after the output head")


def _shifted(model: nn.Module, labels: Tensor) -> Tensor:
    """What the decoder reads to write the labels."""
    ids: Tensor = getattr(model, SHIFT)(labels)
    return ids


def _entering_head(model: nn.Module, inputs: Mapping[str, Tensor | None]) -> Tensor:
    """What the head is given when the model runs, which goes without: its logits are one number wide, and zero."""
    head, seen = _head(model), list[Tensor]()

    def stand_in(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden.new_zeros(*hidden.shape[:-1], 1)

    before = vars(head).get("forward")
    head.forward = stand_in
    try:
        model(**inputs, use_cache=False)
    finally:
        del head.forward
        if before is not None:
            head.forward = before
    (hidden,) = seen
    return hidden


def _is_causal(model: nn.Module, ids_BT: Tensor) -> bool:
    """Whether changing the last token leaves the logits of the others as they were, bit for bit."""
    changed_BT = ids_BT.clone()
    changed_BT[:, -1] = torch.where(ids_BT[:, -1] == 0, 1, 0)
    before, after = (model(input_ids=ids, use_cache=False).logits[:, :-1] for ids in (ids_BT, changed_BT))
    return torch.equal(before, after)


def _watch_head(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """What enters the head, what leaves it, and the logits, when the model runs on its own."""
    seen: list[tuple[Tensor, Tensor]] = []

    def remember(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0].clone(), output.clone()))

    handle = _head(model).register_forward_hook(remember)
    try:
        logits: Tensor = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return (*seen[0], logits) if len(seen) == 1 else (None, None, logits)


# -- what comes behind the head --------------------------------------------------------------------------------------

CAPS = ("final_logit_softcapping",)
SCALES = ("logit_scale", "logits_scaling")
"""Names of constants in a configuration; whether a model uses its own, and how, is for a trial to say.

    cap·tanh(x/cap) (Gemma 2),   s·x (Cohere),   x/s (Granite)
"""


class TransformedHead(nn.Module):
    """A head with what follows it."""

    def __init__(self, head: nn.Module, transform: Transform) -> None:
        super().__init__()
        self.head = head
        self.transform = transform

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, H] to logits [N, V]."""
        return self.transform(self.head(hidden))


def known_transforms(model: nn.Module) -> dict[str, Transform]:
    """Those that the model's configuration has a constant for, by what they do to the logits."""
    config = getattr(model, "config", None)
    read = getattr(config, "get_text_config", lambda: config)()
    caps = [cap for name in CAPS if (cap := _number(read, name))]
    scales = [scale for name in SCALES if (scale := _number(read, name))]
    found: dict[str, Transform] = {f"capped at {cap:g}": partial(_capped, cap=cap) for cap in caps}
    found |= {f"multiplied by {scale:g}": partial(torch.mul, other=scale) for scale in scales}
    return found | {f"divided by {scale:g}": partial(torch.div, other=scale) for scale in scales}


def _capped(x: Tensor, cap: float) -> Tensor:
    return torch.tanh(x / cap) * cap


def _number(config: object, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
