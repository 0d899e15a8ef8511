# SPDX-License-Identifier: MIT
"""The gate beyond one budget: causes, phases and places, baselines with tolerances, several runs,
what it writes for CI, and that it can prove itself. Names of a trace are data in every output."""

import copy
import json
import re
import sys
import xml.etree.ElementTree as xml

import jsonschema
import pytest
import yaml

from analysis_fixture import Situation, causes, set_causes
from conftest import SOURCE, run

sys.path.insert(0, str(SOURCE / 'reports'))
import budget
import gate_text

HOSTILE = 'a%\n::error::b|<script>,:\x1b[31m\u202e]]>'


@pytest.fixture
def situation(tmp_path):
    result = Situation(tmp_path)
    result.data['phases_beyond'] = 0
    result.data['phases'] = [phase('load', 10, 900), phase('load', 5, 1200), phase('serve', 0, 800)]
    result.data['moments'] = [moment('mapped_peak', [('parse_line', 9000, 3), ('keep', 500, 1)]),
                              moment('end', [('keep', 500, 1)])]
    return result


def phase(name, brk, requested):
    calls = {key: 0 for key in ('brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect')}
    return {'name': name, 'start_ns': 0, 'end_ns': 9, 'calls': 7,
            'syscalls': {**calls, 'brk': brk, 'total': brk},
            'peak': {'requested_bytes': requested, 'mapped_bytes': 4096, 'rss_bytes': None}}


def moment(name, places):
    sites = [{'function': function, 'module': '/usr/bin/demo', 'kept': None, 'blocks': blocks,
              'requested_bytes': size, 'file': 'demo.c', 'line': 7}
             for function, size, blocks in places]
    return {'moment': name, 'sites': sites, 'sites_total': len(sites)}


def lines(outcome):
    return outcome.stdout.decode().splitlines()


def baseline(situation, *arguments, **options):
    return situation.script('check.py', situation.trace, '--baseline', 'base.json', *arguments,
                            **options)


MEASURED = [
    ('causes.grow_top', 205), ('phases.load.brk', 15), ('phases.load.requested', 1200),
    ('phases.load.calls', 14), ('sites.parse_line.peak', 9000), ('sites.parse_line.peak_blocks', 3),
    ('sites."keep@demo".end', 500), ('fragmentation.mean', 21.4),
]


@pytest.mark.parametrize('name, value', MEASURED)
def test_causes_phases_places_and_ratios_shut_just_below_what_was_measured(situation, name, value):
    assert situation.check(f'{name} = {value}\n').status == 0
    over = situation.check(f'{name} = {value - 1}\n')
    assert (over.status, lines(over)[-1]) == (1, 'EXCEEDED: 1 of 1 budget (heap.toml, line 1)')


def test_allocations_are_calls_that_got_memory(situation):
    by_call = situation.data['events']['by_call']
    by_call['malloc']['failed'] = 66
    by_call['realloc'] = {'count': 30, 'failed': 10, 'bytes': 900}
    assert situation.check('events.allocations = 1052120\n').status == 0
    over = situation.check('events.allocations = 1052119\n')
    assert over.status == 1 and any('1,052,166 malloc' in line for line in lines(over))
    situation.data['events']['calls'] = None
    situation.data['events']['by_call'] = {}
    assert situation.check('events.allocations = 1052120\n').status == 4


@pytest.mark.parametrize('name, held', [
    ('peak.requested', ['8.79 KiB held by parse_line in demo', '500 B held by keep in demo']),
    ('peak.mapped', ['8.79 KiB held by parse_line in demo', '500 B held by keep in demo']),
    ('end.requested', ['500 B held by keep in demo']), ('syscalls.brk', [])])
def test_who_holds_the_most_is_named_where_a_budget_is_exceeded(situation, name, held):
    over = situation.check(f'{name} = 1\n')
    assert [line.strip() for line in lines(over) if ' held by ' in line] == held
    for moment in situation.data['moments']:
        moment['sites_total'] += 1  # then nobody knows who has the most
    assert ' held by ' not in situation.check(f'{name} = 1\n').stdout.decode()


def test_a_place_without_names_says_what_is_missing(situation):
    for moment in situation.data['moments']:
        for site in moment['sites']:
            site['function'] = None
    outcome = situation.check('sites.no_such_place.peak = 1000000\n')
    assert outcome.status == 4
    assert 'not measured: no function has a name' in ' '.join(outcome.stdout.decode().split())


def test_no_line_is_broken_between_a_number_and_its_unit():
    for length in range(60, 80):
        for line in gate_text.wrap('x' * length + ' 7.81 KiB and 3 % of 12 B'):
            assert not re.search(r'\d$', line) and len(line) <= 80


def test_a_share_has_a_lower_limit(situation):
    assert situation.check('returned.least_share = 99\n').status == 0
    outcome = situation.check('returned.least_share = 99.9\n')
    assert outcome.status == 1 and lines(outcome)[1].startswith('LOW      1  returned.least_share')


@pytest.mark.parametrize('name', ['phases.never.total', 'sites.parse_lime.peak', 'phases.load.rss'])
def test_what_never_came_or_was_not_measured_is_no_pass(situation, name):
    outcome = situation.check(f'{name} = 1000000\n')
    assert outcome.status == 4
    assert lines(outcome)[-1] == f'NOT ENOUGH EVIDENCE: not measured: {name} (line 1)'


def test_a_place_that_held_nothing_at_the_end_is_0(situation):
    assert situation.check('sites.parse_line.end = 0\n').status == 0


def test_a_list_of_places_that_is_not_whole_passes_nothing(situation):
    situation.data['moments'][0]['sites_total'] = 51
    assert situation.check('sites.parse_line.peak = 9000\n').status == 4


def test_the_known_reasons_are_those_of_the_trace_format():
    text = (SOURCE / 'include/heapledger/calls.def').read_text().splitlines()
    names = {line.split(',')[1].strip() for line in text if line.startswith('HL_REASON(')}
    assert names - {'recorder', 'name'} == set(budget.REASONS)


def test_a_baseline_is_made_and_kept_and_broken_beyond_its_tolerance(situation):
    made = baseline(situation, '--update')
    assert (made.status, made.stderr) == (0, b'heapledger: check: base.json: written\n')
    same = baseline(situation)
    assert (same.status, lines(same)[-1]) == (0, 'KEPT: 34 figures of the baseline')
    set_causes(situation.data, causes(grow=209))  # 212 * 2 % = 4
    assert baseline(situation).status == 0
    set_causes(situation.data, causes(grow=210))
    over = baseline(situation)
    assert over.status == 1
    assert 'grew +5 brk: no free block fits: grow the break, in malloc: 205 -> 210' in ' '.join(
        over.stdout.decode().split())
    assert baseline(situation, '--tolerance', 'syscalls.brk=3%').status == 0
    assert baseline(situation, '--tolerance', 'syscalls.*=5').status == 0
    assert baseline(situation, '--tolerance', '4').status == 1
    assert baseline(situation, '--update').status == 0
    assert baseline(situation).status == 0


def set_phase(situation, number, **figures):
    for name, value in figures.items():
        part = situation.data['phases'][number]
        if name == 'calls':
            part['calls'] = value
        else:
            part['syscalls' if name in part['syscalls'] else 'peak'][
                name if name in part['syscalls'] else f'{name}_bytes'] = value


def test_a_baseline_has_the_figures_of_each_phase(situation):
    assert baseline(situation, '--update').status == 0
    data = json.loads((situation.folder / 'base.json').read_text())
    assert list(data['phases']) == ['load', 'serve']
    assert data['phases']['load']['brk'] == {'least': 15, 'most': 15}  # of both
    assert data['phases']['load']['requested'] == {'least': 1200, 'most': 1200}
    assert 'rss' not in data['phases']['load']
    kept = lines(baseline(situation))
    assert kept[-2:] == ['ok    base  20 figures of 2 phases', 'KEPT: 34 figures of the baseline']


@pytest.mark.parametrize('name, kept, over', [
    ('brk', 2, 3), ('calls', 7, 8), ('mapped', 4096 + 65536, 4096 + 65537)])
def test_a_phase_is_held_against_its_own_baseline(situation, name, kept, over):
    assert baseline(situation, '--update').status == 0
    set_phase(situation, 2, **{name: kept})
    assert baseline(situation).status == 0
    set_phase(situation, 2, **{name: over})
    outcome = baseline(situation)
    assert outcome.status == 1
    assert [line.split()[:3] for line in lines(outcome) if line.startswith('OVER')] == [
        ['OVER', 'base', f'phases.serve.{name}']]
    assert 'ok    base  19 figures of 2 phases' in lines(outcome)
    assert baseline(situation, '--tolerance', 'phases.serve.*=100KiB').status == 0
    assert baseline(situation, '--tolerance', 'phases.load.*=100KiB').status == 1
    assert baseline(situation, '--tolerance', 'phases.other.*=100KiB').status == 2


def test_a_phase_of_the_baseline_that_never_came_is_no_pass(situation):
    assert baseline(situation, '--update').status == 0
    situation.data['phases'].pop()
    outcome = baseline(situation)
    assert outcome.status == 4
    assert lines(outcome)[-1].startswith('NOT ENOUGH EVIDENCE: not measured: phases.serve.brk, ')


def test_a_phase_that_is_not_in_the_baseline_is_told(situation):
    assert baseline(situation, '--update').status == 0
    situation.data['phases'].append(phase('new\x1b', 1, 1))
    outcome = baseline(situation)
    assert outcome.status == 0
    assert 'Not in the baseline, so not judged: 1 phase (new\\x1b); --update takes them in' in \
        lines(outcome)
    assert baseline(situation, '--update', '--tolerance', 'phases.new*=1').status == 0
    assert 'Not in' not in baseline(situation).stdout.decode()


def test_a_baseline_of_before_there_were_phases_is_read(situation):
    assert baseline(situation, '--update').status == 0
    data = json.loads((situation.folder / 'base.json').read_text())
    del data['phases']
    for rows in data['places'].values():
        for row in rows:
            del row['frames']
    (situation.folder / 'base.json').write_text(json.dumps(data))
    assert baseline(situation).status == 0


def test_a_baseline_is_as_its_schema_says_and_has_a_line_a_figure(situation):
    situation.data['moments'][0]['sites'][0]['frames'] = [
        {'function': 'parse_line', 'module': '/usr/bin/demo'}, {'function': None, 'module': None}]
    assert baseline(situation, '--update').status == 0
    text = (situation.folder / 'base.json').read_text()
    schema = json.loads((SOURCE / 'docs' / 'baseline.schema.json').read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    data = json.loads(text)
    validator.validate(data)
    assert '\n   "brk": {"least": 15, "most": 15},\n' in text
    assert data['places']['mapped_peak'][0]['frames'][1] == {'module': None, 'function': None}
    documented = (SOURCE / 'docs' / 'ci.md').read_text()
    for name in schema['properties']:
        assert f'| {name} |' in documented or f'`{name}`' in documented, name
        assert not validator.is_valid({key: value for key, value in data.items() if key != name})
    assert not validator.is_valid({**data, 'other': 1})


def test_what_the_runs_of_a_baseline_reached_is_no_regression(situation):
    assert baseline(situation, '--update').status == 0
    data = json.loads((situation.folder / 'base.json').read_text())
    data['figures']['syscalls.brk']['most'] = 230
    data['figures']['syscalls.total']['most'] = 400
    (situation.folder / 'base.json').write_text(json.dumps(data))
    set_causes(situation.data, causes(grow=223))
    assert baseline(situation).status == 0
    assert baseline(situation, '--tolerance', 'syscalls.brk=2%').status == 1
    set_causes(situation.data, causes(grow=224))
    assert baseline(situation).status == 1


def test_an_improvement_is_told_and_with_ratchet_fails(situation):
    assert baseline(situation, '--update').status == 0
    set_causes(situation.data, causes(grow=100))
    better = baseline(situation)
    assert better.status == 0
    assert 'Better than the baseline: 2 figures; accept with --update' in lines(better)
    ratchet = baseline(situation, '--ratchet')
    assert ratchet.status == 1
    assert lines(ratchet)[-2:] == ['Better than the baseline: 2 figures; accept with --update',
                                   'LOOSE: 2 of 34 figures of the baseline can be tightened']
    assert baseline(situation, '--update', '--ratchet').status == 0
    assert situation.check('[syscalls]\nbrk = 109\n', '--ratchet').status == 0  # 107 measured
    loose = situation.check('[syscalls]\nbrk = 120\n', '--ratchet')
    assert (loose.status, lines(loose)[-1]) == (
        1, 'LOOSE: 1 of 1 budget can be tightened (heap.toml, line 2)')


@pytest.mark.parametrize('harm', [{'complete': False}, {'overwritten_events': 3}])
def test_missing_events_neither_pass_nor_become_a_baseline(situation, harm):
    assert baseline(situation, '--update').status == 0
    before = (situation.folder / 'base.json').read_bytes()
    situation.data.update(harm)
    assert baseline(situation).status == 4
    assert baseline(situation, '--update').status == 4
    assert (situation.folder / 'base.json').read_bytes() == before


def test_a_baseline_is_not_updated_past_a_budget_and_nothing_else_is_replaced(situation):
    outcome = situation.check('[syscalls]\nbrk = 1\n', '--baseline', 'base.json', '--update')
    assert outcome.status == 1 and not (situation.folder / 'base.json').exists()
    (situation.folder / 'base.json').write_text('{"mine": 1}')
    for arguments in ['--update'], ['--update', '--ratchet']:
        assert baseline(situation, *arguments).status == 2
    assert (situation.folder / 'base.json').read_text() == '{"mine": 1}'
    assert not list(situation.folder.glob('.heapledger-*'))


@pytest.mark.parametrize('text, said', [
    (None, 'No such file or directory; --update makes one'), ('{', 'not a baseline: Expecting'),
    ('[]', "not a baseline: schema None"), ('["' + '[' * 100000, 'not a baseline'),
    ('{"schema": "heapledger-baseline/1", "figures": {"syscalls.brk": {"least": -1, "most": 2}}}',
     'not a baseline: syscalls.brk: least and most'),
    ('{"schema": "heapledger-baseline/1", "figures": {"x": 1}}', "not a baseline: unknown figure"),
    ('{"schema": "heapledger-baseline/1", "figures": 1}', 'not a baseline: figures'),
    ('{"schema": "heapledger-baseline/1", "figures": {"syscalls.brk": {"least": 1, "most": 2}}, '
     '"phases": {"load": {"rss": {"least": 1, "most": 2}}}}', "not a baseline: unknown figure 'rss'"),
    ('{"schema": "heapledger-baseline/1", "figures": {"syscalls.brk": {"least": 1, "most": 2}}, '
     '"causes": [], "places": {"end": [], "mapped_peak": [{"requested_bytes": 1, "blocks": 1, '
     '"frames": [1]}]}}', 'not a baseline: places')])
def test_an_unreadable_baseline_says_so(situation, text, said):
    if text is not None:
        (situation.folder / 'base.json').write_text(text)
    outcome = baseline(situation)
    assert (outcome.status, outcome.stdout) == (3, b'')
    assert outcome.stderr.decode().startswith(f'heapledger: check: base.json: {said}')
    assert len(outcome.stderr.splitlines()) == 1


def test_another_mode_is_not_compared(situation):
    assert baseline(situation, '--update').status == 0
    situation.data['policy'] = 'mmap'
    assert baseline(situation).status == 4


def test_a_place_that_grew_is_named_though_it_was_renamed_and_moved(situation):
    assert baseline(situation, '--update').status == 0
    situation.data['moments'][0] = moment('mapped_peak', [('parse_lines', 3_009_000, 9)])
    situation.data['moments'][0]['sites'][0]['line'] = 99
    situation.data['peak']['requested_bytes'] += 3_000_000
    text = ' '.join(baseline(situation).stdout.decode().split())
    assert 'grew +2.86 MiB parse_lines in demo (was parse_line): 8.79 KiB -> 2.87 MiB' in text


@pytest.mark.parametrize('words, said', [
    (['--tolerance', 'x=2%', '--update'], 'no figure is called so'), (['--tolerance', '2%%'], 'neither a share'),
    (['--runs', '0', '--', 'true'], '--runs must be'), (['--', 'true'], 'need --runs N'),
    (['--json', 'base.json'], 'two of the files are the same'),
    (['--self-test'], '--self-test stands alone')])
def test_wrong_usage_is_one_line(situation, words, said):
    outcome = baseline(situation, *words)
    assert outcome.status == 2 and said in outcome.stderr.decode(), outcome
    assert len(outcome.stderr.splitlines()) == 1


def test_the_lowest_of_several_traces_counts_and_all_must_be_whole(situation):
    """The stand-in says the same of each, so that one trace is as good as three."""
    (situation.folder / 'heap.toml').write_text('[syscalls]\nbrk = 212\n')
    outcome = situation.script('check.py', *[situation.trace] * 3, '--budget', 'heap.toml', '--json',
                               'v.json')
    assert outcome.status == 0
    assert json.loads((situation.folder / 'v.json').read_text())['results'][0]['runs'] == [212] * 3


def test_the_best_run_is_judged():
    from gate_figures import Runs
    from gate_judge import judge
    from load import Analysis
    runs = Runs([Analysis({'complete': whole, 'syscalls': {'brk': brk}}, {})
                 for brk, whole in ((7, True), (5, True), (9, True))])
    limit = budget.Limit('syscalls.brk', ('syscalls', 'brk'), budget.COUNT, 5, 1)
    assert judge(limit, runs) == (limit, 5, 'ok', '100 %')
    runs.analyses[2].data['complete'] = False
    assert judge(limit, runs).state == '?'
    runs.analyses[1].data['syscalls']['brk'] = None
    assert judge(limit, runs)[1:3] == (None, '?')


@pytest.fixture
def written(situation):
    """All outputs of a verdict on a trace full of hostile names."""
    situation.data['command'] = [HOSTILE]
    situation.data['phases'].append(phase(HOSTILE, 3, 4))
    rows = copy.deepcopy(situation.data['syscalls']['by_cause'])
    rows[0]['reason_text'] = HOSTILE
    set_causes(situation.data, rows)
    text = f'[syscalls]\nbrk = 1\n[phases.{json.dumps(HOSTILE)}]\nbrk = 1\nrss = 1\n'
    summary = situation.folder / 'summary.md'
    outcome = situation.check(text, '--github', '--json', 'v.json', '--junit', 'v.xml', '--bencher',
                              'b.json', env={'GITHUB_STEP_SUMMARY': str(summary)})
    assert outcome.status == 1, outcome
    return outcome, situation.folder


def test_annotations_are_one_line_each_and_escaped(written):
    commands = [line for line in lines(written[0]) if line.startswith('::')]
    assert len(commands) == 3
    assert commands[0].startswith('::error file=heap.toml,line=2,title=heapledger%3A syscalls.brk::')
    assert all(line.startswith('::error file=heap.toml,line=') for line in commands)
    title = commands[1].split('title=')[1].split('::')[0]
    assert title == ('heapledger%3A phases.a%25\\x0a%3A%3Aerror%3A%3Ab|<script>%2C%3A\\x1b[31m'
                     '\\u202e]]>.brk')
    assert not any(c in written[0].stdout.decode() for c in '\x1b\u202e')


def test_the_step_summary_holds_no_markup_of_others(written):
    text = (written[1] / 'summary.md').read_text()
    assert '<script>' not in text and '&lt;script&gt;' in text and '\x1b' not in text
    assert '\n\n' not in text.rstrip('\n')  # an empty line would end the HTML


def test_junit_has_a_case_a_limit(written):
    suite = xml.parse(written[1] / 'v.xml').getroot().find('testsuite')
    assert (suite.get('tests'), suite.get('failures'), suite.get('errors')) == ('3', '2', '1')
    assert [child.tag for case in suite for child in case] == ['failure', 'failure', 'error']
    assert '<script>' in suite[1].get('name')  # as data


def test_json_and_bencher_say_the_same(written):
    verdict = json.loads((written[1] / 'v.json').read_text())
    assert (verdict['verdict'], verdict['exit_status']) == ('exceeded', 1)
    assert [row['state'] for row in verdict['results']] == ['over', 'over', 'unknown']
    assert verdict['results'][0] | {'reasons': 0} == {
        'name': 'syscalls.brk', 'source': 'budget', 'line': 2, 'unit': 'count', 'bound': 'most',
        'limit': 1, 'baseline': None, 'measured': 212, 'runs': [212], 'state': 'over',
        'note': '+211 (+21,100.0 %)', 'reasons': 0}
    (measures,) = json.loads((written[1] / 'b.json').read_text()).values()
    assert measures['heapledger.syscalls.brk'] == {'value': 212}
    assert not any(name.endswith('.rss') for name in measures)  # not measured


def test_outputs_replace_only_their_own_kind(situation):
    (situation.folder / 'v.json').write_text('{"mine": 1}')
    outcome = situation.check('[syscalls]\nbrk = 1\n', '--json', 'v.json')
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert (situation.folder / 'v.json').read_text() == '{"mine": 1}'
    for _ in range(2):
        assert situation.check('[syscalls]\nbrk = 1\n', '--junit', 'v.xml').status == 1


def test_runs_are_recorded_and_judged_in_one_go(heapledger, tmp_path):
    budget_file = tmp_path / 'b.toml'
    budget_file.write_text('[events]\ncalls = 1000000\n')
    words = [heapledger, 'check', '--runs', '2', '--budget', budget_file]
    outcome = run([*words, '--json', tmp_path / 'v.json', '--', '/bin/sh', '-c', 'echo out'])
    assert outcome.status == 0 and outcome.stderr == b'out\nout\n', outcome
    assert len(json.loads((tmp_path / 'v.json').read_text())['results'][0]['runs']) == 2
    failed = run([*words, '--', '/bin/sh', '-c', 'exit 3'])
    assert (failed.status, failed.stdout) == (4, b'')
    assert b'run 1 of 2: /bin/sh ended with status 3' in failed.stderr
    assert run([*words, '--', tmp_path / 'none']).status == 2


def test_the_gate_proves_itself(heapledger, tmp_path):
    outcome = run([heapledger, 'check', '--self-test'])
    assert outcome.status == 0, outcome
    assert lines(outcome)[-1].startswith('PROVEN: ')
    for table in budget.TABLES:
        assert f'[{table}], ' in outcome.stdout.decode(), table


@pytest.fixture
def example(heapledger, tmp_path):
    """A folder as the examples of docs/ci.md expect it: a program, a budget, heapledger in PATH."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    (folder / 'heapledger').write_text(f'#!/bin/sh\nexec "{heapledger}" "$@"\n')
    (folder / 'heapledger').chmod(0o755)
    (tmp_path / 'program.c').write_text('#include <stdlib.h>\nint main(void) { return !malloc(9); }\n')
    (tmp_path / 'Makefile').write_text('program: program.c\n\tcc -o $@ $<\n')
    (tmp_path / 'heap.toml').write_text('[events]\ncalls = 100\n')
    return tmp_path, {'PATH': f'{folder}:/usr/local/bin:/usr/bin:/bin'}


def block(title):
    """The code of a section of docs/ci.md."""
    section = (SOURCE / 'docs/ci.md').read_text().split(f'\n## {title}\n')[1]
    return section.split('```')[1].split('\n', 1)[1]


def break_budget(folder):
    (folder / 'heap.toml').write_text('[events]\ncalls = 0\n')


def github_steps(workflow):
    """Its commands, if it is a workflow: `on` is a boolean to YAML 1.1."""
    assert set(workflow) == {'name', True, 'jobs'} and set(workflow[True]) <= {'push', 'pull_request'}
    (job,) = workflow['jobs'].values()
    assert set(job) == {'runs-on', 'steps'} and job['runs-on'] == 'ubuntu-latest'
    assert [list(step) for step in job['steps']] == [['uses'], ['run'], ['run']]
    return [step['run'] for step in job['steps'][1:]]


def gitlab_steps(pipeline):
    (job,) = pipeline.values()
    assert set(job) == {'script', 'artifacts'}
    assert job['artifacts'] == {'when': 'always', 'reports': {'junit': 'heap.xml'}}
    return job['script']


@pytest.mark.parametrize('title, steps_of', [
    ('GitHub Actions', github_steps), ('GitLab', gitlab_steps)])
def test_the_steps_of_the_workflows_run(example, title, steps_of):
    folder, env = example
    steps = steps_of(yaml.safe_load(block(title)))
    assert len(steps) == 2 and all(isinstance(step, str) for step in steps), steps
    script = ['/bin/sh', '-ec', '\n'.join(steps)]
    assert run(script, cwd=folder, env=env).status == 0
    assert xml.parse(folder / 'heap.xml').getroot().find('testsuite').get('failures') == '0'
    break_budget(folder)
    assert run(script, cwd=folder, env=env).status == 1


def test_the_meson_and_pytest_examples_run(example):
    folder, env = example
    (folder / 'meson.build').write_text(block('Meson'))
    (folder / 'test_heap.py').write_text(block('pytest'))
    assert run(['make'], cwd=folder, env=env).status == 0
    assert run(['meson', 'setup', 'made'], cwd=folder, env=env).status == 0
    commands = (['meson', 'test', '-C', 'made'],
                [sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', 'test_heap.py'])
    for command in commands:
        outcome = run(command, cwd=folder, env=env)
        assert outcome.status == 0, outcome
    break_budget(folder)
    for command in commands:
        assert run(command, cwd=folder, env=env).status == 1
