"""The words of the report: what each result is called, how to read it, and what its columns are."""

from textwrap import dedent

_TEXTS = {
    "run": """
        Loss in nats per target: of each training step, and of the held-out examples where they were measured.""",
    "cut": """
        An adapter of lower rank, cut from a trained one by SVD.""",
    "comparison": """
        Each row is a method at one setting, a mean over seeds with its sample standard deviation. With it the paper's
        claims, and whether they held here.""",
    "latency": """
        Time of a forward pass beside that of the base in the same round: the median and the quartiles over rounds.
        base-again is the base timed a second time: what differs by no more than that is noise, whatever the figure.""",
    "merge": """
        The written model was opened again and compared with the live adapter: the largest difference of a logit, and
        how often both choose the same token.""",
    "subspace": """
        φ(i, j) is 1 where the first i directions of one adapter and the first j of the other lie within each other,
        and about max(i, j)/d where both are random, as in the drawing of random ones. A full corner at (1, 1) that
        fades says that only the top directions are shared: a small rank was enough (paper, Figures 3 and 4).""",
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

TITLES = {
    "merge": "A merged model, compared with its live adapter",
    "subspace": "Which directions two adapters share",
    "amplification": "What the update amplifies",
    "spectrum": "How many directions the adapter uses",
    "rank": "Which rank was enough",
    "resize": "What a lower rank loses",
    "matrices": "Which parts of the adapter matter",
    "angular": "Which blocks turn the stream least",
    "prune": "A model with fewer blocks",
    "linearity": "How nearly each block is an affine map",
    "linearize": "Affine maps in the place of blocks",
    "forgetting": "What was gained and what was forgotten",
    "doctor": "What is wrong with the adapter",
}
"""Of the analyses; a run and a comparison are named for what they trained."""

TABLES = {
    "kinds": "By kind of module",
    "modules": "By module",
    "curve": "By rank",
    "parts": "By part",
    "texts": "By text",
    "scores": "By block",
    "best": "The best blocks to drop",
    "runs": "Replaced blocks",
    "findings": "Findings",
    "truncated": "The adapter at that rank",
    "suggested": "The adapter with a rank for each module",
}
"""Parts of a result's JSON that are tables."""

FIRST = (
    "severity",
    "what",
    "where",
    "advice",
    "by",
    "part",
    "text",
    "kinds",
    "module",
    "name",
    "side",
    "ell",
    "n",
    "rank",
)
"""Columns that come first, in this order."""

COLUMNS = {
    "kinds": "kind",
    "removed": "blocks removed",
    "replaced_blocks": "blocks replaced",
    "phi_1_1": "φ(1, 1)",
    "phi_all": "φ of all",
    "random_1_1": "random (1, 1)",
    "random_all": "random, all",
    "ell": "block",
    "ls_main": "affine, stream",
    "ls_delta": "affine, added",
    "lo": "rotation, stream",
    "lo_delta": "rotation, added",
    "r2_heldout": "affine, stream, held out",
    "r2_heldout_delta": "affine, added, held out",
    "norm_h": "‖stream‖",
    "norm_delta": "‖added‖",
    "cos": "cosine",
    "delta_norm": "‖ΔW‖",
    "base_norm": "‖W‖",
    "in_delta": "‖UᵀWV‖ of ΔW",
    "in_base": "‖UᵀWV‖ of W",
    "in_random": "‖UᵀWV‖ random",
    "max_abs_logit_error": "largest error of a logit",
    "mean_kl": "mean KL divergence",
    "argmax_agreement": "same token chosen, share",
    "rank_for_90": "rank for 90%",
    "rank_for_99": "rank for 99%",
    "task_loss": "loss of the task",
    "n": "blocks dropped",
}
"""Keys whose own words do not say what they are."""
