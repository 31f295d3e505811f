"""A verb's configuration: its defaults, then a TOML file, then the flags, which win.

Everything that is wrong is collected and said at once, in one SpecError.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from loralab.cli.fields import ConfigField, config_fields, is_mapping
from loralab.cli.values import read_value
from loralab.errors import SpecError

Config = TypeVar("Config")

NAMES_ELSEWHERE = {
    "accumulate": "gradient_accumulation_steps",
    "adapter": "adapter_path adapter_name lora lora_path peft_model_id",
    "alpha": "lora_alpha",
    "batch_size": "per_device_train_batch_size per_device_eval_batch_size train_batch_size bs",
    "clip": "max_grad_norm",
    "data": "dataset dataset_name train_file",
    "dropout": "lora_dropout",
    "dtype": "torch_dtype bf16 fp16 precision",
    "epochs": "num_train_epochs num_epochs",
    "eval_every": "eval_steps",
    "exclude": "exclude_modules",
    "init": "init_lora_weights",
    "keep": "save_total_limit",
    "layers": "layers_to_transform",
    "length_pool": "group_by_length",
    "lr": "learning_rate",
    "max_length": "max_seq_length max_seq_len",
    "method": "peft_type",
    "model": "model_name_or_path base_model base_model_name_or_path",
    "out": "output output_dir save_dir o",
    "quantize": "load_in_4bit",
    "rank": "r lora_r lora_rank",
    "rank_stabilized": "use_rslora",
    "resume": "resume_from_checkpoint",
    "save_every": "save_steps",
    "schedule": "lr_scheduler_type scheduler",
    "steps": "max_steps",
    "targets": "target_modules",
    "warmup": "warmup_ratio warmup_steps",
}
"""Our flag -> what PEFT, transformers and their neighbours call it."""
FLAG_FOR = {name: flag for flag, names in NAMES_ELSEWHERE.items() for name in names.split()}


def build_config(config: type[Config], flags: Mapping[str, Any], file: Mapping[str, Any], source: str) -> Config:
    """The dataclass made of `flags` over `file` (which came from `source`) over the defaults.

    The keys of `flags` are field names; those of `file` may be written with dashes or underscores. Raises
    SpecError naming every unknown key, unreadable value and missing required field.
    """
    fields = {field.name: field for field in config_fields(config)}
    in_file = {key.replace("-", "_"): value for key, value in file.items()}
    problems = _unknown_keys(file, fields.values(), source)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in flags:
            _read_into(values, problems, field, flags[name], field.label)
        elif field.key in in_file:
            _read_into(values, problems, field, in_file[field.key], f"{source}: {field.key}")
        elif field.required:
            problems.append(f"{field.label} is needed: {field.documentation}{_own_task(name, flags, in_file)}")
    if problems:
        raise SpecError(join_problems(problems))
    return config(**values)


def _own_task(name: str, flags: Mapping[str, Any], in_file: Mapping[str, Any]) -> str:
    """How to name the task of data that were given without one."""
    data = flags.get("data", in_file.get("data"))
    if name != "task" or data is None:
        return ""
    from loralab.tasks.own.files import flags_for

    return f" For {data}: {flags_for(data)}"


def near_misses(name: str, known: Iterable[str]) -> str:
    """` (did you mean X or Y?)`, or nothing when no known name resembles this one, or means the same elsewhere."""
    among = {_bare(each): each for each in known}
    bare = _bare(name)
    same = among.get(FLAG_FOR.get(bare, ""))
    close = [same] if same else [among[each] for each in get_close_matches(bare, list(among), n=3, cutoff=0.7)]
    return f" (did you mean {' or '.join(close)}?)" if close else ""


def _bare(name: str) -> str:
    """A flag or key without what is a matter of spelling."""
    return name.lower().lstrip("-").replace("-", "_")


def join_problems(problems: list[str]) -> str:
    """One problem as it is; several as a numbered list."""
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} problems:" + "".join(f"\n  {number}. {each}" for number, each in enumerate(problems, 1))


def _unknown_keys(file: Mapping[str, Any], fields: Iterable[ConfigField], source: str) -> list[str]:
    known = {field.key: field for field in fields}
    problems, seen = [], set[str]()
    for key, value in file.items():
        name = key.replace("-", "_")
        field = known.get(name)
        if isinstance(value, dict) and (field is None or not any(map(is_mapping, field.kinds))):
            problems.append(f"{source}: {_section(key, value, known)}")
        elif field is None:
            problems.append(f"{source}: unknown key {key!r}{near_misses(name, known)}")
        elif name in seen:
            problems.append(f"{source}: {name} is given twice, with a dash and with an underscore")
        seen.add(name)
    return problems


def _section(name: str, content: Mapping[str, Any], known: Mapping[str, ConfigField]) -> str:
    """What to say of a section, of which only mappings are made."""
    mappings = [key for key, field in known.items() if any(map(is_mapping, field.kinds))]
    if hint := near_misses(name, mappings):
        return f"unknown section [{name}]{hint}"
    inside = [key for key in content if _bare(key) in known]
    move = f"write {', '.join(inside)} above the first section" if inside else "no key of it is known"
    return f"unknown section [{name}]: keys stand in no section here; {move}"


def _read_into(values: dict[str, Any], problems: list[str], field: ConfigField, written: Any, label: str) -> None:
    try:
        values[field.name] = read_value(field, written)
    except ValueError as error:
        problems.append(f"{label}: {error}")
