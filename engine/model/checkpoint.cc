#include "engine/model/checkpoint.h"

#include "engine/model/gguf_checkpoint.h"

namespace sparseserve {

int64_t CheckpointTensor::elements() const {
  int64_t product = 1;
  for (const int64_t size : shape) product *= size;
  return product;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenCheckpoint(
    const std::string& path) {
  return GgufCheckpoint::Open(path);
}

}  // namespace sparseserve
