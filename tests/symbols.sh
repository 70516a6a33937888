#!/bin/sh
# symbols.sh - what the compiled library may contain, looked at with nm.
# usage: tests/symbols.sh [CC [CFLAGS...]]    run from the repository's root; needs nm. Last line: N passed, N failed.
# A quick build of its own is looked at and, where it is there, build/dpo.o (what the optimizer calls by itself).
#   no writable globals; nothing exported but dpo_*; nothing used but a short list of libc, libm and pthread names
#   (no exit, abort, printf, stderr, rand; of libm only sqrt, sqrtf and floor).
cc=${1:-cc}
[ $# -gt 0 ] && shift
dir=${TMPDIR:-/tmp}/dpo-symbols.$$
mkdir -p "$dir" || exit 2
trap 'rm -rf "$dir"' 0
trap 'exit 2' 1 2 15
if ! command -v nm >/dev/null 2>&1; then
    echo "skipped: no nm here"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
printf '#define DPO_IMPLEMENTATION\n#include "%s/dpo.h"\n' "$(pwd)" > "$dir/dpo.c"
"$cc" -std=c99 -O1 -fno-pie -ffp-contract=off "$@" -c "$dir/dpo.c" -o "$dir/dpo.o" || {
    echo "$cc cannot compile dpo.h"
    echo "0 passed, 1 failed"
    exit 1
}
nm "$dir/dpo.o" > "$dir/all"
cp "$dir/all" "$dir/both"
[ -f build/dpo.o ] && nm build/dpo.o >> "$dir/both"
passed=0
failed=0
check() { # name, file with what must not be
    if [ -s "$2" ]; then
        echo "FAILED $1:"
        sed 's/^/  /' "$2"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
}
# b d c s g and their capitals are writable; so are commons
awk '$(NF - 1) ~ /^[bBdDcCsSgG]$/ { print $(NF - 1), $NF }' "$dir/all" > "$dir/writable"
check "no writable globals" "$dir/writable"

awk '$(NF - 1) ~ /^[TRVWAui]$/ && $NF !~ /^dpo_[a-z]/ { print $(NF - 1), $NF }' "$dir/both" > "$dir/exported"
check "nothing exported but dpo_*" "$dir/exported"

awk '$(NF - 1) == "U" { print $NF }' "$dir/both" | sort -u | sed 's/^_*\([a-z]*\)64$/\1/' > "$dir/undefined"
awk '
BEGIN {
    n = split("malloc free memcpy memset memmove memcmp memchr strlen strcmp strncmp strchr strrchr strerror strstr strpbrk " \
              "vsnprintf snprintf __vsnprintf_chk __snprintf_chk __memcpy_chk __memmove_chk __memset_chk " \
              "sqrt sqrtf floor __stack_chk_fail __errno_location errno " \
              "__cpu_model __cpu_features2 __cpu_indicator_init _GLOBAL_OFFSET_TABLE_ " \
              "open close read lseek pread write fsync fcntl fstat stat __fxstat __xstat rename unlink mkdir sysconf " \
              "__open_2 madvise mmap munmap bcmp isnan", a, " ")
    for (i = 1; i <= n; i++) ok[a[i]] = 1
}
!($1 in ok) && $1 !~ /^pthread_/ && $1 !~ /^__asan_/ { print $1 }' "$dir/undefined" > "$dir/other"
check "nothing used that is not on the list" "$dir/other"

grep -E -x '_?_?(exit|abort|printf|fprintf|puts|putchar|stdout|stderr|rand|srand|random|getenv|assert|__assert_fail|exp|expf|log|logf|pow|powf|tanh|tanhf|erf|erff|sin|cos|fma|fmaf|setlocale)' \
    "$dir/undefined" > "$dir/forbidden"
check "no exit, abort, printf, stderr, rand, and no libm but sqrt, sqrtf, floor" "$dir/forbidden"

# the list above is looked for in the right place: malloc must be there
grep -x malloc "$dir/undefined" > /dev/null && : > "$dir/none" || echo "malloc is not among the undefined names" > "$dir/none"
check "the list of undefined names is one" "$dir/none"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
