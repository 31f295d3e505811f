"""`loralab merge`: an adapter folded into its base, as a model folder of its own that is reopened and compared."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loralab.cli.flags import Loading, NamesAdapter, NamesModel, Precision, WritesFolder
from loralab.cli.opening import load_adapter, load_base, say, wanted_by
from loralab.cli.showing import show_answer
from loralab.cli.verb import Answer, Verb
from loralab.cli.writing import MERGED, WRITTEN, writing

if TYPE_CHECKING:
    from loralab.formats.merged.folder import MergedFolder

FIGURES = ("max_abs_logit_error", "mean_kl", "argmax_agreement", "tolerance", "adapter_effect")
"""What comparing logits gives; null in the answer where only tensors were compared."""

PROOF_NAME = "loralab_merge.json"
"""The answer, beside the merged model: that it was verified, and how."""


@dataclass(frozen=True, kw_only=True)
class MergeConfig(NamesModel, NamesAdapter, Loading, WritesFolder):
    """The flags of `loralab merge`."""

    out: str
    """Folder to write; transformers loads it without loralab."""

    verify: Literal["logits", "tensors"] = "logits"
    """How to prove the written files: by the logits of the reopened model, which needs its memory once more, or only
    tensor by tensor."""

    dtype: Precision = "auto"
    """Precision in which both are compared; auto is float32 if that fits into memory, else the files' own. What is
    written has the dtype of the base's files in any case."""


def run(config: MergeConfig) -> Answer:
    """Load the model and the adapter, write the merged folder, reopen it and compare."""
    with writing(config.out, MERGED, overwrite=config.overwrite, reads=(config.model, config.adapter)):
        return _merge(config)


def _merge(config: MergeConfig) -> Answer:
    from loralab.formats.merged.folder import choose_proof_dtype, write_merged

    wanted = wanted_by(config.adapter, config.labels)
    dtype, reason = choose_proof_dtype(config.model, config.dtype)
    say([reason])
    loaded = load_base(config.model, dtype, wanted, config.quantize, config.adapter)
    adapter = load_adapter(config.adapter, config, loaded)
    merged = write_merged(
        loaded.model,
        adapter,
        config.out,
        source=config.model,
        tokenizer=None if wanted.kind == "image-classification" else loaded.tokenizer,
        own_tokenizer=loaded.own_tokenizer,
        verify=config.verify,
        beside=partial(_write_proof, config),
    )
    say(merged.notes)
    return _answer(merged)


def _write_proof(config: MergeConfig, draft: Path, merged: "MergedFolder") -> None:
    """The card and the proof, into the folder that is about to take its place."""
    from loralab.files.whole import write_json
    from loralab.formats.sharing.card import write_merged_card

    if Path(config.adapter).is_dir():
        verified = f"How that was verified is in `{PROOF_NAME}`."
        write_merged_card(draft, Path(config.adapter), verified, merged.out.resolve().name)
    written = sorted(each.name for each in draft.iterdir())
    proof = {"model": config.model, "adapter": config.adapter, **_answer(merged), WRITTEN: written}
    write_json(draft / PROOF_NAME, proof)


def _answer(merged: "MergedFolder") -> Answer:
    figures = asdict(merged.verification) if merged.verification is not None else dict.fromkeys(FIGURES)
    return {"out": str(merged.out), "tensors": merged.tensors, **figures}


VERB = Verb(
    MergeConfig,
    run,
    show_answer,
    example="loralab merge --model smollm2-135m --adapter out/docstrings --out out/merged",
)
