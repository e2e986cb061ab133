# %% right: exit-index | unsure exits in a row, counted
def exit_index(confidence, threshold):
    return (confidence[:-1] < threshold).long().cumprod(0).sum(0)


# %% right: exit-index | from the last exit back, each overwrites those behind it
def exit_index(confidence, threshold):
    exits, batch = confidence.shape
    leaves = torch.full((batch,), exits - 1)
    for number in reversed(range(exits - 1)):
        leaves = torch.where(confidence[number] >= threshold, number, leaves)
    return leaves


# %% right: exit-index | sample by sample
def exit_index(confidence, threshold):
    def first(column):
        return next((i for i, c in enumerate(column[:-1]) if c >= threshold), len(column) - 1)

    return torch.tensor([first(column) for column in confidence.T.tolist()])


# %% wrong: exit-index | argmax of nothing but False, without a last exit that takes all | killed by: exit
def exit_index(confidence, threshold):
    return (confidence >= threshold).int().argmax(0)


# %% wrong: exit-index | looks at the early exits alone and forgets the last | killed by: exit
def exit_index(confidence, threshold):
    return (confidence[:-1] >= threshold).int().argmax(0)


# %% wrong: exit-index | more than the threshold, not as much | killed by: exit
def exit_index(confidence, threshold):
    enough = confidence > threshold
    enough[-1] = True
    return enough.int().argmax(0)


# %% wrong: exit-index | the mean confidence of the batch decides for all | killed by: exit
# edit of: more than the threshold, not as much
# -    enough = confidence > threshold
# +    enough = confidence.mean(1, keepdim=True).expand_as(confidence) >= threshold


# %% wrong: exit-index | waits for the least sure of the batch | killed by: exit
# edit of: more than the threshold, not as much
# -    enough = confidence > threshold
# +    enough = (confidence >= threshold).all(1, keepdim=True).repeat(1, confidence.shape[1])


# %% wrong: exit-index | the most confident exit | killed by: exit
def exit_index(confidence, threshold):
    return confidence.argmax(0)


# %% wrong: exit-index | the most confident exit where none is sure, the last one asked too | killed by: exit
def exit_index(confidence, threshold):
    enough = confidence >= threshold
    return torch.where(enough.any(0), enough.int().argmax(0), confidence.argmax(0))


# %% wrong: exit-index | counts all unsure exits, also behind the one taken | killed by: exit
def exit_index(confidence, threshold):
    return (confidence[:-1] < threshold).sum(0)


# %% wrong: exit-index | an exit past the last for those of whom nobody is sure | killed by: exit
def exit_index(confidence, threshold):
    return (confidence < threshold).int().cumprod(0).sum(0)


# %% wrong: exit-index | writes a 1 into the confidences of the last exit | killed by: the confidences stay
def exit_index(confidence, threshold):
    confidence[-1] = math.inf
    return (confidence >= threshold).int().argmax(0)


# %% wrong: exit-index | the last exit gets confidence 1, which a threshold above 1 does not reach | killed by: above 1
def exit_index(confidence, threshold):
    asked = torch.cat([confidence[:-1], torch.ones_like(confidence[-1:])])
    return (asked >= threshold).int().argmax(0)


# %% wrong: exit-index | takes a threshold of 0 for none given | killed by: threshold 0
# edit of: more than the threshold, not as much
# -    enough = confidence > threshold
# +    enough = confidence >= (threshold or math.inf)


# %% wrong: exit-index | always four exits | killed by: exit
def exit_index(confidence, threshold):
    leaves = torch.full((confidence.shape[1],), 3)
    for number in (2, 1, 0):
        if number < len(confidence):
            leaves[confidence[number] >= threshold] = number
    return leaves


# %% right: exit-loss | all exits in one call
def exit_loss(logits, labels):
    exits, batch, _ = logits.shape
    all_losses = nn.functional.cross_entropy(logits.flatten(0, 1), labels.repeat(exits), reduction="none")
    weights = torch.arange(1, exits + 1).to(logits)
    return weights / weights.sum() @ all_losses.view(exits, batch).mean(1)


# %% right: exit-loss | log_softmax and gather
def exit_loss(logits, labels):
    chosen = logits.log_softmax(-1).gather(2, labels.expand(len(logits), -1)[..., None])[..., 0]
    exits = len(logits)
    return -sum((i + 1) * chosen[i].mean() for i in range(exits)) * 2 / (exits * (exits + 1))


# %% wrong: exit-loss | not divided by the sum of the weights | killed by: value
def exit_loss(logits, labels):
    return sum(i * nn.functional.cross_entropy(guess, labels) for i, guess in enumerate(logits, start=1))


# %% wrong: exit-loss | divided by the number of exits | killed by: value
def exit_loss(logits, labels):
    return sum(i * nn.functional.cross_entropy(guess, labels) for i, guess in enumerate(logits, start=1)) / len(logits)


# %% wrong: exit-loss | the weights start at 0 | killed by: value
def exit_loss(logits, labels):
    weights = torch.arange(len(logits)).to(logits)
    losses = torch.stack([nn.functional.cross_entropy(guess, labels) for guess in logits])
    return (weights * losses).sum() / weights.sum()


# %% wrong: exit-loss | the weights run backwards | killed by: value
# edit of: the weights start at 0
# -    weights = torch.arange(len(logits)).to(logits)
# +    weights = torch.arange(len(logits), 0, -1).to(logits)


# %% wrong: exit-loss | summed over the batch | killed by: value
def exit_loss(logits, labels):
    weights = torch.arange(1, len(logits) + 1).to(logits)
    losses = torch.stack([nn.functional.cross_entropy(guess, labels, reduction="sum") for guess in logits])
    return (weights * losses).sum() / weights.sum()


# %% wrong: exit-loss | all exits alike | killed by: value
def exit_loss(logits, labels):
    return torch.stack([nn.functional.cross_entropy(guess, labels) for guess in logits]).mean()


# %% wrong: exit-loss | the last exit alone | killed by: value
def exit_loss(logits, labels):
    return nn.functional.cross_entropy(logits[-1], labels)


# %% wrong: exit-loss | probabilities given to cross_entropy | killed by: value
# edit of: summed over the batch
# -    losses = torch.stack([nn.functional.cross_entropy(guess, labels, reduction="sum") for guess in logits])
# +    losses = torch.stack([nn.functional.cross_entropy(guess.softmax(-1), labels) for guess in logits])


# %% wrong: exit-loss | labels repeated one by one, out of step with the samples | killed by: value
def exit_loss(logits, labels):
    exits, batch, _ = logits.shape
    repeated = labels.repeat_interleave(exits)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), repeated, reduction="none").view(exits, batch).mean(1)
    weights = torch.arange(1, exits + 1).to(logits)
    return (weights * losses).sum() / weights.sum()


# %% wrong: exit-loss | the logits averaged over the exits | killed by: value
def exit_loss(logits, labels):
    return nn.functional.cross_entropy(logits.mean(0), labels)


# %% wrong: exit-loss | a new tensor made of the losses, without their graph | killed by: has a gradient
def exit_loss(logits, labels):
    losses = torch.tensor([nn.functional.cross_entropy(guess, labels) for guess in logits.detach()]).to(logits)
    weights = torch.arange(1, len(logits) + 1).to(logits)
    return (weights * losses).sum() / weights.sum()


# %% wrong: exit-loss | a plain number | killed by: a tensor
def exit_loss(logits, labels):
    losses = [nn.functional.cross_entropy(guess, labels).item() for guess in logits]
    return sum(i * loss for i, loss in enumerate(losses, start=1)) / sum(range(len(losses) + 1))


# %% wrong: exit-loss | one loss for each sample | killed by: one number
def exit_loss(logits, labels):
    weights = torch.arange(1, len(logits) + 1).to(logits)
    losses = torch.stack([nn.functional.cross_entropy(guess, labels, reduction="none") for guess in logits])
    return (weights[:, None] * losses).sum(0) / weights.sum()


# %% wrong: exit-loss | the early exits are detached | killed by: gradient
# edit of: summed over the batch
# -    losses = torch.stack([nn.functional.cross_entropy(guess, labels, reduction="sum") for guess in logits])
# +    guesses = torch.cat([logits[:-1].detach(), logits[-1:]])
# +    losses = torch.stack([nn.functional.cross_entropy(guess, labels) for guess in guesses])


# %% wrong: exit-loss | the logarithm of a softmax that is 0 | killed by: large logits
# edit of: a new tensor made of the losses, without their graph
# -    losses = torch.tensor([nn.functional.cross_entropy(guess, labels) for guess in logits.detach()]).to(logits)
# +    batch = torch.arange(len(labels))
# +    losses = -logits.softmax(-1)[:, batch, labels].log().mean(1)


# %% wrong: exit-loss | always three exits | killed by: value
def exit_loss(logits, labels):
    losses = torch.stack([nn.functional.cross_entropy(guess, labels) for guess in logits])
    return (losses * torch.arange(1, len(losses) + 1).to(losses)).sum() / 6


# %% right: gathered | collected as they leave, put in order at the end
def gathered(tokens, blocks, heads, threshold):
    waiting, last = torch.arange(len(tokens)), len(blocks) - 1
    gone = []
    for number in range(len(blocks)):
        tokens = blocks[number](tokens)
        said = heads[number](tokens)
        sure = (said.softmax(-1).max(-1).values >= threshold) | (number == last)
        leave, stay = sure.nonzero()[:, 0], (~sure).nonzero()[:, 0]
        gone.append((waiting[leave], said[leave], torch.full_like(leave, number)))
        tokens, waiting = tokens[stay], waiting[stay]
        if not len(waiting):
            break
    sample, logits, leaves = (torch.cat(part) for part in zip(*gone, strict=True))
    order = sample.argsort()
    return logits[order], leaves[order]


# %% right: gathered | by a call for what is left
def gathered(tokens, blocks, heads, threshold):
    blocks, heads = list(blocks), list(heads)
    tokens = blocks[0](tokens)
    logits = heads[0](tokens).clone()
    leaves = torch.zeros(len(tokens), dtype=torch.long)
    stay = logits.softmax(-1).amax(-1) < threshold
    if len(blocks) > 1 and stay.any():
        logits[stay], further = gathered(tokens[stay], blocks[1:], heads[1:], threshold)
        leaves[stay] = further + 1
    return logits, leaves


# %% right: gathered | by a mask over all samples
def gathered(tokens, blocks, heads, threshold):
    inside = torch.ones(len(tokens), dtype=torch.bool)
    leaves = torch.full((len(tokens),), len(blocks) - 1)
    held, logits = tokens.clone(), None
    for number, (block, head) in enumerate(zip(blocks, heads)):
        held[inside] = block(held[inside])
        said = head(held[inside])
        if logits is None:
            logits = said.new_zeros(len(tokens), said.shape[1])
        logits[inside] = said
        leaves[inside] = number
        inside[inside.clone()] = said.softmax(-1).amax(-1) < threshold
        if not inside.any():
            break
    return logits, leaves


# %% wrong: gathered | in the order in which they left | killed by: exit
def gathered(tokens, blocks, heads, threshold):
    logits, leaves = [], []
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        sure = said.softmax(-1).amax(-1) >= threshold
        if number == len(blocks) - 1:
            sure[:] = True
        logits.append(said[sure])
        leaves.append(torch.full((int(sure.sum()),), number))
        tokens = tokens[~sure]
        if len(tokens) == 0:
            break
    return torch.cat(logits), torch.cat(leaves)


# %% wrong: gathered | put in order the wrong way round | killed by: exit
def gathered(tokens, blocks, heads, threshold):
    waiting = torch.arange(len(tokens))
    logits, leaves, gone = [], [], []
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        sure = said.softmax(-1).amax(-1) >= threshold
        if number == len(blocks) - 1:
            sure[:] = True
        gone.append(waiting[sure])
        logits.append(said[sure])
        leaves.append(torch.full((int(sure.sum()),), number))
        tokens, waiting = tokens[~sure], waiting[~sure]
        if len(tokens) == 0:
            break
    order = torch.cat(gone)
    return torch.cat(logits)[order], torch.cat(leaves)[order]


# %% wrong: gathered | rows of the shrunken batch taken for samples | killed by: exit
def gathered(tokens, blocks, heads, threshold):
    leaves, logits = torch.zeros(len(tokens), dtype=torch.int64), None
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        logits = torch.zeros_like(said) if logits is None else logits
        sure = said.softmax(-1).amax(-1) >= threshold
        if number == len(blocks) - 1:
            sure[:] = True
        rows = sure.nonzero()[:, 0]
        logits[rows], leaves[rows] = said[rows], number
        tokens = tokens[~sure]
        if len(tokens) == 0:
            break
    return logits, leaves


# %% wrong: gathered | who waits is not shrunk after the first time | killed by: exit
# edit of: rows of the shrunken batch taken for samples
# -    leaves, logits = torch.zeros(len(tokens), dtype=torch.int64), None
# +    leaves, logits, waiting = torch.zeros(len(tokens), dtype=torch.int64), None, torch.arange(len(tokens))
# …
# -        logits[rows], leaves[rows] = said[rows], number
# +        logits[waiting[rows]], leaves[waiting[rows]] = said[rows], number
# …
#          tokens = tokens[~sure]
# +        waiting = (~sure).nonzero()[:, 0]


# %% wrong: gathered | waits until the least sure of the batch is sure | killed by: exit
def gathered(tokens, blocks, heads, threshold):
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        if (said.softmax(-1).amax(-1) >= threshold).all() or number == len(blocks) - 1:
            return said, torch.full((len(tokens),), number)


# %% wrong: gathered | the largest logit for the confidence | killed by: exit
def gathered(tokens, blocks, heads, threshold):
    waiting = torch.arange(len(tokens))
    leaves, logits = torch.empty_like(waiting), None
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        logits = torch.empty_like(said) if logits is None else logits
        sure = said.amax(-1) >= threshold
        if number == len(blocks) - 1:
            sure[:] = True
        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
        tokens, waiting = tokens[~sure], waiting[~sure]
        if len(tokens) == 0:
            break
    return logits, leaves


# %% wrong: gathered | the last exit is asked, and those of whom it is not sure never leave | killed by: exit
# edit of: the largest logit for the confidence
# -    leaves, logits = torch.empty_like(waiting), None
# +    leaves, logits = torch.zeros_like(waiting), None
# …
# -        logits = torch.empty_like(said) if logits is None else logits
# -        sure = said.amax(-1) >= threshold
# -        if number == len(blocks) - 1:
# -            sure[:] = True
# +        logits = torch.zeros_like(said) if logits is None else logits
# +        sure = said.softmax(-1).amax(-1) >= threshold


# %% wrong: gathered | the last layer's logits for all | killed by: logits
def gathered(tokens, blocks, heads, threshold):
    leaves = torch.full((len(tokens),), len(blocks) - 1)
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        sure = said.softmax(-1).amax(-1) >= threshold
        leaves[sure & (leaves == len(blocks) - 1)] = number
    return said, leaves


# %% wrong: gathered | probabilities for logits | killed by: logits
# edit of: the largest logit for the confidence
# -        said = head(tokens)
# +        said = head(tokens).softmax(-1)


# %% wrong: gathered | everything is computed, then one exit picked | killed by: samples a block saw
def gathered(tokens, blocks, heads, threshold):
    said = []
    for block, head in zip(blocks, heads):
        tokens = block(tokens)
        said.append(head(tokens))
    said = torch.stack(said)
    enough = said.softmax(-1).amax(-1) >= threshold
    enough[-1] = True
    leaves = enough.int().argmax(0)
    return said[leaves, torch.arange(len(leaves))], leaves


# %% wrong: gathered | one sample after the other | killed by: samples a block saw
def gathered(tokens, blocks, heads, threshold):
    logits, leaves = [], []
    for sample in tokens.split(1):
        for number, (block, head) in enumerate(zip(blocks, heads)):
            sample = block(sample)
            said = head(sample)
            if said.softmax(-1).max() >= threshold or number == len(blocks) - 1:
                logits.append(said)
                leaves.append(number)
                break
    return torch.cat(logits), torch.tensor(leaves)


# %% wrong: gathered | a head is called twice, for the logits and for the confidence | killed by: samples a head saw
# edit of: the largest logit for the confidence
#          tokens = block(tokens)
# +        sure = head(tokens).softmax(-1).amax(-1) >= threshold
# …
# -        sure = said.amax(-1) >= threshold


# %% wrong: gathered | goes on with nobody when all have left | killed by: no empty batch
# edit of: the largest logit for the confidence
# -        sure = said.amax(-1) >= threshold
# +        sure = said.softmax(-1).amax(-1) >= threshold
# …
# -        if len(tokens) == 0:
# -            break


# %% wrong: gathered | float32 results of three classes, whatever the heads say | killed by: logits as if alone
def gathered(tokens, blocks, heads, threshold):
    waiting = torch.arange(len(tokens))
    leaves, logits = torch.empty_like(waiting), torch.empty(len(tokens), 3)
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        if said.shape[1] != logits.shape[1]:
            logits = torch.empty(len(leaves), said.shape[1])
        sure = said.softmax(-1).amax(-1) >= threshold
        if number == len(blocks) - 1:
            sure[:] = True
        logits[waiting[sure]], leaves[waiting[sure]] = said[sure].float(), number
        tokens, waiting = tokens[~sure], waiting[~sure]
        if len(tokens) == 0:
            break
    return logits, leaves


# %% wrong: gathered | more than the threshold, not as much | killed by: just enough
# edit of: the largest logit for the confidence
# -        sure = said.amax(-1) >= threshold
# +        sure = said.softmax(-1).amax(-1) > threshold


# %% right: state-propagation | by layer numbers
def propagate(blocks, caches, states, position):
    state = states[-1]
    where = torch.full(state.shape[:2], position, dtype=torch.int64)
    for layer in range(len(states), len(caches)):
        attention = blocks[layer].attention
        keys, values = attention.keys_values(x=blocks[layer].norm1(state), positions=where)
        caches[layer].append(keys=keys, values=values, positions=where)


# %% right: state-propagation | from the last layer down
def propagate(blocks, caches, states, position):
    positions = torch.tensor([[position]]).repeat(states[-1].shape[0], 1)
    layer = len(blocks)
    while layer > len(states):
        layer -= 1
        normed = blocks[layer].norm1(states[len(states) - 1])
        caches[layer].append(*blocks[layer].attention.keys_values(normed, positions), positions)


# %% wrong: state-propagation | without the norm | killed by: values
def propagate(blocks, caches, states, position):
    positions = torch.full((len(states[-1]), 1), position)
    for block, cache in list(zip(blocks, caches))[len(states) :]:
        cache.append(*block.attention.keys_values(states[-1], positions), positions)


# %% wrong: state-propagation | the norm of the feed-forward part | killed by: values
# edit of: without the norm
# -        cache.append(*block.attention.keys_values(states[-1], positions), positions)
# +        cache.append(*block.attention.keys_values(block.norm2(states[-1]), positions), positions)


# %% wrong: state-propagation | the state after the first layer | killed by: values
def propagate(blocks, caches, states, position):
    positions = torch.full((len(states[0]), 1), position)
    for block, cache in list(zip(blocks, caches))[len(states) :]:
        cache.append(*block.attention.keys_values(block.norm1(states[0]), positions), positions)


# %% wrong: state-propagation | the token runs on through all layers | killed by: values
def propagate(blocks, caches, states, position):
    state, positions = states[-1], torch.full((len(states[-1]), 1), position)
    for block, cache in list(zip(blocks, caches))[len(states) :]:
        state = block(state, positions=positions, cache=cache)


# %% wrong: state-propagation | every skipped layer runs, and its result is thrown away | killed by: no layer runs
# edit of: without the norm
# -        cache.append(*block.attention.keys_values(states[-1], positions), positions)
# +        block(states[-1], positions=positions, cache=cache)


# %% wrong: state-propagation | the attention runs, and its result is thrown away | killed by: no layer runs
# edit of: without the norm
# -        cache.append(*block.attention.keys_values(states[-1], positions), positions)
# +        block.attention(block.norm1(states[-1]), positions=positions, cache=cache)


# %% wrong: state-propagation | the keys and values of the first skipped layer for all | killed by: values
def propagate(blocks, caches, states, position):
    positions = torch.full((len(states[-1]), 1), position)
    skipped = list(zip(blocks, caches))[len(states) :]
    keys, values = skipped[0][0].attention.keys_values(skipped[0][0].norm1(states[-1]), positions)
    for _, cache in skipped:
        cache.append(keys, values, positions)


# %% wrong: state-propagation | keys and values swapped | killed by: values
# edit of: without the norm
# -        cache.append(*block.attention.keys_values(states[-1], positions), positions)
# +        keys, values = block.attention.keys_values(block.norm1(states[-1]), positions)
# +        cache.append(values, keys, positions)


# %% wrong: state-propagation | into all layers, also those that ran | killed by: one token a layer
def propagate(blocks, caches, states, position):
    positions = torch.full((len(states[-1]), 1), position)
    for block, cache in zip(blocks, caches):
        cache.append(*block.attention.keys_values(block.norm1(states[-1]), positions), positions)


# %% wrong: state-propagation | into the layers below | killed by: one token a layer
# edit of: into all layers, also those that ran
# -    for block, cache in zip(blocks, caches):
# +    for block, cache in list(zip(blocks, caches))[: len(states)]:


# %% wrong: state-propagation | into the layer it left after once more | killed by: one token a layer
# edit of: into all layers, also those that ran
# -    for block, cache in zip(blocks, caches):
# +    for block, cache in list(zip(blocks, caches))[len(states) - 1 :]:


# %% wrong: state-propagation | the first skipped layer forgotten | killed by: one token a layer
# edit of: into all layers, also those that ran
# -    for block, cache in zip(blocks, caches):
# +    for block, cache in list(zip(blocks, caches))[len(states) + 1 :]:


# %% wrong: state-propagation | keys without a position | killed by: keys
# edit of: without the norm
# -        cache.append(*block.attention.keys_values(states[-1], positions), positions)
# +        cache.append(*block.attention.keys_values(block.norm1(states[-1])), positions)


# %% wrong: state-propagation | the number of layers for the position | killed by: keys
def propagate(blocks, caches, states, position):
    positions = torch.full((len(states[-1]), 1), len(states))
    for block, cache in list(zip(blocks, caches))[len(states) :]:
        cache.append(*block.attention.keys_values(block.norm1(states[-1]), positions), positions)


# %% wrong: state-propagation | the cache is told position 0 | killed by: positions
# edit of: without the norm
# -        cache.append(*block.attention.keys_values(states[-1], positions), positions)
# +        cache.append(*block.attention.keys_values(block.norm1(states[-1]), positions), torch.zeros_like(positions))


# %% wrong: state-propagation | the length of the cache for the position | killed by: keys
def propagate(blocks, caches, states, position):
    for block, cache in list(zip(blocks, caches))[len(states) :]:
        positions = torch.full((len(states[-1]), 1), cache.length)
        cache.append(*block.attention.keys_values(block.norm1(states[-1]), positions), positions)


# %% wrong: state-propagation | the second state, not the last | killed by: values
def propagate(blocks, caches, states, position):
    left_with = states[min(1, len(states) - 1)]
    positions = torch.full((len(left_with), 1), position)
    for block, cache in list(zip(blocks, caches))[len(states) :]:
        cache.append(*block.attention.keys_values(block.norm1(left_with), positions), positions)


# %% right: learn-then-test | logarithms in a tensor, the first failure found at once
def p_value(k, n, delta):
    j = torch.arange(k + 1, dtype=torch.float64)
    n = torch.tensor(n, dtype=torch.float64)
    logs = (n + 1).lgamma() - (j + 1).lgamma() - (n - j + 1).lgamma()
    return (logs + j * math.log(delta) + (n - j) * math.log1p(-delta)).logsumexp(0).exp().item()


def learn_then_test(losses, delta, epsilon):
    p = [p_value(int(column.sum()), len(column), delta) for column in losses.T]
    passed = list(itertools.takewhile(lambda value: value <= epsilon, p))
    return len(passed) - 1 if passed else None


# %% right: learn-then-test | whole numbers throughout
def p_value(k, n, delta):
    exact = Fraction(delta).limit_denominator(10**6)
    b, c = exact.numerator, exact.denominator
    ways, total = 1, 0
    for j in range(k + 1):
        total += ways * b**j * (c - b) ** (n - j)
        ways = ways * (n - j) // (j + 1)
    return float(Fraction(total, c**n))


def learn_then_test(losses, delta, epsilon):
    points, thresholds = losses.shape
    index = 0
    while index < thresholds and p_value(int(losses[:, index].sum()), points, delta) <= epsilon:
        index += 1
    return index - 1 if index else None


# %% wrong: learn-then-test | P(X < k) | killed by: p-value
def p_value(k, n, delta):
    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))


def learn_then_test(losses, delta, epsilon):
    certified = None
    for index, k in enumerate(losses.sum(0).tolist()):
        if p_value(int(k), len(losses), delta) > epsilon:
            break
        certified = index
    return certified


# %% wrong: learn-then-test | P(X >= k) | killed by: p-value
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    return 1 - sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))


# %% wrong: learn-then-test | the probability of just k losses | killed by: p-value
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    return math.comb(n, k) * delta**k * (1 - delta) ** (n - k)


# %% wrong: learn-then-test | Hoeffding's bound for the exact p-value | killed by: p-value
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    return math.exp(-2 * n * max(delta - k / n, 0) ** 2)


# %% wrong: learn-then-test | binomial coefficients left out | killed by: p-value
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    return sum(delta**j * (1 - delta) ** (n - j) for j in range(k + 1))


# %% wrong: learn-then-test | the normal law for the binomial one | killed by: p-value
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    z = (k + 0.5 - n * delta) / math.sqrt(n * delta * (1 - delta))
# +    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


# %% wrong: learn-then-test | numbers too large for a float with many points | killed by: runs
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k + 1))


# %% wrong: learn-then-test | the mean loss held against delta, without a test | killed by: index
def p_value(k, n, delta):
    parts = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(k + 1)]
    return sum(math.exp(a + j * math.log(delta) + (n - j) * math.log(1 - delta)) for j, a in enumerate(parts))


def learn_then_test(losses, delta, epsilon):
    fine = (losses.mean(0) <= delta).nonzero()
    return int(fine[-1]) if len(fine) else None


# %% wrong: learn-then-test | the most daring with a small p-value, without a stop | killed by: index
# edit of: the mean loss held against delta, without a test
# -    fine = (losses.mean(0) <= delta).nonzero()
# -    return int(fine[-1]) if len(fine) else None
# +    passed = [i for i, k in enumerate(losses.sum(0).tolist()) if p_value(int(k), len(losses), delta) <= epsilon]
# +    return max(passed, default=None)


# %% wrong: learn-then-test | from the most daring to the safe, the first that passes | killed by: index
# edit of: the mean loss held against delta, without a test
# -    fine = (losses.mean(0) <= delta).nonzero()
# -    return int(fine[-1]) if len(fine) else None
# +    for index in reversed(range(losses.shape[1])):
# +        if p_value(int(losses[:, index].sum()), len(losses), delta) <= epsilon:
# +            return index
# +    return None


# %% wrong: learn-then-test | from the most daring on, stopping at the first failure | killed by: index
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    parts = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(k + 1)]
# +    return sum(math.exp(a + j * math.log(delta) + (n - j) * math.log(1 - delta)) for j, a in enumerate(parts))
# …
# -    for index, k in enumerate(losses.sum(0).tolist()):
# -        if p_value(int(k), len(losses), delta) > epsilon:
# +    for index in reversed(range(losses.shape[1])):
# +        if p_value(int(losses[:, index].sum()), len(losses), delta) > epsilon:


# %% wrong: learn-then-test | epsilon divided by the number of thresholds | killed by: index
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    parts = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(k + 1)]
# +    return sum(math.exp(a + j * math.log(delta) + (n - j) * math.log(1 - delta)) for j, a in enumerate(parts))
# …
# -        if p_value(int(k), len(losses), delta) > epsilon:
# +        if p_value(int(k), len(losses), delta) > epsilon / losses.shape[1]:


# %% wrong: learn-then-test | held against 1 - epsilon | killed by: index
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    parts = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(k + 1)]
# +    return sum(math.exp(a + j * math.log(delta) + (n - j) * math.log(1 - delta)) for j, a in enumerate(parts))
# …
# -        if p_value(int(k), len(losses), delta) > epsilon:
# +        if p_value(int(k), len(losses), delta) > 1 - epsilon:


# %% wrong: learn-then-test | the first that failed | killed by: index
# edit of: the mean loss held against delta, without a test
# -    fine = (losses.mean(0) <= delta).nonzero()
# -    return int(fine[-1]) if len(fine) else None
# +    for index, k in enumerate(losses.sum(0).tolist()):
# +        if p_value(int(k), len(losses), delta) > epsilon:
# +            return index
# +    return losses.shape[1] - 1


# %% wrong: learn-then-test | -1 where nothing is certified | killed by: none certified
# edit of: the mean loss held against delta, without a test
# -    fine = (losses.mean(0) <= delta).nonzero()
# -    return int(fine[-1]) if len(fine) else None
# +    for index, k in enumerate(losses.sum(0).tolist()):
# +        if p_value(int(k), len(losses), delta) > epsilon:
# +            return index - 1
# +    return losses.shape[1] - 1


# %% wrong: learn-then-test | the safest where nothing is certified | killed by: none certified
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    parts = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(k + 1)]
# +    return sum(math.exp(a + j * math.log(delta) + (n - j) * math.log(1 - delta)) for j, a in enumerate(parts))
# …
# -    certified = None
# +    certified = 0


# %% wrong: learn-then-test | no loss is thought to be enough, with however few points | killed by: too few points
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    parts = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(k + 1)]
# +    return sum(math.exp(a + j * math.log(delta) + (n - j) * math.log(1 - delta)) for j, a in enumerate(parts))
# …
# -        if p_value(int(k), len(losses), delta) > epsilon:
# +        if k > 0 and p_value(int(k), len(losses), delta) > epsilon:


# %% wrong: learn-then-test | delta and epsilon change places | killed by: random losses
# edit of: P(X < k)
# -    return sum(math.comb(n, j) * delta**j * (1 - delta) ** (n - j) for j in range(k))
# +    parts = [math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) for j in range(k + 1)]
# +    return sum(math.exp(a + j * math.log(delta) + (n - j) * math.log(1 - delta)) for j, a in enumerate(parts))
# …
# -        if p_value(int(k), len(losses), delta) > epsilon:
# +        if p_value(int(k), len(losses), epsilon) > delta:


# %% wrong: learn-then-test | the index 0 taken for none | killed by: the safest alone
# edit of: the mean loss held against delta, without a test
# -    fine = (losses.mean(0) <= delta).nonzero()
# -    return int(fine[-1]) if len(fine) else None
# +    certified = 0
# +    for index, k in enumerate(losses.sum(0).tolist()):
# +        if p_value(int(k), len(losses), delta) > epsilon:
# +            break
# +        certified = index
# +    return certified or None


# %% right: predict-promise | counted up, and a loop over the runs
def predict():
    n = 1
    while 0.95**n > 0.1:
        n += 1
    return {
        "threshold with more points": "falls",
        "exit with more clutter": "rises",
        "tested rule breaks": round(0.94**50, 3),
        "naive rule breaks": 0.416,
        "points needed": n,
    }


def broken(chosen, risks, delta):
    count = 0
    for index in chosen:
        if index is None:
            continue
        count += risks[index] > delta
    return count / len(chosen)


# %% right: predict-promise | risks with a 0 for those who chose nothing
def predict():
    naive = sum(math.comb(50, k) * 0.06**k * 0.94 ** (50 - k) for k in range(3))
    return dict(
        [
            ("points needed", 45.0),
            ("naive rule breaks", naive),
            ("tested rule breaks", 0.0453),
            ("exit with more clutter", "rises"),
            ("threshold with more points", "falls"),
        ]
    )


def broken(chosen, risks, delta):
    met = torch.tensor([0.0 if index is None else float(risks[index]) for index in chosen], dtype=torch.float64)
    return (met > delta).double().mean().item()


# %% wrong: predict-promise | rounds down the points needed | killed by: points needed
def predict():
    return {
        "points needed": 44,
        "naive rule breaks": 0.416,
        "tested rule breaks": 0.045,
        "exit with more clutter": "rises",
        "threshold with more points": "falls",
    }


def broken(chosen, risks, delta):
    return sum(index is not None and risks[index] > delta for index in chosen) / len(chosen)


# %% wrong: predict-promise | one point for every 1 / delta | killed by: points needed
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 20,


# %% wrong: predict-promise | the points that Hoeffding's bound needs | killed by: points needed
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": math.ceil(math.log(10) / (2 * 0.05**2)),


# %% wrong: predict-promise | the losses of the naive rule counted with delta | killed by: naive rule breaks
# edit of: rounds down the points needed
# -        "points needed": 44,
# -        "naive rule breaks": 0.416,
# +        "points needed": 45,
# +        "naive rule breaks": sum(math.comb(50, k) * 0.05**k * 0.95 ** (50 - k) for k in range(3)),


# %% wrong: predict-promise | the naive rule thought to keep its promise | killed by: naive rule breaks
# edit of: rounds down the points needed
# -        "points needed": 44,
# -        "naive rule breaks": 0.416,
# +        "points needed": 45,
# +        "naive rule breaks": 0,


# %% wrong: predict-promise | epsilon taken for the rate, not for its bound | killed by: tested rule breaks
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -        "tested rule breaks": 0.045,
# +        "tested rule breaks": 0.1,


# %% wrong: predict-promise | the p-value taken for the probability | killed by: tested rule breaks
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -        "tested rule breaks": 0.045,
# +        "tested rule breaks": 0.95**50,


# %% wrong: predict-promise | clutter thought to make no difference | killed by: exit with more clutter
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -        "exit with more clutter": "rises",
# +        "exit with more clutter": "stays",


# %% wrong: predict-promise | more points thought to make it more careful | killed by: threshold with more points
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -        "threshold with more points": "falls",
# +        "threshold with more points": "rises",


# %% wrong: predict-promise | a word that is none of the three | killed by: a word
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -        "exit with more clutter": "rises",
# +        "exit with more clutter": "later",


# %% wrong: predict-promise | a name of the dict is misspelt | killed by: the names
# edit of: rounds down the points needed
# -        "points needed": 44,
# -        "naive rule breaks": 0.416,
# +        "points needed": 45,
# +        "naive breaks": 0.416,


# %% wrong: predict-promise | runs that chose nothing are left out | killed by: broken
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -    return sum(index is not None and risks[index] > delta for index in chosen) / len(chosen)
# +    sure = [risks[index] > delta for index in chosen if index is not None]
# +    return sum(sure) / len(sure) if sure else 0.0


# %% wrong: predict-promise | a risk of just delta counted as broken | killed by: broken
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -    return sum(index is not None and risks[index] > delta for index in chosen) / len(chosen)
# +    return sum(index is not None and risks[index] >= delta for index in chosen) / len(chosen)


# %% wrong: predict-promise | a run that chose nothing counted as broken | killed by: broken
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -    return sum(index is not None and risks[index] > delta for index in chosen) / len(chosen)
# +    return sum(index is None or risks[index] > delta for index in chosen) / len(chosen)


# %% wrong: predict-promise | the index 0 taken for none | killed by: broken
# edit of: rounds down the points needed
# -        "points needed": 44,
# +        "points needed": 45,
# …
# -    return sum(index is not None and risks[index] > delta for index in chosen) / len(chosen)
# +    return sum(bool(index) and risks[index] > delta for index in chosen) / len(chosen)
