#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/scheduling/rank.h"
#include "server/scheduling/sequence.h"

namespace sparseserve {

// Sequences that wait for a place, in order of rank. Owns them. What each call
// costs grows with the logarithm of how many wait. Serving thread only.
class WaitingLine {
 public:
  // Each time that so much has passed, a sequence's level rises by one.
  explicit WaitingLine(absl::Duration ageing_period);

  void Add(std::unique_ptr<Sequence> sequence, const Rank& rank,
           PromptKind kind, absl::Time now);

  int size() const { return static_cast<int>(entries_.size()); }
  // Waiting ones that can be met.
  int meetable() const { return meetable_; }

  // The first of its kind, or null.
  Sequence* First(PromptKind kind) const;
  // REQUIRES: it waits, for these.
  const Rank& RankOf(const Sequence& sequence) const;
  std::unique_ptr<Sequence> Take(const Sequence& sequence);
  // Puts it behind all that can be met.
  void SetLate(const Sequence& sequence);

  // What goes before `rank`, and some of what has almost the same deadline.
  struct Backlog {
    int requests = 0;
    StepWork work;  // that their prompts need
  };
  Backlog Ahead(const Rank& rank) const;

  void Age(absl::Time now);

  // Takes out what is past its deadline, and what was cancelled: all of at most
  // kPolled sequences that wait, else some in each turn.
  static constexpr size_t kPolled = 128;
  std::vector<std::unique_ptr<Sequence>> TakeExpired(absl::Time now);
  std::vector<std::unique_ptr<Sequence>> TakeCancelled();
  std::vector<std::unique_ptr<Sequence>> TakeAll();

 private:
  struct Entry {
    std::unique_ptr<Sequence> sequence;
    Rank rank;
    PromptKind kind;
    absl::Time promotion;
    size_t place;  // in polled_
    StepWork work;
  };
  struct Polled {
    SequenceId id;
    const std::atomic<bool>* cancelled;
  };
  // With the deadline's whole seconds alone: few, however many wait.
  static Rank CoarseRank(const Rank& rank);
  std::unique_ptr<Sequence> Remove(SequenceId id);
  void Link(Entry& entry);
  void Unlink(const Entry& entry);

  const absl::Duration ageing_period_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Entry>> entries_;
  std::array<std::set<Rank>, kPromptKinds> lines_;
  std::set<std::pair<absl::Time, SequenceId>> deadlines_;
  std::set<std::pair<absl::Time, SequenceId>> promotions_;
  std::map<Rank, Backlog> backlog_;  // by CoarseRank()
  std::vector<Polled> polled_;
  size_t next_polled_ = 0;
  int meetable_ = 0;
};

}  // namespace sparseserve
