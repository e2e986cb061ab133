"""dynlib.edge.split: two processes train as one, and go on where they were interrupted."""

import copy
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dynlib.backbone import ViT
from dynlib.edge import Compression, Link, LinkError, SplitClient, SplitServer, class_attention, halves
from tests.edge.test_link import free_port

NUMBERS = {"tokens": 5, "dim": 8, "classes": 3, "batch": 6}


def vit() -> ViT:
    torch.manual_seed(0)
    return ViT(image_size=4, patch_size=2, classes=3, dim=8, depth=3, heads=2)


def batches(step: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(step)
    return torch.rand(6, 1, 4, 4, generator=draw), torch.randint(3, (6,), generator=draw)


def optimizer(half: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(half.parameters(), lr=1e-2)


def run(
    *work: Callable[[SplitClient], Any],
    folder: Path | None = None,
    server: dict[str, int] | None = None,
    **options: Any,
) -> tuple[Any, list[Any], ViT]:
    """A server and clients, each in a thread: what the server came to, what each client gave or met, and the server's
    model."""
    port, ends = free_port(), vit()

    def serve() -> Any:
        try:
            link, second = Link(0, len(work), port=port, timeout=20), halves(ends, 1)[1]
            return SplitServer(second, optimizer(second), link, **(server or NUMBERS), checkpoint=folder).serve()
        except LinkError as error:
            return error

    def join(number: int) -> Any:
        try:
            link, (first, _) = Link(number, len(work), port=port, timeout=20), halves(copy.deepcopy(ends), 1)
            attention = first.class_attention
            given = {**NUMBERS, "checkpoint": folder, "attention": attention, **options}
            return work[number - 1](SplitClient(first, optimizer(first), link, **given))
        except LinkError as error:
            return error

    with ThreadPoolExecutor(len(work) + 1) as pool:
        served = pool.submit(serve)
        clients = list(pool.map(join, range(1, len(work) + 1)))
        return served.result(), clients, ends


def train(steps: int, **options: Any) -> Callable[[SplitClient], Any]:
    def do(client: SplitClient) -> list[float]:
        losses = client.train(batches, steps, progress=False, **options).losses
        client.close()
        return losses

    return do


def test_without_compression_it_trains_as_one_process_does() -> None:
    served, (losses,), ends = run(train(4))
    whole = vit()
    first, second = halves(whole, 1)
    steppers = [optimizer(first), optimizer(second)]
    for step in range(4):
        images, labels = batches(step)
        loss = F.cross_entropy(whole(images), labels)
        assert losses[step] == pytest.approx(loss.item(), rel=1e-5)
        for stepper in steppers:
            stepper.zero_grad()
        loss.backward()
        for stepper in steppers:
            stepper.step()
    assert served.losses == losses
    for ours, theirs in zip(halves(ends, 1)[1].parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_halves_are_the_whole_and_the_attention_is_the_last_layers() -> None:
    model, (images, _) = vit().double(), batches(0)
    first, second = halves(model, 2)
    x = first(images.double())
    torch.testing.assert_close(second(x), model(images.double()))
    block, before = model.blocks[1], model.blocks[0](model.embed(images.double()))
    attention, normed = block.attention, block.norm1(before)
    q, k, _ = attention.query_key_value(normed).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    expected = (q @ k.transpose(-1, -2) / 2).softmax(-1).mean(1)[:, 0]
    torch.testing.assert_close(first.class_attention(), expected)
    torch.testing.assert_close(class_attention(attention, normed), expected)


@pytest.mark.parametrize(
    ("compression", "per_step"),
    [
        (Compression("none"), 6 * 5 * 8 * 4),
        (Compression("top_k", 0.25), 6 * 10 * 6),
        (Compression("random_top_k", 0.25), 6 * 10 * 6),
        (Compression("quantise", bits=4), 6 * 5 * (8 // 2 + 8)),
        (Compression("double", 0.25), 4 * (3 * 2 * 8 + 3 * 3)),
    ],
)
def test_every_compression_trains_and_sends_the_bytes_of_its_formula(compression: Compression, per_step: int) -> None:
    _, (client,), _ = run(lambda client: (train(4)(client), client)[1], compression=compression)
    assert all(map(torch.isfinite, map(torch.tensor, client.progress.losses)))
    steps = torch.tensor(client.progress.sent).diff()
    labels = 0 if compression.kind == "double" else 6 * 8
    heads = steps - per_step - labels
    assert ((heads > 0) & (heads < 260)).all(), heads


def test_the_identity_compressions_train_as_none_does() -> None:
    plain = run(train(3))[1][0]
    assert run(train(3), compression=Compression("top_k", 1.0))[1][0] == pytest.approx(plain, rel=1e-5)
    assert run(train(3), compression=Compression("double", 1.0))[1][0] == pytest.approx(plain, rel=1e-5)


def test_predictions_are_those_of_the_whole() -> None:
    images, _ = batches(0)

    def ask(client: SplitClient) -> Tensor:
        logits = client.predict(images)
        client.close()
        return logits

    torch.testing.assert_close(run(ask)[1][0], vit()(images))


def test_several_clients_take_turns_and_one_may_end_before_the_others() -> None:
    served, (few, many), _ = run(train(2), train(4))
    assert (len(few), len(many)) == (2, 4)
    assert served.losses == [few[0], many[0], few[1], many[1], *many[2:]]


class Interrupted(Exception):
    """Stands for a machine that goes down."""


def test_what_was_interrupted_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    undisturbed = run(train(7))[1][0]

    def until(client: SplitClient) -> Any:
        def break_off(step: int) -> tuple[Tensor, Tensor]:
            if step == 5:
                client.link.fault("the battery is empty")
                raise Interrupted
            return batches(step)

        with pytest.raises(Interrupted):
            client.train(break_off, 7, every=2, progress=False)
        return client.step

    served, (reached,), _ = run(until, folder=tmp_path)
    assert reached == 5
    assert isinstance(served, LinkError)
    assert "the battery is empty" in str(served)
    (tmp_path / "server_4.pt").unlink()  # as if the server had died before it wrote the last

    def again(client: SplitClient) -> Any:
        assert client.step == 2
        return train(7, every=2)(client), client.progress

    losses, progress = run(again, folder=tmp_path)[1][0]
    assert losses == undisturbed
    assert len(progress.sent) == 7
    assert progress.sent == sorted(progress.sent)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("client_1_6.pt", "client_1_7.pt", "server_6.pt", "server_7.pt"),
    ]


KILLED = """
import os, signal, sys
from dynlib.edge import Link
from tests.edge import test_split as test

link, (first, _) = Link(1, port=int(sys.argv[1]), timeout=60), test.halves(test.vit(), 1)
client = test.SplitClient(first, test.optimizer(first), link, **test.NUMBERS, checkpoint=sys.argv[2])
receive = link.receive

def die_in_step_five(peer, kinds):
    if client.step == 5 and "gradient" in kinds:  # the activations are on their way, the gradient is not yet here
        os.kill(os.getpid(), signal.SIGKILL)
    return receive(peer, kinds)

link.receive = die_in_step_five
client.train(test.batches, 7, every=2, progress=False)
"""


def test_a_client_that_is_killed_in_a_batch_is_missed_at_once_and_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    undisturbed, port = run(train(7))[1][0], free_port()
    second = halves(vit(), 1)[1]
    command = [sys.executable, "-c", KILLED, str(port), str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        server = SplitServer(second, optimizer(second), Link(0, port=port, timeout=60), **NUMBERS, checkpoint=tmp_path)
        start = time.perf_counter()
        with pytest.raises(LinkError, match="client 1 has gone"):
            server.serve()
        assert time.perf_counter() - start < 30  # half of what it would wait for an answer
        assert process.wait() == -signal.SIGKILL
    losses = run(train(7, every=2), folder=tmp_path)[1][0]
    assert losses == undisturbed


def test_a_server_that_goes_in_a_batch_is_missed_at_once() -> None:
    port = free_port()

    def serve() -> None:
        link = Link(0, port=port, timeout=60)
        link.receive(1, {"hello": []})
        link.send(1, "welcome", step=0)
        link.receive(1, {"train": Compression().expected(**NUMBERS)})  # and then it is gone, with its sockets

    def join() -> Any:
        first = halves(vit(), 1)[0]
        client = SplitClient(first, optimizer(first), Link(1, port=port, timeout=60), **NUMBERS)
        start = time.perf_counter()
        with pytest.raises(LinkError, match="the server has gone"):
            client.train(batches, 1, progress=False)
        return time.perf_counter() - start

    with ThreadPoolExecutor(2) as pool:
        serving, waited = pool.submit(serve), pool.submit(join)
        serving.result()
        assert waited.result() < 30


def test_other_numbers_are_refused_on_both_sides() -> None:
    served, (met,), _ = run(train(1), server={**NUMBERS, "tokens": 6})
    for error in (served, met):
        assert isinstance(error, LinkError)
        assert "client 1 says" in str(error)


def test_labels_and_places_out_of_range_are_refused() -> None:
    def wrong_label(client: SplitClient) -> Any:
        return client.train(lambda step: (batches(step)[0], torch.full((6,), 3)), 1, progress=False)

    for error in (*run(wrong_label)[:1], *run(wrong_label)[1]):
        assert isinstance(error, LinkError)
        assert "do not fit together" in str(error)
    with pytest.raises(LinkError, match="do not fit"):
        Compression("top_k", 0.5).open((torch.ones(1, 2), torch.tensor([[0, 40]], dtype=torch.int16)), 5, 8)
    ones = torch.ones(1, 5, 1)
    with pytest.raises(LinkError, match="do not fit"):
        Compression("quantise", bits=4).open((torch.zeros(3, dtype=torch.uint8), ones, ones), 5, 8)


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input() -> None:
    for options in ({"kind": "zip"}, {"share": 0}, {"bits": 3}, {"chance": 2}):
        with pytest.raises(ValueError, match="must be"):
            Compression(**options)  # type: ignore[arg-type]
    for layers in (0, 3):
        with pytest.raises(ValueError, match="layers must be 1 … 2"):
            halves(vit(), layers)
    for odd in ({"distillation": "head"}, {"norm_first": False}):
        with pytest.raises(ValueError, match="a plain vision transformer"):
            halves(ViT(image_size=4, patch_size=2, classes=3, dim=8, depth=3, heads=2, **odd), 1)
    with pytest.raises(RuntimeError, match="no call yet"):
        halves(vit(), 1)[0].class_attention()

    def too_many(client: SplitClient) -> Any:
        try:
            client.train(lambda _: (torch.rand(7, 1, 4, 4), torch.zeros(7).long()), 1, progress=False)
        except ValueError as error:
            client.close()
            return str(error)

    assert run(too_many)[1][0] == "need at most 6 inputs and as many labels; got 7 and 7"


def test_one_command_starts_both_and_says_what_they_came_to(tmp_path: Path) -> None:
    options = ["--steps", "2", "--batch", "8", "--images", "16", "--kind", "double", "--share", "0.25"]
    command = [sys.executable, "-m", "dynlib.edge", "both", "--port", str(free_port()), *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"client 1, 2 steps: [\d.]+% of 16 images right; [\d.]+ MB sent", done.stdout)
