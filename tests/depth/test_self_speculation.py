"""Self-speculative decoding writes what the whole model writes: the same text, or the same law."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynlib import zoo
from dynlib.backbone import CausalLM, LayerCache
from dynlib.data import encode, text, windows
from dynlib.depth.self_speculation import self_speculative_generate, verify_greedy, verify_sampled
from dynlib.tokens import MixtureOfDepths


def make_lm(
    *, depth: int = 4, vocabulary: int = 7, seed: int = 0, std: float = 1.0, embedding: float = 1.0
) -> CausalLM:
    """In float64, so that rounding decides nothing; no biases, or one token would be the answer to everything."""
    torch.manual_seed(seed)
    model = CausalLM(vocabulary=vocabulary, dim=16, depth=depth, heads=2).double()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, float("norm" in name and "weight" in name))
        else:
            nn.init.normal_(parameter, std=std)
    nn.init.normal_(model.embedding.weight, std=embedding)
    return model.eval()


def prompts(batch: int, length: int, vocabulary: int = 7) -> Tensor:
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(batch + length))


# Greedy


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("draft_layers", "draft_tokens"), [(1, 1), (1, 3), (2, 2), (3, 5), (4, 3)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_text_is_that_of_the_whole_model(seed: int, draft_layers: int, draft_tokens: int, batch: int) -> None:
    model, prompt = make_lm(seed=seed), prompts(batch, 5)
    full = model.generate(prompt, 17)
    got = self_speculative_generate(model, prompt, 17, draft_layers=draft_layers, draft_tokens=draft_tokens)
    assert torch.equal(got.tokens, full)
    assert int((got.kept + 1).sum()) == 16, "the first new token comes from the prompt's pass"
    assert bool((got.kept <= got.drafted).all())
    assert int(got.drafted.max()) <= draft_tokens


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_text_is_that_of_the_trained_model_in_every_mode(mode: Any) -> None:
    model = zoo.load("topics_exits")
    prompt = windows(encode(text("test")), 1, 40, generator=torch.Generator().manual_seed(1))
    with mode():
        got = self_speculative_generate(model, prompt, 30, draft_layers=1, draft_tokens=3)
        assert torch.equal(got.tokens, model.generate(prompt, 30))
    assert float(got.kept.double().mean()) > 0.8, "trained with exits, the first layer is often right"


def test_drafts_are_kept_and_thrown_away_in_the_tests_above() -> None:
    kept = [
        self_speculative_generate(make_lm(seed=s), prompts(1, 5), 17, draft_layers=2, draft_tokens=2) for s in range(4)
    ]
    counts = torch.cat([result.kept for result in kept])
    assert {0, 1, 2} <= set(counts.tolist())


def test_all_layers_draft_what_all_layers_keep() -> None:
    got = self_speculative_generate(make_lm(), prompts(2, 3), 13, draft_layers=4, draft_tokens=3)
    assert torch.equal(got.kept, got.drafted)
    assert got.drafted.tolist() == [3, 3, 3], "13 new tokens: one from the prompt, then three cycles of four"


def test_prompts_filled_up_on_the_left_go_on_as_each_would_alone() -> None:
    model, short, long = make_lm(seed=2), prompts(1, 3), prompts(1, 6)
    together = torch.cat([torch.cat([torch.zeros(1, 3, dtype=torch.int64), short], 1), long])
    there = torch.tensor([[False] * 3 + [True] * 3, [True] * 6])
    got = self_speculative_generate(model, together, 9, draft_layers=2, draft_tokens=2, key_mask=there).tokens
    for row, alone in zip(got, (short, long), strict=True):
        assert torch.equal(row[-9:], model.generate(alone, 9)[0, -9:])
    places = torch.where(there, there.cumsum(1) - 1, -1)
    by_place = self_speculative_generate(model, together, 9, draft_layers=2, draft_tokens=2, positions=places).tokens
    assert torch.equal(by_place, got)


def test_without_rolling_the_caches_back_the_text_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = make_lm(seed=1), prompts(1, 5)
    full = model.generate(prompt, 17)
    monkeypatch.setattr(LayerCache, "truncate", lambda self, length: None)
    got = self_speculative_generate(model, prompt, 17, draft_layers=1, draft_tokens=3).tokens
    assert not torch.equal(got, full)


def test_the_states_of_the_draft_are_used_again() -> None:
    model, prompt, calls = make_lm(depth=4), prompts(1, 5), [0] * 4
    for number, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, number=number: calls.__setitem__(number, calls[number] + 1))
    got = self_speculative_generate(model, prompt, 20, draft_layers=2, draft_tokens=3)
    cycles, drafts = len(got.drafted), int(got.drafted.sum())
    assert calls == [1 + drafts + cycles] * 2 + [1 + cycles] * 2


# Sampling


@torch.no_grad()
def exact_law(model: CausalLM, prompt: Tensor, new: int, temperature: float) -> Tensor:
    """Probability of every continuation, by enumeration."""
    vocabulary = model.vocabulary
    every = torch.tensor(list(itertools.product(range(vocabulary), repeat=new)))
    whole = torch.cat([prompt.expand(len(every), -1), every], dim=1)
    laws = (model(whole) / temperature).log_softmax(-1)[:, prompt.shape[1] - 1 : -1]
    return laws.gather(2, every[..., None]).sum((1, 2)).exp()


@pytest.mark.parametrize(("draft_layers", "draft_tokens", "temperature"), [(1, 2, 1.0), (2, 1, 0.8), (1, 4, 1.5)])
@torch.no_grad()
def test_samples_follow_the_law_of_the_whole_model(draft_layers: int, draft_tokens: int, temperature: float) -> None:
    """χ² over all 27 continuations of 3 tokens, 1,200 draws; a false alarm once in a million."""
    model, prompt, draws = make_lm(vocabulary=3, seed=2, std=0.3, embedding=0.2), prompts(1, 4, 3), 1200
    law = exact_law(model, prompt, 3, temperature)
    torch.testing.assert_close(law.sum(), torch.ones_like(law.sum()))
    generator = torch.Generator().manual_seed(0)
    options: Any = {"draft_layers": draft_layers, "draft_tokens": draft_tokens, "temperature": temperature}
    counts = torch.zeros(27, dtype=torch.float64)
    # A batch keeps as many drafts as its most unlucky sample: small batches, so that long runs are kept too
    for _ in range(draws // 6):
        new = self_speculative_generate(model, prompt.expand(6, -1), 3, generator=generator, **options).tokens[:, -3:]
        counts += torch.bincount(new @ torch.tensor([9, 3, 1]), minlength=27).double()
    statistic = ((counts - draws * law) ** 2 / (draws * law)).sum()
    tail = torch.special.gammaincc(torch.tensor(13.0, dtype=torch.float64), statistic / 2)
    assert float(tail) > 1e-6
    assert float(law.min() * draws) > 5, "enough of each for the test to hold"
    first = exact_law(model, prompt, 1, temperature)
    drafted = (model.readout(model.blocks[0](model.embed(prompt)))[:, -1] / temperature).softmax(-1)
    assert float((first - drafted).abs().sum()) > 0.1, "the draft's law is another, so that there is something to mend"


def test_a_rejected_draft_is_drawn_anew_from_what_is_left_of_the_law() -> None:
    """One draft, 4,000 times: shares within 4 standard errors."""
    q = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    p = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    generator, rows = torch.Generator().manual_seed(0), 4_000
    tally = torch.zeros(3, dtype=torch.float64)
    target = torch.stack([p, torch.full((3,), 1 / 3, dtype=torch.float64)])[None]
    for _ in range(rows):
        draft = torch.multinomial(q, 1, generator=generator)[None]
        keep, after = verify_sampled(draft, [q[None]], target, generator=generator)
        tally[int(draft) if keep else int(after)] += 1
    error = (p * (1 - p) / rows).sqrt()
    assert bool(((tally / rows - p).abs() < 4 * error).all())


def test_equal_laws_keep_every_draft() -> None:
    q = torch.rand(5, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    drafts = torch.multinomial(q.flatten(0, 1), 1).view(5, 4)
    keep, after = verify_sampled(drafts, list(q.unbind(1)), torch.cat([q, q[:, :1]], dim=1))
    assert keep == 4
    assert after.shape == (5,)


def test_the_same_generator_gives_the_same_text() -> None:
    model, prompt = make_lm(), prompts(2, 4)
    texts = [
        self_speculative_generate(
            model,
            prompt,
            12,
            draft_layers=1,
            draft_tokens=3,
            temperature=1.0,
            generator=torch.Generator().manual_seed(seed),
        ).tokens
        for seed in (0, 0, 1)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


# Verification


def test_the_sample_that_keeps_fewest_decides() -> None:
    drafts = torch.tensor([[1, 2, 3], [1, 9, 3]])
    chosen = torch.tensor([[1, 2, 3, 4], [1, 5, 6, 7]])
    keep, after = verify_greedy(drafts, chosen)
    assert keep == 1
    assert after.tolist() == [2, 5], "the first would have kept its draft, which is its own choice"
    assert verify_greedy(drafts[:1], chosen[:1])[0] == 3
    assert verify_greedy(drafts[:, :0], chosen[:, :1])[0] == 0


# Edges


@pytest.mark.parametrize("new_tokens", [0, 1, 2])
def test_few_new_tokens(new_tokens: int) -> None:
    model, prompt = make_lm(), prompts(2, 4)
    got = self_speculative_generate(model, prompt, new_tokens, draft_layers=1, draft_tokens=3)
    assert torch.equal(got.tokens, model.generate(prompt, new_tokens))
    assert got.drafted.dtype == got.kept.dtype == torch.int64


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"draft_layers": 0}, ValueError, "draft_layers"),
        ({"draft_layers": 5}, ValueError, "1 … 4"),
        ({"draft_layers": 1.0}, TypeError, "draft_layers"),
        ({"draft_tokens": 0}, ValueError, "draft_tokens"),
        ({"draft_tokens": True}, TypeError, "draft_tokens"),
        ({"new_tokens": -1}, ValueError, "new_tokens"),
        ({"temperature": float("nan")}, ValueError, "temperature"),
        ({"prompt": torch.zeros(1, 0, dtype=torch.int64)}, ValueError, "at least one token"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], error: type[Exception], says: str) -> None:
    given = {"prompt": prompts(1, 4), "new_tokens": 3, "draft_layers": 1, "draft_tokens": 2} | options
    with pytest.raises(error, match=says):
        self_speculative_generate(make_lm(), given.pop("prompt"), given.pop("new_tokens"), **given)


def test_a_block_that_keeps_only_some_tokens_is_refused() -> None:
    model = make_lm()
    model.blocks[2] = MixtureOfDepths(model.blocks[2], 0.5).double()
    with pytest.raises(TypeError, match=r"layer 3 \(MixtureOfDepths\) keeps \d of 8 tokens"):
        self_speculative_generate(model, prompts(1, 8), 6, draft_layers=1, draft_tokens=2)
