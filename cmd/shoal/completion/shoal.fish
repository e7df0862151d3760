# fish completion for shoal
function __shoal_words
    set -l words (commandline -opc) (commandline -ct)
    $words[1] completion words --describe tab -- $words[2..-1] 2>/dev/null
end
function __shoal_no_words
    test (count (__shoal_words)) -eq 0
end
complete -c shoal -f -a '(__shoal_words)'
complete -c shoal -n __shoal_no_words -F
