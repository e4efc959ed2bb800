#include "server/rpc/call_access.h"

#include <utility>
#include <vector>

#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

// Of a name that a caller made up.
constexpr size_t kMaxCallerBytes = 128;

std::string_view Metadata(const grpc::CallbackServerContext& context,
                          const std::string& key) {
  const auto found = context.client_metadata().find(key);
  if (found == context.client_metadata().end()) return {};
  return {found->second.data(), found->second.size()};
}

std::vector<std::string> Values(const grpc::AuthContext& context,
                                const char* property) {
  std::vector<std::string> values;
  for (const grpc::string_ref& value : context.FindPropertyValues(property)) {
    values.emplace_back(value.data(), value.size());
  }
  return values;
}

std::string FirstValue(const grpc::AuthContext& context, const char* property) {
  std::vector<std::string> values = Values(context, property);
  return values.empty() ? "" : std::move(values.front());
}

}  // namespace

PeerCertificate CertificateOf(const grpc::AuthContext* context) {
  PeerCertificate certificate;
  if (context == nullptr || !context->IsPeerAuthenticated()) return certificate;
  certificate.spiffe_id = FirstValue(*context, "peer_spiffe_id");
  certificate.dns_names = Values(*context, "peer_dns");
  certificate.common_name = FirstValue(*context, "x509_common_name");
  return certificate;
}

CallAccess::CallAccess(Dependencies dependencies)
    : d_(std::move(dependencies)) {}

absl::Status CallAccess::Check(const grpc::CallbackServerContext& context,
                               CallRecord& record) const {
  const PeerCertificate certificate =
      CertificateOf(context.auth_context().get());
  // Two of them could be judged by one and logged by the other.
  const bool is_repeated = context.client_metadata().count("authorization") > 1;
  AccessControl::Decision decision;
  if (is_repeated) {
    decision.failure = AuthFailure::kMalformedToken;
  } else {
    decision = d_.control.Judge(
        {certificate, Metadata(context, "authorization"), record.method},
        d_.wall_clock());
  }
  record.identity = decision.caller;
  record.caller = std::move(decision.caller);
  record.rule = std::move(decision.rule);
  if (record.caller.empty() && !d_.caller_key.empty()) {
    record.caller = std::string(
        Metadata(context, d_.caller_key).substr(0, kMaxCallerBytes));
  }
  if (!decision.failure.has_value() && record.rule != nullptr &&
      !record.model.empty() && !record.rule->AllowsModel(record.model)) {
    decision.failure = AuthFailure::kModelNotAllowed;
  }
  if (!decision.failure.has_value()) return absl::OkStatus();
  d_.metrics.AuthFailed(*decision.failure);
  return AccessDenied(*decision.failure);
}

}  // namespace sparseserve
