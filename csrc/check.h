// LORID_CHECK(condition, parts of a message...): throws std::invalid_argument, which pybind11 turns into ValueError.
#ifndef LORID_CHECK_H_
#define LORID_CHECK_H_

#include <sstream>
#include <stdexcept>

namespace lorid {

template <typename... Parts>
[[noreturn]] void Refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

}  // namespace lorid

#define LORID_CHECK(condition, ...)                 \
  do {                                              \
    if (!(condition)) ::lorid::Refuse(__VA_ARGS__); \
  } while (false)

#endif  // LORID_CHECK_H_
