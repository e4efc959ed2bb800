#include "tests/server/rpc/sample_model.h"

#include <string>
#include <vector>

#include "tests/testing/fake_chat_template.h"

namespace sparseserve::testing {
namespace {

ServedModel Describe(const Tokenizer& tokenizer, const ChatTemplate* chat) {
  ServedModel model{.name = "models/sample",
                    .info = {},
                    .compute_dtype = "f32",
                    .tokenizer = tokenizer,
                    .chat_template = chat};
  model.info.name = "Sample";
  model.info.architecture = "llama";
  model.info.context_tokens = 100;
  model.info.layers = 4;
  model.info.kv_heads = 2;
  model.info.vocab_size = tokenizer.vocab_size();
  model.max_request_tokens = 100;
  model.max_prompt_tokens = 99;
  model.default_max_output_tokens = 16;
  model.max_prompt_bytes = 99 * LongestTokenBytes(tokenizer);
  return model;
}

}  // namespace

SampleModel::SampleModel()
    : tokenizer_({"ab", "\xE2\x82"}),
      chat_template_(std::make_unique<FakeChatTemplate>()),
      model_(Describe(tokenizer_, chat_template_.get())),
      without_chat_(Describe(tokenizer_, nullptr)) {}

}  // namespace sparseserve::testing
