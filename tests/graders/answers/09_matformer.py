# %% right: per-token | widths from the sorted tokens, put back by index_copy
def per_token(x, w_gate, w_up, w_down, b_down, k):
    order = k.argsort(stable=True)
    parts, start = [], 0
    for width, number in zip(*(part.tolist() for part in k.unique(return_counts=True)), strict=True):
        some = x[order[start : start + number]]
        h = F.silu(F.linear(some, w_gate[:width])) * F.linear(some, w_up[:width])
        parts.append(F.linear(h, w_down[:, :width]) + b_down)
        start += number
    if not parts:
        return torch.zeros_like(x)
    return torch.zeros_like(x).index_copy(0, order, torch.cat(parts))


# %% right: per-token | token by token
def per_token(x, w_gate, w_up, w_down, b_down, k):
    rows = [
        w_down[:, :width] @ (F.silu(w_gate[:width] @ token) * (w_up[:width] @ token)) + b_down
        for token, width in zip(x, k.tolist(), strict=True)
    ]
    return torch.stack(rows) if rows else x.new_zeros(0, len(b_down))


# %% wrong: per-token | all neurons, and zeros for those that do not run | killed by: products
def per_token(x, w_gate, w_up, w_down, b_down, k):
    h = F.silu(x @ w_gate.T) * (x @ w_up.T)
    runs = torch.arange(len(w_gate)) < k[:, None]
    return torch.where(runs, h, 0) @ w_down.T + b_down


# %% wrong: per-token | everybody at the widest | killed by: each its own
# edit of: the teacher's
# -        rows = (k == width).nonzero()[:, 0]
# +        width = int(k.max())
# +        rows = torch.arange(len(k))


# %% wrong: per-token | everybody at the first token's width | killed by: each its own
def per_token(x, w_gate, w_up, w_down, b_down, k):
    width = int(k[0]) if len(k) else 0
    h = F.silu(x @ w_gate[:width].T) * (x @ w_up[:width].T)
    return h @ w_down[:, :width].T + b_down


# %% wrong: per-token | the last neurons | killed by: one width
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        first = len(w_gate) - width
# +        h = F.silu(x[rows] @ w_gate[first:].T) * (x[rows] @ w_up[first:].T)
# +        result[rows] = h @ w_down[:, first:].T + b_down


# %% wrong: per-token | gate and up swapped | killed by: all neurons
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = F.silu(x[rows] @ w_up[:width].T) * (x[rows] @ w_gate[:width].T)


# %% wrong: per-token | GELU in place of SiLU | killed by: all neurons
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = F.gelu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)


# %% wrong: per-token | the gate is left out | killed by: all neurons
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = F.silu(x[rows] @ w_up[:width].T)


# %% wrong: per-token | SiLU of the product | killed by: all neurons
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = F.silu((x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T))


# %% wrong: per-token | gate and up are added | killed by: all neurons
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = F.silu(x[rows] @ w_gate[:width].T) + (x[rows] @ w_up[:width].T)


# %% wrong: per-token | the gate is not cut | killed by: runs
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = F.silu(x[rows] @ w_gate.T) * (x[rows] @ w_up[:width].T)


# %% wrong: per-token | no bias | killed by: all neurons
# edit of: the teacher's
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        result[rows] = h @ w_down[:, :width].T


# %% wrong: per-token | the bias by the share that runs | killed by: one width
# edit of: the teacher's
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        result[rows] = h @ w_down[:, :width].T + b_down * width / len(w_gate)


# %% wrong: per-token | made up for what does not run, as dropout does | killed by: one width
# edit of: the teacher's
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        result[rows] = h @ w_down[:, :width].T * len(w_gate) / max(width, 1) + b_down


# %% wrong: per-token | nothing at width 0, not even the bias | killed by: no neurons
# edit of: the teacher's
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        result[rows] = (h @ w_down[:, :width].T + b_down) * (width > 0)


# %% wrong: per-token | one neuron at least | killed by: no neurons
# edit of: the teacher's
# -        rows = (k == width).nonzero()[:, 0]
# +        rows = (k == width).nonzero()[:, 0]
# +        width = max(width, 1)


# %% wrong: per-token | tokens in the order of their widths | killed by: each its own
def per_token(x, w_gate, w_up, w_down, b_down, k):
    parts = [x.new_zeros(0, len(b_down))]
    for width in k.unique().tolist():
        some = x[k == width]
        h = F.silu(some @ w_gate[:width].T) * (some @ w_up[:width].T)
        parts.append(h @ w_down[:, :width].T + b_down)
    return torch.cat(parts)


# %% wrong: per-token | one neuron more | killed by: one width
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        width = min(width + 1, len(w_gate))
# +        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        result[rows] = h @ w_down[:, :width].T + b_down


# %% wrong: per-token | one neuron less | killed by: all neurons
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        width = max(width - 1, 0)
# +        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        result[rows] = h @ w_down[:, :width].T + b_down


# %% wrong: per-token | written into the tokens | killed by: input untouched
# edit of: the teacher's
# -    result = b_down.expand(len(x), -1).clone()
# +    result = x


# %% wrong: per-token | without gradients | killed by: gradients
# edit of: the teacher's
# -        result[rows] = h @ w_down[:, :width].T + b_down
# +        result[rows] = (h @ w_down[:, :width].T + b_down).detach()


# %% wrong: per-token | the gate has no gradient | killed by: gradients
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = F.silu(x[rows] @ w_gate[:width].T).detach() * (x[rows] @ w_up[:width].T)


# %% wrong: per-token | in float64 | killed by: each its own
# edit of: the teacher's
# -    return result
# +    return result.double()


# %% wrong: per-token | the layers are computed whole and cut afterwards | killed by: products
# edit of: the teacher's
# -        h = F.silu(x[rows] @ w_gate[:width].T) * (x[rows] @ w_up[:width].T)
# +        h = (F.silu(x[rows] @ w_gate.T) * (x[rows] @ w_up.T))[:, :width]


# %% wrong: per-token | no tokens are an error | killed by: runs
def per_token(x, w_gate, w_up, w_down, b_down, k):
    rows = [
        w_down[:, :width] @ (F.silu(w_gate[:width] @ token) * (w_up[:width] @ token)) + b_down
        for token, width in zip(x, k.tolist(), strict=True)
    ]
    return torch.stack(rows)


# %% wrong: per-token | dynlib's layer | killed by: by hand
def per_token(x, w_gate, w_up, w_down, b_down, k):
    from dynlib.width import MatFormerFeedForward

    layer = MatFormerFeedForward(x.shape[1], len(w_gate), widths=(1,), gated=True)
    return layer(x)


# %% right: sort-neurons | one list of neurons, sorted by Python
def sort_neurons(w1, b1, w2, x):
    h = torch.stack([F.gelu(w1 @ token + b1) for token in x])
    worth = (h.abs().sum(0) / len(x) * (w2**2).sum(0).sqrt()).tolist()
    order = sorted(range(len(worth)), key=lambda j: -worth[j])
    return w1[order], b1[order], w2[:, order]


# %% right: sort-neurons | what each adds to a token, as a tensor
def sort_neurons(w1, b1, w2, x):
    adds = F.gelu(F.linear(x, w1, b1))[:, None, :] * w2
    falling = (-adds.norm(dim=1).mean(0)).sort(stable=True).indices
    return [w1.index_select(0, falling), b1[falling], w2.T[falling].T]


# %% wrong: sort-neurons | the least important first | killed by: the order
# edit of: the teacher's
# -    order = importance.argsort(descending=True, stable=True)
# +    order = importance.argsort(stable=True)


# %% wrong: sort-neurons | the bias stays where it was | killed by: the same function
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return w1[order], b1, w2[:, order]


# %% wrong: sort-neurons | W₂ stays where it was | killed by: the same function
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return w1[order], b1[order], w2


# %% wrong: sort-neurons | only W₂ moves | killed by: the same function
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return w1, b1, w2[:, order]


# %% wrong: sort-neurons | nothing moves | killed by: the order
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return w1, b1, w2


# %% wrong: sort-neurons | W₂ is turned | killed by: shapes
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return w1[order], b1[order], w2.T[order]


# %% wrong: sort-neurons | ranks in place of places | killed by: the order
# edit of: the teacher's
# -    order = importance.argsort(descending=True, stable=True)
# +    order = importance.argsort(descending=True, stable=True).argsort()


# %% wrong: sort-neurons | positive and negative outputs cancel | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).mean(0).abs() * w2.norm(dim=0)


# %% wrong: sort-neurons | before the function | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = (x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)


# %% wrong: sort-neurons | ReLU in place of GELU | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.relu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)


# %% wrong: sort-neurons | without the bias | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T).abs().mean(0) * w2.norm(dim=0)


# %% wrong: sort-neurons | without W₂ | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).abs().mean(0)


# %% wrong: sort-neurons | W₂ alone | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = w2.norm(dim=0)


# %% wrong: sort-neurons | the weights of W₁ and W₂, no tokens | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = w1.norm(dim=1) * w2.norm(dim=0)


# %% wrong: sort-neurons | W₂'s columns added up | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.sum(0).abs()


# %% wrong: sort-neurons | the first token alone | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).abs()[0] * w2.norm(dim=0)


# %% wrong: sort-neurons | the largest over tokens | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).abs().amax(0) * w2.norm(dim=0)


# %% wrong: sort-neurons | no absolute value | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).mean(0) * w2.norm(dim=0)


# %% wrong: sort-neurons | the root of the mean square | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).square().mean(0).sqrt() * w2.norm(dim=0)


# %% wrong: sort-neurons | the sum of the absolute values of W₂ | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.abs().sum(0)


# %% wrong: sort-neurons | the squared length of W₂ | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.square().sum(0)


# %% wrong: sort-neurons | the length of W₁ | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w1.norm(dim=1)


# %% wrong: sort-neurons | GELU by tanh | killed by: the order
# edit of: the teacher's
# -    importance = F.gelu(x @ w1.T + b1).abs().mean(0) * w2.norm(dim=0)
# +    importance = F.gelu(x @ w1.T + b1, approximate="tanh").abs().mean(0) * w2.norm(dim=0)


# %% wrong: sort-neurons | a sort that is not stable | killed by: ties
# edit of: the teacher's
# -    order = importance.argsort(descending=True, stable=True)
# +    order = importance.argsort(descending=True)


# %% wrong: sort-neurons | of equals the later | killed by: ties
# edit of: the teacher's
# -    order = importance.argsort(descending=True, stable=True)
# +    order = importance.argsort(stable=True).flip(0)


# %% wrong: sort-neurons | written into what was given | killed by: input untouched
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    w1.copy_(w1[order])
# +    b1.copy_(b1[order])
# +    w2.copy_(w2[:, order])
# +    return w1, b1, w2


# %% wrong: sort-neurons | the order alone | killed by: three tensors
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return order


# %% wrong: sort-neurons | the weights grow with the importance | killed by: the same function
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return w1[order], b1[order], w2[:, order] * importance[order]


# %% wrong: sort-neurons | in float64 | killed by: dtypes
# edit of: the teacher's
# -    return w1[order], b1[order], w2[:, order]
# +    return w1[order].double(), b1[order].double(), w2[:, order].double()


# %% right: joint-gradients | torch.autograd.grad, added by hand
def joint_gradients(parameters, widths, weights, loss):
    if len(widths) != len(weights):
        raise ValueError(f"{len(widths)} widths and {len(weights)} weights")
    sums, total = [torch.zeros_like(parameter) for parameter in parameters], 0.0
    for width, weight in zip(widths, weights):
        value = loss(width)
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        sums = [one if more is None else one + weight * more for one, more in zip(sums, found)]
        total += weight * value.item()
    for parameter, gradient in zip(parameters, sums):
        parameter.grad = gradient
    return total


# %% right: joint-gradients | the widest first, zeros in place of None
def joint_gradients(parameters, widths, weights, loss):
    pairs = list(zip(widths, weights, strict=True))
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    values = []
    for width, weight in reversed(pairs):
        value = loss(width)
        value.backward(torch.full_like(value, weight))
        values.append(float(value.detach()) * weight)
    return sum(values)


# %% wrong: joint-gradients | one backward pass for the sum of all | killed by: one graph
def joint_gradients(parameters, widths, weights, loss):
    for parameter in parameters:
        parameter.grad = None
    total = sum(weight * loss(width) for width, weight in zip(widths, weights, strict=True))
    total.backward()
    return total.item()


# %% wrong: joint-gradients | the graphs are retained | killed by: one graph
def joint_gradients(parameters, widths, weights, loss):
    for parameter in parameters:
        parameter.grad = None
    kept, total = [], 0.0
    for width, weight in zip(widths, weights, strict=True):
        kept.append(weight * loss(width))
        kept[-1].backward(retain_graph=True)
        total += kept[-1].item()
    return total


# %% wrong: joint-gradients | what stood there stays | killed by: gradients
# edit of: the teacher's
# -    for parameter in parameters:
# -        parameter.grad = None


# %% wrong: joint-gradients | the first parameter alone is cleared | killed by: gradients
# edit of: the teacher's
# -    for parameter in parameters:
# +    for parameter in parameters[:1]:


# %% wrong: joint-gradients | cleared for every width | killed by: gradients
# edit of: the teacher's
# -        part = weight * loss(width)
# +        for parameter in parameters:
# +            parameter.grad = None
# +        part = weight * loss(width)


# %% wrong: joint-gradients | cleared in the end | killed by: a gradient
# edit of: the teacher's
# -    return total
# +    for parameter in parameters:
# +        parameter.grad = None
# +    return total


# %% wrong: joint-gradients | no weights | killed by: gradients
# edit of: the teacher's
# -        part = weight * loss(width)
# +        part = loss(width)


# %% wrong: joint-gradients | the mean over widths | killed by: gradients
# edit of: the teacher's
# -        part = weight * loss(width)
# +        part = weight * loss(width) / len(widths)


# %% wrong: joint-gradients | the weights made to add up to 1 | killed by: gradients
# edit of: the teacher's
# -        part = weight * loss(width)
# +        part = weight * loss(width) / sum(weights)


# %% wrong: joint-gradients | the largest width alone | killed by: each width once
# edit of: the teacher's
# -    for width, weight in zip(widths, weights, strict=True):
# +    for width, weight in list(zip(widths, weights, strict=True))[-1:]:


# %% wrong: joint-gradients | one width is drawn | killed by: each width once
# edit of: the teacher's
# -    for width, weight in zip(widths, weights, strict=True):
# +    drawn = int(torch.randint(len(widths), ()))
# +    for width, weight in list(zip(widths, weights, strict=True))[drawn : drawn + 1]:


# %% wrong: joint-gradients | the loss is asked twice | killed by: each width once
# edit of: the teacher's
# -        total += part.item()
# +        total += weight * loss(width).item()


# %% wrong: joint-gradients | widths of weight 0 are left out | killed by: each width once
# edit of: the teacher's
# -        part = weight * loss(width)
# +        if weight == 0:
# +            continue
# +        part = weight * loss(width)


# %% wrong: joint-gradients | a step for every width | killed by: parameters stay
# edit of: the teacher's
# -        part.backward()
# +        part.backward()
# +        with torch.no_grad():
# +            for parameter in parameters:
# +                if parameter.grad is not None:
# +                    parameter -= 0.1 * parameter.grad


# %% wrong: joint-gradients | the returned loss has no weights | killed by: the loss
def joint_gradients(parameters, widths, weights, loss):
    for parameter in parameters:
        parameter.grad = None
    total = 0.0
    for width, weight in zip(widths, weights, strict=True):
        part = loss(width)
        (weight * part).backward()
        total += part.item()
    return total


# %% wrong: joint-gradients | the mean of the losses is returned | killed by: the loss
# edit of: the teacher's
# -    return total
# +    return total / len(widths)


# %% wrong: joint-gradients | a tensor is returned | killed by: a number
# edit of: the teacher's
# -        total += part.item()
# +        total = total + part.detach()


# %% wrong: joint-gradients | nothing is returned | killed by: a number
# edit of: the teacher's
# -    return total


# %% wrong: joint-gradients | missing weights are forgiven | killed by: one weight a width
# edit of: the teacher's
# -    for width, weight in zip(widths, weights, strict=True):
# +    for width, weight in zip(widths, weights):


# %% wrong: joint-gradients | no backward pass | killed by: a gradient
# edit of: the teacher's
# -        part.backward()


# %% wrong: joint-gradients | the gradient clipped | killed by: gradients
# edit of: the teacher's
# -    return total
# +    torch.nn.utils.clip_grad_norm_(parameters, 0.01)
# +    return total


# %% right: best-mix | layer by layer, dominated beginnings left out
def best_mix(costs, changes, limit):
    states = [(0, 0.0, [])]
    for own, these in zip(costs, changes, strict=True):
        longer = sorted(
            (spent + cost, change + more, [*mix, number])
            for spent, change, mix in states
            for number, (cost, more) in enumerate(zip(own, these, strict=True))
            if spent + cost <= limit
        )
        states = []
        for state in longer:
            if not states or state[1] < states[-1][1]:
                states.append(state)
    if not states:
        raise ValueError("no mixture fits")
    return states[-1][2]


# %% right: best-mix | from the last layer back, with a memory
def best_mix(costs, changes, limit):
    known = {}

    def best(layer, room):
        if layer == len(costs):
            return 0.0, ()
        if (layer, room) not in known:
            found = (float("inf"), ())
            for number, cost in enumerate(costs[layer]):
                if cost <= room:
                    change, rest = best(layer + 1, room - cost)
                    found = min(found, (changes[layer][number] + change, (number, *rest)))
            known[layer, room] = found
        return known[layer, room]

    change, mix = best(0, limit)
    if change == float("inf"):
        raise ValueError(f"a limit of {limit} cannot be kept")
    return mix


# %% wrong: best-mix | every mixture is tried | killed by: ends in time
def best_mix(costs, changes, limit):
    from itertools import product

    best = None
    for mix in product(*(range(len(own)) for own in costs)):
        if sum(own[g] for own, g in zip(costs, mix)) <= limit:
            change = sum(own[g] for own, g in zip(changes, mix))
            if best is None or change < best[0]:
                best = (change, mix)
    if best is None:
        raise ValueError("no mixture fits")
    return best[1]


# %% wrong: best-mix | the best step for its FLOPs, again and again | killed by: greedy is not enough
def best_mix(costs, changes, limit):
    mix = [min(range(len(own)), key=lambda g: (own[g], these[g])) for own, these in zip(costs, changes)]
    room = limit - sum(own[g] for own, g in zip(costs, mix))
    if room < 0:
        raise ValueError("no mixture fits")
    while True:
        steps = [
            ((changes[l][g] - changes[l][mix[l]]) / max(costs[l][g] - costs[l][mix[l]], 1e-9), l, g)
            for l in range(len(costs))
            for g in range(len(costs[l]))
            if changes[l][g] < changes[l][mix[l]] and costs[l][g] - costs[l][mix[l]] <= room
        ]
        if not steps:
            return mix
        _, l, g = min(steps)
        room -= costs[l][g] - costs[l][mix[l]]
        mix[l] = g


# %% wrong: best-mix | the best step, whatever it costs | killed by: greedy is not enough
# edit of: the best step for its FLOPs, again and again
# -            ((changes[l][g] - changes[l][mix[l]]) / max(costs[l][g] - costs[l][mix[l]], 1e-9), l, g)
# +            (changes[l][g] - changes[l][mix[l]], l, g)


# %% wrong: best-mix | one width for all layers | killed by: the best
def best_mix(costs, changes, limit):
    best = None
    for number in range(min(map(len, costs))):
        if sum(own[number] for own in costs) <= limit:
            change = sum(own[number] for own in changes)
            if best is None or change < best[0]:
                best = (change, number)
    if best is None:
        raise ValueError("no mixture fits")
    return [best[1]] * len(costs)


# %% wrong: best-mix | the narrowest everywhere | killed by: the best
def best_mix(costs, changes, limit):
    mix = [own.index(min(own)) for own in costs]
    if sum(map(min, costs)) > limit:
        raise ValueError("no mixture fits")
    return mix


# %% wrong: best-mix | the best change of each layer, whatever it costs | killed by: fits
def best_mix(costs, changes, limit):
    if sum(map(min, costs)) > limit:
        raise ValueError("no mixture fits")
    return [own.index(min(own)) for own in changes]


# %% wrong: best-mix | below the limit, not at it | killed by: just fits
# edit of: the teacher's
# -                if total <= limit and (total not in longer or change + more < longer[total][0]):
# +                if total < limit and (total not in longer or change + more < longer[total][0]):


# %% wrong: best-mix | the limit is not looked at | killed by: fits
# edit of: the teacher's
# -                if total <= limit and (total not in longer or change + more < longer[total][0]):
# +                if total not in longer or change + more < longer[total][0]:


# %% wrong: best-mix | the worst | killed by: the best
# edit of: the teacher's
# -    return min(best.values())[1]
# +    return max(best.values())[1]


# %% wrong: best-mix | the dearest that fits | killed by: the best
# edit of: the teacher's
# -    return min(best.values())[1]
# +    return best[max(best)][1]


# %% wrong: best-mix | the cheapest that fits | killed by: the best
# edit of: the teacher's
# -    return min(best.values())[1]
# +    return best[min(best)][1]


# %% wrong: best-mix | the first beginning of a sum stays | killed by: the best
# edit of: the teacher's
# -                if total <= limit and (total not in longer or change + more < longer[total][0]):
# +                if total <= limit and total not in longer:


# %% wrong: best-mix | the last beginning of a sum stays | killed by: many layers
# edit of: the teacher's
# -                if total <= limit and (total not in longer or change + more < longer[total][0]):
# +                if total <= limit:


# %% wrong: best-mix | the changes of the layer alone are compared | killed by: the best
# edit of: the teacher's
# -                if total <= limit and (total not in longer or change + more < longer[total][0]):
# -                    longer[total] = (change + more, (*mix, number))
# +                if total <= limit and (total not in longer or more < longer[total][0]):
# +                    longer[total] = (more, (*mix, number))


# %% wrong: best-mix | only the best beginning is continued | killed by: greedy is not enough
# edit of: the teacher's
# -        best = longer
# +        keep = min(longer, key=lambda total: longer[total][0]) if longer else None
# +        best = {} if keep is None else {keep: longer[keep]}


# %% wrong: best-mix | the costs of the chosen | killed by: one width a layer
# edit of: the teacher's
# -                    longer[total] = (change + more, (*mix, number))
# +                    longer[total] = (change + more, (*mix, cost))


# %% wrong: best-mix | numbers from 1 | killed by: one width a layer
# edit of: the teacher's
# -            for number, (cost, more) in enumerate(zip(own_costs, own_changes, strict=True)):
# +            for number, (cost, more) in enumerate(zip(own_costs, own_changes, strict=True), start=1):


# %% wrong: best-mix | the last layer is left out | killed by: one width a layer
# edit of: the teacher's
# -    for own_costs, own_changes in zip(costs, changes, strict=True):
# +    for own_costs, own_changes in list(zip(costs, changes, strict=True))[:-1]:


# %% wrong: best-mix | the costs of the first layer for all | killed by: fits
# edit of: the teacher's
# -    for own_costs, own_changes in zip(costs, changes, strict=True):
# +    for own_costs, own_changes in zip([costs[0]] * len(costs), changes, strict=True):


# %% wrong: best-mix | as many widths as the first layer has | killed by: the best
# edit of: the teacher's
# -            for number, (cost, more) in enumerate(zip(own_costs, own_changes, strict=True)):
# +            for number, (cost, more) in enumerate(zip(own_costs[: len(costs[0])], own_changes)):


# %% wrong: best-mix | out of reach is the narrowest | killed by: out of reach
# edit of: the teacher's
# -        raise ValueError(f"no mixture costs {limit} or less")
# +        return tuple(own.index(min(own)) for own in costs)


# %% wrong: best-mix | a wider width is taken for better | killed by: the best
# edit of: the teacher's
# -                if total <= limit and (total not in longer or change + more < longer[total][0]):
# -                    longer[total] = (change + more, (*mix, number))
# +                if total <= limit and (total not in longer or change - number < longer[total][0]):
# +                    longer[total] = (change - number, (*mix, number))


# %% right: predict-widths | with fractions worked out
def predict():
    parameters = {"W1": 32 * 32, "b1": 32, "W2": 32 * 32, "b2": 32}
    return {
        "models": 4096,
        "parameters at 1/4": sum(parameters.values()),
        "widths that train neuron 40": sum(k > 40 for k in (16, 32, 64, 128)),
        "share of the steps that train neuron 100": sum(k > 100 for k in (16, 32, 64, 128)) / 4,
        "widths that train the output bias": 4,
        "FLOPs of the linear layers at 1/4": 0.5,
        "FLOPs of attention's scores at 1/4": "the same",
    }


# %% right: predict-widths | as tensors
def predict():
    return {
        "FLOPs of attention's scores at 1/4": "the same",
        "FLOPs of the linear layers at 1/4": torch.tensor(0.5),
        "models": 4.0**6,
        "parameters at 1/4": 2 * 32 * 32 + 2 * 32,
        "share of the steps that train neuron 100": torch.tensor([0.25]),
        "widths that train neuron 40": torch.tensor(2),
        "widths that train the output bias": 4.0,
    }


# %% wrong: predict-widths | six times four models | killed by: models
# edit of: the teacher's
# -        "models": 4**6,
# +        "models": 6 * 4,


# %% wrong: predict-widths | six to the power of four | killed by: models
# edit of: the teacher's
# -        "models": 4**6,
# +        "models": 6**4,


# %% wrong: predict-widths | a quarter of b₂ | killed by: parameters at 1/4
# edit of: the teacher's
# -        "parameters at 1/4": 32 * 32 + 32 + 32 * 32 + 32,
# +        "parameters at 1/4": 32 * 32 + 32 + 32 * 32 + 8,


# %% wrong: predict-widths | no biases | killed by: parameters at 1/4
# edit of: the teacher's
# -        "parameters at 1/4": 32 * 32 + 32 + 32 * 32 + 32,
# +        "parameters at 1/4": 32 * 32 + 32 * 32,


# %% wrong: predict-widths | all widths train neuron 40 | killed by: widths that train neuron 40
# edit of: the teacher's
# -        "widths that train neuron 40": 2,
# +        "widths that train neuron 40": 4,


# %% wrong: predict-widths | the full width alone trains neuron 40 | killed by: widths that train neuron 40
# edit of: the teacher's
# -        "widths that train neuron 40": 2,
# +        "widths that train neuron 40": 1,


# %% wrong: predict-widths | every step trains neuron 100 | killed by: share of the steps that train neuron 100
# edit of: the teacher's
# -        "share of the steps that train neuron 100": 1 / 4,
# +        "share of the steps that train neuron 100": 1,


# %% wrong: predict-widths | the output bias is the full width's | killed by: widths that train the output bias
# edit of: the teacher's
# -        "widths that train the output bias": 4,
# +        "widths that train the output bias": 1,


# %% wrong: predict-widths | attention narrows, too | killed by: FLOPs of the linear layers at 1/4
# edit of: the teacher's
# -        "FLOPs of the linear layers at 1/4": (8 + 16 / 4) / (8 + 16),
# +        "FLOPs of the linear layers at 1/4": 1 / 4,


# %% wrong: predict-widths | attention has three projections | killed by: FLOPs of the linear layers at 1/4
# edit of: the teacher's
# -        "FLOPs of the linear layers at 1/4": (8 + 16 / 4) / (8 + 16),
# +        "FLOPs of the linear layers at 1/4": (6 + 16 / 4) / (6 + 16),


# %% wrong: predict-widths | in percent | killed by: FLOPs of the linear layers at 1/4
# edit of: the teacher's
# -        "FLOPs of the linear layers at 1/4": (8 + 16 / 4) / (8 + 16),
# +        "FLOPs of the linear layers at 1/4": 50,


# %% wrong: predict-widths | the scores are a quarter | killed by: FLOPs of attention's scores at 1/4
# edit of: the teacher's
# -        "FLOPs of attention's scores at 1/4": "the same",
# +        "FLOPs of attention's scores at 1/4": "a quarter",


# %% wrong: predict-widths | another word | killed by: a word
# edit of: the teacher's
# -        "FLOPs of attention's scores at 1/4": "the same",
# +        "FLOPs of attention's scores at 1/4": "equal",


# %% wrong: predict-widths | a name is missing | killed by: the names
# edit of: the teacher's
# -        "models": 4**6,


# %% wrong: predict-widths | a list | killed by: a dict
def predict():
    return [4**6, 2112, 2, 1 / 4, 4, 1 / 2, "the same"]


# %% wrong: predict-widths | a number in words | killed by: a number
# edit of: the teacher's
# -        "models": 4**6,
# +        "models": "4096",
