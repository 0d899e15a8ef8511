#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the SQL script of the demo to stdout: the same text for the same arguments.

The script works in memory only. Tables are built a row a statement, indexed, updated, thinned out
and dropped in an order that leaves holes, as a service does over a day: so the heap grows, gets
free space that it cannot give back at once, and shrinks at the end.
"""

import argparse
import random
import sys

WORDS = 'ledger heap break page arena chunk trim top pin slack cache map limit order fault'.split()


def text(chance, longest):
    return ' '.join(chance.choices(WORDS, k=chance.randint(1, longest)))


def build(chance, name, rows):
    yield f'CREATE TABLE {name}(id INTEGER PRIMARY KEY, owner INT, title TEXT, body TEXT);'
    yield 'BEGIN;'
    for row in range(rows):
        title, body = text(chance, 4), text(chance, 40)
        yield f"INSERT INTO {name} VALUES({row}, {chance.randrange(500)}, '{title}', '{body}');"
    yield 'COMMIT;'
    yield f'CREATE INDEX {name}_owner ON {name}(owner);'
    yield f'CREATE INDEX {name}_title ON {name}(title);'


def update(chance, name, rows):
    yield 'BEGIN;'
    for _ in range(rows // 3):
        row = chance.randrange(rows)
        yield f"UPDATE {name} SET body = body || ' {text(chance, 20)}' WHERE id = {row};"
    yield f'DELETE FROM {name} WHERE owner % 3 = 1;'
    yield 'COMMIT;'


def ask(name):
    yield f'SELECT owner, count(*), sum(length(body)) FROM {name} GROUP BY owner % 7;'
    yield f'SELECT count(*), max(length(t)) FROM (SELECT group_concat(title) t FROM {name});'


def script(tables, rows, seed):
    chance = random.Random(seed)
    names = [f't{number}' for number in range(tables)]
    for name in names:
        yield from build(chance, name, rows)
        yield from ask(name)
    for name in names:
        yield from update(chance, name, rows)
        yield from ask(name)
    # Every second table first: what stays lies between what goes.
    for name in names[::2] + names[1::2]:
        yield f'DROP TABLE {name};'
        yield 'SELECT count(*) FROM sqlite_schema;'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--tables', type=int, default=16)
    parser.add_argument('--rows', type=int, default=5000)
    parser.add_argument('--seed', type=int, default=1)
    arguments = parser.parse_args()
    for line in script(arguments.tables, arguments.rows, arguments.seed):
        sys.stdout.write(line + '\n')


if __name__ == '__main__':
    main()
