#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "server/scheduling/backlog.h"
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

  // The first of its kind, or null.
  Sequence* First(PromptKind kind) const;
  // Likewise, but leaves out those that can be met no more since their targets
  // passed, and that nobody has marked yet; some of them if they are of many
  // levels. Null also if all are such.
  Sequence* FirstInTime(PromptKind kind, absl::Time now) const;
  // The first late one of its kind, or null.
  Sequence* FirstLate(PromptKind kind) const;
  // One that is not marked, though its target passed; or null.
  Sequence* FirstMissed(absl::Time now) const;
  // One that is marked, though its target has not passed yet: another one with
  // each call, until all had their turn; or null.
  Sequence* NextDoubtful(absl::Time now);

  // REQUIRES: it waits, for these.
  const Rank& RankOf(const Sequence& sequence) const;
  PromptKind KindOf(const Sequence& sequence) const;
  // When its level rises next.
  absl::Time RisesAt(const Sequence& sequence) const;
  std::unique_ptr<Sequence> Take(const Sequence& sequence);
  // Marks it: puts it behind all that can be met, or among them.
  void SetLate(const Sequence& sequence, bool is_late);

  // What goes before `rank`.
  Backlog Ahead(const Rank& rank) const { return backlog_.Before(rank); }

  // Raises those that waited a period more, at most kPromotions of them. Who
  // was left out rises by all that it missed when its turn comes.
  static constexpr int kPromotions = 32;
  void Age(absl::Time now);

  // Takes out what is past its deadline, and what was cancelled: all of at most
  // kPolled sequences that wait, else some in each turn.
  static constexpr size_t kPolled = 512;
  std::vector<std::unique_ptr<Sequence>> TakeExpired(absl::Time now);
  std::vector<std::unique_ptr<Sequence>> TakeCancelled();
  std::vector<std::unique_ptr<Sequence>> TakeAll();

 private:
  struct Entry {
    std::unique_ptr<Sequence> sequence;
    Rank rank;
    PromptKind kind;
    absl::Time promotion;
    absl::Time target;  // of its first token, if that is still to come
    size_t place;       // in polled_
    Backlog backlog;    // its own
  };
  using TimedId = std::pair<absl::Time, SequenceId>;
  struct Polled {
    SequenceId id;
    const std::atomic<bool>* cancelled;
  };
  std::unique_ptr<Sequence> Remove(SequenceId id);
  void Link(const Entry& entry);
  void Unlink(const Entry& entry);
  void LinkTarget(const Entry& entry);
  void UnlinkTarget(const Entry& entry);

  const absl::Duration ageing_period_;
  absl::flat_hash_map<SequenceId, std::unique_ptr<Entry>> entries_;
  std::array<std::set<Rank>, kPromptKinds> lines_;
  std::set<TimedId> deadlines_;
  std::set<TimedId> promotions_;
  // Of those with a target: [is_late].
  std::array<std::set<TimedId>, 2> targets_;
  TimedId doubted_ = {absl::InfinitePast(), 0};  // what NextDoubtful() gave
  BacklogTree backlog_;
  std::vector<Polled> polled_;
  size_t next_polled_ = 0;
};

}  // namespace sparseserve
