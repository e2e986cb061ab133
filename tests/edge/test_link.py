"""dynlib.edge.link: what is sent arrives and is counted, nothing else is taken, and nobody waits for ever."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
import torch

from dynlib.edge import Link, LinkError
from dynlib.edge import link as module

FLOATS = {"some": [(torch.float32, (4, 5))]}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def together(*roles: Callable[[Link], Any], timeout: float = 20, port: int = 0, **options: Any) -> list[Any]:
    """A server and its clients, each in a thread: what each gave, or the error that it met."""
    port = port or free_port()

    def join(number: int) -> Any:
        try:
            return roles[number](Link(number, len(roles) - 1, port=port, timeout=timeout, **options))
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(roles)) as pool:
        return list(pool.map(join, range(len(roles))))


EVERY = (
    *(torch.randn(2, 3).to(kind) for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    *(torch.arange(3).to(kind) for kind in (torch.uint8, torch.int16, torch.int32, torch.int64)),
    *(torch.zeros(0, 3), torch.tensor(2.0)),
)


def test_what_is_sent_arrives_and_is_counted_where_it_is_sent() -> None:
    slots = [(tensor.dtype, tuple(tensor.shape)) for tensor in EVERY]

    def server(link: Link) -> Any:
        message = link.receive(1, {"every": slots})
        link.send(1, "thanks")
        return message, link.received[1], link.sent[1]

    def client(link: Link) -> Any:
        link.send(0, "every", *EVERY, step=7, word="ok")
        link.receive(0, {"thanks": []})
        return link.sent[0], link.received[0]

    (message, received, answered), counted = together(server, client)
    assert (message.kind, message.note) == ("every", {"step": 7, "word": "ok"})
    for given, got in zip(EVERY, message.tensors, strict=True):
        assert got.dtype == given.dtype
        assert torch.equal(got, given)
    assert counted == (received, answered)
    payload = sum(tensor.numel() * tensor.element_size() for tensor in EVERY)
    assert payload < received < payload + 700


def test_several_clients_each_have_their_own_count() -> None:
    def server(link: Link) -> Any:
        return [link.receive(client, FLOATS).tensors[0].sum().item() for client in (2, 1, 3)], dict(link.received)

    def client(link: Link) -> None:
        link.send(0, "some", torch.full((link.number, 5), 1.0))

    sums, received = together(server, client, client, client)[0]
    assert sums == [10, 5, 15]
    assert received[1] + 20 == received[2]
    assert received[2] + 20 == received[3]


@pytest.mark.parametrize(
    ("tensor", "kind", "told"),
    [
        (torch.ones(4, 6), "some", r"of at most \[4, 5\]; got torch.float32 \[4, 6\]"),
        (torch.ones(5), "some", r"got torch.float32 \[5\]"),
        (torch.ones(4, 5).double(), "some", "got torch.float64"),
        (torch.ones(4, 5), "other", "sent 'other', where 'some' was to come"),
    ],
)
def test_what_was_not_announced_is_refused_and_the_sender_hears_why(tensor: torch.Tensor, kind: str, told: str) -> None:
    def server(link: Link) -> Any:
        try:
            return link.receive(1, FLOATS)
        except LinkError as error:
            link.fault(str(error))
            raise

    def client(link: Link) -> Any:
        link.send(0, kind, tensor)
        return link.receive(0, FLOATS)

    refused, heard = together(server, client)
    for error, before in ((refused, ""), (heard, "the server gave up: ")):
        assert isinstance(error, LinkError)
        with pytest.raises(LinkError, match=before + ".*" + told):
            raise error


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda front, head, rest: (b"none" + front[4:], head, rest), "does not speak this protocol"),
        (lambda front, head, rest: (front[:4] + b"\x09" + front[5:], head, rest), "speaks version 9"),
        (lambda front, head, rest: (front, head[:-9] + b"  garbled", rest), "cut short or garbled"),
        (lambda front, head, rest: (front, head[: len(head) // 2], None), "cut short or garbled"),
        (lambda front, head, rest: (front, head, rest[: len(rest) // 2]), "cut short or garbled"),
        (lambda front, head, rest: (front, head, rest[:-1] + b"x"), "cut short or garbled"),
    ],
)
def test_a_message_that_is_cut_short_garbled_or_of_another_version_is_refused(
    break_it: Callable[..., tuple[bytes, bytes, bytes | None]], told: str
) -> None:
    pieces: list[bytes] = []

    def server(link: Link) -> Any:
        return link.receive(1, FLOATS)

    def client(link: Link) -> None:
        sending = link._group.send

        def keep(tensors: list[torch.Tensor], peer: int, tag: int) -> Any:
            pieces.append(tensors[0].numpy().tobytes())
            if len(pieces) < 3:
                return _Done()
            for piece in break_it(*pieces):
                if piece:
                    buffer = module._bytes(piece)
                    with contextlib.suppress(RuntimeError):  # it is not taken once the rest was refused
                        sending([buffer], peer, tag).wait(timedelta(seconds=2))
            return _Done()

        link._group = type("Broken", (), {"send": staticmethod(keep)})()
        link.send(0, "some", torch.ones(4, 5))
        time.sleep(1)

    with pytest.raises(LinkError, match=told):
        raise together(server, client, timeout=5)[0]


class _Done:
    def wait(self, _timeout: Any) -> None:
        """There is nothing to wait for."""


def test_a_head_that_is_no_head_is_refused() -> None:
    for text in (b"[]", b"{}", b"\xff", b'{"kind": 1, "note": {}, "tensors": [], "checksum": 0}'):
        with pytest.raises(LinkError, match="cannot be read"):
            module._parse(text, "client 1")
    for layout in ("float99", "bool"):
        text = b'{"kind": "a", "note": {}, "tensors": [["%s", [1]]], "checksum": 0}' % layout.encode()
        with pytest.raises(LinkError, match="cannot be read"):
            module._parse(text, "client 1")
    for size in (b"-1", b"1.5", b"true"):
        text = b'{"kind": "a", "note": {}, "tensors": [["float32", [%s]]], "checksum": 0}' % size
        with pytest.raises(LinkError, match="cannot be read"):
            module._parse(text, "client 1")


def test_whoever_hears_nothing_says_so_in_time() -> None:
    start = time.perf_counter()
    waited, _ = together(lambda link: link.receive(1, FLOATS), lambda _: time.sleep(4), timeout=1.5)
    with pytest.raises(LinkError, match=r"client 1 did not send a message within 1.5 s"):
        raise waited
    assert time.perf_counter() - start < 15


def test_a_client_that_does_not_come_is_named() -> None:
    start = time.perf_counter()
    with pytest.raises(LinkError, match="did not come: client 1, client 2"):
        Link(0, 2, port=free_port(), timeout=1)
    assert time.perf_counter() - start < 10


def test_a_client_that_comes_late_is_waited_for() -> None:
    port = free_port()

    def late() -> Any:
        time.sleep(2)
        Link(1, 1, port=port, timeout=20).send(0, "some", torch.ones(1, 5))

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(late)
        assert Link(0, 1, port=port, timeout=20).receive(1, FLOATS).tensors[0].sum() == 5
        coming.result()


def test_without_a_server_a_client_says_so_in_time() -> None:
    start = time.perf_counter()
    with pytest.raises(LinkError, match=r"no server at 127.0.0.1:.* within 1 s: start it first"):
        Link(1, 1, port=free_port(), timeout=1)
    assert time.perf_counter() - start < 15


def test_a_port_in_use_and_a_number_that_is_taken() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(LinkError, match=r"cannot listen at .*in use: choose another port"):
            Link(0, 1, port=holder.getsockname()[1], timeout=1)
    port = free_port()

    def join(number: int) -> Any:
        try:
            return Link(number, 1, port=port, timeout=4)
        except LinkError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        server = pool.submit(join, 0)
        clients = [pool.submit(join, 1) for _ in range(2)]
        told = [str(client.result()) for client in clients if isinstance(client.result(), LinkError)]
        assert isinstance(server.result(), Link)
    assert told == ["client 1 is there already: give each process a number of its own"]


def test_it_listens_on_the_loopback_interface_alone() -> None:
    listening: list[str] = []
    port = free_port()

    def server(link: Link) -> Any:
        with open("/proc/net/tcp", encoding="ascii") as table:
            for line in table.readlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A" and int(local.split(":")[1], 16) == port:
                    listening.append(local.split(":")[0])
        return link.receive(1, FLOATS)

    if not os.path.exists("/proc/net/tcp"):
        pytest.skip("no /proc/net/tcp here to see who listens where")
    together(server, lambda link: link.send(0, "some", torch.ones(1, 5)), port=port)
    assert listening == ["0100007F"]


def test_a_peer_that_is_killed_is_missed_at_once() -> None:
    port = free_port()
    code = (
        "import time, torch; from dynlib.edge import Link; "
        f"link = Link(1, 1, port={port}, timeout=60); link.send(0, 'some', torch.ones(1, 5)); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        link = Link(0, 1, port=port, timeout=60)
        link.receive(1, FLOATS)
        process.send_signal(signal.SIGKILL)
        start = time.perf_counter()
        with pytest.raises(LinkError, match="client 1 has gone"):
            link.receive(1, FLOATS)
        assert time.perf_counter() - start < 20
        process.wait(20)
        for _ in range(3):  # now the connection is known to be closed, and refuses bytes before one waits
            with pytest.raises(LinkError, match="client 1 has gone"):
                link.send(1, "some", torch.ones(1, 5))
            with pytest.raises(LinkError, match="client 1 has gone"):
                link.receive(1, FLOATS)


def test_a_client_looks_whether_the_server_is_there_where_gloo_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful:
        """A group that never says that what it was given is on its way."""

        def send(self, *_: Any) -> Any:
            return self

        def wait(self, timeout: timedelta) -> None:
            Event().wait(timeout.total_seconds())
            raise RuntimeError("Timed out waiting")

    port = free_port()
    code = (
        f"import time, torch; from dynlib.edge import Link; link = Link(0, 1, port={port}, timeout=60); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        link = Link(1, 1, port=port, timeout=60)
        monkeypatch.setattr(link, "_group", Forgetful())
        monkeypatch.setattr(link, "timeout", 3)
        with pytest.raises(LinkError, match="the server did not take a message within 3 s"):  # it is there
            link.send(0, "some", torch.ones(1, 5))
        monkeypatch.setattr(link, "timeout", 60)
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        start = time.perf_counter()
        with pytest.raises(LinkError, match="the server has gone"):
            link.send(0, "some", torch.ones(1, 5))
        assert time.perf_counter() - start < 20


def test_a_rate_takes_the_time_that_it_would() -> None:
    def client(link: Link) -> Any:
        start = time.perf_counter()
        link.send(0, "some", torch.ones(4, 5))
        return 8 * link.sent[0] / (time.perf_counter() - start)

    _, bits_a_second = together(lambda link: link.receive(1, FLOATS), client, rate=2000)
    assert 300 < bits_a_second <= 2000


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"number": 2}, {"number": 0, "clients": 0}, {"number": 0, "port": 0}, {"number": 0, "rate": 0}):
        with pytest.raises(ValueError, match="must be"):
            Link(**options)  # type: ignore[arg-type]
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(LinkError, match=r"RANK, .* not set: start it by torchrun"):
        Link.from_environment()
    refused, _ = together(lambda link: link.send(1, "some", torch.ones(1, dtype=torch.bool)), lambda link: None)
    assert isinstance(refused, TypeError)
