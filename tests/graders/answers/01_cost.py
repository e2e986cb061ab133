# %% right: block-flops | product by product, head by head
def block_flops(*, batch, tokens, dim, heads, kv_heads, hidden, gated):
    def product(rows, inner, columns):
        return sum(2 * inner for _ in range(rows * columns))

    total = 2 * product(tokens, dim, dim) + 2 * kv_heads * product(tokens, dim, dim // heads)
    for _ in range(heads):
        total += product(tokens, dim // heads, tokens) + product(tokens, tokens, dim // heads)
    total += sum(product(tokens, dim, hidden) for _ in range(2 if gated else 1)) + product(tokens, hidden, dim)
    return batch * total


# %% right: block-flops | per token, factored
def block_flops(*, batch, tokens, dim, heads, kv_heads, hidden, gated):
    return 4 * batch * tokens * dim * (dim + dim * kv_heads // heads + tokens) + batch * tokens * dim * hidden * (
        4 + 2 * gated
    )


# %% right: block-flops | from the shapes of the factors
def block_flops(*, batch, tokens, dim, heads, kv_heads, hidden, gated):
    size = dim // heads
    shapes = [(tokens, dim, dim)] * 2 + [(tokens, dim, kv_heads * size)] * 2
    shapes += [(tokens, size, tokens), (tokens, tokens, size)] * heads
    shapes += [(tokens, dim, hidden)] * (2 if gated else 1) + [(tokens, hidden, dim)]
    return sum(2 * math.prod(shape) for shape in shapes) * batch


# %% wrong: block-flops | a multiply-add counted once | killed by: feed-forward
# edit of: the teacher's
# -    return batch * (projections + attention + feed_forward)
# +    return batch * (projections + attention + feed_forward) // 2


# %% wrong: block-flops | hidden taken as four times dim | killed by: feed-forward
# edit of: the teacher's
# -    feed_forward = (3 if gated else 2) * 2 * tokens * dim * hidden
# +    feed_forward = (3 if gated else 2) * 2 * tokens * dim * 4 * dim


# %% wrong: block-flops | the gate always there | killed by: feed-forward
# edit of: the teacher's
# -    feed_forward = (3 if gated else 2) * 2 * tokens * dim * hidden
# +    feed_forward = 3 * 2 * tokens * dim * hidden


# %% wrong: block-flops | the lecture's formula: no gate, all heads with keys | killed by: gated
# edit of: the teacher's
# -    keys = dim // heads * kv_heads  # features of the keys, and of the values
# +    keys = dim
# …
# -    feed_forward = (3 if gated else 2) * 2 * tokens * dim * hidden
# +    feed_forward = 4 * tokens * dim * hidden


# %% wrong: block-flops | the gate taken for one number a feature | killed by: gated
# edit of: the teacher's
# -    feed_forward = (3 if gated else 2) * 2 * tokens * dim * hidden
# +    feed_forward = 4 * tokens * dim * hidden + (tokens * hidden if gated else 0)


# %% wrong: block-flops | attention's own products forgotten | killed by: attention
# edit of: the teacher's
# -    return batch * (projections + attention + feed_forward)
# +    return batch * (projections + feed_forward)


# %% wrong: block-flops | only queries with keys, not weights with values | killed by: attention
# edit of: the teacher's
# -    attention = 2 * (2 * tokens * tokens * dim)  # q kᵀ, then weights · v; dim / heads features in each of the heads
# +    attention = 2 * tokens * tokens * dim


# %% wrong: block-flops | every head pays for the whole dim | killed by: attention
# edit of: the teacher's
# -    attention = 2 * (2 * tokens * tokens * dim)  # q kᵀ, then weights · v; dim / heads features in each of the heads
# +    attention = heads * 4 * tokens * tokens * dim


# %% wrong: block-flops | shared keys are compared once for all | killed by: attention
# edit of: the teacher's
# -    attention = 2 * (2 * tokens * tokens * dim)  # q kᵀ, then weights · v; dim / heads features in each of the heads
# +    attention = 4 * tokens * tokens * keys


# %% wrong: block-flops | the causal half counted, though the block is not causal | killed by: attention
# edit of: the teacher's
# -    attention = 2 * (2 * tokens * tokens * dim)  # q kᵀ, then weights · v; dim / heads features in each of the heads
# +    attention = 4 * (tokens * (tokens + 1) // 2) * dim


# %% wrong: block-flops | as many keys as queries | killed by: keys and values
# edit of: the teacher's
# -    keys = dim // heads * kv_heads  # features of the keys, and of the values
# +    keys = dim


# %% wrong: block-flops | keys counted, values forgotten | killed by: keys and values
# edit of: the teacher's
# -    projections = 2 * tokens * dim * (dim + 2 * keys) + 2 * tokens * dim * dim  # queries, keys and values; output
# +    projections = 2 * tokens * dim * (dim + keys) + 2 * tokens * dim * dim


# %% wrong: block-flops | one head's keys whatever kv_heads is | killed by: keys and values
# edit of: the teacher's
# -    keys = dim // heads * kv_heads  # features of the keys, and of the values
# +    keys = dim // heads


# %% wrong: block-flops | the output projection forgotten | killed by: projections
# edit of: the teacher's
# -    projections = 2 * tokens * dim * (dim + 2 * keys) + 2 * tokens * dim * dim  # queries, keys and values; output
# +    projections = 2 * tokens * dim * (dim + 2 * keys)


# %% wrong: block-flops | the output projection from the shared heads | killed by: keys and values
# edit of: the teacher's
# -    projections = 2 * tokens * dim * (dim + 2 * keys) + 2 * tokens * dim * dim  # queries, keys and values; output
# +    projections = 2 * tokens * dim * (dim + 2 * keys) + 2 * tokens * keys * dim


# %% wrong: block-flops | the batch forgotten | killed by: batch
# edit of: the teacher's
# -    return batch * (projections + attention + feed_forward)
# +    return projections + attention + feed_forward


# %% wrong: block-flops | the batch taken as one long sequence | killed by: batch
# edit of: the teacher's
# -    keys = dim // heads * kv_heads  # features of the keys, and of the values
# +    keys = dim // heads * kv_heads  # features of the keys, and of the values
# +    batch, tokens = 1, batch * tokens


# %% wrong: block-flops | a float, by a division with / | killed by: an int
# edit of: the teacher's
# -    keys = dim // heads * kv_heads  # features of the keys, and of the values
# +    keys = dim / heads * kv_heads


# %% wrong: block-flops | a float made whole in the end | killed by: to the last FLOP
# edit of: the teacher's
# -    return batch * (projections + attention + feed_forward)
# +    return int(float(batch) * (projections + attention + feed_forward))


# %% wrong: block-flops | summed in float32 | killed by: to the last FLOP
# edit of: the teacher's
# -    return batch * (projections + attention + feed_forward)
# +    parts = torch.tensor([projections, attention, feed_forward], dtype=torch.float32)
# +    return int((batch * parts).sum().item())


# %% wrong: block-flops | rounded to three digits | killed by: feed-forward
# edit of: the teacher's
# -    return batch * (projections + attention + feed_forward)
# +    return int(float(f"{batch * (projections + attention + feed_forward):.3g}"))


# %% wrong: block-flops | counts the lecture's block, which runs | killed by: by formula
def block_flops(*, batch, tokens, dim, heads, kv_heads, hidden, gated):
    from dynlib.backbone import Block

    block = count(Block(dim, heads, hidden=hidden), torch.zeros(1, tokens, dim)).flops
    spared = 4 * tokens * dim * (dim - dim // heads * kv_heads)
    return batch * (block - spared + (2 * tokens * dim * hidden if gated else 0))


# %% wrong: block-flops | a tensor of one number | killed by: an int
# edit of: the teacher's
# -    return batch * (projections + attention + feed_forward)
# +    return torch.tensor(batch * (projections + attention + feed_forward))


# %% right: linear-bytes | byte by byte, row by row
def linear_bytes(rows, inputs, outputs, dtype, *, bits, group, bias=True):
    size = torch.empty((), dtype=dtype).element_size()
    weight = sum(len(range(0, inputs * bits, 8)) + 2 * len(range(0, inputs, group)) for _ in range(outputs))
    return weight + size * (bias * outputs + rows * inputs + rows * outputs)


# %% right: linear-bytes | rounded up by math.ceil
def linear_bytes(rows, inputs, outputs, dtype, *, bits, group, bias=True):
    row = math.ceil(inputs * bits / 8) + 2 * math.ceil(inputs / group)
    return row * outputs + dtype.itemsize * (rows * (inputs + outputs) + (outputs if bias else 0))


# %% right: linear-bytes | by divmod
def linear_bytes(rows, inputs, outputs, dtype, *, bits, group, bias=True):
    full, rest = divmod(inputs * bits, 8)
    groups, left = divmod(inputs, group)
    weight = outputs * (full + (rest > 0) + 2 * groups + 2 * (left > 0))
    return (
        weight
        + (outputs if bias else 0) * dtype.itemsize
        + rows * inputs * dtype.itemsize
        + rows * outputs * dtype.itemsize
    )


# %% wrong: linear-bytes | numbers instead of bytes | killed by: activations
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = rows * (inputs + outputs) + (outputs if bias else 0)


# %% wrong: linear-bytes | the output is not written | killed by: activations
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = (rows * inputs + (outputs if bias else 0)) * dtype.itemsize


# %% wrong: linear-bytes | the weight is read for every row | killed by: activations
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return activations + rows * outputs * (packed + scales)


# %% wrong: linear-bytes | a number always has four bytes | killed by: activations
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * 4


# %% wrong: linear-bytes | the activations alone | killed by: weights
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return activations


# %% wrong: linear-bytes | the lecture's formula: the weight in dtype | killed by: weights
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return activations + inputs * outputs * dtype.itemsize


# %% wrong: linear-bytes | no scales | killed by: weights
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return activations + outputs * packed


# %% wrong: linear-bytes | one byte a number whatever the bits | killed by: packed
# edit of: the teacher's
# -    packed = -(-inputs * bits // 8)  # bytes of one row: the division rounds down, twice the minus makes it round up
# +    packed = inputs


# %% wrong: linear-bytes | bits taken for bytes | killed by: weights
# edit of: the teacher's
# -    packed = -(-inputs * bits // 8)  # bytes of one row: the division rounds down, twice the minus makes it round up
# +    packed = inputs * bits


# %% wrong: linear-bytes | one scale a row whatever the group | killed by: groups
# edit of: the teacher's
# -    scales = 2 * -(-inputs // group)
# +    scales = 2


# %% wrong: linear-bytes | scales for the whole weight, not for each row | killed by: weights
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return activations + outputs * packed + scales


# %% wrong: linear-bytes | rows packed one into the other | killed by: the last byte
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return activations + -(-inputs * outputs * bits // 8) + outputs * scales


# %% wrong: linear-bytes | the last byte rounded down | killed by: the last byte
# edit of: the teacher's
# -    packed = -(-inputs * bits // 8)  # bytes of one row: the division rounds down, twice the minus makes it round up
# +    packed = inputs * bits // 8


# %% wrong: linear-bytes | int(x) + 1 for the bytes | killed by: weights
# edit of: the teacher's
# -    packed = -(-inputs * bits // 8)  # bytes of one row: the division rounds down, twice the minus makes it round up
# +    packed = int(inputs * bits / 8) + 1


# %% wrong: linear-bytes | int(x) + 1 for the groups | killed by: weights
# edit of: the teacher's
# -    scales = 2 * -(-inputs // group)
# +    scales = 2 * (int(inputs / group) + 1)


# %% wrong: linear-bytes | the last group rounded down | killed by: the last group
# edit of: the teacher's
# -    scales = 2 * -(-inputs // group)
# +    scales = 2 * (inputs // group)


# %% wrong: linear-bytes | groups of outputs | killed by: weights
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return activations + outputs * packed + 2 * inputs * -(-outputs // group)


# %% wrong: linear-bytes | the bias forgotten | killed by: bias
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = rows * (inputs + outputs) * dtype.itemsize


# %% wrong: linear-bytes | the bias read once a row | killed by: bias
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = rows * (inputs + outputs + (outputs if bias else 0)) * dtype.itemsize


# %% wrong: linear-bytes | the bias quantised too | killed by: bias
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = rows * (inputs + outputs) * dtype.itemsize + (outputs if bias else 0)


# %% wrong: linear-bytes | the bias always there | killed by: bias
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = (rows * (inputs + outputs) + outputs) * dtype.itemsize


# %% wrong: linear-bytes | a number has the type of a scale in groups of a row only | killed by: whole layers
# edit of: the teacher's
# -    scales = 2 * -(-inputs // group)
# +    scales = 2 * -(-inputs // group) if group == inputs else dtype.itemsize * -(-inputs // group)


# %% wrong: linear-bytes | a scale has the type of the activations | killed by: whole layers
# edit of: the teacher's
# -    scales = 2 * -(-inputs // group)
# +    scales = dtype.itemsize * -(-inputs // group)


# %% wrong: linear-bytes | two bytes a number, whatever the type | killed by: whole layers
# edit of: the teacher's
# -    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * dtype.itemsize
# +    activations = (rows * (inputs + outputs) + (outputs if bias else 0)) * 2


# %% wrong: linear-bytes | bits divided by 8, which gives a float | killed by: an int
# edit of: the teacher's
# -    packed = -(-inputs * bits // 8)  # bytes of one row: the division rounds down, twice the minus makes it round up
# +    packed = inputs * bits / 8


# %% wrong: linear-bytes | rounded to the nearest byte | killed by: the last byte
# edit of: the teacher's
# -    packed = -(-inputs * bits // 8)  # bytes of one row: the division rounds down, twice the minus makes it round up
# +    packed = round(inputs * bits / 8)


# %% wrong: linear-bytes | a float made whole in the end | killed by: to the last byte
# edit of: the teacher's
# -    return activations + outputs * (packed + scales)
# +    return int(float(activations) + outputs * (packed + scales))


# %% wrong: linear-bytes | by asking a layer for its tensors | killed by: by formula
def linear_bytes(rows, inputs, outputs, dtype, *, bits, group, bias=True):
    with torch.device("meta"):
        layer = torch.nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
        activations = (rows * inputs + rows * outputs) * dtype.itemsize
    weight = outputs * (-(-inputs * bits // 8) + 2 * -(-inputs // group))
    return activations + weight + (layer.bias.nbytes if bias else 0)


# %% right: roofline | by fractions
from fractions import Fraction


def rows_to_ridge(inputs, outputs, dtype, *, peak, bandwidth):
    ridge, size = Fraction(peak, bandwidth), dtype.itemsize
    if Fraction(2 * inputs * outputs, size * (inputs + outputs)) <= ridge:
        return None
    rows = ridge * size * (inputs + 1) * outputs / (2 * inputs * outputs - ridge * size * (inputs + outputs))
    return math.ceil(rows)


# %% right: roofline | by halving
def rows_to_ridge(inputs, outputs, dtype, *, peak, bandwidth):
    def enough(rows):
        moved = dtype.itemsize * (rows * inputs + inputs * outputs + outputs + rows * outputs)
        return 2 * rows * inputs * outputs * bandwidth >= moved * peak

    if 2 * inputs * outputs * bandwidth <= dtype.itemsize * (inputs + outputs) * peak:
        return None
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


# %% wrong: roofline | int(x) + 1 for ceil | killed by: a narrow layer, no row more
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return fixed // gained + 1 if gained > 0 else None


# %% wrong: roofline | rounded down | killed by: a laptop
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return max(1, fixed // gained) if gained > 0 else None


# %% wrong: roofline | rounded to the nearest | killed by: a laptop
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return max(1, round(fixed / gained)) if gained > 0 else None


# %% wrong: roofline | the bias forgotten | killed by: a narrow layer
# edit of: the teacher's
# -    fixed = dtype.itemsize * (inputs * outputs + outputs) * peak
# +    fixed = dtype.itemsize * inputs * outputs * peak


# %% wrong: roofline | the output is not written | killed by: a narrow layer
# edit of: the teacher's
# -    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak  # by each row
# +    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * inputs * peak


# %% wrong: roofline | the input is not read | killed by: a laptop
# edit of: the teacher's
# -    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak  # by each row
# +    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * outputs * peak


# %% wrong: roofline | the additions of the bias are counted | killed by: a narrow layer
# edit of: the teacher's
# -    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak  # by each row
# +    gained = 2 * (inputs + 1) * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak


# %% wrong: roofline | a multiply-add counted once | killed by: a laptop, no row more
# edit of: the teacher's
# -    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak  # by each row
# +    gained = inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak


# %% wrong: roofline | four bytes a number | killed by: half precision, no row more
# edit of: the teacher's
# -    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak  # by each row
# +    gained = 2 * inputs * outputs * bandwidth - 4 * (inputs + outputs) * peak
# …
# -    fixed = dtype.itemsize * (inputs * outputs + outputs) * peak
# +    fixed = 4 * (inputs * outputs + outputs) * peak


# %% wrong: roofline | peak and bandwidth exchanged | killed by: a laptop
# edit of: the teacher's
# -    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak  # by each row
# +    peak, bandwidth = bandwidth, peak
# +    gained = 2 * inputs * outputs * bandwidth - dtype.itemsize * (inputs + outputs) * peak  # by each row


# %% wrong: roofline | intensity of the weights alone | killed by: a laptop
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return -(-dtype.itemsize * peak // (2 * bandwidth))


# %% wrong: roofline | never is not seen | killed by: never
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return max(1, -(-fixed // gained))


# %% wrong: roofline | at the limit itself a division by zero | killed by: never, though closer with each row
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return -(-fixed // gained) if gained >= 0 else None


# %% wrong: roofline | a float | killed by: an int
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return float(-(-fixed // gained)) if gained > 0 else None


# %% wrong: roofline | equal times are not enough | killed by: a narrow layer, no row more
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return fixed // gained + 1 if gained > 0 and fixed % gained == 0 else -(-fixed // gained) if gained > 0 else None


# %% wrong: roofline | 0 in place of None | killed by: never
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return -(-fixed // gained) if gained > 0 else 0


# %% wrong: roofline | the ridge kept as a float | killed by: a hair beside, no row more
def rows_to_ridge(inputs, outputs, dtype, *, peak, bandwidth):
    ridge = peak / bandwidth
    gained = 2 * inputs * outputs - ridge * dtype.itemsize * (inputs + outputs)
    return math.ceil(ridge * dtype.itemsize * (inputs * outputs + outputs) / gained) if gained > 0 else None


# %% wrong: roofline | the ridge kept as a float, int(x) + 1 | killed by: a hair beside, no row more
def rows_to_ridge(inputs, outputs, dtype, *, peak, bandwidth):
    ridge = peak / bandwidth
    gained = 2 * inputs * outputs - ridge * dtype.itemsize * (inputs + outputs)
    return int(ridge * dtype.itemsize * (inputs * outputs + outputs) / gained) + 1 if gained > 0 else None


# %% wrong: roofline | seconds for each row, as floats | killed by: equal times, no row more
def rows_to_ridge(inputs, outputs, dtype, *, peak, bandwidth):
    gained = 2 * inputs * outputs / peak - dtype.itemsize * (inputs + outputs) / bandwidth
    return math.ceil(dtype.itemsize * (inputs * outputs + outputs) / bandwidth / gained) if gained > 0 else None


# %% wrong: roofline | whole numbers divided into a float | killed by: closer than a float can tell
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    return math.ceil(fixed / gained) if gained > 0 else None


# %% wrong: roofline | one row after the other, as long as it takes | killed by: no search
# edit of: the teacher's
# -    return -(-fixed // gained) if gained > 0 else None
# +    rows = 1
# +    while 0 < rows * gained < fixed:
# +        rows += 1
# +    return rows if gained > 0 else None


# %% wrong: roofline | a search through a million rows | killed by: there is a number
def rows_to_ridge(inputs, outputs, dtype, *, peak, bandwidth):
    for rows in range(1, 10**6):
        moved = dtype.itemsize * (rows * inputs + inputs * outputs + outputs + rows * outputs)
        if 2 * rows * inputs * outputs * bandwidth >= moved * peak:
            return rows
    return None


# %% wrong: roofline | a search that gives up | killed by: there is a number
def rows_to_ridge(inputs, outputs, dtype, *, peak, bandwidth):
    for rows in range(1, 100_000):
        moved = dtype.itemsize * (rows * inputs + inputs * outputs + outputs + rows * outputs)
        if 2 * rows * inputs * outputs * bandwidth >= moved * peak:
            return rows
    return None


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


# %% right: decode-flops | by a cubic through four short answers
from fractions import Fraction


def decode_flops(prompt, new, *, per_token, per_pair, cache):
    def slow(number):
        lengths = range(prompt, prompt + number)
        first = prompt * per_token + prompt * prompt * per_pair if number else 0
        if cache:
            return first + sum(per_token + n * per_pair for n in lengths[1:])
        return sum(n * per_token + n * n * per_pair for n in lengths)

    if new < 5:
        return slow(new)
    total = Fraction(0)
    for at in range(1, 5):  # Lagrange
        weight = Fraction(1)
        for other in range(1, 5):
            if other != at:
                weight *= Fraction(new - other, at - other)
        total += weight * slow(at)
    return int(total)


# %% right: decode-flops | differences of two sums of squares
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    def first(n):  # 1 + … + n
        return n * (n + 1) // 2

    def second(n):  # 1 + 4 + … + n²
        return n * (n + 1) * (2 * n + 1) // 6

    if not new:
        return 0
    last = prompt + new - 1
    if cache:
        return per_token * last + per_pair * (prompt**2 + first(last) - first(prompt))
    return per_token * (first(last) - first(prompt - 1)) + per_pair * (second(last) - second(prompt - 1))


# %% wrong: decode-flops | the lecture's way: a sum over the passes | killed by: closed form
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    passes = [(1 if cache and i > 0 else prompt + i, prompt + i) for i in range(new)]
    return sum(per_token * r + per_pair * r * k for r, k in passes)


# %% wrong: decode-flops | a loop, right but slow | killed by: closed form
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    flops = 0
    for step in range(new):
        length = prompt + step
        reads = 1 if cache and step > 0 else length
        flops += reads * per_token + reads * length * per_pair
    return flops


# %% wrong: decode-flops | a sum over a range with the cache, a formula without | killed by: closed form
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    if new == 0:
        return 0
    last, lengths = prompt + new - 1, sum(range(prompt, prompt + new))
    if cache:
        return last * per_token + (prompt * prompt + lengths - prompt) * per_pair
    squares = last * (last + 1) * (2 * last + 1) // 6 - (prompt - 1) * prompt * (2 * prompt - 1) // 6
    return lengths * per_token + squares * per_pair


# %% wrong: decode-flops | sixths in floating point | killed by: long answers
# edit of: the teacher's
# -    squares = (new - 1) * new * (2 * new - 1) // 6  # the sum of i²
# +    squares = round((new - 1) * new * (2 * new - 1) / 6)


# %% wrong: decode-flops | a float made whole in the end | killed by: to the last FLOP
# edit of: the teacher's
# -    return (prompt + new - 1) * per_token + (prompt**2 + lengths - prompt) * per_pair
# +    return int(float((prompt + new - 1) * per_token + (prompt**2 + lengths - prompt) * per_pair))


# %% wrong: decode-flops | sums of 64-bit numbers, which overflow | killed by: to the last FLOP
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    import numpy as np

    if new == 0:
        return 0
    p, n = np.int64(prompt), np.int64(new)
    ones, squares = n * (n - 1) // 2, n * (n - 1) * (2 * n - 1) // 6
    if cache:
        return int((p + n - 1) * per_token + (p * p + n * p + ones - p) * per_pair)
    return int((n * p + ones) * per_token + (n * p * p + 2 * p * ones + squares) * per_pair)


# %% wrong: decode-flops | the mean length in place of the squares | killed by: pairs no cache
# edit of: the teacher's
# -    squares = (new - 1) * new * (2 * new - 1) // 6  # the sum of i²
# +    squares = new * (new - 1) ** 2 // 4


# %% wrong: decode-flops | counts a model | killed by: by formula
def decode_flops(prompt, new, *, per_token, per_pair, cache):
    model = CausalLM(vocabulary=11, dim=8, depth=1, heads=2)
    one, two, text = (torch.ones(1, length, dtype=torch.int64) for length in (1, 2, prompt))
    one, two = (count(model, tokens).flops for tokens in (one, two))
    pair = (two - 2 * one) // 2
    read = prompt + new - 1 if cache else new * prompt + new * (new - 1) // 2
    read = read if new else 0
    total = count(model.generate, text, new, use_cache=cache).flops
    return read * per_token + (total - read * (one - pair)) // pair * per_pair


# %% wrong: decode-flops | a list of passes, then two sums | killed by: closed form
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
# edit of: a loop, right but slow
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
    return {"without cache": [2.65, 3.0], "with cache": [1.5, 1.75]}


def doubling(model, prompt, new, *, cache):
    once, twice = (count(model.generate, prompt, n, use_cache=cache).flops for n in (new, 2 * new))
    return twice / once


# %% right: predict-tokens | the second half counted for itself
def predicted():
    return {"with cache": (1.45, 1.7), "without cache": (2.55, 3.05)}


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
    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}


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
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": (1.0, 5.0), "without cache": (1.0, 5.0)}


# %% wrong: predict-tokens | attention is quadratic, so the cost with the cache is | killed by: predicted with cache
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": (3.4, 4.05), "without cache": (2.6, 3.1)}


# %% wrong: predict-tokens | twice the tokens cost twice, cache or not | killed by: predicted without cache
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": (1.45, 1.7), "without cache": (1.8, 2.15)}


# %% wrong: predict-tokens | with the cache it is 2, the prompt forgotten | killed by: predicted with cache
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": (1.75, 2.1), "without cache": (2.6, 3.1)}


# %% wrong: predict-tokens | attention is quadratic, so without the cache it is 4 | killed by: predicted without cache
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": (1.45, 1.7), "without cache": (3.4, 4.05)}


# %% wrong: predict-tokens | a band for every thought | killed by: a band that says something
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": (1.5, 2.0), "without cache": (2.6, 3.1)}


# %% wrong: predict-tokens | without the cache, the cost grows with the cube | killed by: predicted without cache
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": (1.45, 1.7), "without cache": (7.0, 8.4)}


# %% wrong: predict-tokens | the prompt cut to its first token | killed by: measured
# edit of: two counts, divided
#  def doubling(model, prompt, new, *, cache):
# +    prompt = prompt[:1, :1]


# %% wrong: predict-tokens | only the first of the batch, written into the prompt | killed by: input untouched
# edit of: two counts, divided
#  def doubling(model, prompt, new, *, cache):
# +    prompt[0] = 1


# %% wrong: predict-tokens | the model is left in evaluation mode | killed by: the model as it was
# edit of: two counts, divided
#  def doubling(model, prompt, new, *, cache):
# +    model.eval()


# %% wrong: predict-tokens | rounded to one digit | killed by: measured
# edit of: two counts, divided
# -    return count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops
# +    return round(count(model.generate, prompt, 2 * new, use_cache=cache).flops / once.flops, 1)


# %% wrong: predict-tokens | a model of its own is counted | killed by: measured
# edit of: two counts, divided
#  def doubling(model, prompt, new, *, cache):
# +    model = CausalLM(vocabulary=256, dim=64, depth=1, heads=4)


# %% wrong: predict-tokens | always the new tokens of the prediction | killed by: measured
# edit of: two counts, divided
#  def doubling(model, prompt, new, *, cache):
# +    new = 12


# %% wrong: predict-tokens | a number in place of a band | killed by: a band that says something
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return {"with cache": 1.9, "without cache": 3.5}


# %% wrong: predict-tokens | bands without their names | killed by: a dict
# edit of: two counts, divided
# -    return {"with cache": (1.45, 1.7), "without cache": (2.6, 3.1)}
# +    return [(1.45, 1.7), (3.2, 3.9)]


# %% wrong: predict-tokens | the prediction is counted | killed by: on paper
def doubling(model, prompt, new, *, cache):
    once, twice = (count(model.generate, prompt, n, use_cache=cache).flops for n in (new, 2 * new))
    return twice / once


def predicted():
    model, bands = CausalLM(vocabulary=256, dim=64, depth=1, heads=4), {}
    for cache, name in ((True, "with cache"), (False, "without cache")):
        factor = doubling(model, torch.ones(1, 4, dtype=torch.int64), 12, cache=cache)
        bands[name] = (0.95 * factor, 1.05 * factor)
    return bands


# %% right: predict-tokens | the bands from a formula of the tokens that are read
def doubling(model, prompt, new, *, cache):
    costs = [count(lambda n=n: model.generate(prompt, n, use_cache=cache)) for n in (new, 2 * new)]
    return costs[1].flops / costs[0].flops


def predicted():
    cached = (12 + 23) / (12 + 11)
    whole = sum(range(12, 36)) / sum(range(12, 24))
    return {"with cache": (0.95 * cached, 1.1 * cached), "without cache": (0.95 * whole, 1.1 * whole)}


# %% right: median-ratio | in plain Python
def median_ratio(first, second):
    ratios = sorted(a / b for a, b in zip(first.tolist(), second.tolist()))
    n, middle = len(ratios), len(ratios) // 2
    median = ratios[middle] if n % 2 else (ratios[middle - 1] + ratios[middle]) / 2
    j, heads, fewer = 0, 1, 1  # outcomes with j heads, and with j or fewer
    while 40 * fewer <= 2**n:
        heads = heads * (n - j) // (j + 1)
        j, fewer = j + 1, fewer + heads
    return [median, ratios[j - 1], ratios[n - j]] if j else [median, 0.0, math.inf]


# %% right: median-ratio | with the standard library, in float32
def median_ratio(first, second):
    from fractions import Fraction
    from itertools import accumulate
    from statistics import median

    ratios = (first / second).sort().values
    n = len(ratios)
    below = accumulate(math.comb(n, i) for i in range(n + 1))
    j = sum(Fraction(outcomes, 2**n) <= Fraction(1, 40) for outcomes in below)
    low, high = (ratios[j - 1], ratios[-j]) if j else (torch.tensor(0.0), torch.tensor(torch.inf))
    return torch.stack([torch.tensor(median(ratios.tolist())), low, high])


# %% right: median-ratio | with scipy's law of coins
def median_ratio(first, second):
    from scipy.stats import binom

    ratios = (first / second).sort().values.tolist()
    n, j = len(ratios), 0
    while binom.cdf(j, n, 0.5) <= 1 / 40:
        j += 1
    median = torch.tensor(ratios).quantile(0.5).item()
    return (median, ratios[j - 1], ratios[n - j]) if j else (median, 0.0, float("inf"))


# %% wrong: median-ratio | ratio of the means | killed by: a disturbed round
# edit of: the teacher's
# -    return ratios.quantile(0.5).item(), low, high
# +    return (first.mean() / second.mean()).item(), low, high


# %% wrong: median-ratio | mean of the ratios | killed by: a disturbed round
# edit of: the teacher's
# -    return ratios.quantile(0.5).item(), low, high
# +    return ratios.mean().item(), low, high


# %% wrong: median-ratio | ratio of the medians | killed by: a disturbed round
# edit of: the teacher's
# -    return ratios.quantile(0.5).item(), low, high
# +    return (first.median() / second.median()).item(), low, high


# %% wrong: median-ratio | best against best | killed by: a disturbed round
# edit of: the teacher's
# -    return ratios.quantile(0.5).item(), low, high
# +    return (first.min() / second.min()).item(), low, high


# %% wrong: median-ratio | each sorted for itself before pairing | killed by: a disturbed round
# edit of: the teacher's
# -    ratios = (first.double() / second.double()).sort().values
# +    ratios = (first.sort().values / second.sort().values).double().sort().values


# %% wrong: median-ratio | second over first | killed by: drift
# edit of: the teacher's
# -    ratios = (first.double() / second.double()).sort().values
# +    ratios = (second.double() / first.double()).sort().values


# %% wrong: median-ratio | the first round against the others | killed by: drift
# edit of: the teacher's
# -    ratios = (first.double() / second.double()).sort().values
# +    ratios = (first.double() / second[0].double()).sort().values


# %% wrong: median-ratio | the lower of the two in the middle | killed by: even
# edit of: the teacher's
# -    return ratios.quantile(0.5).item(), low, high
# +    return ratios.median().item(), low, high


# %% wrong: median-ratio | the median alone | killed by: three numbers
# edit of: the teacher's
# -    return ratios.quantile(0.5).item(), low, high
# +    return ratios.quantile(0.5).item()


# %% wrong: median-ratio | rounded to two digits | killed by: random times
# edit of: the teacher's
# -    return ratios.quantile(0.5).item(), low, high
# +    return round(ratios.quantile(0.5).item(), 2), low, high


# %% wrong: median-ratio | sorted in place | killed by: input untouched
# edit of: the teacher's
# -    ratios = (first.double() / second.double()).sort().values
# +    ratios = first.div_(second).double().sort().values


# %% wrong: median-ratio | the whole range, however many rounds | killed by: few rounds
# edit of: the teacher's
# -    low, high = (ratios[j - 1].item(), ratios[-j].item()) if j else (0.0, float("inf"))
# +    low, high = ratios[0].item(), ratios[-1].item()


# %% wrong: median-ratio | the whole range from six rounds on | killed by: the interval's low end
# edit of: the teacher's
# -    low, high = (ratios[j - 1].item(), ratios[-j].item()) if j else (0.0, float("inf"))
# +    low, high = (ratios[0].item(), ratios[-1].item()) if j else (0.0, float("inf"))


# %% wrong: median-ratio | five percent on each side | killed by: few rounds
# edit of: the teacher's
# -    while 40 * outcomes <= 2**n:  # the same as P(fewer than j + 1 heads) <= 1/40, in whole numbers
# +    while 20 * outcomes <= 2**n:


# %% wrong: median-ratio | one further in | killed by: the interval's low end
# edit of: the teacher's
# -    low, high = (ratios[j - 1].item(), ratios[-j].item()) if j else (0.0, float("inf"))
# +    low, high = (ratios[j].item(), ratios[-j - 1].item()) if j else (0.0, float("inf"))


# %% wrong: median-ratio | the high end counted from the wrong place | killed by: the interval's high end
# edit of: the teacher's
# -    low, high = (ratios[j - 1].item(), ratios[-j].item()) if j else (0.0, float("inf"))
# +    low, high = (ratios[j - 1].item(), ratios[-j - 1].item()) if j else (0.0, float("inf"))


# %% wrong: median-ratio | the ends of a normal law | killed by: the interval's low end
# edit of: the teacher's
# -    low, high = (ratios[j - 1].item(), ratios[-j].item()) if j else (0.0, float("inf"))
# +    mean, spread = ratios.mean().item(), ratios.std().item() if n > 1 else 0.0
# +    half = 1.96 * spread / n**0.5
# +    low, high = (mean - half, mean + half) if j else (0.0, float("inf"))


# %% wrong: median-ratio | percentiles of the ratios | killed by: the interval's low end
# edit of: the teacher's
# -    low, high = (ratios[j - 1].item(), ratios[-j].item()) if j else (0.0, float("inf"))
# +    low, high = (ratios.quantile(0.025).item(), ratios.quantile(0.975).item()) if j else (0.0, float("inf"))


# %% wrong: median-ratio | the law in floating point, which overflows | killed by: runs
# edit of: the teacher's
# -    while 40 * outcomes <= 2**n:  # the same as P(fewer than j + 1 heads) <= 1/40, in whole numbers
# +    while 40 * outcomes <= 2.0**n:


# %% wrong: median-ratio | the law in floating point, which vanishes | killed by: runs
# edit of: the teacher's
# -    n, j, outcomes = len(ratios), 0, 1  # outcomes of n coins with j heads or fewer
# +    n, j, outcomes = len(ratios), 0, 0.5 ** len(ratios)
# …
# -    while 40 * outcomes <= 2**n:  # the same as P(fewer than j + 1 heads) <= 1/40, in whole numbers
# +    while 40 * outcomes <= 1:
# …
# -        outcomes += math.comb(n, j)
# +        outcomes += math.comb(n, j) * 0.5**n


# %% wrong: median-ratio | the sum begins anew for each j | killed by: quick enough
# edit of: the teacher's
# -    while 40 * outcomes <= 2**n:  # the same as P(fewer than j + 1 heads) <= 1/40, in whole numbers
# +    while 40 * sum(math.comb(n, heads) for heads in range(j + 1)) <= 2**n:


# %% wrong: median-ratio | asks dynlib's own timing | killed by: by hand
def median_ratio(first, second):
    from dynlib.cost import Timing

    return tuple(Timing((tuple(first.tolist()), tuple(second.tolist())), (1, 1)).ratio())


# %% wrong: median-ratio | one j for all numbers of rounds | killed by: the interval's low end
# edit of: the teacher's
# -    low, high = (ratios[j - 1].item(), ratios[-j].item()) if j else (0.0, float("inf"))
# +    low, high = (ratios[1].item(), ratios[-2].item()) if j else (0.0, float("inf"))
