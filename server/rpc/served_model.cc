#include "server/rpc/served_model.h"

#include <algorithm>
#include <filesystem>

#include "absl/strings/ascii.h"

namespace sparseserve {
namespace {

std::string Slug(const std::string& text) {
  std::string slug;
  for (const unsigned char c : text) {
    if (absl::ascii_isalnum(c) || c == '.' || c == '_') {
      slug += absl::ascii_tolower(c);
    } else if (!slug.empty() && slug.back() != '-') {
      slug += '-';
    }
  }
  while (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug;
}

}  // namespace

ServedModel DescribeModel(const std::string& name, const Engine& engine,
                          const ServingLimits& limits) {
  const ModelInfo& info = engine.info();
  ServedModel model{.name = name,
                    .info = info,
                    .compute_dtype = engine.compute_dtype(),
                    .tokenizer = engine.tokenizer(),
                    .chat_template = engine.chat_template()};
  // One token at least is generated; a prompt that the empty queue cannot hold
  // could never be served.
  model.max_request_tokens = limits.max_request_tokens;
  model.max_prompt_tokens = static_cast<int>(std::min<int64_t>(
      limits.max_request_tokens - 1, limits.max_queued_tokens));
  model.default_max_output_tokens =
      std::min(limits.default_max_output_tokens, limits.max_request_tokens);
  model.max_prompt_bytes =
      model.max_prompt_tokens * LongestTokenBytes(engine.tokenizer());
  return model;
}

size_t LongestTokenBytes(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (TokenId token = 0; token < tokenizer.vocab_size(); ++token) {
    if (tokenizer.IsSpecial(token)) continue;
    longest = std::max(longest, tokenizer.TokenBytes(token).size());
  }
  return longest;
}

std::string ModelResourceName(const std::string& label,
                              const std::string& model_path) {
  std::string slug = Slug(label);
  if (slug.empty()) slug = Slug(std::filesystem::path(model_path).stem());
  return "models/" + (slug.empty() ? "default" : slug);
}

}  // namespace sparseserve
