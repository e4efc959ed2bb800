#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/status.h"

namespace sparseserve::testing {

// A connection to a server on this machine.
class TestChannel {
 public:
  struct Options {
    std::string service_config;  // JSON; empty for none
    // Pings an idle connection so often; infinite for never.
    absl::Duration idle_ping = absl::InfiniteDuration();
    // Takes no more of a stream than this before it is read; gRPC's own choice
    // is 4 MiB.
    int window_bytes = 4 << 20;
    // PEM: the CA of the server, whose certificate is localhost's, and what the
    // client shows, if anything. Without a CA, plaintext.
    std::string ca;
    std::string certificate;
    std::string key;
  };
  explicit TestChannel(int port);
  TestChannel(int port, const Options& options);
  ~TestChannel();

  // Waits for `time`, or until the connection that there is goes away.
  bool StaysConnected(absl::Duration time);

 private:
  friend class TestCall;
  struct State;
  std::unique_ptr<State> state_;
};

// One call, of any method, whose messages are bytes: also such as no well-bred
// client would send. One thread calls everything but Cancel().
class TestCall {
 public:
  struct Options {
    absl::Duration timeout = absl::Minutes(2);
    std::multimap<std::string, std::string> metadata;
  };
  // `method` such as "/sparseserve.v1.InferenceService/Generate". Sends
  // `request` and nothing else.
  TestCall(TestChannel& channel, const std::string& method,
           const std::string& request);
  TestCall(TestChannel& channel, const std::string& method,
           const std::string& request, const Options& options);
  ~TestCall();  // cancels what is not finished

  // The next message; nothing once there is none.
  std::optional<std::string> Read();
  // False once there is none.
  bool Read(google::protobuf::Message& message);

  // Reads what is left and returns how the call ended.
  const grpc::Status& Finish();
  // Of a finished call.
  std::multimap<std::string, std::string> trailers() const;

  void Cancel();  // any thread

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace sparseserve::testing
