// A client of its own process, for tests that stop or kill one: streams an
// answer and prints a line a message.
//
//   stream_client PORT TOKENS

#include <cstdio>
#include <cstdlib>
#include <string>

#include "sparseserve/v1/inference_service.pb.h"
#include "tests/server/rpc/test_call.h"

int main(int argc, char** argv) {
  using sparseserve::testing::TestCall;
  using sparseserve::testing::TestChannel;
  if (argc != 3) return 2;
  TestChannel channel(std::atoi(argv[1]), {.window_bytes = 65'535});
  sparseserve::v1::StreamGenerateRequest request;
  auto& options = *request.mutable_options();
  options.set_text("Once upon a time");
  options.mutable_stop()->set_max_output_tokens(std::atoi(argv[2]));
  options.mutable_stop()->set_ignore_eos(true);
  // Half a kilobyte a token: a reader that stops is noticed soon.
  options.mutable_logprobs()->set_top_k(20);
  TestCall call(channel, "/sparseserve.v1.InferenceService/StreamGenerate",
                request.SerializeAsString());
  while (call.Read().has_value()) {
    std::puts("message");
    std::fflush(stdout);
  }
  std::printf("status %d\n", static_cast<int>(call.Finish().error_code()));
  return 0;
}
