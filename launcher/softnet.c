/* The `softnet` command as a program that a set-user-ID bit can sit on: a bit on a script does
 * nothing. It starts one interpreter on one program and takes no part in what follows.
 *
 * With an effective uid of 0 it refuses to start what others than root could have changed: every
 * file of PREFIX, the interpreter wherever its links lead, and every folder and link on the way.
 * This is the one check that runs before any Python does; Softnet repeats it, and adds the rest of
 * its import path, once it runs.
 *
 * Started set-user-ID, everything the caller could have prepared is replaced:
 *   environment   PATH, and the two variables of error reporting
 *   descriptors   0 to 2 exist; from 3 up they are closed, as sudo does, so that the one way to hand
 *                 Softnet a socket (0, and 1 for control: what Tart does) is the same either way, and
 *                 nothing the caller left open is inherited by what Softnet starts as root
 *   umask         022
 * The interpreter runs isolated (-I: no PYTHON* variable, no user's packages, no current folder) and
 * writes no bytecode (-B). The real uid stays the caller's: Softnet drops to it.
 *
 * It allocates nothing, and never reads a path or a program's name from its caller. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef PREFIX
#define PREFIX "/opt/softnet"
#endif
#define PYTHON PREFIX "/bin/python3"
#define PROGRAM PREFIX "/bin/softnet"

enum { MAX_LINKS = 40, MAX_ARGUMENTS = 1024, MAX_VARIABLE = 4096, TREE_DESCRIPTORS = 16 };

extern char **environ;

__attribute__((noreturn)) static void die(const char *path, const char *problem) {
  fprintf(stderr, "softnet: %s: %s\n", path, problem);
  exit(1);
}

static void judge(const char *path, const struct stat *status) {
  int writable = !S_ISLNK(status->st_mode) && (status->st_mode & (S_IWGRP | S_IWOTH));
  if (status->st_uid != 0 || writable)
    die(path, "can be changed by others than root: refusing to run as root");
}

/* snprintf that refuses to cut a path short */
static void join(char *out, const char *first, const char *second) {
  int length = snprintf(out, PATH_MAX, "%s/%s", first, second);
  if (length < 0 || length >= PATH_MAX) die(first, "path too long");
}

/* Judges every step the kernel passes on the way to an absolute path. What does not exist is safe
 * when its parents are. */
static void walk(const char *path) {
  char at[PATH_MAX] = "", rest[PATH_MAX], next[PATH_MAX], target[PATH_MAX];
  struct stat status;
  int links = 0;
  if (lstat("/", &status)) die("/", strerror(errno));
  judge("/", &status);
  snprintf(rest, sizeof rest, "%s", path);
  for (char *todo = rest; *todo;) {
    char *name = todo, *end = todo + strcspn(todo, "/");
    todo = *end ? end + 1 : end;
    *end = 0;
    if (!*name || !strcmp(name, ".")) continue;
    if (!strcmp(name, "..")) {
      char *last = strrchr(at, '/');
      if (last) *last = 0;
      continue;
    }
    join(next, at, name);
    if (lstat(next, &status)) {
      if (errno == ENOENT) return;
      die(next, strerror(errno));
    }
    judge(next, &status);
    if (!S_ISLNK(status.st_mode)) {
      memcpy(at, next, sizeof at);
      continue;
    }
    ssize_t length = readlink(next, target, sizeof target - 1);
    if (length < 0) die(next, strerror(errno));
    if (++links > MAX_LINKS) die(next, strerror(ELOOP));
    target[length] = 0;
    if (*target == '/') *at = 0;
    join(next, target, todo);
    memcpy(rest, next, sizeof rest);
    todo = rest;
  }
}

static int visit(const char *path, const struct stat *status, int kind, struct FTW *place) {
  (void)place;
  if (kind == FTW_NS || kind == FTW_DNR) die(path, "cannot be read");
  judge(path, status);
  if (kind == FTW_SL) walk(path);
  return 0;
}

/* A closed standard descriptor would be taken by the first file that Softnet opens as root. */
static void open_standard_descriptors(void) {
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) exit(1);
}

/* RLIMIT_NOFILE may be lower than what is open, or a billion: the list of open ones it is. */
static void close_other_descriptors(void) {
  int highest = 2;
  DIR *list = opendir("/dev/fd");
  if (!list) die("/dev/fd", strerror(errno));
  for (struct dirent *entry; (entry = readdir(list));)
    if (atoi(entry->d_name) > highest) highest = atoi(entry->d_name);
  closedir(list);
  for (int fd = 3; fd <= highest; fd++) close(fd);
}

/* The new environment; a value that is too long is left out rather than cut. */
static char **clean_environment(void) {
  static const char *const kept[] = {"SENTRY_DSN", "CIRRUS_SENTRY_TAGS"};
  static char values[2][MAX_VARIABLE];
  static char *environment[4] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  int count = 1;
  for (int i = 0; i < 2; i++) {
    const char *value = getenv(kept[i]);
    if (!value) continue;
    int length = snprintf(values[i], MAX_VARIABLE, "%s=%s", kept[i], value);
    if (length > 0 && length < MAX_VARIABLE) environment[count++] = values[i];
  }
  return environment;
}

int main(int argc, char **argv) {
  static char *arguments[MAX_ARGUMENTS + 5] = {PYTHON, "-I", "-B", PROGRAM};
  int set_user_id = geteuid() != getuid();
  if (argc < 1 || argc > MAX_ARGUMENTS) die("softnet", "called without a name or with too many arguments");
  for (int i = 1; i < argc; i++) arguments[3 + i] = argv[i];
  if (set_user_id) {
    open_standard_descriptors();
    close_other_descriptors();
    umask(022);
  }
  if (geteuid() == 0) {
    walk(PREFIX);
    walk(PYTHON);
    walk(PROGRAM);
    if (nftw(PREFIX "/.", visit, TREE_DESCRIPTORS, FTW_PHYS) < 0) die(PREFIX, strerror(errno));
  }
  execve(PYTHON, arguments, set_user_id ? clean_environment() : environ);
  die(PYTHON, strerror(errno));
}
