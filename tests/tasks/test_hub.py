import datasets
import pytest

from loralab.errors import NotFoundError
from loralab.tasks.hub import HubSet


@pytest.mark.filterwarnings("default")
def test_without_a_network_the_official_files_are_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    hub = HubSet("e2e", "tuetschek/e2e_nlg", "trainset.csv, devset.csv")
    with pytest.raises(NotFoundError, match=r"give their folder as --data: trainset\.csv, devset\.csv"):
        hub.rows("test")
