// A model's forward, recorded once as a flat list of phases over buffers of its own; each step is one call that runs
// them all.
#ifndef LORID_PROGRAM_H_
#define LORID_PROGRAM_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
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
  // A fused linear's adapted columns [col_begin, col_end); its adapters are set later. Returns its id.
  int AddTarget(int32_t col_begin, int32_t col_end);
  // What an adapter slot has for a target from now on; what it points to belongs to the caller.
  void SetShare(int target, int32_t slot, const LoraShare& share);

  void Embed(const void* weight, int out);
  void RmsNorm(int in, const float* weight, float epsilon, int out, bool sampled);
  // A silu_mul or rope that comes next on the output is done with it where shapes allow.
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

  // From now on, what each kind of phase takes is added up; also empties what was added.
  void StartProfile();
  // Seconds by kind of phase since then.
  std::map<std::string, double> Profile() const;

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
  // The adapted modules of one fused linear.
  struct TargetGroup {
    std::vector<int> ids;
    std::vector<LoraTarget> active;  // those of them that some adapter has; what the phases read
  };

  template <typename T>
  T& Add(const char* kind);
  Buffer& At(int buffer, DType dtype, int64_t least_width);
  LinearPhase* LastLinear(int out);
  void Check(const Step& step) const;
  void CopyPages(const Step& step) const;
  void PlaceCacheSlots(const Step& step);
  void PlaceShrunk();

  DType dtype_;
  DType activations_;  // how those of bf16 lie in the buffers
  Limits limits_;
  Step step_;
  std::vector<int64_t> cache_slot_;
  const int64_t* cache_slot_data_ = nullptr;
  AttentionPlan attention_plan_;
  std::vector<char> attention_scratch_;
  int num_heads_ = 0, num_kv_heads_ = 0;  // 0 = no attention yet
  std::vector<Buffer> buffers_;
  std::vector<std::unique_ptr<Phase>> phases_;
  std::vector<Phase*> order_;
  std::vector<std::string> kinds_;  // of the phases
  bool profiled_ = false;
  std::vector<double> seconds_;                       // of the phases
  LinearPhase* last_linear_ = nullptr;                // if it is the last phase
  int last_out_ = -1;                                 // its output buffer
  std::vector<LoraTarget> targets_;                   // by id
  std::vector<bool> whole_blocks_;                    // whether a target's last block has no columns of others
  std::vector<std::vector<LoraShare>> shares_;        // [target][slot]
  std::vector<std::unique_ptr<TargetGroup>> groups_;  // of the fused linears
  std::vector<std::vector<float>> shrunk_;            // one a place in a group: groups run one after another
  struct PageArray {
    char* pages;
    int64_t page_bytes;
  };
  std::vector<PageArray> page_arrays_;
  bool targets_changed_ = true;
  mutable std::mutex running_;
};

}  // namespace lorid

#endif  // LORID_PROGRAM_H_
