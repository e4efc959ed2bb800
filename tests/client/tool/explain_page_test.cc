#include "client/tool/explain_page.h"

#include <string>

#include "gmock/gmock.h"
#include "google/protobuf/util/json_util.h"
#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kDataBegin[] =
    "<script id=\"explanation\" type=\"application/json\">";

std::string DataOf(const std::string& page) {
  const size_t begin = page.find(kDataBegin) + std::string(kDataBegin).size();
  return page.substr(begin, page.find("</script>", begin) - begin);
}

TEST(ExplainPageTest, HoldsTheWholeReply) {
  v1::ExplainAttentionResponse explanation;
  explanation.set_model("models/a");
  explanation.add_heads()->set_entropy(1.5);
  explanation.add_pieces("Gr\u00fc\u00dfe \"\\\u2028\n");
  v1::ExplainAttentionResponse found;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(
                  DataOf(ExplainPage(explanation)), &found)
                  .ok());
  EXPECT_EQ(found.SerializeAsString(), explanation.SerializeAsString());
}

TEST(ExplainPageTest, NoTextEndsItsElement) {
  const std::string hostile =
      "</script><script>alert(1)</script><!-- --> <!-- explanation --> &lt;";
  v1::ExplainAttentionResponse explanation;
  explanation.set_model(hostile);
  explanation.add_pieces(hostile);
  const std::string page = ExplainPage(explanation);
  EXPECT_THAT(page, Not(HasSubstr("<script>alert")));
  const std::string data = DataOf(page);
  EXPECT_EQ(data.find_first_of("<>&"), data.npos);
  v1::ExplainAttentionResponse found;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(data, &found).ok());
  EXPECT_EQ(found.pieces(0), hostile);
}

TEST(ExplainPageTest, NamesNothingElsewhere) {
  const std::string page = ExplainPage({});
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  for (const char* way : {"src=\"", "href=\"", "url(", "@import", "fetch("}) {
    EXPECT_THAT(page, Not(HasSubstr(way)));
  }
}

}  // namespace
}  // namespace sparseserve
