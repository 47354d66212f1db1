// The declared support matrix (op_support.h), cell by cell, and that its driver sees what is wrong.
// Tier: that of each row.
#include <set>
#include <sstream>
#include <stdexcept>

#include "autograd/ops.h"
#include "op_support.h"
#include "tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

OpRow row_of(const std::string& name) {
  for (const OpRow& row : op_table())
    if (row.name == name) return row;
  FAIL("no row ", name);
  return {};
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("op support: the matrix names every function once") {
  std::multiset<std::string> named;
  for (const Support& s : support_matrix()) {
    std::istringstream words(s.functions);
    for (std::string w; words >> w;) named.insert(w);
  }
  std::set<std::string> functions;
  for (const OpRow& row : op_table()) functions.insert(row.name);
  CHECK(std::vector<std::string>(named.begin(), named.end()) ==
        std::vector<std::string>(functions.begin(), functions.end()));
}

TEST_CASE("op support: every cell of the CPU works or refuses as declared") {
  const std::string problems = check_support(kCpu, kMeta);
  CHECK_MESSAGE(problems.empty(), problems);
}

TEST_CASE("op support: every cell of Meta works or refuses as declared") {
  const std::string problems = check_support(kMeta, kCpu);
  CHECK_MESSAGE(problems.empty(), problems);
}

TEST_CASE("op support: a wrong declaration is seen, either way") {
  Support all = *support_of("reshape");  // every dtype
  CHECK(contains(check_cell(row_of("exp"), all, {.dtype = DType::I8}),
                 "value: declared supported, threw 'exp: got i8[3, 5] on cpu, expected f64, f32 or "
                 "bf16'"));
  CHECK(contains(check_cell(row_of("reshape"), *support_of("exp"), {.dtype = DType::I8}),
                 "value: works, declared unsupported"));
  all.gradients_cpu = "f32";
  CHECK(contains(check_cell(row_of("reshape"), all, {.dtype = DType::BF16}),
                 "gradient: works, declared unsupported"));
  const Cell strided{.parameters = Placement::Strided};
  CHECK(
      contains(check_cell(row_of("rms_norm"), *support_of("linear"), strided),
               "value: declared supported, threw 'rms_norm: got gamma f32[5] on cpu with strides"));
  CHECK(contains(check_cell(row_of("linear"), *support_of("rms_norm"), strided),
                 "value: works, declared unsupported"));
  Support apart = *support_of("linear");
  apart.mixed_parameters = false;
  CHECK(check_mixtures(row_of("linear"), apart, kCpu, kMeta).size() == 2);
}

TEST_CASE("op support: wrong values, gradients and errors are seen") {
  const Support& floats = *support_of("exp");
  OpRow row = row_of("exp");
  row.fn = [](const OpArgs& a) { return exp(a.x[0]) + 1e-4; };
  CHECK(contains(check_cell(row, floats, {}), "value: f32[3, 5] on cpu element 0: got "));
  // Only one dtype's gradient is wrong: twice what it should be.
  row.fn = [](const OpArgs& a) {
    const Var y = exp(a.x[0]);
    return y.dtype() == DType::F64 ? y : y + y - y.detach();
  };
  CHECK(contains(check_cell(row, floats, {}), "gradient: 0: f32[3, 5] on cpu element 0: got "));
  row.fn = [](const OpArgs&) -> Var { throw std::logic_error("oh"); };
  CHECK(contains(check_cell(row, floats, {.dtype = DType::I8}), "expected a nibble::Error"));
  row.fn = [](const OpArgs&) -> Var { throw Error("exp", "not today"); };
  CHECK(contains(check_cell(row, floats, {.dtype = DType::I8}), "expected the form"));
}
