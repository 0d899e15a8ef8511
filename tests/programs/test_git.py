# SPDX-License-Identifier: MIT
"""git on a repository that the test makes: commits, clone, gc, log. It maps packs, uses threads in
gc and starts many programs of its own."""

ENVIRONMENT = {
    'GIT_CONFIG_NOSYSTEM': '1',
    'GIT_CONFIG_GLOBAL': '/dev/null',
    'GIT_AUTHOR_NAME': 'A', 'GIT_AUTHOR_EMAIL': 'a@example.org',
    'GIT_COMMITTER_NAME': 'C', 'GIT_COMMITTER_EMAIL': 'c@example.org',
    'GIT_AUTHOR_DATE': '2024-01-01T00:00:00Z', 'GIT_COMMITTER_DATE': '2024-01-01T00:00:00Z',
}

# Names of temporary files and progress are not printed when stderr is no terminal.
SCRIPT = r'''
set -e
git init -q -b main made
cd made
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	mkdir -p "d$i"
	for j in 1 2 3 4 5 6 7 8; do seq "$i" "$((i * 300 + j))" > "d$i/f$j"; done
	seq 1 "$((i * 100))" > shared
	git add -A
	git commit -q -m "commit $i"
done
git checkout -q -b side HEAD~6
echo side > side; git add side; git commit -q -m side
git checkout -q main
git merge -q -m merge side
cd ..
git clone -q --no-hardlinks made cloned
cd cloned
git gc -q --aggressive --prune=now
git fsck --full --strict
git log --stat --graph -p --all
git rev-parse HEAD
git count-objects -v | grep -E '^(count|in-pack|packs):'
git diff HEAD~5 --stat -M -C
git blame shared | tail -3
git archive --format=tar HEAD | sha256sum
'''


def test_clone_gc_log(preload):
    result = preload.compare(['sh', '-c', SCRIPT], env=ENVIRONMENT, least_calls=50_000)
    assert result.plain.status == 0, result.plain.stderr
    assert b'commit 12' in result.plain.stdout
    assert b'count: 0\n' in result.plain.stdout
    assert len(result.analysis['processes']) > 50


def test_not_a_repository(preload):
    result = preload.compare(['git', 'log'], env={**ENVIRONMENT, 'GIT_DIR': '/nonexistent'})
    assert result.plain.status == 128
