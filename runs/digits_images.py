"""Image classification from folders of PNGs: a small ViT that was pretrained on the digits 0–4 learns 5–9 by LoRA.

scikit-learn's 1,797 handwritten digits (8×8 pixels, nothing to download) are written as one folder of images per class.
A ViT with 136,000 parameters is trained in full on 0–4 and saved as a Hugging Face folder. `loralab train` adapts its
queries and values to 5–9, under a fresh head, and `loralab eval` measures on the last fifth of the images. Beside it
stands what a linear classifier makes of the frozen model's features: what LoRA adds is the difference.

    python runs/digits_images.py          (one to two minutes on one CPU core)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

CONFIG = ViTConfig(
    image_size=8, patch_size=2, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
    num_labels=5,
)  # fmt: skip
PROCESSOR = ViTImageProcessorPil(size={"height": 8, "width": 8})
RECIPE = ["--rank", "8", "--epochs", "15", "--batch-size", "32", "--lr", "3e-3", "--dtype", "float32", "--threads", "1"]


def write_images(folder: Path) -> None:
    """low/train/0/0000.png … for the digits 0–4, high/… for 5–9; of the last fifth of all, test instead of train."""
    data = load_digits()
    for number, (pixels, digit) in enumerate(zip(data.images, data.target, strict=True)):
        split = "train" if number < 0.8 * len(data.target) else "test"
        place = folder / ("low" if digit < 5 else "high") / split / str(digit)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels / 16 * 255).astype("uint8")).save(place / f"{number:04}.png")


def pixels_and_labels(folder: Path) -> tuple[Tensor, Tensor]:
    """The images [N, 3, 8, 8] below a split's folder, and their classes counted from the first."""
    files = sorted(folder.glob("*/*.png"))
    classes = sorted({file.parent.name for file in files})
    labels = torch.tensor([classes.index(file.parent.name) for file in files])
    return PROCESSOR([Image.open(file).convert("RGB") for file in files], return_tensors="pt")["pixel_values"], labels


def pretrain(pixels: Tensor, labels: Tensor, epochs: int = 20) -> ViTForImageClassification:
    """Ordinary training of every weight."""
    model = ViTForImageClassification(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(pixels)).split(32):
            F.cross_entropy(model(pixels[batch]).logits, labels[batch]).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


@torch.no_grad()
def linear_probe(model: ViTForImageClassification, folder: Path) -> float:
    """Percent right of a logistic regression on the frozen model's features."""
    (x, y), (x_test, y_test) = (pixels_and_labels(folder / split) for split in ("train", "test"))
    probe = LogisticRegression(max_iter=5000).fit(model.vit(x)[0][:, 0], y)
    return 100 * probe.score(model.vit(x_test)[0][:, 0], y_test)


def loralab(*arguments: str) -> dict:
    """The answer of one command."""
    command = [sys.executable, "-m", "loralab", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def main(folder: Path) -> None:
    """Pretrain on 0–4, adapt to 5–9, and say what is right of the held-out images."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the model is too small for more
    write_images(folder)
    vit = pretrain(*pixels_and_labels(folder / "low" / "train"))
    for each in (vit, PROCESSOR):
        each.save_pretrained(folder / "vit")
    place = ["--model", str(folder / "vit"), "--task", "images", "--data", str(folder / "high")]
    trained = loralab("train", *place, *RECIPE, "--out", str(folder / "adapter"))
    found = loralab("eval", *place, "--adapter", str(folder / "adapter"), "--split", "test")
    size = f"{trained['trainable_params']:,} parameters and {trained['head_params']} of the head"
    print(f"digits 5–9, {found['examples']} held out: LoRA {found['metrics']['accuracy']:.1f}% ({size});")
    print(f"a linear classifier on the frozen features {linear_probe(vit, folder / 'high'):.1f}%")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
