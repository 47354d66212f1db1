#include "quant/product.h"

#include <algorithm>

#include "quant/qtensor.h"

namespace nibble {
namespace {

// A scale's run along the contraction: codes (0: all of it, or of each part) and parts.
struct Run {
  std::int64_t codes;
  int parts;

  bool whole() const { return codes == 0 && parts == 1; }
  bool operator==(const Run&) const = default;
};

// The rows don't matter here: one row a part always divides.
std::int64_t resolved_cols(const QuantSpec& spec, std::int64_t k) {
  return spec.resolve(spec.row_splits, k).cols;
}

Run run_of(const QuantSpec& spec, std::int64_t k) {
  if (k == 0) return {spec.tile.cols, spec.tile.cols == 0 ? spec.col_splits : 1};
  const std::int64_t codes = resolved_cols(spec, k);
  return {codes == k ? 0 : codes, 1};
}

std::string tile_text(const QuantSpec& spec, std::int64_t rows, std::int64_t k) {
  const std::string tile = fmt::format("tile {{{}, {}}}", spec.tile.rows, spec.tile.cols);
  if (k == 0) return tile;
  if (rows == 0) return fmt::format("{}, K = {}", tile, k);
  return fmt::format("{} on [{}, {}]", tile, rows, k);
}

std::string run_text(const Run& run) {
  return run.codes == 0 ? fmt::format("{} parts", run.parts) : fmt::format("{} codes", run.codes);
}

std::string operand_fault(const char* side, const QuantSpec& spec, std::int64_t rows,
                          std::int64_t k) {
  if (spec.format.kind() == Format::Kind::CodeBook)
    return fmt::format(
        "{} codes ({}) index a code book and cannot be multiplied; use an integer "
        "or float format, or mode simulated",
        side, spec.format.name());
  if (spec.arithmetic != Arithmetic::F32)
    return fmt::format(
        "{} is decoded in bf16 arithmetic, which products of codes do not follow; "
        "use mode simulated",
        side);
  const Run run = run_of(spec, k);
  if (run.codes != 0 && run.codes < kMinContractionBlock)
    return fmt::format(
        "{} scale varies along the contraction axis ({}); quantize the transpose or "
        "use group(128)",
        side, tile_text(spec, rows, k));
  return "";
}

}  // namespace

std::string real_product_fault(const QuantSpec& a, const QuantSpec& b,
                               const ProductExtents& extents) {
  if (std::string fault = operand_fault("lhs", a, extents.m, extents.k); !fault.empty())
    return fault;
  if (std::string fault = operand_fault("rhs", b, extents.n, extents.k); !fault.empty())
    return fault;
  if (a.format.kind() != b.format.kind())
    return fmt::format("lhs is {} and rhs is {}; encode both as integers or both as floats",
                       a.format.name(), b.format.name());
  const Run run_a = run_of(a, extents.k), run_b = run_of(b, extents.k);
  if (!run_a.whole() && !run_b.whole() && run_a != run_b)
    return fmt::format(
        "scales run over {} of the contraction in lhs but {} in rhs; use equal "
        "groups, or one scale for the whole contraction in one of them",
        run_text(run_a), run_text(run_b));
  return "";
}

std::int64_t contraction_block(const QuantSpec& a, const QuantSpec& b, std::int64_t k) {
  return std::min(resolved_cols(a, k), resolved_cols(b, k));
}

void check_real_product(const QuantSpec& a, const QuantSpec& b, std::int64_t k,
                        std::string_view op) {
  const std::string fault = real_product_fault(a, b, {.k = k});
  NIBBLE_CHECK(fault.empty(), op, "{}", fault);
}

}  // namespace nibble
