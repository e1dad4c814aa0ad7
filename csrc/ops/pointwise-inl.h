// The ops that touch each element once: rms_norm, silu_mul, and rope with the write of keys and values into their
// pages.
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
  WithType(tile.in_dtype, [&](auto* in) {
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
  WithType(tile.in_dtype, [&](auto* in) {
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

template <typename X, typename Y>
inline void WriteKeyValue(const RopeTile& tile, const X* key, const X* value, const float* cos, const float* sin,
                          int64_t slot) {
  const int head_dim = tile.head_dim, padded = static_cast<int>(RoundUp(head_dim, 16));
  const int place = static_cast<int>(slot % kPageTokens);
  Y* k_page = static_cast<Y*>(tile.k_pages) + slot / kPageTokens * kPageTokens * tile.num_kv_heads * head_dim;
  Y* v_page = static_cast<Y*>(tile.v_pages) + slot / kPageTokens * kPageTokens * tile.num_kv_heads * padded;
  Y row[kMaxHeadDim];
  for (int g = 0; g < tile.num_kv_heads; g++, key += head_dim, value += head_dim) {
    NormRotateHead(tile, key, tile.k_norm, cos, sin, row);
    for (int d = 0; d < head_dim; d++) k_page[KeyIndex<Y>(g, head_dim, place, d)] = row[d];
    for (int d = 0; d < head_dim; d += kLanes) {
      const int lanes = LanesLeft(head_dim - d);
      StoreAsN(row + d, LoadAsN(value + d, lanes), lanes);
    }
    for (int d = 0; d < head_dim; d++) v_page[ValueIndex<Y>(g, padded, place, d)] = row[d];
  }
}

void Rope(const RopeTile& tile) {
  const int head_dim = tile.head_dim, half = head_dim / 2;
  WithType(tile.in_dtype, [&](auto* in) {
    WithType(tile.out_dtype, [&](auto* out) {
      using X = typename Pointee<decltype(in)>::Type;
      using Y = typename Pointee<decltype(out)>::Type;
      for (int64_t t = tile.row_begin; t < tile.row_end; t++) {
        const X* qkv = static_cast<const X*>(tile.qkv) + t * tile.qkv_stride;
        const float* cos = tile.cos + static_cast<int64_t>(tile.positions[t]) * half;
        const float* sin = tile.sin + static_cast<int64_t>(tile.positions[t]) * half;
        Y* q = static_cast<Y*>(tile.q_out) + t * tile.q_out_stride;
        for (int h = 0; h < tile.num_heads; h++)
          NormRotateHead(tile, qkv + h * head_dim, tile.q_norm, cos, sin, q + h * head_dim);
        const X* key = qkv + tile.num_heads * head_dim;
        WriteKeyValue<X, Y>(tile, key, key + tile.num_kv_heads * head_dim, cos, sin, tile.cache_slot[t]);
      }
    });
  });
}

}  // namespace
}  // namespace LORID_ISA
}  // namespace lorid

#endif  // LORID_OPS_POINTWISE_INL_H_
