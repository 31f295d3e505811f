"""SmolLM2-135M with LoRA r=4 on E2E: a stated number of steps, then the paper's decoding on the official test set.

    python runs/e2e_smollm2.py ../shared/data/e2e out/e2e-smollm2

It took 1 h 40 min in one thread of an AMD EPYC with native bfloat16, beside other work on its two cores: 43 minutes of
steps, the rest for decoding. METEOR needs Java. The hyperparameters are those of the paper's Table 11 (GPT-2 medium on
E2E), but for the steps, the learning rate and the batch.
"""

import argparse
from pathlib import Path

from loralab.evaluation.evaluate import evaluate
from loralab.files.whole import write_json, write_text
from loralab.formats.load import load
from loralab.generation.config import GenerationConfig
from loralab.models.load import load_model
from loralab.tasks.table import open_task
from loralab.training.config import TrainConfig
from loralab.training.run import train

STEPS = 400
DECODING = GenerationConfig(max_new_tokens=64, beams=10, length_penalty=0.9, no_repeat_ngram=4, batch_size=16)
METRICS = ("bleu", "nist", "meteor", "rouge_l", "cider")


def configuration(data: str, out: Path) -> TrainConfig:
    """16 references a step, of 42,061 that there are: less than a sixth of one epoch."""
    return TrainConfig(
        model="smollm2-135m",
        task="e2e",
        data=data,
        out=str(out / "adapter"),
        rank=4,
        alpha=32.0,
        targets="q,v",
        dropout=0.1,
        steps=STEPS,
        batch_size=16,
        lr=1e-3,
        warmup=40.0,
        weight_decay=0.01,
        label_smoothing=0.1,
        eval_limit=0,
        resume=(out / "adapter" / "run.json").is_file(),
    )


def main() -> None:
    """Train, decode, score, print the row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="the folder with the official CSV files")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    trained = train(configuration(arguments.data, arguments.out))
    loaded = load_model("smollm2-135m", kind="generation")
    load(loaded.model, trained.adapter)
    task = open_task("e2e", arguments.data)
    found = evaluate(loaded.model, loaded.tokenizer, task, "test", generate=True, generation=DECODING)
    write_text(arguments.out / "outputs.txt", task.outputs.render(task.examples("test"), found.outputs))
    write_json(arguments.out / "scores.json", {"loss": found.loss, **found.metrics, "notes": list(found.notes)})
    print(*found.notes, sep="\n")
    print(f"| steps | trained | test loss | {' | '.join(METRICS)} |\n|---|---|---|---|---|---|---|---|")
    shown = " | ".join(f"{found.metrics[name]:.2f}" if name in found.metrics else "-" for name in METRICS)
    print(f"| {trained.steps} | {trained.trainable_params:,} | {found.loss:.3f} | {shown} |")


if __name__ == "__main__":
    main()
