// What an instruction set's translation unit sees and offers: plain structs of pointers, and one table of functions.
// These units must not include standard containers or algorithms (an inline function compiled with wide instructions
// could be the copy that the linker keeps for everyone), so nothing here has a constructor or a method.
#ifndef LORID_OPS_KERNELS_H_
#define LORID_OPS_KERNELS_H_

#include <cstdint>

namespace lorid {

// kBf16AsF32: values that bf16 holds, each in a float32. It is how an instruction set without a bf16 product wants its
// activations: whoever makes them rounds them, and no product has to widen them.
enum class DType : int32_t { kF32 = 0, kBf16 = 1, kBf16AsF32 = 2 };

constexpr int kBlockCols =
    32;  // columns of a packed weight block: [O / 32][I / 2][32][2] in bf16, [O / 32][I][32] in fp32
constexpr int kPageTokens = 16;    // tokens of a KV page
constexpr int kChunkTokens = 256;  // attention is reduced in chunks of this many absolute positions, merged in order
constexpr int kMaxTileVectors =
    32;  // query vectors that share the loads of one attention item, unless a group has more heads
constexpr int kMaxGroupHeads = 256;  // query heads of one key-value head
constexpr int kMaxHeadDim = 1024;
constexpr int kMaxBlock = 64;  // logits whose largest one block_max finds

static constexpr int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// What one adapter slot has for one module of O' outputs: nothing (rank 0), A and B, or W + scale B A in W's place.
struct LoraShare {
  const void* a;  // [R, I] in the weights' dtype
  const void* b;  // element (c, r) at c / 32 * b_block_stride + r * b_rank_stride + c % 32, in the weights' dtype
  int64_t b_block_stride, b_rank_stride;
  const void* merged;  // packed [O', I], or null; with it the rank is 0
  int32_t rank;
  float scale;
};

// One adapted module of a fused product, and the columns that it owns.
struct LoraTarget {
  const LoraShare* shares;  // [N]
  float* shrunk;            // [T, shrunk_stride]: A x, defined up to each row's rank
  int64_t shrunk_stride;
  int32_t col_begin, col_end;
};

// Rows [row_begin, row_end) x ranks [rank_begin, rank_end) of one adapter: shrunk = A x. Ranks count from the adapter's
// first.
struct ShrinkTile {
  DType dtype;    // of A
  const void* x;  // [T, I], as Kernels::activations has it
  int64_t x_stride;
  int32_t in_features;
  const void* a;  // the adapter's [R, I]
  float* shrunk;  // [T, shrunk_stride]
  int64_t shrunk_stride;
  int32_t row_begin, row_end, rank_begin, rank_end;
};

// Rows [row_begin, row_end) and columns [col_begin, col_end) (a multiple of 32 to the next, or to O) of
// y = W x + bias + sum over targets of scale B shrunk.
struct LinearTile {
  DType dtype;      // of W and B
  DType out_dtype;  // of y
  const void* x;    // [T, I], as Kernels::activations has it
  int64_t x_stride;
  int32_t in_features, out_features;
  const void* weight;  // packed; null for an expand alone, which adds to y
  const float* bias;   // [O], or null
  void* y;             // [T, O]
  int64_t y_stride;
  bool add_to_y;
  int32_t row_begin, row_end, col_begin, col_end;
  const LoraTarget* targets;
  int32_t num_targets;
  const int32_t* seg_offset;  // [S + 1]
  const int32_t* seg_slot;    // [S]
  int32_t num_segments;
  const int32_t* shrinks_left;  // the expand waits until this is 0; null = shrunk is there
};

struct RmsNormTile {
  DType in_dtype, out_dtype;
  const void* x;  // [T, E]
  int64_t x_stride;
  const int32_t* row_index;  // row of x for each row of y, or null for the same row
  const float* weight;       // [E]
  float epsilon;
  int32_t features;
  void* y;
  int64_t y_stride;
  int32_t row_begin, row_end;
};

// y = x / (1 - p) where a 16-bit draw is at least the threshold, which is p in 65536ths; else 0.
struct DropoutTile {
  DType dtype;
  const void* x;  // [T, I]
  int64_t x_stride;
  const uint64_t* key;  // [T]
  uint32_t module;
  uint16_t threshold;
  float scale;
  int32_t features;
  void* y;
  int64_t y_stride;
  int32_t row_begin, row_end;
};

struct SiluMulTile {
  DType in_dtype, out_dtype;
  const void* x;  // [T, 2 F]: gate, then up
  int64_t x_stride;
  int32_t features;
  void* y;  // [T, F]
  int64_t y_stride;
  int32_t row_begin, row_end, col_begin, col_end;
};

// The gradient of silu_mul: dx of gate and of up, from x and dy.
struct SiluMulBackwardTile {
  DType dtype;
  const void* x;  // [T, 2 F]: gate, then up
  int64_t x_stride;
  const void* dy;  // [T, F]
  int64_t dy_stride;
  int32_t features;
  void* dx;  // [T, 2 F]
  int64_t dx_stride;
  int32_t row_begin, row_end;
};

// The gradient of rms_norm with respect to x.
struct RmsNormBackwardTile {
  DType dtype;
  const void* x;  // [T, E]
  int64_t x_stride;
  const float* weight;  // [E]
  float epsilon;
  int32_t features;
  const void* dy;  // [T, E]
  int64_t dy_stride;
  void* dx;  // [T, E]
  int64_t dx_stride;
  int32_t row_begin, row_end;
};

// Rotates q and k (two halves of a head, as transformers does), normalised first where there are weights for that, and
// writes k and v into their pages.
//   bf16 pages: k [C][G][D / 2][16][2], v [C][G][8][Dp][2]; fp32 pages: k [C][G][D][16], v [C][G][16][Dp]; Dp = D
//   rounded up to 16
struct RopeTile {
  DType dtype;  // of the pages
  DType in_dtype, q_dtype;
  const void* qkv;  // [T, (H + 2 G) D]
  int64_t qkv_stride;
  const float* cos;  // [positions, D / 2]
  const float* sin;
  const float* q_norm;  // [D] weight of each query head's RMS norm, or null
  const float* k_norm;  // [D] likewise of each key head
  float norm_epsilon;
  const int32_t* positions;   // [T]
  const int64_t* cache_slot;  // [T]: page * 16 + place in the page
  void* q_out;                // [T, H D]
  int64_t q_out_stride;
  void* k_pages;
  void* v_pages;
  int32_t num_heads, num_kv_heads, head_dim;
  int32_t row_begin, row_end;
  int32_t head_begin, head_end;  // of the H + 2 G of qkv: queries, keys, values
};

// A row of a sequence, as attention sees it.
struct AttentionRow {
  int32_t row, position;
  const int32_t* pages;  // its sequence's pages, in order
};

struct AttentionTile {
  DType dtype;  // of the pages
  DType q_dtype, out_dtype;
  const void* q;  // [T, H D]
  int64_t q_stride;
  const void* k_pages;
  const void* v_pages;
  void* out;  // [T, H D]
  int64_t out_stride;
  float scale;
  int32_t window;  // keys a row sees, itself included; 0 = all before it
  int32_t num_heads, num_kv_heads, head_dim;
  const AttentionRow* rows;  // of any sequences; neighbours with a page in common share its loads
  int32_t num_rows;
  int32_t kv_head;
  void* scratch;  // AttentionScratchBytes(...)
};

// One sequence and one key-value head of training's attention: forward where dqkv is null, else backward.
struct TrainingAttentionTile {
  DType dtype;      // kBf16 or kF32, of all rows
  const void* qkv;  // [T, (H + 2 G) D], not rotated
  int64_t qkv_stride;
  const float* cos;  // [T, D / 2], or null where nothing is rotated
  const float* sin;
  void* out;  // [T, H D]
  int64_t out_stride;
  const void* dout;  // [T, H D]
  int64_t dout_stride;
  void* dqkv;  // [T, (H + 2 G) D]
  int64_t dqkv_stride;
  float scale;
  int32_t window;  // keys a row sees, itself included; 0 = all before it
  int32_t num_heads, num_kv_heads, head_dim;
  int64_t row_begin, row_end;  // of the sequence
  int32_t kv_head;
  void* scratch;  // TrainingScratchBytes(...)
};

struct Kernels {
  const char* name;
  void (*shrink)(const ShrinkTile&);
  void (*linear)(const LinearTile&);
  void (*rms_norm)(const RmsNormTile&);
  void (*silu_mul)(const SiluMulTile&);
  void (*dropout)(const DropoutTile&);
  void (*silu_mul_backward)(const SiluMulBackwardTile&);
  void (*rms_norm_backward)(const RmsNormBackwardTile&);
  void (*rope)(const RopeTile&);
  void (*attention)(const AttentionTile&);
  void (*training_attention)(const TrainingAttentionTile&);
  // most[i] = the largest of x[64 i] to x[64 i + 63] (fewer at the end of n), no NaN among them; -infinity if none is
  // left.
  void (*block_max)(const float* x, int64_t n, float* most);
  float (*read_all)(const float* x, int64_t n);  // see limits-inl.h
  double (*multiply_floats)(int64_t times, float* result);
  double (*multiply_bf16)(int64_t times, float* result);  // null = no bf16 product
  DType activations;  // how bf16 activations lie between the ops: kBf16 or kBf16AsF32
};

static inline int64_t AttentionVectors(int num_heads, int num_kv_heads, int rows) {
  return static_cast<int64_t>(num_heads / num_kv_heads) * rows;
}

// q, scores, probabilities, chunk sum, running sum, (max, sum) of each query vector.
static inline int64_t AttentionScratchBytes(int64_t vectors, int head_dim) {
  const int64_t padded = RoundUp(head_dim, 16);
  return vectors * 4 * (padded + 2 * kChunkTokens + 2 * padded + 16) + 64;
}

// Positions whose queries are computed together: those of so many vectors, or one position's.
constexpr int kBlockVectors = 48;
static inline int TrainingPositions(int heads) { return heads < kBlockVectors ? kBlockVectors / heads : 1; }
constexpr int kMostVectors = kMaxGroupHeads > kBlockVectors ? kMaxGroupHeads : kBlockVectors;  // of a block

// Five planes of all keys; q, dout and dq of a block; its probabilities and their gradients.
static inline int64_t TrainingScratchBytes(int64_t length, int heads, int head_dim) {
  const int64_t padded = RoundUp(head_dim, 16), padded_length = RoundUp(length, 16);
  const int64_t vectors = static_cast<int64_t>(TrainingPositions(heads)) * heads;
  return 4 * (5 * padded_length * padded + vectors * (3 * padded + 2 * padded_length)) + 64;
}

}  // namespace lorid

#endif  // LORID_OPS_KERNELS_H_
