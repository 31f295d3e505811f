"""LoRA on a plain torch model, without transformers: adapt a small vision model to digits it has never seen.

A convolutional network learns the digits 0–4. Then it is frozen and an adapter learns 5–9, relabelled 0–4, by the same
ten lines of training. The same weights now do both jobs: with the adapter active, 5–9; disabled, 0–4 as before.

    python examples/digits.py          (a few seconds on one CPU core)
"""

from collections.abc import Iterable

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import loralab as ll


def network() -> nn.Module:
    """8×8 grey images → 5 classes."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 5),
    )  # fmt: skip


def images_of(digits: range) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] of these digits, and labels counted from the first of them."""
    data = load_digits()
    labels = torch.as_tensor(data.target)
    chosen = (labels >= digits.start) & (labels < digits.stop)
    images = torch.as_tensor(data.images, dtype=torch.float32)[chosen].unsqueeze(1) / 16
    return images, labels[chosen] - digits.start


def train(model: nn.Module, parameters: Iterable[nn.Parameter], images: Tensor, labels: Tensor, lr: float) -> None:
    """Fifteen epochs of AdamW on these parameters: every weight of a network, or what an adapter says trains."""
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    for _ in range(15):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent right."""
    with torch.no_grad():
        return 100 * float((model(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Pre-train on 0–4, adapt to 5–9, and say what each mode of the one model can do on held-out images."""
    torch.manual_seed(0)
    (x_low, y_low), (x_high, y_high) = images_of(range(5)), images_of(range(5, 10))
    model = network()
    train(model, model.parameters(), x_low[200:], y_low[200:], lr=3e-3)
    before = accuracy(model, x_high[:200], y_high[:200])
    adapter = ll.attach(model, ll.LoRA(rank=4, alpha=8, targets=["2", "5", "7"]), name="five-to-nine")
    train(model, adapter.parameters(), x_high[200:], y_high[200:], lr=1e-2)
    after = accuracy(model, x_high[:200], y_high[:200])
    with ll.disabled(model):
        kept = accuracy(model, x_low[:200], y_low[:200])
    trained = sum(parameter.numel() for parameter in adapter.parameters())
    total = sum(parameter.numel() for parameter in model.parameters()) - trained
    print(f"digits 5–9: {before:.1f}% before, {after:.1f}% with the adapter ({trained:,} of {total:,} parameters)")
    print(f"digits 0–4 with the adapter disabled: {kept:.1f}%")


if __name__ == "__main__":
    main()
