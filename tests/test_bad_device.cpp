// A GPU that is absent, too old or too new, and memory that is short: what is said, without a GPU.
// All exact.
#include <doctest/doctest.h>

#include "tensor/device_support.h"
#include "tensor/out_of_memory.h"
#include "tensor/storage.h"
#include "tests/temp_dir.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

GpuFacts gpu(int major, int minor) {
  return {.index = 0, .count = 1, .name = "NVIDIA X", .major = major, .minor = minor};
}

// Takes the limit back, whatever a case does.
struct Limit {
  explicit Limit(std::int64_t bytes) { set_memory_limit(kCpu, bytes); }
  ~Limit() { set_memory_limit(kCpu, 0); }
};

}  // namespace

TEST_CASE("bad device: a GPU of another compute capability") {
  CHECK(gpu_fault(gpu(9, 0)) == "");
  CHECK(gpu_fault(gpu(8, 6)) ==
        "the GPU is too old: got cuda:0 (NVIDIA X, compute capability 8.6), expected capability "
        "9.0, which the kernels of this build are for; use --device cpu");
  CHECK(gpu_fault(gpu(10, 0)) ==
        "the GPU is too new for this build: got cuda:0 (NVIDIA X, compute capability 10.0), "
        "expected capability 9.0, which the kernels of this build are for; use --device cpu");
  for (const auto& [major, minor] : {std::pair{7, 0}, {7, 5}, {8, 0}, {8, 9}})
    CHECK(gpu_fault(gpu(major, minor)).starts_with("the GPU is too old"));
  for (const auto& [major, minor] : {std::pair{9, 1}, {10, 3}, {12, 0}})
    CHECK(gpu_fault(gpu(major, minor)).starts_with("the GPU is too new"));
}

TEST_CASE("bad device: no GPU, or not that many") {
  CHECK(gpu_fault({.index = 1, .count = 0, .runtime_says = "no CUDA-capable device"}) ==
        "no usable GPU: got cuda:1, and CUDA says 'no CUDA-capable device', expected an NVIDIA GPU "
        "of compute capability 9.0 and its driver; use --device cpu");
  CHECK(gpu_fault({.index = 1, .count = 1}) ==
        "no such GPU: got cuda:1, expected cuda:0, the only one; use one of these or --device cpu");
  CHECK(gpu_fault({.index = 8, .count = 8}) ==
        "no such GPU: got cuda:8, expected cuda:0 … cuda:7; use one of these or --device cpu");
}

TEST_CASE("bad device: a limit on memory is kept and told, and nothing is lost") {
  const MemoryScope scope("activations");
  const std::int64_t before = memory_stats(kCpu).current;
  const Limit limit(before + 3000);
  const Tensor kept = Tensor::full({500}, 2);
  try {
    Tensor::empty({500});
    FAIL("expected an error");
  } catch (const OutOfMemory& e) {
    CHECK(e.shortage().asked == 2000);
    CHECK(e.shortage().memory->free == 1000);
    CHECK(e.shortage().memory->total == before + 3000);
    CHECK(e.shortage().in_use.at("activations") == 2000);
    CHECK(e.in_use() == before + 2000);
    CHECK(std::string(e.what()).starts_with(
        "allocate: out of memory on cpu: got 2.0 KiB asked for, expected at most the 1000 B free "
        "of "));
    CHECK(std::string(e.what()).find("activations 2.0 KiB") != std::string::npos);
    CHECK(std::string(e.what()) ==
          "allocate: " + e.cause() + "; a smaller batch or checkpointing per block needs less");
  }
  CHECK(memory_stats(kCpu).current == before + 2000);
  CHECK(Tensor::full({250}, 1).numel() == 250);  // what fits is served
  CHECK(kept.to_vector() == std::vector<float>(500, 2.0f));
  CHECK(error_of([] { set_memory_limit(kCpu, -1); }) ==
        "memory limit: got -1 bytes, expected at least 0");
}

// The system promises more than it has: without asking, the first write would kill the process.
TEST_CASE("bad device: more than the machine has is refused before it is touched") {
  const std::optional<DeviceMemory> host = device_memory(kCpu);
  if (!host) return;  // a system that doesn't tell
  const std::string text = error_of([&] { Tensor::empty({host->total + (1 << 30)}, DType::U8); });
  CHECK(text.starts_with("allocate: out of memory on cpu: got "));
  CHECK(Tensor::full({3}, 1).to_vector() == std::vector<float>{1, 1, 1});
  CHECK(device_memory(kMeta) == std::nullopt);
}

TEST_CASE("bad device: the message names scopes by size, and leaves out what is not known") {
  const Shortage bare{.device = cuda_device(2), .asked = 1 << 30};
  CHECK(OutOfMemory(bare).cause() == "out of memory on cuda:2: got 1.0 GiB asked for; in use: 0 B");
  const Shortage full{.device = kCpu,
                      .asked = 64 << 20,
                      .purpose = "cuBLAS's workspace",
                      .in_use = {{"", 512}, {"gradients", 0}, {"moments", 2048}},
                      .memory = DeviceMemory{1024, 1 << 20}};
  CHECK(OutOfMemory(full).cause() ==
        "out of memory on cpu: got 64.0 MiB asked for by cuBLAS's workspace, expected at most the "
        "1.0 KiB free of 1.0 MiB; in use: 2.5 KiB, of them moments 2.0 KiB, other 512 B");
}

TEST_CASE("bad device: the host's memory from what the system says") {
  const test::TempDir dir;
  const auto meminfo =
      dir.write("meminfo",
                "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    600 kB\n"
                "SwapFree:   50 kB\nodd\n");
  const auto of = [&](const std::filesystem::path& info, const std::filesystem::path& group) {
    const std::optional<DeviceMemory> m = host_memory(info, group);
    return m ? std::pair{m->free, m->total} : std::pair<std::int64_t, std::int64_t>{-1, -1};
  };
  using Pair = std::pair<std::int64_t, std::int64_t>;
  CHECK(of(meminfo, dir / "none") == Pair{650 * 1024, 1000 * 1024});
  CHECK(of(dir / "none", dir / "none") == Pair{-1, -1});
  const auto group = dir / "group";
  std::filesystem::create_directory(group);
  dir.write("group/memory.max", "500000\n");
  dir.write("group/memory.current", "450000\n");
  CHECK(of(meminfo, group) == Pair{50000, 500000});
  // A group's cached files are given up before anything fails.
  dir.write("group/memory.stat", "anon 100\ninactive_file 200000\nactive_file 100000\n");
  CHECK(of(meminfo, group) == Pair{350000, 500000});
  CHECK(of(dir / "none", group) == Pair{350000, 500000});
  dir.write("group/memory.max", "max\n");
  CHECK(of(meminfo, group) == Pair{650 * 1024, 1000 * 1024});
}

TEST_CASE("bad device: what each scope held at the fullest moment adds up") {
  std::int64_t sum = 0;
  {
    const Tensor other = Tensor::empty({10});
    reset_peak_memory(kCpu);
    {
      const MemoryScope scope("early");
      Tensor::empty({1000});
    }
    const MemoryScope scope("late");
    const Tensor a = Tensor::empty({600});
    Tensor::empty({600});
  }
  for (const auto& [name, s] : memory_by_scope(kCpu)) sum += s.at_peak;
  CHECK(sum == memory_stats(kCpu).peak);
  CHECK(memory_stats(kCpu).at_peak == memory_stats(kCpu).peak);
  CHECK(memory_by_scope(kCpu).at("early").at_peak == 0);
  CHECK(memory_by_scope(kCpu).at("early").peak == 4000);
  CHECK(memory_by_scope(kCpu).at("late").at_peak == 4800);
}
