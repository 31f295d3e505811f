"""The verbs there are, in the order of the front page, and where each is."""

VERBS = {
    "plan": "Count parameters, bytes and memory of a training before it starts.",
    "train": "Train an adapter on a task and write it to a folder.",
    "tune": "Find the rate, rank and targets: many adapters on one base.",
    "compare": "Train many methods and seeds, one after another, to one table.",
    "eval": "Measure a model, with or without an adapter, on a task.",
    "score": "Score any system's outputs, from a file; no model is needed.",
    "generate": "Complete prompts with a model, with or without an adapter.",
    "chat": "Talk to a model and its adapters in the terminal.",
    "serve": "Answer requests over HTTP, each by the adapter that it names.",
    "merge": "Fold an adapter into its base, write the model, reopen and compare.",
    "convert": "Write an adapter in another format.",
    "push": "Give an adapter to others: check it, and upload it to the Hub.",
    "inspect": "Say what an adapter is, what it touches, and how much it does.",
    "analyse": "See what an adapter learned, and what to do next.",
    "bench": "Measure on this machine, as ratios: the latency of a forward pass.",
    "completion": "Let the Tab key complete: a script for bash, zsh or fish.",
    "demo": "All of it in minutes with what is embedded: train, measure, merge.",
}
ANALYSES = {
    "doctor": "What is wrong with an adapter; exit status 2 if it is broken.",
    "rank": "Which rank was enough: the metric of every lower rank.",
    "resize": "Cut an adapter to a lower rank, with the error stated.",
    "matrices": "What each kind of matrix and each layer contribute (Table 5).",
    "forgetting": "The loss on other text before and after, beside the gain.",
    "angular": "Which blocks turn the residual stream least: what to prune.",
    "prune": "Drop blocks, write the model, measure before, after and healed.",
    "linearity": "How nearly each block is one affine map, and without residual.",
    "linearize": "Put affine maps in the place of blocks, and measure.",
    "spectrum": "Singular values: how many directions an adapter uses.",
    "amplification": "What the update amplifies that the base has (Table 7).",
    "subspace": "How far the directions of two adapters coincide (Figures 3-8).",
    "report": "One page to look at, of runs and what was measured on them.",
}
"""The verbs behind `loralab analyse`."""


def modules() -> dict[tuple[str, ...], str]:
    """The module of every verb, by the words that call it: `("train",)`, `("analyse", "rank")`."""
    verbs = {(name,): f"loralab.cli.verbs.{name}" for name in VERBS if name != "analyse"}
    return verbs | {("analyse", name): f"loralab.cli.analyses.{name}" for name in ANALYSES}


def summaries() -> dict[tuple[str, ...], str]:
    """What every verb does, by the words that call it."""
    return {(name,): summary for name, summary in VERBS.items()} | {
        ("analyse", name): summary for name, summary in ANALYSES.items()
    }
