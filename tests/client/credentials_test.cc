#include "client/credentials.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/test_folder.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using testing::TestFolder;

TEST(CredentialsTest, NoFilesArePlaintext) {
  const auto credentials = MakeCredentials({});
  ASSERT_TRUE(credentials.ok());
  EXPECT_EQ(*credentials, nullptr);
}

TEST(CredentialsTest, WhatCannotWorkIsToldByItsFlag) {
  const TestFolder folder;
  folder.Write("file", "text");
  folder.Write("empty", "");
  const std::string file = folder.path() + "/file";
  const std::string none = folder.path() + "/none";
  const std::string empty = folder.path() + "/empty";
  struct Case {
    CredentialFiles files;
    std::string error;
  };
  for (const Case& c : {
           Case{{.certificate = file, .key = file}, "--tls_ca is missing"},
           Case{{.token = file}, "--tls_ca is missing: without encryption"},
           Case{{.server_name = "a"}, "--tls_ca is missing"},
           Case{{.ca = file, .certificate = file}, "together"},
           Case{{.ca = file, .key = file}, "together"},
           Case{{.ca = none}, "--tls_ca: cannot read " + none},
           Case{{.ca = empty}, "--tls_ca: cannot read " + empty},
           Case{{.ca = file, .certificate = none, .key = file},
                "--tls_certificate: cannot read"},
           Case{{.ca = file, .certificate = file, .key = none},
                "--tls_key: cannot read"},
           Case{{.ca = file, .token = none}, "--token_file: cannot read"},
       }) {
    const auto credentials = MakeCredentials(c.files);
    ASSERT_FALSE(credentials.ok()) << c.error;
    EXPECT_THAT(std::string(credentials.status().message()),
                HasSubstr(c.error));
  }
}

}  // namespace
}  // namespace sparseserve
