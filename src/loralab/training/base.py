"""The frozen base of a run: loaded, in four bits if wanted, and on the kernels that suit training here."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from loralab.formats.quantized import quantize_base
from loralab.formats.tokenizer import with_own_tokenizer
from loralab.methods.lora import principal_under
from loralab.methods.registry import specification
from loralab.models.checkpointing import compute_blocks_again
from loralab.models.fast.attention import short_sequence_attention
from loralab.models.fast.compiled import compiled_blocks, why_not_compiled
from loralab.models.fast.lean import lean_leaves
from loralab.models.fast.liger import put_liger_kernels
from loralab.models.head_dropout import set_head_dropout
from loralab.models.load import LoadedModel, load_model
from loralab.models.precision import use_fast_float32
from loralab.nn.dropout import quick_dropout
from loralab.training.config import TrainConfig
from loralab.training.draft import Draft


def say_what_rests(draft: Draft) -> Iterator[str]:
    """Settings that the method does not take: a command line may be for several methods, and a slip looks the same."""
    for sentence in draft.config.idle_settings():
        yield f"without effect: {sentence}"


def load_base(draft: Draft) -> Iterator[str]:
    """The model that the task needs, with the tokenizer of the adapter to start from."""
    config, loaded = draft.config, load_for(draft, draft.config.seed)
    yield from loaded.notes
    draft.loaded = loaded if config.init_adapter is None else with_own_tokenizer(loaded, config.init_adapter)
    if draft.loaded is not loaded:
        yield from draft.loaded.notes


def load_for(draft: Draft, seed: int) -> LoadedModel:
    """The model that the draft's task needs, a fresh head drawn by `seed`."""
    config, task = draft.config, draft.task
    return load_model(
        config.model,
        kind=task.model_kind,
        labels=task.labels or None,
        regression=task.kind == "regression",
        dtype=draft.dtype,
        device=config.device,
        seed=seed,
        as_stored=draft.shards is not None and _may_be_rounded_later(config),
        attention=config.attention,
    )


def _may_be_rounded_later(config: TrainConfig) -> bool:
    """Whether nothing reads the weights between loading and cutting them, but for packing, which rounds them first."""
    drawn = config.method in ("lora", "rslora") and config.init in ("kaiming", "gaussian", "orthogonal")
    return drawn or (config.quantize is not None and config.init != "pissa" and config.method != "pissa")


def quantize(draft: Draft) -> Iterator[str]:
    """Four bits for the dense layers; what PiSSA takes out of them first is not lost."""
    model, config = draft.loaded.model, draft.config
    if config.quantize is not None:
        principal = principal_under(model, specification(config))
        part = None if draft.shards is None else draft.shards.part
        yield str(quantize_base(model, config.quantize, principal, dtype=draft.loaded.dtype, part=part))


def multiply_fast(draft: Draft) -> Iterator[str]:
    """Float32 on a CPU as its fast instructions have it."""
    if _is_wide(draft.loaded):
        yield use_fast_float32()


def put_kernels(draft: Draft) -> Iterator[str]:
    """Other people's, where they were asked for."""
    if draft.config.liger:
        yield put_liger_kernels(draft.loaded.model)


def drop_out_before_head(draft: Draft) -> Iterator[str]:
    """Another dropout before a classifier's output than the model's own."""
    if draft.config.head_dropout is not None:
        yield set_head_dropout(draft.loaded.model, draft.config.head_dropout)


def quieten(draft: Draft) -> Iterator[str]:
    """No dropout in the base while pairs of answers are compared with what the base makes of them: chance in sums over
    whole answers would drown the difference. The adapter's own dropout stays.
    """
    if draft.config.preference is None:
        return
    stilled = 0
    for module in draft.loaded.model.modules():
        if isinstance(module, nn.Dropout) and module.p:
            module.p, stilled = 0.0, stilled + 1
        for name, value in vars(module).items():
            if name.endswith(("dropout", "dropout_p", "_pdrop")) and isinstance(value, float) and value:
                setattr(module, name, 0.0)
                stilled += 1
    if stilled:
        yield f"{stilled} dropouts of the base are off: an answer is compared with what the base makes of it"


def checkpoint_blocks(draft: Draft) -> Iterator[str]:
    """Each block computed again in the backward pass, which needs no word."""
    if draft.config.gradient_checkpointing:
        compute_blocks_again(draft.loaded.model)
    yield from ()


@contextmanager
def made_fast(loaded: LoadedModel, *, attention: str | None = None, compiled: bool = False) -> Iterator[list[str]]:
    """Within this block the model runs on the kernels that suit training here; yields what was chosen, as sentences.
    `attention` and `compiled` are what was asked for: the model's own implementation, compiled blocks.

    In float32 on a CPU the activations are twice the size, and memory is what is short: gates are computed again. What
    is compiled keeps the model's own functions, which the compiler knows how to join; without a compiler nothing is.
    """
    model, again = loaded.model, _is_wide(loaded)
    problem = why_not_compiled(model.device) if compiled else None
    if compiled and problem is None:
        with compiled_blocks(model) as sentence:
            yield [sentence]
        return
    said = [] if problem is None else [f"compile: nothing is compiled, for no compiler works here: {problem}"]
    with (
        _attention(loaded, attention) as attends,
        lean_leaves(model, recompute_gates=again) as leaves,
        quick_dropout(model) as dropouts,
    ):
        gates = "; gates are computed again there, as float32 is large" if again else ""
        drawn = [f"{dropouts} dropouts draw 16 bits a number"] if dropouts and model.device.type == "cpu" else []
        yield [*said, attends, f"{leaves} keep less for the backward pass{gates}", *drawn]


def _attention(loaded: LoadedModel, asked: str | None) -> AbstractContextManager[str]:
    """Our own for short sequences, unless another one was asked for."""
    if asked is None:
        return short_sequence_attention(loaded.model)
    return nullcontext(f"attention: {asked}, as asked")


def _is_wide(loaded: LoadedModel) -> bool:
    return loaded.model.device.type == "cpu" and loaded.dtype == torch.float32
