#include "engine/model/safetensors_directory.h"

#include <sys/stat.h>

#include <map>
#include <string_view>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/base/quoted.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/model/json_checker.h"
#include "engine/model/json_document.h"
#include "engine/model/json_fields.h"
#include "engine/model/mapped_file.h"

namespace sparseserve {
namespace {

constexpr std::string_view kSingle = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kMapName = "weight_map";
constexpr size_t kMaxIndexBytes = 64 << 20;
constexpr size_t kMaxFileNameBytes = 255;

bool Exists(const std::string& path) {
  struct stat status;
  return stat(path.c_str(), &status) == 0;
}

// Which file holds each tensor.
using WeightMap = std::map<std::string, std::string>;

// A name of a file in the directory itself. Whoever wrote the index must not
// choose which of the machine's files are opened.
absl::Status CheckShardName(std::string_view name) {
  constexpr std::string_view kEnding = ".safetensors";
  const bool is_plain = name.find_first_of(std::string_view("/\\\0", 3)) ==
                            std::string_view::npos &&
                        name.size() > kEnding.size() &&
                        name.size() <= kMaxFileNameBytes &&
                        name.substr(name.size() - kEnding.size()) == kEnding;
  if (is_plain) return absl::OkStatus();
  return absl::InvalidArgumentError(
      StrCat(kMapName, " names the file ", Quoted(name),
             ", not a plain name that ends in ", kEnding));
}

absl::StatusOr<WeightMap> ParseIndex(std::string_view text) {
  RETURN_IF_ERROR(CheckJson(text, kIndex));
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseJson(text, kIndex));
  ASSIGN_OR_RETURN(const JsonFields fields,
                   JsonFields::Of(document, std::string(kIndex)));
  RETURN_IF_ERROR(fields.Object(kMapName).status());
  WeightMap map;
  for (const auto& [tensor, value] : fields.Find(kMapName)->items()) {
    ASSIGN_OR_RETURN(
        std::string file,
        JsonString(value, StrCat(kMapName, " of ", Quoted(tensor))));
    RETURN_IF_ERROR(CheckShardName(file));
    map.emplace(tensor, std::move(file));
  }
  return map;
}

absl::StatusOr<WeightMap> ReadIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const MappedFile mapping, MappedFile::Open(path));
  const absl::Span<const std::byte> bytes = mapping.bytes();
  if (bytes.size() > kMaxIndexBytes) {
    return absl::InvalidArgumentError(StrCat(
        path, " has ", bytes.size(), " bytes, more than ", kMaxIndexBytes));
  }
  auto map = ParseIndex(std::string_view(
      reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  if (map.ok()) return map;
  return absl::Status(map.status().code(),
                      StrCat(path, ": ", map.status().message()));
}

// That each tensor of shard `name` is one that the index puts there.
absl::Status CheckShard(const std::string& name, const SafetensorsFile& file,
                        const WeightMap& map) {
  for (const SafetensorsTensor& tensor : file.tensors()) {
    const auto entry = map.find(tensor.name);
    if (entry == map.end() || entry->second != name) {
      return absl::InvalidArgumentError(
          StrCat(tensor.Title(), " is in ", name, ", but ", kIndex,
                 entry == map.end() ? " does not name it"
                                    : StrCat(" puts it in ", entry->second)));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsDirectory> SafetensorsDirectory::Open(
    const std::string& path) {
  SafetensorsDirectory directory;
  const std::string single = StrCat(path, "/", kSingle);
  const std::string index = StrCat(path, "/", kIndex);
  if (Exists(single)) {
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                     SafetensorsFile::Open(single));
    directory.files_.push_back(std::move(file));
  } else if (Exists(index)) {
    RETURN_IF_ERROR(directory.OpenShards(path, index));
  } else {
    return absl::InvalidArgumentError(
        StrCat(path, " has neither ", kSingle, " nor ", kIndex,
               "; weights in other forms are not read"));
  }
  for (const auto& file : directory.files_) {
    for (const SafetensorsTensor& tensor : file->tensors()) {
      directory.tensors_.push_back(&tensor);
    }
  }
  return directory;
}

absl::Status SafetensorsDirectory::OpenShards(const std::string& path,
                                              const std::string& index_path) {
  ASSIGN_OR_RETURN(const WeightMap map, ReadIndex(index_path));
  absl::flat_hash_set<std::string> opened;
  size_t found = 0;
  for (const auto& [tensor, name] : map) {
    if (!opened.insert(name).second) continue;
    const std::string file_path = StrCat(path, "/", name);
    if (!Exists(file_path)) {
      return absl::InvalidArgumentError(
          StrCat("file ", file_path, " is missing; ", kIndex, " puts tensor ",
                 Quoted(tensor), " there"));
    }
    ASSIGN_OR_RETURN(std::unique_ptr<SafetensorsFile> file,
                     SafetensorsFile::Open(file_path));
    RETURN_IF_ERROR(CheckShard(name, *file, map));
    found += file->tensors().size();
    files_.push_back(std::move(file));
  }
  if (found == map.size()) return absl::OkStatus();
  // Every tensor of the files is in the map, where it says: some are only
  // there.
  absl::flat_hash_set<std::string_view> names;
  for (const auto& file : files_) {
    for (const SafetensorsTensor& tensor : file->tensors()) {
      names.insert(tensor.name);
    }
  }
  for (const auto& [tensor, name] : map) {
    if (names.contains(tensor)) continue;
    return absl::InvalidArgumentError(StrCat("tensor ", Quoted(tensor),
                                             " is not in ", path, "/", name,
                                             ", where ", kIndex, " puts it"));
  }
  return absl::OkStatus();
}

void SafetensorsDirectory::ForgetPages() const {
  for (const auto& file : files_) file->ForgetPages();
}

std::vector<absl::Span<const std::byte>> SafetensorsDirectory::contents()
    const {
  std::vector<absl::Span<const std::byte>> contents;
  for (const auto& file : files_) contents.push_back(file->contents());
  return contents;
}

int64_t SafetensorsDirectory::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& file : files_) bytes += file->file_bytes();
  return bytes;
}

}  // namespace sparseserve
