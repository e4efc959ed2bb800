#include "server/slowed_engine.h"

#include <fstream>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace sparseserve {
namespace {

constexpr double kMaxSeconds = 60;

double SecondsIn(const std::string& path) {
  std::ifstream file(path);
  double seconds = 0;
  // Also false for NaN.
  return file >> seconds && seconds >= 0 && seconds <= kMaxSeconds ? seconds
                                                                   : 0;
}

class Slowed final : public Engine {
 public:
  Slowed(std::unique_ptr<Engine> engine, std::string file)
      : engine_(std::move(engine)), file_(std::move(file)) {}

  absl::StatusOr<StepResult> Step(const StepPlan& plan) override {
    absl::StatusOr<StepResult> result = engine_->Step(plan);
    const double delay = SecondsIn(file_);
    if (!result.ok() || delay == 0) return result;
    absl::SleepFor(absl::Seconds(delay));
    result->times.attention += delay;
    result->times.total += delay;
    return result;
  }

  const ModelInfo& info() const override { return engine_->info(); }
  const Tokenizer& tokenizer() const override { return engine_->tokenizer(); }
  const ChatTemplate* chat_template() const override {
    return engine_->chat_template();
  }
  int kv_pages() const override { return engine_->kv_pages(); }
  int max_step_tokens() const override { return engine_->max_step_tokens(); }
  MemoryUse memory() const override { return engine_->memory(); }
  std::string DeviceSummary() const override {
    return engine_->DeviceSummary() + ", slowed for a test";
  }
  std::string device() const override { return engine_->device(); }
  std::string simd() const override { return engine_->simd(); }
  std::string compute_dtype() const override {
    return engine_->compute_dtype();
  }

 private:
  const std::unique_ptr<Engine> engine_;
  const std::string file_;
};

}  // namespace

std::unique_ptr<Engine> SlowedEngine(std::unique_ptr<Engine> engine,
                                     std::string file) {
  return std::make_unique<Slowed>(std::move(engine), std::move(file));
}

}  // namespace sparseserve
