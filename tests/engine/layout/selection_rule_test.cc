#include "engine/layout/selection_rule.h"

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

TEST(SelectionRuleKindsTest, HoldsTheKindsItIsMadeOf) {
  constexpr auto kKinds =
      SelectionRuleKinds::Of<AntidiagonalRule, PageBoundRule>();
  static_assert(kKinds.Has(AntidiagonalRule{.stride = 16}));
  EXPECT_TRUE(kKinds.Has(PageBoundRule{4, 1, 1}));
  EXPECT_FALSE(kKinds.Has(VerticalSlashRule{}));
  EXPECT_FALSE(kKinds.Has(MeanKeyRule{}));
}

TEST(SelectionRuleKindsTest, AllIsEveryKindAndNoneIsNone) {
  EXPECT_TRUE(SelectionRuleKinds::All().Has(AntidiagonalRule{}));
  EXPECT_TRUE(SelectionRuleKinds::All().Has(MeanKeyRule{}));
  EXPECT_FALSE(SelectionRuleKinds().Has(AntidiagonalRule{}));
  EXPECT_FALSE(SelectionRuleKinds().Has(MeanKeyRule{}));
}

}  // namespace
}  // namespace sparseserve
