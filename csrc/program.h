// A model's forward, recorded once as a flat list of phases over buffers of its own; each step is one call that runs
// them all.
#ifndef LORID_PROGRAM_H_
#define LORID_PROGRAM_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "ops/phases.h"
#include "ops/sample.h"

namespace lorid {

// What a step brings; arrays belong to the caller and outlive the run. Checked by Program::Run.
struct Step {
  Segments segments;
  Sequences sequences;
  const int32_t* token_ids = nullptr;    // [T]
  const int32_t* sample_rows = nullptr;  // [K]
  SampleArgs sample;                     // sample.rows = K
  const int32_t* page_copies = nullptr;  // [num_page_copies, 2]: from, to
  int32_t num_page_copies = 0;
};

// The adapters of one target module as the bank holds them.
struct BankTensors {
  const void* a = nullptr;
  const void* b_t = nullptr;
  const int32_t* rank_offset = nullptr;
  const float* scale = nullptr;
  int32_t max_rank = 0;
};

// What one layer's rotation reads; see RopeTile.
struct RopeTables {
  const float* cos = nullptr;
  const float* sin = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float norm_epsilon = 0;
};

class Program {
 public:
  struct Limits {
    int32_t max_rows, max_samples, vocabulary, max_positions, num_pages, num_slots;
  };

  Program(DType dtype, Limits limits);

  // Rows of `width` elements: as many as a step can have, or as many as can be sampled.
  int AddBuffer(int64_t width, DType dtype, bool sampled);
  // A fused linear's adapted columns [col_begin, col_end); the bank is set later. Returns its id.
  int AddTarget(int32_t col_begin, int32_t col_end);
  void SetTarget(int target, const BankTensors& bank);

  void Embed(const void* weight, int out);
  void RmsNorm(int in, const float* weight, float epsilon, int out, bool sampled);
  void Linear(int in, const void* weight, const float* bias, int32_t out_features, int out, bool add,
              const std::vector<int>& targets, bool sampled);
  void Rope(int in, const RopeTables& tables, int q_out, void* k_pages, void* v_pages, int num_heads, int num_kv_heads,
            int head_dim);
  void Attention(int q, int out, const void* k_pages, const void* v_pages, int num_heads, int num_kv_heads,
                 int head_dim, int window);
  void SiluMul(int in, int out);
  void Sample(int logits);

  // Throws std::runtime_error while another thread runs the program.
  void Run(const Step& step, int threads);

  // The last step's contents of a buffer, for tests and for whoever wants the logits.
  const void* BufferData(int buffer) const { return buffers_.at(buffer).data.get(); }
  int64_t BufferWidth(int buffer) const { return buffers_.at(buffer).width; }
  int64_t BufferRows(int buffer) const { return buffers_.at(buffer).sampled ? limits_.max_samples : limits_.max_rows; }
  DType BufferType(int buffer) const { return buffers_.at(buffer).dtype; }

 private:
  struct FreeDeleter {
    void operator()(void* p) const;
  };
  struct Buffer {
    int64_t width;
    DType dtype;
    bool sampled;
    std::unique_ptr<void, FreeDeleter> data;
  };
  using TargetGroup = std::vector<LoraTarget>;

  template <typename T>
  T& Add();
  Buffer& At(int buffer, DType dtype, int64_t least_width);
  void Check(const Step& step) const;
  void CopyPages(const Step& step) const;
  void PlaceShrunk();

  DType dtype_;
  Limits limits_;
  Step step_;
  std::vector<int64_t> cache_slot_;
  const int64_t* cache_slot_data_ = nullptr;
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Phase>> phases_;
  std::vector<Phase*> order_;
  std::vector<LoraTarget> targets_;                   // by id
  std::vector<int32_t> target_rank_;                  // widest rank by id
  std::vector<std::vector<int>> group_targets_;       // ids of a fused linear's targets
  std::vector<std::unique_ptr<TargetGroup>> groups_;  // copies that the phases read
  std::vector<std::vector<float>> shrunk_;            // one a place in a group: groups run one after another
  struct PageArray {
    char* pages;
    int64_t page_bytes;
  };
  std::vector<PageArray> page_arrays_;
  bool targets_changed_ = true;
  std::mutex running_;
};

}  // namespace lorid

#endif  // LORID_PROGRAM_H_
