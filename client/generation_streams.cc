#include "client/generation_streams.h"

#include <utility>

#include "client/generation_stream.h"

namespace sparseserve {

GenerationStreams::GenerationStreams(
    const std::shared_ptr<grpc::Channel>& channel)
    : stub_(channel) {}

GenerationStreams::~GenerationStreams() {
  {
    std::unique_lock lock(mu_);
    none_.wait(lock, [this] { return running_ == 0; });
  }
  queue_.Shutdown();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    Run();
  }
}

void GenerationStreams::Start(const v1::StreamGenerateRequest& request,
                              const CallOptions& call, OnOutput on_output,
                              OnEnd on_end) {
  {
    const std::lock_guard lock(mu_);
    ++running_;
    if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  }
  GenerationStream::Start(stub_, queue_, request, call, std::move(on_output),
                          std::move(on_end));
}

void GenerationStreams::Run() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    auto* stream = static_cast<GenerationStream*>(tag);
    if (!stream->Proceed(ok)) continue;
    delete stream;
    const std::lock_guard lock(mu_);
    if (--running_ == 0) none_.notify_all();
  }
}

}  // namespace sparseserve
