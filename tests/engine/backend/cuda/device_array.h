#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace sparseserve::cuda {

// Elements in device memory, for tests and benchmarks: without memory or
// device the program ends. Move-only.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(std::size_t size) : size_(size) {
    if (size == 0) return;
    void* data = nullptr;
    Check(cudaMalloc(&data, size * sizeof(T)));
    data_ = static_cast<T*>(data);
  }
  explicit DeviceArray(const std::vector<T>& values)
      : DeviceArray(values.size()) {
    Upload(values);
  }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~DeviceArray() { cudaFree(data_); }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }

  // REQUIRES: as many values as the array has.
  void Upload(const std::vector<T>& values) {
    if (values.empty()) return;
    Check(cudaMemcpy(data_, values.data(), size_ * sizeof(T),
                     cudaMemcpyHostToDevice));
  }
  // Waits for all that was queued before.
  std::vector<T> Download() const {
    std::vector<T> values(size_);
    if (size_ > 0) {
      Check(cudaMemcpy(values.data(), data_, size_ * sizeof(T),
                       cudaMemcpyDeviceToHost));
    }
    return values;
  }

 private:
  static void Check(cudaError_t error) {
    if (error == cudaSuccess) return;
    std::fprintf(stderr, "device memory: %s\n", cudaGetErrorString(error));
    std::exit(1);
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace sparseserve::cuda
