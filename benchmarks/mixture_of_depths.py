"""Mixture of depths against the fastest dense execution, a step of writing against a dense one, and the zoo's.

The router is what it is at the start: which tokens run is decided, not planned, and costs what it costs.
"""

from functools import partial

import torch
from torch import Tensor

from benchmarks.given import whole
from benchmarks.race import Race, Ways, contest, pays, race, transformer
from benchmarks.table import Case, Row
from benchmarks.trained import on_text
from dynlib.backbone import CausalLM
from dynlib.deciding import record, setting
from dynlib.tokens.mixture_of_depths import MixtureOfDepths
from dynlib.zoo import load

# features of a token, tokens, every how many blocks; 32 samples each
SIZES = ((256, 256, 2), (256, 65, 2), (256, 256, 1), (96, 256, 2))
CAPACITIES = {"an eighth": 1 / 8, "half": 1 / 2}
DEPTH, BATCH, CHUNK = 8, 32, 4
SMALL = (16, 32, 64, 128)  # features of a token, to find where it pays
WRITTEN = 128  # tokens, one by one


def cases(*, quick: bool = False) -> list[Case]:
    """A language model with every other block, or every block, wrapped, at the sizes of the course."""
    sizes = ((32, 16, 2),) if quick else SIZES
    return [
        *(
            (f"mixture of depths {dim}, {tokens} tokens, every {every}", partial(_rows, dim, tokens, every, quick))
            for dim, tokens, every in sizes
        ),
        ("mixture of depths, trained", partial(_trained, quick)),
        ("mixture of depths, where it breaks even", partial(_pays, quick)),
        ("mixture of depths, writing", partial(_steps, quick)),
    ]


def _models(dim: int, every: int, quick: bool, *, predictor: bool = False) -> tuple[CausalLM, CausalLM]:
    depth = 2 if quick else DEPTH
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(CausalLM(vocabulary=256, dim=dim, depth=depth, heads=max(dim // 32, 1)).eval())
    ours, dense = models
    for place in range(every - 1, depth, every):
        ours.blocks[place] = MixtureOfDepths(
            ours.blocks[place],
            1 / 8,
            predictor=predictor,
            in_place=place > 0,  # the first layer's input is used again
        )
    return ours, dense


@torch.inference_mode()
def _races(
    dim: int, tokens: int, capacities: dict[str, float], every: int, quick: bool, *, masked: bool, repeats: int = 9
) -> dict[str, Race]:
    batch = 8 if quick else BATCH
    ours, dense = _models(dim, every, quick)
    x = ours.embed(whole(256, batch, tokens))

    def run(model: CausalLM, chunk: int, within: int) -> Tensor:
        """All layers for ``chunk`` samples at a time, the dense ones of them for ``within`` at a time."""
        done = []
        for part in x.split(chunk):
            for block in model.blocks:
                if within < len(part) and not isinstance(block, MixtureOfDepths):
                    part = torch.cat([block(few) for few in part.split(within)])
                else:
                    part = block(part)
            done.append(part)
        return torch.cat(done)

    def at(capacity: float, chunk: int, within: int, execution: str = "gathered") -> Tensor:
        with setting(ours, MixtureOfDepths, capacity=capacity, execution=execution):
            return run(ours, chunk, within)

    def ways(capacity: float) -> Ways:
        apart = (4 * CHUNK, CHUNK) if every > 1 else ()
        return {f"{chunk} at a time": partial(at, capacity, chunk, batch) for chunk in (batch, 4 * CHUNK)} | {
            f"its dense layers {within} at a time": partial(at, capacity, batch, within) for within in apart
        }

    return contest(
        {name: ways(capacity) for name, capacity in capacities.items()},
        {f"{chunk} at a time": partial(run, dense, chunk, batch) for chunk in (batch, 4 * CHUNK, CHUNK)},
        masked={n: partial(at, c, 4 * CHUNK, batch, "masked") for n, c in capacities.items()} if masked else {},
        repeats=repeats,
    )


def _rows(dim: int, tokens: int, every: int, quick: bool) -> list[Row]:
    capacities = CAPACITIES if every > 1 else {"an eighth": 1 / 8}
    long = tokens > 65 and dim >= 256
    races = _races(dim, tokens, capacities, every, quick, masked=not long, repeats=7 if long else 9)
    aim = 1.0 if dim >= 256 else 0.9
    return [race.row(_name(name, every), _size(dim, tokens, quick), aim=aim) for name, race in races.items()]


def _trained(quick: bool) -> list[Row]:
    model = load("topics_mod")

    def run(capacity: float, tokens: Tensor, execution: str = "gathered") -> Tensor:
        with setting(model, MixtureOfDepths, capacity=capacity, execution=execution):
            return model(tokens)

    budgets = {"an eighth of the tokens": 1 / 8, "a quarter of the tokens": 1 / 4}
    masked = partial(run, execution="masked")
    size = "topics_small, dim 64, 6 layers"
    return on_text("mixture of depths", budgets, run, masked, dense="topics_small", size=size, quick=quick)


def _pays(quick: bool) -> Row:
    tokens, dims = (16, SMALL[:2]) if quick else (65, SMALL)

    def measure(dim: int) -> Race:
        return _races(dim, tokens, {"an eighth": 1 / 8}, 2, quick, masked=False, repeats=7)["an eighth"]

    return pays(_name("an eighth", 2), _size(f"{dims[0]} to {dims[-1]}", tokens, quick), "dim", dims, measure)


def _name(share: str, every: int) -> str:
    return f"mixture of depths, {share} of the tokens in {'every' if every == 1 else 'every other'} block"


def _size(dim: object, tokens: int, quick: bool) -> str:
    return transformer(dim, 2 if quick else DEPTH, 8 if quick else BATCH, tokens)


@torch.inference_mode()
def _steps(quick: bool) -> Row:
    """One sequence, token by token, every other layer routing as many of its tokens as the capacity says."""
    dim, tokens = (32, 8) if quick else (256, WRITTEN)
    ours, dense = _models(dim, 2, quick, predictor=True)
    text = whole(256, 1, tokens)
    routed = _calibrate(ours, text)

    def write(model: CausalLM) -> Tensor:
        cache = model.new_cache()
        steps = zip(text.split(1, dim=1), torch.arange(tokens, device=text.device).split(1), strict=True)
        return torch.cat([model(token, positions=place, cache=cache) for token, place in steps], dim=1)

    run = race({"a cache": partial(write, ours)}, {"a cache": partial(write, dense)}, repeats=9)
    return run.row(
        f"{_name('an eighth', 2)}, writing",
        f"dim {dim}, {len(ours.blocks)} layers, 1 × {tokens} tokens, one by one",
        note=f"its predictors routed {100 * routed:.1f} % of the tokens",
    )


def _calibrate(model: CausalLM, text: Tensor) -> float:
    """Let every predictor pass its layer's capacity of this text, from below up; the share that then runs."""
    layers = [block for block in model.blocks if isinstance(block, MixtureOfDepths)]
    for number, layer in enumerate(layers):
        layer.routing = "predictor"
        with record(model, MixtureOfDepths) as routed:
            model(text)
        said = list(routed.values())[number][0].predicted
        assert said is not None
        assert isinstance(layer.predictor, torch.nn.Sequential)
        layer.predictor[-1].bias -= said.quantile(1 - layer.capacity)
    with record(model, MixtureOfDepths) as routed:
        model(text)
    return torch.stack([layer.mask for (layer,) in routed.values()]).double().mean().item()
