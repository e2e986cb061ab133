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

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dynlib.edge.checkpoints import Checkpoints, Progress
from dynlib.edge.link import Expected, Link, LinkError, Message
from dynlib.edge.messages import Compression, sound_or_refused, within
from dynlib.inputs import check_whole

Batches = Callable[[int], tuple[Tensor, Tensor]]
"""The inputs and labels of a step, by its number from 0: a resumed run asks for the same ones."""


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
        self._saved = Checkpoints(checkpoint, f"client {link.number}", half, optimizer, self.progress)
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
        expected = self.compression.expected_gradient(shape)
        answer = self.link.receive(0, {"gradient": [*expected, (torch.float32, (1,))]})
        gradient = self.compression.open_gradient(answer.tensors[:-1], shape)
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
        self._saved = Checkpoints(checkpoint, "server", half, optimizer, self.progress)
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
        """The next message that is no question; what is asked before it is answered."""
        sizes = self.shape
        whole: Expected = (torch.float32, (sizes["batch"], sizes["tokens"], sizes["dim"]))
        kinds: dict[str, list[Expected]] = {
            "train": self._compression[client].expected(**sizes),
            "ask": [whole],
            "save": [],
            "bye": [],
        }
        while (message := self.link.receive(client, kinds)).kind == "ask":
            self._answer(client, message)
        return message

    def _train(self, client: int, message: Message) -> None:
        compression, classes = self._compression[client], self.shape["classes"]
        *wire, labels = message.tensors
        got = compression.open(tuple(wire), self.shape["tokens"], self.shape["dim"])
        leaf = got.carried.requires_grad_()
        x = got.restore()
        sound_or_refused(labels, len(labels) == len(x) > 0)
        if labels.dtype == torch.int64:
            sound_or_refused(labels, within(labels, classes))
        self.half.train()
        loss = F.cross_entropy(self.half(x), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        assert leaf.grad is not None
        self.link.send(client, "gradient", *compression.pack_gradient(leaf.grad), loss.detach()[None])
        self.progress.losses.append(loss.item())
        self.progress.sent.append(self._before[0] + sum(self.link.sent.values()))
        self.progress.received.append(self._before[1] + sum(self.link.received.values()))

    @torch.no_grad()
    def _answer(self, client: int, message: Message) -> None:
        (x,) = message.tensors
        sound_or_refused(x, len(x) > 0 and x.shape[1:] == (self.shape["tokens"], self.shape["dim"]))
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


def _last(numbers: list[int]) -> int:
    return numbers[-1] if numbers else 0
