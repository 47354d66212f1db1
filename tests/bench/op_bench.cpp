// The speed driver of the op table: every row at benchmark shapes on one device, forward alone and
// with its backward; bytes and operations a second beside what a copy and a matrix product reach in
// the same run. Random data, cold caches, buffers used in turn, medians of single runs. Before a
// row is timed, its value and gradients are compared with the CPU's in f64: a wrong one is no
// benchmark, and makes the exit status 1.
//   op_bench [--device cpu|cuda] [--filter NAME] [--json FILE]; --help has the rest
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/bench/meter.h"
#include "autograd/context.h"
#include "op_passes.h"

namespace nibble::testing {
namespace {

using bench::Meter;
using bench::Timing;

struct Options {
  std::string device = "cpu", dtype = "all", sizes, filter, json;
  int repeats = 15;
  double budget = 2;
};

struct Rates {
  double copy = 0;                   // bytes a second, read and written
  std::map<DType, double> products;  // operations a second
};

Rates measure_rates(Meter& meter, Device device, const Sizes& sizes, bool small) {
  Rates rates;
  const std::int64_t n = small ? 1 << 16 : device.is_cuda() ? 1 << 27 : 1 << 24;
  std::vector<Tensor> buffers;
  for (int i = 0; i < 4; ++i) buffers.push_back(Tensor::full({n}, i, DType::F32, device));
  const Timing copy =
      meter.measure(2, [&](int i) { buffers[(2 * i + 1) % 4].copy_from(buffers[2 * i % 4]); });
  rates.copy = 2.0 * static_cast<double>(buffers[0].bytes()) / copy.median;
  const std::int64_t m = small ? sizes.cols() : device.is_cuda() ? 8192 : 1024;
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const Tensor a = Tensor::uniform({m, m}, -1, 1, RngKey{1, 1}, dtype, device),
                 b = Tensor::uniform({m, m}, -1, 1, RngKey{1, 2}, dtype, device);
    Tensor c = Tensor::empty({m, m}, dtype, device);
    const Timing t = meter.measure(2, [&](int) { ops::matmul_into(c, a, b, false); });
    rates.products[dtype] = 2.0 * std::pow(static_cast<double>(m), 3) / t.median;
  }
  return rates;
}

nlohmann::json rates_of(const Timing& t, double bytes, double flops, const Rates& rates,
                        DType dtype) {
  return {{"median_us", t.median * 1e6},
          {"least_us", t.least * 1e6},
          {"runs", t.runs},
          {"gb_per_s", bytes / t.median / 1e9},
          {"share_of_copy", bytes / t.median / rates.copy},
          {"gflop_per_s", flops / t.median / 1e9},
          {"share_of_product", flops / t.median / rates.products.at(dtype)}};
}

std::string cells(const nlohmann::json& r, bool is_view) {
  const double us = r["median_us"];
  if (is_view) return fmt::format("{:.1f} | view | -", us);
  return fmt::format("{:.1f} | {:.1f}, {:.0f} % | {:.1f}, {:.0f} %", us,
                     r["gb_per_s"].get<double>(), 100 * r["share_of_copy"].get<double>(),
                     r["gflop_per_s"].get<double>(), 100 * r["share_of_product"].get<double>());
}

class Bench {
 public:
  explicit Bench(const Options& o)
      : options_(o),
        device_(parse_device(o.device)),
        sizes_(find_sizes(o.sizes.empty() ? (device_.is_cuda() ? "cuda" : "cpu") : o.sizes)),
        small_(std::string_view(sizes_.name) == "small"),
        meter_(device_, o.repeats, o.budget,
               std::int64_t{1} << (small_              ? 20
                                   : device_.is_cuda() ? 30
                                                       : 26)) {}

  int run() {
    const ForwardScope scope({.training = true, .seed = 5});
    const Rates rates = measure_rates(meter_, device_, sizes_, small_);
    begin(rates);
    for (const OpRow& row : op_table()) {
      const std::string name = row.name + (row.variant.empty() ? "" : ", " + row.variant);
      if (name.find(options_.filter) != std::string::npos) measure(row, name, rates);
    }
    NIBBLE_CHECK(passed_ + failed_ > 0, "op_bench",
                 "got filter '{}', expected part of a row's name", options_.filter);
    if (!options_.json.empty()) {
      std::ofstream file(options_.json);
      file << report_.dump(2) << "\n";
      NIBBLE_CHECK(file.flush(), "op_bench",
                   "cannot write: got '{}', expected a file in a folder that is there",
                   options_.json);
    }
    fmt::print("{} passed, {} failed, 0 skipped\n", passed_, failed_);
    return failed_ == 0 ? 0 : 1;
  }

 private:
  void begin(const Rates& rates) {
    const double f32 = rates.products.at(DType::F32), bf16 = rates.products.at(DType::BF16);
    report_ = {{"device", to_string(device_)},
               {"processor", processor_name(device_)},
               {"threads", num_threads()},
               {"sizes", sizes_.name},
               {"copy_gb_per_s", rates.copy / 1e9},
               {"product_gflop_per_s", {{"f32", f32 / 1e9}, {"bf16", bf16 / 1e9}}},
               {"rows", nlohmann::json::array()}};
    fmt::print(
        "{} ({}), sizes {}: a copy moves {:.1f} GB/s, a product does {:.1f} GFLOP/s in f32, "
        "{:.1f} in bf16\n\n",
        device_, processor_name(device_), sizes_.name, rates.copy / 1e9, f32 / 1e9, bf16 / 1e9);
    fmt::print(
        "| operation | dtype | inputs | forward us | GB/s, of copy | GFLOP/s, of product | "
        "forward + backward us | GB/s, of copy | GFLOP/s, of product | error of bound |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n");
  }

  void measure(const OpRow& row, const std::string& name, const Rates& rates) {
    const BenchCase reference = bench_case(row, sizes_, kCpu);
    Arguments wide(reference, DType::F64, kCpu);
    const Tensor dy = gradient_like(forward(reference, wide, kCpu), DType::F64, kCpu);
    const std::vector<Tensor> expected = both_passes(reference, wide, dy, kCpu);
    const BenchCase c = bench_case(row, sizes_, device_);
    for (const DType dtype : {DType::F32, DType::BF16})
      if (options_.dtype == "all" || options_.dtype == to_string(dtype))
        measure(row, name, c, dtype, expected, rates);
  }

  void measure(const OpRow& row, const std::string& name, const BenchCase& c, DType dtype,
               const std::vector<Tensor>& expected, const Rates& rates) {
    // As many buffers as keep each one out of the caches until its turn.
    const double rotate = device_.is_cuda() ? 256e6 : 64e6;
    constexpr int kMost = 8;
    std::deque<Arguments> sets;
    sets.emplace_back(c, dtype, device_);
    const int n = std::clamp(static_cast<int>(rotate / sets[0].bytes()), 2, kMost);
    for (int i = 1; i < n; ++i) sets.emplace_back(c, dtype, device_, static_cast<std::uint32_t>(i));
    const auto at = [n](int i) { return static_cast<std::size_t>(i % n); };

    const Tensor y = forward(c, sets[0], device_);
    const bool is_view = !sets[0].x.empty() && y.same_storage(sets[0].x[0]);
    const Tensor dy = gradient_like(y, y.dtype(), device_);
    const double error = check(row, dtype, both_passes(c, sets[0], dy, device_), expected);

    std::vector<Tensor> outputs(static_cast<std::size_t>(n));  // live on, or they'd share a block
    const Timing once =
        meter_.measure(n + 1, [&](int i) { outputs[at(i)] = forward(c, sets[at(i)], device_); });
    std::vector<std::vector<Tensor>> results(static_cast<std::size_t>(n));
    const Timing twice = meter_.measure(
        n + 1, [&](int i) { results[at(i)] = both_passes(c, sets[at(i)], dy, device_); });

    // The least traffic: forward reads its arguments and writes y; backward reads them and dy, and
    // writes the gradients.
    const double arguments = sets[0].bytes(), out = static_cast<double>(y.bytes());
    double gradients = 0;
    for (std::size_t i = 1; i < results[0].size(); ++i)
      if (results[0][i].defined()) gradients += static_cast<double>(results[0][i].bytes());
    const nlohmann::json alone = rates_of(once, arguments + out, c.flops, rates, dtype),
                         both = rates_of(twice, 2 * (arguments + out) + gradients,
                                         c.flops + c.backward_flops, rates, dtype);
    ++(error <= 1 ? passed_ : failed_);
    std::vector<std::string> shapes;
    for (const auto* arguments_of : {&c.inputs, &c.parameters})
      for (const ArgSpec& a : *arguments_of) shapes.push_back(fmt::format("{}", a.shape));
    fmt::print("| {} | {} | {} | {} | {} | {} |\n", name, dtype, fmt::join(shapes, " "),
               cells(alone, is_view), cells(both, false),
               error <= 1 ? fmt::format("{:.3f}", error) : fmt::format("WRONG: {:.3g}", error));
    std::fflush(stdout);
    report_["rows"].push_back({{"operation", row.name},
                               {"variant", row.variant},
                               {"dtype", to_string(dtype)},
                               {"arguments", shapes},
                               {"view", is_view},
                               {"forward", alone},
                               {"forward_and_backward", both},
                               {"correct", error <= 1},
                               {"error_of_bound", std::isfinite(error) ? error : 1e30}});
  }

  Options options_;
  Device device_;
  const Sizes& sizes_;
  bool small_;  // for tests: nothing to time
  Meter meter_;
  nlohmann::json report_;
  int passed_ = 0, failed_ = 0;
};

}  // namespace
}  // namespace nibble::testing

int main(int argc, char** argv) {
  nibble::testing::Options o;
  CLI::App app("Times every row of the op table; checks it first.", "op_bench");
  app.add_option("--device", o.device, "cpu or cuda")->capture_default_str();
  app.add_option("--dtype", o.dtype, "f32, bf16 or all")
      ->check(CLI::IsMember({"f32", "bf16", "all"}))
      ->capture_default_str();
  app.add_option("--filter", o.filter, "only rows whose name, with its variant, contains this");
  app.add_option("--sizes", o.sizes, "small, cpu or cuda; the device's own when left out");
  app.add_option("--repeats", o.repeats, "timed runs of each")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--budget", o.budget, "seconds for them; 3 runs at the least")
      ->capture_default_str();
  app.add_option("--json", o.json, "writes all numbers there too");
  CLI11_PARSE(app, argc, argv);
  try {
    return nibble::testing::Bench(o).run();
  } catch (const std::exception& e) {
    fmt::print(stderr, "{}\n", e.what());
    return 2;
  }
}
