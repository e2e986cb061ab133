"""The checks of unit 15. Codewords are scaled one by one, and the noise is what is left over; masks are multiplied
token by token; what was sent is put back by a loop over places; in the queue each way is held against each other."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dynlib import checks
from dynlib.backbone import Block
from dynlib.checks import Task
from dynlib.cost import count

TOLERANCE = {torch.complex128: 1e-9, torch.complex64: 1e-5, torch.float64: 1e-10, torch.float32: 1e-5}
WITHOUT = ("dynlib", "numpy", "scipy")
"""What an answer does without."""


# ---- task 1: send

Sending = tuple[int, int, int, torch.dtype]
"""Samples, tokens, symbols of a codeword, the dtype."""

SENDINGS: tuple[Sending, ...] = (
    (2, 3, 4, torch.complex128),
    (1, 2, 1, torch.complex128),
    (3, 2, 6, torch.complex64),
)
QUIET = 1000.0
"""Decibels at which there is no noise to speak of."""


def send(check: Task, answer: Callable[..., Tensor], *, cases: Iterable[Sending] = SENDINGS, seed: int = 0) -> None:
    """Task 1: the power of what is sent, gradients, zeros; then the noise, its ratio, its parts and its generator."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of send uses", likely="PyTorch alone, complex tensors"
    )
    for number, (batch, tokens, n, dtype) in enumerate(cases):
        x = _codewords(batch, tokens, n, dtype, seed=10 * seed + number)
        sent = _pattern(batch, tokens, number + seed)
        snr = torch.full((batch,), QUIET, dtype=torch.float64)
        on = f"symbols [{batch}, {tokens}, {n}] of powers between 1e-6 and 1e6, {dtype}, {QUIET:g} dB: no noise"
        with check.untouched(tested=on, symbols=x, sent=sent, snr=snr):
            found = answer(x, sent, snr)
        right = _scaled(x, sent)
        check.close(
            "power",
            found,
            right,
            tested=on,
            tolerance=TOLERANCE[dtype],
            likely=_usual_power(found, x, sent),
            mistakes=_mistaken_power(x, sent),
        )
        mine, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
        check.close(
            "gradients",
            _slope(answer(mine, sent, snr), mine) * _lengths(x),
            _slope(_scaled(ours, sent), ours) * _lengths(x),
            tested=f"the gradient of the symbols, times their codeword's length: {on}",
            tolerance=1e3 * TOLERANCE[dtype],
            likely="the length of a codeword depends on its symbols: no detach(), no .data, no no_grad() round it",
        )
    _zeros(check, answer)
    _noise(check, answer, seed)


def _zeros(check: Task, answer: Callable[..., Tensor]) -> None:
    x = torch.zeros(1, 2, 3, dtype=torch.complex128)
    x[0, 1] = 2.0
    x.requires_grad_()
    found = answer(x, torch.ones(1, 2, dtype=torch.bool), torch.full((1,), QUIET, dtype=torch.float64))
    on = "two codewords, one of them all zeros"
    likely = "0 / 0 is nan, in the value or in the gradient: take 1 for a power of 0 before the root and the division"
    check.finite("zeros", torch.view_as_real(found), tested=on, likely=likely)
    check.close("zeros", found.detach()[0, 0].abs(), torch.zeros(3, dtype=torch.float64), tested=on, likely=likely)
    check.finite("zeros", torch.view_as_real(_slope(found, x)), tested=f"the gradient: {on}", likely=likely)


def _noise(check: Task, answer: Callable[..., Tensor], seed: int) -> None:
    batch, tokens, n = 4, 400, 125
    turned = 2 * math.pi * torch.rand(batch, tokens, n, generator=torch.Generator().manual_seed(seed + 70))
    one = torch.polar(torch.ones_like(turned), turned).to(torch.complex128)
    one = one / one.abs()
    x = one * (1 + torch.arange(tokens) % 7)[:, None]  # all symbols of a codeword have one size: scaled, they are `one`
    sent = torch.arange(tokens).expand(batch, -1) % 5 != 2
    asked = torch.tensor([-8.0, 3.0, 10.0, 20.0], dtype=torch.float64) + seed
    begun = torch.Generator().manual_seed(seed + 5)
    found = answer(x, sent, asked, generator=begun)
    check.equal(
        "nothing sent",
        int((found[~sent] != 0).sum()),
        0,
        tested="how many numbers of tokens that were not sent are not 0",
        likely="where nothing is sent nothing is received, no noise either: set it to 0 after the noise was added",
    )
    heard = [(all_of_it - clean)[there] for all_of_it, clean, there in zip(found, one, sent, strict=True)]
    powers = [noise.abs().square().mean() for noise in heard]
    even = [noise / power.clamp(min=1e-300).sqrt() for noise, power in zip(heard, powers, strict=True)]
    rows = torch.stack([noise.flatten() for noise in even])
    if min(powers) > 1e-9:  # else there is no noise, and the ratio says so
        _apart(check, rows, even)
    for power, ratio in zip(powers, asked.tolist(), strict=True):
        # 40,000 symbols: the estimate has a standard deviation of 10 / ln 10 / √40,000 = 0.022 dB
        check.close(
            "the ratio",
            -10 * math.log10(max(power.item(), 1e-300)) - ratio,
            0.0,
            tested=f"decibels that come out above the {ratio:g} asked for, 40,000 symbols",
            tolerance=0.12,
            likely="E |noise|² = 10^(−snr / 10) for a complex symbol of power 1, and each image has its own snr",
            mistakes={
                "each part of a symbol has half of the noise's power: with the whole in both it is 3 dB too loud": -10
                * math.log10(2),
                "half of the noise is missing: the real and the imaginary part have 10^(−snr / 10) / 2 each": 10
                * math.log10(2),
                "10^(−snr / 10) is a power: the noise is its root times a normal number": ratio,
                "20 log₁₀ is for amplitudes, and 10 log₁₀ for powers": -ratio / 2,
                "decibels are powers of 10, not of e": ratio / math.log(10) - ratio,
                "the sign is turned: more decibels, less noise": -2 * ratio,
                "this is the first image's snr": asked[0].item() - ratio,
            },
        )
    parts = torch.stack([rows.real.square().mean(1), rows.imag.square().mean(1)])
    mixed = (rows.real * rows.imag).mean(1)
    # each mean has a standard deviation of at most 0.71 / √40,000 = 0.0036
    check.true(
        "two parts",
        bool(((parts - 0.5).abs() < 0.03).all() and (mixed.abs() < 0.03).all()),
        tested="the real and the imaginary part of the noise, its power being 1",
        expected="half of the power each, and no correlation",
        got=f"{parts[0].mean():.2f} and {parts[1].mean():.2f}, correlation {mixed.mean():.2f}",
        likely="two independent normal numbers a symbol: torch.complex(a, b), or torch.randn(…, dtype=torch.complex64)",
    )
    again = answer(x, sent, asked, generator=torch.Generator().manual_seed(seed + 5))
    on = "the same generator from the start, then another call with it, then two calls without"
    check.true("the generator", torch.equal(found, again), tested=on, expected="the same noise", got="another noise")
    further = answer(x, sent, asked, generator=begun)
    first, second = answer(x, sent, asked), answer(x, sent, asked)
    check.true(
        "the generator",
        not torch.equal(found, further) and not torch.equal(first, second),
        tested=on,
        expected="new noise in every call",
        got="the noise of an earlier call",
        likely="hand the generator on to torch.randn, and seed nothing yourself",
    )


def _apart(check: Task, rows: Tensor, even: Sequence[Tensor]) -> None:
    alike = (rows @ rows.mH / rows.shape[1]).fill_diagonal_(0).abs().max().item()
    within = (rows[:, :-1] * rows[:, 1:].conj()).mean(1).abs().max().item()
    shared = max((noise[:-1] * noise[1:].conj()).mean().abs().item() for noise in even)
    # a correlation of 40,000 independent numbers has a standard deviation of 0.005
    check.true(
        "independent",
        max(alike, within, shared) < 0.05,
        tested="the noise of different images, tokens and symbols",
        expected="no correlation",
        got=f"a correlation of {max(alike, within, shared):.2f}",
        likely="one normal number for every symbol: noise of the whole shape [batch, tokens, n]",
    )


def _codewords(batch: int, tokens: int, n: int, dtype: torch.dtype, *, seed: int) -> Tensor:
    a, b = (checks.normal(batch, tokens, n, seed=2 * seed + part, dtype=torch.float64) for part in (0, 1))
    size = 10.0 ** (3 * torch.cos(torch.arange(batch * tokens, dtype=torch.float64) * 2.3)).view(batch, tokens, 1)
    return (torch.complex(a, 0.5 * b + 0.2) * size).to(dtype)


def _pattern(batch: int, tokens: int, number: int) -> Tensor:
    return (torch.arange(batch * tokens).view(batch, tokens) + number) % 3 != 1


def _lengths(x: Tensor) -> Tensor:
    return torch.view_as_real(x).square().sum((-2, -1)).sqrt()[..., None]


def _slope(result: Tensor, source: Tensor) -> Tensor:
    if not (isinstance(result, Tensor) and result.requires_grad):
        return torch.zeros_like(source)
    parts = torch.view_as_real(result).flatten()
    weights = torch.linspace(-1, 2, len(parts), dtype=parts.dtype)
    (found,) = torch.autograd.grad((parts * weights).sum(), source, allow_unused=True)
    return torch.zeros_like(source) if found is None else found


def _scaled(x: Tensor, sent: Tensor, factor: Callable[[Tensor, int], Tensor] | None = None) -> Tensor:
    """Codeword by codeword: to a mean |s|² of 1, or to what another factor makes of Σ |s|² and n."""
    rows = []
    for codeword, there in zip(x.flatten(0, 1), sent.flatten(), strict=True):
        energy = sum((s.real * s.real + s.imag * s.imag for s in codeword), torch.zeros((), dtype=x.real.dtype))
        gain = (len(codeword) / energy) ** 0.5 if factor is None else factor(energy, len(codeword))
        rows.append(codeword * gain if there else codeword * 0)
    return torch.stack(rows).view_as(x)


def _usual_power(found: Tensor, x: Tensor, sent: Tensor) -> str:
    """What the sizes of the codewords that came tell of the factor that they were given."""
    if isinstance(found, Tensor) and found.shape == x.shape and found.is_complex() and bool(sent.any()):
        size, gain = _lengths(x)[..., 0], (_lengths(found) / _lengths(x))[..., 0]
        off = gain * size / x.shape[-1] ** 0.5
        if bool(off[sent].max() > 1e6):
            return "there is noise at so many decibels, and more than signal: it grows with snr, turn the sign"
        if abs(off.flatten()[size.where(sent, 0).argmax()] - 1) < 1e-4 and bool((off[sent] < 1 + 1e-4).all()):
            return "a small number was added to the power or its root: codewords of little power are off"
        if any(len(own) > 1 and own.isclose(own[0]).all() for own in map(Tensor.__getitem__, gain, sent)):
            return "every codeword has a power of its own: this is one factor for all that an image, or all, send"
    return "divide a codeword by √(‖x‖² / n): the mean of |s|² over its n symbols is 1"


def _mistaken_power(x: Tensor, sent: Tensor) -> dict[str, Tensor]:
    kept = x * sent[..., None]
    square = x.square().mean(-1, keepdim=True)
    return {
        "‖x‖ stands where ‖x‖² belongs: the power is then ‖x‖, not 1, and so is the ratio": _scaled(
            x, sent, lambda energy, n: (n / energy**0.5) ** 0.5
        ),
        "the mean over the symbols, not the sum: the whole codeword has a power of n": _scaled(
            x, sent, lambda energy, n: energy**-0.5
        ),
        "a power of 1 for a complex symbol, not for each of its two numbers": _scaled(
            x, sent, lambda energy, n: (2 * n / energy) ** 0.5
        ),
        "the mean power goes under a root: amplitudes are divided by it": _scaled(
            x, sent, lambda energy, n: n / energy
        ),
        "every symbol got a size of 1: only the mean over a codeword is 1": kept / x.abs(),
        "|s|² is real: s² has a phase, and its root turns the codeword": kept / square.sqrt(),
        "|s|² is s times its conjugate: the s² of a codeword cancel each other": kept / square.abs().sqrt(),
        "tokens that are not sent are 0": _scaled(x, torch.ones_like(sent)),
        "the symbols were not scaled": kept,
    }


# ---- task 2: append_budget and next_mask

Masking = tuple[int, int, int, tuple[float, ...], torch.dtype]
"""Images, patches, features, α of each image, the dtype."""

MASKINGS: tuple[Masking, ...] = (
    (2, 3, 4, (0.25, 0.8), torch.float64),
    (1, 1, 3, (1.0,), torch.float64),
    (3, 5, 3, (0.1, 0.1, 0.6), torch.float32),
)


def budget_mask(
    check: Task,
    append: Callable[..., Tensor],
    shrink: Callable[..., Tensor],
    *,
    cases: Iterable[Masking] = MASKINGS,
    seed: int = 0,
) -> None:
    """Task 2: the budget's token and its place; then the mask, who keeps his own, and that it only shrinks."""
    check.by_hand(
        "by hand",
        append,
        shrink,
        without=WITHOUT,
        tested="what the code of append_budget and next_mask uses",
        likely="PyTorch alone",
    )
    for number, (batch, patches, dim, alphas, dtype) in enumerate(cases):
        base = 100 * seed + 10 * number
        x = checks.normal(batch, 1 + patches, dim, seed=base, dtype=dtype)
        low, up, w, v = (checks.normal(dim, seed=base + part, dtype=dtype) for part in range(1, 5))
        w, v = 3 * w, 3 * v
        alpha = torch.tensor(alphas, dtype=dtype)
        on = f"x [{batch}, {1 + patches}, {dim}], α = {list(alphas)}, {dtype}"
        with check.untouched(tested=on, x=x, alpha=alpha, low=low, up=up):
            longer = append(x, alpha, low, up)
        tokens = torch.stack([a * low + (1 - a) * up for a in alpha])
        end = torch.cat([x, tokens[:, None]], 1)
        check.close(
            "the budget token",
            longer,
            end,
            tested=on,
            tolerance=TOLERANCE[dtype],
            likely="α · low + (1 − α) · up for each image, as one more token behind the last patch",
            mistakes={
                "low and up are exchanged: at α = 1 the token is low": torch.cat(
                    [x, torch.stack([a * up + (1 - a) * low for a in alpha])[:, None]], 1
                ),
                "it stands behind the last patch, not before the class token": torch.cat([tokens[:, None], x], 1),
                "each image has its own α: this is the first one's": torch.cat(
                    [x, tokens[:1].expand(batch, -1)[:, None]], 1
                ),
                "each image has its own α: this is their mean": torch.cat(
                    [x, (alpha.mean() * low + (1 - alpha.mean()) * up).expand(batch, 1, -1)], 1
                ),
            },
        )
        before = checks.normal(batch, patches + 2, seed=base + 7, dtype=dtype).sigmoid()
        before[0, 1], before[-1, -2] = 0, 1
        # so that the two sigmoids are neither 0 nor 1
        end = (
            end
            - 5 / w.square().sum() * w
            + torch.where(torch.arange(patches + 2) == patches + 1, 1, 0)[:, None]
            * (5 / v.square().sum() * v + 5 / w.square().sum() * w).to(dtype)
        )
        with check.untouched(tested=on, x=end, mask=before, w=w, v=v):
            found = shrink(end, before, w, v)
        right = _shrunk(end, before, w, v)
        check.close(
            "the mask",
            found,
            right,
            tested=f"{on}, with the budget's token",
            tolerance=TOLERANCE[dtype],
            likely="mask · relu(σ(w · x + 5) − σ(v · budget − 5)); the class token and the budget's token keep theirs",
            mistakes=_mistaken_masks(end, before, w, v),
        )
        theirs = [part.clone().requires_grad_() for part in (end, before, w, v)]
        ours = [part.clone().requires_grad_() for part in (end, before, w, v)]
        made, meant = shrink(*theirs), _shrunk(*ours)
        for name, mine, its in zip(("x", "mask", "w", "v"), theirs, ours, strict=True):
            check.close(
                "gradients",
                checks.gradient(made, mine),
                checks.gradient(meant, its),
                tested=f"the gradient of {name}: {on}",
                tolerance=100 * TOLERANCE[dtype],
                likely="the mask is soft, so that it can be learned: no detach(), no comparison in its place",
            )
    even = torch.zeros(1, 4, 2, dtype=torch.float64)
    started = shrink(even, torch.ones(1, 4, dtype=torch.float64), even[0, 0], even[0, 0])
    check.true(
        "all kept at first",
        isinstance(started, Tensor) and bool((started > 0.98).all()),
        tested="weights of 0, the first layer",
        expected="masks near 1: training begins with everything kept",
        got=started,
        likely="+5 stands with the tokens, and −5 with the budget",
    )


def _shrunk(
    x: Tensor,
    mask: Tensor,
    w: Tensor,
    v: Tensor,
    *,
    budget: int = -1,
    keep: Callable[[Tensor, Tensor], Tensor] = lambda a, b: torch.relu(a - b),
    at: tuple[int, int] = (5, -5),
    ends: bool = True,
    old: bool = True,
) -> Tensor:
    """Image by image, token by token."""
    rows = []
    for image, own in zip(x, mask, strict=True):
        wants = 1 / (1 + torch.exp(-((image[budget] * v).sum() + at[1])))
        row = []
        for place, (token, was) in enumerate(zip(image, own, strict=True)):
            if ends and place in (0, len(image) - 1):
                row.append(was)
                continue
            m = keep(1 / (1 + torch.exp(-((token * w).sum() + at[0]))), wants)
            row.append(was * m if old else m)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def _mistaken_masks(x: Tensor, mask: Tensor, w: Tensor, v: Tensor) -> dict[str, Tensor]:
    ends = torch.nn.functional.pad(mask[:, 1:-1] * 0, (1, 1), value=1.0)
    return {
        "no patch is kept: +5 stands with the tokens and −5 with the budget": torch.where(ends > 0, mask, 0),
        "the class token and the budget's token keep the mask that they have, 1 or not": torch.where(
            ends > 0, 1, _shrunk(x, mask, w, v)
        ),
        "x[:, -2] is the last patch: the budget's token is the last of all": _shrunk(x, mask, w, v, budget=-2),
        "the class token stands at 0, the budget's token at the end": _shrunk(x, mask, w, v, budget=0),
        "the budget's token is that of the same image: this is the first one's": _shrunk(
            torch.cat([x[:, :-1], x[:1, -1:].expand(len(x), -1, -1)], 1), mask, w, v
        ),
        "the mask so far is missing: what a layer let go never comes back": _shrunk(x, mask, w, v, old=False),
        "below 0 there is nothing: relu is missing": _shrunk(x, mask, w, v, keep=lambda a, b: a - b),
        "a token's own score minus the budget's, not the other way round": _shrunk(
            x, mask, w, v, keep=lambda a, b: torch.relu(b - a)
        ),
        "the class token's mask and the budget's token's are not multiplied": _shrunk(x, mask, w, v, ends=False),
        "the mask is soft: no 0 and 1 in its place": _shrunk(x, mask, w, v, keep=lambda a, b: (a > b).to(a.dtype)),
        "σ of each of the two, then the difference": _shrunk(
            x,
            mask,
            w,
            v,
            keep=lambda a, b: 1 / (1 + torch.exp(-(torch.log(a / (1 - a)) - torch.log(b / (1 - b))))),
        ),
        "w is for the tokens and v for the budget": _shrunk(x, mask, v, w),
        "what a layer let go never comes back: the product of both masks, not the smaller": torch.minimum(
            mask, _shrunk(x, mask, w, v, old=False)
        ),
    }


# ---- task 3: budget_loss

Losing = tuple[tuple[float, ...], Sequence[Sequence[Sequence[float]]]]
"""α of each image; the masks, layer by layer and image by image."""
LOSSES: tuple[Losing, ...] = (
    ((0.5, 0.5), (((1.0, 0.9, 0.8, 1.0), (1.0, 1.0, 1.0, 0.7)), ((1.0, 0.0, 0.92, 0.12), (0.1, 0.0, 0.1, 0.6)))),
    ((0.3,), (((0.2, 0.4, 0.03),),)),
    ((0.2, 0.9), (((0.5, 0.9), (0.4, 1.0)), ((0.5, 0.3), (0.3, 1.0)), ((0.1, 0.32), (0.0, 0.98)))),
    ((1.0, 0.25), (((0.99, 1.0), (0.5, 0.75)), ((0.98, 1.0), (0.5, 0.0)))),
)


def budget_loss(
    check: Task,
    answer: Callable[..., Tensor],
    *,
    cases: Iterable[Losing] = LOSSES,
    options: Sequence[tuple[float, float]] = ((0.02, 0.5), (0.1, 2.0)),
    seed: int = 0,
) -> None:
    """Task 3: the value on masks whose images err in different directions; one layer; gradients."""
    check.by_hand(
        "by hand", answer, without=WITHOUT, tested="what the code of budget_loss uses", likely="PyTorch alone"
    )
    for number, (alphas, layers) in enumerate(cases):
        alpha = torch.tensor(alphas, dtype=torch.float64)
        logits = checks.normal(len(alphas), 4, seed=seed + number, dtype=torch.float64)
        labels = (torch.arange(len(alphas)) * 3 + number) % 4
        for slack, weight in options:
            masks = [torch.tensor(layer, dtype=torch.float64).requires_grad_() for layer in layers]
            copies = [mask.detach().clone().requires_grad_() for mask in masks]
            on = (
                f"α = {list(alphas)}, {len(layers)} layers, {len(layers[0][0])} patches, slack {slack}, weight {weight}"
            )
            with check.untouched(tested=on, logits=logits, alpha=alpha, first=masks[0], last=masks[-1]):
                found = answer(logits, labels, masks, alpha, slack=slack, weight=weight)
            right = _loss(logits, labels, copies, alpha, slack, weight)
            name = "one layer" if len(layers) == 1 else "the loss"
            check.close(
                name,
                found,
                right,
                tested=on,
                tolerance=1e-9,
                likely="with one layer there are no inner masks, and nothing is added for them"
                if name == "one layer"
                else "print your parts: cross-entropy {:.4f}, share {:.4f}, inner masks {:.4f} before weight".format(
                    *_parts(logits, labels, copies, alpha, slack)
                )
                if isinstance(found, Tensor)
                else "a tensor, so that it has gradients: no .item(), no float()",
                mistakes=_mistaken_losses(logits, labels, copies, alpha, slack, weight),
            )
            for layer, (mine, its) in enumerate(zip(masks, copies, strict=True), 1):
                check.close(
                    "gradients",
                    checks.gradient(found, mine),
                    checks.gradient(right, its),
                    tested=f"the gradient of the mask of layer {layer}: {on}",
                    tolerance=1e-9,
                    likely="no .item(), no float(): the masks are what the loss should move",
                )


def _loss(
    logits: Tensor,
    labels: Tensor,
    masks: Sequence[Tensor],
    alpha: Tensor,
    slack: float,
    weight: float,
    *,
    apart: Callable[[Tensor, Tensor], Tensor] | None = None,
    inner: Sequence[Tensor] | None = None,
) -> Tensor:
    """Image by image: −log p, then how far the last mask is off, then the means of the layers before."""
    total = torch.zeros((), dtype=logits.dtype)
    for row, label in zip(logits, labels.tolist(), strict=True):
        total = total + (torch.log(torch.exp(row).sum()) - row[label]) / len(logits)
    for own, wanted in zip(masks[-1], alpha, strict=True):
        far = own.sum() / len(own) - wanted
        over = apart(own.mean(), wanted) if apart else torch.clamp(torch.maximum(far, -far) - slack, min=0)
        total = total + over / len(alpha)
    for part in masks[:-1] if inner is None else inner:
        total = total + weight * part.mean() / len(masks[:-1] if inner is None else inner)
    return total


def _parts(
    logits: Tensor, labels: Tensor, masks: Sequence[Tensor], alpha: Tensor, slack: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The cross-entropy, the share's part, the inner masks without their weight."""
    entropy, both, all_three = (
        _loss(logits, labels, masks, alpha, off, weight).detach() for off, weight in ((2, 0), (slack, 0), (slack, 1))
    )
    return entropy, both - entropy, all_three - both


def _mistaken_losses(
    logits: Tensor, labels: Tensor, masks: Sequence[Tensor], alpha: Tensor, slack: float, weight: float
) -> dict[str, Tensor]:
    def other(**ways: Any) -> Tensor:
        return _loss(logits, labels, masks, alpha, slack, weight, **ways).detach()

    right, zero = other(), torch.zeros((), dtype=logits.dtype)
    off = torch.stack([own.mean() - wanted for own, wanted in zip(masks[-1], alpha, strict=True)])
    without = other(apart=lambda share, wanted: zero)
    entropy, share, inner = _parts(logits, labels, masks, alpha, slack)
    found = {
        "too many of one image do not make up for too few of another: the distance first, then the mean": without
        + torch.clamp(off.mean().abs() - slack, min=0),
        "too few tokens are as wrong as too many: the absolute value is missing": other(
            apart=lambda share, wanted: torch.clamp(share - wanted - slack, min=0)
        ),
        "the slack is taken off the distance of each image, and what is then below 0 counts as 0": other(
            apart=lambda share, wanted: (share - wanted).abs() - slack
        ),
        "the slack is missing": other(apart=lambda share, wanted: (share - wanted).abs()),
        "the distance, not its square": other(
            apart=lambda share, wanted: torch.clamp((share - wanted).abs() - slack, min=0) ** 2
        ),
        "the slack is taken off the distance, it does not only decide": other(
            apart=lambda share, wanted: torch.where((share - wanted).abs() > slack, (share - wanted).abs(), 0)
        ),
        "the last mask is held to α, and is none of the inner ones": other(inner=masks),
        "the inner masks are missing": other(inner=masks[:-1] and [torch.zeros_like(masks[0])]),
        "masks are averaged as they are, not counted as the lecture's cell counts tokens": _loss(
            logits, labels, [*masks[:-1], (masks[-1] > 1e-3).to(alpha.dtype)], alpha, slack, weight
        ),
        "the weight belongs to the inner masks, not to the share": entropy + weight * share + inner,
        "the mean over the images, not the sum": right
        + (right - right)
        + off.abs().sub(slack).clamp(min=0).sum()
        - off.abs().sub(slack).clamp(min=0).mean(),
    }
    if len(masks) > 1:
        found["the mean over the inner layers, not their sum"] = right + weight * (
            sum(part.mean() for part in masks[:-1]) - sum(part.mean() for part in masks[:-1]) / (len(masks) - 1)
        )
    return {says: wrong.detach() for says, wrong in found.items() if not torch.isclose(wrong, right)}


# ---- task 4: pack, unpack, attend

Packing = tuple[int, Sequence[Sequence[float]]]
"""Symbols a token; the mask of each image."""
PACKINGS: tuple[Packing, ...] = (
    (3, ((0.5, 0.0, 0.2, 0.9), (0.0, 0.7, 0.0, 0.0))),
    (2, ((0.001, 0.002, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
    (1, ((0.4,),)),
)


def put_back(
    check: Task,
    pack: Callable[..., tuple[Tensor, Tensor, Tensor]],
    unpack: Callable[..., tuple[Tensor, Tensor]],
    attend: Callable[..., Tensor],
    *,
    cases: Iterable[Packing] = PACKINGS,
    seed: int = 0,
) -> None:
    """Task 4: what is packed, where it lands, and that whoever was not sent has no say."""
    check.by_hand(
        "by hand",
        pack,
        unpack,
        attend,
        without=(*WITHOUT, "torch.nn.functional.scaled_dot_product_attention", "torch.nn.MultiheadAttention"),
        tested="what the code of pack, unpack and attend uses",
        likely="PyTorch alone, and the softmax written out",
    )
    for number, (n, given) in enumerate(cases):
        mask = torch.tensor(given, dtype=torch.float64)
        batch, tokens = mask.shape
        x = checks.normal(batch, tokens, n, seed=30 * seed + number, dtype=torch.float64)
        on = f"x [{batch}, {tokens}, {n}], mask {list(map(list, given))}, threshold 0.001"
        there = [[m > 0.001 for m in row] for row in given]
        with check.untouched(tested=on, x=x, mask=mask):
            packed = pack(x, mask, 0.001)
        check.true(
            "three tensors",
            isinstance(packed, tuple | list) and len(packed) == 3 and all(isinstance(p, Tensor) for p in packed),
            tested=on,
            expected="the payload, the places and the counts",
            got=type(packed).__name__,
            likely="return payload, places, counts",
        )
        payload, places, counts = packed
        right = [(b, t) for b in range(batch) for t in range(tokens) if there[b][t]]
        check.equal(
            "counts",
            counts,
            torch.tensor([sum(row) for row in there]),
            tested=on,
            likely="a token is sent if its mask is above the threshold: 0.001 itself is not",
        )
        check.equal(
            "places",
            places,
            torch.tensor([t for _, t in right], dtype=torch.int64),
            tested=on,
            likely="the place of each sent token in its own image, from 0, image after image",
            mistakes={
                "a place counts from the start of its own image": torch.tensor([b * tokens + t for b, t in right]),
                "these are the images, not the places": torch.tensor([b for b, _ in right]),
            },
        )
        expected = torch.stack([x[b, t] for b, t in right]) if right else x.new_zeros(0, n)
        check.equal(
            "the payload",
            payload,
            expected,
            tested=on,
            likely="the sent tokens as they are, in the order of their places",
            mistakes={
                "the tokens as they are, not times their mask": torch.stack([x[b, t] * given[b][t] for b, t in right])
                if right
                else expected
            },
        )
        received = checks.normal(len(right), n, seed=30 * seed + number + 9, dtype=torch.float64)
        received[:1] = 0  # a token of zeros is sent, too
        received.requires_grad_()
        with check.untouched(tested=on, payload=received, places=places, counts=counts):
            back = unpack(received, places, counts, tokens)
        check.true(
            "two tensors",
            isinstance(back, tuple | list) and len(back) == 2 and all(isinstance(p, Tensor) for p in back),
            tested=on,
            expected="the tokens and who is present",
            got=type(back).__name__,
            likely="return x, present",
        )
        whole = torch.zeros(batch, tokens, n, dtype=torch.float64)
        for row, (b, t) in zip(received.detach(), right, strict=True):
            whole[b, t] = row
        check.equal(
            "present",
            back[1],
            torch.tensor(there),
            tested=on,
            likely="a bool [batch, tokens], True at the places that came",
            mistakes={
                "a token that came may be all zeros: the places tell who is present": whole.abs().sum(-1) > 0,
                "True at the places that came, not at the first `count`": torch.arange(tokens) < counts[:, None],
            },
        )
        front = torch.zeros_like(whole)
        for b in range(batch):
            own = [row for row, (image, _) in zip(received.detach(), right, strict=True) if image == b]
            for t, row in enumerate(own):
                front[b, t] = row
        check.equal(
            "put back",
            back[0].detach(),
            whole,
            tested=on,
            likely="each token where it was in its own image, and zeros elsewhere",
            mistakes={"a token goes to its place, not to the next free one": front},
        )
        if right:
            weights = torch.linspace(-1, 2, whole.numel(), dtype=torch.float64).view_as(whole)
            check.close(
                "gradients",
                checks.gradient(back[0], received),
                torch.stack([weights[b, t] for b, t in right]),
                tested=f"the gradient of what was received: {on}",
                likely="no detach(): the sender learns through the channel",
            )
        _attention(check, attend, whole, torch.tensor(there), seed=seed + number)
    large = torch.tensor(
        [[[400.0, 0.0], [200.0, 1.0], [100.0, 2.0]], [[0.0, 3.0], [-200.0, 1.0], [-300.0, 2.0]]], dtype=torch.float64
    )
    found = attend(torch.tensor([[30.0, 0.0]] * 2).double(), large, torch.tensor([[False, True, True]] * 2))
    on = "scores of thousands and of minus thousands, the largest of a token that is absent"
    likely = (
        "take the largest score of those present off before the exponential, or let softmax do it after "
        "masked_fill(~present, −∞)"
    )
    check.finite("large scores", found, tested=on, likely=likely)
    check.close("large scores", found, large[:, 1], tested=on, tolerance=1e-9, likely=likely)


def _attention(check: Task, attend: Callable[..., Tensor], x: Tensor, present: Tensor, *, seed: int) -> None:
    batch, _, n = x.shape
    query = checks.normal(batch, n, seed=seed + 80, dtype=torch.float64)
    on = f"query [{batch}, {n}], present {present.tolist()}"
    theirs, ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    with check.untouched(tested=on, query=query, present=present):
        found = attend(query, theirs, present)
    right = _attended(query, ours, present)
    name = "nobody present" if not bool(present.any(1).all()) else "who is present"
    scores = (x * query[:, None]).sum(-1) / n**0.5
    shares = scores.softmax(-1)
    check.close(
        name,
        found,
        right,
        tested=on,
        tolerance=1e-9,
        likely="an image of which nothing came gives zeros, not nan"
        if name == "nobody present"
        else "exp(scores) of those present alone, divided by their own sum",
        mistakes={
            "a token of zeros is not nothing, it has a share, as e⁰ = 1: take the absent out, then divide": (
                shares[..., None] * x
            ).sum(1),
            "the scores are divided by √n": _attended(query * n**0.5, x, present),
        },
    )
    other = x.clone()
    other[~present] = 7.0
    check.close(
        "who is present" if present.any() else "nobody present",
        attend(query, other, present),
        right.detach(),
        tested=f"the same with other numbers at the absent tokens: {on}",
        tolerance=1e-9,
        likely="what stands at an absent token's place must not matter",
    )
    slope = checks.gradient(found, theirs)
    check.close(
        "attention's gradients",
        slope,
        checks.gradient(right, ours),
        tested=f"the gradient of x: {on}",
        tolerance=1e-9,
        likely="the scores and what they weigh have gradients: no detach()"
        if slope.isfinite().all()
        else "a softmax over nothing but −∞ is nan, and its gradient too, even if torch.where hides the value: give "
        "such images finite scores, and zeros afterwards",
    )


def _attended(query: Tensor, x: Tensor, present: Tensor) -> Tensor:
    rows = []
    for q, image, there in zip(query, x, present.tolist(), strict=True):
        own = [token for token, here in zip(image, there, strict=True) if here]
        parts = [torch.exp((q * token).sum() / len(q) ** 0.5) for token in own]
        rows.append(
            sum((p * token for p, token in zip(parts, own, strict=True)), torch.zeros_like(q)) / sum(parts)
            if own
            else image.sum(0) * 0
        )
    return torch.stack(rows)


# ---- task 5: drive and ceiling

Hour = tuple[str, Sequence[Sequence[float]], Sequence[Sequence[float]], float, float, float]
"""The check's name, values and costs of each slot, the budget, V, the step μ."""


def hour(slots: int, ways: int, *, budget: float, V: float, step: float, seed: int) -> Hour:
    """Slots whose channels differ: more costs more, and is worth more in some slots than in others."""
    price = (torch.arange(1, ways + 1) / ways).tolist()
    strong = (0.2 + checks.normal(slots, seed=seed).abs()).tolist()
    stretch = (1 + 0.3 * checks.normal(slots, seed=seed + 1).sin()).tolist()
    values = [[1 - math.exp(-4 * s * cost) for cost in price] for s in strong]
    return "the ways", values, [[round(k * cost, 3) for cost in price] for k in stretch], budget, V, step


HOURS: tuple[Hour, ...] = (
    ("one slot", [[0.5, 0.9, 0.7, 0.6]], [[0.3, 1.0, 0.4, 0.1]], 0.25, 1.0, 1.0),
    ("ties", [[0.5, 0.5, 0.5], [0.25, 0.5, 0.5]], [[0.5, 0.25, 0.25], [0.25, 0.5, 0.5]], 0.5, 2.0, 1.0),
    hour(12, 4, budget=0.4, V=2.0, step=1.0, seed=1),
    hour(60, 3, budget=0.5, V=0.5, step=0.25, seed=2),
    hour(40, 4, budget=0.9, V=1.0, step=2.0, seed=5),
)


def drive(
    check: Task,
    answer: Callable[..., tuple[Sequence[int], Sequence[float]]],
    ceiling: Callable[..., Sequence[float]],
    *,
    cases: Iterable[Hour] = HOURS,
) -> None:
    """Task 5: the way of each slot, the debts, and a ceiling of the mean cost that the debts alone tell."""
    check.by_hand(
        "by hand",
        answer,
        ceiling,
        without=WITHOUT,
        tested="what the code of drive and ceiling uses",
        likely="plain Python, or PyTorch",
    )
    for name, values, costs, budget, V, step in cases:
        on = f"{len(values)} slots of {len(values[0])} ways, budget {budget}, V = {V}, μ = {step}"
        before = [list(row) for row in (*values, *costs)]
        told = answer(values, costs, budget, V=V, step=step)
        check.true(
            "inputs as they were",
            [list(row) for row in (*values, *costs)] == before,
            tested=on,
            expected="values and costs as they were given",
            got="they changed",
        )
        check.true(
            "two lists",
            isinstance(told, tuple | list) and len(told) == 2 and all(len(part) == len(values) for part in told),
            tested=on,
            expected=f"two lists of {len(values)}: ways and debts",
            got=told,
            likely="return ways, debts",
        )
        ways, debts = told
        right, owed = _driven(values, costs, budget, V, step)
        wrongs = _mistaken_drives(values, costs, budget, V, step)
        check.equal(
            name,
            tuple(int(way) for way in ways),
            tuple(right),
            tested=on,
            likely="of equally good ways the cheaper, then the earlier"
            if name == "ties"
            else "the way with the smallest −V · value + Z · cost, Z being the debt before this slot",
            mistakes={says: tuple(wrong[0]) for says, wrong in wrongs.items()},
        )
        as_numbers = torch.tensor([float(debt) for debt in debts], dtype=torch.float64)
        check.close(
            "the debts",
            as_numbers,
            torch.tensor(owed, dtype=torch.float64),
            tested=on,
            tolerance=1e-6,
            likely="Z ← max(0, Z + μ (cost − budget)), told after each slot",
            mistakes={
                says: torch.tensor(wrong[1], dtype=torch.float64)
                for says, wrong in wrongs.items()
                if wrong[0] == right  # these ways were taken
            },
        )
        tops = torch.tensor([float(top) for top in ceiling(owed, budget, step=step)], dtype=torch.float64)
        if len(tops) != len(owed):
            check.equal("the ceiling", len(tops), len(owed), tested=f"how many numbers: {on}")
        over, mean = torch.tensor(owed, dtype=torch.float64), torch.arange(1, len(owed) + 1, dtype=torch.float64)
        check.close(
            "the ceiling",
            tops,
            budget + over / step / mean,
            tested=f"the smallest ceiling that the debts tell: {on}",
            tolerance=1e-9,
            likely="Z grows by μ (cost − budget) at least, slot by slot: add that up over the slots",
            mistakes={
                "Z has grown by μ (cost − budget): divide by μ, too": budget + over / mean,
                "Z has grown by μ (cost − budget): divide by μ, do not multiply": budget + over * step / mean,
                "this is the excess: the budget comes on top": over / step / mean,
                "over all slots so far: the mean is a sum over t": budget + over / step,
            },
        )


def _driven(
    values: Sequence[Sequence[float]],
    costs: Sequence[Sequence[float]],
    budget: float,
    V: float,
    step: float,
    *,
    score: Callable[[float, float, float], float] | None = None,
    floor: bool = True,
    early: bool = False,
    mu: bool = True,
    best: int = 1,
) -> tuple[list[int], list[float]]:
    """Slot by slot; every way is held against every other."""
    ways, debts, owed = [], [], 0.0
    for worth, price in zip(values, costs, strict=True):
        at = [
            (best * (score(v, c, owed) if score else owed * c - V * v), c, way)
            for way, (v, c) in enumerate(zip(worth, price, strict=True))
        ]
        way = sorted(at)[0][2]
        paid = owed + (step if mu else 1) * (price[way] - budget)
        owed = max(paid, 0.0) if floor else paid
        ways.append(way)
        debts.append(owed)
    return ways, ([0.0, *debts[:-1]] if early else debts)


def _mistaken_drives(
    values: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, V: float, step: float
) -> dict[str, tuple[list[int], list[float]]]:
    def other(**ways: Any) -> tuple[list[int], list[float]]:
        return _driven(values, costs, budget, V, step, **ways)

    right = other()
    found = {
        "a debt below 0 would be a saving: max(0, …) is missing": other(floor=False),
        "the largest was taken, not the smallest, or the value has lost its minus": other(best=-1),
        "V goes with the value, and the debt with the cost": other(score=lambda v, c, z: V * c - z * v),
        "the value is wanted, so it counts with a minus": other(score=lambda v, c, z: V * v + z * c),
        "the debt has a price: Z · cost is missing": other(score=lambda v, c, z: -V * v),
        "V is missing": other(score=lambda v, c, z: z * c - v),
        "the step μ is missing": other(mu=False),
        "the debts are told after the slot, not before it": other(early=True),
    }
    return {
        says: wrong
        for says, wrong in found.items()
        if wrong[0] != right[0] or max(abs(a - b) for a, b in zip(wrong[1], right[1], strict=True)) > 1e-6
    }


# ---- task 6: predict, then measure

PATCHES, SENT, SYMBOLS, DIM = 64, 16, 8, 32
AMPLITUDE, ASKED = 5.0, 10.0
_TWO_WAYS = ((0.90, 0.2), (0.97, 0.6))
_BUDGET, _V = 0.3, 10.0


def predict(check: Task, answer: Callable[[], dict[str, Any]], *, seed: int = 3) -> None:
    """Task 6: predictions about one image's way through the channel, counted and simulated with this seed."""
    check.prediction(
        answer(),
        _measured(seed),
        tested=f"{PATCHES} patches, {SENT} of them sent, {SYMBOLS} symbols each",
        words={"twice V, the excess of the mean cost after 10,000 slots": ("halves", "stays", "doubles")},
        slips=_SLIPS,
        likely=_USUALLY,
        tolerance={"decibels that come out of the slip": 0.01},
    )


@cache
def _measured(seed: int) -> dict[str, float | str]:
    """Counted on codewords that are sent, noise that is drawn, a block that runs, and a queue."""
    phase = torch.rand(SENT, SYMBOLS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 * math.pi
    x = AMPLITUDE * torch.complex(phase.cos(), phase.sin())
    slip = x / (torch.view_as_real(x).square().sum((-2, -1)).sqrt() / SYMBOLS).sqrt()[:, None]
    noise = 10 ** (-ASKED / 10)
    decibels = 10 * math.log10(slip.abs().square().mean().item() / noise)
    in_a_list = [k * max(1, (PATCHES - 1).bit_length()) for k in range(PATCHES + 1)]
    block = Block(DIM, 4)
    few, all_of_them = (count(block, torch.zeros(1, t + 2, DIM)).flops for t in (SENT, PATCHES))
    constant = [[value for value, _ in _TWO_WAYS]] * 10_000, [[cost for _, cost in _TWO_WAYS]] * 10_000
    ways, _ = _driven(*constant, _BUDGET, _V, 1.0)
    excess = [
        sum(_TWO_WAYS[way][1] for way in _driven(*constant, _BUDGET, V, 1.0)[0]) / 1e4 - _BUDGET for V in (50, 100)
    ]
    ratio = excess[1] / excess[0]
    return {
        "symbols of the image": x.numel(),
        "bits of a map of the places": PATCHES,
        "bits of a list of the places": in_a_list[SENT],
        "most tokens for which the list is shorter": max(k for k, bits in enumerate(in_a_list) if bits < PATCHES),
        "decibels that come out of the slip": decibels,
        "share of a block's FLOPs": few / all_of_them,
        "slots before the first cheap one": ways.index(0),
        "twice V, the excess of the mean cost after 10,000 slots": "doubles"
        if 1.8 < ratio < 2.2
        else "stays"
        if 0.9 < ratio < 1.1
        else "halves",
    }


_SLIPS: dict[str, dict[str, float | int | str]] = {
    "symbols of the image": {
        "a complex symbol is one use of the channel, not two": 2 * SENT * SYMBOLS,
        "only what is kept is sent": PATCHES * SYMBOLS,
        "each token takes several symbols": SENT,
    },
    "bits of a map of the places": {"the map says of each patch whether it was sent": SENT},
    "bits of a list of the places": {
        "64 places can be told apart with 6 bits": 7 * SENT,
        "a place costs more than a bit": SENT,
        "4 bits tell 16 places apart, and there are 64 (the map has 64 bits, too)": PATCHES,
    },
    "most tokens for which the list is shorter": {
        "at 11 tokens the list has more bits than the map": 11,
        "a place costs 6 bits": 64,
    },
    "decibels that come out of the slip": {
        "the power that the slip leaves is ‖x‖, not 1: so many decibels more come out": ASKED,
        "the slip adds 10 log₁₀ ‖x‖ to what was asked for, not 20 log₁₀ ‖x‖": ASKED
        + 20 * math.log10(AMPLITUDE * math.sqrt(SYMBOLS)),
        "‖x‖ is the length of the whole codeword, √8 · 5": ASKED + 10 * math.log10(AMPLITUDE),
        "‖x‖, not ‖x‖²": ASKED + 10 * math.log10(AMPLITUDE**2 * SYMBOLS),
        "a power above 1 means more decibels, not fewer": ASKED - 10 * math.log10(AMPLITUDE * math.sqrt(SYMBOLS)),
        "this is what is added to the 10 dB": 10 * math.log10(AMPLITUDE * math.sqrt(SYMBOLS)),
    },
    "share of a block's FLOPs": {
        "the class token and the budget's token run too, and attention's scores grow with the square": SENT / PATCHES,
        "attention's scores grow with the square of the tokens": (SENT + 2) / (PATCHES + 2),
        "the class token and the budget's token run too": (24 * SENT * DIM**2 + 4 * SENT**2 * DIM)
        / (24 * PATCHES * DIM**2 + 4 * PATCHES**2 * DIM),
    },
    "slots before the first cheap one": {
        "the debt grows by 0.6 − 0.3 a slot, not by 0.6": 3,
        "in the slot after the sixth the debt is already large enough": 7,
        "the cheap way wins once Z · 0.4 is above V · 0.07": 5,
    },
    "twice V, the excess of the mean cost after 10,000 slots": {
        "the debt settles where V · 0.07 = Z · 0.4: what was spent too much until then grows with V": "stays",
        "a larger V asks more for the value": "halves",
    },
}
_USUALLY = {
    "symbols of the image": "tokens times symbols",
    "bits of a map of the places": "one bit a patch",
    "bits of a list of the places": "so many bits as tell 64 places apart, for each sent token",
    "most tokens for which the list is shorter": "6 bits a token against 64",
    "decibels that come out of the slip": "what is the power of x / √(‖x‖ / n)?",
    "share of a block's FLOPs": "24 t d² + 4 t² d for t tokens, at 16 + 2 and at 64 + 2",
    "slots before the first cheap one": "what does the debt grow by in a slot, and where does it turn the choice?",
    "twice V, the excess of the mean cost after 10,000 slots": "at which debt does the choice turn?",
}
