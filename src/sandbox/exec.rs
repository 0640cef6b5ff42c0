//! From a command to the step's program: found in the image's PATH, started through the trampoline.

use std::ffi::{CString, OsStr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Access, AtFlags, CWD};

use crate::error::{Fault, Result};
use crate::exit::Exit;
use crate::plan::Plan;
use crate::pypi;
use crate::sys::trampoline::{REPORT_FD, Trampoline};
use crate::sys::{SysError, SysResult};

/// Program, arguments and environment, ready for exec. Made before the fork, from inside the merged root.
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

/// Why a command cannot start, as a shell would say it.
fn not_found(name: &OsStr, path: Option<&str>) -> Fault {
    let fault = Fault::new(format!("the command {} was not found in the image", name.display())).exit(Exit::NotFound);
    match path {
        _ if name.as_bytes().starts_with(b"-") => {
            fault.hint("Options of dropcloth stand before ROOT: `dropcloth run [OPTIONS] ROOT -- CMD`.")
        }
        Some(path) => fault.hint(format!(
            "Install it in the image, or give its full path. The step's PATH is {path}; --env PATH=… changes it."
        )),
        None => fault.hint("Check the path: it is one inside the image."),
    }
}

fn not_executable(name: &OsStr, why: &str) -> Fault {
    Fault::new(format!("{} cannot be executed: {why}", name.display())).exit(Exit::NotExecutable)
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Fault::new("an argument or variable holds a NUL byte").into())
}

impl Program {
    /// Finds the program. A name without a slash is looked for in the PATH of the step's environment; `view` is the port of
    /// the mirror's http view, which is known only now.
    pub fn find(plan: &Plan, view: Option<u16>) -> Result<Program> {
        let name = &plan.command[0].0;
        let path = if name.as_bytes().contains(&b'/') { explicit(name)? } else { search(name, plan)? };
        let arguments = plan.command.iter().map(|a| c_string(a.0.as_bytes())).collect::<Result<_>>()?;
        let variable = |(name, value): &(String, crate::plan::OsStringText)| {
            c_string(&[name.as_bytes(), b"=", value.0.as_bytes()].concat())
        };
        let mut environment = plan.environment.iter().map(variable).collect::<Result<Vec<_>>>()?;
        let known = |name: &str| plan.environment.iter().any(|(n, _)| n == name);
        for (name, value) in view.map(pypi::environment::of_view).into_iter().flatten() {
            if !known(name) {
                environment.push(c_string(format!("{name}={value}").as_bytes())?);
            }
        }
        Ok(Program { path, arguments, environment })
    }

    /// Becomes the program. Runs in the step's process; `report` is descriptor 3. Returns errno when the trampoline itself
    /// could not be started.
    pub fn exec(&self, trampoline: &Trampoline, report: BorrowedFd<'_>) -> i32 {
        trampoline.exec(report, &self.path, &self.arguments, &self.environment)
    }

    /// The program run by the image's /bin/sh, for a text file without `#!`: what execvp(3) does on ENOEXEC.
    pub fn by_shell(&self) -> Program {
        let mut arguments = vec![c"/bin/sh".to_owned(), self.path.clone()];
        arguments.extend(self.arguments.iter().skip(1).cloned());
        Program { path: c"/bin/sh".to_owned(), arguments, environment: self.environment.clone() }
    }

    /// The failure of an exec, in the shell's words.
    pub fn failed(&self, errno: i32) -> Fault {
        let name = OsStr::from_bytes(self.path.to_bytes());
        let error = SysError::new(format!("execve(\"{}\")", name.display()), errno);
        let fault = match errno {
            // The file was found: what is missing is its interpreter or its loader.
            libc::ENOENT => not_executable(name, "its interpreter or dynamic loader is missing in the image").hint(
                "Look at its first line (`head -1`) or at `readelf -l`: the program named there has to be in the image.",
            ),
            libc::ENOEXEC => not_executable(name, "it is no program for this machine").hint(
                "For an image of another architecture, register its emulator on the host with binfmt_misc (flag F).",
            ),
            libc::EACCES => not_executable(name, "permission denied")
                .hint("Set its x bit, or check whether the image's mount is noexec."),
            _ => not_executable(name, "the kernel refused it"),
        };
        Fault { call: Some(("execve".to_owned(), errno)), ..fault.because(error.to_string()) }
    }
}

fn explicit(name: &OsStr) -> Result<CString> {
    match rustix::fs::stat(name) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Err(not_found(name, None).into()),
        Err(errno) => Err(not_executable(name, &SysError::new("stat()", errno.raw_os_error()).to_string()).into()),
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {
            Err(not_executable(name, "it is a directory").into())
        }
        Ok(_) => c_string(name.as_bytes()),
    }
}

fn search(name: &OsStr, plan: &Plan) -> Result<CString> {
    let path = plan.environment.iter().rev().find(|(n, _)| n == "PATH").map(|(_, v)| v.0.clone()).unwrap_or_default();
    let mut denied = false;
    for directory in path.as_bytes().split(|b| *b == b':') {
        let directory = if directory.is_empty() { b".".as_slice() } else { directory };
        let candidate = [directory, b"/", name.as_bytes()].concat();
        let Ok(stat) = rustix::fs::stat(&candidate[..]) else { continue };
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            continue;
        }
        if rustix::fs::accessat(CWD, &candidate[..], Access::EXEC_OK, AtFlags::EACCESS).is_ok() {
            return c_string(&candidate);
        }
        denied = true;
    }
    if denied {
        return Err(not_executable(name, "permission denied").hint("Set its x bit in the image.").into());
    }
    Err(not_found(name, Some(&path.to_string_lossy())).into())
}

/// Puts the report pipe at the descriptor where the trampoline expects it.
pub fn at_report_fd(pipe: OwnedFd) -> SysResult<OwnedFd> {
    crate::sys::process::move_to(pipe, REPORT_FD)
}
