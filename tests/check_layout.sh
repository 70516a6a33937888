#!/bin/sh
# check_layout.sh - rules that dpo.h keeps so that it can be read from top to bottom.
# usage: tests/check_layout.sh [dpo.h]     POSIX sh and awk. Last line: N passed, N failed.
#   contents and section banners name the same tags in the same order; no static prototypes in the implementation;
#   no call of a public function defined in a later section; functions under 80 lines; ASCII, no tabs, no
#   trailing blanks, lines of at most 120 characters; the version of the first line is the version macros'.
file=${1:-dpo.h}
[ -r "$file" ] || {
    echo "$file: cannot be read"
    echo "0 passed, 1 failed"
    exit 1
}
LC_ALL=C
export LC_ALL
passed=0
failed=0
check() { # name, what must be empty
    if [ -n "$2" ]; then
        echo "FAILED $1:"
        echo "$2" | sed 's/^/  /' | head -20
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
}

contents=$(awk '/^ *CONTENTS/ { on = 1; next }
    on && /^ *THREE LEVELS/ { exit }
    on { n = split($0, w, /[ \t]+/); for (i = 1; i <= n; i++) if (w[i] ~ /^>>[A-Z_]+$/) print w[i] }' "$file")
banners=$(awk 'before ~ /^\/\* =====/ && /^ *>>[A-Z_]+/ { print $1 } { before = $0 }' "$file")
check "contents in the order of the banners" "$([ -n "$contents" ] && [ "$contents" = "$banners" ] || {
    echo "contents: $contents" | tr '\n' ' '
    echo
    echo "banners:  $banners" | tr '\n' ' '
})"

check "at least 20 sections" "$([ "$(echo "$banners" | wc -l)" -ge 20 ] || echo "$banners")"

# A declaration at column 0 that ends with ; before any { or = is a prototype.
check "no prototypes in the implementation" "$(awk '
    /DPO_H: nothing below/ { on = 1; next }
    !on { next }
    /^#/ { next }
    text == "" && /^(static|DPO_API|DPO__INLINE|DPO__FORMAT|extern)/ { text = $0; line = NR; macro = /\\$/ }
    text != "" && NR > line { text = text " " $0 }
    text != "" {
        t = text
        gsub(/__attribute__ *\(\([^;{]*\)\)/, "", t)
        if (match(t, /[;{=]/)) {
            if (substr(t, RSTART, 1) == ";" && t ~ /\(/) print line ": " substr(text, 1, 90)
            text = ""
        }
    }' "$file")"

check "no call of a public function that a later section defines" "$(awk '
    before ~ /^\/\* =====/ && /^ *>>[A-Z_]+/ { section++; name[section] = $1 }
    { before = $0 }
    /DPO_H: nothing below/ { on = 1 }
    !on { next }
    { line = $0; sub(/^ *\/?\*.*/, "", line); gsub(/"[^"]*"/, "", line); sub(/\/\*.*/, "", line) }
    /^DPO_API/ {
        s = line; sub(/\(.*/, "", s); sub(/.*[ *]/, "", s)
        if (s ~ /^dpo_[a-z]/) home[s] = section
        sub(/^DPO_API[^(]*\(/, "", line)
    }
    {
        while (match(line, /dpo_[a-z0-9_]+\(/)) {
            s = substr(line, RSTART, RLENGTH - 1)
            if (s !~ /^dpo__/) { n++; use[n] = s; where[n] = section; at[n] = NR }
            line = substr(line, RSTART + RLENGTH)
        }
    }
    END {
        for (i = 1; i <= n; i++)
            if ((use[i] in home) && home[use[i]] > where[i])
                print at[i] ": " use[i] " of " name[home[use[i]]] " is called in " name[where[i]]
        if (n < 50) print "only " n " calls were seen: this check is broken"
    }' "$file")"

check "functions under 80 lines" "$(awk '
    /^[A-Za-z].*\{$/ && !/^(struct|typedef|enum|union|extern)|= \{$/ { start = NR; name = $0 }
    /^}/ && start { if (NR - start + 1 >= 80) print start ": " NR - start + 1 " lines: " substr(name, 1, 80); n++; start = 0 }
    END { if (n < 200) print "only " n " functions were seen: this check is broken" }' "$file")"

check "ASCII only, no tabs" "$(awk '/[^ -~]/ { print NR ": " substr($0, 1, 60) }' "$file")"
check "no trailing blanks" "$(awk '/[ \t]$/ { print NR ": " substr($0, 1, 60) }' "$file")"
check "lines of at most 120 characters" "$(awk 'length($0) > 120 { print NR ": " length($0) }' "$file")"
check "the first line has the version of the macros" "$(awk '
    NR == 1 { first = $0 }
    /^#define DPO_VERSION_(MAJOR|MINOR|PATCH) / { v = v (v == "" ? "" : ".") $3 }
    END { if (index(first, "v" v " ") == 0) print "macros say " v ", the first line: " first }' "$file")"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
