#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/mutex.h"
#include "server/scheduling/token_sink.h"

namespace sparseserve::testing {

// Keeps what it is given. Thread-safe.
class RecordingSink : public TokenSink {
 public:
  // Is full after `capacity` pieces.
  explicit RecordingSink(int capacity = std::numeric_limits<int>::max());

  bool Emit(OutputPiece piece) override;
  void Finish(const FinishReport& report) override;
  void Fail(const Failure& failure) override;

  void WaitForPieces(int pieces) const;
  void WaitUntilEnded() const;

  std::string text() const;  // of all pieces
  std::vector<TokenId> token_ids() const;
  std::vector<OutputPiece> pieces() const;

  int ends() const;  // calls of Finish() and Fail()
  bool emitted_after_end() const;
  std::optional<FinishReport> report() const;  // if Finish() was called
  absl::Status status() const;                 // of Fail(), else OK
  std::optional<ErrorReason> reason() const;   // likewise

 private:
  const int capacity_;
  mutable Mutex mu_;
  mutable CondVar changed_;
  std::vector<OutputPiece> pieces_ ABSL_GUARDED_BY(mu_);
  int ends_ ABSL_GUARDED_BY(mu_) = 0;
  bool emitted_after_end_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<FinishReport> report_ ABSL_GUARDED_BY(mu_);
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  std::optional<ErrorReason> reason_ ABSL_GUARDED_BY(mu_);
};

}  // namespace sparseserve::testing
