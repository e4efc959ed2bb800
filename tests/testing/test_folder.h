#pragma once

#include <string>
#include <string_view>

namespace sparseserve::testing {

// An empty folder of its own, which goes with all in it when this does.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  // Writes a file over what was there; `name` may be in folders below.
  void Write(std::string_view name, std::string_view text) const;

 private:
  std::string path_;
};

}  // namespace sparseserve::testing
