#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/tool/flag_set.h"
#include "sparseserve/v1/inference_service.pb.h"

namespace sparseserve {

// Flags of the commands that run a prompt: which, on which model, and with
// which attention. An object serves one run: flags, then Fill().
class RunFlags {
 public:
  // Bound to the members of this object.
  std::vector<Flag> PromptFlags();
  std::vector<Flag> AttentionFlags();

  // Reads the prompt and sets the fields that the flags are for.
  // INVALID_ARGUMENT names a flag, or says what is wrong with the prompt.
  absl::Status Fill(const std::vector<std::string>& arguments,
                    v1::GenerateOptions& options) const;

 private:
  void SetPrompt(std::string prompt, v1::GenerateOptions& options) const;
  absl::Status SetAttention(v1::GenerateOptions& options) const;

  bool chat_ = false;
  std::string system_;
  std::string file_;
  std::string model_;
  std::string attention_;
  std::string plan_;
};

}  // namespace sparseserve
