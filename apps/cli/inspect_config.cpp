#include "apps/cli/inspect_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>

#include "apps/cli/inspect.h"
#include "apps/cli/inspect_attention.h"
#include "apps/cli/inspect_products.h"
#include "apps/cli/memory_fit.h"
#include "apps/cli/memory_plan.h"
#include "apps/cli/text_layout.h"
#include "apps/train/build.h"
#include "apps/train/sample_step.h"
#include "data/dataset.h"
#include "optim/encodings.h"

namespace nibble::cli {
namespace {

// The vocabulary of the configuration, or of its dataset where that is there.
std::int64_t vocabulary(const train::TrainConfig& config) {
  if (config.model.vocab > 0 && !std::filesystem::exists(config.data.path))
    return config.model.vocab;
  NIBBLE_CHECK(!config.data.path.empty(), "inspect",
               "the size of the vocabulary is not known: got neither model.vocab nor data.path; "
               "--set model.vocab=50304 names one");
  return read_dataset(config.data.path).vocab_size;
}

struct Fit {
  MemoryBudget budget;
  std::vector<LargestBatch> batches;
  std::string change;  // what would fit, when the configuration does not
};

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

void print_parameters(const std::vector<Row>& rows, const MemoryPlan& plan) {
  Table table({"parameter", "shape", "dtype", "count", "bytes"}, 3);
  for (const Row& r : rows)
    table.row({r.name, r.shape, r.dtype, std::to_string(r.count), size_text(r.bytes)});
  for (const std::string& line : table.lines()) fmt::print("{}\n", line);
  fmt::print("{} in all, {}\n", plan.weights, size_text(plan.of("parameters")));
}

void print_products(const std::vector<ProductRow>& products, bool all) {
  for (std::size_t i = 0; i < products.size(); ++i) {
    const ProductRow& p = products[i];
    if (i == 0 || p.layer != products[i - 1].layer) fmt::print("\n{}\n", p.layer);
    fmt::print("  {}  [{}, {}] × [{}, {}]  {:.1f} GFLOP{}\n", p.product, p.m, p.k, p.n, p.k,
               static_cast<double>(p.flops()) / 1e9, all ? "" : " each");
    if (p.mode == "dense") {  // nothing to encode, nothing to choose
      fmt::print("        dense, {}\n", p.route.name);
      continue;
    }
    const auto operand = [](const std::string& spec, const std::string& by) {
      return by.empty() ? spec : fmt::format("{} (by {})", spec, by);
    };
    fmt::print("{}", wrap("        ", 9,
                          fmt::format("{}{} × {}", operand(p.lhs, p.lhs_by),
                                      p.exact_target ? " (without targets, which are exact)" : "",
                                      operand(p.rhs, p.rhs_by))));
    fmt::print("{}", wrap("        ", 9,
                          fmt::format("{}, {}{}: {}", p.mode, p.route.name,
                                      p.route.is_fallback() ? " ← FALLBACK" : "", p.route.reason)));
  }
}

// How the optimizer reaches its parameters: the reasons of those that it takes one by one, counted.
struct UpdateRoute {
  std::string optimizer;
  std::size_t at_once = 0;
  std::map<std::string, std::int64_t> apart;
};
UpdateRoute update_route(const train::TrainConfig& config, LanguageModel& model) {
  const std::unique_ptr<Optimizer> optimizer = train::build_optimizer(config, model);
  UpdateRoute route{optimizer->name(), optimizer->parameters().size(), {}};
  for (const Optimizer::Apart& a : optimizer->apart()) ++route.apart[a.reason], --route.at_once;
  return route;
}
// Encodings and copies of weights, all that a step makes: written again by one launch after the
// update, or each at its first use, by reason.
struct EncodingRoute {
  std::size_t at_once = 0;
  std::map<std::string, std::int64_t> apart;
};
EncodingRoute encoding_route(const train::TrainConfig& config, std::int64_t vocab) {
  train::SampleStep bench(config, vocab, kMeta);
  bench.micro_step();
  const std::vector<Parameter*> all = bench.optimizer().parameters();
  EncodingRoute route;
  for (Parameter* p : all) route.at_once += p->forms().size();
  for (const LazyEncoding& e : lazy_encodings(all)) ++route.apart[e.reason], --route.at_once;
  return route;
}
void print_encodings(const EncodingRoute& route) {
  fmt::print("{} encodings and copies of weights are written again by one launch\n", route.at_once);
  for (const auto& [reason, count] : route.apart)
    fmt::print("{}",
               wrap("  ", 9, fmt::format("{} at the first use ← FALLBACK: {}", count, reason)));
}

void print_update(const UpdateRoute& route) {
  fmt::print("\n{}: {} parameters are updated at once, as they are stored\n", route.optimizer,
             route.at_once);
  for (const auto& [reason, count] : route.apart)
    fmt::print("{}",
               wrap("  ", 9,
                    fmt::format("{} one by one{}: {}", count,
                                route.at_once > 0 ? ", decoded and encoded apart ← FALLBACK" : "",
                                reason)));
}

void print_memory(const MemoryPlan& plan, Device device) {
  fmt::print("\nmemory of a step at its fullest moment\n");
  for (const auto& [name, bytes] : plan.categories) {
    const auto* known =
        std::find_if(std::begin(kMemoryCategories), std::end(kMemoryCategories),
                     [&category = name](const MemoryCategory& c) { return category == c.name; });
    fmt::print("  {:<12}{:>10}  {}\n", name, size_text(bytes),
               known == std::end(kMemoryCategories) ? "" : known->what);
    for (const auto& [part, size] : plan.modules)
      if (part.starts_with(name + ": "))
        fmt::print("    {:<20}{:>10}\n", part.substr(name.size() + 2), size_text(size));
  }
  fmt::print("  {:<12}{:>10}\n", "in all", size_text(plan.peak));
  if (device.is_cuda())
    fmt::print(
        "  {:<12}{:>10}  with what lies between them\n"
        "  {:<12}{:>10}  with the CUDA context and libraries\n",
        "held", size_text(plan.held), "process", size_text(process_memory(plan, device)));
  fmt::print("a checkpoint file takes {}\n", size_text(plan.checkpoint));
}

void print_fit(const Fit& fit) {
  fmt::print("{}", wrap("\nlargest trainer.batch in", 2, fit.budget.text));
  for (const LargestBatch& f : fit.batches)
    fmt::print("{}",
               wrap(fmt::format("  {:>6}", f.batch ? std::to_string(f.batch) : "none"), 9, f.with));
  if (!fit.change.empty())
    fmt::print("{}", wrap("as configured it does not fit; what would:", 2, fit.change));
}

Json json_of(const std::vector<Row>& rows, const std::vector<ProductRow>& products,
             const std::vector<AttentionRow>& attention, const UpdateRoute& route,
             const EncodingRoute& encodings, const MemoryPlan& plan, const Fit& fit,
             Device device) {
  Json json = {{"parameters", Json::array()}, {"products", Json::array()}};
  json["attention"] = json_of(attention);
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
                                {"lhs_by", p.lhs_by},
                                {"rhs_by", p.rhs_by},
                                {"exact_target", p.exact_target},
                                {"mode", p.mode},
                                {"kernel", p.route.name},
                                {"reason", p.route.reason},
                                {"fallback", p.route.is_fallback()}});
  json["update"] = {
      {"optimizer", route.optimizer}, {"at_once", route.at_once}, {"apart", Json::object()}};
  for (const auto& [reason, count] : route.apart) json["update"]["apart"][reason] = count;
  json["encodings"] = {{"at_once", encodings.at_once}, {"apart", Json::object()}};
  for (const auto& [reason, count] : encodings.apart) json["encodings"]["apart"][reason] = count;
  for (const auto& [name, bytes] : plan.categories) json["memory"][name] = bytes;
  json["memory"]["peak"] = plan.peak;
  if (device.is_cuda()) json["memory"]["held"] = plan.held;
  json["memory"]["process"] = process_memory(plan, device);
  json["memory_by_module"] = Json::object();
  for (const auto& [part, bytes] : plan.modules) json["memory_by_module"][part] = bytes;
  json["memory"]["checkpoint"] = plan.checkpoint;
  json["fits"] = {{"memory", fit.budget.bytes},
                  {"source", fit.budget.source},
                  {"batches", Json::array()},
                  {"change", fit.change.empty() ? Json() : Json(fit.change)}};
  for (const LargestBatch& f : fit.batches)
    json["fits"]["batches"].push_back({{"with", f.with}, {"batch", f.batch}});
  return json;
}

}  // namespace

int inspect_config(const InspectConfig& o) {
  Json text = config::load(o.files, o.overrides);
  // A model can be looked at before there is data for it.
  if (!text.contains("data")) text["data"] = {{"path", ""}};
  const train::TrainConfig config = train::read_config(text);
  const std::int64_t vocab = vocabulary(config);
  const MemoryPlan plan = plan_memory(config, vocab, o.device);
  Fit fit{memory_budget(o.device, o.memory), {}, ""};
  fit.batches = largest_batches(config, vocab, o.device, fit.budget.bytes);
  if (process_memory(plan, o.device) > fit.budget.bytes)
    fit.change = what_would_fit(config, vocab, o.device, fit.budget.bytes);
  const Producers producers = producers_of(config, vocab);
  const std::unique_ptr<LanguageModel> model = train::build_model(config, vocab, kMeta);
  const std::vector<Row> rows = parameter_rows(*model, o.all);
  const std::vector<ProductRow> products = product_rows(*model, config, producers, o.device, o.all);
  const std::vector<AttentionRow> attention =
      attention_rows(*model, config, producers, o.device, o.all);
  const UpdateRoute route = update_route(config, *model);
  const EncodingRoute encodings = encoding_route(config, vocab);
  if (o.json) {
    fmt::print("{}\n",
               json_of(rows, products, attention, route, encodings, plan, fit, o.device).dump(2));
    return 0;
  }
  print_parameters(rows, plan);
  print_products(products, o.all);
  print_attention(attention);
  print_update(route);
  print_encodings(encodings);
  print_memory(plan, o.device);
  print_fit(fit);
  return 0;
}

}  // namespace nibble::cli
