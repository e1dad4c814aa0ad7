// Causal attention of whole sequences, forward and backward, over rows that lie end to end: what training needs. Rotary
// embedding is part of it. Scores exist for a few queries at a time, in the backward pass anew.
#ifndef LORID_OPS_TRAINING_ATTENTION_INL_H_
#define LORID_OPS_TRAINING_ATTENTION_INL_H_

#include "pointwise-inl.h"
#include "tile-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

// One sequence and one key-value head.
struct SequenceHeads {
  const TrainingAttentionTile& tile;
  int64_t row;                     // of the sequence's first
  int length, padded_length;       // a multiple of 16
  int heads, head_dim, padded;     // query heads of the group; padded is a multiple of 16
  int positions_at_once, vectors;  // of a block of queries

  explicit SequenceHeads(const TrainingAttentionTile& tile)
      : tile(tile),
        row(tile.row_begin),
        length(static_cast<int>(tile.row_end - tile.row_begin)),
        padded_length(static_cast<int>(RoundUp(length, 16))),
        heads(tile.num_heads / tile.num_kv_heads),
        head_dim(tile.head_dim),
        padded(static_cast<int>(RoundUp(tile.head_dim, 16))),
        positions_at_once(TrainingPositions(heads)),
        vectors(positions_at_once * heads) {}

  int64_t QueryColumn(int head) const { return static_cast<int64_t>(tile.kv_head * heads + head) * head_dim; }
  int64_t KeyColumn() const { return static_cast<int64_t>(tile.num_heads + tile.kv_head) * head_dim; }
  int64_t ValueColumn() const { return KeyColumn() + static_cast<int64_t>(tile.num_kv_heads) * head_dim; }

  // The keys that a block of queries may see, in whole groups of 16.
  int KeyEnd(int position) const { return static_cast<int>(RoundUp(Least(position + positions_at_once, length), 16)); }
  int KeyBegin(int position) const {
    return tile.window > 0 ? static_cast<int>(Most(0, position + 1 - tile.window) / 16 * 16) : 0;
  }
};

// A head of a row as float32, rotated where there are angles; zero past its dimension.
template <typename T>
inline void LoadHead(const SequenceHeads& of, const T* from, int position, bool rotates, float* to) {
  for (int d = of.head_dim / kLanes * kLanes; d < of.padded; d++) to[d] = 0;
  if (rotates && of.tile.cos != nullptr) {
    const int64_t angle = (of.row + position) * (of.head_dim / 2);
    RotateHead(from, of.tile.cos + angle, of.tile.sin + angle, of.head_dim / 2, to);
    return;
  }
  for (int d = 0; d < of.head_dim; d += kLanes) {
    const int lanes = LanesLeft(of.head_dim - d);
    StoreAsN(to + d, LoadAsN(from + d, lanes), lanes);
  }
}

// The reverse, for gradients: rotated back, rounded once.
template <typename T>
inline void StoreHead(const SequenceHeads& of, const float* from, int position, bool rotates, T* to) {
  if (rotates && of.tile.cos != nullptr) {
    const int half = of.head_dim / 2;
    const int64_t angle = (of.row + position) * half;
    for (int d = 0; d < half; d += kLanes) {
      const int lanes = LanesLeft(half - d);
      const Vec first = LoadAsN(from + d, lanes), second = LoadAsN(from + half + d, lanes);
      const Vec c = LoadAsN(of.tile.cos + angle + d, lanes), s = LoadAsN(of.tile.sin + angle + d, lanes);
      StoreAsN(to + d, Add(Mul(first, c), Mul(second, s)), lanes);
      StoreAsN(to + half + d, Sub(Mul(second, c), Mul(first, s)), lanes);
    }
    return;
  }
  for (int d = 0; d < of.head_dim; d += kLanes) {
    const int lanes = LanesLeft(of.head_dim - d);
    StoreAsN(to + d, Load(from + d), lanes);
  }
}

// What a product takes its weights from: panels of 16 columns, each of which is read from one end to the other. A plane
// [rows, columns] is [columns / 16][rows][16].
constexpr int kPanelCols = 16;

// One head of all rows of the sequence, zero past its end: in panels of dimensions, as [Lp, Dp], and turned, in panels
// of positions, as [Dp, Lp]; either may be null.
template <typename T>
inline void LoadColumn(const SequenceHeads& of, int64_t column, bool rotates, float* panels, float* turned) {
  alignas(64) float head[kMaxHeadDim];
  for (int p = 0; p < of.padded_length; p++) {
    if (p < of.length) {
      LoadHead(of, static_cast<const T*>(of.tile.qkv) + (of.row + p) * of.tile.qkv_stride + column, p, rotates, head);
    } else {
      for (int d = 0; d < of.padded; d++) head[d] = 0;
    }
    if (panels != nullptr)
      for (int64_t d = 0; d < of.padded; d += kLanes)
        Store(panels + (d / kPanelCols * of.padded_length + p) * kPanelCols + d % kPanelCols, Load(head + d));
    if (turned != nullptr) {
      float* to = turned + static_cast<int64_t>(p / kPanelCols) * of.padded * kPanelCols + p % kPanelCols;
      for (int d = 0; d < of.padded; d++) to[d * kPanelCols] = head[d];
    }
  }
}

// sum[m][c] (+)= sum over k of x[m][k] w[k][c] for columns [begin, end) of panels that have `height` rows, of which k
// are taken from `first` on.
inline void MultiplyPanels(const float* x, int64_t x_stride, int rows, const float* w, int height, int first, int k,
                           int begin, int end, float* sum, int64_t sum_stride) {
  for (int c = begin; c < end; c += kPanelCols)
    TileBlock(x, x_stride, rows, w + (static_cast<int64_t>(c / kPanelCols) * height + first) * kPanelCols, kPanelCols,
              k, kPanelCols, sum + c, sum_stride, false, kNoPrefetch);
}

// sum [columns, Dp] += x^T w for x [rows, columns] and w [rows, Dp], in tiles of much the same height.
inline void AddTurned(const float* x, int64_t x_stride, int columns, const float* w, int rows, int padded, float* sum) {
  constexpr int kVecs = kTileVecs * kLanes <= kPanelCols ? kTileVecs : kPanelCols / kLanes;
  for (int64_t tiles = (columns + kTileRows - 1) / kTileRows, m = 0, taken; tiles > 0; tiles--, m += taken) {
    taken = (columns - m + tiles - 1) / tiles;
    WithCount<kTileRows>(taken, [&](auto count) {
      for (int c = 0; c < padded; c += kVecs * kLanes)
        Tile<decltype(count)::kValue, kVecs>(x + m, 1, x_stride, w + c, padded, rows, sum + m * padded + c, padded,
                                             true, kNoPrefetch);
    });
  }
}

// Scores of a query to probabilities in place; what it does not see gets 0. Returns the factor that they lack: 1 / sum.
inline float Softmax(const SequenceHeads& of, int position, int key_begin, int key_end, float scale, float* scores) {
  const int first = of.tile.window > 0 ? static_cast<int>(Most(0, position + 1 - of.tile.window)) : 0;
  const float infinity = __builtin_inff();
  for (int j = key_begin; j < first; j++) scores[j] = -infinity;
  for (int j = position + 1; j < key_end; j++) scores[j] = -infinity;
  Vec top = Set1(-infinity);
  for (int j = key_begin; j < key_end; j += kLanes) top = Max(Load(scores + j), top);
  const Vec most = Set1(MaxLanes(top)), factor = Set1(scale);
  Vec total = Zero();
  for (int j = key_begin; j < key_end; j += kLanes) {
    const Vec p = Exp(Mul(Sub(Load(scores + j), most), factor));
    total = Add(total, p);
    Store(scores + j, p);
  }
  return 1.0f / SumLanes(total);
}

// Queries of a block as [vectors, Dp]: those of a position side by side.
template <typename T>
inline void LoadBlock(const SequenceHeads& of, const void* from, int64_t stride, int64_t column, int position,
                      int count, bool rotates, float* to) {
  for (int n = 0; n < count * of.heads; n++) {
    const int p = position + n / of.heads;
    LoadHead(
        of,
        static_cast<const T*>(from) + (of.row + p) * stride + column + static_cast<int64_t>(n % of.heads) * of.head_dim,
        p, rotates, to + static_cast<int64_t>(n) * of.padded);
  }
}

template <typename T>
inline void TrainForward(const TrainingAttentionTile& tile) {
  const SequenceHeads of(tile);
  float* keys_t = static_cast<float*>(tile.scratch);
  const int64_t plane = static_cast<int64_t>(of.padded_length) * of.padded;
  float* values = keys_t + plane;
  float* q = values + plane;
  float* out = q + static_cast<int64_t>(of.vectors) * of.padded;
  float* scores = out + static_cast<int64_t>(of.vectors) * of.padded;
  LoadColumn<T>(of, of.KeyColumn(), true, nullptr, keys_t);
  LoadColumn<T>(of, of.ValueColumn(), false, values, nullptr);
  for (int position = 0; position < of.length; position += of.positions_at_once) {
    const int count = static_cast<int>(Least(of.positions_at_once, of.length - position)), rows = count * of.heads;
    const int begin = of.KeyBegin(position), end = of.KeyEnd(position);
    LoadBlock<T>(of, tile.qkv, tile.qkv_stride, of.QueryColumn(0), position, count, true, q);
    MultiplyPanels(q, of.padded, rows, keys_t, of.padded, 0, of.padded, begin, end, scores, of.padded_length);
    float lacking[kMostVectors];
    for (int n = 0; n < rows; n++)
      lacking[n] = Softmax(of, position + n / of.heads, begin, end, tile.scale,
                           scores + static_cast<int64_t>(n) * of.padded_length);
    MultiplyPanels(scores + begin, of.padded_length, rows, values, of.padded_length, begin,
                   static_cast<int>(Least(end, of.length)) - begin, 0, of.padded, out, of.padded);
    for (int n = 0; n < rows; n++) {
      T* to = static_cast<T*>(tile.out) + (of.row + position + n / of.heads) * tile.out_stride +
              of.QueryColumn(n % of.heads);
      float* head = out + static_cast<int64_t>(n) * of.padded;
      for (int d = 0; d < of.padded; d += kLanes) Store(head + d, Mul(Load(head + d), Set1(lacking[n])));
      StoreHead(of, head, 0, false, to);
    }
  }
}

// dV = P^T dO, dP = dO V^T, dS = P (dP - sum over keys of P dP), dQ = dS K, dK = dS^T Q, for a block of queries at a
// time.
template <typename T>
inline void TrainBackward(const TrainingAttentionTile& tile) {
  const SequenceHeads of(tile);
  const int64_t plane = static_cast<int64_t>(of.padded_length) * of.padded;
  const int64_t block = static_cast<int64_t>(of.vectors) * of.padded;
  const int64_t square = static_cast<int64_t>(of.vectors) * of.padded_length;
  float* at = static_cast<float*>(tile.scratch);
  const auto take = [&at](int64_t count) {
    float* start = at;
    at += count;
    return start;
  };
  float *keys = take(plane), *keys_t = take(plane), *values_t = take(plane), *dk = take(plane), *dv = take(plane);
  float *q = take(block), *dout = take(block), *dq = take(block);
  float *p = take(square), *dp = take(square);
  LoadColumn<T>(of, of.ValueColumn(), false, nullptr, values_t);
  LoadColumn<T>(of, of.KeyColumn(), true, keys, keys_t);
  for (int64_t i = 0; i < plane; i++) dk[i] = dv[i] = 0;
  for (int position = 0; position < of.length; position += of.positions_at_once) {
    const int count = static_cast<int>(Least(of.positions_at_once, of.length - position)), rows = count * of.heads;
    const int begin = of.KeyBegin(position), end = of.KeyEnd(position);
    const int seen = static_cast<int>(Least(end, of.length)) - begin;
    LoadBlock<T>(of, tile.qkv, tile.qkv_stride, of.QueryColumn(0), position, count, true, q);
    LoadBlock<T>(of, tile.dout, tile.dout_stride, of.QueryColumn(0), position, count, false, dout);
    MultiplyPanels(q, of.padded, rows, keys_t, of.padded, 0, of.padded, begin, end, p, of.padded_length);
    MultiplyPanels(dout, of.padded, rows, values_t, of.padded, 0, of.padded, begin, end, dp, of.padded_length);
    for (int n = 0; n < rows; n++) {
      float *probability = p + n * static_cast<int64_t>(of.padded_length),
            *gradient = dp + n * static_cast<int64_t>(of.padded_length);
      const Vec factor = Set1(Softmax(of, position + n / of.heads, begin, end, tile.scale, probability));
      Vec sum = Zero();
      for (int j = begin; j < end; j += kLanes) {
        const Vec value = Mul(Load(probability + j), factor);
        Store(probability + j, value);
        sum = Fma(value, Load(gradient + j), sum);
      }
      const Vec mean = Set1(SumLanes(sum)), scale = Set1(tile.scale);
      for (int j = begin; j < end; j += kLanes)
        Store(gradient + j, Mul(Mul(Load(probability + j), Sub(Load(gradient + j), mean)), scale));
    }
    MultiplyPanels(dp + begin, of.padded_length, rows, keys, of.padded_length, begin, seen, 0, of.padded, dq,
                   of.padded);
    for (int n = 0; n < rows; n++)
      StoreHead(of, dq + static_cast<int64_t>(n) * of.padded, position + n / of.heads, true,
                static_cast<T*>(tile.dqkv) + (of.row + position + n / of.heads) * tile.dqkv_stride +
                    of.QueryColumn(n % of.heads));
    const int64_t first = static_cast<int64_t>(begin) * of.padded;
    AddTurned(p + begin, of.padded_length, seen, dout, rows, of.padded, dv + first);
    AddTurned(dp + begin, of.padded_length, seen, q, rows, of.padded, dk + first);
  }
  for (int position = 0; position < of.length; position++) {
    T* to = static_cast<T*>(tile.dqkv) + (of.row + position) * tile.dqkv_stride;
    StoreHead(of, dk + static_cast<int64_t>(position) * of.padded, position, true, to + of.KeyColumn());
    StoreHead(of, dv + static_cast<int64_t>(position) * of.padded, position, false, to + of.ValueColumn());
  }
}

void TrainingAttention(const TrainingAttentionTile& tile) {
  WithWeightType(tile.dtype, [&](auto* type) {
    using T = typename Pointee<decltype(type)>::Type;
    if (tile.dqkv == nullptr) {
      TrainForward<T>(tile);
    } else {
      TrainBackward<T>(tile);
    }
  });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_TRAINING_ATTENTION_INL_H_
