"""Whether a folder's configuration and its tensors tell one story: of the same modules, in full or in low rank.

A folder that loralab wrote says twice where its tensors belong: in loralab.json, and in the adapter_config.json that
PEFT follows. PEFT drops tensors that its configuration does not name, and starts afresh what it names without
tensors, so where the two differ one of them is not this adapter's.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from loralab.errors import AdapterFileError, some
from loralab.files.names import CONFIG_NAME
from loralab.formats.peft.config import PeftConfig
from loralab.formats.peft.keys import PeftTarget, key_prefix, said_targets
from loralab.formats.peft.layout import BIASES
from loralab.formats.peft.tokens import DELTA


@dataclass(frozen=True)
class Plot:
    """Where every tensor goes: entries of low-rank targets, and tensors that replace a module's own."""

    targets: list[PeftTarget]
    replaced: dict[str, list[str]]
    depths: Mapping[str, int]
    tokens: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)
    """Module path → the indices of its trained rows, and the path whose rows it shares or nothing."""

    def row_keys(self, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Module path → the key of its rows: of all that have their own, and of others where the file holds them."""
        keys = {path: f"{key_prefix(path, self.depths)}.{DELTA}" for path in self.tokens}
        return {path: key for path, key in keys.items() if not self.tokens[path][1] or key in tensors}

    def stem(self, target: PeftTarget) -> str:
        """What the keys of a target's tensors begin with."""
        return f"{key_prefix(target.path, self.depths)}.{target.local}"

    @property
    def names(self) -> list[str]:
        """What has low-rank factors."""
        return [target.name for target in self.targets]

    @property
    def heads(self) -> list[str]:
        """Paths of the modules that are saved in full."""
        return [path for path, names in self.replaced.items() if path not in self.depths and not set(names) <= BIASES]

    @property
    def biases(self) -> set[tuple[str, str]]:
        """(module path, name) of the biases that train by themselves."""
        heads = self.heads
        return {(path, name) for path, names in self.replaced.items() if path not in heads for name in names}


def refuse_two_stories(config: PeftConfig, held: Plot, said: Plot) -> None:
    """AdapterFileError naming all that the tensors are of and the configuration does not name, and the reverse.

    `held` is what loralab recorded of the tensors, `said` what the configuration comes to in the same model. A name
    in the configuration that is a whole path of `held` stands for that path, whatever else ends like it.
    """
    names = held.names, _meant(said.names, held.names)
    heads = held.heads, _meant(said.heads, held.heads)
    told = said_targets(config) or "target_modules"
    in_full = f"modules_to_save {list(config.modules_to_save)}"
    problems = [
        *_missing(names[0], names[1], f"{told} does not name {{}}, whose factors are in the file"),
        *_missing(names[1], names[0], f"{told} names {{}}, of which the file has no factors"),
        *_missing(heads[0], heads[1], f"{in_full} does not name {{}}, which the file holds in full"),
        *_missing(heads[1], heads[0], f"{in_full} names {{}}, which the file does not hold"),
    ]
    lost = [f"{path}.{name}" for path, name in sorted(held.biases - said.biases)]
    problems += _missing(lost, [], f"bias {config.bias!r} is not for {{}}, which the file holds")
    if problems:
        raise AdapterFileError(
            f"{CONFIG_NAME} and the tensors tell two stories: {'; '.join(problems)}. PEFT follows the configuration, "
            f"loralab.json the tensors: restore the {CONFIG_NAME} that was saved with them; if it is that one, load "
            "the base that the adapter was trained on: this one has other modules"
        )


def some_modules(tensors: Collection[str]) -> str:
    """The modules that a file's keys begin with, the first few of them, for messages."""
    return some(list(dict.fromkeys(key.partition(".lora_")[0].partition(".vera_")[0] for key in tensors)))


def _meant(said: list[str], held: list[str]) -> list[str]:
    """What is said, without what is found only because a whole path that is held is another path's ending too."""
    return [name for name in said if name in held or not any(name.endswith(f".{path}") for path in held)]


def _missing(wanted: Collection[str], there: Collection[str], sentence: str) -> list[str]:
    absent = [name for name in wanted if name not in there]
    return [sentence.format(some(absent))] if absent else []
