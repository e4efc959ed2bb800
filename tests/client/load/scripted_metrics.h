#pragma once

#include <string>
#include <thread>
#include <vector>

namespace sparseserve {

// An HTTP listener on this machine that gives its replies in turn, one for each
// connection, whatever is asked, and takes none after the last. Construct,
// connect, destroy: one thread.
class ScriptedMetrics {
 public:
  explicit ScriptedMetrics(std::vector<std::string> replies);
  ~ScriptedMetrics();
  ScriptedMetrics(const ScriptedMetrics&) = delete;
  ScriptedMetrics& operator=(const ScriptedMetrics&) = delete;

  const std::string& address() const { return address_; }

  // A whole reply that holds `body`.
  static std::string Ok(const std::string& body) {
    return "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + body;
  }

 private:
  void Serve();

  std::vector<std::string> replies_;
  int listener_ = -1;
  std::string address_;
  std::thread thread_;
};

}  // namespace sparseserve
