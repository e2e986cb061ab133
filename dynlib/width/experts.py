"""A mixture of experts: many feed-forward parts in the place of one, of which every token runs k.

A router gives each token a probability for each of the N experts, and the token goes to the k likeliest:

    p = softmax(W x)        T = the k largest of p        y = Σ_{i ∈ T} p_i · FF_i(x).

The layer holds N feed-forward parts and runs k of them for a token: parameters without FLOPs. Which k is a choice and
has no gradient; the router learns through the weight p_i alone. *Renormalised*, the weights are p_i / Σ_{j ∈ T} p_j.
Then for k = 1 the weight is 1 whatever the router says, and the router learns nothing.

Nothing in this makes tokens spread over the experts: see :mod:`dynlib.width.balance`. An expert may have a limited
number of places (``capacity``), and who finds none is dropped by this expert, which is reported.

Executed *gathered*, the choices are sorted by expert, and each expert runs once, on its tokens in one piece.

Sources: arXiv:1701.06538 (the layer), arXiv:2101.03961 (k = 1, capacity), arXiv:2401.04088 (renormalised, gated),
arXiv:2106.04426 (hash routing).
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.deciding import Execution, check_execution, recorded, report
from dynlib.deciding import chosen as flat
from dynlib.inputs import check_name, check_number, check_tensor, check_whole, widen
from dynlib.transforms import double, look

Routing = Literal["top_k", "hash", "random"]
ROUTINGS = ("top_k", "hash", "random")


class ExpertsChosen(NamedTuple):
    """What one layer decided in one call; * is the shape of the tokens."""

    logits: Float[Tensor, "*tokens experts"] | None
    """W x; None where a hash decided, and no router was asked."""
    chosen: Int[Tensor, "*tokens k"]
    """The experts that each token asked for, the likeliest first, counted from 0."""
    weight: Float[Tensor, "*tokens k"]
    """What their results are multiplied by."""
    kept: Bool[Tensor, "*tokens k"]
    """False where an expert had no place left, or the token is not there: it gave nothing."""
    present: Bool[Tensor, "*tokens"]
    """Which tokens are there."""
    experts: int
    """How many there are to choose from."""

    def load(self) -> Float[Tensor, " experts"]:
        """The share of all choices that fell on each expert, dropped ones counted."""
        asked = F.one_hot(self.chosen[self.present].flatten(), self.experts).sum(0)
        return asked / asked.sum()

    def dropped(self) -> float:
        """The share of the choices for which there was no place; 0.0 if there was one for all."""
        return 1 - self.kept[self.present].float().mean().item()


class MixtureOfExperts(nn.Module):
    """Feed-forward parts in the place of one, ``block.feed_forward = MixtureOfExperts(dim, 8, k=2)``.

    Args:
        dim: features of a token.
        experts: N, how many.
        k: how many of them run for a token. A larger one spends more.
        hidden: neurons of each expert; four times ``dim`` if left out.
        renormalise: divide the k weights by their sum. With k = 1 the router then has no gradient.
        capacity: places of an expert, as a multiple of its even share of the choices: ⌈capacity · k · tokens / N⌉, and
            all places that are needed if None. They are given to all first choices before all second ones, among
            these in the order of the tokens. A larger one drops fewer, and spends more.
        gated: experts as in :class:`dynlib.width.GatedFeedForward`, with the SiLU; else two layers and a GELU.
        bias: the experts' layers have one. The router has none.
        activation: a module in the place of the GELU, or of the SiLU; one for all experts.
        routing: who chooses. "top_k": the router. "random": anybody, and the weight is the router's, as a control.
            "hash": a table from token to expert, see :func:`dynlib.width.hash_by_token`, with weight 1 / k.
        execution: "gathered" runs what was chosen. "masked" runs all experts on all tokens, to be compared with and to
            be exported.
        generator: for random routing.

    ``k``, ``capacity``, ``renormalise``, ``routing`` and ``execution`` are knobs (:func:`dynlib.deciding.setting`). The
    records (:func:`dynlib.deciding.record`) are :class:`ExpertsChosen`. ``balance``, a buffer of one number an expert,
    is added to p for the choice alone (:func:`dynlib.width.balance_bias`).

    Raises:
        TypeError, ValueError: if a number is not what is said here, k is more than the experts, or an option has
            another name.
    """

    knobs = ("k", "capacity", "renormalise", "routing", "execution")
    reports = ExpertsChosen

    def __init__(
        self,
        dim: int,
        experts: int,
        *,
        k: int = 1,
        hidden: int | None = None,
        renormalise: bool = False,
        capacity: float | int | None = None,
        gated: bool = False,
        bias: bool = True,
        activation: nn.Module | None = None,
        routing: Routing = "top_k",
        execution: Execution = "gathered",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.dim: int = check_whole("dim", dim, least=1)
        self.experts: int = check_whole("experts", experts, least=1)
        self.hidden: int = check_whole("hidden", 4 * dim if hidden is None else hidden, least=1)
        self.k, self.renormalise, self.capacity = k, renormalise, capacity
        self.routing: Routing = routing
        self.execution: Execution = execution
        self.gated, self.generator = gated, generator
        self.activation = activation
        self.check_knobs()
        self.router = nn.Linear(dim, experts, bias=False)
        nn.init.normal_(self.router.weight, std=dim**-0.5)
        up, down = (experts, self.hidden, dim), (experts, dim, self.hidden)
        for name, shape in (("gate", up), ("expand", up), ("contract", down)):
            here = gated or name != "gate"
            weight = nn.init.normal_(torch.empty(shape), std=shape[-1] ** -0.5) if here else None
            self.register_parameter(f"{name}_weight", None if weight is None else nn.Parameter(weight))
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(shape[:2])) if here and bias else None)
        self.balance: Tensor
        self.register_buffer("balance", torch.zeros(experts))
        self._hashed: Tensor | None = None

    def forward(
        self, x: Float[Tensor, "*tokens dim"], *, present: Bool[Tensor, "*tokens"] | None = None
    ) -> Float[Tensor, "*tokens dim"]:
        """The weighted sum of what each token's experts give.

        Args:
            x: the tokens.
            present: False where a token only fills up a shorter sequence: it asks for nobody, takes no place, gets 0.

        Raises:
            TypeError: if the tokens are not floating-point, or ``present`` is not bool.
            ValueError: if shapes do not fit, a router logit is not finite, or nobody said which tokens a hash is for.
        """
        self.check_knobs()
        self._check(x, present)
        shape, tokens = x.shape[:-1], x.reshape(-1, self.dim)
        if present is not None:
            tokens = torch.where(present.flatten()[:, None], tokens, 0)  # it may be anything, NaN too
        there = torch.ones(shape, dtype=torch.bool, device=x.device) if present is None else present
        logits, chosen, weight = self._route(tokens, shape)
        kept = self._kept(chosen, there.flatten(), all_there=present is None)
        if recorded(self):
            said = None if logits is None else logits.view(*shape, self.experts)
            pairs = (*shape, self.k)
            report(
                self,
                ExpertsChosen(said, chosen.view(pairs), weight.view(pairs), kept.reshape(pairs), there, self.experts),
            )
        weight = weight.to(x.dtype)
        if self.execution == "masked":
            return self._masked(tokens, chosen, weight, kept).view_as(x)
        return self._gathered(tokens, chosen, weight, kept).view_as(x)

    def _route(self, x: Tensor, shape: torch.Size) -> tuple[Tensor | None, Tensor, Tensor]:
        if self.routing == "hash":
            if self._hashed is None or self._hashed.shape != shape:
                known = "nothing" if self._hashed is None else f"tokens of shape {list(self._hashed.shape)}"
                raise ValueError(
                    f"hash routing needs to know the tokens' numbers, has been told {known} and got tokens of shape "
                    f"{list(shape)}: call hash_by_token(model) once, then the model"
                )
            first = self._hashed.flatten()[:, None]
            chosen = (first + torch.arange(self.k, device=x.device)) % self.experts
            return None, chosen, x.new_full(chosen.shape, 1 / self.k)
        logits = widen(self.router(x))
        look(_check_logits, logits)
        # p = softmax(W x)
        p = logits.softmax(-1)
        scores = p.detach() + self.balance
        if self.routing == "random":
            device = None if self.generator is None else self.generator.device
            scores = torch.rand(p.shape, generator=self.generator, device=device).to(p)
        # T, the k largest; a stable sort gives ties to the expert with the smaller number
        chosen = scores.sort(dim=-1, descending=True, stable=True).indices[:, : self.k]
        # p_i, or p_i / Σ p_j over T, which is the softmax of the logits of T
        weight = logits.gather(-1, chosen).softmax(-1) if self.renormalise else p.gather(-1, chosen)
        return logits, chosen, weight

    def _kept(self, chosen: Tensor, there: Tensor, *, all_there: bool) -> Tensor:
        """Who finds a place, [tokens, k]."""
        kept = there[:, None].expand_as(chosen)
        if self.capacity is None:
            return kept
        number = len(chosen) if all_there else double(there.sum())
        room = self.capacity * self.k * number / self.experts - 1e-9  # 1.1 · 10 is 11.000000000000002 and means 11
        room = torch.ceil(room) if isinstance(room, Tensor) else math.ceil(room)
        asked = chosen.T.flatten()  # all first choices, then all second ones, …
        queue = F.one_hot(asked, self.experts) * kept.T.flatten()[:, None]
        ahead = queue.cumsum(0).gather(1, asked[:, None])[:, 0]  # itself among them
        return kept & (ahead <= room).view(self.k, -1).T

    def _gathered(self, x: Tensor, chosen: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
        pairs = flat(kept)  # choice number c is that of token c // k
        asked = chosen.flatten().index_select(0, pairs)
        load = torch.bincount(asked, minlength=self.experts).tolist()
        order = pairs.index_select(0, asked.argsort(stable=True))
        token = order.div(self.k, rounding_mode="floor")
        # one piece an expert: whose tokens they are, the tokens, their weights
        pieces = [token, x.index_select(0, token), weight.flatten().index_select(0, order)[:, None]]
        y = torch.zeros_like(x)
        for parts, where, piece, p in zip(self._each(), *(whole.split(load) for whole in pieces), strict=True):
            if len(where):
                # y = Σ p_i · FF_i(x)
                y.index_add_(0, where, (p * self._expert(piece, *parts)).to(x.dtype))
        return y

    def _masked(self, x: Tensor, chosen: Tensor, weight: Tensor, kept: Tensor) -> Tensor:
        every = torch.stack([self._expert(x, *parts) for parts in self._each()], 1)  # [tokens, experts, dim]
        share = torch.zeros(len(x), self.experts, dtype=x.dtype, device=x.device)
        share = share.scatter_add(1, chosen, weight * kept)
        # what is not chosen may be infinite and still gives nothing
        return torch.where(share[..., None] != 0, share[..., None] * every, 0).sum(1)

    def _each(self) -> Iterator[tuple[Any, ...]]:
        """Weight and bias of each expert's layers, taken apart at once, so that gradients are put together once."""
        nothing = [(None, None)] * self.experts
        layers = []
        for name in ("gate", "expand", "contract"):
            weight, bias = getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias")
            biases = [None] * self.experts if bias is None else bias.unbind()
            layers.append(nothing if weight is None else zip(weight.unbind(), biases, strict=True))
        return zip(*layers, strict=True)

    def _expert(self, x: Tensor, gate: Any, expand: Any, contract: Any) -> Tensor:
        hidden = F.linear(x, *expand)
        if self.activation is None:
            hidden = F.gelu(hidden) if gate[0] is None else F.silu(F.linear(x, *gate)) * hidden
        else:
            hidden = self.activation(hidden) if gate[0] is None else self.activation(F.linear(x, *gate)) * hidden
        return F.linear(hidden, *contract)

    def _check(self, x: object, present: object) -> None:
        check_tensor(x, "the tokens")
        assert isinstance(x, Tensor)
        if not x.is_floating_point():
            raise TypeError(f"the tokens must be floating-point; got {x.dtype}")
        if x.ndim < 1 or x.shape[-1] != self.dim:
            raise ValueError(f"the tokens must be [*, {self.dim}]; got {list(x.shape)}")
        if x.numel() == 0:
            raise ValueError(f"there are no tokens: the shape is {list(x.shape)}")
        if present is not None:
            check_tensor(present, "present")
            assert isinstance(present, Tensor)
            if present.dtype != torch.bool:
                raise TypeError(f"present must be bool, True where a token is there; got {present.dtype}")
            if present.shape != x.shape[:-1]:
                raise ValueError(f"present must be {list(x.shape[:-1])}, as the tokens are; got {list(present.shape)}")

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        check_whole("k", self.k, least=1, most=self.experts, what="experts that run for a token")
        if not isinstance(self.renormalise, bool):
            raise TypeError(f"renormalise must be True or False; got {self.renormalise!r}")
        if self.capacity is not None and check_number("capacity", self.capacity, least=0) == 0:
            raise ValueError("capacity must be above 0: at 0 no expert has a place; None gives all the places needed")
        check_name("routing", self.routing, ROUTINGS)
        check_execution(self.execution)

    def extra_repr(self) -> str:
        """What ``print`` shows of the layer."""
        return f"dim={self.dim}, experts={self.experts}, k={self.k}, hidden={self.hidden}, gated={self.gated}"


def _check_logits(logits: Tensor) -> None:
    if not logits.isfinite().all():
        raise ValueError("a router logit is not finite: the tokens hold NaN or infinity, or the router's weights do")
