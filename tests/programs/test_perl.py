# SPDX-License-Identifier: MIT
"""perl, which takes every scalar's body and every string from malloc."""

SCRIPT = r'''
use strict; use warnings;
my ($seed, %count, @tree) = (42);
sub chance { $seed = ($seed * 1103515245 + 12345) & 0x7fffffff; return $seed % $_[0]; }
for my $i (1 .. 120000) {
	my $word = join('', map { chr(97 + chance(26)) } 1 .. 1 + chance(12));
	$count{substr($word, 0, 3)}{$word}++;
	push @tree, [ $word, { key => $i, text => $word x chance(9) } ] if $i % 3 == 0;
	splice(@tree, chance(scalar @tree), 1) if @tree > 5000;
	delete $count{(keys %count)[0]} if 0;
}
my $text = join(' ', map { $_->[0] . length($_->[1]{text}) } @tree);
for (1 .. 30) { $text =~ s/([aeiou])(\w)/$2$1/g; }
my $grown = ''; $grown .= "$_," for 1 .. 200000;
my @sorted = sort { $a cmp $b } split / /, $text;
printf "%d %d %s %s %d\n", scalar(keys %count), length($text), $sorted[0], $sorted[-1], length($grown);
open(my $pipe, '-|', 'echo', 'from a child') or die; print <$pipe>; close $pipe;
my $child = fork // die; if (!$child) { my @b = map { "$_" x 100 } 1 .. 20000; exit(@b == 20000 ? 3 : 4); }
waitpid($child, 0); print "child: ", $? >> 8, "\n";
warn "to stderr\n";
exit 5;
'''


def test_perl(preload):
    result = preload.compare(
        ['/usr/bin/perl', 'script.pl'], least_calls=1_000_000,
        prepare=lambda folder: (folder / 'script.pl').write_text(SCRIPT))
    assert result.plain.status == 5, result.plain
    assert b'child: 3\n' in result.plain.stdout
