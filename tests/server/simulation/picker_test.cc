#include "server/simulation/picker.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;

const absl::Time kBegin = absl::UnixEpoch();

std::vector<int> Picks(Picker& picker, const std::vector<ReplicaLoad>& loads,
                       int count, absl::Time now) {
  std::vector<int> picks(loads.size());
  for (int i = 0; i < count; ++i) ++picks[picker.Pick(loads, now)];
  return picks;
}

TEST(PickerTest, RoundRobinTakesEachInTurn) {
  RoundRobinPicker picker;
  const std::vector<ReplicaLoad> loads = {{9}, {0}, {5}};
  EXPECT_EQ(picker.Pick(loads, kBegin), 0);
  EXPECT_EQ(picker.Pick(loads, kBegin), 1);
  EXPECT_EQ(picker.Pick(loads, kBegin), 2);
  EXPECT_EQ(picker.Pick(loads, kBegin), 0);
}

TEST(PickerTest, LeastLoadedTakesTheFewestRequestsAndEqualOnesInTurn) {
  LeastLoadedPicker picker;
  EXPECT_EQ(picker.Pick({{2}, {1}, {3}}, kBegin), 1);
  EXPECT_THAT(Picks(picker, {{1}, {1}, {1}}, 9, kBegin), ElementsAre(3, 3, 3));
}

TEST(PickerTest, WeightsAreRequestsASecondOverUtilization) {
  WeightedPicker picker({});
  // The first has done three times as much, as full as the second.
  picker.Pick({{0, 0, 0}, {0, 0, 0}}, kBegin);
  const std::vector<ReplicaLoad> loads = {{0, 0.5, 30}, {0, 0.5, 10}};
  const absl::Time report = kBegin + absl::Seconds(10);
  // In the blackout each is taken in turn.
  EXPECT_THAT(Picks(picker, loads, 8, report), ElementsAre(4, 4));
  const std::vector<ReplicaLoad> later = {{0, 0.5, 60}, {0, 0.5, 20}};
  EXPECT_THAT(Picks(picker, later, 40, report + absl::Seconds(10)),
              ElementsAre(30, 10));
}

TEST(PickerTest, FullerReplicasWeighLess) {
  WeightedPicker picker({});
  picker.Pick({{0, 0, 0}, {0, 0, 0}}, kBegin);
  picker.Pick({{0, 0.9, 10}, {0, 0.3, 10}}, kBegin + absl::Seconds(10));
  EXPECT_THAT(Picks(picker, {{0, 0.9, 20}, {0, 0.3, 20}}, 40,
                    kBegin + absl::Seconds(20)),
              ElementsAre(10, 30));
}

TEST(PickerTest, OneWithoutAWeightHasTheMeanOfTheOthers) {
  WeightedPicker picker({});
  picker.Pick({{}, {}, {}}, kBegin);
  const auto loads = [](int64_t times) -> std::vector<ReplicaLoad> {
    return {{0, 0.5, 30 * times}, {0, 0.5, 10 * times}, {0, 0, 0}};
  };
  picker.Pick(loads(1), kBegin + absl::Seconds(10));
  EXPECT_THAT(Picks(picker, loads(2), 60, kBegin + absl::Seconds(20)),
              ElementsAre(30, 10, 20));
}

TEST(PickerTest, UnknownNamesAreRefused) {
  for (const char* const name : {"round_robin", "least_loaded", "orca"}) {
    EXPECT_TRUE(MakePicker(name, {}).ok());
  }
  EXPECT_EQ(MakePicker("random", {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sparseserve
