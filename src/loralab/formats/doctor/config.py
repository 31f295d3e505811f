"""Whether adapter_config.json and loralab.json say what the tensor file holds."""

from loralab.errors import AdapterFileError, some
from loralab.files.names import CONFIG_NAME, RUN_NAME, SIDECAR_NAME
from loralab.formats.peft.config import PeftConfig, pattern_matches
from loralab.formats.peft.keys import heads_peft_saves, is_named, targets_without
from loralab.formats.run import read_run
from loralab.formats.stored import AGAIN, Finding, StoredAdapter
from loralab.models.fit import FRESH


def config_findings(stored: StoredAdapter) -> list[Finding]:
    """What the configuration asks for without effect, or for tensors that are not there; what is not recorded.

    Where it contradicts the tensors the adapter is not read at all (`peft/agreement.py`).
    """
    findings = [*_records(stored)]
    if stored.config is None or not stored.named:
        return findings
    names = [each.module for each in stored.entries]
    heads = [key.rpartition(".")[0] for key in stored.others]
    return [
        *findings,
        *_targets(stored.config, names),
        *_patterns(stored.config, names),
        *_heads(stored, heads),
        *_fresh_heads(stored),
    ]


def _records(stored: StoredAdapter) -> list[Finding]:
    """What should be recorded and is not."""
    findings = []
    if stored.is_own and stored.sidecar is None:
        return []
    if stored.is_checkpoint:
        what = "a loralib checkpoint does not record its base model" + (
            "" if stored.alpha_is_known else " and its alpha"
        )
        findings.append(Finding("note", stored.where, what, "convert it to a PEFT folder: loralab convert --to peft"))
    elif not (stored.source / SIDECAR_NAME).exists():
        what = "it is not there, so whether a base model is the right one cannot be checked"
        findings.append(
            Finding("note", SIDECAR_NAME, what, "load it with loralab onto the right base and save it once")
        )
    if stored.content and not stored.content.get("base_model_name_or_path"):
        what = "base_model_name_or_path is not set: PEFT, vLLM and convert --to gguf must be told the base"
        findings.append(Finding("note", CONFIG_NAME, what, "save with the model: ll.save(adapter, path, model=model)"))
    return findings


def _targets(config: PeftConfig, names: list[str]) -> list[Finding]:
    """What PEFT would adapt, in a model that has it, and is not there stays fresh."""
    missing = targets_without(config, names)
    what = f"it targets {some(missing)}, for which there are no tensors: PEFT would leave fresh factors there"
    advice = "take these targets out, or find the missing tensors"
    return [Finding("warning", CONFIG_NAME, what, advice)] if missing else []


def _patterns(config: PeftConfig, names: list[str]) -> list[Finding]:
    """A pattern that matches nothing leaves the modules that it was meant for at the default."""
    idle = [
        f"{field} {key!r}"
        for field, patterns in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern))
        for key in patterns
        if not any(pattern_matches(key, name) for name in names)
    ]
    what = f"{some(idle)} matches no adapted module, so it has no effect"
    return [Finding("warning", CONFIG_NAME, what, "correct the pattern, or take it out")] if idle else []


def _heads(stored: StoredAdapter, paths: list[str]) -> list[Finding]:
    """PEFT writes all names that a task's head may have into modules_to_save, of which a model has one."""
    config = stored.config
    wanted = () if config is None else config.modules_to_save
    missing = [
        name for name in wanted if not any(is_named(path, [name]) or f".{name}." in f".{path}." for path in paths)
    ]
    of_task = heads_peft_saves(None if config is None else config.task_type)
    if any(name in of_task and name not in missing for name in wanted):
        missing = [name for name in missing if name not in of_task]
    what = f"modules_to_save names {some(missing)}, which is not in the file: a fresh one would be used"
    return [Finding("error", CONFIG_NAME, what, AGAIN)] if missing else []


def _fresh_heads(stored: StoredAdapter) -> list[Finding]:
    """What was random when the run began, as run.json says, and is not in the file."""
    try:
        notes = read_run(stored.source).notes
    except AdapterFileError:
        return [Finding("warning", RUN_NAME, "it is damaged", "restore it, or remove it")]
    fresh = [name for note in notes if note.startswith(FRESH) for name in note.removeprefix(FRESH).split(", ")]
    lost = [name for name in fresh if not any(f".{name}." in f".{key}" for key in stored.named)]
    what = f"the run began with a fresh {some(lost)}, which is not in the file: after loading it is random again"
    return [Finding("error", RUN_NAME, what, "train again; fresh heads are now trained and saved")] if lost else []
