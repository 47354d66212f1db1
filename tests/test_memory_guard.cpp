// The guard that other tests rely on: what it must find, it finds.
#include <thread>

#include "tensor/memory_guard.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

TEST_CASE("memory guard: one byte before or after a tensor is found") {
  MemoryGuard guard(kCpu);
  Tensor a = Tensor::zeros({3}), b = Tensor::zeros({5}, DType::U8);
  CHECK(guard.blocks() == 2);
  CHECK(guard.damage().empty());
  a.raw()[12] = std::byte{7};
  b.raw()[-1] = std::byte{7};
  CHECK(
      guard.damage() ==
      std::vector<std::string>{
          "block 0 of 12 bytes: in the 512 bytes after it 1 bytes changed, first the one at 0",
          "block 1 of 5 bytes: in the 512 bytes before it 1 bytes changed, first the one at 511"});
}

TEST_CASE("memory guard: writes of a tensor that is gone are still found") {
  MemoryGuard guard(kCpu);
  {
    Tensor scratch = Tensor::empty({4});
    scratch.data<float>()[4] = 1;
  }
  CHECK(guard.damage().size() == 1);
}

TEST_CASE("memory guard: what nobody wrote is NaN, or -1") {
  const MemoryGuard guard(kCpu);
  for (const DType dtype : kFloats)
    for (const double v : Tensor::empty({9}, dtype).to_vector<double>()) CHECK(std::isnan(v));
  CHECK(Tensor::empty({2}, DType::I32).to_vector<std::int32_t>() ==
        std::vector<std::int32_t>{-1, -1});
}

TEST_CASE("memory guard: tensors outlive it, threads share it, alignment stays") {
  Tensor x;
  {
    const MemoryGuard guard(kCpu);
    std::thread([&] { x = Tensor::full({7}, 3); }).join();
    CHECK(guard.blocks() == 1);
    CHECK(reinterpret_cast<std::uintptr_t>(x.raw()) % 64 == 0);
  }
  CHECK(x.to_vector() == std::vector<float>(7, 3));
  const std::int64_t before = memory_stats(kCpu).current;
  x = Tensor();
  CHECK(memory_stats(kCpu).current < before);
}

TEST_CASE("memory guard: one at a time, and none for Meta") {
  CHECK(error_of([] { MemoryGuard guard(kMeta); }) ==
        "memory guard: got meta, expected a device with memory");
  const MemoryGuard guard(kCpu);
  CHECK(error_of([] { MemoryGuard second(kCpu); }) ==
        "memory guard: got a second guard, expected one at a time");
}
