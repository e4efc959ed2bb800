#include "engine/pattern/axial_passes.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/encoder_rules.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/pass_keys.h"

namespace sparseserve {
namespace {

using testing::AxialRule;
using testing::DifferenceFromRule;
using ::testing::HasSubstr;

int64_t PlacesOf(const std::vector<int32_t>& shape) {
  int64_t places = 1;
  for (const int32_t extent : shape) places *= extent;
  return places;
}

TEST(AxialPassesTest, ShowWhatTheRuleShowsAlongEveryAxis) {
  testing::OracleReport report("axial", "sets");
  const std::vector<std::vector<int32_t>> shapes = {
      {1},      {63},       {200},        {1, 1},
      {8, 8},   {7, 9},     {3, 70},      {70, 3},
      {1, 130}, {130, 1},   {2, 3, 4},    {5, 7, 6},
      {64, 3},  {3, 1, 65}, {2, 3, 2, 5}, {1, 2, 1, 2, 1, 2, 1, 2}};
  for (const std::vector<int32_t>& shape : shapes) {
    const int64_t places = PlacesOf(shape);
    // None, every third, all but the last, all but the first.
    for (const int padding : {0, 1, 2, 3}) {
      std::vector<bool> real(places, padding < 2);
      for (int64_t i = 0; i < places && padding == 1; i += 3) real[i] = false;
      if (padding == 2) real.back() = true;
      if (padding == 3) real.front() = true;
      for (size_t axis = 0; axis < shape.size(); ++axis) {
        for (const bool is_causal : {false, true}) {
          const AxialPattern pattern = {.axis = static_cast<int32_t>(axis),
                                        .is_causal = is_causal};
          const AxialRule rule = {
              {shape.begin(), shape.end()}, pattern.axis, is_causal, real};
          const AttentionPasses passes =
              AxialPasses(pattern, {2, shape, real}).value();
          ASSERT_EQ(passes.Validate(), absl::OkStatus());
          report.AddCase();
          for (const int32_t head : {0, 1}) {
            report.AddRows(places, 0);
            EXPECT_EQ(
                DifferenceFromRule(passes, head, real,
                                   [&](int64_t row) { return rule.Keys(row); }),
                "")
                << ::testing::PrintToString(shape) << " axis " << axis
                << " padding " << padding << " causal " << is_causal;
          }
        }
      }
    }
  }
}

TEST(AxialPassesTest, VisitOnlyBlocksOfTheLines) {
  const std::vector<bool> real(128 * 128, true);
  for (const int32_t axis : {0, 1}) {
    const AttentionPasses passes =
        AxialPasses({.axis = axis}, {3, {128, 128}, real}).value();
    // Two blocks a line, all of them whole, in one list for all heads.
    const BlockLayout& layout = passes.passes[0].layout;
    EXPECT_EQ(layout.lists(), 256);
    EXPECT_EQ(layout.full_blocks.size(), 512);
    EXPECT_EQ(layout.partial_blocks.size(), 0);
  }
}

TEST(AxialPassesTest, RefuseWhatDoesNotFit) {
  const auto error = [](const AxialPattern& pattern, const AxialGrid& grid) {
    return std::string(AxialPasses(pattern, grid).status().message());
  };
  const std::vector<bool> real(6, true);
  EXPECT_EQ(error({}, {1, {2, 3}, real}), "");
  EXPECT_EQ(error({.axis = 2}, {1, {2, 3}, real}),
            "axial: axis is 2; allowed: 0 to 1 of a grid of 2 axes");
  EXPECT_EQ(error({.axis = -1}, {1, {2, 3}, real}),
            "axial: axis is -1; allowed: 0 to 7");
  EXPECT_EQ(error({}, {1, {}, {}}), "axial: a grid of 0 axes; allowed: 1 to 8");
  EXPECT_EQ(error({}, {1, std::vector<int32_t>(9, 1), {true}}),
            "axial: a grid of 9 axes; allowed: 1 to 8");
  EXPECT_EQ(error({}, {1, {2, 0}, {}}),
            "axial: axis 1 has 0 places; allowed: 1 to 524288");
  EXPECT_EQ(error({}, {1, {1 << 20, 1 << 20}, {}}),
            "axial: axis 1 has 1048576 places; allowed: 1 to 1");
  EXPECT_EQ(error({}, {1, {2, 3}, {true}}),
            "axial: 1 tokens for a grid of 6 places");
  EXPECT_THAT(error({}, {0, {2, 3}, real}), HasSubstr("0 heads"));
  EXPECT_EQ(error({}, {1, {1 << 17}, std::vector<bool>(1 << 17, true)}),
            "axial: 4194304 blocks to list, over all tiles; allowed: 1048576");
}

}  // namespace
}  // namespace sparseserve
