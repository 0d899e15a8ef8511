/* SPDX-License-Identifier: MIT
 *
 * See privilege.h. Capabilities by the system calls themselves: they are those of the calling
 * thread.
 */
#include "privilege.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(capability) (UINT64_C(1) << (capability))
/* The probe itself, tracefs where it is closed to users or not mounted, and locked memory before
 * Linux 5.11. */
#define PROBE_SET                                                                                  \
	(BIT(CAP_BPF) | BIT(CAP_PERFMON) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_SYS_ADMIN) |         \
		BIT(CAP_SYS_RESOURCE))

/* ---- capabilities -------------------------------------------------------------------------- */

struct sets {
	uint64_t effective, permitted, inheritable;
};

static int get_sets(struct sets *sets)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	if (syscall(SYS_capget, &header, data) != 0)
		return -errno;
	sets->effective = (uint64_t)data[1].effective << 32 | data[0].effective;
	sets->permitted = (uint64_t)data[1].permitted << 32 | data[0].permitted;
	sets->inheritable = (uint64_t)data[1].inheritable << 32 | data[0].inheritable;
	return 0;
}

static int set_sets(const struct sets *sets)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		data[i].effective = (uint32_t)(sets->effective >> 32 * i);
		data[i].permitted = (uint32_t)(sets->permitted >> 32 * i);
		data[i].inheritable = (uint32_t)(sets->inheritable >> 32 * i);
	}
	return syscall(SYS_capset, &header, data) != 0 ? -errno : 0;
}

static int set_effective(uint64_t effective)
{
	struct sets sets;
	int rc = get_sets(&sets);

	if (rc != 0)
		return rc;
	sets.effective = effective & sets.permitted;
	return set_sets(&sets);
}

/* Where it cannot be done the probe says what is missing. */
void privilege_raise(void)
{
	set_effective(UINT64_MAX);
}

void privilege_lower(void)
{
	set_effective(0);
}

/* ---- who called ---------------------------------------------------------------------------- */

struct caller {
	uid_t uid;
	gid_t gid;
	char *name; /* NULL: no such user is known */
	char *home;
	char *shell;
	gid_t *groups;
	int group_count;
};

static int say(char *why, size_t why_bytes, const char *variable)
{
	snprintf(why, why_bytes, "%s is not a user's: %s; without it programs are recorded as root",
		variable, getenv(variable));
	return -1;
}

/* A user or group number as sudo writes it; all ones is none. */
static bool parse_id(const char *text, uint32_t *id)
{
	unsigned long long value;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	value = strtoull(text, &end, 10);
	*id = (uint32_t)value;
	return errno == 0 && *end == '\0' && value < UINT32_MAX;
}

static bool is_set(const char *variable)
{
	const char *value = getenv(variable);

	return value != NULL && value[0] != '\0';
}

/* 1: somebody called; 0: nobody, or root himself; -1 and a line. */
static int find_caller(
	struct caller *caller, const struct passwd **entry, char *why, size_t why_bytes)
{
	const char *variable = is_set("SUDO_UID")     ? "SUDO_UID"
			       : is_set("PKEXEC_UID") ? "PKEXEC_UID"
			       : is_set("DOAS_USER")  ? "DOAS_USER"
						      : NULL;

	if (variable == NULL)
		return 0;
	if (strcmp(variable, "DOAS_USER") == 0) {
		*entry = getpwnam(getenv(variable));
		if (*entry == NULL)
			return say(why, why_bytes, variable);
		caller->uid = (*entry)->pw_uid;
	} else {
		if (!parse_id(getenv(variable), &caller->uid))
			return say(why, why_bytes, variable);
		*entry = getpwuid(caller->uid);
	}
	if (strcmp(variable, "SUDO_UID") == 0 && is_set("SUDO_GID")) {
		if (!parse_id(getenv("SUDO_GID"), &caller->gid))
			return say(why, why_bytes, "SUDO_GID");
	} else if (*entry != NULL) {
		caller->gid = (*entry)->pw_gid;
	} else {
		return say(why, why_bytes, variable);
	}
	return caller->uid != 0;
}

static void free_caller(struct caller *caller)
{
	free(caller->name);
	free(caller->home);
	free(caller->shell);
	free(caller->groups);
}

/* Of a user that is not known, the one group that sudo named. */
static int find_groups(struct caller *caller)
{
	caller->group_count = 1;
	if (caller->name != NULL) {
		caller->group_count = 0;
		getgrouplist(caller->name, caller->gid, NULL, &caller->group_count);
	}
	caller->groups = calloc((size_t)caller->group_count + 1, sizeof(gid_t));
	if (caller->groups == NULL)
		return -ENOMEM;
	caller->groups[0] = caller->gid;
	if (caller->name != NULL &&
		getgrouplist(caller->name, caller->gid, caller->groups, &caller->group_count) < 0)
		return -EAGAIN; /* more of them than just now */
	return 0;
}

/* What the entry holds does not last. */
static int copy_entry(struct caller *caller, const struct passwd *entry)
{
	if (entry != NULL) {
		caller->name = strdup(entry->pw_name);
		caller->home = strdup(entry->pw_dir);
		caller->shell = strdup(entry->pw_shell);
		if (caller->name == NULL || caller->home == NULL || caller->shell == NULL)
			return -ENOMEM;
	}
	return find_groups(caller);
}

static int set_variable(const char *name, const char *value)
{
	return (value != NULL ? setenv(name, value, 1) : unsetenv(name)) != 0 ? -ENOMEM : 0;
}

/* As the program would have it without sudo, as far as that is known. */
static int set_environment(const struct caller *caller)
{
	static const char *const ours[] = {"SUDO_UID", "SUDO_GID", "SUDO_USER", "SUDO_COMMAND",
		"PKEXEC_UID", "DOAS_USER", "MAIL"};
	int rc = set_variable("HOME", caller->home != NULL ? caller->home : "/");

	if (rc == 0)
		rc = set_variable("USER", caller->name);
	if (rc == 0)
		rc = set_variable("LOGNAME", caller->name);
	if (rc == 0)
		rc = set_variable("SHELL", caller->shell);
	for (size_t i = 0; rc == 0 && i < sizeof(ours) / sizeof(ours[0]); i++)
		rc = set_variable(ours[i], NULL);
	return rc;
}

/* For good: nothing of root is left but what is to be kept, and that is not in effect. */
static int become(const struct caller *caller, uint64_t keep)
{
	struct sets sets;
	int rc = get_sets(&sets);

	if (rc != 0)
		return rc;
	if (prctl(PR_SET_KEEPCAPS, 1L, 0L, 0L, 0L) != 0 ||
		setgroups((size_t)caller->group_count, caller->groups) != 0 ||
		setresgid(caller->gid, caller->gid, caller->gid) != 0 ||
		setresuid(caller->uid, caller->uid, caller->uid) != 0 ||
		prctl(PR_SET_KEEPCAPS, 0L, 0L, 0L, 0L) != 0)
		return -errno;
	sets.permitted &= keep;
	sets.effective = sets.inheritable = 0;
	rc = set_sets(&sets);
	return rc == 0 ? set_environment(caller) : rc;
}

int privilege_begin(enum privilege_reach reach, const char **name, char *why, size_t why_bytes)
{
	uint64_t keep = PROBE_SET | (reach == PRIVILEGE_ANY ? BIT(CAP_SYS_PTRACE) : 0);
	static char kept[64];
	struct caller caller = {0};
	const struct passwd *entry = NULL;
	int rc;

	*name = NULL;
	if (geteuid() != 0) {
		privilege_lower();
		return 0;
	}
	rc = find_caller(&caller, &entry, why, why_bytes);
	if (rc <= 0)
		return rc;
	rc = copy_entry(&caller, entry);
	if (rc == 0)
		rc = become(&caller, keep);
	if (rc != 0)
		snprintf(why, why_bytes, "cannot become the user %u, who called: %s",
			(unsigned)caller.uid, strerror(-rc));
	else if (caller.name != NULL)
		snprintf(kept, sizeof(kept), "%s", caller.name);
	else
		snprintf(kept, sizeof(kept), "user %u", (unsigned)caller.uid);
	*name = rc == 0 ? kept : NULL;
	free_caller(&caller);
	return rc == 0 ? 0 : -1;
}

/* ---- giving up ----------------------------------------------------------------------------- */

static bool can_see(pid_t pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	return faccessat(AT_FDCWD, path, R_OK, AT_EACCESS) == 0;
}

/* A program that root runs can become another user, and must still get its signals. Its memory is
 * closed even to root without CAP_SYS_PTRACE; and directories need not be its owner's to write to,
 * as on file systems that know no owners. */
static uint64_t least(const struct privilege_needs *needs)
{
	uint64_t keep = BIT(CAP_KILL);

	if (needs->memory || !can_see(needs->program))
		keep |= BIT(CAP_SYS_PTRACE);
	if (faccessat(needs->directory, ".", W_OK | X_OK, AT_EACCESS) != 0)
		keep |= BIT(CAP_DAC_OVERRIDE);
	if (needs->probe)
		keep |= BIT(CAP_BPF);
	return keep;
}

/* Whether there is anything at all: for most users there is not. */
static bool has_any(const struct sets *sets)
{
	return (sets->effective | sets->permitted | sets->inheritable) != 0;
}

int privilege_settle(const struct privilege_needs *needs)
{
	struct sets sets;
	int rc = get_sets(&sets);

	if (rc != 0 || !has_any(&sets))
		return rc;
	/* We hold descriptors of the probe that the user could not have opened: nobody but root may
	 * take them from us. */
	if (geteuid() != 0)
		prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
	prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L);
	set_effective(0); /* and see what is missed */
	sets.permitted &= least(needs);
	sets.effective = sets.permitted;
	sets.inheritable = 0;
	return set_sets(&sets);
}

int privilege_give_up(void)
{
	static const struct sets none;
	struct sets sets;
	int rc = geteuid() != 0 ? get_sets(&sets) : 0;

	if (rc != 0 || geteuid() == 0 || !has_any(&sets))
		return rc;
	return set_sets(&none);
}
