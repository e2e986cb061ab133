# %% right: block-flops | product by product, head by head
def block_flops(*, batch, tokens, dim, heads, hidden):
    def product(rows, inner, columns):
        return sum(2 * inner for _ in range(rows * columns))

    total = 4 * product(tokens, dim, dim)
    for _ in range(heads):
        total += product(tokens, dim // heads, tokens) + product(tokens, tokens, dim // heads)
    total += product(tokens, dim, hidden) + product(tokens, hidden, dim)
    return batch * total


# %% right: block-flops | per token, factored
def block_flops(*, batch, tokens, dim, heads, hidden):
    return 4 * batch * tokens * dim * (2 * dim + tokens + hidden)


# %% wrong: block-flops | a multiply-add counted once | killed by: feed-forward
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (tokens * 4 * dim * dim + 2 * tokens * tokens * dim + 2 * tokens * dim * hidden)


# %% wrong: block-flops | hidden taken as four times dim | killed by: feed-forward
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (8 * tokens * dim * dim + 4 * tokens * tokens * dim + 4 * tokens * dim * 4 * dim)


# %% wrong: block-flops | hidden taken as dim | killed by: feed-forward
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (8 * tokens * dim * dim + 4 * tokens * tokens * dim + 4 * tokens * dim * dim)


# %% wrong: block-flops | attention's own products forgotten | killed by: attention
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * tokens * (8 * dim * dim + 4 * dim * hidden)


# %% wrong: block-flops | only queries with keys, not weights with values | killed by: attention
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (8 * tokens * dim * dim + 2 * tokens * tokens * dim + 4 * tokens * dim * hidden)


# %% wrong: block-flops | every head pays for the whole dim | killed by: attention
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (8 * tokens * dim * dim + heads * 4 * tokens * tokens * dim + 4 * tokens * dim * hidden)


# %% wrong: block-flops | the causal half counted, though the block is not causal | killed by: attention
def block_flops(*, batch, tokens, dim, heads, hidden):
    pairs = tokens * (tokens + 1) // 2
    return batch * (8 * tokens * dim * dim + 4 * pairs * dim + 4 * tokens * dim * hidden)


# %% wrong: block-flops | queries, keys and values counted as one projection | killed by: projections
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (4 * tokens * dim * dim + 4 * tokens * tokens * dim + 4 * tokens * dim * hidden)


# %% wrong: block-flops | the output projection forgotten | killed by: projections
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (6 * tokens * dim * dim + 4 * tokens * tokens * dim + 4 * tokens * dim * hidden)


# %% wrong: block-flops | the batch forgotten | killed by: batch
def block_flops(*, batch, tokens, dim, heads, hidden):
    return 8 * tokens * dim * dim + 4 * tokens * tokens * dim + 4 * tokens * dim * hidden


# %% wrong: block-flops | the batch taken as one long sequence | killed by: batch
def block_flops(*, batch, tokens, dim, heads, hidden):
    tokens = batch * tokens
    return 8 * tokens * dim * dim + 4 * tokens * tokens * dim + 4 * tokens * dim * hidden


# %% wrong: block-flops | two heads whatever the block has | killed by: heads
def block_flops(*, batch, tokens, dim, heads, hidden):
    return batch * (8 * tokens * dim * dim + heads * 2 * tokens * tokens * dim + 4 * tokens * dim * hidden)


# %% wrong: block-flops | a float, by a division with / | killed by: an int
def block_flops(*, batch, tokens, dim, heads, hidden):
    attention = heads * 4 * tokens * tokens * (dim / heads)
    return batch * (8 * tokens * dim * dim + attention + 4 * tokens * dim * hidden)


# %% right: linear-bytes | by asking a layer for its tensors
from torch import nn


def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    with torch.device("meta"):
        layer = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
        x = torch.empty(rows, inputs, dtype=dtype)
        return sum(tensor.nbytes for tensor in (x, layer(x), *layer.parameters()))


# %% right: linear-bytes | the bias as one more input
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    size = torch.empty((), dtype=dtype).element_size()
    return size * ((inputs + bias) * outputs + rows * inputs + rows * outputs)


# %% wrong: linear-bytes | numbers instead of bytes | killed by: activations
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return inputs * outputs + (outputs if bias else 0) + rows * (inputs + outputs)


# %% wrong: linear-bytes | the output is not written | killed by: activations
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return (inputs * outputs + (outputs if bias else 0) + rows * inputs) * dtype.itemsize


# %% wrong: linear-bytes | the weight is read for every row | killed by: activations
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return rows * (inputs * outputs + (outputs if bias else 0) + inputs + outputs) * dtype.itemsize


# %% wrong: linear-bytes | the activations alone | killed by: weights
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return rows * (inputs + outputs) * dtype.itemsize


# %% wrong: linear-bytes | the weight counted for its reading and its writing | killed by: weights
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return (2 * inputs * outputs + (outputs if bias else 0) + rows * (inputs + outputs)) * dtype.itemsize


# %% wrong: linear-bytes | the bias forgotten | killed by: bias
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return (inputs * outputs + rows * (inputs + outputs)) * dtype.itemsize


# %% wrong: linear-bytes | the bias read once a row | killed by: bias
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return (inputs * outputs + (rows * outputs if bias else 0) + rows * (inputs + outputs)) * dtype.itemsize


# %% wrong: linear-bytes | a number always has four bytes | killed by: activations
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    return 4 * (inputs * outputs + (outputs if bias else 0) + rows * (inputs + outputs))


# %% wrong: linear-bytes | bits divided by 8, which gives a float | killed by: an int
def linear_bytes(rows, inputs, outputs, dtype, *, bias=True):
    bits = 8 * dtype.itemsize
    return (inputs * outputs + (outputs if bias else 0) + rows * (inputs + outputs)) * bits / 8


# %% right: roofline | by the attainable rate
def roofline(flops, moved, *, peak, bandwidth):
    if flops == 0:
        return moved / bandwidth, "memory"
    intensity = flops / moved
    attainable = min(peak, intensity * bandwidth)
    return flops / attainable, "memory" if intensity < peak / bandwidth else "compute"


# %% right: roofline | by sorting
def roofline(flops, moved, *, peak, bandwidth):
    return sorted([(moved / bandwidth, "memory"), (flops / peak, "compute")], key=lambda pair: pair[0])[-1]


# %% wrong: roofline | one after the other: the sum | killed by: much arithmetic
def roofline(flops, moved, *, peak, bandwidth):
    a, b = flops / peak, moved / bandwidth
    return a + b, "compute" if a >= b else "memory"


# %% wrong: roofline | done when the first is done: the minimum | killed by: much arithmetic
def roofline(flops, moved, *, peak, bandwidth):
    a, b = flops / peak, moved / bandwidth
    return min(a, b), "compute" if a >= b else "memory"


# %% wrong: roofline | rates over work | killed by: much arithmetic
def roofline(flops, moved, *, peak, bandwidth):
    a, b = peak / flops, bandwidth / moved
    return max(a, b), "compute" if a >= b else "memory"


# %% wrong: roofline | arithmetic alone | killed by: little arithmetic
def roofline(flops, moved, *, peak, bandwidth):
    return flops / peak, "compute"


# %% wrong: roofline | the intensity upside down | killed by: bound
def roofline(flops, moved, *, peak, bandwidth):
    bound = "compute" if moved / flops >= peak / bandwidth else "memory"
    return max(flops / peak, moved / bandwidth), bound


# %% wrong: roofline | the bound that does not hold back | killed by: bound
def roofline(flops, moved, *, peak, bandwidth):
    a, b = flops / peak, moved / bandwidth
    return max(a, b), "memory" if a >= b else "compute"


# %% wrong: roofline | a division by the FLOPs, of which a copy has none | killed by: runs
def roofline(flops, moved, *, peak, bandwidth):
    bound = "compute" if moved / flops <= bandwidth / peak else "memory"
    return max(flops / peak, moved / bandwidth), bound


# %% wrong: roofline | equal times called memory-bound | killed by: ridge
def roofline(flops, moved, *, peak, bandwidth):
    a, b = flops / peak, moved / bandwidth
    return max(a, b), "compute" if a > b else "memory"


# %% right: decode-flops | closed sums
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    def squares(n):
        return n * (n + 1) * (2 * n + 1) // 6

    if new == 0:
        return 0
    last = prompt + new - 1
    lengths = (prompt + last) * new // 2
    if not cache:
        return lengths * per_token + (squares(last) - squares(prompt - 1)) * per_pair
    return last * per_token + (prompt * prompt + lengths - prompt) * per_pair


# %% right: decode-flops | a list of passes, then two sums
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    past, unread, passes = 0, prompt, []
    while len(passes) < new:
        passes.append((unread, past + unread))
        past, unread = (past + unread, 1) if cache else (0, unread + 1)
    return per_token * sum(read for read, _ in passes) + per_pair * sum(read * met for read, met in passes)


# %% wrong: decode-flops | one pass too many: the prompt, then one per new token | killed by: first pass
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    flops = prompt * per_token + prompt * prompt * per_pair if cache else 0
    for step in range(1, new + 1):
        length = prompt + step
        reads = 1 if cache else length
        flops += reads * per_token + reads * length * per_pair
    return flops


# %% wrong: decode-flops | the prompt compared with its last token alone | killed by: first pass
# edit of: the teacher's
# -        flops += reads * per_token + reads * length * per_pair
# +        flops += reads * per_token + length * per_pair


# %% wrong: decode-flops | with the cache, the prompt is free | killed by: first pass
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    flops = 0
    for length in range(prompt, prompt + new):
        reads = 1 if cache else length
        flops += reads * (per_token + length * per_pair)
    return flops


# %% wrong: decode-flops | the causal half of the prompt | killed by: first pass
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    flops = 0
    for step in range(new):
        length = prompt + step
        if cache and step:
            flops += per_token + length * per_pair
        else:
            flops += length * per_token + length * (length + 1) // 2 * per_pair
    return flops


# %% wrong: decode-flops | the cache does not matter | killed by: tokens with cache
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    return sum(n * per_token + n * n * per_pair for n in range(prompt, prompt + new))


# %% wrong: decode-flops | the last new token is read too | killed by: tokens with cache
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    if not cache:
        return sum(n * per_token + n * n * per_pair for n in range(prompt, prompt + new))
    flops = prompt * per_token + prompt * prompt * per_pair
    for step in range(1, new + (new > 1)):
        flops += per_token + (prompt + step) * per_pair
    return flops


# %% wrong: decode-flops | the cache stays as long as the prompt | killed by: pairs with cache
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    if not cache:
        return sum(n * per_token + n * n * per_pair for n in range(prompt, prompt + new))
    return prompt * per_token + prompt * prompt * per_pair + (new - 1) * (per_token + prompt * per_pair)


# %% wrong: decode-flops | a new token is not compared with itself | killed by: pairs with cache
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    if not cache:
        return sum(n * per_token + n * n * per_pair for n in range(prompt, prompt + new))
    first = prompt * per_token + prompt * prompt * per_pair
    return first + sum(per_token + (prompt + step - 1) * per_pair for step in range(1, new))


# %% wrong: decode-flops | without the cache, only the new token is read | killed by: tokens no cache
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    flops = prompt * per_token + prompt * prompt * per_pair
    for step in range(1, new):
        length = prompt + step
        flops += per_token + (1 if cache else length) * length * per_pair
    return flops


# %% wrong: decode-flops | without the cache, the prompt is read again and again, the new tokens are not | killed by: tokens no cache
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    if not cache:
        return new * (prompt * per_token + prompt * prompt * per_pair)
    first = prompt * per_token + prompt * prompt * per_pair
    return first + sum(per_token + (prompt + step) * per_pair for step in range(1, new))


# %% wrong: decode-flops | without the cache, only the last token attends | killed by: pairs no cache
# edit of: without the cache, only the new token is read
# -        flops += per_token + (1 if cache else length) * length * per_pair
# +        flops += (1 if cache else length) * per_token + length * per_pair


# %% wrong: decode-flops | a prompt is paid for even if nothing is generated | killed by: nothing new
# edit of: without the cache, only the new token is read
# -        flops += per_token + (1 if cache else length) * length * per_pair
# +        reads = 1 if cache else length
# +        flops += reads * per_token + reads * length * per_pair


# %% wrong: decode-flops | the mean length of a pass, which is a float | killed by: an int
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    lengths = range(prompt, prompt + new)
    if not cache:
        return sum(lengths) / new * new * per_token + sum(n * n for n in lengths) * per_pair
    return (prompt + new - 1) * per_token + (prompt * prompt + sum(lengths) - prompt) * per_pair


# %% right: predict-tokens | lists for bands, the pair of counts in one line
def predicted():
    return {"without cache": [3.3, 4.0], "with cache": [1.85, 2.05]}


def doubling(model, prompt, new, *, cache):
    once, twice = (count(model.generate, prompt, n, use_cache=cache).flops for n in (new, 2 * new))
    return twice / once


# %% right: predict-tokens | the second half counted for itself
def predicted():
    return {"with cache": (1.75, 2.1), "without cache": (3.2, 4.1)}


def doubling(model, prompt, new, *, cache):
    def passes(n):
        past, sequence, total = model.new_cache() if cache else None, prompt, 0
        for step in range(n):
            total += count(lambda: model(sequence[:, -1:] if cache and step else sequence, cache=past)).flops
            sequence = torch.cat([sequence, sequence[:, -1:]], dim=1)
        return total

    return torch.tensor(passes(2 * new) / passes(new))


# %% right: predict-tokens | two counts, divided
def predicted():
    return {"with cache": (1.8, 2.2), "without cache": (3.4, 4.2)}


def doubling(model, prompt, new, *, cache):
    once = count(model.generate, prompt, new, use_cache=cache)
    return count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops


# %% wrong: predict-tokens | the shorter run divided by the longer one | killed by: measured
# edit of: two counts, divided
# -    return count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops
# +    return once.flops / count(model.generate, prompt, 2 * new, use_cache=cache).flops


# %% wrong: predict-tokens | the cache is always on | killed by: measured
# edit of: two counts, divided
# -    once = count(model.generate, prompt, new, use_cache=cache)
# -    return count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops
# +    return count(model.generate, prompt, 2 * new).flops / count(model.generate, prompt, new).flops


# %% wrong: predict-tokens | one pass over the longer sequence, not a generation | killed by: measured
# edit of: two counts, divided
# -    once = count(model.generate, prompt, new, use_cache=cache)
# -    return count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops
# +    short = torch.cat([prompt, prompt[:, :1].repeat(1, new)], dim=1)
# +    long = torch.cat([prompt, prompt[:, :1].repeat(1, 2 * new)], dim=1)
# +    return count(model, long).flops / count(model, short).flops


# %% wrong: predict-tokens | bytes instead of FLOPs | killed by: measured
# edit of: two counts, divided
# -    return count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops
# +    return count(model.generate, prompt, 2 * new, use_cache=cache).bytes / once.bytes


# %% wrong: predict-tokens | the cost of one token more, not of all | killed by: measured
# edit of: two counts, divided
# -    once = count(model.generate, prompt, new, use_cache=cache)
# -    return count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops
# +    def cost(n):
# +        return count(model.generate, prompt, n, use_cache=cache).flops
# +
# +    return (cost(2 * new) - cost(2 * new - 1)) / max(1, cost(new) - cost(new - 1))


# %% wrong: predict-tokens | bands so wide that they say nothing | killed by: a band that says something
# edit of: two counts, divided
# -    return {"with cache": (1.8, 2.2), "without cache": (3.4, 4.2)}
# +    return {"with cache": (1.0, 5.0), "without cache": (1.0, 5.0)}


# %% wrong: predict-tokens | attention is quadratic, so the cost with the cache is | killed by: predicted with cache
# edit of: two counts, divided
# -    return {"with cache": (1.8, 2.2), "without cache": (3.4, 4.2)}
# +    return {"with cache": (3.4, 4.2), "without cache": (3.4, 4.2)}


# %% wrong: predict-tokens | twice the tokens cost twice, cache or not | killed by: predicted without cache
# edit of: two counts, divided
# -    return {"with cache": (1.8, 2.2), "without cache": (3.4, 4.2)}
# +    return {"with cache": (1.8, 2.2), "without cache": (1.8, 2.2)}


# %% wrong: predict-tokens | without the cache, the cost grows with the cube | killed by: predicted without cache
# edit of: two counts, divided
# -    return {"with cache": (1.8, 2.2), "without cache": (3.4, 4.2)}
# +    return {"with cache": (1.8, 2.2), "without cache": (7.0, 9.0)}


# %% wrong: predict-tokens | the prompt cut to its first token | killed by: measured
# edit of: two counts, divided
#  def doubling(model, prompt, new, *, cache):
# +    prompt = prompt[:1, :1]


# %% right: median-ratio | by sorting
def median_ratio(first, second):
    ratios = sorted((first / second).tolist())
    middle = len(ratios) // 2
    return ratios[middle] if len(ratios) % 2 else (ratios[middle - 1] + ratios[middle]) / 2


# %% right: median-ratio | with the standard library
def median_ratio(first, second):
    from statistics import median

    return median(a / b for a, b in zip(first.tolist(), second.tolist()))


# %% wrong: median-ratio | ratio of the means | killed by: a disturbed round
def median_ratio(first, second):
    return (first.mean() / second.mean()).item()


# %% wrong: median-ratio | mean of the ratios | killed by: a disturbed round
def median_ratio(first, second):
    return (first / second).mean().item()


# %% wrong: median-ratio | ratio of the medians | killed by: a disturbed round
def median_ratio(first, second):
    return (first.median() / second.median()).item()


# %% wrong: median-ratio | best against best | killed by: a disturbed round
def median_ratio(first, second):
    return (first.min() / second.min()).item()


# %% wrong: median-ratio | each sorted for itself before pairing | killed by: a disturbed round
def median_ratio(first, second):
    return (first.sort().values / second.sort().values).quantile(0.5).item()


# %% wrong: median-ratio | second over first | killed by: drift
def median_ratio(first, second):
    return (second / first).quantile(0.5).item()


# %% wrong: median-ratio | the first round against the others | killed by: drift
def median_ratio(first, second):
    return (first / second[0]).quantile(0.5).item()


# %% wrong: median-ratio | the lower of the two in the middle | killed by: even
def median_ratio(first, second):
    return (first / second).median().item()
