"""A low-rank method of your own: one class says what A and s·B are, another is its settings, a row is its name.

    ΔW = s·B·diag(g)·A        A [R, I] and B [O, R] start at random, the gates g [R] at zero

This is the form that AdaLoRA (arXiv 2303.10512) gives an update: every direction of it has a gate, and the gates say
after training how much of each was needed. It is attached, trained, saved, loaded and merged like any other method.
The adapter's folder holds the gates, and beside them, for PEFT and vLLM, the plain LoRA that they come to.

    python examples/add_a_method.py          (a few seconds on one CPU core)
"""

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import loralab as ll
from loralab.core.updates.factors import LowRankDelta, Pair, Spot
from loralab.methods.low_rank_method import ScaledMethod
from loralab.methods.table import METHODS, MethodRow


class GatedDelta(LowRankDelta):
    """The update of one matrix [O, I]: the tensors it owns, and what A and s·B are made of them."""

    kind = "gated"  # its name in files

    def __init__(self, spot: Spot) -> None:
        super().__init__(spot.recipe)
        rank = spot.recipe.rank
        self.A = nn.Parameter(torch.randn(rank, spot.in_features, device=spot.device) / spot.in_features**0.5)
        self.B = nn.Parameter(torch.randn(spot.out_features, rank, device=spot.device) / rank**0.5)
        self.gates = nn.Parameter(torch.zeros(rank, device=spot.device))

    @classmethod
    def blank(cls, spot: Spot) -> "GatedDelta":
        return cls(spot)  # `load` fills it

    def pair(self) -> Pair:
        return self.A, self.B * self.gates * self.recipe.scale


@dataclass(frozen=True)
class GatedLoRA(ScaledMethod):
    """The method: rank, alpha, dropout and targets as `ll.LoRA` has them, and a `GatedDelta` for every matrix."""

    def makers(self, model: nn.Module, found: Sequence[Spot]) -> tuple[type[GatedDelta], None]:
        return GatedDelta, None


METHODS["gated"] = MethodRow(spec=GatedLoRA, delta=GatedDelta, sized_by="rank", trains="A, B and a gate per direction")


def train(model: nn.Module, parameters: Iterable[nn.Parameter], images: Tensor, labels: Tensor) -> None:
    """Twenty epochs of AdamW on these parameters."""
    optimizer = torch.optim.AdamW(parameters, lr=5e-3)
    for _ in range(20):
        for batch in torch.randperm(len(images)).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """[N, 10], without dropout and gradients."""
    return model.eval()(images)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Percent right."""
    return 100 * float((logits.argmax(1) == labels).float().mean())


def main() -> None:
    """Teach a network upright digits, then digits on their side by the new method; save, load and merge the adapter."""
    torch.manual_seed(0)
    data = load_digits()
    upright, labels = torch.as_tensor(data.images, dtype=torch.float32) / 16, torch.as_tensor(data.target)
    turned = upright.rot90(dims=(1, 2))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    train(model, model.parameters(), upright[500:], labels[500:])
    before = accuracy(logits_of(model, turned[:500]), labels[:500])

    adapter = ll.attach(model, GatedLoRA(rank=8, alpha=8, targets=["1", "3"]))
    train(model, adapter.parameters(), turned[500:], labels[500:])
    live = logits_of(model, turned[:500])
    after = accuracy(live, labels[:500])
    print(f"digits on their side: {before:.1f}% before, {after:.1f}% after; the gates of each layer:")
    for name, gates in adapter.named_tensors():
        if name.endswith("gates"):
            print(f"  {name}  {'  '.join(f'{gate:.2f}' for gate in gates.abs().sort(descending=True).values)}")

    with tempfile.TemporaryDirectory() as folder:
        ll.save(adapter, folder)
        ll.detach(model)
        loaded = ll.load(model, folder, name="loaded")
    off = float((logits_of(model, turned[:500]) - live).abs().max())
    print(f"saved, and loaded as {type(loaded.spec).__name__}: the same logits within {off:.0e}")

    report = ll.merge(model)
    off = float((logits_of(model, turned[:500]) - live).abs().max())
    print(f"merged into {report.tensors} weights: the same logits within {off:.0e}")


if __name__ == "__main__":
    main()
