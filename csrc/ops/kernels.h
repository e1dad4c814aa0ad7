// What an instruction set's translation unit sees and offers: plain structs of pointers, and one table of functions.
// These units must not include standard containers or algorithms (an inline function compiled with wide instructions
// could be the copy that the linker keeps for everyone), so nothing here has a constructor or a method.
#ifndef LORID_OPS_KERNELS_H_
#define LORID_OPS_KERNELS_H_

#include <cstdint>

namespace lorid {

enum class DType : int32_t { kF32 = 0, kBf16 = 1 };

constexpr int kBlockCols =
    32;  // columns of a packed weight block: [O / 32][I / 2][32][2] in bf16, [O / 32][I][32] in fp32
constexpr int kPageTokens = 16;    // tokens of a KV page
constexpr int kChunkTokens = 256;  // attention is reduced in chunks of this many absolute positions, merged in order
constexpr int kMaxTileVectors =
    32;  // query vectors that share the loads of one attention item, unless a group has more heads
constexpr int kMaxGroupHeads = 256;  // query heads of one key-value head
constexpr int kMaxHeadDim = 1024;

static constexpr int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// The adapters' rows of one target module, and the columns of the fused product that the module owns.
struct LoraTarget {
  const void* a;               // [sum R, I] in the activations' dtype
  const void* b_t;             // [sum R, col_end - col_begin] in the activations' dtype
  const int32_t* rank_offset;  // [N + 1]
  const float* scale;          // [N]
  float* shrunk;               // [T, shrunk_stride]: A x, defined up to each row's rank
  int64_t shrunk_stride;
  int32_t col_begin, col_end;
};

// Rows [row_begin, row_end) x ranks [rank_begin, rank_end) of one adapter: shrunk = A x. Ranks count from the adapter's
// first.
struct ShrinkTile {
  DType dtype;
  const void* x;  // [T, I]
  int64_t x_stride;
  int32_t in_features;
  const void* a;  // the adapter's [R, I]
  float* shrunk;  // [T, shrunk_stride]
  int64_t shrunk_stride;
  int32_t row_begin, row_end, rank_begin, rank_end;
};

// Columns [col_begin, col_end) (a multiple of 32 to the next, or to O) of y = W x + bias + sum over targets of scale B
// shrunk.
struct LinearTile {
  DType dtype;      // of x, W, b_t
  DType out_dtype;  // of y
  const void* x;    // [T, I]
  int64_t x_stride;
  int32_t in_features, out_features;
  const void* weight;  // packed; null for an expand alone, which adds to y
  const float* bias;   // [O], or null
  void* y;             // [T, O]
  int64_t y_stride;
  bool add_to_y;
  int32_t rows;
  int32_t col_begin, col_end;
  const LoraTarget* targets;
  int32_t num_targets;
  const int32_t* seg_offset;  // [S + 1]
  const int32_t* seg_slot;    // [S]
  int32_t num_segments;
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

struct SiluMulTile {
  DType in_dtype, out_dtype;
  const void* x;  // [T, 2 F]: gate, then up
  int64_t x_stride;
  int32_t features;
  void* y;  // [T, F]
  int64_t y_stride;
  int32_t row_begin, row_end, col_begin, col_end;
};

// Rotates q and k (two halves of a head, as transformers does), normalised first where there are weights for that, and
// writes k and v into their pages.
//   bf16 pages: k [C][G][D / 2][16][2], v [C][G][8][Dp][2]; fp32 pages: k [C][G][D][16], v [C][G][16][Dp]; Dp = D
//   rounded up to 16
struct RopeTile {
  DType in_dtype, out_dtype;  // of qkv; of q_out and the pages
  const void* qkv;            // [T, (H + 2 G) D]
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
};

struct AttentionTile {
  DType dtype;      // of q and the pages
  DType out_dtype;  // of out
  const void* q;    // [T, H D]
  int64_t q_stride;
  const void* k_pages;
  const void* v_pages;
  const int32_t* block_table;  // of this sequence
  void* out;                   // [T, H D]
  int64_t out_stride;
  float scale;
  int32_t window;  // keys a row sees, itself included; 0 = all before it
  int32_t num_heads, num_kv_heads, head_dim;
  int32_t row_begin, row_end;
  int32_t first_position;  // position of row_begin
  int32_t kv_head;
  void* scratch;  // AttentionScratchBytes(...)
};

struct Kernels {
  const char* name;
  void (*shrink)(const ShrinkTile&);
  void (*linear)(const LinearTile&);
  void (*rms_norm)(const RmsNormTile&);
  void (*silu_mul)(const SiluMulTile&);
  void (*rope)(const RopeTile&);
  void (*attention)(const AttentionTile&);
};

static inline int64_t AttentionVectors(int num_heads, int num_kv_heads, int rows) {
  return static_cast<int64_t>(num_heads / num_kv_heads) * rows;
}

// q, scores, probabilities, chunk sum, running sum, (max, sum) of each query vector.
static inline int64_t AttentionScratchBytes(int64_t vectors, int head_dim) {
  const int64_t padded = RoundUp(head_dim, 16);
  return vectors * 4 * (padded + 2 * kChunkTokens + 2 * padded + 16) + 64;
}

}  // namespace lorid

#endif  // LORID_OPS_KERNELS_H_
