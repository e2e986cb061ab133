"""The static transformer that the rest of the package makes dynamic.

Layers: :class:`Attention`, :class:`FeedForward`, :class:`GatedFeedForward`, :class:`RMSNorm`, and :class:`Block`, which
holds one of each. Models made of them: :class:`ViT` for images, :class:`CausalLM` for text that is written,
:class:`Encoder` for text that is read. Plainly called they are pre-norm transformers with LayerNorm and GELU; their
options are those that the trained models of others need (:mod:`dynlib.pretrained`). Nothing in here decides anything.
It is written so that others can decide:

- a block gives its *update* apart from the residual (:meth:`Block.update`), so that it can be weighted, skipped, or
  run for some tokens only;
- attention takes a mask over the keys and the true position of every token, so that a sequence with tokens missing
  still knows who stands where;
- sequences of different lengths can lie end to end (:meth:`Block.packed`), so that nothing is computed to fill them up;
- the key-value cache belongs to a layer (:class:`LayerCache`), so that layers can hold different tokens;
- the models are three steps, ``embed``, ``blocks``, ``readout``, so that the middle can be run in any way one likes.

Source: arXiv:1706.03762 (attention, post-norm), arXiv:2002.04745 (pre-norm), arXiv:2010.11929 (ViT), arXiv:2012.12877
(its distillation token), arXiv:1810.04805 (:class:`Encoder`), arXiv:2104.09864 (rotary positions), arXiv:2305.13245
(several heads share keys and values), arXiv:1910.07467 (:class:`RMSNorm`), arXiv:2002.05202 (gated feed-forward parts).
"""

from dynlib.backbone.attention import Attention, rotate
from dynlib.backbone.cache import LayerCache
from dynlib.backbone.causal_lm import CausalLM, prompt_positions
from dynlib.backbone.encoder import Encoder
from dynlib.backbone.layers import Block, FeedForward, GatedFeedForward, RMSNorm
from dynlib.backbone.vit import ViT

__all__ = [
    "Attention",
    "Block",
    "CausalLM",
    "Encoder",
    "FeedForward",
    "GatedFeedForward",
    "LayerCache",
    "RMSNorm",
    "ViT",
    "prompt_positions",
    "rotate",
]
