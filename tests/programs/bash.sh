# Pipelines, here-documents, job control, traps.
set -u
echo one two three | tr ' ' '\n' | sort -r | head -2
cat <<EOF | sed 's/a/b/g'
banana
$((6 * 7))
EOF
exec 3<<<"from a here-string"; read -r line <&3; exec 3<&-; echo "$line"
diff <(printf 'a\nb\n') <(printf 'a\nc\n')
echo "status $?"
set -m
sleep 30 & pid=$!
kill -STOP %1; sleep 0.2; jobs | sed 's/ \+/ /g'
kill -CONT %1; sleep 0.1; kill %1; wait $pid; echo "wait $?"
set +m
trap 'echo term' TERM; kill -TERM $$; trap - TERM
trap 'echo usr1' USR1
( sleep 0.3; kill -USR1 $$ ) &
read -r -t 2 never < <(sleep 5); echo "read $?"
wait
( exit 7 ); echo "$?"
{ ( kill -KILL $BASHPID ); echo "$?"; } 2>/dev/null
false | true; echo "${PIPESTATUS[@]}"
for i in {1..20}; do ( echo $i ) & done | wc -l
wait
f=$(mktemp); echo text > "$f"; while read -r word; do echo "[$word]"; done < "$f"; rm "$f"
mkfifo /tmp/fifo; echo through a fifo > /tmp/fifo & cat /tmp/fifo; rm /tmp/fifo
ulimit -n; umask 027; touch /tmp/masked; stat -c %a /tmp/masked
printf '%s\n' "$BASH_VERSION" | cut -d. -f1
exec 5>&1; echo dup >&5
trap 'echo bye' EXIT
exit 3
