// Errors: NIBBLE_CHECK and nibble::Error.
#pragma once

#ifdef __CUDACC__  // fmt 9 takes constexpr away from nvcc, and then cannot check format strings
#define FMT_USE_CONSTEXPR 1
#endif
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace nibble {

// What every failed check throws. `what()` reads "op: what is wrong: got … expected …; hint".
class Error : public std::runtime_error {
 public:
  Error(std::string_view op, const std::string& message)
      : std::runtime_error(std::string(op) + ": " + message), op_(op) {}
  const std::string& op() const noexcept { return op_; }

 private:
  std::string op_;
};

template <class... Args>
[[noreturn]] void fail(std::string_view op, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(op, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace nibble

// Always on. `op` names the operation at fault; then an fmt format string and its arguments.
#define NIBBLE_CHECK(condition, op, ...) \
  do {                                   \
    if (!(condition)) [[unlikely]]       \
      ::nibble::fail(op, __VA_ARGS__);   \
  } while (0)

// Kernels only: debug builds.
#ifdef NDEBUG
#define NIBBLE_ASSERT(condition) ((void)0)
#else
#define NIBBLE_ASSERT(condition) NIBBLE_CHECK(condition, "assertion", "{}", #condition)
#endif
