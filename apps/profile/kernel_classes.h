// What a kernel is for, told by its name: ours, cuBLASLt's and cuDNN's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble::profile {

enum class KernelClass : std::uint8_t {
  IntProduct,
  Fp8Product,
  FloatProduct,
  Attention,
  Encode,
  Norm,
  Activation,
  CrossEntropy,
  Embedding,
  Elementwise,
  Reduction,
  Optimizer,
  Other,
};
inline constexpr int kKernelClasses = static_cast<int>(KernelClass::Other) + 1;

const char* class_name(KernelClass of);

// "void nibble::cuda::(anonymous namespace)::f<g<1>>(int)" is f.
std::string function_of(std::string_view demangled);
// Of a demangled name, or of a copy or fill.
KernelClass classify(std::string_view demangled);
// What tells its instance from others, without what all have in common, 100 characters at most.
std::string short_name(std::string_view demangled);

}  // namespace nibble::profile
