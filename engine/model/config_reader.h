#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model/gguf_metadata.h"

namespace sparseserve {

// The metadata of one architecture: its keys carry its name as a prefix, which
// callers leave out. INVALID_ARGUMENT names key, value and range.
class ConfigReader {
 public:
  // Both outlive the reader.
  ConfigReader(const GgufMetadata& metadata, std::string_view prefix)
      : metadata_(metadata), prefix_(prefix) {}

  std::string Key(std::string_view name) const;
  bool Has(std::string_view name) const { return metadata_.Has(Key(name)); }

  absl::StatusOr<int32_t> Count(std::string_view name, int64_t least,
                                int64_t greatest) const;
  absl::StatusOr<int32_t> CountOr(std::string_view name, int64_t least,
                                  int64_t greatest, int32_t otherwise) const;
  absl::StatusOr<float> Real(std::string_view name, float above,
                             float below) const;
  // Likewise; a file's 0 means "none" and is taken too.
  absl::StatusOr<float> PositiveOrNone(std::string_view name, float below,
                                       float otherwise) const;
  absl::StatusOr<std::string_view> TextOr(std::string_view name,
                                          std::string_view otherwise) const;

  // UNIMPLEMENTED unless the key is missing or has this value.
  absl::Status RequireReal(std::string_view name, float supported) const;
  absl::Status RequireCount(std::string_view name, int64_t supported) const;
  absl::Status RequireFlag(std::string_view name, bool supported) const;

  static absl::Status Wrong(std::string_view key, std::string_view found,
                            std::string_view wanted);

 private:
  absl::Status Unsupported(std::string_view name, std::string_view found,
                           std::string_view supported) const;

  const GgufMetadata& metadata_;
  const std::string_view prefix_;
};

}  // namespace sparseserve
