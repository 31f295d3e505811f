"""The analysis of angular distances as files: angular.json, angular.png, and angular.csv if asked for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loralab.analysis.layers.angular import AngularDistances, angular_distances, block_sizes, draw_angular
from loralab.analysis.layers.stream import Tokens
from loralab.analysis.layers.texts import CHARACTERS_PER_TOKEN, encode, read_texts, sample_pieces, token_batches
from loralab.errors import DataError, NotFoundError
from loralab.files.whole import write_json, write_text
from loralab.models.families.aliases import final_norm_paths
from loralab.models.load import LoadedModel
from loralab.tasks.encoding.encode import padding_id

CONVENTION = (
    "blocks are counted from 0; D[i][j] is the distance between what enters block i and what enters block j, j = L "
    "being what leaves the last block before the final norm; best: drop blocks start to end_exclusive - 1"
)
POST_NORM = (
    "this model has no final norm: its blocks end in their own norms (post-norm), where the residual stream is not a "
    "sum of what the blocks add and the argument for dropping blocks does not hold; read the distances as a description"
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which states the distances are taken of."""

    data: str | None = None
    samples: int = 256
    max_len: int = 512
    tokens: Tokens = "last"
    seed: int = 0


def measure_angular(loaded: LoadedModel, sampling: Sampling) -> AngularDistances:
    """The distances of a model over the fitting part of a text. Raises what reading and running raise."""
    texts = read_texts(sampling.data)
    pieces = sample_pieces(texts.fit, sampling.max_len * CHARACTERS_PER_TOKEN, sampling.samples, sampling.seed)
    rows = encode(pieces, loaded.tokenizer, sampling.max_len)
    return angular_distances(loaded.model, list(token_batches(rows, padding_id(loaded.tokenizer))), sampling.tokens)


def analyse_angular(loaded: LoadedModel, out: Path, sampling: Sampling, sizes: str, *, csv: bool) -> dict[str, Any]:
    """Measure, write the files, and return the summary that the command line prints."""
    found = measure_angular(loaded, sampling)
    counts = block_sizes(sizes, found.blocks)
    out.mkdir(parents=True, exist_ok=True)
    content = as_json(loaded.name, found, sampling, counts)
    notes = [] if final_norm_paths(loaded.model) else [POST_NORM]
    write_json(out / "angular.json", content | {"notes": notes})
    draw_angular(found, counts, out / "angular.png", f"Angular distance across n blocks of {Path(loaded.name).name}")
    files = [str(out / "angular.json"), str(out / "angular.png")]
    if csv:
        write_text(out / "angular.csv", _csv(found))
        files.append(str(out / "angular.csv"))
    names = ("model", "blocks", "tokens", "samples", "text", "best")
    return {name: content[name] for name in names} | {"notes": notes, "files": files}


def as_json(model: str, found: AngularDistances, sampling: Sampling, sizes: Sequence[int]) -> dict[str, Any]:
    """The whole of angular.json."""
    return {
        "model": model,
        "blocks": found.blocks,
        "tokens": sampling.tokens,
        "samples": found.samples,
        "text": read_texts(sampling.data).source,
        "max_len": sampling.max_len,
        "convention": CONVENTION,
        "D": found.mean_LL.tolist(),
        "std": found.std_LL.tolist(),
        "best": [
            {
                "n": n,
                "start": found.best(n),
                "end_exclusive": found.best(n) + n,
                "distance": found.distance(found.best(n), n),
            }
            for n in sizes
        ],
    }


def read_angular(path: Path, model: str, blocks: int) -> AngularDistances:
    """The distances of an angular.json. Raises NotFoundError, and DataError for a file of another model or kind."""
    content = read_analysis(path, ("model", "blocks", "D", "std", "samples"), model, blocks)
    mean_LL, std_LL = (torch.tensor(content[name], dtype=torch.float64) for name in ("D", "std"))
    return AngularDistances(mean_LL, std_LL, int(content["samples"]))


def read_analysis(path: Path, keys: Sequence[str], model: str, blocks: int) -> dict[str, Any]:
    """An analysis' own JSON, if it is of this model. Raises NotFoundError and DataError."""
    if not path.is_file():
        raise NotFoundError(f"{path} was to hold an analysis, but there is no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}; write it with loralab analyse") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)}: it is not what this analysis writes")
    if (content["model"], content["blocks"]) != (model, blocks):
        raise DataError(
            f"{path} is of {content['model']} with {content['blocks']} blocks; here the model is {model} with {blocks}"
        )
    return dict(content)


def _csv(found: AngularDistances) -> str:
    rows = [
        f"{start},{count},{found.distance(start, count):.9f},{float(found.std_LL[start, start + count]):.9f}"
        for count in range(1, found.blocks + 1)
        for start in range(found.blocks - count + 1)
    ]
    return "\n".join(["start,n,distance,std", *rows]) + "\n"
