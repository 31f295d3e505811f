"""Write a model with an adapter merged as a standalone Hugging Face folder, and prove it before it appears.

Everything is written into a temporary sibling, reopened and verified there, and only then moved into place; whatever
goes wrong, nothing is left behind. The folder holds no trace of loralab.

In memory meanwhile: the live model, whose weights transformers maps from the files when it is loaded on the CPU in the
files' own dtype (they then cost nothing that the system cannot take back); one tensor of the files; the update of one
module. Verifying by logits needs the adapted weights once more to measure rounding, then the model a second time;
`verify="tensors"` needs neither.
"""

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from loralab.core.adapter import Adapter, AdapterSet, adapters_of
from loralab.core.layer import in_words
from loralab.core.merge import originals_in_place
from loralab.core.names import unwrapped
from loralab.errors import AdapterStateError, LoralabError, NumericsError, OutputError, SpecError
from loralab.files.drafts import remove
from loralab.files.names import CONFIG_NAME, RUN_NAME
from loralab.files.shards import WEIGHTS, TensorFolder, write_index, write_tensors
from loralab.files.whole import refuse_occupied, whole_folder
from loralab.formats.merged.verify import Verification, check_tensors, compare
from loralab.formats.merged.weights import MergedWeights, main_dtype, merged_weights
from loralab.formats.probe import Probe, make_probe
from loralab.models.locate import locate
from loralab.models.nf4 import quantized_layers
from loralab.models.precision import DTYPES
from loralab.models.processor import write_processor
from loralab.models.processor_names import MORE_TEMPLATES, processor_files
from loralab.models.quiet import quiet_transformers

VERIFY = ("logits", "tensors")

_COPIED = (".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".vocab", ".bpe", ".spm")
"""Endings of the small files that a model's folder needs: tokenizer, processor, generation, code of its own."""
_GENERATION = "generation_config.json"
_LICENCES = ("license", "licence", "notice", "use_policy", "copying")
_LEFT = frozenset({
    "config.json", CONFIG_NAME, "trainer_state.json", RUN_NAME, "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "data_config.json",
})  # fmt: skip
"""Written anew, or true of the base's folder only."""


@dataclass(frozen=True)
class MergedFolder:
    """A folder that was written and proved."""

    out: Path
    tensors: int
    """How many tensors of the model the adapter changed."""
    verification: Verification | None
    """The comparison of logits; None for verify="tensors"."""
    notes: tuple[str, ...]


def write_merged(
    model: PreTrainedModel,
    adapter: Adapter | str,
    out: str | Path,
    *,
    source: str | Path | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    own_tokenizer: bool = False,
    verify: str = "logits",
    probe: Probe | None = None,
    beside: Callable[[Path, MergedFolder], None] | None = None,
) -> MergedFolder:
    """Merge an adapter that is on `model` into a new folder `out`; the model itself is left as it was.

    `source` is where the model was loaded from (an embedded name, a folder, or a Hub id): its files' own values and
    dtypes are merged into, and its tokenizer is copied, unless the one given is to be written (`own_tokenizer`: the
    adapter's). Without it the live weights are written. The tokenizer also gives the probe real sentences. Every
    written tensor is compared bit for bit with its recomputed value; with verify="logits" the reopened model's logits
    are compared with the live ones as well. `beside` may write more into the folder before it takes its place.

    Raises OutputError if `out` holds something or cannot be written, NumericsError with the figures if the
    verification fails, AdapterStateError while an adapter is merged, SpecError for a model that is not transformers'.
    """
    place = Path(out)
    inner, name = _model_and_adapter(model, adapter, verify)
    base = None if source is None else source_folder(source)
    _check_place(place, base)
    calls = (probe or make_probe(inner, tokenizer)) if verify == "logits" else []
    weights = merged_weights(inner, name, TensorFolder(base) if base is not None else None)
    with whole_folder(place) as draft:
        with quiet_transformers():
            _write_config(inner, weights, draft)
            _write_small_files(inner, base, tokenizer, draft)
            if own_tokenizer and tokenizer is not None:
                written = write_processor(tokenizer, draft)
                for stale in processor_files().difference(written):
                    remove(draft / stale)
        _write_weights(weights, draft)
        check_tensors(weights, draft)
        verification = compare(inner, name, draft, calls) if verify == "logits" else None
        _demand(verification, name, place)
        notes = (*weights.notes, *_remarks(weights, verification))
        merged = MergedFolder(place, weights.changed, verification, notes)
        if beside is not None:
            beside(draft, merged)
    return merged


def source_folder(name: str | Path) -> Path:
    """The local folder of a model: of an embedded one, of a folder, or of a Hub id that has been downloaded.

    Raises NotFoundError if there is no such folder.
    """
    found = locate(str(name))
    if Path(found).is_dir():
        return Path(found)
    config = cached_file(found, "config.json")
    assert config is not None
    return Path(config).parent


def _model_and_adapter(model: PreTrainedModel, adapter: Adapter | str, verify: str) -> tuple[PreTrainedModel, str]:
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        raise SpecError(
            f"{type(inner).__name__} is not a transformers model and has no Hugging Face folder; "
            "call merge(model), detach(model, keep_merged=True) and save its state_dict"
        )
    if verify not in VERIFY:
        raise SpecError(f"verify is {verify!r} and must be one of {', '.join(VERIFY)}")
    adapters = adapters_of(inner)
    adapters.refuse_merged("writing a merged folder")
    return inner, adapters.adapter(adapter if isinstance(adapter, str) else adapter.name).name


def _check_place(place: Path, base: Path | None) -> None:
    refuse_occupied(place)
    if base is not None and base.resolve() in place.resolve().parents:
        raise OutputError(f"{place} lies inside the base's own folder, {base}; choose another for the merged model")


def _write_config(model: PreTrainedModel, weights: MergedWeights, folder: Path) -> None:
    """The live model's config, as true of what is written: class, dtype, and nothing tied that was untied."""
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.dtype = weights.dtype
    if weights.unties:
        parts: list[Any] = [config, *(getattr(config, name) for name in config.sub_configs)]
        for part in parts:
            if getattr(part, "tie_word_embeddings", False):
                part.tie_word_embeddings = False
    config.save_pretrained(folder)


def _write_small_files(
    model: PreTrainedModel, base: Path | None, tokenizer: PreTrainedTokenizerBase | None, folder: Path
) -> None:
    if base is not None:
        for file in _small_files(base):
            shutil.copyfile(file, folder / file.name)
        if (base / MORE_TEMPLATES).is_dir():
            shutil.copytree(base / MORE_TEMPLATES, folder / MORE_TEMPLATES)
    elif tokenizer is not None:
        tokenizer.save_pretrained(folder)
    _write_generation(model, folder)


def _write_generation(model: PreTrainedModel, folder: Path) -> None:
    """The model's generation settings, unless the base's file was copied: older bases have them in config.json, from
    where transformers moves them, also those that it would not write itself (a temperature without sampling).
    """
    generation = getattr(model, "generation_config", None)
    if isinstance(generation, GenerationConfig) and not (folder / _GENERATION).exists():
        generation.to_json_file(folder / _GENERATION)


def _small_files(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.iterdir()):
        licence = file.name.lower().startswith(_LICENCES)
        wanted = file.name.endswith(_COPIED) and not file.name.endswith(".index.json") and file.name not in _LEFT
        if file.is_file() and (licence or wanted):
            yield file


def _write_weights(weights: MergedWeights, folder: Path) -> None:
    for shard in dict.fromkeys(weights.file_of.values()):
        mine = {key: kind for key, kind in weights.kinds.items() if weights.file_of[key] == shard}
        write_tensors(folder / shard, mine, weights.read)
    if set(weights.file_of.values()) != {WEIGHTS}:
        write_index(folder, weights.file_of, weights.kinds)


def _demand(logits: Verification | None, name: str, place: Path) -> None:
    if logits is not None and not logits.passed:
        raise NumericsError(
            f"merging adapter '{name}' was verified by reopening the written files, and they are not the live adapter: "
            f"logits differ by up to {logits.max_abs_logit_error:.3g}, rounding explains {logits.tolerance:.3g}; "
            f"mean KL {logits.mean_kl:.3g} nats, same argmax at {logits.argmax_agreement:.1%} of positions. "
            f"{place} was not written. If the model mixes experts, rounding may have changed its routing: "
            "verify in float32"
        )


def _remarks(weights: MergedWeights, logits: Verification | None) -> Iterator[str]:
    if weights.largest_change == 0:
        yield "the adapter changes nothing: the merged weights are those of the base; was it trained?"
    elif logits is not None and not logits.tells:
        yield (
            f"the adapter moves no logit of the probe by more than {logits.adapter_effect:.2g}, which is within "
            f"the tolerance of {logits.tolerance:.2g}: it is the comparison of the tensors, bit for bit, that proves it"
        )
    if weights.unties:
        yield "weights that the base ties are written apart, because the adapter changes one of them"


# -- in which precision to compare ---------------------------------------------------------------------------------

COPIES = 3
"""The live model, the merged one or its rounded weights, and room for what else is needed."""


def choose_proof_dtype(model: str, requested: str) -> tuple[str, str]:
    """The dtype to load `model` in for a verified merge, and one sentence that says why.

    The sharper the better: in bfloat16 both models round so much on their way that they differ by more than a weak
    adapter does (measured on SmolLM2-135M: by 1 to 2 in logits up to 38; in float32 by 0.3 where the files are bfloat16
    and by 0.0001 where they are float32). float32 needs memory, though; the files' own dtype needs none on a CPU, where
    transformers maps such weights from the files. So "auto" is float32 if `COPIES` of the model fit into free memory in
    it, else the dtype of its files. Raises NotFoundError if there is no such model.
    """
    if requested != "auto":
        return requested, f"compared in {requested}, as asked"
    kinds = TensorFolder(source_folder(model)).kinds
    stored = main_dtype(kinds)
    needed = COPIES * sum(torch.Size(kind.shape).numel() for kind in kinds.values()) * torch.float32.itemsize
    free = psutil.virtual_memory().available
    own = next((name for name, dtype in DTYPES.items() if dtype == stored), "float32")
    if needed <= free or own == "float32":
        return "float32", "compared in float32, where rounding disturbs the comparison least"
    return own, (
        f"compared in {own}, the dtype of the files: float32 would need {needed / 1e9:.1f} GB of memory, "
        f"{free / 1e9:.1f} GB is free"
    )


# -- from Python, in one call: which adapter, and where the base's files are -------------------------------------------


def export_merged(
    model: nn.Module,
    path: str | Path,
    name: str | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    verify: str = "logits",
) -> MergedFolder:
    """Write a transformers model with its adapter `name` (the active one by default) merged into a new folder, as
    `loralab merge` does: reopened and compared before it appears. The model is left as it was, bit for bit.

    Where the model's own files are known (`model.name_or_path`) they are merged into, tensor by tensor in their own
    dtypes, and its tokenizer is copied; else the live weights are written. `tokenizer` is written instead of the
    model's. `verify="tensors"` leaves out the comparison of logits, which needs the model's memory once more.

    Raises SpecError for what is not a transformers model, AdapterStateError where no adapter or several speak and for
    a quantised base, OutputError for a folder that holds something, NumericsError where the verification fails.
    """
    inner = unwrapped(model)
    if not isinstance(inner, PreTrainedModel):
        raise SpecError(
            f"a {type(inner).__name__} is not a transformers model and has no Hugging Face folder; call "
            "loralab.merge(model) and save model.state_dict(), which then has the plain model's names"
        )
    _refuse_quantized(inner)
    adapters = adapters_of(inner)
    chosen = _chosen(adapters, name)
    source = _own_files(inner)
    with _unmerged(inner, adapters):
        return write_merged(
            inner, chosen, path, source=source, tokenizer=tokenizer, own_tokenizer=tokenizer is not None, verify=verify
        )


def _refuse_quantized(model: PreTrainedModel) -> None:
    if any(True for _ in quantized_layers(model)):
        raise AdapterStateError(
            f"this {type(model).__name__} is quantised to nf4, which cannot hold a merge, and its files would not be "
            "a model's; load the base without quantising it, load the adapter onto that, and export there"
        )


def _chosen(adapters: AdapterSet, name: str | None) -> str:
    """The one adapter to write."""
    if name is not None:
        return adapters.adapter(name).name
    speaking = adapters.routing.merged or adapters.routing.active
    if isinstance(speaking, str):
        return speaking
    found = "no adapter is active" if speaking is None else f"{in_words(speaking)} speak together"
    how = "activate or name one" if speaking is None else "make them one with loralab.combine, or name one"
    raise AdapterStateError(f"export_merged writes one adapter, and {found}; {how}")


def _own_files(model: PreTrainedModel) -> Path | None:
    """The folder with the safetensors that the model was loaded from; None where it is not known or not here."""
    if not model.name_or_path:
        return None
    try:
        folder = source_folder(model.name_or_path)
        return folder if TensorFolder(folder).kinds else None
    except (LoralabError, OSError):
        return None


@contextmanager
def _unmerged(model: PreTrainedModel, adapters: AdapterSet) -> Iterator[None]:
    """Within this block a merged model holds its original tensors and its adapter is live."""
    before = adapters.routing.active, adapters.routing.rows, adapters.routing.merged
    with originals_in_place(model):
        adapters.route(*before[:2])
        try:
            yield
        finally:
            adapters.route(*before)
