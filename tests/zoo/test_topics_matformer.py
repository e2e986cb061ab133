"""The shipped MatFormer: it begins as the language model, learns a width at a time, and reads and writes at each."""

import json

import pytest
import torch
from torch.nn import functional as F

from dynlib.backbone import FeedForward
from dynlib.data import decode, encode, topics, windows
from dynlib.data import text as text_of
from dynlib.deciding import record, setting
from dynlib.width.matformer import MatFormerFeedForward, extract
from dynlib.zoo import bits_per_character, card, load
from dynlib.zoo.recipes import recipe
from dynlib.zoo.recipes.matformer import matformer_lm, matformer_lm_loss

WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1)


def test_it_begins_as_the_language_model_bit_for_bit() -> None:
    made, start = recipe("topics_matformer"), load("topics_lm")
    model = made.build(**made.config).eval()
    model.load_state_dict(start.state_dict())
    tokens = encode(text_of("test"))[None, :64]
    with torch.no_grad():
        assert torch.equal(model(tokens), start(tokens))
    assert all(block.feed_forward.widths == WIDTHS for block in model.blocks)
    assert made.start == "topics_lm"
    assert made.begin is None


def test_a_step_is_at_one_width_which_depends_on_its_number_alone() -> None:
    torch.manual_seed(0)
    model = matformer_lm(vocabulary=256, dim=16, depth=2, heads=2, halvings=3)
    assert model.blocks[0].feed_forward.widths == WIDTHS
    loss, drawn = matformer_lm_loss(model), []
    for step in (0, 1, 2, 3, 4, 5, 6, 7, 3):
        with record(model, MatFormerFeedForward) as records:
            value = loss(step)
        ((first,), (second,)) = records.values()
        assert first == second
        drawn.append((first.share, value.item()))
    assert len({share for share, _ in drawn}) > 2
    assert drawn[3] == drawn[-1]
    batch = windows(encode(text_of("train")), 16, 257, generator=torch.Generator().manual_seed(10**6 + 3))
    with setting(model, MatFormerFeedForward, width=drawn[3][0]), torch.no_grad():
        logits = model(batch[:, :-1])
    # the loss is read in bfloat16, and this is not
    assert drawn[3][1] == pytest.approx(F.cross_entropy(logits.mT, batch[:, 1:]).item(), rel=0.01)


@torch.no_grad()
def test_the_shipped_matformer_reads_at_every_width_as_its_card_says() -> None:
    """On 600 characters of each test topic: a fourteenth of the text, which may be easier or harder by a twelfth."""
    model, figures = load("topics_matformer"), card("topics_matformer")["figures"]
    said = [figures[f"test_bits_per_character_at_width_{width:g}"] for width in WIDTHS]
    text = "\n\n".join(page[:600] for page in topics("test").values())
    for width, bits in zip(WIDTHS, said, strict=True):
        assert bits_per_character(extract(model, width), text) == pytest.approx(bits, rel=1 / 12)
    assert said == sorted(said, reverse=True), "wider reads better"
    dense = card("topics_lm")["figures"]["test_bits_per_character"]
    assert said[-1] < dense + 0.1, "and the widest about as well as the model that it was made from"
    assert said[0] < dense + 0.4
    # what it was made from, cut to an eighth of its neurons, cannot read
    cut = matformer_lm(**recipe("topics_matformer").config).eval()
    cut.load_state_dict(load("topics_lm").state_dict())
    assert bits_per_character(extract(cut, 1 / 8), text) > said[0] + 1


@torch.no_grad()
@pytest.mark.parametrize("width", WIDTHS)
def test_the_shipped_matformer_writes_words_of_its_text_at_every_width(width: float) -> None:
    model = extract(load("topics_matformer"), width)
    assert type(model.blocks[0].feed_forward) is FeedForward
    prompt = encode("The following ")[None]
    written = decode(model.generate(prompt, 160, temperature=0.5, generator=torch.Generator().manual_seed(0))[0])
    words = [word.strip("\"'`().,:;*") for word in written.split()[2:-1]]
    known = {word.strip("\"'`().,:;*") for word in text_of("train").split()}
    assert len(words) > 10
    assert sum(word in known for word in words) / len(words) > 0.6, written


def test_its_card_names_its_settings() -> None:
    made = card("topics_matformer")
    assert made["config"] == json.loads(json.dumps(recipe("topics_matformer").config))
    assert made["config"]["halvings"] == 3
