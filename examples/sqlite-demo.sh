#!/bin/bash
# SPDX-License-Identifier: MIT
#
# The demo: profiles sqlite3, the distribution's own, running a generated script in memory, and
# leaves the report. Called by ./dev demo with the build folder and the folder to write. Removes
# only what an earlier run of itself made there.
set -euo pipefail

readonly LEAST_CALLS=2000000
build=${1:?usage: sqlite-demo.sh BUILD-FOLDER OUTPUT-FOLDER}
out=${2:?usage: sqlite-demo.sh BUILD-FOLDER OUTPUT-FOLDER}
here=$(dirname "$(readlink -f "$0")")
heapledger=$build/analyzer/heapledger

mkdir -p "$out"
rm -rf "$out/trace"
rm -f "$out/script.sql" "$out/answers.txt" "$out/analysis.json" "$out/report.html"

/usr/bin/python3 "$here/sqlite_script.py" >"$out/script.sql"
printf '== recording: sqlite3 :memory: < %s\n' "$out/script.sql"
"$heapledger" record -o "$out/trace" -- sqlite3 :memory: <"$out/script.sql" >"$out/answers.txt"

sqlite3 :memory: <"$out/script.sql" | cmp - "$out/answers.txt" || {
	echo "sqlite-demo: sqlite3 answered otherwise when recorded" >&2
	exit 1
}

"$heapledger" analyze "$out/trace" --json "$out/analysis.json"

# The figures that the demo promises are read from what was measured.
/usr/bin/python3 - "$out/analysis.json" "$LEAST_CALLS" <<'EOF'
import json, sys
analysis = json.load(open(sys.argv[1]))
calls, lost = analysis['events']['calls'], analysis['events']['lost']
if calls < int(sys.argv[2]) or lost or not analysis['complete']:
    sys.exit(f'sqlite-demo: the recording is not whole: {calls} calls, {lost} lost')
EOF

"$heapledger" report "$out/trace" -o "$out/report.html"
printf 'The report: open %s in a browser\n' "$(readlink -f "$out/report.html")"
