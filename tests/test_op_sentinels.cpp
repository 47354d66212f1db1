// The table of operations among guard bytes: every buffer of a pass, also those that ops make for
// themselves, is surrounded, and begins as NaN. Tier: exact, the same pass without a guard.
#include "autograd/ops.h"
#include "op_table_pass.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

void check_guarded(const OpRow& row, const Setup& setup) {
  const std::vector<Tensor> expected = all_of(Pass(row, setup).run());
  const Guarded guarded = run_guarded(row, setup);
  CHECK_MESSAGE(guarded.damage.empty(), guarded.damage);
  REQUIRE(guarded.results.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    REQUIRE(guarded.results[i].defined() == expected[i].defined());
    if (expected[i].defined())
      CHECK(same_bits(ops::contiguous(expected[i]), ops::contiguous(guarded.results[i])));
  }
}

}  // namespace

TEST_CASE("autograd: operations write all of their outputs and gradients and nothing else") {
  for (const DType dtype : kFloats)
    for (const Layout layout : {Layout::Dense, Layout::Poisoned, Layout::Strided}) {
      CAPTURE(dtype);
      CAPTURE(static_cast<int>(layout));
      for_each_row([&](const OpRow& row) {
        check_guarded(row, {.dtype = dtype, .layout = layout, .rounded_to = dtype});
      });
    }
}

TEST_CASE("autograd: an operation that writes too much or too little is seen") {
  const OpRow beyond{.name = "beyond",
                     .variant = "",
                     .inputs = {{{2, 3}}},
                     .parameters = {},
                     .fn =
                         [](const OpArgs& a) {
                           Tensor scratch = Tensor::zeros(a.x[0].shape());
                           scratch.data<float>()[scratch.numel()] = 1;
                           return a.x[0] + 1.0;
                         },
                     .reference = {}};
  CHECK_FALSE(run_guarded(beyond, {}).damage.empty());
  OpRow partly = beyond;
  partly.fn = [](const OpArgs& a) {
    const Tensor y = Tensor::empty(a.x[0].shape());
    y.slice(0, 0, 1).fill(0);
    return a.x[0] + Var(y);
  };
  const Guarded guarded = run_guarded(partly, {});
  CHECK(guarded.damage.empty());
  CHECK(std::isnan(guarded.results[0].to_vector()[5]));
}
