"""`loralab chat`: a conversation with a model and its adapters, in the terminal."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loralab.cli.flags import ChoosesCheckpoint, Loading, NamesModel
from loralab.cli.opening import Wanted, load_adapter, load_base, say
from loralab.cli.verb import Answer, Verb
from loralab.cli.writers import wanted_writer
from loralab.errors import AdapterFileError, SpecError
from loralab.formats.checkpoints import checkpoint_folder, refuse_unfinished
from loralab.generation.config import GenerationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loralab.generation.speaker import ModelSpeaker
    from loralab.models.load import LoadedModel

SHARE_FOR_ANSWERS = 2
"""An answer may have this part of the model's context at most: one half."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig(NamesModel, Loading, ChoosesCheckpoint):
    """The flags of `loralab chat`."""

    adapter: tuple[str, ...] = ()
    """Adapters to talk to: folders, or loralib checkpoints, with commas or flag by flag. The first one answers until
    /adapter NAME or /base."""

    system: str | None = None
    """What the model is told before everything, where its chat template has a place for that."""

    max_new_tokens: int = 512
    """Tokens that an answer may have; no more than half of the model's context."""

    temperature: float = 0.0
    """0: the most probable token. Above: sampling, the flatter the higher."""

    top_p: float = 1.0
    """Sample only from the most probable tokens that hold this share of the probability."""

    no_repeat_ngram: int = 0
    """An answer may not hold the same sequence of this many tokens twice; 0 allows it."""

    seed: int = 0
    """Seed of the sampling."""

    def __post_init__(self) -> None:
        """Raises `SpecError` for the first value that cannot be."""
        self.generation()

    def generation(self) -> GenerationConfig:
        """How an answer is generated."""
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            no_repeat_ngram=self.no_repeat_ngram,
            seed=self.seed,
            batch_size=1,
        )


def run(config: ChatConfig) -> Answer:
    """Load the model and its adapters, and talk; the answer is what was said."""
    from loralab.cli.chat.converse import converse
    from loralab.cli.chat.dialogue import Dialogue
    from loralab.cli.chat.terminal import here

    stage = here()
    speaker = _speaker(config)
    names = tuple(speaker.adapters)
    dialogue = Dialogue(names, names[0] if names else None, config.system)
    say(_greeting(config, speaker, dialogue.who))
    converse(speaker, dialogue, stage)
    messages = [turn.turn() for turn in dialogue.asked("")[:-1]]
    return {"model": config.model, "adapter": dialogue.who, "messages": messages}


def _speaker(config: ChatConfig) -> "ModelSpeaker":
    from dataclasses import replace

    from loralab.generation.speaker import ModelSpeaker
    from loralab.methods.prefix.update import text_room

    named = _by_name(config.adapter, config.checkpoint)
    wanted = {name: wanted_writer(config.model, path, config.labels) for name, path in named.items()}
    loaded = _load(config, named, next(iter(wanted.values()), None) or wanted_writer(config.model, None, config.labels))
    if config.system is not None and loaded.tokenizer.chat_template is None:
        raise SpecError("--system needs a chat template, which this model's tokenizer has not; begin with it instead")
    room, generation = _room(loaded.model), config.generation()
    if room is not None and config.max_new_tokens > room // SHARE_FOR_ANSWERS:
        generation = replace(generation, max_new_tokens=max(1, room // SHARE_FOR_ANSWERS))
        say([f"answers have at most {generation.max_new_tokens} tokens: half of the model's context"])
    of_turns = frozenset(name for name, each in wanted.items() if each.conversations)
    return ModelSpeaker(loaded.model, loaded.tokenizer, generation, text_room, of_turns, tuple(named))


def _by_name(paths: tuple[str, ...], checkpoint: str | None) -> dict[str, str]:
    """Name → path: the folder's name, as a server calls them, and the folder; of a run, that of its checkpoint. Raises
    SpecError for two of one name.
    """
    named: dict[str, str] = {}
    for path in paths:
        if checkpoint is None:
            refuse_unfinished(path)
        name = Path(path).resolve().stem if Path(path).is_file() else Path(path).resolve().name
        if name in named:
            raise SpecError(f"--adapter {named[name]} and {path} have the same name, {name!r}; rename one of them")
        named[name] = path if checkpoint is None else str(checkpoint_folder(path, checkpoint))
    return named


def _load(config: ChatConfig, named: dict[str, str], wanted: Wanted) -> "LoadedModel":
    """The model with all adapters on it, which read texts alike."""
    from loralab.formats.tokenizer import with_own_tokenizer

    paths = list(named.values())
    loaded = load_base(config.model, config.dtype, wanted, config.quantize, paths[0] if paths else None)
    for path in paths[1:]:
        if with_own_tokenizer(loaded, path) is not loaded:
            raise AdapterFileError(
                f"{path} has another tokenizer or chat template than {paths[0]}: talk to it by itself, with one "
                "--adapter"
            )
    for name, path in named.items():
        load_adapter(path, config, loaded, name)
    return loaded


def _room(model: "PreTrainedModel") -> int | None:
    from loralab.models.context import context_length

    return None if model.config.is_encoder_decoder else context_length(model)


def _greeting(config: ChatConfig, speaker: "ModelSpeaker", who: str | None) -> list[str]:
    names = tuple(speaker.adapters)
    said = [f"{config.model}{f' with {who}' if who else ''} answers; /help shows the commands, Ctrl-D leaves"]
    if len(names) > 1:
        said.append(f"adapters: {', '.join(names)}; /adapter NAME changes, /base takes none")
    if not speaker.has_template:
        said.append("its tokenizer has no chat template: what you write is continued as a text, all of it so far")
    return said


def show(answer: Answer) -> None:
    """Nothing: all of it was seen."""


VERB = Verb(
    ChatConfig,
    run,
    show,
    example="loralab chat --model smollm2-135m --adapter out/docstrings",
    talks=lambda config: True,
)
