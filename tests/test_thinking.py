"""The study of thinking: its sums, its lessons, what a budget forces, and its file."""

import json

import pytest
import torch
from torch import Tensor, nn

import benchmarks.thinking_study as study
from dynlib.backbone import CausalLM


def sums(number: int, *, seed: int = 0) -> study.Problems:
    return study.problems(number, torch.Generator().manual_seed(seed))


def test_a_prompt_holds_the_terms_blanks_and_the_start_and_the_answer_is_their_sum() -> None:
    given = sums(60)
    for row, (prompt, right) in enumerate(zip(given.prompt.tolist(), given.right.tolist(), strict=True)):
        *slots, start = prompt
        terms = [slot - study.TERM for slot in slots if slot != study.BLANK]
        assert len(terms) == given.number[row] == len(set(terms))
        assert all(0 <= term < study.MODULUS for term in terms)
        assert sorted(given.order[row, : len(terms)].tolist()) == sorted(terms)
        assert (start + sum(terms)) % study.MODULUS == right
    assert set(given.number.tolist()) == set(range(1, study.MOST + 1))


def follows(may: Tensor) -> set[int]:
    """The tokens that may follow, which must all have the same share of 1."""
    tokens = may.nonzero()[:, 0]
    assert not len(tokens) or torch.allclose(may[tokens], torch.tensor(1 / len(tokens)))
    return set(tokens.tolist())


def test_before_each_thought_all_terms_that_are_left_may_follow_and_after_it_the_one_value() -> None:
    given = sums(20)
    thoughts = torch.minimum(torch.arange(20) % (study.MOST + 1), given.number)
    text, may = study.lesson(given, thoughts, "thoughts")
    for row, number in enumerate(thoughts.tolist()):
        said = text[row, study.MOST + 1 :].tolist()
        left = {term - study.TERM for term in given.prompt[row, :-1].tolist() if term != study.BLANK}
        value = given.prompt[row, -1].item()
        for thought in range(number):
            assert follows(may[row, 2 * thought]) == {study.TAKEN + term for term in left}
            term = said[2 * thought] - study.TAKEN
            left.remove(term)
            value = (value + term) % study.MODULUS
            assert said[2 * thought + 1] == value
            assert follows(may[row, 2 * thought + 1]) == {value}
        assert said[2 * number] == study.DONE
        assert follows(may[row, 2 * number]) == (set() if left else {study.DONE}), "nobody learns to give up"
        assert follows(may[row, 2 * number + 1]) == {given.right[row].item()}
        assert not may[row, 2 * number + 2 :].any()


@pytest.mark.parametrize("arm", ["pauses", "direct"])
def test_rivals_are_asked_for_the_answer_alone(arm: str) -> None:
    given = sums(20)
    thoughts = torch.zeros_like(given.number) if arm == "direct" else given.number
    text, may = study.lesson(given, thoughts, arm)
    after = text[:, study.MOST + 1 :]
    place = torch.arange(after.shape[1])
    assert (after[place < 2 * thoughts[:, None]] == study.PAUSE).all()
    assert (after.gather(1, 2 * thoughts[:, None]) == study.DONE).all()
    assert may.sum((1, 2)).eq(1).all()
    assert torch.equal(may[torch.arange(20), 2 * thoughts + 1].argmax(-1), given.right)
    assert text.shape[1] == study.MOST + 2 * int(thoughts.max()) + 2, "nothing is read for nothing"


class Thinker(nn.Module):
    """Thinks as it should, and answers with the last value that it wrote; it takes the whole text from its cache."""

    def new_cache(self) -> list[Tensor]:
        return []

    def forward(self, tokens: Tensor, cache: list[Tensor]) -> Tensor:
        cache.append(tokens)
        logits = torch.zeros(len(tokens), tokens.shape[1], study.VOCABULARY)
        for row, text in enumerate(torch.cat(cache, dim=1).tolist()):
            taken = {token - study.TAKEN for token in text if study.TAKEN <= token < study.BLANK}
            left = {token - study.TERM for token in text if study.TERM <= token < study.TAKEN} - taken
            values = [token for token in text if token < study.MODULUS]
            said = values[-1] if text[-1] == study.DONE else study.TAKEN + min(left) if left else study.DONE
            if study.TAKEN <= text[-1] < study.BLANK:
                said = (values[-1] + text[-1] - study.TAKEN) % study.MODULUS
            logits[row, -1, said] = 1
        return logits


@pytest.mark.parametrize("budget", [0, 1, 3, study.MOST])
def test_a_budget_ends_the_thinking_and_nobody_thinks_longer_than_needed(budget: int) -> None:
    given = sums(40)
    told, had = study.answer(Thinker(), given, budget)  # type: ignore[arg-type]
    assert torch.equal(had, given.number.clamp(max=budget))
    enough = given.number <= budget
    assert torch.equal(told[enough], given.right[enough])
    if budget == 0:
        assert torch.equal(told, given.prompt[:, -1])


def test_pauses_are_as_many_tokens_and_say_nothing() -> None:
    read: list[Tensor] = []

    class Listener(CausalLM):
        def forward(self, tokens: Tensor, **rest: object) -> Tensor:
            read.append(tokens)
            return super().forward(tokens, **rest)  # type: ignore[arg-type]

    given, budget = sums(30), 2
    model = Listener(vocabulary=study.VOCABULARY, **study.SIZES["small"])
    with torch.no_grad():
        _, had = study.answer(model, given, budget, pauses=True)
    assert torch.equal(had, given.number.clamp(max=budget))
    after = torch.cat(read[1:], dim=1)
    for row, thoughts in enumerate(had.tolist()):
        assert after[row, : 2 * thoughts + 1].tolist() == [study.PAUSE] * 2 * thoughts + [study.DONE]


def test_what_the_cache_gives_is_what_the_whole_text_gives() -> None:
    torch.manual_seed(0)
    given, model = sums(8), CausalLM(vocabulary=study.VOCABULARY, **study.SIZES["small"]).double()
    text, _ = study.lesson(given, torch.zeros_like(given.number), "direct")
    told, _ = study.answer(model, given, 0)
    assert torch.equal(told, model(text)[:, -1].argmax(-1))


def test_votes_share_their_prompt_and_without_thoughts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TESTED", 8)
    monkeypatch.setattr(study, "MOST", 2)
    monkeypatch.setattr(study, "VOTES", (1, 3))
    torch.manual_seed(0)
    model = CausalLM(vocabulary=study.VOCABULARY, **study.SIZES["small"]).eval()
    rows = {(row["thinking"], row["votes"]): row for row in study.measure(model, "thoughts")}
    assert set(rows) == {(budget, votes) for budget in range(3) for votes in (1, 3)}
    assert rows[2, 1]["flops"] < rows[2, 3]["flops"] < 3 * rows[2, 1]["flops"]
    assert rows[0, 3]["flops"] == rows[0, 1]["flops"]
    assert [row["votes"] for row in study.measure(model, "pauses")] == [1] * 3
    assert [row["thinking"] for row in study.measure(model, "direct")] == [0]


def test_the_file_holds_all_rows_of_its_seeds() -> None:
    made = json.loads(study.RESULTS.with_name("thinking_study.json").read_text(encoding="utf-8"))
    seeds = {row["seed"] for row in made["runs"]}
    assert len(seeds) >= 3
    for seed in seeds:
        for size in study.SIZES:
            for arm in study.ARMS:
                budgets = range(1 if arm == "direct" else study.MOST + 1)
                votes = study.VOTES if arm == "thoughts" else (1,)
                rows = [r for r in made["runs"] if (r["seed"], r["size"], r["arm"]) == (seed, size, arm)]
                assert [(r["thinking"], r["votes"]) for r in rows] == [(t, v) for t in budgets for v in votes]
