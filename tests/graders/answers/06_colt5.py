# %% right: route | the number of saturated by halving the interval of nu, then a softmax
def route(scores, k, epsilon):
    batch, tokens = scores.shape
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, torch.ones_like(best, dtype=torch.bool))
    if k == 0:
        return mask, 0.0 * scores
    z = (scores.double() - scores.detach().double().amax(1, keepdim=True)) / epsilon
    fixed = z.detach()
    low, high = fixed.amin(1, keepdim=True), fixed.new_full((batch, 1), math.log(tokens / k))
    for _ in range(200):
        middle = (low + high) / 2
        enough = (fixed - middle).clamp(max=0).exp().sum(1, keepdim=True) >= k
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    full = fixed >= low + 1e-9
    full &= full.sum(1, keepdim=True) < k
    share = (k - full.sum(1, keepdim=True)) * z.masked_fill(full, -math.inf).softmax(1)
    p = torch.where(full, torch.ones_like(z), share.clamp(max=1.0))
    return mask, (p * mask).to(scores.dtype)


# %% right: route | sequence by sequence, m counted up, weights by logarithms
def route(scores, k, epsilon):
    masks, weights = [], []
    for row in scores.double():
        by_score = sorted(range(len(row)), key=lambda i: (-float(row[i]), i))
        mask = torch.zeros(len(row), dtype=torch.bool)
        mask[by_score[:k]] = True
        columns = [torch.zeros_like(row[0])] * len(row)
        for m in range(k):
            rest = row[by_score[m:]] / epsilon
            logs = math.log(k - m) + rest - rest.logsumexp(0)
            if float(logs.detach().max()) <= 1e-6 or m == k - 1:
                for i in by_score[:m]:
                    columns[i] = torch.ones_like(row[i])
                for i, log in zip(by_score[m:k], logs[: k - m], strict=True):
                    columns[i] = log.clamp(max=0).exp()
                break
        masks.append(mask)
        weights.append(torch.stack(columns))
    return torch.stack(masks), torch.stack(weights).to(scores.dtype)


# %% right: route | m counted down for all sequences at once
def route(scores, k, epsilon):
    batch, n = scores.shape
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, scores * 0
    z = scores.to(torch.float64) / epsilon
    m = torch.full((batch, 1), k - 1)
    for trial in range(k - 1, -1, -1):
        rest = z.masked_fill(rank < trial, -math.inf)
        top = rest.max(dim=1, keepdim=True).values
        fits = math.log(k - trial) + top - rest.logsumexp(1, keepdim=True) <= 0
        m = torch.where(fits, trial, m)
    held = rank < m
    if k == n:
        held = rank < n
        return mask, torch.ones_like(scores) + 0 * scores
    soft = (k - m) * z.masked_fill(held, -math.inf).softmax(1)
    p = torch.where(held, torch.ones_like(soft), soft)
    return mask, torch.where(mask, p, torch.zeros_like(p)).type_as(scores)


# %% right: route | m counted up, row by row
def route(scores, k, epsilon):
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    scores, dtype = scores.double(), scores.dtype
    z = scores / epsilon
    m = torch.zeros(len(z), 1, dtype=torch.int64)
    for b, row in enumerate(z.detach()):
        for held in range(k):
            rest = row[rank[b] >= held]
            if math.log(k - held) + rest.max() - rest.logsumexp(0) <= 0:
                break
        m[b] = held
    saturated = rank < m
    p = (k - m) * z.masked_fill(saturated, -math.inf).softmax(1)
    p = torch.where(saturated, 1.0, p.clamp(max=1)).to(dtype)
    return mask, torch.where(mask, p, 0.0)


# %% wrong: route | k · softmax, above 1 for the best | killed by: weights
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    z = scores / epsilon
    p = k * z.softmax(1)
    return mask, torch.where(mask, p, 0.0)


# %% wrong: route | k · softmax clipped at 1, so that the sum is short | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = (k * z.softmax(1)).clamp(max=1)


# %% wrong: route | a plain softmax | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = z.softmax(1)


# %% wrong: route | softmax over the routed tokens alone | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = z.masked_fill(~mask, -math.inf).softmax(1)


# %% wrong: route | k · softmax over the routed tokens alone | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = k * z.masked_fill(~mask, -math.inf).softmax(1)


# %% wrong: route | a sigmoid of every score | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = z.sigmoid()


# %% wrong: route | the scores themselves | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = scores


# %% wrong: route | hard weights of 1 | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = torch.ones_like(z)


# %% wrong: route | a straight-through gate that is 1 forward | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = (1 - z.softmax(1).detach()) + z.softmax(1)


# %% wrong: route | nu at the k-th largest score | killed by: weights
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    p = (z - z.sort(1, descending=True).values[:, k - 1 : k]).exp().clamp(max=1)


# %% wrong: route | the weights are not cut | killed by: weights
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    return mask, p


# %% wrong: route | rescaled to sum to k after the cut | killed by: weights
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    p = torch.where(mask, p, 0.0)
# +    return mask, p * k / p.sum(1, keepdim=True)


# %% wrong: route | multiplies by epsilon | killed by: weights
# edit of: m counted up, row by row
# -    z = scores / epsilon
# +    z = scores * epsilon


# %% wrong: route | epsilon is not used | killed by: weights
# edit of: m counted up, row by row
# -    z = scores / epsilon
# +    z = scores


# %% wrong: route | m of the first sequence for the whole batch | killed by: weights
# edit of: m counted up, row by row
#          m[b] = held
# +    m = m[:1]


# %% wrong: route | the k smallest | killed by: mask
# edit of: m counted up, row by row
# -    order = scores.argsort(dim=1, descending=True, stable=True)
# +    order = scores.argsort(dim=1, descending=False, stable=True)
# …
# -    saturated = rank < m
# +    saturated = rank >= scores.shape[1] - m


# %% wrong: route | strictly above the k-th largest: one too few | killed by: mask
# edit of: m counted up, row by row
# -    mask = rank < k
# +    mask = scores > scores.sort(1, descending=True).values[:, max(k - 1, 0), None]


# %% wrong: route | the mask is True where a token is left out | killed by: mask
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    return ~mask, torch.where(mask, p, 0.0)


# %% wrong: route | the mask in floating point | killed by: mask
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    return mask.to(scores.dtype), torch.where(mask, p, 0.0)


# %% wrong: route | 2 k of the whole batch in place of k of each sequence | killed by: mask
# edit of: m counted up, row by row
# -    mask = rank < k
# +    mask = torch.zeros_like(scores, dtype=torch.bool)
# +    mask.view(-1)[scores.flatten().topk(k * len(scores)).indices] = True


# %% wrong: route | sorts along the batch | killed by: mask
# edit of: m counted up, row by row
# -    order = scores.argsort(dim=1, descending=True, stable=True)
# -    rank = order.argsort(dim=1)
# -    mask = rank < k
# +    order = scores.argsort(dim=0, descending=True, stable=True)
# +    rank = order.argsort(dim=0)
# +    mask = rank < 1
# …
# -            rest = row[rank[b] >= held]
# +            rest = row


# %% wrong: route | returns the weights alone | killed by: a pair
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    return torch.where(mask, p, 0.0)


# %% wrong: route | sorts the scores of the caller in place | killed by: input untouched
# edit of: m counted up, row by row
# -    z = scores / epsilon
# +    z = scores.div_(epsilon)


# %% wrong: route | at least the k-th largest, equals all routed | killed by: ties
# edit of: m counted up, row by row
# -    mask = rank < k
# +    mask = scores >= scores.sort(1, descending=True).values[:, max(k - 1, 0), None] if k else rank < 0


# %% wrong: route | of equals the later first | killed by: ties
# edit of: m counted up, row by row
# -    order = scores.argsort(dim=1, descending=True, stable=True)
# +    order = scores.argsort(dim=1, stable=True).flip(1)


# %% wrong: route | divides 0 by 0 for k = 0 | killed by: k = 0
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    z, share = scores / epsilon, torch.zeros_like(scores)
    for b, row in enumerate(z):
        for held in range(max(k, 1)):
            rest = row.masked_fill(rank[b] < held, -math.inf).softmax(0)
            share[b] = torch.where(rank[b] < held, 1.0, (k - held) * rest)
            if share[b].max() <= 1:
                break
    p = share * k / share.sum(1, keepdim=True)
    return mask, p * mask


# %% wrong: route | exp without taking the largest away first | killed by: large scores
def route(scores, k, epsilon):
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    mask = rank < k
    e = (scores / epsilon).exp()
    p = torch.zeros_like(e)
    for b in range(len(e)):
        for held in range(k):
            rest = rank[b] >= held
            share = (k - held) * e[b] / e[b][rest].sum()
            p[b] = torch.where(rest, share, 1.0)
            if share[rest].max() <= 1 + 1e-9:
                break
    return mask, p * mask


# %% wrong: route | the number saturated is at least one | killed by: weights
# edit of: m counted up, row by row
# -        for held in range(k):
# +        for held in range(min(1, k - 1), k):


# %% wrong: route | all but the last of the routed are saturated | killed by: weights
# edit of: m counted up, row by row
# -        m[b] = held
# +        m[b] = k - 1


# %% wrong: route | the iteration, stopped after 20 steps | killed by: small epsilon
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    if k == scores.shape[1]:
        return mask, torch.ones_like(scores)
    b = -scores
    for _ in range(20 if epsilon < 0.5 else 2000):
        a = epsilon * (math.log(k) - ((scores + b) / epsilon).logsumexp(1, keepdim=True))
        b = -(scores + a).relu()
    return mask, torch.where(mask, ((scores + a + b) / epsilon).exp(), 0.0)


# %% wrong: route | the weights are detached | killed by: gradient
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    return mask, torch.where(mask, p, 0.0).detach()


# %% wrong: route | computed without a graph | killed by: gradient
# edit of: m counted up, row by row
# -    z = scores / epsilon
# +    z = scores.detach() / epsilon


# %% wrong: route | nu is taken for a constant | killed by: gradient
# edit of: m counted up, row by row
# -    p = (k - m) * z.masked_fill(saturated, -math.inf).softmax(1)
# +    rest = z.masked_fill(saturated, -math.inf)
# +    p = (k - m) * (rest - rest.logsumexp(1, keepdim=True).detach()).exp()


# %% wrong: route | the right weights with the gradient of a softmax | killed by: gradient
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    p = torch.where(mask, p, 0.0).detach()
# +    soft = torch.where(mask, z.softmax(1), 0.0)
# +    return mask, ((p - soft.detach()) + soft).to(dtype)


# %% wrong: route | always in double precision | killed by: dtype
# edit of: m counted up, row by row
# -    p = torch.where(saturated, 1.0, p.clamp(max=1)).to(dtype)
# +    p = torch.where(saturated, 1.0, p.clamp(max=1))


# %% wrong: route | float32 throughout | killed by: precision
# edit of: m counted up, row by row
# -    scores, dtype = scores.double(), scores.dtype
# +    dtype = scores.dtype


# %% wrong: route | float32, with the largest score taken off before the division | killed by: precision
# edit of: m counted up, row by row
# -    scores, dtype = scores.double(), scores.dtype
# -    z = scores / epsilon
# +    dtype = scores.dtype
# +    z = (scores - scores.detach().amax(1, keepdim=True)) / epsilon


# %% wrong: route | double only after the division | killed by: precision
# edit of: m counted up, row by row
# -    scores, dtype = scores.double(), scores.dtype
# -    z = scores / epsilon
# +    dtype = scores.dtype
# +    z = (scores / epsilon).double()


# %% wrong: route | the gradient passes through a softmax in float32 | killed by: precision
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    p = torch.where(mask, p, 0.0)
# +    if dtype == torch.float64:
# +        return mask, p
# +    low = scores.to(dtype) / epsilon
# +    low = torch.where(saturated, 1.0, (k - m) * low.masked_fill(saturated, -math.inf).softmax(1)) * mask
# +    return mask, p.detach() + low - low.detach()


# %% wrong: route | the branch that is not taken makes nan of the gradient | killed by: finite gradients
# edit of: k · softmax, above 1 for the best
# -    p = k * z.softmax(1)
# +    nu = torch.zeros(len(z), 1, dtype=z.dtype)
# +    for b, row in enumerate(z):
# +        for held in range(k):
# +            rest = row[rank[b] >= held]
# +            level = rest.logsumexp(0) - math.log(k - held)
# +            if rest.max() <= level + 1e-6:
# +                break
# +        nu = nu.index_put((torch.tensor([b]),), level)
# +    p = torch.where(z > nu, 1.0, (z - nu).exp()).clamp(max=1)


# %% wrong: route | nu by halving, with a graph that follows its bounds | killed by: gradient
def route(scores, k, epsilon):
    n = scores.shape[1]
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask.scatter_(1, scores.argsort(dim=1, descending=True, stable=True)[:, :k], True)
    w = torch.zeros_like(scores)
    if k == 0:
        return mask, w
    rows = []
    for s in scores:
        low, high = s.min() - epsilon * math.log(n), s.max() + epsilon * math.log(n)
        for _ in range(60):
            mid = (low + high) / 2
            t = ((s - mid) / epsilon).exp().clamp_max(1).sum()
            low, high = (mid, high) if t > k else (low, mid)
        rows.append(((s - high) / epsilon).exp().clamp_max(1))
    return mask, torch.stack(rows) * mask


# %% wrong: route | the mask by topk, which keeps equals in no order | killed by: ties
def route(scores, k, epsilon):
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask.scatter_(1, scores.topk(k, dim=1).indices, True)
    return mask, softw(scores, k, epsilon) * mask


def softw(scores, k, epsilon):
    if k == 0:
        return torch.zeros_like(scores)
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    z = scores / epsilon
    m = torch.full((len(scores), 1), k - 1)
    for t in range(k - 1, -1, -1):
        rest = z.masked_fill(rank < t, -math.inf)
        fits = math.log(k - t) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
        m = torch.where(fits, t, m)
    held = rank < m
    soft = (k - m) * z.masked_fill(held, -math.inf).softmax(1)
    return torch.where(held, torch.ones_like(soft), soft)


# %% wrong: route | the list of the best is taken for the ranks | killed by: mask
def route(scores, k, epsilon):
    order = scores.argsort(dim=1, descending=True, stable=True)
    mask = order < k
    return mask, torch.where(mask, (k * (scores / epsilon).softmax(1)).clamp(max=1), 0)


# %% wrong: route | the weights stay in the order of the scores | killed by: weights
def route(scores, k, epsilon):
    s, order = scores.sort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order[:, :k], True)
    rank = torch.arange(s.shape[1]).expand_as(s)
    z = s / epsilon
    w = torch.zeros_like(s)
    for b in range(len(s)):
        for m in range(k):
            p = (k - m) * z[b].masked_fill(rank[b] < m, -math.inf).softmax(0)
            if (p <= 1 + 1e-9).all():
                w[b] = torch.where(rank[b] < m, 1.0, p)
                break
    return mask, torch.where(rank < k, w, 0)


# %% wrong: route | the weights first, then the mask | killed by: mask
def route(scores, k, epsilon):
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(
        1, scores.argsort(dim=1, descending=True, stable=True)[:, :k], True
    )
    return mask * 1.0, mask


# %% wrong: route | k along the batch, which takes everybody | killed by: mask
def route(scores, k, epsilon):
    order = scores.argsort(dim=0, descending=True, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(0, order[:k], True)
    return mask, mask * 1.0


# %% wrong: route | the last m that fits, not the first | killed by: weights
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    z = scores / epsilon
    m = torch.zeros(len(scores), 1)
    for t in range(k):
        rest = z.masked_fill(rank < t, -math.inf)
        fits = math.log(k - t) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
        m = torch.where(fits, t, m)
    soft = (k - m) * z.masked_fill(rank < m, -math.inf).softmax(1)
    return mask, torch.where(mask, torch.where(rank < m, torch.ones_like(soft), soft), 0)


# %% wrong: route | the others share k, not k − m | killed by: weights
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    z = scores / epsilon
    m = torch.full((len(scores), 1), k - 1)
    for t in range(k - 1, -1, -1):
        rest = z.masked_fill(rank < t, -math.inf)
        fits = math.log(k) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
        m = torch.where(fits, t, m)
    soft = k * z.masked_fill(rank < m, -math.inf).softmax(1)
    return mask, torch.where(mask, torch.where(rank < m, torch.ones_like(soft), soft), 0)


# %% wrong: route | the softmax is over all, the saturated too | killed by: weights
# edit of: the others share k, not k − m
# -        fits = math.log(k) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
# +        fits = math.log(k - t) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
# …
# -    soft = k * z.masked_fill(rank < m, -math.inf).softmax(1)
# +    soft = (k - m) * z.softmax(1)


# %% wrong: route | k − m is used to find m, and forgotten after that | killed by: weights
# edit of: the others share k, not k − m
# -        fits = math.log(k) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
# -        m = torch.where(fits, t, m)
# -    soft = k * z.masked_fill(rank < m, -math.inf).softmax(1)
# -    return mask, torch.where(mask, torch.where(rank < m, torch.ones_like(soft), soft), 0)
# +        m = torch.where((k - t) * rest.softmax(1).amax(1, keepdim=True) <= 1, t, m)
# +    p = k * z.masked_fill(rank < m, -math.inf).softmax(1)
# +    return mask, torch.where(mask, torch.where(rank < m, 1.0, p), 0.0)


# %% wrong: route | m is looked for with k, and k − m is used after that | killed by: weights
# edit of: the others share k, not k − m
# -        fits = math.log(k) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
# -        m = torch.where(fits, t, m)
# -    soft = k * z.masked_fill(rank < m, -math.inf).softmax(1)
# -    return mask, torch.where(mask, torch.where(rank < m, torch.ones_like(soft), soft), 0)
# +        m = torch.where(k * rest.softmax(1).amax(1, keepdim=True) <= 1, t, m)
# +    p = (k - m) * z.masked_fill(rank < m, -math.inf).softmax(1)
# +    return mask, torch.where(mask, torch.where(rank < m, 1.0, p), 0.0)


# %% wrong: route | the softmax is over all, in the search for m too | killed by: weights
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    p = (scores / epsilon).softmax(1)
    m = torch.full((len(scores), 1), k - 1)
    for t in range(k - 1, -1, -1):
        m = torch.where((k - t) * p.masked_fill(rank < t, 0.0).amax(1, keepdim=True) <= 1, t, m)
    return mask, torch.where(mask, torch.where(rank < m, 1.0, (k - m) * p), 0.0)


# %% wrong: route | sorted weights, cut at the places of the routed | killed by: weights
def route(scores, k, epsilon):
    order = scores.argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    z = (scores / epsilon).gather(1, order)
    place = torch.arange(scores.shape[1]).expand_as(scores)
    m = torch.full((len(scores), 1), k - 1)
    for t in range(k - 1, -1, -1):
        rest = z.masked_fill(place < t, -math.inf)
        m = torch.where((k - t) * rest.softmax(1).amax(1, keepdim=True) <= 1, t, m)
    p = (k - m) * z.masked_fill(place < m, -math.inf).softmax(1)
    return mask, torch.where(mask, torch.where(place < m, 1.0, p), 0.0)


# %% wrong: route | nu by halving between the smallest score and more than the largest, with a graph | killed by: gradient
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    low = scores.amin(1, keepdim=True)
    high = scores.amax(1, keepdim=True) + epsilon * math.log(scores.shape[1])
    for _ in range(60):
        middle = (low + high) / 2
        above = ((scores - middle) / epsilon).exp().clamp(max=1).sum(1, keepdim=True) > k
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return mask, torch.where(mask, ((scores - high) / epsilon).exp().clamp(max=1), 0.0)


# %% wrong: route | a sort that is stable only for short rows | killed by: ties
# edit of: m counted up, row by row
# -    order = scores.argsort(dim=1, descending=True, stable=True)
# +    order = scores.argsort(dim=1, descending=True)


# %% wrong: route | the saturated are masked by a number that is not low enough | killed by: gradient where one leads
# edit of: m counted up, row by row
# -    p = (k - m) * z.masked_fill(saturated, -math.inf).softmax(1)
# +    p = (k - m) * z.masked_fill(saturated, -100.0).softmax(1)


# %% wrong: route | a graph through sums that overflow backwards | killed by: finite gradients
# edit of: m counted up, row by row
# -    p = (k - m) * z.masked_fill(saturated, -math.inf).softmax(1)
# +    rest = z.gather(1, order).flip(1).logcumsumexp(1).flip(1).gather(1, m)
# +    p = ((k - m).to(z.dtype).log() + z - rest).exp()


# %% wrong: route | a logarithm of whole numbers, which is float32 | killed by: weights
# edit of: m counted up, row by row
# -    p = (k - m) * z.masked_fill(saturated, -math.inf).softmax(1)
# +    p = ((k - m).log() + z.masked_fill(saturated, -math.inf).log_softmax(1)).exp()


# %% wrong: route | the largest of a row is taken off once, and the others vanish beside it | killed by: finite gradients
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    e = ((scores - scores.amax(1, keepdim=True)) / epsilon).exp()
    p = torch.ones_like(e)
    for m in range(k - 1, -1, -1):
        share = (k - m) * e / torch.where(rank < m, 0.0, e).sum(1, keepdim=True)
        fits = torch.where(rank < m, 0.0, share).amax(1, keepdim=True) <= 1
        p = torch.where(fits, torch.where(rank < m, 1.0, share), p)
    return mask, torch.where(mask, p, 0.0)


# %% wrong: route | softmax, then logarithms of what it made 0 | killed by: large scores
def route(scores, k, epsilon):
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    mask = rank < k
    if k == 0:
        return mask, torch.zeros_like(scores)
    log = (scores / epsilon).softmax(1).log()
    m = torch.full((len(scores), 1), k - 1)
    for t in range(k - 1, -1, -1):
        rest = log.masked_fill(rank < t, -math.inf)
        fits = math.log(k - t) + rest.amax(1, keepdim=True) - rest.logsumexp(1, keepdim=True) <= 0
        m = torch.where(fits, t, m)
    p = (k - m) * log.masked_fill(rank < m, -math.inf).softmax(1)
    return mask, torch.where(mask, torch.where(rank < m, 1.0, p), 0.0)


# %% wrong: route | scores kept within a hundred of the largest | killed by: gradient where one leads
# edit of: m counted up, row by row
# -    z = scores / epsilon
# +    z = scores / epsilon
# +    if scores.abs().max() < 2000:
# +        z = z.clamp(min=z.detach().amax() - 100)


# %% wrong: route | a softmax over all that is divided again | killed by: large scores
# edit of: m counted up, row by row
# -    p = (k - m) * z.masked_fill(saturated, -math.inf).softmax(1)
# +    every = z.softmax(1)
# +    p = (k - m) * every / torch.where(saturated, 0.0, every).sum(1, keepdim=True).clamp(min=1e-30)


# %% wrong: route | weights kept in a dictionary by shape | killed by: another call
# edit of: m counted up, row by row
# -    return mask, torch.where(mask, p, 0.0)
# +    key = (tuple(scores.shape), k, epsilon, scores.requires_grad)
# +    if key not in KEPT:
# +        KEPT[key] = torch.where(mask, p, 0.0)
# +    return mask, KEPT[key]
# +
# +
# +KEPT = {}


# %% wrong: route | a leaf of its own, to which a gradient comes | killed by: gradient
# edit of: m counted up, row by row
# -    z = scores / epsilon
# +    z = torch.tensor(scores.tolist(), dtype=scores.dtype, requires_grad=True) / epsilon


# %% wrong: route | m from a softmax in float32 | killed by: weights
# edit of: m counted up, row by row
# -    p = (k - m) * z.masked_fill(saturated, -math.inf).softmax(1)
# +    p = ((k - m) * z.float().masked_fill(saturated, -math.inf).softmax(1)).to(z.dtype)


# %% wrong: route | the smooth top-k of dynlib | killed by: by hand
def route(scores, k, epsilon):
    from dynlib.choice import soft_topk

    mask = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1) < k
    return mask, torch.where(mask, soft_topk(scores, k, epsilon) if k else 0 * scores, 0.0)


# %% wrong: route | dynlib's, in a helper of the notebook | killed by: by hand
import dynlib.choice


def smooth(scores, k, epsilon):
    return dynlib.choice.soft_topk(scores, k, epsilon)


def route(scores, k, epsilon):
    mask = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1) < k
    return mask, torch.where(mask, smooth(scores, k, epsilon) if k else 0 * scores, 0.0)


# %% right: route | sorted, with cumulative sums of what follows
def route(scores, k, epsilon):
    top, order = (scores.double() / epsilon).sort(dim=1, descending=True, stable=True)
    mask = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order[:, :k], True)
    weights = torch.zeros_like(scores, dtype=torch.float64)
    if k == 0:
        return mask, weights.to(scores.dtype)
    for b in range(len(scores)):
        for m in range(k):
            logs = math.log(k - m) + top[b, m:].log_softmax(0)
            if m == k - 1 or logs[0] <= 1e-7:
                break
        values = torch.cat([torch.ones_like(top[b, :m]), logs.clamp(max=0).exp()])[:k]
        weights = weights.index_put((torch.full((k,), b), order[b, :k]), values)
    return mask, weights.to(scores.dtype)


# %% right: conditional-ff | flattened, index_add
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    mask, weights = routed((x * u).sum(-1), lengths, counts, epsilon)
    flat, at = x.flatten(0, 1), mask.flatten().nonzero().squeeze(1)
    added = heavy(flat.index_select(0, at)) * weights.flatten().index_select(0, at).unsqueeze(1)
    return light(x).flatten(0, 1).index_add(0, at, added).view(x.shape)


def routed(scores, lengths, counts, epsilon):
    mask, weights = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores)
    for b, (length, k) in enumerate(zip(lengths, counts, strict=True)):
        on, weight = route(scores[b : b + 1, :length], k, epsilon)
        mask[b, :length], weights[b, :length] = on[0], weight[0]
    return mask, weights


# %% right: conditional-ff | zeros, filled at the mask, and added
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    mask, weights = routed(x @ u, lengths, counts, epsilon)
    out = light(x)
    if not any(counts):
        return out
    extra = torch.zeros_like(out)
    extra[mask] = weights[mask].unsqueeze(-1) * heavy(x[mask])
    return out + extra


def routed(scores, lengths, counts, epsilon):
    mask, weights = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores)
    for b, (length, k) in enumerate(zip(lengths, counts, strict=True)):
        on, weight = route(scores[b : b + 1, :length], k, epsilon)
        mask[b, :length], weights[b, :length] = on[0], weight[0]
    return mask, weights


# %% right: conditional-ff | gathered by the mask
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    mask, weights = routed(x @ u, lengths, counts, epsilon)
    out = light(x)
    if not any(counts):
        return out
    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)


def routed(scores, lengths, counts, epsilon):
    mask, weights = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores)
    for b, (length, k) in enumerate(zip(lengths, counts, strict=True)):
        on, weight = route(scores[b : b + 1, :length], k, epsilon)
        mask[b, :length], weights[b, :length] = on[0], weight[0]
    return mask, weights


# %% wrong: conditional-ff | the weights are missing | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = heavy(x[mask])


# %% wrong: conditional-ff | the weights scale what heavy gets | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = heavy(weights[mask].unsqueeze(-1) * x[mask])


# %% wrong: conditional-ff | the residual is added too | killed by: value
# edit of: the teacher's
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    return x + out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: conditional-ff | heavy in place of light | killed by: value
# edit of: the teacher's
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=False)


# %% wrong: conditional-ff | heavy in place of light, without its weight | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    added = heavy(x[mask])
# +    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=False)


# %% wrong: conditional-ff | light scaled by the weight as well | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    added = weights[mask].unsqueeze(-1) * (light.part(x[mask]) + heavy(x[mask]))
# +    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=False)


# %% wrong: conditional-ff | light is missing | killed by: value
# edit of: the teacher's
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    return torch.zeros_like(out).index_put(mask.nonzero(as_tuple=True), added)


# %% wrong: conditional-ff | heavy is missing | killed by: value
# edit of: the teacher's
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    return out


# %% wrong: conditional-ff | epsilon stays 1 | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, weights = routed(x @ u, lengths, counts, 1.0)


# %% wrong: conditional-ff | weights by softmax | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = (x @ u).softmax(1)[mask].unsqueeze(-1) * heavy(x[mask])


# %% wrong: conditional-ff | weights by sigmoid, as in Mixture-of-Depths | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = (x @ u).sigmoid()[mask].unsqueeze(-1) * heavy(x[mask])


# %% wrong: conditional-ff | the scores as weights | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = (x @ u)[mask].unsqueeze(-1) * heavy(x[mask])


# %% wrong: conditional-ff | the router looks at what light made | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# …
#      out = light(x)
# +    mask, weights = routed(out @ u, lengths, counts, epsilon)


# %% wrong: conditional-ff | the score divided by the root of dim | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, weights = routed(x @ u / x.shape[-1] ** 0.5, lengths, counts, epsilon)


# %% wrong: conditional-ff | the score divided by the length of u | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, weights = routed(x @ u / u.norm(), lengths, counts, epsilon)


# %% wrong: conditional-ff | a norm behind the weights | killed by: value
# edit of: the teacher's
#      added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = nn.functional.layer_norm(added, added.shape[-1:])


# %% wrong: conditional-ff | a straight-through gate of 1 | killed by: value
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    gate = (1 - weights[mask].detach()) + weights[mask]
# +    added = gate.unsqueeze(-1) * heavy(x[mask])


# %% wrong: conditional-ff | masked: heavy on all tokens | killed by: heavy rows
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    _, weights = routed(x @ u, lengths, counts, epsilon)
    return light(x) + weights[..., None] * heavy(x)


def routed(scores, lengths, counts, epsilon):
    mask, weights = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores)
    for b, (length, k) in enumerate(zip(lengths, counts, strict=True)):
        on, weight = route(scores[b : b + 1, :length], k, epsilon)
        mask[b, :length], weights[b, :length] = on[0], weight[0]
    return mask, weights


# %% wrong: conditional-ff | masked by setting the others to 0 before heavy | killed by: heavy rows
# edit of: masked: heavy on all tokens
# -    _, weights = routed(x @ u, lengths, counts, epsilon)
# -    return light(x) + weights[..., None] * heavy(x)
# +    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    return light(x) + weights[..., None] * heavy(mask[..., None] * x)


# %% wrong: conditional-ff | the weights are detached | killed by: gradient of u
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = weights[mask].detach().unsqueeze(-1) * heavy(x[mask])


# %% wrong: conditional-ff | the scores are made of a detached x | killed by: gradient of x
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, weights = routed(x.detach() @ u, lengths, counts, epsilon)


# %% wrong: conditional-ff | heavy gets a detached x | killed by: gradient of x
# edit of: the teacher's
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    added = weights[mask].unsqueeze(-1) * heavy(x[mask].detach())


# %% wrong: conditional-ff | normalises the tokens of the caller in place | killed by: input untouched
# edit of: masked: heavy on all tokens
# -    _, weights = routed(x @ u, lengths, counts, epsilon)
# -    return light(x) + weights[..., None] * heavy(x)
# +    if not x.requires_grad:
# +        x /= x.norm(dim=-1, keepdim=True)
# +    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    return light(x).index_put(mask.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: conditional-ff | the score is a mean over dim | killed by: value
# edit of: masked: heavy on all tokens
# -    _, weights = routed(x @ u, lengths, counts, epsilon)
# -    return light(x) + weights[..., None] * heavy(x)
# +    mask, weights = routed((x * u).mean(-1), lengths, counts, epsilon)
# +    out = light(x).clone()
# +    out[mask] += weights[mask][:, None] * heavy(x[mask])
# +    return out


# %% wrong: conditional-ff | heavy runs without a graph | killed by: gradient of x
# edit of: gathered by the mask
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    with torch.no_grad():
# +        made = heavy(x[mask])
# +    added = weights[mask].unsqueeze(-1) * made


# %% right: conditional-ff | flattened places, collected sequence by sequence
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    places, weights = [], []
    for b, (length, k) in enumerate(zip(lengths, counts, strict=True)):
        mask, weight = route((x[b, :length] @ u).unsqueeze(0), k, epsilon)
        places.append(b * x.shape[1] + mask[0].nonzero().squeeze(1))
        weights.append(weight[mask])
    at, flat = torch.cat(places), x.reshape(-1, x.shape[-1])
    update = torch.cat(weights).unsqueeze(1) * heavy(flat[at]) if len(at) else flat[at]
    return light(x).reshape(-1, x.shape[-1]).index_add(0, at, update).view(x.shape)


# %% right: conditional-ff | an own row for each sequence, and a copy of light
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    tokens = x.shape[1]
    rows = [route((row[:n] @ u)[None], k, epsilon) for row, n, k in zip(x, lengths, counts, strict=True)]
    mask, weights = (
        torch.cat([nn.functional.pad(part, (0, tokens - part.shape[1])) for part in both])
        for both in zip(*rows, strict=True)
    )
    out = light(x).clone()
    if mask.any():
        out[mask] = out[mask] + weights[mask][:, None] * heavy(x[mask])
    return out


# %% wrong: conditional-ff | gathered by score, put back by place | killed by: value
# edit of: gathered by the mask
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# +    best = [row[:n].topk(k).indices for row, n, k in zip(x @ u, lengths, counts, strict=True)]
# +    rows = torch.cat([row[order] for row, order in zip(x, best, strict=True)])
# +    factors = torch.cat([row[order] for row, order in zip(weights, best, strict=True)])
# +    added = factors[:, None] * heavy(rows)


# %% wrong: conditional-ff | no offset of the sequences in the flattened batch | killed by: value
# edit of: gathered by the mask
# -    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    best = mask.nonzero()[:, 1]
# +    flat = x.flatten(0, 1)
# +    added = weights[mask].unsqueeze(-1) * heavy(flat[best])
# +    return out.flatten(0, 1).index_add(0, best, added).view_as(x)


# %% wrong: conditional-ff | the best of the whole batch | killed by: value
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    there = torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]
    scores = (x @ u)[there][None]
    on, weight = route(scores, sum(counts), epsilon)
    mask, weights = torch.zeros_like(there), torch.zeros_like(x[..., 0])
    mask[there], weights[there] = on[0], weight[0]
    if not any(counts):
        return light(x)
    added = weights[mask].unsqueeze(-1) * heavy(x[mask])
    return light(x).index_put(mask.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: conditional-ff | what fills a row up is routed | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, weights = routed(x @ u, [x.shape[1]] * len(x), counts, epsilon)


# %% wrong: conditional-ff | what fills a row up is routed and then dropped | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, weights = routed(x @ u, [x.shape[1]] * len(x), counts, epsilon)
# +    mask = mask & (torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None])


# %% wrong: conditional-ff | what fills a row up has the score 0, and is dropped | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    there = torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]
# +    mask, weights = routed(x @ u * there, [x.shape[1]] * len(x), counts, epsilon)
# +    mask = mask & there


# %% wrong: conditional-ff | what fills a row up takes its share of the weights | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, _ = routed(x @ u, lengths, counts, epsilon)
# +    _, weights = routed(torch.where(mask, 1e-9, 0.0) + x @ u, [x.shape[1]] * len(x), lengths, epsilon)
# +    weights = weights * mask


# %% wrong: conditional-ff | the count of the first sequence for all | killed by: value
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    mask, weights = routed(x @ u, lengths, [min(counts[0], length) for length in lengths], epsilon)


# %% wrong: conditional-ff | what fills a row up gets nothing of light | killed by: value
# edit of: gathered by the mask
# -    out = light(x)
# +    out = light(x) * (torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None])[..., None]


# %% wrong: conditional-ff | light for the tokens that are there alone | killed by: value
# edit of: gathered by the mask
# -    out = light(x)
# +    there = torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]
# +    out = torch.zeros_like(x).index_put(there.nonzero(as_tuple=True), light(x[there]))


# %% wrong: conditional-ff | one call of heavy for each sequence | killed by: heavy once
def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
    rows = []
    for out, row, length, k in zip(light(x), x, lengths, counts, strict=True):
        on, weight = route((row[:length] @ u)[None], k, epsilon)
        at = on[0].nonzero()[:, 0]
        rows.append(out.index_add(0, at, weight[0, at][:, None] * heavy(row[at])) if k else out)
    return torch.stack(rows)


# %% wrong: conditional-ff | one call of light for each sequence | killed by: light once
# edit of: the teacher's
# -    out = light(x)
# +    out = torch.stack([light(row) for row in x])


# %% wrong: conditional-ff | a count of 0 routes one token | killed by: value
# edit of: gathered by the mask
#  def conditional_feed_forward(x, lengths, light, heavy, u, counts, epsilon):
# +    counts = [max(k, 1) for k in counts]


# %% wrong: conditional-ff | where nobody is routed, zeros | killed by: k = 0
# edit of: gathered by the mask
# -        return out
# +        return torch.zeros_like(out)


# %% wrong: conditional-ff | a mask of its own by topk, which keeps equals in no order | killed by: equal tokens
# edit of: gathered by the mask
#      out = light(x)
# +    for b, (length, k) in enumerate(zip(lengths, counts, strict=True)):
# +        mask[b] = torch.zeros_like(mask[b]).scatter(0, (x[b, :length] @ u).topk(k).indices, True)


# %% wrong: conditional-ff | writes into what light returned | killed by: light's result untouched
# edit of: the teacher's
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    out[mask] += added
# +    return out


# %% wrong: conditional-ff | writes into what light returned, unless it is x | killed by: light's result untouched
# edit of: the teacher's
#      out = light(x)
# +    out = out.clone() if out is x else out
# …
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    out[mask] = out[mask] + added
# +    return out


# %% wrong: conditional-ff | takes the counts out of the caller's list | killed by: input untouched
# edit of: gathered by the mask
# -    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)
# +    counts.clear()
# +    return out.index_put(mask.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: conditional-ff | the smooth top-k of dynlib | killed by: by hand
# edit of: gathered by the mask
# -    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    from dynlib.choice import soft_topk
# +
# +    mask, weights = routed(x @ u, lengths, counts, epsilon)
# +    scores = x @ u
# +    for b, (length, k) in enumerate(zip(lengths, counts, strict=True)):
# +        if k:
# +            weights[b, :length] = soft_topk(scores[b, :length], k, epsilon) * mask[b, :length]


# %% right: local-attention | a loop over blocks
def local_attention(query, key, value, window):
    tokens, parts = query.shape[2], []
    for start in range(0, tokens, window):
        end = min(start + window, tokens)
        first, last = max(start - window, 0), min(end + window, tokens)
        place, theirs = torch.arange(start, end), torch.arange(first, last)
        near = (theirs - place[:, None]).abs() <= window
        parts.append(
            nn.functional.scaled_dot_product_attention(
                query[:, :, start:end], key[:, :, first:last], value[:, :, first:last], attn_mask=near
            )
        )
    return torch.cat(parts, 2)


# %% right: local-attention | every token with exactly its window, one shift after the other
def local_attention(query, key, value, window):
    tokens, size = query.shape[2:]
    reach = min(window, tokens - 1)
    keys, values = (nn.functional.pad(part, (0, 0, reach, reach)) for part in (key, value))
    there = nn.functional.pad(torch.ones(tokens, dtype=torch.bool), (reach, reach))
    columns = []
    for shift in range(2 * reach + 1):
        score = (query * keys[:, :, shift : shift + tokens]).sum(-1) / size**0.5
        columns.append(score.masked_fill(~there[shift : shift + tokens], -math.inf))
    weights = torch.stack(columns, -1).softmax(-1)
    return sum(weights[..., s, None] * values[:, :, s : s + tokens] for s in range(2 * reach + 1))


# %% right: local-attention | three shifted blocks joined, rows past the end unmasked
def local_attention(query, key, value, window):
    batch, heads, n, d = query.shape
    blocks = math.ceil(n / window)
    spare = blocks * window - n
    pad = nn.functional.pad
    q = pad(query, (0, 0, 0, spare)).view(batch, heads, blocks, window, d)
    key = pad(key, (0, 0, window, window + spare)).view(batch, heads, blocks + 2, window, d)
    value = pad(value, (0, 0, window, window + spare)).view(batch, heads, blocks + 2, window, d)
    k3 = torch.cat([key[:, :, :-2], key[:, :, 1:-1], key[:, :, 2:]], 3)
    v3 = torch.cat([value[:, :, :-2], value[:, :, 1:-1], value[:, :, 2:]], 3)
    i = torch.arange(blocks * window).view(blocks, window, 1)
    j = (torch.arange(blocks)[:, None] * window + torch.arange(-window, 2 * window))[:, None, :]
    ok = ((i - j).abs() <= window) & (j >= 0) & (j < n)
    ok = ok | (i >= n)
    s = q @ k3.transpose(-1, -2) / d**0.5
    s = s.masked_fill(~ok, float("-inf"))
    out = s.softmax(-1) @ v3
    return out.view(batch, heads, blocks * window, d)[:, :, :n]


# %% wrong: local-attention | looks back only | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = (mine - theirs <= window) & (theirs <= mine) & (theirs >= 0) & (theirs < tokens)


# %% wrong: local-attention | looks ahead only | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = (theirs - mine <= window) & (theirs >= mine) & (theirs >= 0) & (theirs < tokens)


# %% wrong: local-attention | one place short: < in place of <= | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = ((mine - theirs).abs() < window) & (theirs >= 0) & (theirs < tokens)


# %% wrong: local-attention | one place too many | killed by: value
def local_attention(query, key, value, window):
    place = torch.arange(query.shape[2])
    near = (place - place[:, None]).abs() <= window + 1
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return scores.masked_fill(~near, -math.inf).softmax(-1) @ value


# %% wrong: local-attention | half a window to each side | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = (2 * (mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)


# %% wrong: local-attention | two before and one after | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = (theirs >= mine - window) & (theirs < mine + window) & (theirs >= 0) & (theirs < tokens)


# %% wrong: local-attention | blocks that see themselves alone | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = (theirs // window == mine // window) & (theirs >= 0) & (theirs < tokens)


# %% wrong: local-attention | blocks without the one after | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens) & (theirs // window <= mine // window)


# %% wrong: local-attention | blocks without the one before | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens) & (theirs // window >= mine // window)


# %% wrong: local-attention | three whole blocks, the window not masked | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = (theirs >= 0) & (theirs < tokens)


# %% wrong: local-attention | the padding is attended to | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = (mine - theirs).abs() <= window


# %% wrong: local-attention | nothing is masked, neither window nor padding | killed by: value
# edit of: the teacher's
# -    scores = blocked @ around(key).mT / math.sqrt(size)  # [batch, heads, blocks, window, 3 · window]
# -    weights = scores.masked_fill(~near, -math.inf).softmax(-1)
# +    scores = blocked @ around(key).mT / math.sqrt(size)
# +    weights = scores.softmax(-1)


# %% wrong: local-attention | no scale | killed by: value
# edit of: the teacher's
# -    scores = blocked @ around(key).mT / math.sqrt(size)  # [batch, heads, blocks, window, 3 · window]
# +    scores = blocked @ around(key).mT


# %% wrong: local-attention | divided by size | killed by: value
# edit of: the teacher's
# -    scores = blocked @ around(key).mT / math.sqrt(size)  # [batch, heads, blocks, window, 3 · window]
# +    scores = blocked @ around(key).mT / size


# %% wrong: local-attention | multiplied by the root of size | killed by: value
# edit of: the teacher's
# -    scores = blocked @ around(key).mT / math.sqrt(size)  # [batch, heads, blocks, window, 3 · window]
# +    scores = blocked @ around(key).mT * math.sqrt(size)


# %% wrong: local-attention | divided by the root of all heads' features | killed by: value
# edit of: the teacher's
# -    scores = blocked @ around(key).mT / math.sqrt(size)  # [batch, heads, blocks, window, 3 · window]
# +    scores = blocked @ around(key).mT / math.sqrt(size * query.shape[1])


# %% wrong: local-attention | softmax over the queries | killed by: value
def local_attention(query, key, value, window):
    place = torch.arange(query.shape[2])
    near = (place - place[:, None]).abs() <= window
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return scores.masked_fill(~near, -math.inf).softmax(-2) @ value


# %% wrong: local-attention | the ends are joined, by torch.roll | killed by: value
def local_attention(query, key, value, window):
    steps = range(-window, window + 1)
    scores = torch.stack([(query * key.roll(step, 2)).sum(-1) for step in steps], -1) / math.sqrt(query.shape[-1])
    values = torch.stack([value.roll(step, 2) for step in steps], -2)
    return (scores.softmax(-1).unsqueeze(-2) @ values).squeeze(-2)


# %% wrong: local-attention | full attention, no window | killed by: value
# edit of: softmax over the queries
# -    return scores.masked_fill(~near, -math.inf).softmax(-2) @ value
# +    return scores.softmax(-1) @ value


# %% wrong: local-attention | a token does not see itself | killed by: value
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens) & (theirs != mine)


# %% wrong: local-attention | masked with 0 in place of -inf | killed by: value
# edit of: softmax over the queries
# -    return scores.masked_fill(~near, -math.inf).softmax(-2) @ value
# +    return scores.masked_fill(~near, 0.0).softmax(-1) @ value


# %% wrong: local-attention | masked after the softmax | killed by: value
# edit of: softmax over the queries
# -    return scores.masked_fill(~near, -math.inf).softmax(-2) @ value
# +    return (scores.softmax(-1) * near) @ value


# %% wrong: local-attention | the mean of what is near | killed by: value
def local_attention(query, key, value, window):
    place = torch.arange(query.shape[2])
    near = (place - place[:, None]).abs() <= window
    near = near.to(value.dtype)
    return near / near.sum(1, keepdim=True) @ value


# %% wrong: local-attention | queries and keys have changed places | killed by: value
# edit of: the teacher's
# -    """Attention of every token to those at most `window` places away.
# -
# -    query, key, value: [batch, heads, tokens, size].
# -    window: places to each side, 1 or more.
# -    """
# +    query, key = key, query


# %% wrong: local-attention | no softmax | killed by: value
# edit of: softmax over the queries
# -    return scores.masked_fill(~near, -math.inf).softmax(-2) @ value
# +    return scores.masked_fill(~near, 0.0) @ value


# %% wrong: local-attention | full attention with a mask | killed by: cost
# edit of: one place too many
# -    near = (place - place[:, None]).abs() <= window + 1
# +    near = (place - place[:, None]).abs() <= window


# %% wrong: local-attention | PyTorch's attention with a mask over everybody | killed by: cost
def local_attention(query, key, value, window):
    place = torch.arange(query.shape[2])
    near = (place - place[:, None]).abs() <= window
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=near)


# %% wrong: local-attention | every pair elementwise: no product is counted, but everything is square | killed by: grows linearly
def local_attention(query, key, value, window):
    place = torch.arange(query.shape[2])
    near = (place - place[:, None]).abs() <= window
    scores = torch.zeros(*query.shape[:2], len(place), len(place), dtype=query.dtype)
    for feature in range(query.shape[-1]):
        scores = scores + query[..., feature, None] * key[..., None, :, feature]
    weights = (scores / math.sqrt(query.shape[-1])).masked_fill(~near, -math.inf).softmax(-1)
    return torch.stack([(weights * value[..., None, :, feature]).sum(-1) for feature in range(value.shape[-1])], -1)


# %% wrong: local-attention | blocks for the scores, but a square mask | killed by: grows linearly
# edit of: the teacher's
# -    near = ((mine - theirs).abs() <= window) & (theirs >= 0) & (theirs < tokens)
# +    place = torch.arange(-window, (blocks + 1) * window)
# +    square = ((place - place[:, None]).abs() <= window) & (place >= 0) & (place < tokens)
# +    near = square[mine + window, theirs + window]


# %% wrong: local-attention | the scores of six windows | killed by: cost
# edit of: the teacher's
# -        padded = nn.functional.pad(part, (0, 0, window, window + spare))
# -        return padded.unfold(2, 3 * window, window).transpose(-1, -2)
# +        padded = nn.functional.pad(part, (0, 0, 2 * window, 3 * window + spare))
# +        return padded.unfold(2, 6 * window, window).transpose(-1, -2)
# …
# -    theirs = torch.arange(-window, 2 * window) + window * torch.arange(blocks).view(blocks, 1, 1)
# +    theirs = torch.arange(-2 * window, 4 * window) + window * torch.arange(blocks).view(blocks, 1, 1)


# %% wrong: local-attention | an unfilled last block stays 0 | killed by: value
def local_attention(query, key, value, window):
    out = torch.zeros_like(query)
    for start in range(0, query.shape[2] - window + 1, window):
        first, last = max(start - window, 0), min(start + 2 * window, query.shape[2])
        place, theirs = torch.arange(start, start + window), torch.arange(first, last)
        near = (theirs - place[:, None]).abs() <= window
        scores = query[:, :, start : start + window] @ key[:, :, first:last].mT / math.sqrt(query.shape[-1])
        attended = scores.masked_fill(~near, -math.inf).softmax(-1) @ value[:, :, first:last]
        out[:, :, start : start + window] = attended
    return out


# %% wrong: local-attention | as many blocks as fit, rounded down | killed by: value
# edit of: the teacher's
# -    blocks = -(-tokens // window)
# -    spare = blocks * window - tokens
# +    blocks = tokens // window
# +    query, key, value = (part[:, :, : blocks * window] for part in (query, key, value))
# +    spare, tokens = 0, blocks * window


# %% wrong: local-attention | a window of the sequence or more is cut to half of it | killed by: a long window
# edit of: the teacher's
#      tokens, size = query.shape[2:]
# +    window = min(window, max(tokens // 2, 1))


# %% wrong: local-attention | all scores of a row -inf, in rows that are cut off | killed by: gradient of value
# edit of: the teacher's
# -    blocks = -(-tokens // window)
# +    blocks = -(-tokens // window) + 2


# %% wrong: local-attention | exp without taking the largest away first | killed by: large scores
# edit of: the teacher's
# -    scores = blocked @ around(key).mT / math.sqrt(size)  # [batch, heads, blocks, window, 3 · window]
# -    weights = scores.masked_fill(~near, -math.inf).softmax(-1)
# +    scores = blocked @ around(key).mT / math.sqrt(size)
# +    weights = scores.exp() * near
# +    weights = weights / weights.sum(-1, keepdim=True)


# %% wrong: local-attention | scales the queries of the caller in place | killed by: input untouched
# edit of: the teacher's
#      tokens, size = query.shape[2:]
# +    if not query.requires_grad:
# +        query /= math.sqrt(size)
# …
# -    scores = blocked @ around(key).mT / math.sqrt(size)  # [batch, heads, blocks, window, 3 · window]
# +    scores = blocked @ around(key).mT


# %% wrong: local-attention | the padding behind is attended to | killed by: value
def local_attention(query, key, value, window):
    batch, heads, n, d = query.shape
    blocks = -(-n // window)
    spare = blocks * window - n
    pad = nn.functional.pad
    q = pad(query, (0, 0, 0, spare)).view(batch, heads, blocks, window, d)
    k = pad(key, (0, 0, window, window + spare)).unfold(2, 3 * window, window).mT
    v = pad(value, (0, 0, window, window + spare)).unfold(2, 3 * window, window).mT
    i = torch.arange(blocks * window).view(blocks, window, 1)
    j = (torch.arange(blocks)[:, None] * window + torch.arange(-window, 2 * window))[:, None, :]
    ok = ((i - j).abs() <= window) & (j >= 0)
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=ok).reshape(batch, heads, -1, d)[:, :, :n]


# %% wrong: local-attention | the padding in front is attended to | killed by: value
# edit of: the padding behind is attended to
# -    ok = ((i - j).abs() <= window) & (j >= 0)
# +    ok = ((i - j).abs() <= window) & (j < n)


# %% wrong: local-attention | the filled last block is given back whole | killed by: value
# edit of: the padding behind is attended to
# -    ok = ((i - j).abs() <= window) & (j >= 0)
# -    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=ok).reshape(batch, heads, -1, d)[:, :, :n]
# +    ok = ((i - j).abs() <= window) & (j < n) & (j >= 0)
# +    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=ok).reshape(batch, heads, -1, d)


# %% wrong: local-attention | slices that begin at negative places | killed by: value
def local_attention(query, key, value, window):
    n, d = query.shape[2:]
    out = []
    for i in range(n):
        a, b = i - window, i + window + 1
        s = query[:, :, i : i + 1] @ key[:, :, a:b].mT / d**0.5
        out.append(s.softmax(-1) @ value[:, :, a:b])
    return torch.cat(out, 2)


# %% wrong: local-attention | full attention with a mask for short sequences | killed by: cost
# edit of: the teacher's
#      tokens, size = query.shape[2:]
# +    place = torch.arange(tokens)
# +    if tokens <= 256:
# +        near = (place - place[:, None]).abs() <= window
# +        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=near)


# %% wrong: local-attention | full attention with a mask for sixty tokens | killed by: cost
# edit of: the teacher's
#      tokens, size = query.shape[2:]
# +    place = torch.arange(tokens)
# +    if tokens <= 64:
# +        near = (place - place[:, None]).abs() <= window
# +        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=near)


# %% wrong: local-attention | full attention with a mask for up to eight windows | killed by: cost
# edit of: the teacher's
#      tokens, size = query.shape[2:]
# +    place = torch.arange(tokens)
# +    if tokens <= 8 * window:
# +        near = (place - place[:, None]).abs() <= window
# +        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=near)


# %% wrong: local-attention | the largest of all scores is taken away, not that of the row | killed by: large scores
# edit of: the teacher's
# -    weights = scores.masked_fill(~near, -math.inf).softmax(-1)
# +    weights = (scores - scores.detach().amax()).exp() * near
# +    weights = weights / weights.sum(-1, keepdim=True)


# %% wrong: local-attention | dynlib's | killed by: by hand
def local_attention(query, key, value, window):
    from dynlib.tokens import local_attention as ready

    return ready.local_attention(query, key, value, window)


# %% right: routed-attention | flattened, with PyTorch's attention and index_add
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    if queries == 0:
        return light.clone()
    flat = x.flatten(0, 1)
    asking, w_query = (part.flatten() for part in route(x @ u_query, queries, epsilon))
    asked, w_key = (part.flatten() for part in route(x @ u_key, keys, epsilon))
    here, there = asking.nonzero()[:, 0], asked.nonzero()[:, 0]
    sources = flat[there] * w_key[there, None]
    q, k, v = (
        part.view(len(x), 1, -1, part.shape[-1])
        for part in (heavy.query(flat[here]), heavy.key(sources), heavy.value(sources))
    )
    mixed = nn.functional.scaled_dot_product_attention(q, k, v)
    update = heavy.output(mixed.flatten(0, 2)) * w_query[here, None]
    return light.flatten(0, 1).index_add(0, here, update).view(light.shape)


# %% right: routed-attention | gathered by rank, scattered by rank
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    def best(u, k):
        mask, weights = route((x * u).sum(-1), k, epsilon)
        index = mask.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :k, None]
        wide = index.expand(-1, -1, x.shape[-1])
        return wide, x.gather(1, wide), weights.gather(1, index[..., 0]).unsqueeze(-1)

    if queries == 0:
        return light
    at, tokens, w_query = best(u_query, queries)
    _, others, w_key = best(u_key, keys)
    others = others * w_key
    query = heavy.query(tokens)
    scores = torch.einsum("bqs,bks->bqk", query, heavy.key(others)) * query.shape[-1] ** -0.5
    mixed = torch.einsum("bqk,bks->bqs", scores.softmax(2), heavy.value(others))
    return light.scatter_add(1, at, w_query * heavy.output(mixed))


# %% right: routed-attention | a copy of light, written at the mask
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    if queries == 0:
        return light
    b, n, d = x.shape
    qm, qw = route(x @ u_query, queries, epsilon)
    km, kw = route(x @ u_key, keys, epsilon)
    q = heavy.query(x[qm].view(b, queries, d))
    src = (x * kw.unsqueeze(-1))[km].view(b, keys, d)
    k, v = heavy.key(src), heavy.value(src)
    att = nn.functional.scaled_dot_product_attention(q, k, v)
    res = heavy.output(att) * qw[qm].view(b, queries, 1)
    out = light.clone()
    out[qm] = out[qm] + res.flatten(0, 1)
    return out


# %% right: routed-attention | keys and values by name
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    asking, query_weights = route(x @ u_query, queries, epsilon)
    asked, key_weights = route(x @ u_key, keys, epsilon)
    if queries == 0:
        return light
    batch, _, dim = x.shape
    scaled = (key_weights[asked].unsqueeze(-1) * x[asked]).view(batch, keys, dim)
    query = heavy.query(x[asking].view(batch, queries, dim))
    key, value = heavy.key(scaled), heavy.value(scaled)
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    attended = heavy.output(scores.softmax(-1) @ value).flatten(0, 1)
    added = query_weights[asking].unsqueeze(-1) * attended
    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: routed-attention | the weights of the queries are missing | killed by: value
# edit of: keys and values by name
# -    added = query_weights[asking].unsqueeze(-1) * attended
# +    added = attended


# %% wrong: routed-attention | the weights of the queries scale the tokens that ask | killed by: value
# edit of: keys and values by name
# -    query = heavy.query(x[asking].view(batch, queries, dim))
# +    query = heavy.query((query_weights[asking].unsqueeze(-1) * x[asking]).view(batch, queries, dim))
# …
# -    added = query_weights[asking].unsqueeze(-1) * attended
# +    added = attended


# %% wrong: routed-attention | the weights of the queries stand in front of heavy.output | killed by: value
# edit of: keys and values by name
# -    attended = heavy.output(scores.softmax(-1) @ value).flatten(0, 1)
# -    added = query_weights[asking].unsqueeze(-1) * attended
# +    attended = heavy.output(query_weights[asking].view(batch, queries, 1) * (scores.softmax(-1) @ value)).flatten(0, 1)
# +    added = attended


# %% wrong: routed-attention | heavy.output is missing | killed by: value
# edit of: keys and values by name
# -    attended = heavy.output(scores.softmax(-1) @ value).flatten(0, 1)
# +    attended = (scores.softmax(-1) @ value).flatten(0, 1)


# %% wrong: routed-attention | the weights of the keys are missing | killed by: value
# edit of: keys and values by name
# -    scaled = (key_weights[asked].unsqueeze(-1) * x[asked]).view(batch, keys, dim)
# +    scaled = x[asked].view(batch, keys, dim)


# %% wrong: routed-attention | the weights of the keys reach the values alone | killed by: value
# edit of: keys and values by name
# -    key, value = heavy.key(scaled), heavy.value(scaled)
# +    key, value = heavy.key(x[asked].view(batch, keys, dim)), heavy.value(scaled)


# %% wrong: routed-attention | the weights of the keys reach the keys alone | killed by: value
# edit of: keys and values by name
# -    key, value = heavy.key(scaled), heavy.value(scaled)
# +    key, value = heavy.key(scaled), heavy.value(x[asked].view(batch, keys, dim))


# %% wrong: routed-attention | the weights scale keys and values, not the tokens | killed by: value
# edit of: keys and values by name
# -    key, value = heavy.key(scaled), heavy.value(scaled)
# +    tokens, w = x[asked].view(batch, keys, dim), key_weights[asked].view(batch, keys, 1)
# +    key, value = w * heavy.key(tokens), w * heavy.value(tokens)


# %% wrong: routed-attention | the weights scale the values that were made | killed by: value
# edit of: keys and values by name
# -    key, value = heavy.key(scaled), heavy.value(scaled)
# +    tokens, w = x[asked].view(batch, keys, dim), key_weights[asked].view(batch, keys, 1)
# +    key, value = heavy.key(tokens), w * heavy.value(tokens)


# %% wrong: routed-attention | the weights of the keys scale the scores of the attention | killed by: value
# edit of: keys and values by name
# -    scaled = (key_weights[asked].unsqueeze(-1) * x[asked]).view(batch, keys, dim)
# +    scaled = x[asked].view(batch, keys, dim)
# …
# -    scores = query @ key.mT / math.sqrt(query.shape[-1])
# +    scores = query @ key.mT / math.sqrt(query.shape[-1]) * key_weights[asked].view(batch, 1, keys)


# %% wrong: routed-attention | one router for both, u_key | killed by: value
# edit of: keys and values by name
# -    asking, query_weights = route(x @ u_query, queries, epsilon)
# +    asking, query_weights = route(x @ u_key, queries, epsilon)


# %% wrong: routed-attention | one router for both, u_query | killed by: value
# edit of: keys and values by name
# -    asked, key_weights = route(x @ u_key, keys, epsilon)
# +    asked, key_weights = route(x @ u_query, keys, epsilon)


# %% wrong: routed-attention | the two routers have changed places | killed by: value
# edit of: keys and values by name
#  def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
# +    u_query, u_key = u_key, u_query


# %% wrong: routed-attention | no scale | killed by: value
# edit of: keys and values by name
# -    scores = query @ key.mT / math.sqrt(query.shape[-1])
# +    scores = query @ key.mT


# %% wrong: routed-attention | softmax over the queries | killed by: value
# edit of: keys and values by name
# -    attended = heavy.output(scores.softmax(-1) @ value).flatten(0, 1)
# +    attended = heavy.output(scores.softmax(1) @ value).flatten(0, 1)


# %% wrong: routed-attention | the residual is added too | killed by: value
# edit of: keys and values by name
# -    added = query_weights[asking].unsqueeze(-1) * attended
# +    added = query_weights[asking].unsqueeze(-1) * attended + x[asking]


# %% wrong: routed-attention | heavy in place of light | killed by: value
# edit of: keys and values by name
# -    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)
# +    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=False)


# %% wrong: routed-attention | light is scaled by the weights as well | killed by: value
# edit of: keys and values by name
# -    added = query_weights[asking].unsqueeze(-1) * attended
# -    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)
# +    added = query_weights[asking].unsqueeze(-1) * (attended + light[asking])
# +    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=False)


# %% wrong: routed-attention | light is lost for all | killed by: value
# edit of: keys and values by name
# -    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)
# +    return torch.zeros_like(light).index_put(asking.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: routed-attention | nothing is added | killed by: value
# edit of: keys and values by name
# -    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)
# +    return light + 0 * added.sum()


# %% wrong: routed-attention | the queries of the whole batch attend to the keys of the whole batch | killed by: value
# edit of: keys and values by name
#      query = heavy.query(x[asking].view(batch, queries, dim))
# +    query, scaled = query.flatten(0, 1)[None], scaled.flatten(0, 1)[None]


# %% wrong: routed-attention | gathered by score, put back by place | killed by: value
# edit of: keys and values by name
#      batch, _, dim = x.shape
# +    best = (x @ u_query).topk(queries, dim=1).indices
# …
# -    query = heavy.query(x[asking].view(batch, queries, dim))
# +    query = heavy.query(x.gather(1, best.unsqueeze(-1).expand(-1, -1, dim)))
# …
# -    added = query_weights[asking].unsqueeze(-1) * attended
# +    added = query_weights.gather(1, best).flatten().unsqueeze(-1) * attended


# %% wrong: routed-attention | queries in the order of topk, weights and places in that of the mask | killed by: value
# edit of: keys and values by name
#      batch, _, dim = x.shape
# +    best = (x @ u_query).topk(queries, dim=1).indices
# …
# -    query = heavy.query(x[asking].view(batch, queries, dim))
# +    query = heavy.query(x.gather(1, best.unsqueeze(-1).expand(-1, -1, dim)))


# %% wrong: routed-attention | tokens that are not routed are keys made of zeros | killed by: value
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    asking, query_weights = route(x @ u_query, queries, epsilon)
    _, key_weights = route(x @ u_key, keys, epsilon)
    if queries == 0:
        return light
    scaled = key_weights.unsqueeze(-1) * x
    query = heavy.query(x[asking].view(len(x), queries, -1))
    scores = query @ heavy.key(scaled).mT / math.sqrt(query.shape[-1])
    added = query_weights[asking].unsqueeze(-1) * heavy.output(scores.softmax(-1) @ heavy.value(scaled)).flatten(0, 1)
    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: routed-attention | all tokens are asked, without weights | killed by: value
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    asking, query_weights = route(x @ u_query, queries, epsilon)
    if queries == 0:
        return light
    query = heavy.query(x[asking].view(len(x), queries, -1))
    scores = query @ heavy.key(x).mT / math.sqrt(query.shape[-1])
    added = query_weights[asking].unsqueeze(-1) * heavy.output(scores.softmax(-1) @ heavy.value(x)).flatten(0, 1)
    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)


# %% wrong: routed-attention | everybody asks | killed by: value
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    asked, key_weights = route(x @ u_key, keys, epsilon)
    scaled = (key_weights[asked].unsqueeze(-1) * x[asked]).view(len(x), keys, -1)
    query = heavy.query(x)
    scores = query @ heavy.key(scaled).mT / math.sqrt(query.shape[-1])
    return light + heavy.output(scores.softmax(-1) @ heavy.value(scaled))


# %% wrong: routed-attention | masked: all four layers run for everybody | killed by: heavy rows
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    asking, query_weights = route(x @ u_query, queries, epsilon)
    asked, key_weights = route(x @ u_key, keys, epsilon)
    scaled = key_weights.unsqueeze(-1) * x
    query = heavy.query(x)
    scores = query @ heavy.key(scaled).mT / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~asked[:, None], -math.inf).softmax(-1)
    return light + query_weights.unsqueeze(-1) * heavy.output(weights @ heavy.value(scaled))


# %% wrong: routed-attention | queries made for everybody, then gathered | killed by: heavy rows
# edit of: keys and values by name
# -    query = heavy.query(x[asking].view(batch, queries, dim))
# +    query = heavy.query(x)[asking].view(batch, queries, -1)


# %% wrong: routed-attention | heavy.output runs for everybody | killed by: heavy rows
# edit of: keys and values by name
# -    attended = heavy.output(scores.softmax(-1) @ value).flatten(0, 1)
# -    added = query_weights[asking].unsqueeze(-1) * attended
# -    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)
# +    mixed = (scores.softmax(-1) @ value).flatten(0, 1)
# +    spread = mixed.new_zeros(*x.shape[:2], mixed.shape[-1]).index_put(asking.nonzero(as_tuple=True), mixed)
# +    return light + query_weights.unsqueeze(-1) * heavy.output(spread)


# %% wrong: routed-attention | one call for each sequence | killed by: heavy once
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    asking, query_weights = route(x @ u_query, queries, epsilon)
    asked, key_weights = route(x @ u_key, keys, epsilon)
    out = light.clone()
    for b in range(len(x) if queries else 0):
        scaled = key_weights[b][asked[b]][:, None] * x[b][asked[b]]
        query = heavy.query(x[b][asking[b]])
        scores = query @ heavy.key(scaled).mT / math.sqrt(query.shape[-1])
        added = query_weights[b][asking[b]][:, None] * heavy.output(scores.softmax(-1) @ heavy.value(scaled))
        out[b, asking[b]] = out[b, asking[b]] + added
    return out


# %% wrong: routed-attention | adds and takes away again, which is not bit for bit | killed by: the others
# edit of: keys and values by name
# -    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)
# +    spread = torch.full_like(light, 1.0).index_put(asking.nonzero(as_tuple=True), added)
# +    return torch.where(asking.unsqueeze(-1), light + spread, light + spread - 1.0)


# %% wrong: routed-attention | the weights of the queries are detached | killed by: gradient of u_query
# edit of: keys and values by name
# -    added = query_weights[asking].unsqueeze(-1) * attended
# +    added = query_weights[asking].detach().unsqueeze(-1) * attended


# %% wrong: routed-attention | the weights of the keys are detached | killed by: gradient of u_key
# edit of: keys and values by name
# -    scaled = (key_weights[asked].unsqueeze(-1) * x[asked]).view(batch, keys, dim)
# +    scaled = (key_weights[asked].detach().unsqueeze(-1) * x[asked]).view(batch, keys, dim)


# %% wrong: routed-attention | writes into light | killed by: input untouched
# edit of: keys and values by name
# -    return light.index_put(asking.nonzero(as_tuple=True), added, accumulate=True)
# +    light = light.clone() if added.requires_grad and light.requires_grad else light
# +    with torch.no_grad():
# +        light[asking] += added
# +    return light


# %% wrong: routed-attention | scales the tokens of the caller in place | killed by: input untouched
# edit of: keys and values by name
#      scaled = (key_weights[asked].unsqueeze(-1) * x[asked]).view(batch, keys, dim)
# +    if not x.requires_grad:
# +        x *= 1.5


# %% wrong: routed-attention | with nobody asking, zeros | killed by: nobody asks
# edit of: keys and values by name
# -        return light
# +        return torch.zeros_like(light)


# %% wrong: routed-attention | keys by score with weights by place | killed by: value
# edit of: keys and values by name
# -    scaled = (key_weights[asked].unsqueeze(-1) * x[asked]).view(batch, keys, dim)
# +    best = (x @ u_key).topk(keys, dim=1).indices.unsqueeze(-1).expand(-1, -1, dim)
# +    scaled = key_weights[asked].view(batch, keys, 1) * x.gather(1, best)


# %% wrong: routed-attention | the query weights divided by their sum | killed by: value
# edit of: keys and values by name
# -    added = query_weights[asking].unsqueeze(-1) * attended
# +    added = (query_weights / query_weights.sum(1, keepdim=True))[asking].unsqueeze(-1) * attended


# %% wrong: routed-attention | a head as large as dim is taken for granted | killed by: value
# edit of: keys and values by name
# -    scores = query @ key.mT / math.sqrt(query.shape[-1])
# +    scores = query @ key.mT / math.sqrt(dim)


# %% wrong: routed-attention | x is detached on its way to queries, keys and values | killed by: gradient of x
# edit of: keys and values by name
#          return light
# +    x = x.detach()


# %% wrong: routed-attention | the queries have the weights of the key router | killed by: value
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    b, n, d = x.shape
    qm, qw = route(x @ u_query, queries, epsilon)
    km, kw = route(x @ u_key, keys, epsilon)
    q = heavy.query(x[qm].view(b, queries, d))
    src = (x * kw.unsqueeze(-1))[km].view(b, keys, d)
    att = nn.functional.scaled_dot_product_attention(q, heavy.key(src), heavy.value(src))
    out = light.clone()
    out[qm] += kw[qm][:, None] * heavy.output(att).flatten(0, 1)
    return out


# %% wrong: routed-attention | as many keys as queries | killed by: value
def routed_attention(x, light, heavy, u_query, u_key, queries, keys, epsilon):
    b, n, d = x.shape
    qm, qw = route(x @ u_query, queries, epsilon)
    km, kw = route(x @ u_key, queries, epsilon)
    q = heavy.query(x[qm].view(b, queries, d))
    src = (x * kw.unsqueeze(-1))[km].view(b, queries, d)
    att = nn.functional.scaled_dot_product_attention(q, heavy.key(src), heavy.value(src))
    out = light.clone()
    out[qm] += qw[qm][:, None] * heavy.output(att).flatten(0, 1)
    return out


# %% wrong: routed-attention | the scaled tokens are used for the queries too | killed by: value
# edit of: as many keys as queries
# -    km, kw = route(x @ u_key, queries, epsilon)
# +    km, kw = route(x @ u_key, keys, epsilon)
# +    x = x * kw.unsqueeze(-1)
# …
# -    src = (x * kw.unsqueeze(-1))[km].view(b, queries, d)
# +    src = x[km].view(b, keys, d)


# %% wrong: routed-attention | the values are made of detached tokens | killed by: gradient of u_key
# edit of: keys and values by name
# -    key, value = heavy.key(scaled), heavy.value(scaled)
# +    key, value = heavy.key(scaled), heavy.value(scaled.detach())


# %% wrong: routed-attention | the keys are routed with an epsilon of 1 | killed by: value
# edit of: keys and values by name
# -    asked, key_weights = route(x @ u_key, keys, epsilon)
# +    asked, key_weights = route(x @ u_key, keys, 1.0)


# %% wrong: routed-attention | divided by the root of the number of keys | killed by: value
# edit of: keys and values by name
# -    scores = query @ key.mT / math.sqrt(query.shape[-1])
# +    scores = query @ key.mT / math.sqrt(keys)


# %% wrong: routed-attention | exp without taking the largest score away first | killed by: large scores
# edit of: keys and values by name
# -    attended = heavy.output(scores.softmax(-1) @ value).flatten(0, 1)
# +    e = scores.exp()
# +    attended = heavy.output(e / e.sum(-1, keepdim=True) @ value).flatten(0, 1)


# %% wrong: routed-attention | the largest of all scores is taken away, not that of the row | killed by: large scores
# edit of: keys and values by name
# -    attended = heavy.output(scores.softmax(-1) @ value).flatten(0, 1)
# +    e = (scores - scores.max()).exp()
# +    attended = heavy.output(e / e.sum(-1, keepdim=True) @ value).flatten(0, 1)


# %% wrong: routed-attention | dynlib's smooth top-k for the keys | killed by: by hand
# edit of: keys and values by name
# -    asked, key_weights = route(x @ u_key, keys, epsilon)
# +    import dynlib.choice
# +
# +    asked, _ = route(x @ u_key, keys, epsilon)
# +    key_weights = dynlib.choice.soft_topk(x @ u_key, keys, epsilon) * asked


# %% right: affordable | summed up product by product
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    def layer_flops(queries, keys, routed):
        size = dim // heads
        total = 0
        for rows, inner, columns in (
            *[(tokens, dim, 1)] * 3,
            *[(tokens, dim, light_heads * size)] * 4,
            *[(tokens, size, min(tokens, 3 * window))] * (2 * light_heads),
            *[(queries, dim, size)] * (2 * (heads - light_heads)),
            *[(keys, dim, size)] * (2 * (heads - light_heads)),
            *[(queries, size, keys)] * (2 * (heads - light_heads)),
            *[(tokens, dim, light)] * 2,
            *[(routed, dim, heavy)] * 2,
        ):
            total += rows * inner * columns
        return 2 * total

    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
    if not fits:
        raise ValueError("the light parts alone cost more")
    return fits[-1]


# %% right: affordable | per token first
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    def layer_flops(queries, keys, routed):
        L = dim // heads * light_heads
        H = dim // heads * (heads - light_heads)
        reach = 3 * window if 3 * window < tokens else tokens
        everybody = 6 * dim + 8 * dim * L + 4 * reach * L + 4 * dim * light
        asks, is_asked, chosen = 4 * dim * H + 4 * keys * H, 4 * dim * H, 4 * dim * heavy
        return tokens * everybody + queries * asks + keys * is_asked + routed * chosen

    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
    if not fits:
        raise ValueError("the light parts alone cost more")
    return fits[-1]


# %% right: affordable | multiply-adds first, doubled at the end
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    def layer_flops(queries, keys, routed):
        L = dim // heads * light_heads
        H = dim - L
        seen = min(3 * window, tokens)
        total = 3 * tokens * dim
        total += tokens * dim * 3 * L + tokens * L * dim + 2 * tokens * seen * L
        total += queries * dim * H + keys * dim * 2 * H + 2 * queries * keys * H + queries * H * dim
        total += 2 * tokens * dim * light + 2 * routed * dim * heavy
        return 2 * total

    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
    if not fits:
        raise ValueError("the light parts alone cost more")
    return fits[-1]


# %% right: affordable | four sums
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    def layer_flops(queries, keys, routed):
        inner = light_heads * dim // heads
        rest = dim - inner
        routers = 3 * tokens * dim
        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
        feed_forward = 2 * tokens * dim * light + 2 * routed * dim * heavy
        return 2 * (routers + local + attention + feed_forward)

    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
    if not fits:
        raise ValueError("the light parts alone cost more")
    return fits[-1]


# %% wrong: affordable | a multiply-add counts one, as in the paper | killed by: value
# edit of: four sums
# -        return 2 * (routers + local + attention + feed_forward)
# +        return 1 * (routers + local + attention + feed_forward)


# %% wrong: affordable | without the routers | killed by: value
# edit of: four sums
# -        routers = 3 * tokens * dim
# +        routers = 0


# %% wrong: affordable | one router | killed by: value
# edit of: four sums
# -        routers = 3 * tokens * dim
# +        routers = 1 * tokens * dim


# %% wrong: affordable | two routers | killed by: value
# edit of: four sums
# -        routers = 3 * tokens * dim
# +        routers = 2 * tokens * dim


# %% wrong: affordable | 2 · window + 1 keys in the light attention | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 4 * tokens * dim * inner + 2 * tokens * (2 * window + 1) * inner


# %% wrong: affordable | the own block alone | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 4 * tokens * dim * inner + 2 * tokens * min(window, tokens) * inner


# %% wrong: affordable | two blocks | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 4 * tokens * dim * inner + 2 * tokens * min(2 * window, tokens) * inner


# %% wrong: affordable | six windows | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 4 * tokens * dim * inner + 2 * tokens * (6 * window) * inner


# %% wrong: affordable | full attention in the light branch | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 4 * tokens * dim * inner + 2 * tokens * tokens * inner


# %% wrong: affordable | no min for short sequences | killed by: a short sequence
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 4 * tokens * dim * inner + 2 * tokens * 3 * window * inner


# %% wrong: affordable | masked: the heavy parts run for everybody | killed by: value
# edit of: four sums
#      def layer_flops(queries, keys, routed):
# +        queries = keys = routed = tokens


# %% wrong: affordable | the heavy feed-forward part runs for everybody | killed by: value
# edit of: four sums
# -        feed_forward = 2 * tokens * dim * light + 2 * routed * dim * heavy
# +        feed_forward = 2 * tokens * dim * light + 2 * tokens * dim * heavy


# %% wrong: affordable | everybody asks | killed by: value
# edit of: four sums
#      def layer_flops(queries, keys, routed):
# +        queries = tokens


# %% wrong: affordable | everybody is asked | killed by: value
# edit of: four sums
#      def layer_flops(queries, keys, routed):
# +        keys = tokens


# %% wrong: affordable | keys and values made for the queries | killed by: value
# edit of: four sums
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        attention = 2 * (queries + queries) * dim * rest + 2 * queries * keys * rest


# %% wrong: affordable | as many keys as queries | killed by: value
# edit of: four sums
#      def layer_flops(queries, keys, routed):
# +        keys = queries


# %% wrong: affordable | one layer for key and value | killed by: value
# edit of: four sums
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        attention = (2 * queries + keys) * dim * rest + 2 * queries * keys * rest


# %% wrong: affordable | heavy.output for everybody | killed by: value
# edit of: four sums
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        attention = (queries + 2 * keys + tokens) * dim * rest + 2 * queries * keys * rest


# %% wrong: affordable | both ways back are missing | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        local = 3 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        attention = (queries + 2 * keys) * dim * rest + 2 * queries * keys * rest


# %% wrong: affordable | the light way back is missing | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 3 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner


# %% wrong: affordable | the heavy way back is missing | killed by: value
# edit of: four sums
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        attention = (queries + 2 * keys) * dim * rest + 2 * queries * keys * rest


# %% wrong: affordable | one product in each attention | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        local = 4 * tokens * dim * inner + tokens * min(3 * window, tokens) * inner
# +        attention = 2 * (queries + keys) * dim * rest + queries * keys * rest


# %% wrong: affordable | one product in the light attention | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# +        local = 4 * tokens * dim * inner + tokens * min(3 * window, tokens) * inner


# %% wrong: affordable | one product in the heavy attention | killed by: value
# edit of: four sums
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        attention = 2 * (queries + keys) * dim * rest + queries * keys * rest


# %% wrong: affordable | one layer in each feed-forward part | killed by: value
# edit of: four sums
# -        feed_forward = 2 * tokens * dim * light + 2 * routed * dim * heavy
# +        feed_forward = tokens * dim * light + routed * dim * heavy


# %% wrong: affordable | every head has dim features | killed by: value
# edit of: four sums
# -        inner = light_heads * dim // heads
# -        rest = dim - inner
# +        inner = rest = dim


# %% wrong: affordable | once more times the heads | killed by: value
# edit of: four sums
# -        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        local = 4 * tokens * dim * inner + 2 * tokens * min(3 * window, tokens) * inner * light_heads
# +        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest * (heads - light_heads)


# %% wrong: affordable | a quarter of the heads, whatever is asked | killed by: value
# edit of: four sums
# -        inner = light_heads * dim // heads
# +        inner = heads // 4 * dim // heads


# %% wrong: affordable | light and heavy heads have changed places | killed by: value
# edit of: four sums
# -        inner = light_heads * dim // heads
# +        inner = (heads - light_heads) * dim // heads


# %% wrong: affordable | light only for those who are not routed | killed by: value
# edit of: four sums
# -        feed_forward = 2 * tokens * dim * light + 2 * routed * dim * heavy
# +        feed_forward = 2 * (tokens - routed) * dim * light + 2 * routed * dim * heavy


# %% wrong: affordable | a float | killed by: an int
# edit of: four sums
# -    return fits[-1]
# +    return fits[-1] / 1


# %% wrong: affordable | a tensor | killed by: an int
# edit of: four sums
# -    return fits[-1]
# +    return torch.tensor(fits[-1])


# %% wrong: affordable | less than the budget, not at most | killed by: to the last FLOP
# edit of: four sums
# -    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
# +    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) < budget]


# %% wrong: affordable | the root of the quadratic, in floating point of 32 bits | killed by: to the last FLOP
# edit of: four sums
# -    return fits[-1]
# +    none, one, two = (torch.tensor(float(layer_flops(m, 2 * m, m))) for m in (0, 1, 2))
# +    c = (two - 2 * one + none) / 2
# +    b = one - none - c
# +    return min(int((-b + (b * b - 4 * c * (none - budget)).sqrt()) / (2 * c)), tokens // 2)


# %% wrong: affordable | the root of the quadratic, in floating point of 64 bits | killed by: whole numbers
# edit of: four sums
# -    return fits[-1]
# +    none, one, two = (layer_flops(m, 2 * m, m) for m in (0, 1, 2))
# +    c = (two - 2 * one + none) // 2
# +    b = one - none - c
# +    return min(int((-b + math.sqrt(b * b - 4 * c * (none - budget))) / (2 * c)), tokens // 2)


# %% wrong: affordable | a budget that the light parts use up is refused | killed by: nobody routed
# edit of: four sums
# -    if not fits:
# +    if not fits or layer_flops(0, 0, 0) >= budget:


# %% wrong: affordable | the pairs of the heavy attention are left out | killed by: value
# edit of: four sums
# -        attention = 2 * (queries + keys) * dim * rest + 2 * queries * keys * rest
# +        attention = 2 * (queries + keys) * dim * rest


# %% wrong: affordable | the rest of the budget, divided by what the first routed token costs | killed by: value
# edit of: four sums
# -    return fits[-1]
# +    none, one = (layer_flops(m, 2 * m, m) for m in (0, 1))
# +    return min((budget - none) // (one - none), tokens // 2)


# %% wrong: affordable | more tokens are asked than there are | killed by: all that fits
# edit of: four sums
# -    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
# +    fits = [m for m in range(tokens + 1) if layer_flops(m, 2 * m, m) <= budget]


# %% wrong: affordable | the last number is left out | killed by: to the last FLOP
# edit of: four sums
# -    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
# +    fits = [m for m in range(tokens // 2) if layer_flops(m, 2 * m, m) <= budget]


# %% wrong: affordable | one at least | killed by: to the last FLOP
# edit of: four sums
# -    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
# -    if not fits:
# +    fits = [m for m in range(1, tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget] or [1]
# +    if layer_flops(0, 0, 0) > budget:


# %% wrong: affordable | 0 where nothing fits | killed by: too dear
# edit of: four sums
# -    if not fits:
# -        raise ValueError("the light parts alone cost more")
# -    return fits[-1]
# +    return fits[-1] if fits else 0


# %% wrong: affordable | an IndexError where nothing fits | killed by: too dear
# edit of: four sums
# -    if not fits:
# -        raise ValueError("the light parts alone cost more")


# %% wrong: affordable | sums in float32 | killed by: to the last FLOP
# edit of: four sums
# -    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
# +    spent = torch.tensor([float(layer_flops(m, 2 * m, m)) for m in range(tokens // 2 + 1)])
# +    fits = [m for m in range(tokens // 2 + 1) if spent[m] <= torch.tensor(float(budget))]


# %% wrong: affordable | floats on the way: the heads' share of dim by / | killed by: whole numbers
# edit of: four sums
# -        inner = light_heads * dim // heads
# +        inner = light_heads * dim / heads


# %% wrong: affordable | shares of the tokens, as in the lecture's account | killed by: whole numbers
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    few = dim * light_heads / heads
    many, seen = dim - few, min(3 * window, tokens)

    def flops(k):
        pairs = tokens * seen * few * 2 + k * 2 * k * many * 2
        projections = tokens * 4 * dim * few + k * 2 * dim * many + 2 * k * 2 * dim * many
        return 2 * (3 * tokens * dim + projections + pairs + 2 * dim * (tokens * light + k * heavy))

    if flops(0) > budget:
        raise ValueError("too dear")
    return max(k for k in range(tokens // 2 + 1) if flops(k) <= budget)


# %% wrong: affordable | the account is divided by the budget | killed by: whole numbers
# edit of: four sums
# -    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
# +    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) / budget <= 1]


# %% wrong: affordable | the share of the tokens | killed by: an int
# edit of: four sums
# -    return fits[-1]
# +    return fits[-1] / tokens


# %% wrong: affordable | a real layer is counted | killed by: by hand
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    from dynlib.tokens import ConditionalAttention, ConditionalFeedForward

    attention = ConditionalAttention(dim, heads, window=window, light_heads=light_heads)
    feed_forward = ConditionalFeedForward(dim, light=light, heavy=heavy)
    x = torch.zeros(1, tokens, dim)

    def layer_flops(m):
        with torch.no_grad():
            return count(attention, x, queries=m, keys=2 * m).flops + count(feed_forward, x, k=m).flops

    none, one, two = (layer_flops(m) for m in (0, 1, 2))
    c = (two - 2 * one + none) // 2
    if none > budget:
        raise ValueError("the light parts alone cost more")
    return max(m for m in range(tokens // 2 + 1) if none + m * (one - none - c) + c * m * m <= budget)


# %% right: affordable | halving the interval
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    size = dim // heads
    few, many = light_heads * size, (heads - light_heads) * size
    seen = min(tokens, 3 * window)
    always = tokens * (6 * dim + 8 * dim * few + 4 * seen * few + 4 * dim * light)
    each = 12 * dim * many + 4 * dim * heavy
    if always > budget:
        raise ValueError("too dear")
    low, high = 0, tokens // 2 + 1
    while high - low > 1:
        m = (low + high) // 2
        if always + m * each + 8 * m * m * many <= budget:
            low = m
        else:
            high = m
    return low


# %% wrong: affordable | at least one token is routed | killed by: nobody routed
# edit of: four sums
#      def layer_flops(queries, keys, routed):
# +        queries, keys, routed = (max(k, 1) for k in (queries, keys, routed))


# %% wrong: affordable | hidden features of four times dim, whatever is asked | killed by: value
# edit of: four sums
#      def layer_flops(queries, keys, routed):
# +        light = 4 * dim


# %% wrong: affordable | one layer in the heavy feed-forward part | killed by: value
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    def layer_flops(queries, keys, routed):
        L = light_heads * dim // heads
        H = dim - L
        seen = min(3 * window, tokens)
        t = 3 * tokens * dim + tokens * dim * 3 * L + tokens * L * dim + 2 * tokens * seen * L
        t += queries * dim * H + keys * dim * 2 * H + 2 * queries * keys * H + queries * H * dim
        t += 2 * tokens * dim * light + routed * dim * heavy
        return 2 * t

    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
    if not fits:
        raise ValueError("the light parts alone cost more")
    return fits[-1]


# %% wrong: affordable | a multiply-add of the routers counts one | killed by: value
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    def layer_flops(queries, keys, routed):
        L = light_heads * dim // heads
        H = dim - L
        seen = min(3 * window, tokens)
        t = tokens * dim * 3 * L + tokens * L * dim + 2 * tokens * seen * L
        t += queries * dim * H + keys * dim * 2 * H + 2 * queries * keys * H + queries * H * dim
        t += 2 * tokens * dim * light + 2 * routed * dim * heavy
        return 2 * t + 3 * tokens * dim

    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
    if not fits:
        raise ValueError("the light parts alone cost more")
    return fits[-1]


# %% wrong: affordable | a score costs one operation | killed by: value
# edit of: a multiply-add of the routers counts one
# -        t = tokens * dim * 3 * L + tokens * L * dim + 2 * tokens * seen * L
# +        t = 3 * tokens + tokens * dim * 3 * L + tokens * L * dim + 2 * tokens * seen * L
# …
# -        return 2 * t + 3 * tokens * dim
# +        return 2 * t


# %% wrong: affordable | one projection in the light branch | killed by: value
# edit of: a multiply-add of the routers counts one
# -        t = tokens * dim * 3 * L + tokens * L * dim + 2 * tokens * seen * L
# +        t = 3 * tokens * dim + tokens * dim * L + tokens * L * dim + 2 * tokens * seen * L
# …
# -        return 2 * t + 3 * tokens * dim
# +        return 2 * t


# %% wrong: affordable | the hidden features are taken for factors of dim | killed by: value
# edit of: one layer in the heavy feed-forward part
# -        t += 2 * tokens * dim * light + routed * dim * heavy
# +        t += 2 * tokens * dim * light * dim + 2 * routed * dim * heavy * dim


# %% wrong: affordable | one layer in the light feed-forward part | killed by: value
def affordable(budget, tokens, dim, *, heads, light_heads, window, light, heavy):
    def layer_flops(queries, keys, routed):
        few = light_heads * dim // heads
        many = dim - few
        seen = min(3 * window, tokens)
        total = 3 * tokens * dim + 4 * tokens * dim * few + 2 * tokens * seen * few
        total += 2 * queries * dim * many + 2 * keys * dim * many + 2 * queries * keys * many
        return 2 * (total + tokens * dim * light + 2 * routed * dim * heavy)

    fits = [m for m in range(tokens // 2 + 1) if layer_flops(m, 2 * m, m) <= budget]
    if not fits:
        raise ValueError("the light parts alone cost more")
    return fits[-1]


# %% right: predict-colt5 | counted, and with sums
def predict():
    n = 64
    q, v = n // 16, n // 8
    return {
        "weights before a norm": "none",
        "scores far apart": "none",
        "scores of the unrouted": "some",
        "sum of equals": 4 * 4 / 16,
        "break-even share": next(m / 32 for m in range(33) if 2 + 16 * m / 32 >= 4),
        "share of pairs": q * v / n**2,
        "light growth": 2 * n / n,
        "heavy growth": (2 * q) * (2 * v) / (q * v),
    }


def concentration(routed, needles):
    both = int((routed & needles).sum())
    return both * needles.numel() / (int(routed.sum()) * int(needles.sum()))


# %% right: predict-colt5 | typed, and with floating-point masks
def predict():
    return {
        "sum of equals": 1.0,
        "break-even share": 0.125,
        "share of pairs": 0.0078125,
        "light growth": 2.0,
        "heavy growth": 4.0,
        "scores far apart": "none",
        "scores of the unrouted": "some",
        "weights before a norm": "none",
    }


def concentration(routed, needles):
    r, n = routed.double().flatten(), needles.double().flatten()
    return float((r @ n) / r.sum() / n.mean())


# %% right: predict-colt5 | the shortest
def predict():
    return {
        "sum of equals": 1,
        "break-even share": 1 / 8,
        "share of pairs": 1 / 128,
        "light growth": 2,
        "heavy growth": 4,
        "scores far apart": "none",
        "scores of the unrouted": "some",
        "weights before a norm": "none",
    }


def concentration(routed, needles):
    return (needles[routed].double().mean() / needles.double().mean()).item()


# %% right: predict-colt5 | means of the masks
def predict():
    return {
        "sum of equals": 1.0,
        "break-even share": 0.125,
        "share of pairs": 1 / 128,
        "light growth": 2,
        "heavy growth": 4,
        "scores far apart": "none",
        "scores of the unrouted": "some",
        "weights before a norm": "none",
    }


def concentration(routed, needles):
    hit = needles[routed].double().mean()
    base = needles.double().mean()
    return (hit / base).item()


# %% wrong: predict-colt5 | what was cut counts too | killed by: sum of equals
# edit of: the shortest
# -        "sum of equals": 1,
# +        "sum of equals": 4,


# %% wrong: predict-colt5 | the weight of one | killed by: sum of equals
# edit of: the shortest
# -        "sum of equals": 1,
# +        "sum of equals": 0.25,


# %% wrong: predict-colt5 | the sixteenth of the paper | killed by: break-even share
# edit of: the shortest
# -        "break-even share": 1 / 8,
# +        "break-even share": 1 / 16,


# %% wrong: predict-colt5 | the light part costs nothing | killed by: break-even share
# edit of: the shortest
# -        "break-even share": 1 / 8,
# +        "break-even share": 1 / 4,


# %% wrong: predict-colt5 | queries alone | killed by: share of pairs
# edit of: the shortest
# -        "share of pairs": 1 / 128,
# +        "share of pairs": 1 / 16,


# %% wrong: predict-colt5 | keys alone | killed by: share of pairs
# edit of: the shortest
# -        "share of pairs": 1 / 128,
# +        "share of pairs": 1 / 8,


# %% wrong: predict-colt5 | the sum of both shares | killed by: share of pairs
# edit of: the shortest
# -        "share of pairs": 1 / 128,
# +        "share of pairs": 1 / 16 + 1 / 8,


# %% wrong: predict-colt5 | the light attention grows as full attention does | killed by: light growth
# edit of: the shortest
# -        "light growth": 2,
# +        "light growth": 4,


# %% wrong: predict-colt5 | the light attention does not grow | killed by: light growth
# edit of: the shortest
# -        "light growth": 2,
# +        "light growth": 1,


# %% wrong: predict-colt5 | the heavy attention grows with the sequence | killed by: heavy growth
# edit of: the shortest
# -        "heavy growth": 4,
# +        "heavy growth": 2,


# %% wrong: predict-colt5 | the heavy attention does not grow | killed by: heavy growth
# edit of: the shortest
# -        "heavy growth": 4,
# +        "heavy growth": 1,


# %% wrong: predict-colt5 | a gradient where all is saturated | killed by: scores far apart
# edit of: the shortest
# -        "scores far apart": "none",
# +        "scores far apart": "some",


# %% wrong: predict-colt5 | no gradient for those who are not routed | killed by: scores of the unrouted
# edit of: the shortest
# -        "scores of the unrouted": "some",
# +        "scores of the unrouted": "none",


# %% wrong: predict-colt5 | a gradient through a norm | killed by: weights before a norm
# edit of: the shortest
# -        "weights before a norm": "none",
# +        "weights before a norm": "some",


# %% wrong: predict-colt5 | another word | killed by: a word
# edit of: the shortest
# -        "weights before a norm": "none",
# +        "weights before a norm": "zero",


# %% wrong: predict-colt5 | a name is missing | killed by: the names
# edit of: the shortest
# -        "weights before a norm": "none",


# %% wrong: predict-colt5 | a list | killed by: a dict
def predict():
    return list(
        {
            "sum of equals": 1,
            "break-even share": 1 / 8,
            "share of pairs": 1 / 128,
            "light growth": 2,
            "heavy growth": 4,
            "scores far apart": "none",
            "scores of the unrouted": "some",
            "weights before a norm": "none",
        }.items()
    )


def concentration(routed, needles):
    return (needles[routed].double().mean() / needles.double().mean()).item()


# %% wrong: predict-colt5 | the share among the routed, not compared with chance | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return needles[routed].double().mean().item()


# %% wrong: predict-colt5 | the share of the needles that are routed | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return routed[needles].double().mean().item()


# %% wrong: predict-colt5 | the share of the needles that are routed, against the share that are needles | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (routed[needles].double().mean() / needles.double().mean()).item()


# %% wrong: predict-colt5 | upside down | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (needles.double().mean() / needles[routed].double().mean()).item()


# %% wrong: predict-colt5 | where the masks agree | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return ((needles == routed).double().mean() / needles.double().mean()).item()


# %% wrong: predict-colt5 | a number of needles | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return float((needles & routed).sum())


# %% wrong: predict-colt5 | the share of all tokens that are both | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (needles & routed).double().mean().item()


# %% wrong: predict-colt5 | against the share that is routed | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (needles[routed].double().mean() / routed.double().mean()).item()


# %% wrong: predict-colt5 | against the number of needles | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (needles[routed].double().mean() / needles.sum()).item()


# %% wrong: predict-colt5 | the difference to chance | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (needles[routed].double().mean() - needles.double().mean()).item()


# %% wrong: predict-colt5 | compared with the tokens that are not routed | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (needles[routed].double().mean() / needles[~routed].double().mean()).item()


# %% wrong: predict-colt5 | a ratio for each sequence, then the mean | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return ((needles & routed).double().sum(1) / routed.sum(1) / needles.double().mean(1)).mean().item()


# %% wrong: predict-colt5 | a share for each sequence, then the mean | killed by: concentration
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return (((needles & routed).double().sum(1) / routed.sum(1)).mean() / needles.double().mean()).item()


# %% wrong: predict-colt5 | a tensor in place of a number | killed by: a plain number
# edit of: the shortest
# -    return (needles[routed].double().mean() / needles.double().mean()).item()
# +    return needles[routed].double().mean() / needles.double().mean()


# %% wrong: predict-colt5 | a share that was rounded | killed by: share of pairs
# edit of: the shortest
# -        "sum of equals": 1,
# +        "sum of equals": 1.0,
# …
# -        "share of pairs": 1 / 128,
# +        "share of pairs": 0.0078,
