// Usage: outside SERVER PROMPT. Streams the answer to standard output.

#include <sparseserve/client/client.h>
#include <sparseserve/client/error_details.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto client = sparseserve::Client::Connect({.server = argv[1]});
  if (!client.ok()) return 2;
  sparseserve::v1::GenerateOptions options;
  options.set_text(argv[2]);
  const auto report = (*client)->Generate(
      options, [](const sparseserve::v1::OutputDelta& output) {
        std::cout << output.text() << std::flush;
        return true;
      });
  if (!report.ok()) {
    std::cerr << sparseserve::DescribeError(report.status()) << "\n";
    return 1;
  }
  std::cout << "\n" << report->model() << "\n";
  return 0;
}
