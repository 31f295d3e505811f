"""Whether adapter_config.json and loralab.json say what the tensor file holds."""

from loralab.errors import AdapterFileError, some
from loralab.files.names import CONFIG_NAME, RUN_NAME, SIDECAR_NAME
from loralab.formats.peft.config import PeftConfig, Targets, pattern_matches
from loralab.formats.peft.keys import ALL_LINEAR, is_named
from loralab.formats.run import read_run
from loralab.formats.stored import AGAIN, Finding, StoredAdapter
from loralab.models.fit import FRESH

_RESTORE = f"restore the {CONFIG_NAME} that was saved with the tensors"


def config_findings(stored: StoredAdapter) -> list[Finding]:
    """Targets, ranks and patterns of the configuration against the tensors; what is not recorded."""
    findings = [*_records(stored)]
    if stored.config is None or not stored.named:
        return findings
    names = [each.module for each in stored.entries]
    heads = [key.rpartition(".")[0] for key in stored.others]
    return [
        *findings,
        *_targets(stored.config, names),
        *_ranks(stored),
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
    """PEFT adapts what target_modules names and ignores other tensors; what is named and not there stays fresh."""
    findings = []
    parameters = {name.removesuffix(".weight") for name in config.target_parameters}
    outside = [name for name in names if not _is_target(name, config.targets) and not is_named(name, parameters)]
    if outside:
        what = f"target_modules does not name {some(outside)}, whose factors are in the file: PEFT would drop them"
        findings.append(Finding("error", CONFIG_NAME, what, f"add them to target_modules, or {_RESTORE}"))
    wanted = config.targets if isinstance(config.targets, tuple) else ()
    missing = [each for each in (*wanted, *parameters) if not any(is_named(name, [each]) for name in names)]
    if missing:
        what = f"it targets {some(missing)}, for which there are no tensors: PEFT would leave fresh factors there"
        findings.append(Finding("warning", CONFIG_NAME, what, "take these targets out, or find the missing tensors"))
    return findings


def _is_target(name: str, targets: Targets | None) -> bool:
    return is_named(name, targets) or (isinstance(targets, str) and targets.lower() == ALL_LINEAR)


def _ranks(stored: StoredAdapter) -> list[Finding]:
    """Factors of another rank than the configuration says are refused, or scaled wrongly by who reads only it."""
    wrong = [
        f"{pair.name} ({len(pair.A)} in the file, {pair.recipe.rank} in the configuration)"
        for pair in stored.entries
        if pair.kind in ("linear", "embedding") and len(pair.A) != pair.recipe.rank
    ]
    what = f"{len(wrong)} ranks differ: {some(wrong)}; the scale alpha/r would be wrong too"
    return [Finding("error", CONFIG_NAME, what, f"correct r or rank_pattern, or {_RESTORE}")] if wrong else []


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
    wanted = stored.config.modules_to_save if stored.config is not None else ()
    missing = [
        name for name in wanted if not any(is_named(path, [name]) or f".{name}." in f".{path}." for path in paths)
    ]
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
