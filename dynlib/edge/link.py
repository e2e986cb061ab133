"""A link between processes: tensors of an announced type and shape go over it, and every byte is counted.

One process is the *server*, number 0; the clients are numbered from 1 on. They meet at the server's host and port, and
from there on talk in pairs, over TCP, by ``torch.distributed``'s Gloo. A message is a kind, a note (a small dictionary)
and tensors:

    16 bytes: magic, version, length of the head, checksum of the head · the head, in JSON · the tensors' bytes

What comes in is believed to be nothing but numbers: a head is JSON, a tensor is its bytes, and both are looked at
before they are used. The receiver says which kinds it takes, and of each the types and the largest shapes of its
tensors; what is something else, cut short or garbled is refused. Nothing is unpickled.

Whoever waits does so for a stated time. A peer that has died, or does not answer, is an error that says so.

The server listens on the loopback interface, so on this machine alone, unless it is given another address. There is
neither encryption nor a password: beyond one machine use it in a network that you trust. (A program that speaks Gloo
and sends more bytes than it announced ends the process that receives them; this module never does.)
"""

import json
import os
import socket
import struct
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from dynlib.inputs import check_number, check_whole

VERSION = 1
PORT = 29500

_MAGIC = b"dynl"
_FRONT = struct.Struct("<4sHHII")  # magic, version, 0, length of the head, its checksum
_HEAD = 2**16  # bytes of a head, at most
_LOOK = 1.0  # seconds after which a client that waits looks whether the server is there
_REFUSED = 2**28  # bytes of a message that are read although it is refused, at most
_TYPES = {str(kind).removeprefix("torch."): kind for kind in (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int16, torch.int32, torch.int64,
)}  # fmt: skip

Expected = tuple[torch.dtype, tuple[int, ...]]
"""A tensor that is taken: its type, and the largest size that each of its dimensions may have."""


class LinkError(ConnectionError):
    """The peer has gone, does not answer, or sent what was not announced."""


class Message(NamedTuple):
    """What came over the link."""

    kind: str
    note: dict[str, Any]
    tensors: tuple[Tensor, ...]


class Link:
    """Joins the others, or raises an error within ``timeout`` seconds.

    Args:
        number: 0 for the server, 1 … clients for a client.
        clients: how many there are.
        host: where the server listens; for a client, where it is found.
        port: of the server.
        timeout: seconds that anything may take: to meet, to send, to wait for a message.
        rate: bits a second; if given, sending takes as long as it would on such a link, at the least.
        store: where all have met already, in place of host and port.

    Attributes:
        sent, received: bytes to and from each peer, heads included.

    Raises:
        TypeError, ValueError: if a number is out of its range.
        LinkError: if the port is in use, there is no server, somebody does not come, or the number is taken.
    """

    def __init__(
        self,
        number: int,
        clients: int = 1,
        *,
        host: str = "127.0.0.1",
        port: int = PORT,
        timeout: float | int = 30.0,
        rate: float | int | None = None,
        store: dist.Store | None = None,
    ) -> None:
        check_whole("clients", clients, least=1)
        self.number: int = check_whole("number", number, least=0, most=clients)
        check_whole("port", port, least=1, most=2**16 - 1)
        self.clients, self.timeout = clients, check_number("timeout", timeout, least=0, open=True)
        self.rate = None if rate is None else check_number("rate", rate, least=0, open=True)
        self.sent: Counter[int] = Counter()
        self.received: Counter[int] = Counter()
        self._met = (host, port) if store is None else None
        self._store = self._meet(host, port) if store is None else store
        self._seat()
        gloo: Any = dist.ProcessGroupGloo
        options = gloo._Options()
        own = host if number == 0 else _address_towards(host, port)
        options._devices = [gloo.create_device(hostname=own)]
        options._timeout = timedelta(seconds=self.timeout)
        try:
            self._group = gloo(dist.PrefixStore("gloo", self._store), number, clients + 1, options)
        except RuntimeError as error:
            raise LinkError(f"{_name(number)} could not reach all others within {self.timeout:g} s") from error

    @classmethod
    def from_environment(cls, *, timeout: float | int = 30.0, rate: float | int | None = None) -> "Link":
        """As ``torchrun`` says it, in RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT: rank 0 is the server.

        Raises:
            LinkError: if they are not there; and as the class does.
        """
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise LinkError(f"{', '.join(missing)} not set: start it by torchrun, or give number, host and port")
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
        where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return cls(rank, size - 1, host=where[0], port=where[1], timeout=timeout, rate=rate, store=store)

    def send(self, peer: int, kind: str, *tensors: Tensor, **note: Any) -> None:
        """Send a message; what it weighed is in :attr:`sent`.

        Raises:
            TypeError: if a tensor is of a type that is not sent, or the note is no JSON.
            LinkError: if the peer has gone, or does not take it in time.
        """
        parts = [tensor.detach().cpu().contiguous() for tensor in tensors]
        for part in parts:
            if str(part.dtype).removeprefix("torch.") not in _TYPES:
                raise TypeError(f"a link sends {', '.join(_TYPES)}; got {part.dtype}")
        payload = torch.cat([part.flatten().view(torch.uint8) for part in parts]) if parts else torch.empty(0)
        layout = [[str(part.dtype).removeprefix("torch."), list(part.shape)] for part in parts]
        head = {"kind": kind, "note": note, "tensors": layout, "checksum": _checksum(payload)}
        text = json.dumps(head).encode()
        if len(text) > _HEAD:
            raise ValueError(
                f"a note is for a few numbers and words, at most {_HEAD} bytes; got {len(text)}: send tensors"
            )
        front = _FRONT.pack(_MAGIC, VERSION, 0, len(text), zlib.crc32(text))
        start = time.perf_counter()
        for piece in (_bytes(front), _bytes(text), payload):
            if piece.numel():
                self._finish(self._group.send, piece, peer, "take a message")
                self.sent[peer] += piece.numel()
        if self.rate is not None:
            left = 8 * (_FRONT.size + len(text) + payload.numel()) / self.rate - (time.perf_counter() - start)
            time.sleep(max(left, 0))

    def receive(self, peer: int, kinds: Mapping[str, Sequence[Expected]]) -> Message:
        """The next message of a peer.

        Args:
            peer: its number.
            kinds: which kinds are taken, and of each the tensors. "fault", by which a peer says why it gives up, is
                taken always, and raised.

        Raises:
            LinkError: if the peer has gone, sends nothing in time, gives up, or what comes is not what is taken.
        """
        front = self._read(peer, _FRONT.size)
        magic, version, _, length, checksum = _FRONT.unpack(front)
        who = _name(peer)
        if magic != _MAGIC or length > _HEAD:
            raise LinkError(f"{who} does not speak this protocol, or a message of it was cut short")
        if version != VERSION:
            raise LinkError(
                f"{who} speaks version {version} of the protocol and this is {VERSION}: install one dynlib on both"
            )
        text = self._read(peer, length)
        if zlib.crc32(text) != checksum:
            raise LinkError(f"a message of {who} was cut short or garbled")
        kind, note, layout, checksum = _parse(text, who)
        if kind == "fault":
            raise LinkError(f"{who} gave up: {str(note.get('text', ''))[:500]}")
        problem = _problem(kind, layout, kinds, who)
        sizes = [torch.Size(shape).numel() * dtype.itemsize for dtype, shape in layout]
        if problem is not None and sum(sizes) > _REFUSED:
            raise LinkError(problem)
        payload = torch.zeros(sum(sizes), dtype=torch.uint8)
        if len(payload):
            self._finish(self._group.recv, payload, peer, "send the rest of a message")
            self.received[peer] += len(payload)
        if problem is not None:  # now that all of it is read, the peer hears why
            raise LinkError(problem)
        if _checksum(payload) != checksum:
            raise LinkError(f"a message of {who} was cut short or garbled")
        tensors = [
            torch.empty(shape, dtype=dtype) if size == 0 else part.clone().view(dtype).view(shape)
            for part, (dtype, shape), size in zip(payload.split(sizes), layout, sizes, strict=True)
        ]
        return Message(kind, note, tuple(tensors))

    def fault(self, reason: str) -> None:
        """Tell all others why this process gives up; who has gone already is passed by."""
        for peer in range(self.clients + 1) if self.number == 0 else (0,):
            if peer != self.number:
                try:
                    self.send(peer, "fault", text=reason[:500])
                except (LinkError, RuntimeError):
                    continue

    def _meet(self, host: str, port: int) -> dist.Store:
        wait = timedelta(seconds=self.timeout)
        if self.number > 0:
            try:
                return dist.TCPStore(host, port, None, False, wait)
            except (RuntimeError, ValueError) as error:
                raise LinkError(
                    f"no server at {host}:{port} within {self.timeout:g} s: start it first, and look at host and port"
                ) from error
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen()
        except OSError as error:
            listener.close()
            raise LinkError(
                f"cannot listen at {host}:{port}, {error.strerror}: choose another port or address"
            ) from error
        # a socket of our own: the store's would listen on every interface
        return dist.TCPStore(host, port, None, True, wait, wait_for_workers=False, master_listen_fd=listener.detach())

    def _seat(self) -> None:
        """Take a number, and wait until all have theirs."""
        try:
            if self._store.add(f"seat {self.number}", 1) > 1:
                raise LinkError(f"{_name(self.number)} is there already: give each process a number of its own")
            told = self._store.compare_set("clients", "", str(self.clients)).decode()
            if told != str(self.clients):
                raise LinkError(f"the others say clients={told}, and this one {self.clients}")
            seats = [f"here {number}" for number in range(self.clients + 1)]
            self._store.set(f"here {self.number}", "")
            try:
                self._store.wait(seats, timedelta(seconds=self.timeout))
            except RuntimeError as error:
                away = [_name(number) for number, seat in enumerate(seats) if not self._store.check([seat])]
                raise LinkError(f"within {self.timeout:g} s did not come: {', '.join(away)}") from error
        except dist.DistError as error:  # the store itself has gone
            raise LinkError("the server has gone while the clients were coming") from error

    def _read(self, peer: int, length: int) -> bytes:
        buffer = torch.zeros(length, dtype=torch.uint8)
        self._finish(self._group.recv, buffer, peer, "send a message")
        self.received[peer] += length
        return buffer.numpy().tobytes()

    def _finish(self, way: Any, raw: Tensor, peer: int, what: str) -> None:
        """Send or receive bytes: a peer that has gone is found as they are handed over, or while one waits."""
        try:
            self._wait(way([raw], peer, 0), peer)
        except RuntimeError as error:
            if "imed out" in str(error):
                raise LinkError(f"{_name(peer)} did not {what} within {self.timeout:g} s") from error
            raise LinkError(f"{_name(peer)} has gone: its process has ended, or the network has failed") from error

    def _wait(self, work: Any, peer: int) -> None:
        """Until it is done. Of bytes whose own handing over finds that the peer has gone, Gloo may tell nobody.

        So a client looks, while it waits, whether somebody still listens where all met: the server's process does.
        """
        if peer != 0 or self._met is None:
            work.wait(timedelta(seconds=self.timeout))
            return
        ended: SimpleQueue[Exception | None] = SimpleQueue()

        def wait() -> None:
            try:
                work.wait(timedelta(seconds=self.timeout))
                ended.put(None)
            except Exception as error:
                ended.put(error)

        Thread(target=wait, daemon=True).start()
        while True:
            try:
                error = ended.get(timeout=_LOOK)
            except Empty:
                _knock(*self._met)
                continue
            if error is not None:
                raise error
            return


def _knock(host: str, port: int) -> None:
    """Look whether somebody listens there; only a refusal says that nobody does.

    Raises:
        RuntimeError: if nobody does.
    """
    try:
        socket.create_connection((host, port), _LOOK).close()
    except ConnectionRefusedError as error:
        raise RuntimeError("nobody listens where all met") from error
    except OSError:
        pass


def _name(number: int) -> str:
    return "the server" if number == 0 else f"client {number}"


def _bytes(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def _checksum(payload: Tensor) -> int:
    return zlib.crc32(payload.numpy().data) if payload.numel() else 0


def _address_towards(host: str, port: int) -> str:
    """The address of this machine that a host sees: nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0])


def _parse(text: bytes, who: str) -> tuple[str, dict[str, Any], list[Expected], int]:
    try:
        head = json.loads(text)
        layout = [(_TYPES[dtype], tuple(shape)) for dtype, shape in head["tensors"]]
        kind, note, checksum = head["kind"], head["note"], head["checksum"]
        sound = isinstance(kind, str) and isinstance(note, dict) and isinstance(checksum, int)
        sound = sound and all(type(size) is int and size >= 0 for _, shape in layout for size in shape)
    except (ValueError, KeyError, TypeError) as error:
        raise LinkError(f"{who} sent a head that cannot be read") from error
    if not sound:
        raise LinkError(f"{who} sent a head that cannot be read")
    return kind, note, layout, checksum


def _problem(kind: str, layout: Sequence[Expected], kinds: Mapping[str, Sequence[Expected]], who: str) -> str | None:
    """Why a message is not taken."""
    if kind not in kinds:
        return f"{who} sent {kind!r}, where {' or '.join(map(repr, kinds))} was to come"
    if len(layout) != len(kinds[kind]):
        return f"{kind!r} of {who} must have {len(kinds[kind])} tensors; got {len(layout)}"
    for (dtype, shape), (taken, most) in zip(layout, kinds[kind], strict=True):
        fits = len(shape) == len(most) and all(size <= limit for size, limit in zip(shape, most, strict=True))
        if dtype != taken or not fits:
            return f"{kind!r} of {who} must be {taken} of at most {list(most)}; got {dtype} {list(shape)}"
    return None
