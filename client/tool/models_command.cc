#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/tool/command.h"
#include "client/tool/json_line.h"

namespace sparseserve {
namespace {

std::string PatternText(const v1::SupportedPattern& pattern) {
  std::vector<std::string> parts;
  for (const int phase : pattern.phases()) {
    if (phase == v1::SupportedPattern::PREFILL) parts.push_back("prompt");
    if (phase == v1::SupportedPattern::DECODE) parts.push_back("output");
  }
  std::vector<std::string> traits = {absl::StrJoin(parts, " and ")};
  if (pattern.trained_in()) traits.push_back("trained in");
  if (!pattern.selection_causal()) traits.push_back("prompt in one step");
  if (!pattern.time_predictable()) traits.push_back("time follows content");
  if (pattern.superset()) traits.push_back("whole blocks");
  return absl::StrJoin(traits, ", ");
}

std::string ModelText(const v1::Model& model) {
  std::string text = absl::StrFormat(
      "%s\n"
      "  %s: %s, %.1f million parameters, %s weights, %s products\n"
      "  %d layers, %d heads, %d KV heads of %d, vocabulary of %d\n"
      "  context of %d tokens, KV pages of %d\n",
      model.name(), model.display_name(), model.architecture(),
      static_cast<double>(model.parameters()) * 1e-6, model.weight_dtype(),
      model.compute_dtype(), model.layers(), model.heads(), model.kv_heads(),
      model.head_dimension(), model.vocabulary_size(), model.context_tokens(),
      model.page_tokens());
  absl::StrAppend(
      &text, "  chat template: ",
      model.chat_template().empty() ? "none" : model.chat_template(), "\n");
  for (const v1::AttentionPlan& plan : model.available_plans()) {
    absl::StrAppendFormat(
        &text, "  plan %s: %s, divergence %s\n", plan.name(),
        absl::StrJoin(plan.patterns(), ", "),
        plan.has_divergence_bound()
            ? absl::StrFormat("at most %g", plan.divergence_bound())
            : "not measured");
  }
  for (const v1::SupportedPattern& pattern : model.supported_patterns()) {
    absl::StrAppend(&text, "  pattern ", pattern.name(), ": ",
                    PatternText(pattern), "\n");
  }
  return text;
}

class ModelsCommand : public Command {
 public:
  Help help() const override {
    return {.name = "models",
            .summary = "list the models that a server serves",
            .arguments = "[NAME]",
            .description = "NAME, such as models/NAME, shows only that one.",
            .example = "sparseserve models --json"};
  }

  std::vector<Flag> flags() override {
    return {{"json", "", "print each model as a line of JSON", &json_}};
  }

  absl::Status Prepare(const std::vector<std::string>& arguments) override {
    if (arguments.size() > 1) {
      return absl::InvalidArgumentError("expected at most one model's name");
    }
    if (!arguments.empty()) name_ = arguments[0];
    return absl::OkStatus();
  }

  absl::StatusOr<ExitStatus> Run(Client& client, const CallOptions& call,
                                 Terminal& terminal) override {
    std::vector<v1::Model> models;
    if (name_.empty()) {
      auto listed = client.ListModels(call);
      if (!listed.ok()) return listed.status();
      models = *std::move(listed);
    } else {
      auto model = client.GetModel(name_, call);
      if (!model.ok()) return model.status();
      models.push_back(*std::move(model));
    }
    for (const v1::Model& model : models) {
      if (!terminal.Write(json_ ? JsonLine(model) : ModelText(model))) break;
    }
    return kSuccess;
  }

 private:
  bool json_ = false;
  std::string name_;
};

}  // namespace

std::unique_ptr<Command> MakeModelsCommand() {
  return std::make_unique<ModelsCommand>();
}

}  // namespace sparseserve
