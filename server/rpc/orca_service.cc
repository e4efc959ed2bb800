#include "server/rpc/orca_service.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "absl/time/time.h"
#include "engine/base/mutex.h"
#include "grpcpp/alarm.h"
#include "server/rpc/status_details.h"

namespace sparseserve {
namespace {

constexpr absl::Duration kDefaultInterval = absl::Seconds(30);
constexpr absl::Duration kLeastInterval = absl::Seconds(1);
constexpr absl::Duration kMostInterval = absl::Hours(24);
constexpr char kMethod[] =
    "xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

absl::Duration IntervalOf(
    const xds::service::orca::v3::OrcaLoadReportRequest& request) {
  if (!request.has_report_interval()) return kDefaultInterval;
  return std::clamp(absl::Seconds(request.report_interval().seconds()) +
                        absl::Nanoseconds(request.report_interval().nanos()),
                    kLeastInterval, kMostInterval);
}

// A call that may not go on. Deletes itself when gRPC is done with it.
class RefusedStream final
    : public grpc::ServerWriteReactor<LoadReporter::Report> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

// One client's reports. Deletes itself when gRPC is done with it.
class LoadStream final : public grpc::ServerWriteReactor<LoadReporter::Report> {
 public:
  LoadStream(LoadReporter& reporter, absl::Duration interval)
      : reporter_(reporter), interval_(interval) {
    MutexLock lock(link_->mu);
    link_->stream = this;
    Write(*link_);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(link_->mu);
    link_->writing = false;
    if (ok && !link_->cancelled) {
      StartTimer();
    } else {
      End(*link_);
    }
  }

  void OnCancel() override {
    MutexLock lock(link_->mu);
    link_->cancelled = true;
    // Else OnWriteDone does it.
    if (!link_->writing) End(*link_);
  }

  void OnDone() override {
    {
      MutexLock lock(link_->mu);
      link_->stream = nullptr;
    }
    delete this;
  }

 private:
  // What a timer holds on to, which can come when the stream is gone.
  struct Link {
    Mutex mu;
    LoadStream* stream ABSL_GUARDED_BY(mu) = nullptr;
    bool writing ABSL_GUARDED_BY(mu) = false;
    bool cancelled ABSL_GUARDED_BY(mu) = false;
    bool ended ABSL_GUARDED_BY(mu) = false;
  };

  // `link` is this stream's.
  void Write(Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(link.mu) {
    link.writing = true;
    report_ = reporter_.Current();
    StartWrite(&report_);
  }

  // Once: a write can fail before the cancellation is told.
  void End(Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(link.mu) {
    if (link.ended) return;
    link.ended = true;
    Finish(grpc::Status::CANCELLED);
  }

  void StartTimer() {
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(std::chrono::system_clock::now() +
                    absl::ToChronoMilliseconds(interval_),
                [link = link_](bool expired) {
                  MutexLock lock(link->mu);
                  if (!expired || link->ended || link->stream == nullptr) {
                    return;
                  }
                  link->stream->Write(*link);
                });
  }

  LoadReporter& reporter_;
  const absl::Duration interval_;
  const std::shared_ptr<Link> link_ = std::make_shared<Link>();
  LoadReporter::Report report_;  // being written
  std::unique_ptr<grpc::Alarm> alarm_;
};

}  // namespace

grpc::ServerWriteReactor<LoadReporter::Report>* OrcaService::StreamCoreMetrics(
    grpc::CallbackServerContext* context,
    const xds::service::orca::v3::OrcaLoadReportRequest* request) {
  CallRecord record;
  record.method = kMethod;
  const absl::Status access = access_.Check(*context, record);
  if (!access.ok()) return new RefusedStream(ToGrpcStatus(access, ""));
  return new LoadStream(reporter_, IntervalOf(*request));
}

}  // namespace sparseserve
