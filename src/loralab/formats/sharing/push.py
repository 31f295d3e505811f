"""An adapter uploaded to the Hugging Face Hub, through huggingface_hub, after everything was checked.

What of its folder is given to others is its own files, checked, in a folder of their own. The rest is left out and
named: checkpoints and the states of an optimizer, logs, whatever else lies there.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from loralab.core.updates.magnitude import MAGNITUDE
from loralab.errors import AdapterFileError, NotFoundError, OutputError, SpecError, first_line, listed
from loralab.files.names import CONFIG_NAME, PLAIN_NAME, RUN_NAME, SAVED, SIDECAR_NAME, TENSORS_NAME
from loralab.files.whole import json_text, read_json
from loralab.formats.read import read_adapter
from loralab.formats.sharing.card import CARD_NAME, write_card
from loralab.formats.sharing.private import findings, shareable
from loralab.formats.stored import StoredAdapter
from loralab.models.embedded import published_name
from loralab.models.locate import HUB_ERRORS, is_local
from loralab.models.processor_names import IMAGE_FILES, MORE_TEMPLATES, TOKENIZER_FILES, VOCABULARIES

_PICTURE = "curves.png"
_LICENCES = ("license", "licence", "notice")
_TEXTS = (".json", ".md", ".jinja", ".txt")
_WHY_LEFT = {
    "checkpoints": "states of the training and its optimizer",
    "tensorboard": "the training's log",
    "metrics.jsonl": "the training's log",
    "samples.jsonl": "texts of the data",
}
_BASE_KEY = "base_model_name_or_path"


@dataclass(frozen=True)
class Parcel:
    """A folder with what is given away."""

    folder: Path
    files: Mapping[str, int]
    """The path of each file in it -> its bytes."""
    left_out: Mapping[str, str]
    """What else lies in the adapter's folder -> why it stays there."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


def pack(source: Path, folder: Path, name: str, base_model: str | None = None) -> Parcel:
    """Fill an empty folder with what of the adapter in `source` is given to others; `source` is left as it is.

    The card calls it `name`. `base_model` takes the place of the base that the files name. Raises what reading the
    adapter strictly raises, AdapterFileError for one that changes nothing and for files with a secret or a path of this
    machine in them, and SpecError for a base that is a folder of this machine.
    """
    _refuse_useless(_read(source))
    chosen = {each.name: each for each in sorted(source.iterdir()) if _belongs(each)}
    for called, file in chosen.items():
        _copy(file, folder / called)
    _name_base(source, folder, base_model)
    _tell_no_places(folder)
    write_card(folder, name)
    _refuse_private(folder)
    files = {
        each.relative_to(folder).as_posix(): each.stat().st_size for each in sorted(folder.rglob("*")) if each.is_file()
    }
    left = {each.name: _why_left(each) for each in sorted(source.iterdir()) if each.name not in chosen}
    return Parcel(folder, files, left)


def _read(source: Path) -> StoredAdapter:
    if not source.is_dir():
        found = "is a file" if source.exists() else "does not exist"
        raise NotFoundError(f"{source} {found}; give an adapter's folder (loralab convert --to peft makes one)")
    stored = read_adapter(source).demand()
    if not (source / TENSORS_NAME).is_file():
        raise AdapterFileError(
            f"{source} has its tensors in a pickle, which nobody should be sent; write it again: loralab convert "
            f"{source} NEW_FOLDER --to peft"
        )
    return stored


def _refuse_useless(stored: StoredAdapter) -> None:
    """An adapter that changes nothing was never trained, or saved before it was."""
    idle = {*stored.idle_insertions, *(key for key in stored.others if key.endswith(MAGNITUDE))}
    if not set(stored.others) - idle and all(pair.delta_norm() == 0 for pair in stored.updates):
        raise AdapterFileError(
            f"the adapter in {stored.source} changes nothing: all its updates are zero; train it, or give the folder "
            "of one that was trained"
        )


# -- which files ------------------------------------------------------------------------------------------------------


def _belongs(path: Path) -> bool:
    if path.is_dir():
        return path.name in (PLAIN_NAME, MORE_TEMPLATES)
    known = (*SAVED, RUN_NAME, CARD_NAME, _PICTURE, *TOKENIZER_FILES, *IMAGE_FILES)
    return path.name in known or path.name.lower().startswith(_LICENCES)


def _copy(file: Path, to: Path) -> None:
    if not file.is_dir():
        shutil.copyfile(file, to)
        return
    to.mkdir()
    for each in sorted(file.iterdir()):
        if each.is_file() and (file.name != PLAIN_NAME or each.name in SAVED):
            shutil.copyfile(each, to / each.name)


def _why_left(path: Path) -> str:
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
        return "a pickle"
    return _WHY_LEFT.get(path.name, "no file of an adapter")


# -- what they say ----------------------------------------------------------------------------------------------------


def _name_base(source: Path, folder: Path, base_model: str | None) -> None:
    """Have the configurations name the base as others can find it."""
    for path in (folder / CONFIG_NAME, folder / PLAIN_NAME / CONFIG_NAME):
        if not path.is_file():
            continue
        content: dict[str, Any] = read_json(path)
        recorded = content.get(_BASE_KEY)
        name = published_name(base_model or str(recorded)) if base_model or recorded else None
        if name is not None and is_local(name):
            raise SpecError(
                f"{source / CONFIG_NAME} names the base {name!r}, a folder of this machine that nobody else has; give "
                "the id that the Hub knows it by: --base-model OWNER/NAME"
            )
        if name != recorded:
            path.write_text(json_text(content | {_BASE_KEY: name}, sort_keys=True), encoding="utf-8")
        if name != recorded and (folder / _PICTURE).is_file():
            (folder / _PICTURE).unlink()  # its title names the base


def _tell_no_places(folder: Path) -> None:
    """Have run.json, and the notes in loralab.json, name files without where they lie."""
    run = read_json(folder / RUN_NAME) if (folder / RUN_NAME).is_file() else {}
    if run:
        (folder / RUN_NAME).write_text(json_text(shareable(run, run), sort_keys=True), encoding="utf-8")
    for path in (folder / SIDECAR_NAME, folder / PLAIN_NAME / SIDECAR_NAME):
        sidecar = read_json(path) if path.is_file() else {}
        if sidecar:
            notes = shareable({"notes": sidecar.get("notes", [])}, run)
            path.write_text(json_text(sidecar | notes), encoding="utf-8")


def _refuse_private(folder: Path) -> None:
    found = [f"{name} has {what}" for name, what in _private(folder)]
    if found:
        raise AdapterFileError(f"this should not be given to others: {listed(found)}; take it out first")


def _private(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TEXTS and path.name not in VOCABULARIES:
            text = path.read_text(encoding="utf-8", errors="replace")
            yield from ((path.relative_to(folder).as_posix(), what) for what in findings(text))


# -- to the Hub --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Push:
    """What was uploaded, or would be."""

    repo: str
    url: str | None
    """Of the commit; None for a dry run."""
    files: dict[str, int]
    """Path in the repository -> bytes."""
    bytes: int
    left_out: dict[str, str]
    """What else lies in the adapter's folder -> why it stays there."""
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def push_to_hub(
    path: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    commit_message: str | None = None,
    base_model: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> Push:
    """Upload the adapter that is saved in the folder `path` to the repository `repo_id` ("owner/name") of the Hub,
    which is made where there is none, `private` or for everybody.

    First the folder is read strictly; an adapter that changes nothing, a base that is a folder of this machine (name
    it by `base_model`) and files with a secret or a path of this machine are refused. Only the adapter's own files go:
    no checkpoints, and run.json without paths and texts of the data. A folder without a model card gets one. With
    `dry_run` nothing is sent. `token` is by default the one that `hf auth login` keeps, or HF_TOKEN.

    Raises what loading an adapter's files raises, SpecError for a repository's name that cannot be, OutputError where
    the Hub cannot be reached or refuses.
    """
    _check_name(repo_id)
    if not dry_run:
        _check_access(token)
    with tempfile.TemporaryDirectory(prefix="loralab-push-") as draft:
        parcel = pack(Path(path), Path(draft), repo_id.rpartition("/")[2], base_model)
        url = None if dry_run else _upload(parcel, repo_id, private, commit_message, token)
    return Push(repo_id, url, dict(parcel.files), parcel.size, dict(parcel.left_out), dry_run)


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise SpecError(f"{repo_id!r} cannot be a repository of the Hub: {first_line(error)}") from error


def _check_access(token: str | None) -> None:
    """What can be known before anything is sent."""
    if is_offline_mode():
        raise OutputError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or look with a dry run")
    if not (token or get_token()):
        raise OutputError(
            "the Hub needs a token that may write, and there is none: run `hf auth login`, or set HF_TOKEN "
            "(https://huggingface.co/settings/tokens)"
        )


def _upload(parcel: Parcel, repo_id: str, private: bool, message: str | None, token: str | None) -> str:
    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=parcel.folder, commit_message=message or "An adapter, by loralab"
        )
    except HUB_ERRORS as error:
        raise OutputError(f"{repo_id} was not uploaded: {_why(error)}") from error
    return str(commit.commit_url)


def _why(error: Exception) -> str:
    response = error.response if isinstance(error, HfHubHTTPError) else None
    if response is None:
        return f"{constants.ENDPOINT} could not be reached ({first_line(error)}); check the network"
    said = first_line(error).strip().rstrip(".")
    what = {
        401: "the token is not valid; run `hf auth login` again",
        403: "the token may not write there; make one that may, or choose a repository of your own",
    }
    return f"{what.get(response.status_code, 'the Hub refused')} ({said})"
