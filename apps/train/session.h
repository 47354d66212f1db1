// One training session: what lives while a run is worked on. Internal to trainer.cpp and its tests.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>

#include "apps/profile/step_kernels.h"
#include "apps/run/events.h"
#include "apps/run/metrics.h"
#include "apps/run/progress.h"
#include "apps/run/run_folder.h"
#include "apps/run/stop_request.h"
#include "apps/train/batch_stage.h"
#include "apps/train/build.h"
#include "apps/train/checkpoints.h"
#include "apps/train/evaluate.h"
#include "apps/train/plan_table.h"
#include "apps/train/samples.h"
#include "apps/train/trainer.h"
#include "apps/train/updates.h"
#include "autograd/context.h"
#include "autograd/telemetry.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "quant/scale_history.h"
#include "tensor/profile.h"
#include "tensor/recorded_work.h"

namespace nibble::train {

// The tokenizer that samples are drawn with, null when there are none. Throws Error("train") for a
// dataset whose tokens have no text.
std::unique_ptr<Tokenizer> sample_tokenizer(const TrainConfig& config);

class Session {
 public:
  explicit Session(const TrainOptions& options);
  Outcome run();

 private:
  struct StepResult {
    double loss = 0, norm = 0;
    bool skipped = false;
    double host_seconds = 0;  // until all was queued; in a long graph the host waits for room
  };
  void restore();
  void start_from(const std::filesystem::path& path);
  StepResult step();
  void keep_kernels();
  // Queues the forward and backward pass of the batch that batches_ holds there.
  void micro_step(std::int64_t micro, Tape& tape, Telemetry* telemetry);
  // Queues all of a step whose batches are in place: no wait, no copy from or to the host.
  void queue_step(Telemetry* telemetry);
  void run_step(Telemetry* telemetry);
  void in_shared_memory(const std::function<void()>& work);
  void handle_not_finite(std::int64_t position, double loss, double norm);
  void save();
  void evaluate_now();
  void sample_now();  // samples.cpp
  void log(const StepResult& result, double seconds);
  void log_telemetry();
  Json state() const;
  NamedTensors tensors() const;
  bool due(std::int64_t every) const { return every > 0 && step_ % every == 0; }
  bool sample_due() const {
    const std::int64_t every = config_.samples.every;
    return due(every > 0 ? every : config_.trainer.eval_every);
  }

  TrainOptions options_;
  const TrainConfig& config_;
  UsedPlans plans_;
  std::optional<profile::StepKernels> kernels_;
  Dataset dataset_;
  std::unique_ptr<Tokenizer> tokenizer_;  // null when no samples are drawn
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<Parameter*> parameters_;
  std::int64_t sequence_;
  run::RunFolder folder_;
  run::StopRequest stop_;
  std::unique_ptr<TokenLoader> loader_;
  std::unique_ptr<run::MetricsWriter> metrics_;
  std::unique_ptr<run::EventWriter> events_;
  std::unique_ptr<SampleLog> samples_;
  run::ProgressLine progress_;
  StepState state_;
  BatchStage batches_;
  profile::Steps profile_;
  Schedule schedule_;
  Tape tape_;
  Updates updates_;
  Telemetry telemetry_;
  ScaleHistory scales_;
  std::optional<RecordedWork> recorded_;  // of a whole step; none: kernel by kernel
  bool warm_ = false;                     // a step has run
  OperationCount operations_;             // of the step that was queued last
  std::uint64_t skipped_ = 0;
  std::int64_t step_ = 0;  // updates finished (skipped ones included)
  std::int64_t resumed_at_ = -1;
  std::int64_t saved_at_ = -1;  // step of the newest checkpoint written or restored
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace nibble::train
