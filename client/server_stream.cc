#include "client/server_stream.h"

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"
#include "grpcpp/support/status.h"

namespace sparseserve {
namespace {

bool Parse(const grpc::ByteBuffer& buffer,
           google::protobuf::MessageLite& message) {
  grpc::Slice bytes;
  return buffer.DumpToSingleSlice(&bytes).ok() &&
         message.ParseFromArray(bytes.begin(), static_cast<int>(bytes.size()));
}

}  // namespace

ServerStream::ServerStream(const std::shared_ptr<grpc::Channel>& channel,
                           const std::string& method,
                           const google::protobuf::MessageLite& request,
                           const CallOptions& options)
    : call_(options),
      stream_(grpc::GenericStub(channel).PrepareCall(&call_.context(), method,
                                                     &queue_)) {
  stream_->StartCall(nullptr);
  if (!Await()) return;
  const grpc::Slice bytes(request.SerializeAsString());
  const grpc::ByteBuffer buffer(&bytes, 1);
  stream_->WriteLast(buffer, grpc::WriteOptions(), nullptr);
  open_ = Await();
}

ServerStream::~ServerStream() {
  if (!finished_) {
    Cancel();
    Finish().IgnoreError();
  }
  queue_.Shutdown();
  while (Await()) {
  }
}

bool ServerStream::Await() {
  void* tag = nullptr;
  bool ok = false;
  return queue_.Next(&tag, &ok) && ok;
}

bool ServerStream::Read(google::protobuf::MessageLite& reply) {
  if (!open_) return false;
  grpc::ByteBuffer buffer;
  stream_->Read(&buffer, nullptr);
  open_ = Await();
  if (!open_) return false;
  if (!Parse(buffer, reply)) {
    unreadable_ = true;
    open_ = false;
    Cancel();
  }
  return open_;
}

absl::Status ServerStream::Finish() {
  grpc::Status status;
  stream_->Finish(&status, nullptr);
  Await();
  finished_ = true;
  if (unreadable_) {
    return absl::InternalError("the server sent a message that is malformed");
  }
  return call_.Result(status);
}

}  // namespace sparseserve
