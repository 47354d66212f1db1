// spike_block: one GPT-2 block in bf16 and in three int8 families, time by kernel class and error
// against float64. `--check` stops after the comparisons with CPU references.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <thread>

#include "check.h"
#include "reference.h"
#include "report.h"

namespace nibble::spike {
namespace {

constexpr int kRepeats = 25;
constexpr Family kFamilies[] = {Family::kBf16, Family::kRow, Family::kTile, Family::kGroup};

double median(std::vector<float> v) {
  std::sort(v.begin(), v.end());
  return double(v[v.size() / 2]);
}

/// Bytes read plus written, in GB/s.
double copy_bandwidth() {
  constexpr std::size_t kBytes = std::size_t{4} << 30;
  Buffer<std::uint8_t> from(kBytes), to(kBytes);
  Event start, stop;
  std::vector<float> ms;
  for (int i = 0; i < kRepeats; ++i) {
    start.record();
    check(cudaMemcpyAsync(to.get(), from.get(), kBytes, cudaMemcpyDeviceToDevice));
    stop.record();
    ms.push_back(stop.since(start));
  }
  return 2.0 * double(kBytes) / median(ms) / 1e6;
}

std::string read_clocks() {
  FILE* p = popen(
      "nvidia-smi --query-gpu=clocks.sm,power.draw,temperature.gpu --format=csv,noheader", "r");
  if (p == nullptr) return "not read";
  char line[256] = {};
  const bool got = std::fgets(line, sizeof line, p) != nullptr;
  pclose(p);
  if (!got) return "not read";
  line[std::strcspn(line, "\n")] = 0;
  return line;
}

Timing time_family(GemmLibrary& gemm, const BlockData& data, Family family) {
  Block block(gemm, data, family, Products::kFast);
  Profiler off(false), prof(true);
  for (int i = 0; i < 3; ++i) block.run(off);
  for (int i = 0; i < kRepeats; ++i) block.run(prof);
  Timing t{family, prof.ops(), 0, {}};
  Event start, stop;
  std::vector<float> ms;
  for (int i = 0; i < kRepeats; ++i) {
    start.record();
    block.run(off);
    stop.record();
    ms.push_back(stop.since(start));
  }
  t.whole_ms = median(ms);

  std::atomic<bool> done{false};
  std::exception_ptr failure;
  std::thread load([&] {
    try {
      while (!done) {
        block.run(off);
        check(cudaDeviceSynchronize());
      }
    } catch (...) {
      failure = std::current_exception();
    }
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  t.clocks = read_clocks();
  done = true;
  load.join();
  if (failure) std::rethrow_exception(failure);
  return t;
}

void print_errors(GemmLibrary& gemm, const BlockData& data, const char* name) {
  const Reference reference(gemm, data);
  struct Column {
    Family family;
    Products products;
    const char* title;
    std::vector<NamedError> errors;
  };
  std::vector<Column> columns{{Family::kBf16, Products::kFast, "bf16", {}},
                              {Family::kRow, Products::kFast, "row (int8 products)", {}},
                              {Family::kRow, Products::kDequantized, "row (f64 products)", {}},
                              {Family::kTile, Products::kDequantized, "tile 128x128", {}},
                              {Family::kGroup, Products::kDequantized, "group 1x128", {}}};
  Profiler off(false);
  int wrong = 0;
  for (auto& c : columns) {
    Block block(gemm, data, c.family, c.products);
    block.run(off);
    c.errors = compare(block, reference);
    if (c.family == Family::kRow && c.products == Products::kFast) wrong = block.count_wrong(4096);
  }
  std::printf("\nError against float64, data: %s. Relative error (SQNR, dB).\n\n| tensor |", name);
  for (const auto& c : columns) std::printf(" %s |", c.title);
  std::printf("\n|---|---|---|---|---|---|\n");
  for (std::size_t i = 0; i < columns[0].errors.size(); ++i) {
    std::printf("| %s |", columns[0].errors[i].name.c_str());
    for (const auto& c : columns)
      std::printf(" %.2e (%.1f) |", c.errors[i].norm.relative(), c.errors[i].norm.sqnr_db());
    std::printf("\n");
  }
  std::printf("\nint8 products against 64-bit integer loops: %d of 12 x 4096 samples differ.\n",
              wrong);
  std::fflush(stdout);
  if (wrong != 0) throw std::runtime_error("int8 products are not exact");
}

int run(bool check_only) {
  GemmLibrary gemm;
  const int failures = run_checks(gemm);
  std::fflush(stdout);
  if (failures > 0 || check_only) return failures > 0 ? 1 : 0;

  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0));
  const double copy = copy_bandwidth();
  std::printf("\nGPU: %s, %d multiprocessors; device-to-device copy %.0f GB/s (read + written)\n",
              device.name, device.multiProcessorCount, copy);
  struct Case {
    BlockShape shape;
    double cudnn_ms;  // anchors.md: cuDNN, causal, bf16, forward + backward
  };
  for (const auto& [shape, cudnn] : {Case{{32, 1024, 768}, 0.672}, Case{{8, 1024, 1600}, 0.369}}) {
    std::printf("\n## C = %d, %d x %d tokens\n", shape.channels, shape.batch, shape.tokens);
    const BlockData data(shape, false);
    std::vector<Timing> timings;
    for (const Family f : kFamilies) timings.push_back(time_family(gemm, data, f));
    print_classes(timings, copy);
    print_predictions(timings, cudnn, copy);
    std::fflush(stdout);
    print_errors(gemm, data, "normal");
    print_errors(gemm, BlockData(shape, true), "outlier channels and tokens");
    for (const auto& t : timings) print_kernels(t, copy);
  }
  return 0;
}

}  // namespace
}  // namespace nibble::spike

int main(int argc, char** argv) {
  try {
    return nibble::spike::run(argc > 1 && std::strcmp(argv[1], "--check") == 0);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "spike_block: %s\n", e.what());
    return 1;
  }
}
