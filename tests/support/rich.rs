//! A tree and a step for it that between them have something of everything, and strace(1) for the run.
#![allow(dead_code, reason = "every test program takes in the whole module and uses its part of it")]

use std::path::Path;
use std::process::{Command, Stdio};

/// Something of everything that has a record of its own in the journal, and what makes one record stand on another.
pub const STEP: &str = "set -e; cd /t
    mv d1 d9; echo x >> d9/a; echo n > d9/sub/new; mkdir d1; mv d9/sub d1/sub
    mv d2 swap; mv d3 d2; mv swap d3
    rm -r d4; mkdir d4; mv d5 d4/; echo x > d4/d5/a
    mv d6/mid/in out; rm -r d6; ln -s / d6
    echo x >> l/h1; rm l/h2; ln l/h1 l/h4
    rm file; echo n > new; mkdir -p n/m; echo n > n/m/f; ln n/m/f n/g; mv moved n/
    rm -r d7; echo now a file > d7; rm link; mkdir link; echo n > link/f
    chmod 700 d8; chown 3:4 d8; setfattr -n user.a -v 1 d8; setfattr -n trusted.overlay.mine -v 1 n/m/f
    mkdir w; rm -r d8/old; mkdir d8/old; mv d8/old w/; echo x >> nodump; chmod 711 /t
    chattr -i imm; echo x >> imm; chattr +i imm n/m/f; touch -d '2001-01-01 00:00:00' d8 w l";

/// A second step, that changes in place what the first has written.
pub const AGAIN: &str = "set -e; cd /t; echo again >> d9/a; echo again >> n/m/f2; rm new; mkdir n/o; echo o > n/o/f
    rm -r w; chmod 755 d8; echo again >> l/h1; mv d4 n/; echo n > /top2";

/// And one that fails, with 3.
pub const FAILING: &str = "cd /t; echo bad > d9/a; echo bad > bad; rm -r d8; mv d2 bad2; chmod 0 /; exit 3";

const PREPARE: &str = "mkdir t; cd t
    mkdir -p d1/sub d2/two d3/three d4 d5 d6/mid/in d7 d8/old l l2
    for f in d1/a d1/sub/x d2/two/f d3/three/f d4/gone d5/a d5/b d6/mid/in/f d6/out d7/f d8/old/f d8/f file moved imm nodump l/h1 l/i
    do echo $f > $f; done
    ln l/h1 l/h2; ln l/h1 l2/h3; ln -s d1 link; cd ..; find . -exec touch -h -d 2001-02-03T04:05:06.5 {} +";

pub const OPTIONS: [&str; 4] = ["--cap-add", "LINUX_IMMUTABLE", "--cap-add", "SYS_ADMIN"];

/// The calls that change something, as strace names them.
pub const CALLS: &str = "renameat2,linkat,unlinkat,mkdirat,symlinkat,fsync,syncfs,sync_file_range,utimensat,ioctl,lsetxattr,lremovexattr,\
                     fchmod,fchownat,write,openat";

/// A copy of the small root with the tree in it; `protect` comes when it stands where it stays.
pub fn make(root: &Path) {
    super::copy(&super::small_root(), root);
    ["chattr", "setfattr"].iter().for_each(|tool| super::install(tool, root));
    super::shell(PREPARE, root);
}

/// The flags that cp(1) does not copy.
pub fn protect(root: &Path) {
    super::shell("chattr +d t/nodump; chattr +i t/imm", root);
}

pub fn has_strace() -> bool {
    Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success())
}

/// A command of dropcloth under strace(1). What it starts is not traced.
pub fn traced(run: &Command, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(options).arg("--").arg(run.get_program()).args(run.get_args()).env_clear();
    command.envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(run.get_current_dir().expect("a command of a test has its folder")).stdin(Stdio::null());
    command
}
