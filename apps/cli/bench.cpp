// nibble bench: how fast products are on this machine, with their results checked.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>

#include "apps/bench/gemm.h"
#include "apps/bench/kernels.h"
#include "apps/cli/bench_train.h"
#include "apps/cli/commands.h"
#include "tensor/atomic_file.h"

namespace nibble::cli {
namespace {

struct Options {
  std::string shapes, json, filter;
  std::int64_t tokens = 0, width = 768, vocab = 50304;
  std::vector<std::string> forms{"int8_row", "int8_group128", "fp8_row"};
  int repeats = 15;
  double seconds = 5;
  Machinery machinery;
};

std::string cell_text(const bench::GemmCell& c) {
  if (!c.fault.empty()) return c.wrong() ? c.fault : "-";
  return fmt::format("{:.1f} us, {:.0f}, {:.2f}x", c.seconds * 1e6, c.rate / 1e9, c.speedup);
}

nlohmann::json json_of(const bench::GemmRow& row) {
  nlohmann::json cells = nlohmann::json::array();
  for (const bench::GemmCell& c : row.cells) {
    nlohmann::json cell = {{"form", c.form},        {"kernel", c.kernel},
                           {"us", c.seconds * 1e6}, {"gop_per_s", c.rate / 1e9},
                           {"speedup", c.speedup},  {"error", c.error}};
    if (!c.fault.empty()) cell["fault"] = c.fault;
    cells.push_back(std::move(cell));
  }
  const char* layouts[] = {"nt", "nn", "tn"};
  return {{"m", row.shape.m},
          {"n", row.shape.n},
          {"k", row.shape.k},
          {"layout", layouts[static_cast<int>(row.shape.layout)]},
          {"cells", std::move(cells)}};
}

int finish(const Options& o, const nlohmann::json& out, bool wrong) {
  if (!o.json.empty()) {
    AtomicFile file(o.json, "bench");
    file.write(out.dump(1) + "\n");
    file.commit();
  }
  NIBBLE_CHECK(!wrong, "bench", "some results are wrong: see the table");
  return 0;
}

int run_gemm(const Options& o) {
  const Device device = o.machinery.apply();
  bench::GemmOptions options{.device = device,
                             .shapes = bench::parse_shapes(!o.shapes.empty()  ? o.shapes
                                                           : device.is_cuda() ? "gpt2"
                                                                              : "square"),
                             .forms = o.forms,
                             .repeats = o.repeats,
                             .budget = o.seconds,
                             .each = {}};
  options.each = [&, first = true](const bench::GemmRow& row) mutable {
    if (first) {
      fmt::print(
          "{}; median time, GOP/s, ratio to the dense product of the same run\n\n| M, N, K |",
          processor_name(device));
      for (const bench::GemmCell& c : row.cells)
        fmt::print(" {} |", c.form == "dense" ? (device.is_cuda() ? "bf16" : "f32") : c.form);
      fmt::print("\n|{}\n", fmt::join(std::vector<std::string>(row.cells.size() + 1, "---|"), ""));
      first = false;
    }
    fmt::print("| {} |", row.shape.text());
    for (const bench::GemmCell& c : row.cells) fmt::print(" {} |", cell_text(c));
    fmt::print("\n");
    std::fflush(stdout);
  };
  const std::vector<bench::GemmRow> rows = bench::bench_gemm(options);
  fmt::print("| geometric mean |");
  for (const double mean : bench::mean_speedups(rows))
    fmt::print(" {} |", mean > 0 ? fmt::format("{:.2f}x", mean) : "-");
  fmt::print("\n");
  bool wrong = false;
  nlohmann::json out = {{"device", processor_name(device)}, {"rows", nlohmann::json::array()}};
  for (const bench::GemmRow& row : rows) {
    out["rows"].push_back(json_of(row));
    for (const bench::GemmCell& c : row.cells) wrong |= c.wrong();
  }
  return finish(o, out, wrong);
}

int run_kernels(const Options& o) {
  const Device device = o.machinery.apply();
  nlohmann::json out = {{"device", processor_name(device)}, {"rows", nlohmann::json::array()}};
  bool wrong = false;
  fmt::print(
      "{}; median time; least bytes a second, and their share of a copy's in the same run\n\n"
      "| kernel | shape | us | GB/s | of a copy |\n|---|---|---|---|---|\n",
      processor_name(device));
  bench::bench_kernels(
      {.device = device,
       .tokens = o.tokens > 0       ? o.tokens
                 : device.is_cuda() ? 32768
                                    : 1024,
       .width = o.width,
       .vocab = o.vocab,
       .repeats = o.repeats,
       .budget = o.seconds,
       .filter = o.filter,
       .each = [&](const bench::KernelRow& r) {
         wrong |= r.wrong();
         fmt::print("| {} | {} | {} |\n", r.name, r.shape,
                    r.wrong() ? fmt::format("WRONG by {:.3g} of what is allowed | - | -", r.error)
                              : fmt::format("{:.1f} | {:.0f} | {:.0f} %", r.seconds * 1e6,
                                            r.bytes / r.seconds / 1e9, 100 * r.share));
         std::fflush(stdout);
         out["rows"].push_back({{"kernel", r.name},
                                {"shape", r.shape},
                                {"bytes", r.bytes},
                                {"us", r.seconds * 1e6},
                                {"share_of_copy", r.share},
                                {"error", r.error}});
       }});
  return finish(o, out, wrong);
}

}  // namespace

void add_bench(CommandLine& line) {
  auto o = std::make_shared<Options>();
  CLI::App* c = line.app.add_subcommand(
      "bench", "Measure kernels, with their results checked, and whole training runs");
  c->require_subcommand(1);
  CLI::App* gemm = c->add_subcommand(
      "gemm",
      "Matrix products of codes beside the dense one: bf16 on a GPU, Eigen's f32 on the CPU");
  gemm->add_option(
      "--shapes", o->shapes,
      fmt::format("M,N,K;… with :nn or :tn behind for A·B and Aᵀ·B, or a set: {} (gpt2 on "
                  "a GPU, square on the CPU)",
                  fmt::join(bench::gemm_sets(), ", ")));
  gemm->add_option("--forms", o->forms, fmt::format("{}", fmt::join(bench::gemm_forms(), ", ")))
      ->delimiter(',')
      ->capture_default_str();
  CLI::App* kernels = c->add_subcommand(
      "kernels", "Norms, GELU, quantizers, the classifier and AdamW beside a copy");
  kernels->add_option("--tokens", o->tokens, "Rows; 32768 on a GPU, 1024 on the CPU");
  kernels->add_option("--width", o->width, "Columns")->capture_default_str();
  kernels->add_option("--vocab", o->vocab, "Classes of the classifier")->capture_default_str();
  kernels->add_option("--filter", o->filter, "Only kernels whose name contains this");
  for (CLI::App* part : {gemm, kernels}) {
    part->add_option("--repeats", o->repeats, "Runs; their median counts")
        ->check(CLI::Range(3, 100000))
        ->capture_default_str();
    part->add_option("--seconds", o->seconds, "Time that the runs of one measurement may take")
        ->check(CLI::Range(0.0, 3600.0))
        ->capture_default_str();
    part->add_option("--json", o->json, "Also write everything to this file");
    o->machinery.add_to(*part);
  }
  add_bench_train(*c, line);
  gemm->callback([o, &line] { line.action = [o] { return run_gemm(*o); }; });
  kernels->callback([o, &line] { line.action = [o] { return run_kernels(*o); }; });
}

}  // namespace nibble::cli
