"""What the parts of a data set are called."""

SPLITS = ("train", "validation", "test")

SPLIT_NAMES = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development", "eval", "evaluation"), "validation")
    | dict.fromkeys(("test", "testing"), "test")
)
"""What people call a split, its files and folders -> the split. To evaluate on while training is to validate."""
