"""The GLUE benchmark's tasks as data: folders, columns, labels and metrics.

Wang et al. 2019 (arXiv 1804.07461) and the official downloads. The first metric of each is the one in the LoRA
paper's Table 2; WNLI is left out there, as everywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class GlueTask:
    """One of the tasks as its official TSV files have it."""

    folder: str
    """In the GLUE root folder."""
    texts: tuple[str, ...]
    """The columns of the one text, or of the two."""
    label: str
    """The column of the label; test files have none."""
    labels: Mapping[str, str]
    """The label's word in the files -> the class's name, in the order of the classes; empty for a regression."""
    metrics: tuple[str, ...]
    submission: str
    """What the GLUE server calls a file of test predictions."""
    columns: tuple[str, ...] = ()
    """The columns of training and validation files that have no header."""
    torn_rows: bool = False
    """The official training file has a few rows that are torn in two."""


ENTAILMENT = {"entailment": "entailment", "not_entailment": "not_entailment"}

GLUE: dict[str, GlueTask] = {
    "cola": GlueTask(
        "CoLA",
        ("sentence",),
        "label",
        {"0": "unacceptable", "1": "acceptable"},
        ("matthews",),
        "CoLA.tsv",
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": GlueTask("SST-2", ("sentence",), "label", {"0": "negative", "1": "positive"}, ("accuracy",), "SST-2.tsv"),
    "mrpc": GlueTask(
        "MRPC",
        ("#1 String", "#2 String"),
        "Quality",
        {"0": "not_equivalent", "1": "equivalent"},
        ("accuracy", "f1"),
        "MRPC.tsv",
    ),
    "stsb": GlueTask("STS-B", ("sentence1", "sentence2"), "score", {}, ("pearson", "spearman"), "STS-B.tsv"),
    "qqp": GlueTask(
        "QQP",
        ("question1", "question2"),
        "is_duplicate",
        {"0": "not_duplicate", "1": "duplicate"},
        ("accuracy", "f1"),
        "QQP.tsv",
        torn_rows=True,
    ),
    "mnli": GlueTask(
        "MNLI",
        ("sentence1", "sentence2"),
        "gold_label",
        {"entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction"},
        ("accuracy",),
        "MNLI-m.tsv",
    ),
    "qnli": GlueTask("QNLI", ("question", "sentence"), "label", ENTAILMENT, ("accuracy",), "QNLI.tsv"),
    "rte": GlueTask("RTE", ("sentence1", "sentence2"), "label", ENTAILMENT, ("accuracy",), "RTE.tsv"),
    "wnli": GlueTask(
        "WNLI",
        ("sentence1", "sentence2"),
        "label",
        {"0": "not_entailment", "1": "entailment"},
        ("accuracy",),
        "WNLI.tsv",
    ),
}
"""By the task's name after `glue/`."""

FILES = {"train": ["train.tsv"], "validation": ["dev.tsv"], "test": ["test.tsv"]}
"""split -> its official file."""

MNLI_FILES = {
    "train": ["train.tsv"],
    "validation_matched": ["dev_matched.tsv"],
    "validation_mismatched": ["dev_mismatched.tsv"],
    "test_matched": ["test_matched.tsv"],
    "test_mismatched": ["test_mismatched.tsv"],
    "diagnostic": ["../AX/AX.tsv", "../diagnostic/diagnostic.tsv"],
}
"""MNLI's: matched is of the training data's genres; the diagnostic set (AX) is predicted with a model of MNLI."""

MNLI_PARTS = ("matched", "mismatched")
MNLI_SUBMISSIONS = {"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv", "diagnostic": "AX.tsv"}

DOWNLOAD = "https://gluebenchmark.com/tasks"
HUB = "nyu-mll/glue"
HUB_TEXTS = {"mrpc": ("sentence1", "sentence2")}
"""Where the Hub names a task's text columns otherwise than the files do."""
