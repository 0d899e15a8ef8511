/* SPDX-License-Identifier: MIT
 *
 * See launch.h.
 */
#include "launch.h"
#include "tool.h"

#include "heapledger/session.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SCRIPT_DEPTH 4
#define SCRIPT_LINE_BYTES 256
#define LOADER "ld-linux-x86-64.so.2"

static const int own_signals[LAUNCH_SIGNALS] = {SIGCHLD, SIGPIPE, SIGXFSZ};

static int cannot(char *why, size_t bytes, const char *path, const char *reason)
{
	snprintf(why, bytes, "%s: %s", path, reason);
	return TOOL_CANNOT_RUN;
}

/* Whether execve would change our identity, upon which the loader ignores LD_PRELOAD. */
static const char *changes_identity(const char *path, const struct stat *st)
{
	if ((st->st_mode & S_ISUID) != 0 && st->st_uid != getuid())
		return "is set-user-ID, so the system does not load the library into it; record it "
		       "as its owner, or record a copy of it without the bit";
	if ((st->st_mode & S_ISGID) != 0 && (st->st_mode & S_IXGRP) != 0 && st->st_gid != getgid())
		return "is set-group-ID, so the system does not load the library into it; record "
		       "it as a user of that group, or record a copy of it without the bit";
	if (getuid() != 0 && getxattr(path, "security.capability", NULL, 0) > 0)
		return "has file capabilities, so the system does not load the library into it; "
		       "record it as root, or record a copy of it";
	return NULL;
}

static const char *check_loader(int fd, const Elf64_Phdr *header)
{
	char name[PATH_MAX];
	size_t length = header->p_filesz < sizeof(name) - 1 ? header->p_filesz : sizeof(name) - 1;
	ssize_t got = pread(fd, name, length, (off_t)header->p_offset);

	if (got <= 0)
		return "is damaged: its loader's name cannot be read";
	name[got] = '\0';
	if (strcmp(tool_base_name(name), LOADER) != 0)
		return "does not use the GNU C library; record a build of it against glibc";
	return NULL;
}

static bool section_needs(Elf *elf, Elf_Scn *section, const GElf_Shdr *header, const char *name)
{
	Elf_Data *data = elf_getdata(section, NULL);
	GElf_Dyn entry;

	for (int i = 0; data != NULL && gelf_getdyn(data, i, &entry) != NULL; i++) {
		const char *needed = NULL;

		if (entry.d_tag == DT_NEEDED)
			needed = elf_strptr(elf, header->sh_link, entry.d_un.d_val);
		if (needed != NULL && strncmp(needed, name, strlen(name)) == 0)
			return true;
	}
	return false;
}

/* Whether it is linked with a library whose name begins so. */
static bool needs_library(int fd, const char *name)
{
	Elf *elf = elf_version(EV_CURRENT) != EV_NONE ? elf_begin(fd, ELF_C_READ, NULL) : NULL;
	Elf_Scn *section = NULL;
	bool found = false;

	while (elf != NULL && !found && (section = elf_nextscn(elf, section)) != NULL) {
		GElf_Shdr header;

		found = gelf_getshdr(section, &header) != NULL && header.sh_type == SHT_DYNAMIC &&
			section_needs(elf, section, &header, name);
	}
	elf_end(elf);
	return found;
}

/* It ends the program at once where it is not the first library, unless it is told not to. */
static bool is_ended_by_sanitizer(int fd)
{
	const char *options = getenv("ASAN_OPTIONS");

	return needs_library(fd, "libasan.so") &&
	       (options == NULL || strstr(options, "verify_asan_link_order=0") == NULL);
}

static const char *check_elf(int fd, const Elf64_Ehdr *elf)
{
	Elf64_Phdr header;

	if (elf->e_ident[EI_CLASS] != ELFCLASS64)
		return "is a 32-bit program; only 64-bit x86 programs can be recorded, so build it "
		       "without -m32 or -mx32";
	if (elf->e_machine != EM_X86_64)
		return "is a program for another machine; only x86-64 programs can be recorded";
	for (unsigned i = 0; i < elf->e_phnum; i++) {
		if (pread(fd, &header, sizeof(header),
			    (off_t)(elf->e_phoff + (uint64_t)i * elf->e_phentsize)) !=
			sizeof(header))
			return "is damaged: its program headers cannot be read";
		if (header.p_type != PT_INTERP)
			continue;
		if (is_ended_by_sanitizer(fd))
			return "is linked with AddressSanitizer, which ends it where another "
			       "library comes first; set ASAN_OPTIONS=verify_asan_link_order=0, or "
			       "record a build without it";
		return check_loader(fd, &header);
	}
	return "is statically linked, so no library can be loaded into it; link it dynamically "
	       "(without -static)";
}

/* The interpreter of a #! line. */
static int script_interpreter(const char *line, size_t length, char *path, size_t bytes)
{
	size_t start = 2, end;

	while (start < length && (line[start] == ' ' || line[start] == '\t'))
		start++;
	for (end = start; end < length && strchr(" \t\n", line[end]) == NULL; end++)
		;
	if (end == start || end - start >= bytes)
		return -ENOEXEC;
	memcpy(path, line + start, end - start);
	path[end - start] = '\0';
	return 0;
}

static int check_file(const char *path, int depth, char *why, size_t bytes)
{
	union {
		Elf64_Ehdr elf;
		char text[SCRIPT_LINE_BYTES];
	} head = {0};
	char interpreter[PATH_MAX];
	const char *reason = NULL;
	struct stat st;
	ssize_t got;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && errno == EACCES && access(path, X_OK) == 0)
		return 0; /* can be run but not read: the exec will tell */
	if (fd < 0)
		return cannot(why, bytes, path, strerror(errno));
	got = fstat(fd, &st) == 0 ? pread(fd, &head, sizeof(head), 0) : -1;
	if (got >= (ssize_t)sizeof(head.elf) && memcmp(head.elf.e_ident, ELFMAG, SELFMAG) == 0) {
		reason = changes_identity(path, &st);
		if (reason == NULL)
			reason = check_elf(fd, &head.elf);
	}
	close(fd);
	if (got < 0)
		return cannot(why, bytes, path, "cannot be read");
	if (reason != NULL)
		return cannot(why, bytes, path, reason);
	if (got < 2 || memcmp(head.text, "#!", 2) != 0)
		return 0;
	if (depth == 0 ||
		script_interpreter(head.text, (size_t)got, interpreter, sizeof(interpreter)) != 0)
		return cannot(why, bytes, path, "has a #! line that cannot be followed");
	return check_file(interpreter, depth - 1, why, bytes);
}

/* 0 when the path names something that can be run, else the errno. */
static int runnable(const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
		return errno;
	if (S_ISDIR(st.st_mode))
		return EISDIR;
	return access(path, X_OK) != 0 ? errno : 0;
}

static int search_path(struct launch *launch, const char *program)
{
	const char *at = getenv("PATH"), *end;
	int found = ENOENT, rc;

	if (at == NULL)
		at = "/usr/local/bin:/usr/bin:/bin";
	for (struct stat st;; at = end + 1) {
		end = strchrnul(at, ':');
		rc = snprintf(launch->path, sizeof(launch->path), "%.*s%s%s", (int)(end - at), at,
			end == at ? "" : "/", program);
		if (rc > 0 && (size_t)rc < sizeof(launch->path)) {
			rc = runnable(launch->path);
			if (rc == 0)
				return 0;
			/* A folder that is closed to us does not say what is in it. */
			if (rc == EACCES && stat(launch->path, &st) == 0)
				found = EACCES;
		}
		if (*end == '\0')
			return found;
	}
}

int launch_find(struct launch *launch, const char *program, char *why, size_t why_bytes)
{
	int rc;

	if (strchr(program, '/') != NULL || program[0] == '\0') {
		rc = ENAMETOOLONG;
		if (strlen(program) < sizeof(launch->path)) {
			strcpy(launch->path, program);
			rc = runnable(program);
		}
	} else {
		rc = search_path(launch, program);
	}
	if (rc == ENOENT || rc == ENOTDIR) {
		snprintf(why, why_bytes, "%s: no such program%s", program,
			strchr(program, '/') == NULL
				? " in PATH; check its name, or give the path to it"
				: "; check the path to it");
		return TOOL_NOT_FOUND;
	}
	if (rc == EACCES)
		return cannot(why, why_bytes, program,
			"is not executable; chmod +x it, or name "
			"the program that runs it");
	if (rc != 0)
		return cannot(why, why_bytes, program, strerror(rc));
	return check_file(launch->path, SCRIPT_DEPTH, why, why_bytes);
}

static int usable(const char *path)
{
	return access(path, R_OK) == 0 ? 0 : -errno;
}

int launch_library(const char *name, char *path, size_t bytes)
{
	static const char *const places[] = {"/../interposer", "/../" HEAPLEDGER_LIBDIR_NAME,
		"/../" HEAPLEDGER_LIBDIR_NAME "/heapledger"};
	const char *named = getenv("HEAPLEDGER_LIBRARY");
	char self[PATH_MAX], *slash, joined[PATH_MAX + 128];
	ssize_t length;

	if (named != NULL && named[0] != '\0') {
		if (realpath(named, self) == NULL)
			return -errno;
		snprintf(path, bytes, "%s", self);
		return usable(path);
	}
	length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (length > 0) {
		self[length] = '\0';
		slash = strrchr(self, '/');
		if (slash != NULL)
			*slash = '\0';
		for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
			char resolved[PATH_MAX];

			snprintf(joined, sizeof(joined), "%s%s/%s", self, places[i], name);
			if (realpath(joined, resolved) != NULL && usable(resolved) == 0) {
				snprintf(path, bytes, "%s", resolved);
				return 0;
			}
		}
	}
	snprintf(path, bytes, HEAPLEDGER_LIBDIR "/%s", name);
	if (usable(path) == 0)
		return 0;
	snprintf(path, bytes, HEAPLEDGER_LIBDIR "/heapledger/%s", name);
	return usable(path);
}

int launch_take_signals(struct launch *launch)
{
	static const int watched[] = {
		SIGCHLD, SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH};
	struct sigaction action = {.sa_handler = SIG_IGN};
	struct rlimit files;
	sigset_t set;
	int fd;

	sigemptyset(&set);
	for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
		sigaddset(&set, watched[i]);
	sigprocmask(SIG_BLOCK, &set, &launch->mask);
	for (unsigned i = 0; i < LAUNCH_SIGNALS; i++) {
		action.sa_handler = own_signals[i] == SIGCHLD ? SIG_DFL : SIG_IGN;
		sigaction(own_signals[i], &action, &launch->actions[i]);
	}
	getrlimit(RLIMIT_NOFILE, &launch->files);
	files = launch->files;
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	/* What the program leaves behind becomes ours to wait for. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

static int set_environment(const char *session, const char *library)
{
	const char *before = getenv("LD_PRELOAD");
	char *preload;
	int rc;

	if (before == NULL || before[0] == '\0')
		rc = asprintf(&preload, "%s", library);
	else
		rc = asprintf(&preload, "%s:%s", library, before);
	if (rc < 0)
		return -ENOMEM;
	rc = setenv("LD_PRELOAD", preload, 1) != 0 || setenv(HL_SESSION_ENV, session, 1) != 0;
	free(preload);
	return rc != 0 ? -ENOMEM : 0;
}

static void restore_signals(const struct launch *launch)
{
	for (unsigned i = 0; i < LAUNCH_SIGNALS; i++)
		sigaction(own_signals[i], &launch->actions[i], NULL);
	setrlimit(RLIMIT_NOFILE, &launch->files);
	sigprocmask(SIG_SETMASK, &launch->mask, NULL);
}

/* A script without #!, as execvp runs it. */
static void exec_shell(const char *path, char **argv)
{
	size_t count = 0;
	char **shell;

	while (argv[count] != NULL)
		count++;
	shell = calloc(count + 2, sizeof(*shell));
	if (shell == NULL)
		return;
	shell[0] = (char[]){"/bin/sh"};
	shell[1] = strdup(path);
	for (size_t i = 1; i < count; i++)
		shell[i + 1] = argv[i];
	if (shell[1] != NULL)
		execv(shell[0], shell);
	free(shell[1]);
	free(shell);
}

static void child(struct launch *launch, char **argv, const char *session, const char *library,
	int go, int error)
{
	char byte;
	int rc;

	if (read(go, &byte, 1) != 1)
		_exit(TOOL_NOT_FOUND);
	rc = set_environment(session, library);
	if (rc == 0) {
		restore_signals(launch);
		execv(launch->path, argv);
		if (errno == ENOEXEC)
			exec_shell(launch->path, argv);
		rc = -errno;
	}
	if (write(error, &rc, sizeof(rc)) != sizeof(rc))
		_exit(TOOL_CANNOT_RUN);
	_exit(TOOL_CANNOT_RUN);
}

int launch_fork(struct launch *launch, char **argv, const char *session, const char *library)
{
	int go[2], error[2], rc;

	if (pipe2(go, O_CLOEXEC) != 0)
		return -errno;
	if (pipe2(error, O_CLOEXEC) != 0) {
		rc = -errno;
		close(go[0]);
		close(go[1]);
		return rc;
	}
	launch->pid = fork();
	rc = launch->pid < 0 ? -errno : 0;
	if (launch->pid == 0) {
		close(go[1]);
		child(launch, argv, session, library, go[0], error[1]);
	}
	close(go[0]);
	close(error[1]);
	launch->go_fd = go[1];
	launch->error_fd = error[0];
	if (rc != 0)
		launch_cancel(launch);
	return rc;
}

int launch_go(struct launch *launch)
{
	int rc = 0;
	ssize_t got = write(launch->go_fd, "", 1);

	if (got == 1)
		do
			got = read(launch->error_fd, &rc, sizeof(rc));
		while (got < 0 && errno == EINTR);
	else
		rc = -errno;
	close(launch->go_fd);
	close(launch->error_fd);
	if (rc != 0)
		waitpid(launch->pid, NULL, 0);
	return rc;
}

void launch_cancel(struct launch *launch)
{
	close(launch->go_fd);
	close(launch->error_fd);
	if (launch->pid > 0)
		waitpid(launch->pid, NULL, 0);
}
