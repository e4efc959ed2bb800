#include <dlfcn.h>

#include <string>

#include "engine/backend/cuda/tensor_map.h"

namespace sparseserve::cuda {
namespace {

// Looked up by name, so that the program starts on machines without a driver.
decltype(&cuTensorMapEncodeTiled) DriverEncodeTiled() {
  // The runtime keeps the library loaded; this takes one more reference to it.
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return nullptr;
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(
      dlsym(driver, "cuTensorMapEncodeTiled"));
}

}  // namespace

LaunchStatus EncodeTensorMap(const BoxedMatrix& matrix, CUtensorMap* map) {
  static const auto encode = DriverEncodeTiled();
  if (encode == nullptr) {
    return LaunchStatus::Error("the driver has no cuTensorMapEncodeTiled");
  }
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(matrix.columns),
                               static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(matrix.row_stride) *
                                 2};
  const cuuint32_t box[2] = {64, 64};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result = encode(
      map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(matrix.data),
      sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return LaunchStatus();
  return LaunchStatus::Error(
      "no tensor map of " + std::to_string(matrix.rows) + " x " +
      std::to_string(matrix.columns) + " elements, stride " +
      std::to_string(matrix.row_stride) + ": driver error " +
      std::to_string(static_cast<int>(result)));
}

}  // namespace sparseserve::cuda
