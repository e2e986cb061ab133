# %% right: expert-choice | row by row, a stable sort of the negated scores
def expert_choice(scores, capacity, present):
    if capacity <= 0 or capacity > 1 or capacity != capacity:
        raise ValueError(f"capacity must be between 0 and 1, not {capacity}")
    mask = torch.zeros(present.shape, dtype=torch.bool)
    for row in range(len(scores)):
        places = present[row].nonzero()[:, 0]
        k = math.ceil(round(capacity * len(places), 9))
        best = (-scores[row, places].detach()).sort(stable=True).indices[:k]
        mask[row, places[best]] = True
    return mask


# %% right: expert-choice | ranks: the order of the order, and k in float64
def expert_choice(scores, capacity, present):
    if not (capacity > 0 and capacity <= 1):
        raise ValueError(f"capacity = {capacity}")
    k = (present.sum(1).double() * capacity - 1e-9).ceil()
    low = torch.where(present, scores, float("-inf"))
    rank = low.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < k[:, None]


# %% right: expert-choice | row by row in plain Python
def expert_choice(scores, capacity, present):
    if not 0 < capacity <= 1:
        raise ValueError(f"capacity = {capacity}")
    rows = []
    for row, there in zip(scores.tolist(), present.tolist(), strict=True):
        places = [place for place, here in enumerate(there) if here]
        share = capacity * len(places)
        k = int(share) if share - int(share) < 1e-9 else int(share) + 1
        best = sorted(places, key=lambda place: (-row[place], place))[:k]
        rows.append([place in best for place in range(len(row))])
    return torch.tensor(rows)


# %% right: expert-choice | one after the other, the largest that is left
def expert_choice(scores, capacity, present):
    if not 0 < capacity <= 1:
        raise ValueError("a share, please")
    left, mask = present.clone(), torch.zeros_like(present)
    wanted = torch.tensor([math.ceil(capacity * n - 1e-9) for n in present.sum(1).tolist()])
    for step in range(int(wanted.max())):
        best = torch.where(left, scores.detach().double(), -math.inf)
        first = (best == best.max(1, keepdim=True).values) & left
        first &= first.cumsum(1) == 1
        first &= (step < wanted)[:, None]
        mask |= first
        left &= ~first
    return mask


# %% wrong: expert-choice | topk's choice among equals | killed by: ties
def expert_choice(scores, capacity, present):
    if not 0 < capacity <= 1:
        raise ValueError("capacity")
    rows = []
    for row, there in zip(scores.detach(), present, strict=True):
        k = math.ceil(capacity * int(there.sum()) - 1e-9)
        row = row.masked_fill(~there, -math.inf)
        runs = row.topk(k).indices
        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
    return torch.stack(rows)


# %% wrong: expert-choice | strictly above the k-th largest keeps k - 1 | killed by: the largest
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# -        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
# +        rows.append(row > row.topk(k).values[-1] if k else torch.zeros_like(there))


# %% wrong: expert-choice | at least the k-th largest keeps more than k where some are equal | killed by: ties
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# -        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
# +        rows.append((row >= row.topk(k).values[-1]) & there if k else torch.zeros_like(there))


# %% wrong: expert-choice | of equals the later | killed by: ties
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        runs = row.flip(0).argsort(descending=True, stable=True)[:k]
# +        runs = len(row) - 1 - runs


# %% wrong: expert-choice | a sort that is not stable | killed by: ties
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        runs = row.argsort(descending=True)[:k]


# %% wrong: expert-choice | the k smallest | killed by: the largest
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        runs = row.masked_fill(~there, math.inf).argsort(stable=True)[:k]


# %% wrong: expert-choice | True for those who pass by | killed by: the largest
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# -        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
# +        runs = row.argsort(descending=True, stable=True)[:k]
# +        rows.append(there.clone().index_fill(0, runs, False))


# %% wrong: expert-choice | argsort of topk's indices, as if those were scores | killed by: the largest
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        runs = row.topk(k).indices.argsort()


# %% wrong: expert-choice | the largest by absolute value | killed by: the largest
# edit of: topk's choice among equals
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        row = row.abs().masked_fill(~there, -math.inf)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | everyone with r > 0 | killed by: the largest
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# -        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
# +        rows.append(row > 0)


# %% wrong: expert-choice | the order taken for the ranks | killed by: the largest
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# -        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
# +        rows.append((row.argsort(descending=True, stable=True) < k) & there)


# %% wrong: expert-choice | k + 1 of them | killed by: the largest
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        runs = row.argsort(descending=True, stable=True)[: k + 1]


# %% wrong: expert-choice | a mask of 0 and 1 in the dtype of the scores | killed by: a mask
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# -        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
# +        runs = row.argsort(descending=True, stable=True)[:k]
# +        rows.append(torch.zeros_like(row).index_fill(0, runs, 1.0))


# %% wrong: expert-choice | one at least, also where nobody is present | killed by: nobody there
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        k = max(k, 1)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | rounded down, and one at least | killed by: lengths
# edit of: topk's choice among equals
# -        k = math.ceil(capacity * int(there.sum()) - 1e-9)
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        k = max(int(capacity * int(there.sum()) + 1e-9), min(1, int(there.sum())))
# +        row = row.masked_fill(~there, -math.inf)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | rounded to the nearest | killed by: rounded up
# edit of: topk's choice among equals
# -        k = math.ceil(capacity * int(there.sum()) - 1e-9)
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        k = round(capacity * int(there.sum()))
# +        row = row.masked_fill(~there, -math.inf)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | int(share) + 1, one too many where the share is whole | killed by: the largest
# edit of: topk's choice among equals
# -        k = math.ceil(capacity * int(there.sum()) - 1e-9)
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        k = min(int(capacity * int(there.sum())) + 1, int(there.sum()))
# +        row = row.masked_fill(~there, -math.inf)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | rounded up as it comes: 0.14 of 50 are 8 | killed by: a share of 7
# edit of: topk's choice among equals
# -        k = math.ceil(capacity * int(there.sum()) - 1e-9)
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        k = math.ceil(capacity * int(there.sum()))
# +        row = row.masked_fill(~there, -math.inf)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | k is a share of the row's length | killed by: lengths
# edit of: topk's choice among equals
# -        k = math.ceil(capacity * int(there.sum()) - 1e-9)
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        k = min(math.ceil(capacity * len(there) - 1e-9), int(there.sum()))
# +        row = row.masked_fill(~there, -math.inf)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | the absent may run | killed by: lengths
# edit of: topk's choice among equals
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | the absent count as 0 | killed by: lengths
# edit of: topk's choice among equals
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        row = row * there
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | the absent are multiplied by 0, and taken out in the end | killed by: lengths
# edit of: topk's choice among equals
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# -        rows.append(torch.zeros_like(there).index_fill(0, runs, True))
# +        row = row * there
# +        runs = row.argsort(descending=True, stable=True)[:k]
# +        rows.append(torch.zeros_like(there).index_fill(0, runs, True) & there)


# %% wrong: expert-choice | the absent are low, unless they are NaN | killed by: whatever the absent hold
# edit of: topk's choice among equals
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        row = row - 1e9 * ~there
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | a small number that breaks ties and swaps neighbours | killed by: nearly equal
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        row = row.double() - 1e-9 * torch.arange(len(row))
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | compares in float32 | killed by: nearly equal
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        runs = row.float().argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | every row is ranked by the mean of the batch | killed by: the largest
# edit of: topk's choice among equals
# -        row = row.masked_fill(~there, -math.inf)
# -        runs = row.topk(k).indices
# +        row = scores.detach().nan_to_num().mean(0).masked_fill(~there, -math.inf)
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | the result is a list of rows | killed by: a mask
# edit of: topk's choice among equals
# -    return torch.stack(rows)
# +    return [row.tolist() for row in rows]


# %% wrong: expert-choice | a batch of one loses its dimension | killed by: ties
# edit of: topk's choice among equals
# -    return torch.stack(rows)
# +    return torch.stack(rows).squeeze(0)


# %% wrong: expert-choice | a capacity of 1 has to be below 1 | killed by: runs
# edit of: topk's choice among equals
# -    if not 0 < capacity <= 1:
# +    if not 0 < capacity < 1:
# …
# -        runs = row.topk(k).indices
# +        runs = row.argsort(descending=True, stable=True)[:k]


# %% wrong: expert-choice | a capacity above 1 is clipped | killed by: capacity out of range
# edit of: the teacher's
# -    if not 0 < capacity <= 1:
# -        raise ValueError(f"capacity must be above 0 and at most 1; got {capacity}")
# +    capacity = min(capacity, 1.0)
# +    if not 0 < capacity:
# +        raise ValueError("capacity")


# %% wrong: expert-choice | a capacity of 0 keeps nobody | killed by: capacity out of range
# edit of: the teacher's
# -    if not 0 < capacity <= 1:
# +    if not 0 <= capacity <= 1:


# %% wrong: expert-choice | any share that is not above 1 or below 0 is one, NaN too | killed by: capacity out of range
# edit of: the teacher's
# -    if not 0 < capacity <= 1:
# -        raise ValueError(f"capacity must be above 0 and at most 1; got {capacity}")
# +    if capacity <= 0 or capacity > 1:
# +        raise ValueError("capacity")
# +    capacity = 0.5 if math.isnan(capacity) else capacity


# %% wrong: expert-choice | k of all rows from the first | killed by: lengths
# edit of: the teacher's
# -    k = torch.tensor([math.ceil(capacity * n - 1e-9) for n in present.sum(1).tolist()])
# +    k = torch.tensor([math.ceil(capacity * int(present[0].sum()) - 1e-9)] * len(present))


# %% wrong: expert-choice | k of all rows from the longest | killed by: lengths
# edit of: the teacher's
# -    k = torch.tensor([math.ceil(capacity * n - 1e-9) for n in present.sum(1).tolist()])
# +    k = math.ceil(capacity * int(present.sum(1).max()) - 1e-9) * torch.ones(len(present))


# %% wrong: expert-choice | k counted in float32 | killed by: a share of 15
# edit of: the teacher's
# -    k = torch.tensor([math.ceil(capacity * n - 1e-9) for n in present.sum(1).tolist()])
# +    k = (torch.tensor(capacity) * present.sum(1)).ceil()


# %% wrong: expert-choice | the largest of the whole batch | killed by: the largest
# edit of: the teacher's
# -    ranked = scores.argsort(dim=1, descending=True, stable=True)  # equals keep their order, and the absent come last
# -    runs = torch.arange(scores.shape[1]) < k[:, None]  # of the ranks
# -    return torch.zeros_like(present).scatter(1, ranked, runs)
# +    ranked = scores.flatten().argsort(descending=True, stable=True)[: int(k.sum())]
# +    mask = torch.zeros(scores.numel(), dtype=torch.bool)
# +    mask[ranked] = True
# +    return mask.view_as(scores) & present


# %% wrong: expert-choice | the ranks are marked, not the places | killed by: the largest
# edit of: the teacher's
# -    return torch.zeros_like(present).scatter(1, ranked, runs)
# +    return runs & present


# %% wrong: expert-choice | scatter, whose result is dropped | killed by: the largest
# edit of: the teacher's
# -    return torch.zeros_like(present).scatter(1, ranked, runs)
# +    mask = torch.zeros_like(present)
# +    mask.scatter(1, ranked, runs)
# +    return mask


# %% wrong: expert-choice | the indices | killed by: a mask
# edit of: the teacher's
# -    return torch.zeros_like(present).scatter(1, ranked, runs)
# +    return ranked[:, : int(k.max())]


# %% wrong: expert-choice | the absent are set in the caller's scores | killed by: scores stay
# edit of: the teacher's
# -    scores = scores.detach().masked_fill(~present, -math.inf)
# +    scores = scores.detach()
# +    scores[~present] = -math.inf


# %% wrong: expert-choice | the lecture's, for the whole length | killed by: lengths
def expert_choice(scores, capacity, present):
    if not 0 < capacity <= 1:
        raise ValueError("capacity")
    k = math.ceil(capacity * scores.shape[1] - 1e-9)
    first = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, first, True)


# %% wrong: expert-choice | the lecture's, and then without the absent | killed by: lengths
# edit of: the lecture's, for the whole length
# -    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, first, True)
# +    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, first, True) & present


# %% wrong: expert-choice | the package's, imported inside | killed by: by hand
def expert_choice(scores, capacity, present):
    from dynlib.tokens import routing

    if not 0 < capacity <= 1:
        raise ValueError("capacity")
    k = torch.tensor([routing.kept(capacity, n) for n in present.sum(1).tolist()])
    return routing.expert_choice(scores.detach().masked_fill(~present, -math.inf), k)


# %% wrong: expert-choice | masks are kept by shape | killed by: the largest
_seen = {}


def expert_choice(scores, capacity, present):
    if not 0 < capacity <= 1:
        raise ValueError("capacity")
    key = scores.shape, capacity
    if key not in _seen:
        k = torch.tensor([math.ceil(capacity * n - 1e-9) for n in present.sum(1).tolist()])
        ranked = scores.detach().masked_fill(~present, -math.inf).argsort(dim=1, descending=True, stable=True)
        _seen[key] = torch.zeros_like(present).scatter(1, ranked, torch.arange(scores.shape[1]) < k[:, None])
    return _seen[key]


# %% right: gathered-block | gather and scatter with indices of each row
def mixture_of_depths(block, x, r, mask):
    numbers = mask.sum(1, keepdim=True)
    most = int(numbers.max())
    if not most:
        return x.clone()
    places = (~mask).byte().argsort(dim=1, stable=True)[:, :most]
    there = torch.arange(most)[None] < numbers
    index = places.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    old = x.gather(1, index)
    routed = torch.where(there[..., None], old, torch.zeros_like(old))
    update = block(routed, torch.where(there, places, -1))
    new = old + r.gather(1, places).unsqueeze(-1) * update
    return x.scatter(1, index, torch.where(there[..., None], new, old).to(x.dtype))


# %% right: gathered-block | pad_sequence on both
def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    pad = nn.utils.rnn.pad_sequence
    places = [row.nonzero().squeeze(1) for row in mask]
    routed = pad([tokens[at] for tokens, at in zip(x, places, strict=True)], batch_first=True)
    update = block(routed, pad(places, batch_first=True, padding_value=-1))
    rows = []
    for row, at in enumerate(places):
        new = x[row, at] + r[row, at, None] * update[row, : len(at)]
        rows.append(x[row].index_copy(0, at, new.to(x.dtype)))
    return torch.stack(rows)


# %% right: gathered-block | index_add on the flattened tokens
def mixture_of_depths(block, x, r, mask):
    batch, tokens, dim = x.shape
    flat = mask.flatten().nonzero().squeeze(1)
    if flat.numel() == 0:
        return x
    rank = (mask.cumsum(1) - 1).flatten()[flat]
    row, most = flat // tokens, int(rank.max()) + 1
    every = x.reshape(-1, dim)
    at = row * most + rank
    routed = torch.zeros(batch * most, dim, dtype=x.dtype).index_copy(0, at, every[flat])
    where = torch.full((batch * most,), -1).index_copy(0, at, flat % tokens)
    update = block(routed.view(batch, most, dim), where.view(batch, most)).reshape(-1, dim)[at]
    return every.index_add(0, flat, (r.flatten()[flat].unsqueeze(1) * update).to(x.dtype)).reshape(x.shape)


# %% right: gathered-block | multiply by what is there, then add
def mixture_of_depths(block, x, r, mask):
    lengths = [int(n) for n in mask.sum(1)]
    if max(lengths) == 0:
        return x + 0
    routed = torch.stack([nn.functional.pad(x[i][mask[i]], (0, 0, 0, max(lengths) - n)) for i, n in enumerate(lengths)])
    where = torch.stack(
        [nn.functional.pad(mask[i].nonzero()[:, 0], (0, max(lengths) - n), value=-1) for i, n in enumerate(lengths)]
    )
    update = block(routed, where)
    added = torch.cat([update[i, :n] for i, n in enumerate(lengths)])
    return x.index_put(mask.nonzero(as_tuple=True), (x[mask] + r[mask].unsqueeze(-1) * added).to(x.dtype))


# %% wrong: gathered-block | r times the update replaces the token | killed by: value
def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    numbers = mask.sum(1)
    there = torch.arange(int(numbers.max())) < numbers[:, None]
    positions = torch.full(there.shape, -1)
    positions[there] = mask.nonzero()[:, 1]
    routed = x.new_zeros(*there.shape, x.shape[-1])
    routed[there] = x[mask]
    update = block(routed, positions)
    result = x.clone()
    result[mask] = r[mask][:, None] * update[there]
    return result


# %% wrong: gathered-block | the weight is not on the path | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + update[there]


# %% wrong: gathered-block | token and update added onto the token: a double residual | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] += x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | r multiplies the token and its update | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = r[mask][:, None] * (x[mask] + update[there])


# %% wrong: gathered-block | the update taken for the block's output: r (x + update) + x | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * (x[mask] + update[there])


# %% wrong: gathered-block | positions 0 ... k - 1 | killed by: value
# edit of: r times the update replaces the token
# -    positions[there] = mask.nonzero()[:, 1]
# +    positions[there] = torch.arange(there.shape[1]).expand(there.shape)[there]
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | positions from 1 | killed by: value
# edit of: r times the update replaces the token
# -    positions[there] = mask.nonzero()[:, 1]
# +    positions[there] = mask.nonzero()[:, 1] + 1
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | argsort of the places by score, taken for positions | killed by: value
# edit of: r times the update replaces the token
# -    positions[there] = mask.nonzero()[:, 1]
# +    ranks = r.masked_fill(~mask, -math.inf).argsort(dim=1, descending=True).argsort(dim=1)
# +    positions[there] = ranks[mask]
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | sigmoid of r | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask].sigmoid()[:, None] * update[there]


# %% wrong: gathered-block | a softmax over the routed tokens | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r.masked_fill(~mask, -math.inf).softmax(1)[mask][:, None] * update[there]


# %% wrong: gathered-block | a softmax over the sequence | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r.softmax(1)[mask][:, None] * update[there]


# %% wrong: gathered-block | r without its sign | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask].abs()[:, None] * update[there]


# %% wrong: gathered-block | the r of the first k tokens | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[:, : there.shape[1]][there][:, None] * update[there]


# %% wrong: gathered-block | the unrouted become 0 | killed by: value
# edit of: r times the update replaces the token
# -    result = x.clone()
# -    result[mask] = r[mask][:, None] * update[there]
# +    result = torch.zeros_like(x)
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | the results go to the first k places | killed by: value
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[:, : there.shape[1]][there] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | runs the others | killed by: value
# edit of: r times the update replaces the token
# -    if not mask.any():
# -        return x
# +    mask = ~mask
# +    if not mask.any():
# +        return x
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | positions as floating-point numbers | killed by: positions
# edit of: r times the update replaces the token
# -    update = block(routed, positions)
# +    update = block(routed, positions.to(x.dtype))
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | calls the block twice | killed by: one call
# edit of: r times the update replaces the token
# -    update = block(routed, positions)
# +    assert block(routed, positions).shape == routed.shape
# +    update = block(routed, positions)
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | adds into the caller's tokens | killed by: x stays
# edit of: r times the update replaces the token
# -    result = x.clone()
# -    result[mask] = r[mask][:, None] * update[there]
# -    return result
# +    x[mask] += r[mask][:, None] * update[there]
# +    return x


# %% wrong: gathered-block | nobody, and the block is called with nothing | killed by: nobody, no call
# edit of: r times the update replaces the token
# -    if not mask.any():
# -        return x
# -    numbers = mask.sum(1)
# +    numbers = mask.sum(1)
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | the weight is detached | killed by: gradient of r
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r.detach()[mask][:, None] * update[there]


# %% wrong: gathered-block | straight-through: forward r, backward as if it were sigmoid(r) | killed by: gradient of r
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    weight = r.detach() + r.sigmoid() - r.sigmoid().detach()
# +    result[mask] = x[mask] + weight[mask][:, None] * update[there]


# %% wrong: gathered-block | the block reads detached tokens | killed by: gradient of x
# edit of: r times the update replaces the token
# -    routed[there] = x[mask]
# +    routed[there] = x.detach()[mask]
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | the sum is wider than the tokens | killed by: dtype
# edit of: r times the update replaces the token
# -    result = x.clone()
# -    result[mask] = r[mask][:, None] * update[there]
# +    new = x[mask] + r[mask][:, None] * update[there]
# +    result = x.to(new.dtype)
# +    result = result.clone()
# +    result[mask] = new


# %% wrong: gathered-block | the rows of the batch for positions | killed by: value
# edit of: r times the update replaces the token
# -    positions[there] = mask.nonzero()[:, 1]
# +    positions[there] = mask.nonzero()[:, 0]
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | filled up with position 0 | killed by: positions
# edit of: r times the update replaces the token
# -    positions = torch.full(there.shape, -1)
# +    positions = torch.full(there.shape, 0)
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | filled up with the first tokens that pass by | killed by: zeros fill up
# edit of: r times the update replaces the token
# -    routed = x.new_zeros(*there.shape, x.shape[-1])
# -    routed[there] = x[mask]
# +    order = (~mask).byte().argsort(dim=1, stable=True)[:, : there.shape[1]]
# +    routed = x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | filled up in front | killed by: positions
# edit of: r times the update replaces the token
# -    there = torch.arange(int(numbers.max())) < numbers[:, None]
# +    there = torch.arange(int(numbers.max())).flip(0) < numbers[:, None]
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | as many in each row as in the first | killed by: rows of different lengths
# edit of: r times the update replaces the token
# -    there = torch.arange(int(numbers.max())) < numbers[:, None]
# +    there = torch.arange(int(numbers[0])) < torch.full_like(numbers, numbers[0])[:, None]
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | as wide as the whole sequence | killed by: the shape
# edit of: r times the update replaces the token
# -    there = torch.arange(int(numbers.max())) < numbers[:, None]
# +    there = torch.arange(mask.shape[1]) < numbers[:, None]
# …
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask][:, None] * update[there]


# %% wrong: gathered-block | what fills up has an update, which goes to the last token | killed by: what fills up
# edit of: r times the update replaces the token
# -    result = x.clone()
# -    result[mask] = r[mask][:, None] * update[there]
# -    return result
# +    rows = torch.arange(len(x))[:, None].expand(there.shape)
# +    return x.index_put((rows, positions), r[rows, positions][..., None] * update, accumulate=True)


# %% wrong: gathered-block | the weights without a last dimension | killed by: runs
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = x[mask] + r[mask] * update[there]


# %% wrong: gathered-block | the routed tokens in the order of their scores | killed by: value
def mixture_of_depths(block, x, r, mask):
    most = int(mask.sum(1).max())
    if most == 0:
        return x
    places = r.masked_fill(~mask, -math.inf).argsort(dim=1, descending=True)[:, :most]
    there = mask.gather(1, places)
    index = places[..., None].expand(-1, -1, x.shape[-1])
    old = x.gather(1, index)
    update = block(torch.where(there[..., None], old, 0.0), torch.where(there, places, -1))
    return x.scatter(1, index, torch.where(there[..., None], old + r.gather(1, places)[..., None] * update, old))


# %% wrong: gathered-block | computes all tokens, unrouted ones among the keys, and masks afterwards | killed by: value
def mixture_of_depths(block, x, r, mask):
    update = block(x, torch.arange(x.shape[1]).expand(len(x), -1))
    return torch.where(mask[..., None], x + r[..., None] * update, x)


# %% wrong: gathered-block | the lecture's masked execution | killed by: value
def mixture_of_depths(block, x, r, mask):
    where = torch.where(mask, torch.arange(x.shape[1]), -1)
    update = block(x, where)
    return torch.where(mask[..., None], x + r[..., None] * update, x)


# %% wrong: gathered-block | sets the unrouted to 0 and computes them too | killed by: the shape
def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    update = block(torch.where(mask[..., None], x, 0.0), torch.arange(x.shape[1]).expand(len(x), -1))
    return torch.where(mask[..., None], x + r[..., None] * update, x)


# %% wrong: gathered-block | the lecture's, for as many in each row | killed by: rows of different lengths
def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    index = mask.nonzero()[:, 1].view(len(x), -1)
    spread = index[..., None].expand(-1, -1, x.shape[-1])
    update = block(x.gather(1, spread), index)
    return x.scatter_add(1, spread, r.gather(1, index)[..., None] * update)


# %% wrong: gathered-block | one token after the other | killed by: value
def mixture_of_depths(block, x, r, mask):
    result = x.clone()
    for row, place in mask.nonzero().tolist():
        update = block(x[row, place][None, None], torch.tensor([[place]]))[0, 0]
        result[row, place] = x[row, place] + r[row, place] * update
    return result


# %% wrong: gathered-block | one call for each row | killed by: one call
def mixture_of_depths(block, x, r, mask):
    result = x.clone()
    for row in range(len(x)):
        places = mask[row].nonzero()[:, 0]
        if len(places):
            update = block(x[row, places][None], places[None])[0]
            result[row, places] = x[row, places] + r[row, places, None] * update
    return result


# %% wrong: gathered-block | the first row's places for every row | killed by: whose places
def mixture_of_depths(block, x, r, mask):
    places = mask[0].nonzero()[:, 0]
    if len(places) == 0:
        return x
    update = block(x[:, places], places.expand(len(x), -1))
    result = x.clone()
    result[:, places] = x[:, places] + r[:, places, None] * update
    return result


# %% wrong: gathered-block | multiplies by the mask when it puts the parts together | killed by: NaN passes by
# edit of: r times the update replaces the token
# -    result = x.clone()
# -    result[mask] = r[mask][:, None] * update[there]
# -    return result
# +    added = torch.zeros_like(x)
# +    added[mask] = (r[mask][:, None] * update[there]).to(x.dtype)
# +    return x + added + 0 * (x * ~mask[..., None]).sum()


# %% wrong: gathered-block | all rows end to end, as one sequence | killed by: rows
def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    routed, places = x[mask], mask.nonzero()[:, 1]
    update = block(routed[None], places[None])[0]
    result = x.clone()
    result[mask] = routed + r[mask][:, None] * update
    return result


# %% wrong: gathered-block | places are kept by the shape of the mask | killed by: rows of different lengths
_places = {}


def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    numbers = mask.sum(1)
    there = torch.arange(int(numbers.max())) < numbers[:, None]
    if mask.shape not in _places:
        positions = torch.full(there.shape, -1)
        positions[there] = mask.nonzero()[:, 1]
        _places[mask.shape] = positions
    positions = _places[mask.shape]
    routed = x.new_zeros(*positions.shape, x.shape[-1])
    rows = torch.arange(len(x))[:, None].expand(positions.shape)
    routed[positions >= 0] = x[rows, positions][positions >= 0]
    update = block(routed, positions)[positions >= 0]
    at = rows[positions >= 0], positions[positions >= 0]
    return x.index_put(at, (x[at] + r[at][:, None] * update).to(x.dtype))


# %% wrong: gathered-block | the sum in float32 | killed by: gradient of x
# edit of: r times the update replaces the token
# -    result[mask] = r[mask][:, None] * update[there]
# +    result[mask] = (x[mask].float() + r[mask].float()[:, None] * update[there].float()).to(x.dtype)


# %% wrong: gathered-block | the lecture's gathered, whose view mixes the rows | killed by: rows of different lengths
def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    index = mask.nonzero()[:, 1].view(len(x), -1)
    spread = index[..., None].expand(-1, -1, x.shape[-1])
    update = block(x.gather(1, spread), index)
    return x.scatter_add(1, spread, r.gather(1, index)[..., None] * update)


# %% wrong: gathered-block | what fills up has an update, which goes to the first token | killed by: what fills up
def mixture_of_depths(block, x, r, mask):
    if not mask.any():
        return x
    numbers = mask.sum(1)
    there = torch.arange(int(numbers.max())) < numbers[:, None]
    positions = torch.full(there.shape, -1)
    positions[there] = mask.nonzero()[:, 1]
    index = positions.clamp(min=0)
    spread = index[..., None].expand(-1, -1, x.shape[-1])
    routed = x.gather(1, spread) * there[..., None]
    return x.scatter_add(1, spread, r.gather(1, index)[..., None] * block(routed, positions))


# %% right: looks-ahead | each row on its own
import itertools


@torch.no_grad()
def looks_ahead(model, tokens, place):
    logits = model(tokens)
    for row, later in itertools.product(range(len(tokens)), range(place, tokens.shape[1])):
        for other in range(logits.shape[2]):
            if other == tokens[row, later]:
                continue
            changed = tokens.clone()
            changed[row, later] = other
            if not torch.allclose(model(changed)[:, :place], logits[:, :place], rtol=0, atol=0, equal_nan=True):
                return True
    return False


# %% right: looks-ahead | one replacement after the other in a single copy, put back afterwards
def looks_ahead(model, tokens, place):
    with torch.inference_mode():
        first = model(tokens)
        copy = tokens.clone()
        seen = False
        for later in reversed(range(place, tokens.shape[1])):
            for row in range(len(tokens)):
                for other in range(first.shape[-1]):
                    copy[row, later].fill_(other)
                    now, was = model(copy)[:, :place], first[:, :place]
                    same = torch.equal(now.isnan(), was.isnan()) and torch.equal(now.nan_to_num(), was.nan_to_num())
                    seen = seen or not same
                copy[row, later] = tokens[row, later]
    return seen


# %% wrong: looks-ahead | a row and its replacements as one batch of as many rows | killed by: another row
def looks_ahead(model, tokens, place):
    vocabulary = model(tokens).shape[-1]
    for row in range(len(tokens)):
        same = tokens[row].repeat(vocabulary, 1)
        before = model(same)[:, :place]
        for later in range(place, tokens.shape[1]):
            changed = same.clone()
            changed[:, later] = torch.arange(vocabulary)
            after = model(changed)[:, :place]
            if not ((after == before) | (after.isnan() & before.isnan())).all():
                return True
    return False


# %% wrong: looks-ahead | changes everything, what stands before place too | killed by: a causal model
def looks_ahead(model, tokens, place):
    other = (tokens + 1) % model(tokens).shape[-1]
    return not torch.equal(model(other)[:, :place], model(tokens)[:, :place])


# %% wrong: looks-ahead | compares place itself too | killed by: a causal model
def looks_ahead(model, tokens, place):
    logits = model(tokens)
    for later in range(place, tokens.shape[1]):
        for other in range(logits.shape[-1]):
            changed = tokens.clone()
            changed[:, later] = other
            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
                return True
    return False


# %% wrong: looks-ahead | all rows at once | killed by: one row at a time
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            after, before = model(changed)[:, :place], logits[:, :place]
# +            if not ((after == before) | (after.isnan() & before.isnan())).all():


# %% wrong: looks-ahead | a NaN that is always there is taken for a change | killed by: a constant NaN
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not torch.equal(after, before):


# %% wrong: looks-ahead | every NaN is forgiven | killed by: NaN comes and goes
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not ((after == before) | after.isnan() | before.isnan()).all():


# %% wrong: looks-ahead | any NaN makes it causal | killed by: NaN elsewhere
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not after.isnan().any() and not torch.equal(after, before):


# %% wrong: looks-ahead | compares the row that was changed alone | killed by: another row
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not ((after == before) | (after.isnan() & before.isnan()))[row].all():


# %% wrong: looks-ahead | five hundred random tries | killed by: the last of all
def looks_ahead(model, tokens, place):
    before = model(tokens)
    for _ in range(500):
        changed = tokens.clone()
        row, later = torch.randint(len(tokens), ()), torch.randint(place, tokens.shape[1], ())
        changed[row, later] = torch.randint(before.shape[-1], ())
        after = model(changed)
        if not ((after == before) | (after.isnan() & before.isnan()))[:, :place].all():
            return True
    return False


# %% wrong: looks-ahead | gives up after a hundred replacements | killed by: the last of all
# edit of: the teacher's
#      with torch.no_grad():
# +        tried = 0
# …
#                      changed = tokens.clone()
# +                    tried += 1
# +                    if tried > 100:
# +                        return False


# %% wrong: looks-ahead | changes what stands before place and looks after it | killed by: a causal model
# edit of: compares place itself too
# -    for later in range(place, tokens.shape[1]):
# +    for earlier in range(place):
# …
# -            changed[:, later] = other
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            changed[:, earlier] = other
# +            if not torch.equal(model(changed)[:, place:], logits[:, place:]):


# %% wrong: looks-ahead | True if it is causal | killed by: a causal model
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# -                return True
# -    return False
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):
# +                return False
# +    return True


# %% wrong: looks-ahead | accuses nobody | killed by: the whole text
def looks_ahead(model, tokens, place):
    return False


# %% wrong: looks-ahead | starts after place | killed by: the token at place
# edit of: compares place itself too
# -    for later in range(place, tokens.shape[1]):
# +    for later in range(place + 1, tokens.shape[1]):
# …
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | changes the token at place alone | killed by: the last token
def looks_ahead(model, tokens, place):
    logits = model(tokens)
    for other in range(logits.shape[-1]):
        changed = tokens.clone()
        changed[:, place] = other
        if not torch.equal(model(changed)[:, :place], logits[:, :place]):
            return True
    return False


# %% wrong: looks-ahead | stops before the last token | killed by: the last token
# edit of: compares place itself too
# -    for later in range(place, tokens.shape[1]):
# +    for later in range(place, max(place + 1, tokens.shape[1] - 1)):
# …
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | changes the last token alone | killed by: the token at place
# edit of: changes the token at place alone
# -        changed[:, place] = other
# +        changed[:, -1] = other


# %% wrong: looks-ahead | the first and the last of the later tokens | killed by: a token in between
# edit of: compares place itself too
# -    for later in range(place, tokens.shape[1]):
# +    for later in (place, tokens.shape[1] - 1):
# …
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | compares the place before alone | killed by: the first place sees it
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, place - 1], logits[:, place - 1]):


# %% wrong: looks-ahead | one other token at each place | killed by: one token of the vocabulary
# edit of: changes the token at place alone
# -    for other in range(logits.shape[-1]):
# +    for later in range(place, tokens.shape[1]):
# …
# -        changed[:, place] = other
# +        changed[:, later] = (changed[:, later] + 2) % logits.shape[-1]


# %% wrong: looks-ahead | the vocabulary without its last | killed by: one token of the vocabulary
# edit of: compares place itself too
# -        for other in range(logits.shape[-1]):
# +        for other in range(logits.shape[-1] - 1):
# …
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | the vocabulary without its first | killed by: one token of the vocabulary
# edit of: compares place itself too
# -        for other in range(logits.shape[-1]):
# +        for other in range(1, logits.shape[-1]):
# …
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | the tokens that occur in the text alone, in their own row | killed by: one token of the vocabulary
# edit of: compares place itself too
# -        for other in range(logits.shape[-1]):
# +        for source in range(tokens.shape[1]):
# …
# -            changed[:, later] = other
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            changed[:, later] = tokens[:, source]
# +            if source < place and not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | shortens the text | killed by: the length
def looks_ahead(model, tokens, place):
    return not torch.equal(model(tokens[:, :place]), model(tokens)[:, :place])


# %% wrong: looks-ahead | another token at place, and what moves by more than rounding | killed by: a small leak
def looks_ahead(model, tokens, place):
    logits = model(tokens)
    other = tokens.clone()
    other[:, place] = (other[:, place] + 1) % logits.shape[-1]
    return bool(((model(other) - logits)[:, :place].abs() > 1e-4).any())


# %% wrong: looks-ahead | 256 tokens, whatever the vocabulary | killed by: runs
# edit of: compares place itself too
# -        for other in range(logits.shape[-1]):
# +        for other in range(256):
# …
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | compares up to place - 2 | killed by: the place before sees it
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, : place - 1], logits[:, : place - 1]):


# %% wrong: looks-ahead | draws other tokens for the rest, once | killed by: one token of the vocabulary
def looks_ahead(model, tokens, place):
    logits = model(tokens)
    changed = tokens.clone()
    changed[:, place:] = torch.randint(logits.shape[-1], changed[:, place:].shape)
    return not torch.equal(model(changed)[:, :place], logits[:, :place])


# %% wrong: looks-ahead | all variants in one large batch, where rounding differs | killed by: the shape
@torch.no_grad()
def looks_ahead(model, tokens, place):
    logits = model(tokens)
    for row in range(len(tokens)):
        variants = []
        for later in range(place, tokens.shape[1]):
            for other in range(logits.shape[-1]):
                changed = tokens[row].clone()
                changed[later] = other
                variants.append(changed)
        if (model(torch.stack(variants))[:, :place] != logits[row, :place]).any():
            return True
    return False


# %% wrong: looks-ahead | any place, not the one asked for | killed by: place matters
# edit of: compares place itself too
# -    for later in range(place, tokens.shape[1]):
# +    for later in range(1, tokens.shape[1]):
# …
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :later], logits[:, :later]):


# %% wrong: looks-ahead | writes into the caller's tokens | killed by: tokens stay
def looks_ahead(model, tokens, place):
    logits = model(tokens)[:, :place]
    for later in range(place, tokens.shape[1]):
        for other in range(model(tokens).shape[-1]):
            tokens[:, later] = other
            if not torch.equal(model(tokens)[:, :place], logits):
                return True
    return False


# %% wrong: looks-ahead | a tensor of one truth | killed by: True or False
def looks_ahead(model, tokens, place):
    logits = model(tokens)
    found = torch.tensor(False)
    for later in range(place, tokens.shape[1]):
        for other in range(logits.shape[-1]):
            changed = tokens.clone()
            changed[:, later] = other
            found = found | (model(changed)[:, :place] != logits[:, :place]).any()
    return found


# %% wrong: looks-ahead | allclose | killed by: a small leak
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not torch.allclose(after, before, equal_nan=True):


# %% wrong: looks-ahead | all logits have to change | killed by: the first place sees it
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if (model(changed)[:, :place] != logits[:, :place]).all():


# %% wrong: looks-ahead | compares what is written: the argmax | killed by: a small leak
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if not torch.equal(model(changed)[:, :place].argmax(-1), logits[:, :place].argmax(-1)):


# %% wrong: looks-ahead | torch.allclose, NaN forgiven | killed by: a small leak
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not torch.allclose(after, before, equal_nan=True):


# %% wrong: looks-ahead | compares the sums over the vocabulary | killed by: a leak that cancels
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    moved = (after - before).nan_to_num(0.0).sum(-1).abs() > 1e-13
# +                    if moved.any() or (after.isnan() != before.isnan()).any():


# %% wrong: looks-ahead | compares the first logit of each place | killed by: one logit
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not torch.equal(after[..., 0], before[..., 0]):


# %% wrong: looks-ahead | the first row of the batch | killed by: the last row
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if not torch.equal(after[0].nan_to_num(), before[0].nan_to_num()):


# %% wrong: looks-ahead | changes the first row alone | killed by: another row
# edit of: compares place itself too
# -            changed[:, later] = other
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            changed[0, later] = other
# +            if not torch.equal(model(changed)[:, :place], logits[:, :place]):


# %% wrong: looks-ahead | the largest difference, which is NaN between infinities | killed by: minus infinity
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if (after - before).abs().max() > 0 or (after.isnan() != before.isnan()).any():


# %% wrong: looks-ahead | a difference that is not 0, which NaN is not | killed by: one row at a time
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if ((model(changed) - logits)[:, :place] != 0).any():


# %% wrong: looks-ahead | tries a place and forgets what the others said | killed by: the token at place
# edit of: a tensor of one truth
# -    found = torch.tensor(False)
# +    found = False
# …
# -            found = found | (model(changed)[:, :place] != logits[:, :place]).any()
# +            found = not torch.equal(model(changed)[:, :place], logits[:, :place])


# %% wrong: looks-ahead | the vocabulary ends with the largest token of the text | killed by: one token of the vocabulary
def looks_ahead(model, tokens, place):
    before = model(tokens)[:, :place]
    for later in range(place, tokens.shape[1]):
        for other in range(int(tokens.max()) + 1):
            changed = tokens.clone()
            changed[:, later] = other
            if not torch.equal(model(changed)[:, :place], before):
                return True
    return False


# %% wrong: looks-ahead | all later tokens become the same one | killed by: one at a time
# edit of: changes the token at place alone
# -        changed[:, place] = other
# +        changed[:, place:] = other


# %% wrong: looks-ahead | every token at every later place, and what moves by more than 1e-4 | killed by: a small leak
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# +            if ((model(changed) - logits)[:, :place].abs() > 1e-4).any():


# %% wrong: looks-ahead | says what the first replacement showed | killed by: the last token
# edit of: compares place itself too
# -            if not torch.equal(model(changed)[:, : place + 1], logits[:, : place + 1]):
# -                return True
# -    return False
# +            return not torch.equal(model(changed)[:, :place], logits[:, :place])


# %% right: routing-losses | softplus with a sign
def routing_loss(r, mask, present):
    wrong = torch.where(mask, -1.0, 1.0).to(r.dtype) * r.masked_fill(~present, 0.0)
    return (nn.functional.softplus(wrong) * present).sum() / present.sum()


def predictor_loss(predictor, x, mask, present):
    said = predictor(x.clone().detach().nan_to_num().masked_fill(~present.unsqueeze(-1), 1.0))[present]
    return nn.functional.softplus(torch.where(mask[present], -said, said)).mean()


# %% right: routing-losses | log-sigmoids, row by row
def routing_loss(r, mask, present):
    total = 0
    for row, among, there in zip(r, mask, present, strict=True):
        here, belongs = row[there], among[there].to(r)
        total = total - (belongs * nn.functional.logsigmoid(here)).sum()
        total = total - ((1 - belongs) * nn.functional.logsigmoid(-here)).sum()
    return total / int(present.sum())


def predictor_loss(predictor, x, mask, present):
    with torch.no_grad():
        numbers = torch.where(present[..., None], x, torch.zeros_like(x))
    return routing_loss(predictor(numbers), mask, present)


# %% wrong: routing-losses | the lecture's, over all tokens | killed by: those present
def routing_loss(r, mask, present):
    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype))


def predictor_loss(predictor, x, mask, present):
    return routing_loss(predictor(x.detach()), mask, present)


# %% wrong: routing-losses | divided by all tokens | killed by: those present
# edit of: the lecture's, over all tokens
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype))
# +    loss = nn.functional.binary_cross_entropy_with_logits(r[present], mask[present].to(r.dtype), reduction="sum")
# +    return loss / mask.numel()


# %% wrong: routing-losses | a mean of the rows' means | killed by: those present
# edit of: the lecture's, over all tokens
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype))
# +    means = [
# +        nn.functional.binary_cross_entropy_with_logits(row[there], among[there].to(r.dtype))
# +        for row, among, there in zip(r, mask, present, strict=True)
# +        if there.any()
# +    ]
# +    return torch.stack(means).mean()


# %% wrong: routing-losses | the absent count as r = 0 | killed by: those present
# edit of: the lecture's, over all tokens
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype))
# +    return nn.functional.binary_cross_entropy_with_logits(r.masked_fill(~present, 0.0), mask.to(r.dtype))


# %% wrong: routing-losses | the loss of the absent, multiplied by 0 | killed by: those present
# edit of: the lecture's, over all tokens
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype))
# +    loss = nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="none")
# +    return (loss * present).sum() / present.sum()


# %% wrong: routing-losses | the loss of the absent, replaced by 0 afterwards | killed by: gradient of those present
# edit of: the lecture's, over all tokens
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype))
# +    loss = nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="none")
# +    return torch.where(present, loss, 0.0).sum() / present.sum()


# %% wrong: routing-losses | the predictor reads the absent, whose NaN reaches its weights | killed by: gradient of the predictor, those present
# edit of: the teacher's
# -    seen = x.detach().masked_fill(~present[..., None], 0.0)  # 0 times NaN is NaN in the gradient of a weight, too
# +    seen = x.detach()


# %% wrong: routing-losses | the predictor's loss over all tokens | killed by: predictor, those present
# edit of: the teacher's
# -    return routing_loss(predictor(seen), mask, present)
# +    return routing_loss(predictor(seen), mask, present | True)


# %% wrong: routing-losses | the targets in float32, whatever r is | killed by: dtype
# edit of: the teacher's
# -    return nn.functional.binary_cross_entropy_with_logits(r[present], mask[present].to(r.dtype))
# +    return nn.functional.binary_cross_entropy_with_logits(r[present], mask[present].float())


# %% wrong: routing-losses | the sum | killed by: routing loss
def routing_loss(r, mask, present):
    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")


def predictor_loss(predictor, x, mask, present):
    return routing_loss(predictor(x.detach()), mask, present)


# %% wrong: routing-losses | one loss for each row | killed by: one number
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="none").mean(1)


# %% wrong: routing-losses | summed over the tokens, mean over the batch | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum") / len(r)


# %% wrong: routing-losses | sigmoid, and then a loss that takes logits | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return nn.functional.binary_cross_entropy_with_logits(r.sigmoid(), mask.to(r.dtype))


# %% wrong: routing-losses | the targets the other way round | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return nn.functional.binary_cross_entropy_with_logits(r, (~mask).to(r.dtype))


# %% wrong: routing-losses | the log-likelihood without its sign | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return torch.where(mask, nn.functional.logsigmoid(r), nn.functional.logsigmoid(-r)).mean()


# %% wrong: routing-losses | of the k alone | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return -nn.functional.logsigmoid(r[mask]).mean()


# %% wrong: routing-losses | of the k alone, divided by all | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return -(mask * nn.functional.logsigmoid(r)).mean()


# %% wrong: routing-losses | a softmax over the tokens | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return -r.log_softmax(1)[mask].mean()


# %% wrong: routing-losses | squared distance | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return (r.sigmoid() - mask.to(r.dtype)).square().mean()


# %% wrong: routing-losses | both kinds weighted alike | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return (nn.functional.softplus(-r[mask]).mean() + nn.functional.softplus(r[~mask]).mean()) / 2


# %% wrong: routing-losses | the share of wrong decisions | killed by: routing loss
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return ((r > 0) != mask).to(r.dtype).mean().requires_grad_()


# %% wrong: routing-losses | r is detached | killed by: r learns
def routing_loss(r, mask, present):
    return nn.functional.binary_cross_entropy_with_logits(r.detach(), mask.to(r.dtype))


def predictor_loss(predictor, x, mask, present):
    return nn.functional.binary_cross_entropy_with_logits(predictor(x.detach()), mask.to(x.dtype))


# %% wrong: routing-losses | on probabilities, whose logarithm is cut off | killed by: large logits
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return nn.functional.binary_cross_entropy(r.sigmoid(), mask.to(r.dtype))


# %% wrong: routing-losses | probabilities and logarithms by hand | killed by: large logits
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    p = r.sigmoid()
# +    return -torch.where(mask, p.log(), (1 - p).log()).mean()


# %% wrong: routing-losses | on probabilities in float64, whose logarithm is infinite at 300 nonetheless | killed by: large logits
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    p = r.double().sigmoid()
# +    return nn.functional.binary_cross_entropy(p, mask.double()).to(r.dtype)


# %% wrong: routing-losses | log(1 + e^z), which overflows | killed by: large logits
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return torch.where(mask, -r, r).exp().add(1).log().mean()


# %% wrong: routing-losses | kept by the shape of r | killed by: routing loss
_targets = {}


def routing_loss(r, mask, present):
    targets = _targets.setdefault(r.shape, mask.clone())
    return nn.functional.binary_cross_entropy_with_logits(r[present], targets[present].to(r.dtype))


def predictor_loss(predictor, x, mask, present):
    said = predictor(x.detach().masked_fill(~present[..., None], 0.0))
    return nn.functional.binary_cross_entropy_with_logits(said[present], mask[present].to(x.dtype))


# %% wrong: routing-losses | logits cut at 50 | killed by: large logits
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return nn.functional.binary_cross_entropy_with_logits(r.clamp(-50, 50), mask.to(r.dtype))


# %% wrong: routing-losses | the package's | killed by: by hand
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    from dynlib.tokens.mixture_of_depths import Routed, routing_loss
# +
# +    return routing_loss([Routed(mask, r, r, torch.ones_like(mask), "top_k")])


# %% wrong: routing-losses | the predictor's gradient goes on to x | killed by: x is left alone
def routing_loss(r, mask, present):
    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype))


def predictor_loss(predictor, x, mask, present):
    return routing_loss(predictor(x), mask, present)


# %% wrong: routing-losses | the predictor's on probabilities | killed by: large logits of a predictor
# edit of: the predictor's gradient goes on to x
# -    return routing_loss(predictor(x), mask, present)
# +    return nn.functional.binary_cross_entropy(predictor(x.detach()).sigmoid(), mask.to(x.dtype))


# %% wrong: routing-losses | detaches what the predictor says | killed by: the predictor learns
# edit of: the predictor's gradient goes on to x
# -    return routing_loss(predictor(x), mask, present)
# +    return routing_loss(predictor(x).detach(), mask, present)


# %% wrong: routing-losses | no gradient for anything inside the predictor | killed by: the predictor learns
# edit of: the predictor's gradient goes on to x
# -    return routing_loss(predictor(x), mask, present)
# +    with torch.no_grad():
# +        log_odds = predictor(x)
# +    return routing_loss(log_odds, mask, present)


# %% wrong: routing-losses | cuts x off in place | killed by: x stays in its graph
# edit of: the predictor's gradient goes on to x
#  def predictor_loss(predictor, x, mask, present):
# +    x.detach_()


# %% wrong: routing-losses | sigmoid in the predictor's loss | killed by: predictor loss
# edit of: the predictor's gradient goes on to x
# -    return routing_loss(predictor(x), mask, present)
# +    return routing_loss(predictor(x.detach()).sigmoid(), mask, present)


# %% wrong: routing-losses | the predictor is put to evaluation | killed by: still in training mode
# edit of: the predictor's gradient goes on to x
# -    return routing_loss(predictor(x), mask, present)
# +    return routing_loss(predictor.eval()(x.detach()), mask, present)


# %% wrong: routing-losses | logits and targets swapped | killed by: routing loss
# edit of: r is detached
# -    return nn.functional.binary_cross_entropy_with_logits(r.detach(), mask.to(r.dtype))
# +    return nn.functional.binary_cross_entropy_with_logits(mask.to(r.dtype), r)


# %% wrong: routing-losses | the mask stays boolean | killed by: runs
# edit of: the sum
# -    return nn.functional.binary_cross_entropy_with_logits(r, mask.to(r.dtype), reduction="sum")
# +    return nn.functional.binary_cross_entropy_with_logits(r, mask)


# %% right: causal-step | recursive, one layer and then the rest, with a mask
def causal_step(layers, x, place, caches):
    if len(layers) == 0:
        return x
    layer, cache = layers[0], caches[0]
    decides = layer.predictor if layer.predictor is not None else layer.router
    runs = torch.ones(x.shape[1], dtype=torch.bool) if decides is None else decides(x).flatten() > 0
    if runs.any():
        where = torch.arange(place, place + x.shape[1])[runs]
        update = layer.block.update(x[:, runs], positions=where, cache=cache)
        x = x.clone()
        x[:, runs] += update if layer.router is None else layer.router(x[:, runs]) * update
    return causal_step(layers[1:], x, place, caches[1:])


# %% right: causal-step | lists of the tokens that run, positions [1, m]
def causal_step(layers, x, place, caches):
    states = list(x[0])
    for number in range(len(layers)):
        block, router, predictor = layers[number]
        runs = []
        for at, state in enumerate(states):
            odds = 1.0 if router is None else (predictor or router)(state).item()
            if odds > 0:
                runs.append(at)
        if not runs:
            continue
        given = torch.stack([states[at] for at in runs])[None]
        update = block.update(given, positions=torch.tensor([[place + at for at in runs]]), cache=caches[number])
        for rank, at in enumerate(runs):
            weight = 1.0 if router is None else router(states[at])
            states[at] = states[at] + weight * update[0, rank]
    return torch.stack(states)[None]


# %% right: causal-step | a layer without a router is called as a block
def causal_step(layers, x, place, caches):
    at = torch.arange(place, place + x.shape[1])
    for layer, cache in zip(layers, caches, strict=True):
        if layer.router is None:
            x = layer.block(x, positions=at, cache=cache)
            continue
        runs = (layer.predictor or layer.router)(x)[0, :, 0] > 0
        if not runs.any():
            continue
        some = x[:, runs]
        new = some + layer.router(some) * layer.block.update(some, positions=at[runs], cache=cache)
        x = x.masked_scatter(runs[None, :, None].expand_as(x), new)
    return x


# %% wrong: causal-step | the lecture's step, for one token alone | killed by: the caches after pieces
def causal_step(layers, x, place, caches):
    positions = torch.tensor([place], device=x.device)
    for layer, cache in zip(layers, caches, strict=True):
        weight = 1.0
        if layer.router is not None:
            weight = layer.router(x)
            log_odds = weight if layer.predictor is None else layer.predictor(x)
            if log_odds.item() <= 0:
                continue
        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
    return x


# %% wrong: causal-step | one token after the other | killed by: once a piece
def causal_step(layers, x, place, caches):
    steps = []
    for number in range(x.shape[1]):
        state, at = x[:, number : number + 1], torch.tensor([place + number])
        for layer, cache in zip(layers, caches, strict=True):
            weight = 1.0 if layer.router is None else layer.router(state)
            log_odds = weight if layer.predictor is None else layer.predictor(state)
            if layer.router is None or log_odds.item() > 0:
                state = state + weight * layer.block.update(state, positions=at, cache=cache)
        steps.append(state)
    return torch.cat(steps, dim=1)


# %% wrong: causal-step | all tokens of a piece stand at place | killed by: the caches after pieces
# edit of: the teacher's
# -    positions = place + torch.arange(x.shape[1])
# +    positions = torch.full((x.shape[1],), place)


# %% wrong: causal-step | the tokens that run stand one behind the other | killed by: the caches after pieces
# edit of: the teacher's
# -            update = layer.block.update(x[:, runs], positions=positions[runs], cache=cache)
# +            update = layer.block.update(x[:, runs], positions=positions[: len(runs)], cache=cache)


# %% wrong: causal-step | a piece runs if any of its tokens does | killed by: the caches after pieces
# edit of: the teacher's
# -        runs = (log_odds[0, :, 0] > 0).nonzero()[:, 0]
# -        if len(runs):
# +        runs = torch.arange(x.shape[1])
# +        if (log_odds > 0).any():


# %% wrong: causal-step | the first token of a piece decides for all | killed by: the caches after pieces
# edit of: the teacher's
# -        runs = (log_odds[0, :, 0] > 0).nonzero()[:, 0]
# -        if len(runs):
# +        runs = torch.arange(x.shape[1])
# +        if log_odds[0, 0, 0] > 0:


# %% wrong: causal-step | the weights of the first tokens | killed by: several at once
# edit of: the teacher's
# -            x = x.index_add(1, runs, weight[:, runs] * update)
# +            x = x.index_add(1, runs, weight[:, : len(runs)] * update)


# %% wrong: causal-step | the block runs for nobody too | killed by: nothing for nothing
# edit of: the teacher's
# -        if len(runs):
# +        if True:


# %% wrong: causal-step | everybody is in the cache, and the weights are masked | killed by: the caches after pieces
# edit of: the teacher's
# -            update = layer.block.update(x[:, runs], positions=positions[runs], cache=cache)
# -            x = x.index_add(1, runs, weight[:, runs] * update)
# +            update = layer.block.update(x, positions=positions, cache=cache)
# +            x = x + torch.where(log_odds > 0, weight * update, 0.0)


# %% wrong: causal-step | block in place of block.update | killed by: a layer with a router
def causal_step(layers, x, place, caches):
    at = torch.tensor([place])
    for layer, cache in zip(layers, caches, strict=True):
        if layer.router is None:
            x = layer.block(x, positions=at, cache=cache)
        elif (layer.predictor or layer.router)(x) > 0:
            x = x + layer.router(x) * layer.block(x, positions=at, cache=cache)
    return x


# %% wrong: causal-step | r times the update replaces the token | killed by: a layer without a router
def causal_step(layers, x, place, caches):
    positions = torch.tensor([place])
    for layer, cache in zip(layers, caches, strict=True):
        weight = 1.0
        if layer.router is not None:
            weight = layer.router(x)
            log_odds = weight if layer.predictor is None else layer.predictor(x)
            if log_odds.item() <= 0:
                continue
        x = weight * layer.block.update(x, positions=positions, cache=cache)
    return x


# %% wrong: causal-step | the weight is not on the path | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = x + layer.block.update(x, positions=positions, cache=cache)


# %% wrong: causal-step | a double residual | killed by: a layer without a router
# edit of: the lecture's step, for one token alone
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = x + (x + weight * layer.block.update(x, positions=positions, cache=cache))


# %% wrong: causal-step | the predictor's log-odds are the weight | killed by: a layer with a predictor
# edit of: the lecture's step, for one token alone
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = x + (weight if layer.router is None else log_odds) * layer.block.update(x, positions=positions, cache=cache)


# %% wrong: causal-step | sigmoid of r is the weight | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = x + (weight if layer.router is None else weight.sigmoid()) * layer.block.update(
# +            x, positions=positions, cache=cache
# +        )


# %% wrong: causal-step | r without its sign | killed by: a layer with a predictor
# edit of: the lecture's step, for one token alone
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = x + abs(weight) * layer.block.update(x, positions=positions, cache=cache)


# %% wrong: causal-step | a layer without a router has the weight 0 | killed by: a layer without a router
# edit of: the lecture's step, for one token alone
# -        weight = 1.0
# +        weight = 0.0


# %% wrong: causal-step | break in place of continue | killed by: four caches
# edit of: the lecture's step, for one token alone
# -                continue
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +                break
# +        x = x + weight * layer.block.update(x, positions=positions, cache=cache)


# %% wrong: causal-step | a token that passes by becomes 0 | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
#              if log_odds.item() <= 0:
# +                x = 0 * x


# %% wrong: causal-step | everyone runs, as the first of one | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
# -            if log_odds.item() <= 0:
# +            if expert_choice(log_odds[..., 0], 1.0, torch.ones(1, 1, dtype=torch.bool)).logical_not().item():


# %% wrong: causal-step | a probability compared with 0 | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
# -            if log_odds.item() <= 0:
# +            if log_odds.sigmoid().item() <= 0:


# %% wrong: causal-step | r decides where there is a predictor | killed by: a layer with a predictor
# edit of: the lecture's step, for one token alone
# -            log_odds = weight if layer.predictor is None else layer.predictor(x)
# +            log_odds = weight


# %% wrong: causal-step | the other way round | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
# -            if log_odds.item() <= 0:
# +            if log_odds.item() > 0:


# %% wrong: causal-step | nobody runs where there is a router | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
# -            if log_odds.item() <= 0:
# +            if True:


# %% wrong: causal-step | writes those who pass by to the cache as well | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
#              if log_odds.item() <= 0:
# +                layer.block.update(x, positions=positions, cache=cache)


# %% wrong: causal-step | the first layer's state decides in every layer | killed by: four caches
# edit of: the lecture's step, for one token alone
#      positions = torch.tensor([place], device=x.device)
# +    first = x
# …
# -            weight = layer.router(x)
# -            log_odds = weight if layer.predictor is None else layer.predictor(x)
# +            weight = layer.router(first)
# +            log_odds = weight if layer.predictor is None else layer.predictor(first)


# %% wrong: causal-step | every update is of the first state | killed by: four layers
# edit of: the lecture's step, for one token alone
#      positions = torch.tensor([place], device=x.device)
# +    first = x
# …
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = first + weight * layer.block.update(first, positions=positions, cache=cache)


# %% wrong: causal-step | positions from 1 | killed by: a layer without a router
# edit of: the lecture's step, for one token alone
# -    positions = torch.tensor([place], device=x.device)
# +    positions = torch.tensor([place + 1])


# %% wrong: causal-step | every token stands at 0 | killed by: a layer without a router
# edit of: the lecture's step, for one token alone
# -    positions = torch.tensor([place], device=x.device)
# +    positions = torch.tensor([0])


# %% wrong: causal-step | one cache for all layers | killed by: four caches
# edit of: the lecture's step, for one token alone
# -    for layer, cache in zip(layers, caches, strict=True):
# +    for layer, cache in zip(layers, [caches[0]] * len(layers), strict=True):


# %% wrong: causal-step | log-odds of 0 run | killed by: the cache of a layer with a router
# edit of: the teacher's
# -        runs = (log_odds[0, :, 0] > 0).nonzero()[:, 0]
# +        runs = (log_odds[0, :, 0] >= 0).nonzero()[:, 0]


# %% wrong: causal-step | every layer gets the first state | killed by: four caches
def causal_step(layers, x, place, caches):
    for layer, cache in zip(layers, caches, strict=True):
        weight, state = 1.0, x
        if layer.router is not None:
            weight = layer.router(x)
            log_odds = weight if layer.predictor is None else layer.predictor(x)
            if log_odds.item() <= 0:
                continue
        state = x + weight * layer.block.update(x, positions=torch.tensor([place]), cache=cache)
    return state


# %% wrong: causal-step | counts what the cache holds for a position | killed by: a layer with a router
# edit of: the lecture's step, for one token alone
# -    positions = torch.tensor([place], device=x.device)
# …
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = x + weight * layer.block.update(x, positions=torch.tensor([cache.length]), cache=cache)


# %% wrong: causal-step | computes the update first and decides afterwards, with a copy of the cache | killed by: nothing for nothing
def causal_step(layers, x, place, caches):
    for layer, cache in zip(layers, caches, strict=True):
        log_odds, weight = torch.ones(1), 1.0
        if layer.router is not None:
            weight = layer.router(x)
            log_odds = weight if layer.predictor is None else layer.predictor(x)
        spare = LayerCache()
        if cache.length:
            spare.append(cache.keys, cache.values, cache.positions)
        update = layer.block.update(x, positions=torch.tensor([place]), cache=spare)
        if log_odds.item() > 0:
            added = spare.keys[:, :, -1:], spare.values[:, :, -1:], spare.positions[:, -1:]
            cache.append(*added)
            x = x + weight * update
    return x


# %% wrong: causal-step | adds into the token that it was given | killed by: x stays
# edit of: the lecture's step, for one token alone
# -    positions = torch.tensor([place], device=x.device)
# …
# -            weight = layer.router(x)
# +            weight = layer.router(x).clone()
# …
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x += weight * layer.block.update(x, positions=torch.tensor([place]), cache=cache)


# %% wrong: causal-step | counts the places itself | killed by: a layer with a router
_count = []


def causal_step(layers, x, place, caches):
    positions = torch.tensor([len(_count)])
    _count.append(place)
    for layer, cache in zip(layers, caches, strict=True):
        r = 1.0 if layer.router is None else layer.router(x)
        odds = r if layer.predictor is None else layer.predictor(x)
        if layer.router is None or odds.item() > 0:
            x = x + r * layer.block.update(x, positions=positions, cache=cache)
    return x


# %% wrong: causal-step | gives a vector | killed by: shape
# edit of: the lecture's step, for one token alone
# -    positions = torch.tensor([place], device=x.device)
# …
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# -    return x
# +        x = x + weight * layer.block.update(x, positions=torch.tensor([place]), cache=cache)
# +    return x[0, 0]


# %% wrong: causal-step | a new cache in each step | killed by: a layer without a router
# edit of: the lecture's step, for one token alone
# -    positions = torch.tensor([place], device=x.device)
# -    for layer, cache in zip(layers, caches, strict=True):
# +    for layer in layers:
# …
# -        x = x + weight * layer.block.update(x, positions=positions, cache=cache)
# +        x = x + weight * layer.block.update(x, positions=torch.tensor([place]), cache=LayerCache())


# %% wrong: causal-step | the position is a number, no tensor | killed by: runs
def causal_step(layers, x, place, caches):
    for layer, cache in zip(layers, caches, strict=True):
        r = 1.0 if layer.router is None else layer.router(x)
        odds = r if layer.predictor is None else layer.predictor(x)
        if layer.router is None or odds > 0:
            x = x + r * layer.block.update(x, positions=place, cache=cache)
    return x


# %% wrong: causal-step | every routed layer is asked for its predictor | killed by: runs
def causal_step(layers, x, place, caches):
    for layer, cache in zip(layers, caches, strict=True):
        if layer.router is not None and layer.predictor(x) <= 0:
            continue
        r = 1.0 if layer.router is None else layer.router(x)
        x = x + r * layer.block.update(x, positions=torch.tensor([place]), cache=cache)
    return x


# %% right: predict-mod | numbers written out, counts in plain Python
def predict():
    return {
        "tokens that run": 192 / 8,
        "FLOPs of the linear layers": 0.5625,
        "FLOPs of attention": 0.5078125,
        "FLOPs masked": 1,
        "a longer window": "falls",
        "accuracy of always no": 0.875,
        "looks ahead": "top_k",
    }


def agreement(log_odds, mask):
    pairs = [(z > 0, m) for z, m in zip(log_odds.flatten().tolist(), mask.flatten().tolist(), strict=True)]
    among = [yes for yes, m in pairs if m]
    return sum(yes == m for yes, m in pairs) / len(pairs), sum(among) / len(among)


# %% right: predict-mod | counts of the four kinds
def predict():
    return {
        "tokens that run": 24,
        "FLOPs of the linear layers": 4.5 / 8,
        "FLOPs of attention": (4 + 4 / 64) / 8,
        "FLOPs masked": 8 / 8,
        "a longer window": "falls",
        "accuracy of always no": 1 - 0.125,
        "looks ahead": "top_k",
    }


def agreement(log_odds, mask):
    hit = int(((log_odds > 0) & mask).sum())
    passed = int(((log_odds <= 0) & ~mask).sum())
    return (hit + passed) / mask.numel(), hit / int(mask.sum())


# %% right: predict-mod | fractions written as numbers, means of booleans
def predict():
    return {
        "tokens that run": 24,
        "FLOPs of the linear layers": 4.5 / 8,
        "FLOPs of attention": (4 + 4 / 64) / 8,
        "FLOPs masked": 1,
        "a longer window": "falls",
        "accuracy of always no": 0.875,
        "looks ahead": "top_k",
    }


def agreement(log_odds, mask):
    said = log_odds > 0
    return (said == mask).double().mean().item(), said[mask].double().mean().item()


# %% right: predict-mod | shares in float32, as the lecture counts them, in a list
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return [(said == mask).float().mean().item(), said[mask].float().mean().item()]


# %% wrong: predict-mod | those who pass by are counted | killed by: tokens that run
# edit of: fractions written as numbers, means of booleans
# -        "tokens that run": 24,
# +        "tokens that run": 168,


# %% wrong: predict-mod | 192 / 12.5 | killed by: tokens that run
# edit of: fractions written as numbers, means of booleans
# -        "tokens that run": 24,
# +        "tokens that run": 192 / 12.5,


# %% wrong: predict-mod | every layer routes | killed by: FLOPs of the linear layers
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs of the linear layers": 4.5 / 8,
# +        "FLOPs of the linear layers": 1 / 8,


# %% wrong: predict-mod | a routed layer costs nothing | killed by: FLOPs of the linear layers
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs of the linear layers": 4.5 / 8,
# +        "FLOPs of the linear layers": 0.5,


# %% wrong: predict-mod | the routed layers leave an eighth out | killed by: FLOPs of the linear layers
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs of the linear layers": 4.5 / 8,
# +        "FLOPs of the linear layers": 7.5 / 8,


# %% wrong: predict-mod | in percent | killed by: FLOPs of the linear layers
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs of the linear layers": 4.5 / 8,
# +        "FLOPs of the linear layers": 56.25,


# %% wrong: predict-mod | attention grows like the linear layers | killed by: FLOPs of attention
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs of attention": (4 + 4 / 64) / 8,
# +        "FLOPs of attention": 4.5 / 8,


# %% wrong: predict-mod | a sixteenth for a square | killed by: FLOPs of attention
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs of attention": (4 + 4 / 64) / 8,
# +        "FLOPs of attention": 4.25 / 8,


# %% wrong: predict-mod | masked saves as much as gathered | killed by: FLOPs masked
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs masked": 1,
# +        "FLOPs masked": 4.5 / 8,


# %% wrong: predict-mod | always no is right about the k | killed by: accuracy of always no
# edit of: fractions written as numbers, means of booleans
# -        "accuracy of always no": 0.875,
# +        "accuracy of always no": 1 / 8,


# %% wrong: predict-mod | always no is a coin | killed by: accuracy of always no
# edit of: fractions written as numbers, means of booleans
# -        "accuracy of always no": 0.875,
# +        "accuracy of always no": 0.5,


# %% wrong: predict-mod | the share rises | killed by: a longer window
# edit of: fractions written as numbers, means of booleans
# -        "a longer window": "falls",
# +        "a longer window": "rises",


# %% wrong: predict-mod | the share stays | killed by: a longer window
# edit of: fractions written as numbers, means of booleans
# -        "a longer window": "falls",
# +        "a longer window": "stays",


# %% wrong: predict-mod | a threshold looks ahead | killed by: looks ahead
# edit of: fractions written as numbers, means of booleans
# -        "looks ahead": "top_k",
# +        "looks ahead": "threshold",


# %% wrong: predict-mod | the predictor looks ahead, as it predicts | killed by: looks ahead
# edit of: fractions written as numbers, means of booleans
# -        "looks ahead": "top_k",
# +        "looks ahead": "predictor",


# %% wrong: predict-mod | a word that was not offered | killed by: a word
# edit of: fractions written as numbers, means of booleans
# -        "looks ahead": "top_k",
# +        "looks ahead": "random",


# %% wrong: predict-mod | a number as text | killed by: a number
# edit of: fractions written as numbers, means of booleans
# -        "tokens that run": 24,
# +        "tokens that run": "24",


# %% wrong: predict-mod | a name is missing | killed by: the names
# edit of: fractions written as numbers, means of booleans
# -        "FLOPs masked": 1,


# %% wrong: predict-mod | the rule is compared with one half | killed by: accuracy
# edit of: fractions written as numbers, means of booleans
# -    said = log_odds > 0
# +    said = log_odds > 0.5


# %% wrong: predict-mod | the share that is wrong | killed by: accuracy
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return (said != mask).double().mean().item(), said[mask].double().mean().item()


# %% wrong: predict-mod | a number of tokens | killed by: accuracy
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return float((said == mask).sum()), said[mask].double().mean().item()


# %% wrong: predict-mod | tokens found, of all tokens | killed by: accuracy
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return (said & mask).double().mean().item(), said[mask].double().mean().item()


# %% wrong: predict-mod | the share of its yes that is right | killed by: found of the k
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return (said == mask).double().mean().item(), mask[said].double().mean().item()


# %% wrong: predict-mod | found, of all tokens | killed by: found of the k
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return (said == mask).double().mean().item(), (said & mask).double().mean().item()


# %% wrong: predict-mod | missed | killed by: found of the k
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return (said == mask).double().mean().item(), (~said)[mask].double().mean().item()


# %% wrong: predict-mod | the two shares swapped | killed by: accuracy
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return said[mask].double().mean().item(), (said == mask).double().mean().item()


# %% wrong: predict-mod | tensors in place of floats | killed by: two floats
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    return (said == mask).double().mean(), said[mask].double().mean()


# %% wrong: predict-mod | log-odds of 0 are a yes | killed by: log-odds of 0
# edit of: fractions written as numbers, means of booleans
# -    said = log_odds > 0
# +    said = log_odds >= 0


# %% wrong: predict-mod | the lecture's sixteen tokens | killed by: tokens that run
# edit of: the teacher's
# -        "tokens that run": 24,
# -        "FLOPs of the linear layers": (4 + 4 / 8) / 8,  # four whole layers, and four of which an eighth runs
# -        "FLOPs of attention": (4 + 4 / 64) / 8,  # an eighth of the queries meets an eighth of the keys
# -        "FLOPs masked": 1.0,  # everything is computed, and then most of it thrown away
# -        "a longer window": "falls",  # attention has the smaller share, and weighs more and more
# +        "tokens that run": 16,
# +        "FLOPs of the linear layers": (4 + 4 / 8) / 8,
# +        "FLOPs of attention": (4 + 4 / 64) / 8,
# +        "FLOPs masked": 1.0,
# +        "a longer window": "falls",


# %% wrong: predict-mod | rounded to two digits | killed by: FLOPs of the linear layers
# edit of: the teacher's
# -        "FLOPs of the linear layers": (4 + 4 / 8) / 8,  # four whole layers, and four of which an eighth runs
# -        "FLOPs of attention": (4 + 4 / 64) / 8,  # an eighth of the queries meets an eighth of the keys
# -        "FLOPs masked": 1.0,  # everything is computed, and then most of it thrown away
# -        "a longer window": "falls",  # attention has the smaller share, and weighs more and more
# +        "FLOPs of the linear layers": 0.56,
# +        "FLOPs of attention": (4 + 4 / 64) / 8,
# +        "FLOPs masked": 1.0,
# +        "a longer window": "falls",


# %% wrong: predict-mod | rounded to three digits | killed by: FLOPs of attention
# edit of: the teacher's
# -        "FLOPs of the linear layers": (4 + 4 / 8) / 8,  # four whole layers, and four of which an eighth runs
# -        "FLOPs of attention": (4 + 4 / 64) / 8,  # an eighth of the queries meets an eighth of the keys
# -        "FLOPs masked": 1.0,  # everything is computed, and then most of it thrown away
# -        "a longer window": "falls",  # attention has the smaller share, and weighs more and more
# +        "FLOPs of the linear layers": (4 + 4 / 8) / 8,
# +        "FLOPs of attention": 0.508,
# +        "FLOPs masked": 1.0,
# +        "a longer window": "falls",


# %% wrong: predict-mod | the share that is wrong, in percent | killed by: accuracy of always no
# edit of: the teacher's
# -        "FLOPs of the linear layers": (4 + 4 / 8) / 8,  # four whole layers, and four of which an eighth runs
# -        "FLOPs of attention": (4 + 4 / 64) / 8,  # an eighth of the queries meets an eighth of the keys
# -        "FLOPs masked": 1.0,  # everything is computed, and then most of it thrown away
# -        "a longer window": "falls",  # attention has the smaller share, and weighs more and more
# -        "accuracy of always no": 7 / 8,
# +        "FLOPs of the linear layers": (4 + 4 / 8) / 8,
# +        "FLOPs of attention": (4 + 4 / 64) / 8,
# +        "FLOPs masked": 1.0,
# +        "a longer window": "falls",
# +        "accuracy of always no": 12.5,


# %% wrong: predict-mod | a hyphen in the name of the routing | killed by: a word
# edit of: the teacher's
# -        "looks ahead": "top_k",
# +        "looks ahead": "top-k",


# %% wrong: predict-mod | a mean of the rows | killed by: found of the k
# edit of: fractions written as numbers, means of booleans
# -    return (said == mask).double().mean().item(), said[mask].double().mean().item()
# +    rows = ((said & mask).sum(1) / mask.sum(1).clamp(min=1)).double()
# +    return (said == mask).double().mean().item(), rows.mean().item()


# %% wrong: expert-choice | k in float32, where 1e-9 gets lost | killed by: a share of 15
# edit of: the teacher's
# -    k = torch.tensor([math.ceil(capacity * n - 1e-9) for n in present.sum(1).tolist()])
# +    k = (capacity * present.sum(1) - 1e-9).ceil().long()


# %% wrong: gathered-block | the update of nobody, multiplied by 0 | killed by: passes by
# edit of: gather and scatter with indices of each row
# -    new = old + r.gather(1, places).unsqueeze(-1) * update
# -    return x.scatter(1, index, torch.where(there[..., None], new, old).to(x.dtype))
# +    return x.scatter_add(1, index, (r.gather(1, places).unsqueeze(-1) * update * there[..., None]).to(x.dtype))


# %% wrong: gathered-block | other tokens, multiplied by 0, fill up | killed by: zeros fill up
# edit of: gather and scatter with indices of each row
# -    routed = torch.where(there[..., None], old, torch.zeros_like(old))
# +    routed = old * there[..., None]


# %% wrong: looks-ahead | a difference above 0, which NaN is not | killed by: NaN comes and goes
# edit of: the teacher's
# -                    if not ((after == before) | (after.isnan() & before.isnan())).all():
# +                    if ((after - before).abs() > 0).any():


# %% wrong: predict-mod | a probability above 0 | killed by: accuracy
# edit of: fractions written as numbers, means of booleans
# -    said = log_odds > 0
# +    said = log_odds.sigmoid() > 0


# %% wrong: expert-choice | a millionth a place to break ties | killed by: nearly equal
# edit of: topk's choice among equals
# -        runs = row.topk(k).indices
# +        runs = (row - 1e-6 * torch.arange(len(row))).argsort(descending=True)[:k]
