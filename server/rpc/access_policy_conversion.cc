#include "server/rpc/access_policy_conversion.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "server/rpc/field_errors.h"
#include "server/rpc/target_conversion.h"
#include "server/rpc/text_message.h"
#include "sparseserve/v1/access_policy.pb.h"

namespace sparseserve {
namespace {

constexpr int kMostCallers = 10'000;
constexpr int kMostEntries = 100;  // of a list of one caller
constexpr size_t kMostNameBytes = 128;
constexpr int64_t kMostLimit = (int64_t{1} << 31) - 1;

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kMostNameBytes &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) ||
                  std::string_view("_-./:@").find(static_cast<char>(c)) !=
                      std::string_view::npos;
         });
}

// "package.Service/Method", "package.Service/*" or "*": what could never match
// would deny without a word.
bool IsMethodPattern(const std::string& pattern) {
  if (pattern == "*") return true;
  const size_t slash = pattern.find('/');
  return slash != 0 && slash != pattern.npos && slash + 1 < pattern.size() &&
         pattern.find('/', slash + 1) == pattern.npos &&
         pattern.substr(0, slash).find('*') == pattern.npos;
}

bool IsModelPattern(const std::string& pattern) {
  return pattern == "*" ||
         (pattern.size() > 7 && pattern.rfind("models/", 0) == 0);
}

Identity ConvertIdentity(const std::string& field,
                         const v1::CallerIdentity& from, FieldErrors& errors) {
  switch (from.identity_case()) {
    case v1::CallerIdentity::kSpiffeId:
      if (from.spiffe_id().rfind("spiffe://", 0) != 0) {
        errors.Add(StrCat(field, ".spiffe_id"), from.spiffe_id(),
                   "a URI that begins with spiffe://");
      }
      return {Identity::Kind::kSpiffeId, from.spiffe_id()};
    case v1::CallerIdentity::kDnsName:
      return {Identity::Kind::kDnsName, from.dns_name()};
    case v1::CallerIdentity::kCommonName:
      return {Identity::Kind::kCommonName, from.common_name()};
    case v1::CallerIdentity::kTokenSubject:
      return {Identity::Kind::kTokenSubject, from.token_subject()};
    case v1::CallerIdentity::IDENTITY_NOT_SET:
      errors.Add(field, "", "given");
      return {};
  }
  return {};
}

template <typename List>
bool HasLength(const std::string& field, const List& list, int least,
               FieldErrors& errors) {
  errors.CheckRange(StrCat(field, " (entries)"), int64_t{list.size()},
                    int64_t{least}, int64_t{kMostEntries});
  return list.size() <= kMostEntries;
}

void ConvertLists(const std::string& field, const v1::CallerAccess& from,
                  CallerRule& rule, FieldErrors& errors) {
  if (HasLength(StrCat(field, ".identities"), from.identities(), 1, errors)) {
    for (int i = 0; i < from.identities_size(); ++i) {
      rule.identities.push_back(ConvertIdentity(
          StrCat(field, ".identities[", i, "]"), from.identities(i), errors));
    }
  }
  if (HasLength(StrCat(field, ".methods"), from.methods(), 1, errors)) {
    for (const std::string& method : from.methods()) {
      if (!IsMethodPattern(method)) {
        errors.Add(StrCat(field, ".methods"), method,
                   "package.Service/Method, package.Service/* or *");
      }
      rule.methods.push_back(method);
    }
  }
  if (HasLength(StrCat(field, ".models"), from.models(), 0, errors)) {
    for (const std::string& model : from.models()) {
      if (!IsModelPattern(model)) {
        errors.Add(StrCat(field, ".models"), model, "models/NAME or *");
      }
      rule.models.push_back(model);
    }
  }
}

CallerRule ConvertCaller(const std::string& field, const v1::CallerAccess& from,
                         FieldErrors& errors) {
  CallerRule rule;
  rule.name = from.name();
  if (!IsName(rule.name)) {
    errors.Add(StrCat(field, ".name"), rule.name,
               StrCat("1 to ", kMostNameBytes,
                      " characters of A-Z, a-z, 0-9, _, -, ., /, : and @"));
  }
  ConvertLists(field, from, rule, errors);
  if (from.has_quota()) {
    const v1::CallerLimits& quota = from.quota();
    if (quota.has_max_requests()) {
      errors.CheckRange(StrCat(field, ".quota.max_requests"),
                        int64_t{quota.max_requests()}, int64_t{1}, kMostLimit);
    }
    if (quota.has_max_tokens()) {
      errors.CheckRange(StrCat(field, ".quota.max_tokens"),
                        int64_t{quota.max_tokens()}, int64_t{1}, kMostLimit);
    }
    rule.quota = {quota.max_requests(), quota.max_tokens()};
  }
  if (from.has_default_target()) {
    rule.default_target = ConvertTarget(StrCat(field, ".default_target"),
                                        from.default_target(), errors);
  }
  errors.CheckRange(StrCat(field, ".default_priority"),
                    int64_t{from.default_priority()}, int64_t{kLeastPriority},
                    int64_t{kMostPriority});
  rule.default_priority = from.default_priority();
  if (from.has_max_priority()) {
    errors.CheckRange(StrCat(field, ".max_priority"),
                      int64_t{from.max_priority()}, int64_t{kLeastPriority},
                      int64_t{kMostPriority});
    rule.max_priority = from.max_priority();
  }
  return rule;
}

}  // namespace

absl::StatusOr<AccessPolicy> ParseAccessPolicy(const std::string& text,
                                               const std::string& name) {
  v1::AccessPolicy parsed;
  RETURN_IF_ERROR(ParseText(text, name, parsed));
  FieldErrors errors;
  errors.CheckRange("callers (entries)", int64_t{parsed.callers_size()},
                    int64_t{0}, int64_t{kMostCallers});
  RETURN_IF_ERROR(errors.ToStatus());
  std::vector<CallerRule> callers;
  for (int i = 0; i < parsed.callers_size(); ++i) {
    callers.push_back(
        ConvertCaller(StrCat("callers[", i, "]"), parsed.callers(i), errors));
  }
  RETURN_IF_ERROR(errors.ToStatus());
  return AccessPolicy::Create(std::move(callers));
}

}  // namespace sparseserve
