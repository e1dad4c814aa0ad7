// The ops as phases of the thread pool: each cuts its work into items and calls the active instruction set's kernel for
// them. How the work is cut depends on sizes and threads and never shows in the result. Fields are set by whoever owns
// the phase; those of a step (rows, segments, tables) are read in Prepare, so a recorded phase takes each step's own.
#ifndef LORID_OPS_PHASES_H_
#define LORID_OPS_PHASES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../thread_pool.h"
#include "kernels.h"

namespace lorid {

// The rows of a step and their segments; pointers are to arrays that outlive the run.
struct Segments {
  int32_t rows = 0;
  int32_t count = 0;
  const int32_t* offset = nullptr;  // [count + 1]
  const int32_t* slot = nullptr;    // [count]
};

class ShrinkPhase : public Phase {
 public:
  DType dtype = DType::kF32;  // of A
  const void* x = nullptr;
  int64_t x_stride = 0;
  int32_t in_features = 0;
  const std::vector<LoraTarget>* targets = nullptr;
  const Segments* segments = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  std::vector<ShrinkTile> tiles_;
};

// A fused linear with its adapters: the shrinks are its first items, so that the others, which multiply by W first,
// find them done. What follows element by element is done to the columns of an item while they are in the cache.
class LinearPhase : public Phase {
 public:
  enum class Then { kNothing, kSiluMul, kRope };

  LinearTile tile = {};                              // rows, columns and segments are filled in
  const std::vector<LoraTarget>* targets = nullptr;  // null = none
  bool shrunk = false;                               // the targets' A x is there already
  const Segments* segments = nullptr;
  const int32_t* rows = nullptr;  // where it is not all rows of the segments
  Then then = Then::kNothing;
  SiluMulTile silu_mul = {};  // of y; rows and columns are filled in
  RopeTile rope = {};         // of y; rows, heads, positions and places are filled in
  const int32_t* const* positions = nullptr;
  const int64_t* const* cache_slot = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  int64_t PrepareShrinks(int threads);
  void RunColumns(int32_t row_begin, int32_t row_end, int32_t col_begin, int32_t col_end) const;

  ShrinkPhase shrink_;
  int32_t shrinks_ = 0;
  int32_t columns_ = 0, columns_per_item_ = kBlockCols;  // of those that the items divide among themselves
  int32_t row_groups_ = 1, rows_per_group_ = 0;
  alignas(64) int32_t shrinks_left_ = 0;  // every item reads what lies above, and only some change this
};

// y = x widened, for an instruction set that takes bf16 activations as float32.
class WidenPhase : public Phase {
 public:
  const uint16_t* x = nullptr;  // [T, I]
  int64_t x_stride = 0;
  int32_t rows = 0, features = 0;
  float* y = nullptr;  // [T, I] without gaps

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;
};

class RmsNormPhase : public Phase {
 public:
  RmsNormTile tile = {};
  const int32_t* rows = nullptr;
  const int32_t* const* row_index = nullptr;  // null = every row itself

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  int32_t rows_per_item_ = 1;
};

class SiluMulPhase : public Phase {
 public:
  SiluMulTile tile = {};
  const int32_t* rows = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  int32_t rows_per_item_ = 1, columns_per_item_ = 0, column_items_ = 1;
};

// A kernel over whole rows, some of them an item.
template <typename Tile>
class RowsPhase : public Phase {
 public:
  Tile tile = {};
  int32_t rows = 0;
  void (*Kernels::*kernel)(const Tile&) = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  int32_t rows_per_item_ = 1;
};

class RopePhase : public Phase {
 public:
  RopeTile tile = {};
  const int32_t* rows = nullptr;
  const int32_t* const* positions = nullptr;
  const int64_t* const* cache_slot = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;
};

// The sequences of a step.
struct Sequences {
  int32_t count = 0;
  const int32_t* query_offset = nullptr;  // [count + 1]
  const int32_t* block_table = nullptr;   // [count, block_table_stride]
  int64_t block_table_stride = 0;
  const int32_t* positions = nullptr;  // [T]
};

// Which rows are attended together; the same for every layer of a step.
class AttentionPlan {
 public:
  struct Group {
    int32_t begin, end;  // of rows
    int64_t keys;        // that they see, without a window
  };

  void Build(const Sequences& sequences, int num_heads, int num_kv_heads, int threads);
  int64_t count() const { return static_cast<int64_t>(groups_.size()); }
  const Group& group(int64_t index) const { return groups_[static_cast<std::size_t>(index)]; }
  const AttentionRow* rows() const { return rows_.data(); }
  int32_t most_rows() const { return most_rows_; }  // of a group

 private:
  void AddGroups(int32_t begin, int32_t rows_per_group);

  std::vector<AttentionRow> rows_;
  std::vector<Group> groups_;
  int32_t most_rows_ = 0;
};

class AttentionPhase : public Phase {
 public:
  AttentionTile tile = {};  // rows, head and scratch are filled in
  const AttentionPlan* plan = nullptr;
  std::vector<char>* scratch = nullptr;  // grown as needed; phases that do not run at once may share it

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  int64_t scratch_bytes_ = 0;  // of a thread
};

// y[t] = row token_ids[t] of a packed weight, widened to fp32 or copied.
// Attention of whole sequences, forward or backward; an item is a sequence and a key-value head.
class TrainingAttentionPhase : public Phase {
 public:
  TrainingAttentionTile tile = {};
  const int32_t* offset = nullptr;  // [count + 1] rows of the sequences
  int32_t count = 0;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  std::vector<int32_t> order_;  // the longest first
  std::unique_ptr<char[]> scratch_;
  int64_t scratch_bytes_ = 0;
};

class EmbedPhase : public Phase {
 public:
  DType dtype = DType::kF32, out_dtype = DType::kF32;
  const void* weight = nullptr;  // packed [V, E]
  int32_t features = 0;
  const int32_t* const* token_ids = nullptr;
  const int32_t* rows = nullptr;
  void* y = nullptr;
  int64_t y_stride = 0;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;
};

// Packs columns [O, I] (row-major) into blocks; see kBlockCols.
class PackPhase : public Phase {
 public:
  DType dtype = DType::kF32;
  const void* weight = nullptr;
  int64_t weight_stride = 0;
  int32_t out_features = 0, in_features = 0;
  void* packed = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;
};

inline int64_t PackedElements(DType dtype, int64_t out_features, int64_t in_features) {
  return RoundUp(out_features, kBlockCols) * (dtype == DType::kBf16 ? RoundUp(in_features, 2) : in_features);
}

}  // namespace lorid

#endif  // LORID_OPS_PHASES_H_
