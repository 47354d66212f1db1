#include "apps/train/evaluate.h"

#include <algorithm>
#include <numbers>

#include "autograd/context.h"
#include "data/loader.h"

namespace nibble::train {
namespace {

// Which stratum each token of the split belongs to, walked forward.
class StratumCursor {
 public:
  explicit StratumCursor(const Split& split) {
    for (const Stratum& s : split.strata)
      for (const Stratum::Range& r : s.ranges) ranges_.push_back({r.begin, r.end, &s.source});
    std::sort(ranges_.begin(), ranges_.end(),
              [](const auto& a, const auto& b) { return a.begin < b.begin; });
  }
  const std::string* at(std::int64_t token) {
    while (next_ < ranges_.size() && ranges_[next_].end <= token) ++next_;
    if (next_ == ranges_.size() || ranges_[next_].begin > token) return nullptr;
    return ranges_[next_].source;
  }

 private:
  struct Range {
    std::int64_t begin, end;
    const std::string* source;
  };
  std::vector<Range> ranges_;
  std::size_t next_ = 0;
};

}  // namespace

double EvalResult::Part::bits_per_byte() const {
  return text_bytes ? nats / std::numbers::ln2 / static_cast<double>(text_bytes) : 0;
}

EvalResult evaluate(LanguageModel& model, const std::filesystem::path& folder,
                    const std::string& split_name, const EvalOptions& options) {
  const Dataset dataset = read_dataset(folder);
  const Split& split = split_named(dataset, split_name);
  NIBBLE_CHECK(split.tokens > 1, "eval", "{}: the split '{}' is empty", folder.string(),
               split_name);
  const std::int64_t length = options.sequence ? options.sequence : model.context();
  TokenLoader loader(shard_paths(folder, split), {.batch = options.batch,
                                                  .length = length,
                                                  .vocab_size = model.vocab(),
                                                  .order = WindowOrder::Sequential});
  const ForwardScope scope(ForwardContext{});
  const Device device = parameters(model).front()->device();
  EvalResult result;
  StratumCursor strata(split);
  std::int64_t batches = 0;
  while (!loader.done() && (options.max_batches == 0 || batches++ < options.max_batches)) {
    const Batch& batch = loader.next();
    Tensor ids, targets;
    {
      const MemoryScope memory("batch");
      ids = Tensor::from(batch.inputs, {options.batch, length}, device);
      targets = Tensor::from(batch.targets, {options.batch, length}, device);
    }
    const MemoryScope memory("activations");
    const std::vector<float> losses = model.token_losses(ids, targets).to_vector();
    for (std::size_t i = 0; i < losses.size(); ++i) {
      if (batch.targets[i] == kNoTarget) continue;
      const auto row = static_cast<std::int64_t>(i) / length,
                 column = static_cast<std::int64_t>(i) % length;
      result.all.nats += static_cast<double>(losses[i]);
      ++result.all.tokens;
      // The target stands one place after its input.
      const std::int64_t place = batch.begins[static_cast<std::size_t>(row)] + column + 1;
      if (const std::string* source = strata.at(place)) {
        EvalResult::Part& part = result.strata[*source];
        part.nats += static_cast<double>(losses[i]);
        ++part.tokens;
      }
    }
  }
  if (loader.done()) {
    result.all.text_bytes = split.text_bytes;
    for (const Stratum& s : split.strata) result.strata[s.source].text_bytes = s.text_bytes;
  } else {
    result.strata.clear();
  }
  return result;
}

}  // namespace nibble::train
