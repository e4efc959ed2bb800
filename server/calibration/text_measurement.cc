#include "server/calibration/text_measurement.h"

#include <algorithm>
#include <cmath>

#include "engine/base/check.h"
#include "server/calibration/sample_statistics.h"

namespace sparseserve {
namespace {

constexpr double kLowRecall = 0.5;
// Of what a file says: more digits would be noise.
constexpr int kDigits = 4;

double Rounded(double value) {
  if (value == 0) return 0;
  const double scale =
      std::pow(10.0, kDigits - 1 - std::floor(std::log10(std::abs(value))));
  return std::round(value * scale) / scale;
}

// Upwards: a bound is not to be rounded below itself.
double RoundedUp(double value) {
  const double rounded = Rounded(value);
  return rounded >= value ? rounded : Rounded(value * (1 + 5e-4));
}

double RoundedShare(double value) {
  return Rounded(std::clamp(value, 0.0, 1.0));
}

std::vector<double> Widened(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

RecallReference SummariseRecall(absl::Span<const BandMeasurement* const> texts,
                                size_t group, const LayerGroup& layers) {
  std::vector<double> rows;
  std::vector<double> of_texts;
  for (const BandMeasurement* text : texts) {
    SPARSESERVE_CHECK(group < text->recalls.size());
    const std::vector<double> own = Widened(text->recalls[group]);
    if (own.empty()) continue;
    rows.insert(rows.end(), own.begin(), own.end());
    of_texts.push_back(MeanOf(own));
  }
  RecallReference reference = {.first_layer = layers.first_layer,
                               .last_layer = layers.end_layer - 1};
  if (rows.empty()) return reference;
  const auto low = std::count_if(rows.begin(), rows.end(), [](double recall) {
    return recall < kLowRecall;
  });
  reference.mean = RoundedShare(MeanOf(rows));
  reference.p5 = RoundedShare(QuantileOf(rows, 0.05));
  reference.low_share =
      RoundedShare(static_cast<double>(low) / static_cast<double>(rows.size()));
  reference.text_p5 = RoundedShare(QuantileOf(of_texts, 0.05));
  return reference;
}

}  // namespace

std::vector<LayerGroup> GroupLayers(int layers, int groups) {
  const int count = std::min(layers, groups);
  std::vector<LayerGroup> grouped;
  grouped.reserve(count);
  for (int i = 0; i < count; ++i) {
    grouped.push_back({i * layers / count, (i + 1) * layers / count});
  }
  return grouped;
}

PlanQuality SummariseBand(absl::Span<const BandMeasurement* const> texts,
                          const std::vector<LayerGroup>& groups, int min_tokens,
                          int max_tokens) {
  SPARSESERVE_CHECK(!texts.empty());
  std::vector<double> rows;
  std::vector<double> means;
  std::vector<double> densities;
  int64_t same_top = 0;
  int64_t targets = 0;
  double lost = 0;
  for (const BandMeasurement* text : texts) {
    const std::vector<double> own = Widened(text->divergences);
    rows.insert(rows.end(), own.begin(), own.end());
    means.push_back(MeanOf(own));
    densities.push_back(text->density);
    same_top += text->same_top;
    targets += text->targets;
    lost += text->dense_log_probability - text->log_probability;
  }
  PlanQuality quality;
  quality.min_tokens = min_tokens;
  quality.max_tokens = max_tokens;
  quality.sequences = static_cast<int>(texts.size());
  quality.rows = static_cast<int64_t>(rows.size());
  quality.divergence_mean = Rounded(MeanOf(means));
  quality.divergence_upper =
      std::max(RoundedUp(UpperBoundOfMean(means)), quality.divergence_mean);
  quality.divergence_p99 = Rounded(QuantileOf(rows, 0.99));
  quality.top1_agreement = RoundedShare(static_cast<double>(same_top) /
                                        static_cast<double>(rows.size()));
  quality.perplexity_ratio = Rounded(
      std::exp(lost / static_cast<double>(std::max<int64_t>(targets, 1))));
  quality.density_p05 = RoundedShare(QuantileOf(densities, 0.05));
  quality.density_p50 = RoundedShare(QuantileOf(densities, 0.5));
  quality.density_p95 = RoundedShare(QuantileOf(densities, 0.95));
  for (size_t group = 0; group < groups.size(); ++group) {
    quality.recall.push_back(SummariseRecall(texts, group, groups[group]));
  }
  return quality;
}

}  // namespace sparseserve
