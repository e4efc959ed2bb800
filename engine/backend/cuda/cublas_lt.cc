#include "engine/backend/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <string>

namespace sparseserve::cuda {
namespace {

template <typename Function>
bool Find(void* library, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, name));
  return *function != nullptr;
}

}  // namespace

LaunchStatus LoadCublasLt(CublasLt* library) {
  const std::string file = "libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR);
  void* loaded = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (loaded == nullptr) {
    return LaunchStatus::Error("cannot load " + file +
                               ": install cuBLAS of CUDA " +
                               std::to_string(CUBLAS_VER_MAJOR) +
                               ", or name its folder in LD_LIBRARY_PATH");
  }
  CublasLt& f = *library;
  const bool complete =
      Find(loaded, "cublasLtCreate", &f.create) &&
      Find(loaded, "cublasLtDestroy", &f.destroy) &&
      Find(loaded, "cublasLtMatmul", &f.matmul) &&
      Find(loaded, "cublasLtMatmulDescCreate", &f.matmul_desc_create) &&
      Find(loaded, "cublasLtMatmulDescDestroy", &f.matmul_desc_destroy) &&
      Find(loaded, "cublasLtMatmulDescSetAttribute",
           &f.matmul_desc_set_attribute) &&
      Find(loaded, "cublasLtMatrixLayoutCreate", &f.matrix_layout_create) &&
      Find(loaded, "cublasLtMatrixLayoutDestroy", &f.matrix_layout_destroy) &&
      Find(loaded, "cublasLtMatmulPreferenceCreate", &f.preference_create) &&
      Find(loaded, "cublasLtMatmulPreferenceDestroy", &f.preference_destroy) &&
      Find(loaded, "cublasLtMatmulPreferenceSetAttribute",
           &f.preference_set_attribute) &&
      Find(loaded, "cublasLtMatmulAlgoGetHeuristic", &f.get_heuristic);
  if (complete) return LaunchStatus();
  return LaunchStatus::Error(file + " lacks functions of cuBLASLt");
}

}  // namespace sparseserve::cuda
