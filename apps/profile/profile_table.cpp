#include "apps/profile/profile_table.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::profile {
namespace {

struct Device {
  const char* name;
  Ceilings ceilings;
};
// H200: NVIDIA's datasheet; a copy of 4 GiB.
constexpr Device kDevices[] = {{"NVIDIA H200", {1979e12, 1979e12, 989e12, 4.25e12}}};

// The arithmetic of a class and its ceiling; none for those that memory bounds.
struct Work {
  double operations = 0, ceiling = 0;
};
Work work_of(const KernelProfile& p, KernelClass of) {
  const Ceilings top = ceilings_of(p.processor).value_or(Ceilings{});
  switch (of) {
    case KernelClass::IntProduct: return {p.operations[OperationKind::IntProduct], top.int8};
    case KernelClass::Fp8Product: return {p.operations[OperationKind::Fp8Product], top.fp8};
    case KernelClass::FloatProduct: return {p.operations[OperationKind::FloatProduct], top.bf16};
    case KernelClass::Attention: return {p.operations[OperationKind::Attention], top.bf16};
    default: return {};
  }
}

std::string line(const std::string& name, const std::string& launches, double seconds,
                 double step_seconds, const std::string& rate, const std::string& share) {
  return fmt::format("| {} | {} | {:.3f} | {:.1f} % | {} | {} |\n", name, launches, seconds * 1e3,
                     100 * seconds / step_seconds, rate, share);
}

}  // namespace

std::optional<Ceilings> ceilings_of(const std::string& processor) {
  const auto at = std::ranges::find(kDevices, processor, &Device::name);
  if (at == std::end(kDevices)) return std::nullopt;
  return at->ceilings;
}

std::string class_table(const KernelProfile& p) {
  std::string out =
      "| kernels | launches a step | ms a step | share | TOP/s | of the ceiling |\n"
      "|---|---|---|---|---|---|\n";
  std::vector<KernelTime> rows;
  for (int i = 0; i < kKernelClasses; ++i)
    if (KernelTime k = p.total(static_cast<KernelClass>(i)); k.launches > 0)
      rows.push_back(std::move(k));
  std::ranges::stable_sort(rows, std::greater(), &KernelTime::seconds);
  double launches = 0, seconds = 0, least = 0, operations = 0;
  for (const KernelTime& k : rows) {
    const Work w = work_of(p, k.of);
    const double rate = k.seconds > 0 ? w.operations / k.seconds : 0;
    out += line(k.name, fmt::format("{:.0f}", k.launches), k.seconds, p.step_seconds,
                rate > 0 ? fmt::format("{:.0f}", rate * 1e-12) : "-",
                rate > 0 && w.ceiling > 0 ? fmt::format("{:.1f} %", 100 * rate / w.ceiling) : "-");
    launches += k.launches, seconds += k.seconds;
    operations += w.operations;
    if (w.ceiling > 0) least += w.operations / w.ceiling;
  }
  if (seconds > 1.001 * p.busy_seconds)
    out +=
        line("at the same time as others", "-", p.busy_seconds - seconds, p.step_seconds, "-", "-");
  out += line("nothing runs", "-", p.step_seconds - p.busy_seconds, p.step_seconds, "-", "-");
  out += line("step", fmt::format("{:.0f}", launches), p.step_seconds, p.step_seconds,
              fmt::format("{:.0f}", operations / p.step_seconds * 1e-12),
              least > 0 ? fmt::format("{:.1f} %", 100 * least / p.step_seconds) : "-");
  if (const auto top = ceilings_of(p.processor)) {
    const double bytes = 2.0 * static_cast<double>(p.memory), memory = bytes / top->copy;
    out += fmt::format(
        "\nThe arithmetic at the datasheet's rates: {:.1f} ms. All that tensors hold, written and "
        "read "
        "once at a copy's {:.2f} TB/s: {:.1f} GB, {:.1f} ms, {:.1f} % of the step.\n",
        least * 1e3, top->copy * 1e-12, bytes * 1e-9, memory * 1e3, 100 * memory / p.step_seconds);
  }
  return out;
}

std::string kernel_table(const KernelProfile& p, std::size_t most) {
  std::string out =
      "| kernel | class | launches a step | us each | ms a step |\n|---|---|---|---|---|\n";
  for (std::size_t i = 0; i < std::min(most, p.kernels.size()); ++i) {
    const KernelTime& k = p.kernels[i];
    out += fmt::format("| {} | {} | {:.4g} | {:.1f} | {:.3f} |\n", k.name, class_name(k.of),
                       k.launches, 1e6 * k.seconds / k.launches, 1e3 * k.seconds);
  }
  return out;
}

}  // namespace nibble::profile
