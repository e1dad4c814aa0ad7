// Causal attention of a few rows over the KV pages of their sequences, for the query heads of one key-value head. Keys
// are reduced in chunks of 256 absolute positions, each with its own maximum and sums, merged in order; inside a chunk
// the keys are added in order. So a row's bits depend on its own position and keys alone: not on prefill chunking or
// tile mates. Neighbours whose sequences have a page in common (rows of one prompt, or rounds of one question) take it
// together.
#ifndef LORID_OPS_ATTENTION_INL_H_
#define LORID_OPS_ATTENTION_INL_H_

#include "tile-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

template <typename T>
struct AttentionState {
  Operand<T>* q;              // [vectors, D]
  float* scores;              // [vectors, 256]
  Operand<T>* probabilities;  // [vectors, 256]
  float* chunk_value;         // [vectors, Dp]
  float* value;               // [vectors, Dp]: running, not yet divided by its sum
  float* most;                // [vectors]
  float* sum;                 // [vectors]; 0 = nothing seen yet
};

// The keys of a chunk that a row may see, relative to the chunk's first.
struct KeyRange {
  int begin, end;
};

inline KeyRange VisibleKeys(const AttentionTile& tile, int row, int64_t chunk_begin) {
  const int64_t position = tile.rows[row].position;
  const int64_t begin = tile.window > 0 ? Most(0, position + 1 - tile.window - chunk_begin) : 0;
  const int64_t end = Least(kChunkTokens, position + 1 - chunk_begin);
  return {static_cast<int>(begin), static_cast<int>(Most(end, 0))};
}

// Scores to probabilities e^(score - maximum) in the operand's dtype; returns maximum and sum through the references.
template <typename T>
inline void SoftmaxRow(float* scores, KeyRange keys, float scale, Operand<T>* probabilities, float& most, float& sum) {
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
    StoreOperandN<T>(probabilities + j, p, kLanes);
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

constexpr int kPagesAhead = 2;

// A page position of a chunk: which page each row has there, and which keys of the chunk each row sees.
struct PageView {
  const AttentionRow* rows;
  const KeyRange* ranges;
  int num_rows;
  int64_t index;  // of the page in a sequence
  int begin;      // its first key in the chunk

  bool Seen(int m) const { return ranges[m].end > begin && ranges[m].begin < begin + kPageTokens; }
  bool SeenWhole(int m) const { return ranges[m].end >= begin + kPageTokens && ranges[m].begin <= begin; }
  int64_t Page(int m) const { return rows[m].pages[index]; }

  // From the row's page to one of its next. A page is too short for the processor to guess where it goes on, and for
  // memory to answer while it is computed.
  int64_t PageAhead(int m, int64_t page_bytes) const {
    const int64_t ahead = Least(kPagesAhead, (ranges[m].end - 1 - begin) / kPageTokens);
    return ahead > 0 ? (rows[m].pages[index + ahead] - Page(m)) * page_bytes : kNoPrefetch;
  }
};

// scores of the page's keys, for the rows that see any of them.
template <typename T>
inline void ScorePage(const AttentionState<T>& state, const PageView& view, int heads, int head_dim, const T* k_pages,
                      int64_t page_size) {
  for (int m = 0, next; m < view.num_rows; m = next) {
    next = m + 1;
    if (!view.Seen(m)) continue;
    while (next < view.num_rows && view.Seen(next) && view.Page(next) == view.Page(m)) next++;
    TileBlock(state.q + static_cast<int64_t>(m) * heads * head_dim, head_dim, static_cast<int64_t>(next - m) * heads,
              k_pages + view.Page(m) * page_size, kPageTokens * (sizeof(T) == 2 ? 2 : 1), head_dim, kPageTokens,
              state.scores + static_cast<int64_t>(m) * heads * kChunkTokens + view.begin, kChunkTokens, false,
              view.PageAhead(m, page_size * static_cast<int64_t>(sizeof(T))));
  }
}

// chunk_value += probabilities V over the page's keys; rows that see the whole page share its loads, others go alone.
template <typename T>
inline void AddPage(const AttentionState<T>& state, const PageView& view, int heads, const T* v_pages,
                    int64_t page_size, int padded) {
  const int64_t w_stride = sizeof(T) == 2 ? 2 * padded : padded;
  for (int m = 0, next; m < view.num_rows; m = next) {
    next = m + 1;
    if (!view.Seen(m)) continue;
    if (view.SeenWhole(m))
      while (next < view.num_rows && view.SeenWhole(next) && view.Page(next) == view.Page(m)) next++;
    const int hidden = view.ranges[m].begin - view.begin, left = view.ranges[m].end - view.begin;
    const T* values = v_pages + view.Page(m) * page_size;
    T copy[kPageTokens * kMaxHeadDim];
    if (hidden > 0) values = HideKeys(values, hidden, padded, copy);
    TileBlock(state.probabilities + static_cast<int64_t>(m) * heads * kChunkTokens + view.begin, kChunkTokens,
              static_cast<int64_t>(next - m) * heads, values, w_stride, static_cast<int>(Least(left, kPageTokens)),
              padded, state.chunk_value + static_cast<int64_t>(m) * heads * padded, padded, true,
              hidden > 0 ? kNoPrefetch : view.PageAhead(m, page_size * static_cast<int64_t>(sizeof(T))));
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
inline void AttendChunk(const AttentionTile& tile, const AttentionState<T>& state, int64_t chunk_begin, int heads) {
  const int head_dim = tile.head_dim, padded = static_cast<int>(RoundUp(head_dim, 16));
  const int64_t k_page_size = static_cast<int64_t>(kPageTokens) * tile.num_kv_heads * head_dim;
  const int64_t v_page_size = static_cast<int64_t>(kPageTokens) * tile.num_kv_heads * padded;
  const T* k_pages = static_cast<const T*>(tile.k_pages) + static_cast<int64_t>(tile.kv_head) * kPageTokens * head_dim;
  const T* v_pages = static_cast<const T*>(tile.v_pages) + static_cast<int64_t>(tile.kv_head) * kPageTokens * padded;
  KeyRange ranges[kMaxTileVectors];
  int first_page = kChunkTokens / kPageTokens, last_page = 0;
  for (int m = 0; m < tile.num_rows; m++) {
    ranges[m] = VisibleKeys(tile, m, chunk_begin);
    if (ranges[m].begin >= ranges[m].end) continue;
    first_page = static_cast<int>(Least(first_page, ranges[m].begin / kPageTokens));
    last_page = static_cast<int>(Most(last_page, RoundUp(ranges[m].end, kPageTokens) / kPageTokens));
  }
  const auto view = [&](int page) {
    return PageView{tile.rows, ranges, tile.num_rows, chunk_begin / kPageTokens + page, page * kPageTokens};
  };
  const int vectors = tile.num_rows * heads;
  for (int page = first_page; page < last_page; page++)
    ScorePage(state, view(page), heads, head_dim, k_pages, k_page_size);
  float most[kMaxGroupHeads], sum[kMaxGroupHeads];
  for (int n = 0; n < vectors; n++) {
    sum[n] = 0;
    const KeyRange keys = ranges[n / heads];
    if (keys.begin < keys.end)
      SoftmaxRow<T>(state.scores + static_cast<int64_t>(n) * kChunkTokens, keys, tile.scale,
                    state.probabilities + static_cast<int64_t>(n) * kChunkTokens, most[n], sum[n]);
    for (int d = 0; d < padded; d += kLanes) Store(state.chunk_value + static_cast<int64_t>(n) * padded + d, Zero());
  }
  for (int page = first_page; page < last_page; page++) AddPage(state, view(page), heads, v_pages, v_page_size, padded);
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
  state.probabilities = reinterpret_cast<Operand<T>*>(take(static_cast<int64_t>(vectors) * kChunkTokens));
  state.q = reinterpret_cast<Operand<T>*>(take(static_cast<int64_t>(vectors) * head_dim));
  state.chunk_value = take(static_cast<int64_t>(vectors) * padded);
  state.value = take(static_cast<int64_t>(vectors) * padded);
  state.most = take(vectors);
  state.sum = take(vectors);
  return state;
}

// Gathers the rows' queries of the tile's heads.
template <typename T>
inline void LoadQueries(const AttentionTile& tile, const AttentionState<T>& state, int heads) {
  WithType(tile.q_dtype, [&](auto* type) {
    for (int n = 0; n < tile.num_rows * heads; n++) {
      const auto* q = static_cast<decltype(type)>(const_cast<void*>(tile.q)) +
                      tile.rows[n / heads].row * tile.q_stride +
                      static_cast<int64_t>(tile.kv_head * heads + n % heads) * tile.head_dim;
      for (int d = 0; d < tile.head_dim; d += kLanes) {
        const int lanes = LanesLeft(tile.head_dim - d);
        StoreAsN(state.q + static_cast<int64_t>(n) * tile.head_dim + d, LoadAsN(q + d, lanes), lanes);
      }
    }
  });
}

template <typename T>
inline void StoreValues(const AttentionTile& tile, const AttentionState<T>& state, int heads, int padded) {
  WithType(tile.out_dtype, [&](auto* type) {
    for (int n = 0; n < tile.num_rows * heads; n++) {
      const Vec scale = Set1(1.0f / state.sum[n]);
      auto* y = static_cast<decltype(type)>(tile.out) + tile.rows[n / heads].row * tile.out_stride +
                static_cast<int64_t>(tile.kv_head * heads + n % heads) * tile.head_dim;
      for (int d = 0; d < tile.head_dim; d += kLanes)
        StoreAsN(y + d, Mul(Load(state.value + static_cast<int64_t>(n) * padded + d), scale),
                 LanesLeft(tile.head_dim - d));
    }
  });
}

template <typename T>
inline void Attend(const AttentionTile& tile) {
  const int heads = tile.num_heads / tile.num_kv_heads, vectors = tile.num_rows * heads;
  const int padded = static_cast<int>(RoundUp(tile.head_dim, 16));
  const AttentionState<T> state = CarveScratch<T>(tile.scratch, vectors, tile.head_dim, padded);
  LoadQueries(tile, state, heads);
  for (int n = 0; n < vectors; n++) state.sum[n] = 0;
  int64_t begin = tile.rows[0].position, end = 0;
  for (int m = 0; m < tile.num_rows; m++) {
    const int64_t position = tile.rows[m].position;
    begin = Least(begin, tile.window > 0 ? Most(0, position + 1 - tile.window) : 0);
    end = Most(end, position + 1);
  }
  for (int64_t chunk = begin / kChunkTokens * kChunkTokens; chunk < end; chunk += kChunkTokens)
    AttendChunk(tile, state, chunk, heads);
  StoreValues(tile, state, heads, padded);
}

void Attention(const AttentionTile& tile) {
  WithWeightType(tile.dtype, [&](auto* type) { Attend<typename Pointee<decltype(type)>::Type>(tile); });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_ATTENTION_INL_H_
