#!/bin/sh
# units.sh - the header in two translation units, in C++, and as two private copies in one program.
# Exit status 1 if one does not build without a warning, or does not run. Last line: N passed, N failed.
cc=${CC:-cc}
cxx=${CXX:-c++}
out=build/tests/units
warn="-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror"
mkdir -p $out
set -e
$cc -std=c99 -O1 $warn -c tests/tu_a.c -o $out/a.o
$cc -std=c99 -O1 $warn -c tests/tu_b.c -o $out/b.o
if command -v $cxx >/dev/null 2>&1; then
    $cxx -std=c++17 -O1 $warn -c tests/tu_c.cpp -o $out/c.o
    $cxx -o $out/ab $out/a.o $out/b.o $out/c.o -lm -lpthread
else
    echo "skipped: no C++ compiler"
    $cc -o $out/ab $out/a.o $out/b.o -lm -lpthread
fi
$out/ab >$out/log || { cat $out/log; exit 1; }
for u in a b; do $cc -std=c99 -O1 $warn -DPRIVATE -c tests/tu_$u.c -o $out/p$u.o; done
$cc -o $out/private $out/pa.o $out/pb.o -lm -lpthread
$out/private >$out/log || { cat $out/log; exit 1; }
echo "2 passed, 0 failed"
