#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/step.h"
#include "tests/testing/tiny_model.h"

namespace sparseserve::testing {

// `count` byte tokens.
std::vector<TokenId> RandomTokens(int count, uint32_t seed);

// A sequence in an engine: its tokens, and pages all its own.
struct Stream {
  // Takes eight pages from `first_page` on, in descending order, so that page
  // ids and positions do not agree by chance.
  Stream(std::vector<TokenId> tokens, PageId first_page);

  SequenceId id = 0;
  std::vector<TokenId> tokens;
  std::vector<PageId> pages;
  int done = 0;  // tokens whose keys and values are stored
};

// The stream's next `count` tokens; `logits` gets room for all their logits
// and must outlive the slice.
StepSlice NextSlice(const Stream& stream, int count,
                    std::vector<float>& logits);

// The exact mode, with little memory.
Engine::Options ExactOptions();
// An engine of this model file. CHECKs in the second form.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(
    const std::string& file_bytes, Engine::Options options = ExactOptions());
std::unique_ptr<Engine> MakeEngine(const TinyModel& model,
                                   Engine::Options options = ExactOptions());

// Runs the stream's next `count` tokens by themselves and returns their
// logits. CHECKs that all goes well.
std::vector<float> RunAlone(Engine& engine, Stream& stream, int count);
// Runs one slice by itself; returns its status.
absl::Status SliceStatus(Engine& engine, const StepSlice& slice);

}  // namespace sparseserve::testing
