// Counter-based random numbers: a number depends on its key and counter alone, not on what was drawn before.
#ifndef LORID_OPS_PHILOX_H_
#define LORID_OPS_PHILOX_H_

#include <cstdint>

namespace lorid {

// Philox4x32-10 (Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011).
struct Philox {
  uint32_t word[4];
};

static inline Philox PhiloxAt(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2 = 0, uint32_t c3 = 0) {
  auto k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t first = uint64_t{0xD2511F53u} * c0, second = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(first);
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace lorid

#endif  // LORID_OPS_PHILOX_H_
