#include "tests/testing/fake_engine.h"

#include <utility>

namespace sparseserve::testing {

FakeEngine::FakeEngine(Options options)
    : options_(std::move(options)),
      tokenizer_(options_.pieces),
      executor_(options_.kv_pages, options_.max_step_tokens) {
  info_.name = "Fake";
  info_.architecture = "fake";
  info_.weight_dtype = "F32";
  info_.parameters = 7;
  info_.context_tokens = options_.context_tokens;
  info_.vocab_size = tokenizer_.vocab_size();
  info_.layers = 2;
  info_.heads = 2;
  info_.kv_heads = 1;
  info_.head_dim = 4;
  info_.chat_template = "fake";
}

}  // namespace sparseserve::testing
