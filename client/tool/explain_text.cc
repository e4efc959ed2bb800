#include "client/tool/explain_text.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/tool/report_text.h"

namespace sparseserve {
namespace {

constexpr size_t kListedKeys = 8;

std::string ClassName(v1::HeadProfile::Class head_class) {
  return v1::HeadProfile::Class_IsValid(head_class)
             ? absl::AsciiStrToLower(v1::HeadProfile::Class_Name(head_class))
             : "unknown";
}

std::string ClassesText(const v1::ExplainAttentionResponse& explanation) {
  std::map<std::string, int> counts;
  for (const v1::HeadProfile& head : explanation.heads()) {
    ++counts[ClassName(head.head_class())];
  }
  return absl::StrJoin(counts, ", ", absl::PairFormatter(" "));
}

std::string HeadTable(const v1::ExplainAttentionResponse& explanation) {
  std::string text =
      absl::StrFormat("%5s %4s %-9s %7s %7s %8s %6s %6s %8s %6s %6s %7s\n",
                      "layer", "head", "class", "entropy", "keys", "distance",
                      "near", "sink", "vertical", "slash", "recall", "density");
  for (const v1::HeadProfile& head : explanation.heads()) {
    absl::StrAppendFormat(
        &text,
        "%5d %4d %-9s %7.3f %7.1f %8.1f %6.3f %6.3f %8.3f %6.3f %6.3f %7.3f\n",
        head.layer(), head.head(), ClassName(head.head_class()), head.entropy(),
        head.effective_keys(), head.mean_distance(), head.near_share(),
        head.sink_4(), head.vertical_share(), head.slash_share(), head.recall(),
        head.density());
  }
  return text;
}

std::string PieceText(const v1::ExplainAttentionResponse& explanation,
                      int position) {
  if (position < 0 || position >= explanation.pieces_size()) return "?";
  return absl::StrCat("\"", absl::Utf8SafeCEscape(explanation.pieces(position)),
                      "\"");
}

// Heads list their heaviest keys alone, so a mean over them is a least value.
std::string QueryText(const v1::ExplainAttentionResponse& explanation,
                      const v1::QueryAttention& query) {
  std::map<int, double> sums;
  for (const v1::QueryAttention::Head& head : query.heads()) {
    const int count = std::min(head.positions_size(), head.weights_size());
    for (int i = 0; i < count; ++i) sums[head.positions(i)] += head.weights(i);
  }
  std::vector<std::pair<double, int>> ordered;
  for (const auto& [position, sum] : sums) ordered.push_back({-sum, position});
  std::sort(ordered.begin(), ordered.end());
  if (ordered.size() > kListedKeys) ordered.resize(kListedKeys);
  std::string text =
      absl::StrFormat("%7d %s attends, over all heads, to\n", query.position(),
                      PieceText(explanation, query.position()));
  for (const auto& [negative_sum, position] : ordered) {
    absl::StrAppendFormat(&text, "%15d %s %.4f\n", position,
                          PieceText(explanation, position),
                          -negative_sum / query.heads_size());
  }
  return text;
}

}  // namespace

std::string ExplainText(const v1::ExplainAttentionResponse& explanation) {
  std::string text;
  const auto line = [&text](absl::string_view name, absl::string_view value) {
    absl::StrAppendFormat(&text, "%-10s %s\n", name, value);
  };
  line("model", explanation.model());
  line("prompt", absl::StrCat(explanation.token_ids_size(), " tokens, ",
                              explanation.sampled_rows(), " rows sampled"));
  line("attention", AttentionText(explanation.attention()));
  line("time",
       absl::StrCat("prompt with measuring ",
                    FormatTime(explanation.timings().prefill()), ", total ",
                    FormatTime(explanation.timings().total())));
  line("classes", ClassesText(explanation));
  line("request", explanation.request_id());
  absl::StrAppend(&text, "\n", HeadTable(explanation));
  for (const v1::QueryAttention& query : explanation.queries()) {
    absl::StrAppend(&text, "\n", QueryText(explanation, query));
  }
  return text;
}

}  // namespace sparseserve
