#compdef shoal
# zsh completion for shoal
_shoal() {
    local -a found
    found=("${(@f)$("${words[1]}" completion words --describe colon -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then
        _describe 'shoal' found
    else
        _files
    fi
}
if [[ "${funcstack[1]}" == "_shoal" ]]; then
    _shoal "$@"
else
    compdef _shoal shoal
fi
