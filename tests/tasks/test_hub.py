import datasets
import pytest

from loralab.errors import NotFoundError
from loralab.tasks.hub import hub_rows


@pytest.mark.filterwarnings("default")
def test_without_a_network_the_way_out_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(NotFoundError, match="give --data with the official files"):
        hub_rows("e2e", "tuetschek/e2e_nlg", "test")
