#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/testing/fake_chat_template.h"
#include "tests/testing/fake_executor.h"
#include "tests/testing/fake_tokenizer.h"

namespace sparseserve::testing {

// A FakeExecutor with a FakeTokenizer behind the engine's door.
class FakeEngine : public Engine {
 public:
  struct Options {
    std::vector<std::string> pieces;  // of the tokenizer
    int context_tokens = 1000;
    int kv_pages = 64;
    int max_step_tokens = 512;
  };
  explicit FakeEngine(Options options);

  // To set its hooks before the first step.
  FakeExecutor& executor() { return executor_; }

  absl::StatusOr<StepResult> Step(const StepPlan& plan) override {
    return executor_.Step(plan);
  }
  const ModelInfo& info() const override { return info_; }
  const Tokenizer& tokenizer() const override { return tokenizer_; }
  const ChatTemplate* chat_template() const override { return &chat_template_; }
  int kv_pages() const override { return options_.kv_pages; }
  int max_step_tokens() const override { return options_.max_step_tokens; }
  MemoryUse memory() const override { return {1, 2, 3, 4}; }
  std::string DeviceSummary() const override { return "fake"; }
  std::string device() const override { return "cpu"; }
  std::string simd() const override { return "none"; }
  std::string compute_dtype() const override { return "f32"; }

 private:
  const Options options_;
  const FakeTokenizer tokenizer_;
  const FakeChatTemplate chat_template_;
  ModelInfo info_;
  FakeExecutor executor_;
};

}  // namespace sparseserve::testing
