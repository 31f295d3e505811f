import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.tokens import answer_ids, context_ids, cut_left, fit, prompt_ids
from small_tokenizers import KINDS, small_tokenizer


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


@pytest.mark.parametrize("kind", KINDS)
def test_a_space_at_a_prompts_end_is_left_to_the_model_where_words_bring_their_own(kind: str) -> None:
    tokenizer = small_tokenizer(kind)
    with_space, without = context_ids(["Answer: ", "Answer:"], tokenizer, special=True)
    assert with_space == without
    (ids,) = context_ids(["Answer:\n"], tokenizer, special=True)
    assert ids == prompt_ids(["Answer:\n"], tokenizer)[0]


def test_answers_end_once(tokenizer: PreTrainedTokenizerFast) -> None:
    (ids,) = answer_ids(["b"], tokenizer)
    assert tokenizer.decode(ids) == "b<eos>"
    assert answer_ids(["b<eos>"], tokenizer) == [ids]


@pytest.mark.parametrize("bos, kept", [(9, [9, 3, 4]), (None, [2, 3, 4])])
def test_cutting_keeps_a_beginning(tokenizer: PreTrainedTokenizerFast, bos: int | None, kept: list[int]) -> None:
    if bos is not None:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos)
    assert cut_left([9, 1, 2, 3, 4], 3, tokenizer) == kept
