#include "engine/model/safetensors_checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <utility>

#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/hf_tensor_names.h"
#include "engine/model/hf_tokenizer.h"
#include "engine/model/mapped_file.h"

namespace sparseserve {
namespace {

constexpr std::string_view kConfigName = "config.json";
constexpr std::string_view kGenerationName = "generation_config.json";
constexpr std::string_view kHead = "output.weight";
constexpr std::string_view kTokenizerConfigName = "tokenizer_config.json";
constexpr int64_t kMaxConfigBytes = 1 << 20;
// Lists every added token, of which some models have thousands.
constexpr int64_t kMaxTokenizerConfigBytes = 16 << 20;
constexpr int64_t kMaxTokenizerBytes = 128 << 20;

// The text of a file of the directory; nothing if there is no such file.
absl::StatusOr<std::optional<std::string>> ReadText(
    const std::string& directory, std::string_view name, int64_t max_bytes) {
  const std::string path = StrCat(directory, "/", name);
  struct stat status;
  if (stat(path.c_str(), &status) != 0) return std::nullopt;
  ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const auto bytes = file.bytes();
  if (bytes.size() > static_cast<size_t>(max_bytes)) {
    return absl::InvalidArgumentError(
        StrCat(path, " has ", bytes.size(), " bytes, more than ", max_bytes));
  }
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

template <typename T>
absl::StatusOr<T> InDirectory(const std::string& path,
                              absl::StatusOr<T> result) {
  if (result.ok()) return result;
  return absl::Status(result.status().code(),
                      StrCat(path, ": ", result.status().message()));
}

absl::StatusOr<HfConfig> ReadConfig(const std::string& path) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text,
                   ReadText(path, kConfigName, kMaxConfigBytes));
  if (!text.has_value()) {
    return absl::InvalidArgumentError(
        StrCat(path, " is not a model directory: it has no ", kConfigName));
  }
  ASSIGN_OR_RETURN(HfConfig config, InDirectory(path, ReadHfConfig(*text)));
  ASSIGN_OR_RETURN(const std::optional<std::string> generation,
                   ReadText(path, kGenerationName, kMaxConfigBytes));
  if (generation.has_value()) {
    ASSIGN_OR_RETURN(
        const std::vector<TokenId> end_tokens,
        InDirectory(path,
                    ReadHfEndTokens(*generation, config.model.vocab_size)));
    config.end_tokens.insert(config.end_tokens.end(), end_tokens.begin(),
                             end_tokens.end());
  }
  return config;
}

// Buffers that old files hold and that follow from config.json.
bool FollowsFromConfig(std::string_view hf_name) {
  constexpr std::string_view kEnding = ".rotary_emb.inv_freq";
  return hf_name.size() > kEnding.size() &&
         hf_name.substr(hf_name.size() - kEnding.size()) == kEnding;
}

bool IsGemma(Architecture architecture) {
  return architecture == Architecture::kGemma2 ||
         architecture == Architecture::kGemma3;
}

bool IsNorm(std::string_view name) {
  constexpr std::string_view kEnding = "_norm.weight";
  return name.size() > kEnding.size() &&
         name.substr(name.size() - kEnding.size()) == kEnding;
}

}  // namespace

SafetensorsCheckpoint::SafetensorsCheckpoint(std::string path, HfConfig config,
                                             SafetensorsDirectory weights)
    : path_(std::move(path)),
      config_(std::move(config)),
      weights_(std::move(weights)) {}

absl::StatusOr<std::unique_ptr<SafetensorsCheckpoint>>
SafetensorsCheckpoint::Open(const std::string& path) {
  ASSIGN_OR_RETURN(HfConfig config, ReadConfig(path));
  ASSIGN_OR_RETURN(SafetensorsDirectory weights,
                   SafetensorsDirectory::Open(path));
  std::unique_ptr<SafetensorsCheckpoint> checkpoint(
      new SafetensorsCheckpoint(path, std::move(config), std::move(weights)));
  RETURN_IF_ERROR(checkpoint->NameTensors());
  return checkpoint;
}

absl::Status SafetensorsCheckpoint::NameTensors() {
  const Architecture architecture = config().architecture;
  for (const SafetensorsTensor* stored : weights_.tensors()) {
    std::optional<std::string> hf_name = stored->name;
    if (config_.has_image_half) hf_name = StripTextPrefix(stored->name);
    if (!hf_name.has_value() || FollowsFromConfig(*hf_name)) continue;
    CheckpointTensor tensor;
    // What has no use here is refused by its own name when weights load.
    tensor.name = EngineTensorName(architecture, *hf_name).value_or(*hf_name);
    // A copy of the embedding table.
    if (config_.is_tied && tensor.name == kHead) continue;
    tensor.dtype = stored->dtype;
    tensor.shape.assign(stored->shape.rbegin(), stored->shape.rend());
    if (IsGemma(architecture) && IsNorm(tensor.name)) tensor.offset = 1;
    if (!index_.emplace(tensor.name, tensors_.size()).second) {
      return absl::InvalidArgumentError(
          StrCat(stored->Title(), " is there a second time by another name, ",
                 Quoted(stored_[index_[tensor.name]]->name)));
    }
    tensors_.push_back(std::move(tensor));
    stored_.push_back(stored);
  }
  if (config_.is_tied || index_.contains(kHead)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat("tensor ", StoredName(kHead),
             " is missing, but tie_word_embeddings is false"));
}

std::string SafetensorsCheckpoint::name() const {
  std::filesystem::path path(path_);
  if (!path.has_filename()) path = path.parent_path();
  return path.filename();
}

const CheckpointTensor* SafetensorsCheckpoint::FindTensor(
    std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensors_[found->second];
}

std::string SafetensorsCheckpoint::StoredName(std::string_view name) const {
  const auto found = index_.find(name);
  if (found != index_.end()) return stored_[found->second]->name;
  return HfTensorName(config().architecture, name);
}

absl::StatusOr<const SafetensorsTensor*> SafetensorsCheckpoint::FindReadable(
    std::string_view name, size_t dimensions) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    return absl::NotFoundError(
        StrCat("the files have no tensor ", Quoted(StoredName(name))));
  }
  const SafetensorsTensor* tensor = stored_[found->second];
  if (!tensor->dtype.has_value()) {
    return absl::InvalidArgumentError(
        StrCat(tensor->Title(), " is ", Quoted(tensor->type),
               "; read from safetensors are F32, F16 and BF16"));
  }
  if (tensor->shape.size() != dimensions) {
    return absl::InvalidArgumentError(StrCat(tensor->Title(), " has shape ",
                                             tensor->ShapeText(), ", not ",
                                             dimensions, " dimensions"));
  }
  const uintptr_t address = reinterpret_cast<uintptr_t>(tensor->data);
  if (address % BlockBytes(*tensor->dtype) != 0) {
    return absl::InvalidArgumentError(StrCat(
        tensor->Title(), " does not begin at a multiple of its elements' ",
        BlockBytes(*tensor->dtype),
        " bytes; files that safetensors 0.3 or later writes do"));
  }
  return tensor;
}

absl::StatusOr<StoredMatrix> SafetensorsCheckpoint::GetMatrix(
    std::string_view name) const {
  ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, FindReadable(name, 2));
  return StoredMatrix{tensor->data, *tensor->dtype, tensor->shape[0],
                      tensor->shape[1]};
}

absl::StatusOr<StoredMatrix> SafetensorsCheckpoint::GetVector(
    std::string_view name) const {
  ASSIGN_OR_RETURN(const SafetensorsTensor* tensor, FindReadable(name, 1));
  return StoredMatrix{tensor->data, *tensor->dtype, 1, tensor->shape[0]};
}

absl::StatusOr<std::unique_ptr<Tokenizer>>
SafetensorsCheckpoint::LoadTokenizer() const {
  ASSIGN_OR_RETURN(const std::optional<std::string> tokenizer,
                   ReadText(path_, "tokenizer.json", kMaxTokenizerBytes));
  if (!tokenizer.has_value()) {
    return absl::InvalidArgumentError(
        StrCat(path_,
               " has no tokenizer.json; tokenizers in other forms, such "
               "as tokenizer.model, are not read"));
  }
  ASSIGN_OR_RETURN(
      const std::optional<std::string> tokenizer_config,
      ReadText(path_, kTokenizerConfigName, kMaxTokenizerConfigBytes));
  return InDirectory(path_,
                     LoadHfTokenizer(*tokenizer, tokenizer_config.value_or(""),
                                     config_.end_tokens, config().vocab_size));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>>
SafetensorsCheckpoint::LoadChatTemplate() const {
  ASSIGN_OR_RETURN(
      const std::optional<std::string> tokenizer_config,
      ReadText(path_, kTokenizerConfigName, kMaxTokenizerConfigBytes));
  ASSIGN_OR_RETURN(const std::optional<std::string> chat_template,
                   ReadText(path_, "chat_template.jinja", kMaxConfigBytes));
  return InDirectory(path_, LoadHfChatTemplate(tokenizer_config.value_or(""),
                                               chat_template.value_or("")));
}

}  // namespace sparseserve
