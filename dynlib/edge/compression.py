"""What a client sends in split learning, in place of all activations of a batch [batch, tokens, dim].

*Attention-based double compression* makes a batch smaller twice. The attention of the class token, a_i for sample i,
says what a sample looks at. Samples that look at the same are grouped, and each group C_j sends its mean,

    h_j = 1/|C_j| Σ_{i ∈ C_j} h_i,        y_j = 1/|C_j| Σ_{i ∈ C_j} y_i        (y one-hot, so that y_j sums to one),

and of a group's tokens go the class token and those k − 1 on which the mean attention of the group is largest. Of
B · n tokens T · k are sent, and as many gradients come back: that of a sample is its group's over |C_j|.

Beside it stand what it is compared with: the largest numbers of each sample (top-k), almost the largest ones, and all
of them in a few bits. Each is a message with

- ``wire``: the tensors that go over the link, and ``nbytes``, what they weigh;
- ``carried``: the numbers of which the gradient comes back, with their graph at the client;
- ``restore()``: the activations that the server makes of it.

Source: arXiv:2509.15058; top-k with randomness is from arXiv:2305.18469 (abstract).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from dynlib.edge.clusters import k_means
from dynlib.inputs import check_features, check_number, check_tensor, check_whole, widen


@dataclass(frozen=True)
class Dense:
    """All of it, as it is."""

    carried: Float[Tensor, "batch tokens dim"]

    @property
    def wire(self) -> tuple[Tensor, ...]:
        """The activations."""
        return (self.carried.detach().contiguous(),)

    @property
    def nbytes(self) -> int:
        """Of what goes over the link."""
        return _weigh(self.wire)

    def restore(self) -> Float[Tensor, "batch tokens dim"]:
        """The activations."""
        return self.carried


@dataclass(frozen=True)
class Sparse:
    """Some numbers of each sample, and where they were."""

    carried: Float[Tensor, "batch kept"]
    places: Int[Tensor, "batch kept"]
    """In the flattened [tokens, dim]; int16 where that is enough, else int32."""
    shape: tuple[int, ...]
    """[batch, tokens, dim] of the activations; both sides know it."""

    @property
    def wire(self) -> tuple[Tensor, ...]:
        """The numbers and their places."""
        return self.carried.detach().contiguous(), self.places.contiguous()

    @property
    def nbytes(self) -> int:
        """Of what goes over the link."""
        return _weigh(self.wire)

    def restore(self) -> Float[Tensor, "batch tokens dim"]:
        """The activations, 0 where nothing was sent."""
        flat = self.carried.new_zeros(self.shape).flatten(1)
        return flat.scatter(1, self.places.long(), self.carried).view(self.shape)


@dataclass(frozen=True)
class Quantised:
    """All numbers, each in a few bits: code · step + low, with a step and a low of each token."""

    carried: Float[Tensor, "batch tokens dim"]
    """What the codes mean. The gradient goes straight through to what was quantised."""
    codes: UInt8[Tensor, " bytes"]
    """Packed, 8 / bits of them in a byte."""
    low: Float[Tensor, "batch tokens 1"]
    step: Float[Tensor, "batch tokens 1"]
    bits: int

    BITS: ClassVar[tuple[int, ...]] = (1, 2, 4, 8)

    @property
    def wire(self) -> tuple[Tensor, ...]:
        """The packed codes, and low and step of each token."""
        return self.codes, self.low.contiguous(), self.step.contiguous()

    @property
    def nbytes(self) -> int:
        """Of what goes over the link."""
        return _weigh(self.wire)

    def restore(self) -> Float[Tensor, "batch tokens dim"]:
        """The activations, up to half a step."""
        return self.carried

    @classmethod
    def unpack(cls, codes: Tensor, low: Tensor, step: Tensor, bits: int, shape: tuple[int, ...]) -> "Quantised":
        """What a server makes of the wire.

        Raises:
            ValueError: if the codes are not as many as activations of that shape have.
        """
        numbers = torch.Size(shape).numel()
        need = -(-numbers * bits // 8)
        if len(codes) != need:
            raise ValueError(f"activations {shape} in {bits} bits need {need} bytes; got {len(codes)}")
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=codes.device)
        separate = (codes[:, None] >> shifts) & (2**bits - 1)
        return cls(separate.flatten()[:numbers].view(shape).to(low.dtype) * step + low, codes, low, step, bits)


@dataclass(frozen=True)
class DoublyCompressed:
    """Means of groups of samples, with the tokens that matter to each."""

    carried: Float[Tensor, "groups kept dim"]
    labels: Float[Tensor, "groups classes"]
    """The mean of the one-hot labels: each row sums to one."""
    of: Int[Tensor, " batch"]
    """The group of each sample; stays with the client."""
    kept: Int[Tensor, "groups kept"]
    """Which tokens were kept, from 0, in order; 0, the class token, always. Stays with the client."""

    @property
    def wire(self) -> tuple[Tensor, ...]:
        """The activations and the labels."""
        return self.carried.detach().contiguous(), self.labels.contiguous()

    @property
    def nbytes(self) -> int:
        """Of what goes over the link."""
        return _weigh(self.wire)

    def restore(self) -> Float[Tensor, "groups kept dim"]:
        """The activations of the groups: fewer samples and tokens, which a transformer does not mind."""
        return self.carried


def send_all(x: Float[Tensor, "batch tokens dim"]) -> Dense:
    """No compression.

    Raises:
        TypeError, ValueError: for what is not activations [batch, tokens, dim].
    """
    _check_activations(x)
    return Dense(x)


def top_k(x: Float[Tensor, "batch tokens dim"], share: float | int) -> Sparse:
    """The numbers of each sample whose size is largest; the others count as 0, and get no gradient.

    Args:
        x: the activations.
        share: of the numbers, above 0, at most 1; one number at least is kept.

    Raises:
        TypeError, ValueError: for what is not activations [batch, tokens, dim], or a share out of its range.
    """
    return random_top_k(x, share, chance=0)


def random_top_k(
    x: Float[Tensor, "batch tokens dim"],
    share: float | int,
    *,
    chance: float | int = 0.1,
    generator: torch.Generator | None = None,
) -> Sparse:
    """As many as :func:`top_k` keeps, but each is with some chance one of the others, drawn evenly among these.

    So numbers that are small now are trained too.

    Args:
        x, share: as in :func:`top_k`.
        chance: to be one of the others, 0 … 1.
        generator: of the draws, on the device of x.

    Raises:
        TypeError, ValueError: as :func:`top_k` does, and for a chance out of its range.
    """
    _check_activations(x)
    share = check_number("share", share, least=0, most=1, open=True)
    chance = check_number("chance", chance, least=0, most=1)
    flat = x.flatten(1)
    numbers = flat.shape[1]
    kept = max(round(share * numbers), 1)
    largest = flat.detach().abs().topk(kept, dim=1).indices
    if chance > 0 and kept < numbers:
        drawn = torch.rand(flat.shape, generator=generator, device=x.device)
        is_large = torch.zeros_like(drawn, dtype=torch.bool).scatter(1, largest, True)
        coins = torch.rand((len(x), kept), generator=generator, device=x.device)
        others = (coins < chance).sum(1, keepdim=True).clamp(max=numbers - kept)
        # a random order of the large ones, and one of the others: the first of each are taken
        order = (drawn + ~is_large).argsort(1)
        place = torch.arange(kept, device=x.device)
        large = order[:, :kept]
        small = order[:, kept : 2 * kept]
        small = F.pad(small, (0, kept - small.shape[1]))
        largest = torch.where(place < others, small, large)
    places = largest.sort(1).values
    return Sparse(flat.gather(1, places), places.to(torch.int16 if numbers <= 2**15 else torch.int32), tuple(x.shape))


def quantise(x: Float[Tensor, "batch tokens dim"], bits: int, *, generator: torch.Generator | None = None) -> Quantised:
    """Each number in so many bits, on a scale from the smallest to the largest of its token.

    Args:
        x: the activations, or gradients that go back.
        bits: 1, 2, 4 or 8.
        generator: if given, numbers are rounded up or down at random so that they are right on average; else to the
            nearest. On the device of x.

    Raises:
        TypeError, ValueError: for what is not activations [batch, tokens, dim], or other bits.
    """
    _check_activations(x)
    if check_whole("bits", bits) not in Quantised.BITS:
        raise ValueError(f"bits must be 1, 2, 4 or 8, so that codes fill bytes; got {bits}")
    wide = widen(x.detach())
    low = wide.amin(-1, keepdim=True)
    step = (wide.amax(-1, keepdim=True) - low) / (2**bits - 1)
    exact = (wide - low) / torch.where(step > 0, step, 1)
    if generator is None:
        whole = exact.round()
    else:
        whole = (exact + torch.rand(exact.shape, generator=generator, device=x.device, dtype=exact.dtype)).floor()
    whole = whole.clamp(0, 2**bits - 1)
    separate = whole.to(torch.uint8).flatten()
    in_a_byte = 8 // bits
    separate = F.pad(separate, (0, -len(separate) % in_a_byte)).view(-1, in_a_byte)
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=x.device)
    codes = (separate << shifts).sum(1, dtype=torch.uint8)
    means = (whole * step + low).to(x.dtype)
    # (x − x.detach()) is 0: the value is what the codes mean, and the gradient goes straight through
    return Quantised(means + (x - x.detach()), codes, low.to(x.dtype), step.to(x.dtype), bits)


def double_compress(
    x: Float[Tensor, "batch tokens dim"],
    attention: Float[Tensor, "batch tokens"],
    labels: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    *,
    samples: int,
    tokens: int,
    classes: int | None = None,
    generator: torch.Generator | None = None,
) -> DoublyCompressed:
    """Groups of samples that look at the same, and of each group the tokens that it looks at.

    With as many groups as samples, and all tokens, it is the batch in another order.

    Args:
        x: the activations; token 0 is the class token.
        attention: of the class token to every token, the mean over the heads. No gradient goes into it.
        labels: numbers of classes, or one-hot or other rows that sum to one.
        samples: T, number of groups, 1 … batch.
        tokens: k, number of tokens that each group keeps, 1 … tokens.
        classes: number of classes, where labels are numbers; the largest and one, if left out.
        generator: of the first centres of :func:`dynlib.edge.k_means`, on the device of x.

    Raises:
        TypeError, ValueError: for what is not activations [batch, tokens, dim].
        TypeError: if attention or labels are no tensors, or a number is no int.
        ValueError: if their shapes do not fit, more groups are asked for than samples, or more tokens than there are.
    """
    _check_activations(x)
    check_tensor(attention, "attention")
    if attention.shape != x.shape[:2]:
        raise ValueError(f"attention must be [batch, tokens] = {tuple(x.shape[:2])}; got {tuple(attention.shape)}")
    check_whole("samples", samples, least=1, most=len(x), what="groups")
    check_whole("tokens", tokens, least=1, most=x.shape[1], what="tokens")
    hot = _one_hot(labels, len(x), classes).to(x)
    of, centroids = k_means(attention.detach().to(x.dtype), samples, generator=generator)
    member = F.one_hot(of, samples).to(widen(x).dtype)
    share = (member / member.sum(0)).T  # 1/|C_j| where sample i is in C_j, [groups, batch]
    # h_j = 1/|C_j| Σ_{i ∈ C_j} h_i
    means = (share @ widen(x).flatten(1)).view(samples, *x.shape[1:]).to(x.dtype)
    others = centroids[:, 1:].topk(tokens - 1, dim=1).indices + 1
    kept = F.pad(others.sort(1).values, (1, 0))
    carried = means.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
    return DoublyCompressed(carried, (share @ widen(hot)).to(x.dtype), of, kept)


def share_of_each(batch: int, tokens: int, share: float | int) -> tuple[int, int]:
    """How many groups T and tokens k to ask for, so that T · k is about a share of batch · tokens, half from each.

    Each takes the root of the share, T / B = k / n = √ξ, as far as whole numbers allow.

    Raises:
        TypeError: if a number is no int, or the share none.
        ValueError: if one is below 1, or the share is not above 0 and at most 1.
    """
    check_whole("batch", batch, least=1)
    check_whole("tokens", tokens, least=1)
    root = check_number("share", share, least=0, most=1, open=True) ** 0.5
    samples = max(round(batch * root), 1)
    return samples, min(max(round(batch * tokens * root**2 / samples), 1), tokens)


def _one_hot(labels: Tensor, batch: int, classes: int | None) -> Tensor:
    check_tensor(labels, "labels")
    if len(labels.shape) not in (1, 2) or len(labels) != batch:
        raise ValueError(f"need one label for each of {batch} samples; got {tuple(labels.shape)}")
    if labels.ndim == 2:
        return labels
    if labels.dtype != torch.int64:
        raise TypeError(f"labels that are numbers of classes must be int64; got {labels.dtype}: use .long()")
    number = int(labels.max()) + 1 if classes is None else check_whole("classes", classes, least=1)
    if int(labels.min()) < 0 or int(labels.max()) >= number:
        raise ValueError(f"labels must be 0 … {number - 1}; got {int(labels.min())} … {int(labels.max())}")
    return F.one_hot(labels, number)


def _check_activations(x: object) -> None:
    check_tensor(x, "the activations")
    assert isinstance(x, Tensor)
    check_features(x, x.shape[-1] if x.ndim else 0)


def _weigh(wire: tuple[Tensor, ...]) -> int:
    return sum(part.numel() * part.element_size() for part in wire)
