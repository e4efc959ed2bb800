#include "tests/testing/test_folder.h"

#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "engine/base/check.h"

namespace sparseserve::testing {

TestFolder::TestFolder()
    : path_(std::filesystem::temp_directory_path() / "sparseserve.XXXXXX") {
  SPARSESERVE_CHECK(mkdtemp(path_.data()) != nullptr);
}

TestFolder::~TestFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TestFolder::Write(std::string_view name, std::string_view text) const {
  const std::filesystem::path file = std::filesystem::path(path_) / name;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary);
  out << text;
  SPARSESERVE_CHECK(out.good());
}

}  // namespace sparseserve::testing
