#include "server/rpc/model_page.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/rpc/sample_model.h"
#include "tests/server/rpc/status_parts.h"

namespace sparseserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::PartsOf;
using testing::SampleModel;

// Pages of the models a, b, c, d, e.
class ModelPageTest : public ::testing::Test {
 protected:
  ModelPageTest() {
    for (const char* name : {"a", "b", "c", "d", "e"}) {
      models_.push_back(sample_.model());
      models_.back().name = name;
    }
  }

  absl::StatusOr<v1::ListModelsResponse> Page(int size,
                                              const std::string& token) {
    v1::ListModelsRequest request;
    request.set_page_size(size);
    request.set_page_token(token);
    return ListPage(request, models_);
  }
  static std::vector<std::string> Names(
      const v1::ListModelsResponse& response) {
    std::vector<std::string> names;
    for (const v1::Model& model : response.models()) {
      names.push_back(model.name());
    }
    return names;
  }

  const SampleModel sample_;
  std::vector<ServedModel> models_;
};

TEST_F(ModelPageTest, AllFitOnOnePageByDefault) {
  const auto page = Page(0, "");
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(Names(*page), ElementsAre("a", "b", "c", "d", "e"));
  EXPECT_EQ(page->next_page_token(), "");
}

TEST_F(ModelPageTest, TokensLeadThroughAllPages) {
  auto page = Page(2, "");
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(Names(*page), ElementsAre("a", "b"));
  page = Page(2, page->next_page_token());
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(Names(*page), ElementsAre("c", "d"));
  page = Page(2, page->next_page_token());
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(Names(*page), ElementsAre("e"));
  EXPECT_EQ(page->next_page_token(), "");
}

TEST_F(ModelPageTest, TheLastPageMayBeFull) {
  const auto page = Page(5, "");
  ASSERT_TRUE(page.ok());
  EXPECT_EQ(page->models_size(), 5);
  EXPECT_EQ(page->next_page_token(), "");
}

TEST_F(ModelPageTest, BehindTheLastModelIsNothing) {
  const auto page = Page(2, "e");
  ASSERT_TRUE(page.ok());
  EXPECT_THAT(Names(*page), IsEmpty());
}

TEST_F(ModelPageTest, BadSizesAndTokensAreNamed) {
  EXPECT_THAT(PartsOf(Page(-1, "").status()).fields, ElementsAre("page_size"));
  EXPECT_THAT(PartsOf(Page(1001, "").status()).fields,
              ElementsAre("page_size"));
  EXPECT_THAT(PartsOf(Page(1, "x").status()).fields, ElementsAre("page_token"));
  EXPECT_THAT(PartsOf(Page(-1, "x").status()).fields,
              ElementsAre("page_size", "page_token"));
}

}  // namespace
}  // namespace sparseserve
