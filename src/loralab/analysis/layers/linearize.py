"""Blocks replaced by fitted affine maps, beside the same blocks dropped: the model, linearize.json and linearize.png.

Neighbouring blocks get one map between them, from what enters the first to what leaves the last: affine maps compose to
one. The maps are fitted on the streams of the whole model, and trained to follow it where steps are asked for
(`distill`).
"""

import gc
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from loralab.analysis.layers.angular import read_analysis
from loralab.analysis.layers.config import Clouds, Measuring
from loralab.analysis.layers.distill import Distilling, distance, distill, pair
from loralab.analysis.layers.linearity import CloudBatches, cloud_batches, moments_of, rank, score_blocks, stream_width
from loralab.analysis.layers.measures import as_numbers, draw_measures, measure
from loralab.analysis.layers.moments import affine_r2, fit_affine, refuse_few_tokens
from loralab.analysis.layers.texts import TokenBatch, encode, joined, read_texts, sample_pieces, token_batches
from loralab.errors import NumericsError, SpecError
from loralab.files.whole import refuse_occupied, whole_folder, write_json
from loralab.models.context import context_length
from loralab.models.folder import file_dtype, probe_logits
from loralab.models.linearized import load_linearized, write_linearized
from loralab.models.load import LoadedModel, load_model
from loralab.models.surgery.affine import REMAINING, AffineMap, affine_block, block_outputs
from loralab.models.surgery.blocks import Run, blocks_of, replace_blocks
from loralab.tasks.encoding.encode import padding_id

Open = Callable[[str, str], LoadedModel]
"""Loads the model of a name in a dtype."""


@dataclass(frozen=True, kw_only=True)
class Linearizing:
    """Which blocks become affine, and how the maps are fitted."""

    model: str
    blocks: str = "auto:1"
    scores: str | None = None
    ridge: float = 1e-4
    clouds: Clouds
    distilling: Distilling = field(default_factory=Distilling)


@dataclass(frozen=True)
class FittedRun:
    """A run of blocks and its map."""

    run: Run
    affine: AffineMap
    explained: float
    """Share of what the blocks add that the map explains, on the tokens it was fitted on."""
    explained_held_out: float | None


def linearize(
    linearizing: Linearizing, out: Path, measuring: Measuring, open_model: Open, dtype: str
) -> dict[str, Any]:
    """Choose, fit, write, reopen, measure; the answer of the command line."""
    refuse_occupied(out)
    wide = open_model(linearizing.model, "float32")  # the maps are of streams that nothing rounds
    batches = cloud_batches(wide, linearizing.clouds)
    refuse_few_tokens(batches.tokens, stream_width(wide))
    runs = chosen_runs(linearizing, wide, batches)
    fitted = fit_runs(wide, batches, runs, linearizing)
    trained, distillation = _distilled(wide, fitted, batches, linearizing)
    parameters = wide.model.num_parameters()
    del wide
    gc.collect()
    record = {
        "model": linearizing.model,
        "runs": [_as_json(each) for each in fitted],
        "replaced_blocks": [number for start, end in runs for number in range(start, end)],
        "ridge": linearizing.ridge,
        "text": batches.source,
        "tokens": batches.tokens,
        "parameters_before": parameters,
        **distillation,
    }
    _write(linearizing.model, trained, out)
    measures = {
        "before": measure(open_model(linearizing.model, dtype), measuring),
        "dropped": measure(open_model(str(out / REMAINING), dtype), measuring),
    }
    if distillation:
        measures["replaced"] = measure(_live(open_model(linearizing.model, dtype), fitted), measuring)
    linearized = load_linearized(out, dtype=dtype)
    measures["distilled" if distillation else "replaced"] = measure(linearized, measuring)
    record["parameters_after"] = linearized.model.num_parameters()
    answer = record | {"out": str(out), **as_numbers(measures)}
    write_json(out / "linearize.json", answer)
    named = ", ".join(map(_in_words, runs))
    draw_measures(measures, out / "linearize.png", f"{Path(linearizing.model).name}, affine instead of blocks {named}")
    return answer | {"files": [str(out), str(out / "linearize.json"), str(out / "linearize.png")]}


def chosen_runs(linearizing: Linearizing, loaded: LoadedModel, batches: CloudBatches) -> list[Run]:
    """`auto:K` (the K most linear without their residual), `6-8` or `3,6-8`, as runs. Raises SpecError."""
    total, written = len(blocks_of(loaded.model)), linearizing.blocks
    if match := re.fullmatch(r"auto:(\d+)", written):
        count = int(match[1])
        if not 1 <= count < total:
            raise SpecError(f"blocks {written!r}: give 1 to {total - 1} of the model's {total} blocks")
        return as_runs(_most_linear(linearizing, loaded, batches, total)[:count])
    numbers: list[int] = []
    for part in written.split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if ends is None:
            raise SpecError(f"blocks {written!r}: give auto:K, or numbers from 0 as 6-8 or 3,6-8")
        numbers += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    if not numbers or max(numbers) >= total or len(set(numbers)) in (0, total):
        raise SpecError(f"blocks {written!r}: the model has blocks 0 to {total - 1}, and at least one must stay")
    return as_runs(numbers)


def as_runs(numbers: Sequence[int]) -> list[Run]:
    """Neighbours together, in rising order."""
    runs: list[Run] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def fit_runs(
    loaded: LoadedModel, batches: CloudBatches, runs: Sequence[Run], linearizing: Linearizing
) -> list[FittedRun]:
    """The ridge map of each run."""
    fitted = []
    for run, mine, other in moments_of(loaded, batches, runs, linearizing.clouds.skip_first_token):
        map_DD, bias_D = fit_affine(mine, linearizing.ridge)
        fitted.append(
            FittedRun(
                run,
                AffineMap(map_DD.T.float(), bias_D.float()),
                affine_r2((map_DD, bias_D), mine),
                None if other is None else affine_r2((map_DD, bias_D), other),
            )
        )
    return fitted


def distillation_batches(loaded: LoadedModel, clouds: Clouds, distilling: Distilling) -> list[TokenBatch]:
    """A batch for each step, of pieces of the text's fitting part as long as those that the maps are fitted on.

    Drawn by another seed, and without repetition as far as the text reaches; then the first come again.
    """
    wanted = distilling.steps * distilling.batch
    pieces = sample_pieces(joined(read_texts(clouds.data, clouds.heldout).fit), clouds.chars, wanted, clouds.seed + 1)
    random.Random(clouds.seed).shuffle(pieces)  # they come in the order of the text
    rows = encode(pieces, loaded.tokenizer, context_length(loaded.model) or clouds.chars * 4)
    parts = [rows[start : start + distilling.batch] for start in range(0, len(rows), distilling.batch)]
    return [batch for part in parts for batch in token_batches(part, padding_id(loaded.tokenizer))]


def _distilled(
    teacher: LoadedModel, fitted: Sequence[FittedRun], batches: CloudBatches, linearizing: Linearizing
) -> tuple[list[FittedRun], dict[str, Any]]:
    """The runs with trained maps, and what linearize.json says of the training; neither changes without steps."""
    distilling = linearizing.distilling
    if distilling.steps == 0:
        return list(fitted), {}
    outputs = block_outputs(teacher.model)
    copies = {each.run: AffineMap(each.affine.weight_DD.clone(), each.affine.bias_D.clone()) for each in fitted}
    blocks = {run: affine_block(affine, outputs, teacher.model) for run, affine in copies.items()}
    models = pair(teacher.model, blocks)
    tried = batches.held_out or batches.fit
    before = distance(models, tried)
    start = perf_counter()
    losses = distill(models, distillation_batches(teacher, linearizing.clouds, distilling), distilling)
    seconds = perf_counter() - start
    trained = [
        replace(each, affine=AffineMap(blocks[each.run].weight.detach(), blocks[each.run].bias.detach()))
        for each in fitted
    ]
    record = {
        **asdict(distilling),
        "tried_on": "held-out text" if batches.held_out else "the text that the maps were fitted on",
        "before": asdict(before),
        "after": asdict(distance(models, tried)),
        "losses": losses,
        "seconds": seconds,
    }
    return trained, {"distillation": record}


def _most_linear(linearizing: Linearizing, loaded: LoadedModel, batches: CloudBatches, total: int) -> list[int]:
    """The blocks, most linear without their residual first: from a linearity.json, or scored here."""
    if linearizing.scores is None:
        linear = score_blocks(loaded, batches, linearizing.clouds.skip_first_token)
        return [each.block for each in rank(linear, "delta", "lstsq")]
    content = read_analysis(Path(linearizing.scores), ("model", "blocks", "scores"), linearizing.model, total)
    scores = {each["ell"]: each["ls_delta"] for each in content["scores"]}
    return sorted(scores, key=lambda block: -(2.0 if scores[block] is None else scores[block]))


def _write(name: str, fitted: Sequence[FittedRun], out: Path) -> None:
    """The folder; it is reopened and must compute what the live model with the maps does."""
    with whole_folder(out) as draft:
        dtype = file_dtype(name)
        live = _live(load_model(name, dtype=dtype, device="cpu"), fitted)
        write_linearized(load_model(name, dtype=dtype, device="cpu"), {each.run: each.affine for each in fitted}, draft)
        reopened = load_linearized(draft, dtype=dtype, device="cpu")
        expected, written = probe_logits(live.model), probe_logits(reopened.model)
        if not bool(torch.isfinite(expected).all()):
            raise NumericsError("the model with the fitted maps gives logits that are not finite; raise --ridge")
        if not torch.equal(expected, written):
            raise NumericsError("the written maps were reopened and do not compute the same; nothing was written")


def _live(loaded: LoadedModel, fitted: Sequence[FittedRun]) -> LoadedModel:
    """The model with the maps in the place of their blocks."""
    outputs = block_outputs(loaded.model)
    replace_blocks(loaded.model, {each.run: affine_block(each.affine, outputs, loaded.model) for each in fitted})
    return loaded


def _as_json(each: FittedRun) -> dict[str, Any]:
    return {
        "blocks": _in_words(each.run),
        "start": each.run[0],
        "end_exclusive": each.run[1],
        "explained": each.explained,
        "explained_held_out": each.explained_held_out,
    }


def _in_words(run: Run) -> str:
    return str(run[0]) if run[1] == run[0] + 1 else f"{run[0]}-{run[1] - 1}"
