"""Small random models of ``transformers``, built from their configs: nothing is downloaded."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dynlib.pretrained import from_transformers

transformers = pytest.importorskip("transformers", reason="pip install dynlib-course[pretrained] brings transformers")
transformers.logging.set_verbosity_error()

VOCABULARY, CLASSES = 37, 5
CLOSE = {torch.float32: 1e-4, torch.float64: 1e-9}

IMAGES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "image_size": 12,
    "patch_size": 4,
    "num_channels": 2,
    "num_labels": CLASSES,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "ViT": IMAGES,
    "DeiT": IMAGES,
    "Bert": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 24,
        "max_position_embeddings": 20,
        "type_vocab_size": 3,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    "GPT2": {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 24,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "Llama": {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}
CLASSES_OF = {
    "ViT": "ViTForImageClassification",
    "DeiT": "DeiTForImageClassification",
    "Teacher": "DeiTForImageClassificationWithTeacher",
    "Bert": "BertModel",
    "GPT2": "GPT2LMHeadModel",
    "Llama": "LlamaForCausalLM",
}
FAMILIES = tuple(CLASSES_OF)
IMAGE, CAUSAL = ("ViT", "DeiT", "Teacher"), ("GPT2", "Llama")


def config_class(family: str) -> Any:
    return getattr(transformers, f"{'DeiT' if family == 'Teacher' else family}Config")


def make(family: str, dtype: torch.dtype = torch.float64, *, seed: int = 0, **changes: Any) -> Any:
    """A random model in evaluation mode. All weights are drawn, also of norms, so that a swapped pair is seen."""
    config = config_class(family)(**(CONFIGS["DeiT" if family == "Teacher" else family] | changes))
    model = getattr(transformers, CLASSES_OF[family])(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.to(dtype).eval()


def inputs(family: str, model: Any, *, batch: int = 3, tokens: int = 7, seed: int = 1) -> Tensor:
    """Images or tokens."""
    generator = torch.Generator().manual_seed(seed)
    if family in IMAGE:
        size, channels = model.config.image_size, model.config.num_channels
        return torch.randn(batch, channels, size, size, generator=generator, dtype=torch.float64).to(model.dtype)
    return torch.randint(model.config.vocab_size, (batch, tokens), generator=generator)


def theirs(family: str, model: Any, x: Tensor, **options: Any) -> Tensor:
    """Logits, or the states of BERT's tokens."""
    said = model(x, return_dict=True, **options)
    return said.last_hidden_state if family == "Bert" else said.logits


def ours(family: str, model: Any, x: Tensor, **options: Any) -> Tensor:
    return model.states(x, **options) if family == "Bert" else model(x, **options)


def both(family: str, **options: Any) -> tuple[Any, Any, Tensor]:
    """The model, what it is converted to, and something to read."""
    model = make(family, **options)
    return model, from_transformers(model), inputs(family, model)


def writer(family: str, **options: Any) -> Any:
    """A language model that does not write one token for ever, as one does whose biases are large."""
    model = make(family, **options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(0.1)
            elif parameter.ndim == 1:
                parameter.fill_(1)
            else:
                parameter.mul_(1.5)
    return model
