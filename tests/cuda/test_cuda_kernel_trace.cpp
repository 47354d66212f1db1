// The trace of kernels: what ran, in replayed graphs too, as often as it ran (tier: exact).
#include <optional>

#include "tensor/kernel_trace.h"
#include "tensor/recorded_work.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

GPU_TEST("cuda kernel trace: eager and replayed kernels, copies and fills") {
  std::optional<KernelTrace> trace;
  try {
    trace.emplace(kGpu);
  } catch (const Error& e) {
    // CUPTI is optional, and serves a sanitizer alone. Nothing else may be wrong.
    const std::string text = e.what();
    REQUIRE_MESSAGE((text.find("was not found") != std::string::npos ||
                     text.find("has no CUPTI") != std::string::npos ||
                     (sampling() > 1 && text.find("MULTIPLE_SUBSCRIBERS") != std::string::npos)),
                    text);
    MESSAGE(text);
    return;
  }
  const Tensor x = uniform({64, 64}).to(kGpu);
  Tensor y = Tensor::zeros({64, 64}, DType::F32, kGpu);
  const auto work = [&] { y.copy_from(ops::exp(x)); };
  RecordedWork recorded(kGpu);
  work();  // libraries and buffers find their places
  recorded.record(work);
  const auto count = [](const std::vector<KernelRun>& runs, const char* part) {
    return std::ranges::count_if(
        runs, [&](const KernelRun& r) { return r.name.find(part) != std::string::npos; });
  };

  trace->start();
  for (int i = 0; i < 3; ++i) recorded.replay();
  ops::exp(x);
  const Tensor back = y.to(kCpu);
  const std::vector<KernelRun> runs = trace->stop();
  CHECK(count(runs, "exp_of") == 4);
  CHECK(count(runs, "copy device to host") == 1);
  for (std::size_t i = 0; i < runs.size(); ++i) {
    CHECK(runs[i].end > runs[i].begin);
    if (i > 0) CHECK(runs[i].begin >= runs[i - 1].begin);
  }

  // Nothing is kept of what ran outside, and a second trace begins anew.
  recorded.replay();
  trace->start();
  ops::exp(x);
  CHECK(count(trace->stop(), "exp_of") == 1);
  CHECK_THROWS_WITH_AS(KernelTrace{kGpu}, doctest::Contains("being taken already"), Error);
}
