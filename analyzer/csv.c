/* SPDX-License-Identifier: MIT
 *
 * The time lines and tables as CSV files, columns as docs/analysis.md has them. Each file appears only
 * when it is whole.
 */
#include "analysis.h"
#include "names.h"
#include "writer.h"

#include "record/stranger.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void comma(struct writer *out, uint64_t value)
{
	writer_char(out, ',');
	writer_u64(out, value);
}

/* Empty unless it is known. */
static void comma_known(struct writer *out, bool known, int64_t value)
{
	writer_char(out, ',');
	if (known)
		writer_i64(out, value);
}

/* A share; empty if there is nothing that it is a share of. */
static void comma_share(struct writer *out, double value)
{
	char text[32];
	snprintf(text, sizeof(text), ",%.9g", value);
	writer_text(out, isnan(value) ? "," : text);
}

static void comma_text(struct writer *out, const char *text)
{
	writer_char(out, ',');
	writer_text(out, text);
}

static void timeline_rows(struct writer *out, const struct analysis_stream *entry)
{
	for (uint32_t i = 0; i < entry->timeline.rows; i++) {
		const struct timeline_row *row = &entry->timeline.row[i];
		const struct memory *memory = &row->memory;
		bool ours = !entry->result.observed, mapped = !entry->result.mapped_unknown;
		bool whole = !ledger_requested_unknown(&entry->result);
		writer_text(out, entry->stream->name);
		bool times = trace_has_times(entry->stream);
		comma_known(out, times, (int64_t)clock_ns(&entry->stream->clock, row->tick));
		comma_known(out, whole, memory->requested);
		comma_known(out, ours, memory->chunk);
		comma_known(out, mapped, memory_mapped(memory));
		comma_known(out, mapped, memory->break_bytes);
		comma_known(out, ours, memory->arena_bytes);
		comma_known(out, ours, memory->block_bytes);
		comma_known(out, ours, memory_free(memory));
		comma_known(out, ours, (int64_t)row->sums.returned_bytes);
		comma_known(out, whole, memory->live_blocks);
		comma_known(out, whole, row->peak_requested);
		comma_known(out, mapped, row->peak_mapped);
		comma_known(out, !times, (int64_t)row->tick);
		comma_known(out, ours, memory->chunk - memory->requested);
		comma_known(out, ours, memory->metadata_bytes);
		comma_known(out, mapped, memory->reserved_bytes);
		comma_known(out, ours, (int64_t)row->sums.thrash_cycles);
		comma_known(out, entry->result.faults.known, memory->resident_bytes);
		writer_char(out, '\n');
	}
}

/* Names hold what they will. */
static void comma_quoted(struct writer *out, const char *text)
{
	writer_text(out, text ? ",\"" : ",");
	for (; text && *text; text++) {
		if (*text == '"')
			writer_char(out, '"');
		writer_char(out, *text);
	}
	if (text)
		writer_char(out, '"');
}

static void comma_whole(struct writer *out, const struct layout_whole *whole)
{
	comma(out, whole->touched);
	comma(out, whole->purged);
	comma(out, whole->untouched);
}

static void comma_ledger(struct writer *out, const struct layout *layout)
{
	const struct memory *memory = &layout->memory;
	comma(out, (uint64_t)memory_mapped(memory));
	comma_known(out, true, memory->requested);
	comma_known(out, true, memory->chunk - memory->requested);
	comma_known(out, layout->kept_known, (int64_t)layout->cached);
	comma_known(out, layout->kept_known, (int64_t)layout->tables);
	comma(out, layout->partial);
	comma_whole(out, &layout->whole);
	comma(out, layout->top);
	comma_whole(out, &layout->in_top);
	comma(out, layout->between);
	comma_known(out, true, memory->metadata_bytes);
	comma_known(out, true, memory->live_blocks);
}

static void comma_sizes(struct writer *out, const struct layout_runs *runs,
	double (*share)(const struct layout_runs *runs, unsigned size))
{
	for (unsigned i = 0; i < LAYOUT_SIZES; i++)
		comma_share(out, share(runs, i));
}

static void comma_pages(struct writer *out, const struct layout_pages *pages)
{
	comma(out, pages->used);
	comma(out, pages->half);
	comma(out, pages->single);
	comma(out, pages->whole);
	comma(out, pages->free_bytes);
	comma(out, pages->single_free);
}

static void fragmentation_rows(struct writer *out, const struct analysis_stream *entry)
{
	for (size_t i = 0; i < entry->instants.count; i++) {
		const struct layout *layout = &entry->instants.list[i];
		const struct layout_runs *runs = &layout->runs, *inner = &layout->inner;
		writer_text(out, entry->stream->name);
		comma(out, clock_ns(&entry->stream->clock, layout->tick));
		comma_ledger(out, layout);
		comma(out, runs->bytes);
		comma(out, runs->count);
		comma(out, runs->largest);
		comma(out, inner->largest);
		comma_sizes(out, runs, layout_unusable);
		comma_sizes(out, inner, layout_unusable);
		comma_sizes(out, runs, layout_split);
		comma_sizes(out, inner, layout_split);
		comma_pages(out, &layout->pages);
		comma_pages(out, &layout->huge);
		comma(out, layout->strays);
		writer_char(out, '\n');
	}
}

/* `at`: when; of a row between two snapshots the one before has `resident`. */
static void resident_row(struct writer *out, const struct analysis_stream *entry, uint64_t at,
	const struct layout_resident *resident, bool kept_known)
{
	const struct ledger_counted *counted = &resident->counted;
	struct clock *clock = &entry->stream->clock;
	bool is_snapshot = resident->reason;
	int64_t residual;
	bool compared = ledger_residual(counted, resident->all, &residual) && !resident->cut;
	writer_text(out, entry->stream->name);
	comma(out, clock_ns(clock, at));
	comma(out, clock_ns(clock, resident->tick));
	comma_text(out, is_snapshot ? name_resident(resident->reason) : "");
	comma_known(out, is_snapshot, (int64_t)clock_span(clock, resident->took));
	comma_known(out, is_snapshot, resident->cut);
	comma(out, resident->requested);
	comma(out, resident->slack);
	comma_known(out, kept_known, (int64_t)resident->cached);
	comma_known(out, kept_known, (int64_t)resident->tables);
	comma(out, resident->free);
	comma(out, resident->top);
	comma(out, resident->metadata);
	comma(out, resident->outside);
	comma(out, resident->all);
	comma_known(out, counted->has_before, (int64_t)counted->before);
	comma_known(out, counted->has_after, (int64_t)counted->after);
	comma_known(out, compared, residual);
	writer_char(out, '\n');
}

static void resident_rows(struct writer *out, const struct analysis_stream *entry)
{
	const struct snapshots *snapshots = &entry->snapshots;
	const struct instants *instants = &entry->instants;
	size_t i = 0, j = 0;
	while (i < snapshots->count || j < instants->count) {
		const struct snapshots_row *row = &snapshots->row[i];
		const struct layout *layout = &instants->list[j];
		if (j == instants->count ||
			(i < snapshots->count && row->resident.tick <= layout->tick)) {
			resident_row(out, entry, row->resident.tick, &row->resident,
				row->kept_known);
			i++;
			continue;
		}
		if (layout->resident.known)
			resident_row(out, entry, layout->tick, &layout->resident,
				layout->kept_known);
		j++;
	}
}

static void sample_rows(struct writer *out, const struct analysis_stream *entry)
{
	for (size_t i = 0; i < entry->timeline.sample_count; i++) {
		const struct hl_sample_record *sample = &entry->timeline.samples[i].sample;
		uint64_t rss = sample->rss_anon + sample->rss_file + sample->rss_shmem;
		writer_text(out, entry->stream->name);
		comma(out, clock_ns(&entry->stream->clock, sample->tick));
		comma(out, rss - (sample->recorder < rss ? sample->recorder : rss));
		comma(out, sample->rss_anon);
		comma(out, sample->rss_file);
		comma(out, sample->rss_shmem);
		comma(out, sample->swap);
		comma(out, sample->rss_peak);
		comma(out, sample->recorder);
		comma(out, sample->minor_faults);
		comma(out, sample->major_faults);
		writer_char(out, '\n');
	}
}

/* Those of the library's own start are not the program's. */
static void syscall_rows(struct writer *out, const struct analysis_stream *entry)
{
	const struct timeline *timeline = &entry->timeline;
	if (entry->result.elsewhere)
		return;
	for (size_t i = 0; i < timeline->cause_count; i++) {
		const struct timeline_cause *item = &timeline->causes[i];
		const struct tally_cause *cause = &item->cause;
		uint64_t tick = item->row < timeline->rows ? timeline->row[item->row].tick
							   : timeline->last_tick;
		const char *reason = name_reason(cause->reason);
		writer_text(out, entry->stream->name);
		comma(out, clock_ns(&entry->stream->clock, tick));
		comma_text(out, name_kind(cause->syscall));
		comma_text(out, reason ? reason : "unknown");
		comma_text(
			out, cause->call && name_kind(cause->call) ? name_kind(cause->call) : "");
		comma(out, cause->count);
		comma(out, cause->bytes);
		comma(out, clock_span(&entry->stream->clock, cause->ticks));
		writer_char(out, '\n');
	}
}

static void latency_rows(struct writer *out, const struct analysis_stream *entry)
{
	const struct tally_latency *latency = &entry->result.latency;
	for (unsigned i = 0; i < TALLY_LATENCIES; i++) {
		if (!latency->bytes[i])
			continue;
		writer_text(out, entry->stream->name);
		comma(out, tally_latency_limit(i));
		comma(out, latency->bytes[i]);
		writer_char(out, '\n');
	}
}

static void size_rows(struct writer *out, const struct analysis_stream *entry)
{
	if (entry->result.calls_unknown)
		return;
	for (unsigned i = 0; i < TALLY_SIZES; i++) {
		const struct tally_size *size = &entry->result.sizes[i];
		if (!size->all.count && !size->live.count && !size->peak.count)
			continue;
		bool ours = !entry->result.observed, peak = entry->result.peak_sizes_known;
		writer_text(out, entry->stream->name);
		comma(out, tally_size_limit(i));
		comma(out, size->all.count);
		comma(out, size->all.bytes);
		comma(out, size->live.count);
		comma(out, size->live.bytes);
		comma_known(out, ours, (int64_t)size->all.chunk);
		comma_known(out, ours, (int64_t)size->live.chunk);
		comma_known(out, peak, (int64_t)size->peak.count);
		comma_known(out, peak, (int64_t)size->peak.bytes);
		comma_known(out, peak, (int64_t)size->peak.chunk);
		writer_char(out, '\n');
	}
}

/* By doublings of the life, of which there may be several rows. */
static void lifetime_rows(struct writer *out, const struct analysis_stream *entry)
{
	static const char *const clocks[] = {"time", "allocated"};
	const struct lifetimes *lifetimes = &entry->result.lifetimes;
	bool times = trace_has_times(entry->stream);
	uint64_t sum[LIFETIMES_ENDS] = {0};
	if (entry->result.calls_unknown)
		return;
	for (size_t i = 0; i < lifetimes->count; i++) {
		const struct lifetimes_row *row = &lifetimes->rows[i], *next = row + 1;
		unsigned step = tally_step(tally_latency_limit(row->bucket));
		for (unsigned end = 0; end < LIFETIMES_ENDS; end++)
			sum[end] += row->blocks[end];
		if (i + 1 < lifetimes->count && next->clock == row->clock &&
			next->doubling == row->doubling &&
			tally_step(tally_latency_limit(next->bucket)) == step)
			continue;
		if (times || row->clock != LIFETIMES_TIME) {
			writer_text(out, entry->stream->name);
			comma_text(out, clocks[row->clock]);
			comma(out, tally_doubling_limit(row->doubling));
			comma(out, tally_step_limit(step));
			comma(out, sum[LIFETIMES_FREED]);
			comma(out, sum[LIFETIMES_LIVE]);
			writer_char(out, '\n');
		}
		memset(sum, 0, sizeof(sum));
	}
}

/* How far the rows of the other tables can be trusted. */
static void stream_rows(struct writer *out, const struct analysis_stream *entry)
{
	writer_text(out, entry->stream->name);
	comma_known(out, !entry->result.calls_unknown, (int64_t)analysis_calls(&entry->result));
	comma_known(out, !entry->result.syscalls_unknown,
		(int64_t)analysis_all_syscalls(&entry->result));
	comma(out, analysis_lost(entry));
	comma(out, analysis_stream_complete(entry));
	writer_char(out, '\n');
}

static void comma_group(struct writer *out, const struct analysis_stream *entry,
	const struct groups *groups, const struct group *group)
{
	const struct layout_site *sum = &group->sum;
	const struct analysis_site *place = &group->place;
	bool kept = layout_is_kept(sum->caller), size = !kept && groups->by == ANALYSIS_BY_SIZE;
	const char *keeper = kept ? name_kept(layout_kept(sum->caller)) : NULL;
	uint32_t tid = threads_tid(&entry->threads, sum->thread);
	char address[24] = "";
	if (place->address)
		snprintf(address, sizeof(address), "0x%llx", (unsigned long long)place->address);
	comma_text(out, keeper ? keeper : "");
	comma_known(out, size, size ? (int64_t)group_up_to(group) : 0);
	comma_known(out, tid, tid);
	comma_quoted(out, place->function);
	comma_quoted(out, place->file);
	comma_known(out, place->line, place->line);
	comma_quoted(out, place->module);
	comma_known(out, site_is_nameless(place), (int64_t)place->offset);
	comma_text(out, address);
	comma_share(out, sum->pinned);
	comma(out, sum->alone_bytes);
	comma(out, sum->alone_pages);
	comma(out, sum->blocks);
	comma(out, sum->bytes);
	comma(out, sum->mapped_blocks);
	comma(out, sum->mapped_bytes);
	comma_known(out, !kept, (int64_t)sum->smallest);
	comma_known(out, !kept, (int64_t)sum->largest);
	comma_known(out, !kept, (int64_t)clock_ns(&entry->stream->clock, sum->oldest));
	comma_known(out, !kept, (int64_t)clock_ns(&entry->stream->clock, sum->youngest));
}

static void group_rows(struct writer *out, const struct analysis_stream *entry)
{
	for (size_t i = 0; i < entry->moments.count; i++) {
		const struct moment *moment = &entry->moments.list[i];
		const struct groups *groups = &entry->groups[i];
		for (size_t j = 0; j < groups->shown; j++) {
			writer_text(out, entry->stream->name);
			comma_text(out, moments_name(moment->kind));
			comma_quoted(out, moments_phase(moment, &entry->result.phases));
			comma(out, clock_ns(&entry->stream->clock, moment->layout.tick));
			comma_text(out, analysis_group_name(groups->by));
			comma_group(out, entry, groups, &groups->list[j]);
			writer_char(out, '\n');
		}
	}
}

#define AT_SIZES(name) name "_64," name "_512," name "_4096," name "_65536," name "_131072,"
#define OF_PAGES(name)                                                                             \
	name "_used," name "_half_free," name "_single," name "_whole," name "_free_bytes," name   \
	     "_single_free_bytes,"

static const struct {
	const char *name;
	const char *header;
	void (*rows)(struct writer *out, const struct analysis_stream *entry);
} tables[] = {
	{"timeline.csv",
		"stream,time_ns,requested_bytes,chunk_bytes,mapped_bytes,break_bytes,arena_bytes,"
		"block_bytes,free_bytes,returned_bytes,live_blocks,peak_requested_bytes,"
		"peak_mapped_bytes,event,slack_bytes,metadata_bytes,reserved_bytes,"
		"thrash_cycles,resident_heap_bytes\n",
		timeline_rows},
	{"fragmentation.csv",
		"stream,time_ns,mapped_bytes,requested_bytes,slack_bytes,cached_bytes,table_bytes,"
		"partial_bytes,whole_touched_bytes,whole_purged_bytes,whole_untouched_bytes,"
		"top_bytes,top_touched_bytes,top_purged_bytes,top_untouched_bytes,between_bytes,"
		"metadata_bytes,live_blocks,free_bytes,runs,largest_bytes,"
		"largest_without_top_bytes," AT_SIZES("unusable") AT_SIZES("unusable_without_top")
			AT_SIZES("split") AT_SIZES("split_without_top") OF_PAGES("pages")
				OF_PAGES("huge_pages") "strays\n",
		fragmentation_rows},
	{"resident.csv",
		"stream,time_ns,snapshot_ns,reason,took_ns,cut,requested_bytes,slack_bytes,cached_bytes,"
		"table_bytes,free_bytes,top_bytes,metadata_bytes,outside_bytes,all_bytes,"
		"rss_anon_bytes,rss_anon_after_bytes,residual_bytes\n",
		resident_rows},
	{"samples.csv",
		"stream,time_ns,rss_bytes,rss_anon_bytes,rss_file_bytes,rss_shmem_bytes,swap_bytes,"
		"rss_peak_bytes,recorder_bytes,minor_faults,major_faults\n",
		sample_rows},
	{"syscalls.csv", "stream,time_ns,syscall,reason,call,count,bytes,duration_ns\n",
		syscall_rows},
	{"return_latency.csv", "stream,up_to_ns,page_bytes\n", latency_rows},
	{"sizes.csv",
		"stream,up_to_bytes,count,bytes,live_count,live_bytes,chunk_bytes,live_chunk_bytes,"
		"peak_count,peak_bytes,peak_chunk_bytes\n",
		size_rows},
	{"lifetimes.csv",
		"stream,clock,up_to_bytes,lived_up_to,freed_blocks,live_blocks\n",
		lifetime_rows},
	{"streams.csv", "stream,calls,syscalls,lost,complete\n", stream_rows},
	/* The last, and only with --group-by. */
	{"groups.csv",
		"stream,moment,phase,time_ns,group_by,kept,up_to_bytes,thread,function,file,line,"
		"module,offset,caller,pinned_bytes,alone_bytes,alone_pages,blocks,requested_bytes,"
		"mapped_blocks,mapped_requested_bytes,smallest_bytes,largest_bytes,oldest_at_ns,"
		"youngest_at_ns\n",
		group_rows},
};

#define TABLE_COUNT (sizeof(tables) / sizeof(tables[0]))

static int table_open(struct writer *out, const char *directory, const char *name)
{
	char *path;
	if (asprintf(&path, "%s/%s", directory, name) < 0)
		return -ENOMEM;
	int rc = writer_open(out, path);
	free(path);
	return rc;
}

static int table_fill(struct writer *out, const struct analysis *analysis, size_t table)
{
	writer_text(out, tables[table].header);
	for (size_t i = 0; i < analysis->count; i++)
		tables[table].rows(out, &analysis->streams[i]);
	writer_flush(out);
	return out->error;
}

/* All files are written before the first takes its name: a full disk leaves the old set whole. */
int csv_write(const struct analysis *analysis, const char *directory, char *error, size_t length)
{
	struct writer *outs = calloc(TABLE_COUNT, sizeof(*outs));
	const char *name = "";
	size_t opened = 0, count = analysis->group_by ? TABLE_COUNT : TABLE_COUNT - 1;
	int rc = outs ? 0 : -ENOMEM;

	if (!rc && mkdir(directory, 0777) && errno != EEXIST)
		rc = -errno;
	if (!rc && stranger_links(directory))
		rc = -EPERM;
	while (!rc && opened < count) {
		name = tables[opened].name;
		rc = table_open(&outs[opened], directory, name);
		if (!rc) {
			rc = table_fill(&outs[opened], analysis, opened);
			opened++;
		}
	}
	for (size_t i = 0; i < opened; i++) {
		int close_rc = writer_close(&outs[i], !rc);
		if (close_rc && !rc) {
			name = tables[i].name;
			rc = close_rc;
		}
	}
	if (rc)
		snprintf(error, length, "%s/%s: %s", directory, name, strerror(-rc));
	free(outs);
	return rc;
}
