#include "apps/bench/process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <utility>

#include "tensor/check.h"

extern char** environ;

namespace nibble::bench {

Process::Process(const std::vector<std::string>& argv, std::filesystem::path out,
                 std::filesystem::path err) {
  NIBBLE_CHECK(!argv.empty(), "bench", "got an empty command, expected a program");
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), kFlags, 0644);
  posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), kFlags, 0644);
  posix_spawnattr_t attributes;  // a group of its own: what it starts is ended with it
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  const int status = posix_spawnp(&pid_, words[0], &actions, &attributes, words.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  NIBBLE_CHECK(status == 0, "bench", "{} cannot be started: {}", argv[0], std::strerror(status));
}
Process::~Process() {
  if (code_) return;
  kill();
  (void)reap(0);
}

std::optional<int> Process::poll() { return reap(WNOHANG); }
int Process::wait() { return *reap(0); }
void Process::kill() {
  if (!code_) (void)::kill(-pid_, SIGKILL);
}

std::optional<int> Process::reap(int options) {
  if (code_) return code_;
  int status = 0;
  rusage used{};
  pid_t done = 0;
  while ((done = wait4(pid_, &status, options, &used)) < 0 && errno == EINTR) {
  }
  if (done != pid_) return code_;
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  peak_ = std::int64_t{used.ru_maxrss} * 1024;
  return code_;
}

std::vector<std::string> split_command(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  bool open = false;  // a word has begun, which may be empty: ''
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && quote != '\'' && i + 1 < text.size()) {
      word += text[++i];
      open = true;
    } else if (quote) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '\'' || c == '"') {
      quote = c;
      open = true;
    } else if (c == ' ' || c == '\t') {
      if (open) words.push_back(std::exchange(word, {}));
      open = false;
    } else {
      word += c;
      open = true;
    }
  }
  NIBBLE_CHECK(!quote, "bench", "got the command {}, expected its quote {} to end", text, quote);
  if (open) words.push_back(word);
  return words;
}

std::string tail_of(const std::filesystem::path& file, std::size_t bytes) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return "";
  const auto size = static_cast<std::size_t>(in.tellg());
  std::string text(std::min(size, bytes), '\0');
  in.seekg(static_cast<std::streamoff>(size - text.size()));
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace nibble::bench
