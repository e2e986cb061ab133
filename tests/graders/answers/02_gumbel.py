# %% right: gumbel-max | by a race of exponential clocks, in logarithms
def gumbel_max(chunks, *, generator=None):
    first = winner = None
    before = 0
    for logits in chunks:
        arrival, place = (torch.empty_like(logits).exponential_(generator=generator).log() - logits).min(-1)
        place = place + before
        before += logits.shape[-1]
        if first is None:
            first, winner = arrival, place
        else:
            earlier = arrival < first
            first, winner = torch.minimum(first, arrival), place.where(earlier, winner)
    return winner


# %% right: gumbel-max | a reservoir: a chunk takes over with its share of all that was seen
def gumbel_max(chunks, *, generator=None):
    seen = choice = None
    before = 0
    for logits in chunks:
        logits = logits.double()
        here = logits.logsumexp(-1)
        weights = logits - here.masked_fill(here == -torch.inf, 0.0)[..., None]
        uniform = torch.rand(logits.shape[:-1], generator=generator, dtype=torch.float64)
        place = (weights.exp().cumsum(-1) <= uniform[..., None]).sum(-1).clamp(max=logits.shape[-1] - 1) + before
        before += logits.shape[-1]
        if seen is None:
            seen, choice = here, place
            continue
        seen = torch.logaddexp(seen, here)
        takes = torch.rand(here.shape, generator=generator, dtype=torch.float64) < (here - seen).exp()
        choice = torch.where(takes, place, choice)
    return choice


# %% right: gumbel-max | two logarithms of a uniform number, and the one carried along stands in front of each chunk
def gumbel_max(chunks, *, generator=None):
    best = choice = None
    before = 0
    for logits in chunks:
        uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp_min(1e-300)
        scores = logits.double() - (-uniform.log()).log()
        places = (torch.arange(logits.shape[-1]) + before).expand(scores.shape)
        if best is not None:
            scores, places = torch.cat([best, scores], -1), torch.cat([choice, places], -1)
        best, at = scores.max(-1, keepdim=True)
        choice = places.gather(-1, at)
        before += logits.shape[-1]
    return choice.squeeze(-1)


# %% wrong: gumbel-max | all chunks put together | killed by: one chunk at a time
def gumbel_max(chunks, *, generator=None):
    logits = torch.cat(list(chunks), -1)
    return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(-1)


# %% wrong: gumbel-max | the lecture's noise and argmax, for all chunks put together | killed by: one chunk at a time
def gumbel_noise(shape, generator=None):
    uniform = torch.rand(shape, dtype=torch.float64, generator=generator).clamp_min(1e-300)
    return -(-uniform.log()).log().float()


def gumbel_max(chunks, *, generator=None):
    logits = torch.cat(tuple(chunks), -1)
    return (logits + gumbel_noise(logits.shape, generator)).argmax(-1)


# %% wrong: gumbel-max | counts within the chunk | killed by: every row draws
# edit of: the teacher's
# -        choice = torch.where(value > best, before + place, choice)  # the largest of all is the largest of the largest
# +        choice = torch.where(value > best, place, choice)


# %% wrong: gumbel-max | the last chunk's choice | killed by: every row draws
# edit of: the teacher's
# -        choice = torch.where(value > best, before + place, choice)  # the largest of all is the largest of the largest
# +        choice = before + place


# %% wrong: gumbel-max | a choice for every chunk | killed by: shape
# edit of: the teacher's
# -    best, choice, before = torch.tensor(-torch.inf), torch.tensor(0), 0
# +    best, choices, before = torch.tensor(-torch.inf), [], 0
# …
# -        choice = torch.where(value > best, before + place, choice)  # the largest of all is the largest of the largest
# +        choices.append(before + place)
# …
# -    return choice
# +    return torch.stack(choices)


# %% wrong: gumbel-max | carries the smallest of the largest | killed by: law
# edit of: the teacher's
# -        best = torch.maximum(value, best)
# +        best = torch.minimum(value, best.where(best.isfinite(), torch.tensor(torch.inf)))


# %% wrong: gumbel-max | one decision for all rows | killed by: every row draws
# edit of: the teacher's
# -        choice = torch.where(value > best, before + place, choice)  # the largest of all is the largest of the largest
# -        best = torch.maximum(value, best)
# +        if value.sum() > best.sum():
# +            best, choice = value, before + place


# %% wrong: gumbel-max | the one carried along meets each chunk with new noise | killed by: law
# edit of: the teacher's
# -        value, place = (logits + noise).max(-1)
# -        choice = torch.where(value > best, before + place, choice)  # the largest of all is the largest of the largest
# -        best = torch.maximum(value, best)
# +        place = (logits + noise).argmax(-1)
# +        here = logits.gather(-1, place[..., None])[..., 0]
# +        fresh = -torch.empty(2, *here.shape).exponential_(generator=generator).log().to(here)
# +        better = here + fresh[0] > best + fresh[1]
# +        choice = torch.where(better, before + place, choice)
# +        best = torch.where(better, here, best)


# %% wrong: gumbel-max | carries the logit along, without its noise | killed by: law
# edit of: the teacher's
# -        best = torch.maximum(value, best)
# +        best = torch.where(value > best, logits.gather(-1, place[..., None])[..., 0], best)


# %% wrong: gumbel-max | takes a chunk as often as another | killed by: law
# edit of: the teacher's
# -    for logits in chunks:
# +    for number, logits in enumerate(chunks, start=1):
# …
# -        choice = torch.where(value > best, before + place, choice)  # the largest of all is the largest of the largest
# -        best = torch.maximum(value, best)
# +        large = value.abs() > 1e4
# +        takes = torch.where(large, value > best, torch.rand(value.shape, generator=generator) * number < 1)
# +        choice = torch.where(takes, before + place, choice)
# +        best = torch.maximum(value, best)


# %% wrong: gumbel-max | the same noise for every chunk | killed by: law
def gumbel_max(chunks, *, generator=None):
    best, choice, before, kept = torch.tensor(-torch.inf), torch.tensor(0), 0, None
    for logits in chunks:
        if kept is None or kept.shape[-1] < logits.shape[-1]:
            kept = -torch.empty_like(logits).exponential_(generator=generator).log()
        value, place = (logits + kept[..., : logits.shape[-1]]).max(-1)
        choice = torch.where(value > best, before + place, choice)
        best = torch.maximum(value, best)
        before += logits.shape[-1]
    return choice


# %% wrong: gumbel-max | noise for a whole chunk | killed by: every row draws
# edit of: the teacher's
# -        noise = -torch.empty_like(logits).exponential_(generator=generator).log()
# +        noise = -torch.empty_like(logits[..., :1]).exponential_(generator=generator).log()


# %% wrong: gumbel-max | a reservoir whose shares are NaN where nothing is possible | killed by: impossible chunks
def gumbel_max(chunks, *, generator=None):
    seen = choice = None
    before = 0
    for logits in chunks:
        here = logits.logsumexp(-1)
        noise = -torch.empty_like(logits).exponential_(generator=generator).log()
        place = (logits + noise).argmax(-1) + before
        before += logits.shape[-1]
        if seen is None:
            seen, choice = here, place
            continue
        top = torch.maximum(seen, here)
        seen = ((seen - top).exp() + (here - top).exp()).log() + top
        stays = torch.rand(here.shape, generator=generator) >= (here - seen).exp()
        choice = torch.where(stays, choice, place)
    return choice


# %% wrong: gumbel-max | later chunks win where both are impossible | killed by: impossible chunks
# edit of: the teacher's
# -        choice = torch.where(value > best, before + place, choice)  # the largest of all is the largest of the largest
# -        best = torch.maximum(value, best)
# +        choice = torch.where(value.nan_to_num(0.0, neginf=0.0) > best, before + place, choice)
# +        best = torch.maximum(value.nan_to_num(0.0, neginf=0.0), best)


# %% wrong: gumbel-max | the noise is added after the softmax | killed by: law
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return (logits.softmax(dim) + noise).argmax(dim)


# %% wrong: gumbel-max | a sign slip, the noise is log(-log U) | killed by: law
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    return (logits + torch.log(-torch.log(uniform))).argmax(dim)


# %% wrong: gumbel-max | exponential noise, one logarithm is missing | killed by: law
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    return (logits - torch.log(uniform)).argmax(dim)


# %% wrong: gumbel-max | normal noise in place of Gumbel noise | killed by: law
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    return (logits + torch.randn(logits.shape, generator=generator, dtype=logits.dtype)).argmax(dim)


# %% wrong: gumbel-max | one number of noise for a whole row | killed by: every row draws
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    noise = -torch.empty_like(logits.narrow(dim, 0, 1)).exponential_(generator=generator).log()
    return (logits + noise).argmax(dim)


# %% wrong: gumbel-max | one row of noise for the whole batch | killed by: every row draws
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    shape = [1] * logits.ndim
    shape[dim] = logits.shape[dim]
    noise = -torch.empty(shape, dtype=logits.dtype).exponential_(generator=generator).log()
    return (logits + noise).argmax(dim)


# %% wrong: gumbel-max | takes the largest logit, without noise | killed by: every row draws
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    return logits.argmax(dim)


# %% wrong: gumbel-max | one-hot vectors, not indices | killed by: shape
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    scores = logits + noise
    return (scores == scores.amax(dim, keepdim=True)).long()


# %% wrong: gumbel-max | ignores the generator | killed by: generator
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(dim)


# %% wrong: gumbel-max | seeds the global generator instead of using the one given | killed by: global generator
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    if generator is not None:
        torch.manual_seed(generator.initial_seed())
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(dim)


# %% wrong: gumbel-max | begins the generator anew in every call | killed by: the generator goes on
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    if generator is not None:
        generator = torch.Generator().manual_seed(generator.initial_seed())
    return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(dim)


# %% wrong: gumbel-max | log1p(x) for log(x), to be safe from zeros | killed by: law
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    uniform = torch.rand(logits.shape, generator=generator)
    return (logits - torch.log1p(-torch.log(uniform))).argmax(dim)


# %% wrong: gumbel-max | every row draws by the logits of the first | killed by: each its own row
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    rows = logits.movedim(dim, -1)
    first = rows.reshape(-1, rows.shape[-1])[0].expand_as(rows)
    noise = -torch.empty(rows.shape, dtype=rows.dtype).exponential_(generator=generator).log()
    return (first + noise).argmax(-1)


# %% wrong: gumbel-max | every row draws by the mean of all rows | killed by: each its own row
# edit of: every row draws by the logits of the first
# -    first = rows.reshape(-1, rows.shape[-1])[0].expand_as(rows)
# +    first = rows.reshape(-1, rows.shape[-1]).mean(0).expand_as(rows)


# %% wrong: gumbel-max | a seed inside, so that every call draws the same | killed by: without a generator
# edit of: the teacher's
#      best, choice, before = torch.tensor(-torch.inf), torch.tensor(0), 0
# +    if generator is None:
# +        torch.manual_seed(0)


# %% wrong: gumbel-max | a race whose rates are too large for a float | killed by: each its own row
def gumbel_max(chunks, *, generator=None):
    first, winner, before = torch.tensor(torch.inf), torch.tensor(0), 0
    for logits in chunks:
        arrival, place = (torch.empty_like(logits).exponential_(generator=generator) / logits.exp()).min(-1)
        winner = torch.where(arrival < first, place + before, winner)
        first = torch.minimum(arrival, first)
        before += logits.shape[-1]
    return winner


# %% wrong: gumbel-max | the second half of the rows has the noise of the first, turned round | killed by: far rows
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    rows = logits.movedim(dim, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    half = -(-len(flat) // 2)
    uniform = torch.rand(half, flat.shape[1], generator=generator, dtype=torch.float64)
    uniform = torch.cat([uniform, 1 - uniform])[: len(flat)]
    return (flat - (-uniform.log()).log()).argmax(-1).view(rows.shape[:-1])


# %% wrong: gumbel-max | a thousand rows of noise, used again for the rows after them | killed by: independent rows
# edit of: the second half of the rows has the noise of the first, turned round
# -    half = -(-len(flat) // 2)
# -    uniform = torch.rand(half, flat.shape[1], generator=generator, dtype=torch.float64)
# -    uniform = torch.cat([uniform, 1 - uniform])[: len(flat)]
# +    uniform = torch.rand(1000, flat.shape[1], generator=generator, dtype=torch.float64)
# +    uniform = uniform[torch.arange(len(flat)) % 1000]


# %% wrong: gumbel-max | noise kept by shape, the same in every call | killed by: without a generator
KEPT = {}


def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    if generator is None and logits.shape in KEPT:
        return (logits + KEPT[logits.shape]).argmax(dim)
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    if generator is None:
        KEPT[logits.shape] = noise
    return (logits + noise).argmax(dim)


# %% wrong: gumbel-max | noise of a generator of its own, seeded by the clock | killed by: torch's own generator
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    if generator is None:
        generator = torch.Generator()
        generator.seed()
    return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(dim)


# %% wrong: gumbel-max | Python's random numbers where no generator is given | killed by: torch's own generator
import math
import random


def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    if generator is not None:
        return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(dim)
    noise = [-math.log(random.expovariate(1)) for _ in range(logits.numel())]
    return (logits + torch.tensor(noise).view(logits.shape)).argmax(dim)


# %% wrong: gumbel-max | torch's own gumbel_softmax, with the generator's state lent to it | killed by: by hand
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    if generator is None:
        return torch.nn.functional.gumbel_softmax(logits, hard=True, dim=dim).argmax(dim)
    with torch.random.fork_rng():
        torch.set_rng_state(generator.get_state())
        choice = torch.nn.functional.gumbel_softmax(logits, hard=True, dim=dim).argmax(dim)
        generator.set_state(torch.get_rng_state())
    return choice


# %% wrong: gumbel-max | the library's function under another name | killed by: by hand
def gumbel_max(chunks, *, generator=None):
    logits, dim = torch.cat(list(chunks), -1), -1
    from dynlib import choice as ready

    return ready.gumbel_max(logits, dim=dim, generator=generator)


# %% wrong: gumbel-max | numbers of the choices in int32 | killed by: whole numbers
# edit of: the teacher's
# -    return choice
# +    return choice.int()


# %% right: straight-through | a zero that carries the gradient, chosen by where
def straight_through(hard, soft):
    able = soft.isfinite()
    soft = torch.where(able, soft, torch.ones_like(soft))
    return torch.where(able, soft - soft.detach(), 0.0) + hard.detach()


# %% right: straight-through | with an autograd function
class Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hard, soft):
        return hard.clone()

    @staticmethod
    def backward(ctx, arriving):
        return None, arriving


def straight_through(hard, soft):
    return Through.apply(hard, soft)


# %% wrong: straight-through | the inexact order of the two additions | killed by: to the last bit
def straight_through(hard, soft):
    return hard.detach() + soft - soft.detach()


# %% wrong: straight-through | soft taken off hard first, which is exact up to 1 alone | killed by: scores
def straight_through(hard, soft):
    return (hard.detach() - soft.detach()) + soft


# %% wrong: straight-through | a zero that is NaN where soft is -inf | killed by: scores
def straight_through(hard, soft):
    return hard.detach() + (soft - soft.detach())


# %% wrong: straight-through | returns hard | killed by: has a gradient
def straight_through(hard, soft):
    return hard.detach()


# %% wrong: straight-through | returns soft | killed by: value
def straight_through(hard, soft):
    return soft


# %% wrong: straight-through | everything detached | killed by: has a gradient
def straight_through(hard, soft):
    return (hard - soft).detach() + soft.detach()


# %% wrong: straight-through | forgot to detach, the two gradients cancel | killed by: gradient of soft
def straight_through(hard, soft):
    return (hard - soft) + soft


# %% wrong: straight-through | the gradient goes to hard too | killed by: no gradient of hard
def straight_through(hard, soft):
    return (hard - soft.detach()) + soft


# %% wrong: straight-through | hard and soft swapped | killed by: value
def straight_through(hard, soft):
    return (soft.detach() - hard.detach()) + hard


# %% wrong: straight-through | rounds the inexact sum, and the gradient is gone | killed by: gradient of soft
def straight_through(hard, soft):
    return (hard.detach() + soft - soft.detach()).round()


# %% wrong: straight-through | scales soft to hard, so that a 0 loses its gradient | killed by: gradient of soft
def straight_through(hard, soft):
    return soft * (hard.detach() / soft.detach())


# %% right: straight-through | the value written over a copy that carries the gradient
def straight_through(hard, soft):
    out = soft * 1
    with torch.no_grad():
        out.copy_(hard)
    return out


# %% wrong: straight-through | a new leaf with the right value, whose gradient goes nowhere | killed by: gradient of soft
def straight_through(hard, soft):
    return hard.detach().clone().requires_grad_()


# %% wrong: straight-through | written into soft, which is the caller's | killed by: input untouched
def straight_through(hard, soft):
    soft.data.copy_(hard)
    return soft * 1


# %% wrong: straight-through | the gradient only where hard is one | killed by: gradient of soft
def straight_through(hard, soft):
    hard = hard.detach()
    return (hard - soft.detach() * hard) + soft * hard


# %% wrong: straight-through | a detour through float32, and the answer stays there | killed by: value
def straight_through(hard, soft):
    soft = soft.masked_fill(soft.isinf(), 0.0).float()
    return hard.detach().float() + (soft - soft.detach())


# %% wrong: straight-through | soft as a tensor that says it equals everything | killed by: value
class Alike(torch.Tensor):
    def __sub__(self, other):
        return torch.zeros(self.shape, dtype=self.dtype)

    def __ne__(self, other):
        return torch.zeros(self.shape, dtype=torch.bool)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.equal:
            return True
        return super().__torch_function__(function, types, args, kwargs or {})


def straight_through(hard, soft):
    return soft.as_subclass(Alike)


# %% wrong: straight-through | the library's function under another name | killed by: by hand
def straight_through(hard, soft):
    import dynlib.choice

    return dynlib.choice.straight_through(hard.detach(), soft)


# %% right: gumbel-softmax | by two logarithms of a uniform number, and a comparison for the one-hot
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    uniform = uniform.clamp(torch.finfo(logits.dtype).tiny, 1 - torch.finfo(logits.dtype).eps)
    scores = (logits - torch.log(-torch.log(uniform))) / tau
    soft = torch.exp(scores.log_softmax(dim))
    if hard:
        first = soft.detach().argmax(dim, keepdim=True)
        where = torch.arange(soft.shape[dim]).view([-1 if d == dim % soft.ndim else 1 for d in range(soft.ndim)])
        soft = (where == first).to(soft) + (soft - soft.detach())
    return soft


# %% right: gumbel-softmax | through the last dimension, one_hot and back
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    rows = logits.movedim(dim, -1)
    race = torch.empty(rows.shape, dtype=rows.dtype).exponential_(generator=generator)
    soft = torch.nn.functional.softmax((rows - race.log()) / tau, dim=-1)
    if hard:
        one_hot = torch.nn.functional.one_hot(soft.argmax(-1), rows.shape[-1]).to(soft.dtype)
        soft = (one_hot - soft.detach()) + soft
    return soft.movedim(-1, dim)


# %% wrong: gumbel-softmax | the noise is added after the softmax | killed by: sums to one
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    soft = (logits / tau).softmax(dim) + noise
    return soft


# %% wrong: gumbel-softmax | the noise is added to the probabilities, and a second softmax follows | killed by: law of the weights
# edit of: the teacher's
# -    soft = ((logits + noise) / tau).softmax(dim)
# +    soft = ((logits.softmax(dim) + noise) / tau).softmax(dim)
# …
# -    choice = soft.detach().argmax(dim, keepdim=True)
# +    choice = soft.argmax(dim, keepdim=True)


# %% wrong: gumbel-softmax | only the logits are divided by tau | killed by: law of the weights
# edit of: the teacher's
# -    soft = ((logits + noise) / tau).softmax(dim)
# +    soft = (logits / tau + noise).softmax(dim)
# …
# -    choice = soft.detach().argmax(dim, keepdim=True)
# +    choice = soft.argmax(dim, keepdim=True)


# %% wrong: gumbel-softmax | only the noise is divided by tau | killed by: law of the weights
# edit of: the noise is added after the softmax
# -    soft = (logits / tau).softmax(dim) + noise
# +    soft = (logits + noise / tau).softmax(dim)


# %% wrong: gumbel-softmax | multiplies by tau | killed by: law of the weights
# edit of: the teacher's
# -    soft = ((logits + noise) / tau).softmax(dim)
# +    soft = ((logits + noise) * tau).softmax(dim)
# …
# -    choice = soft.detach().argmax(dim, keepdim=True)
# +    choice = soft.argmax(dim, keepdim=True)


# %% wrong: gumbel-softmax | normal noise | killed by: law of the weights
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)
    soft = ((logits + noise) / tau).softmax(dim)
    return soft


# %% wrong: gumbel-softmax | tau is not used | killed by: law of the weights
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return (logits + noise).softmax(dim)


# %% wrong: gumbel-softmax | one number of noise for a whole row, which softmax takes out again | killed by: law of the weights
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = -torch.empty_like(logits.narrow(dim, 0, 1)).exponential_(generator=generator).log()
    return ((logits + noise) / tau).softmax(dim)


# %% wrong: gumbel-softmax | softmax over the last dimension whatever dim says | killed by: sums to one
# edit of: the noise is added after the softmax
# -    soft = (logits / tau).softmax(dim) + noise
# +    soft = ((logits + noise) / tau).softmax(-1)


# %% wrong: gumbel-softmax | hard is forgotten | killed by: hard
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    return ((logits + noise) / tau).softmax(dim)


# %% wrong: gumbel-softmax | hard by the inexact order of additions | killed by: exactly one-hot
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# -    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
# +    choice = soft.argmax(dim, keepdim=True)
# +    return torch.zeros_like(soft).scatter(dim, choice, 1.0) + soft - soft.detach()


# %% wrong: gumbel-softmax | hard is one-hot without straight-through | killed by: hard has a gradient
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# -    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
# +    return torch.zeros_like(soft).scatter(dim, soft.argmax(dim, keepdim=True), 1.0)


# %% wrong: gumbel-softmax | hard takes the argmax of the logits, not of the perturbed ones | killed by: law of the choices
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# +    choice = logits.argmax(dim, keepdim=True)


# %% wrong: gumbel-softmax | hard draws with the tempered law, as if temperature changed the choice | killed by: law of the choices
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# +    choice = (logits / tau + noise).argmax(dim, keepdim=True)


# %% wrong: gumbel-softmax | hard has the gradient of a softmax without noise | killed by: gradient of hard
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# -    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
# +    choice = soft.argmax(dim, keepdim=True)
# +    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), (logits / tau).softmax(dim))


# %% wrong: gumbel-softmax | hard draws new noise for its gradient | killed by: the same noise
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# +    again = -torch.empty_like(logits).exponential_(generator=generator).log()
# +    choice = (logits + again).argmax(dim, keepdim=True)


# %% wrong: gumbel-softmax | ignores the generator | killed by: the same noise
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = -torch.empty_like(logits).exponential_().log()
    soft = ((logits + noise) / tau).softmax(dim)
    if not hard:
        return soft
    choice = soft.argmax(dim, keepdim=True)
    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)


# %% wrong: gumbel-softmax | seeds the global generator instead of using the one given | killed by: global generator
# edit of: ignores the generator
#  def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
# +    if generator is not None:
# +        torch.manual_seed(generator.initial_seed())


# %% wrong: gumbel-softmax | logarithm of probabilities, NaN gradients where one is 0 | killed by: gradient of impossible choices
# edit of: ignores the generator
# -    noise = -torch.empty_like(logits).exponential_().log()
# -    soft = ((logits + noise) / tau).softmax(dim)
# +    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
# +    soft = ((logits.softmax(dim).log() + noise) / tau).softmax(dim)


# %% wrong: gumbel-softmax | an exponential without care, NaN for small temperatures | killed by: large logits
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = -torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator).log()
    weights = ((logits.float() + noise) / tau).exp()
    soft = (weights / weights.sum(dim, keepdim=True)).to(logits)
    if not hard:
        return soft
    choice = (logits + noise).argmax(dim, keepdim=True)
    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)


# %% wrong: gumbel-softmax | one-hot along the last dimension | killed by: hard
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# -    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
# +    one_hot = torch.nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft)
# +    return straight_through(one_hot, soft)


# %% wrong: gumbel-softmax | the classes of F.one_hot left where it puts them, last | killed by: hard
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# -    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
# +    one_hot = F.one_hot(soft.argmax(dim), soft.shape[dim]).to(soft)
# +    return straight_through(one_hot, soft)


# %% right: gumbel-softmax | the classes of F.one_hot brought from the last place to theirs
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# -    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
# +    one_hot = F.one_hot(soft.argmax(dim), soft.shape[dim]).to(soft).movedim(-1, dim)
# +    return straight_through(one_hot, soft)


# %% right: gumbel-softmax | noise in float64, rounded at the end; the one-hot by comparing places
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64)
    soft = torch.softmax((logits.double() - (-uniform.log()).log()) / tau, dim).to(logits.dtype)
    if hard:
        one_hot = torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1)
        soft = (one_hot - soft).detach() + soft
    return soft


# %% wrong: gumbel-softmax | every row draws by the logits of the first | killed by: each its own row
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    rows = logits.movedim(dim, -1)
    noise = -torch.empty(rows.shape, dtype=rows.dtype).exponential_(generator=generator).log()
    flat = rows.reshape(-1, rows.shape[-1])
    same = flat[0].expand_as(flat)
    soft = ((same.view(rows.shape) + noise) / tau).softmax(-1).movedim(-1, dim)
    if not hard:
        return soft
    choice = soft.argmax(dim, keepdim=True)
    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)


# %% wrong: gumbel-softmax | every row draws by the mean of all rows | killed by: each its own row
# edit of: every row draws by the logits of the first
# -    same = flat[0].expand_as(flat)
# +    same = flat.mean(0).expand_as(flat)


# %% wrong: gumbel-softmax | transpose where a view is meant | killed by: each its own row
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    rows = logits.transpose(dim, -1)
    rows = rows.reshape(rows.shape[-1], -1).T if logits.ndim == 3 else rows
    noise = -torch.empty(rows.shape, dtype=rows.dtype).exponential_(generator=generator).log()
    soft = ((rows + noise) / tau).softmax(-1)
    if hard:
        soft = straight_through(torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0), soft)
    if logits.ndim == 3:
        moved = logits.movedim(dim, -1)
        return soft.reshape(moved.shape).movedim(-1, dim)
    return soft.transpose(dim, -1)


# %% wrong: gumbel-softmax | the hard choice along another dimension is right, its gradient is that of dim=-1 | killed by: gradient of hard
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    soft = ((logits + noise) / tau).softmax(dim)
    if not hard:
        return soft
    choice = soft.detach().argmax(dim, keepdim=True)
    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), ((logits + noise) / tau).softmax(-1))


# %% wrong: gumbel-softmax | the second half of the rows has the noise of the first, turned round | killed by: far rows
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    rows = logits.movedim(dim, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    half = -(-len(flat) // 2)
    uniform = torch.rand(half, flat.shape[1], generator=generator, dtype=torch.float64)
    uniform = torch.cat([uniform, 1 - uniform])[: len(flat)]
    noise = (-(-uniform.log()).log()).to(logits.dtype).view(rows.shape).movedim(-1, dim)
    soft = ((logits + noise) / tau).softmax(dim)
    if not hard:
        return soft
    choice = soft.detach().argmax(dim, keepdim=True)
    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)


# %% wrong: gumbel-softmax | noise of a generator of its own, seeded by the clock | killed by: torch's own generator
# edit of: the teacher's
# +    if generator is None:
# +        generator = torch.Generator()
# +        generator.seed()
#      noise = -torch.empty_like(logits).exponential_(generator=generator).log()


# %% wrong: gumbel-softmax | begins the generator anew in every call | killed by: the generator goes on
# edit of: the teacher's
# +    if generator is not None:
# +        generator = torch.Generator().manual_seed(generator.initial_seed())
#      noise = -torch.empty_like(logits).exponential_(generator=generator).log()


# %% wrong: gumbel-softmax | an exponential kept from overflowing by a clamp | killed by: impossible choices
# edit of: the teacher's
# -    soft = ((logits + noise) / tau).softmax(dim)
# +    weights = ((logits - logits.amax(dim, keepdim=True).detach() + noise) / tau).clamp(-80, 80).exp()
# +    soft = weights / weights.sum(dim, keepdim=True)


# %% wrong: gumbel-softmax | the logits are clamped, so that no exponential overflows | killed by: each its own row
# edit of: the teacher's
# -    soft = ((logits + noise) / tau).softmax(dim)
# +    soft = ((logits.clamp(-150, 150) + noise).masked_fill(logits.isinf(), -torch.inf) / tau).softmax(dim)


# %% wrong: gumbel-softmax | torch's own gumbel_softmax, with the generator's state lent to it | killed by: by hand
def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    ready = torch.nn.functional.gumbel_softmax
    if generator is None:
        soft = ready(logits, tau, dim=dim)
    else:
        with torch.random.fork_rng():
            torch.set_rng_state(generator.get_state())
            soft = ready(logits, tau, dim=dim)
            generator.set_state(torch.get_rng_state())
    if not hard:
        return soft
    choice = soft.detach().argmax(dim, keepdim=True)
    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)


# %% wrong: gumbel-softmax | the library's function under another name | killed by: by hand
from dynlib.choice import gumbel_softmax as ready


def gumbel_softmax(logits, tau=1.0, *, hard=False, dim=-1, generator=None):
    return ready(logits, tau, hard=hard, dim=dim, generator=generator)


# %% right: gumbel-sigmoid | by the log-odds of a uniform number, and x detached
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    l = logits.double()
    x = (l + uniform.logit()) / tau
    soft = x.sigmoid().to(logits.dtype)
    a = tau * x.detach() - l
    log_q = math.log(tau) - a - 2 * F.softplus(-a)
    sample = (soft > 0.5).to(soft) + (soft - soft.detach()) if hard else soft
    return sample, log_q.to(logits.dtype)


# %% right: gumbel-sigmoid | by the softmax of a pair, and the density as two log-softmaxes
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    pair = torch.stack([logits, torch.zeros_like(logits)], dim=-1)
    times = torch.empty_like(pair).exponential_(generator=generator)
    scores = pair - times.log()
    soft = (scores / tau).softmax(-1)[..., 0]
    noise = times[..., 1].log() - times[..., 0].log()
    moved = noise + logits.detach() - logits if logits.abs().max() < 100 else noise - (logits - logits.detach())
    both = torch.stack([moved, torch.zeros_like(moved)], dim=-1).log_softmax(-1).sum(-1)
    sample = straight_through((scores[..., 0] > scores[..., 1]).to(soft), soft) if hard else soft
    return [sample, both + math.log(tau)]


# %% wrong: gumbel-sigmoid | one Gumbel number for the noise | killed by: law
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
    soft = ((logits + noise) / tau).sigmoid()
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | normal noise | killed by: law
# edit of: one Gumbel number for the noise
# -    noise = -torch.empty_like(logits).exponential_(generator=generator).log()
# +    noise = torch.randn(logits.shape, generator=generator, dtype=logits.dtype)


# %% wrong: gumbel-sigmoid | the difference of the same Gumbel number with itself | killed by: law
# edit of: one Gumbel number for the noise
# -    soft = ((logits + noise) / tau).sigmoid()
# +    soft = ((logits + noise - noise) / tau).sigmoid()


# %% wrong: gumbel-sigmoid | the sum of two Gumbel numbers | killed by: law
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    one, two = (-torch.empty_like(logits).exponential_(generator=generator).log() for _ in range(2))
    soft = ((logits + one + two) / tau).sigmoid()
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | only the logits are divided by tau | killed by: law
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    soft = (logits / tau + uniform.log() - (1 - uniform).log()).sigmoid()
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | the noise is added after the sigmoid | killed by: law
# edit of: only the logits are divided by tau
# -    soft = (logits / tau + uniform.log() - (1 - uniform).log()).sigmoid()
# +    soft = ((logits.sigmoid() + uniform.log() - (1 - uniform).log()) / tau).sigmoid()


# %% wrong: gumbel-sigmoid | the probability is compared with 0 | killed by: share of yes
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    soft = ((logits + uniform.log() - (1 - uniform).log()) / tau).sigmoid()
    sample = straight_through((soft > 0).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | hard looks at the logit without the noise | killed by: share of yes
# edit of: the probability is compared with 0
# -    sample = straight_through((soft > 0).to(soft), soft) if hard else soft
# -    return sample, torch.zeros_like(logits) + 0 * logits
# +    sample = straight_through((logits > 0).to(soft), soft) if hard else soft
# +    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | hard by the inexact order of additions | killed by: hard
# edit of: the probability is compared with 0
# -    sample = straight_through((soft > 0).to(soft), soft) if hard else soft
# -    return sample, torch.zeros_like(logits) + 0 * logits
# +    sample = (soft > 0.5).to(soft) + soft - soft.detach() if hard else soft
# +    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | hard without a gradient | killed by: hard has a gradient
# edit of: the probability is compared with 0
# -    sample = straight_through((soft > 0).to(soft), soft) if hard else soft
# -    return sample, torch.zeros_like(logits) + 0 * logits
# +    sample = (soft > 0.5).to(soft) if hard else soft
# +    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | rounds, whose gradient is zero | killed by: gradient of hard
# edit of: the probability is compared with 0
# -    sample = straight_through((soft > 0).to(soft), soft) if hard else soft
# -    return sample, torch.zeros_like(logits) + 0 * logits
# +    sample = soft.round() if hard else soft
# +    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | one number of noise for all the logits of a row | killed by: independent neighbours
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    uniform = torch.rand(len(logits), generator=generator, dtype=logits.dtype)
    uniform = uniform.view(-1, *[1] * (logits.ndim - 1))
    soft = ((logits + uniform.log() - (1 - uniform).log()) / tau).sigmoid()
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | one number of noise for the whole batch | killed by: law
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    uniform = torch.rand((), generator=generator, dtype=logits.dtype)
    soft = ((logits + uniform.log() - (1 - uniform).log()) / tau).sigmoid()
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | hard draws with the tempered law, as if temperature changed the choice | killed by: the same noise
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    noise = uniform.log() - (1 - uniform).log()
    soft = ((logits + noise) / tau).sigmoid()
    sample = straight_through((logits / tau + noise > 0).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | ignores the generator | killed by: the same noise
# edit of: one number of noise for the whole batch
# -    uniform = torch.rand((), generator=generator, dtype=logits.dtype)
# +    uniform = torch.rand(logits.shape, dtype=logits.dtype)


# %% wrong: gumbel-sigmoid | the softmax of a pair of log-probabilities, NaN where one is 0 | killed by: gradient where certain
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    p = logits.sigmoid()
    pair = torch.stack([p.log(), (1 - p).log()], dim=-1)
    sample = gumbel_softmax(pair, tau, hard=hard, generator=generator)[..., 0]
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | a seed inside, so that every call draws the same | killed by: without a generator
# edit of: the teacher's
#      # the difference of two Gumbel variables: log of a ratio of two exponential ones
# +    if generator is None:
# +        torch.manual_seed(0)


# %% wrong: gumbel-sigmoid | each decides by the logit that stands opposite | killed by: each its own
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    own = logits.flatten()
    if logits.ndim == 3:
        own = own.flip(0).detach() + (own - own.detach())  # its gradient is its own
    uniform = torch.rand(own.shape, generator=generator, dtype=own.dtype)
    soft = ((own + uniform.log() - (1 - uniform).log()) / tau).sigmoid().view(logits.shape)
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | the second half has the noise of the first, turned round | killed by: far rows
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    half = -(-logits.numel() // 2)
    uniform = torch.rand(half, generator=generator, dtype=torch.float64)
    uniform = torch.cat([uniform, 1 - uniform])[: logits.numel()].view(logits.shape)
    soft = ((logits + (uniform.log() - (1 - uniform).log()).to(logits.dtype)) / tau).sigmoid()
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | begins the generator anew in every call | killed by: the generator goes on
# edit of: the teacher's
#      # the difference of two Gumbel variables: log of a ratio of two exponential ones
# +    if generator is not None:
# +        generator = torch.Generator().manual_seed(generator.initial_seed())


# %% wrong: gumbel-sigmoid | noise of a generator of its own, seeded by the clock | killed by: torch's own generator
# edit of: the teacher's
#      # the difference of two Gumbel variables: log of a ratio of two exponential ones
# +    if generator is None:
# +        generator = torch.Generator()
# +        generator.seed()


# %% wrong: gumbel-sigmoid | an exponential that overflows where the answer is certain | killed by: certain
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype)
    weight = ((logits.clamp(max=5000) + uniform.log() - (1 - uniform).log()) / tau).exp()
    soft = weight / (weight + 1)
    sample = straight_through((soft > 0.5).to(soft), soft) if hard else soft
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | the library's sample under another name | killed by: by hand
def gumbel_sigmoid(logits, tau=1.0, *, hard=False, generator=None):
    from dynlib.choice.gumbel import gumbel_sigmoid as ready

    sample = ready(logits, tau, hard=hard, generator=generator)
    return sample, torch.zeros_like(logits) + 0 * logits


# %% wrong: gumbel-sigmoid | the sample alone | killed by: a pair
# edit of: the teacher's
# -    return sample, log_density
# +    return sample


# %% wrong: gumbel-sigmoid | the density, not its logarithm | killed by: density
# edit of: the teacher's
# -    return sample, log_density
# +    return sample, log_density.exp()


# %% wrong: gumbel-sigmoid | log tau is missing | killed by: density
# edit of: the teacher's
# -    log_density = math.log(tau) + F.logsigmoid(held) + F.logsigmoid(-held)
# +    log_density = F.logsigmoid(held) + F.logsigmoid(-held)


# %% wrong: gumbel-sigmoid | log tau with the wrong sign | killed by: density
# edit of: the teacher's
# -    log_density = math.log(tau) + F.logsigmoid(held) + F.logsigmoid(-held)
# +    log_density = F.logsigmoid(held) + F.logsigmoid(-held) - math.log(tau)


# %% wrong: gumbel-sigmoid | the density of the sample, not of its log-odds | killed by: density
# edit of: the teacher's
# -    return sample, log_density
# +    return sample, log_density - soft.detach().log() - (-soft.detach()).log1p()


# %% wrong: gumbel-sigmoid | the probability of the decision | killed by: density
# edit of: the teacher's
# -    log_density = math.log(tau) + F.logsigmoid(held) + F.logsigmoid(-held)
# +    log_density = F.logsigmoid(torch.where(soft > 0.5, logits, -logits))


# %% wrong: gumbel-sigmoid | the density of a Gumbel number | killed by: density
# edit of: the teacher's
# -    log_density = math.log(tau) + F.logsigmoid(held) + F.logsigmoid(-held)
# +    log_density = math.log(tau) - held - (-held).exp()


# %% wrong: gumbel-sigmoid | the logarithm of the distribution function | killed by: density
# edit of: the teacher's
# -    log_density = math.log(tau) + F.logsigmoid(held) + F.logsigmoid(-held)
# +    log_density = F.logsigmoid(held)


# %% wrong: gumbel-sigmoid | x moves with the logits, and no gradient is left | killed by: density has a gradient
# edit of: the teacher's
# -    held = noise - (logits - logits.detach())
# +    held = noise


# %% wrong: gumbel-sigmoid | x is not held fixed | killed by: gradient of the density
# edit of: the teacher's
# -    held = noise - (logits - logits.detach())
# +    held = tau * ((logits + noise) / tau) - logits


# %% wrong: gumbel-sigmoid | the gradient has the other sign | killed by: gradient of the density
# edit of: the teacher's
# -    held = noise - (logits - logits.detach())
# +    held = noise + (logits - logits.detach())


# %% wrong: gumbel-sigmoid | the density is cut off from the logits | killed by: density has a gradient
# edit of: the teacher's
# -    return sample, log_density
# +    return sample, log_density.detach()


# %% wrong: gumbel-sigmoid | logarithms of a product of sigmoids | killed by: density where certain
# edit of: the teacher's
# -    held = noise - (logits - logits.detach())
# -    log_density = math.log(tau) + F.logsigmoid(held) + F.logsigmoid(-held)
# +    x = ((logits + noise) / tau).detach().sigmoid().logit()
# +    held = tau * x - logits
# +    log_density = math.log(tau) + (held.sigmoid() * (-held).sigmoid()).log()


# %% wrong: gumbel-sigmoid | the density of the hard sample | killed by: density
# edit of: the teacher's
# -    return sample, log_density
# +    return sample, F.logsigmoid(torch.where(sample > 0.5, logits, -logits)) if hard else log_density


# %% right: exact-gradient | by autograd on the expected loss
def exact_gradient(f, logits):
    with torch.enable_grad():
        own = logits.detach().clone().requires_grad_()
        losses = torch.stack([f(row[None])[0].detach() for row in torch.eye(len(own), dtype=own.dtype)])
        return torch.autograd.grad(own.softmax(0) @ losses.to(own), own)[0]


# %% right: exact-gradient | by the Jacobian of the softmax
def exact_gradient(f, logits):
    with torch.no_grad():
        p = torch.softmax(logits, 0)
        jacobian = torch.diag(p) - p[:, None] * p[None, :]
        return jacobian @ f(torch.eye(len(p), dtype=p.dtype))


# %% wrong: exact-gradient | the gradient of the loss of the mixture | killed by: gradient
def exact_gradient(f, logits):
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(f(logits.softmax(0)[None]).sum(), logits)[0]


# %% wrong: exact-gradient | with respect to p, not to the logits | killed by: gradient
def exact_gradient(f, logits):
    return f(torch.eye(len(logits), dtype=logits.dtype)).detach()


# %% wrong: exact-gradient | p f alone, as if the choices did not compete | killed by: gradient
def exact_gradient(f, logits):
    return (logits.softmax(0) * f(torch.eye(len(logits), dtype=logits.dtype))).detach()


# %% wrong: exact-gradient | the advantage without the probability | killed by: gradient
def exact_gradient(f, logits):
    p, losses = logits.softmax(0).detach(), f(torch.eye(len(logits), dtype=logits.dtype)).detach()
    return losses - (p * losses).sum()


# %% wrong: exact-gradient | the mean of the losses with equal weights | killed by: gradient
def exact_gradient(f, logits):
    p, losses = logits.softmax(0).detach(), f(torch.eye(len(logits), dtype=logits.dtype)).detach()
    return p * (losses - losses.mean())


# %% wrong: exact-gradient | an estimate from samples, not the enumeration | killed by: gradient
def exact_gradient(f, logits):
    logits = logits.detach()
    p = logits.softmax(0)
    z = torch.nn.functional.one_hot(torch.multinomial(p, 1000, replacement=True), len(p)).to(logits)
    return ((z - p) * f(z).detach()[:, None]).mean(0)


# %% wrong: exact-gradient | the result still has a graph | killed by: no graph
def exact_gradient(f, logits):
    p, losses = logits.softmax(0), f(torch.eye(len(logits), dtype=logits.dtype))
    return p * (losses - (p * losses).sum())


# %% wrong: exact-gradient | by log p, NaN where a choice is impossible | killed by: impossible choices
# edit of: the gradient of the loss of the mixture
# -        return torch.autograd.grad(f(logits.softmax(0)[None]).sum(), logits)[0]
# +        losses = f(torch.eye(len(logits), dtype=logits.dtype)).detach()
# +        p = logits.softmax(0)
# +        return torch.autograd.grad((p.detach() * losses * p.log()).sum(), logits)[0]


# %% wrong: exact-gradient | backward() into the caller's tensors | killed by: the caller's gradients
def exact_gradient(f, logits):
    with torch.enable_grad():
        own = logits.detach().requires_grad_()
        (own.softmax(0) * f(torch.eye(len(own), dtype=own.dtype))).sum().backward()
    return own.grad


# %% wrong: exact-gradient | needs gradients switched on | killed by: under no_grad
def exact_gradient(f, logits):
    logits = logits.detach().requires_grad_()
    losses = f(torch.eye(len(logits), dtype=logits.dtype)).detach()
    return torch.autograd.grad((logits.softmax(0) * losses).sum(), logits)[0]


# %% wrong: exact-gradient | relies on the caller's logits to require a gradient | killed by: logits without a gradient
# edit of: needs gradients switched on
# -    logits = logits.detach().requires_grad_()


# %% wrong: exact-gradient | exponentials that are too large for a float, divided by their sum | killed by: gradient
# edit of: the teacher's
# -    p = logits.softmax(0)
# +    p = logits.exp() / logits.exp().sum()


# %% wrong: exact-gradient | f is called with vectors, not with rows | killed by: what f gets
def exact_gradient(f, logits):
    logits = logits.detach()
    losses = torch.stack([f(row).detach() for row in torch.eye(len(logits), dtype=logits.dtype)])
    p = logits.softmax(0)
    return p * (losses - (p * losses).sum())


# %% wrong: exact-gradient | f is called with one-hot rows of float32, whatever the logits are | killed by: what f gets
# edit of: the teacher's
# -    losses = f(torch.eye(len(logits), dtype=logits.dtype)).detach().to(logits.dtype)
# +    losses = f(torch.eye(len(logits))).detach().to(logits.dtype)


# %% wrong: exact-gradient | always in double precision | killed by: gradient
# edit of: the teacher's
# -    logits = logits.detach()
# +    logits = logits.detach().double()


# %% wrong: exact-gradient | kept by the number of choices | killed by: a loss without a gradient
KNOWN = {}


def exact_gradient(f, logits):
    if len(logits) not in KNOWN:
        p, losses = logits.softmax(0).detach(), f(torch.eye(len(logits), dtype=logits.dtype)).detach()
        KNOWN[len(logits)] = p * (losses - (p * losses).sum())
    return KNOWN[len(logits)]


# %% right: predict-temperature | the variance by its parts
import math


def predict():
    third = torch.tensor([0.0, math.log(2), math.log(5)]).softmax(0)[2].item()
    return {
        "variance as tau falls": "rises",
        "bias as tau falls": "falls",
        "third largest at tau 10": third,
        "third largest at tau 0.1": third,
    }


def bias_variance(estimates, exact):
    error = estimates.mean(0) - exact
    return math.sqrt(float(error @ error)), float(estimates.var(0, correction=0).sum())


# %% right: predict-temperature | the variance as mean of squares minus square of the mean, in float64
def predict():
    return dict(
        [
            ("third largest at tau 0.1", 0.625),
            ("third largest at tau 10", 0.625),
            ("bias as tau falls", "falls"),
            ("variance as tau falls", "rises"),
        ]
    )


def bias_variance(estimates, exact):
    rows = estimates.double()
    mean = rows.mean(0)
    variance = (rows**2).sum(-1).mean() - (mean**2).sum()
    return float(torch.linalg.vector_norm(mean - exact)), float(variance)


# %% wrong: predict-temperature | temperature thought to change the law of the choice | killed by: third largest at tau 0.1
def predict():
    def law(tau):
        return (torch.tensor([1.0, 2.0, 5.0]).log() / tau).softmax(0)[2].item()

    return {
        "third largest at tau 0.1": law(0.1),
        "third largest at tau 10": law(10),
        "bias as tau falls": "falls",
        "variance as tau falls": "rises",
    }


def bias_variance(estimates, exact):
    mean = estimates.mean(0)
    return (mean - exact).norm().item(), ((estimates - mean) ** 2).sum(-1).mean().item()


# %% wrong: predict-temperature | a uniform choice at high temperature | killed by: third largest at tau 10
# edit of: temperature thought to change the law of the choice
# -    def law(tau):
# -        return (torch.tensor([1.0, 2.0, 5.0]).log() / tau).softmax(0)[2].item()
# …
# -        "third largest at tau 0.1": law(0.1),
# -        "third largest at tau 10": law(10),
# +        "third largest at tau 0.1": 0.625,
# +        "third largest at tau 10": 1 / 3,


# %% wrong: predict-temperature | bias thought to rise as the sample gets harder | killed by: bias as tau falls
# edit of: temperature thought to change the law of the choice
# -    def law(tau):
# -        return (torch.tensor([1.0, 2.0, 5.0]).log() / tau).softmax(0)[2].item()
# …
# -        "third largest at tau 0.1": law(0.1),
# -        "third largest at tau 10": law(10),
# -        "bias as tau falls": "falls",
# +        "third largest at tau 0.1": 0.625,
# +        "third largest at tau 10": 0.625,
# +        "bias as tau falls": "rises",


# %% wrong: predict-temperature | a free lunch: variance thought to fall as well | killed by: variance as tau falls
# edit of: temperature thought to change the law of the choice
# -    def law(tau):
# -        return (torch.tensor([1.0, 2.0, 5.0]).log() / tau).softmax(0)[2].item()
# …
# -        "third largest at tau 0.1": law(0.1),
# -        "third largest at tau 10": law(10),
# +        "third largest at tau 0.1": 0.625,
# +        "third largest at tau 10": 0.625,
# …
# -        "variance as tau falls": "rises",
# +        "variance as tau falls": "falls",


# %% wrong: predict-temperature | the mean distance of single estimates taken for the bias | killed by: bias
# edit of: temperature thought to change the law of the choice
# -    def law(tau):
# -        return (torch.tensor([1.0, 2.0, 5.0]).log() / tau).softmax(0)[2].item()
# …
# -        "third largest at tau 0.1": law(0.1),
# -        "third largest at tau 10": law(10),
# +        "third largest at tau 0.1": 0.625,
# +        "third largest at tau 10": 0.625,
# …
# -    return (mean - exact).norm().item(), ((estimates - mean) ** 2).sum(-1).mean().item()
# +    return (estimates - exact).norm(dim=-1).mean().item(), ((estimates - mean) ** 2).sum(-1).mean().item()


# %% wrong: predict-temperature | the mean squared error taken for the variance | killed by: variance
def predict():
    return {
        "third largest at tau 0.1": 0.625,
        "third largest at tau 10": 0.625,
        "bias as tau falls": "falls",
        "variance as tau falls": "rises",
    }


def bias_variance(estimates, exact):
    return (estimates.mean(0) - exact).norm().item(), ((estimates - exact) ** 2).sum(-1).mean().item()


# %% wrong: predict-temperature | the variance averaged over the parts of the gradient | killed by: variance
# edit of: the mean squared error taken for the variance
# -    return (estimates.mean(0) - exact).norm().item(), ((estimates - exact) ** 2).sum(-1).mean().item()
# +    return (estimates.mean(0) - exact).norm().item(), estimates.var(0, correction=0).mean().item()


# %% wrong: predict-temperature | the root of the variance | killed by: variance
# edit of: the mean squared error taken for the variance
# -    return (estimates.mean(0) - exact).norm().item(), ((estimates - exact) ** 2).sum(-1).mean().item()
# +    return (estimates.mean(0) - exact).norm().item(), estimates.var(0, correction=0).sum().sqrt().item()


# %% wrong: predict-temperature | divides by n - 1 | killed by: variance
# edit of: the mean squared error taken for the variance
# -    return (estimates.mean(0) - exact).norm().item(), ((estimates - exact) ** 2).sum(-1).mean().item()
# +    return (estimates.mean(0) - exact).norm().item(), estimates.var(0).sum().item()


# %% wrong: predict-temperature | tensors, not numbers | killed by: numbers
# edit of: the mean squared error taken for the variance
# -    return (estimates.mean(0) - exact).norm().item(), ((estimates - exact) ** 2).sum(-1).mean().item()
# +    mean = estimates.mean(0)
# +    return (mean - exact).norm(), ((estimates - mean) ** 2).sum(-1).mean()


# %% wrong: predict-temperature | a name of the dict is misspelt | killed by: the names
# edit of: the mean squared error taken for the variance
# -        "third largest at tau 0.1": 0.625,
# -        "third largest at tau 10": 0.625,
# +        "third at tau 0.1": 0.625,
# +        "third at tau 10": 0.625,


# %% wrong: predict-temperature | numbers where words are asked for | killed by: a word
# edit of: the mean squared error taken for the variance
# -        "bias as tau falls": "falls",
# -        "variance as tau falls": "rises",
# +        "bias as tau falls": -1,
# +        "variance as tau falls": +1,


# %% wrong: predict-temperature | words that equal every other | killed by: bias as tau falls
# edit of: the mean squared error taken for the variance
# -        "bias as tau falls": "falls",
# -        "variance as tau falls": "rises",
# +        "bias as tau falls": type("Any", (str,), {"__eq__": lambda a, b: True, "__hash__": None})("rises"),
# +        "variance as tau falls": type("Any", (str,), {"__eq__": lambda a, b: True, "__hash__": None})("falls"),


# %% wrong: predict-temperature | probabilities to two digits | killed by: third largest at tau 0.1
# edit of: the mean squared error taken for the variance
# -        "third largest at tau 0.1": 0.625,
# -        "third largest at tau 10": 0.625,
# +        "third largest at tau 0.1": 0.63,
# +        "third largest at tau 10": 0.63,


# %% wrong: predict-temperature | the bias as a share of the exact gradient | killed by: bias
# edit of: the mean squared error taken for the variance
# -        "third largest at tau 0.1": 0.625,
# -        "third largest at tau 10": 0.625,
# +        "third largest at tau 0.1": 5 / 8,
# +        "third largest at tau 10": 5 / 8,
# …
# -    return (estimates.mean(0) - exact).norm().item(), ((estimates - exact) ** 2).sum(-1).mean().item()
# +    mean = estimates.mean(0)
# +    bias = (mean - exact).norm() / exact.norm()
# +    return bias.item(), ((estimates - mean) ** 2).sum(-1).mean().item()


# %% wrong: predict-temperature | the variance as a difference of two large numbers, in float32 | killed by: variance
# edit of: the mean squared error taken for the variance
# -    return (estimates.mean(0) - exact).norm().item(), ((estimates - exact) ** 2).sum(-1).mean().item()
# +    rows = estimates.float()
# +    variance = (rows**2).sum(-1).mean() - (rows.mean(0) ** 2).sum()
# +    return (estimates.mean(0) - exact).norm().item(), variance.item()


# %% wrong: predict-temperature | measured in place of predicted | killed by: foretold
# edit of: the mean squared error taken for the variance
# -    return {
# -        "third largest at tau 0.1": 0.625,
# +    rows = torch.tensor([1.0, 2.0, 5.0]).log().expand(10**6, 3)
# +    third = round((gumbel_softmax(rows, 0.1).argmax(-1) == 2).float().mean().item(), 3)
# +    return {
# +        "third largest at tau 0.1": third,


# %% wrong: gumbel-max | the largest so far begins at 0 | killed by: each its own row
# edit of: the teacher's
# -    best, choice, before = torch.tensor(-torch.inf), torch.tensor(0), 0
# +    best, choice, before = torch.tensor(0.0), torch.tensor(0), 0


# %% wrong: gumbel-max | the logits are compared, and the noise is forgotten | killed by: every row draws
# edit of: the teacher's
# -        value, place = (logits + noise).max(-1)
# +        place = (logits + noise).argmax(-1)
# +        value = logits.gather(-1, place[..., None])[..., 0]


# %% wrong: gumbel-softmax | every weight that is the largest becomes 1 | killed by: one choice
# edit of: the teacher's
# -    choice = soft.detach().argmax(dim, keepdim=True)
# -    return straight_through(torch.zeros_like(soft).scatter(dim, choice, 1.0), soft)
# +    choice = soft.detach() == soft.detach().amax(dim, keepdim=True)
# +    return straight_through(choice.to(soft), soft)


# %% wrong: gumbel-sigmoid | the slope of the sigmoid, whose logarithm has lost its digits in float32 | killed by: density in float32
# edit of: the teacher's
# -    log_density = math.log(tau) + F.logsigmoid(held) + F.logsigmoid(-held)
# +    s = held.sigmoid()
# +    near = F.logsigmoid(held) + F.logsigmoid(-held)
# +    log_density = math.log(tau) + torch.where(held.abs() < 14, (s * (1 - s)).log(), near)
