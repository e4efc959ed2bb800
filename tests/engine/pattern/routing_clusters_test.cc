#include "engine/pattern/routing_clusters.h"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// One head of two dimensions.
struct Given {
  std::vector<float> queries, keys, centroids;
  std::vector<bool> is_real;

  RoutingVectors Vectors() const {
    const auto tokens = static_cast<int64_t>(is_real.size());
    return {.heads = 1,
            .head_dim = 2,
            .is_real = is_real,
            .queries = {queries.data(), tokens, 2},
            .keys = {keys.data(), tokens, 2},
            .centroids = centroids};
  }
};

Given Four() {
  return {.queries = {1, 0, 0, 9, 0.6f, 0.8f, -1, 0},
          .keys = {0, 1, 5, 0, 0, 1, 3, 0},
          .centroids = {1, 0, 0, 2},
          .is_real = std::vector<bool>(4, true)};
}

std::string ErrorOf(const RoutingPattern& pattern,
                    const RoutingVectors& vectors) {
  return std::string(
      ChooseRoutingClusters(pattern, vectors).status().message());
}

TEST(RoutingClustersTest, TakeTheNearestDirections) {
  const Given given = Four();
  const RoutingClusters chosen =
      ChooseRoutingClusters({.capacity = 2}, given.Vectors()).value();
  EXPECT_EQ(chosen.clusters, 2);
  EXPECT_EQ(chosen.taken, 2);
  // Lengths do not count: query 1 is nine times as long as query 2.
  EXPECT_THAT(chosen.queries, ElementsAre(0, 2, 1, 2));
  EXPECT_THAT(chosen.keys, ElementsAre(1, 3, 0, 2));
}

TEST(RoutingClustersTest, OfEqualsTakeTheEarlier) {
  Given given = Four();
  for (int i = 0; i < 8; ++i) given.keys[i] = i % 2 == 0 ? 1 : 0;
  given.queries.assign(8, 0);
  const RoutingClusters chosen =
      ChooseRoutingClusters({.capacity = 3}, given.Vectors()).value();
  EXPECT_THAT(chosen.keys, ElementsAre(0, 1, 2, 0, 1, 2));
  EXPECT_THAT(chosen.queries, ElementsAre(0, 1, 2, 0, 1, 2));
}

TEST(RoutingClustersTest, TakeNoPadding) {
  Given given = Four();
  given.is_real = {false, true, true, false};
  const RoutingClusters chosen =
      ChooseRoutingClusters({.capacity = 3}, given.Vectors()).value();
  EXPECT_EQ(chosen.taken, 2);
  EXPECT_THAT(chosen.queries, ElementsAre(1, 2, 1, 2));
  EXPECT_THAT(chosen.keys, ElementsAre(1, 2, 1, 2));
  given.is_real.assign(4, false);
  EXPECT_THAT(ChooseRoutingClusters({}, given.Vectors()).value().queries,
              IsEmpty());
}

TEST(RoutingClustersTest, RefuseWhatDoesNotFit) {
  const Given given = Four();
  EXPECT_EQ(ErrorOf({}, given.Vectors()), "");
  EXPECT_EQ(ErrorOf({.capacity = 0}, given.Vectors()),
            "routing: capacity is 0; allowed: 1 to 1048576");
  RoutingVectors wrong = given.Vectors();
  wrong.centroids = wrong.centroids.first(3);
  EXPECT_EQ(ErrorOf({}, wrong),
            "routing: centroids of 3 elements; allowed: a multiple of heads * "
            "head_dim, 2");
  wrong.centroids = {};
  EXPECT_THAT(ErrorOf({}, wrong), HasSubstr("centroids of 0 elements"));
  wrong = given.Vectors();
  wrong.keys.rows = 3;
  EXPECT_EQ(ErrorOf({}, wrong), "routing: keys are 3 x 2, not 4 x 2");
  wrong = given.Vectors();
  wrong.head_dim = 0;
  EXPECT_EQ(ErrorOf({}, wrong), "routing: head_dim is 0; allowed: 1 to 1024");
  wrong = given.Vectors();
  wrong.heads = 0;
  EXPECT_THAT(ErrorOf({}, wrong), HasSubstr("0 heads"));
  for (const float bad : {NAN, INFINITY}) {
    Given spoilt = given;
    spoilt.queries[5] = bad;
    EXPECT_THAT(ErrorOf({}, spoilt.Vectors()),
                HasSubstr("routing: queries, row 2, column 1 is "));
    spoilt = given;
    spoilt.centroids[0] = bad;
    EXPECT_THAT(ErrorOf({}, spoilt.Vectors()),
                HasSubstr("routing: centroids, row 0, column 0 is "));
  }
}

TEST(RoutingClustersTest, RefuseProductsThatAreTooLarge) {
  // Nothing of these sizes is read: they are refused for their product.
  const std::vector<float> centroids(1 << 16);
  const std::vector<bool> real(1 << 19, true);
  for (const int32_t head_dim : {1, 64}) {
    EXPECT_EQ(ErrorOf({}, {.heads = 1,
                           .head_dim = head_dim,
                           .is_real = real,
                           .centroids = centroids}),
              absl::StrCat("routing: ", 65536 / head_dim,
                           " clusters of 1 heads of ", head_dim,
                           " elements for 524288 tokens; allowed: "
                           "17179869184 of their product"));
  }
  EXPECT_EQ(CheckRoutingSize({.heads = 4,
                              .clusters = 1 << 10,
                              .tokens = 1 << 13,
                              .taken = 1 << 13})
                .message(),
            "routing: 33554432 slots of queries, over all heads; allowed: "
            "16777216");
  EXPECT_EQ(
      CheckRoutingSize(
          {.heads = 1, .clusters = 1, .tokens = 1 << 17, .taken = 1 << 17})
          .message(),
      "routing: 4194304 blocks to list, over all tiles; allowed: "
      "1048576");
  EXPECT_EQ(CheckRoutingSize({.heads = 1, .tokens = 4}).message(),
            "routing: 0 clusters; allowed: 1 to 1048576");
}

}  // namespace
}  // namespace sparseserve
