#include "server/rpc/text_message.h"

#include <vector>

#include "absl/strings/str_join.h"
#include "engine/base/str_cat.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/text_format.h"

namespace sparseserve {
namespace {

// Protobuf counts lines and columns from 0.
class TextErrors : public google::protobuf::io::ErrorCollector {
 public:
  explicit TextErrors(const std::string& name) : name_(name) {}
  void AddError(int line, int column, const std::string& message) override {
    lines_.push_back(
        StrCat(name_, ":", line + 1, ":", column + 1, ": ", message));
  }
  std::string Join() const { return absl::StrJoin(lines_, "\n"); }

 private:
  const std::string name_;
  std::vector<std::string> lines_;
};

}  // namespace

absl::Status ParseText(const std::string& text, const std::string& name,
                       google::protobuf::Message& message) {
  TextErrors errors(name);
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&errors);
  if (parser.ParseFromString(text, &message)) return absl::OkStatus();
  return absl::InvalidArgumentError(errors.Join());
}

}  // namespace sparseserve
