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

  AttentionState From(int64_t vector, int head_dim) const {
    const int64_t padded = RoundUp(head_dim, 16);
    return {q + vector * head_dim,
            scores + vector * kChunkTokens,
            probabilities + vector * kChunkTokens,
            chunk_value + vector * padded,
            value + vector * padded,
            most + vector,
            sum + vector};
  }
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

// The pages of one key-value head.
template <typename T>
struct HeadPages {
  const T* k;
  const T* v;
  int64_t k_size, v_size;  // elements from a page to the next

  const T* Keys(const AttentionRow& row, int64_t index) const { return k + row.pages[index] * k_size; }
  const T* Values(const AttentionRow& row, int64_t index) const { return v + row.pages[index] * v_size; }
};

// Neighbouring rows of a tile over one chunk: they begin it with the same page.
struct ChunkRun {
  int64_t chunk_page;  // index of the chunk's first page in a sequence
  int num_rows;
  const AttentionRow* rows;
  const KeyRange* keys;  // of each row, and of the next one where the tile has more
  bool more;
  int first, last;  // pages of the chunk that any row sees

  bool Sees(int m, int page) const {
    return keys[m].end > page * kPageTokens && keys[m].begin < (page + 1) * kPageTokens;
  }
  bool SeesWhole(int m, int page) const {
    return keys[m].end >= (page + 1) * kPageTokens && keys[m].begin <= page * kPageTokens;
  }
};

// A page is too short for the processor to guess what follows it, and for memory to answer while it is computed. So it
// is asked for what the row reads two pages later: its keys, then its values, then the keys of the next rows.
constexpr int kPagesAhead = 2;

inline int64_t BytesTo(const void* from, const void* to) {
  return static_cast<int64_t>(reinterpret_cast<uintptr_t>(to) - reinterpret_cast<uintptr_t>(from));
}

template <typename T>
inline int64_t AfterKeys(const HeadPages<T>& pages, const ChunkRun& run, int m, int page) {
  const int ahead = page + kPagesAhead, value = run.first + ahead - run.last;
  const T* from = pages.Keys(run.rows[m], run.chunk_page + page);
  if (ahead < run.last)
    return run.Sees(m, ahead) ? BytesTo(from, pages.Keys(run.rows[m], run.chunk_page + ahead)) : kNoPrefetch;
  return run.Sees(m, value) ? BytesTo(from, pages.Values(run.rows[m], run.chunk_page + value)) : kNoPrefetch;
}

template <typename T>
inline int64_t AfterValues(const HeadPages<T>& pages, const ChunkRun& run, int m, int page) {
  const int ahead = page + kPagesAhead, next = run.num_rows;
  const T* from = pages.Values(run.rows[m], run.chunk_page + page);
  if (ahead < run.last)
    return run.Sees(m, ahead) ? BytesTo(from, pages.Values(run.rows[m], run.chunk_page + ahead)) : kNoPrefetch;
  const int key = run.more ? run.keys[next].begin / kPageTokens + ahead - run.last : 0;
  return run.more && run.Sees(next, key) ? BytesTo(from, pages.Keys(run.rows[next], run.chunk_page + key))
                                         : kNoPrefetch;
}

// scores of the page's keys, for the rows that see any of them.
template <typename T>
inline void ScorePage(const AttentionState<T>& state, const HeadPages<T>& pages, const ChunkRun& run, int page,
                      int heads, int head_dim) {
  for (int m = 0, next; m < run.num_rows; m = next) {
    next = m + 1;
    if (!run.Sees(m, page)) continue;
    const T* keys = pages.Keys(run.rows[m], run.chunk_page + page);
    while (next < run.num_rows && run.Sees(next, page) && pages.Keys(run.rows[next], run.chunk_page + page) == keys)
      next++;
    TileBlock(state.q + static_cast<int64_t>(m) * heads * head_dim, head_dim, static_cast<int64_t>(next - m) * heads,
              keys, kPageTokens * (sizeof(T) == 2 ? 2 : 1), head_dim, kPageTokens,
              state.scores + static_cast<int64_t>(m) * heads * kChunkTokens + page * kPageTokens, kChunkTokens, false,
              AfterKeys(pages, run, m, page));
  }
}

// chunk_value += probabilities V over the page's keys; rows that see the whole page share its loads, others go alone.
template <typename T>
inline void AddPage(const AttentionState<T>& state, const HeadPages<T>& pages, const ChunkRun& run, int page, int heads,
                    int padded) {
  const int64_t w_stride = sizeof(T) == 2 ? 2 * padded : padded;
  for (int m = 0, next; m < run.num_rows; m = next) {
    next = m + 1;
    if (!run.Sees(m, page)) continue;
    const T* values = pages.Values(run.rows[m], run.chunk_page + page);
    if (run.SeesWhole(m, page))
      while (next < run.num_rows && run.SeesWhole(next, page) &&
             pages.Values(run.rows[next], run.chunk_page + page) == values)
        next++;
    const int hidden = run.keys[m].begin - page * kPageTokens, left = run.keys[m].end - page * kPageTokens;
    T copy[kPageTokens * kMaxHeadDim];
    if (hidden > 0) values = HideKeys(values, hidden, padded, copy);
    TileBlock(state.probabilities + static_cast<int64_t>(m) * heads * kChunkTokens + page * kPageTokens, kChunkTokens,
              static_cast<int64_t>(next - m) * heads, values, w_stride, static_cast<int>(Least(left, kPageTokens)),
              padded, state.chunk_value + static_cast<int64_t>(m) * heads * padded, padded, true,
              hidden > 0 ? kNoPrefetch : AfterValues(pages, run, m, page));
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

// The state is that of the run's first vector.
template <typename T>
inline void AttendRun(const AttentionState<T>& state, const HeadPages<T>& pages, const ChunkRun& run, int heads,
                      int head_dim, float scale) {
  const int padded = static_cast<int>(RoundUp(head_dim, 16)), vectors = run.num_rows * heads;
  for (int page = run.first; page < run.last; page++) ScorePage(state, pages, run, page, heads, head_dim);
  float most[kMaxGroupHeads], sum[kMaxGroupHeads];
  for (int n = 0; n < vectors; n++) {
    SoftmaxRow<T>(state.scores + static_cast<int64_t>(n) * kChunkTokens, run.keys[n / heads], scale,
                  state.probabilities + static_cast<int64_t>(n) * kChunkTokens, most[n], sum[n]);
    for (int d = 0; d < padded; d += kLanes) Store(state.chunk_value + static_cast<int64_t>(n) * padded + d, Zero());
  }
  for (int page = run.first; page < run.last; page++) AddPage(state, pages, run, page, heads, padded);
  for (int n = 0; n < vectors; n++)
    MergeChunk(most[n], sum[n], state.chunk_value + static_cast<int64_t>(n) * padded, padded, state.most[n],
               state.sum[n], state.value + static_cast<int64_t>(n) * padded);
}

// Rows that begin the chunk with the same page go through it together.
template <typename T>
inline void AttendChunk(const AttentionTile& tile, const AttentionState<T>& state, const HeadPages<T>& pages,
                        int64_t chunk_begin, int heads) {
  KeyRange keys[kMaxTileVectors];
  for (int m = 0; m < tile.num_rows; m++) keys[m] = VisibleKeys(tile, m, chunk_begin);
  const int64_t chunk_page = chunk_begin / kPageTokens;
  for (int m = 0, next; m < tile.num_rows; m = next) {
    next = m + 1;
    if (keys[m].begin >= keys[m].end) continue;
    ChunkRun run = {chunk_page, 0, tile.rows + m, keys + m, false, keys[m].begin / kPageTokens, 0};
    const auto take = [&](int row) {
      run.first = static_cast<int>(Least(run.first, keys[row].begin / kPageTokens));
      run.last = static_cast<int>(Most(run.last, RoundUp(keys[row].end, kPageTokens) / kPageTokens));
    };
    take(m);
    const int64_t first = chunk_page + keys[m].begin / kPageTokens;
    const int32_t page = tile.rows[m].pages[first];
    while (next < tile.num_rows && keys[next].begin < keys[next].end && tile.rows[next].pages[first] == page)
      take(next++);
    run.num_rows = next - m;
    run.more = next < tile.num_rows;
    AttendRun(state.From(m * heads, tile.head_dim), pages, run, heads, tile.head_dim, tile.scale);
  }
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
  const int64_t k_head = static_cast<int64_t>(kPageTokens) * tile.head_dim,
                v_head = static_cast<int64_t>(kPageTokens) * padded;
  const HeadPages<T> pages = {static_cast<const T*>(tile.k_pages) + tile.kv_head * k_head,
                              static_cast<const T*>(tile.v_pages) + tile.kv_head * v_head, tile.num_kv_heads * k_head,
                              tile.num_kv_heads * v_head};
  int64_t begin = tile.rows[0].position, end = 0;
  for (int m = 0; m < tile.num_rows; m++) {
    const int64_t position = tile.rows[m].position;
    begin = Least(begin, tile.window > 0 ? Most(0, position + 1 - tile.window) : 0);
    end = Most(end, position + 1);
  }
  for (int64_t chunk = begin / kChunkTokens * kChunkTokens; chunk < end; chunk += kChunkTokens)
    AttendChunk(tile, state, pages, chunk, heads);
  StoreValues(tile, state, heads, padded);
}

void Attention(const AttentionTile& tile) {
  WithWeightType(tile.dtype, [&](auto* type) { Attend<typename Pointee<decltype(type)>::Type>(tile); });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_ATTENTION_INL_H_
