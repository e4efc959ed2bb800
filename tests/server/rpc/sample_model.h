#pragma once

#include <memory>

#include "engine/tokenizer/chat_template.h"
#include "server/rpc/served_model.h"
#include "tests/testing/fake_tokenizer.h"

namespace sparseserve::testing {

// A served model of one token per byte, 259 tokens, a context of 100.
class SampleModel {
 public:
  SampleModel();

  // With and without a chat template: "role:content;" for each message.
  const ServedModel& model() const { return model_; }
  const ServedModel& without_chat() const { return without_chat_; }
  const FakeTokenizer& tokenizer() const { return tokenizer_; }

 private:
  const FakeTokenizer tokenizer_;
  const std::unique_ptr<ChatTemplate> chat_template_;
  const ServedModel model_;
  const ServedModel without_chat_;
};

}  // namespace sparseserve::testing
