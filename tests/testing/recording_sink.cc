#include "tests/testing/recording_sink.h"

#include <utility>

namespace sparseserve::testing {

RecordingSink::RecordingSink(int capacity) : capacity_(capacity) {}

bool RecordingSink::Emit(OutputPiece piece) {
  MutexLock lock(mu_);
  emitted_after_end_ |= ends_ > 0;
  if (static_cast<int>(pieces_.size()) >= capacity_) return false;
  pieces_.push_back(std::move(piece));
  changed_.NotifyAll();
  return true;
}

void RecordingSink::Finish(const FinishReport& report) {
  MutexLock lock(mu_);
  ++ends_;
  report_ = report;
  changed_.NotifyAll();
}

void RecordingSink::Fail(const Failure& failure) {
  MutexLock lock(mu_);
  ++ends_;
  status_ = failure.status;
  reason_ = failure.reason;
  changed_.NotifyAll();
}

void RecordingSink::WaitForPieces(int pieces) const {
  MutexLock lock(mu_);
  while (static_cast<int>(pieces_.size()) < pieces) changed_.Wait(mu_);
}

void RecordingSink::WaitUntilEnded() const {
  MutexLock lock(mu_);
  while (ends_ == 0) changed_.Wait(mu_);
}

std::string RecordingSink::text() const {
  MutexLock lock(mu_);
  std::string text;
  for (const OutputPiece& piece : pieces_) text += piece.text;
  return text;
}

std::vector<TokenId> RecordingSink::token_ids() const {
  MutexLock lock(mu_);
  std::vector<TokenId> ids;
  for (const OutputPiece& piece : pieces_) {
    ids.insert(ids.end(), piece.token_ids.begin(), piece.token_ids.end());
  }
  return ids;
}

std::vector<OutputPiece> RecordingSink::pieces() const {
  MutexLock lock(mu_);
  return pieces_;
}

int RecordingSink::ends() const {
  MutexLock lock(mu_);
  return ends_;
}

bool RecordingSink::emitted_after_end() const {
  MutexLock lock(mu_);
  return emitted_after_end_;
}

std::optional<FinishReport> RecordingSink::report() const {
  MutexLock lock(mu_);
  return report_;
}

absl::Status RecordingSink::status() const {
  MutexLock lock(mu_);
  return status_;
}

std::optional<ErrorReason> RecordingSink::reason() const {
  MutexLock lock(mu_);
  return reason_;
}

}  // namespace sparseserve::testing
