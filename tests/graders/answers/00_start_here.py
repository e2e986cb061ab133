# %% right: blank-share | by unfolding
def blank_share(images, patch):
    pieces = images.unfold(2, patch, patch).unfold(3, patch, patch)
    return (pieces.sum(dim=(-1, -2)) == 0).float().mean(dim=(1, 2, 3))


# %% right: blank-share | by reshaping, and a count
def blank_share(images, patch):
    batch, _, height, width = images.shape
    pieces = images.reshape(batch, height // patch, patch, width // patch, patch)
    blank = ~(pieces > 0).any(dim=4).any(dim=2)
    return blank.flatten(1).sum(dim=1) / blank[0].numel()


# %% wrong: blank-share | gives the share with ink | killed by: shares
def blank_share(images, patch):
    return (torch.nn.functional.max_pool2d(images, patch) > 0).float().mean(dim=(1, 2, 3))


# %% wrong: blank-share | counts pixels, not patches | killed by: shares
def blank_share(images, patch):
    return (images == 0).float().mean(dim=(1, 2, 3))


# %% wrong: blank-share | one share for the whole batch | killed by: shares
def blank_share(images, patch):
    share = (torch.nn.functional.max_pool2d(images, patch) == 0).float().mean()
    return share.expand(len(images))


# %% wrong: blank-share | grey taken for paper | killed by: shares
def blank_share(images, patch):
    return (torch.nn.functional.max_pool2d(images, patch) < 0.5).float().mean(dim=(1, 2, 3))


# %% wrong: blank-share | assumes a square image | killed by: shares
def blank_share(images, patch):
    side = images.shape[-1] // patch
    inked = torch.nn.functional.max_pool2d(images, patch) > 0
    return 1 - inked.float().sum(dim=(1, 2, 3)) / side**2


# %% wrong: blank-share | a patch size written as a number | killed by: shares
def blank_share(images, patch):
    return (torch.nn.functional.max_pool2d(images, 2) == 0).float().mean(dim=(1, 2, 3))


# %% right: most-ink | by sorting everything
def most_ink(images, patch, k):
    ink = images.unfold(2, patch, patch).unfold(3, patch, patch).sum(dim=(-1, -2)).flatten(1)
    if k < 0 or k > ink.shape[1]:
        raise ValueError(f"k={k} patches of {ink.shape[1]}")
    return ink.argsort(dim=1, descending=True)[:, :k].sort(dim=1).values


# %% right: most-ink | image by image, in plain Python
def most_ink(images, patch, k):
    rows, columns = images.shape[2] // patch, images.shape[3] // patch
    if k not in range(rows * columns + 1):
        raise ValueError(f"k must be 0 … {rows * columns}")
    found = []
    for image in images[:, 0]:
        ink = {
            r * columns + c: image[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].sum().item()
            for r in range(rows)
            for c in range(columns)
        }
        found.append(sorted(sorted(ink, key=ink.get, reverse=True)[:k]))
    return torch.tensor(found, dtype=torch.int64).reshape(len(images), k)


# %% wrong: most-ink | in the order of the ink | killed by: numbers
def most_ink(images, patch, k):
    ink = torch.nn.functional.avg_pool2d(images, patch).flatten(1)
    if not 0 <= k <= ink.shape[1]:
        raise ValueError("k")
    return ink.topk(k, dim=1).indices


# %% wrong: most-ink | the darkest pixel, not the most ink | killed by: numbers
def most_ink(images, patch, k):
    ink = torch.nn.functional.max_pool2d(images, patch).flatten(1)
    if not 0 <= k <= ink.shape[1]:
        raise ValueError("k")
    return ink.topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: most-ink | numbers the patches column by column | killed by: numbers
# edit of: the darkest pixel, not the most ink
# -    ink = torch.nn.functional.max_pool2d(images, patch).flatten(1)
# +    ink = torch.nn.functional.avg_pool2d(images, patch).transpose(2, 3).flatten(1)


# %% wrong: most-ink | lets topk complain | killed by: range of k
def most_ink(images, patch, k):
    ink = torch.nn.functional.avg_pool2d(images, patch).flatten(1)
    return ink.topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: most-ink | the same patches for every image | killed by: numbers
# edit of: in the order of the ink
# -    return ink.topk(k, dim=1).indices
# +    return ink.sum(dim=0).topk(k).indices.sort().values.expand(len(images), k)


# %% wrong: most-ink | a negative k becomes a slice | killed by: range of k
def most_ink(images, patch, k):
    ink = torch.nn.functional.avg_pool2d(images, patch).flatten(1)
    if k > ink.shape[1]:
        raise ValueError("k")
    return ink.argsort(dim=1, descending=True)[:, :k].sort(dim=1).values


# %% wrong: most-ink | remembers an image of the same shape | killed by: numbers
seen = {}


def most_ink(images, patch, k):
    key = (images.shape, patch)
    if key not in seen:
        seen[key] = torch.nn.functional.avg_pool2d(images, patch).flatten(1)
    if not 0 <= k <= seen[key].shape[1]:
        raise ValueError("k")
    return seen[key].topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: most-ink | numbers of 32 bits | killed by: numbers
# edit of: in the order of the ink
# -    return ink.topk(k, dim=1).indices
# +    return ink.topk(k, dim=1).indices.sort(dim=1).values.int()


# %% wrong: most-ink | the mean image decides | killed by: numbers
# edit of: in the order of the ink
# -    ink = torch.nn.functional.avg_pool2d(images, patch).flatten(1)
# +    ink = torch.nn.functional.avg_pool2d(images, patch).flatten(1).mean(0).expand(len(images), -1)
# …
# -    return ink.topk(k, dim=1).indices
# +    return ink.topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: most-ink | patches of two pixels, whatever is asked | killed by: numbers
# edit of: in the order of the ink
# -    ink = torch.nn.functional.avg_pool2d(images, patch).flatten(1)
# +    ink = torch.nn.functional.avg_pool2d(images, 2).flatten(1)
# …
# -    return ink.topk(k, dim=1).indices
# +    return ink.topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: most-ink | the images are rubbed out, patch by patch | killed by: input untouched
# edit of: in the order of the ink
# -    return ink.topk(k, dim=1).indices
# +    best = ink.topk(k, dim=1).indices.sort(dim=1).values
# +    images.zero_()
# +    return best


# %% wrong: most-ink | refuses none at all | killed by: k = 0
# edit of: in the order of the ink
# -    if not 0 <= k <= ink.shape[1]:
# +    if not 0 < k <= ink.shape[1]:
# …
# -    return ink.topk(k, dim=1).indices
# +    return ink.topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: most-ink | refuses all of them | killed by: numbers
# edit of: in the order of the ink
# -    if not 0 <= k <= ink.shape[1]:
# +    if not 0 <= k < ink.shape[1]:
# …
# -    return ink.topk(k, dim=1).indices
# +    return ink.topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: blank-share | the faintest grey taken for paper | killed by: shares
def blank_share(images, patch):
    return (torch.nn.functional.max_pool2d(images, patch) < 0.05).float().mean(dim=(1, 2, 3))


# %% wrong: blank-share | rounded to two digits | killed by: shares
def blank_share(images, patch):
    darkest = torch.nn.functional.max_pool2d(images, patch)
    return ((darkest == 0).float().mean(dim=(1, 2, 3)) * 100).round() / 100


# %% wrong: blank-share | in float64 | killed by: shares
def blank_share(images, patch):
    return (torch.nn.functional.max_pool2d(images, patch) == 0).double().mean(dim=(1, 2, 3))


# %% wrong: blank-share | a list of numbers | killed by: shares
def blank_share(images, patch):
    return (torch.nn.functional.max_pool2d(images, patch) == 0).float().mean(dim=(1, 2, 3)).tolist()


# %% wrong: blank-share | remembers images of the same shape | killed by: shares
seen = {}


def blank_share(images, patch):
    key = (images.shape, patch)
    if key not in seen:
        seen[key] = (torch.nn.functional.max_pool2d(images, patch) == 0).float().mean(dim=(1, 2, 3))
    return seen[key]


# %% wrong: blank-share | ink made black in place | killed by: input untouched
def blank_share(images, patch):
    images[images > 0] = 1
    return (torch.nn.functional.max_pool2d(images, patch) == 0).float().mean(dim=(1, 2, 3))


# %% wrong: most-ink | numbers with room for the class token | killed by: numbers
# edit of: in the order of the ink
# -    return ink.topk(k, dim=1).indices
# +    return 1 + ink.topk(k, dim=1).indices.sort(dim=1).values


# %% wrong: most-ink | the ink of the best in place of their numbers | killed by: numbers
# edit of: in the order of the ink
# -    return ink.topk(k, dim=1).indices
# +    return ink.topk(k, dim=1).values


# %% wrong: most-ink | sorted, and both things given that sort gives | killed by: numbers
# edit of: in the order of the ink
# -    return ink.topk(k, dim=1).indices
# +    return ink.topk(k, dim=1).indices.sort(dim=1)


# %% wrong: blank-share | pixels in reading order in place of squares | killed by: shares
def blank_share(images, patch):
    pieces = images.reshape(len(images), -1, patch * patch)
    return (pieces.amax(-1) == 0).float().mean(1)


# %% wrong: blank-share | four patches, whatever the image | killed by: shares
def blank_share(images, patch):
    return (torch.nn.functional.max_pool2d(images, patch) == 0).float().sum(dim=(1, 2, 3)) / 4
