#include "engine/model/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "engine/base/str_cat.h"
#include "engine/model/gguf_checkpoint.h"
#include "engine/model/safetensors_checkpoint.h"

namespace sparseserve {

int64_t CheckpointTensor::elements() const {
  // Beside a 0 the other sizes may be anything.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(
    const std::string& path) {
  struct stat status;
  if (stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
    return SafetensorsCheckpoint::Open(path);
  }
  if (absl::EndsWith(path, ".safetensors")) {
    return absl::InvalidArgumentError(
        StrCat(path, " is part of a model; name the directory that it is in"));
  }
  return GgufCheckpoint::Open(path);
}

}  // namespace sparseserve
