// Drawing a token from a row of logits: temperature, top-k, top-p, greedy; log-probabilities of the raw logits.
#ifndef LORID_OPS_SAMPLE_H_
#define LORID_OPS_SAMPLE_H_

#include <cstdint>
#include <vector>

#include "../thread_pool.h"
#include "philox.h"

namespace lorid {

struct SampleArgs {
  int32_t rows = 0;                          // K
  const uint64_t* philox_key = nullptr;      // [K]
  const uint32_t* philox_counter = nullptr;  // [K, 2]: sample, position
  const float* temperature = nullptr;        // [K]; 0 = greedy
  const int32_t* top_k = nullptr;            // [K]; 0 = off
  const float* top_p = nullptr;              // [K]; 1 = off
  int32_t num_logprobs = -1;                 // -1 = none, not even the drawn token's
  int32_t* token_ids = nullptr;              // [K]; -1 where no logit is a number
  float* logprob = nullptr;                  // [K]
  int32_t* rank = nullptr;                   // [K]; 1 = the largest logit
  int32_t* top_ids = nullptr;                // [K, num_logprobs]
  float* top_logprobs = nullptr;             // [K, num_logprobs]
};

// A number in [0, 1) with 53 random bits: of Philox with counter (sample, position, 0, 0).
double PhiloxUniform(uint64_t key, uint32_t sample, uint32_t position);

class SamplePhase : public Phase {
 public:
  const float* logits = nullptr;  // [K, V]
  int64_t logits_stride = 0;
  int32_t vocabulary = 0;
  const SampleArgs* args = nullptr;

  int64_t Prepare(int threads) override;
  void Run(int64_t item, int thread) noexcept override;

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  struct Scratch {
    std::vector<float> most;            // the largest logit of each 64
    std::vector<float> ordered;         // the same, partly sorted
    std::vector<Candidate> candidates;  // with room for the whole vocabulary
  };
  int32_t LargestId(const float* logits, const Scratch& scratch) const;
  int32_t Draw(const float* logits, int64_t row, Scratch& scratch) const;
  void LogProbs(const float* logits, int64_t row, Scratch& scratch) const;
  void Largest(const float* logits, int64_t count, Scratch& scratch) const;
  static bool Before(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }

  std::vector<Scratch> scratch_;  // one a thread
};

}  // namespace lorid

#endif  // LORID_OPS_SAMPLE_H_
