#include "server/rpc/request_id.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kTraceparent[] =
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(RequestIdTest, AcceptsPrintableAsciiUpToItsLength) {
  EXPECT_TRUE(IsRequestId("a"));
  EXPECT_TRUE(IsRequestId("A-b_c:{\"x\"}/~!"));
  EXPECT_TRUE(IsRequestId(std::string(128, 'x')));
  EXPECT_FALSE(IsRequestId(""));
  EXPECT_FALSE(IsRequestId(std::string(129, 'x')));
  EXPECT_FALSE(IsRequestId("a b"));
  EXPECT_FALSE(IsRequestId("a\n"));
  EXPECT_FALSE(IsRequestId("\x7F"));
  EXPECT_FALSE(IsRequestId("\xC3\xA9"));
}

TEST(RequestIdTest, MakesDifferentIdsOf32HexDigits) {
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    const std::string id = NewRequestId();
    EXPECT_EQ(id.size(), 32);
    EXPECT_EQ(id.find_first_not_of("0123456789abcdef"), std::string::npos);
    ids.insert(id);
  }
  EXPECT_EQ(ids.size(), 100);
}

TEST(TraceparentTest, IsKeptWhole) {
  EXPECT_EQ(TraceparentOf(kTraceparent), kTraceparent);
  EXPECT_EQ(TraceIdOf(kTraceparent), kTraceId);
}

TEST(TraceparentTest, WhatLaterVersionsAppendIsNotKept) {
  const std::string later = "01" + std::string(kTraceparent).substr(2);
  EXPECT_EQ(TraceparentOf(later), later);
  EXPECT_EQ(TraceparentOf(later + "-" + std::string(8'000, 'x')), later);
}

TEST(TraceparentTest, MalformedOnesAreAbsent) {
  const char* const kMalformed[] = {
      "",
      "00",
      kTraceId,
      // Version 00 has no more fields; ff is forbidden.
      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
      "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
      "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
      // All zero.
      "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
      "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
      // Upper case, other characters, other separators.
      "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
      "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
      "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
      "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
      "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
  };
  for (const char* traceparent : kMalformed) {
    EXPECT_EQ(TraceparentOf(traceparent), "") << traceparent;
  }
  EXPECT_EQ(TraceIdOf(""), "");
}

}  // namespace
}  // namespace sparseserve
