#include "tensor/device.h"

#include <charconv>

#ifdef NIBBLE_CUDA_BACKEND
#include "tensor/cuda/context.h"
#endif

namespace nibble {

std::string to_string(Device device) {
  switch (device.kind) {
    case Device::Kind::Cpu: return "cpu";
    case Device::Kind::Meta: return "meta";
    default: return fmt::format("cuda:{}", device.index);
  }
}

Device parse_device(std::string_view name) {
  if (name == "cpu") return kCpu;
  if (name == "meta") return kMeta;
  if (name == "cuda") return cuda_device(0);
  if (name.starts_with("cuda:")) {
    int index = -1;
    const char* end = name.data() + name.size();
    const auto [rest, error] = std::from_chars(name.data() + 5, end, index);
    if (error == std::errc{} && rest == end && index >= 0) return cuda_device(index);
  }
  fail("device", "unknown name: got '{}', expected cpu, cuda, cuda:N or meta", name);
}

void check_available(Device device) {
  if (!device.is_cuda()) return;
#ifdef NIBBLE_CUDA_BACKEND
  cuda::check_device(device.index);
#else
  fail("device",
       "this build has no CUDA backend: got {}, expected cpu; use --device cpu, or build with "
       "-DNIBBLE_CUDA=ON",
       device);
#endif
}

void synchronize(Device device) {
#ifdef NIBBLE_CUDA_BACKEND
  if (!device.is_cuda()) return;
  cuda::use(device.index);
  cuda::synchronize();
#else
  check_available(device);
#endif
}

std::string processor_name(Device device) {
#ifdef NIBBLE_CUDA_BACKEND
  if (device.is_cuda()) return cuda::device_name(device.index);
#endif
  return device.is_meta() ? "meta" : "cpu";
}

}  // namespace nibble
