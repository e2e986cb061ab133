# %% right: through-noise | as pairs of real numbers
def send(symbols, sent, snr, generator=None):
    x = torch.view_as_real(symbols)
    energy = x.pow(2).sum((-2, -1), keepdim=True)
    x = (
        x
        * torch.where(
            energy > 0, symbols.shape[-1] / energy.clamp(min=1e-300 if x.dtype == torch.float64 else 1e-37), 0
        )
        ** 0.5
    )
    sigma = torch.pow(10, -snr.to(x.dtype) / 10)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype) * (sigma / 2).sqrt()[:, None, None, None]
    return torch.view_as_complex(((x + noise) * sent[..., None, None]).contiguous())


# %% right: through-noise | image by image, only what is sent
def send(symbols, sent, snr, generator=None):
    received = []
    for x, there, ratio in zip(symbols, sent, snr.tolist(), strict=True):
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        length = torch.where(length == 0, torch.ones_like(length), length)
        x = x / length * x.shape[-1] ** 0.5
        noise = torch.complex(
            torch.randn(x.shape, generator=generator, dtype=x.real.dtype),
            torch.randn(x.shape, generator=generator, dtype=x.real.dtype),
        )
        x = x + (10 ** (-ratio / 10) / 2) ** 0.5 * noise
        received.append(x.masked_fill(~there[:, None], 0))
    return torch.stack(received)


# %% wrong: through-noise | ‖x‖ for ‖x‖², as in the public code | killed by: power
# edit of: the teacher's
# -    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True)
# +    power = (symbols.real**2 + symbols.imag**2).sum(-1, keepdim=True).sqrt() / symbols.shape[-1]


# %% wrong: through-noise | the whole codeword has a power of 1 | killed by: power
# edit of: the teacher's
# -    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True)
# +    power = (symbols.real**2 + symbols.imag**2).sum(-1, keepdim=True)


# %% wrong: through-noise | a power of 1 for each real number | killed by: power
# edit of: the teacher's
# -    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True)
# +    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True) / 2


# %% wrong: through-noise | every symbol has a size of 1 | killed by: power
# edit of: the teacher's
# -    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True)
# +    power = symbols.real**2 + symbols.imag**2


# %% wrong: through-noise | all tokens of an image together | killed by: power
# edit of: the teacher's
# -    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True)
# +    power = (symbols.real**2 + symbols.imag**2).mean((1, 2), keepdim=True)


# %% wrong: through-noise | without the root | killed by: power
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols / torch.where(power > 0, power, 1)


# %% wrong: through-noise | not scaled | killed by: power
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols


# %% wrong: through-noise | the square of a complex number, not of its size | killed by: power
# edit of: the teacher's
# -    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True)
# +    power = (symbols**2).mean(-1, keepdim=True).abs()


# %% wrong: through-noise | in complex64 | killed by: power
# edit of: the teacher's
# -    return torch.where(sent[..., None], scaled + sigma * noise, 0)
# +    return torch.where(sent[..., None], scaled + sigma * noise, 0).to(torch.complex64)


# %% wrong: through-noise | unsent tokens are sent | killed by: power
# edit of: the teacher's
# -    return torch.where(sent[..., None], scaled + sigma * noise, 0)
# +    return scaled + sigma * noise


# %% wrong: through-noise | noise where nothing was sent | killed by: nothing sent
# edit of: the teacher's
# -    return torch.where(sent[..., None], scaled + sigma * noise, 0)
# +    return torch.where(sent[..., None], scaled, 0) + sigma * noise


# %% wrong: through-noise | the length has no gradient | killed by: gradients
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols / torch.where(power > 0, power, 1).sqrt().detach()


# %% wrong: through-noise | without gradients | killed by: gradients
# edit of: the teacher's
# -    return torch.where(sent[..., None], scaled + sigma * noise, 0)
# +    return torch.where(sent[..., None], scaled + sigma * noise, 0).detach()


# %% wrong: through-noise | zeros are divided by zero | killed by: zeros
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols / power.sqrt()


# %% wrong: through-noise | the nan of zeros is hidden, and stays in the gradient | killed by: zeros
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = torch.where(power > 0, symbols / power.sqrt(), 0)


# %% wrong: through-noise | a small number under the division | killed by: power
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols / (power + 1e-6).sqrt()


# %% wrong: through-noise | a small number behind the root | killed by: power
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols / (power.sqrt() + 1e-8)


# %% wrong: through-noise | the power of the batch | killed by: power
# edit of: the teacher's
# -    power = (symbols.real**2 + symbols.imag**2).mean(-1, keepdim=True)
# +    power = (symbols.real**2 + symbols.imag**2).mean()[None, None, None]


# %% wrong: through-noise | a complex root of complex squares | killed by: power
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols / symbols.square().mean(-1, keepdim=True).sqrt()


# %% wrong: through-noise | the dtype of the ratio | killed by: power
# edit of: the teacher's
# -    sigma = (10 ** (-snr / 20)).to(power.dtype)[:, None, None]
# +    sigma = (10 ** (-snr / 20))[:, None, None]


# %% wrong: through-noise | all of the noise's power in each part | killed by: the ratio
# edit of: the teacher's
# -    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)  # of power 1, half in each part
# +    noise = 2**0.5 * torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)


# %% wrong: through-noise | the power is taken for an amplitude | killed by: the ratio
# edit of: the teacher's
# -    sigma = (10 ** (-snr / 20)).to(power.dtype)[:, None, None]
# +    sigma = (10 ** (-snr / 10)).to(power.dtype)[:, None, None]


# %% wrong: through-noise | 20 under the power, and a root as well | killed by: the ratio
# edit of: the teacher's
# -    sigma = (10 ** (-snr / 20)).to(power.dtype)[:, None, None]
# +    sigma = (10 ** (-snr / 40)).to(power.dtype)[:, None, None]


# %% wrong: through-noise | the first image's ratio for all | killed by: the ratio
# edit of: the teacher's
# -    sigma = (10 ** (-snr / 20)).to(power.dtype)[:, None, None]
# +    sigma = (10 ** (-snr / 20)).to(power.dtype)[:1, None, None]


# %% wrong: through-noise | natural powers | killed by: the ratio
# edit of: the teacher's
# -    sigma = (10 ** (-snr / 20)).to(power.dtype)[:, None, None]
# +    sigma = torch.exp(-snr / 20).to(power.dtype)[:, None, None]


# %% wrong: through-noise | the sign turned | killed by: power
# edit of: the teacher's
# -    sigma = (10 ** (-snr / 20)).to(power.dtype)[:, None, None]
# +    sigma = (10 ** (snr / 20)).to(power.dtype)[:, None, None]


# %% wrong: through-noise | no noise | killed by: the ratio
# edit of: the teacher's
# -    return torch.where(sent[..., None], scaled + sigma * noise, 0)
# +    return torch.where(sent[..., None], scaled, 0)


# %% wrong: through-noise | noise in the real part alone | killed by: two parts
# edit of: the teacher's
# -    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)  # of power 1, half in each part
# +    noise = torch.randn(symbols.shape, dtype=power.dtype, generator=generator)


# %% wrong: through-noise | the same number in both parts | killed by: two parts
# edit of: the teacher's
# -    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)  # of power 1, half in each part
# +    noise = torch.randn(symbols.shape, dtype=power.dtype, generator=generator) * (1 + 1j) / 2**0.5


# %% wrong: through-noise | all images meet the same noise | killed by: independent
# edit of: the teacher's
# -    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)  # of power 1, half in each part
# +    noise = torch.randn(symbols.shape[1:], dtype=symbols.dtype, generator=generator)


# %% wrong: through-noise | all tokens meet the same noise | killed by: independent
# edit of: the teacher's
# -    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)  # of power 1, half in each part
# +    noise = torch.randn(len(symbols), 1, symbols.shape[2], dtype=symbols.dtype, generator=generator)


# %% wrong: through-noise | the generator is not used | killed by: the generator
# edit of: the teacher's
# -    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)  # of power 1, half in each part
# +    noise = torch.randn(symbols.shape, dtype=symbols.dtype)


# %% wrong: through-noise | seeded in each call | killed by: the generator
# edit of: the teacher's
# -    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator)  # of power 1, half in each part
# +    noise = torch.randn(symbols.shape, dtype=symbols.dtype, generator=generator or torch.Generator().manual_seed(0))


# %% wrong: through-noise | written into the symbols | killed by: input untouched
# edit of: the teacher's
# -    scaled = symbols / torch.where(power > 0, power, 1).sqrt()
# +    scaled = symbols if symbols.requires_grad else symbols.div_(torch.where(power > 0, power, 1).sqrt())


# %% wrong: through-noise | dynlib's channel | killed by: by hand
def send(symbols, sent, snr, generator=None):
    from dynlib.edge import AWGNChannel

    x = torch.view_as_real(symbols).flatten(-2)
    parts = [AWGNChannel(ratio)(one, generator=generator) for one, ratio in zip(x, snr.tolist(), strict=True)]
    received = torch.view_as_complex(torch.stack(parts).unflatten(-1, (-1, 2))) / 2**0.5
    return torch.where(sent[..., None], received, 0)


# %% right: budget-mask | torch.lerp, and a mask of factors
def append_budget(x, alpha, low, up):
    budget = torch.stack([up + a * (low - up) for a in alpha])
    return torch.cat((x, budget.unsqueeze(1)), dim=1)


def next_mask(x, mask, w, v):
    wants = torch.sigmoid((x[:, -1:] * v).sum(-1) - 5)
    keep = (torch.sigmoid((x * w).sum(-1) + 5) - wants).clamp(min=0)
    inner = torch.ones_like(mask, dtype=torch.bool)
    inner[:, 0] = inner[:, -1] = False
    return torch.where(inner, mask * keep, mask)


# %% right: budget-mask | image by image
def append_budget(x, alpha, low, up):
    return torch.stack([torch.cat([image, (a * low + (1 - a) * up)[None]]) for image, a in zip(x, alpha, strict=True)])


def next_mask(x, mask, w, v):
    rows = []
    for tokens, own in zip(x, mask, strict=True):
        share = F.relu(F.sigmoid(tokens[1:-1] @ w + 5) - F.sigmoid(tokens[-1] @ v - 5))
        rows.append(torch.cat([own[:1], own[1:-1] * share, own[-1:]]))
    return torch.stack(rows)


# %% wrong: budget-mask | the last patch, as in the public code | killed by: the mask
# edit of: the teacher's
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    wants = torch.sigmoid(x[:, -2:-1] @ v - 5)[:, 0]


# %% wrong: budget-mask | the class token | killed by: the mask
# edit of: the teacher's
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    wants = torch.sigmoid(x[:, 0] @ v - 5)


# %% wrong: budget-mask | the first image's budget for all | killed by: the mask
# edit of: the teacher's
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    wants = torch.sigmoid(x[:1, -1] @ v - 5)


# %% wrong: budget-mask | the mask so far is forgotten | killed by: the mask
# edit of: the teacher's
# -    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1)
# +    return torch.cat([mask[:, :1], keep[:, 1:-1], mask[:, -1:]], 1)


# %% wrong: budget-mask | the smaller of the two masks | killed by: the mask
# edit of: the teacher's
# -    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1)
# +    return torch.cat([mask[:, :1], torch.minimum(mask, keep)[:, 1:-1], mask[:, -1:]], 1)


# %% wrong: budget-mask | the ends shrink, too | killed by: the mask
# edit of: the teacher's
# -    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1)
# +    return mask * keep


# %% wrong: budget-mask | ends of 1, whatever they were | killed by: the mask
# edit of: the teacher's
# -    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1)
# +    return F.pad(mask[:, 1:-1] * keep[:, 1:-1], (1, 1), value=1.0)


# %% wrong: budget-mask | the budget's token shrinks | killed by: the mask
# edit of: the teacher's
# -    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1)
# +    return torch.cat([mask[:, :1], mask[:, 1:] * keep[:, 1:]], 1)


# %% wrong: budget-mask | without relu | killed by: the mask
# edit of: the teacher's
# -    keep = torch.relu(scores - wants[:, None])
# +    keep = scores - wants[:, None]


# %% wrong: budget-mask | the difference turned round | killed by: the mask
# edit of: the teacher's
# -    keep = torch.relu(scores - wants[:, None])
# +    keep = torch.relu(wants[:, None] - scores)


# %% wrong: budget-mask | one sigmoid of the difference | killed by: the mask
# edit of: the teacher's
# -    scores = torch.sigmoid(x @ w + 5)
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# -    keep = torch.relu(scores - wants[:, None])
# +    keep = torch.sigmoid(x @ w + 5 - (x[:, -1] @ v - 5)[:, None])


# %% wrong: budget-mask | hard at once | killed by: the mask
# edit of: the teacher's
# -    keep = torch.relu(scores - wants[:, None])
# +    keep = (scores > wants[:, None]).to(x.dtype)


# %% wrong: budget-mask | no 5 | killed by: the mask
# edit of: the teacher's
# -    scores = torch.sigmoid(x @ w + 5)
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    scores = torch.sigmoid(x @ w)
# +    wants = torch.sigmoid(x[:, -1] @ v)


# %% wrong: budget-mask | the signs of the fives exchanged | killed by: the mask
# edit of: the teacher's
# -    scores = torch.sigmoid(x @ w + 5)
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    scores = torch.sigmoid(x @ w - 5)
# +    wants = torch.sigmoid(x[:, -1] @ v + 5)


# %% wrong: budget-mask | +5 with both | killed by: the mask
# edit of: the teacher's
# -    scores = torch.sigmoid(x @ w + 5)
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    scores = torch.sigmoid(x @ w + 5)
# +    wants = torch.sigmoid(x[:, -1] @ v + 5)


# %% wrong: budget-mask | -5 with both | killed by: the mask
# edit of: the teacher's
# -    scores = torch.sigmoid(x @ w + 5)
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    scores = torch.sigmoid(x @ w - 5)
# +    wants = torch.sigmoid(x[:, -1] @ v - 5)


# %% wrong: budget-mask | w and v exchanged | killed by: the mask
# edit of: the teacher's
# -    scores = torch.sigmoid(x @ w + 5)
# -    wants = torch.sigmoid(x[:, -1] @ v - 5)
# +    scores = torch.sigmoid(x @ v + 5)
# +    wants = torch.sigmoid(x[:, -1] @ w - 5)


# %% wrong: budget-mask | low and up exchanged | killed by: the budget token
# edit of: the teacher's
# -    budget = alpha[:, None] * low + (1 - alpha[:, None]) * up
# +    budget = alpha[:, None] * up + (1 - alpha[:, None]) * low


# %% wrong: budget-mask | one budget for the batch | killed by: the budget token
# edit of: the teacher's
# -    budget = alpha[:, None] * low + (1 - alpha[:, None]) * up
# +    budget = (alpha.mean() * low + (1 - alpha.mean()) * up).expand(len(x), -1)


# %% wrong: budget-mask | before the class token | killed by: the budget token
# edit of: the teacher's
# -    return torch.cat([x, budget[:, None]], 1)
# +    return torch.cat([budget[:, None], x], 1)


# %% wrong: budget-mask | between the class token and the patches | killed by: the budget token
# edit of: the teacher's
# -    return torch.cat([x, budget[:, None]], 1)
# +    return torch.cat([x[:, :1], budget[:, None], x[:, 1:]], 1)


# %% wrong: budget-mask | added to the last patch | killed by: the budget token
# edit of: the teacher's
# -    return torch.cat([x, budget[:, None]], 1)
# +    return torch.cat([x[:, :-1], x[:, -1:] + budget[:, None]], 1)


# %% wrong: budget-mask | written into the mask | killed by: input untouched
# edit of: the teacher's
# -    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1)
# +    mask[:, 1:-1] = mask[:, 1:-1] * keep[:, 1:-1]
# +    return mask


# %% wrong: budget-mask | the scores have no gradient | killed by: gradients
# edit of: the teacher's
# -    keep = torch.relu(scores - wants[:, None])
# +    keep = torch.relu(scores.detach() - wants[:, None])


# %% wrong: budget-mask | the budget has no gradient | killed by: gradients
# edit of: the teacher's
# -    keep = torch.relu(scores - wants[:, None])
# +    keep = torch.relu(scores - wants[:, None].detach())


# %% wrong: budget-mask | in float64 | killed by: the mask
# edit of: the teacher's
# -    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1)
# +    return torch.cat([mask[:, :1], mask[:, 1:-1] * keep[:, 1:-1], mask[:, -1:]], 1).double()


# %% wrong: budget-mask | through dynlib | killed by: by hand
# edit of: the teacher's
# -    scores = torch.sigmoid(x @ w + 5)
# +    from dynlib.inputs import check_tensor
# +
# +    check_tensor(x, "x")
# +    scores = torch.sigmoid(x @ w + 5)


# %% right: budget-loss | image by image
def budget_loss(logits, labels, masks, alpha, slack=0.02, weight=0.5):
    picked = -logits.log_softmax(-1)[torch.arange(len(labels)), labels].mean()
    off = [((own.mean() - wanted).abs() - slack).clamp(min=0) for own, wanted in zip(masks[-1], alpha, strict=True)]
    inner = [mask.mean() for mask in masks[:-1]]
    return picked + sum(off) / len(off) + (weight * sum(inner) / len(inner) if inner else 0)


# %% right: budget-loss | all masks in one tensor
def budget_loss(logits, labels, masks, alpha, slack=0.02, weight=0.5):
    shares = torch.stack(masks).mean(-1)
    over = torch.maximum((shares[-1] - alpha).abs() - slack, torch.zeros_like(alpha)).mean()
    price = weight * shares[:-1].sum() / max(1, shares[:-1].numel())
    return torch.nn.CrossEntropyLoss()(logits, labels) + over + price


# %% wrong: budget-loss | the mean over the images before the distance | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu((masks[-1].mean() - alpha.mean()).abs() - slack)


# %% wrong: budget-loss | all images against each budget | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu((masks[-1].mean() - alpha).abs() - slack).mean()


# %% wrong: budget-loss | too few are free | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu(masks[-1].mean(1) - alpha - slack).mean()


# %% wrong: budget-loss | no relu | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + ((masks[-1].mean(1) - alpha).abs() - slack).mean()


# %% wrong: budget-loss | no slack | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + (masks[-1].mean(1) - alpha).abs().mean()


# %% wrong: budget-loss | the slack off the mean | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs().mean() - slack)


# %% wrong: budget-loss | the slack only decides | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    off = (masks[-1].mean(1) - alpha).abs()
# +    loss = loss + torch.where(off > slack, off, 0).mean()


# %% wrong: budget-loss | the squared distance | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).square().mean()


# %% wrong: budget-loss | the sum over the images | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).sum()


# %% wrong: budget-loss | the first mask is held to the budget | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu((masks[0].mean(1) - alpha).abs() - slack).mean()


# %% wrong: budget-loss | the last mask is an inner one | killed by: the loss
# edit of: the teacher's
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +        loss = loss + weight * torch.stack(masks).mean()


# %% wrong: budget-loss | the inner masks are added up | killed by: the loss
# edit of: the teacher's
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +        loss = loss + weight * sum(mask.mean() for mask in masks[:-1])


# %% wrong: budget-loss | no inner masks | killed by: the loss
# edit of: the teacher's
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +        pass


# %% wrong: budget-loss | a weight of a half, whatever is asked | killed by: the loss
# edit of: the teacher's
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +        loss = loss + 0.5 * torch.stack(masks[:-1]).mean()


# %% wrong: budget-loss | the weight on the wrong term | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# -    if len(masks) > 1:
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +    loss = loss + weight * F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    if len(masks) > 1:
# +        loss = loss + torch.stack(masks[:-1]).mean()


# %% wrong: budget-loss | over all layers | killed by: the loss
# edit of: the teacher's
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +        loss = loss + weight * sum(mask.mean() for mask in masks[:-1]) / len(masks)


# %% wrong: budget-loss | the sum of the cross-entropies | killed by: the loss
# edit of: the teacher's
# -    loss = F.cross_entropy(logits, labels)
# +    loss = F.cross_entropy(logits, labels, reduction="sum")


# %% wrong: budget-loss | the mean of nothing | killed by: one layer
# edit of: the teacher's
# -    if len(masks) > 1:
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +    loss = loss + weight * torch.cat([*masks[:-1], masks[0][:0]]).mean()


# %% wrong: budget-loss | a single layer is its own inner one | killed by: one layer
# edit of: the teacher's
# -    if len(masks) > 1:
# -        loss = loss + weight * torch.stack(masks[:-1]).mean()
# +    loss = loss + weight * torch.stack(masks[:-1] or masks).mean()


# %% wrong: budget-loss | tokens counted, not masks | killed by: the loss
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu(((masks[-1] > 1e-3).to(alpha.dtype).mean(1) - alpha).abs() - slack).mean()


# %% wrong: budget-loss | the last mask has no gradient | killed by: gradients
# edit of: the teacher's
# -    loss = loss + F.relu((masks[-1].mean(1) - alpha).abs() - slack).mean()
# +    loss = loss + F.relu((masks[-1].detach().mean(1) - alpha).abs() - slack).mean()


# %% wrong: budget-loss | a number | killed by: the loss
# edit of: the teacher's
# -    return loss
# +    return loss.item()


# %% wrong: budget-loss | no cross-entropy | killed by: the loss
# edit of: the teacher's
# -    loss = F.cross_entropy(logits, labels)
# +    loss = logits.new_zeros(())


# %% wrong: budget-loss | through numpy | killed by: by hand
# edit of: the teacher's
# -    loss = F.cross_entropy(logits, labels)
# +    import numpy as np
# +
# +    alpha = torch.from_numpy(np.array(alpha.tolist()))
# +    loss = F.cross_entropy(logits, labels)


# %% right: put-back | loops over images
def pack(x, mask, threshold):
    places = [(row > threshold).nonzero().flatten() for row in mask]
    payload = torch.cat([image[own] for image, own in zip(x, places, strict=True)])
    return payload, torch.cat(places), torch.tensor([len(own) for own in places])


def unpack(payload, places, counts, tokens):
    x, present = [], torch.zeros(len(counts), tokens, dtype=torch.bool)
    sizes = counts.tolist()
    for number, (rows, own) in enumerate(zip(payload.split(sizes), places.split(sizes), strict=True)):
        x.append(torch.zeros(tokens, payload.shape[1], dtype=payload.dtype).index_copy(0, own, rows))
        present[number, own] = True
    return torch.stack(x), present


def attend(query, x, present):
    found = []
    for q, image, there in zip(query, x, present, strict=True):
        own = image[there]
        found.append(torch.softmax(own @ q / len(q) ** 0.5, 0) @ own if len(own) else image.new_zeros(len(q)))
    return torch.stack(found)


# %% right: put-back | flat places, and the exponentials written out
def pack(x, mask, threshold):
    image, place = torch.where(mask > threshold)
    return x[image, place], place, torch.bincount(image, minlength=len(mask))


def unpack(payload, places, counts, tokens):
    image = torch.cat([torch.full((count,), b) for b, count in enumerate(counts.tolist())])
    flat = (image * tokens + places).long()
    x = payload.new_zeros(len(counts) * tokens, payload.shape[1]).index_add(0, flat, payload)
    there = torch.zeros(len(counts) * tokens, dtype=torch.bool)
    there[flat] = True
    return x.view(len(counts), tokens, -1), there.view(len(counts), tokens)


def attend(query, x, present):
    scores = torch.einsum("bn,btn->bt", query, x) / x.shape[2] ** 0.5
    largest = torch.where(present, scores, -torch.inf).amax(1, keepdim=True).clamp(min=-1e300).detach()
    parts = torch.where(present, (torch.where(present, scores, largest) - largest).exp(), 0)
    total = parts.sum(1, keepdim=True)
    shares = parts / torch.where(total > 0, total, 1)
    return torch.einsum("bt,btn->bn", shares, torch.where(present[..., None], x, 0))


# %% wrong: put-back | the threshold itself is enough | killed by: counts
# edit of: the teacher's
# -    kept = mask > threshold
# +    kept = mask >= threshold


# %% wrong: put-back | half is enough | killed by: counts
# edit of: the teacher's
# -    kept = mask > threshold
# +    kept = mask > 0.5


# %% wrong: put-back | places of the whole batch | killed by: places
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    return x[kept], kept.flatten().nonzero()[:, 0], kept.sum(1)


# %% wrong: put-back | images for places | killed by: places
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    return x[kept], kept.nonzero()[:, 0], kept.sum(1)


# %% wrong: put-back | from 1 | killed by: places
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    return x[kept], kept.nonzero()[:, 1] + 1, kept.sum(1)


# %% wrong: put-back | the tokens times their masks | killed by: the payload
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    return x[kept] * mask[kept][:, None], kept.nonzero()[:, 1], kept.sum(1)


# %% wrong: put-back | everything travels, zeros and all | killed by: the payload
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    return (x * kept[..., None]).flatten(0, 1), kept.nonzero()[:, 1], kept.sum(1)


# %% wrong: put-back | one count for all | killed by: counts
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    return x[kept], kept.nonzero()[:, 1], kept.sum()


# %% wrong: put-back | in the order of the places | killed by: places
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    place, image = kept.T.nonzero().T
# +    return x[image, place], place, kept.sum(1)


# %% wrong: put-back | the payload alone | killed by: three tensors
# edit of: the teacher's
# -    return x[kept], kept.nonzero()[:, 1], kept.sum(1)
# +    return x[kept]


# %% wrong: put-back | to the front | killed by: present
# edit of: the teacher's
# -    image = torch.arange(len(counts)).repeat_interleave(counts)
# +    image = torch.arange(len(counts)).repeat_interleave(counts)
# +    places = torch.cat([torch.arange(count) for count in counts.tolist()])


# %% wrong: put-back | present where it was, the tokens at the front | killed by: put back
# edit of: the teacher's
# -    x = payload.new_zeros(len(counts), tokens, payload.shape[1]).index_put((image, places), payload)
# +    front = torch.cat([torch.arange(count) for count in counts.tolist()])
# +    x = payload.new_zeros(len(counts), tokens, payload.shape[1]).index_put((image, front), payload)


# %% wrong: put-back | all into the first image | killed by: present
# edit of: the teacher's
# -    image = torch.arange(len(counts)).repeat_interleave(counts)
# +    image = torch.zeros_like(places)


# %% wrong: put-back | ones where nothing came | killed by: put back
# edit of: the teacher's
# -    x = payload.new_zeros(len(counts), tokens, payload.shape[1]).index_put((image, places), payload)
# +    x = payload.new_ones(len(counts), tokens, payload.shape[1]).index_put((image, places), payload)


# %% wrong: put-back | present where there are numbers other than zero, as numbers | killed by: present
# edit of: the teacher's
# -    return x, present
# +    return x, present.long()


# %% wrong: put-back | a token of zeros is told as absent | killed by: present
# edit of: the teacher's
# -    return x, present
# +    return x, x.abs().sum(-1) > 0


# %% wrong: put-back | present at the front | killed by: present
# edit of: the teacher's
# -    return x, present
# +    return x, torch.arange(tokens) < counts[:, None]


# %% wrong: put-back | without the gradient | killed by: gradients
# edit of: the teacher's
# -    x = payload.new_zeros(len(counts), tokens, payload.shape[1]).index_put((image, places), payload)
# +    x = payload.new_zeros(len(counts), tokens, payload.shape[1]).index_put((image, places), payload.detach())


# %% wrong: put-back | zeros take a share | killed by: who is present
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    shares = scores.softmax(-1)


# %% wrong: put-back | out after the softmax, and no new sum | killed by: who is present
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    shares = scores.softmax(-1) * present


# %% wrong: put-back | absent tokens get the score 0 | killed by: who is present
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    shares = (scores * present).softmax(-1) * present


# %% wrong: put-back | no root of n | killed by: who is present
# edit of: the teacher's
# -    scores = (x @ query[..., None])[..., 0] / x.shape[-1] ** 0.5
# +    scores = (x @ query[..., None])[..., 0]


# %% wrong: put-back | nan where nothing came | killed by: nobody present
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    shares = scores.masked_fill(~present, -torch.inf).softmax(-1)


# %% wrong: put-back | the nan is hidden, and stays in the gradient | killed by: attention's gradients
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    shares = (scores + torch.where(present, 0.0, -torch.inf)).softmax(-1)
# +    shares = torch.where(present.any(1, keepdim=True), shares, 0)


# %% wrong: put-back | everybody's mean where nothing came | killed by: who is present
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    shares = scores.masked_fill(~present, -1e300).softmax(-1)


# %% wrong: put-back | exponentials that overflow | killed by: large scores
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    parts = scores.exp() * present
# +    shares = parts / parts.sum(1, keepdim=True).clamp(min=1e-300)


# %% wrong: put-back | the nan of infinite exponentials is hidden | killed by: large scores
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    parts = scores.exp().masked_fill(~present, 0)
# +    shares = (parts / parts.sum(1, keepdim=True)).nan_to_num(0)


# %% wrong: put-back | scores up to 50 | killed by: large scores
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    parts = scores.clamp(max=50).exp() * present
# +    shares = parts / parts.sum(1, keepdim=True).clamp(min=1e-300)


# %% wrong: put-back | the largest score of all, absent or not | killed by: large scores
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    parts = (scores - scores.amax(1, keepdim=True)).exp() * present
# +    shares = parts / (parts.sum(1, keepdim=True) + 1e-12)


# %% wrong: put-back | absent tokens get a score of -1,000 | killed by: large scores
# edit of: the teacher's
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# +    shares = scores.masked_fill(~present, -1e3).softmax(-1) * present


# %% wrong: put-back | the scores have no gradient | killed by: attention's gradients
# edit of: the teacher's
# -    scores = (x @ query[..., None])[..., 0] / x.shape[-1] ** 0.5
# +    scores = (x.detach() @ query[..., None])[..., 0] / x.shape[-1] ** 0.5


# %% wrong: put-back | PyTorch's attention | killed by: by hand
# edit of: the teacher's
# -    scores = (x @ query[..., None])[..., 0] / x.shape[-1] ** 0.5
# -    shares = scores.masked_fill(~present, -1e300).softmax(-1) * present
# -    return (shares[:, None] @ x)[:, 0]
# +    return F.scaled_dot_product_attention(query[:, None], x, x, attn_mask=present[:, None])[:, 0]


# %% right: in-debt | tensors, and a loop over the ways
def drive(values, costs, budget, V=1.0, step=1.0):
    debt, ways, debts = 0.0, [], []
    for value, cost in zip(values, costs, strict=True):
        best = 0
        for way in range(1, len(cost)):
            now = (-V * value[way] + debt * cost[way], cost[way])
            if now < (-V * value[best] + debt * cost[best], cost[best]):
                best = way
        debt += step * (cost[best] - budget)
        if debt < 0:
            debt = 0.0
        ways.append(best)
        debts.append(debt)
    return tuple(ways), tuple(debts)


def ceiling(debts, budget, step=1.0):
    debts = torch.tensor(debts, dtype=torch.float64)
    return (budget + debts / (torch.arange(len(debts)) + 1) / step).tolist()


# %% right: in-debt | sorted by score, cost and number
def drive(values, costs, budget, V=1.0, step=1.0):
    ways, debts = [], [0.0]
    for value, cost in zip(values, costs, strict=True):
        prices = sorted((debts[-1] * c - V * v, c, i) for i, (v, c) in enumerate(zip(value, cost, strict=True)))
        ways.append(prices[0][2])
        debts.append(max(debts[-1] + step * (prices[0][1] - budget), 0.0))
    return ways, debts[1:]


def ceiling(debts, budget, step=1.0):
    return [budget + debts[t] / step / (t + 1) for t in range(len(debts))]


# %% wrong: in-debt | the worst way | killed by: one slot
# edit of: the teacher's
# -        way = min(zip(scores, cost, range(len(cost)), strict=True))[2]
# +        way = max(zip(scores, cost, range(len(cost)), strict=True))[2]


# %% wrong: in-debt | the value with a plus | killed by: one slot
# edit of: the teacher's
# -        scores = [-V * v + Z * c for v, c in zip(value, cost, strict=True)]
# +        scores = [V * v + Z * c for v, c in zip(value, cost, strict=True)]


# %% wrong: in-debt | V with the cost, Z with the value | killed by: one slot
# edit of: the teacher's
# -        scores = [-V * v + Z * c for v, c in zip(value, cost, strict=True)]
# +        scores = [V * c - Z * v for v, c in zip(value, cost, strict=True)]


# %% wrong: in-debt | the debt has no price | killed by: the ways
# edit of: the teacher's
# -        scores = [-V * v + Z * c for v, c in zip(value, cost, strict=True)]
# +        scores = [-V * v for v in value]


# %% wrong: in-debt | V is forgotten | killed by: the ways
# edit of: the teacher's
# -        scores = [-V * v + Z * c for v, c in zip(value, cost, strict=True)]
# +        scores = [-v + Z * c for v, c in zip(value, cost, strict=True)]


# %% wrong: in-debt | the debt less the budget's share of it, per way | killed by: one slot
# edit of: the teacher's
# -        scores = [-V * v + Z * c for v, c in zip(value, cost, strict=True)]
# +        scores = [-V * v + (Z + step * (c - budget)) * c for v, c in zip(value, cost, strict=True)]


# %% wrong: in-debt | savings are kept | killed by: the debts
# edit of: the teacher's
# -        Z = max(0.0, Z + step * (cost[way] - budget))
# +        Z = Z + step * (cost[way] - budget)


# %% wrong: in-debt | μ is forgotten | killed by: the ways
# edit of: the teacher's
# -        Z = max(0.0, Z + step * (cost[way] - budget))
# +        Z = max(0.0, Z + (cost[way] - budget))


# %% wrong: in-debt | the debt never falls | killed by: the debts
# edit of: the teacher's
# -        Z = max(0.0, Z + step * (cost[way] - budget))
# +        Z = Z + step * max(0.0, cost[way] - budget)


# %% wrong: in-debt | only the last slot is owed | killed by: the ways
# edit of: the teacher's
# -        Z = max(0.0, Z + step * (cost[way] - budget))
# +        Z = max(0.0, step * (cost[way] - budget))


# %% wrong: in-debt | the debts before the slots | killed by: the debts
# edit of: the teacher's
# -    return ways, debts
# +    return ways, [0.0, *debts[:-1]]


# %% wrong: in-debt | of equal ways the first | killed by: ties
# edit of: the teacher's
# -        way = min(zip(scores, cost, range(len(cost)), strict=True))[2]
# +        way = scores.index(min(scores))


# %% wrong: in-debt | of equal ways the last of the cheapest | killed by: ties
# edit of: the teacher's
# -        way = min(zip(scores, cost, range(len(cost)), strict=True))[2]
# +        way = -min(zip(scores, cost, range(0, -len(cost), -1), strict=True))[2]


# %% wrong: in-debt | the costs of the first slot | killed by: the ways
# edit of: the teacher's
# -    for value, cost in zip(values, costs, strict=True):
# +    for value, cost in zip(values, [costs[0]] * len(values), strict=True):


# %% wrong: in-debt | costs written over | killed by: inputs as they were
# edit of: the teacher's
# -        ways.append(way)
# +        ways.append(way)
# +        cost[way] -= budget


# %% wrong: in-debt | the ways alone | killed by: two lists
# edit of: the teacher's
# -    return ways, debts
# +    return ways


# %% wrong: in-debt | a ceiling without μ | killed by: the ceiling
# edit of: the teacher's
# -    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]
# +    return [budget + Z / t for t, Z in enumerate(debts, start=1)]


# %% wrong: in-debt | a ceiling times μ | killed by: the ceiling
# edit of: the teacher's
# -    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]
# +    return [budget + Z * step / t for t, Z in enumerate(debts, start=1)]


# %% wrong: in-debt | the excess alone | killed by: the ceiling
# edit of: the teacher's
# -    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]
# +    return [Z / (step * t) for t, Z in enumerate(debts, start=1)]


# %% wrong: in-debt | slots counted from 0 | killed by: runs
# edit of: the teacher's
# -    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]
# +    return [budget + Z / (step * t) for t, Z in enumerate(debts)]


# %% wrong: in-debt | the ceiling is not over time | killed by: the ceiling
# edit of: the teacher's
# -    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]
# +    return [budget + Z / step for Z in debts]


# %% wrong: in-debt | the largest debt so far | killed by: the ceiling
# edit of: the teacher's
# -    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]
# +    return [budget + max(debts[:t]) / (step * t) for t in range(1, len(debts) + 1)]


# %% wrong: in-debt | the budget is a ceiling already | killed by: the ceiling
# edit of: the teacher's
# -    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]
# +    return [budget for _ in debts]


# %% wrong: in-debt | dynlib's controller | killed by: by hand
def drive(values, costs, budget, V=1.0, step=1.0):
    from dynlib.edge import LyapunovController

    controller, ways, debts = LyapunovController(budget, V=V, step=step), [], []
    for value, cost in zip(values, costs, strict=True):
        ways.append(controller.choose(value, cost))
        controller.spend(cost[ways[-1]])
        debts.append(controller.debt)
    return ways, debts


def ceiling(debts, budget, step=1.0):
    return [budget + Z / (step * t) for t, Z in enumerate(debts, start=1)]


# %% right: predict-traffic | worked out
def predict():
    length = (8 * 5.0**2) ** 0.5
    block = {t: t * (24 * 32 * 32 + 4 * 32 * t) for t in (18, 66)}
    return {
        "symbols of the image": 128,
        "bits of a map of the places": 64,
        "bits of a list of the places": 96,
        "most tokens for which the list is shorter": (64 - 1) // 6,
        "decibels that come out of the slip": 10 * torch.tensor(10 * length).log10().item(),
        "share of a block's FLOPs": block[18] / block[66],
        "slots before the first cheap one": 6,
        "twice V, the excess of the mean cost after 10,000 slots": "doubles",
    }


# %% right: predict-traffic | as tensors, decibels to two places
def predict():
    return {
        "symbols of the image": torch.tensor(128),
        "bits of a map of the places": torch.tensor([64]),
        "bits of a list of the places": 96.0,
        "most tokens for which the list is shorter": 10,
        "decibels that come out of the slip": 21.51,
        "share of a block's FLOPs": torch.tensor(
            18 * (24 * 32 + 4 * 18) / 66 / (24 * 32 + 4 * 66), dtype=torch.float64
        ),
        "slots before the first cheap one": 6,
        "twice V, the excess of the mean cost after 10,000 slots": "doubles",
    }


# %% wrong: predict-traffic | two numbers a symbol | killed by: symbols of the image
# edit of: the teacher's
# -        "symbols of the image": 16 * 8,
# +        "symbols of the image": 16 * 8 * 2,


# %% wrong: predict-traffic | all patches | killed by: symbols of the image
# edit of: the teacher's
# -        "symbols of the image": 16 * 8,
# +        "symbols of the image": 64 * 8,


# %% wrong: predict-traffic | a bit for each sent token | killed by: bits of a map of the places
# edit of: the teacher's
# -        "bits of a map of the places": 64,
# +        "bits of a map of the places": 16,


# %% wrong: predict-traffic | seven bits a place | killed by: bits of a list of the places
# edit of: the teacher's
# -        "bits of a list of the places": 16 * 6,
# +        "bits of a list of the places": 16 * 7,


# %% wrong: predict-traffic | four bits a place | killed by: bits of a list of the places
# edit of: the teacher's
# -        "bits of a list of the places": 16 * 6,
# +        "bits of a list of the places": 16 * 4,


# %% wrong: predict-traffic | the list at eleven | killed by: most tokens for which the list is shorter
# edit of: the teacher's
# -        "most tokens for which the list is shorter": 10,
# +        "most tokens for which the list is shorter": 11,


# %% wrong: predict-traffic | the slip changes nothing | killed by: decibels that come out of the slip
# edit of: the teacher's
# -        "decibels that come out of the slip": 10 + 10 * torch.log10(torch.tensor(8 * 25.0).sqrt()).item(),
# +        "decibels that come out of the slip": 10,


# %% wrong: predict-traffic | amplitudes' decibels | killed by: decibels that come out of the slip
# edit of: the teacher's
# -        "decibels that come out of the slip": 10 + 10 * torch.log10(torch.tensor(8 * 25.0).sqrt()).item(),
# +        "decibels that come out of the slip": 10 + 20 * torch.log10(torch.tensor(8 * 25.0).sqrt()).item(),


# %% wrong: predict-traffic | fewer decibels | killed by: decibels that come out of the slip
# edit of: the teacher's
# -        "decibels that come out of the slip": 10 + 10 * torch.log10(torch.tensor(8 * 25.0).sqrt()).item(),
# +        "decibels that come out of the slip": 10 - 10 * torch.log10(torch.tensor(8 * 25.0).sqrt()).item(),


# %% wrong: predict-traffic | a quarter of the tokens, a quarter of the FLOPs | killed by: share of a block's FLOPs
# edit of: the teacher's
# -        "share of a block's FLOPs": (24 * 18 * 32**2 + 4 * 18**2 * 32) / (24 * 66 * 32**2 + 4 * 66**2 * 32),
# +        "share of a block's FLOPs": 1 / 4,


# %% wrong: predict-traffic | the two tokens are forgotten | killed by: share of a block's FLOPs
# edit of: the teacher's
# -        "share of a block's FLOPs": (24 * 18 * 32**2 + 4 * 18**2 * 32) / (24 * 66 * 32**2 + 4 * 66**2 * 32),
# +        "share of a block's FLOPs": (24 * 16 * 32**2 + 4 * 16**2 * 32) / (24 * 64 * 32**2 + 4 * 64**2 * 32),


# %% wrong: predict-traffic | the scores grow with the tokens | killed by: share of a block's FLOPs
# edit of: the teacher's
# -        "share of a block's FLOPs": (24 * 18 * 32**2 + 4 * 18**2 * 32) / (24 * 66 * 32**2 + 4 * 66**2 * 32),
# +        "share of a block's FLOPs": 18 / 66,


# %% wrong: predict-traffic | the cost, not the excess, is owed | killed by: slots before the first cheap one
# edit of: the teacher's
# -        "slots before the first cheap one": 6,
# +        "slots before the first cheap one": 3,


# %% wrong: predict-traffic | a larger V, a nearer budget | killed by: twice V, the excess of the mean cost after 10,000 slots
# edit of: the teacher's
# -        "twice V, the excess of the mean cost after 10,000 slots": "doubles",
# +        "twice V, the excess of the mean cost after 10,000 slots": "halves",


# %% wrong: predict-traffic | V makes no difference in the long run | killed by: twice V, the excess of the mean cost after 10,000 slots
# edit of: the teacher's
# -        "twice V, the excess of the mean cost after 10,000 slots": "doubles",
# +        "twice V, the excess of the mean cost after 10,000 slots": "stays",


# %% wrong: predict-traffic | another word | killed by: a word
# edit of: the teacher's
# -        "twice V, the excess of the mean cost after 10,000 slots": "doubles",
# +        "twice V, the excess of the mean cost after 10,000 slots": "twice",


# %% wrong: predict-traffic | a name is missing | killed by: the names
# edit of: the teacher's
# -        "symbols of the image": 16 * 8,


# %% wrong: predict-traffic | a list | killed by: a dict
def predict():
    return [128, 64, 96, 10, 21.5, 0.24, 6, "doubles"]
