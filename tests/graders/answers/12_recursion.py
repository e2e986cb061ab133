# %% right: last-calls | two loops, cut by hand, no graph before
def last_calls(net, x, y, z, n, T, k):
    plan = ("z" * n + "y") * T
    if k < 1 or k > len(plan):
        raise ValueError(f"there are {len(plan)} calls, and k is {k}")

    def run(names, x, y, z):
        for name in names:
            if name == "z":
                z = net(x + y + z)
            else:
                y = net(y + z)
        return y, z

    with torch.no_grad():
        y, z = run(plan[: len(plan) - k], x, y, z)
    return run(plan[len(plan) - k :], x, y, z)


# %% right: last-calls | recursion by recursion, with the calls that are left
def last_calls(net, x, y, z, n, T, k):
    from contextlib import nullcontext

    left = T * (n + 1)
    if k not in range(1, left + 1):
        raise ValueError("no such k")
    for _ in range(T):
        for thought in range(n + 1):
            with torch.no_grad() if left > k else nullcontext():
                z, y = (z, net(y + z)) if thought == n else (net(x + y + z), y)
            left -= 1
    return [y, z]


# %% wrong: last-calls | the whole last recursion, whatever k is | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - n - 1):


# %% wrong: last-calls | one call too few | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call > total - k):


# %% wrong: last-calls | one call too many | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k - 1):


# %% wrong: last-calls | the first k calls | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call < k):


# %% wrong: last-calls | the last calls of every recursion | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call % (n + 1) >= n + 1 - k):


# %% wrong: last-calls | never more than one recursion | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - min(k, n + 1)):


# %% wrong: last-calls | counted without the answers | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= T * n - k):


# %% wrong: last-calls | k recursions in place of k calls | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k * (n + 1)):


# %% wrong: last-calls | a graph over everything | killed by: calls with a graph
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(torch.is_grad_enabled()):


# %% wrong: last-calls | cut off, but computed with a graph | killed by: calls with a graph
def last_calls(net, x, y, z, n, T, k):
    total = T * (n + 1)
    if not 1 <= k <= total:
        raise ValueError(f"k must be 1 … {total}; got {k}")
    for call in range(total):
        if call == total - k:
            y, z = y.detach(), z.detach()
        if call % (n + 1) < n:
            z = net((x if call >= total - k else x.detach()) + y + z)
        else:
            y = net(y + z)
    return y, z


# %% wrong: last-calls | gradients are switched on under no_grad | killed by: gradients off
# edit of: the teacher's
# -        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
# +        with torch.set_grad_enabled(call >= total - k):


# %% wrong: last-calls | handed on detached | killed by: gradients
# edit of: the teacher's
# -    return y, z
# +    return y.detach(), z.detach()


# %% wrong: last-calls | x gets no gradient | killed by: gradients
# edit of: the teacher's
# -                z = net(x + y + z)
# +                z = net(x.detach() + y + z)


# %% wrong: last-calls | the thoughts are cut from the answer | killed by: gradients
# edit of: the teacher's
# -                y = net(y + z)
# +                y = net(y + z.detach())


# %% wrong: last-calls | cut from the y and z that were given | killed by: gradients
# edit of: the teacher's
# -    for call in range(total):
# +    y, z = y.detach(), z.detach()
# +    for call in range(total):


# %% wrong: last-calls | x in the answer, too | killed by: what a call gets
# edit of: the teacher's
# -                y = net(y + z)
# +                y = net(x + y + z)


# %% wrong: last-calls | thoughts without the question | killed by: what a call gets
# edit of: the teacher's
# -                z = net(x + y + z)
# +                z = net(y + z)


# %% wrong: last-calls | thoughts without the answer so far | killed by: what a call gets
# edit of: the teacher's
# -                z = net(x + y + z)
# +                z = net(x + z)


# %% wrong: last-calls | the answer first | killed by: what a call gets
# edit of: the teacher's
# -            if call % (n + 1) < n:
# +            if call % (n + 1) > 0:


# %% wrong: last-calls | n calls in a recursion | killed by: calls
def last_calls(net, x, y, z, n, T, k):
    total = T * n
    if not 1 <= k <= T * (n + 1):
        raise ValueError(f"k must be 1 … {total}; got {k}")
    for call in range(total):
        with torch.set_grad_enabled(torch.is_grad_enabled() and call >= total - k):
            if call % n < n - 1:
                z = net(x + y + z)
            else:
                y = net(y + z)
    return y, z


# %% wrong: last-calls | one recursion more | killed by: calls
# edit of: the teacher's
# -    for call in range(total):
# +    for call in range(-n - 1, total):


# %% wrong: last-calls | thoughts begin anew in each recursion | killed by: what a call gets
# edit of: the teacher's
# -    for call in range(total):
# +    first = z
# +    for call in range(total):
# +        z = first if call % (n + 1) == 0 else z


# %% wrong: last-calls | written into z | killed by: input untouched
# edit of: the teacher's
# -                z = net(x + y + z)
# +                z = net(z.add_(x + y)) if call == 0 else net(x + y + z)


# %% wrong: last-calls | any k is taken | killed by: out of range
# edit of: the teacher's
# -    if not 1 <= k <= total:
# -        raise ValueError(f"k must be 1 … {total}; got {k}")


# %% wrong: last-calls | k of 0 is taken | killed by: out of range
# edit of: the teacher's
# -    if not 1 <= k <= total:
# +    if k > total:


# %% wrong: last-calls | the answer alone | killed by: two tensors
# edit of: the teacher's
# -    return y, z
# +    return y


# %% wrong: last-calls | z and y | killed by: values
# edit of: the teacher's
# -    return y, z
# +    return z, y


# %% right: one-queue | a list of places
def one_queue(step, start, x, batch, threshold, limit):
    queue, places = list(range(len(x))), []
    answers, steps = [None] * len(x), [0] * len(x)
    while queue or places:
        while queue and len(places) < batch:
            number = queue.pop(0)
            places.append((number, *start(x[number : number + 1])))
        numbers, ys, zs = zip(*places)
        y, z, said, q = step(x[list(numbers)], torch.cat(ys), torch.cat(zs))
        places = []
        for row, number in enumerate(numbers):
            answers[number], steps[number] = said[row], steps[number] + 1
            if not float(q[row]) > threshold and steps[number] < limit:
                places.append((number, y[row : row + 1], z[row : row + 1]))
    return torch.stack(answers), torch.tensor(steps)


# %% right: one-queue | new ones are put into the places of those who left
def one_queue(step, start, x, batch, threshold, limit):
    here = torch.arange(min(batch, len(x)))
    coming = len(here)
    y, z = (part.clone() for part in start(x[here]))
    took = torch.zeros(len(x), dtype=torch.long)
    found = {}
    while here.numel():
        y, z, said, q = step(x[here], y, z)
        took.index_add_(0, here, torch.ones_like(here))
        done = (q > threshold) | (took[here] == limit)
        found.update((int(number), said[row]) for row, number in enumerate(here) if done[row])
        keep = torch.ones(len(here), dtype=torch.bool)
        for row in done.nonzero()[:, 0].tolist():
            if coming < len(x):
                here[row] = coming
                begin = start(x[coming : coming + 1])
                y[row], z[row] = begin[0][0], begin[1][0]
                coming += 1
            else:
                keep[row] = False
        here, y, z = here[keep], y[keep], z[keep]
    return torch.stack([found[number] for number in range(len(x))]), took


# %% wrong: one-queue | a new batch when all places are empty | killed by: rows
# edit of: the teacher's
# -        new = torch.arange(waiting, min(waiting + batch - len(at_work), len(x)))
# +        new = torch.arange(waiting, min(waiting + (0 if len(at_work) else batch), len(x)))


# %% wrong: one-queue | one new puzzle a round | killed by: rows
# edit of: the teacher's
# -        new = torch.arange(waiting, min(waiting + batch - len(at_work), len(x)))
# +        new = torch.arange(waiting, min(waiting + min(batch - len(at_work), 1 if waiting else batch), len(x)))


# %% wrong: one-queue | one puzzle at most comes after the first call | killed by: rows
# edit of: the teacher's
# -        new = torch.arange(waiting, min(waiting + batch - len(at_work), len(x)))
# +        room = min(batch - len(at_work), 1) if steps.any() else batch
# +        new = torch.arange(waiting, min(waiting + room, len(x)))


# %% wrong: one-queue | places without a puzzle | killed by: runs
# edit of: the teacher's
# -        new = torch.arange(waiting, min(waiting + batch - len(at_work), len(x)))
# +        new = torch.arange(waiting, waiting + batch - len(at_work))


# %% wrong: one-queue | answers as floats | killed by: runs
# edit of: the teacher's
# -            answers = said.new_zeros(len(x), *said.shape[1:])
# +            answers = torch.zeros(len(x), *said.shape[1:])


# %% wrong: one-queue | all at once | killed by: at most so many
# edit of: the teacher's
# -        new = torch.arange(waiting, min(waiting + batch - len(at_work), len(x)))
# +        new = torch.arange(waiting, len(x))


# %% wrong: one-queue | a batch of new ones beside the old | killed by: at most so many
# edit of: the teacher's
# -        new = torch.arange(waiting, min(waiting + batch - len(at_work), len(x)))
# +        new = torch.arange(waiting, min(waiting + batch, len(x)))


# %% wrong: one-queue | nobody leaves before the limit | killed by: steps
# edit of: the teacher's
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        stays = steps[at_work] < limit


# %% wrong: one-queue | who is sure stays | killed by: steps
# edit of: the teacher's
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        stays = (q > threshold) & (steps[at_work] < limit)


# %% wrong: one-queue | at the threshold is above it | killed by: steps
# edit of: the teacher's
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        stays = (q < threshold) & (steps[at_work] < limit)


# %% wrong: one-queue | one step beyond the limit | killed by: steps
# edit of: the teacher's
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        stays = (q <= threshold) & (steps[at_work] <= limit)


# %% wrong: one-queue | the threshold is 0 | killed by: steps
# edit of: the teacher's
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        stays = (q <= 0) & (steps[at_work] < limit)


# %% wrong: one-queue | the limit counts the calls of the batch | killed by: steps
# edit of: the teacher's
# -    waiting = 0
# +    waiting = rounds = 0
# …
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        rounds += 1
# +        stays = (q <= threshold) & (rounds % limit != 0)


# %% wrong: one-queue | the whole batch leaves when all are sure | killed by: steps
# edit of: the teacher's
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        stays = ((q <= threshold).any() & (steps[at_work] < limit).any()).expand(len(q))


# %% wrong: one-queue | the batch leaves with the first that is sure | killed by: steps
# edit of: the teacher's
# -        stays = (q <= threshold) & (steps[at_work] < limit)
# +        stays = ((q <= threshold) & (steps[at_work] < limit)).all().expand(len(q))


# %% wrong: one-queue | new ones go on from what the last left | killed by: what a call gets
# edit of: new ones are put into the places of those who left
# -                begin = start(x[coming : coming + 1])
# -                y[row], z[row] = begin[0][0], begin[1][0]
# +                z[row] = start(x[coming : coming + 1])[1][0]


# %% wrong: one-queue | y and z are cut, their puzzles are not | killed by: what a call gets
# edit of: the teacher's
# -        y, z, said, q = step(x[at_work], y, z)
# +        y, z, said, q = step(x[torch.arange(len(at_work)) + int(at_work[0])], y, z)


# %% wrong: one-queue | y and z begin anew in each step | killed by: what a call gets
# edit of: the teacher's
# -        y, z, said, q = step(x[at_work], y, z)
# +        y, z, said, q = step(x[at_work], *start(x[at_work]))


# %% wrong: one-queue | y begins anew when somebody comes | killed by: what a call gets
# edit of: the teacher's
# -            at_work, y, z = torch.cat([at_work, new]), torch.cat([y, fresh_y]), torch.cat([z, fresh_z])
# +            at_work, z = torch.cat([at_work, new]), torch.cat([z, fresh_z])
# +            y = start(x[at_work])[0]


# %% wrong: one-queue | the new ones stand in front, y and z behind | killed by: what a call gets
# edit of: the teacher's
# -            at_work, y, z = torch.cat([at_work, new]), torch.cat([y, fresh_y]), torch.cat([z, fresh_z])
# +            at_work, y, z = torch.cat([new, at_work]), torch.cat([y, fresh_y]), torch.cat([z, fresh_z])


# %% wrong: one-queue | y and z begin with zeros | killed by: what a call gets
# edit of: the teacher's
# -            fresh_y, fresh_z = start(x[new])
# +            fresh_y, fresh_z = torch.zeros_like(x[new]), torch.zeros_like(x[new])


# %% wrong: one-queue | in the order in which they leave | killed by: steps
# edit of: the teacher's
# -    return answers, steps
# +    order = steps.argsort(stable=True)
# +    return answers[order], steps[order]


# %% wrong: one-queue | the answers in the order in which they leave | killed by: answers
# edit of: the teacher's
# -    return answers, steps
# +    return answers[steps.argsort(stable=True)], steps


# %% wrong: one-queue | the first answers stay | killed by: answers
# edit of: the teacher's
# -        answers[at_work] = said
# +        answers[at_work] = torch.where(steps[at_work, None] == 1, said, answers[at_work])


# %% wrong: one-queue | steps are counted from 0 | killed by: steps
# edit of: the teacher's
# -    return answers, steps
# +    return answers, steps - 1


# %% wrong: one-queue | who is done is computed on until nobody waits | killed by: rows
def one_queue(step, start, x, batch, threshold, limit):
    answers, steps = [], []
    for some in x.split(batch):
        y, z = start(some)
        done = torch.zeros(len(some), dtype=torch.bool)
        took = torch.zeros(len(some), dtype=torch.int64)
        kept = None
        while not done.all():
            y, z, said, q = step(some, y, z)
            kept = said if kept is None else torch.where(done[:, None], kept, said)
            took = took + ~done
            done = done | (q > threshold) | (took >= limit)
        answers.append(kept)
        steps.append(took)
    return torch.cat(answers), torch.cat(steps)


# %% wrong: one-queue | one puzzle at a time | killed by: rows
def one_queue(step, start, x, batch, threshold, limit):
    answers, steps = [], []
    for one in x.split(1):
        y, z = start(one)
        for took in range(1, limit + 1):
            y, z, said, q = step(one, y, z)
            if q.item() > threshold:
                break
        answers.append(said)
        steps.append(took)
    return torch.cat(answers), torch.tensor(steps)


# %% wrong: one-queue | a call for nobody at the end | killed by: at most so many
# edit of: the teacher's
# -    return answers, steps
# +    step(x[at_work], y, z)
# +    return answers, steps


# %% wrong: one-queue | the answers alone | killed by: two tensors
# edit of: the teacher's
# -    return answers, steps
# +    return answers


# %% wrong: one-queue | steps as floats | killed by: steps
# edit of: the teacher's
# -    return answers, steps
# +    return answers, steps.float()


# %% wrong: one-queue | who has left is wiped out of x | killed by: input untouched
# edit of: the teacher's
# -        at_work, y, z = at_work[stays], y[stays], z[stays]
# +        x[at_work[~stays]] = 0
# +        at_work, y, z = at_work[stays], y[stays], z[stays]


# %% right: stablemax-loss | PyTorch's cross-entropy of log s
def stablemax_loss(logits, labels):
    from torch.nn import functional as F

    size = 1 + logits.abs()
    log_s = torch.where(logits >= 0, size.log(), -size.log())
    # |x| has the slope 0 at 0, where log s has 1
    log_s = torch.where(logits == 0, logits, log_s)
    lost = F.cross_entropy(log_s.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="none")
    lost, counts = lost.view(labels.shape), labels != -1
    return lost.sum(1) / counts.sum(1).clamp(min=1)


# %% right: stablemax-loss | masked, puzzle by puzzle
def stablemax_loss(logits, labels):
    losses = []
    for grid, marks in zip(logits, labels):
        grid, marks = grid[marks >= 0], marks[marks >= 0]
        if len(marks) == 0:
            losses.append((logits[0] * 0).sum())
            continue
        log_s = torch.relu(grid).log1p() - torch.relu(-grid).log1p()
        log_s = torch.where(grid == 0, grid, log_s)
        picked = log_s[torch.arange(len(marks)), marks]
        losses.append((torch.logsumexp(log_s, dim=1) - picked).mean())
    return torch.stack(losses)


# %% wrong: stablemax-loss | a softmax | killed by: all count
# edit of: the teacher's
# -    log_p = log_s - log_s.logsumexp(-1, keepdim=True)
# +    log_p = logits.log_softmax(-1)


# %% wrong: stablemax-loss | s as it is written | killed by: gradients, at 0, 1 and −1
def stablemax_loss(logits, labels):
    s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    p = s / s.sum(-1, keepdim=True)
    counts = labels >= 0
    losses = -p.gather(-1, labels.clamp_min(0)[..., None])[..., 0].log()
    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)


# %% wrong: stablemax-loss | s without NaN, but not its logarithm | killed by: large and tiny
def stablemax_loss(logits, labels):
    above, below = logits.clamp_min(0), (-logits).clamp_min(0)
    s = torch.where(logits >= 0, 1 + above, 1 / (1 + below))
    p = s / s.sum(-1, keepdim=True)
    counts = labels >= 0
    losses = -p.gather(-1, labels.clamp_min(0)[..., None])[..., 0].log()
    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)


# %% wrong: stablemax-loss | kept from 0 by a small number | killed by: large and tiny
def stablemax_loss(logits, labels):
    above, below = logits.clamp_min(0), (-logits).clamp_min(0)
    s = torch.where(logits >= 0, 1 + above, 1 / (1 + below))
    p = s / s.sum(-1, keepdim=True).clamp_max(1e38)
    counts = labels >= 0
    losses = -(p.gather(-1, labels.clamp_min(0)[..., None])[..., 0] + 1e-12).log()
    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)


# %% wrong: stablemax-loss | s itself in float64 | killed by: large and tiny
def stablemax_loss(logits, labels):
    wide = logits.double()
    s = torch.where(wide >= 0, 1 + wide.clamp_min(0), 1 / (1 - wide.clamp_max(0)))
    p = s / s.sum(-1, keepdim=True)
    counts = labels >= 0
    losses = -p.gather(-1, labels.clamp_min(0)[..., None])[..., 0].log()
    return ((losses * counts).sum(1) / counts.sum(1).clamp_min(1)).to(logits.dtype)


# %% wrong: stablemax-loss | s divided by the largest, in float64 | killed by: large and tiny
# edit of: s itself in float64
#      s = torch.where(wide >= 0, 1 + wide.clamp_min(0), 1 / (1 - wide.clamp_max(0)))
# +    s = s / s.amax(-1, keepdim=True)


# %% wrong: stablemax-loss | −1 as an index | killed by: runs
# edit of: the teacher's
# -    losses = -log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
# +    losses = -log_p.gather(-1, labels[..., None])[..., 0]


# %% wrong: stablemax-loss | by the sign and the absolute value | killed by: gradients, at 0, 1 and −1
# edit of: the teacher's
# -    above, below = logits.clamp_min(0), (-logits).clamp_min(0)
# -    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p())
# +    log_s = logits.sign() * logits.abs().log1p()


# %% wrong: stablemax-loss | log1p where it is not meant to be | killed by: gradients, all count
# edit of: the teacher's
# -    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p())
# +    log_s = torch.where(logits >= 0, logits.log1p(), -(-logits).log1p())


# %% wrong: stablemax-loss | nothing below 0 | killed by: all count
# edit of: the teacher's
# -    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p())
# +    log_s = above.log1p()


# %% wrong: stablemax-loss | the same above and below | killed by: all count
# edit of: the teacher's
# -    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p())
# +    log_s = torch.where(logits >= 0, above.log1p(), below.log1p())


# %% wrong: stablemax-loss | e to the x below 0 | killed by: all count
# edit of: the teacher's
# -    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p())
# +    log_s = torch.where(logits >= 0, above.log1p(), logits)


# %% wrong: stablemax-loss | the branches swapped | killed by: all count
# edit of: the teacher's
# -    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p())
# +    log_s = torch.where(logits < 0, above.log1p(), -below.log1p())


# %% wrong: stablemax-loss | cut off at ten thousand | killed by: large and tiny
# edit of: the teacher's
# -    above, below = logits.clamp_min(0), (-logits).clamp_min(0)
# +    above, below = logits.clamp(0, 1e4), (-logits).clamp(0, 1e4)


# %% wrong: stablemax-loss | without the sum over the classes | killed by: all count
# edit of: the teacher's
# -    log_p = log_s - log_s.logsumexp(-1, keepdim=True)
# +    log_p = log_s


# %% wrong: stablemax-loss | the sum over the cells, not the classes | killed by: all count
# edit of: the teacher's
# -    log_p = log_s - log_s.logsumexp(-1, keepdim=True)
# +    log_p = log_s - log_s.logsumexp(1, keepdim=True)


# %% wrong: stablemax-loss | the sign is turned | killed by: all count
# edit of: the teacher's
# -    losses = -log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
# +    losses = log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]


# %% wrong: stablemax-loss | in bits | killed by: all count
# edit of: the teacher's
# -    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)
# +    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1) * 1.4426950408889634


# %% wrong: stablemax-loss | the mean over all cells | killed by: some count
# edit of: the teacher's
# -    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)
# +    return (losses * counts).mean(1)


# %% wrong: stablemax-loss | the sum over the cells | killed by: all count
# edit of: the teacher's
# -    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)
# +    return (losses * counts).sum(1)


# %% wrong: stablemax-loss | one mean for the whole batch | killed by: all count
# edit of: the teacher's
# -    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)
# +    return (losses * counts).sum() / counts.sum().clamp_min(1)


# %% wrong: stablemax-loss | divided by what counts in all puzzles | killed by: some count
# edit of: the teacher's
# -    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)
# +    return (losses * counts).sum(1) / counts.sum().clamp_min(1) * len(labels)


# %% wrong: stablemax-loss | one for each cell | killed by: all count
# edit of: the teacher's
# -    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)
# +    return losses * counts


# %% wrong: stablemax-loss | −1 counts as the first class | killed by: some count
# edit of: the teacher's
# -    counts = labels >= 0
# +    counts = torch.ones_like(labels)


# %% wrong: stablemax-loss | class 0 does not count either | killed by: all count
# edit of: the teacher's
# -    counts = labels >= 0
# +    counts = labels > 0


# %% wrong: stablemax-loss | NaN where none counts | killed by: none counts
# edit of: the teacher's
# -    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)
# +    return (losses * counts).sum(1) / counts.sum(1)


# %% wrong: stablemax-loss | in float64 | killed by: none counts
# edit of: the teacher's
# -    above, below = logits.clamp_min(0), (-logits).clamp_min(0)
# +    logits = logits.double()
# +    above, below = logits.clamp_min(0), (-logits).clamp_min(0)


# %% wrong: stablemax-loss | the labels are changed | killed by: input untouched
# edit of: the teacher's
# -    losses = -log_p.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
# +    losses = -log_p.gather(-1, labels.clamp_min_(0)[..., None])[..., 0]


# %% wrong: stablemax-loss | without a gradient | killed by: gradients, all count
# edit of: the teacher's
# -    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p())
# +    log_s = torch.where(logits >= 0, above.log1p(), -below.log1p()).detach()


# %% wrong: stablemax-loss | the sum has no gradient | killed by: gradients, all count
# edit of: the teacher's
# -    log_p = log_s - log_s.logsumexp(-1, keepdim=True)
# +    log_p = log_s - log_s.detach().logsumexp(-1, keepdim=True)


# %% wrong: stablemax-loss | dynlib's | killed by: by hand
def stablemax_loss(logits, labels):
    from dynlib.depth import stablemax_cross_entropy

    counts = labels >= 0
    losses = stablemax_cross_entropy(logits, labels.clamp_min(0))
    return (losses * counts).sum(1) / counts.sum(1).clamp_min(1)


# %% right: follow | lerp, under a decorator
@torch.no_grad()
def follow(average, model, decay):
    for kept, weight in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(weight.to(kept.dtype), 1 - decay)
    theirs = dict(model.named_buffers())
    for name, kept in average.named_buffers():
        kept.copy_(theirs[name])


# %% right: follow | the whole state, each place in memory once
def follow(average, model, decay):
    from torch import nn

    weights = {id(p) for p in average.parameters()}
    ours, theirs = (
        dict(whole.named_parameters(remove_duplicate=False)) | dict(whole.named_buffers()) for whole in (average, model)
    )
    done = set()
    for name, kept in ours.items():
        if kept.data_ptr() in done and id(kept) in weights:
            continue
        done.add(kept.data_ptr())
        value = theirs[name].detach().to(kept.dtype)
        kept.detach().copy_(decay * kept.detach() + (1 - decay) * value if id(kept) in weights else value)


# %% wrong: follow | decay is how much is new | killed by: one update
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.mul_(1 - decay).add_(weights[name].to(kept.dtype), alpha=decay)


# %% wrong: follow | the weights are copied | killed by: one update
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.copy_(weights[name])


# %% wrong: follow | nothing is added | killed by: one update
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.mul_(decay)


# %% wrong: follow | all of the new is added | killed by: one update
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.mul_(decay).add_(weights[name].to(kept.dtype))


# %% wrong: follow | the mean of both | killed by: one update
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.add_(weights[name].to(kept.dtype)).div_(2)


# %% wrong: follow | away from the model | killed by: one update
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.add_(kept - weights[name].to(kept.dtype), alpha=1 - decay)


# %% wrong: follow | a state dict names a shared weight twice | killed by: used twice
def follow(average, model, decay):
    theirs = model.state_dict()
    buffers = dict(average.named_buffers())
    with torch.no_grad():
        for name, kept in average.state_dict().items():
            if name in buffers:
                kept.copy_(theirs[name])
            else:
                kept.mul_(decay).add_(theirs[name].to(kept.dtype), alpha=1 - decay)


# %% wrong: follow | frozen weights are left out | killed by: frozen
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            if kept.requires_grad:
# +                kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)


# %% wrong: follow | biases are left out | killed by: one update
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            if kept.ndim > 1 or not kept.requires_grad:
# +                kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)


# %% wrong: follow | frozen weights are copied | killed by: frozen
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            share = decay if kept.requires_grad else 0.0
# +            kept.mul_(share).add_(weights[name].to(kept.dtype), alpha=1 - share)


# %% wrong: follow | buffers stay | killed by: buffers
# edit of: the teacher's
# -            kept.copy_(buffer)
# +            pass


# %% wrong: follow | buffers that are not saved stay | killed by: buffers
# edit of: the teacher's
# -        for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):
# -            kept.copy_(buffer)
# +        saved = model.state_dict()
# +        for name, kept in average.named_buffers():
# +            if name in saved:
# +                kept.copy_(saved[name])


# %% wrong: follow | lerp across dtypes | killed by: runs
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.lerp_(weights[name], 1 - decay)


# %% wrong: follow | buffers are averaged | killed by: buffers
# edit of: the teacher's
# -            kept.copy_(buffer)
# +            kept.copy_(decay * kept + (1 - decay) * buffer)


# %% wrong: follow | counts are averaged | killed by: buffers
# edit of: the teacher's
# -            kept.copy_(buffer)
# +            kept.copy_(buffer if buffer.is_floating_point() else decay * kept + (1 - decay) * buffer)


# %% wrong: follow | counts stay | killed by: buffers
# edit of: the teacher's
# -            kept.copy_(buffer)
# +            if buffer.is_floating_point():
# +                kept.copy_(buffer)


# %% wrong: follow | computed in the model's dtype | killed by: beside bfloat16
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            w = weights[name]
# +            kept.copy_(kept.to(w.dtype) * decay + w * (1 - decay))


# %% wrong: follow | in the dtype of the model afterwards | killed by: in place
# edit of: the teacher's
# -    weights = dict(model.named_parameters())
# +    weights = dict(model.named_parameters())
# +    average.to(next(model.parameters()).dtype)


# %% wrong: follow | new tensors | killed by: in place
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.data = decay * kept + (1 - decay) * weights[name].to(kept.dtype)


# %% wrong: follow | the model follows the average | killed by: the model stays
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            weights[name].mul_(1 - decay).add_(kept.to(weights[name].dtype), alpha=decay)


# %% wrong: follow | the model gets the average as well | killed by: the model stays
# edit of: the teacher's
# -            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            kept.mul_(decay).add_(weights[name].to(kept.dtype), alpha=1 - decay)
# +            weights[name].copy_(kept)


# %% wrong: follow | the model's weights ask for no gradient any more | killed by: the model stays
# edit of: the teacher's
# -    weights = dict(model.named_parameters())
# +    weights = dict(model.requires_grad_(False).named_parameters())


# %% wrong: follow | the model is put into evaluation mode | killed by: the model stays
# edit of: the teacher's
# -    weights = dict(model.named_parameters())
# +    weights = dict(model.eval().named_parameters())


# %% wrong: follow | the average is put into training mode | killed by: as it was
# edit of: the teacher's
# -    weights = dict(model.named_parameters())
# +    weights = dict(model.named_parameters())
# +    average.train()


# %% wrong: follow | the average asks for no gradient any more | killed by: as it was
# edit of: the teacher's
# -    weights = dict(model.named_parameters())
# +    weights = dict(model.named_parameters())
# +    average.requires_grad_(False)


# %% wrong: follow | with a graph | killed by: no graph
# edit of: the teacher's
# -    with torch.no_grad():
# -        for name, kept in average.named_parameters():
# +    asked = [kept.requires_grad for kept in average.parameters()]
# +    average.requires_grad_(False)
# +    if True:
# +        for name, kept in average.named_parameters():


# %% wrong: follow | leaves are written into with gradients on | killed by: runs
# edit of: the teacher's
# -    with torch.no_grad():
# +    if True:


# %% wrong: follow | dynlib's | killed by: by hand
def follow(average, model, decay):
    from dynlib.depth import EMA

    mean = EMA(average, decay)
    mean.update(model)
    average.load_state_dict(mean.model.state_dict())


# %% right: predict-recursion | worked out by hand
def predict():
    return {
        "network calls of a step": 15,
        "of these with a graph": 5,
        "layers in all steps": 240.0,
        "share of the rows that run": 7 / 16,
        "memory for the backward pass at T = 6": "the same",
        "how sure an untrained model is": 1 / (1 + 2.718281828459045**5),
        "what is left of the first weights": torch.tensor(0.99).double().pow(100),
    }


# %% right: predict-recursion | as tensors, in another order
def predict():
    left = 1.0
    for _ in range(100):
        left *= 0.99
    return {
        "what is left of the first weights": left,
        "how sure an untrained model is": torch.tensor([-5.0]).sigmoid(),
        "memory for the backward pass at T = 6": "the same",
        "share of the rows that run": torch.tensor(14 / 32),
        "layers in all steps": torch.tensor(240),
        "of these with a graph": 5.0,
        "network calls of a step": torch.tensor(15),
    }


# %% wrong: predict-recursion | thoughts alone are calls | killed by: network calls of a step
# edit of: the teacher's
# -        "network calls of a step": 3 * (4 + 1),
# +        "network calls of a step": 3 * 4,


# %% wrong: predict-recursion | one recursion is a step | killed by: network calls of a step
# edit of: the teacher's
# -        "network calls of a step": 3 * (4 + 1),
# +        "network calls of a step": 4 + 1,


# %% wrong: predict-recursion | layers in place of calls | killed by: network calls of a step
# edit of: the teacher's
# -        "network calls of a step": 3 * (4 + 1),
# +        "network calls of a step": 3 * (4 + 1) * 2,


# %% wrong: predict-recursion | the answer has no graph | killed by: of these with a graph
# edit of: the teacher's
# -        "of these with a graph": 4 + 1,
# +        "of these with a graph": 4,


# %% wrong: predict-recursion | all calls have a graph | killed by: of these with a graph
# edit of: the teacher's
# -        "of these with a graph": 4 + 1,
# +        "of these with a graph": 3 * (4 + 1),


# %% wrong: predict-recursion | the last two, as in HRM | killed by: of these with a graph
# edit of: the teacher's
# -        "of these with a graph": 4 + 1,
# +        "of these with a graph": 2,


# %% wrong: predict-recursion | one layer a call | killed by: layers in all steps
# edit of: the teacher's
# -        "layers in all steps": 8 * 3 * (4 + 1) * 2,
# +        "layers in all steps": 8 * 3 * (4 + 1),


# %% wrong: predict-recursion | the layers of one step | killed by: layers in all steps
# edit of: the teacher's
# -        "layers in all steps": 8 * 3 * (4 + 1) * 2,
# +        "layers in all steps": 3 * (4 + 1) * 2,


# %% wrong: predict-recursion | what is saved | killed by: share of the rows that run
# edit of: the teacher's
# -        "share of the rows that run": (1 + 2 + 3 + 8) / (4 * 8),
# +        "share of the rows that run": 1 - (1 + 2 + 3 + 8) / (4 * 8),


# %% wrong: predict-recursion | the batch waits for its slowest | killed by: share of the rows that run
# edit of: the teacher's
# -        "share of the rows that run": (1 + 2 + 3 + 8) / (4 * 8),
# +        "share of the rows that run": 8 / 8,


# %% wrong: predict-recursion | in percent | killed by: share of the rows that run
# edit of: the teacher's
# -        "share of the rows that run": (1 + 2 + 3 + 8) / (4 * 8),
# +        "share of the rows that run": 100 * (1 + 2 + 3 + 8) / (4 * 8),


# %% wrong: predict-recursion | twice the memory | killed by: memory for the backward pass at T = 6
# edit of: the teacher's
# -        "memory for the backward pass at T = 6": "the same",
# +        "memory for the backward pass at T = 6": "twice",


# %% wrong: predict-recursion | somewhat more memory | killed by: memory for the backward pass at T = 6
# edit of: the teacher's
# -        "memory for the backward pass at T = 6": "the same",
# +        "memory for the backward pass at T = 6": "more, but not twice",


# %% wrong: predict-recursion | another word | killed by: a word
# edit of: the teacher's
# -        "memory for the backward pass at T = 6": "the same",
# +        "memory for the backward pass at T = 6": "equal",


# %% wrong: predict-recursion | q in place of a probability | killed by: how sure an untrained model is
# edit of: the teacher's
# -        "how sure an untrained model is": torch.sigmoid(torch.tensor(-5.0, dtype=torch.float64)).item(),
# +        "how sure an untrained model is": -5,


# %% wrong: predict-recursion | as sure as a coin | killed by: how sure an untrained model is
# edit of: the teacher's
# -        "how sure an untrained model is": torch.sigmoid(torch.tensor(-5.0, dtype=torch.float64)).item(),
# +        "how sure an untrained model is": 0.5,


# %% wrong: predict-recursion | rounded | killed by: how sure an untrained model is
# edit of: the teacher's
# -        "how sure an untrained model is": torch.sigmoid(torch.tensor(-5.0, dtype=torch.float64)).item(),
# +        "how sure an untrained model is": 0.0067,


# %% wrong: predict-recursion | two digits of what is left | killed by: what is left of the first weights
# edit of: the teacher's
# -        "what is left of the first weights": 0.99**100,
# +        "what is left of the first weights": 0.37,


# %% wrong: predict-recursion | nothing is left | killed by: what is left of the first weights
# edit of: the teacher's
# -        "what is left of the first weights": 0.99**100,
# +        "what is left of the first weights": 1 - 100 * 0.01,


# %% wrong: predict-recursion | what is new | killed by: what is left of the first weights
# edit of: the teacher's
# -        "what is left of the first weights": 0.99**100,
# +        "what is left of the first weights": 1 - 0.99**100,


# %% wrong: predict-recursion | a name is missing | killed by: the names
# edit of: the teacher's
# -        "network calls of a step": 3 * (4 + 1),


# %% wrong: predict-recursion | a list | killed by: a dict
def predict():
    return [15, 5, 240, 7 / 16, "the same", 0.0067, 0.366]


# %% wrong: predict-recursion | a number in words | killed by: a number
# edit of: the teacher's
# -        "of these with a graph": 4 + 1,
# +        "of these with a graph": "5",
