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


# %% wrong: exit-loss | torch.tensor of a list of losses | killed by: has a gradient
# edit of: a new tensor made of the losses, without their graph
# -    losses = torch.tensor([nn.functional.cross_entropy(guess, labels) for guess in logits.detach()]).to(logits)
# +    losses = torch.tensor([nn.functional.cross_entropy(guess, labels).item() for guess in logits]).to(logits)


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


# %% right: exit-loss | a weighted mean of a stack, in float64
def exit_loss(logits, labels):
    losses = torch.stack([nn.functional.nll_loss(guess.log_softmax(-1), labels) for guess in logits]).double()
    weights = torch.arange(1, len(losses) + 1, dtype=torch.float64)
    return ((losses * weights).sum() / weights.sum()).to(logits.dtype)


# %% wrong: exit-loss | log_softmax over the batch | killed by: value
def exit_loss(logits, labels):
    said = logits.log_softmax(1)
    losses = torch.stack([nn.functional.nll_loss(guess, labels) for guess in said])
    weights = torch.arange(1, len(logits) + 1).to(logits)
    return (weights * losses).sum() / weights.sum()


# %% wrong: exit-loss | log_softmax over the exits | killed by: value
# edit of: log_softmax over the batch
# -    said = logits.log_softmax(1)
# +    said = logits.log_softmax(0)


# %% wrong: exit-loss | the package does it | killed by: by hand
def exit_loss(logits, labels):
    from dynlib.depth import exit_loss as finished

    return finished(logits, labels, weights="depth")


# %% wrong: exit-loss | a new leaf in place of the logits | killed by: gradient
def exit_loss(logits, labels):
    fresh = logits.detach().clone().requires_grad_()
    losses = torch.stack([nn.functional.cross_entropy(guess, labels) for guess in fresh])
    weights = torch.arange(1, len(logits) + 1).to(logits)
    return (weights * losses).sum() / weights.sum()


# %% wrong: exit-loss | the weights kept from the first call | killed by: value
kept = []


def exit_loss(logits, labels):
    if not kept:
        kept.append(torch.arange(1, len(logits) + 1))
    weights = kept[0].to(logits)[: len(logits)]
    losses = torch.stack([nn.functional.cross_entropy(guess, labels) for guess in logits[: len(weights)]])
    return (weights * losses).sum() / kept[0].sum()


# %% right: gathered | collected as they leave, put in order at the end
def gathered(tokens, blocks, heads, thresholds):
    waiting, last = torch.arange(len(tokens)), len(blocks) - 1
    gone, mean = [], None
    for number in range(len(blocks)):
        tokens = blocks[number](tokens)
        said = heads[number](tokens)
        mean = said if mean is None else mean + (said - mean) / (number + 1)
        sure = torch.ones_like(waiting).bool()
        if number != last:
            sure = mean.softmax(-1).max(-1).values >= thresholds[number]
        leave, stay = sure.nonzero()[:, 0], (~sure).nonzero()[:, 0]
        gone.append((waiting[leave], mean[leave], torch.full_like(leave, number)))
        tokens, mean, waiting = tokens[stay], mean[stay], waiting[stay]
        if not len(waiting):
            break
    sample, logits, leaves = (torch.cat(part) for part in zip(*gone, strict=True))
    order = sample.argsort()
    return logits[order], leaves[order]


# %% right: gathered | by a call for what is left
def gathered(tokens, blocks, heads, thresholds, total=0, number=0):
    blocks, heads = list(blocks), list(heads)
    tokens = blocks[0](tokens)
    total = total + heads[0](tokens)
    logits = total / (number + 1)
    leaves = torch.full((len(tokens),), number)
    if len(blocks) > 1:
        stay = logits.softmax(-1).amax(-1) < thresholds[0]
        if stay.any():
            further = gathered(tokens[stay], blocks[1:], heads[1:], thresholds[1:], total[stay], number + 1)
            logits[stay], leaves[stay] = further
    return logits, leaves


# %% right: gathered | by a mask over all samples, a list for the pair
def gathered(tokens, blocks, heads, thresholds):
    inside = torch.ones(len(tokens), dtype=torch.bool)
    leaves = torch.full((len(tokens),), len(blocks) - 1)
    held, total, logits = tokens.clone(), None, None
    for number, (block, head) in enumerate(zip(blocks, heads)):
        held[inside] = block(held[inside])
        said = head(held[inside])
        if total is None:
            total = said.new_zeros(len(tokens), said.shape[1])
            logits = total.clone()
        total[inside] += said
        logits[inside] = total[inside] / (number + 1)
        leaves[inside] = number
        limit = thresholds[number] if number < len(thresholds) else 0
        inside[inside.clone()] = logits[inside].softmax(-1).amax(-1) < limit
        if not inside.any():
            break
    return [logits, leaves]


# %% wrong: gathered | each exit for itself, as in the lecture | killed by: logits
def gathered(tokens, blocks, heads, thresholds):
    waiting = torch.arange(len(tokens))
    leaves, logits = torch.empty_like(waiting), None
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        logits = torch.empty_like(said) if logits is None else logits
        sure = torch.ones(len(said), dtype=torch.bool)
        if number < len(thresholds):
            sure = said.softmax(-1).amax(-1) >= thresholds[number]
        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
        tokens, waiting = tokens[~sure], waiting[~sure]
        if len(tokens) == 0:
            break
    return logits, leaves


# %% wrong: gathered | decides by the mean, and gives the exit's own logits | killed by: logits
def gathered(tokens, blocks, heads, thresholds):
    waiting, total = torch.arange(len(tokens)), 0
    leaves, logits = torch.empty_like(waiting), None
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        said = head(tokens)
        total = total + said
        guess = total / (number + 1)
        logits = torch.empty_like(said) if logits is None else logits
        sure = torch.ones(len(said), dtype=torch.bool)
        if number < len(thresholds):
            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
        tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]
        if len(tokens) == 0:
            break
    return logits, leaves


# %% wrong: gathered | the sum of the logits for their mean | killed by: logits
# edit of: decides by the mean, and gives the exit's own logits
# -        guess = total / (number + 1)
# +        guess = total
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% wrong: gathered | the mean over all exits, asked or not | killed by: logits
# edit of: decides by the mean, and gives the exit's own logits
# -        guess = total / (number + 1)
# +        guess = total / len(blocks)
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% wrong: gathered | the mean of the last two exits | killed by: logits
# edit of: decides by the mean, and gives the exit's own logits
# -        total = total + said
# -        guess = total / (number + 1)
# +        guess = said if number == 0 else (total + said) / 2
# +        total = said
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% wrong: gathered | a half of what was, a half of what is new | killed by: logits
# edit of: decides by the mean, and gives the exit's own logits
# -        total = total + said
# -        guess = total / (number + 1)
# +        guess = said if number == 0 else (total + said) / 2
# +        total = guess
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% wrong: gathered | the mean of the probabilities | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        total = total + said
# +        total = total + said.softmax(-1)
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.amax(-1) >= thresholds[number]
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% wrong: gathered | probabilities for logits | killed by: logits
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure].softmax(-1), number


# %% wrong: gathered | the memory is not shrunk | killed by: runs
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]
# +        tokens, waiting = tokens[~sure], waiting[~sure]


# %% wrong: gathered | the memory loses its last rows, not those that left | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]
# +        tokens, waiting = tokens[~sure], waiting[~sure]
# +        total = total[: len(tokens)]


# %% wrong: gathered | one threshold for all | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.softmax(-1).amax(-1) >= thresholds[0]


# %% wrong: gathered | the smallest threshold for all | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.softmax(-1).amax(-1) >= min(thresholds)


# %% wrong: gathered | more than the threshold, not as much | killed by: just enough
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.softmax(-1).amax(-1) > thresholds[number]


# %% wrong: gathered | a threshold of 1 is thought to be above all | killed by: just enough
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = (guess.softmax(-1).amax(-1) >= thresholds[number]) & (thresholds[number] < 1)


# %% wrong: gathered | thresholds are cut at 1 | killed by: just enough
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.softmax(-1).amax(-1) >= min(thresholds[number], 1.0)


# %% wrong: gathered | thresholds of 0 are thought to be left out | killed by: each as if alone
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        if number < len(thresholds):
# +        if number < len(thresholds):
# +            limit = thresholds[number] or 2.0
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.softmax(-1).amax(-1) >= limit


# %% wrong: gathered | the largest logit for the confidence | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.amax(-1) >= thresholds[number]


# %% wrong: gathered | the last exit is asked too, and those of whom it is not sure never leave | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -    leaves, logits = torch.empty_like(waiting), None
# +    leaves, logits = torch.zeros_like(waiting), None
# …
# -        logits = torch.empty_like(said) if logits is None else logits
# -        sure = torch.ones(len(said), dtype=torch.bool)
# -        if number < len(thresholds):
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +        logits = torch.zeros_like(said) if logits is None else logits
# +        limits = [*thresholds, thresholds[-1] if thresholds else 0.9]
# +        sure = guess.softmax(-1).amax(-1) >= limits[number]


# %% wrong: gathered | the least sure of the batch decides for all | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure[:] = (guess.softmax(-1).amax(-1) >= thresholds[number]).all()


# %% wrong: gathered | the mean confidence of the batch decides for all | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure[:] = guess.softmax(-1).amax(-1).mean() >= thresholds[number]


# %% wrong: gathered | exit numbers as int32 | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -    leaves, logits = torch.empty_like(waiting), None
# +    leaves, logits = torch.empty_like(waiting, dtype=torch.int32), None


# %% wrong: gathered | exit numbers as float | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -    leaves, logits = torch.empty_like(waiting), None
# +    leaves, logits = torch.zeros(len(tokens)), None


# %% wrong: gathered | a list of exit numbers | killed by: a pair
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -    return logits, leaves
# +    return logits, leaves.tolist()


# %% wrong: gathered | exits counted from 1 | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -    return logits, leaves
# +    return logits, leaves + 1


# %% wrong: gathered | writes what the first block gave into the tokens | killed by: input untouched
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        tokens = block(tokens)
# +        given, tokens = tokens, block(tokens)
# +        given.copy_(tokens)


# %% wrong: gathered | goes on with nobody when all have left | killed by: no empty batch
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        if len(tokens) == 0:
# -            break


# %% wrong: gathered | a head is called twice | killed by: samples a head saw
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        said = head(tokens)
# +        said = (head(tokens) + head(tokens)) / 2


# %% wrong: gathered | one head reads for all exits | killed by: logits
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        said = head(tokens)
# +        said = heads[0](tokens)


# %% wrong: gathered | rows of the shrunken batch taken for samples | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        rows = sure.nonzero()[:, 0]
# +        logits[rows], leaves[rows] = guess[rows], number


# %% wrong: gathered | who waits is not shrunk after the first time | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -        tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]
# +        tokens, total, waiting = tokens[~sure], total[~sure], (~sure).nonzero()[:, 0]


# %% wrong: gathered | float32 results, whatever the heads say | killed by: logits as if alone
# edit of: decides by the mean, and gives the exit's own logits
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
# …
# -    return logits, leaves
# +    return logits.float(), leaves


# %% wrong: gathered | in the order in which they left | killed by: exit
def gathered(tokens, blocks, heads, thresholds):
    logits, leaves, total = [], [], 0
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        total = total + head(tokens)
        guess = total / (number + 1)
        sure = guess.softmax(-1).amax(-1) >= [*thresholds, 0][number]
        logits.append(guess[sure])
        leaves.append(torch.full((int(sure.sum()),), number))
        tokens, total = tokens[~sure], total[~sure]
        if len(tokens) == 0:
            break
    return torch.cat(logits), torch.cat(leaves)


# %% wrong: gathered | put in order the wrong way round | killed by: exit
def gathered(tokens, blocks, heads, thresholds):
    waiting, logits, leaves, gone, total = torch.arange(len(tokens)), [], [], [], 0
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        total = total + head(tokens)
        guess = total / (number + 1)
        sure = guess.softmax(-1).amax(-1) >= [*thresholds, 0][number]
        gone.append(waiting[sure])
        logits.append(guess[sure])
        leaves.append(torch.full((int(sure.sum()),), number))
        tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]
        if len(tokens) == 0:
            break
    order = torch.cat(gone)
    return torch.cat(logits)[order], torch.cat(leaves)[order]


# %% wrong: gathered | everything is computed, then one exit picked | killed by: samples a block saw
def gathered(tokens, blocks, heads, thresholds):
    said = []
    for block, head in zip(blocks, heads):
        tokens = block(tokens)
        said.append(head(tokens))
    means = torch.stack(said).cumsum(0) / torch.arange(1, len(said) + 1)[:, None, None]
    limits = torch.tensor([*thresholds, 0.0])[:, None]
    leaves = (means.softmax(-1).amax(-1) >= limits).int().argmax(0)
    return means[leaves, torch.arange(len(leaves))], leaves


# %% wrong: gathered | one sample after the other | killed by: samples a block saw
def gathered(tokens, blocks, heads, thresholds):
    logits, leaves = [], []
    for sample in tokens.split(1):
        total = 0
        for number, (block, head) in enumerate(zip(blocks, heads)):
            sample = block(sample)
            total = total + head(sample)
            guess = total / (number + 1)
            if guess.softmax(-1).max() >= [*thresholds, 0][number]:
                logits.append(guess)
                leaves.append(number)
                break
    return torch.cat(logits), torch.tensor(leaves)


# %% wrong: gathered | the package runs the layers | killed by: by hand
def gathered(tokens, blocks, heads, thresholds):
    from dynlib.depth.early_exit import max_probability

    waiting, total = torch.arange(len(tokens)), 0
    leaves, logits = torch.empty_like(waiting), None
    for number, (block, head) in enumerate(zip(blocks, heads)):
        tokens = block(tokens)
        total = total + head(tokens)
        guess = total / (number + 1)
        logits = torch.empty_like(guess) if logits is None else logits
        sure = max_probability(guess) >= [*thresholds, 0][number]
        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number
        tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]
        if len(tokens) == 0:
            break
    return logits, leaves


# %% wrong: gathered | a softmax that overflows | killed by: just enough
# edit of: decides by the mean, and gives the exit's own logits
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            odds = guess.exp()
# +            sure = odds.amax(-1) / odds.sum(-1) >= thresholds[number]
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% wrong: gathered | the softmax over the batch | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.softmax(0).amax(-1) >= thresholds[number]
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% wrong: gathered | thresholds rounded to two digits | killed by: exit
# edit of: decides by the mean, and gives the exit's own logits
# -            sure = guess.softmax(-1).amax(-1) >= thresholds[number]
# +            sure = guess.softmax(-1).amax(-1) >= round(thresholds[number], 2)
# …
# -        logits[waiting[sure]], leaves[waiting[sure]] = said[sure], number
# +        logits[waiting[sure]], leaves[waiting[sure]] = guess[sure], number


# %% right: state-propagation | text by text
def propagate(blocks, caches, states, exits, positions):
    where = positions.unsqueeze(1)
    for layer in range(len(caches)):
        got = [states[min(layer, int(left)), text] for text, left in enumerate(exits)]
        normed = blocks[layer].norm1(torch.stack(got).unsqueeze(1))
        keys, values = blocks[layer].attention.keys_values(x=normed, positions=where)
        caches[layer].append(keys=keys, values=values, positions=where)


# %% right: state-propagation | the last state is kept, from the first layer up
def propagate(blocks, caches, states, exits, positions):
    positions = positions.reshape(-1, 1).clone()
    state = states[0]
    for layer, (block, cache) in enumerate(zip(blocks, caches)):
        state = torch.where((exits >= layer)[:, None], states[layer], state)
        cache.append(*block.attention.keys_values(block.norm1(state)[:, None], positions), positions)


# %% wrong: state-propagation | the lecture's: the state it left with, above the layers that ran for all | killed by: one token a layer
def propagate(blocks, caches, states, exits, positions):
    here, layer = positions[:, None], int(exits.max())
    x = states[exits, torch.arange(len(exits))][:, None]
    for block, past in list(zip(blocks, caches, strict=True))[layer:]:
        past.append(*block.attention.keys_values(block.norm1(x), here), here)


# %% wrong: state-propagation | the lecture's, above the layers that ran for any | killed by: one token a layer
# edit of: the lecture's: the state it left with, above the layers that ran for all
# -    here, layer = positions[:, None], int(exits.max())
# +    here, layer = positions[:, None], int(exits.min())


# %% wrong: state-propagation | the lecture's, for every layer | killed by: values
# edit of: the lecture's: the state it left with, above the layers that ran for all
# -    here, layer = positions[:, None], int(exits.max())
# +    here, layer = positions[:, None], 0


# %% wrong: state-propagation | what each layer got, also where it did not run | killed by: no NaN
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[layer]


# %% wrong: state-propagation | what each layer made in place of what it got | killed by: values
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[exits.clamp(max=layer + 1), texts]


# %% wrong: state-propagation | the state one layer before it left | killed by: values
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[(exits - 1).clamp(max=layer), texts]


# %% wrong: state-propagation | the first text's exit for all | killed by: values
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[exits[:1].expand(len(exits)).clamp(max=layer), texts].nan_to_num()


# %% wrong: state-propagation | the least exit for all | killed by: values
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[exits.min().clamp(max=layer)]


# %% wrong: state-propagation | the largest exit for all | killed by: no NaN
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[exits.max().clamp(max=layer)]


# %% wrong: state-propagation | zeros where a layer did not run | killed by: values
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[layer].nan_to_num()


# %% wrong: state-propagation | the embedding for all layers | killed by: values
# edit of: the teacher's
# -        reached = states[exits.clamp(max=layer), texts]
# +        reached = states[0]


# %% wrong: state-propagation | without the norm | killed by: values
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        cache.append(*block.attention.keys_values(reached[:, None], where), where)


# %% wrong: state-propagation | the norm of the feed-forward part | killed by: values
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        cache.append(*block.attention.keys_values(block.norm2(reached[:, None]), where), where)


# %% wrong: state-propagation | the weights of the first layer for all | killed by: values
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        block = blocks[0]
# +        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)


# %% wrong: state-propagation | keys and values swapped | killed by: values
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        keys, values = block.attention.keys_values(block.norm1(reached[:, None]), where)
# +        cache.append(values, keys, where)


# %% wrong: state-propagation | every layer runs again, and its result is thrown away | killed by: no layer runs
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        block(reached[:, None], positions=where, cache=cache)


# %% wrong: state-propagation | the attention runs, and its result is thrown away | killed by: no layer runs
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        block.attention(block.norm1(reached[:, None]), positions=where, cache=cache)


# %% wrong: state-propagation | the last layer forgotten | killed by: one token a layer
# edit of: the teacher's
# -    for layer, (block, cache) in enumerate(zip(blocks, caches, strict=True)):
# +    for layer, (block, cache) in enumerate(list(zip(blocks, caches, strict=True))[:-1]):


# %% wrong: state-propagation | the first layer forgotten | killed by: one token a layer
# edit of: the teacher's
# -    for layer, (block, cache) in enumerate(zip(blocks, caches, strict=True)):
# +    for layer, (block, cache) in list(enumerate(zip(blocks, caches, strict=True)))[1:]:


# %% wrong: state-propagation | the skipped layers forgotten | killed by: one token a layer
# edit of: the teacher's
# -    for layer, (block, cache) in enumerate(zip(blocks, caches, strict=True)):
# +    for layer, (block, cache) in list(enumerate(zip(blocks, caches, strict=True)))[: int(exits.max())]:


# %% wrong: state-propagation | keys without a position | killed by: keys
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        cache.append(*block.attention.keys_values(block.norm1(reached[:, None])), where)


# %% wrong: state-propagation | the exit for the position | killed by: keys
# edit of: the teacher's
# -    texts, where = torch.arange(len(exits)), positions[:, None]
# +    texts, where = torch.arange(len(exits)), exits[:, None]


# %% wrong: state-propagation | the cache is told position 0 | killed by: positions
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        made = block.attention.keys_values(block.norm1(reached[:, None]), where)
# +        cache.append(*made, torch.zeros_like(where))


# %% wrong: state-propagation | the length of the cache for the position | killed by: keys
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        where = torch.full((len(exits), 1), cache.length)
# +        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)


# %% wrong: state-propagation | the position of the first text for all | killed by: keys
# edit of: the teacher's
# -    texts, where = torch.arange(len(exits)), positions[:, None]
# +    texts, where = torch.arange(len(exits)), positions[:1].expand(len(exits))[:, None]


# %% wrong: state-propagation | positions one further at each layer | killed by: keys
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        where = where + 1


# %% wrong: state-propagation | counts the given positions on | killed by: input untouched
# edit of: the teacher's
# -        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +        cache.append(*block.attention.keys_values(block.norm1(reached[:, None]), where), where)
# +    positions += 1


# %% wrong: state-propagation | positions turned round | killed by: keys
# edit of: the teacher's
# -    texts, where = torch.arange(len(exits)), positions[:, None]
# +    texts, where = torch.arange(len(exits)), positions.flip(0)[:, None]


# %% right: verify | all at once, by a running product
def verify(drafted, draft, target, generator=None):
    n = len(drafted)
    ratio = (target[:n] / draft).gather(1, drafted[:, None])[:, 0]
    stays = torch.rand(n, generator=generator) < ratio
    kept = int(stays.long().cumprod(0).sum())
    weights = target[n] if kept == n else torch.relu(target[kept] - draft[kept])
    return torch.cat([drafted[:kept], torch.multinomial(weights, 1, generator=generator)])


# %% right: verify | the draw by the running sum of the weights, a list in the end
def verify(drafted, draft, target, generator=None):
    result, weights = [], target[-1]
    for q, p, token in zip(draft, target, drafted):
        accepted = min(1.0, float(p[token] / q[token])) > torch.rand(1, generator=generator).item()
        if not accepted:
            weights = (p - q).clip(0)
            break
        result.append(int(token))
    running = (weights.double() / weights.double().sum()).cumsum(0)
    point = torch.rand(1, generator=generator, dtype=torch.float64) * running[-1]
    return torch.tensor([*result, int(torch.searchsorted(running, point, right=True))])


# %% right: verify | an empty draft of the place behind, so that no case is special
def verify(drafted, draft, target, generator=None):
    draft = torch.cat([draft, torch.zeros_like(target[:1])])
    place = 0
    while place < len(drafted):
        token = drafted[place]
        if torch.rand(1, generator=generator, dtype=torch.float64) >= target[place, token] / draft[place, token]:
            break
        place += 1
    rest = torch.maximum(target[place] - draft[place], torch.zeros(()))
    return torch.cat([drafted[:place], torch.multinomial(rest / rest.sum(), 1, generator=generator)])


# %% wrong: verify | draws from p again where a token does not stay | killed by: law of the tokens
def verify(drafted, draft, target, generator=None):
    for place, token in enumerate(drafted.tolist()):
        p, q = target[place], draft[place]
        if torch.rand((), generator=generator) >= p[token] / q[token]:
            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
    return torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])


# %% wrong: verify | the draft is trusted whatever the target says | killed by: greedy
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if torch.rand((), generator=generator) < 0:


# %% wrong: verify | turned down wherever the target likes it less | killed by: each on its own
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if p[token] < q[token]:


# %% wrong: verify | stays with probability p | killed by: law of the tokens
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if torch.rand((), generator=generator) >= p[token]:


# %% wrong: verify | stays with probability q / p | killed by: all kept
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            rest = (p - q).clamp(min=0) + 1e-9
# +            return torch.cat([drafted[:place], torch.multinomial(rest, 1, generator=generator)])
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if torch.rand((), generator=generator) >= q[token] / p[token]:


# %% wrong: verify | the rest with its sign taken off | killed by: greedy
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).abs(), 1, generator=generator)])


# %% wrong: verify | the likeliest of the rest, not a draw | killed by: law of the tokens
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], (p - q).argmax()[None]])


# %% wrong: verify | the rest of the first place for all | killed by: greedy
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            rest = (target[0] - draft[0]).clamp(min=0) + 1e-9
# +            return torch.cat([drafted[:place], torch.multinomial(rest, 1, generator=generator)])


# %% wrong: verify | one random number for all tokens | killed by: each on its own
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -    for place, token in enumerate(drafted.tolist()):
# +    number = torch.rand((), generator=generator)
# +    for place, token in enumerate(drafted.tolist()):
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if number >= p[token] / q[token]:


# %% wrong: verify | nothing follows when all stay | killed by: all kept
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -    return torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])
# +    return drafted


# %% wrong: verify | only the tokens that stay | killed by: all kept
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return drafted[:place]
# …
# -    return torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])
# +    return drafted


# %% wrong: verify | the last token from the place before | killed by: all kept
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -    return torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])
# +    return torch.cat([drafted, torch.multinomial(target[-2], 1, generator=generator)])


# %% wrong: verify | the likeliest last token, not a draw | killed by: law of the tokens
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -    return torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])
# +    return torch.cat([drafted, target[-1].argmax()[None]])


# %% wrong: verify | the token that did not stay is kept too | killed by: greedy
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[: place + 1], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])


# %% wrong: verify | goes on behind a token that did not stay | killed by: greedy
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            drafted = drafted.clone()
# +            drafted[place] = torch.multinomial((p - q).clamp(min=0), 1, generator=generator)


# %% wrong: verify | writes the new token into the draft | killed by: input untouched
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            drafted[place] = torch.multinomial((p - q).clamp(min=0), 1, generator=generator)
# +            return drafted[: place + 1]


# %% wrong: verify | the generator is forgotten | killed by: the generator's randomness
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if torch.rand(()) >= p[token] / q[token]:


# %% wrong: verify | a seed of its own | killed by: new draws
# edit of: draws from p again where a token does not stay
# -    for place, token in enumerate(drafted.tolist()):
# +    generator = torch.Generator().manual_seed(0)
# +    for place, token in enumerate(drafted.tolist()):
# …
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])


# %% wrong: verify | torch's seed set in the function | killed by: the generator's randomness
# edit of: draws from p again where a token does not stay
# -    for place, token in enumerate(drafted.tolist()):
# +    torch.manual_seed(0)
# +    generator = None
# +    for place, token in enumerate(drafted.tolist()):
# …
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])


# %% wrong: verify | random in place of torch | killed by: the generator's randomness
# edit of: draws from p again where a token does not stay
# -    for place, token in enumerate(drafted.tolist()):
# +    import random
# +
# +    for place, token in enumerate(drafted.tolist()):
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if random.random() >= p[token] / q[token]:
# …
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])


# %% wrong: verify | a list of tokens | killed by: all kept
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -    return torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])
# +    return (torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])).tolist()


# %% wrong: verify | tokens as float | killed by: all kept
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -    return torch.cat([drafted, torch.multinomial(target[-1], 1, generator=generator)])
# +    return torch.cat([drafted.float(), torch.multinomial(target[-1], 1, generator=generator)])


# %% wrong: verify | compares the likeliest tokens, as in the lecture | killed by: each on its own
# edit of: draws from p again where a token does not stay
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if int(p.argmax()) != token:
# …
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])


# %% wrong: verify | draft and target change places | killed by: all kept
# edit of: draws from p again where a token does not stay
# -        p, q = target[place], draft[place]
# +        q, p = target[place], draft[place]
# …
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            rest = (p - q).clamp(min=0) + 1e-9
# +            return torch.cat([drafted[:place], torch.multinomial(rest, 1, generator=generator)])


# %% wrong: verify | stays with probability p / (p + q) | killed by: runs
# edit of: draws from p again where a token does not stay
# -            return torch.cat([drafted[:place], torch.multinomial(p, 1, generator=generator)])
# +            return torch.cat([drafted[:place], torch.multinomial((p - q).clamp(min=0), 1, generator=generator)])
# …
# -        if torch.rand((), generator=generator) >= p[token] / q[token]:
# +        if torch.rand((), generator=generator) >= p[token] / (p[token] + q[token]):


# %% wrong: verify | all are asked, and the number of those that stay is the length | killed by: greedy
def verify(drafted, draft, target, generator=None):
    n = len(drafted)
    ratio = (target[:n] / draft).gather(1, drafted[:, None])[:, 0]
    stays = torch.rand(n, generator=generator) < ratio
    kept = int(stays.sum())
    weights = target[n] if kept == n else torch.relu(target[kept] - draft[kept]) + 1e-12
    return torch.cat([drafted[:kept], torch.multinomial(weights, 1, generator=generator)])


# %% right: learn-then-test | in tensors, the thresholds put in order first
def p_value(losses, delta):
    losses = losses.to(torch.float64)
    n, total = len(losses), losses.sum()
    a = torch.tensor([min(total.item() / n, delta), 1 - min(total.item() / n, delta)], dtype=torch.float64)
    b = torch.tensor([delta, 1 - delta], dtype=torch.float64)
    j = torch.arange(int(total.ceil()) + 1, dtype=torch.float64)
    logs = math.lgamma(n + 1) - (j + 1).lgamma() - (n - j + 1).lgamma() + j * b[0].log() + (n - j) * b[1].log()
    return torch.minimum((-n * torch.xlogy(a, a / b).sum()).exp(), math.e * logs.logsumexp(0).exp())


def learn_then_test(losses, thresholds, delta, epsilon):
    order = torch.tensor(thresholds).argsort(descending=True).tolist()
    passed = list(itertools.takewhile(lambda column: p_value(losses[:, column], delta) <= epsilon, order))
    return thresholds[passed[-1]] if passed else None


# %% right: learn-then-test | the logarithm of h written out, a dict of columns
def p_value(losses, delta):
    n, k = losses.shape[0], float(losses.sum(dtype=torch.float64))
    if k >= n * delta:
        return 1.0
    mean = k / n
    h = (1 - mean) * (math.log1p(-mean) - math.log1p(-delta))
    if k > 0:
        h += mean * (math.log(mean) - math.log(delta))
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) + j * math.log(delta)
                 + (n - j) * math.log1p(-delta))
        for j in range(math.ceil(k) + 1)
    )  # fmt: skip
    return min(1.0, math.exp(-n * h), math.e * tail)


def learn_then_test(losses, thresholds, delta, epsilon):
    columns = dict(zip(thresholds, losses.T))
    best = None
    while columns:
        safest = max(columns)
        if p_value(columns.pop(safest), delta) > epsilon:
            return best
        best = safest
    return best


# %% right: learn-then-test | the mean in the dtype of the losses, a list of pairs
def p_value(losses, delta):
    n, mean = losses.numel(), losses.mean(dtype=torch.float64).item()
    a = min(mean, delta)
    h = sum(x * math.log(x / y) for x, y in ((a, delta), (1 - a, 1 - delta)) if x)
    total, log_term = 0.0, n * math.log(1 - delta)
    for j in range(math.ceil(losses.to(torch.float64).sum().item()) + 1):
        total += math.exp(log_term)
        if j < n:
            log_term += math.log((n - j) / (j + 1)) + math.log(delta / (1 - delta))
    return min(math.exp(-n * h), math.exp(1) * total)


def learn_then_test(losses, thresholds, delta, epsilon):
    pairs = [(threshold, losses[:, i]) for i, threshold in enumerate(thresholds)]
    answer = None
    for threshold, column in sorted(pairs, key=lambda pair: -pair[0]):
        if not p_value(column, delta) <= epsilon:
            break
        answer = threshold
    return answer


# %% wrong: learn-then-test | Hoeffding's part alone | killed by: p-value
def p_value(losses, delta):
    n, k = len(losses), losses.double().sum().item()
    mean = min(k / n, delta)
    h = (mean * math.log(mean / delta) if mean > 0 else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - delta))
    logs = [
        math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) + j * math.log(delta)
        + (n - j) * math.log(1 - delta)
        for j in range(math.ceil(k) + 1)
    ]  # fmt: skip
    bentkus = math.e * sum(math.exp(value) for value in logs)
    return math.exp(-n * h)


def learn_then_test(losses, thresholds, delta, epsilon):
    certified = None
    for threshold, column in sorted(zip(thresholds, range(len(thresholds))), reverse=True):
        if p_value(losses[:, column], delta) > epsilon:
            break
        certified = threshold
    return certified


# %% wrong: learn-then-test | Bentkus' part alone | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return bentkus


# %% wrong: learn-then-test | Bentkus' part alone, cut at 1 | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(1.0, bentkus)


# %% wrong: learn-then-test | the larger of the two | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return max(math.exp(-n * h), min(1.0, bentkus))


# %% wrong: learn-then-test | the factor e is missing | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    bentkus = math.e * sum(math.exp(value) for value in logs)
# +    bentkus = sum(math.exp(value) for value in logs)


# %% wrong: learn-then-test | k rounded down | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        for j in range(math.ceil(k) + 1)
# +        for j in range(int(k) + 1)


# %% wrong: learn-then-test | k rounded up by adding one | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        for j in range(math.ceil(k) + 1)
# +        for j in range(int(k) + 1 + 1)


# %% wrong: learn-then-test | k rounded to the nearest | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        for j in range(math.ceil(k) + 1)
# +        for j in range(round(k) + 1)


# %% wrong: learn-then-test | k itself left out | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        for j in range(math.ceil(k) + 1)
# +        for j in range(math.ceil(k))


# %% wrong: learn-then-test | the losses added in float32 | killed by: a sum just above 5
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    n, k = len(losses), losses.double().sum().item()
# +    n, k = len(losses), losses.float().sum().item()


# %% wrong: learn-then-test | losses that are not 0 counted | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    n, k = len(losses), losses.double().sum().item()
# +    n, k = len(losses), float((losses > 0).sum())


# %% wrong: learn-then-test | h with its arguments changed round | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    h = (mean * math.log(mean / delta) if mean > 0 else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - delta))
# +    if mean == 0:
# +        mean = 1e-12
# +    h = delta * math.log(delta / mean) + (1 - delta) * math.log((1 - delta) / (1 - mean))


# %% wrong: learn-then-test | h above delta | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    mean = min(k / n, delta)
# +    mean = min(k / n, 1 - 1e-12)


# %% wrong: learn-then-test | the logarithm of 0 | killed by: runs
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    h = (mean * math.log(mean / delta) if mean > 0 else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - delta))
# +    h = mean * math.log(mean / delta) + (1 - mean) * math.log((1 - mean) / (1 - delta))


# %% wrong: learn-then-test | Hoeffding's plain bound | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return math.exp(-2 * n * max(delta - k / n, 0) ** 2)


# %% wrong: learn-then-test | the p-value for losses of 0 and 1 | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return bentkus / math.e


# %% wrong: learn-then-test | numbers too large for a float with many points | killed by: runs
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        math.lgamma(n + 1) - math.lgamma(j + 1) - math.lgamma(n - j + 1) + j * math.log(delta)
# -        + (n - j) * math.log(1 - delta)
# +        math.log(math.comb(n, j) * delta**j * (1 - delta) ** (n - j))


# %% wrong: learn-then-test | logarithms in float32 | killed by: p-value
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    bentkus = math.e * sum(math.exp(value) for value in logs)
# +    j = torch.arange(math.ceil(k) + 1)
# +    logs = torch.tensor(n + 1).lgamma() - (j + 1).lgamma() - (n - j + 1).lgamma()
# +    logs = logs + j * math.log(delta) + (n - j) * math.log(1 - delta)
# +    bentkus = math.e * logs.exp().sum().item()


# %% wrong: learn-then-test | the mean loss held against delta, without a test | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# +        if losses[:, column].mean() > delta:


# %% wrong: learn-then-test | the most daring with a small p-value, without a stop | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -            break
# +            continue


# %% wrong: learn-then-test | from the most daring on, the first that passes | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    for threshold, column in sorted(zip(thresholds, range(len(thresholds))), reverse=True):
# +    for threshold, column in sorted(zip(thresholds, range(len(thresholds)))):
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# -            break
# -        certified = threshold
# +        if p_value(losses[:, column], delta) <= epsilon:
# +            return threshold


# %% wrong: learn-then-test | from the most daring on, stopping at the first failure | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    for threshold, column in sorted(zip(thresholds, range(len(thresholds))), reverse=True):
# +    for threshold, column in sorted(zip(thresholds, range(len(thresholds)))):


# %% wrong: learn-then-test | the order in which they came | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    for threshold, column in sorted(zip(thresholds, range(len(thresholds))), reverse=True):
# +    for column, threshold in enumerate(thresholds):


# %% wrong: learn-then-test | the thresholds put in order, their columns not | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    for threshold, column in sorted(zip(thresholds, range(len(thresholds))), reverse=True):
# +    for column, threshold in enumerate(sorted(thresholds, reverse=True)):


# %% wrong: learn-then-test | epsilon divided by the number of thresholds | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# +        if p_value(losses[:, column], delta) > epsilon / len(thresholds):


# %% wrong: learn-then-test | held against 1 - epsilon | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# +        if p_value(losses[:, column], delta) > 1 - epsilon:


# %% wrong: learn-then-test | less than epsilon, not as much | killed by: just enough
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# +        if p_value(losses[:, column], delta) >= epsilon:


# %% wrong: learn-then-test | delta and epsilon change places | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# +        if p_value(losses[:, column], epsilon) > delta:


# %% wrong: learn-then-test | the first that failed | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# -            break
# -        certified = threshold
# +        certified = threshold
# +        if p_value(losses[:, column], delta) > epsilon:
# +            break


# %% wrong: learn-then-test | an index for the threshold | killed by: threshold
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        certified = threshold
# +        certified = column


# %% wrong: learn-then-test | the safest where nothing is certified | killed by: none certified
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    certified = None
# +    certified = max(thresholds)


# %% wrong: learn-then-test | infinity where nothing is certified | killed by: none certified
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -    certified = None
# +    certified = math.inf


# %% wrong: learn-then-test | no loss is thought to be enough, with however few points | killed by: too few points
# edit of: Hoeffding's part alone
# -    return math.exp(-n * h)
# +    return min(math.exp(-n * h), bentkus)
# …
# -        if p_value(losses[:, column], delta) > epsilon:
# +        if losses[:, column].any() and p_value(losses[:, column], delta) > epsilon:


# %% wrong: learn-then-test | the package certifies | killed by: by hand
def p_value(losses, delta):
    from dynlib.cost import learn_then_test as finished

    return finished(losses[:, None], [1.0], delta, 0.5, test="hoeffding-bentkus").p_values.item()


def learn_then_test(losses, thresholds, delta, epsilon):
    certified = None
    for threshold, column in sorted(zip(thresholds, range(len(thresholds))), reverse=True):
        if p_value(losses[:, column], delta) > epsilon:
            break
        certified = threshold
    return certified


# %% wrong: learn-then-test | scipy's binomial law | killed by: by hand
def p_value(losses, delta):
    from scipy.stats import binom

    n, k = len(losses), losses.double().sum().item()
    mean = min(k / n, delta)
    h = (mean * math.log(mean / delta) if mean > 0 else 0.0) + (1 - mean) * math.log((1 - mean) / (1 - delta))
    return min(math.exp(-n * h), math.e * float(binom.cdf(math.ceil(k), n, delta)))


def learn_then_test(losses, thresholds, delta, epsilon):
    certified = None
    for threshold, column in sorted(zip(thresholds, range(len(thresholds))), reverse=True):
        if p_value(losses[:, column], delta) > epsilon:
            break
        certified = threshold
    return certified


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


# %% wrong: gathered | the sum is written into the first exit's own logits | killed by: input untouched
# edit of: the teacher's
# -        total = total + head(tokens)  # of those who are still in
# +        total = head(tokens) if number == 0 else total.add_(head(tokens))
# …
# -        tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]
# +        if sure.any():
# +            tokens, total, waiting = tokens[~sure], total[~sure], waiting[~sure]


# %% wrong: learn-then-test | k is n times the mean | killed by: 7 of 50
# edit of: the teacher's
# -    n, k = len(losses), losses.double().sum().item()
# +    n, k = len(losses), len(losses) * losses.double().mean().item()


# %% wrong: exit-loss | weights of float32 | killed by: value
# edit of: the teacher's
# -    weights = range(1, len(losses) + 1)
# -    return sum(i * loss for i, loss in zip(weights, losses, strict=True)) / sum(weights)
# +    weights = torch.arange(1, len(losses) + 1)
# +    return sum(share.item() * loss for share, loss in zip(weights / weights.sum(), losses, strict=True))


# %% wrong: gathered | results of float32, whatever the heads give | killed by: runs
# edit of: the teacher's
# -            logits = torch.empty_like(guess)
# +            logits = torch.empty(guess.shape)


# %% wrong: gathered | the mean of the mean and the new one | killed by: logits
# edit of: the teacher's
# -        total = total + head(tokens)  # of those who are still in
# -        guess = total / (number + 1)
# +        guess = head(tokens) if number == 0 else (total + head(tokens)) / 2
# +        total = guess


# %% wrong: verify | p - q with what is below 0 | killed by: runs
# edit of: the teacher's
# -            rest = (p - q).clamp(min=0)
# +            rest = p - q


# %% wrong: verify | all that would stay are counted, not those before the first that does not | killed by: runs
def verify(drafted, draft, target, generator=None):
    n = len(drafted)
    ratio = target[:n].gather(1, drafted[:, None]) / draft.gather(1, drafted[:, None])
    kept = int((torch.rand(n, generator=generator, dtype=draft.dtype) < ratio[:, 0]).sum())
    rest = (target[kept] - draft[kept]).clamp(min=0) if kept < n else target[n]
    return torch.cat([drafted[:kept], torch.multinomial(rest, 1, generator=generator)])


# %% wrong: verify | what comes in its place is drawn for the next place | killed by: greedy
# edit of: the teacher's
# -            rest = (p - q).clamp(min=0)
# +            rest = (target[place + 1] - q).clamp(min=0)


# %% wrong: learn-then-test | one term is missing | killed by: p-value
# edit of: the teacher's
# -    for j in range(math.ceil(k) + 1):
# +    for j in range(math.ceil(k)):


# %% right: learn-then-test | a number of terms that is a float
def p_value(losses, delta):
    n, k = len(losses), losses.double().sum()
    mean = (k / n).clamp(max=delta)
    h = torch.xlogy(mean, mean / delta) + torch.xlogy(1 - mean, (1 - mean) / (1 - delta))
    j, whole = torch.arange(k.ceil().item() + 1, dtype=torch.float64), torch.tensor(float(n), dtype=torch.float64)
    ways = torch.lgamma(whole + 1) - torch.lgamma(j + 1) - torch.lgamma(whole - j + 1)
    law = (ways + j * math.log(delta) + (n - j) * math.log(1 - delta)).logsumexp(0).exp()
    return min((-n * h).exp().item(), math.e * law.item())


def learn_then_test(losses, thresholds, delta, epsilon):
    best = None
    for place in sorted(range(len(thresholds)), key=lambda at: -thresholds[at]):
        if p_value(losses[:, place], delta) > epsilon:
            break
        best = thresholds[place]
    return best
