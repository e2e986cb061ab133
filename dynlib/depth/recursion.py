"""A tiny network that thinks for long: it improves its own answer, again and again.

One network of two layers works on three things for every token: the question x, the answer so far y, and a latent z, in
which it thinks. A *latent recursion* thinks n times and then improves the answer once,

    n times:  z ← net(x + y + z),        then:  y ← net(y + z),

with the same network for both: that x is in it or not tells it what to do. A *deep recursion* does this T times, T − 1
of them without a graph, and hands (y, z) on, detached. So a step costs T (n + 1) network calls, of which n + 1 have a
graph; and as (y, z) goes into the next step, and from there into the one after it, the depth has no end, and the memory
does not grow. Each step is trained to give the right answer (:func:`dynlib.depth.deep_supervision`), and q, read from
y, to tell whether it has: a puzzle is given back, and leaves the batch, as soon as q is above a threshold.

In the place of the paper's SwiGLU stands a GELU, of its rotary positions a learned vector for each, and q is read from
the mean of all tokens, as there is no further token to read it from.

Source: arXiv:2510.04871, Figure 3 and its public code (norms after the residual, scales, starting values).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import Attention, FeedForward
from dynlib.deciding import Execution, check_execution, chosen, report
from dynlib.inputs import check_name, check_number, check_tensor, check_whole
from dynlib.transforms import look

Mixer = Literal["attention", "mlp"]
State = tuple[Tensor, Tensor]
"""The answer y and the latent z, each [batch, tokens, dim]."""


class Solved(NamedTuple):
    """What puzzles left with."""

    answers: Int[Tensor, "batch tokens"]
    """The likeliest token of each place."""
    logits: Float[Tensor, "batch tokens vocabulary"]
    steps: Int[Tensor, " batch"]
    """After how many steps, from 1 on."""
    halting: Float[Tensor, " batch"]
    """q of that step, a logit: how sure the model was that the answer is right."""


class RecursiveBlock(nn.Module):
    """A layer with its norms after the residual: however often it is called, the features keep their size.

    x ← rms(x + mix(x)), then x ← rms(x + FF(x)), and rms(x) = x / √(mean x²) has no weights.

    Args:
        dim: features of a token.
        heads: of the attention.
        hidden: features inside the feed-forward part; four times ``dim`` if left out.
        length: number of tokens, which an "mlp" needs to know.
        mixer: "attention"; or "mlp", a feed-forward network over the tokens, for each feature: for short sequences that
            all have one length.
    """

    def __init__(
        self, dim: int, heads: int, *, hidden: int | None = None, length: int, mixer: Mixer = "attention"
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.mix = Attention(dim, heads) if mixer == "attention" else FeedForward(length)
        self.feed_forward = FeedForward(dim, hidden)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        """One layer."""
        mixed = self.mix(x) if self.mixer == "attention" else self.mix(x.transpose(1, 2)).transpose(1, 2)
        x = F.rms_norm(x + mixed, x.shape[-1:], eps=1e-5)
        return F.rms_norm(x + self.feed_forward(x), x.shape[-1:], eps=1e-5)


class TinyRecursiveModel(nn.Module):
    """Puzzles in, answers out, one token for each place of the puzzle.

    Args:
        vocabulary: number of different tokens, in puzzles and answers.
        length: number of tokens of a puzzle.
        dim, heads, hidden: as in :class:`RecursiveBlock`.
        depth: layers of the network.
        mixer: as in :class:`RecursiveBlock`.
        n, T: thoughts before the answer is improved, and how often that is done in a step.
        steps: N_sup, the most steps that a puzzle gets.
        gradient: how many of the last network calls of a step have a graph, from 1 to n + 1; all n + 1 if None. With 2
            it is the one-step gradient of the models before; with 1 what embeds the puzzle learns nothing.

    ``steps``, ``T`` and ``n`` are the knobs (:func:`dynlib.deciding.setting`), checked whenever they are used; more
    spend more. The records of :meth:`predict` (:func:`dynlib.deciding.record`) are :class:`Solved`.

    Raises:
        TypeError: if a number is no int.
        ValueError: if one is below 1, ``gradient`` above n + 1, or the mixer has another name.
    """

    knobs = ("steps", "T", "n")
    reports = Solved

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        dim: int,
        depth: int = 2,
        heads: int = 4,
        hidden: int | None = None,
        mixer: Mixer = "attention",
        n: int = 6,
        T: int = 3,
        steps: int = 16,
        gradient: int | None = None,
    ) -> None:
        super().__init__()
        check_name("mixer", mixer, ("attention", "mlp"))
        self.vocabulary, self.length = (
            check_whole(name, value, least=1) for name, value in (("vocabulary", vocabulary), ("length", length))
        )
        check_whole("depth", depth, least=1)
        self.n, self.T, self.steps, self.gradient = n, T, steps, gradient
        self.check_knobs()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(torch.empty(length, dim))
        self.net = nn.Sequential(
            *[RecursiveBlock(dim, heads, hidden=hidden, length=length, mixer=mixer) for _ in range(depth)]
        )
        self.output_head = nn.Linear(dim, vocabulary)
        self.halting_head = nn.Linear(dim, 1)
        for name in ("y_start", "z_start"):  # drawn once, and not learned
            self.register_buffer(name, nn.init.trunc_normal_(torch.empty(dim)))
        for weight in (self.embedding.weight, self.position):
            nn.init.normal_(weight, std=dim**-0.5)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.halting_head.weight)  # at first it is sure of nothing: σ(−5) = 0.7 %
        nn.init.constant_(self.halting_head.bias, -5.0)

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is no number from 1 on, or a gradient that is too deep."""
        for name in self.knobs:
            check_whole(name, getattr(self, name), least=1)
        if self.gradient is not None:
            check_whole("gradient", self.gradient, least=1, most=self.n + 1, what="network calls")

    def embed(self, puzzles: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """The question x.

        Raises:
            TypeError: if the puzzles are no tensor of int64 or int32.
            ValueError: if they are not [batch, length], there are none, or a token is outside the vocabulary.
        """
        check_tensor(puzzles, "the puzzles")
        if puzzles.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"puzzles must be int64 or int32; got {puzzles.dtype}")
        if puzzles.ndim != 2 or puzzles.shape[1] != self.length or len(puzzles) == 0:
            raise ValueError(
                f"puzzles must be [batch, {self.length}], at least one; got {tuple(puzzles.shape)}: .flatten(1) a grid"
            )
        look(self._check_vocabulary, puzzles)
        # features of size 1, half of it from the position
        return (self.embedding(puzzles) + self.position) * (self.position.shape[1] / 2) ** 0.5

    def start(self, x: Float[Tensor, "batch tokens dim"]) -> State:
        """(y, z) before the first step, the same for every puzzle and token."""
        return self.get_buffer("y_start").expand_as(x), self.get_buffer("z_start").expand_as(x)

    def latent_recursion(self, x: Tensor, y: Tensor, z: Tensor, n: int | None = None) -> State:
        """Think n times, then improve the answer: n + 1 network calls. Arguments and results are [batch, tokens, dim].

        Raises:
            TypeError: if n is no int.
            ValueError: if n is below 1, or ``gradient`` above n + 1.
        """
        n = self.n if n is None else check_whole("n", n, least=1)
        graph = n + 1 if self.gradient is None else check_whole("gradient", self.gradient, least=1, most=n + 1)
        for call in range(n):
            with torch.set_grad_enabled(torch.is_grad_enabled() and call > n - graph):
                # z ← net(x + y + z)
                z = self.net(x + y + z)
        # y ← net(y + z)
        return self.net(y + z), z

    def deep_recursion(
        self, x: Tensor, y: Tensor, z: Tensor, n: int | None = None, T: int | None = None
    ) -> tuple[State, Float[Tensor, "batch tokens vocabulary"], Float[Tensor, " batch"]]:
        """One step: T − 1 latent recursions without a graph, and one with.

        Returns:
            (y, z), detached; the logits of the answer; and q.

        Raises:
            TypeError: if n or T is no int.
            ValueError: if one is below 1, or ``gradient`` above n + 1.
        """
        T = check_whole("T", self.T if T is None else T, least=1)
        with torch.no_grad():
            for _ in range(T - 1):
                y, z = self.latent_recursion(x, y, z, n)
        y, z = self.latent_recursion(x, y, z, n)
        return (y.detach(), z.detach()), self.output_head(y), self.halting_head(y.mean(1))[:, 0]

    def forward(self, puzzles: Int[Tensor, "batch tokens"], *, steps: int | None = None) -> Tensor:
        """The logits after all steps, [batch, tokens, vocabulary]; nobody halts.

        Raises:
            TypeError, ValueError: as :meth:`embed` does, and for ``steps`` that are no number from 1 on.
        """
        x = self.embed(puzzles)
        state = self.start(x)
        for _ in range(self._steps(steps)):
            state, logits, _ = self.deep_recursion(x, *state)
        return logits

    @torch.no_grad()
    def trace(
        self, puzzles: Int[Tensor, "batch tokens"], *, steps: int | None = None
    ) -> tuple[Float[Tensor, "steps batch tokens vocabulary"], Float[Tensor, "steps batch"]]:
        """The logits and q after every step, while nobody halts: what a puzzle looks like while it is solved.

        Raises:
            TypeError, ValueError: as :meth:`forward` does.
        """
        x = self.embed(puzzles)
        state, seen = self.start(x), []
        for _ in range(self._steps(steps)):
            state, *read = self.deep_recursion(x, *state)
            seen.append(read)
        logits, halting = zip(*seen, strict=True)
        return torch.stack(logits), torch.stack(halting)

    @torch.no_grad()
    def predict(
        self,
        puzzles: Int[Tensor, "batch tokens"],
        *,
        threshold: float | int | None = 0.0,
        steps: int | None = None,
        execution: Execution = "gathered",
        rows: int | None = None,
    ) -> Solved:
        """Let every puzzle have the steps that it needs, as many as when it is alone in the batch.

        Args:
            puzzles: as :meth:`embed` takes them.
            threshold: a puzzle leaves after the first step with a q above it; 0 is as likely right as wrong. A larger
                one spends more. None: nobody leaves before the last step.
            steps: the most steps, in place of the model's.
            execution: "gathered": who has left the batch is not computed any more. "masked": all steps are computed for
                all, and each puzzle's own is taken. They agree up to rounding.
            rows: with "gathered", so many tokens at a time at most, but always a whole puzzle: few enough to stay in a
                cache. Whoever leaves makes room for the next. All at once if left out.

        Raises:
            TypeError, ValueError: as :meth:`forward` does, and for a threshold that is no finite number, a q that is
                NaN, an execution of another name, or ``rows`` below 1 or given with "masked".
        """
        check_execution(execution, rows=rows)
        limit = torch.inf if threshold is None else check_number("threshold", threshold)
        if execution == "masked":
            logits, halting = self.trace(puzzles, steps=steps)
            look(_check_halting, halting)
            enough = halting > limit
            enough[-1] = True
            first, sample = enough.int().argmax(0), torch.arange(len(puzzles), device=puzzles.device)
            logits, count, halting = logits[first, sample], first + 1, halting[first, sample]
        else:
            x = self.embed(puzzles)
            some = len(x) if rows is None else max(rows // self.length, 1)
            logits, count, halting = self._gathered(x, limit, self._steps(steps), some)
        solved = Solved(logits.argmax(-1), logits, count, halting)
        report(self, solved)
        return solved

    def _gathered(self, puzzles: Tensor, limit: float, steps: int, some: int) -> tuple[Tensor, Tensor, Tensor]:
        """At most so many at a time: whoever leaves makes room for the next, as all steps are by one network."""
        y_start, z_start = self.start(puzzles)
        who = torch.arange(len(puzzles), device=puzzles.device)
        at_work, waiting = who[:some], who[some:]
        x, y, z = (part[at_work] for part in (puzzles, y_start, z_start))
        count = torch.zeros_like(at_work)
        gone: list[tuple[Tensor, ...]] = []
        while len(at_work):
            (y, z), logits, halting = self.deep_recursion(x, y, z)
            look(_check_halting, halting)
            count = count + 1
            enough = (halting > limit) | (count == steps)
            leave = chosen(enough)
            if len(leave):
                gone.append((at_work[leave], logits[leave], count[leave], halting[leave]))
                stay, new, waiting = chosen(~enough), waiting[: len(leave)], waiting[len(leave) :]
                x, y, z = (
                    torch.cat([old[stay], fresh[new]]) for old, fresh in ((x, puzzles), (y, y_start), (z, z_start))
                )
                at_work, count = torch.cat([at_work[stay], new]), torch.cat([count[stay], torch.zeros_like(new)])
        sample, logits, count, halting = (torch.cat(part) for part in zip(*gone, strict=True))
        order = sample.argsort()
        return logits[order], count[order], halting[order]

    def _steps(self, steps: int | None) -> int:
        self.check_knobs()
        return check_whole("steps", self.steps if steps is None else steps, least=1)

    def _check_vocabulary(self, puzzles: Tensor) -> None:
        low, high = int(puzzles.min()), int(puzzles.max())
        if low < 0 or high >= self.vocabulary:
            raise ValueError(f"puzzles must lie in 0 … {self.vocabulary - 1}; got {low} … {high}")


def _check_halting(halting: Tensor) -> None:
    if halting.isnan().any():
        raise ValueError("a q is NaN: look for NaN in the weights")
