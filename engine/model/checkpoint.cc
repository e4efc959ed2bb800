#include "engine/model/checkpoint.h"

#include <sys/stat.h>

#include "engine/model/gguf_checkpoint.h"
#include "engine/model/safetensors_checkpoint.h"

namespace sparseserve {

int64_t CheckpointTensor::elements() const {
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
  return GgufCheckpoint::Open(path);
}

}  // namespace sparseserve
