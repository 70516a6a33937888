# shell.sh - what the tests of programs from the outside share; they set $out, a directory, and read it by `.`.
program='dpo-[a-z]*' # whose sentences these are
passed=0
failed=0
ok() { passed=$((passed + 1)); }
bad() {
    failed=$((failed + 1))
    echo "FAILED $1"
    tail -n 3 "$out/err"
}
works() { # name, command...
    name=$1
    shift
    if timeout 300 "$@" >"$out/log" 2>"$out/err" </dev/null; then ok; else bad "$name (status $?)"; fi
}
# A wrong command, or one that cannot do all of its work, must exit with 1 and end in one sentence that begins with the
# program's name and holds a word.
refuses() { # name, word, command...
    name=$1
    word=$2
    shift 2
    timeout 300 "$@" >"$out/log" 2>"$out/err" </dev/null
    status=$?
    if [ $status = 1 ] && tail -n 1 "$out/err" | grep -q "^$program: .*$word"; then ok; else bad "$name (status $status)"; fi
}
