"""From settings, as flags and files give them, to the specification of a method: one row for each."""

from collections.abc import Callable

from loralab.core.joint import JointMethod, Method
from loralab.errors import SpecError
from loralab.methods.bitfit import BitFit
from loralab.methods.bottleneck import BottleneckAdapter
from loralab.methods.full import FullFineTune
from loralab.methods.lora import LoRA
from loralab.methods.prefix_specs import PrefixEmbedding, PrefixLayer
from loralab.methods.settings import MethodSettings


def specification(settings: MethodSettings) -> Method:
    """The method that the settings describe; several joined by `+` are one `JointMethod`. Raises SpecError."""
    problems = settings.method_problems()
    if problems:
        raise SpecError("; ".join(problems))
    specs = tuple(METHODS[name](settings) for name in settings.method.split("+"))
    return specs[0] if len(specs) == 1 else JointMethod(specs)


def _lora(settings: MethodSettings) -> Method:
    return LoRA(
        rank=settings.rank,
        alpha=settings.alpha,
        dropout=settings.dropout,
        targets=settings.targets,
        exclude=settings.exclude or (),
        layers=settings.layers,
        rank_pattern=settings.rank_pattern or {},
        alpha_pattern=settings.alpha_pattern or {},
        bias=settings.bias,
        modules_to_save=settings.modules_to_save,
        rank_stabilized=settings.rank_stabilized,
        init=settings.init,
    )


def _bottleneck(style: str) -> Callable[[MethodSettings], Method]:
    def make(settings: MethodSettings) -> Method:
        return BottleneckAdapter(
            style=style,
            size=settings.size,
            drop_layers=settings.drop_layers,
            targets=settings.targets,
            exclude=settings.exclude or (),
            layers=settings.layers,
            modules_to_save=settings.modules_to_save,
        )

    return make


METHODS: dict[str, Callable[[MethodSettings], Method]] = {
    "lora": _lora,
    "full": lambda settings: FullFineTune(modules_to_save=settings.modules_to_save),
    "top2": lambda settings: FullFineTune(top_layers=2, modules_to_save=settings.modules_to_save),
    "bitfit": lambda settings: BitFit(settings.modules_to_save),
    "prefix-embed": lambda settings: PrefixEmbedding(settings.prefix, settings.infix, settings.modules_to_save),
    "prefix-layer": lambda settings: PrefixLayer(settings.prefix, settings.infix, settings.modules_to_save),
    "adapter-h": _bottleneck("houlsby"),
    "adapter-l": _bottleneck("lin"),
    "adapter-p": _bottleneck("pfeiffer"),
}
