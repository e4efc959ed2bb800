#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tensor/dtype.h"

namespace sparseserve::testing {

// Builds small safetensors files in memory: what tests feed to the reader.
class SafetensorsWriter {
 public:
  // `shape` has the slowest dimension first; `data` is in the stored form.
  void Add(std::string_view name, DType dtype,
           const std::vector<int64_t>& shape, std::string_view data);
  void Add(std::string_view name, std::string_view type,
           const std::vector<int64_t>& shape, std::string_view data);

  // The bytes of the file. Tensors begin at multiples of 8 if the data of
  // each is a multiple of 8 long.
  std::string Build() const;

 private:
  std::string entries_;
  std::string data_;
};

// A file with this header, whatever it says.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

}  // namespace sparseserve::testing
