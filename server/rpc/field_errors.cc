#include "server/rpc/field_errors.h"

#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {
constexpr size_t kKept = 32;
}  // namespace

void FieldErrors::Add(std::string_view field, std::string_view value,
                      std::string_view requirement) {
  ++found_;
  if (violations_.size() == kKept) return;
  violations_.push_back(
      {std::string(field), Excerpt(value, 96), std::string(requirement)});
}

void FieldErrors::CheckRange(std::string_view field, int64_t value, int64_t low,
                             int64_t high) {
  if (value >= low && value <= high) return;
  Add(field, StrCat(value), StrCat("from ", low, " to ", high));
}

void FieldErrors::CheckRange(std::string_view field, double value, double low,
                             double high) {
  if (value >= low && value <= high) return;
  Add(field, StrCat(value), StrCat("from ", low, " to ", high));
}

absl::Status FieldErrors::ToStatus() const {
  return empty() ? absl::OkStatus() : InvalidFields(violations_, found_);
}

}  // namespace sparseserve
