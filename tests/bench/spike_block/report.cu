#include "report.h"

#include <cstdio>

namespace nibble::spike {
namespace {

constexpr const char* kKinds[] = {"gemm",          "scaling",   "producers", "quantize",
                                  "weight encode", "bias grad", "attention", "stand-in"};

template <class F>
double total(const std::vector<OpRecord>& ops, F&& value) {
  double s = 0;
  for (const auto& op : ops) s += value(op);
  return s;
}

}  // namespace

double Timing::sum(const std::string& kind) const {
  return total(ops, [&](const OpRecord& o) { return o.kind == kind ? o.median() : 0.0; });
}
double Timing::bytes(const std::string& kind) const {
  return total(ops, [&](const OpRecord& o) { return o.kind == kind ? o.bytes : 0.0; });
}
double Timing::flops(const std::string& kind) const {
  return total(ops, [&](const OpRecord& o) { return o.kind == kind ? o.flops : 0.0; });
}
double Timing::sum_named(const std::string& part) const {
  return total(ops, [&](const OpRecord& o) {
    return o.name.rfind(part, 0) == 0 && o.kind != "gemm" ? o.median() : 0.0;
  });
}

void print_classes(const std::vector<Timing>& timings, double copy_gbs) {
  std::printf("\n| class |");
  for (const auto& t : timings) std::printf(" %s: ms | GB (least) | rate |", to_string(t.family));
  std::printf("\n|---|");
  for (std::size_t i = 0; i < timings.size(); ++i) std::printf("---|---|---|");
  std::printf("\n");
  for (const char* kind : kKinds) {
    std::printf("| %s |", kind);
    for (const auto& t : timings) {
      const double ms = t.sum(kind), gb = t.bytes(kind) / 1e9;
      if (ms == 0)
        std::printf(" - | - | - |");
      else if (t.flops(kind) > 0)
        std::printf(" %.3f | %.2f | %.0f T/s |", ms, gb, t.flops(kind) / ms / 1e9);
      else if (gb > 0)
        std::printf(" %.3f | %.2f | %.0f %% of copy |", ms, gb, 100 * gb / ms * 1e3 / copy_gbs);
      else
        std::printf(" %.3f | - | - |", ms);
    }
    std::printf("\n");
  }
  std::printf("| all but attention, stand-in |");
  for (const auto& t : timings)
    std::printf(" %.3f | | |", total(t.ops, [](const OpRecord& o) { return o.median(); }) -
                                   t.sum("attention") - t.sum("stand-in"));
  std::printf("\n| whole pass, no events inside |");
  for (const auto& t : timings) std::printf(" %.3f | | |", t.whole_ms);
  std::printf("\n\nSM clock, power, temperature while running:");
  for (const auto& t : timings) std::printf(" %s: %s;", to_string(t.family), t.clocks.c_str());
  std::printf("\n");
}

void print_kernels(const Timing& timing, double copy_gbs) {
  std::printf("\n<details><summary>%s: every operation</summary>\n\n", to_string(timing.family));
  std::printf("| class | operation | us (median) | MB (least) | rate |\n|---|---|---|---|---|\n");
  for (const auto& op : timing.ops) {
    const double ms = op.median();
    std::printf("| %s | %s | %.1f | %.1f |", op.kind.c_str(), op.name.c_str(), 1e3 * ms,
                op.bytes / 1e6);
    if (op.flops > 0)
      std::printf(" %.0f T/s |\n", op.flops / ms / 1e9);
    else
      std::printf(" %.0f %% of copy |\n", 100 * op.bytes / ms / 1e6 / copy_gbs);
  }
  std::printf("\n</details>\n");
}

void print_predictions(const std::vector<Timing>& timings, double cudnn_ms, double copy_gbs) {
  std::printf(
      "\nPrediction, ms. unfused = gemm + scaling + producers + quantize + weight encode + bias "
      "grad"
      " + cuDNN attention (%.3f, anchors).\n(a) = unfused - scaling: scaling fused into the"
      " product (whose own time is kept, although it would write 2 bytes, not 4).\n(b) = (a) - the"
      " passes over att and dqkv that our own attention kernel would absorb: row, the two absmax"
      " passes (the pair passes stay); tile and group, the two encode passes; bf16, dqkv's column"
      " sums.\n(c) = gemm + cuDNN + least bytes of producers, quantize, weight encode and bias grad"
      " at 85 %% of the copy bandwidth.\nGELU-fused bf16 = bf16 - both GELU kernels, its products"
      " unchanged (a bound in its favour).\nRatios: bf16's time over the family's, for unfused, "
      "(a),"
      " (b) and, like for like, (c).\n\n"
      "| family | unfused | (a) | (b) | (c) | against bf16 | against GELU-fused bf16 |\n"
      "|---|---|---|---|---|---|---|\n",
      cudnn_ms);
  double plain = 0, gelu_fused = 0, plain_c = 0;
  for (const auto& t : timings) {
    double all = cudnn_ms, bytes = 0;
    for (const char* kind :
         {"gemm", "scaling", "producers", "quantize", "weight encode", "bias grad"}) {
      all += t.sum(kind);
      if (std::string(kind) != "gemm" && std::string(kind) != "scaling") bytes += t.bytes(kind);
    }
    const double a = all - t.sum("scaling"),
                 c = t.sum("gemm") + cudnn_ms + bytes / 0.85 / copy_gbs / 1e6;
    double absorbed = t.sum_named("encode att") + t.sum_named("encode dqkv");
    if (t.family == Family::kRow) absorbed = t.sum_named("absmax att") + t.sum_named("absmax dqkv");
    if (t.family == Family::kBf16) absorbed = t.sum_named("column sums dqkv");
    const double b = a - absorbed;
    std::printf("| %s | %.3f | %.3f | %.3f | %.3f |", to_string(t.family), all, a, b, c);
    if (t.family == Family::kBf16) {
      plain = all;
      plain_c = c;
      gelu_fused = all - t.sum_named("gelu");
      std::printf(" 1 | %.3f ms |\n", gelu_fused);
      continue;
    }
    std::printf(" %.2f, %.2f, %.2f, %.2f | %.2f, %.2f, %.2f |\n", plain / all, plain / a, plain / b,
                plain_c / c, gelu_fused / all, gelu_fused / a, gelu_fused / b);
  }
}

}  // namespace nibble::spike
