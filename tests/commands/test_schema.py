# SPDX-License-Identifier: MIT
"""docs/analysis.schema.json, to which conftest.run holds every JSON that a test makes: it is a schema,
says no to what it does not know, and docs/analysis.md names every field of it."""

import copy
import re

import jsonschema
import pytest

from conftest import SOURCE, analyze, assert_valid, schema
from trace_script import SCRIPT, make_trace

DOCUMENT = SOURCE / 'docs' / 'analysis.md'


def objects(node):
    """Every subschema that has fields, wherever it lies."""
    if isinstance(node, dict):
        if 'properties' in node:
            yield node
        for part in node.values():
            yield from objects(part)
    elif isinstance(node, list):
        for part in node:
            yield from objects(part)


@pytest.fixture(scope='module')
def analysis(heapledger, build, tmp_path_factory):
    return analyze(heapledger, make_trace(
        build, tmp_path_factory.mktemp('schema') / 'trace', SCRIPT))


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(schema().schema)


def test_every_object_is_closed():
    found = list(objects(schema().schema))
    assert len(found) > 40
    for node in found:
        assert node['additionalProperties'] is False, list(node['properties'])


UNITS = {'bytes', 'ns', 'byte seconds', 'percent', 'share', 'number', 'count'}


def numbers(node):
    """Name and subschema of every field that is a number."""
    for part in objects(node):
        for name, field in part['properties'].items():
            if {'integer', 'number'} & set(field.get('type') if isinstance(field.get('type'), list)
                                           else [field.get('type')]):
                yield name, field


def test_every_number_has_a_unit_and_a_range():
    found = list(numbers(schema().schema))
    assert len(found) > 300
    for name, field in found:
        assert field.get('unit') in UNITS, name
        assert 'minimum' in field or name == 'residual_bytes', name
        assert field['unit'] != 'share' or field['maximum'] == 1, name
        assert not name.endswith('_bytes') or field['unit'] == 'bytes', name
        assert not name.endswith('_ns') or field['unit'] == 'ns', name


def documented():
    """The words in backquotes, and those of the first cells of tables."""
    words = set()
    for block in re.split(r'\n(?:\s*\n|(?=\|))', DOCUMENT.read_text()):
        quoted = re.findall(r'`[^`]*`', block) + re.findall(r'^\| ([^|]*) \|', block)
        words.update(word for text in quoted for word in re.findall(r'\w+', text))
    return words


def test_every_field_is_documented():
    fields = {name for node in objects(schema().schema) for name in node['properties']}
    assert len(fields) > 100
    assert not fields - documented()


def places(data):
    """Every object of an analysis that the schema says the fields of."""
    yield data
    for name, value in data.items():
        if name in ('tunables', 'by_call'):
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from places(part)


def test_no_field_may_be_new_or_missing(analysis):
    assert_valid(analysis)
    count = sum(1 for place in places(analysis))
    assert count > 40
    for index in range(count):
        changed = copy.deepcopy(analysis)
        list(places(changed))[index]['new'] = 1
        assert not schema().is_valid(changed), index
        changed = copy.deepcopy(analysis)
        place = list(places(changed))[index]
        del place[next(iter(place))]
        assert not schema().is_valid(changed), index


@pytest.mark.parametrize('change', [
    lambda data: data['events'].update(total=-1),
    lambda data: data.update(mode='other'),
    lambda data: data['end'].update(requested_bytes='1'),
    lambda data: data['moments'][0]['free_space']['sizes'][0].update(unusable=1.5),
])
def test_types_and_ranges(analysis, change):
    changed = copy.deepcopy(analysis)
    change(changed)
    with pytest.raises(AssertionError):
        assert_valid(changed)
