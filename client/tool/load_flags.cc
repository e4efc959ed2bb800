#include "client/tool/load_flags.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/tool/prompt.h"

namespace sparseserve {
namespace {

constexpr int64_t kWordBytes = 1 << 18;
constexpr int kMaxPrefixTokens = 1 << 24;
// More is a slip of the keyboard.
constexpr double kMaxRamp = 100'000;
constexpr absl::Duration kMaxReplay = absl::Hours(24 * 31);

absl::Status FlagError(absl::string_view flag, absl::string_view value,
                       absl::string_view wrong) {
  return absl::InvalidArgumentError(
      absl::StrCat("flag --", flag, "=", value, ": ", wrong));
}

}  // namespace

std::vector<Flag> LoadFlags::flags() {
  return {
      {"rate", "RAMP",
       "open loop: requests a second, at random times; a\nnumber or points in "
       "time to go through: 1@0s,8@60s",
       &rate_flag_},
      {"concurrency", "RAMP", "closed loop: requests at once; likewise",
       &concurrency_flag_},
      {"trace", "FILE",
       "CSV with arrival_s,prompt_tokens,output_tokens:\nlengths in turn, and "
       "the times too unless --rate or\n--concurrency says when",
       &trace_file_},
      {"arrival_scale", "X",
       "multiply the trace's times: 2 takes twice as long", &arrival_scale_},
      {"duration", "TIME", "send for this time", &duration_},
      {"requests", "N", "send as many requests", &requests_},
      {"class", "NAME:KEY=VALUE,...",
       "requests that ask for the same; may be repeated.\nKeys: share, ttft, "
       "tpot, total, on_miss, deadline,\npriority, plan, prompt_tokens, "
       "output_tokens",
       &class_flags_},
      {"prompt_tokens", "N", "length of prompts, or MIN..MAX; default 256",
       &prompt_tokens_flag_},
      {"output_tokens", "N", "length of outputs, or MIN..MAX; default 64",
       &output_tokens_flag_},
      {"text", "FILE",
       "cut prompts from this text; default: words in random\norder",
       &text_file_},
      {"prefix_tokens", "N", "first tokens that prompts share; default 0",
       &prefix_tokens_},
      {"prefixes", "N", "how many different shared prefixes; default 1",
       &prefixes_},
      {"cancel_share", "X", "of the requests, 0 to 1, that are cancelled",
       &cancel_share_},
      {"cancel_after", "TIME", "when to cancel them; default 1s",
       &cancel_after_},
      {"seed", "N", "the same seed sends the same requests; default 1", &seed_},
  };
}

absl::Status LoadFlags::Read() {
  absl::Status read = ReadSchedule();
  if (read.ok()) read = ReadTrace();
  if (read.ok()) read = ReadRequests();
  if (read.ok()) read = ReadCancels();
  if (!read.ok()) return read;
  if (text_file_.empty()) {
    text_ = WordText(kWordBytes, seed());
    return absl::OkStatus();
  }
  auto text = ReadPrompt({}, text_file_);
  if (!text.ok()) return text.status();
  text_ = *std::move(text);
  return absl::OkStatus();
}

absl::Status LoadFlags::ReadSchedule() {
  if (!rate_flag_.empty() && !concurrency_flag_.empty()) {
    return absl::InvalidArgumentError(
        "flags --rate and --concurrency are an open and a closed loop: give "
        "one");
  }
  if (rate_flag_.empty() && concurrency_flag_.empty() && trace_file_.empty()) {
    return absl::InvalidArgumentError(
        "give --rate, --concurrency or --trace: it says when requests are "
        "sent");
  }
  const bool has_end = duration_.has_value() || requests_.has_value();
  const bool replays = rate_flag_.empty() && concurrency_flag_.empty();
  if (!has_end && !replays) {
    return absl::InvalidArgumentError(
        "give --duration or --requests: it says when to end");
  }
  if (duration_.has_value() && *duration_ <= absl::ZeroDuration()) {
    return FlagError("duration", absl::FormatDuration(*duration_),
                     "expected a time above 0");
  }
  if (requests_.has_value() && *requests_ < 1) {
    return FlagError("requests", absl::StrCat(*requests_),
                     "expected 1 or more");
  }
  for (auto [flag, text, ramp] :
       {std::tuple("rate", &rate_flag_, &rate_),
        std::tuple("concurrency", &concurrency_flag_, &concurrency_)}) {
    if (text->empty()) continue;
    auto read = Ramp::Parse(*text);
    if (!read.ok()) return FlagError(flag, *text, read.status().message());
    if (read->Max() > kMaxRamp) {
      return FlagError(flag, *text,
                       absl::StrCat("expected at most ", kMaxRamp));
    }
    *ramp = *std::move(read);
  }
  return absl::OkStatus();
}

absl::Status LoadFlags::ReadTrace() {
  if (arrival_scale_.has_value() &&
      (!(*arrival_scale_ > 0) || !std::isfinite(*arrival_scale_))) {
    return FlagError("arrival_scale", absl::StrCat(*arrival_scale_),
                     "expected a number above 0");
  }
  const bool replays =
      !trace_file_.empty() && rate_flag_.empty() && concurrency_flag_.empty();
  if (arrival_scale_.has_value() && !replays) {
    return FlagError("arrival_scale", absl::StrCat(*arrival_scale_),
                     "no --trace says when requests are sent");
  }
  if (trace_file_.empty()) return absl::OkStatus();
  auto text = ReadPrompt({}, trace_file_);
  if (!text.ok()) return text.status();
  auto trace = ParseTrace(*text, trace_file_);
  if (!trace.ok()) return trace.status();
  trace_ = *std::move(trace);
  for (const TraceRequest& request : trace_) {
    plan_.recorded.push_back({request.prompt_tokens, request.output_tokens});
  }
  if (replays &&
      trace_.back().arrival * arrival_scale_.value_or(1) > kMaxReplay) {
    return FlagError("arrival_scale", absl::StrCat(arrival_scale_.value_or(1)),
                     absl::StrCat("the trace would take more than ",
                                  absl::FormatDuration(kMaxReplay)));
  }
  return absl::OkStatus();
}

absl::Status LoadFlags::ReadRequests() {
  for (const std::string& flag : class_flags_) {
    auto read = ParseLoadClass(flag);
    if (!read.ok()) return FlagError("class", flag, read.status().message());
    for (const LoadClass& other : plan_.classes) {
      if (other.name == read->name) {
        return FlagError("class", flag, "there is one of this name already");
      }
    }
    plan_.classes.push_back(*std::move(read));
  }
  if (plan_.classes.empty()) plan_.classes.push_back({.name = "default"});
  auto prompts = ParseLengthRange(prompt_tokens_flag_);
  if (!prompts.ok()) {
    return FlagError("prompt_tokens", prompt_tokens_flag_,
                     prompts.status().message());
  }
  auto outputs = ParseLengthRange(output_tokens_flag_);
  if (!outputs.ok()) {
    return FlagError("output_tokens", output_tokens_flag_,
                     outputs.status().message());
  }
  plan_.prompt_tokens = *prompts;
  plan_.output_tokens = *outputs;
  const int prefix_tokens = prefix_tokens_.value_or(0);
  if (prefix_tokens < 0 || prefix_tokens > kMaxPrefixTokens) {
    return FlagError("prefix_tokens", absl::StrCat(prefix_tokens),
                     absl::StrCat("expected 0 to ", kMaxPrefixTokens));
  }
  plan_.prefixes = prefixes_.value_or(1);
  if (plan_.prefixes < 1) {
    return FlagError("prefixes", absl::StrCat(plan_.prefixes),
                     "expected 1 or more");
  }
  plan_.seed = seed();
  return absl::OkStatus();
}

absl::Status LoadFlags::ReadCancels() {
  plan_.cancel_share = cancel_share_.value_or(0);
  if (!(plan_.cancel_share >= 0 && plan_.cancel_share <= 1)) {
    return FlagError("cancel_share", absl::StrCat(plan_.cancel_share),
                     "expected 0 to 1");
  }
  plan_.cancel_after = cancel_after_.value_or(absl::Seconds(1));
  if (plan_.cancel_after < absl::ZeroDuration()) {
    return FlagError("cancel_after", absl::FormatDuration(plan_.cancel_after),
                     "expected 0 or more");
  }
  return absl::OkStatus();
}

absl::Duration LoadFlags::duration() const {
  return duration_.value_or(absl::InfiniteDuration());
}

int64_t LoadFlags::requests() const {
  if (requests_.has_value()) return *requests_;
  const bool replays = !rate_.has_value() && !concurrency_.has_value();
  return replays ? static_cast<int64_t>(trace_.size()) : 0;
}

ArrivalSchedule LoadFlags::Schedule() const {
  ArrivalSchedule::Limits limits;
  limits.duration = duration();
  if (requests_.has_value()) limits.requests = *requests_;
  if (concurrency_.has_value()) {
    return ArrivalSchedule::Closed(*concurrency_, limits);
  }
  if (rate_.has_value()) {
    return ArrivalSchedule::Poisson(*rate_, limits, seed());
  }
  std::vector<absl::Duration> times;
  for (const TraceRequest& request : trace_) {
    times.push_back(request.arrival * arrival_scale_.value_or(1));
  }
  return ArrivalSchedule::AtTimes(std::move(times), limits);
}

RequestPlan LoadFlags::Plan() const { return RequestPlan(plan_); }

PromptSource::Options LoadFlags::Prefixes() const {
  return {.prefix_tokens = prefix_tokens_.value_or(0),
          .prefixes = plan_.prefixes};
}

}  // namespace sparseserve
