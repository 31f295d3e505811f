"""What the path of a module says: its block and its kind. Loads no torch."""


def layer_index(path: str) -> int | None:
    """The number of the block a path lies in: its first component that is a number."""
    return next((int(piece) for piece in path.split(".") if piece.isdigit()), None)


def kind_of_module(path: str) -> str:
    """What modules of all blocks have in common: the path's last name."""
    return path.rpartition(".")[2]
