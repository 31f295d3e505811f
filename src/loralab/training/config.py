"""Everything that a training run can be told. Loads no torch, so that `--help` is quick."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, Literal

from loralab.errors import SpecError
from loralab.methods.settings import MethodSettings
from loralab.methods.table import rows_of

BoardName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
BOARD_EXTRAS: Mapping[str, str] = {
    "tensorboard": "board", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"
}  # fmt: skip
"""Board -> the extra that brings its package."""
Schedule = Literal["linear", "cosine", "constant"]

FREE_TO_CHANGE = (
    *("resume", "overwrite", "save_every", "keep", "steps", "epochs", "eval_before", "samples", "board"),
    *("processes", "shard", "attention", "compile", "liger"),
)
"""Fields in which a resumed run may differ from the one it goes on with: a run can be prolonged."""

DEFAULT_EPOCHS = 3.0


@dataclass(frozen=True, kw_only=True)
class TrainConfig(MethodSettings):
    """One training run: a model, a task, how to adapt and how to optimise."""

    model: str
    """The base model: an embedded name (smollm2-135m, minilm-l6), a local folder, or a Hub id."""

    task: str
    """The task: jsonl for rows of your own in any format (--task jsonl --data FILE), text for raw text, images;
    docstrings, glue/cola (sst2, mrpc, stsb, qqp, mnli, qnli, rte, wnli), e2e, webnlg, dart, wikisql, or samsum."""

    out: str
    """Folder for the adapter, the run's record, its curves and its checkpoints."""

    data: str | None = None
    """The task's data: the official files, or your own: JSONL, JSON, CSV, TSV, Parquet, or a folder of these or of
    datasets; text files for text. Without it the Hub's copy of an official data set."""

    validation: str | None = None
    """Your own held-out data to measure on while training, a file or folder like data: all of a single file of data is
    then for training."""

    validation_share: float | None = None
    """Hold out this share of the training inputs instead, drawn by the seed, all examples of an input together."""

    training_share: float | None = None
    """Measure on this share of the training split, drawn by the seed, and never on what the data hold out: for choosing
    settings that are then judged there."""

    kind: Literal["classification", "regression"] | None = None
    """What the labels of your own data are, where numbers could be either. Without it whole numbers are classes, and
    numbers of which one has a decimal point are values."""

    init_adapter: str | None = field(default=None, metadata={"group": "adapter"})
    """Start from this adapter's values instead, trained on the same base with the same targets, rank and scale, and
    with the tokenizer and chat template that lie beside it. A head of another size starts afresh."""

    labels: tuple[str, ...] | None = None
    """The classes in the order of the model's outputs; without it that of the checkpoint where it has the same classes,
    else that of their names."""

    eva_batches: int = field(default=32, metadata={"only_with": "--init eva"})
    """With init eva: look at no more than this many batches, the first of the run."""

    eva_rho: float = field(default=2.0, metadata={"only_with": "--init eva"})
    """With init eva: no weight gets more than this times its rank; 1 leaves the ranks as they are."""

    eva_tau: float = field(default=0.99, metadata={"only_with": "--init eva"})
    """With init eva: enough batches were seen when every direction has this cosine with what it was a batch before."""

    head_dropout: float | None = field(default=None, metadata={"group": "adapter"})
    """Dropout before a classifier's output; without it the model's own."""

    steps: int | None = field(default=None, metadata={"group": "length and batches"})
    """Train for this many optimizer steps. Give steps or epochs; without either, 3 epochs."""

    epochs: float | None = field(default=None, metadata={"group": "length and batches"})
    """Train for this many passes over the training data."""

    batch_size: int = field(default=16, metadata={"group": "length and batches"})
    """Examples in a batch."""

    accumulate: int = field(default=1, metadata={"group": "length and batches"})
    """Batches whose gradients make one step, weighted by their targets: the same as one batch of all of them."""

    length_pool: int | None = field(default=None, metadata={"group": "length and batches"})
    """Batches' worth of shuffled examples that are sorted by length before they are cut into batches: less padding, but
    texts of one batch are alike, which can throw a classifier off its course. 1: none are; without it 50 where tokens
    are predicted, and 1 where an example has one label."""

    lr: float = field(default=2e-4, metadata={"group": "optimizer"})
    """The learning rate at its highest."""

    lora_plus_ratio: float = field(default=1.0, metadata={"group": "optimizer"})
    """Learning rate of B divided by that of A (LoRA+); A and everything else have lr."""

    schedule: Schedule = field(default="linear", metadata={"group": "optimizer"})
    """How the learning rate falls after the warmup."""

    warmup: float = field(default=0.06, metadata={"group": "optimizer"})
    """Steps in which the learning rate rises: a share of all steps if below 1, else a number of steps."""

    weight_decay: float = field(default=0.0, metadata={"group": "optimizer"})
    """Decoupled weight decay; biases are left out."""

    beta1: float = field(default=0.9, metadata={"group": "optimizer"})
    """AdamW's decay of the mean of the gradients."""

    beta2: float = field(default=0.999, metadata={"group": "optimizer"})
    """AdamW's decay of the mean of their squares."""

    eps: float = field(default=1e-8, metadata={"group": "optimizer"})
    """AdamW's term against division by zero."""

    clip: float = field(default=1.0, metadata={"group": "optimizer"})
    """The largest norm of the gradient; 0 leaves it as it is."""

    label_smoothing: float = field(default=0.0, metadata={"group": "optimizer"})
    """Share of the loss that is spread over all tokens or classes alike. With preference dpo: the share of pairs
    that are taken to be labelled the wrong way round (cDPO)."""

    preference: Literal["dpo", "orpo"] | None = field(default=None, metadata={"group": "optimizer"})
    """Learn from pairs of answers (rows of prompt, chosen, rejected): dpo, held to the base as reference, or orpo,
    without one."""

    beta: float = field(default=0.1, metadata={"group": "optimizer"})
    """With preference: dpo's beta, how strongly the model is held to the reference; orpo's weight of the odds ratio."""

    consistency: float | None = field(default=None, metadata={"group": "optimizer"})
    """Weight of the consistency loss between two passes of every batch. Without it AdaMix has 1 on classes and 100 on
    generation, and every other method none."""

    cosine_penalty: float = field(default=0.0, metadata={"group": "optimizer"})
    """Weight of 1 - cos between the states of neighbouring blocks, added to the loss: it pulls them together."""

    gradient_checkpointing: bool = field(default=False, metadata={"group": "optimizer"})
    """Compute each block again in the backward pass: less memory, a third more time."""

    max_length: int = field(default=512, metadata={"group": "length and batches"})
    """Tokens of prompt and target together; a longer prompt loses its left end."""

    packing: bool = field(default=False, metadata={"group": "length and batches"})
    """Lay short examples one after another into rows of max_length, without attention between them; batch_size then
    counts rows. For texts whose tokens are learned, and models that keep the examples of a row apart (tried)."""

    limit: int | None = field(default=None, metadata={"group": "length and batches"})
    """Train on the first N examples only."""

    eval_every: int = field(default=0, metadata={"group": "evaluation"})
    """Measure on held-out data every N steps and keep the best adapter; 0 measures only at the end."""

    best_epoch: bool = field(default=False, metadata={"group": "evaluation"})
    """Measure on all held-out data after every epoch and keep the best adapter (the paper's protocol on GLUE)."""

    eval_limit: int = field(default=256, metadata={"group": "evaluation"})
    """Held-out examples to measure on; 0 measures on none. With best_epoch it is all of them."""

    eval_before: bool = field(default=True, metadata={"group": "evaluation"})
    """Measure the base before step 1 too, on the examples of the later evaluations; --no-eval-before leaves it out."""

    samples: int = field(default=3, metadata={"group": "evaluation"})
    """Held-out examples that the model answers before, at every evaluation and at the end; 0 asks none."""

    best_metric: str | None = field(default=None, metadata={"group": "evaluation"})
    """What tells the best adapter: loss, or a metric of the task. Without it the loss, for classes the task's first
    metric."""

    early_stop: int = field(default=0, metadata={"group": "evaluation"})
    """Stop after this many evaluations in a row without a better one; 0 never stops early."""

    board: tuple[BoardName, ...] | None = field(default=None, metadata={"group": "run"})
    """Show the run's figures and samples on tensorboard, wandb, mlflow, trackio, or several of them. Without it
    TensorBoard's files are written where its package is installed."""

    seed: int = field(default=0, metadata={"group": "run"})
    """Seed of the adapter, of a fresh head, of dropout and of the order of the data."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(default="auto", metadata={"group": "run"})
    """Precision of the frozen base; auto is bfloat16 where the processor multiplies it natively. The adapter has
    float32."""

    quantize: Literal["nf4", "nf4-double"] | None = field(default=None, metadata={"group": "run"})
    """Keep the dense layers of the frozen base in 4 bits (QLoRA); nf4-double quantises their scales as well."""

    attention: str | None = field(default=None, metadata={"group": "run"})
    """How the base computes attention, as transformers calls it: eager, sdpa, flash_attention_2, flex_attention, … .
    Without it transformers' own choice, and on a CPU kernels for training where they are faster."""

    compile: bool = field(default=False, metadata={"group": "run"})
    """Compile the base's blocks (torch.compile) for training: a minute or so in the first steps, faster ones after. The
    lean kernels that are used otherwise are left off, and dropout draws other numbers."""

    liger: bool = field(default=False, metadata={"group": "run"})
    """Compute the base's norms, rotations and feed-forwards with liger-kernel's kernels, on a GPU. Never run by us: no
    GPU was at hand."""

    device: str = field(default="auto", metadata={"group": "run"})
    """Where to train: auto (the accelerator that torch finds), cpu, cuda, cuda:N, mps or xpu."""

    threads: int | None = field(default=None, metadata={"group": "run"})
    """CPU threads; without it torch decides."""

    save_every: int = field(default=100, metadata={"group": "run"})
    """Write a checkpoint every N steps, and one at the end; 0 writes none."""

    keep: int = field(default=2, metadata={"group": "run"})
    """Checkpoints to keep, the newest."""

    processes: int | None = field(default=None, metadata={"group": "run"})
    """Train in this many processes on this machine, each with a share of every batch: as one process trains, in less
    time on several GPUs. Under torchrun there are as many as it starts."""

    shard: bool | int = field(default=False, metadata={"group": "run"})
    """With several processes: each holds a part of the frozen base's blocks (FSDP2) instead of all of it, and gathers a
    block when it computes it. With a number N: N processes that stand side by side hold a base together, so that
    gathering stays within a machine of N."""

    resume: bool | Literal["auto"] = field(default=False, metadata={"group": "run"})
    """Go on from the newest checkpoint in the output folder; auto: where there is none, begin the run."""

    overwrite: bool = field(default=False, metadata={"group": "run"})
    """Replace the run that the output folder holds."""

    def validate(self) -> None:
        """Raise one SpecError that lists everything wrong with the values, or return."""
        said = (message for wrong, message in _checks(self) if wrong)
        problems = _not_numbers(self) or [*self.method_problems(), *said]
        if problems:
            raise SpecError("invalid training run: " + "; ".join(problems))

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """How it differs from an earlier run's configuration, but for what a resumed run may change."""
        return [
            f"{each.name} was {before.get(each.name)!r} and is {getattr(self, each.name)!r}"
            for each in fields(self)
            if each.name not in FREE_TO_CHANGE
            and _plain(getattr(self, each.name)) != before.get(each.name, _plain(each.default))
        ]


_AMOUNTS, _COUNTS = (float, float | None), (int, int | None)


def _not_numbers(config: TrainConfig) -> list[str]:
    """What should be a finite number and is not, and what should be whole."""
    amounts = {each.name: getattr(config, each.name) for each in fields(config) if each.type in _AMOUNTS}
    counts = {each.name: getattr(config, each.name) for each in fields(config) if each.type in _COUNTS}
    return [
        *(f"{name} {value!r}: it must be a finite number" for name, value in amounts.items() if _is_no_number(value)),
        *(f"{name} {value!r}: it must be a whole number" for name, value in counts.items() if not _is_whole(value)),
    ]


def _is_no_number(value: object) -> bool:
    return not isinstance(value, (int, float, type(None))) or (isinstance(value, float) and not isfinite(value))


def _is_whole(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _plain(value: object) -> object:
    """A value as JSON gives it back."""
    return list(value) if isinstance(value, tuple) else value


def _checks(c: TrainConfig) -> list[tuple[bool, str]]:
    """(is it wrong, what to say) for every rule."""
    at_least_one = (
        "rank",
        "batch_size",
        "accumulate",
        "length_pool",
        "keep",
        "steps",
        "threads",
        "limit",
        "eva_batches",
        "eva_rho",
        "processes",
    )
    not_negative = (
        *("weight_decay", "clip", "eval_every", "eval_limit", "early_stop", "save_every", "warmup", "seed"),
        *("cosine_penalty", "consistency", "samples"),
    )
    shares = ("dropout", "label_smoothing", "beta1", "beta2")
    positive = ("alpha", "lr", "lora_plus_ratio", "eps", "epochs", "beta")
    return [
        *((_below(c, name, 1), f"{name} {getattr(c, name)}: at least 1 is needed") for name in at_least_one),
        *((_below(c, name, 0), f"{name} {getattr(c, name)}: it cannot be negative") for name in not_negative),
        *((not 0 <= getattr(c, name) < 1, f"{name} {getattr(c, name)}: it must be in [0, 1)") for name in shares),
        *((_not_positive(c, name), f"{name} {getattr(c, name)}: it must be above 0") for name in positive),
        (c.steps is not None and c.epochs is not None, f"steps {c.steps} and epochs {c.epochs}: give one of them"),
        (
            c.early_stop > 0 and c.eval_every < 1 and not c.best_epoch,
            f"early_stop {c.early_stop}: give eval_every or best_epoch, or there is nothing to count",
        ),
        (c.eval_every > 0 and c.best_epoch, f"eval_every {c.eval_every} and best_epoch: give one of them"),
        (
            c.head_dropout is not None and not 0 <= c.head_dropout < 1,
            f"head_dropout {c.head_dropout}: it must be in [0, 1)",
        ),
        (c.eval_every > 0 and c.eval_limit < 1, f"eval_every {c.eval_every} needs an eval_limit above 0"),
        (
            c.quantize is not None and any(row.trains_weights for row in rows_of(c.method)),
            f"quantize {c.quantize} and method {c.method}: what it trains would be frozen in 4 bits; choose lora",
        ),
        (not 0 <= c.eva_tau <= 1, f"eva_tau {c.eva_tau}: a cosine must be in [0, 1]"),
        *(
            (c.init != "eva" and getattr(c, each.name) != each.default, f"{each.name}: it is for init eva alone")
            for each in fields(TrainConfig)
            if each.name.startswith("eva_")
        ),
        (c.init == "eva" and c.init_adapter is not None, "init eva and init_adapter: A can start from one of them"),
        (
            c.validation is not None and c.validation_share is not None,
            f"validation {c.validation} and validation_share {c.validation_share}: give one of them",
        ),
        (
            c.validation_share is not None and not 0 < c.validation_share < 1,
            f"validation_share {c.validation_share}: it must be above 0 and below 1",
        ),
        (
            c.training_share is not None and not 0 < c.training_share < 1,
            f"training_share {c.training_share}: it must be above 0 and below 1",
        ),
        *_about_preference(c),
        *_about_packing(c),
        *_about_compiling(c),
        (not isinstance(c.shard, bool) and c.shard < 2, f"shard {c.shard}: at least 2 processes hold a base in parts"),
        (bool(c.resume) and c.overwrite, "resume and overwrite: give one of them"),
        (not c.out, "out is empty: name a folder"),
    ]


def _about_preference(c: TrainConfig) -> list[tuple[bool, str]]:
    """Rules of learning from pairs of answers."""
    pairs = c.preference is not None
    return [
        (pairs and bool(c.consistency), f"preference {c.preference} and consistency {c.consistency}: give one of them"),
        (pairs and c.cosine_penalty > 0, f"preference {c.preference} and cosine_penalty: give one of them"),
        (
            c.preference == "dpo" and c.label_smoothing >= 0.5,
            f"label_smoothing {c.label_smoothing}: of pairs it must be below 0.5, or they say nothing",
        ),
        (
            c.preference == "orpo" and c.label_smoothing > 0,
            f"label_smoothing {c.label_smoothing}: orpo has none; leave it out",
        ),
    ]


def _about_packing(c: TrainConfig) -> list[tuple[bool, str]]:
    """Rules of rows with several examples: what minds where a row or a prompt begins does not go with them."""
    beside = {"preference": c.preference, "cosine_penalty": c.cosine_penalty, "invocation_tokens": c.invocation_tokens}
    inserts = any(row.sized_by == "positions" for row in rows_of(c.method))
    return [
        *((c.packing and bool(value), f"packing and {name}: give one of them") for name, value in beside.items()),
        (c.packing and inserts, f"packing and method {c.method}: it inserts positions by where a row's prompt ends"),
    ]


def _about_compiling(c: TrainConfig) -> list[tuple[bool, str]]:
    """What blocks do that the compiler does not follow them in."""
    beside = {
        "shard": "blocks are gathered",
        "gradient_checkpointing": "blocks are computed again",
        "quantize": "weights are unpacked",
    }
    return [
        (
            c.compile and bool(getattr(c, name)),
            f"compile and {name}: where {what}, nothing is compiled; give one of them",
        )
        for name, what in beside.items()
    ]


def _below(config: TrainConfig, name: str, least: float) -> bool:
    value = getattr(config, name)
    return value is not None and value < least


def _not_positive(config: TrainConfig, name: str) -> bool:
    value = getattr(config, name)
    return value is not None and not value > 0
