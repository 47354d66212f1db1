#include "apps/compare/layers.h"

#include <algorithm>
#include <optional>

namespace nibble::compare {

const Row* LayerReport::first(const std::vector<Row>& rows) {
  const auto at = std::ranges::find_if(rows, &Row::diverges);
  return at == rows.end() ? nullptr : &*at;
}

LayerReport compare_with(const Captured& a, LanguageModel& b, const Pass& pass, double threshold_db,
                         const Sink& seen) {
  LayerReport report{.loss_a = a.loss,
                     .loss_b = 0,
                     .threshold_db = threshold_db,
                     .forward = {},
                     .backward = {},
                     .gradient = {},
                     .only_a = {},
                     .only_b = {}};
  std::vector<std::optional<LayerError>> errors(a.items().size());
  const auto missing = [](std::vector<std::string>& list, const std::string& name) {
    if (std::ranges::find(list, name) == list.end()) list.push_back(name);
  };
  report.loss_b = run_pass(b, pass, [&](Kind kind, const std::string& name, const Tensor& value) {
    if (seen) seen(kind, name, value);
    const std::size_t i = a.find(kind, name);
    if (i == Captured::kNone) return missing(report.only_b, name);
    const Tensor& reference = a.items()[i].value;
    NIBBLE_CHECK(reference.shape() == value.shape(), "compare",
                 "{} is {} in A and {} in B; expected models of one shape", name, reference.shape(),
                 value.shape());
    errors[i] = error_of(reference, host_copy(value));
  });
  for (std::size_t i = 0; i < errors.size(); ++i) {
    const Captured::Item& item = a.items()[i];
    if (!errors[i]) {
      missing(report.only_a, item.name);
      continue;
    }
    if (item.kind == Kind::Parameter) report.gradient.add(*errors[i]);
    auto& rows = item.kind == Kind::Output ? report.forward : report.backward;
    rows.push_back(
        {item.kind, item.name, item.value.shape(), *errors[i], errors[i]->diverges(threshold_db)});
  }
  return report;
}

void check_same_shapes(Module& a, Module& b) {
  const std::vector<Parameter*> others = parameters(b);
  for (const Parameter* p : parameters(a))
    for (const Parameter* q : others)
      NIBBLE_CHECK(p->name != q->name || p->shape() == q->shape(), "compare",
                   "{} is {} in A and {} in B; expected models of one shape", p->name, p->shape(),
                   q->shape());
}

}  // namespace nibble::compare
