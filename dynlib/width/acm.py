"""Adaptive computation modules: a layer in N learners that add up, of which every token runs as many as it needs.

A learner is a small two-layer part with a bias between its layers alone, and the first k of them give

    s_n(z) = GELU(z W_nᵀ + b_n) V_n        h(z, k) = Σ_{n ≤ k} s_n(z),        h(z, 0) = 0.

The learners lie one under the other in one matrix W, one bias b and one matrix V, so that the first k are the first
rows of each, in one piece, and h(z, k) is one two-layer part that is k times as wide as a learner. h(z, N) is the dense
one.

A small gate says of each token how many learners it gets. Trained, the choice is drawn, k ~ softmax(gate(z)), by
Gumbel noise, and its gradient is the relaxed one's, straight through. Learner n then is multiplied by

    u_n = Σ_{j ≥ n} choice_j,    which is 1 for n ≤ k and 0 beyond,    y = Σ_n u_n s_n(z),

so that the gradient of whatever comes after reaches the gate: also of a learner that did not run. Evaluated, the choice
is the likeliest one, without noise.

Source: arXiv:2312.10193. How the parts are trained: :mod:`dynlib.width.acm_training`, :mod:`dynlib.width.acm_losses`;
how a trained model is made of such parts: :mod:`dynlib.width.acm_conversion`.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.choice import gumbel_softmax
from dynlib.deciding import Execution, check_execution, chosen, recorded, report
from dynlib.inputs import check_number, check_scale, check_tensor, check_top, check_whole, widen

Kernel = Callable[..., Tensor]
"""Computes h(z, k) as :func:`gathered` does, from tokens, their k, W, b, V and ``each``."""

ROWS = 512  # tokens at a time: their hidden features stay in a cache


class LearnersChosen(NamedTuple):
    """What one layer decided in one call; * is the shape of the tokens."""

    logits: Float[Tensor, "*tokens choices"] | None
    """What the gate said of 0 … N learners, or of 1 … N where none is not allowed, less the price; None if it was not
    asked."""
    learners: Int[Tensor, "*tokens"]
    """k, how many run for each token."""
    used: Float[Tensor, "*tokens learners"] | None
    """u, 1 for a learner that runs and 0 for one that does not, with the choice's gradient; None in evaluation."""
    of: int
    """N, how many there are."""
    flops: int
    """Of one learner for one token, a multiply-add being two."""

    def share(self) -> float:
        """Σ k / Σ N, the share of the learners' work that was done."""
        return self.learners.double().mean().item() / self.of


class AdaptiveComputationModule(nn.Module):
    """N learners and a gate in the place of one feed-forward part or of one linear projection.

    Args:
        dim: features of a token.
        hidden: neurons of all learners together, a multiple of their number; four times ``dim`` if left out.
        out: features that come out; ``dim`` if left out.
        learners: N, how many there are.
        least: the fewest that a token may get, 1 or 0. At 0 a token may get zeros: leave that to modules whose result
            is *added* to the token (a feed-forward part, an attention's output), where it means "unchanged". What
            replaces the token, as a query, needs 1.
        gate: neurons of the gate, a two-layer part with a GELU that ends in one logit for each number of learners.
        price: λ, subtracted from the logits once for each learner: the choice is that of gate(z)_k − λ k. **The knob**:
            a larger one spends less, 0 is what the gate was trained to, a negative one spends more. The *budget* β, a
            share of the learners' work, is not a knob but what a model is trained for
            (:func:`dynlib.width.budget_loss`); which price a share of the work is, is found by trying.
        fixed: so many learners for every token, and the gate is not asked; None lets it choose. 0 and all are allowed
            whatever ``least`` is.
        tau: the temperature of the relaxed choice, whose gradient the gate gets in training.
        execution: "gathered" runs the learners that were chosen, of tokens sorted by their number. "masked" runs all,
            and is there to be compared with and to be exported. "fused" runs what was chosen in ``kernel``. In training
            mode all learners run, whatever it says, as the gate's gradient needs them.
        rows: at most so many tokens go through the learners at a time, when gathered.
        generator: for the choice in training.

    ``price``, ``fixed``, ``tau``, ``execution`` and ``rows`` are knobs (:func:`dynlib.deciding.setting`), checked
    whenever the layer is used. The records (:func:`dynlib.deciding.record`) are :class:`LearnersChosen`. ``kernel`` is
    None until somebody sets it, as :func:`dynlib.kernels.fuse` does.

    Raises:
        TypeError, ValueError: if a number is not what is said here, there are more learners than neurons, or the
            neurons do not divide among the learners.
    """

    knobs = ("price", "fixed", "tau", "execution", "rows")
    reports = LearnersChosen

    def __init__(
        self,
        dim: int,
        hidden: int | None = None,
        *,
        out: int | None = None,
        learners: int = 4,
        least: int = 1,
        gate: int = 16,
        price: float | int = 0.0,
        fixed: int | None = None,
        tau: float | int = 0.8,
        execution: Execution = "gathered",
        rows: int = ROWS,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim: int = check_whole("dim", dim, least=1)
        self.out: int = check_whole("out", dim if out is None else out, least=1)
        self.learners: int = check_whole("learners", learners, least=1)
        self.hidden: int = check_whole("hidden", 4 * dim if hidden is None else hidden, least=1)
        self.least: int = check_whole("least", least, least=0, most=1, what="learners of a token")
        if self.hidden % learners:
            least_hidden, more = -(-self.hidden // learners) * learners, learners > self.hidden
            problem = "there are more learners than neurons" if more else "the neurons do not divide among the learners"
            raise ValueError(f"{problem}: hidden={self.hidden}, learners={learners}; take hidden={least_hidden}")
        self.price, self.fixed, self.tau, self.rows = price, fixed, tau, rows
        self.execution: Execution = execution
        self.generator = generator
        self.kernel: Kernel | None = None
        self.check_knobs()
        # one row a neuron; those of learner n are rows n·hidden/N …, so that the first k learners lie in one piece
        self.expand = nn.Parameter(nn.init.normal_(torch.empty(self.hidden, dim), std=dim**-0.5))
        self.bias = nn.Parameter(torch.zeros(self.hidden))
        self.contract = nn.Parameter(nn.init.normal_(torch.empty(self.hidden, self.out), std=self.hidden**-0.5))
        choices = learners + 1 - self.least
        self.gate = nn.Sequential(
            nn.Linear(dim, check_whole("gate", gate, least=1)), nn.GELU(), nn.Linear(gate, choices)
        )

    @property
    def each(self) -> int:
        """Neurons of one learner."""
        return self.hidden // self.learners

    def forward(self, z: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "*tokens out"]:
        """h(z, k) for every token, with the k that its gate chose. No tokens give no results.

        Raises:
            TypeError: if the tokens are not floating-point, or not of the number type of the weights.
            ValueError: if they have another number of features, a gate's logit is NaN or infinite, or a knob is not as
                the class says.
            RuntimeError: if it is gathered where nobody may look at the choice.
        """
        self.check_knobs()
        self._check(z)
        shape = z.shape[:-1]
        logits = self._logits(z) if self.fixed is None else None
        k, used = self._choose(logits, shape, z.device)
        if recorded(self):
            flops = 2 * self.each * (self.dim + self.out)
            report(self, LearnersChosen(logits, k, used, self.learners, flops))
        weights = self.expand, self.bias, self.contract
        if self.training or self.execution == "masked":
            runs = k[..., None] > torch.arange(self.learners, device=k.device)
            return self._masked(z, runs if used is None else used)
        tokens, number = z.reshape(-1, self.dim), k.flatten()
        if self.execution == "fused":
            y = cast(Kernel, self.kernel)(tokens, number, *weights, each=self.each)
        else:
            y = gathered(tokens, number, *weights, each=self.each, rows=self.rows)
        return y.view(*shape, self.out)

    def _logits(self, z: Tensor) -> Float[Tensor, "*tokens choices"]:
        """gate(z)_k − λ k."""
        number = torch.arange(self.least, self.learners + 1, device=z.device)
        return widen(self.gate(z)) - self.price * number

    def _choose(
        self, logits: Tensor | None, shape: torch.Size, device: torch.device
    ) -> tuple[Int[Tensor, "*tokens"], Float[Tensor, "*tokens learners"] | None]:
        """k, and in training u."""
        if logits is None:
            k = torch.full(shape, self.fixed or 0, device=device)
            return k, None
        if not self.training:
            top, k = logits.max(-1)
            check_top(top)
            return k + self.least, None
        if logits.numel() == 0:
            return torch.zeros(shape, dtype=torch.int64, device=device), logits.new_zeros(*shape, self.learners)
        choice = gumbel_softmax(logits, self.tau, hard=True, generator=self.generator)
        # u_n = Σ_{j ≥ n} choice_j: exactly 1 or 0, as a sum of a one and zeros
        used = choice.flip(-1).cumsum(-1).flip(-1)[..., 1 - self.least :]
        return (used.detach() > 0.5).sum(-1), used

    def _masked(self, z: Tensor, used: Tensor) -> Tensor:
        """All learners, times u."""
        hidden = F.gelu(F.linear(z, self.expand, self.bias)).unflatten(-1, (self.learners, self.each))
        if used.dtype == torch.bool:
            hidden = torch.where(used[..., None], hidden, 0)  # what does not run may be infinite and gives nothing
        else:
            hidden = hidden * used[..., None].to(hidden.dtype)
        return hidden.flatten(-2) @ self.contract

    def prefixes(self, z: Float[Tensor, "*tokens dim"]) -> Float[Tensor, "learners *tokens out"]:
        """h(z, 1), h(z, 2), …, h(z, N), for the price of the last: whatever the gate says."""
        self._check(z)
        hidden = F.gelu(F.linear(z, self.expand, self.bias)).unflatten(-1, (self.learners, self.each))
        parts = zip(hidden.unbind(-2), self.contract.view(self.learners, self.each, self.out).unbind(), strict=True)
        return torch.stack([part @ weight for part, weight in parts]).cumsum(0)

    def _check(self, z: object) -> None:
        check_tensor(z, "the tokens")
        z = cast(Tensor, z)
        if not z.is_floating_point():
            raise TypeError(f"tokens must be floating-point features; got {z.dtype}: embed them first")
        if z.dtype != self.expand.dtype and not torch.is_autocast_enabled(z.device.type):
            raise TypeError(
                f"the tokens are {z.dtype} and the weights {self.expand.dtype}: convert the one or the other, or run "
                "it under torch.autocast"
            )
        if z.ndim == 0 or z.shape[-1] != self.dim:
            raise ValueError(f"tokens must be [..., {self.dim}]; got {tuple(z.shape)}")

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        check_number("price", self.price)
        check_scale("tau", self.tau)
        check_whole("rows", self.rows, least=1, what="tokens")
        if self.fixed is not None:
            check_whole("fixed", self.fixed, least=0, most=self.learners, what="learners for every token")
        check_execution(self.execution, fused=True)
        if self.execution == "fused" and self.kernel is None:
            raise ValueError(
                "execution='fused' needs a kernel, and this layer has none: call dynlib.kernels.fuse(model)"
            )

    def extra_repr(self) -> str:
        """What ``print`` shows of the layer."""
        return f"dim={self.dim}, hidden={self.hidden}, out={self.out}, learners={self.learners}, least={self.least}"


def gathered(
    z: Float[Tensor, "tokens dim"],
    k: Int[Tensor, " tokens"],
    expand: Float[Tensor, "hidden dim"],
    bias: Float[Tensor, " hidden"],
    contract: Float[Tensor, "hidden out"],
    *,
    each: int,
    rows: int = ROWS,
) -> Float[Tensor, "tokens out"]:
    """h(z, k), computing the learners that were chosen and no others.

    Tokens with more learners come first. Learner n then runs on the first of them, those with k ≥ n. Tokens of equal k
    go through the same first learners, which are one two-layer part: one pair of products for them all.

    Args:
        z: the tokens.
        k: how many learners each of them runs.
        expand, bias, contract: W, b and V, a row a neuron, the learners one after the other.
        each: neurons of a learner.
        rows: at most so many tokens at a time.

    Raises:
        RuntimeError: where nobody may look at k, in a graph that is exported or under ``vmap``.
    """
    autocast = torch.is_autocast_enabled(z.device.type)
    dtype = torch.get_autocast_dtype(z.device.type) if autocast else z.dtype
    y = torch.empty(len(z), contract.shape[1], dtype=dtype, device=z.device)
    # written again and again, so that it stays in a cache; autograd and autocast want tensors of their own
    plain = not autocast and not torch.is_grad_enabled()
    room = torch.empty(min(rows, len(z)) * len(expand), dtype=dtype, device=z.device) if plain else None
    for n in range(len(expand) // each, 0, -1):
        wide = n * each
        w, b, v = expand[:wide], bias[:wide], contract[:wide]
        for some in chosen(k == n).split(rows):
            if len(some):  # h(z, n) = GELU(z W[:n]ᵀ + b[:n]) V[:n]
                part = z.index_select(0, some)
                if room is None:
                    hidden = F.gelu(F.linear(part, w, b))
                else:
                    hidden = room[: len(some) * wide].view(-1, wide)
                    torch.ops.aten.gelu_(torch.addmm(b, part, w.T, out=hidden))
                y.index_copy_(0, some, hidden @ v)
    return y.index_fill_(0, chosen(k == 0), 0)
