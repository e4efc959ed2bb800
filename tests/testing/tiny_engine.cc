#include "tests/testing/tiny_engine.h"

#include <iostream>
#include <random>
#include <utility>

#include "engine/base/check.h"

namespace sparseserve::testing {

std::vector<TokenId> RandomTokens(int count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = random() % 256;
  return tokens;
}

Stream::Stream(std::vector<TokenId> tokens, PageId first_page)
    : id(first_page), tokens(std::move(tokens)) {
  for (PageId page = first_page + 7; page >= first_page; --page) {
    pages.push_back(page);
  }
}

StepSlice NextSlice(const Stream& stream, int count,
                    std::vector<float>& logits) {
  StepSlice slice;
  slice.sequence = stream.id;
  slice.phase =
      count == 1 && stream.done > 0 ? Phase::kDecode : Phase::kPrefill;
  slice.tokens = absl::MakeConstSpan(stream.tokens).subspan(stream.done, count);
  slice.first_position = stream.done;
  slice.pages = stream.pages;
  logits.resize(static_cast<size_t>(count) * TinyModel::kVocabSize);
  slice.all_logits = absl::MakeSpan(logits);
  return slice;
}

Engine::Options ExactOptions() {
  Engine::Options options;
  options.compute_dtype = "f32";
  options.threads = 2;
  options.kv_cache_bytes = 64 << 20;
  return options;
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(
    const std::string& file_bytes, Engine::Options options) {
  const TestFile file(file_bytes);  // may go once it is mapped
  options.model_path = file.path();
  return Engine::Create(std::move(options));
}

std::unique_ptr<Engine> MakeEngine(const TinyModel& model,
                                   Engine::Options options) {
  auto engine = CreateEngine(model.Build(), std::move(options));
  if (!engine.ok()) std::cerr << engine.status() << std::endl;
  SPARSESERVE_CHECK(engine.ok());
  return std::move(engine).value();
}

std::vector<float> RunAlone(Engine& engine, Stream& stream, int count) {
  std::vector<float> logits;
  const absl::Status status =
      SliceStatus(engine, NextSlice(stream, count, logits));
  SPARSESERVE_CHECK(status.ok());
  stream.done += count;
  return logits;
}

absl::Status SliceStatus(Engine& engine, const StepSlice& slice) {
  const auto result = engine.Step({{slice}});
  SPARSESERVE_CHECK(result.ok());
  return result->slices[0].status;
}

}  // namespace sparseserve::testing
