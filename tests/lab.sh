#!/usr/bin/env bash
# What hack/lab runs: the tests that drive containers, on a kernel of Debian's own with nothing but cgroup v2, and root with every capability.
# Software emulation is slow: what a faster machine has proved already (each call compared with runc's, whole builds, perf's evidence) is left out.
set -u
export BULKHEAD_TESTS_COMPLETE=1 BULKHEAD_IN_LAB=1
failed=0
# So is what races many execs by one name: an exec waits 25 ms for another's, which is long on a real processor and short here, and then fails with EAGAIN.
for test in check lifecycle resources attacks terminals; do
    [ -x "target/lab/tests/$test" ] || continue
    echo "== $test"
    "target/lab/tests/$test" --test-threads=1 --skip programs_that_gain_rights_are_nobody_elses || failed=1
done
# The agent's limits, which need controllers of cgroup v2: here without a machine around it.
echo "== the agent"
BULKHEAD_AGENT=$PWD/target/lab/tests/bulkhead-agent target/lab/tests/agent-resources --test-threads=1 || failed=1
# The microVM, on a KVM that is real, nested in the emulator.
echo "== microvm"
export BULKHEAD_WALLS=microvm
target/lab/tests/microvm --test-threads=1 || failed=1
# Compared with runc: those of the programs that an emulated processor is done with in a minute each.
BULKHEAD_ONLY="bash.sh coreutils.sh python.py" target/lab/tests/comparison --nocapture || failed=1
exit $failed
