/* SPDX-License-Identifier: MIT
 *
 * The kernel's side of the probe in the kernel: which of the programs it takes, where they are
 * attached, and why there are none. Used by probe.c, which reads what they tell.
 */
#ifndef HEAPLEDGER_LOAD_H
#define HEAPLEDGER_LOAD_H

#include <bpf/libbpf.h>

#include <stdbool.h>
#include <stddef.h>

enum load_way { LOAD_TRACEFS, LOAD_RAW, LOAD_CLASSIC, LOAD_WAYS };

struct load_wish {
	ring_buffer_sample_fn take; /* each event */
	void *context;
	bool runs;           /* what is to be followed runs already */
	bool with_allocator; /* as in probe.h */
	bool with_faults;
};

/* All zero is one with nothing loaded. */
struct load {
	struct load_wish wish;
	enum load_way way;
	struct bpf_object *object; /* of the one below that is loaded */
	struct probe_bpf *bpf;
	struct classic_bpf *classic; /* LOAD_CLASSIC */
	struct tracefs_links *links; /* of the tracepoints; NULL when attached to the raw ones */
	struct ring_buffer *ring;
};

/* By the best of the ways that the kernel takes. 0, or -errno with one line in `why`, and then
 * nothing is loaded. */
int load_best(struct load *load, const struct load_wish *wish, char *why, size_t why_bytes);
void load_detach(struct load *load);
void load_free(struct load *load);

/* As probe_way says it. */
const char *load_way_name(const struct load *load);

/* The descriptor of a map. */
int load_map(const struct load *load, const char *name);

/* Returns rc. */
int load_say(char *why, size_t why_bytes, int rc, const char *text);

#endif
