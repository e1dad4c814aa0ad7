"""Segmented multi-adapter LoRA ops: one contract each, a float64 reference, and backends that compute the same.

Importable alone, without transformers:

    bank = AdapterBank.from_tensors([(a0, b0, scale0), (a1, b1, scale1)])
    plan = SegmentPlan.from_slots([0, 0, 1, -1])
    y = lora_linear(x, pack_linear(weight), bank, plan)
"""

from lorid_engine.ops.adapter_bank import AdapterBank
from lorid_engine.ops.asked import use_backend
from lorid_engine.ops.dispatch import Op, report
from lorid_engine.ops.embed import embed
from lorid_engine.ops.lora_add import LoraAdd, lora_add
from lorid_engine.ops.lora_dropout import LoraDropout, lora_dropout
from lorid_engine.ops.lora_expand import lora_expand
from lorid_engine.ops.lora_linear import LoraLinear, lora_fused_linear, lora_linear
from lorid_engine.ops.lora_shrink import lora_shrink
from lorid_engine.ops.pack_linear import PackedLinear, pack_linear
from lorid_engine.ops.packed_attention import packed_attention
from lorid_engine.ops.paged_attention import paged_attention
from lorid_engine.ops.rms_norm import rms_norm
from lorid_engine.ops.rope import rope
from lorid_engine.ops.sample import sample
from lorid_engine.ops.segment_plan import SegmentPlan
from lorid_engine.ops.silu_mul import silu_mul

__all__ = [
    "AdapterBank",
    "LoraAdd",
    "LoraDropout",
    "LoraLinear",
    "Op",
    "PackedLinear",
    "SegmentPlan",
    "embed",
    "lora_add",
    "lora_dropout",
    "lora_expand",
    "lora_fused_linear",
    "lora_linear",
    "lora_shrink",
    "pack_linear",
    "packed_attention",
    "paged_attention",
    "report",
    "rms_norm",
    "rope",
    "sample",
    "silu_mul",
    "use_backend",
]
