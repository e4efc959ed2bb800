#include "server/calibration/measurement_store.h"

#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::TestFolder;

TextMeasurement Measured() {
  BandMeasurement band;
  band.divergences = {0.1f, 1e-7f / 3, 0};
  band.same_top = 2;
  band.log_probability = -1.0 / 3;
  band.dense_log_probability = -0.3;
  band.targets = 3;
  band.density = 1.0 / 7;
  band.recalls = {{0.9f, 0.1f}, {}};
  return {band, band};
}

void ExpectMeasured(const TextMeasurement* found) {
  ASSERT_NE(found, nullptr);
  ASSERT_EQ(found->size(), 2);
  const BandMeasurement expected = Measured()[1];
  const BandMeasurement& band = (*found)[1];
  EXPECT_EQ(band.divergences, expected.divergences);
  EXPECT_EQ(band.same_top, expected.same_top);
  EXPECT_EQ(band.log_probability, expected.log_probability);
  EXPECT_EQ(band.dense_log_probability, expected.dense_log_probability);
  EXPECT_EQ(band.targets, expected.targets);
  EXPECT_EQ(band.density, expected.density);
  EXPECT_EQ(band.recalls, expected.recalls);
}

TEST(MeasurementStoreTest, WithoutAPathItIsInMemory) {
  const auto store = MeasurementStore::Open("", "p");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->FindText("a"), nullptr);
  ASSERT_TRUE((*store)->AddText("a", Measured()).ok());
  ExpectMeasured((*store)->FindText("a"));
  EXPECT_EQ((*store)->FindOptions("a"), nullptr);
}

TEST(MeasurementStoreTest, WhatWasAddedIsThereAgain) {
  const TestFolder folder;
  const std::string path = folder.path() + "/state";
  {
    const auto store = MeasurementStore::Open(path, "p");
    ASSERT_TRUE(store.ok()) << store.status();
    ASSERT_TRUE((*store)->AddText("a", Measured()).ok());
    ASSERT_TRUE((*store)->AddOptions("b", {{1.0 / 3, 0.1}, {1, 0}}).ok());
  }
  const auto store = MeasurementStore::Open(path, "p");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ((*store)->size(), 2);
  ExpectMeasured((*store)->FindText("a"));
  const auto* options = (*store)->FindOptions("b");
  ASSERT_NE(options, nullptr);
  ASSERT_EQ(options->size(), 2);
  EXPECT_EQ((*options)[0].cost, 1.0 / 3);
  EXPECT_EQ((*options)[0].loss, 0.1);
}

TEST(MeasurementStoreTest, ALineThatWasCutIsDropped) {
  const TestFolder folder;
  const std::string path = folder.path() + "/state";
  {
    const auto store = MeasurementStore::Open(path, "p");
    ASSERT_TRUE((*store)->AddOptions("a", {{1, 0}}).ok());
  }
  std::ofstream(path, std::ios::app) << "{\"key\": \"b\", \"opt";
  {
    const auto store = MeasurementStore::Open(path, "p");
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_EQ((*store)->size(), 1);
    ASSERT_TRUE((*store)->AddOptions("c", {{1, 0}}).ok());
  }
  const auto store = MeasurementStore::Open(path, "p");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_NE((*store)->FindOptions("c"), nullptr);
}

TEST(MeasurementStoreTest, MeasurementsOfSomethingElseAreRefused) {
  const TestFolder folder;
  const std::string path = folder.path() + "/state";
  ASSERT_TRUE(MeasurementStore::Open(path, "p").ok());
  const auto store = MeasurementStore::Open(path, "q");
  EXPECT_TRUE(absl::IsFailedPrecondition(store.status()));
  EXPECT_THAT(std::string(store.status().message()), HasSubstr(path));
}

TEST(MeasurementStoreTest, LinesThatAreNoneAreNamed) {
  const TestFolder folder;
  const std::string path = folder.path() + "/state";
  const std::vector<std::string> table = {
      "nonsense",
      "[]",
      "{\"key\": 1}",
      "{\"key\": \"a\"}",
      "{\"key\": \"a\", \"options\": [[1]]}",
      "{\"key\": \"a\", \"options\": [[1, \"x\"]]}",
      "{\"key\": \"a\", \"bands\": [{}]}",
      "{\"key\": \"a\", \"bands\": [{\"divergences\": [\"x\"], \"recalls\": "
      "[]}]}",
  };
  for (const std::string& line : table) {
    folder.Write("state", "{\"purpose\":\"p\"}\n" + line + "\n");
    const auto store = MeasurementStore::Open(path, "p");
    EXPECT_TRUE(absl::IsInvalidArgument(store.status())) << line;
    EXPECT_THAT(std::string(store.status().message()), HasSubstr("state:2"));
  }
}

TEST(MeasurementStoreTest, AFileThatCannotBeWrittenIsAnError) {
  EXPECT_TRUE(absl::IsUnavailable(
      MeasurementStore::Open("/nonexistent/state", "p").status()));
}

}  // namespace
}  // namespace sparseserve
