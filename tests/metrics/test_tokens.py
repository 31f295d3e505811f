from loralab.metrics.tokens import caption_words, mteval_tokens, words_and_signs


def test_mteval() -> None:
    assert mteval_tokens("It's £20.50, isn't it?") == ["it's", "£20.50", ",", "isn't", "it", "?"]
    assert mteval_tokens("Tea &amp; cake (10-20).") == ["tea", "&", "cake", "(", "10", "-", "20", ")", "."]
    assert mteval_tokens(" \n") == []


def test_words_and_signs() -> None:
    assert words_and_signs("It's a_b, 3.5 Été!") == ["it", "'", "s", "a_b", ",", "3", ".", "5", "été", "!"]
    assert words_and_signs("  ") == []


def test_caption_words_are_without_punctuation() -> None:
    assert caption_words("A low-priced pub, near the U.S. embassy: 5/5 (£20.50)!") == (
        *("a", "low-priced", "pub", "near", "the", "u.s", "embassy", "5/5", "(", "£", "20.50", ")"),
    )


def test_caption_words_split_clitics() -> None:
    assert caption_words("It isn’t Joe's; we'll see, I cannot.") == (
        *("it", "is", "n't", "joe", "'s", "we", "'ll", "see", "i", "can", "not"),
    )


def test_caption_words_of_other_scripts_and_of_none() -> None:
    assert caption_words("Das Café «Élan» 1,500 kafe_bar") == (
        "das",
        "café",
        "«",
        "élan",
        "»",
        "1,500",
        "kafe",
        "_",
        "bar",
    )
    assert caption_words("... 'n't' ?!") == ("n't",)
    assert caption_words("") == ()
