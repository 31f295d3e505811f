"""Paths lose their folders, and secrets are found; an address and a task's name are neither."""

from pathlib import Path

import pytest

from loralab.formats.sharing.private import findings, shareable, without_folders


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("/data/of-me/secret.jsonl is one file", "secret.jsonl is one file"),
        ("read from '/data/me/x.csv'", "read from 'x.csv'"),
        ("C:\\Users\\me\\x.json and more", "x.json and more"),
        ("~/me/x", "x"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        ("glue/cola, 3/4 of it", "glue/cola, 3/4 of it"),
        ("out/first", "out/first"),
    ],
)
def test_only_the_last_name_of_a_path_is_told(text: str, shared: str) -> None:
    assert without_folders(text) == shared


def test_a_path_with_spaces_is_known_from_the_settings_wherever_it_stands() -> None:
    run = {"config": {"data": "/a b/c d.jsonl", "lr": 0.1}, "notes": ["'/a b/c d.jsonl' is split", "x"], "result": None}
    assert shareable(run, run) == {"config": {"data": "c d.jsonl", "lr": 0.1}, "notes": ["'c d.jsonl' is split", "x"]}


@pytest.mark.parametrize(
    "secret", ["hf_" + "a1" * 17, "ghp_" + "a" * 36, "sk-" + "a" * 40, "AKIA" + "A" * 16, f"{Path.home()}/x"]
)
def test_what_must_not_leave_is_found_with_its_line(secret: str) -> None:
    assert [each.endswith("in line 2") for each in findings(f"fine\nnot {secret} fine\n")] == [True]


def test_ordinary_text_is_fine() -> None:
    assert list(findings("hf_hub_download, sk-learn, https://huggingface.co/settings/tokens\n/usr/lib\n")) == []
