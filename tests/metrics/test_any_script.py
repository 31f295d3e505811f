"""What holds of every text metric in whatever writing: a text is its own best prediction, and another one is worse."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loralab.metrics.bleu import bleu_mteval, bleu_tokenized
from loralab.metrics.coco import caption_rouge_l, cider
from loralab.metrics.nist import nist
from loralab.metrics.rouge import rouge_1, rouge_2, rouge_l
from loralab.metrics.ter import corpus_ter, mean_ter

pytest.importorskip("pycocoevalcap.rouge.rouge", reason="pycocoevalcap is not installed")

BEST = {
    rouge_1: 100,
    rouge_l: 100,
    bleu_mteval: 100,
    bleu_tokenized: 100,
    caption_rouge_l: 100,
    corpus_ter: 0,
    mean_ter: 0,
}

SPACED = {
    "latin": "the quick brown foxes jumped over lazy dogs",
    "accents": "élève été où être çà naïve Übermut Straße ığdır",
    "vietnamese": "tiếng Việt rất hay và dễ học má mà",
    "only accents": "é à ö ø ß ñ",
    "russian": "быстрая бурая лиса прыгает через ленивую собаку",
    "greek": "η γρήγορη καφέ αλεπού πηδάει πάνω από",
    "arabic": "مرحبا يا صديقي العزيز كيف حالك اليوم",
    "vowelled arabic": "مُدَرِّسٌ كَتَبَ دَرْسًا جَدِيدًا في المَدْرَسَةِ",
    "persian": "می‌خواهم هر روز کتاب‌های خوب و تازه بخوانم",
    "hebrew": "שָׁלוֹם עולם מה שלומך היום חבר",
    "hindi": "हिन्दी में लिखा हुआ एक छोटा वाक्य",
    "bengali": "আমি বাংলায় একটি বাক্য লিখছি আজ",
    "tamil": "தமிழ் மொழி மிகவும் அழகான மொழி ஆகும்",
    "korean": "한국어는 띄어쓰기를 하는 언어 입니다 오늘",
    "georgian": "ქართული ენა არის ძალიან ლამაზი ენა",
    "amharic": "አማርኛ በጣም ቆንጆ ቋንቋ ነው ዛሬ",
    "cherokee": "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎣᏍᏓ ᎢᎦ ᎠᏂᏴᏫᏯ",
    "digits": "٣٤٥ १२३ ๑๒๓ ۴۵۶ 789 ௧௨௩",
    "gothic": "𐌰𐌱 𐌲𐌳 𐌴𐌵 𐌶𐌷 𐌸𐌹 𐌺𐌻 𐌼𐌽 𐌾𐌿",
}
UNSPACED = {
    "chinese": "我今天在北京的图书馆看书",
    "japanese": "東京タワーへ行きたいと思います",
    "half-width": "ｶﾀｶﾅﾊﾝｶｸ",
    "thai": "ภาษาไทยสวยงามมาก",
    "lao": "ພາສາລາວງາມຫຼາຍ",
    "khmer": "ភាសាខ្មែរស្អាតណាស់",
    "myanmar": "မြန်မာဘာသာစကား",
    "tibetan": "བོད་སྐད་ནི་སྙན་པོ་ཡིན།",
    "yi": "ꆈꌠꁱꂷꀋꉬ",
    "han beyond the first plane": "𠀀𠀁𠀂𠀃𠀄𠀅𠀆𠀇𠀈",
}
SIGNS = {"emoji": "👍🏽🎉❤️🇫🇷👨‍👩‍👧", "punctuation": "。，！？、", "mathematics": "∑∫≠∞√"}
TEXTS = SPACED | UNSPACED
OTHER = "zzz yyy"


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("metric", BEST, ids=lambda metric: metric.__name__)
def test_a_text_is_its_own_best_prediction(metric, name: str) -> None:
    text = TEXTS[name]
    assert metric([text], [[OTHER, text]]) == pytest.approx(BEST[metric])
    assert metric([OTHER], [[text]]) != pytest.approx(BEST[metric])


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("metric", BEST, ids=lambda metric: metric.__name__)
def test_half_of_a_text_is_worth_something_but_not_everything(metric, name: str) -> None:
    """So a sentence without spaces is no single word: with one, half of it would be all wrong."""
    text = TEXTS[name]
    half = text[: len(text) * 3 // 4]
    worst = 100 if BEST[metric] == 0 else 0
    assert metric([half], [[text]]) not in (pytest.approx(BEST[metric]), pytest.approx(worst))


@pytest.mark.parametrize("name", TEXTS)
def test_nist_and_cider_know_a_text_from_its_beginning(name: str) -> None:
    """Their best depends on the references; it is what the references themselves get."""
    text, other = TEXTS[name], TEXTS["russian" if name == "latin" else "latin"]
    for metric in (nist, cider):
        best = metric([text, other], [[text], [other]])
        assert best > 1
        assert metric([text[: len(text) // 2], other], [[text], [other]]) < best


@pytest.mark.parametrize("name", SIGNS)
def test_signs_alone_are_compared_too(name: str) -> None:
    text = SIGNS[name]
    for metric in (rouge_1, rouge_l, caption_rouge_l):
        assert metric([text], [[text]]) == pytest.approx(100)
    assert rouge_1([text], [["♫"]]) == 0


letters = st.characters(categories=["L", "Nd"], exclude_characters="")
texts = st.lists(st.text(letters, min_size=1, max_size=6), min_size=4, max_size=8).map(" ".join)


@settings(max_examples=60)
@given(text=texts)
def test_any_letters_of_unicode(text: str) -> None:
    for metric, best in BEST.items():
        assert metric([text], [[text]]) == pytest.approx(best), metric.__name__


@settings(max_examples=60)
@given(text=st.text(min_size=1).filter(lambda text: any(not each.isascii() and not each.isspace() for each in text)))
def test_any_text_beyond_ascii_has_rouge_words(text: str) -> None:
    assert rouge_1([text], [[text]]) == rouge_l([text], [[text]]) == 100


@pytest.mark.parametrize("text", ["naïve", "хорошо", "한국어"])
def test_composed_and_decomposed_letters_are_the_same_words(text: str) -> None:
    decomposed = unicodedata.normalize("NFD", text)
    assert rouge_1([decomposed], [[text]]) == rouge_2([f"{text} a"], [[f"{decomposed} a"]]) == 100
