"""The sdist and the wheel, built as for a release: what is in them, and the wheel at work with nothing but its own
dependencies. `make package` runs this; pip asks its index for them.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from loralab.cli.table import VERBS
from loralab.extras import EXTRAS
from tiny import write_llama, write_pairs

pytestmark = pytest.mark.package

REPOSITORY = Path(__file__).resolve().parent.parent
UNPUBLISHED = (".ci/", ".pre-commit-config.yaml")
"""Of the repository's files those that are for its own upkeep."""

EVERY_MODULE = """
import importlib, pkgutil, loralab
for module in pkgutil.walk_packages(loralab.__path__, "loralab."):
    if module.name != "loralab.__main__" and not module.name.startswith("loralab.serving.http."):  # of the extra
        importlib.import_module(module.name)
"""

ATTACH = """
import torch, loralab as ll
from torch import nn
torch.manual_seed(0)
model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(4, 8)
base = model(x)
adapter = ll.attach(model, ll.LoRA(rank=2, targets=["0", "2"]), name="toy")
assert torch.equal(model(x), base)
optimizer = torch.optim.SGD(adapter.parameters(), lr=0.05)
for _ in range(5):
    optimizer.zero_grad()
    (model(x) ** 2).mean().backward()
    optimizer.step()
adapted = model.eval()(x)
assert not torch.allclose(adapted, base)
ll.merge(model)
assert torch.allclose(model(x), adapted, atol=1e-6)
ll.unmerge(model)
ll.save(adapter, "toy")
ll.detach(model)
assert torch.equal(model(x), base)
ll.load(model, "toy", name="again")
assert torch.equal(model(x), adapted)
"""


def run(*command: object, cwd: Path = REPOSITORY) -> "subprocess.CompletedProcess[str]":
    """Run it with none of this repository's settings, so that the installed package is what Python finds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def succeed(*command: object, cwd: Path = REPOSITORY) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    succeed(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder)
    (archive,) = folder.glob("loralab-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    succeed(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=sdist)
    (archive,) = folder.glob("loralab-*-py3-none-any.whl")
    return archive


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of an environment in which nothing but the wheel was asked for."""
    folder = tmp_path_factory.mktemp("environment")
    succeed(sys.executable, "-m", "venv", folder)
    install = [folder / "bin" / "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    succeed(*install, "--constraint", REPOSITORY / "constraints.txt", wheel)
    return folder / "bin"


def test_the_sdist_holds_what_the_repository_does(sdist: Path) -> None:
    tracked = succeed("git", "ls-files").splitlines()
    files = {str(path.relative_to(sdist)) for path in sdist.rglob("*") if path.is_file()}
    assert files - {"PKG-INFO"} == {name for name in tracked if not name.startswith(UNPUBLISHED)}


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    with ZipFile(wheel) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert names == {name.removeprefix("src/") for name in succeed("git", "ls-files", "src").splitlines()}
    assert "loralab/py.typed" in names


def test_no_package_of_an_extra_comes_with_it(scripts: Path) -> None:
    listed = succeed(scripts / "pip", "list", "--format", "freeze", "--disable-pip-version-check").splitlines()
    installed = {line.split("==")[0].lower().replace("_", "-") for line in listed}
    assert {"loralab", "torch", "transformers"} <= installed
    assert not installed & {package for packages in EXTRAS.values() for package in packages.values()}


def test_every_module_can_be_imported(scripts: Path, tmp_path: Path) -> None:
    succeed(scripts / "python", "-W", "error", "-c", EVERY_MODULE, cwd=tmp_path)


def test_an_adapter_is_attached_trained_merged_saved_and_loaded(scripts: Path, tmp_path: Path) -> None:
    succeed(scripts / "python", "-W", "error", "-c", ATTACH, cwd=tmp_path)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(scripts: Path, verb: str) -> None:
    assert succeed(scripts / "loralab", verb, "--help").startswith(f"usage: loralab {verb}")


def test_a_training_is_planned_without_weights(scripts: Path) -> None:
    assert '"trainable_params": 18874368' in succeed(
        scripts / "loralab", "plan", "--model", "gpt3-175b", "--rank", 4, "--json"
    )


def test_the_command_line_trains_measures_writes_and_merges(scripts: Path, tmp_path: Path) -> None:
    model, data = write_llama(tmp_path / "model"), write_pairs(tmp_path / "data")
    task = ["--task", "jsonl", "--data", data]
    succeed(scripts / "loralab", "train", "--model", model, *task, "--steps", 3, "--out", "run", cwd=tmp_path)
    adapted = ["--model", model, "--adapter", "run"]
    assert '"perplexity"' in succeed(scripts / "loralab", "eval", *adapted, *task, "--json", cwd=tmp_path)
    assert succeed(scripts / "loralab", "generate", *adapted, "--prompt", "say aa:", cwd=tmp_path)
    assert '"argmax_agreement": 1.0' in succeed(
        scripts / "loralab", "merge", *adapted, "--out", "merged", "--json", cwd=tmp_path
    )


def test_what_lacks_its_extra_names_the_command(scripts: Path) -> None:
    done = run(scripts / "loralab", "score", "--task", "e2e", "--predictions", "said.txt", "--references", "right.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: loralab score needs ")
    assert done.stderr.endswith("; run: pip install 'loralab[metrics]'\n")
