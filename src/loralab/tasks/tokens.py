"""Texts as token ids, and ids cut to a length. It knows nothing of tasks.

Every function takes many texts at once: a tokenizer is several times faster so.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label of a token that is no target (transformers' convention)."""


def prompt_ids(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Prompts as the tokenizer begins a text, without the end-of-text token that some append.

    At least one token each, the beginning or end of text, since a first target token needs one before it.
    """
    return [_begun(ids, tokenizer) for ids in whole_ids(prompts, tokenizer)]


def whole_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Texts with all the special tokens that the tokenizer puts around one."""
    ids: list[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    return ids


def plain_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Texts without special tokens, but for those that they spell out."""
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    return ids


def target_ids(targets: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Targets, each with the end-of-text token after it.

    Some tokenizers (Llama 2's, T5's) put a space before every text; there the target's own is left out.
    """
    if _adds_space(tokenizer):
        targets = [target.removeprefix(" ") for target in targets]
    return [[*ids, int(tokenizer.eos_token_id)] for ids in plain_ids(targets, tokenizer)]


def cut_left(ids: list[int], max_length: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The last `max_length` ids, of which the first remains where it is a beginning of text."""
    if len(ids) <= max_length:
        return ids
    first = int(ids[0] == tokenizer.bos_token_id and max_length > 1)
    return ids[:first] + ids[len(ids) - max_length + first :]


def fit(ids: list[int], labels: list[int], max_length: int, keep_first: bool) -> tuple[list[int], list[int], bool]:
    """Ids and labels in at most `max_length` tokens, and whether that took a cut.

    The left end goes, but for the first token with `keep_first` (a beginning of text), and not beyond the one
    token before the last target: what is still too long then loses its right end.
    """
    surplus = len(ids) - max_length
    if surplus <= 0:
        return ids, labels, False
    context = max(place for place in range(len(ids) - 1) if labels[place] == IGNORED != labels[place + 1])
    first = int(keep_first and context > 0)
    dropped = min(surplus, context - first)
    ids = ids[:first] + ids[first + dropped :]
    labels = labels[:first] + labels[first + dropped :]
    return ids[:max_length], [IGNORED, *labels[1:max_length]], True


def empty_text_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The one token that a text without any is read as: the beginning of text, or what the tokenizer has instead."""
    known = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls", "sep", "pad"))
    return int(next((token for token in known if token is not None), 0))


def _begun(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return ids or [empty_text_id(tokenizer)]


def _adds_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    first = tokenizer.convert_ids_to_tokens(plain_ids(["x"], tokenizer)[0][:1])
    return bool(first) and str(first[0]).startswith("▁")
