#include "tensor/profile.h"

#include <atomic>
#include <charconv>

#include "tensor/check.h"

#ifdef NIBBLE_CUDA_BACKEND
#include <cuda_profiler_api.h>
#include <nvtx3/nvToolsExt.h>

#include "tensor/cuda/context.h"
#endif

namespace nibble {
namespace {

std::atomic<bool> g_enabled{false};  // changes between steps only

void push([[maybe_unused]] const char* name) {
#ifdef NIBBLE_CUDA_BACKEND
  nvtxRangePushA(name);
#endif
}
void pop() {
#ifdef NIBBLE_CUDA_BACKEND
  nvtxRangePop();
#endif
}

}  // namespace

ProfileRange::ProfileRange(const char* name) : open_(g_enabled) {
  if (open_) push(name);
}
ProfileRange::~ProfileRange() {
  if (open_) pop();
}

namespace profile {

bool enabled() { return g_enabled; }

Range parse_range(const std::string& text) {
  const auto number = [&](std::string_view part) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    NIBBLE_CHECK(error == std::errc() && end == part.data() + part.size() && value > 0, "profile",
                 "got steps '{}', expected a step from 1 or FIRST:LAST", text);
    return value;
  };
  const auto colon = text.find(':');
  if (colon == std::string::npos) return {number(text), number(text)};
  const Range range{number(std::string_view(text).substr(0, colon)),
                    number(std::string_view(text).substr(colon + 1))};
  NIBBLE_CHECK(range.first <= range.last, "profile",
               "got steps '{}', expected FIRST:LAST with FIRST no later than LAST", text);
  return range;
}

Step::Step(const Steps& steps, std::int64_t step, Device device)
    : covered_(steps.covers(step)), last_(step == steps.range().last), device_(device) {
  if (!covered_) return;
  if (!g_enabled && device.is_cuda()) {
#ifdef NIBBLE_CUDA_BACKEND
    cuda::use(device.index);
    cuda::wait();
    NIBBLE_CUDA_CHECK(cudaProfilerStart());
#endif
  }
  g_enabled = true;
  push(fmt::format("step {}", step).c_str());
}

Step::~Step() {
  if (!covered_) return;
  pop();
  if (!last_) return;
  g_enabled = false;
#ifdef NIBBLE_CUDA_BACKEND
  if (device_.is_cuda()) (void)cudaProfilerStop();
#endif
}

}  // namespace profile
}  // namespace nibble
