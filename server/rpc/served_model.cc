#include "server/rpc/served_model.h"

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <utility>

#include "absl/strings/ascii.h"
#include "engine/base/quoted.h"
#include "engine/base/str_cat.h"
#include "server/rpc/explanation.h"

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

ServedModel DescribeModel(const Engine& engine, ServedModelOptions options) {
  const ModelInfo& info = engine.info();
  const int max_request_tokens = options.max_request_tokens;
  ServedModel model{.name = std::move(options.name),
                    .info = info,
                    .compute_dtype = engine.compute_dtype(),
                    .tokenizer = engine.tokenizer(),
                    .chat_template = engine.chat_template()};
  model.max_request_tokens = max_request_tokens;
  // One token at least is generated.
  model.max_prompt_tokens = max_request_tokens - 1;
  model.default_max_output_tokens =
      std::min(options.default_max_output_tokens, max_request_tokens - 1);
  model.max_prompt_bytes =
      model.max_prompt_tokens * LongestTokenBytes(engine.tokenizer());
  model.max_step_tokens = options.max_step_tokens;
  if (options.explains) {
    model.max_explained_tokens =
        MaxExplainedTokens(info, model.max_prompt_tokens);
  }
  std::move(options.plans.begin(), options.plans.end(),
            std::back_inserter(model.plans));
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

absl::StatusOr<std::string> ModelResourceName(const std::string& label,
                                              const std::string& model_path) {
  if (label.empty()) {
    std::filesystem::path path(model_path);
    if (!path.has_filename()) path = path.parent_path();  // "directory/"
    // Other dots are of versions and sizes: "Qwen2.5-0.5B".
    const bool is_file = path.extension() == ".gguf";
    const std::string slug = Slug(is_file ? path.stem() : path.filename());
    return StrCat("models/", slug.empty() ? "default" : slug);
  }
  const bool plain =
      label.size() <= 128 &&
      std::all_of(label.begin(), label.end(), [](unsigned char c) {
        return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
      });
  if (plain) return StrCat("models/", label);
  return absl::InvalidArgumentError(
      StrCat("--model_name=", Quoted(label),
             " must be 1 to 128 letters, digits, '.', '_' and '-'"));
}

}  // namespace sparseserve
