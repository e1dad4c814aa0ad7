// The ops that touch each element once: rms_norm, silu_mul, rope with the write of keys and values into their pages,
// and the largest logits.
#ifndef LORID_OPS_POINTWISE_INL_H_
#define LORID_OPS_POINTWISE_INL_H_

#include "element-inl.h"

namespace lorid {
namespace LORID_ISA {
namespace {

template <typename X, typename Y>
inline void NormRow(const X* x, const float* weight, float epsilon, int features, Y* y) {
  Vec sum = Zero();
  for (int i = 0; i < features; i += kLanes) {
    const Vec value = LoadAsN(x + i, LanesLeft(features - i));
    sum = Fma(value, value, sum);
  }
  const float mean = SumLanes(sum) / static_cast<float>(features);
  const Vec scale = Set1(1.0f / __builtin_sqrtf(mean + epsilon));
  for (int i = 0; i < features; i += kLanes) {
    const int lanes = LanesLeft(features - i);
    StoreAsN(y + i, Mul(Mul(LoadAsN(x + i, lanes), scale), LoadAsN(weight + i, lanes)), lanes);
  }
}

void RmsNorm(const RmsNormTile& tile) {
  WithWeightType(tile.in_dtype, [&](auto* in) {
    WithType(tile.out_dtype, [&](auto* out) {
      for (int64_t t = tile.row_begin; t < tile.row_end; t++) {
        const int64_t from = tile.row_index == nullptr ? t : tile.row_index[t];
        NormRow(static_cast<const typename Pointee<decltype(in)>::Type*>(tile.x) + from * tile.x_stride, tile.weight,
                tile.epsilon, tile.features, static_cast<decltype(out)>(tile.y) + t * tile.y_stride);
      }
    });
  });
}

void SiluMul(const SiluMulTile& tile) {
  WithWeightType(tile.in_dtype, [&](auto* in) {
    WithType(tile.out_dtype, [&](auto* out) {
      for (int64_t t = tile.row_begin; t < tile.row_end; t++) {
        const auto* gate = static_cast<decltype(in)>(const_cast<void*>(tile.x)) + t * tile.x_stride;
        const auto* up = gate + tile.features;
        auto* y = static_cast<decltype(out)>(tile.y) + t * tile.y_stride;
        for (int c = tile.col_begin; c < tile.col_end; c += kLanes) {
          const int lanes = LanesLeft(tile.col_end - c);
          const Vec g = LoadAsN(gate + c, lanes);
          // g / (1 + e^-g); below -87.3, where Exp clamps, it is 0 to within 1e-36.
          const Vec silu = ZeroWhereLess(g, Set1(-87.3f), Div(g, Add(Set1(1), Exp(Sub(Zero(), g)))));
          StoreAsN(y + c, Mul(silu, LoadAsN(up + c, lanes)), lanes);
        }
      }
    });
  });
}

template <typename T>
inline void SiluMulBackwardRow(const T* x, const T* dy, int features, T* dx) {
  for (int c = 0; c < features; c += kLanes) {
    const int lanes = LanesLeft(features - c);
    const Vec g = LoadAsN(x + c, lanes), up = LoadAsN(x + features + c, lanes), d = LoadAsN(dy + c, lanes);
    const Vec one = Set1(1);
    const Vec sigmoid = ZeroWhereLess(g, Set1(-87.3f), Div(one, Add(one, Exp(Sub(Zero(), g)))));
    const Vec silu = Mul(g, sigmoid);
    // The derivative of silu: sigmoid + silu (1 - sigmoid).
    const Vec slope = Fma(silu, Sub(one, sigmoid), sigmoid);
    StoreAsN(dx + c, Mul(Mul(d, up), slope), lanes);
    StoreAsN(dx + features + c, Mul(d, silu), lanes);
  }
}

void SiluMulBackward(const SiluMulBackwardTile& tile) {
  WithWeightType(tile.dtype, [&](auto* type) {
    using T = typename Pointee<decltype(type)>::Type;
    for (int64_t t = tile.row_begin; t < tile.row_end; t++)
      SiluMulBackwardRow(static_cast<const T*>(tile.x) + t * tile.x_stride,
                         static_cast<const T*>(tile.dy) + t * tile.dy_stride, tile.features,
                         static_cast<T*>(tile.dx) + t * tile.dx_stride);
  });
}

// dx = r g - x r^3 mean(g x), with g = dy weight and r = 1 / sqrt(mean(x^2) + epsilon).
template <typename T>
inline void NormRowBackward(const RmsNormBackwardTile& tile, const T* x, const T* dy, T* dx) {
  Vec squares = Zero(), products = Zero();
  for (int i = 0; i < tile.features; i += kLanes) {
    const int lanes = LanesLeft(tile.features - i);
    const Vec value = LoadAsN(x + i, lanes);
    squares = Fma(value, value, squares);
    products = Fma(Mul(LoadAsN(dy + i, lanes), LoadAsN(tile.weight + i, lanes)), value, products);
  }
  const auto count = static_cast<float>(tile.features);
  const float inverse = 1.0f / __builtin_sqrtf(SumLanes(squares) / count + tile.epsilon);
  const Vec scale = Set1(inverse), back = Set1(-inverse * inverse * inverse * (SumLanes(products) / count));
  for (int i = 0; i < tile.features; i += kLanes) {
    const int lanes = LanesLeft(tile.features - i);
    const Vec g = Mul(LoadAsN(dy + i, lanes), LoadAsN(tile.weight + i, lanes));
    StoreAsN(dx + i, Fma(LoadAsN(x + i, lanes), back, Mul(g, scale)), lanes);
  }
}

void RmsNormBackward(const RmsNormBackwardTile& tile) {
  WithWeightType(tile.dtype, [&](auto* type) {
    using T = typename Pointee<decltype(type)>::Type;
    for (int64_t t = tile.row_begin; t < tile.row_end; t++)
      NormRowBackward(tile, static_cast<const T*>(tile.x) + t * tile.x_stride,
                      static_cast<const T*>(tile.dy) + t * tile.dy_stride,
                      static_cast<T*>(tile.dx) + t * tile.dx_stride);
  });
}

// Rotates one head into y: y[d] = x[d] cos[d] - x[d + D/2] sin[d], y[d + D/2] = x[d + D/2] cos[d] + x[d] sin[d].
template <typename X, typename Y>
inline void RotateHead(const X* x, const float* cos, const float* sin, int half, Y* y) {
  for (int d = 0; d < half; d += kLanes) {
    const int lanes = LanesLeft(half - d);
    const Vec first = LoadAsN(x + d, lanes), second = LoadAsN(x + half + d, lanes);
    const Vec c = LoadAsN(cos + d, lanes), s = LoadAsN(sin + d, lanes);
    StoreAsN(y + d, Sub(Mul(first, c), Mul(second, s)), lanes);
    StoreAsN(y + half + d, Add(Mul(second, c), Mul(first, s)), lanes);
  }
}

// Rotates one head into y, normalised first where it has a norm.
template <typename X, typename Y>
inline void NormRotateHead(const RopeTile& tile, const X* x, const float* norm, const float* cos, const float* sin,
                           Y* y) {
  if (norm == nullptr) return RotateHead(x, cos, sin, tile.head_dim / 2, y);
  float normed[kMaxHeadDim];
  NormRow(x, norm, tile.norm_epsilon, tile.head_dim, normed);
  RotateHead(normed, cos, sin, tile.head_dim / 2, y);
}

// Element (head, place in the page, d) of a key page and of a value page; see RopeTile.
template <typename Y>
inline int64_t KeyIndex(int head, int head_dim, int place, int d) {
  const int64_t start = static_cast<int64_t>(head) * head_dim * kPageTokens;
  return sizeof(Y) == 2 ? start + (d / 2) * 2 * kPageTokens + place * 2 + d % 2 : start + d * kPageTokens + place;
}
template <typename Y>
inline int64_t ValueIndex(int head, int padded, int place, int d) {
  const int64_t start = static_cast<int64_t>(head) * padded * kPageTokens;
  return sizeof(Y) == 2 ? start + (place / 2) * 2 * padded + d * 2 + place % 2 : start + place * padded + d;
}

template <typename Y>
inline Y* PageOf(void* pages, int64_t slot, int64_t head_elements, int num_kv_heads) {
  return static_cast<Y*>(pages) + slot / kPageTokens * kPageTokens * num_kv_heads * head_elements;
}

template <typename X, typename Y>
inline void WriteKey(const RopeTile& tile, const X* key, int head, const float* cos, const float* sin, int64_t slot) {
  const int place = static_cast<int>(slot % kPageTokens);
  Y* page = PageOf<Y>(tile.k_pages, slot, tile.head_dim, tile.num_kv_heads);
  Y row[kMaxHeadDim];
  NormRotateHead(tile, key, tile.k_norm, cos, sin, row);
  for (int d = 0; d < tile.head_dim; d++) page[KeyIndex<Y>(head, tile.head_dim, place, d)] = row[d];
}

template <typename X, typename Y>
inline void WriteValue(const RopeTile& tile, const X* value, int head, int64_t slot) {
  const int place = static_cast<int>(slot % kPageTokens), padded = static_cast<int>(RoundUp(tile.head_dim, 16));
  Y* page = PageOf<Y>(tile.v_pages, slot, padded, tile.num_kv_heads);
  Y row[kMaxHeadDim];
  for (int d = 0; d < tile.head_dim; d += kLanes) {
    const int lanes = LanesLeft(tile.head_dim - d);
    StoreAsN(row + d, LoadAsN(value + d, lanes), lanes);
  }
  for (int d = 0; d < tile.head_dim; d++) page[ValueIndex<Y>(head, padded, place, d)] = row[d];
}

template <typename X>
inline void RopeHead(const RopeTile& tile, const X* qkv, int64_t t, int head) {
  const X* x = qkv + t * tile.qkv_stride + static_cast<int64_t>(head) * tile.head_dim;
  const int64_t angles = static_cast<int64_t>(tile.positions[t]) * (tile.head_dim / 2), slot = tile.cache_slot[t];
  const float *cos = tile.cos + angles, *sin = tile.sin + angles;
  const int key = head - tile.num_heads, value = key - tile.num_kv_heads;
  if (key < 0)
    return WithType(tile.q_dtype, [&](auto* type) {
      auto* q = static_cast<decltype(type)>(tile.q_out) + t * tile.q_out_stride;
      NormRotateHead(tile, x, tile.q_norm, cos, sin, q + static_cast<int64_t>(head) * tile.head_dim);
    });
  WithWeightType(tile.dtype, [&](auto* type) {
    using Y = typename Pointee<decltype(type)>::Type;
    if (value < 0) {
      WriteKey<X, Y>(tile, x, key, cos, sin, slot);
    } else {
      WriteValue<X, Y>(tile, x, value, slot);
    }
  });
}

void Rope(const RopeTile& tile) {
  WithWeightType(tile.in_dtype, [&](auto* type) {
    using X = typename Pointee<decltype(type)>::Type;
    for (int64_t t = tile.row_begin; t < tile.row_end; t++)
      for (int head = tile.head_begin; head < tile.head_end; head++)
        RopeHead(tile, static_cast<const X*>(tile.qkv), t, head);
  });
}

// The comparison is with the largest so far in second place, which stays where a logit is NaN.
void BlockMax(const float* x, int64_t n, float* most) {
  for (int64_t begin = 0; begin < n; begin += kMaxBlock, most++) {
    const int64_t end = Least(begin + kMaxBlock, n);
    Vec top = Set1(-__builtin_inff());
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) top = Max(Load(x + i), top);
    *most = MaxLanes(top);
    for (; i < end; i++) *most = x[i] > *most ? x[i] : *most;
  }
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_POINTWISE_INL_H_
