#include "server/rpc/admin_service.h"

#include <memory>
#include <utility>

#include "server/rpc/method_names.h"
#include "server/rpc/unary_call.h"

namespace sparseserve {

AdminService::AdminService(Dependencies dependencies)
    : d_(std::move(dependencies)) {}

grpc::ServerUnaryReactor* AdminService::Drain(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return AnswerCall<v1::DrainRequest, v1::DrainResponse>(
      {*context, *request, *response, NewRecord(*context, kDrainMethod)},
      d_.observer, [this](const v1::DrainRequest&) {
        d_.drain();
        return absl::StatusOr<v1::DrainResponse>(v1::DrainResponse());
      });
}

grpc::ServerUnaryReactor* AdminService::FlushPrefixCache(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  // The loop answers when it comes to it, which may be a step later: not with
  // AnswerCall().
  const auto record = std::make_shared<CallRecord>(
      NewRecord(*context, kFlushPrefixCacheMethod));
  d_.observer.Started(*record);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto end = [this, record, context,
                    reactor](const absl::Status& status) {
    reactor->Finish(EndStatus(status, *record, *context));
    d_.observer.Finished(*record, status);
  };
  absl::Status status = record->access;
  if (status.ok()) status = SettleRequestId(*context, "", *record);
  v1::FlushPrefixCacheRequest message;
  if (status.ok()) status = ParseRequest(*request, message);
  if (!status.ok()) {
    end(status);
    return reactor;
  }
  d_.flush_prefix_cache([end, response](const absl::StatusOr<int>& pages) {
    if (pages.ok()) {
      v1::FlushPrefixCacheResponse answer;
      answer.set_flushed_pages(*pages);
      *response = Serialize(answer);
    }
    end(pages.status());
  });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ReloadSecurityFiles(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
    grpc::ByteBuffer* response) {
  return AnswerCall<v1::ReloadSecurityFilesRequest,
                    v1::ReloadSecurityFilesResponse>(
      {*context, *request, *response,
       NewRecord(*context, kReloadSecurityFilesMethod)},
      d_.observer, [this](const v1::ReloadSecurityFilesRequest&) {
        d_.reload_security_files();
        return absl::StatusOr<v1::ReloadSecurityFilesResponse>(
            v1::ReloadSecurityFilesResponse());
      });
}

CallRecord AdminService::NewRecord(const grpc::CallbackServerContext& context,
                                   const char* method) const {
  CallRecord record = RecordOf(context, method, d_.clock());
  record.is_audited = true;
  record.peer = context.peer();
  if (d_.access != nullptr) record.access = d_.access->Check(context, record);
  return record;
}

}  // namespace sparseserve
