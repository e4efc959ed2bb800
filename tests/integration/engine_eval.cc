// Writes the logits that the engine gives to a text, for comparison with other
// software (tests/golden/logits/compare.py):
//
//   engine_eval --model=MODEL.gguf --tokens=ids.bin --out=logits.bin
//
// `ids.bin` holds int32 token ids; the output holds a float32 row of the whole
// vocabulary per token. Both are little-endian without a header.

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "tests/integration/engine_sequence.h"
#include "tests/testing/default_model.h"

ABSL_FLAG(std::string, model, "", "model file; empty takes the default model");
ABSL_FLAG(std::string, tokens, "", "file of int32 token ids: one sequence");
ABSL_FLAG(std::string, out, "/dev/stdout", "file or pipe for float32 logits");
ABSL_FLAG(std::string, compute_dtype, "auto", "auto, f32 or bf16");
ABSL_FLAG(std::string, device, "cpu", "cpu, cuda or auto");
ABSL_FLAG(std::string, simd, "auto", "cap on the SIMD path, such as avx2");
ABSL_FLAG(int, chunk_tokens, 256, "tokens per prefill step");
ABSL_FLAG(bool, decode, false, "feed token by token in decode steps");

namespace sparseserve {
namespace {

absl::StatusOr<std::vector<TokenId>> ReadTokens(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot open ", path));
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  std::vector<TokenId> tokens(bytes.size() / sizeof(TokenId));
  bytes.copy(reinterpret_cast<char*>(tokens.data()),
             tokens.size() * sizeof(TokenId));
  return tokens;
}

absl::Status Run() {
  ASSIGN_OR_RETURN(const std::vector<TokenId> tokens,
                   ReadTokens(absl::GetFlag(FLAGS_tokens)));
  const std::string model = absl::GetFlag(FLAGS_model);
  ASSIGN_OR_RETURN(
      std::unique_ptr<Engine> engine,
      LoadEngine(model.empty() ? testing::DefaultModelPath() : model,
                 absl::GetFlag(FLAGS_compute_dtype), absl::GetFlag(FLAGS_simd),
                 absl::GetFlag(FLAGS_device)));
  std::fprintf(stderr, "%s\n", engine->DeviceSummary().c_str());
  std::ofstream out(absl::GetFlag(FLAGS_out), std::ios::binary);
  const Feeding feeding = {
      absl::GetFlag(FLAGS_decode) ? Phase::kDecode : Phase::kPrefill,
      absl::GetFlag(FLAGS_chunk_tokens)};
  RETURN_IF_ERROR(FeedText(
      *engine, tokens, feeding, [&](int, absl::Span<const float> rows) {
        out.write(reinterpret_cast<const char*>(rows.data()),
                  rows.size() * sizeof(float));
      }));
  out.close();
  return out ? absl::OkStatus()
             : absl::UnavailableError("cannot write the logits");
}

}  // namespace
}  // namespace sparseserve

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("writes the logits of a text");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = sparseserve::Run();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
