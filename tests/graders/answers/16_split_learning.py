# %% right: three-parts | torch.autograd.grad in each part, written into .grad
def three_parts(first, middle, last, inputs, labels, up, down):
    x = first(inputs)
    got = up(x).detach().clone().requires_grad_(True)
    z = middle(got)
    back = down(z).detach().clone().requires_grad_(True)
    loss = -(labels * last(back).log_softmax(-1)).sum(-1).mean()
    weights = [list(part.parameters()) for part in (first, middle, last)]
    *of_last, g = torch.autograd.grad(loss, [*weights[2], back])
    *of_middle, g = torch.autograd.grad(z, [*weights[1], got], up(g))
    of_first = torch.autograd.grad(x, weights[0], down(g))
    for some, gradients in zip(weights, (of_first, of_middle, of_last), strict=True):
        for weight, gradient in zip(some, gradients, strict=True):
            weight.grad = gradient
    return float(loss)


# %% right: three-parts | the graph goes on by the product of activations and gradient
def three_parts(first, middle, last, inputs, labels, up, down):
    for part in (first, middle, last):
        for weight in part.parameters():
            weight.grad = None
    x = first(inputs)
    got = up(x.detach())
    got.requires_grad = True
    z = middle(got)
    back = down(z.detach())
    back.requires_grad = True
    loss = F.cross_entropy(last(back), labels, reduction="mean")
    loss.backward()
    (z * up(back.grad)).sum().backward()
    (x * down(got.grad)).sum().backward()
    return loss.item()


# %% wrong: three-parts | one graph, the link is passed by | killed by: crossings
def three_parts(first, middle, last, inputs, labels, up, down):
    for part in (first, middle, last):
        part.zero_grad()
    loss = F.cross_entropy(last(middle(first(inputs))), labels)
    loss.backward()
    return loss.item()


# %% wrong: three-parts | sent, but computed on from what was sent | killed by: activations down
# edit of: the teacher's
# -    at_server = up(x.detach()).requires_grad_()
# +    up(x.detach())
# +    at_server = x.detach().requires_grad_()


# %% wrong: three-parts | the client goes on from what the server has | killed by: gradient up
# edit of: the teacher's
# -    at_client = down(z.detach()).requires_grad_()
# +    down(z.detach())
# +    at_client = z.detach().requires_grad_()


# %% wrong: three-parts | no gradient goes back to the server | killed by: crossings
# edit of: the teacher's
# -    z.backward(up(at_client.grad))
# +    z.backward(at_client.grad)


# %% wrong: three-parts | the gradient goes on as it was sent, not as it arrived | killed by: gradient down
# edit of: the teacher's
# -    z.backward(up(at_client.grad))
# +    up(at_client.grad)
# +    z.backward(at_client.grad)


# %% wrong: three-parts | the first part goes on from the gradient as it was sent | killed by: gradients of first
# edit of: the teacher's
# -    x.backward(down(at_server.grad))
# +    down(at_server.grad)
# +    x.backward(at_server.grad)


# %% wrong: three-parts | the client's first part is not trained | killed by: gradients of first
# edit of: the teacher's
# -    x.backward(down(at_server.grad))
# +    down(at_server.grad)


# %% wrong: three-parts | nothing is cleared | killed by: gradients of first
# edit of: the teacher's
# -    for part in (first, middle, last):
# -        part.zero_grad()


# %% wrong: three-parts | the server's part is not cleared | killed by: gradients of middle
# edit of: the teacher's
# -    for part in (first, middle, last):
# +    for part in (first, last):


# %% wrong: three-parts | the last part is not cleared | killed by: gradients of last
# edit of: the teacher's
# -    for part in (first, middle, last):
# +    for part in (first, middle):


# %% wrong: three-parts | the sum over the batch | killed by: gradient up
# edit of: the teacher's
# -    loss = F.cross_entropy(last(at_client), labels)
# +    loss = F.cross_entropy(last(at_client), labels, reduction="sum")


# %% wrong: three-parts | the most likely class in place of the row | killed by: gradient up
# edit of: the teacher's
# -    loss = F.cross_entropy(last(at_client), labels)
# +    loss = F.cross_entropy(last(at_client), labels.argmax(-1))


# %% wrong: three-parts | softmax before the cross-entropy | killed by: gradient up
# edit of: the teacher's
# -    loss = F.cross_entropy(last(at_client), labels)
# +    loss = F.cross_entropy(last(at_client).softmax(-1), labels)


# %% wrong: three-parts | the parts run a second time for the backward pass | killed by: once
# edit of: the teacher's
# -    z.backward(up(at_client.grad))
# +    middle(at_server).backward(up(at_client.grad))


# %% wrong: three-parts | the loss with its graph | killed by: a float
# edit of: the teacher's
# -    return loss.item()
# +    return loss


# %% wrong: three-parts | up and down confused on the way back | killed by: crossings
# edit of: the teacher's
# -    z.backward(up(at_client.grad))
# -    x.backward(down(at_server.grad))
# +    z.backward(down(at_client.grad))
# +    x.backward(up(at_server.grad))


# %% wrong: three-parts | a step of gradient descent is taken, too | killed by: the loss
# edit of: the teacher's
# -    return loss.item()
# +    with torch.no_grad():
# +        for part in (first, middle, last):
# +            for weight in part.parameters():
# +                weight -= 0.1 * weight.grad
# +    return F.cross_entropy(last.part(at_client), labels).item()


# %% wrong: three-parts | the gradient of the activations is averaged over the batch again | killed by: gradient down
# edit of: the teacher's
# -    x.backward(down(at_server.grad))
# +    x.backward(down(at_server.grad / len(inputs)))


# %% wrong: three-parts | a leaf is made of what is sent, not of what arrives | killed by: crossings
# edit of: the teacher's
# -    at_client = down(z.detach()).requires_grad_()
# +    at_client = down(z.detach().requires_grad_())


# %% right: group-step | distances by cdist, groups moved by sorting
def group_step(x, centres):
    away, of = torch.cdist(x, centres, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    groups = len(centres)
    for j in range(groups):
        if (of == j).any():
            continue
        order = away.argsort(descending=True, stable=True).tolist()
        moved = next(i for i in order if int((of == of[i]).sum()) > 1)
        of[moved] = j
    return of, torch.stack([x[of == j].mean(0) for j in range(groups)])


# %% right: group-step | lists of members
def group_step(x, centres):
    members = [[] for _ in centres]
    away = []
    for i, sample in enumerate(x):
        distances = ((sample - centres) ** 2).sum(1)
        j = int(distances.argmin())
        members[j].append(i)
        away.append(float(distances[j]))
    for j in range(len(members)):
        if not members[j]:
            i = max((i for some in members if len(some) > 1 for i in some), key=lambda i: (away[i], -i))
            next(some for some in members if i in some).remove(i)
            members[j].append(i)
    of = torch.zeros(len(x), dtype=torch.int64)
    for j, some in enumerate(members):
        of[some] = j
    return of, torch.stack([x[some].mean(0) for some in members])


# %% wrong: group-step | empty groups stay empty | killed by: nobody left out
def group_step(x, centres):
    of = (x[:, None] - centres).square().sum(-1).argmin(1)
    return of, torch.stack([x[of == j].mean(0) for j in range(len(centres))])


# %% wrong: group-step | an empty group keeps its centre | killed by: nobody left out
def group_step(x, centres):
    of = (x[:, None] - centres).square().sum(-1).argmin(1)
    return of, torch.stack([x[of == j].mean(0) if (of == j).any() else centres[j] for j in range(len(centres))])


# %% wrong: group-step | the farthest, even if it is alone | killed by: nobody left out
# edit of: the teacher's
# -        moved = int(away.masked_fill(size[of] < 2, -1).argmax())
# +        moved = int(away.argmax())


# %% wrong: group-step | the nearest sample is moved | killed by: nobody left out
# edit of: the teacher's
# -        moved = int(away.masked_fill(size[of] < 2, -1).argmax())
# +        moved = int(away.masked_fill(size[of] < 2, torch.inf).argmin())


# %% wrong: group-step | sizes are not counted anew | killed by: no NaN
# edit of: the teacher's
# -        size[of[moved]] -= 1
# -        size[empty] += 1


# %% wrong: group-step | the first sample, wherever it is | killed by: nobody left out
# edit of: the teacher's
# -        moved = int(away.masked_fill(size[of] < 2, -1).argmax())
# +        moved = int((size[of] > 1).nonzero()[0, 0])


# %% wrong: group-step | the last empty group first | killed by: nobody left out
# edit of: the teacher's
# -    for empty in (size == 0).nonzero()[:, 0].tolist():
# +    for empty in reversed((size == 0).nonzero()[:, 0].tolist()):


# %% wrong: group-step | the farthest from the empty centre's own place | killed by: nobody left out
# edit of: the teacher's
# -        moved = int(away.masked_fill(size[of] < 2, -1).argmax())
# +        moved = int(distance[:, empty].masked_fill(size[of] < 2, torch.inf).argmin())


# %% wrong: group-step | one empty group is filled, not all | killed by: nobody left out
# edit of: the teacher's
# -    for empty in (size == 0).nonzero()[:, 0].tolist():
# +    for empty in (size == 0).nonzero()[:1, 0].tolist():


# %% wrong: group-step | of equally near the last | killed by: nearest
# edit of: the teacher's
# -    away, of = distance.min(1)
# +    away, of = distance.flip(1).min(1)
# +    of = len(centres) - 1 - of


# %% wrong: group-step | the farthest centre | killed by: nearest
# edit of: the teacher's
# -    away, of = distance.min(1)
# +    away, of = distance.max(1)


# %% wrong: group-step | by the scalar product | killed by: nearest
# edit of: the teacher's
# -    distance = (x[:, None] - centres).square().sum(-1)
# +    distance = -(x @ centres.T)


# %% wrong: group-step | the sum of absolute differences | killed by: nearest
# edit of: the teacher's
# -    distance = (x[:, None] - centres).square().sum(-1)
# +    distance = (x[:, None] - centres).abs().sum(-1)


# %% wrong: group-step | the centres do not move | killed by: the means
# edit of: the teacher's
# -    return of, sums / size[:, None]
# +    return of, centres


# %% wrong: group-step | sums in place of means | killed by: the means
# edit of: the teacher's
# -    return of, sums / size[:, None]
# +    return of, sums


# %% wrong: group-step | the means before anybody was moved | killed by: no NaN
# edit of: the teacher's
# -    for empty in (size == 0).nonzero()[:, 0].tolist():
# +    before = torch.stack([x[of == j].mean(0) for j in range(len(centres))])
# +    for empty in (size == 0).nonzero()[:, 0].tolist():
# …
# -    return of, sums / size[:, None]
# +    return of, before


# %% wrong: group-step | the old centre takes part in the mean | killed by: the means
# edit of: the teacher's
# -    return of, sums / size[:, None]
# +    return of, (sums + centres) / (size[:, None] + 1)


# %% wrong: group-step | written into the centres | killed by: input untouched
# edit of: the teacher's
# -    return of, sums / size[:, None]
# +    centres.copy_(sums / size[:, None])
# +    return of, centres


# %% wrong: group-step | the groups alone | killed by: two tensors
# edit of: the teacher's
# -    return of, sums / size[:, None]
# +    return of


# %% wrong: group-step | int32 | killed by: nearest
# edit of: the teacher's
# -    return of, sums / size[:, None]
# +    return of.int(), sums / size[:, None]


# %% wrong: group-step | distances by a product of matrices, as cdist's above 25 rows | killed by: of equals
# edit of: the teacher's
# -    distance = (x[:, None] - centres).square().sum(-1)
# +    distance = torch.cdist(x, centres)


# %% wrong: group-step | of equally far the last | killed by: nobody left out
# edit of: the teacher's
# -        moved = int(away.masked_fill(size[of] < 2, -1).argmax())
# +        moved = len(x) - 1 - int(away.masked_fill(size[of] < 2, -1).flip(0).argmax())


# %% wrong: group-step | the farthest from any centre | killed by: nobody left out
# edit of: the teacher's
# -        moved = int(away.masked_fill(size[of] < 2, -1).argmax())
# +        moved = int(distance.amax(1).masked_fill(size[of] < 2, -1).argmax())


# %% wrong: group-step | dynlib's | killed by: by hand
def group_step(x, centres):
    from dynlib.edge import k_means

    return k_means(x, len(centres), iterations=1)


# %% right: compress | group by group
def compress(x, attention, labels, of, groups, k, classes):
    rows, targets, kept = [], [], []
    for j in range(groups):
        mine = of == j
        look = attention[mine].mean(0).tolist()
        best = sorted(range(1, len(look)), key=lambda token: -look[token])[: k - 1]
        kept.append(sorted([0, *best]))
        rows.append(x[mine].mean(0)[kept[-1]])
        targets.append(torch.stack([(labels[mine] == c).to(x.dtype).mean() for c in range(classes)]))
    return torch.stack(rows), torch.stack(targets), torch.tensor(kept)


# %% right: compress | index_add, a mask and a gather
def compress(x, attention, labels, of, groups, k, classes):
    size = torch.bincount(of, minlength=groups)
    mean = x.new_zeros(groups, *x.shape[1:]).index_add(0, of, x) / size[:, None, None]
    hot = x.new_zeros(groups, classes).index_put((of, labels), x.new_ones(len(x)), accumulate=True)
    look = attention.detach().new_zeros(groups, attention.shape[1]).index_add(0, of, attention.detach())
    look = look / size[:, None]
    look[:, 0] = torch.inf
    kept = (-look).sort(dim=1, stable=True).indices[:, :k].sort(dim=1).values
    return mean.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2])), hot / size[:, None], kept


# %% wrong: compress | the class token takes part in the choice | killed by: the tokens
# edit of: the teacher's
# -    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1] + 1
# -    kept = F.pad(others.sort(dim=1).values, (1, 0))
# +    kept = looks.argsort(dim=1, descending=True, stable=True)[:, :k].sort(dim=1).values


# %% wrong: compress | k tokens besides the class token | killed by: the tokens
# edit of: the teacher's
# -    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1] + 1
# +    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, :k] + 1


# %% wrong: compress | places one too small | killed by: the tokens
# edit of: the teacher's
# -    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1] + 1
# +    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1]


# %% wrong: compress | the least attended | killed by: the tokens
# edit of: the teacher's
# -    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1] + 1
# +    others = looks[:, 1:].argsort(dim=1, stable=True)[:, : k - 1] + 1


# %% wrong: compress | the first tokens | killed by: the tokens
# edit of: the teacher's
# -    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1] + 1
# +    others = torch.arange(1, k).expand(groups, -1)


# %% wrong: compress | one choice for the whole batch | killed by: the tokens
# edit of: the teacher's
# -    looks = share @ attention.detach().to(x.dtype)
# +    looks = attention.detach().to(x.dtype).mean(0).expand(groups, -1)


# %% wrong: compress | the attention of one sample of the group | killed by: the tokens
# edit of: the teacher's
# -    looks = share @ attention.detach().to(x.dtype)
# +    looks = torch.stack([attention.detach()[of == j][0] for j in range(groups)])


# %% wrong: compress | in the order of the attention | killed by: the tokens
# edit of: the teacher's
# -    kept = F.pad(others.sort(dim=1).values, (1, 0))
# +    kept = F.pad(others, (1, 0))


# %% wrong: compress | a sort that is not stable | killed by: ties
# edit of: the teacher's
# -    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1] + 1
# +    others = looks[:, 1:].argsort(dim=1, descending=True)[:, : k - 1] + 1


# %% wrong: compress | of equals the later | killed by: ties
# edit of: the teacher's
# -    others = looks[:, 1:].argsort(dim=1, descending=True, stable=True)[:, : k - 1] + 1
# +    others = looks[:, 1:].argsort(dim=1, stable=True).flip(1)[:, : k - 1] + 1


# %% wrong: compress | sums of activations | killed by: the activations
# edit of: the teacher's
# -    mean = torch.einsum("gb,bnd->gnd", share, x)
# +    mean = torch.einsum("gb,bnd->gnd", member, x)


# %% wrong: compress | means over the batch | killed by: the activations
# edit of: the teacher's
# -    mean = torch.einsum("gb,bnd->gnd", share, x)
# +    mean = torch.einsum("gb,bnd->gnd", member, x) / len(x)


# %% wrong: compress | one sample stands for its group | killed by: the activations
# edit of: the teacher's
# -    mean = torch.einsum("gb,bnd->gnd", share, x)
# +    mean = torch.stack([x[of == j][0] for j in range(groups)])


# %% wrong: compress | the first k tokens are taken | killed by: the activations
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    return mean[:, :k], share @ F.one_hot(labels, classes).to(x.dtype), kept


# %% wrong: compress | the first group's tokens for all | killed by: the activations
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    return mean[:, kept[0]], share @ F.one_hot(labels, classes).to(x.dtype), kept


# %% wrong: compress | counts of labels | killed by: the labels
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    return mean[rows, kept], member @ F.one_hot(labels, classes).to(x.dtype), kept


# %% wrong: compress | the label of one sample | killed by: the labels
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    first = torch.stack([labels[of == j][0] for j in range(groups)])
# +    return mean[rows, kept], F.one_hot(first, classes).to(x.dtype), kept


# %% wrong: compress | the most frequent label | killed by: the labels
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    most = (share @ F.one_hot(labels, classes).to(x.dtype)).argmax(1)
# +    return mean[rows, kept], F.one_hot(most, classes).to(x.dtype), kept


# %% wrong: compress | softmax over the labels | killed by: the labels
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    return mean[rows, kept], (share @ F.one_hot(labels, classes).to(x.dtype)).softmax(1), kept


# %% wrong: compress | as many classes as there are in the batch | killed by: the labels
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    return mean[rows, kept], share @ F.one_hot(labels).to(x.dtype), kept


# %% wrong: compress | labels in whole numbers | killed by: the labels
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    return mean[rows, kept], (share @ F.one_hot(labels, classes).to(x.dtype)).long(), kept


# %% wrong: compress | no gradient | killed by: gradients
# edit of: the teacher's
# -    mean = torch.einsum("gb,bnd->gnd", share, x)
# +    mean = torch.einsum("gb,bnd->gnd", share, x.detach())


# %% wrong: compress | activations weighed by attention | killed by: the activations
# edit of: the teacher's
# -    mean = torch.einsum("gb,bnd->gnd", share, x)
# +    mean = torch.einsum("gb,bnd->gnd", share, x * attention[:, :, None])


# %% wrong: compress | a gradient goes into the attention | killed by: none for the attention
# edit of: the teacher's
# -    mean = torch.einsum("gb,bnd->gnd", share, x)
# +    mean = torch.einsum("gb,bnd->gnd", share, x + (attention - attention.detach())[:, :, None])


# %% wrong: compress | the activations alone | killed by: three tensors
# edit of: the teacher's
# -    return mean[rows, kept], share @ F.one_hot(labels, classes).to(x.dtype), kept
# +    return mean[rows, kept]


# %% wrong: compress | dynlib's | killed by: by hand
def compress(x, attention, labels, of, groups, k, classes):
    from dynlib.edge import double_compress

    sent = double_compress(x, attention, labels, samples=groups, tokens=k, classes=classes)
    return sent.carried, sent.labels, sent.kept


# %% right: expand | loops over samples and tokens
def expand(gradient, of, kept, tokens):
    result = torch.zeros(len(of), tokens, gradient.shape[2], dtype=gradient.dtype)
    for i, group in enumerate(of.tolist()):
        result[i, kept[group]] = gradient[group] / (of == group).sum()
    return result


# %% right: expand | a product with one-hot rows
def expand(gradient, of, kept, tokens):
    member = F.one_hot(of, len(gradient)).to(gradient.dtype)
    place = F.one_hot(kept, tokens).to(gradient.dtype)
    return torch.einsum("bg,gkn,gkd->bnd", member / member.sum(0), place, gradient)


# %% wrong: expand | not divided | killed by: the gradient
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient


# %% wrong: expand | over the batch | killed by: the gradient
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient / len(of)


# %% wrong: expand | over the number of groups | killed by: the gradient
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient / groups


# %% wrong: expand | over the number of kept tokens | killed by: the gradient
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient / kept.shape[1]


# %% wrong: expand | times the size | killed by: the gradient
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient * size[:, None, None]


# %% wrong: expand | divided twice | killed by: the gradient
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient / size[:, None, None] ** 2


# %% wrong: expand | the root of the size | killed by: the gradient
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient / size[:, None, None].sqrt()


# %% wrong: expand | to the first k tokens | killed by: the gradient
# edit of: the teacher's
# -    whole.scatter_(1, kept[:, :, None].expand_as(gradient), each)
# +    whole[:, : kept.shape[1]] = each


# %% wrong: expand | to the first group's tokens | killed by: the gradient
# edit of: the teacher's
# -    whole.scatter_(1, kept[:, :, None].expand_as(gradient), each)
# +    whole[:, kept[0]] = each


# %% wrong: expand | to the tokens in ascending order | killed by: the gradient
# edit of: the teacher's
# -    whole.scatter_(1, kept[:, :, None].expand_as(gradient), each)
# +    whole.scatter_(1, kept.sort(1).values[:, :, None].expand_as(gradient), each)


# %% wrong: expand | to all tokens | killed by: the gradient
# edit of: the teacher's
# -    whole.scatter_(1, kept[:, :, None].expand_as(gradient), each)
# +    whole = each.mean(1, keepdim=True).expand(-1, tokens, -1)


# %% wrong: expand | for one sample of each group alone | killed by: the gradient
# edit of: the teacher's
# -    return whole[of]
# +    result = gradient.new_zeros(len(of), tokens, dim)
# +    for j in range(groups):
# +        result[(of == j).nonzero()[0, 0]] = whole[j] * size[j]
# +    return result


# %% wrong: expand | a row for each group | killed by: the gradient
# edit of: the teacher's
# -    return whole[of]
# +    return whole


# %% wrong: expand | in float64 | killed by: the gradient
# edit of: the teacher's
# -    return whole[of]
# +    return whole[of].double()


# %% wrong: expand | divided in place | killed by: input untouched
# edit of: the teacher's
# -    each = gradient / size[:, None, None]
# +    each = gradient.div_(size[:, None, None])


# %% wrong: expand | by autograd | killed by: by hand
def expand(gradient, of, kept, tokens):
    groups, _, dim = gradient.shape
    x = gradient.new_zeros(len(of), tokens, dim, requires_grad=True)
    member = F.one_hot(of, groups).to(x.dtype)
    mean = torch.einsum("bg,bnd->gnd", member / member.sum(0), x)
    sent = mean.gather(1, kept[:, :, None].expand(-1, -1, dim))
    return torch.autograd.grad(sent, x, gradient)[0]


# %% right: sizes | the largest k beside each T
def sizes(batch, tokens, dim, classes, r):
    floats = (4 * batch * tokens * dim + 8 * batch) // (4 * r)
    best = None
    for groups in range(1, batch + 1):
        k = min((floats - groups * classes) // (groups * dim), tokens)
        if k < 1:
            continue
        key = (min(groups * tokens, k * batch), groups * k, groups)
        if best is None or key > best[0]:
            best = key, (groups, k)
    if best is None:
        raise ValueError("nothing fits")
    return best[1]


# %% right: sizes | by fractions
def sizes(batch, tokens, dim, classes, r):
    from fractions import Fraction

    most = Fraction(4 * batch * tokens * dim + 8 * batch, r)
    found = (0, 0, 0, 0)
    for groups in range(1, batch + 1):
        for k in range(1, tokens + 1):
            if 4 * groups * (k * dim + classes) > most:
                break
            found = max(found, (min(Fraction(groups, batch), Fraction(k, tokens)), groups * k, groups, k))
    if found[2] == 0:
        raise ValueError("nothing fits")
    return found[2:]


# %% wrong: sizes | the root twice of the samples | killed by: fits
def sizes(batch, tokens, dim, classes, r):
    return max(round(batch * r**-0.25), 1), max(round(tokens * r**-0.5), 1)


# %% wrong: sizes | rounded roots | killed by: fits
def sizes(batch, tokens, dim, classes, r):
    return max(round(batch * r**-0.5), 1), max(round(tokens * r**-0.5), 1)


# %% wrong: sizes | 1/r of each | killed by: the pair
# edit of: the teacher's
# -    whole = 4 * batch * tokens * dim + 8 * batch
# +    r = r * r
# +    whole = 4 * batch * tokens * dim + 8 * batch


# %% wrong: sizes | less than 1/r | killed by: just fits
# edit of: the teacher's
# -        if 4 * groups * (k * dim + classes) * r <= whole
# +        if 4 * groups * (k * dim + classes) * r < whole


# %% wrong: sizes | the labels of the message weigh nothing | killed by: fits
# edit of: the teacher's
# -        if 4 * groups * (k * dim + classes) * r <= whole
# +        if 4 * groups * k * dim * r <= whole


# %% wrong: sizes | the labels of the batch weigh nothing | killed by: the pair
# edit of: the teacher's
# -    whole = 4 * batch * tokens * dim + 8 * batch
# +    whole = 4 * batch * tokens * dim


# %% wrong: sizes | one label for each group | killed by: fits
# edit of: the teacher's
# -        if 4 * groups * (k * dim + classes) * r <= whole
# +        if (4 * groups * k * dim + 8 * groups) * r <= whole


# %% wrong: sizes | a row of labels for each token | killed by: the pair
# edit of: the teacher's
# -        if 4 * groups * (k * dim + classes) * r <= whole
# +        if 4 * groups * k * (dim + classes) * r <= whole


# %% wrong: sizes | the most tokens of all | killed by: the pair
# edit of: the teacher's
# -        (min(groups * tokens, k * batch), groups * k, groups, k)
# +        (groups * k, groups * k, groups, k)


# %% wrong: sizes | the larger share counts | killed by: the pair
# edit of: the teacher's
# -        (min(groups * tokens, k * batch), groups * k, groups, k)
# +        (max(groups * tokens, k * batch), groups * k, groups, k)


# %% wrong: sizes | T and k compared as they are | killed by: the pair
# edit of: the teacher's
# -        (min(groups * tokens, k * batch), groups * k, groups, k)
# +        (min(groups, k), groups * k, groups, k)


# %% wrong: sizes | of equals the first | killed by: the pair
# edit of: the teacher's
# -    return max(fit)[2:]
# +    return max(fit, key=lambda one: one[0])[2:]


# %% wrong: sizes | of equals the smaller T · k | killed by: the pair
# edit of: the teacher's
# -        (min(groups * tokens, k * batch), groups * k, groups, k)
# +        (min(groups * tokens, k * batch), -groups * k, groups, k)


# %% wrong: sizes | of equal products the first found | killed by: of equals
# edit of: the teacher's
# -    return max(fit)[2:]
# +    return max(fit, key=lambda one: one[:2])[2:]


# %% wrong: sizes | of equal products the smaller T | killed by: of equals
# edit of: the teacher's
# -    return max(fit)[2:]
# +    return max(fit, key=lambda one: (*one[:2], -one[2]))[2:]


# %% wrong: sizes | of equals the one of more bytes | killed by: of equals
# edit of: the teacher's
# -        (min(groups * tokens, k * batch), groups * k, groups, k)
# +        (min(groups * tokens, k * batch), groups * (k * dim + classes), groups, k)


# %% wrong: sizes | a label of the batch has 4 bytes | killed by: just fits
# edit of: the teacher's
# -    whole = 4 * batch * tokens * dim + 8 * batch
# +    whole = 4 * batch * tokens * dim + 4 * batch


# %% wrong: sizes | labels of a message have 8 bytes a number | killed by: just fits
# edit of: the teacher's
# -        if 4 * groups * (k * dim + classes) * r <= whole
# +        if 4 * groups * (k * dim + 2 * classes) * r <= whole


# %% wrong: sizes | k and T swapped | killed by: the pair
# edit of: the teacher's
# -    return max(fit)[2:]
# +    return max(fit)[:1:-1]


# %% wrong: sizes | float16 | killed by: fits
# edit of: the teacher's
# -        if 4 * groups * (k * dim + classes) * r <= whole
# +        if 2 * groups * (k * dim + classes) * r <= whole


# %% wrong: sizes | floats | killed by: two ints
# edit of: the teacher's
# -    return max(fit)[2:]
# +    return tuple(map(float, max(fit)[2:]))


# %% wrong: sizes | one token of one group where nothing fits | killed by: out of reach
# edit of: the teacher's
# -    if not fit:
# -        raise ValueError(f"no message is so small: one token of one group weighs more than 1/{r}")
# +    if not fit:
# +        return 1, 1


# %% right: predict-bytes | by formulas
def predict():
    batch, tokens, dim, classes = 64, 37, 64, 10
    numbers = batch * tokens * dim
    labels = 8 * batch
    kept = numbers // 16
    sent = 16 * 9 * dim
    return {
        "up, all": 4 * numbers + labels,
        "down, all": 4 * numbers,
        "up, top-k 1/16": kept * (4 + 2) + labels,
        "down, top-k 1/16": kept * 4,
        "up, 4 bits": numbers / 2 + 2 * 4 * batch * tokens + labels,
        "up, T = 16, k = 9": 4 * (sent + 16 * classes),
        "down, T = 16, k = 9": 4 * sent,
        "share, T = B c^½ and k = n c^¼": (1 / 256) ** 0.75,
        "FLOPs of the server's linear layers, T = 16, k = 9": 16 / 64 * 9 / 37,
    }


# %% right: predict-bytes | numbers of tensors
def predict():
    said = {
        "up, all": 606720,
        "down, all": 606208,
        "up, top-k 1/16": 57344,
        "down, top-k 1/16": 37888,
        "up, 4 bits": 95232,
        "up, T = 16, k = 9": 37504,
        "down, T = 16, k = 9": 36864,
        "share, T = B c^½ and k = n c^¼": 0.015625,
        "FLOPs of the server's linear layers, T = 16, k = 9": 144 / 2368,
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in said.items()}


# %% wrong: predict-bytes | no labels go up | killed by: up, all
# edit of: the teacher's
# -        "up, all": 64 * 37 * 64 * 4 + 64 * 8,
# +        "up, all": 64 * 37 * 64 * 4,


# %% wrong: predict-bytes | numbers for bytes | killed by: down, all
# edit of: the teacher's
# -        "down, all": 64 * 37 * 64 * 4,
# +        "down, all": 64 * 37 * 64,


# %% wrong: predict-bytes | places weigh nothing | killed by: up, top-k 1/16
# edit of: the teacher's
# -        "up, top-k 1/16": 64 * 148 * 6 + 64 * 8,
# +        "up, top-k 1/16": 64 * 148 * 4 + 64 * 8,


# %% wrong: predict-bytes | places come back | killed by: down, top-k 1/16
# edit of: the teacher's
# -        "down, top-k 1/16": 64 * 148 * 4,
# +        "down, top-k 1/16": 64 * 148 * 6,


# %% wrong: predict-bytes | no scales | killed by: up, 4 bits
# edit of: the teacher's
# -        "up, 4 bits": 64 * 37 * 64 // 2 + 64 * 37 * 8 + 64 * 8,
# +        "up, 4 bits": 64 * 37 * 64 // 2 + 64 * 8,


# %% wrong: predict-bytes | labels as numbers of classes | killed by: up, T = 16, k = 9
# edit of: the teacher's
# -        "up, T = 16, k = 9": 16 * 9 * 64 * 4 + 16 * 10 * 4,
# +        "up, T = 16, k = 9": 16 * 9 * 64 * 4 + 16 * 8,


# %% wrong: predict-bytes | every sample gets its gradient over the link | killed by: down, T = 16, k = 9
# edit of: the teacher's
# -        "down, T = 16, k = 9": 16 * 9 * 64 * 4,
# +        "down, T = 16, k = 9": 64 * 9 * 64 * 4,


# %% wrong: predict-bytes | what was asked for | killed by: share, T = B c^½ and k = n c^¼
# edit of: the teacher's
# -        "share, T = B c^½ and k = n c^¼": 1 / 64,
# +        "share, T = B c^½ and k = n c^¼": 1 / 256,


# %% wrong: predict-bytes | the tokens of a sample alone | killed by: FLOPs of the server's linear layers, T = 16, k = 9
# edit of: the teacher's
# -        "FLOPs of the server's linear layers, T = 16, k = 9": 16 * 9 / (64 * 37),
# +        "FLOPs of the server's linear layers, T = 16, k = 9": 9 / 37,
