# %% right: knob-hull | the upper chain by slopes, from the cheapest to the best
def hull(costs, qualities):
    best = max(range(len(costs)), key=lambda i: (qualities[i], -costs[i], -i))
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i], i))
    kept = []
    for i in order:
        if kept and costs[kept[-1]] == costs[i]:
            continue
        while len(kept) >= 2:
            a, b = kept[-2], kept[-1]
            turn = (costs[b] - costs[a]) * (qualities[i] - qualities[a])
            turn -= (qualities[b] - qualities[a]) * (costs[i] - costs[a])
            if turn < 0:
                break
            kept.pop()
        kept.append(i)
    return kept[: kept.index(best) + 1]


# %% right: knob-hull | points first, places by a dictionary
def hull(costs, qualities):
    first = {}
    for place, point in enumerate(zip(costs, qualities)):
        first.setdefault(point, place)
    chain = []
    for cost, quality in sorted(first, key=lambda point: (point[0], -point[1])):
        if chain and chain[-1][1] >= quality:
            continue
        while len(chain) > 1 and (chain[-1][1] - chain[-2][1]) / (chain[-1][0] - chain[-2][0]) <= (
            quality - chain[-1][1]
        ) / (cost - chain[-1][0]):
            del chain[-1]
        chain.append((cost, quality))
    return [first[point] for point in chain]


# %% wrong: knob-hull | the envelope alone | killed by: under a line
# edit of: the teacher's
# -        while len(kept) > 1:
# +        while False:


# %% wrong: knob-hull | only the last point is looked at again | killed by: under a line
# edit of: the teacher's
# -        while len(kept) > 1:
# +        if len(kept) > 1:
# …
# -            if rise * (costs[i] - costs[k]) > more * (costs[k] - costs[j]):
# -                break  # the slope falls at k
# -            kept.pop()
# +            if rise * (costs[i] - costs[k]) <= more * (costs[k] - costs[j]):
# +                kept.pop()


# %% wrong: knob-hull | worse points stay | killed by: beaten points
# edit of: the teacher's
# -        if kept and qualities[i] <= qualities[kept[-1]]:
# -            continue  # it costs no less and is no better


# %% wrong: knob-hull | points on a line stay | killed by: on a line
# edit of: the teacher's
# -            if rise * (costs[i] - costs[k]) > more * (costs[k] - costs[j]):
# +            if rise * (costs[i] - costs[k]) >= more * (costs[k] - costs[j]):


# %% wrong: knob-hull | a room for rounding | killed by: small joules
# edit of: the teacher's
# -            if rise * (costs[i] - costs[k]) > more * (costs[k] - costs[j]):
# +            if rise * (costs[i] - costs[k]) > more * (costs[k] - costs[j]) + 1e-9:


# %% wrong: knob-hull | the best so far begins at 0 | killed by: under a line
# edit of: the teacher's
# -        if kept and qualities[i] <= qualities[kept[-1]]:
# +        if qualities[i] <= (qualities[kept[-1]] if kept else 0.0):


# %% wrong: knob-hull | the hull from below | killed by: under a line
# edit of: the teacher's
# -            if rise * (costs[i] - costs[k]) > more * (costs[k] - costs[j]):
# +            if rise * (costs[i] - costs[k]) < more * (costs[k] - costs[j]):


# %% wrong: knob-hull | in the order in which they came | killed by: equal points
# edit of: the teacher's
# -    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i])):
# +    for i in range(len(costs)):


# %% wrong: knob-hull | of equal cost the worse one first | killed by: points in any order
# edit of: the teacher's
# -    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i])):
# +    for i in sorted(range(len(costs)), key=lambda i: (costs[i], qualities[i])):


# %% wrong: knob-hull | of equal points the last one | killed by: equal points
# edit of: the teacher's
# -    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i])):
# +    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i], -i)):


# %% wrong: knob-hull | the dearest first | killed by: beaten points
# edit of: the teacher's
# -    return kept
# +    return kept[::-1]


# %% wrong: knob-hull | the lists were sorted | killed by: input untouched
# edit of: the teacher's
# -    return kept
# +    costs.sort()
# +    return kept


# %% wrong: knob-hull | places after sorting | killed by: equal points
# edit of: the teacher's
# -    return kept
# +    order = sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i]))
# +    return [order.index(i) for i in kept]


# %% wrong: knob-hull | quality for cost, of each point alone | killed by: beaten points
def hull(costs, qualities):
    kept = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i])):
        if not kept or qualities[i] / costs[i] > qualities[kept[-1]] / costs[kept[-1]]:
            kept.append(i)
    return kept


# %% wrong: knob-hull | a point is compared with its two neighbours only | killed by: under a line
def hull(costs, qualities):
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i]))
    up = []
    for i in order:
        if not up or qualities[i] > qualities[up[-1]]:
            up.append(i)
    stay = []
    for n, i in enumerate(up):
        if 0 < n < len(up) - 1:
            j, k = up[n - 1], up[n + 1]
            line = qualities[j] + (qualities[k] - qualities[j]) * (costs[i] - costs[j]) / (costs[k] - costs[j])
            if line >= qualities[i]:
                continue
        stay.append(i)
    return stay


# %% wrong: knob-hull | every pair for every point | killed by: little time
def hull(costs, qualities):
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i], i))
    kept = [order[0]]
    while True:
        best, slope = None, 0.0
        for i in order:
            if costs[i] > costs[kept[-1]]:
                here = (qualities[i] - qualities[kept[-1]]) / (costs[i] - costs[kept[-1]])
                if here > 0 and here >= slope:
                    if here > slope or costs[i] > costs[best]:
                        best, slope = i, here
        if best is None:
            return kept
        kept.append(best)


# %% wrong: knob-hull | points, not places | killed by: one point
# edit of: the teacher's
# -    return kept
# +    return [(costs[i], qualities[i]) for i in kept]


# %% wrong: knob-hull | dynlib's | killed by: by hand
def hull(costs, qualities):
    from dynlib.cost import CostCurve, Interval, Point

    points = [Point(n, c, c, c, Interval(q, q, q), 1.0) for n, (c, q) in enumerate(zip(costs, qualities))]
    return [point.knob for point in CostCurve(points).hull()]


# %% right: knob-schedule | by what is left over each time
def schedule(costs, limit, requests):
    if limit < costs[0]:
        raise ValueError("the limit buys nothing")
    low = 0
    while low + 1 < len(costs) and costs[low + 1] <= limit:
        low += 1
    if low + 1 == len(costs):
        return [low for _ in range(requests)]
    plan, carried = [], 0.0
    for _ in range(requests):
        carried += (limit - costs[low]) / (costs[low + 1] - costs[low])
        dear = carried >= 1 - 1e-9
        carried -= dear
        plan.append(low + int(dear))
    return plan


# %% right: knob-schedule | by what was spent so far
def schedule(costs, limit, requests):
    affordable = [place for place, cost in enumerate(costs) if cost <= limit]
    if not affordable:
        raise ValueError("no")
    low = affordable[-1]
    high = min(low + 1, len(costs) - 1)
    plan, dears = [], 0
    for t in range(1, requests + 1):
        gap = costs[high] - costs[low]
        take = high > low and (dears + 1) * gap <= (t * (limit - costs[low])) + 1e-9 * gap
        dears += take
        plan.append(high if take else low)
    return plan


# %% wrong: knob-schedule | the dear ones first | killed by: never ahead
# edit of: the teacher's
# -    return [low + after - before for before, after in pairwise(dear)]
# +    return sorted((low + after - before for before, after in pairwise(dear)), reverse=True)


# %% wrong: knob-schedule | the dear ones last | killed by: two knobs
# edit of: the teacher's
# -    return [low + after - before for before, after in pairwise(dear)]
# +    return sorted(low + after - before for before, after in pairwise(dear))


# %% wrong: knob-schedule | rounded up | killed by: never ahead
# edit of: the teacher's
# -    dear = [math.floor(t * share + 1e-9) for t in range(requests + 1)]  # how many of the first t
# +    dear = [math.ceil(t * share - 1e-9) for t in range(requests + 1)]


# %% wrong: knob-schedule | rounded to the nearest | killed by: never ahead
# edit of: the teacher's
# -    dear = [math.floor(t * share + 1e-9) for t in range(requests + 1)]  # how many of the first t
# +    dear = [round(t * share) for t in range(requests + 1)]


# %% wrong: knob-schedule | no room for rounding | killed by: rounding
# edit of: the teacher's
# -    dear = [math.floor(t * share + 1e-9) for t in range(requests + 1)]  # how many of the first t
# +    dear = [math.floor(t * share) for t in range(requests + 1)]


# %% wrong: knob-schedule | no room for rounding, by what the share allows | killed by: rounding
def schedule(costs, limit, requests):
    if limit < costs[0]:
        raise ValueError("too little")
    if limit >= costs[-1]:
        return [len(costs) - 1] * requests
    low = max(place for place, cost in enumerate(costs) if cost <= limit)
    share = (limit - costs[low]) / (costs[low + 1] - costs[low])
    plan, dear = [], 0
    for t in range(1, requests + 1):
        take = dear + 1 <= share * t
        dear += take
        plan.append(low + take)
    return [int(place) for place in plan]


# %% wrong: knob-schedule | too much room for rounding | killed by: never ahead
# edit of: the teacher's
# -    dear = [math.floor(t * share + 1e-9) for t in range(requests + 1)]  # how many of the first t
# +    dear = [math.floor(t * share + 1e-4) for t in range(requests + 1)]


# %% wrong: knob-schedule | the room for rounding is in joules | killed by: never ahead
# edit of: by what was spent so far
# -        take = high > low and (dears + 1) * gap <= (t * (limit - costs[low])) + 1e-9 * gap
# +        take = high > low and (dears + 1) * gap <= (t * (limit - costs[low])) + 1e-9


# %% wrong: knob-schedule | every so many, rounded | killed by: two of several
# edit of: the teacher's
# -    dear = [math.floor(t * share + 1e-9) for t in range(requests + 1)]  # how many of the first t
# +    every = round(1 / share) if share else requests + 1
# +    dear = [t // every for t in range(requests + 1)]


# %% wrong: knob-schedule | the dearest only where there is more than it costs | killed by: more than enough
# edit of: the teacher's
# -    if limit >= costs[-1]:
# +    if limit > costs[-1]:


# %% wrong: knob-schedule | the cheapest's own cost buys nothing | killed by: one knob
# edit of: the teacher's
# -    if limit < costs[0]:
# +    if limit <= costs[0]:


# %% wrong: knob-schedule | always the cheap one | killed by: two knobs
# edit of: the teacher's
# -    return [low + after - before for before, after in pairwise(dear)]
# +    return [low] * requests


# %% wrong: knob-schedule | the share is of the costs, not of the way between them | killed by: never ahead
# edit of: the teacher's
# -    share = (limit - costs[low]) / (costs[low + 1] - costs[low])
# +    share = limit / costs[low + 1]


# %% wrong: knob-schedule | the share of the cheap one | killed by: never ahead
# edit of: the teacher's
# -    share = (limit - costs[low]) / (costs[low + 1] - costs[low])
# +    share = (costs[low + 1] - limit) / (costs[low + 1] - costs[low])


# %% wrong: knob-schedule | the cheapest and the dearest of all | killed by: two of several
def schedule(costs, limit, requests):
    if limit < costs[0]:
        raise ValueError("too little")
    if limit >= costs[-1]:
        return [len(costs) - 1] * requests
    if limit in costs:
        return [costs.index(limit)] * requests
    share = (limit - costs[0]) / (costs[-1] - costs[0])
    dear = [math.floor(t * share + 1e-9) for t in range(requests + 1)]
    return [(after - before) * (len(costs) - 1) for before, after in pairwise(dear)]


# %% wrong: knob-schedule | one block of each | killed by: never ahead
# edit of: the teacher's
# -    return [low + after - before for before, after in pairwise(dear)]
# +    return [low + 1] * dear[-1] + [low] * (requests - dear[-1])


# %% wrong: knob-schedule | the debt is forgiven | killed by: two of several
def schedule(costs, limit, requests):
    if limit < costs[0]:
        raise ValueError("too little")
    if limit >= costs[-1]:
        return [len(costs) - 1] * requests
    low = max(place for place, cost in enumerate(costs) if cost <= limit)
    share = (limit - costs[low]) / (costs[low + 1] - costs[low])
    every = math.inf if share == 0 else math.ceil(1 / share - 1e-9)
    return [low + int(t % every == 0) for t in range(1, requests + 1)]


# %% wrong: knob-schedule | by chance | killed by: by hand
def schedule(costs, limit, requests):
    import random

    if limit < costs[0]:
        raise ValueError("too little")
    if limit >= costs[-1]:
        return [len(costs) - 1] * requests
    low = max(place for place, cost in enumerate(costs) if cost <= limit)
    share = (limit - costs[low]) / (costs[low + 1] - costs[low])
    return [low + int(random.random() < share) for _ in range(requests)]


# %% wrong: knob-schedule | costs, not places | killed by: places
# edit of: the teacher's
# -    return [low + after - before for before, after in pairwise(dear)]
# +    return [costs[low + after - before] for before, after in pairwise(dear)]


# %% wrong: knob-schedule | one too many | killed by: how many
# edit of: the teacher's
# -    dear = [math.floor(t * share + 1e-9) for t in range(requests + 1)]  # how many of the first t
# +    dear = [math.floor(t * share + 1e-9) for t in range(requests + 2)]


# %% wrong: knob-schedule | too little is taken for the cheapest | killed by: no knob so cheap
# edit of: the teacher's
# -    if limit < costs[0]:
# -        raise ValueError(f"no knob costs so little: the least is {costs[0]}, and the limit is {limit}")
# +    if limit < costs[0]:
# +        return [0] * requests


# %% wrong: knob-schedule | more than enough is an error | killed by: more than enough
# edit of: the teacher's
# -    if limit >= costs[-1]:
# -        return [len(costs) - 1] * requests
# +    if limit > 1e9:
# +        return []


# %% wrong: knob-schedule | a limit of its own cost buys the one below | killed by: one knob
# edit of: the teacher's
# -    low = max(place for place, cost in enumerate(costs) if cost <= limit)
# +    low = max((place for place, cost in enumerate(costs) if cost < limit), default=0)
# +    if limit in costs:
# +        return [low] * requests


# %% right: one-price | by halving
def price(curves, counts, budget):
    def spent(at):
        total = 0
        for kind, points in curves.items():
            best = max(quality - at * cost for cost, quality in points)
            total += counts[kind] * min(cost for cost, quality in points if quality - at * cost >= best - 1e-15)
        return total

    if sum(counts[kind] * min(points)[0] for kind, points in curves.items()) > budget:
        raise ValueError("too little for anything")
    if spent(0.0) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while spent(high) > budget:
        low, high = high, 2 * high
    while high - low > 1e-9 * high:
        middle = 0.5 * (low + high)
        if spent(middle) > budget:
            low = middle
        else:
            high = middle
    return high


# %% right: one-price | steps up the hulls, the best for the money first
def price(curves, counts, budget):
    steps, spent = [], 0.0
    for kind, points in curves.items():
        here = min(points, key=lambda point: (point[0], -point[1]))
        spent += counts[kind] * here[0]
        while True:
            up = [(q - here[1]) / (c - here[0]) for c, q in points if c > here[0] and q > here[1]]
            if not up:
                break
            there = max(
                (p for p in points if p[0] > here[0] and p[1] > here[1]),
                key=lambda p: ((p[1] - here[1]) / (p[0] - here[0]), p[0]),
            )
            steps.append(((there[1] - here[1]) / (there[0] - here[0]), counts[kind] * (there[0] - here[0])))
            here = there
    if spent > budget:
        raise ValueError("the cheapest plan is too dear")
    for slope, cost in sorted(steps, reverse=True):
        if spent + cost > budget and cost > 0:
            return slope
        spent += cost
    return 0.0


# %% wrong: one-price | the counts are forgotten | killed by: one kind
# edit of: the teacher's
# -            total += counts[kind] * cost
# +            total += cost


# %% wrong: one-price | the budget of one request | killed by: one kind
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    budget = budget * sum(counts.values())
# +    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)


# %% wrong: one-price | just below: the plan still costs too much | killed by: one kind
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    fits = next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    return max((at for at in {0.0, *slopes} if at < fits), default=0.0)


# %% wrong: one-price | the first slope that is surely enough | killed by: one kind
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 - 1e-9)) <= budget)


# %% wrong: one-price | the dearest price | killed by: one kind
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    return max(at for at in {0.0, *slopes} if spent(at * (1 + 1e-9)) <= budget)


# %% wrong: one-price | cost for quality | killed by: one kind
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    found = next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    return 1 / found if found else found


# %% wrong: one-price | never free | killed by: enough for all
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    return next(at for at in sorted(slopes) if spent(at * (1 + 1e-9)) <= budget)


# %% wrong: one-price | slopes from one to the next as they stand | killed by: points in any order
# edit of: the teacher's
# -        for cheap, less in points
# -        for dear, more in points
# -        if dear > cheap and more > less
# +        for (cheap, less), (dear, more) in pairwise(points)
# +        if dear != cheap and (more - less) / (dear - cheap) > 0


# %% wrong: one-price | each kind has half of the budget | killed by: two kinds
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    def alone(kind, at):
# +        return counts[kind] * max(curves[kind], key=lambda point: (point[1] - at * point[0], -point[0]))[0]
# +
# +    each = budget / len(curves)
# +    return max(
# +        next((at for at in sorted({0.0, *slopes}) if alone(kind, at * (1 + 1e-9)) <= each), 0.0) for kind in curves
# +    )


# %% wrong: one-price | kinds count alike | killed by: two kinds
# edit of: the teacher's
# -            total += counts[kind] * cost
# +            total += sum(counts.values()) / len(counts) * cost


# %% wrong: one-price | a kind that nobody asked for is paid for | killed by: nobody came
# edit of: the teacher's
# -            total += counts[kind] * cost
# +            total += max(counts[kind], 1) * cost


# %% wrong: one-price | only the first kind | killed by: two kinds
# edit of: the teacher's
# -        for kind, points in curves.items():
# +        for kind, points in [*curves.items()][:1]:


# %% wrong: one-price | prices up to one | killed by: small joules
def price(curves, counts, budget):
    def spent(at):
        return sum(
            counts[kind] * max(points, key=lambda point: (point[1] - at * point[0], -point[0]))[0]
            for kind, points in curves.items()
        )

    if sum(counts[kind] * min(points)[0] for kind, points in curves.items()) > budget:
        raise ValueError("too little")
    if spent(0.0) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > budget else (low, middle)
    return high


# %% wrong: one-price | prices up to a million | killed by: small joules
# edit of: prices up to one
# -    low, high = 0.0, 1.0
# -    for _ in range(60):
# +    low, high = 0.0, 1e6
# +    for _ in range(100):


# %% wrong: one-price | halving to a width of a millionth | killed by: one kind
# edit of: by halving
# -    while high - low > 1e-9 * high:
# +    while high - low > 1e-6:


# %% wrong: one-price | at the slope itself, where rounding decides | killed by: between equals
# edit of: the teacher's
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    return next(at for at in sorted({0.0, *slopes}) if spent(at) <= budget)


# %% wrong: one-price | a grid of prices | killed by: one kind
# edit of: prices up to one
# -    if spent(0.0) <= budget:
# -        return 0.0
# -    low, high = 0.0, 1.0
# -    for _ in range(60):
# -        middle = (low + high) / 2
# -        low, high = (middle, high) if spent(middle) > budget else (low, middle)
# -    return high
# +    grid = [0.0] + [1e-4 * 1.03**n for n in range(600)]
# +    return next(at for at in grid if spent(at) <= budget)


# %% wrong: one-price | too little is priced, too | killed by: not enough for anything
# edit of: the teacher's
# -    if sum(counts[kind] * min(cost for cost, _ in points) for kind, points in curves.items()) > budget:
# -        raise ValueError("even the cheapest knobs cost more than the budget")
# …
# -    return next(at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget)
# +    return next((at for at in sorted({0.0, *slopes}) if spent(at * (1 + 1e-9)) <= budget), max(slopes, default=0.0))


# %% wrong: one-price | the points were sorted in place | killed by: input untouched
# edit of: the teacher's
# -    def spent(at):
# +    for points in curves.values():
# +        points.sort(reverse=True)
# +
# +    def spent(at):


# %% right: at-most-loss | exit by exit
def at_most_loss(logits, costs, target, multiplier, weight, rate):
    comes, total = torch.ones(len(logits), dtype=logits.dtype), 0.0
    for k in range(len(costs) - 1):
        leaves = comes * logits[:, k].sigmoid()
        total = total + leaves * costs[k]
        comes = comes * (-logits[:, k]).sigmoid()
    spent = (total + comes * costs[-1]).mean() + 0 * logits.sum()
    pull = torch.relu(multiplier + weight * (spent - target))
    miss = float(spent.detach()) - target
    return (pull.square() - multiplier**2) / 2 / weight, miss, max(multiplier + rate * weight * miss, 0.0)


# %% right: at-most-loss | from the last exit back: what is still to come
def at_most_loss(logits, costs, target, multiplier, weight, rate):
    p = torch.sigmoid(logits)
    ahead = costs[-1].expand(len(logits)) + 0 * logits.sum()
    for k in reversed(range(logits.shape[1])):
        ahead = p[:, k] * costs[k] + (1 - p[:, k]) * ahead
    gap = ahead.mean() - target
    inside = multiplier + weight * gap
    if inside > 0:
        loss = multiplier * gap + weight / 2 * gap**2
    else:
        loss = 0 * gap - multiplier**2 / (2 * weight)
    moved = multiplier + rate * weight * gap.item()
    return loss, gap.item(), moved if moved > 0 else 0.0


# %% wrong: at-most-loss | the last exit takes its sigmoid | killed by: expected cost
# edit of: the teacher's
# -    gap = ((comes * torch.cat([leaves, sure], 1)) @ costs).mean() - target
# +    gap = ((comes * torch.cat([leaves, 0 * sure], 1)) @ costs).mean() - target


# %% wrong: at-most-loss | those who left leave again | killed by: expected cost
# edit of: the teacher's
# -    comes = torch.cat([sure, (1 - leaves).cumprod(1)], 1)  # to exit k
# +    comes = torch.cat([sure, 1 - leaves], 1)


# %% wrong: at-most-loss | a softmax over the exits | killed by: expected cost
# edit of: the teacher's
# -    gap = ((comes * torch.cat([leaves, sure], 1)) @ costs).mean() - target
# +    gap = (torch.cat([logits, 0 * sure], 1).softmax(1) @ costs).mean() - target


# %% wrong: at-most-loss | a large logit goes on | killed by: expected cost
# edit of: the teacher's
# -    leaves = torch.sigmoid(logits)
# +    leaves = torch.sigmoid(-logits)


# %% wrong: at-most-loss | the sum over the requests | killed by: expected cost
# edit of: the teacher's
# -    gap = ((comes * torch.cat([leaves, sure], 1)) @ costs).mean() - target
# +    gap = ((comes * torch.cat([leaves, sure], 1)) @ costs).sum() - target


# %% wrong: at-most-loss | the sign of the miss | killed by: expected cost
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, -miss, max(0.0, multiplier + rate * weight * miss)


# %% wrong: at-most-loss | the miss is cut off at 0 | killed by: expected cost
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, max(0.0, miss), max(0.0, multiplier + rate * weight * miss)


# %% wrong: at-most-loss | a bracket for each request | killed by: expected cost
# edit of: the teacher's
# -    gap = ((comes * torch.cat([leaves, sure], 1)) @ costs).mean() - target
# -    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)
# +    gap = (comes * torch.cat([leaves, sure], 1)) @ costs - target
# +    loss = (((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)).mean()
# +    gap = gap.mean()


# %% wrong: at-most-loss | probabilities are kept from 0 and 1 | killed by: large logits
# edit of: the teacher's
# -    leaves = torch.sigmoid(logits)
# +    leaves = torch.sigmoid(logits).clamp(1e-8, 1 - 1e-8)


# %% wrong: at-most-loss | from both sides | killed by: under the target
# edit of: the teacher's
# -    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)
# +    loss = multiplier * gap + weight / 2 * gap**2


# %% wrong: at-most-loss | max round the gap alone | killed by: expected cost
# edit of: the teacher's
# -    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)
# +    over = gap.clamp_min(0)
# +    loss = multiplier * over + weight / 2 * over**2


# %% wrong: at-most-loss | without the square of λ | killed by: expected cost
# edit of: the teacher's
# -    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)
# +    loss = (multiplier + weight * gap).clamp_min(0) ** 2 / (2 * weight)


# %% wrong: at-most-loss | over ρ | killed by: expected cost
# edit of: the teacher's
# -    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)
# +    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / weight


# %% wrong: at-most-loss | λ moves first | killed by: expected cost
# edit of: the teacher's
# -    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)
# +    given, multiplier = multiplier, max(0.0, multiplier + rate * weight * gap.item())
# +    loss = ((multiplier + weight * gap).clamp_min(0) ** 2 - multiplier**2) / (2 * weight)
# …
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, miss, max(0.0, given + rate * weight * miss)


# %% wrong: at-most-loss | λ below 0 | killed by: λ afterwards
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, miss, multiplier + rate * weight * miss


# %% wrong: at-most-loss | η without ρ | killed by: λ afterwards
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, miss, max(0.0, multiplier + rate * miss)


# %% wrong: at-most-loss | λ moves the other way | killed by: λ afterwards
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, miss, max(0.0, multiplier - rate * weight * miss)


# %% wrong: at-most-loss | λ never falls | killed by: λ afterwards
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, miss, multiplier + max(0.0, rate * weight * miss)


# %% wrong: at-most-loss | λ has a gradient | killed by: plain numbers
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss, miss, (multiplier + rate * weight * gap).clamp_min(0)


# %% wrong: at-most-loss | nothing is learned | killed by: gradients
# edit of: the teacher's
# -    return loss, miss, max(0.0, multiplier + rate * weight * miss)
# +    return loss.detach(), miss, max(0.0, multiplier + rate * weight * miss)


# %% wrong: at-most-loss | only the last step has a gradient | killed by: gradients
# edit of: the teacher's
# -    comes = torch.cat([sure, (1 - leaves).cumprod(1)], 1)  # to exit k
# +    comes = torch.cat([sure, (1 - leaves).cumprod(1)], 1).detach()


# %% wrong: at-most-loss | logarithms of what is left | killed by: gradients
# edit of: the teacher's
# -    comes = torch.cat([sure, (1 - leaves).cumprod(1)], 1)  # to exit k
# +    comes = torch.cat([sure, (1 - leaves).log().cumsum(1).exp()], 1)


# %% wrong: at-most-loss | one exit has no logits to speak of | killed by: runs
# edit of: the teacher's
# -    sure = logits.new_ones(len(logits), 1)
# +    sure = torch.ones_like(logits[:, :1])


# %% wrong: at-most-loss | the miss is written into the logits | killed by: input untouched
# edit of: the teacher's
# -    leaves = torch.sigmoid(logits)
# +    leaves = torch.sigmoid(logits)
# +    logits.detach().mul_(0.5)


# %% wrong: at-most-loss | dynlib's, from both sides | killed by: by hand
def at_most_loss(logits, costs, target, multiplier, weight, rate):
    from dynlib.cost import BudgetLoss

    budget = BudgetLoss(target, weight=weight, rate=rate, at_most=True)
    loss = budget((logits.sigmoid() * costs[:-1]).sum(1).abs())
    return loss, budget.miss, budget.multiplier.item()


# %% right: predict-savings | as numbers
def predict():
    return {
        "the feed-forward layers' share": 0.64,
        "two of four layers": 0.5,
        "two of four learners": 0.68,
        "two layers, two learners": 0.34,
        "two learners, no attention": 0.32,
        "both spare the easy half": 0.565,
        "each spares another half": 0.385,
        "the product, where both spare the easy half": "too low",
    }


# %% right: predict-savings | tensors, another order
def predict():
    forward = torch.tensor(65536.0, dtype=torch.float64) / (65536 + 32768 + 4096)
    easy = 1 - 0.75 * forward
    return {
        "the product, where both spare the easy half": "too low",
        "each spares another half": 0.5 * (0.25 + easy),
        "both spare the easy half": 0.5 * (0.25 * easy + 1),
        "two learners, no attention": 0.5 * forward,
        "two layers, two learners": 0.5 * (1 - 0.5 * forward),
        "two of four learners": 1 - 0.5 * forward,
        "two of four layers": torch.tensor(0.5),
        "the feed-forward layers' share": forward,
    }


# %% wrong: predict-savings | scores cost nothing | killed by: the feed-forward layers' share
# edit of: the teacher's
# -    attention, forward = 8 * 64**2 + 4 * 16 * 64, 4 * 64 * 256
# +    attention, forward = 8 * 64**2, 4 * 64 * 256


# %% wrong: predict-savings | the other part | killed by: the feed-forward layers' share
# edit of: the teacher's
# -        "the feed-forward layers' share": f,
# +        "the feed-forward layers' share": 1 - f,


# %% wrong: predict-savings | two layers | killed by: two of four layers
# edit of: the teacher's
# -        "two of four layers": 1 / 2,
# +        "two of four layers": 2,


# %% wrong: predict-savings | half the learners, half of all | killed by: two of four learners
# edit of: the teacher's
# -        "two of four learners": 1 - f / 2,
# +        "two of four learners": 1 / 2,


# %% wrong: predict-savings | what is saved | killed by: two of four learners
# edit of: the teacher's
# -        "two of four learners": 1 - f / 2,
# +        "two of four learners": f / 2,


# %% wrong: predict-savings | savings add up | killed by: two layers, two learners
# edit of: the teacher's
# -        "two layers, two learners": (1 - f / 2) / 2,
# +        "two layers, two learners": 1 - 1 / 2 - f / 2,


# %% wrong: predict-savings | a quarter | killed by: two layers, two learners
# edit of: the teacher's
# -        "two layers, two learners": (1 - f / 2) / 2,
# +        "two layers, two learners": 1 / 4,


# %% wrong: predict-savings | shares multiply always | killed by: two learners, no attention
# edit of: the teacher's
# -        "two learners, no attention": f / 2,
# +        "two learners, no attention": f * (1 - f / 2),


# %% wrong: predict-savings | the product of the means | killed by: both spare the easy half
# edit of: the teacher's
# -        "both spare the easy half": ((1 - 3 / 4 * f) / 4 + 1) / 2,
# +        "both spare the easy half": (1 / 4 + 1) / 2 * (1 - 3 / 8 * f),


# %% wrong: predict-savings | the easy ones alone | killed by: both spare the easy half
# edit of: the teacher's
# -        "both spare the easy half": ((1 - 3 / 4 * f) / 4 + 1) / 2,
# +        "both spare the easy half": (1 - 3 / 4 * f) / 4,


# %% wrong: predict-savings | a learner of four is a quarter of the block | killed by: both spare the easy half
# edit of: the teacher's
# -        "both spare the easy half": ((1 - 3 / 4 * f) / 4 + 1) / 2,
# +        "both spare the easy half": (1 / 4 / 4 + 1) / 2,


# %% wrong: predict-savings | the product again | killed by: each spares another half
# edit of: the teacher's
# -        "each spares another half": (1 / 4 + (1 - 3 / 4 * f)) / 2,
# +        "each spares another half": (1 / 4 + 1) / 2 * (1 - 3 / 8 * f),


# %% wrong: predict-savings | it multiplies | killed by: the product, where both spare the easy half
# edit of: the teacher's
# -        "the product, where both spare the easy half": "too low",
# +        "the product, where both spare the easy half": "right",


# %% wrong: predict-savings | another word | killed by: a word
# edit of: the teacher's
# -        "the product, where both spare the easy half": "too low",
# +        "the product, where both spare the easy half": "less",


# %% wrong: predict-savings | a name is missing | killed by: the names
# edit of: the teacher's
# -        "two of four layers": 1 / 2,


# %% wrong: predict-savings | a list | killed by: a dict
def predict():
    return [0.64, 0.5, 0.68, 0.34, 0.32, 0.565, 0.385, "too low"]


# %% right: govern-battery | prices of days that are drawn
def govern(kind, now, left, seen, curves, expected):
    import random

    came = sum(seen.values())
    draw = random.Random(came)
    shape, unit = 25 + came / 5, 25 / expected + now / 5
    kinds = list(curves)
    weights = [seen[one] + 8 for one in kinds]

    def up(points):
        return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(points, points[1:])]

    mean = {one: weight / sum(weights) for one, weight in zip(kinds, weights)}
    steps = sorted(
        (-slope, mean[one] * (b[0] - a[0]))
        for one in kinds
        for slope, a, b in zip(up(curves[one]), curves[one], curves[one][1:])
    )
    least = sum(mean[one] * curves[one][0][0] for one in kinds)
    scarce = sum(mean[one] * curves[one][0][1] for one in kinds) / least
    total = 0.0
    for turn in range(24):
        rate = draw.gammavariate(shape, 1 / unit)
        number = 1 + max(0.0, draw.gauss((1 - now) * rate, math.sqrt(2 * (1 - now) * rate)))
        share, price = left / number - least, scarce
        if share >= 0:
            for slope, cost in steps:
                price = -slope
                share -= cost
                if share < 0:
                    break
            else:
                price = 0.0
        total += price
    price = total / 24
    place = sum(slope > price for slope in up(curves[kind]))
    while place >= 0 and curves[kind][place][0] * curves[kind][place][2] > left:
        place -= 1
    return place if place >= 0 else None


# %% right: govern-battery | what it brings now and what the rest brings later
def govern(kind, now, left, seen, curves, expected):
    came = sum(seen.values())
    unit = 25 / expected + now / 5
    rate = (25 + came / 5) / unit
    mean, spread = (1 - now) * rate, math.sqrt(5 * (1 - now) * rate + (1 - now) ** 2 * rate / unit)
    numbers = [max(0.0, mean + z * spread) for z in (-1.5, -0.9, -0.5, -0.15, 0.15, 0.5, 0.9, 1.5)]
    often = {one: (seen[one] + 10) / (came + 10 * len(curves)) for one in curves}
    steps = []
    for one, points in curves.items():
        before = (0.0, 0.0)
        for cost, quality, _ in points:
            rise, run = quality - before[1], cost - before[0]
            steps.append((rise / run, often[one] * run))
            before = cost, quality
    steps.sort(reverse=True)

    def later(joules, number):
        worth, each = 0.0, joules / number
        for slope, cost in steps:
            part = min(each, cost)
            worth, each = worth + slope * part, each - part
            if each <= 0:
                break
        return number * worth

    best, choice = -math.inf, None
    for place, (cost, quality, most) in enumerate(curves[kind]):
        if cost * most <= left:
            rest = sum(later(left - cost, number) for number in numbers if number > 0) / len(numbers)
            if quality + rest > best + 1e-12:
                best, choice = quality + rest, place
    return choice


# %% wrong: govern-battery | one price, for the number that is expected | killed by: above the reference
def govern(kind, now, left, seen, curves, expected):
    came, shape, clump = sum(seen.values()), 25, 10
    rate = (shape + came / clump) / (shape / expected + now / clump)
    allowance = left / (1 + (1 - now) * rate)

    def at(one, price):
        return max(range(len(curves[one])), key=lambda k: (curves[one][k][1] - price * curves[one][k][0], -k))

    def mean(price):
        return sum((seen[one] + 1) / (came + len(seen)) * curves[one][at(one, price)][0] for one in curves)

    steps = {(b[1] - a[1]) / (b[0] - a[0]) for points in curves.values() for a, b in pairwise(points)}
    prices = sorted(step * (1 + 1e-9) for step in {0.0, *steps})
    price = next((price for price in prices if mean(price) <= allowance), prices[-1])
    knobs = enumerate(curves[kind][: at(kind, price) + 1])
    return max((k for k, (cost, _, most) in knobs if cost * most <= left), default=None)


# %% wrong: govern-battery | prices by halving, for the number that is expected | killed by: at the reference
def govern(kind, now, left, seen, curves, expected):
    came = sum(seen.values())
    rate = (25 + came / 8) / (25 / expected + now / 8)
    allowance = left / (1 + 1.02 * (1 - now) * rate)

    def at(one, price):
        points = curves[one]
        place = 0
        while place + 1 < len(points):
            (c, q, _), (d, r, _) = points[place : place + 2]
            if r - q <= price * (d - c):
                break
            place += 1
        return place

    low, high = 0.0, 1.0
    for _ in range(40):
        high = high if sum(seen[o] * curves[o][at(o, high)][0] for o in curves) <= came * allowance else 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if sum(seen[o] * curves[o][at(o, middle)][0] for o in curves) > came * allowance:
            low = middle
        else:
            high = middle
    place = at(kind, high)
    while place >= 0 and curves[kind][place][0] * curves[kind][place][2] > left:
        place -= 1
    return None if place < 0 else place


# %% wrong: govern-battery | the lower of two prices in its turn, as the reference does it | killed by: above the reference
def govern(kind, now, left, seen, curves, expected):
    came = sum(seen.values())
    unit = 25 / expected + now / 10
    rate = (25 + came / 10) / unit
    mean = (1 - now) * rate
    spread = math.sqrt(10 * mean + (1 - now) ** 2 * rate / unit)
    allowance = left / (1 + max(0.0, mean + 0.2 * spread))
    slopes = sorted(
        {0.0} | {(r - q) / (d - c) for points in curves.values() for (c, q, _), (d, r, _) in pairwise(points)}
    )

    def at(one, price):
        steps = pairwise(curves[one])
        return sum((r - q) / (d - c) > price * (1 + 1e-9) for (c, q, _), (d, r, _) in steps)

    def mean_cost(price):
        return sum((seen[o] + 1) * curves[o][at(o, price)][0] for o in curves) / (came + len(curves))

    chosen, before = slopes[-1], None
    for slope in slopes:
        if mean_cost(slope) <= allowance:
            chosen = slope
            break
        before = slope
    if before is not None and mean_cost(chosen) <= allowance:
        share = (allowance - mean_cost(chosen)) / (mean_cost(before) - mean_cost(chosen))
        if (came * 0.618033988749895) % 1 < share:
            chosen = before
    places = [k for k, (c, _, m) in enumerate(curves[kind]) if c * m <= left and k <= at(kind, chosen)]
    return max(places, default=None)


# %% wrong: govern-battery | what a request costs on average is paid for | killed by: never overspends
# edit of: the teacher's
# -    return max((k for k, (cost, _, most) in knobs if cost * most <= left), default=None)
# +    return max((k for k, (cost, _, most) in knobs if cost <= left), default=None)


# %% wrong: govern-battery | somebody is always answered | killed by: never overspends
# edit of: the teacher's
# -    return max((k for k, (cost, _, most) in knobs if cost * most <= left), default=None)
# +    return max((k for k, (cost, _, most) in knobs if cost * most <= left), default=0)


# %% wrong: govern-battery | nothing is kept back | killed by: never overspends
# edit of: the teacher's
# -    knobs = enumerate(curves[kind][: at(kind, price) + 1])
# -    return max((k for k, (cost, _, most) in knobs if cost * most <= left), default=None)
# +    return at(kind, price)


# %% wrong: govern-battery | refused where the chosen one is not paid for | killed by: a cheaper knob
# edit of: the teacher's
# -    knobs = enumerate(curves[kind][: at(kind, price) + 1])
# -    return max((k for k, (cost, _, most) in knobs if cost * most <= left), default=None)
# +    cost, _, most = curves[kind][at(kind, price)]
# +    return at(kind, price) if cost * most <= left else None


# %% wrong: govern-battery | four knobs for every kind | killed by: runs
# edit of: the teacher's
# -        return max(range(len(curves[one])), key=lambda k: (curves[one][k][1] - price * curves[one][k][0], -k))
# +        return max(range(4), key=lambda k: (curves[one][k][1] - price * curves[one][k][0], -k))


# %% wrong: govern-battery | even shares, by forecast and rate | killed by: better than even shares
def govern(kind, now, left, seen, curves, expected):
    coming = (1 - now) * (expected + sum(seen.values())) / (1 + now) + 1
    paid = [k for k, (cost, _, most) in enumerate(curves[kind]) if cost * most <= left]
    return max((k for k in paid if curves[kind][k][0] <= left / coming or k == 0), default=None)


# %% wrong: govern-battery | a price by the rate of the day alone | killed by: better than even shares
# edit of: one price, for the number that is expected
# -    rate = (shape + came / clump) / (shape / expected + now / clump)
# +    rate = came / max(now, 1e-3)


# %% wrong: govern-battery | a price by the forecast alone | killed by: above the reference
# edit of: one price, for the number that is expected
# -    rate = (shape + came / clump) / (shape / expected + now / clump)
# +    rate = expected


# %% wrong: govern-battery | a shorter day is hoped for | killed by: near the reference
# edit of: one price, for the number that is expected
# -    allowance = left / (1 + (1 - now) * rate)
# +    allowance = left / (1 + 0.7 * (1 - now) * rate)


# %% wrong: govern-battery | a longer day is feared | killed by: near the reference
# edit of: one price, for the number that is expected
# -    allowance = left / (1 + (1 - now) * rate)
# +    allowance = left / (1 + 1.1 * (1 - now) * rate)


# %% wrong: govern-battery | the dearest that can be paid for | killed by: better than a fixed knob
def govern(kind, now, left, seen, curves, expected):
    return max((k for k, (cost, _, most) in enumerate(curves[kind]) if cost * most <= left), default=None)


# %% wrong: govern-battery | always the cheapest | killed by: better than a fixed knob
def govern(kind, now, left, seen, curves, expected):
    cost, _, most = curves[kind][0]
    return 0 if cost * most <= left else None


# %% wrong: govern-battery | even shares of the forecast | killed by: better than a fixed knob
def govern(kind, now, left, seen, curves, expected):
    share = left / max(1, expected + 1 - sum(seen.values()))
    knobs = [k for k, (cost, _, most) in enumerate(curves[kind]) if cost * most <= left and (cost <= share or k == 0)]
    return max(knobs, default=None)


# %% wrong: govern-battery | even shares, by the clock | killed by: better than even shares
def govern(kind, now, left, seen, curves, expected):
    share = left / (1 + (1 - now) * expected)
    knobs = [k for k, (cost, _, most) in enumerate(curves[kind]) if cost * most <= left and (cost <= share or k == 0)]
    return max(knobs, default=None)


# %% wrong: govern-battery | nobody is answered | killed by: better than a fixed knob
def govern(kind, now, left, seen, curves, expected):
    return None


# %% wrong: govern-battery | so many are still to come as were forecast | killed by: better than a fixed knob
# edit of: one price, for the number that is expected
# -    allowance = left / (1 + (1 - now) * rate)
# +    allowance = left / (1 + expected)


# %% wrong: govern-battery | three times as many as have come by now | killed by: better than a fixed knob
# edit of: one price, for the number that is expected
# -    rate = (shape + came / clump) / (shape / expected + now / clump)
# +    rate = 3 * came / max(now, 1e-3)


# %% wrong: govern-battery | what was forecast comes, whatever has come | killed by: better than a fixed knob
# edit of: one price, for the number that is expected
# -    allowance = left / (1 + (1 - now) * rate)
# +    allowance = left / (1 + max(0.0, expected - came))


# %% wrong: govern-battery | prices of the visible curves | killed by: better than a fixed knob
# edit of: one price, for the number that is expected
# -    price = next((price for price in prices if mean(price) <= allowance), prices[-1])
# +    price = next((price for price in prices if mean(price) <= allowance), prices[-1])
# +    price = min(0.2, max(0.02, price))


# %% wrong: govern-battery | kinds by their names | killed by: runs
# edit of: the teacher's
# -    knobs = enumerate(curves[kind][: at(kind, price) + 1])
# +    knobs = enumerate(curves[kind][: at(kind, price if {"easy": 1, "hard": 2}[kind] else 0.0) + 1])


# %% wrong: govern-battery | a joule, not a place | killed by: a knob or None
# edit of: the teacher's
# -    return max((k for k, (cost, _, most) in knobs if cost * most <= left), default=None)
# +    return max((cost for _, (cost, _, most) in knobs if cost * most <= left), default=None)


# %% wrong: govern-battery | dynlib's governor | killed by: by hand
def govern(kind, now, left, seen, curves, expected):
    from dynlib.cost import CostCurve, Governor, Interval, Point

    made = {
        one: CostCurve([Point(k, c, c, c, Interval(q, q, q), m) for k, (c, q, m) in enumerate(points)])
        for one, points in curves.items()
    }
    point = Governor(made, max(left, 1e-9), expected=max(1.0, expected * (1 - now))).choose(now, kind)
    return None if point is None else point.knob
