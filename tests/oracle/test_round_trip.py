"""What one library saves the other loads and computes the same, live and merged, under the same names."""

import copy
from pathlib import Path

import pytest

import loralab as ll
from oracle.case import Case, assert_same, keys, ours_saved, output, peft_loads, theirs_saved
from oracle.model_cases import MODELS
from oracle.module_cases import MODULES
from oracle.peft_warnings import silenced
from oracle.setting_cases import SETTINGS

pytestmark = silenced
CASES = MODELS | MODULES | SETTINGS
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
cases_of_both = [pytest.param(case, id=name) for name, case in CASES.items() if case.theirs is not None]


@every_case
def test_peft_computes_what_we_saved(tmp_path: Path, case: Case) -> None:
    base, ours = ours_saved(case, tmp_path / "ours")
    x = case.inputs()
    live, plain = output(ours, x), output(base, x)
    theirs = peft_loads(base, tmp_path / "ours")
    assert_same(output(theirs, x), live, unlike=plain)
    theirs.save_pretrained(tmp_path / "theirs")
    assert keys(tmp_path / "theirs") == keys(tmp_path / "ours")
    ll.merge(ours)
    assert_same(output(ours, x), live, unlike=plain)
    if case.peft_merges:
        assert_same(output(theirs.merge_and_unload(), x), output(ours, x), unlike=plain)


@pytest.mark.parametrize("case", cases_of_both)
def test_we_compute_what_peft_saved(tmp_path: Path, case: Case) -> None:
    base, theirs = theirs_saved(case, tmp_path / "theirs")
    x = case.inputs()
    live, plain = output(theirs, x), output(base, x)
    ours = copy.deepcopy(base)
    adapter = ll.load(ours, tmp_path / "theirs")
    assert_same(output(ours, x), live, unlike=plain)
    ll.save(adapter, tmp_path / "ours", model=ours)
    assert set(keys(tmp_path / "ours")) == set(keys(tmp_path / "theirs"))
    ll.merge(ours)
    assert_same(output(ours, x), live, unlike=plain)
    if case.peft_merges:
        assert_same(output(ours, x), output(theirs.merge_and_unload(), x), unlike=plain)
