"""How to read each result of the report, in a sentence or two."""

from textwrap import dedent

_TEXTS = {
    "run": """
        Loss in nats per target: of each training step, and of the held-out examples where they were measured.""",
    "comparison": """
        Each row is a method at one setting, a mean over seeds with its sample standard deviation. With it the paper's
        claims, and whether they held here.""",
    "latency": """
        Time of a forward pass divided by that of the base in the same round; base-again shows the noise.""",
    "merge": """
        The written model was opened again and compared with the live adapter: the largest difference of a logit, and
        how often both choose the same token.""",
    "subspace": """
        φ(i, j) is 1 where the first i directions of one adapter and the first j of the other lie within each other,
        and about max(i, j)/d where both are random, as in the last column. A bright corner at (1, 1) that fades says
        that only the top directions are shared: a small rank was enough (paper, Figures 3 and 4).""",
    "amplification": """
        ‖ΔW‖ divided by how strong the base is in the same directions. Large values say that the adapter amplifies what
        the base has but does not emphasise (paper, Table 7: 21.5 for r=4). In its own directions W is as strong as it
        can be, in random ones as chance has it.""",
    "spectrum": """
        A curve that rises at once says that few directions carry the update; one that bends late uses its rank. The
        effective rank counts directions by their strength.""",
    "rank": """
        The task's metric with the adapter cut down to each rank. The knee is the smallest rank that keeps almost all
        of the gain: train with that next time.""",
    "resize": """
        What was lost when the adapter was cut to another rank, as a share of ‖ΔW‖.""",
    "matrices": """
        The task's metric with one part of the adapter switched off, and with that part alone: the parts whose absence
        hurts most are the ones to adapt (paper, Tables 5 and 6).""",
    "angular": """
        Distance between the states that enter block ℓ and block ℓ+n, 0: the same direction, 1: opposite. Blocks
        between near states do little; the best to drop for each n is marked.""",
    "prune": """
        What dropping blocks costs, and how much of it healing brings back. A low perplexity does not promise that
        generation works: look at both.""",
    "linearity": """
        1: the next block's states are a linear map of this block's. Nearly all of it is the residual; the second
        curve leaves that out.""",
    "linearize": """
        What it costs to replace blocks by one affine map each, beside dropping them.""",
    "forgetting": """
        The base's loss on a text that has nothing to do with the task, with and without the adapter.""",
    "doctor": """
        What is wrong with the adapter or may be elsewhere, and what to do about it.""",
}
HOW_TO_READ = {kind: " ".join(dedent(text).split()) for kind, text in _TEXTS.items()}
