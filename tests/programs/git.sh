# init, commit, log, clone.
set -e
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' HOME=/tmp
git config --global user.email a@example.org; git config --global user.name A; git config --global init.defaultBranch main
mkdir /tmp/r && cd /tmp/r && git init -q
for i in $(seq 30); do echo "line $i" > "file$i"; done; git add .; git commit -qm first
echo more >> file1; git commit -qam second; git log --format='%H %s'; git diff HEAD~1 --stat
git checkout -qb side HEAD~1; echo side > s; git add s; git commit -qm side; git merge -q main -m merge; git log --oneline | wc -l
git clone -q /tmp/r /tmp/clone && cd /tmp/clone && git status --short && git log -1 --format=%s
git gc -q && git fsck 2>&1 | tail -1; git count-objects | cut -d, -f1
