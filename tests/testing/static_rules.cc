#include "tests/testing/static_rules.h"

#include <algorithm>
#include <set>
#include <variant>

namespace sparseserve::testing {
namespace {

// Whether a row at i sees the key at j <= i. Written so that it can be laid
// beside the papers.
struct Rule {
  int64_t i;
  int64_t j;
  const RowPlace& row;

  bool operator()(const DensePattern&) const { return true; }
  // What scores choose from.
  bool operator()(const XAttentionPattern&) const { return true; }
  bool operator()(const VerticalSlashPattern&) const { return true; }
  bool operator()(const FlexPrefillPattern&) const { return true; }
  bool operator()(const SimilarityGatedPattern&) const { return true; }
  bool operator()(const PeakWeightPattern&) const { return true; }
  bool operator()(const QuestPattern&) const { return true; }
  bool operator()(const PageTopPPattern&) const { return true; }
  bool operator()(const MobaPattern&) const { return true; }
  bool operator()(const PrunedPattern&) const { return false; }
  // Rows are corrected; what they see stays.
  bool operator()(const DeltaPattern& p) const {
    return std::visit(*this, p.base);
  }
  // What kernels may leave out of.
  bool operator()(const SkipSoftmaxPattern& p) const {
    return std::visit(*this, p.base);
  }
  bool operator()(const SlidingWindowPattern& p) const {
    return j > i - p.window_tokens;
  }
  bool operator()(const SinkWindowPattern& p) const {
    const bool is_sink = j <= p.sink_tokens - 1;
    const bool is_recent = j > i - p.window_tokens;
    return is_sink || is_recent;
  }
  bool operator()(const TriShapePattern& p) const {
    if (row.decodes) return true;
    // Query blocks of 64, the last of which holds the prompt's last token.
    const int64_t blocks = (row.prompt_tokens + 63) / 64;
    if (i >= (blocks - p.dense_blocks) * 64) return true;
    return (*this)(SinkWindowPattern{p.sink_tokens, p.window_tokens});
  }
  bool operator()(const StridedPattern& p) const {
    const bool a1 = i - p.stride < j;
    bool a2 = false;
    for (int64_t k = i; k >= 0; k -= p.stride) a2 = a2 || k == j;
    return Merge(p.part, a1, a2);
  }
  bool operator()(const FixedPattern& p) const {
    int64_t start_of_row = 0;  // of its period
    while (start_of_row + p.period_tokens <= i) start_of_row += p.period_tokens;
    const bool a1 = j >= start_of_row;
    bool a2 = j == i;  // so that no row is left without a key
    for (int64_t end = p.period_tokens; end - p.period_tokens <= j;
         end += p.period_tokens) {
      const int64_t last = end - int64_t{p.column_group} * p.columns;
      a2 = a2 || (j < last && j >= last - p.columns);
    }
    return Merge(p.part, a1, a2);
  }
  bool operator()(const DilatedWindowPattern& p) const {
    for (int64_t t = 0; t < p.window_keys && t * p.dilation <= i; ++t) {
      if (i - t * p.dilation == j) return true;
    }
    return false;
  }
  bool operator()(const ChunkedLocalPattern& p) const {
    return j >= i - i % p.chunk_tokens;
  }

  static bool Merge(FactorizedPart part, bool local, bool summary) {
    if (part == FactorizedPart::kLocal) return local;
    if (part == FactorizedPart::kSummary) return summary;
    return local || summary;
  }
};

StaticCase Case(std::string name, const PatternSpec& pattern,
                const std::vector<int>& sizes) {
  std::set<int> lengths = {1, 63, 65, 191, 333};
  for (const int size : sizes) {
    for (const int length : {size - 1, size, size + 1, 2 * size}) {
      if (length >= 1 && length <= 700) lengths.insert(length);
    }
  }
  return {std::move(name), pattern, {lengths.begin(), lengths.end()}};
}

}  // namespace

VisibleKeys StaticRuleKeys(const PatternSpec& pattern, const RowPlace& row) {
  VisibleKeys keys;
  for (int64_t j = 0; j <= row.position; ++j) {
    if (std::visit(Rule{row.position, j, row}, pattern)) {
      keys.push_back({.key = j});
    }
  }
  return keys;
}

std::vector<StaticCase> StaticCases() {
  constexpr auto kLocal = FactorizedPart::kLocal;
  constexpr auto kSummary = FactorizedPart::kSummary;
  return {
      Case("dense", DensePattern(), {64}),
      Case("sliding_window_1", SlidingWindowPattern{1}, {}),
      Case("sliding_window_100", SlidingWindowPattern{100}, {100}),
      Case("sink_window_4_100", SinkWindowPattern{4, 100}, {4, 100, 104}),
      Case("sink_window_128_64", SinkWindowPattern{128, 64}, {128, 192}),
      Case("sink_window_0_1", SinkWindowPattern{0, 1}, {}),
      Case("sink_window_70_1", SinkWindowPattern{70, 1}, {70}),
      Case("tri_shape_4_100_2", TriShapePattern{4, 100, 2}, {100, 128, 256}),
      Case("tri_shape_64_64_1", TriShapePattern{64, 64, 1}, {64, 128, 320}),
      Case("tri_shape_8_64_0", TriShapePattern{8, 64, 0}, {64}),
      Case("tri_shape_0_70_9", TriShapePattern{0, 70, 9}, {70, 640}),
      Case("strided_1", StridedPattern{1}, {}),
      Case("strided_7", StridedPattern{7}, {7}),
      Case("strided_64", StridedPattern{64}, {64}),
      Case("strided_100", StridedPattern{100}, {100}),
      Case("strided_192", StridedPattern{192}, {192}),
      Case("strided_100_local", StridedPattern{100, kLocal}, {100}),
      Case("strided_100_summary", StridedPattern{100, kSummary}, {100}),
      Case("strided_192_summary", StridedPattern{192, kSummary}, {192}),
      Case("fixed_1_1", FixedPattern{1, 1}, {}),
      Case("fixed_50_8", FixedPattern{50, 8}, {50}),
      Case("fixed_128_8", FixedPattern{128, 8}, {128}),
      Case("fixed_128_128", FixedPattern{128, 128}, {128}),
      Case("fixed_128_8_group_3", FixedPattern{128, 8, 3}, {128}),
      Case("fixed_200_70", FixedPattern{200, 70, 1}, {200}),
      Case("fixed_128_8_local", FixedPattern{128, 8, 0, kLocal}, {128}),
      Case("fixed_150_8_summary", FixedPattern{150, 8, 0, kSummary}, {150}),
      Case("dilated_window_1_70", DilatedWindowPattern{1, 70}, {70}),
      Case("dilated_window_2_60", DilatedWindowPattern{2, 60}, {60, 120}),
      Case("dilated_window_70_3", DilatedWindowPattern{70, 3}, {70, 210}),
      Case("dilated_window_130_2", DilatedWindowPattern{130, 2}, {130, 260}),
      Case("chunked_local_1", ChunkedLocalPattern{1}, {}),
      Case("chunked_local_100", ChunkedLocalPattern{100}, {100}),
      Case("chunked_local_128", ChunkedLocalPattern{128}, {128}),
  };
}

}  // namespace sparseserve::testing
