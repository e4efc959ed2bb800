#include "tests/engine/attention/attended_passes.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

namespace sparseserve {

std::vector<float> Interleaved(const std::vector<testing::Rows>& heads) {
  const int64_t width = heads[0].columns;
  std::vector<float> values(heads.size() * heads[0].values.size());
  for (size_t h = 0; h < heads.size(); ++h) {
    for (int64_t row = 0; row < heads[h].count; ++row) {
      std::copy(heads[h][row].begin(), heads[h][row].end(),
                values.begin() + (row * heads.size() + h) * width);
    }
  }
  return values;
}

HeadRows DrawHeads(int heads, int tokens, int head_dim, double query_scale,
                   uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  HeadRows drawn;
  for (auto* rows : {&drawn.q, &drawn.k, &drawn.v}) {
    for (int h = 0; h < heads; ++h) {
      testing::Rows matrix{tokens, head_dim, {}};
      for (int i = 0; i < tokens * head_dim; ++i) {
        matrix.values.push_back(normal(random) *
                                (rows == &drawn.q ? query_scale : 1));
      }
      rows->push_back(std::move(matrix));
    }
  }
  return drawn;
}

AttendedPasses Attend(Backend& backend, const AttentionPasses& passes,
                      const std::vector<HeadRows>& projections, double scale,
                      DType kv_dtype) {
  const int64_t heads = passes.heads;
  const int64_t tokens = passes.tokens;
  const int64_t head_dim = projections[0].q[0].columns;
  const int64_t width = heads * head_dim;
  std::vector<std::vector<float>> matrices;
  for (const HeadRows& rows : projections) {
    for (const auto* matrix : {&rows.q, &rows.k, &rows.v}) {
      matrices.push_back(Interleaved(*matrix));
    }
  }
  std::vector<PassProjection> views;
  for (size_t i = 0; i < matrices.size(); i += 3) {
    views.push_back({{matrices[i].data(), tokens, width},
                     {matrices[i + 1].data(), tokens, width},
                     {matrices[i + 2].data(), tokens, width}});
  }
  // Whatever was there before must not show.
  std::vector<float> output(tokens * width, NAN);
  std::vector<float> lse(tokens * heads, NAN);
  PassAttention(backend, kv_dtype)
      .Run(passes, {.projections = views,
                    .head_dim = static_cast<int32_t>(head_dim),
                    .scale = static_cast<float>(scale),
                    .output = {output.data(), tokens, width},
                    .lse = lse.data()});
  AttendedPasses attended;
  for (int64_t h = 0; h < heads; ++h) {
    testing::Rows rows{tokens, head_dim, {}};
    std::vector<double> head_lse;
    for (int64_t row = 0; row < tokens; ++row) {
      const float* from = output.data() + row * width + h * head_dim;
      rows.values.insert(rows.values.end(), from, from + head_dim);
      head_lse.push_back(lse[row * heads + h]);
    }
    attended.output.push_back(std::move(rows));
    attended.lse.push_back(std::move(head_lse));
  }
  return attended;
}

double RowError(absl::Span<const double> found,
                absl::Span<const double> wanted) {
  double difference = 0, size = 0;
  for (size_t c = 0; c < wanted.size(); ++c) {
    difference += (found[c] - wanted[c]) * (found[c] - wanted[c]);
    size += wanted[c] * wanted[c];
  }
  const double error = std::sqrt(difference / size);
  return std::isnan(error) ? HUGE_VAL : error;
}

}  // namespace sparseserve
