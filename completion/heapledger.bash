# SPDX-License-Identifier: MIT
#
# Completion of heapledger's commands and options in bash; other words are files. What there is comes
# from its own help.

_heapledger_commands() {
	"$1" --help 2>/dev/null | sed -n 's/^  \([a-z][a-z]*\)   *[a-z].*/\1/p'
}

# Of the lines that begin with an option what is before its description.
_heapledger_options() {
	"$1" "$2" --help 2>/dev/null | sed -n 's/^  *\(-.*\)/\1/p' | sed 's/  .*//' |
		grep -oE -e '--[a-z][a-z-]+'
	echo --help
}

_heapledger() {
	local program=$1 word=$2 command=${COMP_WORDS[1]} known=''
	if [ "$COMP_CWORD" -eq 1 ]; then
		known="$(_heapledger_commands "$program") help --help --version"
	elif [ "$COMP_CWORD" -eq 2 ] && [ "$command" = help ]; then
		known=$(_heapledger_commands "$program")
	elif [[ $word == -* ]]; then
		known=$(_heapledger_options "$program" "$command" | sort -u)
	fi
	mapfile -t COMPREPLY < <(compgen -W "$known" -- "$word")
}

complete -o default -F _heapledger heapledger
