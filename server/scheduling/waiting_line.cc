#include "server/scheduling/waiting_line.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "engine/base/check.h"
#include "server/scheduling/feasibility.h"

namespace sparseserve {
namespace {

// Levels in which FirstInTime() leaves something out.
constexpr int kLevels = 8;

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
  entry->target = sequence->progress() == Progress::kDecode
                      ? absl::InfiniteFuture()
                      : TargetDeadline(sequence->request());
  entry->backlog = {
      .requests = 1,
      .work = sequence->WorkAhead(),
      .output_tokens = static_cast<double>(sequence->output_left())};
  polled_.push_back({id, sequence->request().cancelled.get()});
  deadlines_.insert({sequence->request().deadline, id});
  promotions_.insert({entry->promotion, id});
  entry->sequence = std::move(sequence);
  Link(*entry);
  LinkTarget(*entry);
  SPARSESERVE_CHECK(entries_.emplace(id, std::move(entry)).second);
}

void WaitingLine::Link(const Entry& entry) {
  lines_[Index(entry.kind)].insert(entry.rank);
  backlog_.Add(entry.rank, entry.backlog);
}

void WaitingLine::Unlink(const Entry& entry) {
  lines_[Index(entry.kind)].erase(entry.rank);
  backlog_.Remove(entry.rank);
}

void WaitingLine::LinkTarget(const Entry& entry) {
  if (entry.target == absl::InfiniteFuture()) return;
  targets_[entry.rank.is_late ? 1 : 0].insert({entry.target, entry.rank.id});
}

void WaitingLine::UnlinkTarget(const Entry& entry) {
  targets_[entry.rank.is_late ? 1 : 0].erase({entry.target, entry.rank.id});
}

Sequence* WaitingLine::First(PromptKind kind) const {
  const std::set<Rank>& line = lines_[Index(kind)];
  if (line.empty()) return nullptr;
  return entries_.at(line.begin()->id)->sequence.get();
}

Sequence* WaitingLine::FirstInTime(PromptKind kind, absl::Time now) const {
  const std::set<Rank>& line = lines_[Index(kind)];
  auto first = line.begin();
  for (int level = 0; level < kLevels && first != line.end(); ++level) {
    // What began before has no deadline, and goes first of its level.
    if (first->is_late || first->deadline >= now ||
        first->deadline == absl::InfinitePast()) {
      break;
    }
    first = line.lower_bound({.level = first->level, .deadline = now});
  }
  if (first == line.end()) return nullptr;
  return entries_.at(first->id)->sequence.get();
}

Sequence* WaitingLine::FirstLate(PromptKind kind) const {
  const std::set<Rank>& line = lines_[Index(kind)];
  const auto first =
      line.lower_bound({.is_late = true,
                        .level = std::numeric_limits<int64_t>::max(),
                        .deadline = absl::InfinitePast()});
  if (first == line.end()) return nullptr;
  return entries_.at(first->id)->sequence.get();
}

Sequence* WaitingLine::FirstMissed(absl::Time now) const {
  const std::set<TimedId>& targets = targets_[0];
  if (targets.empty() || targets.begin()->first >= now) return nullptr;
  return entries_.at(targets.begin()->second)->sequence.get();
}

Sequence* WaitingLine::NextDoubtful(absl::Time now) {
  const std::set<TimedId>& late = targets_[1];
  const TimedId begin = {now, 0};
  auto next = late.upper_bound(std::max(doubted_, begin));
  if (next == late.end()) next = late.lower_bound(begin);
  if (next == late.end()) return nullptr;
  doubted_ = *next;
  return entries_.at(next->second)->sequence.get();
}

const Rank& WaitingLine::RankOf(const Sequence& sequence) const {
  return entries_.at(sequence.id())->rank;
}

PromptKind WaitingLine::KindOf(const Sequence& sequence) const {
  return entries_.at(sequence.id())->kind;
}

absl::Time WaitingLine::RisesAt(const Sequence& sequence) const {
  return entries_.at(sequence.id())->promotion;
}

std::unique_ptr<Sequence> WaitingLine::Take(const Sequence& sequence) {
  return Remove(sequence.id());
}

std::unique_ptr<Sequence> WaitingLine::Remove(SequenceId id) {
  const auto found = entries_.find(id);
  SPARSESERVE_CHECK(found != entries_.end());
  Entry& entry = *found->second;
  Unlink(entry);
  UnlinkTarget(entry);
  promotions_.erase({entry.promotion, id});
  deadlines_.erase({entry.sequence->request().deadline, id});
  polled_[entry.place] = polled_.back();
  entries_.at(polled_[entry.place].id)->place = entry.place;
  polled_.pop_back();
  std::unique_ptr<Sequence> sequence = std::move(entry.sequence);
  entries_.erase(found);
  return sequence;
}

void WaitingLine::SetLate(const Sequence& sequence, bool is_late) {
  Entry& entry = *entries_.at(sequence.id());
  Unlink(entry);
  UnlinkTarget(entry);
  entry.rank.is_late = is_late;
  Link(entry);
  LinkTarget(entry);
}

void WaitingLine::Age(absl::Time now) {
  for (int i = 0; i < kPromotions && !promotions_.empty(); ++i) {
    const auto [time, id] = *promotions_.begin();
    if (time > now) return;
    Entry& entry = *entries_.at(id);
    const int64_t periods = PeriodsSince(time, now, ageing_period_);
    Unlink(entry);
    promotions_.erase(promotions_.begin());
    entry.rank.level += periods;
    entry.promotion += periods * ageing_period_;
    promotions_.insert({entry.promotion, id});
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
