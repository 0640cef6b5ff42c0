//! The commit is exact: whatever a step does, the image ends as a plain chroot would have left it.
#![allow(missing_docs, clippy::disallowed_methods, reason = "a test starts programs and clears up after itself")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use support::tree::{self, Snapshot};
use support::{Field, shell, stderr};

/// Rows: a name, and what `sh -c` runs in the image, in the folder /t. Not in the tables, because overlayfs itself gives
/// the program another answer than a plain directory does (docs/commit.md lists these limits of the kernel):
/// a rename of a directory whose path has more than 256 bytes or whose attributes are full (EXDEV), any change of a file
/// with several names and full attributes (ENOSPC), mknod of a device 0:0 (EPERM), a shared mapping that was made before
/// the file was written, chmod by descriptor of an unlinked file (ENOENT), removexattr of an ACL that is not there (ENODATA),
/// a failed rename onto a directory that is not empty (it changes its parent's mtime), chattr of other flags on an
/// immutable file, clearing the flags `d` and `D` that a copied-up file does not show, and files that were made outside of
/// a directory whose flags are inherited and then moved into it.
type Row = (&'static str, &'static str);

const RENAMED_DIRECTORIES: &[Row] = &[
    ("rename", "mv d1 d9"),
    ("rename and change below", "mv d1 d9; echo x >> d9/sub/x; rm d9/a; mkdir d9/new; echo n > d9/new/n"),
    ("change below and rename", "echo x >> d1/sub/x; chmod 700 d1/sub; rm d1/b; mv d1 d9"),
    ("rename twice", "mv d1 d8; mv d8 d9"),
    ("rename and back", "mv d1 d9; mv d9 d1"),
    ("rename and back after a change", "mv d1 d9; echo x > d9/a; mv d9 d1"),
    ("into another directory", "mv d1 d2/d1"),
    ("into a new directory", "mkdir n; mv d1 n/"),
    (
        "into a new directory in a new one",
        "mkdir -p n/m/o; mv d1 n/m/o/; echo x > n/m/f; touch -d '2002-02-02 00:00:00' n/m",
    ),
    ("into an opaque directory", "rm -rf d3; mkdir d3; mv d1 d3/"),
    (
        "into an opaque directory with more",
        "rm -rf d3; mkdir -p d3/k/l; echo f > d3/k/f; mv d1 d3/k/l/; mv d2 d3/; rm d3/d2/c",
    ),
    ("over an empty one", "mv -T d1 empty"),
    ("over a directory that the step emptied", "rm -rf d2/*; mv -T d1 d2"),
    ("an empty one over an empty one", "mv -T empty empty2"),
    ("over an opaque one", "rm -rf d3; mkdir d3; mv -T d1 d3"),
    ("a swap", "mv d1 tmp; mv d2 d1; mv tmp d2"),
    (
        "a swap with changes",
        "mv d1 tmp; mv d2 d1; mv tmp d2; echo x > d1/c; echo y > d2/a; rm -r d2/sub; ln -s q d1/sub",
    ),
    ("a cycle of three", "mv d1 tmp; mv d2 d1; mv d3 d2; mv tmp d3; touch -d '1999-01-01 00:00:00' d1 d2 d3"),
    ("a cycle through depths", "mv d1/sub tmp; mv d2 d1/sub; mv tmp d2; mv d3 d2/deep/"),
    ("exchange", "renameat2 d1 d2 2"),
    ("exchange of a directory and a file", "renameat2 d1 file 2"),
    ("exchange of parent levels", "renameat2 d1/sub d2 2; echo x > d2/new"),
    ("rename without replacing", "renameat2 d1 d9 1"),
    ("recreate the old name", "mv d1 d9; mkdir d1; echo new > d1/a"),
    ("recreate the old name as a file", "mv d1 d9; echo new > d1"),
    ("recreate the old name as a link", "mv d1 d9; ln -s d9 d1; echo x > d1/x"),
    ("a nested rename", "mv d1/sub d1/sup; mv d1 d9"),
    ("a nested rename after the outer", "mv d1 d9; mv d9/sub d9/sup; mv d9/sup/deep d9/sup/deeper"),
    ("the inner out and the outer away", "mv d1/sub out; mv d1 d9"),
    ("the inner out and the outer removed", "mv d1/sub/deep out; rm -r d1"),
    ("the inner out and a link in the outer's place", "mv d1/sub/deep out; rm -r d1; ln -s d2 d1"),
    ("the parent into its child", "mv d1/sub s; mv d1 s/"),
    ("the parent into its child's old name", "mv d1/sub s; mv d1 s/sub; mv s d1"),
    ("back to the same path below a new parent", "mv d1 d9; mkdir d1; mv d9/sub d1/sub"),
    (
        "back to the same path with changes",
        "mv d1 d9; mkdir d1; mv d9/sub d1/sub; echo x > d1/sub/x; rm d9/a; mv d9/b d1/",
    ),
    ("back to the same path below a swapped parent", "mv d1 tmp; mv d2 d1; mv tmp d2; mv d2/sub d1/sub"),
    ("a chain of moves into each other", "mv d3 d2/; mv d2 d1/; mv d1 empty/; mv empty d1"),
    ("the same name in another place", "mkdir n; mv d1 n/d1; mv d2 d1; mv n/d1 d2; rmdir n"),
    ("moved whole into the removed", "rm -r d2; mv d1 d2; mv d3 d2/c"),
    ("with flags", "mv f/nodump-d f/moved; echo x > f/moved/new; mv f/top d1/"),
    (
        "with attributes and ACLs",
        "mv acl d1/; mv x d1/; setfattr -n user.moved -v 1 d1/x; setfacl -m u:9:rx d1/acl; echo > d1/acl/new",
    ),
    ("to a name of 255 bytes", "mv d1 \"$(printf '%0255d' 7)\""),
    (
        "to a name that is not UTF-8",
        "mv d1 \"$(printf 'a\\377\\\\b\\n c')\"; echo x > \"$(printf 'a\\377\\\\b\\n c')/a\"",
    ),
    (
        "a rename with unusual times",
        "touch -d '1960-05-05 00:00:00' d1/sub; mv d1/sub d2/old; touch -d '1961-05-05 00:00:00' d2; mv d2 d1/",
    ),
];

const ENTRIES: &[Row] = &[
    ("write, append, truncate", "echo new > file; echo more >> big; : > plain; truncate -s 5 d1/a"),
    (
        "new entries of every kind",
        "echo n > n; mkdir -m 2711 nd; ln -s x nl; mkfifo -m 600 nf; mknod nb b 7 200; mknod nc c 9 9; chown 5:6 nf nb",
    ),
    (
        "more than a thousand files for directories that are there, by two threads",
        "for d in . d1 d1/sub d2 d3 empty empty2; do for i in $(seq 200); do echo $i > $d/m$i; done; ln -s m1 $d/ml
        mkfifo $d/mf; ln $d/m2 d1/sub/also-$(echo $d | tr / -); done; chmod 4755 d2/m3; chattr +i d2/m5; rm d1/b
        echo x > d1/a; mkdir empty/n; setfattr -n user.a -v 1 d3/m7",
    ),
    ("a socket", "socket sock; socket d1/sock; mv d1/sock d2/"),
    ("files removed", "rm file d1/a d1/sub/x dangling fifo cdev"),
    ("trees removed", "rm -rf d1 d2 empty x acl"),
    ("a file renamed", "mv file d1/file; mv d1/a d2/c; mv big d1/b"),
    ("files swapped", "mv file t; mv plain file; mv t plain"),
    ("a file renamed over a link and back", "mv file sym; mv plain dangling; mv sym file"),
    ("opaque", "rm -rf d1; mkdir d1"),
    (
        "opaque with content",
        "rm -rf d1; mkdir -m 750 d1; echo x > d1/a; mkdir d1/sub; echo y > d1/sub/new; touch -d '2003-03-03 00:00:00' d1/sub d1",
    ),
    ("opaque in opaque", "rm -rf d1/sub; mkdir d1/sub; rm -rf d1; mkdir -p d1/sub/deep; rm -rf d1/sub; mkdir d1/sub"),
    ("opaque below a renamed one", "mv d1 d9; rm -rf d9/sub; mkdir d9/sub; echo x > d9/sub/x"),
    ("a directory emptied and filled", "rm -rf d1/*; echo again > d1/a"),
    ("directory, file, directory", "rm -r d1; echo f > d1; rm d1; mkdir d1; echo x > d1/x"),
    ("directory to file", "rm -r d1; echo f > d1"),
    ("directory to fifo", "rm -r d1; mkfifo d1; rm -r d2; ln -s d3 d2"),
    ("file to directory", "rm file; mkdir file; echo x > file/x"),
    ("file, directory, file", "rm file; mkdir file; rmdir file; echo f > file"),
    ("link to directory", "rm sym; mkdir sym; echo x > sym/x"),
    ("link to directory to link", "rm sym; mkdir sym; rmdir sym; ln -s d2 sym; echo x > sym/new"),
    ("fifo to directory", "rm fifo; mkdir fifo; rm cdev; mkdir -p cdev/a/b"),
    ("a copied-up file into a new directory", "mkdir n; mv file n/; mv f/nodump n/; mv x/full n/; echo x >> n/file"),
    ("a new directory moved over a removed one", "mkdir -p n/sub; echo x > n/sub/x; rm -r d1; mv n d1"),
    ("a new directory with copied-up files moved", "mkdir n; mv d1/a n/; ln d1/b n/; cp -a d2 n/; mv n d2/n"),
    (
        "names that are not UTF-8",
        "cd odd; for f in *; do echo x >> \"$f\"; mv \"$f\" \"$f+\" || rm \"$f\"; done; echo > \"$(printf '\\001\\376\\n\\\\x')\"",
    ),
    (
        "names of 255 bytes",
        "echo x > $(printf '%0255d' 1); mkdir $(printf '%0255d' 2); echo > $(printf '%0255d' 2)/$(printf '%0255d' 3); rm odd/0*",
    ),
    (
        "names that look like whiteouts",
        "echo > .wh.file; mkdir .wh..wh..opq; rm d1/a; echo > d1/.wh.a; echo > .dropcloth; mkdir d1/.dropcloth-1",
    ),
    (
        "sparse files",
        "truncate -s 30M sparse2; echo end >> sparse; dd if=/dev/zero of=sparse bs=1 count=1 seek=2000000 conv=notrunc 2>/dev/null",
    ),
    ("a large file touched", "chmod 600 big; chown 3:4 big; touch -d '2004-04-04 00:00:00' big"),
    ("a large file opened for writing only", ": >> big; : >> d1/a"),
    ("an unnamed file linked in", "tmpfile d1/linked"),
    ("a deep tree", "i=0; while [ $i -lt 200 ]; do mkdir dir$i; cd dir$i; echo $i > f; i=$((i+1)); done"),
    (
        "a tree deeper than a path",
        "i=0; while [ $i -lt 700 ]; do mkdir d12345; cd -P d12345; i=$((i+1)); done; echo end > f",
    ),
    (
        "a deep tree of the image changed and moved",
        "cd deep; p=.; while [ -d $p/e ]; do p=$p/e; done; echo x > $p/new; cd ..; mv deep/e moved; echo x > moved/f",
    ),
    ("many files", "i=0; while [ $i -lt 500 ]; do echo $i > d1/$i; i=$((i+1)); done; rm d1/1*; mv d1/sub d1/zub"),
];

const LINKS: &[Row] = &[
    ("changed through one name", "echo x >> l/h1"),
    ("changed through a name in another directory", "echo x >> l2/h3; touch -d '2005-05-05 00:00:00' l2/h3"),
    ("changed and that name removed", "echo x >> l/h1; rm l/h1"),
    ("changed and renamed", "echo x >> l/h1; mv l/h1 l2/renamed"),
    ("one name removed", "rm l/h2"),
    ("all names removed", "rm l/h1 l/h2 l2/h3"),
    ("all but one removed", "rm l/h1 l/h2; echo x > l2/h3"),
    ("a name renamed", "mv l/h1 l/h9; mv l2/h3 l/h3"),
    ("renamed over another name of its own", "mv l/h1 l/h2; mv -f l/h1 l2/h3"),
    ("a name replaced", "rm l/h1; echo other > l/h1"),
    ("a name added", "ln l/h1 l2/h4; ln file l2/file"),
    ("a name added and the file changed", "ln l/h1 d1/h4; echo x > l/h2; chmod 4711 d1/h4"),
    ("names of two groups joined", "ln -f l/h1 l/g1; echo x >> l/g2"),
    ("only attributes", "chown 3:4 l/h1; chmod 640 l/h2; setfattr -n user.l -v 1 l2/h3"),
    ("changed with the directory of another name renamed", "echo x > l/h1; mv l2 l9"),
    ("changed with its own directory renamed", "mv l l9; echo x > l9/h1; rm l9/h2"),
    ("changed with the directory of another name removed", "echo x > l/h1; rm -r l2"),
    ("changed with the directory of another name replaced", "echo x > l/h1; rm -r l2; mkdir l2; echo > l2/h3"),
    (
        "changed with the directories swapped",
        "echo x > l/h1; mv l t; mv l2 l; mv t l2; touch -d '2006-06-06 00:00:00' l l2",
    ),
    ("changed with a name's directory moved into a new one", "mkdir n; mv l2 n/l2; echo x > l/h1; echo y >> n/l2/h3"),
    ("a link of several names", "touch -h -d '2007-07-07 00:00:00' l/s1; rm l/s2; ln l/s1 d1/s3"),
    ("a fifo and a device of several names", "chmod 600 l/p1; chown 7 l/c1; ln l/c2 l/c3; rm l/p2"),
    ("with lost flags", "echo x >> l/d1; rm l/d1"),
    ("with lost flags, all names", "echo x >> l/d1; echo y >> l/d2"),
    ("in a directory that is immutable", "echo x >> l/i1"),
    ("immutable afterwards", "echo x >> l/h1; chattr +i l/h1"),
    ("immutable before and after", "chattr -i f/himm1; echo x >> f/himm2; chattr +i f/himm1"),
    ("linked into a directory that was moved", "mv d1 d9; ln l/h1 d9/sub/h4; echo x > d9/sub/h4"),
    ("new files of several names", "echo n > n1; ln n1 d1/n2; mkdir n; ln n1 n/n3; mkdir d2/m; ln n1 d2/m/n4"),
    ("attributes of overlayfs on them", "setfattr -n trusted.overlay.redirect -v no l/h1"),
    ("a fixed mtime in directories of other names", "touch -d '2008-08-08 00:00:00' l2; echo x > l/h1"),
];

const ATTRIBUTES: &[Row] = &[
    (
        "modes and owners",
        "chmod 4755 file; chown 1000:1000 plain; chmod 1777 d1; chown 3:4 d1/sub; chmod 0 d1/a; chown -h 7:8 sym",
    ),
    ("of the root", "chmod 750 /; chown 3:4 /; touch -d '2009-09-09 00:00:00' /"),
    ("attributes and ACLs of the root", "setfattr -n user.root -v 1 /; setfacl -m u:5:rx /; setfacl -d -m g:5:rx /"),
    ("flags of the root", "chattr +A /; setfattr -n trusted.mine -v 1 /"),
    ("the root immutable", "echo x > /new; chattr +i /"),
    ("set-uid bits cleared by a write", "chown 1000:1000 suid; echo x >> sgid"),
    (
        "set-uid bits cleared by another user's write",
        "chmod 6777 suid; setpriv --reuid=1000 --regid=1000 --clear-groups sh -c 'echo x >> suid' || su user -s /bin/sh -c 'echo x >> /t/suid'",
    ),
    ("capabilities", "cp file prog; setcap cap_net_raw+ep prog; setcap cap_chown+ep plain; chmod 700 caps"),
    ("capabilities lost by a write", "echo x >> caps"),
    (
        "attributes",
        "setfattr -n user.a -v 1 file; setfattr -x user.a x/file; setfattr -n trusted.b -v 2 x; setfattr -n security.c -v 3 x/file; setfattr -h -n trusted.s -v 4 sym; setfattr -n trusted.f -v 5 fifo",
    ),
    ("large attributes", "setfattr -n user.big -v $(printf '%03000d' 1) file; rm x/full; echo n > x/full"),
    ("attributes replaced by none", "setfattr -x user.dir x; setfattr -x trusted.dir x"),
    (
        "attributes named like those of overlayfs",
        "for n in opaque redirect origin metacopy whiteout upper protattr; do setfattr -n trusted.overlay.$n -v y file; setfattr -n trusted.overlay.$n -v /d2 d1; done; setfattr -n user.overlay.opaque -v y d2",
    ),
    (
        "the same on new entries",
        "mkdir -p n/m; echo > n/m/f; for e in n n/m n/m/f; do setfattr -n trusted.overlay.opaque -v y $e; done; chattr +i n/m/f; setfattr -n trusted.overlay.overlay.x -v twice n",
    ),
    (
        "the same on a moved directory",
        "setfattr -n trusted.overlay.redirect -v /t/d2 d1; mv d1 d9; setfattr -n trusted.overlay.opaque -v y d9/sub",
    ),
    ("the same on the root", "setfattr -n trusted.overlay.opaque -v y /"),
    ("those that the image had", "echo x >> x/own; mv x/own x/moved; chmod 711 x/owndir"),
    (
        "those that the image had on links and devices",
        "touch -h -d '2002-02-02 00:00:00' sym; mv fifo d1/; chmod 600 cdev; ln l/s1 l/s9; chmod 600 l/c2",
    ),
    (
        "those that look escaped in the image",
        "echo x >> x/escaped; mv x/escaped d1/; chmod 711 x/escdir; setfattr -n trusted.overlay.new -v 1 x/escdir",
    ),
    ("access ACLs", "setfacl -m u:1:rw file; setfacl -b acl/file; setfacl -m m::r d1/a; chmod 751 acl"),
    ("default ACLs", "setfacl -d -m u:1:rwx d1; echo n > d1/new; mkdir d1/newdir; setfacl -k acl; echo n > acl/after"),
    (
        "inherited ACLs",
        "echo n > acl/new; mkdir -p acl/dir/dir; cp file acl/copy; mv plain acl/moved; mkdir acl/o; rm -r acl/o; mkdir acl/o",
    ),
    ("inherited set-gid", "echo n > gid/new; mkdir -p gid/a/b; echo > gid/a/b/c"),
    (
        "immutable files",
        "chattr -i f/imm; echo x >> f/imm; chattr +i f/imm; chattr +i file; chattr -i f/immdir; echo > f/immdir/new; chattr +i f/immdir",
    ),
    (
        "immutable files removed and moved",
        "chattr -i f/imm; rm f/imm; chattr -i f/immdir; mv f/immdir f/was; chattr -a f/app; mv f/app d1/",
    ),
    ("immutable new trees", "mkdir -p n/m; echo x > n/m/f; chattr +i n/m/f n/m n; chattr +a d1; chattr +i d2/sub2"),
    (
        "below an immutable directory",
        "echo x >> f/immdir/sub/f; rm f/immdir/sub/g; ! rm f/immdir/f; ! echo > f/immdir/new",
    ),
    (
        "append-only files",
        "echo x >> f/app; ! echo x > f/app; ! rm f/app; chattr +a big; echo y >> big; echo n > f/appdir/n",
    ),
    ("removed with what is immutable in them", "chattr -i f/immdir; rm -r f/immdir; mkdir f/immdir; echo > f/immdir/f"),
    ("flags A and S", "chattr +A file; chattr +S d1; chattr -A f/noatime; chattr +AS d2; echo x >> f/sync"),
    (
        "flags that are lost at copy-up",
        "echo x >> f/nodump; chmod 700 f/nodump-d; chmod 700 f/top f/dirsync; echo n > f/nodump-d/new; echo x >> f/nodump-d/old",
    ),
    (
        "flags of files that were renamed",
        "mv f/nodump f/renamed; mv plain f/nodump; mv f/nodump2 d1/a; mv file f/nodump-d/file",
    ),
    ("flags of files that were linked", "ln f/nodump f/second; echo x >> f/nodump2; ln f/nodump2 d1/third"),
    (
        "flags that new entries inherit",
        "mkdir -p f/nodump-d/a/b; echo > f/nodump-d/a/b/c; echo > f/dirsync/n; mkdir f/dirsync/m; rm f/nodump-d/old; echo > f/nodump-d/old",
    ),
    (
        "flags inherited around a moved directory",
        "mkdir -p f/nodump-d/a; mv d1 f/nodump-d/a/; echo > f/nodump-d/a/new; echo > f/nodump-d/a/d1/new",
    ),
    (
        "times",
        "touch -d '1960-01-01 00:00:00' file; touch -d '2300-01-01 00:00:00' plain; touch -d '2001-09-09 00:00:00' d1/sub/x; touch -h -d '2002-02-02 00:00:00' sym; touch -d '1969-12-31 00:00:00' d1",
    ),
    (
        "times of a parent",
        "echo n > d1/new; touch -d '2010-10-10 00:00:00' d1; rm d2/c; touch -d '2010-10-10 00:00:00' d2; mv file d3/; touch -d '2011-11-11 00:00:00' d3",
    ),
    ("times of a parent that nothing else touches", "echo x >> d1/sub/deep/z; chmod 600 d2/sub2/w"),
    ("times after a change and back", "echo n > d1/n; rm d1/n; touch -d '2001-02-03 04:05:06' d1"),
    ("a file that is read only", "cat file big d1/a > /dev/null; ls -lR /t /etc > /dev/null; find / -xdev > /dev/null"),
    (
        "the scaffold's neighbours",
        "echo n > /etc/new; chmod 711 /etc; touch -d '2012-12-12 00:00:00' /etc; rm /etc/hosts; echo h > /etc/hosts; mv /var /var2; mkdir /var",
    ),
    (
        "a whole system directory moved",
        "mv /etc /etc2; mkdir /etc; cp -a /etc2/passwd /etc/passwd; touch -d '2012-12-12 00:00:00' /etc",
    ),
];

/// The richer root: the small one with /t, and the tools that busybox does not have. All times are long past.
const PREPARE: &str = r#"
mknod -m 666 dev/null c 1 3; mknod -m 666 dev/zero c 1 5
chmod 755 bin/renameat2; mkdir t; cd t
mkdir -p d1/sub/deep d2/sub2 d3 empty empty2 l l2 x/owndir x/escdir acl gid odd f deep
mkdir f/immdir f/immdir/sub f/appdir f/nodump-d f/top f/dirsync l/immdir
for f in d1/a d1/b d1/sub/x d1/sub/y d1/sub/deep/z d2/c d2/sub2/w d3/d file plain suid sgid caps x/file x/full x/own x/escaped \
    acl/file gid/file f/imm f/app f/nodump f/nodump2 f/noatime f/sync f/himm1 f/immdir/f f/immdir/sub/f f/immdir/sub/g \
    f/nodump-d/old l/h1 l/g1 l/d1 l/i1; do echo "$f" > "$f"; done
ln l/h1 l/h2; ln l/h1 l2/h3; ln l/g1 l/g2; ln l/d1 l/d2; ln l/i1 l/immdir/i2; ln f/himm1 f/himm2
ln -s nowhere l/s1; ln l/s1 l/s2; mkfifo l/p1; ln l/p1 l/p2; mknod l/c1 c 1 3; ln l/c1 l/c2
ln -s d1 sym; ln -s nowhere dangling; mkfifo fifo; mknod cdev c 1 3
head -c 3000000 /dev/urandom > big; truncate -s 5M sparse; echo middle | dd of=sparse seek=3000 conv=notrunc status=none
chmod 4755 suid; chmod 2775 sgid; chown 0:1000 gid; chmod 2775 gid; chown 1000:1000 d3 plain
setcap cap_net_raw+ep caps
setfattr -n user.a -v a x/file; setfattr -n trusted.b -v b x/file; setfattr -n user.dir -v d x; setfattr -n trusted.dir -v d x
setfattr -n user.full -v "$(printf '%03000d' 7)" x/full
setfattr -n trusted.overlay.own -v image x/own; setfattr -n trusted.overlay.own -v image x/owndir
setfattr -h -n trusted.overlay.own -v image sym fifo cdev l/s1 l/c1
setfattr -n trusted.overlay.overlay.own -v image x/escaped x/escdir
setfacl -m u:1:rwx acl acl/file; setfacl -d -m u:2:rwx,g:3:r acl
for n in "$(printf 'a\377b')" "$(printf 'new\nline')" 'back\slash' "$(printf '%0255d' 0)" ' ' 'a:b,c'; do echo x > "odd/$n"; done
p=deep; i=0; while [ $i -lt 60 ]; do p=$p/e; i=$((i+1)); done; mkdir -p $p; echo f > deep/e/f
cd ..
find . -exec touch -h -d 2001-02-03T04:05:06.123456789 {} +
touch -d 1960-01-01T00:00:00.5 t/d1/b; touch -d 2200-01-01 t/d1/sub
"#;

/// cp(1) does not copy these. No matter where the file system has none: then no row shows a difference.
const FLAGS: &str =
    "cd t; chattr +d f/nodump f/nodump2 f/nodump-d f/nodump-d/old l/d1; chattr +A f/noatime; chattr +S f/sync
    chattr +T f/top; chattr +D f/dirsync; chattr +a f/app f/appdir; chattr +i f/imm f/himm1 f/immdir l/immdir";

const TOOLS: [&str; 5] = ["perl", "setfattr", "setfacl", "setcap", "chattr"];

/// System calls that no tool makes: an exchange, a socket's name, a file without a name (O_TMPFILE) that gets one.
const SCRIPTS: [(&str, &str); 3] = [
    ("renameat2", "#!/bin/perl\nmy ($a, $b, $c) = @ARGV; syscall(316, -100, $a, -100, $b, $c + 0) == 0 or die $!;\n"),
    (
        "socket",
        "#!/bin/perl\nsyscall(41, 1, 1, 0) == 3 or die $!;
        my $a = pack('Sa*', 1, $ARGV[0]); syscall(49, 3, $a, length $a) == 0 or die $!;\n",
    ),
    (
        "tmpfile",
        "#!/bin/perl\nmy ($d, $e, $to) = ('.', '', $ARGV[0]); my $f = syscall(257, -100, $d, 020200002, 0644);
        $f >= 0 or die $!; syscall(1, $f, $d, 1); syscall(265, $f, $e, -100, $to, 0x1000) == 0 or die $!;\n",
    ),
];

fn prepared() -> &'static Path {
    static PREPARED: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = PREPARED.get_or_init(|| {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let root = directory.path().join("root");
        support::copy(&support::small_root(), &root);
        for tool in TOOLS {
            support::install(tool, &root);
        }
        for (name, script) in SCRIPTS {
            std::fs::write(root.join("bin").join(name), script).unwrap();
        }
        shell(&format!("chmod 755 bin/*; {PREPARE}"), &root);
        directory
    });
    directory.path()
}

fn field() -> Field {
    let field = Field::of(&prepared().join("root"));
    shell(FLAGS, &field.root);
    field
}

fn now() -> i64 {
    // One second early: the kernel stamps files with the time of its last tick.
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() - 1
}

/// With /proc, in a mount namespace of its own: the other rows look for mounts that are left on the host.
fn in_chroot(root: &Path, script: &str) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", "mount -t proc proc ./proc; exec chroot . /bin/sh -c \"$1\"", "sh", script]);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.current_dir(root).output().unwrap()
}

/// What is different after the row in a chroot and in a committed step; and when the row itself did something else.
fn row(script: &str, backend: &str) -> Vec<String> {
    let start = now();
    let full = format!("set -e; export LC_ALL=C; cd /t; {script}");
    let (plain, mut step) = (field(), field());
    if script.contains("hidden/") {
        [&plain, &step].iter().for_each(|field| shell(HIDDEN, &field.root));
    }
    let expected = in_chroot(&plain.root, &full);
    let capabilities = ["LINUX_IMMUTABLE", "SYS_ADMIN", "SETFCAP"];
    let mut options: Vec<&str> = capabilities.iter().flat_map(|name| ["--cap-add", name]).collect();
    options.extend(["--backend", backend]);
    let output = step.run(&options, &full);
    let mut found = Vec::new();
    if !expected.status.success() || expected.status.code() != output.status.code() {
        let [left, right] = [&expected, &output].map(|o| format!("{:?} {}", o.status.code(), stderr(o)));
        found.push(format!("chroot: {left}, step: {right}"));
    }
    let [left, right] = [&plain, &step].map(|field| comparable(field, start));
    found.extend(tree::diff(&left, &right).into_iter().take(20));
    if found.is_empty() {
        step.check_leaks();
    } else {
        step.forget_leaks();
    }
    found
}

fn comparable(field: &Field, start: i64) -> Snapshot {
    field.snapshot().clock_times_alike(start)
}

/// All rows, on two threads; fails with every difference of every row.
#[track_caller]
fn check(rows: &[Row], backend: &'static str) {
    let only = std::env::var("DROPCLOTH_ROW").unwrap_or_default();
    prepared();
    let half = |parity: usize| {
        let only = only.clone();
        let chosen: Vec<Row> = rows.iter().skip(parity).step_by(2).copied().filter(|r| r.0.contains(&only)).collect();
        let work =
            move || chosen.iter().map(|(name, script)| (*name, *script, row(script, backend))).collect::<Vec<_>>();
        // The snapshot of a deep tree is a deep recursion.
        thread::Builder::new().stack_size(64 << 20).spawn(work).unwrap()
    };
    let threads = [half(0), half(1)];
    let done = threads.into_iter().flat_map(|thread| thread.join().unwrap());
    let failed = done.filter(|(_, _, found)| !found.is_empty()).map(|(name, script, found)| {
        format!("{name}: {script}\n{}", found.iter().map(|line| format!("    {line}\n")).collect::<String>())
    });
    let failed: Vec<String> = failed.collect();
    assert!(failed.is_empty(), "{} of {} rows:\n{}", failed.len(), rows.len(), failed.join(""));
}

#[test]
fn renamed_directories() {
    needs_root!();
    check(RENAMED_DIRECTORIES, "overlay");
}

#[test]
fn entries() {
    needs_root!();
    check(ENTRIES, "overlay");
}

#[test]
fn hard_links() {
    needs_root!();
    check(LINKS, "overlay");
}

#[test]
fn attributes() {
    needs_root!();
    check(ATTRIBUTES, "overlay");
}

/// By the exchange of a copy, which has nothing to put right: every third row will do.
#[test]
fn all_of_them_with_the_copy_backend() {
    needs_root!();
    let stride = if std::env::var_os("DROPCLOTH_LONG").is_some() { 1 } else { 3 };
    let rows = [RENAMED_DIRECTORIES, ENTRIES, LINKS, ATTRIBUTES].concat();
    let chosen: Vec<Row> = rows.into_iter().step_by(stride).collect();
    check(&chosen, "copy");
}

/// What an overlay does not show to the step, or not as it is.
const HIDDEN: &str = "cd t; mkdir hidden; cd hidden; mknod device c 0 0; echo x > file
    setfattr -n trusted.overlay.metacopy file; touch -d 2001-02-03 device file . ..";

/// What overlayfs cannot do (docs/commit.md), a copy can.
const BEYOND_THE_OVERLAY: &[Row] = &[
    ("a whiteout device", "mknod odd-device c 0 0; ls -l odd-device | grep -q '0,'"),
    ("a removal of a whiteout device", "rm hidden/device"),
    (
        "an overlay's attribute of the image",
        "setfattr -n trusted.overlay.metacopy -v 2 hidden/file; echo x >> hidden/file",
    ),
    ("a metadata copy", "echo x >> hidden/file; chmod 600 hidden/file"),
];

#[test]
fn what_the_overlay_cannot_do() {
    needs_root!();
    check(BEYOND_THE_OVERLAY, "copy");
}

/// Syncs of a whole file system before the last thing that a step of a second and a half does.
fn syncs_during_a_step(field: &Field, options: &[&str]) -> usize {
    let log = tempfile::NamedTempFile::new().unwrap();
    let step = ["--", "sh", "-c", "echo x > /x; sleep 1.5; exec /bin/cat /x"];
    let run = ["run"].iter().chain(options).chain(&step);
    let options = ["-f", "-o", log.path().to_str().unwrap(), "-e", "trace=syncfs,execve"];
    let output = support::rich::traced(&field.dropcloth(run), &options).output().unwrap();
    support::assert_code(&output, 0);
    let log = std::fs::read_to_string(log).unwrap();
    let last = log.lines().position(|line| line.contains("execve(\"/bin/cat\"")).unwrap();
    log.lines().take(last).filter(|line| line.contains("syncfs(")).count()
}

#[test]
fn what_a_long_step_writes_goes_to_the_disk_while_it_runs_where_dropcloth_waits_for_it() {
    needs_root!();
    if !support::rich::has_strace() {
        return support::skip("it needs strace");
    }
    let field = Field::small();
    let some = 2..=6;
    let syncs = syncs_during_a_step(&field, &["./rootfs"]);
    assert!(some.contains(&syncs), "{syncs}");
    assert_eq!(syncs_during_a_step(&field, &["--mode", "discard", "./rootfs"]), 0);
    assert_eq!(syncs_during_a_step(&field, &["--mode", "through", "./rootfs"]), 0);
    let syncs = syncs_during_a_step(&field, &["--mode", "through", "--fsync", "off", "./rootfs"]);
    assert!(some.contains(&syncs), "{syncs}");
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    assert_eq!(syncs_during_a_step(&field, &["--scratch", elsewhere.path().to_str().unwrap(), "./rootfs"]), 0);
    support::assert_code(&field.dropcloth(["begin", "./rootfs", "--name", "long"]).output().unwrap(), 0);
    let syncs = syncs_during_a_step(&field, &["--in", "long"]);
    support::assert_code(&field.dropcloth(["commit", "long"]).output().unwrap(), 0);
    assert!(some.contains(&syncs), "{syncs}");
}

/// Both times are of 1970, so that relatime (mount(8)) would have moved the first one at any look.
#[test]
fn what_dropcloth_reads_keeps_its_access_times() {
    needs_sandbox!();
    let field = Field::small();
    let seen = |path: &str| std::os::unix::fs::MetadataExt::atime(&field.path().join(path).metadata().unwrap());
    let old = "touch -a -d @1000000 new new/file; touch -m -d @1000000 new new/file";
    shell("touch -d @1000000 rootfs/etc rootfs/etc/passwd rootfs/usr rootfs", field.path());
    for options in [&[][..], &["--mode", "through"], &["--backend", "copy"]] {
        let output = field.run(options, &format!("mkdir new; echo a file to be searched > new/file; {old}"));
        support::assert_code(&output, 0);
        for path in ["rootfs/etc", "rootfs/etc/passwd", "rootfs/usr", "rootfs", "rootfs/new", "rootfs/new/file"] {
            // The step itself looks into what it writes to directly.
            if options.first() != Some(&"--mode") || path.contains("new") {
                assert_eq!(seen(path), 1_000_000, "{path} {options:?}");
            }
        }
        shell("rm -r rootfs/new; touch -d @1000000 rootfs", field.path());
    }
}
