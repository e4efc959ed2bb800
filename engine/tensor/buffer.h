#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace sparseserve {

// Owned device memory, move-only; gives itself back through `release`.
class Buffer {
 public:
  using Release = void (*)(std::byte* data, int64_t bytes);

  Buffer() = default;
  Buffer(std::byte* data, int64_t bytes, Release release)
      : data_(data), bytes_(bytes), release_(release) {}
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Buffer() {
    if (data_ != nullptr) release_(data_, bytes_);
  }

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  Release release_ = nullptr;
};

}  // namespace sparseserve
