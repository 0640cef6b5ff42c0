//! The `dropcloth` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    dropcloth::sys::memory::make_ready();
    match dropcloth::cli::main() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let fault = dropcloth::error::Fault::from_error(error);
            eprint!("{}", dropcloth::explain::render(&fault));
            ExitCode::from(fault.exit.code())
        }
    }
}
