#include "server/calibration/calibration.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <memory>
#include <utility>

#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/str_cat.h"
#include "engine/pattern/kernel_version.h"
#include "server/calibration/candidates.h"
#include "server/calibration/head_choice.h"
#include "server/calibration/plan_selection.h"
#include "server/calibration/text_runner.h"

namespace sparseserve {
namespace {

// Where the stages end, of the budget.
constexpr double kSurveyEnd = 0.45;
constexpr double kHeadPlansEnd = 0.6;
// A head plan may lose so many times what its heads do one by one.
constexpr double kMostJointLoss = 2;
constexpr double kRaisedShare = 0.05;  // of heads
constexpr int kMostPlans = 32;

// A text's runs, which begin with the dense one once somebody asks for any.
class LazyRunner {
 public:
  LazyRunner(Engine& engine, const CorpusText& text,
             TextRunner::Options options)
      : engine_(engine), text_(text), options_(std::move(options)) {}

  absl::StatusOr<TextRunner*> Get() {
    if (runner_ == nullptr) {
      ASSIGN_OR_RETURN(runner_,
                       TextRunner::Start(engine_, text_.tokens, options_));
    }
    return runner_.get();
  }

 private:
  Engine& engine_;
  const CorpusText& text_;
  const TextRunner::Options options_;
  std::unique_ptr<TextRunner> runner_;
};

class Calibrator {
 public:
  Calibrator(Engine& engine, const Corpus& corpus,
             const CalibrationOptions& options, MeasurementStore& store);

  absl::StatusOr<CalibrationResult> Run();

 private:
  using Measured = std::vector<const TextMeasurement*>;  // by texts

  absl::Status Survey();
  absl::Status TryHeads(const CorpusText& text, int number, LazyRunner& runner);
  absl::Status ChooseHeads();
  absl::Status MeasureHeadPlans(std::vector<Candidate> plans);
  absl::Status MeasureHeldOut(const std::vector<Candidate>& prompts,
                              const std::vector<Candidate>& outputs);
  absl::Status MeasurePrompt(const std::string& stage, const CorpusText& text,
                             const Candidate& plan, LazyRunner& runner);
  absl::Status MeasureOutputs(const std::string& stage, const CorpusText& text,
                              const std::vector<Candidate>& plans,
                              LazyRunner& runner);
  // What the survey says of a plan, the mean over texts and bands.
  PlanPoint PointOf(const Candidate& plan) const;
  std::vector<Candidate> Sparsest(const std::vector<Candidate>& plans) const;
  CalibratedPlan Describe(const Candidate& plan, Phase phase) const;

  LazyRunner RunnerFor(const CorpusText& text, int number,
                       const std::vector<LengthBand>& bands);
  // Whether a stage that may use the budget up to a share of it goes on, given
  // the texts that it has run.
  bool GoesOn(double share, int texts, int least);
  void Report(const std::string& doing, double work);
  double TextWork(const CorpusText& text) const;
  double HeadsWork() const;

  Engine& engine_;
  const Corpus& corpus_;
  const CalibrationOptions& options_;
  MeasurementStore& store_;
  const std::vector<LengthBand> survey_bands_;
  const std::vector<LayerGroup> groups_;
  std::vector<Candidate> prompts_;
  std::vector<Candidate> outputs_;
  const std::vector<HeadLevel> levels_;
  std::vector<std::vector<HeadOption>> heads_;  // [layers * KV heads][levels]
  CalibrationResult result_;
  const double began_;
  double text_began_ = 0;   // of the stage's last text
  double work_done_ = 0;    // in this run
  double work_passed_ = 0;  // with what the store had
  int stored_ = 0;          // when work was last reported
  double work_in_all_ = 0;
};

std::vector<LengthBand> WithoutLast(const std::vector<LengthBand>& bands) {
  if (bands.size() < 2) return bands;
  return {bands.begin(), bands.end() - 1};
}

// Runs of prompts of so many tokens cost about this, in rows.
double PromptWork(double tokens) {
  constexpr double kAsDearAsLinear = 6000;  // attention, at this length
  return tokens * (1 + tokens / kAsDearAsLinear);
}

Calibrator::Calibrator(Engine& engine, const Corpus& corpus,
                       const CalibrationOptions& options,
                       MeasurementStore& store)
    : engine_(engine),
      corpus_(corpus),
      options_(options),
      store_(store),
      survey_bands_(WithoutLast(options.bands)),
      groups_(GroupLayers(engine.info().layers, options.layer_groups)),
      prompts_(PromptCandidates(engine.info())),
      outputs_(OutputCandidates(engine.info())),
      levels_(HeadLevels(engine.info())),
      began_(options.stopwatch()),
      stored_(store.size()) {
  const auto plans = static_cast<double>(options.divergence_levels.size());
  for (const CorpusText& text : corpus.calibration) {
    work_in_all_ +=
        TextWork(text) * static_cast<double>(prompts_.size() + 1) + HeadsWork();
    work_in_all_ +=
        TextWork(text) * static_cast<double>(options.head_budgets.size() + 1);
  }
  for (const CorpusText& text : corpus.held_out) {
    work_in_all_ +=
        PromptWork(static_cast<double>(text.tokens.size())) * (plans + 2);
  }
}

double Calibrator::TextWork(const CorpusText& text) const {
  return PromptWork(
      std::min(static_cast<double>(text.tokens.size()),
               static_cast<double>(survey_bands_.back().max_tokens())));
}

double Calibrator::HeadsWork() const {
  // Of rows whose logits are compared.
  constexpr double kWorkOfRow = 2;
  return kWorkOfRow * options_.window_blocks * kPageTokens *
         static_cast<double>(levels_.size() - 1) * engine_.info().layers *
         engine_.info().kv_heads;
}

LazyRunner Calibrator::RunnerFor(const CorpusText& text, int number,
                                 const std::vector<LengthBand>& bands) {
  return LazyRunner(engine_, text,
                    {.bands = bands,
                     .counted = DrawBlocks(bands, options_.blocks_per_band,
                                           options_.seed, number),
                     .groups = groups_});
}

bool Calibrator::GoesOn(double share, int texts, int least) {
  const double now = options_.stopwatch();
  const double last = texts == 0 ? 0 : now - std::exchange(text_began_, now);
  if (texts == 0) text_began_ = now;
  if (texts < least || options_.budget_seconds <= 0) return true;
  return now - began_ + last <= share * options_.budget_seconds;
}

void Calibrator::Report(const std::string& doing, double work) {
  work_passed_ += work;
  // What the store had took no time.
  if (store_.size() != stored_) work_done_ += work;
  stored_ = store_.size();
  if (!options_.progress) return;
  const double done = std::min(work_passed_ / work_in_all_, 1.0);
  const double seconds = options_.stopwatch() - began_;
  double left = work_done_ <= 0 ? 0
                                : seconds / work_done_ *
                                      std::max(work_in_all_ - work_passed_, 0.);
  if (options_.budget_seconds > 0) {
    left = std::min(left, std::max(options_.budget_seconds - seconds, 0.0));
  }
  options_.progress({doing, done, left});
}

absl::Status Calibrator::MeasurePrompt(const std::string& stage,
                                       const CorpusText& text,
                                       const Candidate& plan,
                                       LazyRunner& runner) {
  const std::string key = StrCat(stage, "|", text.name, "|", plan.name);
  if (store_.FindText(key) != nullptr) return absl::OkStatus();
  ASSIGN_OR_RETURN(TextRunner* const running, runner.Get());
  ASSIGN_OR_RETURN(TextMeasurement measured, running->RunPrompt(plan.choice));
  return store_.AddText(key, std::move(measured));
}

absl::Status Calibrator::MeasureOutputs(const std::string& stage,
                                        const CorpusText& text,
                                        const std::vector<Candidate>& plans,
                                        LazyRunner& runner) {
  std::vector<AttentionChoice> choices;
  std::vector<std::string> keys;
  for (const Candidate& plan : plans) {
    std::string key = StrCat(stage, "|", text.name, "|", plan.name);
    if (store_.FindText(key) != nullptr) continue;
    keys.push_back(std::move(key));
    choices.push_back(plan.choice);
  }
  if (choices.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(TextRunner* const running, runner.Get());
  ASSIGN_OR_RETURN(std::vector<TextMeasurement> measured,
                   running->RunOutput(choices));
  for (size_t i = 0; i < keys.size(); ++i) {
    RETURN_IF_ERROR(store_.AddText(keys[i], std::move(measured[i])));
  }
  return absl::OkStatus();
}

// Each level of each head, all others dense: heads_ has the sums over texts.
absl::Status Calibrator::TryHeads(const CorpusText& text, int number,
                                  LazyRunner& runner) {
  const ModelInfo& info = engine_.info();
  const int heads = info.layers * info.kv_heads;
  const std::string key = StrCat("heads|", text.name);
  if (store_.FindOptions(key) == nullptr) {
    ASSIGN_OR_RETURN(TextRunner* const running, runner.Get());
    std::vector<AttentionChoice> choices;
    for (int head = 0; head < heads; ++head) {
      for (size_t level = 1; level < levels_.size(); ++level) {
        std::vector<int> level_of(heads, 0);
        level_of[head] = static_cast<int>(level);
        choices.push_back(MapOf(levels_, level_of, info));
      }
    }
    const int blocks = running->tokens() / kPageTokens;
    const int window = std::min(options_.window_blocks, blocks);
    // In the last third of the text, elsewhere in each.
    const int places = std::max((blocks - window) / 3, 1);
    const int first = blocks - window - (number * 7) % places;
    ASSIGN_OR_RETURN(std::vector<HeadOption> tried,
                     running->RunWindow(first, window, choices));
    // From shares of all heads to shares of the head's own.
    for (size_t i = 0; i < tried.size(); ++i) {
      const HeadLevel& level = levels_[i % (levels_.size() - 1) + 1];
      tried[i].cost = 1 - (1 - tried[i].cost) * heads + level.selection_cost;
    }
    RETURN_IF_ERROR(store_.AddOptions(key, std::move(tried)));
  }
  const std::vector<HeadOption>& tried = *store_.FindOptions(key);
  if (tried.size() != heads * (levels_.size() - 1)) {
    return absl::FailedPreconditionError(
        StrCat("the state file has ", tried.size(), " levels of heads, not ",
               heads * (levels_.size() - 1)));
  }
  heads_.resize(heads, std::vector<HeadOption>(levels_.size()));
  size_t next = 0;
  for (std::vector<HeadOption>& options : heads_) {
    options[0].cost += 1;
    for (size_t level = 1; level < levels_.size(); ++level, ++next) {
      options[level].cost += tried[next].cost;
      options[level].loss += tried[next].loss;
    }
  }
  return absl::OkStatus();
}

absl::Status Calibrator::Survey() {
  const auto texts = static_cast<int>(corpus_.calibration.size());
  for (int i = 0; i < texts && GoesOn(kSurveyEnd, i, 1); ++i) {
    const CorpusText& text = corpus_.calibration[i];
    LazyRunner runner = RunnerFor(text, i, survey_bands_);
    const std::string doing = StrCat("survey, text ", i + 1, " of ", texts);
    for (const Candidate& plan : prompts_) {
      RETURN_IF_ERROR(MeasurePrompt("survey", text, plan, runner));
      Report(doing, TextWork(text));
    }
    RETURN_IF_ERROR(MeasureOutputs("survey", text, outputs_, runner));
    Report(doing, TextWork(text));
    RETURN_IF_ERROR(TryHeads(text, i, runner));
    Report(doing, HeadsWork());
    ++result_.survey_texts;
    result_.profile.text.tokens += static_cast<int64_t>(text.tokens.size());
  }
  for (std::vector<HeadOption>& options : heads_) {
    for (HeadOption& option : options) {
      option.cost /= result_.survey_texts;
      option.loss /= result_.survey_texts;
    }
  }
  return absl::OkStatus();
}

constexpr char kDigestMark[] = "@";

// A plan of heads is stored by what they do, since that may change with the
// texts that were surveyed; a profile calls it by its budget.
std::string StoredName(double budget, const char* suffix,
                       const std::vector<int>& level_of) {
  std::string name =
      StrCat("heads-", std::lround(100 * budget), suffix, kDigestMark);
  for (const int level : level_of) name += static_cast<char>('a' + level);
  return name;
}
std::string ProfileName(const std::string& stored) {
  return stored.substr(0, stored.find(kDigestMark));
}

absl::Status Calibrator::MeasureHeadPlans(std::vector<Candidate> plans) {
  for (int i = 0; i < result_.survey_texts; ++i) {
    const CorpusText& text = corpus_.calibration[i];
    LazyRunner runner = RunnerFor(text, i, survey_bands_);
    for (const Candidate& plan : plans) {
      RETURN_IF_ERROR(MeasurePrompt("survey", text, plan, runner));
      Report(StrCat("heads, text ", i + 1, " of ", result_.survey_texts),
             TextWork(text));
    }
  }
  std::move(plans.begin(), plans.end(), std::back_inserter(prompts_));
  return absl::OkStatus();
}

absl::Status Calibrator::ChooseHeads() {
  const ModelInfo& info = engine_.info();
  const auto heads = static_cast<double>(heads_.size());
  GoesOn(kHeadPlansEnd, 0, 1);
  std::vector<Candidate> plans;
  std::vector<Candidate> raised;
  std::vector<std::vector<int>> levels_of;
  for (const double budget : options_.head_budgets) {
    levels_of.push_back(ChooseOptions(heads_, budget * heads));
    plans.push_back({StoredName(budget, "", levels_of.back()),
                     MapOf(levels_, levels_of.back(), info)});
  }
  RETURN_IF_ERROR(MeasureHeadPlans(plans));
  for (size_t i = 0; i < plans.size(); ++i) {
    if (PointOf(plans[i]).divergence <=
        kMostJointLoss * LossOf(heads_, levels_of[i])) {
      continue;
    }
    const std::vector<int> levels =
        RaiseWorst(heads_, levels_of[i], kRaisedShare);
    if (levels == levels_of[i]) continue;
    raised.push_back({StoredName(options_.head_budgets[i], "-raised", levels),
                      MapOf(levels_, levels, info)});
  }
  if (raised.empty() || !GoesOn(kHeadPlansEnd, 1, 1)) return absl::OkStatus();
  return MeasureHeadPlans(std::move(raised));
}

PlanPoint Calibrator::PointOf(const Candidate& plan) const {
  PlanPoint point = {.density = 0};
  int bands = 0;
  for (int i = 0; i < result_.survey_texts; ++i) {
    const TextMeasurement* const measured = store_.FindText(
        StrCat("survey|", corpus_.calibration[i].name, "|", plan.name));
    SPARSESERVE_CHECK(measured != nullptr);
    for (const BandMeasurement& band : *measured) {
      double sum = 0;
      for (const float divergence : band.divergences) sum += divergence;
      point.density += band.density;
      point.divergence += sum / static_cast<double>(band.divergences.size());
      ++bands;
    }
  }
  return {point.density / bands, point.divergence / bands};
}

std::vector<Candidate> Calibrator::Sparsest(
    const std::vector<Candidate>& plans) const {
  std::vector<PlanPoint> points;
  points.reserve(plans.size());
  for (const Candidate& plan : plans) points.push_back(PointOf(plan));
  std::vector<Candidate> sparsest;
  for (const int plan : SparsestWithin(points, options_.divergence_levels)) {
    sparsest.push_back(plans[plan]);
  }
  return sparsest;
}

absl::Status Calibrator::MeasureHeldOut(const std::vector<Candidate>& prompts,
                                        const std::vector<Candidate>& outputs) {
  const auto texts = static_cast<int>(corpus_.held_out.size());
  for (int i = 0; i < texts && GoesOn(1, i, 2); ++i) {
    const CorpusText& text = corpus_.held_out[i];
    const auto tokens = static_cast<double>(text.tokens.size());
    // Other blocks than those of the first half's texts.
    LazyRunner runner = RunnerFor(
        text, i + static_cast<int>(corpus_.calibration.size()), options_.bands);
    const std::string doing = StrCat("held-out text ", i + 1, " of ", texts);
    for (const Candidate& plan : prompts) {
      RETURN_IF_ERROR(MeasurePrompt("held out", text, plan, runner));
      Report(doing, PromptWork(tokens));
    }
    RETURN_IF_ERROR(MeasureOutputs("held out", text, outputs, runner));
    Report(doing, PromptWork(tokens));
    ++result_.held_out_texts;
    result_.profile.text.held_out_tokens +=
        static_cast<int64_t>(text.tokens.size());
  }
  result_.profile.text.tokens += result_.profile.text.held_out_tokens;
  return absl::OkStatus();
}

CalibratedPlan Calibrator::Describe(const Candidate& plan, Phase phase) const {
  CalibratedPlan described = {ProfileName(plan.name), plan.choice};
  std::vector<PlanQuality>& bands = described.quality[static_cast<int>(phase)];
  for (size_t band = 0; band < options_.bands.size(); ++band) {
    std::vector<const BandMeasurement*> texts;
    for (int i = 0; i < result_.held_out_texts; ++i) {
      const TextMeasurement* const measured = store_.FindText(
          StrCat("held out|", corpus_.held_out[i].name, "|", plan.name));
      SPARSESERVE_CHECK(measured != nullptr);
      if (band < measured->size()) texts.push_back(&(*measured)[band]);
    }
    if (texts.empty()) break;
    bands.push_back(SummariseBand(texts, groups_,
                                  options_.bands[band].min_tokens(),
                                  options_.bands[band].max_tokens()));
  }
  return described;
}

absl::StatusOr<CalibrationResult> Calibrator::Run() {
  const ModelInfo& info = engine_.info();
  SPARSESERVE_CHECK(!info.weights_sha256.empty());
  result_.profile.model = {info.name,     info.weights_sha256, info.layers,
                           info.kv_heads, info.context_tokens, kKernelVersion};
  result_.profile.text.sha256 = corpus_.sha256;
  result_.profile.text.seed = options_.seed;
  RETURN_IF_ERROR(Survey());
  RETURN_IF_ERROR(ChooseHeads());
  const std::vector<Candidate> prompts = Sparsest(prompts_);
  const std::vector<Candidate> outputs = Sparsest(outputs_);
  RETURN_IF_ERROR(MeasureHeldOut(prompts, outputs));
  std::vector<CalibratedPlan> plans;
  plans.reserve(prompts.size() + outputs.size());
  for (const Candidate& plan : prompts) {
    plans.push_back(Describe(plan, Phase::kPrefill));
  }
  for (const Candidate& plan : outputs) {
    plans.push_back(Describe(plan, Phase::kDecode));
  }
  result_.profile.plans = OrderPlans(std::move(plans), kMostPlans);
  result_.seconds = options_.stopwatch() - began_;
  result_.full_seconds =
      work_done_ > 0 ? result_.seconds / work_done_ * work_in_all_ : 0;
  return std::move(result_);
}

}  // namespace

absl::StatusOr<CalibrationResult> Calibrate(Engine& engine,
                                            const Corpus& corpus,
                                            const CalibrationOptions& options,
                                            MeasurementStore& store) {
  return Calibrator(engine, corpus, options, store).Run();
}

}  // namespace sparseserve
