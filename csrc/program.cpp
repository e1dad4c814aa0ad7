#include "program.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "check.h"
#include "dispatch.h"

namespace lorid {
namespace {

int64_t ElementBytes(DType dtype) { return dtype == DType::kBf16 ? 2 : 4; }

void CheckOffsets(const char* name, const int32_t* offset, int32_t count, int32_t last) {
  LORID_CHECK(offset[0] == 0, name, " must start at 0; got ", offset[0]);
  for (int32_t i = 0; i < count; i++)
    LORID_CHECK(offset[i] <= offset[i + 1], name, " must not decrease; got ", offset[i], " before ", offset[i + 1]);
  LORID_CHECK(offset[count] == last, name, " must end at the number of rows, ", last, "; got ", offset[count]);
}

}  // namespace

void Program::FreeDeleter::operator()(void* p) const { std::free(p); }

Program::Program(DType dtype, Limits limits)
    : dtype_(dtype), activations_(dtype == DType::kBf16 ? ActiveKernels().activations : DType::kF32), limits_(limits) {
  LORID_CHECK(limits.max_rows > 0 && limits.max_samples > 0 && limits.vocabulary > 0 && limits.max_positions > 0 &&
                  limits.num_pages > 0 && limits.num_slots >= 0,
              "a program's limits must be positive");
  cache_slot_.resize(limits.max_rows);
  cache_slot_data_ = cache_slot_.data();
}

template <typename T>
T& Program::Add(const char* kind) {
  phases_.push_back(std::make_unique<T>());
  order_.push_back(phases_.back().get());
  kinds_.emplace_back(kind);
  last_linear_ = nullptr;
  return static_cast<T&>(*phases_.back());
}

int Program::AddBuffer(int64_t width, DType dtype, bool sampled) {
  if (dtype == DType::kBf16) dtype = activations_;
  const int64_t bytes = RoundUp((sampled ? limits_.max_samples : limits_.max_rows) * width * ElementBytes(dtype), 64);
  void* data = std::aligned_alloc(64, static_cast<size_t>(bytes));
  if (data == nullptr) throw std::bad_alloc();
  buffers_.push_back({width, dtype, sampled, std::unique_ptr<void, FreeDeleter>(data)});
  return static_cast<int>(buffers_.size()) - 1;
}

Program::Buffer& Program::At(int buffer, DType dtype, int64_t least_width) {
  LORID_CHECK(buffer >= 0 && buffer < static_cast<int>(buffers_.size()), "there is no buffer ", buffer);
  Buffer& found = buffers_[buffer];
  LORID_CHECK(found.dtype == dtype, "buffer ", buffer, " has another element type than the op needs");
  LORID_CHECK(found.width >= least_width, "buffer ", buffer, " must be at least ", least_width, " wide; it is ",
              found.width);
  return found;
}

int Program::AddTarget(int32_t col_begin, int32_t col_end) {
  LORID_CHECK(0 <= col_begin && col_begin < col_end, "a target's columns must be a range; got ", col_begin, " to ",
              col_end);
  LoraTarget target = {};
  target.col_begin = col_begin;
  target.col_end = col_end;
  targets_.push_back(target);
  shares_.emplace_back(limits_.num_slots);
  whole_blocks_.push_back(col_end % kBlockCols == 0);
  return static_cast<int>(targets_.size()) - 1;
}

void Program::SetShare(int target, int32_t slot, const LoraShare& share) {
  const std::unique_lock<std::mutex> only(running_, std::try_to_lock);
  LORID_CHECK(only.owns_lock(), "adapters cannot change while a step runs");
  LORID_CHECK(target >= 0 && target < static_cast<int>(targets_.size()), "there is no target ", target);
  LORID_CHECK(slot >= 0 && slot < limits_.num_slots, "slot must be from 0 to ", limits_.num_slots - 1, "; got ", slot);
  LORID_CHECK(share.rank >= 0 && (share.rank == 0 || (share.a != nullptr && share.b != nullptr)), "an adapter of rank ",
              share.rank, " needs its matrices");
  LORID_CHECK(share.merged == nullptr || share.rank == 0, "a merged adapter has no rank of its own");
  LORID_CHECK(share.merged == nullptr || (targets_[target].col_begin % kBlockCols == 0 && whole_blocks_[target]),
              "columns ", targets_[target].col_begin, " to ", targets_[target].col_end,
              " are not whole blocks: an adapter of theirs cannot be merged");
  shares_[target][slot] = share;
  targets_changed_ = true;
}

void Program::Embed(const void* weight, int out) {
  Buffer& y = At(out, DType::kF32, 1);
  auto& phase = Add<EmbedPhase>("embed");
  phase.dtype = dtype_;
  phase.out_dtype = DType::kF32;
  phase.weight = weight;
  phase.features = static_cast<int32_t>(y.width);
  phase.token_ids = &step_.token_ids;
  phase.rows = &step_.segments.rows;
  phase.y = y.data.get();
  phase.y_stride = y.width;
}

void Program::RmsNorm(int in, const float* weight, float epsilon, int out, bool sampled) {
  Buffer& x = At(in, DType::kF32, 1);
  Buffer& y = At(out, activations_, x.width);
  auto& phase = Add<RmsNormPhase>("rms_norm");
  LORID_CHECK(y.sampled == sampled, "buffer ", out, " holds another kind of rows");
  phase.tile.in_dtype = DType::kF32;
  phase.tile.out_dtype = activations_;
  phase.tile.x = x.data.get();
  phase.tile.x_stride = x.width;
  phase.tile.weight = weight;
  phase.tile.epsilon = epsilon;
  phase.tile.features = static_cast<int32_t>(x.width);
  phase.tile.y = y.data.get();
  phase.tile.y_stride = y.width;
  phase.rows = sampled ? &step_.sample.rows : &step_.segments.rows;
  phase.row_index = sampled ? &step_.sample_rows : nullptr;
}

void Program::Linear(int in, const void* weight, const float* bias, int32_t out_features, int out, bool add,
                     const std::vector<int>& targets, bool sampled) {
  Buffer& x = At(in, activations_, 1);
  Buffer& y = At(out, DType::kF32, out_features);
  LORID_CHECK(x.sampled == sampled && y.sampled == sampled, "buffers ", in, " and ", out, " hold other kinds of rows");
  LORID_CHECK(targets.empty() || !sampled, "a linear over sampled rows cannot be adapted: its segments are the step's");
  for (const int id : targets)
    LORID_CHECK(id >= 0 && id < static_cast<int>(targets_.size()) && targets_[id].col_end <= out_features, "target ",
                id, " is none of this linear's");
  for (const int id : targets)
    if (targets_[id].col_end == out_features) whole_blocks_[id] = true;  // what is past them is padding
  auto& phase = Add<LinearPhase>(sampled ? "head" : add ? "linear, added" : "linear");
  if (!targets.empty()) {
    groups_.push_back(std::make_unique<TargetGroup>(TargetGroup{targets, {}}));
    phase.targets = &groups_.back()->active;
    targets_changed_ = true;
  }
  phase.tile.dtype = dtype_;
  phase.tile.out_dtype = DType::kF32;
  phase.tile.x = x.data.get();
  phase.tile.x_stride = x.width;
  phase.tile.in_features = static_cast<int32_t>(x.width);
  phase.tile.out_features = out_features;
  phase.tile.weight = weight;
  phase.tile.bias = bias;
  phase.tile.y = y.data.get();
  phase.tile.y_stride = y.width;
  phase.tile.add_to_y = add;
  phase.segments = &step_.segments;
  phase.rows = sampled ? &step_.sample.rows : &step_.segments.rows;
  if (!add && !sampled) {
    last_linear_ = &phase;
    last_out_ = out;
  }
}

// The linear just recorded, if it wrote this buffer.
LinearPhase* Program::LastLinear(int out) { return last_out_ == out ? last_linear_ : nullptr; }

void Program::Rope(int in, const RopeTables& tables, int q_out, void* k_pages, void* v_pages, int num_heads,
                   int num_kv_heads, int head_dim) {
  LORID_CHECK(head_dim > 0 && head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "head_dim must be even and at most ",
              kMaxHeadDim, "; got ", head_dim);
  LORID_CHECK(num_kv_heads > 0 && num_heads % num_kv_heads == 0 && num_heads / num_kv_heads <= kMaxGroupHeads,
              "heads must be a multiple of key-value heads, at most ", kMaxGroupHeads, " each; got ", num_heads,
              " and ", num_kv_heads);
  Buffer& x = At(in, DType::kF32, static_cast<int64_t>(num_heads + 2 * num_kv_heads) * head_dim);
  Buffer& q = At(q_out, activations_, static_cast<int64_t>(num_heads) * head_dim);
  RopeTile tile = {};
  tile.dtype = dtype_;
  tile.in_dtype = DType::kF32;
  tile.q_dtype = activations_;
  tile.qkv = x.data.get();
  tile.qkv_stride = x.width;
  tile.cos = tables.cos;
  tile.sin = tables.sin;
  tile.q_norm = tables.q_norm;
  tile.k_norm = tables.k_norm;
  tile.norm_epsilon = tables.norm_epsilon;
  tile.q_out = q.data.get();
  tile.q_out_stride = q.width;
  tile.k_pages = k_pages;
  tile.v_pages = v_pages;
  tile.num_heads = num_heads;
  tile.num_kv_heads = num_kv_heads;
  tile.head_dim = head_dim;
  const auto set = [&](auto& phase, RopeTile& phase_tile) {
    phase_tile = tile;
    phase.rows = &step_.segments.rows;
    phase.positions = &step_.sequences.positions;
    phase.cache_slot = &cache_slot_data_;
  };
  LinearPhase* linear = head_dim % kBlockCols == 0 ? LastLinear(in) : nullptr;
  if (linear != nullptr && linear->tile.out_features == (num_heads + 2 * num_kv_heads) * head_dim &&
      linear->tile.x != tile.q_out) {
    linear->then = LinearPhase::Then::kRope;
    kinds_.back() = "linear and rope";
    set(*linear, linear->rope);
    last_linear_ = nullptr;
  } else {
    auto& phase = Add<RopePhase>("rope");
    set(phase, phase.tile);
  }
  const int64_t elements = static_cast<int64_t>(kPageTokens) * num_kv_heads * ElementBytes(dtype_);
  page_arrays_.push_back({static_cast<char*>(k_pages), elements * head_dim});
  page_arrays_.push_back({static_cast<char*>(v_pages), elements * RoundUp(head_dim, 16)});
}

void Program::Attention(int q, int out, const void* k_pages, const void* v_pages, int num_heads, int num_kv_heads,
                        int head_dim, int window) {
  LORID_CHECK(head_dim > 0 && head_dim <= kMaxHeadDim && num_kv_heads > 0 && num_heads % num_kv_heads == 0 &&
                  num_heads / num_kv_heads <= kMaxGroupHeads,
              "attention over ", num_heads, " heads, ", num_kv_heads, " key-value heads of ", head_dim,
              " is not supported");
  LORID_CHECK(num_heads_ == 0 || (num_heads_ == num_heads && num_kv_heads_ == num_kv_heads),
              "all layers must have as many heads as the first: ", num_heads_, " and ", num_kv_heads_);
  num_heads_ = num_heads;
  num_kv_heads_ = num_kv_heads;
  Buffer& from = At(q, activations_, static_cast<int64_t>(num_heads) * head_dim);
  Buffer& to = At(out, activations_, from.width);
  auto& phase = Add<AttentionPhase>("attention");
  phase.tile.dtype = dtype_;
  phase.tile.q_dtype = phase.tile.out_dtype = activations_;
  phase.tile.q = from.data.get();
  phase.tile.q_stride = from.width;
  phase.tile.k_pages = k_pages;
  phase.tile.v_pages = v_pages;
  phase.tile.out = to.data.get();
  phase.tile.out_stride = to.width;
  phase.tile.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)));
  phase.tile.window = window;
  phase.tile.num_heads = num_heads;
  phase.tile.num_kv_heads = num_kv_heads;
  phase.tile.head_dim = head_dim;
  phase.plan = &attention_plan_;
  phase.scratch = &attention_scratch_;
}

void Program::SiluMul(int in, int out) {
  Buffer& y = At(out, activations_, 1);
  Buffer& x = At(in, DType::kF32, 2 * y.width);
  SiluMulTile tile = {};
  tile.in_dtype = DType::kF32;
  tile.out_dtype = activations_;
  tile.x = x.data.get();
  tile.x_stride = x.width;
  tile.features = static_cast<int32_t>(y.width);
  tile.y = y.data.get();
  tile.y_stride = y.width;
  LinearPhase* linear = y.width % kBlockCols == 0 ? LastLinear(in) : nullptr;
  if (linear != nullptr && linear->tile.out_features == 2 * y.width && linear->tile.x != tile.y) {
    linear->then = LinearPhase::Then::kSiluMul;
    kinds_.back() = "linear and silu_mul";
    linear->silu_mul = tile;
    last_linear_ = nullptr;
    return;
  }
  auto& phase = Add<SiluMulPhase>("silu_mul");
  phase.tile = tile;
  phase.rows = &step_.segments.rows;
}

void Program::Sample(int logits) {
  Buffer& x = At(logits, DType::kF32, limits_.vocabulary);
  auto& phase = Add<SamplePhase>("sample");
  phase.logits = static_cast<const float*>(x.data.get());
  phase.logits_stride = x.width;
  phase.vocabulary = limits_.vocabulary;
  phase.args = &step_.sample;
}

void Program::Check(const Step& step) const {
  const int32_t rows = step.segments.rows, samples = step.sample.rows;
  LORID_CHECK(rows >= 0 && rows <= limits_.max_rows, "a step may have ", limits_.max_rows, " rows; got ", rows);
  LORID_CHECK(samples <= limits_.max_samples, "a step may sample ", limits_.max_samples, " rows; got ", samples);
  CheckOffsets("seg_offset", step.segments.offset, step.segments.count, rows);
  CheckOffsets("query_offset", step.sequences.query_offset, step.sequences.count, rows);
  for (int32_t s = 0; s < step.segments.count; s++)
    LORID_CHECK(step.segments.slot[s] >= -1 && step.segments.slot[s] < limits_.num_slots,
                "seg_slot must be from -1 to ", limits_.num_slots - 1, "; got ", step.segments.slot[s]);
  for (int32_t t = 0; t < rows; t++)
    LORID_CHECK(step.token_ids[t] >= 0 && step.token_ids[t] < limits_.vocabulary, "token_ids must be from 0 to ",
                limits_.vocabulary - 1, "; got ", step.token_ids[t]);
  for (int32_t k = 0; k < samples; k++)
    LORID_CHECK(step.sample_rows[k] >= 0 && step.sample_rows[k] < rows, "sample_rows must be from 0 to ", rows - 1,
                "; got ", step.sample_rows[k]);
  const Sequences& sequences = step.sequences;
  for (int32_t b = 0; b < sequences.count; b++) {
    const int32_t begin = sequences.query_offset[b], end = sequences.query_offset[b + 1];
    if (begin == end) continue;
    for (int32_t t = begin; t < end; t++)
      LORID_CHECK(sequences.positions[t] == sequences.positions[begin] + (t - begin) && sequences.positions[t] >= 0 &&
                      sequences.positions[t] < limits_.max_positions,
                  "positions of a sequence must count up within 0 to ", limits_.max_positions - 1, "; got ",
                  sequences.positions[t], " for row ", t);
    const int32_t pages = sequences.positions[end - 1] / kPageTokens + 1;
    LORID_CHECK(pages <= sequences.block_table_stride, "block_table has ", sequences.block_table_stride,
                " columns; sequence ", b, " needs ", pages);
    for (int32_t page = 0; page < pages; page++) {
      const int32_t id = sequences.block_table[b * sequences.block_table_stride + page];
      LORID_CHECK(id >= 0 && id < limits_.num_pages, "block_table must name pages 0 to ", limits_.num_pages - 1,
                  "; got ", id);
    }
  }
  for (int32_t i = 0; i < 2 * step.num_page_copies; i++)
    LORID_CHECK(step.page_copies[i] >= 0 && step.page_copies[i] < limits_.num_pages,
                "page_copies must name pages 0 to ", limits_.num_pages - 1, "; got ", step.page_copies[i]);
}

void Program::CopyPages(const Step& step) const {
  for (int32_t i = 0; i < step.num_page_copies; i++)
    for (const PageArray& array : page_arrays_)
      std::memcpy(array.pages + array.page_bytes * step.page_copies[2 * i + 1],
                  array.pages + array.page_bytes * step.page_copies[2 * i], static_cast<size_t>(array.page_bytes));
}

// Gives every group its targets that have an adapter, and room for their shrunk activations.
void Program::PlaceShrunk() {
  if (!targets_changed_) return;
  const auto widest_rank = [&](int id) {
    int64_t widest = 0;
    for (const LoraShare& share : shares_[id]) widest = std::max<int64_t>(widest, share.rank);
    return widest;
  };
  std::vector<int64_t> widest;
  for (const auto& group : groups_) {
    widest.resize(std::max(widest.size(), group->ids.size()));
    for (size_t i = 0; i < group->ids.size(); i++) widest[i] = std::max(widest[i], widest_rank(group->ids[i]));
  }
  shrunk_.resize(widest.size());
  for (size_t i = 0; i < widest.size(); i++) shrunk_[i].resize(static_cast<size_t>(widest[i]) * limits_.max_rows);
  for (const auto& group : groups_) {
    group->active.clear();
    for (size_t i = 0; i < group->ids.size(); i++) {
      const std::vector<LoraShare>& shares = shares_[group->ids[i]];
      if (std::none_of(shares.begin(), shares.end(),
                       [](const LoraShare& share) { return share.rank > 0 || share.merged != nullptr; }))
        continue;
      LoraTarget target = targets_[group->ids[i]];
      target.shares = shares.data();
      target.shrunk = shrunk_[i].data();
      target.shrunk_stride = widest[i];
      group->active.push_back(target);
    }
  }
  targets_changed_ = false;
}

void Program::PlaceCacheSlots(const Step& step) {
  for (int32_t b = 0; b < step.sequences.count; b++) {
    const int32_t* pages = step.sequences.block_table + b * step.sequences.block_table_stride;
    for (int32_t t = step.sequences.query_offset[b]; t < step.sequences.query_offset[b + 1]; t++) {
      const int32_t position = step.sequences.positions[t];
      cache_slot_[t] = static_cast<int64_t>(pages[position / kPageTokens]) * kPageTokens + position % kPageTokens;
    }
  }
}

void Program::Run(const Step& step, int threads) {
  const std::unique_lock<std::mutex> only(running_, std::try_to_lock);
  if (!only.owns_lock()) throw std::runtime_error("a program can run one step at a time; another thread is in one");
  LORID_CHECK(dtype_ != DType::kBf16 || ActiveKernels().activations == activations_,
              "the instruction set was changed after this program was recorded; record it again");
  Check(step);
  PlaceShrunk();
  CopyPages(step);
  step_ = step;
  PlaceCacheSlots(step);
  if (num_heads_ > 0) attention_plan_.Build(step_.sequences, num_heads_, num_kv_heads_, threads);
  seconds_.resize(order_.size());
  RunPhases(order_, threads, profiled_ ? &seconds_ : nullptr);
}

void Program::StartProfile() {
  const std::lock_guard<std::mutex> only(running_);
  profiled_ = true;
  seconds_.assign(order_.size(), 0);
}

std::map<std::string, double> Program::Profile() const {
  const std::lock_guard<std::mutex> only(running_);
  std::map<std::string, double> sums;
  for (size_t i = 0; i < seconds_.size(); i++) sums[kinds_[i]] += seconds_[i];
  return sums;
}

}  // namespace lorid
