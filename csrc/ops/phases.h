// The ops as phases of the thread pool: each cuts its work into items and calls the active instruction set's kernel for
// them. How the work is cut depends on sizes and threads and never shows in the result. Fields are set by whoever owns
// the phase; those of a step (rows, segments, tables) are read in Prepare, so a recorded phase takes each step's own.
#ifndef LORID_OPS_PHASES_H_
#define LORID_OPS_PHASES_H_

#include <cstdint>
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
  DType dtype = DType::kF32;
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

class LinearPhase : public Phase {
 public:
  LinearTile tile = {};                              // rows, columns and segments are filled in
  const std::vector<LoraTarget>* targets = nullptr;  // null = none
  const Segments* segments = nullptr;
  const int32_t* rows = nullptr;  // where it is not all rows of the segments

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  int32_t columns_per_item_ = kBlockCols;
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

class AttentionPhase : public Phase {
 public:
  AttentionTile tile = {};
  const Sequences* sequences = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  struct Item {
    int32_t sequence, row_begin, row_end;
  };
  std::vector<Item> items_;
  std::vector<char> scratch_;
  int64_t scratch_bytes_ = 0;
};

// y[t] = row token_ids[t] of a packed weight, widened to fp32 or copied.
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
