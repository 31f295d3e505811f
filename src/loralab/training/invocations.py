"""Whether the training data hold the invocation that an adapter acts from (aLoRA): without it nothing would train."""

from collections.abc import Sequence

import torch

from loralab.core.rows.invocation import NEVER, invocation_starts
from loralab.errors import SpecError
from loralab.tasks.encoding.encode import AnyEncoded, Encoded


def check_invoked(encoded: Sequence[AnyEncoded], tokens: Sequence[int]) -> list[str]:
    """A note where some examples hold no invocation. Raises `SpecError` where none holds it."""
    if not tokens:
        return []
    lacking = sum(not _is_invoked(example, tokens) for example in encoded)
    if lacking == len(encoded):
        raise SpecError(
            f"invocation_tokens {list(tokens)}: none of the {lacking} training examples holds them as the tokenizer "
            "writes it, so that nothing would train; write the invocation into the prompts, and give its tokens as "
            "they are inside a text"
        )
    share = f"{lacking} of {len(encoded)} training examples hold no invocation {list(tokens)}"
    return [f"{share}: the adapter learns nothing from them"] if lacking else []


def _is_invoked(example: AnyEncoded, tokens: Sequence[int]) -> bool:
    """Whether a target is predicted from the invocation's first token on; any label comes after the whole text."""
    if not isinstance(example, Encoded):
        return False
    start = int(invocation_starts(torch.tensor([example.input_ids]), tokens))
    if not isinstance(example.labels, list):
        return start != NEVER
    targets = [place for place, label in enumerate(example.labels) if label == example.input_ids[place]]
    return bool(targets) and start < targets[-1]
