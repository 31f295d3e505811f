"""`loralab push`: an adapter uploaded to the Hugging Face Hub, or what would be shown."""

from dataclasses import dataclass, field

from loralab.cli.flags import ReadsAdapter
from loralab.cli.showing import readable_bytes, show_answer, show_table
from loralab.cli.verb import Answer, Verb


@dataclass(frozen=True, kw_only=True)
class PushConfig(ReadsAdapter):
    """The flags of `loralab push`."""

    repo: str = field(metadata={"positional": True})
    """The repository on the Hub, as owner/name; it is made where there is none."""

    private: bool = False
    """Make the repository private, where it is made."""

    commit_message: str | None = None
    """What the commit is called."""

    base_model: str | None = None
    """The base's id on the Hub, for an adapter whose files name a folder of this machine."""

    dry_run: bool = False
    """Check everything and list what would be uploaded and what not, without sending anything."""


def run(config: PushConfig) -> Answer:
    """Check the folder, and upload it."""
    from loralab.formats.sharing.push import push_to_hub

    return push_to_hub(
        config.adapter,
        config.repo,
        private=config.private,
        commit_message=config.commit_message,
        base_model=config.base_model,
        dry_run=config.dry_run,
    ).to_json()


def show(answer: Answer) -> None:
    """The files with their sizes, what stays here and why, and where they are."""
    files = [(name, readable_bytes(size)) for name, size in answer["files"].items()]
    show_table("would be uploaded" if answer["dry_run"] else "uploaded", ("file", "size"), files)
    if answer["left_out"]:
        show_table("left out", ("", "because it is"), answer["left_out"].items(), words=2)
    where = answer["url"] or "nothing was sent: a dry run"
    show_answer({"repo": answer["repo"], "url": where, "size": readable_bytes(answer["bytes"])})


VERB = Verb(PushConfig, run, show, example="loralab push out/docstrings me/docstrings --dry-run")
