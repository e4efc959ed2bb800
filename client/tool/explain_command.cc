#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/tool/command.h"
#include "client/tool/explain_page.h"
#include "client/tool/explain_text.h"
#include "client/tool/json_line.h"
#include "client/tool/run_flags.h"

namespace sparseserve {
namespace {

absl::Status WriteFile(const std::string& path, const std::string& content) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << content;
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnknownError(
      absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
}

class ExplainCommand : public Command {
 public:
  Help help() const override {
    return {.name = "explain",
            .summary = "show what a model's heads attend to in a prompt",
            .arguments = "[PROMPT]",
            .description =
                "For each head: entropy, dependency distance, shares of "
                "weight on near keys, first\nkeys (sink), few keys (vertical) "
                "and few distances (slash), how many KV blocks it\nneeds, and "
                "what an attention pattern leaves of it, beside dense "
                "attention. The\nserver must have been started with "
                "--explain. Without PROMPT and --file the prompt\nis read "
                "from standard input.",
            .example =
                "sparseserve explain --file=book.txt --html=book.html\n"
                "  sparseserve explain --attention=sink_window "
                "--query=3 \"The cat sat on the mat.\""};
  }

  std::vector<Flag> flags() override {
    std::vector<Flag> flags = run_.PromptFlags();
    const auto append = [&flags](std::vector<Flag> more) {
      flags.insert(flags.end(), more.begin(), more.end());
    };
    append(run_.AttentionFlags());
    append({
        {"query", "N",
         "position of a token, from 0, whose most attended\ntokens are shown; "
         "may be repeated, ascending; default\nthe last",
         &queries_},
        {"top", "N", "so many of them in each head, 1 to 64; default 8",
         &top_keys_},
        {"html", "FILE", "write a page with heat map and curves instead",
         &html_},
        {"request_id", "TEXT", "names the request in the server's log",
         &request_id_},
        {"json", "", "print the reply as a line of JSON instead", &json_},
    });
    return flags;
  }

  absl::Status Prepare(const std::vector<std::string>& arguments) override {
    v1::GenerateOptions& options = *request_.mutable_options();
    const absl::Status run = run_.Fill(arguments, options);
    if (!run.ok()) return run;
    options.set_request_id(request_id_);
    for (const std::string& query : queries_) {
      int32_t position = 0;
      if (!absl::SimpleAtoi(query, &position)) {
        return absl::InvalidArgumentError(
            absl::StrCat("flag --query=", query, ": expected a number"));
      }
      request_.add_query_positions(position);
    }
    if (top_keys_.has_value()) request_.set_top_keys(*top_keys_);
    if (json_ && !html_.empty()) {
      return absl::InvalidArgumentError("flags --json and --html print twice");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExitStatus> Run(Client& client, const CallOptions& call,
                                 Terminal& terminal) override {
    auto explanation = client.ExplainAttention(request_, call);
    if (!explanation.ok()) return explanation.status();
    if (html_.empty()) {
      terminal.Write(json_ ? JsonLine(*explanation)
                           : ExplainText(*explanation));
      return kSuccess;
    }
    const absl::Status written = WriteFile(html_, ExplainPage(*explanation));
    if (!written.ok()) return written;
    terminal.WriteError(absl::StrCat("wrote ", html_, "\n"));
    return kSuccess;
  }

 private:
  RunFlags run_;
  std::vector<std::string> queries_;
  std::optional<int32_t> top_keys_;
  std::string html_;
  std::string request_id_;
  bool json_ = false;

  v1::ExplainAttentionRequest request_;
};

}  // namespace

std::unique_ptr<Command> MakeExplainCommand() {
  return std::make_unique<ExplainCommand>();
}

}  // namespace sparseserve
