#include "server/scheduling/waiting_line.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace sparseserve {
namespace {

// Most that one call of Age() raises: who waits longer rises in the next one.
constexpr int kPromotions = 64;

size_t Index(PromptKind kind) { return static_cast<size_t>(kind); }

}  // namespace

WaitingLine::WaitingLine(absl::Duration ageing_period)
    : ageing_period_(ageing_period) {
  SPARSESERVE_CHECK(ageing_period > absl::ZeroDuration());
}

void WaitingLine::Add(std::unique_ptr<Sequence> sequence, const Rank& rank,
                      PromptKind kind, absl::Time now) {
  const SequenceId id = sequence->id();
  SPARSESERVE_CHECK(rank.id == id);
  auto entry = std::make_unique<Entry>();
  entry->rank = rank;
  entry->kind = kind;
  entry->promotion = now + ageing_period_;
  entry->place = polled_.size();
  entry->work = sequence->WorkOf(sequence->tokens_to_run());
  polled_.push_back({id, sequence->request().cancelled.get()});
  deadlines_.insert({sequence->request().deadline, id});
  entry->sequence = std::move(sequence);
  Link(*entry);
  SPARSESERVE_CHECK(entries_.emplace(id, std::move(entry)).second);
}

Rank WaitingLine::CoarseRank(const Rank& rank) {
  Rank coarse = rank;
  coarse.id = 0;
  if (rank.deadline != absl::InfinitePast() &&
      rank.deadline != absl::InfiniteFuture()) {
    coarse.deadline = absl::FromUnixSeconds(absl::ToUnixSeconds(rank.deadline));
  }
  return coarse;
}

void WaitingLine::Link(Entry& entry) {
  lines_[Index(entry.kind)].insert(entry.rank);
  promotions_.insert({entry.promotion, entry.rank.id});
  Backlog& backlog = backlog_[CoarseRank(entry.rank)];
  ++backlog.requests;
  backlog.work += entry.work;
  if (!entry.rank.is_late) ++meetable_;
}

void WaitingLine::Unlink(const Entry& entry) {
  lines_[Index(entry.kind)].erase(entry.rank);
  promotions_.erase({entry.promotion, entry.rank.id});
  const auto backlog = backlog_.find(CoarseRank(entry.rank));
  if (--backlog->second.requests == 0) {
    backlog_.erase(backlog);
  } else {
    backlog->second.work -= entry.work;
  }
  if (!entry.rank.is_late) --meetable_;
}

Sequence* WaitingLine::First(PromptKind kind) const {
  const std::set<Rank>& line = lines_[Index(kind)];
  if (line.empty()) return nullptr;
  return entries_.at(line.begin()->id)->sequence.get();
}

const Rank& WaitingLine::RankOf(const Sequence& sequence) const {
  return entries_.at(sequence.id())->rank;
}

std::unique_ptr<Sequence> WaitingLine::Take(const Sequence& sequence) {
  return Remove(sequence.id());
}

std::unique_ptr<Sequence> WaitingLine::Remove(SequenceId id) {
  const auto found = entries_.find(id);
  SPARSESERVE_CHECK(found != entries_.end());
  Entry& entry = *found->second;
  Unlink(entry);
  deadlines_.erase({entry.sequence->request().deadline, id});
  polled_[entry.place] = polled_.back();
  entries_.at(polled_[entry.place].id)->place = entry.place;
  polled_.pop_back();
  std::unique_ptr<Sequence> sequence = std::move(entry.sequence);
  entries_.erase(found);
  return sequence;
}

void WaitingLine::SetLate(const Sequence& sequence) {
  Entry& entry = *entries_.at(sequence.id());
  Unlink(entry);
  entry.rank.is_late = true;
  Link(entry);
}

WaitingLine::Backlog WaitingLine::Ahead(const Rank& rank) const {
  Backlog ahead;
  const Rank coarse = CoarseRank(rank);
  for (const auto& [key, backlog] : backlog_) {
    if (coarse < key) break;
    ahead.requests += backlog.requests;
    ahead.work += backlog.work;
  }
  return ahead;
}

void WaitingLine::Age(absl::Time now) {
  for (int i = 0; i < kPromotions && !promotions_.empty(); ++i) {
    const auto [time, id] = *promotions_.begin();
    if (time > now) return;
    Entry& entry = *entries_.at(id);
    Unlink(entry);
    ++entry.rank.level;
    entry.promotion += ageing_period_;
    Link(entry);
  }
}

std::vector<std::unique_ptr<Sequence>> WaitingLine::TakeExpired(
    absl::Time now) {
  std::vector<std::unique_ptr<Sequence>> expired;
  while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
    expired.push_back(Remove(deadlines_.begin()->second));
  }
  return expired;
}

std::vector<std::unique_ptr<Sequence>> WaitingLine::TakeCancelled() {
  std::vector<std::unique_ptr<Sequence>> cancelled;
  for (size_t left = std::min(kPolled, polled_.size()); left > 0; --left) {
    if (next_polled_ >= polled_.size()) next_polled_ = 0;
    const Polled& polled = polled_[next_polled_];
    if (!polled.cancelled->load(std::memory_order_relaxed)) {
      ++next_polled_;
      continue;
    }
    // The last one takes its place.
    cancelled.push_back(Remove(polled.id));
  }
  return cancelled;
}

std::vector<std::unique_ptr<Sequence>> WaitingLine::TakeAll() {
  std::vector<std::unique_ptr<Sequence>> all;
  while (!polled_.empty()) all.push_back(Remove(polled_.back().id));
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a->id() < b->id(); });
  return all;
}

}  // namespace sparseserve
