#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer/pre_splitter.h"

#include <pcre2.h>

#include <string>

#include "engine/base/check.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

// White_Space of Unicode, for use inside [...]. PCRE2's \s would add U+180E,
// which has not been white space since Unicode 6.3.
#define SPARSESERVE_SPACE R"(\p{Z}\x{09}-\x{0d}\x{85})"

// Possessive (++) where giving characters back could not help a match, so that
// no alternative is tried twice.
constexpr char kGpt2Pattern[] =
    R"('(?:s|t|re|ve|m|ll|d)| ?\p{L}++| ?\p{N}++)"
    R"(| ?[^)" SPARSESERVE_SPACE R"(\p{L}\p{N}]++)"
    R"(|[)" SPARSESERVE_SPACE R"(]+(?![^)" SPARSESERVE_SPACE R"(]))"
    R"(|[)" SPARSESERVE_SPACE R"(]++)";

// Both passes in one: a numeric character is a word, and white space before
// one is at the end of its piece.
constexpr char kSmolLmPattern[] =
    R"('(?:s|t|re|ve|m|ll|d)| ?\p{L}++|\p{N})"
    R"(| ?[^)" SPARSESERVE_SPACE R"(\p{L}\p{N}]++)"
    R"(|[)" SPARSESERVE_SPACE R"(]+(?![^)" SPARSESERVE_SPACE R"(\p{N}]))"
    R"(|[)" SPARSESERVE_SPACE R"(]++)";

// What Llama 3's and Qwen2's rules have before and after the numbers.
#define SPARSESERVE_LLAMA3_BEGIN \
  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}++|)"
#define SPARSESERVE_LLAMA3_END                                     \
  R"(| ?[^)" SPARSESERVE_SPACE R"(\p{L}\p{N}]++[\r\n]*+)"          \
  R"(|[)" SPARSESERVE_SPACE R"(]*[\r\n]++)"                        \
  R"(|[)" SPARSESERVE_SPACE R"(]+(?![^)" SPARSESERVE_SPACE R"(]))" \
  R"(|[)" SPARSESERVE_SPACE R"(]++)"

constexpr char kLlama3Pattern[] =
    SPARSESERVE_LLAMA3_BEGIN R"(\p{N}{1,3}+)" SPARSESERVE_LLAMA3_END;
constexpr char kQwen2Pattern[] =
    SPARSESERVE_LLAMA3_BEGIN R"(\p{N})" SPARSESERVE_LLAMA3_END;

#undef SPARSESERVE_LLAMA3_END
#undef SPARSESERVE_LLAMA3_BEGIN
#undef SPARSESERVE_SPACE

const char* PatternOf(PreSplit rule) {
  switch (rule) {
    case PreSplit::kGpt2:
      return kGpt2Pattern;
    case PreSplit::kSmolLm:
      return kSmolLmPattern;
    case PreSplit::kLlama3:
      return kLlama3Pattern;
    case PreSplit::kQwen2:
      return kQwen2Pattern;
  }
  SPARSESERVE_CHECK(false);
}

// Steps inside one match: about ten, and one for each byte of white space that
// has no line end, which is then one word.
constexpr uint32_t kMatchLimit = 1000;

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const {
    pcre2_match_context_free(context);
  }
};

}  // namespace

void PreSplitter::FreeCode::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

PreSplitter::PreSplitter(PreSplit rule) {
  int error = 0;
  PCRE2_SIZE error_offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(PatternOf(rule)),
                            PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_ANCHORED,
                            &error, &error_offset, nullptr));
  SPARSESERVE_CHECK(code_ != nullptr);
  // Without the just-in-time compiler (a kernel may forbid executable memory)
  // pcre2_match() interprets: slower, same words.
  pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

PreSplitter::~PreSplitter() = default;

absl::Status PreSplitter::Split(
    std::string_view text,
    absl::FunctionRef<bool(std::string_view word)> emit) const {
  const std::unique_ptr<pcre2_match_context, FreeMatchContext> context(
      pcre2_match_context_create(nullptr));
  const std::unique_ptr<pcre2_match_data, FreeMatchData> match(
      pcre2_match_data_create_from_pattern(code_.get(), nullptr));
  SPARSESERVE_CHECK(context != nullptr && match != nullptr);
  pcre2_set_match_limit(context.get(),
                        kMatchLimit + static_cast<uint32_t>(text.size()));
  size_t offset = 0;
  while (offset < text.size()) {
    const int result = pcre2_match(
        code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
        offset, PCRE2_NO_UTF_CHECK, match.get(), context.get());
    if (result < 0) {
      return absl::InternalError(StrCat("splitting into words failed at byte ",
                                        offset, ": PCRE2 error ", result));
    }
    const size_t end = pcre2_get_ovector_pointer(match.get())[1];
    SPARSESERVE_CHECK(end > offset && end <= text.size());
    if (!emit(text.substr(offset, end - offset))) break;
    offset = end;
  }
  return absl::OkStatus();
}

}  // namespace sparseserve
