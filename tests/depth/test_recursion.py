"""Recursion against a loop written out with its detach, deep supervision against one slot at a time."""

import copy
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.cost import count
from dynlib.data.puzzles import sudoku
from dynlib.deciding import record, setting
from dynlib.depth.recursion import RecursiveBlock, Solved, TinyRecursiveModel
from dynlib.depth.supervision import (
    EMA,
    Slots,
    Supervision,
    deep_supervision,
    empty_slots,
    stablemax,
    stablemax_cross_entropy,
)
from dynlib.training import train

VOCABULARY, LENGTH, DIM = 5, 6, 8
EXACT = {"rtol": 0, "atol": 1e-9}  # for float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(*, seed: int = 0, **changes) -> TinyRecursiveModel:
    torch.manual_seed(seed)
    sizes = {"vocabulary": VOCABULARY, "length": LENGTH, "dim": DIM, "heads": 2, "hidden": 12, "n": 2, "T": 2}
    model = TinyRecursiveModel(**(sizes | {"steps": 4} | changes)).double()
    nn.init.normal_(model.halting_head.weight, std=0.5)  # so that q differs from puzzle to puzzle
    nn.init.zeros_(model.halting_head.bias)
    return model


def puzzles(batch: int = 5, *, seed: int = 1) -> Tensor:
    return torch.randint(VOCABULARY, (batch, LENGTH), generator=seeded(seed))


def stream(seed: int = 2):
    """New puzzles for halted slots, and a list of how many were asked for."""
    generator, asked = seeded(seed), []

    def fresh(number: int) -> tuple[Tensor, Tensor]:
        asked.append(number)
        return tuple(torch.randint(VOCABULARY, (2, number, LENGTH), generator=generator))

    return fresh, asked


def gradients(model: nn.Module) -> list[Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def calls_of(model: TinyRecursiveModel) -> list[bool]:
    """Fills with one entry for each call of the network: whether it had a graph."""
    calls: list[bool] = []
    model.net.register_forward_hook(lambda _, __, out: calls.append(out.requires_grad))
    return calls


def written_out(model: TinyRecursiveModel, x: Tensor, y: Tensor, z: Tensor, n: int, T: int, graph: int):
    """One step, call by call, detached before the last ``graph`` of them."""
    plan = (["z"] * n + ["y"]) * T
    for number, which in enumerate(plan):
        if number == len(plan) - graph:
            y, z = y.detach(), z.detach()
        if which == "z":
            z = model.net((x if number >= len(plan) - graph else x.detach()) + y + z)
        else:
            y = model.net(y + z)
    return y, z, model.output_head(y), model.halting_head(y.mean(1))[:, 0]


# One step


@pytest.mark.parametrize(("T", "n"), [(3, 6), (1, 1), (2, 4), (4, 1)])
def test_a_step_has_exactly_its_network_calls_and_the_last_recursion_a_graph(T, n):
    model = make(T=T, n=n)
    calls = calls_of(model)
    x = model.embed(puzzles())
    model.deep_recursion(x, *model.start(x))
    assert calls == [False] * ((T - 1) * (n + 1)) + [True] * (n + 1)
    if (T, n) == (3, 6):
        assert (calls.count(False), calls.count(True)) == (14, 7)


def test_numbers_at_the_call_take_the_place_of_the_models():
    model = make(T=1, n=1)
    calls = calls_of(model)
    x = model.embed(puzzles())
    model.deep_recursion(x, *model.start(x), n=6, T=3)
    model.latent_recursion(x, *model.start(x), n=3)
    assert len(calls) == 21 + 4


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
@pytest.mark.parametrize(("T", "n", "gradient"), [(3, 2, None), (1, 3, None), (2, 3, 1), (2, 3, 2), (3, 3, 4)])
def test_values_and_gradients_are_those_of_a_manual_detach(mixer, T, n, gradient):
    model, given = make(T=T, n=n, gradient=gradient, mixer=mixer), puzzles()
    y, z = (torch.randn(5, LENGTH, DIM, dtype=torch.float64, generator=seeded(seed)) for seed in (3, 4))
    weight = torch.randn(5, LENGTH, VOCABULARY, dtype=torch.float64, generator=seeded(5))
    (new_y, new_z), logits, q = model.deep_recursion(model.embed(given), y, z)
    ((logits * weight).sum() + q.square().sum()).backward()
    got = gradients(model)
    model.zero_grad()
    expected = written_out(model, model.embed(given), y, z, n, T, n + 1 if gradient is None else gradient)
    ((expected[2] * weight).sum() + expected[3].square().sum()).backward()
    for one, other in zip((new_y, new_z, logits, q), expected, strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    for one, other in zip(got, gradients(model), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    assert not new_y.requires_grad
    assert not new_z.requires_grad
    embedding_learns = got[[name for name, _ in model.named_parameters()].index("embedding.weight")].abs().max() > 0
    assert embedding_learns == (gradient != 1)


def graph_size(tensor: Tensor) -> int:
    seen, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting.extend(parent for parent, _ in node.next_functions)
    return len(seen)


def test_more_recursions_and_steps_make_no_larger_graph():
    model, given = make(), puzzles()

    def size(T: int, n: int, steps: int = 1) -> int:
        with setting(model, TinyRecursiveModel, T=T, n=n):
            return graph_size(model(given, steps=steps).sum())

    assert size(2, 2) == size(5, 2) == size(3, 2, steps=4)
    assert size(2, 2) < size(2, 3)


def test_the_cost_of_a_step_is_that_of_its_network_calls():
    model, given = make(T=3, n=2, steps=2), puzzles()
    x = model.embed(given)
    with torch.no_grad():
        one = count(model.net, x).flops
        heads = count(model.output_head, x).flops + count(model.halting_head, x.mean(1)).flops
        assert count(model, given).flops == 2 * (9 * one + heads)


def test_it_starts_unsure_and_with_features_of_size_one():
    torch.manual_seed(0)
    model = TinyRecursiveModel(vocabulary=VOCABULARY, length=LENGTH, dim=64, T=1, n=1)
    x = model.embed(puzzles(200))
    assert 0.85 < x.std() < 1.15
    (y, z), _, q = model.deep_recursion(x, *model.start(x))
    torch.testing.assert_close(q.sigmoid(), torch.full_like(q, 1 / (1 + torch.tensor(5.0).exp().item())))
    for part in (y, z):
        torch.testing.assert_close(part.square().mean(-1), torch.ones_like(part[..., 0]), rtol=0, atol=1e-3)


def test_the_starting_values_are_no_parameters_but_are_kept():
    model = make()
    names = {name for name, _ in model.named_parameters()}
    assert not names & {"y_start", "z_start"}
    assert {"y_start", "z_start"} <= set(model.state_dict())
    assert sum(p.numel() for p in make(T=5, n=9).parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("mixer", ["attention", "mlp"])
def test_every_token_hears_of_every_other_and_no_puzzle_of_another(mixer):
    torch.manual_seed(0)
    block = RecursiveBlock(DIM, 2, length=LENGTH, mixer=mixer).double()
    x = torch.randn(2, LENGTH, DIM, dtype=torch.float64, generator=seeded(1))
    other = x.clone()
    other[0, 2] += 1
    moved = (block(x) != block(other)).any(-1)
    assert moved.tolist() == [[True] * LENGTH, [False] * LENGTH]


# Halting at inference


def alone(model: TinyRecursiveModel, given: Tensor, threshold: float) -> Solved:
    results = []
    for puzzle in given:
        x = model.embed(puzzle[None])
        y, z = model.start(x)
        for step in range(1, model.steps + 1):
            y, z, logits, q = written_out(model, x, y, z, model.n, model.T, model.n + 1)
            if q.item() > threshold or step == model.steps:
                results.append((logits[0].argmax(-1), logits[0], torch.tensor(step), q[0]))
                break
    return Solved(*(torch.stack(part) for part in zip(*results, strict=True)))


def middle(model: TinyRecursiveModel, given: Tensor) -> float:
    """A threshold at which some leave and some do not."""
    q = model.trace(given)[1][1]
    return (q.median() + 1e-6).item()


@pytest.mark.parametrize("execution", ["gathered", "masked"])
@pytest.mark.parametrize("mixer", ["attention", "mlp"])
@torch.no_grad()
def test_every_puzzle_gets_the_steps_that_it_would_get_alone(execution, mixer):
    model, given = make(mixer=mixer, steps=5), puzzles(20)
    threshold = middle(model, given)
    expected = alone(model, given, threshold)
    assert len(expected.steps.unique()) >= 3
    solved = model.predict(given, threshold=threshold, execution=execution)
    assert torch.equal(solved.steps, expected.steps)
    assert torch.equal(solved.answers, expected.answers)
    torch.testing.assert_close(solved.logits, expected.logits, **EXACT)
    torch.testing.assert_close(solved.halting, expected.halting, **EXACT)


@torch.no_grad()
def test_who_has_finished_is_computed_no_more():
    model, given = make(steps=5), puzzles(20)
    sizes = []
    model.net.register_forward_hook(lambda _, args, __: sizes.append(len(args[0])))
    solved = model.predict(given, threshold=middle(model, given))
    sizes = sizes[-int(solved.steps.max()) * 6 :]  # what came before looked for the threshold
    left = [int((solved.steps >= step).sum()) for step in range(1, int(solved.steps.max()) + 1)]
    assert sizes == [size for size in left for _ in range(6)]
    assert sum(left) < 5 * 20


@torch.no_grad()
def test_nobody_leaves_without_a_threshold_and_everybody_below_all_q():
    model, given = make(), puzzles()
    logits, q = model.trace(given)
    for execution in ("gathered", "masked"):
        whole = model.predict(given, threshold=None, execution=execution)
        assert whole.steps.tolist() == [4] * 5
        torch.testing.assert_close(whole.logits, model(given), **EXACT)
        torch.testing.assert_close(whole.logits, logits[-1], **EXACT)
        first = model.predict(given, threshold=q.min().item() - 1, execution=execution)
        assert first.steps.tolist() == [1] * 5
        torch.testing.assert_close(first.logits, logits[0], **EXACT)
        assert model.predict(given, threshold=None, steps=2, execution=execution).steps.tolist() == [2] * 5


@torch.no_grad()
def test_a_larger_threshold_never_takes_fewer_steps():
    model, given = make(steps=6), puzzles(30)
    steps = [model.predict(given, threshold=limit).steps for limit in (-2, -0.5, 0, 0.5, 2)]
    assert all((less <= more).all() for less, more in pairwise(steps))


@pytest.mark.parametrize("rows", [1, LENGTH, 3 * LENGTH + 1, 10_000])
@torch.no_grad()
def test_rows_cut_the_work_and_change_no_result(rows):
    model, given = make(), puzzles(10)
    threshold = middle(model, given)
    for one, other in zip(
        model.predict(given, threshold=threshold, rows=rows), model.predict(given, threshold=threshold), strict=True
    ):
        torch.testing.assert_close(one, other, **EXACT)


@torch.no_grad()
def test_whoever_leaves_makes_room_for_the_next():
    model, given = make(), puzzles(10)
    threshold, seen = middle(model, given), []
    model.output_head.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    solved = model.predict(given, threshold=threshold, rows=4 * LENGTH)
    assert len(solved.steps.unique()) > 1
    assert sum(seen) == solved.steps.sum()
    # four are at work until fewer are left than there is room for
    full = next((call for call, number in enumerate(seen) if number < 4), len(seen))
    assert seen[:full] == [4] * full
    assert full >= (int(solved.steps.sum()) - 3 * model.steps) // 4


# Stablemax


def test_stablemax_is_its_formula_and_sums_to_one():
    x = torch.tensor([[-1e6, -3.0, -1e-9, 0.0, 2.0, 1e6]], dtype=torch.float64)
    s = torch.tensor([[1 / (1 + 1e6), 1 / 4, 1 / (1 + 1e-9), 1.0, 3.0, 1 + 1e6]], dtype=torch.float64)
    torch.testing.assert_close(stablemax(x), s / s.sum(), rtol=1e-12, atol=0)
    many = 10 * torch.randn(50, 7, generator=seeded())
    torch.testing.assert_close(stablemax(many).sum(-1), torch.ones(50))
    assert stablemax(many).dtype == torch.float32


def test_its_cross_entropy_is_minus_the_log_of_the_label():
    logits = 3 * torch.randn(2, 3, 5, dtype=torch.float64, generator=seeded())
    labels = torch.randint(5, (2, 3), generator=seeded())
    losses = stablemax_cross_entropy(logits, labels)
    assert losses.shape == (2, 3)
    for i, j in product(range(2), range(3)):
        assert losses[i, j].item() == pytest.approx(-stablemax(logits)[i, j, labels[i, j]].log().item(), rel=1e-12)


def test_its_gradient_is_right_at_zero_too_and_finite_far_out():
    labels = torch.tensor([1, 0])
    for logits in (torch.zeros(2, 3), torch.tensor([[-2.0, 0.0, 3.0], [0.0, 1e-3, -1e-3]])):
        given = logits.double().requires_grad_()
        assert torch.autograd.gradcheck(lambda given: stablemax_cross_entropy(given, labels), given)
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    stablemax_cross_entropy(zero, labels[:1]).sum().backward()
    torch.testing.assert_close(zero.grad, torch.tensor([[1 / 3, 1 / 3 - 1, 1 / 3]], dtype=torch.float64))
    far = torch.tensor([[1e30, -1e30, 0.0]], requires_grad=True)
    loss = stablemax_cross_entropy(far, labels[:1]).sum()
    loss.backward()
    assert loss.isfinite()
    assert far.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_it_takes_every_number_type(dtype):
    logits = torch.randn(4, 5, generator=seeded()).to(dtype)
    losses = stablemax_cross_entropy(logits, torch.arange(4))
    assert losses.dtype == torch.promote_types(dtype, torch.float32)
    exact = stablemax_cross_entropy(logits.double(), torch.arange(4))
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=0)


# Deep supervision


def reference(model: TinyRecursiveModel, slots: Slots) -> Tensor:
    """The loss of slots that have not halted, slot by slot."""
    total = torch.zeros((), dtype=torch.float64)
    for slot in range(len(slots.puzzles)):
        one = slice(slot, slot + 1)
        x = model.embed(slots.puzzles[one])
        *_, logits, q = written_out(model, x, slots.y[one], slots.z[one], model.n, model.T, model.n + 1)
        answers = slots.answers[slot]
        p = stablemax(logits[0])[torch.arange(LENGTH), answers]
        right = bool((logits[0].argmax(-1) == answers).all())
        sure = q.sigmoid()[0]
        total = total + (-p.log()).mean() - 0.5 * (sure if right else 1 - sure).log()
    return total / len(slots.puzzles)


def test_the_loss_and_its_gradient_are_those_of_the_formula():
    model, (fresh, asked) = make(), stream()
    slots = deep_supervision(model, empty_slots(model, 6), fresh, explore=0).slots
    slots = slots._replace(halted=torch.zeros(6, dtype=torch.bool), answers=slots.answers.clone())
    logits = written_out(model, model.embed(slots.puzzles), slots.y, slots.z, 2, 2, 3)[2]
    slots.answers[:2] = logits[:2].argmax(-1)  # some are right
    step = deep_supervision(model, slots, fresh)
    step.loss.backward()
    got = gradients(model)
    model.zero_grad()
    expected = reference(model, slots)
    torch.testing.assert_close(step.loss, expected, **EXACT)
    expected.backward()
    for one, other in zip(got, gradients(model), strict=True):
        torch.testing.assert_close(one, other, **EXACT)
    assert step.right.tolist() == [True, True, False, False, False, False]
    assert asked == [6]


def test_state_is_carried_over_steps_until_a_slot_halts():
    model, (fresh, asked) = make(), stream()
    never = model.halting_head
    nn.init.zeros_(never.weight)
    nn.init.constant_(never.bias, -5.0)
    slots = empty_slots(model, 3)
    seen = []
    for _ in range(9):
        step = deep_supervision(model, slots, fresh)
        slots = step.slots
        assert not slots.y.requires_grad
        seen.append((slots.steps.tolist(), slots.halted.tolist()))
    assert seen == [([k] * 3, [k == 4] * 3) for k in (1, 2, 3, 4, 1, 2, 3, 4, 1)]
    assert asked == [3, 3, 3]
    # what was carried is what an uninterrupted run comes to
    with torch.no_grad():
        slots = deep_supervision(model, slots, fresh).slots
        logits, _ = model.trace(slots.puzzles, steps=2)
        torch.testing.assert_close(model.output_head(slots.y), logits[-1], **EXACT)


def test_halted_slots_carry_nothing_over():
    model = make()
    given, answers = puzzles(4), puzzles(4, seed=7)
    halted = torch.tensor([True, False, True, False])
    base = deep_supervision(model, empty_slots(model, 4), stream()[0]).slots._replace(halted=halted)
    dirty = base._replace(
        y=torch.where(halted[:, None, None], torch.nan, base.y),
        z=torch.where(halted[:, None, None], 1e9, base.z),
        puzzles=torch.where(halted[:, None], 0, base.puzzles),
        answers=torch.where(halted[:, None], 1, base.answers),
        steps=torch.where(halted, 3, base.steps),
    )
    one, other = (
        deep_supervision(model, slots, lambda number: (given[:number], answers[:number]), generator=seeded())
        for slots in (base, dirty)
    )
    assert torch.equal(one.loss, other.loss)
    for left, right in zip(one.slots, other.slots, strict=True):
        assert torch.equal(left, right)
    assert torch.equal(one.slots.puzzles[halted], given[:2])
    assert torch.equal(one.slots.answers[halted], answers[:2])
    assert torch.equal(one.slots.puzzles[~halted], base.puzzles[~halted])
    assert one.slots.steps.tolist() == [1, 2, 1, 2]
    # and a refilled slot is one that begins
    begun = deep_supervision(model, empty_slots(model, 2), lambda number: (given[:number], answers[:number]))
    torch.testing.assert_close(one.slots.y[halted], begun.slots.y, **EXACT)


def test_a_slot_halts_when_the_model_is_sure():
    model = make()
    before = deep_supervision(model, empty_slots(model, 40), stream()[0], explore=0).halting
    with torch.no_grad():
        model.halting_head.bias -= before.median()  # so that it is sure of about half
    step = deep_supervision(model, empty_slots(model, 40), stream()[0], explore=0)
    assert step.slots.halted.tolist() == (step.halting > 0).tolist()
    assert 0 < step.slots.halted.sum() < 40


@torch.no_grad()
def test_a_share_of_the_slots_goes_on_although_the_model_is_sure():
    slots, sure = 4000, make(n=1, T=1)
    nn.init.zeros_(sure.halting_head.weight)
    nn.init.constant_(sure.halting_head.bias, 5.0)
    now = deep_supervision(sure, empty_slots(sure, slots), stream()[0], explore=0).slots
    assert now.halted.all()
    now = now._replace(halted=torch.zeros_like(now.halted))
    # of 30 % of the slots a least number of steps is drawn from 2, 3, 4
    for steps, going in ((1, 0.3), (2, 0.2), (3, 0.1), (4, 0.0)):
        before = now._replace(steps=torch.full_like(now.steps, steps - 1))
        after = deep_supervision(sure, before, stream()[0], explore=0.3, generator=seeded(steps)).slots
        share = (~after.halted).double().mean().item()
        # 6 standard errors: a false alarm in 2e-9 of shares
        assert abs(share - going) <= 6 * (going * (1 - going) / slots) ** 0.5


def test_one_step_in_all_needs_no_exploring():
    model, (fresh, asked) = make(steps=1), stream()
    for _ in range(2):
        slots = deep_supervision(model, empty_slots(model, 3), fresh, explore=1).slots
        assert slots.halted.all()
    assert asked == [3, 3]


def test_another_loss_may_take_the_place_of_the_stablemax():
    model, (fresh, _) = make(), stream()
    step = deep_supervision(
        model,
        empty_slots(model, 3),
        fresh,
        halting_weight=0,
        loss=lambda logits, answers: F.cross_entropy(logits.transpose(1, 2), answers, reduction="none"),
    )
    logits = model(step.slots.puzzles, steps=1)
    torch.testing.assert_close(step.loss, F.cross_entropy(logits.flatten(0, 1), step.slots.answers.flatten()), **EXACT)


def test_a_hundred_steps_learn_four_puzzles_by_heart():
    torch.manual_seed(0)
    four = sudoku(4, clues=8)
    given, answers = four.givens.flatten(1), four.solutions.flatten(1)
    model = TinyRecursiveModel(vocabulary=5, length=16, dim=32, heads=2, mixer="mlp", n=2, T=2, steps=3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    slots, losses, next_one = empty_slots(model, 4), [], 0

    def fresh(number: int) -> tuple[Tensor, Tensor]:
        nonlocal next_one
        which = (torch.arange(number) + next_one) % 4
        next_one += number
        return given[which], answers[which]

    for step in range(100):
        result = deep_supervision(model, slots, fresh, generator=seeded(step))
        optimizer.zero_grad()
        result.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        slots = result.slots
        losses.append(result.loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert (model.predict(given, threshold=None).answers == answers).float().mean() > 0.95
    assert next_one > 4 * 100 / 3  # sure of it, it halts before its last step


# The moving average


def learner(seed: int = 0) -> Supervision:
    generator = seeded(3)
    drawn = torch.randint(VOCABULARY, (2, 40, LENGTH), generator=generator)

    def fresh(number: int) -> tuple[Tensor, Tensor]:
        some = torch.randint(40, (number,))
        return drawn[0, some], drawn[1, some]

    model = make(seed=seed)
    torch.manual_seed(7)
    return Supervision(model, 5, fresh, decay=0.8, explore=0.5)


LEARNING = {"steps": 9, "lr": 0.02, "weight_decay": 0.1, "progress": False, "every": 4}


def test_a_training_is_the_loop_written_out():
    whole, by_hand = learner(), learner()
    torch.manual_seed(5)
    history = train(whole, whole.loss, after=whole.follow, **LEARNING)

    model, ema, slots = by_hand.model, EMA(by_hand.model, 0.8), empty_slots(by_hand.model, 5)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )
    torch.manual_seed(5)
    for rate, loss in zip(history.rates, history.losses, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        result = deep_supervision(model, slots, by_hand.fresh, explore=0.5)
        assert result.loss.item() == pytest.approx(loss, abs=1e-12)
        optimizer.zero_grad()
        result.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
        slots = result.slots
    for ours, theirs in zip(whole.slots, slots, strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(whole.average.parameters(), ema.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)
    assert not whole.average.training
    assert not any(weight.requires_grad for weight in whole.average.parameters())


@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_training_that_was_interrupted_goes_on_with_its_slots_and_its_average(tmp_path, at):
    whole = learner()
    torch.manual_seed(5)
    train(whole, whole.loss, after=whole.follow, **LEARNING)

    part = learner()

    def dies(step):
        loss = part.loss(step)  # the step's puzzles are drawn, and its slots stand ready
        if step == at:
            raise KeyboardInterrupt
        return loss

    torch.manual_seed(5)
    with pytest.raises(KeyboardInterrupt):
        train(part, dies, after=part.follow, checkpoint=tmp_path / "run.pt", **LEARNING)
    resumed = learner(seed=1)
    train(resumed, resumed.loss, after=resumed.follow, checkpoint=tmp_path / "run.pt", **LEARNING)
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_the_slots_move_on_only_with_the_weights():
    training = learner()
    before = [part.clone() for part in training.slots]
    losses = []
    for _ in range(2):
        torch.manual_seed(5)
        losses.append(training.loss(0).item())
        assert all(map(torch.equal, training.slots, before))
    assert losses[0] == losses[1]
    training.follow(0)
    assert training.slots.steps.tolist() == [1] * 5
    training.follow(1)  # nothing was computed since
    assert training.slots.steps.tolist() == [1] * 5


def test_the_average_is_its_formula():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).double()
    ema = EMA(model, decay=0.9)
    expected = [p.detach().clone() for p in model.parameters()]
    for _ in range(5):
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        model(torch.randn(3, 2, dtype=torch.float64))
        ema.update(model)
        expected = [0.9 * mean + 0.1 * p.detach() for mean, p in zip(expected, model.parameters(), strict=True)]
    for mean, average in zip(expected, ema.model.parameters(), strict=True):
        torch.testing.assert_close(average, mean, **EXACT)
        assert not average.requires_grad
    assert torch.equal(ema.model[1].running_mean, model[1].running_mean)
    assert ema.model[1].num_batches_tracked == 5
    assert not ema.model.training
    assert model.training


def test_the_average_is_a_copy_and_without_decay_the_model():
    model = make()
    before = copy.deepcopy(model)
    ema = EMA(model, decay=0)
    nn.init.normal_(model.net[0].feed_forward.expand.weight)
    assert torch.equal(ema.model(puzzles()), before(puzzles()))
    ema.update(model)
    assert torch.equal(ema.model(puzzles()), model(puzzles()))
    assert ema.model is not model


# Knobs and records


def test_the_knobs_are_set_checked_and_put_back():
    model, given = make(), puzzles()
    calls = calls_of(model)
    with setting(model, TinyRecursiveModel, steps=3, T=1, n=5):
        model.predict(given, threshold=None)
    assert len(calls) == 3 * 6
    assert (model.steps, model.T, model.n) == (4, 2, 2)
    for knob in ("steps", "T", "n"):
        with (
            pytest.raises(ValueError, match=f"{knob} must be at least 1; got 0"),
            setting(model, TinyRecursiveModel, **{knob: 0}),
        ):
            pass
        setattr(model, knob, 0)
        with pytest.raises(ValueError, match=f"{knob} must be at least 1; got 0"):
            model.predict(given)
        setattr(model, knob, 2)


def test_the_record_is_what_came_out():
    model = nn.ModuleDict({"solver": make()})
    with record(model, TinyRecursiveModel) as records:
        solved = model["solver"].predict(puzzles())
        model["solver"].predict(puzzles(), execution="masked")
    assert list(records) == ["solver"]
    assert records["solver"][0] is solved
    assert len(records["solver"]) == 2


def test_inputs_are_left_alone():
    model, given = make(), puzzles()
    before, start = given.clone(), model.y_start.clone()
    slots = empty_slots(model, 5)
    kept = [part.clone() for part in slots]
    model.predict(given)
    deep_supervision(model, slots, lambda number: (given[:number], given[:number])).loss.backward()
    assert torch.equal(given, before)
    assert torch.equal(model.y_start, start)
    assert all(torch.equal(one, other) for one, other in zip(slots, kept, strict=True))


# Bad input


def supervised(fresh=None, **changes):
    model = make()
    return deep_supervision(model, empty_slots(model, 3), fresh or stream()[0], **changes)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: make(T=0), ValueError, "T must be at least 1; got 0"),
        (lambda: make(n=0), ValueError, "n must be at least 1; got 0"),
        (lambda: make(steps=0), ValueError, "steps must be at least 1; got 0"),
        (lambda: make(T=1.5), TypeError, "T must be an int; got 1.5"),
        (lambda: make(depth=0), ValueError, "depth must be at least 1; got 0"),
        (lambda: make(length=0), ValueError, "length must be at least 1; got 0"),
        (lambda: make(gradient=4), ValueError, "gradient must be 1 … 3 network calls; got 4"),
        (lambda: make(gradient=0), ValueError, "gradient must be 1 … 3 network calls; got 0"),
        (lambda: make(mixer="conv"), ValueError, "mixer must be 'attention' or 'mlp'; got 'conv'"),
        (lambda: make()(puzzles() + 1), ValueError, "puzzles must lie in 0 … 4; got 1 … 5"),
        (lambda: make()(puzzles() - 1), ValueError, "puzzles must lie in 0 … 4; got -1"),
        (lambda: make()(puzzles()[:, :4]), ValueError, r"must be \[batch, 6\], at least one; got \(5, 4\): .flatten"),
        (lambda: make()(puzzles()[:0]), ValueError, r"got \(0, 6\)"),
        (lambda: make()(puzzles().float()), TypeError, "puzzles must be int64 or int32; got torch.float32"),
        (lambda: make()([[1]]), TypeError, "the puzzles must be a tensor; got list"),
        (lambda: make()(puzzles(), steps=0), ValueError, "steps must be at least 1; got 0"),
        (lambda: make().predict(puzzles(), threshold=float("nan")), ValueError, "threshold must be finite; got nan"),
        (lambda: make().predict(puzzles(), threshold="0"), TypeError, "threshold must be a number"),
        (lambda: make().predict(puzzles(), execution="fused"), ValueError, "'gathered' or 'masked'; got 'fused'"),
        (lambda: make().predict(puzzles(), rows=0), ValueError, "rows must be at least 1 tokens; got 0"),
        (lambda: make().predict(puzzles(), rows=6, execution="masked"), ValueError, "leave rows out"),
        (lambda: supervised(explore=1.1), ValueError, "explore must be 0 … 1; got 1.1"),
        (lambda: supervised(halting_weight=-1), ValueError, "halting_weight must be at least 0 and finite; got -1"),
        (lambda: supervised(lambda number: (puzzles(9),) * 2), ValueError, r"asked for 3 new puzzles of 6 .* \(9, 6\)"),
        (lambda: supervised(lambda number: (puzzles(3), puzzles(3) + 1)), ValueError, "labels must be 0 … 4; got 1 …"),
        (lambda: empty_slots(make(), 0), ValueError, "batch must be at least 1; got 0"),
        (lambda: stablemax_cross_entropy(torch.ones(2, 3), torch.ones(2)), TypeError, "labels must be int64"),
        (lambda: stablemax_cross_entropy(torch.ones(2, 3), torch.ones(3).long()), ValueError, "one label for every"),
        (lambda: stablemax_cross_entropy(torch.ones(2, 3).int(), torch.ones(2).long()), TypeError, "need float16"),
        (lambda: EMA(make(), decay=1), ValueError, "decay must be below 1; with 1 the average never moves"),
        (lambda: EMA(make(), decay=-0.1), ValueError, "decay must be 0 … 1; got -0.1"),
        (lambda: EMA(make()).update(make(vocabulary=6)), ValueError, "other weights .* make a new EMA"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()


@pytest.mark.parametrize("execution", ["gathered", "masked"])
def test_broken_weights_are_named(execution):
    model = make()
    nn.init.constant_(model.halting_head.weight, torch.nan)
    with pytest.raises(ValueError, match="a q is NaN"):
        model.predict(puzzles(), execution=execution)
