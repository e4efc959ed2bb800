// Installs the client, builds a project that knows only the installation, and
// lets it call a server.

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/scripted_server.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;

struct CommandResult {
  int exit_status;
  // Standard output and error.
  std::string output;
};

CommandResult RunShell(const std::string& command) {
  std::string output;
  FILE* pipe = popen(absl::StrCat("( ", command, " ) 2>&1").c_str(), "r");
  if (pipe == nullptr) return {-1, "popen failed"};
  std::array<char, 4096> buffer;
  size_t got = 0;
  while ((got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0) {
    output.append(buffer.data(), got);
  }
  return {pclose(pipe), output};
}

class OutsideProjectTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = "/tmp/sparseserve-outside-XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    const CommandResult installed = RunShell(
        absl::StrCat(SPARSESERVE_CMAKE, " --install ", SPARSESERVE_BUILD_DIR,
                     " --component client --prefix ", prefix()));
    ASSERT_EQ(installed.exit_status, 0) << installed.output;
  }

  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string prefix() const { return folder_ + "/prefix"; }

  std::string folder_;
};

TEST_F(OutsideProjectTest, BuildsWithCMakeAndCalls) {
  const std::string build = folder_ + "/build";
  const CommandResult built = RunShell(
      absl::StrCat(SPARSESERVE_CMAKE, " -S tests/client/outside_project -B ",
                   build, " -DCMAKE_PREFIX_PATH=", prefix(), " && ",
                   SPARSESERVE_CMAKE, " --build ", build));
  ASSERT_EQ(built.exit_status, 0) << built.output;

  ScriptedServer server({});
  const CommandResult called =
      RunShell(absl::StrCat(build, "/outside ", server.address(), " hello"));
  EXPECT_EQ(called.exit_status, 0) << called.output;
  EXPECT_EQ(called.output, "Grüße, Welt 🌍\nmodels/a\n");
  EXPECT_EQ(server.last_options().text(), "hello");

  ScriptedServer refusing({.pieces = {}, .status = BadTopP()});
  const CommandResult refused =
      RunShell(absl::StrCat(build, "/outside ", refusing.address(), " hello"));
  EXPECT_NE(refused.exit_status, 0);
  EXPECT_THAT(refused.output, HasSubstr("options.sampling.top_p"));
}

TEST_F(OutsideProjectTest, BuildsWithPkgConfigAndCalls) {
  const std::string program = folder_ + "/outside";
  const CommandResult built = RunShell(
      absl::StrCat("c++ -std=c++20 tests/client/outside_project/main.cc -o ",
                   program, " $(PKG_CONFIG_PATH=$(dirname $(find ", prefix(),
                   " -name sparseserve-client.pc)) pkg-config --cflags --libs "
                   "sparseserve-client)"));
  ASSERT_EQ(built.exit_status, 0) << built.output;

  ScriptedServer server({});
  const CommandResult called =
      RunShell(absl::StrCat(program, " ", server.address(), " hello"));
  EXPECT_EQ(called.output, "Grüße, Welt 🌍\nmodels/a\n");
}

TEST_F(OutsideProjectTest, FindsProtosAndServiceConfig) {
  for (const std::string file :
       {"share/sparseserve/proto/sparseserve/v1/attention_pattern.proto",
        "share/sparseserve/proto/sparseserve/v1/attention_profile.proto",
        "share/sparseserve/proto/sparseserve/v1/inference_service.proto",
        "share/sparseserve/proto/google/rpc/error_details.proto",
        "share/sparseserve/sparseserve.protoset",
        "share/sparseserve/service_config.json", "bin/sparseserve"}) {
    EXPECT_TRUE(std::filesystem::is_regular_file(prefix() + "/" + file))
        << file;
  }
  EXPECT_FALSE(std::filesystem::exists(prefix() + "/include/google"));
}

}  // namespace
}  // namespace sparseserve
