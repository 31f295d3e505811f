"""An adapter uploaded to the Hugging Face Hub, through huggingface_hub, after everything was checked."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from loralab.errors import OutputError, SpecError, first_line
from loralab.formats.sharing.parcel import Parcel, pack
from loralab.models.locate import HUB_ERRORS


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
