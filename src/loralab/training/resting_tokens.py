"""Which of the tokens whose rows were to train never did: the data had none of them."""

from loralab.core.adapter import Adapter
from loralab.core.names import unwrapped
from loralab.core.updates.tokens import TokenUpdate
from loralab.core.updates.update import WHOLE, tensor_of


def resting_notes(adapter: Adapter) -> list[str]:
    """A note for every module some of whose rows are at the end of a run what they are in the base."""
    notes = []
    for path, update in adapter.updates.items():
        if not isinstance(update, TokenUpdate) or update.follows:
            continue
        before = tensor_of(unwrapped(adapter.layers[path]), WHOLE).detach()[list(update.indices)]
        moved = (update.rows_TH.detach() != before.to(update.rows_TH.dtype)).any(1).tolist()
        resting = [index for index, has_moved in zip(update.indices, moved, strict=True) if not has_moved]
        if resting:
            listed = ", ".join(map(str, resting[:8])) + (f" and {len(resting) - 8} more" if len(resting) > 8 else "")
            notes.append(
                f"the rows of token {listed} in {path} are still those of the base: no training example held them; see "
                "whether the tokenizer makes these tokens of the texts"
            )
    return notes
