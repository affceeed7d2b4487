"""Weights of transformers by the names that timm has for them: ViT, DeiT, DINOv2, DINOv3, SigLIP's images, ConvNeXt.

Names are those of the published files and those that transformers 5 gives the modules, which it renames as it loads.
"""

import re

import torch
from torch import Tensor

State = dict[str, Tensor]

KNOWN_BY = r"([a-z]\w*\.)*embeddings\.patch_embeddings?\."

# Pattern -> timm's; all that match are applied, in this order, to a name without what stands before "embeddings.".
_VIT = (
    (r"embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"embeddings\.distillation_token$", "dist_token"),
    (r"embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
    (r"embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"(model\.)?(encoder\.)?layers?\.(\d+)\.", r"blocks.\3."),
    (r"(blocks\.\d+)\.attention\.attention\.(query|key|value)\.", r"\1.attn.\2."),
    (r"(blocks\.\d+)\.(attention|self_attn)\.q_proj\.", r"\1.attn.query."),
    (r"(blocks\.\d+)\.(attention|self_attn)\.k_proj\.", r"\1.attn.key."),
    (r"(blocks\.\d+)\.(attention|self_attn)\.v_proj\.", r"\1.attn.value."),
    (r"(blocks\.\d+)\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.(layernorm_before|layer_norm1)\.", r"\1.norm1."),
    (r"(blocks\.\d+)\.(layernorm_after|layer_norm2)\.", r"\1.norm2."),
    (r"(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
    (r"(blocks\.\d+)\.(intermediate\.dense|mlp\.weights_in)\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", r"\1.mlp.fc2."),
    (r"(post_)?layernorm\.", "norm."),
)
_CONVNEXT = (  # as its authors have it, which timm's filter takes
    (r"embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\1."),
    (r"encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.\2."),
    (r"(stages\.\d+\.\d+)\.layernorm\.", r"\1.norm."),
    (r"(stages\.\d+\.\d+)\.layer_scale_parameter$", r"\1.gamma"),
    (r"(stages\.\d+\.\d+)\.grn\.weight$", r"\1.grn.gamma"),
    (r"(stages\.\d+\.\d+)\.grn\.bias$", r"\1.grn.beta"),
    (r"layernorm\.", "norm."),
)
_HEADS = r"head\.|pooler\."  # beside the layers; rotary embeddings are computed


def timm_names(state: State, rotary: bool) -> State:
    """Published weights of transformers -> as timm's own filters take them.

    Args:
        state: with a name that ``KNOWN_BY`` matches; what is not beside "embeddings" (heads, a text model) is left out.
        rotary: the transformer is of DINOv3, whose authors call its tensors otherwise than DINOv2's.
    """
    first = next(key for key in state if re.match(KNOWN_BY, key))
    prefix = first[: first.index("embeddings.patch_embedding")]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    own = {key: value for key, value in own.items() if not re.match(_HEADS, key) and "rope" not in key}
    convnext = any("dwconv" in key for key in own)
    renamed: State = {}
    for key, value in own.items():
        for pattern, name in _CONVNEXT if convnext else _VIT:
            key = re.sub(rf"^{pattern}", name, key)
        if key == "pos_embed" and value.dim() == 2:
            value = value[None]  # [1, n, C]
        renamed[key] = value
    if convnext:
        return renamed
    registers = renamed.pop("register_tokens", None)
    mask = renamed.pop("mask_token", None)
    if registers is not None and registers.numel():
        # By these two names timm knows whose weights they are, and that positions cover the class token as well.
        renamed["storage_tokens" if rotary else "register_tokens"] = registers
        renamed["mask_token"] = registers.new_empty(0) if mask is None else mask
    return _gates_named(_fused(renamed), rotary)


def _fused(state: State) -> State:
    """Matrices of query, key and value in one, and their biases: DINOv3's keys have none."""
    fused: State = {}
    for key, value in state.items():
        of_three = re.fullmatch(r"(blocks\.\d+\.attn)\.(query|key|value)\.(weight|bias)", key)
        if of_three is None:
            fused[key] = value
            continue
        attention, _, kind = of_three.groups()
        parts = [state.get(f"{attention}.{part}.{kind}") for part in ("query", "key", "value")]
        if kind == "weight" and any(part is None for part in parts):
            fused[key] = value  # what lacks the others is told by its name
        else:
            filled = [torch.zeros_like(value) if part is None else part for part in parts]
            fused[f"{attention}.qkv.{kind}"] = torch.cat(filled)
    return fused


def _gates_named(state: State, rotary: bool) -> State:
    """SwiGLU's two matrices: apart in DINOv3, where timm calls them otherwise, one in DINOv2; and plain layers."""
    named: State = {}
    for key, value in state.items():
        gate, up = key.replace(".up_proj.", ".gate_proj."), key.replace(".gate_proj.", ".up_proj.")
        if ".gate_proj." not in gate:
            named[key] = value
        elif gate not in state:
            named[key.replace(".up_proj.", ".fc1.")] = value
        elif rotary:
            named[key.replace(".gate_proj.", ".w1.").replace(".up_proj.", ".w2.")] = value
        elif up in state:
            named[gate.replace(".gate_proj.", ".fc1.")] = torch.cat([state[gate], state[up]])
    return named
