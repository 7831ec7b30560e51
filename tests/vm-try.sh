export BULKHEAD_TESTS_COMPLETE=1 BULKHEAD_IN_LAB=1 BULKHEAD_WALLS=microvm
time target/lab/tests/microvm --test-threads=1
