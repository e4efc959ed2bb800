#include "tests/server/rpc/test_call.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "engine/base/str_cat.h"
#include "google/protobuf/message.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"

namespace sparseserve::testing {

struct TestChannel::State {
  std::shared_ptr<grpc::Channel> channel;
};

TestChannel::TestChannel(int port) : TestChannel(port, Options()) {}

TestChannel::TestChannel(int port, const Options& options)
    : state_(std::make_unique<State>()) {
  grpc::ChannelArguments arguments;
  // A connection of its own: tests count and break connections.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, -1);
  if (!options.service_config.empty()) {
    arguments.SetServiceConfigJSON(options.service_config);
  }
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, options.window_bytes);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  if (options.idle_ping != absl::InfiniteDuration()) {
    arguments.SetInt(
        GRPC_ARG_KEEPALIVE_TIME_MS,
        static_cast<int>(absl::ToInt64Milliseconds(options.idle_ping)));
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials =
      grpc::InsecureChannelCredentials();
  if (!options.ca.empty()) {
    credentials =
        grpc::SslCredentials({options.ca, options.key, options.certificate});
    arguments.SetSslTargetNameOverride("localhost");
  }
  state_->channel = grpc::CreateCustomChannel(StrCat("127.0.0.1:", port),
                                              credentials, arguments);
}

TestChannel::~TestChannel() = default;

bool TestChannel::StaysConnected(absl::Duration time) {
  return state_->channel->GetState(/*try_to_connect=*/false) ==
             GRPC_CHANNEL_READY &&
         !state_->channel->WaitForStateChange(
             GRPC_CHANNEL_READY, absl::ToChronoTime(absl::Now() + time));
}

struct TestCall::State {
  explicit State(TestChannel::State& channel) : stub(channel.channel) {}

  // Runs one operation to its end; false if it failed.
  bool Await() {
    void* tag = nullptr;
    bool ok = false;
    EXPECT_TRUE(queue.Next(&tag, &ok));
    return ok;
  }

  grpc::GenericStub stub;
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream;
  bool sent = false;
  bool exhausted = false;
  std::optional<grpc::Status> status;
};

TestCall::TestCall(TestChannel& channel, const std::string& method,
                   const std::string& request)
    : TestCall(channel, method, request, Options()) {}

TestCall::TestCall(TestChannel& channel, const std::string& method,
                   const std::string& request, const Options& options)
    : state_(std::make_unique<State>(*channel.state_)) {
  if (options.timeout != absl::InfiniteDuration()) {
    state_->context.set_deadline(
        absl::ToChronoTime(absl::Now() + options.timeout));
  }
  for (const auto& [key, value] : options.metadata) {
    state_->context.AddMetadata(key, value);
  }
  state_->stream =
      state_->stub.PrepareCall(&state_->context, method, &state_->queue);
  state_->stream->StartCall(nullptr);
  if (!state_->Await()) return;
  const grpc::Slice slice(request);
  // In one batch with the half-close, as a unary call or a server stream is.
  state_->stream->WriteLast(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(),
                            nullptr);
  state_->sent = state_->Await();
}

TestCall::~TestCall() {
  if (!state_->status.has_value()) {
    Cancel();
    Finish();
  }
  state_->queue.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (state_->queue.Next(&tag, &ok)) {
  }
}

std::optional<std::string> TestCall::Read() {
  if (!state_->sent || state_->exhausted) return std::nullopt;
  grpc::ByteBuffer message;
  state_->stream->Read(&message, nullptr);
  if (!state_->Await()) {
    state_->exhausted = true;
    return std::nullopt;
  }
  grpc::Slice slice;
  EXPECT_TRUE(message.DumpToSingleSlice(&slice).ok());
  return std::string(reinterpret_cast<const char*>(slice.begin()),
                     slice.size());
}

bool TestCall::Read(google::protobuf::Message& message) {
  const std::optional<std::string> bytes = Read();
  if (!bytes.has_value()) return false;
  EXPECT_TRUE(message.ParseFromString(*bytes));
  return true;
}

const grpc::Status& TestCall::Finish() {
  if (state_->status.has_value()) return *state_->status;
  while (Read().has_value()) {
  }
  grpc::Status status;
  state_->stream->Finish(&status, nullptr);
  state_->Await();
  state_->status = status;
  return *state_->status;
}

std::multimap<std::string, std::string> TestCall::trailers() const {
  std::multimap<std::string, std::string> trailers;
  for (const auto& [key, value] : state_->context.GetServerTrailingMetadata()) {
    trailers.emplace(std::string(key.data(), key.size()),
                     std::string(value.data(), value.size()));
  }
  return trailers;
}

void TestCall::Cancel() { state_->context.TryCancel(); }

}  // namespace sparseserve::testing
