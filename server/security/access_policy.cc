#include "server/security/access_policy.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/base/str_cat.h"

namespace sparseserve {
namespace {

constexpr std::string_view kAdminService = "sparseserve.v1.AdminService/";

bool Covers(const std::string& pattern, std::string_view name) {
  // Whoever may call everything is no operator yet.
  if (pattern == "*") {
    return name.substr(0, kAdminService.size()) != kAdminService;
  }
  if (pattern.size() > 2 && pattern.substr(pattern.size() - 2) == "/*") {
    return name.substr(0, pattern.size() - 1) ==
           std::string_view(pattern).substr(0, pattern.size() - 1);
  }
  return name == pattern;
}

bool AnyCovers(const std::vector<std::string>& patterns,
               std::string_view name) {
  return std::any_of(
      patterns.begin(), patterns.end(),
      [name](const std::string& pattern) { return Covers(pattern, name); });
}

}  // namespace

bool CallerRule::AllowsMethod(std::string_view method) const {
  return AnyCovers(methods, method);
}

bool CallerRule::AllowsModel(std::string_view model) const {
  return std::any_of(models.begin(), models.end(),
                     [model](const std::string& allowed) {
                       return allowed == "*" || allowed == model;
                     });
}

absl::StatusOr<AccessPolicy> AccessPolicy::Create(
    std::vector<CallerRule> callers) {
  AccessPolicy policy;
  policy.callers_ = static_cast<int>(callers.size());
  absl::flat_hash_set<std::string> names;
  for (CallerRule& caller : callers) {
    if (caller.name.empty()) {
      return absl::InvalidArgumentError("a caller has no name");
    }
    if (!names.insert(caller.name).second) {
      return absl::InvalidArgumentError(
          StrCat("two callers have the name \"", caller.name, "\""));
    }
    if (caller.identities.empty()) {
      return absl::InvalidArgumentError(
          StrCat("caller \"", caller.name, "\" has no identity"));
    }
    const auto rule = std::make_shared<const CallerRule>(std::move(caller));
    for (const Identity& identity : rule->identities) {
      if (identity.value.empty()) {
        return absl::InvalidArgumentError(
            StrCat("caller \"", rule->name, "\" has an empty identity"));
      }
      const auto [known, is_new] = policy.by_identity_.emplace(identity, rule);
      if (!is_new) {
        return absl::InvalidArgumentError(
            StrCat("callers \"", known->second->name, "\" and \"", rule->name,
                   "\" share the identity ", identity.ToString()));
      }
    }
  }
  return policy;
}

std::shared_ptr<const CallerRule> AccessPolicy::Find(
    const Identity& identity) const {
  const auto found = by_identity_.find(identity);
  return found == by_identity_.end() ? nullptr : found->second;
}

}  // namespace sparseserve
