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

// Dimensions as the driver has them, the innermost first; `strides` in bytes.
template <int kDimensions>
LaunchStatus Encode(const void* data, const cuuint64_t (&sizes)[kDimensions],
                    const cuuint64_t (&strides)[kDimensions - 1],
                    const cuuint32_t (&box)[kDimensions], CUtensorMap* map) {
  static const auto encode = DriverEncodeTiled();
  if (encode == nullptr) {
    return LaunchStatus::Error("the driver has no cuTensorMapEncodeTiled");
  }
  cuuint32_t steps[kDimensions];
  for (cuuint32_t& step : steps) step = 1;
  const CUresult result = encode(
      map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kDimensions,
      const_cast<void*>(data), sizes, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return LaunchStatus();
  std::string named;
  for (int i = kDimensions; i-- > 0;) {
    named += std::to_string(sizes[i]) + (i > 0 ? " x " : " elements, stride ");
  }
  return LaunchStatus::Error(
      "no tensor map of " + named + std::to_string(strides[0] / 2) +
      ": driver error " + std::to_string(static_cast<int>(result)));
}

}  // namespace

LaunchStatus EncodeTensorMap(const BoxedMatrix& matrix, CUtensorMap* map) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(matrix.columns),
                               static_cast<cuuint64_t>(matrix.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(matrix.row_stride) *
                                 2};
  const cuuint32_t box[2] = {64, 64};
  return Encode<2>(matrix.data, sizes, strides, box, map);
}

LaunchStatus EncodeTensorMap(const GroupedMatrix& matrix, CUtensorMap* map) {
  const auto row_bytes = static_cast<cuuint64_t>(matrix.row_stride) * 2;
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(matrix.columns),
                               static_cast<cuuint64_t>(matrix.group_rows),
                               static_cast<cuuint64_t>(matrix.groups)};
  const cuuint64_t strides[2] = {
      row_bytes, row_bytes * static_cast<cuuint64_t>(matrix.group_rows)};
  const cuuint32_t box[3] = {64, 1, static_cast<cuuint32_t>(matrix.box_groups)};
  return Encode<3>(matrix.data, sizes, strides, box, map);
}

}  // namespace sparseserve::cuda
