"""Where the parts of a decoder are: its embedding, its blocks and their projections, its head.

Names say where to look; that the parts were found says nothing of what the model does with them, which a trial must
show. A block is taken only when all of its modules are accounted for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from loralab.core.layer import AdaptedLayer
from loralab.nn.trial import is_untouched


class UnknownAnatomyError(Exception):
    """What of a model is not known; its own modules are used."""


@dataclass(frozen=True)
class Linears:
    """Dense modules that read the same input, by path."""

    paths: tuple[str, ...]
    modules: tuple[nn.Linear, ...]


@dataclass(frozen=True)
class Block:
    """x += after(attention(before(x))), then the same with the gated layer; a norm that is not there is None."""

    module: nn.Module
    attention: nn.Module
    before_attention: nn.Module | None
    after_attention: nn.Module | None
    before_gated: nn.Module | None
    after_gated: nn.Module | None
    qkv: Linears
    """q, k and v, or one that gives all three."""
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    out: Linears
    activation: nn.Module
    gate_up: Linears
    """gate and up, or one that gives both."""
    down: Linears


@dataclass(frozen=True)
class Anatomy:
    """The parts of a decoder."""

    embedding: nn.Module
    blocks: tuple[Block, ...]
    norm: nn.Module
    rotary: nn.Module
    head: Linears

    @property
    def dense(self) -> Iterator[Linears]:
        """All dense modules."""
        for block in self.blocks:
            yield from (block.qkv, block.out, block.gate_up, block.down)
        yield self.head

    @property
    def together(self) -> list[tuple[str, ...]]:
        """Paths of the modules that read the same input."""
        return [each.paths for block in self.blocks for each in (block.qkv, block.gate_up) if len(each.paths) > 1]


NORMS: Mapping[frozenset[str], tuple[str, str, str, str]] = {
    frozenset(name for name in names if name): names
    for names in (
        ("input_layernorm", "", "post_attention_layernorm", ""),
        ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        ("", "post_attention_layernorm", "", "post_feedforward_layernorm"),
    )
}
"""The norms of a block, in the order before and after attention, before and after the gated layer."""
PROJECTIONS = (("q_proj", "k_proj", "v_proj"), ("qkv_proj",))
GATED = (("gate_proj", "up_proj"), ("gate_up_proj",))
ACTIVATIONS = ("act_fn", "activation_fn")


def anatomy_of(model: PreTrainedModel) -> Anatomy:
    """The parts of a model. UnknownAnatomyError where there are others, or where others have a hand in them."""
    paths = {module: path for path, module in model.named_modules()}
    touched = [path for module, path in paths.items() if module._forward_hooks or module._forward_pre_hooks]
    if touched:
        raise UnknownAnatomyError(f"{touched[0] or 'the model'} has hooks")
    body, head = model.base_model, model.get_output_embeddings()  # type: ignore[no-untyped-call]
    known = {"embed_tokens", "layers", "norm", "rotary_emb"}
    if body is model or not isinstance(head, nn.Module) or dict(body.named_children()).keys() != known:
        raise UnknownAnatomyError(f"{type(body).__name__} is not built of {', '.join(sorted(known))}")
    layers = body.get_submodule("layers")
    return Anatomy(
        embedding=body.get_submodule("embed_tokens"),
        blocks=tuple(_block(each, paths) for each in layers.children()),
        norm=body.get_submodule("norm"),
        rotary=body.get_submodule("rotary_emb"),
        head=_linears([head], paths),
    )


def _block(block: nn.Module, paths: Mapping[nn.Module, str]) -> Block:
    parts = _children(block)
    norms = NORMS.get(frozenset(parts) - {"self_attn", "mlp"})
    if norms is None or "self_attn" not in parts or "mlp" not in parts:
        raise UnknownAnatomyError(f"{type(block).__name__} has {', '.join(sorted(parts))}")
    attention, gated = _children(parts["self_attn"]), _children(parts["mlp"])
    before_attention, after_attention, before_gated, after_gated = (parts.get(name) for name in norms)
    found = Block(
        module=block,
        attention=parts["self_attn"],
        before_attention=before_attention,
        after_attention=after_attention,
        before_gated=before_gated,
        after_gated=after_gated,
        qkv=_taken(attention, PROJECTIONS, paths),
        query_norm=attention.pop("q_norm", None),
        key_norm=attention.pop("k_norm", None),
        out=_taken(attention, (("o_proj",),), paths),
        activation=_activation(gated),
        gate_up=_taken(gated, GATED, paths),
        down=_taken(gated, (("down_proj",),), paths),
    )
    unknown = [*attention, *gated, *parts["self_attn"]._parameters, *parts["mlp"]._parameters, *block._parameters]
    if unknown:
        raise UnknownAnatomyError(f"{type(block).__name__} has {', '.join(unknown)}")
    return found


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Those that do something when nothing is dropped out."""
    return {name: each for name, each in module.named_children() if not isinstance(each, nn.Dropout)}


def _activation(gated: dict[str, nn.Module]) -> nn.Module:
    for name in ACTIVATIONS:
        if name in gated:
            return gated.pop(name)
    raise UnknownAnatomyError(f"a gated layer has {', '.join(gated)}")


def _taken(
    modules: dict[str, nn.Module], choices: tuple[tuple[str, ...], ...], paths: Mapping[nn.Module, str]
) -> Linears:
    """Take the modules of the first choice that is there."""
    for names in choices:
        if all(name in modules for name in names):
            return _linears([modules.pop(name) for name in names], paths)
    raise UnknownAnatomyError(f"{' or '.join(', '.join(names) for names in choices)} not among {', '.join(modules)}")


def _linears(modules: list[nn.Module], paths: Mapping[nn.Module, str]) -> Linears:
    """The dense modules themselves, under whatever adapters are on them."""
    bare = [each.base if isinstance(each, AdaptedLayer) else each for each in modules]
    plain = tuple(each for each in bare if isinstance(each, nn.Linear) and is_untouched(each))
    if len(plain) != len(modules):
        raise UnknownAnatomyError(f"{', '.join(paths[each] for each in modules)}: not plain dense layers")
    return Linears(tuple(paths[each] for each in modules), plain)
