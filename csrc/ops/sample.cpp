#include "sample.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "../dispatch.h"

namespace lorid {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A NaN counts as impossible, so that it can be neither drawn nor compared.
float LogitAt(const float* logits, int64_t id) { return std::isnan(logits[id]) ? -kInfinity : logits[id]; }

}  // namespace

double PhiloxUniform(uint64_t key, uint32_t sample, uint32_t position) {
  const Philox random = PhiloxAt(key, sample, position);
  return static_cast<double>(uint64_t{random.word[0]} << 21 | random.word[1] >> 11) * 0x1p-53;
}

int64_t SamplePhase::Prepare(int threads) {
  if (args->rows == 0) return 0;
  scratch_.resize(std::max<size_t>(scratch_.size(), threads));
  for (Scratch& scratch : scratch_) {
    scratch.most.resize(static_cast<size_t>((vocabulary + kMaxBlock - 1) / kMaxBlock));
    scratch.ordered.reserve(scratch.most.size());
    scratch.candidates.reserve(vocabulary);
  }
  return args->rows;
}

void SamplePhase::Run(int64_t item, int thread) noexcept {
  const float* row = logits + item * logits_stride;
  Scratch& scratch = scratch_[thread];
  ActiveKernels().block_max(row, vocabulary, scratch.most.data());
  args->token_ids[item] = Draw(row, item, scratch);
  if (args->num_logprobs >= 0) LogProbs(row, item, scratch);
}

int32_t SamplePhase::LargestId(const float* logits, const Scratch& scratch) const {
  const auto most = std::max_element(scratch.most.begin(), scratch.most.end());
  if (*most == -kInfinity) return -1;
  const int64_t begin = (most - scratch.most.begin()) * kMaxBlock;
  return static_cast<int32_t>(std::find(logits + begin, logits + vocabulary, *most) - logits);
}

// The `count` largest, in order; ties go to the lower id. The count-th largest of the blocks' largest is no larger than
// the count-th largest logit: only blocks that reach it are looked at.
void SamplePhase::Largest(const float* logits, int64_t count, Scratch& scratch) const {
  std::vector<Candidate>& candidates = scratch.candidates;
  candidates.clear();
  const auto blocks = static_cast<int64_t>(scratch.most.size());
  float bound = -kInfinity;
  if (count <= blocks) {
    scratch.ordered = scratch.most;
    std::nth_element(scratch.ordered.begin(), scratch.ordered.begin() + (count - 1), scratch.ordered.end(),
                     std::greater<float>());
    bound = scratch.ordered[static_cast<size_t>(count - 1)];
  }
  for (int64_t block = 0; block < blocks; block++) {
    if (scratch.most[static_cast<size_t>(block)] < bound) continue;
    const int64_t end = std::min<int64_t>((block + 1) * kMaxBlock, vocabulary);
    for (int64_t id = block * kMaxBlock; id < end; id++)
      if (const float logit = LogitAt(logits, id); logit >= bound)
        candidates.push_back({logit, static_cast<int32_t>(id)});
  }
  const auto kept = candidates.begin() + std::min<int64_t>(count, static_cast<int64_t>(candidates.size()));
  std::partial_sort(candidates.begin(), kept, candidates.end(), Before);
  candidates.erase(kept, candidates.end());
}

int32_t SamplePhase::Draw(const float* logits, int64_t row, Scratch& scratch) const {
  const int32_t best = LargestId(logits, scratch);
  const float temperature = args->temperature[row];
  if (temperature == 0 || best < 0 || logits[best] == kInfinity) return best;
  const double most = logits[best], uniform = PhiloxUniform(args->philox_key[row], args->philox_counter[2 * row],
                                                            args->philox_counter[2 * row + 1]);
  const auto weight = [&](float logit) { return std::exp((static_cast<double>(logit) - most) / temperature); };
  const bool all = args->top_k[row] <= 0 || args->top_k[row] >= vocabulary;
  const double top_p = args->top_p[row];
  if (all && top_p >= 1) {  // in the order of ids: nothing needs sorting
    double total = 0, reached = 0;
    for (int32_t id = 0; id < vocabulary; id++) total += weight(LogitAt(logits, id));
    for (int32_t id = 0; id < vocabulary; id++) {
      reached += weight(LogitAt(logits, id));
      if (reached > uniform * total) return id;
    }
    return best;
  }
  double total = 0;
  int64_t count = args->top_k[row];
  if (all) {
    for (int32_t id = 0; id < vocabulary; id++) total += weight(LogitAt(logits, id));
    count = 256;
  }
  while (true) {  // with top-k once; for top-p alone, more and more of the largest until they hold enough
    Largest(logits, count, scratch);
    const std::vector<Candidate>& candidates = scratch.candidates;
    if (!all) {
      total = 0;
      for (const Candidate& candidate : candidates) total += weight(candidate.logit);
    }
    double kept = 0;
    for (const Candidate& last : candidates) {
      kept += weight(last.logit);
      if (kept < top_p * total && &last != &candidates.back()) continue;
      if (kept < top_p * total && all && static_cast<int64_t>(candidates.size()) < vocabulary) break;
      double reached = 0;
      for (const Candidate& candidate : candidates) {
        reached += weight(candidate.logit);
        if (reached > uniform * kept || &candidate == &last) return candidate.id;
      }
    }
    count *= 8;
  }
}

void SamplePhase::LogProbs(const float* logits, int64_t row, Scratch& scratch) const {
  const int32_t token = args->token_ids[row], best = LargestId(logits, scratch);
  const int32_t count = args->num_logprobs;
  const double most = best < 0 ? 0 : logits[best];
  double total = 0;
  int32_t rank = 1;
  for (int32_t id = 0; id < vocabulary; id++) {
    total += std::exp(static_cast<double>(LogitAt(logits, id)) - most);
    if (token >= 0 && logits[id] > logits[token]) rank++;
  }
  const double normaliser = most + std::log(total);
  args->logprob[row] = token < 0 ? -kInfinity : static_cast<float>(logits[token] - normaliser);
  args->rank[row] = rank;
  if (count == 0) return;
  Largest(logits, count, scratch);
  const std::vector<Candidate>& candidates = scratch.candidates;
  for (int32_t i = 0; i < count; i++) {
    const bool there = i < static_cast<int32_t>(candidates.size());
    args->top_ids[static_cast<int64_t>(row) * count + i] = there ? candidates[i].id : -1;
    args->top_logprobs[static_cast<int64_t>(row) * count + i] =
        there ? static_cast<float>(candidates[i].logit - normaliser) : -kInfinity;
  }
}

}  // namespace lorid
