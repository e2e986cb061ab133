"""dynlib.edge.compression and clusters: what is sent, what it weighs, and what the gradient is."""

import math

import pytest
import torch
from torch import Tensor

from dynlib.edge import (
    Quantised,
    double_compress,
    k_means,
    quantise,
    random_top_k,
    send_all,
    share_of_each,
    top_k,
)
from dynlib.edge.clusters import _first_centres


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(b: int = 6, n: int = 5, d: int = 4, *, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(b, n, d, generator=generator(), dtype=dtype, requires_grad=True)


def attention(b: int = 6, n: int = 5) -> Tensor:
    return torch.rand(b, n, generator=generator(1), dtype=torch.float64).softmax(-1)


# groups


def inertia(x: Tensor, of: Tensor, centroids: Tensor) -> float:
    return float((x - centroids[of]).square().sum())


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_nearly_as_tight_as_those_of_a_library(seed: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn comes with the extra course")
    x = torch.randn(128, 10, generator=generator(seed), dtype=torch.float64)
    ours = min(inertia(x, *k_means(x, 9, generator=generator(i))) for i in range(10))
    theirs = cluster.KMeans(9, n_init=10, random_state=seed).fit(x.numpy()).inertia_
    assert ours <= 1.02 * theirs


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_those_of_other_libraries_that_begin_with_the_same_centres(seed: int) -> None:
    cluster = pytest.importorskip("sklearn.cluster", reason="scikit-learn comes with the extra course")
    vq = pytest.importorskip("scipy.cluster.vq", reason="scipy, whose clusters they are, is not installed")
    x = torch.randn(128, 10, generator=generator(seed), dtype=torch.float64)
    start = _first_centres(x, 9, generator(seed + 10)).numpy()
    ours = k_means(x, 9, iterations=300, generator=generator(seed + 10))
    theirs = cluster.KMeans(9, init=start, n_init=1, max_iter=300, tol=0, algorithm="lloyd").fit(x.numpy())
    assert ours.of.tolist() == theirs.labels_.tolist()
    torch.testing.assert_close(ours.centroids, torch.from_numpy(theirs.cluster_centers_))
    centroids, of = vq.kmeans2(x.numpy(), start, iter=300, minit="matrix")
    assert ours.of.tolist() == of.tolist()
    torch.testing.assert_close(ours.centroids, torch.from_numpy(centroids))


def test_each_sample_is_in_the_nearest_group_and_each_centre_is_the_mean() -> None:
    x = torch.randn(60, 3, generator=generator(), dtype=torch.float64)
    of, centroids = k_means(x, 7, generator=generator(1))
    assert torch.equal(torch.cdist(x, centroids).argmin(1), of)
    for group in range(7):
        torch.testing.assert_close(centroids[group], x[of == group].mean(0))


@pytest.mark.parametrize("x", [torch.zeros(8, 3), torch.eye(8), torch.arange(8.0)[:, None] // 4])
@pytest.mark.parametrize("clusters", [1, 3, 8])
def test_no_group_is_empty_even_where_samples_are_equal(x: Tensor, clusters: int) -> None:
    of, centroids = k_means(x, clusters, generator=generator())
    assert sorted(of.unique().tolist()) == list(range(clusters))
    assert centroids.isfinite().all()


def test_groups_that_stand_apart_are_found() -> None:
    x = torch.cat([torch.randn(20, 2, generator=generator()) + 100 * shift for shift in torch.eye(2)])
    of = k_means(x, 2, generator=generator()).of
    assert of[:20].unique().numel() == of[20:].unique().numel() == 1


# double compression


def slowly(x: Tensor, seen: Tensor, labels: Tensor, of: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Group by group, with loops."""
    rows, hot = [], []
    for group in range(int(of.max()) + 1):
        members = [i for i in range(len(x)) if of[i] == group]
        mean = torch.stack([x[i] for i in members]).mean(0)
        look = torch.stack([seen[i] for i in members]).mean(0)
        order = sorted(range(1, x.shape[1]), key=lambda token: -float(look[token]))
        rows.append(mean[[0, *sorted(order[: tokens - 1])]])
        hot.append(torch.stack([torch.eye(3, dtype=x.dtype)[labels[i]] for i in members]).mean(0))
    return torch.stack(rows), torch.stack(hot)


@pytest.mark.parametrize("tokens", [1, 2, 4, 5])
@pytest.mark.parametrize("samples", [1, 3, 6])
def test_it_is_what_loops_over_groups_and_tokens_give(samples: int, tokens: int) -> None:
    x, seen, labels = batch(), attention(), torch.tensor([0, 1, 2, 1, 0, 2])
    sent = double_compress(x, seen, labels, samples=samples, tokens=tokens, classes=3, generator=generator())
    rows, hot = slowly(x, seen, labels, sent.of, tokens)
    torch.testing.assert_close(sent.restore(), rows)
    torch.testing.assert_close(sent.labels, hot)
    torch.testing.assert_close(sent.labels.sum(1), torch.ones(samples, dtype=torch.float64))
    assert (sent.kept[:, 0] == 0).all()


def test_with_all_groups_and_tokens_it_is_the_batch_in_another_order() -> None:
    x, labels = batch(), torch.tensor([0, 1, 2, 1, 0, 2])
    sent = double_compress(x, attention(), labels, samples=6, tokens=5, generator=generator())
    assert sorted(sent.of.tolist()) == list(range(6))
    torch.testing.assert_close(sent.carried[sent.of], x)
    assert torch.equal(sent.labels[sent.of].argmax(1), labels)


def test_the_gradient_of_a_sample_is_its_groups_over_the_groups_size() -> None:
    x = batch()
    sent = double_compress(x, attention(), torch.zeros(6).long(), samples=2, tokens=3, generator=generator())
    came_back = torch.randn(sent.carried.shape, generator=generator(3), dtype=torch.float64)
    sent.carried.backward(came_back)
    assert x.grad is not None
    for i in range(6):
        group = int(sent.of[i])
        expected = torch.zeros(5, 4, dtype=torch.float64)
        expected[sent.kept[group]] = came_back[group] / (sent.of == group).sum()
        torch.testing.assert_close(x.grad[i], expected)


def test_no_gradient_goes_into_the_attention() -> None:
    seen = attention().requires_grad_()
    sent = double_compress(batch(), seen, torch.zeros(6).long(), samples=2, tokens=3, generator=generator())
    sent.carried.sum().backward()
    assert seen.grad is None


def test_labels_may_be_rows_already() -> None:
    rows = torch.tensor([[0.7, 0.3]] * 3 + [[0.0, 1.0]] * 3, dtype=torch.float64)
    sent = double_compress(batch(), attention(), rows, samples=1, tokens=1, generator=generator())
    torch.testing.assert_close(sent.labels, torch.tensor([[0.35, 0.65]], dtype=torch.float64))


@pytest.mark.parametrize("share", [1, 0.5, 0.1, 1 / 16, 0.01])
@pytest.mark.parametrize(("b", "n"), [(64, 17), (128, 197), (32, 37)])
def test_what_is_sent_is_about_the_share_that_was_asked_for(share: float, b: int, n: int) -> None:
    samples, tokens = share_of_each(b, n, share)
    assert samples * tokens / (b * n) == pytest.approx(share, rel=0.35)
    assert 1 <= samples <= b
    assert 1 <= tokens <= n
    if share == 1:
        assert (samples, tokens) == (b, n)


# what it is compared with


def test_the_largest_of_each_sample_are_kept() -> None:
    x = batch()
    sent = top_k(x, 0.3)
    assert sent.carried.shape == (6, 6)
    for row, restored in zip(x.detach().flatten(1), sent.restore().detach().flatten(1), strict=True):
        kept = sorted(range(20), key=lambda i: -abs(float(row[i])))[:6]
        expected = torch.zeros(20, dtype=torch.float64)
        expected[kept] = row[kept]
        assert torch.equal(restored, expected)
    sent.restore().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, sent.restore() != 0)


@pytest.mark.parametrize(("share", "chance"), [(0.3, 0.5), (0.8, 0.9), (0.3, 1), (1, 0.5), (0.01, 0.5)])
def test_random_top_k_keeps_as_many_and_no_place_twice(share: float, chance: float) -> None:
    x = batch()
    sent = random_top_k(x, share, chance=chance, generator=generator())
    assert sent.carried.shape == top_k(x, share).carried.shape
    for places in sent.places.tolist():
        assert len(set(places)) == len(places)
    torch.testing.assert_close(sent.carried, x.flatten(1).gather(1, sent.places.long()))


def test_random_top_k_takes_others_as_often_as_asked() -> None:
    x = torch.arange(20.0).view(1, 4, 5).expand(4000, 4, 5)
    sent = random_top_k(x, 0.25, chance=0.2, generator=generator())
    counts = torch.bincount(sent.places.flatten().long(), minlength=20) / 4000
    # 5 of 20 are kept, a fifth of them from the other 15: 1/15 each; 4000 draws, five standard deviations
    torch.testing.assert_close(counts[:15], torch.full((15,), 1 / 15), atol=0.02, rtol=0)
    torch.testing.assert_close(counts[15:], torch.full((5,), 0.8), atol=0.032, rtol=0)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("shape", [(2, 3, 8), (1, 1, 1), (3, 5, 7)])
def test_a_quantised_number_is_off_by_half_a_step_at_most(bits: int, shape: tuple[int, int, int]) -> None:
    x = batch(*shape)
    sent = quantise(x, bits)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    step = (high - low) / (2**bits - 1)
    assert ((sent.restore() - x).abs() <= step / 2 + 1e-12).all()
    for end in (low, high):  # the ends of a scale are exact
        assert torch.isclose(sent.restore(), end).any(-1).all()
    sent.restore().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))
    assert len(sent.codes) == math.ceil(x.numel() * bits / 8)
    received = Quantised.unpack(*sent.wire, bits, shape)
    assert torch.equal(received.restore(), sent.restore().detach())


def test_rounding_at_random_is_right_on_average() -> None:
    x = torch.tensor([[[0.0, 0.3, 1.0]]]).expand(20_000, 1, 3)
    mean = quantise(x, 1, generator=generator()).restore().mean((0, 1))
    # 20,000 coins of 0.3: a standard deviation of 0.0032, five of them
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.3, 1.0]), atol=0.017, rtol=0)


def test_numbers_that_are_all_equal_are_exact() -> None:
    assert torch.equal(quantise(torch.full((1, 2, 3), 0.7), 4).restore(), torch.full((1, 2, 3), 0.7))


def test_bytes_are_those_of_the_formula_and_of_the_tensors() -> None:
    x = batch(6, 5, 4, dtype=torch.float32)
    assert send_all(x).nbytes == 6 * 5 * 4 * 4
    assert top_k(x, 0.3).nbytes == 6 * 6 * (4 + 2)
    assert top_k(torch.zeros(1, 200, 200), 0.5).nbytes == 20_000 * (4 + 4)
    assert quantise(x, 4).nbytes == 6 * 5 * 4 // 2 + 6 * 5 * 2 * 4
    sent = double_compress(
        x, attention().float(), torch.zeros(6).long(), samples=2, tokens=3, classes=3, generator=generator()
    )
    assert sent.nbytes == 4 * (2 * 3 * 4 + 2 * 3)
    for message in (send_all(x), top_k(x, 0.3), quantise(x, 2), sent):
        assert message.nbytes == sum(len(part.numpy().tobytes()) for part in message.wire)
        assert not any(part.requires_grad for part in message.wire)


@pytest.mark.usefixtures("as_users_run_it")
def test_bad_input() -> None:
    x, seen, labels = batch(), attention(), torch.zeros(6).long()
    for compress in (send_all, lambda given: top_k(given, 0.5), lambda given: quantise(given, 4)):
        with pytest.raises(ValueError, match=r"tokens must be \[batch"):
            compress(torch.ones(3, 4))
        with pytest.raises(TypeError, match="floating-point"):
            compress(torch.ones(1, 3, 4).long())
    for share in (0, -1, 1.5, math.nan):
        with pytest.raises(ValueError, match="share must be"):
            top_k(x, share)
    with pytest.raises(ValueError, match="chance"):
        random_top_k(x, 0.5, chance=2)
    with pytest.raises(ValueError, match="1, 2, 4 or 8"):
        quantise(x, 3)
    with pytest.raises(ValueError, match="need 60 bytes"):
        Quantised.unpack(torch.zeros(3, dtype=torch.uint8), torch.zeros(1), torch.zeros(1), 4, (6, 5, 4))
    with pytest.raises(ValueError, match="samples must be 1 … 6"):
        double_compress(x, seen, labels, samples=7, tokens=2)
    with pytest.raises(ValueError, match="tokens must be 1 … 5"):
        double_compress(x, seen, labels, samples=2, tokens=6)
    with pytest.raises(ValueError, match="attention must be"):
        double_compress(x, seen[:, 1:], labels, samples=2, tokens=2)
    with pytest.raises(ValueError, match="labels must be 0 … 1"):
        double_compress(x, seen, labels + 2, samples=2, tokens=2, classes=2)
    with pytest.raises(ValueError, match="one label for each"):
        double_compress(x, seen, labels[:3], samples=2, tokens=2)
    with pytest.raises(TypeError, match="int64"):
        double_compress(x, seen, labels.float(), samples=2, tokens=2)
    with pytest.raises(ValueError, match="NaN"):
        double_compress(x, seen * math.nan, labels, samples=2, tokens=2)
    with pytest.raises(ValueError, match="clusters must be"):
        k_means(torch.ones(3, 2), 4)
