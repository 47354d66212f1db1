#include "apps/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "apps/run/run_info.h"
#include "apps/train/session.h"
#include "apps/train/weights.h"
#include "optim/encodings.h"
#include "quant/recipe.h"
#include "tensor/atomic_file.h"
#include "tensor/held_memory.h"
#include "tensor/ops.h"

namespace nibble::train {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// All that configuration and data decide is checked before the folder is touched: a run that cannot
// work leaves nothing behind.
std::unique_ptr<LanguageModel> checked_model(const TrainConfig& config, const Dataset& dataset,
                                             Device device) {
  check_available(device);
  NIBBLE_CHECK(!config.model.vocab || config.model.vocab >= dataset.vocab_size, "train",
               "model.vocab: got {}, expected at least the {} tokens of {}'s tokenizer",
               config.model.vocab, dataset.vocab_size, config.data.path.string());
  const MemoryScope scope("parameters");
  return build_model(config, dataset.vocab_size, device);
}

bool wants_graph(const TrainOptions& options, const Optimizer& optimizer) {
  const bool possible = RecordedWork::supported(options.device) && optimizer.recordable();
  if (options.graph == GraphUse::On) {
    NIBBLE_CHECK(RecordedWork::supported(options.device), "train",
                 "--graph on: got device {}, expected a GPU", options.device);
    NIBBLE_CHECK(optimizer.recordable(), "train",
                 "--graph on: the optimizer {} reads its scalars on the host; use --graph off",
                 optimizer.name());
  }
  return possible && options.graph != GraphUse::Off;
}

UsedPlans checked_plans(const TrainOptions& options) {
  check_available(options.device);  // plans are looked at beside the device's name
  return use_plan_table(options.config.tune, options.device);
}

std::optional<profile::StepKernels> checked_kernels(const TrainOptions& options) {
  const profile::Range steps = options.kernels;
  if (steps.first == 0) return std::nullopt;
  NIBBLE_CHECK(steps.last <= options.config.trainer.steps, "kernels",
               "got steps up to {}, expected at most the run's {}", steps.last,
               options.config.trainer.steps);
  return std::make_optional<profile::StepKernels>(steps, options.device);
}

}  // namespace

Session::Session(const TrainOptions& options)
    : options_(options),
      config_(options_.config),
      plans_(checked_plans(options_)),
      kernels_(checked_kernels(options_)),
      dataset_(read_dataset(config_.data.path)),
      tokenizer_(sample_tokenizer(config_)),
      model_(checked_model(config_, dataset_, options.device)),
      optimizer_(build_optimizer(config_, *model_)),
      parameters_(parameters(*model_)),
      sequence_(sequence_of(config_, *model_)),
      folder_(options.output,
              options.resume ? run::RunFolder::Mode::Resume : run::RunFolder::Mode::New),
      progress_(options.log, run::ProgressOptions::for_stream(options.log)),
      state_(options.device),
      batches_(config_.trainer.accumulation, config_.trainer.batch, sequence_, options.device),
      profile_(options.profile),
      schedule_(schedule_of(config_.trainer)),
      updates_(config_.trainer, *optimizer_, state_, tape_),
      scales_(options.device) {
  // What weights and states were made through has other sizes than what a step needs.
  if (options.device.is_cuda()) release_cached_memory(options.device);
  if (!updates_.in_backward()) allocate_gradients(parameters_);
  if (wants_graph(options_, *optimizer_)) recorded_.emplace(options.device);
  loader_ = std::make_unique<TokenLoader>(shard_paths(config_.data.path, dataset_.train),
                                          LoaderOptions{.batch = config_.trainer.batch,
                                                        .length = sequence_,
                                                        .vocab_size = model_->vocab(),
                                                        .order = WindowOrder::Shuffled,
                                                        .seed = config_.trainer.seed});
  std::filesystem::create_directories(folder_.checkpoints());
  if (!plans_.note.empty()) progress_.message("warning: " + plans_.note);
  if (options_.resume)
    restore();
  else if (!options_.init.empty())
    start_from(options_.init);
  run::truncate_metrics_after(folder_.metrics(), step_);
  run::truncate_events_after(folder_.events(), step_);
  run::truncate_metrics_after(folder_.path() / kSamplesFile, step_);
  run::RunInfo info = run::describe_run(write_config(config_), options_.command,
                                        fmt::format("{:016x}", content_hash(dataset_)));
  info.plan_hash = plans_.hash;
  run::record_session(folder_.info(), info);
  metrics_ = std::make_unique<run::MetricsWriter>(folder_.metrics());
  events_ = std::make_unique<run::EventWriter>(folder_.events());
  if (tokenizer_) samples_ = std::make_unique<SampleLog>(folder_.path() / kSamplesFile, step_);
  if (step_ == 0)
    events_->text(0, "config", fmt::format("```json\n{}\n```", write_config(config_).dump(2)));
}

Json Session::state() const {
  // Nothing that depends on time, machine or folder: two runs of one configuration end in equal
  // bytes.
  Json config = write_config(config_);
  Json state = {{"config", config},
                {"vocab", dataset_.vocab_size},
                {"data_hash", fmt::format("{:016x}", content_hash(dataset_))},
                {"optimizer", optimizer_->name()},
                {"processor", processor_name(options_.device)},
                {"step", step_},
                {"position", loader_->position()}};
  if (!plans_.hash.empty()) state["plans"] = plans_.hash;
  return state;
}

TrainConfig config_of(const Json& state) {
  NIBBLE_CHECK(state.contains("config"), "checkpoint", "holds no configuration");
  return read_recorded_config(state["config"]);
}

NamedTensors Session::tensors() const {
  NamedTensors all = weight_tensors(*model_);
  for (auto& state : optimizer_->state_tensors()) all.push_back(std::move(state));
  for (auto& history : scales_.tensors()) all.push_back(std::move(history));
  return all;
}

void Session::restore() {
  if (list_checkpoints(folder_.checkpoints()).empty()) {
    progress_.message(
        fmt::format("{} has no checkpoint yet: beginning at step 0", options_.output.string()));
    return;
  }
  const Checkpoint checkpoint = open_newest(folder_.checkpoints(), [&](const std::string& text) {
    progress_.message("warning: " + text);
  });
  const nlohmann::json& state = checkpoint.state();
  const std::string hash = fmt::format("{:016x}", content_hash(dataset_));
  NIBBLE_CHECK(state.value("data_hash", "") == hash, "resume",
               "{} holds other data than the run was trained on: got hash {}, expected {}",
               config_.data.path.string(), hash, state.value("data_hash", ""));
  NIBBLE_CHECK(state.value("optimizer", "") == optimizer_->name(), "resume",
               "got optimizer {}, expected {}", optimizer_->name(), state.value("optimizer", ""));
  const std::string here = processor_name(options_.device);
  if (const std::string there = state.value("processor", here); there != here)
    progress_.message(fmt::format(
        "warning: the checkpoint was written on {} and goes on on {}: not bit-exact", there, here));
  const auto name_of = [](const std::string& plans) {
    return plans.empty() ? std::string("without a table of plans") : "with the plans " + plans;
  };
  if (const std::string before = state.value("plans", ""); before != plans_.hash)
    progress_.message(
        fmt::format("warning: the checkpoint was written {} and goes on {}: not bit-exact",
                    name_of(before), name_of(plans_.hash)));
  for (const SafetensorsFile::Entry& e : checkpoint.file().entries())
    scales_.expect(e.name, e.shape);
  checkpoint.restore(tensors(), true);
  for (Parameter* p : parameters_) p->bump_version();
  skipped_ = optimizer_->skipped();
  step_ = state.value("step", std::int64_t{0});
  saved_at_ = resumed_at_ = step_;
  loader_->seek(state.value("position", std::int64_t{0}));
  progress_.message(fmt::format("resuming {} at step {}", options_.output.string(), step_));
}

void Session::start_from(const std::filesystem::path& path) {
  const Checkpoint checkpoint =
      open_any(path, [&](const std::string& text) { progress_.message("warning: " + text); });
  const std::int64_t vocab = state_number(checkpoint.state(), "vocab");
  NIBBLE_CHECK(vocab == dataset_.vocab_size, "train",
               "--init: the weights know a vocabulary of {} tokens, expected the {} of {}", vocab,
               dataset_.vocab_size, config_.data.path.string());
  load_weights(*model_, checkpoint);
  save();  // a resume must find these weights, not the file they came from
  progress_.message(fmt::format("weights from {}", checkpoint.file().path().string()));
}

void Session::micro_step(std::int64_t micro, Tape& tape, Telemetry* telemetry) {
  const TrainerConfig& t = config_.trainer;
  const ForwardScope scope({.training = true,
                            .seed = t.seed,
                            .step = state_.step_pointer(),
                            .micro_step = static_cast<std::uint32_t>(micro),
                            .telemetry = telemetry,
                            .scales = &scales_});
  const MemoryScope memory("activations");
  const BatchStage::Pair& batch = batches_[micro];
  const Tape::Recording recording(tape);
  std::optional<ProfileRange> range("forward");
  const Var loss = model_->loss(batch.ids, batch.targets);
  const auto parts = static_cast<double>(t.accumulation);
  accumulate_loss(state_, loss.tensor(), parts);
  range.emplace("backward");
  tape.backward(loss, Tensor::full(loss.shape(), 1.0 / parts, loss.dtype(), loss.device()));
}

void Session::queue_step(Telemetry* telemetry) {
  const OperationCount before = operation_count();
  for (std::int64_t micro = 0; micro < config_.trainer.accumulation; ++micro)
    micro_step(micro, tape_, telemetry);
  const ProfileRange range("update");
  updates_.finish();
  scales_.advance(state_);
  operations_ = operation_count() - before;
}

// A recording keeps its memory; between its replays the rest may have it.
void Session::in_shared_memory(const std::function<void()>& work) {
  if (recorded_ && recorded_->recorded())
    recorded_->run(work);
  else
    work();
}

// The first step runs kernel by kernel: libraries choose their plans and buffers find their places,
// which a recording must not do. So does every step that something looks into.
void Session::run_step(Telemetry* telemetry) {
  const bool watched = telemetry || profile_.covers(step_ + 1);
  if (!recorded_ || watched || !warm_) {
    in_shared_memory([&] { queue_step(telemetry); });
    warm_ = true;
    return;
  }
  // A replay knows the encodings that the recording found, and no others.
  keep_encodings(parameters_);
  if (!recorded_->recorded()) recorded_->record([&] { queue_step(nullptr); });
  recorded_->replay();
}

Session::StepResult Session::step() {
  const TrainerConfig& t = config_.trainer;
  const profile::Step profiled(profile_, step_ + 1, options_.device);
  if (kernels_) kernels_->begin(step_ + 1);
  const auto begin = std::chrono::steady_clock::now();
  state_.begin(static_cast<std::uint32_t>(step_), schedule_(step_));
  const std::int64_t position = loader_->position();
  for (std::int64_t micro = 0; micro < t.accumulation; ++micro)
    batches_.put(micro, loader_->next());
  run_step(due(t.telemetry_every) ? &telemetry_ : nullptr);
  const double host_seconds = seconds_since(begin);
  const StepScalars end = state_.read();
  const StepResult result{
      .loss = end.loss, .norm = end.norm, .skipped = end.bad != 0, .host_seconds = host_seconds};
  if (scales_.settle(result.skipped)) warm_ = false;
  if (result.skipped) {
    if (t.on_not_finite == NotFinite::Stop) handle_not_finite(position, result.loss, result.norm);
    state_.clear_bad();
    ++skipped_;
  }
  ++step_;
  if (kernels_) keep_kernels();
  return result;
}

void Session::keep_kernels() {
  if (const auto found = kernels_->end(step_, operations_))
    write_file_atomically(folder_.path() / kKernelsFile, profile::to_json(*found).dump(1) + "\n",
                          "kernels");
}

void Session::handle_not_finite(std::int64_t position, double loss, double norm) {
  // A NaN's sign is an accident of the instructions that made it.
  if (std::isnan(loss)) loss = std::fabs(loss);
  if (std::isnan(norm)) norm = std::fabs(norm);
  optimizer_->zero_grad();
  loader_->seek(position);
  Tape tape;
  tape.set_check_finite(true);
  updates_.forget_gradients(tape);
  try {
    in_shared_memory([&] {
      for (std::int64_t micro = 0; micro < config_.trainer.accumulation; ++micro) {
        batches_.put(micro, loader_->next());
        micro_step(micro, tape, nullptr);
      }
    });
  } catch (const Error& e) {
    if (e.op() != "not finite") throw;
    fail("train",
         "step {}: the loss is {} and the gradient norm {}: {}; the last checkpoint is at step {}",
         step_, loss, norm, e.what(), saved_at_);
  }
  // Updates in backward have changed weights meanwhile: the second pass is another one.
  fail("train",
       "step {}: the loss is {} and the gradient norm {}, yet every operation of the batch is "
       "finite{}; lower trainer.lr",
       step_, loss, norm,
       config_.trainer.update == UpdateTime::AtEnd
           ? ": the norm overflowed"
           : " with the weights that were updated before it was seen");
}

void Session::save() {
  if (saved_at_ == step_ || config_.trainer.keep == 0) return;
  save_checkpoint(checkpoint_path(folder_.checkpoints(), step_), state(), tensors());
  saved_at_ = step_;
  prune_checkpoints(folder_.checkpoints(), config_.trainer.keep);
}

void Session::evaluate_now() {
  if (dataset_.val.tokens < 2) return;
  EvalResult r;
  in_shared_memory([&] {
    r = evaluate(*model_, config_.data.path, "val",
                 {.batch = config_.trainer.batch,
                  .sequence = sequence_,
                  .max_batches = config_.trainer.eval_batches});
  });
  Json row = {{"step", step_}, {"val_loss", r.all.loss()}, {"val_tokens", r.all.tokens}};
  std::string text = fmt::format("step {}  validation loss {:.4f}", step_, r.all.loss());
  if (r.all.text_bytes) {
    row["val_bits_per_byte"] = r.all.bits_per_byte();
    text += fmt::format("  {:.4f} bits a byte", r.all.bits_per_byte());
  }
  for (const auto& [source, part] : r.strata) row["val_strata"][source] = part.loss();
  progress_.message(text);
  // A run that is resumed where it had ended evaluates again; what it finds is on record.
  if (step_ == resumed_at_) {
    const std::vector<Json> known = run::read_metrics(folder_.metrics());
    const Json written = Json::parse(row.dump());  // where not-finite numbers are null
    if (std::find(known.begin(), known.end(), written) != known.end()) return;
  }
  if (r.all.text_bytes) events_->scalar(step_, "val/bits_per_byte", r.all.bits_per_byte());
  metrics_->write(row);
  events_->scalar(step_, "val/loss", r.all.loss());
}

void Session::log(const StepResult& r, double seconds) {
  const TrainerConfig& t = config_.trainer;
  const auto tokens = static_cast<double>(t.batch * t.accumulation * sequence_);
  const double rate = seconds > 0 ? tokens / seconds : 0, lr = schedule_(step_ - 1);
  const MemoryStats memory = memory_stats(options_.device);
  progress_.update({.step = step_,
                    .steps = t.steps,
                    .loss = r.loss,
                    .learning_rate = lr,
                    .gradient_norm = r.norm,
                    .tokens_per_second = rate,
                    .memory_bytes = static_cast<std::uint64_t>(memory.peak)});
  if (!due(t.log_every) && step_ != t.steps && !r.skipped) return;
  Json row = {{"step", step_},
              {"loss", r.loss},
              {"lr", lr},
              {"grad_norm", r.norm},
              {"tokens_per_second", rate},
              {"tokens", static_cast<std::int64_t>(tokens) * step_},
              {"memory_peak", memory.peak},
              {"host_seconds", r.host_seconds},
              {"skipped", skipped_}};
  if (const HeldMemory held = held_memory(options_.device); held.most > 0)
    row["memory_held"] = held.most;
  metrics_->write(row);
  const std::vector<std::pair<std::string, double>> scalars{
      {"train/loss", r.loss},
      {"train/lr", lr},
      {"train/grad_norm", r.norm},
      {"speed/tokens_per_second", rate},
      {"memory/peak_bytes", static_cast<double>(memory.peak)}};
  events_->scalars(step_, scalars);
}

void Session::log_telemetry() {
  for (const auto& [key, s] : telemetry_.stats()) {
    const auto& [module, role] = key;
    metrics_->write({{"step", step_},
                     {"module", module},
                     {"role", role},
                     {"absmax", s.absmax},
                     {"clipped", s.clipped},
                     {"flushed", s.flushed},
                     {"sqnr_db", s.sqnr_db},
                     {"elements", s.count}});
    const std::string tag = fmt::format("quant/{}/{}", module, role);
    const std::vector<std::pair<std::string, double>> scalars{{tag + "/absmax", s.absmax},
                                                              {tag + "/clipped", s.clipped},
                                                              {tag + "/flushed", s.flushed},
                                                              {tag + "/sqnr_db", s.sqnr_db}};
    events_->scalars(step_, scalars);
  }
  telemetry_.clear();
}

Outcome Session::run() {
  const TrainerConfig& t = config_.trainer;
  while (step_ < t.steps) {
    const auto begin = std::chrono::steady_clock::now();
    const StepResult result = step();
    log(result, seconds_since(begin));
    if (!telemetry_.empty()) log_telemetry();
    if (due(t.eval_every) && step_ != t.steps) evaluate_now();
    if (sample_due() && step_ != t.steps) sample_now();
    if (due(t.checkpoint_every)) save();
    const bool late = options_.max_minutes > 0 && seconds_since(begin_) > 60 * options_.max_minutes;
    if ((late || stop_.requested()) && step_ < t.steps) {
      save();
      progress_.message(fmt::format("stopped at step {} of {} ({}); {}", step_, t.steps,
                                    late ? "time limit" : "signal",
                                    t.keep ? "--resume goes on" : "trainer.keep=0 kept nothing"));
      return late ? Outcome::TimeLimit : Outcome::Stopped;
    }
  }
  save();
  evaluate_now();
  sample_now();
  return Outcome::Finished;
}

Outcome train(const TrainOptions& options) { return Session(options).run(); }

}  // namespace nibble::train
