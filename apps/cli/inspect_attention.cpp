#include "apps/cli/inspect_attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "apps/cli/text_layout.h"

namespace nibble::cli {

std::vector<AttentionRow> attention_rows(LanguageModel& model, const train::TrainConfig& config,
                                         const Producers& producers, Device device, bool all) {
  std::vector<AttentionRow> rows;
  for_each_module(model, [&](Module& m) {
    const auto* attention = dynamic_cast<const SelfAttention*>(&m);
    if (!attention) return;
    AttentionProblem p;
    p.dtype = config.model.compute == "bf16" ? DType::BF16 : DType::F32;
    p.batch = config.trainer.batch;
    p.queries = p.keys = config.data.sequence ? config.data.sequence : model.context();
    p.heads = p.key_heads = attention->heads;
    p.width = attention->proj.weight.shape()[1] / attention->heads;
    p.dropout = attention->dropout_p;
    AttentionRow row{all ? m.path() : kind_of(m.path()), p,
                     producers.contains({attention->proj.path(), false}),
                     attention_route(p, AttentionPass::Forward, device),
                     attention_route(p, AttentionPass::Backward, device)};
    const bool seen = std::any_of(rows.begin(), rows.end(), [&](const AttentionRow& r) {
      return r.layer == row.layer && r.forward == row.forward && r.backward == row.backward;
    });
    if (!seen) rows.push_back(std::move(row));
  });
  return rows;
}

void print_attention(const std::vector<AttentionRow>& rows) {
  for (const AttentionRow& r : rows) {
    const AttentionProblem& p = r.problem;
    fmt::print("\n{}  [{}, {}, {}, {}]\n", r.layer, p.batch, p.queries, p.heads, p.width);
    const auto line = [](const char* pass, const AttentionRoute& route, const char* more) {
      fmt::print("{}", wrap(fmt::format("  {:<10}", pass), 12,
                            fmt::format("{}{}: {}", route.name, more, route.reason)));
    };
    line("forward", r.forward, r.encodes ? ", encodes for attn.proj" : "");
    line("backward", r.backward, "");
  }
}

Json json_of(const std::vector<AttentionRow>& rows) {
  Json json = Json::array();
  const auto of = [](const AttentionRoute& r) {
    return Json{{"kernel", r.name}, {"reason", r.reason}};
  };
  for (const AttentionRow& r : rows)
    json.push_back({{"layer", r.layer},
                    {"batch", r.problem.batch},
                    {"tokens", r.problem.queries},
                    {"heads", r.problem.heads},
                    {"width", r.problem.width},
                    {"encodes", r.encodes},
                    {"forward", of(r.forward)},
                    {"backward", of(r.backward)}});
  return json;
}

}  // namespace nibble::cli
