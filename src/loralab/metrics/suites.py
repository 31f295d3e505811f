"""The metrics that a task's table reports together, each suite as the task's official script computes it.

A metric whose package or program is not installed is left out, and a note says why and what installs it. Where
texts are not in the writing that the official scripts were made for, a note says what is counted.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from loralab.errors import MissingDependencyError
from loralab.metrics.bleu import bleu_mteval, bleu_tokenized
from loralab.metrics.coco import caption_rouge_l, cider
from loralab.metrics.meteor import meteor
from loralab.metrics.nist import nist
from loralab.metrics.rouge import rouge_1, rouge_2, rouge_l
from loralab.metrics.scores import Scores, present_references
from loralab.metrics.scripts import is_mostly_latin, spread, spread_note
from loralab.metrics.ter import corpus_ter, mean_ter
from loralab.metrics.tokens import caption_words, words_and_signs

COUNTED_TRIPLE_REFERENCES = 6
"""How many of a text's references the LoRA authors' commands for WebNLG and DART count: the first ones."""

GLUED_STOP = re.compile(r"\w\.\s*$")

ENGLISH_METEOR = (
    "most of the references are not in Latin letters: METEOR's stems, synonyms and paraphrases are English, so here it "
    "counts equal words alone"
)

References = Sequence[Sequence[str]]


def score_rouge(predictions: Sequence[str], references: References) -> Scores:
    """ROUGE-1, ROUGE-2 and ROUGE-L, as `loralab.metrics.rouge` states them."""
    metrics = {metric.__name__: metric(predictions, references) for metric in (rouge_1, rouge_2, rouge_l)}
    return Scores(metrics, spread_note(references))


def score_e2e(predictions: Sequence[str], references: References) -> Scores:
    """As the E2E challenge's measure_scores.py: BLEU, NIST, METEOR, ROUGE-L and CIDEr of ordinary text.

    METEOR is that of the words without punctuation, as coco-caption hands them to it. Blank references are none.
    Raises `DataError` where predictions and references do not pair up or all references of one are blank.
    """
    references = present_references(predictions, references)
    words, words_of_references = _respaced(caption_words, predictions, references)
    return _scores(
        {
            "bleu": lambda: bleu_mteval(predictions, references),
            "nist": lambda: nist(predictions, references),
            "meteor": lambda: meteor(words, words_of_references),
            "rouge_l": lambda: caption_rouge_l(predictions, references),
            "cider": lambda: cider(predictions, references),
        },
        _script_notes(references),
    )


def score_triples(predictions: Sequence[str], references: References) -> Scores:
    """As the LoRA authors score WebNLG and DART: their decoder's `--tokenize --lower`, then GenerationEval's eval.py.

    BLEU is multi-bleu-detok.perl's, METEOR 1.5, TER the mean over the texts of the lowest rate; of each text the
    first six references count. Not followed: eval.py also takes the end of its files for one more, empty text.
    Raises as `score_e2e`.
    """
    references = present_references(predictions, references)
    longer = sum(len(each) > COUNTED_TRIPLE_REFERENCES for each in references)
    counted = [each[:COUNTED_TRIPLE_REFERENCES] for each in references]
    outputs, answers = _respaced(words_and_signs, predictions, counted)
    note = f"of the {longer} texts with more than {COUNTED_TRIPLE_REFERENCES} references only the first ones count"
    return _scores(
        {
            "bleu": lambda: bleu_mteval(outputs, answers),
            "meteor": lambda: meteor(outputs, answers),
            "ter": lambda: mean_ter(outputs, answers),
        },
        ((f"{note}, as in the LoRA authors' scripts",) if longer else ()) + _script_notes(references),
    )


def score_tokenized_triples(predictions: Sequence[str], references: References) -> Scores:
    """As the WebNLG challenge of 2017 scores against its .lex files, and DART against its own.

    BLEU is `multi-bleu.perl -lc`, METEOR 1.5, TER tercom 7.25 over the whole corpus, all on the tokens between spaces
    as they stand. Blank references count for BLEU as `bleu_tokenized` says, and are none for the others. Raises as
    `score_e2e`.
    """
    outputs, present = spread(predictions, present_references(predictions, references))
    return _scores(
        {
            "bleu": lambda: bleu_tokenized(predictions, references),
            "meteor": lambda: meteor(_lower(outputs), [_lower(each) for each in present]),
            "ter": lambda: corpus_ter(predictions, references),
        },
        _untokenized_note(predictions) + _script_notes(references),
    )


def _scores(measures: Mapping[str, Callable[[], float]], notes: Sequence[str] = ()) -> Scores:
    """What can be measured here; one note for all that lacks the same thing.

    METEOR's program, which takes longest, is started first and runs beside the others.
    """
    metrics: dict[str, float] = {}
    lacking: dict[str, list[str]] = {}
    with ThreadPoolExecutor(max_workers=2) as pool:
        running = {name: pool.submit(measures[name]) for name in sorted(measures, key="meteor".__ne__)}
        for name in measures:
            try:
                metrics[name] = running[name].result()
            except MissingDependencyError as error:
                lacking.setdefault(str(error), []).append(name)
    left_out = [f"left out: {', '.join(names)}, as {reason}" for reason, names in lacking.items()]
    return Scores(metrics, (*notes, *left_out))


def _respaced(
    split: Callable[[str], Sequence[str]], predictions: Sequence[str], references: References
) -> tuple[list[str], list[list[str]]]:
    """Both with single spaces between their tokens."""
    outputs, answers = spread(predictions, references)
    return [" ".join(split(text)) for text in outputs], [[" ".join(split(text)) for text in each] for each in answers]


def _lower(texts: Sequence[str]) -> list[str]:
    return [text.lower() for text in texts]


def _script_notes(references: References) -> tuple[str, ...]:
    if is_mostly_latin(text for each in references for text in each):
        return spread_note(references)
    return (*spread_note(references), ENGLISH_METEOR)


def _untokenized_note(predictions: Sequence[str]) -> tuple[str, ...]:
    """Says so where most texts end in a word and its full stop without a space between them."""
    glued = sum(GLUED_STOP.search(text) is not None for text in predictions)
    if glued <= len(predictions) / 2:
        return ()
    return (
        f"{glued} of {len(predictions)} predictions end in a word with the full stop glued to it, but these references "
        "are split into tokens: split the predictions in the same way, or the scores are too low",
    )
