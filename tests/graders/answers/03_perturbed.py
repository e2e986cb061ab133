# %% right: sparsemax | throw out what falls below the threshold until nothing does
def sparsemax(logits, *, dim=-1):
    z = logits - logits.amax(dim, keepdim=True)
    held = z > -torch.inf
    while True:
        total = torch.where(held, z, torch.zeros_like(z)).sum(dim, keepdim=True)
        tau = (total - 1) / held.sum(dim, keepdim=True)
        fewer = held & (z > tau)
        if torch.equal(fewer, held):
            break
        held = fewer
    return torch.where(held, z - tau, torch.zeros_like(z))


# %% right: sparsemax | an autograd function with a Jacobian of its own
class Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ordered = torch.sort(z - z.amax(-1, keepdim=True), dim=-1, descending=True).values
        k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
        candidates = (ordered.cumsum(-1) - 1) / k
        tau = candidates.masked_fill(ordered <= candidates, -torch.inf).amax(-1, keepdim=True)
        p = (z - z.amax(-1, keepdim=True) - tau).clamp(min=0)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx, arriving):
        (p,) = ctx.saved_tensors
        held = (p > 0).to(p)
        return held * (arriving - (arriving * held).sum(-1, keepdim=True) / held.sum(-1, keepdim=True))


def sparsemax(logits, *, dim=-1):
    return Project.apply(logits.movedim(dim, -1)).movedim(-1, dim)


# %% right: sparsemax | every logit asks who is at least as large, without sorting
def sparsemax(logits, *, dim=-1):
    z = logits.movedim(dim, -1)
    z = z - z.max(-1, keepdim=True).values
    above = z.detach().unsqueeze(-2) >= z.detach().unsqueeze(-1)  # [..., i, j]: z_j >= z_i
    gaps = (z.detach().unsqueeze(-2) - z.detach().unsqueeze(-1)).masked_fill(~above, 0.0).nan_to_num(posinf=2.0)
    held = gaps.sum(-1) < 1
    sums = z.masked_fill(~held, 0.0).sum(-1, keepdim=True)
    p = (z - (sums - 1) / held.sum(-1, keepdim=True)).masked_fill(~held, 0.0)
    return p.movedim(-1, dim)


# %% wrong: sparsemax | softmax with the small weights cut off | killed by: value
def sparsemax(logits, *, dim=-1):
    p = logits.softmax(dim)
    p = p * (p > 0.1)
    return p / p.sum(dim, keepdim=True)


# %% wrong: sparsemax | the negative logits cut off, the rest divided by their sum | killed by: value
def sparsemax(logits, *, dim=-1):
    p = logits.clamp_min(0)
    return p / p.sum(dim, keepdim=True).clamp_min(1e-9)


# %% wrong: sparsemax | the threshold of all n logits, also of those that get no weight | killed by: value
def sparsemax(logits, *, dim=-1):
    tau = (logits.sum(dim, keepdim=True) - 1) / logits.shape[dim]
    return (logits - tau).clamp_min(0)


# %% wrong: sparsemax | forgot the factor k in the condition of the support | killed by: value
def sparsemax(logits, *, dim=-1):
    z = logits - logits.amax(dim, keepdim=True)
    ordered = z.sort(dim, descending=True).values
    sums = ordered.cumsum(dim)
    size = (1 + ordered > sums).sum(dim, keepdim=True)
    tau = (sums.gather(dim, size - 1) - 1) / size
    return (z - tau).clamp_min(0)


# %% wrong: sparsemax | one too few in the support | killed by: value
def sparsemax(logits, *, dim=-1):
    z = (logits - logits.amax(dim, keepdim=True)).movedim(dim, -1)
    ordered = z.sort(-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    sums = ordered.cumsum(-1)
    size = (1 + k * ordered > sums).sum(-1, keepdim=True).sub(1).clamp_min(1)
    tau = (sums.gather(-1, size - 1) - 1) / size
    return (z - tau).clamp_min(0).movedim(-1, dim)


# %% wrong: sparsemax | weights in sorted order | killed by: value
# edit of: one too few in the support
# -    size = (1 + k * ordered > sums).sum(-1, keepdim=True).sub(1).clamp_min(1)
# +    size = (1 + k * ordered > sums).sum(-1, keepdim=True)
# …
# -    return (z - tau).clamp_min(0).movedim(-1, dim)
# +    return (ordered - tau).clamp_min(0).movedim(-1, dim)


# %% wrong: sparsemax | always the last dimension | killed by: along dim
def sparsemax(logits, *, dim=-1):
    z = logits - logits.amax(-1, keepdim=True)
    ordered = z.sort(-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    sums = ordered.cumsum(-1)
    size = (1 + k * ordered > sums).sum(-1, keepdim=True)
    tau = (sums.gather(-1, size - 1) - 1) / size
    return (z - tau).clamp_min(0)


# %% wrong: sparsemax | the threshold is detached | killed by: gradient
def sparsemax(logits, *, dim=-1):
    z = (logits - logits.amax(dim, keepdim=True).detach()).movedim(dim, -1)
    ordered = z.detach().sort(-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
    sums = ordered.cumsum(-1)
    size = (1 + k * ordered > sums).sum(-1, keepdim=True)
    tau = (sums.gather(-1, size - 1) - 1) / size
    return (z - tau).clamp_min(0).movedim(-1, dim)


# %% wrong: sparsemax | the weights have lost their graph | killed by: has a gradient
# edit of: the threshold is detached
# -    z = (logits - logits.amax(dim, keepdim=True).detach()).movedim(dim, -1)
# -    ordered = z.detach().sort(-1, descending=True).values
# +    z = (logits.detach() - logits.detach().amax(dim, keepdim=True)).movedim(dim, -1)
# +    ordered = z.sort(-1, descending=True).values


# %% wrong: sparsemax | divides by the sum once more, which brings the row's sum into the gradient | killed by: gradient
# edit of: the threshold is detached
# -    return (z - tau).clamp_min(0).movedim(-1, dim)
# +    p = (z - tau).clamp_min(0)
# +    return (p / p.sum(-1, keepdim=True)).movedim(-1, dim)


# %% wrong: sparsemax | a support mask multiplied, NaN where a logit is -inf | killed by: impossible choices
# edit of: one too few in the support
# -    sums = ordered.cumsum(-1)
# -    size = (1 + k * ordered > sums).sum(-1, keepdim=True).sub(1).clamp_min(1)
# -    tau = (sums.gather(-1, size - 1) - 1) / size
# +    held = (1 + k * ordered > ordered.cumsum(-1)).to(z)
# +    tau = ((ordered * held).sum(-1, keepdim=True) - 1) / held.sum(-1, keepdim=True)


# %% wrong: sparsemax | sums of large numbers, without the largest taken off first | killed by: a common number
# edit of: one too few in the support
# -    z = (logits - logits.amax(dim, keepdim=True)).movedim(dim, -1)
# +    z = logits.movedim(dim, -1)
# …
# -    size = (1 + k * ordered > sums).sum(-1, keepdim=True).sub(1).clamp_min(1)
# +    size = (1 + k * ordered > sums).sum(-1, keepdim=True).clamp_min(1)


# %% right: sparsemax | Newton's steps from below, then one with a gradient
def sparsemax(logits, *, dim=-1):
    z = logits - logits.max(dim, keepdim=True)[0]
    with torch.no_grad():
        tau = torch.full_like(z.amax(dim, keepdim=True), -1.0)
        for _ in range(z.shape[dim] + 1):
            above = (z > tau).sum(dim, keepdim=True)
            tau = tau + ((z - tau).clamp_min(0).sum(dim, keepdim=True) - 1) / above
    held = z > tau
    total = torch.where(held, z, 0.0).sum(dim, keepdim=True)
    return torch.where(held, z - (total - 1) / held.sum(dim, keepdim=True), 0.0)


# %% wrong: sparsemax | the largest of all logits is taken off in place of each row's | killed by: a common number
# edit of: the teacher's
# -    z = logits - logits.amax(dim, keepdim=True)
# +    z = logits - logits.max()


# %% wrong: sparsemax | the sixteen largest alone are looked at | killed by: many logits
# edit of: the teacher's
# -    ordered = z.sort(dim, descending=True).values
# +    ordered = z.topk(min(16, z.shape[dim]), dim).values
# …
# -    k = torch.arange(1, z.shape[dim] + 1, dtype=z.dtype, device=z.device).view(shape)
# +    k = torch.arange(1, ordered.shape[dim] + 1, dtype=z.dtype, device=z.device).view(shape)


# %% wrong: sparsemax | equal logits are counted once | killed by: ties
# edit of: the teacher's
# -    z = logits - logits.amax(dim, keepdim=True)
# -    ordered = z.sort(dim, descending=True).values
# +    z = logits - logits.amax(dim, keepdim=True)
# +    ordered = z.sort(dim, descending=True).values
# +    again = torch.zeros_like(ordered, dtype=torch.bool)
# +    again.movedim(dim, -1)[..., 1:] = ordered.movedim(dim, -1).diff(dim=-1) == 0
# +    ordered = ordered.masked_fill(again, -9999.0).sort(dim, descending=True).values


# %% wrong: sparsemax | >= counts what is impossible | killed by: impossible choices
# edit of: the teacher's
# -    size = (1 + k * ordered > sums).sum(dim, keepdim=True)
# +    size = (ordered >= (sums - 1) / k).sum(dim, keepdim=True)


# %% wrong: sparsemax | the gap halved for every row, with a gradient through the largest alone | killed by: gradient
def sparsemax(logits, *, dim=-1):
    z = logits - logits.detach().amax(dim, keepdim=True)
    high = z.amax(dim, keepdim=True)
    low = high - 1
    for _ in range(60):
        tau = (low + high) / 2
        above = (z - tau).clamp_min(0).sum(dim, keepdim=True) > 1
        low, high = torch.where(above, tau, low), torch.where(above, high, tau)
    return (z - high).clamp_min(0)


# %% wrong: sparsemax | a batch is taken for granted | killed by: runs
def sparsemax(logits, *, dim=-1):
    z = (logits - logits.amax(dim, keepdim=True)).movedim(dim, 1 if logits.ndim > 1 else 7)
    ordered = z.sort(1, descending=True).values
    k = torch.ones_like(ordered).cumsum(1)
    size = (1 + k * ordered > ordered.cumsum(1)).sum(1, keepdim=True)
    tau = (ordered.cumsum(1).gather(1, size - 1) - 1) / size
    return (z - tau).clamp_min(0).movedim(1, dim)


# %% wrong: sparsemax | every row by the threshold of the first | killed by: value
# edit of: the teacher's
# -    return (z - tau).clamp_min(0)
# +    first = tau.movedim(dim, -1).reshape(-1)[0]
# +    return (z - first).clamp_min(0)


# %% wrong: sparsemax | weights that only look as if they had a gradient | killed by: gradient
# edit of: the teacher's
# -    return (z - tau).clamp_min(0)
# +    return (z - tau).clamp_min(0).detach().requires_grad_()


# %% wrong: sparsemax | what the gradient needs is kept outside, by shape | killed by: two calls in turn
KEPT = {}


class ProjectKept(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ordered = torch.sort(z - z.amax(-1, keepdim=True), dim=-1, descending=True).values
        k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype)
        candidates = (ordered.cumsum(-1) - 1) / k
        tau = candidates.masked_fill(ordered <= candidates, -torch.inf).amax(-1, keepdim=True)
        KEPT[z.shape] = (z - z.amax(-1, keepdim=True) - tau).clamp(min=0)
        return KEPT[z.shape].clone()

    @staticmethod
    def backward(ctx, arriving):
        held = (KEPT[arriving.shape] > 0).to(arriving)
        return held * (arriving - (arriving * held).sum(-1, keepdim=True) / held.sum(-1, keepdim=True))


def sparsemax(logits, *, dim=-1):
    return ProjectKept.apply(logits.movedim(dim, -1)).movedim(-1, dim)


# %% wrong: sparsemax | float64 becomes the default for all that follows | killed by: torch as it was
# edit of: the teacher's
# -    z = logits - logits.amax(dim, keepdim=True)
# +    torch.set_default_dtype(torch.float64)
# +    z = logits - logits.amax(dim, keepdim=True)


# %% wrong: sparsemax | dynlib's own | killed by: by hand
from dynlib import choice


def sparsemax(logits, *, dim=-1):
    return choice.sparsemax(logits, dim=dim)


# %% wrong: sparsemax | dynlib's own, imported inside | killed by: by hand
def sparsemax(logits, *, dim=-1):
    from dynlib.choice.sparse import entmax as project

    return project(logits, 2.0, dim=dim)


# %% right: leave-one-out | by a loop over the samples
def leave_one_out(rewards):
    m = rewards.shape[0]
    if m == 1:
        raise ValueError("a single sample has no others")
    return torch.stack([torch.cat([rewards[:i], rewards[i + 1 :]]).mean(0) for i in range(m)])


def score_function_loss(log_prob, reward, baseline=0.0):
    with torch.no_grad():
        push = reward - baseline
    return (-push * log_prob).sum() / push.numel()


# %% right: leave-one-out | by a matrix with zeros on its diagonal
def leave_one_out(rewards):
    m = len(rewards)
    if m < 2:
        raise ValueError(f"got {m} sample, need 2")
    others = (1 - torch.eye(m, dtype=rewards.dtype)) / (m - 1)
    return torch.tensordot(others, rewards.detach(), dims=1)


def score_function_loss(log_prob, reward, baseline=0.0):
    return torch.mean(log_prob * (baseline - reward).detach())


# %% right: leave-one-out | what all have minus what one has
def leave_one_out(rewards):
    if len(rewards) < 2:
        raise ValueError("two samples at least")
    return (rewards.sum(0) - rewards) / (len(rewards) - 1)


def score_function_loss(log_prob, reward, baseline=0.0):
    return -((reward - baseline).detach() * log_prob).mean()


# %% wrong: leave-one-out | the mean of all samples, the own one included | killed by: baseline
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    return rewards.mean(0, keepdim=True).expand_as(rewards)


# %% wrong: leave-one-out | the sum of the others divided by m | killed by: baseline
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    return (rewards.sum(0) - rewards) / len(rewards)


# %% wrong: leave-one-out | gives the advantage in place of the baseline | killed by: baseline
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    return rewards - (rewards.sum(0) - rewards) / (len(rewards) - 1)


# %% wrong: leave-one-out | along the last dimension | killed by: first dimension
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    return (rewards.sum(-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)


# %% wrong: leave-one-out | mixes the problems of a batch | killed by: first dimension
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    return (rewards.sum() - rewards) / (rewards.numel() - 1)


# %% wrong: leave-one-out | the sign: minimises the reward | killed by: value
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return ((reward - baseline).detach() * log_prob).mean()


# %% wrong: leave-one-out | the sum over the samples | killed by: value
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward - baseline).detach() * log_prob).sum()


# %% wrong: leave-one-out | the baseline added | killed by: value
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward + baseline).detach() * log_prob).mean()


# %% wrong: leave-one-out | probabilities in place of their logarithms | killed by: value
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward - baseline).detach() * log_prob.exp()).mean()


# %% wrong: leave-one-out | one loss for each sample | killed by: one number
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -(reward - baseline).detach() * log_prob


# %% wrong: leave-one-out | forgot to detach the reward | killed by: no gradient of the reward
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward - baseline) * log_prob).mean()


# %% wrong: leave-one-out | detaches the reward and not the baseline | killed by: no gradient of the baseline
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward.detach() - baseline) * log_prob).mean()


# %% wrong: leave-one-out | detaches all of it | killed by: has a gradient
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward - baseline) * log_prob).mean().detach()


# %% wrong: leave-one-out | scales the advantages to a standard deviation of one | killed by: value
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    advantage = (reward - baseline).detach()
# +    return -(advantage / (advantage.std() + 1e-8) * log_prob).mean()


# %% wrong: leave-one-out | expects the baseline to be a tensor | killed by: runs
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward.detach() - baseline.detach()) * log_prob).mean()


# %% wrong: leave-one-out | NaN for a single sample | killed by: one sample
# edit of: what all have minus what one has
# -    if len(rewards) < 2:
# -        raise ValueError("two samples at least")


# %% right: leave-one-out | sums in float64, the loss by an inner product
def leave_one_out(rewards):
    if rewards.size(0) <= 1:
        raise ValueError("there is no other sample")
    wide = rewards.to(torch.float64)
    return ((wide.sum(dim=0, keepdim=True) - wide) / (rewards.size(0) - 1)).to(rewards.dtype)


def score_function_loss(log_prob, reward, baseline=0.0):
    weight = (torch.as_tensor(baseline) - reward).detach().flatten()
    return torch.dot(weight, log_prob.flatten()) / weight.numel()


# %% wrong: leave-one-out | all rewards equal to the own one are left out | killed by: baseline
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    other = (rewards[:, None] != rewards).to(rewards)
# +    return torch.einsum("ij...,j...->i...", other, rewards) / other.sum(1).clamp_min(1)


# %% wrong: leave-one-out | writes the baseline into the rewards | killed by: input untouched
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    return rewards.neg_().add_(-rewards.sum(0)).div_(len(rewards) - 1)


# %% wrong: leave-one-out | float32 whatever comes | killed by: baseline
# edit of: what all have minus what one has
# -    return (rewards.sum(0) - rewards) / (len(rewards) - 1)
# +    return ((rewards.sum(0) - rewards) / (len(rewards) - 1)).float()


# %% wrong: leave-one-out | the loss in float32 whatever comes | killed by: value
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    return -((reward - baseline).detach() * log_prob).float().mean()


# %% wrong: leave-one-out | gradients stay switched off | killed by: torch as it was
# edit of: what all have minus what one has
# -    return -((reward - baseline).detach() * log_prob).mean()
# +    loss = -((reward - baseline).detach() * log_prob).mean()
# +    torch.set_grad_enabled(False)
# +    return loss


# %% wrong: leave-one-out | dynlib's own | killed by: by hand
from dynlib.choice import leave_one_out, score_function_loss as of_dynlib


def score_function_loss(log_prob, reward, baseline=0.0):
    return of_dynlib(log_prob, reward, baseline=baseline)


# %% right: subset-marginals | each thing left out in turn, with Python's numbers
def subset_marginals(log_weights, k):
    s = [float(x) for x in log_weights]

    def add(a, b):
        high = max(a, b)
        return high if high == -math.inf else high + math.log(math.exp(a - high) + math.exp(b - high))

    def log_e(values, size):
        table = [0.0] + [-math.inf] * size
        for x in values:
            for j in range(size, 0, -1):
                table[j] = add(table[j], table[j - 1] + x)
        return table[size]

    if k == 0:
        return torch.zeros(len(s), dtype=log_weights.dtype)
    total = log_e(s, k)
    inside = [math.exp(x + log_e(s[:i] + s[i + 1 :], k - 1) - total) for i, x in enumerate(s)]
    return torch.tensor(inside, dtype=log_weights.dtype)


# %% right: subset-marginals | the gradient of log e_k
def subset_marginals(log_weights, k):
    with torch.enable_grad():
        s = log_weights.detach().double()
        s = (s - s.max()).clamp_min(-1e30).requires_grad_()
        table = [torch.zeros((), dtype=torch.float64)] + [torch.tensor(-1e32, dtype=torch.float64)] * k
        for x in s:
            table = table[:1] + [torch.logaddexp(table[j], table[j - 1] + x) for j in range(1, k + 1)]
        if k == 0:
            return torch.zeros_like(log_weights)
        return torch.autograd.grad(table[k], s)[0].to(log_weights.dtype)


# %% right: subset-marginals | the chance to take the next thing, given how many are still to come
def subset_marginals(log_weights, k):
    s, n = log_weights.double(), len(log_weights)
    rest = [torch.full((k + 1,), -torch.inf, dtype=torch.float64)]  # log e_j of the last things
    rest[0][0] = 0
    for x in s.flip(0):
        shifted = torch.cat([torch.tensor([-torch.inf]).double(), rest[-1][:-1] + x])
        rest.append(torch.logaddexp(rest[-1], shifted))
    rest = rest[::-1]
    state = torch.zeros(k + 1, dtype=torch.float64)  # probability that j are still to be taken
    state[k] = 1
    inside = []
    for i in range(n):
        take = (s[i] + rest[i + 1][:-1] - rest[i][1:]).exp().nan_to_num(0.0)
        moved = state[1:] * take
        inside.append(moved.sum())
        leave = (rest[i + 1] - rest[i]).exp().nan_to_num(0.0)
        state = state * leave
        state[:-1] += moved
    return torch.stack(inside).to(log_weights.dtype)


# %% right: subset-marginals | from both ends, in the dtype that is given
def subset_marginals(log_weights, k):
    n, s = len(log_weights), log_weights
    if k == 0:
        return torch.zeros_like(s)
    gone = s.new_full((1,), -math.inf)
    left = [torch.cat([s.new_zeros(1), gone.expand(k - 1)])]
    right = [left[0]]
    for i in range(n - 1):
        left.append(torch.logaddexp(left[-1], torch.cat([gone, left[-1][:-1]]) + s[i]))
        right.append(torch.logaddexp(right[-1], torch.cat([gone, right[-1][:-1]]) + s[n - 1 - i]))
    found = [s[i] + (left[i] + right[n - 1 - i].flip(0)).logsumexp(0) for i in range(n)]
    logs = torch.stack(found)
    return k * (logs - logs.logsumexp(0)).exp()


# %% right: subset-marginals | the gradient of log e_k in the dtype that is given
def subset_marginals(log_weights, k):
    if k == 0:
        return torch.zeros_like(log_weights)
    with torch.enable_grad():
        s = log_weights.detach().clone().requires_grad_()
        table = torch.full((k + 1,), -1e20, dtype=s.dtype)
        table[0] = 0.0
        for x in s:
            table = torch.cat([table[:1], torch.logaddexp(table[1:], table[:-1] + x.clamp_min(-1e20))])
        (p,) = torch.autograd.grad(table[k], s)
    return p.masked_fill(log_weights == -math.inf, 0.0)


# %% right: subset-marginals | exact fractions of scaled weights, no logarithm at all
def subset_marginals(log_weights, k):
    from fractions import Fraction

    def weight(x):
        if x == -math.inf:
            return Fraction(0)
        power = round(x / math.log(2))
        return Fraction(math.exp(x - power * math.log(2))) * Fraction(2) ** power

    def grow(table, w):
        return [e + (w * table[j - 1] if j else 0) for j, e in enumerate(table)]

    w = [weight(float(x)) for x in log_weights]
    start = [Fraction(int(j == 0)) for j in range(k + 1)]
    total, found = start, []
    for x in w:
        total = grow(total, x)
    for i in range(len(w)):
        if len(w) > 9:  # the plain numbers are near enough
            others = [float(x) for x in w[:i] + w[i + 1 :]]
            table = [1.0] + [0.0] * k
        else:
            others, table = w[:i] + w[i + 1 :], start
        for x in others:
            table = grow(table, x)
        found.append(float(w[i] * Fraction(table[k - 1]) / total[k]) if k else 0.0)
    return torch.tensor(found, dtype=log_weights.dtype)


# %% wrong: subset-marginals | the law of Gumbel top-k, one after another | killed by: law
import itertools


def subset_marginals(log_weights, k):
    w = log_weights.double().exp().tolist()
    shares = [0.0] * len(w)
    for order in itertools.permutations(range(len(w)), k):
        left, p = sum(w), 1.0
        for i in order:
            p, left = p * w[i] / left, left - w[i]
        for i in order:
            shares[i] += p
    return torch.tensor(shares, dtype=log_weights.dtype)


# %% wrong: subset-marginals | k times the softmax | killed by: law
def subset_marginals(log_weights, k):
    return k * log_weights.softmax(0)


# %% wrong: subset-marginals | k times the softmax, cut at 1 | killed by: law
def subset_marginals(log_weights, k):
    return (k * log_weights.softmax(0)).clamp_max(1)


# %% wrong: subset-marginals | coins on their own | killed by: law
def subset_marginals(log_weights, k):
    return log_weights.sigmoid()


# %% wrong: subset-marginals | coins on their own, scaled to sum to k | killed by: law
def subset_marginals(log_weights, k):
    p = log_weights.sigmoid()
    return p * k / p.sum()


# %% wrong: subset-marginals | sets of k others in place of k - 1 | killed by: law
def subset_marginals(log_weights, k):
    w = log_weights.double().exp().tolist()

    def e(weights, size):
        table = [1.0] + [0.0] * size
        for x in weights:
            for j in range(size, 0, -1):
                table[j] += x * table[j - 1]
        return table[size]

    total = e(w, k)
    return torch.tensor([x * e(w[:i] + w[i + 1 :], k) / total for i, x in enumerate(w)], dtype=log_weights.dtype)


# %% wrong: subset-marginals | the own weight is forgotten | killed by: law
# edit of: sets of k others in place of k - 1
# -    total = e(w, k)
# -    return torch.tensor([x * e(w[:i] + w[i + 1 :], k) / total for i, x in enumerate(w)], dtype=log_weights.dtype)
# +    others = torch.tensor([e(w[:i] + w[i + 1 :], k - 1) for i in range(len(w))], dtype=log_weights.dtype)
# +    return others / others.sum() * k


# %% wrong: subset-marginals | the table is filled upwards, so that a thing is taken twice | killed by: law
# edit of: sets of k others in place of k - 1
# -            for j in range(size, 0, -1):
# +            for j in range(1, size + 1):
# …
# -    return torch.tensor([x * e(w[:i] + w[i + 1 :], k) / total for i, x in enumerate(w)], dtype=log_weights.dtype)
# +    return torch.tensor([x * e(w[:i] + w[i + 1 :], k - 1) / total for i, x in enumerate(w)], dtype=log_weights.dtype)


# %% wrong: subset-marginals | no logarithms: exp overflows | killed by: large weights
def subset_marginals(log_weights, k):
    if k == 0:
        return torch.zeros_like(log_weights)
    w = log_weights.double().exp()

    def grow(table, x):
        return table + torch.cat([torch.zeros(1).double(), x * table[:-1]])

    start = torch.zeros(k).double()
    start[0] = 1
    left, right = [start], [start]
    for x in w[:-1]:
        left.append(grow(left[-1], x))
    for x in w[1:].flip(0):
        right.append(grow(right[-1], x))
    mass = w * (torch.stack(left) * torch.stack(right[::-1]).flip(1)).sum(1)
    return (k * mass / mass.sum()).to(log_weights.dtype)


# %% wrong: subset-marginals | fails for the empty set | killed by: runs
def subset_marginals(log_weights, k):
    s = log_weights.double()
    start = torch.full((k,), -math.inf, dtype=s.dtype)
    start[0] = 0.0

    def grow(table, x):
        return torch.logaddexp(table, torch.cat([table.new_full((1,), -math.inf), table[:-1] + x]))

    left, right = [start], [start]
    for x in s[:-1]:
        left.append(grow(left[-1], x))
    for x in s[1:].flip(0):
        right.append(grow(right[-1], x))
    mass = s + (torch.stack(left) + torch.stack(right[::-1]).flip(1)).logsumexp(1)
    return (mass - mass.logsumexp(0) + math.log(k)).exp().to(log_weights.dtype)


# %% wrong: subset-marginals | goes through all sets | killed by: many things
import itertools


def subset_marginals(log_weights, k):
    s, held, total = log_weights.tolist(), [0.0] * len(log_weights), 0.0
    top = max(sum(s[i] for i in chosen) for chosen in itertools.combinations(range(len(s)), k))
    for chosen in itertools.combinations(range(len(s)), k):
        weight = math.exp(sum(s[i] for i in chosen) - top)
        total += weight
        for i in chosen:
            held[i] += weight
    return torch.tensor([h / total for h in held], dtype=log_weights.dtype)


# %% wrong: subset-marginals | a list of all sets, which no clock could stop | killed by: many things
from itertools import combinations as sets_of


def subset_marginals(log_weights, k):
    sets = list(sets_of(range(len(log_weights)), k))
    logs = torch.stack([log_weights[list(chosen)].sum() for chosen in sets]).double()
    held = torch.tensor([[float(i in chosen) for i in range(len(log_weights))] for chosen in sets]).double()
    return (logs.softmax(0) @ held).to(log_weights.dtype)


# %% wrong: subset-marginals | goes through all sets by a recursion of its own | killed by: ends in time
def subset_marginals(log_weights, k):
    s, top = log_weights.tolist(), log_weights.double().sort(descending=True).values[:k].sum().item()

    def sets(first, size):
        if size == 0:
            yield ()
        for i in range(first, len(s) - size + 1 if size else first):
            for rest in sets(i + 1, size - 1):
                yield (i, *rest)

    held, total = [0.0] * len(s), 0.0
    for chosen in sets(0, k):
        weight = math.exp(sum(s[i] for i in chosen) - top)
        total += weight
        for i in chosen:
            held[i] += weight
    return torch.tensor([h / total for h in held], dtype=log_weights.dtype)


# %% wrong: subset-marginals | the gradient of log e_k, from tables that hold -inf | killed by: law
def subset_marginals(log_weights, k):
    if k == 0:
        return torch.zeros_like(log_weights)
    with torch.enable_grad():
        s = log_weights.detach().double().requires_grad_()
        table = torch.full((k + 1,), -math.inf, dtype=torch.float64)
        table[0] = 0.0
        for x in s:
            table = torch.cat([table[:1], torch.logaddexp(table[1:], table[:-1] + x)])
        (p,) = torch.autograd.grad(table[k], s)
    return p.to(log_weights.dtype)


# %% wrong: subset-marginals | 1 minus the share of the sets without it | killed by: beside a huge weight
def subset_marginals(log_weights, k):
    s = log_weights.double()

    def log_e(values):
        table = torch.full((k + 1,), -math.inf, dtype=torch.float64)
        table[0] = 0.0
        for x in values:
            table = torch.cat([table[:1], torch.logaddexp(table[1:], table[:-1] + x)])
        return table[k]

    without = torch.stack([log_e(torch.cat([s[:i], s[i + 1 :]])) for i in range(len(s))])
    return (1 - (without - log_e(s)).exp()).to(log_weights.dtype)


# %% wrong: subset-marginals | takes each thing out again by subtraction | killed by: mixed magnitudes
def subset_marginals(log_weights, k):
    s = log_weights.double()
    w = (s - s.max()).exp()
    e = torch.zeros(k + 1).double()
    e[0] = 1
    for x in w:
        e[1:] += x * e[:-1].clone()
    without = torch.ones_like(w)  # e_0 of the others, then e_j = e_j(all) - w e_{j-1} of the others
    for j in range(1, k):
        without = e[j] - w * without
    return (w * without / e[k]).to(log_weights.dtype) if k else torch.zeros_like(log_weights)


# %% wrong: subset-marginals | takes each thing out again by subtraction, in logarithms | killed by: mixed magnitudes
def subset_marginals(log_weights, k):
    if k == 0:
        return torch.zeros_like(log_weights)
    s = log_weights.double()
    e = torch.full((k + 1,), -math.inf, dtype=torch.float64)
    e[0] = 0
    for x in s:
        e = torch.logaddexp(e, torch.cat([e.new_full((1,), -math.inf), e[:-1] + x]))
    without = torch.zeros_like(s)
    for j in range(1, k):
        without = e[j] + torch.log1p(-(s + without - e[j]).exp())
    return (s + without - e[k]).exp().to(log_weights.dtype)


# %% wrong: subset-marginals | centred by the mean, which is -inf where one of them is | killed by: never chosen
# edit of: fails for the empty set
#  def subset_marginals(log_weights, k):
# +    if k == 0:
# +        return torch.zeros_like(log_weights)
# …
#      s = log_weights.double()
# +    s = s - s.mean()


# %% wrong: subset-marginals | always float64 | killed by: dtype
# edit of: fails for the empty set
#  def subset_marginals(log_weights, k):
# +    if k == 0:
# +        return torch.zeros_like(log_weights)
# …
# -    return (mass - mass.logsumexp(0) + math.log(k)).exp().to(log_weights.dtype)
# +    return (mass - mass.logsumexp(0) + math.log(k)).exp()


# %% wrong: subset-marginals | the right half is not turned round | killed by: law
# edit of: fails for the empty set
#  def subset_marginals(log_weights, k):
# +    if k == 0:
# +        return torch.zeros_like(log_weights)
# …
# -    mass = s + (torch.stack(left) + torch.stack(right[::-1]).flip(1)).logsumexp(1)
# +    mass = s + (torch.stack(left) + torch.stack(right[::-1])).logsumexp(1)


# %% wrong: subset-marginals | the largest is taken off, then plain weights | killed by: mixed magnitudes
# edit of: no logarithms: exp overflows
# -    w = log_weights.double().exp()
# +    w = (log_weights.double() - log_weights.double().max()).exp()


# %% wrong: subset-marginals | a result is kept for every n and k | killed by: other weights
# edit of: fails for the empty set
#  def subset_marginals(log_weights, k):
# +    if k == 0:
# +        return torch.zeros_like(log_weights)
# +    kept = subset_marginals.__dict__.setdefault("kept", {})
# +    if (len(log_weights), k) in kept:
# +        return kept[len(log_weights), k].to(log_weights.dtype)
# …
# -    return (mass - mass.logsumexp(0) + math.log(k)).exp().to(log_weights.dtype)
# +    kept[len(log_weights), k] = (mass - mass.logsumexp(0) + math.log(k)).exp()
# +    return kept[len(log_weights), k].to(log_weights.dtype)


# %% wrong: subset-marginals | coins of the right mean where there are many things | killed by: many things
# edit of: fails for the empty set
#  def subset_marginals(log_weights, k):
# +    if k == 0:
# +        return torch.zeros_like(log_weights)
# +    if len(log_weights) > 20:
# +        shift = torch.linspace(-50, 50, 100_001)[:, None]
# +        mean = (log_weights.float() + shift).sigmoid().sum(1)
# +        return (log_weights + shift[(mean - k).abs().argmin()]).sigmoid().to(log_weights.dtype)


# %% wrong: subset-marginals | what is never chosen gets a tiny weight | killed by: never chosen
# edit of: fails for the empty set
#  def subset_marginals(log_weights, k):
# +    if k == 0:
# +        return torch.zeros_like(log_weights)
# …
# -    s = log_weights.double()
# +    s = log_weights.double().clamp_min(log_weights[log_weights > -math.inf].min() - 30)


# %% wrong: subset-marginals | computes in float32 what comes in float64 | killed by: law
# edit of: fails for the empty set
#  def subset_marginals(log_weights, k):
# +    if k == 0:
# +        return torch.zeros_like(log_weights)
# …
# -    s = log_weights.double()
# +    s = log_weights.float()


# %% wrong: subset-marginals | dynlib's own | killed by: by hand
import dynlib


def subset_marginals(log_weights, k):
    return dynlib.choice.subset_marginals(log_weights, k)


# %% right: perturbed-argmax | an autograd function
class PerturbedMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, solver, samples, sigma, generator):
        b, n = theta.shape
        noise = torch.randn(samples, b, n, dtype=theta.dtype, generator=generator)
        vertices = solver((theta + sigma * noise).view(samples * b, n)).view(samples, b, n)
        ctx.save_for_backward(noise, vertices)
        ctx.sigma = sigma
        return vertices.mean(0)

    @staticmethod
    def backward(ctx, g):
        noise, vertices = ctx.saved_tensors
        along = torch.einsum("mbn,bn->mb", vertices, g)
        gradient = torch.einsum("mb,mbn->bn", along, noise) / (ctx.sigma * len(noise))
        return gradient, None, None, None, None


def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    return PerturbedMean.apply(theta, solver, samples, sigma, generator)


# %% right: perturbed-argmax | the rows problem by problem, the Jacobian written out
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    b, n = theta.shape
    with torch.no_grad():
        rows = theta.repeat_interleave(samples, 0)
        noise = torch.empty_like(rows).normal_(generator=generator)
        answers = solver(rows + noise * sigma).view(b, samples, n)
        jacobian = answers.transpose(1, 2) @ noise.view(b, samples, n) / (sigma * samples)  # [b, n, n]
        value = answers.sum(1) / samples
    return value + (jacobian @ (theta - theta.detach())[..., None])[..., 0]


# %% right: perturbed-argmax | a hook in place of an autograd function
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn((samples, *theta.shape), dtype=theta.dtype, generator=generator)
    vertices = solver((theta.detach() + sigma * noise).flatten(0, 1)).unflatten(0, (samples, -1))
    passing = theta * 1.0
    if passing.requires_grad:
        passing.register_hook(lambda g: ((vertices * g).sum(-1, keepdim=True) * noise).mean(0) / sigma)
    return vertices.mean(0) + (passing - passing.detach())


# %% wrong: perturbed-argmax | y and Z have changed places in backward | killed by: gradient
# edit of: a hook in place of an autograd function
# -        passing.register_hook(lambda g: ((vertices * g).sum(-1, keepdim=True) * noise).mean(0) / sigma)
# +        passing.register_hook(lambda g: ((noise * g).sum(-1, keepdim=True) * vertices).mean(0) / sigma)


# %% wrong: perturbed-argmax | new noise in backward | killed by: gradient
# edit of: a hook in place of an autograd function
# -        passing.register_hook(lambda g: ((vertices * g).sum(-1, keepdim=True) * noise).mean(0) / sigma)
# +        passing.register_hook(
# +            lambda g: ((vertices * g).sum(-1, keepdim=True) * torch.randn_like(noise)).mean(0) / sigma
# +        )


# %% wrong: perturbed-argmax | one call for every sample | killed by: one call
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    mean, lift = 0, 0
    for _ in range(samples):
        noise = torch.randn(theta.shape, dtype=theta.dtype, generator=generator)
        y = solver(theta.detach() + sigma * noise)
        mean = mean + y / samples
        lift = lift + y * (noise * theta).sum(-1, keepdim=True) / (sigma * samples)
    return mean + (lift - lift.detach())


# %% wrong: perturbed-argmax | samples and problems are not made rows | killed by: rows
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver(theta.detach() + sigma * noise)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
    return y.mean(0) + (lift - lift.detach())


# %% wrong: perturbed-argmax | the solver is called with a graph | killed by: no graph for the solver
# edit of: samples and problems are not made rows
# -    y = solver(theta.detach() + sigma * noise)
# +    y = solver((theta + sigma * noise).flatten(0, 1)).reshape(noise.shape)


# %% wrong: perturbed-argmax | one row of noise for the whole batch | killed by: noise of its own
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
    return y.mean(0) + (lift - lift.detach())


# %% wrong: perturbed-argmax | the same noise in every sample | killed by: new noise for each sample
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    noise = torch.randn(1, *theta.shape, dtype=theta.dtype, generator=generator).expand(samples, -1, -1)


# %% wrong: perturbed-argmax | the answers are taken apart in another order than they were put together | killed by: value
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    b, n = theta.shape
    noise = torch.randn(samples, b, n, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).reshape(samples * b, n)).reshape(b, samples, n).transpose(0, 1)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
    return y.mean(0) + (lift - lift.detach())


# %% wrong: perturbed-argmax | the answers as they are, without a gradient | killed by: has a gradient
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    return solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape).mean(0)


# %% wrong: perturbed-argmax | straight-through, the gradient of the identity | killed by: gradient
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape).mean(0)
    return y + (theta - theta.detach())


# %% wrong: perturbed-argmax | sigma is forgotten in the gradient | killed by: gradient
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0)
    return y.mean(0) + (lift - lift.detach())


# %% wrong: perturbed-argmax | divided by sigma squared | killed by: gradient
# edit of: sigma is forgotten in the gradient
# -    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0)
# +    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma**2


# %% wrong: perturbed-argmax | the sum over the samples in the gradient | killed by: gradient
# edit of: sigma is forgotten in the gradient
# -    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0)
# +    lift = (y * (noise * theta).sum(-1, keepdim=True)).sum(0) / sigma


# %% wrong: perturbed-argmax | the sign of the gradient | killed by: gradient
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
    return y.mean(0) - (lift - lift.detach())


# %% wrong: perturbed-argmax | y times Z score by score | killed by: gradient
# edit of: sigma is forgotten in the gradient
# -    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0)
# +    lift = (y * noise * theta).mean(0) / sigma


# %% wrong: perturbed-argmax | the products with g are summed over the batch | killed by: gradient
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx, theta):
            b, n = theta.shape
            noise = torch.randn(samples, b, n, dtype=theta.dtype, generator=generator)
            y = solver((theta + sigma * noise).reshape(-1, n)).reshape(samples, b, n)
            ctx.save_for_backward(noise, y)
            return y.mean(0)

        @staticmethod
        def backward(ctx, g):
            noise, y = ctx.saved_tensors
            return ((y * g).sum((1, 2), keepdim=True) * noise).mean(0) / sigma

    return Through.apply(theta)


# %% wrong: perturbed-argmax | new noise in the backward pass | killed by: gradient
# edit of: the products with g are summed over the batch
# -            ctx.save_for_backward(noise, y)
# +            ctx.save_for_backward(y)
# …
# -            noise, y = ctx.saved_tensors
# -            return ((y * g).sum((1, 2), keepdim=True) * noise).mean(0) / sigma
# +            (y,) = ctx.saved_tensors
# +            noise = torch.randn(y.shape, dtype=y.dtype, generator=generator)
# +            return ((y * g).sum(-1, keepdim=True) * noise).mean(0) / sigma


# %% wrong: perturbed-argmax | solves once more in the backward pass | killed by: no call in backward
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx, theta):
            b, n = theta.shape
            noise = torch.randn(samples, b, n, dtype=theta.dtype, generator=generator)
            ctx.save_for_backward(theta, noise)
            return solver((theta + sigma * noise).reshape(-1, n)).reshape(samples, b, n).mean(0)

        @staticmethod
        def backward(ctx, g):
            theta, noise = ctx.saved_tensors
            y = solver((theta + sigma * noise).reshape(-1, theta.shape[1])).reshape(noise.shape)
            return ((y * g).sum(-1, keepdim=True) * noise).mean(0) / sigma

    return Through.apply(theta)


# %% wrong: perturbed-argmax | solves a second time in place of keeping the answers | killed by: one call
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    mean = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape).mean(0)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
    return mean + (lift - lift.detach())


# %% wrong: perturbed-argmax | Gumbel noise with the gradient of normal noise | killed by: law
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    noise = -torch.empty(samples, *theta.shape, dtype=theta.dtype).exponential_(generator=generator).log()


# %% wrong: perturbed-argmax | uniform noise | killed by: law
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    noise = 2 * torch.rand(samples, *theta.shape, dtype=theta.dtype, generator=generator) - 1


# %% wrong: perturbed-argmax | one number of noise for all scores of a problem | killed by: law
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    b, n = theta.shape
# +    noise = torch.randn(samples, b, 1, dtype=theta.dtype, generator=generator).expand(-1, -1, n)


# %% wrong: perturbed-argmax | sigma is not used for the noise | killed by: law
# edit of: samples and problems are not made rows
# -    y = solver(theta.detach() + sigma * noise)
# +    y = solver((theta.detach() + noise).flatten(0, 1)).reshape(noise.shape)


# %% wrong: perturbed-argmax | the gradient of one softmax sample | killed by: gradient
# edit of: straight-through, the gradient of the identity
# -    return y + (theta - theta.detach())
# +    soft = ((theta + sigma * noise) / sigma).softmax(-1).mean(0)
# +    return (y - soft).detach() + soft


# %% wrong: perturbed-argmax | ignores the generator | killed by: generator
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype)


# %% wrong: perturbed-argmax | seeds the global generator instead of using the one given | killed by: global generator
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    if generator is not None:
# +        torch.manual_seed(generator.initial_seed())
# +    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype)


# %% wrong: perturbed-argmax | solves in float32 whatever the scores are | killed by: dtype
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, generator=generator)
    y = solver((theta.detach().float() + sigma * noise).flatten(0, 1)).reshape(noise.shape).to(theta)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
    return y.mean(0) + (lift - lift.detach())


# %% wrong: perturbed-argmax | begins the generator anew in every call | killed by: the generator goes on
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    if generator is not None:
# +        generator = torch.Generator().manual_seed(generator.initial_seed())
# +    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)


# %% right: perturbed-argmax | a custom function that sums in float64
class Wider(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, answers, noise, sigma):
        ctx.kept = answers, noise, sigma
        return answers.double().mean(0).to(theta.dtype)

    @staticmethod
    def backward(ctx, g):
        answers, noise, sigma = ctx.kept
        weights = torch.einsum("mbn,bn->mb", answers.double(), g.double())[..., None]
        return ((weights * noise.double()).sum(0) / (sigma * len(noise))).to(g.dtype), None, None, None


def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    b, n = theta.shape
    with torch.no_grad():
        noise = torch.empty(samples, b, n, dtype=theta.dtype).normal_(0, 1, generator=generator)
        answers = solver((noise * sigma + theta).reshape(-1, n)).reshape(samples, b, n)
    return Wider.apply(theta, answers, noise, sigma)


# %% wrong: perturbed-argmax | every second sample is the last one with its sign turned | killed by: independent samples
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    half = torch.randn(-(-samples // 2), *theta.shape, dtype=theta.dtype, generator=generator)
# +    noise = torch.stack([half, -half], 1).flatten(0, 1)[:samples]


# %% wrong: perturbed-argmax | the second half of the samples is the first with its sign turned | killed by: independent samples
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    half = torch.randn(-(-samples // 2), *theta.shape, dtype=theta.dtype, generator=generator)
# +    noise = torch.cat([half, -half])[:samples]


# %% wrong: perturbed-argmax | the problems share their noise, up to its sign | killed by: independent problems
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    sign = 1.0 - 2.0 * (torch.arange(len(theta)) % 2)[:, None]
# +    scale = sign * (1 + 1e-5 * torch.arange(len(theta)))[:, None]
# +    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator) * scale.to(theta)


# %% wrong: perturbed-argmax | seeds itself where no generator is given | killed by: new draws in each call
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    generator = generator or torch.Generator().manual_seed(0)
# +    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)


# %% wrong: perturbed-argmax | seeds torch where no generator is given | killed by: new draws in each call
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    if generator is None:
# +        torch.manual_seed(0)
# +    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)


# %% wrong: perturbed-argmax | noise from Python's random where no generator is given | killed by: torch's generator
# edit of: one row of noise for the whole batch
# -    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
# +    import random
# +
# +    if generator is None:
# +        generator = torch.Generator().manual_seed(random.getrandbits(40))
# +    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)


# %% wrong: perturbed-argmax | what the gradient needs is kept outside, by shape | killed by: gradient
KEPT = {}


class KeptOutside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, solver, samples, sigma, generator):
        noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
        vertices = solver((theta + sigma * noise).flatten(0, 1)).view_as(noise)
        KEPT[theta.shape] = noise, vertices, sigma
        return vertices.mean(0)

    @staticmethod
    def backward(ctx, g):
        noise, vertices, sigma = KEPT[g.shape]
        along = torch.einsum("mbn,bn->mb", vertices, g)
        return torch.einsum("mb,mbn->bn", along, noise) / (sigma * len(noise)), None, None, None, None


def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    return KeptOutside.apply(theta, solver, samples, sigma, generator)


# %% wrong: perturbed-argmax | noise of sigma squared | killed by: law
def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    sigma = sigma**2
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
    return y.mean(0) + (lift - lift.detach())


# %% wrong: perturbed-argmax | the root of sigma | killed by: law
# edit of: noise of sigma squared
# -    sigma = sigma**2
# +    sigma = sigma**0.5


# %% wrong: perturbed-argmax | a mean that only looks as if it had a gradient | killed by: gradient
# edit of: sigma is forgotten in the gradient
# -    return y.mean(0) + (lift - lift.detach())
# +    return (y.mean(0) + (lift - lift.detach())).detach().requires_grad_(theta.requires_grad)


# %% wrong: perturbed-argmax | gradients stay switched off | killed by: torch as it was
# edit of: noise of sigma squared
# -    sigma = sigma**2
# -    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# -    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
# -    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
# -    return y.mean(0) + (lift - lift.detach())
# +    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# +    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
# +    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
# +    found = y.mean(0) + (lift - lift.detach())
# +    torch.set_grad_enabled(False)
# +    return found


# %% wrong: perturbed-argmax | dynlib's own | killed by: by hand
from dynlib.choice import perturbed_argmax as of_dynlib


def perturbed_argmax(solver, theta, *, samples=100, sigma=1.0, generator=None):
    return of_dynlib(solver, theta, samples=samples, sigma=sigma, generator=generator, check=False)


# %% right: fenchel-young | value without a graph, gradient from the difference of the solutions
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    with torch.no_grad():
        scores = theta.repeat(samples, 1)
        scores += sigma * torch.randn(scores.shape, dtype=theta.dtype, generator=generator)
        y = solver(scores)
        best = (y * scores).sum(-1).view(samples, -1).mean(0)
        mean = y.view(samples, *theta.shape).mean(0)
        value = best - (theta * target).sum(-1)
    return value + ((mean - target) * (theta - theta.detach())).sum(-1)


# %% right: fenchel-young | by an autograd function, the noise added in its own term
class FenchelYoung(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, target, solver, samples, sigma, generator):
        noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
        y = solver((theta + sigma * noise).flatten(0, 1)).view_as(noise)
        gap = y.mean(0) - target
        ctx.save_for_backward(gap)
        return (gap * theta).sum(-1) + sigma * (y * noise).sum((0, 2)) / samples

    @staticmethod
    def backward(ctx, g):
        (gap,) = ctx.saved_tensors
        return g[:, None] * gap, None, None, None, None, None


def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    return FenchelYoung.apply(theta, target, solver, samples, sigma, generator)


# %% wrong: fenchel-young | the sign | killed by: value
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    scores = theta + sigma * noise
    y = solver(scores.detach().flatten(0, 1)).reshape(noise.shape)
    return (theta * target).sum(-1) - (y * scores).sum(-1).mean(0)


# %% wrong: fenchel-young | the squared distance as value, with the right gradient | killed by: value
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape).mean(0)
    passing = ((y - target) * theta).sum(-1)
    return ((y - target) ** 2).sum(-1) + (passing - passing.detach())


# %% wrong: fenchel-young | half the squared distance to the perturbed argmax | killed by: value
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    y = perturbed_argmax(solver, theta, samples=samples, sigma=sigma, generator=generator)
    return ((y - target) ** 2).sum(-1) / 2


# %% wrong: fenchel-young | the perceptron, without any noise | killed by: rows
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    y = solver(theta.detach())
    return ((y - target) * theta).sum(-1)


# %% wrong: fenchel-young | the unperturbed maximum, with the gradient of the perturbed one | killed by: value
# edit of: the squared distance as value, with the right gradient
# -    return ((y - target) ** 2).sum(-1) + (passing - passing.detach())
# +    return theta.detach().amax(-1) - (theta.detach() * target).sum(-1) + (passing - passing.detach())


# %% wrong: fenchel-young | the noise is missing in the maximum | killed by: value
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape).mean(0)
    return ((y - target) * theta).sum(-1)


# %% wrong: fenchel-young | sigma is missing in the maximum | killed by: value
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver((theta.detach() + sigma * noise).flatten(0, 1)).reshape(noise.shape)
    return (y * (theta + noise)).sum(-1).mean(0) - (theta * target).sum(-1)


# %% wrong: fenchel-young | the example is scored with noise too | killed by: value
# edit of: the sign
# -    return (theta * target).sum(-1) - (y * scores).sum(-1).mean(0)
# +    return ((y - target) * scores).sum(-1).mean(0)


# %% wrong: fenchel-young | the mean over the batch | killed by: shape
# edit of: the sign
# -    return (theta * target).sum(-1) - (y * scores).sum(-1).mean(0)
# +    return ((y * scores).sum(-1).mean(0) - (theta * target).sum(-1)).mean()


# %% wrong: fenchel-young | the gradient goes through the perturbed argmax | killed by: gradient
# edit of: sigma is missing in the maximum
# -    return (y * (theta + noise)).sum(-1).mean(0) - (theta * target).sum(-1)
# +    lift = (y * (noise * theta).sum(-1, keepdim=True)).mean(0) / sigma
# +    mean = y.mean(0) + (lift - lift.detach())
# +    return ((mean - target) * theta).sum(-1) + sigma * (y * noise).sum(-1).mean(0)


# %% wrong: fenchel-young | the maximum is detached | killed by: gradient
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    scores = theta.detach() + sigma * noise
    y = solver(scores.flatten(0, 1)).reshape(noise.shape)
    return (y * scores).sum(-1).mean(0) - (theta * target).sum(-1)


# %% wrong: fenchel-young | the right value with the gradient of a perceptron | killed by: one call
# edit of: the maximum is detached
# -    return (y * scores).sum(-1).mean(0) - (theta * target).sum(-1)
# +    passing = ((solver(theta.detach()) - target) * theta).sum(-1)
# +    return (y * scores).sum(-1).mean(0) - (theta.detach() * target).sum(-1) + (passing - passing.detach())


# %% wrong: fenchel-young | the largest score for the maximum, whatever the solver | killed by: another solver
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    scores = theta + sigma * noise
    solver(scores.detach().flatten(0, 1))
    return scores.amax(-1).mean(0) - (theta * target).sum(-1)


# %% wrong: fenchel-young | the largest number of the target for its score, wrong for a mixed one | killed by: another solver
# edit of: the sign
# -    return (theta * target).sum(-1) - (y * scores).sum(-1).mean(0)
# +    return (y * scores).sum(-1).mean(0) - theta.gather(-1, target.argmax(-1, keepdim=True))[:, 0]


# %% wrong: fenchel-young | one row of noise for the whole batch | killed by: noise of its own
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    noise = torch.randn(samples, 1, theta.shape[1], dtype=theta.dtype, generator=generator).expand(-1, *theta.shape)
    scores = theta + sigma * noise
    y = solver(scores.detach().flatten(0, 1)).reshape(scores.shape)
    return (y * scores).sum(-1).mean(0) - (theta * target).sum(-1)


# %% wrong: fenchel-young | the solver is called with a graph | killed by: no graph for the solver
# edit of: the maximum is detached
# -    scores = theta.detach() + sigma * noise
# +    scores = theta + sigma * noise


# %% wrong: fenchel-young | ignores the generator | killed by: generator
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    scores = theta + sigma * torch.randn(samples, *theta.shape, dtype=theta.dtype)
    y = solver(scores.detach().flatten(0, 1)).reshape(scores.shape)
    return (y * scores).sum(-1).mean(0) - (theta * target).sum(-1)


# %% wrong: fenchel-young | uniform noise | killed by: mean of the maxima
# edit of: ignores the generator
# -    scores = theta + sigma * torch.randn(samples, *theta.shape, dtype=theta.dtype)
# +    uniform = torch.rand(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# +    scores = theta + sigma * (2 * uniform - 1)


# %% right: fenchel-young | the gap times the scores, plus the gain by noise
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    b, n = theta.shape
    noise = torch.empty(samples, b, n, dtype=theta.dtype).normal_(generator=generator)
    with torch.no_grad():
        y = solver((theta + sigma * noise).reshape(samples * b, n)).reshape(samples, b, n)
        gain = sigma * torch.einsum("mbn,mbn->b", y, noise) / samples
        gap = y.sum(0) / samples - target
    return torch.einsum("bn,bn->b", gap, theta) + gain


# %% wrong: fenchel-young | sigma is forgotten throughout | killed by: mean of the maxima
def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    scores = theta + torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
    y = solver(scores.detach().flatten(0, 1)).reshape(scores.shape)
    return (y * scores).sum(-1).mean(0) - (theta * target).sum(-1)


# %% wrong: fenchel-young | sigma is squared throughout | killed by: mean of the maxima
# edit of: sigma is forgotten throughout
# -    scores = theta + torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# +    scores = theta + sigma**2 * torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)


# %% wrong: fenchel-young | divides by sigma throughout | killed by: mean of the maxima
# edit of: sigma is forgotten throughout
# -    scores = theta + torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# +    scores = theta + torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator) / sigma


# %% wrong: fenchel-young | the root of sigma throughout | killed by: mean of the maxima
# edit of: sigma is forgotten throughout
# -    scores = theta + torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# +    scores = theta + math.sqrt(sigma) * torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)


# %% wrong: fenchel-young | seeds itself where no generator is given | killed by: new draws in each call
# edit of: sigma is forgotten throughout
# -    scores = theta + torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# +    generator = generator or torch.Generator().manual_seed(0)
# +    scores = theta + sigma * torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)


# %% wrong: fenchel-young | every second sample is the last one with its sign turned | killed by: independent samples
# edit of: sigma is forgotten throughout
# -    scores = theta + torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
# +    half = torch.randn(-(-samples // 2), *theta.shape, dtype=theta.dtype, generator=generator)
# +    scores = theta + sigma * torch.stack([half, -half], 1).flatten(0, 1)[:samples]


# %% wrong: fenchel-young | the difference of the solutions is kept outside, by shape | killed by: gradient
KEPT = {}


class GapKeptOutside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, theta, target, solver, samples, sigma, generator):
        noise = torch.randn(samples, *theta.shape, dtype=theta.dtype, generator=generator)
        y = solver((theta + sigma * noise).flatten(0, 1)).view_as(noise)
        gap = KEPT[theta.shape] = y.mean(0) - target
        return (gap * theta).sum(-1) + sigma * (y * noise).sum((0, 2)) / samples

    @staticmethod
    def backward(ctx, g):
        (gap,) = (kept for shape, kept in KEPT.items() if shape[0] == len(g) and shape == kept.shape)
        return g[:, None] * gap, None, None, None, None, None


def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    return GapKeptOutside.apply(theta, target, solver, samples, sigma, generator)


# %% wrong: fenchel-young | dynlib's own | killed by: by hand
from dynlib import choice


def fenchel_young_loss(solver, theta, target, *, samples=100, sigma=1.0, generator=None):
    return choice.fenchel_young_loss(
        solver, theta, target, samples=samples, sigma=sigma, generator=generator, check=False
    )


# %% right: predict-samples | the variance by its parts
def predict():
    return {
        "distance as sigma halves": "falls",
        "samples for Fenchel-Young": 1.0,
        "samples for perturbed argmax": 2**2,
        "heaviest with Gumbel noise": 0.771,
        "heaviest in the k-subset law": 30 / 41,
    }


def needed_samples(gradients, error):
    variance = float(gradients.double().var(0, correction=0).sum())
    return max(math.ceil(variance / error / error), 1)


# %% right: predict-samples | the mean of the squares minus the square of the mean, counted up to
def predict():
    first = 5 / 11
    return dict(
        [
            ("heaviest in the k-subset law", 0.732),
            ("heaviest with Gumbel noise", first + 1 / 11 * 5 / 10 + 2 / 11 * 5 / 9 + 3 / 11 * 5 / 8),
            ("samples for perturbed argmax", 4.0),
            ("samples for Fenchel-Young", 1),
            ("distance as sigma halves", "falls"),
        ]
    )


def needed_samples(gradients, error):
    rows = gradients.double()
    variance = (rows.square().mean(0) - rows.mean(0).square()).sum().item()
    count = 1
    while variance / count > error**2:
        count += 1
    return count


# %% right: predict-samples | numbers of three digits
def predict():
    return {
        "heaviest in the k-subset law": 0.732,
        "heaviest with Gumbel noise": 0.771,
        "samples for perturbed argmax": 4,
        "samples for Fenchel-Young": 1,
        "distance as sigma halves": "falls",
    }


def needed_samples(gradients, error):
    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean().item()
    return max(1, math.ceil(variance / error**2))


# %% wrong: predict-samples | the two laws taken for one | killed by: heaviest in the k-subset law
# edit of: numbers of three digits
# -        "heaviest in the k-subset law": 0.732,
# +        "heaviest in the k-subset law": 0.771,


# %% wrong: predict-samples | Gumbel noise thought to draw from the k-subset law | killed by: heaviest with Gumbel noise
# edit of: numbers of three digits
# -        "heaviest with Gumbel noise": 0.771,
# +        "heaviest with Gumbel noise": 0.732,


# %% wrong: predict-samples | drawing with replacement | killed by: heaviest with Gumbel noise
# edit of: numbers of three digits
# -        "heaviest with Gumbel noise": 0.771,
# +        "heaviest with Gumbel noise": 1 - (6 / 11) ** 2,


# %% wrong: predict-samples | the factor of the gradient taken for that of its variance | killed by: samples for perturbed argmax
# edit of: numbers of three digits
# -        "samples for perturbed argmax": 4,
# +        "samples for perturbed argmax": 2,


# %% wrong: predict-samples | less noise thought to mean less scatter | killed by: samples for perturbed argmax
# edit of: numbers of three digits
# -        "samples for perturbed argmax": 4,
# +        "samples for perturbed argmax": 1 / 4,


# %% wrong: predict-samples | the loss thought to pay the same price | killed by: samples for Fenchel-Young
# edit of: numbers of three digits
# -        "samples for Fenchel-Young": 1,
# +        "samples for Fenchel-Young": 4,


# %% wrong: predict-samples | the distance thought to rise as the noise falls | killed by: distance as sigma halves
# edit of: numbers of three digits
# -        "distance as sigma halves": "falls",
# +        "distance as sigma halves": "rises",


# %% wrong: predict-samples | a name of the dict is misspelt | killed by: the names
# edit of: numbers of three digits
# -        "heaviest with Gumbel noise": 0.771,
# +        "heaviest with gumbel noise": 0.771,


# %% wrong: predict-samples | a word where a number is asked for | killed by: a number
# edit of: numbers of three digits
# -        "samples for perturbed argmax": 4,
# +        "samples for perturbed argmax": "four times",


# %% wrong: predict-samples | a number where a word is asked for | killed by: a word
# edit of: numbers of three digits
# -        "distance as sigma halves": "falls",
# +        "distance as sigma halves": 0.5,


# %% wrong: predict-samples | nothing is returned | killed by: a dict
def predict():
    print(0.732, 0.771, 4, 1, "falls")


def needed_samples(gradients, error):
    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean().item()
    return max(1, math.ceil(variance / error**2))


# %% wrong: predict-samples | the variance over the error, not over its square | killed by: needed samples
# edit of: numbers of three digits
# -    return max(1, math.ceil(variance / error**2))
# +    return max(1, math.ceil(variance / error))


# %% wrong: predict-samples | rounds down | killed by: needed samples
# edit of: numbers of three digits
# -    return max(1, math.ceil(variance / error**2))
# +    return max(1, int(variance / error**2))


# %% wrong: predict-samples | divides by r - 1 | killed by: needed samples
# edit of: numbers of three digits
# -    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean().item()
# -    return max(1, math.ceil(variance / error**2))
# +    return max(1, math.ceil(gradients.var(0).sum().item() / error**2))


# %% wrong: predict-samples | the mean over the parts as well | killed by: needed samples
# edit of: numbers of three digits
# -    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean().item()
# -    return max(1, math.ceil(variance / error**2))
# +    return max(1, math.ceil(((gradients - gradients.mean(0)) ** 2).mean().item() / error**2))


# %% wrong: predict-samples | a tensor, not a number | killed by: a whole number
# edit of: numbers of three digits
# -    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean().item()
# -    return max(1, math.ceil(variance / error**2))
# +    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean()
# +    return torch.ceil(variance / error**2).clamp_min(1)


# %% wrong: predict-samples | zero samples where nothing scatters | killed by: one is enough
# edit of: numbers of three digits
# -    return max(1, math.ceil(variance / error**2))
# +    return math.ceil(variance / error**2)


# %% wrong: predict-samples | one more than the whole part | killed by: needed samples
# edit of: numbers of three digits
# -    return max(1, math.ceil(variance / error**2))
# +    return int(variance / error**2) + 1


# %% wrong: predict-samples | writes into the gradients | killed by: input untouched
# edit of: numbers of three digits
# -    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean().item()
# +    gradients -= gradients.mean(0)
# +    variance = (gradients**2).sum(-1).mean().item()


# %% wrong: predict-samples | the variance by NumPy | killed by: by hand
# edit of: numbers of three digits
# -    variance = ((gradients - gradients.mean(0)) ** 2).sum(-1).mean().item()
# +    import numpy as np
# +
# +    variance = float(np.var(gradients.numpy(), axis=0).sum())


# %% right: sparsemax | divided by its sum, which is 1 and stays 1
# edit of: the teacher's
# -    return (z - tau).clamp_min(0)
# +    weights = (z - tau).clamp_min(0)
# +    return weights / weights.sum(dim, keepdim=True)


# %% wrong: sparsemax | the mean of the row is taken off, which -inf makes -inf | killed by: runs
# edit of: the teacher's
# -    z = logits - logits.amax(dim, keepdim=True)
# +    z = logits - logits.mean(dim, keepdim=True)


# %% right: leave-one-out | the sum by way of the mean
# edit of: the teacher's
# -    return (rewards.sum(0) - rewards) / (m - 1)
# +    return (rewards.mean(0) * m - rewards) / (m - 1)


# %% right: perturbed-argmax | noise of float32 for scores of float64
# edit of: the teacher's
# -    noise = torch.randn(samples, b, n, dtype=theta.dtype, device=theta.device, generator=generator)
# +    noise = torch.randn(samples, b, n, device=theta.device, generator=generator).to(theta.dtype)


# %% wrong: perturbed-argmax | what carries the gradient stays in the value | killed by: value
# edit of: the teacher's
# -    return vertices.mean(0) + (lift - lift.detach())
# +    return vertices.mean(0) + lift


# %% wrong: perturbed-argmax | other noise for the gradient than for the answers | killed by: gradient
# edit of: the teacher's
# -    along = (noise * theta).sum(-1, keepdim=True)
# +    along = (torch.randn(noise.shape, dtype=noise.dtype, generator=generator) * theta).sum(-1, keepdim=True)
