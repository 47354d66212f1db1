// Devices. Meta carries shapes and byte counts only: no storage, no kernel runs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/check.h"

namespace nibble {

struct Device {
  enum class Kind : std::uint8_t { Cpu, Cuda, Meta };
  Kind kind = Kind::Cpu;
  int index = 0;

  bool operator==(const Device&) const = default;
  constexpr bool is_cpu() const { return kind == Kind::Cpu; }
  constexpr bool is_cuda() const { return kind == Kind::Cuda; }
  constexpr bool is_meta() const { return kind == Kind::Meta; }
};
inline constexpr Device kCpu{};
inline constexpr Device kMeta{Device::Kind::Meta, 0};
constexpr Device cuda_device(int index = 0) { return {Device::Kind::Cuda, index}; }

#ifdef NIBBLE_CUDA_BACKEND
inline constexpr bool kHasCuda = true;
#else
inline constexpr bool kHasCuda = false;
#endif

std::string to_string(Device device);        // "cpu", "cuda:0", "meta"
Device parse_device(std::string_view name);  // throws Error("device")
void check_available(Device device);         // throws when this build or machine lacks it
void synchronize(Device device);             // waits for a GPU's queue; throws its faults
// What decides the bits of a result: "cpu" (any: its bits are those of every machine), or a GPU's
// product name.
std::string processor_name(Device device);

}  // namespace nibble

template <>
struct fmt::formatter<nibble::Device> : fmt::formatter<std::string> {
  auto format(nibble::Device d, format_context& ctx) const {
    return fmt::formatter<std::string>::format(nibble::to_string(d), ctx);
  }
};

// Runs a kernel pair's half for `device`: NIBBLE_DISPATCH(y.device(), gelu(y, x)). Meta runs
// nothing.
#ifdef NIBBLE_CUDA_BACKEND
namespace nibble::cuda {
void use(int index);  // tensor/cuda/context.h
}
#define NIBBLE_DISPATCH(device, ...)                  \
  do {                                                \
    const ::nibble::Device nibble_device_ = (device); \
    if (nibble_device_.is_cpu()) {                    \
      ::nibble::cpu::__VA_ARGS__;                     \
    } else if (nibble_device_.is_cuda()) {            \
      ::nibble::cuda::use(nibble_device_.index);      \
      ::nibble::cuda::__VA_ARGS__;                    \
    }                                                 \
  } while (0)
#else
#define NIBBLE_DISPATCH(device, ...)                  \
  do {                                                \
    const ::nibble::Device nibble_device_ = (device); \
    if (nibble_device_.is_cpu())                      \
      ::nibble::cpu::__VA_ARGS__;                     \
    else if (nibble_device_.is_cuda())                \
      ::nibble::check_available(nibble_device_);      \
  } while (0)
#endif
