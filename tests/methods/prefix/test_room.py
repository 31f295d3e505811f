import loralab as ll
from loralab.methods.prefix.update import text_room
from small_models import build


def test_a_prefix_takes_up_context_while_it_speaks() -> None:
    model = build("gpt2")
    assert text_room(model) == 64
    ll.attach(model, ll.PrefixEmbedding(3, 2), name="prefix")
    assert text_room(model) == 59
    ll.attach(model, ll.LoRA(rank=2), name="lora")
    assert text_room(model) == 64
    ll.activate(model, "prefix")
    assert text_room(model) == 59
    ll.activate(model, None)
    assert text_room(model) == 64
