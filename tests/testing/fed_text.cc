#include "tests/testing/fed_text.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/model/gguf_file.h"
#include "gtest/gtest.h"
#include "tests/testing/static_rules.h"
#include "tests/testing/tiny_engine.h"

namespace sparseserve::testing {
namespace {

// [tokens][key]: what a row sees by a pattern's rule.
std::vector<std::vector<bool>> SeenBy(const PatternSpec& pattern, int tokens,
                                      int prompt) {
  std::vector<std::vector<bool>> seen(tokens, std::vector<bool>(tokens));
  for (int row = 0; row < tokens; ++row) {
    for (const auto& key :
         StaticRuleKeys(pattern, {row, row >= prompt, prompt})) {
      seen[row][key.key] = true;
    }
  }
  return seen;
}

}  // namespace

FedText Feed(Engine& engine, const std::vector<TokenId>& tokens, int prompt,
             const AttentionChoice* choice, int chunk, KeptBlocks* kept) {
  if (chunk == 0) chunk = prompt;
  Stream stream(tokens, /*first_page=*/0);
  FedText fed;
  while (stream.done < static_cast<int>(tokens.size())) {
    const bool decodes = stream.done >= prompt;
    const int count = decodes ? 1 : std::min(chunk, prompt - stream.done);
    std::vector<float> logits;
    StepPlan plan;
    plan.slices.push_back(NextSlice(stream, count, logits));
    plan.slices[0].phase = decodes ? Phase::kDecode : Phase::kPrefill;
    plan.slices[0].prompt = absl::MakeConstSpan(tokens).first(prompt);
    plan.slices[0].attention = choice;
    plan.slices[0].kept_blocks = kept;
    const StepResult result = engine.Step(plan).value();
    EXPECT_EQ(result.slices[0].status, absl::OkStatus());
    fed.blocks.computed += result.slices[0].blocks.computed;
    fed.blocks.allowed += result.slices[0].blocks.allowed;
    fed.logits.insert(fed.logits.end(), logits.begin(), logits.end());
    stream.done += count;
  }
  return fed;
}

std::vector<std::vector<double>> ReferenceLogitsOf(
    const TinyModel& model, const std::vector<TokenId>& tokens, int prompt,
    const std::vector<PatternSpec>& patterns,
    const std::vector<int>& pattern_of,
    const ReferenceTransformer::CorrectedBy& corrected) {
  std::vector<std::vector<std::vector<bool>>> seen;
  for (const PatternSpec& pattern : patterns) {
    seen.push_back(SeenBy(pattern, static_cast<int>(tokens.size()), prompt));
  }
  const std::string bytes = model.Build();
  const auto file =
      GgufFile::Parse(
          absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()),
                              bytes.size()))
          .value();
  return ReferenceTransformer(*file).Logits(
      tokens,
      [&](int layer, int kv_head, int row, int column) -> bool {
        return seen[pattern_of[layer * model.kv_heads + kv_head]][row][column];
      },
      corrected);
}

void ExpectLogitsEqual(const std::vector<float>& found,
                       const std::vector<std::vector<double>>& wanted,
                       OracleReport* report) {
  constexpr int kVocab = TinyModel::kVocabSize;
  ASSERT_EQ(found.size(), wanted.size() * kVocab);
  if (report != nullptr) report->AddCase();
  for (size_t row = 0; row < wanted.size(); ++row) {
    const auto [low, high] =
        std::minmax_element(wanted[row].begin(), wanted[row].end());
    double worst = 0;
    for (int i = 0; i < kVocab; ++i) {
      const double error = std::abs(found[row * kVocab + i] - wanted[row][i]);
      ASSERT_LE(error, 1e-4 * (*high - *low))
          << "row " << row << ", logit " << i;
      worst = std::max(worst, error);
    }
    if (report != nullptr) report->AddRow(worst / (*high - *low));
  }
}

}  // namespace sparseserve::testing
