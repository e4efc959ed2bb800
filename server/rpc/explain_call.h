#pragma once

#include <memory>
#include <vector>

#include "engine/profile/attention_profile.h"
#include "server/rpc/admission.h"
#include "server/rpc/explanation.h"
#include "server/rpc/generation_calls.h"
#include "server/rpc/tokenizer_worker.h"

namespace sparseserve {

// InferenceService.ExplainAttention: a generation whose prompt is measured.
// Deletes itself when gRPC is done with it.
class ExplainCall final : public GenerationCall,
                          public grpc::ServerUnaryReactor {
 public:
  struct Dependencies {  // all outlive the call
    GenerationCall::Dependencies generation;
    Admission& admission;
    ExplanationDesk& desk;
    TokenizerWorker& worker;
  };
  // `response` lives as long as the call.
  ExplainCall(grpc::CallbackServerContext& context, grpc::ByteBuffer& response,
              CallRecord record, const Dependencies& dependencies);

  // Has the prompt run, or ends the call with what is wrong. Once.
  void Start(const grpc::ByteBuffer& request);

 private:
  // What the run measured. Apart from the call, which can end before it.
  struct Measured {
    std::shared_ptr<AttentionProfile> profile;
    std::vector<TokenId> prompt;
  };

  absl::StatusOr<ExplanationOptions> Parse(
      const grpc::ByteBuffer& bytes, v1::ExplainAttentionRequest& request);
  void StartWrite(OutputPiece piece) override;
  void EndCall(OutputPiece rest, const TokenStream::End& end) override;
  void Answer(const FinishReport& report);
  void OnCancel() override { stream()->Cancelled(); }
  void OnDone() override;

  grpc::ByteBuffer& response_;
  const Dependencies d_;
  std::shared_ptr<Measured> measured_ = std::make_shared<Measured>();
};

}  // namespace sparseserve
