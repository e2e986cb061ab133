"""Every mechanism of the course on a trained backbone of the zoo, under one interface: ``run(knob, inputs)``.

``mechanism("digits_vit", "early_exit")`` gives what :func:`dynlib.cost.calibrate` asks for: the mechanism at one value
of its knob, the values in the order of their cost, the dense model, and held-out requests with their answers. Beside
each stands its trivial rival, which has the same interface: the first so many layers for everybody, the darkest
patches, as many learners, loops or steps for all.

What is left out, and why:

- Gumbel noise, sparse maps, perturbed optimizers: they train a choice, and are no knob of a trained model.
- experts: a model of them runs as many for each token as it was trained with, and none is in the zoo.
- painters (layers left out or run in another order): done to models that were not trained for it, as ``minilm``, which
  does not ship.
- drafts of a few layers, checked by all: they change how long a text takes to write, and not the text.
- the fused kernel: it changes the time of ACM, and neither its FLOPs nor its answers.
- split training: its cost is that of a training, and not of a request.
"""

from collections.abc import Callable

from dynlib.inputs import check_name
from dynlib.mechanisms.digits import DIGITS
from dynlib.mechanisms.interface import Mechanism, named, title
from dynlib.mechanisms.thinking import THINKING
from dynlib.mechanisms.topics import SMALL, TOPICS

__all__ = ["MECHANISMS", "Mechanism", "mechanism", "mechanisms", "named", "title"]

MECHANISMS: dict[str, dict[str, Callable[[], Mechanism]]] = {
    "digits_vit": DIGITS,
    "topics_lm": TOPICS,
    "topics_small": SMALL,
    **THINKING,
}


def mechanism(backbone: str, name: str) -> Mechanism:
    """One of :func:`mechanisms`.

    Raises:
        ValueError: if there is no such backbone, or it has no such mechanism.
    """
    check_name("the backbone", backbone, tuple(MECHANISMS))
    check_name(f"the mechanism on {backbone}", name, tuple(MECHANISMS[backbone]))
    return MECHANISMS[backbone][name]()


def mechanisms(backbone: str) -> tuple[str, ...]:
    """Those that there are on a backbone.

    Raises:
        ValueError: if there is no such backbone.
    """
    check_name("the backbone", backbone, tuple(MECHANISMS))
    return tuple(MECHANISMS[backbone])
