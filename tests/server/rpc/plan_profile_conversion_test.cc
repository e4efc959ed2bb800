#include "server/rpc/plan_profile_conversion.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "engine/pattern/kernel_version.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TestFolder;

const std::string kDigest(64, 'a');

// Two layers of two KV heads and a context of 1,024 tokens.
ModelInfo Model() {
  ModelInfo model;
  model.name = "tiny";
  model.layers = 2;
  model.heads = 4;
  model.kv_heads = 2;
  model.context_tokens = 1024;
  model.weights_sha256 = kDigest;
  return model;
}

std::string Band(int min_tokens, int max_tokens, double upper, double density) {
  const auto number = [](auto value) { return std::to_string(value); };
  return "min_tokens: " + number(min_tokens) +
         " max_tokens: " + number(max_tokens) +
         " sequences: 8 rows: 512 divergence_mean: 0.001 divergence_upper: " +
         number(upper) +
         " divergence_p99: 0.05 top1_agreement: 0.98 perplexity_ratio: 1.01 "
         "density_p05: 0.1 density_p50: " +
         number(density) +
         " density_p95: 0.9 "
         "recall { first_layer: 0 last_layer: 0 mean: 0.95 p5: 0.8 "
         "low_share: 0.01 text_p5: 0.9 } "
         "recall { first_layer: 1 last_layer: 1 mean: 0.9 p5: 0.7 "
         "low_share: 0.02 text_p5: 0.85 }";
}

// Three plans: two for prompts, the better one first, and one for output.
std::string Text() {
  return "format_version: 1 model { name: \"tiny\" weights_sha256: \"" +
         kDigest +
         "\" layers: 2 kv_heads: 2 context_tokens: 1024 kernel_version: " +
         std::to_string(kKernelVersion) +
         " } text { sha256: \"b\" tokens: 9000 held_out_tokens: 3000 seed: 7 } "
         "plans { name: \"fine\" pattern { peak_weight { threshold: 0.02 } } "
         "prefill { " +
         Band(64, 255, 0.002, 0.6) + " } prefill { " +
         Band(256, 1024, 0.004, 0.5) +
         " } } "
         "plans { name: \"coarse\" map { rules { pattern { xattention { } } "
         "layers: 1 kv_heads: 0 } } prefill { " +
         Band(256, 1024, 0.02, 0.3) +
         " } } "
         "plans { name: \"output\" pattern { quest { } } decode { " +
         Band(256, 1024, 0.003, 0.7) + " } }";
}

v1::PlanProfile Parse(const std::string& text) {
  v1::PlanProfile proto;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &proto));
  return proto;
}

std::string MessageOf(const absl::Status& status) {
  return std::string(status.message());
}

TEST(PlanProfileConversionTest, EverythingArrives) {
  const auto profile = ConvertPlanProfile(Parse(Text()), Model());
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->model.name, "tiny");
  EXPECT_EQ(profile->model.weights_sha256, kDigest);
  EXPECT_EQ(profile->model.context_tokens, 1024);
  EXPECT_EQ(profile->model.kernel_version, kKernelVersion);
  EXPECT_EQ(profile->text.held_out_tokens, 3000);
  EXPECT_EQ(profile->text.seed, 7);
  ASSERT_EQ(profile->plans.size(), 3);
  const CalibratedPlan& fine = profile->plans[0];
  EXPECT_EQ(fine.name, "fine");
  EXPECT_EQ(fine.choice.pattern,
            PatternSpec(PeakWeightPattern{.threshold = 0.02f}));
  EXPECT_EQ(fine.QualityOf(Phase::kPrefill, 63), nullptr);
  EXPECT_EQ(fine.QualityOf(Phase::kDecode, 300), nullptr);
  const PlanQuality* const band = fine.QualityOf(Phase::kPrefill, 256);
  ASSERT_NE(band, nullptr);
  EXPECT_EQ(band->max_tokens, 1024);
  EXPECT_EQ(band->sequences, 8);
  EXPECT_EQ(band->rows, 512);
  EXPECT_EQ(band->divergence_mean, 0.001);
  EXPECT_EQ(band->divergence_upper, 0.004);
  EXPECT_EQ(band->divergence_p99, 0.05);
  EXPECT_EQ(band->top1_agreement, 0.98);
  EXPECT_EQ(band->perplexity_ratio, 1.01);
  EXPECT_EQ(band->density_p05, 0.1);
  EXPECT_EQ(band->density_p50, 0.5);
  EXPECT_EQ(band->density_p95, 0.9);
  ASSERT_EQ(band->recall.size(), 2);
  EXPECT_EQ(band->recall[1].first_layer, 1);
  EXPECT_EQ(band->recall[1].mean, 0.9);
  EXPECT_EQ(band->recall[1].p5, 0.7);
  EXPECT_EQ(band->recall[1].low_share, 0.02);
  EXPECT_EQ(band->recall[1].text_p5, 0.85);
  const CalibratedPlan& coarse = profile->plans[1];
  ASSERT_NE(coarse.choice.map, nullptr);
  EXPECT_EQ(coarse.choice.map->at(1, 0), PatternSpec(XAttentionPattern{}));
  EXPECT_EQ(coarse.choice.map->at(0, 0), PatternSpec(DensePattern{}));
  EXPECT_NE(profile->plans[2].QualityOf(Phase::kDecode, 256), nullptr);
}

TEST(PlanProfileConversionTest, AProfileComesBackFromItsMessage) {
  const auto profile = ConvertPlanProfile(Parse(Text()), Model());
  ASSERT_TRUE(profile.ok()) << profile.status();
  const v1::PlanProfile proto = ToProto(*profile);
  const auto again = ConvertPlanProfile(proto, Model());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(
      ToProto(*again), proto));
  EXPECT_EQ(proto.plans_size(), 3);
}

struct Spoilt {
  const char* what;  // of the text
  std::string by;
  const char* named;
};

// With the first `what` replaced.
std::string Spoil(const Spoilt& row) {
  std::string text = Text();
  const size_t at = text.find(row.what);
  EXPECT_NE(at, text.npos) << row.what;
  return text.replace(at, std::string(row.what).size(), row.by);
}

TEST(PlanProfileConversionTest, AProfileOfSomethingElseIsRefused) {
  const std::vector<Spoilt> table = {
      {"format_version: 1", "format_version: 2",
       "format_version is 2, but what this program reads is 1"},
      {"weights_sha256: \"aa", "weights_sha256: \"ab", "model.weights_sha256"},
      {"kernel_version: ", "kernel_version: 9", "model.kernel_version is 9"},
      {"layers: 2", "layers: 3", "model.layers is 3, but this model's is 2"},
      {"kv_heads: 2", "kv_heads: 1", "model.kv_heads is 1"},
  };
  for (const Spoilt& row : table) {
    const auto profile = ConvertPlanProfile(Parse(Spoil(row)), Model());
    EXPECT_TRUE(absl::IsFailedPrecondition(profile.status())) << row.named;
    EXPECT_THAT(MessageOf(profile.status()), HasSubstr(row.named));
  }
}

TEST(PlanProfileConversionTest, ItTakesAWholeModelWithItsFingerprint) {
  ModelInfo nameless = Model();
  nameless.weights_sha256.clear();
  v1::PlanProfile proto = Parse(Text());
  proto.mutable_model()->clear_weights_sha256();
  EXPECT_THAT(MessageOf(ConvertPlanProfile(proto, nameless).status()),
              HasSubstr("fingerprint"));
  ModelInfo pruned = Model();
  pruned.pruned_heads = {{1, {0}}};
  EXPECT_THAT(MessageOf(ConvertPlanProfile(Parse(Text()), pruned).status()),
              HasSubstr("prune_heads"));
}

TEST(PlanProfileConversionTest, WhatCannotBeIsNamed) {
  const std::vector<Spoilt> table = {
      {"name: \"fine\"", "name: \"dense\"", "plans[0].name is \"dense\""},
      {"name: \"coarse\"", "name: \"fine\"", "plans[1].name is \"fine\""},
      {"name: \"fine\"", "name: \"Fine!\"", "plans[0].name"},
      {"pattern { peak_weight { threshold: 0.02 } }", "",
       "plans[0] must be a pattern or a map"},
      {"threshold: 0.02", "threshold: 2",
       "plans[0].pattern.peak_weight.threshold is 2"},
      {"peak_weight { threshold: 0.02 }", "strided { }",
       "plans[0].pattern is strided, which this model cannot have"},
      {"layers: 1 kv_heads: 0", "layers: 2",
       "plans[1].map.rules[0].layers[0] is 2, must be from 0 to 1"},
      {"min_tokens: 64", "min_tokens: 0",
       "plans[0].prefill[0].min_tokens is 0"},
      {"max_tokens: 255", "max_tokens: 63",
       "plans[0].prefill[0].max_tokens is 63, must be from 64 to 1024"},
      {"max_tokens: 255", "max_tokens: 256",
       "plans[0].prefill[1].min_tokens is 256, must be from 257 to 1024"},
      {"min_tokens: 64 max_tokens: 255", "min_tokens: 512 max_tokens: 600",
       "plans[0].prefill[1].min_tokens is 256"},
      {"max_tokens: 1024", "max_tokens: 1025",
       "plans[0].prefill[1].max_tokens is 1025"},
      {"sequences: 8", "sequences: 0", "plans[0].prefill[0].sequences is 0"},
      {"rows: 512", "rows: -1", "plans[0].prefill[0].rows is -1"},
      {"divergence_mean: 0.001", "divergence_mean: nan",
       "plans[0].prefill[0].divergence_mean is nan"},
      {"divergence_mean: 0.001", "divergence_mean: 0.01",
       "plans[0].prefill[0].divergence_upper is 0.002, must be from 0.01"},
      {"divergence_p99: 0.05", "divergence_p99: inf",
       "plans[0].prefill[0].divergence_p99 is inf"},
      {"top1_agreement: 0.98", "top1_agreement: 1.5",
       "plans[0].prefill[0].top1_agreement is 1.5, must be from 0 to 1"},
      {"perplexity_ratio: 1.01", "perplexity_ratio: 0",
       "plans[0].prefill[0].perplexity_ratio is 0"},
      {"density_p05: 0.1", "density_p05: 0.95",
       "plans[0].prefill[0].density_p50"},
      {"recall { first_layer: 0", "recall { first_layer: 1",
       "plans[0].prefill[0].recall[0].first_layer is 1, must be from 0 to 0"},
      {"last_layer: 0", "last_layer: 1",
       "plans[0].prefill[0].recall[1].first_layer is 1, must be from 2 to 2"},
      {"last_layer: 1", "last_layer: 0",
       "plans[0].prefill[0].recall[1].last_layer is 0, must be from 1 to 1"},
      {"low_share: 0.01", "low_share: -1",
       "plans[0].prefill[0].recall[0].low_share is -1"},
      {"prefill { min_tokens: 64", "decode { min_tokens: 64",
       "plans[0].decode is 1 bands, must be empty"},
  };
  for (const Spoilt& row : table) {
    const auto profile = ConvertPlanProfile(Parse(Spoil(row)), Model());
    EXPECT_TRUE(absl::IsInvalidArgument(profile.status())) << row.named;
    EXPECT_THAT(MessageOf(profile.status()), HasSubstr(row.named));
  }
}

TEST(PlanProfileConversionTest, APlanWithoutBandsIsRefused) {
  v1::PlanProfile proto = Parse(Text());
  proto.mutable_plans(1)->clear_prefill();
  EXPECT_THAT(MessageOf(ConvertPlanProfile(proto, Model()).status()),
              HasSubstr("plans[1] must be measured"));
}

TEST(PlanProfileConversionTest, ThereAreAtMost32Plans) {
  v1::PlanProfile proto = Parse(Text());
  const v1::CalibratedPlan last = proto.plans(2);
  while (proto.plans_size() < 32) {
    *proto.add_plans() = last;
    proto.mutable_plans()->rbegin()->set_name(
        "p" + std::to_string(proto.plans_size()));
  }
  EXPECT_TRUE(ConvertPlanProfile(proto, Model()).ok());
  *proto.add_plans() = last;
  EXPECT_THAT(MessageOf(ConvertPlanProfile(proto, Model()).status()),
              HasSubstr("33 plans, must be at most 32 plans"));
}

// Bands that only one of two plans has do not count: the first of "fine" does
// not here.
TEST(PlanProfileConversionTest, ASparserPlanIsNotTheBetterOne) {
  v1::PlanProfile proto = Parse(Text());
  v1::PlanQuality& fine = *proto.mutable_plans(0)->mutable_prefill(1);
  v1::PlanQuality& coarse = *proto.mutable_plans(1)->mutable_prefill(0);
  coarse.set_density_p50(0.55);
  EXPECT_THAT(
      MessageOf(ConvertPlanProfile(proto, Model()).status()),
      AllOf(HasSubstr("plans[1].density_p50"), HasSubstr("0.55"),
            HasSubstr("prefill of 256 to 1024 tokens"), HasSubstr("0.5")));
  coarse.set_density_p50(0.5);
  EXPECT_TRUE(ConvertPlanProfile(proto, Model()).ok());
  fine.set_divergence_upper(0.03);
  EXPECT_THAT(MessageOf(ConvertPlanProfile(proto, Model()).status()),
              HasSubstr("plans[1].divergence_upper"));
  std::swap(*proto.mutable_plans(0), *proto.mutable_plans(1));
  EXPECT_TRUE(ConvertPlanProfile(proto, Model()).ok());
}

TEST(PlanProfileConversionTest, AFileIsReadAndItsErrorsNameIt) {
  const TestFolder folder;
  const std::string path = folder.path() + "/p.textproto";
  EXPECT_TRUE(absl::IsNotFound(ReadPlanProfile(path, Model()).status()));
  folder.Write("p.textproto", Text());
  const auto profile = ReadPlanProfile(path, Model());
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->plans.size(), 3);
  folder.Write("p.textproto", "format_version: 3");
  EXPECT_THAT(MessageOf(ReadPlanProfile(path, Model()).status()),
              HasSubstr(path + ": format_version is 3"));
  folder.Write("p.textproto", "format_version: 1\nplanes { }");
  EXPECT_THAT(MessageOf(ReadPlanProfile(path, Model()).status()),
              AllOf(HasSubstr(path + ":2:"), HasSubstr("planes")));
}

TEST(PlanProfileConversionTest, FilesThatAreNoProfilesAreNotRead) {
  const TestFolder folder;
  EXPECT_THAT(MessageOf(ReadPlanProfile(folder.path(), Model()).status()),
              HasSubstr("is not a regular file"));
  EXPECT_THAT(MessageOf(ReadPlanProfile("/dev/zero", Model()).status()),
              HasSubstr("is not a regular file"));
  const std::string path = folder.path() + "/long.textproto";
  folder.Write("long.textproto", "");
  std::filesystem::resize_file(path, (16 << 20) + 1);
  EXPECT_THAT(MessageOf(ReadPlanProfile(path, Model()).status()),
              AllOf(HasSubstr("16777217 bytes"), HasSubstr("16777216")));
}

TEST(PlanProfileConversionTest, WhatIsWrittenIsRead) {
  const TestFolder folder;
  const std::string path = folder.path() + "/p.textproto";
  const auto profile = ConvertPlanProfile(Parse(Text()), Model());
  ASSERT_TRUE(profile.ok()) << profile.status();
  ASSERT_TRUE(WritePlanProfile(path, "# Of a test.\n", *profile).ok());
  const auto read = ReadPlanProfile(path, Model());
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(
      ToProto(*read), ToProto(*profile)));
  EXPECT_TRUE(absl::IsUnavailable(
      WritePlanProfile(folder.path() + "/no/p", "", *profile)));
}

}  // namespace
}  // namespace sparseserve
