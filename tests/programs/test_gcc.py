# SPDX-License-Identifier: MIT
"""gcc -O2 on a large C file and g++ on templates: the object files must not differ by a byte. Both
fork and exec the compiler proper, the assembler and the linker."""

import random


def large_c_file(functions):
    """C with some of everything that costs a compiler memory: calls, loops, switches, structs."""
    chance = random.Random(7)
    lines = ['#include <stdio.h>', '#include <string.h>', '#include <stdint.h>',
             'struct node { struct node *next; uint64_t key; char name[32]; double weight; };']
    for number in range(functions):
        lines.append(f'static uint64_t f{number}(struct node *node, uint64_t x, double y)\n{{')
        lines.append(f'\tuint64_t table[{chance.randint(4, 40)}] = {{x}};')
        lines.append('\tfor (; node; node = node->next) {\n\t\tswitch (node->key ^ x) {')
        for case in range(chance.randint(4, 16)):
            lines.append(f'\t\tcase {case * chance.randint(1, 9) * 17 + case}:')
            lines.append(f'\t\t\tx += table[{chance.randrange(4)}] * {chance.randint(3, 99999)}u;')
            if number and chance.random() < 0.5:
                lines.append(f'\t\t\tx ^= f{chance.randrange(number)}(node->next, x, y * 1.5);')
            lines.append('\t\t\tbreak;')
        lines.append('\t\tdefault:\n\t\t\ty = y * node->weight + (double)x;\n\t\t}')
        lines.append(f'\t\ttable[x % {chance.randint(2, 4)}] += x << {chance.randint(1, 13)};')
        lines.append('\t\tmemmove(node->name, node->name + 1, sizeof node->name - 1);\n\t}')
        lines.append('\treturn x + (uint64_t)y + table[1];\n}')
    last = functions - 1
    lines.append('int main(int argc, char **argv)\n{\n\tstruct node node = {0};')
    lines.append('\tstrncpy(node.name, argv[0], sizeof node.name - 1);')
    lines.append(f'\tprintf("%llu\\n", (unsigned long long)f{last}(&node, argc, 0.5));')
    lines.append('\treturn 0;\n}')
    return '\n'.join(lines) + '\n'


TEMPLATES = '''
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>

template <int N> struct fib { static constexpr long value = fib<N - 1>::value + fib<N - 2>::value; };
template <> struct fib<0> { static constexpr long value = 0; };
template <> struct fib<1> { static constexpr long value = 1; };

template <int... I> struct list {};
template <int N, int... I> struct range : range<N - 1, N - 1, I...> {};
template <int... I> struct range<0, I...> { using type = list<I...>; };

template <int I> struct box {
	std::map<std::string, std::vector<std::variant<int, std::string, double>>> content;
	std::function<long(long)> step = [](long x) { return x * I + fib<I % 60>::value; };
	long run(long x)
	{
		content[std::to_string(x % 7)].emplace_back(int(x));
		content["text"].emplace_back(std::string(I % 40, 'x'));
		return step(x) + long(content.size());
	}
};

template <int... I> long all(list<I...>)
{
	auto boxes = std::make_tuple(std::make_unique<box<I>>()...);
	long x = 1;
	((x = std::get<I>(boxes)->run(x) % 1000003), ...);
	return x;
}

int main()
{
	std::vector<long> numbers(1000);
	std::iota(numbers.begin(), numbers.end(), 1);
	std::sort(numbers.begin(), numbers.end(), [](long a, long b) { return a * 7 % 1001 < b * 7 % 1001; });
	std::unordered_map<std::string, long> seen;
	std::regex word("([a-z]+)([0-9]*)");
	for (long n : numbers)
		if (std::regex_match("number" + std::to_string(n), word))
			seen[std::to_string(n % 97)] += n;
	std::cout << all(range<12>::type()) << ' ' << seen.size() << '\\n';
}
'''


def test_gcc_object(preload):
    source = large_c_file(1200)
    result = preload.compare(
        ['gcc', '-O2', '-c', 'large.c', '-o', 'large.o'], files=['large.o'],
        prepare=lambda folder: (folder / 'large.c').write_text(source), least_calls=100_000)
    assert result.plain.status == 0
    assert len(result.plain.files['large.o']) > 100_000


def test_gcc_program(preload):
    """With the linker, and its warnings on stderr."""
    source = large_c_file(40) + 'int unused(int a) { int b; return a; }\n'
    result = preload.compare(
        ['gcc', '-O2', '-Wall', 'small.c', '-o', 'small'], files=['small'],
        prepare=lambda folder: (folder / 'small.c').write_text(source))
    assert result.plain.status == 0
    assert b'unused' in result.plain.stderr
    assert len(result.analysis['processes']) >= 4, 'gcc, cc1, as, collect2 or ld'


def test_gcc_error(preload):
    result = preload.compare(
        ['gcc', '-O2', '-c', 'wrong.c'],
        prepare=lambda folder: (folder / 'wrong.c').write_text('int f(void) { return x; }\n'))
    assert result.plain.status == 1
    assert b'undeclared' in result.plain.stderr


def test_gxx_templates(preload):
    result = preload.compare(
        ['g++', '-std=c++17', '-O2', '-c', 'templates.cc', '-o', 'templates.o'],
        files=['templates.o'], least_calls=100_000,
        prepare=lambda folder: (folder / 'templates.cc').write_text(TEMPLATES))
    assert result.plain.status == 0
    assert len(result.plain.files['templates.o']) > 100_000
