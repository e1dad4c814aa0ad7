// Causal attention of a few rows of one sequence over its KV pages, for the query heads of one key-value head.
// Keys are reduced in chunks of 256 absolute positions, each with its own maximum and sums, merged in order; inside a
// chunk the keys are added in order. So a row's bits depend on its own position and keys alone: not on prefill chunking
// or tile mates.
#ifndef LORID_OPS_ATTENTION_INL_H_
#define LORID_OPS_ATTENTION_INL_H_

#include "tile-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

template <typename T>
struct AttentionState {
  T* q;                // [vectors, D]
  float* scores;       // [vectors, 256]
  T* probabilities;    // [vectors, 256]
  float* chunk_value;  // [vectors, Dp]
  float* value;        // [vectors, Dp]: running, not yet divided by its sum
  float* most;         // [vectors]
  float* sum;          // [vectors]; 0 = nothing seen yet
};

// The keys of a chunk that a row may see, relative to the chunk's first.
struct KeyRange {
  int begin, end;
};

inline KeyRange VisibleKeys(const AttentionTile& tile, int row, int64_t chunk_begin) {
  const int64_t position = tile.first_position + row;
  const int64_t begin = tile.window > 0 ? Most(0, position + 1 - tile.window - chunk_begin) : 0;
  const int64_t end = Least(kChunkTokens, position + 1 - chunk_begin);
  return {static_cast<int>(begin), static_cast<int>(Most(end, 0))};
}

// Scores to probabilities e^(score - maximum) in the operand's dtype; returns maximum and sum through the references.
template <typename T>
inline void SoftmaxRow(float* scores, KeyRange keys, float scale, T* probabilities, float& most, float& sum) {
  const int first = keys.begin / kPageTokens * kPageTokens;
  const int last = static_cast<int>(RoundUp(keys.end, kPageTokens));
  const float infinity = __builtin_inff();
  for (int j = first; j < keys.begin; j++) scores[j] = -infinity;
  for (int j = keys.end; j < last; j++) scores[j] = -infinity;  // whatever lies in the unwritten part of a page
  Vec top = Set1(-infinity);
  for (int j = first; j < last; j += kLanes) {
    const Vec score = Mul(Load(scores + j), Set1(scale));
    Store(scores + j, score);
    top = Max(score, top);
  }
  most = MaxLanes(top);
  Vec total = Zero();
  for (int j = first; j < last; j += kLanes) {
    const Vec p = Exp(Sub(Load(scores + j), Set1(most)));
    total = Add(total, p);
    StoreAsN(probabilities + j, p, kLanes);
  }
  sum = SumLanes(total);
}

// A copy of a value page with zeros for its first `hidden` keys, which a window leaves out: they are as good as absent
// even where they are NaN.
template <typename T>
inline const T* HideKeys(const T* v_page, int hidden, int padded, T* copy) {
  constexpr int kTogether = sizeof(T) == 2 ? 2 : 1;  // keys that lie side by side
  for (int64_t i = 0; i < static_cast<int64_t>(kPageTokens) * padded; i++) {
    const int64_t key = i / (kTogether * padded) * kTogether + i % kTogether;
    copy[i] = key < hidden ? T(0) : v_page[i];
  }
  return copy;
}

// chunk_value += probabilities V over the page's keys; rows that see the whole page share its loads, others go alone.
template <typename T>
inline void AddPage(const AttentionState<T>& state, const KeyRange* ranges, int rows, int heads, int page,
                    const T* v_page, int padded) {
  const int64_t w_stride = sizeof(T) == 2 ? 2 * padded : padded;
  const int begin = page * kPageTokens;
  for (int m = 0; m < rows;) {
    const int left = ranges[m].end - begin;
    if (left <= 0 || ranges[m].begin >= begin + kPageTokens) {
      m++;
      continue;
    }
    const int hidden = ranges[m].begin - begin;
    int next = m + 1;
    if (left >= kPageTokens && hidden <= 0)
      while (next < rows && ranges[next].end - begin >= kPageTokens && ranges[next].begin <= begin) next++;
    T copy[kPageTokens * kMaxHeadDim];
    const T* values = hidden > 0 ? HideKeys(v_page, hidden, padded, copy) : v_page;
    TileBlock(state.probabilities + static_cast<int64_t>(m) * heads * kChunkTokens + begin, kChunkTokens,
              static_cast<int64_t>(next - m) * heads, values, w_stride, static_cast<int>(Least(left, kPageTokens)),
              padded, state.chunk_value + static_cast<int64_t>(m) * heads * padded, padded, true);
    m = next;
  }
}

// Adds a chunk's (maximum, sum, value) to the running ones.
inline void MergeChunk(float most, float sum, const float* chunk_value, int padded, float& total_most, float& total_sum,
                       float* value) {
  if (total_sum == 0) {
    for (int d = 0; d < padded; d += kLanes) Store(value + d, Load(chunk_value + d));
    total_most = most;
    total_sum = sum;
    return;
  }
  const float higher = most > total_most ? most : total_most;
  const float old_weight = ExpOne(total_most - higher), new_weight = ExpOne(most - higher);
  for (int d = 0; d < padded; d += kLanes)
    Store(value + d, Fma(Load(chunk_value + d), Set1(new_weight), Mul(Load(value + d), Set1(old_weight))));
  total_sum = total_sum * old_weight + sum * new_weight;
  total_most = higher;
}

template <typename T>
inline void AttendChunk(const AttentionTile& tile, const AttentionState<T>& state, int64_t chunk_begin, int rows,
                        int heads) {
  const int head_dim = tile.head_dim, padded = static_cast<int>(RoundUp(head_dim, 16));
  const int64_t k_page_size = static_cast<int64_t>(kPageTokens) * tile.num_kv_heads * head_dim;
  const int64_t v_page_size = static_cast<int64_t>(kPageTokens) * tile.num_kv_heads * padded;
  const T* k_pages = static_cast<const T*>(tile.k_pages) + static_cast<int64_t>(tile.kv_head) * kPageTokens * head_dim;
  const T* v_pages = static_cast<const T*>(tile.v_pages) + static_cast<int64_t>(tile.kv_head) * kPageTokens * padded;
  KeyRange ranges[kMaxTileVectors];
  int first_page = kChunkTokens / kPageTokens, last_page = 0;
  for (int m = 0; m < rows; m++) {
    ranges[m] = VisibleKeys(tile, m, chunk_begin);
    if (ranges[m].begin >= ranges[m].end) continue;
    first_page = static_cast<int>(Least(first_page, ranges[m].begin / kPageTokens));
    last_page = static_cast<int>(Most(last_page, RoundUp(ranges[m].end, kPageTokens) / kPageTokens));
  }
  const int32_t* pages = tile.block_table + chunk_begin / kPageTokens;
  const int vectors = rows * heads;
  for (int page = first_page; page < last_page; page++)
    TileBlock(state.q, head_dim, vectors, k_pages + pages[page] * k_page_size, kPageTokens * (sizeof(T) == 2 ? 2 : 1),
              head_dim, kPageTokens, state.scores + page * kPageTokens, kChunkTokens, false);
  float most[kMaxGroupHeads], sum[kMaxGroupHeads];
  for (int n = 0; n < vectors; n++) {
    sum[n] = 0;
    const KeyRange keys = ranges[n / heads];
    if (keys.begin < keys.end)
      SoftmaxRow(state.scores + static_cast<int64_t>(n) * kChunkTokens, keys, tile.scale,
                 state.probabilities + static_cast<int64_t>(n) * kChunkTokens, most[n], sum[n]);
    for (int d = 0; d < padded; d += kLanes) Store(state.chunk_value + static_cast<int64_t>(n) * padded + d, Zero());
  }
  for (int page = first_page; page < last_page; page++)
    AddPage(state, ranges, rows, heads, page, v_pages + pages[page] * v_page_size, padded);
  for (int n = 0; n < vectors; n++)
    if (ranges[n / heads].begin < ranges[n / heads].end)
      MergeChunk(most[n], sum[n], state.chunk_value + static_cast<int64_t>(n) * padded, padded, state.most[n],
                 state.sum[n], state.value + static_cast<int64_t>(n) * padded);
}

template <typename T>
inline AttentionState<T> CarveScratch(void* scratch, int vectors, int head_dim, int padded) {
  AttentionState<T> state;
  float* at = static_cast<float*>(scratch);
  const auto take = [&at](int64_t count) {
    float* start = at;
    at += count;
    return start;
  };
  state.scores = take(static_cast<int64_t>(vectors) * kChunkTokens);
  state.probabilities = reinterpret_cast<T*>(take(static_cast<int64_t>(vectors) * kChunkTokens));
  state.q = reinterpret_cast<T*>(take(static_cast<int64_t>(vectors) * head_dim));
  state.chunk_value = take(static_cast<int64_t>(vectors) * padded);
  state.value = take(static_cast<int64_t>(vectors) * padded);
  state.most = take(vectors);
  state.sum = take(vectors);
  return state;
}

template <typename T, typename Out>
inline void Attend(const AttentionTile& tile, Out* out) {
  const int heads = tile.num_heads / tile.num_kv_heads, rows = tile.row_end - tile.row_begin, vectors = rows * heads;
  const int head_dim = tile.head_dim, padded = static_cast<int>(RoundUp(head_dim, 16));
  const AttentionState<T> state = CarveScratch<T>(tile.scratch, vectors, head_dim, padded);
  for (int n = 0; n < vectors; n++) {
    const T* q = static_cast<const T*>(tile.q) + (tile.row_begin + n / heads) * tile.q_stride +
                 static_cast<int64_t>(tile.kv_head * heads + n % heads) * head_dim;
    for (int d = 0; d < head_dim; d++) state.q[static_cast<int64_t>(n) * head_dim + d] = q[d];
    state.sum[n] = 0;
  }
  const int64_t seen = tile.window > 0 ? Most(0, static_cast<int64_t>(tile.first_position) + 1 - tile.window) : 0;
  const int64_t end = static_cast<int64_t>(tile.first_position) + rows;
  for (int64_t chunk = seen / kChunkTokens * kChunkTokens; chunk < end; chunk += kChunkTokens)
    AttendChunk(tile, state, chunk, rows, heads);
  for (int n = 0; n < vectors; n++) {
    const Vec scale = Set1(1.0f / state.sum[n]);
    Out* y = out + (tile.row_begin + n / heads) * tile.out_stride +
             static_cast<int64_t>(tile.kv_head * heads + n % heads) * head_dim;
    for (int d = 0; d < head_dim; d += kLanes)
      StoreAsN(y + d, Mul(Load(state.value + static_cast<int64_t>(n) * padded + d), scale), LanesLeft(head_dim - d));
  }
}

void Attention(const AttentionTile& tile) {
  WithType(tile.dtype, [&](auto* type) {
    WithType(tile.out_dtype, [&](auto* out_type) {
      Attend<typename Pointee<decltype(type)>::Type>(tile, static_cast<decltype(out_type)>(tile.out));
    });
  });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_ATTENTION_INL_H_
