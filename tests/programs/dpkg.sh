# dpkg -i of a local .deb.
set -e
cd /tmp; mkdir -p p/DEBIAN p/usr/bin p/etc; printf '#!/bin/sh\necho installed program\n' > p/usr/bin/bh-hello; chmod 755 p/usr/bin/bh-hello; echo conf > p/etc/bh.conf
cat > p/DEBIAN/control <<'EOF'
Package: bh-hello
Version: 1.0
Architecture: all
Maintainer: A <a@example.org>
Description: a test
EOF
echo /etc/bh.conf > p/DEBIAN/conffiles; printf '#!/bin/sh\necho configuring $1\n' > p/DEBIAN/postinst; chmod 755 p/DEBIAN/postinst
dpkg-deb --root-owner-group -b p bh.deb > /dev/null; dpkg -i bh.deb 2>&1 | sed 's/(Reading.*//' | grep -v '^$'; bh-hello; dpkg -s bh-hello | grep Status; dpkg -L bh-hello | sort
dpkg -r bh-hello 2>&1 | tail -1 | sed 's/(.*//'; command -v bh-hello || echo removed; cat /etc/bh.conf
