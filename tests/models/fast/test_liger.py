"""liger-kernel's kernels: refused where they cannot run."""

import pytest

import loralab as ll
from loralab.models.fast.liger import put_liger_kernels
from small_models import llama


def test_there_is_no_triton_on_a_cpu() -> None:
    with pytest.raises(ll.SpecError, match=r"liger: .* need a GPU"):
        put_liger_kernels(llama())
