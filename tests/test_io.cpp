// AtomicFile under kills, full disks and short writes.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "tensor/atomic_file.h"
#include "tensor/check.h"
#include "tests/temp_dir.h"

namespace fs = std::filesystem;
using namespace nibble;
using namespace nibble::test;

namespace {

struct FaultSetting {
  explicit FaultSetting(const char* value) { ::setenv("NIBBLE_FAULT", value, 1); }
  ~FaultSetting() { ::unsetenv("NIBBLE_FAULT"); }
};

// Runs `body` in a child; its wait status. _exit: the child must not run doctest's own ending.
int status_of_child(const std::function<void()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      body();
    } catch (...) {
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

TEST_CASE("io: a committed file holds what was written and leaves no temporary") {
  const TempDir scratch;
  AtomicFile file(scratch / "a.bin");
  file.write("one,");
  file.write("two", 3);
  CHECK(file.written() == 7);
  CHECK_FALSE(fs::exists(scratch / "a.bin"));
  file.commit();
  CHECK(read_file(scratch / "a.bin") == "one,two");
  CHECK(scratch.files() == 1);
  CHECK(message_of([&] { file.write("x"); }) ==
        "checkpoint: " + (scratch / "a.bin").string() +
            " is closed: a write failed or it was committed");
}

TEST_CASE("io: a file that is not committed disappears") {
  const TempDir scratch;
  write_file_atomically(scratch / "a", "old");
  { AtomicFile(scratch / "a").write("new"); }
  CHECK(read_file(scratch / "a") == "old");
  CHECK(scratch.files() == 1);
}

TEST_CASE("io: a kill at any point leaves the old file, and its leftover can be removed") {
  for (const char* fault : {"write:1", "write:2", "fsync:1", "rename:1"}) {
    CAPTURE(fault);
    const TempDir scratch;
    write_file_atomically(scratch / "a", "old");
    const int status = status_of_child([&] {
      const FaultSetting setting(fault);
      AtomicFile file(scratch / "a");
      file.write("new ");
      file.write("content");
      file.commit();
    });
    REQUIRE(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGKILL);
    CHECK(read_file(scratch / "a") == "old");
    CHECK(scratch.files() == 2);
    CHECK(remove_stale_temporaries(scratch.path()) == 1);
    CHECK(scratch.files() == 1);
  }
}

TEST_CASE("io: a fault kills at its N-th passage only, counted over files") {
  const TempDir scratch;
  const int status = status_of_child([&] {
    const FaultSetting setting("rename:3");
    for (const char* name : {"a", "b", "c", "d"}) write_file_atomically(scratch / name, name);
  });
  CHECK(WIFSIGNALED(status));
  CHECK(fs::exists(scratch / "b"));
  CHECK_FALSE(fs::exists(scratch / "c"));
  CHECK_FALSE(fs::exists(scratch / "d"));
}

TEST_CASE("io: a full disk is one clear error and the old file stays") {
  for (const char* fault : {"write:2:enospc", "fsync:1:enospc", "rename:1:enospc"}) {
    CAPTURE(fault);
    const TempDir scratch;
    write_file_atomically(scratch / "a", "old");
    const FaultSetting setting(fault);
    CHECK(message_of([&] {
            AtomicFile file(scratch / "a");
            file.write("new ");
            file.write("content");
            file.commit();
          }) == "checkpoint: cannot write " + (scratch / "a").string() +
                    ": no space left on device; the previous file is untouched");
    CHECK(read_file(scratch / "a") == "old");
    CHECK(scratch.files() == 1);
  }
}

TEST_CASE("io: a short write is an error, not a short file") {
  const TempDir scratch;
  write_file_atomically(scratch / "a", "old");
  const int status = status_of_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};  // the kernel itself cuts the write at byte 1000
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    const std::string big(4096, 'x');
    const std::string message = message_of([&] { write_file_atomically(scratch / "a", big); });
    ::_exit(message.ends_with(": file too large; the previous file is untouched") ? 42 : 3);
  });
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 42);
  CHECK(read_file(scratch / "a") == "old");
  CHECK(scratch.files() == 1);
}

TEST_CASE("io: stale means that the writer is dead, and only AtomicFile's names count") {
  const TempDir scratch;
  std::ofstream(scratch / "model.tmp.123-0") << "dead";
  for (const char* other : {"model.tmp.123", "model.tmp.12x-0", ".tmp.1-0", "notes.tmp.txt"}) {
    std::ofstream(scratch / other) << "mine";
  }
  AtomicFile living(scratch / "model");
  living.write("alive");
  CHECK(remove_stale_temporaries(scratch.path()) == 1);
  CHECK_FALSE(fs::exists(scratch / "model.tmp.123-0"));
  CHECK(scratch.files() == 5);
  living.commit();
  CHECK(read_file(scratch / "model") == "alive");
  CHECK(remove_stale_temporaries(scratch / "nowhere") == 0);
}

TEST_CASE("io: two writers of one path in one process do not meet") {
  const TempDir scratch;
  AtomicFile first(scratch / "a"), second(scratch / "a");
  first.write("first");
  second.write("second");
  second.commit();
  first.commit();
  CHECK(read_file(scratch / "a") == "first");
  CHECK(scratch.files() == 1);
}

TEST_CASE("io: bad paths and bad fault settings are named") {
  const TempDir scratch;
  CHECK(message_of([&] {
          AtomicFile(scratch / "no" / "a", "run");
        }).ends_with(": no such file or directory"));
  CHECK(message_of([&] { AtomicFile(scratch / ""); }) ==
        "checkpoint: cannot write " + (scratch / "").string() + ": not a file name");
  for (const char* bad : {"write", "write:", "write:0", "write:x", "write:1:eio", ":1"}) {
    const FaultSetting setting(bad);
    CHECK(message_of([] { fault_point("step"); }) ==
          std::string("NIBBLE_FAULT: got \"") + bad + "\" expected name:N or name:N:enospc");
  }
  const FaultSetting setting("step:2:enospc");
  fault_point("step");
  fault_point("write");
  CHECK(message_of([] { fault_point("step"); }) == "fault_point: step: no space left on device");
}
