import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from loralab.tasks.tokens import IGNORED, cut_left, fit, plain_ids, prompt_ids, target_ids


@given(st.integers(1, 30), st.integers(1, 30), st.integers(8, 40), st.booleans())
def test_the_prompt_never_cuts_the_target(prompt: int, target: int, longest: int, keep_first: bool) -> None:
    ids = list(range(prompt + target))
    labels = [IGNORED] * prompt + ids[prompt:]
    cut_ids, cut_labels, cut = fit(ids, labels, longest, keep_first)
    assert cut == (prompt + target > longest)
    assert len(cut_ids) == len(cut_labels) == min(longest, prompt + target)
    kept = [label for label in cut_labels if label != IGNORED]
    assert kept == ids[prompt:][: longest - 1 - (keep_first and prompt > 1)] or kept == ids[prompt:]
    assert cut_labels[0] == IGNORED
    assert all(label in (IGNORED, token) for token, label in zip(cut_ids, cut_labels, strict=True))
    if keep_first and prompt > 1:
        assert cut_ids[0] == 0


def test_the_left_end_goes_first() -> None:
    labels = [IGNORED] * 4 + [4, 5]
    assert fit([0, 1, 2, 3, 4, 5], labels, 4, False)[0] == [2, 3, 4, 5]
    assert fit([0, 1, 2, 3, 4, 5], labels, 4, True)[0] == [0, 3, 4, 5]
    assert fit([0, 1, 2, 3, 4, 5], labels, 2, False)[0] == [3, 4]


def test_a_cut_conversation_keeps_its_last_target() -> None:
    labels = [IGNORED, 1, 2, IGNORED, 4, 5]
    assert fit([0, 1, 2, 3, 4, 5], labels, 5, False) == ([1, 2, 3, 4, 5], [IGNORED, 2, IGNORED, 4, 5], True)


def test_an_appended_end_is_taken_off_and_an_empty_prompt_begins(tokenizer: PreTrainedTokenizerFast) -> None:
    end = tokenizer.eos_token_id
    plain = prompt_ids(["ab"], tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", end)])
    assert prompt_ids(["ab"], tokenizer) == plain
    assert prompt_ids([""], tokenizer) == [[end]]


def test_targets_end(tokenizer: PreTrainedTokenizerFast) -> None:
    (ids,) = target_ids([" b"], tokenizer)
    assert ids == [*plain_ids([" b"], tokenizer)[0], tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == " b<eos>"


def test_a_tokenizer_that_adds_a_space_gets_no_second() -> None:
    backend = Tokenizer(WordLevel({"<eos>": 0, "▁": 1, "▁x": 2, "▁b": 3}, unk_token="▁"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    assert target_ids([" b"], tokenizer) == [[3, 0]]


@pytest.mark.parametrize("bos, kept", [(9, [9, 3, 4]), (None, [2, 3, 4])])
def test_cutting_keeps_a_beginning(tokenizer: PreTrainedTokenizerFast, bos: int | None, kept: list[int]) -> None:
    if bos is not None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos)
    assert cut_left([9, 1, 2, 3, 4], 3, tokenizer) == kept
