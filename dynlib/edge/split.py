"""Split learning: a client computes the first layers of a network and keeps its data, a server computes the rest.

In a step of training the client sends the activations of a batch, or a message that is smaller, and the labels; the
server runs on, takes the loss, makes a step of its own optimizer, and sends back the gradient of what it got; the
client goes on backwards from there and makes its step. One :class:`Compression` is for both directions.

Several clients have each a first half and data of their own, and share the server's half. They take turns, always in
the same order, so that a run is the same whenever it is run.

All of it can be interrupted. Every so many steps each writes a checkpoint, and keeps the one before it. When they meet
again they go on from the last step that all of them have, with the same losses as if nothing had happened.

    python -m dynlib.edge both                      a server and a client on this machine
    python -m dynlib.edge server --clients 2        one of them; see --help

Source: arXiv:2509.15058.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.backbone import Attention, Block, ViT
from dynlib.edge.compression import (
    Dense,
    DoublyCompressed,
    Quantised,
    Sparse,
    double_compress,
    quantise,
    random_top_k,
    send_all,
    share_of_each,
)
from dynlib.edge.link import Link, LinkError, Message, Slot
from dynlib.inputs import check_name, check_number, check_whole

Kind = Literal["none", "top_k", "random_top_k", "quantise", "double"]
Batches = Callable[[int], tuple[Tensor, Tensor]]
"""The inputs and labels of a step, by its number from 0: a resumed run asks for the same ones."""

_KEPT = 2  # checkpoints that each side keeps


@dataclass(frozen=True)
class Compression:
    """What is sent in place of the activations.

    Args:
        kind: "none", "top_k", "random_top_k", "quantise" or "double".
        share: of the numbers (top-k) or of the tokens (double), above 0, at most 1.
        bits: of a number, where they are quantised: 1, 2, 4 or 8.
        chance: of :func:`dynlib.edge.random_top_k`.

    Raises:
        TypeError, ValueError: if one is not as said.
    """

    kind: Kind = "none"
    share: float = 1.0
    bits: int = 8
    chance: float = 0.1

    def __post_init__(self) -> None:
        check_name("kind", self.kind, get_args(Kind))
        check_number("share", self.share, least=0, most=1, open=True)
        check_number("chance", self.chance, least=0, most=1)
        if check_whole("bits", self.bits) not in Quantised.BITS:
            raise ValueError(f"bits must be 1, 2, 4 or 8; got {self.bits}")

    def pack(
        self, x: Tensor, attention: Tensor | None, labels: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[Dense | Sparse | Quantised | DoublyCompressed, Tensor]:
        """The message and its labels."""
        if self.kind == "top_k":
            return random_top_k(x, self.share, chance=0), labels
        if self.kind == "random_top_k":
            return random_top_k(x, self.share, chance=self.chance, generator=generator), labels
        if self.kind == "quantise":
            return quantise(x, self.bits), labels
        if self.kind == "double":
            if attention is None:
                raise ValueError("double compression asks for the attention of the class token: give SplitClient one")
            samples, tokens = share_of_each(len(x), x.shape[1], self.share)
            sent = double_compress(
                x, attention, labels, samples=samples, tokens=tokens, classes=classes, generator=generator
            )
            return sent, sent.labels
        return send_all(x), labels

    def slots(self, batch: int, tokens: int, dim: int, classes: int) -> list[Slot]:
        """What a server takes: the tensors of the wire, and the labels."""
        numbers, labels = tokens * dim, (torch.int64, (batch,))
        if self.kind in ("top_k", "random_top_k"):
            places = torch.int16 if numbers <= 2**15 else torch.int32
            return [(torch.float32, (batch, numbers)), (places, (batch, numbers)), labels]
        if self.kind == "quantise":
            packed = -(-batch * numbers * self.bits // 8)
            of_token = (torch.float32, (batch, tokens, 1))
            return [(torch.uint8, (packed,)), of_token, of_token, labels]
        if self.kind == "double":
            return [(torch.float32, (batch, tokens, dim)), (torch.float32, (batch, classes))]
        return [(torch.float32, (batch, tokens, dim)), labels]

    def open(self, wire: tuple[Tensor, ...], tokens: int, dim: int) -> Dense | Sparse | Quantised:
        """The message as the server sees it.

        Raises:
            LinkError: if the parts do not fit together.
        """
        if self.kind in ("top_k", "random_top_k"):
            values, places = wire
            sound = values.shape == places.shape and (len(places) == 0 or _within(places, tokens * dim))
            return Sparse(values, _sound(places, sound), (len(values), tokens, dim))
        if self.kind == "quantise":
            codes, low, step = wire
            fits = low.shape == step.shape == (len(low), tokens, 1)
            numbers = len(low) * tokens * dim
            _sound(codes, fits and len(codes) == -(-numbers * self.bits // 8))
            return Quantised.unpack(codes, low, step, self.bits, (len(low), tokens, dim))
        (x,) = wire
        return Dense(_sound(x, x.shape[2] == dim and (self.kind == "double" or x.shape[1] == tokens)))


@dataclass
class Progress:
    """How a run went, on one side: the loss of each step that it took part in, and the bytes over the link so far."""

    losses: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """After each step, with what came before an interruption."""
    received: list[int] = field(default_factory=list)


class SplitClient:
    """The first half of a network, with the data.

    Args:
        half: inputs to tokens [batch, tokens, dim], float32.
        optimizer: of its weights.
        link: to the server.
        compression: in training. For inference all is sent.
        attention: the class token's attention [batch, tokens] in the last call of ``half``, for double compression.
        classes: number of classes.
        batch: the largest batch.
        checkpoint: a folder for the checkpoints; none are written if left out.
        seed: of what is drawn for the compression.

    Raises:
        TypeError, ValueError: if a number is out of its range.
        LinkError: if the server refuses, or does not answer.
    """

    def __init__(
        self,
        half: nn.Module,
        optimizer: torch.optim.Optimizer,
        link: Link,
        *,
        tokens: int,
        dim: int,
        classes: int,
        batch: int,
        compression: Compression | None = None,
        attention: Callable[[], Tensor] | None = None,
        checkpoint: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        for name, number in {"tokens": tokens, "dim": dim, "classes": classes, "batch": batch}.items():
            check_whole(name, number, least=1)
        self.half, self.optimizer, self.link, self.attention = half, optimizer, link, attention
        self.tokens, self.dim, self.classes, self.batch = tokens, dim, classes, batch
        self.compression, self.seed = compression or Compression(), check_whole("seed", seed, least=0)
        self.progress = Progress()
        self._saved = _Checkpoints(checkpoint, f"client {link.number}", half, optimizer, self.progress)
        shape = {"tokens": tokens, "dim": dim, "classes": classes, "batch": batch}
        link.send(0, "hello", compression=asdict(self.compression), shape=shape, steps=self._saved.steps())
        self.step: int = link.receive(0, {"welcome": []}).note["step"]
        """The number of the next step, from 0: above 0 where a checkpoint was found."""
        self._saved.load(self.step)
        self._before = [_last(self.progress.sent), _last(self.progress.received)]

    def train(self, batches: Batches, steps: int, *, every: int = 50, progress: bool = True) -> Progress:
        """Train until so many steps are done, those before an interruption included.

        Args:
            batches: gives inputs and int64 labels of a step.
            steps: in all.
            every: steps between two checkpoints, if there is a folder for them.
            progress: show a bar.

        Raises:
            TypeError, ValueError: if a number is out of its range, or a batch is larger than was said.
            LinkError: if the server has gone, does not answer, or gives up.
        """
        check_whole("steps", steps, least=1)
        check_whole("every", every, least=1)
        bar = tqdm(
            range(self.step, steps), initial=self.step, total=steps, desc="split", disable=not progress, leave=False
        )
        self.half.train()
        for step in bar:
            inputs, labels = batches(step)
            self._train(inputs, labels, step)
            self.step = step + 1
            if self._saved.folder is not None and (self.step % every == 0 or self.step == steps):
                self._saved.save(self.step)
                self.link.send(0, "save", step=self.step)
                self.link.receive(0, {"saved": []})
        return self.progress

    def _train(self, inputs: Tensor, labels: Tensor, step: int) -> None:
        if len(inputs) > self.batch or len(labels) != len(inputs):
            raise ValueError(
                f"need at most {self.batch} inputs and as many labels; got {len(inputs)} and {len(labels)}"
            )
        x = self.half(inputs)
        seen = None if self.attention is None else self.attention()
        generator = torch.Generator().manual_seed(self.seed * 2**32 + step)
        message, labels = self.compression.pack(x, seen, labels, self.classes, generator)
        wire = message.wire[:1] if self.compression.kind == "double" else message.wire
        self.link.send(0, "train", *wire, labels)
        shape = tuple(message.carried.shape)
        slots = _gradient_slots(self.compression, shape)
        answer = self.link.receive(0, {"gradient": [*slots, (torch.float32, (1,))]})
        gradient = _open_gradient(self.compression, answer.tensors[:-1], shape)
        self.optimizer.zero_grad(set_to_none=True)
        message.carried.backward(gradient)
        self.optimizer.step()
        self.progress.losses.append(answer.tensors[-1].item())
        self.progress.sent.append(self._before[0] + self.link.sent[0])
        self.progress.received.append(self._before[1] + self.link.received[0])

    @torch.no_grad()
    def predict(self, inputs: Tensor) -> Float[Tensor, "batch classes"]:
        """The logits of the whole network, nothing compressed.

        Raises:
            ValueError: if the batch is larger than was said.
            LinkError: as :meth:`train` does.
        """
        if len(inputs) > self.batch:
            raise ValueError(f"need at most {self.batch} inputs; got {len(inputs)}")
        was = self.half.training
        self.half.eval()
        self.link.send(0, "ask", self.half(inputs))
        self.half.train(was)
        return self.link.receive(0, {"answer": [(torch.float32, (len(inputs), self.classes))]}).tensors[0]

    def close(self) -> None:
        """Say good-bye: the server goes on without this client, and ends after the last."""
        self.link.send(0, "bye")


class SplitServer:
    """The second half of a network.

    Args:
        half: tokens [batch, tokens, dim] to logits [batch, classes].
        optimizer: of its weights.
        link: to the clients.
        tokens, dim, classes, batch: what a client must have too; ``batch`` is the largest.
        checkpoint: a folder for the checkpoints.

    Raises:
        TypeError, ValueError: if a number is out of its range.
        LinkError: if a client has other numbers, or does not answer.
    """

    def __init__(
        self,
        half: nn.Module,
        optimizer: torch.optim.Optimizer,
        link: Link,
        *,
        tokens: int,
        dim: int,
        classes: int,
        batch: int,
        checkpoint: str | Path | None = None,
    ) -> None:
        shape = {"tokens": tokens, "dim": dim, "classes": classes, "batch": batch}
        for name, number in shape.items():
            check_whole(name, number, least=1)
        self.half, self.optimizer, self.link, self.shape = half, optimizer, link, shape
        self.progress = Progress()
        self._saved = _Checkpoints(checkpoint, "server", half, optimizer, self.progress)
        self._compression: dict[int, Compression] = {}
        common = set(self._saved.steps())
        for client in range(1, link.clients + 1):
            note = link.receive(client, {"hello": []}).note
            try:
                theirs, steps = note["shape"], set(note["steps"])
                self._compression[client] = Compression(**note["compression"])
            except (KeyError, TypeError, ValueError) as error:
                raise self._refuse(f"client {client} asks for what is not known: {error}") from error
            if theirs != shape:
                raise self._refuse(f"client {client} says {theirs}, and the server {shape}")
            common &= steps
        self.step: int = max(common)
        """The last step that all have a checkpoint of; 0 if there is none."""
        self._saved.load(self.step)
        self._before = [_last(self.progress.sent), _last(self.progress.received)]
        for client in self._compression:
            link.send(client, "welcome", step=self.step)

    def serve(self) -> Progress:
        """Answer the clients in turn until the last says good-bye.

        Raises:
            LinkError: if a client has gone, does not answer, or sends what was not announced; the others are told.
        """
        present = list(self._compression)
        saving: dict[int, int] = {}
        try:
            while present:
                for client in list(present):
                    message = self._next(client)
                    while message.kind == "ask":
                        self._answer(client, message)
                        message = self._next(client)
                    if message.kind == "bye":
                        present.remove(client)
                    elif message.kind == "save":
                        saving[client] = int(message.note["step"])
                    else:
                        self._train(client, message)
                if saving and set(saving) >= set(present):
                    self._save(saving)
                    saving = {}
        except (LinkError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise self._refuse(str(error)) from error
        return self.progress

    def _next(self, client: int) -> Message:
        sizes = self.shape
        whole: Slot = (torch.float32, (sizes["batch"], sizes["tokens"], sizes["dim"]))
        kinds: dict[str, list[Slot]] = {
            "train": self._compression[client].slots(**sizes),
            "ask": [whole],
            "save": [],
            "bye": [],
        }
        return self.link.receive(client, kinds)

    def _train(self, client: int, message: Message) -> None:
        compression, classes = self._compression[client], self.shape["classes"]
        *wire, labels = message.tensors
        got = compression.open(tuple(wire), self.shape["tokens"], self.shape["dim"])
        leaf = got.carried.requires_grad_()
        x = got.restore()
        _sound(labels, len(labels) == len(x) > 0)
        if labels.dtype == torch.int64:
            _sound(labels, _within(labels, classes))
        self.half.train()
        loss = F.cross_entropy(self.half(x), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        assert leaf.grad is not None
        self.link.send(client, "gradient", *_pack_gradient(compression, leaf.grad), loss.detach()[None])
        self.progress.losses.append(loss.item())
        self.progress.sent.append(self._before[0] + sum(self.link.sent.values()))
        self.progress.received.append(self._before[1] + sum(self.link.received.values()))

    @torch.no_grad()
    def _answer(self, client: int, message: Message) -> None:
        (x,) = message.tensors
        _sound(x, len(x) > 0 and x.shape[1:] == (self.shape["tokens"], self.shape["dim"]))
        was = self.half.training
        self.half.eval()
        logits = self.half(x)
        self.half.train(was)
        self.link.send(client, "answer", logits)

    def _save(self, saving: Mapping[int, int]) -> None:
        if len(set(saving.values())) > 1:
            raise LinkError(f"the clients want to save after different steps, {sorted(set(saving.values()))}")
        (self.step,) = set(saving.values())
        self._saved.save(self.step)
        for client in saving:
            self.link.send(client, "saved")

    def _refuse(self, reason: str) -> LinkError:
        self.link.fault(reason)
        return LinkError(reason)


def halves(model: ViT, layers: int) -> tuple["FirstHalf", "SecondHalf"]:
    """A vision transformer cut after so many layers; the halves hold the model's own parts.

    Raises:
        TypeError: if ``layers`` is no int.
        ValueError: if it is not one of 1 … depth − 1.
    """
    check_whole("layers", layers, least=1, most=len(model.blocks) - 1, what="layers")
    return FirstHalf(model, layers), SecondHalf(model, layers)


class FirstHalf(nn.Module):
    """Images to tokens; remembers what its last layer's class token attended to."""

    def __init__(self, model: ViT, layers: int) -> None:
        super().__init__()
        self.patches, self.blocks = model.patches, model.blocks[:layers]
        self.class_token, self.position = model.class_token, model.position
        self._embed = model.embed
        self._seen: Tensor | None = None

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
        """The tokens after the last layer of this half."""
        x = self._embed(images)
        for block in self.blocks[:-1]:
            x = block(x)
        last = cast(Block, self.blocks[-1])
        self._seen = x.detach()
        return last(x)

    @torch.no_grad()
    def class_attention(self) -> Float[Tensor, "batch tokens"]:
        """The class token's attention in the last call, in the last layer, the mean over the heads.

        Raises:
            RuntimeError: if there was no call yet.
        """
        if self._seen is None:
            raise RuntimeError("there was no call yet, and so no attention")
        last = cast(Block, self.blocks[-1])
        return class_attention(last.attention, last.norm1(self._seen))


class SecondHalf(nn.Module):
    """Tokens to logits."""

    def __init__(self, model: ViT, layers: int) -> None:
        super().__init__()
        self.blocks, self.norm, self.head = model.blocks[layers:], model.norm, model.head

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch classes"]:
        """The class logits, read from the class token."""
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def class_attention(attention: Attention, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens"]:
    """softmax(q kᵀ / √head_dim) of the first token, the mean over the heads."""
    keys, _ = attention.keys_values(x)
    size = keys.shape[-1]
    queries = attention.query_key_value(x[:, :1])[..., : attention.heads * size]
    query = queries.unflatten(-1, (attention.heads, size)).transpose(1, 2)
    return (query @ keys.transpose(-1, -2) / size**0.5).softmax(-1).mean(1)[:, 0]


class _Checkpoints:
    """The last few of one side, a file each; none are written without a folder."""

    def __init__(
        self,
        folder: str | Path | None,
        who: str,
        half: nn.Module,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self._who, self._half, self._optimizer, self._progress = who.replace(" ", "_"), half, optimizer, progress

    def steps(self) -> list[int]:
        """Of which there is a checkpoint; 0, the beginning, always."""
        if self.folder is None:
            return [0]
        found = self.folder.glob(f"{self._who}_*.pt")
        return sorted({0} | {int(path.stem.rpartition("_")[2]) for path in found})

    def save(self, step: int) -> None:
        """Write one, and drop those before the last two."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "half": self._half.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "progress": asdict(self._progress),
        }
        path = self._path(step)
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)
        for old in [other for other in self.steps()[1:] if other <= step][:-_KEPT]:
            self._path(old).unlink()

    def load(self, step: int) -> None:
        """Go back to a step. Later checkpoints stay until they are made again."""
        if self.folder is None or step == 0:
            return
        state: dict[str, Any] = torch.load(self._path(step), weights_only=True)
        self._half.load_state_dict(state["half"])
        self._optimizer.load_state_dict(state["optimizer"])
        for name, values in state["progress"].items():
            getattr(self._progress, name)[:] = values

    def _path(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self._who}_{step}.pt"


def _gradient_slots(compression: Compression, shape: tuple[int, ...]) -> list[Slot]:
    if compression.kind == "quantise":
        batch, tokens, dim = shape
        return compression.slots(batch, tokens, dim, 1)[:-1]
    return [(torch.float32, shape)]


def _pack_gradient(compression: Compression, gradient: Tensor) -> tuple[Tensor, ...]:
    return quantise(gradient, compression.bits).wire if compression.kind == "quantise" else (gradient,)


def _open_gradient(compression: Compression, wire: tuple[Tensor, ...], shape: tuple[int, ...]) -> Tensor:
    gradient = compression.open(wire, *shape[1:]).carried if compression.kind == "quantise" else wire[0]
    return _sound(gradient, gradient.shape == shape)


def _within(numbers: Tensor, count: int) -> bool:
    return numbers.numel() == 0 or (int(numbers.min()) >= 0 and int(numbers.max()) < count)


def _sound(tensor: Tensor, sound: bool) -> Tensor:
    if not sound:
        raise LinkError(f"the parts of a message do not fit together; one of them is {list(tensor.shape)}")
    return tensor


def _last(numbers: list[int]) -> int:
    return numbers[-1] if numbers else 0
