# SPDX-License-Identifier: MIT
"""bash scripts that fork thousands of times. bash has a malloc of its own, but the distribution
builds it without, so that its calls go to the library."""

FORKS = r'''
total=0
for i in {1..1500}; do
	value=$(echo $((i * 3)))
	(( total += value ))
done
echo "$total"
for i in {1..300}; do ( exit $((i % 7)) ) || (( failed++ )); done
echo "$failed"
seq 1 2000 | while read -r n; do echo "$n"; done | sort -rn | sed -n 1,3p
'''

EXECS = r'''
for i in {1..400}; do /bin/true; done
for i in {1..100}; do /bin/echo "$i" | /bin/cat; done
declare -A seen
for i in {1..20000}; do seen[$((i % 977))]+="$i "; done
echo "${#seen[@]} ${#seen[5]}"
text=$(printf '%s\n' "${seen[@]}" | tr ' ' '\n' | sort -n | uniq | wc -l)
echo "$text" >&2
exit 9
'''

BACKGROUND = r'''
for round in {1..10}; do
	jobs=()
	for i in {1..40}; do ( sleep 0.01; exit $((i % 2)) ) & jobs+=($!); done
	for job in "${jobs[@]}"; do wait "$job" || (( failed++ )); done
done
echo "$failed"
'''


def test_forks(preload):
    result = preload.compare(['bash', '-c', FORKS], least_calls=100_000)
    assert result.plain.status == 0
    assert result.plain.stdout.splitlines()[0] == b'3377250'
    assert len(result.analysis['processes']) >= 1800


def test_execs(preload):
    result = preload.compare(['bash', '-c', EXECS], least_calls=50_000)
    assert result.plain.status == 9
    assert len(result.analysis['processes']) >= 600


def test_many_at_once(preload):
    result = preload.compare(['bash', '-c', BACKGROUND], least_calls=1_000)
    assert result.plain.stdout == b'200\n'
    assert len(result.analysis['processes']) >= 400
