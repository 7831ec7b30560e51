# nginx with curl over loopback.
mkdir -p /tmp/www /tmp/ngx; echo '<h1>hello</h1>' > /tmp/www/index.html; seq 100000 > /tmp/www/big
cat > /tmp/ngx/nginx.conf <<'EOF'
worker_processes 2; pid /tmp/ngx/pid; error_log /tmp/ngx/error.log; daemon on;
events { worker_connections 64; }
http { access_log off; sendfile on; client_body_temp_path /tmp/ngx/b; proxy_temp_path /tmp/ngx/p; fastcgi_temp_path /tmp/ngx/f; uwsgi_temp_path /tmp/ngx/u; scgi_temp_path /tmp/ngx/s;
  server { listen 127.0.0.1:8099; root /tmp/www; } }
EOF
nginx -c /tmp/ngx/nginx.conf -e /tmp/ngx/error.log; echo "started $?"
for i in $(seq 50); do curl -s -o /dev/null http://127.0.0.1:8099/ && break; sleep 0.1; done
curl -s http://127.0.0.1:8099/; curl -s http://127.0.0.1:8099/big | sha256sum; curl -s -o /dev/null -w '%{http_code}\n' http://127.0.0.1:8099/none
for i in $(seq 10); do curl -s http://127.0.0.1:8099/ & done | wc -l; wait
nginx -c /tmp/ngx/nginx.conf -e /tmp/ngx/error.log -s quit; sleep 0.5; test -e /tmp/ngx/pid; echo "ended $?"
