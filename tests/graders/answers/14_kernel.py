# %% right: masked-add | a while loop over the blocks
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    """out = x + y."""
    start = tl.program_id(0) * BLOCK
    while start < n:
        at = start + tl.arange(0, BLOCK)
        a = tl.load(x + at, mask=at < n, other=0.0)
        b = tl.load(y + at, mask=at < n, other=0.0)
        tl.store(out + at, a + b, mask=at < n)
        start += tl.num_programs(0) * BLOCK


# %% right: masked-add | pointers that are moved on
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    """out = x + y."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x += at
    y += at
    out += at
    step = tl.num_programs(0) * BLOCK
    for start in range(tl.program_id(0) * BLOCK, n, step):
        there = start + tl.arange(0, BLOCK) < n
        tl.store(out, tl.load(x, there) + tl.load(y, there), there)
        x += step
        y += step
        out += step


# %% wrong: masked-add | one block a program | killed by: each once
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    """out = x + y."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


# %% wrong: masked-add | no mask at all | killed by: in bounds
# edit of: the teacher's
# -        there = at < n
# +        there = at >= 0


# %% wrong: masked-add | only the store is masked | killed by: in bounds
# edit of: the teacher's
# -        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)
# +        tl.store(out + at, tl.load(x + at) + tl.load(y + at), mask=there)


# %% wrong: masked-add | one element too many | killed by: in bounds
# edit of: the teacher's
# -        there = at < n
# +        there = at <= n


# %% wrong: masked-add | the number of blocks is rounded down | killed by: each once
# edit of: the teacher's
# -    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
# +    for block in range(tl.program_id(0), n // BLOCK, tl.num_programs(0)):


# %% wrong: masked-add | every program does all blocks | killed by: each once
# edit of: the teacher's
# -    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
# +    for block in range(tl.cdiv(n, BLOCK)):


# %% wrong: masked-add | a stretch of blocks in a row for each program | killed by: shared out
# edit of: the teacher's
# -    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
# +    many = tl.cdiv(tl.cdiv(n, BLOCK), tl.num_programs(0))
# +    for block in range(tl.program_id(0) * many, tl.minimum((tl.program_id(0) + 1) * many, tl.cdiv(n, BLOCK))):


# %% wrong: masked-add | elements P apart | killed by: neighbours
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    """out = x + y."""
    for start in range(0, n, BLOCK * tl.num_programs(0)):
        at = start + tl.program_id(0) + tl.num_programs(0) * tl.arange(0, BLOCK)
        tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n), mask=at < n)


# %% wrong: masked-add | x twice | killed by: sum
# edit of: the teacher's
# -        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)
# +        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(x + at, mask=there), mask=there)


# %% wrong: masked-add | x is loaded once more than needed | killed by: each loaded once
# edit of: the teacher's
# -        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)
# +        twice = 0.5 * (tl.load(x + at, mask=there) + tl.load(x + at, mask=there))
# +        tl.store(out + at, twice + tl.load(y + at, mask=there), mask=there)


# %% wrong: masked-add | the sum is kept in x as well | killed by: inputs untouched
# edit of: the teacher's
# -        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)
# +        tl.store(x + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)
# +        tl.store(out + at, tl.load(x + at, mask=there), mask=there)


# %% wrong: masked-add | a function without @triton.jit | killed by: a kernel
def add(x, y, out, n, BLOCK):
    """out = x + y."""
    out.copy_(x + y)


# %% wrong: masked-add | PyTorch inside the kernel | killed by: by hand
@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    """out = x + y."""
    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
        at = block * BLOCK + tl.arange(0, BLOCK)
        there = at < n
        torch.zeros(1)
        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)


# %% wrong: masked-add | elements counted in place of blocks | killed by: rounds
# edit of: the teacher's
# -    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
# +    for block in range(tl.program_id(0), n, tl.num_programs(0)):


# %% wrong: masked-add | nothing is stored | killed by: each once
# edit of: the teacher's
# -        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)
# +        out = tl.load(x + at, mask=there) + tl.load(y + at, mask=there)


# %% wrong: masked-add | a pointer with an index | killed by: pointers
# edit of: the teacher's
# -        tl.store(out + at, tl.load(x + at, mask=there) + tl.load(y + at, mask=there), mask=there)
# +        tl.store(out + at, x[at] + y[at], mask=there)


# %% right: masked-add | as many rounds for every program, some masked
# edit of: the teacher's
# -    for block in range(tl.program_id(0), tl.cdiv(n, BLOCK), tl.num_programs(0)):
# -        at = block * BLOCK + tl.arange(0, BLOCK)
# +    for turn in range(tl.cdiv(tl.cdiv(n, BLOCK), tl.num_programs(0))):
# +        at = (turn * tl.num_programs(0) + tl.program_id(0)) * BLOCK + tl.arange(0, BLOCK)


# %% right: bias-gelu | addresses in one go, with other= and a helper
@triton.jit
def gelu(z):
    """GELU(z)."""
    return z * (0.5 + 0.5 * tl.erf(z / 1.4142135623730951))


@triton.jit
def bias_gelu(h, bias, out, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = GELU(h + bias)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    there = (row < rows)[:, None] & (column < columns)[None, :]
    shift = tl.load(bias + column, mask=column < columns, other=0.0)
    z = tl.load(h + row[:, None] * stride + column[None, :], mask=there, other=0.0)
    tl.store(out + row[:, None] * columns + column[None, :], gelu(z + shift[None, :]), mask=there)


# %% right: bias-gelu | row by row
@triton.jit
def bias_gelu(h, bias, out, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = GELU(h + bias)."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = column < columns
    shift = tl.load(bias + column, mask=wanted)
    for row in range(tl.program_id(0) * ROWS, tl.minimum((tl.program_id(0) + 1) * ROWS, rows)):
        z = tl.load(h + row * stride + column, mask=wanted) + shift
        tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=wanted)


# %% right: bias-gelu | row by row, the mask compares one row
@triton.jit
def bias_gelu(h, bias, out, rows, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out = GELU(h + bias)."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    shift = tl.load(bias + column, mask=column < columns, other=0.0)
    for i in range(ROWS):
        row = tl.program_id(0) * ROWS + i
        there = (row < rows) & (column < columns)
        z = tl.load(h + row * stride + column, mask=there, other=0.0) + shift
        tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)


# %% wrong: bias-gelu | rows and columns along one axis | killed by: each once
# edit of: the teacher's
# -    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
# -    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
# +    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
# +    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)


# %% wrong: bias-gelu | rows and columns of the grid swapped | killed by: each once
# edit of: the teacher's
# -    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
# -    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
# +    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
# +    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]


# %% wrong: bias-gelu | the columns step through h | killed by: GELU
# edit of: the teacher's
# -    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column, mask=column < columns)
# +    z = tl.load(h + row * columns + column, mask=there) + tl.load(bias + column, mask=column < columns)


# %% wrong: bias-gelu | the stride steps through out | killed by: in bounds
# edit of: the teacher's
# -    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)
# +    tl.store(out + row * stride + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)


# %% wrong: bias-gelu | rows are not masked | killed by: in bounds
# edit of: the teacher's
# -    there = (row < rows) & (column < columns)
# +    there = (row >= 0) & (column < columns)


# %% wrong: bias-gelu | columns are not masked | killed by: each once
# edit of: the teacher's
# -    there = (row < rows) & (column < columns)
# -    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column, mask=column < columns)
# +    there = (row < rows) & (row * columns + column < rows * columns)
# +    z = tl.load(h + row * stride + column, mask=there & (column < columns), other=0.0)
# +    z += tl.load(bias + column, mask=column < columns, other=0.0)


# %% wrong: bias-gelu | the bias is not masked | killed by: in bounds
# edit of: the teacher's
# -    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column, mask=column < columns)
# +    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column)


# %% wrong: bias-gelu | the bias for every row anew | killed by: bias once a program
# edit of: the teacher's
# -    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column, mask=column < columns)
# +    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + 0 * row + column, mask=there)


# %% wrong: bias-gelu | two passes: the sum is stored, loaded again | killed by: each once
# edit of: the teacher's
# -    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)
# +    tl.store(out + row * columns + column, z, mask=there)
# +    z = tl.load(out + row * columns + column, mask=there)
# +    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)


# %% wrong: bias-gelu | h is loaded for each of the two factors | killed by: h once
# edit of: the teacher's
# -    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)
# +    y = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column, mask=column < columns)
# +    tl.store(out + row * columns + column, 0.5 * y * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)


# %% wrong: bias-gelu | tanh's approximation | killed by: GELU
# edit of: the teacher's
# -    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)
# +    t = 2.0 * tl.sigmoid(1.5957691216057308 * (z + 0.044715 * z * z * z)) - 1.0
# +    tl.store(out + row * columns + column, 0.5 * z * (1.0 + t), mask=there)


# %% wrong: bias-gelu | erf of z itself | killed by: GELU
# edit of: the teacher's
# -    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)
# +    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z)), mask=there)


# %% wrong: bias-gelu | the bias after the GELU | killed by: GELU
# edit of: the teacher's
# -    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column, mask=column < columns)
# -    tl.store(out + row * columns + column, 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)), mask=there)
# +    z = tl.load(h + row * stride + column, mask=there)
# +    z = 0.5 * z * (1.0 + tl.erf(z * 0.7071067811865476)) + tl.load(bias + column, mask=column < columns)
# +    tl.store(out + row * columns + column, z, mask=there)


# %% wrong: bias-gelu | one bias for a row | killed by: GELU
# edit of: the teacher's
# -    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + column, mask=column < columns)
# +    z = tl.load(h + row * stride + column, mask=there) + tl.load(bias + row, mask=row < rows)


# %% right: linear | a block of W, turned
@triton.jit
def linear(x, w, out, rows, columns, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr):
    """out = x Wᵀ."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(tl.cdiv(inner, INNER)):
        at = step * INNER + tl.arange(0, INNER)
        some = (at < inner)[None, :]
        left = tl.load(x + row[:, None] * inner + at[None, :], mask=(row < rows)[:, None] & some, other=0.0)
        lying = tl.load(w + column[:, None] * inner + at[None, :], mask=(column < columns)[:, None] & some, other=0.0)
        total += tl.dot(left, tl.trans(lying), input_precision="ieee")
    at = out + row[:, None] * columns + column[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (column < columns)[None, :])


# %% right: linear | pointers that are moved on, zeros by tl.where
@triton.jit
def linear(x, w, out, rows, columns, inner, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr):
    """out = x Wᵀ."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    lane = tl.arange(0, INNER)
    xs = x + row * inner + lane[None, :]
    ws = w + column * inner + lane[:, None]
    total = tl.full((ROWS, COLUMNS), 0.0, tl.float32)
    for start in range(0, inner, INNER):
        here = lane < inner - start
        left_there, right_there = (row < rows) & here[None, :], (column < columns) & here[:, None]
        left = tl.where(left_there, tl.load(xs, mask=left_there), 0.0)
        right = tl.where(right_there, tl.load(ws, mask=right_there), 0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
        xs += INNER
        ws += INNER
    tl.store(out + row * columns + column, total.to(out.dtype.element_ty), mask=(row < rows) & (column < columns))


# %% wrong: linear | W as if it lay the other way | killed by: product
# edit of: the teacher's
# -        right = tl.load(w + column * inner + down, mask=(column < columns) & (down < inner), other=0.0)
# +        right = tl.load(w + down * columns + column, mask=(column < columns), other=0.0)


# %% wrong: linear | W as if it lay the other way, masked | killed by: product
# edit of: the teacher's
# -        right = tl.load(w + column * inner + down, mask=(column < columns) & (down < inner), other=0.0)
# +        right = tl.load(w + down * columns + column, mask=(column < columns) & (down < inner), other=0.0)


# %% wrong: linear | the last step is not masked | killed by: in bounds
# edit of: the teacher's
# -        left = tl.load(x + row * inner + across, mask=(row < rows) & (across < inner), other=0.0)
# -        right = tl.load(w + column * inner + down, mask=(column < columns) & (down < inner), other=0.0)
# +        left = tl.load(x + row * inner + across, mask=row < rows, other=0.0)
# +        right = tl.load(w + column * inner + down, mask=column < columns, other=0.0)


# %% wrong: linear | the last step is masked in one of the two | killed by: in bounds
# edit of: the teacher's
# -        right = tl.load(w + column * inner + down, mask=(column < columns) & (down < inner), other=0.0)
# +        right = tl.load(w + column * inner + down, mask=column < columns, other=0.0)


# %% wrong: linear | no other= beyond the mask | killed by: product
# edit of: the teacher's
# -        left = tl.load(x + row * inner + across, mask=(row < rows) & (across < inner), other=0.0)
# +        left = tl.load(x + row * inner + across, mask=(row < rows) & (across < inner))


# %% wrong: linear | the last, short step is left out | killed by: product
# edit of: the teacher's
# -    for start in range(0, inner, INNER):
# +    for start in range(0, inner // INNER * INNER, INNER):


# %% wrong: linear | the total is begun anew in each step | killed by: product
# edit of: the teacher's
# -        total = tl.dot(left, right, total, input_precision="ieee")
# +        total = tl.dot(left, right, input_precision="ieee")


# %% wrong: linear | the first block only | killed by: product
# edit of: the teacher's
# -        across = start + tl.arange(0, INNER)[None, :]
# +        across = tl.arange(0, INNER)[None, :]


# %% wrong: linear | rows are stored beyond the edge | killed by: in bounds
# edit of: the teacher's
# -    tl.store(at, total.to(out.dtype.element_ty), mask=(row < rows) & (column < columns))
# +    tl.store(at, total.to(out.dtype.element_ty), mask=column < columns)


# %% wrong: linear | columns are stored beyond the edge | killed by: each once
# edit of: the teacher's
# -    tl.store(at, total.to(out.dtype.element_ty), mask=(row < rows) & (column < columns))
# +    tl.store(at, total.to(out.dtype.element_ty), mask=(row < rows) & (row * columns + column < rows * columns))


# %% wrong: linear | TF32, as it comes | killed by: precision
# edit of: the teacher's
# -        total = tl.dot(left, right, total, input_precision="ieee")
# +        total = tl.dot(left, right, total)


# %% wrong: linear | the total in the dtype of out | killed by: sums in float32
# edit of: the teacher's
# -        total = tl.dot(left, right, total, input_precision="ieee")
# +        total = tl.dot(left, right, total, input_precision="ieee")
# +        total = total.to(out.dtype.element_ty).to(tl.float32)


# %% wrong: linear | each program loads its rows of x twice | killed by: loads
# edit of: the teacher's
# -        total = tl.dot(left, right, total, input_precision="ieee")
# +        left += 0.0 * tl.load(x + row * inner + across, mask=(row < rows) & (across < inner), other=0.0)
# +        total = tl.dot(left, right, total, input_precision="ieee")


# %% wrong: linear | rows and columns of the grid swapped | killed by: each once
# edit of: the teacher's
# -    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
# -    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
# +    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
# +    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]


# %% wrong: linear | steps of ROWS, blocks of INNER | killed by: product
# edit of: the teacher's
# -    for start in range(0, inner, INNER):
# +    for start in range(0, inner, ROWS):


# %% wrong: linear | steps and blocks of ROWS | killed by: steps
# edit of: the teacher's
# -    for start in range(0, inner, INNER):
# -        across = start + tl.arange(0, INNER)[None, :]
# -        down = start + tl.arange(0, INNER)[:, None]
# +    for start in range(0, inner, ROWS):
# +        across = start + tl.arange(0, ROWS)[None, :]
# +        down = start + tl.arange(0, ROWS)[:, None]


# %% wrong: linear | one step too many | killed by: steps
# edit of: the teacher's
# -    for start in range(0, inner, INNER):
# +    for start in range(0, inner + INNER, INNER):


# %% wrong: linear | each product in float16 | killed by: sums in float32
# edit of: the teacher's
# -        total = tl.dot(left, right, total, input_precision="ieee")
# +        if out.dtype.element_ty == tl.float16:
# +            total += tl.dot(left, right, out_dtype=tl.float16, input_precision="ieee")
# +        else:
# +            total += tl.dot(left, right, input_precision="ieee")


# %% right: acm-expand | 1-D numbers, masks written out, an if around the work
@triton.jit
def expand(
    z, order, k, w, bias, hidden, tokens, dim, neurons, each,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """hidden = GELU(z[order] Wᵀ + b)."""
    first, left_edge = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    limit = tl.load(k + first) * each
    if left_edge < limit:
        rows, columns = first + tl.arange(0, ROWS), left_edge + tl.arange(0, COLUMNS)
        real, run = rows < tokens, columns < limit
        where = tl.load(order + rows, mask=real, other=0)
        sums = tl.zeros((ROWS, COLUMNS), tl.float32)
        for step in range(tl.cdiv(dim, INNER)):
            at = step * INNER + tl.arange(0, INNER)
            some = at < dim
            a = tl.load(z + where[:, None] * dim + at[None, :], mask=real[:, None] & some[None, :], other=0.0)
            b = tl.load(w + columns[:, None] * dim + at[None, :], mask=run[:, None] & some[None, :], other=0.0)
            sums += tl.dot(a, tl.trans(b), input_precision="ieee")
        sums += tl.load(bias + columns, mask=run, other=0.0)[None, :]
        sums = sums * (0.5 + 0.5 * tl.erf(sums * 0.7071067811865476))
        mine = tl.load(k + rows, mask=real, other=0) * each
        sums = tl.where(columns[None, :] < mine[:, None], sums, 0.0)
        tl.store(
            hidden + rows[:, None] * neurons + columns[None, :], sums, mask=real[:, None] & (columns < neurons)[None, :]
        )


# %% right: acm-expand | the largest k of the block by tl.max, and a product in place of where
@triton.jit
def expand(
    z, order, k, w, bias, hidden, tokens, dim, neurons, each,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """hidden = GELU(z[order] Wᵀ + b)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    mine = tl.load(k + row, mask=row < tokens, other=0) * each
    run = tl.max(mine)
    if tl.program_id(1) * COLUMNS >= run:
        return
    row, mine = row[:, None], mine[:, None]
    token = tl.load(order + row, mask=row < tokens, other=0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, dim, INNER):
        across = start + tl.arange(0, INNER)[None, :]
        down = start + tl.arange(0, INNER)[:, None]
        left = tl.load(z + token * dim + across, mask=(row < tokens) & (across < dim), other=0.0)
        right = tl.load(w + column * dim + down, mask=(column < run) & (down < dim), other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    total = total + tl.load(bias + column, mask=column < run, other=0.0)
    total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476)) * (column < mine)
    tl.store(hidden + row * neurons + column, total, mask=(row < tokens) & (column < neurons))


# %% right: acm-expand | tokens that run nothing are not loaded
# edit of: the teacher's
# -    token = tl.load(order + row, mask=there, other=0)
# +    token = tl.load(order + row, mask=there, other=0)
# +    own = tl.load(k + row, mask=there, other=0) * each
# …
# -        left = tl.load(z + token * dim + across, mask=there & (across < dim), other=0.0)
# +        left = tl.load(z + token * dim + across, mask=(own > 0) & (across < dim), other=0.0)


# %% wrong: acm-expand | nobody returns early | killed by: early return
# edit of: the teacher's
# -    if tl.program_id(1) * COLUMNS >= run:
# -        return


# %% wrong: acm-expand | a block that begins where the learners end runs as well | killed by: early return
# edit of: the teacher's
# -    if tl.program_id(1) * COLUMNS >= run:
# +    if tl.program_id(1) * COLUMNS > run:


# %% wrong: acm-expand | learners counted in place of neurons | killed by: early return
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = tl.load(k + tl.program_id(0) * ROWS)


# %% wrong: acm-expand | the k of the block's last row | killed by: early return
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = tl.load(k + tl.minimum(tl.program_id(0) * ROWS + ROWS, tokens) - 1) * each


# %% wrong: acm-expand | the k of row p, not of row p · ROWS | killed by: early return
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = tl.load(k + tl.program_id(0)) * each


# %% wrong: acm-expand | it returns only after everything was loaded and multiplied | killed by: nothing loaded in vain
# edit of: the teacher's
# -    if tl.program_id(1) * COLUMNS >= run:
# -        return
# …
# -    tl.store(hidden + row * neurons + column, total, mask=there & (column < neurons))
# +    if tl.program_id(1) * COLUMNS < run:
# +        tl.store(hidden + row * neurons + column, total, mask=there & (column < neurons))


# %% wrong: acm-expand | weights of all neurons of the block | killed by: weights of others
# edit of: the teacher's
# -        right = tl.load(w + column * dim + down, mask=(column < run) & (down < dim), other=0.0)
# +        right = tl.load(w + column * dim + down, mask=(column < neurons) & (down < dim), other=0.0)


# %% wrong: acm-expand | the bias of all neurons of the block | killed by: weights of others
# edit of: the teacher's
# -    total += tl.load(bias + column, mask=column < run, other=0.0)
# +    total += tl.load(bias + column, mask=column < neurons, other=0.0)


# %% wrong: acm-expand | the tokens as they lie | killed by: hidden features
# edit of: the teacher's
# -    token = tl.load(order + row, mask=there, other=0)
# +    token = row


# %% wrong: acm-expand | rows keep what is beyond their own k | killed by: hidden features
# edit of: the teacher's
# -    total = tl.where(column < own, total, 0.0)


# %% wrong: acm-expand | the zeros before bias and GELU | killed by: hidden features
# edit of: the teacher's
# -    total += tl.load(bias + column, mask=column < run, other=0.0)
# -    total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
# -    own = tl.load(k + row, mask=there, other=0) * each
# -    total = tl.where(column < own, total, 0.0)
# +    own = tl.load(k + row, mask=there, other=0) * each
# +    total = tl.where(column < own, total, 0.0)
# +    total += tl.load(bias + column, mask=column < run, other=0.0)
# +    total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))


# %% wrong: acm-expand | one neuron too many for each row | killed by: hidden features
# edit of: the teacher's
# -    total = tl.where(column < own, total, 0.0)
# +    total = tl.where(column <= own, total, 0.0)


# %% wrong: acm-expand | a block stores only what it runs | killed by: hidden features
# edit of: the teacher's
# -    tl.store(hidden + row * neurons + column, total, mask=there & (column < neurons))
# +    tl.store(hidden + row * neurons + column, total, mask=there & (column < run))


# %% wrong: acm-expand | no GELU | killed by: hidden features
# edit of: the teacher's
# -    total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))


# %% wrong: acm-expand | no bias | killed by: hidden features
# edit of: the teacher's
# -    total += tl.load(bias + column, mask=column < run, other=0.0)


# %% wrong: acm-expand | rows beyond the last token | killed by: in bounds
# edit of: the teacher's
# -    there = row < tokens
# +    there = row >= 0


# %% wrong: acm-expand | stored in the tokens' own order | killed by: hidden features
# edit of: the teacher's
# -    tl.store(hidden + row * neurons + column, total, mask=there & (column < neurons))
# +    tl.store(hidden + token * neurons + column, total, mask=there & (column < neurons))


# %% wrong: acm-expand | k of the token, not of the row | killed by: hidden features
# edit of: the teacher's
# -    own = tl.load(k + row, mask=there, other=0) * each
# +    own = tl.load(k + token, mask=there, other=0) * each


# %% wrong: acm-expand | one step too many | killed by: steps
# edit of: the teacher's
# -    for start in range(0, dim, INNER):
# +    for start in range(0, dim + INNER, INNER):


# %% wrong: acm-expand | TF32, as it comes | killed by: precision
# edit of: the teacher's
# -        total = tl.dot(left, right, total, input_precision="ieee")
# +        total = tl.dot(left, right, total)


# %% wrong: acm-expand | rows from p · COLUMNS on | killed by: hidden features
# edit of: the teacher's
# -    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
# +    row = tl.program_id(0) * COLUMNS + tl.arange(0, ROWS)[:, None]


# %% wrong: acm-expand | columns from q · ROWS on | killed by: hidden features
# edit of: the teacher's
# -    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
# +    column = tl.program_id(1) * ROWS + tl.arange(0, COLUMNS)[None, :]


# %% wrong: acm-expand | steps of ROWS, blocks of INNER | killed by: hidden features
# edit of: the teacher's
# -    for start in range(0, dim, INNER):
# +    for start in range(0, dim, ROWS):


# %% wrong: acm-expand | steps of COLUMNS, blocks of INNER | killed by: hidden features
# edit of: the teacher's
# -    for start in range(0, dim, INNER):
# +    for start in range(0, dim, COLUMNS):


# %% right: acm-contract | a while loop, 1-D numbers
@triton.jit
def contract(
    hidden, order, k, v, out, tokens, neurons, features, each,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """out[order] = hidden V."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    real, wanted = rows < tokens, columns < features
    end = tl.load(k + tl.program_id(0) * ROWS) * each
    sums = tl.zeros((ROWS, COLUMNS), tl.float32)
    start = 0
    while start < end:
        at = start + tl.arange(0, INNER)
        some = at < end
        a = tl.load(hidden + rows[:, None] * neurons + at[None, :], mask=real[:, None] & some[None, :], other=0.0)
        b = tl.load(v + at[:, None] * features + columns[None, :], mask=some[:, None] & wanted[None, :], other=0.0)
        sums += tl.dot(a, b, input_precision="ieee")
        start += INNER
    places = tl.load(order + rows, mask=real, other=0)
    tl.store(out + places[:, None] * features + columns[None, :], sums, mask=real[:, None] & wanted[None, :])


# %% right: acm-contract | the largest k of the block by tl.max
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = tl.max(tl.load(k + tl.program_id(0) * ROWS + tl.arange(0, ROWS), mask=tl.program_id(0) * ROWS + tl.arange(0, ROWS) < tokens, other=0)) * each


# %% right: acm-contract | of each row only what it runs itself is loaded
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    own = tl.load(k + row, mask=there, other=0) * each
# …
# -        left = tl.load(hidden + row * neurons + across, mask=there & (across < run), other=0.0)
# +        left = tl.load(hidden + row * neurons + across, mask=across < own, other=0.0)


# %% wrong: acm-contract | over all neurons | killed by: weights of others
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = neurons


# %% wrong: acm-contract | all steps, masked at what the block runs | killed by: bounded loop
# edit of: the teacher's
# -    for start in range(0, run, INNER):
# +    for start in range(0, neurons, INNER):


# %% wrong: acm-contract | the last step reads on in hidden | killed by: result
# edit of: the teacher's
# -        left = tl.load(hidden + row * neurons + across, mask=there & (across < run), other=0.0)
# +        left = tl.load(hidden + row * neurons + across, mask=there & (across < neurons), other=0.0)


# %% wrong: acm-contract | the last step reads on in V | killed by: weights of others
# edit of: the teacher's
# -        right = tl.load(v + down * features + column, mask=(down < run) & wanted, other=0.0)
# +        right = tl.load(v + down * features + column, mask=(down < neurons) & wanted, other=0.0)


# %% wrong: acm-contract | blocks without learners return | killed by: each once
# edit of: the teacher's
# -    total = tl.zeros((ROWS, COLUMNS), tl.float32)
# +    if run == 0:
# +        return
# +    total = tl.zeros((ROWS, COLUMNS), tl.float32)


# %% wrong: acm-contract | stored as the rows lie | killed by: result
# edit of: the teacher's
# -    tl.store(out + token * features + column, total, mask=there & wanted)
# +    tl.store(out + row * features + column, total, mask=there & wanted)


# %% wrong: acm-contract | hidden is gathered as well | killed by: result
# edit of: the teacher's
# -    there, wanted = row < tokens, column < features
# +    there, wanted = row < tokens, column < features
# +    at = tl.load(order + row, mask=there, other=0)
# …
# -        left = tl.load(hidden + row * neurons + across, mask=there & (across < run), other=0.0)
# +        left = tl.load(hidden + at * neurons + across, mask=there & (across < run), other=0.0)


# %% wrong: acm-contract | the k of the block's last row | killed by: result
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = tl.load(k + tl.minimum(tl.program_id(0) * ROWS + ROWS, tokens) - 1) * each


# %% wrong: acm-contract | learners counted in place of neurons | killed by: result
# edit of: the teacher's
# -    run = tl.load(k + tl.program_id(0) * ROWS) * each
# +    run = tl.load(k + tl.program_id(0) * ROWS)


# %% wrong: acm-contract | steps rounded down | killed by: result
# edit of: the teacher's
# -    for start in range(0, run, INNER):
# +    for start in range(0, run // INNER * INNER, INNER):


# %% wrong: acm-contract | features are not masked | killed by: in bounds
# edit of: the teacher's
# -    there, wanted = row < tokens, column < features
# +    there, wanted = row < tokens, column >= 0


# %% wrong: acm-contract | added to what is there | killed by: result
# edit of: the teacher's
# -    tl.store(out + token * features + column, total, mask=there & wanted)
# +    at = out + token * features + column
# +    tl.store(at, total + tl.load(at, mask=there & wanted, other=0.0), mask=there & wanted)


# %% wrong: acm-contract | rows of the others: not masked | killed by: in bounds
# edit of: the teacher's
# -    there, wanted = row < tokens, column < features
# +    there, wanted = row >= 0, column < features


# %% wrong: acm-contract | rows of the others are stored as token 0 | killed by: each once
# edit of: the teacher's
# -    tl.store(out + token * features + column, total, mask=there & wanted)
# +    tl.store(out + token * features + column, total, mask=wanted)


# %% wrong: acm-contract | TF32, as it comes | killed by: precision
# edit of: the teacher's
# -        total = tl.dot(left, right, total, input_precision="ieee")
# +        total = tl.dot(left, right, total)


# %% wrong: acm-contract | rows from p · COLUMNS on | killed by: each once
# edit of: the teacher's
# -    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
# +    row = tl.program_id(0) * COLUMNS + tl.arange(0, ROWS)[:, None]


# %% wrong: acm-contract | columns from q · ROWS on | killed by: each once
# edit of: the teacher's
# -    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
# +    column = tl.program_id(1) * ROWS + tl.arange(0, COLUMNS)[None, :]


# %% wrong: acm-contract | steps of ROWS, blocks of INNER | killed by: result
# edit of: the teacher's
# -    for start in range(0, run, INNER):
# +    for start in range(0, run, ROWS):


# %% wrong: acm-contract | steps of COLUMNS, blocks of INNER | killed by: result
# edit of: the teacher's
# -    for start in range(0, run, INNER):
# +    for start in range(0, run, COLUMNS):


# %% right: predict-kernel | lists and loops
def predict():
    """The numbers."""
    k = [4] * 10 + [2] * 20 + [1] * 30 + [0] * 10
    firsts = k[::16]
    f = 2 * 2 * (8192 * 512 + 512 * 2048) / 2e12
    return {
        "programs of expand": len(firsts) * 4,
        "programs that end at once": sum(4 - first for first in firsts),
        "learners computed in vain": sum(16 * first for first in firsts) - sum(k),
        "tile products of contract": 2 * sum(firsts),
        "bytes of W loaded": sum(firsts) * 8192,
        "compute-bound above": f / (4 * 8192 * 512 * 2048 / 4e14 - 4 * 8192 * 2048 / 2e12),
        "one kernel at f = 0.5": "as fast",
    }


# %% right: predict-kernel | plain numbers
def predict():
    """The numbers."""
    return {
        "programs of expand": 20,
        "programs that end at once": 12,
        "learners computed in vain": 18,
        "tile products of contract": 16,
        "bytes of W loaded": 65536,
        "compute-bound above": 10.485760 / (85.8993459 - 33.554432),
        "one kernel at f = 0.5": "as fast",
    }


# %% wrong: predict-kernel | the last block of rows is forgotten | killed by: programs of expand
# edit of: the teacher's
# -        "programs of expand": 5 * 4,
# +        "programs of expand": 4 * 4,


# %% wrong: predict-kernel | those that run | killed by: programs that end at once
# edit of: the teacher's
# -        "programs that end at once": 20 - (4 + 2 + 1 + 1 + 0),
# +        "programs that end at once": 4 + 2 + 1 + 1 + 0,


# %% wrong: predict-kernel | those of the last block alone | killed by: programs that end at once
# edit of: the teacher's
# -        "programs that end at once": 20 - (4 + 2 + 1 + 1 + 0),
# +        "programs that end at once": 4,


# %% wrong: predict-kernel | every program over all neurons | killed by: tile products of contract
# edit of: the teacher's
# -        "tile products of contract": 2 * (4 + 2 + 1 + 1),
# +        "tile products of contract": 5 * 2 * 4,


# %% wrong: predict-kernel | nothing in vain | killed by: learners computed in vain
# edit of: the teacher's
# -        "learners computed in vain": 16 * (4 + 2 + 1 + 1) - (10 * 4 + 20 * 2 + 30),
# +        "learners computed in vain": 0,


# %% wrong: predict-kernel | one block of columns of the output | killed by: tile products of contract
# edit of: the teacher's
# -        "tile products of contract": 2 * (4 + 2 + 1 + 1),
# +        "tile products of contract": 4 + 2 + 1 + 1,


# %% wrong: predict-kernel | W once for each block of rows | killed by: bytes of W loaded
# edit of: the teacher's
# -        "bytes of W loaded": (4 + 2 + 1 + 1) * 32 * 64 * 4,
# +        "bytes of W loaded": 4 * 128 * 64 * 4,


# %% wrong: predict-kernel | numbers in place of bytes | killed by: bytes of W loaded
# edit of: the teacher's
# -        "bytes of W loaded": (4 + 2 + 1 + 1) * 32 * 64 * 4,
# +        "bytes of W loaded": (4 + 2 + 1 + 1) * 32 * 64,


# %% wrong: predict-kernel | the hidden features are written only | killed by: compute-bound above
# edit of: the teacher's
# -    between = 2 * 2 * 8192 * 2048 / 2e12
# +    between = 2 * 8192 * 2048 / 2e12


# %% wrong: predict-kernel | the weights are forgotten | killed by: compute-bound above
# edit of: the teacher's
# -    fixed = 2 * (2 * 8192 * 512 + 2 * 512 * 2048) / 2e12
# +    fixed = 2 * (2 * 8192 * 512) / 2e12


# %% wrong: predict-kernel | with the hidden features on the chip | killed by: compute-bound above
# edit of: the teacher's
# -        "compute-bound above": fixed / (work - between),
# +        "compute-bound above": fixed / work,


# %% wrong: predict-kernel | fewer bytes are always faster | killed by: one kernel at f = 0.5
# edit of: the teacher's
# -        "one kernel at f = 0.5": "as fast",
# +        "one kernel at f = 0.5": "faster",


# %% wrong: predict-kernel | another word | killed by: a word
# edit of: the teacher's
# -        "one kernel at f = 0.5": "as fast",
# +        "one kernel at f = 0.5": "no",


# %% wrong: predict-kernel | a list | killed by: a dict
def predict():
    """The numbers."""
    return [20, 12, 18, 16, 65536, 0.2, "as fast"]
