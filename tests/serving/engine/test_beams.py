"""A beam search of our own finds what transformers' finds."""

from collections.abc import Iterator

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from loralab.errors import NumericsError, SpecError
from loralab.serving.engine import tree_steps
from loralab.serving.engine.beams import BeamSearch, Best
from loralab.serving.engine.hypotheses import BeamSettings, Hypotheses, best_continuations
from loralab.serving.engine.tree import GROWTH, TreeCache
from loralab.serving.engine.tree_steps import TreeSteps
from loralab.serving.engine.trial import refuse_unsearchable
from serving.causal import CAUSAL, ENDS, GROUPED, SIZES, adapt, causal, prompts

NEW, LENGTHS = 14, (9, 3, 1, 13, 2)
ENDING = (2, 40, 41, 42, 43)
SEARCHED = {kind: make for kind, make in CAUSAL.items() if "ALiBi" not in kind} | {
    "norms of q and k": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, head_dim=8, **ENDS)),
    "parallel blocks": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**SIZES, intermediate_size=64, max_position_embeddings=64, **ENDS)
    ),
}


def strong(kind: str) -> PreTrainedModel:
    """With weights so large that beams differ, and that some end early."""
    torch.manual_seed(0)
    model = SEARCHED[kind]().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def transformers_best(model: PreTrainedModel, prompt: list[int], settings: BeamSettings) -> tuple[list[int], float]:
    """What `generate` finds for a prompt alone, up to its end, and its score."""
    found = model.generate(  # type: ignore[operator]
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=settings.beams,
        max_new_tokens=settings.max_new_tokens,
        length_penalty=settings.length_penalty,
        early_stopping=False,
        do_sample=False,
        eos_token_id=sorted(settings.ends) or None,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ids = found.sequences[0, len(prompt) :].tolist()
    return ids, float(found.sequences_scores[0])


@pytest.mark.parametrize("penalty", [0.9, -1.0])
@pytest.mark.parametrize("kind", SEARCHED)
def test_outputs_and_scores_are_those_of_transformers(kind: str, penalty: float) -> None:
    model = strong(kind)
    refuse_unsearchable(model)
    settings = BeamSettings(beams=4, max_new_tokens=NEW, length_penalty=penalty, ends=frozenset(ENDING))
    asked = prompts(*LENGTHS)
    found = sorted(BeamSearch(model, settings, 2).run(asked), key=lambda best: best.number)
    expected = [transformers_best(model, prompt, settings) for prompt in asked]
    assert [best.ids for best in found] == [ids for ids, _ in expected]
    assert [best.score for best in found] == pytest.approx([score for _, score in expected], rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "norms of q and k", "some windows"])
def test_fused_blocks_find_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of which some are read together, one alone, and beams beyond a layer's window."""
    monkeypatch.setattr(tree_steps, "READ_TOGETHER", 14)
    model, settings = strong(kind), BeamSettings(beams=4, max_new_tokens=NEW, ends=frozenset(ENDING), no_repeat_ngram=3)
    adapt(model, one=4)
    asked = prompts(*LENGTHS)
    searches = [BeamSearch(model, settings, 2, fused=fused, pack=True) for fused in (False, True)]
    kinds = [type(search._steps(2, max(LENGTHS))) for search in searches]
    assert kinds == [tree_steps.OwnTreeSteps, tree_steps.FusedTreeSteps]
    plain, fused = ({best.number: best for best in search.run(asked)} for search in searches)
    assert [fused[number].ids for number in plain] == [best.ids for best in plain.values()]
    scores = [best.score for best in plain.values()]
    assert [fused[number].score for number in plain] == pytest.approx(scores, rel=1e-4)


def test_a_window_that_only_the_configuration_has_is_none() -> None:
    """Files of Llamas that were made of Mistrals name one."""
    model, settings = strong("llama"), BeamSettings(beams=3, max_new_tokens=NEW)
    expected = [best.ids for best in BeamSearch(model, settings, 2).run(prompts(9, 3))]
    model.config.sliding_window = 5
    assert [best.ids for best in BeamSearch(model, settings, 2).run(prompts(9, 3))] == expected
    assert model.config.sliding_window == 5
    assert tree_steps.windows_of(strong("a window")) == {"sliding_attention": 5}


def test_without_a_kernel_the_own_modules_search() -> None:
    """What has no blocks that are known, and what no compiled kernel computes."""
    steps = [tree_steps.steps_for(strong("parallel blocks"), 4, 20, True, False)]
    steps.append(tree_steps.steps_for(strong("llama").to(torch.float64), 4, 20, True, False))
    assert [type(each) for each in steps] == [tree_steps.OwnTreeSteps] * 2


def test_some_of_these_end_early_and_some_at_the_limit() -> None:
    settings = BeamSettings(beams=4, max_new_tokens=NEW, ends=frozenset(ENDING))
    lengths = {len(best.ids) for kind in SEARCHED for best in BeamSearch(strong(kind), settings, 2).run(prompts(9, 3))}
    assert NEW in lengths
    assert min(lengths) < NEW


def test_a_live_adapter_speaks_and_eager_attention_is_taken() -> None:
    model = causal("llama")
    asked, settings = prompts(7, 4), BeamSettings(beams=3, max_new_tokens=6)
    base = [best.ids for best in BeamSearch(model, settings, 2).run(asked)]
    adapt(model, one=4)
    found = {best.number: best.ids for best in BeamSearch(model, settings, 2).run(asked)}
    assert [found[0], found[1]] == [transformers_best(model, prompt, settings)[0] for prompt in asked]
    assert [found[0], found[1]] != base
    model.set_attn_implementation("eager")
    assert {best.number: best.ids for best in BeamSearch(model, settings, 2).run(asked)} == found


@pytest.mark.parametrize("more", [0, 2 * GROWTH])
def test_a_prompt_is_kept_once_and_columns_are_written_again(more: int) -> None:
    """Bytes: transformers' cache has W rows of P + G columns an input, and copies all of them at every step."""
    model = causal("learned positions") if not more else strong("parallel blocks")
    settings = BeamSettings(beams=5, max_new_tokens=12)
    kept: list[TreeCache] = []

    class Watched(BeamSearch):
        def _stepped(self, steps: TreeSteps, cache: TreeCache) -> Iterator[Best]:
            kept.append(cache)
            return super()._stepped(steps, cache)

    prompt = prompts(30)[0]
    list(Watched(model, settings, 1).run([prompt]))
    columns = kept[-1].used
    assert columns <= len(prompt) + settings.beams * settings.max_new_tokens
    assert columns < settings.beams * (len(prompt) + settings.max_new_tokens)


def test_a_column_that_no_beam_sees_is_written_anew() -> None:
    cache = TreeCache(1, 2, 8, torch.device("cpu"))
    cache.lengths = [3]
    cache._paths[0, :, :3] = torch.arange(3)
    cache.open_columns()
    assert cache.written.tolist() == [[3, 4]]
    assert cache.mask()[0, 0].tolist() == [[True, True, True, True, False], [True, True, True, False, True]]
    cache.follow(0, torch.tensor([1, 1]))
    cache.open_columns()
    assert cache.written.tolist() == [[3, 5]]
    assert cache.mask()[0, 0].tolist() == [[True] * 5 + [False], [True, True, True, False, True, True]]
    assert cache.mask(window=2)[0, 0].tolist() == [[False] * 3 + [True, True, False], [False] * 4 + [True, True]]
    assert [each.tolist() for each in cache.paths()] == [[0, 0], [[0, 1, 2, 4, 3], [0, 1, 2, 4, 5]], [5, 5]]


def test_more_columns_are_taken_when_none_is_free() -> None:
    cache = TreeCache(1, 3, 4, torch.device("cpu"))
    cache.lengths = [3]
    cache._paths[0, :, :3] = torch.arange(3)
    cache.open_columns()
    assert cache.columns == 4 + GROWTH
    assert cache.written.tolist() == [[3, 4, 5]]


def test_no_hypothesis_repeats_what_may_not_be_repeated() -> None:
    model = strong("llama")
    settings = BeamSettings(beams=4, max_new_tokens=NEW, no_repeat_ngram=2)
    for best in BeamSearch(model, settings, 3).run(prompts(*LENGTHS)):
        pairs = list(zip(best.ids, best.ids[1:], strict=False))
        assert len(set(pairs)) == len(pairs)


def test_a_text_may_end_a_hypothesis() -> None:
    model = strong("llama")
    (free,) = BeamSearch(model, BeamSettings(beams=3, max_new_tokens=NEW), 1).run(prompts(5))
    ended = BeamSettings(beams=3, max_new_tokens=NEW, is_ended=lambda ids: len(ids) == 4, length_penalty=0)
    (found,) = BeamSearch(model, ended, 1).run(prompts(5))
    assert len(free.ids) == NEW
    assert len(found.ids) == 4


def test_fewer_tokens_than_continuations_are_enough() -> None:
    p_WV = torch.tensor([[0.69, 0.21, 0.10], [0.51, 0.31, 0.18]])
    scores, beams, tokens = best_continuations(p_WV.log(), torch.zeros(2), torch.zeros(2), 6)
    assert list(zip(beams.tolist(), tokens.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 1), (0, 1), (1, 2), (0, 2)]
    assert scores.exp().tolist() == pytest.approx([0.69, 0.51, 0.31, 0.21, 0.18, 0.10])


def test_the_input_is_done_when_no_better_can_come() -> None:
    settings = BeamSettings(beams=2, max_new_tokens=9, length_penalty=1.0, ends=frozenset({1}))
    hypotheses = Hypotheses(settings, torch.device("cpu"))
    hypotheses.extend(torch.tensor([-1.0, -2.0, -3.0, -4.0]), torch.tensor([0, 0, 0, 0]), torch.tensor([1, 5, 6, 7]))
    assert not hypotheses.is_done
    assert hypotheses.last == [5, 6]
    hypotheses.extend(torch.tensor([-2.5, -2.6, -9.0, -9.5]), torch.tensor([1, 0, 0, 1]), torch.tensor([1, 1, 8, 9]))
    assert hypotheses.is_done
    assert hypotheses.best == (-1.0, [1])


def test_scores_that_are_no_numbers_are_an_error() -> None:
    model = causal("llama")
    model.lm_head.weight.data[:] = float("nan")
    with pytest.raises(NumericsError, match=r"prompt 1: .* no numbers"):
        list(BeamSearch(model, BeamSettings(beams=2, max_new_tokens=3), 1).run(prompts(4)))


def test_what_a_mask_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match="BloomForCausalLM: a beam search of our own does not fit it"):
        refuse_unsearchable(causal("distances (ALiBi)"))
    model = causal("some windows")
    model.config.layer_types = ["full_attention", "chunked_attention", "full_attention"]
    with pytest.raises(SpecError, match="layers of the kinds chunked_attention"):
        refuse_unsearchable(model)
