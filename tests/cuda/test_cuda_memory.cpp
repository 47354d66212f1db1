// Storage, transfers, the step's scalars and faults on a GPU.
#include "nn/checkpoint_file.h"
#include "tensor/held_memory.h"
#include "tensor/out_of_memory.h"
#include "tensor/step_state.h"
#include "tests/cuda/lockstep.h"
#include "tests/temp_dir.h"
#include "tests/tensor_testing.h"

#include <nlohmann/json.hpp>

using namespace nibble;
using namespace nibble::testing;

GPU_TEST("cuda memory: a round trip keeps every bit, of any dtype and view") {
  for (const DType dtype :
       {DType::F64, DType::F32, DType::BF16, DType::I32, DType::U8, DType::I8}) {
    const Tensor x = Tensor::uniform({37, 12}, 0, 100, RngKey{1, 2}).to(dtype);
    check_bits(x, x.to(kGpu));
    if (dtype != DType::F64) check_bits(ops::contiguous(x.t()), x.to(kGpu).t().to(kCpu));
    check_bits(x.slice(0, 3, 9), x.slice(0, 3, 9).to(kGpu));
  }
  CHECK(Tensor::empty({0, 3}).to(kGpu).to(kCpu).shape() == Shape({0, 3}));
}

GPU_TEST("cuda memory: blocks are counted, reused and given back") {
  release_cached_memory(kGpu);
  const std::int64_t before = memory_stats(kGpu).current;
  const std::byte* first = nullptr;
  {
    const Tensor x = Tensor::empty({16 << 20}, DType::F32, kGpu);
    first = x.raw();
    CHECK(memory_stats(kGpu).current == before + (64 << 20));
  }
  CHECK(memory_stats(kGpu).current == before);
  CHECK(Tensor::empty({16 << 20}, DType::F32, kGpu).raw() == first);
  const std::size_t held = cuda::memory_info().free;
  release_cached_memory(kGpu);
  CHECK(cuda::memory_info().free >= held + (48u << 20));  // whole pieces of 16 MiB
}

GPU_TEST("cuda memory: what many small blocks gave back serves a large one") {
  release_cached_memory(kGpu);
  {
    std::vector<Tensor> parts;
    for (int i = 0; i < 64; ++i) parts.push_back(Tensor::full({1 << 20}, i, DType::F32, kGpu));
    for (int i = 0; i < 64; ++i) CHECK(ops::max(parts[static_cast<std::size_t>(i)]).item() == i);
  }
  const std::size_t free = cuda::memory_info().free;
  const Tensor whole = Tensor::full({63 << 20}, 3, DType::F32, kGpu);
  CHECK(cuda::memory_info().free == free);
  CHECK(ops::min(whole).item() == 3);
}

// The same code places them, but for holes that other tests' tensors leave here.
GPU_TEST("cuda memory: Meta's blocks take what the GPU's do") {
  const auto held = [](Device device) {
    release_cached_memory(device);
    const std::int64_t before = held_memory(device).now;
    std::vector<Tensor> kept;
    for (int i = 1; i <= 60; ++i) {
      kept.push_back(Tensor::empty({i * 7 % 23 + 1, 1 << 20}, DType::U8, device));
      if (i % 3 == 0) kept.erase(kept.begin() + i / 3);
    }
    return held_memory(device).now - before;
  };
  // What the device has free, others change too: not in each of ten attempts.
  bool agrees = false;
  for (int i = 0; i < 10 && !agrees; ++i) {
    release_cached_memory(kGpu);
    const auto free = static_cast<std::int64_t>(cuda::memory_info().free);
    const std::int64_t here = held(kGpu);
    CHECK(here > 0);
    CHECK(here <= held(kMeta));
    const std::int64_t taken = free - static_cast<std::int64_t>(cuda::memory_info().free);
    agrees = taken >= here && taken <= here + (16 << 20);  // cached now
  }
  CHECK(agrees);
}

GPU_TEST("cuda memory: running out is one clear line, and the device goes on") {
  const Tensor held = Tensor::empty({1 << 20}, DType::F32, kGpu);
  const std::string message = error_of([] { Tensor::empty({1ll << 40}, DType::F32, kGpu); });
  CHECK(message.starts_with(
      "allocate: out of memory on cuda:0: got 4.0 TiB asked for, expected at most the "));
  CHECK(message.find(" free of ") != std::string::npos);
  CHECK(message.find("; in use: ") != std::string::npos);
  CHECK(message.ends_with("; a smaller batch or checkpointing per block needs less"));
  CHECK(Tensor::full({3}, 2, DType::F32, kGpu).to_vector() == std::vector<float>{2, 2, 2});
}

// Exact, but for what the GPU has free.
GPU_TEST("cuda memory: what the runtime and its libraries lack is one clear line too") {
  const auto said = [](auto status) {
    return error_of([&] { cuda::throw_status("make(&x)", status, "folder/file.cpp", 7); });
  };
  for (const std::string& text :
       {said(cudaErrorMemoryAllocation), said(CUBLAS_STATUS_ALLOC_FAILED)}) {
    CHECK(text.starts_with("allocate: out of memory on cuda:0: make(&x) found none; the GPU has "));
    CHECK(text.ends_with("; end other programs that use it, or use a smaller batch"));
    CHECK(text.find('\n') == std::string::npos);
  }
  CHECK(said(cudaErrorInvalidValue) ==
        "cuda: make(&x) failed: invalid argument (code 1) at file.cpp:7");
  const std::string workspace =
      error_of([] { throw_out_of_memory(kGpu, 64 << 20, "cuBLAS's workspace"); });
  CHECK(
      workspace.starts_with("allocate: out of memory on cuda:0: got 64.0 MiB asked for by "
                            "cuBLAS's workspace, expected at most the "));
}

// Exact: the limit counts bytes of tensors. Every failure leaves the device as it was.
GPU_TEST("cuda memory: a limit is kept, and told with what is in use") {
  const MemoryScope scope("activations");
  const std::int64_t before = memory_stats(kGpu).current;
  set_memory_limit(kGpu, before + (8 << 20));
  const Tensor kept = Tensor::empty({1 << 20}, DType::F32, kGpu);
  const std::string message = error_of([] { Tensor::empty({(1 << 20) + 1}, DType::F32, kGpu); });
  set_memory_limit(kGpu, 0);
  CHECK(message.find("got 4.0 MiB asked for, expected at most the 4.0 MiB free of ") !=
        std::string::npos);
  CHECK(message.find("activations 4.0 MiB") != std::string::npos);
  CHECK(memory_stats(kGpu).current == before + (4 << 20));
  CHECK(device_memory(kGpu)->total > (1 << 30));
}

GPU_TEST("cuda memory: the step's scalars are read where the kernels run") {
  StepState state(kGpu);
  state.begin(7, 0.25);
  state.set_clip(0.5);
  state.mark_bad();
  const StepScalars s = state.read();
  CHECK(s.step == 7);
  CHECK(s.lr == 0.25f);
  CHECK(s.clip == 0.5f);
  CHECK(s.bad == 1);
  state.clear_bad();
  state.begin(8, 1);
  CHECK(state.read().bad == 0);
  CHECK(state.read().clip == 1);
  // A key that points to the device's step draws what one with the number draws on the CPU.
  StepState host(kCpu);
  host.begin(8, 1);
  const Tensor a = Tensor::uniform({100}, 0, 1, RngKey{3, 4, host.step_pointer()});
  check_bits(a, Tensor::uniform({100}, 0, 1, RngKey{3, 4, state.step_pointer()}, DType::F32, kGpu));
}

GPU_TEST("cuda memory: an index out of range is an error at the next synchronisation") {
  const Tensor table = Tensor::zeros({10, 4}, DType::F32, kGpu);
  const Tensor index = Tensor::from(std::vector<std::int32_t>{0, 12, 3}, {3}).to(kGpu);
  const std::string message = error_of([&] { ops::index_select(table, index).to_vector(); });
  CHECK(message.find("index_select: got index 12 at position 1, expected 0 to 9") == 0);
  const std::string target = error_of([&] {
    ops::check_targets(index, 3);
    cuda::synchronize();
  });
  CHECK(target.find("cross_entropy: got target 12 in row 1, expected 0 to 2") == 0);
  cuda::synchronize();  // the fault was taken
}

GPU_TEST("cuda memory: a checkpoint of a GPU's tensors is the CPU's, and loads on both") {
  const test::TempDir dir;
  const Tensor x = uniform({33, 5}), h = uniform({7}, DType::BF16);
  save_checkpoint(dir / "cpu.nib", {{"step", 1}}, {{"x", x}, {"h", h}});
  save_checkpoint(dir / "gpu.nib", {{"step", 1}}, {{"x", x.to(kGpu)}, {"h", h.to(kGpu)}});
  CHECK(test::read_file(dir / "cpu.nib") == test::read_file(dir / "gpu.nib"));
  Tensor a = Tensor::zeros({33, 5}, DType::F32, kGpu), b = Tensor::zeros({7}, DType::BF16, kGpu);
  Checkpoint::open(dir / "cpu.nib").restore({{"x", a}, {"h", b}}, true);
  check_bits(x, a);
  check_bits(h, b);
}
