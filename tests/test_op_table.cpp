// The drivers of the table of operations (op_table.h).
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "op_table_pass.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// Two layouts of the same numbers give the same bits; sums may come in another order, because a
// product's does depend on alignment and on which operand is a transposed view.
void check_same(const OpRow& row, const Result& expected, const Result& actual) {
  const std::vector<Tensor> a = all_of(expected), b = all_of(actual);
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    REQUIRE(a[i].defined() == b[i].defined());
    if (!a[i].defined()) continue;
    if (row.tier == Tier::Reduction)
      check_close(b[i], a[i].to_vector<double>(), 1e-6, 1);
    else
      CHECK(same_bits(ops::contiguous(a[i]), ops::contiguous(b[i])));
  }
}

std::set<std::string> functions_of(const std::string& header) {
  std::ifstream file(std::string(NIBBLE_SOURCE_DIR) + "/autograd/" + header);
  REQUIRE(file.good());
  const std::regex declaration(R"(^(?:(?:inline )?Var|AddedNorm) ([a-z_]+|operator.)\()");
  std::set<std::string> names;
  std::smatch match;
  for (std::string line; std::getline(file, line);)
    if (std::regex_search(line, match, declaration)) names.insert(match[1]);
  return names;
}

}  // namespace

TEST_CASE("autograd: every differentiable function has a row") {
  std::set<std::string> declared, tested;
  for (const char* header : {"ops.h", "linear.h", "checkpoint.h"})
    declared.merge(functions_of(header));
  for (const OpRow& row : op_table()) tested.insert(row.name);
  CHECK(declared.size() > 50);
  for (const std::string& name : declared) CHECK_MESSAGE(tested.contains(name), name);
  for (const std::string& name : tested) CHECK_MESSAGE(declared.contains(name), name);
}

TEST_CASE("autograd: values agree with naive references") {
  for_each_row([](const OpRow& row) {
    Pass pass(row, {.dtype = DType::F64});
    RefArgs reference;
    for (const Tensor& x : pass.x()) reference.x.push_back(x);
    for (Parameter* p : pass.parameters()) reference.p.push_back(p->storage());
    const Tensor expected = row.reference(reference), y = pass.run().y;
    CHECK(y.shape() == expected.shape());
    CHECK(y.dtype() == DType::F64);
    check_close(y, expected.to_vector<double>(), row.tier == Tier::Exact ? 0 : 1e-12, 1);
  });
}

TEST_CASE("autograd: gradients are the Jacobian's") {
  for_each_row([](const OpRow& row) {
    if (row.straight_through) return;
    Pass pass(row, {.dtype = DType::F64});
    const GradcheckResult r = gradcheck([&](const std::vector<Var>& x) { return pass.call(x); },
                                        pass.x(), pass.parameters(), row.gradcheck);
    CHECK_MESSAGE(r.ok, r.message());
  });
}

TEST_CASE("autograd: straight-through operations pass gradients on") {
  for_each_row([](const OpRow& row) {
    if (!row.straight_through) return;
    Pass pass(row, {.dtype = DType::F64});
    Tape tape;
    const Tape::Recording recording(tape);
    const Var x = tape.watch(pass.x()[0]);
    const Var y = pass.call({x});
    const Tensor dy = random(y.shape(), DType::F64);
    tape.backward(y, dy);
    CHECK(same_bits(tape.gradient(x), dy));
  });
}

TEST_CASE("autograd: f32 results agree with f64 ones") {
  for_each_row([](const OpRow& row) {
    const Result wide = Pass(row, {.dtype = DType::F64}).run();
    const Result narrow = Pass(row, {.dtype = DType::F32}).run();
    const double tolerance = row.tier == Tier::Reduction ? 4e-6 : 1e-6;
    if (row.tier == Tier::Exact)
      CHECK(same_bits(ops::contiguous(narrow.y), ops::contiguous(wide.y).to(DType::F32)));
    else
      check_close(narrow.y, wide.y.to_vector<double>(), tolerance, 1);
    const std::vector<Tensor> n = all_of(narrow), w = all_of(wide);
    for (std::size_t i = 1; i < n.size(); ++i) {
      CAPTURE(i);
      REQUIRE(n[i].defined() == w[i].defined());
      if (!n[i].defined()) continue;
      CHECK(n[i].dtype() == DType::F32);
      check_close(n[i], w[i].to_vector<double>(), tolerance, 1);
    }
  });
}

TEST_CASE("autograd: bf16 runs forward and backward") {
  for_each_row([](const OpRow& row) {
    const Result wide = Pass(row, {.dtype = DType::F64, .rounded_to = DType::BF16}).run();
    const Result narrow = Pass(row, {.dtype = DType::BF16, .rounded_to = DType::BF16}).run();
    const std::vector<Tensor> n = all_of(narrow), w = all_of(wide);
    for (std::size_t i = 0; i < n.size(); ++i) {
      CAPTURE(i);
      REQUIRE(n[i].defined() == w[i].defined());
      if (n[i].defined()) check_close(n[i], w[i].to_vector<double>(), 0.03, 1);
    }
    for (const Tensor& g : narrow.dx)
      if (g.defined()) CHECK(g.dtype() == DType::BF16);
    for (const Tensor& g : narrow.dp) CHECK(g.dtype() == DType::F32);
  });
}

TEST_CASE("autograd: nothing beyond the arguments is read or written") {
  for_each_row([](const OpRow& row) {
    Pass pass(row, {.layout = Layout::Poisoned});
    check_same(row, Pass(row, {}).run(), pass.run());
    std::vector<Tensor> touched = pass.x();
    for (Parameter* p : pass.parameters()) {
      touched.push_back(p->storage());
      touched.push_back(p->grad_buffer());
    }
    for (const Tensor& t : touched) {  // the margins still hold NaNs, all bits of them
      const float* inside = t.data<float>();
      const float poison = static_cast<float>(kPoison);
      for (std::int64_t i = 1; i <= kMargin; ++i) {
        CHECK(std::memcmp(inside - i, &poison, sizeof poison) == 0);
        CHECK(std::memcmp(inside + t.numel() + i - 1, &poison, sizeof poison) == 0);
      }
    }
  });
}

TEST_CASE("autograd: strides of inputs don't matter") {
  for_each_row([](const OpRow& row) {
    check_same(row, Pass(row, {}).run(), Pass(row, {.layout = Layout::Strided}).run());
  });
}

TEST_CASE("autograd: Meta gives the shapes of every output and gradient") {
  for_each_row([](const OpRow& row) {
    const std::vector<Tensor> real = all_of(Pass(row, {}).run()),
                              meta = all_of(Pass(row, {.device = kMeta}).run());
    for (std::size_t i = 0; i < real.size(); ++i) {
      CAPTURE(i);
      REQUIRE(real[i].defined() == meta[i].defined());
      if (!real[i].defined()) continue;
      CHECK(meta[i].device().is_meta());
      CHECK(meta[i].shape() == real[i].shape());
      CHECK(meta[i].dtype() == real[i].dtype());
    }
  });
}
