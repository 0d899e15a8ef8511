/* SPDX-License-Identifier: MIT
 *
 * What is shown of names that others chose: letters of all languages as they are, and nothing that
 * a terminal obeys.
 */
#include "escape.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

static void expect(const char *text, const char *shown)
{
	char line[256];

	assert_int_equal(escape_copy(line, sizeof(line), text, strlen(text)), strlen(shown));
	assert_string_equal(line, shown);
}

static void test_letters_stay(void **state)
{
	(void)state;
	expect("", "");
	expect("a b~\\\"", "a b~\\\"");
	expect("gr\xc3\xbc\xc3\x9f \xe6\xbc\xa2 \xf0\x9f\x98\x80 \xc2\xa0",
		"gr\xc3\xbc\xc3\x9f "
		"\xe6\xbc\xa2 \xf0\x9f\x98\x80 \xc2\xa0");
	expect("\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf");
}

static void test_controls_are_escaped(void **state)
{
	(void)state;
	expect("\x1b[2J\n\t\r\x7f", "\\x1b[2J\\x0a\\x09\\x0d\\x7f");
	expect("\xc2\x9b"
	       "2J",
		"\\xc2\\x9b"
		"2J");
	expect("\xc2\x80\xc2\x9f", "\\xc2\\x80\\xc2\\x9f");
	expect("\xe2\x80\xae"
	       "x\xe2\x81\xa6\xe2\x80\xa8\xd8\x9c",
		"\\xe2\\x80\\xae"
		"x\\xe2\\x81\\xa6\\xe2\\x80\\xa8\\xd8\\x9c");
}

static void test_what_is_no_text_is_escaped(void **state)
{
	(void)state;
	expect("\x9b"
	       "2J\xff",
		"\\x9b"
		"2J\\xff");
	expect("\xc0\x9b", "\\xc0\\x9b"); /* longer than need be */
	expect("\xe0\x82\x9b", "\\xe0\\x82\\x9b");
	expect("\xed\xa0\x80", "\\xed\\xa0\\x80");          /* half of a pair */
	expect("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"); /* beyond the last letter */
	expect("\xf8\x88\x80\x80\x80", "\\xf8\\x88\\x80\\x80\\x80");
	expect("\xc3", "\\xc3"); /* cut off */
	expect("\xe6\xbc", "\\xe6\\xbc");
	expect("\xe6"
	       "a",
		"\\xe6"
		"a");
}

static void test_what_does_not_fit_is_left_out_whole(void **state)
{
	char line[8];

	(void)state;
	for (size_t room = 1; room <= sizeof(line); room++) {
		memset(line, '#', sizeof(line));
		size_t used = escape_copy(line, room, "a\x1b\xc3\xbc", 4);

		assert_true(used < room);
		assert_int_equal(line[used], '\0');
		assert_int_equal(used, room < 2 ? 0 : room < 6 ? 1 : room < 8 ? 5 : 7);
		for (size_t i = used + 1; i < sizeof(line); i++)
			assert_int_equal(line[i], '#');
	}
}

static void test_zeros_are_escaped(void **state)
{
	char line[32];

	(void)state;
	assert_int_equal(escape_copy(line, sizeof(line), "a\0b", 3), 6);
	assert_string_equal(line, "a\\x00b");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_letters_stay),
		cmocka_unit_test(test_controls_are_escaped),
		cmocka_unit_test(test_what_is_no_text_is_escaped),
		cmocka_unit_test(test_what_does_not_fit_is_left_out_whole),
		cmocka_unit_test(test_zeros_are_escaped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
