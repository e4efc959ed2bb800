#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/served_model.h"
#include "server/scheduling/request.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// What callers send in place of tokens, and the limits on it. Errors carry
// google.rpc details. Pure; any thread.

// INVALID_ARGUMENT or NOT_FOUND unless `name` is the model's or, where
// `may_be_empty`, empty.
absl::Status CheckModelName(std::string_view field, const std::string& name,
                            const ServedModel& model, bool may_be_empty);

void CheckTokenIds(std::string_view field,
                   const google::protobuf::RepeatedField<int32_t>& ids,
                   const ServedModel& model, FieldErrors& errors);

// The form of the prompt, not its length.
void CheckPrompt(const v1::GenerateOptions& options, const ServedModel& model,
                 FieldErrors& errors);

// The bytes that EncodePrompt() will read, 0 for token ids; PROMPT_TOO_LONG if
// they cannot fit the context, whatever they say.
absl::StatusOr<size_t> PromptBytes(const v1::GenerateOptions& options,
                                   const ServedModel& model);

// The prompt of checked options as tokens. Costs time proportional to a text's
// length, until it is known not to fit.
absl::StatusOr<std::vector<TokenId>> EncodePrompt(
    const v1::GenerateOptions& options, const ServedModel& model);

// Gives `request` its prompt and settles the output limits; an error if they
// do not fit the context together, or the prompt does not fit one step and the
// attention of `request` needs that.
absl::Status SetPrompt(std::vector<TokenId> prompt, const ServedModel& model,
                       Request& request);

// Checks the input of Tokenize; the bytes that EncodeInput() will read.
absl::StatusOr<size_t> CheckInput(const v1::TokenizeRequest& request,
                                  const ServedModel& model);

// Most tokens that Tokenize answers: the context, or more where that is short.
int MaxTokenizedTokens(const ServedModel& model);

// The checked input of Tokenize as tokens. It may be longer than the context,
// but not than max_prompt_bytes or MaxTokenizedTokens(): PROMPT_TOO_LONG, which
// costs no more than reading up to that limit.
absl::StatusOr<std::vector<TokenId>> EncodeInput(
    const v1::TokenizeRequest& request, const ServedModel& model);

// The bytes of all tokens of Detokenize.
absl::StatusOr<std::string> DecodeTokens(const v1::DetokenizeRequest& request,
                                         const ServedModel& model);

}  // namespace sparseserve
