// quant_dlogits against the kernels it replaces: on the GPU bit for bit. Losses and gradients of
// bf16 logits differ from the CPU's by roundings (test_cuda_loss.cpp), so codes may too: the CPU's
// half is the composition itself. Tier: exact, between the two forms on the GPU.
#include "quant/pair_twin.h"
#include "tests/cuda/number_checks.h"
#include "tests/quant_checks.h"

using namespace nibble;
using namespace nibble::testing;
using quant_checks::kKey;

namespace {

struct Call {
  Tensor row_codes, row_scales, column_codes, column_scales, losses;

  Call(std::int64_t rows, std::int64_t cols, const QuantSpec& by_row, const QuantSpec& by_column,
       Device device)
      : row_codes(Tensor::zeros({rows, cols}, DType::I8, device)),
        row_scales(Tensor::zeros(by_row.scale_shape(rows, cols), DType::F32, device)),
        column_codes(Tensor::zeros({cols, rows}, DType::I8, device)),
        column_scales(Tensor::zeros(by_column.scale_shape(cols, rows), DType::F32, device)),
        losses(Tensor::zeros({rows}, DType::F32, device)) {}
};

Tensor make_targets(std::int64_t rows, std::int64_t classes) {
  std::vector<std::int32_t> t(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < t.size(); ++i)
    t[i] = i % 11 == 5
               ? -1
               : static_cast<std::int32_t>((i * 7919 + 3) % static_cast<std::size_t>(classes));
  return Tensor::from(t, {rows});
}

void check_call(const Tensor& logits, const Tensor& targets, const QuantSpec& by_row,
                const QuantSpec& by_column, const std::string& what, double factor = 1.0 / 27) {
  CAPTURE(what);
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  const Tensor x = logits.to(kGpu), t = targets.to(kGpu);
  const Tensor scale = Tensor::full({1}, factor, DType::F32, kGpu);
  REQUIRE(has_dlogits_pair(x, by_row, by_column));
  for (const bool with_target : {true, false}) {
    CAPTURE(with_target);
    Call fused(rows, cols, by_row, by_column, kGpu), apart(rows, cols, by_row, by_column, kGpu);
    cuda::quant_dlogits(fused.row_codes, fused.row_scales, fused.column_codes, fused.column_scales,
                        fused.losses, x, t, scale, with_target, by_row, by_column, kKey);
    dlogits_twin(apart.row_codes, apart.row_scales, apart.column_codes, apart.column_scales,
                 apart.losses, x, t, scale, with_target, by_row, by_column, kKey);
    check_numbers(apart.losses.to(kCpu), fused.losses, "losses");
    check_bits(apart.row_scales.to(kCpu), fused.row_scales, "row scales");
    check_bits(apart.column_scales.to(kCpu), fused.column_scales, "column scales");
    check_bits(apart.row_codes.to(kCpu), fused.row_codes, "row codes");
    check_bits(apart.column_codes.to(kCpu), fused.column_codes, "column codes");
    check_bits(logits, x, "logits stay");
  }
}

}  // namespace

TEST_CASE("dlogits: which specs and logits it serves") {
  const auto serves = [](const char* row, const char* column, std::int64_t rows, std::int64_t cols,
                         DType dtype = DType::BF16) {
    return has_dlogits_pair(Tensor::empty({rows, cols}, dtype, kMeta), parse_spec(row),
                            parse_spec(column));
  };
  CHECK(serves("int8:row:recip:sr", "int8:group256:recip:sr", 512, 50304));
  CHECK(serves("int8:row:recip", "int8:group128:recip", 272, 128));
  CHECK_FALSE(serves("int8:row:recip", "int8:group128:recip:sr", 272, 128));
  CHECK_FALSE(serves("int8:group128:recip", "int8:group128:recip", 272, 256));
  CHECK_FALSE(serves("int8:row:recip", "int8:row:recip", 272, 128));
  CHECK_FALSE(serves("int8:row", "int8:group256:recip", 272, 128));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip", 264, 128));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip", 272, 132));
  CHECK_FALSE(serves("int8:row:recip", "int8:group256:recip", 272, 128, DType::F32));
}

GPU_TEST("cuda dlogits: both encodings have the bits of the kernels apart") {
  // Rows of every tile of the first pass; the last group of tokens whole or short.
  for (const auto& [rows, cols] : {std::pair{256, 64},
                                   {272, 1024},
                                   {128, 8},
                                   {528, 1096},
                                   {272, 16384},
                                   {256, 50304},
                                   {1024, 3000},
                                   {128, 65608}})
    for (const double width : {0.1, 3.0, 30.0}) {  // from even rows to one sure class
      if (!in_sample()) continue;
      const Tensor logits = Tensor::normal({rows, cols}, 0, width, RngKey{5, 1}).to(DType::BF16);
      for (const char* noise : {"", ":sr"})
        for (const char* group : {"group256", "group128"})
          check_call(logits, make_targets(rows, cols),
                     parse_spec(std::string("int8:row:recip") + noise),
                     parse_spec(std::string("int8:") + group + ":recip" + noise),
                     fmt::format("{} × {} of {} {}{}", rows, cols, width, group, noise));
    }
}

GPU_TEST("cuda dlogits: ties, masked classes, NaN, ignored rows and targets on top") {
  const std::int64_t rows = 272, cols = 2056;
  Tensor logits = Tensor::normal({rows, cols}, 0, 2, RngKey{5, 2});
  Tensor targets = make_targets(rows, cols);
  float* v = logits.data<float>();
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int32_t t = std::max(targets.data<std::int32_t>()[r], 0);
    float* row = v + r * cols;
    if (r % 8 == 1) row[t] = 9;                                     // the target leads
    if (r % 8 == 2) row[t] = row[(t + 1) % cols] = 9;               // it shares the lead
    if (r % 8 == 3) std::fill_n(row, cols, -INFINITY);              // nothing at all
    if (r % 8 == 4) std::fill_n(row, cols, -INFINITY), row[t] = 1;  // the target alone
    if (r == 5) row[7] = NAN;
    if (r == 6) row[cols - 1] = INFINITY;
    if (r == 16) row[t] = 80;  // p of all others is subnormal or 0
    // Too large for gradients as one power of two.
    for (std::int64_t c = 0; c < cols && r % 16 == 15; ++c) row[c] = row[c] * 4 + 3000;
    if (r % 16 == 7) row[(t + 5) % cols] = 1e30f;
  }
  const Tensor narrow = logits.to(DType::BF16);
  for (const char* noise : {"", ":sr"})
    for (const char* group : {"group256", "group128"})
      for (const double factor : {1.0 / 27, -3.0, 0.0})
        check_call(narrow, targets, parse_spec(std::string("int8:row:recip") + noise),
                   parse_spec(std::string("int8:") + group + ":recip" + noise),
                   fmt::format("{} {}", group, factor), factor);
  check_call(narrow, Tensor::full({rows}, -1, DType::I32), parse_spec("int4:row:recip:floor0.5"),
             parse_spec("int8:group256:recip"), "all ignored");
}

GPU_TEST("cuda dlogits: a row's largest gradient is that of its largest logit") {
  // What the first pass counts on, over all bf16 logits below a log-sum-exp: gradients rise.
  for (const float lse : {0.0f, 0.3f, 7.25f, 10.8262f, 88.0f, 1234.5f}) {
    std::vector<float> v;
    for (std::uint32_t bits = 0; bits < 0x7f80u; ++bits)
      for (const std::uint32_t sign : {0u, 0x8000u}) {
        const auto x =
            static_cast<float>(bfloat16::from_bits(static_cast<std::uint16_t>(bits | sign)));
        if (x <= lse) v.push_back(x);
      }
    std::sort(v.begin(), v.end());
    const auto n = static_cast<std::int64_t>(v.size());
    const Tensor x = Tensor::from(v, {1, n}).to(DType::BF16).to(kGpu);
    const Tensor targets = Tensor::zeros({1}, DType::I32, kGpu);  // the least one, where p is 0
    for (const double scale : {1.0, 1.0 / 32767, 1.0 / 3}) {
      Tensor d = Tensor::empty({1, n}, DType::BF16, kGpu);
      ops::cross_entropy_backward(d, x, targets, Tensor::full({1}, lse, DType::F32, kGpu),
                                  Tensor::full({1}, scale, DType::F32, kGpu));
      const std::vector<float> g = d.to(kCpu).to_vector();
      const auto fall = std::is_sorted_until(g.begin() + 1, g.end());
      CHECK_MESSAGE(fall == g.end(), fmt::format("lse {}, scale {}, element {} of {}", lse, scale,
                                                 fall - g.begin(), n));
    }
  }
}
