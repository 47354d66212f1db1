#include "quant/scale_history.h"

#include "quant/kernels.h"
#include "quant/scales.h"

namespace nibble {
namespace {

constexpr const char* kOp = "scale history";
constexpr std::string_view kPrefix = "scales.";

}  // namespace

ScaleHistory::Entry& ScaleHistory::at(std::string_view name, int steps) {
  auto entry = entries_.find(name);
  if (entry == entries_.end()) {
    const MemoryScope scope("encodings");
    entry = entries_
                .emplace(std::string(name), Entry{Tensor::zeros({1, steps}, DType::F32, device_),
                                                  Tensor::zeros({1}, DType::F32, device_)})
                .first;
  }
  NIBBLE_CHECK(entry->second.history.size(1) == steps, kOp,
               "{}: got a history of {} steps, expected the {} it began with", name, steps,
               entry->second.history.size(1));
  return entry->second;
}

void ScaleHistory::advance(const StepState& state) {
  for (auto& [name, entry] : entries_) {
    NIBBLE_DISPATCH(device_, quant_advance_ranges(entry.history, entry.now, state.scalars()));
    entry.fresh = false;
  }
}

bool ScaleHistory::settle(bool bad) {
  settled_ = settled_ || !bad;
  if (settled_) return false;
  for (auto& [name, entry] : entries_) entry.fresh = true;
  return !entries_.empty();
}

std::vector<std::pair<std::string, Tensor>> ScaleHistory::tensors() const {
  std::vector<std::pair<std::string, Tensor>> all;
  for (const auto& [name, entry] : entries_)
    all.emplace_back(std::string(kPrefix) + name, entry.history);
  return all;
}

void ScaleHistory::expect(std::string_view tensor_name, const Shape& shape) {
  if (!tensor_name.starts_with(kPrefix)) return;
  NIBBLE_CHECK(shape.rank() == 2 && shape[0] == 1 && shape[1] >= 1, kOp,
               "{}: got {}, expected [1, steps]", tensor_name, shape);
  at(tensor_name.substr(kPrefix.size()), static_cast<int>(shape[1])).fresh = false;
  settled_ = true;
}

QTensor quantize_delayed(const Tensor& x, const QuantSpec& spec, const RngKey& key,
                         ScaleHistory::Entry& entry) {
  NIBBLE_CHECK(spec.calibration.history > 0, "quantize_delayed",
               "got {}, expected a spec with delayed scaling", to_string(spec));
  NIBBLE_CHECK(is_float(x.dtype()), "quantize_delayed", "got {}, expected f64, f32 or bf16",
               describe(x));
  const Tensor matrix = (x.is_contiguous() ? x : x.clone()).view({x.rows(), x.cols()});
  QTensor q = QTensor::empty(spec, matrix.size(0), matrix.size(1), matrix.device());
  if (x.numel() == 0) return q;
  if (entry.fresh) {
    Scales{q.scales(), {}, {}}.compute(matrix, spec);
  } else {
    Tensor range = Tensor::empty({1, 1}, DType::F32, x.device()), none;
    NIBBLE_DISPATCH(x.device(), quant_delayed_range(range, entry.history, spec));
    NIBBLE_DISPATCH(x.device(), quant_scales(q.scales(), none, none, range, none, spec));
  }
  Tensor largest = Tensor::zeros({1}, DType::F32, x.device());
  NIBBLE_DISPATCH(x.device(),
                  quant_encode_tracked(q.payload(), largest, matrix, q.scales(), spec, key));
  NIBBLE_DISPATCH(x.device(), quant_settle_range(entry.now, q.scales(), largest));
  return q;
}

}  // namespace nibble
