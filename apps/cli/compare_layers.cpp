#include "apps/cli/compare_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "apps/compare/layers.h"
#include "apps/config/nearest.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "nn/npy.h"
#include "tensor/atomic_file.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using compare::Kind;
using compare::Row;

constexpr const char* kOp = "compare";

// Where the batch comes from.
struct Window {
  fs::path folder;
  std::int64_t vocab = 0, sequence = 0;
};

Window window_of(const LayerOptions& o, const Side& a, const Side& b) {
  Window w;
  for (const fs::path& path : {fs::path(o.data), a.config.data.path, b.config.data.path})
    if (w.folder.empty()) w.folder = path;
  NIBBLE_CHECK(!w.folder.empty(), "data", "neither side knows a dataset; --data names one");
  const Dataset dataset = read_dataset(w.folder);
  w.vocab = dataset.vocab_size;
  for (const Side* side : {&a, &b})
    NIBBLE_CHECK(!side->weights || side->vocab == w.vocab, "vocabulary",
                 "{} does not fit {}: got {} tokens, expected {}", w.folder.string(), side->label,
                 w.vocab, side->vocab);
  return w;
}

compare::Pass read_pass(const LayerOptions& o, const Window& w, std::uint64_t seed, Device device) {
  const Dataset dataset = read_dataset(w.folder);
  const Split& split = split_named(dataset, o.split);
  NIBBLE_CHECK(split.tokens > 1, kOp, "{} has no tokens in its split {}", w.folder.string(),
               o.split);
  TokenLoader loader(shard_paths(w.folder, split), {.batch = o.batch,
                                                    .length = w.sequence,
                                                    .vocab_size = w.vocab,
                                                    .order = WindowOrder::Sequential});
  NIBBLE_CHECK(o.window + o.batch <= loader.windows(), kOp,
               "--window: got {} windows from {}, expected at most the {} of split {}", o.batch,
               o.window, loader.windows(), o.split);
  loader.seek(o.window);
  const Batch& batch = loader.next();
  const Shape shape{o.batch, w.sequence};
  return {.ids = Tensor::from(batch.inputs, shape, device),
          .targets = Tensor::from(batch.targets, shape, device),
          .seed = seed};
}

class Dumps {
 public:
  explicit Dumps(const LayerOptions& o) : dumps_(o.dumps) {}
  void check(const std::vector<std::string>& known) const {
    for (const auto& [name, folder] : dumps_)
      NIBBLE_CHECK(std::ranges::find(known, name) != known.end(), kOp,
                   "--dump: got {}, expected the name of a layer or parameter; the nearest are {}",
                   name, config::nearest_few(name, known));
  }
  void write(char side, Kind kind, const std::string& name, const Tensor& value) const {
    for (const auto& [wanted, folder] : dumps_) {
      if (wanted != name) continue;
      std::string file = name;
      std::ranges::replace(file, '/', '.');
      fs::create_directories(folder);
      write_npy(fs::path(folder) / fmt::format("{}.{}.{}.npy", file,
                                               kind == Kind::Output ? "output" : "gradient", side),
                value);
    }
  }

 private:
  const std::vector<std::pair<std::string, std::string>>& dumps_;
};

std::string decibels(const compare::LayerError& e) {
  if (!e.finite()) return "not finite";
  if (std::isinf(e.sqnr_db)) return e.sqnr_db > 0 ? "equal" : "-inf";
  return fmt::format("{:.1f}", e.sqnr_db);
}

void print(const char* title, const std::vector<Row>& rows, double threshold) {
  std::size_t name_width = std::string_view(title).size(), shape_width = 5;
  for (const Row& r : rows) {
    name_width = std::max(name_width, r.name.size());
    shape_width = std::max(shape_width, fmt::format("{}", r.shape).size());
  }
  fmt::print("\n{:<{}}  {:<{}}  {:>10}  {:>9}  {:>11}\n", title, name_width, "shape", shape_width,
             "SQNR, dB", "cosine", "max |error|");
  for (const Row& r : rows)
    fmt::print("{:<{}}  {:<{}}  {:>10}  {:>9.6f}  {:>11.3g}{}\n", r.name, name_width,
               fmt::format("{}", r.shape), shape_width, decibels(r.error), r.error.cosine,
               r.error.max_abs_error, r.diverges ? "  <" : "");
  if (const Row* first = compare::LayerReport::first(rows))
    fmt::print("first below {} dB: {}\n", threshold, first->name);
  else
    fmt::print("none is below {} dB\n", threshold);
}

void print_lonely(const char* side, const std::vector<std::string>& names) {
  if (!names.empty()) fmt::print("\nonly in {}: {}\n", side, fmt::join(names, ", "));
}

Json error_json(const compare::LayerError& e) {
  return {{"sqnr_db", std::isfinite(e.sqnr_db) ? Json(e.sqnr_db) : Json()},
          {"equal", e.finite() && e.sqnr_db > 0 && std::isinf(e.sqnr_db)},
          {"cosine", e.cosine},
          {"max_abs_error", e.max_abs_error},
          {"not_finite", {e.not_finite_a, e.not_finite_b}}};
}

Json rows_json(const std::vector<Row>& rows) {
  Json all = Json::array();
  for (const Row& r : rows) {
    Json row = {{"name", r.name},
                {"kind", r.kind == Kind::Output     ? "output"
                         : r.kind == Kind::Gradient ? "gradient"
                                                    : "parameter"},
                {"shape", std::vector<std::int64_t>(r.shape.begin(), r.shape.end())},
                {"diverges", r.diverges}};
    row.update(error_json(r.error));
    all.push_back(std::move(row));
  }
  return all;
}

Json first_json(const std::vector<Row>& rows) {
  const Row* first = compare::LayerReport::first(rows);
  return first ? Json(first->name) : Json();
}

}  // namespace

void write_json(const std::string& file, const Json& json) {
  const std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (file.empty() || file == "-") {
    fmt::print("{}", text);
    return;
  }
  write_file_atomically(file, text, kOp);
}

int compare_layers(const LayerOptions& o) {
  NIBBLE_CHECK(std::isfinite(o.threshold_db), kOp, "--threshold: got {}, expected a number of dB",
               o.threshold_db);
  const Device device = o.machinery.apply();
  const auto [a, b] = sides_of(o);
  Window window = window_of(o, a, b);
  const std::uint64_t seed = o.seed.value_or(a.config.trainer.seed);
  auto model_a = build_side(a, window.vocab, seed, device);
  const auto model_b = build_side(b, window.vocab, seed, device);
  compare::check_same_shapes(*model_a, *model_b);
  const std::int64_t context = std::min(model_a->context(), model_b->context());
  window.sequence = o.sequence               ? o.sequence
                    : a.config.data.sequence ? a.config.data.sequence
                                             : context;
  NIBBLE_CHECK(window.sequence <= context, kOp,
               "--sequence: got {} tokens, expected at most the context of {}", window.sequence,
               context);
  const compare::Pass pass = read_pass(o, window, seed, device);

  const Dumps dumps(o);
  const compare::Captured reference = compare::capture(*model_a, pass);
  model_a.reset();  // all that is needed of it is captured
  dumps.check(reference.names());
  for (const auto& item : reference.items()) dumps.write('a', item.kind, item.name, item.value);
  const compare::LayerReport report =
      compare::compare_with(reference, *model_b, pass, o.threshold_db,
                            [&](Kind kind, const std::string& name, const Tensor& x) {
                              dumps.write('b', kind, name, x);
                            });

  if (!o.json || (!o.json->empty() && *o.json != "-")) {
    fmt::print("A  {}: loss {:.6f}\nB  {}: loss {:.6f}\n", a.label, report.loss_a, b.label,
               report.loss_b);
    fmt::print("{} window{} of {} tokens of {}/{} from window {}, seed {}\n", o.batch,
               o.batch == 1 ? "" : "s", window.sequence, window.folder.string(), o.split, o.window,
               seed);
    print("outputs, forward", report.forward, o.threshold_db);
    print("gradients, backward", report.backward, o.threshold_db);
    if (report.gradient.count > 0)
      fmt::print("gradient of all parameters{}, {} numbers: SQNR {} dB, cosine {:.6f}\n",
                 report.only_a.empty() && report.only_b.empty() ? "" : " of both",
                 report.gradient.count, decibels(report.gradient), report.gradient.cosine);
    print_lonely("A", report.only_a);
    print_lonely("B", report.only_b);
  }
  if (o.json)
    write_json(
        *o.json,
        {{"a", {{"what", a.label}, {"loss", report.loss_a}}},
         {"b", {{"what", b.label}, {"loss", report.loss_b}}},
         {"batch",
          {{"data", window.folder.string()},
           {"split", o.split},
           {"window", o.window},
           {"windows", o.batch},
           {"sequence", window.sequence},
           {"seed", seed}}},
         {"threshold_db", o.threshold_db},
         {"first_below",
          {{"forward", first_json(report.forward)}, {"backward", first_json(report.backward)}}},
         {"forward", rows_json(report.forward)},
         {"backward", rows_json(report.backward)},
         {"gradient", report.gradient.count > 0 ? error_json(report.gradient) : Json()},
         {"only_a", report.only_a},
         {"only_b", report.only_b}});
  return 0;
}

}  // namespace nibble::cli
