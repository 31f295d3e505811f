"""The prompt of an instruction, with or without an input to apply it to. It knows nothing of files.

The parts stand under headings of their own, a blank line between them, and the prompt ends in a line break after
the last heading: the answer begins a line. The words are this project's; a model tuned on another template needs
that one, as {"prompt", "completion"}.
"""

INSTRUCTION, INPUT, RESPONSE = "### Instruction:\n", "### Input:\n", "### Response:\n"
"""The headings."""


def instruction_prompt(instruction: str, text: str = "") -> str:
    """The prompt; without a heading for the input where `text` is blank."""
    given = f"{INPUT}{text}\n\n" if text.strip() else ""
    return f"{INSTRUCTION}{instruction}\n\n{given}{RESPONSE}"
