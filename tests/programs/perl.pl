use strict; use warnings; use POSIX qw(:sys_wait_h); use File::Temp qw(tempfile); use IO::Socket::INET;
my ($fh, $name) = tempfile(); print $fh "line $_\n" for 1 .. 5; close $fh;
open(my $in, '<', $name) or die; my @lines = <$in>; print scalar(@lines), " $lines[2]"; unlink $name;
my $pid = fork(); if (!$pid) { exit 9 } waitpid($pid, 0); print $? >> 8, "\n";
print `echo from a shell`; my $out = qx(sh -c 'exit 4'); print $? >> 8, "\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; select(undef, undef, undef, 5); }; print $@;
my $server = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1') or die $!;
if (!fork()) { my $c = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $server->sockport); print $c "hello\n"; exit 0 }
my $c = $server->accept; print scalar <$c>; wait;
pipe(my $r, my $w); if (!fork()) { print $w "piped\n"; exit } close $w; print <$r>; wait;
my %h = map { $_ => length } qw(a bb ccc); print join(',', map { "$_=$h{$_}" } sort keys %h), "\n";
opendir(my $d, '/') or die; print((grep { /^etc$/ } readdir $d), "\n"); print -d '/tmp' ? "dir\n" : "no\n";
