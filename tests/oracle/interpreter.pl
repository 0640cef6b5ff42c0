# Does the operations of a program one by one and prints what came of each. Without modules: the image has none. %c (numbers
# of system calls and flags) stands before this, the operations behind it.
#
# An operation whose answer overlayfs cannot give as a plain directory does is left out here, at the moment it would be
# made: so it is left out in both trees, and in a program from which other operations were dropped. docs/commit.md lists
# these limits of the kernel. Each place says `skip`.
umask 022;
$| = 1;
my ($begin, $count, $made, $xfs, $elsewhere, $userns, %op, %held) = (time - 1, 0, 0, 0, 0, 0);

sub op {
    my ($name, @args) = @_;
    $! = 0;
    my $result = $op{$name}->(@args);
    $result = "errno $!" unless defined $result;
    printf "%d %s: %s\n", ++$count, $name, $result;
}

# Copies, since syscall() takes no literals.
sub sys {
    my ($name, @args) = @_;
    my $result = syscall($c{$name}, @args);
    return $result == -1 ? undef : $result;
}

sub ok { return $_[0] ? 'ok' : undef }

sub known { return defined $_[0] ? 'ok' : undef }

# A fifo would wait, and a device of the image cannot be opened in a step.
sub closed { return -e $_[0] && !-f _ }

sub base { return $_[0] =~ m{([^/]*)$}s ? $1 : '' }

# The path without links, but for its last name.
sub real {
    my ($path) = @_;
    my $directory = $path =~ m{^(.*)/[^/]*$}s ? "$1/" : '.';
    sysopen(my $handle, $directory, $c{O_PATH} | $c{O_DIRECTORY}) or return $path;
    return readlink('/proc/self/fd/' . fileno $handle) . '/' . base($path);
}

sub names {
    my ($path) = @_;
    opendir(my $directory, $path) or return;
    return [sort grep { $_ ne '.' && $_ ne '..' } readdir $directory];
}

sub directory { return !-l $_[0] && -d _ }

# The innermost directory with inheritable flags on the way to a path: the names of all these begin with F.
sub flagged {
    my ($parent) = real($_[0]) =~ m{^(.*)/}s;
    return $parent =~ m{^(.*/F[^/]*)}s ? $1 : '';
}

# Whether an entry stays where it gets the same flags: a new entry's flags are those of the directory it was made in, which
# the upper directory does not have.
sub alike { return flagged($_[0]) eq flagged($_[1]) }

sub limited_rename {
    my ($from, $to, $exchange) = @_;
    return 'skip flags' if !alike($from, $to);
    # In a user namespace that is EXDEV for directories of the image.
    return 'skip userns' if $userns && (directory($from) || directory($to));
    for my $pair ([$from, $to], $exchange ? [$to, $from] : ()) {
        my ($old, $new) = @$pair;
        next unless directory($old);
        # The redirect of a path with more than 256 bytes is EXDEV.
        return 'skip long' if length real($old) > 150;
        # By its name a directory with inheritable flags is told from others.
        return 'skip name' if (base($old) =~ /^F/) != (base($new) =~ /^F/);
        # It fails as it should, and changes the mtime of the directory above.
        my $names = names($new);
        return 'skip full' if !$exchange && directory($new) && (!$names || @$names);
    }
    return;
}

# By descriptor, what changes attributes of a file whose name is gone is ENOENT.
sub nameless {
    my ($slot) = @_;
    my ($handle, $path) = @{$held{$slot} || []} or return 'no slot';
    my ($now, $then) = ((lstat $path)[1], (stat $handle)[1]);
    return defined $now && $now == $then ? undef : 'skip nameless';
}

%op = (
    write => sub {
        my ($path, $flags, $at, $size, $byte) = @_;
        return 'skip' if closed($path);
        sysopen(my $file, $path, $flags | $c{O_NONBLOCK}, 0666) or return;
        sysseek($file, $at, 0) if $at;
        return known(syswrite($file, chr($byte) x $size));
    },
    read => sub {
        my ($path) = @_;
        return 'skip' if closed($path);
        sysopen(my $file, $path, $c{O_NONBLOCK}) or return;
        my ($all, $part) = ('');
        $all .= $part while sysread $file, $part, 1 << 20;
        return length($all) . ' bytes, ' . unpack '%32N*', $all;
    },
    truncate => sub {
        my ($path, $size) = @_;
        # To the same size: on tmpfs that is no change.
        return 'skip' if closed($path) || $elsewhere && $size == (-s $path || 0);
        return ok(truncate $path, $size);
    },
    fallocate => sub {
        my ($path, $mode, $at, $size) = @_;
        return 'skip' if closed($path);
        # Where the file system cannot zero a range, capabilities are gone all the same.
        return 'skip' if $mode == 0x10 && defined xattr($path, 'security.capability');
        sysopen(my $file, $path, 2) or return;
        return known(sys('fallocate', fileno $file, $mode, $at, $size));
    },
    # The kernel writes into the mapping what it reads from a pipe.
    map => sub {
        my ($path, $size, $byte) = @_;
        return 'skip' if closed($path) || (-s $path || 0) < $size;
        sysopen(my $file, $path, 2) or return;
        pipe(my $out, my $in) or return;
        syswrite($in, chr($byte) x $size);
        my $at = sys('mmap', 0, $size, 3, 1, fileno $file, 0);
        return unless defined $at;
        my $result = sys('read', fileno $out, $at, $size);
        sys('munmap', $at, $size);
        return known($result);
    },
    unlinked => sub {
        my ($path, $size, $byte) = @_;
        return 'skip' if closed($path) || -l $path;
        sysopen(my $file, $path, 2) or return;
        unlink $path or return;
        syswrite($file, chr($byte) x $size);
        sysseek($file, 0, 0);
        return known(sysread $file, my $part, 1 << 20) . ' ' . unpack '%32N*', $part;
    },
    tmpfile => sub {
        my ($directory, $path, $size) = @_;
        return 'skip flags' if !alike("$directory/x", $path);
        sysopen(my $file, $directory, 2 | $c{O_TMPFILE}, 0640) or return;
        syswrite($file, 'u' x $size);
        my $name = '/proc/self/fd/' . fileno $file;
        return known(sys('linkat', -100, $name, -100, $path, 0x400));
    },
    # In a user namespace a changed file takes leave of its other names.
    link => sub { return $userns ? 'skip userns' : alike(@_) ? ok(link $_[0], $_[1]) : 'skip flags' },
    symlink => sub { return ok(symlink $_[0], $_[1]) },
    mkdir => sub { return ok(mkdir $_[0], $_[1]) },
    mknod => sub {
        my ($path, $mode, $device) = @_;
        return known(sys('mknodat', -100, $path, $mode, $device));
    },
    socket => sub {
        my ($path) = @_;
        socket(my $socket, 1, 1, 0) or return;
        return ok(bind $socket, pack 'Sa*', 1, $path);
    },
    rmdir => sub { return ok(rmdir $_[0]) },
    unlink => sub { return ok(unlink $_[0]) },
    remove => sub { return remove($_[0]) . ' left' },
    rename => sub { return limited_rename(@_) || ok(rename $_[0], $_[1]) },
    renameat2 => sub {
        my ($from, $to, $flags) = @_;
        return limited_rename($from, $to, $flags & 2) || known(sys('renameat2', -100, $from, -100, $to, $flags));
    },
    chmod => sub { return ok(chmod $_[1], $_[0]) },
    chown => sub { return ok(chown $_[1], $_[2], $_[0]) },
    lchown => sub { return known(sys('fchownat', -100, @_, 0x100)) },
    times => sub {
        my ($path, $seconds, $fraction) = @_;
        return known(sys('utimensat', -100, $path, pack('q4', ($seconds, $fraction) x 2), 0x100));
    },
    setxattr => sub {
        my ($path, $name, $value, $flags) = @_;
        return known(sys('lsetxattr', $path, $name, $value, length $value, $flags));
    },
    removexattr => sub {
        my ($path, $name) = @_;
        # In a user namespace, a plain directory asks for the right first, an overlay for the attribute.
        return 'skip userns' if $userns && $name =~ /^security\./;
        # That of an ACL that is not there is ENODATA.
        return 'skip' if $name =~ /^system\./ && !defined xattr($path, $name);
        return known(sys('lremovexattr', $path, $name));
    },
    acl => sub {
        my ($path, $kind, $user, $bits) = @_;
        my @entries = ([1, 7, -1], [2, $bits, $user], [4, 5, -1], [16, 7, -1], [32, $bits & 5, -1]);
        my $value = pack('L', 2) . join '', map { pack 'SSl', @$_ } @entries;
        return known(sys('lsetxattr', $path, "system.posix_acl_$kind", $value, length $value, 0));
    },
    chattr => sub {
        my ($path, $add, $drop) = @_;
        # There the file that was copied up cannot be found again to ask it for the flags that the copy lacks.
        return 'skip userns' if $userns;
        return 'skip' unless !-l $path && (-f _ || -d _);
        sysopen(my $file, $path, $c{O_NONBLOCK}) or return;
        my $value = pack 'L2', 0, 0;
        ioctl($file, 0x80086601, $value) or return;
        my $now = unpack 'L', $value;
        my $new = ($now | $add) & ~$drop;
        # What the directory gives to new entries is asked at the commit, when nobody knows which of them came before.
        return 'skip' if -d _ && ($add | $drop) & ~0x30 && ($made || base($path) !~ /^F/);
        # Overlayfs lets other flags of an immutable file be changed.
        return 'skip' if $now & 0x10 && ($add | $drop) & ~0x10;
        return ok(ioctl $file, 0x40086602, pack 'L2', $new, 0);
    },
    list => sub {
        my $names = names($_[0]) or return;
        return join ' ', map { sprintf '%vd', $_ } @$names;
    },
    stat => sub {
        my ($path) = @_;
        my @stat = lstat $path or return;
        my $is_directory = -d _;
        my ($links, $size) = $is_directory ? ('-', '-') : @stat[3, 7];
        my $time = $xfs && $is_directory ? '-' : $stat[9] >= $begin && $stat[9] < $begin + 86400 ? 'now' : $stat[9];
        return sprintf '%o %s:%s %s %s links %s %s', @stat[2, 4, 5, 6], $links, $size, $time;
    },
    readlink => sub { return readlink $_[0] },
    xattrs => sub {
        my ($path) = @_;
        my $buffer = "\0" x 65536;
        my $size = sys('llistxattr', $path, $buffer, length $buffer);
        return unless defined $size;
        # The image's own attributes below overlayfs's prefix are hidden from a step, or shown without it.
        my @names = sort grep { !/^trusted\.overlay\..*image/ } split /\0/, substr $buffer, 0, $size;
        return join ' ', map { my $value = xattr($path, $_); "$_=" . unpack 'H*', $value } @names;
    },
    hold => sub {
        my ($slot, $path, $flags) = @_;
        return 'skip' if closed($path) || -l $path;
        sysopen(my $file, $path, $flags | $c{O_NONBLOCK}) or return;
        $held{$slot} = [$file, $path];
        return 'ok';
    },
    release => sub { return delete $held{$_[0]} ? 'ok' : 'no slot' },
    held_write => sub {
        my ($file) = @{$held{$_[0]} || []} or return 'no slot';
        return known(syswrite $file, chr($_[2]) x $_[1]);
    },
    held_read => sub {
        my ($file) = @{$held{$_[0]} || []} or return 'no slot';
        sysseek($file, 0, 0);
        my $size = sysread($file, my $part, 1 << 20);
        return defined $size ? $size . ' ' . unpack '%32N*', $part : undef;
    },
    held_truncate => sub { return nameless($_[0]) || ok(truncate $held{$_[0]}[0], $_[1]) },
    held_chmod => sub { return nameless($_[0]) || ok(chmod $_[1], $held{$_[0]}[0]) },
    held_chown => sub { return nameless($_[0]) || ok(chown $_[1], $_[2], $held{$_[0]}[0]) },
    capability => sub {
        my ($path) = @_;
        my $value = pack 'L5', 0x02000001, 1 << 13, 0, 0, 0;
        return known(sys('lsetxattr', $path, 'security.capability', $value, length $value, 0));
    },
    project => sub {
        my ($path, $id, $inherit) = @_;
        return 'skip' unless !-l $path && (-f _ || -d _);
        # Nobody can tell it from one that was lost.
        return 'skip' if $made && !$id;
        sysopen(my $file, $path, $c{O_NONBLOCK}) or return;
        my $value = pack 'x28';
        ioctl($file, 0x801c581f, $value) or return;
        substr $value, 12, 4, pack 'L', $id;
        ioctl($file, 0x401c5820, $value) or return;
        # Not before the id: ext4 sets the flag where it has no ids, and never again.
        substr $value, 0, 4, pack 'L', unpack('L', $value) | 0x200 if $inherit && $id;
        return ok(ioctl $file, 0x401c5820, $value);
    },
    copy => sub {
        my ($from, $to, $size) = @_;
        return 'skip' if closed($from) || closed($to);
        sysopen(my $in, $from, $c{O_NONBLOCK}) or return;
        sysopen(my $out, $to, 1 | 0100, 0666) or return;
        return known(sys('copy_file_range', fileno $in, 0, fileno $out, 0, $size, 0));
    },
    # Everything below a directory, itself included: an operation whose first argument is the path.
    each => sub {
        my ($path, $name, @args) = @_;
        return join ' ', map { my $said = $op{$name}->($_, @args); defined $said ? $said : $! + 0 } below($path, 60);
    },
    # All that is in a directory goes to another, as `mv a/* b/` does it.
    pour => sub {
        my ($from, $to) = @_;
        my $names = names($from) or return;
        return join ' ', map { $op{rename}->("$from/$_", "$to/$_") || $! + 0 } @$names;
    },
    # In a directory that may have been moved or removed by now.
    enter => sub {
        my ($slot, $path) = @_;
        sysopen(my $directory, $path, $c{O_DIRECTORY}) or return;
        $held{$slot} = [$directory, $path];
        return 'ok';
    },
    inside => sub {
        my ($slot, $name, @args) = @_;
        my ($directory) = @{$held{$slot} || []} or return 'no slot';
        chdir $directory or return;
        # One that was removed cannot be copied up: EIO.
        my $gone = readlink('/proc/self/cwd') =~ / \(deleted\)$/;
        my $result = $gone ? 'skip' : $op{$name}->(@args);
        $result = "errno $!" unless defined $result;
        chdir '/t' or die "/t: $!";
        return "$name $result";
    },
    # Another user does it, as some programs do.
    as => sub {
        my ($id, $name, @args) = @_;
        pipe(my $out, my $in) or return;
        my $child = fork;
        if (!$child) {
            $( = $id;
            $) = "$id $id";
            ($<, $>) = ($id, $id);
            $! = 0;
            my $result = $op{$name}->(@args);
            syswrite($in, defined $result ? $result : "errno $!");
            exit;
        }
        close $in;
        sysread($out, my $said, 1 << 16);
        waitpid $child, 0;
        return "$name $said";
    },
);

sub xattr {
    my ($path, $name) = @_;
    my $buffer = "\0" x 65536;
    my $size = sys('lgetxattr', $path, $name, $buffer, length $buffer);
    return defined $size ? substr($buffer, 0, $size) : undef;
}

sub below {
    my ($path, $most) = @_;
    my @found = ($path);
    for (my $at = 0; $at < @found && @found < $most; $at++) {
        push @found, map { "$found[$at]/$_" } @{names($found[$at]) || []} if directory($found[$at]);
    }
    return @found;
}

# rm -rf, in an order that no readdir() gives. Returns how many entries would not go.
sub remove {
    my ($path) = @_;
    return unlink($path) ? 0 : 1 if !directory($path);
    my $left = 0;
    $left += remove("$path/$_") for @{names($path) || []};
    return rmdir($path) ? $left : $left + 1;
}

# Everything gets a time long past, each entry its own: what the program leaves alone must keep it to the nanosecond.
sub age {
    my ($path) = @_;
    if (directory($path) && $path ne '/proc') {
        age($path eq '/' ? "/$_" : "$path/$_") for @{names($path) || []};
    }
    my $hash = unpack('%32n*', "$path ") * 7919;
    my $times = pack 'q4', ($hash % 1500000000 - 100000000, $hash * 31 % 1000000000) x 2;
    sys('utimensat', -100, $path, $times, 0x100);
}

chdir '/t' or die "/t: $!";
