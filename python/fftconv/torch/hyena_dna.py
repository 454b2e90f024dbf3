"""`HyenaDNAModel`: the genomic model of hyena-dna, whose checkpoints it loads.

Source: HyenaDNA, arXiv 2306.15794.
"""

import math
import re

import torch
import torch.nn.functional as F
from torch import nn

from .._array import size
from .hyena import HyenaOperator

__all__ = ["HyenaDNAModel"]


def __dir__():
    return __all__


# What the names of a checkpoint may have before and inside those of the standalone file:
# Lightning's prefix or that of Hugging Face, and a name put in by gradient checkpointing.
_PREFIX = re.compile(r"^(?:model\.|hyena\.)?(?=backbone\.|head\.|lm_head\.)")
_WRAPPED = re.compile(r"\.(mixer|mlp)\.layer\.")


class _Embeddings(nn.Module):
    def __init__(self, d_model, vocab_size, positions):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, d_model)
        self.position_embeddings = nn.Embedding(positions, d_model) if positions > 0 else None

    def forward(self, input_ids, position_ids):
        x = self.word_embeddings(input_ids)
        if self.position_embeddings is None:
            return x
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)
        return x + self.position_embeddings(position_ids)


class _Mlp(nn.Module):
    def __init__(self, d_model, d_inner):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(d_model, d_inner), nn.Linear(d_inner, d_model)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    """r = r + dropout1(x),  x = mixer(norm1(r)),  r = r + dropout2(x),  x = mlp(norm2(r))."""

    def __init__(self, mixer, d_model, d_inner, epsilon, dropout1, dropout2):
        super().__init__()
        self.mixer, self.mlp = mixer, _Mlp(d_model, d_inner)
        self.dropout1, self.dropout2 = nn.Dropout(dropout1), nn.Dropout(dropout2)
        self.norm1, self.norm2 = (nn.LayerNorm(d_model, epsilon) for _ in range(2))

    def forward(self, x, residual, wide):
        for dropout, norm, part in (
            (self.dropout1, self.norm1, self.mixer),
            (self.dropout2, self.norm2, self.mlp),
        ):
            residual = dropout(x) + residual
            x = part(norm(residual.to(norm.weight.dtype)))
            residual = residual.float() if wide else residual
        return x, residual


class _Backbone(nn.Module):
    def __init__(self, embeddings, blocks, d_model, epsilon, dropout, wide):
        super().__init__()
        self.embeddings, self.layers = embeddings, nn.ModuleList(blocks)
        self.drop_f, self.ln_f = nn.Dropout(dropout), nn.LayerNorm(d_model, epsilon)
        self.residual_in_fp32 = wide

    def forward(self, input_ids, position_ids):
        x, residual = self.embeddings(input_ids, position_ids), 0
        for block in self.layers:
            x, residual = block(x, residual, self.residual_in_fp32)
        return self.ln_f((self.drop_f(x) + residual).to(self.ln_f.weight.dtype))


class _Head(nn.Module):
    """A linear map of the mean over the sequence."""

    def __init__(self, d_model, n_classes):
        super().__init__()
        self.output_transform = nn.Linear(d_model, n_classes)

    def forward(self, x):
        return self.output_transform(x.mean(1))


class HyenaDNAModel(nn.Module):
    """HyenaDNA: an embedding of the tokens, blocks of HyenaOperator and an MLP, and a head.

    d_model: D, the width.  n_layer: the number of blocks.
    d_inner: the width of the MLPs; None means 4 D.
    vocab_size: the number of tokens, rounded up to a multiple of pad_vocab_size_multiple.
    layer: a dict with the arguments of `HyenaOperator`; l_max must be among them.  Here shift
        is 0.05 unless it is given, and the filters are in the order of the standalone file.
    attn_layer_idx: must be None; there is no attention.  attn_cfg is ignored.
    max_position_embeddings: above 0, add an embedding of the position.
    resid_dropout, embed_dropout: the probabilities of dropout in front of each sum, and on
        the embedding.
    layer_norm_epsilon: that of the layer norms.
    initializer_cfg: a dict that may have initializer_range, the standard deviation of the
        initial weights, 0.02, and rescale_prenorm_residual: divide it by sqrt(2 n_layer) for
        the last map of each mixer and MLP.
    residual_in_fp32: keep the sums in float32.
    use_head: return the n_classes outputs of a linear map of the mean over the sequence.
    lm_head: return, for each token, the logits of the next one.
    device, dtype: those of all parameters.

    Other keywords are ignored, as the original does: a config.json of hyena-dna can be passed
    whole.

    `load_state_dict`, with strict=True, takes the names of hyena-dna's standalone file, those
    of a checkpoint by Lightning (its "state_dict", with the prefix ``model.``, also if it was
    trained with gradient checkpointing) and those of Hugging Face's port (the prefix
    ``hyena.``, and one name of each ``freq``).  An lm_head in them is dropped if the model has
    none; a head that the model has and they lack keeps its weights if strict is False.
    Raises ValueError.

    Example:
        >>> import torch
        >>> layer = {"l_max": 34, "emb_dim": 5, "filter_order": 8}
        >>> model = HyenaDNAModel(8, 2, 32, 12, layer, pad_vocab_size_multiple=8)
        >>> model(torch.randint(7, 11, (2, 32))).shape
        torch.Size([2, 32, 8])
    """

    def __init__(
        self,
        d_model,
        n_layer,
        d_inner,
        vocab_size,
        layer=None,
        attn_layer_idx=None,
        attn_cfg=None,
        max_position_embeddings=0,
        resid_dropout=0.0,
        embed_dropout=0.1,
        layer_norm_epsilon=1e-5,
        initializer_cfg=None,
        residual_in_fp32=False,
        pad_vocab_size_multiple=1,
        use_head=False,
        n_classes=2,
        device=None,
        dtype=None,
        *,
        lm_head=False,
        **kwargs,
    ):
        super().__init__()
        self.d_model, n_layer = size(d_model, "d_model"), size(n_layer, "n_layer")
        if not isinstance(layer, dict) or "l_max" not in layer:
            raise ValueError(f"layer is {layer!r}; it must be a dict with l_max")
        if attn_layer_idx:
            raise ValueError(f"attn_layer_idx is {attn_layer_idx!r}; it must be None")
        if use_head and lm_head:
            raise ValueError("use_head and lm_head are both True; one of them must be False")
        vocab_size = size(vocab_size, "vocab_size")
        vocab_size += -vocab_size % size(pad_vocab_size_multiple, "pad_vocab_size_multiple")
        options = {"d_model": d_model, "shift": 0.05, "interleaved": False, **layer}
        blocks = [
            _Block(
                HyenaOperator(**options),
                d_model,
                d_inner or 4 * d_model,
                layer_norm_epsilon,
                resid_dropout if i else embed_dropout,
                resid_dropout,
            )
            for i in range(n_layer)
        ]
        embeddings = _Embeddings(d_model, vocab_size, max_position_embeddings)
        self.backbone = _Backbone(
            embeddings, blocks, d_model, layer_norm_epsilon, resid_dropout, residual_in_fp32
        )
        self.head = _Head(d_model, n_classes) if use_head else None
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False) if lm_head else None
        self._initialize(n_layer, **(initializer_cfg or {}))
        self.to(device=device, dtype=dtype)

    @torch.no_grad()
    def _initialize(self, n_layer, initializer_range=0.02, rescale_prenorm_residual=True, **kwargs):
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                last = name.endswith((".out_proj", ".fc2")) and rescale_prenorm_residual
                scale = 1 / math.sqrt(2 * n_layer) if last else 1
                module.weight.normal_(std=initializer_range * scale)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()

    def forward(self, input_ids, position_ids=None, state=None):
        """Return the hidden states (B, L, D), or what the head makes of them.

        input_ids: integers (B, L), L <= l_max.
        position_ids: (B, L), for max_position_embeddings; None means 0, 1, ...
        state: accepted and ignored.

        A head returns (B, n_classes), and lm_head (B, L, vocab_size).
        """
        x = self.backbone(input_ids, position_ids)
        for head in (self.head, self.lm_head):
            x = x if head is None else head(x)
        return x

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = _WRAPPED.sub(r".\1.", _PREFIX.sub("", key[len(prefix) :]))
            x = state_dict.pop(key)
            if self.lm_head is not None or not name.startswith("lm_head."):
                state_dict[prefix + name] = x
        super()._load_from_state_dict(state_dict, prefix, *args)
