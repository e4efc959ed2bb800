#include "engine/tokenizer/jinja_literals.h"

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace sparseserve {
namespace {

using Literals = std::vector<std::string>;

TEST(JinjaLiteralsTest, CollectsTextAndStringsInOrder) {
  const std::pair<std::string, Literals> kCases[] = {
      {"", {}},
      {"plain", {"plain"}},
      {"a{{ x }}b", {"a", "b"}},
      {"{{ 'one' + \"two\" }}", {"one", "two"}},
      {"{% if a == 'x' %}y{% endif %}", {"x", "y"}},
      {R"({{ 'line\n\ttab \'q\' \\n' }})", {"line\n\ttab 'q' \\n"}},
      {"{{ \"it's\" }}{{ 'say \"x\"' }}", {"it's", "say \"x\""}},
      {"a{# 'not this' #}b", {"a", "b"}},
      {"{{ '}}' }}z", {"}}", "z"}},
      {"{%- set x = '%}' -%}z", {"%}", "z"}},
      {"{ {a} }", {"{ {a} }"}},
  };
  for (const auto& [source, expected] : kCases) {
    EXPECT_EQ(JinjaLiterals(source), expected) << source;
  }
}

TEST(JinjaLiteralsTest, TakesWhatIsLeftOpenToTheEnd) {
  const std::pair<std::string, Literals> kCases[] = {
      {"a{{", {"a"}},   {"a{{ 'b", {"a", "b"}}, {"{{ 'b\\", {"b\\"}},
      {"a{# b", {"a"}}, {"a{% if", {"a"}},      {"{{ '", {""}},
      {"a{", {"a{"}},   {"{#}x", {}},
  };
  for (const auto& [source, expected] : kCases) {
    EXPECT_EQ(JinjaLiterals(source), expected) << source;
  }
}

TEST(JinjaLiteralsTest, ReadsAnySource) {
  std::mt19937 random(20240607);
  const std::string alphabet = "{}%#'\"\\ na";
  for (int round = 0; round < 5000; ++round) {
    std::string source;
    for (int i = random() % 30; i > 0; --i) {
      source += alphabet[random() % alphabet.size()];
    }
    size_t bytes = 0;
    for (const std::string& literal : JinjaLiterals(source)) {
      bytes += literal.size();
    }
    EXPECT_LE(bytes, source.size()) << source;
  }
}

}  // namespace
}  // namespace sparseserve
