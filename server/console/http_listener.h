#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/console/http_reply.h"
#include "server/console/http_request.h"

namespace sparseserve {

// Answers GET requests on a thread of its own: one request a connection, all
// connections on that thread, so that however many come they take one core at
// most. What is not a whole request in time, or too long, is closed; where the
// most connections are open a new one takes the place of the one that has
// waited longest for its request.
class HttpListener {
 public:
  struct Options {
    // host:port, of IPv6 [host]:port; port 0 picks one, an empty host stands
    // for all addresses.
    std::string address;
    int max_connections = 64;
    int max_request_bytes = 8 << 10;
    // Until a request is there, and until its answer was taken.
    absl::Duration request_timeout = absl::Seconds(5);
    absl::Duration reply_timeout = absl::Seconds(10);
    absl::Duration tick_every = absl::Seconds(1);
  };
  // All are called on the listener's thread, which they hold up; `now` must not
  // step back.
  struct Handlers {
    std::function<absl::Time()> now;
    std::function<HttpReply(const std::string& path)> get;
    std::function<void()> tick;  // at the start, then each `tick_every`
  };

  // Listens when it returns. INVALID_ARGUMENT for what is not one address,
  // UNAVAILABLE for one that cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Start(Options options,
                                                             Handlers handlers);
  ~HttpListener();
  HttpListener(const HttpListener&) = delete;
  HttpListener& operator=(const HttpListener&) = delete;

  int port() const { return port_; }

 private:
  struct Connection;

  struct Sockets {
    int listener = -1;
    int stop_event = -1;  // readable: the thread is to end
  };

  HttpListener(Options options, Handlers handlers, Sockets sockets);

  void Run();
  // Waits for sockets, at most until `until`. False if the listener is to end.
  bool Wait(absl::Time until);
  void Accept();
  void Serve(Connection& connection);
  void Read(Connection& connection);
  void Write(Connection& connection);
  void Drain(Connection& connection);
  void Answer(Connection& connection);

  const Options options_;
  const Handlers handlers_;
  const Sockets sockets_;
  const int port_;
  // The thread's.
  std::vector<std::unique_ptr<Connection>> connections_;
  bool accepts_ = true;  // the last accept did not fail for want of something
  std::thread thread_;
};

}  // namespace sparseserve
