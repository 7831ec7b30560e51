# gcc and make build zlib from Debian's source, and run its tests.
set -e
cp -r /usr/src/zlib /tmp/zlib && cd /tmp/zlib
./configure > configure.out 2>&1 || { tail configure.out; exit 1; }
make -j2 > make.out 2>&1 || { tail make.out; exit 1; }
make test > test.out 2>&1; grep -c "OK \*\*\*" test.out
ls -la libz.a > /dev/null && ls *.so*
cat > hello.c <<'EOF'
#include <stdio.h>
#include <zlib.h>
int main(void) { printf("%s %lu\n", zlibVersion(), crc32(0L, (const unsigned char *)"hello", 5)); return 42; }
EOF
gcc -O2 -I. -o hello hello.c libz.a && ./hello || echo $?
