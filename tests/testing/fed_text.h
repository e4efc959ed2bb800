#pragma once

#include <vector>

#include "engine/engine.h"
#include "engine/pattern/attention_choice.h"
#include "tests/testing/oracle_report.h"
#include "tests/testing/reference_transformer.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve::testing {

// A text through the engine's door, and what a reference says of it. Its first
// `prompt` tokens are a prompt, the others output.
struct FedText {
  std::vector<float> logits;  // [tokens, vocab]
  AttentionBlocks blocks;
};

// The prompt in chunks, by default in one, then the other tokens one by one.
// `choice` may be null: dense. `kept` is StepSlice::kept_blocks.
FedText Feed(Engine& engine, const std::vector<TokenId>& tokens, int prompt,
             const AttentionChoice* choice, int chunk = 0,
             KeptBlocks* kept = nullptr);

// [tokens][vocab]. `pattern_of` is [layers, KV heads] of `patterns`, which
// show what StaticRuleKeys() says.
std::vector<std::vector<double>> ReferenceLogitsOf(
    const TinyModel& model, const std::vector<TokenId>& tokens, int prompt,
    const std::vector<PatternSpec>& patterns,
    const std::vector<int>& pattern_of,
    const ReferenceTransformer::CorrectedBy& corrected = {});

// Every logit to 1e-4 of its row's range. Reports the worst if `report` is not
// null.
void ExpectLogitsEqual(const std::vector<float>& found,
                       const std::vector<std::vector<double>>& wanted,
                       OracleReport* report = nullptr);

}  // namespace sparseserve::testing
