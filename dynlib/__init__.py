"""Networks that spend only what is needed: dynamic, efficient neural networks, each mechanism in a page or two.

======================  =============================================================================================
``dynlib.choice``       one of k, k of n, or a solver's answer, and still learn through it
``dynlib.depth``        how many layers: early exits, CALM, self-speculation, plans for a frozen stack, loops, recursion
``dynlib.tokens``       which tokens: CoLT5's conditional layers, Mixture-of-Depths, A-ViT
``dynlib.width``        how much of a layer: mixtures of experts, MatFormer's nested parts, ACM's learners
``dynlib.edge``         what crosses a network: noisy channels, split learning between processes
``dynlib.kernels``      what of this a GPU does in one kernel, in Triton
``dynlib.deciding``     what these share: ``setting`` turns their knobs, ``record`` collects what they decided
``dynlib.cost``         what ran: FLOPs, bytes, parameters, seconds, joules; certified thresholds; budgets
``dynlib.backbone``     the plain transformer that is made dynamic: ``ViT``, ``CausalLM``, ``Encoder``
``dynlib.pretrained``   models of Hugging Face's transformers as such a backbone: ``from_transformers``
``dynlib.data``         digits, texts, needles, terrain, puzzles, regression in context: offline, seeded
``dynlib.zoo``          small trained backbones: ``dynlib.zoo.load("digits_vit")``
``dynlib.mechanisms``   every mechanism on such a backbone under one interface: ``python -m dynlib budget``
``dynlib.training``     a plain training loop
``dynlib.checks``       the voice that a learner of the course hears; ``dynlib.causes`` explains errors to it
``dynlib.plotting``     the figures of the course's pages; ``dynlib.page`` their tables and measurements
======================  =============================================================================================

``import dynlib`` loads nothing; a part is loaded when it is first used. ``help(dynlib.choice)`` says more of one.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

__version__ = "0.1.0"

_PARTS = (
    *("backbone", "causes", "checks", "choice", "cost", "data", "deciding", "depth", "edge", "honest", "inputs"),
    *("kernels", "mechanisms"),
    *("page", "plotting", "pretrained", "tokens", "training", "transforms", "ways", "width", "zoo"),
)
_DRAWING = {"page", "plotting"}  # they need matplotlib, which the package alone does without

__all__ = ["__version__", *_PARTS]


def __getattr__(name: str) -> ModuleType:
    if name not in _PARTS:
        raise AttributeError(f"dynlib has no {name!r}; it has {', '.join(_PARTS)}")
    return import_module(f"dynlib.{name}")


def __dir__() -> list[str]:
    parts = set(_PARTS) if find_spec("matplotlib") else set(_PARTS) - _DRAWING
    return sorted(parts | {name for name in globals() if name.startswith("__")})
