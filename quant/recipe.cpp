#include "quant/recipe.h"

#include <algorithm>
#include <array>

#include "quant/product.h"
#include "quant/words.h"

namespace nibble {
namespace {

constexpr const char* kOp = "recipe";

struct Product {
  const char* name;
  const GemmRecipe* gemm;
};
std::array<Product, 3> products(const LinearRecipe& r) {
  return {{{"fprop", &r.fprop}, {"dgrad", &r.dgrad}, {"wgrad", &r.wgrad}}};
}

void check_name(const std::string& name) {
  NIBBLE_CHECK(words::is_plain(name, "_-+."), kOp,
               "bad name '{}', expected letters, digits, '_', '-', '+' and '.'", name);
}

// The operand of fprop whose codes `product`.rhs may reuse.
const Encoding& reused(const LinearRecipe& r, const Product& product) {
  return product.gemm == &r.dgrad ? r.fprop.rhs : r.fprop.lhs;
}
const char* reused_name(const LinearRecipe& r, const Product& product) {
  return product.gemm == &r.dgrad ? "fprop.rhs" : "fprop.lhs";
}

void check_operand(const LinearRecipe& r, const Product& product, const Encoding& e, bool is_lhs) {
  const std::string at = fmt::format("{}: {}.{}", r.name, product.name, is_lhs ? "lhs" : "rhs");
  const bool reuses = e.source == Source::ReuseForward;
  NIBBLE_CHECK((e.quant ? 1 : 0) + (e.custom ? 1 : 0) + (reuses ? 1 : 0) <= 1, kOp,
               "{} has more than one encoding; give it a spec, a quantizer or 'reuse'", at);
  NIBBLE_CHECK(!e.custom || product.gemm->mode == Mode::Simulated, kOp,
               "{}: quantizer '{}' has no codes to multiply; use mode simulated", at,
               e.custom ? e.custom->name() : "");
  if (e.quant) {
    try {
      e.quant->validate();
    } catch (const Error& error) {
      fail(kOp, "{}: {}", at, error.what());
    }
    // Evaluation runs fprop too, and must be a function of its input.
    NIBBLE_CHECK(product.gemm != &r.fprop || e.quant->rounding == Rounding::Nearest, kOp,
                 "{} rounds stochastically ({}), so that evaluation would be random; use nearest",
                 at, to_string(*e.quant));
  }
  const bool delayed = e.quant && e.quant->calibration.history > 0;
  const bool weight = !is_lhs && product.gemm != &r.wgrad;
  NIBBLE_CHECK(
      !delayed || (product.gemm->mode == Mode::Real && !weight), kOp,
      "{} delays its scale ({}), which codes of activations and gradients of real products "
      "do; a weight's own range costs little",
      at, delayed ? to_string(*e.quant) : "");
  if (!reuses) return;
  NIBBLE_CHECK(!is_lhs && product.gemm != &r.fprop, kOp,
               "{} cannot reuse codes of the forward pass; only dgrad.rhs and wgrad.rhs can", at);
  NIBBLE_CHECK(!reused(r, product).empty(), kOp, "{} reuses {}, which encodes nothing", at,
               reused_name(r, product));
}

// The spec of an operand's codes in its product's orientation; none where it has no codes.
std::optional<QuantSpec> effective(const LinearRecipe& r, const Product& product,
                                   const Encoding& e) {
  if (e.source == Source::Requantize) return e.quant;
  const std::optional<QuantSpec>& forward = reused(r, product).quant;
  return forward ? std::optional(forward->t()) : std::nullopt;
}

void check_real(const LinearRecipe& r, const Product& product) {
  const GemmRecipe& gemm = *product.gemm;
  const auto lhs = effective(r, product, gemm.lhs), rhs = effective(r, product, gemm.rhs);
  NIBBLE_CHECK(lhs && rhs, kOp,
               "{}: {} is real, but {} has no codes; encode both operands or use mode simulated",
               r.name, product.name, lhs ? "rhs" : "lhs");
  NIBBLE_CHECK(gemm.accumulation == Accumulation::Full || lhs->format.is_float(), kOp,
               "{}: {} accumulates fast, but sums of {} codes are exact; leave accumulate=full",
               r.name, product.name, lhs->format.name());
  const std::string fault = real_product_fault(*lhs, *rhs, {});
  const bool reuses = gemm.rhs.source == Source::ReuseForward;
  NIBBLE_CHECK(fault.empty(), kOp, "{}: {}: {}{}", r.name, product.name, fault,
               reuses ? fmt::format(" (rhs reuses {}, transposed)", reused_name(r, product)) : "");
}

void check_moment(const Recipe& r, const char* which, const std::string& text) {
  // A codec's own name is looked up when the optimizer is built; a spec is checked here.
  if (words::is_plain(text, "_-") || text.empty()) return;
  try {
    static_cast<void>(parse_spec(text));
  } catch (const Error& error) {
    fail(kOp, "{}: moments.{}: {}", r.name, which, error.what());
  }
}

}  // namespace

void validate(const LinearRecipe& r) {
  check_name(r.name);
  for (const Product& product : products(r)) {
    check_operand(r, product, product.gemm->lhs, true);
    check_operand(r, product, product.gemm->rhs, false);
    NIBBLE_CHECK(
        product.gemm->mode == Mode::Real || product.gemm->accumulation == Accumulation::Full, kOp,
        "{}: {} accumulates fast, which only real products do; leave accumulate=full", r.name,
        product.name);
    if (product.gemm->mode == Mode::Real) check_real(r, product);
  }
  NIBBLE_CHECK(r.save != Save::Encoded || effective(r, {"wgrad", &r.wgrad}, r.wgrad.rhs), kOp,
               "{}: save=encoded, but wgrad.rhs has no codes to save; encode it or save=original",
               r.name);
}

void validate(const Recipe& r) {
  check_name(r.name);
  validate(r.linear);
  for (std::size_t i = 0; i < r.overrides.size(); ++i) {
    const auto& [pattern, linear] = r.overrides[i];
    NIBBLE_CHECK(words::is_plain(pattern, "_-.*?"), kOp,
                 "{}: bad layer pattern '{}', expected a module path with '*' and '?'", r.name,
                 pattern);
    const bool repeated =
        std::any_of(r.overrides.begin(), r.overrides.begin() + static_cast<std::ptrdiff_t>(i),
                    [&, &name = pattern](const auto& other) { return other.first == name; });
    NIBBLE_CHECK(!repeated, kOp, "{}: layer pattern '{}' appears twice", r.name, pattern);
    validate(linear);
  }
  check_moment(r, "m", r.moments.m);
  check_moment(r, "v", r.moments.v);
}

const LinearRecipe& Recipe::at(std::string_view path) const {
  static const LinearRecipe unquantized;
  for (const auto& [pattern, recipe] : overrides)
    if (words::matches(pattern, path)) return recipe;
  return path == "lm_head" && !quantize_lm_head ? unquantized : linear;
}

}  // namespace nibble
