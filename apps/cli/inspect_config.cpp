#include "apps/cli/inspect_config.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>
#include <memory>

#include "apps/cli/dry_run.h"
#include "apps/cli/inspect.h"
#include "apps/cli/inspect_products.h"
#include "apps/cli/text_layout.h"
#include "apps/train/build.h"
#include "data/dataset.h"

namespace nibble::cli {
namespace {

std::string size_text(std::int64_t bytes) {
  return cli::size_text(static_cast<std::uint64_t>(bytes));
}

// The vocabulary of the configuration, or of its dataset where that is there.
std::int64_t vocabulary(const train::TrainConfig& config) {
  if (config.model.vocab > 0 && !std::filesystem::exists(config.data.path))
    return config.model.vocab;
  NIBBLE_CHECK(!config.data.path.empty(), "inspect",
               "the size of the vocabulary is not known: got neither model.vocab nor data.path; "
               "--set model.vocab=50304 names one");
  return read_dataset(config.data.path).vocab_size;
}

struct Row {
  std::string name;
  std::string shape, dtype;
  std::int64_t tensors = 0, count = 0, bytes = 0;
};

std::string dtype_of(Parameter& p) {
  if (p.is_quantized()) return to_string(p.quantized().spec());
  return std::string(to_string(p.storage().dtype()));
}

std::int64_t bytes_of(Parameter& p) {
  if (!p.is_quantized()) return p.storage().bytes();
  return p.quantized().payload().bytes() + p.quantized().scales().bytes();
}

// One row a parameter, or a block with all that lies in it.
std::vector<Row> parameter_rows(Module& model, bool all) {
  std::vector<Row> rows;
  for (Parameter* p : parameters(model)) {
    std::string name = p->name;
    std::string shape = fmt::format("{}", p->shape()), dtype = dtype_of(*p);
    if (!all && name.starts_with("blocks.")) {
      name = name.substr(0, name.find('.', 7));
      shape.clear();
      dtype.clear();
    }
    if (rows.empty() || rows.back().name != name) rows.push_back({name, shape, dtype});
    ++rows.back().tensors;
    rows.back().count += p->numel();
    rows.back().bytes += bytes_of(*p);
  }
  return rows;
}

// The largest micro-batch whose step stays under `limit`; 0 when not even one does.
std::int64_t largest_batch(train::TrainConfig config, std::int64_t vocab, std::int64_t limit) {
  const auto fits = [&](std::int64_t batch) {
    config.trainer.batch = batch;
    return plan_memory(config, vocab).peak <= limit;
  };
  constexpr std::int64_t kMost = 1 << 14;
  std::int64_t good = 0, bad = 1;
  while (bad <= kMost && fits(bad)) good = std::exchange(bad, 2 * bad);
  while (bad <= kMost && bad - good > 1) {
    const std::int64_t middle = (good + bad) / 2;
    (fits(middle) ? good : bad) = middle;
  }
  return good;
}

struct Fit {
  std::string what;
  std::int64_t batch;
};
std::vector<Fit> fits(const train::TrainConfig& config, std::int64_t vocab, std::int64_t limit) {
  train::TrainConfig checkpointed = config;
  checkpointed.model.checkpoint_blocks = true;
  std::vector<Fit> result{
      {"as configured", largest_batch(config, vocab, limit)},
      {"with model.checkpoint_blocks=true", largest_batch(checkpointed, vocab, limit)}};
  if (config.optimizer.type == "adamw") {
    train::TrainConfig small = config;
    small.optimizer.parameters["m"] = "dyn8:group256";
    small.optimizer.parameters["v"] = "dynu8:group256";
    result.push_back({"with 8-bit moments", largest_batch(small, vocab, limit)});
  }
  return result;
}

void print_parameters(const std::vector<Row>& rows, const MemoryPlan& plan) {
  Table table({"parameter", "shape", "dtype", "count", "bytes"}, 3);
  for (const Row& r : rows)
    table.row({r.name, r.shape, r.dtype, std::to_string(r.count), size_text(r.bytes)});
  for (const std::string& line : table.lines()) fmt::print("{}\n", line);
  fmt::print("{} in all, {}\n", plan.weights, size_text(plan.parameters));
}

void print_products(const std::vector<ProductRow>& products, bool all) {
  for (std::size_t i = 0; i < products.size(); ++i) {
    const ProductRow& p = products[i];
    if (i == 0 || p.layer != products[i - 1].layer) fmt::print("\n{}\n", p.layer);
    fmt::print("  {}  [{}, {}] × [{}, {}]  {:.1f} GFLOP{}\n", p.product, p.m, p.k, p.n, p.k,
               static_cast<double>(p.flops()) / 1e9, all ? "" : " each");
    fmt::print("{}", wrap("        ", 9, fmt::format("{} × {}", p.lhs, p.rhs)));
    fmt::print("{}", wrap("        ", 9,
                          fmt::format("{}, {}{}: {}", p.mode, p.route.name,
                                      p.route.is_fallback() ? " ← FALLBACK" : "", p.route.reason)));
  }
}

void print(const std::vector<Row>& rows, const std::vector<ProductRow>& products,
           const MemoryPlan& plan, const std::vector<Fit>& fit, std::int64_t limit, bool all) {
  print_parameters(rows, plan);
  print_products(products, all);
  fmt::print("\nmemory of a step\n");
  for (const auto& [name, bytes] : {std::pair{"parameters", plan.parameters},
                                    {"gradients", plan.gradients},
                                    {"optimizer", plan.optimizer},
                                    {"activations and workspaces", plan.activations},
                                    {"peak", plan.peak},
                                    {"checkpoint file", plan.checkpoint}})
    fmt::print("  {:<28}{:>10}\n", name, size_text(bytes));
  if (limit == 0) return;
  fmt::print("\nlargest trainer.batch in {}\n", size_text(limit));
  for (const Fit& f : fit)
    fmt::print("  {:<35}{}\n", f.what, f.batch ? std::to_string(f.batch) : "none");
}

Json json_of(const std::vector<Row>& rows, const std::vector<ProductRow>& products,
             const MemoryPlan& plan, const std::vector<Fit>& fit, std::int64_t limit) {
  Json json = {{"parameters", Json::array()}, {"products", Json::array()}};
  for (const Row& r : rows)
    json["parameters"].push_back({{"name", r.name},
                                  {"shape", r.shape},
                                  {"dtype", r.dtype},
                                  {"tensors", r.tensors},
                                  {"count", r.count},
                                  {"bytes", r.bytes}});
  for (const ProductRow& p : products)
    json["products"].push_back({{"layer", p.layer},
                                {"product", p.product},
                                {"m", p.m},
                                {"n", p.n},
                                {"k", p.k},
                                {"flops", p.flops()},
                                {"lhs", p.lhs},
                                {"rhs", p.rhs},
                                {"mode", p.mode},
                                {"kernel", p.route.name},
                                {"reason", p.route.reason},
                                {"fallback", p.route.is_fallback()}});
  json["memory"] = {{"parameters", plan.parameters},
                    {"gradients", plan.gradients},
                    {"optimizer", plan.optimizer},
                    {"activations_and_workspaces", plan.activations},
                    {"peak", plan.peak},
                    {"checkpoint", plan.checkpoint}};
  if (limit == 0) return json;
  json["fits"] = {{"memory", limit}, {"batches", Json::array()}};
  for (const Fit& f : fit)
    json["fits"]["batches"].push_back({{"with", f.what}, {"batch", f.batch}});
  return json;
}

}  // namespace

std::int64_t parse_bytes(std::string_view text) {
  static const std::map<std::string_view, double> kUnits{
      {"", 1},         {"B", 1},    {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
      {"TiB", 0x1p40}, {"KB", 1e3}, {"MB", 1e6},     {"GB", 1e9},     {"TB", 1e12}};
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  std::string_view unit(rest, static_cast<std::size_t>(end - rest));
  while (unit.starts_with(' ')) unit.remove_prefix(1);
  const auto known = kUnits.find(unit);
  const double bytes = known == kUnits.end() ? 0 : number * known->second;
  NIBBLE_CHECK(error == std::errc{} && std::isfinite(bytes) && bytes >= 1 && bytes < 0x1p62,
               "--memory", "not a size: got '{}' expected a number and a unit, e.g. 24GiB", text);
  return static_cast<std::int64_t>(bytes);
}

int inspect_config(const InspectConfig& o) {
  Json text = config::load(o.files, o.overrides);
  // A model can be looked at before there is data for it.
  if (!text.contains("data")) text["data"] = {{"path", ""}};
  const train::TrainConfig config = train::read_config(text);
  const std::int64_t vocab = vocabulary(config);
  const MemoryPlan plan = plan_memory(config, vocab);
  const std::vector<Fit> fit = o.memory ? fits(config, vocab, o.memory) : std::vector<Fit>{};
  const std::unique_ptr<LanguageModel> model = train::build_model(config, vocab, kMeta);
  const std::vector<Row> rows = parameter_rows(*model, o.all);
  const std::vector<ProductRow> products = product_rows(*model, config, o.device, o.all);
  if (o.json)
    fmt::print("{}\n", json_of(rows, products, plan, fit, o.memory).dump(2));
  else
    print(rows, products, plan, fit, o.memory, o.all);
  return 0;
}

}  // namespace nibble::cli
