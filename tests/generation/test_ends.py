import torch

from loralab.generation.config import GenerationConfig
from loralab.generation.ends import Ends, EndsWithText
from loralab.generation.generate import decode, generate_ids


def test_a_text_is_cut_at_the_first_end() -> None:
    assert Ends(texts=("### End", "\nUSER:")).cut("yes\nUSER: no ### End") == "yes"
    assert Ends().cut("yes") == "yes"


def test_a_row_stops_when_its_new_text_holds_the_end(tokenizer) -> None:
    criterion = EndsWithText(["END"], tokenizer, 3)
    rows = [tokenizer(text)["input_ids"] for text in ("ENDno....", "...yesEND", "...ENDyes")]
    assert criterion(torch.tensor(rows), torch.empty(0)).tolist() == [False, True, True]


def test_generation_stops_at_more_than_the_end_of_text(llama, tokenizer) -> None:
    config = GenerationConfig(max_new_tokens=12)
    prompt = [tokenizer("a prompt")["input_ids"]]
    (whole,) = generate_ids(llama, prompt, config, tokenizer)
    (stopped,) = generate_ids(llama, prompt, config, tokenizer, Ends(tokens=(whole[4],)))
    assert stopped == whole[: whole.index(whole[4])]
    text = decode([whole], tokenizer)[0]
    end = Ends(texts=(text[4:6],))
    ids = generate_ids(llama, prompt, config, tokenizer, end)
    assert len(ids[0]) < len(whole)
    assert decode(ids, tokenizer, end) == [text.partition(text[4:6])[0]]
