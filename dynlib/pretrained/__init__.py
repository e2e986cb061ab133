"""Models that others trained, as a backbone of this house: then every mechanism works on them.

``from_transformers(model)`` reads a model of Hugging Face's ``transformers`` and gives a :mod:`dynlib.backbone` of the
same outputs, with weights of its own:

=========================================================================  =========================================
``ViTForImageClassification``, ``DeiTForImageClassification``,             :class:`~dynlib.backbone.ViT`
``DeiTForImageClassificationWithTeacher``
``BertModel``, which MiniLM is too                                         :class:`~dynlib.backbone.Encoder`
``GPT2LMHeadModel``, ``LlamaForCausalLM``                                  :class:`~dynlib.backbone.CausalLM`
=========================================================================  =========================================

What these cannot express is an error and never left out. Three things guard that: layers and options are read from the
model itself and asked for what they are; every parameter of the model must have found its place; and in the end both
run once on a random input and must agree.

``pip install dynlib-course[pretrained]`` brings ``transformers``, which is not imported here: who has a model has it.
"""

from dynlib.pretrained.reading import from_transformers

__all__ = ["from_transformers"]
