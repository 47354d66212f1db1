// The text form of recipes: a preset's name, then items KEY=VALUE applied from left to right.
// Writing replays the reader, so that what is written reads back as the same recipe.
#include <algorithm>

#include "quant/recipe_registry.h"
#include "quant/words.h"

namespace nibble::recipes {
namespace {

constexpr const char* kOp = "recipe";

const std::vector<std::string> kLinearKeys = {
    "fprop",      "fprop.lhs", "fprop.rhs", "fprop.accumulate",
    "dgrad",      "dgrad.lhs", "dgrad.rhs", "dgrad.accumulate",
    "wgrad",      "wgrad.lhs", "wgrad.rhs", "wgrad.accumulate",
    "accumulate", "save",      "output",    "fuse",
    "target",     "name"};
const std::vector<std::string> kModelKeys = {
    "name",      "linear.name", "lm_head", "tie",           "moments",          "moments.m",
    "moments.v", "weights",     "layers",  "layer:PATTERN", "layer:PATTERN/KEY"};

bool contains(const std::vector<std::string>& words, std::string_view word) {
  return std::ranges::find(words, word) != words.end();
}

template <class T>
struct Choice {
  std::string_view word;
  T value;
};
constexpr Choice<bool> kSwitch[] = {{"on", true}, {"off", false}};
constexpr Choice<std::optional<bool>> kTie[] = {
    {"on", true}, {"off", false}, {"model", std::nullopt}};
constexpr Choice<Save> kSave[] = {
    {"original", Save::Original}, {"encoded", Save::Encoded}, {"recompute", Save::Recompute}};
constexpr Choice<bool> kOutput[] = {{"keep", true}, {"recompute", false}};
constexpr Choice<bool> kTarget[] = {{"exact", true}, {"encoded", false}};
constexpr Choice<bool> kMoments[] = {{"simulated", true}, {"stored", false}};
constexpr Choice<WeightStorage> kWeights[] = {
    {"f32", WeightStorage::F32}, {"bf16", WeightStorage::BF16}, {"int8", WeightStorage::Int8}};
constexpr Choice<Accumulation> kAccumulations[] = {{"full", Accumulation::Full},
                                                   {"fast", Accumulation::Fast}};
constexpr Choice<Mode> kModes[] = {{"simulated", Mode::Simulated}, {"real", Mode::Real}};

template <class T, std::size_t N>
T choose(const Choice<T> (&choices)[N], std::string_view key, std::string_view word) {
  std::string expected;
  for (const auto& choice : choices) {
    if (choice.word == word) return choice.value;
    expected += fmt::format("{}{}", expected.empty() ? "" : ", ", choice.word);
  }
  fail(kOp, "{}: got '{}', expected one of {}", key, word, expected);
}
template <class T, std::size_t N>
std::string_view word_of(const Choice<T> (&choices)[N], const T& value) {
  return std::ranges::find(choices, value, &Choice<T>::value)->word;
}

std::shared_ptr<const Recipe> named(std::string_view key, std::string_view name) {
  auto found = find_recipe(name);
  NIBBLE_CHECK(found, kOp, "{}unknown recipe '{}'{}", key, name,
               words::suggestion(name, known_words()));
  return found;
}

// ---- linear recipes ------------------------------------------------------------------------

Encoding parse_encoding(std::string_view key, std::string_view text) {
  Encoding e;
  if (text == "none") return e;
  if (text == "reuse") {
    e.source = Source::ReuseForward;
  } else if (auto quantizer = find_quantizer(text)) {
    e.custom = std::move(quantizer);
  } else {
    try {
      e.quant = parse_spec(text);
    } catch (const Error& error) {
      fail(kOp, "{}: {}", key, error.what());
    }
  }
  return e;
}

std::string to_text(const Encoding& e) {
  if (e.quant) return to_string(*e.quant);
  if (e.custom) return e.custom->name();
  return e.source == Source::ReuseForward ? "reuse" : "none";
}
std::string to_text(const GemmRecipe& g) {
  if (g == GemmRecipe{}) return "none";
  return fmt::format("{}|{}{}{}", to_text(g.lhs), to_text(g.rhs),
                     g.mode == Mode::Real ? "|real" : "",
                     g.accumulation == Accumulation::Fast ? "|fast" : "");
}

GemmRecipe* product_of(LinearRecipe& r, std::string_view name) {
  if (name == "fprop") return &r.fprop;
  return name == "dgrad" ? &r.dgrad : &r.wgrad;
}

// An operand that reused codes which fprop no longer makes, makes the same ones itself.
void keep_codes(Encoding& e, const Encoding& before, const Encoding& now) {
  if (e.source == Source::ReuseForward && now.empty() && before.quant)
    e = {.quant = before.quant->t(), .source = Source::Requantize, .custom = nullptr};
}

// Applies one item to a linear recipe. `layer` is the pattern whose share of a preset's product is
// taken, empty for the preset's default.
void apply_linear(LinearRecipe& r, std::string_view key, std::string_view value,
                  std::string_view layer) {
  if (key == "name") {
    r.name = std::string(value);
    return;
  }
  if (key == "save") {
    r.save = choose(kSave, key, value);
    return;
  }
  if (key == "output") {
    r.keep_output = choose(kOutput, key, value);
    return;
  }
  if (key == "fuse") {
    r.fuse = choose(kSwitch, key, value);
    return;
  }
  if (key == "target") {
    r.exact_target = choose(kTarget, key, value);
    return;
  }
  if (key == "accumulate") {
    const Accumulation wanted = choose(kAccumulations, key, value);
    for (GemmRecipe* gemm : {&r.fprop, &r.dgrad, &r.wgrad})
      if (gemm->mode == Mode::Real) gemm->accumulation = wanted;
    return;
  }
  const std::string_view product = key.substr(0, 5);
  GemmRecipe& gemm = *product_of(r, product);
  const GemmRecipe before = r.fprop;
  if (key.ends_with(".accumulate")) {
    gemm.accumulation = choose(kAccumulations, key, value);
  } else if (key.size() > 5) {
    (key.substr(6) == "lhs" ? gemm.lhs : gemm.rhs) = parse_encoding(key, value);
  } else if (value.find('|') == std::string_view::npos) {
    const auto preset = named(fmt::format("{}: ", key), value);
    LinearRecipe source = preset->linear;
    for (const auto& [pattern, recipe] : preset->overrides)
      if (pattern == layer) source = recipe;
    gemm = *product_of(source, product);
    if (product == "wgrad") r.save = source.save;
  } else {
    const auto parts = words::split(value, '|');
    NIBBLE_CHECK(parts.size() <= 4, kOp,
                 "{}: got '{}', expected LHS|RHS, LHS|RHS|real or LHS|RHS|real|fast", key, value);
    gemm.lhs = parse_encoding(key, parts[0]);
    gemm.rhs = parse_encoding(key, parts[1]);
    gemm.mode = parts.size() >= 3 ? choose(kModes, key, parts[2]) : Mode::Simulated;
    gemm.accumulation =
        parts.size() == 4 ? choose(kAccumulations, key, parts[3]) : Accumulation::Full;
  }
  keep_codes(r.dgrad.rhs, before.rhs, r.fprop.rhs);
  keep_codes(r.wgrad.rhs, before.lhs, r.fprop.lhs);
  // Nothing encoded is left to keep.
  if (product == "wgrad" && r.wgrad.rhs.empty() && r.save == Save::Encoded) r.save = Save::Original;
}

// ---- whole recipes -------------------------------------------------------------------------

struct State {
  Recipe recipe;
  std::ptrdiff_t own = 0;  // overrides that items added; the preset's own follow them
};

std::string moment(std::string_view value) {
  return value == "f32" || value == "none" ? "" : std::string(value);
}

LinearRecipe& override_of(State& state, std::string_view pattern) {
  auto& overrides = state.recipe.overrides;
  for (auto& [known, recipe] : overrides)
    if (known == pattern) return recipe;
  return overrides.emplace(overrides.begin() + state.own++, pattern, state.recipe.linear)->second;
}

void apply_layer(State& state, std::string_view target, std::string_view value) {
  const auto slash = target.find('/');
  const std::string_view pattern = target.substr(0, slash);
  LinearRecipe& r = override_of(state, pattern);
  if (slash == std::string_view::npos) {
    r = named(fmt::format("layer:{}: ", pattern), value)->linear;
    return;
  }
  const std::string_view key = target.substr(slash + 1);
  NIBBLE_CHECK(contains(kLinearKeys, key), kOp, "layer:{}: unknown key '{}'{}", pattern, key,
               words::suggestion(key, kLinearKeys));
  apply_linear(r, key, value, pattern);
}

// A product's or save's item changes the default and the preset's own overrides alike.
void apply_everywhere(State& state, std::string_view key, std::string_view value) {
  apply_linear(state.recipe.linear, key, value, "");
  auto& overrides = state.recipe.overrides;
  for (auto at = overrides.begin() + state.own; at != overrides.end(); ++at)
    apply_linear(at->second, key, value, at->first);
}

void apply(State& state, std::string_view key, std::string_view value) {
  Recipe& r = state.recipe;
  if (key.starts_with("layer:")) return apply_layer(state, key.substr(6), value);
  if (key == "name") {
    r.name = std::string(value);
  } else if (key == "linear.name") {
    r.linear.name = std::string(value);
  } else if (key == "lm_head") {
    r.quantize_lm_head = choose(kSwitch, key, value);
  } else if (key == "tie") {
    r.tie_embeddings = choose(kTie, key, value);
  } else if (key == "moments") {
    r.moments.simulated = choose(kMoments, key, value);
  } else if (key == "moments.m") {
    r.moments.m = moment(value);
  } else if (key == "moments.v") {
    r.moments.v = moment(value);
  } else if (key == "weights") {
    r.weights = choose(kWeights, key, value);
  } else if (key == "layers") {
    NIBBLE_CHECK(value == "none", kOp, "layers: got '{}', expected none", value);
    r.overrides.clear();
    state.own = 0;
  } else {
    std::vector<std::string> known = kLinearKeys;
    known.insert(known.end(), kModelKeys.begin(), kModelKeys.end());
    NIBBLE_CHECK(contains(kLinearKeys, key), kOp, "unknown key '{}'{}", key,
                 words::suggestion(key, known));
    apply_everywhere(state, key, value);
  }
}

// ---- writing -------------------------------------------------------------------------------

class Writer {
 public:
  explicit Writer(const Recipe& start) : text_(start.name), state_{start} {}

  void set(const std::string& key, std::string_view value) {
    apply(state_, key, value);
    text_ += fmt::format(",{}={}", key, value);
  }
  // Items under `prefix` that turn `now`, a part of the state, into `target`.
  void linear(const std::string& prefix, const LinearRecipe& now, const LinearRecipe& target) {
    if (now.fprop != target.fprop) set(prefix + "fprop", to_text(target.fprop));
    if (now.dgrad != target.dgrad) set(prefix + "dgrad", to_text(target.dgrad));
    if (now.wgrad != target.wgrad) set(prefix + "wgrad", to_text(target.wgrad));
    if (now.save != target.save) set(prefix + "save", word_of(kSave, target.save));
    if (now.keep_output != target.keep_output)
      set(prefix + "output", word_of(kOutput, target.keep_output));
    if (now.fuse != target.fuse) set(prefix + "fuse", word_of(kSwitch, target.fuse));
    if (now.exact_target != target.exact_target)
      set(prefix + "target", word_of(kTarget, target.exact_target));
  }
  void layer(const std::string& pattern, const LinearRecipe& target) {
    const auto& overrides = state_.recipe.overrides;
    const auto at = std::ranges::find(overrides, pattern,
                                      &decltype(state_.recipe.overrides)::value_type::first);
    if (at != overrides.end() && at->second == target) return;
    const std::string key = "layer:" + pattern;
    const auto preset = find_recipe(target.name);
    set(key, preset ? target.name : "none");
    linear(key + "/", override_of(state_, pattern), target);
    if (override_of(state_, pattern).name != target.name) set(key + "/name", target.name);
  }
  const Recipe& recipe() const { return state_.recipe; }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  State state_;
};

// Whether the last overrides of `all` have the patterns of `tail`, in order.
bool ends_with(const Recipe& all, const Recipe& tail) {
  if (all.overrides.size() < tail.overrides.size()) return false;
  return std::equal(tail.overrides.rbegin(), tail.overrides.rend(), all.overrides.rbegin(),
                    [](const auto& a, const auto& b) { return a.first == b.first; });
}

}  // namespace

Recipe parse(std::string_view text) {
  const auto items = words::split(text, ',');
  State state{*named("", items.front())};
  for (std::size_t i = 1; i < items.size(); ++i) {
    const auto equals = items[i].find('=');
    NIBBLE_CHECK(equals != std::string_view::npos, kOp, "'{}' in '{}': expected KEY=VALUE",
                 items[i], text);
    apply(state, items[i].substr(0, equals), items[i].substr(equals + 1));
  }
  validate(state.recipe);
  return std::move(state.recipe);
}

std::string to_string(const Recipe& recipe) {
  validate(recipe);
  const auto preset = find_recipe(recipe.name);
  Writer w(preset ? *preset : Recipe{});
  if (w.recipe().name != recipe.name) w.set("name", recipe.name);
  if (!ends_with(recipe, w.recipe())) w.set("layers", "none");
  w.linear("", w.recipe().linear, recipe.linear);
  if (w.recipe().linear.name != recipe.linear.name) w.set("linear.name", recipe.linear.name);
  for (const auto& [pattern, linear] : recipe.overrides) w.layer(pattern, linear);
  if (w.recipe().quantize_lm_head != recipe.quantize_lm_head)
    w.set("lm_head", word_of(kSwitch, recipe.quantize_lm_head));
  if (w.recipe().tie_embeddings != recipe.tie_embeddings)
    w.set("tie", word_of(kTie, recipe.tie_embeddings));
  const MomentRecipe &now = w.recipe().moments, &wanted = recipe.moments;
  if (now.m != wanted.m) w.set("moments.m", wanted.m.empty() ? "f32" : wanted.m);
  if (now.v != wanted.v) w.set("moments.v", wanted.v.empty() ? "f32" : wanted.v);
  if (now.simulated != wanted.simulated) w.set("moments", word_of(kMoments, wanted.simulated));
  if (w.recipe().weights != recipe.weights) w.set("weights", word_of(kWeights, recipe.weights));
  NIBBLE_CHECK(w.recipe() == recipe, kOp,
               "{} has a part without a text form: a quantizer that is not registered?",
               recipe.name);
  return w.text();
}

}  // namespace nibble::recipes
