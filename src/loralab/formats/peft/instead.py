"""What to do with a PEFT adapter that cannot be read here: for each setting that is refused, the way that works.

Each was tried against PEFT 0.21.2 where that could be done. Two of them would be wrong as the usual advice: merging a
model whose layers are repeated adds every layer's update to one shared weight, and PiSSA's fast SVD is drawn anew when
its folder is loaded.
"""

MERGE = "load it in the PEFT that wrote it, onto the same base, merge_and_unload, and save the model"
CONVERT = (
    "in the session that trained it, save_pretrained with path_initial_model_for_weight_conversion (the folder of the "
    "adapter as it started, saved with init_lora_weights True), which writes it as plain LoRA"
)
IN_SESSION = "or merge_and_unload there and save the model"
PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT")
"""Kinds of PEFT's that change no weight, so that nothing can be merged."""

_SETTINGS = {
    "arrow_config": (
        "it routes every token among several adapters, and cannot be merged: load those adapters one by one, each from "
        "its own folder, or run it in PEFT"
    ),
    "layer_replication": (
        "make the larger base first: copy its layers in that order, save that model, load the adapter onto it with "
        "layer_replication null in adapter_config.json, since the file counts the repeated layers (do not merge it in "
        "PEFT, where the copies share their weights)"
    ),
    "megatron_config": (
        "it was trained on Megatron's parallel layers: merge it there and save the model; or, where it was not split "
        "over several devices, set megatron_config to null in adapter_config.json"
    ),
    "use_qalora": (
        "its A reads means of groups of inputs beside a GPTQ base, and PEFT cannot merge it: run it in PEFT, or train "
        "again without"
    ),
}


def instead_of_type(kind: object) -> str:
    """For an adapter of another kind than LoRA."""
    if kind in PROMPTS:
        return "it changes no weights, so that nothing can be merged: run it in PEFT"
    return MERGE


def instead_of_start(init: object) -> str:
    """For a LoRA that started by changing the base's weights."""
    name = str(init).lower()
    if name in ("pissa", "olora"):
        return f"{CONVERT}; or {MERGE}"
    if name.startswith("pissa"):
        return f"{CONVERT}, {IN_SESSION} (a later load finds another principal part: its fast SVD is random)"
    if name in ("corda", "lora_ga"):
        return f"{CONVERT}, {IN_SESSION} (a later load would need the data that it started from)"
    if name == "loftq":
        return (
            "it is right only on the base that LoftQ quantised: merge_and_unload in the session that trained it, or in "
            "PEFT on that base, and save the model"
        )
    return MERGE


def instead_of_setting(key: str) -> str:
    """For a setting that changes what a LoRA computes."""
    return _SETTINGS.get(key, MERGE)
