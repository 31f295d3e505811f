"""Adapters with planted factors, written to disk as the ones under analysis."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

import loralab as ll

Planted = Mapping[str, tuple[Tensor, Tensor]]
"""Module → (A [R, I], B [O, R])."""


class Toy(nn.Module):
    """Two blocks with a q and a v of 12 inputs and 10 outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.ModuleDict({name: nn.Linear(12, 10) for name in "qv"}) for _ in range(2))


def write_adapter(folder: Path, planted: Planted, alpha: float | None = None, model: nn.Module | None = None) -> Path:
    """An adapter with these factors on these modules of `Toy`, scale 1 unless alpha is given."""
    model = Toy() if model is None else model
    rank = len(next(iter(planted.values()))[0])
    targets = [path.replace(".", r"\.") for path in planted]
    spec = ll.LoRA(rank=rank, alpha=rank if alpha is None else alpha, targets="|".join(targets))
    adapter = ll.attach(model, spec, name=folder.name)
    tensors = dict(adapter.named_tensors())
    with torch.no_grad():
        for path, (A, B) in planted.items():
            tensors[f"{path}.lora_A"].copy_(A)
            tensors[f"{path}.lora_B"].copy_(B)
    return ll.save(adapter, folder)


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    """[rows, columns] with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))[0]


def spectrum(strengths: list[float], rank: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """A [rank, 12] and B [10, rank] whose product has these singular values, however they are mixed in the factors."""
    count = len(strengths)
    mix = torch.randn(count, rank, generator=torch.Generator().manual_seed(seed))
    A = torch.linalg.pinv(mix) @ orthonormal(12, count, seed).T
    return A, orthonormal(10, count, seed + 50) * torch.tensor(strengths) @ mix
