/* SPDX-License-Identifier: MIT
 *
 * See text_formats.h. What each tool writes, by its own source and documents, is in
 * docs/imports.md.
 */
#include "text_formats.h"

#include "heapledger/record.h"

#include <string.h>

#define STAMP_LIMIT (UINT64_C(1) << 62)

/* ---- words ----------------------------------------------------------------------------------- */

struct scan {
	const char *at;
	const char *end;
};

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool scan_char(struct scan *scan, char c)
{
	if (scan->at == scan->end || *scan->at != c)
		return false;
	scan->at++;
	return true;
}

static bool scan_text(struct scan *scan, const char *text)
{
	size_t length = strlen(text);

	if ((size_t)(scan->end - scan->at) < length || memcmp(scan->at, text, length) != 0)
		return false;
	scan->at += length;
	return true;
}

static bool scan_blanks(struct scan *scan)
{
	const char *from = scan->at;

	while (scan->at < scan->end && is_blank(*scan->at))
		scan->at++;
	return scan->at > from;
}

/* Nothing follows but blanks. */
static bool scan_end(struct scan *scan)
{
	scan_blanks(scan);
	return scan->at == scan->end;
}

/* The value of a hexadecimal digit, 16 for any other byte. */
static unsigned digit_of(char c)
{
	if (is_digit(c))
		return (unsigned)(c - '0');
	if (c >= 'a' && c <= 'f')
		return (unsigned)(c - 'a') + 10;
	return c >= 'A' && c <= 'F' ? (unsigned)(c - 'A') + 10 : 16;
}

/* Any number of digits as long as the value fits 64 bits. */
static bool scan_digits(struct scan *scan, unsigned base, uint64_t *value)
{
	const char *from = scan->at;
	uint64_t sum = 0;

	for (; scan->at < scan->end; scan->at++) {
		unsigned digit = digit_of(*scan->at);

		if (digit >= base)
			break;
		if (sum > (UINT64_MAX - digit) / base)
			return false;
		sum = sum * base + digit;
	}
	*value = sum;
	return scan->at > from;
}

static bool scan_decimal(struct scan *scan, uint64_t *value)
{
	return scan_digits(scan, 10, value);
}

/* As %p writes it. The top byte of an address is a tag, or nothing. */
static bool scan_pointer(struct scan *scan, uint64_t *addr)
{
	uint64_t value;

	if (scan_text(scan, "(nil)")) {
		*addr = 0;
		return true;
	}
	if (!scan_text(scan, "0x") || !scan_digits(scan, 16, &value))
		return false;
	*addr = value & HL_ADDRESS_MASK;
	return value == 0 || *addr != 0;
}

/* ---- one argument ---------------------------------------------------------------------------- */

/* By its letter in a form: s size, n number of elements, a alignment, o old block, b block. Logs
 * that were made ready for replay have #NUMBER for a block. */
static bool scan_argument(struct scan *scan, char letter, struct text_event *event)
{
	uint64_t *to = letter == 's'   ? &event->size
		       : letter == 'n' ? &event->count
		       : letter == 'a' ? &event->alignment
		       : letter == 'o' ? &event->old
				       : &event->addr;

	if (letter != 'o' && letter != 'b')
		return scan_decimal(scan, to);
	if (!scan_char(scan, '#'))
		return scan_pointer(scan, to);
	event->numbered = true;
	return scan_decimal(scan, to) && *to != 0 && *to <= HL_ADDRESS_MASK;
}

struct form {
	const char *name;
	unsigned kind;         /* 0 = no event */
	const char *arguments; /* their letters */
	bool result;           /* of logalloc: one follows */
	const char *expected;
};

static const struct form *find_form(const struct form *forms, struct scan *scan, char after)
{
	for (; forms->name != NULL; forms++) {
		struct scan ahead = *scan;

		if (scan_text(&ahead, forms->name) && scan_char(&ahead, after)) {
			*scan = ahead;
			return forms;
		}
	}
	return NULL;
}

static enum text_result malformed(struct text_parser *parser, const char *expected)
{
	parser->expected = expected;
	return TEXT_MALFORMED;
}

/* What no line can say, whatever its form. */
static enum text_result finish(struct text_parser *parser, struct text_event *event)
{
	bool gives = event->addr != 0 && event->kind != HL_KIND_free;

	if (event->kind == HL_KIND_calloc &&
		__builtin_mul_overflow(event->count, event->size, &event->size))
		event->size = UINT64_MAX;
	if (gives && event->size > HL_ADDRESS_MASK)
		return malformed(parser, "a size that fits into memory, of a block that was given");
	return TEXT_EVENT;
}

/* ---- logalloc -------------------------------------------------------------------------------- */

#define LOGALLOC_EXPECTED                                                                          \
	"`PID TID FUNCTION(ARGUMENTS)[=RESULT]` with a function of malloc's family"

static const struct form logalloc_forms[] = {
	{"malloc", HL_KIND_malloc, "s", true, "`malloc(SIZE)=POINTER`"},
	{"free", HL_KIND_free, "b", false, "`free(POINTER)`"},
	{"realloc", HL_KIND_realloc, "os", true, "`realloc(POINTER,SIZE)=POINTER`"},
	{"calloc", HL_KIND_calloc, "ns", true, "`calloc(COUNT,SIZE)=POINTER`"},
	{"posix_memalign", HL_KIND_posix_memalign, "as", true,
		"`posix_memalign(ALIGNMENT,SIZE)=POINTER`"},
	{"memalign", HL_KIND_memalign, "as", true, "`memalign(ALIGNMENT,SIZE)=POINTER`"},
	{"aligned_alloc", HL_KIND_aligned_alloc, "as", true,
		"`aligned_alloc(ALIGNMENT,SIZE)=POINTER`"},
	{"valloc", HL_KIND_valloc, "s", true, "`valloc(SIZE)=POINTER`"},
	{"jemalloc_stats", 0, "", false, "`jemalloc_stats()`"},
	{0},
};

/* Logs of the first years have no thread. */
static bool logalloc_ids(struct scan *scan, struct text_event *event)
{
	if (!scan_decimal(scan, &event->pid) || !scan_blanks(scan))
		return false;
	if (scan->at == scan->end || !is_digit(*scan->at))
		return true;
	return scan_decimal(scan, &event->tid) && scan_blanks(scan);
}

static enum text_result logalloc_parse(
	struct text_parser *parser, const struct text_line *line, struct text_event *event)
{
	struct scan scan = {line->text, line->text + line->length};
	const struct form *form = NULL;

	if (logalloc_ids(&scan, event) && event->pid != 0 && event->pid <= UINT32_MAX)
		form = find_form(logalloc_forms, &scan, '(');
	if (form == NULL)
		return malformed(parser, LOGALLOC_EXPECTED);
	for (const char *letter = form->arguments; *letter != '\0'; letter++)
		if ((letter > form->arguments && !scan_char(&scan, ',')) ||
			!scan_argument(&scan, *letter, event))
			return malformed(parser, form->expected);
	if (!scan_char(&scan, ')') ||
		(form->result && !(scan_char(&scan, '=') && scan_argument(&scan, 'b', event))) ||
		!scan_end(&scan))
		return malformed(parser, form->expected);
	event->kind = form->kind;
	return form->kind != 0 ? finish(parser, event) : TEXT_OTHER;
}

/* ---- memory_replay --------------------------------------------------------------------------- */

#define REPLAY_EXPECTED                                                                            \
	"`TID: CALL ...` with malloc, calloc, realloc, memalign, free or thread_done"

static const struct form replay_forms[] = {
	{"malloc", HL_KIND_malloc, "bs", false, "`malloc POINTER SIZE [START_NS END_NS]`"},
	{"free", HL_KIND_free, "b", false, "`free POINTER [START_NS END_NS]`"},
	{"realloc", HL_KIND_realloc, "bos", false, "`realloc NEW OLD SIZE [START_NS END_NS]`"},
	{"calloc", HL_KIND_calloc, "bns", false, "`calloc POINTER COUNT SIZE [START_NS END_NS]`"},
	{"memalign", HL_KIND_memalign, "bas", false,
		"`memalign POINTER ALIGNMENT SIZE [START_NS END_NS]`"},
	{"thread_done", HL_KIND_thread_exit, "b", false, "`thread_done 0x0 [END_NS]`"},
	{0},
};

/* Both, or none; of the end of a thread there is only one. */
static bool replay_times(struct scan *scan, struct text_event *event)
{
	if (scan_end(scan))
		return true;
	if (!scan_decimal(scan, &event->start_ns))
		return false;
	event->end_ns = event->start_ns;
	if (event->kind != HL_KIND_thread_exit &&
		!(scan_blanks(scan) && scan_decimal(scan, &event->end_ns)))
		return false;
	event->timed = true;
	return scan_end(scan) && event->start_ns <= event->end_ns && event->end_ns < STAMP_LIMIT;
}

static enum text_result replay_parse(
	struct text_parser *parser, const struct text_line *line, struct text_event *event)
{
	struct scan scan = {line->text, line->text + line->length};
	const struct form *form = NULL;

	if (scan_decimal(&scan, &event->tid) && event->tid != 0 && scan_text(&scan, ": "))
		form = find_form(replay_forms, &scan, ' ');
	if (form == NULL)
		return malformed(parser, REPLAY_EXPECTED);
	event->kind = form->kind;
	for (const char *letter = form->arguments; *letter != '\0'; letter++)
		if ((letter > form->arguments && !scan_blanks(&scan)) ||
			!scan_argument(&scan, *letter, event))
			return malformed(parser, form->expected);
	if (event->numbered || !replay_times(&scan, event))
		return malformed(parser, form->expected);
	return finish(parser, event);
}

/* ---- mtrace ---------------------------------------------------------------------------------- */

#define MTRACE_EXPECTED                                                                            \
	"`[@ WHERE] + POINTER SIZE`, `- POINTER`, `< POINTER`, `> POINTER SIZE`, `! POINTER SIZE`"

/* `@ FILE:(SYMBOL+0xOFFSET)[0xADDRESS] `: what it holds may have blanks; what follows has no ']'.
 */
static bool mtrace_where(struct scan *scan)
{
	const char *bracket;

	if (!scan_text(scan, "@ "))
		return true;
	bracket = memrchr(scan->at, ']', (size_t)(scan->end - scan->at));
	if (bracket == NULL)
		return false;
	scan->at = bracket + 1;
	return scan_blanks(scan);
}

/* As %#lx writes it: 0 has no 0x. */
static bool mtrace_size(struct scan *scan, uint64_t *size)
{
	scan_text(scan, "0x");
	return scan_digits(scan, 16, size);
}

static enum text_result mtrace_event(struct text_parser *parser, const struct text_line *line,
	struct text_event *event, char sign)
{
	switch (sign) {
	case '-':
		event->kind = HL_KIND_free;
		return finish(parser, event);
	case '<':
		parser->half_line = line->number;
		parser->half_addr = event->addr;
		return TEXT_HALF;
	case '>':
		if (parser->half_line == 0)
			return malformed(parser, "a line `< POINTER` right before it");
		event->old = parser->half_addr;
		event->kind = HL_KIND_realloc;
		parser->half_line = 0;
		return finish(parser, event);
	case '!':
		event->old = event->addr;
		event->addr = 0;
		event->kind = HL_KIND_realloc;
		return finish(parser, event);
	default:
		event->kind = HL_KIND_malloc;
		return finish(parser, event);
	}
}

static enum text_result mtrace_parse(
	struct text_parser *parser, const struct text_line *line, struct text_event *event)
{
	struct scan scan = {line->text, line->text + line->length};
	char sign;

	if (scan_text(&scan, "= ") && (scan_text(&scan, "Start") || scan_text(&scan, "End")))
		return scan_end(&scan) ? TEXT_OTHER : malformed(parser, MTRACE_EXPECTED);
	if (!mtrace_where(&scan) || scan.at == scan.end)
		return malformed(parser, MTRACE_EXPECTED);
	sign = *scan.at++;
	if (memchr("+-<>!", sign, 5) == NULL || !scan_blanks(&scan) ||
		!scan_pointer(&scan, &event->addr))
		return malformed(parser, MTRACE_EXPECTED);
	if (sign != '-' && sign != '<' && !(scan_blanks(&scan) && mtrace_size(&scan, &event->size)))
		return malformed(parser, MTRACE_EXPECTED);
	if (!scan_end(&scan))
		return malformed(parser, MTRACE_EXPECTED);
	return mtrace_event(parser, line, event, sign);
}

/* ---- all ------------------------------------------------------------------------------------- */

static const struct text_format formats[] = {
	{.name = "logalloc",
		.parse = logalloc_parse,
		.has_pids = true,
		.has_tids = true,
		.numbers_threads = true},
	{.name = "mtrace", .parse = mtrace_parse},
	{.name = "memory_replay", .parse = replay_parse, .has_tids = true},
};

#define FORMAT_COUNT (sizeof(formats) / sizeof(formats[0]))

const struct text_format *text_format_find(const char *name)
{
	for (size_t i = 0; i < FORMAT_COUNT; i++)
		if (strcmp(formats[i].name, name) == 0)
			return &formats[i];
	return NULL;
}

static enum text_result parse_as(const struct text_format *format, struct text_parser *parser,
	const struct text_line *line, struct text_event *event)
{
	*event = (struct text_event){0};
	return format->parse(parser, line, event);
}

static enum text_result recognise(
	struct text_parser *parser, const struct text_line *line, struct text_event *event)
{
	for (size_t i = 0; i < FORMAT_COUNT; i++) {
		enum text_result result = parse_as(&formats[i], parser, line, event);

		if (result == TEXT_MALFORMED)
			continue;
		parser->format = &formats[i];
		return result;
	}
	return malformed(parser, "a line of " TEXT_FORMAT_NAMES);
}

enum text_result text_parse(
	struct text_parser *parser, const struct text_line *line, struct text_event *event)
{
	struct text_line text = *line;
	uint64_t half_line = parser->half_line;
	enum text_result result;

	parser->left_line = 0;
	if (text.length > 0 && text.text[text.length - 1] == '\r')
		text.length--;
	if (text.too_long)
		result = malformed(parser, "a line of at most 65,536 bytes");
	else if (text.cut)
		result = malformed(parser, "the end of the line, which may be cut off");
	else if (scan_end(&(struct scan){text.text, text.text + text.length}))
		return TEXT_BLANK;
	else if (parser->format == NULL)
		result = recognise(parser, &text, event);
	else
		result = parse_as(parser->format, parser, &text, event);
	/* Nothing comes between the two halves. */
	if (half_line != 0 && parser->half_line != 0) {
		parser->left_line = half_line;
		if (parser->half_line == half_line)
			parser->half_line = 0;
	}
	return result;
}

void text_parse_end(struct text_parser *parser)
{
	parser->left_line = parser->half_line;
	parser->half_line = 0;
}
