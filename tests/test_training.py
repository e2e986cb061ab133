"""The training loop: it learns, it says when it cannot, and an interruption leaves no trace in the result."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.training import History, learning_rate, train

STEPS = 12


def make_model(seed: int = 0, features: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 8), nn.Dropout(0.3), nn.LayerNorm(8), nn.Linear(8, 2))


def make_loss(
    model: nn.Module, at: int = -1, error: type[BaseException] = KeyboardInterrupt
) -> Callable[[int], Tensor]:
    """A loss by step; at one step it dies, after its dropout has used up random numbers."""

    def loss(step: int) -> Tensor:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        value = F.cross_entropy(model(x), (x[:, 0] > 0).long())
        if step == at:
            raise error
        return value

    return loss


def run(model: nn.Module, loss: Callable[[int], Tensor], **changes: object) -> History:
    settings = {"steps": STEPS, "lr": 0.01, "every": 5, "progress": False}
    return train(model, loss, **(settings | changes))  # type: ignore[arg-type]


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# Learning


def test_a_tiny_problem_is_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model, x, labels = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 3)), torch.randn(24, 8), None
    labels = torch.randint(3, (24,))
    history = train(model, lambda step: F.cross_entropy(model(x), labels), steps=300, lr=0.01, progress=False)
    assert history.losses[0] > 0.5
    assert history.losses[-1] < 0.02
    assert (model(x).argmax(-1) == labels).all()
    assert len(history.losses) == len(history.rates) == 300
    assert history.seconds > 0


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine() -> None:
    rates = [learning_rate(step, steps=20, peak=2.0, warmup=0.2) for step in range(20)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[12] == pytest.approx(1.0)  # half way down
    assert rates[8] == pytest.approx(1 + math.cos(math.pi / 4))
    assert rates[19] == pytest.approx(1 - math.cos(math.pi / 16))
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize("floor", [0.25, 1.0])
def test_the_rate_falls_to_its_floor_and_no_further(floor: float) -> None:
    whole = [learning_rate(step, steps=20, peak=2.0, warmup=0.2) for step in range(20)]
    rates = [learning_rate(step, steps=20, peak=2.0, warmup=0.2, floor=floor) for step in range(20)]
    assert rates[:4] == whole[:4]
    assert rates[4:] == pytest.approx([2 * floor + (1 - floor) * rate for rate in whole[4:]])
    model = make_model()
    history = run(model, make_loss(model), floor=floor)
    assert history.rates == [learning_rate(step, steps=STEPS, peak=0.01, floor=floor) for step in range(STEPS)]


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.05), (7, 0.0), (7, 1.0), (10, 0.5)])
def test_the_rate_reaches_its_peak_and_never_leaves_its_bounds(steps: int, warmup: float) -> None:
    rates = [learning_rate(step, steps=steps, peak=3.0, warmup=warmup) for step in range(steps)]
    assert max(rates) == 3.0
    assert min(rates) > 0


def test_the_history_holds_the_rates_that_were_used() -> None:
    model = make_model()
    history = run(model, make_loss(model), warmup=0.5)
    assert history.rates == [learning_rate(step, steps=STEPS, peak=0.01, warmup=0.5) for step in range(STEPS)]


def test_weight_decay_pulls_at_matrices_and_leaves_vectors_free() -> None:
    model = make_model()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0)
    # a loss without slope: all that moves is what decays
    run(model, lambda step: sum(p.sum() * 0 for p in model.parameters()), weight_decay=0.5, lr=0.1)
    for name, parameter in model.named_parameters():
        expected = 1.0
        if parameter.ndim >= 2:
            for step in range(STEPS):
                expected *= 1 - 0.5 * learning_rate(step, steps=STEPS, peak=0.1)
            assert expected < 0.8
        torch.testing.assert_close(parameter, torch.full_like(parameter, expected), msg=name)


def test_the_gradient_is_clipped_as_a_whole() -> None:
    model = nn.Linear(2, 1)
    seen = []

    def loss(step: int) -> Tensor:
        if step:  # the clipped gradient of the step before is still there
            seen.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm().item())
        return 1000 * model(torch.ones(1, 2)).sum()

    run(model, loss, clip=0.25)
    assert seen == pytest.approx([0.25] * (STEPS - 1), rel=1e-4)


def test_under_one_autocast_around_all_steps_each_step_sees_the_weights_of_the_last() -> None:
    around, within = make_model(), make_model()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        losses = run(around, make_loss(around)).losses

    def loss(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return make_loss(within)(step)

    torch.manual_seed(0)
    assert run(within, loss).losses == losses
    assert same_weights(around, within)


def test_frozen_parameters_stay_as_they_are() -> None:
    model = make_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    moved = model[3].weight.clone()
    run(model, make_loss(model))
    assert torch.equal(model[0].weight, before)
    assert not torch.equal(model[3].weight, moved)


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("ends", ["well", "interrupted", "diverged"])
def test_a_model_trains_in_training_mode_and_gets_its_own_mode_back(ends: str, mode: bool) -> None:
    model = make_model().train(mode)
    modes = []

    def loss(step: int) -> Tensor:
        modes.append(model.training)
        if step == 2 and ends != "well":
            if ends == "interrupted":
                raise KeyboardInterrupt
            return torch.tensor(math.nan)
        return make_loss(model)(step)

    try:
        run(model, loss)
    except (KeyboardInterrupt, FloatingPointError):
        assert ends != "well"
    assert modes
    assert all(modes)
    assert model.training is mode


@pytest.mark.parametrize("outer", [True, False])
def test_a_frozen_part_in_evaluation_mode_stays_in_it(outer: bool) -> None:
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
    model = nn.Sequential(frozen, nn.Dropout(0.5), nn.Linear(4, 2)).train(outer)
    frozen.requires_grad_(False).eval()
    x, seen = torch.randn(8, 4), []
    out, mean = frozen(x), frozen[0].running_mean.clone()

    def loss(step: int) -> Tensor:
        seen.append([module.training for module in model.modules()])
        assert torch.equal(frozen(x), out), "neither dropout nor the statistics of the batch"
        return model(x).square().sum()

    run(model, loss)
    assert seen == [[True, False, False, False, False, True, True]] * STEPS
    assert torch.equal(frozen[0].running_mean, mean)
    assert [module.training for module in model.modules()] == [outer, False, False, False, False, outer, outer]


def test_a_frozen_part_in_training_mode_and_a_part_that_learns_are_put_into_training_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model[1].eval()
    before, seen = [module.training for module in model.modules()], []

    def loss(step: int) -> Tensor:
        seen.append(all(module.training for module in model.modules()))
        return model(torch.ones(2, 4)).square().sum()

    run(model, loss)
    assert all(seen)
    assert [module.training for module in model.modules()] == before


def test_a_part_that_says_so_itself_trains_in_evaluation_mode() -> None:
    class Still(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> nn.Module:
            return super().train(False)

    model, seen = nn.Sequential(nn.Linear(4, 4), Still(4)).eval(), []

    def loss(step: int) -> Tensor:
        seen.append((model.training, model[1].training))
        return model(torch.ones(2, 4)).square().sum()

    run(model, loss)
    assert set(seen) == {(True, False)}


# Interruption


def uninterrupted() -> tuple[nn.Module, History]:
    model = make_model()
    return model, run(model, make_loss(model))


@pytest.mark.parametrize("at", [0, 1, 4, 5, 7, STEPS - 1])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_and_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, at: int, error: type[BaseException]
) -> None:
    """An interrupt is saved where it comes; after any other death the run goes on from the last checkpoint."""
    expected, history = uninterrupted()
    model, path = make_model(), tmp_path / "deep" / "run.pt"
    with pytest.raises(error):
        run(model, make_loss(model, at, error), checkpoint=path)
    model = make_model()  # as a new process does
    torch.manual_seed(99 if path.exists() else 0)
    if not path.exists():
        model = make_model()
    steps = []
    loss = make_loss(model)
    resumed = run(model, lambda step: (steps.append(step), loss(step))[1], checkpoint=path)
    assert steps[0] == (at if error is KeyboardInterrupt else at // 5 * 5)
    assert same_weights(model, expected)
    assert resumed.losses == history.losses
    assert resumed.rates == history.rates


def test_a_run_interrupted_many_times_is_still_the_uninterrupted_one(tmp_path: Path) -> None:
    expected, history = uninterrupted()
    for at in (2, 3, 9):
        model = make_model()
        with pytest.raises(KeyboardInterrupt):
            run(model, make_loss(model, at), checkpoint=tmp_path / "run.pt")
    model = make_model()
    assert run(model, make_loss(model), checkpoint=tmp_path / "run.pt").losses == history.losses
    assert same_weights(model, expected)


def test_an_interrupt_within_an_update_falls_back_on_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, history = uninterrupted()
    model, path = make_model(), tmp_path / "run.pt"
    step_of_adamw, calls = torch.optim.AdamW.step, []

    def half_done(self: torch.optim.AdamW, *arguments: object) -> None:
        calls.append(step_of_adamw(self, *arguments))  # type: ignore[arg-type]
        if len(calls) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", half_done)
    with pytest.raises(KeyboardInterrupt):
        run(model, make_loss(model), checkpoint=path)
    monkeypatch.undo()
    model = make_model()
    assert run(model, make_loss(model), checkpoint=path).losses == history.losses
    assert same_weights(model, expected)


class Followed(nn.Module):
    """A model, and beside it, in a buffer, the sum of its last bias over all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()
        self.register_buffer("total", torch.zeros(2))

    def follow(self, step: int) -> None:
        self.total += self.model[3].bias.detach()


def test_what_follows_the_weights_is_called_after_each_step_and_survives_an_interruption(tmp_path: Path) -> None:
    whole, seen = Followed(), []

    def follow(step: int) -> None:
        whole.follow(step)
        seen.append((step, whole.model[3].bias.detach().clone()))

    run(whole, make_loss(whole.model), after=follow)
    assert [step for step, _ in seen] == list(range(STEPS))
    assert not torch.equal(seen[0][1], make_model()[3].bias), "the weights have moved before"
    torch.testing.assert_close(whole.total, sum((bias for _, bias in seen), torch.zeros(2)))
    for at in (3, 8):
        part = Followed()
        with pytest.raises(KeyboardInterrupt):
            run(part, make_loss(part.model, at), after=part.follow, checkpoint=tmp_path / "run.pt")
    part = Followed()
    run(part, make_loss(part.model), after=part.follow, checkpoint=tmp_path / "run.pt")
    assert same_weights(part, whole)


def test_an_interrupt_in_what_follows_falls_back_on_the_last_checkpoint(tmp_path: Path) -> None:
    expected, history = uninterrupted()
    model = make_model()

    def interrupt(step: int) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(model, make_loss(model), after=interrupt, checkpoint=tmp_path / "run.pt")
    model, steps = make_model(), []
    resumed = run(model, make_loss(model), after=steps.append, checkpoint=tmp_path / "run.pt")
    assert steps == list(range(5, STEPS))
    assert resumed.losses == history.losses
    assert same_weights(model, expected)


def test_a_finished_run_is_read_and_not_run_again(tmp_path: Path) -> None:
    first, second = make_model(), make_model(seed=1)
    history = run(first, make_loss(first), checkpoint=tmp_path / "run.pt")
    again = run(second, make_loss(second, at=0, error=AssertionError), checkpoint=tmp_path / "run.pt")
    assert again.losses == history.losses
    assert same_weights(first, second)


def test_the_seconds_of_all_parts_of_a_run_add_up(tmp_path: Path) -> None:
    model, path = make_model(), tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(model, make_loss(model, at=5), checkpoint=path)
    state = torch.load(path, weights_only=True)
    state["history"]["seconds"] = 1000.0
    torch.save(state, path)
    assert 1000 < run(model, make_loss(model), checkpoint=path).seconds < 1300


def test_checkpointing_changes_nothing_and_leaves_one_file(tmp_path: Path) -> None:
    expected, history = uninterrupted()
    model = make_model()
    assert run(model, make_loss(model), checkpoint=str(tmp_path / "run.pt")).losses == history.losses
    assert same_weights(model, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


# Errors


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_the_run_before_it_harms_the_weights(tmp_path: Path, bad: float) -> None:
    model, path = make_model(), tmp_path / "run.pt"
    weights = []

    def loss(step: int) -> Tensor:
        weights[:] = [p.detach().clone() for p in model.parameters()]
        return make_loss(model)(step) * (bad if step == 6 else 1)

    with pytest.raises(FloatingPointError, match=r"loss of step 6 is .*lower learning rate"):
        run(model, loss, checkpoint=path)
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), weights, strict=True))
    assert len(torch.load(path, weights_only=True)["history"]["losses"]) == 5


def test_a_gradient_that_is_no_number_stops_the_run_before_it_harms_the_weights() -> None:
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(FloatingPointError, match="gradient of step 0"):
        run(model, lambda step: model[3].bias.mul(0).sum().sqrt() + make_loss(model)(step))  # √0 has no slope
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_rate_that_is_none_is_refused_before_anything_moves(name: str, value: float) -> None:
    model = make_model()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and finite"):
        run(model, make_loss(model), **{name: value})
    assert all(torch.equal(p, kept) for p, kept in zip(model.parameters(), before, strict=True))


def test_nothing_to_train_is_an_error() -> None:
    model = make_model()
    with pytest.raises(ValueError, match="nothing to train: steps=0"):
        run(model, make_loss(model), steps=0)
    with pytest.raises(ValueError, match="ask for a gradient: 0"):
        run(model.requires_grad_(False), make_loss(model))
    with pytest.raises(ValueError, match="ask for a gradient: 0"):
        run(nn.GELU(), make_loss(model))


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"every": 0}, "every.*got 0"), ({"warmup": 1.5}, "share.*1.5"), ({"floor": -0.5}, "floor.*-0.5")],
)
def test_impossible_settings_are_refused(changes: dict[str, float], says: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=says):
        run(model, make_loss(model), **changes)


@pytest.mark.parametrize(("step", "warmup"), [(-1, 0.1), (10, 0.1), (0, -0.1), (0, 1.1), (0, math.nan)])
def test_the_rate_of_a_step_that_is_not_of_the_run_is_refused(step: int, warmup: float) -> None:
    with pytest.raises(ValueError, match="got"):
        learning_rate(step, steps=10, peak=1.0, warmup=warmup)


def write_bytes(path: Path) -> None:
    path.write_bytes(b"these are no weights")


def write_half(path: Path) -> None:
    model = make_model()
    run(model, make_loss(model), checkpoint=path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_foreign_object(path: Path) -> None:
    torch.save([1, 2, 3], path)


def write_bare_weights(path: Path) -> None:
    torch.save(make_model().state_dict(), path)


def write_other_model(path: Path) -> None:
    model = make_model(features=5)
    run(model, lambda step: model(torch.ones(1, 5)).sum(), checkpoint=path)


def write_with(**changes: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        model = make_model()
        run(model, make_loss(model), checkpoint=path, **changes)

    return write


def write_without(key: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_with()(path)
        state = torch.load(path, weights_only=True)
        del state[key]
        torch.save(state, path)

    return write


@pytest.mark.parametrize(
    "write",
    [
        write_bytes,
        write_half,
        write_foreign_object,
        write_bare_weights,
        write_other_model,
        *(write_without(key) for key in ("model", "optimizer", "history", "random")),
        write_with(steps=STEPS - 1),
        write_with(steps=STEPS + 1),
        write_with(lr=0.02),
        write_with(warmup=0.5),
        write_with(weight_decay=0.0),
    ],
)
def test_a_checkpoint_that_is_not_of_this_run_is_refused_and_kept(
    tmp_path: Path, write: Callable[[Path], None]
) -> None:
    path = tmp_path / "run.pt"
    write(path)
    before, model, untouched = path.read_bytes(), make_model(seed=1), make_model(seed=1)
    with pytest.raises(ValueError, match=r"cannot resume from .*run\.pt.*Delete the file"):
        run(model, make_loss(model), checkpoint=path)
    assert path.read_bytes() == before
    assert same_weights(model, untouched)


# History


def test_smoothing_is_a_mean_over_the_last_steps() -> None:
    history = History(losses=[4.0, 2.0, 0.0, 6.0, 1.0])
    assert history.smooth(1) == history.losses
    assert history.smooth(3) == pytest.approx([4, 3, 2, 8 / 3, 7 / 3])
    assert history.smooth(100) == pytest.approx([4, 3, 2, 3, 13 / 5])
    assert History().smooth() == []
    with pytest.raises(ValueError, match="window must be at least 1; got 0"):
        history.smooth(0)
