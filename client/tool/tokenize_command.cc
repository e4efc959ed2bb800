#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "client/tool/command.h"
#include "client/tool/json_line.h"
#include "client/tool/prompt.h"

namespace sparseserve {
namespace {

class TokenizeCommand : public Command {
 public:
  Help help() const override {
    return {.name = "tokenize",
            .summary = "show the tokens that a text becomes",
            .arguments = "[TEXT]",
            .description =
                "One token a line: its id and its text. Without "
                "TEXT and --file the text is\nread from standard "
                "input.",
            .example = "sparseserve tokenize \"Hello, world\""};
  }

  std::vector<Flag> flags() override {
    return {
        {"chat", "", "take the text as a user's message, with the template",
         &chat_},
        {"parse_special", "", "read the model's special tokens in the text",
         &parse_special_},
        {"file", "PATH", "read the text from a file; - is standard input",
         &file_},
        {"model", "NAME", "models/NAME; needed if the server has several",
         &model_},
        {"json", "", "print the reply as a line of JSON", &json_},
    };
  }

  absl::Status Prepare(const std::vector<std::string>& arguments) override {
    auto text = ReadPrompt(arguments, file_);
    if (!text.ok()) return text.status();
    request_.set_model(model_);
    request_.set_parse_special(parse_special_);
    if (chat_) {
      v1::ChatMessage* message = request_.mutable_chat()->add_messages();
      message->set_role("user");
      message->set_content(*std::move(text));
    } else {
      request_.set_text(*std::move(text));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<ExitStatus> Run(Client& client, const CallOptions& call,
                                 Terminal& terminal) override {
    auto response = client.Tokenize(request_, call);
    if (!response.ok()) return response.status();
    if (json_) {
      terminal.Write(JsonLine(*response));
      return kSuccess;
    }
    const int count =
        std::min(response->token_ids_size(), response->pieces_size());
    for (int i = 0; i < count; ++i) {
      if (!terminal.Write(
              absl::StrFormat("%7d  \"%s\"\n", response->token_ids(i),
                              absl::Utf8SafeCEscape(response->pieces(i))))) {
        break;
      }
    }
    return kSuccess;
  }

 private:
  bool chat_ = false;
  bool parse_special_ = false;
  std::string file_;
  std::string model_;
  bool json_ = false;

  v1::TokenizeRequest request_;
};

}  // namespace

std::unique_ptr<Command> MakeTokenizeCommand() {
  return std::make_unique<TokenizeCommand>();
}

}  // namespace sparseserve
