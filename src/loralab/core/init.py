"""How A and B start: one function per initialiser and one table.

Every initialiser leaves B·A = 0, so that a fresh adapter is the base model, bit for bit (paper §4.1).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Initialiser = Callable[[Tensor, Tensor], None]


def kaiming(A_RI: Tensor, B_OR: Tensor) -> None:
    """A ~ U(±1/√I), B = 0: loralib's and PEFT's default (Kaiming uniform with a = √5)."""
    bound = A_RI[0].numel() ** -0.5
    nn.init.uniform_(A_RI, -bound, bound)
    nn.init.zeros_(B_OR)


def gaussian(A_RI: Tensor, B_OR: Tensor) -> None:
    """A ~ N(0, 1/r²), B = 0: the paper's choice (§4.1). The paper gives no σ; 1/r is the one PEFT uses."""
    nn.init.normal_(A_RI, std=1 / A_RI.shape[0])
    nn.init.zeros_(B_OR)


def orthogonal(A_RI: Tensor, B_OR: Tensor) -> None:
    """A with orthonormal rows, B = 0. PEFT's start of this name is another: both A and B differ from zero there."""
    nn.init.orthogonal_(A_RI.view(A_RI.shape[0], -1))
    nn.init.zeros_(B_OR)


def reversed_normal(A_RI: Tensor, B_OR: Tensor) -> None:
    """A = 0, B ~ N(0, 1): for embeddings, whose A is indexed sparsely by token (loralib)."""
    nn.init.zeros_(A_RI)
    nn.init.normal_(B_OR)


INITIALISERS: dict[str, Initialiser] = {"kaiming": kaiming, "gaussian": gaussian, "orthogonal": orthogonal}


def initialise(name: str, A_RI: Tensor, B_OR: Tensor) -> None:
    """Fill A and B in place with the initialiser called `name`, from torch's global generator."""
    with torch.no_grad():
        INITIALISERS[name](A_RI, B_OR)
