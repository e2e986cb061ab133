"""Tokens that are worth their channel: the device sends some of them, as many as a budget allows, the server goes on.

A vision transformer is cut in two. The device embeds the image and runs the first blocks, with one more token, which
says how much may be sent: for a budget α in (0, 1], a share of the tokens,

    t = α · b_low + (1 − α) · b_up,        appended last, and never sent.

After each block of the device, every token x_i has a soft mask, which only shrinks from block to block,

    m_i^l = m_i^{l−1} · ReLU(σ(w_x · x_i + c_x) − σ(w_t · t + c_t)),        m_i^0 = 1.

Its own features say what it is worth, and the budget token, which has seen the image too, says what is asked for. A
token with m ≤ threshold is gone: the blocks that follow do not compute it, nobody attends to it, and it is not sent.
The class token always is, as the server reads its answer from it.

What is left is sent by a small joint source–channel code: a linear map to a few complex symbols a token, the power of
one for each real number, noise, and a linear map back,

    e_i = E (x_i − p_i),    y_i = channel(e_i),    x̂_i = D y_i / (1 + σ²) + p_i,        σ² = 10^(−s / 10).

p_i is what is expected at the place i, which both sides know. The receiver knows the ratio s, as receivers estimate it
anyway, and 1 / (1 + σ²) is the factor with the least squared error for symbols of power one that do not fade.

*Which* tokens these are is told beside it, without errors: ⌈log₂(n + 1)⌉ bits for their number k, and ⌈log₂ C(n, k)⌉
for the choice. :func:`dynlib.edge.symbols_sent` counts them in symbols, at the log₂(1 + SNR) bits a symbol that no code
exceeds.

One model serves every budget: α is drawn for each image in training, and is a knob afterwards.

Source: arXiv:2505.17604, and arXiv:2405.02330 before it: the budget token, the masks, their product, the loss. Here it
is otherwise that

- a token is there or it is not, in training too, and the gradient of m is that of a factor m on everybody's attention
  to it. A factor m on the token itself would be taken out again by the norm that a block begins with.
- the budget term counts tokens. The mean mask is α also where all masks are α, and all tokens are sent. And it sees
  behind the ReLU, so that who is not sent may be sent again (:func:`dynlib.edge.transmission_loss`).
- gates stand after a block, and read features as they are, normalised, without a gradient into them: with one, the
  budget pulls at the features that the answer is read from.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import Block, ViT
from dynlib.choice import straight_through
from dynlib.deciding import Execution, check_execution, chosen, knob_of, report
from dynlib.edge.channel import AWGNChannel
from dynlib.inputs import check_number, check_whole
from dynlib.transforms import look

GAIN = 20.0
"""What gates multiply their sums by: they begin with nothing, beside a backbone that is only tuned, and are to learn
faster than it does at the same rate."""


class Sent(NamedTuple):
    """What crosses: a codeword for each token that is sent, and which these are."""

    codewords: Float[Tensor, "batch tokens numbers"]
    """Two numbers make a complex symbol. Zero where nothing is sent; what is received there is read by nobody."""
    sent: Bool[Tensor, "batch tokens"]
    """The side information. Token 0 is the class token."""
    weight: Float[Tensor, "batch tokens"]
    """1 where a token is sent, 0 elsewhere, with the gradient of the soft mask: for training."""


class TokensSent(NamedTuple):
    """What the device did with a batch. Blocks are counted from 1 in words; they are dimension 1 here."""

    sent: Bool[Tensor, "batch tokens"]
    masks: Float[Tensor, "batch blocks tokens"]
    """m after each block of the device, with its gradient."""
    margins: Float[Tensor, "batch blocks tokens"]
    """GAIN · (w_x · x + c_x − (w_t · t + c_t)) after each block: not positive where this gate closes. Infinite for the
    class token. Of a token that was dropped before, executions give different ones."""
    kept: Bool[Tensor, "batch blocks tokens"]
    """Whom each block left; the last is ``sent``."""
    budget: Float[Tensor, " batch"]
    """α of each image."""
    symbols: Int[Tensor, " batch"]
    """Complex symbols of the tokens of each image, without those that say which they are."""
    flops: Int[Tensor, " batch"]
    """Of the device when it computes only whom the blocks before have left."""


class TokenTransmitter(nn.Module):
    """A vision transformer on both sides of a channel. The model is used, not copied: what trains here trains there.

    Args:
        model: a trained :class:`dynlib.backbone.ViT`.
        after: how many blocks the device runs, from 1 to depth − 1.
        symbols: complex symbols a token, from 1 to dim / 2.
        channel: between the two, called with codewords [batch, tokens, 2 · symbols].
        budget: α, the share of the tokens that may be sent, in (0, 1]. A larger one spends more.
        threshold: what a mask must exceed for its token to stay, in [0, 1).
        execution: "gathered": each block computes only whom the ones before have left, the server only what was sent.
            "masked": everything is computed, and nobody attends to the others. They agree up to rounding. Training
            mode is masked under both names, so that the loss sees of everybody what the blocks make of it.
        bias: c_x and −c_t at the start, when all tokens are to stay.

    ``budget``, ``snr`` (of the channel, in decibels; a larger one is less noise), ``threshold`` and ``execution`` are
    knobs (:func:`dynlib.deciding.setting`), checked at every use. Records (:func:`dynlib.deciding.record`) are
    :class:`TokensSent`, one for each call of :meth:`encode`. Hooks on the model's blocks run only where a block gets
    all tokens: otherwise its parts are called, on those that are left or with their masks.

    Raises:
        TypeError: if the model is no ViT, its blocks have weights in other layers than ``nn.Linear``, or a number is
            none.
        ValueError: if ``after``, ``symbols`` or a knob is out of its range, or the model has a second head, norms
            behind its parts, rotary positions, causal attention, or keys that heads share.
    """

    knobs = ("budget", "snr", "threshold", "execution")
    reports = TokensSent
    snr = knob_of("channel.snr")

    def __init__(
        self,
        model: ViT,
        *,
        after: int,
        symbols: int,
        channel: AWGNChannel | nn.Module,
        budget: float | int = 1.0,
        threshold: float | int = 1e-3,
        execution: Execution = "gathered",
        bias: float | int = 2.0,
    ) -> None:
        super().__init__()
        if not isinstance(model, ViT):
            raise TypeError(f"the model must be a dynlib.backbone.ViT; got {type(model).__name__}")
        blocks = cast(Iterable[Block], model.blocks)
        plain = all(
            block.norm_first
            and not block.attention.rotary
            and not block.attention.causal
            and block.attention.key_value_heads == block.attention.heads
            for block in blocks
        )
        if model.distillation_head is not None or model.distillation_token is not None or not plain:
            raise ValueError(
                "the model must be a plain vision transformer: one class token, pre-norm, no rotary positions, not "
                "causal, no shared keys"
            )
        for part in (part for block in blocks for part in block.modules()):
            if type(part) is not nn.Linear and any(weight.ndim > 1 for weight in part.parameters(recurse=False)):
                raise TypeError(
                    f"the blocks must be made of nn.Linear; got {type(part).__name__}, of which it is not known here "
                    "what a token costs: put other layers in afterwards, if flops is not read"
                )
        tokens, dim = model.position.shape[1:]
        check_whole("after", after, least=1, most=len(model.blocks) - 1, what="blocks on the device")
        check_whole("symbols", symbols, least=1, most=dim // 2, what="complex symbols a token")
        self.model, self.channel = model, channel
        self.after, self.symbols, self.tokens, self.dim = after, symbols, tokens, dim
        like: dict[str, Any] = {"device": model.position.device, "dtype": model.position.dtype}
        self.low, self.up = nn.Parameter(torch.empty(dim, **like)), nn.Parameter(torch.empty(dim, **like))
        self.worth = nn.ModuleList(nn.Linear(dim, 1, **like) for _ in range(after))  # w_x, c_x
        self.price = nn.ModuleList(nn.Linear(dim, 1, **like) for _ in range(after))  # w_t, c_t
        self.expected = nn.Parameter(torch.zeros(tokens, dim, **like))  # p
        self.encoder: nn.Module = nn.Linear(dim, 2 * symbols, bias=False, **like)  # E
        self.decoder: nn.Module = nn.Linear(2 * symbols, dim, bias=False, **like)  # D
        self._begin(bias)
        self.budget, self.threshold = budget, threshold
        self.execution: Execution = execution
        self.check_knobs()

    @torch.no_grad()
    def _begin(self, bias: float | int) -> None:
        for end in (self.low, self.up):
            nn.init.normal_(end, std=0.5)
        for gates, start, scale in ((self.worth, bias, 0.1), (self.price, -bias, 1.0)):
            for gate in cast(Iterable[nn.Linear], gates):
                nn.init.normal_(gate.weight, std=scale * self.dim**-0.5 / GAIN)
                nn.init.constant_(gate.bias, start / GAIN)
        assert isinstance(self.encoder, nn.Linear)
        assert isinstance(self.decoder, nn.Linear)
        weight = self.encoder.weight
        wide = torch.promote_types(weight.dtype, torch.float32)  # half precision has no QR decomposition
        weight.copy_(nn.init.orthogonal_(torch.empty_like(weight, dtype=wide)))
        self.decoder.weight.copy_(self.encoder.weight.T)

    def check_knobs(self) -> None:
        """Raises TypeError or ValueError for a knob that is not as the class says."""
        check_budget(self.budget)
        if not 0 <= check_number("threshold", self.threshold) < 1:
            raise ValueError(f"threshold must lie in [0, 1): a mask exceeds it or not; got {self.threshold}")
        check_execution(self.execution)
        if isinstance(self.channel, AWGNChannel):
            self.channel.check_knobs()

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        *,
        budget: float | int | Float[Tensor, " batch"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Class logits of images that the device has sent to the server.

        Args:
            images: as the model takes them.
            budget: α, for all images or for each; the model's if left out.
            generator: of the noise.

        Raises:
            TypeError, ValueError: as :meth:`encode` and the channel do.
        """
        return self.decode(self.send(self.encode(images, budget=budget), generator=generator))

    def encode(
        self,
        images: Float[Tensor, "batch channels height width"],
        *,
        budget: float | int | Float[Tensor, " batch"] | None = None,
    ) -> Sent:
        """The device: images to what is sent.

        Raises:
            TypeError: if the images are not floating-point, or a budget or another knob is no number.
            ValueError: if the images have another size, or there are none; if a budget is not in (0, 1], or there is
                not one for each image; if another knob is out of its range.
        """
        self.check_knobs()
        x = self.model.embed(images)
        alpha = self._budgets(budget, x)
        # t = α · b_low + (1 − α) · b_up
        token = alpha[:, None] * self.low + (1 - alpha[:, None]) * self.up
        x = torch.cat([x, token[:, None]], 1)
        mask = x.new_ones(x.shape[0], self.tokens)
        masks: list[Tensor] = []
        margins: list[Tensor] = []
        kept: list[Tensor] = [torch.ones_like(mask, dtype=torch.bool)]
        for layer in range(self.after):
            before, x = x, self._block(layer, x, kept[-1], mask)
            worth, price, may = self._choose(layer, before, x, kept[-1], images)
            # m · ReLU(σ(w_x · x + c_x) − σ(w_t · t + c_t)), and no gate for the class token
            mask = mask * F.pad((worth.sigmoid() - price.sigmoid()).relu(), (1, 0), value=1.0)
            margins.append(F.pad(worth - price, (1, 0), value=math.inf))
            masks.append(mask)
            kept.append(F.pad(may, (1, 0), value=True) & (mask > self.threshold))
        record = self._record(torch.stack(masks, 1), torch.stack(margins, 1), torch.stack(kept, 1), alpha)
        report(self, record)
        # e = E (x − p)
        here, there = x[:, :-1] - self.expected, record.sent
        if self.training or self.execution == "masked":
            codewords = torch.where(there[..., None], self.encoder(here), 0)
        else:
            some = self.encoder(here.flatten(0, 1).index_select(0, chosen(there)))
            codewords = _spread(some, there)
        return Sent(codewords, there, straight_through(there.to(mask.dtype), mask))

    def send(self, sent: Sent, *, generator: torch.Generator | None = None) -> Sent:
        """The channel: what the server receives. The side information arrives as it is."""
        noise = {} if generator is None else {"generator": generator}
        return sent._replace(codewords=self.channel(sent.codewords, **noise))

    def decode(self, received: Sent) -> Float[Tensor, "batch classes"]:
        """The server: what was received to class logits. It computes only what was sent.

        Raises:
            TypeError, ValueError: for a knob that is not as the class says.
        """
        self.check_knobs()
        snr = getattr(self.channel, "snr", None)
        # x̂ = D y / (1 + σ²) + p
        factor = 1.0 if snr is None else 1 / (1 + 10 ** (-snr / 10))
        there = received.sent
        if self.training or self.execution == "masked":
            x = torch.where(there[..., None], self.decoder(received.codewords * factor) + self.expected, 0)
        else:
            which = chosen(there)
            some = self.decoder(received.codewords.flatten(0, 1).index_select(0, which) * factor)
            x = _spread(some + self.expected[which % self.tokens], there)
        for layer in range(self.after, len(self.model.blocks)):
            x = self._block(layer, x, there, received.weight)
        return self.model.readout(x)

    def _choose(
        self, layer: int, before: Tensor, x: Tensor, kept: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a block's gate says of the patches, what it says of the budget token, and which patches may stay."""
        seen = F.layer_norm(x.detach(), (self.dim,))
        worth, price = self.worth[layer](seen[:, 1:-1])[..., 0], self.price[layer](seen[:, -1])
        return GAIN * worth, GAIN * price, kept[:, 1:]

    def _block(self, layer: int, x: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
        """A block for the tokens that are left, and the budget token if it is there. Others come out as anything."""
        block = cast(Block, self.model.blocks[layer])
        more = x.shape[1] - kept.shape[1]
        kept = F.pad(kept, (0, more), value=True)
        if self.training or self.execution == "masked":
            return _masked(block, x, kept, F.pad(mask, (0, more), value=1.0))
        return _gathered(block, x, kept)

    def _budgets(self, budget: object, x: Tensor) -> Tensor:
        if not isinstance(budget, Tensor):
            return x.new_full(x.shape[:1], check_budget(self.budget if budget is None else budget))
        if budget.shape != x.shape[:1] or not budget.is_floating_point():
            raise ValueError(
                f"need one budget for each of the {len(x)} images, floating-point; got {budget.dtype}, "
                f"{tuple(budget.shape)}"
            )
        look(_check_budgets, budget)
        return budget.to(x)

    def _record(self, masks: Tensor, margins: Tensor, kept: Tensor, alpha: Tensor) -> TokensSent:
        sent = kept[:, -1]
        counts = kept.sum(-1)  # before each block, and of the sent ones
        flops = self.tokens_flops(counts)
        return TokensSent(sent, masks, margins, kept[:, 1:], alpha, counts[:, -1] * self.symbols, flops)

    def tokens_flops(self, counts: Int[Tensor, "batch blocks"]) -> Int[Tensor, " batch"]:
        """FLOPs of the device for an image, a multiply-add being two.

        Args:
            counts: how many tokens there are before each block, and in the end, without the budget token.
        """
        patch = self.model.patches
        embed = 2 * (self.tokens - 1) * patch.weight.numel()
        running = counts[:, :-1] + 1
        gates = 2 * self.dim * self.tokens * self.after  # of the patches, and of the budget token
        code = 2 * self.dim * 2 * self.symbols * counts[:, -1]
        total = torch.full_like(counts[:, 0], embed + gates) + code
        for layer in range(self.after):
            block = cast(Block, self.model.blocks[layer])
            linear = [part.weight.numel() for part in block.modules() if isinstance(part, nn.Linear)]
            count = running[:, layer]
            total = total + 2 * sum(linear) * count + 4 * block.attention.heads * block.attention.head_dim * count**2
        return total


def check_budget(budget: object) -> float:
    """The budget α, if it is a number in (0, 1].

    Raises:
        TypeError: if it is no number.
        ValueError: if it is out of this range.
    """
    value = check_number("budget", budget)
    if not 0 < value <= 1:
        raise ValueError(f"budget must lie in (0, 1], the share of the tokens that may be sent; got {budget}")
    return value


def _check_budgets(budgets: Tensor) -> None:
    if not ((budgets > 0) & (budgets <= 1)).all():
        raise ValueError(f"every budget must lie in (0, 1], a share of the tokens; got {budgets.tolist()}")


def _spread(some: Tensor, there: Tensor) -> Tensor:
    """Features of the tokens that are there, at their places; zero elsewhere."""
    spread = some.new_zeros(there.numel(), some.shape[-1]).index_copy(0, chosen(there), some)
    return spread.unflatten(0, there.shape)


def _masked(block: Block, x: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    """A block in which nobody attends to whom was not kept; log g is added for the others, with g = 1 and dg = dm."""
    attention = block.attention
    packed = attention.query_key_value(block.norm1(x)).unflatten(-1, (3, attention.heads, attention.head_dim))
    query, keys, values = packed.permute(2, 0, 3, 1, 4)
    lean = (mask - mask.detach()).masked_fill(~kept, -math.inf)[:, None, None, :]
    dropped = attention.dropout if block.training else 0.0
    mixed = F.scaled_dot_product_attention(
        query, keys, values, attn_mask=lean.expand(-1, -1, x.shape[1], -1), dropout_p=dropped
    )
    x = x + block.dropout(attention.output(mixed.transpose(1, 2).flatten(2)))
    return x + block.dropout(block.feed_forward(block.norm2(x)))


def _gathered(block: Block, x: Tensor, kept: Tensor) -> Tensor:
    """The block on those who were kept, images with more of them first, end to end."""
    if len(chosen(kept)) == kept.numel():
        return block(x)
    counts = kept.sum(1)
    order = counts.argsort(descending=True, stable=True)
    numbers = torch.arange(kept.numel(), device=x.device).view_as(kept)[order]
    flat = numbers.flatten()[chosen(kept[order])]
    ran = block.packed(x.flatten(0, 1).index_select(0, flat), counts[order].tolist())
    return x.flatten(0, 1).index_copy(0, flat, ran).view_as(x)
