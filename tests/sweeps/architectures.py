"""Architectures of ``transformers``, exported.

    pip install transformers
    python -m tests.sweeps.architectures [--processes 2] [NAME …]

They are small, with random weights, and made from their configurations.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.sweeps import sweep

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 120, "max_position_embeddings": 64, "embedding_size": 16,
    "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "n_embd": 32, "n_layer": 2, "n_head": 4,
    "n_positions": 64, "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "head_dim": 8,
    "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "ffn_dim": 48, "word_embed_proj_dim": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False,
}  # fmt: skip
TEXT = (
    "albert", "bert", "bloom", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra", "ernie",
    "falcon", "fnet", "gemma", "gpt2", "gpt_neo", "gpt_neox", "gptj", "llama", "mistral", "mobilebert",
    "modernbert", "mpnet", "nystromformer", "opt", "phi", "qwen2", "qwen3", "roberta", "roformer", "squeezebert",
    "starcoder2", "xlm-roberta", "xlnet",
)  # fmt: skip
PICTURES: dict[str, dict[str, Any]] = {
    "beit": {"image_size": 32, "patch_size": 8},
    "bit": {},
    "convnext": {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]},
    "convnextv2": {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 2, 1]},
    "cvt": {},
    "deit": {"image_size": 32, "patch_size": 8},
    "dinov2": {"image_size": 32, "patch_size": 8},
    "efficientnet": {"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25},
    "focalnet": {"image_size": 32},
    "levit": {"image_size": 224},
    "mobilenet_v1": {},
    "mobilenet_v2": {},
    "mobilevit": {"image_size": 64},
    "poolformer": {},
    "pvt": {"image_size": 64},
    "regnet": {},
    "resnet": {},
    "segformer": {},
    "swin": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
    "swinv2": {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4},
    "vit": {"image_size": 32, "patch_size": 8},
    "vit_mae": {"image_size": 32, "patch_size": 8, "mask_ratio": 0.0},
}  # fmt: skip
PARTS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
OF_VITS = ("beit", "deit", "dinov2", "vit", "vit_mae")
ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}


def cases(name: str) -> sweep.Cases:
    """One model, and two texts or pictures."""

    def make() -> tuple[Any, Any]:
        import torch
        import transformers

        torch.manual_seed(0)
        if name in PICTURES:
            given = PICTURES[name] | ({key: SMALL[key] for key in PARTS} if name in OF_VITS else {})
            config = transformers.AutoConfig.for_model(name, **given)
            side = given.get("image_size", 64)
            return transformers.AutoModel.from_config(config).eval(), torch.rand(2, 3, side, side)
        config = transformers.AutoConfig.for_model(name, **SMALL)
        kind = getattr(transformers, ENCODERS[name]) if name in ENCODERS else None
        model = kind(config) if kind else transformers.AutoModel.from_config(config)
        tokens = torch.randint(3, SMALL["vocab_size"], (2, 12))  # type: ignore[call-overload]
        mask = torch.ones_like(tokens)
        mask[1, 9:] = 0
        return model.eval(), {"input_ids": tokens, "attention_mask": mask} if name != "fnet" else tokens

    yield "", make


if __name__ == "__main__":
    sys.exit(sweep.main(__doc__ or "", [*TEXT, *ENCODERS, *PICTURES], cases))
