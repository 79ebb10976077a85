//! The native command `sinkstream`: arguments in, text out. What it does is in the library.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
