# bash completion for shoal
_shoal() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}" last keep
    local -a words
    # Not COMP_WORDS: bash splits those at : and =, which occur in names and flags.
    IFS=$' \t\n' read -r -a words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    COMPREPLY=($("${COMP_WORDS[0]}" completion words -- "${words[@]:1}" 2>/dev/null))
    last="${words[${#words[@]}-1]}"
    keep="${last%"${last##*[:=]}"}" # what bash counts as earlier words
    [[ -n $keep ]] && COMPREPLY=("${COMPREPLY[@]#"$keep"}")
}
complete -o default -F _shoal shoal
