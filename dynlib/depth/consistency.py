"""How far a text that was written with exits is from what it should be, as a number in [0, 1].

To the text of the whole model (:func:`textual_consistency_loss`), or to a reference beyond what the whole model itself
is off (:func:`risk_consistency_loss`). :func:`dynlib.depth.calm.calibration_losses` tables them by threshold, for
:func:`dynlib.cost.learn_then_test` to certify one.

Source: arXiv:2207.07061 (the two kinds of consistency).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dynlib.inputs import check_tensor
from dynlib.transforms import double


def textual_consistency_loss(
    outputs: Int[Tensor, "batch tokens"], full: Int[Tensor, "batch others"]
) -> Float[Tensor, " batch"]:
    """How unlike two texts are, 1 − ROUGE-L: 0 for equal ones, 1 where they share no token.

    With ℓ the length of the longest common subsequence, ROUGE-L = 2 ℓ / (n + m). A letter left out costs a letter; when
    comparing place by place it would cost all that follow.

    Args:
        outputs: texts of n tokens.
        full: the text each is held against, of m tokens: the whole model's.

    Returns:
        a loss per text, in [0, 1]; float64, or float32 on a device without it.

    Raises:
        TypeError: if one of them is no tensor of whole numbers.
        ValueError: if there is no text, or not as many on either side.
    """
    check_tensor(outputs, "outputs")
    check_tensor(full, "the texts to compare with")
    if outputs.is_floating_point() or full.is_floating_point():
        raise TypeError(f"texts are numbers of tokens; got {outputs.dtype} and {full.dtype}: give tokens, not logits")
    if outputs.ndim != 2 or full.ndim != 2 or len(outputs) != len(full) or 0 in (*outputs.shape, *full.shape):
        raise ValueError(
            f"need as many texts on either side, none of them empty; got {tuple(outputs.shape)} and {tuple(full.shape)}"
        )
    # ℓ(i, j) = max(ℓ(i−1, j), ℓ(i, j−1), ℓ(i−1, j−1) + 1[a_i = b_j])
    longest = torch.zeros(len(full), full.shape[1] + 1, dtype=torch.int64, device=full.device)
    for token in outputs.unbind(1):
        row = torch.maximum(longest[:, 1:], longest[:, :-1] + (token[:, None] == full))
        longest = F.pad(row.cummax(1).values, (1, 0))
    return 1 - 2 * double(longest[:, -1]) / (outputs.shape[1] + full.shape[1])


def risk_consistency_loss(
    outputs: Int[Tensor, "batch tokens"], full: Int[Tensor, "batch others"], references: Int[Tensor, "batch right"]
) -> Float[Tensor, " batch"]:
    """How much further from the reference than the whole model, max(0, D(output, ref) − D(full, ref)).

    D is :func:`textual_consistency_loss`. A text that is another one and no worse costs nothing.

    Args:
        outputs, full: texts of the model with exits, and of the whole one.
        references: what should have been written.

    Raises:
        TypeError, ValueError: as in :func:`textual_consistency_loss`.
    """
    return (textual_consistency_loss(outputs, references) - textual_consistency_loss(full, references)).clamp(min=0)
