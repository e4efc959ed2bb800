#pragma once

#include "server/rpc/call_access.h"
#include "server/rpc/load_reporter.h"
#include "xds/service/orca/v3/orca.grpc.pb.h"

namespace sparseserve {

// Streams reports of the server's load to clients and gateways that ask for
// them out of band. Like health watches these streams never end of themselves:
// they are neither counted nor logged nor waited for.
class OrcaService final
    : public xds::service::orca::v3::OpenRcaService::CallbackService {
 public:
  // Both outlive the service.
  OrcaService(LoadReporter& reporter, const CallAccess& access)
      : reporter_(reporter), access_(access) {}

  grpc::ServerWriteReactor<LoadReporter::Report>* StreamCoreMetrics(
      grpc::CallbackServerContext* context,
      const xds::service::orca::v3::OrcaLoadReportRequest* request) override;

 private:
  LoadReporter& reporter_;
  const CallAccess& access_;
};

}  // namespace sparseserve
