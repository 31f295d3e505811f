"""What ends an output beside the end of text: tokens, or texts of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from loralab.tasks.encoding.turn_end import turn_end


@dataclass(frozen=True)
class Ends:
    """An output stops before the first of these."""

    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()

    def criteria(self, tokenizer: PreTrainedTokenizerBase, prompt_width: int) -> StoppingCriteriaList:
        """What stops a batch at the ending texts, behind prompts of so many tokens; nothing where there are none."""
        criteria = [EndsWithText(self.texts, tokenizer, prompt_width)] if self.texts else []
        return StoppingCriteriaList(criteria)

    def cut(self, text: str) -> str:
        """The text up to the first of the ending texts."""
        for end in self.texts:
            text = text.partition(end)[0]
        return text


NO_MORE = Ends()


def turn_ends(tokenizer: PreTrainedTokenizerBase) -> Ends:
    """What the chat template ends a turn with. Raises `DataError` where there is no template."""
    end = turn_end(tokenizer)
    return Ends(() if end.token is None else (end.token,), () if end.text is None else (end.text,))


class EndsWithText(StoppingCriteria):
    """Stops a row whose new text holds one of the texts; only its last tokens are read, which can have completed it."""

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, prompt_width: int) -> None:
        self._texts, self._tokenizer, self._prompt_width = tuple(texts), tokenizer, prompt_width
        self._window = max(len(text.encode()) for text in texts) + 4  # a token has a byte at least, or is left out

    def __call__(self, input_ids: Tensor, scores: Tensor, **more: object) -> Tensor:
        """`input_ids` [B, T] with the prompt; [B], whether each row is done."""
        latest = input_ids[:, max(self._prompt_width, input_ids.shape[1] - self._window) :]
        written = [str(self._tokenizer.decode(row, skip_special_tokens=True)) for row in latest.tolist()]
        done = [any(text in each for text in self._texts) for each in written]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
