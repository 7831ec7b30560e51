# tar, xz, gzip.
set -e
cd /tmp; mkdir t; cd t; cp -r /etc/default d; ln -s d link; mkfifo pipe; seq 10000 > big; chmod 640 big
tar -cf ../t.tar . ; tar -tf ../t.tar | sort | head -5; mkdir ../x; tar -C ../x -xpf ../t.tar; (cd ../x && find . | sort | wc -l; stat -c '%a %s' big; readlink link; test -p pipe && echo fifo)
gzip -9k big; gunzip -c big.gz | cmp - big && echo gzip
xz -k big; xz -dc big.xz | cmp - big && echo xz; xz -l big.xz > /dev/null
tar -czf ../t.tgz . && tar -tzf ../t.tgz | wc -l; tar -cJf ../t.txz big && tar -xJOf ../t.txz big | sha256sum
tar -C / -cf - usr/bin 2>/dev/null | tar -tf - | grep -c bash
