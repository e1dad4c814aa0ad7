// Bindings of single ops without LoRA, over plain addresses; lorid_engine.ops checks shapes and dtypes first.
#include <cstdint>
#include <vector>

#include "bindings.h"
#include "ops/phases.h"

namespace lorid {
namespace {

void RmsNorm(DType dtype, Address x, int64_t x_stride, Address weight, float epsilon, int32_t rows, int32_t features,
             Address y, int64_t y_stride, int threads) {
  RmsNormPhase phase;
  phase.tile.in_dtype = phase.tile.out_dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.weight = At<const float>(weight);
  phase.tile.epsilon = epsilon;
  phase.tile.features = features;
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.rows = &rows;
  RunOne(phase, threads);
}

void SiluMul(DType dtype, Address x, int64_t x_stride, int32_t rows, int32_t features, Address y, int64_t y_stride,
             int threads) {
  SiluMulPhase phase;
  phase.tile.in_dtype = phase.tile.out_dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.features = features;
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.rows = &rows;
  RunOne(phase, threads);
}

void Dropout(DType dtype, Address x, int64_t x_stride, int32_t rows, int32_t features, Address key, uint32_t module,
             uint16_t threshold, float scale, Address y, int64_t y_stride, int threads) {
  RowsPhase<DropoutTile> phase;
  phase.kernel = &Kernels::dropout;
  phase.tile.dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.key = At<const uint64_t>(key);
  phase.tile.module = module;
  phase.tile.threshold = threshold;
  phase.tile.scale = scale;
  phase.tile.features = features;
  phase.tile.y = At<void>(y);
  phase.tile.y_stride = y_stride;
  phase.rows = rows;
  RunOne(phase, threads);
}

void SiluMulBackward(DType dtype, Address x, int64_t x_stride, Address dy, int64_t dy_stride, int32_t rows,
                     int32_t features, Address dx, int64_t dx_stride, int threads) {
  RowsPhase<SiluMulBackwardTile> phase;
  phase.kernel = &Kernels::silu_mul_backward;
  phase.tile.dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.dy = At<void>(dy);
  phase.tile.dy_stride = dy_stride;
  phase.tile.features = features;
  phase.tile.dx = At<void>(dx);
  phase.tile.dx_stride = dx_stride;
  phase.rows = rows;
  RunOne(phase, threads);
}

void RmsNormBackward(DType dtype, Address x, int64_t x_stride, Address weight, float epsilon, Address dy,
                     int64_t dy_stride, int32_t rows, int32_t features, Address dx, int64_t dx_stride, int threads) {
  RowsPhase<RmsNormBackwardTile> phase;
  phase.kernel = &Kernels::rms_norm_backward;
  phase.tile.dtype = dtype;
  phase.tile.x = At<void>(x);
  phase.tile.x_stride = x_stride;
  phase.tile.weight = At<const float>(weight);
  phase.tile.epsilon = epsilon;
  phase.tile.features = features;
  phase.tile.dy = At<void>(dy);
  phase.tile.dy_stride = dy_stride;
  phase.tile.dx = At<void>(dx);
  phase.tile.dx_stride = dx_stride;
  phase.rows = rows;
  RunOne(phase, threads);
}

void TrainingAttention(DType dtype, Address qkv, int64_t qkv_stride, Address cos, Address sin, Address offset,
                       int32_t num_sequences, Address out, int64_t out_stride, Address dout, int64_t dout_stride,
                       Address dqkv, int64_t dqkv_stride, float scale, int32_t window, int32_t num_heads,
                       int32_t num_kv_heads, int32_t head_dim, int threads) {
  LORID_CHECK(head_dim <= kMaxHeadDim, "head_dim must be at most ", kMaxHeadDim, "; got ", head_dim);
  LORID_CHECK(num_heads / num_kv_heads <= kMaxGroupHeads, "a key-value head may have ", kMaxGroupHeads,
              " query heads; got ", num_heads / num_kv_heads);
  TrainingAttentionPhase phase;
  phase.tile.dtype = dtype;
  phase.tile.qkv = At<void>(qkv);
  phase.tile.qkv_stride = qkv_stride;
  phase.tile.cos = At<const float>(cos);
  phase.tile.sin = At<const float>(sin);
  phase.tile.out = At<void>(out);
  phase.tile.out_stride = out_stride;
  phase.tile.dout = At<void>(dout);
  phase.tile.dout_stride = dout_stride;
  phase.tile.dqkv = At<void>(dqkv);
  phase.tile.dqkv_stride = dqkv_stride;
  phase.tile.scale = scale;
  phase.tile.window = window;
  phase.tile.num_heads = num_heads;
  phase.tile.num_kv_heads = num_kv_heads;
  phase.tile.head_dim = head_dim;
  phase.offset = At<const int32_t>(offset);
  phase.count = num_sequences;
  RunOne(phase, threads);
}

void Embed(DType dtype, Address weight, int32_t features, Address token_ids, int32_t rows, Address y, int64_t y_stride,
           int threads) {
  EmbedPhase phase;
  const auto* ids = At<const int32_t>(token_ids);
  phase.dtype = phase.out_dtype = dtype;
  phase.weight = At<void>(weight);
  phase.features = features;
  phase.token_ids = &ids;
  phase.rows = &rows;
  phase.y = At<void>(y);
  phase.y_stride = y_stride;
  RunOne(phase, threads);
}

void Rope(DType dtype, Address qkv, int64_t qkv_stride, Address cos, Address sin, Address q_norm, Address k_norm,
          float norm_epsilon, Address positions, Address cache_slot, Address q_out, int64_t q_out_stride,
          Address k_pages, Address v_pages, int num_heads, int num_kv_heads, int head_dim, int32_t rows, int threads) {
  LORID_CHECK(head_dim <= kMaxHeadDim, "head_dim must be at most ", kMaxHeadDim, "; got ", head_dim);
  RopePhase phase;
  phase.tile.dtype = phase.tile.in_dtype = phase.tile.q_dtype = dtype;
  phase.tile.qkv = At<void>(qkv);
  phase.tile.qkv_stride = qkv_stride;
  phase.tile.cos = At<const float>(cos);
  phase.tile.sin = At<const float>(sin);
  phase.tile.q_norm = At<const float>(q_norm);
  phase.tile.k_norm = At<const float>(k_norm);
  phase.tile.norm_epsilon = norm_epsilon;
  phase.tile.q_out = At<void>(q_out);
  phase.tile.q_out_stride = q_out_stride;
  phase.tile.k_pages = At<void>(k_pages);
  phase.tile.v_pages = At<void>(v_pages);
  phase.tile.num_heads = num_heads;
  phase.tile.num_kv_heads = num_kv_heads;
  phase.tile.head_dim = head_dim;
  const auto* at_positions = At<const int32_t>(positions);
  const auto* at_slots = At<const int64_t>(cache_slot);
  phase.rows = &rows;
  phase.positions = &at_positions;
  phase.cache_slot = &at_slots;
  RunOne(phase, threads);
}

void PagedAttention(DType dtype, Address q, int64_t q_stride, Address k_pages, Address v_pages, Address block_table,
                    int64_t block_table_stride, Address query_offset, Address positions, int32_t num_sequences,
                    Address out, int64_t out_stride, float scale, int window, int num_heads, int num_kv_heads,
                    int head_dim, int threads) {
  LORID_CHECK(head_dim <= kMaxHeadDim, "head_dim must be at most ", kMaxHeadDim, "; got ", head_dim);
  LORID_CHECK(num_heads / num_kv_heads <= kMaxGroupHeads, "a key-value head may have ", kMaxGroupHeads,
              " query heads; got ", num_heads / num_kv_heads);
  AttentionPhase phase;
  phase.tile.dtype = phase.tile.q_dtype = phase.tile.out_dtype = dtype;
  phase.tile.q = At<void>(q);
  phase.tile.q_stride = q_stride;
  phase.tile.k_pages = At<void>(k_pages);
  phase.tile.v_pages = At<void>(v_pages);
  phase.tile.out = At<void>(out);
  phase.tile.out_stride = out_stride;
  phase.tile.scale = scale;
  phase.tile.window = window;
  phase.tile.num_heads = num_heads;
  phase.tile.num_kv_heads = num_kv_heads;
  phase.tile.head_dim = head_dim;
  const Sequences sequences = {num_sequences, At<const int32_t>(query_offset), At<const int32_t>(block_table),
                               block_table_stride, At<const int32_t>(positions)};
  AttentionPlan plan;
  plan.Build(sequences, num_heads, num_kv_heads, threads);
  std::vector<char> scratch;
  phase.plan = &plan;
  phase.scratch = &scratch;
  RunOne(phase, threads);
}

void SampleOp(Address logits, int64_t logits_stride, int32_t vocabulary, const py::dict& arrays, int threads) {
  SampleArrays sample(arrays);
  const SampleArgs args = sample.Get();
  SamplePhase phase;
  phase.logits = At<const float>(logits);
  phase.logits_stride = logits_stride;
  phase.vocabulary = vocabulary;
  phase.args = &args;
  RunOne(phase, threads);
}

}  // namespace

void BindOps(py::module_& m) {
  m.def("rms_norm", &RmsNorm, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "weight"_a, "epsilon"_a, "rows"_a,
        "features"_a, "y"_a, "y_stride"_a, "threads"_a);
  m.def("silu_mul", &SiluMul, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "rows"_a, "features"_a, "y"_a,
        "y_stride"_a, "threads"_a);
  m.def("dropout", &Dropout, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "rows"_a, "features"_a, "key"_a, "module"_a,
        "threshold"_a, "scale"_a, "y"_a, "y_stride"_a, "threads"_a);
  m.def("embed", &Embed, py::kw_only(), "dtype"_a, "weight"_a, "features"_a, "token_ids"_a, "rows"_a, "y"_a,
        "y_stride"_a, "threads"_a);
  m.def("rope", &Rope, py::kw_only(), "dtype"_a, "qkv"_a, "qkv_stride"_a, "cos"_a, "sin"_a, "q_norm"_a, "k_norm"_a,
        "norm_epsilon"_a, "positions"_a, "cache_slot"_a, "q_out"_a, "q_out_stride"_a, "k_pages"_a, "v_pages"_a,
        "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "rows"_a, "threads"_a);
  m.def("paged_attention", &PagedAttention, py::kw_only(), "dtype"_a, "q"_a, "q_stride"_a, "k_pages"_a, "v_pages"_a,
        "block_table"_a, "block_table_stride"_a, "query_offset"_a, "positions"_a, "num_sequences"_a, "out"_a,
        "out_stride"_a, "scale"_a, "window"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "threads"_a);
  m.def("silu_mul_backward", &SiluMulBackward, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "dy"_a, "dy_stride"_a,
        "rows"_a, "features"_a, "dx"_a, "dx_stride"_a, "threads"_a);
  m.def("rms_norm_backward", &RmsNormBackward, py::kw_only(), "dtype"_a, "x"_a, "x_stride"_a, "weight"_a, "epsilon"_a,
        "dy"_a, "dy_stride"_a, "rows"_a, "features"_a, "dx"_a, "dx_stride"_a, "threads"_a);
  m.def("training_attention", &TrainingAttention, py::kw_only(), "dtype"_a, "qkv"_a, "qkv_stride"_a, "cos"_a, "sin"_a,
        "offset"_a, "num_sequences"_a, "out"_a, "out_stride"_a, "dout"_a, "dout_stride"_a, "dqkv"_a, "dqkv_stride"_a,
        "scale"_a, "window"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "threads"_a);
  m.def("sample", &SampleOp, py::kw_only(), "logits"_a, "logits_stride"_a, "vocabulary"_a, "arrays"_a, "threads"_a);
  m.def("philox", [](uint64_t key, uint32_t sample, uint32_t position) {
    const Philox random = PhiloxAt(key, sample, position);
    return py::make_tuple(random.word[0], random.word[1], random.word[2], random.word[3]);
  });
}

}  // namespace lorid
