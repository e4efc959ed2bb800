#include "engine/model/slice_check.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/pattern/attention_choice.h"
#include "engine/profile/attention_profile.h"

namespace sparseserve {
namespace {

absl::Status BadSlice(const StepSlice& slice, const std::string& problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("slice of sequence ", slice.sequence, ": ", problem));
}

int64_t EndPosition(const StepSlice& slice) {
  return int64_t{slice.first_position} +
         static_cast<int64_t>(slice.tokens.size());
}

absl::Status CheckRecall(const StepSlice& slice, const StepLimits& limits) {
  const int64_t rows = static_cast<int64_t>(slice.recall_rows.size());
  const int64_t values = static_cast<int64_t>(slice.recall.size());
  if (rows > 0 && limits.recall_width == 0) {
    return BadSlice(slice,
                    "it samples recall, which measure_recall does not allow");
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t row = slice.recall_rows[i];
    const int32_t least = i == 0 ? 0 : slice.recall_rows[i - 1] + 1;
    if (row < least || row >= static_cast<int64_t>(slice.tokens.size())) {
      return BadSlice(slice,
                      absl::StrCat("recall row ", row, " is not one of ", least,
                                   " to ", slice.tokens.size() - 1));
    }
  }
  // At most as many rows as tokens, which fit in memory with their logits.
  if (values != rows * limits.recall_width) {
    return BadSlice(
        slice, absl::StrCat("recall has room for ", values, " values, not for ",
                            rows * limits.recall_width));
  }
  return absl::OkStatus();
}

// A prompt whose end chooses for all of it comes whole.
absl::Status CheckIsWhole(const StepSlice& slice) {
  if (slice.phase != Phase::kPrefill ||
      TraitsOf(*slice.attention).is_selection_causal) {
    return absl::OkStatus();
  }
  if (slice.first_position != 0 || slice.tokens.size() < slice.prompt.size()) {
    return BadSlice(
        slice, absl::StrCat("its pattern chooses by the end of a prompt, which "
                            "must come whole; the slice has positions ",
                            slice.first_position, " to ",
                            EndPosition(slice) - 1, " of ",
                            std::max(slice.prompt.size(),
                                     static_cast<size_t>(EndPosition(slice)))));
  }
  return absl::OkStatus();
}

absl::Status CheckProfile(const StepSlice& slice, const StepLimits& limits) {
  if (slice.profile == nullptr) return absl::OkStatus();
  if (limits.recall_width == 0) {
    return BadSlice(slice,
                    "it has a profile, which measure_recall does not allow");
  }
  if (limits.prunes_heads) {
    return BadSlice(slice,
                    "it has a profile, but the model's heads are pruned");
  }
  const AttentionProfile::Shape& shape = slice.profile->shape();
  const PatternMap::Shape& model = limits.attention;
  const int64_t heads = limits.recall_width / model.layers;
  if (shape.layers != model.layers || shape.kv_heads != model.kv_heads ||
      shape.heads != heads) {
    return BadSlice(
        slice, absl::StrCat("its profile is for ", shape.layers, " layers of ",
                            shape.heads, " heads and ", shape.kv_heads,
                            " KV heads, the model has ", model.layers, " of ",
                            heads, " and ", model.kv_heads));
  }
  const int64_t end = EndPosition(slice);
  const bool is_cut = slice.first_position % kPageTokens != 0 ||
                      (end % kPageTokens != 0 && end != shape.tokens);
  if (slice.phase != Phase::kPrefill || is_cut || end > shape.tokens) {
    return BadSlice(
        slice, absl::StrCat("positions ", slice.first_position, " to ", end - 1,
                            " are not whole pages of a prompt of ",
                            shape.tokens, " tokens, as its profile needs"));
  }
  return absl::OkStatus();
}

// Whether the device runs what a pattern asks for.
absl::Status CheckDevice(const StepSlice& slice, const PatternSpec& pattern,
                         const StepLimits& limits) {
  const auto lacks = [&](const char* what) {
    return absl::UnimplementedError(absl::StrCat(
        "slice of sequence ", slice.sequence, ": the device does not ", what,
        " as ", std::string(PatternName(pattern)), " does"));
  };
  const PatternSelection selection = SelectionOf(pattern);
  if (selection.rule.has_value()) {
    if (!limits.selection_rules.Has(*selection.rule)) {
      return lacks("choose blocks");
    }
    const bool is_used = selection.phase.value_or(slice.phase) == slice.phase;
    if (slice.phase == Phase::kDecode && is_used && slice.tokens.size() > 1 &&
        !limits.selects_for_output_chunks) {
      return lacks("choose blocks for several output rows at once");
    }
  }
  if (CorrectionOf(pattern).every_rows > 0 && !limits.corrects) {
    return lacks("correct rows");
  }
  return absl::OkStatus();
}

absl::Status CheckAttention(const StepSlice& slice, const StepLimits& limits) {
  if (slice.attention == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(CheckIsWhole(slice));
  if (slice.attention->map == nullptr) {
    const absl::Status pattern = CheckPattern(slice.attention->pattern);
    if (!pattern.ok()) return BadSlice(slice, std::string(pattern.message()));
    return CheckDevice(slice, slice.attention->pattern, limits);
  }
  const PatternMap::Shape& shape = slice.attention->map->shape();
  if (shape != limits.attention) {
    return BadSlice(slice, absl::StrCat("its pattern map is for ", shape.layers,
                                        " layers with ", shape.kv_heads,
                                        " KV heads, the model has ",
                                        limits.attention.layers, " with ",
                                        limits.attention.kv_heads));
  }
  for (const PatternSpec& pattern : slice.attention->map->patterns()) {
    RETURN_IF_ERROR(CheckDevice(slice, pattern, limits));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPlan(const StepPlan& plan, const StepLimits& limits) {
  const int64_t slices = static_cast<int64_t>(plan.slices.size());
  if (slices > limits.max_slices) {
    return absl::InvalidArgumentError(
        absl::StrCat("the plan has ", slices, " slices, max_step_slices is ",
                     limits.max_slices));
  }
  int64_t rows = 0;
  for (const StepSlice& slice : plan.slices) {
    rows += static_cast<int64_t>(slice.tokens.size());
  }
  if (rows > limits.max_rows) {
    return absl::InvalidArgumentError(
        absl::StrCat("the plan has ", rows, " tokens, max_step_tokens is ",
                     limits.max_rows));
  }
  for (const PageCopy& copy : plan.page_copies) {
    const auto is_page = [&limits](PageId page) {
      return page >= 0 && page < limits.kv_pages;
    };
    if (!is_page(copy.from) || !is_page(copy.to) || copy.from == copy.to) {
      return absl::InvalidArgumentError(
          absl::StrCat("the plan copies page ", copy.from, " to page ", copy.to,
                       ", must be two pages of 0 to ", limits.kv_pages - 1));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSlice(const StepSlice& slice, const StepLimits& limits) {
  if (slice.tokens.empty()) return BadSlice(slice, "it has no tokens");
  for (const TokenId token : slice.tokens) {
    if (token < 0 || token >= limits.vocab_size) {
      return BadSlice(slice, absl::StrCat("token ", token,
                                          " is not in the vocabulary, 0 to ",
                                          limits.vocab_size - 1));
    }
  }
  if (slice.first_position < 0 || EndPosition(slice) > limits.context_tokens) {
    return BadSlice(
        slice, absl::StrCat("positions ", slice.first_position, " to ",
                            EndPosition(slice) - 1, " leave the context, 0 to ",
                            limits.context_tokens - 1));
  }
  const int64_t covered =
      static_cast<int64_t>(slice.pages.size()) * kPageTokens;
  if (covered < EndPosition(slice)) {
    return BadSlice(
        slice, absl::StrCat(slice.pages.size(), " pages do not cover position ",
                            EndPosition(slice) - 1));
  }
  for (const PageId page : slice.pages) {
    if (page < 0 || page >= limits.kv_pages) {
      return BadSlice(slice, absl::StrCat("page ", page, " is not one of 0 to ",
                                          limits.kv_pages - 1));
    }
  }
  if (slice.wants_token && slice.sampling == nullptr) {
    return BadSlice(slice, "it wants a token but has no sampling parameters");
  }
  RETURN_IF_ERROR(CheckRecall(slice, limits));
  RETURN_IF_ERROR(CheckProfile(slice, limits));
  RETURN_IF_ERROR(CheckAttention(slice, limits));
  const int64_t logits =
      static_cast<int64_t>(slice.tokens.size()) * limits.vocab_size;
  if (!slice.all_logits.empty() &&
      static_cast<int64_t>(slice.all_logits.size()) != logits) {
    return BadSlice(slice,
                    absl::StrCat("room for ", slice.all_logits.size(),
                                 " logits, all of its rows have ", logits));
  }
  return absl::OkStatus();
}

bool WritesAreExclusive(absl::Span<const PlannedSlice> slices) {
  absl::flat_hash_map<PageId, int> uses;
  for (const PlannedSlice& planned : slices) {
    for (const PageId page : planned.slice->pages) ++uses[page];
  }
  for (const PlannedSlice& planned : slices) {
    const StepSlice& slice = *planned.slice;
    const int64_t end_page = (EndPosition(slice) - 1) / kPageTokens + 1;
    for (int64_t i = slice.first_position / kPageTokens; i < end_page; ++i) {
      if (uses[slice.pages[i]] != 1) return false;
    }
  }
  return true;
}

}  // namespace sparseserve
