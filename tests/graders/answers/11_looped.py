# %% right: window-gradients | autograd.grad, added by hand
def window_gradients(parameters, f, x, loops, window, loss):
    if window < 1 or window > loops:
        raise ValueError(f"window {window} of {loops}")
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    entrances, z = [], torch.zeros_like(x).detach()
    for t in range(loops):
        if t >= loops - window:
            entrances.append(z)
        if t < loops - 1:
            with torch.no_grad():
                z = f(z + x)
    later, losses = None, []
    while entrances:
        z = entrances.pop().clone().requires_grad_(True)
        out = f(z + x)
        part = loss(out)
        losses.append(part.item())
        goal = part / window if later is None else part / window + (out * later).sum()
        later, *found = torch.autograd.grad(goal, [z, *parameters], allow_unused=True)
        sums = [s if g is None else s + g for s, g in zip(sums, found)]
    for parameter, value in zip(parameters, sums):
        parameter.grad = value
    return sum(losses) / window


# %% right: window-gradients | the states outside the window are forgotten
def window_gradients(parameters, f, x, loops, window, loss):
    if window not in range(1, loops + 1):
        raise ValueError("window")
    for p in parameters:
        p.grad = torch.zeros_like(p)
    with torch.no_grad():
        z = torch.zeros_like(x)
        for _ in range(loops - window):
            z = f(z + x)
        inputs = [z]
        for _ in range(window - 1):
            inputs.append(f(inputs[-1] + x))
    gradient, total = torch.zeros_like(x), 0.0
    for z in inputs[::-1]:
        z = z.detach().requires_grad_()
        out = f(z + x)
        value = loss(out)
        total += float(value.detach()) / window
        torch.autograd.backward([value, out], [torch.full_like(value, 1 / window), gradient])
        gradient = z.grad
    return total


# %% right: window-gradients | forward with a graph that goes at once
# edit of: the teacher's
# -    with torch.no_grad():
# -        for _ in range(loops - 1):
# -            states.append(f(states[-1] + x))
# +    for _ in range(loops - 1):
# +        states.append(f(states[-1] + x).detach())


# %% wrong: window-gradients | the whole window in one graph | killed by: one graph
def window_gradients(parameters, f, x, loops, window, loss):
    if not 1 <= window <= loops:
        raise ValueError(f"a window of {window} in {loops} loops")
    for parameter in parameters:
        parameter.grad = None
    state, found = torch.zeros_like(x), []
    for t in range(loops):
        with torch.set_grad_enabled(t >= loops - window):
            state = f(state + x)
        if t >= loops - window:
            found.append(loss(state))
    mean = torch.stack(found).mean()
    mean.backward()
    return mean.item()


# %% wrong: window-gradients | nothing is handed back | killed by: gradients
# edit of: the teacher's
# -        torch.autograd.backward((value, after), (None, back))
# +        value.backward()


# %% wrong: window-gradients | what is handed back is that of the last loop alone | killed by: gradients
# edit of: the teacher's
# -        back = before.grad
# +        back = before.grad if not back.any() else torch.zeros_like(x)


# %% wrong: window-gradients | from the first loop of the window on | killed by: gradients
# edit of: the teacher's
# -    for before in reversed(states[-window:]):
# +    for before in states[-window:]:


# %% wrong: window-gradients | a sum over the window | killed by: the loss
# edit of: the teacher's
# -        value = loss(after) / window
# +        value = loss(after)


# %% wrong: window-gradients | a mean over all loops | killed by: the loss
# edit of: the teacher's
# -        value = loss(after) / window
# +        value = loss(after) / loops


# %% wrong: window-gradients | the last loop alone | killed by: the loss
# edit of: the teacher's
# -    for before in reversed(states[-window:]):
# +    for before in reversed(states[-1:]):


# %% wrong: window-gradients | the window ends one loop early | killed by: the loss
# edit of: the teacher's
# -        for _ in range(loops - 1):
# +        for _ in range(loops - 2):


# %% wrong: window-gradients | one loop more | killed by: the loss
# edit of: the teacher's
# -        for _ in range(loops - 1):
# +        for _ in range(loops):


# %% wrong: window-gradients | back through all loops | killed by: gradients
# edit of: the teacher's
# -    for before in reversed(states[-window:]):
# +    for number, before in reversed(list(enumerate(states))):
# …
# -        value = loss(after) / window
# +        value = loss(after) / window * (number >= loops - window)


# %% wrong: window-gradients | no injection | killed by: a gradient
# edit of: the teacher's
# -    states = [torch.zeros_like(x)]
# +    states = [x.detach().clone()]
# …
# -            states.append(f(states[-1] + x))
# +            states.append(f(states[-1]))
# …
# -        after = f(before + x)
# +        after = f(before)


# %% wrong: window-gradients | begins at x | killed by: the loss
# edit of: the teacher's
# -    states = [torch.zeros_like(x)]
# +    states = [x.detach().clone()]


# %% wrong: window-gradients | x has no gradient | killed by: a gradient
# edit of: the teacher's
# -        after = f(before + x)
# +        after = f(before + x.detach())


# %% wrong: window-gradients | .grad is not cleared | killed by: gradients
# edit of: the teacher's
# -    for parameter in parameters:
# -        parameter.grad = None


# %% wrong: window-gradients | .grad is cleared in every loop | killed by: gradients
# edit of: the teacher's
# -        before.requires_grad_()
# +        before.requires_grad_()
# +        for parameter in parameters:
# +            parameter.grad = None


# %% wrong: window-gradients | the graphs are retained | killed by: one graph
# edit of: the teacher's
# -        torch.autograd.backward((value, after), (None, back))
# +        torch.autograd.backward((value, after), (None, back), retain_graph=True)
# +        states.append(after)


# %% wrong: window-gradients | forward with a graph | killed by: one graph
# edit of: the teacher's
# -    with torch.no_grad():
# +    with torch.enable_grad():
# …
# -    for before in reversed(states[-window:]):
# +    for before in reversed([state.detach() for state in states[-window:]]):


# %% wrong: window-gradients | every entrance is looped anew | killed by: calls
def window_gradients(parameters, f, x, loops, window, loss):
    if not 1 <= window <= loops:
        raise ValueError(f"a window of {window} in {loops} loops")
    for parameter in parameters:
        parameter.grad = None
    back, total = torch.zeros_like(x), 0.0
    for t in reversed(range(loops - window, loops)):
        before = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(t):
                before = f(before + x)
        before = before.detach().requires_grad_()
        after = f(before + x)
        value = loss(after) / window
        torch.autograd.backward((value, after), (None, back))
        back = before.grad
        total += value.item()
    return total


# %% wrong: window-gradients | a tensor is returned | killed by: a number
# edit of: the teacher's
# -        total += value.item()
# +        total = total + value.detach()


# %% wrong: window-gradients | makes a step as well | killed by: parameters stay
# edit of: the teacher's
# -    return total
# +    with torch.no_grad():
# +        for parameter in parameters:
# +            parameter -= 0.1 * (0 if parameter.grad is None else parameter.grad)
# +    return total


# %% wrong: window-gradients | any window | killed by: windows
# edit of: the teacher's
# -    if not 1 <= window <= loops:
# -        raise ValueError(f"a window of {window} in {loops} loops")


# %% wrong: window-gradients | a window too long is cut | killed by: windows
# edit of: the teacher's
# -    if not 1 <= window <= loops:
# +    if window < 1:


# %% wrong: window-gradients | torch's checkpoint | killed by: by hand
def window_gradients(parameters, f, x, loops, window, loss):
    from torch.utils.checkpoint import checkpoint

    for parameter in parameters:
        parameter.grad = None
    state, total = torch.zeros_like(x), 0.0
    for t in range(loops):
        state = checkpoint(f, state + x, use_reentrant=False)
        if t >= loops - window:
            total = total + loss(state) / window
    total.backward()
    return total.item()


# %% right: serve | lists and a counter for each slot
def serve(f, x, loops, change, slots):
    final, counts = [None] * len(x), [0] * len(x)
    waiting, busy = list(range(len(x))), {}
    while waiting or busy:
        while waiting and len(busy) < slots:
            busy[waiting.pop(0)] = torch.zeros_like(x[0])
        who = list(busy)
        out = f(torch.stack([busy[i] + x[i] for i in who]))
        for i, new in zip(who, out):
            counts[i] += 1
            if (new - busy[i]).norm() <= change * new.norm() or counts[i] >= loops:
                final[i] = new
                del busy[i]
            else:
                busy[i] = new
    states = torch.stack(final) if final else x.new_zeros(x.shape)
    return states, torch.tensor(counts, dtype=torch.int64)


# %% right: serve | slots that stay in their place
@torch.no_grad()
def serve(f, x, loops, change, slots):
    states, loops_ = x.clone(), torch.zeros(len(x), dtype=torch.long)
    who = torch.full((slots,), -1)
    z, upcoming = x.new_zeros(slots, *x.shape[1:]), iter(range(len(x)))
    while True:
        for slot in (who < 0).nonzero()[:, 0].tolist():
            who[slot] = next(upcoming, -1)
            z[slot] = 0
        full = who >= 0
        if not full.any():
            return states, loops_
        mine = who[full]
        new = f(z[full] + x[mine])
        loops_[mine] += 1
        far = ((new - z[full]) ** 2).sum((1, 2)).sqrt()
        done = (far <= (new**2).sum((1, 2)).sqrt() * change) | (loops_[mine] >= loops)
        states[mine[done]] = new[done]
        z[full] = new
        who[full] = torch.where(done, torch.full_like(mine, -1), mine)


# %% wrong: serve | waits until all have stopped | killed by: a full house
# edit of: the teacher's
# -        fresh = torch.arange(coming, min(coming + int(stop.sum()), len(x)))
# +        room = slots if bool(stop.all()) else 0
# +        fresh = torch.arange(coming, min(coming + room, len(x)))


# %% wrong: serve | one sample comes at a time | killed by: a full house
# edit of: the teacher's
# -        fresh = torch.arange(coming, min(coming + int(stop.sum()), len(x)))
# +        fresh = torch.arange(coming, min(coming + min(int(stop.sum()), 1), len(x)))


# %% wrong: serve | everybody at once | killed by: slots
# edit of: the teacher's
# -    inside = torch.arange(min(slots, len(x)))  # the samples in the batch
# +    inside = torch.arange(len(x))


# %% wrong: serve | a slot too many | killed by: slots
# edit of: the teacher's
# -    inside = torch.arange(min(slots, len(x)))  # the samples in the batch
# +    inside = torch.arange(min(slots + 1, len(x)))


# %% wrong: serve | one at a time | killed by: a full house
def serve(f, x, loops, change, slots):
    states, spent = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.int64)
    for i in range(len(x)):
        z = torch.zeros_like(x[i : i + 1])
        for t in range(1, loops + 1):
            new = f(z + x[i : i + 1])
            stop = (new - z).norm() <= change * new.norm()
            z = new
            if stop or t == loops:
                states[i], spent[i] = z[0], t
                break
    return states, spent


# %% wrong: serve | nobody leaves before the last | killed by: a full house
def serve(f, x, loops, change, slots):
    states, spent = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.int64)
    for some in torch.arange(len(x)).split(slots):
        z = torch.zeros_like(x[some])
        for t in range(1, loops + 1):
            new = f(z + x[some])
            stop = (new - z).flatten(1).norm(dim=1) <= change * new.flatten(1).norm(dim=1)
            now = (stop | (t == loops)) & (spent[some] == 0)
            states[some[now]], spent[some[now]] = new[now], t
            z = new
            if (spent[some] > 0).all():
                break
    return states, spent


# %% wrong: serve | less than, not at most | killed by: loops
# edit of: the teacher's
# -        stop = (moved <= change * length) | (spent[inside] == loops)
# +        stop = (moved < change * length) | (spent[inside] == loops)


# %% wrong: serve | of the length before | killed by: loops
# edit of: the teacher's
# -        moved, length = ((after - state).flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
# +        moved, length = ((after - state).flatten(1).norm(dim=1), state.flatten(1).norm(dim=1))


# %% wrong: serve | a quotient, NaN at a state of 0 | killed by: loops
# edit of: the teacher's
# -        stop = (moved <= change * length) | (spent[inside] == loops)
# +        stop = (moved / length <= change) | (spent[inside] == loops)


# %% wrong: serve | a length for each token, and their mean | killed by: loops
# edit of: the teacher's
# -        moved, length = ((after - state).flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
# +        moved, length = ((after - state).norm(dim=-1).mean(1), after.norm(dim=-1).mean(1))


# %% wrong: serve | sums of sizes | killed by: loops
# edit of: the teacher's
# -        moved, length = ((after - state).flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
# +        moved, length = ((after - state).abs().sum((1, 2)), after.abs().sum((1, 2)))


# %% wrong: serve | one loop too many | killed by: loops
# edit of: the teacher's
# -        stop = (moved <= change * length) | (spent[inside] == loops)
# +        stop = (moved <= change * length) | (spent[inside] > loops)


# %% wrong: serve | the last that waits comes first | killed by: in line
# edit of: the teacher's
# -    while len(inside):
# +    turn = torch.arange(len(x))
# +    turn[len(inside) :] = turn[len(inside) :].flip(0)
# +    while len(inside):
# …
# -        inside = torch.cat([inside[~stop], fresh])
# +        fresh = turn[fresh]
# +        inside = torch.cat([inside[~stop], fresh])


# %% wrong: serve | who waits is lost if more slots are free | killed by: loops
# edit of: the teacher's
# -        coming += len(fresh)
# +        fresh = fresh if len(fresh) == int(stop.sum()) else fresh[:0]
# +        coming += len(fresh)


# %% wrong: serve | not relative | killed by: loops
# edit of: the teacher's
# -        stop = (moved <= change * length) | (spent[inside] == loops)
# +        stop = (moved <= change) | (spent[inside] == loops)


# %% wrong: serve | the largest entry for the length | killed by: loops
# edit of: the teacher's
# -        moved, length = ((after - state).flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
# +        moved, length = ((after - state).flatten(1).amax(1), after.flatten(1).amax(1))


# %% wrong: serve | squares compared without squaring the share | killed by: loops
# edit of: the teacher's
# -        moved, length = ((after - state).flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
# +        moved, length = ((after - state).square().sum((1, 2)), after.square().sum((1, 2)))


# %% wrong: serve | the first token alone is asked | killed by: loops
# edit of: the teacher's
# -        moved, length = ((after - state).flatten(1).norm(dim=1), after.flatten(1).norm(dim=1))
# +        moved, length = ((after - state)[:, 0].norm(dim=1), after[:, 0].norm(dim=1))


# %% wrong: serve | the batch stops together | killed by: loops
# edit of: the teacher's
# -        stop = (moved <= change * length) | (spent[inside] == loops)
# +        stop = (moved.norm() <= change * length.norm()) | (spent[inside] == loops)


# %% wrong: serve | the number of the call | killed by: loops
# edit of: the teacher's
# -    while len(inside):
# -        after = f(state + x[inside])
# -        spent[inside] += 1
# +    calls = 0
# +    while len(inside):
# +        after = f(state + x[inside])
# +        calls += 1
# +        spent[inside] = calls
# …
# -        stop = (moved <= change * length) | (spent[inside] == loops)
# +        stop = (moved <= change * length) | (spent[inside] >= loops)


# %% wrong: serve | loops from 0 | killed by: loops
# edit of: the teacher's
# -    return result, spent
# +    return result, spent - 1


# %% wrong: serve | the one who comes goes on with the state of who left | killed by: loops
# edit of: the teacher's
# -        state = torch.cat([after[~stop], torch.zeros_like(x[fresh])])
# +        state = torch.cat([after[~stop], after[stop][: len(fresh)]])


# %% wrong: serve | the first ones begin at x | killed by: loops
# edit of: the teacher's
# -    state, coming = torch.zeros_like(x[inside]), len(inside)
# +    state, coming = x[inside].clone(), len(inside)


# %% wrong: serve | x is never added | killed by: loops
# edit of: the teacher's
# -        after = f(state + x[inside])
# +        after = f(state)


# %% wrong: serve | the one who comes begins at x | killed by: loops
# edit of: the teacher's
# -        state = torch.cat([after[~stop], torch.zeros_like(x[fresh])])
# +        state = torch.cat([after[~stop], x[fresh]])


# %% wrong: serve | states and samples in two orders | killed by: loops
# edit of: the teacher's
# -        inside = torch.cat([inside[~stop], fresh])
# +        inside = torch.cat([fresh, inside[~stop]])


# %% wrong: serve | no injection | killed by: loops
# edit of: the teacher's
# -        after = f(state + x[inside])
# +        after = f(torch.where(state == 0, x[inside], state))


# %% wrong: serve | in the order of leaving | killed by: loops
def serve(f, x, loops, change, slots):
    final, counts, waiting, busy, spent = [], [], list(range(len(x))), {}, {}
    while waiting or busy:
        while waiting and len(busy) < slots:
            i = waiting.pop(0)
            busy[i], spent[i] = torch.zeros_like(x[0]), 0
        who = list(busy)
        out = f(torch.stack([busy[i] + x[i] for i in who]))
        for i, new in zip(who, out):
            spent[i] += 1
            if (new - busy[i]).norm() <= change * new.norm() or spent[i] >= loops:
                final.append(new)
                counts.append(spent[i])
                del busy[i]
            else:
                busy[i] = new
    states = torch.stack(final) if final else x.new_zeros(x.shape)
    return states, torch.tensor(counts, dtype=torch.int64)


# %% wrong: serve | the state before the last loop | killed by: states
# edit of: the teacher's
# -        result[inside[stop]] = after[stop].detach()
# +        result[inside[stop]] = state[stop].detach()


# %% wrong: serve | no end but settling | killed by: loops
# edit of: the teacher's
# -        stop = (moved <= change * length) | (spent[inside] == loops)
# +        stop = (moved <= change * length) | (spent[inside] == 10 * loops)


# %% wrong: serve | loops as numbers with a point | killed by: loops
# edit of: the teacher's
# -    return result, spent
# +    return result, spent.to(x.dtype)


# %% wrong: serve | written into x | killed by: input untouched
# edit of: the teacher's
# -    result, spent = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.int64)
# +    result, spent = x, torch.zeros(len(x), dtype=torch.int64)


# %% wrong: serve | no samples are an error | killed by: runs
# edit of: lists and a counter for each slot
# -    states = torch.stack(final) if final else x.new_zeros(x.shape)
# +    states = torch.stack(final)


# %% wrong: serve | the states alone | killed by: two results
# edit of: the teacher's
# -    return result, spent
# +    return result


# %% wrong: serve | in float64 | killed by: states
# edit of: the teacher's
# -    return result, spent
# +    return result.double(), spent


# %% wrong: serve | dynlib's loop | killed by: by hand
def serve(f, x, loops, change, slots):
    from dynlib.depth import Looped

    class Block(torch.nn.Module):
        def forward(self, z):
            return f(z)

    stopped = Looped(Block(), loops).predict(x, change=change, rows=slots * x.shape[1])
    return stopped.state, stopped.loops


# %% right: gate-loss | loop by loop, in logarithms
def gate_loss(losses, gates, log_prior, beta):
    gone, total = torch.zeros_like(gates[0]), torch.zeros_like(losses[0])
    for t in range(len(gates)):
        log_p = gone + (F.logsigmoid(gates[t]) if t < len(gates) - 1 else 0)
        gone = gone + F.logsigmoid(-gates[t])
        total = total + log_p.exp() * (losses[t] + beta * (log_p - log_prior[t]))
    return total.sum() / losses.shape[1]


# %% right: gate-loss | softplus, and two sums
def gate_loss(losses, gates, log_prior, beta):
    loops = gates.shape[0]
    passed = [-F.softplus(gate) for gate in gates]
    rows = []
    for t in range(loops):
        row = sum(passed[:t], torch.zeros_like(gates[0]))
        rows.append(row - F.softplus(-gates[t]) if t + 1 < loops else row)
    log_p = torch.stack(rows)
    p = log_p.exp()
    expected = (p * losses).sum(0)
    divergence = (p * log_p).sum(0) - (p * log_prior.unsqueeze(1)).sum(0)
    return torch.mean(expected + beta * divergence)


# %% wrong: gate-loss | a product, then its logarithm | killed by: sure gates
def gate_loss(losses, gates, log_prior, beta):
    stop = torch.cat([torch.sigmoid(gates[:-1]), torch.ones_like(gates[:1])])
    left = torch.cat([torch.ones_like(gates[:1]), torch.sigmoid(-gates[:-1]).cumprod(0)])
    p = stop * left
    return (p * (losses + beta * (p.log() - log_prior[:, None]))).sum(0).mean()


# %% wrong: gate-loss | a product, clamped | killed by: gradients of sure gates
def gate_loss(losses, gates, log_prior, beta):
    stop = torch.cat([torch.sigmoid(gates[:-1]), torch.ones_like(gates[:1])])
    left = torch.cat([torch.ones_like(gates[:1]), torch.sigmoid(-gates[:-1]).cumprod(0)])
    p = stop * left
    clean = torch.where(p > 0, p.log(), 0.0)
    return (p * (losses + beta * (clean - log_prior[:, None]))).sum(0).mean()


# %% wrong: gate-loss | the logarithm of a sigmoid | killed by: sure gates
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# +    stays = torch.sigmoid(-gates[:-1]).log().cumsum(0)


# %% wrong: gate-loss | the last gate is asked | killed by: one loop
# edit of: the teacher's
# -    log_p = torch.cat([nothing, stays]) + torch.cat([F.logsigmoid(gates[:-1]), nothing])
# +    log_p = torch.cat([nothing, stays]) + F.logsigmoid(gates)


# %% wrong: gate-loss | what is left is shared out | killed by: the loss
# edit of: the teacher's
# -    log_p = torch.cat([nothing, stays]) + torch.cat([F.logsigmoid(gates[:-1]), nothing])
# +    log_p = torch.cat([nothing, stays]) + F.logsigmoid(gates)
# +    log_p = log_p.log_softmax(0)


# %% wrong: gate-loss | the gates through a softmax | killed by: the loss
# edit of: the teacher's
# -    log_p = torch.cat([nothing, stays]) + torch.cat([F.logsigmoid(gates[:-1]), nothing])
# +    log_p = gates.log_softmax(0)


# %% wrong: gate-loss | stop and go on are swapped | killed by: the loss
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# +    gates = -gates
# +    stays = F.logsigmoid(-gates[:-1]).cumsum(0)


# %% wrong: gate-loss | its own loop has been passed, too | killed by: one loop
# edit of: the teacher's
# -    log_p = torch.cat([nothing, stays]) + torch.cat([F.logsigmoid(gates[:-1]), nothing])
# +    log_p = torch.cat([stays, stays[-1:]]) + torch.cat([F.logsigmoid(gates[:-1]), nothing])


# %% wrong: gate-loss | the sum goes to t, its own gate with it | killed by: one loop
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# -    nothing = torch.zeros_like(gates[:1])
# -    log_p = torch.cat([nothing, stays]) + torch.cat([F.logsigmoid(gates[:-1]), nothing])
# +    nothing = torch.zeros_like(gates[:1])
# +    log_p = F.logsigmoid(-gates).cumsum(0) + torch.cat([F.logsigmoid(gates[:-1]), nothing])


# %% wrong: gate-loss | only the gate before counts | killed by: the loss
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# +    stays = F.logsigmoid(-gates[:-1])


# %% wrong: gate-loss | summed over the samples | killed by: the loss
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# +    stays = F.logsigmoid(-gates[:-1]).cumsum(1)


# %% wrong: gate-loss | gates are clamped | killed by: nearly sure gates
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# +    gates = gates.clamp(-15, 15)
# +    stays = F.logsigmoid(-gates[:-1]).cumsum(0)


# %% wrong: gate-loss | log p is clamped | killed by: nearly sure gates
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    log_p = log_p.clamp(min=-20)
# +    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()


# %% wrong: gate-loss | log q for q, its logarithm taken again | killed by: one loop
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None].log()))).sum(0).mean()


# %% wrong: gate-loss | q for log q | killed by: one loop
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None].exp()))).sum(0).mean()


# %% wrong: gate-loss | without the prior | killed by: the loss
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + beta * log_p)).sum(0).mean()


# %% wrong: gate-loss | the prior in place of its logarithm | killed by: one loop
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None].exp()))).sum(0).mean()


# %% wrong: gate-loss | the divergence the other way round | killed by: the loss
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    prior = log_prior[:, None]
# +    return (log_p.exp() * losses + beta * prior.exp() * (prior - log_p)).sum(0).mean()


# %% wrong: gate-loss | rewarded for leaving the prior | killed by: the loss
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses - beta * (log_p - log_prior[:, None]))).sum(0).mean()


# %% wrong: gate-loss | β forgotten | killed by: the loss
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + (log_p - log_prior[:, None]))).sum(0).mean()


# %% wrong: gate-loss | the divergence alone | killed by: one loop
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * beta * (log_p - log_prior[:, None])).sum(0).mean()


# %% wrong: gate-loss | a sum over samples | killed by: one loop
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum()


# %% wrong: gate-loss | a mean over loops | killed by: the loss
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).mean()


# %% wrong: gate-loss | one number a sample | killed by: one loop
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0)


# %% wrong: gate-loss | the probabilities are detached | killed by: gradients
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp().detach() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()


# %% wrong: gate-loss | the losses have no gradient | killed by: gradients
# edit of: the teacher's
# -    return (log_p.exp() * (losses + beta * (log_p - log_prior[:, None]))).sum(0).mean()
# +    return (log_p.exp() * (losses.detach() + beta * (log_p - log_prior[:, None]))).sum(0).mean()


# %% wrong: gate-loss | in float64 | killed by: the loss
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# +    losses, gates = losses.double(), gates.double()
# +    stays = F.logsigmoid(-gates[:-1]).cumsum(0)


# %% wrong: gate-loss | the losses are changed | killed by: input untouched
# edit of: the teacher's
# -    stays = F.logsigmoid(-gates[:-1]).cumsum(0)
# +    losses.data += beta * 1e-9 + 1e-9
# +    stays = F.logsigmoid(-gates[:-1]).cumsum(0)


# %% wrong: gate-loss | dynlib's loss | killed by: by hand
def gate_loss(losses, gates, log_prior, beta):
    from dynlib.depth import gated_loss

    return gated_loss(losses, gates, beta=beta)


# %% right: share-layers | layer by layer, then renamed
def share_layers(state, first, last, size):
    layers, other = {}, {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            layers.setdefault(int(parts[1]), {})[".".join(parts[2:])] = value
        else:
            other[name] = value.clone()
    if size <= 0 or first < 0 or last > len(layers) or first >= last or (last - first) % size != 0:
        raise ValueError("no such middle")
    order = [layers[n] for n in sorted(layers)]
    middle = []
    for j in range(size):
        group = order[first + j : last : size]
        middle.append({rest: sum(layer[rest] for layer in group) / len(group) for rest in group[0]})
    for number, layer in enumerate(order[:first] + middle + order[last:]):
        for rest, value in layer.items():
            other[f"blocks.{number}.{rest}"] = value.clone()
    return other


# %% right: share-layers | by a regular expression and a running mean
def share_layers(state, first, last, size):
    import re

    found = {name: re.fullmatch(r"blocks\.(\d+)\.(.+)", name) for name in state}
    depth = len({match[1] for match in found.values() if match})
    if not (0 <= first < last <= depth and size > 0 and (last - first) / size == (last - first) // size):
        raise ValueError(f"{first}, {last}, {size}")
    new = {}
    for name, match in found.items():
        if match is None:
            new[name] = torch.clone(state[name])
            continue
        at = int(match[1])
        if first <= at < last:
            to = f"blocks.{first + (at - first) % size}.{match[2]}"
            new[to] = new.get(to, 0) + state[name] * size / (last - first)
        else:
            new[f"blocks.{at if at < first else at - last + first + size}.{match[2]}"] = state[name].detach().clone()
    return new


# %% wrong: share-layers | neighbours | killed by: the middle
# edit of: the teacher's
# -            group = [state[f"blocks.{same}.{rest}"] for same in range(at, last, size)]
# +            times = (last - first) // size
# +            begin = first + (at - first) * times
# +            group = [state[f"blocks.{same}.{rest}"] for same in range(begin, begin + times)]


# %% wrong: share-layers | the first of those it stands for | killed by: the middle
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = group[0].clone()


# %% wrong: share-layers | the last of those it stands for | killed by: the middle
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = group[-1].clone()


# %% wrong: share-layers | a sum | killed by: the middle
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = torch.stack(group).sum(0)


# %% wrong: share-layers | the median | killed by: the middle
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = torch.stack(group).median(0).values


# %% wrong: share-layers | one number for each tensor | killed by: the middle
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = torch.stack(group).mean().expand(value.shape).clone()


# %% wrong: share-layers | only every other one of those it stands for | killed by: the middle
# edit of: the teacher's
# -            group = [state[f"blocks.{same}.{rest}"] for same in range(at, last, size)]
# +            group = [state[f"blocks.{same}.{rest}"] for same in range(at, last, 2 * size)]


# %% wrong: share-layers | the mean of the whole middle for every layer | killed by: the middle
# edit of: the teacher's
# -            group = [state[f"blocks.{same}.{rest}"] for same in range(at, last, size)]
# +            group = [state[f"blocks.{same}.{rest}"] for same in range(first, last)]


# %% wrong: share-layers | the layer after the middle is in it | killed by: the middle
# edit of: the teacher's
# -            group = [state[f"blocks.{same}.{rest}"] for same in range(at, last, size)]
# +            end = min(last, max(numbers)) + 1
# +            group = [state[f"blocks.{same}.{rest}"] for same in range(at, end, size)]


# %% wrong: share-layers | the layers after the middle keep their numbers | killed by: names
# edit of: the teacher's
# -            new[f"blocks.{at - (last - first) + size}.{rest}"] = value.clone()
# +            new[name] = value.clone()


# %% wrong: share-layers | the layers after the middle are lost | killed by: names
# edit of: the teacher's
# -        elif at >= last:
# -            new[f"blocks.{at - (last - first) + size}.{rest}"] = value.clone()


# %% wrong: share-layers | the layers before the middle are lost | killed by: names
# edit of: the teacher's
# -        elif at < first:
# -            new[name] = value.clone()


# %% wrong: share-layers | the layers after the middle in reverse | killed by: what stays
# edit of: the teacher's
# -            new[f"blocks.{at - (last - first) + size}.{rest}"] = value.clone()
# +            new[f"blocks.{first + size + max(numbers) - at}.{rest}"] = value.clone()


# %% wrong: share-layers | all but the blocks is lost | killed by: names
# edit of: the teacher's
# -            new[name] = value.clone()
# -            continue
# +            continue


# %% wrong: share-layers | depth from the largest text | killed by: runs
# edit of: the teacher's
# -    numbers = [int(name.split(".")[1]) for name in state if name.startswith("blocks.")]
# +    numbers = [int(max(name.split(".")[1] for name in state if name.startswith("blocks.")))]


# %% wrong: share-layers | whatever has blocks in its name | killed by: runs
# edit of: the teacher's
# -        if not name.startswith("blocks."):
# +        if "blocks" not in name:


# %% wrong: share-layers | whatever begins with blocks | killed by: runs
# edit of: the teacher's
# -        if not name.startswith("blocks."):
# +        if not name.startswith("blocks"):


# %% wrong: share-layers | one digit of the number | killed by: names
# edit of: the teacher's
# -        at = int(number)
# +        at = int(number[0])


# %% wrong: share-layers | the middle is not made smaller | killed by: names
# edit of: the teacher's
# -        if first <= at < first + size:
# -            group = [state[f"blocks.{same}.{rest}"] for same in range(at, last, size)]
# +        if first <= at < last:
# +            group = [state[f"blocks.{same}.{rest}"] for same in range(first + (at - first) % size, last, size)]
# …
# -            new[f"blocks.{at - (last - first) + size}.{rest}"] = value.clone()
# +            new[name] = value.clone()


# %% wrong: share-layers | the same memory | killed by: memory of its own
# edit of: the teacher's
# -            new[name] = value.clone()
# -            continue
# +            new[name] = value
# +            continue


# %% wrong: share-layers | the old dict is changed | killed by: input untouched
# edit of: the teacher's
# -    new = {}
# -    for name, value in state.items():
# +    new, old = state, dict(state)
# +    for name, value in old.items():


# %% wrong: share-layers | averaged into the first of them | killed by: input untouched
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = group[0].copy_(torch.stack(group).mean(0)).clone()


# %% wrong: share-layers | a list of pairs | killed by: a dict
# edit of: the teacher's
# -    return new
# +    return list(new.items())


# %% wrong: share-layers | any range | killed by: ranges
# edit of: the teacher's
# -    if size < 1 or not 0 <= first < last <= max(numbers, default=-1) + 1 or (last - first) % size:
# -        raise ValueError(f"layers {first} … {last - 1} cannot become {size}")


# %% wrong: share-layers | a middle that is no multiple | killed by: ranges
# edit of: the teacher's
# -    if size < 1 or not 0 <= first < last <= max(numbers, default=-1) + 1 or (last - first) % size:
# +    if size < 1 or not 0 <= first < last <= max(numbers, default=-1) + 1:


# %% wrong: share-layers | a middle beyond the stack | killed by: ranges
# edit of: the teacher's
# -    if size < 1 or not 0 <= first < last <= max(numbers, default=-1) + 1 or (last - first) % size:
# +    if size < 1 or not 0 <= first < last or (last - first) % size:


# %% wrong: share-layers | a size below zero | killed by: ranges
# edit of: the teacher's
# -    if size < 1 or not 0 <= first < last <= max(numbers, default=-1) + 1 or (last - first) % size:
# +    if size == 0 or not 0 <= first < last <= max(numbers, default=-1) + 1 or (last - first) % size:


# %% wrong: share-layers | the digit is replaced wherever it stands | killed by: names
# edit of: the teacher's
# -            new[f"blocks.{at - (last - first) + size}.{rest}"] = value.clone()
# +            new[name.replace(number, str(at - (last - first) + size))] = value.clone()


# %% wrong: share-layers | the mean in float32 | killed by: the middle
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = torch.stack(group).float().mean(0).to(value.dtype)


# %% wrong: share-layers | in float64 | killed by: the middle
# edit of: the teacher's
# -            new[name] = torch.stack(group).mean(0)
# +            new[name] = torch.stack(group).double().mean(0)


# %% right: predict-loops | worked out
def predict():
    left, chances = 1.0, []
    for _ in range(3):
        chances.append(left / 2)
        left /= 2
    chances.append(left)
    needs = (1, 2, 3, 5, 9)
    return {
        "parameters": 1 / 6,
        "FLOPs": 1.0,
        "loops with a graph": 20 - 16,
        "samples that f sees, gathered": sum(needs),
        "samples that f sees, masked": len(needs) * max(needs),
        "chance of the last of 4 loops": chances[-1],
        "loops on average": sum(t * p for t, p in enumerate(chances, 1)),
        "gradient of x without injection, window 4 of 10": "none",
    }


# %% right: predict-loops | as tensors
def predict():
    p = torch.tensor([0.5, 0.25, 0.125, 0.125])
    return {
        "gradient of x without injection, window 4 of 10": "none",
        "loops on average": (p * torch.arange(1, 5)).sum(),
        "chance of the last of 4 loops": p[-1],
        "samples that f sees, masked": torch.tensor([45]),
        "samples that f sees, gathered": 20.0,
        "loops with a graph": 4.0,
        "FLOPs": torch.tensor(1),
        "parameters": 1 / 6,
    }


# %% wrong: predict-loops | loops have weights of their own | killed by: parameters
# edit of: the teacher's
# -        "parameters": 2 / 12,
# +        "parameters": 1,


# %% wrong: predict-loops | the other way round | killed by: parameters
# edit of: the teacher's
# -        "parameters": 2 / 12,
# +        "parameters": 6,


# %% wrong: predict-loops | in percent | killed by: parameters
# edit of: the teacher's
# -        "parameters": 2 / 12,
# +        "parameters": 16.7,


# %% wrong: predict-loops | shared weights are computed once | killed by: FLOPs
# edit of: the teacher's
# -        "FLOPs": 1,
# +        "FLOPs": 1 / 6,


# %% wrong: predict-loops | all loops have a graph | killed by: loops with a graph
# edit of: the teacher's
# -        "loops with a graph": 4,
# +        "loops with a graph": 20,


# %% wrong: predict-loops | the loops before the window | killed by: loops with a graph
# edit of: the teacher's
# -        "loops with a graph": 4,
# +        "loops with a graph": 16,


# %% wrong: predict-loops | gathered is masked | killed by: samples that f sees, gathered
# edit of: the teacher's
# -        "samples that f sees, gathered": 1 + 2 + 3 + 5 + 9,
# +        "samples that f sees, gathered": 45,


# %% wrong: predict-loops | calls, not samples | killed by: samples that f sees, gathered
# edit of: the teacher's
# -        "samples that f sees, gathered": 1 + 2 + 3 + 5 + 9,
# +        "samples that f sees, gathered": 9,


# %% wrong: predict-loops | masked is gathered | killed by: samples that f sees, masked
# edit of: the teacher's
# -        "samples that f sees, masked": 5 * 9,
# +        "samples that f sees, masked": 20,


# %% wrong: predict-loops | the last gate is asked | killed by: chance of the last of 4 loops
# edit of: the teacher's
# -        "chance of the last of 4 loops": 1 / 8,
# +        "chance of the last of 4 loops": 1 / 16,


# %% wrong: predict-loops | even chances | killed by: chance of the last of 4 loops
# edit of: the teacher's
# -        "chance of the last of 4 loops": 1 / 8,
# +        "chance of the last of 4 loops": 1 / 4,


# %% wrong: predict-loops | the middle of 1 … 4 | killed by: loops on average
# edit of: the teacher's
# -        "loops on average": 1 / 2 + 2 / 4 + 3 / 8 + 4 / 8,
# +        "loops on average": 2.5,


# %% wrong: predict-loops | without an end | killed by: loops on average
# edit of: the teacher's
# -        "loops on average": 1 / 2 + 2 / 4 + 3 / 8 + 4 / 8,
# +        "loops on average": 2,


# %% wrong: predict-loops | x is reached through the window | killed by: gradient of x without injection, window 4 of 10
# edit of: the teacher's
# -        "gradient of x without injection, window 4 of 10": "none",
# +        "gradient of x without injection, window 4 of 10": "a part",


# %% wrong: predict-loops | another word | killed by: a word
# edit of: the teacher's
# -        "gradient of x without injection, window 4 of 10": "none",
# +        "gradient of x without injection, window 4 of 10": "zero",


# %% wrong: predict-loops | a name is missing | killed by: the names
# edit of: the teacher's
# -        "FLOPs": 1,


# %% wrong: predict-loops | a list | killed by: a dict
def predict():
    return [1 / 6, 1, 4, 20, 45, 1 / 8, 1.875, "none"]


# %% wrong: predict-loops | a number in words | killed by: a number
# edit of: the teacher's
# -        "FLOPs": 1,
# +        "FLOPs": "1",
