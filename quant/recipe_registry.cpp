#include "quant/recipe_registry.h"

#include <map>
#include <mutex>

#include "quant/words.h"

namespace nibble::recipes {
namespace {

constexpr const char* kOp = "recipe";

constexpr std::pair<std::string_view, std::string_view> kAliases[] = {
    {"f32", "none"},
    {"bf16", "none"},
    {"w8a8_token", "w8a8"},
    {"w8a8g8_token", "w8a8g8"},
    {"m1_8_channel", "m1_8_row"},
    {"m1_4_channel", "m1_4_row"},
    {"m2_8_channel", "m2_8_row"},
};

struct Registry {
  std::mutex mutex;
  std::vector<std::string> order;  // of names(): built-in ones first
  std::map<std::string, std::shared_ptr<const Recipe>, std::less<>> recipes;
  std::map<std::string, std::shared_ptr<const CustomQuantizer>, std::less<>> quantizers;

  Registry() {
    for (auto& presets : {speed_presets(), study_presets()})
      for (const Recipe& recipe : presets) {
        validate(recipe);
        order.push_back(recipe.name);
        recipes.emplace(recipe.name, std::make_shared<const Recipe>(recipe));
      }
  }
};
Registry& registry() {
  static Registry r;
  return r;
}

std::string_view canonical(std::string_view name) {
  for (const auto& [alias, target] : kAliases)
    if (alias == name) return target;
  return name;
}

bool is_spec(std::string_view text) {
  try {
    static_cast<void>(parse_spec(text));
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

std::shared_ptr<const Recipe> find_recipe(std::string_view name) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const auto found = r.recipes.find(canonical(name));
  return found == r.recipes.end() ? nullptr : found->second;
}

std::shared_ptr<const CustomQuantizer> find_quantizer(std::string_view name) {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const auto found = r.quantizers.find(name);
  return found == r.quantizers.end() ? nullptr : found->second;
}

std::vector<std::string> known_words() {
  std::vector<std::string> known = names();
  for (const auto& entry : kAliases) known.emplace_back(entry.first);
  return known;
}

std::vector<std::string> names() {
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  return r.order;
}

void register_recipe(const std::string& name, const Recipe& recipe) {
  Recipe named = recipe;
  named.name = name;
  validate(named);
  NIBBLE_CHECK(canonical(name) == name, kOp, "'{}' is another name of '{}'; choose a new one", name,
               canonical(name));
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const auto [at, added] = r.recipes.emplace(name, std::make_shared<const Recipe>(named));
  NIBBLE_CHECK(added || *at->second == named, kOp, "'{}' is already another recipe's name", name);
  if (added) r.order.push_back(name);
}

void register_quantizer(std::shared_ptr<const CustomQuantizer> quantizer) {
  NIBBLE_CHECK(quantizer != nullptr, kOp, "got no quantizer to register");
  const std::string name = quantizer->name();
  NIBBLE_CHECK(words::is_plain(name, "_-+.:()"), kOp,
               "bad quantizer name '{}', expected letters, digits and '_-+.:()'", name);
  NIBBLE_CHECK(name != "none" && name != "reuse" && !is_spec(name), kOp,
               "quantizer name '{}' already means something in recipes; choose another", name);
  Registry& r = registry();
  const std::lock_guard lock(r.mutex);
  const auto [at, added] = r.quantizers.emplace(name, quantizer);
  NIBBLE_CHECK(added || at->second == quantizer, kOp, "'{}' is already another quantizer's name",
               name);
}

}  // namespace nibble::recipes
