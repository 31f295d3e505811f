import pytest
from transformers import ByT5Tokenizer, PreTrainedTokenizer, PreTrainedTokenizerBase

from loralab.nn.targets import IGNORED
from loralab.tasks.encoding.encode import encode_examples, encode_prompts
from loralab.tasks.encoding.marking import mark
from loralab.tasks.encoding.tokens import prompt_ids
from loralab.tasks.example import Example
from loralab.tasks.task import Task
from small_tokenizers import KINDS, small_tokenizer

WRITE = Task("toy", "generation", {}, ())
PARTED = [
    ("Answer:", " yes"),
    ("Answer: ", "yes"),
    ("Answer: ", "17"),
    ("Answer:\n", "it is 17"),
    ("def half(x):\n    ", "return x"),
    ("the answer is\n\n", "no"),
    ("", " yes"),
    (" ", "yes"),
]


class LongestFirst(PreTrainedTokenizer):
    """A tokenizer written in Python, which does not say where its tokens are: always the longest piece it knows."""

    def __init__(self) -> None:
        pieces = ["<s>", "</s>", "<unk>", " yes", " return", "hello", "hel", "ld", *map(chr, range(9, 127))]
        self.pieces = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>")

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.pieces)

    def _tokenize(self, text: str) -> list[str]:
        found = []
        while text:
            found.append(max((piece for piece in self.pieces if text.startswith(piece)), key=len, default=text[0]))
            text = text[len(found[-1]) :]
        return found

    def _convert_token_to_id(self, token: str) -> int:
        return self.pieces.get(token, 2)

    def _convert_id_to_token(self, index: int) -> str:
        return list(self.pieces)[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)


def made(kind: str) -> PreTrainedTokenizerBase:
    return {"bytes in Python": ByT5Tokenizer, "pieces in Python": LongestFirst}.get(
        kind, lambda: small_tokenizer(kind)
    )()


@pytest.mark.parametrize("kind", [*KINDS, "bytes in Python", "pieces in Python"])
@pytest.mark.parametrize("prompt, target", PARTED)
def test_the_whole_text_is_read_and_learned_from_where_generation_begins(kind: str, prompt: str, target: str) -> None:
    tokenizer = made(kind)
    (one,) = encode_examples(WRITE, [Example(prompt, target)], tokenizer, 200).encoded
    whole = prompt_ids([prompt + target], tokenizer)[0]
    assert one.input_ids[-len(whole) - 1 :] == [*whole, tokenizer.eos_token_id]
    assert len(one.input_ids) == len(whole) + 1 or not prompt.strip()
    (ids,) = encode_prompts([Example(prompt, target)], tokenizer, 200)
    assert one.input_ids[: len(ids)] == ids
    assert one.labels == [IGNORED] * len(ids) + one.input_ids[len(ids) :]
    learned = tokenizer.decode([label for label in one.labels if label != IGNORED])
    assert learned.replace(" ", "").lower() == f"{target}{tokenizer.eos_token}".replace(" ", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_that_spans_the_border_is_a_target(kind: str) -> None:
    tokenizer = made(kind)
    (one,) = mark(["say hello world"], [[(7, 9)]], tokenizer, special=True)
    assert one.spanned
    learned = tokenizer.decode([label for label in one.labels if label != IGNORED])
    assert learned.strip() in ("hello", "llo")


def test_a_token_that_spans_the_border_is_a_target_where_places_are_not_told() -> None:
    tokenizer = LongestFirst()
    (one,) = mark(["say hello world"], [[(7, 9)]], tokenizer, special=False)
    assert one.spanned
    assert tokenizer.convert_ids_to_tokens([label for label in one.labels if label != IGNORED]) == ["hello"]


def test_spaces_that_a_tokenizer_leaves_out_of_its_places_count() -> None:
    tokenizer = small_tokenizer("byte-level-trimmed")
    text = "def half(x):\n    return x"
    (one,) = mark([text], [[(text.index("    "), len(text))]], tokenizer, special=False)
    (other,) = mark([text], [[(text.index("    "), len(text))]], small_tokenizer("byte-level"), special=False)
    assert one == other
    assert one.spanned
