// The table of operations (op_table.h) on a GPU, against the CPU: values and gradients in every
// layout, what surrounds the arguments, and that nothing is copied to the host on the way.
#include "tests/cuda/lockstep.h"
#include "tests/op_support.h"
#include "tests/op_table_pass.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// Rounding to bf16 in the middle of an operation may fall to either side.
double bound_of(const OpRow& row, DType dtype) {
  if (dtype == DType::BF16) return 1.0 / 64;
  return row.tier == Tier::Reduction ? 4e-6 : 2e-6;
}

void compare(const OpRow& row, DType dtype, const Result& cpu, const Result& gpu) {
  const std::vector<Tensor> c = all_of(cpu), g = all_of(gpu);
  REQUIRE(c.size() == g.size());
  for (std::size_t i = 0; i < c.size(); ++i) {
    CAPTURE(i);
    REQUIRE(c[i].defined() == g[i].defined());
    if (!c[i].defined()) continue;
    CHECK(g[i].device() == kGpu);
    CHECK(g[i].dtype() == c[i].dtype());
    REQUIRE(g[i].shape() == c[i].shape());
    if (row.tier == Tier::Exact && i == 0)
      check_bits(ops::contiguous(c[i]), g[i], row.name);
    else
      check_near(c[i], g[i], bound_of(row, dtype), 1, row.name);
  }
}

}  // namespace

GPU_TEST("cuda op table: values and gradients agree with the CPU's, in every layout") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Layout layout : {Layout::Dense, Layout::Poisoned, Layout::Strided}) {
      CAPTURE(dtype);
      CAPTURE(static_cast<int>(layout));
      for_each_row([&](const OpRow& row) {
        if (!in_sample()) return;
        const Setup setup{.dtype = dtype, .layout = layout, .rounded_to = dtype};
        Setup there = setup;
        there.device = kGpu;
        compare(row, dtype, Pass(row, setup).run(), Pass(row, there).run());
      });
    }
}

GPU_TEST("cuda op table: every cell of the support matrix works or refuses as declared") {
  const std::string problems = check_support(kGpu, kCpu);
  CHECK_MESSAGE(problems.empty(), problems);
}

GPU_TEST("cuda op table: two runs give the same bits") {
  for_each_row([](const OpRow& row) {
    if (!in_sample()) return;
    const Setup setup{.dtype = DType::BF16, .device = kGpu, .rounded_to = DType::BF16};
    const std::vector<Tensor> a = all_of(Pass(row, setup).run()),
                              b = all_of(Pass(row, setup).run());
    for (std::size_t i = 0; i < a.size(); ++i)
      if (a[i].defined()) check_bits(ops::contiguous(a[i].to(kCpu)), b[i], row.name);
  });
}

GPU_TEST("cuda op table: no operation copies to the host or waits for the device") {
  for_each_row([](const OpRow& row) {
    if (!in_sample()) return;
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const Layout layout : {Layout::Dense, Layout::Strided}) {
        Pass pass(row, {.dtype = dtype, .device = kGpu, .layout = layout});
        const std::uint64_t before = cuda::copies_to_host();
        pass.run();
        CHECK(cuda::copies_to_host() == before);
      }
  });
}

GPU_TEST("cuda op table: a copy to the host or a wait inside an operation is counted") {
  const Tensor x = Tensor::full({3}, 1, DType::F32, kGpu);
  const auto counted = [](auto&& f) {
    const std::uint64_t before = cuda::copies_to_host();
    f();
    return cuda::copies_to_host() > before;
  };
  CHECK(counted([&] { x.to(kCpu); }));
  CHECK(counted([&] { x.to_vector(); }));
  CHECK(counted([&] { ops::all_finite(x); }));
  CHECK(counted([] { synchronize(kGpu); }));
  CHECK_FALSE(counted([&] { ops::square(x); }));
}

GPU_TEST("cuda op table: operations write all of their outputs and gradients and nothing else") {
  for (const DType dtype : {DType::F32, DType::BF16})
    for (const Layout layout : {Layout::Dense, Layout::Poisoned, Layout::Strided}) {
      CAPTURE(dtype);
      CAPTURE(static_cast<int>(layout));
      for_each_row([&](const OpRow& row) {
        if (!in_sample()) return;
        const Setup setup{.dtype = dtype, .device = kGpu, .layout = layout, .rounded_to = dtype};
        const std::vector<Tensor> expected = all_of(Pass(row, setup).run());
        const Guarded guarded = run_guarded(row, setup);
        CHECK_MESSAGE(guarded.damage.empty(), guarded.damage);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          REQUIRE(guarded.results[i].defined() == expected[i].defined());
          if (expected[i].defined())  // an element that nobody wrote would be NaN
            check_bits(ops::contiguous(expected[i].to(kCpu)), guarded.results[i], row.name);
        }
      });
    }
}

GPU_TEST("cuda op table: a byte written beside a tensor is found") {
  const MemoryGuard guard(kGpu);
  const Tensor x = Tensor::zeros({3}, DType::F32, kGpu);
  CHECK(guard.damage().empty());
  const float value = 1;
  cuda::copy_to_device(const_cast<float*>(x.data<float>()) + 3, &value, sizeof value);
  CHECK(guard.damage().size() == 1);
  CHECK(std::isnan(Tensor::empty({5}, DType::BF16, kGpu).to_vector()[4]));
}

GPU_TEST("cuda op table: nothing beyond the arguments is written") {
  for_each_row([](const OpRow& row) {
    if (!in_sample()) return;
    Pass pass(row, {.device = kGpu, .layout = Layout::Poisoned});
    pass.run();
    std::vector<Tensor> touched = pass.x();
    for (Parameter* p : pass.parameters()) {
      touched.push_back(p->storage());
      touched.push_back(p->grad_buffer());
    }
    cuda::synchronize();
    for (const Tensor& t : touched) {
      std::array<float, kMargin> before{}, after{};
      const float poison = static_cast<float>(kPoison);
      cuda::copy_to_host(before.data(), t.data<float>() - kMargin, sizeof before);
      cuda::copy_to_host(after.data(), t.data<float>() + t.numel(), sizeof after);
      for (const auto& margin : {before, after})
        for (const float value : margin) CHECK(std::memcmp(&value, &poison, sizeof poison) == 0);
    }
  });
}
