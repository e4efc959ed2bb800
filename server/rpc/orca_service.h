#pragma once

#include "server/rpc/load_reporter.h"
#include "xds/service/orca/v3/orca.grpc.pb.h"

namespace sparseserve {

// Streams reports of the server's load to clients and gateways that ask for
// them out of band. Like health watches these streams never end of themselves:
// they are neither counted nor logged nor waited for.
class OrcaService final
    : public xds::service::orca::v3::OpenRcaService::CallbackService {
 public:
  // `reporter` outlives the service.
  explicit OrcaService(LoadReporter& reporter) : reporter_(reporter) {}

  grpc::ServerWriteReactor<LoadReporter::Report>* StreamCoreMetrics(
      grpc::CallbackServerContext* context,
      const xds::service::orca::v3::OrcaLoadReportRequest* request) override;

 private:
  LoadReporter& reporter_;
};

}  // namespace sparseserve
